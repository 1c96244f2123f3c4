"""The front door with a language model: a real server speaking the OpenAI protocol, with scripted replies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_twin import Twin
from llm_twin.core.records import Done, Passages, TextDelta, Understood, Withdrawn
from scripted_llm import Reply, ScriptedLlm, piece, refuses, says

POST = """---
title: On ORMs
date: 2021-03-04
---
I don't like object-relational mappers. They hide the query, and the query is the program.

I write SQL by hand and map rows to small records. It's a little more typing, and I always know what runs.
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "orms.md").write_text(POST)
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        twin.sync()
    return tmp_path / "twin"


@pytest.fixture
def server() -> Iterator[ScriptedLlm]:
    with ScriptedLlm() as server:
        yield server


def _twin(home: Path, server: ScriptedLlm, **arguments: Any) -> Twin:
    model = {"llm.base_url": server.base_url, "llm.model": "toy", "llm.retries": 0}
    return Twin.open(home, arguments=model | arguments)


def test_a_generated_answer_streams_and_is_cited(home: Path, server: ScriptedLlm) -> None:
    server.script = [says("ORMs hide the query, ", "and the query is the program [1].")]
    with _twin(home, server) as twin:
        events = list(twin.ask_events("What do I think of ORMs?"))
    assert [type(event) for event in events[:2]] == [Understood, Passages]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).startswith("ORMs hide the query")
    answer = events[-1].answer if isinstance(events[-1], Done) else None
    assert answer is not None
    assert (answer.mode, answer.model, answer.unsupported) == ("generated", "toy", ())
    assert answer.citations[0].quote in POST
    assert answer.prompt
    prompt = json.dumps(server.requests[0])
    assert "hide the query" in prompt


def test_a_claim_the_passages_do_not_support_is_marked(home: Path, server: ScriptedLlm) -> None:
    server.script = [says("They hide the query [1]. I keep 17 elephants in Lisbon [1]. And this is new [7].")]
    with _twin(home, server) as twin:
        answer = twin.ask("What do I think of ORMs?")
    assert "elephants" in " ".join(answer.unsupported)
    assert "[1?]" in answer.text
    assert "[7?]" in answer.text


@pytest.mark.parametrize(
    "reply", [refuses(500, "out of memory"), Reply(pieces=[piece("I dis")], cut=True)], ids=["error", "cut"]
)
def test_a_failing_model_degrades_to_quotes_and_says_so(home: Path, server: ScriptedLlm, reply: Reply) -> None:
    server.script = [reply]
    with _twin(home, server) as twin:
        events = list(twin.ask_events("What do I think of ORMs?"))
    assert any(isinstance(event, Withdrawn) for event in events)
    last = events[-1]
    assert isinstance(last, Done)
    assert last.answer.mode == "extractive"
    assert any("model failed" in note for note in last.answer.notes)


def test_an_uncovered_question_never_reaches_the_model(home: Path, server: ScriptedLlm) -> None:
    with _twin(home, server) as twin:
        assert twin.ask("Which wine goes well with grilled salmon?").mode == "abstained"
    assert server.requests == []


def test_a_draft_is_outlined_written_by_section_and_cited(home: Path, server: ScriptedLlm) -> None:
    outline = {
        "title": "Why I write SQL",
        "sections": [{"heading": "The query is the program", "points": ["SQL by hand"]}],
    }

    def reply(body: dict[str, Any]) -> Reply:
        wants_json = "response_format" in body
        return says(json.dumps(outline)) if wants_json else says("I write SQL by hand and map rows to records [1].")

    server.script = [reply] * 6
    with _twin(home, server) as twin:
        answer = twin.write("Why I write SQL by hand", kind="post", words=120)
    assert "SQL by hand" in answer.text
    assert answer.citations[0].quote in POST
    assert answer.mode == "generated"


def test_a_follow_up_is_rewritten_by_the_model(home: Path, server: ScriptedLlm) -> None:
    server.script = [
        says("They hide the query [1]."),
        says("Why do I think that ORMs hide the query?"),
        says("Because the query is the program [1]."),
    ]
    with _twin(home, server) as twin:
        chat = twin.chat()
        list(chat.ask("What do I think of ORMs?"))
        events = list(chat.ask("Why?"))
    understood = next(event for event in events if isinstance(event, Understood))
    assert understood.text == "Why do I think that ORMs hide the query?"
    assert len(server.requests) == 3
