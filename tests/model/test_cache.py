"""Windows and memories: what is exact is exact to the bit, and the approximation is the one that is meant."""

import pytest
import torch

from mmada.canvas import BlockMask, Canvas, Field, IdRange, KVCache, Query
from mmada.errors import InputError
from mmada.model import Packing, TransformerDenoiser
from mmada.model.attention import rotary, rotate
from mmada.model.cache import PackedKVCache
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise, fast_text

CODES, TEXT = IdRange(32, 48), IdRange(0, 32, (22,))
MASK = 22


def canvas(num_given, num_open, ids=TEXT, before=0):
    tokens = torch.cat([torch.zeros(before).long(), torch.arange(num_given) % 20, torch.full((num_open,), MASK)])
    positions = torch.arange(before + num_given, len(tokens))
    return Canvas(tokens, torch.arange(len(tokens)) >= before, (Field(positions, ids, num_open),))


def run(model, params, canvases, **settings):
    denoising, denoiser = Denoising(canvases, params, mask_id=MASK, record=True, **settings), TransformerDenoiser(model)
    for _ in denoise([denoising], denoiser):
        pass
    return denoising, denoiser


def naive(model, tokens, window, layers):
    """Hidden states of a window, with the keys and values of `layers` elsewhere: layer by layer, without packing."""
    config, parts = model.config, model.model.transformer
    start, stop = window
    x = parts["wte"](tokens)[start:stop]
    cos, sin = rotary(torch.arange(start, stop), config.head_dim, config.rope_theta)
    for block, (kept_k, kept_v) in zip(parts["blocks"], layers, strict=True):
        h = block.attn_norm(x)
        q, k, v = block.q_norm(block.q_proj(h)), block.k_norm(block.k_proj(h)), block.v_proj(h)
        q, k, v = (y.unflatten(-1, (-1, config.head_dim)) for y in (q, k, v))
        q, k = rotate(q[None], cos, sin)[0], rotate(k[None], cos, sin)[0]
        all_k = torch.cat([kept_k[:start], k, kept_k[stop:]]).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        all_v = torch.cat([kept_v[:start], v, kept_v[stop:]]).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        score = torch.einsum("qhd,khd->hqk", q, all_k) / config.head_dim**0.5
        mixed = torch.einsum("hqk,khd->qhd", score.softmax(-1), all_v)
        x = x + block.attn_out(mixed.flatten(1))
        h = block.ff_norm(x)
        x = x + block.ff_out(torch.nn.functional.silu(block.ff_proj(h)) * block.up_proj(h))
    return parts["ln_f"](x)


@torch.no_grad()
def test_a_window_attends_to_what_was_kept(model, tokens):
    kv_cache, row, window = KVCache(), tokens[0], (4, 7)
    lengths = Packing.of([10])
    whole = model.trunk(row[None], lengths, kv_cache=PackedKVCache((10,), ((0, 10),), (kv_cache,)))
    assert torch.equal(whole, model.trunk(row[None], lengths))
    kept = [(k.clone(), v.clone()) for k, v in kv_cache.layers]
    changed = row.clone()
    changed[5], changed[9] = (row[5] + 1) % 20, (row[9] + 1) % 20  # inside the window, and outside, where nobody looks
    states = model.trunk(changed[None], lengths, kv_cache=PackedKVCache((10,), (window,), (kv_cache,)))
    torch.testing.assert_close(states[0], naive(model, changed, window, kept), rtol=1e-5, atol=1e-5)
    for (k, v), (old_k, old_v) in zip(kv_cache.layers, kept, strict=True):
        for new, old in ((k, old_k), (v, old_v)):
            assert torch.equal(new[:4], old[:4])
            assert torch.equal(new[7:], old[7:])
            assert not torch.equal(new[4:7], old[4:7])


