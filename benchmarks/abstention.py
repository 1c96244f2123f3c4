"""Does the twin know what it does not know? How often covered questions are answered and uncovered ones refused.

    python benchmarks/abstention.py [--json] [--per-group N] [--workspace FOLDER]

*Covered* are XQuAD's questions with their paragraph in the index, Cranfield's questions over Cranfield, and
"What does he think about TITLE?" for the posts of a blog. *Uncovered* are the same XQuAD questions with their paragraph
held out (hard: the rest of its article stays), both collections' questions asked of the blog, and the titles of XQuAD's
articles asked of the blog in the same words as those of its own posts.

Each sign is judged by its area under the ROC curve (0.5 is chance) and by the accuracy of its best threshold, groups
weighing alike. A logistic regression, fitted on every second question and judged on the others, shows what their
combination could reach; `shipped` is the rule in `inference/evidence.py`. Search scores of the last kind, `margin`, are
the best cosine less the mean of all candidates; `closeness` is late interaction; `bm25` is per term of the question.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_twin import Twin
from llm_twin.adapters.otel import SilentTracer
from llm_twin.core.records import Filter
from llm_twin.inference.evidence import DEPTH, ENOUGH, weigh
from llm_twin.inference.retrieve import Retriever
from report import DATA, command, corpora, show
from retrieval import ADDRESS, read_qrels, workspace_of

BLOG = "blog-jakearchibald"
COVERED = ("xquad", "cranfield", "own titles")
UNCOVERED = ("held out", "foreign titles", "xquad on blog", "cranfield on blog")
SIGNS = ("meaning", "words", "closeness", "bm25", "margin")
Signs = dict[str, float]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def main() -> None:
    """Measure every group and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--per-group", type=int, default=150, help="questions of each kind (default 150)")
    parser.add_argument(
        "--workspace", type=Path, help="folder to keep the workspaces in, so that a second run is quick"
    )
    options = parser.parse_args()
    corpora("xquad-en", "cranfield", BLOG)
    with tempfile.TemporaryDirectory() as temporary:
        groups = ask_all(options.workspace or Path(temporary), options.per_group)
    result = judge(groups)
    show(result, table, as_json=options.json)


def ask_all(folder: Path, count: int) -> dict[str, list[Signs]]:
    """The signs of every question, by group."""
    xquad, xquad_relevant = _questions("xquad-en")
    cranfield, _ = _questions("cranfield")
    asked = _sample(sorted(xquad), count)
    of_cranfield = _sample(sorted(cranfield), count)
    groups: dict[str, list[Signs]] = {}
    with workspace_of(DATA / "xquad-en", folder / "xquad-en") as twin:
        ids = {made.document.url: made.document.id for made in twin.warehouse.features()}
        groups["xquad"] = [signs(twin, xquad[id_]) for id_ in asked]
        groups["held out"] = [
            signs(twin, xquad[id_], where=_all_but({ADDRESS + gold for gold in xquad_relevant[id_]}, ids))
            for id_ in asked
        ]
    with workspace_of(DATA / "cranfield", folder / "cranfield") as twin:
        groups["cranfield"] = [signs(twin, cranfield[id_]) for id_ in of_cranfield]
    with _blog(folder / BLOG) as twin:
        own = [json.loads(line)["title"] for line in _text(DATA / BLOG / "posts.jsonl")]
        foreign = sorted({json.loads(line)["title"] for line in _text(DATA / "xquad-en" / "corpus.jsonl")})
        groups["own titles"] = [signs(twin, f"What does he think about {title}?") for title in _sample(own, count)]
        groups["foreign titles"] = [signs(twin, f"What does he think about {title}?") for title in foreign]
        groups["xquad on blog"] = [signs(twin, xquad[id_]) for id_ in asked]
        groups["cranfield on blog"] = [signs(twin, cranfield[id_]) for id_ in of_cranfield]
    return groups


def signs(twin: Twin, question: str, *, where: Filter = Filter()) -> Signs:
    """Everything that could tell whether the hits of a question answer it."""
    retriever = Retriever(twin.index, twin.embedder, twin.sparse, twin.warehouse, twin.reranker)
    found = retriever.rank([question], k=50, where=where, tracer=SilentTracer())
    evidence = weigh(question, found, sparse=twin.sparse)
    dense = [candidate.scores["dense"] for candidate in found if "dense" in candidate.scores] or [0.0]
    terms = len(twin.sparse.encode_query(question).indices) or 1
    return {
        "meaning": evidence.meaning,
        "words": evidence.words,
        "closeness": max((candidate.scores.get("maxsim", 0.0) for candidate in found[:DEPTH]), default=0.0),
        "bm25": max((candidate.scores.get("bm25", 0.0) for candidate in found), default=0.0) / terms,
        "margin": max(dense) - float(np.mean(dense)),
    }


def _all_but(addresses: set[str], ids: Mapping[str | None, str]) -> Filter:
    return Filter(document_ids=tuple(sorted(id_ for address, id_ in ids.items() if address not in addresses)))


