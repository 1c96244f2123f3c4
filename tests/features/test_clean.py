"""Cleaning keeps every character of the author and takes out what a site put around it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.pipeline import LocalRunner, RunReport
from llm_twin.core.records import Document, content_hash
from llm_twin.features.clean import boilerplate_lines, clean, cleaning, relevant, repair, site

SIGN_OFF = "Thanks for reading!\n\nMira"
BODIES = {
    "Backups": f"I lost a disk.\n\n- buy two disks\n- test the restore\n\n## Conclusion\n\nTest it.\n\n{SIGN_OFF}",
    "Type hints": "They're documentation.\n\n```python\nShare = 'Share'\n\nSubscribe\n\nCopy link\n```\n\n"
    f"## Conclusion\n\nUse them.\n\nImage by author\n\n{SIGN_OFF}",
    "Queues": "A queue hides a problem.  \nIt doesn't solve it.\n\n> Subscribe\n\n| Share | Email |\n|---|---|"
    f"\n\n## Notes\n\nImage by author\n\n{SIGN_OFF}",
    "Soup": "Lentils, an onion, salt.\n\n1. chop\n2. boil\n\n## Conclusion\n\nEat.\n\nImage by author\n\n" + SIGN_OFF,
}


def document(text, *, title="Backups", url="https://mira.example.com/p/1", source="web", name="d1"):
    return Document(
        id=name,
        author="Mira",
        source=source,
        kind="article",
        title=title,
        text=text,
        content_hash=content_hash(title, text),
        fetched_at=datetime(2026, 1, 2, tzinfo=UTC),
        url=url,
    )


def wrapped(title, body, likes=7):
    """A page as a newsletter site serves it: its interface around the author's words."""
    widget = f"Share this post\n\n#### {title}\n\nmira.example.com\n\nCopy link\n\nFacebook\n\nEmail\n\nOther"
    return (
        f"# Mira writes\n\nSubscribeSign in\n\n{widget}\n\n# {title}\n\nMira\n\nJan 2, 2026\n\n{likes}\n\n{widget}\n\n"
        f"Share\n\n{body}\n\n{likes}\n\n{widget}\n\nShare\n\nPreviousNext\n\n"
        f"#### Discussion about this post\n\nComments\n\nSomebody Else: I disagree with every word of it.\n\n"
        f"Top\n\nLatest\n\nReady for more?\n\nSubscribe\n\n"
        "© 2026 Mira\n\nPrivacy ∙ Terms ∙ Collection notice\n\nThe home of good letters\n\n"
        "This site requires JavaScript to run correctly.\n"
    )


def pages():
    return [
        document(wrapped(title, body, n), title=title, name=title) for n, (title, body) in enumerate(BODIES.items(), 5)
    ]


def test_a_newsletter_page_is_reduced_to_its_title_byline_and_the_author_s_words():
    collected = pages()
    boilerplate = boilerplate_lines(collected)
    for page, (title, body) in zip(collected, BODIES.items(), strict=True):
        assert clean(page, boilerplate).text == f"# {title}\n\nMira\n\nJan 2, 2026\n\n{body}\n"


def test_cleaning_changes_neither_the_id_nor_the_hash_of_what_was_collected():
    page = pages()[0]
    cleaned = clean(page, boilerplate_lines(pages()))
    assert (cleaned.id, cleaned.content_hash, cleaned.url) == (page.id, page.content_hash, page.url)


def test_cleaning_a_cleaned_page_changes_nothing():
    boilerplate = boilerplate_lines(pages())
    once = [clean(page, boilerplate) for page in pages()]
    assert [clean(page, boilerplate) for page in once] == once


def test_what_an_author_repeats_on_every_page_is_not_boilerplate():
    posts = [document(f"# {title}\n\n{body}\n", title=title, name=title) for title, body in BODIES.items()]
    boilerplate = boilerplate_lines(posts)
    assert [clean(post, boilerplate) for post in posts] == posts


def test_a_sign_off_in_front_of_the_share_buttons_stays():
    posts = [
        document(f"Words {n}.\n\nUntil next week\n\nShare\n\nSubscribe now\n\nLeave a comment\n", name=str(n))
        for n in range(6)
    ]
    boilerplate = boilerplate_lines(posts)
    assert {clean(post, boilerplate).text for post in posts} == {f"Words {n}.\n\nUntil next week\n" for n in range(6)}


def test_navigation_above_and_a_footer_below_a_blog_post_go():
    posts = [
        document(
            f"[Skip to content](#main)\n\n* [Home](/)\n* [Mira's workshop](/workshop)\n* [About](/about)\n\n"
            f"# Post {n}\n\nNumber {n} is here.\n\nPowered by Hugo\n\n[Privacy Policy](/privacy) | [RSS](/feed)\n",
            name=str(n),
        )
        for n in range(5)
    ]
    boilerplate = boilerplate_lines(posts)
    assert clean(posts[3], boilerplate).text == "# Post 3\n\nNumber 3 is here.\n"


def test_a_subscribe_button_in_the_middle_goes_and_a_lone_ambiguous_word_stays():
    posts = [document(f"Start {n}.\n\nSubscribe now\n\nMiddle.\n\nEmail\n\nEnd.\n", name=str(n)) for n in range(4)]
    assert clean(posts[2], boilerplate_lines(posts)).text == "Start 2.\n\nMiddle.\n\nEmail\n\nEnd.\n"


