"""Cut documents into chunks that fit the embedder's window.

`StructureChunker` (the default) follows the author's headings, blocks and sentences. `RecursiveChunker` leaves the
cutting to semantic-text-splitter, `FixedChunker` cuts every so many tokens, `SemanticChunker` where the topic drifts.
What all of them promise, and what `chunk_document` checks for chunkers of others too:

- `document.text[chunk.start:chunk.end] == chunk.text`, chunks stand in order, and every character that is not white
  space is in one of them; only `FixedChunker` overlaps.
- Heading path and text together never exceed the window. A path longer than a quarter of the window loses its
  outermost parts first, then the end of what is left; so does a path beside a code block, table or sentence that
  fits the window only without it.
- The same document gives the same chunks; a chunk's id depends on its own text alone.

To add one: a class with `fingerprint` and `chunk`, and its line in `catalog.py`.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import inf
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from llm_twin.core.errors import ConfigError, TwinError
from llm_twin.core.ports import Chunker, Embedder, Tokenizer
from llm_twin.core.records import Chunk, Document, chunk_id, embedding_text, fingerprint
from llm_twin.core.text import Block, blocks, heading_title, sentences_within

if TYPE_CHECKING:
    from llm_twin.core.vectors import Vector

TARGET_TOKENS = 200
"""What a chunk is filled up to. A section, code block or table that is larger and still fits the window stays whole.

On XQuAD's articles the share of the right paragraph within 600 retrieved tokens is .95 to .96 for targets of 80 to 240,
and .87 for fixed runs of 200: the structure matters, the size hardly, so the one that makes few chunks was taken.
"""
SMALL_TOKENS = 50
"""A section smaller than this joins its neighbours under their common heading path."""
MAX_CHARS_PER_TOKEN = 16
"""Bounds a chunk in characters as well: WordPiece makes one unknown token of a megabyte without spaces."""
MIN_WINDOW = 16

SECTION, BLOCK, GLUED, ITEM, GROUP, SENTENCE, LINE, WORD = 0, 1, 2, 3, 20, 21, 22, 23
"""How good a cut is, best first. GLUED: after a paragraph that announces what follows it. ITEM grows with nesting."""

_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_LINE_END = re.compile(r"\n")
_SPACE = re.compile(r"\s")


def chunk_document(document: Document, chunker: Chunker) -> tuple[Chunk, ...]:
    """The chunks of a document. Raises `TwinError` when the chunker lost or altered something the author wrote."""
    chunks = tuple(chunker.chunk(document))
    covered = 0
    for chunk in chunks:
        if document.text[chunk.start : chunk.end] != chunk.text or document.text[covered : chunk.start].strip():
            raise _broken(document, chunker, chunk.start)
        covered = max(covered, chunk.end)
    if document.text[covered:].strip():
        raise _broken(document, chunker, covered)
    return chunks


def _broken(document: Document, chunker: Chunker, at: int) -> TwinError:
    return TwinError(
        f"{type(chunker).__name__} lost or altered text of {document.title!r} ({document.id}) near character {at}; "
        f"set features.chunker to another one, such as 'structure', and report this to its author"
    )


class StructureChunker:
    """Chunks that follow the author's structure.

    A heading begins a chunk. Inside a section neighbouring blocks are packed up to `target` tokens. A code block,
    table, list item or sentence is cut only when it alone exceeds the window: code and tables at lines, prose at
    sentences, then at words, and only a word larger than a chunk inside. Cuts depend on nothing outside the section
    and its small neighbours, so an edit changes the chunks around it only.
    """

    version = 1

    def __init__(self, tokenizer: Tokenizer, *, target: int = TARGET_TOKENS, small: int = SMALL_TOKENS) -> None:
        _require(tokenizer, target=target)
        self._tokenizer = tokenizer
        self._target = target
        self._small = small

    @cached_property
    def fingerprint(self) -> str:
        """Equal for chunkers that cut alike."""
        return _fingerprint("structure", self.version, self._tokenizer, self._target, self._small)

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order, without overlap."""
        sizes = _Sizes(document.text, self._tokenizer)
        sections = _sections(document, self._tokenizer)
        atoms = [
            atom for index, section in enumerate(sections) for atom in _section_atoms(section, index, sizes, document)
        ]
        spans = _pack(atoms, sections, sizes, self._target, self._small)
        return _chunks(document, spans, self._tokenizer)


