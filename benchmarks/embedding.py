"""Embedding: ours on OpenVINO beside sentence-transformers on torch, the same weights and the same texts.

    python benchmarks/embedding.py [--json] [--baseline-python PYTHON] [--texts N] [--rounds N]

Texts are consecutive paragraphs of blog-matklad, joined while they fit 128 (then 256) tokens with the special ones.
The two take turns, `--rounds` times each, and the fastest turn of each counts: what else runs on the machine slows
both. Reported are chunks per second and their ratio, the milliseconds of one short text, the cosine between the two
vectors of each text, and the share of equal documents among the top five of every post's title.

`--baseline-python` is an interpreter with sentence-transformers; without one, an environment is made under `.bench/`
(torch is some 200 MB on a CPU).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_twin.adapters.minilm import MiniLmEmbedder
from llm_twin.core.vectors import Matrix
from report import DATA, command, corpora, show

PROJECT = Path(__file__).parents[1]
# The exact version first: a bare `torch` brings gigabytes of another vendor's libraries.
REQUIREMENTS = ("torch==2.13.0", "sentence-transformers==6.2.0")
BATCH = 32

BASELINE = """
import json, sys, time
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
for line in sys.stdin:
    task = json.loads(line)
    model.max_seq_length = 256
    started = time.perf_counter()
    vectors = model.encode(task["texts"], batch_size=task["batch"], normalize_embeddings=True, show_progress_bar=False)
    seconds = time.perf_counter() - started
    np.save(task["file"], vectors)
    print(json.dumps({"seconds": seconds}), flush=True)
"""


class Baseline:
    """sentence-transformers in its own interpreter, one list of texts at a time."""

    def __init__(self, python: Path, folder: Path, scratch: Path) -> None:
        self._file = scratch / "vectors.npy"
        command = [str(python), "-c", BASELINE, str(folder)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def embed(self, texts: list[str]) -> tuple[float, Matrix]:
        """Seconds, and the vectors."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"texts": texts, "batch": BATCH, "file": str(self._file)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            assert self._process.stderr
            raise SystemExit(f"the baseline stopped: {self._process.stderr.read()[-2000:]}")
        return float(json.loads(answer)["seconds"]), np.load(self._file)

    def close(self) -> None:
        """End the interpreter."""
        self._process.communicate()


