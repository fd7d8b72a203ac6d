"""A photo of any size: edited and looked at in the crops that a family is published with, by pipeline, server and processor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import InputError
from mmada.families import FAMILIES, Family
from mmada.generation.planner import Planner
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest, GenerationConfig, ParallelRequest
from mmada.hub import tokenizer
from mmada.image import VQVAE, VQVAEConfig, crop_sizes, fit
from mmada.pipeline import MMaDA
from mmada.serve.config import ServeConfig
from mmada.serve.request_parser import RequestParser
from mmada.serve.schema import ChatBody, EditForm
from mmada.train.config import ModelConfig, TrainConfig
from mmada.train.export import load_parts
from mmada.train.stages import STAGES

from ..lazy import later
from .tiny import compact, tiny

AutoProcessor = later("transformers", "AutoProcessor")

CROPPING = [name for name, family in FAMILIES.items() if family.defaults.get("image_crops")]


def ramp(width: int, height: int) -> Image.Image:
    """Red says the column, green the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 255, width)[None], np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return ramp(4032, 3024)


def planner_of(family: Family, **changes: object) -> Planner:
    """With the family's published defaults, a code for 16 x 16 pixels, and a network of four channels."""
    sizes = VQVAEConfig(block_out_channels=(4, 4, 4, 4, 4), layers_per_block=1, latent_channels=4, num_vq_embeddings=64, norm_num_groups=2)
    layout, strings = compact(family)
    defaults = GenerationConfig(**{**family.defaults, **changes})
    prompts = family.prompts(layout, tokenizer.byte_level(special=strings), defaults.style)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = VQVAE(sizes).eval()
    return Planner(prompts, defaults, context=16384, image_tokenizer=lambda: images, family=replace(family, layout=layout))


@pytest.fixture(scope="module")
def cropping() -> dict[str, MMaDA]:
    """Tiny models that crop to the area of 16 x 16 pixels, their edits to that of 12 x 12."""
    made = {name: tiny(FAMILIES[name]) for name in CROPPING}
    for model in made.values():
        model.use(image_crops=True, edit_side=12)
    return made


def parser_of(model: MMaDA) -> RequestParser:
    return RequestParser(model.planner, ServeConfig(), factor=model.image_tokenizer.decode_factor)


def test_a_phone_photo_is_edited_in_its_shape(photo):
    """576 x 448 is what the published sizes of 512 x 512 have for 4:3."""
    planner = planner_of(FAMILIES["lumina-dimoo"])
    assert planner_of(FAMILIES["mmada-parallel-a"]).edit_size(photo) == (448, 576)
    assert (576, 448) in crop_sizes(16)
    assert planner.edit_size(photo) == (448, 576)
    (codes,), init = planner.sources([photo], None, 3)
    assert codes.shape == init.codes.shape == (28, 36)
    edit = planner.edit_fill(EditRequest("a hat", [photo]), [codes], init)
    assert edit.num_open == 28 * 36
    # By the seed: 21 columns are left over.
    once, again, other = (planner.fit_sources([photo], None, seed)[0][0] for seed in (3, 3, 6))
    assert once.tobytes() == again.tobytes() != other.tobytes()
    assert once.size == (576, 448)
    # Each source has a shape of its own, unless a size is named.
    found, init = planner.sources([photo, ramp(300, 900)], None)
    assert [grid.shape for grid in found] == [(28, 36), (54, 18)]
    assert init.codes.shape == (28, 36)
    found, init = planner.sources([photo, ramp(300, 900)], (256, 128))
    assert {grid.shape for grid in (*found, init.codes)} == {(16, 8)}


def test_a_phone_photo_is_looked_at_in_its_shape(photo):
    planner = planner_of(FAMILIES["lumina-dimoo"])
    (seen,) = planner.looked_at([photo], 3)
    assert seen.size == (1152, 864)
    assert (1152, 864) in crop_sizes(32)
    small = planner_of(FAMILIES["lumina-dimoo"], image_height=256, image_width=256)
    (codes,), warning = small.seen([photo])
    assert (codes.shape, warning) == ((14, 18), None)
    assert small.edit_size(photo) == (224, 288)  # no larger than an image
    both, _ = small.seen([photo, ramp(10, 40)])
    assert [grid.shape for grid in both] == [(14, 18), (32, 8)]


def test_pictures_of_several_shapes_are_doubted_one_by_one():
    planner = planner_of(FAMILIES["lumina-dimoo"], image_height=64, image_width=64, least_picture_psnr=99.0)
    assert planner.seen([ramp(40, 40), ramp(10, 40)])[1].startswith("picture 1 is unlike")


def test_a_part_of_a_phone_photo_is_redrawn_in_its_shape(photo):
    planner = planner_of(FAMILIES["lumina-dimoo"])
    assert planner.size_of(photo) == (864, 1152)
    assert planner.size_of(ramp(130, 70)) == (64, 128)  # what is no larger than an image keeps its size
    small = planner_of(FAMILIES["lumina-dimoo"], image_height=128, image_width=128)
    init = small.init_codes(DrawRequest("x", image=photo, mask=Image.new("L", photo.size, 255)))
    assert init.codes.shape == init.is_open.shape == (6, 8)
    assert bool(init.is_open.all())


