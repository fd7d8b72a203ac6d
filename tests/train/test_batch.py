"""Noise and batches: independent of neighbors, processes and micro-batches; every normalizer by its definition."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from mmada.canvas import Canvas, Field
from mmada.errors import InputError
from mmada.model import Packing, Transformer, preset
from mmada.sampling.loop import Denoising
from mmada.sampling.params import SamplingParams
from mmada.train.batch import collate, noise_row
from mmada.train.recipes import named_stage
from mmada.train.step import DiffusionLoss

from . import tiny


def noised(component, row, **changes):
    return noise_row(row, replace(component, **changes), layout=tiny.LAYOUT, seed=0, block_length=16)


def one(name, **changes):
    """A component, and its first row."""
    stage = tiny.stage(name, **changes)
    (component,) = stage.components
    stage = replace(stage, components=(replace(component, cond_dropout_prob=0.0),))
    return component, tiny.sources(stage)[name].rows([0])[0]


def scored_rows(batches):
    """What is scored, over all batches, whatever the order: (component, target, weight) beside the tokens around it."""
    found = []
    for batch in batches:
        tokens = batch.tokens.flatten()
        for part in batch.scored:
            for position, target, weight, component in zip(
                *(x.tolist() for x in (part.positions, part.targets, batch.weight[part.index], batch.component[part.index])), strict=True
            ):
                found.append((component, target, round(weight, 6), tuple(tokens[max(0, position - 2) : position + 1].tolist())))
    return sorted(found)


def test_a_global_batch_is_the_same_for_any_number_of_processes_and_micro_batches():
    plan = tiny.plan(tiny.stage(batch=12))
    whole = plan.batches(3, rank=0, world=1, accumulate=1)
    for world, accumulate in ((2, 1), (1, 3), (2, 2), (3, 4)):
        parts = [batch for rank in range(world) for batch in plan.batches(3, rank=rank, world=world, accumulate=accumulate)]
        assert len(parts) == world * accumulate
        torch.testing.assert_close(torch.stack([p.normalizers for p in parts]).sum(0), whole[0].normalizers)
        assert sum(p.num_tokens for p in parts) == whole[0].num_tokens
        # Packing puts rows next to others; only rows shorter than the window could look different, and none is.
        assert scored_rows(parts) == scored_rows(whole)


def test_batches_are_a_pure_function_of_the_step():
    plans = [tiny.plan(tiny.stage()) for _ in range(2)]
    first = plans[0].batches(5, rank=0, world=1, accumulate=1)
    plans[1].batches(2, rank=0, world=1, accumulate=1)
    again = plans[1].batches(5, rank=0, world=1, accumulate=1)
    assert first[0].tokens.tolist() == again[0].tokens.tolist()
    other = tiny.plan(tiny.stage(), seed=1).batches(5, rank=0, world=1, accumulate=1)
    assert other[0].tokens.tolist() != first[0].tokens.tolist()


@pytest.mark.parametrize("short_conv", [0, 3])
def test_padding_that_rounds_rows_changes_nothing_but_the_number_of_kernels(short_conv):
    plan = tiny.plan(tiny.stage(batch=12))
    (plain,), (rounded,) = (replace(plan, round_to=n).batches(3, rank=0, world=1, accumulate=1) for n in (1, 32))
    assert rounded.tokens.shape[1] > plain.tokens.shape[1]
    assert rounded.num_tokens == plain.num_tokens
    assert rounded.normalizers.tolist() == plain.normalizers.tolist()
    assert len(rounded.mask.runs) < len(plain.mask.runs)
    assert all(length % 32 == 0 for _, length in rounded.mask.runs)
    objective = DiffusionLoss(tiny.model(short_conv=short_conv))
    losses, padded = objective(plain), objective(rounded)
    torch.testing.assert_close(padded, losses, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(loss.sum(), list(objective.parameters())) for loss in (losses, padded)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_batch_that_cannot_be_split_is_an_error():
    with pytest.raises(InputError, match="batch=8 rows cannot be split over 3 processes"):
        tiny.plan(tiny.stage()).batches(0, rank=0, world=3, accumulate=4)


@pytest.mark.parametrize("name", ["draw", "look", "text", "plan", "make"])
def test_only_what_may_be_masked_is_masked_and_scored(name):
    component, row = one(name)
    noise_types = tuple("count" if noise_type == "block" else noise_type for noise_type in component.noise)  # blocks: below
    (view,) = noised(component, row, image_mask_ratio=0.0, noise=noise_types)
    is_masked = view.tokens == tiny.LAYOUT.mask_id
    assert not (is_masked & ~row.canvas.is_open).any()
    assert not (view.scored & ~is_masked).any()
    assert view.tokens[~is_masked].tolist() == row.canvas.tokens[~is_masked].tolist()
    assert view.scored.any()
    if name == "plan":  # the image comes later: hidden, not scored
        image = row.canvas.fields[1].positions
        assert is_masked[image].all()
        assert not view.scored[image].any()
    if name == "make":  # the text came before: given
        assert not is_masked[row.canvas.fields[0].positions].any()


def test_weights_follow_the_rule_and_the_extra_factors():
    component, row = one("text")
    at = row.canvas.fields[0].positions
    factor = torch.ones(len(row.canvas))
    factor[at[-1]] = 3.0
    row = replace(row, factor=factor)
    a = len(at) + 2.0
    for rule, expected in (("1", lambda p: 1.0), ("1/p", lambda p: 1 / p), ("1/(p a)", lambda p: 1 / (p * a))):
        (view,) = noised(component, row, weight=rule, noise=("count",))
        p = float((view.tokens[at] == tiny.LAYOUT.mask_id).sum()) / len(at)
        assert view.maskable == a
        torch.testing.assert_close(view.weight[at], factor[at] * expected(p))


@pytest.fixture
def twenty():
    """An answer of 20 tokens and an end token, 65 66 67 ..., in a room of 32; and its first position."""
    component, row = one("text")
    at = row.canvas.fields[0].positions[:32]
    clean = row.canvas.tokens.clone()
    clean[at[:20]], clean[at[20:]] = torch.arange(65, 85), tiny.LAYOUT.eos_id
    return component, replace(row, canvas=replace(row.canvas, tokens=clean)), int(at[0])


def test_blocks_are_noised_behind_the_clean_answer(twenty):
    component, row, first = twenty
    (view,) = noise_row(row, component, layout=tiny.LAYOUT, seed=0, block_length=8)
    # Two blocks as they are, then three blocks noised; the room behind the third is left out.
    assert len(view.tokens) == first + 16 + 24
    assert view.tokens[: first + 16].tolist() == row.canvas.tokens[: first + 16].tolist()
    assert view.clean[first + 16 :].tolist() == row.canvas.tokens[first : first + 24].tolist()
    copies = view.tokens[first + 16 :]
    is_masked = copies == tiny.LAYOUT.mask_id
    assert torch.equal(view.scored[first + 16 :], is_masked)
    assert not view.scored[: first + 16].any()
    assert torch.equal(copies[~is_masked], view.clean[first + 16 :][~is_masked])
    for block, weight in zip(is_masked.split(8), view.weight[first + 16 :].split(8), strict=True):
        assert block.any()
        torch.testing.assert_close(weight[block], torch.full((int(block.sum()),), 8 / int(block.sum())))
    assert view.block_mask.block_ids.tolist() == [0] * first + [2] * 8 + [4] * 8 + [1] * 8 + [3] * 8 + [5] * 8
    assert view.block_mask.position_ids.tolist() == [*range(first + 16), *range(first, first + 24)]
    assert view.maskable == 24


def test_a_row_ends_behind_its_last_block(twenty):
    """One of the answer's three blocks is noised and ends the row; weights make up for the two others, whatever the draw."""
    component, row, first = twenty
    component, lengths = replace(component, noise=("last_block",)), []
    for index in range(24):
        (view,) = noise_row(replace(row, index=index), component, layout=tiny.LAYOUT, seed=0, block_length=8)
        view = view.cut()
        lengths.append(len(view.tokens) - first)
        is_masked = view.tokens == tiny.LAYOUT.mask_id
        assert torch.equal(view.scored, is_masked)
        assert not is_masked[:-8].any()
        assert view.tokens[~is_masked].tolist() == row.canvas.tokens[: len(view.tokens)][~is_masked].tolist()
        assert view.block_mask is None
        assert view.maskable == pytest.approx(float(view.weight[is_masked].sum())) == 24
    assert set(lengths) == {8, 16, 24}
    (half,) = noise_row(row, component, layout=tiny.LAYOUT, seed=0, block_length=8, ratio=0.5)
    assert int(half.scored.sum()) == 4


