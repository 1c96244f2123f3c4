"""From a question to the chunks that answer it: encode, search both ways, fuse, look closer, order.

Every method of `METHODS` goes through the same code, so that a benchmark of one measures what users get.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from llm_twin.core.errors import ConfigError, IndexMismatch
from llm_twin.core.ports import Embedder, EmbeddingStore, Reranker, SparseEncoder, Tokenizer, Tracer, VectorIndex
from llm_twin.core.records import Filter, Hit, IndexInfo, Query, embedding_key, embedding_text
from llm_twin.core.vectors import Vector
from llm_twin.inference.rerank import regularised, standardised

Method = Literal["bm25", "dense", "hybrid", "reranked"]
METHODS: tuple[Method, ...] = get_args(Method)

# The closer look weighs as much as dense and BM25 together. `benchmarks/retrieval.py` measures it; figures are flat
# around this value (1 to 2), which is tuned to no collection.
RERANKER_WEIGHT = 2.0
# What a hit takes of the scores of its likes: topical questions gain much (Cranfield), questions with one right page
# lose nothing that can be told from chance (XQuAD, known items of a blog).
NEIGHBOUR_SHARE = 0.3
PLACES_TOLD = 10
"""Candidates whose places a trace tells before and after re-ranking."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit with the raw scores of the question against it: cosine for `dense`, BM25 for `bm25`, the re-ranker's."""

    hit: Hit
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retriever:
    """Search with its collaborators at hand.

    `candidates` chunks of each method and query are looked at closely; others follow where more hits are asked for.
    `store` holds the vectors of indexed chunks.
    """

    index: VectorIndex
    embedder: Embedder
    sparse: SparseEncoder
    store: EmbeddingStore
    reranker: Reranker | None = None
    candidates: int = 50

    def retrieve(
        self,
        queries: Sequence[str],
        *,
        k: int,
        where: Filter = Filter(),
        phrases: Sequence[str] = (),
        method: str = "reranked",
        tracer: Tracer,
    ) -> list[Hit]:
        """The `k` chunks that match best, best first; the first query is the question, others rephrase it.

        Scores compare within one call only. Raises `IndexMismatch` where the index was built by another embedder, and
        `ConfigError` for an unknown method.
        """
        found = self.rank(queries, k=k, where=where, phrases=phrases, method=method, tracer=tracer)
        return [candidate.hit for candidate in found]

    def rank(
        self,
        queries: Sequence[str],
        *,
        k: int,
        where: Filter = Filter(),
        phrases: Sequence[str] = (),
        method: str = "reranked",
        tracer: Tracer,
    ) -> list[Candidate]:
        """The same with the evidence of every method beside each hit."""
        if method not in METHODS:
            raise ConfigError(f"there is no search method {method!r}; use one of {', '.join(METHODS)}")
        info = self.index.info()
        if info is None or not info.count:
            return []
        self._check(info)
        depth = max(self.candidates, k)
        results: list[Mapping[str, Sequence[Hit]]] = []
        for text in dict.fromkeys(queries):
            with tracer.span("search", query_length=len(text)) as searching:
                results.append(self.index.search(self._encode(text, info, where=where, method=method), k=depth))
                searching.set(found=sum(map(len, results[-1].values())))
        if phrases:
            with tracer.span("search", phrases=len(phrases)):
                query = self._encode(" ".join(phrases), info, where=where, method="bm25")
                results.append(self.index.search(query, k=depth))
        with tracer.span("fuse"):
            ranked = _fuse([pool(_first(found, self.candidates)) for found in results])
        if method == "reranked" and self.reranker is not None and ranked:
            with tracer.span("rerank", reranker=self.reranker.name, candidates=len(ranked)) as reranking:
                before = _places(ranked)
                ranked = self._rerank(queries[0], ranked, self.reranker)
                reranking.set(before=before, after=_places(ranked))
        if k > len(ranked):
            ranked = _followed_by(ranked, _fuse([pool(found) for found in results]))
        ranked.sort(key=lambda candidate: not holds(candidate.hit, phrases))
        return ranked[:k]

    def clipped(self, question: str) -> bool:
        """Whether the embedder sees only the beginning of a question this long."""
        return clip(question, self.embedder.tokenizer) != question

    def _check(self, info: IndexInfo) -> None:
        for made_by, ours in ((info.embedder, self.embedder.name), (info.sparse, self.sparse.name)):
            if made_by != ours:
                raise IndexMismatch(
                    f"the index was built with {made_by!r} and this workspace searches with {ours!r}; "
                    "run: twin sync --rebuild"
                )

    def _encode(self, text: str, info: IndexInfo, *, where: Filter, method: str) -> Query:
        """The query both ways, or the one way the method asks for; the index searches both in one call."""
        clipped = clip(text, self.embedder.tokenizer)
        return Query(
            text,
            vector=self.embedder.embed([clipped])[0].vector if method != "bm25" else None,
            sparse=self.sparse.encode_query(text, languages=info.languages) if method != "dense" else None,
            where=where,
        )

    def _rerank(self, question: str, ranked: Sequence[Candidate], reranker: Reranker) -> list[Candidate]:
        """The re-ranker's scores mixed in, then every score drawn towards those of the most similar candidates."""
        name = reranker.name
        closer = reranker.scores(clip(question, self.embedder.tokenizer), [candidate.hit for candidate in ranked])
        fused = [candidate.hit.score for candidate in ranked]
        mixed = [score + RERANKER_WEIGHT * near for score, near in zip(fused, standardised(closer), strict=True)]
        final = regularised(mixed, self._vectors(ranked), share=NEIGHBOUR_SHARE)
        return _in_order(
            [
                Candidate(
                    replace(candidate.hit, score=score, found_by=(*candidate.hit.found_by, name)),
                    {**candidate.scores, name: raw},
                )
                for candidate, score, raw in zip(ranked, final, closer, strict=True)
            ]
        )

    def _vectors(self, candidates: Sequence[Candidate]) -> list[Vector]:
        """The candidates' own vectors, from where indexing left them; those that are not there are computed."""
        texts = [embedding_text(candidate.hit.chunk) for candidate in candidates]
        keys = [embedding_key(self.embedder.name, text) for text in texts]
        stored = self.store.embeddings(set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in stored}
        if missing:
            stored |= dict(zip(missing, self.embedder.embed(list(missing.values())), strict=True))
        return [stored[key].vector for key in keys]


