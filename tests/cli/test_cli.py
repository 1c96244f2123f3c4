"""The command line as a person meets it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llm_twin.cli import COMMANDS
from llm_twin.cli.ask import _unwrapped
from llm_twin.core.records import Run
from llm_twin.twin import Twin
from llm_twin.workspace import Workspace


def _twin(*arguments: str, cwd: Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm_twin", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that was synced once; the tests of this module only read it."""
    home = tmp_path_factory.mktemp("home")
    (home / "posts").mkdir()
    (home / "posts" / "orms.md").write_text(
        "---\ntitle: On ORMs\ndate: 2021-03-04\n---\n\nI don't like ORMs, because they hide the query.\n"
        "The query is the program, and I want to read it.\n"
    )
    (home / "posts" / "boats.md").write_text("# Boats\n\nA boat needs a keel before it needs a sail.\n")
    (home / "posts" / "empty.md").write_text("")
    assert _twin("init", "--author", "Test Author", "posts", cwd=home).returncode == 0
    done = _twin("sync", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_help_lists_every_command_with_an_example(home: Path) -> None:
    listed = _twin("--help", cwd=home).stdout
    for name in COMMANDS:
        assert f"  {name} " in listed
        if name != "config":
            assert "Example: twin" in _twin(name, "--help", cwd=home).stdout, name


def test_sync_reports_outcomes_on_stdout_and_reasons_on_stderr(home: Path) -> None:
    done = _twin("sync", "posts", cwd=home)
    assert "2 unchanged" in done.stdout
    assert "1 skipped" in done.stdout
    assert "skipped: empty.md: is empty" in done.stderr


def test_a_reason_that_was_told_before_is_counted_and_not_told_again(small: Path) -> None:
    (small / "posts" / "empty.md").write_text("")
    assert "skipped: empty.md: is empty" in _twin("sync", cwd=small).stderr
    again = _twin("sync", cwd=small)
    assert "1 item skipped as before: twin status --items" in again.stderr
    assert "empty.md" not in again.stderr
    assert "failed: torn.md" in again.stderr, "what is broken is told until it is mended"


def test_problems_name_their_source_and_stay_in_the_status(small: Path) -> None:
    (small / "twin.toml").write_text(
        '[[sources]]\naddress = "posts"\n[[sources]]\naddress = "http://127.0.0.1:9/feed"\n'
    )
    done = _twin("sync", cwd=small)
    problem = "problem: http://127.0.0.1:9/feed: 127.0.0.1 is a private address"
    assert done.returncode == 5
    assert problem in done.stderr
    status = _twin("status", cwd=small).stdout
    assert "done, with 1 problem\n1 document, 0 left out" in status
    assert problem in status


def test_a_document_that_is_left_out_is_named_by_title_id_and_address(small: Path) -> None:
    for name in ("boats", "ships"):
        text = (
            f"---\nurl: https://{name}.example/keels\n---\n# Keels\n\n"
            + "A boat needs a keel before it needs a sail. " * 20
        )
        (small / "posts" / f"{name}.md").write_text(text)
    _twin("sync", cwd=small)
    (line,) = (
        line for line in _twin("status", "--items", cwd=small).stdout.splitlines() if line.startswith("left out")
    )
    assert re.fullmatch(
        r"left out: Keels \(\w+, https://(boats|ships).example/keels\): near_duplicate of 'Keels' \(\w+\)", line
    )


def test_a_killed_sync_is_not_said_to_be_running(small: Path) -> None:
    _twin("sync", cwd=small)
    with Twin.open(small) as twin:
        twin.warehouse.save_run(Run(id="1" * 32, pipeline="sync", started_at=datetime.now(UTC)))
    assert "UTC, interrupted; it goes on where it was with: twin sync" in _twin("status", cwd=small).stdout
    with Workspace.find(small).writing():
        assert "UTC, running" in _twin("status", cwd=small).stdout


def test_a_source_that_only_the_command_line_names_is_said_to_be_none_of_twin_toml(small: Path) -> None:
    (small / "notes").mkdir()
    (small / "notes" / "keel.md").write_text("# Keel\n\nA keel is what a boat is built on, plank by plank.\n")
    told = "notes is not in twin.toml: add it there, and `twin sync` keeps it current"
    assert told in _twin("sync", "notes", cwd=small).stderr
    assert "twin.toml" not in _twin("sync", "posts/boats.md", cwd=small).stderr


def test_sync_json_has_the_documented_shape(home: Path) -> None:
    report = json.loads(_twin("sync", "--json", cwd=home).stdout)
    assert report["documents"].keys() == {"added", "updated", "unchanged", "removed", "skipped", "failed"}
    assert {item["item"] for item in report["items"]} == {"orms.md", "boats.md", "empty.md"}
    assert report["items"][0].keys() == {"source", "item", "outcome", "reason", "tries", "next_try"}
    assert {"chunks", "embedded", "seconds"} <= report.keys()


def test_search_json_has_the_documented_shape(home: Path) -> None:
    hits = json.loads(_twin("search", "object-relational mappers", "--json", cwd=home).stdout)
    fields = {"document_id", "title", "url", "published_at", "text", "start", "end", "score", "found_by"}
    assert hits[0].keys() == fields
    assert hits[0]["title"] == "On ORMs"
    assert hits[0]["published_at"].startswith("2021-03-04")


def test_ask_prints_the_answer_then_its_sources(home: Path) -> None:
    done = _twin("ask", "What do I think of ORMs?", cwd=home)
    assert "hide the query. The query is" in done.stdout, (
        "a line break of the author's editor is no break of the answer"
    )
    assert "hide the query" in done.stdout
    assert "[1]" in done.stdout
    assert "On ORMs · 2021-03-04" in done.stdout.partition("Sources")[2]


def test_paragraphs_are_unwrapped_and_code_lists_and_quotes_are_not() -> None:
    text = "One line\nand its rest. [1]\n\n- a\n- b\n\n```py\nx = 1\ny = 2\n```\nafter\nit"
    assert _unwrapped(text) == "One line and its rest. [1]\n\n- a\n- b\n\n```py\nx = 1\ny = 2\n```\nafter it"


def test_ask_json_has_the_documented_shape(home: Path) -> None:
    answer = json.loads(_twin("ask", "What do I think of ORMs?", "--json", cwd=home).stdout)
    assert {"text", "mode", "citations", "passages", "model", "prompt", "timings_ms", "trace_id"} <= answer.keys()
    assert {"number", "document_id", "title", "url", "quote", "start", "end"} <= answer["citations"][0].keys()


def test_chat_understands_a_follow_up(home: Path) -> None:
    done = _twin("chat", cwd=home, stdin="What do I think of ORMs?\nWhy?\n\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Sources") == 2


def test_traces_show_the_tree_of_the_last_question(home: Path) -> None:
    trace = json.loads(_twin("ask", "What do I think of ORMs?", "--json", cwd=home).stdout)["trace_id"]
    assert trace[:12] in _twin("traces", cwd=home).stdout
    tree = _twin("traces", "show", trace[:12], cwd=home).stdout
    assert tree.startswith("ask")
    assert " ms" in tree


def test_status_and_runs_tell_what_is_there(home: Path) -> None:
    status = _twin("status", "--items", cwd=home).stdout
    assert "2 documents" in status
    assert "empty.md" in status
    assert "done" in _twin("runs", cwd=home).stdout


def test_config_show_tells_value_origin_and_meaning(home: Path) -> None:
    shown = _twin("config", "show", cwd=home, TWIN_SEARCH_K="7").stdout
    assert "search.k = 7  ($TWIN_SEARCH_K)" in shown
    assert "twin.toml:" in shown
    assert "Hits returned." in shown


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["ask", "x"], {"TWIN_LLM_MODELL": "x"}, 2, "did you mean TWIN_LLM_MODEL"),
        (["-C", "/nowhere", "ask", "x"], {}, 3, "twin -C /nowhere init"),
        (["init"], {}, 3, "exists already"),
        (["sync", "./missing"], {}, 5, "missing"),
        (["write", "x"], {}, 7, "base_url"),
        (["traces", "show", "zzzz"], {}, 9, "zzzz"),
        (["search", "x", "--author", "Nobody"], {}, 9, "Nobody"),
        (["serch"], {}, 2, "No such command"),
        (["ask", " "], {}, 2, "it is empty"),
        (["forget", "https://nowhere"], {}, 9, "nothing was collected"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    home: Path, arguments: list[str], environment: dict[str, str], code: int, words: str
) -> None:
    done = _twin(*arguments, cwd=home, **environment)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_brings_the_traceback_back(home: Path) -> None:
    assert "Traceback" in _twin("--debug", "traces", "show", "zzzz", cwd=home).stderr


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m llm_twin config show | head -1", shell=True, cwd=home, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_documents_lists_what_can_be_named(home: Path) -> None:
    listed = _twin("documents", cwd=home).stdout
    assert "2021-03-04  files  On ORMs" in listed
    assert "Boats" in listed
    assert "Boats" not in _twin("documents", "--year", "2021", cwd=home).stdout
    nothing = _twin("documents", "--source", "medium", cwd=home)
    assert (nothing.stdout, "no such document" in nothing.stderr) == ("", True)


