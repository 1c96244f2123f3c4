"""Exports: the archive of their own data that a platform hands its authors, as a zip or unpacked in a folder.

    list ─> read the archive's lists once, as streams ─> records on a shelf on disk ─> one item per document
                 └─ damaged? nothing was said yet, so nothing is lost
    fetch ─> the records of that document ─> a reading

A platform is a subclass of `ExportSource` that says which records make which document, and how they read. Nothing is
ever unpacked to disk or held whole in memory: lists are read as streams, pages one at a time, both with limits.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import weakref
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal

from llm_twin.collect.reading import READERS_VERSION, Reading, document_from, parsing
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError, SourceError, TwinError
from llm_twin.core.records import Document, Item, ItemState, Outcome, fingerprint

MAX_PAGE_BYTES = 20_000_000
"""Size of one page of an export, unpacked."""
MAX_LIST_BYTES = 4_000_000_000
"""Size of one list (CSV or JSON) of an export, unpacked: lists are streamed, so this bounds time and not memory."""
TITLE_LENGTH = 80
"""Characters of a post's first line that become its title."""
MAX_LINE = 1_000_000
"""Characters of one line of a CSV file."""

_SIGNS = {
    "substack": (r"posts\.csv",),
    "linkedin": (r"Shares\.csv", r"Connections\.csv", r"Articles/[^/]+\.html"),
    "x": (r"data/tweets?(?:-part\d+)?\.js",),
    "telegram": (r"result\.json",),
    "slack": (r"integration_logs\.json", r"channels\.json"),
    "medium": (r"posts/(?:draft|\d{4}-\d\d-\d\d)_[^/]+\.html",),
}
"""Files by which an export is recognised whatever its own name is, by the kind of its source."""
_NOTION = r"[^/]* [0-9a-f]{32}(?:_all)?\.(?:md|csv|html)|Export-.*-Part-\d+\.zip"
_JUNK = re.compile(r"(?:^|/)(?:__MACOSX/|\.)")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for members that are torn, encrypted or packed in an unknown way, and for a torn directory."""


# --- the archive ----------------------------------------------------------------------------------------------------


class Export:
    """The files of an export by name, whether it is a zip, a folder, or a single file of one."""

    def __init__(self, path: Path, *, name: str) -> None:
        self._path, self._name = path, name
        self._zip: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                self._members = sorted(self._below())
            elif zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
                self._zip = zipfile.ZipFile(path)
                self._members = sorted(each.filename for each in self._zip.infolist() if not each.is_dir())
            else:
                path.stat()
                self._members = [path.name]
        except FileNotFoundError:
            where = "" if str(path) == name else f" ({path})"
            raise SourceError(f"{name} is not there{where}; correct its address") from None
        except _DAMAGE as error:
            raise SourceError(f"{name} cannot be read as an export: {_why(error)}; download it again") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._zip is not None:
            self._zip.close()

    def find(self, pattern: str) -> dict[str, str]:
        """Members whose path ends as the pattern says: that end (the same in every export) and the member's name.

        Exports wrap their files in folders that are named by date, so only the end identifies a file.
        """
        ending = re.compile(rf"(?:.*/)?({pattern})", re.IGNORECASE)
        found: dict[str, str] = {}
        for member in sorted(self._members, key=lambda member: (member.count("/"), member)):
            match = ending.fullmatch(member)
            if match and not _JUNK.search(member):
                found.setdefault(match[1], member)
        return dict(sorted(found.items()))

    def need(self, pattern: str, *, what: str) -> dict[str, str]:
        """The same. Raises `SourceError` that says `what` was expected when there is nothing."""
        found = self.find(pattern)
        if not found:
            kind = self.looks_like()
            advice = (
                f'it looks like an export of the kind "{kind}": set that'
                if kind
                else "give the address of the archive that the platform sent"
            )
            raise SourceError(f"{self._name} holds no {what}; {advice}")
        return found

    def looks_like(self) -> str:
        """The kind of source whose export this seems to be; empty when it seems to be none."""
        return next((kind for kind, signs in _SIGNS.items() if any(map(self.find, signs))), "")

    def version(self, member: str) -> str:
        """Checksum and size of a member, equal for a zip and for the folder unpacked from it."""
        if self._zip is not None:
            about = self._zip.getinfo(member)
            return f"{about.CRC:08x}{about.file_size:x}"
        checksum = size = 0
        with self._stream(member) as stream:
            while piece := stream.read(1 << 20):
                stream.begin_record()
                checksum, size = zlib.crc32(piece, checksum), size + len(piece)
        return f"{checksum:08x}{size:x}"

    def read(self, member: str) -> bytes:
        """A page, whole. Raises `ItemError` when it is too large or cannot be read."""
        try:
            with self._open(member) as stream:
                data = stream.read(MAX_PAGE_BYTES + 1)
        except KeyError:
            raise ItemError("is not in the export any more; collect again") from None
        except _DAMAGE as error:
            raise ItemError(f"cannot be read from the export: {_why(error)}; download it again") from error
        if len(data) > MAX_PAGE_BYTES:
            raise ItemError(f"has more than {MAX_PAGE_BYTES:,} bytes; leave it out of the export", skipped=True)
        return data

    @contextmanager
    def _stream(self, member: str) -> Iterator[_Bounded]:
        """A list, to be read in pieces. Raises `SourceError`, also while reading, when it is damaged or endless."""
        try:
            with self._open(member) as stream, _Bounded(stream, MAX_LIST_BYTES) as bounded:
                yield bounded
        except _DAMAGE as error:
            raise SourceError(
                f"{self._name}: {member} cannot be read: {_why(error)}; nothing was removed: download the export again"
            ) from error

    def rows(self, member: str, *, columns: tuple[str, ...], mend: Callable[[str], str] = str) -> Iterator[Row]:
        """The records of a CSV file with a header, one at a time; lines before the header are passed over.

        `mend` repairs a line before it is parsed. Raises `SourceError` when there is no header with these columns, and
        when the file is damaged.
        """
        with (
            self._stream(member) as stream,
            io.TextIOWrapper(io.BufferedReader(stream), "utf-8-sig", newline="") as text,
        ):
            try:
                reader = csv.reader(map(mend, _lines(text)))
                header = next((row for row in reader if set(columns) <= {cell.strip() for cell in row}), None)
                if header is None:
                    raise SourceError(
                        f"{self._name}: {member} has no columns {', '.join(columns)}; is it the right file?"
                    )
                names = [cell.strip() for cell in header]
                for row in reader:
                    stream.begin_record()
                    if row:
                        yield Row(reader.line_num, dict(zip(names, row, strict=False)), len(row) == len(names))
            except csv.Error as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error

    def objects(self, member: str, *places: str) -> Iterator[tuple[str, Any]]:
        """The values at some places of a JSON file (`chats.list.item.name`, as in ijson), in order, with their places.

        A JavaScript assignment before the JSON (`window.YTD.tweets.part0 = `) is passed over. Raises `SourceError` when
        the file is damaged.
        """
        import ijson  # type: ignore[import-untyped]

        with self._stream(member) as stream, io.BufferedReader(stream) as buffered:
            assigned = re.match(rb"\s*window\.[\w.]+\s*=\s*", buffered.peek(200)[:200])
            buffered.read(assigned.end() if assigned else 0)
            building: Any = None
            at = ""
            try:
                for place, event, value in ijson.parse(buffered, use_float=True):
                    if building is None and place in places and event != "end_array":
                        building, at = ijson.ObjectBuilder(), place
                    if building is not None:
                        building.event(event, value)
                        if place == at and event not in ("start_map", "start_array", "map_key"):
                            stream.begin_record()
                            yield at, building.value
                            building = None
                    elif event == "end_map":
                        stream.begin_record()
            except ijson.JSONError as error:
                raise ValueError(f"it is not JSON: {error}") from error

    def _open(self, member: str) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(member)
        return (self._path / member if self._path.is_dir() else self._path).open("rb")

    def _below(self) -> Iterator[str]:
        def stop(error: OSError) -> None:
            raise error

        for folder, _, files in os.walk(self._path, onerror=stop):
            yield from (Path(folder, file).relative_to(self._path).as_posix() for file in files)


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a CSV file: the line it ends in, its cells by column, and whether it has one for each column."""

    line: int
    cells: Mapping[str, str]
    whole: bool

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "").strip()


