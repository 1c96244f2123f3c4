"""The one way to fetch from the network: polite to hosts, and safe against whatever they answer.

    with Fetcher(policy=FetchPolicy(contact="https://jane.example/about"), cache_dir=folder) as fetcher:
        page = fetcher.fetch("https://jane.example/posts/", accept=PAGES)
        page.text, page.content_type, page.url

- Polite: robots.txt (RFC 9309) with its crawl-delay, a rate and a number of connections per host, Retry-After,
  exponential back-off with jitter, conditional requests against a cache on disk.
- Safe: a name is looked up once per connection, its addresses are checked, and the connection goes to a checked address
  while Host, SNI and certificate use the name, so that no second look-up can lead elsewhere (DNS rebinding). This holds
  for redirects and robots.txt too. Bytes are bounded before and after decompression, and a request in total time.
- Proxies in the environment (`HTTPS_PROXY`) are not used: a proxy looks names up itself, which leaves nothing to check.

The rate holds for one `Fetcher`, the cache may be shared by several processes. A `Fetcher` may be used by many threads.
"""

from __future__ import annotations

import codecs
import hashlib
import ipaddress
import json
import os
import random as randomness
import re
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
from email.message import Message
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
from protego import Protego

from llm_twin import __version__
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

Resolver = Callable[[str, int], Sequence[str]]
"""The addresses of a host, best first. Raises `OSError` when there are none."""


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
    """

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    content_type: str
    from_cache: bool
    fetched_at: datetime

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


class Fetcher:
    """Fetches by one policy. A context manager: leaving it closes connections and trims the cache.

    Everything that depends on the world can be replaced: `resolve` (names to addresses), `clock` (seconds, monotonic),
    `sleep`, `now` (UTC), `random` (0 to 1), and `ssl_context`, which without one trusts what the system trusts, or the
    authorities in `$SSL_CERT_FILE`.
    """

    def __init__(
        self,
        *,
        cache_dir: Path,
        policy: FetchPolicy,
        resolve: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = randomness.random,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy
        self._now, self._random = now, random
        self._cache = _Cache(cache_dir, policy.cache_max_bytes)
        self._turns = _Turns(policy.concurrency, clock, sleep, random)
        self._network = _Network(policy, resolve or addresses_of, clock)
        self._robots: dict[str, _Robots] = {}
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context or httpcore2.default_ssl_context(),
            network_backend=self._network,
            max_connections=None,
            max_keepalive_connections=20,
            keepalive_expiry=15.0,
        )

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and keep the cache below its limit, oldest entries going first."""
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
        ask = _Ask(dict(headers or {}), tuple(accept), check_robots, max_bytes or self.policy.max_bytes)
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
            timeout_s=self.policy.download_timeout_s,
            save=lambda chunks: _write(part, chunks),
            keep=False,
        )
        try:
            answer = self._get(url, ask)
            with part.open("rb") as file:
                kind = _checked_kind(answer, ask, file.read(_SNIFFED))
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
        return Downloaded(answer.url, answer.headers, to, to.stat().st_size, kind, self._now())

    def forget(self, prefix: str) -> int:
        """Remove every cached answer of addresses that begin with `prefix`; how many there were."""
        return self._cache.forget(prefix)

    # --- redirects, robots.txt, cache -------------------------------------------------------------------------------

    def _get(self, url: str, ask: _Ask) -> _Answer:
        """The answer at the end of all redirects."""
        seen: list[str] = []
        while True:
            target = _checked_url(url)
            if str(target) in seen:
                raise ItemError(
                    f"{_shown(target)} redirects in a circle; a site that wants cookies or a sign-in does so: use its "
                    "feed or export instead"
                )
            if len(seen) > self.policy.max_redirects:
                raise ItemError(
                    f"{_shown(seen[0])} redirects more than {self.policy.max_redirects} times; give the address it "
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
            url = _joined(target, location)
            if _origin(_checked_url(url)) != _origin(target):
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
                raise _too_large(kept.url, ask.max_bytes)
            kept = replace(kept, headers={**kept.headers, **_lasting(answer.headers)}, from_cache=True)
            self._cache.touch(key)
            return kept
        if answer.status == 200 and _conditions(answer) and "no-store" not in answer.headers.get("cache-control", ""):
            self._cache.write(key, answer)
        return answer

    def _check_robots(self, target: httpx2.URL) -> None:
        rules = self._rules(target)
        if rules.problem:
            raise ItemError(rules.problem)
        if rules.parsed and not rules.parsed.can_fetch(str(target), PRODUCT):
            raise ItemError(
                f"robots.txt of {target.host} disallows {target.path} for programs; use the site's feed or export, or, "
                "if the site is yours, set fetch.respect_robots = false",
                skipped=True,
            )

    def _rules(self, target: httpx2.URL) -> _Robots:
        """The robots.txt of an origin, asked for once and anew after a day (RFC 9309, 2.4)."""
        robots = self._robots.setdefault(_origin(target), _Robots())
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
            answer = self._get(f"{_origin(target)}/robots.txt", ask)
        except ItemError as error:
            # "Unavailable" (4xx) allows everything, "unreachable" nothing (RFC 9309, 2.3.1); 429 is no answer.
            if not isinstance(error, HttpError) or error.status >= 500 or error.status == 429:
                robots.problem = f"{error.reason}; nothing is fetched from a host while its robots.txt cannot be had"
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
                        raise _network_error(target, error, ask.timeout_s or self.policy.timeout_s) from error
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
                raw: Iterator[bytes] = response.iter_stream()
                chunks = _bounded(_decompressed(_bounded(raw, answer, ask), answer), answer, ask)
                return replace(answer, content=ask.save(chunks))
            finally:
                response.close()

    def _request_headers(
        self, target: httpx2.URL, ask: _Ask, conditions: Mapping[str, str]
    ) -> list[tuple[bytes, bytes]]:
        headers = {
            "host": target.netloc.decode("ascii"),
            "user-agent": self.policy.user_agent,
            "accept": ", ".join((*ask.accept, "*/*;q=0.1")) if ask.accept else "*/*",
            # What zlib can decode in bounded pieces. An archive comes as it is.
            "accept-encoding": "gzip, deflate" if ask.keep else "identity",
            **conditions,
            **{name.lower(): value for name, value in ask.headers.items()},
        }
        return [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers.items()]


# --- what is asked and answered -------------------------------------------------------------------------------------

_REDIRECTS = {301, 302, 303, 307, 308}
_BUSY = {408, 425, 429, 500, 502, 503, 504, *range(520, 531)}
_ROBOTS_S = 24 * 3600.0
_ROBOTS_RETRY_S = 300.0
_ROBOTS_BYTES = 512 * 1024  # RFC 9309, 2.5: at least 500 KiB must be parsed
_SNIFFED = 4096
_PIECE = 64 * 1024
_MEDIA = ("image/*", "audio/*", "video/*", "font/*")

_ADVICE = {
    401: "it wants a sign-in: give the source a token, or leave the address out",
    403: "it refuses programs or wants a sign-in: use the site's feed or export, or give the source a token",
    404: "there is nothing at this address: correct the link or leave it out",
    410: "what was there is gone for good: leave the address out",
    429: "it wants fewer requests: try again later, or lower fetch.requests_per_second",
    451: "it may not be shown for legal reasons: leave the address out",
}


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a caller wants. `cut` takes the beginning of what is too large, `save` is what becomes of the body."""

    headers: Mapping[str, str]
    accept: tuple[str, ...]
    check_robots: bool
    max_bytes: int
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
    if value.isdecimal() and value.isascii():
        return float(value[:9])
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
    asked = answer.headers.get("retry-after")
    if asked and status in _BUSY:
        advice += f" (it says to wait until or for: {asked[:40]})"
    kind = Gone if status in (404, 410) else HttpError
    return kind(f"{_shown(answer.url)} answered {status}{name}; {advice}", status=status, headers=answer.headers)


# --- addresses ------------------------------------------------------------------------------------------------------

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")

_METADATA_NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data"}
_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # AWS, Google, Azure and most others, also AWS's container credentials
        "fd00:ec2::/32",  # AWS over IPv6
        "fd20:ce::254/128",  # Google over IPv6
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "168.63.129.16/32",  # Azure's wire server, a public address
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them. Raises `OSError` when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def why_refused(address: str, *, allow_private: bool = False) -> str | None:
    """Why no connection may go to an IP address; None when it may.

    Only addresses of the public internet are allowed, and with `allow_private` loopback and private networks. The
    metadata services of clouds, link-local, multicast, unspecified and reserved addresses never are. An IPv6 address
    that carries an IPv4 address (mapped, compatible, 6to4, NAT64, ISATAP) is as good as that one.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "is no IP address"
    carried = _carried(ip)
    if carried is not None:
        why = why_refused(str(carried), allow_private=allow_private)
        return f"carries {carried}, which {why}" if why else None
    if any(ip in network for network in _METADATA if network.version == ip.version):
        return "is where clouds keep their metadata and credentials"
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return "is a link-local, multicast or unspecified address"
    private = ip.is_loopback or not ip.is_global or getattr(ip, "is_site_local", False)
    if ip.is_reserved and not ip.is_loopback:
        return "is a reserved address"
    if private and not allow_private:
        return "is a private address (loopback or a local network)"
    return None


def _carried(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 address."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return None
    low = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _NAT64 or ip in _NAT64_LOCAL or (ip in _COMPATIBLE and int(ip) > 1):
        return low
    if (int(ip) >> 32) & 0xFDFFFFFF == 0x5EFE:  # ISATAP (RFC 5214, 6.1), with or without the universal bit
        return low
    return ip.ipv4_mapped or ip.sixtofour


def _checked_url(url: str) -> httpx2.URL:
    """The address in normal form, without fragment. Raises `ItemError` for one that is not to be fetched."""
    try:
        target = httpx2.URL(url.strip()).copy_with(fragment=None)
        host, port = target.raw_host.decode("ascii"), target.port
    except (httpx2.InvalidURL, ValueError, TypeError) as error:
        raise ItemError(f"{url[:200]!r} is no web address: {error}; correct it") from None
    if target.scheme not in ("http", "https"):
        raise ItemError(f"{url[:200]!r} is not fetched: only http and https are; leave it out", skipped=True)
    if target.userinfo:
        raise ItemError(
            f"{_shown(target)} carries a user name or password; take it out of the address and give the source a token"
        )
    if port is not None and not 1 <= port <= 65535:
        raise ItemError(f"{_shown(target)} names port {port}, which does not exist; correct it")
    if not _is_plain_host(host):
        raise ItemError(f"{_shown(target)} names the host {host[:100]!r}, which is no host name; correct it")
    if host.rstrip(".") in _METADATA_NAMES:
        raise ItemError(f"{host} is where clouds keep their metadata and credentials, and never fetched; leave it out")
    return target


def _is_plain_host(host: str) -> bool:
    """A name, or an IP address in its one usual spelling: none of `2130706433`, `0x7f.1`, `0177.0.0.1`."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return "%" not in host
    last = host.rstrip(".").rpartition(".")[2]
    return len(host) <= 253 and bool(_HOST.fullmatch(host)) and not _NUMBER.fullmatch(last)


def _joined(target: httpx2.URL, location: str) -> str:
    # Many servers send UTF-8 in headers, which are Latin-1 by the standard.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return str(target.join(location.strip()))
    except (httpx2.InvalidURL, ValueError) as error:
        raise ItemError(f"{_shown(target)} redirects to {location[:200]!r}, which is no web address: {error}") from None


def _origin(target: httpx2.URL) -> str:
    return f"{target.scheme}://{target.netloc.decode('ascii')}"


def _shown(url: httpx2.URL | str) -> str:
    """An address for people and logs: a query may hold a key."""
    url = httpx2.URL(url)
    query = "?…" if url.query else ""
    return f"{_origin(url)}{url.path}{query}"


# --- the network ----------------------------------------------------------------------------------------------------


class _Refused(ItemError):
    """A name leads to addresses that no connection may go to."""


_TRANSIENT = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError)


class _Network(httpcore2.NetworkBackend):
    """Opens connections to checked addresses, and ends whatever a thread does on them when its time is up."""

    def __init__(self, policy: FetchPolicy, resolve: Resolver, clock: Callable[[], float]) -> None:
        self._policy, self._resolve, self._clock = policy, resolve, clock
        self._sockets = httpcore2.SyncBackend()
        self._thread = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give this thread so many seconds on the network, in total."""
        self._thread.until = self._clock() + seconds
        try:
            yield
        finally:
            del self._thread.until

    def left(self) -> float:
        """Seconds that this thread has left. Raises `httpcore2.ReadTimeout` when there are none."""
        left = float(self._thread.until - self._clock())
        if left <= 0:
            raise httpcore2.ReadTimeout("its time is up")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the time that is left counts
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of a host that answers, after all of them were checked."""
        failure: Exception | None = None
        for address in self._addresses(host, port):
            try:
                wait = min(self._policy.connect_timeout_s, self.left())
                stream = self._sockets.connect_tcp(address, port, wait, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self)
        raise failure or httpcore2.ConnectError("the name has no address")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = list(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"the name cannot be looked up: {error}") from error
        for address in addresses:
            # One bad address refuses the name: honest sites have no mixed answers.
            why = why_refused(address, allow_private=self._policy.allow_private)
            if why:
                advice = "set fetch.allow_private = true if it is on your own network" if "private" in why else ""
                raise _Refused(
                    f"{host} leads to {address}, which {why}; {advice or 'correct the address or leave it out'}"
                )
        return addresses


class _Stream(httpcore2.NetworkStream):
    """A connection whose every operation ends when its thread's time is up: slow headers and slow bodies alike."""

    def __init__(self, stream: httpcore2.NetworkStream, network: _Network) -> None:
        self._stream, self._network = stream, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._network.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._network.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._network.left()), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: not with a bad certificate, a time that was used up, or oversized headers."""
    slow = isinstance(error, httpcore2.ReadTimeout | httpcore2.WriteTimeout)
    return not (slow or _certificate_problem(error) or isinstance(error, httpcore2.LocalProtocolError))


def _certificate_problem(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _network_error(target: httpx2.URL, error: Exception, timeout_s: float) -> ItemError:
    certificate = _certificate_problem(error)
    if certificate:
        return ItemError(
            f"the certificate of {target.host} is not trusted: {certificate.verify_message}; if the site is your own, "
            "name its authority in $SSL_CERT_FILE"
        )
    if isinstance(error, httpcore2.ReadTimeout | httpcore2.WriteTimeout):
        return ItemError(
            f"{_shown(target)} took longer than {timeout_s:g} s; try again later, or allow more in [fetch]"
        )
    if isinstance(error, httpcore2.ConnectTimeout):
        return ItemError(f"{target.host} does not answer; check the address and your connection, or try again later")
    if isinstance(error, httpcore2.ProtocolError):
        return ItemError(f"{_shown(target)} broke off or does not speak HTTP: {error}; try again later")
    return ItemError(f"{target.host} cannot be reached: {error}; check the address and your connection")


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
        raise _too_large(answer.url, ask.max_bytes)
    kind = media_type(answer.headers.get("content-type", ""))
    if ask.accept and _matches(kind, _MEDIA) and not _matches(kind, ask.accept):
        raise _not_wanted(answer.url, kind, ask)


def _bounded(chunks: Iterable[bytes], answer: _Answer, ask: _Ask) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > ask.max_bytes:
            if not ask.cut:
                raise _too_large(answer.url, ask.max_bytes)
            yield chunk[: len(chunk) - (size - ask.max_bytes)]
            return
        yield chunk


def _too_large(url: str, max_bytes: int) -> ItemError:
    return ItemError(
        f"{_shown(url)} is larger than {max_bytes:,} bytes; leave it out, or raise the limit in [fetch]", skipped=True
    )


def _decompressed(chunks: Iterable[bytes], answer: _Answer) -> Iterator[bytes]:
    """The content of a body, in pieces of at most 64 KiB however far they expand (RFC 9110, 8.4.1)."""
    named = answer.headers.get("content-encoding", "").lower().split(",")
    codings = [coding.strip() for coding in named if coding.strip() not in ("", "identity")]
    if not codings:
        return iter(chunks)
    if len(codings) > 1 or codings[0] not in ("gzip", "x-gzip", "deflate"):
        raise ItemError(
            f"{_shown(answer.url)} is compressed as {', '.join(codings)[:100]}, which was not asked for; its server is "
            "set up wrongly"
        )
    return _inflated(chunks, answer, gzip=codings[0] != "deflate")


def _inflated(chunks: Iterable[bytes], answer: _Answer, *, gzip: bool) -> Iterator[bytes]:
    inflate: Any = None
    started = False
    try:
        for chunk in chunks:
            data = chunk
            while data:
                if inflate is None:
                    if started and (not gzip or data[:1] != b"\x1f"):
                        break  # padding after the end, which every browser overlooks
                    inflate, started = zlib.decompressobj(_window_bits(data, gzip=gzip)), True
                piece = inflate.decompress(data, _PIECE)
                if piece:
                    yield piece
                data = inflate.unconsumed_tail
                if inflate.eof:
                    data, inflate = inflate.unused_data, None
    except zlib.error as error:
        raise ItemError(f"{_shown(answer.url)} is not compressed as it says ({error}); try again later") from error
    if inflate is not None:
        raise httpcore2.RemoteProtocolError("the compressed body ends too early")


def _window_bits(data: bytes, *, gzip: bool) -> int:
    if gzip:
        return zlib.MAX_WBITS | 16
    # "deflate" means zlib, yet some servers send it bare, which a zlib header tells apart.
    headed = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.MAX_WBITS if headed else -zlib.MAX_WBITS


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


# --- types and encodings --------------------------------------------------------------------------------------------

_MAGIC = (
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
)
_ROOTS = {
    "rss": "application/rss+xml", "feed": "application/atom+xml", "rdf:rdf": "application/rdf+xml",
    "urlset": "application/xml", "sitemapindex": "application/xml",
}  # fmt: skip
_HTML_ROOTS = {"html", "head", "body", "title", "meta", "script", "style", "div", "p", "h1", "table", "article", "main"}
_TEXTUAL = ("text/*", "*/xml", "*+xml", "*/json", "*+json", "application/javascript")
_UNKNOWN = ("", "application/octet-stream", "binary/octet-stream", "application/unknown", "application/x-unknown")
_META_CHARSET = re.compile(rb"<meta\b[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"\A\s*<\?xml\b[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})[\"']")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
# What browsers read for these labels (WHATWG Encoding): the larger set that pages labelled so really use.
_LARGER = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030",
    "shift_jis": "cp932", "euc_kr": "cp949", "utf-16": "utf-16-le",
}  # fmt: skip
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf-7", "undefined", "mbcs", "oem"}


def media_type(header: str) -> str:
    """`text/html` of `Text/HTML; charset=utf-8`; empty when the header names no type."""
    kind = header.split(",")[0].split(";")[0].strip().lower()
    return kind if "/" in kind else ""


def sniffed(content: bytes, header: str) -> str:
    """The media type of a body: what its first bytes prove, else what the `Content-Type` header says, else a guess.

    A container (zip, XML) is taken for the more special thing that the header calls it.
    """
    named = media_type(header)
    magic = next((kind for start, kind in _MAGIC if content.startswith(start)), "")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        magic = "image/webp"
    if magic:
        contains = magic in ("application/zip", "application/gzip", "application/x-ole-storage")
        refined = contains and named not in _UNKNOWN and not _matches(named, (*_TEXTUAL, *_MEDIA))
        return named if refined else magic
    root = _root(content[:_SNIFFED]) if named in (*_UNKNOWN, *PAGES, "text/plain") or _is_xml(named) else ""
    if root in _ROOTS:
        return _ROOTS[root]
    if named not in _UNKNOWN:
        return named
    if root in _HTML_ROOTS:
        return "text/html"
    if content.lstrip()[:5].lower() == b"<?xml":
        return "application/xml"
    if content.lstrip()[:1] in (b"{", b"["):
        return "application/json"
    return "application/octet-stream" if b"\0" in content[:_SNIFFED] else "text/plain"


def decoded(content: bytes, header: str) -> str:
    """Text of a body. The encoding is that of its byte order mark, else UTF-8 where it is valid, else the one that
    the `Content-Type` header or the document itself names, else what charset-normalizer takes it for.

    UTF-8 comes before what is declared because other text is hardly ever valid UTF-8 by chance, and declarations are
    often wrong. What cannot be decoded becomes U+FFFD.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    declared = _declared(content, header)
    if b"\x1b" not in content or declared is None:  # ISO-2022 escapes are ASCII too
        with suppress(UnicodeDecodeError):
            if not (declared or "").startswith("utf-16") or b"\0" not in content:
                return content.decode("utf-8")
    if declared:
        with suppress(UnicodeDecodeError):
            return content.decode(declared)
    from charset_normalizer import from_bytes

    best = from_bytes(content[:_PIECE]).best()
    return content.decode(best.encoding if best else declared or "utf-8", "replace")


def _declared(content: bytes, header: str) -> str | None:
    """The first encoding declared that Python knows: by the header, the XML declaration, or a meta element."""
    message = Message()
    message["content-type"] = header
    labels = [str(message.get_param("charset", ""))]
    for pattern in (_XML_CHARSET, _META_CHARSET):
        found = pattern.search(content[:_SNIFFED])
        labels.append(found[1].decode("ascii") if found else "")
    for label in labels:
        with suppress(LookupError, ValueError):
            name = codecs.lookup(label.strip("'\" ")).name
            name = _LARGER.get(name, name)
            "".encode(name)
            if name not in _NO_CHARSETS:
                return name
    return None


def _root(content: bytes) -> str:
    """The name of the first element of markup; empty when it does not begin like markup."""
    text = content.decode("latin-1").removeprefix("ï»¿").lstrip().lower()
    while text.startswith(("<?", "<!")):
        end = "-->" if text.startswith("<!--") else ">"
        if text.startswith("<!doctype html"):
            return "html"
        text = text.partition(end)[2].lstrip()
    found = re.match(r"<([a-z][a-z0-9:]*)", text)
    return found[1] if found else ""


def _is_xml(kind: str) -> bool:
    return kind in ("application/xml", "text/xml")


def _matches(kind: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(kind, pattern.lower()) for pattern in patterns)


def _checked_kind(answer: _Answer, ask: _Ask, beginning: bytes) -> str:
    kind = sniffed(beginning, answer.headers.get("content-type", ""))
    if ask.accept and not _matches(kind, ask.accept):
        raise _not_wanted(answer.url, kind, ask)
    return kind


def _not_wanted(url: str, kind: str, ask: _Ask) -> ItemError:
    return ItemError(
        f"{_shown(url)} is {kind}, and {' or '.join(ask.accept)} was wanted; leave it out, or name it to a source of "
        "its own",
        skipped=True,
    )


# --- the cache ------------------------------------------------------------------------------------------------------


class _Cache:
    """Answers that a server can be asked to confirm, one file each: a line of JSON, then the body, compressed.

    Files are replaced whole and carry a checksum, so processes need no lock: a reader sees an old answer, a new one, or
    takes what is damaged for absent. The key covers what was sent, so that an answer to a token is nobody else's.
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
            content = zlib.decompress(packed, bufsize=int(about["size"]) or 1)
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                return None
            return _Answer(str(about["url"]), int(about["status"]), dict(about["headers"]), content)
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            return None

    def write(self, key: str, answer: _Answer) -> None:
        about = {
            "url": answer.url,
            "status": answer.status,
            "headers": dict(answer.headers),
            "size": len(answer.content),
            "sha256": hashlib.sha256(answer.content).hexdigest(),
        }
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
        """Remove the entries that were not used for longest until the rest is small enough."""
        if not self._written:
            return
        self._written = False
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
