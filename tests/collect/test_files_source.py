"""What a folder, a file or a glob lists, and which bad files it survives."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collect.office_files import docx, paragraph, pdf
from llm_twin.collect.files import FilesSource
from llm_twin.core.errors import ItemError, SourceError
from llm_twin.core.records import Document, Item, ItemState

NOBODY = 65534


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def keys(source: FilesSource) -> list[str]:
    return [listed.key for listed in source.list()]


def states(source: FilesSource) -> dict[str, tuple[str, str]]:
    """Listed states and fetched refusals by key: what a report would show of them."""
    ended = {}
    for listed in source.list():
        if isinstance(listed, ItemState):
            ended[listed.key] = (listed.outcome, listed.reason)
            continue
        try:
            source.fetch(listed)
        except ItemError as error:
            ended[listed.key] = ("skipped" if error.skipped else "failed", error.reason)
    return ended


def documents(source: FilesSource) -> dict[str, Document]:
    return {listed.key: source.fetch(listed) for listed in source.list() if isinstance(listed, Item)}


def versions(source: FilesSource) -> dict[str, str | None]:
    return {listed.key: listed.version for listed in source.list()}


def age(path: Path, seconds: float = 3600) -> None:
    """Give a file times well in the past, except the change time, which no program can set."""
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


@pytest.fixture
def as_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Permissions mean nothing to root: become somebody to whom they do."""
    if os.geteuid() != 0:
        yield
        return
    for folder in [tmp_path_factory.getbasetemp(), *tmp_path_factory.getbasetemp().parents]:
        if folder != Path("/") and folder.stat().st_uid == 0 and folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


# --- what is listed -------------------------------------------------------------------------------------------------


def test_a_folder_lists_its_writing_in_order_and_counts_other_files(tmp_path: Path) -> None:
    names = ["b.md", "a.MDX", "sub/c.txt", "sub/d.rst", "e.ipynb", "f.html", "g.pdf", "h.docx", "i.dj"]
    write(tmp_path, {**dict.fromkeys(names, "text"), "photo.jpg": "x", "logo.PNG": "x", "Makefile": "x"})
    source = FilesSource(tmp_path, author="Ann")
    assert keys(source) == ["a.MDX", "b.md", "e.ipynb", "f.html", "g.pdf", "h.docx", "i.dj", "sub/c.txt", "sub/d.rst"]
    assert dict(source.ignored) == {".jpg": 1, ".png": 1, "(none)": 1}


def test_hidden_files_and_packages_of_others_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys([".git/a.md", ".hidden.md", "x/node_modules/y/README.md", "venv/z.md", "a.md"], "t"))
    assert keys(FilesSource(tmp_path, author="Ann")) == ["a.md"]


def test_gitignore_and_twinignore_work_from_every_folder_down(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["a.md", "draft.md", "sub/draft.md", "sub/b.md", "sub/deep/b.md", "old/c.md"], "t"))
    write(tmp_path, {".gitignore": "draft.md\nold/\n", "sub/.gitignore": "!draft.md\n", "sub/.twinignore": "/b.md\n"})
    assert keys(FilesSource(tmp_path, author="Ann")) == ["a.md", "sub/deep/b.md", "sub/draft.md"]


def test_twinignore_has_the_last_word(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "t", "b.md": "t", ".gitignore": "a.md\n", ".twinignore": "!a.md\nb.md\n"})
    assert keys(FilesSource(tmp_path, author="Ann")) == ["a.md"]


def test_include_and_exclude_choose_files(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["posts/a.md", "posts/wip/b.md", "notes/c.md", "code.cfg", "LICENSE"], "t"))
    assert keys(FilesSource(tmp_path, author="Ann", include=["posts/"], exclude=["wip/"])) == ["posts/a.md"]
    assert keys(FilesSource(tmp_path, author="Ann", include=["*.cfg", "LICENSE"])) == ["LICENSE", "code.cfg"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("posts/*.md", ["a.md"]),
        ("posts/**/*.md", ["a.md", "deep/b.md"]),
        ("posts/**/[b-z].*", ["deep/b.md", "z.txt"]),
        ("*/a.md", ["notes/a.md", "posts/a.md"]),
        ("posts/*.cfg", ["x.cfg"]),
        ("posts/*.nothing", []),
    ],
)
def test_a_glob_lists_what_it_matches_below_its_folder(tmp_path: Path, pattern: str, found: list[str]) -> None:
    names = ["posts/a.md", "posts/deep/b.md", "posts/z.txt", "posts/x.cfg", "notes/a.md"]
    write(tmp_path, dict.fromkeys(names, "t"))
    assert keys(FilesSource(tmp_path / pattern, author="Ann")) == found


