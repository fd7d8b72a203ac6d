"""The tutorial's world: exact, with a test side of its own, and good for every stage, reward and suite."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from mmada.data.world import SampleKey, SuiteSettings
from mmada.eval.exact import ExactSuite, suites_of
from mmada.pipeline import MMaDA
from mmada.worlds.shapes import SCENES, SIZE, Scene, Shapes, render, see

WORLD = Shapes()


def samples(task, split="train", num=300, **changes):
    return [WORLD.sample(SampleKey(task=task, split=split, seed=0, index=i, stream="shapes", **changes)) for i in range(num)]


def test_every_picture_is_seen_as_what_it_is():
    assert len({render(scene).tobytes() for scene in SCENES}) == len(SCENES) == 48
    for scene in SCENES:
        assert see(render(scene)) == (scene, 1.0)
    assert see(np.full((32, 32, 3), 255, np.uint8))[1] == 0


@pytest.mark.parametrize("task", ["text", "understand", "draw", "reason_draw"])
def test_references_are_right_and_others_are_not(task):
    for split in ("train", "test"):
        some = samples(task, split, 40)
        for one, other in product(some, some[:5]):
            answer = one.drawn if one.drawn is not None else one.answer
            assert WORLD.verify(one.origin, answer)
            assert WORLD.verify(other.origin, answer) == (one.origin == other.origin)


def test_no_test_sample_is_trained_on():
    for task in ("text", "draw", "reason_draw"):
        train, test = ({str(s.messages) for s in samples(task, split)} for split in ("train", "test"))
        assert train
        assert test
        assert not train & test
    seen = [{s.seen[0].tobytes() for s in samples("understand", split)} for split in ("train", "test")]
    assert (len(seen[0]), len(seen[1]), seen[0] & seen[1]) == (40, 8, set())


def test_tasks_have_the_parts_that_their_layouts_need():
    assert {m.role for s in samples("interview", num=5) for m in s.messages} == {"user", "assistant"}
    assert all(len(s.pieces) == 12 for s in samples("sums", num=5))
    assert {str(s.messages) for s in samples("understand", kinds=("shape",))} == {"what shape is it?"}
    thought = samples("reason_draw", num=1)[0]
    assert (thought.answer, thought.drawn.tobytes()) == (thought.origin.prompt, render(thought.origin).tobytes())


def test_the_general_suite_measures_every_kind_and_mode():
    suite = suites_of(WORLD)["shapes"]
    assert isinstance(suite, ExactSuite)
    model, steps = MMaDA.debug(), []
    model.use(image_steps=2, max_new_tokens=8, max_thinking_tokens=8, block_length=8)
    measured = suite.run(model, SuiteSettings(num=3, batch=2, model="debug"), lambda share, what: steps.append(what))
    rows = measured.values["outcomes"]
    kinds = ["text", "color", "shape", "place", "interview", "draw", "reason_draw"]
    assert [(row["kind"], row["mode"]) for row in rows] == list(product(kinds, ("direct", "think")))
    assert steps == [f"{row['kind']} {row['mode']}" for row in rows]
    assert all(row["total"] == 3 and row["mean_forwards"] >= 1 for row in rows)
    assert len(measured.lines) == 1 + len(rows)


def test_the_suite_counts_what_the_verifier_calls_right(monkeypatch):
    wanted = iter([True, False, True, True])
    monkeypatch.setattr(Shapes, "verify", lambda self, origin, answer: next(wanted))
    settings = SuiteSettings(num=4, kinds=("text",), modes=("direct",))
    measured = suites_of(WORLD)["shapes"].run(MMaDA.debug().use(max_new_tokens=8, block_length=8), settings, lambda share, what: None)
    (row,) = measured.values["outcomes"]
    assert (row["correct"], row["total"]) == (3, 4)


def test_a_scene_says_itself():
    assert Scene("red", "circle", "top left").prompt == "a red circle at the top left"


def test_a_drawing_of_a_model_that_draws_larger_is_judged_in_the_size_of_the_world():
    world = Shapes()
    sample = world.sample(SampleKey(task="draw", split="test", seed=0, index=0, stream="suite"))
    large = Image.fromarray(sample.drawn).resize((4 * SIZE, 4 * SIZE), Image.Resampling.NEAREST)
    assert world.verify(sample.origin, world.pixels_of(large))
