"""Running the service: the socket, uvicorn, signals, and a shutdown that lets answers finish."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llm_twin.core.errors import ConfigError
from llm_twin.server import security
from llm_twin.server.app import create_app
from llm_twin.server.mcp_http import Mcp
from llm_twin.server.streaming import Desk
from llm_twin.server.work import BatchWorker
from llm_twin.twin import Twin

LAST_BYTES_S = 2
"""Seconds that connections have for what was sent last, once nothing is being answered any more."""


def listen(twin: Twin) -> socket.socket:
    """The socket to serve on, at the host and port of the settings.

    Raises `ConfigError` when they cannot be had, or when anybody could reach them and no key is asked for.
    """
    chosen = twin.settings.server
    security.check_address(chosen.host, keys=bool(twin.keys.all()))
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    try:
        return socket.create_server((chosen.host, chosen.port), family=family)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while ")[0]  # what Python adds is the address once more
        raise ConfigError(
            f"cannot listen on {chosen.host} port {chosen.port}: {why}; stop what uses it, or name another with --host "
            "and --port (0 takes a free one)"
        ) from error


def address_of(listening: socket.socket) -> str:
    """What to type into a browser of this machine."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def serve(twin: Twin, listening: socket.socket, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Serve `twin` on this socket until the process is told to stop, then let what is being answered finish.

    `tell` hears what a person at the terminal waits for meanwhile.
    """
    _log_requests()
    Service(create_app(twin), tell=tell).run([listening])


class Service(uvicorn.Server):
    """uvicorn that stops in two steps.

    Told to stop, by a signal or by `stop`, it takes no further work (503) and goes on until everything is answered, at
    most `server.shutdown_s` seconds; then what is left is ended with an error. Told again, it does that at once; told a
    third time, it does not wait for anything.
    """

    def __init__(self, app: FastAPI, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self._twin: Twin = app.state.twin
        proxies = list(self._twin.settings.server.trusted_proxies)
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",  # the strict parser, also where another one is installed
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=proxies,
                timeout_graceful_shutdown=LAST_BYTES_S,
            )
        )
        self._desk: Desk = app.state.desk
        self._batches: BatchWorker = app.state.batch_worker
        self._mcp: Mcp = app.state.mcp
        self._tell = tell
        self._told = 0
        self._until = 0.0
        self._stopping: list[threading.Thread] = []

    def stop(self) -> None:
        """Begin to stop; may be called from any thread, and again to stop at once."""
        self._told += 1
        if self._told > 2:
            self.should_exit = self.force_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """What uvicorn calls for a signal."""
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn calls ten times a second; true ends it."""
        if self._told and not self.should_exit:
            now = asyncio.get_running_loop().time()
            if not self._desk.closing:
                self._desk.closing = True
                limit_s = self._desk.limits.shutdown_s
                self._until = now + limit_s
                for each in (self._twin.jobs, self._batches):
                    self._stopping.append(threading.Thread(target=each.stop, kwargs={"wait_s": limit_s}, daemon=True))
                    self._stopping[-1].start()
                if not self._idle:
                    self._tell(f"what is under way has {limit_s:g} s to finish; Ctrl-C again ends it now")
            if now > self._until or self._told > 1:
                self._desk.abandon()
                self.should_exit = True
            self.should_exit |= self._idle
        return await super().on_tick(counter)

    @property
    def _idle(self) -> bool:
        return self._desk.idle and not any(thread.is_alive() for thread in self._stopping)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn calls at the end; clients that only listen would be waited for, and then cut off."""
        await self._mcp.close()
        await super().shutdown(sockets)


def _log_requests() -> None:
    """One line per request on stderr, with its time."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    access = logging.getLogger("llm_twin.access")
    access.setLevel(logging.INFO)
    access.propagate = False
    access.handlers = [lines]
