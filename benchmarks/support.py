"""Citation checking: how often is "this passage supports that sentence" right, beside plain likeness of meaning.

    python benchmarks/support.py [--json]

Each case is a claim, a passage, and whether the passage supports the claim.

*paraphrases*    sts-b-test pairs: people scored the likeness of two sentences from 0 to 5. The one is the claim, the
                 other stands between three unrelated sentences in the passage. Supported from 4, not up to 2; in
                 between, people disagree about it.
*restated*       blog sentences with contractions written out or drawn together and the first person moved to a lead-in,
                 against the passage they stand in: supported.
*elsewhere*      blog sentences against another passage of the same document, so of the same subject: not supported.
*changed number*, *negated*, *changed name*
                 blog sentences in which one thing was changed, against the passage they come from: not supported.

Every case is dealt to one of two halves by a hash of its claim. Thresholds, the baselines' and the one that the code
should have, are chosen on the first half (balanced accuracy); all figures are from the second.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from llm_twin.adapters.minilm import MiniLmEmbedder
from llm_twin.core.ports import Embedder
from llm_twin.core.records import DocumentHeader, Passage
from llm_twin.core.text import plain, sentences
from llm_twin.inference import verify
from report import DATA, command, corpora, show

BLOGS = ("blog-matklad", "blog-simonw-til", "blog-jakearchibald")
PER_BLOG = 80
AROUND = 2


@dataclass(frozen=True)
class Case:
    """A claim and a passage that supports it, or does not."""

    kind: str
    claim: str
    passage: str
    supported: bool

    @property
    def dev(self) -> bool:
        """Whether the case belongs to the half on which thresholds are chosen."""
        return hashlib.sha256(self.claim.encode()).digest()[0] < 128


@dataclass(frozen=True)
class Scored:
    """A case with each method's score; `objection` is the rule that spoke against it, if any."""

    case: Case
    whole: float
    sentence: float
    support: float
    objection: str


def main() -> None:
    """Measure and print a table or JSON."""
    parser = command(__doc__)
    arguments = parser.parse_args()
    corpora("sts-b-test", *BLOGS)
    cases = [*paraphrases(DATA), *blog_cases(DATA)]
    with tempfile.TemporaryDirectory() as cache:
        result = measure(score(cases, cast("Embedder", MiniLmEmbedder(cache_dir=Path(cache)))))
    show(result, table, as_json=arguments.json)


def paraphrases(data: Path) -> Iterator[Case]:
    """Pairs that people judged, the second sentence among unrelated ones."""
    rows = [json.loads(line) for line in (data / "sts-b-test" / "test.jsonl").read_text("utf-8").splitlines()]
    rng = random.Random(7)
    for row in rows:
        if 2 < row["score"] < 4:
            continue
        around = [_full_stop(other["text2"]) for other in rng.sample(rows, 3)]
        around.insert(rng.randrange(4), _full_stop(row["text2"]))
        yield Case("paraphrases", _full_stop(row["text1"]), " ".join(around), row["score"] >= 4)


def blog_cases(data: Path) -> Iterator[Case]:
    """Sentences of real posts as they are, changed, and out of place."""
    rng = random.Random(7)
    for blog in BLOGS:
        posts = [json.loads(line) for line in (data / blog / "posts.jsonl").read_text("utf-8").splitlines()]
        chosen = []
        for post in posts:
            spans = sentences(post["text"])
            chosen += [(post["text"], spans, place) for place in range(len(spans))]
        chosen = [one for one in chosen if len(verify.content(_sentence(*one))) >= 6 and len(one[1]) > 4 * AROUND]
        known = sorted({name for one in rng.sample(chosen, 500) for name in verify.names(_sentence(*one))})
        for text, spans, place in rng.sample(chosen, PER_BLOG):
            yield from _cases(text, spans, place, known, rng)


def _cases(
    text: str, spans: Sequence[tuple[int, int]], place: int, known: Sequence[str], rng: random.Random
) -> Iterator[Case]:
    claim, passage = _sentence(text, spans, place), _around(text, spans, place)
    yield Case("restated", restated(claim), passage, True)
    far = [other for other in range(len(spans)) if abs(other - place) > 2 * AROUND]
    if far:
        yield Case("elsewhere", claim, _around(text, spans, rng.choice(far)), False)
    if changed := _with_other_number(claim, passage, rng):
        yield Case("changed number", changed, passage, False)
    if changed := negated(claim):
        yield Case("negated", changed, passage, False)
    own = [name for name in verify.names(claim) if len(name) > 1]
    others = [name for name in known if name.casefold() not in passage.casefold() and len(name) > 1]
    if own and others:
        yield Case("changed name", claim.replace(rng.choice(own), rng.choice(others)), passage, False)


def restated(claim: str) -> str:
    """The same statement in slightly other words."""
    for short, long in (("don't", "do not"), ("doesn't", "does not"), ("isn't", "is not"), ("can't", "cannot")):
        for old, new in ((short, long), (long, short)):
            if re.search(rf"\b{old}\b", claim):
                return re.sub(rf"\b{old}\b", new, claim)
    for short, long in (("it's", "it is"), ("I'm", "I am"), ("that's", "that is"), ("you're", "you are")):
        if re.search(rf"\b{short}\b", claim):
            return re.sub(rf"\b{short}\b", long, claim)
    head = claim if re.match(r"I\b|[A-Z]{2}|\w*[A-Z]\w*[A-Z]", claim) else claim[0].lower() + claim[1:]
    return f"I think that {head}"


