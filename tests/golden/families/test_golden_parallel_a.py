"""MMaDA-Parallel-A: logits, losses, prompts, every token and code of the published sampler and the rows before each of its passes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mmada.diffusion.loss import masked_diffusion_loss
from mmada.families.mmada_parallel_a import MMADA_PARALLEL_A, ParallelAPrompts, published_parallel_a
from mmada.sampling.joint import JointDenoising
from mmada.sampling.params import TransferState, linear_target

from .recorded import GOLDEN, Pieces, Recorded, Replay, changes, fill_jointly, image_grids, padded_logits, pieces_of, small_layout

CASES = ["greedy", "greedy_both_cfg", "greedy_fast", "greedy_img_cfg", "greedy_paint", "noise", "noise_both"]
LAYOUTS = ["parallel", "parallel_outpaint"]


@pytest.fixture(scope="module")
def golden(folder):
    return Recorded.load(folder("mmada_parallel_a"))


@pytest.fixture(scope="module")
def layout(golden):
    return small_layout(golden)


@pytest.fixture(scope="module")
def prompts(golden, layout):
    return ParallelAPrompts(layout, Pieces.of_prompt(golden))


@torch.inference_mode()
def test_logits_of_padded_rows(golden):
    rows = [golden["forward.row0"], golden["forward.row1"]]
    torch.testing.assert_close(padded_logits(golden.model, rows), golden["forward.logits_batch"], atol=1e-4, rtol=0)
    torch.testing.assert_close(golden.model(rows[1][None]).logits, golden["forward.logits_row1_alone"], atol=1e-4, rtol=0)


def test_tokens_revealed_at_each_step(golden):
    names = [name for name in golden.numbers if name.startswith("transfer.")]
    assert names
    for name in names:
        total, steps = (int(part) for part in name.split(".")[1:])
        left, found = torch.tensor([total]), []
        for step in range(steps):
            count = TransferState(left, torch.tensor([total]), torch.tensor([total]), torch.tensor([step]), torch.tensor([steps]))
            found.append(int(linear_target(count)))
            left = left - found[-1]
        assert found == golden[name][0].tolist()


def test_every_case_is_known(golden):
    assert {*CASES, "prompt"} == set(golden.cases(".text_ids"))


@pytest.mark.parametrize("name", CASES)
def test_sampler(golden, layout, prompts, name):
    image_start, text_start, text_end = golden["parallel.starts"].tolist()
    of_source, grid = image_grids(golden["parallel.input_ids"][0].tolist(), layout)
    source, codes, is_open = golden["prompt.image_codes"].view(*of_source), torch.zeros(*grid, dtype=torch.long), torch.ones(*grid).bool()
    if f"{name}.input_ids" in golden.numbers:
        given = golden[f"{name}.input_ids"][0, image_start : text_start - 1].view(grid[0], -1)[:, :-1]
        is_open, codes = given == layout.mask_id, (given - layout.image_offset).clamp_min(0)
        codes = torch.where(is_open, 0, codes)
    canvas = prompts.parallel("text", [source], text_end - text_start, codes, is_open=is_open)
    canvas = replace(canvas, fields=(replace(canvas.fields[0], ids=golden.any_ids), canvas.fields[1]))
    recorded = golden.numbers.get(f"{name}.input_ids", golden["parallel.input_ids"])
    assert canvas.tokens.tolist() == recorded[0].tolist()
    assert canvas.fields[0].positions.tolist() == list(range(text_start, text_end))
    negatives = prompts.overwritten_negatives("text", [source], canvas)
    for negative, prefix in zip(negatives, ("uncond_text", "uncond_image"), strict=True):
        expected = golden[f"parallel.{prefix}"][0]
        assert negative.tokens[: len(expected)].tolist() == expected.tolist()

    steps, image_steps, *numbers = golden.args(name)
    settings = dict(zip(("image_temperature", "text_temperature", "text_guidance_scale", "image_guidance_scale"), numbers, strict=True))
    params = published_parallel_a(text_steps=int(steps), image_steps=int(image_steps), **settings)
    drawn = golden.draws(name)
    texts = Replay([d for d in drawn if d.dim() == 3], tokens=lambda d, slots: d[0])
    is_noisy = bool(settings["image_temperature"])
    images = Replay(
        [d for d in drawn if d.dim() < 3],
        tokens=lambda d, slots: d if is_noisy else None,
        order=lambda d, slots: torch.special.ndtr(d[0].double()),
    )
    joint = JointDenoising(
        canvas, params, mask_id=layout.mask_id, negatives=negatives if params.num_negatives else (), draws=[texts, images]
    )
    seen = fill_jointly(golden.model, joint)
    assert changes(seen) == changes(golden[f"{name}.trace"])
    text, image = joint.fields[0].token_ids(0), joint.canvas(0).tokens[image_start : text_start - 1].view(grid[0], -1)[:, :-1].flatten()
    assert (image - layout.image_offset).tolist() == golden[f"{name}.image_codes"].tolist()
    assert text[text != layout.mask_id].tolist() == golden[f"{name}.text_ids"].tolist()
    assert texts.num_used + images.num_used == len(drawn)


@torch.inference_mode()
def test_losses(golden, layout):
    rows, labels = ([golden[f"loss.row{i}.{what}"] for i in (0, 1)] for what in ("input_ids", "labels"))
    logits = padded_logits(golden.model, rows)
    x0 = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    scored = x0 >= 0
    is_image = x0 >= golden.ids["image_offset"]
    drawn = [list(image_grids(row.tolist(), layout))[-1] for row in rows]
    texts, t = scored & ~is_image, float(golden["loss.t"].mean())
    expected = {
        "interleave_loss": (scored, scored.sum()),
        "image_loss": (is_image, sum(map(math.prod, drawn))),  # over all codes of the answers, given ones included
        "text_loss_no_t": (texts, texts.sum()),
        "text_loss": (texts, texts.sum() * t),
    }
    for name, (where, normalizer) in expected.items():
        found = masked_diffusion_loss(logits, x0.clamp_min(0), where, 1.0, normalizer)
        assert float(found) == pytest.approx(float(golden[f"loss.{name}"]), rel=1e-5), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(name):
    """What the published script would generate from, in published ids; recorded beside the default numbers only."""
    directory = GOLDEN / "mmada_parallel_a"
    if not (directory / "layouts.json").exists():
        pytest.skip("this directory has no layouts")
    facts = json.loads((directory / "layouts.json").read_text())[name]
    numbers = {
        key.removeprefix(f"{name}."): value.long()
        for key, value in load_file(directory / "layouts.safetensors").items()
        if key.startswith(f"{name}.")
    }
    _, text, pieces = pieces_of(facts["strings"], numbers)
    prompts = ParallelAPrompts(MMADA_PARALLEL_A.layout, pieces)
    expected, scalars = numbers["input_ids"][0].tolist(), facts["scalars"]
    width = scalars["newline_every"]
    source, drawn = (7 * torch.arange(h * w).view(h, w) % 8192 for h, w in image_grids(expected, prompts.layout))
    start = scalars["image_start"]
    answer = torch.tensor(expected[start : start + len(drawn) * (width + 1)]).view(len(drawn), width + 1)[:, :-1]
    canvas = prompts.parallel(text, [source], scalars["text_gen_length"], drawn, is_open=answer == prompts.layout.mask_id)
    assert canvas.tokens.tolist() == expected
    assert canvas.fields[0].positions.tolist() == list(range(scalars["text_start"], scalars["text_end"]))
    for negative, key in zip(prompts.overwritten_negatives(text, [source], canvas), ("uncon_text", "uncon_image"), strict=True):
        prefix = numbers[key][0].tolist()
        assert negative.tokens[: len(prefix)].tolist() == prefix
