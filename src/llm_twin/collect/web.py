"""Web pages: one article, or every article of a site.

    address ─> an article, with none below it? ─ yes ─> that page
                 └─ no ─> sitemaps? ─ yes ─> every page they list, unchanged ones by their date
                            └─ no ─> a feed? ─ yes ─> its entries (see feed.py)
                                       └─ no ─> follow links, page by page

A page that is an empty shell, which scripts have yet to fill, is read through the browser, where there is one; a kind
of source that reads every page so is `browser.py`. Sitemaps and feeds are always fetched plainly.
A page is told apart by its canonical address. What a page says of itself (title, author, date, canonical address)
counts; sites' interface that is left in the text is taken out later, by its recurrence over pages.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urljoin, urlsplit

from llm_twin.collect import feed, patterns, sitemap
from llm_twin.collect.fetch import FEEDS, JSON, PAGES, Fetched, Fetcher, Gone
from llm_twin.collect.html import parse_html
from llm_twin.collect.page import (
    canonical,
    is_above_others,
    is_archive_path,
    is_shell,
    links_in,
    read_page,
    same_site,
)
from llm_twin.collect.reading import READERS_VERSION, document_from, parse_date
from llm_twin.collect.rendering import Rendering, render_page
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ConfigError, ItemError, MissingExtra, PartialListing, SourceError
from llm_twin.core.records import Document, Item, ItemState, fingerprint

Scope = Literal["auto", "page", "site"]

MAX_PAGES = 5000
"""Pages of one site that are listed; at one request a second they take an hour and a half."""
FRESH = timedelta(days=2)
"""A page that changed so short ago, by a date without a time, may change again under the same date."""

_ACCEPT = (*PAGES, *FEEDS, *JSON)
_NO_PAGE = re.compile(
    r"\.(?:jpe?g|png|gif|svg|webp|avif|ico|css|js|mjs|json|xml|rss|atom|pdf|zip|gz|tgz|xz|7z|rar|dmg|exe|mp[34]|m4a|"
    r"webm|mov|avi|ogg|wav|woff2?|ttf|eot|docx?|xlsx?|pptx?|epub|csv|txt|map|ics|asc|sig)$|"
    r"^/(?:wp-(?:json|admin|login\.php|content)|cdn-cgi|xmlrpc\.php|feed/?$|cart/?$|checkout/?$|login/?$|signup/?$)",
    re.IGNORECASE,
)
_ACTION = re.compile(r"(?:^|&)(?:replytocom|share|action|print|add-to-cart|sort|order|orderby|filter|reply|s|q)=")


class Unrendered(ItemError):
    """A page is an empty shell, and there is no browser to render it."""

    passing = True

    def __init__(self, problem: str) -> None:
        super().__init__(f"is an empty shell that scripts fill, and no browser can render it: {problem}", skipped=True)


@dataclass(frozen=True, slots=True)
class Extent:
    """Which pages of a site are collected; the fields are options of `WebSource`."""

    scope: Scope = "auto"
    prefix: str = ""
    max_pages: int = MAX_PAGES
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class WebSource:
    """The article at an address, or those of the site below it.

    `scope` says which: `page`, `site`, or `auto`, where an address with a path whose page is an article, and leads to
    no others below it, is that page and everything else a site. `prefix` is the beginning of the addresses or paths
    that belong to the site (default: the folder of the address). `include` and `exclude` are patterns as in .gitignore,
    for the path of the address. `max_pages` bounds a site: of one that has more, nothing counts as removed. `platform`
    is recorded as the documents' source.

    Of a page that is rendered, `scroll` goes to its end until nothing new comes, `wait_for` is a CSS selector that must
    match before it is read, and `timeout_s` bounds all of that (0: as in `[browser]`). `profile` is the folder of a
    browser profile in which you signed in: with one, every page is opened by the browser alone.
    """

    example: ClassVar[str] = "https://you.example/blog/"
    renders_all: ClassVar[bool] = False

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Every http and https address; kinds for single platforms come before this one."""
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.netloc)

    @classmethod
    def open(
        cls,
        address: str,
        context: SourceContext,
        *,
        scope: Scope = "auto",
        prefix: str = "",
        max_pages: int = MAX_PAGES,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        platform: str = "web",
        scroll: bool = True,
        wait_for: str = "",
        timeout_s: float = 0.0,
        profile: str = "",
    ) -> Self:
        """The page or site at an address; options as in the class."""
        if max_pages < 1:
            raise ConfigError(f"max_pages of {address!r} is {max_pages}; it must be at least 1")
        if profile and not (context.root / Path(profile).expanduser()).is_dir():
            raise ConfigError(
                f"the browser profile {profile!r} of {address!r} is no folder; make one by signing in: "
                f"chromium --user-data-dir={profile} --password-store=basic"
            )
        return cls(
            address,
            context,
            extent=Extent(scope, prefix, max_pages, include, exclude),
            rendering=Rendering(scroll, wait_for, timeout_s, profile),
            platform=platform,
        )

    def __init__(
        self, address: str, context: SourceContext, *, extent: Extent, rendering: Rendering, platform: str
    ) -> None:
        self.name = address
        self.platform = platform
        self.extent = extent
        try:
            self._address = canonical(address)
        except ItemError as error:
            raise ConfigError(str(error)) from None
        self._context = context
        self._rendering = rendering
        self._include = patterns.of_option(extent.include, option="include") if extent.include else None
        self._exclude = patterns.of_option(extent.exclude, option="exclude")
        self._feed: feed.FeedSource | None = None
        self._at_hand: tuple[str, Fetched | ItemError] | None = None
        self._no_browser = ""
        shown = (self.renders_all, rendering.scroll, rendering.wait_for, rendering.profile)
        self._how = fingerprint(READERS_VERSION, context.author, platform, shown)[:8]

    def list(self) -> Iterator[Item | ItemState]:
        """The page, or every page of the site; see `Source.list`.

        Raises `SourceError` when the address cannot be read, and at the end when a sitemap or a page on the way could
        not be, or there are more than `max_pages`; `PartialListing` where a feed is all the site offers, or links stand
        on pages that only a browser could show.
        """
        self._feed = self._at_hand = None
        self._no_browser = ""
        if self.extent.scope == "page":
            yield Item(self._address)
            return
        start = self._get(self._address)
        if feed.is_feed(start):
            yield from self._from_feed(start.url)
        elif self.extent.scope == "auto" and self._is_article(start):
            self._at_hand = (self._address, start)
            yield Item(self._address)
        else:
            yield from self._site(start)

    def fetch(self, item: Item) -> Document:
        """The article of a page; see `Source.fetch`."""
        if self._feed is not None:
            return self._feed.fetch(item)
        page = self._page(item.key)
        if is_shell(page):
            raise Unrendered(self._no_browser)
        reading = read_page(page)
        return document_from(
            reading,
            author=self._context.author,
            source=self.platform,
            locator=item.key,
            path=urlsplit(reading.url or item.key).path,
            fetched_at=self._context.now(),
        )

    def revisit(self, document: Document) -> Document:
        """See `Window.revisit`, for the sites of which a feed is all there is."""
        if self._feed is None:
            raise ItemError("is linked from nowhere that can be read; nothing is known of it", skipped=True)
        return self._feed.revisit(document)

    @property
    def _fetcher(self) -> Fetcher:
        return self._context.fetcher()

    def _get(self, url: str) -> Fetched:
        """What is at an address, rendered where it is a page and this source renders it.

        What a site shows to strangers is of no interest to whoever signed in: then only the browser asks for it.
        """
        if self._rendering.profile:
            return self._rendered(url)
        page = self._fetcher.fetch(url, accept=_ACCEPT)
        if self.renders_all:
            return self._rendered(url) if page.content_type in PAGES else page
        return self._filled(page) if is_shell(page) and not self._no_browser else page

    def _filled(self, shell: Fetched) -> Fetched:
        """The page a browser makes of a shell; the shell, and from then on every other, when none can be had."""
        try:
            return self._rendered(shell.url)
        except ItemError:
            raise
        except (ConfigError, MissingExtra, SourceError) as error:
            self._no_browser = str(error)
            return shell

    def _rendered(self, url: str) -> Fetched:
        return render_page(
            url,
            fetcher=self._fetcher,
            browser=self._context.browser(self._rendering.profile),
            now=self._context.now,
            rendering=self._rendering,
        )

    def _page(self, key: str) -> Fetched:
        """The page of a key, without asking twice for one that the listing has read just before."""
        at_hand, self._at_hand = self._at_hand, None
        if at_hand is None or at_hand[0] != key:
            return self._get(key)
        if isinstance(at_hand[1], ItemError):
            raise at_hand[1]
        return at_hand[1]

    def _is_article(self, page: Fetched) -> bool:
        if urlsplit(page.url).path in ("", "/"):
            return False
        try:
            read_page(page)
        except ItemError as error:
            if not error.skipped:
                raise
            return False
        return not is_above_others(page)

    # --- a site -----------------------------------------------------------------------------------------------------

    def _site(self, start: Fetched) -> Iterator[Item | ItemState]:
        below = self._below(start.url)
        sitemaps = sitemap.sitemaps_of(self._fetcher, start.url)
        listed = self._from_sitemaps(sitemaps, below)
        first = next(listed, None)
        if first is not None:
            yield from itertools.chain([first], listed)
            return
        announced = _announced_feed(start)
        if announced:
            yield from self._from_feed(announced)
        else:
            yield from self._by_links(start, below)

    def _below(self, start: str) -> str:
        """The beginning of every address that belongs to the site."""
        if self.extent.prefix:
            return canonical(self.extent.prefix, start)
        folder, _, name = start.rpartition("/")
        return f"{folder}/" if "." in name or not name else f"{start}/"

    def _from_feed(self, url: str) -> Iterator[Item | ItemState]:
        self._feed = feed.FeedSource(url, self._context, platform=self.platform, name=self.name, get_page=self._get)
        yield from self._feed.list()

    def _from_sitemaps(self, sitemaps: Sequence[Fetched], below: str) -> Iterator[Item | ItemState]:
        seen: set[str] = set()
        for page in sitemap.pages(self._fetcher, sitemaps):
            try:
                key = canonical(page.url)
            except ItemError as error:
                yield ItemState(self.name, page.url, "skipped", error.reason)
                continue
            same = key.rstrip("/")
            if same in seen or not self._belongs(key, below) or not self._wanted(key):
                continue
            if len(seen) == self.extent.max_pages:
                raise self._too_many()
            seen.add(same)
            yield self._refusal(key) or Item(key, self._version(page.changed))

    def _version(self, changed: str | None) -> str | None:
        """What tells a page's last change; None when the sitemap does not say, or not exactly enough."""
        moment = parse_date(changed)
        if changed is None or moment is None:
            return None
        now = self._context.now()
        exact = "T" in changed
        if moment > now or (not exact and moment > now - FRESH):
            return None
        return f"{self._how}:{moment.astimezone(UTC).isoformat()}"

    def _by_links(self, start: Fetched, below: str) -> Iterator[Item | ItemState]:
        """The start page, then every page that a page links to, breadth first."""
        first = canonical(start.url)
        waiting, seen = deque([first]), {first.rstrip("/")}
        unread: list[str] = []
        shells = 0
        while waiting:
            key = waiting.popleft()
            try:
                page = start if key == first else self._get(key)
            except ItemError as error:
                self._at_hand = (key, error)
                yield Item(key)
                if not error.skipped and not isinstance(error, Gone):
                    unread.append(str(error))
                continue
            shells += is_shell(page)
            for link in _links(page):
                same = link.rstrip("/")
                if same not in seen and self._belongs(link, below) and not _ACTION.search(urlsplit(link).query):
                    if len(seen) == self.extent.max_pages:
                        raise self._too_many()
                    seen.add(same)
                    waiting.append(link)
            if self._wanted(key):
                self._at_hand = (key, page)
                yield self._refusal(key) or Item(key)
        if unread:
            raise SourceError(
                f"{self.name}: {len(unread)} pages could not be read, so that what they link to is not known; first: "
                f"{unread[0]}"
            )
        if shells:
            raise PartialListing(f"{self.name}: {shells} pages are empty shells, so that their links are not known")

    def _too_many(self) -> SourceError:
        return SourceError(
            f"{self.name} has more than {self.extent.max_pages} pages; raise max_pages, or narrow it with prefix and "
            "exclude"
        )

    def _belongs(self, url: str, below: str) -> bool:
        """Whether an address may be a page of the site, an article or the way to one."""
        path, start = urlsplit(url).path, urlsplit(below).path
        inside = path.startswith(start) or f"{path}/" == start
        return inside and same_site(url, below) and not _NO_PAGE.search(path) and not self._exclude.match_file(path[1:])

    def _wanted(self, key: str) -> bool:
        return self._include is None or self._include.match_file(urlsplit(key).path[1:])

    def _refusal(self, key: str) -> ItemState | None:
        """Why a page is not even asked for; None when it is."""
        if self._include is not None or not is_archive_path(urlsplit(key).path):
            return None
        reason = "is a list of posts by its address; name it in `include` if it is an article"
        return ItemState(self.name, key, "skipped", reason)


def _links(page: Fetched) -> Sequence[str]:
    """The pages a page links to; none of what is no page."""
    try:
        return list(links_in(parse_html(page.text), page.url)) if page.content_type in PAGES else []
    except ItemError:
        return []


def _announced_feed(page: Fetched) -> str | None:
    """The first feed a page names that is not one of comments."""
    types = ("application/rss+xml", "application/atom+xml", "application/feed+json")
    for link in parse_html(page.text).iter("link"):
        rel, kind, title = (link.get(name, "").lower() for name in ("rel", "type", "title"))
        if "alternate" in rel.split() and kind in types and "comment" not in title and link.get("href"):
            with suppress(ValueError):  # what it names is no address
                address = urljoin(page.url, str(link.get("href")).strip())
                if "/comments/" not in urlsplit(address).path:
                    return address
    return None
