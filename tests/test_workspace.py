from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_twin import settings
from llm_twin.core.errors import WorkspaceBusy, WorkspaceError
from llm_twin.workspace import Workspace


def test_a_new_workspace_reads_back_what_it_was_given(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path, author='Jo "Quote" Doe', addresses=["posts", "notes/*.md"])
    loaded = settings.load(workspace.settings_file, environment={}).values
    assert loaded.author.name == 'Jo "Quote" Doe'
    assert [source.address for source in loaded.sources] == ["posts", "notes/*.md"]


def test_a_name_in_any_script_is_written_as_it_is_read(tmp_path: Path) -> None:
    name = "Zoë Şahin 李 🌊 \\ \x7f"
    workspace = Workspace.create(tmp_path, author=name)
    assert settings.load(workspace.settings_file, environment={}).values.author.name == name
    assert "Zoë Şahin 李 🌊" in workspace.settings_file.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match=r"cannot write .*twin\.toml: .*; choose another folder with -C"):
        Workspace.create(tmp_path / "file" / "twin")


def test_an_existing_twin_toml_is_never_overwritten(tmp_path: Path) -> None:
    Workspace.create(tmp_path)
    with pytest.raises(WorkspaceError, match="exists already"):
        Workspace.create(tmp_path)


def test_the_nearest_workspace_above_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace.create(tmp_path)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Workspace.find().root == tmp_path


def test_without_a_workspace_the_error_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceError, match="run `twin init`"):
        Workspace.find()
    with pytest.raises(WorkspaceError, match=r"twin -C .* init"):
        Workspace.find(tmp_path)


def test_a_workspace_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    (workspace.state / "layout").write_text("99\n")
    with pytest.raises(WorkspaceError, match="layout '99'"):
        Workspace.find(tmp_path)
    assert (workspace.state / "layout").read_text() == "99\n"


def test_a_second_writer_is_told_who_holds_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    with _other_writer(tmp_path) as other:
        with pytest.raises(WorkspaceBusy, match=rf"process {other.pid} .* since \d{{4}}-"), workspace.writing():
            pass
        started = time.monotonic()
        other.stdin.close()
        with workspace.writing(wait_s=30):
            assert time.monotonic() - started < 30


def test_a_killed_writer_leaves_the_workspace_free(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    with _other_writer(tmp_path) as other:
        other.kill()
        other.wait()
    with workspace.writing():
        pass


class _other_writer:  # noqa: N801
    """Another process that holds the workspace until its standard input ends."""

    PROGRAM = """
import sys
from pathlib import Path
from llm_twin.workspace import Workspace
with Workspace.find(Path(sys.argv[1])).writing():
    print("held", flush=True)
    sys.stdin.read()
"""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
