"""Feeds: how many of those found in the wild, and of feedparser's conformance cases, become entries with text.

    python benchmarks/feeds.py [--json]

Two corpora: `feeds-real` (RSS, Atom and JSON Feed as published, some malformed) and the files of feedparser's own test
suite, tiny and often broken on purpose; many of those have no entry, as they test the head of a feed. The baseline is
a strict XML parser that takes `item` and `entry` elements, as a crawler of thirty lines does. A feed that neither reads
is listed with the reason.
"""

from __future__ import annotations

import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_twin.collect.feed import Feed, is_full, parse, reading_of
from llm_twin.collect.fetch import Fetched
from llm_twin.core.errors import SourceError
from report import command, corpora, show


def main() -> None:
    """Measure both corpora and print a table or JSON."""
    parser = command(__doc__)
    arguments = parser.parse_args()
    real, cases = corpora("feeds-real", "feeds-feedparser-tests/feedparser-tests.tar.gz")
    result = {
        "real": measure(dict(real_feeds(real))),
        "conformance": measure(dict(conformance_cases(cases))),
    }
    show(result, table, as_json=arguments.json)


def real_feeds(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Feeds found in the wild, by file name."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".xml", ".json") and path.name != "SOURCE.json":
            yield path.name, path.read_bytes()


def conformance_cases(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The cases of feedparser's test suite, by path."""
    with tarfile.open(archive) as files:
        for member in files:
            content = files.extractfile(member) if member.isfile() else None
            if content is not None and not member.name.endswith(".py"):
                yield member.name, content.read()


def measure(feeds: dict[str, bytes]) -> dict[str, Any]:
    """Counts of ours and the baseline over the same feeds."""
    return {
        "feeds": len(feeds),
        "ours": account(feeds, our_entries),
        "strict XML": account(feeds, strict_entries),
    }


def account(feeds: dict[str, bytes], read: Callable[[str, bytes], list[dict[str, Any]]]) -> dict[str, Any]:
    """How many feeds were read, how many entries they had, what those hold, and why the others were not."""
    refused: dict[str, str] = {}
    count: Counter[str] = Counter()
    started = time.process_time()
    for name, content in feeds.items():
        try:
            entries = read(name, content)
        except Exception as error:  # a benchmark reports whatever a parser throws
            refused[name] = f"{type(error).__name__}: {error}"[:200]
            continue
        count["feeds read"] += 1
        count["feeds with entries"] += bool(entries)
        for entry in entries:
            count["entries"] += 1
            count.update(name for name, value in entry.items() if value)
    seconds = time.process_time() - started
    return {**count, "feeds_per_s": round(len(feeds) / seconds), "refused": refused}


def our_entries(name: str, content: bytes) -> list[dict[str, Any]]:
    """What a feed source makes of a feed."""
    kind = "application/feed+json" if name.endswith(".json") else "application/xml"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    feed: Feed = parse(Fetched(f"https://feed.example/{name}", 200, {}, content, kind, False, now))
    found = []
    for entry in feed.entries:
        reading = reading_of(entry)
        found.append(
            {
                "title": reading.title,
                "text": reading.text.strip(),
                "full text": is_full(entry),
                "link": reading.url,
                "date": reading.published_at,
            }
        )
    return found


def strict_entries(name: str, content: bytes) -> list[dict[str, Any]]:
    """What thirty lines with a strict XML parser make of it: the elements by their usual names."""
    from lxml import etree  # type: ignore[import-untyped]

    root = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True))
    if etree.QName(root).localname.lower() not in ("rss", "rdf", "feed"):
        raise SourceError(f"{name} has the root {root.tag}")
    found = []
    for entry in root.iter("{*}item", "{*}entry"):
        fields = {etree.QName(each).localname: "".join(each.itertext()).strip() for each in entry if _is_element(each)}
        links = [each.get("href") for each in entry.iter("{*}link")]
        found.append(
            {
                "title": fields.get("title"),
                "text": fields.get("encoded")
                or fields.get("content")
                or fields.get("description")
                or fields.get("summary"),
                "full text": fields.get("encoded") or fields.get("content"),
                "link": fields.get("link") or next(filter(None, links), None),
                "date": fields.get("pubDate") or fields.get("published") or fields.get("updated") or fields.get("date"),
            }
        )
    return found


def _is_element(node: Any) -> bool:
    return isinstance(node.tag, str)


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    rows = ("feeds read", "feeds with entries", "entries", "title", "text", "full text", "link", "date", "feeds_per_s")
    lines = []
    for corpus, figures in result.items():
        lines.append(f"{corpus}: {figures['feeds']} feeds{'ours':>20}{'strict XML':>14}")
        for row in rows:
            label = row if row.startswith("feeds") or row == "entries" else f"  with {row}"
            lines.append(f"  {label:<26}{figures['ours'].get(row, 0):>10}{figures['strict XML'].get(row, 0):>14}")
        lines += [f"  not read: {name}: {why}" for name, why in figures["ours"]["refused"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
