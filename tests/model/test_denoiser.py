import copy
from dataclasses import replace

import pytest
import torch

from mmada.canvas import Canvas, Field, IdRange, KVCache, Query
from mmada.model import TransformerDenoiser
from mmada.model.precision import multiplies_bfloat16
from mmada.sampling import Denoising, SamplingParams, denoise, fast_text

CODES, TEXT = IdRange(32, 48), IdRange(0, 32, (22,))
MASK = 22


def query(rows, length, spans, num_positions, ids, seed):
    """Random rows; positions lie inside the spans."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(48, (rows, length), generator=generator)
    positions = torch.stack([torch.randint(start, stop, (num_positions,), generator=generator) for start, stop in spans])
    return Query(tokens, tuple(spans), positions, ids)


def mixture():
    """Rows of different lengths, padding, number of positions and vocabulary slice; two rows of one length in different queries."""
    return [
        query(2, 9, [(0, 9), (3, 8)], 4, CODES, 0),
        query(1, 5, [(0, 5)], 2, TEXT, 1),
        query(3, 12, [(0, 12), (1, 6), (0, 9)], 1, IdRange(0, 48), 2),
    ]


def reference(model, q):
    """Each row alone through the whole model, then the slices."""
    rows = []
    for tokens, (start, stop), positions in zip(q.tokens, q.spans, q.positions, strict=True):
        logits = model(tokens[None, start:stop]).logits[0]
        rows.append(logits[positions - start, q.ids.start : q.ids.stop])
    return torch.stack(rows)


@torch.no_grad()
def test_a_mixture_equals_each_row_alone(model):
    queries = mixture()
    for q, logits in zip(queries, TransformerDenoiser(model)(queries), strict=True):
        assert logits.shape == (*q.positions.shape, q.ids.stop - q.ids.start)
        torch.testing.assert_close(logits, reference(model, q), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU has no instructions for products in bfloat16, and others promise no bits")
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2, "attention_layer_norm": True, "short_conv": 5}], ids=["plain", "as built in"])
def test_in_bfloat16_a_row_has_the_same_bits_alone_and_in_any_company(build_model, changes):
    denoiser = TransformerDenoiser(build_model(**changes).bfloat16())
    queries = [query(1, length, [(0, length)], 1 + length % 5, TEXT, length) for length in (1, 2, 3, 5, 9, 9, 17, 33, 64)]
    alone = [denoiser([one])[0] for one in queries]
    for first in range(len(queries)):
        together = denoiser(queries[first:])
        assert all(torch.equal(a, b) for a, b in zip(alone[first:], together, strict=True))


def test_products_in_bfloat16_have_few_numbers_of_rows(build_model):
    """oneDNN compiles a kernel for each: a server grew by 228 MB in 200 requests."""
    model, sizes = build_model().bfloat16(), set()
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_pre_hook(lambda _, called: sizes.add(called[0].shape[1]))
    denoiser = TransformerDenoiser(model)
    for length in range(1, 64):
        denoiser([query(1, length, [(0, length)], 1, TEXT, 0)])
    assert sizes == {16, 32, 48, 64}


@torch.no_grad()
def test_beside_weights_of_bfloat16_everything_else_is_float32_on_a_cpu(build_model):
    model = build_model(n_kv_heads=2, attention_layer_norm=True, short_conv=3)
    expected = TransformerDenoiser(model)(mixture())
    half = copy.deepcopy(model).bfloat16()
    assert (model.wide_dtype, half.wide_dtype, copy.deepcopy(model).double().wide_dtype) == (torch.float32, torch.float32, torch.float64)
    found = TransformerDenoiser(half)(mixture())
    assert all(logits.dtype == torch.bfloat16 for logits in found)
    rounded = [reference(half, q) for q in mixture()]  # every sum and norm in bfloat16

    def error(logits):
        return sum(float((a.float() - b).square().sum()) for a, b in zip(logits, expected, strict=True))

    assert error(found) < 0.8 * error(rounded)
    cache = KVCache()
    one = query(1, 9, [(0, 9)], 2, TEXT, 0)
    TransformerDenoiser(half)([replace(one, kv_caches=(cache,))])
    assert {tensor.dtype for layer in cache.layers for tensor in layer} == {torch.float32}


def test_several_questions_about_a_row_evaluate_it_once(model):
    whole = query(3, 9, [(0, 9), (0, 7), (2, 9)], 4, CODES, 0)
    first = Query(whole.tokens[:2], whole.spans[:2], torch.tensor([[1, 3], [2, 6]]), TEXT)
    denoiser = TransformerDenoiser(model)
    (answer,) = denoiser([replace(whole, also=(first, whole.rows(slice(0, 1))))])
    assert denoiser.num_tokens == 9 + 7 + 7
    apart = denoiser([whole, first, whole.rows(slice(0, 1))])
    for part, alone in zip(replace(whole, also=(first, whole.rows(slice(0, 1)))).split(answer), apart, strict=True):
        torch.testing.assert_close(part, alone, rtol=1e-5, atol=1e-5)


def test_padding_is_not_read(model):
    queries = mixture()
    changed = []
    for q in queries:
        tokens = (q.tokens + 7) % 48
        for row, (start, stop) in enumerate(q.spans):
            tokens[row, start:stop] = q.tokens[row, start:stop]
        changed.append(Query(tokens, q.spans, q.positions, q.ids))
    denoiser = TransformerDenoiser(model)
    for a, b in zip(denoiser(queries), denoiser(changed), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("max_tokens", "num_forwards"),
    [
        (65536, 1),
        (45, 1),  # 9 + 5 + 5 + 12 + 5 + 9 tokens
        (44, 2),
        (15, 4),  # sorted: 5 5 5 | 9 | 9 | 12
        (14, 4),  # 5 5 | 5 9 | 9 | 12
        (1, 6),  # a longer row still runs, alone
    ],
)
def test_long_batches_are_cut_by_tokens(model, max_tokens, num_forwards):
    denoiser = TransformerDenoiser(model, max_tokens=max_tokens)
    queries = mixture()
    for q, logits in zip(queries, denoiser(queries), strict=True):
        torch.testing.assert_close(logits, reference(model, q).detach(), rtol=1e-5, atol=1e-5)
    assert (denoiser.num_forwards, denoiser.num_tokens) == (num_forwards, 45)
    denoiser(queries[1:2])
    assert (denoiser.num_forwards, denoiser.num_tokens) == (num_forwards + 1, 50)


def test_no_query_no_forward(model):
    denoiser = TransformerDenoiser(model)
    assert denoiser([]) == []
    assert denoiser.num_forwards == 0


def test_no_gradient_is_kept(model):
    (logits,) = TransformerDenoiser(model)(mixture()[:1])
    assert not logits.requires_grad


def row(num_given, num_open, ids, before=0):
    tokens = torch.cat([torch.zeros(before).long(), torch.arange(num_given) % 20, torch.full((num_open,), MASK)])
    positions = torch.arange(before + num_given, len(tokens))
    return Canvas(tokens, torch.arange(len(tokens)) >= before, (Field(positions, ids, num_open),))


def test_served_together_equals_each_request_alone(model):
    guided = SamplingParams(steps=4, temperature=1.0, choice_temperature=1.0, guidance_scale=2.0)
    requests = [
        lambda: Denoising([row(5, 6, TEXT), row(2, 3, TEXT)], fast_text(threshold=0.3, block_length=4), mask_id=MASK, record=True),
        lambda: Denoising([row(4, 9, CODES, 2)], guided, mask_id=MASK, seeds=[7], negatives=[row(2, 9, CODES)], record=True),
        lambda: Denoising([row(8, 4, TEXT)], SamplingParams(steps=4, temperature=0.8), mask_id=MASK, seeds=[3], record=True),
    ]
    together = [start() for start in requests]
    for _ in denoise(together, TransformerDenoiser(model)):
        pass
    for start, served in zip(requests, together, strict=True):
        alone = start()
        for _ in denoise([alone], TransformerDenoiser(model)):
            pass
        for i in range(len(alone.canvases)):
            assert torch.equal(alone.canvas(i).tokens, served.canvas(i).tokens)
        assert alone.num_forwards == served.num_forwards
        assert [(s.slots, s.token_ids) for s in alone.trace] == [(s.slots, s.token_ids) for s in served.trace]
