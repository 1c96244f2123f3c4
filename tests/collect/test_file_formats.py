"""What each format's reader makes of bytes: the author's characters, and what the file says about itself."""

from __future__ import annotations

import json
import string
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collect.office_files import docx, paragraph, pdf
from llm_twin.collect import office
from llm_twin.collect.formats import decode, read_markdown, read_mdx, read_notebook, read_rst
from llm_twin.collect.html import fenced, people_in, read_html
from llm_twin.collect.reading import (
    Reading,
    date_in,
    document_from,
    heading_of,
    language_of,
    name_of,
    parse_date,
    repaired,
)
from llm_twin.core.errors import ItemError

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def make(reading: Reading, *, path: str = "notes/on-queues.md", author: str = "Ann Lee", modified_at=None):
    return document_from(
        reading, author=author, source="files", locator=path, path=path, fetched_at=NOON, modified_at=modified_at
    )


# --- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings_give_the_same_text(encoding: str) -> None:
    text = "Größe — “quoted” 日本\n"
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Das ist ein schöner Tag für die Straße. Wir gehen über die Brücke und grüßen Käthe."),
        ("cp1251", "Сегодня хороший день, и мы идём гулять в парк с друзьями."),
        ("shift_jis", "今日はとても良い天気です。公園へ散歩に行きましょう。"),
    ],
)
def test_older_encodings_are_recognised(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_windows_line_ends_become_lf_and_nothing_else_changes() -> None:
    assert decode(b"one  \r\n\r\n\ttwo\r\n") == "one  \n\n\ttwo\n"


def test_damaged_utf8_fails_with_the_line_instead_of_turning_accents_into_noise() -> None:
    data = "Erste Zeile mit Umläuten: äöüß\nzweite Zeile\n".encode() + b"kaputt: \xff\n"
    with pytest.raises(ItemError, match=r"damaged UTF-8 in line 3 \(byte 57\)") as caught:
        decode(data)
    assert not caught.value.skipped


def test_binary_data_is_skipped() -> None:
    with pytest.raises(ItemError, match="binary") as caught:
        decode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4)
    assert caught.value.skipped


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\0")))
def test_every_utf8_text_survives_character_for_character(text: str) -> None:
    assert decode(b"\xef\xbb\xbf" + text.encode()) == text


@given(st.text())
def test_what_is_stored_can_always_be_encoded(text: str) -> None:
    kept = repaired(text)
    kept.encode()
    assert "\0" not in kept
    assert "\r" not in kept


# --- front matter ---------------------------------------------------------------------------------------------------


def test_yaml_front_matter_names_title_date_author_address_tags_language_and_kind() -> None:
    reading = read_markdown(
        b"---\ntitle: Queues\ndate: 2021-03-04T10:00:00+02:00\nauthor:\n  name: Ann Lee\ntags: [ops, queues]\n"
        b"canonical_url: https://ann.example/queues\nlang: en-GB\nkind: note\n---\n\n# Queues\n\nThey grow.\n"
    )
    assert reading == Reading(
        text="\n# Queues\n\nThey grow.\n",
        title="Queues",
        authors=("Ann Lee",),
        url="https://ann.example/queues",
        published_at=datetime(2021, 3, 4, 8, tzinfo=UTC),
        tags=("ops", "queues"),
        language="en",
        kind="note",
    )


def test_toml_front_matter_with_tables_of_zola_is_read() -> None:
    reading = read_markdown(
        b'+++\ntitle = "Queues"\ndate = 2021-03-04\n[taxonomies]\ntags = ["ops"]\n+++\nThey grow.\n'
    )
    assert (reading.title, reading.published_at, reading.tags) == ("Queues", datetime(2021, 3, 4, tzinfo=UTC), ("ops",))
    assert reading.text == "They grow.\n"


def test_a_bare_colon_in_a_title_does_not_cost_the_front_matter() -> None:
    reading = read_markdown(b"---\ntitle: Twins: a story\ndate: 2021-03-04\ntags:\n- a\n- b\n---\nText.\n")
    assert (reading.title, reading.tags) == ("Twins: a story", ("a", "b"))
    assert reading.published_at == datetime(2021, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"---\ntitle: [unclosed\nauthor: Ann\n---\nText.\n", "front matter is not valid YAML in line 3"),
        (b"+++\ntitle = unquoted\n+++\nText.\n", "front matter is not valid TOML"),
    ],
)
def test_front_matter_nobody_can_read_fails_with_the_place(data: bytes, reason: str) -> None:
    with pytest.raises(ItemError, match=reason) as caught:
        read_markdown(data)
    assert not caught.value.skipped


