"""`twin traces` and `twin runs`: what the twin did, step by step."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import click

from llm_twin.cli.opening import json_option, opened, print_json

if TYPE_CHECKING:
    from llm_twin.core.records import Span


PLACES = ("before", "after")
"""Long lists of passages' places, which `--json` and the page show."""


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@json_option
@click.pass_context
def traces(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List the latest traces of syncs, searches, answers, drafts and deletions.

    Example: twin traces show 3f2a
    """
    if ctx.invoked_subcommand is not None:
        return
    roots = opened(ctx).traces(limit=limit)
    if as_json:
        print_json(roots)
        return
    for root in roots:
        click.echo(
            f"{root.trace_id[:12]}  {root.started_at:%Y-%m-%d %H:%M:%S}  {root.duration_ms:>9.1f} ms  {root.name}"
        )


@traces.command("show")
@click.argument("trace_id")
@json_option
@click.pass_context
def show(ctx: click.Context, trace_id: str, as_json: bool) -> None:
    """Print a trace as a tree: milliseconds, sizes, errors. The beginning of its id is enough.

    Example: twin traces show 3f2a
    """
    spans = opened(ctx).trace(trace_id)
    if as_json:
        print_json(spans)
        return
    children: dict[str | None, list[Span]] = defaultdict(list)
    known = {span.span_id for span in spans}
    for span in spans:
        children[span.parent_id if span.parent_id in known else None].append(span)

    def show_below(parent: str | None, depth: int) -> None:
        for span in children[parent]:
            facts = " ".join(f"{key}={value}" for key, value in span.attributes.items() if key not in PLACES)
            failed = f"  failed: {span.error}" if span.error else ""
            click.echo(f"{'  ' * depth}{span.name}  {span.duration_ms:.1f} ms  {facts}{failed}".rstrip())
            show_below(span.span_id, depth + 1)

    show_below(None, 0)


@click.command()
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@json_option
@click.pass_context
def runs(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List the latest runs with what they made of what.

    Example: twin runs --json
    """
    latest = opened(ctx).runs(limit=limit)
    if as_json:
        print_json(latest)
        return
    for run in latest:
        documents = run.report.get("documents", {})
        counts = ", ".join(f"{count} {outcome}" for outcome, count in documents.items() if count)
        counts = counts or run.report.get("error", "")
        click.echo(f"{run.id[:12]}  {run.started_at:%Y-%m-%d %H:%M:%S}  {run.pipeline}  {run.status}  {counts}")
