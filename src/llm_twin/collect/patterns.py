"""Patterns as in .gitignore: those of options, which must be right, and those of files, where git forgives a slip."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pathspec import GitIgnoreSpec

from llm_twin.core.errors import ConfigError


def of_option(patterns: Iterable[str], *, option: str) -> GitIgnoreSpec:
    """The patterns that a person chose. Raises `ConfigError` for one that cannot be read."""
    patterns = list(patterns)
    for pattern in patterns:
        if why := _unreadable(pattern):
            raise ConfigError(f"`{option}` has the pattern {pattern!r}, which cannot be read: {why}; see gitignore(5)")
    return GitIgnoreSpec.from_lines(patterns)


def of_file(lines: Iterable[str]) -> GitIgnoreSpec:
    """The patterns of a .gitignore or the like; a line that cannot be read matches nothing, as for git."""
    return GitIgnoreSpec.from_lines([line for line in lines if not _unreadable(line)])


def _unreadable(pattern: str) -> str:
    """Why a pattern is none; empty for one that can be read."""
    try:
        GitIgnoreSpec.from_lines([pattern])
    except (ValueError, re.error) as error:
        return str(error)
    return ""
