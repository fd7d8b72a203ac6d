import math

import pytest
import torch

from mmada.canvas import BlockMask, can_attend, causal_block_ids
from mmada.errors import InputError
from mmada.model.attention import Packing, attend, attention_bias, neighbors, rotary, rotate

ROWS, LENGTH, HEADS, WIDTH = 2, 6, 4, 8


def qkv(kv_heads, dtype=torch.float64, rows=ROWS, length=LENGTH):
    generator = torch.Generator().manual_seed(0)
    sizes = [(rows, length, heads, WIDTH) for heads in (HEADS, kv_heads, kv_heads)]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def naive(q, k, v, pairs, mask_value):
    """softmax(q k / sqrt(hd)) v, query by query; pairs (B, L, L) says which tokens attend to which."""
    out = torch.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for i in range(q.shape[1]):
                scores = [
                    float(q[b, i, h] @ k[b, j, h // group]) / math.sqrt(WIDTH) + (0.0 if pairs[b, i, j] else mask_value)
                    for j in range(q.shape[1])
                ]
                largest = max(scores)
                weights = [math.exp(score - largest) for score in scores]
                out[b, i, h] = sum(w * v[b, j, h // group] for j, w in enumerate(weights)) / sum(weights)
    return out


KEYS = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]]).bool()
PAIRS = torch.rand(ROWS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)) < 0.6
PAIRS[:, range(LENGTH), range(LENGTH)] = True


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("mask", "mask_value"), [(None, None), (KEYS, None), (PAIRS, None), (KEYS, -1.0), (PAIRS, -1.0)])
def test_attention_equals_the_naive_formula(kv_heads, mask, mask_value):
    q, k, v = qkv(kv_heads)
    pairs = torch.ones(ROWS, LENGTH, LENGTH).bool() if mask is None else mask if mask.dim() == 3 else mask[:, None].expand(-1, LENGTH, -1)
    attn_bias = attention_bias(mask, (ROWS, LENGTH), dtype=torch.float64, mask_value=mask_value)
    expected = naive(q, k, v, pairs, -math.inf if mask_value is None else mask_value)
    torch.testing.assert_close(attend(q, k, v, attn_bias), expected, rtol=1e-10, atol=1e-12)


def test_a_soft_mask_equals_the_published_one_added_to_visible_pairs():
    # The published training code adds 1 where a pair is visible and 0 where not: the same softmax as 0 and -1.
    q, k, v = qkv(2)
    soft = attend(q, k, v, attention_bias(PAIRS, (ROWS, LENGTH), dtype=torch.float64, mask_value=-1.0))
    group = [x.repeat_interleave(2, dim=2) for x in (k, v)]
    added = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, *group)), attn_mask=PAIRS[:, None].double()
    ).transpose(1, 2)
    torch.testing.assert_close(soft, added, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_that_sees_nothing_sees_everything_alike(dtype):
    q, k, v = qkv(4, dtype)
    pairs = torch.ones(ROWS, LENGTH, LENGTH).bool()
    pairs[1, 2] = False
    out = attend(q, k, v, attention_bias(pairs, (ROWS, LENGTH), dtype=dtype))
    assert out.isfinite().all()
    torch.testing.assert_close(out[1, 2].float(), v[1].float().mean(0), rtol=2e-2, atol=2e-2)


def test_hidden_keys_have_exactly_no_weight():
    q, k, v = qkv(4, torch.float32)
    attn_bias = attention_bias(KEYS, (ROWS, LENGTH), dtype=torch.float32)
    other_k, other_v = (torch.where(KEYS[..., None, None], x, 1e4 * torch.ones_like(x)) for x in (k, v))
    assert torch.equal(attend(q, other_k, other_v, attn_bias), attend(q, k, v, attn_bias))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (KEYS.float(), r"attention_mask has dtype torch.float32, where 0 may mean hidden or visible; give a mask of bool, or .* 0 and 1"),
        (KEYS.long() * 2, "attention_mask holds numbers from 0 to 2; give 1 where a token may be attended to, 0 elsewhere"),
        (KEYS.long() - 1, "attention_mask holds numbers from -1 to 0"),
        (KEYS[:1], r"attention_mask has the shape \(1, 6\); expected \(2, 6\) or \(2, 6, 6\)"),
        (KEYS[:, :5], r"shape \(2, 5\)"),
        (PAIRS[:, :3], r"shape \(2, 3, 6\)"),
        (PAIRS[:, None].expand(-1, 4, -1, -1), r"shape \(2, 4, 6, 6\)"),
        (Packing.of([6, 6]), r"tokens \(2, 6\) must be one row of the 12 tokens that are packed"),
        (Packing.of([5]), r"tokens \(2, 6\) must be one row of the 5 tokens"),
    ],
)
def test_refused_masks(mask, message):
    with pytest.raises(InputError, match=message):
        attention_bias(mask, (ROWS, LENGTH), dtype=torch.float32)


# Packing.


def test_packing_joins_neighbours_of_equal_length():
    packing = Packing.of([4, 4, 2, 4])
    assert packing.runs == ((2, 4), (1, 2), (1, 4))
    assert packing.num_tokens == 14
    assert packing.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3]


