"""Which filling is likeliest: against the definition, token by token."""

import pytest
import torch

from mmada.canvas import Canvas, Field
from mmada.errors import InputError
from mmada.sampling import Ranking, denoise

from .toy_denoiser import MASK, SOME_CODES, TEXT, Toy, contextual


def canvas(codes, *, ids=SOME_CODES, prompt=(1, 2, 3)):
    tokens = torch.tensor([*prompt, *codes])
    field = Field(torch.arange(len(prompt), len(tokens)), ids, len(codes))
    return Canvas(tokens, torch.ones(len(tokens), dtype=torch.bool), (field,))


def ranked(canvases):
    ranking, toy = Ranking(canvases, mask_id=MASK), Toy()
    assert list(denoise([ranking], toy)) == list(range(1, ranking.num_forwards + 1))
    return ranking, [query for queries in toy.queries for query in queries]


FILLINGS = [canvas([16, 18, 19, 21, 22]), canvas([18, 18, 18, 18, 18]), canvas([23, 16, 23, 19, 23])]


def test_a_score_is_the_mean_log_probability_of_the_hidden_tokens():
    ranking, queries = ranked(FILLINGS)
    expected = torch.zeros(3, dtype=torch.float64)
    for query in queries:
        for row, one in enumerate(FILLINGS):
            tokens = one.tokens.clone()
            tokens[query.positions[row]] = MASK
            assert torch.equal(query.tokens[row], tokens)
            for position in query.positions[row].tolist():
                logits = contextual(tokens)[position, 16:24].double()
                logits[[1, 4]] = -torch.inf  # 17 and 20 are never proposed
                expected[row] += logits.log_softmax(-1)[one.tokens[position] - 16]
    assert ranking.scores == pytest.approx((expected / 10).tolist(), rel=1e-5)
    assert ranking.best == int(expected.argmax())


def test_every_token_is_hidden_equally_often():
    _, queries = ranked(FILLINGS)
    assert torch.cat([query.positions[0] for query in queries]).bincount().tolist() == [0, 0, 0, 2, 2, 2, 2, 2]


def test_a_score_depends_on_its_canvas_alone():
    alone = [ranked([one])[0].scores[0] for one in FILLINGS]
    assert ranked(FILLINGS)[0].scores == pytest.approx(alone, abs=0)
    assert ranked(FILLINGS[::-1])[0].best == 2 - ranked(FILLINGS)[0].best


def test_one_token_and_equals():
    one, _ = ranked([canvas([16]), canvas([16])])
    assert one.best == 0
    assert one.scores[0] == one.scores[1] < 0


def test_canvases_of_different_shape_cannot_be_compared():
    for others in ([canvas([16])], [canvas([1, 2, 3, 4, 5], ids=TEXT)]):
        with pytest.raises(InputError, match="different fields cannot be compared"):
            Ranking([FILLINGS[0], *others], mask_id=MASK)
    with pytest.raises(InputError):
        Ranking([], mask_id=MASK)
