"""What an answer stands on: the marks in its text, and its sources as Markdown for clients that show nothing else."""

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


def on_the_web(url: str | None) -> str | None:
    """Where the author published something, unless that is no address a client should follow."""
    return url if url and url.startswith(("https://", "http://")) else None


def marks(text: str) -> Iterator[tuple[int, int, int]]:
    """Where a text cites what: start, end and number of every citation; in code there is none."""
    for match in _MARK_OR_CODE.finditer(text):
        for number in (match[1] or "").split(","):
            if number:
                yield match.start(), match.end(), int(number)


class Marks:
    """Finds citation marks such as [2] and [1, 3] in a text that comes in pieces, wherever it is cut."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._open = ""

    def new_in(self, piece: str) -> Iterator[int]:
        """Numbers that are cited for the first time."""
        text, end = self._open + piece, 0
        for match in re.finditer(_MARK, text):
            end = match.end()
            for number in (int(digits) for digits in match[1].split(",")):
                if number not in self._seen:
                    self._seen.add(number)
                    yield number
        begun = text.rfind("[", end)
        self._open = text[begun:] if begun >= 0 and len(text) - begun < _LONGEST_MARK else ""


_LONGEST_MARK = 40
_MARK = r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]"
_MARK_OR_CODE = re.compile(rf"```.*?(?:```|\Z)|`[^`\n]*`|{_MARK}(?!\()", re.DOTALL)


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
