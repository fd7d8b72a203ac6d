"""The pipeline for diffusers: its contract, and that it draws what MMaDA.draw draws."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import InputError
from mmada.generation.requests import DrawRequest

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


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"top_k": 5, "top_p": 0.9}, {"temperature": 0.7, "choice_temperature": 0.0}])
def test_steps_of_the_scheduler_are_those_of_the_engine(pipe, first_fill, settings):
    """A loop over `step`, as diffusers' pipelines have it, draws what the engine draws with the seed."""
    scheduler = MMaDAScheduler(**settings)
    own = MMaDAPipeline(**{**pipe.components, "scheduler": scheduler})
    own.set_progress_bar_config(disable=True)
    expected = own("a cat", num_inference_steps=4, guidance_scale=1.0, generator=seeded(), output_type="latent").images
    fill = first_fill(pipe.model.planner, DrawRequest("a cat", think=False, params=scheduler.params(steps=4, guidance_scale=0.0)))
    (field,), num_codes = fill.canvas.fields, pipe.model.layout.codebook_size
    first = field.ids.start
    sample, generator = torch.full((1, *expected.shape[1:]), num_codes), seeded()
    scheduler.set_timesteps(4)
    for timestep in scheduler.timesteps:
        tokens = fill.canvas.tokens.clone()
        tokens[field.positions] = torch.where(sample == num_codes, tokens[field.positions].view_as(sample), sample + first).flatten()
        with torch.no_grad():
            logits = pipe.transformer(tokens[None]).logits[:, field.positions, first : first + num_codes]
        before, stepped = sample, scheduler.step(logits.view(*sample.shape, -1), timestep, sample, generator=generator)
        sample = stepped.prev_sample
        assert torch.equal(sample[before != num_codes], before[before != num_codes])
        assert torch.equal(stepped.pred_original_sample[sample != num_codes], sample[sample != num_codes])
        assert stepped.pred_original_sample.max() < num_codes
        assert stepped.pred_logits.shape == (*sample.shape, num_codes)
    assert torch.equal(sample, expected)


def test_a_step_shapes_logits_and_leaves_what_is_given():
    scheduler = MMaDAScheduler(top_k=2)
    scheduler.set_timesteps(4)
    logits = torch.randn(3, 2, 4, 6, generator=seeded())
    sample = torch.full((3, 2, 4), 5)
    sample[0], sample[1, 0] = 1, 2  # a finished row, and one that is half open
    prev_sample, proposed, shaped = scheduler.step(
        logits, 0.25, sample, mask_token_id=5, generator=[seeded(i) for i in range(3)], return_dict=False
    )
    assert torch.equal(prev_sample, proposed), "the last step commits everything"
    assert (prev_sample[0] == 1).all()
    assert (prev_sample[1, 0] == 2).all()
    assert prev_sample.max() < 5, "no [MASK] is proposed"
    assert (shaped.isfinite().sum(-1) == 2).all()
    assert not shaped[..., 5].isfinite().any()
    with pytest.raises(InputError, match=r"timestep=0\.3 is none of scheduler\.timesteps; call set_timesteps"):
        scheduler.step(logits, 0.3, sample)
    with pytest.raises(InputError, match=r"model_output \(3, 2, 4\) must be logits"):
        scheduler.step(logits[..., 0], 0.25, sample)
    with pytest.raises(InputError, match="2 generators for 3 images"):
        scheduler.step(logits, 0.25, sample, mask_token_id=5, generator=[seeded(), seeded()])


def test_top_k_and_top_p_reach_sampling(pipe):
    def drawn(**settings):
        own = MMaDAPipeline(**{**pipe.components, "scheduler": MMaDAScheduler(**settings)})
        own.set_progress_bar_config(disable=True)
        return own("a cat", num_inference_steps=2, generator=seeded(), output_type="latent").images

    surest = drawn(temperature=0.0, choice_temperature=0.0)
    assert torch.equal(drawn(top_k=1, choice_temperature=0.0), surest)
    assert torch.equal(drawn(top_p=1e-6, choice_temperature=0.0), surest)
    assert not torch.equal(drawn(choice_temperature=0.0), surest)
    with pytest.raises(InputError, match="top_p=2 must lie in"):
        drawn(top_p=2)


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
    for wrong, message in (({"prompt": 3}, "prompt=3 must be a text"), ({"generator": 3}, "generator=3 must be a torch.Generator"),
                           ({"num_inference_steps": 0}, "num_inference_steps=0 must be at least 1")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            pipe(**{"prompt": "a cat", **wrong})
