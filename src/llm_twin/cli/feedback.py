"""`twin feedback`: what you think of an answer, and what you would have said."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, TextIO

import click

from llm_twin.cli.opening import json_option, opened, print_json

if TYPE_CHECKING:
    from llm_twin.core.records import Feedback

EXCERPT = 70
"""Characters of a question in a list."""


@click.group()
def feedback() -> None:
    """Rate answers, say what you would have said, and export it for training and evaluation.

    Example: twin feedback add last down --reason "too long"
    """


@feedback.command("add")
@click.argument("exchange")
@click.argument("rating", type=click.Choice(["up", "down"]), required=False)
@click.option("--reason", help="Why, in your words.")
@click.option("--edit", metavar="FILE", help="File with what you would have said; - reads it from stdin.")
@json_option
@click.pass_context
def add(
    ctx: click.Context, exchange: str, rating: str | None, reason: str | None, edit: str | None, as_json: bool
) -> None:
    """Say what you think of an answer: EXCHANGE is its id, or `last` for the latest one.

    Example: twin feedback add last down --reason "I never said that" --edit better.md
    """
    text = _text_of(edit) if edit else None
    given = opened(ctx).feedback.give(exchange, by="local", user=None, rating=rating, reason=reason, edit=text)
    if as_json:
        print_json(given)
        return
    click.echo(f"{given.id}  {_line(given)}")


@feedback.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@json_option
@click.pass_context
def list_feedback(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List the latest feedback.

    Example: twin feedback list --limit 50
    """
    found = opened(ctx).feedback.all(user=None, limit=limit)
    if as_json:
        print_json(found)
        return
    for given in found:
        click.echo(f"{given.id}  {given.created_at:%Y-%m-%d %H:%M}  {_line(given)}")
    if not found:
        click.echo("no feedback yet; rate the latest answer with: twin feedback add last up", err=True)


@feedback.command("show")
@click.argument("feedback_id", metavar="ID")
@json_option
@click.pass_context
def show(ctx: click.Context, feedback_id: str, as_json: bool) -> None:
    """Show one piece of feedback with the question, the answer and its sources.

    Example: twin feedback show 3f2a9c1e5b7d
    """
    given = opened(ctx).feedback.get(feedback_id, user=None)
    if as_json:
        print_json(given)
        return
    exchange = given.exchange
    click.echo(f"{exchange.kind}: {exchange.question}\n\n{exchange.answer.text}")
    for citation in exchange.answer.citations:
        click.echo(f"  [{citation.number}] {citation.title}")
    click.echo(f"\nrating: {given.rating or 'none'}")
    if given.reason:
        click.echo(f"reason: {given.reason}")
    if given.edit:
        click.echo(f"edit:\n\n{given.edit}")


@feedback.command("remove")
@click.argument("feedback_id", metavar="ID")
@click.pass_context
def remove(ctx: click.Context, feedback_id: str) -> None:
    """Delete one piece of feedback.

    Example: twin feedback remove 3f2a9c1e5b7d
    """
    opened(ctx).feedback.remove(feedback_id, user=None)
    click.echo(f"removed {feedback_id}")


@feedback.command("export")
@click.option(
    "--format",
    "name",
    type=click.Choice(["preferences", "questions", "all"]),
    default="preferences",
    show_default=True,
    help="Preference pairs, questions for evaluation, or everything.",
)
@click.option(
    "--out", type=click.File("w", encoding="utf-8", atomic=True), default="-", metavar="FILE", help="Where to write."
)
@click.pass_context
def export(ctx: click.Context, name: str, out: TextIO) -> None:
    """Write feedback as JSON Lines; what has no place in the format is counted on stderr.

    Example: twin feedback export --format preferences --out preferences.jsonl
    """
    left_out = Counter[str]()
    for row in opened(ctx).feedback.export(name):
        if isinstance(row, dict):
            click.echo(json.dumps(row, ensure_ascii=False), file=out)
        else:
            left_out[row.reason] += 1
    for reason, count in left_out.items():
        click.echo(f"left out {count}: {reason}", err=True)


def _text_of(name: str) -> str:
    try:
        with click.open_file(name, encoding="utf-8") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise click.FileError(name, str(error)) from error


def _line(given: Feedback) -> str:
    question = " ".join(given.exchange.question.split())
    shown = question if len(question) <= EXCERPT else question[: EXCERPT - 1] + "…"
    said = [given.rating or "unrated", *(["edited"] if given.edit else []), *([given.reason] if given.reason else [])]
    return f"{', '.join(said)}: {shown}"