def test_parallel_m_knows_one_size_and_squashes(photo):
    planner = planner_of(replace(FAMILIES["mmada-parallel-m"], image_tokenizer="vqvae"))
    assert planner.edit_size(photo) == (512, 512)
    (encoded,), size = planner.fit_sources([photo], None)
    assert size == (512, 512)
    assert encoded.tobytes() == photo.resize((512, 512), Image.Resampling.BICUBIC).tobytes()
    (codes,), init = planner.sources([photo], None)
    assert (codes.shape, init.codes.shape) == ((1024,), (32, 32))
    _, other = planner.sources([ramp(64, 64)], (64, 64))
    assert planner.doubts_of_size(init) is None
    assert "512x512 pixels alone" in planner.doubts_of_size(other)


def test_other_families_see_what_they_saw(photo):
    """No crop, no seed; a picture of its own size is edited in that size, and a photo that is too large is refused."""
    for name, family in FAMILIES.items():
        assert GenerationConfig(**family.defaults).image_crops == (name in ("lumina-dimoo", "mmada-parallel-a"))
    planner = planner_of(FAMILIES["lumina-dimoo"], image_crops=False)
    assert planner.edit_size(ramp(130, 70)) == (64, 128)
    with pytest.raises(InputError, match="shorten the prompt, or ask for fewer new tokens or a smaller image"):
        planner.sources([photo], None)
    expected = fit(photo, height=1024, width=1024, mode="crop").tobytes()
    assert [planner.looked_at([photo], seed)[0].tobytes() for seed in (0, 1)] == [expected, expected]


def test_a_request_that_waits_holds_no_photo(cropping, photo):
    planner = cropping["lumina-dimoo"].planner
    for asked in (EditRequest("a hat", [photo, ramp(9, 30)], seed=3), EditRequest("a hat", [photo], size=(8, 12), seed=3)):
        fitted = planner.fitted(asked)
        assert max(side for image in fitted.images for side in image.size) <= 24
        one, other = (planner.sources(request.images, request.size, request.seed) for request in (asked, fitted))
        assert [codes.tolist() for codes in one[0]] == [codes.tolist() for codes in other[0]]
        assert one[1].codes.shape == other[1].codes.shape


def test_the_server_edits_a_phone_photo_as_the_pipeline_does(cropping, photo):
    model = cropping["lumina-dimoo"]
    form = EditForm(prompt="a hat", seed=3, n=2, steps=2)
    parsed = parser_of(model).edit(form, [photo], None)
    served = model.run([one.request for one in parsed.engine_requests])
    alone = model.run([EditRequest("a hat", [photo], steps=2, seed=seed) for seed in (3, 4)])
    assert [one.codes.tolist() for one in served] == [one.codes.tolist() for one in alone]
    assert {one.image.size for one in served} == {(12, 8)}
    assert max(parsed.engine_requests[0].request.images[0].size) == 12
    named = parser_of(model).edit(form.model_copy(update={"size": "8x16", "n": 1}), [photo], None)
    assert named.engine_requests[0].request.size == (16, 8)


def test_a_text_comes_with_an_edit_of_a_phone_photo(cropping, photo):
    model = cropping["mmada-parallel-a"]
    request = ParallelRequest("a hat", [photo], max_new_tokens=8, text_steps=6, image_steps=3, seed=3)
    (drawing,) = model.run([request])
    assert drawing.image.size == (12, 8)
    assert drawing.answer is not None


def test_the_server_looks_at_a_phone_photo_as_the_pipeline_does(cropping, photo):
    model, wide = cropping["lumina-dimoo"], ramp(40, 30)
    content = [{"type": "text", "text": "What?"}, *({"type": "image_url", "image_url": {"url": url}} for url in ("a", "b"))]
    body = ChatBody.model_validate({"messages": [{"role": "user", "content": content}], "seed": 3, "n": 2})
    parsed = parser_of(model).chat(body, {"a": photo, "b": wide})
    for i, one in enumerate(parsed.engine_requests):
        images = one.request.images
        assert {image.size for image in images} == {(16, 12)}
        expected, _ = model.planner.seen([photo, wide], 3 + i)
        assert [codes.tolist() for codes in model.planner.seen(images, 3 + i)[0]] == [codes.tolist() for codes in expected]


@pytest.mark.parametrize("name", CROPPING)
def test_the_processor_crops_as_the_pipeline_does(cropping, name, tmp_path):
    model, pictures = cropping[name], [ramp(40, 30), ramp(5, 30)]
    model.save_pretrained(tmp_path)
    codes, _ = model.planner.seen(pictures)
    request = ChatRequest("What is it?", images=pictures)
    expected = model.planner.chat_canvas(request, 3, codes, model.planner.text_params()).tokens.tolist()
    for processor in (model.processor, AutoProcessor.from_pretrained(tmp_path)):
        found = processor("What is it?", pictures, num_new=3)
        grids = [model.image_tokenizer.encode(pixels[None])[0] for pixels in found["pixel_values"]]
        assert [grid.tolist() for grid in grids] == [one.tolist() for one in codes]
        ids = found["input_ids"][0]
        places = torch.cat([grid.flatten() for grid in grids]) + model.layout.image_offset
        assert ids.masked_scatter(ids == processor.image_token_id, places).tolist() == expected
        with pytest.raises(InputError, match=r"give them as \(h, w\)"):
            processor("What is it?", image_codes=[grids[0].flatten()])
        turns = [{"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "What is it?"}]}]
        one = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        assert one["pixel_values"].shape == (1, 3, 12, 16)


def test_a_new_model_knows_the_size_of_its_run(tmp_path):
    config = TrainConfig(
        stage=STAGES["finetune"],
        out=str(tmp_path),
        debug=True,
        model=ModelConfig(family="lumina-dimoo", start="", image_tokenizer="", num_merges=0),
    )
    defaults = load_parts(config, None).defaults
    assert (defaults.image_crops, defaults.one_image_size) == (False, True)
