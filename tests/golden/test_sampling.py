"""Every token sequence and every image code of the published samplers, exactly."""

from __future__ import annotations

import pytest
import torch

from mmada.canvas import Canvas
from mmada.diffusion.schedule import SCHEDULES
from mmada.diffusion.transfer import even
from mmada.sampling import Denoising, denoise, published_image, published_text

# name: (prompt, steps, block length, guidance)
TEXT = {
    "text.one_block": ("text.prompt", 16, 16, 0.0),
    "text.semi_ar": ("text.prompt", 16, 8, 0.0),
    "text.uneven": ("text.prompt", 12, 8, 0.0),
    "text.cfg": ("text.prompt", 16, 8, 1.5),
    "text.left_padded": ("text.prompt", 8, 8, 0.0),
    "mmu": ("mmu.prompt", 8, 8, 0.0),
}


@pytest.mark.parametrize("name", TEXT)
def test_text(golden, name):
    prompt_name, steps, block_length, guidance = TEXT[name]
    prompt, expected = golden[prompt_name], golden[f"{name}.output"]
    attend = golden.numbers.get(f"{name}.attention_mask")
    num_new = expected.shape[1] - prompt.shape[1]
    canvases = []
    for row in range(len(prompt)):
        tokens = torch.cat([prompt[row], torch.full((num_new,), golden.mask_id)])
        is_open = torch.arange(len(tokens)) >= prompt.shape[1]
        canvases.append(golden.canvas(tokens, None if attend is None else attend[row], is_open, golden.any_ids))
    # The published unconditional row masks the whole prompt.
    negatives = [Canvas(torch.full_like(c.tokens, golden.mask_id), c.attend, c.fields) for c in canvases] if guidance else None
    params = published_text(steps=steps, block_length=block_length, guidance_scale=guidance)
    denoising = Denoising(canvases, params, mask_id=golden.mask_id, negatives=negatives)
    for _ in denoise([denoising], golden.denoiser):
        pass
    assert torch.stack([denoising.canvas(r).tokens for r in range(len(prompt))]).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["no_cfg", "cfg", "cfg_12_steps"])
def test_image(golden, name):
    guidance, steps = float(golden[f"t2i.{name}.guidance"]), int(golden[f"t2i.{name}.steps"])
    is_open = golden["t2i.input_ids"] == golden.mask_id
    canvases, negatives = (
        [
            golden.canvas(tokens, attend, opened, golden.image_ids)
            for tokens, attend, opened in zip(golden[f"t2i.{kind}input_ids"], golden[f"t2i.{kind}attention_mask"], is_open, strict=True)
        ]
        for kind in ("", "uncond_")
    )
    params = published_image(steps=steps, guidance_scale=guidance, temperature=0, choice_temperature=0)
    denoising = Denoising(canvases, params, mask_id=golden.mask_id, negatives=negatives if guidance else None)
    for _ in denoise([denoising], golden.denoiser):
        pass
    codes = torch.stack([denoising.token_ids(r) for r in range(len(canvases))]) - golden.image_ids.start
    assert codes.tolist() == golden[f"t2i.{name}.codes"].tolist()
    assert denoising.num_forwards == [steps] * len(canvases)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(golden, name):
    torch.testing.assert_close(SCHEDULES[name].mask_ratio(golden["schedule.t"]), golden[f"schedule.{name}"], atol=1e-5, rtol=0)


def test_tokens_revealed_at_each_step(golden):
    names = [name for name in golden.numbers if name.startswith("transfer.steps_")]
    assert names
    for name in names:
        steps = int(name.rsplit("_", 1)[1])
        assert even(golden["transfer.mask_index"].sum(1), steps).tolist() == golden[name].tolist()
