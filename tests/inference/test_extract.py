from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.core.records import Document, Passage
from llm_twin.inference.extract import MAX_CHARACTERS, extract
from small_parts import WordEmbedder, article

TESTS = article(
    "tests",
    "Most of what people write about testing is about tools. Unit tests should test features, not code. They "
    "survive a rewrite only then. I once broke a build for a week.\n\n"
    "> Unit tests are a waste of time, said somebody else.\n",
    title="How to test",
)
CODE = article(
    "code",
    "Run the slow tests behind a flag, so that nobody waits for them.\n\n```\ncargo test --slow\n```\n\n"
    "The rest of the evening is for bread.",
    title="Slow tests",
)


def passage(document: Document, number: int = 1, start: int = 0, end: int | None = None) -> Passage:
    stop = len(document.text) if end is None else end
    return Passage(number, document.header, document.text[start:stop], start, stop, score=1.0 / number)


def quoted(question: str, *passages: Passage):
    return extract(question, passages, embedder=WordEmbedder(), sparse=Bm25Encoder())


def test_the_answer_is_the_sentence_that_answers_and_the_reason_after_it():
    answer = quoted("What should unit tests test?", passage(TESTS))
    assert answer.text == ("Unit tests should test features, not code. They survive a rewrite only then. [1]")
    (citation,) = answer.citations
    assert (citation.number, citation.title, citation.url) == (1, "How to test", "https://ada.example/tests")
    assert TESTS.text[citation.start : citation.end] == citation.quote


def test_offsets_count_in_the_document_where_the_passage_begins_later():
    begin = TESTS.text.index("Unit tests should")
    (citation,) = quoted("What should unit tests test?", passage(TESTS, start=begin)).citations
    assert citation.start == begin
    assert TESTS.text[citation.start : citation.end] == citation.quote


def test_what_the_author_quotes_from_others_is_not_the_authors_answer():
    answer = quoted("Are unit tests a waste of time, as somebody said?", passage(TESTS))
    assert "waste" not in answer.text


def test_a_sentence_that_leans_on_the_one_before_brings_it_along():
    post = article("lean", "Nobody reads long pages any more. However, they read short pages in the train to work.")
    answer = quoted("Who reads short pages in the train to work?", passage(post))
    assert answer.text == post.text + " [1]"


def test_code_is_quoted_only_where_the_question_asks_for_it():
    plain = quoted("Why run slow tests behind a flag?", passage(CODE))
    assert "cargo" not in plain.text
    asked = quoted("What is the command to run slow tests?", passage(CODE))
    assert "```\ncargo test --slow\n```\n[1]" in asked.text
    assert all(CODE.text[c.start : c.end] == c.quote for c in asked.citations)


@pytest.mark.parametrize(
    "sentence",
    [
        "Why should unit tests test features at all?",
        "Here is what unit tests should test:",
        "See [what unit tests should test](https://ada.example/a-long-address-of-a-page).",
        "Unit tests should test features, as shown in [1] and elsewhere.",
        "Unit tests.",
        "<https://ada.example/what-should-unit-tests-test-and-what-should-they-not>",
        "https://ada.example/what/should/unit/tests/test",
        "[What should unit tests test, and what not?](https://ada.example/x), by a friend.",
        "[Unit tests and what they test](https://a.example) and [Unit tests in Rust](https://b.example).",
        "See also: [Unit tests](https://a.example), [What tests should test](https://b.example).",
        "Further reading: what unit tests should test, by [Ada](https://a.example).",
        "![What unit tests should test, drawn by hand.](tests.png)",
        "[![What unit tests should test](tests.png)](https://ada.example/x) What a unit test is.",
        "- [Unit tests](https://a.example) --- explains what unit tests should test and why.",
        "- <https://a.example>: what unit tests should test, told by somebody else.",
    ],
)
def test_questions_lead_ins_pointers_and_bracketed_numbers_are_no_answers(sentence):
    post = article("p", f"{sentence}\n\nA test of a unit should look at behaviour first.")
    assert quoted("What should unit tests test?", passage(post)).text == (
        "A test of a unit should look at behaviour first. [1]"
    )


def test_a_sentence_with_a_link_in_it_is_still_the_authors():
    sentence = "Unit tests should test [features](https://ada.example/features), not code, as I see it."
    assert quoted("What should unit tests test?", passage(article("p", sentence))).text == f"{sentence} [1]"


@pytest.mark.parametrize(
    "after",
    [
        "See also [my talk](https://a.example).",
        "[A talk on tests](https://a.example).",
        "Instead,",
        "Or is it so?",
        "It is said in [2] and [3].",
        "Namely:",
    ],
)
def test_what_follows_is_quoted_only_where_it_can_be(after):
    post = article("p", f"Unit tests should test features, not code. {after}")
    assert (
        quoted("What should unit tests test?", passage(post)).text == "Unit tests should test features, not code. [1]"
    )


def test_passages_are_numbered_in_the_order_in_which_they_are_quoted():
    answer = quoted("What should unit tests test?", passage(CODE, 1), passage(TESTS, 2))
    assert [shown.document.id for shown in answer.passages] == ["tests", "code"]
    assert [shown.number for shown in answer.passages] == [1, 2]
    assert answer.text.endswith("[1]") or "[1]" in answer.text.split("\n\n")[0]


def test_the_same_thing_is_not_said_twice():
    again = article("again", "Unit tests should test features, not code.")
    assert quoted("What should unit tests test?", passage(TESTS), passage(again, 2)).text.count("features") == 1


def test_passages_without_a_sentence_give_no_text():
    table = article("table", "| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n")
    answer = quoted("What is it?", passage(table))
    assert (answer.text, answer.citations) == ("", ())


SENTENCES = st.sampled_from(
    [
        "Unit tests should test features, not code.",
        "They survive a rewrite only then, you know.",
        "Is any of this new to you at all?",
        "- a list item about tests and features\n- another one about code",
        "> a quote about tests from someone else entirely",
        "```\ntest code\n```",
        "## Tests and features",
        "Ein Test ist kein Beweis für die Güte eines Programms — höchstens ein Hinweis.",
        "See [the docs](https://ada.example/x) for all the details of it.",
        "📦 Ship it when the tests are green and you are awake.",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.lists(st.lists(SENTENCES, min_size=1, max_size=6), min_size=1, max_size=3), st.integers(0, 5))
def test_every_quote_stands_word_for_word_in_its_document_and_every_marker_resolves(posts, skipped):
    documents = [article(f"d{number}", "\n\n".join(parts)) for number, parts in enumerate(posts)]
    passages = [passage(document, number, start=skipped) for number, document in enumerate(documents, start=1)]
    answer = quoted("What code should tests test?", *passages)
    texts = {document.id: document.text for document in documents}
    for citation in answer.citations:
        assert texts[citation.document_id][citation.start : citation.end] == citation.quote
        assert citation.quote in answer.text
        assert answer.passages[citation.number - 1].document.id == citation.document_id
    assert {int(number) for number in re.findall(r"\[(\d+)\]", answer.text)} == {c.number for c in answer.citations}
    assert len(answer.text) <= 2 * MAX_CHARACTERS
    assert sorted(p.number for p in answer.passages) == list(range(1, len(passages) + 1))
