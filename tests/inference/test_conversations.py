"""Conversations are kept, belong to their user, and lose nothing when several answers arrive at once."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.adapters.sql import SqlWarehouse
from llm_twin.core.errors import ConfigError, NotFound
from llm_twin.core.mentions import Mentions
from llm_twin.core.records import Answer, Citation, Filter, Message, Passage
from llm_twin.inference.conversations import HEADERS, MOST_EXCHANGES, Conversations
from small_parts import article

BEGAN = datetime(2024, 5, 1, tzinfo=UTC)
ORMS = article("orms", "I write SQL by hand. They hide the query, and the query is the program that I want to read.")
BOATS = article("boats", "A boat needs a keel before it needs a sail.")


class Kept:
    """Conversations over a store, a clock that ticks once a minute, and documents that can disappear."""

    def __init__(self, store=None) -> None:
        self.store = store or MemoryWarehouse()
        self.documents = {ORMS.id, BOATS.id}
        minutes = itertools.count()
        self.conversations = Conversations(
            self.store,
            known=lambda ids: self.documents.intersection(ids),
            generation=lambda: "g1",
            now=lambda: BEGAN + timedelta(minutes=next(minutes)),
        )


@pytest.fixture
def kept() -> Kept:
    return Kept()


def said(text: str, document=None) -> Answer:
    if document is None:
        return Answer(text, "abstained")
    passage = Passage(1, document.header, document.text, 0, len(document.text), 1.0)
    return Answer(text, "extractive", citations=(passage.cite(0, 9),), passages=(passage,))


def test_a_first_question_begins_a_conversation_and_names_it(kept: Kept) -> None:
    where = Filter(sources=("github",))
    exchange = kept.conversations.record("What about\n ORMs?", said("By hand [1].", ORMS), user="ada", where=where)
    assert exchange is not None
    assert (exchange.user, exchange.where, exchange.generation) == ("ada", where, "g1")
    (header,) = kept.conversations.all(user="ada")
    assert (header.id, header.title, header.exchanges) == (exchange.conversation_id, "What about ORMs?", 1)
    assert kept.conversations.exchanges(header.id, user="ada") == [exchange]
    assert kept.conversations.exchange(exchange.id, user="ada") == exchange


def test_the_conversation_that_was_talked_in_last_comes_first(kept: Kept) -> None:
    first = kept.conversations.record("One?", said("1"), user="ada")
    second = kept.conversations.record("Two?", said("2"), user="ada")
    assert [header.title for header in kept.conversations.all(user="ada")] == ["Two?", "One?"]
    kept.conversations.record("And one?", said("1b"), user="ada", conversation_id=first.conversation_id)
    assert [header.title for header in kept.conversations.all(user="ada")] == ["One?", "Two?"]
    assert [header.exchanges for header in kept.conversations.all(user="ada", limit=1)] == [2]
    assert kept.conversations.exchange("last", user="ada").question == "And one?"
    assert second.created_at < kept.conversations.header(first.conversation_id, user="ada").updated_at


def test_what_is_another_users_is_as_if_it_were_not_there(kept: Kept) -> None:
    exchange = kept.conversations.record("Mine?", said("yes"), user="ada")
    for look in (
        lambda: kept.conversations.header(exchange.conversation_id, user="bob"),
        lambda: kept.conversations.exchanges(exchange.conversation_id, user="bob"),
        lambda: kept.conversations.exchange(exchange.id, user="bob"),
        lambda: kept.conversations.history(exchange.conversation_id, user="bob"),
        lambda: kept.conversations.delete(exchange.conversation_id, user="bob"),
        lambda: kept.conversations.exchange("last", user="bob"),
    ):
        with pytest.raises(NotFound):
            look()
    assert kept.conversations.all(user="bob") == []
    assert kept.conversations.record("Yours?", said("no"), user="bob", conversation_id=exchange.conversation_id) is None
    assert len(kept.conversations.exchanges(exchange.conversation_id, user=None)) == 1, "None may see everybody's"


def test_history_is_what_was_said_without_citation_numbers_and_only_the_latest_of_it(kept: Kept) -> None:
    exchange = kept.conversations.record("Zero?", said("Answer zero [1].", ORMS), user="ada")
    talk = exchange.conversation_id
    last = [
        kept.conversations.record(f"Question {n}?", said(f"Answer {n} [1].", ORMS), user="ada", conversation_id=talk)
        for n in range(1, 14)
    ]
    history = kept.conversations.history(talk, user="ada")
    assert len(history) == 24
    assert history[-2:] == (Message("user", "Question 13?"), Message("assistant", "Answer 13."))
    assert kept.conversations.history_before(last[0]) == (
        Message("user", "Zero?"),
        Message("assistant", "Answer zero."),
    )


def test_a_full_conversation_asks_for_a_new_one(kept: Kept) -> None:
    talk = kept.conversations.begin(user="ada").id
    for number in range(MOST_EXCHANGES):
        kept.conversations.record(f"{number}?", said("yes"), user="ada", conversation_id=talk)
    with pytest.raises(ConfigError, match=f"has {MOST_EXCHANGES} exchanges.*begin a new one"):
        kept.conversations.history(talk, user="ada")


def test_a_long_first_question_makes_a_short_title(kept: Kept) -> None:
    kept.conversations.record("Why " * 100, said("because"), user="ada")
    (header,) = kept.conversations.all(user="ada")
    assert len(header.title) <= 80
    assert header.title.endswith("…")


def test_exchanges_written_at_once_by_several_processes_are_all_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'warehouse.db'}"
    stores = [SqlWarehouse(url) for _ in range(3)]
    talks = [Kept(store).conversations for store in stores]
    talk = talks[0].begin(user="ada").id
    with ThreadPoolExecutor(6) as pool:
        done = pool.map(
            lambda n: talks[n % 3].record(f"Question {n}?", said("yes"), user="ada", conversation_id=talk), range(30)
        )
        assert all(done)
    assert {exchange.question for exchange in talks[0].exchanges(talk, user="ada")} == {
        f"Question {n}?" for n in range(30)
    }
    talks[1].record("Last?", said("yes"), user="ada", conversation_id=talk)
    assert talks[2].header(talk, user="ada").exchanges == 31
    for store in stores:
        store.close()


def test_a_deleted_conversation_is_gone_with_what_was_said(kept: Kept) -> None:
    exchange = kept.conversations.record("Going?", said("gone"), user="ada")
    kept.conversations.delete(exchange.conversation_id, user="ada")
    assert kept.conversations.all(user="ada") == []
    with pytest.raises(NotFound, match="no exchange"):
        kept.conversations.exchange(exchange.id, user="ada")


def test_an_answer_that_comes_after_its_conversation_was_deleted_is_not_kept(kept: Kept) -> None:
    exchange = kept.conversations.record("Going?", said("gone"), user="ada")
    kept.conversations.delete(exchange.conversation_id, user="ada")
    assert kept.conversations.record("Late?", said("x"), user="ada", conversation_id=exchange.conversation_id) is None
    assert kept.store.records(f"exchanges/{exchange.conversation_id}") == []


def test_an_answer_that_quotes_a_document_forgotten_meanwhile_is_not_kept(kept: Kept) -> None:
    kept.documents.remove(ORMS.id)
    assert kept.conversations.record("What about ORMs?", said("By hand [1].", ORMS), user="ada") is None
    assert kept.store.records(HEADERS) == []


def test_forgetting_takes_the_exchanges_that_mention_a_document_and_no_others(kept: Kept) -> None:
    first = kept.conversations.record("What about ORMs?", said("By hand [1].", ORMS), user="ada")
    talk = first.conversation_id
    other = kept.conversations.record("And boats?", said("A keel [1].", BOATS), user="ada", conversation_id=talk)
    kept.conversations.record("ORMs alone?", said("By hand [1].", ORMS), user="bob")
    repeated = said("They hide the query and the query is the program that I want to read")
    kept.conversations.record("Once more?", repeated, user="ada", conversation_id=talk)

    mentions = Mentions([ORMS])
    assert kept.conversations.mentioning(mentions) == 3
    kept.conversations.forget(mentions)
    assert kept.conversations.mentioning(mentions) == 0
    assert kept.conversations.exchanges(talk, user="ada") == [other]
    (header,) = kept.conversations.all(user=None)
    assert (header.title, header.exchanges) == ("And boats?", 1), "the title was a question about what is forgotten"


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        (
            "The Query IS the program\nthat I want to read; they hide the query, and the query is the program that I",
            True,
        ),
        ("The query is the program that I like.", False),
        ("Boats: a boat needs a keel before it needs a sail!", True),
        ("A boat needs a keel before it needs a mast.", False),
        ("", False),
    ],
)
def test_repeated_words_are_recognised_without_case_and_layout(text: str, mentioned: bool) -> None:
    assert Mentions([ORMS, BOATS]).in_text(text) is mentioned


def test_quotations_of_others_stay_without_the_passages_of_a_forgotten_document(kept: Kept) -> None:
    answer = said("A keel [1].", BOATS)
    shown = Passage(2, ORMS.header, ORMS.text, 0, len(ORMS.text), 0.1)
    beside = replace(answer, passages=(*answer.passages, shown))
    exchange = kept.conversations.record("Boats?", beside, user="ada")
    kept.conversations.record("Boats, by a model?", replace(beside, mode="generated"), user="ada")
    kept.conversations.forget(Mentions([ORMS]))
    assert kept.conversations.exchange(exchange.id, user="ada") == replace(exchange, answer=answer)
    assert [header.title for header in kept.conversations.all(user="ada")] == ["Boats?"], "a model may have used it"


def test_an_answer_mentions_what_it_was_shown_even_where_it_cites_nothing() -> None:
    passage = Passage(1, BOATS.header, BOATS.text, 0, 9, 1.0)
    citation = Citation(1, "boats", "boats", "A boat", 0, 6)
    assert Mentions([BOATS]).in_answer(Answer("I find nothing.", "abstained", passages=(passage,)))
    assert Mentions([BOATS]).in_answer(Answer("A keel [1].", "generated", citations=(citation,)))
    assert not Mentions([ORMS]).in_answer(Answer("A keel [1].", "generated", citations=(citation,)))
