"""What the engine and a world agree on: keys, defaults, and how a world is found."""

from dataclasses import dataclass

import numpy as np
import pytest

from mmada.data.find_world import find_world, installed_worlds
from mmada.data.seeds import generator, uniforms
from mmada.data.world import SampleKey, World, WorldSample
from mmada.errors import InputError
from mmada.worlds.shapes import Shapes


@dataclass(frozen=True)
class Doubles(World):
    """The least that a world can be, with an option."""

    largest: int = 9
    name = "doubles"
    tasks = ("text", "gaps")
    gap_tasks = ("gaps",)

    def sample(self, key):
        n = int(key.rng().integers(self.largest + 1))
        return WorldSample(f"twice {n}?", think=f"{n} + {n}", answer=str(2 * n))


NOT_A_WORLD = {"name": "text"}


def key(**changes):
    return SampleKey(**{"task": "text", "split": "train", "seed": 3, "index": 5, "stream": "doubles", **changes})


def test_what_a_key_draws_depends_on_all_of_it_and_on_nothing_else():
    drawn = [key(**changes).rng().random() for changes in ({}, {}, {"split": "test"}, {"seed": 4}, {"index": 6}, {"stream": "prompt"})]
    assert drawn[0] == drawn[1] == generator("doubles", "text", "train", 3, 5).random()
    assert len(set(drawn)) == 5
    assert key().rng("variation").random() == generator("variation", "text", 3, 5).random() != drawn[0]
    assert key().uniform("is varied") == uniforms(1, "is varied", "text", 3, 5)[0]


def test_a_world_of_one_method_has_defaults_for_the_rest():
    world = Doubles()
    assert world.sample(key()).answer in {str(2 * n) for n in range(10)}
    assert (world.kinds, world.rewards(), world.suites(), world.recipes, world.image_size) == ({}, {}, {}, None, 0)
    assert not world.verifies
    with pytest.raises(InputError, match="'doubles' does not verify"):
        world.verify(None, "1")
    with pytest.raises(InputError, match="'doubles' has no pictures"):
        world.picture(np.random.default_rng(0), "train")
    with pytest.raises(TypeError, match="abstract"):
        World()


def test_the_corpus_says_what_samples_say_thoughts_too_and_leaves_gaps_out():
    texts = list(Doubles().corpus(4))
    assert len(texts) == 3 * 4
    assert texts[0].startswith("twice ")
    assert texts[2] == f"<think> {texts[0][6:-1]} + {texts[0][6:-1]}</think> {texts[1]}"
    assert any("what color is it?" in text for text in Shapes().corpus(20))


def test_a_world_is_found_by_its_name_or_its_path():
    assert "shapes" in installed_worlds()
    assert isinstance(find_world("shapes"), Shapes)
    path = f"{__name__}:Doubles"
    assert find_world(path).name == "doubles"
    assert find_world(path, {"largest": 0}).sample(key()).answer == "0"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shape", {}, "world 'shape' is not installed; there are .*shapes.* register your own as an entry point of the group mmada.worlds"),
        ("shapes", {"size": 3}, "unknown setting data.options.size"),
        (f"{__name__}:Doubles", {"larges": 3}, "unknown setting data.options.larges: did you mean 'largest'?"),
        (f"{__name__}:Triples", {}, "cannot be imported .*; put its folder on PYTHONPATH"),
        ("no.such.module:World", {}, "cannot be imported"),
        (f"{__name__}:NOT_A_WORLD", {}, "is a dict; make it a subclass of mmada.data.world.World"),
    ],
)
def test_a_world_that_cannot_be_used_is_an_error(name, options, message):
    with pytest.raises(InputError, match=message):
        find_world(name, options)
