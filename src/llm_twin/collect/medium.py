"""Medium: stories from the archive that Medium sends (Settings, Security and apps), or the latest from a feed.

Medium shows its pages to browsers only, so they are never fetched: the feed has the last ten stories, the archive all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit, urlunsplit

from llm_twin.collect import feed
from llm_twin.collect.body import body_markdown, has_class
from llm_twin.collect.export import Export, ExportSource, Shelf, named_like
from llm_twin.collect.fetch import FEEDS, HttpError
from llm_twin.collect.html import drop, parse_html
from llm_twin.collect.reading import READERS_VERSION, Reading, document_from, parse_date, parsing
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ConfigError, ItemError, PartialListing, SourceError
from llm_twin.core.ports import Source
from llm_twin.core.records import Document, Item, ItemState, fingerprint

_ADVICE = (
    "use the archive instead: on Medium, Settings, Security and apps, Download your information, then give the path of "
    "the zip as the address"
)
_NO_AUTHORS = {"tag", "topic", "topics", "m", "me", "search", "about", "p", "plans", "creators", "membership"}
_POST_ID = re.compile(r"(?:^|-)[0-9a-f]{10,12}$")
_ORIGIN_LINE = re.compile(r"\bwas originally published in\b.*\bon\s+Medium\b", re.DOTALL)
_HEADING = "self::h1 or self::h2 or self::h3 or self::h4"


class MediumSource:
    """Stories of an author: a profile, a publication, or an archive as a zip or folder.

    `responses` takes responses to stories of other people too. The archive does not say what is one: a text without a
    title of its own counts, which short stories without a title do as well. Responses are notes.
    """

    example: ClassVar[str] = "https://medium.com/@you"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Addresses on medium.com and archives under the name that Medium gives them."""
        host = (urlsplit(address).hostname or "") if "://" in address else ""
        return host == "medium.com" or host.endswith(".medium.com") or named_like(address, r"medium-export.*")

    @classmethod
    def open(cls, address: str, context: SourceContext, *, responses: bool = False) -> Source:
        """The stories at an address or path; options as in the class. Other sites that Medium runs need the kind named.

        Raises `ConfigError` for an address of Medium that is neither a profile nor a publication.
        """
        if "://" in address:
            return MediumFeed(address, context, responses=responses)
        return MediumExport(address, context, responses=responses)


# --- the archive ----------------------------------------------------------------------------------------------------


class MediumExport(ExportSource):
    """The stories in an archive, told apart by their files. Drafts are skipped."""

    platform = "medium"

    def __init__(self, address: str, context: SourceContext, *, responses: bool = False) -> None:
        super().__init__(address, context, responses=responses)
        self.responses = responses

    def gather(self, export: Export, shelf: Shelf) -> None:
        """Every file of a story; see `ExportSource.gather`."""
        stories = r"posts/[^/]+\.html"
        if export.looks_like() == "substack":  # which has pages in a folder of that name, too
            stories = r"posts/(?:draft|\d{4}-\d\d-\d\d)_[^/]+\.html"
        for key, member in export.need(stories, what="posts/*.html of Medium").items():
            if key.startswith("posts/draft_"):
                shelf.leave_out(key, "is a draft: it was not published")
            else:
                shelf.add(key, {"member": member, "version": export.version(member)})

    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:
        """A story; see `ExportSource.read`."""
        reading = read_story(export.read(records[0]["member"]))
        return _checked(reading, responses=self.responses)


def read_story(data: bytes) -> Reading:
    """A story of the archive. A text without a title of its own is a note (`kind`)."""
    tree = parse_html(data)
    found = tree.xpath("//section[@data-field='body']") or tree.xpath(f"//section[{has_class('e-content')}]")
    if not found:
        raise ItemError("is no story of Medium: it has no body; download the archive again")
    body = found[0]
    title = _words(tree.xpath("string(//h1[contains(@class, 'p-name')])"))
    summary = _words(tree.xpath("string(//section[@data-field='subtitle'])"))
    canonical = tree.xpath(f"string(//a[{has_class('p-canonical')}]/@href)")
    published = tree.xpath(f"string(//time[{has_class('dt-published')}]/@datetime)")
    tags = tree.xpath(f"//footer//a[{has_class('p-tag')} or {has_class('p-category')} or @rel='tag']")
    kind, text = _story(body, title, summary)
    return Reading(
        text=text,
        title=title or None,
        url=_plain_address(canonical),
        published_at=parse_date(published),
        tags=tuple(filter(None, (_words(tag.text_content()) for tag in tags))),
        kind=kind,
    )


def _story(body: Any, title: str, summary: str = "") -> tuple[Any, str]:
    """Kind and text of a body: without its title, which the document carries, and with cards and frames as links.

    Medium makes the title and the summary of an untitled text from its words; a summary that is not in the text is the
    author's and opens it.
    """
    said = _words(body.text_content())
    own_title = _take_title(body, title)
    is_own_summary = bool(summary) and not summary.endswith("…") and summary not in said
    is_note = not own_title and not is_own_summary and bool(title) and said.startswith(title.rstrip("….").rstrip())
    for pre in body.xpath(".//pre[@data-code-block-lang]"):
        pre.set("class", f"language-{pre.get('data-code-block-lang')}")
    for card in body.xpath(f".//div[{has_class('graf--mixtapeEmbed')}]"):
        _as_link(card, card.xpath("string(.//a/@href)"), _words(card.xpath("string(.//strong)")))
    for frame in body.xpath(".//iframe[@src] | .//script[@src]"):
        _as_link(frame, frame.get("src").removesuffix(".js"), "")
    for link in body.xpath(".//a[starts-with(@href, 'https://medium.com/r/')]"):
        link.set("href", parse_qs(urlsplit(link.get("href")).query).get("url", [link.get("href")])[0])
    text = body_markdown(body, unwanted=f"(.//div[{has_class('section-divider')}])[1]")
    return "note" if is_note else "article", f"{summary}\n\n{text}" if is_own_summary else text


