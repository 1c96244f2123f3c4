"""What a reader of a format found, and the one way from there to a `Document`.

Every source ends here, so that titles, dates, languages, kinds and ids follow the same rules wherever text comes from:

- title: the metadata's, else the first level-1 heading (or a heading that opens the text), else the file's name;
- author: the one the document names, else the configured one (also when it is one of several);
- date: the metadata's, else a `2021-03-04` in the path, else the file's time;
- language: the metadata's, else what the prose looks like, else None (too short, or code);
- kind: the metadata's when it is one of ours, else `note` below 100 words, else `article`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, get_args

from llm_twin.core.errors import ItemError, TwinError
from llm_twin.core.records import Document, Kind, content_hash, document_id
from llm_twin.core.text import word_count

READERS_VERSION = 4
"""Raised whenever a reader makes another document of the same bytes, so that all sources are read again."""
NOTE_WORDS = 100
"""A text of fewer words is a note."""
LANGUAGE_LETTERS = 80
"""Prose with fewer letters is too short to tell a language."""
LANGUAGE_SAMPLE = 1000
"""Characters of prose that decide on the language."""

_ISO_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_/](0[1-9]|1[0-2])[-_/](0[1-9]|[12]\d|3[01])(?!\d)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*)")
_TITLE_LENGTH = 300
_SETEXT = re.compile(r" {0,3}=+[ \t]*$")
_PROGRAM = re.compile(r"(?i)<(script|style|svg)\b")
_NOT_WORDS = re.compile(r"`[^`]*`|https?://\S+|<[^>]{1,200}>|[#*_>|\[\](){}=\"“”:;!?-]+")
_SPOKEN_DATES = ("%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d %H:%M:%S %z")


@dataclass(frozen=True, slots=True)
class Reading:
    """Text as Markdown, and what the file itself says about it; None or empty where it says nothing."""

    text: str
    title: str | None = None
    authors: tuple[str, ...] = ()
    url: str | None = None
    published_at: datetime | None = None
    tags: tuple[str, ...] = ()
    language: str | None = None
    kind: Kind | None = None


def document_from(
    reading: Reading,
    *,
    author: str,
    source: str,
    locator: str,
    path: str,
    fetched_at: datetime,
    modified_at: datetime | None = None,
) -> Document:
    """The document of a reading. `locator` identifies it when it has no canonical URL; `path` names and dates it.

    `source` is kept in lower case, in which filters ask for it.
    A date taken from `modified_at` is no part of the content hash: touching a file changes nothing a reader cares for.
    Raises `ItemError` (skipped) when there is no text.
    """
    text = repaired(reading.text).strip("\n")
    if not text.strip():
        raise ItemError("has no text; nothing to collect", skipped=True)
    writer = _writer(reading.authors, author)
    url = repaired(reading.url) if reading.url else None
    title = " ".join(repaired(reading.title or "").split()) or heading_of(text) or name_of(path)
    published_at = reading.published_at or date_in(path)
    document = Document(
        id=document_id(writer, source.lower(), url or repaired(locator)),
        author=writer,
        source=source.lower(),
        kind=reading.kind or ("note" if word_count(text) < NOTE_WORDS else "article"),
        title=title,
        text=text,
        content_hash="",
        fetched_at=fetched_at,
        url=url,
        language=reading.language or language_of(text),
        published_at=published_at,
        tags=tuple(dict.fromkeys(repaired(tag) for tag in reading.tags)),
    )
    return replace(document, content_hash=hash_of(document), published_at=published_at or modified_at)


@contextmanager
def parsing(remedy: str) -> Iterator[None]:
    """Around parsers that others wrote: what they did not foresee fails this item and no other.

    Errors of ours pass through, any other becomes an `ItemError` that names it and `remedy`.
    """
    try:
        yield
    except TwinError:
        raise
    except Exception as error:
        raise ItemError(f"could not be parsed: {type(error).__name__}: {error}; {remedy}") from error


def hash_of(document: Document) -> str:
    """The content hash over everything a reader of this document can see."""
    return content_hash(
        document.title,
        document.text,
        document.author,
        document.source,
        document.kind,
        document.url,
        document.language,
        document.published_at.isoformat() if document.published_at else None,
        document.tags,
    )


def repaired(text: str) -> str:
    """The text as every database can keep it: LF line ends, no NUL, no lone surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# --- titles and dates -----------------------------------------------------------------------------------------------


