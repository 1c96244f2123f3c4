"""`twin sync`, `twin sources`, `twin forget`: collect and index what changed, from where, and delete it again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from llm_twin.cli.opening import json_option, opened, print_json, seen_from
from llm_twin.cli.progress import on_stderr

if TYPE_CHECKING:
    from llm_twin.twin import SyncReport


@click.command()
@click.argument("addresses", nargs=-1)
@click.option("--rebuild", is_flag=True, help="Make the index anew from what is stored.")
@click.option("--watch", is_flag=True, help="Go on syncing until interrupted; local changes are indexed in seconds.")
@click.option("--every", "every", default="15m", show_default=True, help="With --watch: how often; 90s, 15m or 6h.")
@click.option("--wait", "wait_s", type=float, default=0.0, metavar="SECONDS", help="Wait for another writer to finish.")
@json_option
@click.pass_context
def sync(
    ctx: click.Context,
    addresses: tuple[str, ...],
    rebuild: bool,
    watch: bool,
    every: str,
    wait_s: float,
    as_json: bool,
) -> None:
    """Collect and index every source of twin.toml, or only ADDRESSES; only what changed is done again.

    Example: twin sync ./posts
    """
    twin = opened(ctx)
    if watch:
        if addresses or rebuild:
            raise click.UsageError("--watch syncs every source of twin.toml; leave out addresses and --rebuild")
        before = None
        for result in twin.watch(every_s=_seconds(every)):
            now = str(result) if isinstance(result, Exception) else _notable(result)
            changed = isinstance(result, Exception) or any(result.documents[each] for each in CHANGES)
            if changed or now != before:  # all is quiet while nothing happens
                _tell(result, as_json)
            before = now
        return
    wanted = seen_from(twin.workspace.root, addresses)
    report = twin.sync(wanted, rebuild=rebuild, wait_s=wait_s, progress=on_stderr())
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
    notable = _notable(report)
    for line in notable[:SHOWN]:
        click.echo(line, err=True)
    if len(notable) > SHOWN:
        click.echo(f"… and {len(notable) - SHOWN:,} more: twin status --items", err=True)
    if report.left_out:
        click.echo(f"{len(report.left_out):,} documents are left out of the index: twin status --items", err=True)


def _notable(report: SyncReport) -> list[str]:
    """Problems of sources, then every item with a reason that is not what it was before."""
    items = [item for item in report.items if item.reason and item.outcome != "unchanged"]
    return [f"problem: {problem}" for problem in report.problems] + [
        f"{item.outcome}: {item.key}: {item.reason}" for item in items
    ]


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


@click.command()
@click.argument("target")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def forget(ctx: click.Context, target: str, yes: bool, as_json: bool) -> None:
    """Delete everything about a document (by id, title or URL), a source or an author, and prove that nothing is left.

    Example: twin forget https://example.org/posts/orms
    """
    twin = opened(ctx)
    meant = twin.meant_by(target)
    if not yes:
        for header in meant[:SHOWN]:
            click.echo(f"{header.title}  {header.url or header.id}", err=True)
        click.confirm(f"Delete {_counted(len(meant), 'document')}, everywhere?", abort=True, err=True)
    done = twin.forget(target)
    if as_json:
        print_json(done)
        return
    click.echo(f"forgot {_counted(len(done.document_ids), 'document')} of {_counted(len(done.items), 'item')}")
    click.echo("left: " + ", ".join(f"{count} in {store}" for store, count in done.left.items()))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)
