"""`twin serve`: the twin as a service with a web page."""

from __future__ import annotations

import webbrowser
from contextlib import ExitStack

import click

from llm_twin.cli.opening import opened
from llm_twin.cli.progress import on_stderr


@click.command()
@click.option("--host", help="Address to listen on (default: setting server.host, this machine only).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port (default: setting server.port); 0 takes a free one.")
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
@click.option("--with-llm", "model", metavar="MODEL", help="Language model to serve beside it; see twin llm.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None, browse: bool, model: str | None) -> None:
    """Serve the twin: web page, REST, OpenAI-compatible API and MCP, on this machine until interrupted.

    Example: twin serve --open
    """
    from llm_twin.server import run

    with ExitStack() as stack:
        connected = {}
        if model:
            from llm_twin import llm

            connected = stack.enter_context(llm.serve(model, progress=on_stderr())).settings
        twin = opened(ctx, **{"server.host": host, "server.port": port}, **connected)
        listening = stack.enter_context(run.listen(twin))
        address = run.address_of(listening)
        click.echo(address)
        click.echo(f"the twin of {twin.settings.author.name or 'the author'} is served; Ctrl-C stops it", err=True)
        if browse:
            webbrowser.open(address)
        run.serve(twin, listening, tell=lambda line: click.echo(line, err=True))
