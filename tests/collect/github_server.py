"""A GitHub on this machine: accounts with repositories that can be pushed to, its REST API, archives and gists.

    with serve(GitHub()) as hub:
        hub.add("jane/notes", {"README.md": "# Notes\\n"})
        source = hub.source("https://github.com/jane", ...)

It answers for api.github.com, codeload.github.com and gist.githubusercontent.com over TLS, so that what it is asked is
what GitHub would be asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import ssl
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpcore2
import trustme

HOSTS = ("api.github.com", "codeload.github.com", "gist.githubusercontent.com")
PER_PAGE = 2
"""Entries a page, whatever is asked for: lists are long here."""


@dataclass
class Link:
    """A symbolic link."""

    target: str


@dataclass
class Repository:
    """A repository; its files are those of the last push, their dictionary may be changed at will."""

    name: str
    files: dict[str, str | bytes | Link]
    facts: dict[str, Any] = field(default_factory=dict)
    releases: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    archive: bytes | None = None
    members: dict[str, str | bytes | Link] | None = None
    truncated: bool = False
    status: int = 200

    def about(self) -> dict[str, Any]:
        owner = self.name.split("/")[0]
        return {
            "name": self.name.split("/")[1],
            "full_name": self.name,
            "owner": {"login": owner, "type": "User"},
            "html_url": f"https://github.com/{self.name}",
            "description": None,
            "homepage": None,
            "language": None,
            "topics": [],
            "fork": False,
            "archived": False,
            "private": False,
            "default_branch": "main",
            "stargazers_count": 0,
            "created_at": "2020-05-06T07:08:09Z",
            "pushed_at": "2026-02-03T04:05:06Z",
            **self.facts,
        }

    def tree(self) -> dict[str, Any]:
        entries = [
            {
                "path": path,
                "mode": "120000" if isinstance(content, Link) else "100644",
                "type": "blob",
                "sha": blob(data_of(content)),
                "size": len(data_of(content)),
            }
            for path, content in sorted(self.files.items())
        ]
        folders = [{"path": "sub", "mode": "160000", "type": "commit", "sha": "1" * 40}]
        return {
            "sha": "2" * 40,
            "tree": entries[:1] if self.truncated else entries + folders,
            "truncated": self.truncated,
        }

    def zipball(self) -> bytes:
        if self.archive is not None:
            return self.archive
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            top = f"{self.name.replace('/', '-')}-abc1234/"
            archive.writestr(top, b"")
            for path, content in (self.files if self.members is None else self.members).items():
                about = zipfile.ZipInfo(path if path.startswith("../") else top + path)
                about.compress_type = zipfile.ZIP_DEFLATED
                if isinstance(content, Link):
                    about.external_attr = 0o120777 << 16
                archive.writestr(about, data_of(content))
        return packed.getvalue()


def data_of(content: str | bytes | Link) -> bytes:
    text = content.target if isinstance(content, Link) else content
    return text.encode() if isinstance(text, str) else text


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Asked:
    """A request as it arrived, and how it was answered."""

    host: str
    path: str
    status: int
    authorization: str | None
    user_agent: str


@dataclass
class GitHub:
    """What the server holds and what it was asked.

    `private` maps the names of repositories to the token that shows them. With `limit` requests are counted down, and
    refused at zero until `reset`; `refusals` are answered first, one each.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    gists: list[dict[str, Any]] = field(default_factory=list)
    raw: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict)
    replies: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    tokens: set[str] | None = None
    limit: int | None = None
    reset: int = 0
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    trust: ssl.SSLContext | None = None

    def add(self, name: str, files: dict[str, str | bytes | Link], **facts: Any) -> Repository:
        self.repositories[name] = Repository(name, files, facts)
        return self.repositories[name]

    def paths(self) -> list[str]:
        """What was asked for since the last `forget`, without queries."""
        return [each.path.partition("?")[0] for each in self.asked]

    def archives(self) -> list[str]:
        return [each.path for each in self.asked if each.host == "codeload.github.com"]

    def forget(self) -> None:
        self.asked.clear()

    # --- answers ----------------------------------------------------------------------------------------------------

    def answer(self, host: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(path)
        if host == "codeload.github.com":
            return 200, {"content-type": "application/zip"}, self.repositories[parts.path[1:-4]].zipball()
        if host == "gist.githubusercontent.com":
            found = self.raw.get(parts.path)
            return (200, {"content-type": "text/plain"}, found) if found is not None else (404, {}, b"")
        return self._api(parts.path, path, headers)

    def _api(self, path: str, full: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if full in self.replies:
            return self.replies[full]
        if self.refusals:
            status, said = self.refusals.pop(0)
            return status, said, b'{"message": "API rate limit exceeded"}'
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token and token not in self.tokens:
            return 401, {}, b'{"message": "Bad credentials"}'
        if self.limit is not None and self.limit <= 0:
            said = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(self.reset)}
            return 403, said, b'{"message": "API rate limit exceeded"}'
        page = int(parse_qs(urlsplit(full).query).get("page", ["1"])[0])
        found = self._entry(unquote(path), full, token)
        if found is None:
            return 404, {}, b'{"message": "Not Found"}'
        if isinstance(found, tuple):
            return found
        said = {"content-type": "application/json; charset=utf-8", "cache-control": "private, max-age=60"}
        if isinstance(found, list):
            if len(found) > page * PER_PAGE:
                base = re.sub(r"&page=\d+", "", full)
                said["link"] = f'<https://api.github.com{base}&page={page + 1}>; rel="next", <x>; rel="last"'
            found = found[(page - 1) * PER_PAGE : page * PER_PAGE]
        body = json.dumps(found).encode()
        etag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        status = 304 if headers.get("if-none-match") == etag else 200
        if self.limit is not None and status != 304:
            self.limit -= 1
        return status, {**said, "etag": etag}, b"" if status == 304 else body

    def _entry(self, path: str, full: str, token: str) -> Any:
        account = re.fullmatch(r"/users/([\w-]+)/(repos|gists)", path)
        if account and account[2] == "gists":
            return [each for each in self.gists if each["html_url"].split("/")[3] == account[1]]
        if account:
            own = [each for name, each in sorted(self.repositories.items()) if name.startswith(f"{account[1]}/")]
            return [each.about() for each in own if each.name not in self.private] if own else None
        found = re.fullmatch(r"/repos/([\w-]+/[\w.-]+)(/.*)?", path)
        repository = self.repositories.get(found[1]) if found else None
        if repository is None or self.private.get(repository.name, token) != token:
            return None
        rest = (found[2] if found else "") or ""
        branch = repository.about()["default_branch"]
        if rest and repository.status != 200:
            return repository.status, {}, b'{"message": "no"}'
        if rest.startswith("/git/blobs/"):
            sha = rest.removeprefix("/git/blobs/")
            content = next((data_of(each) for each in repository.files.values() if blob(data_of(each)) == sha), None)
            return None if content is None else (200, {"content-type": "application/vnd.github.raw"}, content)
        if rest == f"/zipball/{branch}":
            # GitHub puts a token of its own into this address for private repositories.
            return 302, {"location": f"https://codeload.github.com/{repository.name}.zip?token=SIGNED"}, b""
        if rest == f"/git/trees/{branch}" and not repository.files:
            return 409, {}, b'{"message": "Git Repository is empty."}'
        creator = parse_qs(urlsplit(full).query).get("creator", [""])[0]
        answers = {
            "": repository.about(),
            f"/git/trees/{branch}": repository.tree(),
            "/releases": repository.releases,
            "/issues": [each for each in repository.issues if each["user"]["login"] == creator],
        }
        return answers.get(rest)


class Dialler(httpcore2.SyncBackend):
    """Connects to the server on this machine, whatever address it is given."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        return super().connect_tcp("127.0.0.1", self.port, timeout, local_address, socket_options)


@contextmanager
def serve(hub: GitHub) -> Iterator[GitHub]:
    """Serve on a free port of this machine until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, said, body = hub.answer(headers["host"], self.path, headers)
            hub.asked.append(
                Asked(headers["host"], self.path, status, headers.get("authorization"), headers.get("user-agent", ""))
            )
            self.send_response(status)
            for name, value in said.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            return  # a client that closes a connection it kept open is none

    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(served)
    hub.trust = ssl.create_default_context()
    authority.configure_trust(hub.trust)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = served.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.port = server.server_port
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
