"""Folders of notes: wiki links in an Obsidian vault, names and property lines in a Notion export.

Source: https://obsidian.md/help/links (wiki links); Notion's export as Markdown was learned from its files.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from llm_twin.collect.metadata import tags_from
from llm_twin.collect.reading import Reading, parse_date

NOTE_SUFFIXES = (".md", ".markdown")
"""Suffixes of the files in which wiki links and property lines are looked for."""

_LINK = r"\[\[(?P<page>[^\[\]|#\\\n]+)(?P<part>#[^\[\]|\\\n]*)?(?:\\?\|(?P<words>[^\[\]\n]*))?\]\]"
# What an escape, a code span or a comment holds is matched first, so that no link is found in it.
_INLINE = re.compile(rf"\\.|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)|`+|<!--.*?-->|!?{_LINK}", re.DOTALL)
_ANYWHERE = re.compile(_LINK)


# --- Obsidian -------------------------------------------------------------------------------------------------------


def is_vault(folder: Path) -> bool:
    """Whether Obsidian keeps its settings in this folder. In any other, `[[…]]` may be a matrix or a test of bash."""
    return (folder / ".obsidian").is_dir()


class Vault:
    """The files of a vault by key, with the canonical URL of each that names one."""

    def __init__(self, urls: Mapping[str, str | None]) -> None:
        self._urls = urls
        self._named: dict[str, list[str]] = {}
        for key in sorted(urls):
            stem, suffix = posixpath.splitext(posixpath.basename(key))
            names = (
                {_folded(stem + suffix), _folded(stem)} if suffix.lower() in NOTE_SUFFIXES else {_folded(stem + suffix)}
            )
            for name in names:
                self._named.setdefault(name, []).append(key)

    def linked(self, text: str, key: str) -> str:
        """The text of the file `key` with its wiki links as Markdown links, where they lead to a file of the vault.

        The words shown stay those the author sees in the brackets. An embedded page becomes a link to it.
        """

        def link(found: re.Match[str]) -> str:
            address = self.address(found["page"], found["part"] or "", key)
            words = (found["words"] or "").strip() or (found["page"] + (found["part"] or "")).strip()
            return found[0] if address is None else f"[{words}]({address})"

        return _each_link(text, link)

    def addresses(self, links: tuple[tuple[str, str], ...], key: str) -> tuple[str | None, ...]:
        """Where the wiki links of the file `key` lead: all that its text depends on besides its own bytes."""
        return tuple(self.address(page, part, key) for page, part in links)

    def address(self, page: str, part: str, key: str) -> str | None:
        """The canonical URL of a page, else its path from the folder of `key`; None when the vault has no such page.

        `part` (`#Heading`) is kept in paths only: what a site calls its headings is not known here.
        """
        found = self._find(page, key)
        if found is None:
            return None
        if url := self._urls[found]:
            return quote(url, safe="!#$%&'*+,/:;=?@[]~")  # all that URLs have but parentheses, which would end the link
        path = posixpath.relpath(found, posixpath.dirname(key) or ".")
        return quote(path) + (f"#{quote(part[1:].strip())}" if part[1:] else "")

    def _find(self, page: str, key: str) -> str | None:
        """The file of that name, in any case of letters; of several, the one the fewest folders away."""
        wanted = _folded(page.strip().strip("/"))
        named = self._named.get(wanted.rsplit("/", 1)[-1], ())
        found = [each for each in named if "/" not in wanted or _is_end(wanted, _folded(each))]
        return min(found, key=lambda each: (_steps(key, each), each), default=None)


def wiki_links(text: str) -> tuple[tuple[str, str], ...]:
    """Page and part (`#Heading`, or empty) of everything that looks like a wiki link, in code too, in order.

    Whoever asks whether a text depends on other pages may err on that side; telling code apart doubled the time of a
    listing.
    """
    return tuple((found["page"], found["part"] or "") for found in _ANYWHERE.finditer(text))


def _each_link(text: str, replaced: Callable[[re.Match[str]], str]) -> str:
    """The text with what `replaced` makes of each wiki link outside code and HTML blocks."""
    from markdown_it import MarkdownIt

    if "[[" not in text:
        return text
    lines = text.split("\n")
    # Only blocks are needed. `[^1]: [[Page]]` is a footnote to Obsidian and would be a reference to CommonMark.
    for token in MarkdownIt("commonmark").disable(["inline", "reference"]).parse(text):
        if token.type == "inline" and token.map:
            begin, end = token.map
            prose = "\n".join(lines[begin:end])
            changed = _INLINE.sub(lambda found: replaced(found) if found["page"] else found[0], prose)
            lines[begin:end] = changed.split("\n")  # as many lines as before
    return "\n".join(lines)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_end(wanted: str, key: str) -> bool:
    return f"/{key}".endswith(f"/{wanted}") or f"/{posixpath.splitext(key)[0]}".endswith(f"/{wanted}")


def _steps(key: str, other: str) -> int:
    """Folders to leave and to enter on the way from one file to another."""
    here, there = key.split("/")[:-1], other.split("/")[:-1]
    shared = len(posixpath.commonprefix([here, there]))
    return len(here) + len(there) - 2 * shared


# --- Notion ---------------------------------------------------------------------------------------------------------

_ID = re.compile(r" [0-9a-f]{32}(?=/|\.[^./]*$|$)")
_PROPERTIES = re.compile(r"\A\s*#[ \t][^\n]*\n+((?:[^\s:#>*-][^:\n]{0,60}:(?:[ \t][^\n]*)?(?:\n|\Z))+)(?:\n|\Z)")
_WRITTEN = ("published", "publish date", "published at", "date", "created", "created time", "created at")
_NOTION_TIME = "%B %d, %Y %I:%M %p"


def without_ids(path: str) -> str:
    """A path without the space and 32 hexadecimal digits that Notion puts after the names of pages and folders."""
    return _ID.sub("", path)


def with_properties(reading: Reading, path: str) -> Reading:
    """The reading of a page that Notion exported, with tags and date of the lines under its title, which stay text.

    Other files come back as they are. `URL:` is no canonical URL: in Notion it names the page that a note is about.
    """
    name = posixpath.basename(path)
    found = _PROPERTIES.match(reading.text) if without_ids(name) != name else None
    if not found:
        return reading
    lines = (line.partition(":") for line in found[1].splitlines())
    fields = {key.strip().lower(): value.strip() for key, _, value in lines}
    return replace(
        reading,
        tags=reading.tags or tags_from(fields.get("tags")),
        published_at=reading.published_at
        or next((moment for key in _WRITTEN if (moment := _moment(fields.get(key, "")))), None),
    )


def _moment(text: str) -> datetime | None:
    try:
        return parse_date(datetime.strptime(text, _NOTION_TIME))
    except ValueError:
        return parse_date(text)
