"""Exports as archives: found in any wrapping, read in bounded pieces, and never a reason to lose what is there."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collect.archives import context, outcomes, run, write_folder, write_zip
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.body import is_credit
from llm_twin.collect.export import Export, Shelf, opening
from llm_twin.collect.files import FilesSource
from llm_twin.collect.linkedin import LinkedInSource
from llm_twin.collect.medium import MediumSource
from llm_twin.core.errors import ItemError, SourceError

HEADER = "Date,ShareLink,ShareCommentary,SharedUrl,MediaUrl,Visibility\n"
ROWS = "".join(f"2024-05-17 08:31:02,https://l.example/{n},Post {n} on rain.,,,PUBLIC\n" for n in range(5))
ARTICLE = "<html><body><h1>Tea</h1><p class='published'>Published on 2023-03-05</p><p>Tea is hot.</p></body></html>"


def linkedin(path: Path) -> LinkedInSource:
    return LinkedInSource.open(path.name, context(path.parent))


def test_files_are_found_below_any_folder_and_junk_is_not(tmp_path: Path) -> None:
    names = [
        "export-7/posts/a.html",
        "posts/b.html",
        "__MACOSX/posts/._a.html",
        "posts/deep/c.html",
        "old/posts/b.html",
    ]
    for export in (
        Export(write_zip(tmp_path / "a.zip", dict.fromkeys(names, "x")), name="a.zip"),
        Export(write_folder(tmp_path / "a", dict.fromkeys(names, "x")), name="a"),
    ):
        assert export.find(r"posts/[^/]+\.html") == {
            "posts/a.html": "export-7/posts/a.html",
            "posts/b.html": "posts/b.html",
        }


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (["posts.csv", "posts/1.tea.html"], 'set kind = "substack"'),
        (["a/posts/2021-03-04_Tea-0a1b.html", "README.html"], 'set kind = "medium"'),
        (["Connections.csv"], 'set kind = "linkedin"'),
        (["data/tweets.js"], 'set kind = "x"'),
        (["general/2025-05-01.json", "channels.json"], 'set kind = "slack"'),
        (["ChatExport_2026-03-14/result.json"], 'set kind = "telegram"'),
        ([f"Tea/Pots {'0a' * 16}.md"], "export of Notion: unpack it"),
        (["Export-1b2c-Part-1.zip"], "export of Notion: unpack it"),
        (["tea.md"], "set the `kind` of the platform .* or unpack it"),
    ],
)
def test_an_archive_is_never_read_as_a_document_and_says_what_to_do(
    tmp_path: Path, files: list[str], advice: str
) -> None:
    write_zip(tmp_path / "Ub3hRSB8Tz.zip", dict.fromkeys(files, "x"))
    report = run(FilesSource.open("Ub3hRSB8Tz.zip", context(tmp_path)), MemoryWarehouse())
    assert re.search(f"^Ub3hRSB8Tz.zip is an archive, not a document; .*{advice}", report.problem)
    assert report.states == ()


@pytest.mark.parametrize("kind", [MediumSource, LinkedInSource])
def test_an_export_of_another_platform_says_whose_it_is(tmp_path: Path, kind) -> None:
    write_zip(tmp_path / "export.zip", {"posts.csv": "post_id\n", "posts/1.tea.html": "<p>Tea is hot.</p>"})
    report = run(kind.open("export.zip", context(tmp_path)), MemoryWarehouse())
    assert report.problem.endswith('it looks like an export of the kind "substack": set that')
    assert report.states == ()


def test_a_file_has_one_version_in_a_zip_and_in_a_folder(tmp_path: Path) -> None:
    files = {"a.txt": b"tea" * 1_000_000, "empty.txt": b""}
    zipped = Export(write_zip(tmp_path / "a.zip", files), name="a")
    folder = Export(write_folder(tmp_path / "a", files), name="a")
    assert [zipped.version(name) for name in files] == [folder.version(name) for name in files]
    assert zipped.version("a.txt") == f"{zlib.crc32(files['a.txt']):08x}{3_000_000:x}"


def test_a_locked_file_says_so(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.txt": "tea"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1  # "encrypted"
    path.write_bytes(data)
    with pytest.raises(ItemError, match=r"encrypted.*download it again"):
        Export(path, name="a.zip").read("a.txt")


def test_a_list_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_twin.collect.export.MAX_LIST_BYTES", 50_000)
    path = write_zip(tmp_path / "a.zip", {"Shares.csv": HEADER + ROWS * 300})
    report = run(linkedin(path), MemoryWarehouse())
    assert "Shares.csv cannot be read: it unpacks to more than 50,000 bytes; nothing was removed" in report.problem
    assert report.states == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (HEADER.encode() + b"2024-05-17 08:31:02,https://l.example/1,\xff\xfe,,,PUBLIC\n", "it is not UTF-8"),
        (HEADER.encode() + b'2024-05-17,https://l.example/1,"' + b"x" * 200_000 + b'",,,PUBLIC\n', "field larger than"),
        (HEADER.encode() + b"x" * 1_100_000, "it has a line of more than 1,000,000 characters"),
        (b"Date,Link\n1,2\n", "has no columns Date, ShareLink, ShareCommentary"),
    ],
)
def test_a_list_that_cannot_be_read_is_a_problem_and_removes_nothing(tmp_path: Path, content: bytes, why: str) -> None:
    store = MemoryWarehouse()
    run(linkedin(write_zip(tmp_path / "a.zip", {"Shares.csv": HEADER + ROWS})), store)
    report = run(linkedin(write_zip(tmp_path / "a.zip", {"Shares.csv": content})), store)
    assert why in report.problem
    assert len(list(store.documents())) == 5


def test_a_list_damaged_at_its_end_lets_no_document_go_for_what_came_before(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    run(linkedin(write_zip(tmp_path / "a.zip", {"Shares.csv": HEADER + ROWS})), store)
    hidden = (HEADER + ROWS.replace("PUBLIC", "HIDDEN")).encode()
    run_two = run(linkedin(write_zip(tmp_path / "a.zip", {"Shares.csv": hidden + b"\xff"})), store)
    assert "it is not UTF-8" in run_two.problem
    assert len(list(store.documents())) == 5


@given(at=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.booleans())
def test_no_damage_to_a_zip_raises_anything_but_a_problem_or_ends_an_item_without_a_reason(
    tmp_path_factory: pytest.TempPathFactory, at: float, change: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.zip"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Shares.csv", HEADER + ROWS)
        archive.writestr("Articles/tea.html", ARTICLE)
    data = bytearray(out.getvalue())
    place = int(at * len(data))
    if cut:
        del data[place:]
    else:
        data[place] ^= change
    path.write_bytes(data)
    report = run(linkedin(path), MemoryWarehouse())
    assert all(state.outcome == "added" or state.reason for state in report.states)
    assert report.problem or report.states


def test_an_item_can_be_fetched_without_a_listing_and_not_once_it_is_gone(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"Shares.csv": HEADER + ROWS})
    source = linkedin(path)
    items = list(source.list())
    assert linkedin(path).fetch(items[1]).text == "Post 1 on rain."
    write_zip(path, {"Shares.csv": HEADER})
    with pytest.raises(ItemError, match="is not in the export any more; collect again"):
        linkedin(path).fetch(items[1])


def test_an_address_that_leads_nowhere_says_so(tmp_path: Path) -> None:
    for name in ("gone.zip", "gone"):
        with pytest.raises(SourceError, match=rf"{name} is not there .*; correct its address"):
            list(linkedin(tmp_path / name).list())


def test_opening_a_source_reads_nothing(tmp_path: Path) -> None:
    source = linkedin(tmp_path / "later.zip")
    write_zip(tmp_path / "later.zip", {"Shares.csv": HEADER + ROWS})
    assert set(outcomes(run(source, MemoryWarehouse())).values()) == {"added"}


def test_the_shelf_keeps_documents_apart_and_records_in_order() -> None:
    shelf = Shelf()
    shelf.add("b", {"n": 2}, place=2)
    shelf.add("a", {"n": 1}, name="x")
    shelf.add("b", {"n": 1}, place=1)
    before = dict(shelf.versions())
    assert list(before) == ["a", "b"]
    assert [record["n"] for record in shelf.records("b")] == [1, 2]
    shelf.move([("x", "b")])
    after = dict(shelf.versions())
    assert list(after) == ["b"]
    assert after["b"] != before["b"]
    assert [record["n"] for record in shelf.records("b")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\n Rain, again.\nAnd more.", "Rain, again."),
        ("word " * 30, "word word word word word word word word word word word word word word word word…"),
        ("x" * 200, "x" * 80 + "…"),
        ("", ""),
    ],
)
def test_the_first_line_of_a_post_is_its_title(text: str, title: str) -> None:
    assert opening(text) == title


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Photo by Joe Doe on Unsplash", True),
        ("Image credit: Joe Doe", True),
        ("Joe Doe via Getty Images", True),
        ("Source: Wikimedia Commons", True),
        ("Our house in the rain.", False),
        ("The photo that my mother took on the day we left", False),
        ("Photographs lie, and this is one of those that lie best: " + "a long story " * 10, False),
    ],
)
def test_credits_of_pictures_are_told_from_captions(caption: str, expected: bool) -> None:
    assert is_credit(caption) == expected
