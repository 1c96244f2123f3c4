"""`twin serve`: the twin as a service with a web page."""

from __future__ import annotations

import click

from llm_twin.cli.opening import opened


@click.command()
@click.option("--host", help="Address to listen on (default: setting server.host, this machine only).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port (default: setting server.port); 0 takes a free one.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Serve the twin: web page, REST, OpenAI-compatible API and MCP, on this machine until interrupted.

    Example: twin serve --port 8765
    """
    from llm_twin.server import run

    twin = opened(ctx, **{"server.host": host, "server.port": port})
    chosen = twin.settings.server
    run.serve(twin, chosen.host, chosen.port)
