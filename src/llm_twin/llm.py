"""The language-model service: which models are here, which engine serves one, and how it is started and ended.

It stands beside `twin.py` and needs no workspace: models belong to a person, not to one twin. The command `twin llm`
and `twin serve --with-llm` call it:

    with llm.serve("OWNER/NAME", port=0, progress=…) as service:
        Twin.open(arguments=service.settings)
"""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llm_twin import catalog
from llm_twin.core.child import Child, free_port
from llm_twin.core.errors import ConfigError, ModelMissing, NotFound, StoreError
from llm_twin.core.records import ModelFiles, ModelFormat

if TYPE_CHECKING:
    from llm_twin.core import ports
    from llm_twin.core.ports import ReplyWriter as ReplyWriter  # for the server, which may not look into core

HOST = "127.0.0.1"
PORT = 8080
"""Where `twin doctor` looks for a local server."""
START_TIMEOUT_S = 600.0
"""Seconds until an engine must answer; a large model is read from a slow disk, and vLLM compiles."""
_HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<file>[^:]+\.gguf))?")
_FIRST_PART = re.compile(r"-00001-of-\d{5}\.gguf$")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


# --- models ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A downloaded model. `format` and `path` are empty while it is not `complete`; pull it again, and it goes on."""

    name: str
    revision: str
    bytes: int
    complete: bool
    format: ModelFormat | None
    path: str


def models() -> list[StoredModel]:
    """Every model in the user's data folder, by name."""
    return sorted(_stored(), key=lambda each: each.name)


def pull(model: str, *, file: str = "", progress: ports.Progress) -> ModelFiles:
    """Download a model from the hub, `OWNER/NAME` or `OWNER/NAME:FILE.gguf`, or bring it up to date.

    What broke off goes on where it stopped, checksums are compared. Raises `ConfigError` for a name that is none,
    `ModelMissing` and `ModelError` as the hub has it.
    """
    named = _HUB_NAME.fullmatch(f"{model}:{file}" if file else model)
    if not named:
        raise ConfigError(f"{model!r} is no model of the hub; write OWNER/NAME, or OWNER/NAME:FILE.gguf for one file")
    name, hub = named[0], cast("ports.ModelHub", catalog.part("model_hub", "huggingface")())
    revision = hub.latest(named["repository"])
    files = _folder(name) / "files"
    if not any(each.complete and (each.name, each.revision) == (name, revision) for each in _stored()):
        _note(name, revision, complete=False)
        hub.pull(named["repository"], revision, files, file=named["file"] or "", progress=progress)
        _note(name, revision, complete=True)
    return describe(files, name=name)


def remove(name: str) -> StoredModel:
    """Delete a downloaded model. Raises `NotFound` when there is none of that name."""
    for stored in _stored():
        if stored.name == name:
            shutil.rmtree(_folder(name))
            return stored
    raise NotFound(f"no model named {name!r} was downloaded; {_here()}")


def find(model: str = "", *, file: str = "", progress: ports.Progress) -> ModelFiles:
    """The files of a model: a folder or GGUF file on disk, one that was downloaded, else one to download now.

    Without a name, the only one that was downloaded. Raises `ModelMissing`, `ConfigError`, and what `pull` raises.
    """
    complete = [stored for stored in models() if stored.complete]
    if not model:
        if len(complete) != 1:
            raise ModelMissing(f"no model is named and {len(complete)} are here; {_here()}")
        model = complete[0].name
    name = f"{model}:{file}" if file else model
    if any(stored.name == name for stored in complete):
        return describe(_folder(name) / "files", name=name)
    path = Path(model).expanduser()
    if path.exists():
        return describe(path / file if file else path)
    if _HUB_NAME.fullmatch(name):
        return pull(name, progress=progress)
    raise ModelMissing(f"there is no model {name!r}: no such file or folder; {_here()}")


def describe(path: Path, *, name: str = "") -> ModelFiles:
    """What a GGUF file or a folder holds, under its own name or another. Raises `ConfigError` when it is no model."""
    path = path.resolve()
    if path.is_file():
        with path.open("rb") as content:
            if content.read(4) != b"GGUF":
                raise ConfigError(f"{path} is no GGUF file; name one, or the folder of a model")
        return ModelFiles(name or path.stem, str(path), "gguf", _bytes(path))
    files = sorted(each for each in path.rglob("*.gguf") if not _LATER_PART.search(each.name))
    if (path / "openvino_model.xml").is_file():
        return ModelFiles(name or path.name, str(path), "openvino", _bytes(path))
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return ModelFiles(name or path.name, str(path), "huggingface", _bytes(path))
    if len(files) == 1:
        return describe(files[0], name=name)
    if files:
        raise ConfigError(f"{path} holds {len(files)} GGUF files; name one of them, such as {files[0]}")
    raise ConfigError(
        f"{path} holds no model: neither config.json with safetensors, nor openvino_model.xml, nor a GGUF file; name "
        "the folder that does"
    )


def _stored() -> Iterator[StoredModel]:
    for noted in _home().glob("*/model.json"):
        note, files = json.loads(noted.read_text(encoding="utf-8")), noted.parent / "files"
        found = None
        with suppress(ConfigError):  # somebody deleted files by hand
            found = describe(files, name=note["name"]) if note["complete"] else None
        yield StoredModel(
            note["name"],
            note["revision"],
            _bytes(files),
            found is not None,
            found.format if found else None,
            found.path if found else "",
        )


def _note(name: str, revision: str, *, complete: bool) -> None:
    """Keep what is known of a download; a program killed while it writes leaves the note before."""
    folder = _folder(name)
    note = {"name": name, "revision": revision, "complete": complete}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json.new").write_text(json.dumps(note), encoding="utf-8")
        (folder / "model.json.new").replace(folder / "model.json")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; check its permissions and the disk") from error


