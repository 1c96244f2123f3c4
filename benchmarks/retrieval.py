"""Retrieval quality: nDCG@k and recall@k of every search method, through the code path of `twin search`.

    python benchmarks/retrieval.py [--json] [--k 10] [--workspace FOLDER] DIR …

A DIR is in BEIR layout: `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and `qrels.tsv`
(query, document, score, with a header line). Relevance is binary: a score above 0. The corpus becomes a workspace
like any other, with the cleaning, gate, deduplication and chunking that any author's writing gets; a document ranks by
its best chunk. `bm25` and `dense` are the baselines, `reranked` is what `twin search` and `twin ask` use.

Intervals hold 95 % of 1,000 bootstrap samples of the queries, seeded. Without DIR the collections in TWIN_DATA run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from llm_twin import Twin
from report import DATA, show

COLLECTIONS = ("cranfield", "xquad-en")
METHODS = ("bm25", "dense", "hybrid", "reranked")
ADDRESS = "https://collection.invalid/"
RESAMPLES = 1000
SEED = 7


def main() -> None:
    """Measure every collection and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="collections in BEIR layout")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--k", type=int, default=10, help="cut-off of both measures (default 10)")
    parser.add_argument("--depth", type=int, default=100, help="chunks asked for per query (default 100)")
    parser.add_argument(
        "--workspace", type=Path, help="folder to keep the workspaces in, so that a second run is quick"
    )
    options = parser.parse_args()
    folders = options.folders or [DATA / name for name in COLLECTIONS]
    for folder in folders:
        if not (folder / "corpus.jsonl").is_file():
            raise SystemExit(f"there is no corpus.jsonl in {folder}; name folders in BEIR layout or set TWIN_DATA")
    with tempfile.TemporaryDirectory() as temporary:
        kept = options.workspace or Path(temporary)
        results = {folder.name: measure(folder, kept / folder.name, options.k, options.depth) for folder in folders}
    show(results, lambda found: table(found, options.k), as_json=options.json)


def measure(folder: Path, workspace: Path, k: int, depth: int) -> dict[str, Any]:
    """Every method over every query that has a relevant document."""
    queries = {line["_id"]: line["text"] for line in _lines(folder / "queries.jsonl")}
    relevant = read_qrels(folder / "qrels.tsv")
    asked = sorted(relevant.keys() & queries.keys())
    with workspace_of(folder, workspace) as twin:
        methods = {}
        for method in METHODS:
            print(f"{folder.name}: {method}", file=sys.stderr)
            started = time.perf_counter()
            rankings = {id_: documents(twin, queries[id_], method, depth) for id_ in asked}
            milliseconds = (time.perf_counter() - started) * 1000 / max(len(asked), 1)
            methods[method] = {**scores(rankings, relevant, k), "ms_per_query": round(milliseconds, 1)}
        info = twin.index.info()
    return {"queries": len(asked), "chunks": info.count if info else 0, "methods": methods}


def workspace_of(folder: Path, workspace: Path, *, leave_out: frozenset[str] = frozenset()) -> Twin:
    """A synced workspace that holds the corpus of a collection; the ids of its documents stand in their addresses."""
    workspace.mkdir(parents=True, exist_ok=True)
    posts = workspace / "corpus.jsonl"
    with posts.open("w", encoding="utf-8") as file:
        for line in _lines(folder / "corpus.jsonl"):
            if line["_id"] not in leave_out:
                address = ADDRESS + quote(line["_id"], safe="")
                record = {"id": line["_id"], "title": line.get("title", ""), "text": line["text"], "url": address}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    if not (workspace / "twin" / "twin.toml").exists():
        Twin.init(workspace / "twin", addresses=["../corpus.jsonl"]).close()
    twin = Twin.open(workspace / "twin", arguments={"traces.enabled": False})
    twin.sync()
    return twin


def documents(twin: Twin, query: str, method: str, depth: int) -> list[str]:
    """Ids of the collection's documents, each where its best chunk stands."""
    hits = twin.search(query, k=depth, method=method)
    return list(dict.fromkeys(unquote((hit.document.url or "").removeprefix(ADDRESS)) for hit in hits))


def scores(rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, set[str]], k: int) -> dict[str, float]:
    """Both measures with their intervals.

    nDCG: Järvelin & Kekäläinen 2002, with gain 1 for a relevant document.
    """
    result: dict[str, float] = {}
    for name, measured in (("ndcg", ndcg), ("recall", recall)):
        values = np.array([measured(ranking, relevant[id_], k) for id_, ranking in sorted(rankings.items())])
        picks = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
        low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
        result |= {f"{name}@{k}": values.mean(), f"{name}@{k}_low": low, f"{name}@{k}_high": high}
    return {name: round(float(value), 4) for name, value in result.items()}


def ndcg(ranking: Sequence[str], relevant: set[str], k: int) -> float:
    """Discounted gain of the first k over the best there could be."""
    gain = sum(1 / math.log2(rank + 1) for rank, id_ in enumerate(ranking[:k], start=1) if id_ in relevant)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))


def recall(ranking: Sequence[str], relevant: set[str], k: int) -> float:
    """Share of the relevant documents among the first k."""
    return len(relevant.intersection(ranking[:k])) / len(relevant)


def read_qrels(path: Path) -> dict[str, set[str]]:
    """Relevant documents by query."""
    relevant: dict[str, set[str]] = defaultdict(set)
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")[:3]
        if float(score) > 0:
            relevant[query].add(document)
    return dict(relevant)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def table(results: Mapping[str, Mapping[str, Any]], k: int) -> str:
    """One row per collection and method; the last column compares nDCG with dense search alone."""
    measures = f"{f'nDCG@{k}':>9}{'95 %':>16}{f'recall@{k}':>11}{'ms/query':>10}{'of dense':>10}"
    rows = [f"{'collection':<14}{'method':<10}{measures}"]
    for name, result in results.items():
        dense = result["methods"]["dense"][f"ndcg@{k}"]
        for method, row in result["methods"].items():
            interval = f"{row[f'ndcg@{k}_low']:.3f}–{row[f'ndcg@{k}_high']:.3f}"
            rows.append(
                f"{name:<14}{method:<10}{row[f'ndcg@{k}']:>9.4f}{interval:>16}{row[f'recall@{k}']:>11.4f}"
                f"{row['ms_per_query']:>10.1f}{row[f'ndcg@{k}'] / dense if dense else 0:>9.2f}×"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
