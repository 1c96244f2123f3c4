"""A clone on this machine: the commit counts, not the working tree."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.clone import CloneSource
from llm_twin.collect.github import GitHubSource
from llm_twin.collect.pipeline import CollectReport, collect
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ConfigError, SourceError
from llm_twin.core.records import Document, Item, document_id

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def git(folder: Path, *arguments: str, day: int = 1) -> None:
    moment = f"2024-05-{day:02}T10:00:00+00:00"
    who = {"GIT_AUTHOR_NAME": "Jane", "GIT_AUTHOR_EMAIL": "jane@example.org", "GIT_AUTHOR_DATE": moment}
    committer = {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, env={**who, **committer, **path})


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository of two commits; the second is of the fifth of May."""
    folder = tmp_path / "notes"
    (folder / "docs").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "README.md").write_text("# Notes\n\nI write them down.\n")
    (folder / "docs/queues.md").write_text("# Queues\n\nThey hide it.\n")
    (folder / "tool.py").write_text("x = 1\n")
    (folder / "link.md").symlink_to("README.md")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "docs/queues.md").write_text("# Queues\n\nThey hide it well.\n")
    git(folder, "commit", "-qam", "second", day=5)
    return folder


def context(root: Path) -> SourceContext:
    def no_network():
        raise AssertionError("a clone needs no network")

    return SourceContext(author="Jane", root=root, fetcher=no_network, now=lambda: NOON)


def opened(root: Path, address: str = "notes", **options) -> CloneSource:
    source = GitHubSource.open(address, context(root), **options)
    assert isinstance(source, CloneSource)
    return source


def run(source: CloneSource, store: MemoryWarehouse) -> CollectReport:
    return collect(source, store=store, redactor=None, now=lambda: NOON)


def documents(store: MemoryWarehouse) -> dict[str, Document]:
    return {document.title: document for document in store.documents()}


def outcomes(report: CollectReport) -> dict[str, str]:
    assert report.problem is None
    return {state.key: state.outcome for state in report.states}


def test_a_clone_gives_what_was_committed_and_when(clone: Path, tmp_path: Path) -> None:
    (clone / "untracked.md").write_text("# Untracked\n")
    (clone / "README.md").write_text("# Half a thought\n")
    store = MemoryWarehouse()
    ended = outcomes(run(opened(tmp_path, code=True), store))
    assert ended == {"README.md": "added", "docs/queues.md": "added", "link.md": "skipped", "tool.py": "added"}
    found = documents(store)
    assert found["Notes"].text == "# Notes\n\nI write them down."
    assert found["Notes"].published_at == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert found["Queues"].published_at == datetime(2024, 5, 5, 10, tzinfo=UTC)
    assert found["Queues"].url is None
    assert found["Queues"].id == document_id("Jane", "github", "notes/docs/queues.md")
    assert found["notes/tool.py"].text == "```python\nx = 1\n```"


def test_a_commit_updates_and_removes_and_nothing_else_is_read(clone: Path, tmp_path: Path) -> None:
    store = MemoryWarehouse()
    run(opened(tmp_path), store)
    git(clone, "rm", "-q", "docs/queues.md")
    (clone / "README.md").write_text("# Notes\n\nI write them down twice.\n")
    git(clone, "commit", "-qam", "third")
    ended = outcomes(run(opened(tmp_path), store))
    assert ended == {"README.md": "updated", "docs/queues.md": "removed", "link.md": "skipped"}
    assert set(outcomes(run(opened(tmp_path), store)).values()) == {"unchanged", "skipped"}


@pytest.mark.parametrize(
    "remote",
    ["https://github.com/jane/notes.git", "git@github.com:jane/notes.git", "https://jane:pw@github.com/jane/notes"],
)
def test_files_of_a_clone_from_github_have_their_addresses_there(clone: Path, tmp_path: Path, remote: str) -> None:
    git(clone, "remote", "add", "origin", remote)
    store = MemoryWarehouse()
    run(opened(tmp_path), store)
    url = "https://github.com/jane/notes/blob/HEAD/docs/queues.md"
    assert documents(store)["Queues"].url == url
    assert documents(store)["Queues"].id == document_id("Jane", "github", url)


def test_a_folder_of_a_clone_and_a_bare_clone_will_do(clone: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(clone), "bare.git")
    within, bare = MemoryWarehouse(), MemoryWarehouse()
    assert outcomes(run(opened(tmp_path, "notes/docs"), within)) == {"docs/queues.md": "added"}
    assert set(outcomes(run(opened(tmp_path, "bare.git"), bare))) == {"README.md", "docs/queues.md", "link.md"}


def test_attributes_in_the_commit_leave_generated_files_out(clone: Path, tmp_path: Path) -> None:
    (clone / ".gitattributes").write_text("docs/** linguist-generated\n")
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "third")
    store = MemoryWarehouse()
    assert outcomes(run(opened(tmp_path), store))["docs/queues.md"] == "skipped"


def test_variables_of_git_lead_to_no_other_repository(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert "README.md" in {listed.key for listed in opened(tmp_path).list()}


def test_what_is_no_clone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "-q")
    for address, reason in {
        "plain": r"is no clone of a git repository .*kind = \"files\"",
        "new": "has no commit yet",
        "nowhere": "is no folder; correct its address",
    }.items():
        with pytest.raises(SourceError, match=reason):
            list(opened(tmp_path, address).list())


@pytest.mark.parametrize("options", [{"releases": True}, {"issues": True}, {"forks": True}, {"login": "jane"}])
def test_what_only_github_has_is_not_asked_of_a_clone(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ConfigError, match="is a clone, which holds files only"):
        opened(tmp_path, **options)


def test_without_git_the_error_says_so(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"there is no git on this machine; install it, or collect"):
        list(opened(tmp_path).list())


def test_a_file_that_the_clone_lacks_fails_alone(clone: Path, tmp_path: Path) -> None:
    source = opened(tmp_path)
    (readme,) = [each for each in source.list() if isinstance(each, Item) and each.key == "README.md"]
    blob = next(file.blob for file in source._git.files() if file.path == "README.md")
    store = MemoryWarehouse()
    (clone / ".git/objects" / blob[:2] / blob[2:]).unlink()
    ended = outcomes(run(source, store))
    assert ended == {readme.key: "failed", "docs/queues.md": "added", "link.md": "skipped"}
