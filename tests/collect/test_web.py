"""A site on this machine: what is listed, what is asked for again, what a page becomes, and what removes nothing."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collect.site_server import Reply, Site, serve
from llm_twin import catalog
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.fetch import Fetched, Fetcher, FetchPolicy
from llm_twin.collect.page import canonical, is_archive_path, read_page
from llm_twin.collect.pipeline import CollectReport, collect
from llm_twin.collect.sources import SourceContext
from llm_twin.collect.web import WebSource
from llm_twin.core.errors import ConfigError, ItemError, MissingExtra
from llm_twin.core.ports import Browser
from llm_twin.core.records import Document
from llm_twin.features.clean import boilerplate_lines, clean
from llm_twin.twin import Twin

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
XML = "application/xml"
SENTENCE = "A queue that never drains is only a slow way of losing the work you got, and nobody thanks you for it. "


def page(title: str, body: str = "", *, head: str = "", text: str = SENTENCE * 3) -> str:
    return f"""<!doctype html><html lang="en"><head><title>{title} | Ann's site</title>{head}</head><body>
<nav><a href="/">Home</a> <a href="/about">About me</a></nav>
<article><h1>{title}</h1><p>{title}. {text}</p>{body}<p>{text}</p></article>
<footer>Subscribe to my newsletter! Share on Twitter.</footer></body></html>"""


def index(*paths: str) -> str:
    entries = "".join(f'<h2><a href="{path}">{path}</a></h2><p>{SENTENCE}</p>' for path in paths)
    return f"<html><head><title>Ann's site</title></head><body><main>{entries}</main></body></html>"


def sitemap(pages: dict[str, str | None]) -> str:
    entries = (
        f"<url><loc>{{site}}{path}</loc>{f'<lastmod>{changed}</lastmod>' if changed else ''}</url>"
        for path, changed in pages.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        f"{''.join(entries)}</urlset>"
    )


@dataclass
class Run:
    """One author's runs against one site, with one warehouse and one cache."""

    site: Site
    fetcher: Fetcher
    store: MemoryWarehouse = field(default_factory=MemoryWarehouse)
    now: datetime = NOON
    browsers_asked: int = 0

    @property
    def context(self) -> SourceContext:
        return SourceContext("Ann Lee", Path(), lambda: self.fetcher, lambda: self.now, self.no_browser)

    def no_browser(self, profile: str = "") -> Browser:
        self.browsers_asked += 1
        raise MissingExtra("the browser engine playwright", "browser", "playwright")

    def collect(self, path: str = "", **options) -> CollectReport:
        self.site.forget()
        source = WebSource.open(self.site.url + path, self.context, **options)
        return collect(source, store=self.store, redactor=None, now=lambda: self.now)

    def outcomes(self, report: CollectReport) -> dict[str, str]:
        return {state.key.removeprefix(self.site.url): state.outcome for state in report.states}

    def reasons(self, report: CollectReport) -> dict[str, str]:
        return {state.key.removeprefix(self.site.url): state.reason for state in report.states}

    def documents(self) -> dict[str, Document]:
        return {document.title: document for document in self.store.documents()}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    policy = FetchPolicy(allow_private=True, requests_per_second=1e6, retries=0)
    with serve(Site()) as site, Fetcher(cache_dir=tmp_path / "cache", policy=policy) as fetcher:
        yield Run(site, fetcher)


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("https://jane.example/", "web"),
        ("http://jane.example/blog/why-queues", "web"),
        ("https://jane.example/feed.xml", "feed"),
        ("https://jane.example/blog/rss/", "feed"),
        ("https://jane.example/?feed=rss2", "feed"),
        ("https://jane.example/posts/the-feedback", "web"),
        ("./posts", "files"),
    ],
)
def test_the_address_tells_the_kind_of_source(address: str, kind: str) -> None:
    ours = [name for name in catalog.ordered("source") if name in ("feed", "web", "files")]
    assert next(name for name in ours if catalog.part("source", name).recognises(address)) == kind


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("HTTPS://Ann.Example:443/Why?utm_source=x&id=2#part", "https://ann.example/Why?id=2"),
        ("https://ann.example", "https://ann.example/"),
        ("https://ann.example/a/", "https://ann.example/a/"),
        ("https://www.ann.example/a", "https://www.ann.example/a"),
        ("https://ann.example/a?fbclid=1&page=2", "https://ann.example/a?page=2"),
        ("https://ann.example/über", "https://ann.example/%C3%BCber"),
        ("https://ann.example/a/../b?x=1", "https://ann.example/b?x=1"),
        ("https://ann.example//other.example/b", "https://ann.example/other.example/b"),
    ],
)
def test_a_canonical_address_drops_what_identifies_nothing(address: str, key: str) -> None:
    assert canonical(address) == key


