"""Personal data: precision and recall per kind on labelled texts, beside Presidio's patterns; what real blogs hold.

    python benchmarks/personal_data.py [--json] [--show]

The labelled texts are the 1,500 synthetic ones of presidio-research (names, numbers and addresses from a generator,
with their places). A labelled place counts as found when a finding of its kind overlaps it; a finding is right when it
overlaps a labelled place of its kind. Labels of what neither finder looks for (names, places, dates) are left out. Of
the labelled addresses 226 are bare numbers and flats without a street ("28245", "Apt. 595").

The rules were written with these texts in view, so the figures show what the patterns can do, not what they will do on
other texts. The blogs show the other side: there, every finding was counted by kind and by whether it stands in a code
block. They hold some real addresses (of museums, servers, the authors themselves), so "found per MB" is an upper bound
of the false alarms; `--show` prints each finding.

Presidio is the baseline of the same run where it is installed: its pattern recognizers without a language model, from a
score of 0.4 on. It knows no addresses. Throughput is that of the finder alone, on one core.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_twin.adapters.presidio import PresidioFinder
from llm_twin.core.errors import MissingExtra
from llm_twin.core.records import PersonalSpan
from llm_twin.core.text import code_spans
from llm_twin.features.personal import KINDS, PatternFinder
from report import command, corpora, show

BLOGS = ("blog-matklad", "blog-simonw-til", "blog-jakearchibald")
LABELS = {
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "CREDIT_CARD": "card",
    "US_SSN": "ssn",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "STREET_ADDRESS": "address",
}


Finder = PatternFinder | PresidioFinder


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and where personal data stands in it."""

    text: str
    spans: tuple[PersonalSpan, ...]


def main() -> None:
    """Run both parts and print tables or JSON."""
    parser = command(__doc__)
    parser.add_argument("--show", action="store_true", help="print every finding of ours in the blogs first")
    arguments = parser.parse_args()
    texts, *blogs = corpora("pii-presidio/synth_v2.jsonl", *BLOGS)
    found = finders()
    labelled = read_labelled(texts)
    posts = [text for blog in blogs for text in read_posts(blog)]
    if arguments.show:
        show_findings(found["ours"], posts)
    result = {
        "texts": len(labelled),
        "posts": len(posts),
        "finders": {
            name: {"labelled": on_labelled(finder, labelled), "blogs": on_blogs(finder, posts)}
            for name, finder in found.items()
        },
    }
    show(result, table, as_json=arguments.json)


def finders() -> dict[str, Finder]:
    """Ours, and Presidio where it is installed."""
    found: dict[str, Finder] = {"ours": PatternFinder(KINDS)}
    try:
        found["presidio"] = PresidioFinder([kind for kind in KINDS if kind != "address"])
    except MissingExtra as error:
        print(f"without the baseline: {error}", file=sys.stderr)
    return found


