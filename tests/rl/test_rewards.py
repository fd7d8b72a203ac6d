"""Rewards by tables of good and bad answers."""

import math
import sys
import time
import types
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.canvas import split_thinking
from mmada.errors import CheckpointError, InputError, MissingDependencyError
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.rl.records import Prompt, Sample
from mmada.rl.rewards import combine, pictures
from mmada.rl.rewards.text import brevity, exact, math_verified, think_format
from mmada.train.seeds import generator
from mmada.worlds.emoji import Example, Item, Scene, SceneSpec, canonical, is_correct, picture, render, sample, spec_of
from mmada.worlds.emoji.artwork import NOTHING, likeness, match
from mmada.worlds.emoji.measure.spoil import SPOILERS
from mmada.worlds.emoji.objects import SHAPES, objects
from mmada.worlds.emoji.rewards import caption, correct, drawn, objects_in_common


def text(written, *, think=False, reference="", num_tokens=8, room=16, image=None, example=None, task="text"):
    thought = split_thinking(written)
    request = ChatRequest("q", think=think)
    prompt = Prompt(task=task, index=0, request=request, reference=reference, example=example)
    return Sample(
        prompt=prompt, text=written, thinking=thought.thinking, answer=thought.answer, num_tokens=num_tokens, room=room, image=image
    )


def drawing(image, *, spec=None, prompt="a dog"):
    example = None if spec is None else Example(task="draw", kind="draw_single", prompt=prompt, spec=spec)
    return Sample(prompt=Prompt(task="draw", index=0, request=DrawRequest(prompt), example=example), image=Image.fromarray(image))


WHITE = np.full((64, 64, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("written", "think", "value"),
    [
        ("<think> a</think> 7", True, 1),
        ("<think> a</think>", True, 0),
        ("<think> a", True, 0),
        ("7", True, 0),
        ("", True, 0),
        ("<think> a</think> 7 <think> b</think> 8", True, 0),
        ("7", False, 1),
        ("<think> a</think> 7", False, 0),
        ("", False, 0),
    ],
)
def test_format(written, think, value):
    assert think_format([text(written, think=think)]) == [value]


def test_brevity_and_exact():
    assert brevity([text("x", num_tokens=n, room=16) for n in (0, 8, 16, 40)]) == [1.0, 0.5, 0.0, 0.0]
    said = {"7": 1, "The 7.": 1, "seven": 1, "<think> it is 8</think> 7": 1, "8": 0, "": 0, "<think> 7": 0}
    assert exact([text(t, reference="7") for t in said]) == list(said.values())
    assert exact([text("7")]) == [None]
    assert exact([text("5", reference=".5"), text("0.5.", reference="0.5"), text("!", reference="!")]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("written", "reference", "value"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5", 1),
        ("<think> so</think> The answer is $x = 4$", "4", 1),
        ("12", "12", 1),
        ("1,200", "1200", 1),
        (r"\boxed{13}", "12", 0),
        ("", "12", 0),
        ("<think> 12", "12", 0),
        ("The farmer has 22 sheep.", "22", 1),  # not 22 times t times h times e
        ("22", "22 sheep", 1),
        ("the cat", "act the", 0),
        ("x^2 + 1", "1 + x^2", 1),
        (r"$\sqrt{8}$", r"2\sqrt{2}", 1),
    ],
)
def test_mathematical_equality(written, reference, value):
    pytest.importorskip("math_verify")
    assert math_verified([text(written, reference=reference)]) == [value]


def test_a_comparison_that_takes_too_long_is_given_up(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr("mmada.rl.rewards.text._SECONDS", 1)
    begin = time.monotonic()
    assert math_verified([text("9^{9^{9^{9}}}", reference="12")]) == [0]
    assert time.monotonic() - begin < 10


def test_mathematical_equality_wants_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmada\[rl\]'"):
        math_verified([text("1", reference="1")])


def test_rewards_of_texts_do_not_bear_on_drawings():
    rewards = (think_format, exact, correct, caption, *((math_verified,) if find_spec("math_verify") else ()))
    for reward in rewards:
        assert reward([drawing(WHITE)]) == [None]
    assert brevity([drawing(WHITE)]) == [None]


@pytest.mark.parametrize("kind", ["arithmetic2", "is_a", "count", "where", "caption", "reason_more"])
def test_correct_answers_of_the_emoji_world(kind):
    for index in range(10):
        example = sample(kind, generator("rl", kind, index))
        assert correct([text(f"<think> {example.think}</think> {example.answer}", example=example)]) == [1]
        for wrong in ("", "<think> hm", "no idea", f"{example.answer} or not"):
            assert correct([text(wrong, example=example)]) == [float(bool(wrong) and is_correct(example, wrong))]


def test_captions_by_how_much_they_say():
    items = (Item("dog", "noto", "left", 0, 16, 24), Item("cat", "noto", "right", 32, 16, 24))
    scene = Scene("row", "white", items)
    example = Example(task="understand", kind="caption", prompt="Describe.", answer="a dog left of a cat", scene=scene, spec=spec_of(scene))
    full = canonical(example.spec)
    partial = canonical(SceneSpec.of({"dog": 1, "cat": 1}))
    said = {full: 1.0, partial: 0.5 if partial != full else 1.0, canonical(SceneSpec.of({"dog": 2})): 0.0, "gibberish": 0.0, "": 0.0}
    assert caption([text(t, example=example, task="understand") for t in said]) == list(said.values())


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


def test_parts_are_weighted_and_kept():
    samples = [text("a"), text("b"), text("c"), text("d")]
    rewards = {
        "one": (2.0, lambda _: [1.0, 0.0, None, None]),
        "other": (0.5, lambda _: [1.0, math.nan, 1.0, None]),
    }
    scores = combine(samples, rewards)
    assert scores.total[0] == 2.5
    assert math.isnan(scores.total[1])
    assert scores.total[2] == 0.5
    assert math.isnan(scores.total[3])  # nothing bears on it
    assert scores.parts["one"] == (1.0, 0.0, None, None)
    with pytest.raises(InputError, match=r"reward 'short' returned 1 values for 4 samples"):
        combine(samples, {"short": (1.0, lambda _: [1.0])})


# Learned rewards.


def test_similarity_is_the_cosine():
    one, other = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [-1.0, -1.0]])
    assert pictures.similarity(one, other).tolist() == pytest.approx([1, -1])


