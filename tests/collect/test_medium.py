"""Medium: archives and feeds give the same stories, and a page for humans never becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import pytest

from collect.archives import Watched, context, documents, endings, outcomes, run, write_folder, write_zip
from collect.site_server import Reply, Site, serve
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.fetch import Fetcher, FetchPolicy
from llm_twin.collect.medium import MediumSource, feed_address, read_story
from llm_twin.core.errors import ConfigError

CODE = "def rain():\n    return 1  # <3\n\n\n\nrain()"
BODY = f"""
<section name="a1" class="section section--body section--first"><div class="section-divider"><hr></div>
<div class="section-content"><div class="section-inner">
<h3 name="t" class="graf graf--h3 graf--leading graf--title">Why we left</h3>
<h4 class="graf graf--h4 graf--subtitle">A short story</h4>
<p class="graf graf--p">We left because of <strong>rain</strong> and <a href="https://medium.com/r/?url=https%3A%2F%2Fa.example%2Ftea">tea</a>.</p>
<figure class="graf graf--figure"><img src="x.png" alt=""><figcaption class="imageCaption">Our house in the rain.</figcaption></figure>
<figure class="graf graf--figure"><img src="y.png"><figcaption class="imageCaption">Photo by <a href="#">Joe Doe</a> on Unsplash</figcaption></figure>
<pre data-code-block-mode="2" data-code-block-lang="python" class="graf graf--preV2"><span class="pre--content">{escape(CODE).replace(chr(10), "<br>", 2)}</span></pre>
<div class="graf graf--mixtapeEmbed"><a href="https://b.example/"><strong>Of rain</strong><br><em>By somebody else.</em>b.example</a><a class="mixtapeImage" href="https://b.example/"></a></div>
<figure class="graf graf--iframe"><script src="https://gist.github.com/ann/123.js"></script></figure>
</div></div></section>
<section name="a2" class="section section--body"><div class="section-divider"><hr class="section-divider"></div>
<p class="graf graf--p">The end.</p></section>"""  # noqa: E501
MARKDOWN = f"""#### A short story

