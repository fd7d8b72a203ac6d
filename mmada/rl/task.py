"""Reinforcement learning as a `Task` of the training loop.

    step s = round r * mu + update n
    n = 0    prompts of round r -> rollouts by the current weights -> rewards -> advantages -> views for all mu updates
             -> old and reference log-probabilities on those views: an Experience
    each n   the n-th batches of the experience -> new log-probabilities -> objective -> the loop's optimizers

With workers (rollouts=ray) and rollout_staleness=K, the weights are those of round r - K, and the rollouts of the next rounds are sampled while
this one trains (weight_versions.py). The old policy is the one that sampled, in every update.

Rollouts depend on the weights, the seed and the round alone. An experience that is not used up is part of every save, so a run that is
stopped within a round goes on with the same rollouts, masks
and log-probabilities. Resuming gives the same weights, bit for bit.

Every process takes whole groups (prompts r, r + R, ...), so that advantages need no messages, except those scaled by the whole batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from mmada.canvas import Query
from mmada.data.seeds import integer
from mmada.errors import CheckpointError, InputError
from mmada.generation.planner import Planner
from mmada.rl.advantage import Advantages, advantages
from mmada.rl.batch import PolicyBatch, TrainSegment, collate
from mmada.rl.config import RLConfig, RLTaskConfig
from mmada.rl.mask_samples import draw_mask_samples
from mmada.rl.measures import MEASURES, Measures
from mmada.rl.prompts import PromptSource
from mmada.rl.records import Prompt, Rollout
from mmada.rl.rewards import Reward, Scores, combine
from mmada.rl.rollout import Decoding, PendingRollouts, RemoteRollouts, generate_rollouts
from mmada.rl.step import Policy, frozen_adapters, loss_terms
from mmada.rl.weight_versions import WeightVersions, rounds_to_ask, version_of
from mmada.train.sharding import is_sharded, shard, whole
from mmada.train.state import steps_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Experience", "RLTask"]


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """What a round's updates learn from: `batches[n]` are the micro-batches of update n. first_step is that of update 0."""

    first_step: int
    batches: tuple[tuple[PolicyBatch, ...], ...]

    def state_dict(self) -> dict[str, Any]:
        """As plain objects and tensors, for a save."""
        return {"first_step": self.first_step, "batches": [[batch.state_dict() for batch in part] for part in self.batches]}

    @classmethod
    def from_state_dict(cls, values: Mapping[str, Any]) -> Experience:
        """What `state_dict` returned, as it was."""
        return cls(values["first_step"], tuple(tuple(map(PolicyBatch.from_state_dict, part)) for part in values["batches"]))