def main() -> None:
    """Measure and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--baseline-python", type=Path, help="an interpreter with sentence-transformers")
    parser.add_argument("--texts", type=int, default=400, help="texts per length")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    arguments = parser.parse_args()
    corpora("blog-matklad")
    python = arguments.baseline_python or baseline_environment()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(DATA, python, Path(scratch), texts=arguments.texts, rounds=arguments.rounds)
    show(result, table, as_json=arguments.json)


def baseline_environment() -> Path:
    """An environment with the baseline, made once."""
    folder = PROJECT / ".bench" / "sentence-transformers"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for requirement in REQUIREMENTS:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", requirement], check=True)
        ready.touch()
    return python


def measure(data: Path, python: Path, scratch: Path, *, texts: int, rounds: int) -> dict[str, Any]:
    """All figures for both lengths."""
    started = time.perf_counter()
    ours = MiniLmEmbedder(cache_dir=scratch / "cache")
    ours.embed(["the first text loads the model"])
    load_s = time.perf_counter() - started
    posts = [json.loads(line) for line in (data / "blog-matklad" / "posts.jsonl").read_text("utf-8").splitlines()]
    titles = [post["title"] for post in posts]
    baseline = Baseline(python, ours.folder, scratch)
    baseline.embed(titles[:BATCH])
    result: dict[str, Any] = {"machine": machine(ours), "load_s": round(load_s, 2), "lengths": {}}
    try:
        for limit in (128, 256):
            chosen = list(pieces([post["text"] for post in posts], ours, limit=limit))[:texts]
            result["lengths"][str(limit)] = compare(ours, baseline, chosen, titles, rounds=rounds)
        result["one_text_ms"] = one_text(ours, baseline, titles)
    finally:
        baseline.close()
    return result


def compare(
    ours: MiniLmEmbedder, baseline: Baseline, texts: list[str], titles: list[str], *, rounds: int
) -> dict[str, Any]:
    """Speed by turns, and how far the vectors agree."""
    our_s, baseline_s = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        embeddings = ours.embed(texts)
        our_s.append(time.perf_counter() - started)
        seconds, theirs = baseline.embed(texts)
        baseline_s.append(seconds)
    vectors = np.stack([embedding.vector for embedding in embeddings])
    cosines = (vectors * theirs).sum(axis=1)
    our_titles = np.stack([embedding.vector for embedding in ours.embed(titles)])
    _, their_titles = baseline.embed(titles)
    tokens = [ours.tokenizer.count(text) for text in texts]
    return {
        "texts": len(texts),
        "mean_tokens": round(statistics.fmean(tokens), 1),
        "ours_per_s": round(len(texts) / min(our_s), 1),
        "baseline_per_s": round(len(texts) / min(baseline_s), 1),
        "ratio": round(min(baseline_s) / min(our_s), 2),
        "ratio_by_round": [round(theirs_s / ours_s, 2) for ours_s, theirs_s in zip(our_s, baseline_s, strict=True)],
        "cosine_min": round(float(cosines.min()), 5),
        "cosine_mean": round(float(cosines.mean()), 5),
        "top5_overlap": round(overlap(our_titles @ vectors.T, their_titles @ theirs.T), 4),
    }


def one_text(ours: MiniLmEmbedder, baseline: Baseline, titles: list[str]) -> dict[str, float]:
    """Median milliseconds of one title at a time."""
    our_s = []
    for title in titles[:60]:
        started = time.perf_counter()
        ours.embed([title])
        our_s.append(time.perf_counter() - started)
    baseline_s = [baseline.embed([title])[0] for title in titles[:60]]
    return {
        "ours": round(statistics.median(our_s) * 1000, 1),
        "baseline": round(statistics.median(baseline_s) * 1000, 1),
    }


def pieces(texts: list[str], ours: MiniLmEmbedder, *, limit: int) -> Iterator[str]:
    """Consecutive paragraphs together while they fit the limit; a longer paragraph is cut off at it."""
    room = limit - 2
    for text in texts:
        held = ""
        for paragraph in text.split("\n\n"):
            offsets = ours.tokenizer.offsets(paragraph)
            cut = paragraph if len(offsets) <= room else paragraph[: offsets[room - 1][1]]
            joined = f"{held}\n\n{cut}" if held else cut
            if ours.tokenizer.count(joined) <= room:
                held = joined
                continue
            yield held
            held = cut
        if held:
            yield held


def overlap(ours: Matrix, theirs: Matrix) -> float:
    """Mean share of equal columns among the five highest of each row."""
    pairs = zip(np.argsort(-ours, axis=1)[:, :5], np.argsort(-theirs, axis=1)[:, :5], strict=True)
    return statistics.fmean(len(set(one) & set(other)) / 5 for one, other in pairs)


def machine(ours: MiniLmEmbedder) -> dict[str, Any]:
    """What the ratio depends on."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    except OSError:
        flags = []
    return {
        "cores": os.cpu_count(),
        "precision_in_use": ours.precision_in_use,
        "amx_bf16": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'':24}" + "".join(f"{f'up to {limit} tokens':>24}" for limit in result["lengths"])]
    columns = list(result["lengths"].values())
    lines += [f"{name:24}" + "".join(f"{column[name]!s:>24}" for column in columns) for name in columns[0]]
    one = result["one_text_ms"]
    lines.append(f"one short text: {one['ours']} ms, baseline {one['baseline']} ms; loaded in {result['load_s']} s")
    lines.append(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