def test_forgetting_shows_what_is_meant_and_a_no_deletes_nothing(home: Path) -> None:
    done = _twin("forget", "Boats", cwd=home, stdin="n\n")
    assert done.returncode == 130
    assert "Boats" in done.stderr
    assert "Delete 1 document, everywhere?" in done.stderr
    assert "nothing was changed" in done.stderr
    assert "Boats" in _twin("documents", cwd=home).stdout


def test_an_error_nobody_foresaw_is_one_line_that_asks_for_a_report(home: Path) -> None:
    code = "import llm_twin.cli.ask as ask; ask.opened = lambda *_, **__: 1 / 0; from llm_twin.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ask", "x"], cwd=home, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 1
    assert done.stderr.startswith("twin: a mistake of ours, ZeroDivisionError")
    assert "Traceback" not in done.stderr


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A workspace of its own with one document and one broken file, not synced yet."""
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "boats.md").write_text("# Boats\n\nA boat needs a keel before it needs a sail.\n")
    (tmp_path / "posts" / "torn.md").write_text("---\ntitle: [Torn\n---\nThis one has broken front matter.\n")
    assert _twin("init", "--author", "Test Author", "posts", cwd=tmp_path).returncode == 0
    return tmp_path


def test_status_is_a_table_of_sources_and_tells_what_failed_and_when_it_is_tried_again(small: Path) -> None:
    first = _twin("sync", cwd=small)
    assert "mend or remove the block (tried once, next try at the next sync)" in first.stderr
    _twin("sync", "--retry", cwd=small)
    shown = _twin("status", cwd=small).stdout.splitlines()
    header = next(number for number, line in enumerate(shown) if line.startswith("source"))
    assert shown[header].split() == ["source", "unchanged", "failed"]
    assert shown[header + 1].split() == ["posts", "1", "1"]
    failed = next(number for number, line in enumerate(shown) if line.startswith("failed: torn.md (posts): "))
    assert shown[failed + 1].strip() == "tried twice, next try in 5 min"
    (item,) = (item for item in json.loads(_twin("status", "--json", cwd=small).stdout)["items"] if item["tries"])
    assert (item["key"], item["outcome"], item["tries"], item["next_try"][:2]) == ("torn.md", "failed", 2, "20")


def test_forgetting_is_listed_and_undone(small: Path) -> None:
    _twin("sync", cwd=small)
    assert "nothing is kept out" in _twin("forget", "--list", cwd=small).stderr
    _twin("forget", "Boats", "--yes", cwd=small)
    assert "boats.md  in posts" in _twin("forget", "--list", cwd=small).stdout
    assert json.loads(_twin("forget", "--list", "--json", cwd=small).stdout)[0]["target"] == "boats.md"
    assert "undo that with: twin forget --undo boats.md" in _twin("sync", "posts", cwd=small).stderr
    undone = _twin("forget", "--undo", "boats.md", cwd=small)
    assert undone.stdout == "boats.md is let in again, 1 known item\n"
    assert "1 added" in _twin("sync", cwd=small).stdout


def test_forgetting_a_source_of_the_settings_says_that_it_comes_back(small: Path) -> None:
    _twin("sync", cwd=small)
    told = _twin("forget", "./posts", "--yes", cwd=small).stderr
    assert told == "./posts stands in twin.toml: the next sync collects it anew, unless you take it out\n"


def test_a_platform_that_nobody_collected_from_is_named_with_those_there_are(home: Path) -> None:
    told = "nothing was collected from 'twitter'; there is files"
    assert told in _twin("search", "boat", "--source", "twitter", cwd=home).stderr
    assert told in _twin("ask", "What does a boat need?", "--source", "twitter", cwd=home).stderr
    assert "collected from" not in _twin("search", "boat", "--source", "files", "--since", "2200", cwd=home).stderr


@pytest.mark.parametrize("arguments", [[], ["x", "--list"], ["--undo"], ["--list", "--undo"]])
def test_forgetting_without_a_clear_target_explains_itself(home: Path, arguments: list[str]) -> None:
    done = _twin("forget", *arguments, cwd=home)
    assert done.returncode == 2
    assert "name what to forget, or give --list alone" in done.stderr


def test_a_path_typed_below_the_workspace_is_a_part_of_its_source(small: Path) -> None:
    done = _twin("sync", "./boats.md", cwd=small / "posts")
    assert "1 added, 0 updated, 0 unchanged, 0 removed, 0 skipped, 0 failed" in done.stdout, done.stderr


def test_watching_says_so_and_when_each_sync_was(small: Path) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "llm_twin", "sync", "--watch", "--every", "6h"],
        cwd=small, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ),
    )  # fmt: skip
    told = []
    for line in watching.stdout:
        told.append(line.rstrip())
        if line.startswith("watching"):
            break
    watching.terminate()
    watching.communicate()
    assert told[-1] == "watching; every source is looked at again in 6h, Ctrl-C ends it"
    assert any(re.match(r"\d\d:\d\d:\d\d  1 added, 0 updated", line) for line in told)


def test_watching_obeys_wait(small: Path) -> None:
    with Workspace.find(small).writing():
        watching = subprocess.Popen(
            [sys.executable, "-m", "llm_twin", "sync", "--watch", "--wait", "0.1"],
            cwd=small, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
        )  # fmt: skip
        started = time.monotonic()
        told = watching.stderr.readline()
        watching.terminate()
        watching.communicate()
    assert "is being written by process" in told
    assert time.monotonic() - started < 40, "without the option it waits for a minute"
