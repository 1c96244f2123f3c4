"""`twin serve`: the twin as a service with a web page."""

from __future__ import annotations

import webbrowser

import click

from llm_twin.cli.opening import opened


@click.command()
@click.option("--host", help="Address to listen on (default: setting server.host, this machine only).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port (default: setting server.port); 0 takes a free one.")
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None, browse: bool) -> None:
    """Serve the twin: web page, REST, OpenAI-compatible API and MCP, on this machine until interrupted.

    Example: twin serve --open
    """
    from llm_twin.server import run

    twin = opened(ctx, **{"server.host": host, "server.port": port})
    with run.listen(twin) as listening:
        address = run.address_of(listening)
        click.echo(address)
        click.echo(f"the twin of {twin.settings.author.name or 'the author'} is served; Ctrl-C stops it", err=True)
        if browse:
            webbrowser.open(address)
        run.serve(twin, listening)
