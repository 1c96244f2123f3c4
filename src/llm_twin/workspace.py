"""A workspace: a folder with `twin.toml` and, under `.twin/`, all the twin knows. One process writes at a time."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llm_twin.core.errors import WorkspaceBusy, WorkspaceError

LAYOUT = 1
"""Version of what stands where under `.twin/`; raised when an older program could not read it any more."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the parts of one twin live on disk."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """The author's settings."""
        return self.root / "twin.toml"

    @property
    def state(self) -> Path:
        """Everything the twin made itself."""
        return self.root / ".twin"

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """The workspace at `start` exactly, or without it the nearest one at or above the current folder.

        Raises `WorkspaceError` when there is none, or when a newer version made it.
        """
        if start is not None:
            root = start.expanduser().resolve()
            if not (root / "twin.toml").is_file():
                raise WorkspaceError(f"{root} is not a workspace: it has no twin.toml; run: twin -C {root} init")
            return cls(root)._checked()
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / "twin.toml").is_file():
                return cls(folder)._checked()
        raise WorkspaceError(f"no twin.toml in {here} or above it; run `twin init`, or name a workspace with -C")

    @classmethod
    def create(cls, root: Path, *, author: str = "", addresses: Sequence[str] = ()) -> Workspace:
        """Write a commented `twin.toml` and an empty `.twin/`. Raises `WorkspaceError` when there is one already."""
        workspace = cls(root.expanduser().resolve())
        if workspace.settings_file.exists():
            raise WorkspaceError(f"{workspace.settings_file} exists already; edit it, or choose another folder with -C")
        try:
            workspace.root.mkdir(parents=True, exist_ok=True)
            workspace.settings_file.write_text(_template(author, addresses), encoding="utf-8")
        except OSError as error:
            raise WorkspaceError(
                f"cannot write {workspace.settings_file}: {error.strerror}; choose another folder with -C"
            ) from error
        return workspace._checked()

    def free_bytes(self) -> int:
        """Free disk space where the state lives."""
        return shutil.disk_usage(self.root).free

    @contextmanager
    def writing(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the writer's lock. The system frees it when the process ends, however it ends.

        Raises `WorkspaceBusy`, naming the holder, when it is not free within `wait_s` seconds.
        """
        from filelock import FileLock, Timeout

        self._checked()
        lock = FileLock(self.state / "writer.lock", timeout=wait_s)
        holder = self.state / "writer.json"
        try:
            lock.acquire()
        except Timeout:
            raise WorkspaceBusy(
                f"{self.root} is being written by {_describe(holder)}; wait for it, or let this command wait "
                f"with --wait SECONDS"
            ) from None
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder.write_text(json.dumps({"pid": os.getpid(), "since": since, "command": " ".join(sys.argv[:3])}))
            yield
            holder.unlink(missing_ok=True)
        finally:
            lock.release()

    def is_being_written(self) -> bool:
        """Whether a process holds the writer's lock now, this one included."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.state / "writer.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Hold the lock of a piece of work by its name, so that it is done once. Freed when the process ends, however.

        Raises `WorkspaceBusy` at once when another process, or another thread, is at it.
        """
        from filelock import FileLock, Timeout

        self._checked()
        folder = self.state / "locks"
        folder.mkdir(exist_ok=True)
        try:
            with FileLock(folder / f"{work}.lock", timeout=0):
                yield
        except Timeout:
            raise WorkspaceBusy(f"somebody is at work on {work} already; wait for it, or end that process") from None

    def _checked(self) -> Workspace:
        """This workspace with its state folder there and of a layout this version knows."""
        marker = self.state / "layout"
        try:
            self.state.mkdir(exist_ok=True)
            if not marker.exists():
                (self.state / ".gitignore").write_text("*\n")
                # Renamed into place: a marker that a killed process left empty would lock everybody out.
                draft = self.state / f"layout.{os.getpid()}"
                draft.write_text(f"{LAYOUT}\n")
                draft.replace(marker)
            found = marker.read_text().strip()
        except OSError as error:
            raise WorkspaceError(f"cannot write to {self.state}: {error.strerror}; check its permissions") from error
        if not found.isdigit() or int(found) > LAYOUT:
            raise WorkspaceError(
                f"{self.state} has layout {found!r}, this version knows up to {LAYOUT}; upgrade with "
                f"`pip install -U llm-twin`, or move {self.state} away and run `twin sync`"
            )
        return self


def _describe(holder: Path) -> str:
    try:
        about = json.loads(holder.read_text())
        return f"process {about['pid']} ({about['command']}) since {about['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _toml_string(text: str) -> str:
    """A JSON string is a TOML string while characters stand for themselves: TOML has no surrogate pairs."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _template(author: str, addresses: Sequence[str]) -> str:
    """The text of a new twin.toml."""
    sources = [f"[[sources]]\naddress = {_toml_string(address)}\n" for address in addresses] or [
        '# [[sources]]\n# address = "posts"          # a folder, file or glob; relative to this file\n'
        '# [[sources]]\n# address = "https://you.example/blog/"   # `twin sources` shows what else can stand here\n'
    ]
    name = f"name = {_toml_string(author)}" if author else '# name = "…"                # whose twin this is'
    return f"""\
# Settings of this twin. `twin config show` lists every setting, its value and what it means.
# An environment variable overrides a line here: [llm] model is TWIN_LLM_MODEL.

[author]
{name}
# aliases = []              # other spellings of the name

# Where the author publishes: one [[sources]] table each. `twin sync` collects and indexes them all.
{chr(10).join(sources)}
# Without a model the twin answers by quoting the author, and nothing leaves this machine.
# Any OpenAI-compatible server will do: Ollama, llama-server, vLLM, OpenAI.
[llm]
# base_url = "http://localhost:11434/v1"
# model = "…"
# api_key_env = "OPENAI_API_KEY"   # the variable that holds the key, never the key itself
"""
