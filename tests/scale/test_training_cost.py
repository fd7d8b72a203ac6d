"""The formulas of `mmada plan` against what torch really keeps, computes and sends, for small models in one process and in two."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from mmada.canvas import VocabLayout
from mmada.errors import InputError
from mmada.hub.networks import shapes
from mmada.model import Transformer, preset
from mmada.scale.hardware import ACCELERATORS
from mmada.scale.plan import plan
from mmada.scale.training_cost import ModelShape, TrainingStep
from mmada.train.optim import Ema, OptimizerConfig, build

from .. import processes

LAYOUT = VocabLayout.compact(256, 64)
A100 = ACCELERATORS["a100"]
STEPS = {
    "adamw": TrainingStep(rows=2, length=64),
    "muon": TrainingStep(rows=2, length=64, optimizer="muon", ema=True),
    "bfloat16": TrainingStep(rows=2, length=64, dtype="bfloat16"),
}


def tiny(name="debug", **changes):
    return preset(name, layout=LAYOUT, max_sequence_length=256, **changes)


def shape_of(config):
    return ModelShape(config, shapes(config))


def held(tensors):
    """Bytes on this process."""
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def moments(optimizers):
    return [one for optimizer in optimizers for state in optimizer.state.values() for one in state.values() if one.dim()]


def stepped(model, step):
    """The optimizers and averages of a model that has made a step."""
    optim = OptimizerConfig(name=step.optimizer, ema=0.9 if step.ema else 0.0)
    optimizers = build(model.named_parameters(), optim)
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    averages = Ema(named, optim.ema).weights if step.ema else {}
    tokens = torch.arange(step.num_tokens).view(step.rows, step.length) % 256
    model(tokens).logits.float().logsumexp(-1).mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    return optimizers, averages


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", ["debug", "3m"])
def test_state_is_what_a_step_leaves_behind(name, size):
    step, config = STEPS[name], tiny(size)
    model = Transformer(config).to(getattr(torch, step.dtype)).train()
    optimizers, averages = stepped(model, step)
    counted = {
        "weights": held(model.parameters()),
        "gradients": held(weight.grad for weight in model.parameters()),
        "optimizer": held(moments(optimizers)),
        "averages": held(averages.values()),
    }
    # Two tensors are no matrices of blocks, and go by AdamW whatever the optimizer.
    assert counted == step.state_bytes(shape_of(config))


@pytest.mark.slow
def test_state_of_adapters():
    from mmada.train.lora import Lora, inject

    step, config = TrainingStep(rows=2, length=64, dtype="bfloat16", lora_rank=4), tiny(n_kv_heads=2)
    model = Transformer(config).to(torch.bfloat16).train()
    inject(model, Lora(rank=4), seed=0)
    optimizers, _ = stepped(model, step)
    shape = shape_of(config)
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == step.num_trained(shape)
    state = step.state_bytes(shape)
    assert held(model.parameters()) == state["weights"]
    assert held(weight.grad for weight in model.parameters() if weight.requires_grad) == state["gradients"]
    assert held(moments(optimizers)) == state["optimizer"]


def kept(config, step, prepared=lambda model: None):
    """Bytes that autograd keeps of a forward pass, each tensor once, without weights."""
    model = Transformer(config).to(getattr(torch, step.dtype)).train()
    if step.checkpointing:
        model.checkpoint_gradients()
    prepared(model)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that its address is not used again
        return tensor

    tokens = torch.arange(step.num_tokens).view(step.rows, step.length) % 256
    cast = torch.autocast("cpu", torch.bfloat16, enabled=step.precision == "bf16" and step.dtype == "float32")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), cast:
        model.trunk(tokens)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("dtype", "precision"), [("float32", "fp32"), ("float32", "bf16"), ("bfloat16", "bf16")])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"attention_layer_norm": True}], ids=["plain", "grouped", "normed"])
def test_activations_are_what_autograd_keeps(changes, dtype, precision, checkpointing):
    config = tiny(n_layers=6, **changes)
    step = TrainingStep(rows=2, length=256, dtype=dtype, precision=precision, checkpointing=checkpointing)
    shape = shape_of(config)
    counted, expected = kept(config, step), step.activation_bytes(shape)
    if checkpointing:  # a block in work is not there yet
        expected -= step.num_tokens * sum(step.kept_per_token(shape))
    elif (dtype, precision) == ("float32", "bf16"):
        # CPUs keep attention in float32 (model/attention.py), and the casts of the weights are counted for themselves.
        width, keys = config.d_model, config.n_kv_heads * config.head_dim
        expected += config.n_layers * step.num_tokens * (2 * (2 * width + 2 * keys) + 2 * width) + 2 * shape.num_matrix_parameters
    # Once, however many blocks there are: the tables of rotary positions, the tokens, and the scale of the final norm.
    assert counted - expected == 2 * 4 * step.length * config.head_dim + (8 + 4) * step.num_tokens


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}], ids=["plain", "grouped"])
def test_flops_are_those_that_torch_counts(changes):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny(**changes)
    model = Transformer(config).train()
    tokens = torch.arange(2 * 64).view(2, 64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted on a CPU
        model(tokens).logits.sum().backward()
    shape = shape_of(config)
    step = TrainingStep(rows=2, length=64, scored=1.0)
    forward = step.num_tokens * shape.forward_flops(64, 1.0)
    assert counter.get_total_flops() == step.model_flops(shape) == 3 * forward
    assert replace(step, checkpointing=True).hardware_flops(shape) == 3 * forward + step.num_tokens * shape.forward_flops(64, 0.0)


def counted_on_rank(folder):
    """Bytes that one of two processes holds and that its collectives are given, by DDP and by FSDP2."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counted(TorchDispatchMode):
        """Adds up what FSDP2 gathers and shares out: the whole, as a ring sees it."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            if "c10d" in name:
                whole = args[0] if "allgather" in name else args[1]
                kind = "gathered" if "allgather" in name else "reduced"
                sent[kind] = sent.get(kind, 0) + whole.numel() * whole.element_size()
            return function(*args, **(kwargs or {}))

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    step, config = STEPS["adamw"], tiny()
    model = Transformer(config).train()
    for block in model.model.transformer["blocks"]:
        fully_shard(block)
    fully_shard(model)
    sent: dict[str, int] = {}
    with Counted():
        optimizers, _ = stepped(model, step)
    facts = {
        "fsdp2": {
            "weights": held(model.parameters()),
            "gradients": held(weight.grad for weight in model.parameters()),
            "optimizer": held(moments(optimizers)),
        },
        "sent": sent,
    }
    whole = torch.nn.parallel.DistributedDataParallel(Transformer(config).train(), broadcast_buffers=False)
    buckets = []

    def summed(state, bucket):
        buckets.append(bucket.buffer().numel() * bucket.buffer().element_size())
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])

    whole.register_comm_hook(None, summed)
    optimizers, _ = stepped(whole, step)
    facts["ddp"] = {"weights": held(whole.parameters()), "optimizer": held(moments(optimizers)), "summed": sum(buckets)}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


@pytest.mark.integration
@pytest.mark.slow
def test_two_processes_hold_and_send_what_the_plan_says(tmp_path):
    assert processes.ranks(counted_on_rank, tmp_path) == [0, 0]
    shape, step = shape_of(tiny()), replace(STEPS["adamw"], precision="fp32")
    for rank in range(2):
        facts = json.loads((tmp_path / f"{rank}.json").read_text())
        sharded = plan(shape, step, A100, num_gpus=2, strategy="fsdp2")
        for name, counted in facts["fsdp2"].items():
            assert sharded.memory_bytes[name] == pytest.approx(counted, rel=0.01)  # rows of some tensors are no even number
        # A ring of two sends half of the whole for each gathering or sharing out, and what lies outside of blocks is gathered once.
        outside = 4 * (shape.num_parameters - shape.num_in_blocks)
        assert sharded.sent_bytes["gathered weights"] == pytest.approx((facts["sent"]["gathered"] + outside) / 2, rel=0.01)
        assert sharded.sent_bytes["shared-out gradients"] == pytest.approx(facts["sent"]["reduced"] / 2, rel=0.01)
        doubled = plan(shape, step, A100, num_gpus=2, strategy="ddp")
        assert doubled.memory_bytes["weights"] == facts["ddp"]["weights"]
        assert doubled.memory_bytes["optimizer"] == facts["ddp"]["optimizer"]
        assert doubled.sent_bytes["gradients"] == facts["ddp"]["summed"]
        assert doubled.memory_bytes["buckets"] == facts["ddp"]["summed"]


def counted_in_parts(folder):
    """Bytes that one of two processes holds, gives to collectives and keeps of a forward pass, by tensor parallelism."""
    import torch.distributed as dist
    from torch.utils._python_dispatch import TorchDispatchMode

    from mmada.hub import weights
    from mmada.model.tensor_parallel import TPGroup
    from mmada.train.sharding import shard

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            if name in ("c10d.allreduce_.default", "c10d.allgather_.default"):
                (own,) = args[0] if "reduce" in name else args[1]
                sent[name] = sent.get(name, 0) + own.numel() * own.element_size()
            return function(*args, **(kwargs or {}))

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    facts, in_parts = {}, partial(weights.split, tp=TPGroup(dist.get_rank(), 2))
    for name in ("adamw", "muon"):
        model = Transformer(tiny("3m")).train()
        shard(model, device=torch.device("cpu"), precision="fp32", tensor_parallel=2)
        sent: dict[str, int] = {}
        with Counted():
            optimizers, averages = stepped(model, STEPS[name])
        facts[name] = {
            "weights": held(model.parameters()),
            "gradients": held(weight.grad for weight in model.parameters()),
            "optimizer": held(moments(optimizers)),
            "averages": held(averages.values()),
            "sent": sent,
        }
    facts["kept"] = kept(tiny(n_layers=6, n_kv_heads=2, attention_layer_norm=True), replace(STEPS["adamw"], precision="fp32"), in_parts)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_tensor_parallelism_hold_and_send_what_the_plan_says(tmp_path):
    assert processes.ranks(counted_in_parts, tmp_path) == [0, 0]
    alone = replace(STEPS["adamw"], precision="fp32", scored=1.0)
    shape, normed = shape_of(tiny("3m")), shape_of(tiny(n_layers=6, n_kv_heads=2, attention_layer_norm=True))
    outside = 2 * 4 * alone.length * normed.config.head_dim + (8 + 4) * alone.num_tokens  # as in one process
    for rank in range(2):
        facts = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in ("adamw", "muon"):
            made = plan(shape, replace(STEPS[name], precision="fp32", scored=1.0), A100, num_gpus=2, strategy="tp", tp=2)
            counted = facts[name]
            for part in ("weights", "gradients", "optimizer", "averages"):
                assert counted[part] == made.memory_bytes.get(part, 0)
            # A ring of two sends as much as it sums, and half of what it gathers.
            assert sum(counted["sent"].values()) == sum(made.sent_bytes.values())
        assert facts["kept"] == alone.activation_bytes(normed, tp=2) + outside


def test_adapters_are_not_planned_in_parts():
    shape = shape_of(tiny())
    with pytest.raises(InputError, match="lora_rank=4 puts adapters beside"):
        plan(shape, TrainingStep(length=64, lora_rank=4), A100, num_gpus=2, strategy="tp")