def judge(groups: Mapping[str, Sequence[Signs]]) -> dict[str, Any]:
    """How well each sign, the regression and the shipped rule tell covered from uncovered questions."""
    names = [*COVERED, *UNCOVERED]
    values = np.array([[row[sign] for sign in SIGNS] for name in names for row in groups[name]])
    covered = np.array([name in COVERED for name in names for _ in groups[name]])
    weights = np.array(
        [1 / len(COVERED if name in COVERED else UNCOVERED) / len(groups[name]) for name in names for _ in groups[name]]
    )
    shipped = (values[:, 0] + values[:, 1]) / 2
    rules = {sign: _rule(values[:, column], covered, weights) for column, sign in enumerate(SIGNS)}
    for title, columns in {
        "meaning + words": [0, 1],
        "meaning + words + closeness": [0, 1, 2],
        "all": [*range(5)],
    }.items():
        fitted = _fit(values[::2][:, columns], covered[::2], weights[::2])
        scores = _with_one(values[:, columns]) @ fitted
        rules[title] = {
            **_rule(scores[1::2], covered[1::2], weights[1::2]),
            "weights": dict(
                zip([*(SIGNS[column] for column in columns), "bias"], fitted.round(2).tolist(), strict=True)
            ),
        }
    answered = shipped >= ENOUGH
    starts = np.cumsum([0, *(len(groups[name]) for name in names)])
    return {
        "signs": rules,
        "shipped": {
            "threshold": ENOUGH,
            "auc": round(_auc(shipped, covered, weights), 4),
            "accuracy": round(_accuracy(answered, covered, weights), 4),
            "answered": {
                name: round(float(answered[start:stop].mean()), 4)
                for name, start, stop in zip(names, starts, starts[1:], strict=False)
            },
        },
        "questions": {name: len(groups[name]) for name in names},
    }


def _rule(scores: Floats, covered: np.ndarray[Any, Any], weights: Floats) -> dict[str, Any]:
    best = max(np.unique(scores), key=lambda threshold: _accuracy(scores >= threshold, covered, weights))
    return {
        "auc": round(_auc(scores, covered, weights), 4),
        "accuracy": round(_accuracy(scores >= best, covered, weights), 4),
        "threshold": round(float(best), 4),
    }


def _auc(scores: Floats, covered: np.ndarray[Any, Any], weights: Floats) -> float:
    """Chance that a covered question scores higher than an uncovered one; ties count half."""
    higher = scores[covered][:, None] > scores[~covered][None, :]
    equal = scores[covered][:, None] == scores[~covered][None, :]
    pairs = weights[covered][:, None] * weights[~covered][None, :]
    return float(((higher + 0.5 * equal) * pairs).sum() / pairs.sum())


def _accuracy(answered: np.ndarray[Any, Any], covered: np.ndarray[Any, Any], weights: Floats) -> float:
    return float(weights[answered == covered].sum() / weights.sum())


def _fit(values: Floats, covered: np.ndarray[Any, Any], weights: Floats) -> Floats:
    """Weights and bias of a logistic regression by Newton's method, lightly regularised."""
    inputs, share = _with_one(values), weights / weights.sum()
    beta = np.zeros(inputs.shape[1])
    ridge = np.diag([*[1e-3] * values.shape[1], 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ beta))
        slope = inputs.T @ (share * (covered - chance)) - ridge @ beta
        beta = beta + np.linalg.solve((inputs * (share * chance * (1 - chance))[:, None]).T @ inputs + ridge, slope)
    return np.asarray(beta)


def _with_one(values: Floats) -> Floats:
    return np.hstack([values, np.ones((len(values), 1))])


def _questions(name: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    relevant = read_qrels(DATA / name / "qrels.tsv")
    lines = [json.loads(line) for line in _text(DATA / name / "queries.jsonl")]
    return {line["_id"]: line["text"] for line in lines if line["_id"] in relevant}, relevant


def _text(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _sample(items: Sequence[str], count: int) -> list[str]:
    """Items spread evenly over the whole."""
    return list(items[:: max(1, len(items) // count)][:count])


def _blog(workspace: Path) -> Twin:
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / "posts.jsonl").write_bytes((DATA / BLOG / "posts.jsonl").read_bytes())
    if not (workspace / "twin" / "twin.toml").exists():
        Twin.init(workspace / "twin", addresses=["../posts.jsonl"]).close()
    twin = Twin.open(workspace / "twin", arguments={"traces.enabled": False})
    print(f"{BLOG}: syncing", file=sys.stderr)
    twin.sync()
    return twin


def table(result: Mapping[str, Any]) -> str:
    """Signs first, then what the shipped rule does with each group."""
    rows = [f"{'sign':<30}{'AUC':>8}{'accuracy':>10}"]
    for name, rule in result["signs"].items():
        fitted = f"   {rule['weights']}" if "weights" in rule else ""
        rows.append(f"{name:<30}{rule['auc']:>8.3f}{rule['accuracy']:>10.3f}{fitted}")
    shipped = result["shipped"]
    rows.append(f"{'shipped, at ' + str(shipped['threshold']):<30}{shipped['auc']:>8.3f}{shipped['accuracy']:>10.3f}")
    rows.append(f"\n{'group':<30}{'questions':>10}{'answered':>10}{'should be':>11}")
    for name, share in shipped["answered"].items():
        rows.append(
            f"{name:<30}{result['questions'][name]:>10}{share:>10.1%}{'all' if name in COVERED else 'none':>11}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
