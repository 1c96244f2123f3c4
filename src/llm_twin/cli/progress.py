"""How far a long step is: bars on a terminal, a line per step otherwise. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


class Bars:
    """A bar per step with its rate and the time that remains."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Draw the bar while the block runs."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(name, total=total, rate="")
            started = time.monotonic()

            def advance(count: int) -> None:
                progress.advance(task, count)
                elapsed = time.monotonic() - started
                done = progress.tasks[0].completed
                progress.update(task, rate=f"{done / elapsed:,.0f}/s" if elapsed > 0 else "")

            yield advance


class Lines:
    """One line when a step is done: how many items, how many seconds."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        """Say what was done when the block ends."""
        started = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count

        yield advance
        if done:
            click.echo(f"{name}: {done:,} in {time.monotonic() - started:.1f} s", err=True)


def on_stderr() -> Bars | Lines:
    """Bars for a person at a terminal, lines for a log."""
    return Bars() if sys.stderr.isatty() else Lines()
