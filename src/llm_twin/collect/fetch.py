"""The one way to fetch from the network: polite to hosts, and safe against whatever they answer.

    with Fetcher(policy=FetchPolicy(contact="https://you.example/about"), cache_dir=folder) as fetcher:
        page = fetcher.fetch("https://you.example/posts/", accept=PAGES)
        page.text, page.content_type, page.url

- Polite: robots.txt (RFC 9309) with its crawl-delay, a rate and a number of connections per host, Retry-After,
  exponential back-off with jitter, conditional requests against a cache on disk.
- Safe: every connection goes to an address that was checked (`addresses.py`), that of a redirect too. Bytes are bounded
  before and after decompression, and a request in total time.
- Proxies in the environment (`HTTPS_PROXY`) are not used: a proxy looks names up itself, which leaves nothing to check.

The rate holds for one `Fetcher`, the cache may be shared by several processes. A `Fetcher` may be used by many threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import random as randomness
import socket
import ssl
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpcore2
import httpx2
from protego import Protego

from llm_twin import __version__
from llm_twin.collect.addresses import Network, Resolver, addresses_of, checked_url, joined, origin, shown
from llm_twin.collect.content import (
    CODINGS,
    MEDIA,
    SNIFFED,
    decoded,
    decompressed,
    matches,
    media_type,
    sniffed,
)
from llm_twin.collect.gate import Gate
from llm_twin.core.errors import ItemError, StoreError

PRODUCT = "llm-twin"
"""The name robots.txt may address us by."""
PAGES = ("text/html", "application/xhtml+xml")
"""What `accept` says for an article."""
FEEDS = (
    "application/rss+xml", "application/atom+xml", "application/rdf+xml", "application/xml", "text/xml",
    "application/feed+json",
)  # fmt: skip
"""What `accept` says for a feed or a sitemap."""
JSON = ("application/json",)
"""What `accept` says for an API."""


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How politely and how far to fetch; the fields of `[fetch]` in the settings, where their meaning stands."""

    contact: str = ""
    requests_per_second: float = 1.0
    concurrency: int = 2
    timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    download_timeout_s: float = 600.0
    retries: int = 3
    max_wait_s: float = 60.0
    max_bytes: int = 20_000_000
    max_download_bytes: int = 2_000_000_000
    max_redirects: int = 5
    cache_max_bytes: int = 500_000_000
    respect_robots: bool = True
    allow_private: bool = False

    @property
    def user_agent(self) -> str:
        """Who we are, and where to write to when we disturb."""
        return f"{PRODUCT}/{__version__} (+{self.contact})" if self.contact else f"{PRODUCT}/{__version__}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a server answered, decompressed.

    `url` is the address after redirects, header names are in lower case, `content_type` is the type the bytes really
    have (without parameters). `from_cache` says that the server confirmed an earlier answer; `fetched_at` is when.
    `rendered` says that it is a page as a browser shows it, after its scripts ran.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    content_type: str
    from_cache: bool
    fetched_at: datetime
    rendered: bool = False

    @property
    def text(self) -> str:
        """The content as text, in the encoding it really has; decoded anew on every use."""
        return decoded(self.content, self.headers.get("content-type", ""))


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that came from the network: where from (after redirects), where it stands, and its size in bytes."""

    url: str
    headers: Mapping[str, str]
    path: Path
    size: int
    content_type: str
    fetched_at: datetime


class HttpError(ItemError):
    """A server answered, and not with what was asked for. `headers` has names in lower case."""

    def __init__(self, reason: str, *, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


class Gone(HttpError):
    """There is nothing at this address (404, 410)."""

    gone = True


class Fetcher:
    """Fetches by one policy. A context manager: leaving it closes connections and trims the cache.

    Everything that depends on the world can be replaced: `resolve` (names to addresses), `sockets` (connects to an
    address), `clock` (seconds, monotonic), `sleep`, `now` (UTC), `random` (0 to 1), and `ssl_context`: without one,
    whom the system trusts is trusted, or the authorities in `$SSL_CERT_FILE`.
    """

    def __init__(
        self,
        *,
        cache_dir: Path,
        policy: FetchPolicy,
        resolve: Resolver = addresses_of,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = randomness.random,
        sockets: httpcore2.NetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy
        self._now, self._random = now, random
        self._cache = _Cache(cache_dir, policy.cache_max_bytes)
        self._turns = _Turns(policy.concurrency, clock, sleep, random)
        self._network = Network(
            resolve=resolve,
            sockets=sockets or httpcore2.SyncBackend(),
            clock=clock,
            connect_timeout_s=policy.connect_timeout_s,
            allow_private=policy.allow_private,
        )
        self._robots: dict[str, _Robots] = {}
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context or httpcore2.default_ssl_context(),
            network_backend=self._network,
            max_connections=None,
            max_keepalive_connections=20,
            keepalive_expiry=15.0,
        )

    @classmethod
    def open(cls, cache_dir: Path, **policy: Any) -> Fetcher:
        """A fetcher by the fields of a `FetchPolicy`."""
        return cls(cache_dir=cache_dir, policy=FetchPolicy(**policy))

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and keep the cache below its limit, oldest entries going first."""
        if "gate" in self.__dict__:
            self.__dict__.pop("gate").close()
        self._pool.close()
        self._cache.trim()

    def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        accept: Sequence[str] = (),
        check_robots: bool = True,
        max_bytes: int | None = None,
    ) -> Fetched:
        """GET an address, following redirects.

        `accept` are the content types wanted, as patterns (`text/*`); other types are skipped. `headers` are sent to
        the origin of `url` alone, never to where it redirects. `max_bytes` replaces the policy's.

        Raises `Gone` for 404 and 410, `HttpError` for other statuses, and `ItemError` for the rest: skipped when
        robots.txt disallows it, the type is not wanted or it is too large; failed when the network or the server
        failed, or the address is not one to connect to.
        """
        ask = _Ask(
            dict(headers or {}),
            tuple(accept),
            check_robots,
            max_bytes or self.policy.max_bytes,
            limit="" if max_bytes else "fetch.max_bytes",
        )
        answer = self._get(url, ask)
        kind = _checked_kind(answer, ask, answer.content)
        return Fetched(answer.url, answer.status, answer.headers, answer.content, kind, answer.from_cache, self._now())

    def download(
        self,
        url: str,
        to: Path,
        *,
        headers: Mapping[str, str] | None = None,
        accept: Sequence[str] = (),
        check_robots: bool = True,
        max_bytes: int | None = None,
    ) -> Downloaded:
        """GET an address into the file `to`, which appears complete or not at all. Errors as for `fetch`.

        For archives: streamed, with limits of its own in the policy, and never kept in the cache.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        part = Path(_temporary(to.parent, to.name))
        ask = _Ask(
            dict(headers or {}),
            tuple(accept),
            check_robots,
            max_bytes or self.policy.max_download_bytes,
            limit="" if max_bytes else "fetch.max_download_bytes",
            timeout_s=self.policy.download_timeout_s,
            save=lambda chunks: _write(part, chunks),
            keep=False,
        )
        try:
            answer = self._get(url, ask)
            with part.open("rb") as file:
                kind = _checked_kind(answer, ask, file.read(SNIFFED))
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
        return Downloaded(answer.url, answer.headers, to, to.stat().st_size, kind, self._now())

    def permit(self, url: str, *, paced: bool = True) -> None:
        """Ask robots.txt about an address that a browser will open, and wait for a turn at its host.

        Raises `ItemError` as `fetch` does for an address that may not be fetched.
        """
        target = checked_url(url)
        if self.policy.respect_robots:
            self._check_robots(target)
        if paced:
            with self._turns.turn(target.host, 1 / self.policy.requests_per_second):
                pass

    @cached_property
    def gate(self) -> Gate:
        """The proxy through which browsers reach the network; it opens when it is first asked for."""
        return Gate(self._connected)

    def _connected(self, host: str, port: int) -> socket.socket:
        """A connection for the gate. Raises `ItemError` when the host may not or cannot be reached."""
        try:
            with self._network.within(self.policy.connect_timeout_s):
                stream = self._network.connect_tcp(host, port)
        except _TRANSIENT as error:
            target = checked_url(f"https://{f'[{host}]' if ':' in host else host}:{port}")
            raise _network_error(target, error, self.policy.connect_timeout_s, "fetch.connect_timeout_s") from error
        connected: socket.socket = stream.get_extra_info("socket")
        return connected

    def forget(self, prefix: str) -> int:
        """Remove every cached answer of addresses that begin with `prefix`; how many there were."""
        return self._cache.forget(prefix)

    # --- redirects, robots.txt, cache -------------------------------------------------------------------------------

    def _get(self, url: str, ask: _Ask) -> _Answer:
        """The answer at the end of all redirects."""
        seen: list[str] = []
        while True:
            target = checked_url(url)
            if str(target) in seen:
                raise ItemError(
                    f"{shown(target)} redirects in a circle; a site that wants cookies or a sign-in does so: use its "
                    "feed or export instead"
                )
            if len(seen) > self.policy.max_redirects:
                raise ItemError(
                    f"{shown(seen[0])} redirects more than {self.policy.max_redirects} times; give the address it "
                    "leads to in a browser, or raise fetch.max_redirects"
                )
            if ask.check_robots and self.policy.respect_robots:
                self._check_robots(target)
            answer = self._ask_or_remember(target, ask)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not location:
                if not 200 <= answer.status < 300:
                    raise _http_error(answer)
                return answer
            seen.append(str(target))
            url = joined(target, location)
            if origin(checked_url(url)) != origin(target):
                ask = replace(ask, headers={})

    def _ask_or_remember(self, target: httpx2.URL, ask: _Ask) -> _Answer:
        """Ask the server; when it says that what the cache holds is still right, that."""
        if not ask.keep:
            return self._try(target, ask, {})
        key = _Cache.key(str(target), ask.headers, ask.accept)
        kept = self._cache.read(key)
        answer = self._try(target, ask, _conditions(kept))
        if answer.status == 304 and kept:
            if len(kept.content) > ask.max_bytes:
                raise _too_large(kept.url, ask)
            kept = replace(kept, headers={**kept.headers, **_lasting(answer.headers)}, from_cache=True)
            self._cache.touch(key)
            return kept
        if answer.status == 200 and _conditions(answer) and "no-store" not in answer.headers.get("cache-control", ""):
            self._cache.write(key, answer)
        return answer

    def _check_robots(self, target: httpx2.URL) -> None:
        rules = self._rules(target)
        if rules.problem:
            raise _for(target.host, ItemError(rules.problem))
        if rules.parsed and not rules.parsed.can_fetch(str(target), PRODUCT):
            raise ItemError(
                f"robots.txt of {target.host} disallows {target.path} for programs; use the site's feed or export, or, "
                "if the site is yours, set fetch.respect_robots = false",
                skipped=True,
            )

    def _rules(self, target: httpx2.URL) -> _Robots:
        """The robots.txt of an origin, asked for once and anew after a day (RFC 9309, 2.4)."""
        robots = self._robots.setdefault(origin(target), _Robots())
        with robots.lock:
            age = self._turns.clock() - robots.asked_at
            if age > (_ROBOTS_RETRY_S if robots.problem else _ROBOTS_S):
                self._ask_robots(target, robots)
                robots.asked_at = self._turns.clock()
        return robots

    def _ask_robots(self, target: httpx2.URL, robots: _Robots) -> None:
        ask = _Ask({}, (), False, _ROBOTS_BYTES, cut=True, paced=False)
        robots.parsed, robots.problem = None, ""
        try:
            answer = self._get(f"{origin(target)}/robots.txt", ask)
        except ItemError as error:
            # "Unavailable" (4xx) allows everything, "unreachable" nothing (RFC 9309, 2.3.1); 429 is no answer.
            if not isinstance(error, HttpError) or error.status >= 500 or error.status == 429:
                answered = isinstance(error, HttpError)  # else the host itself cannot be reached
                robots.problem = error.reason + ("; without its robots.txt nothing is fetched" if answered else "")
            return
        robots.parsed = Protego.parse(decoded(answer.content, "text/plain; charset=utf-8"))
        delay = robots.parsed.crawl_delay(PRODUCT)
        if delay and delay > 0:  # not so for NaN
            self._turns.slow_down(target.host, min(delay, self.policy.max_wait_s))

    # --- one request, with its retries ------------------------------------------------------------------------------

    def _try(self, target: httpx2.URL, ask: _Ask, conditions: Mapping[str, str]) -> _Answer:
        """Ask until there is an answer that waiting cannot better, or the tries are used up."""
        interval = 1 / self.policy.requests_per_second if ask.paced else 0.0
        for tries in range(self.policy.retries + 1):
            last = tries == self.policy.retries
            with self._turns.turn(target.host, interval):
                try:
                    answer = self._once(target, ask, conditions)
                except _TRANSIENT as error:
                    if last or not _may_pass(error):
                        raise self._given_up(target, error, ask) from error
                    wait = self._back_off(tries)
                else:
                    if answer.status not in _BUSY or last:
                        return answer
                    asked = _retry_after(answer.headers, self._now())
                    if asked is not None and asked > self.policy.max_wait_s:
                        return answer
                    wait = self._back_off(tries) if asked is None else asked
                self._turns.pause(target.host, wait)
        raise AssertionError("the last try returns or raises")

    def _given_up(self, target: httpx2.URL, error: Exception, ask: _Ask) -> ItemError:
        if ask.timeout_s is None:
            return _network_error(target, error, self.policy.timeout_s, "fetch.timeout_s")
        return _network_error(target, error, ask.timeout_s, "fetch.download_timeout_s")

    def _back_off(self, tries: int) -> float:
        return float(min(2**tries * (0.5 + self._random()), self.policy.max_wait_s))

    def _once(self, target: httpx2.URL, ask: _Ask, conditions: Mapping[str, str]) -> _Answer:
        request = httpcore2.Request(
            "GET",
            httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path),
            headers=self._request_headers(target, ask, conditions),
        )
        with self._network.within(ask.timeout_s or self.policy.timeout_s):
            response = self._pool.handle_request(request)
            try:
                answer = _Answer(str(target), response.status, _headers_of(response), b"")
                if not 200 <= answer.status < 300:
                    return answer
                _check_head(answer, ask)
                packed = _bounded(response.iter_stream(), answer, ask)
                content = decompressed(packed, answer.headers.get("content-encoding", ""), name=shown(target))
                return replace(answer, content=ask.save(_bounded(content, answer, ask)))
            finally:
                response.close()

    def _request_headers(
        self, target: httpx2.URL, ask: _Ask, conditions: Mapping[str, str]
    ) -> list[tuple[bytes, bytes]]:
        headers = {
            "host": target.netloc.decode("ascii"),
            "user-agent": self.policy.user_agent,
            "accept": ", ".join((*ask.accept, "*/*;q=0.1")) if ask.accept else "*/*",
            # An archive comes as it is.
            "accept-encoding": ", ".join(CODINGS) if ask.keep else "identity",
            **conditions,
            **{name.lower(): value for name, value in ask.headers.items()},
        }
        return [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers.items()]


# --- what is asked and answered -------------------------------------------------------------------------------------

_REDIRECTS = {301, 302, 303, 307, 308}
_HOST_STATUSES = {429, 502, 503, 504, *range(520, 531)}  # with what Cloudflare says of a host behind it
_BUSY = _HOST_STATUSES | {408, 425, 500}
_ROBOTS_S = 24 * 3600.0
_ROBOTS_RETRY_S = 300.0
_PART_S = 24 * 3600.0  # no writer is at work on a file for as long
_ROBOTS_BYTES = 512 * 1024  # RFC 9309, 2.5: at least 500 KiB must be parsed

_ADVICE = {
    401: "it wants a sign-in: use the site's feed or export, or a browser profile in which you signed in",
    403: "it refuses programs or wants a sign-in: use the site's feed or export",
    404: "there is nothing at this address: correct the link or leave it out",
    410: "what was there is gone for good: leave the address out",
    429: "it wants fewer requests: try again later, or lower fetch.requests_per_second",
    451: "it may not be shown for legal reasons: leave the address out",
}


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a caller wants. `cut` takes the beginning of what is too large, `save` is what becomes of the body.

    `limit` names the setting that `max_bytes` came from.
    """

    headers: Mapping[str, str]
    accept: tuple[str, ...]
    check_robots: bool
    max_bytes: int
    limit: str = ""
    timeout_s: float | None = None
    save: Callable[[Iterable[bytes]], bytes] = b"".join
    keep: bool = True
    cut: bool = False
    paced: bool = True


