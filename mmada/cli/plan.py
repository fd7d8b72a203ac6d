"""`mmada plan`: what a training step takes on many GPUs, before anybody rents them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmada.scale.plan import Plan
    from mmada.scale.plan_config import PlannedRun
    from mmada.scale.training_cost import ModelShape, TrainingStep

__all__ = ["plan"]

_STEP, _MACHINE = "The step", "The machine"


def plan(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="With --config: overrides, such as loop.accumulate=4.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's YAML file, of `mmada train` or `mmada rl`. An option beside it counts more.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A size of `mmada train`; or checkpoint directory, hub name, built-in name. Default: the config's, or 8b."
        ),
    ] = None,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, such as 8,64,512.", rich_help_panel=_MACHINE)] = "8",
    gpu: Annotated[
        str, typer.Option(help="Their kind: a100, a100-40gb, h100, h800, h200, b200, l40s, 4090.", rich_help_panel=_MACHINE)
    ] = "h100",
    network: Annotated[
        float | None,
        typer.Option(min=0.1, help="Gbit/s between servers, for each GPU. Default: the maker's server.", rich_help_panel=_MACHINE),
    ] = None,
    efficiency: Annotated[
        float, typer.Option(help="Share of the peak that kernels reach where nothing is waited for.", rich_help_panel=_MACHINE)
    ] = 0.5,
    strategy: Annotated[
        str | None, typer.Option(metavar="ddp|fsdp2|tp", help="Only this one. Default: all that can be.", rich_help_panel=_MACHINE)
    ] = None,
    tp: Annotated[
        int | None, typer.Option(min=1, help="GPUs that share each block, for tp. Default: a server.", rich_help_panel=_MACHINE)
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows of a micro-batch on each GPU. Default: the config's batch, shared out; or 1.", rich_help_panel=_STEP
        ),
    ] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens of a row. Default: the model's context.", rich_help_panel=_STEP)] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Micro-batches of a step: loop.accumulate. Default: 1.", rich_help_panel=_STEP)
    ] = None,
    scored: Annotated[float, typer.Option(help="Share of the tokens that are masked, and reach the head.", rich_help_panel=_STEP)] = 0.5,
    dtype: Annotated[
        str | None, typer.Option(metavar="float32|bfloat16", help="Of the weights: model.dtype. Default: float32.", rich_help_panel=_STEP)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="bf16|fp32", help="Of the forward pass: loop.precision. Default: bf16.", rich_help_panel=_STEP)
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="adamw|muon", help="stage.optim.name. Default: adamw.", rich_help_panel=_STEP)
    ] = None,
    ema: Annotated[
        bool | None, typer.Option("--ema/--no-ema", help="Averaged weights are kept: stage.optim.ema.", rich_help_panel=_STEP)
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(min=0, help="lora.rank; 0: all weights are trained, the default.", rich_help_panel=_STEP)
    ] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="loop.checkpointing.", rich_help_panel=_STEP)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Memory, communication and speed of training on many GPUs, by formulas: docs/scale.md says which, and what they were checked against.

    A plan that does not fit is refused, with what would.

    mmada plan --model 8b --gpus 8,64,512 --checkpointing
    """
    from dataclasses import replace

    from mmada.cli.session import check_model
    from mmada.errors import InputError, suggest
    from mmada.scale.hardware import accelerator

    counts = [_count(word) for word in gpus.split(",")]
    machine = accelerator(gpu)
    if network is not None:
        machine = replace(machine, network_bandwidth=network * 1e9 / 8)
    if settings and config is None:
        raise InputError(f"settings={' '.join(settings)!r} change a run's file; give it by --config, or use options such as --accumulate 4")

    run = None if config is None else _run(config, settings or [])
    if model is not None and "/" in model:  # a directory or a hub name, not a size
        check_model(model)

    from mmada.scale.plan import STRATEGIES, split_of
    from mmada.scale.plan import plan as planned

    if strategy is not None and strategy not in STRATEGIES:
        raise InputError(f"strategy={strategy!r} is unknown: {suggest(strategy, STRATEGIES)}")
    shape = _shape(model or "8b") if model is not None or run is None else _shape_of(run)
    given = {
        "length": length,
        "accumulate": accumulate,
        "dtype": dtype,
        "precision": precision,
        "optimizer": optimizer,
        "ema": ema,
        "lora_rank": lora_rank,
        "checkpointing": checkpointing,
    }
    step = _step(shape, run, scored, {name: value for name, value in given.items() if value is not None})
    if run is not None and run.tensor_parallel > 1 and tp is None:
        tp = run.tensor_parallel

    def shared_out(count: int, kind: str) -> TrainingStep:
        """The step with the rows that a GPU has where `count` share it."""
        if rows is not None or run is None:
            return replace(step, rows=rows or 1)
        groups = count // (split_of(shape, machine, count, tp) if kind == "tp" else 1)
        return replace(step, rows=run.rows(groups, step.accumulate))

    # One GPU has nothing to share, and adapters are not split.
    others = STRATEGIES[: 2 if step.lora_rank else None]
    kinds = {one: [strategy] if strategy else others[: 1 if one == 1 else None] for one in counts}
    tables = {
        count: [
            planned(shape, shared_out(count, one), machine, num_gpus=count, strategy=one, tp=tp, efficiency=efficiency)
            for one in kinds[count]
        ]
        for count in counts
    }
    if run is not None:
        _say(run, shape, {**given, "rows": rows, "model": model}, step)
    model = model or (run.model if run else "8b")
    if as_json:
        _write_json(model, shape, machine, tables)
    else:
        _write_tables(model, shape, step, machine, tables)
    for count, plans in tables.items():
        if not any(one.fits for one in plans):
            _refuse(min(plans, key=lambda one: one.total_bytes), count, shape, machine, strategy, efficiency)


