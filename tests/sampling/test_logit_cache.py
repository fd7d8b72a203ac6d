"""ML-Cache: what a step evaluates, when it is exact, and what stays true whatever it leaves out."""

from __future__ import annotations

import pytest
import torch

from mmada.canvas import Canvas, Field, IdRange, VocabLayout
from mmada.errors import InputError
from mmada.model import Transformer, TransformerDenoiser, preset
from mmada.sampling import CacheConfig, Denoising, MaxLogitCacheConfig, SamplingParams, fast_image

LAYOUT = VocabLayout.compact(20, 16, multiple_of=8)
MASK, CODES = 22, IdRange(32, 48)
FEW = MaxLogitCacheConfig(cache_ratio=0.8, warmup_ratio=0.25, refresh_interval=3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transformer(preset("debug", layout=LAYOUT, max_sequence_length=64, init_std=0.3)).eval()


def row(num_given: int, num_open: int) -> Canvas:
    """Some given ids, then an image of open positions with a given id after each four, then an end."""
    tokens, positions = list(range(1, num_given + 1)), []
    for i in range(num_open):
        positions.append(len(tokens))
        tokens += [MASK, 19] if i % 4 == 3 else [MASK]
    ids = torch.tensor([*tokens, 18])
    return Canvas(ids, torch.ones(len(ids), dtype=torch.bool), (Field(torch.tensor(positions), CODES, num_open),))


def denoising(canvases, cache, *, steps=8, scale=2.0, seeds=(5,)):
    params = fast_image(steps=steps, guidance_scale=scale).with_(cache=cache)
    negatives = [row(2, len(c.fields[0].positions)) for c in canvases] if scale else None
    return Denoising(canvases, params, mask_id=MASK, seeds=seeds, negatives=negatives)


def run(model, drawing, rows=None):
    """Ids of all rows, and how many tokens each step evaluated."""
    denoiser, sizes = TransformerDenoiser(model), []
    while not drawing.done:
        asked = None if rows is None else [rows(drawing)]
        query = drawing.inputs(asked)
        expected = query.num_evaluated
        assert expected == sum(drawing.num_tokens(r) for r in (asked or drawing.live))
        before = denoiser.num_tokens
        drawing.advance(denoiser([query])[0])
        sizes.append(denoiser.num_tokens - before)
        assert sizes[-1] == expected
    return [drawing.token_ids(r).tolist() for r in range(len(drawing.canvases))], sizes


@pytest.mark.parametrize("scale", [0.0, 2.0])
@pytest.mark.parametrize(
    "cache", [MaxLogitCacheConfig(refresh_interval=1), MaxLogitCacheConfig(warmup_ratio=1), MaxLogitCacheConfig(cache_ratio=0)]
)
def test_nothing_left_out_is_no_cache(model, cache, scale):
    canvases = [row(5, 12)]
    assert run(model, denoising(canvases, cache, scale=scale))[0] == run(model, denoising(canvases, None, scale=scale))[0]


def test_which_steps_are_full(model):
    """A quarter of 8 steps, the one after them, then every third."""
    length = len(row(5, 12)) + len(row(2, 12))
    _, sizes = run(model, denoising([row(5, 12)], FEW))
    assert [size == length for size in sizes] == [True, True, True, False, False, True, False, False]
    assert all(size <= length // 3 for size in sizes if size < length)


def test_the_lowest_are_evaluated(model):
    drawing, denoiser = denoising([row(5, 12)], FEW, scale=0.0), TransformerDenoiser(model)
    for _ in range(3):
        query = drawing.inputs()
        drawing.advance(denoiser([query])[0])
    logits = model(query.tokens).logits[0, :, CODES.start : CODES.stop].amax(-1)
    (chosen,) = drawing.inputs().selections
    assert chosen.tolist() == (logits <= logits.quantile(0.2)).nonzero()[:, 0].tolist()


def test_rows_do_not_depend_on_their_neighbors(model):
    canvases, seeds = [row(5, 12), row(3, 8), row(5, 12)], (5, 6, 7)
    together, _ = run(model, denoising(canvases, FEW, seeds=seeds))
    alone = [run(model, denoising([canvas], FEW, seeds=[seed]))[0][0] for canvas, seed in zip(canvases, seeds, strict=True)]
    assert together == alone


def test_rows_may_step_apart(model):
    canvases, seeds = [row(5, 12), row(3, 8)], (5, 6)
    together, _ = run(model, denoising(canvases, FEW, seeds=seeds))
    turns = iter(range(100))
    apart, _ = run(model, denoising(canvases, FEW, seeds=seeds), rows=lambda d: d.live[next(turns) % len(d.live)])
    assert apart == together


def test_contracts(model):
    """Given tokens stay, every open position gets an allowed id, and what is left out does change something."""
    canvas = row(5, 12)
    drawing = denoising([canvas], FEW)
    (ids,), _ = run(model, drawing)
    assert all(CODES.start <= i < CODES.stop for i in ids)
    filled = drawing.canvas(0).tokens
    given = canvas.tokens != MASK
    assert torch.equal(filled[given], canvas.tokens[given])
    assert any(run(model, denoising([canvas], FEW, seeds=[s]))[0] != run(model, denoising([canvas], None, seeds=[s]))[0] for s in range(5))


def test_mixed_with_other_requests(model):
    """In one forward pass with a text that has another cache, and an image that has none."""
    text = SamplingParams(steps=8, block_length=4, cache=CacheConfig(), stop_at_eos=False)

    def requests():
        plain = Canvas(row(4, 4).tokens, row(4, 4).attend, row(4, 4).fields)
        return [denoising([row(5, 12)], FEW), Denoising([plain], text.with_(steps=4), mask_id=MASK), denoising([row(5, 12)], None)]

    denoiser = TransformerDenoiser(model)
    mixed = requests()
    while live := [d for d in mixed if not d.done]:
        for d, logits in zip(live, denoiser([d.inputs() for d in live]), strict=True):
            d.advance(logits)
    for together, single in zip(mixed, requests(), strict=True):
        assert [together.token_ids(0).tolist()] == run(model, single)[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cache_ratio": 1.5}, "cache_ratio=1.5"),
        ({"warmup_ratio": -0.1}, "warmup_ratio=-0.1"),
        ({"refresh_interval": 0}, "refresh_interval=0"),
    ],
)
def test_values_are_checked(values, message):
    with pytest.raises(InputError, match=message):
        MaxLogitCacheConfig(**values)


@pytest.mark.parametrize("changes", [{"block_length": 4}, {"steps": None, "threshold": 0.9, "choice_temperature": 0.0}])
def test_parameters_that_do_not_go_together(changes):
    with pytest.raises(InputError, match="counts the steps of one block"):
        fast_image().with_(cache=FEW, **changes)
