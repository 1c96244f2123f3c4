"""`twin status`: what is collected and indexed, how every source ended, and what failed and when it is tried again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from llm_twin.cli.opening import counted, json_option, opened, print_json

if TYPE_CHECKING:
    from llm_twin.core.records import ItemState, Run
    from llm_twin.twin import Status

SHOWN = 10
"""Failures that are listed without --items; the rest is a count."""


@click.command()
@click.option("--items", is_flag=True, help="List every item that failed, is skipped or is left out of the index.")
@json_option
@click.pass_context
def status(ctx: click.Context, items: bool, as_json: bool) -> None:
    """Show what is collected and indexed, how every source ended, what failed and when it is tried again.

    Example: twin status --items
    """
    twin = opened(ctx)
    now = twin.status()
    if as_json:
        print_json(now.as_json())
        return
    for line in (*_summary(now), *_table(now.coverage()), *_failures(now, all_of_them=items)):
        click.echo(line)
    if items:
        for item in now.items:
            if item.outcome == "skipped":
                click.echo(f"skipped: {item.key} ({item.source}): {item.reason}")
        headers = {header.id: header for header in twin.documents()} if now.left_out else {}
        for drop in now.left_out:
            header = headers.get(drop.item)
            title, address = (header.title, header.url or header.source) if header else ("", "")
            click.echo(f"left out: {title} ({drop.item}, {address}): {drop.reason}")


def _summary(now: Status) -> Iterator[str]:
    yield f"{now.author} · {now.workspace}"
    if now.last_sync is None:
        yield "never synced; run: twin sync"
    else:
        yield f"last sync {now.last_sync.started_at:%Y-%m-%d %H:%M} UTC, {_ended(now.last_sync)}"
    chunks = f"{counted(now.index.count, 'chunk')}, generation {now.index.generation}" if now.index else "no index yet"
    yield f"{counted(now.documents, 'document')}, {len(now.left_out):,} left out of the index, {chunks}"
    yield from (
        f"problem: {problem}" for problem in (now.last_sync.report.get("problems", ()) if now.last_sync else ())
    )


def _ended(sync: Run) -> str:
    """How a sync ended, and what to do where it was not well."""
    if sync.status == "interrupted":
        return "interrupted; it goes on where it was with: twin sync"
    if sync.status == "failed":
        return f"failed: {sync.report.get('error', 'for a reason that was not kept')}"
    problems = len(sync.report.get("problems", ()))
    return f"{sync.status}, with {counted(problems, 'problem')}" if problems else sync.status


def _table(coverage: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Items by source, one column for each outcome that there is."""
    from llm_twin.twin import OUTCOMES

    if not coverage:
        return
    columns = [outcome for outcome in OUTCOMES if any(outcome in counts for counts in coverage.values())]
    width = max(len(source) for source in (*coverage, "source"))
    yield ""
    yield f"{'source':<{width}}" + "".join(f"{outcome:>11}" for outcome in columns)
    for source, counts in coverage.items():
        yield f"{source:<{width}}" + "".join(f"{counts.get(outcome, 0):>11,}" for outcome in columns)


def _failures(now: Status, *, all_of_them: bool) -> Iterator[str]:
    failed = [item for item in now.items if item.outcome == "failed"]
    if failed:
        yield ""
    for item in failed if all_of_them else failed[:SHOWN]:
        yield f"failed: {item.key} ({item.source}): {item.reason}"
        yield f"        {tried(item, datetime.now(UTC))}"
    if len(failed) > SHOWN and not all_of_them:
        yield f"… and {len(failed) - SHOWN:,} more failed: twin status --items"


def tried(item: ItemState, now: datetime) -> str:
    """How often an item failed in a row, and when it is tried again, in plain words."""
    times = {1: "once", 2: "twice"}.get(item.tries, f"{item.tries:,} times")
    return f"tried {times}, next try {_until(item.next_try, now)}"


def _until(moment: datetime | None, now: datetime) -> str:
    left = (moment or now) - now
    if left <= timedelta(0):
        return "at the next sync"
    minutes = -(-left // timedelta(minutes=1))
    if minutes <= 90:
        return f"in {minutes} min"
    return f"in {round(minutes / 60)} h"
