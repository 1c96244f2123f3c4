"""A web site on this machine that can change between two runs and counts what it is asked for.

    with serve(Site()) as site:
        site.pages["/post/"] = page("Queues", "<p>…</p>")

Everything is sent with an ETag, so that a client may ask again conditionally.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = "text/html; charset=utf-8"


@dataclass
class Reply:
    """What an address answers."""

    body: bytes = b""
    content_type: str = HTML
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Site:
    """Replies by path with query; every other path is a 404. `requests` are (path, status) in order."""

    pages: dict[str, Reply | str] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""

    def asked(self) -> Counter[str]:
        """How often each path was asked for since the last `forget`."""
        return Counter(path for path, _ in self.requests)

    def statuses(self) -> Counter[int]:
        return Counter(status for _, status in self.requests)

    def forget(self) -> None:
        self.requests.clear()

    def reply(self, path: str) -> Reply:
        found = self.pages.get(path, Reply(b"not here", "text/plain", 404))
        return found if isinstance(found, Reply) else Reply(found.replace("{site}", self.url).encode())


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve a site on a free port of this machine until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = site.reply(self.path)
            etag = f'"{hashlib.sha256(reply.body).hexdigest()[:16]}"'
            status = 304 if reply.status == 200 and self.headers.get("if-none-match") == etag else reply.status
            site.requests.append((self.path, status))
            body = b"" if status == 304 else reply.body
            self.send_response(status)
            for name, value in {"ETag": etag, "Content-Type": reply.content_type, **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            return  # a client that closes a connection it kept open is none

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
