"""Samples of the emoji world as training takes them: artwork that is varied, and pictures that are encoded once."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mmada.data.world import SampleKey
from mmada.errors import InputError
from mmada.rl.prompts import WorldPrompts
from mmada.train.world import WorldSamples
from mmada.worlds.emoji.source import EmojiWorld
from tests.train import tiny


def emoji(task, *, varied=0.0, **settings):
    return WorldSamples(EmojiWorld(varied=varied), task, tiny.encode, seed=0, **settings)


def said(sample):
    return sample.messages, sample.think, sample.answer


@pytest.mark.parametrize("task", ["understand", "interview"])
def test_varied_artwork_changes_what_is_seen_and_nothing_else(task):
    plain, varied = (emoji(task, varied=share).take(range(20)) for share in (0.0, 1.0))
    assert list(map(said, plain)) == list(map(said, varied))
    assert all((a.seen[0] != b.seen[0]).any() for a, b in zip(plain, varied, strict=True))


def test_drawings_and_tests_are_never_varied():
    for task, split in (("draw", "train"), ("reason_draw", "train"), ("understand", "test"), ("interview", "test")):
        plain, varied = (emoji(task, split=split, varied=share).take(range(10)) for share in (0.0, 1.0))
        for a, b in zip(plain, varied, strict=True):
            codes = [sample.drawn if split == "train" else sample.seen[0] for sample in (a, b)]
            assert torch.equal(*codes), (task, split)


def test_the_share_of_varied_pictures():
    plain, varied = (emoji("understand", varied=share).take(range(200)) for share in (0.0, 0.5))
    changed = sum((a.seen[0] != b.seen[0]).any().item() for a, b in zip(plain, varied, strict=True))
    # Five standard deviations of a binomial; the draws are fixed anyway.
    assert changed == pytest.approx(100, abs=5 * (200 * 0.25) ** 0.5)


def test_a_varied_picture_depends_on_its_index_alone():
    settings = {"varied": 0.5, "size": 8}
    seen = [sample.seen[0].tolist() for sample in emoji("understand", **settings).take(range(8))]
    backwards = emoji("understand", num_kept=2, **settings)
    for index in reversed(range(16)):
        assert backwards.take([index])[0].seen[0].tolist() == seen[index % 8]


def test_scenes_with_several_variations_are_encoded_together_and_kept_apart():
    counts = []

    def encode(pictures):
        counts.append(len(pictures))
        return tiny.encode(pictures)

    class OneScene(EmojiWorld):
        """One scene for every index."""

        def sample(self, key):
            first = super().sample(SampleKey(task=key.task, split=key.split, seed=key.seed, index=0, stream=key.stream))
            return replace(first, seen=(self._picture(key, first.origin.scene),))

    samples = WorldSamples(OneScene(varied=0.5), "understand", encode, seed=0)
    seen = {tuple(sample.seen[0].tolist()) for sample in samples.take(range(20))}
    samples.take(range(20))
    assert counts == [len(seen)]
    assert 1 < len(seen) < 20  # the plain artwork once, each variation by itself
    assert tuple(emoji("understand").take([0])[0].seen[0].tolist()) in seen


def test_prompts_of_the_emoji_world_depend_on_their_index_alone():
    source = WorldPrompts(EmojiWorld(), "understand", seed=0, think=0.5)
    many = source.take(range(20))
    again = WorldPrompts(EmojiWorld(), "understand", seed=0, think=0.5).take([7])
    assert (again[0].text, again[0].request.think) == (many[7].text, many[7].request.think)
    assert {p.request.think for p in many} == {True, False}
    assert all(p.reference == p.origin.answer and len(p.request.images) == 1 for p in many)
    assert {p.origin.kind for p in WorldPrompts(EmojiWorld(), "text", seed=0, kinds=("clue", "is_a")).take(range(20))} == {"clue", "is_a"}
    assert (
        WorldPrompts(EmojiWorld(), "draw", seed=1).take([0])[0].text
        != WorldPrompts(EmojiWorld(), "draw", seed=1, split="test").take([0])[0].text
    )
    assert all(p.request.think for p in WorldPrompts(EmojiWorld(), "reason_draw", seed=0, think=0.0).take(range(3)))
    with pytest.raises(InputError, match=r"kind='count' is none of task text"):
        WorldPrompts(EmojiWorld(), "text", seed=0, kinds=("count",))


def test_prompts_in_ordinary_english_have_kinds():
    for kind, made in (("story", "natural_problem"), ("sum", "natural_sum")):
        prompts = WorldPrompts(EmojiWorld(), "natural_text", name="part", seed=0, kinds=(kind,)).take(range(6))
        assert {(prompt.task, prompt.origin.kind) for prompt in prompts} == {("part", made)}


def test_emoji_world_does_not_wait_for_torch():
    code = "import sys, mmada.worlds.emoji; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "False"
