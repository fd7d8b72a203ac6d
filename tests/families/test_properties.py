"""Properties of every family's fills, from random weights: what is given stays, what is open is filled with what is allowed, and when caches are exact.

A cache is exact where keys and values do not change: if each pass evaluates everything (`refresh=1`, `cache_ratio=0`), if a block takes one step, or if
no block sees a later one (`full_attention=False`). Everywhere else it is an approximation by definition, of which only the first two properties hold.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmada.families import FAMILIES
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest, FillRequest, ParallelRequest
from mmada.generation.steps import Fill
from mmada.pipeline import MMaDA
from mmada.sampling import CACHES, CacheConfig, Denoising, JointParams, MaxLogitCacheConfig, denoise
from mmada.sampling.joint import JointDenoising

from .tiny import TEMPLATE, planned, tiny

DRAWING = [name for name, family in FAMILIES.items() if "draw" in family.abilities]
EDITING = [name for name, family in FAMILIES.items() if "edit" in family.abilities]
PARALLEL = [name for name, family in FAMILIES.items() if "parallel" in family.abilities]

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
seeds = st.integers(0, 999)
sides = st.tuples(st.integers(1, 4), st.integers(2, 4))
"""of a grid of codes; the groups of the tiny tokenizers' norms have one channel, and need two places"""
few = settings(max_examples=4, deadline=None)


