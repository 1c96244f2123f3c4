"""Asking, writing and searching: what the twin is for."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from llm_twin.core.records import Done, Event, Filter, Passage, Passages, TextDelta, Understood, Withdrawn, to_json
from llm_twin.server import examples
from llm_twin.server.citing import Marks
from llm_twin.server.schemas import AnswerReply, AskBody, Filters, HitReply, SearchBody, WriteBody, problems, reply
from llm_twin.server.streaming import Desk, EventStream, begun, unless_left, whole
from llm_twin.twin import Chat, Twin

router = APIRouter(prefix="/v1", tags=["asking"])

_ANSWER = reply(
    AnswerReply, examples.ANSWER, description="The answer, or with `stream` its events.", events=examples.STREAM
)
_FAILURES = (400, 404, 409, 501, 502, 503, 504)


@router.post("/ask", responses={200: _ANSWER, **problems(*_FAILURES)})
async def ask(body: AskBody, request: Request) -> Response:
    """Answer a question from the author's writing, every claim cited; with `stream` as it is made.

    Where the writing does not cover the question the answer says so (`mode` is `abstained`). Without a language model,
    or when it fails, the answer quotes the author (`extractive`).
    """

    def begin() -> Iterator[Event]:
        where = filter_of(twin_of(request), body.filters)
        return _chat(request, body.conversation_id, keep=body.keep).ask(body.question, where=where)

    return await _answer(request, begin, stream=body.stream)


@router.post("/write", responses={200: _ANSWER, **problems(*_FAILURES)})
async def write(body: WriteBody, request: Request) -> Response:
    """Draft a text on a topic in the author's voice, grounded in what they wrote. Needs a language model."""

    def begin() -> Iterator[Event]:
        return _chat(request, None, keep=body.keep).write(body.topic, kind=body.kind, words=body.words)

    return await _answer(request, begin, stream=body.stream)


@router.post("/search", responses={200: reply(list[HitReply], examples.HITS), **problems(400, 404, 503, 504)})
async def search(body: SearchBody, request: Request) -> Response:
    """Find the passages that match best, best first."""
    twin = twin_of(request)

    def find() -> list[dict[str, Any]]:
        where = filter_of(twin, body.filters)
        return [hit.as_json() for hit in twin.search(body.query, k=body.k, where=where, method=body.method)]

    return JSONResponse(await unless_left(request, desk_of(request).search(find)))


def twin_of(request: Request) -> Twin:
    """The twin that this service serves."""
    twin: Twin = request.app.state.twin
    return twin


def user_of(request: Request) -> str:
    """Whose conversations a request adds to: the caller's, by the id of their key."""
    caller = getattr(request.state, "caller", None)
    return caller.id if caller else "local"


def desk_of(request: Request) -> Desk:
    """Where this service does its work."""
    desk: Desk = request.app.state.desk
    return desk


def filter_of(twin: Twin, filters: Filters) -> Filter:
    """What a client restricts, as the twin understands it. Raises `NotFound`, `ConfigError`."""
    return twin.filter(**filters.model_dump())


async def _answer(request: Request, begin: Callable[[], Iterator[Event]], *, stream: bool) -> Response:
    events = desk_of(request).events(begin)
    if stream:
        return EventStream(await unless_left(request, begun(told(events))))
    done = await unless_left(request, whole(events))
    return JSONResponse(done.as_json(), headers={"Server-Timing": _server_timing(done.answer.timings_ms)})


def _chat(request: Request, conversation_id: str | None, *, keep: bool) -> Chat:
    """The caller's conversation; what the settings do not keep, no request can have kept."""
    return twin_of(request).chat(conversation_id, user=user_of(request), keep=None if keep else False)


async def told(events: AsyncGenerator[Event, None]) -> AsyncGenerator[tuple[str, Any], None]:
    """The twin's events under the names and in the shapes of the HTTP stream."""
    passages: dict[int, Passage] = {}
    marks = Marks()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Understood):
                yield "understood", to_json(event)
            elif isinstance(event, Passages):
                passages = {passage.number: passage for passage in event.passages}
                yield "passages", to_json(event)
            elif isinstance(event, TextDelta):
                yield "delta", {"text": event.text}
                for number in marks.new_in(event.text):
                    if number in passages:
                        yield "citation", _source(passages[number])
            elif isinstance(event, Withdrawn):
                marks = Marks()
                yield "withdrawn", {"reason": event.reason}
            elif isinstance(event, Done):
                answer = event.as_json()
                yield "verified", {key: answer.get(key) for key in ("citations", "unsupported", "notes", "guarded")}
                yield "usage", {key: answer[key] for key in ("usage", "timings_ms", "model")}
                yield "done", answer


def _source(passage: Passage) -> dict[str, Any]:
    document = passage.document
    return {
        "number": passage.number,
        "document_id": document.id,
        "title": document.title,
        "url": document.url,
        "published_at": to_json(document.published_at),
    }


def _server_timing(timings_ms: Mapping[str, float]) -> str:
    """Milliseconds per step for a browser's developer tools (W3C Server Timing)."""
    return ", ".join(f"{stage};dur={spent:.1f}" for stage, spent in timings_ms.items() if _TOKEN.fullmatch(stage))


_TOKEN = re.compile(r"[\w-]+", re.ASCII)
