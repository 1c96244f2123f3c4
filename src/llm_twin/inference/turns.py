"""Turns at the processor, so that many answers at once do not get in each other's way, nor in the way of anything else.

Threads that all compute share a processor in slices: each is as slow as all of them, a reader of a stream waits behind
every one, and memory is needed for all at once. So only a few compute, and the others wait; first comes whoever has
nothing to show yet, and among those whoever asked first.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llm_twin.core import cancelling

FEWEST = 2
"""Places there are at least: a step may wait for a store, or for an index on another machine."""


def as_many_as_cores() -> int:
    """Places for the processors of this machine."""
    return max(FEWEST, os.cpu_count() or 1)


@dataclass(order=True, slots=True)
class _Waiting:
    later: bool
    since: float
    number: int
    called: threading.Event = field(default_factory=threading.Event, compare=False)
    has_place: bool = field(default=False, compare=False)
    gone: bool = field(default=False, compare=False)


class Turns:
    """So many places for steps that keep a processor busy. A step must not take a second turn inside its own."""

    def __init__(self, places: int | None = None) -> None:
        self._lock = threading.Lock()
        self._free = places or as_many_as_cores()
        self._line: list[_Waiting] = []
        self._numbers = itertools.count()

    @contextmanager
    def take(self, *, soon: bool, since: float) -> Iterator[None]:
        """Wait for a place and hold it for the block.

        Those that are to have it `soon` come before all others, and among equals the answer that began first, `since`
        when (any clock, one for all). Raises `Cancelled` when the work is cancelled while it waits.
        """
        self._wait(_Waiting(not soon, since, next(self._numbers)))
        try:
            yield
        finally:
            self._leave()

    def _wait(self, waiting: _Waiting) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            heapq.heappush(self._line, waiting)
        try:
            with cancelling.current().waking(waiting.called.set):
                waiting.called.wait()
            cancelling.check()
        except BaseException:
            self._give_up(waiting)
            raise

    def _give_up(self, waiting: _Waiting) -> None:
        with self._lock:
            waiting.gone = True
            had_place = waiting.has_place
        if had_place:
            self._leave()

    def _leave(self) -> None:
        """Hand the place to whoever is next."""
        with self._lock:
            while self._line:
                following = heapq.heappop(self._line)
                if not following.gone:
                    following.has_place = True
                    following.called.set()
                    return
            self._free += 1
