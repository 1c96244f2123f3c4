"""GitHub accounts and repositories through the API, from the first run to a push, and what it refuses."""

from __future__ import annotations

import json
import logging
import ssl
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collect.github_server import Dialler, GitHub, Link, blob, serve
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect import github, github_api
from llm_twin.collect.fetch import Fetcher, FetchPolicy
from llm_twin.collect.github import Archive, Extras, GitHubSource, Repository
from llm_twin.collect.github_api import GitHubApi, token_for
from llm_twin.collect.pipeline import CollectReport, collect
from llm_twin.collect.repository import Choice
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ConfigError, ItemError, SourceError
from llm_twin.core.records import Document, ItemState

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
TOKEN = "ghp_0123456789abcdefSECRET"
QUICK = FetchPolicy(requests_per_second=1000, timeout_s=10)
NOTES = "# Notes\n\nI write these down so that I may forget them.\n"
QUEUES = "# Queues\n\nA queue hides the moment at which you began to be too slow.\n"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_TOKEN", "GH_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def running() -> Iterator[GitHub]:
    with serve(GitHub()) as hub:
        yield hub


@pytest.fixture
def hub(running: GitHub) -> GitHub:
    """The server, with nothing in it."""
    fresh = GitHub(port=running.port, trust=running.trust)
    vars(running).update(vars(fresh))
    return running


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.time = NOON
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def context(hub: GitHub, tmp_path: Path) -> Iterator[SourceContext]:
    assert isinstance(hub.trust, ssl.SSLContext)
    passed = [0.0]  # time passes only while the fetcher sleeps
    with Fetcher(
        cache_dir=tmp_path / "cache",
        policy=QUICK,
        resolve=lambda host, port: ["140.82.121.6"],
        sockets=Dialler(hub.port),
        ssl_context=hub.trust,
        clock=lambda: passed[-1],
        sleep=lambda seconds: passed.append(passed[-1] + seconds),
        now=lambda: NOON,
    ) as fetcher:
        yield SourceContext(author="Jane", root=tmp_path, fetcher=lambda: fetcher, now=lambda: NOON)


def run(source, store: MemoryWarehouse) -> CollectReport:
    return collect(source, store=store, redactor=None, now=lambda: NOON)


def outcomes(report: CollectReport) -> dict[str, str]:
    assert report.problem is None
    return {state.key.removeprefix("https://github.com/"): state.outcome for state in report.states}


def documents(store: MemoryWarehouse) -> dict[str, Document]:
    return {document.title: document for document in store.documents()}


def opened(context: SourceContext, address: str = "https://github.com/jane/notes", **options) -> GitHubSource:
    source = GitHubSource.open(address, context, **options)
    assert isinstance(source, GitHubSource)
    return source


def collected(context: SourceContext, address: str = "https://github.com/jane/notes", **options) -> MemoryWarehouse:
    store = MemoryWarehouse()
    assert run(opened(context, address, **options), store).problem is None
    return store


def patient(context: SourceContext, clock: Clock, *, token: str | None = None, max_wait_s: float = 900) -> GitHubSource:
    api = GitHubApi(context.fetcher, token=token, now=clock.now, sleep=clock.sleep, max_wait_s=max_wait_s)
    return GitHubSource(
        "https://github.com/jane/notes", context, name="jane/notes", api=api, choice=Choice(), extras=Extras()
    )


# --- the ordinary life of a repository ------------------------------------------------------------------------------


def test_a_repository_becomes_its_prose_and_a_document_of_facts(hub: GitHub, context: SourceContext) -> None:
    hub.add(
        "jane/notes",
        {"README.md": NOTES, "docs/queues.md": QUEUES, "src/main.py": "print(1)\n", "data.csv": "a,b\n"},
        description="What I learnt about queues",
        topics=["queues", "latency"],
        language="Python",
        stargazers_count=4321,
        homepage="https://jane.example",
    )
    store = collected(context)
    found = documents(store)
    assert set(found) == {"Notes", "Queues", "jane/notes"}
    queues, facts = found["Queues"], found["jane/notes"]
    assert queues.text == QUEUES.strip()
    assert (queues.kind, queues.author, queues.source) == ("article", "Jane", "github")
    assert queues.url == "https://github.com/jane/notes/blob/HEAD/docs/queues.md"
    assert queues.tags == ("language:python", "queues", "latency")
    assert queues.published_at == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert facts.kind == "repository"
    assert facts.url == "https://github.com/jane/notes"
    assert facts.text == (
        "What I learnt about queues\n\nTopics: queues, latency\n\nLanguage: Python\n\nHomepage: https://jane.example"
    )
    assert facts.tags == ("language:python", "queues", "latency", "stars:1000+")
    assert facts.published_at == datetime(2020, 5, 6, 7, 8, 9, tzinfo=UTC)


