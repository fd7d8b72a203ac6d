"""Rewards of the emoji world: answers, captions, and drawings by a verifier of pictures."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mmada.canvas import split_thinking
from mmada.data.seeds import generator
from mmada.errors import InputError
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.rl.records import Prompt, Sample
from mmada.worlds.emoji import Example, Item, Scene, SceneSpec, canonical, is_correct, picture, render, sample, spec_of
from mmada.worlds.emoji.artwork import NOTHING, likeness, match
from mmada.worlds.emoji.measure.spoil import SPOILERS
from mmada.worlds.emoji.objects import SHAPES, objects
from mmada.worlds.emoji.rewards import caption, correct, drawn, objects_in_common
from mmada.worlds.emoji.source import EmojiWorld

WHITE = np.full((64, 64, 3), 255, np.uint8)


def text(written, *, origin=None, task="text"):
    thought = split_thinking(written)
    prompt = Prompt(task=task, index=0, request=ChatRequest("q"), origin=origin)
    return Sample(prompt=prompt, text=written, thinking=thought.thinking, answer=thought.answer, num_tokens=8, room=16)


def drawing(image, *, spec=None, prompt="a dog"):
    example = None if spec is None else Example(task="draw", kind="draw_single", prompt=prompt, spec=spec)
    return Sample(prompt=Prompt(task="draw", index=0, request=DrawRequest(prompt), origin=example), image=Image.fromarray(image))


def test_rewards_of_answers_do_not_bear_on_drawings():
    for reward in (correct, caption):
        assert reward([drawing(WHITE)]) == [None]


@pytest.mark.parametrize("kind", ["arithmetic2", "is_a", "count", "where", "caption", "reason_more"])
def test_correct_answers_of_the_emoji_world(kind):
    for index in range(10):
        example = sample(kind, generator("rl", kind, index))
        assert correct([text(f"<think> {example.think}</think> {example.answer}", origin=example)]) == [1]
        for wrong in ("", "<think> hm", "no idea", f"{example.answer} or not"):
            assert correct([text(wrong, origin=example)]) == [float(bool(wrong) and is_correct(example, wrong))]


def test_captions_by_how_much_they_say():
    items = (Item("dog", "noto", "left", 0, 16, 24), Item("cat", "noto", "right", 32, 16, 24))
    scene = Scene("row", "white", items)
    example = Example(task="understand", kind="caption", prompt="Describe.", answer="a dog left of a cat", scene=scene, spec=spec_of(scene))
    full = canonical(example.spec)
    partial = canonical(SceneSpec.of({"dog": 1, "cat": 1}))
    said = {full: 1.0, partial: 0.5 if partial != full else 1.0, canonical(SceneSpec.of({"dog": 2})): 0.0, "gibberish": 0.0, "": 0.0}
    assert caption([text(t, origin=example, task="understand") for t in said]) == list(said.values())


def scenes(num, seed=0):
    rng = np.random.default_rng(seed)
    return [picture(rng, "test" if i % 2 else "train") for i in range(num)]


def test_artwork_is_recognised():
    some = scenes(40)
    for scene, found in zip(some, match(np.stack([render(scene) for scene in some])), strict=True):
        assert (found.cells, found.background) == (scene.cells, scene.background)
        assert found.left_over < 1e-4


@pytest.mark.parametrize("spoiler", [name for name in SPOILERS if name != "blurred"])
def test_spoilt_artwork_is_refused(spoiler):
    rng = np.random.default_rng(1)
    singles = [scene for scene in scenes(200) if scene.layout == "single"]
    if spoiler == "pieced":  # which leaves plain shapes what they are
        singles = [scene for scene in singles if objects()[scene.items[0].name].category not in SHAPES]
    shown = [render(scene) for scene in singles]
    spoilt = np.stack([SPOILERS[spoiler](one, other, rng) for one, other in pairwise(shown)])
    refused = [found.cells != scene.cells for found, scene in zip(match(spoilt), singles, strict=False)]
    assert sum(refused) / len(refused) >= (0.8 if spoiler == "pieced" else 0.9)


def test_noise_is_no_object():
    found = match(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    assert all(NOTHING in one.cells.values() for one in found)
    (plain,) = match(WHITE[None])
    assert plain.cells == {"": NOTHING}
    with pytest.raises(InputError, match="pictures have the shape"):
        match(WHITE)


def test_drawings_satisfy_or_not():
    scene = Scene("row", "white", (Item("dog", "noto", "left", 0, 16, 24), Item("cat", "noto", "right", 32, 16, 24)))
    shown = render(scene)
    specs = {
        1.0: SceneSpec.of({"dog": 1, "cat": 1}),
        0.0: SceneSpec.of({"dog": 2}),
    }
    for value, spec in specs.items():
        assert drawn([drawing(shown, spec=spec)], verifier=match) == [value]
    samples = [drawing(shown, spec=SceneSpec.of(counts)) for counts in ({"dog": 1, "cat": 1}, {"dog": 2}, {"dog": 1}, {"pig": 1})]
    assert objects_in_common(samples, verifier=match) == pytest.approx([1, 1 / 3, 1 / 2, 0])
    assert drawn([drawing(WHITE, spec=specs[1.0]), drawing(shown), text("x")], verifier=match) == [0.0, None, None]


def test_a_drawing_that_falls_apart_is_like_what_was_asked_for_in_part():
    scene = Scene("single", "white", (Item("dog", "noto", "center", 8, 8, 48),))
    shown = render(scene)
    values = []
    for height in (64, 44, 36):  # rows that are left of it
        torn = shown.copy()
        torn[height:] = 255
        values += likeness([drawing(torn, spec=SceneSpec.of({"dog": 1}))])
    whole, most, half = values
    assert whole == pytest.approx(1)
    assert whole > most > half > 0.2
    row = Scene("row", "white", (Item("dog", "noto", "left", 0, 16, 24), Item("cat", "noto", "right", 32, 16, 24)))
    samples = [drawing(render(row), spec=SceneSpec.of(counts)) for counts in ({"dog": 1, "cat": 1}, {"dog": 2}, {"dog": 1}, {"pig": 1})]
    assert likeness(samples) == pytest.approx([1, 1 / 3, 1 / 2, 0])
    assert likeness([drawing(WHITE, spec=SceneSpec.of({"dog": 1}))]) == [0]


def test_the_verifier_is_an_option_of_the_world():
    assert set(EmojiWorld().rewards()) == {"correct", "caption", "drawn", "objects", "likeness"}
    with pytest.raises(InputError, match=r"data.options.verifier='missing.safetensors' is no file"):
        EmojiWorld(verifier="missing.safetensors").rewards()
    with pytest.raises(InputError, match=r"data.options.varied=2"):
        EmojiWorld(varied=2.0)
