"""The gate: a proxy on this machine that gives a browser the network, checked as for everything else.

A browser looks names up by itself, and a page it shows may ask for anything: a check of addresses before it asks would
be one look-up too early (DNS rebinding), and would have to catch every way in which a page can ask. So the browser
knows no other way out than this proxy, and the proxy connects through `addresses.Network`, to addresses it has checked.
TLS stays between browser and site.
"""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress

import httpx2

from llm_twin.collect.addresses import checked_url
from llm_twin.core.errors import ItemError

HEAD_BYTES = 65_536
"""Most bytes of a request's head."""
IDLE_S = 60.0
"""Seconds without a byte in either direction after which a connection is closed."""

Connect = Callable[[str, int], socket.socket]
"""Connects to a host and port. Raises `ItemError` with the reason when it may not or cannot."""


class Gate:
    """A proxy for browsers of this process, open from its making until `close`.

    `address` is what a browser is told. Plain requests are passed on one by one, TLS and WebSockets as tunnels.
    """

    def __init__(self, connect: Connect) -> None:
        self._problems: dict[str, ItemError] = {}
        self._server = _Server(("127.0.0.1", 0), _Passage)
        self._server.connect = connect
        self._server.problems = self._problems
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="llm-twin-gate", daemon=True
        )
        self._thread.start()

    def problem(self, url: str) -> ItemError | None:
        """Why the latest connection to the host of an address did not come about; None when it did.

        Raises `ItemError` for what is no address to be fetched.
        """
        return self._problems.get(_host(checked_url(url)))

    def latest_problem(self) -> ItemError | None:
        """Why the latest connection of all that did not come about did not."""
        # A copy, because connections of the browser come and go meanwhile.
        return next(reversed([*self._problems.values()]), None)

    def close(self) -> None:
        """Take no more connections, and end those that stand."""
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False  # `server_close` waits for them: they end within a moment once `closing` is set
    request_queue_size = 128
    connect: Connect
    problems: dict[str, ItemError]

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.closing = threading.Event()


class _Passage(socketserver.BaseRequestHandler):
    """One connection of the browser."""

    server: _Server
    request: socket.socket

    def handle(self) -> None:
        self.request.settimeout(IDLE_S)
        with suppress(OSError):
            head, rest = self._head()
            request_line, _, headers = head.partition(b"\r\n")
            method, _, target = request_line.decode("latin-1").rpartition(" ")[0].partition(" ")
            if not target:
                return self._refuse(400, "this is a proxy for the browser of llm-twin")
            tunnel = method == "CONNECT"
            try:
                url = checked_url(f"https://{target}" if tunnel else target)
                site = self._connected(url)
            except ItemError as error:
                return self._refuse(403, str(error))
            with site:
                site.settimeout(IDLE_S)
                if tunnel:
                    self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    site.sendall(_as_for_origin(method, url, headers))
                if rest:
                    site.sendall(rest)
                self._pass(site)
        return None

    def _head(self) -> tuple[bytes, bytes]:
        """The head of the request, and what came behind it. Raises `OSError` when there is no whole one."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.request.recv(HEAD_BYTES)
            if not piece or len(data) > HEAD_BYTES:
                raise ConnectionError("no request")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _connected(self, url: httpx2.URL) -> socket.socket:
        host, port = _host(url), url.port or (443 if url.scheme == "https" else 80)
        try:
            site = self.server.connect(host, port)
        except ItemError as error:
            self.server.problems.pop(host, None)  # the latest comes last
            self.server.problems[host] = error
            raise
        self.server.problems.pop(host, None)
        return site

    def _refuse(self, status: int, reason: str) -> None:
        body = reason.encode()
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        self.request.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body)

    def _pass(self, site: socket.socket) -> None:
        """Pass on what either side sends, until one has nothing more to say."""
        idle_s = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self.request, selectors.EVENT_READ, (self.request, site))
            selector.register(site, selectors.EVENT_READ, (site, self.request))
            while idle_s < IDLE_S and not self.server.closing.is_set():
                ready = selector.select(timeout=0.25)
                idle_s = 0.0 if ready else idle_s + 0.25
                for key, _ in ready:
                    source, other = key.data
                    piece = source.recv(65_536)
                    if not piece:
                        return
                    other.sendall(piece)


def _host(url: httpx2.URL) -> str:
    """The host as browsers write it: decoded, `straße.example` would be looked up as `strasse.example`."""
    return url.raw_host.decode("ascii")


def _as_for_origin(method: str, url: httpx2.URL, headers: bytes) -> bytes:
    """The head of a plain request as the site itself expects it, on a connection of its own (RFC 9112, 3.2.1)."""
    kept = [
        line
        for line in headers.split(b"\r\n")
        if line.partition(b":")[0].strip().lower() not in (b"connection", b"proxy-connection", b"proxy-authorization")
    ]
    line = b"%s %s HTTP/1.1" % (method.encode("latin-1"), url.raw_path)
    return b"\r\n".join([line, *kept, b"Connection: close", b"", b""])
