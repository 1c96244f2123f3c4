"""One page through a real browser, as a fetcher would have brought it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from llm_twin.collect.addresses import shown
from llm_twin.collect.fetch import PAGES, Fetched, Fetcher, Gone, HttpError
from llm_twin.core.errors import ItemError
from llm_twin.core.ports import Browser


def render_page(
    url: str,
    *,
    fetcher: Fetcher,
    browser: Browser,
    now: Callable[[], datetime],
    scroll: bool = False,
    wait_for: str | None = None,
    timeout_s: float | None = None,
) -> Fetched:
    """A page as the browser shows it, under the same rules as `Fetcher.fetch`: robots.txt, pace, addresses, statuses.

    The browser must have been opened with the fetcher's gate as its proxy. Raises `ItemError` when there is no page,
    `Gone` and `HttpError` as `fetch` does.
    """
    fetcher.permit(url)
    before = fetcher.gate.latest_problem()
    try:
        rendered = browser.render(url, scroll=scroll, wait_for=wait_for, timeout_s=timeout_s)
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
