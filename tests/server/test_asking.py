from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin import Twin
from llm_twin.core.cancelling import Cancellation, Cancelled
from llm_twin.server.citing import Marks
from llm_twin.server.streaming import written
from scripted_llm import Reply, ScriptedLlm, piece, refuses, says
from serving import POSTS, Served, until

QUESTION = {"question": "What do I think of object-relational mappers?"}


def test_an_answer_quotes_the_author_and_every_citation_stands_in_the_document(service: Served) -> None:
    answer = service.client.post("/v1/ask", json=QUESTION).json()
    assert answer["mode"] == "extractive"
    assert "hide the query" in answer["text"]
    for citation in answer["citations"]:
        document = service.client.get(f"/v1/documents/{citation['document_id']}").json()
        assert document["text"][citation["start"] : citation["end"]] == citation["quote"]


def test_the_reply_is_what_the_command_line_prints(service: Served) -> None:
    expected = service.app.state.twin.ask(QUESTION["question"])
    answer = service.client.post("/v1/ask", json={**QUESTION, "keep": False}).json()
    assert answer["text"] == expected.text
    assert answer["exchange_id"] is None
    assert answer.keys() >= {"citations", "passages", "unsupported", "notes", "usage", "timings_ms", "trace_id"}


def test_what_the_writing_does_not_cover_is_declined(service: Served) -> None:
    before = service.metric("twin_answers_total", mode="abstained")
    answer = service.client.post("/v1/ask", json={"question": "Which wine goes with grilled salmon?"}).json()
    assert answer["mode"] == "abstained"
    assert service.metric("twin_answers_total", mode="abstained") == before + 1


def test_a_stream_ends_in_the_same_answer_that_its_events_told(generating: Served, llm: ScriptedLlm) -> None:
    llm.script = [says("They hide the ", "query [", "1], and the query is the program [1].")]
    with generating.streaming("/v1/ask", {**QUESTION, "stream": True}) as events:
        told = list(events)
    names = [name for name, _ in told]
    assert names[:2] == ["understood", "passages"]
    assert names[-3:] == ["verified", "usage", "done"]
    assert names.count("done") == 1
    done = told[-1][1]
    assert "".join(data["text"] for name, data in told if name == "delta") == done["text"]
    assert [data["number"] for name, data in told if name == "citation"] == [1]
    assert done["mode"] == "generated"
    assert done["exchange_id"].startswith(done["conversation_id"])
    assert done["usage"]["completion_tokens"] == 3
    assert generating.metric("twin_tokens_total", kind="completion") == 3


def test_a_follow_up_goes_on_with_the_conversation_it_names(generating: Served, llm: ScriptedLlm) -> None:
    llm.script = [says("They hide the query [1]."), says("Why are ORMs bad?"), says("They hide the query [1].")]
    first = generating.client.post("/v1/ask", json=QUESTION).json()
    second = {"question": "And why?", "conversation_id": first["conversation_id"]}
    assert generating.client.post("/v1/ask", json=second).json()["conversation_id"] == first["conversation_id"]
    assert "They hide the query" in json.dumps(llm.requests[1])


def test_a_failing_model_is_withdrawn_and_the_answer_quotes_instead(generating: Served, llm: ScriptedLlm) -> None:
    llm.script = [Reply([piece("I think ")], cut=True)]
    with generating.streaming("/v1/ask", {**QUESTION, "stream": True}) as events:
        told = list(events)
    assert [name for name, _ in told if name in ("withdrawn", "done")] == ["withdrawn", "done"]
    assert told[-1][1]["mode"] == "extractive"
    assert generating.metric("twin_answers_degraded_total") == 1


def test_a_draft_needs_a_model_and_says_so(service: Served) -> None:
    refused = service.client.post("/v1/write", json={"topic": "On ORMs"})
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert (problem["type"], problem["status"]) == ("urn:llm-twin:ModelMissing", 409)
    assert "llm.model" in problem["detail"]


