"""`twin forget`: delete for good, see what is kept out since, and undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llm_twin.cli.opening import counted, json_option, opened, print_json

if TYPE_CHECKING:
    from llm_twin.twin import Twin

SHOWN = 10
"""Documents that are named before they are deleted; the question counts them all."""


@click.command()
@click.argument("target", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--list", "show", is_flag=True, help="Show what is kept out because it was forgotten.")
@click.option("--undo", is_flag=True, help="Let TARGET in again, as --list names it; a sync collects it anew.")
@click.option("--wait", "wait_s", type=float, default=0.0, metavar="SECONDS", help="Wait for another writer to finish.")
@json_option
@click.pass_context
def forget(
    ctx: click.Context, target: str | None, yes: bool, show: bool, undo: bool, wait_s: float, as_json: bool
) -> None:
    """Delete everything about a document (by id, title or URL), a source or an author, and prove that nothing is left.

    Example: twin forget https://example.org/posts/orms
    """
    if show == bool(target) or (show and undo):
        raise click.UsageError("name what to forget, or give --list alone to see what is forgotten")
    twin = opened(ctx)
    if target is None:
        _list(twin, as_json)
    elif undo:
        _undo(twin, target, wait_s, as_json)
    else:
        _forget(twin, target, wait_s, yes, as_json)


def _forget(twin: Twin, target: str, wait_s: float, yes: bool, as_json: bool) -> None:
    meant = twin.meant_by(target)
    if not yes:
        for header in meant[:SHOWN]:
            click.echo(f"{header.title}  {header.url or header.id}", err=True)
        click.confirm(f"Delete {counted(len(meant), 'document')}, everywhere?", abort=True, err=True)
    done = twin.forget(target, wait_s=wait_s)
    if as_json:
        print_json(done)
        return
    click.echo(f"forgot {counted(len(done.document_ids), 'document')} of {counted(len(done.items), 'item')}")
    click.echo("left: " + ", ".join(f"{count} in {store}" for store, count in done.left.items()))
    if done.copies:
        click.echo(f"{counted(len(done.copies), 'other document')} with the same text, not forgotten:", err=True)
    for header in done.copies[:SHOWN]:
        click.echo(f"  twin forget {header.id}  # {header.title}  {header.url or header.source}", err=True)
    if len(done.copies) > SHOWN:
        click.echo(f"  … and {len(done.copies) - SHOWN:,} more", err=True)
    if done.returns:
        click.echo(f"{target} stands in twin.toml: the next sync collects it anew, unless you take it out", err=True)


def _list(twin: Twin, as_json: bool) -> None:
    kept_out = twin.forgotten()
    if as_json:
        print_json(kept_out)
        return
    for each in kept_out:
        since = f"{each.since:%Y-%m-%d}" if each.since else "          "
        click.echo(f"{since}  {each.target}  " + (f"in {each.source}" if each.source else "as author"))
    if not kept_out:
        click.echo("nothing is kept out", err=True)


def _undo(twin: Twin, target: str, wait_s: float, as_json: bool) -> None:
    items = twin.undo_forget(target, wait_s=wait_s)
    if as_json:
        print_json({"items": items})
        return
    click.echo(f"{target} is let in again, {counted(len(items), 'known item')}")
    click.echo("next: twin sync", err=True)
