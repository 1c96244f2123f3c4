from __future__ import annotations

import threading
import time

import pytest

from llm_twin.core.cancelling import Cancellation, Cancelled
from llm_twin.inference.turns import Turns
from serving import until


def test_no_more_compute_at_once_than_there_are_places() -> None:
    turns, lock = Turns(3), threading.Lock()
    now = most = 0

    def work() -> None:
        nonlocal now, most
        for _ in range(20):
            with turns.take(soon=True, since=0):
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0.001)
                with lock:
                    now -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (now, most) == (0, 3)


def test_who_has_nothing_to_show_goes_first_and_then_who_began_first() -> None:
    turns, order = Turns(1), []

    def work(name: str, *, soon: bool, since: float) -> None:
        with turns.take(soon=soon, since=since):
            order.append(name)

    with turns.take(soon=True, since=0):
        threads = []
        for name, soon, since in [("a", False, 1), ("b", False, 0), ("c", True, 5), ("d", True, 4), ("e", True, 5)]:
            threads.append(threading.Thread(target=work, args=(name,), kwargs={"soon": soon, "since": since}))
            threads[-1].start()
            until(lambda: len(turns._line) == len(threads))
    for thread in threads:
        thread.join()
    assert order == ["d", "c", "e", "b", "a"]


def test_work_that_is_cancelled_while_it_waits_leaves_the_line_and_takes_no_place() -> None:
    turns, cancellation = Turns(1), Cancellation()
    ended: list[BaseException] = []

    def work() -> None:
        try:
            with turns.take(soon=True, since=0):
                pytest.fail("it had its turn")
        except Cancelled as error:
            ended.append(error)

    with turns.take(soon=True, since=0):
        thread = threading.Thread(target=cancellation.run, args=(work,))
        thread.start()
        until(lambda: len(turns._line) == 1)
        cancellation.cancel()
        thread.join(30)
        assert len(ended) == 1
    with turns.take(soon=False, since=0):
        assert not turns._line


def test_a_step_that_fails_gives_its_place_back() -> None:
    turns = Turns(1)
    with pytest.raises(ValueError, match="broken"), turns.take(soon=True, since=0):
        raise ValueError("broken")
    with turns.take(soon=True, since=0):
        pass
