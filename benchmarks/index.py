"""The vector index: how fast it answers and how truly, at growing sizes, beside qdrant-client's local mode.

    python benchmarks/index.py [--json] [--sizes 1000,10000,100000] [--hnsw-above N] [--folder FOLDER]

No model takes part. Vectors are clustered as real ones are: topics, documents within a topic, eight chunks within a
document; questions lie near a chunk. Terms follow Zipf's law. Every query asks for the best 50 by dense and by BM25 in
one call; the narrow filter (one author of three, from a date on) passes about a fifth of the chunks, the wide one (a
language) nine tenths. Recall compares the dense ten best with exact cosines from numpy. The baseline runs up to 10,000
chunks, where a scan in Python takes a second per query already. A busy machine shows in the times, less in `cpu`, which
is processor time per query over all threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient

from llm_twin.adapters.qdrant import QdrantIndex
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.ports import VectorIndex
from llm_twin.core.records import Chunk, DocumentHeader, Filter, IndexEntry, Query, SparseVector, chunk_id
from llm_twin.core.vectors import Matrix
from report import command, show

DIM = 384
K = 50
ENCODERS: dict[str, Any] = {"embedder": "random", "sparse": "zipf", "dim": DIM}
NARROW = Filter(authors=("author 1",), since=datetime(2017, 6, 1, tzinfo=UTC))
WIDE = Filter(languages=("en",))
BASELINE_UP_TO = 10_000
SOURCES = ("files", "medium", "github", "web")


def main() -> None:
    """Measure every size and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of chunks, separated by commas")
    parser.add_argument("--hnsw-above", type=int, help="chunks above which a graph is built instead of scanning")
    parser.add_argument("--folder", type=Path, help="where to build; a temporary folder by default")
    options = parser.parse_args()
    graph = {} if options.hnsw_above is None else {"hnsw_above": options.hnsw_above}
    rows = []
    for size in map(int, options.sizes.split(",")):
        vectors, questions = vectors_and_questions(size)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            index = QdrantEdgeIndex(Path(folder) / "index", **graph)
            ours = measure("ours", index, vectors, questions, count=200)
            ours["open_ms"] = opening_ms(Path(folder) / "index")
            ours["disk_mb"] = disk_mb(Path(folder) / "index")
        rows.append(ours)
        if size <= BASELINE_UP_TO:
            rows.append(measure_baseline(vectors, questions))
    result = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows}
    show(result, lambda _: table(rows), as_json=options.json)


