from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpcore2
import pytest

from llm_twin import catalog
from llm_twin.collect.browser import BrowserSource
from llm_twin.collect.fetch import Fetcher, FetchPolicy, Gone, HttpError
from llm_twin.collect.rendering import render_page
from llm_twin.collect.sources import SourceContext
from llm_twin.collect.web import WebSource
from llm_twin.core.errors import ConfigError, ItemError, PartialListing
from llm_twin.core.ports import Browser
from llm_twin.core.records import Item, Rendered
from llm_twin.twin import Twin
from script_site import ScriptSite, fetcher_here, needs_chromium, renderers, serve

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
PUBLIC, PRIVATE = "93.184.215.14", "10.0.0.7"
ESSAY = "".join(
    f"<p>Paragraph {number}: a queue is full or it is empty, and a plan that counts on the moments in between is a "
    "plan for a museum. I have run both, and the museum had the better coffee and far fewer pages at night.</p>"
    for number in range(8)
)
SHELL = """<html lang=en><title>{title}</title><meta name=author content="Jane Roe"><body><div id=app></div>
<script>setTimeout(() => {{ app.innerHTML = `{body}` }}, 200)</script>"""


@pytest.fixture
def site() -> Iterator[ScriptSite]:
    with serve() as running:
        running.pages = {}
        yield running


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    with fetcher_here(tmp_path / "fetched") as made:
        yield made


@pytest.fixture
def browser(fetcher: Fetcher) -> Iterator[Browser]:
    pytest.importorskip("playwright", reason="needs the extra llm-twin[browser]")
    made = catalog.part("browser", "playwright")(proxy=fetcher.gate.address, timeout_s=20)
    yield made
    made.close()


@pytest.fixture
def context(tmp_path: Path, fetcher: Fetcher, browser: Browser) -> SourceContext:
    return SourceContext("Jane Roe", tmp_path, lambda: fetcher, lambda: NOW, lambda profile="": browser)


def article(title: str) -> str:
    return SHELL.format(title=title, body=f"<article><h1>{title}</h1>{ESSAY}</article>")


# --- the gate -------------------------------------------------------------------------------------------------------


