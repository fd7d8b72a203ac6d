"""The plan of a run over processes: what was asked for, what is in force, and who holds what.

    accelerate launch, torchrun  ->  environment  ->  asked()   what a user wants
    begin()                          the processes meet, before anything is loaded
    in_force(accelerator, ...)       what accelerate made of it, as a `RunPlan`; not what was asked for is an error

Launchers and accelerate leave out in silence what they cannot do: `accelerate launch --cpu` starts one process, whatever its file says, and
DeepSpeed on a CPU would be plain DDP. Here that is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

from mmada.errors import InputError, MissingDependencyError
from mmada.train.sharding import is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState
    from torch import nn

__all__ = ["RunPlan", "Strategy", "asked", "begin", "check_groups", "in_force"]

Strategy: TypeAlias = Literal["one process", "DDP", "FSDP2", "DeepSpeed", "tensor parallelism"]

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say how many processes there are."""
_FOREIGN = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
_NOT_IN_FSDP = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params: true is not done here, for weights stay on their devices; set it to false and start more processes",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing: true is a setting of the run here; set it to false, and loop.checkpointing=true",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What is in force. `str` is one line for a user.

    device      type of the devices, one a process
    dtypes      of the weights that are trained
    precision   that the forward pass computes in
    num_weights, num_trained  of the network, over all processes
    zero_stage  of DeepSpeed
    tensor_parallel  processes that split each matrix: all of them, or with FSDP2 groups of so many, which share out their parts
    """

    strategy: Strategy
    num_processes: int
    num_nodes: int
    device: str
    dtypes: tuple[str, ...]
    precision: Literal["fp32", "bf16"]
    num_weights: int
    num_trained: int
    zero_stage: int = 0
    tensor_parallel: int = 1

    def __str__(self) -> str:
        processes = "1 process" if self.num_processes == 1 else f"{self.num_processes} processes"
        nodes = "1 node" if self.num_nodes == 1 else f"{self.num_nodes} nodes"
        name = f"DeepSpeed ZeRO-{self.zero_stage}" if self.strategy == "DeepSpeed" else self.strategy
        name = f"FSDP2 over {self.num_groups} x tensor parallelism over {self.tensor_parallel}" if self._is_both else name
        strategy = "" if self.num_processes == 1 and self.strategy == "one process" else f", {name}"
        computed = ", computed in bfloat16" if self.precision == "bf16" else ""
        trained = f"{_millions(self.num_weights)} weights, {_millions(self.num_trained)} trained in {' and '.join(self.dtypes)}{computed}"
        return f"{processes} on {nodes}{strategy}, {self.device}; {trained}; {self._held}"

    @property
    def is_sharded(self) -> bool:
        """Whether a forward pass needs all processes."""
        return self.in_shards or self.strategy == "DeepSpeed"

    @property
    def in_shards(self) -> bool:
        """Whether weights are shared out by sharding.py."""
        return self.strategy in ("FSDP2", "tensor parallelism")

    @property
    def num_groups(self) -> int:
        """How many processes or groups of processes have batches of their own."""
        return self.num_processes // self.tensor_parallel

    @property
    def _is_both(self) -> bool:
        return self.strategy == "FSDP2" and self.tensor_parallel > 1

    @property
    def _held(self) -> str:
        share = f"1/{self.num_processes}"
        if self.tensor_parallel > 1:
            return (
                f"each process holds {share} of every matrix, its gradient, optimizer states and average, "
                f"and {f'1/{self.num_groups} of the norms' if self._is_both else 'all norms'}"
            )
        if self.strategy == "FSDP2":
            return f"each process holds {share} of the weights, their gradients, optimizer states and averages"
        if self.strategy == "DeepSpeed" and self.zero_stage == 3:
            return f"each process holds {share} of the weights, their gradients and optimizer states"
        if self.strategy == "DeepSpeed":
            return f"each process holds all weights, and {share} of the gradients and optimizer states"
        return "it holds everything" if self.num_processes == 1 else "each process holds all weights, gradients and optimizer states"

    @property
    def lost_updates(self) -> str | None:
        """What is lost because weights are trained without a float32 copy, in a sentence; None: nothing."""
        if "bfloat16" not in self.dtypes or self.strategy == "DeepSpeed":
            return None
        return (
            "weights are trained in bfloat16 without a float32 copy: an update below about 1/256 of a weight is lost; "
            "set model.dtype=float32 and loop.precision=bf16, which computes in bfloat16 all the same"
        )


def asked(environ: Mapping[str, str] = os.environ, *, tensor_parallel: int = 1) -> Strategy:
    """The strategy that a launcher's environment asks for, and the run's settings (loop.tensor_parallel)."""
    if _is_on(environ, "ACCELERATE_USE_FSDP"):
        return "FSDP2"
    if _is_on(environ, "ACCELERATE_USE_DEEPSPEED"):
        return "DeepSpeed"
    if tensor_parallel > 1:
        return "tensor parallelism"
    return "DDP" if _num_asked(environ) > 1 else "one process"


def begin() -> PartialState:
    """The processes that a launcher started meet; without a GPU, on the CPU. Called first; later calls change nothing.

    Raises InputError for a plan that could not be carried out, MissingDependencyError for DeepSpeed that is not installed.
    """
    import torch
    from accelerate import PartialState

    if PartialState._shared_state:
        return PartialState()
    on_cpu = _is_on(os.environ, "ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    _check(os.environ, on_cpu=on_cpu)
    # Not told about CPUs, accelerate would take two processes on one machine for two runs of their own.
    state = PartialState(cpu=on_cpu)
    if state.num_processes != _num_asked(os.environ):
        raise InputError(
            f"{_num_asked(os.environ)} processes were started and {state.num_processes} met on {state.device.type}; "
            "set ACCELERATE_USE_CPU=true if they are to meet on the CPU"
        )
    return state


def _check(environ: Mapping[str, str], *, on_cpu: bool) -> None:
    """Raise the error of a plan that would be left out in silence."""
    by_mpi = any(name in environ for name in _COUNTS)
    if _is_on(environ, "ACCELERATE_USE_CPU") and "MASTER_ADDR" in environ and "ACCELERATE_MIXED_PRECISION" in environ and not by_mpi:
        raise InputError(
            "accelerate launch --cpu starts one process and no strategy, though several processes were asked for; leave --cpu out: "
            "without a GPU the processes meet on the CPU, and ACCELERATE_USE_CPU=true in the environment keeps them there"
        )
    for name, what in _FOREIGN.items():
        if _is_on(environ, name):
            raise InputError(
                f"{what} was asked for ({name}=true), which runs here do not know; use a file of configs/accelerate, and loop.tensor_parallel"
            )
    strategy = asked(environ)
    if strategy == "DeepSpeed":
        if on_cpu:
            raise InputError("DeepSpeed was asked for, and accelerate runs it on GPUs only; use configs/accelerate/fsdp2.yaml on a CPU")
        if find_spec("deepspeed") is None:
            raise MissingDependencyError("DeepSpeed was asked for and is not installed; pip install deepspeed")
    if strategy == "FSDP2":
        if environ.get("FSDP_VERSION", "2") != "2":
            raise InputError(
                f"fsdp_version: {environ['FSDP_VERSION']} was asked for, and weights are sharded by FSDP2; set fsdp_version: 2"
            )
        for name, problem in _NOT_IN_FSDP.items():
            if _is_on(environ, name):
                raise InputError(problem)
        if on_cpu and _num_asked(environ) < 2:
            raise InputError("FSDP2 was asked for with one process, which has nobody to share with; set --num_processes to 2 or more")


def check_groups(tensor_parallel: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raises InputError if loop.tensor_parallel does not go with the processes that were started."""
    if tensor_parallel == 1:
        return
    given, number = f"loop.tensor_parallel={tensor_parallel}", _num_asked(environ)
    if number % tensor_parallel:
        raise InputError(f"{given} does not divide the {number} processes that were started; start {tensor_parallel}, or a multiple of it")
    strategy = asked(environ, tensor_parallel=tensor_parallel)
    if strategy == "DeepSpeed":
        raise InputError(f"{given} is not done with DeepSpeed; use configs/accelerate/fsdp2.yaml, or torchrun alone")
    if strategy == "FSDP2" and number == tensor_parallel:
        raise InputError(
            f"{given} takes all {number} processes, and FSDP2 was asked for, too; start {2 * number} processes, or leave FSDP2 out"
        )
    if strategy != "FSDP2" and number > tensor_parallel:
        raise InputError(
            f"{given} makes {number // tensor_parallel} groups of the {number} processes, which FSDP2 must share the model out to; "
            f"set ACCELERATE_USE_FSDP=true, or start {tensor_parallel} processes"
        )


