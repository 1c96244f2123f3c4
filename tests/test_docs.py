"""The documentation is tested: generated pages are fresh, links lead somewhere, and every command shown exists."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llm_twin import __version__
from llm_twin.cli import twin

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("name", ["commands.md", "settings.md"])
def test_generated_pages_say_what_the_code_says(name: str) -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == pages[name](), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{_id(page)} links to {target}, which is not there"
        if heading:
            assert heading in _anchors(found), f"{_id(page)} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_twin_command_shown_parses(page: Path) -> None:
    for line in _commands(page.read_text(encoding="utf-8")):
        _parse(shlex.split(line, comments=True)[1:], f"{_id(page)}: {line}")


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        shown = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert shown <= targets, f"{_id(page)} shows make targets that do not exist: {shown - targets}"


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_page_of_the_documentation_is_listed_in_its_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"({name})" in index, f"docs/index.md does not link to {name}"


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _commands(text: str) -> Iterator[str]:
    """Lines of shell blocks that begin with `twin`, with or without a prompt."""
    for block in re.findall(r"```(?:bash|console|sh)\n(.*?)```", text, flags=re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            command = line.strip().removeprefix("$ ")
            if command.startswith("twin ") and "…" not in command:
                yield re.split(r"\s[|>&]", command)[0]


def _parse(arguments: list[str], where: str) -> None:
    """Let click parse the line without running it."""
    command: click.Command = twin
    context = twin.make_context("twin", [], resilient_parsing=True)
    while isinstance(command, click.Group):
        with context:
            command.parse_args(context, arguments)
        rest = [*context._protected_args, *context.args]
        if not rest:
            assert command.invoke_without_command or command is twin, where
            return
        name, inner, arguments = command.resolve_command(context, rest)
        assert inner is not None, where
        context = click.Context(inner, info_name=name, parent=context)
        command = inner
    try:
        with context:
            command.parse_args(context, arguments)
    except click.exceptions.Exit:
        return  # --help
    except click.ClickException as error:
        pytest.fail(f"{where}: {error.message}")
