"""Pure functions over the text of documents: its Markdown blocks, headings, code, sentences and words.

All offsets count code points of the text given, and `text[start:end]` is always the author's characters unchanged.
Block structure follows CommonMark with GFM tables (markdown-it-py), sentence boundaries come from `sentencex`; both are
imported when first used. Of the text only same-length copies are shown to either of them, which keeps offsets exact.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

BlockKind = Literal["heading", "paragraph", "list", "item", "quote", "code", "table", "html", "rule", "meta", "other"]

_KINDS: dict[str, BlockKind] = {
    "heading_open": "heading",
    "paragraph_open": "paragraph",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "list_item_open": "item",
    "blockquote_open": "quote",
    "table_open": "table",
    "fence": "code",
    "code_block": "code",
    "html_block": "html",
    "hr": "rule",
}

# YAML front matter must begin with a key, or a text that opens with a horizontal rule would lose its first section.
_FRONT_MATTER = re.compile(
    r"\A(?:---[ \t]*\n(?=[\w-]+[ \t]*:)(?:.*\n)*?(?:---|\.\.\.)|\+\+\+[ \t]*\n(?:.*\n)*?\+\+\+)[ \t]*(?:\n|\Z)"
)
_QUOTE_MARKS = re.compile(r"(?<=\n)[ \t]*(?:>[ \t]*)+")
_IMAGE = re.compile(r"!\[[^\[\]]*\](?:\([^()\n]*\)|\[[^\[\]\n]*\])")
_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--(?:[^<]|<(?!!--))*?--)>")
_AUTOLINK = re.compile(r"<[A-Za-z][\w+.-]*:[^<>\s]*>")
_TARGET = re.compile(r"(?<=\]\()[^()\n]*(?=\))")
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>\[\]()]*[^\s<>\[\]().,;:!?'\"]")
_TASK = re.compile(r"\A\[[ xX]\][ \t]+")
_CLOSERS = re.compile(r"[*_~\"'”’»)\]]+(?=\s|\Z)")
_REFERENCE_LINK = re.compile(r"(?<!!)\[((?!\d+\])[^\[\]]+)\]\[[^\[\]\n]*\]")

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The characters of scripts that write no spaces between words (Thai to Chinese), for use in a character class."""
_UNSPACED = re.compile(f"[{UNSPACED}]")

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Vowel signs and other marks of South and South-East Asian scripts are no letters to `re`, yet part of the word.
_LETTER = rf"(?:[^\W\d_{_CJK}]|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e])"
_WORD = re.compile(rf"[{_CJK}]|{_LETTER}+(?:['’]{_LETTER}+)*")

# PostgreSQL refuses NUL in text and in JSONB, and no database takes a lone surrogate (half an emoji, as broken feeds
# and notebooks contain). They are kept as U+FDD0, which Unicode reserves for internal use, and four hex digits.
_ESCAPE = "\ufdd0"
_UNSTORABLE = re.compile(f"[\x00\ud800-\udfff{_ESCAPE}]")
_ESCAPED = re.compile(f"{_ESCAPE}([0-9a-f]{{4}})")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of Markdown: `text[start:end]`, without blank lines around it.

    A paragraph begins at its words, a fence at its marker, everything else at the beginning of its first line. `level`
    is a heading's (1 to 6). Lists hold items, items and quotes hold blocks. `meta` is front matter, `other` is what no
    rule covers: link reference definitions, and text nested deeper than the parser follows.
    """

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    children: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading as a reader sees it (`title`, markup stripped) and where its whole source stands."""

    level: int
    title: str
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """The top-level blocks in order; together they cover every character that is not white space."""
    lines = _Lines(text)
    front_matter = _FRONT_MATTER.match(text)
    source = text.replace("\r", " ").replace("\0", "�")
    found: list[Block] = []
    if front_matter:
        source = "".join(c if c == "\n" else " " for c in source[: front_matter.end()]) + source[front_matter.end() :]
        found.append(Block("meta", 0, lines.trimmed(0, front_matter.end())))
    tokens: list[Token] = []
    parser = _markdown()
    parser.block.parse(source, parser, {}, tokens)
    found.extend(_tree(iter(tokens), text, lines))
    return _with_gaps(found, lines)