def in_force(accelerator: Accelerator, module: nn.Module, precision: Literal["fp32", "bf16"], *, tensor_parallel: int = 1) -> RunPlan:
    """What is carried out. Raises InputError if something else was asked for.

    module     what is trained, sharded if it will be; precision, tensor_parallel: of the run's settings (loop.precision)
    """
    wanted = asked(tensor_parallel=tensor_parallel)
    kind, num_processes, parameters = accelerator.distributed_type.value, accelerator.num_processes, list(module.parameters())
    sharded = any(map(is_sharded, parameters))
    by_us: Strategy = "tensor parallelism" if num_processes == tensor_parallel else "FSDP2"
    found: Strategy = by_us if sharded else "DeepSpeed" if kind == "DEEPSPEED" else "DDP" if num_processes > 1 else "one process"
    if found != wanted or num_processes != _num_asked(os.environ):
        raise InputError(
            f"{wanted} over {_num_asked(os.environ)} processes was asked for, and {found} over {num_processes} is in force; "
            "start the run by accelerate launch with a file of configs/accelerate, or by torchrun"
        )
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if mixed not in ("no", precision):
        raise InputError(
            f"mixed_precision: {mixed} was asked of accelerate, and loop.precision={precision} decides; set it in the run alone"
        )
    plugin = accelerator.state.deepspeed_plugin
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return RunPlan(
        strategy=found,
        num_processes=num_processes,
        num_nodes=_num_nodes(os.environ, num_processes),
        device=accelerator.device.type,
        dtypes=tuple(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in trained})),
        precision=precision,
        num_weights=sum(parameter.numel() for parameter in parameters),
        num_trained=sum(parameter.numel() for parameter in trained),
        zero_stage=0 if plugin is None else plugin.zero_stage,
        tensor_parallel=tensor_parallel,
    )


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in ("1", "true", "yes", "y", "t", "on")


def _num_asked(environ: Mapping[str, str]) -> int:
    return next((int(environ[name]) for name in _COUNTS if name in environ), 1)


def _num_nodes(environ: Mapping[str, str], num_processes: int) -> int:
    if "GROUP_WORLD_SIZE" in environ:  # torchrun's, and so accelerate launch's
        return int(environ["GROUP_WORLD_SIZE"])
    return max(1, num_processes // int(environ.get("LOCAL_WORLD_SIZE", num_processes)))


def _millions(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"
