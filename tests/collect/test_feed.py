"""Feeds of every format become posts; a window onto the latest removes nothing, and the page is read when need be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collect.site_server import Reply, Site, serve
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.feed import Entry, Feed, FeedSource, is_full, parse, reading_of
from llm_twin.collect.fetch import Fetched, Fetcher, FetchPolicy
from llm_twin.collect.pipeline import CollectReport, collect
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError, SourceError
from llm_twin.core.records import Document, Item

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
SENTENCE = "A queue that never drains is only a slow way of losing the work you got, and nobody thanks you for it. "
FULL = (
    f"<p>{SENTENCE * 3}</p><pre><code class='language-py'>def pop():\n\n    return 1\n</code></pre><p>That is all.</p>"
)
PAGE = f"""<html><head><title>On queues | Ann</title></head>
<body><article><p>The page. {SENTENCE * 4}</p></article></body></html>"""

RSS2 = """<?xml version="1.0"?><rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"
xmlns:dc="http://purl.org/dc/elements/1.1/"><channel><title>Ann</title><language>en-GB</language><item>
<title>On &amp;amp; off queues</title><link>https://ann.example/queues?utm_source=rss</link>
<guid isPermaLink="false">q1</guid><dc:creator>Ann Lee</dc:creator><category>queues</category>
<pubDate>Thu, 04 Mar 2021 11:00:00 +0100</pubDate><description>In short</description>
<content:encoded><![CDATA[{full}]]></content:encoded></item></channel></rss>"""
RSS1 = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:content="http://purl.org/rss/1.0/modules/content/">
<channel rdf:about="https://ann.example/"><title>Ann</title><dc:language>en</dc:language></channel>
<item rdf:about="q1"><title>On &amp;amp; off queues</title><link>https://ann.example/queues</link>
<dc:creator>Ann Lee</dc:creator><dc:subject>queues</dc:subject><dc:date>2021-03-04T10:00:00Z</dc:date>
<content:encoded><![CDATA[{full}]]></content:encoded></item></rdf:RDF>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="en" xml:base="https://ann.example/"><title>Ann</title>
<author><name>Ann Lee</name></author><entry><id>q1</id>
<title type="html">On &amp;amp; off &lt;b&gt;queues&lt;/b&gt;</title>
<link href="queues#top"/><category term="queues"/><published>2021-03-04T10:00:00Z</published>
<updated>2022-01-01T00:00:00Z</updated><summary>In short</summary>
<content type="html"><![CDATA[{full}]]></content></entry></feed>"""
JSON_FEED = json.dumps(
    {
        "version": "https://jsonfeed.org/version/1.1",
        "title": "Ann",
        "language": "en-GB",
        "authors": [{"name": "Ann Lee"}],
        "items": [
            {
                "id": "q1",
                "url": "https://ann.example/queues",
                "title": "On & off queues",
                "tags": ["queues"],
                "date_published": "2021-03-04T10:00:00Z",
                "content_html": FULL,
            }
        ],
    }
)
FORMATS = {
    "rss2": (RSS2.replace("{full}", FULL), "application/rss+xml"),
    "rss1": (RSS1.replace("{full}", FULL), "application/rdf+xml"),
    "atom": (ATOM.replace("{full}", FULL), "application/atom+xml"),
    "json": (JSON_FEED, "application/feed+json"),
}


def answer(content: str | bytes, content_type: str = "application/xml", **headers: str) -> Fetched:
    data = content.encode() if isinstance(content, str) else content
    return Fetched("https://ann.example/feed", 200, headers, data, content_type, False, NOON)


def channel(*items: str, head: str = "") -> Reply:
    namespaces = 'xmlns:atom="http://www.w3.org/2005/Atom" xmlns:fh="http://purl.org/syndication/history/1.0"'
    text = f'<rss version="2.0" {namespaces}><channel><title>Ann</title>{head}{"".join(items)}</channel></rss>'
    return Reply(text.encode(), "application/rss+xml")


