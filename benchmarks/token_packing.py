"""Token vectors for re-ranking: what fewer bits cost in quality, in space and in time.

    python benchmarks/token_packing.py [--json] [--queries N]

Every text of Cranfield and XQuAD (English), title included and cut into windows, is embedded once; BM25 and cosine give
the fifty best each. Those candidates are ordered by MaxSim over the token vectors in several packings: as they are,
int8, two bits and one bit per dimension, the bits also after the rotation that the product uses, and with punctuation
left out. nDCG@10 with binary relevance, for MaxSim alone and added to the standardised scores of BM25 and cosine.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.adapters.minilm import MiniLmEmbedder
from llm_twin.core.vectors import Matrix, maxsim, pack_tokens
from report import command, corpora, show

COLLECTIONS = ("cranfield", "xquad-en")
CANDIDATES = 50
TWO_BITS = np.array([-1.510, -0.4528, 0.4528, 1.510], np.float32)
"""The best four values for a normal distribution (Lloyd-Max), in standard deviations."""


@dataclass(frozen=True)
class Collection:
    """Windows of the documents, and per query what is relevant and what the first stage found."""

    owners: list[str]
    tokens: list[Matrix]
    punctuation: list[list[bool]]
    queries: list[Matrix]
    relevant: list[set[str]]
    candidates: list[list[int]]
    first_stage: list[Matrix]


def main() -> None:
    """Measure and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--queries", type=int, default=600, help="at most so many queries per collection")
    arguments = parser.parse_args()
    folders = corpora(*COLLECTIONS)
    with tempfile.TemporaryDirectory() as cache:
        embedder = MiniLmEmbedder(cache_dir=Path(cache))
        collections = {folder.name: load(folder, embedder, arguments.queries) for folder in folders}
    result = {"packings": {name: quality(collections, name) for name in PACKINGS}, "maxsim_ms": timing()}
    show(result, table, as_json=arguments.json)


