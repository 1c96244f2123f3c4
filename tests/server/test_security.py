from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from llm_twin.core.errors import ConfigError, StoreError
from llm_twin.server import problems, security
from llm_twin.server.app import create_app
from llm_twin.server.metrics import Metrics
from llm_twin.server.security import Buckets, Door, check_address, needed
from llm_twin.twin import Twin
from serving import Served


class Question(BaseModel):
    question: str


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin.init(tmp_path, author="You") as twin:
        yield twin


def guarded(twin: Twin) -> Door:
    """A small application behind the door."""
    app = FastAPI()
    problems.install(app)

    @app.get("/v1/status")
    @app.post("/v1/sync")
    @app.get("/")
    def told(request: Request) -> dict[str, Any]:
        return {"caller": request.state.caller.id}

    @app.post("/v1/ask")
    def ask(body: Question) -> int:
        return len(body.question)

    return Door(app, twin=twin, metrics=Metrics())


def client(
    door: Door, *, address: str = "127.0.0.1", host: str = "localhost:8765", key: str = ""
) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx2.ASGITransport(door, client=(address, 5000))  # type: ignore[arg-type]
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


def call(door: Door, method: str, path: str, *, at: dict[str, str] | None = None, **request: Any) -> httpx2.Response:
    async def calling() -> httpx2.Response:
        async with client(door, **(at or {})) as http:
            return await http.request(method, path, **request)

    return asyncio.run(calling())


def secret_of(twin: Twin, scope: str, lasts: timedelta | None = None) -> str:
    return twin.keys.add("test", scope=scope, now=datetime.now(UTC), lasts=lasts)[1]


# --- without keys ---------------------------------------------------------------------------------------------------


def test_without_keys_this_machine_may_do_everything(twin: Twin) -> None:
    assert call(guarded(twin), "POST", "/v1/sync").json() == {"caller": "local"}


def test_without_keys_another_machine_may_do_nothing_but_see_the_page(twin: Twin) -> None:
    far = {"address": "203.0.113.5"}
    refused = call(guarded(twin), "GET", "/v1/status", at=far)
    assert refused.status_code == 401
    assert "twin keys add NAME" in refused.json()["detail"]
    assert call(guarded(twin), "GET", "/", at=far).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.nip.io"])
def test_without_keys_a_name_that_was_bound_to_this_machine_by_somebody_else_is_refused(twin: Twin, host: str) -> None:
    refused = call(guarded(twin), "GET", "/v1/status", at={"host": host})
    assert (refused.status_code, refused.json()["type"]) == (421, "urn:llm-twin:WrongHost")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8765", "[::1]:8765", "[::1]", "LOCALHOST:1", "127.8.0.1:80"])
def test_the_names_of_this_machine_are_answered(twin: Twin, host: str) -> None:
    assert call(guarded(twin), "GET", "/v1/status", at={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "0.0.0.0:8765", "localhost.", "127.0.0.1.", "[::1", ":8765", "127.0.0.1:x"])
def test_without_keys_what_is_no_name_of_this_machine_is_refused(twin: Twin, host: str) -> None:
    refused = call(guarded(twin), "GET", "/v1/status", headers={"Host": host})
    assert (refused.status_code, refused.json()["type"]) == (421, "urn:llm-twin:WrongHost")


def test_a_name_of_the_settings_is_answered_in_any_case(tmp_path: Path) -> None:
    Twin.init(tmp_path, author="You").close()
    with Twin.open(tmp_path, arguments={"server.hosts": ("Desk.local",)}) as twin:
        assert call(guarded(twin), "GET", "/v1/status", at={"host": "desk.LOCAL:8765"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "203.0.113.5"),
        ("x-forwarded-for", ""),
        ("Forwarded", "for=203.0.113.5"),
        ("X-Real-IP", "127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "localhost"),
        ("Via", "1.1 Caddy"),
    ],
)
def test_without_keys_what_comes_through_a_proxy_of_this_machine_is_not_of_this_machine(
    twin: Twin, name: str, value: str
) -> None:
    refused = call(guarded(twin), "GET", "/v1/status", headers={name: value})
    assert (refused.status_code, refused.json()["type"]) == (401, "urn:llm-twin:KeyMissing")
    assert call(guarded(twin), "GET", "/", headers={name: value}).status_code == 200
    secret = secret_of(twin, "read")
    assert call(guarded(twin), "GET", "/v1/status", headers={name: value}, at={"key": secret}).status_code == 200


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({}, 200),
        ({"http_version": "1.0"}, 401),  # what nginx speaks to the service that it stands before
        ({"client": None}, 401),
        ({"client": ("::1", 5000)}, 200),
        ({"client": ("::ffff:203.0.113.5", 5000)}, 401),
        ({"type": "websocket"}, 403),
    ],
)
def test_without_keys_only_a_plain_request_of_this_machine_is_trusted(
    twin: Twin, told: dict[str, Any], status: int
) -> None:
    assert asgi(guarded(twin), **told)[0] == status