def test_an_unchanged_repository_costs_two_conditional_requests_and_no_archive(
    hub: GitHub, context: SourceContext
) -> None:
    hub.add("jane/notes", {"README.md": NOTES, "docs/queues.md": QUEUES}, description="Notes of mine")
    store = MemoryWarehouse()
    source = opened(context)
    assert set(outcomes(run(source, store)).values()) == {"added"}
    assert len(hub.archives()) == 1
    hub.forget()
    assert set(outcomes(run(source, store)).values()) == {"unchanged"}
    assert [(each.path, each.status) for each in hub.asked] == [
        ("/repos/jane/notes", 304),
        ("/repos/jane/notes/git/trees/main?recursive=1", 304),
    ]


def test_a_push_that_changes_one_file_fetches_one_archive_and_updates_one_document(
    hub: GitHub, context: SourceContext
) -> None:
    notes = hub.add(
        "jane/notes", {"README.md": NOTES, "docs/queues.md": QUEUES, "docs/old.md": "# Old\n\nGone soon.\n"}
    )
    store = MemoryWarehouse()
    run(opened(context), store)
    notes.files["docs/queues.md"] = QUEUES + "\nAnd then it hides it from your users.\n"
    del notes.files["docs/old.md"]
    hub.forget()
    assert outcomes(run(opened(context), store)) == {
        "jane/notes": "skipped",
        "jane/notes/blob/HEAD/README.md": "unchanged",
        "jane/notes/blob/HEAD/docs/queues.md": "updated",
        "jane/notes/blob/HEAD/docs/old.md": "removed",
    }
    assert len(hub.archives()) == 1
    assert set(documents(store)) == {"Notes", "Queues"}
    assert "your users" in documents(store)["Queues"].text


def test_new_topics_reach_the_documents_of_a_repository(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES})
    store = MemoryWarehouse()
    run(opened(context), store)
    notes.facts["topics"] = ["queues"]
    assert outcomes(run(opened(context), store)) == {"jane/notes": "added", "jane/notes/blob/HEAD/README.md": "updated"}
    assert documents(store)["Notes"].tags == ("queues",)


def test_another_star_changes_nothing(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES}, description="Mine", stargazers_count=17)
    store = MemoryWarehouse()
    run(opened(context), store)
    notes.facts["stargazers_count"] = 18
    assert set(outcomes(run(opened(context), store)).values()) == {"unchanged"}


def test_a_renamed_default_branch_changes_nothing(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES}, description="Mine", default_branch="master")
    store = MemoryWarehouse()
    run(opened(context), store)
    notes.facts["default_branch"] = "feat/main"
    assert set(outcomes(run(opened(context), store)).values()) == {"unchanged"}
    assert hub.asked[-1].path == "/repos/jane/notes/git/trees/feat%2Fmain?recursive=1"


def test_names_of_files_are_encoded_in_their_addresses(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"docs/über uns #1.md": "# Über uns\n\nWir.\n"})
    (document,) = collected(context).documents()
    assert document.url == "https://github.com/jane/notes/blob/HEAD/docs/%C3%BCber%20uns%20%231.md"


def test_front_matter_of_a_blog_in_a_repository_is_read(hub: GitHub, context: SourceContext) -> None:
    post = "---\ntitle: On ORMs\ndate: 2021-03-04\ncanonical_url: https://jane.example/orms\n---\nI write SQL.\n"
    hub.add("jane/notes", {"_posts/orms.md": post})
    (document,) = collected(context).documents()
    assert (document.title, document.url) == ("On ORMs", "https://jane.example/orms")
    assert document.published_at == datetime(2021, 3, 4, tzinfo=UTC)


def test_an_empty_repository_lists_its_facts_only(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {}, description="Soon")
    assert set(documents(collected(context))) == {"jane/notes"}


# --- accounts -------------------------------------------------------------------------------------------------------


