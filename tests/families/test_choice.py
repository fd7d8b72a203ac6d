"""A checkpoint's family is told by class name and vocabulary, which must agree; nothing else in the package asks for it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mmada.errors import CheckpointError, InputError
from mmada.families import FAMILIES, Facts, choose, named
from mmada.hub import networks
from mmada.hub.family import family_of
from mmada.image import VQVAEConfig

from ..lazy import later
from .tiny import published

configs = later("mmada.hub.configs")

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"vq_embed_dim": None}, None),
        ({"num_vq_embeddings": 4096}, "num_vq_embeddings is 4096, not 8192"),
        ({"block_out_channels": [128, 256, 256, 512]}, r"block_out_channels is \(128, 256, 256, 512\), not \(128, 256, 256, 512, 768\)"),
        ({"latent_channels": 4, "layers_per_block": 1}, "layers_per_block is 1, not 2; latent_channels is 4, not 64; use the image"),
        ({"norm_num_groups": 16}, "norm_num_groups is 16, not 32"),
        ({"vq_embed_dim": 32}, "vq_embed_dim is 32, not 64"),
    ],
)
def test_an_image_tokenizer_of_other_sizes_is_refused(tmp_path, changes, message):
    directory = published(named("lumina-dimoo"), tmp_path / "x")
    (directory / "vqvae").mkdir()
    (directory / "vqvae" / "config.json").write_text(json.dumps({**VQVAEConfig().to_dict(), **changes}))
    if message is None:
        assert family_of(directory).name == "lumina-dimoo"
    else:
        with pytest.raises(CheckpointError, match=message):
            family_of(directory)


CONSTANTS = {"rope_theta": 1e4, "rms_norm_eps": 1e-6}
SIZED = [name for name, family in FAMILIES.items() if family.constants]


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize(("key", "value"), CONSTANTS.items())
def test_what_tensors_do_not_show_is_compared(tmp_path, name, key, value):
    """A base of rotary positions or an epsilon that is not the published one; a family whose own is not known must be told."""
    family, directory = named(name), tmp_path / named(name).hub_names[0].split("/")[1]
    expected = family.constants[key]
    published(family, directory, **{key: value if expected is not None else None})
    reason = f"{key} is {value!r}, not {expected!r}; copy" if expected is not None else f"{key} is not said"
    for load in (family_of, networks.transformer_config, lambda path: family_of(path, family=name)):
        with pytest.raises(CheckpointError, match=f'config.json is not that of {family.title}: {reason}.*"family": "{name}" to it'):
            load(directory)
    published(family, directory, family=name, **{key: value})  # somebody trained it so, and says it
    assert getattr(networks.transformer_config(directory), key) == value


@pytest.mark.parametrize("name", SIZED)
def test_sizes_are_compared_unless_the_model_is_of_another(tmp_path, name):
    family, directory = named(name), tmp_path / named(name).hub_names[0].split("/")[1]
    for key, value in family.sizes.items():
        published(family, directory, **{key: 2 * value})
        with pytest.raises(
            CheckpointError, match=f"{key} is {2 * value}, not {value}; .*give family='{name}' if the model is of another size"
        ):
            family_of(directory)
        assert family_of(directory, family=name).name == name
    published(family, directory, tie_word_embeddings=not family.constants.get("tie_word_embeddings", True), weight_tying=True)
    with pytest.raises(CheckpointError, match=r"(weight_tying is True, not False|tie_word_embeddings is False, not True)"):
        family_of(directory)
    other = {key: value // 4 for key, value in family.sizes.items()}
    found = networks.transformer_config(published(family, directory, **other))
    assert {key: getattr(found, key) for key in other} == other


def test_what_config_json_does_not_say_is_the_family_s(tmp_path):
    """Also under the names of transformers, and in its class, where what a call gives stands over it."""
    found = networks.transformer_config(published(named("illada"), tmp_path / "illada"))
    assert (found.n_kv_heads, found.mlp_hidden_size, found.weight_tying, found.max_sequence_length) == (8, 14336, True, 8192)
    longer = published(named("illada"), tmp_path / "longer", max_position_embeddings=12000, num_key_value_heads=8)
    assert networks.transformer_config(longer).max_sequence_length == 12000
    with pytest.raises(CheckpointError, match="n_kv_heads is 32, not 8"):
        family_of(published(named("illada"), tmp_path / "other", num_key_value_heads=32))
    own = configs.MMaDAConfig.from_pretrained(tmp_path / "illada")
    assert own.transformer == replace(found, extra=own.transformer.extra)
    own = configs.MMaDAConfig.from_pretrained(tmp_path / "illada", max_position_embeddings=100, rope_theta=7.0)
    assert (own.max_sequence_length, own.rope_theta, own.n_kv_heads) == (100, 7.0, 8)


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
