"""Folders of notes as Obsidian and Notion keep them, and the bookmarks of a browser."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.collect.files import FilesSource
from llm_twin.collect.vault import Vault, wiki_links, without_ids
from llm_twin.core.errors import ItemError
from llm_twin.core.records import Document, Item

TEA, TRIP = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


def write(root: Path, files: dict[str, str]) -> FilesSource:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return FilesSource(root, author="Jane Roe")


def vault(root: Path, files: dict[str, str]) -> FilesSource:
    return write(root, {".obsidian/app.json": "{}", **files})


def documents(source: FilesSource) -> dict[str, Document]:
    return {listed.key: source.fetch(listed) for listed in source.list() if isinstance(listed, Item)}


def versions(source: FilesSource) -> dict[str, str | None]:
    return {listed.key: listed.version for listed in source.list()}


# --- Obsidian -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[[Green tea]]", "[Green tea](drinks/Green%20tea.md)"),
        ("[[green TEA]]", "[green TEA](drinks/Green%20tea.md)"),
        ("[[Green tea|a cup]]", "[a cup](drinks/Green%20tea.md)"),
        ("[[drinks/Green tea]]", "[drinks/Green tea](drinks/Green%20tea.md)"),
        ("[[Green tea.md]]", "[Green tea.md](drinks/Green%20tea.md)"),
        ("[[Green tea#How to brew]]", "[Green tea#How to brew](drinks/Green%20tea.md#How%20to%20brew)"),
        ("![[Green tea]]", "[Green tea](drinks/Green%20tea.md)"),
        ("| [[Green tea\\|cup]] | 1 |", "| [cup](drinks/Green%20tea.md) | 1 |"),
        ("> - see [[Green tea]]", "> - see [Green tea](drinks/Green%20tea.md)"),
        ("[^1]: [[Green tea]]", "[^1]: [Green tea](drinks/Green%20tea.md)"),
        ("[[v1.2 notes]]", "[v1.2 notes](v1.2%20notes.md)"),
        ("[[Published]]", "[Published](https://jane.example/tea_%28cup%29)"),
        ("[[Published#Why]]", "[Published#Why](https://jane.example/tea_%28cup%29)"),
    ],
)
def test_a_wiki_link_leads_to_the_page_it_names(tmp_path: Path, written: str, read: str) -> None:
    files = {
        "start.md": f"Read this.\n\n{written}\n",
        "drinks/Green tea.md": "Hot water.",
        "v1.2 notes.md": "Faster.",
        "Published.md": "---\nurl: https://jane.example/tea_(cup)\n---\nPublic words.",
    }
    assert documents(vault(tmp_path, files))["start.md"].text == f"Read this.\n\n{read}"


@pytest.mark.parametrize(
    "written",
    [
        "[[Nowhere]]",
        "![[photo.png]]",
        "[[other/Tea]]",
        "[[#Heading]]",
        "`[[Tea]]`",
        "`` ` [[Tea]] ``",
        "`two\nlines [[Tea]]`",
        "```\n[[Tea]]\n```",
        "- list\n\n  ~~~\n  [[Tea]]\n  ~~~",
        "    [[Tea]]",
        "```\nnever closed\n[[Tea]]",
        "<pre>\n[[Tea]]\n</pre>",
        "a <!-- [[Tea]] --> comment",
        "\\[[Tea]]",
    ],
)
def test_what_leads_nowhere_or_is_code_stays_as_written(tmp_path: Path, written: str) -> None:
    source = vault(tmp_path, {"start.md": f"Words.\n\n{written}", "Tea.md": "Hot water.", "photo.png": "x"})
    assert documents(source)["start.md"].text == f"Words.\n\n{written}"


def test_backticks_that_open_no_code_hide_no_link(tmp_path: Path) -> None:
    source = vault(tmp_path, {"start.md": "A `` and [[Tea]] and \\`[[Tea]]`.", "Tea.md": "Hot water."})
    assert documents(source)["start.md"].text == "A `` and [Tea](Tea.md) and \\`[Tea](Tea.md)`."


def test_the_nearest_of_pages_with_one_name_is_meant(tmp_path: Path) -> None:
    files = {"a/Tea.md": "A.", "b/Tea.md": "B.", "b/c/start.md": "[[Tea]] [[a/Tea]]", "a/start.md": "[[Tea]]"}
    found = documents(vault(tmp_path, files))
    assert found["b/c/start.md"].text == "[Tea](../Tea.md) [a/Tea](../../a/Tea.md)"
    assert found["a/start.md"].text == "[Tea](Tea.md)"


def test_double_brackets_in_a_folder_that_is_no_vault_are_left_alone(tmp_path: Path) -> None:
    text = "if [[ -f x ]] and [[1, 2], [3, 4]] and [[Tea]]"
    assert documents(write(tmp_path, {"start.md": text, "Tea.md": "Hot water."}))["start.md"].text == text


def test_only_pages_that_link_to_a_new_or_renamed_page_are_read_again(tmp_path: Path) -> None:
    files = {"links.md": "[[Tea]] and [[Rain]]", "other.md": "[[Rain]]", "plain.md": "No link.", "Rain.md": "Wet."}
    source = vault(tmp_path, files)
    before = versions(source)
    assert versions(source) == before
    write(tmp_path, {"Tea.md": "Hot water."})
    after = versions(source)
    assert {key for key in before if before[key] != after[key]} == {"links.md"}
    write(tmp_path, {"Tea.md": "---\nurl: https://jane.example/tea\n---\nHot water."})
    published = versions(source)
    assert {key for key in after if published[key] != after[key]} == {"links.md", "Tea.md"}


def test_a_page_is_fetched_with_its_links_without_a_listing_before(tmp_path: Path) -> None:
    source = vault(tmp_path, {"start.md": "[[Tea]]", "Tea.md": "Hot water."})
    assert source.fetch(Item("start.md")).text == "[Tea](Tea.md)"


def test_a_broken_page_fails_by_itself_and_no_other_of_its_vault(tmp_path: Path) -> None:
    source = vault(tmp_path, {"start.md": "[[Bad]]", "Bad.md": "---\ntitle: [a\n---\nWords."})
    good, bad = sorted(
        (listed for listed in source.list() if isinstance(listed, Item)), key=lambda item: -len(item.key)
    )
    assert source.fetch(good).text == "[Bad](Bad.md)"
    with pytest.raises(ItemError, match="not valid YAML"):
        source.fetch(bad)


@given(st.text(alphabet="[]`|#!\\\n a<->T", max_size=60))
def test_text_without_a_link_to_a_page_never_changes(text: str) -> None:
    assert Vault({"other.md": None}).linked(text, "start.md") == text
    if not wiki_links(text):
        assert Vault({"T.md": None, "a.md": None}).linked(text, "start.md") == text


# --- Notion ---------------------------------------------------------------------------------------------------------


def test_names_of_an_export_lose_their_ids() -> None:
    assert without_ids(f"Trips {TRIP}/Tea v1.2 {TEA}.md") == "Trips/Tea v1.2.md"
    assert without_ids(f"hash{TEA}.md") == f"hash{TEA}.md"
    assert without_ids("Tea 0123456789.md") == "Tea 0123456789.md"


def test_a_page_of_notion_has_a_title_without_id_and_keeps_its_links(tmp_path: Path) -> None:
    text = f"All about it: [Green tea](Trips%20{TRIP}/Green%20tea%20{TEA}.md)."
    source = write(tmp_path, {f"Start {TRIP}.md": text, f"Trips {TRIP}/Green tea {TEA}.md": "Hot water."})
    found = documents(source)
    assert found[f"Start {TRIP}.md"].text == text
    assert {document.title for document in found.values()} == {"Start", "Green tea"}


def test_property_lines_of_notion_give_tags_and_date_and_stay_in_the_text(tmp_path: Path) -> None:
    properties = "Created: March 4, 2021 3:15 PM\nTags: tea, slow mornings\nURL: https://other.example/x"
    text = f"# Green tea\n\n{properties}\n\nHot water."
    key = f"Green tea {TEA}.md"
    found = documents(write(tmp_path, {key: text, "plain.md": text}))
    assert found[key].tags == ("tea", "slow mornings")
    assert found[key].published_at == datetime(2021, 3, 4, 15, 15, tzinfo=UTC)
    assert found[key].url is None
    assert found[key].text == text
    assert found["plain.md"].tags == ()


@pytest.mark.parametrize("body", ["Created: 03/04/2021", "Some words.\n\nCreated: March 4, 2021", "Note\nTags: a"])
def test_what_is_no_plain_property_gives_neither_tags_nor_date(tmp_path: Path, body: str) -> None:
    key = f"Green tea {TEA}.md"
    found = documents(write(tmp_path, {key: f"# Green tea\n\n{body}\n\nHot water."}))[key]
    assert found.tags == ()
    assert found.published_at is not None
    assert found.published_at.year > 2021  # the time of the file


# --- bookmarks ------------------------------------------------------------------------------------------------------

BOOKMARKS = """<!DOCTYPE NETSCAPE-Bookmark-file-1>
<!-- This is an automatically generated file. -->
<META HTTP-EQUIV="Content-Type" CONTENT="text/html; charset=UTF-8">
<TITLE>Jane&#39;s bookmarks</TITLE>
<H1>Bookmarks Menu</H1>
<DL><p>
    <DT><H3 ADD_DATE="1614816000">Reading</H3>
    <DD>Words about the folder
    <DL><p>
        <DT><H3>Tea &amp; rain</H3>
        <DL><p>
            <DT><A HREF="https://tea.example/a_(b)?x=1&amp;y=2" ADD_DATE="1614866400">Tea [a guide]</A>
            <DD>Why I keep