def test_an_account_is_read_over_all_pages_without_its_forks(hub: GitHub, context: SourceContext) -> None:
    for number in range(5):
        hub.add(f"jane/r{number}", {"README.md": f"# R{number}\n\nHello.\n"})
    hub.add("jane/linux", {"README.md": "# Linux\n\nNot mine.\n"}, fork=True)
    hub.add("joe/other", {"README.md": "# Joe\n\nSomebody else.\n"})
    hub.add("jane/z-old", {"README.md": "# Old\n\nStill mine.\n"}, archived=True)
    store = MemoryWarehouse()
    report = run(opened(context, "https://github.com/jane"), store)
    assert set(documents(store)) == {"R0", "R1", "R2", "R3", "R4", "Old"}
    (fork,) = [state for state in report.states if state.key == "https://github.com/jane/linux"]
    assert (fork.outcome, fork.reason) == ("skipped", "is a fork; set forks = true to collect those too")


def test_repositories_are_chosen_by_name_and_kind(hub: GitHub, context: SourceContext) -> None:
    for name, facts in {"blog": {}, "notes-a": {}, "notes-b": {"archived": True}, "lib": {"fork": True}}.items():
        hub.add(f"jane/{name}", {"README.md": f"# {name}\n\nHello.\n"}, **facts)

    def titles(**options) -> set[str]:
        return set(documents(collected(context, "https://github.com/jane", **options)))

    assert titles(repositories=("notes-*",)) == {"notes-a", "notes-b"}
    assert titles(repositories=("!blog",)) == {"notes-a", "notes-b"}
    assert titles(archived=False) == {"blog", "notes-a"}
    assert titles(forks=True) == {"blog", "notes-a", "notes-b", "lib"}


def test_a_fork_named_by_itself_is_collected(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES}, fork=True, archived=True)
    assert set(documents(collected(context, archived=False))) == {"Notes"}


