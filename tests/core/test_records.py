"""Records survive their way through JSON, whatever is in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.errors import StoreError
from llm_twin.core.records import (
    Answer,
    Citation,
    DocumentHeader,
    Exchange,
    Feedback,
    Filter,
    Message,
    Passage,
    Usage,
    from_json,
    json_text,
)

texts = st.text(max_size=12)
moments = st.datetimes(timezones=st.just(UTC))
names = st.lists(texts, max_size=2).map(tuple)
counts = st.integers(0, 2**40)
numbers = st.floats(allow_nan=False, allow_infinity=False)
headers = st.builds(
    DocumentHeader,
    id=texts, author=texts, source=texts, kind=st.sampled_from(["article", "post"]), title=texts,
    url=st.none() | texts, published_at=st.none() | moments, tags=names, also_at=names,
)  # fmt: skip
passages = st.builds(
    Passage,
    number=counts, document=headers, text=texts, start=counts, end=counts, score=numbers, heading_path=names,
    chunk_ids=names,
)  # fmt: skip
citations = st.builds(
    Citation,
    number=counts, document_id=texts, title=texts, quote=texts, start=counts, end=counts, url=st.none() | texts,
    published_at=st.none() | moments, heading_path=names,
)  # fmt: skip
answers = st.builds(
    Answer,
    text=texts, mode=st.sampled_from(["generated", "extractive", "abstained"]),
    citations=st.lists(citations, max_size=2).map(tuple), passages=st.lists(passages, max_size=2).map(tuple),
    unsupported=names, notes=names, model=st.none() | texts, prompt=st.none() | texts,
    usage=st.builds(Usage, prompt_tokens=counts, completion_tokens=counts),
    timings_ms=st.dictionaries(texts, numbers, max_size=2), trace_id=texts, read_as=st.none() | texts,
    cached=st.sampled_from([None, "exact", "meaning"]),
)  # fmt: skip
filters = st.builds(
    Filter,
    authors=names, sources=names, kinds=names, languages=names, document_ids=names, since=st.none() | moments,
    until=st.none() | moments,
)  # fmt: skip
exchanges = st.builds(
    Exchange,
    id=texts, conversation_id=texts, question=texts, answer=answers, created_at=moments, where=filters, user=texts,
    generation=texts, kind=st.sampled_from(["ask", "write"]),
)  # fmt: skip
feedback = st.builds(
    Feedback,
    id=texts, exchange=exchanges, created_at=moments, rating=st.sampled_from([None, "up", "down"]), reason=texts,
    edit=texts, user=texts,
    history=st.lists(st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=texts)).map(tuple),
)  # fmt: skip


@given(feedback)
def test_feedback_with_its_exchange_comes_back_equal_from_json(given_feedback: Feedback) -> None:
    assert from_json(Feedback, json.loads(json_text(given_feedback))) == given_feedback


@given(filters)
def test_a_filter_comes_back_equal_from_json(where: Filter) -> None:
    assert from_json(Filter, json.loads(json_text(where))) == where


def test_fields_another_version_wrote_are_left_out_and_missing_ones_take_their_defaults() -> None:
    answer = from_json(Answer, {"text": "Plain SQL.", "mode": "generated", "mood": "cheerful", "usage": {"smiles": 3}})
    assert answer == Answer("Plain SQL.", "generated")


@pytest.mark.parametrize("data", [{"mode": "generated"}, {"text": "x", "mode": "generated", "citations": 7}, "text"])
def test_data_that_is_no_such_record_says_so(data: object) -> None:
    with pytest.raises(StoreError, match="stored data is no Answer"):
        from_json(Answer, data)  # type: ignore[arg-type]


def test_an_answer_names_every_document_it_cites_or_was_shown_once() -> None:
    header = DocumentHeader("b", "Ada", "files", "note", "B")
    answer = Answer(
        "x",
        "generated",
        citations=(Citation(1, "a", "A", "x", 0, 1), Citation(2, "b", "B", "y", 0, 1)),
        passages=(Passage(2, header, "y", 0, 1, 1.0), Passage(3, header, "z", 2, 3, 1.0)),
    )
    assert answer.document_ids == ("a", "b")


def test_times_keep_their_zone() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC)
    assert from_json(Filter, json.loads(json_text(Filter(since=moment)))).since == moment
