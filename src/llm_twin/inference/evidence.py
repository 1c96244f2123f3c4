"""Whether what was found covers the question, or the twin should say that the author has not written about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from llm_twin.core.ports import SparseEncoder
from llm_twin.core.records import embedding_text
from llm_twin.inference.retrieve import Candidate

# Chunks looked at: the answer is among the first few or nowhere.
DEPTH = 5

# Logistic regression on answerable and unanswerable questions; `benchmarks/abstention.py` prints how it was fitted.
WEIGHTS = {"meaning": 4.0, "closeness": 8.0, "words": 3.0}
BIAS = -7.0
ENOUGH = 0.5


@dataclass(frozen=True, slots=True)
class Evidence:
    """The strongest signs, each over the first hits, that a question is covered.

    `meaning` is the best cosine of question and chunk, `closeness` the best late-interaction score, `words` the largest
    share of the question's terms in one chunk. A sign is 0 where its method did not run.
    """

    meaning: float = 0.0
    closeness: float = 0.0
    words: float = 0.0

    @property
    def strength(self) -> float:
        """Estimated probability (0 to 1) that the writing covers the question."""
        return 1 / (1 + exp(-sum(weight * getattr(self, sign) for sign, weight in WEIGHTS.items()) - BIAS))

    @property
    def enough(self) -> bool:
        """Whether to answer."""
        return self.strength >= ENOUGH


def weigh(question: str, found: Sequence[Candidate], *, sparse: SparseEncoder, reranker: str) -> Evidence:
    """The evidence in the first hits of a ranking; `reranker` names the method whose score is the closeness."""
    first = found[:DEPTH]
    asked = set(sparse.encode_query(question).indices)
    held = [asked & set(sparse.encode(embedding_text(candidate.hit.chunk)).indices) for candidate in first]
    return Evidence(
        meaning=max((candidate.scores.get("dense", 0.0) for candidate in first), default=0.0),
        closeness=max((candidate.scores.get(reranker, 0.0) for candidate in first), default=0.0),
        words=max((len(terms) / len(asked) for terms in held), default=0.0) if asked else 0.0,
    )
