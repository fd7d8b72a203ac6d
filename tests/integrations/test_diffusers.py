"""The pipeline for diffusers: its contract, and that it draws what MMaDA.draw draws."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import InputError

from ..lazy import later

diffusers = later("diffusers")
MMaDAPipeline = later("mmada.integrations.diffusers", "MMaDAPipeline")
MMaDAScheduler = later("mmada.integrations.diffusers", "MMaDAScheduler")
pytestmark = pytest.mark.skipif(find_spec("diffusers") is None, reason="the extra diffusers")


@pytest.fixture(scope="module")
def pipe():
    made = MMaDAPipeline.from_pretrained("debug")
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def test_the_image_is_that_of_draw(pipe, debug):
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    expected = debug.draw("a cat", seed=3, steps=4, negative_prompt="a dog", guidance_scale=2.0).image
    found = pipe("a cat", num_inference_steps=4, negative_prompt="a dog", guidance_scale=3.0, generator=seeded()).images[0]
    assert found.tobytes() == expected.tobytes(), "w = 1 + g"
    assert pipe("a cat", generator=seeded()).images[0].tobytes() == debug.draw("a cat", seed=3).image.tobytes()


def test_guidance_of_one_and_less_is_off(pipe, debug):
    expected = debug.draw("a cat", seed=3, steps=4, guidance_scale=0.0).codes
    for scale in (1.0, 0.0):
        found = pipe("a cat", num_inference_steps=4, guidance_scale=scale, generator=seeded(), output_type="latent").images
        assert torch.equal(found[0], expected)


def test_a_generator_moves_on_and_a_list_names_each(pipe):
    generator = seeded()
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    first = pipe("a cat", generator=generator, num_images_per_prompt=2, **settings).images
    second = pipe("a cat", generator=generator, num_images_per_prompt=2, **settings).images
    assert len({tuple(codes.flatten().tolist()) for codes in (*first, *second)}) == 4
    each = pipe(["a cat", "a cat"], generator=[seeded(), seeded()], **settings).images
    assert torch.equal(each[0], first[0])
    assert torch.equal(each[0], each[1])


def test_outputs_are_those_of_diffusers(pipe):
    settings = {"height": 16, "width": 32, "num_inference_steps": 2}
    (image,) = pipe("a cat", generator=seeded(), **settings).images
    assert image.size == (32, 16)
    array = pipe("a cat", generator=seeded(), output_type="np", **settings).images
    assert array.shape == (1, 16, 32, 3)
    assert np.array_equal((array[0] * 255).round(), np.asarray(image))
    (tensor,) = pipe("a cat", generator=seeded(), output_type="pt", return_dict=False, **settings)
    assert torch.equal(tensor, torch.from_numpy(array).permute(0, 3, 1, 2))


def test_a_callback_sees_codes_and_times_and_may_stop(pipe):
    seen = []

    def callback(found, step, timestep, tensors):
        seen.append((step, float(timestep), int(tensors["mask"].sum())))
        found._interrupt = step == 2
        return tensors

    settings = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", "mask"]}
    stopped = pipe("a cat", num_inference_steps=4, generator=seeded(), **settings).images[0]
    assert [step[:2] for step in seen] == [(0, 1.0), (1, 0.75), (2, 0.5)]
    assert 64 > seen[0][2] > seen[1][2] > seen[2][2] > 0
    assert stopped.size == (32, 32)


def test_a_part_of_an_image_is_drawn_anew(pipe, debug):
    before = debug.draw("a cat", seed=1).image
    mask = np.zeros((32, 32), np.uint8)
    mask[:16] = 255
    marked = Image.fromarray(mask)
    found = pipe("a dog", image=before, mask_image=marked, num_inference_steps=2, generator=seeded()).images[0]
    assert found.tobytes() == debug.fill_image(before, marked, prompt="a dog", steps=2, seed=3).image.tobytes()


def test_it_is_saved_and_loaded_with_its_scheduler(pipe, tmp_path):
    own = MMaDAPipeline(**{**pipe.components, "scheduler": MMaDAScheduler(temperature=0.5, choice_temperature=0.0)})
    own.set_progress_bar_config(disable=True)
    own.save_pretrained(tmp_path)
    loaded = MMaDAPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.config.temperature == 0.5
    codes = [one("a cat", generator=seeded(), output_type="latent").images for one in (own, loaded, pipe)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    assert loaded.to(torch.bfloat16).dtype == torch.bfloat16


def test_mistakes_are_named(pipe):
    with pytest.raises(InputError, match=r"output_type='png' is unknown.*pil"):
        pipe("a cat", output_type="png")
    with pytest.raises(InputError, match=r"has 'latent', which is unknown.*latents"):
        pipe("a cat", callback_on_step_end_tensor_inputs=["latent"])
    with pytest.raises(InputError, match="2 generators for 1 images"):
        pipe("a cat", generator=[seeded(), seeded()])
    with pytest.raises(InputError, match="2 texts for 1 prompts"):
        pipe("a cat", negative_prompt=["a", "b"])
