"""Substack: a publication by its archive, its feed or its export; the author's words without Substack's buttons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from collect.archives import NOON, Watched, context, documents, endings, outcomes, run, write_folder, write_zip
from collect.site_server import Reply, Site, serve
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.fetch import Fetcher, FetchPolicy
from llm_twin.collect.pipeline import collect
from llm_twin.collect.substack import SubstackSource, read_body
from llm_twin.core.errors import ConfigError

BODY = """<h2>Then</h2><p>We left because of <em>rain</em><a data-component-name="FootnoteAnchorToDOM"
id="footnote-anchor-1" href="#footnote-1" target="_self" class="footnote-anchor">1</a>, see <a href="/p/tea">tea</a>.</p>
<div class="subscription-widget-wrap" data-attrs="{}" data-component-name="SubscribeWidget"><div class="preamble">
<p class="cta-caption">Thanks for reading! Subscribe for free.</p></div><form><input type="email"></form></div>
<div class="captioned-image-container"><figure><a class="image-link image2"><div class="image2-inset"><picture>
<img src="a.png" alt=""></picture><div class="image-link-expand"><svg></svg>Expand</div></div></a>
<figcaption class="image-caption">Our house in the rain.</figcaption></figure></div>
<div class="captioned-image-container"><figure><img src="b.png"><figcaption class="image-caption">Photo by Joe Doe on
Unsplash</figcaption></figure></div>
<div class="preformatted-block" data-component-name="PreformattedTextBlockToDOM"><label class="hide-text">Text within
this block will maintain its original spacing when published</label><pre class="text">  rain
    and


  tea</pre></div>
<pre><code class="language-python">x = 1 &lt; 2


y = 2</code></pre>
<div class="pullquote"><p>Rain, again.</p></div>
<div class="latex-rendered" data-attrs='{"persistentExpression":"a_1 = b^2","id":"X"}'></div>
<p class="button-wrapper" data-attrs="{}"><a class="button primary" href="https://x/subscribe"><span>Share</span></a></p>
<div class="digest-post-embed" data-attrs="{}"><a href="/p/x">Another post</a></div>
<p>The end.<a class="footnote-anchor" id="footnote-anchor-2" href="#footnote-2">2</a></p>
<div class="footnote" data-component-name="FootnoteToDOM"><a id="footnote-1" href="#footnote-anchor-1"
class="footnote-number" contenteditable="false" target="_self">1</a><div class="footnote-content"><p>Much <strong>rain</strong>.</p>
<p>Really.</p></div></div>
<div class="footnote"><a class="footnote-number">2</a><div class="footnote-content"><p>For now.</p></div></div>"""  # noqa: E501
MARKDOWN = """A short story

## Then

We left because of *rain*[^1], see [tea]({site}/p/tea).

Our house in the rain.

```
  rain
    and


  tea
```

```python
x = 1 < 2


y = 2
```

> Rain, again.

$$
a_1 = b^2
$$

The end.[^2]

[^1]: Much **rain**.

    Really.

[^2]: For now."""


# --- a publication --------------------------------------------------------------------------------------------------


class Publication(Site):
    """A site that answers like Substack's API, `limit` and `offset` included."""

    def publish(self, *posts: dict) -> None:
        self.posts = list(posts)

    def reply(self, path: str) -> Reply:
        parts = urlsplit(path)
        if path in self.pages or not hasattr(self, "posts"):
            return super().reply(path)
        if parts.path == "/api/v1/archive":
            asked = parse_qs(parts.query)
            offset, limit = int(asked["offset"][0]), min(int(asked["limit"][0]), 12)
            shown = [{**post, "body_html": None} for post in self.posts[offset : offset + limit]]
            return Reply(json.dumps(shown).replace("{site}", self.url).encode(), "application/json; charset=utf-8")
        for post in self.posts:
            if parts.path == f"/api/v1/posts/{post['slug']}":
                return Reply(json.dumps(post).replace("{site}", self.url).encode(), "application/json; charset=utf-8")
        return super().reply(path)


