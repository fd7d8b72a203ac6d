"""Objectives: gradients by naive formulas and by brute force in float64, ratio one, bounds."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from mmada.errors import InputError
from mmada.rl.batch import PolicyBatch, Trained, collate
from mmada.rl.objective import Evidence, sandwich, sequence_clip, token_clip
from mmada.rl.settings import OBJECTIVES, Settings
from mmada.rl.step import Policy, terms
from mmada.rl.views import View, draw_views

from . import tiny

SETTINGS = {
    **{name: Settings(name=name, updates=2, shrink=2) for name in OBJECTIVES},
    "unigrpo, sequence": Settings(level="sequence", updates=2),
    "unigrpo, blocks": Settings(law="block", updates=2),
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """The network's norms and rotations go through float32 in every dtype; here they stay in float64 where they are."""
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(torch.float32))


@pytest.fixture(scope="module")
def model():
    return tiny.pipeline(dtype=torch.float64)


@pytest.fixture(scope="module")
def others(model):
    """An old and a reference policy, near the model."""
    found = []
    for seed in (1, 2):
        other = tiny.pipeline(dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        found.append(Policy(other.model))
    return found


def parts(model):
    letters = model.prompts.encode("cab fed")
    eos = model.layout.eos_id
    return [
        tiny.part(model, [*letters, eos], room=12, temperature=0.8, block_length=4, steps=[0, 0, 1, 2, 2, 3, 4, 5, -1, -1, -1, -1]),
        tiny.part(model, letters[:3], prompt="bb", block_length=2, sees_ahead=False, steps=[1, 0, 2]),
        tiny.picture(model, [3, 1, 4, 1, 5, 9], steps=[0, 1, 1, 2, 2, 2]),
    ]


def batch_of(model, settings, *, update=1, advantage=(1.0, -0.5, -2.0)):
    trained = [
        Trained(part=part, views=draw_views(part, settings, torch.Generator().manual_seed(i))[update], advantage=a, task=0)
        for i, (part, a) in enumerate(zip(parts(model), advantage, strict=True))
    ]
    return trained, packed(model, trained)


def packed(model, trained):
    return collate(trained, layout=model.layout, normalisers=torch.ones(1), dtype=torch.float64)


def naive_logp(network, layout, part, view):
    """slot -> log p of its token, from a forward pass of this row alone."""
    tokens, positions = part.canvas.tokens.clone(), part.field.positions.tolist()
    for slot, position in enumerate(positions):
        if view.is_masked[slot]:
            tokens[position] = layout.mask_id
    if view.given is not None:
        tokens[view.given] = layout.mask_id
    if view.num_kept < len(positions):
        tokens = tokens[: positions[view.num_kept - 1] + 1]
    mask = None
    if not part.sees_ahead and not part.is_image:  # a prompt, and blocks that do not see what lies behind them
        block = torch.tensor([-1 if i < positions[0] else (i - positions[0]) // part.block_length for i in range(len(tokens))])
        mask = (block[None] <= block[:, None])[None]
    logits = network(tokens[None], mask).logits[0] / part.temperature
    ids = [i for i in range(part.field.ids.start, part.field.ids.stop) if i not in part.field.ids.never]
    found = {}
    for slot in range(len(positions)):
        if view.weight[slot] > 0:
            row = logits[positions[slot]]
            found[slot] = row[part.canvas.tokens[positions[slot]]] - torch.stack([row[i] for i in ids]).logsumexp(0)
    return found


def naive_loss(model, trained, old, ref, s):
    """The formulas of objective.py's docstring, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for t in trained:
        looks = []
        for view in t.views:
            new = naive_logp(model.model, model.layout, t.part, view)
            with torch.no_grad():
                was, base = (naive_logp(p.model, model.layout, t.part, view) for p in (old, ref))
            looks += [(slot, float(view.weight[slot]), new[slot], was[slot], base[slot]) for slot in new]

        def clipped(log_ratio, a=t.advantage):
            r = log_ratio.exp()
            limited = torch.clamp(r, 1 - s.clip_low, 1 + s.clip_high)
            return -torch.minimum(r * a, limited * a)

        if s.name == "spg":
            lower = sum(w * new for _, w, new, _, _ in looks)
            length, upper = t.part.num_tokens, 0
            for slot in {look[0] for look in looks}:
                inner = sum(length * w * (s.power * new).exp() for at, w, new, _, _ in looks if at == slot)
                upper = upper + inner.log() / (s.power * length)
            bound = lower if t.advantage >= 0 else s.upper * upper + (1 - s.upper) * lower
            total = total - t.advantage * bound
        elif s.name == "espo" or s.level == "sequence":
            total = total + clipped(sum(w * (new - was) for _, w, new, was, _ in looks))
        else:
            total = total + sum(w * clipped(new - was) for _, w, new, was, _ in looks)
        for _, w, new, _, base in looks:
            total = total + s.kl_weight * w * ((base - new).exp() - (base - new) - 1)
    return total


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_equal_the_naive_formula(model, others, name):
    s = replace(SETTINGS[name], kl_weight=0.3, clip_low=0.05, clip_high=0.1)
    old, ref = others
    trained, batch = batch_of(model, s)
    policy = Policy(model.model)
    with torch.no_grad():
        batch = replace(batch, old=old(batch)[0], ref=ref(batch)[0])
    found = terms(batch, policy(batch)[0], s)
    loss = (found.policy + s.kl_weight * found.kl).sum()
    expected = naive_loss(model, trained, old, ref, s)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    weights = list(model.model.parameters())
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    if s.has_ratio:
        assert bool(found.is_clipped.any())  # the case is one in which clipping matters


@pytest.mark.parametrize("name", SETTINGS)
def test_identical_policies_have_ratio_one_and_no_divergence(name):
    model = tiny.pipeline()
    s = SETTINGS[name]
    _, batch = batch_of(model, s)
    policy, twin = Policy(model.model).train(), Policy(tiny.pipeline().model).eval()
    with torch.no_grad():
        batch = replace(batch, old=twin(batch)[0], ref=twin(batch)[0])
    found = terms(batch, policy(batch)[0], s)
    assert found.kl.tolist() == [0.0, 0.0, 0.0]
    assert set(found.ratio.tolist()) <= {1.0}
    assert len(found.ratio) == (0 if name == "spg" else 3 if name in ("espo", "unigrpo, sequence") else len(batch.weight))
    assert not bool(found.is_clipped.any())
    (gradient,) = torch.autograd.grad(found.kl.sum(), model.model.head_weight)
    assert float(gradient.abs().max()) == 0


def letters(model, length):
    """Every answer of `length` tokens over three ids, and the network restricted to them."""
    ids = model.prompts.encode("abc")
    return ids, list(itertools.product(ids, repeat=length))


def only(part, ids):
    """The same part, in which nothing but `ids` could have been proposed."""
    (field,) = part.canvas.fields
    never = tuple(i for i in range(field.ids.start, field.ids.stop) if i not in ids)
    return replace(part, canvas=replace(part.canvas, fields=(replace(field, ids=replace(field.ids, never=never)),)))


def test_trace_is_the_policy_gradient_of_the_sampler(model):
    """Two tokens, three ids, from left to right: E[A grad log p] by the objective = grad E[reward] by enumeration."""
    ids, answers = letters(model, 2)
    s = Settings(name="trace", shrink=1, updates=1, kl_weight=0.0)
    made = [only(tiny.part(model, list(a), block_length=1, sees_ahead=False, steps=[0, 1]), ids) for a in answers]
    reward = {a: float(i * i % 7) for i, a in enumerate(answers)}

    def probability(answer):
        part = made[answers.index(answer)]
        (views,) = draw_views(part, s, torch.Generator())
        return torch.stack([v for view in views for v in naive_logp(model.model, model.layout, part, view).values()]).sum().exp()

    expected = sum(reward[a] * probability(a) for a in answers)
    assert float(sum(probability(a).detach() for a in answers)) == pytest.approx(1)
    # Each answer as often as the sampler gives it; the weights of a trace of two steps are 1/2 each.
    trained = [
        Trained(
            part=part, views=draw_views(part, s, torch.Generator())[0], advantage=2 * reward[a] * float(probability(a).detach()), task=0
        )
        for a, part in zip(answers, made, strict=True)
    ]
    batch = packed(model, trained)
    loss = terms(batch, Policy(model.model)(batch)[0], s).policy.sum()
    weights = list(model.model.parameters())
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(-expected, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_unigrpo_is_the_gradient_of_the_bound_per_token(model, level):
    """Three tokens, every mask with its probability: grad = -A grad (mean over orders of sum log p(next | before)) / 3."""
    part = tiny.part(model, model.prompts.encode("cab"))
    n, advantage = part.num_tokens, -1.5
    policy, weights = Policy(model.model), list(model.model.parameters())
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(1, n + 1):
        for mask in itertools.combinations(range(n), k):
            is_masked = torch.tensor([i in mask for i in range(n)])
            view = View(is_masked, is_masked.double() / k, n)
            batch = packed(model, [Trained(part=part, views=(view,), advantage=advantage, task=0)])
            loss = loss + terms(batch, policy(batch)[0], Settings(level=level)).policy.sum() / (n * math.comb(n, k))
    bound = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(range(n)):
        for i, slot in enumerate(order):
            hidden = torch.tensor([at in order[i:] for at in range(n)])
            weight = torch.zeros(n)
            weight[slot] = 1
            bound = bound + naive_logp(model.model, model.layout, part, View(hidden, weight, n))[slot] / math.factorial(n)
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(-advantage * bound / n, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def test_all_masks_of_structured_views_are_equally_likely(model):
    """1200 draws over 7 masks of three tokens, by the counts' and the masks' uniformity: chance of a false alarm below 1e-4."""
    part = tiny.part(model, model.prompts.encode("cab"))
    counts = {}
    for seed in range(600):
        for (view,) in draw_views(part, Settings(updates=2), torch.Generator().manual_seed(seed)):
            counts[tuple(view.is_masked.tolist())] = counts.get(tuple(view.is_masked.tolist()), 0) + 1
    assert len(counts) == 7
    expected = {mask: 1200 / 3 / math.comb(3, sum(mask)) for mask in counts}
    assert sum((counts[m] - e) ** 2 / e for m, e in expected.items()) < 28.0  # chi-squared with 6 degrees of freedom


def evidence(new, old=None, *, advantage=(1.0,), weight=None, sequence=None):
    new = torch.tensor(new, dtype=torch.float64)
    sequence = torch.tensor(sequence or [0] * len(new))
    return Evidence(
        new=new,
        old=torch.tensor(old, dtype=torch.float64) if old else new,
        ref=None,
        weight=torch.tensor(weight or [1 / len(new)] * len(new), dtype=torch.float64),
        sequence=sequence,
        token=torch.arange(len(new)),
        advantage=torch.tensor(advantage, dtype=torch.float64),
        length=torch.bincount(sequence, minlength=len(advantage)),
    )


def test_clipping_by_hand():
    s = Settings(clip_low=0.2, clip_high=0.3)
    up, down = math.log(2), math.log(0.5)
    good = token_clip(evidence([up, down], [0.0, 0.0]), s)
    assert float(good.policy) == pytest.approx(-(1.3 + 0.5) / 2)  # the rise is cut, the fall is not
    assert good.is_clipped.tolist() == [True, False]
    bad = token_clip(evidence([up, down], [0.0, 0.0], advantage=(-1.0,)), s)
    assert float(bad.policy) == pytest.approx((2 + 0.8) / 2)
    assert bad.is_clipped.tolist() == [False, True]
    whole = sequence_clip(evidence([up, up], [0.0, 0.0]), s)
    assert (float(whole.policy), whole.is_clipped.tolist()) == (pytest.approx(-1.3), [True])


def test_the_upper_bound_is_above_the_lower_one():
    """The average of log p over two looks at a token is at most the log of their average: Jensen, and a power above 1 raises it."""
    e = replace(evidence([-3.0, -1.0], advantage=(-1.0,), weight=[0.5, 0.5]), token=torch.tensor([0, 0]), length=torch.tensor([1]))
    lower = -2.0
    for power, upper in ((1.0, math.log((math.exp(-3) + math.exp(-1)) / 2)), (2.0, math.log((math.exp(-6) + math.exp(-2)) / 2) / 2)):
        bound = float(sandwich(e, Settings(name="spg", power=power, upper=1.0)).policy)
        assert bound == pytest.approx(upper)
        assert bound > lower
    assert float(sandwich(replace(e, advantage=torch.ones(1)), Settings(name="spg")).policy) == pytest.approx(-lower)


def test_a_batch_survives_a_save(model, tmp_path):
    _, batch = batch_of(model, Settings(), update=0)
    torch.save(replace(batch, old=batch.weight).state_dict(), tmp_path / "batch.pt")
    again = PolicyBatch.from_state_dict(torch.load(tmp_path / "batch.pt", weights_only=True))
    assert torch.equal(Policy(model.model)(batch), Policy(model.model)(again))
    assert torch.equal(again.old, batch.weight)
    assert again.packing.lengths == batch.packing.lengths
    assert [part.vocab for part in again.scored] == [part.vocab for part in batch.scored]


def test_a_batch_without_sequences_has_a_gradient_of_zero(model):
    batch = collate([], layout=model.layout, normalisers=torch.zeros(2))
    values = Policy(model.model)(batch)
    assert tuple(values.shape) == (2, 0)
    values.sum().backward()
    assert float(model.model.head_weight.grad.abs().max()) == 0
    model.model.zero_grad()


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 0},
        {"clip_low": 1.5},
        {"kl_weight": -1.0},
        {"ratio_low": 0.9},
        {"name": "ppo"},
        {"power": 0.5},
        {"name": "spg", "max_blocks": 2},
    ],
)
def test_settings_that_cannot_be_used_are_errors(changes):
    with pytest.raises(InputError, match=f"objective.{list(changes)[-1]}"):
        Settings(**changes)
