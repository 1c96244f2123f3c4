"""Feedback is kept with its context and becomes pairs to learn from and questions to be measured by."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_twin import Twin
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.core.errors import ConfigError, ModelError, NotFound
from llm_twin.core.mentions import Mentions
from llm_twin.core.pipeline import Dropped
from llm_twin.core.records import Answer, Done, Exchange, Filter, Message, Passage
from llm_twin.inference.conversations import Conversations
from llm_twin.ops.feedback import FeedbackLog, Origin
from scripted_llm import ScriptedLlm, says
from small_parts import article

SECRET = "hunter2"
ORMS = article("orms", "I write SQL by hand. They hide the query, and the query is the program.", title="On ORMs")


class Desk:
    """A log of feedback over kept exchanges and documents that can disappear."""

    def __init__(self, prompt=lambda exchange, history: [Message("user", exchange.question)]) -> None:
        self.store = MemoryWarehouse()
        self.documents = {ORMS.id}
        known = self.documents.intersection
        self.talks = Conversations(self.store, known=known, generation=lambda: "g1")
        self.log = FeedbackLog(
            self.store,
            Origin(
                lambda id_, user: self.talks.exchange(id_, user=user),
                self.talks.history_before,
                known,
                prompt,
                lambda text: text.replace(SECRET, ""),
            ),
        )

    def asked(self, question="What about ORMs?", answer=None, *, user="ada", **about) -> Exchange:
        return self.talks.record(question, answer or quoted(), user=user, **about)

    def rows(self, name: str) -> list[dict]:
        return [row for row in self.log.export(name) if isinstance(row, dict)]

    def left_out(self, name: str) -> list[str]:
        return [row.reason for row in self.log.export(name) if isinstance(row, Dropped)]


def quoted(text="They hide the query [1]. They cost 40 € [1?]. I left [?]", mode="generated", **fields) -> Answer:
    passage = Passage(1, ORMS.header, ORMS.text, 0, len(ORMS.text), 1.0, chunk_ids=("c1", "c2"))
    return Answer(
        text, mode, citations=(passage.cite(21, 40),), passages=(passage,), model="toy", prompt="p1", **fields
    )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_feedback_carries_the_whole_exchange_and_what_was_said_before(desk: Desk) -> None:
    first = desk.asked("What about ORMs?", user="ada")
    second = desk.asked("Why?", conversation_id=first.conversation_id)
    given = desk.log.give(second.id, by="ada", user="ada", rating="down", reason=" too long ", edit="They hide SQL.\n")
    assert (given.exchange, given.rating, given.reason, given.edit) == (second, "down", "too long", "They hide SQL.")
    assert given.history[0].content == "What about ORMs?"
    assert desk.log.get(given.id, user="ada") == given
    desk.talks.delete(first.conversation_id, user="ada")
    assert desk.log.all(user="ada") == [given], "it outlives the conversation"


def test_what_is_given_again_changes_that_and_keeps_the_rest(desk: Desk) -> None:
    exchange = desk.asked()
    desk.log.give(exchange.id, by="ada", user="ada", rating="up")
    desk.log.give("last", by="ada", user="ada", edit="They hide SQL.")
    given = desk.log.give(exchange.id, by="ada", user="ada", rating="down")
    assert (given.rating, given.edit) == ("down", "They hide SQL.")
    assert desk.log.all(user=None) == [given]
    assert desk.log.of([exchange]) == {exchange.id: given}


def test_feedback_belongs_to_who_gave_it_on_what_they_may_see(desk: Desk) -> None:
    exchange = desk.asked(user="ada")
    with pytest.raises(NotFound, match="no exchange"):
        desk.log.give(exchange.id, by="bob", user="bob", rating="up")
    own = desk.log.give(exchange.id, by="ada", user="ada", rating="up")
    admins = desk.log.give(exchange.id, by="root", user=None, rating="down")
    assert desk.log.all(user="ada") == [own]
    assert desk.log.all(user=None) == [admins, own]
    assert desk.log.all(user=None, limit=1) == [admins]
    with pytest.raises(NotFound, match="no feedback"):
        desk.log.remove(admins.id, user="ada")
    desk.log.remove(own.id, user="ada")
    assert desk.log.all(user=None) == [admins]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "says nothing"),
        ({"reason": "  ", "edit": "\n"}, "says nothing"),
        ({"rating": "sideways"}, "no rating 'sideways'; use one of up, down"),
        ({"edit": "Plain SQL [1]."}, "is the answer itself"),
        ({"reason": "x" * 4001}, "4,001 characters, 4,000 are the most"),
    ],
)
def test_feedback_that_says_nothing_or_nonsense_is_refused(desk: Desk, given: dict, words: str) -> None:
    exchange = desk.asked(answer=quoted("Plain SQL [1]."))
    with pytest.raises(ConfigError, match=words):
        desk.log.give(exchange.id, by="ada", user="ada", **given)
    assert desk.log.all(user=None) == []


def test_no_secret_is_kept_of_what_a_reader_wrote(desk: Desk) -> None:
    exchange = desk.asked()
    given = desk.log.give(exchange.id, by="ada", user="ada", reason=f"shows {SECRET}", edit=f"My key is {SECRET}.")
    assert (given.reason, given.edit) == ("shows ", "My key is .")


def test_an_edit_is_a_preference_pair_without_our_marks_and_with_its_sources(desk: Desk) -> None:
    exchange = desk.asked()
    given = desk.log.give(exchange.id, by="ada", user="ada", rating="down", edit="They hide the query [1?].")
    (row,) = desk.rows("preferences")
    assert row["prompt"] == [{"role": "user", "content": "What about ORMs?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "They hide the query [1]."}]
    assert row["rejected"] == [{"role": "assistant", "content": "They hide the query [1]. They cost 40 € [1]. I left"}]
    assert (row["document_ids"], row["chunk_ids"]) == (["orms"], ["c1", "c2"])
    assert (row["id"], row["model"], row["prompt_version"]) == (given.id, "toy", "p1")


def test_an_edit_and_an_approval_are_expected_answers_and_a_thumb_down_is_a_question_to_look_at(desk: Desk) -> None:
    where = Filter(sources=("files",))
    edited, approved, disliked = (desk.asked(f"Question {n}?", where=where).id for n in range(3))
    desk.log.give(edited, by="ada", user="ada", rating="down", edit="They hide SQL.")
    desk.log.give(approved, by="ada", user="ada", rating="up")
    desk.log.give(disliked, by="ada", user="ada", rating="down", reason="wrong")
    rows = {row["question"]: row for row in desk.rows("questions")}
    assert (rows["Question 0?"]["expected"], rows["Question 0?"]["expected_from"]) == ("They hide SQL.", "edit")
    assert rows["Question 1?"]["expected"] == "They hide the query [1]. They cost 40 € [1]. I left"
    assert rows["Question 1?"]["expected_from"] == "approved"
    assert (rows["Question 2?"]["expected"], rows["Question 2?"]["reason"]) == (None, "wrong")
    assert rows["Question 2?"]["filters"]["sources"] == ["files"]
    assert rows["Question 2?"]["document_ids"] == ["orms"]
    assert len(desk.rows("preferences")) == 1
    assert desk.left_out("preferences") == ["no edit", "no edit"]


def test_a_follow_up_is_exported_as_it_was_read(desk: Desk) -> None:
    exchange = desk.asked("Why?", quoted(read_as="Why do I avoid ORMs?"))
    desk.log.give(exchange.id, by="ada", user="ada", rating="up")
    assert desk.rows("questions")[0]["question"] == "Why do I avoid ORMs?"


def test_what_has_no_place_in_a_format_is_left_out_with_the_reason(desk: Desk) -> None:
    for answer, kind in ((quoted(), "write"), (quoted("I find nothing.", "abstained"), "ask")):
        exchange = desk.asked(answer=answer, kind=kind)
        desk.log.give(exchange.id, by="ada", user="ada", edit="I would have said this.")
    assert desk.rows("preferences") == []
    assert len(set(desk.left_out("preferences"))) == 2
    assert [row["expected"] for row in desk.rows("questions")] == ["I would have said this."]
    assert len(desk.rows("all")) == 2
    with pytest.raises(ConfigError, match="no format 'csv'; use one of preferences, questions, all"):
        list(desk.log.export("csv"))


def test_a_prompt_that_does_not_fit_any_more_is_left_out_and_not_the_end_of_the_export() -> None:
    def prompt(exchange: Exchange, _history: object) -> list[Message]:
        if "long" in exchange.question:
            raise ModelError("the prompt needs 9,000 tokens; ask a shorter question")
        return [Message("user", exchange.question)]

    desk = Desk(prompt)
    for question in ("A long one?", "A short one?"):
        desk.log.give(desk.asked(question).id, by="ada", user="ada", edit="Better.")
    assert [row["prompt"][0]["content"] for row in desk.rows("preferences")] == ["A short one?"]
    assert desk.left_out("preferences") == ["the prompt needs 9,000 tokens; ask a shorter question"]


def test_export_reads_more_than_one_page_of_feedback_in_order(desk: Desk) -> None:
    for number in range(230):
        exchange = desk.asked(f"Question {number}?")
        desk.log.give(exchange.id, by="ada", user="ada", rating="up")
    assert [row["question"] for row in desk.rows("questions")] == [f"Question {n}?" for n in reversed(range(230))]


def test_forgetting_takes_feedback_that_shows_or_repeats_a_document(desk: Desk) -> None:
    boats = article("boats", "A boat needs a keel before it needs a sail.")
    desk.documents.add(boats.id)
    passage = Passage(1, boats.header, boats.text, 0, 9, 1.0)
    other = Answer("A keel [1].", "extractive", citations=(passage.cite(0, 6),), passages=(passage,))
    shown = desk.asked("What about ORMs?")
    repeats = desk.asked("Boats?", other)
    keeps = desk.asked("Boats again?", other)
    desk.log.give(shown.id, by="ada", user="ada", rating="up")
    words = "I write SQL by hand. They hide the query and the query is the program!"
    desk.log.give(repeats.id, by="ada", user="ada", edit=words)
    last = desk.log.give(keeps.id, by="ada", user="ada", rating="up")
    mentions = Mentions([ORMS])
    assert desk.log.mentioning(mentions) == 2
    desk.log.forget(mentions)
    assert desk.log.all(user=None) == [last]


def test_feedback_on_quotations_of_others_stays_without_the_passages_of_a_forgotten_document(desk: Desk) -> None:
    boats = article("boats", "A boat needs a keel before it needs a sail.")
    desk.documents.add(boats.id)
    shown = [Passage(n, each.header, each.text, 0, 9, 1.0) for n, each in enumerate((boats, ORMS), start=1)]
    exchange = desk.asked("Boats?", Answer("A keel [1].", "extractive", (shown[0].cite(0, 6),), tuple(shown)))
    desk.log.give(exchange.id, by="ada", user="ada", rating="up")
    desk.log.forget(Mentions([ORMS]))
    assert [given.exchange.answer.passages for given in desk.log.all(user=None)] == [(shown[0],)]
    assert desk.log.mentioning(Mentions([ORMS])) == 0


def test_feedback_on_an_answer_whose_document_was_forgotten_meanwhile_is_not_kept(desk: Desk) -> None:
    exchange = desk.asked()
    desk.documents.clear()
    with pytest.raises(NotFound, match="is not there any more"):
        desk.log.give(exchange.id, by="ada", user="ada", rating="up")
    assert desk.log.all(user=None) == []


# --- through the front door -----------------------------------------------------------------------------------------

POST = """# On ORMs

