"""Near-duplicates: precision and recall on revisions and cross-posts of real posts, beside exact hashes and datasketch.

    python benchmarks/near_duplicates.py [--json] [--sample N] [--seed N]

From each of three blogs a sample of posts is drawn; of each, versions are made with a seed: *cross-posts* (front
matter, title, intro line and footer added, links in another style, typographic quotes and dashes, lines wrapped anew,
all of it at once) and *revisions* (1, 5, 10 and 15 % of the words changed, once as single words all over the text, once
as whole sentences replaced by sentences of another post; or a tenth of the text cut). Every other post of the blog is a
negative. A version counts as found when it is dropped in favour of its own post or of another version of it; whatever
else is dropped is a false alarm. The threshold is the product's default; the highest similarity of two different posts
is printed beside it.

Baselines in the same run: equal SHA-256 of the text; of its words in lower case; and, where it is installed, datasketch
as commonly used (5-word shingles, Jaccard ≥ 0.8, 128 permutations).

The second part is the corpus of Clough & Stevenson (2009), short answers that students cut, revised lightly or heavily
from a source, or wrote independently: rewriting a text in other words is beyond any shingle, and reported as it is.
The third times 100,000 signatures, 15 % of them near-duplicates.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from llm_twin.core.records import Document, DocumentFeatures
from llm_twin.features import dedupe
from report import DATA, command, corpora, show

BLOGS = ("blog-matklad", "blog-simonw-til", "blog-jakearchibald")
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
SHORTEST = 60  # words; of a shorter post one edit is no small share
Decide = Callable[[Mapping[str, str]], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Version:
    """A text made from a post, and how."""

    post: str
    kind: str
    text: str


def main() -> None:
    """Run the three parts and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--sample", type=int, default=60, help="posts per blog that versions are made of")
    parser.add_argument("--seed", type=int, default=7, help="seed of sampling and editing")
    arguments = parser.parse_args()
    corpora(*BLOGS, "neardup-clough")
    result = {
        "similarity": dedupe.DOCUMENT_SIMILARITY,
        "blogs": {blog: measure_blog(DATA / blog, arguments.sample, arguments.seed) for blog in BLOGS},
        "clough": measure_clough(DATA / "neardup-clough" / "docs.jsonl"),
        "speed": measure_speed(arguments.seed),
    }
    show(result, table, as_json=arguments.json)


# --- versions of real posts -----------------------------------------------------------------------------------------


def measure_blog(folder: Path, sample: int, seed: int) -> dict[str, Any]:
    """Precision and recall of every method on one blog."""
    rng = random.Random(seed)
    records = [json.loads(line) for line in (folder / "posts.jsonl").read_text(encoding="utf-8").splitlines()]
    posts = {each["id"]: each["text"] for each in records}
    titles = {each["id"]: each["title"] for each in records}
    long = sorted(name for name, text in posts.items() if len(dedupe.words(text)) >= SHORTEST)
    chosen = rng.sample(long, min(sample, len(long)))
    versions = {
        f"{version.post}#{version.kind}": version
        for name in chosen
        for version in make_versions(name, posts[name], titles[name], posts[rng.choice(long)], rng)
    }
    pool = posts | {name: version.text for name, version in versions.items()}
    methods: dict[str, Decide] = {"ours": ours, "same text": by_hash(str), "same words": by_hash(lowered)}
    if datasketch_is_there():
        methods["datasketch"] = with_datasketch
    return {
        "posts": len(posts),
        "versions": len(versions),
        "closest_different_posts": round(closest(posts), 3),
        "methods": {name: score(decide, pool, versions) for name, decide in methods.items()},
    }


def make_versions(name: str, text: str, title: str, other: str, rng: random.Random) -> list[Version]:
    """All versions of one post."""
    front = f"---\ntitle: {title}\ndate: 2024-05-01\ntags: [a, b]\n---\n\n"
    intro = f"*This post first appeared on my own site under the title {title}.*\n\n"
    footer = "\n\n---\n\nThanks for reading! Subscribe for free to receive new posts and support my work."
    every = front + intro + rewrapped(typographic(bare_links(text))) + footer
    cross = {
        "front matter": front + text,
        "intro and footer": intro + text + footer,
        "links": bare_links(text),
        "typography": typographic(text),
        "rewrapped": rewrapped(text),
        "all of these": every,
    }
    edits = {f"{percent} % words": scattered(text, percent / 100, other, rng) for percent in (1, 5, 10, 15)}
    edits |= {f"{percent} % sentences": replaced(text, percent / 100, other, rng) for percent in (1, 5, 10, 15)}
    edits["a tenth cut"] = text[: int(len(text) * 0.9)]
    return [
        *(Version(name, f"cross-post: {kind}", made) for kind, made in cross.items()),
        *(Version(name, f"revision: {kind}", made) for kind, made in edits.items()),
    ]


