"""The local engine behind the OpenAI protocol, as a run of kind `serve`: loopback only, one token, ends when idle.

Only the worker of such a run imports this. The protocol's words are in `workbench.generation.protocol`, the variants
and their fingerprints in `workbench.generation.variants`, decoding in `workbench.generation.engine`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.errors import GenerationProblem, ModelProblem, NotFound, TemplateProblem, UsageError, WorkbenchError
from workbench.generation.configs import Delta, Done, Event, Failed, GenerationRequest, ServeConfig, TokenLogprob
from workbench.generation.protocol import LONGEST, Ask, ChatAsk, Shape, TextAsk, error_body, usage
from workbench.generation.variants import Ready, Variants
from workbench.job import Job
from workbench.records import new_id

if TYPE_CHECKING:
    from workbench.generation.engine import Engine, Handle

ENDPOINT_FILE = "endpoint.json"
LOOK_S = 0.25
logger = logging.getLogger(__name__)


def serve(config: ServeConfig, job: Job) -> dict[str, Any]:
    """Serve a base model and its adapters until nobody asks any more or Stop is pressed.

    Args:
        config: the base, and bounds on memory and time.
        job: the run; its folder gets `endpoint.json`, mode 0600, once requests are answered.

    Raises:
        ModelProblem: the model cannot be loaded or served.
        Stopped: Stop was pressed.
    """
    import torch

    from workbench.generation.engine import Engine
    from workbench.models.loading import load_base, load_with_adapter, model_folder
    from workbench.store.models import get_model

    model = get_model(job.store, config.model)
    folder = model_folder(model)
    endpoint = job.folder / ENDPOINT_FILE
    endpoint.unlink(missing_ok=True)
    job.progress("loading the model")
    threads = config.threads or job.settings.threads
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype
    if dtype == "auto":
        own = str(model.info.get("dtype") or "float32")
        dtype = "bfloat16" if device == "cuda" and own != "float32" else "float32"

    def load_copy(adapter: Path) -> Any:
        return load_with_adapter(load_base(model, dtype=dtype, device=device), adapter).get_base_model()

    base = load_base(model, dtype=dtype, device=device)
    from workbench.datasets.render import load_renderer

    engine = Engine(
        base,
        load_renderer(folder).tokenizer,
        context=_context(model.info.get("context_length")),
        max_rows=config.max_rows,
        cache_mb=config.cache_mb,
        threads=threads,
    )
    try:
        desk = Desk(Variants(job.store, model, engine, dtype, load_copy), engine)
        idle_s = config.idle_s or job.settings.engine_idle_s
        asyncio.run(_serve_until_idle(desk, job, endpoint, idle_s))
    finally:
        engine.close()
        endpoint.unlink(missing_ok=True)
    job.checkpoint_or_stop()
    return {"requests": desk.requests, "tokens": desk.tokens}


def _context(told: object) -> int | None:
    return told if isinstance(told, int) and told > 0 else None


class _Server(uvicorn.Server):
    """Leaves signals to the run's worker, which turns them into `should_stop`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _serve_until_idle(desk: Desk, job: Job, endpoint: Path, idle_s: float) -> None:
    token = secrets.token_urlsafe(32)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = Gate(create_app(desk), token, port)
    server = _Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    told = {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "token": token,
        "pid": os.getpid(),
        "model_id": desk.variants.model.id,
    }
    write_private(endpoint, json.dumps(told))
    job.progress("serving", note=f"ends after {idle_s:.0f} seconds without a request")
    while not serving.done():
        load = desk.engine.load()
        if load.running or load.waiting:
            desk.used = time.monotonic()
        idle = time.monotonic() - desk.used
        job.progress(done=desk.requests, unit="requests")
        if idle > idle_s or job.should_stop() or desk.engine.closing:
            # First the file, so that nobody new is sent here; then the answers, so that open streams end.
            endpoint.unlink(missing_ok=True)
            await asyncio.to_thread(desk.engine.close)
            server.should_exit = True
            break
        await asyncio.sleep(LOOK_S)
    await serving


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; it appears whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