class _Bounded(io.RawIOBase):
    """A stream that ends in an error when it is longer than allowed, however small it was packed."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._stream, self._left, self._record = stream, max_bytes, 0

    def readable(self) -> bool:
        return True

    def begin_record(self) -> None:
        """Start counting anew: a record that never ends would be built in memory."""
        self._record = 0

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        self._record += len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {MAX_LIST_BYTES:,} bytes")
        if self._record > MAX_PAGE_BYTES:
            raise ValueError(f"it has a record of more than {MAX_PAGE_BYTES:,} bytes")
        buffer[: len(data)] = data
        return len(data)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise ValueError(f"it has a line of more than {MAX_LINE:,} characters")
        yield line


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")


# --- the shelf ------------------------------------------------------------------------------------------------------


class Shelf:
    """Records by the document they belong to, in order, in a temporary database: an archive need not fit in memory."""

    def __init__(self) -> None:
        # An unnamed database lives in the page cache and moves to a temporary file when it grows.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._close = weakref.finalize(self, self._db.close)
        self._db.execute("pragma journal_mode = off")
        self._db.execute("create table record (key text, place integer, name text, data text)")
        self._db.execute("create table left_out (key text, reason text, outcome text)")
        self._indexed = False

    def add(self, key: str, record: Mapping[str, Any], *, place: int = 0, name: str = "") -> None:
        """Put a record to a document; records of a document are ordered by `place`, then as they were added."""
        data = json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        self._db.execute("insert into record values (?, ?, ?, ?)", (key, place, name, data))
        self._indexed = False

    def leave_out(self, key: str, reason: str, outcome: Literal["skipped", "failed"] = "skipped") -> None:
        """Note that a record becomes no document, and why."""
        self._db.execute("insert into left_out values (?, ?, ?)", (key, reason, outcome))

    def move(self, keys: Iterable[tuple[str, str]]) -> None:
        """Give the records of these names, in pairs with their new keys, to other documents."""
        self._db.execute("create index if not exists by_name on record (name)")
        self._db.executemany("update record set key = ? where name = ?", ((key, name) for name, key in keys))

    def drop(self, key: str) -> None:
        """Take a document away."""
        self._index()
        self._db.execute("delete from record where key = ?", (key,))

    def left_out(self) -> Iterator[tuple[str, str, Outcome]]:
        """Key, reason and outcome of every record that becomes no document, in the order in which they were noted."""
        return iter(self._db.execute("select key, reason, outcome from left_out order by rowid"))

    def versions(self) -> Iterator[tuple[str, str]]:
        """Every document's key, in order, with a hash over its records."""
        self._index()
        found = self._db.execute("select key, data from record order by key, place, rowid")
        for key, records in groupby(found, key=lambda row: str(row[0])):
            yield key, fingerprint(*(data for _, data in records))[:32]

    def records(self, key: str) -> list[dict[str, Any]]:
        """The records of a document; none when there is no such document."""
        self._index()
        found = self._db.execute("select data from record where key = ? order by place, rowid", (key,))
        return [json.loads(data) for (data,) in found]

    def close(self) -> None:
        """Remove it from the disk."""
        self._close()

    def _index(self) -> None:
        if not self._indexed:
            self._db.execute("create index if not exists by_key on record (key, place)")
            self._indexed = True


