"""The contracts of the loop, with hand-written logits."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmada.canvas import Canvas
from mmada.diffusion.schedule import cosine
from mmada.errors import InputError
from mmada.sampling import CacheConfig, Denoising, SamplingParams, denoise, published_image, published_text
from mmada.sampling.confidence import probability, random_order
from mmada.sampling.params import even, follow_schedule

from .toy_denoiser import ANY, CODES, EOS, MASK, NEVER, TEXT, VOCAB, Toy, canvas, canvases, contextual, problems, run, stateless

few = settings(derandomize=True, deadline=None)


def trace_of(denoising, row):
    """(step, slots, ids, scores) of one row; its number is not part of it."""
    return [(s.step, s.slots, s.token_ids, s.confidences) for s in denoising.trace if s.row == row]


def windows_of(params, rows, **settings):
    """Spans and windows of every query."""
    toy, denoising = Toy(), Denoising(rows, params, mask_id=MASK, **settings)
    for _ in denoise([denoising], toy):
        pass
    return [(query.spans, query.windows) for (query,) in toy.queries]


# Properties of any canvases and any recipe.


@few
@given(problems(), st.integers(1, 400))
def test_a_step_that_is_taken_in_pieces_is_the_same_step(problem, most):
    def whole():
        denoising = problem.start()
        for _ in denoise([denoising], Toy()):
            pass
        return denoising.trace

    expected = whole()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmada.sampling.loop.LOGITS_AT_ONCE", most)
        assert whole() == expected


@few
@given(problems())
def test_proposals_and_their_probabilities_by_one_softmax_are_those_of_two(problem):
    """At temperature 1 the score is taken from the softmax that was drawn from; another function with the same scores is asked for its own."""
    params = problem.params.with_(temperature=1.0, top_k=None, top_p=None, min_p=None, confidence=probability, token_noise=None)
    general = params.with_(confidence=lambda *arguments: probability(*arguments))
    assert (params.is_plain_softmax, general.is_plain_softmax) == (True, False)
    assert run(replace(problem, params=general).start()).trace == run(replace(problem, params=params).start()).trace


@few
@given(problems(), st.integers(1, 30), st.integers(1, 400))
def test_to_be_told_of_alternatives_changes_nothing(problem, num_alternatives, most):
    plain, observed = run(problem.start()), problem.start(num_alternatives=num_alternatives)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmada.sampling.loop.LOGITS_AT_ONCE", most)
        run(observed)
    assert [replace(step, alternatives=()) for step in observed.trace] == plain.trace
    for step in observed.trace:
        assert len(step.alternatives) == len(step.slots)
        for likely in step.alternatives:
            assert len({token for token, _ in likely}) == len(likely) == min(num_alternatives, observed.ids.stop - observed.ids.start)
            assert {token for token, _ in likely} <= set(range(observed.ids.start, observed.ids.stop))


def test_alternatives_are_the_likeliest_ids_and_their_probabilities():
    share = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = torch.full((2, VOCAB), -torch.inf)
    logits[:, [3, 1, 4, 2]] = share.log()
    params = SamplingParams(steps=2, temperature=0.5, top_k=1)  # neither changes what the model says
    denoising = run(Denoising([canvas([MASK] * 2)], params, mask_id=MASK, record=True, num_alternatives=3), lambda tokens: logits)
    for step in denoising.trace:
        ((ids, shares),) = [tuple(zip(*likely, strict=True)) for likely in step.alternatives]
        assert ids == (3, 1, 4)
        assert shares == pytest.approx((0.5, 0.3, 0.15))


def test_a_step_works_on_few_logits_at_once(monkeypatch):
    seen = []

    def noticed(logits, proposal, uniform):
        seen.append(logits.numel())
        return probability(logits, proposal, uniform)

    monkeypatch.setattr("mmada.sampling.loop.LOGITS_AT_ONCE", 60)
    rows = [canvas([0, 1] + [MASK] * num) for num in (4, 3, 6)]
    num_steps = len(list(denoise([Denoising(rows, SamplingParams(steps=2, confidence=noticed), mask_id=MASK)], Toy())))
    num_ids = TEXT.stop - TEXT.start
    assert max(seen) <= 60 < 3 * 6 * num_ids
    assert len(seen) > num_steps


@few
@given(problems())
def test_given_tokens_never_change_and_every_open_position_is_committed_once(problem):
    denoising, toy = problem.start(), Toy()
    for _ in denoise([denoising], toy):
        pass
    for row, before in enumerate(problem.canvases):
        after = denoising.canvas(row)
        assert torch.equal(after.tokens[~before.is_open], before.tokens[~before.is_open])
        committed = {}
        for step in denoising.trace:
            if step.row == row:
                assert not committed.keys() & set(step.slots)
                committed.update(zip(step.slots, step.token_ids, strict=True))
        assert sorted(committed) == list(range(denoising.counts[row]))
        assert [committed[slot] for slot in sorted(committed)] == denoising.token_ids(row).tolist()
        assert torch.equal(after.tokens[before.fields[0].positions], denoising.token_ids(row))
    for (query,) in toy.queries:
        for tokens in query.tokens:
            assert any(
                torch.equal(tokens[: len(c)][~c.is_open], c.tokens[~c.is_open]) for c in [*problem.canvases, *(problem.negatives or [])]
            )


@few
@given(problems())
def test_no_id_outside_the_range_is_committed(problem):
    denoising = run(problem.start())
    ids = problem.canvases[0].fields[0].ids
    for row in range(len(problem.canvases)):
        assert all(token in ids for token in denoising.token_ids(row).tolist())


@few
@given(problems(), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_neighbours_or_its_place(problem, random):
    together = run(problem.start())
    order = list(range(len(problem.canvases)))
    random.shuffle(order)
    shuffled = run(problem.start(order))
    for row in order:
        alone = run(problem.start([row]))
        for other, place in ((together, row), (shuffled, order.index(row))):
            assert torch.equal(other.token_ids(place), alone.token_ids(0))
            assert other.num_forwards[place] == alone.num_forwards[0]
            assert trace_of(other, place) == trace_of(alone, 0)  # scores too, bit for bit


@few
@given(problems(), st.randoms(use_true_random=False))
def test_rows_may_take_their_steps_apart(problem, random):
    together, apart = run(problem.start()), problem.start()
    toy = Toy()
    while not apart.done:
        rows = sorted(random.sample(apart.live, random.randint(1, len(apart.live))))
        assert sum(apart.num_tokens(row) for row in apart.live) == apart.num_evaluated
        assert all(apart.num_logits(row) >= 1 for row in rows)
        apart.advance(toy([apart.inputs(rows)])[0])
    for row in range(len(problem.canvases)):
        assert torch.equal(apart.token_ids(row), together.token_ids(row))
        assert apart.num_forwards[row] == together.num_forwards[row]
        assert trace_of(apart, row) == trace_of(together, row)


def test_a_row_that_is_dropped_takes_no_further_step():
    denoising = Denoising([canvas([3, MASK, MASK]) for _ in range(2)], SamplingParams(steps=2), mask_id=MASK)
    denoising.drop(0)
    assert denoising.live == (1,)
    with pytest.raises(InputError, match=r"rows=\[0\] must be some of the rows"):
        denoising.inputs([0])


@few
@given(problems(), problems())
def test_requests_of_different_kinds_share_the_forward_passes(one, other):
    together = [one.start(), other.start()]
    toy = Toy()
    rounds = list(denoise(together, toy))
    alone = [run(one.start()), run(other.start())]
    for a, b in zip(together, alone, strict=True):
        assert a.trace == b.trace
        assert a.num_forwards == b.num_forwards
    assert rounds == list(range(1, max(max(d.num_forwards) for d in alone) + 1))
    assert [len(queries) for queries in toy.queries] == [sum(max(d.num_forwards) > n for d in alone) for n in range(len(rounds))]


@few
@given(problems())
def test_blocks_are_finished_from_left_to_right(problem):
    denoising = run(problem.start())
    width = problem.params.block_length or 1000
    for row in range(len(problem.canvases)):
        blocks = [{slot // width for slot in slots} for _, slots, *_ in trace_of(denoising, row) if slots]
        assert all(len(block) == 1 for block in blocks)
        assert [min(block) for block in blocks] == sorted(min(block) for block in blocks)


@few
@given(problems())
def test_the_number_of_forwards(problem):
    params = problem.params
    denoising = run(problem.start())
    for row, count in enumerate(denoising.counts):
        blocks = params.num_blocks(count)
        if params.threshold is not None:
            assert blocks <= denoising.num_forwards[row] <= count  # at least one token a step
        elif params.transfer_schedule is not even:
            assert denoising.num_forwards[row] == params.steps
        else:
            # A block of fewer positions than steps is full before its steps are spent.
            width = params.block_length or count
            sizes = [min(width, count - block * width) for block in range(blocks)]
            assert denoising.num_forwards[row] == sum(min(size, params.steps // blocks) for size in sizes)


@few
@given(problems())
def test_the_seed_alone_decides(problem):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(problem.start())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert run(problem.start()).trace == first.trace


@few
@given(problems())
def test_asking_twice_changes_nothing(problem):
    denoising, toy = problem.start(), Toy()
    while not denoising.done:
        one, two = denoising.inputs(), denoising.inputs()
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.positions, two.positions)
        assert denoising.num_evaluated == sum(stop - start for start, stop in two.windows or two.spans)
        (logits,) = toy([two])
        before = logits.clone()
        denoising.advance(logits)
        assert torch.equal(logits, before)
    assert denoising.trace == run(problem.start()).trace


@few
@given(problems())
def test_padding_never_changes_a_result(problem):
    def pad(row):
        start, stop = row.span
        tokens = torch.cat([torch.tensor([7, 7, 7]), row.tokens[start:stop], torch.tensor([7])])
        attend = torch.zeros(len(tokens), dtype=torch.bool)
        attend[3:-1] = True
        field = row.fields[0]
        return Canvas(tokens, attend, (type(field)(field.positions - start + 3, field.ids, field.num_total),))

    padded = type(problem)(
        [pad(c) for c in problem.canvases], problem.negatives and [pad(c) for c in problem.negatives], problem.params, problem.seeds
    )
    assert run(padded.start()).trace == run(problem.start()).trace


# Against the definition.


def published_sampler(prompt, num_new, steps, block_length, guidance, logits_of):
    """reference/mmada.md, section 8.1, token by token: arg max proposals of any id, confidence the probability."""
    x = [*prompt, *[MASK] * num_new]
    steps_per_block = steps // (num_new // block_length)
    for block in range(num_new // block_length):
        stop = len(prompt) + (block + 1) * block_length
        count = sum(token == MASK for token in x[stop - block_length : stop])
        for step in range(steps_per_block):
            logits = logits_of(torch.tensor(x)).double()
            if guidance:
                blank = logits_of(torch.tensor([MASK] * len(prompt) + x[len(prompt) :])).double()
                logits = blank + (guidance + 1) * (logits - blank)
            confidence = {i: logits[i].softmax(-1).max().item() for i in range(stop) if x[i] == MASK}
            budget = count // steps_per_block + (step < count % steps_per_block)
            for i in sorted(confidence, key=confidence.get, reverse=True)[:budget]:
                x[i] = int(logits[i].argmax())
    return x[len(prompt) :]


@few
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4), st.sampled_from([(1, 4), (2, 2), (3, 3), (2, 4)]), st.integers(1, 4), st.booleans()
)
def test_published_text_is_the_published_algorithm(prompt, blocks, per_block, guided):
    # [MASK] is likelier than anything else at many positions: its budget is lost, and later blocks may fill the position.
    num_blocks, block_length = blocks
    num_new, steps, guidance = num_blocks * block_length, num_blocks * per_block, 1.5 if guided else 0.0

    def logits_of(tokens):
        logits = contextual(tokens)
        logits[:, MASK] += 4
        return logits

    row = canvas([*prompt, *[MASK] * num_new], ANY)
    blank = canvas([MASK] * len(row), ANY)
    blank = Canvas(blank.tokens, blank.attend, row.fields)
    params = published_text(steps=steps, block_length=block_length, guidance_scale=guidance)
    denoising = run(Denoising([row], params, mask_id=MASK, negatives=[blank] if guided else None), logits_of)
    assert denoising.token_ids(0).tolist() == published_sampler(prompt, num_new, steps, block_length, guidance, logits_of)


def published_image_sampler(tokens, steps, guidance, logits_of, unconditional):
    """reference/mmada.md, section 8.2, with arg max proposals and no noise. tokens: MASK is open, the rest is given."""
    z, num_total = list(tokens), len(tokens)
    for step in range(steps):
        state = torch.tensor(z)
        logits = logits_of(state)
        if guidance:
            other = unconditional(state)
            logits = (1 + guidance) * logits - guidance * other
        logits = logits[:, CODES.start : CODES.stop]
        code, unknown = logits.argmax(-1) + CODES.start, [i for i, token in enumerate(z) if token == MASK]
        proposal = [int(code[i]) if i in unknown else z[i] for i in range(num_total)]
        ratio = torch.cos(torch.tensor((step + 1) / steps) * torch.pi * 0.5)
        masked = max(1, min(len(unknown) - 1, int((num_total * ratio).floor())))
        confidence = {i: logits[i].double().softmax(-1).max().item() for i in unknown}
        hidden = sorted(unknown, key=confidence.get)[:masked]
        z = [MASK if i in hidden else proposal[i] for i in range(num_total)]
    return proposal


@few
@given(
    st.lists(st.sampled_from([MASK, MASK, 16, 19]), min_size=1, max_size=12).filter(lambda x: MASK in x), st.integers(1, 6), st.booleans()
)
def test_published_image_is_the_published_algorithm(tokens, steps, guided):
    params = published_image(steps=steps, guidance_scale=1.5 if guided else 0.0, temperature=0, choice_temperature=0)
    # The unconditional row has a prompt token more, which the toy answers differently.
    row, negative = canvas([1, *tokens], CODES, num_total=len(tokens)), canvas([2, 3, *tokens], CODES, num_total=len(tokens))
    denoising = run(Denoising([row], params, mask_id=MASK, negatives=[negative] if guided else None))
    expected = published_image_sampler(
        tokens,
        steps,
        params.guidance_scale,
        lambda z: contextual(torch.cat([torch.tensor([1]), z]))[1:],
        lambda z: contextual(torch.cat([torch.tensor([2, 3]), z]))[2:],
    )
    assert denoising.canvas(0).tokens[1:].tolist() == expected


def test_published_image_commits_what_the_published_table_says():
    # 1018, 1001, 973, … left of 1024 (section 8.2; 511 instead of 512 in float32); the last step commits the rest.
    left = [1018, 1001, 973, 935, 886, 828, 760, 685, 601, 511, 416, 316, 212, 107, 0]
    denoising = run(Denoising([canvas([MASK] * 1024, CODES)], published_image(guidance_scale=0), mask_id=MASK, record=True))
    committed = [len(step.slots) for step in denoising.trace]
    assert committed == [a - b for a, b in zip([1024, *left], left, strict=False)]


@pytest.mark.parametrize("guidance", [0.5, 3.5])
def test_guidance_is_u_plus_1_plus_g_times_c_minus_u(guidance):
    conditional, unconditional = contextual(torch.tensor([1])), contextual(torch.tensor([2]))
    denoising = Denoising(
        [canvas([5, MASK])], SamplingParams(steps=1, guidance_scale=guidance), mask_id=MASK, negatives=[canvas([MASK, 5, 5])], record=True
    )
    query = denoising.inputs()
    assert query.positions.tolist() == [[1], [0]]  # each row is asked where it is open itself
    assert query.spans == ((0, 2), (0, 3))
    denoising.advance(torch.stack([conditional, unconditional])[..., : TEXT.stop])
    combined = (unconditional + (1 + guidance) * (conditional - unconditional))[0, : TEXT.stop].double()
    combined[list(TEXT.suppress_tokens)] = -torch.inf
    assert denoising.token_ids(0).item() == combined.argmax()
    assert denoising.trace[0].confidences[0] == pytest.approx(combined.softmax(-1).max().item(), rel=1e-5)


def test_committed_tokens_reach_the_unconditional_row():
    row, negative = canvas([1, MASK, MASK, 2]), canvas([MASK, 5, 6, MASK, 7], before=1)
    denoising = Denoising([row], SamplingParams(steps=2, guidance_scale=1.0), mask_id=MASK, negatives=[negative])
    toy = Toy()
    for _ in denoise([denoising], toy):
        pass
    second = toy.queries[1][0].tokens
    filled = [token for token in second[0, 1:3].tolist() if token != MASK]
    assert len(filled) == 1
    assert [second[1, 1], second[1, 4]] == second[0, 1:3].tolist()
    assert second[1, [2, 3, 5]].tolist() == [5, 6, 7]


# Steps and thresholds.


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_without_a_threshold_a_row_takes_exactly_its_steps(steps):
    denoising = Denoising([canvas([1] + [MASK] * 8), canvas([MASK] * 8)], SamplingParams(steps=steps, block_length=8), mask_id=MASK)
    for n in range(steps):
        assert not denoising.done
        assert denoising.live == (0, 1)
        assert denoising.num_forwards == [n, n]
        denoising.advance(Toy()([denoising.inputs()])[0])
    assert denoising.done
    assert denoising.live == ()
    assert denoising.num_forwards == [steps, steps]


@few
@given(canvases(TEXT), st.none() | st.integers(1, 4))
def test_an_unreachable_threshold_commits_one_token_a_step(row, block_length):
    denoising = run(Denoising([row], SamplingParams(threshold=1.0, block_length=block_length), mask_id=MASK, record=True))
    assert [len(step.slots) for step in denoising.trace] == [1] * denoising.counts[0]


@few
@given(canvases(TEXT), st.none() | st.integers(1, 4))
def test_a_threshold_of_zero_commits_a_block_a_step(row, block_length):
    params = SamplingParams(threshold=0.0, block_length=block_length)
    denoising = run(Denoising([row], params, mask_id=MASK))
    assert denoising.num_forwards == [params.num_blocks(denoising.counts[0])]


def test_a_threshold_commits_all_that_reach_it_and_at_least_the_surest():
    # Probability of the likeliest of 11 allowed ids, slot by slot.
    sure = torch.tensor([0.95, 0.5, 0.9, 0.89, 0.2])

    def logits_of(tokens):
        logits = torch.full((5, VOCAB), -torch.inf)
        logits[:, :11] = ((1 - sure) / 10).log()[:, None]
        logits[:, 4] = sure.log()
        return logits

    denoising = run(Denoising([canvas([MASK] * 5)], SamplingParams(threshold=0.9 - 1e-6), mask_id=MASK, record=True), logits_of)
    assert [step.slots for step in denoising.trace] == [(0, 2), (3,), (1,), (4,)]
    assert [step.step for step in denoising.trace] == [0, 1, 2, 3]
    assert denoising.trace[0].confidences == pytest.approx((0.95, 0.9))
    assert denoising.trace[0].token_ids == (4, 4)


@pytest.mark.parametrize("seed", range(8))
def test_noise_on_the_order_does_not_delay_what_reaches_the_threshold(seed):
    sure = torch.tensor([0.95, 0.5, 0.9, 0.89, 0.2])
    logits = torch.full((5, VOCAB), -torch.inf)
    logits[:, :11] = ((1 - sure) / 10).log()[:, None]
    logits[:, 4] = sure.log()
    params = SamplingParams(steps=5, threshold=0.9 - 1e-6, choice_temperature=10.0)
    denoising = run(Denoising([canvas([MASK] * 5)], params, mask_id=MASK, record=True, seeds=[seed]), lambda tokens: logits)
    assert denoising.trace[0].slots == (0, 2)
    assert sorted(step.slots for step in denoising.trace[1:]) == [(1,), (3,), (4,)]


def test_a_threshold_only_speeds_up_the_quota_of_its_steps():
    row = canvas([MASK] * 6)
    slow = run(Denoising([row], SamplingParams(steps=3), mask_id=MASK, record=True))
    fast = run(Denoising([row], SamplingParams(steps=3, threshold=0.0), mask_id=MASK, record=True))
    suppress_tokens = run(Denoising([row], SamplingParams(steps=3, threshold=1.0), mask_id=MASK, record=True))
    assert [len(step.slots) for step in slow.trace] == [2, 2, 2]
    assert [len(step.slots) for step in fast.trace] == [6]
    assert suppress_tokens.trace == slow.trace


def test_with_a_threshold_no_step_is_empty():
    # The cosine quota alone keeps the last of 2 positions open until the last of 6 steps.
    transfer_schedule, row = follow_schedule(cosine), canvas([MASK] * 2)
    patient = run(Denoising([row], SamplingParams(steps=6, transfer_schedule=transfer_schedule), mask_id=MASK, record=True))
    eager = run(Denoising([row], SamplingParams(steps=6, transfer_schedule=transfer_schedule, threshold=1.0), mask_id=MASK, record=True))
    assert [len(step.slots) for step in patient.trace] == [1, 0, 0, 0, 0, 1]
    assert [len(step.slots) for step in eager.trace] == [1, 1]


def test_the_surest_are_committed_first():
    denoising = run(Denoising([canvas([MASK] * 6)], SamplingParams(steps=6, stop_at_eos=False), mask_id=MASK, record=True), stateless)
    confidences = [step.confidences[0] for step in denoising.trace]
    assert confidences == sorted(confidences, reverse=True)


def test_noise_on_the_score_draws_the_order_in_proportion_to_the_confidence():
    # With log p + Gumbel the first of 3 positions is drawn with probability p / sum(p). Chi-square over 3,000 rows, 2 degrees of
    # freedom: a false alarm for one seed in a million.
    sure = torch.tensor([0.6, 0.3, 0.15])
    logits = torch.full((3, VOCAB), -torch.inf)
    logits[:, 0], logits[:, 1:11] = sure.log(), ((1 - sure) / 10).log()[:, None]
    params = SamplingParams(steps=3, choice_temperature=1.0, anneal=lambda step, steps: 1.0)
    denoising = Denoising([canvas([MASK] * 3)] * 3000, params, mask_id=MASK, record=True)
    denoising.advance(logits[:, : TEXT.stop].expand(3000, -1, -1))
    first = torch.tensor([step.slots[0] for step in denoising.trace])
    expected = 3000 * sure / sure.sum()
    statistic = ((torch.bincount(first, minlength=3) - expected) ** 2 / expected).sum()
    assert torch.special.gammaincc(torch.tensor(1.0), statistic / 2) > 1e-6


def test_annealed_noise_ends_at_zero():
    # Both annealings give factor 0 at the last step, so a single step is without noise: the order is that of the confidence.
    row = canvas([MASK] * 6)
    noisy = Denoising([row], published_image(steps=1, guidance_scale=0, temperature=0), mask_id=MASK, record=True)
    quiet = Denoising([row], SamplingParams(steps=1), mask_id=MASK, record=True)
    assert run(noisy).trace == run(quiet).trace


def test_random_order_is_a_fair_order():
    # The first of 4 positions over 2,000 rows, chi-square with 3 degrees of freedom: a false alarm for one seed in a million.
    denoising = Denoising([canvas([MASK] * 4)] * 2000, SamplingParams(steps=4, confidence=random_order), mask_id=MASK, record=True)
    denoising.advance(torch.randn(1, 4, TEXT.stop, generator=torch.Generator().manual_seed(0)).expand(2000, -1, -1))
    counts = torch.bincount(torch.tensor([step.slots[0] for step in denoising.trace]), minlength=4)
    statistic = ((counts - 500) ** 2 / 500).sum().double()
    assert torch.special.gammaincc(torch.tensor(1.5).double(), statistic / 2) > 1e-6


def test_proposals_are_drawn_from_the_tempered_softmax_of_the_allowed_ids():
    # Chi-square over the 5 likeliest of 11 ids, 4,000 positions: a false alarm for one seed in a million.
    logits = torch.randn(TEXT.stop, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(steps=1, temperature=0.8, top_k=5, stop_at_eos=False)
    denoising = Denoising([canvas([MASK] * 4000)], params, mask_id=MASK, seeds=[1])
    denoising.advance(logits.expand(1, 4000, -1))
    p = logits.clone()
    p[list(TEXT.suppress_tokens)] = -torch.inf
    p = (p / 0.8).softmax(-1)
    kept = p.topk(5).indices
    counts = torch.bincount(denoising.token_ids(0), minlength=TEXT.stop)
    assert counts.sum() == counts[kept].sum()
    expected = 4000 * p[kept] / p[kept].sum()
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    assert torch.special.gammaincc(torch.tensor(2.0), statistic / 2) > 1e-6


def test_confidence_is_the_untempered_probability():
    logits = contextual(torch.tensor([1]))[:, : TEXT.stop]
    denoising = Denoising([canvas([MASK])], SamplingParams(steps=1, temperature=2.0, top_k=3), mask_id=MASK, record=True)
    denoising.advance(logits[None])
    allowed = logits[0].double()
    allowed[list(TEXT.suppress_tokens)] = -torch.inf
    step = denoising.trace[0]
    assert step.confidences[0] == pytest.approx(allowed.softmax(-1)[step.token_ids[0]].item(), rel=1e-5)


def test_seeds():
    row = canvas([MASK] * 6)
    params = SamplingParams(steps=3, temperature=1.0)

    def tokens(seeds):
        denoising = run(Denoising([row] * len(seeds), params, mask_id=MASK, seeds=seeds))
        return [denoising.token_ids(i).tolist() for i in range(len(seeds))]

    assert tokens([5, 5]) == tokens([5]) * 2
    assert len({tuple(t) for t in tokens([1, 2, 3, 4])}) == 4
    default = run(Denoising([row] * 3, params, mask_id=MASK))
    assert [default.token_ids(i).tolist() for i in range(3)] == tokens([0, 1, 2])


# The end token.


def test_a_text_ends_when_everything_before_its_end_token_is_there():
    # One token a step, slot 2 (the end token) first, then slots 0 and 1; slots 3 and 4 are never reached.
    sure = {2: 9.0, 0: 8.0, 1: 7.0, 3: 6.0, 4: 5.0}

    def logits_of(tokens):
        logits = torch.zeros(5, VOCAB)
        for slot, value in sure.items():
            logits[slot, EOS if slot == 2 else slot] = value
        return logits

    denoising = Denoising([canvas([MASK] * 5)], SamplingParams(steps=5), mask_id=MASK, eos_id=EOS, record=True)
    finals = []
    for _ in denoise([denoising], Toy(logits_of)):
        finals.append(denoising.num_final(0))
    assert denoising.token_ids(0).tolist() == [0, 1, EOS, EOS, EOS]
    assert [step.slots for step in denoising.trace] == [(2,), (0,), (1,)]
    assert finals == [0, 1, 5]
    assert denoising.num_forwards == [3]
    assert denoising.finish_reasons == ["stop"]
    assert denoising.canvas(0).tokens.tolist() == [0, 1, EOS, EOS, EOS]


@few
@given(problems().filter(lambda p: p.canvases[0].fields[0].ids == TEXT))
def test_stopping_early_gives_the_text_of_the_full_run(problem):
    def logits_of(tokens):
        logits = stateless(tokens)
        logits[:, EOS] += 3
        return logits

    stopped = run(problem.start(eos_id=EOS), logits_of)
    full = run(problem.start(eos_id=EOS, params=problem.params.with_(stop_at_eos=False)), logits_of)
    for row in range(len(problem.canvases)):
        early, whole = stopped.token_ids(row).tolist(), full.token_ids(row).tolist()
        end = whole.index(EOS) if EOS in whole else len(whole)
        assert early[: end + 1] == whole[: end + 1]
        committed = {slot for _, slots, *_ in trace_of(stopped, row) for slot in slots}
        assert set(range(end + 1)) & set(range(len(whole))) <= committed
        assert all(token == EOS for slot, token in enumerate(early) if slot not in committed)
        assert all(early[slot] == whole[slot] for slot in committed)
        assert stopped.finish_reasons[row] == ("stop" if EOS in whole else "length")
        assert stopped.num_forwards[row] <= full.num_forwards[row]
        assert full.finish_reasons[row] == "length"


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_without_seeing_ahead_a_row_ends_with_its_block(guidance):
    """So an answer is the same in any room: its blocks alone are evaluated, one after the other."""
    params = SamplingParams(threshold=0.9, block_length=3, full_attention=False, guidance_scale=guidance)

    def start(room):
        negatives = [canvas([4] + [MASK] * room)] if guidance else None
        return Denoising([canvas([1, 2] + [MASK] * room, before=2)], params, mask_id=MASK, negatives=negatives, record=True)

    toy, short, long = Toy(), start(6), start(8)
    for _ in denoise([long], toy):
        pass
    run(short)
    assert long.token_ids(0)[:6].tolist() == short.token_ids(0).tolist()
    for (query,), step in zip(toy.queries, long.trace, strict=True):
        stop = min(8, 3 * (step.slots[0] // 3 + 1))
        assert query.spans == ((2, 4 + stop), (0, 1 + stop))[: 2 if guidance else 1]
        block_ids = [block_mask.block_ids.tolist() for block_mask in query.block_masks]
        assert block_ids == [[0] * given + [2, 2, 2, 4, 4, 4, 6, 6][:stop] for given in (2, 1)][: 2 if guidance else 1]
    ahead = run(Denoising([canvas([1, 2] + [MASK] * 8, before=2)], params.with_(full_attention=True, guidance_scale=0.0), mask_id=MASK))
    assert ahead.token_ids(0).tolist() != long.token_ids(0).tolist()


def test_an_image_has_no_end_token():
    params = SamplingParams(steps=2)
    denoising = run(Denoising([canvas([MASK] * 4, CODES)], params, mask_id=MASK, eos_id=EOS))
    assert denoising.finish_reasons == ["length"]
    assert denoising.num_forwards == [2]


def test_a_row_that_ended_is_not_evaluated_again():
    def logits_of(tokens):
        logits = torch.zeros(len(tokens), VOCAB)
        logits[:, EOS if tokens[0] == 1 else 3] = 5
        return logits

    denoising = Denoising(
        [canvas([1] + [MASK] * 3), canvas([2] + [MASK] * 3)], SamplingParams(steps=3, block_length=1), mask_id=MASK, eos_id=EOS
    )
    toy = Toy(logits_of)
    for _ in denoise([denoising], toy):
        pass
    assert [len(query.tokens) for (query,) in toy.queries] == [2, 1, 1]
    assert denoising.num_forwards == [1, 3]
    assert [denoising.token_ids(row).tolist() for row in (0, 1)] == [[EOS] * 3, [3] * 3]
    assert denoising.finish_reasons == ["stop", "length"]


# Proposing [MASK], for parity only.


def test_a_proposed_mask_loses_its_budget_and_a_later_block_may_fill_it():
    # id and its advantage at each step for slots 0..3; blocks are {0, 1} and {2, 3}, two steps of one token each.
    plan = [
        {0: (MASK, 9.0), 1: (5, 3.0), 2: (6, 9.9), 3: (6, 9.9)},  # slot 0 is surest and takes [MASK]
        {0: (7, 2.0), 1: (5, 8.0), 2: (6, 9.9), 3: (6, 9.9)},  # slot 1
        {0: (7, 9.0), 1: (0, 0.0), 2: (6, 3.0), 3: (6, 2.0)},  # block 2, but slot 0 is surest
        {0: (0, 0.0), 1: (0, 0.0), 2: (6, 9.0), 3: (6, 2.0)},  # slot 2; slot 3 stays open
    ]
    denoising = Denoising([canvas([1] + [MASK] * 4, ANY)], published_text(steps=4, block_length=2), mask_id=MASK, record=True)
    seen = []
    for step in plan:
        query = denoising.inputs()
        seen.append(query.positions[0].tolist())
        logits = torch.zeros(1, query.positions.shape[1], VOCAB)
        for i, position in enumerate(query.positions[0].tolist()):
            token, value = step[position - 1]
            logits[0, i, token] = value
        denoising.advance(logits)
    assert denoising.done
    assert seen == [[1, 2], [1, 2], [1, 3, 4], [3, 4]]
    assert [(step.slots, step.token_ids) for step in denoising.trace] == [((0,), (MASK,)), ((1,), (5,)), ((0,), (7,)), ((2,), (6,))]
    assert denoising.token_ids(0).tolist() == [7, 5, 6, MASK]
    assert denoising.finish_reasons == ["length"]


# Looking at a run.


def test_preview_shows_proposals_and_num_final_the_finished_prefix():
    plan = [[1.0, 9.0, 2.0], [9.0, 8.0], [9.0]]  # the advantage of id `step` at each slot that is still open
    denoising = Denoising([canvas([8, MASK, 9, MASK, MASK])], SamplingParams(steps=3), mask_id=MASK)
    assert denoising.preview(0).tolist() == [MASK] * 3
    assert denoising.num_final(0) == 0
    seen = []
    for step, values in enumerate(plan):
        logits = torch.zeros(1, len(values), TEXT.stop)
        logits[0, :, step] = torch.tensor(values)
        denoising.advance(logits)
        seen.append(
            (denoising.token_ids(0).tolist(), denoising.preview(0).tolist(), denoising.num_final(0), denoising.canvas(0).tokens.tolist())
        )
    assert seen == [
        ([MASK, 0, MASK], [0, 0, 0], 0, [8, MASK, 9, 0, MASK]),
        ([1, 0, MASK], [1, 0, 1], 2, [8, 1, 9, 0, MASK]),
        ([1, 0, 2], [1, 0, 2], 3, [8, 1, 9, 0, 2]),
    ]


def test_a_preview_belongs_to_its_row():
    denoising = Denoising([canvas([1] + [MASK] * 2), canvas([2] + [MASK] * 4)], SamplingParams(steps=2), mask_id=MASK)
    denoising.advance(Toy()([denoising.inputs()])[0])
    assert [len(denoising.preview(row)) for row in (0, 1)] == [2, 4]
    assert [len(denoising.token_ids(row)) for row in (0, 1)] == [2, 4]


def test_what_is_handed_out_is_not_the_state():
    denoising = Denoising([canvas([1, MASK, MASK])], SamplingParams(steps=2), mask_id=MASK)
    before = denoising.inputs()
    for tensor in (before.tokens, denoising.token_ids(0), denoising.preview(0), denoising.canvas(0).tokens):
        tensor.fill_(3)
    assert denoising.inputs().tokens.tolist() == [[1, MASK, MASK]]
    assert denoising.token_ids(0).tolist() == denoising.preview(0).tolist() == [MASK, MASK]


def test_no_trace_unless_it_is_asked_for():
    assert run(Denoising([canvas([MASK, MASK])], SamplingParams(steps=2), mask_id=MASK)).trace == []


def test_half_precision_logits():
    denoising = Denoising([canvas([MASK, MASK])], SamplingParams(steps=1), mask_id=MASK)
    logits = contextual(torch.tensor([1, 2]))[None, :, : TEXT.stop].bfloat16()
    denoising.advance(logits)
    logits[..., [NEVER, MASK]] = -torch.inf
    assert denoising.token_ids(0).tolist() == logits[0].argmax(-1).tolist()


# What is refused.

ROW = canvas([1, MASK, MASK])
TWO_FIELDS = Canvas(ROW.tokens, ROW.attend, tuple(type(f)(f.positions[i : i + 1], f.ids, 1) for f in ROW.fields for i in (0, 1)))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda: Denoising([], SamplingParams(steps=1), mask_id=MASK), "0 canvases and 0 seeds; give at least one canvas"),
        (lambda: Denoising([ROW], SamplingParams(steps=1), mask_id=MASK, seeds=[1, 2]), "1 canvases and 2 seeds"),
        (
            lambda: Denoising([ROW], SamplingParams(steps=1, guidance_scale=1), mask_id=MASK),
            "guidance_scale=1 with 0 negative canvases for 1 canvases; give one each",
        ),
        (
            lambda: Denoising([ROW] * 2, SamplingParams(steps=1, guidance_scale=1), mask_id=MASK, negatives=[ROW]),
            "guidance_scale=1 with 1 negative canvases for 2 canvases",
        ),
        (lambda: Denoising([ROW], SamplingParams(steps=1), mask_id=MASK, negatives=[ROW]), "guidance_scale=0.0 with 1 negative canvases"),
        (
            lambda: Denoising([ROW], SamplingParams(steps=1, guidance_scale=1), mask_id=MASK, negatives=[canvas([MASK])]),
            "negative canvas 0 has 1 open positions, its canvas 2; they must agree",
        ),
        (
            lambda: Denoising([TWO_FIELDS], SamplingParams(steps=1), mask_id=MASK),
            r"exactly one field to be filled; choose it with canvas.only\(i\)",
        ),
        (
            lambda: Denoising([ROW, canvas([MASK], CODES)], SamplingParams(steps=1), mask_id=MASK),
            "canvases of one batch must allow the same ids",
        ),
        (
            lambda: Denoising([canvas([MASK], ANY)], SamplingParams(steps=1), mask_id=MASK),
            "mask_id=12 is among the ids that may be proposed",
        ),
        (
            lambda: Denoising([Canvas(torch.tensor([1, 2, 3]), ROW.attend, ROW.fields)], SamplingParams(steps=1), mask_id=MASK),
            r"open positions must hold mask_id=12; hide a training row's tokens with canvas.masked\(12\)",
        ),
        (
            lambda: Denoising([canvas([MASK, 1, MASK])], SamplingParams(steps=1, block_length=3, full_attention=False), mask_id=MASK),
            "full_attention=False needs open positions that are one run at the end of the row",
        ),
        (
            lambda: Denoising([canvas([MASK, 1])], SamplingParams(steps=1, block_length=3, full_attention=False), mask_id=MASK),
            "at the end of the row",
        ),
        (lambda: SamplingParams(steps=1, full_attention=False), "full_attention=False needs a block_length"),
        (
            lambda: Denoising([canvas([MASK] * 7)], SamplingParams(steps=8, block_length=3), mask_id=MASK),
            "steps=8 must be a multiple of the 3 blocks that 7 open positions make at block_length=3; try steps=6",
        ),
        (
            lambda: Denoising([canvas([MASK] * 7)], SamplingParams(steps=2, block_length=3), mask_id=MASK),
            "steps=2 must be a multiple of the 3 blocks .* try steps=3",
        ),
    ],
)
def test_refused(start, message):
    with pytest.raises(InputError, match=message):
        start()


@pytest.mark.parametrize("shape", [(1, 2, 12), (1, 3, 13), (2, 2, 13), (2, 13)])
def test_logits_of_another_shape_are_refused_and_change_nothing(shape):
    denoising = Denoising([ROW], SamplingParams(steps=1), mask_id=MASK)
    with pytest.raises(InputError, match=r"logits have the shape .*, inputs\(\) asked for \(1, 2, 13\)"):
        denoising.advance(torch.zeros(shape))
    assert denoising.num_forwards == [0]
    assert run(denoising).done


# Caches: what is asked for.


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (CacheConfig(), [(2, 13), (5, 7), (2, 13), (9, 11)]),
        (CacheConfig(after=None), [(2, 13), (5, 13), (2, 13), (9, 13)]),
        (CacheConfig(before=1, after=2), [(2, 13), (4, 9), (2, 13), (8, 13)]),
        (CacheConfig(before=9, after=9), [(2, 13), (2, 13), (2, 13), (2, 13)]),
        (CacheConfig(refresh=1), [(2, 13), (2, 13), (2, 13), (2, 13)]),
    ],
)
def test_a_window_is_the_block_with_its_surroundings(cache, expected):
    """Padding 0, 1 and 13; open 5, 6, 9 and 10: two blocks of two steps, the first of which evaluates everything."""
    row = canvas([1, 2, 3, MASK, MASK, 4, 5, MASK, MASK, 6, 7], before=2, after=1)
    asked = windows_of(SamplingParams(steps=4, block_length=2, cache=cache), [row])
    assert asked == [(((2, 13),), (window,)) for window in expected]


def test_a_window_is_evaluated_anew_every_so_many_steps():
    asked = windows_of(SamplingParams(steps=5, cache=CacheConfig(refresh=2)), [canvas([1, *[MASK] * 5])])
    assert [windows[0] for _, windows in asked] == [(0, 6), (1, 6), (0, 6), (1, 6), (0, 6)]


def test_windows_of_a_model_that_does_not_see_ahead():
    params = SamplingParams(steps=4, block_length=2, full_attention=False, cache=CacheConfig())
    assert windows_of(params, [canvas([1, 2, *[MASK] * 4])]) == [
        (((0, 4),), ((0, 4),)),
        (((0, 4),), ((2, 4),)),
        (((0, 6),), ((2, 6),)),  # of what came before, the last block alone has changed
        (((0, 6),), ((4, 6),)),
    ]


def test_a_guided_pair_has_a_window_and_a_memory_each():
    params = SamplingParams(steps=2, guidance_scale=1.0, cache=CacheConfig())
    denoising = Denoising([canvas([1, 2, 3, MASK, MASK])], params, mask_id=MASK, negatives=[canvas([1, MASK, MASK])])
    first = denoising.inputs()
    assert first.windows == ((0, 5), (0, 3))
    asked = [denoising.num_evaluated]
    assert first.kv_caches[0] is not first.kv_caches[1]
    denoising.advance(Toy()([first])[0])
    second = denoising.inputs()
    assert second.windows == ((3, 5), (1, 3))
    assert [*asked, denoising.num_evaluated] == [8, 4]
    assert second.kv_caches == first.kv_caches


def test_a_finished_row_is_forgotten():
    denoising = Denoising([canvas([1, MASK, MASK])] * 2, SamplingParams(steps=2, cache=CacheConfig()), mask_id=MASK)
    kv_caches = denoising.inputs().kv_caches
    for kv_cache in kv_caches:
        kv_cache.layers.append((torch.zeros(1), torch.zeros(1)))
    for _ in denoise([denoising], Toy()):
        pass
    assert not any(kv_cache.layers for kv_cache in denoising._kv_caches)


def test_without_a_cache_nothing_is_kept():
    query = Denoising([canvas([1, MASK, MASK])], SamplingParams(steps=2), mask_id=MASK).inputs()
    assert (query.windows, query.kv_caches) == ((), ())
