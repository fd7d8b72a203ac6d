"""`mmada tokenize`: encode the images of a data set once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmada.cli import data, options
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    from mmada.data.shard_writer import ShardRunner

__all__ = ["tokenize"]


def tokenize(
    source: data.Data,
    target: Annotated[Path, typer.Argument(help="Folder of shards to write or resume.")],
    model: options.Model = DEFAULT_MODEL,
    image_tokenizer: options.ImageTokenizerName = None,
    device: options.Device = None,
    format_name: data.FormatName = None,
    adapter: data.Adapter = "record",
    rename: data.Rename = None,
    images: data.Images = None,
    split: data.Split = "train",
    size: options.Size = None,
    mode: Annotated[str | None, typer.Option(help="How images are fitted: crop, squash or pad. Default: the checkpoint's.")] = None,
    split_texts: Annotated[int | None, typer.Option(min=16, help="Split plain texts into rows of at most this many tokens.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Records per shard. An interruption loses at most one shard.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a process that read images.")] = 4,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that make shards. Default: 1; with --ray one for each GPU, or core.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Spread the processes over the Ray cluster of RAY_ADDRESS, or of this machine.")
    ] = False,
) -> None:
    """Encode every image, and write shards with a manifest. Repeat the command to resume.

    Records that cannot be used are left out, counted, and listed in *.dropped.jsonl; `mmada data check` shows them beforehand. The files are
    the same whatever the number of workers.

    mmada tokenize photos.jsonl photos-codes --model Gen-Verse/MMaDA-8B-MixCoT --size 512x512
    """
    from typing import get_args

    from mmada.cli.session import check_data, check_model, remarks
    from mmada.data.paths import is_address
    from mmada.errors import InputError, suggest

    if is_address(str(target)):
        raise InputError(f"target={str(target)!r} is an address; give a folder of this machine, and copy it there afterwards")
    check_data(source)
    check_model(model)

    from mmada.data.shard_writer import write_shards
    from mmada.image import FitMode

    if mode is not None and mode not in get_args(FitMode):
        raise InputError(f"mode={mode!r} is unknown: {suggest(mode, get_args(FitMode))}")
    reader = data.open_data(source, format_name, adapter, rename, images, split)
    tokenizers = data.load_tokenizers(model, image_tokenizer=image_tokenizer)
    prompts, defaults = tokenizers.prompts, tokenizers.defaults
    encoder = data.load_image_tokenizer(model, tokenizers, image_tokenizer=image_tokenizer, device=device)
    width, height = options.parse_pixels("size", size, "x", 2) if size else (defaults.image_width, defaults.image_height)
    renamed = f", rename {' '.join(sorted(rename))}" if rename else ""
    with data.counting("encoding", len(reader)) as on_progress:
        manifest = write_shards(
            reader,
            target,
            image_tokenizer=encoder,
            prompts=prompts,
            size=(height, width),
            mode=mode or defaults.image_mode,  # type: ignore[arg-type]  # checked above
            source=f"{reader.name}, adapter {adapter}{renamed}, {len(reader)} records, {reader.fingerprint}",
            context=split_texts,
            shard_size=shard_size,
            batch_size=batch_size,
            num_threads=threads,
            run=_runner(workers, ray),
            on_progress=on_progress,
        )
    remarks.print(f"wrote {target}: {manifest.num_records} records, {manifest.num_images} images, {len(manifest.shards)} shards")
    if manifest.dropped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(manifest.dropped.items()))
        remarks.print(f"left out {manifest.dropped.total()} ({reasons}); see {target}/*.dropped.jsonl")


def _runner(workers: int | None, ray: bool) -> ShardRunner:
    """Who makes the shards."""
    if ray:
        from mmada.scale.ray_shards import over_ray

        return over_ray(workers)
    if workers is not None and workers > 1:
        from mmada.data.shard_workers import in_processes

        return in_processes(workers)
    from mmada.data.shard_writer import in_line

    return in_line
