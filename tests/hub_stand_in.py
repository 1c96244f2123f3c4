"""A real HTTP server on the loopback interface that speaks the protocol of Hugging Face's hub, well or badly.

    with HubStandIn({"me/tiny": {"config.json": b"{}", "model.safetensors": b"…"}}) as hub:
        HuggingFaceHub(hub.endpoint)

Files that end in .gguf or .safetensors are stored apart, with their SHA-256, as the hub does; the others have git's
checksum. `cut_after` breaks the connection of the next download of a file after so many bytes, `wrong` sends other
bytes of the same length. `requests` keeps what was asked: method, path, headers.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "a" * 40


class HubStandIn:
    def __init__(self, repositories: dict[str, dict[str, bytes]], *, token: str = "") -> None:
        self.repositories = repositories
        self.revision = REVISION
        self.token = token
        self.cut_after: dict[str, int] = {}
        self.wrong: set[str] = set()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloads(self) -> list[str]:
        """Files whose bytes were asked for, in order, with the range where one was given."""
        return [
            path.rpartition("/")[2] + (f" {headers['range']}" if "range" in headers else "")
            for method, path, headers in self.requests
            if method == "GET" and "/resolve/" in path
        ]


def git_blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, path, headers))
        if self.hub.token and headers.get("authorization") != f"Bearer {self.hub.token}":
            self._json(401, {"error": "no token"}, {"X-Error-Code": "RepoNotFound"})
        elif told := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._listing(told[1])
        elif asked := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(asked[1], asked[3], with_body=with_body)
        else:
            self._json(404, {"error": "nothing there"})

    def _listing(self, repository: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = []
        for name, content in files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
            if name.endswith((".gguf", ".safetensors")):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 135}
            siblings.append(entry)
        self._json(200, {"id": repository, "modelId": repository, "sha": self.hub.revision, "siblings": siblings})

    def _file(self, repository: str, name: str, *, with_body: bool) -> None:
        content = self.hub.repositories.get(repository, {}).get(name)
        if content is None:
            self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        stored_apart = name.endswith((".gguf", ".safetensors"))
        etag = hashlib.sha256(content).hexdigest() if stored_apart else git_blob(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.revision, "Accept-Ranges": "bytes"}
        if name in self.hub.wrong:
            content = bytes(255 - byte for byte in content)
        begin = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(asked[1])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        self.send_response(206 if begin else 200)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if not with_body:
            return
        cut = self.hub.cut_after.pop(name, None)
        self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        self.hub.sent += len(body) if cut is None else cut
        if cut is not None:
            self._reset()

    def _json(self, status: int, data: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        time.sleep(0.2)  # what was sent must arrive before the reset discards it
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