def test_a_file_named_by_itself_is_read_whatever_its_type(tmp_path: Path) -> None:
    write(tmp_path, {"plan.org": "We plan.\n", "photo.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(300)})
    assert documents(FilesSource(tmp_path / "plan.org", author="Ann"))["plan.org"].text == "We plan."
    assert states(FilesSource(tmp_path / "photo.jpg", author="Ann"))["photo.jpg"][0] == "skipped"


def test_a_path_with_brackets_that_exists_is_no_glob(tmp_path: Path) -> None:
    write(tmp_path, {"notes [old]/a.md": "t", "notes [old]/b.txt": "t"})
    assert keys(FilesSource(tmp_path / "notes [old]", author="Ann")) == ["a.md", "b.txt"]
    assert keys(FilesSource(tmp_path / "notes [old]" / "*.md", author="Ann")) == ["a.md"]


@pytest.mark.parametrize("address", ["you.example", "you.example/blog/", "127.0.0.1:8101/feed.xml", "blog.you.co.uk/"])
def test_an_address_of_the_web_without_its_scheme_is_told_apart_from_a_missing_file(
    tmp_path: Path, address: str
) -> None:
    source = FilesSource(tmp_path / address, name=address, author="Ann")
    with pytest.raises(SourceError, match=rf"No such file.*or write https://{re.escape(address)} if that is meant$"):
        list(source.list())


@pytest.mark.parametrize("address", ["../posts", "posts/2024", "./you.example", "on-tea.md", "~/notes.txt"])
def test_a_missing_file_is_not_taken_for_an_address_of_the_web(tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceError, match=r"No such file.*; correct its address$"):
        list(FilesSource(tmp_path / address, name=address, author="Ann").list())


def test_a_source_that_is_not_there_says_so(tmp_path: Path) -> None:
    for address in (tmp_path / "nowhere", tmp_path / "nowhere/*.md"):
        with pytest.raises(SourceError, match=r"No such file or directory.*; correct its address"):
            keys(FilesSource(address, author="Ann"))


def test_the_name_of_a_source_is_its_address_as_configured(tmp_path: Path) -> None:
    assert FilesSource("~/posts", author="Ann").name == "~/posts"
    assert FilesSource(tmp_path, author="Ann", name="posts").name == "posts"


# --- identity and versions ------------------------------------------------------------------------------------------


def test_a_moved_folder_keeps_its_documents_and_two_folders_do_not_collide(tmp_path: Path) -> None:
    write(tmp_path, {"old/blog/README.md": "Hello.", "new/blog/README.md": "Hello.", "old/notes/README.md": "Hello."})
    blog, moved, notes = (
        documents(FilesSource(tmp_path / folder, author="Ann"))["README.md"].id
        for folder in ("old/blog", "new/blog", "old/notes")
    )
    assert blog == moved
    assert blog != notes


def test_a_document_has_one_id_by_file_by_folder_and_by_glob(tmp_path: Path) -> None:
    write(tmp_path, {"blog/a.md": "Hello.", "blog/p.jsonl": '{"id": "x", "text": "Hi."}\n'})
    found = [
        {document.id for document in documents(FilesSource(address, author="Ann")).values()}
        for address in (tmp_path / "blog", tmp_path / "blog/*")
    ]
    alone = [documents(FilesSource(tmp_path / "blog" / name, author="Ann")) for name in ("a.md", "p.jsonl")]
    assert found[0] == found[1] == {document.id for each in alone for document in each.values()}


def test_a_same_size_edit_right_after_the_listing_is_seen_even_with_all_times_equal(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.md": "one apple\n"}) / "a.md"
    times = path.stat()
    source = FilesSource(tmp_path, author="Ann")
    before = versions(source)
    assert versions(source) == before
    path.write_text("two pears\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert versions(source) != before


def test_an_edit_that_restores_the_modification_time_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"a.md": "one apple\n"}) / "a.md"
    source = FilesSource(tmp_path, author="Ann")
    monkeypatch.setattr("llm_twin.collect.files.CLOCK_RESOLUTION_NS", -(10**12))  # as if it were written long ago
    before, times = versions(source), path.stat()
    assert versions(source) == before
    path.write_text("two pears\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert versions(source) != before


def test_what_decides_over_a_document_is_part_of_its_version(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one apple\n"})
    ways = [
        FilesSource(tmp_path, author="Ann"),
        FilesSource(tmp_path, author="Bea"),
        FilesSource(tmp_path, author="Ann", source="blog"),
        FilesSource(tmp_path, author="Ann", max_line=10),
    ]
    assert len({versions(way)["a.md"] for way in ways}) == 4


def test_documents_take_date_and_title_from_file_and_name(tmp_path: Path) -> None:
    write(tmp_path, {"2021-03-04-on-tea.md": "I like tea.", "plain.txt": "Plain."})
    os.utime(tmp_path / "plain.txt", (1_600_000_000, 1_600_000_000))
    source = FilesSource(tmp_path, author="Ann", source="blog", now=lambda: datetime(2026, 3, 14, tzinfo=UTC))
    found = documents(source)
    tea, plain = found["2021-03-04-on-tea.md"], found["plain.txt"]
    assert (tea.title, tea.author, tea.source, tea.kind) == ("On tea", "Ann", "blog", "note")
    assert tea.published_at == datetime(2021, 3, 4, tzinfo=UTC)
    assert plain.published_at == datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)
    assert tea.fetched_at == datetime(2026, 3, 14, tzinfo=UTC)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_every_bad_file_is_reported_with_its_reason_and_the_good_one_lives(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "good.md": "I like tea.",
            "empty.md": "",
            "blank.md": "\n \n",
            "binary.md": bytes(range(256)) * 20,
            "latin.md": "Größe über alles ".encode() * 5 + b"\xff",
            "line.md": "x" * 2_000_001,
            "broken.md": "---\ntitle: [a\n---\nText.",
            "scan.pdf": pdf(""),
            "torn.pdf": b"%PDF-1.7 torn",
            "torn.docx": b"PK torn",
            "bomb.docx": docx(paragraph("Boom."), extra={"word/big.xml": bytes(40_000_000)}),
            "app.html": "<html><body><div id=app></div></body></html>",
            "book.ipynb": "{}{",
        },
    )
    with (tmp_path / "huge.txt").open("wb") as huge:
        huge.truncate(200_000_000)
    (tmp_path / "gone.md").symlink_to("nowhere.md")
    (tmp_path / "circle.md").symlink_to("circle.md")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.md")
    source = FilesSource(tmp_path, author="Ann")
    ended = states(source)
    expected = {
        "empty.md": ("skipped", "is empty"),
        "blank.md": ("skipped", "no text"),
        "binary.md": ("skipped", "binary"),
        "latin.md": ("failed", "damaged UTF-8 in line 1"),
        "line.md": ("skipped", "line of 2,000,001 characters"),
        "broken.md": ("failed", "not valid YAML"),
        "scan.pdf": ("skipped", "without text"),
        "torn.pdf": ("failed", "broken PDF"),
        "torn.docx": ("failed", "broken DOCX"),
        "bomb.docx": ("failed", "zip bomb"),
        "app.html": ("skipped", "no article text"),
        "book.ipynb": ("failed", "not a Jupyter notebook"),
        "huge.txt": ("skipped", "200,000,000 bytes, more than 20,000,000"),
        "gone.md": ("failed", "link to nowhere.md, which does not exist"),
        "circle.md": ("failed", "leads in a circle"),
        "loop": ("skipped", "is a link back to"),
        "pipe.md": ("skipped", "no regular file"),
    }
    assert ended.keys() == expected.keys()
    for key, (outcome, reason) in expected.items():
        assert ended[key][0] == outcome, key
        assert reason in ended[key][1], key


def test_linked_folders_outside_are_read_and_their_circles_end(tmp_path: Path) -> None:
    write(tmp_path, {"blog/a.md": "t", "other/b.md": "t", "third/c.md": "t"})
    (tmp_path / "blog/more").symlink_to(tmp_path / "other")
    (tmp_path / "other/on").symlink_to(tmp_path / "third")
    (tmp_path / "third/back").symlink_to(tmp_path / "other")
    source = FilesSource(tmp_path / "blog", author="Ann")
    assert keys(source) == ["a.md", "more/b.md", "more/on/back", "more/on/c.md"]


def test_a_file_that_may_not_be_read_fails_alone(tmp_path: Path, as_nobody: None) -> None:
    os.seteuid(os.getuid())
    write(tmp_path, {"locked.md": "t", "open.md": "Tea."})
    (tmp_path / "locked.md").chmod(0)
    tmp_path.chmod(0o755)
    os.seteuid(NOBODY if os.getuid() == 0 else os.getuid())
    source = FilesSource(tmp_path, author="Ann")
    assert states(source) == {"locked.md": ("failed", "cannot be read: Permission denied; check its permissions")}


def test_a_folder_that_may_not_be_read_makes_the_listing_incomplete(tmp_path: Path, as_nobody: None) -> None:
    os.seteuid(os.getuid())
    write(tmp_path, {"locked/a.md": "t", "open/b.md": "t"})
    (tmp_path / "locked").chmod(0)
    tmp_path.chmod(0o755)
    os.seteuid(NOBODY if os.getuid() == 0 else os.getuid())
    listed = []
    with pytest.raises(SourceError, match=r"could not read 1 .*locked/ \(Permission denied\)"):
        listed.extend(each.key for each in FilesSource(tmp_path, author="Ann").list())
    assert listed == ["open/b.md"]


def test_a_name_that_is_not_utf8_is_reported_in_letters_that_can_be_stored(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("t")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert states(FilesSource(tmp_path, author="Ann")) == {
        "caf\\xe9.md": ("failed", "has a name that is not UTF-8; rename it")
    }


@given(content=st.binary(max_size=200), suffix=st.sampled_from([".md", ".mdx", ".rst", ".ipynb", ".docx", ".pdf"]))
def test_no_bytes_make_a_fetch_fail_without_a_reason(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    root = write(tmp_path_factory.mktemp("fuzz"), {f"a{suffix}": content})
    for outcome, reason in states(FilesSource(root, author="Ann")).values():
        assert outcome in ("skipped", "failed")
        assert reason


# --- JSON Lines -----------------------------------------------------------------------------------------------------


def jsonl(*records: dict | str) -> str:
    return "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in records)


def test_every_line_is_a_document_with_what_it_says_about_itself(tmp_path: Path) -> None:
    whole = {
        "id": "tea", "title": "On tea", "date": "2021-03-04", "url": "https://ann.example/tea", "author": "Joe Doe",
        "text": "I like tea.", "tags": ["drinks"], "kind": "post", "source": "linkedin", "language": "en",
    }  # fmt: skip
    write(tmp_path, {"posts.jsonl": jsonl(whole, {"id": 7, "path": "2020-01-02-rain.md", "text": "Rain.\r\nMore."})})
    found = documents(FilesSource(tmp_path / "posts.jsonl", author="Ann"))
    tea, rain = found["posts.jsonl#tea"], found["posts.jsonl#7"]
    assert (tea.title, tea.url, tea.author, tea.source) == ("On tea", whole["url"], "Joe Doe", "linkedin")
    assert (tea.kind, tea.tags, tea.language, tea.text) == ("post", ("drinks",), "en", "I like tea.")
    assert (rain.title, rain.author, rain.text) == ("Rain", "Ann", "Rain.\nMore.")
    assert rain.published_at == datetime(2020, 1, 2, tzinfo=UTC)


def test_bad_lines_are_single_items_with_their_line_and_the_others_live(tmp_path: Path) -> None:
    good = {"id": "tea", "text": "I like tea."}
    torn = '{"id": "rain", "text": "It ra'
    lines = jsonl(
        good, torn, "[1]", {"text": "nobody"}, good, "", {"id": "x"}, {"id": "y", "text": " "}, {"id": "z", "text": 5}
    )
    write(tmp_path, {"posts.jsonl": lines.encode() + b'{"id": "\xff"}\n' + b"[" * 100_000 + b"\n"})
    source = FilesSource(tmp_path, author="Ann")
    ended = states(source)
    expected = {
        "posts.jsonl#rain": ("failed", "line 2 is not JSON"),
        "posts.jsonl:3": ("failed", "line 3 is list, not an object"),
        "posts.jsonl:4": ("failed", 'line 4 has no "id"'),
        "posts.jsonl:5": ("skipped", "line 5 repeats the id 'tea' of line 1"),
        "posts.jsonl#x": ("failed", 'no "text"'),
        "posts.jsonl#y": ("skipped", "no text"),
        "posts.jsonl#z": ("failed", 'no "text" (got int)'),
        "posts.jsonl:10": ("failed", "line 10 is not JSON"),
        "posts.jsonl:11": ("failed", "line 11 is not JSON: nested too deeply"),
    }
    ended_keys = {("posts.jsonl:10" if "#\ufffd" in key else key): value for key, value in ended.items()}
    assert ended_keys.keys() == expected.keys()
    for key, (outcome, reason) in expected.items():
        assert (ended_keys[key][0], reason in ended_keys[key][1]) == (outcome, True), (key, ended_keys[key])


def test_a_list_of_something_else_is_one_skipped_item(tmp_path: Path) -> None:
    write(tmp_path, {"log.jsonl": jsonl(*({"level": "info", "n": n} for n in range(50)))})
    assert states(FilesSource(tmp_path, author="Ann")) == {
        "log.jsonl": ("skipped", 'is no file of documents: its records have neither "id" nor "text"')
    }


def test_only_the_edited_line_changes_its_version_wherever_lines_move(tmp_path: Path) -> None:
    records = [{"id": f"p{n}", "text": f"Post {n}."} for n in range(5)]
    write(tmp_path, {"posts.jsonl": jsonl(*records)})
    source = FilesSource(tmp_path, author="Ann")
    before = versions(source)
    records[3]["text"] = "Post three."
    write(tmp_path, {"posts.jsonl": jsonl(*reversed(records))})
    after = versions(source)
    assert {key for key in before if before[key] != after[key]} == {"posts.jsonl#p3"}


def test_a_line_can_be_fetched_without_a_listing_and_not_after_it_changed(tmp_path: Path) -> None:
    write(tmp_path, {"posts.jsonl": jsonl({"id": "a", "text": "Post."}, {"id": "b#c", "text": "Other."})})
    assert FilesSource(tmp_path, author="Ann").fetch(Item("posts.jsonl#b#c")).text == "Other."
    source = FilesSource(tmp_path, author="Ann")
    items = list(source.list())
    write(tmp_path, {"posts.jsonl": jsonl({"id": "b", "text": "Post."})})
    with pytest.raises(ItemError, match=r"changed while posts\.jsonl was being read; collect again"):
        source.fetch(items[0])


def test_a_large_list_is_read_as_a_stream(tmp_path: Path) -> None:
    with (tmp_path / "posts.jsonl").open("w") as posts:
        for number in range(3000):
            posts.write(json.dumps({"id": str(number), "text": f"Post {number}. " + "word " * 2000}) + "\n")
        posts.write('{"id": "long", "text": "' + "x" * 21_000_000 + '"}\n{"id": "last", "text": "Bye."}\n')
    size = (tmp_path / "posts.jsonl").stat().st_size
    source = FilesSource(tmp_path, author="Ann", max_bytes=1_000_000)
    tracemalloc.start()
    listed = list(source.list())
    last = source.fetch(listed[-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(listed), last.text) == (3002, "Bye.")
    assert listed[-2].reason == "line 3001 is longer than 1,000,000 bytes; raise max_bytes"
    assert peak < size / 8


def test_a_record_of_another_kind_fails_alone_wherever_it_stands(tmp_path: Path) -> None:
    lines = [
        {"note": "no document"},
        {"text": "No id."},
        {"id": "good", "text": "A line that is a document of its own."},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    listed = {item.key: getattr(item, "reason", "") for item in FilesSource(path, author="Ann").list()}
    assert listed == {
        "a.jsonl:1": 'line 1 has neither "id" nor "text"',
        "a.jsonl:2": 'line 2 has no "id" (a text or a number); give it one',
        "a.jsonl#good": "",
    }
