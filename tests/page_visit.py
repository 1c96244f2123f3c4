"""A visit to the page in a real Chromium, which notes whatever a good page never does.

    with chromium() as browser, visit(browser, service.address) as page:
        page.goto("/#/coverage")

Leaving the visit fails when the console told an error, the security policy stopped something, or a request left the
service; a test that provokes one says so by `page.expected`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, sync_playwright

from llm_twin.core import browsing

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", chromium_sandbox=not browsing.is_root()
        )
        yield browser
        browser.close()


class Visit:
    """A page of the service; `complaints` are what went wrong behind the scenes."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.complaints: list[str] = []
        self.expected: list[str] = []
        self.loaded: dict[str, int] = {}
        page.set_default_timeout(20_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.complaints.append(f"request to elsewhere: {request.url}")

    def unexpected(self) -> list[str]:
        return [each for each in self.complaints if not any(words in each for words in self.expected)]

    def goto(self, place: str) -> None:
        self.page.goto(self.address + place)

    def ask(self, question: str) -> Locator:
        """Ask and wait for the whole answer; its exchange."""
        self.page.locator("#box").fill(question)
        self.page.keyboard.press("Enter")
        exchange = self.page.locator(".exchange").last
        exchange.locator(".feedback").wait_for()
        return exchange

    def api(self, path: str) -> Any:
        """What the service says, as the page's own origin asks it."""
        return self.page.evaluate("async (path) => (await fetch(path)).json()", path)

    def wide(self) -> bool:
        """Whether anything sticks out to the right."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def barriers(self) -> list[str]:
        """What stands in the way of people with disabilities, as axe finds it in the page as it is."""
        found = Axe().run(self.page, options={"runOnly": {"type": "tag", "values": RULES}}).response["violations"]
        return [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]


@contextmanager
def visit(browser: Browser, address: str, **how: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport=how.pop("viewport", {"width": 1280, "height": 860}), **how)
    visit = Visit(context.new_page(), address)
    try:
        yield visit
        assert visit.unexpected() == []
    finally:
        context.close()
