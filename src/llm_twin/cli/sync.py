"""`twin sync`, `twin sources`: collect and index what changed, and from where that can be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from llm_twin.cli.opening import counted, json_option, opened, print_json, seen_from
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
            now = str(result) if isinstance(result, Exception) else _notable(result.items, result.problems)
            changed = isinstance(result, Exception) or any(result.documents[each] for each in CHANGES)
            if changed or now != before:  # all is quiet while nothing happens
                _tell(result, as_json, at=f"{datetime.now():%H:%M:%S}  ")
            if before is None:
                click.echo(f"watching; every source is looked at again in {every}, Ctrl-C ends it", err=True)
            before = now
        return
    wanted = seen_from(twin.workspace.root, addresses)
    report = twin.sync(wanted, rebuild=rebuild, retry=retry or None, wait_s=wait_s or 0.0, progress=on_stderr())
    _tell(report, as_json)
    ctx.exit(5 if report.problems else 0)


def _tell(report: SyncReport | Exception, as_json: bool, *, at: str = "") -> None:
    """Counts on stdout; problems, what is new among the reasons, and what is left out on stderr."""
    if isinstance(report, Exception):
        click.echo(f"{at}twin: {report}", err=True)
        return
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(at + ", ".join(f"{count:,} {outcome}" for outcome, count in report.documents.items()))
        chunks = f"{counted(report.chunks, 'chunk')} in the index, {report.embedded:,} embedded"
        click.echo(f"{' ' * len(at)}{chunks}, {report.seconds:.1f} s")
    due = {_line(item): f" ({tried(item, datetime.now(UTC))})" for item in report.news if item.outcome == "failed"}
    news = _notable(report.news, report.problems)
    for line in news[:SHOWN]:
        click.echo(line + due.get(line, ""), err=True)
    if len(news) > SHOWN:
        click.echo(f"… and {len(news) - SHOWN:,} more: twin status --items", err=True)
    known = report.documents["skipped"] - sum(item.outcome == "skipped" for item in report.news)
    if known:
        click.echo(f"{counted(known, 'item')} skipped as before: twin status --items", err=True)
    if report.left_out:
        are = "is" if len(report.left_out) == 1 else "are"
        click.echo(
            f"{counted(len(report.left_out), 'document')} {are} left out of the index: twin status --items", err=True
        )
    for source in report.unlisted:
        click.echo(f"{source} is not in twin.toml: add it there, and `twin sync` keeps it current", err=True)


def _notable(items: Sequence[ItemState], problems: Sequence[str]) -> list[str]:
    """Problems of sources, then every item with something to tell."""
    told = [item for item in items if item.reason and item.outcome != "unchanged"]
    return [f"problem: {problem}" for problem in problems] + [_line(item) for item in told]


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
    click.echo("each also takes kind and author; docs/sources.md tells what the options mean", err=True)
