"""Pages in Chromium through Playwright (https://playwright.dev/python/), with the system's Chromium, not its own.

Playwright runs on an event loop in a thread of its own: so a browser may be used from any thread and inside another
event loop (a notebook, a server), and every call ends in time even when a page never returns (of the calls that run
something in a page, the library bounds none).
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from llm_twin.core import browsing

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page, Playwright, Request

T = TypeVar("T")


class PlaywrightBrowser(browsing.ChromiumBrowser):
    """A `Browser` on Playwright."""

    package = "playwright"
    extra = "browser"
    _thread: _LoopThread | None = None
    _playwright: Playwright | None = None
    _context: BrowserContext | None = None

    def _errors(self) -> tuple[type[Exception], ...]:
        return _errors()

    def _is_running(self) -> bool:
        return self._context is not None

    def _start(self) -> None:
        self._end()  # what a start that was broken off left behind
        self._thread = _LoopThread()
        self._playwright, self._context = self._thread.call(self._started(), browsing.START_S)

    async def _started(self) -> tuple[Playwright, BrowserContext]:
        from playwright.async_api import async_playwright

        playwright = await async_playwright().start()
        try:
            context = await playwright.chromium.launch_persistent_context(
                str(self._profile or ""),
                executable_path=self._executable,
                args=browsing.arguments(proxy=self._proxy),
                ignore_default_args=["--disable-popup-blocking"],
                chromium_sandbox=not browsing.is_root(),
                accept_downloads=False,
                timeout=browsing.START_S * 1000,
            )
        except BaseException:
            await playwright.stop()
            raise
        return playwright, context

    def _new_tab(self) -> _Tab:
        assert self._thread is not None  # noqa: S101 - it was started
        assert self._context is not None  # noqa: S101
        return self._thread.call(_new_tab(self._context, self._thread), browsing.START_S)

    def _end(self, *, hung: bool = False) -> None:  # noqa: ARG002 - ending Playwright kills what does not close
        context, playwright, thread = self._context, self._playwright, self._thread
        self._context = self._playwright = self._thread = None
        if thread is None:
            return
        with suppress(*_errors()):
            if context is not None:
                thread.call(context.close(), browsing.CLOSE_S)
        with suppress(*_errors()):
            if playwright is not None:
                thread.call(playwright.stop(), browsing.CLOSE_S)
        thread.end()


async def _new_tab(context: BrowserContext, thread: _LoopThread) -> _Tab:
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    await session.send("Network.enable")
    await session.send("Network.setBlockedURLs", {"urls": list(browsing.BLOCKED)})
    return _Tab(page, thread)


class _Tab:
    """A `Tab`; made on the loop's own thread, used from others."""

    def __init__(self, page: Page, thread: _LoopThread) -> None:
        self._page, self._thread = page, thread
        self._began: dict[Request, float] = {}
        page.on("request", self._begin)
        page.on("requestfinished", self._finish)
        page.on("requestfailed", self._finish)

    def open(self, url: str, *, timeout_s: float) -> None:
        going = self._page.goto(url, wait_until="domcontentloaded", timeout=timeout_s * 1000)
        try:
            self._thread.call(going, timeout_s)
        except _errors() as error:
            raise browsing.not_opened(url, str(error), timeout_s, late=_is_late(error)) from error

    def run(self, function: str, *arguments: Any, timeout_s: float) -> Any:
        until = time.monotonic() + timeout_s
        while True:
            running = self._page.evaluate(function, *arguments)
            try:
                return self._thread.call(running, max(0.1, until - time.monotonic()))
            except _errors() as error:
                # A page that moves on by itself takes what ran in it along.
                if _MOVED.search(str(error)) and time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise browsing.broke_off(self._page.url, str(error), timeout_s, late=_is_late(error)) from error

    def _begin(self, request: Request) -> None:
        self._began[request] = time.monotonic()

    def _finish(self, request: Request) -> None:
        self._began.pop(request, None)

    def last_request(self) -> float | None:
        return max(list(self._began.values()), default=None)

    def close(self) -> bool:
        """See `Tab.close`."""
        try:
            self._thread.call(_close_others(self._page), browsing.CLOSE_S)
        except _errors():
            return False
        return True


_MOVED = re.compile(r"Execution context was destroyed|Cannot find context|because of a navigation")


async def _close_others(page: Page) -> None:
    """Close every tab but the first, which keeps the browser open."""
    for each in page.context.pages[1:]:
        await each.close()


def _is_late(error: BaseException) -> bool:
    from playwright.async_api import TimeoutError as PlaywrightTimeout

    return isinstance(error, PlaywrightTimeout | TimeoutError)


def _errors() -> tuple[type[Exception], ...]:
    from playwright.async_api import Error

    return (Error, TimeoutError)


class _LoopThread:
    """An event loop that runs in a thread until it is ended."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm-twin-playwright", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run it there and wait. Raises `TimeoutError` when it takes longer."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout_s), self._loop).result()

    def end(self) -> None:
        """Stop the loop; nothing runs on it afterwards."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
