"""Fields that are filled in the same passes: order, shared tokens, one evaluation of a row, and what is refused."""

from __future__ import annotations

import pytest
import torch

from mmada.canvas import Canvas, Field
from mmada.diffusion.schedule import cosine
from mmada.errors import InputError
from mmada.sampling import Denoising, JointDenoising, JointParams, SamplingParams
from mmada.sampling.guidance import two_scales
from mmada.sampling.joint import evenly, image_first, text_first, together
from mmada.sampling.params import follow_schedule

from .toy_denoiser import CODES, MASK, TEXT, contextual

TEXTS = SamplingParams(steps=4, stop_at_eos=False)
IMAGES = SamplingParams(steps=4, transfer_schedule=follow_schedule(cosine))


def two_fields(first: int = 1) -> Canvas:
    tokens = torch.tensor([first, MASK, MASK, MASK, MASK, 2, MASK, MASK, MASK, MASK, MASK])
    fields = (Field(torch.arange(1, 5), TEXT, 4), Field(torch.arange(6, 11), CODES, 5))
    return Canvas(tokens, torch.ones(11, dtype=torch.bool), fields)


class Joint:
    """Answers joint queries row by row, and counts rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.seen: list[list[int]] = []

    def __call__(self, joint: JointDenoising) -> None:
        query = joint.inputs()
        self.rows.append(len(query.tokens))
        self.seen.append(query.tokens[0].tolist())
        parts = [
            torch.stack(
                [contextual(query.tokens[r])[part.positions[r], part.ids.start : part.ids.stop] for r in range(len(part.positions))]
            )
            for part in (query, *query.also)
        ]
        joint.advance(torch.cat([part.flatten() for part in parts]) if query.also else parts[0])


def run(joint: JointDenoising) -> Joint:
    answers = Joint()
    while not joint.done:
        answers(joint)
    return answers


def test_timelines():
    assert evenly(5, 19, 6) == (5, 8, 11, 13, 16, 19)
    assert together(4, 2) == (((0, 0),), ((0, 1), (1, 1)), ((0, 2),), ((0, 3), (1, 3)))
    assert text_first(2, 1) == (((0, 0),), ((0, 1),), ((1, 0),))
    assert image_first(2, 1) == (((1, 0),), ((0, 0),), ((0, 1),))
    with pytest.raises(InputError, match="image_steps=0 from step 1 to 3 are none"):
        together(4, 0)


def test_each_field_sees_what_the_other_committed():
    joint = JointDenoising(two_fields(), JointParams(fields=(TEXTS, IMAGES), timeline=together(4, 2)), mask_id=MASK)
    answers = run(joint)
    filled = joint.canvas(0).tokens
    assert MASK not in filled
    assert filled[[0, 5]].tolist() == [1, 2]
    assert joint.num_forwards == [4]
    assert answers.rows == [1, 1, 1, 1]
    # The third row shows two words and two codes, as steps 0 and 1 committed them.
    assert [sum(t != MASK for t in row) for row in answers.seen] == [2, 3, 6, 7]
    assert joint.token_ids(0).tolist() == [*filled[1:5].tolist(), *filled[6:].tolist()]


def test_one_field_after_the_other_equals_two_denoisings():
    params = JointParams(fields=(TEXTS, IMAGES), timeline=text_first(4, 4))
    joint = JointDenoising(two_fields(), params, mask_id=MASK)
    run(joint)
    canvas = two_fields()
    for number, own in enumerate((TEXTS, IMAGES)):
        alone = Denoising([canvas.only(number)], own, mask_id=MASK)
        while not alone.done:
            query = alone.inputs()
            alone.advance(contextual(query.tokens[0])[query.positions, query.ids.start : query.ids.stop])
        canvas = Canvas(alone.canvas(0).tokens, canvas.attend, canvas.fields)
    assert joint.canvas(0).tokens.tolist() == canvas.tokens.tolist()


@pytest.mark.parametrize("fresh", [False, True])
def test_unconditional_rows_are_evaluated_where_they_count(fresh):
    guided = IMAGES.with_(guidance=two_scales, guidance_scale=1.0, image_guidance_scale=2.0)
    params = JointParams(fields=(TEXTS, guided), timeline=together(4, 2), fresh_negatives=fresh)
    joint = JointDenoising(two_fields(), params, mask_id=MASK, negatives=[two_fields(3), two_fields(4)])
    answers = run(joint)
    assert answers.rows == ([1, 1, 2, 1, 1, 2] if fresh else [1, 3, 1, 3])
    assert MASK not in joint.canvas(0).tokens
    if fresh:  # the unconditional rows of the second step show the text that it has committed
        before, after = answers.seen[1], answers.seen[2]
        assert sum(t != MASK for t in after[1:5]) == sum(t != MASK for t in before[1:5]) + 1


def test_the_same_seed_draws_the_same():
    noisy = JointParams(
        fields=(TEXTS.with_(temperature=1.0), IMAGES.with_(temperature=1.0, choice_temperature=1.0)), timeline=together(4, 3)
    )
    found = []
    for seed in (1, 1, 2):
        joint = JointDenoising(two_fields(), noisy, mask_id=MASK, seed=seed, record=True)
        run(joint)
        found.append(joint.token_ids(0).tolist())
        slots = sorted(slot for step in joint.trace for slot in step.slots)
        assert slots == list(range(9))  # each position is committed once
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JointParams(fields=(TEXTS,), timeline=together(4, 2)), "timeline has step 1 of field 1"),
        (lambda: JointParams(fields=(TEXTS, IMAGES), timeline=together(5, 2)), "timeline has step 4 of field 0"),
        (lambda: JointParams(fields=(TEXTS.with_(block_length=2),), timeline=(((0, 0),),)), "have no blocks and no cache"),
        (
            lambda: JointDenoising(two_fields(), JointParams(fields=(TEXTS,), timeline=(((0, 0),),)), mask_id=MASK),
            "2 fields with 1 parameters",
        ),
        (
            lambda: JointDenoising(
                two_fields(), JointParams(fields=(TEXTS.with_(guidance_scale=1.0), IMAGES), timeline=together(4, 2)), mask_id=MASK
            ),
            "0 unconditional rows for 1",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
