"""Small honest parts for tests of inference: an embedder that knows words, and a workspace made of paragraphs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.records import (
    Chunk,
    Document,
    DocumentFeatures,
    Embedding,
    IndexEntry,
    ItemState,
    chunk_id,
    content_hash,
    embedding_key,
    embedding_text,
)
from llm_twin.core.vectors import pack_tokens


class WordTokenizer:
    """One token per word, sixty of them at most."""

    window = 60

    def offsets(self, text):
        return [match.span() for match in re.finditer(r"\w+", text)]

    def count(self, text):
        return len(self.offsets(text))


class WordEmbedder:
    """Every word has a direction of its own; a text is the sum of its words. Refuses what exceeds the window."""

    name = "words/1"
    dim = 128
    tokenizer = WordTokenizer()

    def embed_tokens(self, text):
        words = [word.rstrip("s") for word in re.findall(r"\w+", text.lower())] or ["nothing"]
        rows = np.stack([np.random.default_rng(list(word.encode())).normal(size=self.dim) for word in words])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def embed(self, texts, *, tokens=False):
        made = []
        for text in texts:
            assert self.tokenizer.count(text) <= self.tokenizer.window, f"too long for the window: {text!r}"
            matrix = self.embed_tokens(text)
            vector = matrix.sum(axis=0)
            vector = (vector / np.linalg.norm(vector)).astype(np.float32)
            made.append(Embedding(vector, pack_tokens(matrix) if tokens else None))
        return made


def article(id_: str, text: str, *, title: str = "", **fields) -> Document:
    given = {"author": "Ada Example", "source": "files", "kind": "article", "language": "en", **fields}
    return Document(
        id=id_,
        title=title or id_,
        text=text,
        content_hash=content_hash(title, text),
        fetched_at=datetime(2024, 1, 1, tzinfo=UTC),
        url=f"https://ada.example/{id_}",
        **given,
    )


def chunks_of(document: Document) -> tuple[Chunk, ...]:
    """A chunk for every paragraph."""
    return tuple(
        Chunk(chunk_id(document.id, match[0], match.start()), document.id, match[0], *match.span(), (document.title,))
        for match in re.finditer(r"\S(?:.|\n(?!\n))*", document.text)
    )


def indexed(documents: Sequence[Document], folder: Path, embedder=None, *, name: str | None = None):
    """A warehouse and an index that hold the documents, chunked, embedded and published."""
    embedder = embedder or WordEmbedder()
    sparse = Bm25Encoder()
    store, index = MemoryWarehouse(), QdrantEdgeIndex(folder)
    pieces = [(chunk, document) for document in documents for chunk in chunks_of(document)]
    texts = [embedding_text(chunk) for chunk, _ in pieces]
    embeddings = embedder.embed(texts, tokens=True)
    for document in documents:
        store.save([(ItemState("posts", document.id, "added", document_id=document.id), document)])
        store.save_features([DocumentFeatures(document, "f", chunks_of(document))])
    store.save_embeddings({embedding_key(embedder.name, t): e for t, e in zip(texts, embeddings, strict=True)})
    with index.draft(embedder=name or embedder.name, sparse=sparse.name, dim=embedder.dim, copy=False) as draft:
        draft.upsert(
            [
                IndexEntry(chunk, document.header, embedding.vector, sparse.encode(text, language="en"), chunk.id)
                for (chunk, document), text, embedding in zip(pieces, texts, embeddings, strict=True)
            ]
        )
        draft.publish(digest="1")
    return store, index