@given(st.text("abc/?&=#%.é +:", max_size=40))
@example("..")
def test_making_an_address_canonical_twice_changes_nothing(rest: str) -> None:
    try:
        once = canonical(f"https://ann.example/{rest}")
    except ItemError:
        return
    assert canonical(once) == once


@pytest.mark.parametrize("address", ["mailto:ann@ann.example", "https://", "javascript:void(0)"])
def test_what_is_no_web_address_is_refused(address: str) -> None:
    with pytest.raises(ItemError, match="no web address"):
        canonical(address)


@pytest.mark.parametrize("path", ["/tag/go/", "/category/x/page/3", "/2021/", "/2021/03/", "/page/2", "/blog/page/2"])
def test_paths_of_lists_are_known(path: str) -> None:
    assert is_archive_path(path)


@pytest.mark.parametrize(
    "path", ["/", "/2021/03/04/why-queues", "/category/go/why-queues", "/tagging", "/archives/7", "/years/2021"]
)
def test_paths_of_articles_are_not_taken_for_lists(path: str) -> None:
    assert not is_archive_path(path)


# --- a page ---------------------------------------------------------------------------------------------------------


RICH = """<h2>The code</h2><pre><code class="language-go">func pop() {

\treturn nil // *not* _yet_
}</code></pre><blockquote><p>Queues hide problems.</p></blockquote>
<ul><li>First they grow.</li><li>Then they <a href="/stall">stall</a>.</li></ul>
<table><tr><th>Day</th><th>Length</th></tr><tr><td>Monday</td><td>17</td></tr></table>"""
HEAD = """<meta name="author" content="Ann Lee"><link rel="canonical" href="/why?utm_source=feed">
<meta property="article:published_time" content="2021-03-04T10:00:00Z">"""


def test_an_article_becomes_one_document_with_everything_its_author_wrote(run: Run) -> None:
    run.site.pages["/why"] = page("Why queues", RICH, head=HEAD)
    report = run.collect("/why?utm_campaign=mail")
    assert run.outcomes(report) == {"/why": "added"}
    document = run.documents()["Why queues"]
    assert (document.author, document.source, document.kind, document.language) == ("Ann Lee", "web", "article", "en")
    assert document.url == f"{run.site.url}/why"
    assert document.published_at == datetime(2021, 3, 4, tzinfo=UTC)
    assert "```go\nfunc pop() {\n\n\treturn nil // *not* _yet_\n}\n```" in document.text
    for kept in ("## The code", "> Queues hide problems.", "- First they grow.", "/stall)", "| Monday | 17 |"):
        assert kept in document.text
    for left in ("# Why queues\n", "About me", "Subscribe", "Share on"):
        assert left not in document.text


def test_a_page_collected_again_is_asked_for_conditionally(run: Run) -> None:
    run.site.pages["/why"] = page("Why queues")
    run.collect("/why")
    assert run.outcomes(run.collect("/why")) == {"/why": "unchanged"}
    assert ("/why", 304) in run.site.requests
    run.site.pages["/why"] = page("Why queues", "<p>They grow.</p>")
    assert run.outcomes(run.collect("/why")) == {"/why": "updated"}


def test_the_page_is_asked_for_once_in_a_run(run: Run) -> None:
    run.site.pages["/why"] = page("Why queues")
    run.collect("/why")
    assert run.site.asked()["/why"] == 1


