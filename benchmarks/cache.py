"""Repeated questions: how many are recognised, and how often another question is taken for one.

    python benchmarks/cache.py [--json]

Three ways to recognise a repeated question: the baseline is the cosine of the embeddings alone, at several thresholds;
ours adds the words (`inference/paraphrase.py`); exact is the same text but for case and layout. They are tried on pairs
of questions written for this (`cache_pairs.txt`; those that the rules were made by and those written afterwards are
told apart), and on questions nobody here wrote: each question of XQuAD and of Cranfield is asked with all others of
its collection in the cache, and a hit is false unless the two are the same text but for articles, case and layout. A
false hit answers somebody with the answer to another question, so it counts per question asked.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from llm_twin.adapters.minilm import MiniLmEmbedder
from llm_twin.core.vectors import Matrix
from llm_twin.inference.cache import SIMILARITY
from llm_twin.inference.paraphrase import normalised, same_question
from report import command, corpora, show

COLLECTIONS = ("xquad-en", "cranfield")
THRESHOLDS = (0.85, 0.90, 0.95, 0.98)
PAIRS = Path(__file__).with_name("cache_pairs.txt")

Same = Callable[[str, str, float], bool]


@dataclass(frozen=True)
class Pair:
    """Two questions, whether both ask one thing, whether the rules were made without it, and their cosine."""

    one: str
    other: str
    same: bool
    held_out: bool
    cosine: float


def main() -> None:
    """Measure and print a table or JSON."""
    arguments = command(__doc__).parse_args()
    folders = corpora(*COLLECTIONS)
    with tempfile.TemporaryDirectory() as cache:
        embedder = MiniLmEmbedder(cache_dir=Path(cache))
        pairs = written(embedder)
        collections = {folder.name: embedded(questions(folder), embedder) for folder in folders}
    result = {
        "ways": {name: judged(same, pairs, collections) for name, same in ways().items()},
        "comparison_us": timing(collections["xquad-en"][0]),
    }
    show(result, table, as_json=arguments.json)


def ways() -> dict[str, Same]:
    """The ways to recognise a repetition, by name."""
    by_cosine: dict[str, Same] = {
        f"cosine ≥ {threshold:.2f}": lambda _one, _other, cosine, least=threshold: cosine >= least  # type: ignore[misc]
        for threshold in THRESHOLDS
    }
    return {
        "exact": lambda one, other, _: normalised(one) == normalised(other),
        **by_cosine,
        f"words and cosine ≥ {SIMILARITY:.2f} (ours)": lambda one, other, cosine: (
            cosine >= SIMILARITY and same_question(one, other)
        ),
    }


def written(embedder: MiniLmEmbedder) -> list[Pair]:
    """The pairs of `cache_pairs.txt` in order."""
    section = ""
    ones, others, sections = [], [], []
    for line in PAIRS.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif " | " in line and not line.startswith("#"):
            one, _, other = line.partition(" | ")
            ones.append(one)
            others.append(other)
            sections.append(section)
    cosines = (embedded(ones, embedder)[1] * embedded(others, embedder)[1]).sum(axis=1)
    return [
        Pair(one, other, "same" in section, "held out" in section, float(cosine))
        for one, other, section, cosine in zip(ones, others, sections, cosines, strict=True)
    ]


def questions(folder: Path) -> list[str]:
    """The questions of a collection in BEIR layout."""
    return [json.loads(line)["text"] for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]


def embedded(texts: Sequence[str], embedder: MiniLmEmbedder) -> tuple[list[str], Matrix]:
    """Texts with their vectors."""
    return list(texts), np.stack([embedding.vector for embedding in embedder.embed(texts)])


def judged(same: Same, pairs: Sequence[Pair], collections: dict[str, tuple[list[str], Matrix]]) -> dict[str, float]:
    """Shares of recognised paraphrases and of false hits."""
    figures = {}
    for pair_is_same, figure in ((True, "recognised"), (False, "false_on_look_alikes")):
        for held_out, name in ((False, "seen"), (True, "held_out")):
            wanted = [pair for pair in pairs if (pair.same, pair.held_out) == (pair_is_same, held_out)]
            figures[f"{figure}_{name}"] = float(np.mean([same(p.one, p.other, p.cosine) for p in wanted]))
    for name, (texts, vectors) in collections.items():
        figures[f"false_on_{name}"] = float(
            np.mean([false_hit(number, texts, vectors, same) for number in range(len(texts))])
        )
    return figures


def false_hit(number: int, texts: Sequence[str], vectors: Matrix, same: Same) -> bool:
    """Whether the nearest question that counts as the same one is another."""
    cosines = vectors @ vectors[number]
    for near in np.argsort(-cosines):
        if near != number and cosines[near] < min(SIMILARITY, *THRESHOLDS):
            return False
        if near != number and same(texts[number], texts[near], float(cosines[near])):
            return _bare(texts[number]) != _bare(texts[near])
    return False


def timing(texts: Sequence[str]) -> float:
    """Microseconds to compare two questions by their words."""
    started = time.perf_counter()
    for one, other in pairwise(texts):
        same_question(one, other)
    return (time.perf_counter() - started) / (len(texts) - 1) * 1e6


def table(result: dict[str, Any]) -> str:
    """The figures in per cent, a way a line."""
    columns = list(next(iter(result["ways"].values())))
    lines = [f"{'way':<38}" + "".join(f"{column:>34}" for column in columns)]
    for name, figures in result["ways"].items():
        lines.append(f"{name:<38}" + "".join(f"{100 * figures[column]:>33.2f}%" for column in columns))
    return "\n".join([*lines, f"comparing two questions by their words: {result['comparison_us']:.0f} µs"])


def _bare(text: str) -> str:
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", normalised(text)).split())


if __name__ == "__main__":
    main()