@pytest.mark.parametrize(
    "text",
    [
        "---\nA line between two breaks.\n\n---\n\nMore.\n",
        "---\nNever closed: so it is a break.\n",
        "---\nHe said [this\n---\nMore.\n",
        "Text first.\n---\ntitle: no\n---\n",
    ],
)
def test_a_thematic_break_is_not_front_matter(text: str) -> None:
    assert read_markdown(text.encode()).text == text


@pytest.mark.parametrize("line", ["draft: true", "published: false"])
def test_drafts_are_skipped(line: str) -> None:
    with pytest.raises(ItemError, match="draft") as caught:
        read_markdown(f"---\n{line}\n---\nNot yet.\n".encode())
    assert caught.value.skipped


@pytest.mark.parametrize("key", ["draft", "kind", "lang", "title", "tags", "author", "date", "url"])
def test_a_few_aliases_that_stand_for_gigabytes_are_never_written_out(key: str) -> None:
    aliases = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    front = f"---\na0: &a0 [lol]\n{aliases}{key}: *a11\n---\nText.\n"
    assert read_markdown(front.encode()).text == "Text.\n"


@pytest.mark.parametrize(
    ("byline", "people"),
    [
        ("Jane Roe; Joe Doe", ("Jane Roe", "Joe Doe")),
        ("김 철수, محمد علي", ("김 철수", "محمد علي")),
        ("admin; site editor; 2 people", ()),
    ],
)
def test_people_in_a_byline_are_told_from_software_in_every_script(byline: str, people: tuple[str, ...]) -> None:
    assert people_in(byline) == people


def test_a_text_without_spaces_is_as_long_as_its_characters() -> None:
    assert make(Reading("队列要么是满的，要么是空的。" * 10)).kind == "article"
    assert make(Reading("队列要么是满的。")).kind == "note"


def test_an_address_without_a_site_is_no_canonical_url() -> None:
    assert read_markdown(b"---\nurl: /posts/queues/\n---\nText.\n").url is None


@given(st.text(alphabet=string.printable.replace("\r", "")))
@example("---\n!!python/object/apply:os.system ['true']\n---\n")
@example("---\n&a [*a]\n---\nx")
def test_no_text_makes_the_markdown_reader_fail_unexpectedly(text: str) -> None:
    with suppress(ItemError):
        assert text.endswith(read_markdown(text.encode()).text)


# --- Markdown relatives ---------------------------------------------------------------------------------------------


def test_mdx_keeps_the_prose_and_the_code_and_drops_the_program() -> None:
    source = """import { Note } from '../components'
import Chart from './chart'
export const meta = {
  title: 'Signals',
  date: '2022-05-06',
}

# Signals

<Note kind="warning">
Don't poll; *listen* to <Kbd>Ctrl</Kbd>.
</Note>

{/* a remark to myself */}
<Chart data={[1, {a: 2}]} />

```jsx
import { Note } from 'x'
<Note>stays</Note>
```

Use `<Note/>` inline; imports are fine in prose.
import costs went up.
"""
    reading = read_mdx(source.encode())
    assert (reading.title, reading.published_at) == ("Signals", datetime(2022, 5, 6, tzinfo=UTC))
    lines = [line for line in reading.text.split("\n") if line.strip()]
    assert lines == [
        "# Signals",
        "Don't poll; *listen* to Ctrl.",
        "```jsx",
        "import { Note } from 'x'",
        "<Note>stays</Note>",
        "```",
        "Use `<Note/>` inline; imports are fine in prose.",
        "import costs went up.",
    ]


def test_rst_titles_become_headings_in_the_order_of_their_adornments() -> None:
    source = """=======
Brewing
=======

:date: 2020-02-03
:author: Ann Lee
:tags: tea, water

Water first.

Leaves
------

.. note:: Not boiling.

Green
~~~~~

A table follows::

    x
    -----

Pots
----

====  ====
a     b
====  ====

----

End.
"""
    reading = read_rst(source.encode())
    assert [line for line in reading.text.split("\n") if line.startswith("#")] == [
        "# Brewing",
        "## Leaves",
        "### Green",
        "## Pots",
    ]
    assert (reading.published_at, reading.authors, reading.tags) == (
        datetime(2020, 2, 3, tzinfo=UTC),
        ("Ann Lee",),
        ("tea", "water"),
    )
    for kept in (".. note:: Not boiling.", "    x\n    -----", "====  ====\na     b\n====  ====", "\n----\n\nEnd."):
        assert kept in reading.text


