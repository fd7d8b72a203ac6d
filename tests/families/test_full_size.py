"""The 8B shape of every family, without weights: names and shapes as published, and what it takes in memory, as docs/families.md says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mmada.families import FAMILIES
from mmada.hub import networks

from .tiny import published

MANIFEST = Path(__file__).parents[1] / "golden_data" / "manifest_mmada_8b.json"
PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
PARAMETERS = {"mmada": 8.08, "mmada-parallel-m": 8.08, "llada": 8.02, "lumina-dimoo": 8.08, "mmada-parallel-a": 8.08, "illada": 7.62}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_full_size(tmp_path, family):
    directory = published(family, tmp_path / family.hub_names[0].split("/")[1])
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
    assert round(sum(map(math.prod, shapes.values())) / 1e9, 2) == PARAMETERS[family.name]
    sizes = [2 * sum(map(math.prod, shapes.values()))]
    for quantization in ("int8", "int4"):
        packed = networks.shapes(config, quantization=quantization)
        sizes.append(sum(math.prod(shape) * (1 if name.endswith(".codes") else 2) for name, shape in packed.items()))
    row = next(line for line in PAGE.splitlines() if f"`{family.name}`" in line and "GB" in line)
    assert row.endswith(" B | " + " | ".join(f"{size / 1e9:.1f} GB" for size in sizes) + " |")
