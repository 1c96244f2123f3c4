"""The command line: parse, call one `Twin` method, print. One file per group; a command is one line in the table.

Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 an error of no other kind, 2 settings or
arguments, 3 workspace, 4 workspace busy, 5 source, 6 store, 7 model, 8 missing extra, 9 not found, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

COMMANDS = {
    "init": "llm_twin.cli.workspace:init",
    "sync": "llm_twin.cli.sync:sync",
    "sources": "llm_twin.cli.sync:sources",
    "ask": "llm_twin.cli.ask:ask",
    "search": "llm_twin.cli.ask:search",
    "write": "llm_twin.cli.ask:write",
    "chat": "llm_twin.cli.ask:chat",
    "documents": "llm_twin.cli.workspace:documents",
    "status": "llm_twin.cli.status:status",
    "doctor": "llm_twin.cli.workspace:doctor",
    "config": "llm_twin.cli.workspace:config",
    "forget": "llm_twin.cli.forget:forget",
    "serve": "llm_twin.cli.serve:serve",
    "mcp": "llm_twin.cli.mcp:mcp",
    "feedback": "llm_twin.cli.feedback:feedback",
    "keys": "llm_twin.cli.keys:keys",
    "llm": "llm_twin.cli.llm:llm",
    "runs": "llm_twin.cli.traces:runs",
    "traces": "llm_twin.cli.traces:traces",
}


class _Table(click.Group):
    """Commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.command(cls=_Table, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "--workspace", metavar="DIR", help="Folder with twin.toml (default: here or above).")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")  # read in `main`
@click.version_option(package_name="llm-twin", prog_name="twin")
@click.pass_context
def twin(ctx: click.Context, workspace: str | None) -> None:
    """A twin of an author: it finds, answers and writes in the author's own words, with a citation for every claim.

    \b
    twin init --author "Your Name" ./posts
    twin sync
    twin ask "What do I think of ORMs?"
    """
    ctx.obj = {"workspace": workspace or os.environ.get("TWIN_WORKSPACE")}


def main() -> None:
    """Run `twin`, turning every error of ours into one line on stderr and its exit code."""
    from llm_twin.core.errors import TwinError

    debug = "--debug" in sys.argv or bool(os.environ.get("TWIN_DEBUG"))
    _log_to_stderr(debug)
    try:
        sys.exit(twin(standalone_mode=False))  # commands return nothing, `ctx.exit` its code
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        # click turns Ctrl-C into Abort as well; without that cause somebody answered no.
        pressed = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__cause__, KeyboardInterrupt)
        click.echo("interrupted; a sync goes on from here" if pressed else "stopped; nothing was changed", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (`twin search … | head`): nothing is left to say, to anybody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except TwinError as error:
        if debug:
            raise
        click.echo(f"twin: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}"
        click.echo(f"twin: a mistake of ours, {what}; run it again with --debug and report what it says", err=True)
        sys.exit(1)


def _log_to_stderr(debug: bool) -> None:
    """Our warnings for everybody, our details with --debug; libraries that chat about odd input only then."""
    import logging

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("llm_twin").setLevel(logging.DEBUG if debug else logging.WARNING)
    for library in ("pypdf", "trafilatura", "htmldate", "courlan", "charset_normalizer", "markdown_it"):
        logging.getLogger(library).setLevel(logging.WARNING if debug else logging.CRITICAL)