def test_one_broken_link_costs_nothing_but_that_link(run: Run) -> None:
    run.site.pages["/why"] = page("Why queues", '<p>As I <a href="http://[said]/x">said</a> before.</p>')
    assert run.outcomes(run.collect("/why")) == {"/why": "added"}
    assert "before." in run.documents()["Why queues"].text


@pytest.mark.parametrize(
    "sentence",
    ["队列要么是满的，要么是空的，指望中间状态的计划属于博物馆。", "คิวเต็มหรือว่างเปล่า และแผนที่นับช่วงเวลาระหว่างนั้นไม่มีอยู่จริง"],
)
def test_an_article_in_a_script_without_spaces_is_neither_a_shell_nor_a_note(run: Run, sentence: str) -> None:
    html = f"<html><head><title>Q</title><script>x()</script></head><body><article><h1>Q</h1>{'<p>' + sentence * 3}"
    run.site.pages["/q"] = html + f"<p>{sentence * 4}</article></body></html>"
    assert run.outcomes(run.collect("/q", scope="page")) == {"/q": "added"}
    assert (run.browsers_asked, run.documents()["Q"].kind) == (0, "article")


def test_a_guest_is_the_author_of_their_page_and_software_is_not(run: Run) -> None:
    run.site.pages["/guest"] = page("Guests", head='<meta name="author" content="Joe Doe">')
    run.site.pages["/own"] = page("Own", head='<meta name="author" content="admin">')
    run.collect("/guest")
    run.collect("/own")
    assert {title: document.author for title, document in run.documents().items()} == {
        "Guests": "Joe Doe",
        "Own": "Ann Lee",
    }


def test_a_canonical_address_that_is_the_front_page_is_not_believed(run: Run) -> None:
    run.site.pages["/why"] = page("Why", head='<link rel="canonical" href="{site}/">')
    run.collect("/why")
    assert run.documents()["Why"].url == f"{run.site.url}/why"


@pytest.mark.parametrize(
    ("html", "outcome", "reason"),
    [
        ("<title>Just a moment...</title><p>Verify you are human</p><script>x()</script>", "failed", "bot check"),
        ("<p>Log in to continue</p><form><input type='password'></form>", "skipped", "sign-in"),
        ("<div id='app'></div><script>render()</script>", "skipped", "no browser can render it"),
        (index("/a", "/b", "/c"), "skipped", "list of links"),
        (
            page("Tags", head='<script type="application/ld+json">{"@type": "CollectionPage"}</script>'),
            "skipped",
            "list",
        ),
    ],
)
def test_what_is_no_article_ends_with_its_reason(run: Run, html: str, outcome: str, reason: str) -> None:
    run.site.pages["/x"] = html
    (state,) = run.collect("/x", scope="page").states
    assert state.outcome == outcome
    assert reason in state.reason


def test_a_bot_check_in_the_place_of_an_article_keeps_what_was_collected(run: Run) -> None:
    run.site.pages["/why"] = page("Why queues")
    run.collect("/why")
    run.site.pages["/why"] = "<title>Just a moment...</title><p>Checking your browser</p>"
    assert run.outcomes(run.collect("/why", scope="page")) == {"/why": "failed"}
    assert "Why queues" in run.documents()


def test_an_article_with_boxes_of_other_articles_around_it_is_an_article(run: Run) -> None:
    boxes = "".join(f'<div><h3><a href="/{n}">Post {n}</a></h3></div>' for n in range(9))
    run.site.pages["/why"] = page("Why queues").replace("<footer>", f"{boxes}<footer>")
    assert run.outcomes(run.collect("/why", scope="page")) == {"/why": "added"}


def test_an_article_that_its_template_cut_into_pieces_is_whole(run: Run) -> None:
    pieces = "".join(f'<div class="row"><div class="text"><p>Part {n}. {SENTENCE}</p></div></div>' for n in range(6))
    run.site.pages["/why"] = f"<html><body><main><h1>Why</h1>{pieces}</main></body></html>"
    run.collect("/why", scope="page")
    (document,) = run.store.documents()
    assert [f"Part {n}." in document.text for n in range(6)] == [True] * 6


