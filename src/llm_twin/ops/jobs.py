"""Jobs: a sync that somebody asked the service for, one at a time, with its progress, kept beyond a restart.

A job is recorded when it begins and when it ends. Its progress lives in this process only; a job that is recorded as
running, and that nobody runs any more, is shown as interrupted.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from llm_twin.core import cancelling
from llm_twin.core.cancelling import Cancellation, Cancelled
from llm_twin.core.errors import NotFound, WorkspaceBusy
from llm_twin.core.ports import Progress, RecordStore
from llm_twin.core.records import from_json, to_json

COLLECTION = "jobs"
MOST_KEPT = 100
"""Finished jobs that are kept; what each sync did stands in the runs as well."""


@dataclass(frozen=True, slots=True)
class JobStep:
    """How far one step is. `total` is None where nobody knows."""

    step: str
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One sync. `report` is that of `twin sync --json`; `problem` and `detail` tell the error it failed with."""

    id: str
    started_at: datetime
    status: Literal["running", "done", "failed", "interrupted"] = "running"
    addresses: tuple[str, ...] = ()
    rebuild: bool = False
    finished_at: datetime | None = None
    progress: tuple[JobStep, ...] = ()
    report: Mapping[str, Any] | None = None
    problem: str = ""
    detail: str = ""


class Sync(Protocol):
    """What a job runs: `Twin.sync`, its report as JSON."""

    def __call__(self, addresses: Sequence[str], *, rebuild: bool, progress: Progress) -> Mapping[str, Any]:
        """Sync, telling how far it is."""
        ...


class Jobs:
    """The jobs of a workspace. `busy` tells whether anybody writes to it now, in whatever process."""

    def __init__(
        self,
        store: RecordStore,
        sync: Sync,
        *,
        busy: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: secrets.token_hex(6),
    ) -> None:
        self._store = store
        self._sync = sync
        self._busy = busy
        self._now = now
        self._new_id = new_id
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._steps = _Steps()
        self._cancellation = Cancellation()
        self._thread: threading.Thread | None = None

    def begin(self, addresses: Sequence[str] = (), *, rebuild: bool = False) -> Job:
        """Start a sync in a thread. Raises `WorkspaceBusy`, naming it, while another one of this service runs."""
        with self._lock:
            if self._job is not None:
                raise WorkspaceBusy(
                    f"job {self._job.id} has been syncing since {self._job.started_at:%H:%M:%S} UTC; watch it, or "
                    "wait until it has ended"
                )
            job = Job(self._new_id(), self._now(), addresses=tuple(addresses), rebuild=rebuild)
            self._store.put(COLLECTION, job.id, to_json(job))
            self._job, self._steps, self._cancellation = job, _Steps(), Cancellation()
            # A daemon: a sync may be killed at any moment without harm, so it must not keep a process from ending.
            self._thread = threading.Thread(target=self._run, args=(job,), name="twin-job", daemon=True)
            self._thread.start()
        return job

    def job(self, job_id: str) -> Job:
        """A job as it is now. Raises `NotFound`."""
        if ours := self._ours(job_id):
            return ours
        data = self._store.record(COLLECTION, job_id)
        if data is None:
            raise NotFound(f"there is no job {job_id!r}; GET /v1/jobs lists them")
        return self._as_it_is(from_json(Job, data))

    def all(self, *, limit: int | None = None) -> list[Job]:
        """The latest jobs, newest first."""
        records = self._store.records(COLLECTION, limit=limit)
        return [self._ours(job_id) or self._as_it_is(from_json(Job, data)) for job_id, data in records]

    def stop(self, *, wait_s: float) -> None:
        """End the running job, if there is one, after the item it is at; wait so long for that."""
        with self._lock:
            thread = self._thread
            self._cancellation.cancel()
        if thread is not None:
            thread.join(wait_s)

    def _run(self, job: Job) -> None:
        try:
            report = self._cancellation.run(
                lambda: self._sync(job.addresses, rebuild=job.rebuild, progress=self._steps)
            )
            ended = replace(job, status="done", report=report)
        except Cancelled:
            ended = replace(job, status="interrupted", detail="the service was stopped; sync again to go on from here")
        except Exception as error:
            ended = replace(job, status="failed", problem=type(error).__name__, detail=str(error))
        ended = replace(ended, finished_at=self._now(), progress=self._steps.now())
        try:
            self._store.put(COLLECTION, ended.id, to_json(ended))
            self._store.drop(COLLECTION, [old for old, _ in self._store.records(COLLECTION)[MOST_KEPT:]])
        finally:
            with self._lock:
                self._job = None

    def _ours(self, job_id: str) -> Job | None:
        """The job that runs in this process now, if it is that one."""
        with self._lock:
            if self._job is None or self._job.id != job_id:
                return None
            return replace(self._job, progress=self._steps.now())

    def _as_it_is(self, job: Job) -> Job:
        """A job as recorded; one that nobody runs any more is recorded as interrupted first."""
        if job.status != "running" or self._busy():
            return job
        if ours := self._ours(job.id):
            return ours
        # It may have ended since it was read.
        data = self._store.record(COLLECTION, job.id)
        latest = from_json(Job, data) if data is not None else job
        if latest.status != "running":
            return latest
        ended = replace(
            latest, status="interrupted", finished_at=self._now(), detail="the service that ran it ended; sync again"
        )
        self._store.put(COLLECTION, ended.id, to_json(ended))
        return ended


class _Steps:
    """The `Progress` of a job: counts, and stops the sync between two items when it is cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, JobStep] = {}

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """See `Progress.step`."""
        with self._lock:
            self._steps[name] = JobStep(name, 0, total)

        def advance(count: int) -> None:
            cancelling.check()
            with self._lock:
                before = self._steps[name]
                self._steps[name] = replace(before, done=before.done + count)

        yield advance

    def now(self) -> tuple[JobStep, ...]:
        """Every step so far, in the order they began."""
        with self._lock:
            return tuple(self._steps.values())
