"""Steps, pipelines, and the report that accounts for every item.

A step takes an iterable of records and yields records; where it refuses one it yields `Dropped` with a reason instead.
A pipeline is a list of steps. A runner executes it: `LocalRunner` streams items through in this process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_twin.core.records import fingerprint


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item a step refused, by name, and why."""

    item: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """A named transformation of a stream.

    `apply` maps an iterable of records to records or `Dropped`. `version` is raised by hand when the code changes what
    it yields; together with `parameters` it decides whether earlier results may be reused.
    """

    name: str
    apply: Callable[[Iterable[Any]], Iterable[Any]]
    version: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Equal for two steps that do the same to the same input."""
        return fingerprint(self.name, self.version, sorted(self.parameters.items()))


@dataclass(slots=True)
class StepReport:
    """What one step did: items in and out, how many were dropped for which reason, and its own seconds."""

    name: str
    taken: int = 0
    given: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json` and for the run's record."""
        return {
            "name": self.name,
            "in": self.taken,
            "out": self.given,
            "dropped": dict(self.dropped),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class RunReport:
    """The account of a run: one `StepReport` per step in order, and every dropped item by name."""

    steps: list[StepReport] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def step(self, name: str) -> StepReport:
        """The report of the step of that name, begun if it is new."""
        for report in self.steps:
            if report.name == name:
                return report
        self.steps.append(StepReport(name))
        return self.steps[-1]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json` and for the run's record."""
        return {
            "steps": [step.as_dict() for step in self.steps],
            "dropped": [{"item": drop.item, "reason": drop.reason} for drop in self.dropped],
        }


class LocalRunner:
    """Streams items through the steps in this process, one pull at a time, keeping the account in `report`."""

    def run(self, steps: Sequence[Step], items: Iterable[Any], report: RunReport) -> Iterator[Any]:
        """Yield what comes out of the last step. An exception of a step passes through unchanged."""
        stream: Iterable[Any] = items
        upstream: _Meter | None = None
        for step in steps:
            upstream = _Meter(step, stream, report, upstream)
            stream = upstream
        return iter(stream)


class _Meter:
    """One step at work: counts what it takes and gives, keeps its drops, and times it without its upstream."""

    def __init__(self, step: Step, source: Iterable[Any], report: RunReport, upstream: _Meter | None) -> None:
        self.report = report.step(step.name)
        self.run = report
        self.upstream = upstream
        self.outputs = step.apply(self._count(source))
        self.total_s = 0.0

    def _count(self, source: Iterable[Any]) -> Iterator[Any]:
        for item in source:
            self.report.taken += 1
            yield item

    def __iter__(self) -> Iterator[Any]:
        outputs = iter(self.outputs)
        while True:
            upstream_before = self.upstream.total_s if self.upstream else 0.0
            started = time.perf_counter()
            try:
                item = next(outputs, _END)
            finally:
                spent = time.perf_counter() - started
                self.total_s += spent
                upstream_spent = (self.upstream.total_s - upstream_before) if self.upstream else 0.0
                self.report.seconds += spent - upstream_spent
            if item is _END:
                return
            if isinstance(item, Dropped):
                self.report.dropped[item.reason] += 1
                self.run.dropped.append(item)
                continue
            self.report.given += 1
            yield item


_END = object()