def test_a_draft_is_written_and_kept(generating: Served, llm: ScriptedLlm) -> None:
    llm.always = says("I write SQL by hand and map rows to small records [1].")
    draft = generating.client.post("/v1/write", json={"topic": "Object-relational mappers", "words": 50}).json()
    assert "SQL by hand" in draft["text"]
    assert draft["conversation_id"]


def test_a_search_finds_the_passage_and_obeys_its_filter(service: Served) -> None:
    hits = service.client.post("/v1/search", json={"query": "code review", "k": 1}).json()
    assert hits[0]["title"] == "Small reviews"
    old = service.client.post("/v1/search", json={"query": "code review", "filters": {"until": "2021"}}).json()
    assert {hit["title"] for hit in old} == {"On ORMs"}


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/ask", {}, 422, "body.question"),
        ("/v1/ask", {"question": "  "}, 422, "body.question"),
        ("/v1/ask", {"question": "What?", "filtres": {}}, 422, "body.filtres"),
        ("/v1/ask", {"question": "What?", "filters": {"since": "May"}}, 400, "'May'"),
        ("/v1/ask", {"question": "What?", "filters": {"since": "May"}, "stream": True}, 400, "'May'"),
        ("/v1/ask", {"question": "What?", "filters": {"authors": ["Nobody"]}}, 404, "'Nobody'"),
        ("/v1/ask", {"question": "What?", "conversation_id": "0000"}, 404, "'0000'"),
        ("/v1/search", {"query": "x", "k": 0}, 422, "body.k"),
        ("/v1/search", {"query": "x", "method": "magic"}, 422, "body.method"),
        ("/v1/write", {"topic": "x", "words": 1}, 422, "body.words"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    service: Served, path: str, body: dict[str, object], status: int, told: str
) -> None:
    refused = service.client.post(path, json=body)
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["status"] == status
    assert told in problem["detail"]