@torch.no_grad()
def test_where_nothing_changed_nothing_changes(model, tokens):
    kv_cache, lengths = KVCache(), Packing.of([10])
    whole = model.trunk(tokens[:1], lengths, kv_cache=PackedKVCache((10,), ((0, 10),), (kv_cache,)))
    part = model.trunk(tokens[:1], lengths, kv_cache=PackedKVCache((10,), ((3, 8),), (kv_cache,)))
    torch.testing.assert_close(part, whole[:, 3:8], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        fast_text(threshold=0.3, block_length=4, cache=CacheConfig(refresh=1)),
        fast_text(threshold=0.3, block_length=4, cache=CacheConfig(before=99, after=None)),
        SamplingParams(steps=3, block_length=4, cache=CacheConfig()),  # a block that takes one step
        SamplingParams(steps=6, temperature=1.0, guidance_scale=1.5, cache=CacheConfig(refresh=1)),
        fast_text(threshold=0.3, block_length=4, full_attention=False, cache=CacheConfig(refresh=1)),
    ],
    ids=["refresh", "window of everything", "one step a block", "guided", "blind ahead"],
)
def test_what_is_exact_is_exact_to_the_bit(model, params):
    canvases = [canvas(7, 12), canvas(3, 10, before=2)]
    negatives = [canvas(2, 12), canvas(2, 10)] if params.guidance_scale else None
    cached, denoiser = run(model, params, canvases, negatives=negatives)
    plain, _ = run(model, params.with_(cache=None), canvases, negatives=negatives)
    assert cached.trace == plain.trace
    assert cached.num_forwards == plain.num_forwards
    assert denoiser.num_forwards == max(plain.num_forwards)


@pytest.mark.parametrize("short_conv", [0, 5])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_a_model_that_does_not_see_ahead_loses_nothing(build_model, guidance, short_conv):
    """Each token is evaluated until its block is done, and once more as it is then."""
    model = build_model(short_conv=short_conv)
    params = SamplingParams(steps=8, block_length=4, temperature=1.0, guidance_scale=guidance, full_attention=False)
    canvases, negatives = [canvas(7, 16), canvas(3, 16, before=2)], [canvas(2, 16)] * 2 if guidance else None
    cached, denoiser = run(model, params.with_(cache=CacheConfig()), canvases, negatives=negatives)
    plain, whole = run(model, params, canvases, negatives=negatives)
    assert [(s.row, s.step, s.slots, s.token_ids) for s in cached.trace] == [(s.row, s.step, s.slots, s.token_ids) for s in plain.trace]
    for one, other in zip(cached.trace, plain.trace, strict=True):
        assert one.confidences == pytest.approx(other.confidences, rel=1e-4)
    prompts = 7 + 3 + (4 if guidance else 0)
    assert denoiser.num_tokens == prompts + (4 if guidance else 2) * (4 * 8 + 3 * 4)
    assert denoiser.num_tokens < whole.num_tokens / 2


def test_text_that_somebody_knows_costs_an_exact_cache_nothing(model):
    """What a guide writes over several blocks is evaluated with the next block that the model writes."""
    params = SamplingParams(steps=12, block_length=4, temperature=1.0, full_attention=False)
    known = [*range(3, 9), *range(10)]
    rows, guides = [canvas(7, 24), canvas(3, 24, before=2)], [lambda ids: known if len(ids) < 16 else None, None]
    cached, _ = run(model, params.with_(cache=CacheConfig()), rows, guides=guides)
    plain, _ = run(model, params, rows, guides=guides)
    assert cached.token_ids(0)[:16].tolist() == known
    assert [(s.row, s.step, s.slots, s.token_ids) for s in cached.trace] == [(s.row, s.step, s.slots, s.token_ids) for s in plain.trace]
    for one, other in zip(cached.trace, plain.trace, strict=True):
        assert one.confidences == pytest.approx(other.confidences, rel=1e-4)


@torch.no_grad()
def test_a_memory_grows_with_its_row(model, tokens):
    kv_cache, block_ids = KVCache(), torch.tensor([0, 0, 0, 2, 2, 4, 4, 4, 6, 6])
    whole = model.trunk(tokens[:1], Packing.of([10], [BlockMask(block_ids)]))
    for start, stop in ((0, 3), (3, 5), (3, 8), (5, 10)):
        packing = Packing.of([stop], [BlockMask(block_ids[:stop])])
        part = model.trunk(tokens[:1, :stop], packing, kv_cache=PackedKVCache((stop,), ((start, stop),), (kv_cache,), (True,)))
        torch.testing.assert_close(part, whole[:, start:stop], rtol=1e-5, atol=1e-5)
        assert len(kv_cache.layers[0][0]) == stop


