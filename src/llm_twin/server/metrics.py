"""What the service measures of itself, for Prometheus. Numbers and names of routes and steps, never anybody's words."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_twin.core.records import Answer

if TYPE_CHECKING:
    from llm_twin.server.streaming import Line

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The measures of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "twin_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request_s = Histogram(
            "twin_request_seconds", "From a request to the end of its response.", ["route"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._stage_s = Histogram(
            "twin_stage_seconds", "Steps of answers and drafts.", ["stage"], registry=registry, buckets=_SECONDS
        )
        self._first_text_s = Histogram(
            "twin_first_text_seconds", "From the start of an answer to its first text.",
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._answers = Counter(
            "twin_answers", "Answers and drafts by how they came about.", ["mode"], registry=registry
        )
        self._degraded = Counter(
            "twin_answers_degraded", "Answers that quote because the language model failed.", registry=registry
        )
        self._cached = Counter("twin_cache_hits", "Answers that were there already.", ["by"], registry=registry)
        self._guarded = Counter(
            "twin_guarded",
            "What guards found in questions, passages and answers.",
            ["guard", "action"],
            registry=registry,
        )
        self._tokens = Counter("twin_tokens", "Tokens as the model's server counts them.", ["kind"], registry=registry)
        self._refused = Counter("twin_refused", "Requests the service turned down.", ["reason"], registry=registry)
        self._feedback = Counter("twin_feedback", "Feedback given through the service.", ["rating"], registry=registry)
        self._lag_s = Histogram(
            "twin_loop_lag_seconds", "How late the event loop was, looked at ten times a second.",
            registry=registry, buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
        )  # fmt: skip
        self._running = Gauge("twin_running", "Being made now.", ["what"], registry=registry)
        self._waiting = Gauge("twin_waiting", "Waiting for their turn.", ["what"], registry=registry)

    def watch(self, answers: Line, searches: Line) -> None:
        """Report how full these lines are whenever somebody asks."""
        for what, line in (("answers", answers), ("searches", searches)):
            self._running.labels(what).set_function(partial(getattr, line, "running"))
            self._waiting.labels(what).set_function(partial(getattr, line, "waiting"))

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        known = method if method in _METHODS else "other"  # strangers must not make up series
        self._requests.labels(route, known, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def answered(self, answer: Answer, *, with_model: bool) -> None:
        """An answer is complete; `with_model` tells whether a language model should have written it."""
        self._answers.labels(answer.mode).inc()
        if with_model and answer.mode == "extractive":
            self._degraded.inc()
        for finding in answer.guarded:
            self._guarded.labels(finding.guard, finding.action).inc()
        if answer.cached:
            self._cached.labels(answer.cached).inc()
        else:
            self._tokens.labels("prompt").inc(answer.usage.prompt_tokens)
            self._tokens.labels("completion").inc(answer.usage.completion_tokens)
        for stage, spent_ms in answer.timings_ms.items():
            self._stage_s.labels(stage).observe(spent_ms / 1000)

    def first_text(self, seconds: float) -> None:
        """The first text of an answer came after so many seconds."""
        self._first_text_s.observe(seconds)

    async def watch_loop(self) -> None:
        """Report how late the event loop is, for ever: whatever blocks it makes everybody wait."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.1
            await asyncio.sleep(0.1)
            self._lag_s.observe(max(0.0, loop.time() - due))

    def refused(self, reason: str) -> None:
        """A request was turned down; `reason` is one of a few words of ours."""
        self._refused.labels(reason).inc()

    def feedback(self, rating: str) -> None:
        """Somebody rated or edited an answer."""
        self._feedback.labels(rating).inc()

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware: counts and times every request under the template of its route, not under its path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watching)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self.metrics.request(route, scope["method"], status, time.perf_counter() - started)
