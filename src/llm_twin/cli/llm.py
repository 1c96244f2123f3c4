"""`twin llm`: language models on this machine, downloaded and served. Needs no workspace."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from llm_twin.cli.opening import json_option, print_json
from llm_twin.cli.progress import on_stderr


@click.group()
def llm() -> None:
    """Download language models to this machine, and serve one to the twin.

    Example: twin llm serve OWNER/NAME:model-q8_0.gguf
    """


@llm.command()
@click.argument("model", default="")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--engine", default="", help="vllm, llama.cpp or openvino (default: the best that is here).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--file", default="", metavar="FILE.gguf", help="Which file of a model of the hub.")
@click.option("--name", default="", help="What clients call the model (default: its own name).")
@click.option("--api-key-env", metavar="VARIABLE", help="Environment variable with a key that clients must send.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds until the engine must answer.")
@json_option
@click.pass_context
def serve(
    ctx: click.Context,
    model: str,
    options: tuple[str, ...],
    engine: str,
    host: str,
    port: int,
    file: str,
    name: str,
    api_key_env: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Serve MODEL by OpenAI's protocol until interrupted: a folder, a GGUF file, or a model of the hub.

    OPTIONS after -- go to the engine as they are. The engine's log goes to stderr.

    Example: twin llm serve OWNER/NAME:model-q8_0.gguf --engine llama.cpp -- --ctx-size 8192
    """
    from llm_twin import llm as service

    if model.startswith("-"):
        raise click.UsageError(f"{model} stands where the model does; name the model, then -- and the options")
    with _stopped_by_signals() as stopped:
        serving = service.serve(
            model,
            progress=on_stderr(),
            engine=engine,
            host=host,
            port=port,
            file=file,
            name=name,
            api_key=_key(api_key_env),
            options=options,
            timeout_s=timeout,
            log=lambda line: click.echo(line, err=True),
        )
        with serving:
            settings = {"TWIN_LLM_BASE_URL": serving.base_url, "TWIN_LLM_MODEL": serving.model}
            if api_key_env:
                settings["TWIN_LLM_API_KEY_ENV"] = api_key_env
            _tell(serving, settings, as_json)
            serving.wait()
    if stopped:
        click.echo("stopped", err=True)
        ctx.exit(0)


def _tell(serving: Any, settings: dict[str, str], as_json: bool) -> None:
    """Where it is and the lines that connect a workspace; a program that started us reads them before the end."""
    if as_json:
        print_json({"base_url": serving.base_url, "model": serving.model, "engine": serving.engine})
        return
    click.echo(f"{serving.model} at {serving.base_url} ({serving.engine})")
    for name, value in settings.items():
        click.echo(f"export {name}={value}")


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "")
    if not key:
        raise click.UsageError(f"the environment variable {variable} holds no API key; set it, or leave it out")
    return key


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """Leave the block at Ctrl-C or SIGTERM as at its end, and say which signal it was."""
    seen: list[int] = []

    def stop(number: int, _: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@llm.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models that were downloaded, for all workspaces.

    Example: twin llm list
    """
    from llm_twin import llm as service

    found = service.models()
    if as_json:
        print_json(found)
        return
    for each in found:
        state = each.format if each.complete else "incomplete; pull it again"
        click.echo(f"{each.name}  {each.bytes / 1e9:.2f} GB  {state}")
    if not found:
        click.echo("no model was downloaded; run: twin llm pull OWNER/NAME", err=True)


@llm.command()
@click.argument("model")
@click.option("--file", default="", metavar="FILE.gguf", help="Which GGUF file, where there are several.")
@json_option
def pull(model: str, file: str, as_json: bool) -> None:
    """Download MODEL from the hub, OWNER/NAME or OWNER/NAME:FILE.gguf; what broke off goes on where it stopped.

    Example: twin llm pull OWNER/NAME --file model-q8_0.gguf
    """
    from llm_twin import llm as service

    files = service.pull(model, file=file, progress=on_stderr())
    if as_json:
        print_json(files)
        return
    click.echo(f"{files.name}  {files.bytes / 1e9:.2f} GB  {files.format}")
    click.echo(f"next: twin llm serve {files.name}", err=True)


@llm.command("rm")
@click.argument("model")
@json_option
def remove(model: str, as_json: bool) -> None:
    """Delete a downloaded MODEL, by the name that `twin llm list` shows.

    Example: twin llm rm OWNER/NAME
    """
    from llm_twin import llm as service

    gone = service.remove(model)
    if as_json:
        print_json(gone)
        return
    click.echo(f"deleted {gone.name}, {gone.bytes / 1e9:.2f} GB")
