"""Pages that scripts build, read through a real browser.

    fetch plainly ─> a web page? ─ yes ─> open it in the browser, wait, scroll ─> the HTML a reader sees
                         └─ no ─> (a feed, a sitemap, nothing there) as it is

So robots.txt, pace, feeds, sitemaps and what is gone are the same as for every web source (`web.py`), and only what is
a page is rendered. With a profile (a folder in which a person signed in) pages are opened by the browser alone: what
the site shows to strangers is of no interest then.

Overlays such as cookie banners are taken out of what was read, and nobody clicks on them: nothing is agreed to in the
name of the person, and nothing stays hidden, since text under a banner is in the page all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast

from llm_twin.collect.content import matches
from llm_twin.collect.fetch import PAGES, Fetched, Fetcher
from llm_twin.collect.rendering import render_page
from llm_twin.collect.sources import SourceContext
from llm_twin.collect.web import MAX_PAGES, Scope, WebSource
from llm_twin.core.errors import ConfigError
from llm_twin.core.records import Document, Item, ItemState, fingerprint


class BrowserSource:
    """Web pages that scripts build, read with a real browser.

    Takes the options of a web source, and of each page: `scroll` to its end until nothing new comes, `wait_for` a CSS
    selector, and at most `timeout_s` seconds (0: as in `[browser]`). `profile` is the folder of a browser profile in
    which you signed in.
    """

    example: ClassVar[str] = 'https://you.example/app/ (with kind = "browser")'

    @classmethod
    def recognises(cls, address: str) -> bool:  # noqa: ARG003
        """Never: a browser is slow, and asked for by name."""
        return False

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
    ) -> BrowserSource:
        """The page or site at an address; options as in the class."""
        if profile and not (context.root / Path(profile).expanduser()).is_dir():
            raise ConfigError(
                f"the browser profile {profile!r} of {address!r} is no folder; make one by signing in: "
                f"chromium --user-data-dir={profile} --password-store=basic"
            )
        pages = RenderedPages(context, scroll=scroll, wait_for=wait_for, timeout_s=timeout_s, profile=profile)
        web = WebSource(
            address,
            # To the web source these are a fetcher whose pages went through a browser.
            replace(context, fetcher=lambda: cast(Fetcher, pages)),
            scope=scope,
            prefix=prefix,
            max_pages=max_pages,
            include=include,
            exclude=exclude,
            platform=platform,
        )
        return cls(web, how=fingerprint(scroll, wait_for, profile)[:8])

    def __init__(self, web: WebSource, *, how: str) -> None:
        self.name = web.name
        self._web, self._how = web, how

    def list(self) -> Iterator[Item | ItemState]:
        """As a web source lists them; other ways of rendering make other versions."""
        for listed in self._web.list():
            if isinstance(listed, Item) and listed.version is not None:
                yield replace(listed, version=f"{self._how}:{listed.version}")
            else:
                yield listed

    def fetch(self, item: Item) -> Document:
        """The article of a rendered page; see `Source.fetch`."""
        return self._web.fetch(item)


class RenderedPages:
    """Fetches as a `Fetcher` does, web pages through a browser."""

    def __init__(
        self, context: SourceContext, *, scroll: bool, wait_for: str = "", timeout_s: float = 0.0, profile: str = ""
    ) -> None:
        self._context = context
        self._scroll, self._wait_for, self._timeout_s, self._profile = scroll, wait_for, timeout_s, profile

    def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        accept: Sequence[str] = (),
        check_robots: bool = True,
        max_bytes: int | None = None,
    ) -> Fetched:
        """What is at an address; a page as the browser shows it. Arguments and errors as for `Fetcher.fetch`."""
        fetcher = self._context.fetcher()
        if not (self._profile and matches(PAGES[0], accept)):
            plain = fetcher.fetch(url, headers=headers, accept=accept, check_robots=check_robots, max_bytes=max_bytes)
            if plain.content_type not in PAGES:
                return plain
        return render_page(
            url,
            fetcher=fetcher,
            browser=self._context.browser(self._profile),
            now=self._context.now,
            scroll=self._scroll,
            wait_for=self._wait_for or None,
            timeout_s=self._timeout_s or None,
        )
