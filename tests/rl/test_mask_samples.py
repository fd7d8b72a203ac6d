"""Masks: what is hidden, scored, cut off, and with which weight."""

import pytest
import torch

from mmada.canvas import can_attend
from mmada.errors import InputError
from mmada.rl.batch import TrainSegment, collate
from mmada.rl.mask_samples import blocks_of, draw_mask_samples, times
from mmada.rl.settings import OBJECTIVES, ObjectiveConfig

from . import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.pipeline()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def answer(model, num_tokens=11, answer_length=16, **changes):
    """`num_tokens` letters with their end, in blocks of 4."""
    ids = [*model.prompts.encode("abcdefghijklmnop"[: num_tokens - 1]), model.layout.eos_id]
    settings = {
        "block_length": 4,
        "full_attention": False,
        "steps": [min(i, 10) if i < num_tokens else -1 for i in range(answer_length)],
        **changes,
    }
    return tiny.part(model, ids, answer_length=answer_length, num_tokens=num_tokens, **settings)


def test_times_of_both_readings():
    assert [round(1000 * t) for t in times("spacing", 0.1, 5)] == [100, 300, 500, 700, 900]  # the example in the text of the paper
    assert [round(1000 * t) for t in times("algorithm", 0.1, 5)] == [100, 325, 550, 775, 1000]  # its algorithm 1
    assert times("algorithm", 0.37, 1) == (0.37,)
    assert times("spacing", 0.9, 2) == pytest.approx((0.9, 0.4))  # wrapped
    assert all(
        0 <= t <= 1
        for start in (0.0, 0.5, 0.999)
        for timestep_sampling in ("spacing", "algorithm")
        for t in times(timestep_sampling, start, 7)
    )


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["block", "whole", "picture"])
def test_weights_of_an_update_sum_to_one_and_lie_on_masked_slots_that_count(model, name, kind):
    part = {
        "block": lambda: answer(model),
        "whole": lambda: answer(model, full_attention=True),
        "picture": lambda: tiny.picture(model, list(range(9)), steps=[0, 0, 0, 1, 1, 2, 2, 2, 2]),
    }[kind]()
    s = ObjectiveConfig(name=name, updates=3)
    for seed in range(5):
        plan = draw_mask_samples(part, s, generator(seed))
        assert len(plan) == 3
        for mask_samples in plan:
            assert sum(float(mask_sample.weight.sum()) for mask_sample in mask_samples) == pytest.approx(
                1, abs=0.34 if name == "spg" else 1e-9
            )
            for mask_sample in mask_samples:
                scored = mask_sample.weight > 0
                assert bool(scored.any())
                assert bool((mask_sample.is_masked | ~scored).all())
                assert not bool(scored[part.num_tokens :].any())
                assert not bool(scored[mask_sample.num_kept :].any())


def test_blocks_of_a_model_that_does_not_see_ahead_are_cut_off(model):
    part = answer(model)
    assert [(b.start, b.stop, b.num_kept) for b in blocks_of(part, "block")] == [(0, 4, 4), (4, 8, 8), (8, 11, 12)]
    (mask_samples,) = draw_mask_samples(part, ObjectiveConfig(updates=1), generator())
    batch = collate(
        [TrainSegment(part=part, mask_samples=mask_samples, advantage=1.0, task=0)], layout=model.layout, normalizers=torch.ones(1)
    )
    prompt = int(part.field.positions[0])
    assert batch.packing.lengths == (prompt + 8 + 12,)  # question and earlier blocks once, as they are, then each block noised
    (row,), clean = batch.tokens, part.canvas.tokens
    assert torch.equal(row[: prompt + 8], clean[: prompt + 8])
    for noised, mask_sample, block in zip(row[prompt + 8 :].split(4), mask_samples, blocks_of(part, "block"), strict=True):
        assert (noised == model.layout.mask_id).tolist() == mask_sample.is_masked[block.start : block.num_kept].tolist()
    assert row[-1] == model.layout.mask_id  # the fill inside the last block
    assert batch.packing.position_ids[prompt + 8 :].tolist() == list(range(prompt, prompt + 12))


