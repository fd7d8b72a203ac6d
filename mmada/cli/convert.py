"""`mmada convert`: put model, tokenizers and defaults into one directory, in another precision or in smaller files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmada.cli import options

__all__ = ["convert"]


def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint directory, hub name, or a built-in name.")],
    target: Annotated[Path, typer.Argument(help="Directory to write; must not exist, or be empty.")],
    image_tokenizer: options.ImageTokenizerName = None,
    dtype: options.Dtype = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest file, such as 5GB or 500MB.")] = "5GB",
) -> None:
    """Write a checkpoint as one self-contained directory. Tensor names stay the published ones, so it can go back.

    mmada convert Gen-Verse/MMaDA-8B-MixCoT ./mixcot --dtype bfloat16
    """
    import tempfile

    from mmada.cli.session import load, remarks
    from mmada.errors import InputError

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"target={str(target)!r} exists and is not empty; give a new directory")
    pipeline = load(source, image_tokenizer=image_tokenizer, device="cpu", dtype=dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the target and moved at the end: the target is never half a checkpoint.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        written = Path(scratch) / "checkpoint"
        pipeline.save_pretrained(written, max_shard_size=max_shard_size)
        if target.exists():
            target.rmdir()
        written.rename(target)
    remarks.print(f"wrote {target}")
