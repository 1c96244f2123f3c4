from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.adapters.otel import SilentTracer
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.errors import ConfigError, IndexMismatch
from llm_twin.core.records import Chunk, DocumentHeader, Filter, Hit
from llm_twin.inference.rerank import MaxSimReranker, standardised
from llm_twin.inference.retrieve import METHODS, Retriever, clip, pool, reciprocal_ranks
from small_parts import WordEmbedder, WordTokenizer, article, indexed

POSTS = [
    article("orm", "ORMs hide the query you pay for.\n\nI write plain SQL and measure it.", title="Against ORMs"),
    article("bread", "Sourdough wants patience and a warm kitchen.", title="Bread", source="medium"),
    article("cache", "A cache is a second database nobody backs up.", title="Caches"),
    article(
        "sql",
        "Plain SQL reads like the question it answers.",
        title="SQL",
        published_at=datetime(2021, 5, 1, tzinfo=UTC),
    ),
    article("dup-b", "Two posts say the very same thing.", title="Same"),
    article("dup-a", "Two posts say the very same thing.", title="Same"),
]


def retriever(folder, *, rerank=True, posts=POSTS) -> Retriever:
    embedder = WordEmbedder()
    store, index = indexed(posts, folder, embedder)
    return Retriever(index, embedder, Bm25Encoder(), store, MaxSimReranker(embedder, store) if rerank else None)


@pytest.fixture(scope="module")
def posts(tmp_path_factory) -> Retriever:
    return retriever(tmp_path_factory.mktemp("index"))


def found(posts: Retriever, question: str, *, k: int = 3, **options) -> list[Hit]:
    return posts.retrieve([question], k=k, tracer=SilentTracer(), **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_post_that_answers(posts, method):
    hits = found(posts, "sourdough in a warm kitchen", method=method)
    assert hits[0].document.id == "bread"
    assert hits == sorted(hits, key=lambda hit: -hit.score)


@pytest.mark.parametrize(
    ("method", "found_by"),
    [
        ("bm25", ("bm25",)),
        ("dense", ("dense",)),
        ("hybrid", ("dense", "bm25")),
        ("reranked", ("dense", "bm25", "maxsim")),
    ],
)
def test_a_hit_names_the_methods_that_found_it(posts, method, found_by):
    assert found(posts, "patience in the kitchen", method=method)[0].found_by == found_by


def test_a_hit_that_shares_no_word_with_the_question_was_not_found_by_words(posts):
    last = found(posts, "backs up a database", k=10, method="hybrid")[-1]
    assert last.found_by == ("dense",)


def test_a_filter_leaves_only_what_passes_it(posts):
    hits = found(posts, "plain SQL", k=10, where=Filter(since=datetime(2021, 1, 1, tzinfo=UTC)))
    assert {hit.document.id for hit in hits} == {"sql"}
    assert found(posts, "plain SQL", where=Filter(authors=("Nobody",))) == []


def test_hits_with_a_quoted_phrase_come_first_though_others_fit_better(posts):
    question = "plain SQL answers the question"
    assert found(posts, question)[0].document.id == "sql"
    quoted = found(posts, question, phrases=["write plain  SQL"])
    assert quoted[0].chunk.text == "I write plain SQL and measure it."
    assert found(posts, question, phrases=["nobody backs up"])[0].document.id == "cache"


@pytest.mark.parametrize("phrase", ["rust analyzer", "rust-analyzer", "Rust‑Analyzer", "RUST  ANALYZER is"])
def test_a_quoted_phrase_is_found_whatever_its_hyphens_and_capitals(tmp_path, phrase):
    posts = retriever(
        tmp_path,
        posts=[
            article("other", "An analyzer for rust on old cars, an analyzer of rust.", title="Rust analyzer"),
            article("lsp", "For the editor, rust-analyzer\nis what I wrote.", title="Editors"),
        ],
    )
    assert found(posts, "analyzer of rust", phrases=[phrase])[0].document.id == "lsp"


def test_equal_scores_stand_in_the_order_of_documents(posts):
    hits = found(posts, "two posts say the same thing", k=2)
    assert [hit.document.id for hit in hits] == ["dup-a", "dup-b"]
    assert hits[0].score == pytest.approx(hits[1].score)


def test_several_queries_find_what_one_would_miss(posts):
    hits = posts.retrieve(["sourdough", "cache backs up"], k=2, tracer=SilentTracer())
    assert {hit.document.id for hit in hits} == {"bread", "cache"}


def test_who_asks_for_more_hits_than_candidates_gets_them_after_the_same_first_ones(tmp_path):
    many = [article(f"p{number:03}", f"Post {number} about tests. {'tests ' * (number % 7)}") for number in range(120)]
    posts = retriever(tmp_path, posts=many)
    few, all_of_them = found(posts, "post about tests", k=10), found(posts, "post about tests", k=115)
    assert len({hit.chunk.id for hit in all_of_them}) == 115
    assert all_of_them[:10] == few
    assert [hit.score for hit in all_of_them] == sorted((hit.score for hit in all_of_them), reverse=True)


def test_a_chunk_whose_likes_answer_too_stands_before_one_that_stands_alone(tmp_path):
    posts = [
        *(article(f"like{number}", f"The borrow checker and lifetimes, part {number}.") for number in range(6)),
        article("like9", "The checker and lifetimes, part nine."),
        article("alone", "The checker weighed my luggage, part nine."),
        *(article(f"other{number}", f"Gardening in week {number} of spring.") for number in range(6)),
    ]
    order = [hit.document.id for hit in found(retriever(tmp_path, posts=posts), "checker", k=14)]
    assert order.index("like9") < order.index("alone")


def test_a_store_that_lost_its_embeddings_costs_time_and_not_the_answer(tmp_path):
    kept = retriever(tmp_path)
    expected = found(kept, "plain SQL")
    kept.store.forget_embeddings(kept.store.embedding_keys())
    assert [hit.chunk.id for hit in found(kept, "plain SQL")] == [hit.chunk.id for hit in expected]


def test_an_index_of_another_embedder_is_an_error_that_says_what_to_run(tmp_path):
    embedder = WordEmbedder()
    store, index = indexed(POSTS, tmp_path, embedder, name="another/2")
    with pytest.raises(IndexMismatch, match=r"'another/2'.*'words/1'.*twin sync --rebuild"):
        found(Retriever(index, embedder, Bm25Encoder(), store), "SQL")


def test_an_unknown_method_is_an_error_that_names_the_known_ones(posts):
    with pytest.raises(ConfigError, match=r"'magic'.*bm25, dense, hybrid, reranked"):
        found(posts, "SQL", method="magic")


def test_nothing_published_finds_nothing(tmp_path):
    store, _ = indexed(POSTS, tmp_path / "full")
    empty = Retriever(QdrantEdgeIndex(tmp_path / "empty"), WordEmbedder(), Bm25Encoder(), store)
    assert found(empty, "SQL") == []


def test_a_question_longer_than_the_window_is_searched_by_its_beginning_and_all_its_words(posts):
    long = "patience " * 70 + "sourdough"
    assert posts.clipped(long)
    assert not posts.clipped("patience")
    assert found(posts, long)[0].document.id == "bread"
    assert clip(long, WordTokenizer()) == "patience " * 59 + "patience"


def test_a_question_without_words_is_no_error(posts):
    for question in ("", "???", "the of"):
        assert isinstance(found(posts, question), list)


# --- fusion ---------------------------------------------------------------------------------------------------------


def test_reciprocal_ranks_are_those_of_the_paper():
    assert reciprocal_ranks([["a", "b"], ["b"]]) == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 61})


