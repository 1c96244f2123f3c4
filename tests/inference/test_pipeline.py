from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.adapters.memory import MemoryTraces
from llm_twin.adapters.otel import OtelTracer, SilentTracer
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.errors import ConfigError, ModelError, ModelMissing, NotFound
from llm_twin.core.records import (
    Author,
    Delta,
    DocumentFeatures,
    Done,
    Filter,
    ItemState,
    Message,
    Passages,
    TextDelta,
    Understood,
    Usage,
    Withdrawn,
)
from llm_twin.inference.pipeline import Parts, answer, answer_of, search, typed_filter, write
from llm_twin.inference.rerank import MaxSimReranker
from small_parts import WordEmbedder, article, chunks_of, indexed

NOW = datetime(2024, 5, 15, tzinfo=UTC)
ADA = Author("Ada Example", aliases=("ada",))
POSTS = [
    article(
        "orm",
        "Object-relational mappers hide the query you pay for. Write plain SQL and measure it.",
        title="Against object-relational mappers",
        published_at=datetime(2021, 3, 1, tzinfo=UTC),
    ),
    article(
        "tests",
        "Unit tests should test features, not code. They survive a rewrite only then.",
        title="How to test",
        published_at=datetime(2023, 3, 1, tzinfo=UTC),
    ),
    article(
        "bread",
        "Sourdough bread wants patience and a warm kitchen. Never hurry the sourdough.",
        title="Sourdough",
        source="medium",
        published_at=datetime(2022, 3, 1, tzinfo=UTC),
    ),
]
ORMS = "Do object-relational mappers hide the query?"


class ScriptedModel:
    """Says what it was told to, piece by piece, and remembers what it was asked; an error in the script is raised."""

    name = "scripted"

    def __init__(self, *script: str | Exception) -> None:
        self.script = script
        self.asked: list[str] = []
        self.closed = False

    def stream(self, messages, **_) -> Iterator[Delta]:
        self.asked.append(messages[-1].content)
        try:
            for piece in self.script:
                if isinstance(piece, Exception):
                    raise piece
                yield Delta(piece)
            yield Delta("", Usage(10, 5), "stop")
        finally:
            self.closed = True


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return indexed(POSTS, tmp_path_factory.mktemp("index"))


def parts_of(stored, **fields) -> Parts:
    store, index = stored
    embedder = WordEmbedder()
    given = {"tracer": SilentTracer(), "authors": (ADA,), "reranker": MaxSimReranker(embedder, store), **fields}
    return Parts(index=index, embedder=embedder, sparse=Bm25Encoder(), store=store, **given)


def ask(parts: Parts, question: str, **options):
    return answer_of(answer(question, parts=parts, now=NOW, **options))


def test_without_a_model_the_answer_quotes_the_author_with_citations(stored):
    given = ask(parts_of(stored), ORMS)
    assert given.mode == "extractive"
    assert given.text.startswith("Object-relational mappers hide the query you pay for.")
    assert given.citations[0].title == "Against object-relational mappers"
    assert POSTS[0].text[given.citations[0].start : given.citations[0].end] == given.citations[0].quote
    assert given.model is None
    assert given.notes == ()


def test_the_story_is_told_in_order_and_ends_with_the_answer(stored):
    events = list(answer(ORMS, parts=parts_of(stored), now=NOW))
    assert [type(event) for event in events] == [Understood, Passages, TextDelta, Done]
    assert events[-1].answer.text == events[-2].text
    assert events[1].passages == events[-1].answer.passages


def test_every_step_is_a_span_and_a_timing(stored):
    traces = MemoryTraces()
    tracer = OtelTracer(traces)
    given = ask(parts_of(stored, tracer=tracer), ORMS)
    spans = traces.trace(given.trace_id)
    assert [span.name for span in spans] == [
        "ask", "understand", "search", "fuse", "rerank", "context", "extract"
    ]  # fmt: skip
    assert {span.parent_id for span in spans[1:]} == {spans[0].span_id}
    assert set(given.timings_ms) == {span.name for span in spans}
    assert 0 < sum(ms for name, ms in given.timings_ms.items() if name != "ask") <= given.timings_ms["ask"]


