"""The application: routes, and what goes wrong on them.

    engine = Engine(model.planner, model.denoiser, config, device=model.model.device)   # bytes_per_token=..., with a cache
    run(create_app(engine, Reader(model.planner, config, factor=model.image_tokenizer.factor), config), engine, host="127.0.0.1", port=8000)

A client that goes away cancels its generations. Errors have OpenAI's shape and status. 400 is what was asked, 401 key, 404 model or
path, 408 and 413 body. 429 is a full queue (Retry-After), 500 our fault (in the log), 503 shutting down, 504 out of time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from mmada import __version__
from mmada.errors import InputError, MMaDAError
from mmada.generation.scheduler import BusyError, ClosedError
from mmada.serve.config import ServeConfig
from mmada.serve.engine import Engine
from mmada.serve.image_fetcher import Fetcher
from mmada.serve.middleware import RequestMiddleware
from mmada.serve.output_stream import OutputStream
from mmada.serve.outputs import Draft, ImageOutput, Preview, TextDelta, TextOutput, Thought
from mmada.serve.pictures import Pictures, remote_addresses
from mmada.serve.refusals import UnknownModelError, about, body_of, body_of_invalid, error_body, status_of
from mmada.serve.request_parser import ParsedRequest, RequestParser
from mmada.serve.responses import ImageResponses, TextResponses, event
from mmada.serve.schema import (
    ChatBody,
    ChatCompletionResponse,
    CompletionBody,
    CompletionResponse,
    EditBody,
    EditForm,
    ErrorResponse,
    GenerationBody,
    ImagesResponse,
    ModelCard,
    ModelList,
    VariationForm,
)

__all__ = ["create_app", "run"]

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)

WEB = Path(__file__).parent / "web"
_HEARTBEAT = 15.0
"""Seconds without news after which a stream sends a comment, so that proxies keep it open."""
_FETCH_SECONDS = 10.0
"""For all images of a request that have to be fetched, together."""
_MAX_FIELDS, _MAX_FILES = 64, 32
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorResponse, "description": "The server failed, is busy or shuts down"},
}


def _answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    text = {"type": "string"}
    stream = {"type": "object", "description": "One event.", "properties": {"data": text, "event": text}, "required": ["data"]}
    return {200: {"model": model, "content": {"text/event-stream": {"schema": stream}}}, **_ERRORS}


class _GoneError(Exception):
    """The client went away."""


def create_app(engine: Engine, parser: RequestParser, config: ServeConfig) -> FastAPI:
    """The application of one model. It starts the engine, and stops it in the end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="mmada", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_errors(app)
    _add_status(app, engine, config, parser)
    _Generations(engine, parser, config).add_to(app)
    # A route for each file: mounted at "/" as a whole, they would answer 404 where a path is known and its method is not.
    files = _Web(directory=WEB, html=True)
    app.router.routes.extend(Route(f"/{name}", files, include_in_schema=False) for name in ["", *sorted(p.name for p in WEB.iterdir())])
    app.add_middleware(RequestMiddleware, config=config)
    if config.allow_origins:  # around the guard: a browser asks first, without a key, and must be able to read refusals, too
        app.add_middleware(
            CORSMiddleware, allow_origins=config.allow_origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["x-request-id"]
        )
    return app