def heading_of(text: str) -> str | None:
    """The first level-1 heading, else a heading that opens the text, as plain words; None without either."""
    opening = None
    previous = ""
    for number, line in enumerate(prose_lines(text)):
        found = _ATX.match(line[:_TITLE_LENGTH])
        if found and found[2].strip("# \t"):
            if found[1] == "#":
                return plain(found[2])
            opening = opening or (found[2] if number == 0 else None)
        elif _SETEXT.match(line) and previous and not previous.startswith(("#", ">", "-", "    ")):
            return plain(previous[:_TITLE_LENGTH])
        previous = line.strip() and line
    return plain(opening) if opening else None


def prose_lines(text: str) -> Iterator[str]:
    """Lines outside fenced code; blank lines before the first are left out."""
    fence = ""
    begun = False
    for line in text.splitlines():
        found = _FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if found:
            fence = found[1]
            continue
        begun = begun or bool(line.strip())
        if begun:
            yield line


def plain(markdown: str) -> str:
    """One line of Markdown as the words a reader sees."""
    from markdown_it import MarkdownIt

    without_closing = re.sub(r"[ \t]#+$", "", markdown.rstrip())
    tokens = MarkdownIt().parseInline(without_closing)[0].children or []
    words = "".join(token.content for token in tokens if token.type in ("text", "code_inline", "softbreak", "image"))
    return re.sub(r"\s*\{[#.:][^}]*\}\s*$", "", words).strip()


def name_of(path: str) -> str:
    """A title from a path: `notes/2021-03-04-why_we-left.md` is "Why we left", `why/index.md` is "Why"."""
    parts = [part for part in path.split("/") if part]
    stem = parts[-1].rsplit(".", 1)[0] if parts else ""
    if stem.lower() in {"index", "readme", "_index"} and len(parts) > 1:
        stem = parts[-2]
    words = re.sub(r"[-_\s]+", " ", _ISO_DAY.sub("", stem)).strip() or stem or path
    return words[:1].upper() + words[1:]


def date_in(path: str) -> datetime | None:
    """The day a path names (`2021-03-04-title.md`, `2021/03/04/title.md`), None when it names none."""
    return next((parse_date("-".join(found.groups())) for found in _ISO_DAY.finditer(path)), None)


def parse_date(value: Any) -> datetime | None:
    """A moment in UTC from what metadata says: a date, a time, ISO 8601, RFC 2822 or `March 4, 2021`.

    None for what is no date, and for a spelling that means different days in different countries (`03/04/2021`).
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    elif isinstance(value, str) and value.strip():
        found = _parse_spelled(value.strip())
        if found is None:
            return None
        moment = found
    else:
        return None
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        return None


def _parse_spelled(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for form in _SPOKEN_DATES:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# --- author, language, kind -----------------------------------------------------------------------------------------


def _writer(named: tuple[str, ...], configured: str) -> str:
    """The configured author where the document names them or nobody; else the first it names."""
    names = [" ".join(repaired(name).split()) for name in named if name.strip()]
    if not names or configured.casefold() in (name.casefold() for name in names):
        return configured
    return names[0]


def kind_named(value: Any) -> Kind | None:
    """The kind a document claims, when it is one of ours."""
    named = value.strip().lower() if isinstance(value, str) else ""
    return next((kind for kind in get_args(Kind) if kind == named), None)


def language_named(value: Any) -> str | None:
    """`en` for `en`, `en-GB` and `en_US`; None for what is no ISO 639-1 code."""
    found = re.fullmatch(r"([A-Za-z]{2})(?:[-_].*)?", value.strip()) if isinstance(value, str) else None
    return found[1].lower() if found else None


def language_of(text: str) -> str | None:
    """The language of the prose, by py3langid; None when it is too short, reads like code, or nobody could tell."""
    prose = _prose(text)
    if sum(map(str.isalpha, prose)) < LANGUAGE_LETTERS:
        return None
    code, confidence = _identifier().classify(prose)
    return str(code) if confidence >= 0.8 else None


def _prose(text: str) -> str:
    """The first lines of a text that are words: no code, addresses, markup, or lines of figures and brackets."""
    taken: list[str] = []
    size = 0
    program = ""  # the tag of a script, style or drawing we are in
    for line in prose_lines(text):
        found = _PROGRAM.search(line)
        if program or found:
            program = program or (found[1].lower() if found else "")
            program = "" if f"</{program}" in line.lower() else program
            continue
        if line.startswith(("    ", "\t")):
            continue
        words = " ".join(_NOT_WORDS.sub(" ", line).split())
        if sum(map(_is_word_part, words)) >= 0.85 * len(words):
            taken.append(words)
            size += len(words)
        if size > LANGUAGE_SAMPLE:
            break
    return " ".join(taken)[:LANGUAGE_SAMPLE]


def _is_word_part(character: str) -> bool:
    return character.isalpha() or character in " '’,."


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """py3langid's model, loaded when the first language is asked for (about a second)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