def test_events_may_be_taken_from_any_thread(stored):
    traces = MemoryTraces()
    events = answer(ORMS, parts=parts_of(stored, tracer=OtelTracer(traces)), now=NOW)
    taken: list = []
    while True:
        thread = threading.Thread(target=lambda: taken.append(next(events, None)))
        thread.start()
        thread.join()
        if taken[-1] is None:
            break
    spans = traces.trace(taken[-2].answer.trace_id)
    assert len(spans) == 7
    assert sum(span.parent_id is None for span in spans) == 1


@pytest.mark.parametrize("question", ["Who won the football championship?", "Which wine goes with salmon?", "", "???"])
def test_what_the_writing_does_not_cover_is_not_answered(stored, question):
    given = ask(parts_of(stored), question)
    assert given.mode == "abstained"
    assert given.text == "I find nothing in what Ada Example has published that answers this."
    assert given.citations == ()


def test_an_abstention_shows_what_came_nearest(stored):
    given = ask(parts_of(stored), "Who won the football championship with patience?")
    assert given.mode == "abstained"
    assert given.passages[0].document.id == "bread"


def test_a_list_of_links_is_no_answer_though_it_names_the_subject(tmp_path):
    links = "- [Object-relational mappers hide the query](https://a.example/1)\n- <https://a.example/orm-query>\n"
    given = ask(parts_of(indexed([article("links", links, title="Mappers hide the query")], tmp_path)), ORMS)
    assert given.mode == "abstained"
    assert "no sentence that could be quoted" in given.text
    assert given.citations == ()
    assert [shown.document.id for shown in given.passages] == ["links"]


def test_an_empty_index_says_so_and_what_to_run(stored, tmp_path):
    parts = parts_of((stored[0], QdrantEdgeIndex(tmp_path / "none")))
    given = ask(parts, ORMS)
    assert (given.mode, given.text) == (
        "abstained",
        "Nothing is indexed yet, so there is nothing to answer from; run: twin sync",
    )


# --- filters --------------------------------------------------------------------------------------------------------


def test_a_filter_read_out_of_the_question_applies_and_is_told(stored):
    given = ask(parts_of(stored), "What did I write about sourdough bread and patience on Medium in 2022?")
    assert {shown.document.id for shown in given.passages} == {"bread"}
    assert given.notes == (
        "Searched only what was published on Medium.",
        "Searched only what was published in 2022.",
    )


def test_a_filter_read_out_of_the_question_gives_way_where_nothing_is_under_it(stored):
    given = ask(parts_of(stored), "Do object-relational mappers hide the query since 2023?")
    assert given.mode == "extractive"
    assert given.citations[0].title == "Against object-relational mappers"
    assert given.notes == ("Nothing published from 2023-01-01 covers this, so the answer comes from everything.",)


def test_no_event_tells_of_a_filter_that_gave_way(stored):
    question = "Do object-relational mappers hide the query in 2023?"
    understood, *_, done = answer(question, parts=parts_of(stored), now=NOW)
    note = "Nothing published in 2023 covers this, so the answer comes from everything."
    assert (understood.where, understood.notes) == (Filter(), (note,))
    assert done.answer.notes == (note,)


def test_a_filter_that_gives_way_leaves_the_one_that_was_given(stored):
    given = ask(
        parts_of(stored), "Do object-relational mappers hide the query since 2023?", where=Filter(authors=(ADA.name,))
    )
    assert given.notes == (
        "Nothing published by Ada Example, from 2023-01-01 covers this, "
        "so the answer comes from everything published by Ada Example.",
    )


def test_a_filter_that_was_given_never_gives_way(stored):
    where = Filter(since=datetime(2023, 1, 1, tzinfo=UTC))
    given = ask(parts_of(stored), ORMS, where=where)
    assert given.mode == "abstained"
    assert given.text == "I find nothing from 2023-01-01 in what Ada Example has published that answers this."
    nowhere = ask(parts_of(stored), ORMS, where=Filter(sources=("github",)))
    assert nowhere.text == "There is no writing on GitHub to answer from."