def read_labelled(path: Path) -> list[Labelled]:
    """The labelled texts, with the labels of the kinds looked for."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Labelled(
            record["text"],
            tuple(
                PersonalSpan(LABELS[each["type"]], each["start"], each["end"])
                for each in record["spans"]
                if each["type"] in LABELS
            ),
        )
        for record in records
    ]


def read_posts(folder: Path) -> list[str]:
    """The posts of a blog."""
    return [json.loads(line)["text"] for line in (folder / "posts.jsonl").read_text(encoding="utf-8").splitlines()]


def on_labelled(finder: Finder, labelled: Sequence[Labelled]) -> dict[str, Any]:
    """Precision and recall per kind by overlap, and texts per second."""
    found, seconds = timed(lambda: [finder.find(each.text) for each in labelled])
    kinds: dict[str, dict[str, float | int | None]] = {}
    for kind in KINDS:
        there = hit = right = given = 0
        for each, spans in zip(labelled, found, strict=True):
            labels = [span for span in each.spans if span.kind == kind]
            mine = [span for span in spans if span.kind == kind]
            there += len(labels)
            given += len(mine)
            hit += sum(any(overlap(label, span) for span in mine) for label in labels)
            right += sum(any(overlap(label, span) for label in labels) for span in mine)
        kinds[kind] = {
            "labelled": there,
            "found": given,
            "precision": round(right / given, 3) if given else None,
            "recall": round(hit / there, 3) if kind in finder.kinds else None,
        }
    return {"kinds": kinds, "texts_per_s": round(len(labelled) / seconds)}


def on_blogs(finder: Finder, posts: Sequence[str]) -> dict[str, Any]:
    """Findings per megabyte of real posts, by kind, in prose and in code blocks."""
    found, seconds = timed(lambda: [finder.find(post) for post in posts])
    megabytes = sum(len(post.encode()) for post in posts) / 1e6
    counts: Counter[tuple[str, str]] = Counter()
    for post, spans in zip(posts, found, strict=True):
        code = code_spans(post) if spans else []
        counts.update((span.kind, "code" if in_code(span, code) else "prose") for span in spans)
    return {
        "megabytes": round(megabytes, 2),
        "megabytes_per_s": round(megabytes / seconds, 2),
        "found": {kind: {place: counts[kind, place] for place in ("prose", "code")} for kind in KINDS},
        "found_per_mb": {kind: round((counts[kind, "prose"] + counts[kind, "code"]) / megabytes, 2) for kind in KINDS},
    }


def timed(work: Callable[[], list[Sequence[PersonalSpan]]]) -> tuple[list[Sequence[PersonalSpan]], float]:
    """The result, and the seconds of processor time it took."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def overlap(a: PersonalSpan, b: PersonalSpan) -> bool:
    """Whether two places share a character."""
    return a.start < b.end and b.start < a.end


def in_code(span: PersonalSpan, code: Sequence[tuple[int, int]]) -> bool:
    """Whether a place begins in a code block."""
    return any(start <= span.start < end for start, end in code)


def show_findings(finder: Finder, posts: Sequence[str]) -> None:
    """Every finding with its surroundings, for a reader to judge."""
    for post in posts:
        for span in finder.find(post):
            print(f"{span.kind}: {post[max(0, span.start - 40) : span.start]!r} [{post[span.start : span.end]}]")


def table(result: Mapping[str, Any]) -> str:
    """Both parts as tables."""
    names = list(result["finders"])
    lines = [f"{result['texts']} labelled texts", "", f"{'kind':<10}{'labelled':>9}"]
    lines[-1] += "".join(f"{name + ' P':>12}{'R':>7}" for name in names)
    for kind in KINDS:
        rows = [result["finders"][name]["labelled"]["kinds"][kind] for name in names]
        lines.append(f"{kind:<10}{rows[0]['labelled']:>9}" + "".join(shown(row) for row in rows))
    lines.append(
        f"{'texts/s':<19}" + "".join(f"{result['finders'][name]['labelled']['texts_per_s']:>19,}" for name in names)
    )
    megabytes = result["finders"][names[0]]["blogs"]["megabytes"]
    lines += ["", f"{result['posts']} posts of three blogs, {megabytes} MB: found per MB (prose + code)", ""]
    lines.append(f"{'kind':<19}" + "".join(f"{name:>19}" for name in names))
    for kind in KINDS:
        cells = []
        for name in names:
            blogs = result["finders"][name]["blogs"]
            count = blogs["found"][kind]
            cells.append(f"{blogs['found_per_mb'][kind]:>8} ({count['prose']:>3} + {count['code']:>3})")
        lines.append(f"{kind:<19}" + "".join(cells))
    lines.append(
        f"{'MB/s':<19}" + "".join(f"{result['finders'][name]['blogs']['megabytes_per_s']:>19}" for name in names)
    )
    return "\n".join(lines)


def shown(row: Mapping[str, Any]) -> str:
    """Precision and recall of one finder for one kind."""
    precision, recall = ("–" if row[name] is None else f"{row[name]:.3f}" for name in ("precision", "recall"))
    return f"{precision:>12}{recall:>7}"


if __name__ == "__main__":
    main()