def test_boxes_go_and_an_article_in_a_container_of_such_a_name_stays(run: Run) -> None:
    box = (
        "<div class='newsletter-box'><p>Pick a letter from us.</p></div><p class='read-more'>Go <a href='/b'>on</a></p>"
    )
    pointer = "<p><strong>Read more:</strong> <a href='/c'>Stacks, explained</a></p>"
    article = (
        f"<div class='entry-content read-more'><p>One. {SENTENCE * 4}</p><p>Two. {SENTENCE * 4}</p>{box}{pointer}</div>"
    )
    menu = "".join(f"<div>Menu {n} with words</div>" for n in range(400))
    run.site.pages["/why"] = f"<html><body><h1>Why</h1>{article}<nav>{menu}</nav></body></html>"
    run.collect("/why", scope="page")
    (document,) = run.store.documents()
    assert document.text == f"One. {SENTENCE * 4}".strip() + "\n\n" + f"Two. {SENTENCE * 4}".strip()


def test_a_list_of_the_authors_own_links_stays(run: Run) -> None:
    run.site.pages["/why"] = page("Why", "<p>I like these:</p><ul><li><a href='/a'>Heaps</a></li><li>Tries</li></ul>")
    run.collect("/why", scope="page")
    (document,) = run.store.documents()
    assert f"I like these:\n\n- [Heaps]({run.site.url}/a)\n- Tries" in document.text


def test_what_is_not_there_passes_on_what_the_server_said(run: Run) -> None:
    (state,) = run.collect("/nothing", scope="page").states
    assert (state.outcome, "404" in state.reason) == ("failed", True)


@given(st.text("<>/!-pdiv articletableblockquoteprecodescript=\"' &;\x0c\x00é", max_size=300))
def test_no_page_whatsoever_breaks_a_run(html: str) -> None:
    answer = Fetched("https://ann.example/x", 200, {}, html.encode(), "text/html", False, NOON)
    with suppress(ItemError):
        assert read_page(answer).text


# --- a site with a sitemap ------------------------------------------------------------------------------------------


def blog(run: Run, count: int, changed: str | None = "2024-05-06T07:08:09Z") -> None:
    """A site of `count` posts behind robots.txt, a sitemap index and a packed sitemap."""
    paths = [f"/posts/{number}/" for number in range(count)]
    run.site.pages.update({path: page(f"Post {path.split('/')[2]}") for path in paths})
    run.site.pages["/"] = index(*paths[:3])
    run.site.pages["/robots.txt"] = Reply(
        f"User-agent: *\nAllow: /\nSitemap: {run.site.url}/sitemaps.xml\n".encode(), "text/plain"
    )
    run.site.pages["/sitemaps.xml"] = Reply(
        f"<sitemapindex><sitemap><loc>{run.site.url}/posts.xml.gz</loc></sitemap></sitemapindex>".encode(), XML
    )
    list_pages(run, dict.fromkeys(paths, changed))


def list_pages(run: Run, pages: dict[str, str | None]) -> None:
    packed = gzip.compress(sitemap(pages).replace("{site}", run.site.url).encode(), mtime=0)
    run.site.pages["/posts.xml.gz"] = Reply(packed, "application/x-gzip")


def posts_asked(run: Run) -> dict[str, int]:
    return {path: count for path, count in run.site.asked().items() if path.startswith("/posts/")}


def test_a_large_site_is_read_once_and_then_not_asked_for_any_page(run: Run) -> None:
    blog(run, 500)
    report = run.collect()
    assert (report.counts["added"], report.problem) == (500, None)
    assert posts_asked(run) == {f"/posts/{number}/": 1 for number in range(500)}
    again = run.collect()
    assert again.counts["unchanged"] == 500
    assert run.site.requests == [
        ("/", 304),
        ("/robots.txt", 304),
        ("/sitemaps.xml", 304),
        ("/posts.xml.gz", 304),
    ]


