"""The guard at the service's door: who calls, from where, how often, how much, and what a browser may do with replies.

One ASGI middleware around the whole application, so that no route can be added past it. What it knows of routes is one
table, `RULES`; a path that no rule names needs the scope `admin`.

Without any key the service trusts this machine and nobody else: it listens on loopback only, and refuses requests that
a page of another site could make a browser send (DNS rebinding, cross-site posts) or that came through a proxy.

docs/security.md has the threats one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from llm_twin.core.errors import ConfigError, TwinError
from llm_twin.server.metrics import Metrics
from llm_twin.server.problems import Refused, problem_of, response
from llm_twin.settings import ServerSettings
from llm_twin.twin import Twin

_log = logging.getLogger("llm_twin.access")

ALL_SCOPES = frozenset({"read", "ask", "admin"})

RULES: Sequence[tuple[str, str, str]] = (
    ("GET", r"/|/web/.*|/favicon\.ico", "public"),
    ("GET", r"/healthz|/readyz|/openapi\.json", "public"),
    (
        "GET",
        r"/v1/(status|coverage|voice|sources|runs|models(/.*)?|documents(/.*)?|traces(/.*)?|jobs(/.*)?)|/metrics",
        "read",
    ),
    ("POST", r"/v1/search", "read"),
    ("GET", r"/v1/(conversations|feedback|batches)(/.*)?", "ask"),
    ("POST", r"/v1/(ask|write|chat/completions|feedback|batches)", "ask"),
    ("DELETE", r"/v1/(conversations|feedback|batches)/.*", "ask"),
    ("GET|POST|DELETE", r"/mcp/?", "ask"),
)
"""Method, path and the scope it needs; the first that fits counts, and what none names needs `admin`."""

PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""What proxies add to a request. A request with any of it was not sent on this machine, wherever it comes from."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""On every reply. HSTS is the business of whoever terminates TLS."""

PRIVATE = ("/v1/", "/mcp", "/metrics")
"""Beginnings of paths whose replies no cache may keep, unless the reply itself says otherwise."""

KNOWN_FOR_S = 5.0
"""Seconds for which a key is trusted without looking again, so also the longest a revoked one still works."""

FAILED_SIGN_INS = 10
"""Wrong keys that one address may try in a minute."""

STALLED_S = 60.0
"""Seconds for which a client may take nothing of what is sent to it; a reply that nobody reads is kept no longer."""

_MOST_BUCKETS = 10_000
_LONGEST_LENGTH = 15  # digits of a Content-Length; more would be a petabyte
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the id of a key, or `local` on a machine that needs none."""

    id: str
    scopes: frozenset[str]


LOCAL = Caller("local", ALL_SCOPES)
NOBODY = Caller("nobody", frozenset())


def needed(method: str, path: str) -> str:
    """The scope that a request needs."""
    method = {"HEAD": "GET"}.get(method, method)
    for methods, pattern, scope in RULES:
        if method in methods.split("|") and re.fullmatch(pattern, path):
            return scope
    return "admin"


def check_address(host: str, *, keys: bool) -> None:
    """Refuse to listen beyond this machine where nobody would be asked for a key. Raises `ConfigError`."""
    if keys or _is_loopback(host):
        return
    raise ConfigError(
        f"without a key everybody who reaches {host or 'any address of this machine'} could read and ask; make one "
        f"with `twin keys add NAME`, or listen on 127.0.0.1"
    )


def _is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, is of this machine. No address is none: a proxy may stand before a socket."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _neighbours(address: str) -> str:
    """Whose wrong keys are counted together: an IPv4 address, or the network of 2⁶⁴ addresses that a home gets."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if known.version == 4 else f"{int(known) >> 64:x}::/64"


@dataclass(slots=True)
class Buckets:
    """Token buckets: each name may act `per_minute` times a minute, all of them at once if it likes."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait_s(self, name: str, *, take: bool = True) -> float:
        """Seconds until `name` may act; 0 when it may now, which then counts unless `take` is false."""
        now = self.clock()
        tokens, since = self._left.pop(name, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - since) * self.per_minute / 60)
        allowed = tokens >= 1
        self._left[name] = (tokens - 1 if allowed and take else tokens, now)
        while len(self._left) > _MOST_BUCKETS:  # the one that acted longest ago is full again, or nearly
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) * 60 / self.per_minute


class KeyRing:
    """The twin's keys, looked up in a thread and remembered for `KNOWN_FOR_S` seconds."""

    def __init__(self, twin: Twin, clock: Callable[[], float] = time.monotonic) -> None:
        self._twin = twin
        self._clock = clock
        self._callers: OrderedDict[bytes, tuple[float, Caller | None]] = OrderedDict()
        self._any: tuple[float, bool] | None = None

    async def required(self) -> bool:
        """Whether a caller needs a key: as soon as there is one, even where it has expired."""
        if self._any is None or self._any[0] <= self._clock():
            there = bool(await run_in_threadpool(self._twin.keys.all))
            self._any = (self._clock() + KNOWN_FOR_S, there)
        return self._any[1]

    def knew(self, secret: str) -> bool:
        """Whether it was right when it was last looked up."""
        known = self._callers.get(_digest(secret))
        return known is not None and known[1] is not None

    async def caller(self, secret: str) -> Caller | None:
        """Whose secret this is; None for a wrong, revoked or expired one."""
        name = _digest(secret)
        known = self._callers.get(name)
        if known is None or known[0] <= self._clock():
            key = await run_in_threadpool(self._twin.keys.recognise, secret, now=datetime.now(UTC))
            known = (self._clock() + KNOWN_FOR_S, Caller(key.id, key.scopes) if key else None)
            self._callers[name] = known
            self._callers.move_to_end(name)
            while len(self._callers) > _MOST_BUCKETS:
                self._callers.popitem(last=False)
        return known[1]