@pytest.mark.parametrize("is_stratified", [False, True])
def test_times_of_the_blocks_of_a_row_are_spread(is_stratified):
    """An answer in 16 blocks of 8 is masked everywhere from a little to wholly: each count of masks in 1..8 one to three times."""
    component, row = one("text")
    at = row.canvas.fields[0].positions
    first, tokens = int(at[0]), torch.arange(65, 65 + 127).clamp_max(200)
    prompt = row.canvas.tokens[:first]
    clean = torch.cat([prompt, tokens, torch.tensor([tiny.LAYOUT.eos_id])])
    field = Field(torch.arange(first, first + 128), tiny.LAYOUT.text_ids, 128)
    canvas = Canvas(clean, torch.ones_like(clean, dtype=torch.bool), (field,))
    for index in range(8):
        new = replace(row, index=index, canvas=canvas, factor=None)
        (view,) = noise_row(new, component, layout=tiny.LAYOUT, seed=0, stratified=is_stratified, block_length=8)
        counts = [int(block.sum()) for block in view.scored[-128:].split(8)]
        frequencies = [counts.count(k) for k in range(1, 9)]
        assert sum(frequencies) == 16
        assert all(1 <= frequency <= 3 for frequency in frequencies), frequencies


@pytest.mark.parametrize("changes", [{"short_conv": 9}, {"backbone": "qwen", "shifted_logits": True}], ids=["neighbors", "shifted"])
def test_what_a_noised_block_meets_is_what_the_sampler_shows_it(twenty, changes):
    """A block's hidden states in a row of training are those of the row that the sampler makes: the answer before it, and itself."""
    component, row, first = twenty
    model = Transformer(preset("debug", layout=tiny.LAYOUT, **changes)).eval()
    (view,) = noise_row(row, component, layout=tiny.LAYOUT, seed=0, block_length=8)
    batch = collate([view], [component], layout=tiny.LAYOUT)
    found = model.trunk(batch.tokens, batch.mask)[0, first + 16 :].split(8)
    for n, block in enumerate(view.tokens[first + 16 :].split(8)):
        answer = row.canvas.tokens[first : first + 32].index_fill(0, torch.arange(8 * n, 32), tiny.LAYOUT.mask_id)
        prompt = torch.cat([row.canvas.tokens[:first], answer])
        field = Field(torch.arange(first, first + 32), tiny.LAYOUT.text_ids, 32)
        canvas = Canvas(prompt, torch.ones_like(prompt, dtype=torch.bool), (field,))
        denoising = Denoising(
            [canvas.masked(tiny.LAYOUT.mask_id)], SamplingParams(steps=32, block_length=8, full_attention=False), mask_id=258
        )
        for slot in range(8 * n):  # fill what comes before, one after the other
            query = denoising.inputs()
            logits = torch.zeros(1, query.positions.shape[1], query.ids.stop)
            for i, position in enumerate(query.positions[0].tolist()):
                logits[0, i, answer[position - first]] = 10.0 + (position == first + slot)
            denoising.advance(logits)
        query = denoising.inputs()
        start, stop = query.spans[0]
        shown = query.tokens[0, start:stop].clone()
        assert shown[: first + 8 * n].tolist() == row.canvas.tokens[: first + 8 * n].tolist()
        shown[-8:] = block
        expected = model.trunk(shown[None], Packing.of([stop - start], list(query.block_masks)))[0, -8:]
        torch.testing.assert_close(found[n], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_blocks_counted_from_the_beginning_meet_what_the_sampler_shows_them(twenty, cut):
    """With `prompt_in_blocks`: a block that the prompt has begun is noised and seen with the prompt's part of it."""
    component, row, first = twenty
    first, size = first - cut, 4
    clean = row.canvas.tokens[cut : first + cut + 32]
    canvas = Canvas(
        clean,
        torch.ones_like(clean, dtype=torch.bool),
        (replace(row.canvas.fields[0], positions=row.canvas.fields[0].positions[:32] - cut),),
    )
    model = Transformer(preset("debug", layout=tiny.LAYOUT, backbone="qwen", head_norm=True, init_std=0.2)).eval()
    new = replace(row, canvas=canvas, factor=None)
    (view,) = noise_row(new, component, layout=tiny.LAYOUT, seed=0, block_length=size, prompt_in_blocks=True)
    batch = collate([view], [component], layout=tiny.LAYOUT)
    found = model.trunk(batch.tokens, batch.mask)[0]
    position_ids, begins = view.block_mask.position_ids, []
    params = SamplingParams(steps=None, threshold=0.5, block_length=size, full_attention=False, prompt_in_blocks=True)
    last = first // size * size + -(-(first % size + 21) // size) * size  # behind the block that holds the end token
    num_clean = len(view.tokens) - (last - first // size * size)
    for begin in range(first // size * size, last, size):
        at = slice(num_clean + begin - first // size * size, num_clean + begin - first // size * size + size)
        assert position_ids[at].tolist() == list(range(begin, begin + size))
        assert view.clean[at].tolist() == clean[begin : begin + size].tolist()
        assert not view.scored[at][position_ids[at] < first].any()
        assert view.scored[at].any()
        shown = torch.cat([clean[:begin], view.tokens[at]])
        denoising = Denoising([canvas.masked(tiny.LAYOUT.mask_id)], params, mask_id=258)
        while denoising.spans and denoising.inputs().spans[0][1] < begin + size:  # finish the blocks before
            query = denoising.inputs()
            logits = torch.zeros(1, query.positions.shape[1], query.ids.stop)
            logits[0, torch.arange(query.positions.shape[1]), clean[query.positions[0]]] = 20.0
            denoising.advance(logits)
        query = denoising.inputs()
        assert query.spans[0] == (0, begin + size)
        assert query.tokens[0, :begin].tolist() == clean[:begin].tolist()
        expected = model.trunk(shown[None], Packing.of([len(shown)], list(query.block_masks)))[0, -size:]
        torch.testing.assert_close(found[at], expected, rtol=1e-4, atol=1e-4)
        begins.append(begin)
    assert int(view.scored.sum()) == int(view.scored[num_clean:].sum()) > 0
    assert len(begins) >= 6


def test_what_lies_behind_blocks_may_not_be_scored(twenty):
    component, *_ = twenty
    with pytest.raises(InputError, match="scores a part behind blocks, which is filled later; make it hidden"):
        replace(component, layout="reason_draw", noise=("block", "cosine"))
    with pytest.raises(InputError, match="scores a part behind blocks"):
        replace(component, layout="reason_draw", noise=("last_block", "cosine"))
    with pytest.raises(InputError, match=r"the noise types block and last_block hide tokens entirely; leave mask_value=-1\.0 out"):
        replace(tiny.stage("text"), mask_value=-1.0)


def test_all_of_a_text_in_pieces_is_masked():
    (component,) = (component for component in named_stage("base", "shapes").components if component.name == "sums")
    stage = replace(tiny.stage(), components=(component,))
    for row in tiny.sources(stage)["sums"].rows(range(3)):
        (view,) = noised(component, row)
        assert torch.equal(view.scored, row.canvas.is_open)
        assert torch.equal(view.tokens == tiny.LAYOUT.mask_id, row.canvas.is_open)
        assert float(view.weight[view.scored].unique()) == 1


def test_complementary_rows_score_each_token_once():
    component, row = one("draw")
    first, second = noised(component, row, complement=True)
    open_ = row.canvas.is_open
    assert ((first.scored ^ second.scored) == open_).all()
    assert not (first.scored & second.scored).any()
    assert (second.tokens[first.scored] == row.canvas.tokens[first.scored]).all()


def test_published_drawings_also_score_the_marks_around_the_image():
    component, row = one("draw")
    (view,) = noised(component, row, markers=True, head="full")
    marks = (row.canvas.tokens == tiny.LAYOUT.soi_id) | (row.canvas.tokens == tiny.LAYOUT.eoi_id)
    assert int(marks.sum()) == 2
    assert view.scored[marks].all()
    assert (view.weight[marks] == 1).all()
    assert (view.tokens[marks] == row.canvas.tokens[marks]).all()


def test_times_of_a_flow_cover_the_interval_evenly():
    stage = tiny.stage("draw")
    (component,) = stage.components
    counts = []
    for row in tiny.sources(stage)["draw"].rows(range(64)):
        (view,) = noise_row(row, replace(component, noise=("count",)), layout=tiny.LAYOUT, seed=0, stratified=True)
        counts.append(int(view.scored.sum()))
    frequencies = [counts.count(k) for k in range(1, tiny.NUM_CODES + 1)]
    assert sum(frequencies) == 64
    assert all(2 <= frequency <= 6 for frequency in frequencies), frequencies  # 4 each on average; a golden-ratio sequence is this even


def test_a_fixed_ratio_masks_exactly_that_share():
    component, row = one("make")
    for ratio in (0.25, 0.5, 1.0):
        (view,) = noise_row(row, component, layout=tiny.LAYOUT, seed=0, ratio=ratio, block_length=16)
        assert int(view.scored.sum()) == round(ratio * tiny.NUM_CODES)


def test_every_normaliser_has_its_definition():
    stage = tiny.stage("draw", "text")
    base = tiny.plan(stage)
    rows = [view for source in base.sources.values() for row in source.rows(range(3)) for view in base._noise(row)]
    own = [row for row in rows if row.component == "text"]
    expected = {
        "scored": sum(int(row.scored.sum()) for row in own),
        "rows": 3,
        "positions": sum(row.span[1] - row.span[0] for row in own),
        "maskable": sum(row.maskable for row in own),
        "weight": sum(float(row.weight[row.scored].sum()) for row in own),
    }
    for name, value in expected.items():
        components = [replace(component, normalizer=name) if component.name == "text" else component for component in stage.components]
        batch = collate(rows, components, layout=tiny.LAYOUT)
        assert float(batch.normalizers[[f.name for f in components].index("text")]) == pytest.approx(value), name


def test_the_head_gets_the_slice_of_each_target():
    (batch,) = tiny.plan(tiny.stage()).batches(0, rank=0, world=1, accumulate=1)
    text, image = batch.scored
    assert text.vocab == (0, tiny.LAYOUT.image_offset)
    assert image.vocab == (tiny.LAYOUT.image_ids.start, tiny.LAYOUT.image_ids.stop)
    for part in batch.scored:
        assert int(part.targets.min()) >= 0
        assert int(part.targets.max()) < part.vocab[1] - part.vocab[0]
        assert (batch.tokens[0, part.positions] == tiny.LAYOUT.mask_id).all()


def test_a_seen_image_is_restored_beside_the_answer():
    component, _ = one("look")
    codes = range(tiny.LAYOUT.image_ids.start, tiny.LAYOUT.image_ids.stop)
    stage = tiny.stage("look")
    shares = []
    for row in tiny.sources(stage)["look"].rows(range(20)):
        (plain,), (restored,) = noised(component, row, image_mask_ratio=0.0), noised(component, row, image_mask_ratio=0.5)
        is_code = torch.tensor([token in codes for token in plain.clean.tolist()])
        assert torch.equal(plain.scored, restored.scored & ~is_code)
        assert torch.equal(plain.weight[plain.scored], restored.weight[plain.scored])
        assert plain.maskable == restored.maskable
        extra = restored.scored & is_code
        assert bool((restored.tokens[extra] == tiny.LAYOUT.mask_id).all())
        assert bool((restored.weight[extra] == 1).all())
        assert torch.equal(restored.tokens[is_code & ~extra], plain.clean[is_code & ~extra])
        shares.append(float(extra.sum() / is_code.sum()))
    assert max(shares) <= 0.5
    assert max(shares) - min(shares) > 0.2


def test_restored_codes_add_to_the_sum_and_only_to_the_divisors_that_count_what_is_scored():
    """Divided by the maskable positions of the answers, the loss is the answers' and that of the codes, over the answers' tokens."""
    component, _ = one("interview")
    assert (component.weight, component.normalizer) == ("1", "maskable")
    rows = tiny.sources(tiny.stage("interview"))["interview"].rows(range(4))
    views = [view for row in rows for view in noised(component, row, image_mask_ratio=0.5)]
    batches = {name: collate(views, [replace(component, normalizer=name)], layout=tiny.LAYOUT) for name in ("maskable", "scored", "rows")}
    answers, codes = batches["maskable"].scored
    model = tiny.model()
    logits = model(batches["maskable"].tokens, batches["maskable"].mask).logits[0].float()
    nll = [cross_entropy(logits[part.positions, slice(*part.vocab)], part.targets, reduction="sum") for part in (answers, codes)]
    num_maskable = sum(int(row.canvas.is_open.sum()) for row in rows)
    divisors = {"maskable": num_maskable, "scored": len(answers.index) + len(codes.index), "rows": 4}
    assert len(codes.index) > 4
    for name, divisor in divisors.items():
        loss = DiffusionLoss(model)(batches[name]) / batches[name].normalizers
        torch.testing.assert_close(loss, (sum(nll) / divisor)[None], rtol=1e-5, atol=1e-5)


def test_evaluation_restores_nothing():
    component, row = one("look")
    given = {"layout": tiny.LAYOUT, "seed": 0, "ratio": 1.0, "block_length": 16}
    (plain,), (restored,) = (
        noise_row(row, replace(component, image_mask_ratio=0.0), **given),
        noise_row(row, replace(component, image_mask_ratio=0.5), **given),
    )
    assert torch.equal(plain.tokens, restored.tokens)


def test_restoring_and_complements_do_not_go_together():
    with pytest.raises(InputError, match=r"image_mask_ratio=0\.5"):
        replace(one("look")[0], complement=True, image_mask_ratio=0.5, noise=("count",), weight="1")
