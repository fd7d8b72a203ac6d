"""Rewards by tables of good and bad answers."""

import math
import sys
import time
import types
from dataclasses import replace
from importlib.util import find_spec

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
from mmada.rl.rewards.world import correct
from mmada.worlds.shapes import Scene, Shapes, nearness, render


def text(written, *, think=False, reference="", num_tokens=8, room=16, image=None, origin=None, task="text"):
    thought = split_thinking(written)
    request = ChatRequest("q", think=think)
    prompt = Prompt(task=task, index=0, request=request, reference=reference, origin=origin)
    return Sample(
        prompt=prompt, text=written, thinking=thought.thinking, answer=thought.answer, num_tokens=num_tokens, room=room, image=image
    )


def drawing(image, *, origin=None, prompt="a dog"):
    return Sample(prompt=Prompt(task="draw", index=0, request=DrawRequest(prompt), origin=origin), image=Image.fromarray(image))


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
    rewards = (think_format, exact, *((math_verified,) if find_spec("math_verify") else ()))
    for reward in rewards:
        assert reward([drawing(WHITE)]) == [None]
    assert brevity([drawing(WHITE)]) == [None]


def test_the_verifier_of_a_world_is_a_reward():
    scene, reward = Scene("red", "circle", "top left"), correct(Shapes())
    other = render(Scene("red", "circle", "top right"))
    assert reward([text("5", origin="5"), text("<think> 2 and 3</think> five", origin="5"), text("6", origin="5"), text("5")]) == [
        1,
        1,
        0,
        None,
    ]
    assert reward([drawing(render(scene), origin=scene), drawing(other, origin=scene), drawing(render(scene))]) == [1, 0, None]
    assert reward([text("A red circle at the top left.", origin=scene), text("a red circle", origin=scene)]) == [1, 0]
    pale = (render(scene) * 0.75 + 255 * 0.25).round().astype(np.uint8)  # a quarter of the way to an empty canvas
    values = nearness(
        [drawing(render(scene), origin=scene), drawing(pale, origin=scene), drawing(other, origin=scene), text("x", origin=scene)]
    )
    assert values == [1, pytest.approx(15 / 16, abs=0.01), 0, None]


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
