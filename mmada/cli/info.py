"""`mmada info`: what a checkpoint is, and what this machine offers."""

from __future__ import annotations

import json as json_
from typing import Annotated, Any

import typer

from mmada.cli import options
from mmada.hub.checkpoint import DEFAULT_MODEL

__all__ = ["info"]


def info(
    model: options.Model = DEFAULT_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Show sizes, vocabulary and defaults of a checkpoint; weights are checked, not loaded.

    On a CPU it also shows how many threads a pass takes: those of the commands, and those that `mmada serve` finds fastest here. And how many
    times as fast products are with --dtype bfloat16.
    """
    from mmada.cli.session import check_model

    check_model(model)

    import platform
    from dataclasses import asdict
    from importlib.metadata import version

    import torch

    import mmada
    from mmada.generation.requests import GenerationConfig
    from mmada.hub import checkpoint, networks
    from mmada.hub.adapters import base_of
    from mmada.hub.family import family_of
    from mmada.model.precision import product_gain
    from mmada.pipeline import MMaDA
    from mmada.serve.threads import available, threads_for

    if model == "debug":
        pipeline = MMaDA.debug()
        config, defaults, family, quantized = pipeline.model.config, pipeline.defaults, pipeline.family, None
    else:
        directory = base_of(checkpoint.find(model))
        family = family_of(directory, names=[model])
        config, defaults = networks.transformer_config(directory, family=family), GenerationConfig.load(directory, family)
        quantized = networks.quantization(directory)
        checkpoint.check(directory, networks.shapes(config, quantization=quantized))
    shapes = networks.shapes(config)
    facts: dict[str, Any] = {
        "model": model,
        "family": family.title,
        "can": ", ".join(sorted(family.abilities)),
        "parameters": sum(torch.Size(shape).numel() for shape in shapes.values()),
        "tensors": len(shapes),
        **({} if quantized is None else {"quantized": quantized}),
        "width": config.d_model,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "context": config.max_sequence_length,
        "vocabulary": config.layout.to_dict(),
        "defaults": asdict(defaults),
        "versions": {"mmada": mmada.__version__, "torch": torch.__version__, "tokenizers": version("tokenizers")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if not torch.cuda.is_available():
        facts["threads"] = {"commands": torch.get_num_threads(), "serve": threads_for(config, available())}
        facts["bfloat16"] = f"{product_gain(config, torch.bfloat16):.1f} times as fast as float32"
    if as_json:
        typer.echo(json_.dumps(facts, indent=2))
        return
    style = facts["defaults"].pop("style")
    facts["defaults"] |= {f"style.{name}": value for name, value in style.items()}
    for name, value in facts.items():
        if name == "defaults":
            typer.echo("\n".join(["defaults", *(f"  {field:<25} {one!r}" for field, one in value.items())]))
            continue
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{name:<15} {shown:,}" if isinstance(shown, int) else f"{name:<15} {shown}")
