"""`twin serve` as a process: what it prints, how it stops, what goes on beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_twin import Twin
from llm_twin.core.errors import ConfigError
from llm_twin.server.run import address_of, listen
from scripted_llm import Reply, ScriptedLlm, finish, piece, says
from serving import Served, events_of, until

TWIN = [sys.executable, "-m", "llm_twin"]
STAND_IN = Path(__file__).parents[1] / "server_stand_in.py"
QUESTION = {"question": "What do I think of object-relational mappers?"}


@contextmanager
def serving(home: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """`twin serve` on a free port, ready, and a client of it."""
    command = [*TWIN, "-C", str(home), "serve", "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read() if process.poll() is not None else address
        with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            yield process, client
    finally:
        process.kill()
        process.communicate()


def twin(home: Path, *arguments: str) -> str:
    done = subprocess.run([*TWIN, "-C", str(home), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def stopped(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def model_at(llm: ScriptedLlm) -> dict[str, str]:
    return {"TWIN_LLM_BASE_URL": llm.base_url, "TWIN_LLM_MODEL": "toy", "TWIN_LLM_RETRIES": "0"}


def test_a_sync_beside_a_running_service_is_seen_by_it_without_a_lost_request(home: Path) -> None:
    with serving(home) as (process, client):
        failures: list[Any] = []
        answered = 0
        stop = threading.Event()

        def keep_asking() -> None:
            nonlocal answered
            while not stop.is_set():
                reply = client.post("/v1/search", json={"query": "Where do bees winter?", "k": 1})
                answered += 1
                if reply.status_code != 200:
                    failures.append(reply.text)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        for number in range(3):
            (home.parent / "posts" / f"bees{number}.md").write_text(
                f"# Bees {number}\n\nBees winter in a dry hive, colony {number} too, with a small entrance.\n"
            )
            assert json.loads(twin(home, "sync", "--json"))["documents"]["added"] == 1
        stop.set()
        asking.join()
        assert not failures
        assert answered > 3
        hit = client.post("/v1/search", json={"query": "Where do bees winter?", "k": 1}).json()[0]
        assert hit["title"].startswith("Bees")
        titles = {document["title"] for document in client.get("/v1/documents").json()["documents"]}
        assert {"Bees 0", "Bees 1", "Bees 2"} <= titles
        assert process.poll() is None


def test_commands_work_beside_a_running_service(home: Path) -> None:
    with serving(home) as (_, client):
        asked = json.loads(twin(home, "ask", "--json", QUESTION["question"]))
        assert asked["mode"] == "extractive"
        assert json.loads(twin(home, "status", "--json"))["documents"] == client.get("/v1/status").json()["documents"]
        kept = {conversation["id"] for conversation in client.get("/v1/conversations").json()}
        assert asked["conversation_id"] in kept, "the service shows what the command line asked"


def test_a_stream_under_way_is_finished_while_new_requests_are_turned_away(home: Path, llm: ScriptedLlm) -> None:
    words = [f"word{number} " for number in range(30)]
    llm.script = [Reply([*map(piece, words), finish()], pause_s=0.1)]
    with (
        serving(home, **model_at(llm)) as (process, client),
        client.stream("POST", "/v1/ask", json={**QUESTION, "stream": True}) as response,
    ):
        events = events_of(response.iter_lines())
        assert any(name == "delta" for name, _ in events)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        refused = client.post("/v1/ask", json=QUESTION)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:llm-twin:ShuttingDown")
        assert refused.headers["retry-after"]
        name, data = list(events)[-1]
        assert name == "done"
        assert "word29" in data["text"]
        code, errors = stopped(process)
    assert code == 0
    assert "Traceback" not in errors


def test_a_stream_that_does_not_end_in_time_ends_in_an_error(home: Path, llm: ScriptedLlm) -> None:
    llm.script = [says("late", wait_s=100)]
    with (
        serving(home, **model_at(llm), TWIN_SERVER_SHUTDOWN_S="1") as (process, client),
        client.stream("POST", "/v1/ask", json={**QUESTION, "stream": True}) as response,
    ):
        events = events_of(response.iter_lines())
        until(lambda: bool(llm.requests))
        process.send_signal(signal.SIGINT)
        told = list(events)
        assert told[-1][0] == "error"
        assert told[-1][1]["type"] == "urn:llm-twin:ShuttingDown"
        code, errors = stopped(process)
    assert code == 0
    assert "Traceback" not in errors


def test_who_still_waits_when_time_is_over_is_told_so_and_begins_nothing(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("late", wait_s=100)
    with serving(home, **model_at(llm), TWIN_SERVER_SHUTDOWN_S="1", TWIN_SERVER_STREAMS="1") as (process, client):
        told: list[tuple[int, str]] = []

        def ask() -> None:
            reply = client.post("/v1/ask", json=QUESTION)
            told.append((reply.status_code, reply.json()["type"]))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        until(lambda: 'twin_waiting{what="answers"} 2.0' in client.get("/metrics").text and bool(llm.requests))
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join()
        code, errors = stopped(process)
    assert told == [(503, "urn:llm-twin:ShuttingDown")] * 3
    assert len(llm.requests) == 1
    assert code == 0
    assert "Traceback" not in errors


def test_a_second_signal_ends_it_at_once(home: Path, llm: ScriptedLlm) -> None:
    llm.script = [says("late", wait_s=100)]
    with serving(home, **model_at(llm)) as (process, client):
        told: list[object] = []

        def ask() -> None:
            try:
                told.append(client.post("/v1/ask", json=QUESTION).status_code)
            except httpx2.HTTPError as error:
                told.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: bool(llm.requests))
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        stopped(process)
        asking.join()
        spent_s = time.monotonic() - started
    assert spent_s < 15
    assert told != [200]


def test_the_log_has_a_line_per_request_without_what_was_asked(home: Path) -> None:
    with serving(home) as (process, client):
        client.post("/v1/ask", json={"question": "What about xyzzyplugh?"}, headers={"x-request-id": "abc-1"})
        client.get("/v1/documents", params={"source": "xyzzyplugh"})
        process.send_signal(signal.SIGTERM)
        code, errors = stopped(process)
    assert code == 0
    assert [line for line in errors.splitlines() if "POST /v1/ask 200" in line]
    assert "xyzzyplugh" not in errors


def test_a_language_model_beside_it_is_asked_and_ends_with_it(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"  # stands in for the engine: it is ready, and refuses every question
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    options = ("--with-llm", str(tmp_path / "tiny.gguf"))
    with serving(home, *options, PATH=f"{tmp_path}:/usr/bin:/bin") as (process, client):
        (note,) = client.post("/v1/ask", json=QUESTION).json()["notes"]
        port = re.search(r"http://127\.0\.0\.1:(\d+)/v1", note)
        assert port
        assert "so the answer quotes the author" in note
        socket.create_connection(("127.0.0.1", int(port[1]))).close()
        process.send_signal(signal.SIGTERM)
        code, _ = stopped(process)
    assert code == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])))


def test_a_taken_port_is_a_clear_error(home: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        Twin.open(home, arguments={"server.port": taken.getsockname()[1]}) as twin,
        pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1 port \d+.*--port"),
    ):
        listen(twin)


def test_nobody_beyond_this_machine_is_served_without_keys(home: Path) -> None:
    with (
        Twin.open(home, arguments={"server.host": "0.0.0.0", "server.port": 0}) as twin,
        pytest.raises(ConfigError, match="twin keys add"),
    ):
        listen(twin)


def test_the_address_is_one_that_a_browser_opens(home: Path) -> None:
    with Twin.open(home, arguments={"server.host": "::1", "server.port": 0}) as twin, listen(twin) as listening:
        assert address_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"


def test_the_service_is_not_ready_before_its_first_sync_and_says_what_to_run(tmp_path: Path) -> None:
    with Twin.init(tmp_path / "new", author="Test Author") as twin, Served(twin) as service:
        reply = service.client.get("/readyz")
        assert reply.status_code == 503
        missing = {each["name"]: each for each in reply.json()["missing"]}
        assert missing["index"]["remedy"] == "twin sync"
        assert service.client.get("/healthz").status_code == 200


def test_the_first_question_finds_everything_loaded(home: Path) -> None:
    with Twin.open(home) as twin, Served(twin) as service:
        first = service.client.post("/v1/ask", json=QUESTION).json()["timings_ms"]["ask"]
        others = [service.client.post("/v1/ask", json=QUESTION).json()["timings_ms"]["ask"] for _ in range(5)]
        assert "twin_first_text_seconds_count 6.0" in service.client.get("/metrics").text
    # Loading the embedder alone takes several times as long as an answer.
    assert first < 5 * max(others)


def test_every_request_has_an_id_and_a_client_may_choose_it(service: Served) -> None:
    given = service.client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"]
    assert given == "abc-1"
    made = {service.client.get("/healthz", headers={"x-request-id": "a b; c"}).headers["x-request-id"] for _ in "12"}
    assert len(made) == 2
    assert all(len(each) == 16 for each in made)


def test_a_mistake_of_ours_shows_nothing_of_the_inside(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret inside")

    with Twin.open(home) as twin, Served(twin) as service:
        monkeypatch.setattr(twin, "search", broken)
        monkeypatch.setattr(twin, "ask_events", broken)
        reply = service.client.post("/v1/search", json={"query": "x"}, headers={"x-request-id": "abc-1"})
        asked = service.client.post("/v1/ask", json={**QUESTION, "stream": True})
    for each in (reply, asked):
        assert (each.status_code, each.json()["type"]) == (500, "urn:llm-twin:InternalError")
        assert "secret" not in each.text
        assert "ZeroDivision" not in each.text
    assert "abc-1" in reply.json()["detail"]
    assert any("abc-1" in record.getMessage() for record in caplog.records)
