"""Looking at what the twin knows and did: documents, status, voice, sources, traces, runs.

These are plain functions: FastAPI runs them in threads, a bounded number at a time.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from llm_twin.core.records import Run, Span, to_json
from llm_twin.server import examples
from llm_twin.server.asking import twin_of
from llm_twin.server.schemas import (
    CoverageReply,
    DocumentReply,
    DocumentsReply,
    StatusReply,
    VoiceReply,
    problems,
    reply,
)
from llm_twin.twin import KindOfSource, Twin

router = APIRouter(prefix="/v1", tags=["reading"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Name = Annotated[str, Path(max_length=200)]
Word = Annotated[str | None, Query(max_length=200)]
Year = Annotated[int | None, Query(ge=1, le=9999)]


@router.get("/documents", responses={200: reply(DocumentsReply, examples.DOCUMENTS), **problems(404, 503)})
def documents(
    request: Request,
    source: Word = None,
    kind: Word = None,
    year: Year = None,
    limit: Limit = 100,
    after: Word = None,
) -> JSONResponse:
    """What was collected, newest first, a page at a time: `next` is the `after` of the next page."""
    page = twin_of(request).documents(source=source, kind=kind, year=year, limit=limit + 1, after=after)
    shown = page[:limit]
    return JSONResponse({"documents": to_json(shown), "next": shown[-1].id if len(page) > limit else None})


@router.get("/documents/{document_id}", responses={200: reply(DocumentReply, examples.DOCUMENT), **problems(404, 503)})
def document(request: Request, document_id: Name) -> JSONResponse:
    """A document with its text, in which the offsets of all citations stand."""
    found = twin_of(request).document(document_id)
    return JSONResponse({**to_json(found.header), "text": found.text})


@router.get("/status", responses={200: reply(StatusReply, examples.STATUS), **problems(503)})
def status(request: Request, brief: bool = False) -> JSONResponse:
    """What is collected and indexed, and how every source ended; `brief` leaves out items and profiles."""
    told = twin_of(request).status().as_json()
    return JSONResponse({**told, "items": [], "left_out": [], "profiles": {}} if brief else told)


@router.get("/coverage", responses={200: reply(CoverageReply, examples.COVERAGE), **problems(503)})
def coverage(request: Request) -> JSONResponse:
    """How many documents there are by source, kind and year, the latest year first; undated ones last."""
    return JSONResponse({"counts": to_json(twin_of(request).holdings())})


@router.get("/voice", responses={200: reply(VoiceReply, examples.VOICE), **problems(503)})
def voice(request: Request) -> JSONResponse:
    """The measured style of every author, and the same measures of what a language model wrote lately."""
    twin = twin_of(request)
    return JSONResponse({"profiles": to_json(twin.status().profiles), "recent": to_json(twin.recent_voice())})


@router.get("/sources", responses={200: reply(list[KindOfSource], examples.SOURCES), **problems()})
def sources() -> JSONResponse:
    """The kinds of sources with an example address and the options each takes."""
    return JSONResponse(to_json(Twin.source_kinds()))


@router.get("/traces", responses={200: reply(list[Span], examples.SPANS), **problems(503)})
def traces(request: Request, limit: Limit = 20) -> JSONResponse:
    """The root spans of the latest traces, newest first."""
    return JSONResponse(to_json(twin_of(request).traces(limit=limit)))


@router.get("/traces/{trace_id}", responses={200: reply(list[Span], examples.SPANS), **problems(404, 503)})
def trace(request: Request, trace_id: Name) -> JSONResponse:
    """Every span of one trace in the order they started; the beginning of its id is enough."""
    return JSONResponse(to_json(twin_of(request).trace(trace_id)))


@router.get("/runs", responses={200: reply(list[Run], [examples.RUN]), **problems(503)})
def runs(request: Request, limit: Limit = 20) -> JSONResponse:
    """The latest runs with what they made of what, newest first."""
    return JSONResponse(to_json(twin_of(request).runs(limit=limit)))
