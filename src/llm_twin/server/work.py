"""Work that takes longer than a request: syncs as jobs. Batches of questions follow the same pattern."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from llm_twin.core.records import to_json
from llm_twin.server import examples
from llm_twin.server.asking import twin_of
from llm_twin.server.problems import Problem
from llm_twin.server.reading import Limit, Name
from llm_twin.server.schemas import JobReply, SyncBody, problems, reply
from llm_twin.server.streaming import EventStream
from llm_twin.twin import Twin

router = APIRouter(prefix="/v1", tags=["work"])

LOOK_S = 0.2
"""Seconds between two looks at a job that somebody watches."""


@router.post("/sync", status_code=202, responses={202: reply(JobReply, examples.JOB), **problems(409, 503)})
def sync(request: Request, body: SyncBody) -> JSONResponse:
    """Begin to collect and index what changed, in every source of twin.toml or only in those named; see its job.

    One sync runs at a time: 409 names the one that does. Answers come from the old index until the new one is whole.
    """
    job = twin_of(request).jobs.begin(body.addresses, rebuild=body.rebuild)
    return JSONResponse(to_json(job), 202, headers={"Location": f"/v1/jobs/{job.id}"})


@router.get("/jobs", responses={200: reply(list[JobReply], [examples.JOB]), **problems(503)})
def jobs(request: Request, limit: Limit = 20) -> JSONResponse:
    """The latest jobs, newest first."""
    return JSONResponse(to_json(twin_of(request).jobs.all(limit=limit)))


_JOB = reply(JobReply, examples.JOB, description="The job, or with `stream` its events.", events=examples.JOB_STREAM)


@router.get("/jobs/{job_id}", responses={200: _JOB, **problems(404, 503)})
async def job(request: Request, job_id: Name, stream: Annotated[bool, Query()] = False) -> Response:
    """A job as it is now; with `stream` its progress until it has ended, as server-sent events."""
    twin = twin_of(request)
    now = await run_in_threadpool(twin.jobs.job, job_id)
    return EventStream(_watched(twin, job_id)) if stream else JSONResponse(to_json(now))


async def _watched(twin: Twin, job_id: str) -> AsyncGenerator[tuple[str, Any], None]:
    told: dict[str, Any] = {}
    while True:
        now = await run_in_threadpool(twin.jobs.job, job_id)
        for step in now.progress:
            if told.get(step.step) != step:
                told[step.step] = step
                yield "progress", to_json(step)
        if now.status == "failed":
            yield "error", Problem(now.problem, "The sync failed", 500, now.detail).as_json()
            return
        if now.status != "running":
            yield "done", to_json(now)
            return
        await asyncio.sleep(LOOK_S)
