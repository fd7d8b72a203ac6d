"""`mmada serve`: an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmada.cli import options
from mmada.hub.checkpoint import DEFAULT_MODEL

if TYPE_CHECKING:
    import logging

    from mmada.serve.config import ServeConfig

__all__ = ["default_name", "serve", "start"]

_ACCESS = "Access"


def _limit(least: float, text: str) -> Any:
    """An option of the panel of limits, at least `least`."""
    return typer.Option(min=least, help=text, rich_help_panel="Limits")


@options.with_settings()
def serve(
    model: options.Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's id for clients. Default: the last part of --model.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="MMADA_API_KEY", help="Key that clients must send. Prefer the environment variable.", rich_help_panel=_ACCESS),
    ] = None,
    allow_remote_images: Annotated[
        bool, typer.Option("--allow-remote-images", help="Fetch http(s) images from public addresses.", rich_help_panel=_ACCESS)
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Another site whose pages may call the server, such as https://example.com.", rich_help_panel=_ACCESS),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that the server answers to, such as example.com or *.example.com, besides its own; * is any. "
            "Without this option, a server with a key answers to any name.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes behind the port, each with the model: one for each core at most.")] = 1,
    replicas: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes over the Ray cluster of RAY_ADDRESS, or of this machine, each with the model, by Ray Serve. 0: without Ray.",
        ),
    ] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads of a process on CPUs. 0: measured at the start; with --replicas, one.")] = 0,
    max_queue: Annotated[int, _limit(1, "Generations that may wait. More are answered with 429.")] = 128,
    max_num_batched_tokens: Annotated[int, _limit(1, "Tokens of one forward pass. Bounds its memory.")] = 16384,
    max_num_batched_logits: Annotated[int, _limit(1, "Logits of one forward pass. Bounds its memory, too.")] = 2**27,
    cache_gib: Annotated[float, _limit(0.001, "Memory for KV caches, in GiB.")] = 4,
    max_body_mib: Annotated[float, _limit(0.001, "Largest body, in MiB.")] = 20,
    max_image_pixels: Annotated[int, _limit(1, "Pixels of all images of a request.")] = 2**24,
    decode_timeout: Annotated[float, _limit(0.1, "Seconds from arrival until a request's images must be decoded.")] = 10,
    num_decoders: Annotated[int, _limit(0, "Images decoded at a time, each by a process. 0: one for each core.")] = 0,
    max_messages: Annotated[int, _limit(1, "Messages of one conversation.")] = 1024,
    max_prompt_chars: Annotated[int, _limit(1, "Characters of all texts of a request.")] = 65536,
    max_stop_chars: Annotated[int, _limit(1, "Characters of all stop strings of a request.")] = 4096,
    max_n: Annotated[int, _limit(1, "Generations of one request.")] = 10,
    max_steps: Annotated[int, _limit(1, "Steps of one generation.")] = 1024,
    timeout: Annotated[float, _limit(0.1, "Seconds until a generation is canceled, waiting included.")] = 600,
    header_timeout: Annotated[float, _limit(0.1, "Seconds in which a connection must have sent its headers.")] = 20,
    body_timeout: Annotated[float, _limit(0.1, "Seconds in which a body must have arrived.")] = 60,
    write_timeout: Annotated[float, _limit(0.1, "Seconds in which a client must have read what waits for it.")] = 60,
    drain: Annotated[float, _limit(0, "Seconds to finish running requests after SIGTERM.")] = 60,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every HTTP request.")] = False,
    cache: options.Cache = None,
    loading: options.Loading = options.Loading(),
) -> None:
    """Serve a model to OpenAI clients: chat, completions, images, edits and variations.

    mmada serve --model debug --port 8000
    """
    settings = {
        "name": name or default_name(model),
        "api_keys": tuple(api_key or ()),
        "max_queue": max_queue,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_num_batched_logits": max_num_batched_logits,
        "max_cache_bytes": int(cache_gib * 2**30),
        "request_timeout": timeout,
        "max_body_bytes": int(max_body_mib * 2**20),
        "max_image_pixels": max_image_pixels,
        "decode_timeout": decode_timeout,
        "num_decoders": num_decoders,
        "max_messages": max_messages,
        "max_prompt_chars": max_prompt_chars,
        "max_stop_chars": max_stop_chars,
        "header_timeout": header_timeout,
        "body_timeout": body_timeout,
        "write_timeout": write_timeout,
        "allowed_hosts": tuple(name.lower() for name in allowed_host or ()),
        "max_n": max_n,
        "max_steps": max_steps,
        "allow_remote_images": allow_remote_images,
        "allow_origins": tuple(allow_origin or ()),
    }
    if replicas:
        if workers > 1 or access_log:
            from mmada.errors import InputError

            given = f"--workers {workers}" if workers > 1 else "--access-log"
            raise InputError(f"{given} has no effect on the replicas of --replicas {replicas}; leave one of the two out")
        own = {"model": model, "replicas": replicas, "cpus": max(1, threads), "cache": cache, "drain": drain}
        _start_replicas(own, settings, loading, host=host, port=port)
        return
    start(model, settings, loading, cache=cache, host=host, port=port, drain=drain, access_log=access_log, workers=workers, threads=threads)


def _start_replicas(own: Mapping[str, Any], settings: Mapping[str, Any], loading: options.Loading, *, host: str, port: int) -> None:
    """Serve by Ray Serve until a signal comes.

    own       fields of ReplicasConfig, without those of loading
    settings  fields of ServeConfig
    """
    from dataclasses import asdict

    from mmada.cli.session import check_model
    from mmada.errors import InputError
    from mmada.scale.replica import check_packages

    loads = asdict(loading)
    if (shared := loads.pop("tensor_parallel")) > 1:
        raise InputError(
            f"replicas={own['replicas']} hold whole models, and tensor_parallel={shared} processes hold one together; leave one of them out"
        )
    check_packages()
    from mmada.scale.serve import serve_replicas
    from mmada.scale.serve_config import ReplicasConfig

    check_model(own["model"], loading.dtype)
    log = _begin(host, settings)

    def announce(url: str) -> None:
        log.info("%d replicas running on %s (Press CTRL+C to quit)", own["replicas"], url)

    serve_replicas(ReplicasConfig(**own, **loads, server=_config(host, settings)), host=host, port=port, ready=announce)


def _config(host: str, settings: Mapping[str, Any]) -> ServeConfig:
    """The settings, with the names that a server which listens on `host` answers to."""
    from mmada.serve.config import ServeConfig
    from mmada.serve.hosts import usual_hosts

    named = settings.get("allowed_hosts") or ()
    hosts = (*named, *usual_hosts(host, has_keys=bool(settings.get("api_keys")) and not named))
    return ServeConfig(**{**settings, "allowed_hosts": hosts})


def _begin(host: str, settings: Mapping[str, Any]) -> logging.Logger:
    """The server's log, and a warning if it is open to others."""
    import logging

    from mmada.cli.session import remarks
    from mmada.serve.hosts import is_loopback

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    log = logging.getLogger("mmada.serve")
    log.setLevel(logging.INFO)
    if not is_loopback(host) and not settings.get("api_keys"):
        remarks.print(f"warning: {host} may be reached by others, and no --api-key is set", style="yellow")
    return log