def post(slug: str, body: str | None = None, **more) -> dict:
    return {
        "id": sum(map(ord, slug)),
        "slug": slug,
        "title": f"On {slug}",
        "subtitle": None,
        "post_date": "2021-03-04T05:06:07.089Z",
        "audience": "everyone",
        "type": "newsletter",
        "wordcount": 100,
        "canonical_url": f"{{site}}/p/{slug}",
        "postTags": [],
        "publishedBylines": [{"name": "Ann Roe", "handle": "ann"}],
        "reaction_count": 1,
        "body_html": f"<p>About {slug}.</p>" if body is None else body,
        **more,
    }


@pytest.fixture
def site() -> Iterator[Publication]:
    with serve(Publication()) as site:
        yield site


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    policy = FetchPolicy(allow_private=True, requests_per_second=100, retries=0)
    with Fetcher(cache_dir=tmp_path / "cache", policy=policy) as fetcher:
        yield fetcher


def publication(site: Site, fetcher: Fetcher):
    return SubstackSource.open(site.url, context(Path(), fetcher=lambda: fetcher))


def test_a_post_has_its_words_footnotes_tags_and_date_and_no_buttons(site: Publication, fetcher: Fetcher) -> None:
    site.publish(post("rain", BODY, title="Why we left", subtitle="A short story", postTags=[{"name": "Weather"}]))
    (found,) = documents(publication(site, fetcher)).values()
    assert found.text == MARKDOWN.replace("{site}", site.url)
    assert (found.title, found.author, found.source, found.kind) == ("Why we left", "Ann Roe", "substack", "article")
    assert (found.url, found.tags) == (f"{site.url}/p/rain", ("Weather",))
    assert found.published_at == datetime(2021, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)


def test_every_page_of_the_archive_is_listed_however_few_posts_a_page_has(site: Publication, fetcher: Fetcher) -> None:
    site.publish(*(post(f"post-{number}") for number in range(30)))
    assert len(documents(publication(site, fetcher))) == 30
    offsets = [parse_qs(urlsplit(path).query)["offset"] for path, _ in site.requests if "archive" in path]
    assert offsets == [["0"], ["12"], ["24"], ["30"]]


def test_posts_without_text_and_for_paying_readers_say_why_they_are_left_out(
    site: Publication, fetcher: Fetcher
) -> None:
    site.publish(
        post("tea"),
        post("gold", audience="only_paid"),
        post("talk", "", type="podcast"),
        post("notes", "<p>What we talked about.</p>", type="podcast"),
        post("guest", publishedBylines=[{"name": "Joe Doe"}]),
    )
    ended = {key.rpartition("/")[2]: end for key, end in endings(publication(site, fetcher)).items()}
    assert ended == {
        "tea": ("added", ""),
        "gold": (
            "skipped",
            "is for paying readers, and the site shows its beginning only; the export has it (option `paid`)",
        ),
        "talk": ("skipped", "has no text (a recording or a picture without notes); nothing to collect"),
        "notes": ("added", ""),
        "guest": ("added", ""),
    }
    assert documents(publication(site, fetcher))[f"{site.url}/p/guest"].author == "Joe Doe"


def test_a_second_run_fetches_no_post_and_edits_and_removals_are_seen(site: Publication, fetcher: Fetcher) -> None:
    store = MemoryWarehouse()
    site.publish(post("rain"), post("tea"))
    run(publication(site, fetcher), store)
    site.forget()
    site.publish(post("rain", reaction_count=99), post("tea"))
    assert set(outcomes(run(publication(site, fetcher), store)).values()) == {"unchanged"}
    assert not [path for path in site.asked() if "/posts/" in path]
    site.publish(post("rain", "<p>About more rain.</p>", wordcount=101))
    assert {key.rpartition("/")[2]: end for key, end in outcomes(run(publication(site, fetcher), store)).items()} == {
        "rain": "updated",
        "tea": "removed",
    }


def test_an_archive_that_breaks_off_or_never_ends_is_a_problem_and_removes_nothing(
    site: Publication, fetcher: Fetcher
) -> None:
    store = MemoryWarehouse()
    site.publish(*(post(f"post-{number}") for number in range(14)))
    run(publication(site, fetcher), store)
    second = "/api/v1/archive?sort=new&search=&offset=12&limit=25"
    site.pages[second] = Reply(b"<html>busy</html>")
    assert "breaks off after 12 posts" in run(publication(site, fetcher), store).problem
    site.pages[second] = Reply(b"", "text/plain", 500)
    assert "answered 500" in run(publication(site, fetcher), store).problem
    site.pages[second] = site.reply("/api/v1/archive?sort=new&search=&offset=0&limit=25")
    assert "does not end after 12 posts" in run(publication(site, fetcher), store).problem
    assert len(list(store.documents())) == 14