@dataclass(slots=True)
class RLTask:
    """Train a policy on rewarded rollouts.

    sources    task -> its prompts; held_out: prompts that are never trained on, for evaluation and samples
    rewards    task -> name -> (weight, reward)
    reference  what the policy stays near: a frozen copy, or `module` itself, which then is meant without its adapters; None: nothing
    on_export  write the model for users: (directory, state dict of the model) -> files
    remote     who samples of rollouts=ray, on the main process
    """

    config: RLConfig
    module: Policy
    planner: Planner
    sources: Mapping[str, PromptSource]
    rewards: Mapping[str, Mapping[str, tuple[float, Reward]]]
    reference: Policy | None = None
    held_out: Mapping[str, PromptSource] = field(default_factory=dict)
    on_export: Callable[[Path, Mapping[str, Tensor]], None] | None = None
    remote: RemoteRollouts | None = None
    experience: Experience | None = None
    latest: list[tuple[Rollout, float, float]] = field(default_factory=list)
    """rollouts of the last round in this process, with reward and advantage"""
    _model: nn.Module = field(init=False)
    _accelerator: Accelerator | None = None
    _measures: Measures = field(init=False)
    _versions: WeightVersions = field(init=False)
    _asked: dict[int, list[tuple[PendingRollouts | None, list[int]]]] = field(default_factory=dict, init=False)
    """round -> for each task, what was asked of the workers (on the main process), and how many prompts each process has in it"""

    def __post_init__(self) -> None:
        self._model, self._versions = self.module, WeightVersions(self.module)
        names = [f"{name}/{task.name}" for task in self.config.active for name in MEASURES]
        names += [f"reward/{task.name}/{reward}" for task in self.config.active for reward in self.rewards[task.name]]
        self._measures = Measures([*names, "rollout_seconds", *(["resampled", "staleness"] if self.config.rollouts != "here" else [])])

    # What the loop asks for.

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.config.active)

    @property
    def coefficients(self) -> Tensor:
        return torch.tensor([float(task.weight) for task in self.config.active])

    def prepared(self, accelerator: Accelerator, model: nn.Module) -> None:
        """Move what the policy is compared with to the device, or share it out as the policy is."""
        self._accelerator, self._model = accelerator, model
        if self.planner.layout.codebook_size:
            self.planner.image_tokenizer.to(accelerator.device)
        if self.reference is not None and self.reference is not self.module:
            if any(map(is_sharded, model.parameters())):
                shard(self.reference, device=accelerator.device, precision=self.config.loop.precision)
            else:
                self.reference.to(accelerator.device)

    def measures(self) -> dict[str, tuple[float, float]]:
        """Name -> (sum, count) of what rounds and updates measured since the last call."""
        return self._measures.take()

    def batches(self, step: int, *, rank: int, world: int, accumulate: int) -> tuple[PolicyBatch, ...]:
        """The micro-batches of a step; the first of a round samples.

        Raises InputError if a save within a round is gone on with by another number of updates or micro-batches.
        """
        updates = self.config.objective.updates
        first = step - step % updates
        if self.experience is None or self.experience.first_step != first:
            if step != first:
                raise InputError(
                    f"step {step} is within a round of objective.updates={updates}, and its rollouts are not in the save; start afresh"
                )
            self.experience = self._experience(step, rank=rank, world=world, accumulate=accumulate)
        found = self.experience.batches
        if len(found) != updates or len(found[0]) != accumulate:
            raise InputError(
                f"the save is within a round of objective.updates={len(found)} and loop.accumulate={len(found[0])}, not {updates} and {accumulate}; "
                "go on with those, and change them between rounds"
            )
        return found[step - first]

    def losses(self, model: nn.Module, batch: PolicyBatch, device: torch.device) -> Tensor:
        """Sums of the loss of each task (number of tasks,), to be divided by the normalizers of the whole step.

        It adds clipping, ratios, KL (nats) and entropy (nats) to the log's sums on the way.
        """
        batch = batch.to(device)
        new, entropy = model(batch).unbind(0)
        found = loss_terms(batch, new, self.config.objective)
        loss = batch.share * (found.policy + self.config.objective.kl_weight * found.kl)
        with torch.no_grad():
            for i, name in enumerate(self.names):
                own, scored, ratios = batch.task == i, batch.task[batch.sequence] == i, batch.task[found.sequence] == i
                self._measures.add(f"kl/{name}", found.kl[own])
                self._measures.add(f"ratio/{name}", found.ratio[ratios])
                self._measures.add(f"ratio_change/{name}", (found.ratio[ratios] - 1).abs())
                self._measures.add(f"clipped/{name}", found.is_clipped[ratios].float())
                self._measures.add(f"entropy/{name}", entropy[scored])
                self._measures.add(f"logp/{name}", new[scored])
        sums = loss.new_zeros(len(self.names)).index_add(0, batch.task, loss)
        return sums if len(new) else sums + new.sum()  # nothing to learn from: a gradient of 0

    def evaluate(self, model: nn.Module, device: torch.device, *, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """eval/TASK, the reward of the likeliest answers to held-out prompts, and eval/TASK/PART."""
        values: dict[str, tuple[float, float]] = {}
        for task in self.config.active:
            if task.name not in self.held_out:
                continue
            rollouts, scores = self._answered(task, range(rank, self.config.data.held_out, world), device)
            total = [value for value in map(self._total, rollouts, scores.total) if value == value]
            values[f"eval/{task.name}"] = (sum(total), len(total))
            for name in self.rewards[task.name]:
                part = [value for value in scores.parts.get(name, ()) if value is not None and value == value]
                values[f"eval/{task.name}/{name}"] = (sum(part), len(part))
        return values

    def sample(self, directory: Path | None) -> None:
        """held_out.jsonl and rollouts.jsonl: prompt, text and rewards of each sample; pictures beside them."""
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        lines = []
        for task in self.config.active:
            if task.name not in self.held_out or not self.config.data.num_samples:
                continue
            rollouts, scores = self._answered(task, range(self.config.data.num_samples), next(self.module.parameters()).device)
            if directory is None:  # the passes were shared with the process that writes
                continue
            for i, rollout in enumerate(rollouts):
                parts = {name: _json(values[i]) for name, values in scores.parts.items()}
                reward = _json(self._total(rollout, scores.total[i]))
                lines.append(_line(rollout, directory / f"held-out-{task.name}-{i}.png", reward=reward, parts=parts))
        if directory is None:
            return
        _write(directory / "held_out.jsonl", lines)
        shown: dict[str, int] = {}
        lines = []
        for rollout, reward, advantage in self.latest:
            name, i = rollout.sample.prompt.task, shown.setdefault(rollout.sample.prompt.task, 0)
            if i < self.config.group:
                lines.append(_line(rollout, directory / f"rollout-{name}-{i}.png", reward=_json(reward), advantage=advantage))
                shown[name] += 1
        _write(directory / "rollouts.jsonl", lines)

    def export(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self.on_export is not None:
            self.on_export(directory, {name.removeprefix("model."): tensor for name, tensor in weights.items()})

    # A round.

    def _experience(self, step: int, *, rank: int, world: int, accumulate: int) -> Experience:
        begin = time.monotonic()
        device = next(self.module.parameters()).device
        trained: list[tuple[int, list[tuple[TrainSegment, ...]]]] = []
        self.latest = []
        with torch.no_grad():
            if self.config.rollouts != "here":
                self._ask_workers(step, rank, world)
            for i, task in enumerate(self.config.active):
                rollouts, found = self._round(task, step, rank, world, device)
                for j, rollout in enumerate(rollouts):
                    group, place = divmod(j, self.config.group)
                    if bool(found.is_kept[group, place]):
                        trained.append((i, self._mask_samples(rollout, step, i, float(found.values[group, place]))))
            self._measures.add("rollout_seconds", [time.monotonic() - begin])
            batches = [
                [self._batch(trained[micro::accumulate], n) for micro in range(accumulate)] for n in range(self.config.objective.updates)
            ]
            return Experience(step, self._with_ref(self._with_old(batches, step, device), device))

    def _round(self, task: RLTaskConfig, step: int, rank: int, world: int, device: torch.device) -> tuple[list[Rollout], Advantages]:
        """The rollouts of one task, and their advantages (P, G)."""
        c = self.config
        number = step // c.objective.updates
        indices = self._indices(task, number, rank, world)
        if c.rollouts == "here":
            prompts, seed = self.sources[task.name].take(indices), integer("round", c.seed, number)
            rollouts = self._rollouts(prompts, task.decoding, c.group, seed, device)
        else:
            rollouts = self._remote_rollouts(number, self.config.active.index(task), rank, world)
        scores = combine([rollout.sample for rollout in rollouts], self.rewards[task.name])
        total = torch.tensor([self._total(r, t) for r, t in zip(rollouts, scores.total, strict=True)], dtype=torch.float64)
        found = advantages(total.view(len(indices), c.group), scale=c.scale, drop_zero_variance=c.drop_zero_variance, total=self._added)
        self._note(task, rollouts, scores, total, found)
        self.latest += zip(rollouts, total.tolist(), found.values.flatten().tolist(), strict=True)
        return rollouts, found

    def _total(self, rollout: Rollout, total: float) -> float:
        """The reward, after what is to happen to texts without an end."""
        if rollout.sample.has_ended or self.config.unfinished == "score":
            return total
        return 0.0 if self.config.unfinished == "zero" and total == total else float("nan")

    def _mask_samples(self, rollout: Rollout, step: int, task: int, advantage: float) -> list[tuple[TrainSegment, ...]]:
        """For each update, the rollout's parts with their mask samples."""
        settings = self.config.objective
        plans = [
            draw_mask_samples(part, settings, Generator().manual_seed(integer("views", rollout.seed, step, p)))
            for p, part in enumerate(rollout.parts)
        ]
        share = 1 / len(rollout.parts)
        return [
            tuple(
                TrainSegment(part=part, mask_samples=mask_samples[n], advantage=advantage, task=task, share=share)
                for part, mask_samples in zip(rollout.parts, plans, strict=True)
            )
            for n in range(settings.updates)
        ]

    def _batch(self, trained: Sequence[tuple[int, list[tuple[TrainSegment, ...]]]], update: int) -> PolicyBatch:
        counts = torch.zeros(len(self.names))
        for task, _ in trained:
            counts[task] += 1
        return collate([part for _, updates in trained for part in updates[update]], layout=self.planner.layout, normalizers=counts)

    def _with_old(self, batches: Sequence[Sequence[PolicyBatch]], step: int, device: torch.device) -> list[list[PolicyBatch]]:
        """The batches with what the policy that sampled says. An update that is compared with itself needs no pass for it."""
        if not self.config.objective.has_ratio:
            return [list(part) for part in batches]
        number, version = self._version(step)
        with self._versions.swapped(version) if version != number else nullcontext():
            return [
                [replace(batch, old=self._model(batch.to(device))[0].cpu()) if n or version != number else batch for batch in part]
                for n, part in enumerate(batches)
            ]

    def _with_ref(self, batches: Sequence[Sequence[PolicyBatch]], device: torch.device) -> tuple[tuple[PolicyBatch, ...], ...]:
        """The batches with what the reference says."""
        return tuple(tuple(replace(batch, ref=self._reference_logps(batch.to(device))) for batch in part) for part in batches)

    def _reference_logps(self, batch: PolicyBatch) -> Tensor | None:
        if self.reference is None:
            return None
        if self.reference is self.module:
            with frozen_adapters(self.module):
                logps: Tensor = self._model(batch)[0].cpu()
            return logps
        # With shards the precision of the pass is that of the gathered weights (train/sharding.py).
        with self._accelerator.autocast() if self._accelerator is not None and not self._is_sharded else nullcontext():
            found: Tensor = self.reference(batch)[0].cpu()
        return found

    def _rollouts(self, prompts: Sequence[Prompt], decoding: Decoding, num: int, seed: int, device: torch.device) -> list[Rollout]:
        return generate_rollouts(
            prompts,
            self.planner,
            self._denoise,
            decoding,
            num=num,
            seed=seed,
            device=device,
            record=self.config.objective.needs_steps,
            agree=self._agree,
        )

    def _version(self, step: int) -> tuple[int, int]:
        """The round of a step, and that whose first weights sample its rollouts."""
        number = step // self.config.objective.updates
        return number, version_of(number, self.config.rollout_staleness)

    def _indices(self, task: RLTaskConfig, number: int, rank: int, world: int) -> range:
        return range(number * task.prompts + rank, (number + 1) * task.prompts, world)

    def _ask_workers(self, step: int, rank: int, world: int) -> None:
        """At the start of a round: ask for what is due by now, each round by its own weights. Later rounds are sampled while this one trains."""
        c, (number, oldest) = self.config, self._version(step)
        if c.rollout_staleness:
            self._versions.keep(number, first=oldest)
        num_rounds = -(-c.steps // c.objective.updates)
        for later in rounds_to_ask(number, c.rollout_staleness, max(num_rounds, number + 1), self._asked):
            version = version_of(later, c.rollout_staleness)
            with self._versions.swapped(version) if version != number else nullcontext():
                self._asked[later] = self._ask(later, rank, world)
        self._measures.add("staleness", [float(number - oldest)])

    def _ask(self, number: int, rank: int, world: int) -> list[tuple[PendingRollouts | None, list[int]]]:
        """Begin the rollouts of a round by the weights as they are. The main process asks the workers for all processes."""
        changed: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                full = whole(parameter.detach())  # every process takes part
                changed |= {name: full.cpu()} if rank == 0 else {}
        seed, asked = integer("round", self.config.seed, number), list[tuple[PendingRollouts | None, list[int]]]()
        for task in self.config.active:
            parts = [self._indices(task, number, other, world) for other in range(world)]
            pending = None
            if rank == 0:
                assert self.remote is not None  # setup.check_remote
                prompts = self.sources[task.name].take([index for part in parts for index in part])
                record = self.config.objective.needs_steps
                pending = self.remote.begin(changed, prompts, task.decoding, num=self.config.group, seed=seed, record=record)
            asked.append((pending, [len(part) for part in parts]))
        return asked

    def _remote_rollouts(self, number: int, place: int, rank: int, world: int) -> list[Rollout]:
        """Each process gets its part of what the main one has asked for."""
        pending, sizes = self._asked[number][place]
        if place == len(self._asked[number]) - 1:
            del self._asked[number]
        parts: list[list[Rollout]] = []
        if pending is not None:
            found, num_again = pending.result()
            self._measures.add("resampled", [float(num_again)])
            for size in sizes:
                parts, found = [*parts, found[: self.config.group * size]], found[self.config.group * size :]
        if world == 1:
            return parts[0]
        own: list[Any] = [None]
        dist.scatter_object_list(own, parts if rank == 0 else None)
        rollouts: list[Rollout] = own[0]
        return rollouts

    def _answered(self, task: RLTaskConfig, indices: Sequence[int], device: torch.device) -> tuple[list[Rollout], Scores]:
        """Answers to held-out prompts as users get them, the likeliest ones if they are texts, and their rewards."""
        usual = Decoding(temperature=0.0, max_new_tokens=task.decoding.max_new_tokens)
        with torch.no_grad():
            rollouts = self._rollouts(self.held_out[task.name].take(indices), usual, 1, 0, device)
        return rollouts, combine([rollout.sample for rollout in rollouts], self.rewards[task.name])

    def _note(self, task: RLTaskConfig, rollouts: Sequence[Rollout], scores: Scores, total: Tensor, found: Advantages) -> None:
        m, name = self._measures, task.name
        known = ~found.is_failed
        m.add(f"reward/{name}", total.view_as(known)[known])
        for part, values in scores.parts.items():
            m.add(f"reward/{name}/{part}", [value for value in values if value is not None and value == value])
        m.add(f"advantage/{name}", found.values.abs())
        m.add(f"signal/{name}", (~found.is_empty & ~found.is_flat).float())
        m.add(f"empty/{name}", found.is_empty.float())
        m.add(f"failed/{name}", found.is_failed.float())
        m.add(f"unfinished/{name}", [float(not rollout.sample.has_ended) for rollout in rollouts])
        m.add(f"length/{name}", [float(rollout.sample.num_tokens) for rollout in rollouts if rollout.sample.num_tokens])
        for start in range(0, len(rollouts), self.config.group):
            group = rollouts[start : start + self.config.group]
            kinds = {tuple(tuple(part.canvas.tokens[part.field.positions].tolist()) for part in rollout.parts) for rollout in group}
            m.add(f"distinct/{name}", [len(kinds) / len(group)])

    # Processes.

    def _denoise(self, queries: Sequence[Query]) -> list[Tensor]:
        logits: list[Tensor] = self._model(queries=queries)
        return logits

    @property
    def _is_sharded(self) -> bool:
        if self._accelerator is None:
            return False
        return self._accelerator.distributed_type.value == "DEEPSPEED" or any(map(is_sharded, self._model.parameters()))

    def _agree(self, has_work: bool) -> bool:
        """Whether any process has work, where a forward pass of one needs all of them."""
        if not self._is_sharded:
            return has_work
        return bool(self._added(torch.tensor([float(has_work)])) > 0)

    def _added(self, own: Tensor) -> Tensor:
        if self._accelerator is None or self._accelerator.num_processes == 1:
            return own
        total: Tensor = self._accelerator.reduce(own.float().to(self._accelerator.device), reduction="sum")
        return total.cpu()

    # Saves.

    def save(self, directory: Path) -> None:
        assert self._accelerator is not None
        values = {
            "world": self._accelerator.num_processes,
            "experience": self.experience and self.experience.state_dict(),
            "measures": self._measures.pending,  # a round that was sampled, and no update of it done
            "versions": self._versions.state_dict(),  # what is being sampled is sampled again, by these
        }
        torch.save(values, _file(directory, self._accelerator.process_index))

    def load(self, directory: Path) -> None:
        """A round that is not over belongs to the processes that sampled it; between rounds any number may go on."""
        assert self._accelerator is not None
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        first = self._stored(_file(directory, 0))
        experience = first["experience"] and Experience.from_state_dict(first["experience"])
        if self.config.rollout_staleness:
            self._versions.load(
                [(first if other == 0 else self._stored(_file(directory, other)))["versions"] for other in range(first["world"])]
            )
        is_over = experience is None or not 0 <= steps_of(directory) - experience.first_step < len(experience.batches)
        if first["world"] == world:
            own = first if rank == 0 else self._stored(_file(directory, rank))
            self.experience = Experience.from_state_dict(own["experience"]) if own["experience"] and not is_over else None
            self._measures.restore(own.get("measures", {}))
        elif is_over:
            for other in range(first["world"]) if rank == 0 else ():  # what was measured since the last report
                self._measures.add_pending(self._stored(_file(directory, other)).get("measures", {}))
        else:
            raise CheckpointError(
                f"{directory} was saved by {first['world']} processes within a round of objective.updates={len(experience.batches)}, whose rollouts "
                f"they share; go on with as many, not {world}, or from a save whose step is a multiple of {len(experience.batches)}"
            )

    def _stored(self, file: Path) -> dict[str, Any]:
        if not file.exists():
            raise CheckpointError(f"{file} is missing, which holds a process's part of a round; copy the whole save")
        values: dict[str, Any] = torch.load(file, weights_only=True)
        return values


def _file(directory: Path, rank: int) -> Path:
    return directory / f"experience-{rank}.pt"


def _json(value: float | None) -> float | None:
    return value if value == value else None


def _line(rollout: Rollout, picture: Path, **values: object) -> dict[str, object]:
    s = rollout.sample
    line = {"task": s.prompt.task, "prompt": s.prompt.text, "reference": s.prompt.reference, "text": s.text, **values}
    if s.image is not None:
        s.image.save(picture)
        line["picture"] = picture.name
    return line


def _write(file: Path, lines: Iterable[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
