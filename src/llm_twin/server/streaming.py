"""Twin's events, made in threads, read in the event loop: admission, cancellation, time limits, server-sent events.

An answer is a generator that blocks: on the index, on the embedder, on a model's socket. Each runs in a thread of its
own from its first event to its last, so many at a time as the settings allow; the others wait their turn in order, and
beyond that they are refused. A reader that leaves closes the generator, wherever it is blocked.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from llm_twin.core.records import Done, Event, Passages
from llm_twin.server.problems import Refused, problem_of
from llm_twin.settings import ServerSettings

T = TypeVar("T")

PING_S = 15.0
"""Seconds of silence after which a comment line keeps proxies from closing a stream."""

_END = object()


class Desk:
    """Where answers are made: `limits.streams` at once, `limits.waiting` more in line, everybody else is refused."""

    def __init__(self, limits: ServerSettings) -> None:
        self.limits = limits
        self.running = 0
        self.waiting = 0
        self.closing = False
        self._free = asyncio.Semaphore(limits.streams)
        self._mean_s = 1.0

    async def events(self, begin: Callable[[], Iterator[Event]]) -> AsyncIterator[Event]:
        """The events that `begin` makes, as they come. Leaving the loop early stops them.

        Raises `Refused` when too many wait already, when the service shuts down, or when a time limit is over.
        """
        await self._enter()
        work = _Work(begin, asyncio.get_running_loop(), self._leave)
        try:
            async for event in work.events(self.limits):
                yield event
        finally:
            work.stop()

    async def _enter(self) -> None:
        if self.closing:
            raise Refused(
                503, "ShuttingDown", "Shutting down", "the service is being stopped; ask again in a moment",
                headers={"Retry-After": "5", "Connection": "close"},
            )  # fmt: skip
        if self._free.locked() and self.waiting >= self.limits.waiting:
            after = max(1, min(60, round(self._mean_s * (1 + self.waiting / self.limits.streams))))
            raise Refused(
                429, "TooBusy", "Too many at once",
                f"{self.running} answers are being made and {self.waiting} wait; ask again in {after} s, "
                "or raise server.streams or server.waiting",
                headers={"Retry-After": str(after)},
            )  # fmt: skip
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    def _leave(self, seconds: float) -> None:
        self.running -= 1
        self._mean_s += 0.1 * (seconds - self._mean_s)
        self._free.release()


class _Work:
    """One generator in its thread. `left` is called in the loop when the thread has ended, with its seconds."""

    def __init__(
        self, begin: Callable[[], Iterator[Event]], loop: asyncio.AbstractEventLoop, left: Callable[[float], None]
    ) -> None:
        self._begin = begin
        self._loop = loop
        self._left = left
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._stopped = threading.Event()
        self._events: Iterator[Event] | None = None
        self._began = loop.time()
        # A daemon, so that a model that never answers cannot keep the process from ending.
        threading.Thread(target=self._run, name="answer", daemon=True).start()

    async def events(self, limits: ServerSettings) -> AsyncIterator[Event]:
        """The events as they come. Raises what the generator raised, and `Refused` when a time limit is over."""
        until = self._began + min(limits.retrieval_timeout_s, limits.answer_timeout_s)
        while True:
            try:
                async with asyncio.timeout_at(until):
                    item = await self._queue.get()
            except TimeoutError:
                raise _too_slow(limits) from None
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Passages):
                until = self._began + limits.answer_timeout_s
            yield item

    def stop(self) -> None:
        """End the work, from any thread; it stops where it is."""
        self._stopped.set()
        with suppress(ValueError):  # running in its thread, which looks at `_stopped` at the next event
            getattr(self._events, "close", lambda: None)()

    def _run(self) -> None:
        try:
            self._events = self._begin()
            for event in self._events:
                if self._stopped.is_set():
                    break
                self._tell(event)
            self._tell(_END)
        except BaseException as error:
            self._tell(error)
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._end)

    def _tell(self, item: Any) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _end(self) -> None:
        self._left(self._loop.time() - self._began)


async def whole(events: AsyncIterator[Event]) -> Done:
    """The answer at the end of its events, and how it was kept."""
    async for event in events:
        if isinstance(event, Done):
            return event
    raise AssertionError("the events of an answer end with Done")


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; cancelled when the client leaves before it is done."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise Refused(499, "ClientLeft", "The client left", "the client closed the connection before the answer")
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Named events as `text/event-stream`. An error becomes the last event, `error`, with the problem as its data."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[tuple[str, Any]]) -> None:
        # Proxies (nginx) would hold events back, caches keep them.
        super().__init__(_encoded(events), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _encoded(events: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for told in _with_pauses(events, PING_S):
            yield KEEPALIVE_COMMENT if told is None else _event(*told)
    except Exception as error:
        yield _event("error", problem_of(error).as_json())


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))


async def _with_pauses(items: AsyncIterator[T], every_s: float) -> AsyncIterator[T | None]:
    """The items, and None for every `every_s` seconds in which none came."""
    async with aclosing(items) as items:  # type: ignore[type-var]
        coming = asyncio.ensure_future(anext(items, None))
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=every_s)
                if not done:
                    yield None
                    continue
                item = coming.result()
                if item is None:
                    return
                coming = asyncio.ensure_future(anext(items, None))
                yield item
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _too_slow(limits: ServerSettings) -> Refused:
    return Refused(
        504, "TimeLimit", "Time limit",
        f"nothing was found within {limits.retrieval_timeout_s:g} s or the answer took longer than "
        f"{limits.answer_timeout_s:g} s; ask a narrower question, or raise server.retrieval_timeout_s or "
        "server.answer_timeout_s",
    )  # fmt: skip
