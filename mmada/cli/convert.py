"""`mmada convert`: write model, tokenizers and defaults to one directory: of a checkpoint, or of a save that a training run made."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mmada.cli import options

__all__ = ["convert"]

_GROWN = ("source", "target", "dtype", "add_image_codes")


def convert(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Checkpoint directory, hub name, a built-in name, or a save such as RUN/state/step-00000100.")
    ],
    target: Annotated[Path, typer.Argument(help="Directory to write. It must be empty or not exist.")],
    image_tokenizer: options.ImageTokenizerName = None,
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest size of a file, such as 5GB or 500MB.")] = "5GB",
    add_image_codes: Annotated[
        bool,
        typer.Option(
            "--add-image-codes", help="Add rows for image codes to a text model (LLaDA-8B), as published. Pretraining starts from this."
        ),
    ] = False,
) -> None:
    """Write a checkpoint as one self-contained directory. Tensors keep their published names.

    mmada convert Gen-Verse/MMaDA-8B-MixCoT ./mixcot --dtype bfloat16

    mmada convert GSAI-ML/LLaDA-8B-Instruct ./start --add-image-codes

    mmada convert runs/mine/state/step-00000100 ./model
    """
    from mmada.cli.session import load, remarks
    from mmada.errors import InputError
    from mmada.hub import checkpoint

    if target.resolve() == Path.cwd():
        raise InputError("target is the working directory, which cannot be replaced; give a new one")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"target={str(target)!r} exists and is not empty; give a new directory")
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]B", max_shard_size.upper()):
        raise InputError(f"max_shard_size={max_shard_size!r} must be a number with its unit, such as 5GB or 500MB")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"target={str(target)!r} cannot be written ({error.strerror}); give another directory") from error
    if add_image_codes:
        options.refuse_others(context, _GROWN, "--add-image-codes")
        with _moved_at_the_end(target) as written, checkpoint.saving(written):
            _grow(source, written, dtype)
    elif _is_save(source):
        options.refuse_others(context, ("source", "target"), "a save of a run")
        from mmada.train.export import export_save

        with _moved_at_the_end(target) as written:
            export_save(Path(source), written)
    else:
        pipeline = load(source, options.Loading(image_tokenizer, "cpu", dtype, quantize))
        with _moved_at_the_end(target) as written:
            pipeline.save_pretrained(written, max_shard_size=max_shard_size)
    remarks.print(f"wrote {target}")


def _is_save(source: str) -> bool:
    """Whether a source is a save of a run (train/state.py), by its name and place."""
    path = Path(source)
    return path.is_dir() and re.fullmatch(r"step-\d{8}", path.name) is not None and not (path / "config.json").exists()


@contextmanager
def _moved_at_the_end(target: Path) -> Iterator[Path]:
    """A directory beside the target that is moved there: the target is never half a checkpoint."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        written = Path(scratch) / "checkpoint"
        yield written
        if target.exists():
            target.rmdir()
        written.rename(target)


def _grow(source: str, target: Path, dtype: str) -> None:
    """A text model with rows for image codes, in the published layout. Raises the package's errors."""
    import torch

    from mmada.canvas import PUBLISHED
    from mmada.cli.session import check_dtype
    from mmada.errors import InputError
    from mmada.generation.requests import GenerationConfig
    from mmada.hub import checkpoint, networks, tokenizer
    from mmada.hub.weights import own_dtype
    from mmada.model import TransformerConfig
    from mmada.train.grow import grow

    check_dtype(dtype)
    directory, layout = checkpoint.find(source), PUBLISHED
    values = checkpoint.read_config(directory)
    rows = values.get("embedding_size") or values.get("vocab_size")
    if not isinstance(rows, int) or not layout.image_offset <= rows < layout.vocab_size:
        raise InputError(
            f"source={source!r} has {rows} rows in its vocabulary; --add-image-codes is for a text model with {layout.image_offset} or some more, "
            f"such as LLaDA-8B-Instruct, and makes it {layout.vocab_size}"
        )
    text = tokenizer.load(directory, layout)
    own = {name: value for name, value in values.items() if name in TransformerConfig.names()}
    own |= {"vocab_size": layout.vocab_size, "embedding_size": layout.vocab_size, "codebook_size": layout.codebook_size}
    config = TransformerConfig(**own)
    grow(
        directory,
        target,
        ["model.transformer.wte.weight", "model.transformer.ff_out.weight"],
        rows=layout.vocab_size,
        kept=layout.image_offset,
        dtype=None if dtype == "auto" else getattr(torch, dtype),
    )
    networks.save_transformer_config(config, target, dtype=str(own_dtype(target, {"dtype": dtype})).removeprefix("torch."))
    text.save_pretrained(target)
    GenerationConfig().save(target)
    checkpoint.check(target, networks.shapes(config))