def test_notebooks_keep_text_and_code_and_leave_outputs_out() -> None:
    notebook = {
        "metadata": {"language_info": {"name": "python"}},
        "cells": [
            {"cell_type": "raw", "source": "---\ntitle: Counting\ndate: 2023-01-02\n---\n"},
            {"cell_type": "markdown", "source": ["# Counting\n", "\n", "It's *easy*."]},
            {"cell_type": "code", "source": "print('```')\n", "outputs": [{"text": "SECRET OUTPUT"}]},
            {"cell_type": "code", "source": "", "outputs": []},
        ],
    }
    reading = read_notebook(json.dumps(notebook).encode())
    assert reading.title == "Counting"
    assert reading.text.strip() == "# Counting\n\nIt's *easy*.\n\n````python\nprint('```')\n````"


def test_a_broken_notebook_fails_with_a_reason() -> None:
    for data in (b"{", b"[]", b'{"cells": [1]}'):
        with pytest.raises(ItemError, match="not a Jupyter notebook"):
            read_notebook(data)


@given(st.text(alphabet="`a\n", max_size=30))
def test_a_fence_is_never_closed_by_the_code_in_it(code: str) -> None:
    first, *_, last = fenced(code, "x").split("\n")
    assert first == f"{last}x"
    assert last not in code


# --- HTML -----------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en"><head><title>Queues | Ann's site</title>
<meta name="author" content="Ann Lee"><link rel="canonical" href="https://ann.example/queues">
<meta property="article:published_time" content="2021-03-04T10:00:00Z"></head><body>
<nav><a href="/">Home</a> <a href="/about">About me</a></nav>
<article><h1>Queues</h1><p>I don't like <em>very</em> long queues; use <code>pop()</code> and read <a
href="https://x.example/y">this</a>. A queue that never drains is only a slow way of losing the work you got.</p>
<pre><code class="language-python">def pop(queue):
    if not queue:
        return None

    return queue[0]
</code></pre>
<blockquote><p>Queues hide problems.</p></blockquote>
<p>That was said by somebody else, and I agree with every word of it, which is why I quote it here at all.</p>
</article><footer>Subscribe to my newsletter! Share on Twitter.</footer></body></html>"""


def test_html_becomes_markdown_with_its_code_byte_for_byte_and_quotes_marked() -> None:
    reading = read_html(PAGE.encode())
    assert (
        "```python\ndef pop(queue):\n    if not queue:\n        return None\n\n    return queue[0]\n```" in reading.text
    )
    assert "> Queues hide problems." in reading.text
    assert "I don't like *very* long queues; use `pop()` and read [this](https://x.example/y)." in reading.text
    assert "Subscribe" not in reading.text
    assert "About me" not in reading.text
    assert "twin0" not in reading.text


def test_code_in_html_survives_wherever_it_stands() -> None:
    long = "A long paragraph about something that matters to its author, written with care and read with pleasure."
    page = f"""<html><body><article><p>{long}</p><ol><li><p>Run this:</p><pre>make\n\nmake install</pre></li></ol>
    <p>{long}</p><pre><span class="k">a</span> ``` b<br>\tc *d* \\_ |</pre><blockquote><p>{long}</p><pre>x\ny</pre>
    </blockquote><table><tr><td>one</td><td><pre>p = 1\nq = 2</pre></td></tr></table><p>{long}</p>
    </article></body></html>"""
    text = read_html(page.encode()).text
    assert "1. Run this:\n\n```\nmake\n\nmake install\n```\n" in text
    assert "````\na ``` b\n\tc *d* \\_ |\n````" in text
    assert "> ```\n> x\n> y\n> ```" in text
    assert "| one | `p = 1 q = 2` |" in text
    assert "twin0" not in text


def test_html_metadata_comes_from_the_head() -> None:
    reading = read_html(PAGE.encode())
    assert reading.title == "Queues"
    assert reading.authors == ("Ann Lee",)
    assert reading.url == "https://ann.example/queues"
    assert reading.published_at == datetime(2021, 3, 4, tzinfo=UTC)
    assert reading.language == "en"


def test_a_byline_of_the_software_names_nobody() -> None:
    assert read_html(PAGE.replace('content="Ann Lee"', 'content="admin"').encode()).authors == ()


def test_a_page_without_an_article_is_skipped() -> None:
    with pytest.raises(ItemError, match="no article text") as caught:
        read_html(b"<html><body><div id='app'></div><script>render()</script></body></html>")
    assert caught.value.skipped


# --- PDF and DOCX ---------------------------------------------------------------------------------------------------


