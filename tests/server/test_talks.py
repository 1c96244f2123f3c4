"""Conversations and feedback over HTTP: kept, shown to their owner alone, and gone when deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_twin import Twin
from serving import Served

ORMS = {"question": "What do I think of ORMs?"}


@pytest.fixture
def served(home: Path) -> Iterator[Served]:
    with Twin.open(home) as twin, Served(twin) as service:
        yield service


@pytest.fixture
def keys(home: Path) -> Iterator[Callable[[str], Any]]:
    """A service that needs keys, as each of two askers and an administrator sees it."""
    with Twin.open(home) as twin:
        headers = {
            name: {"Authorization": f"Bearer {twin.keys.add(name, scope=scope, now=datetime.now(UTC))[1]}"}
            for name, scope in (("ada", "ask"), ("bob", "ask"), ("reader", "read"), ("root", "admin"))
        }
        with Served(twin) as service:

            def call(name: str, method: str, path: str, **request: Any) -> Any:
                return service.client.request(method, path, headers=headers[name], **request)

            yield call


def test_what_was_asked_is_a_conversation_that_can_be_read_and_deleted(served: Served) -> None:
    first = served.client.post("/v1/ask", json={**ORMS, "filters": {"since": "2021"}}).json()
    second = served.client.post(
        "/v1/ask", json={"question": "Why?", "conversation_id": first["conversation_id"]}
    ).json()
    (line,) = served.client.get("/v1/conversations").json()
    assert (line["id"], line["title"], line["exchanges"]) == (first["conversation_id"], ORMS["question"], 2)
    conversation = served.client.get(f"/v1/conversations/{line['id']}").json()
    assert [each["id"] for each in conversation["exchanges"]] == [first["exchange_id"], second["exchange_id"]]
    exchange = conversation["exchanges"][0]
    assert exchange["question"] == ORMS["question"]
    assert exchange["filters"]["since"].startswith("2021-01-01")
    assert exchange["answer"]["citations"] == first["citations"]
    assert (exchange["kind"], exchange["feedback"]) == ("ask", None)
    assert served.client.delete(f"/v1/conversations/{line['id']}").status_code == 204
    assert served.client.get("/v1/conversations").json() == []
    gone = served.client.get(f"/v1/conversations/{line['id']}")
    assert (gone.status_code, gone.json()["type"]) == (404, "urn:llm-twin:NotFound")


def test_nothing_is_kept_when_the_request_says_so(served: Served) -> None:
    answer = served.client.post("/v1/ask", json={**ORMS, "keep": False}).json()
    assert (answer["exchange_id"], answer["conversation_id"]) == (None, None)
    assert served.client.get("/v1/conversations").json() == []


def test_exchanges_of_one_conversation_that_arrive_at_once_are_all_kept(served: Served) -> None:
    first = served.client.post("/v1/ask", json=ORMS).json()["conversation_id"]
    questions = [f"What do I think of ORMs, for the {n}th time?" for n in range(12)]

    def ask(question: str) -> int:
        body = {"question": question, "conversation_id": first}
        return served.client.post("/v1/ask", json=body).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, questions)) == {200}
    kept = served.client.get(f"/v1/conversations/{first}").json()["exchanges"]
    assert {each["question"] for each in kept} == {ORMS["question"], *questions}
    assert served.client.get("/v1/conversations").json()[0]["exchanges"] == 13


def test_feedback_is_given_changed_listed_counted_and_removed(served: Served) -> None:
    asked = served.client.post("/v1/ask", json=ORMS).json()
    given = served.client.post("/v1/feedback", json={"exchange_id": asked["exchange_id"], "rating": "up"})
    assert given.status_code == 201
    edit = {"exchange_id": "last", "rating": "down", "reason": "too long", "edit": "They hide the query. [1]"}
    changed = served.client.post("/v1/feedback", json=edit).json()
    assert changed["id"] == given.json()["id"]
    (listed,) = served.client.get("/v1/feedback").json()
    assert (listed["rating"], listed["reason"], listed["edit"]) == ("down", "too long", "They hide the query. [1]")
    assert listed["exchange"]["id"] == asked["exchange_id"]
    conversation = served.client.get(f"/v1/conversations/{asked['conversation_id']}").json()
    assert conversation["exchanges"][0]["feedback"]["rating"] == "down"
    assert served.metric("twin_feedback_total", rating="up") == 1
    assert served.metric("twin_feedback_total", rating="down") == 1
    assert served.client.delete(f"/v1/feedback/{changed['id']}").status_code == 204
    assert served.client.get("/v1/feedback").json() == []
    assert served.client.delete(f"/v1/feedback/{changed['id']}").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"exchange_id": "last", "rating": "sideways"}, 422, "body.rating"),
        ({"exchange_id": "last"}, 400, "says nothing"),
        ({"exchange_id": "0000-1111", "rating": "up"}, 404, "no exchange '0000-1111'"),
        ({"exchange_id": "last", "stars": 5}, 422, "body.stars"),
    ],
)
def test_feedback_that_makes_no_sense_is_a_problem_that_says_why(
    served: Served, body: dict[str, Any], status: int, words: str
) -> None:
    served.client.post("/v1/ask", json=ORMS)
    refused = served.client.post("/v1/feedback", json=body)
    assert refused.status_code == status
    assert words in refused.json()["detail"]


def test_what_is_one_callers_is_nobody_elses_but_the_administrators(keys: Callable[..., Any]) -> None:
    asked = keys("ada", "POST", "/v1/ask", json=ORMS).json()
    talk, rating = (
        f"/v1/conversations/{asked['conversation_id']}",
        {"exchange_id": asked["exchange_id"], "rating": "up"},
    )
    given = keys("ada", "POST", "/v1/feedback", json=rating).json()
    assert len(keys("ada", "GET", "/v1/conversations").json()) == 1
    assert keys("bob", "GET", "/v1/conversations").json() == []
    assert keys("bob", "GET", talk).status_code == 404
    assert keys("bob", "DELETE", talk).status_code == 404
    assert keys("bob", "POST", "/v1/feedback", json=rating).status_code == 404
    assert keys("bob", "DELETE", f"/v1/feedback/{given['id']}").status_code == 404
    assert keys("bob", "POST", "/v1/ask", json={**ORMS, "conversation_id": asked["conversation_id"]}).status_code == 404
    assert keys("reader", "POST", "/v1/feedback", json=rating).status_code == 403
    assert keys("root", "GET", talk).json()["exchanges"][0]["feedback"]["rating"] == "up"
    assert [each["id"] for each in keys("root", "GET", "/v1/feedback").json()] == [given["id"]]
    assert keys("root", "DELETE", talk).status_code == 204
    assert keys("ada", "GET", "/v1/conversations").json() == []


def test_a_repeated_question_of_another_caller_is_answered_anew(home: Path) -> None:
    with Twin.open(home, arguments={"cache.enabled": True}) as twin:
        headers = [
            {"Authorization": f"Bearer {twin.keys.add(name, scope='ask', now=datetime.now(UTC))[1]}"} for name in "ab"
        ]
        with Served(twin) as service:
            ways = [
                service.client.post("/v1/ask", json=ORMS, headers=headers[who]).json()["cached"] for who in (0, 0, 1)
            ]
            assert ways == [None, "exact", None]
            assert twin.cache.counts["exact"] == 1


def test_answers_from_memory_stream_and_are_counted(home: Path) -> None:
    with Twin.open(home, arguments={"cache.enabled": True}) as twin, Served(twin) as service:
        service.client.post("/v1/ask", json=ORMS)
        with service.streaming("/v1/ask", {**ORMS, "stream": True}) as events:
            told = list(events)
        assert [name for name, _ in told][:3] == ["understood", "passages", "delta"]
        assert (told[-1][0], told[-1][1]["cached"]) == ("done", "exact")
        assert "Answered from memory" in told[-1][1]["notes"][-1]
        assert service.metric("twin_cache_hits_total", by="exact") == 1
