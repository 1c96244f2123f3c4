"""A language model of this machine behind OpenAI's protocol: `POST /v1/chat/completions`, `GET /v1/models`, `/healthz`.

The service of a model, not of a twin: `twin llm serve` starts it as a child process,

    python -m llm_twin.server.llm MODEL.gguf --name tiny --port 8080

A reply's pieces come from the engine's own thread into a queue of the event loop; a client that leaves cancels its
reply. What a request asks for and is not built is refused, never ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_twin import llm
from llm_twin.core.errors import ModelBusy, ModelError, ReplyRefused, TwinError
from llm_twin.core.records import Delta, Message, ReplyRequest, Usage

if TYPE_CHECKING:
    from llm_twin.llm import ReplyWriter

MAX_BODY_BYTES = 10_000_000
"""Largest request; no context of a model on one processor is longer."""
LOOK_S = 0.5
"""So often it is looked after a client that waits, whether it is still there."""
GRACE_S = 5
"""Seconds that replies may take to end when the server is told to stop."""


class Part(BaseModel):
    """A piece of a message; text is the only kind."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """A message. The roles of tools are not built."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def message(self) -> Message:
        """The same as a record; `developer` is the newer word for `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class Schema(BaseModel):
    """A JSON Schema with the name that OpenAI wants it to have."""

    name: str = ""
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What the reply is."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: Schema | None = None


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool = False


_Nothing = Annotated[float, Field(ge=0, le=0)] | None


class ChatRequest(BaseModel):
    """What a chat completion is asked with. Fields with one possible value are those that do nothing else here."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = Field(default=None, max_length=100)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: _Nothing = None
    presence_penalty: _Nothing = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    user: str | None = None
    store: Literal[False] | None = None
    metadata: dict[str, Any] | None = None

    def request(self) -> ReplyRequest:
        """What of it the model is asked. Raises `ReplyRefused` for a schema that is announced and missing."""
        return ReplyRequest(
            messages=tuple(turn.message() for turn in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            schema=self._schema(),
        )

    def _schema(self) -> dict[str, Any] | None:
        wanted = self.response_format or ResponseFormat()
        if wanted.type == "json_object":
            return {"type": "object"}
        if wanted.type == "text":
            return None
        if wanted.json_schema is None:
            raise ReplyRefused(
                "response_format is of type json_schema and has no json_schema; add one", field="response_format"
            )
        return wanted.json_schema.json_schema


def create_app(model: ReplyWriter, *, api_key: str = "") -> FastAPI:
    """The application that serves `model`, to those who send `api_key` where there is one. It closes the model."""

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(model.close)

    # No pages about itself: they would load scripts from elsewhere.
    app = FastAPI(lifespan=closing, openapi_url=None, docs_url=None, redoc_url=None)
    started = int(time.time())
    _answer_errors(app)
    app.add_middleware(_Guard, api_key=api_key)

    @app.get("/healthz")
    async def healthz() -> Response:
        alive = model.alive()
        return JSONResponse({"status": "ok" if alive else "stopped", "model": model.name}, 200 if alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = {"id": model.name, "object": "model", "created": started, "owned_by": "llm-twin"}
        return {"object": "list", "data": [{**listed, "max_model_len": model.context}]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        if asked.model not in ("", model.name):
            return _error(
                404, f"there is no model {asked.model!r} here, but {model.name!r}; name that", code="model_not_found"
            )
        reply = _Reply(model, asked)
        await reply.begin()
        if asked.stream:
            return _EventStream(reply, request)
        return JSONResponse(await reply.whole(request))

    return app


class _Guard:
    """Turns away, before a byte of their bodies is read, requests without the key and those that are too large."""

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._api_key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        sent = headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self._api_key and scope["path"].startswith("/v1/") and not hmac.compare_digest(sent, self._api_key):
            return _error(401, "the API key is missing or wrong; send it as `Authorization: Bearer KEY`", code="no_key")
        size = headers.get("content-length", "")
        if scope["method"] == "POST" and (not size.isdecimal() or int(size) > MAX_BODY_BYTES):
            told = f"{size or 'an unknown number of'} bytes are not taken; send {MAX_BODY_BYTES:,} at most, and say so"
            return _error(413, told, code="too_large")
        return None


class _Reply:
    """One reply: begun in the model, its pieces in a queue of the event loop, shaped as OpenAI does."""

    def __init__(self, model: ReplyWriter, asked: ChatRequest) -> None:
        self._model = model
        self._asked = asked
        self._pieces: asyncio.Queue[Delta | ModelError] = asyncio.Queue()
        self.cancel: Callable[[], None] = lambda: None
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.name}

    async def begin(self) -> None:
        """Ask the model; raises `ReplyRefused` and `ModelBusy` while the status can still say so."""
        loop = asyncio.get_running_loop()

        def deliver(piece: Delta | ModelError) -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self.cancel = await run_in_threadpool(self._model.write, self._asked.request(), deliver)

    async def whole(self, request: Request) -> dict[str, Any]:
        """The reply in one piece. Raises `ModelError` when it fails."""
        text, last = "", Delta()
        async for piece in self._read(request):
            text += piece.text
            last = piece
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": last.finish_reason, "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(last.usage)}

    async def events(self, request: Request) -> AsyncIterator[bytes]:
        """The reply as server-sent events; an error becomes the last of them."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async with aclosing(self._read(request)) as pieces:
                async for piece in pieces:
                    if piece.text:
                        yield self._chunk({"content": piece.text})
                    if piece.finish_reason:
                        yield self._chunk({}, piece.finish_reason)
                        if self._asked.stream_options and self._asked.stream_options.include_usage:
                            body = {**self._head, "object": "chat.completion.chunk", "choices": []}
                            yield _event({**body, "usage": _usage(piece.usage)})
        except ModelError as error:
            yield _event(_body(error))
        yield b"data: [DONE]\n\n"

    async def _read(self, request: Request) -> AsyncGenerator[Delta]:
        """The pieces until the last one. Whoever stops reading, or leaves while waiting, cancels the reply."""
        looked = time.monotonic()
        try:
            while True:
                if time.monotonic() - looked >= LOOK_S:
                    looked = time.monotonic()
                    if await request.is_disconnected():
                        return
                try:
                    async with asyncio.timeout(LOOK_S):
                        piece = await self._pieces.get()
                except TimeoutError:
                    continue
                if isinstance(piece, ModelError):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            self.cancel()

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def _usage(usage: Usage | None) -> dict[str, int]:
    read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class _EventStream(StreamingResponse):
    """The events of a reply, which is cancelled however this ends, also before its first event."""

    def __init__(self, reply: _Reply, request: Request) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(reply.events(request), media_type="text/event-stream", headers=headers)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.cancel()


# --- errors, as OpenAI words them -----------------------------------------------------------------------------------


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ModelError)
    async def failed(_: Request, error: ModelError) -> Response:
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, ModelBusy) else None
        return JSONResponse(_body(error), _status(error), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Where several shapes are possible, the innermost complaint is about the one that was meant.
        first = max(error.errors(), key=lambda each: len(each["loc"]))
        field = ".".join(str(part) for part in first["loc"][1:]) or "body"
        told = "is not supported here" if first["type"] == "extra_forbidden" else first["msg"].lower()
        return _error(400, f"{field}: {told}; change it or leave it out", field=field, code="invalid_value")

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, f"{error.detail}; there is POST /v1/chat/completions", code="not_found")


def _status(error: ModelError) -> int:
    if isinstance(error, ReplyRefused):
        return 400
    return 429 if isinstance(error, ModelBusy) else 500


def _body(error: ModelError) -> dict[str, Any]:
    field, code = (error.field, error.code) if isinstance(error, ReplyRefused) else (None, None)
    kind = {400: "invalid_request_error", 429: "rate_limit_error", 500: "server_error"}[_status(error)]
    return {"error": {"message": str(error), "type": kind, "param": field, "code": code}}


def _error(status: int, message: str, *, code: str, field: str | None = None) -> JSONResponse:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": field, "code": code}}, status)


# --- the program ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Load the model, then serve it until told to stop. The API key comes in the environment, where `ps` shows none."""
    parser = argparse.ArgumentParser(prog="llm_twin.server.llm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a GGUF file, or a folder in OpenVINO's format")
    parser.add_argument("--name", required=True, help="what clients call the model")
    parser.add_argument("--host", default=llm.HOST)
    parser.add_argument("--port", type=int, default=llm.PORT)
    parser.add_argument("--parallel", type=int, help="replies written at once")
    options = parser.parse_args()
    try:
        model = llm.writer(options.model, name=options.name, parallel=options.parallel)
    except TwinError as error:
        sys.exit(f"{parser.prog}: {error}")
    app = create_app(model, api_key=os.environ.pop("LLM_TWIN_SERVER_KEY", ""))
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    main()