def _take_title(body: Any, title: str) -> bool:
    """Take the heading out that repeats the title; whether the text has a title or a heading that opens it."""
    marked = body.xpath(f".//*[{has_class('graf--title')}]")
    first = marked or body.xpath(f"(.//*[{_HEADING}] | .//p | .//pre | .//blockquote | .//li)[1][{_HEADING}]")
    if first and _words(first[0].text_content()) == title:
        drop(first[0])
    return bool(first)


def _as_link(element: Any, address: str, words: str) -> None:
    """Put a link in the place of an element: what it embeds is not the author's, that it is there is."""
    tail = element.tail
    element.clear()
    element.tag, element.tail = "p", tail
    if re.match(r"https?://", address):
        link = element.makeelement("a", {"href": address})
        link.text = words or address
        element.append(link)


def _checked(reading: Reading, *, responses: bool) -> Reading:
    if reading.kind == "note" and not responses:
        raise ItemError(
            "has no title of its own, as responses have none; set `responses = true` to collect these as notes",
            skipped=True,
        )
    return reading


def _words(text: str) -> str:
    return " ".join(text.split())


def _plain_address(url: str | None) -> str | None:
    """An address without what feeds add to it (`?source=rss-…`), so that archive and feed name a story alike."""
    if not url or not re.match(r"https?://", url):
        return None
    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if part and not part.startswith(("source=", "sk=")))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.replace("%40", "@"), query, ""))


# --- the feed -------------------------------------------------------------------------------------------------------


class MediumFeed:
    """The latest stories of a profile or publication, by their feed."""

    platform = "medium"

    def __init__(self, address: str, context: SourceContext, *, responses: bool = False) -> None:
        self.name = address
        self.responses = responses
        self._address = feed_address(address)
        self._context = context
        self._entries: dict[str, feed.Entry] = {}
        self._how = fingerprint(READERS_VERSION, context.author, responses)[:8]

    def list(self) -> Iterator[Item | ItemState]:
        """The stories that the feed holds; see `Source.list`. Raises `PartialListing` at the end: a feed is a window.

        Raises `SourceError` that says what to do when Medium does not answer with its feed.
        """
        self._read()
        for key, entry in self._entries.items():
            yield Item(key, f"{self._how}:{fingerprint(entry)[:32]}")
        raise PartialListing(f"{self.name} shows its latest {len(self._entries)} stories only")

    def fetch(self, item: Item) -> Document:
        """The story of an entry; see `Source.fetch`."""
        if not self._entries:
            self._read()
        entry = self._entries.get(item.key)
        if entry is None:
            raise ItemError("is not in the feed any more; collect again")
        with parsing(_ADVICE):
            reading = _checked(read_entry(entry), responses=self.responses)
        return document_from(
            reading,
            author=self._context.author,
            source=self.platform,
            locator=item.key,
            path=item.key,
            fetched_at=self._context.now(),
        )

    def _read(self) -> None:
        try:
            answer = self._context.fetcher().fetch(self._address, accept=(*FEEDS, "text/*"))
        except HttpError as error:
            if error.status in (401, 403, 429, 503):
                raise SourceError(f"{self._address} refuses programs ({error.status}); {_ADVICE}") from error
            raise
        if answer.content_type == "text/html":
            raise SourceError(f"{self._address} answered with a page (a check for humans, or a sign-in); {_ADVICE}")
        self._entries = {entry.key: entry for entry in feed.parse(answer).entries}


def read_entry(entry: feed.Entry) -> Reading:
    """A story of the feed. Raises `ItemError` (skipped) for one of which the feed shows the beginning only."""
    tree = parse_html(f"<html><body><div>{entry.html}</div></body></html>")
    body = tree.find("body")
    if not entry.html.strip() or body.xpath(f".//*[{has_class('medium-feed-item')}]"):
        raise ItemError(f"is for members, and the feed shows its beginning only; {_ADVICE}", skipped=True)
    last = body.xpath("(.//p)[last()]")
    if last and _ORIGIN_LINE.search(last[0].text_content()):
        rule = last[0].getprevious()
        drop(last[0])
        if rule is not None and rule.tag == "hr":
            drop(rule)
    about = feed.reading_of(replace(entry, html=""))
    kind, text = _story(body, about.title or "")
    return replace(about, text=text, kind=kind, url=_plain_address(entry.url))


def feed_address(address: str) -> str:
    """The feed of a profile, of a publication, or of another site that Medium runs.

    Raises `ConfigError` for an address on medium.com that is none of them.
    """
    parts = urlsplit(address)
    names = [name for name in parts.path.split("/") if name]
    host = parts.hostname or ""
    if host in ("medium.com", "www.medium.com"):
        names = names[1:] if names[:1] == ["feed"] else names
        is_story = len(names) > 1 and _POST_ID.search(names[-1])
        if not names or names[0] in _NO_AUTHORS or is_story:
            what = "names one story" if is_story else "is no profile or publication"
            raise ConfigError(
                f"{address} {what}; give https://medium.com/@name, https://medium.com/publication, or the path of "
                "an archive"
            )
        return f"https://medium.com/feed/{names[0]}"
    return urlunsplit((parts.scheme, parts.netloc, "/feed", "", ""))