def test_a_pdf_gives_text_title_author_and_date() -> None:
    reading = office.read_pdf(pdf("Queues grow.", "They never shrink.", title="On queues", author="Ann Lee"))
    assert reading.text == "Queues grow.\n\nThey never shrink."
    assert (reading.title, reading.authors) == ("On queues", ("Ann Lee",))
    assert reading.published_at == datetime(2018, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_a_pdf_of_pictures_is_skipped_and_a_broken_one_fails() -> None:
    with pytest.raises(ItemError, match=r"without text \(2 pages") as caught:
        office.read_pdf(pdf("", ""))
    assert caught.value.skipped
    with pytest.raises(ItemError, match="broken PDF") as caught:
        office.read_pdf(b"%PDF-1.4 not really")
    assert not caught.value.skipped


def test_a_locked_pdf_says_that_it_needs_a_password() -> None:
    import io

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(io.BytesIO(pdf("Secret queues."))))
    writer.encrypt("hush")
    locked = io.BytesIO()
    writer.write(locked)
    with pytest.raises(ItemError, match="needs a password"):
        office.read_pdf(locked.getvalue())


def test_a_title_that_a_program_wrote_is_no_title() -> None:
    assert office.read_pdf(pdf("Text.", title="Microsoft Word - draft_final.docx")).title is None


def test_docx_becomes_markdown_with_the_authors_characters() -> None:
    reading = office.read_docx(
        docx(
            paragraph("Queues", "Heading1"),
            paragraph("I don't *shout*. snake_case, 1. first! (really) [sic] #1 - done."),
            paragraph("a  = 1", "Code"),
            paragraph("    b = 2", "Code"),
            title="On queues",
            creator="Ann Lee",
        )
    )
    assert reading.text == (
        "# Queues\n\nI don't *shout*. snake_case, 1. first! (really) [sic] #1 - done.\n\n```\na  = 1\n    b = 2\n```"
    )
    assert (reading.title, reading.authors) == ("On queues", ("Ann Lee",))
    assert reading.published_at == datetime(2019, 5, 6, 7, 8, 9, tzinfo=UTC)


def test_a_docx_names_the_program_as_creator_and_nobody_is_misled() -> None:
    assert office.read_docx(docx(paragraph("Text."), creator="Microsoft Office User")).authors == ()


@pytest.mark.parametrize("part", ["word/media/huge.bin", "word/document2.xml"])
def test_a_zip_bomb_is_refused_before_it_is_parsed(part: str) -> None:
    size = office.MAX_UNPACKED_BYTES + 1 if part.endswith(".bin") else office.MAX_XML_BYTES + 1
    bomb = docx(paragraph("Boom."), extra={part: bytes(size)})
    assert len(bomb) < 200_000
    with pytest.raises(ItemError, match="zip bomb"):
        office.read_docx(bomb)


def test_a_zip_that_lies_about_its_sizes_is_refused() -> None:
    honest = docx(paragraph("Boom."), extra={"word/media/huge.bin": bytes(3_000_000)})
    lying = honest.replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != honest
    with pytest.raises(ItemError, match="broken DOCX"):
        office.read_docx(lying)


@pytest.mark.parametrize("data", [b"PK\x03\x04 torn", b"hello", b""])
def test_a_broken_docx_fails_with_a_reason(data: bytes) -> None:
    with pytest.raises(ItemError, match="broken DOCX"):
        office.read_docx(data)


# --- from a reading to a document -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Queues\n\nText.", "Queues"),
        ("Queues\n======\n\nText.", "Queues"),
        ("```sh\n# a comment\n```\n\n# Queues #\n", "Queues"),
        ("## Queues\n\nText.", "Queues"),
        ("# About `pop()` and [links](https://x.example) {#about}\n", "About pop() and links"),
        ("Text.\n\n## Later\n", "On queues"),
        ("Text only.", "On queues"),
    ],
)
def test_the_title_is_the_first_heading_or_the_file_name(text: str, title: str) -> None:
    assert make(Reading(text=text)).title == title


def test_a_heading_is_found_whatever_the_fences_around_it() -> None:
    assert heading_of("~~~~\n```\n# no\n~~~\n# no\n~~~~\n# yes\n") == "yes"


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("2021-03-04-why_we-left.md", "Why we left"),
        ("2013/07/only-gone/index.md", "Only gone"),
        ("README.md", "README"),
        ("2021-03-04.md", "2021-03-04"),
        ("iPhone.txt", "IPhone"),
    ],
)
def test_a_file_name_makes_a_readable_title(path: str, title: str) -> None:
    assert name_of(path) == title


