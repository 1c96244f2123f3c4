"""Writes the two reference pages that the code itself knows best: docs/commands.md and docs/settings.md.

Run it with `make docs`; the tests compare the pages with what it would write.
"""

from __future__ import annotations

from pathlib import Path

import click

from llm_twin import settings
from llm_twin.cli import twin

DOCS = Path(__file__).parent


def commands() -> str:
    """Every command with its help, as the terminal shows it at 100 columns."""
    # Made as a run makes it: click remembers how a help option was named first, whoever asked.
    root = twin.make_context("twin", [], resilient_parsing=True, max_content_width=100, terminal_width=100)
    pages = [
        "# Commands\n\nEvery command, as `--help` prints it. Results go to stdout, progress and notes to stderr; "
        "most commands take `--json`.\n\n## twin\n\n" + _block(twin.get_help(root))
    ]
    pages += _below(twin, root)
    return "\n".join(pages)


def _below(group: click.Group, context: click.Context) -> list[str]:
    pages = []
    for name in group.list_commands(context):
        command = group.get_command(context, name) or group
        inner = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
        pages.append(f"## {inner.command_path}\n\n" + _block(command.get_help(inner)))
        if isinstance(command, click.Group):
            pages += _below(command, inner)
    return pages


def settings_page() -> str:
    """Every setting with its default and meaning."""
    lines = [
        "# Settings",
        "",
        "Settings stand in `twin.toml`, a table per section. An environment variable overrides them: `search.k` is",
        "`TWIN_SEARCH_K`. `twin config show` prints the values in force and where each came from.",
    ]
    section = ""
    for setting in settings.load(None, environment={}).explain():
        head, _, name = setting.key.partition(".")
        if head != section:
            section = head
            lines += ["", f"## {head}", "", "| setting | default | meaning |", "|---|---|---|"]
        value = list(setting.value) if isinstance(setting.value, tuple) else setting.value
        lines.append(f"| `{name or head}` | `{value!r}` | {setting.meaning} |")
    lines += ["", "Each `[[sources]]` table takes these settings and the options of its kind:", ""]
    lines += ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in settings.SourceSettings.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default!r}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    lines += ["", "`twin sources` lists the options of every kind. Their meaning is told for"]
    lines += ["[files](collecting.md#options-of-the-kind-files) (`include`, `exclude`, `platform`) and for the"]
    lines += ["[web, platforms and exports](sources.md)."]
    return "\n".join(lines) + "\n"


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


PAGES = {"commands.md": commands, "settings.md": settings_page}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