def item(number: int, description: str = FULL + f"<p>{SENTENCE * 10}</p>", link: str | None = None) -> str:
    link = link or f"/posts/{number}"
    return (
        f'<item><guid isPermaLink="false">post-{number}</guid><title>Post {number}</title><link>{link}</link>'
        f"<description><![CDATA[{description}]]></description></item>"
    )


@dataclass
class Run:
    """One author's runs against one feed, with one warehouse and one cache."""

    site: Site
    fetcher: Fetcher
    store: MemoryWarehouse = field(default_factory=MemoryWarehouse)

    def collect(self, path: str = "/feed", *, days: int = 0, **options) -> CollectReport:
        self.site.forget()
        context = SourceContext("Ann Lee", Path(), lambda: self.fetcher, lambda: NOON)
        source = FeedSource.open(self.site.url + path, context, **options)
        return collect(source, store=self.store, redactor=None, now=lambda: NOON + timedelta(days=days))

    def outcomes(self, report: CollectReport) -> dict[str, str]:
        return {state.key: state.outcome for state in report.states}

    def documents(self) -> dict[str, Document]:
        return {document.title: document for document in self.store.documents()}

    def asked(self) -> list[tuple[str, int]]:
        return [request for request in self.site.requests if request[0] != "/robots.txt"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    policy = FetchPolicy(allow_private=True, requests_per_second=1e6, retries=0)
    with serve(Site()) as site, Fetcher(cache_dir=tmp_path / "cache", policy=policy) as fetcher:
        yield Run(site, fetcher)


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_the_same_post(name: str) -> None:
    (entry,) = parse(answer(*FORMATS[name])).entries
    reading = reading_of(entry)
    assert (reading.title, reading.url) == ("On & off queues", "https://ann.example/queues")
    assert (reading.authors, reading.tags, reading.language) == (("Ann Lee",), ("queues",), "en")
    assert reading.published_at == datetime(2021, 3, 4, 10, tzinfo=UTC)
    assert reading.text.startswith("A queue that never drains")
    assert "```py\ndef pop():\n\n    return 1\n```\n\nThat is all." in reading.text
    assert is_full(entry)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.removesuffix("</channel></rss>"),
        lambda text: text.replace("<title>Ann</title>", "<title>Ann & Bob &nbsp; \x0c</title>"),
        lambda text: "\n\n" + text,
        lambda text: text.replace("</item>", "<b>not closed</item>"),
    ],
)
def test_a_malformed_feed_is_read_all_the_same(damage) -> None:
    (entry,) = parse(answer(damage(FORMATS["rss2"][0]))).entries
    assert (entry.key, entry.title) == ("q1", "On & off queues")


def test_umlauts_survive_a_feed_that_is_served_as_text_without_a_charset() -> None:
    text = FORMATS["rss2"][0].replace("On &amp;amp; off queues", "Über Schlangen")
    (entry,) = parse(answer(text, "text/xml", **{"content-type": "text/xml"})).entries
    assert entry.title == "Über Schlangen"
    latin = text.replace('version="1.0"?', 'version="1.0" encoding="iso-8859-1"?').encode("latin-1")
    assert parse(answer(latin)).entries[0].title == "Über Schlangen"


def test_plain_text_content_keeps_its_characters() -> None:
    feed = {"version": "https://jsonfeed.org/version/1", "items": [{"id": 7, "content_text": "a < b\n\n*c* & d"}]}
    (entry,) = parse(answer(json.dumps(feed), "application/json")).entries
    assert (entry.key, reading_of(entry).text) == ("7", "a < b\n\n*c* & d")


@pytest.mark.parametrize("content", ["<html><body><p>Hello</p></body></html>", "", "{}", '{"items": [', "feed.py"])
def test_what_is_no_feed_says_so(content: str) -> None:
    with pytest.raises(SourceError, match="address of"):
        parse(answer(content, "text/html"))


