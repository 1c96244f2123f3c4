"""Spans through the real SDK into a real store."""

from __future__ import annotations

import contextvars
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from opentelemetry import trace as otel_trace

from llm_twin.adapters.memory import MemoryTraces
from llm_twin.adapters.otel import OtelTracer, SilentTracer
from llm_twin.adapters.sql import SqlTraces
from llm_twin.core.errors import StoreError
from llm_twin.core.ports import ActiveSpan


@pytest.fixture
def store() -> MemoryTraces:
    return MemoryTraces()


@pytest.fixture
def tracer(store: MemoryTraces) -> OtelTracer:
    return OtelTracer(store)


def test_nested_spans_form_one_trace_with_times_and_attributes(tracer, store):
    before = datetime.now(UTC)
    with tracer.span("ask", question_chars=31) as root:
        with tracer.span("retrieve", k=50) as retrieve:
            retrieve.set(hits=12, best=0.5, cached=False, index="0007")
        with tracer.span("generate"):
            time.sleep(0.01)
    spans = store.trace(root.trace_id)
    assert [span.name for span in spans] == ["ask", "retrieve", "generate"]
    assert [span.parent_id for span in spans] == [None, spans[0].span_id, spans[0].span_id]
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert spans[0].attributes == {"question_chars": 31}
    assert spans[1].attributes == {"k": 50, "hits": 12, "best": 0.5, "cached": False, "index": "0007"}
    assert spans[2].duration_ms >= 10
    assert spans[0].duration_ms >= spans[2].duration_ms
    assert before <= spans[0].started_at <= spans[2].started_at <= datetime.now(UTC)
    assert all(span.error is None for span in spans)


def test_a_span_is_open_to_facts_and_has_the_ids_a_reader_sees(tracer, store):
    with tracer.span("ask") as root:
        assert isinstance(root, ActiveSpan)
        with tracer.span("inside") as inside:
            assert inside.trace_id == root.trace_id
    assert len(root.trace_id) == 32
    assert store.traces()[0].trace_id == root.trace_id


def test_two_roots_are_two_traces(tracer, store):
    with tracer.span("one") as one:
        pass
    with tracer.span("two") as two:
        pass
    assert one.trace_id != two.trace_id
    assert [span.name for span in store.traces()] == ["two", "one"]


def test_nothing_is_kept_before_the_root_ends(tracer, store):
    with tracer.span("ask") as root:
        with tracer.span("retrieve"):
            pass
        assert store.trace(root.trace_id) == []
    assert len(store.trace(root.trace_id)) == 2


def test_an_exception_is_recorded_and_passes_through_unchanged(tracer, store):
    raised = StoreError("disk full")
    with pytest.raises(StoreError) as caught, tracer.span("ask") as root, tracer.span("retrieve"):
        raise raised
    assert caught.value is raised
    assert [span.error for span in store.trace(root.trace_id)] == ["StoreError: disk full"] * 2


def test_a_handled_exception_marks_only_the_span_it_left(tracer, store):
    with tracer.span("ask") as root:
        try:
            with tracer.span("generate"):
                raise TimeoutError
        except TimeoutError:
            pass
    assert [span.error for span in store.trace(root.trace_id)] == [None, "TimeoutError"]


def test_the_span_after_a_failed_one_is_its_sibling(tracer, store):
    with tracer.span("ask") as root:
        with pytest.raises(ValueError, match="no"), tracer.span("first"):
            raise ValueError("no")
        with tracer.span("second"):
            pass
    spans = store.trace(root.trace_id)
    assert [span.parent_id for span in spans] == [None, spans[0].span_id, spans[0].span_id]


def test_worker_threads_in_a_copied_context_join_the_trace(tracer, store):
    def work(number: int) -> None:
        with tracer.span("embed", number=number):
            pass

    with tracer.span("sync") as root, ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(contextvars.copy_context().run, work, number) for number in range(20)]
        for job in jobs:
            job.result()
    spans = store.trace(root.trace_id)
    assert sorted(span.attributes["number"] for span in spans[1:]) == list(range(20))
    assert {span.parent_id for span in spans[1:]} == {spans[0].span_id}