def headings(text: str) -> list[Heading]:
    """ATX and setext headings that structure the document: not those inside code, quotes or lists."""
    return [
        Heading(block.level, heading_title(text[block.start : block.end]), block.start, block.end)
        for block in blocks(text)
        if block.kind == "heading"
    ]


def heading_title(source: str) -> str:
    """The words of a heading, on one line, from its Markdown source."""
    return " ".join(plain(source).split())


def code_spans(text: str) -> list[tuple[int, int]]:
    """Fenced and indented code blocks, wherever they are nested, fences included."""
    return [(block.start, block.end) for block in _leaves(blocks(text)) if block.kind == "code"]


def sentences(text: str, language: str | None = None) -> list[tuple[int, int]]:
    """The sentences of paragraphs, list items and quotes, in order, without list markers and surrounding space.

    Headings, code, tables, HTML blocks and images are no sentences. A list item without a full stop is one sentence.
    `language` is an ISO 639-1 code; without it, and for languages unknown to `sentencex`, English rules apply.
    """
    return [
        span
        for block in _leaves(blocks(text))
        if block.kind == "paragraph"
        for span in sentences_within(text, block.start, block.end, language)
    ]


def sentences_within(text: str, start: int, end: int, language: str | None = None) -> list[tuple[int, int]]:
    """The sentences of the paragraph `text[start:end]`, as spans of `text`.

    Dots inside inline code, links and addresses end no sentence; closing emphasis, quotes and citation marks such as
    [1] stay with the sentence before them.
    """
    import sentencex  # type: ignore[import-untyped]

    task = _TASK.match(text[start:end])
    start += task.end() if task else 0
    shown = _shown(text[start:end])
    spans = []
    begin = seen = 0
    for boundary in sentencex.get_sentence_boundaries(language or "en", shown):
        cut = int(boundary["end_index"])
        if cut <= seen:
            continue
        closers = _CLOSERS.match(shown, cut) if not shown[cut - 1].isspace() else None
        cut = closers.end() if closers else cut
        if _has_words(shown[seen:cut]):
            spans.append(_trimmed(shown, begin, cut, start))
            begin = cut
        seen = cut
    if spans and shown[begin:].strip():
        # A rest without words (an ellipsis, a smiley) belongs to the last sentence.
        spans[-1] = (spans[-1][0], _trimmed(shown, begin, len(shown), start)[1])
    return spans


def plain(text: str) -> str:
    """What a reader sees of Markdown, as plain text with a blank line between blocks.

    Code is kept, front matter, images and tags are dropped.
    """
    pieces = []
    # A reference link of a fragment is resolved by a definition that may stand outside it.
    for token in _markdown().parse(_REFERENCE_LINK.sub(r"\1", _FRONT_MATTER.sub("", text))):
        if token.type == "inline":
            pieces.append(_TASK.sub("", _inline(token)))
        elif token.type in ("fence", "code_block"):
            pieces.append(token.content)
        elif token.type == "html_block":
            pieces.append(_TAG.sub("", token.content))
    return "\n\n".join(stripped for piece in pieces if (stripped := piece.strip()))


def prose(text: str, found: Iterable[Block] | None = None) -> list[str]:
    """The author's own paragraphs and list items as plain text; `found` are the text's blocks where they are known.

    Left out is what is not the author's running text: code (also inline), quotes, tables, headings, front matter,
    images, tags and addresses.
    """
    pieces = []
    for block in own_paragraphs(blocks(text) if found is None else found):
        source = _REFERENCE_LINK.sub(r"\1", text[block.start : block.end])
        (inline,) = _markdown().parseInline(source)
        pieces.append(_TASK.sub("", _URL.sub("", _inline(inline, code=False))).strip())
    return [piece for piece in pieces if _has_words(piece)]


def own_paragraphs(found: Iterable[Block]) -> Iterator[Block]:
    """The paragraphs among blocks, those of lists too, except what stands in quotes."""
    for block in found:
        if block.kind == "paragraph":
            yield block
        elif block.kind != "quote":
            yield from own_paragraphs(block.children)


def words(text: str) -> list[str]:
    """The words of plain text as written; contractions are one word, a Chinese or Japanese character is one word."""
    return _WORD.findall(unicodedata.normalize("NFC", text))


