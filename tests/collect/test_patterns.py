"""Patterns that cannot be read: an error where a person chose them, overlooked as by git where a file holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collect.archives import context
from llm_twin.collect import patterns
from llm_twin.collect.files import FilesSource
from llm_twin.collect.github import GitHubSource
from llm_twin.collect.repository import Attributes
from llm_twin.collect.web import WebSource
from llm_twin.core.errors import ConfigError

BROKEN = ["!", "a\\", "[z-a]"]


@pytest.mark.parametrize("pattern", BROKEN)
@pytest.mark.parametrize(
    ("kind", "address", "option"),
    [
        (FilesSource, "posts", "include"),
        (FilesSource, "posts", "exclude"),
        (WebSource, "https://ann.example/", "include"),
        (WebSource, "https://ann.example/", "exclude"),
        (GitHubSource, "https://github.com/ann", "include"),
        (GitHubSource, "https://github.com/ann", "exclude"),
        (GitHubSource, "https://github.com/ann", "repositories"),
    ],
)
def test_a_pattern_that_cannot_be_read_names_its_option(
    tmp_path: Path, kind, address: str, option: str, pattern: str
) -> None:
    with pytest.raises(ConfigError, match=rf"`{option}` has the pattern .*, which cannot be read: .*; see gitignore"):
        kind.open(address, context(tmp_path), **{option: (pattern,)})


@pytest.mark.parametrize("pattern", BROKEN)
def test_a_slip_in_a_gitignore_costs_nothing_but_its_own_line(tmp_path: Path, pattern: str) -> None:
    (tmp_path / ".gitignore").write_text(f"{pattern}\ndraft.md\n")
    for name in ("draft.md", "post.md"):
        (tmp_path / name).write_text("Text.")
    assert [item.key for item in FilesSource(tmp_path, author="Ann").list()] == ["post.md"]


def test_a_slip_in_gitattributes_costs_nothing_but_its_own_line() -> None:
    said = Attributes({".gitattributes": "[z-a] linguist-generated\nmade.py linguist-generated\n"})
    assert said.why_not("made.py") == "is marked linguist-generated in .gitattributes"
    assert said.why_not("mine.py") is None


def test_the_last_pattern_that_matches_decides() -> None:
    spec = patterns.of_option(["*", "!keep.md"], option="exclude")
    assert [spec.match_file(path) for path in ("a.md", "keep.md")] == [True, False]
