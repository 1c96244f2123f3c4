"""`twin init`, `twin documents`, `twin doctor`, `twin config`: the workspace itself."""

from __future__ import annotations

import click

from llm_twin.cli.opening import json_option, opened, print_json, seen_from


@click.command()
@click.argument("sources", nargs=-1)
@click.option("--author", default="", help="Whose twin this is.")
@click.pass_context
def init(ctx: click.Context, sources: tuple[str, ...], author: str) -> None:
    """Make a workspace: write a commented twin.toml with the SOURCES given.

    Example: twin init --author "Your Name" ./posts ./notes/*.md
    """
    from llm_twin.twin import Twin

    folder = ctx.obj["workspace"] or "."
    twin = Twin.init(folder, author=author, addresses=seen_from(folder, sources))
    click.echo(f"wrote {twin.workspace.settings_file}")
    click.echo("next: twin sync" if sources else "next: name your sources in it, then run: twin sync", err=True)


@click.command()
@click.option("--source", help="Only those of a platform, such as files or github.")
@click.option("--kind", help="Only an article, post, repository or note.")
@click.option("--year", type=int, help="Only those published in a year.")
@json_option
@click.pass_context
def documents(ctx: click.Context, source: str | None, kind: str | None, year: int | None, as_json: bool) -> None:
    """List what was collected: id, date, platform, title and address, newest first.

    Example: twin documents --source medium
    """
    headers = opened(ctx).documents(source=source, kind=kind, year=year)
    if as_json:
        print_json(headers)
        return
    width = max((len(header.source) for header in headers), default=0)
    for header in headers:
        date = f"{header.published_at:%Y-%m-%d}" if header.published_at else "undated   "
        address = f"  {header.url}" if header.url else ""
        click.echo(f"{header.id}  {date}  {header.source:<{width}}  {header.title}{address}")
    if not headers:
        click.echo("there is no such document; `twin status` shows what was collected", err=True)


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check what the twin depends on; each line that is not ok ends in the command that mends it.

    Example: twin doctor
    """
    checks = []
    for check in opened(ctx).doctor():
        checks.append(check)
        if not as_json:
            click.echo(f"{'ok     ' if check.ok else 'missing'} {check.name}: {check.detail}")
            if check.remedy:
                click.echo(f"        → {check.remedy}")
    if as_json:
        print_json(checks)
    ctx.exit(0 if all(check.ok for check in checks) else 1)


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command("show")
@json_option
@click.pass_context
def show(ctx: click.Context, as_json: bool) -> None:
    """Print every setting: its value, where it came from, what it means.

    Example: twin config show
    """
    settings = list(opened(ctx).loaded.explain())
    if as_json:
        print_json(settings)
        return
    for setting in settings:
        value = list(setting.value) if isinstance(setting.value, tuple) else setting.value
        click.echo(f"{setting.key} = {value!r}  ({setting.origin})")
        click.echo(f"    {setting.meaning}")