class Dialler(httpcore2.SyncBackend):
    """Keeps the addresses it is told to connect to, and connects to a site on this machine instead."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.dialled: list[str] = []

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.dialled.append(host)
        return super().connect_tcp("127.0.0.1", self.port, timeout, local_address, socket_options)


@pytest.fixture
def outside(site: ScriptSite, tmp_path: Path) -> Iterator[tuple[Fetcher, Dialler, dict[str, list[str]]]]:
    """A fetcher on a pretended internet: every public address is the site, and names are looked up in a table.

    A name with several entries has another address at every look-up.
    """
    names: dict[str, list[str]] = {"jane.example": [PUBLIC], "inside.example": [PRIVATE]}
    dialler = Dialler(int(site.url.rpartition(":")[2]))

    def resolve(host: str, port: int) -> list[str]:
        answers = names[host]
        return [answers.pop(0) if len(answers) > 1 else answers[0]]

    policy = FetchPolicy(requests_per_second=100, respect_robots=False)
    with Fetcher(cache_dir=tmp_path / "fetched", policy=policy, resolve=resolve, sockets=dialler) as made:
        yield made, dialler, names


def through(fetcher: Fetcher, request: str) -> str:
    """What the gate answers to a request."""
    host, _, port = fetcher.gate.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(request.encode())
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
            if b"CONNECT" in request.encode() and b"\r\n\r\n" in answer:
                break
    return answer.decode()


def test_the_gate_passes_a_plain_request_on_as_the_site_expects_it(outside, site):
    fetcher, dialler, _ = outside
    site.pages["/post"] = "<p>Hello."
    answer = through(
        fetcher, "GET http://jane.example/post HTTP/1.1\r\nHost: jane.example\r\nProxy-Connection: x\r\n\r\n"
    )
    assert answer.startswith("HTTP/1.0 200")
    assert answer.endswith("<p>Hello.")
    assert (site.asked, dialler.dialled) == (["/post"], [PUBLIC])
    assert fetcher.gate.problem("http://jane.example/") is None


def test_the_gate_opens_tunnels_for_tls(outside):
    fetcher, dialler, _ = outside
    assert through(fetcher, "CONNECT jane.example:443 HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 200 ")
    assert dialler.dialled == [PUBLIC]


@pytest.mark.parametrize(
    "request_line",
    [
        "GET http://inside.example/ HTTP/1.1",
        "CONNECT inside.example:443 HTTP/1.1",
        "CONNECT 127.0.0.1:22 HTTP/1.1",
        "CONNECT [::1]:443 HTTP/1.1",
        "GET http://169.254.169.254/latest/meta-data HTTP/1.1",
        "GET http://metadata.google.internal/ HTTP/1.1",
        "GET http://2130706433/ HTTP/1.1",
    ],
)
def test_the_gate_refuses_private_addresses(outside, request_line):
    fetcher, dialler, _ = outside
    assert through(fetcher, f"{request_line}\r\n\r\n").startswith("HTTP/1.1 403 ")
    assert dialler.dialled == []


def test_the_gate_looks_a_host_up_as_the_browser_writes_it(outside, site):
    fetcher, dialler, names = outside
    site.pages["/"] = "<p>Hello."
    names |= {"xn--strae-oqa.example": [PUBLIC], "strasse.example": [PRIVATE]}
    assert "200" in through(fetcher, "GET http://xn--strae-oqa.example/ HTTP/1.1\r\n\r\n")
    names["xn--strae-oqa.example"] = [PRIVATE]
    assert "403" in through(fetcher, "GET http://xn--strae-oqa.example/ HTTP/1.1\r\n\r\n")
    assert "private address" in str(fetcher.gate.problem("http://straße.example/"))
    assert dialler.dialled == [PUBLIC]


@pytest.mark.parametrize("request_line", ["GET / HTTP/1.1", "HELLO", "GET ftp://jane.example/ HTTP/1.1"])
def test_the_gate_is_no_server_of_its_own(outside, request_line):
    assert through(outside[0], f"{request_line}\r\n\r\n").startswith("HTTP/1.1 40")


def test_a_name_is_looked_up_for_every_connection_and_checked_each_time(outside, site):
    fetcher, dialler, names = outside
    site.pages["/"] = "<p>Hello."
    names["turning.example"] = [PUBLIC, PRIVATE]
    request = "GET http://turning.example/ HTTP/1.1\r\n\r\n"
    assert "200" in through(fetcher, request)
    assert "leads to 10.0.0.7, which is a private address" in through(fetcher, request)
    assert dialler.dialled == [PUBLIC]


def test_a_closed_gate_lets_nobody_through_and_ends_what_stands(outside):
    fetcher, _, _ = outside
    host, _, port = fetcher.gate.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"CONNECT jane.example:443 HTTP/1.1\r\n\r\n")
        assert connection.recv(1000)
        fetcher.close()
        assert connection.recv(1000) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), 5)


# --- one page -------------------------------------------------------------------------------------------------------


class Shown:
    """A browser that shows the same page whatever it is asked for, or the pages of a table by address."""

    def __init__(self, page: Rendered | ItemError | dict[str, str]) -> None:
        self.page = page
        self.asked: list[tuple[str, str | None]] = []

    def render(self, url, *, scroll=False, wait_for=None, timeout_s=None) -> Rendered:
        self.asked.append((url, wait_for))
        if isinstance(self.page, ItemError):
            raise self.page
        return Rendered(self.page[url], url, 200) if isinstance(self.page, dict) else self.page

    def close(self) -> None:
        pass


def test_a_rendered_page_is_what_a_fetched_one_would_be(fetcher):
    shown = Shown(Rendered("<meta charset=latin-1><p>Łódź", "http://127.0.0.1/x", 200))
    page = render_page("http://127.0.0.1/x", fetcher=with_robots_off(fetcher), browser=shown, now=lambda: NOW)
    assert (page.text, page.content_type) == ("<meta charset=latin-1><p>Łódź", "text/html")
    assert (page.url, page.status, page.fetched_at) == ("http://127.0.0.1/x", 200, NOW)


def with_robots_off(fetcher: Fetcher) -> Fetcher:
    fetcher.policy = dataclasses.replace(fetcher.policy, respect_robots=False)
    return fetcher


@pytest.mark.parametrize(("status", "kind"), [(404, Gone), (410, Gone), (403, HttpError), (500, HttpError)])
def test_statuses_are_the_failures_they_are_for_a_fetcher(fetcher, status, kind):
    shown = Shown(Rendered("<p>No.", "http://127.0.0.1/x", status))
    with pytest.raises(kind, match=rf"answered {status} in the browser") as caught:
        render_page("http://127.0.0.1/x", fetcher=with_robots_off(fetcher), browser=shown, now=lambda: NOW)
    assert caught.value.status == status


def test_robots_txt_decides_before_the_browser_is_asked(fetcher, site):
    site.pages["/robots.txt"] = "User-agent: *\nDisallow: /app"
    with pytest.raises(ItemError, match=r"robots.txt of 127.0.0.1 disallows /app/one") as caught:
        render_page(f"{site.url}/app/one", fetcher=fetcher, browser=Shown(ItemError("asked")), now=lambda: NOW)
    assert caught.value.skipped
    assert site.asked == ["/robots.txt"]


def test_robots_txt_decides_about_the_address_the_browser_arrived_at(fetcher, site):
    site.pages["/robots.txt"] = "User-agent: *\nDisallow: /app"
    shown = Shown(Rendered("<p>Secret.", f"{site.url}/app/two", 200))
    with pytest.raises(ItemError, match="disallows /app/two"):
        render_page(f"{site.url}/open", fetcher=fetcher, browser=shown, now=lambda: NOW)


@needs_chromium
@pytest.mark.parametrize("engine", ["playwright", "selenium"])
def test_a_redirect_or_script_that_leads_inside_is_refused_with_the_reason(outside, site, engine):
    pytest.importorskip(engine, reason=f"needs {engine}")
    fetcher, dialler, _ = outside
    site.redirects["/redirect"] = "http://inside.example/secrets"
    site.pages["/script"] = "<script>location = 'https://inside.example/secrets'</script>"
    site.pages["/asks"] = f"""<p>Mine.<img src={site.url}/loopback><script>
        fetch('http://inside.example/secrets', {{mode: 'no-cors'}});
        fetch('{site.url}/loopback', {{mode: 'no-cors'}});
        new WebSocket('ws://localhost:{site.url.rpartition(":")[2]}/loopback');
        </script><iframe src={site.url}/loopback></iframe>"""
    opened = catalog.part("browser", engine)(proxy=fetcher.gate.address, timeout_s=20)
    try:
        for path in ("/redirect", "/script"):
            with pytest.raises(ItemError, match=r"inside.example leads to 10.0.0.7, which is a private address"):
                render_page(f"http://jane.example{path}", fetcher=fetcher, browser=opened, now=lambda: NOW)
        page = render_page("http://jane.example/asks", fetcher=fetcher, browser=opened, now=lambda: NOW)
        assert "Mine." in page.text
        assert [path for path in site.asked if path in ("/secrets", "/loopback")] == []
        assert set(dialler.dialled) == {PUBLIC}
    finally:
        opened.close()


# --- the source -----------------------------------------------------------------------------------------------------


@needs_chromium
def test_an_article_that_scripts_write_becomes_a_document(context, site):
    site.pages["/posts/queues"] = article("Queues")
    source = BrowserSource.open(f"{site.url}/posts/queues", context)
    items = list(source.list())
    assert [item.key for item in items] == [f"{site.url}/posts/queues"]
    document = source.fetch(items[0])
    assert (document.title, document.author, document.source) == ("Queues", "Jane Roe", "web")
    assert "the museum had the better coffee" in document.text
    assert document.text.count("Paragraph") == 8


@needs_chromium
def test_a_site_is_followed_through_links_that_scripts_make(context, site):
    links = "".join(f"<h2><a href=/blog/{name}>{name.title()}</a></h2><p>About it." for name in ("one", "two", "three"))
    site.pages["/blog/"] = SHELL.format(title="Blog", body=links)
    for name in ("one", "two", "three"):
        site.pages[f"/blog/{name}"] = article(name.title())
    source = BrowserSource.open(f"{site.url}/blog/", context, exclude=("three",))
    items = {item.key.removeprefix(site.url): item for item in source.list()}
    assert set(items) == {"/blog/", "/blog/one", "/blog/two"}
    assert source.fetch(items["/blog/two"]).title == "Two"
    with pytest.raises(ItemError) as caught:
        source.fetch(items["/blog/"])
    assert caught.value.skipped


@needs_chromium
def test_what_is_no_page_is_fetched_and_not_rendered(context, site):
    site.pages["/sitemap.xml"] = (
        '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        f"<url><loc>{site.url}/posts/a</loc><lastmod>2024-01-02T03:04:05Z</lastmod></url></urlset>"
    )
    site.pages["/"] = "<p>Welcome."
    with_scrolling = BrowserSource.open(f"{site.url}/", context)
    without = BrowserSource.open(f"{site.url}/", context, scroll=False)
    first, second = ([item for item in each.list() if isinstance(item, Item)] for each in (with_scrolling, without))
    assert [item.key for item in first] == [f"{site.url}/posts/a"]
    assert first[0].version != second[0].version


def shown_to(fetcher: Fetcher, folder: Path, pages: dict[str, str]) -> tuple[Shown, SourceContext]:
    shown = Shown(pages)
    return shown, SourceContext("Jane Roe", folder, lambda: fetcher, lambda: NOW, lambda profile="": shown)


FEED = """<rss version="2.0"><channel><title>Jane</title><item><title>Queues</title><link>{url}</link>
<guid>1</guid><description>In short …</description></item></channel></rss>"""


def test_whoever_signed_in_gets_pages_by_the_browser_alone_and_the_feed_plainly(tmp_path, fetcher, site):
    (tmp_path / "signed-in").mkdir()
    post = f"{site.url}/blog/queues"
    site.pages["/feed.xml"] = FEED.format(url=post)
    home = "<html><link rel=alternate type=application/rss+xml href=/feed.xml><body><p>Welcome, Jane."
    article = f"<html><title>Queues</title><body><article><h1>Queues</h1>{ESSAY}</article>"
    shown, context = shown_to(fetcher, tmp_path, {f"{site.url}/blog/": home, post: article})
    source = WebSource.open(f"{site.url}/blog/", context, profile="signed-in")
    (document,) = [source.fetch(item) for item in _until_its_window_ends(source.list())]
    assert document.text.count("Paragraph") == 8
    assert shown.asked == [(f"{site.url}/blog/", None), (post, None)]
    assert not {"/blog/", "/blog/queues"} & set(site.asked)


def test_an_empty_shell_behind_a_feed_is_rendered_and_waited_for_as_any_other(tmp_path, fetcher, site):
    post = f"{site.url}/blog/queues"
    site.pages |= {"/feed.xml": FEED.format(url=post), "/blog/queues": SHELL.format(title="Queues", body="")}
    rendered = f"<html><title>Queues</title><body><article><h1>Queues</h1>{ESSAY}</article>"
    shown, context = shown_to(fetcher, tmp_path, {post: rendered})
    source = WebSource.open(f"{site.url}/feed.xml", context, wait_for="article")
    (item,) = _until_its_window_ends(source.list())
    assert source.fetch(item).text.count("Paragraph") == 8
    assert shown.asked == [(post, "article")]


def _until_its_window_ends(listed: Iterator[Item]) -> Iterator[Item]:
    try:
        yield from listed
    except PartialListing:
        return


def test_a_browser_is_asked_for_by_name_only():
    assert not BrowserSource.recognises("https://jane.example/")
    assert catalog.part("source", "browser") is BrowserSource


def test_a_profile_that_is_no_folder_names_the_line_that_makes_one(tmp_path, fetcher):
    context = SourceContext("Jane Roe", tmp_path, lambda: fetcher, lambda: NOW)
    with pytest.raises(ConfigError, match=r"'signed-in' .* is no folder; .*chromium --user-data-dir=signed-in"):
        BrowserSource.open("https://jane.example/", context, profile="signed-in")


def test_a_context_without_a_browser_says_so(tmp_path, fetcher):
    with pytest.raises(ConfigError, match="no browser is set up here"):
        SourceContext("Jane Roe", tmp_path, lambda: fetcher, lambda: NOW).browser()


@needs_chromium
def test_a_web_source_renders_the_shells_it_meets_and_no_other_page(context, site):
    links = "".join(f"<h2><a href=/blog/{name}>{name.title()}</a></h2><p>About it." for name in ("one", "two", "three"))
    site.pages["/blog/"] = SHELL.format(title="Blog", body=links)
    site.pages["/blog/one"] = article("One")
    site.pages["/blog/two"] = f"<html><title>Two</title><body><article><h1>Two</h1>{ESSAY}</article>"
    site.pages["/blog/three"] = SHELL.format(title="Three", body="")
    source = WebSource.open(f"{site.url}/blog/", context)
    documents, reasons = {}, {}
    for item in source.list():
        path = item.key.removeprefix(site.url)
        try:
            documents[path] = source.fetch(item)
        except ItemError as error:
            reasons[path] = error.reason if error.skipped else "failed"
    assert {path: document.title for path, document in documents.items()} == {"/blog/one": "One", "/blog/two": "Two"}
    assert "the museum had the better coffee" in documents["/blog/one"].text
    assert "name what to wait for with `wait_for`" in reasons["/blog/three"]
    assert [site.asked.count(f"/blog/{name}") for name in ("", "one", "two", "three")] == [2, 2, 1, 2]


# --- through the front door -----------------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("engine", ["playwright", "selenium"])
def test_a_sync_collects_a_script_built_page_and_closes_its_browser(tmp_path, site, engine):
    pytest.importorskip(engine, reason=f"needs {engine}")
    site.pages["/posts/queues"] = article("Queues")
    with Twin.init(tmp_path / "twin", author="Jane Roe") as twin:
        folder = twin.workspace.root
    (folder / "twin.toml").write_text(
        f'[author]\nname = "Jane Roe"\n[fetch]\nallow_private = true\n[browser]\nengine = "{engine}"\n'
        f'[[sources]]\nkind = "browser"\naddress = "{site.url}/posts/queues"\nscope = "page"\nwait_for = "article"\n'
    )
    with Twin.open(folder) as twin:
        report = twin.sync()
        assert (report.problems, report.documents["added"]) == ((), 1)
        assert renderers() == []
        assert twin.sync().documents["unchanged"] == 1
        assert "museum" in twin.search("coffee in a museum", method="bm25")[0].chunk.text
        gate = twin.fetcher.gate.address
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(gate.rpartition(":")[2])), 1)
