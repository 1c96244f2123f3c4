from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from llm_twin.core.pipeline import Dropped, LocalRunner, RunReport, Step


def _doubled(numbers: Iterable[int]) -> Iterator[int]:
    for number in numbers:
        yield number * 2


def _small(numbers: Iterable[int]) -> Iterator[int | Dropped]:
    for number in numbers:
        yield number if number < 6 else Dropped(str(number), "too_large")


def test_every_item_is_accounted_for() -> None:
    report = RunReport()
    out = list(LocalRunner().run([Step("double", _doubled), Step("small", _small)], [1, 2, 3, 4], report))
    assert out == [2, 4]
    double, small = report.steps
    assert (double.taken, double.given) == (4, 4)
    assert (small.taken, small.given, small.dropped) == (4, 2, {"too_large": 2})
    assert [drop.item for drop in report.dropped] == ["6", "8"]


def test_items_stream_one_at_a_time() -> None:
    seen: list[int] = []

    def watched() -> Iterator[int]:
        for number in range(100):
            seen.append(number)
            yield number

    stream = LocalRunner().run([Step("double", _doubled)], watched(), RunReport())
    assert next(stream) == 0
    assert seen == [0]


def test_a_step_is_timed_without_the_steps_before_it() -> None:
    def slow(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            time.sleep(0.02)
            yield number

    report = RunReport()
    list(LocalRunner().run([Step("slow", slow), Step("double", _doubled)], range(5), report))
    slow_report, double_report = report.steps
    assert slow_report.seconds >= 0.1
    assert double_report.seconds < slow_report.seconds / 2


def test_a_step_with_other_parameters_or_version_has_another_fingerprint() -> None:
    base = Step("cut", _doubled, parameters={"size": 1})
    assert base.fingerprint == Step("cut", _small, parameters={"size": 1}).fingerprint
    assert base.fingerprint != Step("cut", _doubled, parameters={"size": 2}).fingerprint
    assert base.fingerprint != Step("cut", _doubled, version=2, parameters={"size": 1}).fingerprint


def test_no_items_make_no_output_and_a_report_of_zeros() -> None:
    report = RunReport()
    assert list(LocalRunner().run([Step("double", _doubled)], [], report)) == []
    assert report.as_dict()["steps"] == [{"name": "double", "in": 0, "out": 0, "dropped": {}, "seconds": 0.0}]
