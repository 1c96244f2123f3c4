"""`twin sync` and `twin sources`: collect and index what changed, and from where."""

from __future__ import annotations

import click

from llm_twin.cli.opening import json_option, opened, print_json, seen_from
from llm_twin.cli.progress import on_stderr


@click.command()
@click.argument("addresses", nargs=-1)
@click.option("--rebuild", is_flag=True, help="Make the index anew from what is stored.")
@click.option("--wait", "wait_s", type=float, default=0.0, metavar="SECONDS", help="Wait for another writer to finish.")
@json_option
@click.pass_context
def sync(ctx: click.Context, addresses: tuple[str, ...], rebuild: bool, wait_s: float, as_json: bool) -> None:
    """Collect and index every source of twin.toml, or only ADDRESSES; only what changed is done again.

    Example: twin sync ./posts
    """
    twin = opened(ctx)
    wanted = seen_from(twin.workspace.root, addresses)
    report = twin.sync(wanted, rebuild=rebuild, wait_s=wait_s, progress=on_stderr())
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(", ".join(f"{count:,} {outcome}" for outcome, count in report.documents.items()))
        click.echo(f"{report.chunks:,} chunks in the index, {report.embedded:,} embedded, {report.seconds:.1f} s")
    for problem in report.problems:
        click.echo(f"problem: {problem}", err=True)
    notable = [f"{item.outcome}: {item.key}: {item.reason}" for item in report.items if item.reason]
    for line in notable[:SHOWN]:
        click.echo(line, err=True)
    if len(notable) > SHOWN:
        click.echo(f"… and {len(notable) - SHOWN:,} more: twin status --items", err=True)
    if report.left_out:
        click.echo(f"{len(report.left_out):,} documents are left out of the index: twin status --items", err=True)
    ctx.exit(5 if report.problems else 0)


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
