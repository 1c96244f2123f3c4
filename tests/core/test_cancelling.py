from __future__ import annotations

import threading
import time

import pytest

from llm_twin.core import cancelling
from llm_twin.core.cancelling import Cancellation, Cancelled


def test_work_that_nobody_can_cancel_runs_through():
    cancelling.check()
    cancelling.sleep(0.001)


def test_a_check_after_cancel_ends_the_work():
    cancellation = Cancellation()
    steps = []

    def work():
        steps.append("first")
        cancellation.cancel()
        cancelling.check()
        steps.append("second")

    with pytest.raises(Cancelled):
        cancellation.run(work)
    assert steps == ["first"]


def test_the_cancellation_of_one_work_leaves_the_next_one_alone():
    stopped, other = Cancellation(), Cancellation()
    stopped.cancel()
    with pytest.raises(Cancelled):
        stopped.run(cancelling.check)
    assert other.run(lambda: cancelling.current() is other)
    cancelling.check()


def test_a_sleep_of_a_minute_ends_when_another_thread_cancels():
    cancellation = Cancellation()
    threading.Timer(0.05, cancellation.cancel).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        cancellation.run(lambda: cancelling.sleep(60))
    assert time.monotonic() - started < 30


def test_a_wait_is_woken_by_the_function_it_named_and_only_while_it_waits():
    cancellation = Cancellation()
    woken = threading.Event()
    before = threading.Event()

    def work():
        with cancelling.current().waking(before.set):
            pass
        with cancelling.current().waking(woken.set):
            threading.Timer(0.05, cancellation.cancel).start()
            assert woken.wait(30)

    cancellation.run(work)
    assert not before.is_set()


def test_a_wait_that_begins_after_cancel_does_not_begin():
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled), cancellation.waking(lambda: None):
        pytest.fail("the block ran")


def test_no_handler_of_ordinary_errors_swallows_a_cancellation():
    assert not issubclass(Cancelled, Exception)
