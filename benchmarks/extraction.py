"""Article extraction: ours beside plain trafilatura and two BeautifulSoup baselines on 181 pages with known articles.

    python benchmarks/extraction.py [--json]

Data and metric are those of Zyte's article-extraction-benchmark: precision and recall of 4-token shingles per page,
averaged over pages; F1 is that of the averages. Ours is what a web source collects (`read_page`), its Markdown rendered
to plain text; a page it refuses counts as empty. Intervals are the middle 95 % of 1,000 resamplings of the pages.

The pages fall into two halves by the first byte of their names. The rules were made by looking at those of the first
half ("development"); those of the second ("held out") were measured, and looked at only for pages where a rule had
lost what trafilatura alone finds.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from llm_twin.collect.fetch import Fetched
from llm_twin.collect.page import read_page
from llm_twin.core.errors import ItemError
from llm_twin.core.text import plain
from report import command, corpora, show

SHINGLE = 4
RESAMPLINGS = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the benchmark: its HTML, where it was found, and the text of its article."""

    name: str
    url: str
    html: bytes
    article: str

    @property
    def is_development(self) -> bool:
        """Whether it may be looked at while the extraction is made."""
        return int(self.name[:2], 16) % 2 == 0


def main() -> None:
    """Measure every extractor on every page and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--development", action="store_true", help="only the pages that may be looked at")
    arguments = parser.parse_args()
    (folder,) = corpora("zyte-article-extraction")
    pages = [page for page in read_pages(folder) if page.is_development or not arguments.development]
    extractors = {
        "ours": ours, "trafilatura": trafilatura, "bs4 paragraphs": paragraphs, "bs4 get_text": all_text,
    }  # fmt: skip
    result = {name: measure(pages, extract) for name, extract in extractors.items()}
    show(result, table, as_json=arguments.json)


def read_pages(folder: Path) -> list[Page]:
    """The pages in order of their names."""
    truth = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    found = []
    for path in sorted((folder / "html").glob("*.html.gz")):
        name = path.name.removesuffix(".html.gz")
        about = truth[name]
        found.append(Page(name, about["url"], gzip.decompress(path.read_bytes()), about["articleBody"]))
    return found


# --- extractors -----------------------------------------------------------------------------------------------------


def ours(page: Page) -> str:
    """What a web source would collect, as a reader sees it; empty for a page it refuses."""
    answer = Fetched(page.url, 200, {}, page.html, "text/html", False, datetime(2026, 1, 1, tzinfo=UTC))
    try:
        return plain(read_page(answer).text)
    except ItemError:
        return ""


def trafilatura(page: Page) -> str:
    """trafilatura as it comes."""
    from trafilatura import extract

    return extract(page.html, include_comments=False) or ""


def paragraphs(page: Page) -> str:
    """The text of all `<p>`."""
    from bs4 import BeautifulSoup

    return "\n\n".join(each.get_text() for each in BeautifulSoup(page.html, "lxml").find_all("p"))


def all_text(page: Page) -> str:
    """All text outside scripts and styles: what most crawlers of a few lines take."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(page.html, "lxml")
    for each in soup(["script", "style", "noscript"]):
        each.decompose()
    return soup.get_text(" ")


# --- the metric -----------------------------------------------------------------------------------------------------


def measure(pages: Sequence[Page], extract: Callable[[Page], str]) -> dict[str, Any]:
    """Precision, recall and F1 over all pages and over both halves, and the pace."""
    started = time.process_time()
    texts = [extract(page) for page in pages]
    seconds = time.process_time() - started
    scores = [score(page.article, text) for page, text in zip(pages, texts, strict=True)]
    halves = {
        "development": [each for each, page in zip(scores, pages, strict=True) if page.is_development],
        "held out": [each for each, page in zip(scores, pages, strict=True) if not page.is_development],
    }
    return {
        "all": summary(scores),
        **{name: summary(half) for name, half in halves.items() if half},
        "empty": sum(not text.strip() for text in texts),
        "pages_per_s": round(len(pages) / seconds, 1),
    }


def score(article: str, text: str) -> tuple[float, float]:
    """Precision and recall of the shingles of a text against those of the article."""
    true, found = shingles(article), shingles(text)
    common = (true & found).total()
    if true == found:
        return 1.0, 1.0
    return (common / found.total() if found else 0.0), (common / true.total() if true else 0.0)


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Runs of four tokens; a shorter text is one run."""
    tokens = re.findall(r"\w+", text)
    if 0 < len(tokens) < SHINGLE:
        return Counter([tuple(tokens)])
    return Counter(tuple(tokens[at : at + SHINGLE]) for at in range(len(tokens) - SHINGLE + 1))


def summary(scores: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Averages with the interval of F1."""
    generator = random.Random(0)
    resampled = sorted(f1(generator.choices(scores, k=len(scores))) for _ in range(RESAMPLINGS))
    return {
        "pages": len(scores),
        "precision": round(fmean(precision for precision, _ in scores), 4),
        "recall": round(fmean(recall for _, recall in scores), 4),
        "f1": round(f1(scores), 4),
        "f1_interval": [round(resampled[at], 4) for at in (RESAMPLINGS // 40, -RESAMPLINGS // 40)],
    }


def f1(scores: Sequence[tuple[float, float]]) -> float:
    """F1 of average precision and average recall."""
    precision, recall = (fmean(each[at] for each in scores) for at in (0, 1))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'':<16}{'pages':<14}{'precision':>10}{'recall':>8}{'F1':>8}  {'95 %':<16}{'empty':>6}{'pages/s':>9}"]
    for name, figures in result.items():
        for part in ("all", "development", "held out"):
            if part in figures:
                each = figures[part]
                low, high = each["f1_interval"]
                pace = f"{figures['empty']:>6}{figures['pages_per_s']:>9}" if part == "all" else ""
                lines.append(
                    f"{name if part == 'all' else '':<16}{part:<14}{each['precision']:>10.4f}{each['recall']:>8.4f}"
                    f"{each['f1']:>8.4f}  {low:.4f}–{high:.4f}   {pace}"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
