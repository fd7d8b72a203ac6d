"""ML-Cache of Lumina-DiMOO: which positions each pass evaluates, the rows before full passes, and every code."""

from __future__ import annotations

import pytest
import torch

from mmada.families.lumina_dimoo import LuminaPrompts, published_lumina_image
from mmada.model import TransformerDenoiser
from mmada.sampling import Denoising, MaxLogitCacheConfig

from .recorded import Pieces, Recorded, image_grids, small_layout, typed

CASES = ["t2i_cache", "t2i_cache_high"]


@pytest.fixture(scope="module")
def golden(folder):
    return Recorded.load(folder("lumina_dimoo"))


def test_every_case_is_known(golden):
    assert set(golden.cases(".cache_args")) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_recorded_drawings(golden, name):
    layout = small_layout(golden)
    (grid,) = image_grids(golden["t2i.input_ids"][0].tolist(), layout)
    prompts, empty = LuminaPrompts(layout, Pieces.of_prompt(golden)), torch.zeros(*grid, dtype=torch.long)
    canvas, negative = (prompts.draw(text, empty) for text in ("text", ""))
    steps, temperature, scale = golden.args(name)
    cache_ratio, warmup_ratio, refresh_interval = typed(golden[f"{name}.cache_args"])
    cache = MaxLogitCacheConfig(cache_ratio=cache_ratio, warmup_ratio=warmup_ratio, refresh_interval=int(refresh_interval))
    params = published_lumina_image(steps=int(steps), temperature=temperature, guidance_scale=scale).with_(cache=cache)
    drawing = Denoising([canvas], params, mask_id=layout.mask_id, negatives=[negative] if params.is_guided else None)

    denoiser, computed, full = TransformerDenoiser(golden.model), [], []
    while not drawing.done:
        expected, query = drawing.num_evaluated, drawing.inputs()
        sizes = [
            len(chosen) if chosen is not None else stop - start for (start, stop), chosen in zip(query.spans, query.selections, strict=True)
        ]
        before = denoiser.num_tokens
        (logits,) = denoiser([query])
        assert denoiser.num_tokens - before == sum(sizes) == expected
        computed += sizes
        if query.selections[0] is None:
            full.append(query.tokens[0].tolist())
        drawing.advance(logits)
    assert computed == golden[f"{name}.rows_computed"].tolist()
    assert full == golden[f"{name}.trace"].tolist()
    tokens = drawing.token_ids(0)
    assert tokens.tolist() == golden[f"{name}.image_ids"][0].tolist()
