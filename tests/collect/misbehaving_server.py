"""A real HTTP server on this machine that behaves as badly as it is told to, path by path."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; a behaviour answers it with these methods, or writes bytes of its own to `wfile`."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        owner = self.server.owner
        with owner.lock:
            owner.seen.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}))
            owner.active += 1
            owner.most_active = max(owner.most_active, owner.active)
        try:
            owner.behaviours.get(self.path, nothing_here)(self)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True
        finally:
            with owner.lock:
                owner.active -= 1

    def raw(self, data: bytes) -> None:
        self.close_connection = True
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: MisbehavingServer

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what these tests are about."""


@dataclass
class Seen:
    """A request as it arrived; header names in lower case."""

    path: str
    headers: dict[str, str]


@dataclass
class MisbehavingServer:
    """Listens on 127.0.0.1 while its context is open; over TLS when it gets a context for that."""

    tls: ssl.SSLContext | None = None
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    active: int = 0
    most_active: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> MisbehavingServer:
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.owner = self
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def on(self, path: str, *behaviours: Behaviour) -> None:
        """Behave so at this path; of several the next one each time, and the last for ever."""
        left = list(behaviours)

        def behave(request: Request) -> None:
            with self.lock:
                behaviour = left.pop(0) if len(left) > 1 else left[0]
            behaviour(request)

        self.behaviours[path] = behave

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]


# --- behaviours -----------------------------------------------------------------------------------------------------


def answer(
    body: bytes | str = b"", *, status: int = 200, kind: str = "text/html; charset=utf-8", **headers: str
) -> Behaviour:
    """A proper answer. `retry_after="3"` sends `Retry-After: 3`."""
    content = body.encode() if isinstance(body, str) else body

    def behave(request: Request) -> None:
        request.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if kind:
            named.setdefault("content-type", kind)
        if status not in (204, 304):
            named.setdefault("content-length", str(len(content)))
        for name, value in named.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    return behave


nothing_here = answer("there is nothing here", status=404)


def redirect(location: str, status: int = 302) -> Behaviour:
    return answer(status=status, location=location)


def with_etag(body: str, etag: str) -> Behaviour:
    """Answers 304 to who has this version already."""

    def behave(request: Request) -> None:
        if request.headers.get("if-none-match") == etag:
            answer(status=304, kind="", etag=etag)(request)
        else:
            answer(body, etag=etag)(request)

    return behave


def slow(pause_s: float, then: Behaviour) -> Behaviour:
    def behave(request: Request) -> None:
        time.sleep(pause_s)
        then(request)

    return behave


def dripping_body(pause_s: float) -> Behaviour:
    """A byte now and then, for ever."""

    def behave(request: Request) -> None:
        request.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            request.wfile.write(b"x")
            time.sleep(pause_s)

    return behave


def dripping_headers(pause_s: float) -> Behaviour:
    def behave(request: Request) -> None:
        request.raw(b"HTTP/1.1 200 OK\r\n")
        while True:
            request.wfile.write(b"X-Drip: 1\r\n")
            time.sleep(pause_s)

    return behave


def endless_body(piece: bytes = b"x" * 65536, encoding: str = "") -> Behaviour:
    """A body that never ends, in chunks."""

    def behave(request: Request) -> None:
        coded = f"Content-Encoding: {encoding}\r\n" if encoding else ""
        request.raw(f"HTTP/1.1 200 OK\r\n{coded}Transfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    return behave


def broken_off(request: Request) -> None:
    """Promises 1,000 bytes, sends 7, and ends as if all were well."""
    request.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000\r\n\r\n<p>half")


def reset(request: Request) -> None:
    """Resets the connection in the middle of the body."""
    broken_off(request)
    request.wfile.flush()
    time.sleep(0.05)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        request.connection.close()


def huge_headers(request: Request) -> None:
    request.raw(b"HTTP/1.1 200 OK\r\n" + b"X-Large: %s\r\n" % (b"x" * 10_000) * 1_000 + b"\r\n")


def not_http(request: Request) -> None:
    request.raw(b"SSH-2.0-OpenSSH_9.2\r\n")
