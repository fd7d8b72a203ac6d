"""The 8B shape of every family, without weights: names and shapes as published, and what it takes in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmada.families import FAMILIES
from mmada.hub import networks

from .tiny import published

MANIFEST = Path(__file__).parents[1] / "golden_data" / "manifest_mmada_8b.json"
SIZES = {
    "illada": {"n_kv_heads": 8, "mlp_hidden_size": 14336, "weight_tying": True, "max_sequence_length": 8192},
}
PARAMETERS = {"mmada": 8.08, "mmada-parallel-m": 8.08, "llada": 8.02, "lumina-dimoo": 8.08, "mmada-parallel-a": 8.08, "illada": 7.62}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_full_size(tmp_path, family):
    directory = published(family, tmp_path / family.hub_names[0].split("/")[1], **SIZES.get(family.name, {}))
    config = networks.transformer_config(directory)
    assert config.layout.image_offset == family.layout.image_offset
    shapes = networks.shapes(config)
    manifest = {name: tuple(shape) for name, shape in json.loads(MANIFEST.read_text()).items()}
    tied = {"model.transformer.ff_out.weight"} if config.weight_tying else set()
    assert set(shapes) == set(manifest) - tied
    rows = {name for name in shapes if name.endswith((".wte.weight", "transformer.ff_out.weight"))}
    assert {shapes[name] for name in rows} == {(family.layout.vocab_size, 4096)}
    if not family.name.startswith("illada"):
        assert {name: shape for name, shape in shapes.items() if name not in rows} == {n: s for n, s in manifest.items() if n not in rows}
    total = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes.values())
    assert round(total / 1e9, 2) == PARAMETERS[family.name]
