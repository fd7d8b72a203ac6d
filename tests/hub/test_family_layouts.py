"""A published checkpoint of each family has the same layout and logits in transformers' class as in the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmada import MMaDA
from mmada.canvas import Message
from mmada.errors import InputError
from mmada.families import FAMILIES, Family
from mmada.hub import networks, weights
from mmada.hub.family import family_of

from ..families.tiny import TEMPLATE, published, tiny
from ..lazy import later

pretrained = later("mmada.hub.pretrained")

SIZES = {"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 8, "max_sequence_length": 64}


def with_weights(family: Family, directory: Path) -> Path:
    """Files as published, and one narrow block over the whole vocabulary."""
    tied = {"tie_word_embeddings": True, "n_kv_heads": 1} if family.name == "illada" else {}
    published(family, directory, **SIZES, **tied)
    generator = torch.Generator().manual_seed(0)
    shapes = networks.shapes(networks.transformer_config(directory))
    weights.write(directory, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    return directory


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_layout_and_logits_are_those_of_the_engine(tmp_path, family):
    directory = with_weights(family, tmp_path / family.hub_names[0].split("/")[1])
    plain, own = networks.load_transformer(directory), pretrained.MMadaModelLM.from_pretrained(directory).eval()
    layout = family_of(directory).layout
    assert plain.config.layout == own.config.layout == layout
    assert own.config.transformer.weight_tying == plain.config.weight_tying == (family.name == "illada")
    tokens = torch.tensor([[1, layout.mask_id, layout.eos_id, 7]])
    with torch.no_grad():
        assert torch.equal(own(tokens).logits, plain(tokens).logits)
        assert own.generate(tokens[:, :1], max_new_tokens=4).shape == (1, 5)
    own.save_pretrained(tmp_path / "saved")
    again = family_of(tmp_path / "saved")
    assert (again.name, again.layout) == (family.name, layout)
    assert pretrained.MMadaModelLM.from_pretrained(tmp_path / "saved").config.layout == layout


def test_a_hub_name_counts_where_files_are_equal(tmp_path):
    """The directory of the hub's cache has a hash for its name."""
    directory = published(FAMILIES["mmada-parallel-m"], tmp_path / "0123abcd", **SIZES)
    layouts = [pretrained.MMaDAConfig.from_pretrained(directory, names=names).layout for names in ([], ["tyfeld/MMaDA-Parallel-M"])]
    assert [layout.interleave_id for layout in layouts] == [None, 126095]


def test_generate_grows_rows_where_the_checkpoint_was_taught_so(saved_illada):
    """By mmada.json, by generation_config.json, or by an argument; answers are those of `MMaDA.chat`."""
    model, engine = pretrained.MMadaModelLM.from_pretrained(saved_illada), MMaDA.from_pretrained(saved_illada, device="cpu")
    assert model.generation_config.variable_length
    prompt = torch.tensor([engine.prompts.dialogue([Message("user", "What is it?")])])
    found = {}
    for grows in (None, True, False):
        named = {} if grows is None else {"variable_length": grows}
        params = engine.planner.text_params(**named)
        wanted = engine.chat("What is it?", params=params, max_new_tokens=16, think=False).token_ids
        found[grows] = model.generate(prompt, max_new_tokens=16, **named)[0, prompt.shape[1] :].tolist()
        assert found[grows] == list(wanted)[: len(found[grows])]
    assert found[None] == found[True] != found[False]
    with pytest.raises(InputError, match="variable_length=True needs a block_length, full_attention=True"):
        model.generate(prompt, full_attention=False, max_new_tokens=16)


def test_another_generation_config_leaves_the_length_to_the_family(tmp_path):
    directory = with_weights(FAMILIES["illada"], tmp_path / "iLLaDA-8B-Base")
    assert pretrained.MMadaModelLM.from_pretrained(directory).generation_config.variable_length
    (directory / "generation_config.json").write_text('{"max_new_tokens": 4}')
    assert pretrained.MMadaModelLM.from_pretrained(directory).generation_config.variable_length
    (directory / "generation_config.json").write_text('{"max_new_tokens": 4, "variable_length": false}')
    assert not pretrained.MMadaModelLM.from_pretrained(directory).generation_config.variable_length


@pytest.fixture(scope="module")
def saved_illada(tmp_path_factory):
    model = tiny(replace(FAMILIES["illada"], tags=("<|im_start|>", "<|im_end|>")), n_kv_heads=2, weight_tying=True)
    model.prompts.tokenizer.template = TEMPLATE
    directory = tmp_path_factory.mktemp("illada")
    model.save_pretrained(directory)
    return directory
