"""The application: routes, and what goes wrong on them.

    engine = ServingEngine(model.planner, model.denoiser, config, device=model.model.device)   # bytes_per_token=..., with a cache
    run(create_app(engine, Reader(model.planner, config, factor=model.pixels_per_code), config), engine, host="127.0.0.1", port=8000)

A client that goes away cancels its generations. Errors have OpenAI's shape and status. 400 is what was asked, 401 key, 404 model or
path, 408 and 413 body. 429 is a full queue (Retry-After), 500 our fault (in the log), 503 shutting down, 504 out of time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from mmada import __version__
from mmada.errors import InputError, MMaDAError
from mmada.generation.scheduler import BusyError, ClosedError
from mmada.serve.bodies import FormField, GoneError, content_type, parsed_form, parsed_json, request_body
from mmada.serve.config import ServeConfig
from mmada.serve.engine import ServingEngine
from mmada.serve.image_fetcher import Fetcher
from mmada.serve.middleware import RequestMiddleware
from mmada.serve.openapi import ERRORS, answers, form_body, json_body
from mmada.serve.output_stream import OutputStream
from mmada.serve.outputs import Draft, DrawingThought, ImageOutput, PartialImage, TextDelta, TextOutput
from mmada.serve.picture_decoder import PictureDecoder
from mmada.serve.pictures import Pictures, remote_addresses
from mmada.serve.refusals import UnknownModelError, about, body_of, body_of_invalid, error_body, status_of
from mmada.serve.request_parser import ParsedRequest, RequestParser
from mmada.serve.response_schema import ChatCompletionResponse, CompletionResponse, ImagesResponse, ModelCard, ModelList
from mmada.serve.responses import ImageResponses, TextResponses, event
from mmada.serve.schema import ChatBody, CompletionBody, EditBody, EditForm, GenerationBody, VariationForm

__all__ = ["create_app"]

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)

WEB = Path(__file__).parent / "web"
_HEARTBEAT = 15.0
"""Seconds without news after which a stream sends a comment, so that proxies keep it open."""
_NUM_READERS = 2
"""Threads that read texts. Their work holds the interpreter, so more of them would not be faster."""
_FETCH_SECONDS = 10.0
"""For all images of a request that have to be fetched, together."""


def create_app(
    engine: ServingEngine,
    parser: RequestParser,
    config: ServeConfig,
    *,
    created: int | None = None,
    metrics_text: Callable[[], Awaitable[bytes]] | None = None,
) -> FastAPI:
    """The application of one model. It starts the engine, and stops it in the end.

    created       seconds since 1970 that the model's card tells; None: now
    metrics_text  what /metrics answers; None: the numbers of the engine
    """

    generations = _Generations(engine, parser, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        warming = asyncio.ensure_future(generations.decoder.warm_up())
        yield
        await asyncio.gather(warming, return_exceptions=True)
        generations.decoder.close()
        await asyncio.to_thread(engine.stop)

    # No redirects: a client may follow one without its body, and behind a proxy to the wrong place.
    app = FastAPI(title="mmada", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    _add_errors(app)
    created = int(time.time()) if created is None else created
    _add_status(app, engine, config, parser, created=created, metrics_text=metrics_text)
    generations.add_to(app)
    # A route for each file: mounted at "/" as a whole, they would answer 404 where a path is known and its method is not.
    files = _Web(directory=WEB, html=True)
    app.router.routes.extend(Route(f"/{name}", files, include_in_schema=False) for name in ["", *sorted(p.name for p in WEB.iterdir())])
    app.add_middleware(RequestMiddleware, config=config)
    if config.allow_origins:  # around the guard: a browser asks first, without a key, and must be able to read refusals, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-mmada-note"],
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

    def __init__(self, engine: ServingEngine, parser: RequestParser, config: ServeConfig) -> None:
        self._engine, self._parser, self._config = engine, parser, config
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="mmada-read")
        self._fitters = ThreadPoolExecutor(config.num_decoders or os.cpu_count() or 1, thread_name_prefix="mmada-fit")
        self.decoder = PictureDecoder(config)
        self._fetcher = Fetcher(max_bytes=config.max_body_bytes, timeout=min(_FETCH_SECONDS, config.request_timeout))

    def add_to(self, app: FastAPI) -> None:
        post = partial(app.post, tags=["generate"])
        post("/v1/chat/completions", responses=answers(ChatCompletionResponse), openapi_extra=json_body(ChatBody))(self.chat)
        post("/v1/completions", responses=answers(CompletionResponse), openapi_extra=json_body(CompletionBody))(self.completions)
        images = partial(post, responses=answers(ImagesResponse))
        images("/v1/images/generations", openapi_extra=json_body(GenerationBody))(self.generations)
        images("/v1/images/edits", openapi_extra=form_body(EditForm, ["image"], ["mask"], also=EditBody))(self.edits)
        images("/v1/images/variations", openapi_extra=form_body(VariationForm, ["image"], []))(self.variations)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        body, arrived = await self._json(request, ChatBody)
        images = await self._pictures(request, body.addresses, arrived=arrived)
        pictures = dict(zip((url for _, url in body.addresses), images, strict=True))
        return await self._text(request, body, partial(self._parser.chat, pictures=pictures), arrived=arrived, has_pictures=bool(images))

    async def completions(self, request: Request) -> Response:
        """Go on with a text, or fill the gap between a text and its suffix."""
        body, arrived = await self._json(request, CompletionBody)
        return await self._text(request, body, self._parser.completion, arrived=arrived)

    async def generations(self, request: Request) -> Response:
        """Draw."""
        body, arrived = await self._json(request, GenerationBody)
        parsed = await self._reading(lambda: self._parser.begun(self._parser.generation(body)))
        responses = ImageResponses(body, parsed.seed, "image_generation", note=parsed.note)
        return await self._images(request, parsed, responses, stream=bool(body.stream), arrived=arrived)

    async def edits(self, request: Request) -> Response:
        """Draw the transparent part of an image anew, or images by an instruction. A form with files, or JSON with addresses."""
        form: EditForm
        if content_type(request) == "application/json":
            form, arrived = body, arrived = await self._json(request, EditBody)
            images = await self._pictures(request, body.addresses, arrived=arrived)
            mask = None if body.mask is None else images.pop()
        else:
            form, fields, arrived = await self._form(request, EditForm, files=("image", "image[]", "mask"))
            uploads = [("image", field.value) for field in fields if field.name in ("image", "image[]")]
            masks = [("mask", field.value) for field in fields if field.name == "mask"]
            _at_most_one("mask", masks)
            images = await self._pictures(request, [*uploads, *masks], arrived=arrived, uploaded=True)
            mask = images.pop() if masks else None
        parsed = await self._fitting(lambda: self._parser.begun(self._parser.edit(form, images, mask)))
        responses = ImageResponses(form, parsed.seed, "image_edit", note=parsed.note)
        return await self._images(request, parsed, responses, stream=bool(form.stream), arrived=arrived)

    async def variations(self, request: Request) -> Response:
        """Draw a random part of an image anew, led by what it shows."""
        form, fields, arrived = await self._form(request, VariationForm, files=("image",))
        uploads = [("image", field.value) for field in fields if field.name == "image"]
        _at_most_one("image", uploads)
        (image,) = await self._pictures(request, uploads or [("image", "")], arrived=arrived, uploaded=True)
        prompt, made_up = form.prompt, None
        if prompt is None:
            engine_request = await self._fitting(lambda: self._parser.description(image))
            output = OutputStream(self._engine, [engine_request], arrived=arrived)
            try:
                (seen,) = await _unless_gone(request, output.results())
            finally:
                output.cancel()
            assert isinstance(seen, TextOutput)
            prompt = made_up = seen.answer or "a picture"
        parsed = await self._fitting(lambda: self._parser.begun(self._parser.variation(form, image, prompt)))
        responses = ImageResponses(form, parsed.seed, "image_generation", prompt=made_up, note=parsed.note)
        return await self._images(request, parsed, responses, stream=bool(form.stream), arrived=arrived)

    # What they have in common.

    async def _json(self, request: Request, model: type[_M]) -> tuple[_M, float]:
        """A body of JSON, and when it had arrived (time.monotonic). Raises what is wrong with it; nothing of that is the event loop's work."""
        data = await request_body(request)
        arrived = time.monotonic()
        is_json = content_type(request).endswith("json")

        def read() -> _M:
            return _validated(model, parsed_json(data, self._config) if is_json and data else None, strict=True)

        body = await self._reading(read)
        self._check(request, body)
        return body, arrived

    async def _form(self, request: Request, model: type[_M], *, files: tuple[str, ...]) -> tuple[_M, list[FormField], float]:
        """A form, its fields, and when it had arrived."""
        data = await request_body(request)
        arrived = time.monotonic()

        def read() -> tuple[_M, list[FormField]]:
            fields = parsed_form(data, request.headers.get("content-type", ""), self._config)
            return _validated(model, _texts_of(fields, files=files), strict=False), fields

        body, fields = await self._reading(read)
        self._check(request, body)
        return body, fields, arrived

    async def _text(
        self, request: Request, body: Any, read: Callable[[Any], ParsedRequest], *, arrived: float, has_pictures: bool = False
    ) -> Response:
        where = self._fitting if has_pictures else self._reading
        parsed = await where(lambda: self._parser.begun(read(body)))
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
        self, request: Request, parsed: ParsedRequest, responses: ImageResponses, *, stream: bool, arrived: float
    ) -> Response:
        output = OutputStream(self._engine, parsed.engine_requests, priority=parsed.priority, arrived=arrived)
        if stream:
            return await self._stream(request, output, _image_events(output, responses), note=responses.note)
        try:
            results = await _unless_gone(request, output.results())
        finally:
            output.cancel()
        whole = await asyncio.to_thread(responses.whole, [result for result in results if isinstance(result, ImageOutput)])
        return JSONResponse(whole, headers=_noted(responses.note))

    async def _stream(self, request: Request, output: OutputStream, events: AsyncIterator[bytes], *, note: str | None = None) -> Response:
        """Begins only when the engine requests were found to be good ones, so that a bad request has its own status."""
        try:
            await _unless_gone(request, output.begun())
        except BaseException:
            output.cancel()
            raise
        return _EventStream(events, output, limit=2 * self._config.request_timeout, note=note)

    async def _pictures(
        self, request: Request, sources: Sequence[tuple[str, str | bytes]], *, arrived: float, uploaded: bool = False
    ) -> list[Image.Image]:
        """Images by their addresses, or of uploaded files, each with its place in the body. A client that goes frees its decoder."""
        return await _unless_gone(request, self._decoded(sources, arrived=arrived, uploaded=uploaded)) if sources else []

    async def _decoded(self, sources: Sequence[tuple[str, str | bytes]], *, arrived: float, uploaded: bool) -> list[Image.Image]:
        urls = [] if uploaded else remote_addresses([str(url) for _, url in sources], self._config)
        fetched = await self._fetcher.bodies(urls) if urls else {}
        pictures = Pictures(self._config, self.decoder, arrived=time.monotonic() if urls else arrived, fetched=fetched)
        images: list[Image.Image] = []
        for place, source in sources:
            with about(place):
                if isinstance(source, bytes):
                    images.append(await pictures.from_bytes(source))
                elif uploaded:
                    raise InputError(f"{place} is missing, or no file; send it as a file of a form (multipart/form-data)")
                else:
                    images.append(await pictures.from_address(source))
        return images

    async def _reading(self, read: Callable[[], _T]) -> _T:
        """Read texts, check fields and begin programs in threads of their own."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _fitting(self, fit: Callable[[], _T]) -> _T:
        """Bring pictures to size, in threads that no text waits for."""
        return await asyncio.get_running_loop().run_in_executor(self._fitters, fit)

    def _check(self, request: Request, body: BaseModel) -> None:
        """Keep what was given, for errors; raise UnknownModelError for a model that is not served here."""
        request.state.given = body.model_fields_set
        name: str | None = getattr(body, "model", None)
        if name is not None and name != self._config.name:
            raise UnknownModelError(f"the model {name[:80]!r} does not exist here; use {self._config.name!r}")


class _EventStream(StreamingResponse):
    """Server-sent events that end when the client goes, or does not read for `limit` seconds."""

    def __init__(self, events: AsyncIterator[bytes], output: OutputStream, *, limit: float, note: str | None) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **_noted(note)}
        super().__init__(events, media_type="text/event-stream", headers=headers)
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
            yield event(responses.so_far(chunk, output.num_prompt_tokens[index], 0))
    results: dict[int, TextOutput] = {}
    try:
        async for item in output.events(every=_HEARTBEAT):
            if item is None:
                yield b": waiting\n\n"
                continue
            index, what = item
            if isinstance(what, TextDelta):
                chunks = responses.words(index, what)
            elif isinstance(what, Draft):
                chunks = responses.draft(index, what)
            elif isinstance(what, TextOutput):
                results[index] = what
                chunks = responses.last(index, what)
            else:
                continue
            for chunk in chunks:
                yield event(responses.so_far(chunk, output.num_prompt_tokens[index], what.num_new_tokens))
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
            elif isinstance(item[1], DrawingThought):
                if responses.sends_thinking:
                    yield responses.thought(item[0], item[1])
            elif isinstance(item[1], PartialImage):
                yield await asyncio.to_thread(responses.preview, item[0], item[1])
            elif isinstance(item[1], ImageOutput):
                yield await asyncio.to_thread(responses.completed, item[0], item[1])
    except MMaDAError as error:
        yield event({"type": "error", **body_of(error)}, "error")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work, unless the client goes away before: then GoneError."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()  # type: ignore[return-value]
        raise GoneError
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _noted(note: str | None) -> dict[str, str]:
    """The header that says what was done otherwise than it was asked."""
    return {} if note is None else {"x-mmada-note": note}


def _texts_of(fields: Sequence[FormField], *, files: tuple[str, ...]) -> dict[str, str]:
    """The fields of a form that are no files."""
    texts: dict[str, str] = {}
    for field in fields:
        if field.name in files:
            continue
        with about(field.name[:64]):
            if not isinstance(field.value, str):
                raise InputError(f"{field.name[:64]} is a file; send it as text")
            if field.name in texts:
                raise InputError(f"{field.name[:64]} is given twice; give it once")
        texts[field.name] = field.value
    return texts


def _at_most_one(name: str, uploads: Sequence[object]) -> None:
    if len(uploads) > 1:
        with about(name):
            raise InputError(f"{name} is given {len(uploads)} times; give it once")


def _validated(model: type[_M], values: Any, *, strict: bool) -> _M:
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False), body=values) from error


# Status and errors.


def _add_status(
    app: FastAPI,
    engine: ServingEngine,
    config: ServeConfig,
    parser: RequestParser,
    *,
    created: int,
    metrics_text: Callable[[], Awaitable[bytes]] | None,
) -> None:
    @cache
    def card() -> ModelCard:
        """Made when it is first asked for: the start does not wait for the world that knows the examples."""
        return ModelCard(id=config.name, created=created, mmada=parser.facts())

    @app.get("/v1/models", tags=["status"], response_model=ModelList, responses=ERRORS)
    async def models() -> ModelList:
        """The one model that is served."""
        return ModelList(data=[await asyncio.to_thread(card)])

    @app.get("/v1/models/{name:path}", tags=["status"], response_model=ModelCard, responses=ERRORS)
    async def model(name: str) -> ModelCard:
        """The model, by its id."""
        if not name:
            raise HTTPException(404)
        if name != config.name:
            raise UnknownModelError(f"the model {name[:80]!r} does not exist here; use {config.name!r}")
        return await asyncio.to_thread(card)

    for path, served in (("/v1/models", models), ("/v1/models/{name:path}", model)):
        app.head(path, include_in_schema=False)(served)

    @app.get("/health", tags=["status"], responses=ERRORS)
    async def health() -> JSONResponse:
        """200 while requests are taken, 503 when the server shuts down."""
        if not engine.healthy:
            return JSONResponse(error_body("the server is shutting down", "server_error", code="unavailable"), 503)
        return JSONResponse({"status": "ok", "model": config.name, "generations": engine.num_live})

    app.head("/health", include_in_schema=False)(health)

    @app.get("/metrics", tags=["status"], responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **ERRORS})
    async def metrics() -> Response:
        """For Prometheus."""
        text = engine.metrics.text() if metrics_text is None else await metrics_text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    app.head("/metrics", include_in_schema=False)(metrics)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return JSONResponse(body_of_invalid(error.errors(), error.body), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        return JSONResponse(error_body(_sentence(request, error), kind), error.status_code, headers=_headers(error.headers))

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

    @app.exception_handler(GoneError)
    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the log does


def _given(request: Request) -> set[str]:
    """The fields of the request's body, if it was read."""
    found: set[str] = getattr(request.state, "given", set())
    return found


def _sentence(request: Request, error: HTTPException) -> str:
    """What is wrong with a path or a method, or what the error says itself."""
    path = str(request.scope["path"])[:80]
    if error.status_code == 404:
        meant = _meant(request)
        remedy = "GET /openapi.json lists those that it has" if meant is None else f"use {meant!r}"
        return f"this server has no path {path!r}; {remedy}"
    if error.status_code == 405:
        methods = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow") or "another method"
        return f"{path} does not take {request.method}; use {methods}"
    return str(error.detail)


def _meant(request: Request) -> str | None:
    """The path that a client means who sends slashes, or /v1, too often or not at all."""
    plain = "/" + "/".join(part for part in str(request.scope["path"]).split("/") if part not in ("", "v1"))
    known = {getattr(route, "path", None) for route in request.app.routes}
    return next((path for path in (f"/v1{plain}", plain) if path in known), None)


def _headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if headers is None else dict(headers)
