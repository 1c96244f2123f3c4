"""LinkedIn's data export: posts as they were written, despite LinkedIn's own way with quotes."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collect.archives import Watched, context, documents, endings, outcomes, run, write_folder, write_zip
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.linkedin import LinkedInSource, unquoted

HEADER = "Date,ShareLink,ShareCommentary,SharedUrl,MediaUrl,Visibility\r\n"
LINK = "https://www.linkedin.com/feed/update/urn%3Ali%3Ashare%3A"
TEA = (
    f'2024-05-17 08:31:02,{LINK}1,"I like tea.""\n""\n""It is ""plain"" and good. #Tea #slow_food",,,MEMBER_NETWORK\r\n'
)
RAIN = f'2024-05-18 09:00:00,{LINK}2,"Rain, again: worth a read",https://ann.example/rain,,PUBLIC\r\n'
ARTICLE = """<html><head><title>Why we left</title><style>p {{}}</style></head><body>
<h1><a href="https://www.linkedin.com/pulse/why-we-left-ann-roe">Why we left</a></h1>
<p class="created">Created on 2023-03-05 21:34</p>
{published}
<div><p>We left because of <strong>rain</strong>.</p><h2>Then</h2><ul><li>tea</li></ul>
<pre><code>x = 1


y = 2</code></pre></div></body></html>"""
PUBLISHED = '<p class="published">Published on 2023-03-05 21:36</p>'


def source(path: Path, **options) -> LinkedInSource:
    return LinkedInSource.open(path.name, context(path.parent), **options)


def export(tmp_path: Path, *rows: str, name: str = "Shares.csv", **files: str) -> Path:
    files = {path.replace("__", "/"): text for path, text in files.items()}
    return write_zip(tmp_path / "Complete_LinkedInDataExport_03-14-2026.zip", {name: HEADER + "".join(rows), **files})


def test_a_post_reads_as_it_was_written(tmp_path: Path) -> None:
    found = documents(source(export(tmp_path, TEA)))
    (tea,) = found.values()
    assert tea.text == 'I like tea.\n\nIt is "plain" and good. #Tea #slow_food'
    assert (tea.title, tea.kind, tea.source, tea.author) == ("I like tea.", "post", "linkedin", "Ann Roe")
    assert (tea.url, tea.tags) == (f"{LINK}1", ("Tea", "slow_food"))
    assert tea.published_at == datetime(2024, 5, 17, 8, 31, 2, tzinfo=UTC)


def test_the_address_a_post_shares_follows_its_words(tmp_path: Path) -> None:
    (rain,) = documents(source(export(tmp_path, RAIN))).values()
    assert rain.text == "Rain, again: worth a read\n\n<https://ann.example/rain>"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("One line.", "One line."),
        ('First."\n"Second."\n"Third.', "First.\nSecond.\nThird."),
        ('First."\n""\n"Third.', "First.\n\nThird."),
        ('First."\n"\n"Third.', "First.\n\nThird."),
        ('He said ""no"" today.', 'He said "no" today.'),
        ('He said ""no"" today."\n"And left.', 'He said "no" today.\nAnd left.'),
        ('"Yes."\n"No."', '"Yes."\n"No."'),
        ('x = ""', 'x = ""'),
        ("Plain.\nLines.", "Plain.\nLines."),
    ],
)
def test_quotes_that_linkedin_added_go_and_those_of_the_author_stay(cell: str, written: str) -> None:
    assert unquoted(cell) == written


@given(st.lists(st.text("abc .,!'", max_size=8), min_size=1, max_size=6))
def test_any_text_without_quotes_survives_linkedins_line_breaks(lines: list[str]) -> None:
    assert unquoted('"\n"'.join(lines)) == "\n".join(lines)


@given(
    st.lists(st.text(max_size=40).map(lambda text: text.replace("\r", "").replace("\0", "")), min_size=1, max_size=4)
)
def test_any_well_formed_file_gives_one_item_per_record(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    out = io.StringIO()
    for number, text in enumerate(texts):
        csv.writer(out).writerow(["2024-05-17 08:31:02", f"{LINK}{number}", text, "", "", "PUBLIC"])
    folder = tmp_path_factory.mktemp("any")
    path = write_folder(folder / "export", {"Shares.csv": (HEADER + out.getvalue()).encode("utf-8", "replace")})
    assert endings(source(path)).keys() == {f"{LINK}{number}" for number in range(len(texts))}


def test_every_record_that_is_left_out_says_why(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        TEA,
        f"2024-05-18 10:00:00,{LINK}3,,https://other.example/,,MEMBER_NETWORK\r\n",
        f"2024-05-18 11:00:00,{LINK}4,For friends.,,,CONNECTIONS\r\n",
        f"2024-05-18 12:00:00,{LINK}5,Torn\r\n",
        TEA,
    )
    assert endings(source(path)) == {
        f"{LINK}1": ("added", ""),
        f"{LINK}3": ("skipped", "shares what somebody else wrote, without words of its own"),
        f"{LINK}4": ("skipped", "was shown to CONNECTIONS only; add it to `visibility` to collect it"),
        f"{LINK}5": ("failed", "Shares.csv: the record that ends in line 7 is damaged; mend it"),
        f"{LINK}1#10": ("skipped", "repeats the post of an earlier line of Shares.csv"),
    }


def test_visibility_says_which_audiences_are_collected(tmp_path: Path) -> None:
    path = export(tmp_path, TEA, f"2024-05-18 11:00:00,{LINK}4,For friends.,,,CONNECTIONS\r\n")
    assert list(documents(source(path, visibility=("CONNECTIONS",)))) == [f"{LINK}4"]


@pytest.mark.parametrize("name", ["Articles/why.html", "Articles/Articles/why.html", "Complete/Articles/why.html"])
def test_an_article_has_its_title_date_address_and_code(tmp_path: Path, name: str) -> None:
    path = write_folder(tmp_path / "export", {name: ARTICLE.format(published=PUBLISHED)})
    (article,) = documents(source(path)).values()
    assert article.text == ("We left because of **rain**.\n\n## Then\n\n- tea\n\n```\nx = 1\n\n\ny = 2\n```")
    assert (article.title, article.kind) == ("Why we left", "article")
    assert article.url == "https://www.linkedin.com/pulse/why-we-left-ann-roe"
    assert article.published_at == datetime(2023, 3, 5, 21, 36, tzinfo=UTC)


def test_a_draft_of_an_article_is_skipped(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "export", {"Articles/why.html": ARTICLE.format(published="")})
    assert endings(source(path)) == {"Articles/why.html": ("skipped", "is a draft: it names no date of publication")}


def test_comments_are_collected_by_choice_as_notes(tmp_path: Path) -> None:
    comments = f'Date,Link,Message\r\n2024-06-01 10:00:00,{LINK}9,"I say \\"no\\", and why:\nrain."\r\n'
    path = export(tmp_path, TEA, **{"Comments.csv": comments})
    assert list(documents(source(path))) == [f"{LINK}1"]
    comment = documents(source(path, comments=True))[f"comment:{LINK}9#2024-06-01 10:00:00"]
    assert (comment.text, comment.kind) == ('I say "no", and why:\nrain.', "note")


def test_files_named_by_member_number_and_lines_before_the_header_are_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"Shares_17529409.csv": f"\ufeffNotes:\r\n\r\n{HEADER}{RAIN}"})
    assert [document.title for document in documents(source(path)).values()] == ["Rain, again: worth a read"]


def test_a_second_run_fetches_nothing_and_a_newer_export_updates_and_removes(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    path = export(tmp_path, TEA, RAIN)
    run(source(path), store)
    again = Watched(source(path))
    assert outcomes(run(again, store)) == {f"{LINK}1": "unchanged", f"{LINK}2": "unchanged"}
    assert again.fetched == []
    export(tmp_path, TEA.replace("good", "fine"))
    assert outcomes(run(source(path), store)) == {f"{LINK}1": "updated", f"{LINK}2": "removed"}
    assert [document.text[-20:] for document in store.documents()] == ["fine. #Tea #slow_food"[-20:]]


def test_a_zip_and_the_folder_unpacked_from_it_are_the_same(tmp_path: Path) -> None:
    files = {"Shares.csv": HEADER + TEA, "Articles/why.html": ARTICLE.format(published=PUBLISHED)}
    zipped = source(write_zip(tmp_path / "a.zip", files))
    folder = source(write_folder(tmp_path / "a", files))
    assert list(zipped.list()) == list(folder.list())
    assert {key: document.id for key, document in documents(zipped).items()} == {
        key: document.id for key, document in documents(folder).items()
    }


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "another"])
def test_a_damaged_export_is_a_problem_and_nothing_is_removed(tmp_path: Path, damage: str) -> None:
    store = MemoryWarehouse()
    path = export(tmp_path, TEA, RAIN)
    run(source(path), store)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "another":
        write_zip(path, {"notes.txt": "no export"})
    else:
        if damage == "flipped":
            data[60] ^= 0xFF
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    report = run(source(path), store)
    assert path.name in report.problem
    assert len(list(store.documents())) == 2


def test_archives_under_linkedins_own_name_are_recognised() -> None:
    assert LinkedInSource.recognises("~/Downloads/Basic_LinkedInDataExport_03-14-2026.zip")
    assert LinkedInSource.recognises("./Complete_LinkedInDataExport_03-14-2026/")
    assert not LinkedInSource.recognises("./linkedin")
    assert not LinkedInSource.recognises("https://www.linkedin.com/in/ann")
