from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.core.errors import ModelError
from llm_twin.core.records import Chunk, DocumentHeader, Embedding, Hit, embedding_key, embedding_text
from llm_twin.core.vectors import maxsim, pack_tokens
from llm_twin.inference.rerank import MaxSimReranker, regularised


class WordEmbedder:
    """Every word has a direction of its own, so that what MaxSim should find can be read off the texts."""

    name = "words/1"
    dim = 64

    def __init__(self, *, with_tokens: bool = True) -> None:
        self.embedded: list[str] = []
        self._with_tokens = with_tokens

    def embed_tokens(self, text: str) -> np.ndarray:
        rows = [np.random.default_rng(list(word.encode())).normal(size=self.dim) for word in text.lower().split()]
        matrix = np.array(rows, np.float32).reshape(-1, self.dim)
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def embed(self, texts, *, tokens=False):
        self.embedded += texts
        return [
            Embedding(
                self.embed_tokens(text).mean(axis=0),
                pack_tokens(self.embed_tokens(text)) if tokens and self._with_tokens else None,
            )
            for text in texts
        ]


def hit(number: int, text: str, heading_path: tuple[str, ...] = ()) -> Hit:
    document = DocumentHeader(f"d{number}", "Ada", "files", "article", "A title")
    return Hit(Chunk(f"c{number}", document.id, text, 0, len(text), heading_path), document, 1.0 / number)


HITS = [
    hit(1, "I baked bread on Sunday"),
    hit(2, "ORMs hide the query you pay for"),
    hit(3, "the query planner knows best"),
    hit(4, "you pay for it later", ("ORMs", "Why they hide things")),
]


@pytest.fixture
def embedder():
    return WordEmbedder()


@pytest.fixture
def warehouse():
    return MemoryWarehouse()


def store(warehouse, embedder, hits):
    texts = [embedding_text(one.chunk) for one in hits]
    made = embedder.embed(texts, tokens=True)
    warehouse.save_embeddings({embedding_key(embedder.name, t): e for t, e in zip(texts, made, strict=True)})
    embedder.embedded.clear()


def test_the_chunk_that_holds_every_word_of_the_question_comes_first(warehouse, embedder):
    store(warehouse, embedder, HITS)
    scores = MaxSimReranker(embedder, warehouse).scores("orms hide the query", HITS)
    assert sorted(range(4), key=lambda place: -scores[place])[0] == 1
    assert min(range(4), key=scores.__getitem__) == 0


def test_the_heading_path_counts_as_part_of_the_chunk(warehouse, embedder):
    bare, headed = hit(1, "you pay for it later"), HITS[3]
    scores = MaxSimReranker(embedder, warehouse).scores("ORMs pay", [bare, headed])
    assert scores[1] > scores[0] + 0.2


def test_stored_token_vectors_are_used_and_nothing_is_embedded(warehouse, embedder):
    store(warehouse, embedder, HITS)
    reranker = MaxSimReranker(embedder, warehouse)
    scores = reranker.scores("the query", HITS)
    assert embedder.embedded == []
    assert reranker.encoded == 0
    exact = [pack_tokens(embedder.embed_tokens(embedding_text(one.chunk))) for one in HITS]
    assert scores == pytest.approx(maxsim(embedder.embed_tokens("the query"), exact))


def test_token_vectors_that_are_not_stored_are_computed_counted_and_score_the_same(warehouse, embedder):
    everything = MemoryWarehouse()
    store(everything, embedder, HITS)
    expected = MaxSimReranker(embedder, everything).scores("the query", HITS)
    store(warehouse, embedder, HITS[:2])
    reranker = MaxSimReranker(embedder, warehouse)
    assert reranker.scores("the query", HITS) == pytest.approx(expected)
    assert embedder.embedded == [embedding_text(one.chunk) for one in HITS[2:]]
    assert reranker.encoded == 2


def test_embeddings_stored_without_token_vectors_or_by_another_embedder_do_not_count(warehouse, embedder):
    text = embedding_text(HITS[0].chunk)
    vector = embedder.embed([text])[0]
    warehouse.save_embeddings({embedding_key(embedder.name, text): vector, embedding_key("other/1", text): vector})
    reranker = MaxSimReranker(embedder, warehouse)
    assert reranker.scores("bread", HITS[:1])[0] > 0
    assert reranker.encoded == 1


def test_two_hits_of_equal_text_are_encoded_once_and_score_alike(warehouse, embedder):
    reranker = MaxSimReranker(embedder, warehouse)
    scores = reranker.scores("bread", [hit(1, "I baked bread"), hit(2, "no"), hit(3, "I baked bread")])
    assert scores[0] == scores[2] > scores[1]
    assert reranker.encoded == 2


def test_no_hits_give_no_scores(warehouse, embedder):
    assert MaxSimReranker(embedder, warehouse).scores("bread", []) == []


def test_an_embedder_without_token_vectors_is_told_of_not_scored_zero(warehouse):
    reranker = MaxSimReranker(WordEmbedder(with_tokens=False), warehouse)
    with pytest.raises(ModelError, match=r"'words/1' gives no token vectors.* set search\.reranker"):
        reranker.scores("bread", HITS)


def test_requests_at_once_lose_no_count(warehouse, embedder):
    reranker = MaxSimReranker(embedder, warehouse)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: reranker.scores("the query", HITS), range(50)))
    assert reranker.encoded == 200


def unit(*values: float) -> np.ndarray:
    return np.array(values, np.float32) / np.linalg.norm(values)


def test_a_candidate_among_good_ones_passes_one_of_equal_score_that_stands_alone():
    """Three alike at the top, one loner between two weak ones: the company decides."""
    strong, weak = unit(1, 0, 0.1), unit(0, 1, 0.1)
    vectors = [strong, strong, strong, weak, weak, weak, weak]
    scores = [3.0, 2.9, 2.0, 2.0, 0.5, 0.4, 0.3]
    found = regularised(scores, vectors, neighbours=2)
    assert found[2] > found[3] > found[4]


def test_the_share_of_the_neighbours_decides_how_far_scores_move():
    rng = np.random.default_rng(0)
    vectors = [unit(*rng.normal(size=8)) for _ in range(20)]
    scores = list(rng.normal(size=20))
    alone = regularised(scores, vectors, share=0.0)
    assert np.corrcoef(alone, scores)[0, 1] == pytest.approx(1.0)
    assert np.allclose([np.mean(alone), np.std(alone)], [0.0, 1.0])
    moved = [np.abs(np.subtract(regularised(scores, vectors, share=share), alone)).mean() for share in (0.1, 0.3, 0.6)]
    assert moved == sorted(moved)
    assert moved[0] > 0


def test_few_equal_or_unrelated_candidates_are_no_trouble():
    assert regularised([], []) == []
    assert regularised([4.0], [unit(1, 0)]) == [0.0]
    assert regularised([1.0, 3.0], [unit(1, 0), unit(0, 1)]) == [-1.0, 1.0]
    assert regularised([2.0] * 9, [unit(1, 0)] * 9) == [0.0] * 9
    opposite = [unit(*row) for row in np.vstack([np.eye(4), -np.eye(4)])]
    assert np.isfinite(regularised(range(8), opposite)).all()
