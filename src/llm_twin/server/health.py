"""Whether the service lives, whether it can answer, and what it measured."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from llm_twin.core.records import to_json
from llm_twin.server import examples
from llm_twin.server.asking import desk_of, twin_of
from llm_twin.server.metrics import Metrics
from llm_twin.server.schemas import Alive, Missing, Readiness, reply

router = APIRouter(tags=["health"])

_NOT_READY = reply(
    Readiness,
    {"ready": False, "missing": [{"name": "index", "detail": "nothing is indexed yet", "remedy": "twin sync"}]},
    description="What is missing",
)


@router.get("/healthz", responses={200: reply(Alive, {"alive": True})})
async def healthz() -> JSONResponse:
    """200 while the process lives."""
    return JSONResponse({"alive": True})


@router.get("/readyz", responses={200: reply(Readiness, {"ready": True, "missing": []}), 503: _NOT_READY})
async def readyz(request: Request) -> JSONResponse:
    """200 when questions are answered, else 503 with what is missing and the line that mends it.

    A language model is not asked for: without it the answers quote.
    """
    missing = await _missing(request)
    return JSONResponse(to_json(Readiness(not missing, tuple(missing))), 503 if missing else 200)


async def _missing(request: Request) -> list[Missing]:
    desk = desk_of(request)
    if desk.closing:
        return [Missing("service", "it is being stopped", "twin serve")]
    if not desk.warm.is_set():
        return [Missing("service", "its parts are being loaded", "wait a few seconds")]
    checks = await run_in_threadpool(twin_of(request).ready)
    missing = [Missing(check.name, check.detail, check.remedy) for check in checks if not check.ok]
    if "read" in request.state.caller.scopes:
        return missing
    # Details name folders of this machine, and everybody may ask whether the service is ready.
    return [replace(each, detail="ask with a key to read why") for each in missing]


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": examples.METRICS}}}},
)
async def metrics(request: Request) -> Response:
    """Requests, steps, tokens, queue, streams and what became of the answers, for Prometheus; never anybody's words."""
    measured: Metrics = request.app.state.metrics
    return Response(measured.exposition(), media_type=CONTENT_TYPE_LATEST)