def rss(site: Site, *bodies: str) -> Reply:
    items = "".join(
        f"""<item><title>On {number}</title><link>{site.url}/p/{number}</link><guid>{site.url}/p/{number}</guid>
<dc:creator><![CDATA[Ann Roe]]></dc:creator><pubDate>Thu, 04 Mar 2021 05:06:07 GMT</pubDate>
<content:encoded><![CDATA[{body}]]></content:encoded></item>"""
        for number, body in enumerate(bodies)
    )
    text = f"""<rss xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:content="http://purl.org/rss/1.0/modules/content/"
version="2.0"><channel><title>Ann</title>{items}</channel></rss>"""
    return Reply(text.encode(), "application/xml; charset=utf-8")


def test_a_post_whose_address_is_none_has_the_usual_one(site: Publication, fetcher: Fetcher) -> None:
    key = publication(site, fetcher)._key
    assert key({"slug": "a", "canonical_url": "https://ann.example/p/a"}) == "https://ann.example/p/a"
    for odd in ("http://[a", "", None, 5):
        assert key({"slug": "a", "canonical_url": odd}) == f"{site.url}/p/a"


def test_without_an_archive_the_feed_is_read_as_a_window_and_the_author_is_told(
    site: Publication, fetcher: Fetcher, caplog
) -> None:
    store = MemoryWarehouse()
    site.pages["/feed"] = rss(site, BODY, '<p>The beginning.</p><p><a href="/p/1">Read more</a></p>')
    report = run(publication(site, fetcher), store)
    assert (report.problem, outcomes(report)) == (None, {f"{site.url}/p/0": "added", f"{site.url}/p/1": "skipped"})
    (found,) = store.documents()
    assert found.text == MARKDOWN.replace("{site}", site.url).removeprefix("A short story\n\n")
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "only the latest posts are collected, from its feed; the export has all" in warning.getMessage()
    site.pages["/feed"] = rss(site)
    assert [document.title for document in store.documents()] == ["On 0"]
    run(publication(site, fetcher), store)
    assert [document.title for document in store.documents()] == ["On 0"]


@pytest.mark.parametrize(("status", "left"), [(403, 2), (404, 1), (429, 2), (503, 2), (200, 2)])
def test_a_post_that_left_the_feed_goes_only_when_its_page_is_gone_on_two_days(
    site: Publication, fetcher: Fetcher, status: int, left: int
) -> None:
    store = MemoryWarehouse()
    site.pages["/feed"] = rss(site, BODY, BODY)
    run(publication(site, fetcher), store)
    site.pages["/feed"] = rss(site, BODY)
    site.pages["/p/1"] = Reply(b"<html><p>Just a moment</p></html>", status=status)
    for days in (1, 2, 5):
        now = NOON + timedelta(days=days)
        assert collect(publication(site, fetcher), store=store, redactor=None, now=lambda now=now: now).problem is None
        assert len(store.document_hashes()) == (left if days > 1 else 2)


def test_a_site_that_is_no_publication_is_a_problem(site: Publication, fetcher: Fetcher) -> None:
    assert "is it a Substack publication?" in run(publication(site, fetcher), MemoryWarehouse()).problem


def test_a_post_that_is_answered_with_something_else_fails_alone(site: Publication, fetcher: Fetcher) -> None:
    site.publish(post("rain"), post("tea"))
    site.pages["/api/v1/posts/rain"] = Reply(b"<html>Verify you are human</html>")
    ended = endings(publication(site, fetcher))
    assert ended[f"{site.url}/p/rain"][0] == "failed"
    assert "something else than a post" in ended[f"{site.url}/p/rain"][1]
    assert ended[f"{site.url}/p/tea"] == ("added", "")


# --- the export -----------------------------------------------------------------------------------------------------

HEADER = "post_id,post_date,is_published,email_sent_at,inbox_sent_at,type,audience,title,subtitle,podcast_url\n"
RAIN = (
    '1.rain,2021-03-04T05:06:07.089Z,true,2021-03-04T05:10:00.000Z,,newsletter,everyone,"Rain, again",A short story,\n'
)
GOLD = "2.gold,2021-03-05T05:06:07.089Z,true,,,newsletter,only_paid,Gold,,\n"


