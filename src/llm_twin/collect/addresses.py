"""Which addresses may be fetched, and connections that go to those that were checked and nowhere else.

A name is looked up once per connection; its addresses are checked, and the connection goes to one of them, while Host,
SNI and certificate use the name. So no second look-up can lead elsewhere (DNS rebinding), and whatever opens a
connection (a redirect, robots.txt, a retry) passes here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2
import httpx2

from llm_twin.core.errors import ItemError

Resolver = Callable[[str, int], Sequence[str]]
"""The addresses of a host, best first. Raises `OSError` when there are none."""

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


def checked_url(url: str) -> httpx2.URL:
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
            f"{shown(target)} carries a user name or password; take it out, and use the site's feed or export, "
            "or a browser profile in which you signed in"
        )
    if port is not None and not 1 <= port <= 65535:
        raise ItemError(f"{shown(target)} names port {port}, which does not exist; correct it")
    if not _is_plain_host(host):
        raise ItemError(f"{shown(target)} names the host {host[:100]!r}, which is no host name; correct it")
    if host.rstrip(".") in _METADATA_NAMES:
        raise ItemError(f"{host} is where clouds keep their metadata and credentials, and never fetched; leave it out")
    return target


def _is_plain_host(host: str) -> bool:
    """A name, or an IP address in its one usual spelling: none of `2130706433`, `0x7f.1`, `0177.0.0.1`."""
    if _is_address(host):
        return "%" not in host
    last = host.rstrip(".").rpartition(".")[2]
    return len(host) <= 253 and bool(_HOST.fullmatch(host)) and not _NUMBER.fullmatch(last)


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def joined(target: httpx2.URL, location: str) -> str:
    """Where a redirect leads. Raises `ItemError` when that is no address."""
    # Many servers send UTF-8 in headers, which are Latin-1 by the standard.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return str(target.join(location.strip()))
    except (httpx2.InvalidURL, ValueError) as error:
        raise ItemError(f"{shown(target)} redirects to {location[:200]!r}, which is no web address: {error}") from None


def origin(target: httpx2.URL) -> str:
    """Scheme, host and port: what robots.txt and the headers of a caller belong to."""
    return f"{target.scheme}://{target.netloc.decode('ascii')}"


def shown(url: httpx2.URL | str) -> str:
    """An address for people and logs: a query may hold a key."""
    url = httpx2.URL(url)
    query = "?…" if url.query else ""
    return f"{origin(url)}{url.path}{query}"


class Network(httpcore2.NetworkBackend):
    """Opens connections to checked addresses, and ends whatever a thread does on them when its time is up."""

    def __init__(
        self,
        *,
        resolve: Resolver,
        sockets: httpcore2.NetworkBackend,
        clock: Callable[[], float],
        connect_timeout_s: float,
        allow_private: bool,
    ) -> None:
        self._resolve, self._sockets, self._clock = resolve, sockets, clock
        self._connect_timeout_s, self._allow_private = connect_timeout_s, allow_private
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
                wait = min(self._connect_timeout_s, self.left())
                stream = self._sockets.connect_tcp(address, port, wait, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self)
        raise failure or httpcore2.ConnectError("the name has no address")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = [host] if _is_address(host) else list(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"the name cannot be looked up: {error}") from error
        for address in addresses:
            # One bad address refuses the name: honest sites have no mixed answers.
            why = why_refused(address, allow_private=self._allow_private)
            if why:
                private = "private" in why
                advice = (
                    "if you trust what answers there, set `allow_private = true` under [fetch] in twin.toml"
                    if private
                    else "correct the address or leave it out"
                )
                leads = "" if address == host else f" leads to {address}, which"
                raise ItemError(f"{host}{leads} {why}; {advice}")
        return addresses


class _Stream(httpcore2.NetworkStream):
    """A connection whose every operation ends when its thread's time is up: slow headers and slow bodies alike."""

    def __init__(self, stream: httpcore2.NetworkStream, network: Network) -> None:
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
