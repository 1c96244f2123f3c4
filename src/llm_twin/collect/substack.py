"""Substack: posts of a publication, from its public archive, its feed, or the export that Substack sends its authors.

    /api/v1/archive?sort=new&offset=…&limit=…   every post, without its text, newest first; past the end: []
    /api/v1/posts/<slug>                        one post with `body_html`

Neither is documented by Substack. Where the archive does not answer, the feed gives the latest posts. Podcasts and
videos count by their notes; Notes, comments and restacks are no posts of a publication and are not collected.
"""

from __future__ import annotations

import json
import logging
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit, urlunsplit

from llm_twin.collect import feed
from llm_twin.collect.body import body_markdown, has_class
from llm_twin.collect.export import Export, ExportSource, Row, Shelf, named_like
from llm_twin.collect.fetch import FEEDS, JSON, PAGES, HttpError
from llm_twin.collect.html import drop, parse_html
from llm_twin.collect.reading import READERS_VERSION, Reading, document_from, parse_date, parsing
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ConfigError, ItemError, PartialListing, SourceError
from llm_twin.core.ports import Source
from llm_twin.core.records import Document, Item, ItemState, fingerprint

PAGE_POSTS = 25
"""Posts asked for at once."""
MAX_POSTS = 20_000
"""Posts of one publication that are listed."""

_FOR_PAYING = {"only_paid", "founding"}
_COLUMNS = ("post_id", "post_date", "is_published", "title")
_SHOWN = (
    "id", "slug", "title", "subtitle", "description", "post_date", "updated_at", "audience", "type", "wordcount",
    "truncated_body_text", "canonical_url", "postTags", "publishedBylines",
)  # fmt: skip
"""What the archive says of a post that may tell a change of it; counts of likes and comments do not."""

_NOT_THE_AUTHORS = (
    "subscription-widget-wrap", "subscription-widget-wrap-editor", "subscription-widget", "subscribe-widget",
    "button-wrapper", "captioned-button-wrap", "cta-caption", "community-chat", "directMessage", "share-dialog",
    "install-substack-app-embed", "poll-embed", "paywall-jump", "post-ufi", "image-link-expand", "hide-text",
    "digest-post-embed", "embedded-post-wrap", "embedded-publication-wrap", "tweet", "twitter-embed", "comment",
    "instagram", "native-audio-embed", "native-video-embed", "file-embed-wrapper", "footnote-hovercard",
)  # fmt: skip
"""Classes of what Substack's editor puts into posts: buttons, boxes, and cards that show what others wrote."""
_UNWANTED = f".//*[{' or '.join(map(has_class, _NOT_THE_AUTHORS))}]"
_WEB_ADDRESS = re.compile(r"https?://[^\s\[\]]+")
_READ_MORE = re.compile(r"\s*(?:read more|continue reading)\s*", re.IGNORECASE)

logger = logging.getLogger(__name__)