def test_a_repository_that_cannot_be_read_removes_nothing_of_the_account(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/a", {"README.md": "# A\n\nHello.\n"})
    broken = hub.add("jane/b", {"README.md": "# B\n\nHello.\n"})
    store = MemoryWarehouse()
    run(opened(context, "https://github.com/jane"), store)
    broken.status = 451
    report = run(opened(context, "https://github.com/jane"), store)
    assert "could not read 1 of its repositories, first jane/b" in str(report.problem)
    assert set(documents(store)) == {"A", "B"}


# --- what is chosen -------------------------------------------------------------------------------------------------

CODE = {
    "README.md": NOTES,
    "tool.py": "import os\n\n\ndef main() -> None:\n    print(os.name)\n",
    "web/app.ts": "export const a = 1;\n",
    "web/app.min.js": "var a=1;\n",
    "vendor/dep.py": "x = 1\n",
    "api_pb2.py": "x = 1\n",
    "schema.go": "// Code generated by stringer; DO NOT EDIT.\npackage x\n",
    "packed.js": "var a=" + "1+" * 2000 + "1;\n",
    "bytes.py": bytes(range(256)) * 40,
    "empty.py": "",
    "made.py": "x = 1\n",
    "web/made.ts": "const x = 1;\n",
    ".gitattributes": "made.py linguist-generated\n",
    "web/.gitattributes": "*.ts linguist-generated=true\napp.ts -linguist-generated\n",
    "LICENSE.md": "Do what you like.\n",
    ".github/ISSUE_TEMPLATE.md": "What went wrong?\n",
    "notes.txt": "numbers\n",
    "docs/guide.txt": "Read this first, and the rest of it later.\n",
    "docs/link.md": Link("../README.md"),
    "docs/huge.md": "word " * 300_000,
}


def test_code_is_left_alone_until_it_is_asked_for(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", dict(CODE))
    assert set(documents(collected(context))) == {"Notes", "Guide"}


def test_only_code_somebody_wrote_is_collected_and_the_rest_says_why(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", dict(CODE))
    store = MemoryWarehouse()
    report = run(opened(context, code=True), store)
    assert set(documents(store)) == {"Notes", "Guide", "notes/tool.py", "notes/web/app.ts"}
    base = "https://github.com/jane/notes/blob/HEAD/"
    skipped = {state.key.removeprefix(base): state.reason for state in report.states if state.outcome == "skipped"}
    assert skipped.pop("https://github.com/jane/notes") == "has neither a description nor topics"
    assert {path: reason.split(";")[0] for path, reason in skipped.items()} == {
        "schema.go": "says in its first lines that it is generated",
        "packed.js": "has a line of 4,008 characters: minified, or data",
        "bytes.py": "is binary, not text, whatever its name says",
        "made.py": "is marked linguist-generated in .gitattributes",
        "web/made.ts": "is marked linguist-generated in .gitattributes",
        "docs/link.md": "is a symbolic link",
        "docs/huge.md": "has 1,500,000 bytes, more than 1,000,000",
    }


def test_code_is_a_document_of_fenced_code_with_its_own_language(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"tool.py": CODE["tool.py"]}, language="HTML", topics=["tools"])
    tool = documents(collected(context, code=True))["notes/tool.py"]
    assert tool.text == "```python\nimport os\n\n\ndef main() -> None:\n    print(os.name)\n```"
    assert (tool.kind, tool.tags) == ("repository", ("language:python", "tools"))


def test_languages_and_patterns_narrow_the_choice(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", dict(CODE))
    assert set(documents(collected(context, languages=("TypeScript",)))) == {"Notes", "Guide", "notes/web/app.ts"}
    assert set(documents(collected(context, include=("docs/",)))) == {"Guide"}
    assert set(documents(collected(context, exclude=("*.txt",), max_bytes=2_000_000))) == {"Notes", "Huge"}


def test_marking_a_file_as_generated_lets_its_document_go(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"tool.py": CODE["tool.py"], "README.md": NOTES})
    store = MemoryWarehouse()
    run(opened(context, code=True), store)
    notes.files[".gitattributes"] = "*.py linguist-generated\n"
    run(opened(context, code=True), store)
    assert set(documents(store)) == {"Notes"}


@pytest.mark.parametrize("options", [{"languages": ("klingon",)}, {"max_bytes": 0}, {"gists": True}])
def test_options_that_make_no_sense_are_refused(context: SourceContext, options: dict) -> None:
    with pytest.raises(ConfigError, match=r"klingon|max_bytes is 0|options of an account"):
        opened(context, **options)


# --- releases, issues, gists ----------------------------------------------------------------------------------------


def release(number: int, body: str | None, **more) -> dict:
    return {
        "html_url": f"https://github.com/jane/notes/releases/tag/v{number}",
        "tag_name": f"v{number}",
        "name": None,
        "body": body,
        "draft": False,
        "published_at": f"2024-0{number}-01T00:00:00Z",
        **more,
    }


def test_releases_are_posts_and_an_edited_one_is_updated(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES})
    notes.releases = [release(1, "First\r\n\r\n- it works"), release(2, None), release(3, "x", draft=True)]
    store = MemoryWarehouse()
    run(opened(context, releases=True), store)
    first = documents(store)["notes v1"]
    assert (first.kind, first.text) == ("post", "First\n\n- it works")
    assert first.published_at == datetime(2024, 1, 1, tzinfo=UTC)
    assert set(documents(store)) == {"Notes", "notes v1"}
    notes.releases[0]["body"] = "First, corrected"
    ended = outcomes(run(opened(context, releases=True), store))
    assert ended["jane/notes/releases/tag/v1"] == "updated"
    assert ended["jane/notes/releases/tag/v2"] == "skipped"
    assert ended["jane/notes/blob/HEAD/README.md"] == "unchanged"


def test_only_issues_the_author_opened_are_collected(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES})
    notes.issues = [
        {
            "html_url": f"https://github.com/jane/notes/{kind}/{number}",
            "title": f"Of {login} {number}",
            "body": "I think that it should.",
            "user": {"login": login},
            "created_at": "2023-01-02T03:04:05Z",
        }
        for number, (login, kind) in enumerate(
            [("jane", "issues"), ("joe", "issues"), ("jane", "pull"), ("jane", "pull")]
        )
    ]
    assert set(documents(collected(context, issues=True))) == {"Notes", "Of jane 0", "Of jane 2", "Of jane 3"}
    assert set(documents(collected(context, issues=True, login="joe"))) == {"Notes", "Of joe 1"}


def test_issues_of_an_organisation_need_a_name(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES}, owner={"login": "jane", "type": "Organization"})
    report = run(opened(context, issues=True), MemoryWarehouse())
    assert str(report.problem).endswith('say whose with login = "NAME"')


