"""LLaDA: its chat layout, and a tiny checkpoint through load, chat, fill and save."""

from __future__ import annotations

import pytest

from mmada.canvas import Message
from mmada.errors import InputError
from mmada.families import named
from mmada.families.llada import published_llada
from mmada.pipeline import MMaDA

from .tiny import tiny


@pytest.fixture(scope="module")
def model():
    return tiny(named("llada"))


def test_an_empty_line_stands_behind_each_header(model):
    canvas = model.prompts.chat([Message("user", "Hi")], 3)
    text = model.prompts.tokenizer.decode(canvas.tokens.tolist())
    assert text == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        + "<|mdm_mask|>" * 3
    )
    assert canvas.fields[0].positions.tolist() == list(range(len(canvas) - 3, len(canvas)))


def test_a_checkpoint_without_images_is_loaded_and_saved(model, tmp_path):
    answer = model.chat("Hi", seed=1)
    model.save_pretrained(tmp_path / "saved")
    loaded = MMaDA.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.family.name == "llada"
    assert loaded.layout == model.layout
    assert not (tmp_path / "saved" / "image_tokenizer").exists()
    assert loaded.chat("Hi", seed=1) == answer
    filled = loaded.fill("a [MASK:3] b").text
    assert filled.startswith("a ")
    assert filled.endswith(" b")
    with pytest.raises(InputError, match=r"^LLaDA cannot draw; "):
        loaded.draw("a cat")
    with pytest.raises(InputError, match=r"^LLaDA cannot look at images; "):
        loaded.ask("x.png", "What?")


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_ends_can_be_kept_out_or_late(model, temperature):
    layout = model.layout
    params = published_llada(layout, steps=16, block_length=16, temperature=temperature, logits_eos_inf=True)
    assert layout.eos_id not in model.chat("Hi", params=params, max_new_tokens=16).token_ids
    both = published_llada(layout, confidence_eos_eot_inf=True, temperature=temperature).late_tokens
    assert both == ((layout.eos_id, layout.eot_id) if temperature == 0 else (layout.eot_id,))
