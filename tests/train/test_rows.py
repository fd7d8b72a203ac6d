"""Rows end to end, and several looks at one answer in one row."""

import torch

from mmada.canvas import sees
from mmada.train.rows import NoisedRow, join_looks, moved, pack
from mmada.train.scoring import LogitTargets

MASK = 99


def row(clean, masked=(), *, span=None):
    """A row whose tokens `masked` are masked and scored, each with its own position as weight."""
    clean = torch.tensor(clean)
    scored = torch.zeros(len(clean), dtype=torch.bool)
    scored[list(masked)] = True
    tokens = clean.masked_fill(scored, MASK)
    weight = torch.arange(len(clean)).float() * scored
    span = span or (0, len(clean))
    attend = (torch.arange(len(clean)) >= span[0]) & (torch.arange(len(clean)) < span[1])
    return NoisedRow(tokens=tokens, clean=clean, attend=attend, scored=scored, weight=weight, span=span)


def test_rows_stand_end_to_end_and_what_is_scored_is_listed():
    packed = pack([row([1, 2, 3], [1]), row([4, 5], []), row([6, 7, 8, 9], [0, 3])])
    assert packed.tokens.tolist() == [1, MASK, 3, 4, 5, MASK, 7, 8, MASK]
    assert packed.packing.lengths == (3, 2, 4)
    assert packed.positions.tolist() == [1, 5, 8]
    assert packed.row.tolist() == [0, 2, 2]
    assert packed.targets.tolist() == [2, 6, 9]
    assert packed.weight.tolist() == [1, 0, 3]


def test_cutting_leaves_the_attended_run():
    cut = row([0, 0, 5, 6, 7, 0], [3], span=(2, 5)).cut()
    assert (cut.tokens.tolist(), cut.clean.tolist(), cut.weight.tolist()) == ([5, MASK, 7], [5, 6, 7], [0, 3, 0])
    assert bool(cut.attend.all())
    assert cut.span == (0, 3)


def test_looks_share_what_comes_before_their_blocks_and_nothing_else():
    """Prompt 1 2, answer 3 4 | 5 6 | 7 after a token of padding; two looks at the first block, one at the second."""
    clean = [0, 1, 2, 3, 4, 5, 6, 7]
    looks = [(row(clean, [3], span=(1, 8)), 3, 5), (row(clean, [4], span=(1, 8)), 3, 5), (row(clean, [5, 6], span=(1, 8)), 5, 7)]
    joined = join_looks(looks, 3, 2).cut()
    assert joined.tokens.tolist() == [1, 2, 3, 4, MASK, 4, 3, MASK, MASK, MASK]
    assert joined.clean.tolist() == [1, 2, 3, 4, 3, 4, 3, 4, 5, 6]
    assert joined.scored.nonzero()[:, 0].tolist() == [4, 7, 8, 9]
    assert joined.weight[joined.scored].tolist() == [3, 4, 5, 6]
    assert joined.sight.places.tolist() == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]
    seen = sees(joined.sight.levels[:, None], joined.sight.levels)
    expected = {(4, 5): {0, 1, 4, 5}, (6, 7): {0, 1, 6, 7}, (8, 9): {0, 1, 2, 3, 8, 9}}
    for queries, keys in expected.items():
        for query in queries:
            assert set(seen[query].nonzero()[:, 0].tolist()) == keys


def test_what_is_scored_in_the_prompt_stays_scored_once():
    clean = [1, 2, 3, 4, 5, 6]
    look = row(clean, [1, 3, 5])
    joined = join_looks([(look, 2, 4), (look, 4, 6)], 2, 2)
    assert joined.tokens.tolist() == [1, MASK, 3, 4, 3, MASK, 5, MASK]
    assert joined.scored.tolist() == [False, True, False, False, False, True, False, True]


def test_padding_is_seen_by_nobody_else():
    padded = row([1, 2, 3], [2]).rounded(4, 7)
    assert padded.tokens.tolist() == [1, 2, MASK, 7]
    seen = sees(padded.sight.levels[:, None], padded.sight.levels)
    assert seen[:3, :3].all()
    assert not seen[:3, 3].any()
    assert seen[3, 3]


def test_a_record_moves_with_all_its_tensors_but_its_packing():
    part = LogitTargets((0, 4), (), *torch.zeros(3, 2, dtype=torch.long))
    packed = pack([row([1, 2], [0])])
    there, (other, name) = moved(packed, "meta"), moved((part, "name"), "meta")
    assert {x.device.type for x in (there.tokens, there.weight, other.positions, other.index)} == {"meta"}
    assert there.packing is packed.packing
    assert (other.vocab, other.temperature, name) == ((0, 4), None, "name")
