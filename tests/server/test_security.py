from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from llm_twin.core.errors import ConfigError
from llm_twin.server import problems, security
from llm_twin.server.app import create_app
from llm_twin.server.metrics import Metrics
from llm_twin.server.security import Buckets, Door, check_address, needed
from llm_twin.twin import Twin


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


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST:1"])
def test_the_names_of_this_machine_are_answered(twin: Twin, host: str) -> None:
    assert call(guarded(twin), "GET", "/v1/status", at={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999"])
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
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
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


@pytest.mark.parametrize("path", ["/v1/sync", "/v1/nothing", "/web", "/v1/status/../sync", "/V1/ask", "//"])
def test_a_path_that_no_rule_names_is_for_admins(path: str) -> None:
    assert needed("POST", path) == "admin"
