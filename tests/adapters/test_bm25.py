"""What counts as the same term, in documents and in questions."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.adapters.bm25 import Bm25Encoder, terms

ENCODER = Bm25Encoder()


def finds(question, text, *, language="en", languages=None):
    """How many terms of the question stand in the text."""
    asked = ENCODER.encode_query(question, languages=[language] if languages is None else languages)
    return len(set(asked.indices) & set(ENCODER.encode(text, language=language).indices))


@pytest.mark.parametrize(
    ("question", "text", "language"),
    [
        ("running", "He runs every day", "en"),
        ("RELATIONAL databases", "a relation in the database", "en"),
        ("Häuser", "das Haus am See", "de"),
        ("nationalités", "la nationalité", "fr"),
        ("l'arbre", "c’est d’arbres", "fr"),
        ("книги", "книга о собаке", "ru"),
        ("ﬁne", "a fine day", "en"),
        ("main street", "ＭＡＩＮ street", "en"),
    ],
)
def test_a_question_finds_other_forms_of_its_words(question, text, language):
    assert finds(question, text, language=language) > 0


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("std::vector", "use std::vector<int> here"),
        ("vector", "use std::vector<int> here"),
        ("snake_case", "a snake_case name"),
        ("case", "a snake_case name"),
        ("getUserName", "call getUserName() first"),
        ("user", "call getUserName() first"),
        ("getusername", "call getUserName() first"),
        ("server", "class HTTPServer:"),
        ("http", "class HTTPServer:"),
        ("C++", "I like C++."),
        ("C#", "(C#)"),
        ("__init__", "def __init__(self)"),
        ("numpy.linalg", "import numpy.linalg as la"),
        ("linalg", "import numpy.linalg as la"),
        ("3.12.1", "Python 3.12.1 is out"),
        ("k8s", "our k8s cluster"),
        ("pyproject.toml", "see `pyproject.toml`."),
    ],
)
def test_a_name_in_code_is_found_whole_and_by_its_parts(question, text):
    assert finds(question, text) > 0


def test_the_whole_name_matches_more_than_its_parts_alone():
    assert finds("std::vector", "std::vector") > finds("std::vector", "a vector of std")
    assert finds("C++", "C++") > finds("C++", "vitamin C")
    assert finds("3.12", "3.12") > finds("3.12", "12.3")


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("日本", "東京は日本の首都です"),
        ("分词", "中文分词测试"),
        ("ภาษา", "ภาษาไทย"),
        ("한국어", "나는 한국어를 배운다"),
        ("書く", "Pythonで書くのが好き"),
    ],
)
def test_scripts_without_spaces_are_found_by_pairs_of_characters(question, text):
    assert finds(question, text, language="xx") > 0
    assert finds("Python", "Pythonで書くのが好き", language="ja") == 1


def test_letters_keep_their_marks():
    assert list(terms("हिन्दी में।")) == ["हिन्दी", "में"]
    assert finds("हिन्दी", "मैं हिन्दी बोलता हूँ", language="hi") == 1


def test_words_that_say_nothing_are_left_out():
    assert ENCODER.encode("it is what it is and don't", language="en").indices == ()
    assert ENCODER.encode_query("to be or not to be").indices == ()
    assert ENCODER.encode("").values == ()


def test_weights_are_those_of_the_textbook():
    text = "kaf kaf kaf lum"
    one = 1.2 * (0.25 + 0.75 * 4 / 100)
    weights = sorted(ENCODER.encode(text).values)
    assert weights == pytest.approx([1 * 2.2 / (1 + one), 3 * 2.2 / (3 + one)], rel=1e-5)


def test_a_document_of_unknown_language_is_found_whatever_languages_the_index_holds():
    known, unknown = ENCODER.encode("running", language="en"), ENCODER.encode("running")
    assert known == unknown
    for languages in ([], ["de"], ["de", "fr", "ja"]):
        assert set(unknown.indices) <= set(ENCODER.encode_query("runs", languages=languages).indices)


def test_a_question_is_analysed_in_every_language_of_the_index_and_no_term_counts_twice():
    languages = ["en", "de", "fr", "nb", "en-US", "tlh"]
    question = ENCODER.encode_query("nationale Häuser running running 2024", languages=languages)
    for language, text in [("en", "runs"), ("de", "Haus"), ("fr", "nationales"), ("nb", "2024")]:
        assert set(ENCODER.encode(text, language=language).indices) & set(question.indices), language
    assert len(set(question.indices)) == len(question.indices)
    assert set(question.values) == {1.0}
    assert question == ENCODER.encode_query("nationale Häuser running running 2024", languages=languages[::-1])


def test_a_language_nobody_can_stem_is_lower_cased_and_nothing_else():
    assert len(ENCODER.encode("The Runs the runs", language="tlh").indices) == 2


def test_ids_are_the_same_in_every_process_and_release():
    """They are stored in indexes: if this fails, raise the version in `Bm25Encoder.name`."""
    assert ENCODER.encode("running").indices == (243905464,)
    assert ENCODER.encode_query("東京").indices == (1765863102,)


def test_the_name_tells_every_setting_that_changes_what_is_stored():
    names = {
        Bm25Encoder().name,
        Bm25Encoder(k1=1.5).name,
        Bm25Encoder(b=0.5).name,
        Bm25Encoder(average_length=200).name,
        Bm25Encoder(default_language="de").name,
    }
    assert len(names) == 5


@given(st.text())
def test_any_text_gives_distinct_unsigned_ids_with_finite_weights(text):
    for vector in (ENCODER.encode(text), ENCODER.encode_query(text, languages=["en", "de", "zh"])):
        assert len(set(vector.indices)) == len(vector.indices) == len(vector.values)
        assert all(0 <= index < 2**32 for index in vector.indices)
        assert all(math.isfinite(value) and value > 0 for value in vector.values)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_text_is_found_by_its_own_words(text):
    assert set(ENCODER.encode(text).indices) <= set(ENCODER.encode_query(text).indices)


# --- on real collections --------------------------------------------------------------------------------------------


def ndcg_at_10(folder, chunk_words=200):
    """Binary relevance; a long document is cut, and its score is that of its best chunk."""
    documents, queries = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").split("\n") if line]
        for name in ("corpus", "queries")
    )
    relevant = defaultdict(set)
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            relevant[query].add(document)
    owners, postings = [], defaultdict(list)
    for document in documents:
        words = f"{document['title']} {document['text']}".split()
        for start in range(0, max(1, len(words)), chunk_words):
            vector = ENCODER.encode(" ".join(words[start : start + chunk_words]), language="en")
            for index, value in zip(vector.indices, vector.values, strict=True):
                postings[index].append((len(owners), value))
            owners.append(document["_id"])
    gains = []
    for query in queries:
        scores = defaultdict(float)
        for index in ENCODER.encode_query(query["text"], languages=["en"]).indices:
            rarity = math.log(1 + (len(owners) - len(postings[index]) + 0.5) / (len(postings[index]) + 0.5))
            for chunk, value in postings[index]:
                scores[chunk] += rarity * value
        best = defaultdict(float)
        for chunk, score in scores.items():
            best[owners[chunk]] = max(best[owners[chunk]], score)
        wanted = relevant[query["_id"]]
        ranked = sorted(best, key=lambda document: -best[document])[:10]
        if wanted:
            gain = sum(1 / math.log2(place + 2) for place, document in enumerate(ranked) if document in wanted)
            gains.append(gain / sum(1 / math.log2(place + 2) for place in range(min(10, len(wanted)))))
    return sum(gains) / len(gains)


@pytest.mark.parametrize(("collection", "plain"), [("cranfield", 0.485), ("xquad-en", 0.963)])
def test_retrieval_is_better_than_bm25_without_stemming(data_dir, collection, plain):
    assert ndcg_at_10(data_dir / collection) > plain