def test_standardised_scores_have_mean_zero_and_deviation_one():
    assert standardised([1.0, 2.0, 3.0]) == pytest.approx([-1.224745, 0.0, 1.224745])
    assert standardised([5.0, 5.0]) == [0.0, 0.0]
    assert standardised([]) == []


def hit(id_: str, score: float) -> Hit:
    return Hit(Chunk(id_, f"d{id_}", id_, 0, 1), DocumentHeader(f"d{id_}", "Ada", "files", "article", id_), score)


SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 50), max_size=8)


@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_fusion_keeps_every_hit_once_and_does_not_depend_on_the_order_of_its_input(dense, bm25, rng: random.Random):
    results = {
        "dense": [hit(id_, score) for id_, score in dense.items()],
        "bm25": [hit(id_, score) for id_, score in bm25.items()],
    }
    fused = pool(results)
    assert {found.hit.chunk.id for found in fused} == dense.keys() | bm25.keys()
    assert len(fused) == len(dense.keys() | bm25.keys())
    for results_of_method in results.values():
        rng.shuffle(results_of_method)
    again = pool(results)
    assert [found.hit.score for found in again] == pytest.approx([found.hit.score for found in fused])


@given(SCORES)
def test_a_hit_better_by_both_methods_is_never_behind(scores):
    results = {"dense": [hit(i, s) for i, s in scores.items()], "bm25": [hit(i, s * 2) for i, s in scores.items()]}
    order = [found.scores["dense"] for found in pool(results)]
    assert all(before >= after or before == pytest.approx(after) for before, after in itertools.pairwise(order))