def test_a_reader_who_leaves_a_stream_stops_the_model(generating: Served, llm: ScriptedLlm) -> None:
    llm.script = [Reply([piece(f"word{number} ") for number in range(2000)], pause_s=0.01)]
    with generating.streaming("/v1/ask", {**QUESTION, "stream": True}) as events:
        for name, _ in events:
            if name == "delta":
                break
    assert llm.client_left.wait(10)
    until(lambda: generating.metric("twin_running", what="answers") == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_who_leaves_while_the_model_is_silent_stops_it(
    generating: Served, llm: ScriptedLlm, stream: bool
) -> None:
    llm.script = [says("late", wait_s=50)]

    def ask_and_leave() -> None:
        with pytest.raises(Exception, match=r"(?i)timed out"):
            generating.client.post("/v1/ask", json={**QUESTION, "stream": stream}, timeout=2)

    started = time.monotonic()
    ask_and_leave()
    assert llm.requests, "the model was asked before the reader left"
    until(lambda: generating.metric("twin_running", what="answers") == 0)
    assert time.monotonic() - started < 30


def test_retrieval_for_nobody_ends_at_its_next_step(service: Served) -> None:
    twin: Twin = service.app.state.twin
    cancellation = Cancellation()
    events = twin.ask_events(QUESTION["question"])

    def ask() -> None:
        cancellation.cancel()
        list(events)

    with pytest.raises(Cancelled):
        cancellation.run(ask)


def test_who_comes_when_the_line_is_full_is_told_when_to_come_again(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("They hide the query [1].", wait_s=1.5)
    settings = {"llm.base_url": llm.base_url, "llm.model": "toy", "server.streams": 2, "server.waiting": 1}
    with Twin.open(home, arguments=settings) as twin, Served(twin) as service:
        replies = [service.client.post("/v1/search", json={"query": "warm", "k": 1})]
        statuses: list[int] = []

        def ask() -> None:
            reply = service.client.post("/v1/ask", json=QUESTION)
            statuses.append(reply.status_code)
            replies.append(reply)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 3 + [429] * 3
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert service.metric("twin_refused_total", reason="busy") == 3


def test_an_answer_that_takes_too_long_is_ended_with_a_clear_error(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("late", wait_s=50)
    settings = {"llm.base_url": llm.base_url, "llm.model": "toy", "server.answer_timeout_s": 1.0}
    with Twin.open(home, arguments=settings) as twin, Served(twin) as service:
        refused = service.client.post("/v1/ask", json=QUESTION)
        assert (refused.status_code, refused.json()["type"]) == (504, "urn:llm-twin:TimeLimit")
        with service.streaming("/v1/ask", {**QUESTION, "stream": True}) as events:
            told = list(events)
        assert [name for name, _ in told][-1] == "error"
        assert told[-1][1]["status"] == 504
        until(lambda: service.metric("twin_running", what="answers") == 0)


def test_a_silent_stream_is_kept_awake(generating: Served, llm: ScriptedLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_twin.server.streaming.PING_S", 0.2)
    llm.script = [says("They hide the query [1].", wait_s=1.5)]
    with generating.client.stream("POST", "/v1/ask", json={**QUESTION, "stream": True}) as response:
        lines = list(response.iter_lines())
    assert sum(line.startswith(":") for line in lines) >= 3


def test_the_event_loop_never_stalls_while_answers_are_made(service: Served) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            service.client.post("/v1/ask", json=QUESTION)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    spent = []
    for _ in range(40):
        started = time.perf_counter()
        assert service.client.get("/healthz").status_code == 200
        spent.append(time.perf_counter() - started)
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    answer_s = service.client.post("/v1/ask", json=QUESTION).json()["timings_ms"]["ask"] / 1000
    # Were one answer made in the loop, every look would wait for a whole one, and mostly for several.
    assert sorted(spent)[len(spent) // 2] < max(answer_s, 0.05), "an answer stood in the way"


def test_marks_are_found_wherever_a_text_is_cut() -> None:
    text = "One [1], two [2, 3] and [1] again; not [a], not [1], and [12 ] no, but [4]."
    for at, to in itertools.combinations(range(len(text) + 1), 2):
        marks = Marks()
        found = [number for part in (text[:at], text[at:to], text[to:]) for number in marks.new_in(part)]
        assert found == [1, 2, 3, 4]


@pytest.mark.parametrize("body", [rb'{"question": "Why \ud83d?"}', rb'{"question": "Why?", "\ud83d": 1}'])
def test_half_a_character_is_refused_and_named(service: Served, body: bytes) -> None:
    refused = service.client.post("/v1/ask", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:llm-twin:ValidationError")
    assert r"half a character, '\ud83d'" in refused.json()["detail"]


@given(st.text(st.characters()))
def test_an_event_is_one_line_whatever_its_text_holds(text: str) -> None:
    lines = written({"text": text}, name="delta").split(b"\n")
    assert lines[0] == b"event: delta"
    assert lines[2:] == [b"", b""]
    assert json.loads(lines[1].removeprefix(b"data: ")) == {"text": text.encode("utf-8", "replace").decode()}


def test_nothing_a_client_said_stands_in_the_metrics(service: Served) -> None:
    service.client.post("/v1/ask", json={"question": "What about xyzzyplugh?"})
    service.client.get("/v1/documents/xyzzyplugh")
    service.client.get("/xyzzyplugh")
    assert "xyzzyplugh" not in service.client.get("/metrics").text


def test_a_broken_model_server_is_told_to_who_asks_for_a_draft(generating: Served, llm: ScriptedLlm) -> None:
    llm.always = refuses(500, "out of memory")
    refused = generating.client.post("/v1/write", json={"topic": "Object-relational mappers"})
    assert (refused.status_code, refused.json()["type"]) == (502, "urn:llm-twin:ModelError")


def test_posts_of_the_workspace_are_those_that_are_served(service: Served) -> None:
    titles = {each["title"] for each in service.client.get("/v1/documents").json()["documents"]}
    assert titles == {"On ORMs", "Small reviews", "Tomatoes"}
    assert len(titles) == len(POSTS)
