"""Pictures of the page: the real service over this folder's own pages, looked at with Chromium.

    python docs/screenshots.py                 # writes those that docs/page.md shows into docs/images
    python docs/screenshots.py --all FOLDER    # every view, at both widths and in both colours, to be looked at

Needs the extra llm-twin[browser] and Chromium. With TWIN_LLM_MODEL and TWIN_LLM_BASE_URL set, answers are generated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from playwright.sync_api import Browser, Page, sync_playwright

from llm_twin import Twin
from llm_twin.core import browsing

HERE = Path(__file__).parent
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}
Colours = Literal["light", "dark"]


@dataclass(frozen=True)
class View:
    """What is photographed: an address, what is done there, and what must then be seen."""

    name: str
    place: str
    seen: str
    act: Callable[[Page], None] = lambda _: None


def _ask(page: Page) -> None:
    page.locator("#box").fill("How does a reader check a citation?")
    page.keyboard.press("Enter")
    page.locator(".feedback").wait_for()


def _ask_and_read(page: Page) -> None:
    _ask(page)
    page.locator(".exchange .cite").first.click()


def _ask_and_edit(page: Page) -> None:
    _ask(page)
    page.get_by_role("button", name="What I would have said").click()


def _ask_and_complain(page: Page) -> None:
    _ask(page)
    page.get_by_role("button", name="Bad answer").click()


def _latest_trace(page: Page) -> None:
    page.locator(".traces a", has_text="ask").first.click()


VIEWS = (
    View("start", "#/ask", ".lead"),
    View("filters", "#/ask", "fieldset", lambda page: page.get_by_text("Filters").click()),
    View("answer", "#/ask", ".feedback", _ask),
    View("citation", "#/ask", "#reader mark", _ask_and_read),
    View("edit", "#/ask", ".editor", _ask_and_edit),
    View("feedback", "#/ask", ".why input", _ask_and_complain),
    View("write", "#/write", ".lead"),
    View("search", "#/search?q=offsets+of+citations", ".results li"),
    View("documents", "#/documents", ".documents li"),
    View("coverage", "#/coverage", ".chart svg"),
    View("traces", "#/traces", ".traces li"),
    View("trace", "#/traces", ".ranking, .waterfall", _latest_trace),
    View("voice", "#/voice", ".turns"),
    View("keys", "#/ask", "dialog", lambda page: page.get_by_role("button", name="Keyboard").click()),
)
KEPT: tuple[tuple[str, dict[str, int], Colours], ...] = (
    ("citation", DESK, "light"),
    ("answer", PHONE, "light"),
    ("trace", DESK, "dark"),
    ("voice", PHONE, "dark"),
)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `twin serve` over the documentation."""
    with Twin.init(folder, author="LLM Twin", addresses=[str(HERE)]) as twin:
        twin.sync()
    command = [sys.executable, "-m", "llm_twin", "-C", str(folder), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:  # noqa: S603
        try:
            yield cast("IO[str]", service.stdout).readline().strip()
        finally:
            service.terminate()


def photograph(browser: Browser, address: str, view: View, size: dict[str, int], colours: Colours, file: Path) -> None:
    """One view as a PNG."""
    context = browser.new_context(viewport={"width": size["width"], "height": size["height"]}, color_scheme=colours)
    page = context.new_page()
    page.goto(f"{address}/{view.place}")
    page.locator(".status span").filter(has_text="documents").wait_for()
    view.act(page)
    page.locator(f":is({view.seen}):visible").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=file, animations="disabled", caret="hide")
    context.close()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", metavar="FOLDER", type=Path, help="every view, in both widths and colours")
    folder: Path | None = parser.parse_args().all
    wanted = KEPT
    if folder:
        wanted = tuple(
            (view.name, size, colours) for view in VIEWS for size in (DESK, PHONE) for colours in ("light", "dark")
        )
    target = folder or HERE / "images"
    target.mkdir(parents=True, exist_ok=True)
    by_name = {view.name: view for view in VIEWS}
    with (
        tempfile.TemporaryDirectory() as workspace,
        served(Path(workspace)) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", chromium_sandbox=not browsing.is_root()
        )
        for name, size, colours in wanted:
            dark = "-dark" if folder and colours == "dark" else ""
            photograph(
                browser, address, by_name[name], size, colours, target / f"page-{name}-{size['width']}{dark}.png"
            )
        browser.close()


if __name__ == "__main__":
    main()
