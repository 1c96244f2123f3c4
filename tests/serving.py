"""A real service on a free port of this machine, in a thread of the test, over a small real workspace.

with Twin.open(home) as twin, Served(twin) as service:
    service.client.post("/v1/ask", json={"question": "What do I think of ORMs?"})
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from llm_twin.server.app import create_app
from llm_twin.server.run import Service, address_of
from llm_twin.twin import Twin

POSTS = {
    "orms.md": """---
title: On ORMs
date: 2021-03-04
url: https://example.org/orms
tags: [databases]
---
I don't like object-relational mappers. They hide the query, and the query is the program.

I write SQL by hand and map rows to small records. It's a little more typing, and I always know what runs.
""",
    "reviews.md": """---
title: Small reviews
date: 2023-06-01
url: https://example.org/reviews
---
A review should be small and quick. I review code the day it arrives, because waiting costs more than mistakes.
""",
    "tomatoes.md": "# Tomatoes\n\nTomatoes want sun, deep water twice a week and an early stake.\n",
}


def make_home(folder: Path) -> Path:
    """A workspace in `folder`, synced."""
    for name, text in POSTS.items():
        path = folder / "posts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with Twin.init(folder / "twin", author="Test Author", addresses=["../posts"]) as twin:
        twin.sync()
    return folder / "twin"


class Served:
    """The running service; a context manager. `client` talks to it, `service` stops it."""

    def __init__(self, twin: Twin, *, warm: bool = True) -> None:
        self.app = create_app(twin)
        self.service = Service(self.app)
        self._warm = warm
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = address_of(self._socket)
        self.client = httpx2.Client(base_url=self.address, timeout=60, trust_env=False)
        self._thread = threading.Thread(target=self.service.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        if self._warm:
            until(lambda: self.app.state.desk.warm.is_set())
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.service.stop()
        self._thread.join(30)
        alive = self._thread.is_alive()
        self.service.stop()
        self._thread.join(10)
        assert not alive, "the service did not stop by itself"

    @contextmanager
    def streaming(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[tuple[str, Any]]]:
        """The server-sent events of a POST, as they come."""
        with self.client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield events_of(response.iter_lines())

    def metric(self, name: str, **labels: str) -> float:
        """A value from /metrics; 0 where it is not there yet."""
        shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        wanted = f"{name}{{{shown}}}" if shown else name
        for line in self.client.get("/metrics").text.splitlines():
            left, _, value = line.rpartition(" ")
            if left == wanted:
                return float(value)
        return 0.0


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Names and data of server-sent events; comments are left out."""
    name, data = "", ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data += line.removeprefix("data: ")
        elif not line and data:
            yield name, json.loads(data)
            name, data = "", ""


def until(holds: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait until something holds, or fail."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "what the test waits for does not happen"
        time.sleep(0.01)
