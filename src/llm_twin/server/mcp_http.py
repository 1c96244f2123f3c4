"""The Model Context Protocol at /mcp of the service, loaded when the first client comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from llm_twin.server.streaming import Desk, shutting_down
from llm_twin.twin import Twin

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


class Mcp:
    """ASGI application: streamable HTTP. `close` it with the service; nothing is open before the first request."""

    def __init__(self, twin: Twin, desk: Desk) -> None:
        self._twin = twin
        self._desk = desk
        self._opening = asyncio.Lock()
        self._manager: StreamableHTTPSessionManager | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, in the name of its caller."""
        if self._ending.is_set():
            raise shutting_down()
        manager = await self._opened()
        from llm_twin.server.mcp import known_as

        await manager.handle_request({**scope, "user": known_as(scope["state"]["caller"])}, receive, send)

    async def close(self) -> None:
        """End all sessions, and what is still sent to clients that listen."""
        self._ending.set()
        if self._serving:
            await self._serving

    async def _opened(self) -> StreamableHTTPSessionManager:
        async with self._opening:
            if self._manager is None:
                manager = await run_in_threadpool(self._load)
                ready = asyncio.Event()
                self._serving = asyncio.create_task(self._serve(manager, ready))
                await ready.wait()
                self._manager = manager
        return self._manager

    def _load(self) -> StreamableHTTPSessionManager:
        from llm_twin.server.mcp import sessions

        return sessions(self._twin, self._desk)

    async def _serve(self, manager: StreamableHTTPSessionManager, ready: asyncio.Event) -> None:
        # What is opened here must be closed in the same task, and the first request ends long before the service.
        async with manager.run():
            ready.set()
            await self._ending.wait()
