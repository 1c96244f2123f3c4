"""A closer look at candidates: late interaction over token vectors, and what like candidates say of each other.

The cross-encoder, the other way to look closer, is a model of its own and lives with the adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from threading import Lock

import numpy as np

from llm_twin.core.errors import ModelError
from llm_twin.core.ports import Embedder, EmbeddingStore
from llm_twin.core.records import Hit, embedding_key, embedding_text
from llm_twin.core.vectors import PackedTokens, Vector, maxsim


class MaxSimReranker:
    """Scores a hit by how well each token of the question is matched by some token of the chunk.

    Token vectors come from `store`, where indexing left them. Those that are not there are computed on the spot, at
    some 5 ms per chunk; `encoded` counts them, so that a store which does not fit the index is seen.

    Source: Khattab & Zaharia 2020, ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction.
    """

    name = "maxsim"

    def __init__(self, embedder: Embedder, store: EmbeddingStore) -> None:
        self._embedder = embedder
        self._store = store
        self._counting = Lock()
        self.encoded = 0

    def scores(self, question: str, hits: Sequence[Hit]) -> list[float]:
        """Mean over the question's tokens of the best cosine to any token of the chunk: -1 to 1.

        Raises `ModelError` where a chunk without stored vectors exceeds the embedder's window.
        """
        if not hits:
            return []
        return maxsim(self._embedder.embed_tokens(question), self._tokens_of(hits))

    def _tokens_of(self, hits: Sequence[Hit]) -> list[PackedTokens]:
        texts = [embedding_text(hit.chunk) for hit in hits]
        keys = [embedding_key(self._embedder.name, text) for text in texts]
        tokens = self._store.tokens(set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in tokens}
        if missing:
            tokens |= self._encode(missing)
        return [tokens[key] for key in keys]

    def _encode(self, texts: Mapping[str, str]) -> dict[str, PackedTokens]:
        made = self._embedder.embed(list(texts.values()), tokens=True)
        tokens = {key: one.tokens for key, one in zip(texts, made, strict=True) if one.tokens is not None}
        if len(tokens) < len(texts):
            raise ModelError(
                f"the embedder {self._embedder.name!r} gives no token vectors, which re-ranking by maxsim needs; "
                "set search.reranker to cross_encoder or none"
            )
        with self._counting:
            self.encoded += len(tokens)
        return tokens


def regularised(
    scores: Sequence[float], vectors: Sequence[Vector], *, share: float = 0.2, neighbours: int = 5
) -> list[float]:
    """Scores drawn towards those of the most similar candidates, standardised: mean 0, standard deviation 1.

    Closely associated texts tend to answer the same questions, so a candidate whose nearest others score well deserves
    more than one that stands alone. `vectors` are the candidates' own; a candidate takes `share` of its score from its
    `neighbours`, weighted by cosine. Fewer candidates than that keep their order.

    Source: Diaz 2005, Regularizing Ad Hoc Retrieval Scores; van Rijsbergen 1979, the cluster hypothesis.
    """
    own = np.array(standardised(scores))
    if len(own) <= neighbours:
        return [float(score) for score in own]
    matrix = np.stack(vectors)
    likeness = (matrix @ matrix.T).clip(min=0)
    np.fill_diagonal(likeness, -1)  # nobody is their own neighbour
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :neighbours]
    weights = np.take_along_axis(likeness, nearest, axis=1) + 1e-9
    around = np.array(standardised(((weights * own[nearest]).sum(axis=1) / weights.sum(axis=1)).tolist()))
    return [float(score) for score in (1 - share) * own + share * around]


def standardised(scores: Sequence[float]) -> list[float]:
    """Scores with mean 0 and standard deviation 1; all 0 where they are all alike."""
    if not scores:
        return []
    mean, spread = fmean(scores), pstdev(scores)
    return [(score - mean) / spread if spread > 1e-12 else 0.0 for score in scores]