def test_a_changed_date_fetches_that_page_and_a_page_not_listed_any_more_goes(run: Run) -> None:
    blog(run, 4)
    run.collect()
    run.site.pages["/posts/1/"] = page("Post 1", "<p>They grow.</p>")
    list_pages(run, {"/posts/0/": "2024-05-06T07:08:09Z", "/posts/1/": "2024-06-01T00:00:00Z", "/posts/2/": None})
    report = run.collect()
    assert run.outcomes(report) == {
        "/posts/0/": "unchanged",
        "/posts/1/": "updated",
        "/posts/2/": "unchanged",
        "/posts/3/": "removed",
    }
    assert posts_asked(run) == {"/posts/1/": 1, "/posts/2/": 1}
    assert ("/posts/2/", 304) in run.site.requests


def test_a_date_without_a_time_is_trusted_once_the_day_is_over(run: Run) -> None:
    blog(run, 1, "2026-03-14")
    run.collect()
    run.collect()
    assert posts_asked(run) == {"/posts/0/": 1}
    run.now = NOON + timedelta(days=3)
    run.collect()
    assert posts_asked(run) == {"/posts/0/": 1}
    run.collect()
    assert posts_asked(run) == {}


@pytest.mark.parametrize("broken", [Reply(b"no", "text/plain", 500), Reply(b"<urlset><url><loc>http://", XML)])
def test_a_sitemap_that_cannot_be_read_removes_nothing(run: Run, broken: Reply) -> None:
    blog(run, 3)
    run.collect()
    run.site.pages["/posts.xml.gz"] = broken
    report = run.collect()
    assert "sitemaps could not be read" in (report.problem or "")
    assert len(run.documents()) == 3


def test_more_pages_than_the_limit_are_a_problem_and_remove_nothing(run: Run) -> None:
    blog(run, 5)
    run.collect()
    report = run.collect(max_pages=2)
    assert "more than 2 pages; raise max_pages" in (report.problem or "")
    assert len(run.documents()) == 5


def test_prefix_and_patterns_choose_pages_and_lists_are_not_asked_for(run: Run) -> None:
    paths = ["/blog/a", "/blog/wip/b", "/blog/tag/go/", "/shop/c", "/blog/d.pdf", "/blogroll", "/blog/2021/"]
    run.site.pages.update({path: page(path) for path in paths})
    run.site.pages["/"] = run.site.pages["/blog"] = index("/blog/a", "/blog/wip/b", "/shop/c")
    run.site.pages["/sitemap.xml"] = Reply(
        sitemap(dict.fromkeys([*paths, "/blog/a?utm_source=x"])).replace("{site}", run.site.url).encode(), XML
    )
    report = run.collect("/blog", exclude=("wip/",))
    assert run.outcomes(report) == {"/blog/a": "added", "/blog/tag/go/": "skipped", "/blog/2021/": "skipped"}
    assert run.site.asked()["/blog/tag/go/"] == 0
    run.store = MemoryWarehouse()
    assert run.outcomes(run.collect(include=("shop/",))) == {"/shop/c": "added"}
    run.store = MemoryWarehouse()
    assert run.outcomes(run.collect(prefix="/shop/")) == {"/shop/c": "added"}


def test_a_bare_ampersand_in_a_sitemap_does_not_spoil_the_address(run: Run) -> None:
    run.site.pages["/"] = index("/a")
    run.site.pages["/x?a=1&b=2"] = page("Two parameters")
    listed = f"<urlset><url><loc>{run.site.url}/x?a=1&b=2</loc></url></urlset>"
    run.site.pages["/sitemap.xml"] = Reply(listed.encode(), XML)
    assert run.outcomes(run.collect()) == {"/x?a=1&b=2": "added"}


