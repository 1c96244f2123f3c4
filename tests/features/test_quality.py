"""The gate refuses what is no writing, says why, and keeps everything an author wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.pipeline import Dropped, LocalRunner, RunReport
from llm_twin.core.records import Document
from llm_twin.features.quality import assess, gate


def document(text, *, title="", name="d"):
    return Document(name, "Mira", "web", "article", title, text, "h", datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t\n", "empty"),
        ("---\n\n***\n\n#\n", "empty"),
        ("3.14 42 — 17 %", "no_words"),
        ("🎉🎉🎉", "no_words"),
        ("Hm.", "too_short"),
        ("# 404\n\nPage not found", "placeholder"),
        ("This page could not be found.", "placeholder"),
        ("Just a moment...\n\nChecking your browser before you go on.", "placeholder"),
        ("Verifying you are human. This may take a few seconds.", "placeholder"),
        ("Please enable JavaScript and cookies to continue", "placeholder"),
        ("502 Bad Gateway\n\nnginx", "placeholder"),
        ("Access to this page has been denied.", "placeholder"),
        ("## My theme\n\nLorem ipsum dolor sit amet, consectetur adipiscing elit.", "placeholder"),
        ("Lorem ipsum dolor sit amet. " * 300, "placeholder"),
        ("\n\n".join(["Read the next page of this story now."] * 40 + ["And then it ended."]), "repeated_lines"),
        ("these three words " + "%$#@ &*() {}[] <> ~^ " * 40, "symbols"),
    ],
)
def test_what_is_no_writing_is_refused_with_its_reason(text, reason):
    assert assess(document(text)) == reason


@pytest.mark.parametrize(
    "text",
    [
        "We shipped it. Thank you all.",
        "Einfach anfangen, sagte sie.",
        "今日は雨でした。",
        "비가 왔다, 그리고 우리는 웃었다.",
        "ฝนตก",
        "```python\nprint(1)\n```",
        "Install:\n\n```\npip install llm-twin\n```",
        "```\n" + "00 ff {} ;; ## \n" * 50 + "```",
        "- [One](https://example.org/1)\n- [Two](https://example.org/2)\n- [Three](https://example.org/3)",
        "404 is my favourite number, and here is why.",
        "500 words a day: what a year of it taught me.",
        "Just a moment of silence for the floppy disk.",
        "Under construction is how I would describe my whole career.",
        "Enable JavaScript? No. I build pages that work without it, and you should too.",
        "Designers write lorem ipsum dolor sit amet where words should be. I ask for the words first.",
        "| a | b |\n|---|---|\n" + "| yes | no |\n" * 40,
        "Chorus, and again the same line.\n" * 5 + "Verse one has other words than verse two.\n" * 4,
    ],
)
def test_short_foreign_coded_and_listed_writing_stays(text):
    assert assess(document(text)) is None


def test_a_post_of_one_word_stays_when_its_title_says_the_rest():
    assert assess(document("Yes.", title="Is this the year of the desktop?")) is None


def test_an_article_about_error_pages_stays():
    text = "404: not found\n\n" + "A good error page says what was asked for, and where to go from here. " * 8
    assert assess(document(text)) is None


def test_the_step_drops_by_id_and_reason_and_keeps_the_rest_in_order():
    report = RunReport()
    documents = [document("A first note.", name="a"), document("", name="b"), document("A second note.", name="c")]
    assert [each.id for each in LocalRunner().run([gate()], documents, report)] == ["a", "c"]
    assert report.dropped == [Dropped("b", "empty")]


@given(st.text())
def test_every_text_is_either_kept_or_refused_for_a_known_reason(text):
    reasons = {None, "empty", "no_words", "too_short", "placeholder", "repeated_lines", "symbols"}
    assert assess(document(text)) in reasons


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("blog-matklad/posts.jsonl", []),
        ("blog-simonw-til/posts.jsonl", []),
        ("blog-jakearchibald/posts.jsonl", []),
        ("cranfield/corpus.jsonl", ["471", "995"]),
        ("xquad-en/corpus.jsonl", []),
    ],
)
def test_of_real_corpora_only_empty_documents_are_refused(corpus, name, empty):
    records = [json.loads(line) for line in corpus(name).read_text(encoding="utf-8").splitlines()]
    reasons = {
        record.get("id") or record["_id"]: assess(document(record["text"], title=record["title"])) for record in records
    }
    assert {name: reason for name, reason in reasons.items() if reason} == dict.fromkeys(empty, "empty")
