"""A closer look at candidates: late interaction over token vectors.

The cross-encoder, the other way to look closer, is a model of its own and lives with the adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

from llm_twin.core.errors import ModelError
from llm_twin.core.ports import Embedder, EmbeddingStore
from llm_twin.core.records import Hit, embedding_key, embedding_text
from llm_twin.core.vectors import PackedTokens, maxsim


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
