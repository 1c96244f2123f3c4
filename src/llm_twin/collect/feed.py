"""Feeds: RSS, Atom and JSON Feed, also malformed ones. Every entry is an item.

Most feeds are windows onto the latest posts: what falls out of one is still published. Only a feed that says that it is
whole, or whose archives were followed to their end (RFC 5005), tells what was taken back.
"""

from __future__ import annotations

import calendar
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import urljoin, urlsplit

from llm_twin.collect.fetch import FEEDS, JSON, PAGES, Fetched, Fetcher
from llm_twin.collect.html import people_in, to_markdown
from llm_twin.collect.page import canonical, read_page, same_site
from llm_twin.collect.reading import (
    READERS_VERSION,
    Reading,
    document_from,
    hash_of,
    language_named,
    parse_date,
    parsing,
    repaired,
)
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError, PartialListing, SourceError
from llm_twin.core.records import Document, Item, ItemState, fingerprint
from llm_twin.core.text import word_count

FullText = Literal["auto", "feed", "page"]

MAX_FEED_PAGES = 1000
"""Pages or archives of one feed that are followed."""
FULL_WORDS = 200
"""A description this long is a post, not a teaser."""

_FEED_ADDRESS = re.compile(
    r"\.(?:rss|atom|rdf)$|/(?:feed|rss|atom)(?:\.xml|\.json)?/?$|/(?:index|feeds?|rss|atom|posts|blog|all)\.xml$|"
    r"/feeds?/(?:posts|all|rss|atom)|^/feeds?/",
    re.IGNORECASE,
)
_FEED_QUERY = re.compile(r"(?:^|&)(?:feed|format|alt)=(?:rss2?|atom|feed|rdf)(?:&|$)", re.IGNORECASE)
_CUT_SHORT = re.compile(
    r"(?:\[\s*(?:…|\.\.\.)\s*\]|…|\.\.\.)\W*$|"
    r"\b(?:read (?:more|on|the (?:rest|full (?:post|article|story)))|continue reading|keep reading|weiterlesen|"
    r"mehr lesen|lire la suite|leer más|ler mais|leggi tutto|more)\b[^\n.!?]{0,120}$",
    re.IGNORECASE,
)
_SYNDICATION_LINE = re.compile(
    r"\n+(?:The post|The article|Der Beitrag|L’article|La entrada) .{0,300}\b(?:appeared first on|first appeared on|"
    r"erschien zuerst auf|est apparu en premier sur|aparece primero en) .{0,200}\s*$"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a feed says of one post. `html` is its content, `is_content` whether the feed calls it that (no summary)."""

    key: str
    url: str | None
    title: str | None
    html: str
    is_content: bool
    authors: tuple[str, ...] = ()
    published_at: datetime | None = None
    tags: tuple[str, ...] = ()
    language: str | None = None
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Feed:
    """The entries of one document of a feed in order, what follows it, and whether it says that it is the whole.

    `site` is the address of the site whose feed it says it is.
    """

    entries: tuple[Entry, ...]
    next_url: str | None
    is_whole: bool
    site: str | None = None


class FeedSource:
    """The entries of a feed, told apart by their own ids.

    `full_text`: `feed` takes what the feed holds, `page` the page behind each entry, `auto` the page where the feed
    holds a teaser only. `platform` is recorded as the documents' source. Where the feed was found through another
    address, `name` is that one as configured, and `get_page` how its source gets a page (default: fetch it).
    """

    example: ClassVar[str] = "https://you.example/feed.xml"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Addresses that look like feeds: `/feed`, `/rss.xml`, `/atom.xml`, `feed.json`, `?feed=rss2`."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https"):
            return False
        return bool(_FEED_ADDRESS.search(parts.path) or _FEED_QUERY.search(parts.query))

    @classmethod
    def open(
        cls, address: str, context: SourceContext, *, full_text: FullText = "auto", platform: str = "feed"
    ) -> FeedSource:
        """The feed at an address; options as in the class."""
        return cls(address, context, full_text=full_text, platform=platform)

    def __init__(
        self,
        address: str,
        context: SourceContext,
        *,
        full_text: FullText = "auto",
        platform: str = "feed",
        name: str | None = None,
        get_page: Callable[[str], Fetched] | None = None,
    ) -> None:
        self.name = name or address
        self._get_page = get_page or (lambda url: self._fetcher.fetch(url, accept=PAGES))
        self._address = address
        self.full_text = full_text
        self.platform = platform
        self._context = context
        self._entries: dict[str, Entry] = {}
        self._sites = {address}
        self._how = fingerprint(READERS_VERSION, context.author, platform, full_text)[:8]

    def list(self) -> Iterator[Item | ItemState]:
        """Every entry in the order of the feed, then those of its older pages; see `Source.list`.

        Raises `PartialListing` at the end unless the feed or its archives are whole, `SourceError` when it cannot be
        read or has more than `MAX_FEED_PAGES` pages.
        """
        self._entries.clear()
        seen: set[str] = set()
        url: str | None = self._address
        is_whole = False
        while url:
            if len(seen) == MAX_FEED_PAGES:
                raise SourceError(
                    f"{self.name} has more than {MAX_FEED_PAGES} pages; name its archives as sources of their own"
                )
            seen.add(url)
            answer = self._fetcher.fetch(url, accept=(*FEEDS, *JSON, "text/*"))
            feed = parse(answer)
            self._sites |= {site for site in (answer.url, feed.site) if site}
            yield from self._items(feed)
            is_whole = feed.is_whole or (len(seen) > 1 and feed.next_url is None)
            url = feed.next_url if feed.next_url not in seen else None
        if not is_whole:
            raise PartialListing(f"{self.name} shows its latest {len(self._entries)} entries only")

    def fetch(self, item: Item) -> Document:
        """The post behind an entry; see `Source.fetch`."""
        if item.key not in self._entries:
            for _ in self._all():
                if item.key in self._entries:
                    break
        entry = self._entries.get(item.key)
        if entry is None:
            raise ItemError("is not in the feed any more; collect again")
        return document_from(
            self._reading(entry),
            author=self._context.author,
            source=self.platform,
            locator=f"{self._address}#{entry.key}",
            path=urlsplit(entry.url or "").path or entry.key,
            fetched_at=self._context.now(),
        )

    def revisit(self, document: Document) -> Document:
        """See `Window.revisit`: what the feed said of a post, with the text that its page has now.

        Pages of other sites are not looked at: a link that an author once commented on may die without the comment.
        """
        url = document.url or ""
        if not any(same_site(url, site) for site in self._sites):
            raise ItemError(f"{url or 'no address'} is no page of {self.name}; nothing is known of it", skipped=True)
        page = self._get_page(url)
        if self.full_text == "feed":
            return document
        revised = replace(
            document, text=repaired(read_page(page).text).strip("\n"), fetched_at=self._context.now(), content_hash=""
        )
        return replace(revised, content_hash=hash_of(revised))

    @property
    def _fetcher(self) -> Fetcher:
        return self._context.fetcher()

    def _all(self) -> Iterator[Item | ItemState]:
        try:
            yield from self.list()
        except PartialListing:
            return

    def _items(self, feed: Feed) -> Iterator[Item | ItemState]:
        for entry in feed.entries:
            if entry.key not in self._entries:
                self._entries[entry.key] = entry
                yield Item(entry.key, f"{self._how}:{fingerprint(entry)[:32]}")

    def _reading(self, entry: Entry) -> Reading:
        with parsing("see what the feed holds"):
            return self._from_page(entry) if self._wants_page(entry) else reading_of(entry)

    def _wants_page(self, entry: Entry) -> bool:
        if entry.url is None or self.full_text == "feed":
            return False
        return self.full_text == "page" or not is_full(entry)

    def _from_page(self, entry: Entry) -> Reading:
        """The page behind an entry, with what the feed says of it: feeds name title and date without decoration."""
        about = reading_of(entry)
        page = read_page(self._get_page(entry.url or ""))
        return replace(
            page,
            title=about.title or page.title,
            authors=about.authors or page.authors,
            published_at=about.published_at or page.published_at,
            tags=about.tags or page.tags,
        )


def is_full(entry: Entry) -> bool:
    """Whether an entry holds its whole post: content that is not cut short, or a description as long as a post."""
    text = to_markdown(entry.html)
    words = re.sub(r"\]\([^)]*\)|[\[*_]", "", _SYNDICATION_LINE.sub("", text)).rstrip()
    if not words or _CUT_SHORT.search(words):
        return False
    return entry.is_content or word_count(words) >= FULL_WORDS


def reading_of(entry: Entry) -> Reading:
    """An entry as a reading: its content as Markdown, without the line that feeds add for copiers."""
    return Reading(
        text=_SYNDICATION_LINE.sub("", to_markdown(entry.html, entry.url)),
        title=entry.title,
        authors=entry.authors,
        url=entry.url,
        published_at=entry.published_at,
        tags=entry.tags,
        language=entry.language,
    )


# --- parsing --------------------------------------------------------------------------------------------------------


def parse(answer: Fetched) -> Feed:
    """The feed in an answer. Raises `SourceError` when it is none, or no parser survives it."""
    try:
        if _is_json(answer):
            return parse_json(answer.text, answer.url)
        return parse_xml(answer.content, answer.url, answer.headers)
    except SourceError:
        raise
    except Exception as error:  # a parser of somebody else met a feed nobody foresaw
        raise SourceError(f"{answer.url} could not be parsed: {type(error).__name__}: {error}; check it") from error


def is_feed(answer: Fetched) -> bool:
    """Whether the bytes of an answer are a feed, whatever the server calls them."""
    if answer.content_type in ("application/rss+xml", "application/atom+xml", "application/rdf+xml"):
        return True
    return _is_json(answer) and "jsonfeed.org/version/" in answer.text[:2000].replace("\\/", "/")


def _is_json(answer: Fetched) -> bool:
    return answer.content_type.endswith("json") or answer.content[:64].lstrip()[:1] == b"{"


def parse_xml(content: bytes, url: str, headers: Mapping[str, str] | None = None) -> Feed:
    """RSS 0.9x, 1.0 and 2.0, Atom 0.3 and 1.0, by feedparser, which reads malformed feeds too.

    Raises `SourceError` when nothing in it can be read as a feed.
    """
    import feedparser  # type: ignore[import-untyped]

    # In a stream: feedparser takes bytes for the name of a file first. Scripts are left out when it becomes Markdown,
    # and its own cleaning would take the language of code with them.
    kind = (headers or {}).get("content-type", "")
    found = feedparser.parse(
        io.BytesIO(content),
        # Without a charset the type says nothing that helps: feedparser would hold text/xml to ASCII (RFC 3023).
        response_headers={"content-type": kind if "charset" in kind else "application/xml", "content-location": url},
        sanitize_html=False,
    )
    if not found.entries and not found.get("version"):
        why = f": {found.bozo_exception}" if found.bozo else ""
        raise SourceError(f"{url} is no feed that can be read{why}; give the address of an RSS, Atom or JSON feed")
    about = found.feed
    entries = tuple(_entry(each, about, url) for each in found.entries)
    links = {link.get("rel"): link.get("href") for link in reversed(about.get("links", []))}
    following = links.get("prev-archive") or links.get("next")
    is_whole = any(name == "complete" or name.endswith("_complete") for name in about)
    return Feed(entries, urljoin(url, following) if following else None, is_whole, _address(about.get("link"), url))


def _entry(found: Mapping[str, Any], feed: Mapping[str, Any], base: str) -> Entry:
    contents = [each for each in found.get("content", []) if str(each.get("value") or "").strip()]
    best = max(contents, key=lambda each: (_is_markup(each.get("type")), len(each["value"])), default=None)
    summary = found.get("summary_detail") or {"value": found.get("summary") or ""}
    body = best or summary
    url = _address(found.get("feedburner_origlink") or found.get("link"), base)
    title = _words(found.get("title_detail") or {"value": found.get("title") or ""})
    named = [each for each in found.get("authors") or feed.get("authors") or [] if each.get("name")]
    return Entry(
        key=str(found.get("id") or url or fingerprint(title, body.get("value"), found.get("published"))[:32]),
        url=url,
        title=title or None,
        html=_markup(body),
        is_content=best is not None,
        authors=tuple(person for each in named for person in people_in(str(each["name"]))),
        published_at=_moment(found, "published") or _moment(found, "updated") or _moment(found, "created"),
        tags=tuple(str(each.get("label") or each["term"]) for each in found.get("tags", []) if each.get("term")),
        language=language_named(body.get("language") or feed.get("language")),
        updated=str(found["updated"] if "updated" in found else ""),  # noqa: SIM401 - `get` takes `published`
    )


def _is_markup(kind: str | None) -> bool:
    return kind in ("text/html", "application/xhtml+xml")


def _markup(detail: Mapping[str, Any]) -> str:
    """Content as HTML; plain text keeps its lines as paragraphs."""
    value = str(detail.get("value") or "")
    if detail.get("type") == "text/plain":
        return "".join(f"<p>{html.escape(part)}</p>" for part in re.split(r"\n\s*\n", value) if part.strip())
    return value


def _words(detail: Mapping[str, Any]) -> str:
    """A title as plain words."""
    value = str(detail.get("value") or "")
    if _is_markup(detail.get("type")) or "&" in value:
        value = html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", "", value))
    return " ".join(value.split())


def _moment(found: Mapping[str, Any], name: str) -> datetime | None:
    parsed = found.get(f"{name}_parsed")
    if parsed is None:
        return parse_date(found.get(name))
    try:
        return datetime.fromtimestamp(calendar.timegm(parsed), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _address(value: Any, base: str) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        return canonical(value, base)
    except ItemError:
        return None


def parse_json(text: str, url: str) -> Feed:
    """JSON Feed 1 and 1.1 (jsonfeed.org). Raises `SourceError` when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{url} is no JSON that can be read: {error}; give the address of a feed") from error
    if not isinstance(found, dict) or "jsonfeed.org/version/" not in str(found.get("version")):
        raise SourceError(f"{url} is JSON, but no JSON Feed; give the address of a feed")
    listed = [each for each in found.get("items") or [] if isinstance(each, dict)]
    following = found.get("next_url")
    return Feed(
        tuple(_json_entry(each, found, url) for each in listed),
        urljoin(url, following) if isinstance(following, str) and following else None,
        is_whole=False,
        site=_address(found.get("home_page_url"), url),
    )


def _json_entry(item: Mapping[str, Any], feed: Mapping[str, Any], base: str) -> Entry:
    url = _address(item.get("url") or item.get("external_url"), base)
    body = item.get("content_html") or _markup({"type": "text/plain", "value": item.get("content_text")})
    authors = item.get("authors") or [item.get("author")]
    if not any(authors):
        authors = feed.get("authors") or [feed.get("author")]
    names = [each.get("name") for each in authors if isinstance(each, dict)]
    return Entry(
        key=str(item.get("id") or url or fingerprint(item.get("title"), body)[:32]),
        url=url,
        title=" ".join(str(item.get("title") or "").split()) or None,
        html=str(body or item.get("summary") or ""),
        is_content=bool(body),
        authors=tuple(person for name in names if name for person in people_in(str(name))),
        published_at=parse_date(item.get("date_published")) or parse_date(item.get("date_modified")),
        tags=tuple(str(tag) for tag in item.get("tags") or [] if tag),
        language=language_named(item.get("language") or feed.get("language")),
        updated=str(item.get("date_modified") or ""),
    )