I don't like object-relational mappers. They hide the query, and the query is the program. To me that is a bad trade,
and I have paid for it more than once, on a project that I was proud of, in a week that I would rather have spent on
something else than on reading the statements that a library had written for me.
"""


def test_the_exported_prompt_is_the_one_the_model_was_asked_with(tmp_path: Path) -> None:
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "orms.md").write_text(POST)
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        twin.sync()
    with ScriptedLlm() as server:
        server.script = [
            says("They hide the query [1]."),
            says("Why do I think that mappers hide the query?"),
            says("The query is the program [1]."),
        ]
        arguments = {"llm.base_url": server.base_url, "llm.model": "toy", "llm.retries": 0}
        with Twin.open(tmp_path / "twin", arguments=arguments) as twin:
            chat = twin.chat()
            *_, first = chat.ask("What do I think of ORMs?")
            *_, second = chat.ask("Why?")
            assert isinstance(first, Done)
            assert isinstance(second, Done)
            for done in (first, second):
                assert done.exchange
                twin.feedback.give(done.exchange.id, by="ada", user=None, edit="They hide what runs [1].")
            why, what = list(twin.feedback.export("preferences"))
            assert isinstance(why, dict)
            assert isinstance(what, dict)
            assert what["prompt"] == server.requests[0]["messages"]
            assert why["prompt"] == server.requests[2]["messages"]
            assert "Why do I think that mappers hide the query?" in why["prompt"][-1]["content"]