def test_scores_of_pairs_reach_the_samples_they_belong_to():
    seen = []

    def score(texts, images):
        seen.append((list(texts), [image.size for image in images]))
        return [float(len(t)) for t in texts]

    reward = pictures.from_pairs(score)
    assert reward([drawing(WHITE, prompt="a cat"), text("x"), drawing(WHITE, prompt="two")]) == [5.0, None, 3.0]
    assert seen == [(["a cat", "two"], [(64, 64), (64, 64)])]
    shown = text("a red heart", task="understand")
    shown = replace(shown, prompt=replace(shown.prompt, request=ChatRequest("What?", images=[Image.fromarray(WHITE)])))
    assert pictures.from_pairs(score, caption=True)([shown, text("x")]) == [11.0, None]


def test_clip_scores_by_a_tiny_clip(monkeypatch):
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"text_config": {**small, "vocab_size": 64, "eos_token_id": 1}, "vision_config": {**small, "image_size": 8, "patch_size": 4}}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(**sizes, projection_dim=8))

    class Processor:
        """Letters and mean colours instead of a tokenizer's files."""

        def __call__(self, text, images, **_):
            from transformers import BatchEncoding

            ids = torch.tensor([[2 + ord(c) % 60 for c in t.ljust(6)[:6]] + [1] for t in text])
            pixels = torch.stack([torch.from_numpy(np.asarray(i.resize((8, 8))).copy()).permute(2, 0, 1) / 255 for i in images])
            return BatchEncoding({"input_ids": ids, "pixel_values": pixels})

    monkeypatch.setattr(CLIPModel, "from_pretrained", lambda name: clip)
    monkeypatch.setattr(CLIPProcessor, "from_pretrained", lambda name: Processor())
    samples = [drawing(WHITE, prompt="a cat"), drawing(WHITE // 3, prompt="a dog"), text("x")]
    pick, score = pictures.pick_score("any")(samples), pictures.clip_score("any")(samples)
    assert (pick[2], score[2]) == (None, None)
    scale = float(clip.logit_scale.detach().exp())
    assert score[:2] == pytest.approx([max(0.0, 100 * value / scale) for value in pick[:2]], rel=1e-4)


def test_weights_and_packages_that_are_not_there_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="give a directory with its weights"):
        pictures.clip_score(str(tmp_path))
    with pytest.raises(MissingDependencyError, match="image-reward"):
        pictures.image_reward()
    with pytest.raises(MissingDependencyError, match="hpsv2"):
        pictures.hps()


def test_packages_are_asked_for_each_pair(monkeypatch):
    model = types.SimpleNamespace(score=lambda prompt, image: len(prompt) + image.size[0])
    monkeypatch.setitem(sys.modules, "ImageReward", types.SimpleNamespace(load=lambda name, device: model))
    monkeypatch.setitem(
        sys.modules, "hpsv2", types.SimpleNamespace(score=lambda path, prompt, hps_version: [Image.open(path).size[0] / 100])
    )
    samples = [drawing(WHITE, prompt="a cat"), text("x")]
    assert pictures.image_reward()(samples) == [69.0, None]
    assert pictures.hps()(samples) == [0.64, None]
