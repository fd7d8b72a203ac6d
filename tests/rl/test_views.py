"""Masks: what is hidden, scored, cut off, and with which weight."""

import pytest
import torch

from mmada.canvas import sees
from mmada.errors import InputError
from mmada.rl.batch import Trained, collate
from mmada.rl.settings import OBJECTIVES, Settings
from mmada.rl.views import blocks_of, draw_views, times

from . import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.pipeline()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def answer(model, num_tokens=11, room=16, **changes):
    """`num_tokens` letters with their end, in blocks of 4."""
    ids = [*model.prompts.encode("abcdefghijklmnop"[: num_tokens - 1]), model.layout.eos_id]
    settings = {"block_length": 4, "sees_ahead": False, "steps": [min(i, 10) if i < num_tokens else -1 for i in range(room)], **changes}
    return tiny.part(model, ids, room=room, num_tokens=num_tokens, **settings)


def test_times_of_both_readings():
    assert [round(1000 * t) for t in times("spacing", 0.1, 5)] == [100, 300, 500, 700, 900]  # the example in the text of the paper
    assert [round(1000 * t) for t in times("algorithm", 0.1, 5)] == [100, 325, 550, 775, 1000]  # its algorithm 1
    assert times("algorithm", 0.37, 1) == (0.37,)
    assert times("spacing", 0.9, 2) == pytest.approx((0.9, 0.4))  # wrapped
    assert all(0 <= t <= 1 for start in (0.0, 0.5, 0.999) for reading in ("spacing", "algorithm") for t in times(reading, start, 7))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["block", "whole", "picture"])
def test_weights_of_an_update_sum_to_one_and_lie_on_masked_slots_that_count(model, name, kind):
    part = {
        "block": lambda: answer(model),
        "whole": lambda: answer(model, sees_ahead=True),
        "picture": lambda: tiny.picture(model, list(range(9)), steps=[0, 0, 0, 1, 1, 2, 2, 2, 2]),
    }[kind]()
    s = Settings(name=name, updates=3)
    for seed in range(5):
        plan = draw_views(part, s, generator(seed))
        assert len(plan) == 3
        for views in plan:
            assert sum(float(view.weight.sum()) for view in views) == pytest.approx(1, abs=0.34 if name == "spg" else 1e-9)
            for view in views:
                scored = view.weight > 0
                assert bool(scored.any())
                assert bool((view.is_masked | ~scored).all())
                assert not bool(scored[part.num_tokens :].any())
                assert not bool(scored[view.num_kept :].any())


def test_blocks_of_a_model_that_does_not_see_ahead_are_cut_off(model):
    part = answer(model)
    assert [(b.start, b.stop, b.num_kept) for b in blocks_of(part, "block")] == [(0, 4, 4), (4, 8, 8), (8, 11, 12)]
    (views,) = draw_views(part, Settings(updates=1), generator())
    batch = collate([Trained(part=part, views=views, advantage=1.0, task=0)], layout=model.layout, normalisers=torch.ones(1))
    prompt = int(part.field.positions[0])
    assert batch.packing.lengths == (prompt + 8 + 12,)  # question and earlier blocks once, as they are, then each block noised
    (row,), clean = batch.tokens, part.canvas.tokens
    assert torch.equal(row[: prompt + 8], clean[: prompt + 8])
    for noised, view, block in zip(row[prompt + 8 :].split(4), views, blocks_of(part, "block"), strict=True):
        assert (noised == model.layout.mask_id).tolist() == view.is_masked[block.start : block.num_kept].tolist()
    assert row[-1] == model.layout.mask_id  # the fill inside the last block
    assert batch.packing.places[prompt + 8 :].tolist() == list(range(prompt, prompt + 12))