@pytest.fixture(scope="module")
def models():
    """Family -> a tiny model, made when it is first asked for."""
    made: dict[str, MMaDA] = {}

    def model(name: str) -> MMaDA:
        if name not in made:
            own = replace(FAMILIES[name], tags=(*FAMILIES[name].tags, "<|im_start|>", "<|im_end|>")) if name == "illada" else FAMILIES[name]
            made[name] = tiny(own)
            made[name].prompts.tokenizer.template = TEMPLATE if name == "illada" else None
        return made[name]

    return model


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Of (h, w) codes of 2 x 2 pixels."""
    pixels = torch.randint(256, (2 * size[0], 2 * size[1], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def filled(fill: Fill, model: MMaDA) -> list[int]:
    """The row when it is done; after each pass what is given is as it was.

    In the end no position is open, and every token is one that its field allows.
    """
    layout, canvas = model.layout, fill.canvas
    if isinstance(fill.params, JointParams):
        one = JointDenoising(canvas, fill.params, mask_id=layout.mask_id, negatives=fill.negatives, seed=fill.seeds[0])
    else:
        ends = {"eos_id": layout.eos_id, "stop_ids": [i for i in layout.end_ids if i != layout.eos_id]}
        one = Denoising([canvas], fill.params, mask_id=layout.mask_id, seeds=fill.seeds, negatives=list(fill.negatives) or None, **ends)
    is_open = torch.zeros(len(canvas), dtype=torch.bool)
    for field in canvas.fields:
        is_open[field.positions] = True
    assert 0 < int(is_open.sum()) < len(canvas)
    for _ in denoise([one], model.denoiser):
        assert torch.equal(one.canvas(0).tokens[~is_open], canvas.tokens[~is_open])
    found = one.token_ids(0).split([len(field.positions) for field in canvas.fields])
    for field, tokens in zip(canvas.fields, found, strict=True):
        assert layout.mask_id not in tokens
        assert all(token in field.ids for token in tokens.tolist())
    return torch.cat(found).tolist()


@few
@given(
    name=st.sampled_from(sorted(FAMILIES)), text=words, seed=seeds, cache=st.sampled_from(sorted(CACHES)), block=st.sampled_from([2, 4, 8])
)
def test_a_text_is_filled_whatever_the_cache(models, name, text, seed, cache, block):
    model = models(name)
    params = model.planner.text_params(cache=CACHES[cache], block_length=block, temperature=1.0)
    filled(planned(ChatRequest(text, max_new_tokens=8, params=params, seed=seed), model.planner), model)
    if "fill" in model.family.abilities:
        filled(
            planned(
                FillRequest(f"{text}[MASK:3]{text}", params=model.planner.fill_params().with_(temperature=1.0), seed=seed), model.planner
            ),
            model,
        )


@pytest.mark.parametrize("name", sorted(FAMILIES))
@few
@given(text=words, seed=seeds, after=st.sampled_from([None, 0]), temperature=st.sampled_from([0.0, 1.0]))
def test_a_cache_of_texts_is_exact_where_nothing_that_is_kept_changes(models, name, text, seed, after, temperature):
    model, cache = models(name), CacheConfig(after=after)

    def run(**changes) -> list[int]:
        params = model.planner.text_params(**{"block_length": 4, "threshold": 0.3, "temperature": temperature, **changes})
        return filled(planned(ChatRequest(text, max_new_tokens=8, params=params, seed=seed), model.planner), model)

    assert run(cache=replace(cache, refresh=1)) == run(cache=None)
    canvas = planned(ChatRequest(text, max_new_tokens=8), model.planner).canvas
    if (
        canvas.span[1] == int(canvas.fields[0].positions[-1]) + 1
    ):  # Lumina-DiMOO has an end token behind the answer, which blocks would have to see
        causal = {"full_attention": False, "variable_length": False}
        assert run(cache=cache, **causal) == run(cache=None, **causal)
    at_once = {"steps": 2, "threshold": None, "variable_length": False}
    assert run(cache=cache, **at_once) == run(cache=None, **at_once)


@few
@given(
    name=st.sampled_from(DRAWING),
    text=words,
    seed=seeds,
    size=sides,
    guidance=st.sampled_from([0.0, 2.0]),
    ratio=st.sampled_from([0.5, 0.9]),
)
def test_a_drawing_is_filled_and_its_cache_is_exact_where_nothing_is_left_out(models, name, text, seed, size, guidance, ratio):
    """Also where a part of the picture is given: those codes stay."""
    model = models(name)
    params = model.family.image_params(steps=5, guidance_scale=guidance)
    mask = Image.new("L", (2 * size[1], 2 * size[0]), 0)
    mask.paste(255, (0, 0, 2, 2))
    whole = DrawRequest(text, size=(2 * size[0], 2 * size[1]), params=params, seed=seed)
    part = DrawRequest(text, image=picture(size, seed), mask=mask, params=params, seed=seed)
    for request in (whole, part):
        exact = filled(planned(request, model.planner), model)
        cached, complete = (replace(request, params=params.with_(cache=MaxLogitCacheConfig(cache_ratio=r))) for r in (ratio, 0))
        filled(planned(cached, model.planner), model)
        assert filled(planned(complete, model.planner), model) == exact


@few
@given(
    name=st.sampled_from(EDITING),
    text=words,
    seed=seeds,
    size=sides,
    restyle=st.booleans(),
    scales=st.sampled_from([(0.0, 0.0), (2.5, 4.0)]),
)
def test_an_edit_keeps_its_sources_and_its_cache_is_exact_where_nothing_is_left_out(models, name, text, seed, size, restyle, scales):
    model = models(name)
    assert model.family.edit_params is not None
    params = model.family.edit_params(steps=5, guidance_scale=scales[0], image_guidance_scale=scales[1])
    images = [picture(size, seed + i) for i in range(2 if restyle else 1)]
    request = EditRequest(text, images, restyle=restyle, params=params, seed=seed)
    exact = filled(planned(request, model.planner), model)
    cached, complete = (replace(request, params=params.with_(cache=MaxLogitCacheConfig(cache_ratio=r))) for r in (0.9, 0))
    filled(planned(cached, model.planner), model)
    assert filled(planned(complete, model.planner), model) == exact


@few
@given(name=st.sampled_from(PARALLEL), text=words, seed=seeds, size=sides, order=st.sampled_from(["together", "text_first", "image_first"]))
def test_text_and_image_are_filled_in_any_order(models, name, text, seed, size, order):
    model = models(name)
    request = ParallelRequest(text, [picture(size, seed)], max_new_tokens=8, text_steps=6, image_steps=3, order=order, seed=seed)
    filled(planned(request, model.planner), model)