We left because of **rain** and [tea](https://a.example/tea).

Our house in the rain.

```python
{CODE}
```

[Of rain](https://b.example/)

<https://gist.github.com/ann/123>

---

The end."""
RESPONSE = '<p class="graf graf--p">I agree with all of it. And more.</p>'
URL = "https://medium.com/@ann/why-we-left-0123456789ab"


def story(body: str = BODY, *, title: str = "Why we left", summary: str = "", url: str = URL) -> str:
    return f"""<!DOCTYPE html><html><head><title>{title}</title></head><body><article class="h-entry">
<header><h1 class="p-name">{title}</h1></header>
<section data-field="subtitle" class="p-summary">{summary}</section>
<section data-field="body" class="e-content">{body}</section>
<footer><p>By <a href="https://medium.com/@ann" class="p-author h-card">Annie</a> on <a href="https://medium.com/p/0123">
<time class="dt-published" datetime="2021-03-04T05:06:07.089Z">March 4, 2021</time></a>.</p>
<p><a href="{url}" class="p-canonical">Canonical link</a></p><p>Exported from Medium.</p></footer></article>"""


def archive(folder: Path, files: dict[str, str]) -> Path:
    return write_zip(folder / "medium-export-1.zip", {"README.html": "<p>Your archive</p>", **files})


def source(path: Path, **options):
    return MediumSource.open(path.name, context(path.parent), **options)


# --- the archive ----------------------------------------------------------------------------------------------------


def test_a_story_has_its_words_code_captions_date_and_canonical_address(tmp_path: Path) -> None:
    (found,) = documents(source(archive(tmp_path, {"posts/2021-03-04_Why-0123456789ab.html": story()}))).values()
    assert found.text == MARKDOWN
    assert (found.title, found.author, found.source, found.kind) == ("Why we left", "Ann Roe", "medium", "article")
    assert (found.url, found.published_at) == (URL, datetime(2021, 3, 4, 5, 6, 7, 89000, tzinfo=UTC))


def test_drafts_and_responses_are_told_apart(tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        {
            "posts/draft_Later-0123.html": story(),
            "posts/2021-03-05_I-agree-01.html": story(
                RESPONSE, title="I agree with all of it.", summary="I agree with…"
            ),
            "posts/2021-03-06_Poem-02.html": story("<p>oh, right</p>", title="oh, right", summary="a poem", url=""),
            "posts/2021-03-07_Torn-03.html": "<html><body><p>nothing</p></body></html>",
        },
    )
    assert endings(source(path)) == {
        "posts/draft_Later-0123.html": ("skipped", "is a draft: it was not published"),
        "posts/2021-03-05_I-agree-01.html": (
            "skipped",
            "has no title of its own, as responses have none; set `responses = true` to collect these as notes",
        ),
        "posts/2021-03-06_Poem-02.html": ("added", ""),
        "posts/2021-03-07_Torn-03.html": (
            "failed",
            "is no story of Medium: it has no body; download the archive again",
        ),
    }
    found = documents(source(path, responses=True))
    response, poem = found["posts/2021-03-05_I-agree-01.html"], found["posts/2021-03-06_Poem-02.html"]
    assert (response.text, response.kind) == ("I agree with all of it. And more.", "note")
    assert (poem.text, poem.kind) == ("a poem\n\noh, right", "article")


def test_a_second_run_fetches_nothing_and_a_newer_archive_updates_and_removes(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    other = story(BODY.replace("rain", "snow"), url="https://medium.com/@ann/other-1123456789ab")
    path = archive(tmp_path, {"posts/a.html": story(), "posts/b.html": other})
    run(source(path), store)
    again = Watched(source(path))
    assert outcomes(run(again, store)) == {"posts/a.html": "unchanged", "posts/b.html": "unchanged"}
    assert again.fetched == []
    archive(tmp_path, {"posts/a.html": story(BODY.replace("The end", "An end"))})
    assert outcomes(run(source(path), store)) == {"posts/a.html": "updated", "posts/b.html": "removed"}


def test_a_renamed_story_stays_the_same_document(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    path = archive(tmp_path, {"posts/2021-03-04_Why-01.html": story()})
    run(source(path), store)
    before = list(store.documents())
    archive(tmp_path, {"posts/2021-03-04_Why-we-left-01.html": story()})
    run(source(path), store)
    assert list(store.documents()) == before


def test_a_torn_story_fails_alone_and_a_torn_archive_removes_nothing(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    other = story(BODY.replace("rain", "snow"), url="https://medium.com/@ann/other-1123456789ab")
    path = archive(tmp_path, {"posts/a.html": story(), "posts/b.html": other})
    whole = path.read_bytes()
    run(source(path), store)
    damaged = bytearray(whole)
    at = whole.index(b"posts/a.html") + 60
    damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    fresh = endings(source(path))
    assert (fresh["posts/a.html"][0], fresh["posts/b.html"]) == ("failed", ("added", ""))
    assert "cannot be read from the export" in fresh["posts/a.html"][1]
    path.write_bytes(whole[: len(whole) // 2])
    assert "medium-export-1.zip cannot be read as an export" in run(source(path), store).problem
    assert len(list(store.documents())) == 2


def test_a_page_that_unpacks_to_too_much_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_twin.collect.export.MAX_PAGE_BYTES", 100_000)
    path = archive(tmp_path, {"posts/bomb.html": "x" * 10_000_000, "posts/a.html": story()})
    ended = endings(source(path))
    assert ended["posts/bomb.html"] == ("skipped", "has more than 100,000 bytes; leave it out of the export")
    assert ended["posts/a.html"] == ("added", "")


def test_a_real_story_is_read(data_dir: Path) -> None:
    path = data_dir / "medium-export" / "posts" / "basic.html"
    if not path.exists():
        pytest.skip(f"no Medium archive at {path}")
    reading = read_story(path.read_bytes())
    assert (reading.title, reading.url) == ("oh, right", "https://medium.com/@anton/oh-right-70c5683f3778")
    assert reading.published_at == datetime(2015, 2, 5, 2, 56, 45, 739000, tzinfo=UTC)
    assert reading.text.startswith("a poem\n\n**oh, right**\n\nit’s early evening")
    real = MediumSource.open("medium-export", context(data_dir))
    assert [each.title for each in documents(real).values()] == ["oh, right"]


# --- the feed -------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve(Site()) as site:
        yield site


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    policy = FetchPolicy(allow_private=True, requests_per_second=100, retries=0)
    with Fetcher(cache_dir=tmp_path / "cache", policy=policy) as fetcher:
        yield fetcher


def item(number: int, body: str, title: str = "Why we left") -> str:
    return f"""<item><title><![CDATA[{title}]]></title><link>https://medium.com/@ann/s-{number}?source=rss-1------2</link>
<guid isPermaLink="false">https://medium.com/p/{number}</guid><category><![CDATA[rain]]></category>
<dc:creator><![CDATA[Ann Roe]]></dc:creator><pubDate>Thu, 04 Mar 2021 05:06:07 GMT</pubDate>
<content:encoded><![CDATA[{body}]]></content:encoded></item>"""


def rss(*items: str) -> Reply:
    text = f"""<?xml version="1.0" encoding="UTF-8"?><rss xmlns:dc="http://purl.org/dc/elements/1.1/"
xmlns:content="http://purl.org/rss/1.0/modules/content/" version="2.0"><channel><title>Stories by Ann</title>
<link>https://medium.com/@ann?source=rss-1------2</link>{"".join(items)}</channel></rss>"""
    return Reply(text.encode(), "text/xml; charset=UTF-8")


def profile(site: Site, fetcher: Fetcher, **options):
    return MediumSource.open(site.url, context(Path(), fetcher=lambda: fetcher), **options)


TEA = """<h3>Why we left</h3><p>Because of <em>rain</em>.</p><pre>a = 1

b = 2</pre><img src="https://medium.com/_/stat?event=post.clientViewed" width="1" height="1" alt=""><hr>
<p><a href="https://medium.com/p">Why we left</a> was originally published in <a href="https://medium.com/x">X</a> on
Medium, where people are continuing the conversation by highlighting and responding to this story.</p>"""
MEMBERS = """<div class="medium-feed-item"><p class="medium-feed-snippet">Only the beginning…</p>
<p class="medium-feed-link"><a href="https://medium.com/x">Continue reading on Medium »</a></p></div>"""


def test_a_feed_gives_whole_stories_without_what_medium_adds(site: Site, fetcher: Fetcher) -> None:
    site.pages["/feed"] = rss(item(1, TEA), item(2, MEMBERS), item(3, "<p>I agree. Yes.</p>", "I agree."))
    (found,) = documents(profile(site, fetcher)).values()
    assert found.text == "Because of *rain*.\n\n```\na = 1\n\nb = 2\n```"
    assert (found.url, found.tags, found.author) == ("https://medium.com/@ann/s-1", ("rain",), "Ann Roe")
    ended = endings(profile(site, fetcher))
    assert ended["https://medium.com/p/2"][0] == "skipped"
    assert ended["https://medium.com/p/2"][1].startswith("is for members, and the feed shows its beginning only; use")
    assert "responses = true" in ended["https://medium.com/p/3"][1]


def test_stories_that_fall_out_of_the_feed_stay(site: Site, fetcher: Fetcher) -> None:
    store = MemoryWarehouse()
    site.pages["/feed"] = rss(item(1, TEA))
    run(profile(site, fetcher), store)
    again = Watched(profile(site, fetcher))
    assert outcomes(run(again, store)) == {"https://medium.com/p/1": "unchanged"}
    assert again.fetched == []
    site.pages["/feed"] = rss(item(2, TEA.replace("rain", "snow")))
    report = run(profile(site, fetcher), store)
    assert (report.problem, outcomes(report)) == (None, {"https://medium.com/p/2": "added"})
    assert len(list(store.documents())) == 2
    assert site.asked().keys() == {"/robots.txt", "/feed"}, "its pages are for browsers, and never asked for"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(b"<html><b>Just a moment</b>Verify you are human</html>", status=403), "refuses programs (403)"),
        (Reply(b"<html><body>Verify you are human</body></html>"), "answered with a page (a check for humans"),
        (Reply(b"slow down", "text/plain", 429), "refuses programs (429)"),
    ],
)  # fmt: skip
def test_a_page_for_humans_is_a_problem_with_advice_and_never_a_story(
    site: Site, fetcher: Fetcher, reply: Reply, problem: str
) -> None:
    store = MemoryWarehouse()
    site.pages["/feed"] = rss(item(1, TEA))
    run(profile(site, fetcher), store)
    site.pages["/feed"] = reply
    report = run(profile(site, fetcher), store)
    assert problem in report.problem
    assert "Download your information" in report.problem
    assert [document.title for document in store.documents()] == ["Why we left"]


