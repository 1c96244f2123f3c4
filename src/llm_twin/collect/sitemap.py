"""Sitemaps: which pages a site says it has, and when each last changed (sitemaps.org, protocol 0.9)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from llm_twin.collect.fetch import Fetched, Fetcher, Gone, HttpError
from llm_twin.core.errors import ItemError, SourceError

MAX_BYTES = 50 * 1024 * 1024
"""Size of one sitemap, unpacked; the protocol's own limit."""
MAX_SITEMAPS = 2000
"""Sitemaps of one site that are read."""
MAX_DEPTH = 4
"""Indexes inside indexes; the protocol knows one level."""

_USUAL = ("sitemap.xml", "sitemap_index.xml", "wp-sitemap.xml", "sitemap-index.xml", "sitemap.xml.gz")
_BARE_AMPERSAND = re.compile(rb"&(?!#?\w{1,10};)")
_ROBOTS_LINE = re.compile(r"^\s*sitemap\s*:\s*(\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """A page as its sitemap lists it: its address and when it last changed, as written there."""

    url: str
    changed: str | None = None


def sitemaps_of(fetcher: Fetcher, url: str) -> list[Fetched]:
    """The sitemaps a site announces in robots.txt, else the first that stands where sitemaps usually do.

    Raises `ItemError` when the server could not say: then the site may have sitemaps all the same.
    """
    root = urljoin(url, "/")
    announced = list(dict.fromkeys(_announced(fetcher, root)))
    if announced:
        return [_read(fetcher, each) for each in announced]
    folder = url[: url.rindex("/") + 1] if urlsplit(url).path else root
    for place in dict.fromkeys((folder, root)):
        for name in _USUAL:
            found = _if_there(fetcher, place + name)
            if found is not None:
                return [found]
    return []


def pages(fetcher: Fetcher, start: Sequence[Fetched]) -> Iterator[Page]:
    """The pages of sitemaps and of those their indexes name, in order.

    Raises `SourceError` at the end when one of them could not be read or there are more than `MAX_SITEMAPS`.
    """
    waiting: list[tuple[Fetched | None, str, int]] = [(each, each.url, 0) for each in reversed(start)]
    seen = {each.url for each in start}
    problems: list[str] = []
    while waiting:
        found, url, depth = waiting.pop()
        try:
            answer = found or _read(fetcher, url)
            listed, inside = parse(answer)
        except ItemError as error:
            problems.append(str(error))
            continue
        yield from listed
        for each in reversed(inside):
            if each in seen:
                continue
            if depth == MAX_DEPTH or len(seen) == MAX_SITEMAPS:
                problems.append(f"{each} is one sitemap too many or too deep")
                break
            seen.add(each)
            waiting.append((None, each, depth + 1))
    if problems:
        raise SourceError(f"{len(problems)} of {len(seen)} sitemaps could not be read, first: {problems[0]}")


def parse(answer: Fetched) -> tuple[list[Page], list[str]]:
    """The pages a sitemap lists and the sitemaps it names. Raises `ItemError` when it is none."""
    from lxml import etree  # type: ignore[import-untyped]

    content = _unpacked(answer)
    if content.lstrip()[:1] != b"<":
        lines = content.decode("utf-8", "replace").split()
        if not lines or not all(line.startswith(("http://", "https://")) for line in lines):
            raise ItemError(f"{answer.url} is no sitemap; correct the Sitemap line of robots.txt")
        return [Page(line) for line in lines], []
    parser = etree.XMLParser(recover=True, resolve_entities=False, no_network=True, remove_comments=True)
    root = etree.fromstring(_BARE_AMPERSAND.sub(b"&amp;", content), parser)
    name = etree.QName(root).localname if root is not None else ""
    if name not in ("urlset", "sitemapindex"):
        raise ItemError(f"{answer.url} is no sitemap (its root is <{name}>); correct the Sitemap line of robots.txt")
    listed = []
    for each in root:
        fields = {etree.QName(field).localname: (field.text or "").strip() for field in each if field.tag}
        if fields.get("loc"):
            listed.append(Page(_joined(answer.url, fields["loc"]), fields.get("lastmod") or None))
    # A file that was cut off on its way recovers to what had arrived, which must not pass for the whole.
    if any(error.type_name == "ERR_TAG_NOT_FINISHED" for error in parser.error_log):
        raise ItemError(f"{answer.url} ends before its end; try again later")
    return ([], [page.url for page in listed]) if name == "sitemapindex" else (listed, [])


def _announced(fetcher: Fetcher, root: str) -> list[str]:
    try:
        robots = fetcher.fetch(urljoin(root, "/robots.txt"), check_robots=False, accept=("text/*",))
    except HttpError as error:
        if error.status >= 500 or error.status == 429:
            raise
        return []
    except ItemError as error:
        if not error.skipped:
            raise
        return []
    return [_joined(root, line) for line in _ROBOTS_LINE.findall(robots.text)]


def _joined(base: str, address: str) -> str:
    """The whole address; what is none stays as it is, and is refused where it would be fetched."""
    try:
        return urljoin(base, address)
    except ValueError:
        return address


def _if_there(fetcher: Fetcher, url: str) -> Fetched | None:
    try:
        answer = _read(fetcher, url)
    except Gone:
        return None
    except HttpError as error:
        if error.status >= 500 or error.status == 429:
            raise
        return None
    except ItemError as error:
        if not error.skipped:
            raise
        return None
    try:
        parse(answer)
    except ItemError:
        return None  # many sites answer any address with a page
    return answer


def _read(fetcher: Fetcher, url: str) -> Fetched:
    accept = ("application/xml", "text/xml", "text/plain", "application/gzip", "application/x-gzip", "*/*")
    return fetcher.fetch(url, accept=accept, max_bytes=MAX_BYTES)


def _unpacked(answer: Fetched) -> bytes:
    if answer.content[:2] != b"\x1f\x8b":
        return answer.content
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = inflate.decompress(answer.content, MAX_BYTES)
    except zlib.error as error:
        raise ItemError(f"{answer.url} is not compressed as its name says ({error}); try again later") from error
    if not inflate.eof:
        raise ItemError(f"{answer.url} unpacks to more than {MAX_BYTES:,} bytes or ends too early; split it")
    return content
