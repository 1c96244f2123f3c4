"""Follow-up questions are understood in the light of what was said, and a conversation stays bounded."""

import pytest

from llm_twin.adapters.openai import OpenAiModel
from llm_twin.core.records import Message
from llm_twin.inference.chat import LAST_TURNS, LONGEST_TURN, Conversation, standalone
from scripted_llm import Reply, ScriptedLlm, piece, refuses, says

HISTORY = [
    Message("user", "What do I think of ORMs?"),
    Message("assistant", "I avoid them, because they hide SQL [1][2]."),
]


def with_model(server):
    return OpenAiModel(base_url=server.base_url, model="toy", retries=0)


def test_the_first_question_of_a_conversation_stands_as_it_is():
    assert standalone("And why?", [], model=None) == ("And why?", None)


def test_the_model_rewrites_a_follow_up_and_sees_the_conversation_without_citations():
    with ScriptedLlm([says('"Why do I avoid ', 'ORMs?"\n')]) as server:
        result = standalone("And why?", HISTORY, model=with_model(server))
    assert result == ("Why do I avoid ORMs?", "Read as: Why do I avoid ORMs?")
    prompt = server.requests[0]["messages"][1]["content"]
    assert "user: What do I think of ORMs?\nassistant: I avoid them, because they hide SQL.\n" in prompt
    assert prompt.endswith("Last question: And why?")
    assert server.requests[0]["temperature"] == 0


def test_a_question_the_model_leaves_alone_carries_no_note():
    with ScriptedLlm([says("Why do they hide SQL?")]) as server:
        assert standalone("Why do they hide SQL?", HISTORY, model=with_model(server)) == ("Why do they hide SQL?", None)


@pytest.mark.parametrize(
    "reply",
    [
        says("Because mappers generate inefficient queries nobody can tune properly later."),
        says("Why do I avoid ORMs?\nAnswer: they hide SQL."),
        says("Why ORMs? " * 60),
        says("Why do I avoid ORMs [1]?"),
        says("I avoid ORMs. Why do ORMs hide SQL?"),
        says("I avoid ORMs, because they hide SQL."),
        says("<think>hm</think>"),
        refuses(500, "boom"),
        Reply([piece("Why do I")], cut=True),
    ],
    ids=["answers", "two-lines", "endless", "cites", "two-sentences", "states", "empty", "error", "cut"],
)
def test_a_model_that_fails_or_answers_leaves_the_question_to_the_rule(reply):
    by_rule = standalone("And why?", HISTORY, model=None)
    with ScriptedLlm([reply]) as server:
        assert standalone("And why?", HISTORY, model=with_model(server)) == by_rule


def test_a_rewriting_may_lack_the_question_mark_and_a_request_need_not_be_a_question():
    for question, rewritten in [("And why?", "Why do I avoid ORMs"), ("Tell me more", "Tell me more about ORMs.")]:
        with ScriptedLlm([says(rewritten)]) as server:
            assert standalone(question, HISTORY, model=with_model(server))[0] == rewritten


def test_without_a_model_a_leaning_question_gets_the_words_of_the_one_before():
    read_as, note = standalone("And why?", HISTORY, model=None)
    assert "ORMs" in read_as
    assert read_as.endswith("And why?")
    assert note == f"Read as: {read_as}"


def test_without_a_model_a_question_that_stands_alone_is_left_alone():
    question = "What is my opinion about static typing in Python?"
    assert standalone(question, HISTORY, model=None) == (question, None)


def test_a_model_sees_only_the_last_turns_and_their_beginnings():
    history = [Message("user" if n % 2 == 0 else "assistant", f"turn {n} " + "x" * 5000) for n in range(40)]
    with ScriptedLlm([says("Why turn 38?")]) as server:
        standalone("And why?", history, model=with_model(server))
    prompt = server.requests[0]["messages"][1]["content"]
    assert len(prompt) < LAST_TURNS * (LONGEST_TURN + 20) + 200
    assert "turn 34 " in prompt
    assert "turn 33 " not in prompt


def test_a_conversation_remembers_exchanges_without_citations():
    conversation = Conversation()
    conversation.add("ORMs?", "I avoid them [1][2?].")
    assert conversation.history == (Message("user", "ORMs?"), Message("assistant", "I avoid them."))


def test_a_conversation_forgets_the_oldest_exchanges_and_keeps_the_last_whole():
    conversation = Conversation(turns=3, characters=100)
    for number in range(9):
        conversation.add(f"question {number}", "short")
    assert [turn.content for turn in conversation.history if turn.role == "user"] == [
        f"question {n}" for n in (6, 7, 8)
    ]
    conversation.add("long", "y" * 500)
    assert [turn.content for turn in conversation.history] == ["long", "y" * 500]
