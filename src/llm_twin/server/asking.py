"""Asking, writing and searching: what the twin is for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from llm_twin.core.records import (
    Done,
    Event,
    Filter,
    Passage,
    Passages,
    TextDelta,
    Understood,
    Withdrawn,
    to_json,
)
from llm_twin.server.schemas import AskBody, Filters, SearchBody, WriteBody
from llm_twin.server.streaming import EventStream, unless_left, whole
from llm_twin.server.talks import user_of
from llm_twin.twin import Chat, Twin

router = APIRouter(prefix="/v1", tags=["asking"])


@router.post("/ask")
async def ask(body: AskBody, request: Request) -> Response:
    """Answer a question from the author's writing, every claim cited; with `stream` as server-sent events."""
    twin: Twin = request.app.state.twin

    def begin() -> Iterator[Event]:
        where = filter_of(twin, body.filters)
        return _chat(request, body.conversation_id, keep=body.keep).ask(body.question, where=where)

    return await _reply(request, begin, body.stream)


@router.post("/write")
async def write(body: WriteBody, request: Request) -> Response:
    """Draft a text on a topic in the author's voice, grounded in what they wrote. Needs a language model."""

    def begin() -> Iterator[Event]:
        return _chat(request, None, keep=body.keep).write(body.topic, kind=body.kind, words=body.words)

    return await _reply(request, begin, body.stream)


@router.post("/search")
async def search(body: SearchBody, request: Request) -> Response:
    """Find the passages that match best, best first."""
    twin: Twin = request.app.state.twin

    def find() -> Any:
        where = filter_of(twin, body.filters)
        hits = twin.search(body.query, k=body.k, where=where, method=body.method)
        return [hit.as_json() for hit in hits]

    return JSONResponse(await run_in_threadpool(find))


def filter_of(twin: Twin, filters: Filters) -> Filter:
    """What a client restricts, as the twin understands it. Raises `NotFound`, `ConfigError`."""
    return twin.filter(**filters.model_dump())


async def _reply(request: Request, begin: Callable[[], Iterator[Event]], stream: bool) -> Response:
    events = request.app.state.desk.events(begin)
    if stream:
        return EventStream(told(events))
    return JSONResponse((await unless_left(request, whole(events))).as_json())


def _chat(request: Request, conversation_id: str | None, *, keep: bool) -> Chat:
    """The caller's conversation; what the settings do not keep, no request can have kept."""
    twin: Twin = request.app.state.twin
    return twin.chat(conversation_id, user=user_of(request), keep=None if keep else False)


async def told(events: AsyncIterator[Event]) -> AsyncIterator[tuple[str, Any]]:
    """The twin's events under the names and in the shapes of the HTTP stream."""
    passages: dict[int, Passage] = {}
    text = ""
    cited: set[int] = set()
    async with aclosing(events) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Understood):
                yield "understood", to_json(event)
            elif isinstance(event, Passages):
                passages = {passage.number: passage for passage in event.passages}
                yield "passages", to_json(event)
            elif isinstance(event, TextDelta):
                yield "delta", {"text": event.text}
                text += event.text
                for number in _cited(text):
                    if number in passages and number not in cited:
                        cited.add(number)
                        yield "citation", _source(passages[number])
            elif isinstance(event, Withdrawn):
                text = ""
                cited.clear()
                yield "withdrawn", {"reason": event.reason}
            elif isinstance(event, Done):
                answer = event.as_json()
                yield "verified", {key: answer.get(key) for key in ("citations", "unsupported", "notes", "guarded")}
                yield "usage", {key: answer[key] for key in ("usage", "timings_ms", "model")}
                yield "done", answer


def _cited(text: str) -> Iterator[int]:
    """Numbers in square brackets, as in [2] and [1, 3], in order."""
    for match in re.finditer(r"\[(\d+(?:\s*,\s*\d+)*)\]", text):
        yield from (int(number) for number in match[1].split(","))


def _source(passage: Passage) -> dict[str, Any]:
    document = passage.document
    return {
        "number": passage.number,
        "document_id": document.id,
        "title": document.title,
        "url": document.url,
        "published_at": to_json(document.published_at),
    }