def test_a_date_in_the_path_beats_the_time_of_the_file() -> None:
    on_file = datetime(2026, 1, 1, tzinfo=UTC)
    assert make(Reading("Text."), path="2021-03-04-x.md", modified_at=on_file).published_at == datetime(
        2021, 3, 4, tzinfo=UTC
    )
    assert make(Reading("Text."), path="2021/03/04/x.md").published_at == datetime(2021, 3, 4, tzinfo=UTC)
    assert make(Reading("Text."), path="x.md", modified_at=on_file).published_at == on_file
    assert date_in("a-2021-13-04-b") is None


def test_touching_a_file_changes_no_content_hash_but_a_stated_date_does() -> None:
    early, late = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    first, touched = (make(Reading("Text."), modified_at=moment) for moment in (early, late))
    assert first.content_hash == touched.content_hash
    assert make(Reading("Text.", published_at=early)).content_hash != first.content_hash


@pytest.mark.parametrize(
    ("spelled", "moment"),
    [
        ("2021-03-04", datetime(2021, 3, 4, tzinfo=UTC)),
        ("2021-03-04T10:00:00+02:00", datetime(2021, 3, 4, 8, tzinfo=UTC)),
        ("2021-03-04 10:00:00 +0200", datetime(2021, 3, 4, 8, tzinfo=UTC)),
        ("Thu, 04 Mar 2021 10:00:00 GMT", datetime(2021, 3, 4, 10, tzinfo=UTC)),
        ("March 4, 2021", datetime(2021, 3, 4, tzinfo=UTC)),
        ("4 Mar 2021", datetime(2021, 3, 4, tzinfo=UTC)),
        ("03/04/2021", None),
        ("soon", None),
        ("", None),
        (20210304, None),
        (None, None),
    ],
)
def test_dates_are_read_as_people_write_them_and_never_guessed(spelled: object, moment: datetime | None) -> None:
    assert parse_date(spelled) == moment


@pytest.mark.parametrize(
    ("named", "author"),
    [((), "Ann Lee"), (("ann lee",), "Ann Lee"), (("Joe Doe", "Ann Lee"), "Ann Lee"), (("Joe  Doe", "X"), "Joe Doe")],
)
def test_a_document_that_names_an_author_keeps_it_and_the_configured_one_wins_among_several(named, author) -> None:
    assert make(Reading("Text.", authors=named)).author == author


def test_languages_are_told_from_prose_and_not_from_code_or_a_few_words() -> None:
    german = "Wir sind gestern über die Brücke gegangen, weil das Wetter endlich schön war und niemand arbeiten wollte."
    assert language_of(f"```python\nimport the, of, and_\n```\n\n{german}") == "de"
    assert language_of("Hello there.") is None
    assert language_of("def f(x):\n    return [y + 1 for y in x]\n" * 30) is None


def test_a_text_of_few_words_is_a_note_and_a_claimed_kind_wins() -> None:
    assert make(Reading("word " * 99)).kind == "note"
    assert make(Reading("word " * 100)).kind == "article"
    assert make(Reading("word", kind="post")).kind == "post"


def test_a_document_without_text_is_skipped() -> None:
    with pytest.raises(ItemError, match="no text") as caught:
        make(Reading(" \n\n"))
    assert caught.value.skipped


def test_the_canonical_url_identifies_a_document_wherever_its_file_lies() -> None:
    first = make(Reading("Text.", url="https://ann.example/q"), path="a.md")
    moved = make(Reading("Text.", url="https://ann.example/q"), path="b/c.md")
    assert first.id == moved.id
    assert make(Reading("Text."), path="a.md").id != make(Reading("Text."), path="b/c.md").id


@pytest.mark.parametrize(
    "text",
    [
        "# x" + "\t" * 500_000 + "y",
        "---\na" + " " * 500_000 + "\n b: [\n---\n",
        "<svg>" * 100_000,
        "`a ``b " * 100_000,
        "<A b={" * 100_000,
        "import {" + "\n{" * 200_000,
        ">" * 300_000,
        "{/*" * 200_000,
        "-\n" * 300_000,
        "~~~\n```\n" * 100_000,
    ],
    ids=lambda text: text[:8].strip(),
)
def test_no_pattern_of_ours_takes_for_ever_on_hostile_text(text: str) -> None:
    """Half a megabyte each: quadratic work would not end in an hour."""
    for read in (read_markdown, read_mdx, read_rst):
        with suppress(ItemError):
            make(read(text.encode()))
