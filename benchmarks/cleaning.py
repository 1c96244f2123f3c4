"""Cleaning: what is left of a site's interface, and what is lost of the author, beside the usual regular expression.

    python benchmarks/cleaning.py [--json]

Two corpora. *Crawled articles* (`book/book_raw_documents.jsonl`) carry the interface of the newsletter site they were
crawled from. On that site's pages the widgets that say "Share this post" delimit what the author wrote, so every line
has a label that does not depend on the cleaner: the author's are title, subtitle, byline, date and the body between the
second and the third widget, without counters and without lines that only say "Subscribe" or "Share". Everything else is
boilerplate, other readers' comments included. Lines are compared as multisets; characters are counted without white
space. Pages of other hosts have no such labels and are reported by a weaker measure: characters in lines that stand on
at least three pages of a host and are in the list `INTERFACE` below.
*Blogs* are their authors' own Markdown. They are cleaned as files, and once more as if every post had been crawled from
one site, which is where recurrence could do harm. Every changed character is a loss.

The baseline is the cleaning of the LLM Engineer's Handbook: everything but word characters, white space and `.,!?`
becomes a space, and white space collapses.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_twin.core.records import Document
from llm_twin.features.clean import boilerplate_lines, clean, site
from report import DATA, command, corpora, show

BLOGS = ("blog-matklad", "blog-simonw-til", "blog-jakearchibald")
WIDGET = "Share this post"
INTERFACE = re.compile(
    r"subscribe|sign in|subscribesign in|share|share this post|copy link|facebook|email|note|other|previousnext|"
    r"comments|restacks|top|latest|discussions|no posts|ready for more\?|#+ discussion about this post|"
    r"start writingget the app|privacy ∙ terms ∙ collection notice|© \d{4} .*|.*\bcookie policy\b.*|"
    r".*\brequires javascript\b.*|unblock scripts|"
    r"substack is the home for great culture|[\w-]+\.substack\.com",
    re.IGNORECASE,
)
CONTRACTION = re.compile(r"\b\w+[’'](?:t|s|re|ve|ll|d|m)\b", re.IGNORECASE)


def main() -> None:
    """Measure both cleaners on both corpora and print a table or JSON."""
    parser = command(__doc__)
    arguments = parser.parse_args()
    (crawled,) = corpora("book/book_raw_documents.jsonl")
    result = {"crawled": measure_crawled(read_crawled(crawled)), "blogs": measure_blogs(DATA)}
    show(result, table, as_json=arguments.json)


def handbook(text: str) -> str:
    """The baseline: a regular expression that keeps words, white space and `.,!?`."""
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s.,!?]", " ", text)).strip()


def measure_crawled(documents: Sequence[Document]) -> dict[str, Any]:
    """Boilerplate left and author lost of the crawled articles: as collected, by the baseline, by us."""
    started = time.perf_counter()
    boilerplate = boilerplate_lines(documents)
    ours = [clean(document, boilerplate).text for document in documents]
    seconds = time.perf_counter() - started
    raw = [document.text for document in documents]
    labels = [author_lines(text) for text in raw]
    recurring = recurring_interface(documents)
    cleaned = {"as collected": raw, "handbook": [handbook(text) for text in raw], "ours": ours}
    return {
        "pages": len(documents),
        "labelled_pages": sum(label is not None for label in labels),
        "seconds": round(seconds, 3),
        "megabytes_per_s": round(sum(len(text.encode()) for text in raw) / seconds / 1e6, 1),
        **{name: measure(raw, texts, labels, documents, recurring) for name, texts in cleaned.items()},
    }


def measure(
    raw: Sequence[str],
    texts: Sequence[str],
    labels: Sequence[Counter[str] | None],
    documents: Sequence[Document],
    recurring: dict[str, set[str]],
) -> dict[str, Any]:
    """The figures of one cleaner; a text without line breaks is judged by words, as no line of it is whole."""
    kept = junk = lost = author = 0
    weak = total = 0
    for before, after, label, document in zip(raw, texts, labels, documents, strict=True):
        lines = Counter(bare(after))
        wanted = Counter(tokens(label.elements())) if label is not None and is_flat(after) else label
        have = Counter(tokens([after])) if is_flat(after) else lines
        if wanted is not None:
            everything = Counter(tokens([before])) if is_flat(after) else Counter(bare(before))
            author += size(wanted)
            lost += size(wanted - have)
            junk += size(have & (everything - wanted))
            kept += size(have)
        weak += sum(
            solid(line) * count for line, count in lines.items() if line in recurring.get(site(document) or "", ())
        )
        total += size(lines)
    joined = "\n".join(texts)
    words = len(re.findall(r"\w+", joined))
    return {
        "boilerplate_percent": round(100 * junk / kept, 3),
        "author_characters": author,
        "author_characters_lost": lost,
        "boilerplate_percent_by_recurrence_all_pages": round(100 * weak / total, 3),
        "contractions_per_1000_words": round(1000 * len(CONTRACTION.findall(joined)) / words, 2),
        "back_ticks": joined.count("`"),
        "line_breaks_per_1000_characters": round(1000 * sum(text.count("\n") for text in texts) / len(joined), 2),
    }


def author_lines(text: str) -> Counter[str] | None:
    """The author's lines of a newsletter page by its share widgets; None where the page has no three of them."""
    lines = bare(text)
    widgets = [number for number, line in enumerate(lines) if line == WIDGET]
    if len(widgets) != 3:
        return None
    title = lines[widget_end(lines, widgets[0]) : widgets[1]]
    body = lines[widget_end(lines, widgets[1]) : widgets[2]]
    mine = [*without_counters(title), *without_counters(body)]
    return Counter(line for line in mine if line not in ("Subscribe", "Share"))