@pytest.mark.parametrize("lengths", [[], [3, 0], [-1]])
def test_packing_refuses_empty_rows(lengths):
    with pytest.raises(InputError, match=r"lengths=.* must be positive; leave empty rows out"):
        Packing.of(lengths)


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [1, 7, 2], [2, 2, 6, 6, 1]])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_packed_rows_equal_each_row_alone(lengths, kv_heads):
    q, k, v = qkv(kv_heads, torch.float32, rows=1, length=sum(lengths))
    packed = attend(q, k, v, attention_bias(Packing.of(lengths), (1, sum(lengths)), dtype=torch.float32))
    start = 0
    for length in lengths:
        row = slice(start, start + length)
        alone = attend(q[:, row], k[:, row], v[:, row], attention_bias(None, (1, length), dtype=torch.float32))
        assert torch.equal(packed[:, row], alone)
        start += length


# Sights: rows in which not attention is full.

# A prompt of two, blocks of two, and behind them both blocks once more, noised.
TWICE = BlockMask(torch.tensor([0, 0, 2, 2, 1, 1, 3, 3]), torch.tensor([0, 1, 2, 3, 2, 3, 4, 5]))


def test_who_sees_whom():
    pairs = can_attend(TWICE.block_ids[:, None], TWICE.block_ids).int().tolist()
    assert pairs == [
        [1, 1, 0, 0, 0, 0, 0, 0],  # the prompt: itself
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],  # the block as it is: what comes before it, and itself
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],  # the same noised: the same, without the answer
        [1, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 1, 1],  # the next one noised: what comes before it, as it is
        [1, 1, 1, 1, 0, 0, 1, 1],
    ]
    assert causal_block_ids(2, 5, 2).tolist() == [0, 0, 2, 2, 4, 4, 6]
    assert causal_block_ids(2, 3, 10**30).tolist() == [0, 0, 2, 2, 2]
    cut = TWICE.cut(2, 6)
    assert (cut.block_ids.tolist(), cut.position_ids.tolist()) == ([2, 2, 1, 1], [0, 1, 0, 1])


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_packed_rows_with_sights_equal_each_row_alone(kv_heads):
    rows = [(8, TWICE), (8, None), (8, TWICE), (3, BlockMask(torch.tensor([0, 2, 2]))), (8, None)]
    lengths = [length for length, _ in rows]
    q, k, v = qkv(kv_heads, torch.float32, rows=1, length=sum(lengths))
    packed = attend(
        q, k, v, attention_bias(Packing.of(lengths, [block_mask for _, block_mask in rows]), (1, sum(lengths)), dtype=torch.float32)
    )
    start = 0
    for length, block_mask in rows:
        row = slice(start, start + length)
        mask = None if block_mask is None else can_attend(block_mask.block_ids[:, None], block_mask.block_ids)[None]
        alone = attend(q[:, row], k[:, row], v[:, row], attention_bias(mask, (1, length), dtype=torch.float32))
        torch.testing.assert_close(packed[:, row], alone, rtol=1e-5, atol=1e-6)
        start += length


def test_positions_of_packed_rows_are_those_of_their_sights():
    packing = Packing.of([8, 2], [TWICE, None])
    assert packing.runs == ((1, 8), (1, 2))
    assert packing.position_ids.tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 0, 1]


def test_a_sight_has_the_length_of_its_row():
    with pytest.raises(InputError, match=r"rows of \[7\] tokens with block masks of \[8\]; they must agree"):
        Packing.of([7], [TWICE])


def test_neighbours_stand_where_their_places_say():
    """Token 4 is the noised copy of place 2: before it stand the prompt's tokens 0 and 1. Token 6, of place 4, comes after the clean 2 and 3."""
    near = neighbors(Packing.of([8], [TWICE]), 2, torch.device("cpu"))
    found = [
        [int(i) if seen else None for i, seen in zip(tap, there[0], strict=True)] for tap, there in zip(near.index, near.seen, strict=True)
    ]
    assert [tap[1] for tap in found] == [None, 0, 1, None, None]  # the prompt does not see the answer
    assert [tap[3] for tap in found] == [1, 2, 3, None, None]
    assert [tap[4] for tap in found] == [0, 1, 4, 5, None]
    assert [tap[5] for tap in found] == [1, 4, 5, None, None]
    assert [tap[6] for tap in found] == [2, 3, 6, 7, None]


# Rotary positions.


def test_rotation_turns_the_two_halves_as_pairs():
    x = torch.randn(1, 3, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary(torch.tensor([0, 1, 5]), WIDTH, 10_000.0)
    turned = rotate(x, cos, sin)
    half = WIDTH // 2
    for i, position in enumerate([0, 1, 5]):
        for j in range(half):
            angle = position * 10_000 ** (-2 * j / WIDTH)
            a, b = x[0, i, :, j], x[0, i, :, j + half]
            torch.testing.assert_close(turned[0, i, :, j], a * math.cos(angle) - b * math.sin(angle))
            torch.testing.assert_close(turned[0, i, :, j + half], b * math.cos(angle) + a * math.sin(angle))


def test_scores_depend_on_the_distance_only():
    q, k, _ = qkv(4, torch.float32, rows=1, length=1)

    def score(i, j):
        (a, b) = (rotate(x, *rotary(torch.tensor([at]), WIDTH, 500_000.0)) for x, at in ((q, i), (k, j)))
        return (a * b).sum(-1)

    torch.testing.assert_close(score(2, 7), score(1002, 1007), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(score(2, 7), score(2, 9), rtol=1e-2)


def test_rotation_is_computed_in_float32_and_keeps_the_dtype():
    x = torch.randn(1, 2, 1, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    cos, sin = rotary(torch.tensor([0, 300]), WIDTH, 10_000.0)
    assert cos.dtype == torch.float32
    assert torch.equal(rotate(x, cos, sin), rotate(x.float(), cos, sin).bfloat16())