def asgi(door: Door, **told: Any) -> tuple[int, dict[str, str]]:
    """Status and headers of what the door answers to a request as a server hands it over."""
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": "/v1/status", "query_string": b"",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 5000), **told,
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    waiting = [{"type": "websocket.connect" if scope["type"] == "websocket" else "http.request", "body": b""}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # the client neither sends more nor leaves
        return waiting.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(door(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0].get("headers", [])}
    return (403 if sent[0]["type"] == "websocket.close" else sent[0]["status"]), headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9999", "http://[", "localhost:8765"]
)
def test_a_page_of_another_site_may_not_post(twin: Twin, origin: str) -> None:
    refused = call(guarded(twin), "POST", "/v1/sync", headers={"Origin": origin})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:llm-twin:WrongOrigin")
    assert "access-control-allow-origin" not in refused.headers


def test_our_own_page_may_post(twin: Twin) -> None:
    assert call(guarded(twin), "POST", "/v1/sync", headers={"Origin": "http://localhost:8765"}).status_code == 200


def test_listening_to_the_world_needs_a_key() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_address(host, keys=False)
    check_address("0.0.0.0", keys=True)
    for host in ("", "0", "0.0.0.0", "::", "::ffff:0.0.0.0", "192.168.1.4", "example.org"):
        with pytest.raises(ConfigError, match="twin keys add NAME"):
            check_address(host, keys=False)


# --- with keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "allowed"), [("read", {"/v1/status"}), ("ask", {"/v1/status", "/v1/ask"}), ("admin", None)]
)
def test_a_key_opens_what_its_scope_names(twin: Twin, scope: str, allowed: set[str] | None) -> None:
    door, secret = guarded(twin), secret_of(twin, scope)
    for method, path in (("GET", "/v1/status"), ("POST", "/v1/ask"), ("POST", "/v1/sync")):
        body = {"json": {"question": "Why?"}} if path == "/v1/ask" else {}
        got = call(door, method, path, at={"key": secret, "address": "203.0.113.5"}, **body)
        assert got.status_code == (200 if allowed is None or path in allowed else 403), (path, got.text)


