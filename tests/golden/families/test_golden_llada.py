"""LLaDA: logits, every token of the published sampler, both likelihoods."""

from __future__ import annotations

import pytest
import torch

from mmada.canvas import Canvas
from mmada.diffusion.loss import masked_diffusion_loss
from mmada.families.llada import published_llada
from mmada.sampling import Denoising
from mmada.sampling.guidance import classifier_free

from .recorded import Recorded, Replay, fill, row_of

# name: steps and block length where they are not recorded, and what else is not the default
CASES = {
    "one_block": (16, 16, {}),
    "blocks": (16, 8, {}),
    "uneven": (12, 8, {}),
    "cfg": (8, 8, {"guidance_scale": 1.5}),
    "left_padded": (8, 8, {}),
    "eos_inf": (8, 8, {"logits_eos_inf": True}),
    "confidence_eos_eot_inf": (8, 16, {"confidence_eos_eot_inf": True}),
    "confidence_eos_eot_inf_temp": (8, 16, {"confidence_eos_eot_inf": True, "temperature": 0.7}),
    "temp": (8, 8, {"temperature": 0.7}),
    "random": (8, 8, {"random_remasking": True}),
}


@pytest.fixture(scope="module")
def golden(folder):
    return Recorded.load(folder("llada_8b"))


@torch.inference_mode()
def test_logits(golden):
    logits = golden.model(golden["forward.input_ids"]).logits
    torch.testing.assert_close(logits, golden["forward.logits"], atol=1e-4, rtol=0)
    mask = golden["forward_left_padded.attention_mask"].bool()
    logits = golden.model(golden["forward.input_ids"], mask).logits
    torch.testing.assert_close(logits[mask], golden["forward_left_padded.logits"][mask], atol=1e-4, rtol=0)


def test_every_case_is_known(golden):
    assert {f"text.{name}" for name in CASES} == set(golden.cases(".output"))


@pytest.mark.parametrize("name", CASES)
def test_text(golden, name):
    *known, changes = CASES[name]
    steps, block_length = map(int, golden.args(f"text.{name}", known))
    prompt, expected = golden["text.prompt"], golden[f"text.{name}.output"]
    layout = golden.layout(mask="mask", eos="eos", eot="eot")
    start, length = prompt.shape[1], expected.shape[1]
    given = golden.numbers.get(f"text.{name}.attention_mask", torch.ones_like(prompt))
    attend = torch.cat([given, torch.ones(len(prompt), length - start, dtype=given.dtype)], dim=1)
    rows = torch.cat([prompt, torch.full((len(prompt), length - start), layout.mask_id)], dim=1)
    canvases = [row_of(row, torch.arange(start, length), golden.any_ids, attend=seen) for row, seen in zip(rows, attend, strict=True)]
    params = published_llada(layout, steps=steps, block_length=block_length, **changes)

    def place(row):
        return lambda drawn, slots: drawn[row, start + slots.start : start + slots.stop]

    has_order = bool(changes.get("random_remasking"))
    replays = [
        Replay(golden.draws(f"text.{name}"), tokens=place(i) if params.temperature else None, order=place(i) if has_order else None)
        for i in range(len(rows))
    ]
    blank = [Canvas(torch.full_like(c.tokens, layout.mask_id), c.attend, c.fields) for c in canvases]
    denoising = Denoising(canvases, params, mask_id=layout.mask_id, negatives=blank if params.is_guided else None, draws=replays)
    fill(golden.model, denoising)
    assert torch.stack([denoising.canvas(i).tokens for i in range(len(rows))]).tolist() == expected.tolist()
    assert {replay.num_used for replay in replays} == {len(golden.draws(f"text.{name}"))}


@pytest.mark.parametrize(("name", "scale"), [("likelihood", 0.0), ("likelihood_cfg", 0.5)])
@torch.inference_mode()
def test_likelihood(golden, name, scale):
    prompt, answer = golden["likelihood.prompt"], golden["likelihood.answer"]
    x0, mask_id = torch.cat([prompt, answer]), golden.ids["mask"]
    found = []
    for noisy, p_mask in zip(golden[f"{name}.noisy"], golden[f"{name}.p_mask"], strict=True):
        blank = noisy.clone()
        blank[:, : len(prompt)] = mask_id
        logits = golden.model(noisy).logits
        if scale:
            logits = classifier_free(logits, [golden.model(blank).logits], [scale])
        found.append(masked_diffusion_loss(logits, x0.expand_as(noisy), noisy == mask_id, 1 / p_mask, len(noisy)))
    assert -float(torch.stack(found).mean()) == pytest.approx(float(golden[f"{name}.value"]), abs=1e-4, rel=1e-5)