def pool(found: Mapping[str, Sequence[Hit]]) -> list[Candidate]:
    """The results of several methods as one list, best first, by the sum of their standardised scores.

    Standardised scores beat reciprocal ranks because they keep by how much one hit beats the next. A hit that a method
    did not return gets the lowest score the method did return: the most it could have had.
    Source: Bruch, Gai & Ingber 2023, An Analysis of Fusion Functions for Hybrid Retrieval.
    """
    hits = {hit.chunk.id: hit for results in found.values() for hit in results}
    raw = {method: {hit.chunk.id: hit.score for hit in results} for method, results in found.items() if results}
    mixed = dict.fromkeys(hits, 0.0)
    for scores in raw.values():
        floor = min(scores.values())
        for chunk_id, score in zip(hits, standardised([scores.get(id_, floor) for id_ in hits]), strict=True):
            mixed[chunk_id] += score
    return _in_order(
        [
            Candidate(
                replace(hit, score=mixed[chunk_id], found_by=tuple(m for m in raw if chunk_id in raw[m])),
                {method: scores[chunk_id] for method, scores in raw.items() if chunk_id in scores},
            )
            for chunk_id, hit in hits.items()
        ]
    )


def _places(candidates: Sequence[Candidate]) -> str:
    """Where the first candidates stand, for a trace: `document:start-end` each, and nothing of what they say."""
    chunks = [candidate.hit.chunk for candidate in candidates[:PLACES_TOLD]]
    return " ".join(f"{chunk.document_id}:{chunk.start}-{chunk.end}" for chunk in chunks)


def _first(found: Mapping[str, Sequence[Hit]], count: int) -> dict[str, Sequence[Hit]]:
    return {method: hits[:count] for method, hits in found.items()}


def _followed_by(ranked: Sequence[Candidate], more: Sequence[Candidate]) -> list[Candidate]:
    """The ranking, then what it lacks of a longer one: who asks for more hits sees the same ones first."""
    known = {candidate.hit.chunk.id for candidate in ranked}
    rest = [candidate for candidate in more if candidate.hit.chunk.id not in known]
    if not ranked or not rest:
        return [*ranked, *rest]
    shift = ranked[-1].hit.score - rest[0].hit.score
    return [*ranked, *(replace(found, hit=replace(found.hit, score=found.hit.score + shift)) for found in rest)]


def _fuse(pools: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """The results of several queries as one list. One query keeps its scores; several are fused by their ranks."""
    if len(pools) == 1:
        return list(pools[0])
    ranks = reciprocal_ranks([[candidate.hit.chunk.id for candidate in found] for found in pools])
    best: dict[str, Candidate] = {}
    for candidate in (candidate for found in pools for candidate in found):
        known = best.get(candidate.hit.chunk.id)
        best[candidate.hit.chunk.id] = candidate if known is None else _both(known, candidate)
    return _in_order(
        [replace(candidate, hit=replace(candidate.hit, score=ranks[key])) for key, candidate in best.items()]
    )


def _both(one: Candidate, other: Candidate) -> Candidate:
    found_by = tuple(dict.fromkeys((*one.hit.found_by, *other.hit.found_by)))
    scores = dict(one.scores)
    for method, score in other.scores.items():
        scores[method] = max(score, scores.get(method, score))
    return Candidate(replace(one.hit, found_by=found_by), scores)


def reciprocal_ranks(rankings: Sequence[Sequence[str]], *, k: int = 60) -> dict[str, float]:
    """Fused score of every id that occurs in a ranking: the sum of 1 / (k + rank), ranks from 1.

    Source: Cormack, Clarke & Büttcher 2009, Reciprocal Rank Fusion.
    """
    fused: dict[str, float] = {}
    for ranking in rankings:
        for rank, id_ in enumerate(ranking, start=1):
            fused[id_] = fused.get(id_, 0.0) + 1.0 / (k + rank)
    return fused


def clip(text: str, tokenizer: Tokenizer) -> str:
    """The beginning of a text that fits the tokenizer's window, cut between tokens."""
    offsets = tokenizer.offsets(text)
    return text if len(offsets) <= tokenizer.window else text[: offsets[tokenizer.window - 1][1]]


def holds(hit: Hit, phrases: Sequence[str]) -> bool:
    """Whether a chunk says every phrase word for word; case, hyphens and line breaks do not count."""
    text = _spelling(hit.chunk.text)
    return all(_spelling(phrase) in text for phrase in phrases)


def _spelling(text: str) -> str:
    return " ".join(re.sub(r"(?<=\w)[-\u2010\u2011](?=\w)", " ", text).split()).casefold()


def _in_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; equal scores stand in the order of their documents and offsets, the same on every machine."""
    return sorted(candidates, key=lambda found: (-found.hit.score, found.hit.document.id, found.hit.chunk.start))
