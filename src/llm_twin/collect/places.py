"""One place has one name: `../posts`, `../posts/` and its absolute path are the same, a path inside is a part of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from llm_twin.core.ports import Source


@dataclass(frozen=True, slots=True)
class Part:
    """Some items of a source: the one of this key, and with `below` those in that folder or list."""

    key: str
    below: bool = True

    def holds(self, key: str) -> bool:
        """Whether an item belongs to the part; lines of a list are `list.jsonl#id` or, damaged, `list.jsonl:7`."""
        return key == self.key or (self.below and key.startswith((f"{self.key}/", f"{self.key}#", f"{self.key}:")))


@runtime_checkable
class Divisible(Protocol):
    """A source whose items stand at paths of this machine."""

    def key_of(self, path: Path) -> str | None:
        """What the keys of items at or below a path begin with; None for a path that is not inside the source."""
        ...


def place(address: str, root: Path) -> str:
    """What an address means, equal for all spellings: a path without detours and links; any other as it is."""
    return address if "://" in address else os.path.realpath(root / Path(address).expanduser())


def part_of(source: Source, address: str, root: Path) -> Part | None:
    """The part of a source that a path names; None when the path is not inside it."""
    key = source.key_of(root / Path(address).expanduser()) if isinstance(source, Divisible) else None
    return Part(key) if key else None
