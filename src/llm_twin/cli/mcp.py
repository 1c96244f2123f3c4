"""`twin mcp`: the twin as tools of an agent."""

from __future__ import annotations

import click

from llm_twin.cli.opening import opened


@click.command()
@click.pass_context
def mcp(ctx: click.Context) -> None:
    """Serve the twin to an agent by the Model Context Protocol, on stdin and stdout.

    An agent's program starts this command itself (docs/integrations.md); `twin serve` has the same at /mcp. Logs go to
    stderr.

    Example: twin -C ~/my-twin mcp
    """
    from llm_twin.server import mcp as door

    door.run(opened(ctx))
