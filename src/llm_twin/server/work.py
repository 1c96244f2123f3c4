"""Work that takes longer than a request: syncs as jobs, and batches of questions."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from llm_twin.core.cancelling import Cancellation, Cancelled
from llm_twin.core.errors import TwinError, WorkspaceBusy
from llm_twin.core.records import to_json
from llm_twin.server import examples
from llm_twin.server.asking import desk_of, twin_of, user_of
from llm_twin.server.problems import Problem
from llm_twin.server.reading import Limit, Name
from llm_twin.server.schemas import BatchReply, JobReply, SyncBody, problems, reply
from llm_twin.server.streaming import EventStream
from llm_twin.server.talks import sees
from llm_twin.twin import Twin

router = APIRouter(prefix="/v1", tags=["work"])

LOOK_S = 0.2
"""Seconds between two looks at a job that somebody watches."""
RETRY_S = 60.0
"""Seconds after which a batch that could not go on is tried again."""
JSON_LINES = "application/jsonl"

_log = logging.getLogger(__name__)


@router.post("/sync", status_code=202, responses={202: reply(JobReply, examples.JOB), **problems(409, 503)})
def sync(request: Request, body: SyncBody) -> JSONResponse:
    """Begin to collect and index what changed, in every source of twin.toml or only in those named; see its job.

    One sync runs at a time: 409 names the one that does. Answers come from the old index until the new one is whole.
    """
    desk_of(request).check_open()
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


# --- batches --------------------------------------------------------------------------------------------------------

_LINES = {
    "requestBody": {
        "required": True,
        "content": {JSON_LINES: {"schema": {"type": "string"}, "example": examples.QUESTIONS}},
    }
}
_BATCH = reply(BatchReply, examples.BATCH)
_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One result a line, in the order of the questions; `error` where there is no answer",
        "content": {JSON_LINES: {"schema": {"type": "string"}, "example": examples.RESULTS}},
    }
}


@router.post("/batches", status_code=202, responses={202: _BATCH, **problems(503)}, openapi_extra=_LINES)
async def begin_batch(request: Request) -> JSONResponse:
    """Have many questions answered, one JSON object a line; a restart goes on where it was.

    A line that is no question becomes an error among the results.
    """
    desk_of(request).check_open()
    lines = (await request.body()).split(b"\n")
    batch = await run_in_threadpool(twin_of(request).batches.start, lines, user=user_of(request))
    request.app.state.batch_worker.wake()
    return JSONResponse(to_json(batch), 202, headers={"Location": f"/v1/batches/{batch.id}"})


@router.get("/batches", responses={200: reply(list[BatchReply], [examples.BATCH]), **problems(503)})
def batches(request: Request) -> JSONResponse:
    """The caller's batches, the latest first."""
    return JSONResponse(to_json(twin_of(request).batches.all(user=sees(request))))


@router.get("/batches/{batch_id}", responses={200: _BATCH, **problems(404, 503)})
def batch(request: Request, batch_id: Name) -> JSONResponse:
    """How far a batch is."""
    return JSONResponse(to_json(twin_of(request).batches.get(batch_id, user=sees(request))))


@router.get(
    "/batches/{batch_id}/results", response_class=StreamingResponse, responses={**_RESULTS, **problems(404, 503)}
)
def results(request: Request, batch_id: Name) -> StreamingResponse:
    """What is there of the results, one a line."""
    found = twin_of(request).batches.results(batch_id, user=sees(request))
    return StreamingResponse(_lines(found), media_type=JSON_LINES)


@router.delete("/batches/{batch_id}", responses={200: _BATCH, **problems(404, 503)})
def cancel_batch(request: Request, batch_id: Name) -> JSONResponse:
    """Ask no more of a batch; what was answered stays."""
    return JSONResponse(to_json(twin_of(request).batches.cancel(batch_id, user=sees(request))))


def _lines(found: Iterator[dict[str, Any]]) -> Iterator[str]:
    while some := list(islice(found, 100)):  # each piece is a change of threads
        yield "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in some)


class BatchWorker:
    """Works on the batches, one after the other in a thread, whoever began them and in whichever process."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        self._woken = threading.Event()
        self._cancellation = Cancellation()
        self._thread = threading.Thread(target=self._run, name="twin-batches", daemon=True)

    def start(self) -> None:
        """Go on with what an earlier process left."""
        self._thread.start()

    def wake(self) -> None:
        """Look for a new batch."""
        self._woken.set()

    def stop(self, *, wait_s: float) -> None:
        """Stop at once, leaving the questions that are being answered for the next start; wait so long for that."""
        self._cancellation.cancel()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _run(self) -> None:
        with suppress(Cancelled):
            while not self._cancellation.wanted:
                self._cancellation.run(self._work)
                self._woken.wait(RETRY_S)
                self._woken.clear()

    def _work(self) -> None:
        with _tried_again("the list of batches"):
            for each in self._twin.batches.unfinished():
                with _tried_again(f"batch {each.id}"), suppress(WorkspaceBusy):  # another process is at work on it
                    self._twin.batches.run(each.id)


@contextmanager
def _tried_again(what: str) -> Iterator[None]:
    """Log what fails, which is tried again later: it takes neither the other batches' turn nor the worker along."""
    try:
        yield
    except TwinError as error:
        _log.warning("%s waits for %.0f s: %s", what, RETRY_S, error)
    except Exception:
        _log.exception("%s met a mistake of ours and waits for %.0f s", what, RETRY_S)
