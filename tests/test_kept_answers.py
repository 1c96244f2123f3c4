"""What the twin keeps of its answers, through the front door: conversations, feedback and batches, and forgetting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_twin import Twin
from llm_twin.core.errors import NotFound, StoreError
from llm_twin.core.records import Done, Exchange

ORMS = (
    "I don't like object-relational mappers. They hide the query, and the query is the program. "
    "I write SQL by hand and map rows to small records, because then I always know what runs."
)
POSTS = {
    "orms.md": f"---\ntitle: On ORMs\nurl: https://example.org/orms\n---\n{ORMS}\n",
    "tomatoes.md": "# Tomatoes\n\nTomatoes want sun, deep water twice a week and an early stake.\n",
}


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    (tmp_path / "posts").mkdir()
    for name, text in POSTS.items():
        (tmp_path / "posts" / name).write_text(text)
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        twin.sync()
        yield twin


def ask(twin: Twin, question: str, conversation_id: str | None = None, **options) -> Done:
    *_, done = twin.chat(conversation_id, **options).ask(question)
    assert isinstance(done, Done)
    return done


def kept(done: Done) -> Exchange:
    assert done.exchange is not None
    return done.exchange


def test_a_conversation_goes_on_in_another_process(twin: Twin) -> None:
    first = kept(ask(twin, "What do I think of ORMs?"))
    with Twin.open(twin.workspace.root) as other:
        second = ask(other, "Why?", first.conversation_id)
        assert second.answer.read_as == "What do I think of ORMs? Why?"
        assert kept(second).conversation_id == first.conversation_id
        (header,) = other.conversations.all(user="local")
        assert (header.title, header.exchanges) == ("What do I think of ORMs?", 2)
        assert [each.question for each in other.conversations.exchanges(header.id, user="local")] == [
            "What do I think of ORMs?",
            "Why?",
        ]
    index = twin.index.info()
    assert index is not None
    assert first.generation == index.digest


def test_a_chat_is_one_conversation(twin: Twin) -> None:
    chat = twin.chat()
    for question in ("What do I think of ORMs?", "And tomatoes?"):
        list(chat.ask(question))
    (header,) = twin.conversations.all(user="local")
    assert (header.id, header.exchanges) == (chat.conversation_id, 2)


def test_nothing_is_kept_where_that_is_not_wanted(twin: Twin) -> None:
    assert ask(twin, "What do I think of ORMs?", keep=False).exchange is None
    assert twin.ask("What do I think of ORMs?").mode == "extractive"
    with Twin.open(twin.workspace.root, arguments={"ask.keep_history": False}) as other:
        assert ask(other, "What do I think of ORMs?").exchange is None
    assert twin.conversations.all(user=None) == []


def test_an_answer_is_given_also_where_it_cannot_be_kept(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("the disk is full; make room")

    monkeypatch.setattr(twin.warehouse, "put", full)
    done = ask(twin, "What do I think of ORMs?")
    assert done.exchange is None
    assert done.answer.citations
    assert "The exchange could not be kept: the disk is full; make room" in done.answer.notes


def test_another_users_conversation_cannot_be_gone_on_with(twin: Twin) -> None:
    exchange = kept(ask(twin, "What do I think of ORMs?", user="ada"))
    with pytest.raises(NotFound, match="no conversation"):
        twin.chat(exchange.conversation_id, user="bob")


def test_forgetting_reaches_what_quotes_and_no_byte_of_it_stays(twin: Twin, tmp_path: Path) -> None:
    orms = kept(ask(twin, "What do I think of ORMs?"))
    tomatoes = kept(ask(twin, "What do tomatoes want?", orms.conversation_id))
    twin.feedback.give(orms.id, by="local", user=None, rating="up")
    twin.feedback.give(tomatoes.id, by="local", user=None, edit=f"As I wrote: {ORMS}")
    questions = ["What do I think of ORMs?", "What do tomatoes want?"]
    batch = twin.batches.start([json.dumps({"question": question}) for question in questions], user="local")
    twin.batches.run(batch.id)
    assert tomatoes.answer.citations[0].title == "Tomatoes"

    done = twin.forget("https://example.org/orms")

    assert set(done.left.values()) == {0}
    assert {"exchanges", "feedback", "batches"} <= done.left.keys()
    (left,) = twin.conversations.exchanges(orms.conversation_id, user="local")
    assert (left.id, left.answer.text) == (tomatoes.id, tomatoes.answer.text)
    assert {passage.document.title for passage in left.answer.passages} == {"Tomatoes"}
    assert twin.feedback.all(user=None) == []
    first, second = twin.batches.results(batch.id, user="local")
    assert "error" in first
    assert second["answer"]["citations"][0]["title"] == "Tomatoes"
    twin.close()
    stored = b"".join(path.read_bytes() for path in twin.workspace.state.rglob("*") if path.is_file())
    assert b"map rows to small records" not in stored
    assert b"hide the query" not in stored
    assert b"deep water twice a week" in stored
