"""Every engine of the port `Browser`, on real pages in real Chromium."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_twin import catalog
from llm_twin.core import browsing
from llm_twin.core.errors import ConfigError, ItemError, MissingExtra, SourceError
from llm_twin.core.ports import Browser
from script_site import BATCHES, ScriptSite, fetcher_here, needs_chromium, serve

ENGINES = {"playwright": "browser", "selenium": "selenium"}


@pytest.fixture(scope="module")
def site() -> Iterator[ScriptSite]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module", params=ENGINES)
def engine(request) -> str:
    pytest.importorskip(request.param, reason=f"needs the extra llm-twin[{ENGINES[request.param]}]")
    return request.param


@pytest.fixture(scope="module")
def hosts() -> list[str]:
    """Every name that was asked for, in order."""
    return []


@pytest.fixture(scope="module")
def opened(engine: str, hosts: list[str], tmp_path_factory) -> Iterator[Callable[..., Browser]]:
    browsers: list[Browser] = []
    with fetcher_here(tmp_path_factory.mktemp("fetched"), hosts) as fetcher:

        def build(**options) -> Browser:
            made = catalog.part("browser", engine)(
                proxy=fetcher.gate.address, max_bytes=2_000_000, timeout_s=20, **options
            )
            browsers.append(made)
            return made

        yield build
        for each in browsers:
            each.close()


@pytest.fixture(scope="module")
def browser(opened) -> Browser:
    return opened()


pytestmark = needs_chromium


def test_what_scripts_fetch_and_draw_is_read_and_the_scripts_are_not(browser, site):
    page = browser.render(f"{site.url}/late")
    assert "<p>Words that came later.</p>" in page.html
    assert "<script" not in page.html
    assert "Switch scripts on" not in page.html
    assert (page.url, page.status) == (f"{site.url}/late", 200)


def test_content_that_is_waited_for_by_name_is_there(browser, site):
    assert "At last." not in browser.render(f"{site.url}/later").html
    assert "At last." in browser.render(f"{site.url}/later", wait_for="#late").html


def test_content_that_never_comes_is_a_failure_that_names_the_selector(browser, site):
    with pytest.raises(ItemError, match=r"nothing that matches '#never' within 1 s; correct `wait_for`"):
        browser.render(f"{site.url}/later", wait_for="#never", timeout_s=1)


@pytest.mark.parametrize("path", ["/feed", "/box"])
def test_scrolling_goes_on_until_nothing_new_comes(browser, site, path):
    unscrolled = browser.render(site.url + path).html
    assert "Story 0-0." in unscrolled
    assert f"Story {BATCHES - 1}-2." not in unscrolled
    scrolled = browser.render(site.url + path, scroll=True).html
    for number in range(BATCHES):
        assert f"Story {number}-2." in scrolled


def test_a_page_without_an_end_is_read_when_its_time_is_up(browser, site):
    began = time.monotonic()
    page = browser.render(f"{site.url}/endless", scroll=True, timeout_s=5)
    assert page.html.count("more and more") > 10
    assert time.monotonic() - began < 5 + browsing.READ_S


def test_a_page_that_never_rests_is_read_when_its_time_is_up(browser, site):
    assert "Steady words." in browser.render(f"{site.url}/restless", timeout_s=2).html


def test_overlays_are_left_out_and_nothing_is_agreed_to(browser, site):
    page = browser.render(f"{site.url}/banner")
    assert "the first law of queues" in page.html
    assert "We value your privacy" not in page.html
    assert "Subscribe to my letter" not in page.html
    assert "/accepted" not in site.asked


def test_an_application_in_one_fixed_box_is_no_overlay(browser, site):
    assert "All of it lives in one fixed box." in browser.render(f"{site.url}/app").html


@pytest.mark.parametrize("path", ["/hang", "/hang-at-once"])
def test_a_page_that_hangs_fails_and_the_next_one_does_not(browser, site, path):
    with pytest.raises(ItemError, match=r"hangs|took longer than 3 s") as caught:
        browser.render(site.url + path, timeout_s=3)
    assert not caught.value.skipped
    assert "There." in browser.render(f"{site.url}/moved").html


def test_a_page_that_crashes_fails_and_the_next_one_does_not(browser, site):
    site.pages["/crash-while-waiting"] = site.pages["/crash"]
    with pytest.raises(ItemError, match=r"broke off in the browser|hangs"):
        browser.render(f"{site.url}/crash", wait_for="#never", timeout_s=5)
    assert "There." in browser.render(f"{site.url}/moved").html


def test_downloads_are_refused_and_the_page_is_read(browser, site, tmp_path_factory):
    page = browser.render(f"{site.url}/downloads")
    assert "Take this." in page.html
    assert not [*tmp_path_factory.getbasetemp().rglob("unwanted*"), *Path.cwd().glob("unwanted*")]


def test_an_address_that_is_a_download_is_skipped(browser, site):
    with pytest.raises(ItemError, match="shows no page in a browser, but a download") as caught:
        browser.render(f"{site.url}/file")
    assert caught.value.skipped


def test_pictures_media_and_fonts_are_not_asked_for(browser, site):
    site.asked.clear()
    assert "Words only." in browser.render(f"{site.url}/rich").html
    assert [path for path in site.asked if path != "/favicon.ico"] == ["/rich"]


@pytest.mark.parametrize("path", ["/large", "/liar"])
def test_a_page_above_the_limit_is_skipped_even_when_it_lies_about_its_size(browser, site, path):
    with pytest.raises(ItemError, match=r"larger than 2,000,000 bytes in a browser") as caught:
        browser.render(site.url + path)
    assert caught.value.skipped


def test_dialogs_popups_and_pleas_to_stay_stop_nobody(browser, site):
    page = browser.render(f"{site.url}/rude")
    assert "Before." in page.html
    assert "After." in page.html
    assert "There." in browser.render(f"{site.url}/moved").html


def test_a_page_that_moves_on_is_read_where_it_arrives(browser, site):
    page = browser.render(f"{site.url}/moving")
    assert "There." in page.html
    assert page.url == f"{site.url}/moved"


def test_redirects_are_followed_and_statuses_told(browser, site):
    site.redirects["/old"] = "/moved"
    assert browser.render(f"{site.url}/old").url == f"{site.url}/moved"
    assert browser.render(f"{site.url}/nowhere").status == 404


@pytest.mark.parametrize("url", ["file:///etc/hostname", "javascript:alert(1)", "data:text/html,x", "chrome://version"])
def test_only_web_addresses_are_opened(browser, url):
    with pytest.raises(ItemError, match="only http and https are"):
        browser.render(url)


def test_what_does_not_answer_is_a_failure(browser):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ItemError, match=r"ERR_TUNNEL_CONNECTION_FAILED; check the address"):
        browser.render(f"https://127.0.0.1:{port}/")


def test_a_signed_in_profile_opens_what_strangers_do_not_see(opened, browser, site, tmp_path):
    profile = tmp_path / "profile"
    sign_in(site, profile)
    signed_in = opened(profile=profile)
    assert "My own page." in signed_in.render(f"{site.url}/private").html
    signed_in.close()
    assert "My own page." in signed_in.render(f"{site.url}/private").html
    assert "Who are you?" in browser.render(f"{site.url}/private").html
    signed_in.close()


def sign_in(site: ScriptSite, profile: Path) -> None:
    """Do what a person does: open Chromium with a profile folder, fill in the form, close it."""
    program = f"""
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    chromium = playwright.chromium.launch_persistent_context(
        {str(profile)!r}, executable_path={browsing.find_chromium()!r}, ignore_default_args=["--disable-extensions"]
    )
    page = chromium.new_page()
    page.goto({site.url + "/login"!r})
    page.fill("[name=name]", "jane")
    page.fill("[name=password]", "secret")
    page.click("button")
    page.wait_for_selector("text=Welcome.")
    chromium.close()
