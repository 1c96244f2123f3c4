"""Every trace store keeps these promises: in memory, on SQLite, on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from llm_twin.core.errors import NotFound
from llm_twin.core.records import Span

NOON = datetime(2026, 3, 14, 12, 0, 0, 123456, tzinfo=UTC)
FIRST, SECOND, THIRD = "a1" * 16, "a2" * 16, "b3" * 16


def make_span(trace_id: str, span_id: str, *, after_ms: float = 0, parent: str | None = None) -> Span:
    return Span(trace_id, span_id, f"step {span_id}", NOON + timedelta(milliseconds=after_ms), 1.25, parent_id=parent)


def test_a_new_store_has_no_traces(traces):
    assert traces.traces() == []
    assert traces.trace(FIRST) == []
    assert traces.trace("") == []
    traces.save_spans([])
    assert traces.traces() == []


def test_a_span_comes_back_equal_with_every_field(traces):
    span = replace(
        make_span(FIRST, "1"),
        attributes={"hits": 12, "score": 0.25, "model": "local 🧵", "cached": True, "odd": "\x00\ud83e"},
        error="StoreError: disk full",
        duration_ms=1234.5678,
    )
    traces.save_spans([span])
    assert traces.trace(FIRST) == [span]


def test_spans_come_in_the_order_they_started_whatever_order_they_ended_in(traces):
    root, early, late = (
        make_span(FIRST, "1"),
        make_span(FIRST, "9", after_ms=1, parent="1"),
        make_span(FIRST, "5", after_ms=2, parent="1"),
    )
    traces.save_spans([late, early, root])
    assert traces.trace(FIRST) == [root, early, late]


def test_spans_of_one_microsecond_keep_the_order_they_were_saved_in(traces):
    spans = [make_span(FIRST, name, parent=None if name == "9" else "9") for name in ("9", "5", "7", "1")]
    traces.save_spans(spans)
    assert traces.trace(FIRST) == spans


def test_a_unique_prefix_is_enough_and_an_ambiguous_one_is_an_error_that_says_so(traces):
    traces.save_spans([make_span(trace_id, "1") for trace_id in (FIRST, SECOND, THIRD)])
    assert traces.trace("b") == [make_span(THIRD, "1")]
    assert traces.trace("a2") == [make_span(SECOND, "1")]
    assert traces.trace("c") == []
    assert traces.trace("a%") == []
    with pytest.raises(NotFound, match=r"several traces begin with 'a'"):
        traces.trace("a")


def test_a_whole_id_is_found_although_a_longer_one_begins_with_it(traces):
    traces.save_spans([make_span("ab", "1"), make_span("abc", "1")])
    assert traces.trace("ab") == [make_span("ab", "1")]


def test_the_latest_traces_come_as_their_root_spans_newest_first(traces):
    for number, trace_id in enumerate((SECOND, THIRD, FIRST)):
        root = make_span(trace_id, "1", after_ms=number)
        traces.save_spans([make_span(trace_id, "2", after_ms=number + 9, parent="1"), root])
    assert [span.trace_id for span in traces.traces()] == [FIRST, THIRD, SECOND]
    assert [span.trace_id for span in traces.traces(limit=1)] == [FIRST]
    assert all(span.parent_id is None for span in traces.traces())


def test_a_span_saved_again_is_replaced(traces):
    span = make_span(FIRST, "1")
    traces.save_spans([span])
    traces.save_spans([replace(span, error="late")])
    assert traces.trace(FIRST) == [replace(span, error="late")]
