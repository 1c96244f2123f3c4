"""One page through a real browser, as a fetcher would have brought it.

Overlays such as cookie banners are taken out of what was read, and nobody clicks on them: nothing is agreed to in the
name of the person, and nothing stays hidden, since text under a banner is in the page all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from llm_twin.collect.addresses import shown
from llm_twin.collect.fetch import PAGES, Fetched, Fetcher, Gone, HttpError
from llm_twin.core.errors import ItemError
from llm_twin.core.ports import Browser


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a browser reads a page; the fields are options of `WebSource`, empty or 0 where they ask for nothing."""

    scroll: bool = True
    wait_for: str = ""
    timeout_s: float = 0.0
    profile: str = ""


def render_page(
    url: str,
    *,
    fetcher: Fetcher,
    browser: Browser,
    now: Callable[[], datetime],
    rendering: Rendering = Rendering(),
) -> Fetched:
    """A page as the browser shows it, under the same rules as `Fetcher.fetch`: robots.txt, pace, addresses, statuses.

    The browser must have been opened with the fetcher's gate as its proxy. Raises `ItemError` when there is no page,
    `Gone` and `HttpError` as `fetch` does.
    """
    fetcher.permit(url)
    before = fetcher.gate.latest_problem()
    try:
        rendered = browser.render(
            url,
            scroll=rendering.scroll,
            wait_for=rendering.wait_for or None,
            timeout_s=rendering.timeout_s or None,
        )
    except ItemError as error:
        if problem := fetcher.gate.problem(url):
            raise problem from None
        problem = fetcher.gate.latest_problem()
        if problem is None or problem is before:
            raise
        raise ItemError(f"{error.reason}; on the way, {problem.reason}", skipped=error.skipped) from None
    if problem := fetcher.gate.problem(rendered.url):
        raise problem
    fetcher.permit(rendered.url, paced=False)
    if rendered.status >= 400:
        kind = Gone if rendered.status in (404, 410) else HttpError
        raise kind(
            f"{shown(rendered.url)} answered {rendered.status} in the browser; check the address there by hand",
            status=rendered.status,
            headers={},
        )
    return Fetched(
        url=rendered.url,
        status=rendered.status or 200,
        headers={"content-type": "text/html; charset=utf-8"},
        content=rendered.html.encode("utf-8", "replace"),
        content_type=PAGES[0],
        from_cache=False,
        fetched_at=now(),
        rendered=True,
    )