def load(folder: Path, embedder: MiniLmEmbedder, most: int) -> Collection:
    """A collection in BEIR layout, embedded, with its candidates."""
    documents, queries = (
        [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    queries = queries[:: max(1, round(len(queries) / most))]
    judged: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if float(score) > 0:
            judged[query].add(document)
    owned = [(one["_id"], text) for one in documents for text in windows(one["title"], one["text"], embedder)]
    texts = [text for _, text in owned]
    asked = [query["text"] for query in queries]
    by_meaning = (
        np.stack([one.vector for one in embedder.embed(asked)])
        @ np.stack([one.vector for one in embedder.embed(texts)]).T
    )
    by_words = lexical(asked, texts)
    candidates = [
        sorted({*np.argsort(-meaning)[:CANDIDATES].tolist(), *np.argsort(-words)[:CANDIDATES].tolist()})
        for meaning, words in zip(by_meaning, by_words, strict=True)
    ]
    return Collection(
        owners=[owner for owner, _ in owned],
        tokens=[embedder.embed_tokens(text) for text in texts],
        punctuation=[
            [not text[s:e].strip()[:1].isalnum() for s, e in embedder.tokenizer.offsets(text)] for text in texts
        ],
        queries=[embedder.embed_tokens(text) for text in asked],
        relevant=[judged[query["_id"]] for query in queries],
        candidates=candidates,
        first_stage=[
            standardised(by_meaning[row][found]) + standardised(by_words[row][found])
            for row, found in enumerate(candidates)
        ],
    )


def windows(title: str, text: str, embedder: MiniLmEmbedder) -> list[str]:
    """The text in even pieces that fit the window, each under the title."""
    room = embedder.tokenizer.window - embedder.tokenizer.count(title) - 2
    offsets = embedder.tokenizer.offsets(text)
    size = math.ceil(len(offsets) / max(1, math.ceil(len(offsets) / room)))
    pieces = [offsets[at : at + size] for at in range(0, len(offsets), size or 1)]
    return [f"{title}\n\n{text[piece[0][0] : piece[-1][1]]}" for piece in pieces]


def lexical(queries: Sequence[str], texts: Sequence[str]) -> Matrix:
    """BM25 of every query against every text."""
    encoder = Bm25Encoder()
    postings: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row, text in enumerate(texts):
        vector = encoder.encode(text)
        for index, value in zip(vector.indices, vector.values, strict=True):
            postings[index].append((row, value))
    scores = np.zeros((len(queries), len(texts)), np.float32)
    for row, query in enumerate(queries):
        for index in encoder.encode_query(query).indices:
            found = postings.get(index, [])
            rarity = math.log(1 + (len(texts) - len(found) + 0.5) / (len(found) + 0.5))
            for place, value in found:
                scores[row, place] += rarity * value
    return scores


# --- packings -------------------------------------------------------------------------------------------------------


def _as_they_are(tokens: Matrix) -> Matrix:
    return tokens


def _int8(tokens: Matrix) -> Matrix:
    return (np.rint(tokens * 127) / 127).astype(np.float32)


def _two_bits(tokens: Matrix) -> Matrix:
    edges = (TWO_BITS[1:] + TWO_BITS[:-1]) / 2
    scale = np.float32(1 / math.sqrt(tokens.shape[1]))
    restored: Matrix = TWO_BITS[np.digitize(tokens / scale, edges)] * scale
    return restored


def _signs(tokens: Matrix) -> Matrix:
    return np.where(tokens > 0, np.float32(1), np.float32(-1)) * np.float32(1 / math.sqrt(tokens.shape[1]))


PACKINGS: dict[str, tuple[float, Callable[[Matrix], Matrix] | None, bool]] = {
    "float32": (1536, _as_they_are, False),
    "float32 without punctuation": (1536, _as_they_are, True),
    "int8": (384, _int8, False),
    "two bits": (96, _two_bits, False),
    "one bit": (48, _signs, False),
    "one bit, rotated (ours)": (48, None, False),
    "one bit, rotated, without punctuation": (48, None, True),
}
"""Bytes per token; how the vectors come back (None for the product's own code); whether punctuation is left out."""


def quality(collections: dict[str, Collection], packing: str) -> dict[str, Any]:
    """nDCG@10 of every collection for one packing."""
    size, restore, without_punctuation = PACKINGS[packing]
    figures: dict[str, Any] = {"bytes_per_token": size}
    for name, collection in collections.items():
        kept = [
            tokens[~np.array(marks, bool)] if without_punctuation and not all(marks) else tokens
            for tokens, marks in zip(collection.tokens, collection.punctuation, strict=True)
        ]
        score = _ours(kept) if restore is None else _restored([restore(tokens) for tokens in kept])
        alone, mixed = [], []
        for row, found in enumerate(collection.candidates):
            closer = np.array(score(collection.queries[row], found))
            owners = [collection.owners[place] for place in found]
            alone.append(ndcg(owners, closer, collection.relevant[row]))
            mix = collection.first_stage[row] + standardised(closer)
            mixed.append(ndcg(owners, mix, collection.relevant[row]))
        figures[name] = {"maxsim": round(float(np.mean(alone)), 4), "mixed": round(float(np.mean(mixed)), 4)}
    return figures


def _ours(tokens: Sequence[Matrix]) -> Callable[[Matrix, list[int]], list[float]]:
    packed = [pack_tokens(matrix) for matrix in tokens]
    return lambda query, found: maxsim(query, [packed[place] for place in found])


def _restored(tokens: Sequence[Matrix]) -> Callable[[Matrix, list[int]], list[float]]:
    return lambda query, found: [float((query @ tokens[place].T).max(axis=1).mean()) for place in found]


def ndcg(owners: Sequence[str], scores: Matrix, relevant: set[str], *, k: int = 10) -> float:
    """Binary nDCG of documents, each at the place of its best window."""
    ranked = list(dict.fromkeys(owners[place] for place in np.argsort(-scores, kind="stable")))[:k]
    gain = sum(1 / math.log2(place + 2) for place, owner in enumerate(ranked) if owner in relevant)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant)))) if relevant else 0.0


def standardised(scores: Matrix) -> Matrix:
    """Mean 0, standard deviation 1."""
    spread = float(scores.std())
    return (scores - scores.mean()) / spread if spread > 1e-12 else np.zeros_like(scores)


def timing() -> float:
    """Median milliseconds of MaxSim for a question of 16 tokens over 50 candidates of 128, as packed in the store."""
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(51, 128, 384)).astype(np.float32)
    matrices /= np.linalg.norm(matrices, axis=2, keepdims=True)
    packed = [pack_tokens(matrix) for matrix in matrices[1:]]
    seconds = []
    for _ in range(50):
        started = time.perf_counter()
        maxsim(matrices[0][:16], packed)
        seconds.append(time.perf_counter() - started)
    return round(float(np.median(seconds)) * 1000, 2)


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    columns = [f"{name} {kind}" for name in COLLECTIONS for kind in ("maxsim", "mixed")]
    lines = [f"{'nDCG@10':40}{'bytes/token':>12}" + "".join(f"{column:>20}" for column in columns)]
    for packing, row in result["packings"].items():
        cells = "".join(f"{row[name][kind]:>20.4f}" for name in COLLECTIONS for kind in ("maxsim", "mixed"))
        lines.append(f"{packing:40}{row['bytes_per_token']:>12}{cells}")
    lines.append(f"MaxSim over 50 candidates of 128 tokens, one bit: {result['maxsim_ms']} ms (median of 50)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
