"""The twin's blocking work, done in threads and read in the event loop: admission, cancellation, time limits, SSE.

An answer is a generator that blocks: on the index, on the embedder, on a model's socket. Each runs in a thread of its
own from its first event to its last, so many at a time as the settings allow; the others wait their turn in order, and
beyond that they are refused. When its reader leaves, or its time is over, it is cancelled wherever it is blocked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, aclosing, suppress
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT

from llm_twin.core.cancelling import Cancellation, Cancelled
from llm_twin.core.records import Done, Event, Passages, TextDelta
from llm_twin.server.metrics import Metrics
from llm_twin.server.problems import Problem, Refused, problem_of
from llm_twin.settings import ServerSettings

T = TypeVar("T")

PING_S = 15.0
"""Seconds of silence after which a comment line keeps proxies from closing a stream."""
PATIENCE_S = 2.0
"""Seconds that a stream waits for its first event before it begins with none."""
LONGEST_RETRY_S = 60
"""Most seconds that a refused client is asked to wait."""

_END = object()
_log = logging.getLogger(__name__)


class Desk:
    """Where the twin's work is done: so many answers and searches at once, so many in line, the rest is refused.

    Nothing is begun until `warm` is set, nothing more once `closing` is.
    """

    def __init__(self, limits: ServerSettings, metrics: Metrics, *, with_model: bool) -> None:
        self.limits = limits
        self.metrics = metrics
        self.with_model = with_model
        self.warm = asyncio.Event()
        self.closing = False
        self._abandoned = False
        self._works: set[_Work[Any]] = set()
        self.answers = Line(limits.streams, limits.waiting, "server.streams")
        self.searches = Line(limits.searches, limits.waiting, "server.searches")
        metrics.watch(self.answers, self.searches)

    @property
    def idle(self) -> bool:
        """Whether nothing is being done and nobody waits."""
        return not self._works and not self.answers.waiting and not self.searches.waiting

    def warm_up(self, load: Callable[[], None], *, then: Callable[[], None] = lambda: None) -> None:
        """Have work begin when `load` has ended, whatever came of it; it runs in a thread, and `then` after it."""
        loop = asyncio.get_running_loop()

        def loading() -> None:
            try:
                load()
            except Exception:
                _log.exception("the parts could not be loaded ahead; the first question tries again")
            with suppress(RuntimeError):  # the loop is closed: whoever served was stopped meanwhile
                loop.call_soon_threadsafe(self.warm.set)
            then()

        threading.Thread(target=loading, name="twin-warm-up", daemon=True).start()

    def abandon(self) -> None:
        """End everything that is being done, and whoever still waits, with an error that says why."""
        self._abandoned = True
        for work in self._works:
            work.fail(shutting_down())

    def check_open(self) -> None:
        """Raise `Refused` when the service shuts down."""
        if self.closing:
            self.metrics.refused("shutting down")
            raise shutting_down()

    async def events(self, begin: Callable[[], Iterator[Event]]) -> AsyncGenerator[Event, None]:
        """The events of an answer that `begin` makes, as they come. Leaving the loop early cancels it.

        Raises `Refused` when too many wait already, when the service shuts down, or when a time limit is over.
        """
        work = await self._begin(self.answers, begin)
        work.allow(min(self.limits.retrieval_timeout_s, self.limits.answer_timeout_s))
        silent = True
        try:
            async for event in work.items():
                if isinstance(event, Passages):
                    work.allow(self.limits.answer_timeout_s)
                elif isinstance(event, TextDelta) and silent:
                    silent = False
                    self.metrics.first_text(work.age_s)
                elif isinstance(event, Done):
                    self.metrics.answered(event.answer, with_model=self.with_model)
                yield event
        except TimeoutError:
            raise self._too_slow("an answer", "server.retrieval_timeout_s or server.answer_timeout_s") from None
        finally:
            self._end(work)

    async def search(self, find: Callable[[], T]) -> T:
        """What `find` returns. Raises `Refused` as `events` does."""
        work = await self._begin(self.searches, lambda: iter((find(),)))
        work.allow(self.limits.search_timeout_s)
        try:
            return await anext(work.items())
        except TimeoutError:
            raise self._too_slow("a search", "server.search_timeout_s") from None
        finally:
            self._end(work)

    async def _begin(self, line: Line, begin: Callable[[], Iterator[T]]) -> _Work[T]:
        self.check_open()
        if line.full:
            self.metrics.refused("busy")
            after = line.expected_wait_s
            raise Refused(
                429, "TooBusy", "Too many at once",
                f"{line.running} requests of this kind are being answered and {line.waiting} wait; ask again in "
                f"{after} s, or raise {line.setting} or server.waiting",
                headers={"Retry-After": str(after)},
            )  # fmt: skip
        await line.enter(self.warm)
        if self._abandoned:
            line.leave(0.0)
            raise shutting_down()
        work = _Work(begin, line)
        self._works.add(work)
        return work

    def _end(self, work: _Work[Any]) -> None:
        self._works.discard(work)
        work.cancel()

    def _too_slow(self, what: str, setting: str) -> Refused:
        self.metrics.refused("too slow")
        return Refused(
            504, "TimeLimit", "Time limit",
            f"{what} took longer than this service allows; ask something narrower, or raise {setting}",
        )  # fmt: skip


def shutting_down() -> Refused:
    """What a request is told that comes while the service ends."""
    return Refused(
        503, "ShuttingDown", "Shutting down", "the service is being stopped; ask again in a moment",
        headers={"Retry-After": "5", "Connection": "close"},
    )  # fmt: skip


class Line:
    """So many at once, so many waiting; `setting` is what to raise where that is too few."""

    def __init__(self, places: int, most_waiting: int, setting: str) -> None:
        self.running = 0
        self.waiting = 0
        self.setting = setting
        self._places = places
        self._most_waiting = most_waiting
        self._free = asyncio.Semaphore(places)
        self._mean_s = 1.0

    @property
    def full(self) -> bool:
        """Whether nobody more may wait."""
        return self._free.locked() and self.waiting >= self._most_waiting

    @property
    def expected_wait_s(self) -> int:
        """Whole seconds until a place becomes free for one who comes now, by how long work took lately."""
        return max(1, min(LONGEST_RETRY_S, round(self._mean_s * (1 + self.waiting / self._places))))

    async def enter(self, warm: asyncio.Event) -> None:
        """Wait for a place, and until the parts are loaded: loading them twice would take longer."""
        self.waiting += 1
        try:
            await self._free.acquire()
            try:
                await warm.wait()
            except BaseException:
                self._free.release()
                raise
        finally:
            self.waiting -= 1
        self.running += 1

    def leave(self, seconds: float) -> None:
        """Give the place back after so many seconds."""
        self.running -= 1
        self._mean_s += 0.1 * (seconds - self._mean_s)
        self._free.release()


class _Work(Generic[T]):
    """One generator in a thread of its own, read in the loop. Its place in line is free when the thread has ended."""

    def __init__(self, begin: Callable[[], Iterator[T]], line: Line) -> None:
        self._begin = begin
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[Any] = asyncio.Queue()
        self._cancellation = Cancellation()
        self._began_at = self._loop.time()
        self._until = self._began_at
        # A daemon, so that work which cannot be woken does not keep the process from ending.
        threading.Thread(target=self._run, name="twin-work", daemon=True).start()

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return self._loop.time() - self._began_at

    def allow(self, seconds: float) -> None:
        """Have `items` raise `TimeoutError` so many seconds after the work began."""
        self._until = self._began_at + seconds

    async def items(self) -> AsyncGenerator[T, None]:
        """What the work makes, as it comes. Raises what the work raised."""
        while True:
            async with asyncio.timeout_at(self._until):
                item = await self._made.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def cancel(self) -> None:
        """Stop the work where it is; nothing happens when it has ended."""
        self._cancellation.cancel()

    def fail(self, error: Exception) -> None:
        """Stop the work, and have its reader meet this error."""
        self._made.put_nowait(error)
        self.cancel()

    def _run(self) -> None:
        try:
            self._cancellation.run(self._produce)
        except Cancelled:
            pass
        except BaseException as error:
            # Raised again in the loop, where anything but an `Exception` would end the whole service.
            self._tell(error if isinstance(error, Exception) else RuntimeError(f"the work ended in {error!r}"))
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._ended)

    def _produce(self) -> None:
        with ExitStack() as stack:
            items = self._begin()
            stack.callback(getattr(items, "close", lambda: None))
            for item in items:
                self._tell(item)
                self._cancellation.check()
        self._tell(_END)

    def _tell(self, item: Any) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._made.put_nowait, item)

    def _ended(self) -> None:
        self._line.leave(self.age_s)


async def whole(events: AsyncGenerator[Event, None]) -> Done:
    """The last of the events, which holds the whole answer."""
    async with aclosing(events):
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
    last = b""
    """What follows the last event."""

    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        # Caches would keep the events, proxies (nginx) hold them back.
        super().__init__(self._encoded(events), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    def event(self, told: Any) -> bytes:
        """An event as it is sent."""
        name, data = told
        return written(data, name=name)

    def failure(self, problem: Problem) -> bytes:
        """The event that tells an error."""
        return written(problem.as_json(), name="error")

    async def _encoded(self, events: AsyncGenerator[Any, None]) -> AsyncIterator[bytes]:
        try:
            async for told in with_pauses(events, PING_S):
                yield KEEPALIVE_COMMENT if told is None else self.event(told)
        except Exception as error:
            yield self.failure(problem_of(error))
        yield self.last


def written(data: Any, *, name: str = "") -> bytes:
    """One server-sent event; in JSON a text has no line ends, and half a character that a model wrote becomes `?`."""
    line = b"event: " + name.encode() + b"\n" if name else b""
    return line + b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


async def begun(events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same events, held back until the first is there: what fails at once is told by a status code of its own.

    After `PATIENCE_S` seconds they are let go all the same: a stream that is silent is kept awake by comments.
    """
    first = asyncio.ensure_future(anext(events))
    try:
        await asyncio.wait({first}, timeout=PATIENCE_S)
        if first.done() and (error := first.exception()):
            raise error
    except BaseException:
        first.cancel()
        raise

    async def all_of_them() -> AsyncGenerator[T, None]:
        async with aclosing(events):
            yield await first
            async for event in events:
                yield event

    return all_of_them()


async def with_pauses(items: AsyncGenerator[T, None], every_s: float) -> AsyncGenerator[T | None, None]:
    """The items, and None for every `every_s` seconds in which none came."""
    async with aclosing(items):
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