def measure_baseline(vectors: Matrix, questions: Matrix) -> dict[str, Any]:
    """The same work by qdrant-client without a server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        client = QdrantClient(":memory:")
        return measure(
            "qdrant-client local", QdrantIndex("memory", client=client, exact=True), vectors, questions, count=20
        )


def measure(name: str, index: VectorIndex, vectors: Matrix, questions: Matrix, *, count: int) -> dict[str, Any]:
    """Build an index, ask it `count` questions of each sort, and change one chunk."""
    row: dict[str, Any] = {"index": name, "chunks": len(vectors)}
    queries = list(queries_for(questions[:count]))
    row["build_s"] = seconds(lambda: publish(index, entries(vectors), copy=False))
    info = index.info()
    row["search"] = info.search if info else None
    row["narrow_passes"], row["wide_passes"] = (index.count(where) / len(vectors) for where in (NARROW, WIDE))
    for sort, where in {"hybrid_narrow": NARROW, "hybrid_wide": WIDE, "hybrid": Filter()}.items():
        row[sort] = latencies(index, [dataclasses.replace(query, where=where) for query in queries])
    row["dense"] = latencies(index, [dataclasses.replace(query, sparse=None) for query in queries])
    row["recall_at_10"] = recall_at_10(index, vectors, queries)
    one = next(entries(vectors[:1]))
    row["edit_one_s"] = seconds(lambda: publish(index, iter([dataclasses.replace(one, digest="edited")]), copy=True))
    row["digests_s"] = seconds(index.digests)
    return row


def publish(index: VectorIndex, new: Iterator[IndexEntry], *, copy: bool) -> None:
    """Publish a generation, a thousand entries at a time."""
    with index.draft(**ENCODERS, copy=copy) as draft:
        batch: list[IndexEntry] = []
        for entry in new:
            batch.append(entry)
            if len(batch) == 1000:
                draft.upsert(batch)
                batch = []
        draft.upsert(batch)
        draft.publish(digest="benchmark")


def latencies(index: VectorIndex, queries: Sequence[Query]) -> dict[str, float]:
    """Milliseconds per query: percentiles of the wall clock, and processor time."""
    for query in queries[:10]:
        index.search(query, k=K)
    times, cpu = [], time.process_time()
    for query in queries:
        started = time.perf_counter()
        index.search(query, k=K)
        times.append(1000 * (time.perf_counter() - started))
    cpu_ms = 1000 * (time.process_time() - cpu) / len(queries)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99), "cpu_ms": cpu_ms}


def recall_at_10(index: VectorIndex, vectors: Matrix, queries: Sequence[Query]) -> float:
    """The share of the ten nearest by exact cosine that the index finds."""
    found = 0
    for query in queries:
        assert query.vector is not None
        best = set(np.argsort(-(vectors @ query.vector))[:10].tolist())
        hits = index.search(dataclasses.replace(query, sparse=None), k=10)["dense"]
        found += len(best & {hit.chunk.start for hit in hits})
    return found / (10 * len(queries))


def opening_ms(path: Path) -> float:
    """What the first search of a process waits for."""
    return 1000 * seconds(lambda: QdrantEdgeIndex(path).count(NARROW))


def disk_mb(path: Path) -> float:
    """Room the files really take; they have holes."""
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file()) / 1e6


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- what is indexed ------------------------------------------------------------------------------------------------


def vectors_and_questions(size: int) -> tuple[Matrix, Matrix]:
    """Unit vectors of `size` chunks in documents in topics, and of 200 questions, each near one chunk."""
    rng = np.random.default_rng(0)
    documents = size // 8 + 1
    topics = rng.normal(size=(max(20, size // 200), DIM))
    of_document = topics[rng.integers(len(topics), size=documents)] + 0.8 * rng.normal(size=(documents, DIM))
    vectors = unit(of_document[np.arange(size) // 8] + 0.9 * rng.normal(size=(size, DIM)))
    near = vectors[rng.integers(size, size=200)]
    return vectors, unit(near + 0.8 / np.sqrt(DIM) * rng.normal(size=near.shape))


def unit(matrix: np.ndarray[Any, Any]) -> Matrix:
    """Rows of length 1."""
    result: Matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return result


def entries(vectors: Matrix) -> Iterator[IndexEntry]:
    """A chunk of 140 words per vector; `start` is its row."""
    rng = np.random.default_rng(1)
    for row, vector in enumerate(vectors):
        number = row // 8
        document = DocumentHeader(
            id=f"{number:016x}",
            author=f"author {number % 3}",
            source=SOURCES[number % 4],
            kind="article",
            title=f"Title of document {number}",
            url=f"https://example.org/{number}",
            language="de" if number % 10 == 0 else "en",
            published_at=datetime(2014, 1, 1, tzinfo=UTC) + timedelta(days=number * 997 % 3650),
        )
        text = f"Chunk {row}. " + "lorem ipsum dolor sit amet " * 28
        chunk = Chunk(chunk_id(document.id, text), document.id, text, row, row + len(text), ("Title", "Heading"), 180)
        terms, counts = np.unique(zipf(rng, 90), return_counts=True)
        weights = counts * 2.2 / (counts + 1.2)
        digest = hashlib.sha256(text.encode()).hexdigest()
        yield IndexEntry(chunk, document, vector, SparseVector(tuple(terms.tolist()), tuple(weights.tolist())), digest)


def queries_for(questions: Matrix) -> Iterator[Query]:
    """Each question with seven terms."""
    rng = np.random.default_rng(2)
    for vector in questions:
        terms = tuple(np.unique(zipf(rng, 7)).tolist())
        yield Query("", vector=vector, sparse=SparseVector(terms, (1.0,) * len(terms)))


_VOCABULARY = 30_000
_CUMULATIVE = np.cumsum(1 / np.arange(1, _VOCABULARY + 1))


def zipf(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """Term ids whose frequency falls with their rank."""
    ranks: np.ndarray[Any, Any] = np.searchsorted(_CUMULATIVE, rng.random(count) * _CUMULATIVE[-1])
    return ranks


# --- the table ------------------------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One block per size; times in milliseconds unless marked."""
    lines = [
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; k = {K}, {DIM} dimensions; milliseconds per query",
        "",
    ]
    for row in rows:
        lines.append(
            f"{row['chunks']:,} chunks, {row['index']} ({row['search']}): recall@10 {row['recall_at_10']:.3f}, "
            f"build {row['build_s']:.1f} s, edit one chunk {row['edit_one_s']:.2f} s, digests {row['digests_s']:.2f} s"
            + (f", open {row['open_ms']:.0f} ms, {row['disk_mb']:.0f} MB" if "open_ms" in row else "")
        )
        lines.append(f"    {'':<16}{'p50':>9}{'p95':>9}{'p99':>9}{'cpu':>9}")
        for sort in ("hybrid_narrow", "hybrid_wide", "hybrid", "dense"):
            times = row[sort]
            lines.append(
                f"    {sort:<16}" + "".join(f"{times[key]:>9.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "cpu_ms"))
            )
        ours = next((other for other in rows if other["chunks"] == row["chunks"] and other["index"] == "ours"), row)
        if ours is not row:
            ratio = row["hybrid_narrow"]["p50_ms"] / ours["hybrid_narrow"]["p50_ms"]
            lines.append(f"    ours is {ratio:.0f} times as fast (hybrid_narrow, p50)")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
