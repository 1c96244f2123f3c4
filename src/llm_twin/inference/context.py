"""From hits to passages: what a reader or a model gets to see, whole, without repeats, within a budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llm_twin.core.records import DocumentHeader, Hit, Passage
from llm_twin.core.text import sentences

# Between two chunks of one document there may stand what the chunker keeps out of the text: blank lines, a heading.
GAP = 200
# Share of a passage's word triples that an earlier passage already shows, from which it tells nothing new.
REPEATED = 0.8


def assemble(
    hits: Sequence[Hit],
    *,
    budget_tokens: int,
    count: Callable[[str], int],
    texts: Mapping[str, str],
) -> list[Passage]:
    """Passages from hits, best first and numbered from 1, together at most `budget_tokens` as `count` counts them.

    Hits that stand next to each other in a document become one passage. `texts` are the stored cleaned texts by
    document: every passage stands in them word for word at its offsets, or is `outdated` and has the words and offsets
    of the index, which knows its document as it was before. A document that is not among them is gone, and its hits
    are left out. The best passage is cut after a sentence where it alone is too long.
    """
    placed = [_place(hit, texts[hit.chunk.document_id]) for hit in hits if hit.chunk.document_id in texts]
    seen: list[frozenset[tuple[str, ...]]] = []
    passages: list[Passage] = []
    left = budget_tokens

    def fits(text: str) -> bool:
        return count(text) <= left

    for stretch in _merged(placed, texts, fits=fits):
        text = stretch.text
        words = _triples(text)
        if any(len(words & earlier) >= REPEATED * len(words) for earlier in seen):
            continue
        cost = count(text)
        if cost > left and not passages:
            text = _cut(text, left, count)
            cost = count(text)
        if not text or cost > left:
            continue
        seen.append(words)
        left -= cost
        passages.append(
            Passage(
                number=len(passages) + 1,
                document=stretch.document,
                text=text,
                start=stretch.start,
                end=stretch.start + len(text),
                score=stretch.score,
                heading_path=stretch.heading_path,
                chunk_ids=stretch.chunk_ids,
                outdated=stretch.outdated,
            )
        )
    return passages


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of a document that hits cover; `outdated` when the stored text does not say it."""

    document: DocumentHeader
    text: str
    start: int
    score: float
    heading_path: tuple[str, ...]
    chunk_ids: tuple[str, ...]
    outdated: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def _place(hit: Hit, text: str) -> _Stretch:
    """Where the hit's words stand in the stored text now, or stood before its document was changed."""
    chunk = hit.chunk
    start = chunk.start if text[chunk.start : chunk.end] == chunk.text else text.find(chunk.text)
    found = _Stretch(hit.document, chunk.text, start, hit.score, chunk.heading_path, (chunk.id,))
    return found if start >= 0 else replace(found, start=chunk.start, outdated=True)


def _merged(placed: Sequence[_Stretch], texts: Mapping[str, str], *, fits: Callable[[str], bool]) -> Iterator[_Stretch]:
    """Neighbours joined as long as the whole fits; in the order of each one's best hit."""
    waiting = list(placed)
    while waiting:
        whole = waiting.pop(0)
        while neighbour := next((other for other in waiting if _adjacent(whole, other)), None):
            joined = _join(whole, neighbour, texts[whole.document.id])
            if not fits(joined.text):
                break
            waiting.remove(neighbour)
            whole = joined
        yield whole


def _adjacent(one: _Stretch, other: _Stretch) -> bool:
    if one.document.id != other.document.id or one.outdated or other.outdated:
        return False  # what stood between outdated ones is not kept
    first, second = sorted((one, other), key=lambda stretch: stretch.start)
    return second.start - first.end <= GAP


def _join(whole: _Stretch, neighbour: _Stretch, text: str) -> _Stretch:
    first, second = sorted((whole, neighbour), key=lambda stretch: stretch.start)
    return replace(
        whole,
        text=text[first.start : max(first.end, second.end)],
        start=first.start,
        heading_path=first.heading_path,
        chunk_ids=(*first.chunk_ids, *second.chunk_ids),
    )


def _triples(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset({tuple(words)})


def _cut(text: str, budget_tokens: int, count: Callable[[str], int]) -> str:
    """The longest run of whole sentences from the beginning that fits; "" when not even the first does."""
    end = 0
    for _, stop in sentences(text):
        if count(text[:stop]) > budget_tokens:
            break
        end = stop
    return text[:end]
