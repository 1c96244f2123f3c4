"""`twin search`, `twin ask`, `twin write`, `twin chat`: what the twin is for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from llm_twin.cli.opening import filter_options, json_option, opened, print_json

if TYPE_CHECKING:
    from llm_twin.core.records import Answer, Done, Event, Filter
    from llm_twin.twin import Twin


def _not_empty(_: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise click.BadParameter("it is empty; say what you look for", param=parameter)
    return text


@click.command()
@click.argument("query", callback=_not_empty)
@click.option("-k", "--k", type=click.IntRange(1, 1000), help="Hits returned (default: setting search.k).")
@click.option(
    "--method", type=click.Choice(["reranked", "hybrid", "dense", "bm25"]), default="reranked", show_default=True
)
@filter_options
@json_option
@click.pass_context
def search(ctx: click.Context, /, query: str, k: int | None, method: str, as_json: bool, **filters: Any) -> None:
    """Find the passages of the author that match QUERY best.

    Example: twin search "vector clocks" --since 2021 --source github
    """
    twin = opened(ctx)
    where = _where(twin, filters)
    hits = twin.search(query, k=k, where=where, method=method)
    if as_json:
        print_json([hit.as_json() for hit in hits])
        return
    for number, hit in enumerate(hits, start=1):
        click.echo(f"{number}. {_place(hit.document)}  ({hit.score:.3f}, {' + '.join(hit.found_by)})")
        click.echo(f"   {_excerpt(hit.chunk.text)}")
    if not hits:
        click.echo("nothing found", err=True)
        _print_platforms(twin, where)


@click.command()
@click.argument("question", callback=_not_empty, required=False)
@click.option(
    "--file",
    "questions",
    type=click.Path(path_type=Path),
    help='Answer the questions of a file, one {"question": …} a line, as JSON Lines.',
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the answers of --file go.")
@click.option("--concurrency", type=click.IntRange(1, 256), help="Questions of --file at the same time.")
@filter_options
@json_option
@click.pass_context
def ask(
    ctx: click.Context,
    /,
    question: str | None,
    questions: Path | None,
    out: Path | None,
    concurrency: int | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Answer QUESTION from the author's writing, every claim cited; or, with --file, many of them.

    A file that was interrupted goes on where it was when the same command is given again.

    Example: twin ask "What do I think of ORMs?"
    """
    if questions is not None:
        if question is not None or any(filters.values()):
            raise click.UsageError('the lines of a file bring questions and filters: {"question": …, "filters": {…}}')
        _answer_file(ctx, questions, out, concurrency)
        return
    if question is None or out is not None or concurrency is not None:
        raise click.UsageError("give a QUESTION, or --file with many; --out and --concurrency belong to --file")
    twin = opened(ctx)
    where = _where(twin, filters)
    if as_json:
        print_json(_done(twin.chat().ask(question, where=where)).as_json())
        return
    done = _print_events(twin.chat().ask(question, where=where), twin)
    if done and not done.answer.passages:
        _print_platforms(twin, where)


@click.command()
@click.argument("topic", callback=_not_empty)
@click.option("--kind", type=click.Choice(["post", "article", "thread"]), default="post", show_default=True)
@click.option(
    "--length", "words", type=click.IntRange(20, 20_000), default=400, show_default=True, help="Words wanted."
)
@json_option
@click.pass_context
def write(ctx: click.Context, topic: str, kind: str, words: int, as_json: bool) -> None:
    """Draft a text on TOPIC in the author's voice, grounded in what they wrote, with its sources. Needs a model.

    Example: twin write "Why we left Kubernetes" --kind post --length 300
    """
    twin = opened(ctx)
    if as_json:
        print_json(_done(twin.chat().write(topic, kind=kind, words=words)).as_json())
        return
    _print_events(twin.chat().write(topic, kind=kind, words=words), twin)


@click.command()
@filter_options
@click.pass_context
def chat(ctx: click.Context, /, **filters: Any) -> None:
    """Talk with the twin; a follow-up question is understood from what was said. End with an empty line or Ctrl-D.

    Example: twin chat --since 2020
    """
    twin = opened(ctx)
    where = _where(twin, filters)
    conversation = twin.chat()
    while question := _read_question():
        _print_events(conversation.ask(question, where=where), twin)
        click.echo()


EXCERPT = 240
"""Characters of a hit shown in the terminal."""

NEAREST = 3
"""Documents named when the twin declines to answer."""


