"""`mmada batch`: answer a file of requests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmada.cli import options
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    from mmada.scale.batch import BatchReport

__all__ = ["batch"]


@options.with_settings()
def batch(
    requests: Annotated[Path, typer.Argument(help="JSON lines: custom_id, method, url, body.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write results to, or to go on with.")],
    model: options.Model = DEFAULT_MODEL,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the whole file if a line cannot be asked.")] = False,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests that a replica works on at a time.")] = 64,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="Seconds until a request is given up. Default: a day.")] = None,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one forward pass. Bounds its memory.")] = 16384,
    name: Annotated[str | None, typer.Option(help="The model's id in bodies. Default: the last part of --model.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Spread replicas over the Ray cluster of RAY_ADDRESS, or of this machine.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of this machine, each with the model.")] = 1,
    replicas: Annotated[int | None, typer.Option(min=1, help="With --ray: how many. Default: one for each GPU.")] = None,
    cache: options.Cache = None,
    loading: options.Loading = options.Loading(),
) -> None:
    """Answer requests in the shape of OpenAI's batch files: chat, completions, images and edits.

    A result is written once, as soon as it is there. Repeat the command to go on after an interruption. A line that cannot be asked has an
    error as its result.

    mmada batch requests.jsonl -o results.jsonl --model debug
    """
    import asyncio
    from contextlib import AsyncExitStack

    from mmada.cli.data import counting
    from mmada.cli.serve import default_name
    from mmada.cli.session import check_model, check_writable, remarks
    from mmada.errors import InputError
    from mmada.scale.batch_lines import check_batch

    if replicas is not None and not ray:
        raise InputError(f"replicas={replicas} are spread by Ray; give --ray, or --workers {replicas} for processes of this machine")
    if workers > 1 and (ray or loading.tensor_parallel > 1):
        other = "--ray" if ray else f"--tensor-parallel {loading.tensor_parallel}"
        raise InputError(f"--workers {workers} are whole models on this machine, and do not go with {other}; leave one of them out")
    if ray and loading.tensor_parallel > 1:
        raise InputError(
            f"tensor_parallel={loading.tensor_parallel} is of this machine, and --ray spreads whole models over a cluster; leave one of them out"
        )
    check_writable(output, "output")
    check_model(model, loading.dtype)
    found = check_batch(requests, limit=limit, strict=strict)
    if found.num_bad == found.num_lines:
        raise InputError(f"{requests}: none of the {found.num_lines} lines can be asked; {found.first_problem}")
    if found.num_bad:
        remarks.print(f"warning: {found.num_bad} of {found.num_lines} lines cannot be asked; {found.first_problem}", style="yellow")

    from mmada.scale.batch import answer_batch
    from mmada.scale.batch_lines import lines_of
    from mmada.scale.batch_results import result_file
    from mmada.scale.replica import Replica, batch_settings, check_packages

    check_packages()
    settings = batch_settings(
        name or default_name(model), in_flight=in_flight, max_num_batched_tokens=max_num_batched_tokens, timeout=timeout
    )

    async def run() -> BatchReport:
        async with AsyncExitStack() as stack:
            answers: Any
            if ray:
                from mmada.scale.ray_replicas import ray_replicas

                answers = await stack.enter_async_context(
                    ray_replicas(model, settings, {**asdict(loading), "cache": cache}, count=replicas)
                )
            elif workers > 1:
                from mmada.scale.local_replicas import local_replicas

                how = {name: value for name, value in asdict(loading).items() if name != "tensor_parallel"}
                answers = await stack.enter_async_context(local_replicas(model, settings, {**how, "cache": cache}, count=workers))
            else:
                from mmada.cli.session import load

                answers = await stack.enter_async_context(Replica(load(model, loading, cache=cache), settings).running())
            at_a_time = in_flight * (len(answers) if ray or workers > 1 else 1)
            return await answer_batch(lines_of(requests, limit), results, answers, in_flight=at_a_time, on_results=show)

    with result_file(output) as results:
        before = sum(results.has(line) for line in lines_of(requests, limit))
        if before == found.num_lines:
            remarks.print(f"{output} has all {before} results; nothing is left to do")
            return
        with counting("answering", found.num_lines) as tell:

            def show(report: BatchReport) -> None:
                tell(before + report.num_results)

            report = asyncio.run(run())
        remarks.print(f"wrote {output}: {_counted(report, before)}")


def _counted(report: BatchReport, before: int) -> str:
    kinds = {"answered": report.num_answered, "refused": report.num_refused, "failed": report.num_failed}
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count or kind == "answered")
    earlier = f", {before} of an earlier run" if before else ""
    pace = f"{report.num_results / report.seconds:.3g} requests/s, {report.num_tokens / report.seconds:.4g} tokens/s"
    return f"{counted}{earlier}; {report.seconds:.1f} s, {pace}"
