import math

import pytest
import torch

from mmada.diffusion.schedule import SCHEDULES, cosine, linear, power, schedule, sigmoid, text_mask_ratio
from mmada.errors import InputError

ALL = {**SCHEDULES, "pow0.5": power(0.5), "pow3": power(3)}
PROGRESS = torch.linspace(0, 1, 201, dtype=torch.float64)
INSIDE = PROGRESS[1:-1]


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_falls_from_one_to_almost_zero(name):
    ratio = ALL[name].mask_ratio(PROGRESS)
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(0, abs=2e-6)
    assert (ratio.diff() < 0).all()
    assert ALL[name].name == name


@pytest.mark.parametrize("name", ALL)
def test_derivative_is_that_of_the_curve(name):
    progress = INSIDE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ALL[name].mask_ratio(progress).sum(), progress)
    torch.testing.assert_close(ALL[name].derivative(INSIDE), gradient, rtol=1e-6, atol=1e-12)
    assert (gradient < 0).all()


@pytest.mark.parametrize("name", ALL)
def test_the_fall_is_the_integral_of_the_derivative(name):
    edges = torch.linspace(0.01, 1, 20001, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    fall = (ALL[name].derivative(middle) * edges.diff()).sum()
    assert fall.item() == pytest.approx((ALL[name].mask_ratio(edges[-1]) - ALL[name].mask_ratio(edges[0])).item(), abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_shape_and_dtype_are_those_of_progress(name, dtype):
    progress = torch.rand(2, 3, dtype=dtype)
    for values in (ALL[name].mask_ratio(progress), ALL[name].derivative(progress)):
        assert (values.shape, values.dtype) == (progress.shape, dtype)


def test_values_by_hand():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert cosine.mask_ratio(half).item() == pytest.approx(math.sqrt(0.5))
    assert linear.mask_ratio(half).item() == 0.5
    assert power(3).mask_ratio(half).item() == 1 - 0.125
    assert sigmoid.mask_ratio(half).item() == pytest.approx(0.5)
    s = [1 / (1 + math.exp(-x)) for x in (-3.0, 3.0, 6 * 0.2 - 3)]
    assert sigmoid.mask_ratio(torch.tensor(0.2, dtype=torch.float64)).item() == pytest.approx((s[1] - s[2]) / (s[1] - s[0]), abs=1e-7)


@pytest.mark.parametrize("name", ["linear", "pow2", "sigmoid"])
def test_the_published_floor(name):
    assert ALL[name].mask_ratio(torch.tensor(1.0, dtype=torch.float64)).item() == 1e-6


def test_mean_of_cosine_under_uniform_progress():
    # Midpoint rule; reference: E[r] = 2/pi.
    progress = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    assert cosine.mask_ratio(progress).mean().item() == pytest.approx(2 / math.pi, abs=1e-8)


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid", "pow2"])
def test_a_name_gives_the_same_object_each_time(name):
    assert schedule(name) is SCHEDULES[name]


@pytest.mark.parametrize(("name", "exponent"), [("pow3", 3), ("pow0.5", 0.5), ("pow1", 1)])
def test_any_power_has_a_name(name, exponent):
    torch.testing.assert_close(schedule(name).mask_ratio(INSIDE), 1 - INSIDE**exponent)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cosin", "schedule='cosin' is unknown: did you mean 'cosine'"),
        ("xyz", "schedule='xyz' is unknown: known names are cosine, linear, pow2, powX, sigmoid"),
        ("", "schedule='' is unknown"),
        ("pow", "schedule='pow' needs a positive number after pow; try pow2"),
        ("powtwo", "schedule='powtwo' needs a positive number"),
        ("pow-1", "schedule='pow-1' needs a positive number"),
        ("pow0", "schedule='pow0' needs a positive number"),
        ("pownan", "schedule='pownan' needs a positive number"),
        ("powinf", "schedule='powinf' needs a positive number"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        schedule(name)


@pytest.mark.parametrize("exponent", [0, -2, math.nan, math.inf])
def test_power_needs_a_positive_exponent(exponent):
    with pytest.raises(InputError, match=f"exponent={exponent} must be a positive number"):
        power(exponent)


def test_text_mask_ratio_is_linear_and_never_zero():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert text_mask_ratio(t).tolist() == pytest.approx([1e-3, 0.5005, 1.0])
    assert text_mask_ratio(t, eps=0.1).tolist() == pytest.approx([0.1, 0.55, 1.0])