def word_count(text: str) -> int:
    """How long a text is in words: what stands between white space, and every character where none is written."""
    if text.isascii():
        return len(text.split())
    rest, unspaced = _UNSPACED.subn(" ", text)
    return len(rest.split()) + unspaced


def storable(text: str) -> str:
    """The text in a form that every database keeps; `as_written` is the inverse, and other text stays as it is."""
    if text.isascii() and "\x00" not in text:
        return text
    return _UNSTORABLE.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", text)


def as_written(text: str) -> str:
    """The text that `storable` was given."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text) if _ESCAPE in text else text


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


class _Lines:
    """The lines of a text by number, as the Markdown parser counts them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def start(self, line: int) -> int:
        """Offset of a line's first character; the end of the text after the last line."""
        return self.starts[line] if line < len(self.starts) else len(self.text)

    def trimmed(self, start: int, end: int) -> int:
        """`end` without the white space before it."""
        while end > start and self.text[end - 1].isspace():
            end -= 1
        return end


def _tree(tokens: Iterator[Token], text: str, lines: _Lines) -> list[Block]:
    """The blocks up to the end of the container that `tokens` stand in."""
    found: list[Block] = []
    for token in tokens:
        kind = _KINDS.get(token.type)
        if kind is None or token.map is None:
            if token.nesting == -1 and token.type.replace("_close", "_open") in _KINDS:
                break
            continue
        start, end = lines.start(token.map[0]), lines.trimmed(0, lines.start(token.map[1]))
        children: tuple[Block, ...] = ()
        if token.type == "fence":
            start = text.index(token.markup, start)
        elif kind in ("paragraph", "heading"):
            content = next(tokens)
            next(tokens)
            start = _content_start(content.content, text, start) if token.markup[:1] != "#" else start
        elif kind == "table":
            _skip(tokens, "table_close")
        elif token.nesting == 1:
            children = tuple(_tree(tokens, text, lines))
        if start < end:
            found.append(Block(kind, start, end, int(token.tag[1]) if kind == "heading" else 0, children))
    return found


def _skip(tokens: Iterable[Token], until: str) -> None:
    for token in tokens:
        if token.type == until:
            return


def _content_start(content: str, text: str, line_start: int) -> int:
    """Where the content of a paragraph begins: its first line is the end of the source line, after any markers."""
    line_end = text.find("\n", line_start)
    line = text[line_start : line_end if line_end >= 0 else len(text)]
    return line_start + len(line.rstrip()) - len(content.split("\n", 1)[0].rstrip())


def _with_gaps(found: list[Block], lines: _Lines) -> list[Block]:
    """The same blocks, and one of kind `other` for each stretch of lines that none of them covers."""
    filled: list[Block] = []
    position = 0
    for block in [*found, None]:
        start = block.start if block else len(lines.text)
        gap = lines.text[position:start]
        if gap.strip():
            begin = position + (len(gap) - len(gap.lstrip("\n \t\r")))
            filled.append(Block("other", begin, lines.trimmed(begin, start)))
        if block:
            filled.append(block)
            position = block.end
    return filled


def _leaves(found: Iterable[Block]) -> Iterator[Block]:
    for block in found:
        if block.children:
            yield from _leaves(block.children)
        else:
            yield block


def _shown(text: str) -> str:
    """A copy of the same length that shows a sentence splitter words only: markup blanked, opaque spans as letters."""
    text = _INLINE_CODE.sub(_letters, text)
    text = _IMAGE.sub(_blanks, text)
    text = _AUTOLINK.sub(_letters, text)
    text = _TAG.sub(_blanks, text)
    text = _TARGET.sub(_letters, text)
    text = _URL.sub(_letters, text)
    return _QUOTE_MARKS.sub(_blanks, text)


def _letters(match: re.Match[str]) -> str:
    return "x" * len(match[0])


def _blanks(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _trimmed(shown: str, begin: int, end: int, offset: int) -> tuple[int, int]:
    piece = shown[begin:end]
    return offset + begin + len(piece) - len(piece.lstrip()), offset + begin + len(piece.rstrip())


def _inline(token: Token, *, code: bool = True) -> str:
    """The words of inline content; a soft line break is a space."""
    pieces = []
    for child in token.children or ():
        if child.type == "text" or (code and child.type == "code_inline"):
            pieces.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            pieces.append("\n" if child.type == "hardbreak" else " ")
    return "".join(pieces)