class SubstackSource:
    """Posts of a publication, by its address or by its export (a zip or folder with `posts.csv`).

    `paid` collects posts for paying readers too, with the tag `paid`; only an export has their text. `publication` is
    the address of the publication whose export it is, which gives its posts their links.
    """

    example: ClassVar[str] = "https://you.substack.com"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Publications on substack.com, and zips with Substack in their name. Other domains need the kind named."""
        if "://" not in address:
            return named_like(address, r".*substack.*\.zip")
        parts = urlsplit(address)
        return f".{parts.hostname or ''}".endswith(".substack.com") and not parts.path.startswith("/p/")

    @classmethod
    def open(cls, address: str, context: SourceContext, *, paid: bool = False, publication: str = "") -> Source:
        """The posts at an address or path; options as in the class.

        Raises `ConfigError` for a profile, and for an option that only an export can fulfil.
        """
        if "://" not in address:
            return SubstackExport(address, context, paid=paid, publication=publication)
        if (urlsplit(address).hostname or "").removeprefix("www.") == "substack.com":
            raise ConfigError(f"{address} is no publication; give its own address, such as https://you.substack.com")
        if paid or publication:
            raise ConfigError(
                f"the options `paid` and `publication` are for exports, and {address} is a site, which shows the "
                "beginning of paid posts only; give the path of the export (Settings, Exports) as the address"
            )
        return SubstackPublication(address, context)


# --- a publication's site -------------------------------------------------------------------------------------------


class SubstackPublication:
    """Every post of a publication that everybody may read, told apart by its canonical address."""

    platform = "substack"

    def __init__(self, address: str, context: SourceContext) -> None:
        self.name = address
        parts = urlsplit(address)
        self._site = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        self._context = context
        self._entries: dict[str, feed.Entry] = {}
        self._how = fingerprint(READERS_VERSION, context.author)[:8]

    def list(self) -> Iterator[Item | ItemState]:
        """Every post of the archive, newest first; see `Source.list`.

        Raises `SourceError` when the archive breaks off, and `PartialListing` when only the feed answers.
        """
        self._entries.clear()
        try:
            posts = self._page(0)
        except (HttpError, ValueError) as error:
            if isinstance(error, HttpError) and error.status not in (400, 403, 404, 410):
                raise
            logger.warning(
                "%s does not show its archive (%s), so only the latest posts are collected, from its feed; the export "
                "has all (Settings, Exports)",
                self.name,
                error,
            )
            yield from self._latest()
            return
        seen: set[str] = set()
        offset = 0
        while posts:
            fresh = {key: post for post in posts if (key := self._key(post)) not in seen}
            if not fresh or offset > MAX_POSTS:
                raise SourceError(
                    f"the archive of {self.name} does not end after {offset} posts; nothing was removed: try again "
                    "later, or use the export"
                )
            for key, post in fresh.items():
                seen.add(key)
                yield self._listed(key, post)
            offset += len(posts)
            try:
                posts = self._page(offset)
            except ValueError as error:
                raise SourceError(
                    f"the archive of {self.name} breaks off after {offset} posts ({error}); try again later"
                ) from error

    def fetch(self, item: Item) -> Document:
        """The post behind an item; see `Source.fetch`."""
        entry = self._entries.get(item.key)
        with parsing("use the export instead"):
            reading = read_entry(entry) if entry else self._post(item.key)
        return document_from(
            reading,
            author=self._context.author,
            source=self.platform,
            locator=item.key,
            path=urlsplit(item.key).path,
            fetched_at=self._context.now(),
        )

    def revisit(self, document: Document) -> Document:
        """See `Window.revisit`: whether its page still stands; its text is told by the archive and the feed alone."""
        self._context.fetcher().fetch(document.url or self._site, accept=PAGES)
        return document

    def _page(self, offset: int) -> Sequence[Mapping[str, Any]]:
        """Posts of the archive from an offset. Raises `ValueError` for an answer that is no list of posts."""
        found = self._json(f"/api/v1/archive?sort=new&search=&offset={offset}&limit={PAGE_POSTS}")
        if not isinstance(found, list) or not all(isinstance(each, dict) and each.get("slug") for each in found):
            raise ValueError("the answer is no list of posts")
        return found

    def _json(self, path: str) -> Any:
        """What the API answers. Raises `ValueError` for what is no JSON."""
        answer = self._context.fetcher().fetch(f"{self._site}{path}", accept=(*JSON, "text/*"))
        try:
            return json.loads(answer.text)
        except RecursionError as error:
            raise ValueError("the answer is nested too deeply") from error

    def _key(self, post: Mapping[str, Any]) -> str:
        named = str(post.get("canonical_url") or "")
        return named if _WEB_ADDRESS.fullmatch(named) else f"{self._site}/p/{post['slug']}"

    def _listed(self, key: str, post: Mapping[str, Any]) -> Item | ItemState:
        version = f"{self._how}:{fingerprint(*(post.get(name) for name in _SHOWN))[:32]}"
        if post.get("audience") in _FOR_PAYING:
            reason = "is for paying readers, and the site shows its beginning only; the export has it (option `paid`)"
            return ItemState(self.name, key, "skipped", reason, version)
        return Item(key, version)

    def _post(self, key: str) -> Reading:
        slug = key.rstrip("/").rpartition("/")[2]
        try:
            post = self._json(f"/api/v1/posts/{quote(slug, safe='')}")
            if not isinstance(post, dict) or "body_html" not in post:
                raise ValueError("it has no body_html")
        except ValueError as error:
            raise ItemError(f"was answered with something else than a post ({error}); try again later") from error
        return read_post(post, key)

    def _latest(self) -> Iterator[Item]:
        """The posts in the feed."""
        try:
            answer = self._context.fetcher().fetch(f"{self._site}/feed", accept=(*FEEDS, "text/*"))
            entries = feed.parse(answer).entries
        except HttpError as error:
            raise SourceError(
                f"{self.name} answers with neither its archive nor its feed ({error.reason}); is it a Substack "
                "publication? If it is yours, use the export: Settings, Exports"
            ) from error
        self._entries = {entry.url: entry for entry in entries if entry.url}
        for key, entry in self._entries.items():
            yield Item(key, f"{self._how}:{fingerprint(entry)[:32]}")
        raise PartialListing(f"the feed of {self.name} shows its latest {len(entries)} posts only")


def read_post(post: Mapping[str, Any], url: str) -> Reading:
    """A post as the API gives it. Raises `ItemError` (skipped) for one that has no text."""
    tags = [str(each["name"]) for each in post.get("postTags") or [] if isinstance(each, dict) and each.get("name")]
    people = [each.get("name") for each in post.get("publishedBylines") or [] if isinstance(each, dict)]
    return Reading(
        text=read_body(str(post.get("body_html") or ""), url=url, subtitle=str(post.get("subtitle") or "")),
        title=str(post.get("title") or "") or None,
        authors=tuple(str(name) for name in people if name),
        url=url,
        published_at=parse_date(post.get("post_date")),
        tags=tuple(tags),
        kind="post" if post.get("type") == "thread" else "article",
    )


def read_entry(entry: feed.Entry) -> Reading:
    """A post as the feed gives it. Raises `ItemError` (skipped) for one of which the feed shows the beginning only."""
    last = re.sub(r"<[^>]*>", "\n", entry.html[-500:]).strip().rpartition("\n")[2]
    if _READ_MORE.fullmatch(last):
        raise ItemError("is for paying readers, and the feed shows its beginning only; the export has it", skipped=True)
    return Reading(
        text=read_body(entry.html, url=entry.url),
        title=entry.title,
        authors=entry.authors,
        url=entry.url,
        published_at=entry.published_at,
        tags=entry.tags,
        kind="article",
    )


# --- the export -----------------------------------------------------------------------------------------------------


class SubstackExport(ExportSource):
    """The posts in an export, told apart by their ids. Drafts are skipped."""

    platform = "substack"

    def __init__(self, address: str, context: SourceContext, *, paid: bool = False, publication: str = "") -> None:
        site = f"https://{publication}" if publication and "://" not in publication else publication
        super().__init__(address, context, paid=paid, publication=site)
        self.paid, self._site = paid, site.rstrip("/")

    def gather(self, export: Export, shelf: Shelf) -> None:
        """Every record of `posts.csv` with its page; see `ExportSource.gather`."""
        lists = export.need(r"posts\.csv", what="posts.csv of Substack")
        pages = export.find(r"posts/[^/]+\.html")
        seen: set[str] = set()
        for file, member in lists.items():
            for row in export.rows(member, columns=_COLUMNS):
                key = row["post_id"] or f"{file}:{row.line}"
                page = pages.get(f"posts/{key}.html")
                why = self._why_not(row, page, key in seen)
                if why:
                    damaged = not row.whole
                    state_key = f"{key}#{row.line}" if key in seen else key
                    shelf.leave_out(state_key, why, "failed" if damaged else "skipped")
                else:
                    assert page is not None  # noqa: S101 - the reason above
                    shelf.add(key, {"row": dict(row.cells), "member": page, "version": export.version(page)})
                seen.add(key)

    def _why_not(self, row: Row, page: str | None, is_known: bool) -> str:
        if not row.whole:
            return f"posts.csv: the record that ends in line {row.line} is damaged; mend it"
        if is_known:
            return "repeats the id of an earlier line of posts.csv"
        if row["is_published"].lower() != "true":
            return "is a draft: it was not published"
        if row["audience"] in _FOR_PAYING and not self.paid:
            return "is for paying readers; set `paid = true` to collect it"
        return "" if page else "has no text in the export"

    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:
        """A post: what `posts.csv` says of it, and its page; see `ExportSource.read`."""
        row = records[0]["row"]
        slug = row["post_id"].partition(".")[2]
        url = f"{self._site}/p/{slug}" if self._site and slug else None
        html = export.read(records[0]["member"]).decode("utf-8", "replace")
        return Reading(
            text=read_body(html, url=url, subtitle=row.get("subtitle", "")),
            title=row["title"].strip() or None,
            url=url,
            published_at=parse_date(row["post_date"].strip()),
            tags=("paid",) if row.get("audience") in _FOR_PAYING else (),
            kind="post" if row.get("type") == "thread" else "article",
        )


# --- the body -------------------------------------------------------------------------------------------------------


def read_body(html: str, *, url: str | None = None, subtitle: str = "") -> str:
    """The body of a post as Markdown, opened by its subtitle: footnotes as `[^1]`, formulas between `$$`.

    Raises `ItemError` (skipped) when there is no text in it.
    """
    body = parse_html(f"<html><body><div>{html}</div></body></html>").find("body")
    for element in body.xpath(_UNWANTED):
        drop(element)
    for formula in body.xpath(f".//*[{has_class('latex-rendered')}]"):
        _as_text(formula, f"$$\n{_attributes(formula).get('persistentExpression', '')}\n$$")
    for quotation in body.xpath(f".//div[{has_class('pullquote')}]"):
        quotation.tag = "blockquote"
    notes = list(_take_footnotes(body, url))
    for anchor in body.xpath(f".//a[{has_class('footnote-anchor')}]"):
        _as_text(anchor, f"[^{anchor.text_content().strip()}]", tag="span")
    opening = " ".join(subtitle.split())
    is_told = not opening or opening in " ".join(body.text_content().split())
    text = body_markdown(body, url=url)
    if not text.strip():
        raise ItemError("has no text (a recording or a picture without notes); nothing to collect", skipped=True)
    return "\n\n".join([*([] if is_told else [opening]), text, *notes])


def _take_footnotes(body: Any, url: str | None) -> Iterator[str]:
    for note in body.xpath(f".//div[{has_class('footnote')}]"):
        number = note.xpath(f"string(.//a[{has_class('footnote-number')}])").strip()
        content = note.xpath(f".//*[{has_class('footnote-content')}]")
        words = body_markdown(content[0], url=url) if content else ""
        drop(note)
        if number and words:
            yield f"[^{number}]: {textwrap.indent(words, '    ').lstrip()}"


def _attributes(element: Any) -> Mapping[str, Any]:
    """What Substack's editor keeps of an element."""
    try:
        found = json.loads(element.get("data-attrs") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _as_text(element: Any, text: str, *, tag: str = "p") -> None:
    tail = element.tail
    element.clear()
    element.tag, element.text, element.tail = tag, text, tail
