"""Dream: logits, and the published sampler's row after each step, recorded by running it on random weights in transformers' Qwen2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mmada.canvas import Canvas, Field, IdRange
from mmada.families import named
from mmada.families.dream import published_dream
from mmada.model import Transformer, TransformerConfig, TransformerDenoiser
from mmada.sampling import Denoising

from .recorded import GOLDEN

FOLDER = GOLDEN / "dream_7b"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the directory in MMADA_FAMILIES_GOLDEN has no dream_7b")
VALUES = json.loads((FOLDER / "config.json").read_text()) if FOLDER.exists() else {"golden_cases": {}}
MASK = VALUES.get("mask_token_id", 0)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Read from its files, whose tensors have the published names, as the family has them."""
    made = Transformer(replace(TransformerConfig.from_dict(VALUES), **named("dream").config))
    made.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return made.eval()


def shifted(logits: torch.Tensor) -> torch.Tensor:
    """As the published sampler moves them."""
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def test_logits(model, golden):
    with torch.no_grad():
        assert (model(golden["tokens"].long()).logits - shifted(golden["logits"])).abs().max() < 1e-4
        attend = golden["attend"].bool()
        ours, theirs = model(golden["tokens"].long(), attend).logits, shifted(golden["padded_logits"])
        is_asked = attend & attend.roll(1, 1)  # what follows a token that is seen
        is_asked[:, 0] = False
        assert (ours - theirs)[is_asked].abs().max() < 1e-4


class Recorded:
    """Uniform numbers for the order, step after step, by position."""

    def __init__(self, draws: torch.Tensor, first: int) -> None:
        self.draws: Iterator[torch.Tensor] = iter(draws)
        self.first = first

    def numbers(self, slots: range, num_ids: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(slots)), next(self.draws)[self.first + slots.start : self.first + slots.stop]

    def integers(self, count: int, below: int) -> torch.Tensor:
        raise AssertionError


@pytest.mark.parametrize("name", VALUES["golden_cases"])
def test_sampler(model, golden, name):
    settings, trace = VALUES["golden_cases"][name], golden[f"{name}.trace"].long()
    pad, num_new = settings["pad"], settings["new"]
    first = trace.shape[1] - num_new
    attend = torch.arange(trace.shape[1]) >= pad
    field = Field(torch.arange(first, trace.shape[1]), IdRange(0, VALUES["vocab_size"]), num_new)
    params = published_dream(**{key: settings[key] for key in ("steps", "eps", "alg", "top_p", "top_k")})
    draws = [Recorded(golden[f"{name}.draws"], first)] if f"{name}.draws" in golden else None
    denoising = Denoising([Canvas(trace[0], attend, (field,))], params, mask_id=MASK, draws=draws)
    denoiser, rows = TransformerDenoiser(model), [trace[0].tolist()]
    while not denoising.done:
        denoising.advance(denoiser([denoising.inputs()])[0])
        rows.append(denoising.canvas(0).tokens.tolist())
    assert rows == trace.tolist()[: len(rows)]
    # Where nothing is open any more, theirs goes on to the end of its steps, and nothing changes.
    assert {str(row) for row in trace.tolist()[len(rows) :]} <= {str(rows[-1])}
    assert MASK not in rows[-1] or len(rows) == settings["steps"] + 1
