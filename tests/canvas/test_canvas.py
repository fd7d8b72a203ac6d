import pytest
import torch

from mmada.canvas import Canvas, Field, IdRange, stack
from mmada.errors import InputError

IDS, CODES = IdRange(0, 50), IdRange(50, 60)
MASK, FILL = 99, 77


def field(*positions, ids=IDS):
    return Field(torch.tensor(positions, dtype=torch.long), ids, len(positions))


def canvas(tokens, *fields, attend=None):
    attend = [1] * len(tokens) if attend is None else attend
    return Canvas(torch.tensor(tokens), torch.tensor(attend).bool(), fields)


# What is refused: (tokens, attend, positions of each field, message).
REFUSED = {
    "two-dimensional tokens": (torch.zeros(2, 3).long(), torch.ones(2, 3).bool(), [[0]], "must be 1-D of one length"),
    "attend of another length": (torch.zeros(4).long(), torch.ones(3).bool(), [[0]], r"tokens \(4,\) and attend \(3,\)"),
    "attend not bool": (torch.zeros(3).long(), torch.ones(3).long(), [[0]], "attend bool"),
    "nothing attended": (torch.zeros(3).long(), torch.zeros(3).bool(), [[0]], "one contiguous run"),
    "a gap in attend": (torch.zeros(3).long(), torch.tensor([True, False, True]), [[0]], "one contiguous run"),
    "empty row": (torch.zeros(0).long(), torch.zeros(0).bool(), [], "one contiguous run"),
    "empty field": (torch.zeros(3).long(), torch.ones(3).bool(), [[]], "nothing to fill in one of its fields"),
    "position behind the row": (torch.zeros(3).long(), torch.ones(3).bool(), [[1, 3]], r"open positions 1\.\.3 .* row of 3 tokens"),
    "negative position": (torch.zeros(3).long(), torch.ones(3).bool(), [[-1, 2]], r"open positions -1\.\.2"),
    "open padding": (torch.zeros(3).long(), torch.tensor([False, True, True]), [[0, 1]], "must lie on the attended part"),
    "overlapping fields": (torch.zeros(4).long(), torch.ones(4).bool(), [[0, 1], [1, 2]], "open in one field only"),
    "position given twice": (torch.zeros(4).long(), torch.ones(4).bool(), [[1, 1]], "must ascend"),
    "descending positions": (torch.zeros(4).long(), torch.ones(4).bool(), [[2, 1]], "must ascend"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    tokens, attend, positions, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        Canvas(tokens, attend, tuple(field(*p) for p in positions))


def test_open_positions_are_the_union_of_the_fields():
    row = canvas([5, 6, 7, 8, 9], field(1, 3), field(4, ids=CODES))
    assert len(row) == 5
    assert row.is_open.tolist() == [False, True, False, True, True]
    assert canvas([5, 6]).is_open.tolist() == [False, False]


@pytest.mark.parametrize(
    ("attend", "span"),
    [([1, 1, 1, 1], (0, 4)), ([0, 0, 1, 1], (2, 4)), ([1, 1, 0, 0], (0, 2)), ([0, 1, 1, 0], (1, 3)), ([0, 1, 0, 0], (1, 2))],
)
def test_span(attend, span):
    assert canvas([1, 2, 3, 4], attend=attend).span == span


def test_masked_hides_the_open_positions_and_keeps_the_rest():
    row = canvas([5, 6, 7, 8, 9], field(1, 3), field(4, ids=CODES))
    masked = row.masked(MASK)
    assert masked.tokens.tolist() == [5, MASK, 7, MASK, MASK]
    assert row.tokens.tolist() == [5, 6, 7, 8, 9]
    assert masked.fields == row.fields


def test_only_keeps_one_field_and_all_tokens():
    row = canvas([5, 6, 7, 8, 9], field(1, 3), field(4, ids=CODES)).masked(MASK)
    image = row.only(1)
    assert [f.ids for f in image.fields] == [CODES]
    assert image.is_open.tolist() == [False] * 4 + [True]
    assert image.tokens.tolist() == row.tokens.tolist()


def test_to_moves_every_tensor_and_changes_none():
    row = canvas([5, 6, 7], field(1), attend=[0, 1, 1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    moved = row.to(device)
    before, after = ([c.tokens, c.attend, c.fields[0].positions] for c in (row, moved))
    assert [t.device.type for t in after] == [device.type] * 3
    assert [t.tolist() for t in after] == [t.tolist() for t in before]
    assert moved.fields[0].ids == row.fields[0].ids


def test_stack_pads_on_the_right_with_hidden_positions():
    batch = stack([canvas([5, 6, 7], field(2)), canvas([0, 8], field(1), attend=[0, 1])], pad_id=FILL)
    assert batch.tokens.tolist() == [[5, 6, 7], [0, 8, FILL]]
    assert batch.attend.tolist() == [[True] * 3, [False, True, False]]
    assert batch.is_open.tolist() == [[False, False, True], [False, True, False]]


def test_stack_to_a_given_length():
    batch = stack([canvas([5, 6, 7], field(2))], pad_id=FILL, length=5)
    assert batch.tokens.tolist() == [[5, 6, 7, FILL, FILL]]
    assert batch.attend.sum() == 3


def test_stack_refuses_no_canvas_and_too_long_ones():
    with pytest.raises(InputError, match=r"canvases=\[\] is empty"):
        stack([], pad_id=FILL)
    with pytest.raises(InputError, match="length=2 is shorter than the longest canvas of 3 tokens"):
        stack([canvas([5, 6, 7], field(2))], pad_id=FILL, length=2)