def test_gists_are_read_from_their_own_host_without_the_token(
    hub: GitHub, context: SourceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    hub.add("jane/notes", {"README.md": NOTES})
    hub.raw = {"/jane/1/raw/aa/why.md": b"It is small enough to be read in one go.", "/jane/1/raw/aa/x.py": b"x = 1\n"}
    files = {
        name: {"raw_url": f"https://gist.githubusercontent.com/jane/1/raw/aa/{name}", "size": 40}
        for name in ("why.md", "x.py", "photo.png")
    }
    hub.gists = [
        {
            "html_url": "https://gist.github.com/jane/1",
            "description": "Why gists",
            "files": files,
            "created_at": "2022-01-01T00:00:00Z",
        }
    ]
    store = collected(context, "https://github.com/jane", gists=True)
    why = documents(store)["Why gists"]
    assert why.url == "https://gist.github.com/jane/1#file-why-md"
    assert set(documents(store)) == {"Notes", "Why gists"}
    sent = {each.host: each.authorization for each in hub.asked}
    assert sent == {
        "api.github.com": f"Bearer {TOKEN}",
        "codeload.github.com": None,
        "gist.githubusercontent.com": None,
    }
    with_code = documents(collected(context, "https://github.com/jane", gists=True, code=True))
    assert with_code["x.py: Why gists"].text == "```python\nx = 1\n```"


# --- archives -------------------------------------------------------------------------------------------------------


def test_names_that_lead_elsewhere_and_links_in_an_archive_are_never_read(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES, "docs/queues.md": QUEUES})
    notes.members = {
        "../../etc/passwd": "root",
        "README.md": NOTES,
        "docs/queues.md": Link("/etc/passwd"),
        "docs/../../evil.md": "# Evil\n",
    }
    store = collected(context)
    assert set(documents(store)) == {"Notes", "Queues"}
    assert documents(store)["Queues"].text == QUEUES.strip()
    assert f"/repos/jane/notes/git/blobs/{blob(QUEUES.encode())}" in hub.paths()


def test_a_listing_from_an_archive_passes_over_names_that_lead_elsewhere(hub: GitHub, context: SourceContext) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES, "docs/queues.md": QUEUES, "docs/b.md": "x" * 50, "a.py": "1"})
    notes.truncated = True
    notes.members = {**notes.files, "../../evil.md": "# Evil\n", "docs/../evil.md": "# Evil\n", "l.md": Link("x")}
    store = MemoryWarehouse()
    assert outcomes(run(opened(context, max_bytes=80), store)) == {
        "jane/notes": "skipped",
        "jane/notes/blob/HEAD/README.md": "added",
        "jane/notes/blob/HEAD/docs/b.md": "added",
        "jane/notes/blob/HEAD/docs/queues.md": "added",
    }
    notes.truncated = False  # the versions are git's own either way
    assert set(outcomes(run(opened(context, max_bytes=80), store)).values()) == {"skipped", "unchanged"}


def test_the_listed_version_of_a_file_is_collected_when_the_branch_moved_on(
    hub: GitHub, context: SourceContext
) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES, "docs/queues.md": QUEUES})
    notes.members = {"README.md": "# Newer\n\nPushed a moment later.\n", "docs/queues.md": QUEUES.replace("\n", "\r\n")}
    store = collected(context)
    assert documents(store)["Notes"].text == NOTES.strip()
    assert documents(store)["Queues"].text == QUEUES.strip()
    assert sum("/git/blobs/" in path for path in hub.paths()) == 1  # other line ends are the same file


def test_a_member_that_expands_without_end_is_read_no_further_than_its_size(tmp_path: Path) -> None:
    packed = tmp_path / "bomb.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/a.md", bytes(50_000_000))
    (listed,) = Archive(packed, name="jane/notes").files(Choice())
    assert listed.size == 50_000_000
    small = github.File("a.md", "0" * 40, 10)
    assert Archive(packed, name="jane/notes").read(small) is None


@pytest.mark.parametrize("damage", ["no zip", "torn", "member"])
def test_a_damaged_archive_fails_its_files_and_is_asked_for_once(
    hub: GitHub, context: SourceContext, damage: str
) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES * 50, "docs/queues.md": QUEUES * 50})
    store = MemoryWarehouse()
    run(opened(context), store)
    notes.files = {path: f"{text}More.\n" for path, text in notes.files.items()}
    whole = notes.zipball()
    at = whole.index(b"README.md") + 12
    notes.archive = {"no zip": b"PK\x03\x04" + b"?" * 99, "torn": whole[:-40]}.get(
        damage, whole[:at] + b"????????" + whole[at + 8 :]
    )
    hub.forget()
    report = run(opened(context), store)
    failed = {state.outcome for state in report.states if "/blob/" in state.key}
    assert failed == ({"failed"} if damage != "member" else {"failed", "updated"})
    assert any("the archive of jane/notes is damaged" in state.reason for state in report.states)
    assert len(hub.archives()) == 1
    assert set(documents(store)) == {"Notes", "Queues"}