def bare_links(text: str) -> str:
    """Inline links become reference links, as some platforms export them."""
    targets: list[str] = []

    def refer(match: re.Match[str]) -> str:
        targets.append(match[2])
        return f"[{match[1]}][{len(targets)}]"

    linked = re.sub(r"\[([^\[\]]*)\]\(([^()\s]+)\)", refer, text)
    return "\n".join([linked, "", *(f"[{number}]: {target}" for number, target in enumerate(targets, 1))])


def typographic(text: str) -> str:
    """Straight quotes, dashes and dots become typographic ones."""
    text = re.sub(r"(?<=\w)'(?=\w)", "’", text)
    text = re.sub(r'"([^"\n]*)"', r"“\1”", text)
    return text.replace(" -- ", " — ").replace("--", "–").replace("...", "…")


def rewrapped(text: str) -> str:
    """Paragraphs wrapped at another width, and as many blank lines as it takes."""
    return "\n\n\n".join(textwrap.fill(part, 60, break_long_words=False) for part in text.split("\n\n"))


def scattered(text: str, share: float, other: str, rng: random.Random) -> str:
    """That share of the words, single ones all over the text, replaced by words of another post."""
    pieces = re.split(r"(\s+)", text)
    spare = other.split()
    places = [place for place in range(0, len(pieces), 2) if pieces[place]]
    for place in rng.sample(places, max(1, round(share * len(places)))):
        pieces[place] = rng.choice(spare)
    return "".join(pieces)


def replaced(text: str, share: float, other: str, rng: random.Random) -> str:
    """Sentences with that share of the words replaced by sentences of another post."""
    sentences = re.split(r"(?<=[.!?:])(\s+)", text)
    spare = [each for each in re.split(r"(?<=[.!?:])\s+", other) if each.split()]
    wanted = share * len(text.split())
    places = list(range(0, len(sentences), 2))
    rng.shuffle(places)
    changed = 0
    for place in places:
        size = len(sentences[place].split())
        if size and (changed + size <= wanted or (not changed and size <= 2 * wanted + 5)):
            sentences[place] = rng.choice(spare)
            changed += size
    return "".join(sentences)


def score(decide: Decide, pool: Mapping[str, str], versions: Mapping[str, Version]) -> dict[str, Any]:
    """Precision, recall, recall by kind and seconds of one method."""
    started = time.perf_counter()
    dropped = decide(pool)
    seconds = time.perf_counter() - started
    family = {name: name for name in pool} | {name: version.post for name, version in versions.items()}
    found = {name for name, leader in dropped.items() if name in versions and family[name] == family[leader]}
    kinds = sorted({version.kind for version in versions.values()})
    by_kind = {
        kind: round(
            sum(name in found for name, each in versions.items() if each.kind == kind)
            / sum(each.kind == kind for each in versions.values()),
            3,
        )
        for kind in kinds
    }
    return {
        "precision": round(len(found) / len(dropped), 4) if dropped else None,
        "recall": round(len(found) / len(versions), 4),
        "false_alarms": sorted(f"{name} as {leader}" for name, leader in dropped.items() if name not in found)[:5],
        "seconds": round(seconds, 2),
        "recall_by_kind": by_kind,
    }


def ours(pool: Mapping[str, str]) -> dict[str, str]:
    """The product's own decision, posts published before their versions."""
    features = [
        DocumentFeatures(as_document(name, text, number), "", signatures=(dedupe.signature(text),))
        for number, (name, text) in enumerate(pool.items())
    ]
    return dict(dedupe.documents(features).dropped)


def as_document(name: str, text: str, number: int) -> Document:
    """A document published `number` days after the first."""
    return Document(
        name, "author", "files", "article", name, text, "", EPOCH, published_at=EPOCH + timedelta(days=number)
    )


def by_hash(view: Callable[[str], str]) -> Decide:
    """Equal SHA-256 of a view of the text."""

    def decide(pool: Mapping[str, str]) -> dict[str, str]:
        first: dict[bytes, str] = {}
        leaders = {
            name: first.setdefault(hashlib.sha256(view(text).encode()).digest(), name) for name, text in pool.items()
        }
        return {name: leader for name, leader in leaders.items() if name != leader}

    return decide