def test_a_broken_address_in_a_sitemap_is_reported_and_costs_no_other(run: Run) -> None:
    run.site.pages |= {"/": index("/a"), "/a": page("A")}
    listed = f"<urlset><url><loc>http://[a</loc></url><url><loc>{run.site.url}/a</loc></url></urlset>"
    run.site.pages["/sitemap.xml"] = Reply(listed.encode(), XML)
    report = run.collect()
    assert (run.outcomes(report), report.problem) == ({"http://[a": "skipped", "/a": "added"}, None)
    assert "is no web address" in run.reasons(report)["http://[a"]


def test_a_broken_address_of_a_sitemap_in_robots_txt_is_a_problem_and_no_crash(run: Run) -> None:
    run.site.pages |= {"/": index("/a"), "/robots.txt": Reply(b"Sitemap: http://[a\n", "text/plain")}
    assert "which is no host name; correct it" in (run.collect().problem or "")


def test_interface_that_recurs_over_the_pages_is_cleaned_away(run: Run) -> None:
    blog(run, 6)
    share = '<p>Subscribe</p><p>Share this post</p><p><a href="/s">Copy link</a></p>'
    for number in range(6):
        run.site.pages[f"/posts/{number}/"] = page(f"Post {number}", share)
    run.collect()
    documents = list(run.store.documents())
    assert all("Share this post" in document.text for document in documents)
    found = boilerplate_lines(documents)
    cleaned = [clean(document, found).text for document in documents]
    assert [("Share this post" in text, "A queue that never" in text) for text in cleaned] == [(False, True)] * 6


# --- a site with a feed, and one with neither -----------------------------------------------------------------------


def rss(*paths: str) -> Reply:
    items = "".join(
        f"<item><title>Post {path}</title><link>{path}</link><guid isPermaLink='false'>{path}</guid>"
        f"<description>In short …</description></item>"
        for path in paths
    )
    return Reply(f'<rss version="2.0"><channel><title>Ann</title>{items}</channel></rss>'.encode(), "text/xml")


def test_a_site_without_sitemap_is_read_through_the_feed_it_announces(run: Run) -> None:
    link = '<link rel="alternate" type="application/rss+xml" title="Posts" href="/feed">'
    comments = '<link rel="alternate" type="application/rss+xml" title="Comments" href="/comments/feed">'
    broken = '<link rel="alternate" type="application/rss+xml" href="http://[feed">'
    run.site.pages["/"] = index("/a").replace("</head>", f"{broken}{comments}{link}</head>")
    run.site.pages |= {"/a": page("A"), "/b": page("B"), "/feed": rss("/a", "/b")}
    assert run.outcomes(run.collect()) == {"/a": "added", "/b": "added"}
    run.site.pages["/feed"] = rss("/b")
    report = run.collect()
    assert (run.outcomes(report), report.problem) == ({"/b": "unchanged", "/a": "unchanged"}, None)
    assert len(run.documents()) == 2
    assert {document.source for document in run.store.documents()} == {"web"}


def test_an_address_that_answers_with_a_feed_is_read_as_one(run: Run) -> None:
    run.site.pages |= {"/a": page("A"), "/latest": rss("/a")}
    assert run.outcomes(run.collect("/latest")) == {"/a": "added"}


def links(*targets: str) -> str:
    return "".join(f'<p><a href="{target}">{target}</a></p>' for target in targets)


def test_a_site_with_neither_is_read_by_following_links(run: Run) -> None:
    run.site.pages["/"] = index("/a", "/b/", "/c")
    run.site.pages["/a"] = page("A", links("/d", "/b", "https://elsewhere.example/x", "/photo.jpg", "/a#part"))
    run.site.pages |= {"/b/": page("B"), "/c": page("C"), "/d": page("D", links("/tag/go", "/?s=queue"))}
    run.site.pages["/tag/go"] = index("/a", "/e")
    run.site.pages["/e"] = page("E")
    report = run.collect()
    assert report.problem is None
    assert run.outcomes(report) == {
        "/": "skipped", "/a": "added", "/b/": "added", "/c": "added", "/d": "added", "/tag/go": "skipped",
        "/about": "failed", "/e": "added",
    }  # fmt: skip
    assert max(run.site.asked().values()) == 1 + ("/robots.txt" in run.site.asked())
    again = run.collect()
    assert again.counts["unchanged"] == 5
    assert run.site.statuses()[200] == 0


