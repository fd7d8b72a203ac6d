"""Laws of noise, and stages as values."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mmada.diffusion.schedule import cosine, text_mask_ratio
from mmada.errors import InputError
from mmada.train.stages import STAGES, ImageStage, MixtureComponent, Stage, draw_mask, exact_mask


def generator():
    return torch.Generator().manual_seed(1)


def test_independent_noise_masks_each_position_with_the_probability_of_its_time():
    drawn, p = draw_mask("independent", 100_000, 0.3, generator())
    assert p == pytest.approx(float(text_mask_ratio(torch.tensor(0.3))))
    # Five standard deviations: a false alarm in 2 million.
    assert float(drawn.float().mean()) == pytest.approx(p, abs=5 * (p * (1 - p) / 100_000) ** 0.5)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("n", [1, 2, 16, 64])
def test_a_schedule_masks_its_share_exactly_and_at_least_one(t, n):
    drawn, p = draw_mask("cosine", n, t, generator())
    expected = max(1, round(n * float(cosine.mask_ratio(torch.tensor(t)))))
    assert int(drawn.sum()) == expected
    assert p == expected / n


def test_counts_are_uniform_over_times():
    n = 8
    counts = [int(draw_mask("count", n, (i + 0.5) / 80, generator())[0].sum()) for i in range(80)]
    assert [counts.count(k) for k in range(1, n + 1)] == [10] * n


def test_parts_that_are_not_scored_are_hidden_or_given_whole():
    assert draw_mask("hidden", 5, 0.5, generator())[0].all()
    assert not draw_mask("given", 5, 0.5, generator())[0].any()


def test_masks_of_growing_shares_contain_each_other():
    masks = [exact_mask(20, count, generator())[0] for count in (5, 10, 20)]
    assert all(bool((small <= large).all()) for small, large in pairwise(masks))


def test_every_stage_is_a_value_that_can_be_changed():
    for name, stage in STAGES.items():
        assert stage.name == name
        assert replace(stage, steps=1).steps == 1
    assert isinstance(STAGES["tokenizer"], ImageStage)


@pytest.mark.parametrize(
    ("name", "rows", "length"),
    [("1.1", (7, 2, 6), 128), ("1.2", (7, 2, 3), 256), ("1.3", (4, 1, 1), 512), ("2.1", (1, 2, 1), 512), ("2.2", (1, 2, 1), 512)],
)
def test_the_published_stages_have_the_published_shares_and_schedule(name, rows, length):
    stage = STAGES[name]
    assert isinstance(stage, Stage)
    assert tuple(component.mixture_weight for component in stage.components) == rows
    assert stage.text_length == length
    assert stage.mask_value == -1.0
    assert (stage.optim.betas, stage.optim.decay_everything, stage.optim.floor) == ((0.9, 0.999), True, 0.0)
    assert stage.components[0].markers
    assert stage.components[0].cond_dropout_prob == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": ("count", "hidden")}, "has 1 fields"),
        ({"noise": ("hidden",)}, "scores nothing"),
        ({"noise": ("cosin",)}, "did you mean 'cosine'"),
        ({"think": 2.0}, "share of rows"),
        ({"coefficient": -1.0}, "must not be negative"),
        ({"markers": True}, "head=full"),
        ({"complement": True, "noise": ("independent",)}, "exact count"),
    ],
)
def test_a_flow_that_does_not_fit_together_says_so(changes, message):
    component = MixtureComponent(name="draw", task="draw", layout="draw", noise=("cosine",), mixture_weight=1.0)
    with pytest.raises(InputError, match=message):
        replace(component, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": ()}, "at least one with a share"),
        ({"batch": 0}, "at least 1"),
        ({"block_length": 0}, "at least 1"),
        ({"answer_lengths": (8, 4)}, "must ascend"),
        ({"longer_answer_share": 1.5}, "share of rows"),
        ({"text_length": None}, "need text_length"),
    ],
)
def test_a_stage_that_does_not_fit_together_says_so(changes, message):
    with pytest.raises(InputError, match=message):
        replace(STAGES["1.1"], **changes)


def test_an_image_stage_that_does_not_fit_together_says_so():
    with pytest.raises(InputError, match="l1=-1"):
        replace(STAGES["tokenizer"], l1=-1.0)
