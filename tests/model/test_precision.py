from itertools import chain, repeat

import torch

from mmada.model import preset
from mmada.model.precision import product_gain


def clock(*lasting):
    """A clock by which timed things take these seconds, in turn."""
    now, times = 0.0, []
    for seconds in lasting:
        times += [now, now + seconds]
        now += seconds
    return iter(chain(times, repeat(now))).__next__


def test_the_gain_is_that_of_the_best_of_each():
    times = [8, 4, 6, 3, 9, 2, 7, 5, 6, 9]  # float32 and bfloat16 in turn: 6 and 2 at best
    assert product_gain(preset("debug"), torch.bfloat16, seconds=clock(*times)) == 3
