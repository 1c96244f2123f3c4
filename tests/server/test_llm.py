from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
import uvicorn

import tiny_llama
from llm_twin.server.llm import create_app

pytest.importorskip("openvino_genai", reason="needs the extra llm-twin[openvino-genai]")

ASK = [{"role": "user", "content": "what do I think?"}]


class Serving:
    """The application with a real model, behind a real uvicorn in a thread."""

    def __init__(self, path: Path, *, api_key: str = "", **how) -> None:
        from llm_twin import llm
        from llm_twin.adapters.openvino_genai import OpenVinoWriter

        self.model = OpenVinoWriter(path, name="tiny", seed=1, **how) if how else llm.writer(str(path), name="tiny")
        config = uvicorn.Config(create_app(self.model, api_key=api_key), log_level="error", lifespan="on")
        self.server = uvicorn.Server(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.chat = f"{self.url}/v1/chat/completions"
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.socket])), daemon=True)

    def __enter__(self) -> Serving:
        self.thread.start()
        until = time.monotonic() + 30
        while not self.server.started and time.monotonic() < until:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()
        assert not self.model.alive()

    def busy(self) -> int:
        return self.model._count

    def settle(self) -> None:
        until = time.monotonic() + 30
        while self.busy() and time.monotonic() < until:
            time.sleep(0.02)
        assert self.busy() == 0


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    return tiny_llama.write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def serving(gguf) -> Iterator[Serving]:
    with Serving(gguf, parallel=4, waiting=4) as running:
        yield running


@pytest.fixture
def client(serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def post(serving):
    def send(**body) -> httpx2.Response:
        body = {"model": "tiny", "messages": ASK, "max_tokens": 4, "temperature": 0, **body}
        return httpx2.post(f"{serving.url}/v1/chat/completions", json=body, timeout=60)

    return send


def error_of(response: httpx2.Response) -> dict:
    (name, error), *rest = response.json().items()
    assert (name, rest) == ("error", [])
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_openais_own_client_reads_a_whole_reply(client) -> None:
    reply = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=20, temperature=0)
    assert reply.object == "chat.completion"
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content
    assert reply.usage.completion_tokens == 20
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 20


def test_openais_own_client_reads_the_same_reply_as_a_stream(client) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_completion_tokens": 9, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in pieces if c.choices) == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == "length"
    assert pieces[-1].usage == whole.usage
    assert all(piece.usage is None for piece in list(client.chat.completions.create(**asked, stream=True)))


def test_a_stream_is_server_sent_events_that_end_with_done(serving) -> None:
    body = {"messages": ASK, "max_tokens": 3, "stream": True}
    with httpx2.stream("POST", f"{serving.url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["object"] == "chat.completion.chunk" for line in lines[:-1])


def test_seed_stop_and_text_parts_mean_what_they_do_at_openai(post) -> None:
    first, second = (post(temperature=1.5, seed=5, max_tokens=20).json() for _ in range(2))
    assert first["choices"] == second["choices"]
    full = post(max_tokens=20).json()["choices"][0]["message"]["content"]
    stopped = post(max_tokens=20, stop=[full[4:6]]).json()["choices"][0]
    assert stopped["message"]["content"] == full[: full.index(full[4:6])]
    assert stopped["finish_reason"] == "stop"
    parts = [{"type": "text", "text": "what do "}, {"type": "text", "text": "I think?"}]
    in_parts = post(messages=[{"role": "user", "content": parts}], max_tokens=20).json()
    assert in_parts["choices"][0]["message"]["content"] == full


def test_a_developers_message_is_a_system_message(post) -> None:
    texts = {
        post(messages=[{"role": role, "content": "the system"}, *ASK], max_tokens=8).json()["choices"][0]["message"][
            "content"
        ]
        for role in ("system", "developer")
    }
    assert len(texts) == 1


def test_json_of_a_schema_is_obeyed_and_json_alone_begins_an_object(post) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    replies = [post(response_format=wanted, max_tokens=300, seed=seed, temperature=0.2).json() for seed in range(5)]
    whole = [reply for reply in replies if reply["choices"][0]["finish_reason"] == "stop"]
    assert whole
    assert all(json.loads(reply["choices"][0]["message"]["content"]).keys() == {"n"} for reply in whole)
    text = post(response_format={"type": "json_object"}, max_tokens=3).json()["choices"][0]["message"]["content"]
    assert text.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "developer"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "url": "x"}]}]}, "messages.0", "text"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"n": 2}, "n", "1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"tools": [{"type": "function"}]}, "tools", "at most 0"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported here"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "less than or equal to 0"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "has no json_schema; add one"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
            "response_format",
            "cannot be obeyed",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_words(post, change, field, told) -> None:
    response = post(**change)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith(field)
    assert told in error["message"]


def test_fields_that_change_nothing_are_taken(post) -> None:
    assert post(n=1, user="me", frequency_penalty=0.0, presence_penalty=0, logprobs=False, tools=[]).status_code == 200