@dataclass(frozen=True, slots=True)
class _Answer:
    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    from_cache: bool = False


@dataclass(slots=True)
class _Robots:
    """What is known of an origin's robots.txt."""

    parsed: Protego | None = None
    problem: str = ""
    asked_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


def _headers_of(response: httpcore2.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _conditions(answer: _Answer | None) -> dict[str, str]:
    """The headers that ask whether an answer is still right; none for one that cannot be asked about."""
    if answer is None:
        return {}
    pairs = {"if-none-match": answer.headers.get("etag"), "if-modified-since": answer.headers.get("last-modified")}
    return {name: value for name, value in pairs.items() if value}


def _lasting(headers: Mapping[str, str]) -> dict[str, str]:
    """Those headers of a 304 that describe the answer it confirms, and not its own empty body."""
    return {name: value for name, value in headers.items() if not name.startswith("content-")}


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds a server asks to wait, from a number or a date (RFC 9110, 10.2.3); None when it asks nothing."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def _http_error(answer: _Answer) -> HttpError:
    status = answer.status
    name = f" {HTTPStatus(status).phrase}" if status in HTTPStatus._value2member_map_ else ""
    advice = _ADVICE.get(status) or (
        "the server has trouble: try again later" if status >= 500 else "check the address in a browser"
    )
    asked = answer.headers.get("retry-after", "").strip()[:40]
    if asked and status in _BUSY:
        advice += f" (it asks to wait {f'{asked} s' if asked.isdecimal() else f'until {asked}'})"
    kind = Gone if status in (404, 410) else HttpError
    error = kind(f"{shown(answer.url)} answered {status}{name}; {advice}", status=status, headers=answer.headers)
    return _for(checked_url(answer.url).host, error) if status in _HOST_STATUSES else error


Failure = TypeVar("Failure", bound=ItemError)


def _for(host: str, error: Failure) -> Failure:
    """The error, as one that is due to a host and says nothing about the item."""
    error.host = host
    return error


# --- what may go wrong on the way -----------------------------------------------------------------------------------

_TRANSIENT = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, EOFError)


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: not with a bad certificate, a time that was used up, or oversized headers."""
    slow = isinstance(error, httpcore2.ReadTimeout | httpcore2.WriteTimeout)
    return not (slow or _certificate_problem(error) or isinstance(error, httpcore2.LocalProtocolError))


def _certificate_problem(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _network_error(target: httpx2.URL, error: Exception, timeout_s: float, limit: str) -> ItemError:
    """What to tell of a connection; `limit` names the setting that `timeout_s` came from."""
    certificate = _certificate_problem(error)
    if certificate:
        reason = (
            f"the certificate of {target.host} is not trusted: {certificate.verify_message}; if the site is your own, "
            "name its authority in $SSL_CERT_FILE"
        )
        return _for(target.host, ItemError(reason))
    if isinstance(error, httpcore2.ReadTimeout | httpcore2.WriteTimeout):
        return ItemError(f"{shown(target)} took longer than {timeout_s:g} s; try again later, or raise {limit}")
    if isinstance(error, httpcore2.ConnectTimeout):
        reason = f"{_place(target)} does not answer; check the address and your connection, or try again later"
        return _for(target.host, ItemError(reason))
    if isinstance(error, httpcore2.ProtocolError):
        return ItemError(f"{shown(target)} broke off or does not speak HTTP: {error}; try again later")
    reason = f"{_place(target)} cannot be reached: {error}; check the address and your connection"
    return _for(target.host, ItemError(reason))


def _place(target: httpx2.URL) -> str:
    """A host as people name it, with the port where that is not the usual one."""
    return target.netloc.decode("ascii")


# --- taking turns ---------------------------------------------------------------------------------------------------


class _Turns:
    """Who may ask a host next: so many at once, so often, and not while the host wants to be left alone."""

    def __init__(
        self,
        concurrency: int,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        self.clock = clock
        self._concurrency, self._sleep, self._random = concurrency, sleep, random
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, name: str, interval_s: float) -> Iterator[None]:
        """Wait for a turn; the next one comes `interval_s` later (or the host's own delay), and up to a tenth more."""
        host = self._host(name)
        with host.places:
            while (wait := self._claim(host, interval_s)) > 0:
                self._sleep(wait)
            yield

    def pause(self, name: str, seconds: float) -> None:
        """Leave a host alone for a while."""
        host = self._host(name)
        with self._lock:
            host.next_at = max(host.next_at, self.clock() + seconds)

    def slow_down(self, name: str, interval_s: float) -> None:
        """Honour a host's own delay between requests."""
        host = self._host(name)
        with self._lock:
            host.delay_s = interval_s
            host.next_at = max(host.next_at, self.clock() + interval_s)

    def _claim(self, host: _Host, interval_s: float) -> float:
        with self._lock:
            wait = host.next_at - self.clock()
            if wait <= 0:
                pace = max(interval_s, host.delay_s) if interval_s else 0.0
                host.next_at = self.clock() + pace * (1 + self._random() / 10)
            return wait

    def _host(self, name: str) -> _Host:
        with self._lock:
            return self._hosts.setdefault(name, _Host(threading.BoundedSemaphore(self._concurrency)))


@dataclass(slots=True)
class _Host:
    places: threading.BoundedSemaphore
    next_at: float = float("-inf")
    delay_s: float = 0.0


# --- bodies ---------------------------------------------------------------------------------------------------------


def _check_head(answer: _Answer, ask: _Ask) -> None:
    """Refuse by the headers what would be refused after all of it had come."""
    length = answer.headers.get("content-length", "")
    if length.isdecimal() and int(length[:18]) > ask.max_bytes and not ask.cut:
        raise _too_large(answer.url, ask)
    kind = media_type(answer.headers.get("content-type", ""))
    if ask.accept and matches(kind, MEDIA) and not matches(kind, ask.accept):
        raise _not_wanted(answer.url, kind, ask)


def _bounded(chunks: Iterable[bytes], answer: _Answer, ask: _Ask) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > ask.max_bytes:
            if not ask.cut:
                raise _too_large(answer.url, ask)
            yield chunk[: len(chunk) - (size - ask.max_bytes)]
            return
        yield chunk


def _too_large(url: str, ask: _Ask) -> ItemError:
    advice = f"leave it out, or raise {ask.limit}" if ask.limit else "leave it out"
    return ItemError(f"{shown(url)} is larger than {ask.max_bytes:,} bytes; {advice}", skipped=True)


def _checked_kind(answer: _Answer, ask: _Ask, beginning: bytes) -> str:
    kind = sniffed(beginning, answer.headers.get("content-type", ""))
    if ask.accept and not matches(kind, ask.accept):
        raise _not_wanted(answer.url, kind, ask)
    return kind


def _not_wanted(url: str, kind: str, ask: _Ask) -> ItemError:
    return ItemError(
        f"{shown(url)} is {kind}, and {' or '.join(ask.accept)} was wanted; leave it out, or name it to a source of "
        "its own",
        skipped=True,
    )


def _temporary(folder: Path, name: str) -> str:
    try:
        handle, path = tempfile.mkstemp(dir=folder, prefix=f".{name[:100]}.", suffix=".part")
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}; check its permissions and free space") from error
    os.close(handle)
    return path