def contents(markup: str) -> str:
    """A page with the titles of eight posts, in one of the ways in which blogs write it."""
    entries = "".join(
        markup.format(link=f'<a href="/blog/{n}/">Why the queue number {n} was drained too late</a>') for n in range(8)
    )
    return f"""<!doctype html><html><head><title>Posts</title></head><body>
<nav><a href="/">Home</a> <a href="/about/">About</a></nav><main><h1>Posts</h1>{entries}</main></body></html>"""


@pytest.mark.parametrize(
    "markup",
    [
        "<li>{link} <time>2019-03-04</time></li>",
        "<li>2019-03-04 » {link}</li>",
        "<div class='post'>{link}<div class='meta'>4 Mar 2019 · 5 min read · queues</div></div>",
        "<tr><td>4 March 2019</td><td>{link}</td></tr>",
        "<p>{link} (2019-03-04)</p>",
        f"<li>{{link}}<p>{SENTENCE}</p></li>",
    ],
)
def test_an_address_that_lists_the_posts_below_it_is_their_site(run: Run, markup: str) -> None:
    run.site.pages["/blog/"] = contents(markup)
    run.site.pages |= {f"/blog/{n}/": page(f"Queue {n}") for n in range(8)}
    run.collect("/blog/")
    assert {f"Queue {n}" for n in range(8)} <= set(run.documents())


@pytest.mark.parametrize("markup", ["<li>{link} <time>2019-03-04</time></li>", "<div>{link}<p>5 min read</p></div>"])
def test_a_list_of_titles_in_a_sitemap_is_no_article(run: Run, markup: str) -> None:
    blog(run, 3)
    run.site.pages["/all/"] = contents(markup)
    list_pages(run, dict.fromkeys(["/posts/0/", "/posts/1/", "/all/"]))
    assert run.outcomes(run.collect()) == {"/posts/0/": "added", "/posts/1/": "added", "/all/": "skipped"}


def test_an_article_beside_the_titles_of_all_others_is_one_page(run: Run) -> None:
    titles = "".join(
        f"<li><a href='/blog/{n}/'>Why the queue number {n} was drained too late</a></li>" for n in range(8)
    )
    run.site.pages["/blog/3/"] = page("Queue 3").replace("<footer>", f"<aside><ul>{titles}</ul></aside><footer>")
    assert run.outcomes(run.collect("/blog/3/")) == {"/blog/3/": "added"}


def test_a_page_of_links_to_other_sites_is_something_to_read(run: Run) -> None:
    links_out = "".join(f"<li><a href='https://o{n}.example/'>{SENTENCE}</a> I liked it well.</li>" for n in range(6))
    run.site.pages["/week"] = page("Links of the week", f"<ul>{links_out}</ul>")
    assert run.outcomes(run.collect("/week")) == {"/week": "added"}


def test_odd_pages_on_the_way_end_by_themselves(run: Run) -> None:
    run.site.pages["/"] = index("/a", "/empty", "/odd").replace("<main>", '<base href="http://[bad"><main>')
    run.site.pages["/a"] = page("A")
    run.site.pages["/empty"] = ""
    run.site.pages["/odd"] = page("Odd", "<pre>\x0cx\x01</pre><a href='http://[bad'>x</a>")
    report = run.collect()
    assert report.problem is None
    assert [run.outcomes(report)[path] for path in ("/a", "/empty", "/odd")] == ["added", "skipped", "added"]


def test_a_page_that_cannot_be_read_on_the_way_removes_nothing(run: Run) -> None:
    run.site.pages |= {"/": index("/a", "/b", "/c"), "/a": page("A", links("/d")), "/b": page("B"), "/c": page("C")}
    run.site.pages["/d"] = page("D")
    run.collect()
    run.site.pages["/a"] = Reply(b"oh", "text/plain", 500)
    report = run.collect()
    assert run.outcomes(report)["/a"] == "failed"
    assert "1 pages could not be read" in (report.problem or "")
    assert set(run.documents()) == {"A", "B", "C", "D"}


