"""Every family through the pipeline and the command line, on tiny checkpoints with random weights."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mmada.cli import main
from mmada.errors import InputError
from mmada.families import FAMILIES, named
from mmada.generation.requests import ChatRequest, DrawRequest, EditRequest, FillRequest, ParallelRequest
from mmada.pipeline import MMaDA
from mmada.sampling import MaxLogitCacheConfig, SamplingParams

from .tiny import TEMPLATED, tiny

PICTURE = Image.new("RGB", (8, 12), "red")
OTHER = Image.new("RGB", (8, 12), "blue")
OPEN = SamplingParams(steps=4, stop_at_eos=False, temperature=1.0)


@pytest.fixture(scope="module")
def models() -> dict[str, MMaDA]:
    return {name: tiny(family) for name, family in FAMILIES.items() if name not in TEMPLATED}


def requests_of(model: MMaDA) -> list:
    """One request of every kind that the family can do."""
    kinds = {
        "chat": ChatRequest("Hi", max_new_tokens=8, params=OPEN, seed=3),
        "look": ChatRequest("What?", images=[PICTURE], max_new_tokens=8, params=OPEN, seed=4),
        "draw": DrawRequest("a cat", size=(8, 12), seed=5),
        "fill": FillRequest("a [MASK:3] b", params=OPEN, seed=6),
        "inpaint": DrawRequest("a cat", image=PICTURE, mask=Image.new("L", (8, 12), 255), seed=7),
        "edit": EditRequest("a hat", [PICTURE], steps=3, seed=8),
        "parallel": ParallelRequest("a hat", [PICTURE], max_new_tokens=8, text_steps=6, image_steps=3, seed=9),
    }
    return [request for ability, request in kinds.items() if ability in model.family.abilities]


def compared(result) -> tuple:
    answer = getattr(result, "answer", None)
    codes = getattr(result, "codes", torch.zeros(1)).tolist()
    return codes, getattr(result, "token_ids", None), answer.token_ids if answer is not None else None


@pytest.mark.parametrize("name", ["lumina-dimoo", "mmada-parallel-a"])
def test_an_edit_with_a_cache_evaluates_less_and_is_exact_where_nothing_is_left_out(models, name):
    """Three rows: with words and source, without words, without source."""
    model, asked = models[name], EditRequest("a hat", [PICTURE], steps=8, seed=8)

    def run(request: EditRequest) -> tuple[list[list[int]], int]:
        before = model.denoiser.num_tokens
        (drawn,) = model.run([request])
        return drawn.codes.tolist(), model.denoiser.num_tokens - before

    whole, num_whole = run(asked)
    _, num_cached = run(replace(asked, image_cache="max-logit"))
    assert num_cached < 0.8 * num_whole
    assert model.family.edit_params is not None
    exact = model.family.edit_params(steps=8).with_(cache=MaxLogitCacheConfig(cache_ratio=0))
    assert run(replace(asked, params=exact, steps=None)) == (whole, num_whole)
    assert run(replace(asked, params=exact, steps=None, image_cache="max-logit"))[1] == num_cached
    # Alone or among others, and by the checkpoint's own setting.
    cached = replace(asked, image_cache="max-logit")
    together = model.run([cached, DrawRequest("a cat", size=(8, 12), seed=5), asked])
    assert [together[i].codes.tolist() for i in (0, 2)] == [run(cached)[0], whole]
    before = model.defaults
    try:
        model.use(image_cache="max-logit")
        assert run(asked) == run(cached)
        assert run(replace(asked, image_cache="none")) == (whole, num_whole)
    finally:
        model.use(image_cache=before.image_cache)
    with pytest.raises(InputError, match="image_cache='max' is unknown: known names are max-logit"):
        model.run([replace(asked, image_cache="max")])


@pytest.mark.parametrize("name", ["lumina-dimoo", "mmada-parallel-a"])
def test_edits_end_sooner_where_codes_are_sure(models, name):
    model, asked = models[name], EditRequest("a hat", [PICTURE], steps=8, seed=8)
    (sure,) = model.run([replace(asked, image_threshold=1e-9)])
    assert sure.num_forwards == 1
    try:
        model.use(image_threshold=1e-9)
        by_checkpoint, whole = model.run([asked, replace(asked, image_threshold=1)])
    finally:
        model.use(image_threshold=1.0)
    assert by_checkpoint.codes.tolist() == sure.codes.tolist()
    assert whole.num_forwards == 8


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TEMPLATED])
def test_requests_of_every_kind_share_steps(models, name):
    """Each result is that of the request alone."""
    model = models[name]
    requests = requests_of(model)
    assert len(requests) == len(model.family.abilities)
    together = model.run(requests)
    for request, result in zip(requests, together, strict=True):
        (alone,) = model.run([request])
        assert compared(alone) == compared(result), type(request)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TEMPLATED])
@pytest.mark.parametrize(
    ("ability", "ask"),
    [
        ("draw", DrawRequest("a cat")),
        ("edit", EditRequest("x", [PICTURE])),
        ("parallel", ParallelRequest("x", [PICTURE])),
        ("fill", FillRequest("a [MASK] b")),
    ],
)
def test_what_a_family_cannot_do_is_one_sentence(models, name, ability, ask):
    model = models[name]
    if ability in model.family.abilities:
        return
    able = [family.title for family in FAMILIES.values() if ability in family.abilities]
    with pytest.raises(InputError, match=f"^{model.family.title} cannot .*; {', '.join(able)} can$"):
        model.run([ask])


def test_an_image_of_any_size_has_a_newline_after_each_row(models):
    model = models["lumina-dimoo"]
    drawing = model.draw("a cat", size=(6, 14), steps=3)
    assert drawing.codes.shape == (3, 7)
    assert drawing.image.size == (14, 6)
    assert model.draw("a cat", size=(6, 14), steps=3).codes.tolist() == drawing.codes.tolist()


def test_words_and_sources_count(models):
    model = models["lumina-dimoo"]
    plain = model.edit("a hat", [PICTURE], steps=3, guidance_scale=0, image_guidance_scale=0)
    assert plain.num_forwards == 3
    others = [
        model.edit("a hat", [PICTURE], steps=3, guidance_scale=3, image_guidance_scale=0),
        model.edit("a hat", [PICTURE], steps=3, guidance_scale=0, image_guidance_scale=3),
        model.edit("a hat", [PICTURE, OTHER], steps=3, restyle=True),
    ]
    assert len({str(drawing.codes.tolist()) for drawing in (plain, *others)}) == 4
    with pytest.raises(InputError, match="1 images with restyle=True"):
        model.edit("a hat", [PICTURE], restyle=True)


@pytest.mark.parametrize("name", ["mmada-parallel-m", "mmada-parallel-a"])
def test_fields_are_filled_in_any_order(models, name):
    model = models[name]
    found = {}
    for order in ("together", "text_first", "image_first"):
        drawing = model.write_and_draw("a hat", [PICTURE], max_new_tokens=8, text_steps=6, image_steps=3, order=order, trace=True, seed=1)
        fields = [step.slots[0] >= 8 for step in drawing.trace]
        assert drawing.num_forwards == (6 if order == "together" else 9)
        assert len(drawing.answer.token_ids) == 8
        assert model.layout.mask_id not in drawing.answer.token_ids
        found[order] = fields, drawing.codes.tolist(), drawing.answer.token_ids
    assert len({str(value) for value in found.values()}) == 3
    with pytest.raises(InputError, match=r"order='first' is unknown"):
        model.write_and_draw("a hat", [PICTURE], order="first")


def test_both_fields_can_be_watched(models):
    model, seen = models["mmada-parallel-a"], []

    def watch(progress):
        codes, is_open = progress.codes()
        seen.append((progress.fraction, int(is_open.sum()), sum(not final for _, final in progress.pieces())))
        assert progress.image().size == PICTURE.size
        assert codes.shape == is_open.shape

    drawing = model.write_and_draw("a hat", [PICTURE], max_new_tokens=8, text_steps=6, image_steps=3, on_step=watch)
    fractions, codes, words = zip(*seen, strict=True)
    assert fractions[-1] == 1
    assert list(fractions) == sorted(fractions)
    assert (codes[0], codes[-1], words[-1]) == (drawing.codes.numel(), 0, 0)
    assert list(words) == sorted(words, reverse=True)


@pytest.fixture
def mmada(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmada", *args])
        status = 0
        try:
            main()
        except SystemExit as leave:
            status = leave.code or 0
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TEMPLATED])
def test_command_line(mmada, models, tmp_path, name):
    models[name].save_pretrained("model")
    PICTURE.save("red.png")
    family = named(name)
    status, out, err = mmada("info", "-m", "model", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert (facts["family"], facts["can"]) == (family.title, ", ".join(sorted(family.abilities)))
    calls = {
        "chat": ("chat", "Hi"),
        "look": ("ask", "red.png", "What?"),
        "draw": ("draw", "a cat", "--size", "8x12", "--steps", "2", "-o", "a.png"),
        "fill": ("fill", "a [MASK:2] b"),
        "inpaint": ("fill", "-i", "red.png", "--extend", "2,0,0,0", "-p", "a cat", "--steps", "2", "-o", "b.png"),
        "edit": ("edit", "red.png", "a hat", "--no-think", "--steps", "2", "-o", "c.png"),
        "parallel": ("edit", "red.png", "a hat", "--think", "--steps", "2", "--max-new-tokens", "8", "-o", "d.png"),
    }
    for ability, call in calls.items():
        status, _, err = mmada(*call, "-m", "model")
        assert "Traceback" not in err
        if ability in family.abilities:
            assert status in (0, 1), err  # 1: an answer of random weights that stayed empty
        else:
            assert status == 2
            assert f"{family.title} cannot" in err
    for file, ability in (("a.png", "draw"), ("b.png", "inpaint"), ("c.png", "edit"), ("d.png", "parallel")):
        assert (tmp_path / file).exists() == (ability in family.abilities)
