"""JSON Lines: one document a line, `{"id", "title", "date", "url", "author", "text"}`, read as a stream.

Optional keys: `path`, `tags`, `kind`, `source`, `language`. A listing keeps one small `Line` per document and no text,
so that a file far larger than memory can be collected.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_twin.collect.metadata import reading_from
from llm_twin.collect.reading import Reading
from llm_twin.core.errors import ItemError

FOREIGN = 1000
"""Records without any document's key after which a file is taken for one of another kind."""

_SHOWN_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,500})"')


@dataclass(frozen=True, slots=True)
class Line:
    """Where a record stands: its id, line number (from 1), byte offset, length, and the hash of its bytes."""

    id: str
    number: int
    offset: int
    length: int
    digest: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no document, and why; `id` where a damaged line still shows it."""

    number: int
    reason: str
    skipped: bool = False
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One parsed line: the reading, and what identifies it."""

    reading: Reading
    id: str
    path: str
    source: str | None


def scan(path: Path, *, max_bytes: int) -> Iterator[Line | BadLine]:
    """Every line that holds something, without keeping its text.

    Raises `ItemError` when the first thousand records show that the file holds no documents at all; `OSError` passes
    through.
    """
    seen: dict[str, int] = {}
    foreign: list[BadLine] = []
    ours = False
    with path.open("rb") as stream:
        for number, offset, data, whole in _lines(stream, max_bytes):
            if number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise ItemError("is UTF-16, and JSON Lines are UTF-8; save it again", skipped=True)
            if not whole:
                reason = f"line {number} is longer than {max_bytes:,} bytes; raise max_bytes"
                yield BadLine(number, reason, skipped=True)
                continue
            if not data.strip():
                continue
            try:
                fields = parse(data)
            except ItemError as error:
                shown = _SHOWN_ID.search(data)
                known = shown[1].decode("utf-8", "replace") if shown else None
                yield BadLine(number, f"line {number} {error.reason}", id=known if known not in seen else None)
                continue
            if "text" not in fields and "id" not in fields:
                foreign.append(BadLine(number, f'line {number} has neither "id" nor "text"', skipped=True))
                if not ours and len(foreign) >= FOREIGN:
                    break
                continue
            ours = True
            identity = fields.get("id")
            if isinstance(identity, bool) or not isinstance(identity, str | int) or not str(identity).strip():
                yield BadLine(number, f'line {number} has no "id" (a text or a number); give it one')
                continue
            key = str(identity).strip()
            if key in seen:
                yield BadLine(number, f"line {number} repeats the id {key!r} of line {seen[key]}", skipped=True)
                continue
            seen[key] = number
            yield Line(key, number, offset, len(data), digest(data))
    if foreign and not ours:
        raise ItemError('is no file of documents: its records have neither "id" nor "text"', skipped=True)
    yield from foreign


def _lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, int, bytes, bool]]:
    """Line number, offset, bytes, and whether that is the whole line; the rest of a longer one is passed over."""
    number = offset = 0
    while data := stream.readline(max_bytes + 1):
        number += 1
        length = len(data)
        whole = length <= max_bytes
        while not data.endswith(b"\n") and not whole and (data := stream.readline(1 << 20)):
            length += len(data)
        yield number, offset, data if whole else b"", whole
        offset += length


def digest(line: bytes) -> str:
    """The version of a line: 128 bits of its SHA-256."""
    return hashlib.sha256(line.strip()).hexdigest()[:32]


def parse(line: bytes) -> dict[str, Any]:
    """The object on a line. Raises `ItemError` for what is none."""
    try:
        fields = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ItemError(f"is not JSON: {what}; mend the line") from error
    if not isinstance(fields, dict):
        raise ItemError(f"is {type(fields).__name__}, not an object; write {{...}} on each line")
    return fields


def record(line: bytes) -> Record:
    """The document on a line. Raises `ItemError` for a line without text."""
    fields = parse(line)
    text = fields.pop("text", None)
    if not isinstance(text, str):
        raise ItemError(f'has no "text" (got {type(text).__name__}); give it one')
    identity = str(fields.get("id", "")).strip()
    path, source = fields.get("path"), fields.get("source")
    return Record(
        reading=reading_from(fields, text),
        id=identity,
        path=path if isinstance(path, str) and path else identity,
        source=source.strip() if isinstance(source, str) and source.strip() else None,
    )