def export(folder: Path, *rows: str, pages: dict[str, str] | None = None) -> Path:
    found = {"1.rain": BODY, "2.gold": "<p>For you.</p>"} if pages is None else pages
    files = {f"posts/{name}.html": body for name, body in found.items()}
    return write_zip(folder / "substack-export.zip", {"posts.csv": HEADER + "".join(rows), **files})


def source(path: Path, **options):
    return SubstackSource.open(path.name, context(path.parent), **options)


def test_an_export_gives_the_documents_that_the_site_gives(tmp_path: Path, site: Publication, fetcher: Fetcher) -> None:
    site.publish(post("rain", BODY, title="Rain, again", subtitle="A short story"))
    (online,) = documents(publication(site, fetcher)).values()
    found = documents(source(export(tmp_path, RAIN), publication=site.url))
    assert found == {"1.rain": online}


def test_drafts_paid_posts_and_broken_records_say_why_they_are_left_out(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        RAIN,
        GOLD,
        "3.later,,false,,,newsletter,everyone,Later,,\n",
        "4.talk,2021-03-06T05:06:07.089Z,true,,,podcast,everyone,Talk,,https://x/a.mp3\n",
        "5.torn,2021\n",
        RAIN,
    )
    assert endings(source(path)) == {
        "1.rain": ("added", ""),
        "2.gold": ("skipped", "is for paying readers; set `paid = true` to collect it"),
        "3.later": ("skipped", "is a draft: it was not published"),
        "4.talk": ("skipped", "has no text in the export"),
        "5.torn": ("failed", "posts.csv: the record that ends in line 6 is damaged; mend it"),
        "1.rain#7": ("skipped", "repeats the id of an earlier line of posts.csv"),
    }
    gold = documents(source(path, paid=True))["2.gold"]
    assert (gold.text, gold.tags, gold.url) == ("For you.", ("paid",), None)


def test_a_newer_export_updates_and_removes_and_the_same_one_fetches_nothing(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    path = export(tmp_path, RAIN, GOLD.replace("only_paid", "everyone"))
    run(source(path), store)
    again = Watched(source(path))
    assert outcomes(run(again, store)) == {"1.rain": "unchanged", "2.gold": "unchanged"}
    assert again.fetched == []
    export(tmp_path, RAIN, pages={"1.rain": "<p>Less rain.</p>"})
    assert outcomes(run(source(path), store)) == {"1.rain": "updated", "2.gold": "removed"}


@pytest.mark.parametrize("content", [b"no zip at all", b"PK\x03\x04 torn"])
def test_a_damaged_export_is_a_problem_and_removes_nothing(tmp_path: Path, content: bytes) -> None:
    store = MemoryWarehouse()
    path = export(tmp_path, RAIN)
    run(source(path), store)
    path.write_bytes(content)
    assert "substack-export.zip cannot be read as an export" in run(source(path), store).problem
    assert len(list(store.documents())) == 1


def test_an_unpacked_export_is_read_too(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "substack", {"posts.csv": HEADER + RAIN, "posts/1.rain.html": "<p>Rain.</p>"})
    assert [found.text for found in documents(source(path)).values()] == ["A short story\n\nRain."]


def test_a_subtitle_that_the_text_repeats_is_not_told_twice() -> None:
    assert read_body("<p>A short story begins.</p>", subtitle="A short story") == "A short story begins."


# --- addresses ------------------------------------------------------------------------------------------------------


def test_publications_and_zips_are_recognised() -> None:
    for address in ("https://jane.substack.com", "https://jane.substack.com/archive", "~/substack_export_2026.zip"):
        assert SubstackSource.recognises(address)
    for address in ("https://jane.substack.com/p/rain", "https://notsubstack.com", "./substack", "./posts.zip"):
        assert not SubstackSource.recognises(address)


def test_a_profile_and_paid_posts_of_a_site_are_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no publication; give its own address"):
        SubstackSource.open("https://substack.com/@jane", context(tmp_path))
    with pytest.raises(ConfigError, match=r"give the path of the export"):
        SubstackSource.open("https://jane.substack.com", context(tmp_path), paid=True)