@given(st.text("<>/![]- rsschannelitemdescription=\"'&;\x0c{}:é", max_size=200))
def test_no_feed_whatsoever_breaks_a_run(rest: str) -> None:
    for text in (rest, f'<rss version="2.0"><channel><item><description>{rest}', f'{{"items": [{rest}'):
        with suppress(SourceError):
            for entry in parse(answer(text)).entries:
                assert entry.key
                reading_of(entry)


def test_a_feed_cannot_name_files_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("top secret")
    bomb = f'<!DOCTYPE rss [<!ENTITY x SYSTEM "file://{secret}">]>' + FORMATS["rss2"][0].partition("?>")[2]
    feed = parse(answer(bomb.replace("On &amp;amp; off queues", "T &x;")))
    assert "top secret" not in str(feed)
    with pytest.raises(SourceError):
        parse(answer(str(secret)))


def test_real_feeds_are_read_and_have_text(data_dir: Path) -> None:
    fragments = "FirstEntry"  # single entries cut out of a feed, as another project's fixtures
    files = [
        path
        for path in sorted((data_dir / "feeds-real").iterdir())
        if path.name != "SOURCE.json" and fragments not in path.name
    ]
    texts = 0
    for path in files:
        feed: Feed = parse(answer(path.read_bytes(), "application/json" if path.suffix == ".json" else ""))
        assert len({entry.key for entry in feed.entries}) == len(feed.entries) or "codehollow" in path.name
        texts += sum(bool(reading_of(entry).text) for entry in feed.entries[:3])
    assert (len(files) >= 80, texts >= 200) == (True, True)


# --- what is full, and what is a teaser -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "is_content", "full"),
    [
        (FULL, True, True),
        (f"<p>{SENTENCE * 20}</p>", False, True),
        ("<p>In short.</p>", True, True),
        ("<p>In short.</p>", False, False),
        (f"<p>{SENTENCE * 20} […]</p>", True, False),
        (f"<p>{SENTENCE * 20}</p><p><a href='/x'>Continue reading <em>On queues</em></a></p>", True, False),
        (f"{FULL}<p>The post <a href='/x'>On queues…</a> appeared first on <a href='/'>Ann</a>.</p>", True, True),
        ("", True, False),
    ],
)
def test_content_is_full_unless_it_is_cut_short(html: str, is_content: bool, full: bool) -> None:
    assert is_full(Entry("q1", "https://ann.example/q", "On queues", html, is_content)) == full


def test_the_line_for_copiers_is_not_the_authors(run: Run) -> None:
    line = '<p>The post <a href="/posts/1">Post 1</a> appeared first on <a href="/">Ann</a>.</p>'
    run.site.pages["/feed"] = channel(item(1, f"<p>{SENTENCE * 15}</p>{line}"))
    run.collect()
    assert run.documents()["Post 1"].text == (SENTENCE * 15).strip()


def test_the_page_is_read_where_the_feed_has_a_teaser_only(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(1), item(2, "In short …"))
    run.site.pages |= {"/posts/1": PAGE, "/posts/2": PAGE}
    report = run.collect()
    assert run.outcomes(report) == {"post-1": "added", "post-2": "added"}
    assert run.asked() == [("/feed", 200), ("/posts/2", 200)]
    documents = run.documents()
    assert documents["Post 1"].text.startswith("A queue")
    assert documents["Post 2"].text.startswith("The page.")
    assert {document.url for document in documents.values()} == {f"{run.site.url}/posts/{n}" for n in (1, 2)}


@pytest.mark.parametrize(("full_text", "begins", "asked"), [("feed", "In short", 0), ("page", "The page.", 1)])
def test_full_text_says_where_the_text_comes_from(run: Run, full_text: str, begins: str, asked: int) -> None:
    run.site.pages |= {"/feed": channel(item(1, "In short …")), "/posts/1": PAGE}
    run.collect(full_text=full_text)
    assert run.documents()["Post 1"].text.startswith(begins)
    assert run.site.asked()["/posts/1"] == asked