@pytest.mark.parametrize(
    "said", ["", "Bearer", "Bearer twin_00000000_wrong", "Basic dHdpbjp0d2lu", "twin_x", "Bearer ü"]
)
def test_without_the_right_key_nothing_is_told(twin: Twin, said: str) -> None:
    secret_of(twin, "read")
    headers = {"Authorization": said.encode()} if said else {}
    refused = call(guarded(twin), "GET", "/v1/status", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.headers["content-type"] == "application/problem+json"


def test_an_expired_key_is_wrong_and_still_keeps_the_service_locked(twin: Twin) -> None:
    secret = secret_of(twin, "admin", lasts=timedelta(microseconds=1))
    assert call(guarded(twin), "GET", "/v1/status", at={"key": secret}).status_code == 401
    assert call(guarded(twin), "GET", "/v1/status").status_code == 401


def test_a_revoked_key_stops_working_within_seconds(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    door, secret = guarded(twin), secret_of(twin, "read")
    secret_of(twin, "admin")
    now = 0.0
    door.keys._clock = lambda: now
    assert call(door, "GET", "/v1/status", at={"key": secret}).status_code == 200
    twin.keys.revoke(secret.split("_")[1])
    now = security.KNOWN_FOR_S
    assert call(door, "GET", "/v1/status", at={"key": secret}).status_code == 401


def test_revoking_the_last_key_does_not_open_a_service_to_other_machines(twin: Twin) -> None:
    secret_of(twin, "admin")
    twin.keys.revoke("test")
    assert call(guarded(twin), "GET", "/v1/status", at={"address": "203.0.113.5"}).status_code == 401


def test_who_tries_many_wrong_keys_has_to_wait_and_others_do_not(twin: Twin) -> None:
    door, secret = guarded(twin), secret_of(twin, "read")
    door.failures.clock = lambda: 0.0
    wrong = {"key": "twin_00000000_wrong"}
    assert [call(door, "GET", "/v1/status", at=wrong).status_code for _ in range(10)] == [401] * 10
    refused = call(door, "GET", "/v1/status", at=wrong)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "6")
    assert call(door, "GET", "/v1/status", at={"key": secret, "address": "203.0.113.9"}).status_code == 200


def test_wrong_keys_do_not_lock_out_who_had_the_right_one_at_the_same_address(twin: Twin) -> None:
    door, secret, unused = guarded(twin), secret_of(twin, "read"), secret_of(twin, "read")
    now = 0.0
    door.failures.clock = lambda: 0.0
    door.keys._clock = lambda: now
    assert call(door, "GET", "/v1/status", at={"key": secret}).status_code == 200
    for _ in range(11):
        call(door, "GET", "/v1/status", at={"key": "twin_00000000_wrong"})
    now = 10 * security.KNOWN_FOR_S
    assert call(door, "GET", "/v1/status", at={"key": secret}).status_code == 200
    assert call(door, "GET", "/v1/status", at={"key": unused}).status_code == 429
    twin.keys.revoke(secret.split("_")[1])
    now += security.KNOWN_FOR_S
    assert [call(door, "GET", "/v1/status", at={"key": secret}).status_code for _ in range(2)] == [401, 429]


def test_wrong_keys_are_counted_by_the_network_that_one_owner_has_of_ipv6(twin: Twin) -> None:
    door = guarded(twin)
    secret_of(twin, "read")
    door.failures.clock = lambda: 0.0
    addresses = [f"2001:db8:0:1::{number:x}" for number in range(11)] + ["2001:db8:0:2::1", "192.0.2.1", "192.0.2.2"]
    wrong = [call(door, "GET", "/v1/status", at={"key": "no", "address": each}).status_code for each in addresses]
    assert wrong == [401] * 10 + [429] + [401] * 3


def test_a_wrong_an_expired_and_a_revoked_key_get_the_same_answer(twin: Twin) -> None:
    expired, revoked = secret_of(twin, "read", lasts=timedelta(microseconds=1)), secret_of(twin, "read")
    twin.keys.revoke(revoked.split("_")[1])
    answers = {
        (got.status_code, got.text)
        for key in (expired, revoked, expired[:14] + "A" * 43, "twin_00000000_" + "A" * 43, "guess")
        for got in [call(guarded(twin), "GET", "/v1/status", at={"key": key})]
    }
    assert len(answers) == 1


def test_a_warehouse_that_fails_is_a_problem_told_and_opens_nothing(twin: Twin) -> None:
    door = guarded(twin)

    def fail() -> list[Any]:
        raise StoreError("the warehouse is locked; try again")

    twin.keys.all = fail  # type: ignore[method-assign]
    for path in ("/", "/v1/status"):
        got = call(door, "GET", path)
        assert (got.status_code, got.json()["type"]) == (503, "urn:llm-twin:StoreError")


def test_a_key_that_asks_too_often_is_told_when_it_may_again(tmp_path: Path) -> None:
    Twin.init(tmp_path, author="You").close()
    with Twin.open(tmp_path, arguments={"server.asks_per_minute": 2}) as twin:
        door, mine, yours = guarded(twin), secret_of(twin, "ask"), secret_of(twin, "ask")
        door.asks.clock = lambda: 0.0
        codes = [
            call(door, "POST", "/v1/ask", at={"key": key}, json={"question": "Why?"}).status_code
            for key in (mine, mine, mine, yours)
        ]
        assert codes == [200, 200, 429, 200]
        assert call(door, "GET", "/v1/status", at={"key": mine}).status_code == 200


def test_buckets_fill_up_again_at_their_pace() -> None:
    now = 0.0
    buckets = Buckets(60, clock=lambda: now)
    assert [buckets.wait_s("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now = 2.5
    assert [buckets.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.5]


# --- bodies, headers, the log ---------------------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_refused_whether_announced_or_not(tmp_path: Path) -> None:
    Twin.init(tmp_path, author="You").close()

    async def drops() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 100

    with Twin.open(tmp_path, arguments={"server.max_body_bytes": 1000}) as twin:
        for body in (b" " * 1001, drops()):
            refused = call(guarded(twin), "POST", "/v1/ask", content=body, headers={"Content-Type": "application/json"})
            assert (refused.status_code, refused.json()["type"]) == (413, "urn:llm-twin:BodyTooLong")


def test_a_body_that_never_ends_is_refused_in_time(tmp_path: Path) -> None:
    Twin.init(tmp_path, author="You").close()

    async def drip() -> AsyncIterator[bytes]:
        yield b'{"question":'
        await asyncio.sleep(30)

    with Twin.open(tmp_path, arguments={"server.body_timeout_s": 0.05}) as twin:
        refused = call(guarded(twin), "POST", "/v1/ask", content=drip(), headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["type"]) == (408, "urn:llm-twin:BodyTooSlow")


def test_a_reply_that_nobody_reads_is_given_up(
    twin: Twin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(security, "STALLED_S", 0.05)
    ended: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: more\n\n"
        finally:
            ended.append("the work behind it")

    async def stalls(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def stays() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with aclosing(endless()) as body:
            await StreamingResponse(body)(scope, receive, send)

    scope = {"type": "http", "method": "GET", "path": "/", "client": ("127.0.0.1", 5000)}
    door = Door(app, twin=twin, metrics=Metrics())
    with caplog.at_level(logging.WARNING, "llm_twin.access"):
        asyncio.run(asyncio.wait_for(door({**scope, "headers": [(b"host", b"localhost")]}, stays, stalls), 30))
    assert ended == ["the work behind it"]
    assert "127.0.0.1 took nothing of its reply" in caplog.text


@pytest.mark.parametrize("length", ["9" * 5000, "0" * 20 + "1", "10000001"])
def test_a_length_that_no_request_has_is_refused(twin: Twin, length: str) -> None:
    headers = [(b"host", b"localhost"), (b"content-length", length.encode())]
    assert asgi(guarded(twin), method="POST", path="/v1/ask", headers=headers)[0] == 413


def test_no_cache_keeps_what_a_caller_was_told_but_may_keep_the_page(twin: Twin) -> None:
    door = guarded(twin)
    assert call(door, "GET", "/v1/status").headers["cache-control"] == "no-store"
    assert call(door, "GET", "/v1/status", at={"address": "203.0.113.5"}).headers["cache-control"] == "no-store"
    assert "cache-control" not in call(door, "GET", "/").headers


def test_every_reply_tells_the_browser_to_run_nothing_of_others(twin: Twin) -> None:
    for path in ("/", "/v1/status", "/nowhere"):
        headers = call(guarded(twin), "GET", path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_only_the_sites_of_the_settings_may_read_replies(tmp_path: Path) -> None:
    Twin.init(tmp_path, author="You").close()
    notes = "https://notes.example.org"
    with Twin.open(tmp_path, arguments={"server.cors_origins": (notes,)}) as twin:
        asked = {"Origin": notes, "Access-Control-Request-Method": "POST"}
        assert call(guarded(twin), "OPTIONS", "/v1/ask", headers=asked).status_code == 204
        allowed = call(guarded(twin), "POST", "/v1/sync", headers={"Origin": notes})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, notes)
        assert "access-control-allow-credentials" not in allowed.headers
        assert allowed.headers["vary"] == "Origin"
        near = [
            f"{notes}.evil.example",
            notes.upper(),
            notes + "/",
            notes.replace("https", "http"),
            f"{notes}, {notes}",
        ]
        for origin in near:
            got = call(guarded(twin), "GET", "/v1/status", headers={"Origin": origin})
            assert "access-control-allow-origin" not in got.headers
            assert call(guarded(twin), "OPTIONS", "/v1/ask", headers={**asked, "Origin": origin}).status_code != 204
        other = call(guarded(twin), "GET", "/v1/status", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_access_log_holds_no_questions_and_no_keys(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    secret = secret_of(twin, "read")
    with caplog.at_level(logging.INFO, logger="llm_twin.access"):
        call(guarded(twin), "GET", "/v1/status?q=my+secret+question", at={"key": secret})
        call(guarded(twin), "GET", "/v1/status", at={"key": "twin_00000000_nearly"})
        call(guarded(twin), "GET", "/a%0Ab")
    assert "GET /v1/status 200" in caplog.text
    assert "secret" not in caplog.text
    assert secret not in caplog.text
    assert "nearly" not in caplog.text
    assert "/a?b" in caplog.text


def test_nothing_that_a_client_sends_can_begin_a_line_of_the_log(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llm_twin.access"):
        secret_of(twin, "read")
        door = guarded(twin)
        key = (b"authorization", b"Bearer no")
        asgi(door, path="/a\r\nb\x1b[2J\u2028c", client=("1\x1b[31m\r\n2", 1), headers=[key])
    assert "1?[31m??2 GET /a??b?[2J?c 401" in caplog.text
    assert "a wrong key came from 1?[31m??2" in caplog.text
    assert not {character for record in caplog.records for character in record.getMessage()} & set("\r\n\x1b\u2028")


def test_questions_stand_in_the_log_where_that_was_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Twin.init(tmp_path, author="You").close()
    with (
        Twin.open(tmp_path, arguments={"server.log_questions": True}) as twin,
        caplog.at_level(logging.INFO, logger="llm_twin.access"),
    ):
        call(guarded(twin), "GET", "/v1/status?q=clocks")
    assert "/v1/status?q=clocks" in caplog.text


# --- every route ----------------------------------------------------------------------------------------------------

EXPECTED = {
    "public": {"/", "/healthz", "/readyz", "/openapi.json"},
    "admin": {"/v1/sync"},
}


def test_every_route_needs_the_scope_that_was_meant_for_it(twin: Twin) -> None:
    needs: dict[str, set[str]] = {}
    for path, methods in create_app(twin).openapi()["paths"].items():
        for method in methods:
            needs.setdefault(needed(method.upper(), path.replace("{", "").replace("}", "")), set()).add(path)
    assert needs["public"] <= EXPECTED["public"]
    assert needs["admin"] <= EXPECTED["admin"], "these routes are named by no rule of RULES"
    assert {"/v1/ask", "/v1/write"} <= needs["ask"]
    assert {"/v1/search", "/v1/documents", "/v1/status"} <= needs["read"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sync", "/v1/nothing", "/web", "/v1/status/../sync", "/V1/ask", "//", "", "/v1//ask", "/v1/ask/",
        "/v1/ask\n", "//v1/ask", "/v1/ask/../sync", "/v1/ask;x", "/v1/ask%2f", "/mcp/../v1/sync", "/mcp//",
    ],
)  # fmt: skip
def test_a_path_that_no_rule_names_is_for_admins(path: str) -> None:
    assert needed("POST", path) == "admin"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("HEAD", "/v1/status", "read"), ("HEAD", "/", "public"), ("OPTIONS", "/v1/status", "admin"),
        ("OPTIONS", "/", "admin"), ("PUT", "/", "admin"), ("get", "/v1/status", "admin"), ("TRACE", "/", "admin"),
        ("GET", "/web/../v1/status", "public"),  # of the page's files alone: see the test that follows
    ],
)  # fmt: skip
def test_a_method_needs_its_own_scope(method: str, path: str, scope: str) -> None:
    assert needed(method, path) == scope


WAYS_ROUND = [
    "/web/../v1/status", "/web/..%2fv1%2fstatus", "/web/%2e%2e/v1/status", "/web//../v1/status", "/%2fv1/status",
    "//v1/status", "/v1//status", "/v1/status/", "/v1/status%2f", "/v1/./status", "/V1/STATUS", "/v1/status%00",
    "/v1%2fstatus", "/web/../../../twin.toml", "/web/..%2f..%2f..%2ftwin.toml", "/web/%00", "/v1/status%0a",
    "/v1/status;/web/", "http://localhost/v1/status", "/healthz/../v1/status", "/favicon.ico/../v1/status",
]  # fmt: skip


def test_no_way_of_writing_a_path_leads_past_the_table(twin: Twin) -> None:
    twin.keys.add("mine", scope="admin", now=datetime.now(UTC))
    door = create_app(twin)
    told = {path: asgi(door, path=unquote(path), raw_path=path.encode(), root_path="")[0] for path in WAYS_ROUND}  # type: ignore[arg-type]
    assert set(told.values()) <= {401, 404, 405}, told
    assert asgi(door, path="/web/app.js", raw_path=b"/web/app.js", root_path="")[0] == 200  # type: ignore[arg-type]


def test_a_stranger_is_told_what_is_not_ready_and_not_where(twin: Twin) -> None:
    door = create_app(twin)
    door.state.desk.warm.set()
    for address, named in (("127.0.0.1", True), ("203.0.113.5", False)):
        got = call(door, "GET", "/readyz", at={"address": address})  # type: ignore[arg-type]
        assert got.status_code == 503
        (index,) = (each for each in got.json()["missing"] if each["name"] == "index")
        assert (index["detail"] == "nothing is indexed yet") is named
        assert index["remedy"] == "twin sync"


def test_strangers_cannot_fill_the_memory_with_methods_of_their_own(twin: Twin) -> None:
    door = create_app(twin)
    for number in range(20):
        asgi(door, method=f"X{number}")  # type: ignore[arg-type]
    shown = door.state.metrics.exposition().decode()
    assert 'method="other"' in shown
    assert "X1" not in shown


@pytest.mark.parametrize("proxies", [["*"], ["proxy.local"], ["127.0.0.1", "10.0.0.1/8"]])
def test_a_proxy_is_trusted_by_its_address_alone(tmp_path: Path, proxies: list[str]) -> None:
    Twin.init(tmp_path, author="You").close()
    with pytest.raises(ConfigError, match="is no address of a proxy; name yours"):
        Twin.open(tmp_path, arguments={"server.trusted_proxies": proxies})


# --- on the wire ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    Twin.init(tmp_path, author="You").close()
    arguments = {"server.trusted_proxies": ["127.0.0.1"], "server.asks_per_minute": 1000}
    with Twin.open(tmp_path, arguments=arguments) as twin, Served(twin, warm=False) as served:
        yield served


def said(served: Served, request: bytes) -> list[bytes]:
    """The status lines that the service answers to these bytes."""
    host, _, port = served.address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
    return re.findall(rb"^HTTP/1.1 \d+", answer, re.MULTILINE)


GET = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"
LAST = GET + b"Connection: close\r\n\r\n"
POST = b"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "smuggled",
    [
        POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
        POST + b"Content-Length: +4\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n",
        GET + b"Host: evil.example\r\n\r\n",
        GET + b"X-Folded: a\r\n b\x00c\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"GET /v1/sta\x0btus HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"X-Long: " + b"a" * 200_000 + b"\r\n\r\n",
        GET + b"X: y\r\n" * 100_000 + b"\r\n",
    ],
)
def test_what_two_servers_could_read_in_two_ways_ends_the_connection(served: Served, smuggled: bytes) -> None:
    statuses = said(served, smuggled + LAST)
    assert len(statuses) <= 1
    assert all(status == b"HTTP/1.1 400" for status in statuses)
    assert said(served, LAST) == [b"HTTP/1.1 200"]


def test_a_length_beside_chunks_does_not_hide_a_second_request(served: Served) -> None:
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    length = str(len(b"0\r\n\r\n" + hidden)).encode()
    both = POST + b"Content-Length: " + length + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
    assert b"HTTP/1.1 200" not in said(served, both)[1:]


def test_a_proxy_that_is_trusted_names_who_calls_and_nobody_else_can(served: Served) -> None:
    served.app.state.twin.keys.add("mine", scope="read", now=datetime.now(UTC))
    wrong = {"Authorization": "Bearer no"}

    def code(forwarded: str) -> int:
        return served.client.get("/v1/status", headers={**wrong, "X-Forwarded-For": forwarded}).status_code

    assert [code(f"10.9.9.{number}, 203.0.113.5") for number in range(11)] == [401] * 10 + [429]
    assert code("203.0.113.5, 203.0.113.6") == 401
    assert served.client.get("/v1/status", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401