class _Web(StaticFiles):
    """The studio. Browsers ask whether a file has changed, so that one page never mixes files of two versions."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


class _Generations:
    """The routes that generate."""

    def __init__(self, engine: Engine, parser: RequestParser, config: ServeConfig) -> None:
        self._engine, self._parser, self._config = engine, parser, config
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="mmada-read")
        self._fetcher = Fetcher(max_bytes=config.max_body_bytes, timeout=min(_FETCH_SECONDS, config.request_timeout))

    def add_to(self, app: FastAPI) -> None:
        post = partial(app.post, tags=["generate"])
        post("/v1/chat/completions", responses=_answers(ChatCompletionResponse))(self.chat)
        post("/v1/completions", responses=_answers(CompletionResponse))(self.completions)
        images = partial(post, responses=_answers(ImagesResponse))
        images("/v1/images/generations")(self.generations)
        images("/v1/images/edits", openapi_extra=_form_of(EditForm, ["image"], ["mask"], also=EditBody))(self.edits)
        images("/v1/images/variations", openapi_extra=_form_of(VariationForm, ["image"], []))(self.variations)

    async def chat(self, request: Request, body: ChatBody) -> Response:
        """Answer a conversation."""
        arrived = time.monotonic()
        self._check(request, body)
        fetched = await self._fetched(request, body.addresses)
        return await self._text(request, body, partial(self._parser.chat, fetched=fetched), arrived=arrived)

    async def completions(self, request: Request, body: CompletionBody) -> Response:
        """Go on with a text, or fill the gap between a text and its suffix."""
        return await self._text(request, body, self._parser.completion)

    async def generations(self, request: Request, body: GenerationBody) -> Response:
        """Draw."""
        self._check(request, body)
        parsed = await self._reading(self._parser.generation, body)
        return await self._images(request, parsed, ImageResponses(body, parsed.seed, "image_generation"), stream=bool(body.stream))

    async def edits(self, request: Request) -> Response:
        """Draw the transparent part of an image anew. A form with files, or JSON with data: URLs."""
        arrived = time.monotonic()
        form: EditForm
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            form = body = _validated(EditBody, await _json(request), strict=True)
            self._check(request, form)
            pictures = Pictures(self._config, await self._fetched(request, body.addresses))
            images = []
            for i, reference in enumerate(body.images):
                with about(f"images.{i}.image_url"):
                    images.append(await self._reading(pictures.from_address, reference.image_url))
            with about("mask.image_url"):
                mask = None if body.mask is None else await self._reading(pictures.from_address, body.mask.image_url)
        else:
            pictures = Pictures(self._config)
            async with request.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS) as fields:
                form = _validated(EditForm, _texts_of(fields.multi_items(), files=("image", "image[]", "mask")), strict=False)
                uploads = [value for name, value in fields.multi_items() if name in ("image", "image[]")]
                images = [await self._uploaded(pictures, "image", upload) for upload in uploads]
                mask = None if "mask" not in fields else await self._uploaded(pictures, "mask", fields["mask"])
        self._check(request, form)
        if len(images) != 1:
            raise InputError(f"image: {len(images)} images are given; give one, which is what the drawing starts from")
        parsed = await self._reading(self._parser.edit, form, images[0], mask)
        responses = ImageResponses(form, parsed.seed, "image_edit")
        return await self._images(request, parsed, responses, stream=bool(form.stream), arrived=arrived)

    async def variations(self, request: Request) -> Response:
        """Draw a random part of an image anew, led by what it shows."""
        pictures = Pictures(self._config)
        async with request.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS) as fields:
            form = _validated(VariationForm, _texts_of(fields.multi_items(), files=("image",)), strict=False)
            image = await self._uploaded(pictures, "image", fields.get("image"))
        self._check(request, form)
        prompt, made_up = form.prompt, None
        if prompt is None:
            engine_request = await self._reading(self._parser.description, image)
            output = OutputStream(self._engine, [engine_request])
            try:
                (seen,) = await _unless_gone(request, output.results())
            finally:
                output.cancel()
            assert isinstance(seen, TextOutput)
            prompt = made_up = seen.answer or "a picture"
        parsed = await self._reading(self._parser.variation, form, image, prompt)
        responses = ImageResponses(form, parsed.seed, "image_generation", prompt=made_up)
        return await self._images(request, parsed, responses, stream=bool(form.stream))

    # What they have in common.

    async def _text(self, request: Request, body: Any, read: Callable[[Any], ParsedRequest], *, arrived: float | None = None) -> Response:
        self._check(request, body)
        parsed = await self._reading(read, body)
        responses = TextResponses(body, self._config.name, parsed.seed)
        output = OutputStream(self._engine, parsed.engine_requests, priority=parsed.priority, arrived=arrived)
        if body.stream:
            return await self._stream(request, output, _text_events(output, responses, len(parsed.engine_requests)))
        try:
            results = await _unless_gone(request, output.results())
        finally:
            output.cancel()
        return JSONResponse(responses.whole([result for result in results if isinstance(result, TextOutput)]))

    async def _images(
        self, request: Request, parsed: ParsedRequest, responses: ImageResponses, *, stream: bool, arrived: float | None = None
    ) -> Response:
        output = OutputStream(self._engine, parsed.engine_requests, priority=parsed.priority, arrived=arrived)
        if stream:
            return await self._stream(request, output, _image_events(output, responses))
        try:
            results = await _unless_gone(request, output.results())
        finally:
            output.cancel()
        return JSONResponse(await asyncio.to_thread(responses.whole, [result for result in results if isinstance(result, ImageOutput)]))

    async def _stream(self, request: Request, output: OutputStream, events: AsyncIterator[bytes]) -> Response:
        """Begins only when the engine requests were found to be good ones, so that a bad request has its own status."""
        try:
            await _unless_gone(request, output.begun())
        except BaseException:
            output.cancel()
            raise
        return _EventStream(events, output, limit=2 * self._config.request_timeout)

    async def _fetched(self, request: Request, urls: Sequence[str]) -> dict[str, bytes]:
        """What is behind the addresses that have to be fetched, in threads that nothing else waits for."""
        urls = remote_addresses(urls, self._config)
        return await _unless_gone(request, self._fetcher.bodies(urls)) if urls else {}

    async def _reading(self, read: Callable[..., _T], *args: Any) -> _T:
        """Decode pictures and check fields apart from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(read, *args))

    async def _uploaded(self, pictures: Pictures, name: str, upload: object) -> Any:
        if not isinstance(upload, UploadFile):
            raise InputError(f"{name} is missing, or no file; send it as a file of a form (multipart/form-data)")
        with about(name):
            return await self._reading(pictures.from_bytes, await upload.read())

    def _check(self, request: Request, body: BaseModel) -> None:
        """Keep what was given, for errors; raise UnknownModelError for a model that is not served here."""
        request.state.given = body.model_fields_set
        name: str | None = getattr(body, "model", None)
        if name is not None and name != self._config.name:
            raise UnknownModelError(f"the model {name[:80]!r} does not exist here; use {self._config.name!r}")