def test_following_links_ends_at_the_limit(run: Run) -> None:
    run.site.pages["/"] = index("/0", "/1", "/2")
    run.site.pages |= {f"/{n}": page(f"N{n}", links(f"/{n + 1}", f"/{n + 2}")) for n in range(30)}
    report = run.collect(max_pages=10)
    assert "more than 10 pages" in (report.problem or "")
    assert len(run.site.asked()) < 20


SHELL = "<title>App</title><div id='app'></div><script>render()</script>"


def test_without_a_browser_an_empty_shell_is_skipped_with_what_to_install(run: Run) -> None:
    run.site.pages |= {"/": index("/a", "/b", "/c"), "/a": page("A"), "/b": SHELL, "/c": SHELL}
    report = run.collect()
    assert (run.outcomes(report)["/a"], run.outcomes(report)["/b"], report.problem) == ("added", "skipped", None)
    assert "no browser can render it: the browser engine playwright needs the package" in run.reasons(report)["/b"]
    assert "pip install 'llm-twin[browser]'" in run.reasons(report)["/c"]
    assert run.browsers_asked == 1


def test_no_browser_is_asked_for_where_every_page_has_text_or_none_would_help(run: Run) -> None:
    run.site.pages |= {"/": index("/a", "/b", "/c"), "/a": page("A", "<script>x()</script>"), "/c": ""}
    run.site.pages["/b"] = "<title>Just a moment...</title><p>Verify you are human</p><script>x()</script>"
    run.collect()
    assert run.browsers_asked == 0


def test_a_page_that_became_a_shell_keeps_its_document_and_its_links_remove_nothing(run: Run) -> None:
    run.site.pages |= {"/": index("/a", "/b", "/c"), "/a": page("A", links("/d")), "/b": page("B"), "/c": page("C")}
    run.site.pages["/d"] = page("D")
    run.collect()
    run.site.pages["/a"] = SHELL
    assert run.outcomes(run.collect())["/a"] == "failed"
    assert set(run.documents()) == {"A", "B", "C", "D"}


def test_a_shell_of_a_sitemap_is_asked_for_again_although_its_date_is_the_same(run: Run) -> None:
    run.site.pages |= {"/sitemap.xml": sitemap({"/a": "2024-01-02T03:04:05Z"}), "/": index(), "/a": SHELL}
    assert run.outcomes(run.collect()) == {"/a": "skipped"}
    run.site.pages["/a"] = page("A")
    assert run.outcomes(run.collect()) == {"/a": "added"}


def test_a_section_that_cannot_be_read_removes_nothing(run: Run) -> None:
    blog(run, 3)
    run.collect()
    run.site.pages["/"] = Reply(b"oh", "text/plain", 503)
    report = run.collect()
    assert "503" in (report.problem or "")
    assert len(run.documents()) == 3


def test_what_cannot_be_opened_says_why() -> None:
    context = SourceContext("Ann Lee", Path(), lambda: None, lambda: NOON)
    with pytest.raises(ConfigError, match=r"max_pages of .* is 0"):
        WebSource.open("https://ann.example", context, max_pages=0)
    with pytest.raises(ConfigError, match="no web address"):
        WebSource.open("https://", context)


def test_a_password_in_an_address_is_refused_before_anything_shows_it() -> None:
    context = SourceContext("Ann Lee", Path(), lambda: None, lambda: NOON)
    with pytest.raises(ConfigError, match=r"ann\.example carries a user name or password") as caught:
        WebSource.open("https://ann:secret@ann.example/", context)
    assert "secret" not in str(caught.value)


def test_an_address_with_brackets_for_a_host_says_what_to_correct(tmp_path: Path) -> None:
    with (
        Twin.init(tmp_path, author="Ann Lee") as twin,
        pytest.raises(ConfigError, match=r"'https://\[you\].example/' has no address that can be read: .*; correct it"),
    ):
        twin.sync(["https://[you].example/"])