@pytest.mark.parametrize("cache", [CacheConfig(), CacheConfig(after=None), CacheConfig(before=2, after=3), CacheConfig(refresh=2)])
def test_fewer_tokens_are_evaluated_and_every_position_is_filled(model, cache):
    params = SamplingParams(steps=12, block_length=6, cache=cache)
    cached, denoiser = run(model, params, [canvas(9, 12)])
    _, plain = run(model, params.with_(cache=None), [canvas(9, 12)])
    assert plain.num_tokens == 12 * 21
    whole_steps = 2 * (3 if cache.refresh else 1)
    widths = [min(21, stop + (21 if cache.after is None else cache.after)) - start + cache.before for start, stop in ((9, 15), (15, 21))]
    assert denoiser.num_tokens == whole_steps * 21 + (12 - whole_steps) // 2 * sum(widths)
    assert MASK not in cached.token_ids(0).tolist()


def test_together_equals_alone_whoever_remembers(model):
    guided = SamplingParams(steps=4, temperature=1.0, choice_temperature=1.0, guidance_scale=2.0)
    requests = [
        lambda: Denoising(
            [canvas(5, 6), canvas(2, 9)], fast_text(threshold=0.3, block_length=3, cache=CacheConfig()), mask_id=MASK, record=True
        ),
        lambda: Denoising(
            [canvas(5, 6)], fast_text(threshold=0.5, block_length=3, cache=CacheConfig(after=None)), mask_id=MASK, record=True
        ),
        lambda: Denoising([canvas(4, 9, CODES, 2)], guided, mask_id=MASK, seeds=[7], negatives=[canvas(2, 9, CODES)], record=True),
        lambda: Denoising([canvas(5, 6)], SamplingParams(steps=6, block_length=3), mask_id=MASK, record=True),
    ]
    together = [start() for start in requests]
    for _ in denoise(together, TransformerDenoiser(model, max_tokens=25)):
        pass
    for start, served in zip(requests, together, strict=True):
        alone = start()
        for _ in denoise([alone], TransformerDenoiser(model)):
            pass
        assert [(s.row, s.slots, s.token_ids) for s in served.trace] == [(s.row, s.slots, s.token_ids) for s in alone.trace]


def test_what_is_not_remembered_is_evaluated(model, tokens):
    """Another denoiser may have answered before, or none."""
    q = Query(tokens[:1], ((0, 10),), torch.tensor([[4, 6]]), TEXT, ((4, 7),), (KVCache(),))
    (logits,) = TransformerDenoiser(model)([q])
    (plain,) = TransformerDenoiser(model)([Query(q.tokens, q.spans, q.positions, q.ids)])
    assert torch.equal(logits, plain)


@torch.no_grad()
def test_image_places_do_not_depend_on_the_window(build_model):
    model = build_model(image_positions=4)
    layout = model.config.layout
    row = torch.tensor([1, 2, layout.soi_id, 33, 34, 35, 36, layout.eoi_id])
    kv_cache = KVCache()
    whole = model.trunk(row[None], Packing.of([8]), kv_cache=PackedKVCache((8,), ((0, 8),), (kv_cache,)))
    part = model.trunk(row[None], Packing.of([8]), kv_cache=PackedKVCache((8,), ((4, 6),), (kv_cache,)))
    torch.testing.assert_close(part, whole[:, 4:6], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_neighbours_outside_the_window_are_seen(build_model):
    model = build_model(short_conv=5)
    row, kv_cache = torch.arange(8), KVCache()
    whole = model.trunk(row[None], Packing.of([8]), kv_cache=PackedKVCache((8,), ((0, 8),), (kv_cache,)))
    part = model.trunk(row[None], Packing.of([8]), kv_cache=PackedKVCache((8,), ((4, 6),), (kv_cache,)))
    torch.testing.assert_close(part, whole[:, 4:6], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [(4, 4), (-1, 3), (8, 11), (7, 5)])
def test_a_window_lies_in_its_row(window):
    with pytest.raises(InputError, match="must lie in a row of 10 tokens"):
        PackedKVCache((10,), (window,), (KVCache(),))


@pytest.mark.parametrize("kv_cache", [None, KVCache(), KVCache([(torch.zeros(9, 1, 2), torch.zeros(9, 1, 2))])])
def test_a_window_needs_the_rest(kv_cache):
    with pytest.raises(InputError, match="needs keys and values of the rest"):
        PackedKVCache((10,), ((4, 7),), (kv_cache,))


def test_windows_are_for_packed_rows(model, tokens):
    with pytest.raises(InputError, match="give a Packing"):
        model.trunk(tokens[:1], None, kv_cache=PackedKVCache((10,), ((0, 10),), (KVCache(),)))