def _where(twin: Twin, filters: dict[str, Any]) -> Filter:
    return twin.filter(
        authors=filters["author"],
        sources=filters["source"],
        kinds=filters["kind"],
        languages=filters["language"],
        since=filters["since"],
        until=filters["until"],
    )


def _read_question() -> str:
    if sys.stdin.isatty():
        click.echo("you> ", nl=False, err=True)
    return sys.stdin.readline().strip()


def _answer_file(ctx: click.Context, questions: Path, out: Path | None, concurrency: int | None) -> None:
    """The results on stdout or in a file that is whole when it is there; exit code 1 when some have no answer."""
    from llm_twin.cli.progress import on_stderr

    batches = opened(ctx).batches
    batch = batches.of_file(questions, user="local")
    with on_stderr().step("answer", total=batch.total) as advance:
        batch = batches.run(batch.id, concurrency=concurrency, told=lambda _: advance(1))
    with click.open_file(str(out or "-"), "w", encoding="utf-8", atomic=out is not None) as file:
        for result in batches.results(batch.id, user="local"):
            click.echo(json.dumps(result, ensure_ascii=False), file=file)
    batches.delete(batch.id, user="local")
    if batch.failed:
        click.echo(f"{batch.failed} of {batch.total} questions have no answer; `error` says why", err=True)
        ctx.exit(1)


def _done(events: Iterable[Event]) -> Done:
    """The last event, with the whole answer."""
    *_, last = events
    return cast("Done", last)


def _print_platforms(twin: Twin, where: Filter) -> None:
    """What `--source` can name, where it names a platform nothing was collected from."""
    held = sorted({each.source for each in twin.holdings()}) if where.sources else []
    for source in where.sources:
        if held and source not in held:
            click.echo(f"nothing was collected from {source!r}; there is {', '.join(held)}", err=True)


def _print_events(events: Iterable[Event], twin: Twin) -> Done | None:
    """The text, on a terminal as a model writes it, then the sources. A text marked afterwards is printed again.

    Returns the last event.
    """
    from llm_twin.core.records import Done, TextDelta, Understood, Withdrawn

    streaming = sys.stdout.isatty() and twin.model is not None
    streamed = ""
    told: tuple[str, ...] = ()
    done = None
    for event in events:
        if isinstance(event, Understood):
            told = event.notes
            _print_notes(told)
        elif isinstance(event, TextDelta) and streaming:  # a pipe gets the final text only
            click.echo(event.text, nl=False)
            sys.stdout.flush()
            streamed += event.text
        elif isinstance(event, Withdrawn):
            told += (event.reason,)
            _print_notes(["\n" * bool(streamed) + event.reason])
            streamed = ""
        elif isinstance(event, Done):
            done = event
            if streamed.strip() != event.answer.text.strip():
                again = "\n\n— checked against the sources —\n\n" if streamed else ""
                click.echo(again + _unwrapped(event.answer.text), nl=False)
            _print_sources(event.answer)
            _print_notes(note for note in event.answer.notes if note not in told)
    return done


def _print_sources(answer: Answer) -> None:
    click.echo()
    if answer.citations:
        click.echo("\nSources")
        for number, citation in sorted({each.number: each for each in reversed(answer.citations)}.items()):
            click.echo(f"[{number}] {_place(citation)}")
    elif answer.mode == "abstained" and answer.passages:
        click.echo("\nNearest passages")
        nearest = {passage.document.id: passage for passage in reversed(answer.passages)}
        for passage in list(reversed(nearest.values()))[:NEAREST]:
            click.echo(f"- {_place(passage.document)}: {_excerpt(passage.text)}")
    for sentence in answer.unsupported:
        click.echo(f"not supported by the sources: {sentence}", err=True)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"({note})", err=True)


def _unwrapped(text: str) -> str:
    """Markdown whose paragraphs stand on one line each, so that the terminal wraps them; code stays as it is."""
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    prose = (re.sub(r"(?<=\S)[ \t]*\n(?=[^\s\-*+>#|\d])", " ", part) for part in parts[::2])
    return "".join(piece for pair in zip_longest(prose, parts[1::2], fillvalue="") for piece in pair)


def _excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[:EXCERPT].rsplit(" ", 1)[0] + " …"


def _place(found: Any) -> str:
    """Title, heading, date and address of a document or a citation."""
    headings = [heading for heading in getattr(found, "heading_path", ()) if heading != found.title]
    date = [f"{found.published_at:%Y-%m-%d}"] if found.published_at else []
    return " · ".join([" › ".join([found.title, *headings]), *date, *([found.url] if found.url else [])])
