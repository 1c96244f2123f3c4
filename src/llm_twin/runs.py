"""Runs: what a pipeline did, with which settings, from what to what; kept in the warehouse."""

from __future__ import annotations

import importlib.metadata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_twin.core.pipeline import Dropped
from llm_twin.core.records import Run, to_json

if TYPE_CHECKING:
    from llm_twin.core import ports
    from llm_twin.parts import Parts


@contextmanager
def recorded(parts: Parts, pipeline: str) -> Iterator[dict[str, Any]]:
    """Record a run: begun, finished or failed, with what the block puts into the result."""
    for earlier in parts.warehouse.runs(limit=20):
        if earlier.status == "running":  # we hold the writer's lock, so whoever began it is gone
            parts.warehouse.save_run(replace(earlier, status="interrupted"))
    run = Run(
        id=uuid.uuid4().hex,
        pipeline=pipeline,
        started_at=datetime.now(UTC),
        code_version=importlib.metadata.version("llm-twin"),
        settings={setting.key: to_json(setting.value) for setting in parts.loaded.explain()},
    )
    parts.warehouse.save_run(run)
    result: dict[str, Any] = {"id": run.id}
    try:
        yield result
    except BaseException as error:
        report = {"error": str(error) or type(error).__name__}
        ended = replace(run, finished_at=datetime.now(UTC), report=report)
        stopped = not isinstance(error, Exception)  # Ctrl-C, not a failure
        parts.warehouse.save_run(replace(ended, status="interrupted" if stopped else "failed"))
        raise
    del result["id"]
    parts.warehouse.save_run(replace(run, status="done", finished_at=datetime.now(UTC), **result))


def left_out(log: ports.RunLog) -> tuple[Dropped, ...]:
    """Documents that the last finished sync left out of the index."""
    for run in log.runs(limit=50):
        if run.pipeline == "sync" and run.status == "done":
            return tuple(Dropped(**drop) for drop in run.outputs.get("left_out", ()))
    return ()
