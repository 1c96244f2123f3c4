"""A chunker for poems: one stanza, one chunk. A package of its own that LLM Twin finds by its entry point."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from llm_twin.core.ports import Tokenizer
from llm_twin.core.records import Chunk, Document, chunk_id, embedding_text, fingerprint

_STANZA = re.compile(r"^.*\S.*(?:\n.*\S.*)*", re.MULTILINE)
_VERSION = 1  # raised when the same poem would be cut otherwise


class VerseChunker:
    """Stanzas stay whole; one that exceeds the window is cut between lines, a line between words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.fingerprint = fingerprint("verse", _VERSION, tokenizer.window)

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order; a refrain that comes again is told apart by its occurrence."""
        # A title that leaves no room for the verse is left out of the heading path.
        path = (document.title,) if self._tokenizer.count(document.title) <= self._tokenizer.window // 4 else ()
        chunks: list[Chunk] = []
        seen: Counter[str] = Counter()
        for stanza in _STANZA.finditer(document.text):
            for start, end in self._fitting(document.text, *stanza.span(), path):
                text = document.text[start:end]
                tokens = self._size(text, path)
                name = chunk_id(document.id, text, seen[text])
                chunks.append(Chunk(name, document.id, text, start, end, path, tokens))
                seen[text] += 1
        return chunks

    def _fitting(self, text: str, start: int, end: int, path: tuple[str, ...]) -> Iterator[tuple[int, int]]:
        """The stretch where it fits the window, else its halves: cut after a line, else after a word, else anywhere."""
        piece = text[start:end]
        if not piece.strip():
            return
        if self._size(piece, path) <= self._tokenizer.window:
            yield start, end
            return
        half = len(piece) // 2
        cut = start + next(at for at in (piece.rfind("\n", 0, half) + 1, piece.rfind(" ", 0, half) + 1, half) if at)
        yield from self._fitting(text, start, cut, path)
        yield from self._fitting(text, cut, end, path)

    def _size(self, text: str, path: tuple[str, ...]) -> int:
        return self._tokenizer.count(embedding_text(Chunk("", "", text, 0, 0, path)))
