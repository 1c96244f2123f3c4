"""A real HTTP server on the loopback interface that speaks OpenAI's chat protocol and replies as it was told.

    with ScriptedLlm([busy(retry_after=2), says("Hello", " there")]) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy")

Each chat request takes the next reply of the script; one beyond its end gets a 500 that says so. A reply may be a
function of the request's body. `requests` keeps what arrived, `client_left` is set when a client hangs up.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One HTTP response: pieces of a body, sent one by one; `cut` resets the connection instead of ending the body."""

    pieces: Iterable[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"
    wait_s: float = 0.0
    pause_s: float = 0.0
    cut: bool = False
    headers_first: bool = False


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str) -> bytes:
    return event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]})


def finish(reason: str = "stop") -> bytes:
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}})


DONE = b"data: [DONE]\n\n"


def says(*texts: str, reason: str = "stop", **how: Any) -> Reply:
    """A whole and well-formed streamed reply."""
    return Reply([*map(piece, texts), finish(reason), usage(11, len(texts)), DONE], **how)


def refuses(status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message, "type": "error", "param": param, "code": None}}).encode()
    return Reply([body], status=status, headers=headers or {}, content_type="application/json")


def busy(retry_after: float | str | None = None) -> Reply:
    return refuses(429, "slow down", headers={} if retry_after is None else {"Retry-After": str(retry_after)})


Script = Sequence[Reply | Callable[[dict[str, Any]], Reply]]


class ScriptedLlm:
    """The server; a context manager."""

    def __init__(self, script: Script = (), *, models: Sequence[str] = ("toy",), always: Reply | None = None) -> None:
        self.script = list(script)
        self.models = list(models)
        self.always = always
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.client_left = threading.Event()
        self._taking_turns = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"llm": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ScriptedLlm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        with self._taking_turns:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            if not self.script:
                return self.always or refuses(500, "the script has ended")
            step = self.script.pop(0)
        return step if isinstance(step, Reply) else step(body)


class _Handler(BaseHTTPRequestHandler):
    llm: ScriptedLlm
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self._send(refuses(404, "Not Found"))
            return
        listing = json.dumps({"object": "list", "data": [{"id": name} for name in self.llm.models]}).encode()
        self._send(Reply([listing], content_type="application/json"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._send(refuses(404, "Not Found"))
            return
        self._send(self.llm.next_reply(body, self.headers))

    def _send(self, reply: Reply) -> None:
        if reply.cut and reply.pieces == () and not reply.headers_first:
            self._reset()
            return
        try:
            self._send_whole(reply)
        except OSError:
            self.close_connection = True
            self.llm.client_left.set()

    def _send_whole(self, reply: Reply) -> None:
        if not reply.headers_first:
            time.sleep(reply.wait_s)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()
        if reply.headers_first:
            time.sleep(reply.wait_s)
        for number, data in enumerate(reply.pieces):
            if number:
                time.sleep(reply.pause_s)
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        if reply.cut:
            self._reset()
            return
        self.wfile.write(b"0\r\n\r\n")

    def _reset(self) -> None:
        """Hang up so that the other side gets a reset, as from a killed server."""
        self.close_connection = True
        time.sleep(0.05)  # what was sent must arrive before the reset discards it
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile.close()

    def log_message(self, *_: object) -> None:
        pass