def _run(config: Path, settings: list[str]) -> PlannedRun:
    from mmada.scale.plan_config import planned_run

    return planned_run(config, settings)


def _shape_of(run: PlannedRun) -> ModelShape:
    """Of the model that a run starts from, or makes."""
    from mmada.errors import CheckpointError, InputError

    if not run.starts:
        return _shape(run.model)
    try:
        return _shape(run.model)
    except CheckpointError as error:
        raise InputError(
            f"model.start={run.model!r} cannot be looked at ({error}); or give its size by --model, such as --model 8b"
        ) from error


def _step(shape: ModelShape, run: PlannedRun | None, scored: float, given: dict[str, Any]) -> TrainingStep:
    """Options count more than the run, and this more than what is usual."""
    from mmada.scale.training_cost import TrainingStep

    own = dict(run.step) if run else {}
    if "length" in own:
        own["length"] = min(own["length"], shape.config.max_sequence_length)
    return TrainingStep(**{"length": shape.config.max_sequence_length, **own, **given, "scored": scored})


def _say(run: PlannedRun, shape: ModelShape, given: dict[str, Any], step: TrainingStep) -> None:
    """What was taken from a run's file, and what was not in it."""
    from mmada.cli.session import remarks

    changed = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    but = f"; {' '.join(changed)} instead of what it says" if changed else ""
    remarks.print(f"{run.name}: {run.batch} rows a step, over all GPUs and micro-batches, of {run.model}{but}", markup=False)
    if given["length"] is None:
        remarks.print(f"rows count as {step.length} tokens, the model's context, for their length depends on the data; --length sets it")
    if given["model"] is None and not run.starts:
        remarks.print(f"the vocabulary of a new model depends on its data; here it has {shape.config.embedding_size} rows")
    for one in run.remarks:
        remarks.print(one)


def _count(word: str) -> int:
    from mmada.errors import InputError

    if not word.strip().isdecimal() or int(word) < 1:
        raise InputError(f"gpus={word!r} must be numbers of GPUs, separated by commas; try 8,64,512")
    return int(word)