"""
    pytest.importorskip("playwright", reason="needs the extra llm-twin[browser]")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_profile_in_use_is_an_error_that_says_to_close_the_other_browser(opened, site, tmp_path):
    first = opened(profile=tmp_path)
    first.render(f"{site.url}/moved")
    with pytest.raises(SourceError, match=r"profile .* is in use; close the browser"):
        opened(profile=tmp_path).render(f"{site.url}/moved")
    first.close()


def test_a_browser_that_was_closed_starts_again_and_closing_twice_is_fine(opened, site):
    browser = opened()
    browser.render(f"{site.url}/moved")
    browser.close()
    browser.close()
    assert "There." in browser.render(f"{site.url}/moved").html
    browser.close()


def test_a_program_that_is_no_browser_is_named(opened, site):
    with pytest.raises(SourceError, match=r"true could not be started: .*try it by hand"):
        opened(executable=shutil.which("true")).render(f"{site.url}/moved")


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_missing_package_names_the_line_that_installs_it(engine_name, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == engine_name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, engine_name, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'llm-twin\[{ENGINES[engine_name]}\]'"):
        catalog.part("browser", engine_name)(proxy="http://127.0.0.1:9")


def test_a_missing_chromium_names_the_line_that_installs_it(engine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install chromium"):
        catalog.part("browser", engine)(proxy="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"browser.executable is '/no/such'"):
        catalog.part("browser", engine)(proxy="http://127.0.0.1:9", executable="/no/such")


def test_a_missing_driver_names_the_line_that_installs_it(monkeypatch, tmp_path):
    (tmp_path / "chromium").symlink_to(shutil.which("chromium"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install chromium-driver"):
        catalog.part("browser", "selenium")(proxy="http://127.0.0.1:9")


def test_no_browser_of_these_tests_asked_for_anything_else(site, hosts):
    assert site.asked
    assert hosts == []
