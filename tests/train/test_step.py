"""Losses through the training code: recorded numbers, the plain formula, chunks."""

from dataclasses import replace

import pytest
import torch

from mmada.diffusion.loss import masked_diffusion_loss
from mmada.train import scoring
from mmada.train.batch import FlowRow, base_weight, collate
from mmada.train.stages import STAGES
from mmada.train.step import Objective

from . import tiny


def flow(stage, name):
    return next(flow for flow in STAGES[stage].flows if flow.name == name)


def close(loss, expected):
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def recorded(golden, chat):
    """The recorded batch as noised rows of the published flows: two of each."""
    flows = (flow("1.1", "t2i"), flow("2.1", "lm_chat") if chat else flow("1.1", "lm"), flow("1.1", "mmu"))
    ids, labels = golden["loss.input_ids"], golden["loss.labels"]
    rows = []
    for i, (tokens, label) in enumerate(zip(ids, labels, strict=True)):
        own = flows[i // 2]
        attend = golden["loss.t2i_masks"][i].bool() if i < 2 else torch.ones_like(tokens).bool()
        scored = label != -100 if i < 2 else tokens == golden.mask_id
        p = {0: 1.0, 1: golden["loss.p_mask_lm"][i % 2], 2: golden["loss.p_mask_mmu"][i % 2]}[i // 2]
        answer = {0: 1.0, 1: golden["loss.answer_lengths_lm"][i % 2], 2: golden["loss.answer_lengths"][i % 2]}[i // 2]
        p, answer = (float(x if isinstance(x, float) else x.flatten()[0]) for x in (p, answer))
        weight = torch.full(tokens.shape, float(base_weight(own, torch.tensor(p), answer)))
        clean = torch.where(label == -100, tokens, label)
        span = (0, len(tokens))
        rows.append(
            FlowRow(flow=own.name, tokens=tokens, clean=clean, attend=attend, scored=scored, weight=weight, maskable=answer, span=span)
        )
    return rows, flows


@pytest.mark.parametrize("chat", [False, True])
def test_the_published_losses_equal_the_recorded_numbers(golden, chat):
    rows, flows = recorded(golden, chat)
    batch = collate(rows, flows, layout=tiny.LAYOUT, hidden_score=STAGES["1.1"].hidden_score)
    with torch.no_grad():
        losses = Objective(golden.model)(batch) / batch.normalisers
    close(losses, torch.stack([golden["loss.t2i"], golden["loss.lm_chat" if chat else "loss.lm"], golden["loss.mmu"]]))


def test_the_published_coefficients():
    expected = {"1.1": (1, 0.1, 1), "1.2": (1, 0.1, 0.5), "1.3": (1, 0.4, 0.5), "2.1": (1, 0.5, 0.5), "2.2": (0.05, 0.6, 0.4)}
    for name, coefficients in expected.items():
        assert tuple(f.coefficient for f in STAGES[name].flows) == coefficients


def test_sums_over_normalisers_are_the_one_loss_of_each_flow():
    stage = tiny.stage()
    plan, objective = tiny.plan(stage), Objective(tiny.model())
    (batch,) = plan.batches(0, rank=0, world=1, accumulate=1)
    with torch.no_grad():
        losses = objective(batch) / batch.normalisers
        logits = objective.model(batch.tokens, batch.mask).logits[0]  # (T, V)
    for i, f in enumerate(plan.flows):
        expected = 0.0
        for part in batch.scored:
            own = batch.flow[part.index] == i
            sliced = logits[part.positions[own], part.vocab[0] : part.vocab[1]]
            scored = torch.ones(int(own.sum()), dtype=torch.bool)
            expected += masked_diffusion_loss(sliced, part.targets[own], scored, batch.weight[part.index][own], batch.normalisers[i])
        torch.testing.assert_close(losses[i], torch.as_tensor(expected), rtol=1e-5, atol=1e-5, msg=f.name)


def test_packed_rows_have_the_losses_of_padded_ones():
    stage = tiny.stage(rooms=(8, 64, 512))
    # Blocks hide pairs entirely, which padded rows with a soft mask cannot.
    stage = replace(stage, flows=tuple(replace(f, noise=("count",)) if f.noise == ("block",) else f for f in stage.flows))
    plan, objective = tiny.plan(stage), Objective(tiny.model())
    rows = [noised for name, source in plan.sources.items() for row in source.rows(range(3)) for noised in plan._noise(row)]
    packed = plan.collate(rows)
    padded = collate(rows, plan.flows, layout=tiny.LAYOUT, hidden_score=-1e9)
    assert padded.tokens.shape[0] == len(rows)
    assert packed.tokens.shape == (1, sum(row.span[1] - row.span[0] for row in rows))
    torch.testing.assert_close(packed.normalisers, padded.normalisers)
    with torch.no_grad():
        torch.testing.assert_close(objective(packed), objective(padded), rtol=5e-5, atol=1e-5)  # sums of hundreds of tokens


def test_chunks_of_the_head_change_neither_loss_nor_gradient(monkeypatch):
    stage, objective = tiny.stage(), Objective(tiny.model())
    (batch,) = tiny.plan(stage).batches(0, rank=0, world=1, accumulate=1)
    results = []
    for size in (2**26, 4096):
        monkeypatch.setattr(scoring, "MAX_LOGITS", size)
        objective.zero_grad()
        sums = objective(batch)
        sums.sum().backward()
        results.append((sums.detach(), objective.model.head_weight.grad.clone()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_batch_without_a_scored_position_gives_zero_and_a_gradient_for_every_weight():
    stage = tiny.stage("text")
    plan, objective = tiny.plan(stage), Objective(tiny.model())
    (row,) = plan.sources["text"].rows([0])
    (noised,) = plan._noise(row)
    batch = plan.collate([replace(noised, scored=torch.zeros_like(noised.scored))])
    loss = objective(batch)
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert all(p.grad is not None for p in objective.parameters())


def test_gradient_checkpointing_gives_the_same_gradients():
    (batch,) = tiny.plan(tiny.stage()).batches(0, rank=0, world=1, accumulate=1)
    gradients = []
    for on in (False, True):
        network = tiny.model().train()
        if on:
            network.activation_checkpointing_enable({"use_reentrant": False})
            assert network.model.transformer["blocks"][0].gradient_checkpointing
        Objective(network)(batch).sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
