"""`mmada data` and `mmada tokenize` for a checkpoint of any family: its prompts, the size of its codes, and what it cannot learn."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from mmada.cli import data as commands
from mmada.cli.tokenize import tokenize
from mmada.errors import InputError
from mmada.families import named
from mmada.hub import networks
from mmada.train.setup import build_task

from .test_training import config


@pytest.mark.parametrize("name", ["llada", "mmada", "lumina-dimoo"])
def test_sizes_and_prompts_come_from_the_checkpoint(saved, name):
    found = commands.load_tokenizers(str(saved(name)))
    family = named(name)
    factor = {"magvit-v2": 2, "vqvae": 2}.get(family.image_tokenizer, 0)
    assert (found.family.name, type(found.prompts)) == (name, family.prompts)
    assert found.grid == ((16 // factor, 16 // factor) if factor else (0, 0))


def test_an_image_tokenizer_that_is_not_here_is_of_the_published_size(saved):
    assert networks.image_factor("Alpha-VLLM/Lumina-DiMOO", named("lumina-dimoo")) == 16
    assert networks.image_factor("showlab/magvitv2", named("mmada")) == 16
    assert networks.image_factor(saved("lumina-dimoo") / "image_tokenizer", named("lumina-dimoo")) == 2


def checked(*arguments: str) -> dict:
    result = CliRunner().invoke(commands.app, ["check", *arguments, "--json"])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.output)


def test_what_a_family_cannot_learn_is_a_problem_of_the_record(saved, data):
    for more in ([], ["--prompts"]):
        found = checked(str(data / "pictures.jsonl"), "--model", str(saved("llada")), *more)
        assert found["counts"] == {"not learned": 8}
        assert re.search(r"LLaDA cannot draw \(MMaDA, .* can\)[;:] .*the record would be left out", str(found["problems"]))
    whole = checked(str(data / "pictures.jsonl"), "--model", str(saved("lumina-dimoo")))
    assert whole["counts"] == {}
    # Sentence, words and frame are given, with a newline behind each of eight rows of eight codes.
    assert whole["lengths"]["image"]["most"] == 64
    with pytest.raises(InputError, match=r"^LLaDA cannot look at images; "):
        commands.load_image_tokenizer(
            str(saved("llada")), commands.load_tokenizers(str(saved("llada"))), image_tokenizer=None, device="cpu"
        )


@pytest.mark.parametrize("name", ["llada", "illada", "lumina-dimoo"])
def test_rows_are_shown_in_the_prompts_of_the_family(saved, data, name):
    found = checked(str(data / "words.jsonl"), "--model", str(saved(name)), "--previews", "1")
    (preview,) = found["previews"]
    learned = [words for kind, words in preview["parts"] if kind == "masked"]
    assert (found["counts"], len(learned)) == ({}, 1)
    assert learned[0].startswith("red [eos]")
    assert preview["parts"][0][1].startswith(
        {"lumina-dimoo": "<system>", "llada": "[bos] [start_header] user"}.get(name, "<|im_start|>user")
    )


def test_tokenized_records_are_trained_on(saved, data, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(tokenize)
    start, codes = saved("lumina-dimoo"), tmp_path / "codes"
    result = CliRunner().invoke(app, [str(data / "pictures.jsonl"), str(codes), "--model", str(start), "--size", "8x12", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    jobs = [build_task(config(tmp_path, start, path)) for path in (data / "pictures.jsonl", codes)]
    for name in ("draw", "look"):
        one, other = (job.plan.sources[name].rows(range(4)) for job in jobs)
        assert [row.canvas.tokens.tolist() for row in one] == [row.canvas.tokens.tolist() for row in other]
