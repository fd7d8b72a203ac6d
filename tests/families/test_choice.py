"""A checkpoint's family is told by class name and vocabulary, which must agree; nothing else in the package asks for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmada.errors import CheckpointError, InputError
from mmada.families import FAMILIES, Facts, choose, named
from mmada.hub.family import family_of

from .tiny import published

PACKAGE = Path(__file__).parents[2] / "mmada"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_published_files_are_told_apart(tmp_path, family):
    directory = published(family, tmp_path / family.hub_names[0].split("/")[1])
    found = family_of(directory)
    assert found.name == family.name
    assert found.layout.image_offset == family.layout.image_offset
    # The hub name does, too, whatever the directory of the cache is called.
    assert family_of(published(family, tmp_path / "0123abcd"), names=[family.hub_names[0]]).name == family.name
    assert family_of(published(family, tmp_path / "given"), family=family.name).name == family.name


def test_a_class_with_the_vocabulary_of_another_family_is_refused_with_both_readings(tmp_path):
    directory = published(named("llada"), tmp_path / "x", architectures=["MMadaModelLM"])
    with pytest.raises(
        CheckpointError, match=r"its class 'MMadaModelLM' reads as MMaDA.*, its vocabulary as LLaDA; as MMaDA, the embedding has 126464"
    ):
        family_of(directory)


def test_a_vocabulary_of_no_family_is_refused():
    with pytest.raises(
        CheckpointError,
        match="reads as LLaDA or iLLaDA, its vocabulary as none that is known; as LLaDA, the embedding has 999 rows, not 126464",
    ):
        choose(Facts(class_name="LLaDAModelLM", rows=999))


def test_an_unknown_class_is_refused():
    with pytest.raises(CheckpointError, match="its class 'GPT' reads as none that is known, its vocabulary as LLaDA"):
        choose(Facts(class_name="GPT", rows=126464))


@pytest.mark.parametrize("string", ["<|endoftext|>", "<|mdm_mask|>"])
def test_a_token_at_another_id_is_refused(tmp_path, string):
    directory = published(named("llada"), tmp_path / "x")
    values = json.loads((directory / "tokenizer.json").read_text())
    for token in values["added_tokens"]:
        token["id"] += token["content"] == string
    (directory / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=re.escape(f"{string} is 1")):
        family_of(directory)
    with pytest.raises(CheckpointError, match="this is no checkpoint of LLaDA: "):
        family_of(directory, family="llada")


def test_files_that_two_families_share_are_read_as_asked(tmp_path):
    for name, other in (("mmada", "mmada-parallel-m"), ("lumina-dimoo", "mmada-parallel-a")):
        files = published(named(name), tmp_path / name)
        assert (family_of(files).name, family_of(files, family=other).name) == (name, other)


def test_a_family_that_is_unknown_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"family='lada' is unknown: did you mean 'llada'\?"):
        family_of(published(named("llada"), tmp_path / "x"), family="lada")


def test_what_a_family_cannot_do_says_who_can():
    with pytest.raises(InputError, match=r"^LLaDA cannot draw; MMaDA"):
        named("llada").require("draw", list(FAMILIES.values()))
    for family in FAMILIES.values():
        for ability in family.abilities:
            family.require(ability, [])


def test_no_family_is_asked_for_outside_its_room():
    asking = re.compile(r"famil\w*(\.name)?\s*(==|!=|in \()|isinstance\([^)]*Family\)|\bMODEL_FAMIL")
    names = re.compile("|".join(f'"{name}"' for name in FAMILIES if name != "mmada"))
    for file in PACKAGE.rglob("*.py"):
        if "families" not in file.parts:
            text = file.read_text()
            assert not asking.search(text), file
            assert not names.search(text), file


def test_an_image_tokenizer_with_other_codes_is_refused(tmp_path):
    directory = published(named("lumina-dimoo"), tmp_path / "x")
    (directory / "vqvae").mkdir()
    for codes, levels, message in ((8192, 5, None), (4096, 5, "num_vq_embeddings is 4096, not 8192"), (8192, 4, "has 4 levels, not 5")):
        values = {"num_vq_embeddings": codes, "block_out_channels": [128] * levels}
        (directory / "vqvae" / "config.json").write_text(json.dumps(values))
        if message is None:
            assert family_of(directory).name == "lumina-dimoo"
        else:
            with pytest.raises(CheckpointError, match=message):
                family_of(directory)


def test_a_tag_that_is_no_token_and_another_offset_are_refused(tmp_path):
    directory = published(named("mmada-parallel-a"), tmp_path / "MMaDA-Parallel-A", text_vocab_size=126464)
    with pytest.raises(CheckpointError, match="text_vocab_size is 126464, not 126356"):
        family_of(directory)
    directory = published(named("lumina-dimoo"), tmp_path / "y")
    text = (directory / "tokenizer.json").read_text()
    (directory / "tokenizer.json").write_text(text.replace("</user>", "</u>"))
    with pytest.raises(CheckpointError, match="</user> is no token"):
        family_of(directory)


def test_rows_that_pad_an_embedding_change_no_offset(tmp_path):
    rows = 134656  # as MMaDA has them: the class decides
    found = family_of(published(named("lumina-dimoo"), tmp_path / "x", vocab_size=rows, embedding_size=rows))
    assert (found.name, found.layout.vocab_size, found.layout.image_offset) == ("lumina-dimoo", rows, 126356)