def test_too_long_a_prompt_is_refused_with_openais_code(client) -> None:
    with pytest.raises(openai.BadRequestError, match="the context of tiny is 512") as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x " * 900}])
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"


def test_another_model_and_another_address_are_not_found(client, serving) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here, but 'tiny'"):
        client.chat.completions.create(model="gpt", messages=ASK)
    response = httpx2.get(f"{serving.url}/v1/embeddings")
    assert response.status_code == 404
    assert error_of(response)["message"] == "Not Found; there is POST /v1/chat/completions"


def test_models_and_health_tell_what_is_served(client, serving) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.list().data[0].max_model_len == 512
    assert httpx2.get(f"{serving.url}/healthz").json() == {"status": "ok", "model": "tiny"}


def test_eight_readers_at_once_get_what_each_gets_alone(post) -> None:
    asked = [[{"role": "user", "content": f"the {number}"}] for number in range(8)]
    alone = [post(messages=messages, max_tokens=16).json()["choices"] for messages in asked]
    together: list = [None] * 8

    def ask(place: int) -> None:
        together[place] = post(messages=asked[place], max_tokens=16).json()["choices"]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def slow(serving: Serving, **how) -> socket.socket:
    """A connection on which a long reply is asked for."""
    body = json.dumps({"messages": ASK, "temperature": 1.5, "max_tokens": 480, **how}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(serving.socket.getsockname())
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_reply(serving, stream, monkeypatch) -> None:
    _slow_down(serving, monkeypatch)
    connections = [slow(serving, stream=stream) for _ in range(3)]
    _until(lambda: serving.busy() == 3)
    for connection in connections:
        connection.close()
    left_at = time.monotonic()
    serving.settle()
    assert time.monotonic() - left_at < 5  # 480 tokens would have taken ten seconds


def test_when_all_places_are_taken_the_next_is_told_when_to_come_again(serving, post, monkeypatch) -> None:
    _slow_down(serving, monkeypatch)
    connections = [slow(serving) for _ in range(8)]
    _until(lambda: serving.busy() == 8)
    response = post()
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert error_of(response)["type"] == "rate_limit_error"
    assert httpx2.get(f"{serving.url}/healthz").status_code == 200
    for connection in connections:
        connection.close()
    serving.settle()
    assert post().status_code == 200


def _slow_down(serving: Serving, monkeypatch) -> None:
    """Make the model as slow as a large one: 20 ms for each token."""
    pipeline = serving.model._pipeline

    class Slow:
        def step(self) -> None:
            time.sleep(0.02)
            pipeline.step()

        def __getattr__(self, name: str) -> object:
            return getattr(pipeline, name)

    monkeypatch.setattr(serving.model, "_pipeline", Slow())


def _until(true) -> None:
    until = time.monotonic() + 30
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    assert true()


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(gguf, monkeypatch) -> None:
    with Serving(gguf, parallel=2) as serving:
        monkeypatch.setattr(serving.model._schemas, "check", lambda schema: None)
        wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
        body = {"messages": ASK, "stream": True, "response_format": wanted}
        response = httpx2.post(f"{serving.url}/v1/chat/completions", json=body, timeout=60)
        events = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
        assert json.loads(events[-2])["error"]["type"] == "server_error"
        assert "tiny failed" in json.loads(events[-2])["error"]["message"]
        response = httpx2.post(f"{serving.url}/v1/chat/completions", json={**body, "stream": False}, timeout=60)
        assert (response.status_code, error_of(response)["type"]) == (500, "server_error")


def test_a_model_that_stopped_is_not_healthy_and_says_so(gguf) -> None:
    with Serving(gguf) as serving:
        serving.model.close()
        assert httpx2.get(f"{serving.url}/healthz").status_code == 503
        response = httpx2.post(f"{serving.url}/v1/chat/completions", json={"messages": ASK})
        assert (response.status_code, error_of(response)["type"]) == (500, "server_error")


def test_stopping_the_server_ends_the_replies_that_are_being_written(gguf) -> None:
    asked = {"messages": ASK, "stream": True}
    with Serving(gguf, parallel=2) as serving, httpx2.stream("POST", serving.chat, json=asked) as body:
        next(body.iter_lines())


def test_with_a_key_only_those_who_send_it_are_served(gguf) -> None:
    with Serving(gguf, api_key="s3cret") as serving:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cre"}):
            response = httpx2.get(f"{serving.url}/v1/models", headers=headers)
            assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error")
        assert httpx2.get(f"{serving.url}/v1/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert httpx2.get(f"{serving.url}/healthz").status_code == 200


def test_a_huge_request_is_turned_away_unread(serving) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    with socket.create_connection(serving.socket.getsockname()) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_page_elsewhere_cannot_make_a_browser_ask(serving) -> None:
    # A form or a script of another site can send text, not JSON, without the server's consent.
    url = f"{serving.url}/v1/chat/completions"
    response = httpx2.post(url, content=json.dumps({"messages": ASK}), headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    assert httpx2.options(url, headers={"Origin": "https://example.org"}).status_code == 405