it &lt;here&gt;
        </DL><p>
        <DT><A HREF="https://rain.example/" ADD_DATE="0"></A>
        <HR>
        <DT><A HREF="javascript:alert(1)" ADD_DATE="1700000000">Script</A>
        <DD>Not this
        <DT><A HREF="https://secret.example/" PRIVATE="1" ADD_DATE="1700000000">Secret</A>
        <DD>Nor this
    </DL><p>
    <DT><A HREF="http://last.example/" ADD_DATE="1577836800">Last</A>
    <DD>The end
"""


def test_a_bookmarks_file_is_one_note_by_folder(tmp_path: Path) -> None:
    note = documents(write(tmp_path, {"bookmarks.html": BOOKMARKS}))["bookmarks.html"]
    assert note.text == (
        "- [Last](http://last.example/) (2020-01-01): The end\n\n"
        "## Reading\n\n"
        "- [https://rain.example/](https://rain.example/)\n\n"
        "## Reading / Tea & rain\n\n"
        "- [Tea \\[a guide\\]](https://tea.example/a_%28b%29?x=1&y=2) (2021-03-04): Why I keep it <here>"
    )
    assert (note.kind, note.title) == ("note", "Jane's bookmarks")
    assert note.published_at == datetime(2021, 3, 4, 14, tzinfo=UTC)


def test_a_bookmarks_file_without_web_pages_is_skipped_with_its_reason(tmp_path: Path) -> None:
    text = '<!DOCTYPE NETSCAPE-Bookmark-file-1>\n<DL><p><DT><A HREF="place:sort=8">Recent</A></DL>'
    source = write(tmp_path, {"bookmarks.html": text})
    with pytest.raises(ItemError, match="holds no bookmarks") as caught:
        documents(source)
    assert caught.value.skipped
