"""Stopping work that runs in another thread, wherever it is blocked.

Whoever starts work makes a `Cancellation` current in the context of its thread; the work asks `check` between its
steps, waits with `sleep`, and gives `waking` a way to end a wait that nothing else can end, such as a socket's read.

    cancellation = Cancellation()
    thread = Thread(target=lambda: cancellation.run(work))
    …
    cancellation.cancel()        # from any thread: `work` ends in `Cancelled`

Without a current one nothing is ever cancelled, so code that asks works everywhere.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Cancelled(BaseException):
    """Nobody waits for this work any more. No failure, hence no `Exception`: nothing may catch it and go on."""


class Cancellation:
    """The wish to stop some work: made once, never taken back. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    @property
    def wanted(self) -> bool:
        """Whether the work is to stop."""
        return self._wanted.is_set()

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, with this as its current cancellation. Raises `Cancelled` when it was stopped."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return context.run(work)

    def cancel(self) -> None:
        """Have the work stopped, and wake it where it waits."""
        with self._lock:
            self._wanted.set()
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def check(self) -> None:
        """Raise `Cancelled` when the work is to stop."""
        if self._wanted.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait, or raise `Cancelled` as soon as the work is to stop."""
        self._wanted.wait(seconds)
        self.check()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """`wake` is called, by another thread, when the work is to stop while the block runs. It must not block."""
        with self._lock:
            self.check()
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)


def current() -> Cancellation:
    """The cancellation of the work that is being done here; one that never comes where nobody made any."""
    return _current.get() or _NEVER


def check() -> None:
    """Raise `Cancelled` when the work that is being done here is to stop."""
    current().check()


def sleep(seconds: float) -> None:
    """Wait as `time.sleep` does, but raise `Cancelled` as soon as the work that is being done here is to stop."""
    current().sleep(seconds)


_current: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar("llm_twin_cancellation", default=None)
_NEVER = Cancellation()
