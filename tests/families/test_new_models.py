"""`model.family`: a new model of any family by one setting, and a start that is of another family."""

from __future__ import annotations

import math

import pytest
from accelerate.state import AcceleratorState

from mmada.errors import CheckpointError, InputError
from mmada.families import FAMILIES, named
from mmada.image import VQVAE
from mmada.pipeline import MMaDA
from mmada.train.config import load
from mmada.train.export import load_parts
from mmada.train.setup import run

from .test_training import QUIET, config, losses, written
from .tiny import TEMPLATED, published

NEW = {"preset": "debug", "num_merges": 0, "max_sequence_length": 512}


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TEMPLATED])
def test_a_new_model_is_of_its_family(saved, data, tmp_path, name):
    family, said = named(name), []
    draws = "draw" in family.abilities
    images = {"image_tokenizer": str(saved(name) / "image_tokenizer")} if draws else {}
    file = data / ("pictures.jsonl" if draws else "words.jsonl")
    run(config(tmp_path, "", file, model={**NEW, **images, "family": name}), on_begin=said.append)
    assert said == [f"a model of {family.title} learns {'look, draw' if draws else 'text'}"]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(tmp_path / "run", "loss/draw" if draws else "loss/text"))
    made = MMaDA.from_pretrained(tmp_path / "run" / "model", device="cpu")
    assert (made.family.name, type(made.prompts)) == (name, family.prompts)
    assert made.layout.special_ids.keys() == family.layout.special_ids.keys()
    strings = {made.prompts.tokenizer.id_to_token(i): special for special, i in made.layout.special_ids.items()}
    assert {string: special for special, string in family.strings.items()}.items() <= strings.items()


def test_debug_brings_the_image_tokenizer_of_the_family(data, tmp_path):
    for name, kind in (("lumina-dimoo", VQVAE), ("mmada", None)):
        model = {"family": name}
        settings = config(tmp_path, "", data / "words.jsonl", model=model, debug=True, out=str(tmp_path / name))
        parts = load_parts(settings, None)
        assert (parts.family.name, type(parts.images) is VQVAE) == (name, kind is VQVAE)
        assert parts.images.codebook_size == parts.prompts.layout.codebook_size == 64


def test_what_cannot_be_begun_is_one_sentence(saved, data, tmp_path):
    def parts_of(start, **model):
        return load_parts(config(tmp_path, start, data / "words.jsonl", model={"start": str(start), **model}), None)

    with pytest.raises(
        InputError, match=r"^a new model of iLLaDA would have no chat template, which its published files bring; start from"
    ):
        parts_of("", **NEW, family="illada")
    with pytest.raises(InputError, match=r"^model.family='lumina' is unknown: did you mean 'lumina-dimoo'\?"):
        parts_of("", family="lumina")
    with pytest.raises(
        CheckpointError, match=r"^model.family='lumina-dimoo' and model.start='.*is a checkpoint of LLaDA \(llada\), and family="
    ):
        parts_of(saved("llada"), family="lumina-dimoo")
    assert parts_of(saved("llada"), family="llada").family.name == "llada"
    files = published(named("lumina-dimoo"), tmp_path / "published")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of LLaDA: .* Its files read as Lumina-DiMOO, and family='llada' was asked for"
    ):
        parts_of(files, family="llada")


def test_reinforcement_learning_says_the_same():
    from mmada.rl.config import RLConfig
    from mmada.train.values import fill

    with pytest.raises(InputError, match=r"model.family='lumina' is unknown"):
        fill(RLConfig(out="x"), {"model": {"family": "lumina"}})


def test_the_family_is_in_the_configuration(tmp_path):
    file = written(tmp_path / "run.yaml", {"stage": "finetune", "data": {"path": "my.jsonl"}, "out": "x", "loop": QUIET})
    made = load(file, ["model.family=lumina-dimoo", "model.start="]).model
    assert (made.family, made.start) == ("lumina-dimoo", "")