@pytest.mark.parametrize(
    ("source", "url"),
    [("files", "https://mira.example.com/p/1"), ("files", None), ("web", None), ("linkedin", "not a url")],
)
def test_text_that_is_no_page_of_a_site_is_never_stripped(source, url):
    texts = [document(page.text, source=source, url=url, name=page.id) for page in pages()]
    boilerplate = boilerplate_lines(texts)
    assert boilerplate == {}
    assert [clean(each, boilerplate_lines(pages())) for each in texts] == texts


def test_two_pages_of_a_site_are_too_few_to_tell_what_recurs():
    assert boilerplate_lines(pages()[:2]) == {}


def test_sites_do_not_mix():
    others = [
        document(f"Share\n\nSubscribe\n\nText {n}", url=f"https://{n}.example.org/", name=str(n)) for n in range(9)
    ]
    assert boilerplate_lines(others) == {}
    assert site(others[0]) == "0.example.org"
    assert site(document("x", url="https://www.Example.org/a")) == "example.org"


def test_cleaning_depends_only_on_the_lines_that_occur_in_the_document():
    boilerplate = boilerplate_lines(pages())
    plain = document("Nothing of the kind.\n\nShare", name="plain")
    assert relevant(plain, boilerplate) == {"Share"}
    assert relevant(document("Nothing.", url="https://elsewhere.example.org/"), boilerplate) == frozenset()
    page = pages()[0]
    mine = {"mira.example.com": relevant(page, boilerplate)}
    assert clean(page, mine) == clean(page, boilerplate)
    wider = {"mira.example.com": boilerplate["mira.example.com"] | {"Sign up"}}
    assert relevant(page, wider) == relevant(page, boilerplate)


def test_the_step_s_fingerprint_does_not_change_with_the_pages_of_a_site():
    boilerplate = boilerplate_lines(pages())
    assert cleaning({}).fingerprint == cleaning(boilerplate).fingerprint
    out = list(LocalRunner().run([cleaning(boilerplate)], pages(), RunReport()))
    assert [each.text for each in out] == [clean(page, boilerplate).text for page in pages()]


def test_broken_encoding_is_repaired_in_prose_and_in_the_title():
    broken = "It’s a café – “really”".encode().decode("cp1252", "replace").replace("\ufffd", "\x9d")
    cleaned = clean(document(f"{broken}\n", title="CafÃ©"), {})
    assert cleaned.text == "It’s a café – “really”\n"
    assert cleaned.title == "Café"


def test_code_that_shows_broken_encoding_is_kept():
    text = "Write `Ã©` to see Ã©.\n\n```\nÃ© â€™\n```\n\n    Ã©\n"
    assert repair(text) == "Write `Ã©` to see é.\n\n```\nÃ© â€™\n```\n\n    Ã©\n"


def test_byte_order_mark_nul_and_lone_surrogates_go_because_no_store_keeps_them():
    assert repair("\ufeffa\x00b\ud800c\ud83d\ude00") == "ab\ufffdc😀"


@pytest.mark.parametrize(
    "text",
    [
        "don’t “straighten” 'these' — or … ﬁ ﬂ Ａ１ ½",
        "two spaces  \nmake a break\r\nand CRLF stays\t\n\n\n",
        "&amp; &lt;b&gt; &nbsp; \x1b[1m",
        "naïve façade, Ærøskøbing, ŁÓDŹ, Ω ≠ Å, ñandú, ¿qué?, «été», „so“",
        "日本語、中文。한국어 العربية हिन्दी ไทย 👩‍💻🇨🇭",
        "e\u0301 is not é here",
    ],
)
def test_text_that_is_not_broken_comes_back_equal(text):
    assert repair(text) == text
    assert clean(document(text), boilerplate_lines(pages())).text == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="`\x00\ufeff")))
def test_fenced_code_survives_repair_byte_for_byte(code):
    text = f"Ã© before\n\n```text\n{code}\n```\n\nÃ© after"
    assert repair(text) == f"é before\n\n```text\n{code}\n```\n\né after"


@given(
    st.lists(
        st.sampled_from(["Share", "Subscribe", "Top", "Words of mine.", "", "```", "- Share", "7", "# T", "#### T"])
    )
)
def test_only_boilerplate_lines_are_ever_lost_from_a_page_without_comments(lines):
    page = document("\n".join(lines))
    boilerplate = {"mira.example.com": frozenset({"Share", "Subscribe", "Top", "- Share", "0"})}
    kept = clean(page, boilerplate).text.split("\n")
    assert kept.count("Words of mine.") == lines.count("Words of mine.")
    assert kept.count("# T") == lines.count("# T")
    assert kept.count("```") == lines.count("```")


@pytest.mark.parametrize("blog", ["blog-matklad", "blog-simonw-til", "blog-jakearchibald"])
def test_no_character_of_a_real_blog_is_lost_even_if_it_were_crawled(corpus, blog):
    posts = [json.loads(line) for line in corpus(f"{blog}/posts.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = [document(post["text"], title=post["title"], name=post["id"]) for post in posts]
    boilerplate = boilerplate_lines(documents)
    assert [each.id for each in documents if clean(each, boilerplate) != each] == []