class _EventStream(StreamingResponse):
    """Server-sent events that end when the client goes, or does not read for `limit` seconds."""

    def __init__(self, events: AsyncIterator[bytes], output: OutputStream, *, limit: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._output, self._limit = output, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        tasks = [asyncio.ensure_future(self.stream_response(send)), asyncio.ensure_future(self.listen_for_disconnect(receive))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._limit, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._output.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _text_events(output: OutputStream, responses: TextResponses, count: int) -> AsyncIterator[bytes]:
    for index in range(count):
        for chunk in responses.first(index):
            yield event(chunk)
    results: dict[int, TextOutput] = {}
    try:
        async for item in output.events(every=_HEARTBEAT):
            if item is None:
                yield b": waiting\n\n"
                continue
            index, what = item
            chunks: list[dict[str, Any]] = []
            if isinstance(what, TextDelta):
                chunks = responses.words(index, what)
            elif isinstance(what, Draft):
                chunks = responses.draft(index, what)
            elif isinstance(what, TextOutput):
                results[index] = what
                chunks = responses.last(index, what)
            for chunk in chunks:
                yield event(chunk)
    except MMaDAError as error:
        yield event(body_of(error))
        return
    for chunk in responses.usage_chunk([results[index] for index in sorted(results)]):
        yield event(chunk)
    yield b"data: [DONE]\n\n"


async def _image_events(output: OutputStream, responses: ImageResponses) -> AsyncIterator[bytes]:
    try:
        async for item in output.events(every=_HEARTBEAT):
            if item is None:
                yield b": waiting\n\n"
            elif isinstance(item[1], Thought):
                if responses.sends_thinking:
                    yield responses.thought(item[0], item[1])
            elif isinstance(item[1], Preview):
                yield await asyncio.to_thread(responses.preview, item[0], item[1])
            elif isinstance(item[1], ImageOutput):
                yield await asyncio.to_thread(responses.completed, item[0], item[1])
    except MMaDAError as error:
        yield event({"type": "error", **body_of(error)}, "error")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work, unless the client goes away before: then _GoneError."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()  # type: ignore[return-value]
        raise _GoneError
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Bodies that FastAPI does not read for us.


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON ({error})") from error


def _texts_of(items: list[tuple[str, UploadFile | str]], *, files: tuple[str, ...]) -> dict[str, str]:
    """The fields of a form that are no files."""
    texts: dict[str, str] = {}
    for name, value in items:
        if name in files:
            continue
        if not isinstance(value, str):
            raise InputError(f"{name[:64]} is a file; send it as text")
        if name in texts:
            raise InputError(f"{name[:64]} is given twice; give it once")
        texts[name] = value
    return texts


def _validated(model: type[_M], values: Any, *, strict: bool) -> _M:
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False), body=values) from error


