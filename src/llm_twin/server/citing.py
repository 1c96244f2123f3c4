"""What an answer stands on, as Markdown: for clients that show a text and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from llm_twin.core.records import Answer, Citation

NEAREST = 3
"""Documents named when the twin declines to answer."""

Address = Callable[[Citation], str]
"""Where a reader finds what is cited."""


def numbered(citations: Iterable[Citation]) -> dict[int, Citation]:
    """The first citation of every number, in order."""
    first: dict[int, Citation] = {}
    for citation in citations:
        first.setdefault(citation.number, citation)
    return dict(sorted(first.items()))


def on_the_web(citation: Citation) -> str | None:
    """Where the author published it, unless that is no address a client should follow."""
    url = citation.url or ""
    return url if url.startswith(("https://", "http://")) else None


def sources(answer: Answer, address: Address) -> list[str]:
    """A line for every source that is cited; for an abstention one for every document that comes nearest."""
    if answer.citations:
        return [f"[{number}] {_line(citation, address)}" for number, citation in numbered(answer.citations).items()]
    return [_line(citation, address) for citation in _nearest(answer)]


def heading(answer: Answer) -> str:
    """What `sources` lists."""
    return "Sources" if answer.citations else "Nearest passages"


def one_line(text: str) -> str:
    """A text on one line, in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]<>|!#~])", r"\\\1", " ".join(text.split()))


def _nearest(answer: Answer) -> Iterator[Citation]:
    if answer.mode == "abstained":
        first = {passage.document.id: passage for passage in reversed(answer.passages)}
        for passage in list(reversed(first.values()))[:NEAREST]:
            yield passage.cite(0, len(passage.text))


def _line(citation: Citation, address: Address) -> str:
    headings = [each for each in citation.heading_path if each != citation.title]
    title = one_line(" › ".join([citation.title, *headings]))
    target = quote(address(citation), safe="%/:=&?~#+$,;@-._")
    date = f", {citation.published_at:%Y-%m-%d}" if citation.published_at else ""
    return f"[{title}]({target}){date}"