class RecursiveChunker:
    """Markdown cut by semantic-text-splitter: the largest structural level whose pieces fit `target` tokens."""

    version = 1

    def __init__(self, tokenizer: Tokenizer, *, target: int = TARGET_TOKENS) -> None:
        _require(tokenizer, target=target)
        self._tokenizer = tokenizer
        self._target = target

    @cached_property
    def fingerprint(self) -> str:
        """Equal for chunkers that cut alike."""
        return _fingerprint("recursive", self.version, self._tokenizer, self._target)

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order, without overlap."""
        from semantic_text_splitter import MarkdownSplitter

        sections = _sections(document, self._tokenizer)
        room = min([self._target, *(section.room for section in sections)])
        splitter = MarkdownSplitter.from_callback(self._tokenizer.count, room)
        found = [(start, start + len(piece)) for start, piece in splitter.chunk_indices(document.text)]
        return _chunks(document, _with_paths(_tiled(document.text, found), sections), self._tokenizer)


class FixedChunker:
    """Runs of `target` tokens, each beginning `overlap` tokens before the end of the last; words stay whole."""

    version = 1

    def __init__(self, tokenizer: Tokenizer, *, target: int = TARGET_TOKENS, overlap: int = 0) -> None:
        _require(tokenizer, target=target)
        if not 0 <= overlap <= target // 2:
            raise ConfigError(f"an overlap of {overlap} tokens; give 0 to {target // 2}, half of the target")
        self._tokenizer = tokenizer
        self._target = target
        self._overlap = overlap

    @cached_property
    def fingerprint(self) -> str:
        """Equal for chunkers that cut alike."""
        return _fingerprint("fixed", self.version, self._tokenizer, self._target, self._overlap)

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order; neighbours share about `overlap` tokens."""
        sizes = _Sizes(document.text, self._tokenizer)
        sections = _sections(document, self._tokenizer)
        room = min([self._target, *(section.room for section in sections)])
        spans = sizes.filled(0, len(document.text), room, overlap=self._overlap)
        return _chunks(document, _with_paths(spans, sections), self._tokenizer)


