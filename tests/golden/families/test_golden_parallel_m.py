"""MMaDA-Parallel-M: logits, the prompts, every token and code of the published sampler and the row before each of its steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmada.canvas import Prompts
from mmada.families.mmada_parallel_m import ParallelMPrompts, published_parallel_m
from mmada.sampling.joint import JointDenoising, evenly

from .recorded import Recorded, Replay, changes, fill_jointly

CASES = {
    "greedy": {"text_guidance_scale": 2.5, "image_guidance_scale": 4.0, "image_temperature": 0.0},
    "greedy_notextcfg": {"text_guidance_scale": 0.0, "image_guidance_scale": 3.5, "image_temperature": 0.0},
    "greedy_onlytextcfg": {"text_guidance_scale": 1.5, "image_guidance_scale": 0.0, "image_temperature": 0.0},
    "noise": {"text_guidance_scale": 2.5, "image_guidance_scale": 4.0, "image_temperature": 1.0},
    "noise_text": {"text_guidance_scale": 0.0, "image_guidance_scale": 2.0, "image_temperature": 0.5, "text_temperature": 0.6},
}


class Ids:
    """A tokenizer that knows one text."""

    def __init__(self, ids):
        self.ids = ids

    def encode(self, text, *, special_tokens=False):
        return list(self.ids)


@pytest.fixture(scope="module")
def golden(folder):
    return Recorded.load(folder("mmada_parallel_m"))


@pytest.fixture(scope="module")
def layout(golden):
    names = {name: name for name in ("mask", "bos", "eos", "soi", "eoi", "interleave")}
    return golden.layout(**names)


@torch.inference_mode()
def test_logits(golden):
    for name, value in (("forward", None), ("forward_soft", -1.0)):  # the 0/1 mask is added to the scores: a hidden key is 1 lower
        mask = golden.numbers.get(f"{name}.attention_mask")
        logits = golden.model(golden["forward.input_ids"], None if mask is None else mask.bool(), mask_value=value).logits
        torch.testing.assert_close(logits, golden[f"{name}.logits"], atol=1e-4, rtol=0)


def test_image_steps(golden):
    names = [name for name in golden.numbers if name.startswith("schedule.image_steps")]
    assert "schedule.image_steps" in names
    for name in names:
        own = (golden.ids["text_steps"], golden.ids["image_steps"])
        steps, count = own if name == "schedule.image_steps" else map(int, name.split("_")[-2:])
        assert list(evenly(steps // 4, steps - 1, count)) == golden[name].tolist()


def steps_of(golden, name):
    """Of the text and of the image: a pass a step, and with noise a draw of codes an image step; others take those of the directory."""
    drawn = len([key for key in golden.numbers if key.startswith(f"{name}.draw.") and key.endswith(".u")])
    return len(golden[f"{name}.trace"]), drawn or golden.ids["image_steps"]


def rows(golden, layout):
    """The conditional and the unconditional row, with any id allowed in the text."""
    prompts: Prompts = ParallelMPrompts(layout, Ids(golden["parallel.instruction"].tolist()))
    source, num_new = golden["parallel.image_codes"], golden.ids["max_text"] - 1
    asked = ("text", [source], num_new, torch.zeros(golden.ids["num_vq_tokens"], dtype=torch.long))
    found = [prompts.parallel(*asked), *prompts.parallel_negatives(*asked)]
    return [replace(c, fields=(replace(c.fields[0], ids=golden.any_ids), c.fields[1])) for c in found]


def test_prompts(golden, layout):
    conditional, unconditional = rows(golden, layout)
    for row, name in ((conditional, "input_ids"), (unconditional, "uncond_input_ids")):
        expected = golden[f"parallel.{name}"]
        assert row.tokens[: len(expected)].tolist() == expected.tolist()
    assert conditional.tokens.tolist() == golden["greedy.trace"][0].tolist()


def test_every_case_is_known(golden):
    assert set(CASES) == set(golden.cases(".text_ids"))


@pytest.mark.parametrize("name", CASES)
def test_sampler(golden, layout, name):
    text_steps, image_steps = steps_of(golden, name)
    params = published_parallel_m(text_steps=text_steps, image_steps=image_steps, **CASES[name])
    conditional, unconditional = rows(golden, layout)
    drawn = golden.draws(name)
    texts = Replay([d for d in drawn if d.dim() == 3], tokens=lambda d, slots: d[0, 1 + slots.start : 1 + slots.stop])
    images = Replay(
        [d for d in drawn if d.dim() < 3],
        tokens=lambda d, slots: d[slots.start : slots.stop],
        order=lambda d, slots: d[0, slots.start : slots.stop],
    )
    joint = JointDenoising(conditional, params, mask_id=layout.mask_id, negatives=[unconditional], draws=[texts, images])
    seen = fill_jointly(golden.model, joint)
    before = golden["parallel.input_ids"].tolist()
    assert changes([row for row in seen if row[: len(before)].tolist() == before]) == changes(golden[f"{name}.trace"])
    text, codes = joint.fields[0].token_ids(0), joint.fields[1].token_ids(0) - layout.image_offset
    assert codes.tolist() == golden[f"{name}.image_codes"][0].tolist()
    assert [layout.bos_id, *text.tolist()] == golden[f"{name}.text_ids"][0].tolist()
    assert images.num_used == len(images.entries)
    assert texts.num_used == len(texts.entries) or layout.mask_id not in text  # a text that is complete takes no more