def test_views_of_one_block_share_a_row_and_do_not_see_each_other(model):
    part = answer(model)
    mask_samples = draw_mask_samples(part, ObjectiveConfig(name="coupled", updates=1), generator())[0]
    batch = collate(
        [TrainSegment(part=part, mask_samples=mask_samples, advantage=1.0, task=0)], layout=model.layout, normalizers=torch.ones(1)
    )
    prompt = int(part.field.positions[0])
    seen = can_attend(batch.packing.block_ids[prompt + 8 :, None], batch.packing.block_ids)
    assert len(mask_samples) == 6
    for i in range(6):
        own, before = range(prompt + 8 + 4 * i, prompt + 12 + 4 * i), range(prompt + 4 * (i // 2))
        for query in range(4 * i, 4 * i + 4):
            assert set(seen[query].nonzero()[:, 0].tolist()) == {*own, *before}


def test_views_that_hide_different_parts_of_the_question_have_rows_of_their_own(model):
    part = answer(model)
    plans = [
        draw_mask_samples(part, ObjectiveConfig(name="diffu_grpo", updates=1, prompt_mask_prob=0.5), generator(seed))[0] for seed in (0, 1)
    ]
    together = collate(
        [TrainSegment(part=part, mask_samples=plans[0], advantage=1.0, task=0)], layout=model.layout, normalizers=torch.ones(1)
    )
    mixed = collate(
        [TrainSegment(part=part, mask_samples=(plans[0][0], plans[1][1]), advantage=1.0, task=0)],
        layout=model.layout,
        normalizers=torch.ones(1),
    )
    prompt = int(part.field.positions[0])
    assert together.packing.lengths == (prompt + 8 + 12,)
    assert mixed.packing.lengths == (prompt + 4, prompt + 8)


def test_a_model_that_sees_ahead_sees_masks_there(model):
    part = answer(model, full_attention=True)
    assert [(b.start, b.stop, b.num_kept) for b in blocks_of(part, "whole")] == [(0, 11, 16)]
    assert [(b.start, b.stop, b.num_kept) for b in blocks_of(part, "block")] == [(0, 4, 16), (4, 8, 16), (8, 11, 16)]
    (mask_samples,) = draw_mask_samples(part, ObjectiveConfig(updates=1, masking="block"), generator())
    assert all(
        bool(mask_sample.is_masked[block.stop :].all()) for mask_sample, block in zip(mask_samples, blocks_of(part, "block"), strict=True)
    )
    (whole,) = draw_mask_samples(part, ObjectiveConfig(updates=1), generator())
    assert len(whole) == 1
    assert bool(whole[0].is_masked[11:].all())


def test_whole_answers_are_refused_where_the_model_never_sees_its_room(model):
    with pytest.raises(InputError, match=r"masking='whole'.*use masking='block'"):
        draw_mask_samples(answer(model), ObjectiveConfig(masking="whole"), generator())
    assert len(draw_mask_samples(tiny.picture(model, [1, 2]), ObjectiveConfig(masking="whole", updates=1), generator())[0]) == 1


def test_the_question_is_never_masked_but_by_diffu_grpo(model):
    part = answer(model)
    for name in OBJECTIVES:
        given = [
            mask_sample.given
            for mask_samples in draw_mask_samples(part, ObjectiveConfig(name=name), generator())
            for mask_sample in mask_samples
        ]
        assert any(g is not None for g in given) is (name == "diffu_grpo")
    hidden = [draw_mask_samples(part, ObjectiveConfig(name="diffu_grpo", prompt_mask_prob=0.15), generator(seed)) for seed in range(40)]
    masks = torch.stack(
        [mask_sample.given for plan in hidden for mask_samples in plan for mask_sample in mask_samples if mask_sample.given is not None]
    )
    assert not bool(masks[:, part.field.positions].any())
    assert all(
        bool(mask_sample.is_masked[block].all())
        for plan in hidden
        for mask_samples in plan
        for mask_sample in mask_samples
        for block in [mask_sample.weight > 0]
    )
    first, second = hidden[0]
    assert first[0].given is not second[0].given  # drawn anew for each update


def test_pictures_follow_the_cosine(model):
    part = tiny.picture(model, [0] * 64)
    counts = sorted(int(mask_sample.is_masked.sum()) for (mask_sample,) in draw_mask_samples(part, ObjectiveConfig(updates=8), generator()))
    assert len(set(counts)) == 8
    # t is uniform, and cos(pi / 2 (1 - t)) of the codes are masked: 2 / pi of them on average.
    total = [
        int(mask_sample.is_masked.sum())
        for seed in range(40)
        for (mask_sample,) in draw_mask_samples(part, ObjectiveConfig(updates=8), generator(seed))
    ]
    assert sum(total) / len(total) == pytest.approx(64 * 2 / torch.pi, rel=0.02)
    (mask_sample,) = draw_mask_samples(part, ObjectiveConfig(updates=1, timestep_sampling="algorithm"), generator())[0]
    assert float(mask_sample.weight.max()) == pytest.approx(1 / int(mask_sample.is_masked.sum()))


def test_a_complementary_pair_scores_each_token_once(model):
    for name in ("coupled", "espo"):
        for mask_samples in draw_mask_samples(answer(model), ObjectiveConfig(name=name), generator()):
            assert len(mask_samples) == 6  # three blocks
            assert torch.equal(sum(mask_sample.weight for mask_sample in mask_samples)[:11], torch.full((11,), 1 / 11, dtype=torch.float64))
            for one, other in zip(mask_samples[0::2], mask_samples[1::2], strict=True):
                assert not bool(((one.weight > 0) & (other.weight > 0)).any())
    single = tiny.part(model, [model.layout.eos_id])
    assert [len(mask_samples) for mask_samples in draw_mask_samples(single, ObjectiveConfig(name="coupled"), generator())] == [
        1,
        1,
    ]  # one token has no complement


def test_recorded_views_are_states_of_the_sampler(model):
    part = tiny.part(model, model.prompts.encode("abcdef"), block_length=3, full_attention=False, steps=[1, 0, 1, 3, 2, 4])
    (mask_samples,) = draw_mask_samples(part, ObjectiveConfig(name="trace", steps_per_mask=1, updates=1), generator())
    assert [mask_sample.is_masked[: mask_sample.num_kept].tolist() for mask_sample in mask_samples] == [
        [True, True, True],
        [True, False, True],
        [False, False, False, True, True, True],
        [False, False, False, True, False, True],
        [False, False, False, False, False, True],
    ]
    assert [(mask_sample.weight > 0).nonzero().flatten().tolist() for mask_sample in mask_samples] == [[1], [0, 2], [4], [3], [5]]
    assert [float(mask_sample.weight.sum()) for mask_sample in mask_samples] == pytest.approx([0.2] * 5)
    (merged,) = draw_mask_samples(part, ObjectiveConfig(name="trace", steps_per_mask=2, updates=1), generator())
    assert [(mask_sample.weight > 0).nonzero().flatten().tolist() for mask_sample in merged] == [
        [0, 1, 2],
        [3, 4],
        [5],
    ]  # never across a block
    with pytest.raises(InputError, match="record=True"):
        draw_mask_samples(tiny.part(model, [1, 2]), ObjectiveConfig(name="trace"), generator())


def test_updates_take_turns_where_only_some_blocks_are_looked_at(model):
    part = answer(model, num_tokens=16, answer_length=16)
    plan = draw_mask_samples(part, ObjectiveConfig(max_blocks=2, updates=2), generator())
    seen = [sorted(int(mask_sample.weight.argmax()) // 4 for mask_sample in mask_samples) for mask_samples in plan]
    assert sorted(seen[0] + seen[1]) == [0, 1, 2, 3]
    for mask_samples in plan:
        assert sum(float(mask_sample.weight.sum()) for mask_sample in mask_samples) == pytest.approx(1)


def test_plans_depend_on_their_generator_alone(model):
    one, again, other = (draw_mask_samples(answer(model), ObjectiveConfig(), generator(seed)) for seed in (3, 3, 4))

    def masks(plan):
        return [mask_sample.is_masked.tolist() for mask_samples in plan for mask_sample in mask_samples]

    assert masks(one) == masks(again) != masks(other)