class SemanticChunker:
    """Chunks that end where the topic drifts, whatever the headings say.

    Every sentence, code block and table is embedded once. Between neighbours the mean of the `context` units before is
    compared with the mean of those after; a valley of similarity deeper than usual for the document ends a chunk.
    Valleys are judged as in Hearst 1997, TextTiling (depth score above mean minus half a standard deviation), with
    sentence embeddings in place of word counts.
    """

    version = 1

    def __init__(
        self,
        tokenizer: Tokenizer,
        embedder: Embedder,
        *,
        target: int = TARGET_TOKENS,
        small: int = SMALL_TOKENS,
        context: int = 3,
    ) -> None:
        _require(tokenizer, target=target)
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._target = target
        self._small = small
        self._context = context

    @cached_property
    def fingerprint(self) -> str:
        """Equal for chunkers that cut alike."""
        parameters = (self._embedder.name, self._target, self._small, self._context)
        return _fingerprint("semantic", self.version, self._tokenizer, *parameters)

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order, without overlap."""
        sizes = _Sizes(document.text, self._tokenizer)
        sections = _sections(document, self._tokenizer)
        units = [
            unit
            for index, section in enumerate(sections)
            for atom in _section_atoms(section, index, sizes, document)
            for unit in _sentence_atoms(atom, document)
        ]
        if not units:
            return []
        texts = [_beginning(document.text[unit.start : unit.end], self._tokenizer) for unit in units]
        vectors = [each.vector for each in self._embedder.embed(texts)]
        begins = {0, *_valleys(vectors, self._context)}
        segments: list[_Section] = []
        atoms: list[_Atom] = []
        for index, unit in enumerate(units):
            own = sections[unit.section]
            if index in begins:
                segments.append(replace(own, level=1))
            else:
                segments[-1] = replace(segments[-1], path=_common(segments[-1].path, own.path))
            rank = SECTION if index in begins else max(BLOCK, unit.rank)
            atoms.append(replace(unit, rank=rank, section=len(segments) - 1))
        spans = _pack(atoms, segments, sizes, self._target, self._small)
        return _chunks(document, spans, self._tokenizer)


# --- sizes ----------------------------------------------------------------------------------------------------------


class _Sizes:
    """Sizes of spans of a text in tokens, from one pass of the tokenizer.

    A span counts the tokens that begin in it, and never less than its characters divided by MAX_CHARS_PER_TOKEN. At
    word boundaries this is exact for WordPiece; `_chunks` counts every finished chunk anyway.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        # Slices bound the memory of the tokenizer, which keeps some 400 bytes per token of the text it is given.
        self._starts = array("Q")
        for begin, end in _slices(text):
            self._starts.extend(begin + start for start, _ in tokenizer.offsets(text[begin:end]))

    def size(self, start: int, end: int) -> int:
        """Tokens of the span."""
        tokens = bisect_left(self._starts, end) - bisect_left(self._starts, start)
        return max(tokens, -(-(end - start) // MAX_CHARS_PER_TOKEN))

    def filled(self, start: int, end: int, limit: int, *, overlap: int = 0) -> Iterator[tuple[int, int]]:
        """The span as runs of at most `limit` tokens, cut between words where there are any."""
        start = self._skip_space(start, end)
        while start < end:
            cut = end if self.size(start, end) <= limit else self._word_end(start, self._reach(start, limit))
            yield start, _rstripped(self.text, start, cut)
            if cut == end:
                return
            start = self._skip_space(self._back(start, cut, overlap) if overlap else cut, end)

    def _reach(self, start: int, limit: int) -> int:
        after = bisect_left(self._starts, start) + limit
        reach = self._starts[after] if after < len(self._starts) else len(self.text)
        return max(start + 1, min(reach, start + limit * MAX_CHARS_PER_TOKEN))

    def _word_end(self, start: int, reach: int) -> int:
        """The last good cut in (start, reach]: after a space, else where no character is torn apart."""
        run = self.text[start:reach]
        if self.text[reach].isspace() or run[-1].isspace():
            return reach
        words = run.rsplit(None, 1)
        if len(words) == 2:
            return reach - len(words[1])
        cut = reach
        while cut > start + 1 and _joined(self.text[cut - 1], self.text[cut]):
            cut -= 1
        return cut

    def _back(self, start: int, cut: int, overlap: int) -> int:
        """The word boundary some `overlap` tokens before `cut`, yet past `start` so that runs advance."""
        first = self._starts[max(0, bisect_left(self._starts, cut) - overlap)]
        while first < cut and not self.text[first - 1].isspace():
            first += 1
        return first if first > start else cut

    def _skip_space(self, start: int, end: int) -> int:
        while start < end and self.text[start].isspace():
            start += 1
        return start


def _slices(text: str, length: int = 100_000) -> Iterator[tuple[int, int]]:
    """The text in stretches of about `length` characters, cut at white space where there is any."""
    begin = 0
    while begin < len(text):
        space = _SPACE.search(text, begin + length, begin + 2 * length)
        end = space.start() if space else min(len(text), begin + 2 * length)
        yield begin, end
        begin = end


def _joined(before: str, after: str) -> bool:
    """Whether two code points belong to one visible character: combining marks, emoji sequences, flags."""
    return (
        before == "\u200d"
        or after == "\u200d"
        or unicodedata.category(after) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")
    )


def _rstripped(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


# --- the author's structure -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Section:
    """A heading with what stands under it up to the next heading. `room` is what its path leaves of the window."""

    path: tuple[str, ...]
    level: int
    window: int
    room: int
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class _Atom:
    """A span that is kept whole. `rank` says how good a cut before it is."""

    start: int
    end: int
    rank: int
    section: int
    kind: str = ""


def _sections(document: Document, tokenizer: Tokenizer) -> list[_Section]:
    """The document's sections in order; the first may have no heading."""
    title = " ".join(document.title.split())
    groups: list[tuple[tuple[str, ...], int, list[Block]]] = [((title,) if title else (), 0, [])]
    above: list[tuple[int, str]] = []
    for block in blocks(document.text):
        if block.kind == "heading":
            name = heading_title(document.text[block.start : block.end])
            repeated = name.casefold() == title.casefold()
            above = [*(each for each in above if each[0] < block.level), (block.level, "" if repeated else name)]
            groups.append((tuple(part for part in (title, *(name for _, name in above)) if part), block.level, []))
        groups[-1][2].append(block)
    sections = []
    for path, level, own in groups:
        if own:
            shown = _shortened(path, tokenizer)
            used = tokenizer.count(f"{' > '.join(shown)}\n\n") if shown else 0
            sections.append(_Section(shown, level, tokenizer.window, tokenizer.window - used, tuple(own)))
    return sections


def _shortened(path: tuple[str, ...], tokenizer: Tokenizer) -> tuple[str, ...]:
    """The innermost parts that fit a quarter of the window; of a single part that does not, its beginning."""
    limit = tokenizer.window // 4
    path = tuple(part[: limit * MAX_CHARS_PER_TOKEN] for part in path)
    while len(path) > 1 and tokenizer.count(" > ".join(path)) > limit:
        path = path[1:]
    if not path or tokenizer.count(path[0]) <= limit:
        return path
    part = path[0]
    while part and tokenizer.count(part) > limit:
        part = part.rpartition(" ")[0] if " " in part else part[: len(part) // 2]
    return (part,) if part else ()


def _section_atoms(section: _Section, index: int, sizes: _Sizes, document: Document) -> Iterator[_Atom]:
    rank = SECTION
    for block in section.blocks:
        yield from _opened(block, rank, index, section, sizes, document, depth=0)
        announces = block.kind == "heading" or (block.kind == "paragraph" and sizes.text[block.end - 1] in ":：")
        rank = GLUED if announces else BLOCK


def _opened(
    block: Block, rank: int, index: int, section: _Section, sizes: _Sizes, document: Document, *, depth: int
) -> Iterator[_Atom]:
    """The block as one atom, or as those inside it where it is a list or does not fit."""
    text = sizes.text
    # Code and tables are worth more whole under a shorter heading path than cut under the full one.
    limit = section.window if block.kind in ("code", "table") else section.room
    if block.kind != "list" and sizes.size(block.start, block.end) <= limit:
        yield _Atom(block.start, block.end, rank, index, block.kind)
    elif block.children:
        for child in _tiles(block, text):
            yield from _opened(child, rank, index, section, sizes, document, depth=depth + 1)
            rank = min(ITEM + depth, GROUP - 1)
    elif block.kind in ("paragraph", "heading"):
        spans = sentences_within(text, block.start, block.end, document.language)
        starts = [block.start, *(start for start, _ in spans[1:])]
        whole = _Atom(block.start, block.end, rank, index, block.kind)
        yield from _fitted(_between(starts, block.end, text), whole, SENTENCE, section.window, section.room, sizes)
    else:
        starts = [block.start, *(match.end() for match in _BLANK_LINES.finditer(text, block.start, block.end))]
        starts = [_line_start(text, start, block.start) for start in starts]
        for start, end in _between(starts, block.end, text):
            group = _Atom(start, end, rank, index, block.kind)
            if sizes.size(start, end) <= section.room:
                yield group
            else:
                lines = [start, *(match.end() for match in _LINE_END.finditer(text, start, end))]
                yield from _fitted(_between(lines, end, text), group, LINE, section.room, section.room, sizes)
            rank = GROUP


def _fitted(
    spans: Iterable[tuple[int, int]], whole: _Atom, inner: int, limit: int, room: int, sizes: _Sizes
) -> Iterator[_Atom]:
    """`whole` as one atom per span, those above `limit` cut at words into runs of `room`; `inner` ranks their cuts."""
    rank = whole.rank
    for start, end in spans:
        if sizes.size(start, end) <= limit:
            yield replace(whole, start=start, end=end, rank=rank)
        else:
            for run_start, run_end in sizes.filled(start, end, room):
                yield replace(whole, start=run_start, end=run_end, rank=rank)
                rank = WORD
        rank = inner


def _tiles(parent: Block, text: str) -> Iterator[Block]:
    """The children stretched to whole lines and to each other, so that markers and gaps belong to one of them."""
    starts = [parent.start, *(_line_start(text, child.start, parent.start) for child in parent.children[1:])]
    for child, start, following in zip(parent.children, starts, [*starts[1:], parent.end], strict=True):
        end = _rstripped(text, start, following)
        if start < end:
            yield replace(child, start=start, end=end)


def _line_start(text: str, at: int, floor: int) -> int:
    return max(floor, text.rfind("\n", floor, at) + 1)


def _between(starts: Sequence[int], end: int, text: str) -> Iterator[tuple[int, int]]:
    """The stretches from each start to the next, without white space after them; empty ones left out."""
    for start, following in pairwise([*starts, end]):
        stop = _rstripped(text, start, following)
        if start < stop:
            yield start, stop


def _sentence_atoms(atom: _Atom, document: Document) -> Iterator[_Atom]:
    """A paragraph's sentences as atoms of their own; anything else as it is."""
    if atom.kind != "paragraph":
        yield atom
        return
    spans = sentences_within(document.text, atom.start, atom.end, document.language)
    rank = atom.rank
    for start, end in _between([atom.start, *(start for start, _ in spans[1:])], atom.end, document.text):
        yield replace(atom, start=start, end=end, rank=rank)
        rank = SENTENCE


# --- packing --------------------------------------------------------------------------------------------------------


def _pack(
    atoms: Sequence[_Atom], sections: Sequence[_Section], sizes: _Sizes, target: int, small: int
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Neighbouring atoms as spans with their common heading path."""
    packer = _Packer(atoms, sections, sizes, target, small)
    begin = 0
    while begin < len(atoms):
        end = packer.cut(begin)
        path = sections[atoms[begin].section].path
        for section in range(atoms[begin].section, atoms[end - 1].section + 1):
            path = _common(path, sections[section].path)
        yield atoms[begin].start, atoms[end - 1].end, path
        begin = end


class _Packer:
    """Decides where the chunk that begins at an atom ends, looking no further than that chunk can reach."""

    def __init__(
        self, atoms: Sequence[_Atom], sections: Sequence[_Section], sizes: _Sizes, target: int, small: int
    ) -> None:
        self.atoms = atoms
        self.sections = sections
        self.sizes = sizes
        self.target = target
        self.small = small
        self.ends = [0] * len(atoms)
        for index in range(len(atoms) - 1, -1, -1):
            last = index + 1 == len(atoms) or atoms[index + 1].section != atoms[index].section
            self.ends[index] = index + 1 if last else self.ends[index + 1]

    def size(self, begin: int, end: int) -> int:
        """Tokens from atom `begin` up to, not including, atom `end`."""
        return self.sizes.size(self.atoms[begin].start, self.atoms[end - 1].end)

    def cut(self, begin: int) -> int:
        """The first atom of the next chunk."""
        section = self.sections[self.atoms[begin].section]
        soft = min(self.target, section.room)
        end = self.ends[begin]
        if self.size(begin, end) > section.room:
            return self._best(begin, begin + 1, end, soft, section.room)
        while end < len(self.atoms):
            following = self.ends[end]
            level = self.sections[self.atoms[end].section].level
            is_small = self.size(begin, end) < self.small
            if level < section.level or not (is_small or self._is_small_leaf(end, following)):
                return end
            if self.size(begin, following) > soft:
                # A heading with little under it leads into its first subsection rather than standing alone.
                leads = is_small and level > section.level
                return self._best(begin, end, following, soft, section.room) if leads else end
            end = following
        return end

    def _is_small_leaf(self, begin: int, end: int) -> bool:
        level = self.sections[self.atoms[begin].section].level
        leads = end < len(self.atoms) and self.sections[self.atoms[end].section].level > level
        return not leads and self.size(begin, end) < self.small

    def _best(self, begin: int, earliest: int, end: int, soft: int, room: int) -> int:
        """The best cut in [earliest, end] within `soft` tokens: the best rank that fills two fifths of the chunk.

        Among equals the fullest chunk wins, unless two chunks hold all that is left: then they share it evenly.
        A chunk that would stay small may grow past `soft` up to `room`.
        """
        furthest = earliest
        while furthest < end and (
            self.size(begin, furthest + 1) <= soft
            or (self.size(begin, furthest) < self.small and self.size(begin, furthest + 1) <= room)
        ):
            furthest += 1
        rest = self.size(begin, end)
        aim = rest / 2 if rest <= 2 * soft else soft
        cuts = range(earliest, furthest + 1)
        filling = [cut for cut in cuts if self.size(begin, cut) >= 0.4 * soft]
        return min(filling or cuts, key=lambda cut: (self._rank(cut), abs(self.size(begin, cut) - aim)))

    def _rank(self, cut: int) -> int:
        return self.atoms[cut].rank if cut < len(self.atoms) else SECTION


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return one[:shared]


# --- from spans to chunks -------------------------------------------------------------------------------------------


def _chunks(document: Document, spans: Iterable[tuple[int, int, tuple[str, ...]]], tokenizer: Tokenizer) -> list[Chunk]:
    seen: Counter[str] = Counter()
    chunks = []
    for start, end, path in spans:
        for piece in _within_window(Chunk("", document.id, document.text[start:end], start, end, path), tokenizer):
            name = chunk_id(document.id, piece.text, seen[piece.text])
            seen[piece.text] += 1
            chunks.append(replace(piece, id=name))
    return chunks


def _within_window(chunk: Chunk, tokenizer: Tokenizer) -> Iterator[Chunk]:
    """The chunk with its tokens counted; its path is shortened and then its text halved as long as it does not fit.

    Text is too long where a long word was cut: WordPiece counts one unknown token for the whole and many for its parts.
    """
    tokens = tokenizer.count(embedding_text(chunk))
    while tokens > tokenizer.window and chunk.heading_path and tokenizer.count(chunk.text) <= tokenizer.window:
        chunk = replace(chunk, heading_path=chunk.heading_path[1:])
        tokens = tokenizer.count(embedding_text(chunk))
    if tokens <= tokenizer.window:
        yield replace(chunk, token_count=tokens)
        return
    text = chunk.text
    middle = len(text) // 2
    space = max(text.rfind(" ", 1, middle), text.rfind("\n", 1, middle))
    cut = space if space > 0 else middle
    while space <= 0 and cut > 1 and _joined(text[cut - 1], text[cut]):
        cut -= 1
    for start, end in ((0, _rstripped(text, 0, cut)), (len(text) - len(text[cut:].lstrip()), len(text))):
        part = replace(chunk, text=text[start:end], start=chunk.start + start, end=chunk.start + end)
        yield from _within_window(part, tokenizer)


def _beginning(text: str, tokenizer: Tokenizer) -> str:
    """What the embedder can read of a text."""
    return next(_within_window(Chunk("", "", text, 0, len(text)), tokenizer)).text


def _with_paths(
    spans: Iterable[tuple[int, int]], sections: Sequence[_Section]
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Spans with the common path of the sections they touch."""
    begins = [section.blocks[0].start for section in sections]
    for start, end in spans:
        first = max(0, bisect_left(begins, start + 1) - 1)
        path = sections[first].path
        for section in sections[first + 1 : bisect_left(begins, end)]:
            path = _common(path, section.path)
        yield start, end, path


def _tiled(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans stretched over what was left between them, so that nothing is lost."""
    starts = [0, *(start for start, _ in spans[1:])]
    yield from _between(starts, len(text), text)


def _valleys(vectors: Sequence[Vector], context: int) -> list[int]:
    """Indices before which the topic drifts."""
    if len(vectors) < 2:
        return []
    likeness = [_likeness(vectors, at, context) for at in range(1, len(vectors))]
    depths = [_climb(likeness, gap, -1) + _climb(likeness, gap, 1) for gap in range(len(likeness))]
    cutoff = fmean(depths) - pstdev(depths) / 2
    walled = [inf, *likeness, inf]
    return [
        gap + 1
        for gap, depth in enumerate(depths)
        if depth > max(cutoff, 0.0) and walled[gap] >= walled[gap + 1] < walled[gap + 2]
    ]


def _likeness(vectors: Sequence[Vector], at: int, context: int) -> float:
    """Cosine between the means of the vectors before and after a gap."""
    import numpy as np

    before, after = np.sum(vectors[max(0, at - context) : at], axis=0), np.sum(vectors[at : at + context], axis=0)
    return float((before @ after) / max(1e-9, float((before @ before) * (after @ after)) ** 0.5))


def _climb(likeness: Sequence[float], gap: int, step: int) -> float:
    """How far similarity rises from a gap to the nearest peak on one side."""
    at = gap
    while 0 <= at + step < len(likeness) and likeness[at + step] >= likeness[at]:
        at += step
    return likeness[at] - likeness[gap]


# --- parameters -----------------------------------------------------------------------------------------------------

_PROBE = (
    "The unbelievably overengineered tokenization pipeline didn't cost €3.14; naïve Zürich users' résumés "
    "re-parse kubernetes, vLLM, PostgreSQL_18 & foo(bar)->baz[0] != 0x7f — 東京 Привет مرحبا 😀\n\tsnake_case"
)


def _fingerprint(name: str, version: int, tokenizer: Tokenizer, *parameters: object) -> str:
    """Covers the chunker, its parameters and the tokenizer, which shows what it is by how it takes a text apart."""
    return fingerprint(name, version, parameters, tokenizer.window, tokenizer.offsets(_PROBE))[:16]


def _require(tokenizer: Tokenizer, *, target: int) -> None:
    if tokenizer.window < MIN_WINDOW:
        raise ConfigError(
            f"the embedder reads {tokenizer.window} tokens at once, too few to hold a sentence under its headings; "
            f"choose one with a window of {MIN_WINDOW} or more"
        )
    if target < 1:
        raise ConfigError(f"a chunk target of {target} tokens; give 1 or more")