def test_a_repository_that_is_too_large_says_to_clone_it_and_keeps_what_there_was(
    hub: GitHub, context: SourceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = hub.add("jane/notes", {"README.md": NOTES})
    store = MemoryWarehouse()
    run(opened(context), store)
    notes.files["README.md"] = NOTES + "More.\n"
    monkeypatch.setattr(github, "MAX_ARCHIVE_BYTES", 100)
    report = run(opened(context), store)
    (state,) = [state for state in report.states if "/blob/" in state.key]
    assert state.outcome == "failed"
    assert state.reason.endswith('clone it, and name the folder with kind = "github"')
    assert set(documents(store)) == {"Notes"}


def test_no_archive_is_left_behind(hub: GitHub, context: SourceContext, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    hub.add("jane/notes", {"README.md": NOTES})
    run(opened(context), MemoryWarehouse())
    assert len(hub.archives()) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


# --- limits, tokens, refusals ---------------------------------------------------------------------------------------


def test_used_up_limits_are_waited_for(hub: GitHub, context: SourceContext, caplog: pytest.LogCaptureFixture) -> None:
    hub.add("jane/notes", {"README.md": NOTES})
    clock = Clock()
    hub.refusals = [(403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOON.timestamp()) + 300)})]
    store = MemoryWarehouse()
    with caplog.at_level(logging.WARNING):
        assert run(patient(context, clock), store).problem is None
    assert clock.slept == [301]
    assert "allows no more requests until 2026-03-14 12:05:00 UTC; waiting 301 s" in caplog.text
    assert set(documents(store)) == {"Notes"}


def test_a_secondary_limit_is_waited_for_as_it_asks(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES})
    clock = Clock()
    hub.refusals = [(403, {"retry-after": "90"}), (429, {"retry-after": "120"})]
    assert run(patient(context, clock), MemoryWarehouse()).problem is None
    assert clock.slept == [91, 121]


def test_a_wait_beyond_the_bound_names_the_time_and_keeps_what_there_was(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES})
    store = MemoryWarehouse()
    run(patient(context, Clock()), store)
    hub.limit, hub.reset = 0, int(NOON.timestamp()) + 3000
    clock = Clock()
    report = run(patient(context, clock), store)
    assert report.problem == (
        "github.com allows no more requests until 2026-03-14 12:50:00 UTC, which is 3,001 s away; run again then, or "
        "set GITHUB_TOKEN, which allows 5,000 requests an hour instead of 60"
    )
    assert clock.slept == []
    assert set(documents(store)) == {"Notes"}


def test_many_short_waits_end_at_the_same_bound(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES})
    clock = Clock()
    hub.refusals = [(403, {"retry-after": "100"})] * 50
    report = run(patient(context, clock, token=TOKEN), MemoryWarehouse())
    assert "allows no more requests until" in str(report.problem)
    assert "GITHUB_TOKEN" not in str(report.problem)
    assert sum(clock.slept) <= 900


def test_limits_met_at_the_archive_end_the_run_without_failing_every_file(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES, "docs/queues.md": QUEUES})
    hub.limit, hub.reset = 2, int(NOON.timestamp()) + 3000
    report = run(patient(context, Clock()), MemoryWarehouse())
    assert "allows no more requests until 2026-03-14 12:50:00 UTC" in str(report.problem)
    assert [state.outcome for state in report.states] == ["skipped"]


def test_a_repository_that_is_not_there_is_named(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES})
    for address, what in (("https://github.com/jane/nots", "repository 'jane/nots'"), ("github:jan", "account 'jan'")):
        with pytest.raises(SourceError, match=f"github.com has no {what}.*correct the address, or set GITHUB_TOKEN"):
            list(opened(context, address).list())