def widget_end(lines: Sequence[str], start: int) -> int:
    """The line after a share widget: "Other" ends it, below the title a number of comments and "Share" may follow."""
    end = lines.index("Other", start) + 1
    share = end + lines[end : end + 1].count("Share") if not lines[end].isdigit() else end + 2
    return share if lines[share - 1] == "Share" else end


def without_counters(lines: Sequence[str]) -> Sequence[str]:
    """The lines without numbers of likes and comments at their end, which stand in front of the widget."""
    end = len(lines)
    while end and lines[end - 1].isdigit():
        end -= 1
    return lines[:end]


def recurring_interface(documents: Sequence[Document]) -> dict[str, set[str]]:
    """Lines on at least three pages of a host that are in the hand-checked list."""
    pages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        pages[site(document) or ""].update(set(bare(document.text)))
    return {
        host: {line for line, count in lines.items() if count >= 3 and INTERFACE.fullmatch(line)}
        for host, lines in pages.items()
    }


def measure_blogs(data: Path) -> dict[str, Any]:
    """Characters of real blogs that cleaning changes, as files and as if crawled from one site."""
    figures: dict[str, Any] = {}
    for blog in BLOGS:
        path = data / blog / "posts.jsonl"
        if not path.exists():
            continue
        posts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        files = [document(post["text"], post["title"], post["id"], "files", None) for post in posts]
        crawled = [
            document(post["text"], post["title"], post["id"], "web", f"https://{blog}.example/x") for post in posts
        ]
        figures[blog] = {
            "posts": len(posts),
            "author_characters": sum(size(Counter(bare(each.text))) for each in files),
            "lost_by_handbook": sum(lost_characters(each.text, handbook(each.text)) for each in files),
            "lost_as_files": changed(files),
            "lost_as_crawled_pages": changed(crawled),
        }
    return figures


def changed(documents: Sequence[Document]) -> int:
    """Characters lost in cleaning; a text that differs in white space alone counts one."""
    boilerplate = boilerplate_lines(documents)
    pairs = [(each.text, clean(each, boilerplate).text) for each in documents]
    return sum(max(1, lost_characters(before, after)) for before, after in pairs if before != after)


def lost_characters(before: str, after: str) -> int:
    """Characters, without white space, that occur less often afterwards."""
    lost: Callable[[str], Counter[str]] = lambda text: Counter(re.sub(r"\s+", "", text))  # noqa: E731
    return (lost(before) - lost(after)).total()


def bare(text: str) -> list[str]:
    """The lines of a text without surrounding space, blank ones left out."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def is_flat(text: str) -> bool:
    """Whether a cleaner left no line breaks, so that lines cannot be compared."""
    return "\n" not in text


def tokens(texts: Iterable[str]) -> Iterator[str]:
    """Words and single marks, the unit of comparison where there are no lines."""
    for text in texts:
        yield from re.findall(r"\w+|[^\w\s]", text)


def size(pieces: Counter[str]) -> int:
    """Characters of the pieces, without white space."""
    return sum(solid(piece) * count for piece, count in pieces.items())


def solid(piece: str) -> int:
    """Characters that are not white space."""
    return sum(not character.isspace() for character in piece)


def read_crawled(path: Path) -> list[Document]:
    """The crawled articles as documents."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        document(each["content"]["Content"], each["content"]["Title"], each["id"], "web", each["link"])
        for each in records
    ]


def document(text: str, title: str, name: str, source: str, url: str | None) -> Document:
    """A document with what cleaning looks at."""
    return Document(name, "author", source, "article", title, text, "", datetime(2026, 1, 1, tzinfo=UTC), url=url)


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    crawled = result["crawled"]
    columns = ("as collected", "handbook", "ours")
    rows = [
        f"{crawled['pages']} crawled articles, {crawled['labelled_pages']} labelled; {crawled['megabytes_per_s']} MB/s"
    ]
    rows.append(f"{'':46}" + "".join(f"{name:>14}" for name in columns))
    rows += [
        f"{figure.replace('_', ' '):46}" + "".join(f"{crawled[name][figure]:>14}" for name in columns)
        for figure in crawled["ours"]
    ]
    rows.append(f"\n{'author characters lost':24}{'of':>12}{'handbook':>12}{'ours, files':>14}{'ours, crawled':>15}")
    rows += [
        f"{blog:24}{each['author_characters']:>12}{each['lost_by_handbook']:>12}{each['lost_as_files']:>14}"
        f"{each['lost_as_crawled_pages']:>15}"
        for blog, each in result["blogs"].items()
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
