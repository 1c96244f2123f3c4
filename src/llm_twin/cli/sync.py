"""`twin sync`, `twin sources`: collect and index what changed, and from where that can be."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from llm_twin.cli.opening import json_option, opened, print_json, seen_from
from llm_twin.cli.progress import on_stderr
from llm_twin.cli.status import tried

if TYPE_CHECKING:
    from llm_twin.core.records import ItemState
    from llm_twin.twin import SyncReport


@click.command()
@click.argument("addresses", nargs=-1)
@click.option("--retry", is_flag=True, help="Try failed items now, also those that are not due yet.")
@click.option("--rebuild", is_flag=True, help="Make the index anew from what is stored.")
@click.option("--watch", is_flag=True, help="Go on syncing until interrupted; local changes are indexed in seconds.")
@click.option("--every", "every", default="15m", show_default=True, help="With --watch: how often; 90s, 15m or 6h.")
@click.option(
    "--wait",
    "wait_s",
    type=float,
    metavar="SECONDS",
    help="Wait for another writer to finish (default: not at all; with --watch 60).",
)
@json_option
@click.pass_context
def sync(
    ctx: click.Context,
    addresses: tuple[str, ...],
    retry: bool,
    rebuild: bool,
    watch: bool,
    every: str,
    wait_s: float | None,
    as_json: bool,
) -> None:
    """Collect and index every source of twin.toml, or only ADDRESSES; only what changed is done again.

    An address may be a path inside a source or the address of one of its items. What failed before is tried again when
    it is due, and at once where an address is named.

    Example: twin sync ./posts
    """
    from llm_twin.twin import WATCH_WAIT_S

    twin = opened(ctx)
    if watch:
        if addresses or rebuild or retry:
            raise click.UsageError(
                "--watch syncs every source of twin.toml; leave out addresses, --rebuild and --retry"
            )
        before = None
        for result in twin.watch(every_s=_seconds(every), wait_s=WATCH_WAIT_S if wait_s is None else wait_s):
            now = str(result) if isinstance(result, Exception) else _notable(result)
            changed = isinstance(result, Exception) or any(result.documents[each] for each in CHANGES)
            if changed or now != before:  # all is quiet while nothing happens
                _tell(result, as_json)
            before = now
        return
    wanted = seen_from(twin.workspace.root, addresses)
    report = twin.sync(wanted, rebuild=rebuild, retry=retry or None, wait_s=wait_s or 0.0, progress=on_stderr())
    _tell(report, as_json)
    ctx.exit(5 if report.problems else 0)


def _tell(report: SyncReport | Exception, as_json: bool) -> None:
    """Counts on stdout; problems, reasons and what is left out on stderr."""
    if isinstance(report, Exception):
        click.echo(f"twin: {report}", err=True)
        return
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(", ".join(f"{count:,} {outcome}" for outcome, count in report.documents.items()))
        click.echo(f"{report.chunks:,} chunks in the index, {report.embedded:,} embedded, {report.seconds:.1f} s")
    due = {_line(item): f" ({tried(item, datetime.now(UTC))})" for item in report.items if item.outcome == "failed"}
    notable = _notable(report)
    for line in notable[:SHOWN]:
        click.echo(line + due.get(line, ""), err=True)
    if len(notable) > SHOWN:
        click.echo(f"… and {len(notable) - SHOWN:,} more: twin status --items", err=True)
    if report.left_out:
        click.echo(f"{len(report.left_out):,} documents are left out of the index: twin status --items", err=True)


def _notable(report: SyncReport) -> list[str]:
    """Problems of sources, then every item with a reason that is not what it was before."""
    items = [item for item in report.items if item.reason and item.outcome != "unchanged"]
    return [f"problem: {problem}" for problem in report.problems] + [_line(item) for item in items]


def _line(item: ItemState) -> str:
    return f"{item.outcome}: {item.key}: {item.reason}"


def _seconds(text: str) -> float:
    """`90s`, `15m` or `6h` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise click.BadParameter(f"{text!r} is no span of time; write 90s, 15m or 6h", param_hint="--every")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


CHANGES = ("added", "updated", "removed")

SHOWN = 10
"""Items with a reason that are listed at the end of a sync; the rest is a count."""


@click.command()
@json_option
def sources(as_json: bool) -> None:
    """List the kinds of sources with an example address and the options each takes.

    Example: twin sources
    """
    from llm_twin.twin import Twin

    kinds = Twin.source_kinds()
    if as_json:
        print_json(kinds)
        return
    for kind in kinds:
        click.echo(f"{kind.name:<10} {kind.example}")
        click.echo(f"{'':<10} {kind.meaning}")
        if kind.options:
            click.echo(f"{'':<10} options: {', '.join(kind.options)}")
