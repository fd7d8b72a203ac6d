"""A training step on many GPUs: memory, bytes sent, time. docs/scale.md has the formulas in words, and what they were checked against.

    ddp     every GPU holds the model; gradients are summed once a step
    fsdp2   everything is shared out over all GPUs; weights are gathered block by block, forward and backward, in each micro-batch
    tp      every matrix is split over `tp` GPUs of a server, whose sums wait for each other; groups of them share out as fsdp2 does

A plan is arithmetic. Two numbers in it are assumptions: the share of the peak that kernels reach, and that of a link.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from mmada.errors import InputError
from mmada.scale.hardware import Accelerator
from mmada.scale.training_cost import HEAD_BYTES, MAX_LOGITS, ModelShape, TrainingStep

__all__ = ["EFFICIENCY", "LINK_EFFICIENCY", "STRATEGIES", "Plan", "Strategy", "plan", "remedies", "split_of", "usable_bytes"]

Strategy = Literal["ddp", "fsdp2", "tp"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
EFFICIENCY = 0.5
"""Share of the peak that the kernels reach where nothing is waited for: 40 to 60 % is what good ones do."""
LINK_EFFICIENCY = 0.8
"""Share of a link's bandwidth that collectives reach."""
_RESERVE = 1.5e9
"""Bytes that the driver, kernels and libraries take."""
_SLACK = 0.05
"""Share of the memory that is lost between tensors."""
_BUCKET = 25 * 2**20
"""DDP sends its last bucket when nothing is left to compute."""
_RANKS = (16, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A step on `num_gpus`. Bytes and seconds are those of one GPU; times are of a whole step with its micro-batches.

    tp              GPUs that share a block; 1 but for strategy tp
    memory_bytes    by what it is for
    sent_bytes      by collective
    compute_seconds, link_seconds   as if each were alone; step_seconds is what is left when they overlap as far as they can
    mfu             model FLOPs over the peak of all GPUs
    """

    strategy: Strategy
    num_gpus: int
    tp: int
    step: TrainingStep
    memory_bytes: dict[str, float]
    capacity_bytes: float
    sent_bytes: dict[str, float] = field(default_factory=dict)
    compute_seconds: float
    link_seconds: float
    step_seconds: float
    tokens_per_second: float
    mfu: float

    @property
    def total_bytes(self) -> float:
        """Memory that one GPU needs."""
        return sum(self.memory_bytes.values())

    @property
    def fits(self) -> bool:
        """Whether that is what a GPU has, or less."""
        return self.total_bytes <= self.capacity_bytes

    @property
    def name(self) -> str:
        """As tables say it: the strategy, and with tensor parallelism its degree."""
        return f"tp{self.tp}" if self.strategy == "tp" else self.strategy


def usable_bytes(gpu: Accelerator) -> float:
    """Of its memory, what tensors can have."""
    return gpu.memory_bytes * (1 - _SLACK) - _RESERVE


def plan(
    shape: ModelShape,
    step: TrainingStep,
    gpu: Accelerator,
    *,
    num_gpus: int,
    strategy: Strategy,
    tp: int | None = None,
    efficiency: float = EFFICIENCY,
) -> Plan:
    """Raises InputError for a model that cannot be split so, or numbers that are none of GPUs.

    tp  GPUs that share each block, for strategy tp; None: as many as a server has, or fewer if heads or GPUs do not divide
    """
    if num_gpus < 1:
        raise InputError(f"gpus={num_gpus} must be at least 1")
    if not 0 < efficiency <= 1:
        raise InputError(f"efficiency={efficiency} must lie in 0..1: it is a share of the peak")
    if step.length > shape.config.max_sequence_length:
        raise InputError(f"length={step.length} is above the model's context of {shape.config.max_sequence_length}; give fewer tokens")
    if strategy == "tp" and step.lora_rank:
        raise InputError(f"strategy='tp' splits plain matrices, and lora_rank={step.lora_rank} puts adapters beside them; use ddp or fsdp2")
    split = split_of(shape, gpu, num_gpus, tp) if strategy == "tp" else 1
    sent = _sent(shape, step, num_gpus, strategy, split)
    within = {name: num for name, num in sent.items() if name in ("activations", "logits")}  # of tensor parallelism, inside a server
    others = sum(sent.values()) - sum(within.values())
    outer = num_gpus // split
    bandwidth = _bandwidth(gpu, num_gpus, split)
    hidden = others / (LINK_EFFICIENCY * bandwidth)
    waited = sum(within.values()) / (LINK_EFFICIENCY * gpu.link_bandwidth)
    peak = gpu.bf16_flops if step.compute_bytes == 2 else gpu.fp32_flops
    compute = step.accumulate * step.hardware_flops(shape) / split / (efficiency * peak)
    compute += _update_bytes(shape, step, 1 if strategy == "ddp" else num_gpus) / gpu.memory_bandwidth
    last = min(hidden, _BUCKET / (LINK_EFFICIENCY * bandwidth)) if strategy == "ddp" else hidden / max(1, shape.config.n_layers)
    seconds = max(compute, hidden) + (last if outer > 1 else 0.0) + waited
    flops = outer * step.accumulate * step.model_flops(shape)
    return Plan(
        strategy=strategy,
        num_gpus=num_gpus,
        tp=split,
        step=step,
        memory_bytes=_memory(shape, step, num_gpus, strategy, split),
        capacity_bytes=usable_bytes(gpu),
        sent_bytes=sent,
        compute_seconds=compute,
        link_seconds=hidden + waited,
        step_seconds=seconds,
        tokens_per_second=outer * step.accumulate * step.num_tokens / seconds,
        mfu=flops / (seconds * num_gpus * peak),
    )


def remedies(
    refused: Plan, shape: ModelShape, gpu: Accelerator, *, strategy: Strategy | None = None, efficiency: float = EFFICIENCY
) -> list[str]:
    """What would fit instead, each with the memory that it takes: the nearest first, three at most.

    strategy  the one that was asked for; None: any
    """
    step, found = refused.step, []
    strategies = [one for one in STRATEGIES if strategy is None or one == strategy] + [one for one in STRATEGIES if one != strategy]
    changes: list[tuple[str, TrainingStep]] = [("", step)]
    if not step.checkpointing:
        changes.append(("--checkpointing", replace(step, checkpointing=True)))
    checkpointed = replace(step, checkpointing=True)
    if step.rows > 1:
        rows = max(1, step.rows // 4)
        fewer = replace(checkpointed, rows=rows, accumulate=-(-step.accumulate * step.rows // rows))
        changes.append((f"--checkpointing --rows {rows} --accumulate {fewer.accumulate}", fewer))
    if not step.lora_rank:
        changes += [
            (f"--checkpointing --lora-rank {rank} --dtype bfloat16", replace(checkpointed, lora_rank=rank, dtype="bfloat16"))
            for rank in _RANKS[:1]
        ]
    counts = [refused.num_gpus] + [refused.num_gpus * 2**i for i in range(1, 8)]
    for count in counts:
        for words, changed in changes:
            for one in dict.fromkeys(strategies):
                if one == "tp" and (changed.lora_rank or split_of(shape, gpu, count, None) == 1):
                    continue
                tried = plan(shape, changed, gpu, num_gpus=count, strategy=one, efficiency=efficiency)
                if tried.fits:
                    more = f" --gpus {count}" if count != refused.num_gpus else ""
                    found.append(f"--strategy {one}{f' {words}' if words else ''}{more} ({tried.total_bytes / 1e9:.0f} GB)")
                    break
            if len(found) == 3:
                return found
        if found:
            return found
    return found


def split_of(shape: ModelShape, gpu: Accelerator, num_gpus: int, tp: int | None) -> int:
    """GPUs that share each block: `tp`, or without it as many as `plan` takes. Raises InputError for a number that does not divide."""
    config = shape.config
    heads, wide = config.n_kv_heads or config.n_heads, config.mlp_hidden_size or 0
    if shape.config.backbone == "qwen":
        if tp not in (None, 1):
            raise InputError(f"tp={tp} splits MMaDA's blocks, and this model has Qwen's; use ddp or fsdp2")
        return 1
    if tp is None:
        return max(n for n in range(1, gpu.gpus_per_node + 1) if num_gpus % n == 0 and heads % n == 0 and wide % n == 0)
    if tp < 1 or num_gpus % tp or heads % tp or wide % tp:
        raise InputError(f"tp={tp} must divide {num_gpus} GPUs, the model's {heads} heads of keys and its feed-forward width of {wide}")
    if tp > gpu.gpus_per_node:
        raise InputError(f"tp={tp} is above the {gpu.gpus_per_node} GPUs of a server, whose links it needs; give fewer")
    return tp


def _bandwidth(gpu: Accelerator, num_gpus: int, tp: int) -> float:
    """Bytes per second that each GPU of a collective can send. Rings of one server cross to the next by all of its network cards at once."""
    if num_gpus <= gpu.gpus_per_node:
        return gpu.link_bandwidth
    return min(gpu.link_bandwidth, gpu.network_bandwidth * gpu.gpus_per_node / tp)


def _memory(shape: ModelShape, step: TrainingStep, num_gpus: int, strategy: Strategy, tp: int) -> dict[str, float]:
    """Bytes of one GPU."""
    state = step.state_bytes(shape)
    share = 1 if strategy == "ddp" else num_gpus
    whole = step.state_bytes(shape.whole) if tp > 1 else dict.fromkeys(state, 0.0)
    memory = {name: (num - whole[name]) / share + whole[name] * tp / share for name, num in state.items()}
    number = step.compute_bytes
    outside = shape.num_parameters - shape.num_in_blocks
    if strategy == "ddp":
        memory["buckets"] = state["gradients"] if num_gpus > 1 else 0.0
        # Autocast keeps what it has cast until the end of the forward pass.
        memory["casts"] = number * shape.num_parameters if step.weight_bytes != number else 0.0
    else:
        # Two blocks, of which one is on its way, and what lies outside of blocks; the gradients of one block before they are shared out.
        gathered = number * (2 * shape.num_block_parameters + outside)
        unreduced = number * (shape.num_block_parameters + outside) if not step.lora_rank else 0
        memory["gathered"] = (gathered + unreduced) / tp if num_gpus > 1 else 0.0
    memory["activations"] = step.activation_bytes(shape, tp=tp)
    memory["head"] = min(HEAD_BYTES, 12 * step.scored * step.num_tokens * shape.num_head_rows)
    return {name: num for name, num in memory.items() if num}


def _sent(shape: ModelShape, step: TrainingStep, num_gpus: int, strategy: Strategy, tp: int) -> dict[str, float]:
    """Bytes that one GPU sends in a step. In a ring of n, a sum of x bytes takes 2 (n - 1) / n x, gathering or sharing out half of that."""
    trained = step.num_trained(shape)
    outer = num_gpus // tp
    ring = (outer - 1) / outer
    sent: dict[str, float] = {}
    if strategy == "ddp":
        sent["gradients"] = 2 * ring * trained * step.trained_bytes
    else:
        gathered = shape.num_parameters * step.compute_bytes + (trained * step.compute_bytes if step.lora_rank else 0)
        sent["gathered weights"] = 2 * step.accumulate * ring * gathered / tp
        sent["shared-out gradients"] = ring * trained * step.compute_bytes / tp
    if tp > 1:
        # Two sums of a block forward, two backward, and with checkpointing two more. What the embedding finds is gathered.
        sums = (6 if step.checkpointing else 4) * shape.config.n_layers
        states, part = step.num_tokens * shape.config.d_model * step.compute_bytes, step.accumulate * (tp - 1) / tp
        squares = 4 * step.num_tokens if shape.config.attention_layer_norm else 0  # of queries, or of keys
        sent["activations"] = part * ((2 * sums + 1) * states + 2 * sums * squares)
        # Logits are summed, twice where they are computed again in the backward pass; the gradient of what the head reads is gathered.
        logits = step.scored * step.num_tokens * shape.num_head_rows
        passes = 2 if logits > MAX_LOGITS else 1
        sent["logits"] = part * (2 * passes * logits * step.compute_bytes + step.scored * states)
    return {name: num for name, num in sent.items() if num}


def _update_bytes(shape: ModelShape, step: TrainingStep, share: int) -> float:
    """Memory traffic of the optimizer: weights, moments and averages are read and written, gradients read."""
    state = step.state_bytes(shape)
    trained = step.num_trained(shape) * step.trained_bytes
    return (2 * (trained + state["optimizer"] + state["averages"]) + state["gradients"]) / share
