"""What has to go with a forgotten document: every answer that cites it, was shown it, or repeats its words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llm_twin.core.records import Answer, Document
from llm_twin.core.text import words

RUN_WORDS = 12
"""Words in a row from which a text counts as repeated: long enough that two authors rarely share one by chance."""


class Mentions:
    """Tells whether something mentions one of these documents.

    Words are compared without case, marks and layout. A document shorter than `RUN_WORDS` is recognised by all of its
    words.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self._ids: set[str] = set()
        self._runs: set[int] = set()
        self._lengths: set[int] = set()
        for document in documents:
            said = _folded(document.text)
            length = min(len(said), RUN_WORDS)
            self._ids.add(document.id)
            if length:
                self._lengths.add(length)
                self._runs |= _runs(said, length)

    def in_answer(self, answer: Answer) -> bool:
        """Whether it cites or was shown one of the documents, or repeats one."""
        return not self._ids.isdisjoint(answer.document_ids) or self.in_text(answer.text)

    def out_of(self, answer: Answer) -> Answer | None:
        """The answer without what it shows of the documents; None where that cannot be taken out of it.

        A model may have used any passage it was shown, so what it wrote goes whole. Quotations name their source.
        """
        others = tuple(passage for passage in answer.passages if passage.document.id not in self._ids)
        guarded = tuple(finding for finding in answer.guarded if finding.document_id not in self._ids)
        rest = replace(answer, passages=others, guarded=guarded)
        told = answer.mode == "generated" and rest != answer
        return None if told or self.in_answer(rest) else rest

    def in_text(self, text: str) -> bool:
        """Whether it repeats one of the documents."""
        said = _folded(text)
        return any(not self._runs.isdisjoint(_runs(said, length)) for length in self._lengths)


def _folded(text: str) -> list[str]:
    return [word.casefold() for word in words(text)]


def _runs(said: list[str], length: int) -> set[int]:
    # Hashes instead of words: an author's whole work has a million runs.
    return {hash(tuple(said[start : start + length])) for start in range(len(said) - length + 1)}
