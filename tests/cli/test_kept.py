"""Feedback and files of questions in the terminal: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _twin(*arguments: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm_twin", *arguments],
        cwd=cwd, env=dict(os.environ), input=stdin, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "posts").mkdir()
    (home / "posts" / "orms.md").write_text(
        "---\ntitle: On ORMs\n---\n\nI don't like ORMs, because they hide the query. The query is the program.\n"
    )
    assert _twin("init", "--author", "Test Author", "posts", cwd=home).returncode == 0
    assert _twin("sync", cwd=home).returncode == 0
    return home


def test_the_last_answer_is_rated_edited_listed_shown_exported_and_removed(home: Path) -> None:
    nothing = _twin("feedback", "add", "last", "up", cwd=home)
    assert (nothing.returncode, "nothing was asked yet" in nothing.stderr) == (9, True)
    asked = json.loads(_twin("ask", "What do I think of ORMs?", "--json", cwd=home).stdout)
    assert asked["exchange_id"].startswith(asked["conversation_id"])
    added = _twin("feedback", "add", "last", "down", "--reason", "too long", cwd=home)
    assert "down, too long: What do I think of ORMs?" in added.stdout
    edited = _twin("feedback", "add", asked["exchange_id"], "--edit", "-", cwd=home, stdin="They hide the query. [1]\n")
    (line,) = _twin("feedback", "list", cwd=home).stdout.splitlines()
    feedback_id = line.split()[0]
    assert edited.stdout.split()[0] == feedback_id
    assert "down, edited, too long: What do I think of ORMs?" in line
    assert json.loads(_twin("feedback", "list", "--json", cwd=home).stdout)[0]["edit"] == "They hide the query. [1]"
    shown = _twin("feedback", "show", feedback_id, cwd=home).stdout
    for part in ("What do I think of ORMs?", "[1] On ORMs", "rating: down", "reason: too long", "They hide the query"):
        assert part in shown
    (pair,) = _twin("feedback", "export", cwd=home).stdout.splitlines()
    assert json.loads(pair)["chosen"][0]["content"] == "They hide the query. [1]"
    out = home / "questions.jsonl"
    done = _twin("feedback", "export", "--format", "questions", "--out", str(out), cwd=home)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(out.read_text())["expected"] == "They hide the query. [1]"
    assert _twin("feedback", "remove", feedback_id, cwd=home).returncode == 0
    gone = _twin("feedback", "show", feedback_id, cwd=home)
    assert (gone.returncode, "there is no feedback" in gone.stderr) == (9, True)


def test_export_counts_what_has_no_place_in_the_format(home: Path) -> None:
    _twin("ask", "What do I think of ORMs?", cwd=home)
    feedback_id = _twin("feedback", "add", "last", "up", cwd=home).stdout.split()[0]
    done = _twin("feedback", "export", cwd=home)
    assert (done.stdout, done.stderr) == ("", "left out 1: no edit\n")
    _twin("feedback", "remove", feedback_id, cwd=home)


def test_a_file_of_questions_is_answered_in_order_and_bad_lines_are_told(home: Path) -> None:
    lines = ['{"id": "a", "question": "What do I think of ORMs?"}', "nonsense", '{"id": 3, "question": "And wine?"}']
    (home / "q.jsonl").write_text("\n".join(lines))
    done = _twin("ask", "--file", "q.jsonl", "--out", "a.jsonl", "--concurrency", "2", cwd=home)
    assert done.returncode == 1
    assert "1 of 3 questions have no answer" in done.stderr
    results = [json.loads(line) for line in (home / "a.jsonl").read_text().splitlines()]
    assert [(result["id"], result["line"]) for result in results] == [("a", 1), (None, 2), (3, 3)]
    assert results[0]["answer"]["citations"][0]["title"] == "On ORMs"
    assert results[1]["error"]["type"] == "ConfigError"
    (home / "q.jsonl").write_text(lines[0])
    again = _twin("ask", "--file", "q.jsonl", cwd=home)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["answer"]["mode"] == "extractive"


def test_files_that_are_not_there_are_named(home: Path) -> None:
    asked = _twin("ask", "--file", "nowhere.jsonl", cwd=home)
    assert (asked.returncode, "nowhere.jsonl cannot be read" in asked.stderr) == (2, True)
    edited = _twin("feedback", "add", "last", "--edit", "nowhere.md", cwd=home)
    assert (edited.returncode, "nowhere.md" in edited.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [[], ["x", "--file", "posts/orms.md"], ["--file", "posts/orms.md", "--since", "2020"], ["x", "--out", "a.jsonl"]],
)
def test_asking_for_one_and_for_many_at_once_explains_itself(home: Path, arguments: list[str]) -> None:
    done = _twin("ask", *arguments, cwd=home)
    assert done.returncode == 2
    assert "--file" in done.stderr or "the lines of a file" in done.stderr