def test_views_of_one_block_share_a_row_and_do_not_see_each_other(model):
    part = answer(model)
    views = draw_views(part, Settings(name="coupled", updates=1), generator())[0]
    batch = collate([Trained(part=part, views=views, advantage=1.0, task=0)], layout=model.layout, normalisers=torch.ones(1))
    prompt = int(part.field.positions[0])
    seen = sees(batch.packing.levels[prompt + 8 :, None], batch.packing.levels)
    assert len(views) == 6
    for i in range(6):
        own, before = range(prompt + 8 + 4 * i, prompt + 12 + 4 * i), range(prompt + 4 * (i // 2))
        for query in range(4 * i, 4 * i + 4):
            assert set(seen[query].nonzero()[:, 0].tolist()) == {*own, *before}


def test_views_that_hide_different_parts_of_the_question_have_rows_of_their_own(model):
    part = answer(model)
    plans = [draw_views(part, Settings(name="diffu_grpo", updates=1, prompt_ratio=0.5), generator(seed))[0] for seed in (0, 1)]
    together = collate([Trained(part=part, views=plans[0], advantage=1.0, task=0)], layout=model.layout, normalisers=torch.ones(1))
    mixed = collate(
        [Trained(part=part, views=(plans[0][0], plans[1][1]), advantage=1.0, task=0)], layout=model.layout, normalisers=torch.ones(1)
    )
    prompt = int(part.field.positions[0])
    assert together.packing.lengths == (prompt + 8 + 12,)
    assert mixed.packing.lengths == (prompt + 4, prompt + 8)


def test_a_model_that_sees_ahead_sees_masks_there(model):
    part = answer(model, sees_ahead=True)
    assert [(b.start, b.stop, b.num_kept) for b in blocks_of(part, "whole")] == [(0, 11, 16)]
    assert [(b.start, b.stop, b.num_kept) for b in blocks_of(part, "block")] == [(0, 4, 16), (4, 8, 16), (8, 11, 16)]
    (views,) = draw_views(part, Settings(updates=1, law="block"), generator())
    assert all(bool(view.is_masked[block.stop :].all()) for view, block in zip(views, blocks_of(part, "block"), strict=True))
    (whole,) = draw_views(part, Settings(updates=1), generator())
    assert len(whole) == 1
    assert bool(whole[0].is_masked[11:].all())


def test_whole_answers_are_refused_where_the_model_never_sees_its_room(model):
    with pytest.raises(InputError, match=r"law='whole'.*use law='block'"):
        draw_views(answer(model), Settings(law="whole"), generator())
    assert len(draw_views(tiny.picture(model, [1, 2]), Settings(law="whole", updates=1), generator())[0]) == 1


def test_the_question_is_never_masked_but_by_diffu_grpo(model):
    part = answer(model)
    for name in OBJECTIVES:
        given = [view.given for views in draw_views(part, Settings(name=name), generator()) for view in views]
        assert any(g is not None for g in given) is (name == "diffu_grpo")
    hidden = [draw_views(part, Settings(name="diffu_grpo", prompt_ratio=0.15), generator(seed)) for seed in range(40)]
    masks = torch.stack([view.given for plan in hidden for views in plan for view in views if view.given is not None])
    assert not bool(masks[:, part.field.positions].any())
    assert all(bool(view.is_masked[block].all()) for plan in hidden for views in plan for view in views for block in [view.weight > 0])
    first, second = hidden[0]
    assert first[0].given is not second[0].given  # drawn anew for each update


def test_pictures_follow_the_cosine(model):
    part = tiny.picture(model, [0] * 64)
    counts = sorted(int(view.is_masked.sum()) for (view,) in draw_views(part, Settings(updates=8), generator()))
    assert len(set(counts)) == 8
    # t is uniform, and cos(pi / 2 (1 - t)) of the codes are masked: 2 / pi of them on average.
    total = [int(view.is_masked.sum()) for seed in range(40) for (view,) in draw_views(part, Settings(updates=8), generator(seed))]
    assert sum(total) / len(total) == pytest.approx(64 * 2 / torch.pi, rel=0.02)
    (view,) = draw_views(part, Settings(updates=1, reading="algorithm"), generator())[0]
    assert float(view.weight.max()) == pytest.approx(1 / int(view.is_masked.sum()))


def test_a_complementary_pair_scores_each_token_once(model):
    for name in ("coupled", "espo"):
        for views in draw_views(answer(model), Settings(name=name), generator()):
            assert len(views) == 6  # three blocks
            assert torch.equal(sum(view.weight for view in views)[:11], torch.full((11,), 1 / 11, dtype=torch.float64))
            for one, other in zip(views[0::2], views[1::2], strict=True):
                assert not bool(((one.weight > 0) & (other.weight > 0)).any())
    single = tiny.part(model, [model.layout.eos_id])
    assert [len(views) for views in draw_views(single, Settings(name="coupled"), generator())] == [1, 1]  # one token has no complement


def test_recorded_views_are_states_of_the_sampler(model):
    part = tiny.part(model, model.prompts.encode("abcdef"), block_length=3, sees_ahead=False, steps=[1, 0, 1, 3, 2, 4])
    (views,) = draw_views(part, Settings(name="trace", shrink=1, updates=1), generator())
    assert [view.is_masked[: view.num_kept].tolist() for view in views] == [
        [True, True, True],
        [True, False, True],
        [False, False, False, True, True, True],
        [False, False, False, True, False, True],
        [False, False, False, False, False, True],
    ]
    assert [(view.weight > 0).nonzero().flatten().tolist() for view in views] == [[1], [0, 2], [4], [3], [5]]
    assert [float(view.weight.sum()) for view in views] == pytest.approx([0.2] * 5)
    (merged,) = draw_views(part, Settings(name="trace", shrink=2, updates=1), generator())
    assert [(view.weight > 0).nonzero().flatten().tolist() for view in merged] == [[0, 1, 2], [3, 4], [5]]  # never across a block
    with pytest.raises(InputError, match="record=True"):
        draw_views(tiny.part(model, [1, 2]), Settings(name="trace"), generator())


def test_updates_take_turns_where_only_some_blocks_are_looked_at(model):
    part = answer(model, num_tokens=16, room=16)
    plan = draw_views(part, Settings(max_blocks=2, updates=2), generator())
    seen = [sorted(int(view.weight.argmax()) // 4 for view in views) for views in plan]
    assert sorted(seen[0] + seen[1]) == [0, 1, 2, 3]
    for views in plan:
        assert sum(float(view.weight.sum()) for view in views) == pytest.approx(1)


def test_plans_depend_on_their_generator_alone(model):
    one, again, other = (draw_views(answer(model), Settings(), generator(seed)) for seed in (3, 3, 4))

    def masks(plan):
        return [view.is_masked.tolist() for views in plan for view in views]

    assert masks(one) == masks(again) != masks(other)