def _folder(name: str) -> Path:
    return _home() / re.sub(r"[/:]", "--", name)


def _home() -> Path:
    """Where downloaded models are kept, for all workspaces of this user."""
    import platformdirs

    return platformdirs.user_data_path("llm-twin", appauthor=False) / "models"


def _bytes(path: Path) -> int:
    if path.is_file():
        parts = path.parent.glob(_FIRST_PART.sub("-*.gguf", path.name)) if _FIRST_PART.search(path.name) else [path]
        return sum(part.stat().st_size for part in parts)
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _here() -> str:
    names = [stored.name for stored in models() if stored.complete]
    if not names:
        return "name a folder, a GGUF file, or download one: twin llm pull OWNER/NAME"
    return f"there is {', '.join(names)}; `twin llm pull OWNER/NAME` downloads another"


# --- engines --------------------------------------------------------------------------------------------------------


def choose(files: ModelFiles, *, engine: str = "", options: Sequence[str] = ()) -> ports.LlmEngine:
    """The engine that serves these files: the one named, else the best that is here and takes their format.

    vLLM comes first where there is a GPU, and last where there is none. Raises `ConfigError` when the engine does not
    take the format, `ModelMissing` when none that does is installed, with what to install.
    """
    if options and not engine:
        raise ConfigError(f"the options {' '.join(options)} belong to one engine; name it with --engine")
    known = _engines(engine, options)
    fitting = [each for each in known if files.format in each.formats]
    if not fitting:
        taken = " or ".join(f"{each.name} ({', '.join(each.formats)})" for each in known)
        raise ConfigError(f"{files.path} is of the format {files.format}; take another engine, or files for {taken}")
    for each in fitting:
        if not each.missing():
            return each
    ways = "; or ".join(each.missing() for each in fitting)
    names = " or ".join(each.name for each in fitting)
    raise ModelMissing(f"{files.path} ({files.format}) needs {names}, which is not here; {ways}")


def _engines(engine: str = "", options: Sequence[str] = ()) -> list[ports.LlmEngine]:
    """The engine of that name, or all of them, best first."""
    names = [engine] if engine else catalog.ordered("llm_engine")
    if not engine and not _has_gpu():
        names = sorted(names, key=lambda name: name == "vllm")
    return [cast("ports.LlmEngine", catalog.part("llm_engine", name)(options)) for name in names]


def _has_gpu() -> bool:
    """Whether the kernel shows a GPU of NVIDIA's or AMD's to this process."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


# --- the service ----------------------------------------------------------------------------------------------------


class Service:
    """A language model being served. Close it, or use `with`."""

    def __init__(self, child: Child, *, base_url: str, model: str, engine: str) -> None:
        self.base_url = base_url
        self.model = model
        self.engine = engine
        self._child = child

    @property
    def settings(self) -> dict[str, str]:
        """The settings that connect a workspace, by dotted key, as `Twin.open(arguments=…)` takes them."""
        return {"llm.base_url": self.base_url, "llm.model": self.model}

    def wait(self) -> None:
        """Return never; raises `ModelError` when the engine ends by itself."""
        self._child.wait()

    def running(self) -> bool:
        """Whether the engine has not ended."""
        return self._child.running()

    def close(self) -> None:
        """End the engine, and whatever it started."""
        self._child.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    model: str = "",
    *,
    progress: ports.Progress,
    engine: str = "",
    host: str = HOST,
    port: int = 0,
    file: str = "",
    name: str = "",
    api_key: str = "",
    options: Sequence[str] = (),
    timeout_s: float = START_TIMEOUT_S,
    log: Callable[[str], None] | None = None,
) -> Service:
    """Start the engine that serves a model, and return once it answers.

    `model` is what `find` takes, `port` 0 any free one, `name` what clients call the model, `options` go to the engine
    as they are, `log` gets every line that it prints (by default stderr does). Whatever else than this machine may
    reach it must send `api_key`. Raises `ConfigError`, `ModelMissing`, `ModelError`.
    """
    if not (api_key or _is_loopback(host)):
        raise ConfigError(
            f"{host} can be reached from outside, and there is no API key; put one into an environment variable and "
            f"name that with --api-key-env, or serve on {HOST}"
        )
    if all(each.missing() for each in _engines(engine, options)):  # before anything is downloaded
        ways = "; or ".join(each.missing() for each in _engines(engine, options))
        raise ModelMissing(f"there is no engine to serve a language model here; {ways}")
    files = find(model, file=file, progress=progress)
    files = replace(files, name=name or files.name)
    chosen = choose(files, engine=engine, options=options)
    port = free_port(host, port)
    command, environment = chosen.command(files, host=host, port=port, api_key=api_key)
    reached = f"http://{_url_host(host)}:{port}"
    child = Child(command, environment=environment, log=log or _to_stderr)
    try:
        child.wait_until_ready(reached + chosen.health, timeout_s=timeout_s)
    except BaseException:
        child.close()
        raise
    return Service(child, base_url=f"{reached}/v1", model=files.name, engine=chosen.name)


def writer(path: str, *, name: str, parallel: int | None = None) -> ports.ReplyWriter:
    """The model that our own server serves (`python -m llm_twin.server.llm`). Raises `ModelError`, `MissingExtra`."""
    options = {} if parallel is None else {"parallel": parallel}
    return cast("ports.ReplyWriter", catalog.part("reply_writer", "openvino")(path, name=name, **options))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_host(host: str) -> str:
    """How this machine reaches a server that listens on `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else HOST)
    return f"[{address}]" if address.version == 6 else str(address)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
