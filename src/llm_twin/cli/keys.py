"""`twin keys`: who may use the service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from llm_twin.cli.opening import json_option, opened, print_json

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def _lifetime(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:  # noqa: ARG001
    """A time such as 12h, 90d or 8w."""
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS) or len(number) > 5:
        raise click.BadParameter(f"{value!r} is no time; write hours, days or weeks as in 12h, 90d or 8w")
    return int(number) * _UNITS[unit]


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of the service.

    Example: twin keys add laptop --scope ask --expires 90d
    """


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope", type=click.Choice(["read", "ask", "admin"]), default="ask", show_default=True, help="What it allows."
)
@click.option(
    "--expires", callback=_lifetime, metavar="TIME", help="How long it works: 12h, 90d, 8w (default: for ever)."
)
@json_option
@click.pass_context
def add(ctx: click.Context, name: str, scope: str, expires: timedelta | None, as_json: bool) -> None:
    """Make a key and print it, this once: only its hash is stored.

    Example: twin keys add laptop --scope ask --expires 90d
    """
    key, secret = opened(ctx).keys.add(name, scope=scope, now=datetime.now(UTC), lasts=expires)
    if as_json:
        print_json({"key": secret, "id": key.id, "name": key.name, "scope": key.scope, "expires_at": key.expires_at})
        return
    until = f", until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else ""
    click.echo(secret)
    click.echo(f"key {key.id} for {key.name}, scope {key.scope}{until}; it is not shown again", err=True)


@keys.command("list")
@json_option
@click.pass_context
def list_keys(ctx: click.Context, as_json: bool) -> None:
    """List the keys: id, name, scope, until when.

    Example: twin keys list
    """
    found = opened(ctx).keys.all()
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no keys: the service listens on this machine only; make one with: twin keys add NAME", err=True)
    now = datetime.now(UTC)
    for key in found:
        until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "for ever"
        over = ", expired" if key.expired(now) else ""
        click.echo(f"{key.id}  {key.scope:<5}  {key.name}  {until}{over}")


@keys.command("revoke")
@click.argument("key")
@json_option
@click.pass_context
def revoke(ctx: click.Context, key: str, as_json: bool) -> None:
    """Revoke a key by its id, or all keys of a name.

    Example: twin keys revoke laptop
    """
    found = opened(ctx).keys
    revoked = found.revoke(key)
    if as_json:
        print_json(revoked)
        return
    for each in revoked:
        click.echo(f"revoked {each.id}, {each.name}")
    if not found.all():
        click.echo(
            "no key is left: a service without keys answers its own machine only, and that without a key", err=True
        )