def _write(path: Path, chunks: Iterable[bytes]) -> bytes:
    try:
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; check its permissions and free space") from error
    return b""


# --- the cache ------------------------------------------------------------------------------------------------------


class _Cache:
    """Answers that a server can be asked to confirm, one file each: a line of JSON, then the body, compressed.

    Files are replaced whole and zlib carries a checksum, so processes need no lock: a reader sees an old answer or a
    new one, and takes what is damaged for absent. The key covers what was sent, so that an answer to a token is nobody
    else's.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._written = False

    @staticmethod
    def key(url: str, headers: Mapping[str, str], accept: Sequence[str]) -> str:
        sent = sorted((name.lower(), value) for name, value in headers.items())
        return hashlib.sha256(json.dumps([url, sent, list(accept)]).encode()).hexdigest()

    def read(self, key: str) -> _Answer | None:
        try:
            head, _, packed = self._path(key).read_bytes().partition(b"\n")
            about = json.loads(head)
            return _Answer(about["url"], about["status"], about["headers"], zlib.decompress(packed))
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            return None

    def write(self, key: str, answer: _Answer) -> None:
        about = {"url": answer.url, "status": answer.status, "headers": dict(answer.headers)}
        self._folder.mkdir(parents=True, exist_ok=True)
        part = Path(_temporary(self._folder, key[:16]))
        try:
            _write(part, (json.dumps(about).encode(), b"\n", zlib.compress(answer.content, 6)))
            part.replace(self._path(key))
        finally:
            part.unlink(missing_ok=True)
        self._written = True

    def touch(self, key: str) -> None:
        """Mark an entry as used."""
        with suppress(FileNotFoundError):
            os.utime(self._path(key))

    def forget(self, prefix: str) -> int:
        forgotten = 0
        for path in self._entries():
            with suppress(OSError, ValueError, KeyError), path.open("rb") as file:
                if str(json.loads(file.readline())["url"]).startswith(prefix):
                    path.unlink()
                    forgotten += 1
        return forgotten

    def trim(self) -> None:
        """Remove the entries that were not used for longest until the rest is small enough, and what kills left."""
        if not self._written:
            return
        self._written = False
        for part in self._folder.glob(".*.part"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _PART_S:
                    part.unlink()
        found = []
        for path in self._entries():
            with suppress(FileNotFoundError):
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.answer"

    def _entries(self) -> list[Path]:
        return list(self._folder.glob("*.answer"))
