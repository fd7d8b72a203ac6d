"""Lumina-DiMOO: logits, loss, prompts, every code and token of the three published samplers and the row before each of their steps."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mmada.canvas import Message
from mmada.diffusion.loss import masked_diffusion_loss
from mmada.families.lumina_dimoo import (
    ANSWER,
    LUMINA_DIMOO,
    LuminaPrompts,
    published_lumina_edit,
    published_lumina_image,
    published_lumina_text,
)
from mmada.sampling import Denoising

from .recorded import GOLDEN, Pieces, Recorded, Replay, fill, image_grids, padded_logits, pieces_of, small_layout

# name: steps and block length where they are not recorded, scale
TEXTS = {"one_block": (16, 16, 0.0), "blocks": (8, 8, 0.0), "uneven": (6, 8, 0.0), "cfg": (8, 8, 1.5)}
LAYOUTS = ["t2i", "t2i_inpaint", "i2i_edit", "i2i_canny", "i2i_ref_transfer", "mmu"]


@pytest.fixture(scope="module")
def golden(folder):
    return Recorded.load(folder("lumina_dimoo"))


@pytest.fixture(scope="module")
def layout(golden):
    return small_layout(golden)


@pytest.fixture(scope="module")
def prompts(golden, layout):
    return LuminaPrompts(layout, Pieces.of_prompt(golden))


@pytest.fixture(scope="module")
def source(golden, grids):
    return golden["prompt.image_codes"].view(*grids[0])


@pytest.fixture(scope="module")
def grids(golden, layout):
    """(rows, columns) of the source and of what is drawn."""
    return list(image_grids(golden["i2i.input_ids"][0].tolist(), layout))


@torch.inference_mode()
def test_logits_of_padded_rows(golden):
    """Padding on the right, of id 0, is seen."""
    rows = [golden["forward.row0"], golden["forward.row1"]]
    torch.testing.assert_close(padded_logits(golden.model, rows), golden["forward.logits_batch"], atol=1e-4, rtol=0)
    torch.testing.assert_close(golden.model(rows[1][None]).logits, golden["forward.logits_row1_alone"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_loss(golden):
    rows, labels = ([golden[f"loss.row{i}.{what}"] for i in (0, 1)] for what in ("input_ids", "labels"))
    logits = padded_logits(golden.model, rows)
    x0 = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    scored = x0 >= 0
    found = masked_diffusion_loss(logits, x0.clamp_min(0), scored, 1.0, scored.sum())
    assert float(found) == pytest.approx(float(golden["loss.loss"]), rel=1e-5)


def drawing(golden, prompts, grid, name):
    """The conditional row of a case, and its unconditional ones, built from the prompt."""
    mask = prompts.layout.mask_id
    codes, is_open = torch.zeros(*grid, dtype=torch.long), torch.ones(*grid, dtype=torch.bool)
    if f"{name}.input_ids" in golden.numbers:
        width = grid[1] + 1
        stop = len(golden[f"{name}.input_ids"][0]) - 2
        ids = golden[f"{name}.input_ids"][0, stop - grid[0] * width : stop].view(grid[0], width)[:, :-1]
        is_open = ids == mask
        codes = torch.where(is_open, 0, ids - prompts.layout.image_offset)
    return codes, is_open


def check_drawing(golden, denoising, name, replay):
    mask = denoising.mask_id
    total = [int(x) for x in golden.numbers.get(f"{name}.rows_computed", [])]
    seen = fill(golden.model, denoising)
    assert [row.tolist() for row in seen] == golden[f"{name}.trace"].tolist()
    tokens = denoising.canvas(0).tokens
    ids = tokens[(tokens >= golden.ids["image_offset"]) & (torch.arange(len(tokens)) > int((tokens == golden.ids["boi"]).nonzero()[-1]))]
    assert ids.tolist() == golden[f"{name}.image_ids"][0].tolist()
    assert mask not in ids
    assert replay.num_used == len(golden.draws(name))
    spans = [stop - start for start, stop in denoising.spans]
    assert total in ([], spans * len(seen))


def run(golden, canvas, negatives, params, name):
    """Draws are recorded for the open positions of each step, one after another."""
    denoising = None

    def scattered(drawn, slots):
        is_open = denoising.token_ids(0) == denoising.mask_id
        whole = torch.zeros(len(slots), *drawn.shape[2:], dtype=drawn.dtype)
        whole[is_open] = drawn[0]
        return whole

    replay = Replay(golden.draws(name), tokens=scattered, order=scattered)
    denoising = Denoising([canvas], params, mask_id=canvas_mask(golden), negatives=negatives if params.is_guided else None, draws=[replay])
    check_drawing(golden, denoising, name, replay)


def canvas_mask(golden):
    return golden.ids["mask"]


@pytest.mark.parametrize("name", ["t2i_greedy_nocfg", "t2i_greedy", "t2i_noise", "t2i_paint"])
def test_text_to_image(golden, prompts, grids, name):
    codes, is_open = drawing(golden, prompts, grids[-1], name)
    canvas, negative = (prompts.draw(text, codes, is_open=is_open) for text in ("text", ""))
    if name != "t2i_paint":
        assert canvas.tokens.tolist() == golden["t2i.input_ids"][0].tolist()
    unconditional = golden["t2i.uncond_ids"][0].tolist()
    assert negative.tokens[: len(unconditional)].tolist() == unconditional
    steps, temperature, scale = golden.args(name)
    params = published_lumina_image(steps=int(steps), temperature=temperature, guidance_scale=scale)
    run(golden, canvas, [negative], params, name)


@pytest.mark.parametrize("name", ["i2i_greedy", "i2i_greedy_img_only", "i2i_noise"])
def test_editing(golden, prompts, source, grids, name):
    codes = torch.zeros(*grids[-1], dtype=torch.long)
    canvas, negatives = prompts.edit("text", [source], codes), prompts.edit_negatives("text", [source], codes)
    assert canvas.tokens.tolist() == golden["i2i.input_ids"][0].tolist()
    for negative, recorded in zip(negatives, ("uncond_text", "uncond_image"), strict=True):
        prefix = golden[f"i2i.{recorded}"][0].tolist()
        assert negative.tokens[: len(prefix)].tolist() == prefix
    steps, temperature, text_scale, image_scale = golden.args(name)
    params = published_lumina_edit(steps=int(steps), temperature=temperature, guidance_scale=text_scale, image_guidance_scale=image_scale)
    run(golden, canvas, list(negatives), params, name)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", ["mmu", "mmu_correct_layout"])
def test_understanding(golden, prompts, source, kind, name):
    *known, scale = TEXTS[name]
    steps, block_length = map(int, golden.args(f"{kind}.{name}", known))
    expected = golden[f"{kind}.{name}.output"][0].tolist()
    messages, num_new = [Message("user", "text")], int((golden[f"{kind}.input_ids"] == golden.ids["mask"]).sum())
    correct = prompts.chat(messages, num_new, images=[source], ids=golden.any_ids)
    canvas = prompts.twice_broken(messages, num_new, source) if kind == "mmu" else correct
    assert canvas.tokens.tolist() == golden[f"{kind}.input_ids"][0].tolist()
    assert int(canvas.fields[0].positions[0]) == int(golden[f"{kind}.code_start"])
    params = published_lumina_text(steps=steps, block_length=block_length, guidance_scale=scale)
    blank = [prompts.blank(canvas)] if scale else None
    denoising = Denoising([canvas], params, mask_id=golden.ids["mask"], negatives=blank)
    fill(golden.model, denoising)
    assert denoising.canvas(0).tokens.tolist() == expected


def test_every_case_is_known(golden):
    drawn = {name for name in golden.cases(".image_ids") if "cache" not in name}
    assert drawn == {"t2i_greedy_nocfg", "t2i_greedy", "t2i_noise", "t2i_paint", "i2i_greedy", "i2i_greedy_img_only", "i2i_noise"}
    assert set(golden.cases(".output")) == {f"{kind}.{name}" for kind in ("mmu", "mmu_correct_layout") for name in TEXTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(name):
    """What the published scripts would generate from, in published ids; recorded beside the default numbers only."""
    directory = GOLDEN / "lumina_dimoo"
    if not (directory / "layouts.json").exists():
        pytest.skip("this directory has no layouts")
    facts = json.loads((directory / "layouts.json").read_text())[name]
    numbers = {
        key.removeprefix(f"{name}."): value.long()
        for key, value in load_file(directory / "layouts.safetensors").items()
        if key.startswith(f"{name}.")
    }
    sentence, text, pieces = pieces_of(facts["strings"], numbers)
    prompts = LuminaPrompts(LUMINA_DIMOO.layout, pieces)
    expected = numbers["input_ids"][0].tolist()

    def codes(height, width):
        return (7 * torch.arange(height * width) % 8192).view(height, width)

    if name == "mmu":
        assert sentence == ANSWER
        height, width = facts["pixels"][2] // 16, facts["pixels"][3] // 16
        canvas = prompts.twice_broken([Message("user", text)], facts["scalars"]["gen_length"], codes(height, width))
        assert int(canvas.fields[0].positions[0]) == facts["scalars"]["code_start"]
    else:
        width = facts["scalars"]["newline_every"]
        height = facts["scalars"]["seq_len"] // width
        tail = torch.tensor(expected[-2 - height * (width + 1) : -2]).view(height, width + 1)[:, :-1]
        is_open = tail == prompts.layout.mask_id
        if name.startswith("t2i"):
            canvas, negative = (prompts.draw(words, codes(height, width), is_open=is_open) for words in (text, ""))
            negatives = {"uncon_ids": negative}
        else:
            grids = list(image_grids(expected, prompts.layout))[:-1]
            assert len(grids) == (2 if name == "i2i_ref_transfer" else 1)
            asked = (text, [codes(*grid) for grid in grids], codes(height, width))
            canvas = prompts.edit(*asked, sentence=sentence)
            negatives = dict(zip(("uncon_text", "uncon_image"), prompts.edit_negatives(*asked, sentence=sentence), strict=True))
        for key, row in negatives.items():
            prefix = numbers[key][0].tolist()
            assert row.tokens[: len(prefix)].tolist() == prefix
            assert row.tokens[len(prefix) :].tolist() == canvas.tokens[len(canvas) - len(row) + len(prefix) :].tolist()
    assert canvas.tokens.tolist() == expected