def test_a_page_that_is_gone_fails_by_itself(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(1, "In short …"), item(2))
    assert run.outcomes(run.collect()) == {"post-1": "failed", "post-2": "added"}


# --- from run to run ------------------------------------------------------------------------------------------------


def test_an_unchanged_feed_costs_one_conditional_request(run: Run) -> None:
    run.site.pages |= {"/feed": channel(item(1), item(2, "In short …")), "/posts/2": PAGE}
    run.collect()
    assert run.outcomes(run.collect()) == {"post-1": "unchanged", "post-2": "unchanged"}
    assert run.asked() == [("/feed", 304)]


def test_an_edited_entry_is_updated_and_what_falls_out_of_the_feed_stays(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(2), item(1))
    run.collect()
    run.site.pages["/feed"] = channel(item(3), item(2, f"<p>Edited. {SENTENCE * 20}</p>"))
    report = run.collect()
    expected = {"post-3": "added", "post-2": "updated", "post-1": "failed"}  # there is no page /posts/1
    assert (run.outcomes(report), report.problem) == (expected, None)
    assert set(run.documents()) == {"Post 1", "Post 2", "Post 3"}
    assert run.documents()["Post 2"].text.startswith("Edited.")


def test_older_pages_are_followed_to_their_end_and_then_what_is_gone_goes(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(3), head='<atom:link rel="next" href="/feed?page=2"/>')
    run.site.pages["/feed?page=2"] = channel(item(2), head='<atom:link rel="next" href="/feed?page=3"/>')
    run.site.pages["/feed?page=3"] = channel(item(1))
    assert run.outcomes(run.collect()) == {"post-3": "added", "post-2": "added", "post-1": "added"}
    run.site.pages["/feed?page=3"] = channel()
    assert run.outcomes(run.collect()) == {"post-3": "unchanged", "post-2": "unchanged", "post-1": "removed"}


def test_archives_are_followed_backwards(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(2), head='<atom:link rel="prev-archive" href="/2020.xml"/>')
    run.site.pages["/2020.xml"] = channel(item(1), head="<fh:archive/>")
    assert run.outcomes(run.collect()) == {"post-2": "added", "post-1": "added"}


def test_a_feed_that_says_it_is_whole_removes_what_it_drops(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(2), item(1), head="<fh:complete/>")
    run.collect()
    run.site.pages["/feed"] = channel(item(2), head="<fh:complete/>")
    assert run.outcomes(run.collect()) == {"post-2": "unchanged", "post-1": "removed"}


def test_an_older_page_that_cannot_be_read_is_a_problem_and_removes_nothing(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(2), head='<atom:link rel="next" href="/feed?page=2"/>')
    run.site.pages["/feed?page=2"] = channel(item(1))
    run.collect()
    run.site.pages["/feed?page=2"] = Reply(b"oh", "text/plain", 500)
    report = run.collect()
    assert "500" in (report.problem or "")
    assert set(run.documents()) == {"Post 1", "Post 2"}


def test_pages_that_name_each_other_end(run: Run) -> None:
    run.site.pages["/feed"] = channel(
        item(1), head='<atom:link rel="next" href="{url}/feed"/>'.replace("{url}", run.site.url)
    )
    report = run.collect()
    assert (run.outcomes(report), report.problem) == ({"post-1": "added"}, None)


# --- what left the feed ---------------------------------------------------------------------------------------------


def left(run: Run, page: Reply | str, **entry) -> None:
    """A post left the feed; where it stood, `page` stands."""
    run.site.pages |= {"/feed": channel(item(2), item(1, **entry)), "/posts/1": page}
    run.collect()
    run.site.pages["/feed"] = channel(item(3), item(2))


