"""A published checkpoint of each family has the same layout and logits in transformers' class as in the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmada.families import FAMILIES, Family
from mmada.hub import networks, weights
from mmada.hub.family import family_of

from ..families.tiny import published
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