def negated(claim: str) -> str:
    """The opposite: the first plain verb of being or ability with a `not`, or a negation taken out."""
    if re.search(r"\b(?:not|never)\b|n't\b", claim):
        if len(re.findall(r"\b(?:not|never|no|nothing|without)\b|n't\b", claim)) > 1 or "not only" in claim:
            return ""
        positive = re.sub(r"\b(do|does|did|is|are|was|were|would|should|could|has|have|had)n't\b", r"\1", claim)
        positive = re.sub(r"\b(?:can't|cannot)\b", "can", re.sub(r"\bwon't\b", "will", positive))
        return re.sub(r"\s(?:not|never)\b", "", positive)
    changed = re.sub(r"\b(is|are|was|were|can|will|would|should|could|must)\b", r"\1 not", claim, count=1)
    return changed if changed != claim else ""


def _with_other_number(claim: str, passage: str, rng: random.Random) -> str:
    there = verify.numbers(passage)
    found = list(re.finditer(r"(?<![\w.])\d{1,9}(?![\w.]\w)", claim))
    if not found:
        return ""
    match = rng.choice(found)
    other = next(str(n) for n in range(int(match[0]) + rng.randint(1, 9), 10**10) if str(n) not in there)
    return claim[: match.start()] + other + claim[match.end() :]


def score(cases: Sequence[Case], embedder: Embedder) -> list[Scored]:
    """Every case by every method."""
    claims = verify.embedded([case.claim for case in cases], embedder)
    wholes = verify.embedded([case.passage for case in cases], embedder)
    scored = []
    for case, claim, whole in zip(cases, claims, wholes, strict=True):
        header = DocumentHeader("d", "Author", "files", "article", "")
        evidence = verify.CitedPassage(Passage(1, header, case.passage, 0, len(case.passage), 1.0), embedder)
        support = evidence.support(case.claim, claim)
        quotes = [case.passage[start:end] for start, end in sentences(case.passage)] or [case.passage]
        best = float((verify.embedded(quotes, embedder) @ claim).max())
        scored.append(Scored(case, float(whole @ claim), best, support.score, support.objection))
    return scored


def measure(scored: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy of each method on the held-back half, whole and by kind of case."""
    dev, test = ([one for one in scored if one.case.dev is half] for half in (True, False))
    result: dict[str, Any] = {"cases": len(test), "methods": {}}
    methods: dict[str, Callable[[Scored], float]] = {
        "cosine to the passage": lambda one: one.whole,
        "cosine to its best sentence": lambda one: one.sentence,
        "support without rules": lambda one: one.support,
        "support with rules": lambda one: 0.0 if one.objection else one.support,
    }
    for method, values in methods.items():
        threshold = _best_threshold([(values(one), one.case.supported) for one in dev])
        chosen = verify.SUPPORTED if method == "support with rules" else threshold
        result["methods"][method] = {
            "threshold": chosen,
            "best_threshold_on_dev": threshold,
            "balanced_accuracy": _balanced([(values(one) >= chosen, one.case.supported) for one in test]),
            "by_kind": _by_kind([(one.case, values(one) >= chosen) for one in test]),
        }
    baseline = result["methods"]["cosine to the passage"]["balanced_accuracy"]
    ours = result["methods"]["support with rules"]["balanced_accuracy"]
    result["errors_against_baseline"] = round((1 - ours) / (1 - baseline), 3)
    return result


def _by_kind(judged: Sequence[tuple[Case, bool]]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for case, held in judged:
        groups[f"{case.kind}, {'supported' if case.supported else 'not supported'}"].append(held is case.supported)
    return {name: {"right": round(float(np.mean(group)), 3), "cases": len(group)} for name, group in groups.items()}


def _balanced(judged: Sequence[tuple[bool, bool]]) -> float:
    rates = [np.mean([held is truth for held, truth in judged if truth is side]) for side in (True, False)]
    return round(float(np.mean(rates)), 4)


def _best_threshold(values: Sequence[tuple[float, bool]]) -> float:
    grid = [round(step / 100, 2) for step in range(20, 100)]
    return max(grid, key=lambda threshold: _balanced([(value >= threshold, truth) for value, truth in values]))


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    methods = result["methods"]
    lines = [f"{'right on the held-back half':42}" + "".join(f"{name:>30}" for name in methods)]
    kinds = next(iter(methods.values()))["by_kind"]
    for kind, row in kinds.items():
        cells = "".join(f"{measured['by_kind'][kind]['right']:>30.3f}" for measured in methods.values())
        lines.append(f"{kind} ({row['cases']})".ljust(42) + cells)
    lines += [
        f"{name:42}" + "".join(f"{measured[name]:>30}" for measured in methods.values())
        for name in ("balanced_accuracy", "threshold", "best_threshold_on_dev")
    ]
    lines.append(f"errors of ours per error of the first: {result['errors_against_baseline']}")
    return "\n".join(lines)


def _sentence(text: str, spans: Sequence[tuple[int, int]], place: int) -> str:
    start, end = spans[place]
    return " ".join(plain(text[start:end]).split())


def _around(text: str, spans: Sequence[tuple[int, int]], place: int) -> str:
    first, last = max(place - AROUND, 0), min(place + AROUND, len(spans) - 1)
    return text[spans[first][0] : spans[last][1]]


def _full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


if __name__ == "__main__":
    main()