def test_a_post_that_left_the_feed_and_answers_404_on_two_days_is_removed(run: Run) -> None:
    left(run, Reply(b"no", "text/plain", 410))
    assert run.outcomes(run.collect())["post-1"] == "failed"
    assert set(run.documents()) == {"Post 1", "Post 2", "Post 3"}
    assert run.outcomes(run.collect(days=1))["post-1"] == "removed"
    assert set(run.documents()) == {"Post 2", "Post 3"}


@pytest.mark.parametrize(
    "page", [Reply(b"members only", status=403), Reply(b"slow down", status=429), Reply(b"oh", status=500), "<p>!</p>"]
)
def test_a_page_that_is_refused_or_no_article_leaves_the_post_as_it_was(run: Run, page: Reply | str) -> None:
    left(run, page)
    before = run.documents()["Post 1"]
    for days in (0, 1, 3, 6):
        report = run.collect(days=days)
        assert (run.outcomes(report).get("post-1", "unchanged"), report.problem) == ("unchanged", None)
    assert run.documents()["Post 1"] == before


def test_a_post_that_left_the_feed_keeps_its_text_until_its_page_is_edited(run: Run) -> None:
    left(run, PAGE)
    before = run.documents()["Post 1"]
    assert run.outcomes(run.collect())["post-1"] == "unchanged"
    assert run.outcomes(run.collect(days=3))["post-1"] == "unchanged"
    assert ("/posts/1", 304) in run.asked(), "an unchanged page costs its headers"
    assert run.documents()["Post 1"] == before
    run.site.pages["/posts/1"] = PAGE.replace("The page.", "The page, and I was wrong.")
    assert run.outcomes(run.collect(days=4)).keys() == {"post-2", "post-3"}, "it has its next turn after three days"
    assert run.outcomes(run.collect(days=6))["post-1"] == "updated"
    after = run.documents()["Post 1"]
    assert after.text.startswith("The page, and I was wrong.")
    assert (after.id, after.title, after.published_at) == (before.id, before.title, before.published_at)


def test_a_link_to_another_site_may_die_without_the_comment_on_it(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(2), item(1, link="http://localhost:1/dead"))
    run.collect()
    run.site.pages["/feed"] = channel(item(2))
    for days in (0, 3):
        assert run.outcomes(run.collect(days=days))["post-1"] == "unchanged"
    assert set(run.documents()) == {"Post 1", "Post 2"}


def test_a_feed_at_another_address_than_its_site_names_the_site(run: Run) -> None:
    host = run.site.url.replace("127.0.0.1", "localhost")
    site = f"<link>{host}/</link>"
    pages = {"/feed": channel(item(2), item(1, link=f"{host}/posts/1"), head=site), "/posts/1": PAGE}
    run.site.pages |= pages
    run.collect()
    run.site.pages["/feed"] = channel(item(2), head=site)
    run.collect()
    assert ("/posts/1", 200) in run.asked()


def test_text_that_is_to_come_from_the_feed_never_comes_from_the_page(run: Run) -> None:
    run.site.pages |= {"/feed": channel(item(2), item(1)), "/posts/1": PAGE}
    run.collect(full_text="feed")
    run.site.pages["/feed"] = channel(item(2))
    for days, page in ((0, PAGE), (3, PAGE.replace("The page.", "Edited."))):
        run.site.pages["/posts/1"] = page
        assert run.outcomes(run.collect(days=days, full_text="feed"))["post-1"] == "unchanged"


def test_an_item_is_fetched_without_a_listing_before(run: Run) -> None:
    run.site.pages["/feed"] = channel(item(1), item(2))
    context = SourceContext("Ann Lee", Path(), lambda: run.fetcher, lambda: NOON)
    source = FeedSource.open(f"{run.site.url}/feed", context)
    assert source.fetch(Item("post-2")).title == "Post 2"
    with pytest.raises(ItemError, match="not in the feed any more"):
        source.fetch(Item("post-3"))