def default_name(model: str) -> str:
    """The id of a model for clients: the last part of its name or directory."""
    return Path(model).resolve().name if Path(model).is_dir() else Path(model).name


def start(
    model: str,
    settings: Mapping[str, Any],
    loading: options.Loading,
    *,
    cache: str | None,
    host: str,
    port: int,
    drain: float = 60,
    access_log: bool = False,
    workers: int = 1,
    threads: int = 0,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Load a model and serve it until a signal comes.

    settings  fields of ServeConfig
    loading   how the model is loaded
    cache     KV cache policy; None: the checkpoint's
    workers   processes that serve it
    threads   of each on CPUs; 0: measured
    ready     called with the server's address as soon as it answers
    """
    import time
    from dataclasses import replace
    from importlib.util import find_spec

    from mmada.cli.session import check_model, load
    from mmada.errors import InputError, MissingDependencyError

    if workers > 1 and loading.tensor_parallel > 1:
        raise InputError(
            f"workers={workers} hold whole models, and tensor_parallel={loading.tensor_parallel} processes hold one together; leave one of them out"
        )
    missing = [package for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart") if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(f"the server needs {', '.join(missing)}; install the extra: pip install 'mmada[serve]'")

    check_model(model, loading.dtype)

    import torch

    from mmada.serve.engine import ServingEngine
    from mmada.serve.http import create_app
    from mmada.serve.listen import address_of, allow_many_connections, run
    from mmada.serve.request_parser import RequestParser
    from mmada.serve.threads import available, set_threads
    from mmada.serve.workers import device_of_worker, listen, supervise

    if workers > available():
        raise InputError(f"workers={workers} are more than the {available()} cores that this process may use; give {available()} at most")
    config, log = _config(host, settings), _begin(host, settings)
    if workers == 1:  # known before the model is loaded
        for one in listen(host, port):
            one.close()
    allow_many_connections()
    created, worker = int(time.time()), None
    if workers > 1:
        sockets = listen(host, port)
        url = address_of(host, sockets[0].getsockname()[1])

        def announce() -> None:
            log.info("%d workers running on %s (Press CTRL+C to quit)", workers, url)
            if ready is not None:
                ready(url)

        worker = supervise(workers, sockets, drain_seconds=drain, ready=announce)
        if worker is None:
            return
        config = replace(config, num_decoders=max(1, (config.num_decoders or available()) // workers))
        loading = replace(loading, device=device_of_worker(worker.place.worker, loading.device, torch.cuda.device_count()))
    pipeline = load(model, loading, cache=cache)
    # Loaded now, not by the first request: a server whose images cannot work should not start.
    factor = pipeline.pixels_per_code
    backbone = pipeline.model
    if backbone.device.type == "cuda":
        torch.cuda.set_device(backbone.device)
    if backbone.device.type == "cpu":
        log.info("%d threads for each pass", set_threads(pipeline.denoiser, pipeline.planner, threads, available(workers)))
    place, folder = (None, None) if worker is None else (worker.place, worker.folder)
    engine = ServingEngine(
        pipeline.planner,
        pipeline.denoiser,
        config,
        device=backbone.device,
        bytes_per_token=pipeline.bytes_per_token,
        place=place,
        folder=folder,
    )
    app = create_app(engine, RequestParser(pipeline.planner, config, factor=factor), config, created=created)
    try:
        run(app, engine, config, host=host, port=port, drain_seconds=drain, access_log=access_log, ready=ready, worker=worker)
    finally:
        pipeline.close()