def test_a_given_filter_wins_over_the_question(stored):
    events = list(answer("sourdough bread in 2021", parts=parts_of(stored), now=NOW, where=Filter(since=NOW)))
    assert events[0].where == Filter(since=NOW)
    assert not [note for note in (*events[0].notes, *events[-1].answer.notes) if "2021" in note]


def test_search_obeys_quotation_marks_and_the_filter_it_is_given(stored):
    parts = parts_of(stored)
    assert search('object "never hurry"', parts=parts, k=3, where=Filter())[0].document.id == "bread"
    assert search("sourdough in 2021", parts=parts, k=1, where=Filter())[0].document.id == "bread"
    assert search("sourdough", parts=parts, k=3, where=Filter(authors=("Nobody",))) == []


def test_a_phrase_nobody_wrote_is_noted(stored):
    given = ask(parts_of(stored), 'Do object-relational mappers hide the query, or "hide the cost"?')
    assert "Nothing that was found says “hide the cost” word for word." in given.notes


def test_a_phrase_that_is_written_with_a_hyphen_is_no_phrase_nobody_wrote(stored):
    given = ask(parts_of(stored), 'Do "Object relational mappers" hide the query?')
    assert given.mode == "extractive"
    assert given.notes == ()


def test_a_question_longer_than_the_window_is_answered_with_a_note(stored):
    given = ask(parts_of(stored), ORMS + " Do mappers hide the query?" * 15)
    assert given.mode == "extractive"
    assert given.notes == ("The question is long: its meaning was compared by its beginning, its words in full.",)


# --- while the index is behind the warehouse ------------------------------------------------------------------------


def test_what_was_edited_since_it_was_indexed_is_quoted_as_it_was_and_said_to_be(tmp_path):
    store, index = indexed(POSTS, tmp_path)
    edited = replace(POSTS[0], text=POSTS[0].text.replace("hide the query you pay for", "lay the query bare"))
    store.save_features([DocumentFeatures(edited, "later", chunks_of(edited))])
    given = ask(parts_of((store, index)), ORMS)
    assert given.mode == "extractive"
    assert given.text.startswith("Object-relational mappers hide the query you pay for.")
    assert [citation.outdated for citation in given.citations] == [True]
    assert POSTS[0].text[given.citations[0].start : given.citations[0].end] == given.citations[0].quote
    assert given.notes == (
        "“Against object-relational mappers” has changed since it was indexed, and is quoted as it was; the next sync "
        "brings the index up.",
    )


def test_what_was_only_moved_by_an_edit_is_quoted_at_its_new_place(tmp_path):
    store, index = indexed(POSTS, tmp_path)
    edited = replace(POSTS[0], text="A word before.\n\n" + POSTS[0].text)
    store.save_features([DocumentFeatures(edited, "later", chunks_of(edited))])
    (citation,) = ask(parts_of((store, index)), ORMS).citations
    assert not citation.outdated
    assert edited.text[citation.start : citation.end] == citation.quote


def test_nothing_of_a_removed_document_is_shown_and_it_takes_no_place_from_what_is_left(tmp_path):
    # 130 paragraphs, all nearer to the question than the post that is left: more than one search looks at.
    crowd = "\n\n".join(f"Object-relational mappers hide the query number {number}." for number in range(130))
    store, index = indexed([*POSTS, article("crowd", crowd, title="Mappers hide the query")], tmp_path)
    parts = parts_of((store, index), candidates=10)
    assert {hit.document.id for hit in search(ORMS, parts=parts, k=20, where=Filter())} == {"crowd"}
    store.save([(ItemState("posts", "crowd", "removed"), None)])
    given = ask(parts, ORMS)
    assert given.citations[0].title == "Against object-relational mappers"
    assert "crowd" not in given.document_ids
    assert search(ORMS, parts=parts, k=3, where=Filter())[0].document.id == "orm"
    assert index.count(Filter(document_ids=("crowd",))) == 130