def _form_of(model: type[BaseModel], required: list[str], optional: list[str], *, also: type[BaseModel] | None = None) -> dict[str, Any]:
    """The description of a body that we read ourselves: a form with files, or JSON."""
    schema = _inlined(model)
    file = {"type": "string", "format": "binary"}
    schema["properties"] = {**schema["properties"], **dict.fromkeys([*required, *optional], file)}
    schema["required"] = [*schema.get("required", []), *required]
    content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    if also is not None:
        content["application/json"] = {"schema": _inlined(also)}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema without references, which would point into another document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(parts[node["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved


# Status and errors.


def _add_status(app: FastAPI, engine: Engine, config: ServeConfig, parser: RequestParser) -> None:
    created = int(time.time())

    @cache
    def card() -> ModelCard:
        """Made when it is first asked for: the start does not wait for the world that knows the examples."""
        return ModelCard(id=config.name, created=created, mmada=parser.facts())

    @app.get("/v1/models", tags=["status"], response_model=ModelList, responses=_ERRORS)
    async def models() -> ModelList:
        """The one model that is served."""
        return ModelList(data=[await asyncio.to_thread(card)])

    @app.get("/v1/models/{name:path}", tags=["status"], response_model=ModelCard, responses=_ERRORS)
    async def model(name: str) -> ModelCard:
        """The model, by its id."""
        if name != config.name:
            raise UnknownModelError(f"the model {name[:80]!r} does not exist here; use {config.name!r}")
        return await asyncio.to_thread(card)

    @app.get("/health", tags=["status"], responses=_ERRORS)
    async def health() -> JSONResponse:
        """200 while requests are taken, 503 when the server shuts down."""
        if not engine.healthy:
            return JSONResponse(error_body("the server is shutting down", "server_error", code="unavailable"), 503)
        return JSONResponse({"status": "ok", "model": config.name, "generations": engine.num_live})

    app.head("/health", include_in_schema=False)(health)

    @app.get("/metrics", tags=["status"], responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_ERRORS})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return JSONResponse(body_of_invalid(error.errors(), error.body), 400)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        return JSONResponse(error_body(str(error.detail), kind), error.status_code, headers=_headers(error.headers))

    @app.exception_handler(MMaDAError)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, MMaDAError)
        headers = (
            {"Retry-After": str(error.retry_after)}
            if isinstance(error, BusyError)
            else {"Retry-After": "5"}
            if isinstance(error, ClosedError)
            else None
        )
        return JSONResponse(body_of(error, _given(request)), status_of(error), headers=headers)

    @app.exception_handler(_GoneError)
    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the log does


def _given(request: Request) -> set[str]:
    """The fields of the request's body, if it was read."""
    found: set[str] = getattr(request.state, "given", set())
    return found


def _headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if headers is None else dict(headers)


# The process.


class _Server(uvicorn.Server):
    """On the first signal takes nothing new and finishes what it has; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine, ready: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._engine, self._ready = engine, ready

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and self._ready is not None:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.host, self.config.host)
            port = self.servers[0].sockets[0].getsockname()[1]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.drain()
        self.force_exit = self.should_exit
        self.should_exit = True


def run(
    app: FastAPI,
    engine: Engine,
    *,
    host: str,
    port: int,
    drain_seconds: float = 60.0,
    access_log: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; what is under way then has `drain_seconds` to finish.

    ready is told the server's address on this machine as soon as it answers.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="info",
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(drain_seconds),
    )
    _Server(config, engine, ready).run()
