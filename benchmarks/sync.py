"""What a sync costs: the first one, an unchanged one, and one after a single edit, on three real blogs.

    python benchmarks/sync.py [--json]

The first sync is the baseline: it is what a tool without fingerprints pays every time.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_twin import Twin
from report import command, corpora, show

BLOGS = ("blog-simonw-til", "blog-matklad", "blog-jakearchibald")


def main() -> None:
    """Sync a copy of the blogs three times and print what each cost."""
    parser = command(__doc__)
    options = parser.parse_args()
    blogs = corpora(*BLOGS)
    with tempfile.TemporaryDirectory() as folder:
        result = {"rows": measure(Path(folder), blogs)}
    show(result, table, as_json=options.json)


def table(result: dict[str, list[dict[str, Any]]]) -> str:
    """The result for people; the last column compares with the first sync."""
    lines = [f"{'sync':<14}{'documents':>10}{'chunks':>9}{'embedded':>10}{'seconds':>9}{'of first':>10}"]
    for row in result["rows"]:
        counts = f"{row['documents']:>10}{row['chunks']:>9}{row['embedded']:>10}"
        share = row["seconds"] / result["rows"][0]["seconds"]
        lines.append(f"{row['sync']:<14}{counts}{row['seconds']:>9.2f}{share:>10.1%}")
    return "\n".join(lines)


def measure(folder: Path, blogs: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows for a first sync, an unchanged one, one after an edit of one word, and one after a removal."""
    posts = folder / "posts"
    posts.mkdir()
    for blog in blogs:
        (posts / f"{blog.name}.jsonl").write_bytes((blog / "posts.jsonl").read_bytes())
    Twin.init(folder / "twin", addresses=["../posts"]).close()
    rows = [_sync("first", folder), _sync("unchanged", folder)]
    edited = posts / "blog-matklad.jsonl"
    lines = edited.read_text(encoding="utf-8").splitlines()
    post = json.loads(lines[40])
    post["text"] = post["text"].replace(" the ", " that very ", 1)
    edited.write_text("\n".join([*lines[:40], json.dumps(post), *lines[41:]]) + "\n", encoding="utf-8")
    rows.append(_sync("one edit", folder))
    edited.write_text("\n".join([*lines[:40], *lines[41:]]) + "\n", encoding="utf-8")
    rows.append(_sync("one removed", folder))
    return rows


def _sync(name: str, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    with Twin.open(folder / "twin") as twin:
        report = twin.sync()
    return {
        "sync": name,
        "documents": len(report.items),
        **{outcome: count for outcome, count in report.documents.items() if count},
        "chunks": report.chunks,
        "embedded": report.embedded,
        "seconds": round(time.perf_counter() - started, 3),
    }


if __name__ == "__main__":
    main()