def _shape(model: str) -> ModelShape:
    """Of a size, or of a checkpoint, whose weights are not read."""
    from mmada.cli.session import check_model
    from mmada.hub import checkpoint, networks
    from mmada.model import PRESETS, preset
    from mmada.scale.training_cost import ModelShape

    if model in PRESETS:
        config = preset(model)
    else:
        check_model(model)
        from mmada.hub.adapters import base_of
        from mmada.hub.family import family_of

        directory = base_of(checkpoint.find(model))
        config = networks.transformer_config(directory, family=family_of(directory, names=[model]))
    return ModelShape(config, networks.shapes(config))


def _refuse(tightest: Plan, count: int, shape: ModelShape, machine: Any, strategy: Any, efficiency: float) -> None:
    from mmada.errors import InputError
    from mmada.scale.plan import remedies

    others = remedies(tightest, shape, machine, strategy=strategy, efficiency=efficiency)
    remedy = f"what would fit: {'; '.join(others)}" if others else "give a smaller model, shorter rows, or GPUs with more memory"
    raise InputError(
        f"gpus={count} of {machine.name} do not hold the step: {tightest.name} takes {tightest.total_bytes / 1e9:.0f} GB of each, and "
        f"{tightest.capacity_bytes / 1e9:.0f} are there; {remedy}"
    )


def _facts(one: Plan) -> dict[str, Any]:
    return {
        "strategy": one.name,
        "fits": one.fits,
        "rows": one.step.rows,
        "memory_bytes": {name: round(num) for name, num in one.memory_bytes.items()},
        "total_bytes": round(one.total_bytes),
        "capacity_bytes": round(one.capacity_bytes),
        "sent_bytes": {name: round(num) for name, num in one.sent_bytes.items()},
        "compute_seconds": one.compute_seconds,
        "link_seconds": one.link_seconds,
        "step_seconds": one.step_seconds,
        "tokens_per_second": one.tokens_per_second,
        "mfu": one.mfu,
    }


def _write_json(model: str, shape: ModelShape, machine: Any, tables: dict[int, list[Plan]]) -> None:
    import json
    from dataclasses import asdict

    first = next(iter(tables.values()))[0]
    facts = {
        "model": model,
        "parameters": shape.num_parameters,
        "trained": first.step.num_trained(shape),
        "gpu": asdict(machine),
        "step": asdict(first.step),
        "plans": {str(count): [_facts(one) for one in plans] for count, plans in tables.items()},
    }
    typer.echo(json.dumps(facts, indent=2))


def _write_tables(model: str, shape: ModelShape, step: Any, machine: Any, tables: dict[int, list[Plan]]) -> None:
    trained = step.num_trained(shape)
    typer.echo(
        f"{model}: {shape.num_parameters / 1e9:.3g} B parameters, {trained / 1e9:.3g} B trained; rows of {step.length} tokens, "
        f"weights {step.dtype}, computed in {step.precision}{', checkpointing' if step.checkpointing else ''}"
    )
    typer.echo(f"{machine.name}: {machine.source}")
    for count, plans in tables.items():
        typer.echo(f"\n{count} GPUs   GB of {plans[0].capacity_bytes / 1e9:.0f}   sent GB   compute s   links s   step s   tokens/s   MFU")
        for one in plans:
            fit = f"{one.total_bytes / 1e9:9.1f}" + ("  " if one.fits else " !")
            speed = f"{one.compute_seconds:9.3f} {one.link_seconds:9.3f} {one.step_seconds:8.3f} {one.tokens_per_second:10.4g}"
            typer.echo(f"  {one.name:<7} {fit}{sum(one.sent_bytes.values()) / 1e9:9.1f}   {speed} {one.mfu:5.0%}")
            parts = ", ".join(f"{name} {num / 1e9:.3g}" for name, num in one.memory_bytes.items())
            micro = f", {one.step.accumulate} times" if one.step.accumulate > 1 else ""
            typer.echo(f"          {one.step.rows} {'row' if one.step.rows == 1 else 'rows'}{micro}; {parts}")
    if any(not one.fits for plans in tables.values() for one in plans):
        typer.echo("\n! does not fit")
