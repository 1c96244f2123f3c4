"""Embedding chunks, each text once: what is in the store already costs nothing, a kill loses one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llm_twin.core.ports import Embedder, EmbeddingStore

BATCH = 64
"""Texts per durable batch: what a kill may cost, about a second. Texts are sorted by length before, so that small
batches pad as little as large ones."""


def embed_missing(
    texts: Mapping[str, str], *, store: EmbeddingStore, embedder: Embedder, done: Callable[[int], None]
) -> int:
    """Embed and keep those of `texts` (by embedding key) that the store lacks; returns how many that were."""
    missing = sorted(texts.keys() - store.embedding_keys(), key=lambda key: (len(texts[key]), key))
    for start in range(0, len(missing), BATCH):
        keys = missing[start : start + BATCH]
        embeddings = embedder.embed([texts[key] for key in keys], tokens=True)
        store.save_embeddings(dict(zip(keys, embeddings, strict=True)))
        done(len(keys))
    return len(missing)