class Gate:
    """Lets in requests that name this host and carry the token; without, a page of some other site could ask too.

    Args:
        app: what is guarded.
        token: the bearer token.
        port: the port it listens on.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._hosts = {f"127.0.0.1:{port}".encode(), f"localhost:{port}".encode()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 421 or 401, or pass the request on."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        refused: Response | None = None
        if headers.get(b"host", b"").lower() not in self._hosts:
            body = error_body("this address is not served here", "invalid_request_error", "wrong_host")
            refused = JSONResponse(body, status_code=421)
        elif not secrets.compare_digest(headers.get(b"authorization", b""), self._expected):
            body = error_body("the token is missing or wrong", "invalid_request_error", "invalid_api_key")
            refused = JSONResponse(body, status_code=401)
        await (refused or self._app)(scope, receive, send)


class Desk:
    """What the endpoints share: variants, engine, and counts of use.

    Args:
        variants: of the base that is served.
        engine: writes the answers.
    """

    def __init__(self, variants: Variants, engine: Engine) -> None:
        self.variants = variants
        self.engine = engine
        self.used = time.monotonic()
        self.requests = 0
        self.tokens = 0


class Asked:
    """One HTTP request being answered: its prompts in the engine, and their events in one queue.

    Args:
        desk: what the endpoints share.
        ready: the variant that answers.
        ask: the body.
        prompts: token ids of each prompt.
        stops: tokens that end an answer.
    """

    def __init__(self, desk: Desk, ready: Ready, ask: ChatAsk | TextAsk, prompts: Sequence[Sequence[int]]) -> None:
        self.desk, self.ready, self.ask = desk, ready, ask
        self.n = ask.n or 1
        self.choices = self.n * len(prompts)
        self.prompt_tokens = sum(len(prompt) for prompt in prompts)
        self.tokens = 0
        self._queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._handles: list[Handle] = []
        self._watch: asyncio.Task[None] | None = None
        for place, prompt in enumerate(prompts):
            try:
                self._handles.append(desk.engine.submit(self._request(prompt), self._sink(place)))
            except WorkbenchError:
                self.cancel()
                raise
        desk.requests += 1

    def _request(self, prompt: Sequence[int]) -> GenerationRequest:
        unsaid = self.desk.engine.context - len(prompt)
        return GenerationRequest(
            prompt_ids=tuple(prompt),
            sampling=self.ask.sampling(min(max(unsaid, 1), LONGEST)),
            stop_ids=self.ready.renderer.stop_ids,
            adapter=self.ready.adapter,
            n=self.n,
            top_logprobs=self.ask.tops,
        )

    def _sink(self, place: int) -> Any:
        def sink(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is gone when the server has ended
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (place, event))

        return sink

    def cancel(self) -> None:
        """Stop writing."""
        for handle in self._handles:
            self.desk.engine.cancel(handle)

    def watch(self, request: Request) -> None:
        """Cancel as soon as the client has gone, whatever else waits for it."""

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.cancel()
            self._queue.put_nowait(None)

        self._watch = asyncio.create_task(until_gone())

    async def events(self) -> AsyncIterator[tuple[int, Delta | Done]]:
        """Choice and event until all answers are over or the client has gone.

        Raises:
            GenerationProblem: an answer failed, or the engine is closing.
        """
        left = self.choices
        try:
            while left:
                item = await self._queue.get()
                if item is None:
                    return
                place, event = item
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Done):
                    left -= 1
                    self.tokens += event.tokens
                    self.desk.tokens += event.tokens
                    if event.finish_reason == "cancelled":
                        raise GenerationProblem("the engine is closing", remedy="Ask again; it is started anew.")
                yield place * self.n + event.choice, event
        finally:
            if left:
                self.cancel()
            if self._watch is not None:
                self._watch.cancel()
            self.desk.used = time.monotonic()


def create_app(desk: Desk) -> FastAPI:
    """The endpoints, without the gate.

    Args:
        desk: what they share.
    """
    app = FastAPI(title="Workbench engine", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(WorkbenchError, _problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(Exception, _unexpected)

    @app.get("/health")
    def health() -> dict[str, Any]:
        load = desk.engine.load()
        return {
            "status": "ok",
            "model_id": desk.variants.model.id,
            "running": load.running,
            "waiting": load.waiting,
            "adapters": len(load.adapters),
            "requests": desk.requests,
            "tokens": desk.tokens,
        }

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        entries = [
            {
                "id": variant.id,
                "object": "model",
                "created": int(variant.created_at.timestamp()),
                "owned_by": "workbench",
                "name": variant.name,
                "adapter": variant.adapter_path is not None,
            }
            for variant in desk.variants.names()
        ]
        return {"object": "list", "data": entries}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(ask: ChatAsk, request: Request) -> Response:
        def prepare() -> tuple[Ready, list[list[int]]]:
            ready = desk.variants.ready(ask.model)
            return ready, [ready.renderer.prompt_ids([message.message() for message in ask.messages], ask.tools)]

        return await _answer(desk, ask, request, "chat", *await run_in_threadpool(prepare))

    @app.post("/v1/completions", response_model=None)
    async def complete(ask: TextAsk, request: Request) -> Response:
        def prepare() -> tuple[Ready, list[list[int]]]:
            ready = desk.variants.ready(ask.model)
            tokenizer = ready.renderer.tokenizer
            size = tokenizer.get_vocab_size(True)
            try:
                prompts = [list(tokenizer.encode(p).ids) if isinstance(p, str) else p for p in ask.prompts()]
            except TypeError as error:  # what the library says to half of a surrogate pair
                raise UsageError("a prompt holds half of a character, which no model reads", place="prompt") from error
            if any(not 0 <= token < size for prompt in prompts for token in prompt):
                raise UsageError(f"a token id is outside the vocabulary of {size:,}", place="prompt")
            return ready, prompts

        return await _answer(desk, ask, request, "text", *await run_in_threadpool(prepare))

    return app


async def _answer(
    desk: Desk, ask: ChatAsk | TextAsk, request: Request, kind: Any, ready: Ready, prompts: list[list[int]]
) -> Response:
    desk.used = time.monotonic()
    tokenizer = ready.renderer.tokenizer

    def token_text(token: int) -> str:
        return str(tokenizer.decode([token], skip_special_tokens=False))

    shape = Shape(kind, new_id("chatcmpl" if kind == "chat" else "cmpl"), ask.model, ready.fingerprint, token_text)
    if not prompts:
        raise UsageError("there is no prompt", place="prompt")
    asked = Asked(desk, ready, ask, prompts)
    asked.watch(request)
    if ask.stream:
        # no-store and no buffering, for a proxy that somebody may put before it
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(asked, shape, ask), media_type="text/event-stream", headers=headers)
    texts, finish = [""] * asked.choices, ["stop"] * asked.choices
    logprobs: list[list[TokenLogprob]] = [[] for _ in range(asked.choices)]
    async for choice, event in asked.events():
        if isinstance(event, Delta):
            texts[choice] += event.text
            logprobs[choice] += event.logprobs
        else:
            finish[choice] = event.finish_reason
    return JSONResponse(shape.whole(texts, finish, logprobs, usage(asked.prompt_tokens, asked.tokens)))


async def _stream(asked: Asked, shape: Shape, ask: Ask) -> AsyncIterator[str]:
    try:
        for choice in range(asked.choices if shape.chat else 0):
            yield _line(shape.opening(choice))
        async for choice, event in asked.events():
            if isinstance(event, Done):
                yield _line(shape.chunk(choice, None, event.finish_reason))
            elif event.text or event.logprobs:
                yield _line(shape.chunk(choice, event.text, None, event.logprobs))
        if ask.stream_options is not None and ask.stream_options.include_usage:
            yield _line(shape.usage_chunk(asked.prompt_tokens, asked.tokens))
        yield "data: [DONE]\n\n"
    except WorkbenchError as error:
        yield _line(_told(error)[1])


def _line(body: Any) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _told(error: WorkbenchError) -> tuple[int, dict[str, Any]]:
    """Status and body of a problem."""
    status, kind, code = 500, "server_error", "engine_problem"
    if isinstance(error, NotFound):
        status, kind, code = 404, "invalid_request_error", "model_not_found"
    elif isinstance(error, GenerationProblem) and error.place == "prompt":
        status, kind, code = 400, "invalid_request_error", "context_length_exceeded"
    elif isinstance(error, TemplateProblem | UsageError):
        status, kind, code = 400, "invalid_request_error", "invalid_prompt"
    elif isinstance(error, ModelProblem):
        status, kind, code = 422, "invalid_request_error", "model_problem"
    elif isinstance(error, GenerationProblem) and "closing" in error.what:
        status, code = 503, "closing"
    return status, error_body(error.sentence(), kind, code, error.remedy)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkbenchError)
    status, body = _told(error)
    return JSONResponse(body, status_code=status)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        body = error_body("the body is not valid JSON.", "invalid_request_error", "invalid_value")
        return JSONResponse(body, status_code=400)
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    words = str(first["msg"]).removeprefix("Value error, ")
    shown = repr(first.get("input"))
    value = "" if first["type"] == "missing" or len(shown) > 120 else f" (got {shown})"
    message = f"{place}: {words[:1].lower() + words[1:]}{value}." if place else f"{words}."
    return JSONResponse(error_body(message, "invalid_request_error", "invalid_value"), status_code=400)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(str(error.detail), "invalid_request_error", "not_found" if error.status_code == 404 else None)
    return JSONResponse(body, status_code=error.status_code)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return JSONResponse(error_body(f"the engine failed: {error}", "server_error", "internal"), status_code=500)