def test_concurrent_traces_do_not_mix(tracer, store):
    ready = threading.Barrier(8)

    def ask(number: int) -> str:
        ready.wait()
        with tracer.span("ask", number=number) as root:
            for _ in range(5):
                with tracer.span("step", number=number):
                    pass
        return root.trace_id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(ask, range(8)))
    for number, trace_id in enumerate(ids):
        assert [span.attributes["number"] for span in store.trace(trace_id)] == [number] * 6


def test_a_span_that_outlives_its_root_is_kept_too(tracer, store):
    goes_on, done = threading.Event(), threading.Event()

    def work() -> None:
        with tracer.span("late"):
            goes_on.wait(10)
        done.set()

    with tracer.span("ask") as root:
        threading.Thread(target=contextvars.copy_context().run, args=(work,)).start()
    goes_on.set()
    assert done.wait(10)
    assert [span.name for span in store.trace(root.trace_id)] == ["ask", "late"]


def test_a_stream_may_be_resumed_in_other_contexts_and_closed_early(tracer, store):
    def stream():
        with tracer.span("answer"):
            yield from "abc"

    pieces = stream()
    assert contextvars.copy_context().run(next, pieces) == "a"
    assert contextvars.copy_context().run(next, pieces) == "b"
    contextvars.copy_context().run(pieces.close)
    assert [(span.name, span.error) for span in store.traces()] == [("answer", "GeneratorExit")]
    with tracer.span("next"):
        pass
    assert len(store.traces()) == 2


def test_spans_of_a_host_that_traces_itself_are_left_alone(tracer, store):
    host = otel_trace.NonRecordingSpan(otel_trace.SpanContext(trace_id=1, span_id=2, is_remote=False))
    with otel_trace.use_span(host), tracer.span("ask"):
        assert otel_trace.get_current_span() is host
    assert [span.parent_id for span in store.traces()] == [None]
    assert store.traces()[0].trace_id != "0" * 31 + "1"


def test_two_tracers_keep_to_their_own_stores(tracer, store):
    other_store = MemoryTraces()
    with tracer.span("outer"), OtelTracer(other_store).span("inner"):
        pass
    assert [span.name for span in store.traces()] == ["outer"]
    assert [span.name for span in other_store.traces()] == ["inner"]


def test_a_failing_store_costs_the_trace_and_a_warning_but_not_the_work(tmp_path, caplog):
    store = SqlTraces(f"sqlite:///{tmp_path}/traces.db")
    with caplog.at_level(logging.WARNING), OtelTracer(store).span("ask", size=float("inf")) as root:
        result = 42
    store.close()
    assert result == 42
    assert root.trace_id in caplog.text
    assert "finite numbers" in caplog.text


def test_a_killed_process_leaves_the_finished_traces(tmp_path):
    url = f"sqlite:///{tmp_path}/traces.db"
    script = """
import os, signal, sys
from llm_twin.adapters.otel import OtelTracer
from llm_twin.adapters.sql import SqlTraces
tracer = OtelTracer(SqlTraces(sys.argv[1]))
with tracer.span("finished"):
    with tracer.span("step"):
        pass
with tracer.span("open"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, url], check=False)
    assert ended.returncode == -9
    store = SqlTraces(url)
    (root,) = store.traces()
    assert [span.name for span in store.trace(root.trace_id)] == ["finished", "step"]
    store.close()


def test_settings_of_the_environment_for_other_exporters_change_nothing(monkeypatch, store):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://192.0.2.1:4318")
    with OtelTracer(store).span("ask"):
        pass
    assert [span.name for span in store.traces()] == ["ask"]
    assert os.environ["OTEL_TRACES_SAMPLER"] == "always_off"


def test_a_person_who_turned_opentelemetry_off_gets_no_trace_and_no_false_id(monkeypatch, store):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with OtelTracer(store).span("ask") as root:
        root.set(hits=1)
    assert root.trace_id == ""
    assert store.traces() == []


def test_the_silent_tracer_keeps_nothing_and_lets_exceptions_pass():
    with SilentTracer().span("ask", k=5) as span:
        span.set(hits=1)
    assert isinstance(span, ActiveSpan)
    assert span.trace_id == ""
    with pytest.raises(KeyError), SilentTracer().span("ask"):
        raise KeyError("k")
