"""The examples work as the documentation shows them."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin import Twin, catalog
from llm_twin.core.errors import ConfigError
from llm_twin.core.records import Document, embedding_text
from llm_twin.features.chunk import chunk_document

ROOT = Path(__file__).parents[1]
VERSE = ROOT / "examples" / "verse"

BALLAD = """\
The lamp was lit, the tide was low,
the boats were on the sand.

And who will row me home tonight,
and who will row me home?

The lamp went out, the tide came in,
the boats were far from land.

And who will row me home tonight,
and who will row me home?
"""


class LetterTokenizer:
    """One token per character that is not white space."""

    def __init__(self, window: int) -> None:
        self.window = window

    def offsets(self, text):
        return [(at, at + 1) for at, letter in enumerate(text) if not letter.isspace()]

    def count(self, text):
        return len(self.offsets(text))


REFRAIN = "And who will row me home tonight,\nand who will row me home?"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example as `pip install ./examples/verse` leaves it."""
    project = tomllib.loads((VERSE / "pyproject.toml").read_text())["project"]
    _install(tmp_path / "installed", project["name"], project["entry-points"], monkeypatch)
    monkeypatch.syspath_prepend(str(VERSE))
    monkeypatch.delitem(sys.modules, "verse", raising=False)


def test_without_the_package_there_is_no_such_chunker() -> None:
    with pytest.raises(ConfigError, match="there is no chunker named 'verse'"):
        catalog.part("chunker", "verse")


def test_an_installed_package_adds_a_chunker_by_its_entry_point_alone(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "verse" in catalog.names("chunker")
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "ballad.txt").write_text(BALLAD)
    monkeypatch.setenv("TWIN_FEATURES_CHUNKER", "verse")
    with Twin.init(tmp_path / "twin", author="A Poet", addresses=["../poems"]) as twin:
        report = twin.sync()
        (best,) = twin.search("who rows me home", k=1)
    # Within one document identical chunks are indexed once.
    assert report.chunks == 3
    assert best.chunk.text == REFRAIN


def test_a_refrain_that_comes_again_is_a_chunk_of_its_own(installed: None) -> None:
    chunks = _cut(BALLAD, window=120)
    assert [chunk.text.splitlines()[0] for chunk in chunks] == [
        "The lamp was lit, the tide was low,",
        "And who will row me home tonight,",
        "The lamp went out, the tide came in,",
        "And who will row me home tonight,",
    ]
    assert len({chunk.id for chunk in chunks}) == 4


@given(text=st.text(alphabet="ab \n\t", max_size=300), window=st.integers(4, 40))
def test_no_verse_is_lost_and_every_chunk_fits_the_window(text: str, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(VERSE))
        for chunk in _cut(text, window=window):
            assert LetterTokenizer(window).count(embedding_text(chunk)) <= window


def test_the_documentation_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for file in ("verse.py", "pyproject.toml"):
        assert (VERSE / file).read_text(encoding="utf-8").strip() in page, f"docs/extending.md shows another {file}"


def test_the_source_shown_in_the_documentation_collects_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = [block for block in _python_of("extending.md") if "class JournalSource" in block]
    _install(tmp_path / "installed", "journal", {"llm_twin.source": {"journal": "journal:JournalSource"}}, monkeypatch)
    (tmp_path / "installed" / "journal.py").write_text(source)
    monkeypatch.delitem(sys.modules, "journal", raising=False)
    entries = {"2021-03-04": "Water first, then tea.", "2021-03-05": " "}

    def outcomes() -> dict[str, str]:
        (tmp_path / "twin" / "my.journal.json").write_text(json.dumps(entries))
        return {item.key: item.outcome for item in twin.sync().items}

    with Twin.init(tmp_path / "twin", author="A Poet", addresses=["my.journal.json"]) as twin:
        assert outcomes() == {"2021-03-04": "added", "2021-03-05": "skipped"}
        assert outcomes() == {"2021-03-04": "unchanged", "2021-03-05": "skipped"}
        entries["2021-03-04"] = "Tea first, then water."
        del entries["2021-03-05"]
        assert outcomes() == {"2021-03-04": "updated", "2021-03-05": "removed"}
        (hit,) = twin.search("tea", where=twin.filter(sources=["journal"], since="2021", until="2021"))
    assert (hit.chunk.text, hit.document.title) == ("Tea first, then water.", "Journal, 2021-03-04")
    with (tmp_path / "twin" / "twin.toml").open("a") as settings:
        settings.write("\n[[sources]]\naddress = 'other.journal.json'\ntitel = 'Notebook'\n")
    with Twin.open(tmp_path / "twin") as twin, pytest.raises(ConfigError, match="did you mean 'title'"):
        twin.sync()


def test_the_python_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "orms.md").write_text(
        "---\ntitle: On ORMs\ndate: 2021-03-04\n---\nI do not like ORMs, because they hide the query.\n"
    )
    with Twin.init("my-twin", author="A Poet", addresses=["../posts"]) as twin:
        twin.sync()
    shown: dict = {}
    for block in _python_of("python.md"):
        if "twin.write(" not in block:  # the one call that needs a model
            exec(block, shown)
    shown["twin"].close()
    printed = capsys.readouterr().out
    assert "they hide the query" in printed
    assert "'unchanged': 1" in printed
    assert "extractive" in printed


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_python_and_toml_block_of_the_documentation_parses(page: Path) -> None:
    for block in _python_of(page.name):
        compile(block, page.name, "exec")
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        tomllib.loads(block)


def _install(folder: Path, name: str, entry_points: dict[str, dict[str, str]], patch: pytest.MonkeyPatch) -> None:
    """Put a package's entry points where installed packages have theirs; `folder` is searched for modules."""
    about = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    groups = {group: "".join(f"{key} = {target}\n" for key, target in of.items()) for group, of in entry_points.items()}
    (about / "entry_points.txt").write_text("\n".join(f"[{group}]\n{lines}" for group, lines in groups.items()))
    patch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


def _python_of(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def _cut(text: str, *, window: int):
    verse = importlib.import_module("verse")
    now = datetime(2024, 5, 1, tzinfo=UTC)
    poem = Document("poem", "A Poet", "files", "note", "Ballad", text, "hash", now)
    return chunk_document(poem, verse.VerseChunker(LetterTokenizer(window)))
