"""SDAR: logits, and the published sampler's row after each step, recorded by running it on random weights in transformers' Qwen3."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mmada.canvas import BlockMask, Canvas, Field, IdRange, causal_block_ids
from mmada.families import named
from mmada.families.sdar import published_sdar
from mmada.model import Packing, Transformer, TransformerConfig, TransformerDenoiser
from mmada.sampling import CacheConfig, Denoising

from .recorded import GOLDEN

FOLDER = GOLDEN / "sdar"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the directory in MMADA_FAMILIES_GOLDEN has no sdar")
VALUES = json.loads((FOLDER / "config.json").read_text()) if FOLDER.exists() else {"golden_cases": {}}
MASK = VALUES.get("mask_token_id", 0)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def model() -> Transformer:
    """With heads that are not as wide as they are many."""
    made = Transformer(replace(TransformerConfig.from_dict(VALUES), **named("sdar").config))
    made.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return made.eval()


def test_logits_of_rows_in_blocks(model, golden):
    tokens, size = golden["tokens"].long(), VALUES["block_size"]
    rows, length = tokens.shape
    ids = causal_block_ids(5, length - 5, size, prompt_in_blocks=True)
    pairs = (ids[None, :] <= ids[:, None]).expand(rows, length, length)
    packing = Packing.of([length] * rows, [BlockMask(ids)] * rows)
    with torch.no_grad():
        assert (model(tokens, pairs).logits - golden["logits"]).abs().max() < 1e-4
        assert (model(tokens.reshape(1, -1), packing).logits.view(rows, length, -1) - golden["logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("cache", [None, CacheConfig()], ids=["plain", "cached"])
@pytest.mark.parametrize("name", VALUES["golden_cases"])
def test_sampler(model, golden, name, cache):
    settings, trace = VALUES["golden_cases"][name], golden[f"{name}.trace"].long()
    num_given, length = settings["prompt"], trace.shape[1]
    field = Field(torch.arange(num_given, length), IdRange(0, VALUES["vocab_size"], (MASK,)), length - num_given)
    names = ("block_length", "threshold", "top_k", "temperature")
    params = published_sdar(**{key: settings[key] for key in names if key in settings}, cache=cache)
    # Recorded with the likeliest token in the place of the drawn one; confidences are those after temperature and top-k.
    params = params.with_(token_noise=lambda logits, uniform, temperature: logits)
    denoising = Denoising([Canvas(trace[0], torch.ones(length, dtype=torch.bool), (field,))], params, mask_id=MASK)
    denoiser, rows = TransformerDenoiser(model), [trace[0].tolist()]
    while not denoising.done:
        query = denoising.inputs()
        assert query.num_evaluated == denoising.num_tokens(0)
        denoising.advance(denoiser([query])[0])
        rows.append(denoising.canvas(0).tokens.tolist())
    assert rows == trace.tolist()
    if cache is not None:
        whole = sum(-(-max(i for i, token in enumerate(row) if token != MASK) // settings["block_length"]) for row in rows)
        assert denoiser.num_tokens < whole * settings["block_length"]
