"""Pages that scripts build, read through a real browser.

    fetch plainly ─> a web page? ─ yes ─> open it in the browser, wait, scroll ─> the HTML a reader sees
                         └─ no ─> (a feed, a sitemap, nothing there) as it is

So robots.txt, pace, feeds, sitemaps and what is gone are the same as for every web source (`web.py`), and only what is
a page is rendered.
"""

from __future__ import annotations

from typing import ClassVar

from llm_twin.collect.web import WebSource


class BrowserSource(WebSource):
    """A web source, with the same options, that reads every page with a real browser."""

    example: ClassVar[str] = 'https://you.example/app/ (with kind = "browser")'
    renders_all: ClassVar[bool] = True

    @classmethod
    def recognises(cls, address: str) -> bool:  # noqa: ARG003
        """Never: a browser is slow, and asked for by name."""
        return False
