"""transformers' processor and tokenizer of a checkpoint of any family: the ids are those of the pipeline's prompts."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmada.canvas import Message
from mmada.errors import InputError
from mmada.families import FAMILIES
from mmada.generation.requests import ChatRequest
from mmada.pipeline import MMaDA
from mmada.sampling import SamplingParams

from ..lazy import later

AutoProcessor = later("transformers", "AutoProcessor")
AutoTokenizer = later("transformers", "AutoTokenizer")

PICTURES = [Image.new("RGB", (8, 12), "red"), Image.new("RGB", (20, 20), "blue")]
QUESTION = [{"role": "user", "content": " What </user> is it? "}]
LOOKING = [name for name, family in FAMILIES.items() if "look" in family.abilities]
READING = [name for name in FAMILIES if name not in LOOKING]


def asked(model: MMaDA, num_images: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The row that the pipeline samples, and the codes in it."""
    request = ChatRequest("What </user> is it?", images=PICTURES[:num_images])
    codes, _ = model.planner.seen(request.images) if num_images else ([], None)
    return model.planner.chat_canvas(request, 3, codes, SamplingParams(steps=3)).tokens, codes


@pytest.mark.parametrize("name", LOOKING)
def test_ids_are_those_of_the_pipeline(saved, name):
    model = MMaDA.from_pretrained(saved(name), device="cpu")
    for processor in (model.processor, AutoProcessor.from_pretrained(saved(name))):
        assert (processor.family, type(processor.prompts)) == (name, type(model.prompts))
        for num_images in (0, 1, 2):
            expected, codes = asked(model, num_images)
            found = processor("What </user> is it?", image_codes=codes, num_new=3)
            assert found["input_ids"][0].tolist() == expected.tolist()
            assert bool(found["attention_mask"].all())
        in_one_run = processor("What </user> is it?", image_codes=[grid.flatten() for grid in codes], num_new=3)
        assert in_one_run["input_ids"][0].tolist() == expected.tolist()


@pytest.mark.parametrize("name", LOOKING)
def test_pictures_stand_where_the_family_has_them(saved, name):
    model = MMaDA.from_pretrained(saved(name), device="cpu")
    processor, (expected, codes) = model.processor, asked(model, 2)
    found = processor("What </user> is it?", PICTURES, num_new=3)
    ids, place = found["input_ids"][0], processor.image_token_id
    assert place not in expected.tolist()
    # Codes of the very pixels, put where they belong, are the pipeline's row.
    grids = model.image_tokenizer.encode(found["pixel_values"])
    assert grids.flatten(1).tolist() == [grid.flatten().tolist() for grid in codes]
    assert ids.masked_scatter(ids == place, grids + model.layout.image_offset).tolist() == expected.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_chat_templates_say_what_prompts_say(saved, name):
    model, tokenizer = MMaDA.from_pretrained(saved(name), device="cpu"), AutoTokenizer.from_pretrained(saved(name))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
    for part in (turns, turns[1:]):
        found = tokenizer.apply_chat_template(part, add_generation_prompt=True, return_dict=False)
        assert found == model.prompts.dialogue([Message(**turn) for turn in part])
    if name in READING:
        return
    pictures = [{"type": "image", "image": picture} for picture in PICTURES]
    said = [{"role": "user", "content": [*pictures, {"type": "text", "text": "What is it?"}]}]
    processor = model.processor
    made = processor.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    whole = processor("What is it?", PICTURES, num_new=3)
    given = made["input_ids"].shape[1]
    assert made["input_ids"].equal(whole["input_ids"][:, :given])
    assert whole["input_ids"][0, given : given + 3].tolist() == [model.layout.mask_id] * 3
    assert made["pixel_values"].equal(whole["pixel_values"])


@pytest.mark.parametrize("name", READING)
def test_a_family_without_images_says_what_to_use(saved, name):
    title = FAMILIES[name].title
    with pytest.raises(InputError, match=f"^{title} cannot look at images, so it has no processor; load its tokenizer"):
        _ = MMaDA.from_pretrained(saved(name), device="cpu").processor


def test_one_question_at_a_time(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved("lumina-dimoo"))
    turns = [*QUESTION, {"role": "assistant", "content": "A cat."}, *QUESTION]
    with pytest.raises(Exception, match="messages of user, assistant, user: this family answers one message of the user"):  # jinja2's
        tokenizer.apply_chat_template(turns)
    thinking = tokenizer.apply_chat_template(QUESTION, enable_thinking=True, tokenize=False)
    assert "<user>You should first think" in thinking