# --- the source -----------------------------------------------------------------------------------------------------


class ExportSource(ABC):
    """Documents in an export. Subclasses put records on the shelf (`gather`) and turn a document's into a `Reading`.

    `options` are everything that decides what becomes of a record: a change of it reads every record again.
    """

    platform: str

    def __init__(self, address: str, context: SourceContext, **options: Any) -> None:
        self.name = address
        self.author = context.author
        self._path = context.root / Path(address).expanduser()
        self._now: Callable[[], datetime] = context.now
        self._how = fingerprint(READERS_VERSION, self.platform, self.author, sorted(options.items()))[:8]
        self._opened: tuple[Export, Shelf] | None = None

    @abstractmethod
    def gather(self, export: Export, shelf: Shelf) -> None:
        """Put every record that is to be collected on the shelf, and note why the others are left out."""

    @abstractmethod
    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:
        """What the records of one document say. Raises `ItemError` when they are no document."""

    def list(self) -> Iterator[Item | ItemState]:
        """Every record that is left out, then every document of the export; see `Source.list`.

        Raises `SourceError` when the export is not there, is damaged, or is none of this platform.
        """
        self._close()
        _, shelf = self._gathered()
        for key, reason, outcome in shelf.left_out():
            yield ItemState(self.name, key, outcome, reason)
        for key, version in shelf.versions():
            yield Item(key, f"{self._how}:{version}")

    def fetch(self, item: Item) -> Document:
        """The document of an item; see `Source.fetch`."""
        export, shelf = self._gathered()
        records = shelf.records(item.key)
        if not records:
            raise ItemError("is not in the export any more; collect again")
        with parsing("download the export again"):
            reading = self.read(records, export)
        return document_from(
            reading,
            author=self.author,
            source=self.platform,
            locator=item.key,
            path=item.key,
            fetched_at=self._now(),
        )

    def _gathered(self) -> tuple[Export, Shelf]:
        if self._opened is None:
            self._opened = Export(self._path, name=self.name), Shelf()
            try:
                self.gather(*self._opened)
            except TwinError:
                self._close()
                raise
            except Exception as error:  # a record nobody foresaw: this source has a problem, and no other
                self._close()
                raise SourceError(
                    f"{self.name} holds a record in a form that is not known ({type(error).__name__}: {error}); "
                    "nothing was removed: download the export again"
                ) from error
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            for each in self._opened:
                each.close()
            self._opened = None


def refuse_archive(path: Path, *, name: str) -> None:
    """Raise `SourceError`, with what to do instead, for a zip that is about to be read as a document."""
    if path.suffix.lower() != ".zip":
        return
    export = Export(path, name=name)
    try:
        kind, is_notion = export.looks_like(), bool(export.find(_NOTION))
    finally:
        export.close()
    if kind:
        advice = f'it looks like an export of a platform: set kind = "{kind}" in its [[sources]] table'
    elif is_notion:
        advice = "it looks like an export of Notion: unpack it, with the zips in it, and name the folder"
    else:
        advice = "set the `kind` of the platform that it is an export of, or unpack it and name the folder"
    raise SourceError(f"{name} is an archive, not a document; {advice}")


def opening(text: str) -> str:
    """A title for a post that has none: its first line, cut after a word at about 80 characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_LENGTH else f"{line[:TITLE_LENGTH].rsplit(' ', 1)[0].rstrip(',;:– ')}…"


def named_like(address: str, pattern: str) -> bool:
    """Whether the last part of a path is named as a platform names its exports; nothing is opened."""
    if "://" in address:
        return False
    last = re.split(r"[/\\]", address.rstrip("/\\"))[-1]
    return re.fullmatch(pattern, last, re.IGNORECASE) is not None
