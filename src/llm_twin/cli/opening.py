"""Opening the twin a command works on, and what several commands share about input and output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from llm_twin.twin import Twin

Command = TypeVar("Command", bound=Callable[..., Any])


def opened(ctx: click.Context, **arguments: Any) -> Twin:
    """The twin of this invocation; closed when the command ends. `arguments` override settings, by dotted key."""
    from llm_twin.twin import Twin

    twin = Twin.open(ctx.obj["workspace"], arguments=arguments)
    ctx.call_on_close(twin.close)
    return twin


def seen_from(workspace: str | Path, addresses: Sequence[str]) -> list[str]:
    """Paths typed relative to the current folder as twin.toml has them, relative to the workspace; others unchanged."""
    home = Path(workspace).expanduser().resolve()
    relative = [address for address in addresses if "://" not in address and not Path(address).is_absolute()]
    return [os.path.relpath(address, home) if address in relative else address for address in addresses]


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the plural where it is one."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    from llm_twin.core.records import to_json

    click.echo(json.dumps(to_json(value), ensure_ascii=False, indent=2))


def json_option(command: Command) -> Command:
    """`--json` for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(command)


def filter_options(command: Command) -> Command:
    """The options that restrict which documents may be found."""
    for option in (
        click.option("--until", metavar="DATE", help="Published on or before this date (YYYY, YYYY-MM or YYYY-MM-DD)."),
        click.option("--since", metavar="DATE", help="Published on or after this date (YYYY, YYYY-MM or YYYY-MM-DD)."),
        click.option("--language", multiple=True, help="Language as a two-letter code; repeatable."),
        click.option("--kind", multiple=True, help="article, post, repository or note; repeatable."),
        click.option("--source", multiple=True, help="Platform, such as files or github; repeatable."),
        click.option("--author", multiple=True, help="Author's name; repeatable."),
    ):
        command = option(command)
    return command