def test_archive_and_feed_name_a_story_alike(tmp_path: Path, site: Site, fetcher: Fetcher) -> None:
    site.pages["/feed"] = rss(item(1, TEA))
    path = archive(tmp_path, {"posts/a.html": story(url="https://medium.com/@ann/s-1")})
    from_feed, from_archive = (next(iter(documents(each).values())) for each in (profile(site, fetcher), source(path)))
    assert from_feed.id == from_archive.id


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "feed"),
    [
        ("https://medium.com/@ann", "https://medium.com/feed/@ann"),
        ("https://medium.com/@ann/about", "https://medium.com/feed/@ann"),
        ("https://medium.com/feed/@ann", "https://medium.com/feed/@ann"),
        ("https://medium.com/rain-and-tea", "https://medium.com/feed/rain-and-tea"),
        ("https://ann.medium.com", "https://ann.medium.com/feed"),
        ("https://blog.ann.example/", "https://blog.ann.example/feed"),
    ],
)
def test_profiles_and_publications_have_feeds(address: str, feed: str) -> None:
    assert feed_address(address) == feed


@pytest.mark.parametrize(
    "address", ["https://medium.com/", "https://medium.com/tag/rain", "https://medium.com/@ann/why-0123456789ab"]
)
def test_other_addresses_of_medium_are_refused_with_what_to_give(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give https://medium\.com/@name"):
        MediumSource.open(address, context(tmp_path))


def test_medium_is_recognised_by_host_and_by_the_name_of_its_archive() -> None:
    for address in ("https://medium.com/@ann", "https://ann.medium.com", "~/Downloads/medium-export-abc.zip"):
        assert MediumSource.recognises(address)
    for address in ("https://notmedium.com", "./medium", "https://a.example/medium.com"):
        assert not MediumSource.recognises(address)


def test_an_unpacked_archive_is_read_too(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "medium-export", {"posts/a.html": story()})
    assert [found.text for found in documents(source(path)).values()] == [MARKDOWN]