def test_a_private_repository_is_shown_to_its_token_and_its_answers_to_no_other(
    hub: GitHub, context: SourceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("jane/notes", {"README.md": NOTES})
    hub.private["jane/notes"] = TOKEN
    monkeypatch.setenv("GH_TOKEN", TOKEN)
    assert set(documents(collected(context))) == {"Notes"}
    hub.forget()
    monkeypatch.delenv("GH_TOKEN")
    with pytest.raises(SourceError, match="has no repository"):
        list(opened(context).list())
    assert [each.status for each in hub.asked] == [404]


def test_a_server_that_answers_nobody_without_a_token_says_which_to_set(hub: GitHub, context: SourceContext) -> None:
    hub.replies["/repos/jane/notes"] = (401, {}, b'{"message": "Requires authentication"}')
    with pytest.raises(SourceError, match=r"answers nobody without a token; set GITHUB_TOKEN or GH_TOKEN$"):
        list(opened(context).list())


def test_a_token_reaches_no_log_error_or_file(
    hub: GitHub,
    context: SourceContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    hub.add("jane/notes", {"README.md": NOTES}, description="Mine")
    store = MemoryWarehouse()
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        source = opened(context)
        said += [repr(run(source, store)), repr(vars(source)), repr(list(store.documents()))]
        hub.tokens = {"another"}
        said += [repr(run(opened(context), store))]
        hub.tokens = None
        hub.repositories["jane/notes"].status = 500
        said += [repr(run(opened(context), store))]
    assert "does not accept the token in GITHUB_TOKEN or GH_TOKEN; renew it, or unset it" in said[3]
    assert f"Bearer {TOKEN}" in {each.authorization for each in hub.asked}
    assert TOKEN not in "".join(said) + caplog.text
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert all(TOKEN.encode() not in path.read_bytes() for path in kept)


def test_tokens_come_from_the_environment_of_their_host() -> None:
    environment = {"GH_TOKEN": " one\n", "GITHUB_TOKEN": "", "GH_ENTERPRISE_TOKEN": "two"}
    assert token_for("github.com", environment) == "one"
    assert token_for("git.example.org", environment) == "two"
    assert token_for("github.com", {}) is None
    with pytest.raises(ConfigError) as caught:
        token_for("github.com", {"GITHUB_TOKEN": "sec\nret"})
    assert "ret" not in str(caught.value).replace("GITHUB_TOKEN", "")


def test_a_list_that_goes_on_at_another_server_is_not_followed(hub: GitHub, context: SourceContext) -> None:
    path = "/users/jane/repos?type=owner&sort=full_name&per_page=100"
    link = {"link": '<https://evil.example/repos?page=2>; rel="next"', "content-type": "application/json"}
    hub.replies[path] = (200, link, b"[]")
    with pytest.raises(SourceError, match="continues a list at another server"):
        list(opened(context, "https://github.com/jane").list())


def test_a_list_without_end_ends(hub: GitHub, context: SourceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/users/jane/repos?type=owner&sort=full_name&per_page=100"
    hub.replies[path] = (200, {"link": f'<https://api.github.com{path}>; rel="next"'}, b"[]")
    monkeypatch.setattr(github_api, "MAX_PAGES", 5)
    with pytest.raises(SourceError, match="lists more than 5 pages"):
        list(opened(context, "https://github.com/jane").list())


@pytest.mark.parametrize("body", [b"<html>", b'{"name": "notes"}', b"[]", b"null", b'{"owner": 1}'])
def test_an_answer_in_an_unknown_form_is_a_problem_of_the_source(
    hub: GitHub, context: SourceContext, body: bytes
) -> None:
    hub.replies["/repos/jane/notes"] = (200, {"content-type": "application/json"}, body)
    with pytest.raises(SourceError, match="try again later"):
        list(opened(context).list())


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("https://github.com/jane", "jane"),
        ("https://www.github.com/jane/", "jane"),
        ("http://GitHub.com/jane/my.repo_1", "jane/my.repo_1"),
        ("https://github.com/jane/notes.git", "jane/notes"),
        ("git@github.com:jane/notes.git", "jane/notes"),
        ("ssh://git@github.com/jane/notes.git", "jane/notes"),
        ("github:jane/notes", "jane/notes"),
        ("github:jane", "jane"),
    ],
)
def test_addresses_of_accounts_and_repositories_are_recognised(
    context: SourceContext, address: str, target: str
) -> None:
    assert GitHubSource.recognises(address)
    assert opened(context, address)._target == target


@pytest.mark.parametrize(
    "address",
    ["https://github.com", "https://github.com/jane/notes/issues", "https://gitlab.com/jane", "./github.com/jane",
     "https://github.com/-jane", "https://gist.github.com/jane", "https://jane.github.io/blog", "github:jane/a/b"],
)  # fmt: skip
def test_other_addresses_are_left_to_other_kinds(address: str) -> None:
    assert not GitHubSource.recognises(address)


def test_a_server_of_ones_own_is_asked_below_its_own_address(context: SourceContext) -> None:
    source = opened(context, "https://git.example.org/jane", gists=True)
    assert source._api.url == "https://git.example.org/api/v3"
    assert opened(context, "http://git.example.org:8443/jane")._api.url == "https://git.example.org:8443/api/v3"
    assert opened(context, "ssh://git@git.example.org:2222/jane/x.git")._api.url == "https://git.example.org/api/v3"
    with pytest.raises(ConfigError, match="is no address: Port out of range"):
        opened(context, "https://git.example.org:99999/jane")
    with pytest.raises(ConfigError, match=r"neither an account nor a repository of git\.example\.org"):
        GitHubSource.open("https://git.example.org/jane/notes/tree/main", context)


# --- recorded exchanges ---------------------------------------------------------------------------------------------


def recorded(data_dir: Path, name: str, hub: GitHub) -> None:
    """Answer as GitHub did in a recording; numbers of limits were blanked there and stay out."""
    for exchange in json.loads((data_dir / "github-api-fixtures" / f"{name}.json").read_text(encoding="utf-8")):
        if exchange["method"] == "get" and exchange["status"] in (200, 301):
            response = exchange["response"]
            body = response if isinstance(response, str) else json.dumps(response)
            kept = ("content-type", "etag", "link", "location")
            said = {key: value for key, value in exchange["headers"].items() if key in kept}
            hub.replies[exchange["path"]] = (exchange["status"], said, body.encode())


def test_a_recorded_repository_is_understood(hub: GitHub, context: SourceContext, data_dir: Path) -> None:
    recorded(data_dir, "get-repository", hub)
    entry = GitHubApi(context.fetcher, now=context.now).get("/repos/octokit-fixture-org/hello-world")
    repository = Repository.of(entry)
    assert (repository.full_name, repository.branch) == ("octokit-fixture-org/hello-world", entry["default_branch"])
    assert not repository.owner_is_person
    assert repository.created_at is not None


def test_a_recorded_list_of_pages_is_followed_to_its_end(hub: GitHub, context: SourceContext, data_dir: Path) -> None:
    recorded(data_dir, "paginate-issues", hub)
    api = GitHubApi(context.fetcher, now=context.now)
    found = [entry["number"] for entry in api.pages("/repos/octokit-fixture-org/paginate-issues/issues?per_page=3")]
    assert found == list(range(13, 0, -1))


def test_a_recorded_renaming_is_followed(hub: GitHub, context: SourceContext, data_dir: Path) -> None:
    recorded(data_dir, "rename-repository", hub)
    entry = GitHubApi(context.fetcher, now=context.now).get("/repos/octokit-fixture-org/rename-repository")
    assert Repository.of(entry).name == entry["name"]


def test_a_recorded_raw_file_is_hashed_as_github_does(hub: GitHub, context: SourceContext, data_dir: Path) -> None:
    recorded(data_dir, "get-content", hub)
    api = GitHubApi(context.fetcher, now=context.now)
    (listed,) = api.get("/repos/octokit-fixture-org/hello-world/contents/")
    content = api.raw("/repos/octokit-fixture-org/hello-world/contents/README.md", max_bytes=1000)
    assert github.blob_hash(content, like=listed["sha"]) == listed["sha"]
    assert len(content) == listed["size"]


def test_what_is_not_listed_cannot_be_fetched(context: SourceContext) -> None:
    with pytest.raises(ItemError, match="is not listed any more; collect again"):
        opened(context).fetch(github.Item("https://github.com/jane/notes/blob/HEAD/x.md"))


def test_states_of_skipped_files_keep_their_version(hub: GitHub, context: SourceContext) -> None:
    hub.add("jane/notes", {"README.md": NOTES, "docs/empty.md": ""})
    (empty,) = [each for each in opened(context).list() if isinstance(each, ItemState) and "empty" in each.key]
    assert (empty.outcome, empty.reason) == ("skipped", "is empty")
    assert empty.version


def test_a_file_nobody_can_parse_fails_alone(hub: GitHub, context: SourceContext) -> None:
    hub.add(
        "jane/notes",
        {"README.md": NOTES, "docs/a.pdf": b"%PDF-1.7 broken", "docs/b.ipynb": "{", "docs/c.md": b"\xff\xfe\x00"},
    )
    store = MemoryWarehouse()
    report = run(opened(context), store)
    assert report.problem is None
    assert report.counts["failed"] >= 2
    assert "Notes" in documents(store)


def test_a_network_that_breaks_in_the_middle_of_a_list_removes_nothing(hub: GitHub, context: SourceContext) -> None:
    for number in range(4):
        hub.add(f"jane/r{number}", {"README.md": f"# R{number}\n\nHello.\n"})
    store = MemoryWarehouse()
    address = "https://github.com/jane"
    run(opened(context, address), store)
    hub.replies["/users/jane/repos?type=owner&sort=full_name&per_page=100&page=2"] = (502, {}, b"")
    report = run(opened(context, address), store)
    assert "502 Bad Gateway" in str(report.problem)
    assert len(documents(store)) == 4
