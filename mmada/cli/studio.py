"""`mmada studio`: the server of `mmada serve`, with its page in a browser."""

from __future__ import annotations

import threading
import webbrowser
from typing import Annotated

import typer

from mmada.cli import options
from mmada.cli.serve import default_name, start
from mmada.hub.checkpoint import DEFAULT_MODEL

__all__ = ["studio"]


@options.with_settings()
def studio(
    model: options.Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page, or only print its address.")] = True,
    name: Annotated[str | None, typer.Option(help="The model's id for clients. Default: the last part of --model.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(envvar="MMADA_API_KEY", help="Key that the page asks for. Prefer the environment variable.")
    ] = None,
    cache: options.Cache = None,
    loading: options.Loading = options.Loading(),
) -> None:
    """Chat, draw and edit in a browser, and watch the model denoise.

    mmada studio --model debug --no-browser
    """

    def ready(url: str) -> None:
        typer.echo(f"studio: {url}  (stop with Ctrl-C)")
        if browser:  # in a thread: a text browser would hold the server until it is left
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    settings = {"name": name or default_name(model), "api_keys": tuple(api_key or ())}
    start(model, settings, loading, cache=cache, host=host, port=port, ready=ready)
