"""Looking at what the twin knows and did: documents, status, voice, sources, traces, runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from llm_twin.core.records import to_json
from llm_twin.twin import Twin

router = APIRouter(prefix="/v1", tags=["reading"])

Limit = Annotated[int, Query(ge=1, le=1000)]


def twin_of(request: Request) -> Twin:
    """The twin that this service serves."""
    twin: Twin = request.app.state.twin
    return twin


@router.get("/documents")
def documents(
    request: Request,
    source: str | None = None,
    kind: str | None = None,
    year: int | None = None,
    limit: Limit = 100,
    after: str | None = None,
) -> JSONResponse:
    """What was collected, newest first, a page at a time: `next` is the `after` of the next page."""
    page = twin_of(request).documents(source=source, kind=kind, year=year, limit=limit + 1, after=after)
    shown = page[:limit]
    return JSONResponse({"documents": to_json(shown), "next": shown[-1].id if len(page) > limit else None})


@router.get("/documents/{document_id}")
def document(request: Request, document_id: str) -> JSONResponse:
    """A document with its text, in which the offsets of all citations stand."""
    found = twin_of(request).document(document_id)
    return JSONResponse({**to_json(found.header), "text": found.text})


@router.get("/status")
def status(request: Request) -> JSONResponse:
    """What is collected and indexed, and how every source ended."""
    return JSONResponse(twin_of(request).status().as_json())


@router.get("/voice")
def voice(request: Request) -> JSONResponse:
    """The measured style of every author."""
    return JSONResponse({"profiles": to_json(twin_of(request).warehouse.profiles()), "recent": {}})


@router.get("/sources")
def sources() -> JSONResponse:
    """The kinds of sources with an example address and the options each takes."""
    return JSONResponse(to_json(Twin.source_kinds()))


@router.get("/traces")
def traces(request: Request, limit: Limit = 20) -> JSONResponse:
    """The root spans of the latest traces, newest first."""
    return JSONResponse(to_json(twin_of(request).traces(limit=limit)))


@router.get("/traces/{trace_id}")
def trace(request: Request, trace_id: str) -> JSONResponse:
    """Every span of one trace; the beginning of its id is enough."""
    return JSONResponse(to_json(twin_of(request).trace(trace_id)))


@router.get("/runs")
def runs(request: Request, limit: Limit = 20) -> JSONResponse:
    """The latest runs with what they made of what, newest first."""
    found: Any = to_json(twin_of(request).runs(limit=limit))
    return JSONResponse(found)
