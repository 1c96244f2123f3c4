"""Bookmarks as every browser exports them: one note, a Markdown list by folder.

Source: the Netscape bookmark file format,
https://learn.microsoft.com/en-us/previous-versions/windows/internet-explorer/ie-developer/platform-apis/aa753582(v=vs.85)
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

from llm_twin.collect.reading import Reading
from llm_twin.core.errors import ItemError

_DOCTYPE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<!DOCTYPE\s+NETSCAPE-Bookmark-file-1\b", re.IGNORECASE)


def is_bookmarks(data: bytes) -> bool:
    """Whether an HTML file is a list of bookmarks, by its first line."""
    return _DOCTYPE.match(data) is not None


def read_bookmarks(text: str) -> Reading:
    """The bookmarks of a file by folder: title, link, the day each was added (UTC) and its description.

    The date of the note is that of the latest bookmark. Bookmarks marked private, and those that lead to no web page
    (scripts, folders of this machine, pages of the browser), are left out. Raises `ItemError` (skipped) when none is
    left.
    """
    parser = _Parser()
    parser.feed(text)
    parser.close()
    folders = [(path, lines) for path, lines in parser.folders.items() if lines]
    if not parser.count:
        raise ItemError("holds no bookmarks of public web pages; nothing to collect", skipped=True)
    blocks = [f"## {' / '.join(path)}\n\n" * bool(path) + "\n".join(lines) for path, lines in folders]
    return Reading(
        text="\n\n".join(blocks),
        title=_line(parser.title) or "Bookmarks",
        published_at=max(parser.dates, default=None),
        kind="note",
    )


class _Parser(HTMLParser):
    """Lines of Markdown by folder, in the order in which folders and bookmarks stand in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.count = 0
        self.dates: list[datetime] = []
        self.folders: dict[tuple[str, ...], list[str]] = {(): []}
        self._path: list[str] = []  # one name for each open list; empty for the outermost
        self._folder = ""
        self._link: dict[str, str] | None = None
        self._described = False  # whether a description now would be that of a bookmark just listed
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that opens something; see `HTMLParser`."""
        if tag in ("dt", "dl", "hr"):
            self._end_description()
        if tag == "dl":
            self._path.append(self._folder)
            self._folder = ""
            self.folders.setdefault(self._here(), [])
        elif tag == "a":
            self._link = {name: value or "" for name, value in attrs}
        if tag in ("title", "h1", "h3", "a", "dd"):
            self._words = []

    def handle_endtag(self, tag: str) -> None:
        """A tag that closes something; see `HTMLParser`."""
        words = _line("".join(self._words))
        if tag == "title":
            self.title = words
        elif tag == "h3":
            self._folder = words or "Untitled"
            self._described = False
        elif tag == "a" and self._link is not None:
            self._add(self._link, words)
            self._link = None
        elif tag == "dl":
            self._end_description()
            if self._path:
                self._path.pop()
        if tag in ("title", "h1", "h3", "a"):
            self._words = []

    def handle_data(self, data: str) -> None:
        """Words of a title, folder, bookmark or description; see `HTMLParser`."""
        self._words.append(data)

    def close(self) -> None:
        """End the last description; see `HTMLParser`."""
        super().close()
        self._end_description()

    def _here(self) -> tuple[str, ...]:
        return tuple(name for name in self._path if name)

    def _add(self, link: dict[str, str], words: str) -> None:
        url = link.get("href", "").strip()
        self._described = link.get("private", "0") != "1" and re.match(r"https?://", url, re.IGNORECASE) is not None
        if not self._described:
            return
        address = re.sub(r"[\s()<>]", lambda found: f"%{ord(found[0]):02X}", url)
        added = _moment(link.get("add_date", ""))
        day = f" ({added:%Y-%m-%d})" if added else ""
        shown = re.sub(r"([\[\]\\])", r"\\\1", words or url)
        self.folders.setdefault(self._here(), []).append(f"- [{shown}]({address}){day}")
        self.count += 1
        if added:
            self.dates.append(added)

    def _end_description(self) -> None:
        words = _line("".join(self._words))
        if words and self._described:
            self.folders[self._here()][-1] += f": {words}"
        self._described = False
        self._words = []


def _moment(seconds: str) -> datetime | None:
    """The moment of seconds since 1970; None for none, for 0 and for what is no such number."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC) if int(seconds) > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def _line(text: str) -> str:
    return " ".join(text.split())