def lowered(text: str) -> str:
    """The words of a text in lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


def datasketch_is_there() -> bool:
    """Whether the optional baseline can run."""
    if importlib.util.find_spec("datasketch") is None:
        print("datasketch is not installed, so it is left out; run: pip install datasketch", file=sys.stderr)
        return False
    return True


def with_datasketch(pool: Mapping[str, str]) -> dict[str, str]:
    """MinHash LSH of datasketch over 5-word shingles at Jaccard 0.8; the first of a group leads."""
    datasketch = importlib.import_module("datasketch")
    index = datasketch.MinHashLSH(threshold=0.8, num_perm=128)
    sketches: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    for name, text in pool.items():
        found = re.findall(r"\w+", text.lower())
        sketch = datasketch.MinHash(num_perm=128)
        sketch.update_batch([" ".join(found[at : at + 5]).encode() for at in range(max(1, len(found) - 4))])
        near = [(sketch.jaccard(sketches[other]), other) for other in index.query(sketch)]
        best = max(near, default=(0.0, ""))
        if best[0] >= 0.8:
            dropped[name] = best[1]
            continue
        index.insert(name, sketch)
        sketches[name] = sketch
    return dropped


def closest(posts: Mapping[str, str]) -> float:
    """The highest similarity of two different posts: how far a threshold could fall before it does harm."""
    names = sorted(posts)
    matrix = np.stack([np.frombuffer(dedupe.signature(posts[name]), "<u4") for name in names])
    best = 0.0
    for number in range(len(names) - 1):
        shared = (matrix[number + 1 :] == matrix[number]).mean(axis=1)
        other = int(shared.argmax())
        if shared[other] > 0:
            best = max(best, dedupe.text_similarity(posts[names[number]], posts[names[number + 1 + other]]))
    return best


# --- paraphrases, speed ---------------------------------------------------------------------------------------------


def measure_clough(path: Path) -> dict[str, Any]:
    """Share of answers, by how they came to be, that count as near-duplicates of their source; median similarity."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sources = {each["task"]: each["text"] for each in records if each["category"] == "orig"}
    figures = {}
    for category in ("cut", "light", "heavy", "non"):
        scores = sorted(
            dedupe.text_similarity(each["text"], sources[each["task"]])
            for each in records
            if each["category"] == category
        )
        figures[category] = {
            "answers": len(scores),
            "found": sum(value >= dedupe.DOCUMENT_SIMILARITY for value in scores),
            "median_similarity": round(float(np.median(scores)), 3),
            "highest_similarity": round(scores[-1], 3),
        }
    return figures


def measure_speed(seed: int) -> dict[str, float]:
    """Seconds to find the near-duplicates among 100,000 signatures, 5,000 of them near and 10,000 equal copies."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 2**32, (100_000, dedupe.PERMUTATIONS), dtype=np.uint32)
    copies = matrix[:5000].copy()
    copies[rng.random(copies.shape) < 0.05] = 1
    matrix[50_000:55_000] = copies
    matrix[60_000:70_000] = matrix[7]
    items = [(str(number), row.tobytes()) for number, row in enumerate(matrix)]
    figures = {}
    for name, threshold in (("documents", dedupe.DOCUMENT_SIMILARITY), ("chunks", dedupe.CHUNK_SIMILARITY)):
        started = time.perf_counter()
        dropped = len(dedupe.near_duplicates(items, threshold=threshold).dropped)
        figures[f"{name}_s"] = round(time.perf_counter() - started, 2)
        figures[f"{name}_found_of_15000"] = dropped
    return figures


# --- for people -----------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = [f"near-duplicates from similarity {result['similarity']}"]
    for blog, each in result["blogs"].items():
        rows.append(
            f"\n{blog}: {each['posts']} posts, {each['versions']} versions, closest different posts "
            f"{each['closest_different_posts']}"
        )
        rows.append(f"{'':38}" + "".join(f"{name:>13}" for name in each["methods"]))
        for figure in ("precision", "recall", "seconds"):
            values = (str(method[figure]) for method in each["methods"].values())
            rows.append(f"{figure:38}" + "".join(f"{value:>13}" for value in values))
        for kind in each["methods"]["ours"]["recall_by_kind"]:
            values = (str(method["recall_by_kind"][kind]) for method in each["methods"].values())
            rows.append(f"  {kind:36}" + "".join(f"{value:>13}" for value in values))
    rows.append("\nstudents' answers from a source    answers  found  median similarity  highest")
    rows += [
        f"  {category:32}{each['answers']:>8}{each['found']:>7}{each['median_similarity']:>19}"
        f"{each['highest_similarity']:>9}"
        for category, each in result["clough"].items()
    ]
    rows.append(f"\n100,000 signatures: {result['speed']}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
