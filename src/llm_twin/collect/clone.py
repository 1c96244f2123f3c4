"""A clone on this machine: what the commit checked out holds, read through git and never from the working tree.

Only what is committed is collected: ignored, untracked and half-edited files do not count, links lead nowhere, and a
bare clone will do. Nothing is fetched and no filter or hook of the repository runs.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from llm_twin.collect.reading import parse_date
from llm_twin.collect.repository import Choice, File, Origin, RepositoryFiles
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError, SourceError
from llm_twin.core.records import Document, Item, ItemState

TIMEOUT_S = 300.0
"""Seconds one command of git may take."""

_GITHUB_REMOTE = re.compile(r"(?:https?://(?:[^@/]+@)?|ssh://git@|git@)github\.com[:/]([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


class CloneSource:
    """The documents of a local clone, or of a folder within it.

    Files of a clone whose `origin` is on GitHub are the same documents as those collected from there.
    """

    def __init__(self, address: str, context: SourceContext, *, choice: Choice, platform: str = "github") -> None:
        self.name = address
        self._git = Git(context.root / Path(address).expanduser(), name=address)
        self._files = RepositoryFiles(choice, source=address, author=context.author, platform=platform, now=context.now)

    def list(self) -> Iterator[Item | ItemState]:
        """The chosen files of the commit checked out; see `Source.list`.

        Raises `SourceError` when the folder is no clone, holds no commit, or git is not there.
        """
        self._files.clear()
        files = self._git.files()
        yield from self._files.items(self._origin(), files)

    def fetch(self, item: Item) -> Document:
        """The document of a file; see `Source.fetch`."""
        if item.key not in self._files:
            raise ItemError("is not in the commit any more; collect again")
        return self._files.document(item.key)

    def _origin(self) -> Origin:
        remote = self._git.on_github()
        name = remote[1] if remote else self._git.name_of_folder()
        dates: dict[str, datetime] = {}

        def changed_at(file: File) -> datetime | None:
            if not dates:
                dates.update(self._git.dates())
            return dates.get(file.path)

        return Origin(
            name=name,
            locator=name,
            url=f"https://github.com/{remote[0]}/{remote[1]}/blob/HEAD/" if remote else None,
            tags=(),
            read=self._git.content,
            changed_at=changed_at,
        )


class Git:
    """Questions to git about one folder. Every method raises `SourceError` when git cannot answer."""

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder, self._name = folder, name

    def files(self) -> list[File]:
        """Every file of the commit checked out, with its path from the top of the repository."""
        listed = self._run("ls-tree", "-r", "-l", "-z", "--full-name", "HEAD")
        found = []
        for line in listed.decode("utf-8", "backslashreplace").split("\0")[:-1]:
            about, _, path = line.partition("\t")
            mode, kind, blob, size = about.split()
            if kind == "blob":  # and no submodule
                # A partial clone does not know the size of what it lacks; reading that will say so.
                found.append(File(path, blob, int(size) if size.isdecimal() else 1, is_link=mode == "120000"))
        return found

    def content(self, file: File) -> bytes:
        """A file as it was committed. Raises `ItemError` when this clone does not hold it (a partial one)."""
        try:
            return self._run("cat-file", "blob", file.blob)
        except SourceError as error:
            raise ItemError(str(error)) from error

    def dates(self) -> dict[str, datetime]:
        """When each file was last changed, by the author's clock."""
        told = self._run(
            "-c", "log.showSignature=false", "log", "-z", "--format=%x01%aI", "--name-only", "--no-renames"
        )
        dates: dict[str, datetime] = {}
        moment: datetime | None = None
        for field in told.decode("utf-8", "backslashreplace").split("\0"):
            text = field.strip("\n")
            if text.startswith("\x01"):
                moment = parse_date(text[1:])
            elif text and moment:
                dates.setdefault(text, moment)
        return dates

    def on_github(self) -> tuple[str, str] | None:
        """Owner and name of the repository on GitHub that this is a clone of."""
        try:
            address = self._run("config", "--get", "remote.origin.url").decode("utf-8", "replace").strip()
        except SourceError:  # there is no such remote
            return None
        found = _GITHUB_REMOTE.fullmatch(address)
        return (found[1], found[2]) if found else None

    def name_of_folder(self) -> str:
        """The name of the folder of the repository, whatever folder within it was named."""
        path = Path(self._run("rev-parse", "--absolute-git-dir").decode("utf-8", "replace").strip())
        return (path.parent if path.name == ".git" else path).name.removesuffix(".git")

    def _run(self, *arguments: str) -> bytes:
        # Variables such as GIT_DIR, which git sets for its own hooks, would lead to another repository.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        # No protocol is allowed, so that a partial clone does not fetch what it lacks.
        never = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "LC_ALL": "C"}
        if not self._folder.is_dir():
            raise SourceError(
                f"cannot read the source {self._name!r}: {self._folder} is no folder; correct its address"
            )
        try:
            done = subprocess.run(  # noqa: S603 - arguments are ours, and no shell reads them
                ["git", "-C", str(self._folder), *arguments],  # noqa: S607 - the git that the person uses
                capture_output=True,
                check=True,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
                env={**environment, **never},
            )
        except FileNotFoundError as error:
            raise SourceError(
                f"cannot read the clone {self._name!r}: there is no git on this machine; install it, or collect the "
                'folder with kind = "files"'
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SourceError(
                f"git took longer than {TIMEOUT_S:g} s over {self._name!r} ({arguments[0]}); run `git gc` there"
            ) from error
        except subprocess.CalledProcessError as error:
            raise self._failed(error.stderr.decode("utf-8", "replace").strip()) from error
        return done.stdout

    def _failed(self, said: str) -> SourceError:
        if "not a git repository" in said:
            return SourceError(
                f"{self._name!r} is no clone of a git repository ({self._folder}); correct its address, or collect the "
                'folder with kind = "files"'
            )
        if "HEAD" in said and ("valid object name" in said or "ambiguous" in said):
            return SourceError(f"{self._name!r} has no commit yet ({self._folder}); commit what is to be collected")
        return SourceError(f"git cannot read {self._name!r}: {said[:300]}; correct that there")