# --- with a model ---------------------------------------------------------------------------------------------------


def test_a_model_answers_from_the_passages_and_its_answer_is_checked(stored):
    model = ScriptedModel("Mappers hide the query ", "you pay for [1].")
    events = list(answer(ORMS, parts=parts_of(stored, model=model), now=NOW))
    given = events[-1].answer
    assert given.mode == "generated"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == (
        "Mappers hide the query you pay for [1]."
    )
    assert [citation.number for citation in given.citations] == [1]
    assert (given.model, given.usage) == ("scripted", Usage(10, 5))
    assert given.prompt
    assert {"generate", "verify"} <= set(given.timings_ms)
    assert "hide the query you pay for" in model.asked[0]


@pytest.mark.parametrize(
    "script", [[ModelError("no route to host")], ["Mappers ", ModelError("connection lost")], [""]]
)
def test_a_model_that_fails_or_says_nothing_gives_way_to_quotes_with_a_note(stored, script):
    events = list(answer(ORMS, parts=parts_of(stored, model=ScriptedModel(*script)), now=NOW))
    given = events[-1].answer
    assert given.mode == "extractive"
    assert given.text.startswith("Object-relational mappers hide the query you pay for.")
    (withdrawn,) = [place for place, event in enumerate(events) if isinstance(event, Withdrawn)]
    assert given.text == "".join(event.text for event in events[withdrawn:] if isinstance(event, TextDelta))
    assert re.match(r"The language model failed \(.+\), so the answer quotes the author instead\.", given.notes[0])


def test_a_model_is_not_even_asked_what_the_writing_does_not_cover(stored):
    model = ScriptedModel("Brazil.")
    assert ask(parts_of(stored, model=model), "Who won the football championship?").mode == "abstained"
    assert model.asked == []


def test_leaving_early_cancels_the_model(stored):
    model = ScriptedModel("one ", "two ", "three ")
    events = answer(ORMS, parts=parts_of(stored, model=model), now=NOW)
    for event in events:
        if isinstance(event, TextDelta):
            break
    events.close()
    assert model.closed


def test_a_follow_up_is_searched_with_what_was_asked_before(stored):
    history = [Message("user", ORMS), Message("assistant", "They do.")]
    given = ask(parts_of(stored), "And why?", history=history)
    assert given.citations[0].title == "Against object-relational mappers"


# --- writing and typing ---------------------------------------------------------------------------------------------


def test_writing_without_a_model_says_how_to_get_one(stored):
    with pytest.raises(ModelMissing, match=r"llm\.model"):
        write("mappers", kind="post", words=50, parts=parts_of(stored))


def test_a_draft_is_grounded_in_what_was_found(stored):
    model = ScriptedModel("Mappers hide the query you pay for [1].")
    events = list(write("object-relational mappers", kind="post", words=50, parts=parts_of(stored, model=model)))
    assert isinstance(events[-1], Done)
    assert events[-1].answer.mode == "generated"
    assert events[-1].answer.citations[0].title == "Against object-relational mappers"


def test_a_typed_filter_knows_names_in_any_case_and_dates_of_any_length():
    assert typed_filter(authors=["ADA"], sources=["GitHub"], kinds=["Post"], known=[ADA]) == Filter(
        authors=("Ada Example",), sources=("github",), kinds=("post",)
    )
    where = typed_filter(since="2021", until="2021-06")
    assert (where.since, where.until) == (datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 7, 1, tzinfo=UTC))
    assert typed_filter(until="2021-06-30").until == datetime(2021, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"authors": ["Bob"]}, NotFound, r"'Bob'.*Ada Example"),
        ({"since": "yesterday"}, ConfigError, r"since 'yesterday'.*YYYY-MM-DD"),
        ({"until": "2021-02-31"}, ConfigError, r"until '2021-02-31'"),
        ({"kinds": ["poem"]}, ConfigError, r"'poem'.*article, post, repository, note"),
    ],
)
def test_a_typed_filter_that_means_nothing_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        typed_filter(known=[ADA], **options)
