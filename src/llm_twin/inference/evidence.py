"""Whether what was found covers the question, or the twin should say that the author has not written about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_twin.core.ports import SparseEncoder
from llm_twin.core.records import embedding_text
from llm_twin.inference.retrieve import Candidate

# Chunks looked at: the answer is among the first few or nowhere.
DEPTH = 5

# Both signs weigh the same: a regression fitted to them (`benchmarks/abstention.py`) tells covered questions from
# uncovered ones no better, and late interaction as a third sign adds little. The threshold stands below the most
# accurate one: to refuse what the author did write about is worse than to quote what is near.
ENOUGH = 0.45


@dataclass(frozen=True, slots=True)
class Evidence:
    """The strongest signs over the first hits that a question is covered.

    `meaning` is the best cosine of question and chunk, `words` the largest share of the question's terms in one chunk.
    """

    meaning: float = 0.0
    words: float = 0.0

    @property
    def strength(self) -> float:
        """The mean of both signs, 0 to 1."""
        return (self.meaning + self.words) / 2

    @property
    def enough(self) -> bool:
        """Whether to answer."""
        return self.strength >= ENOUGH


def weigh(question: str, found: Sequence[Candidate], *, sparse: SparseEncoder) -> Evidence:
    """The evidence in the first hits of a ranking; none at all where nothing was found."""
    first = found[:DEPTH]
    asked = set(sparse.encode_query(question).indices)
    held = [asked.intersection(sparse.encode(embedding_text(candidate.hit.chunk)).indices) for candidate in first]
    return Evidence(
        meaning=max((candidate.scores.get("dense", 0.0) for candidate in first), default=0.0),
        words=max((len(terms) / len(asked) for terms in held if asked), default=0.0),
    )