def _digest(secret: str) -> bytes:
    """What stands for a secret in memory, which holds none either."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Door:
    """ASGI middleware: lets a request in, or answers it with a problem; adds the headers and one line of access log."""

    def __init__(self, app: ASGIApp, *, twin: Twin, metrics: Metrics) -> None:
        self.app = app
        self.limits: ServerSettings = twin.settings.server
        self.metrics = metrics
        self.keys = KeyRing(twin)
        self.asks = Buckets(self.limits.asks_per_minute)
        self.reads = Buckets(self.limits.reads_per_minute)
        self.failures = Buckets(FAILED_SIGN_INS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "websocket":  # none is served, and none may come past this guard
            await WebSocketClose()(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), origin, scope["path"])
            try:
                async with asyncio.timeout(STALLED_S):
                    await send(message)
            except TimeoutError:
                raise _NotReading from None

        caller = NOBODY
        try:
            if origin in self.limits.cors_origins and scope["method"] == "OPTIONS":
                await _answer_preflight(scope, receive, sending)
                return
            caller = await self._admitted(scope, headers)
            scope.setdefault("state", {})["caller"] = caller
            await self.app(scope, _Limited(receive, headers, self.limits), sending)
        except _NotReading:
            _log.warning("%s took nothing of its reply for %.0f s", _printable(_client(scope)), STALLED_S)
        except (Refused, TwinError) as error:
            if status:  # too late to say so: the reply has begun
                raise
            problem = problem_of(error)
            self.metrics.refused(problem.name)
            told = response(problem, error.headers if isinstance(error, Refused) else None, path=scope["path"])
            await told(scope, receive, sending)
        finally:
            spent_ms = (time.perf_counter() - started) * 1000
            path = _shown(scope, questions=self.limits.log_questions)
            who = _printable(_client(scope)) or "-"
            _log.info("%s %s %s %d %.1f ms %s", who, scope["method"], path, status, spent_ms, caller.id)

    async def _admitted(self, scope: Scope, headers: Headers) -> Caller:
        """Who calls, once everything about the request but its body is in order. Raises `Refused`."""
        locked = await self.keys.required()
        self._check_site(scope, headers, locked=locked)
        scope_needed = needed(scope["method"], scope["path"])
        if not locked and _is_loopback(_client(scope)) and not _is_proxied(scope, headers):
            return LOCAL
        caller = await self._identify(scope, headers)
        if scope_needed == "public":
            return caller
        if caller is NOBODY:
            raise Refused(
                401, "KeyMissing", "A key is needed",
                "this service needs a key; send it as `Authorization: Bearer twin_…` (`twin keys add NAME` makes one)",
                headers={"WWW-Authenticate": 'Bearer realm="llm-twin"'},
            )  # fmt: skip
        if scope_needed not in caller.scopes:
            raise Refused(
                403, "ScopeMissing", "Not allowed",
                f"this needs a key of scope {scope_needed!r}, and yours allows {', '.join(sorted(caller.scopes))}; "
                f"ask whoever runs the service for another",
            )  # fmt: skip
        self._check_rate(caller, scope_needed)
        return caller

    async def _identify(self, scope: Scope, headers: Headers) -> Caller:
        """Whose key came along, `NOBODY` when none did. Raises `Refused` for one that is wrong."""
        said = headers.get("authorization")
        if said is None:
            return NOBODY
        kind, _, secret = said.partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else ""
        address = _printable(_client(scope))
        # A key that was right goes on working: behind a proxy that nobody named, all callers share one address.
        if not self.keys.knew(secret) and (wait := self.failures.wait_s(_neighbours(address), take=False)):
            raise _too_many(f"too many wrong keys came from {address}", wait)
        caller = await self.keys.caller(secret)
        if caller is None:
            self.failures.wait_s(_neighbours(address))
            _log.warning("a wrong key came from %s", address)
            raise Refused(
                401, "KeyWrong", "The key is wrong",
                "this key is not known here: it was mistyped, revoked, or its time is over (`twin keys list` tells)",
                headers={"WWW-Authenticate": 'Bearer realm="llm-twin", error="invalid_token"'},
            )  # fmt: skip
        return caller

    def _check_rate(self, caller: Caller, scope_needed: str) -> None:
        buckets = self.asks if scope_needed == "ask" else self.reads
        if wait := buckets.wait_s(caller.id):
            raise _too_many(f"this key has used its {buckets.per_minute} requests of the minute", wait)

    def _check_site(self, scope: Scope, headers: Headers, *, locked: bool) -> None:
        """Refuse what a page of another site made a browser send. Raises `Refused`."""
        host = headers.get("host", "")
        if not locked and not self._is_ours(host):
            raise Refused(
                421, "WrongHost", "Wrong host",
                f"this service answers to localhost, not to {host[:100]!r}; if that name is meant, add it to "
                f"server.hosts in twin.toml",
            )  # fmt: skip
        origin = headers.get("origin")
        if scope["method"] in _UNSAFE and origin and not self._is_same(origin, host):
            raise Refused(
                403, "WrongOrigin", "Wrong origin",
                f"a page of {origin[:100]!r} may not use this service; if it is yours, add it to "
                f"server.cors_origins in twin.toml",
            )  # fmt: skip

    def _is_ours(self, host: str) -> bool:
        # An address cannot be bound to another machine, so that any of loopback will do.
        name = re.sub(r":\d+\Z", "", host).lower()
        return _is_loopback(name) or name in {each.lower() for each in self.limits.hosts}

    def _is_same(self, origin: str, host: str) -> bool:
        _, _, site = origin.partition("://")
        return (site != "" and site.lower() == host.lower()) or origin in self.limits.cors_origins

    def _add_headers(self, headers: MutableHeaders, origin: str | None, path: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if path.startswith(PRIVATE):
            headers.setdefault("cache-control", "no-store")
        if origin in self.limits.cors_origins:
            headers["access-control-allow-origin"] = str(origin)
            headers["cross-origin-resource-policy"] = "cross-origin"
            headers.add_vary_header("Origin")


class _NotReading(Exception):
    """A client is there and takes nothing. `TimeoutError` is an `OSError`, which Starlette takes for one that left."""


class _Limited:
    """A request's body as it comes in, cut off when it is too long or too slow. Raises `Refused`."""

    def __init__(self, receive: Receive, headers: Headers, limits: ServerSettings) -> None:
        self._receive = receive
        self._most = limits.max_body_bytes
        self._timeout_s = limits.body_timeout_s
        self._seen = 0
        self._whole = False
        self._until = asyncio.get_running_loop().time() + limits.body_timeout_s
        announced = headers.get("content-length", "")
        is_number = announced.isascii() and announced.isdigit()
        if is_number and (len(announced) > _LONGEST_LENGTH or int(announced) > self._most):
            raise self._too_long()

    async def __call__(self) -> Message:
        if self._whole:  # what follows the body is only ever that the client left, and that may take its time
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise Refused(
                408, "BodyTooSlow", "Too slow", f"the request took longer than {self._timeout_s:g} s to arrive",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        self._seen += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._seen > self._most:
            raise self._too_long()
        return message

    def _too_long(self) -> Refused:
        return Refused(
            413, "BodyTooLong", "Too long",
            f"a request may have {self._most:,} bytes; send less, or raise server.max_body_bytes",
            headers={"Connection": "close"},
        )  # fmt: skip


async def _answer_preflight(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell a browser that a page of an allowed origin may send what our API takes."""
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": "authorization, content-type, mcp-protocol-version, mcp-session-id",
        "Access-Control-Max-Age": "600",
    }
    await Response(status_code=204, headers=allowed)(scope, receive, send)


def _too_many(what: str, wait_s: float) -> Refused:
    after = math.ceil(wait_s)
    return Refused(
        429, "TooMany", "Too many requests", f"{what}; try again in {after} s", headers={"Retry-After": str(after)}
    )


def _client(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


def _is_proxied(scope: Scope, headers: Headers) -> bool:
    """Whether a request came through a proxy: by what most add, or by HTTP/1.0, which little else speaks."""
    return scope.get("http_version") == "1.0" or any(name in headers for name in PROXY_HEADERS)


def _shown(scope: Scope, *, questions: bool) -> str:
    """The path for the log; what a client put after the question mark only where that was asked for."""
    query = scope.get("query_string", b"").decode("latin-1")
    return _printable(f"{scope['path']}?{query}" if questions and query else scope["path"])


def _printable(text: str) -> str:
    """A text in which nothing ends the line or turns a terminal's head."""
    return "".join(character if character.isprintable() else "?" for character in text)
