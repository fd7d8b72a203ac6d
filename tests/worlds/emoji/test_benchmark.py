"""The judge's labels and spoilers, and the benchmark end to end on the debug model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.errors import InputError
from mmada.generation.requests import Drawing
from mmada.pipeline import MMaDA
from mmada.worlds.emoji import BACKGROUNDS, BOXES, KINDS, Scene, jittered_item, objects, render
from mmada.worlds.emoji.measure.benchmark import Settings, check_judge, contact_sheet, diversity, run
from mmada.worlds.emoji.measure.judge import (
    EMPTY,
    REJECT,
    Judge,
    _spoilt,
    background_of,
    boxes,
    labels_of,
    random_scene,
    the_judge,
    training_batches,
)
from mmada.worlds.emoji.measure.spoil import SPOILERS


@pytest.fixture(scope="module")
def judge() -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Judge(width=8).eval()


def scene(layout: str, **cells: str) -> Scene:
    rng = np.random.default_rng(0)
    places = {name.replace("_", " "): thing for name, thing in cells.items()}
    return Scene(layout, "white", tuple(jittered_item(thing, "noto", cell, rng) for cell, thing in places.items()))


def test_labels_of_boxes():
    grid = scene("grid", top_left="dog", bottom_right="red car" if "red car" in objects() else "car")
    labels = labels_of(grid, render(grid))
    assert (labels["top left"], labels["bottom right"], labels["top right"], labels["bottom left"]) == ("dog", "car", EMPTY, EMPTY)
    assert labels["center"] == REJECT
    single = scene("single", center="dog")
    labels = labels_of(single, render(single))
    assert labels["center"] == "dog"
    assert labels["top left"] == labels["left"] == REJECT


def test_backgrounds_are_read():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(100)]
    assert all(background_of(render(s)) == s.background for s in scenes)
    assert {s.background for s in scenes} == set(BACKGROUNDS)


@pytest.mark.parametrize("name", SPOILERS)
@pytest.mark.parametrize("side", [32, 64])
def test_spoilers_change_the_picture_and_keep_its_form(name, side):
    rng = np.random.default_rng(0)
    middle = slice(32 - side // 2, 32 + side // 2)
    dog, cat = (render(scene("single", center=thing))[middle, middle] for thing in ("dog", "cat"))
    for _ in range(20):
        spoilt = SPOILERS[name](dog, cat, rng)
        assert (spoilt.shape, spoilt.dtype) == (dog.shape, np.uint8)
        assert np.abs(spoilt.astype(int) - dog).mean() > 4


def test_training_batches_hold_every_class_and_are_repeatable():
    one, two = training_batches(64, seed=3), training_batches(64, seed=3)
    for side in (64, 32, 64):
        (x, y, s), (x2, y2, _) = next(one), next(two)
        assert s == side
        assert x.shape == (64, 3, side, side)
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert float(x.abs().max()) <= 1
        reject = len(objects()) + 1
        assert 0.1 < float((y == reject).float().mean()) < 0.9
        assert int((y < reject - 1).sum()) > 5


def test_spoilt_objects_are_labelled_reject():
    """A first version spoilt the pictures and kept their labels: the judge learnt to accept every smear."""
    rng = np.random.default_rng(0)
    things = [render(scene("single", center=thing)) for thing in ("dog", "cat", "bus")] * 100
    pictures, labels = _spoilt(things, ["thing"] * 300, rng)
    for before, after, label in zip(things, pictures, labels, strict=True):
        assert label == REJECT or after is before
    # 300 draws at 1/3: 100 +- 8; outside 60..140 with a probability below 1e-6. A few are mixed with themselves.
    assert 60 < labels.count(REJECT) < 140
    assert sum(not np.array_equal(x, y) for x, y in zip(things, pictures, strict=True)) > 0.8 * labels.count(REJECT)
    assert _spoilt(things[:1], [EMPTY], rng)[1] == [EMPTY]


def test_judge_reads_boxes_and_survives_saving(judge, tmp_path):
    pictures = np.stack([render(random_scene(np.random.default_rng(i))) for i in range(4)])
    assert {cell: tuple(box.shape[2:]) for cell, box in boxes(pictures).items()} == {cell: (s, s) for cell, (_, _, s) in BOXES.items()}
    findings = judge.look(pictures)
    assert len(findings) == 4
    for finding in findings:
        assert set(finding.cells.values()) <= {*objects(), REJECT}
        assert 0 <= finding.confidence <= 1
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.load(tmp_path / "judge.safetensors")
    assert [f.layout for f in again.look(pictures)] == [f.layout for f in findings]


def test_benchmark_runs_on_any_model(judge):
    debug = MMaDA.debug().use(max_new_tokens=16, max_thinking_tokens=16)
    kinds = ("arithmetic1", "count", "draw_two", "reason_more")
    settings = Settings(num=3, kinds=kinds, seed=1, batch=2, image_steps=4)
    steps = []
    outcomes = run(debug, judge, settings, on_step=lambda share, what: steps.append(what))
    assert [(o.kind, o.mode) for o in outcomes] == [(kind, mode) for kind in kinds for mode in ("direct", "think")]
    assert steps == [f"{o.kind} {o.mode}" for o in outcomes]
    for outcome in outcomes:
        found = outcome.to_dict()
        assert found["total"] == 3
        assert sum(part["total"] for part in found["held_out"].values()) == 3
        assert set(found["held_out"]) <= set(KINDS[outcome.kind].hold_outs)
        assert found["mean_forwards"] > 0
    # With and without thinking, the examples are the same.
    direct, think = (o for o in outcomes if o.kind == "count")
    assert [e.prompt for e, _, _ in direct.samples] == [e.prompt for e, _, _ in think.samples]
    sheet = contact_sheet(next(o for o in outcomes if o.kind == "draw_two").samples, columns=2)
    assert sheet.size == (2 * 136, 2 * 172)
    with pytest.raises(InputError, match="no drawing"):
        contact_sheet(direct.samples)


def test_reference_answers_are_right(debug, judge):
    """A model that answered with the references would score 100 %: the verifier and the request agree on every text kind."""
    from mmada.worlds.emoji import is_correct, sample

    for kind, entry in KINDS.items():
        if entry.task in ("text", "understand"):
            example = sample(kind, np.random.default_rng(0), "test")
            assert is_correct(example, example.answer)


def test_judge_report(debug, judge):
    report = check_judge(judge, None, num=12)
    assert set(report["refused"]) == set(report["refused_single"]) == set(SPOILERS)
    assert report["real"]["total"] == 12
    assert report["distance_real"] > 0


def test_the_judge_that_ships_reads_real_scenes_and_refuses_spoilt_art():
    """Measured (docs/results/judge.json): all of 1,000 scenes exactly, 84 % or more refused of each kind, of large objects 77 %; the bounds leave room
    for the 200 drawn here."""
    report = check_judge(the_judge(), None, num=200, seed=11)
    assert report["real"]["value"] >= 0.97
    assert min(kind["value"] for kind in report["refused"].values()) >= 0.76
    assert min(kind["value"] for kind in report["refused_single"].values()) >= 0.68


@pytest.mark.parametrize(("layout", "free"), [("row", (24, 0)), ("stack", (0, 24))])
def test_something_beside_two_objects_is_seen(layout, free):
    """Half of such a picture lies in no cell."""
    rng = np.random.default_rng(0)
    scene = next(s for s in iter(lambda: random_scene(rng), None) if s.layout == layout)
    picture = render(scene)
    assert the_judge().look(picture[None])[0].cells == scene.cells
    left, top = free
    picture[top : top + 10, left : left + 10] = 255 - picture[top : top + 10, left : left + 10]
    assert REJECT in the_judge().look(picture[None])[0].cells.values()


def test_bad_settings():
    for changes, message in (
        ({"kinds": ("cuont",)}, "did you mean 'count'"),
        ({"modes": ("dream",)}, "direct or think"),
        ({"num": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            Settings(**changes)


def test_contact_sheet_marks_wrong_drawings(debug):
    from mmada.worlds.emoji import sample

    example = sample("draw_single", np.random.default_rng(0), "test")
    drawing = debug.draw(example.prompt)
    sheet = contact_sheet([(example, drawing, True), (example, drawing, False)], columns=2)
    colours = [sheet.getpixel((2, 2)), sheet.getpixel((136 + 2, 2))]
    assert colours == [(0, 128, 0), (255, 0, 0)]
    assert isinstance(sheet, Image.Image)


def test_diversity_counts_what_the_seeds_of_a_prompt_show():
    """Three seeds of real pictures: one scene twice and another, or one that nobody recognises."""
    cat, dog = (render(scene("single", center=name)) for name in ("cat", "dog"))

    class Painter:
        def __init__(self, *pictures):
            self.pictures = pictures

        def run(self, requests):
            assert len({request.prompt for request in requests}) == 1
            return [Drawing(Image.fromarray(self.pictures[r.seed]), torch.zeros(8, 8), None, r.prompt, 12) for r in requests]

    found = diversity(Painter(cat, dog, cat), the_judge(), num=2, seeds=3)
    assert found["scenes"] == 2
    same = diversity(Painter(cat, cat, cat), the_judge(), num=2, seeds=3)
    assert same == {"scenes": 1, "distance": 0, "prompts": 2, "seeds": 3}
    assert found["distance"] > 1
    noise = np.random.default_rng(0).integers(0, 256, cat.shape, dtype=np.uint8)
    assert diversity(Painter(cat, noise, noise), the_judge(), num=1, seeds=3)["scenes"] == 1
    with pytest.raises(InputError, match="two seeds"):
        diversity(Painter(cat), the_judge(), num=1, seeds=1)
