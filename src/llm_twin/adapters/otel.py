"""Tracing on the OpenTelemetry SDK, kept in a trace store of ours.

The provider is this tracer's own: nothing global is read or set, no exporter is started, and no span leaves the
process except into the store. Spans of a trace are saved together when its root ends, so a process that dies loses at
most the traces that were open. `SilentTracer` is for a twin without tracing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from llm_twin.core.errors import StoreError
from llm_twin.core.ports import ActiveSpan, TraceStore
from llm_twin.core.records import Span

_log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OtelTracer:
    """The `Tracer` port: nests spans through contextvars and keeps every finished trace in `store`.

    A thread sees the open span when it runs in a copy of the context (`contextvars.copy_context().run`, as
    `asyncio.to_thread` does). A store that fails costs the trace and a warning in the log, never the traced work.
    """

    def __init__(self, store: TraceStore) -> None:
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": "llm-twin"}),
            shutdown_on_exit=False,
            meter_provider=NoOpMeterProvider(),
        )
        provider.add_span_processor(_Keeper(store))
        self._tracer = provider.get_tracer("llm_twin")
        # Not OpenTelemetry's current span: under a host's own tracing, ours would become children of spans that our
        # store never sees. One variable per tracer keeps two tracers apart as well.
        self._current: ContextVar[OtelSpan | None] = ContextVar("llm_twin_span", default=None)

    @contextmanager
    def span(self, name: str, **attributes: str | int | float | bool) -> Iterator[ActiveSpan]:
        """See `Tracer.span`."""
        above = self._current.get()
        context = Context() if above is None else set_span_in_context(above, Context())
        started_ns, ticking_ns = time.time_ns(), time.perf_counter_ns()
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=started_ns)
        self._current.set(span)
        try:
            yield _OpenSpan(span)
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}".removesuffix(": ")))
            raise
        finally:
            # `reset` would fail where a generator is resumed in another context, as web servers do while streaming.
            self._current.set(above)
            # The wall clock may jump between start and end; this one does not.
            span.end(started_ns + time.perf_counter_ns() - ticking_ns)


class SilentTracer:
    """The `Tracer` port where tracing is off: spans have the empty trace id and leave nothing behind."""

    def span(self, name: str, **attributes: str | int | float | bool) -> AbstractContextManager[ActiveSpan]:  # noqa: ARG002
        """Run the block and keep nothing."""
        return nullcontext(_SilentSpan())


class _SilentSpan:
    trace_id = ""

    def set(self, **attributes: str | int | float | bool) -> None:
        """Keep nothing."""


class _OpenSpan:
    """The `ActiveSpan` port. The trace id is empty when `OTEL_SDK_DISABLED` turned the SDK off."""

    def __init__(self, span: OtelSpan) -> None:
        context = span.get_span_context()
        self.trace_id = format(context.trace_id, "032x") if context.is_valid else ""
        self._span = span

    def set(self, **attributes: str | int | float | bool) -> None:
        """See `ActiveSpan.set`."""
        self._span.set_attributes(attributes)


class _Keeper(SpanProcessor):
    """Collects the finished spans of each open trace and saves them when its root ends."""

    def __init__(self, store: TraceStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._open: dict[int, list[ReadableSpan]] = {}

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Begin a list for a new trace."""
        if span.parent is None:
            with self._lock:
                self._open[span.get_span_context().trace_id] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span until its root ends; one that outlives its root is saved on its own."""
        trace_id = _identity(span)[0]
        with self._lock:
            if span.parent is not None and trace_id in self._open:
                self._open[trace_id].append(span)
                return
            finished = [*self._open.pop(trace_id, []), span]
        finished.sort(key=lambda one: one.start_time or 0)
        try:
            self._store.save_spans([_record(one) for one in finished])
        except StoreError as error:
            _log.warning("the trace %032x was not kept: %s", trace_id, error)


def _identity(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    return (context.trace_id, context.span_id) if context else (0, 0)


def _record(span: ReadableSpan) -> Span:
    trace_id, span_id = _identity(span)
    started_ns, ended_ns = span.start_time or 0, span.end_time or 0
    return Span(
        trace_id=format(trace_id, "032x"),
        span_id=format(span_id, "016x"),
        name=span.name,
        started_at=_EPOCH + timedelta(microseconds=started_ns // 1000),
        duration_ms=(ended_ns - started_ns) / 1e6,
        parent_id=format(span.parent.span_id, "016x") if span.parent else None,
        attributes=dict(span.attributes or {}),
        error=span.status.description if span.status.status_code is StatusCode.ERROR else None,
    )
