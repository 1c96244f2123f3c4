"""A run over a source: how every item ends, what is stored, and what a failing source or store cannot destroy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.files import FilesSource
from llm_twin.collect.pipeline import BATCH_DOCUMENTS, CollectReport, collect
from llm_twin.collect.reading import Reading, document_from
from llm_twin.core.errors import ItemError, PartialListing, SourceError, StoreError
from llm_twin.core.records import Document, Item, ItemState, Redaction, fingerprint

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@dataclass
class Site:
    """A source on a dictionary: text by key; a `Refusal` refuses, `Broken` breaks the listing there."""

    pages: dict[str, str | Exception] = field(default_factory=dict)
    name: str = "site"
    urls: dict[str, str] = field(default_factory=dict)
    listed_states: list[ItemState] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    versioned: bool = True

    def list(self) -> Iterator[Item | ItemState]:
        yield from self.listed_states
        for key, page in self.pages.items():
            if isinstance(page, SourceError) and not isinstance(page, ItemError):
                raise page
            yield Item(key, fingerprint(page, self.urls.get(key)) if self.versioned else None)

    def fetch(self, item: Item) -> Document:
        self.fetched.append(item.key)
        page = self.pages[item.key]
        if isinstance(page, Exception):
            raise page
        reading = Reading(page, title=item.key, url=self.urls.get(item.key))
        return document_from(
            reading, author="Ann", source="site", locator=item.key, path=item.key, fetched_at=NOON, modified_at=NOON
        )


class Hush:
    """Takes one word out."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.fingerprint = f"hush:{word}"

    def redact(self, document: Document) -> tuple[Document, list[Redaction]]:
        lines = [number for number, line in enumerate(document.text.split("\n"), 1) if self.word in line]
        if not lines:
            return document, []
        return replace(document, text=document.text.replace(self.word, "[hushed]")), [
            Redaction("word", line) for line in lines
        ]


def run(source, store: MemoryWarehouse, *, redactor=None, now: datetime = NOON, progress=None) -> CollectReport:
    return collect(source, store=store, redactor=redactor, now=lambda: now, progress=progress)


def outcomes(report: CollectReport) -> dict[str, str]:
    return {state.key: state.outcome for state in report.states}


def texts(store: MemoryWarehouse) -> dict[str, str]:
    return {document.title: document.text for document in store.documents()}


# --- the ordinary life of items -------------------------------------------------------------------------------------


def test_items_are_added_then_unchanged_then_updated_then_removed() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."})
    assert outcomes(run(site, store)) == {"a": "added", "b": "added"}
    assert outcomes(run(site, store)) == {"a": "unchanged", "b": "unchanged"}
    site.pages["a"] = "Apples and pears."
    assert outcomes(run(site, store)) == {"a": "updated", "b": "unchanged"}
    del site.pages["b"]
    assert outcomes(run(site, store)) == {"a": "unchanged", "b": "removed"}
    assert texts(store) == {"a": "Apples and pears."}
    assert outcomes(run(site, store)) == {"a": "unchanged"}


def test_a_window_onto_the_latest_removes_nothing_and_is_no_problem() -> None:
    store, end = MemoryWarehouse(), PartialListing("shows its latest items only")
    run(Site({"a": "Apples.", "b": "Bread.", "end": end}), store)
    report = run(Site({"b": "Bread!", "c": "Cakes.", "end": end}), store)
    assert (outcomes(report), report.problem) == ({"b": "updated", "c": "added"}, None)
    assert texts(store) == {"a": "Apples.", "b": "Bread!", "c": "Cakes."}
    assert outcomes(run(Site({"c": "Cakes."}), store)) == {"c": "unchanged", "a": "removed", "b": "removed"}


def test_an_unchanged_item_is_not_even_fetched() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."})
    run(site, store)
    site.fetched.clear()
    run(site, store)
    assert site.fetched == []


def test_an_item_without_a_version_is_fetched_and_told_by_its_content() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples."}, versioned=False)
    run(site, store)
    assert outcomes(run(site, store)) == {"a": "unchanged"}
    assert site.fetched == ["a", "a"]


def test_states_say_when_an_item_was_last_seen() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples."})
    run(site, store)
    run(site, store, now=NOON + timedelta(days=1))
    assert [(state.outcome, state.seen_at) for state in store.items()] == [("unchanged", NOON + timedelta(days=1))]


def test_another_source_is_left_alone() -> None:
    store = MemoryWarehouse()
    run(Site({"a": "Apples."}, name="one"), store)
    run(Site({"b": "Bread."}, name="two"), store)
    run(Site({"c": "Cakes."}, name="two"), store)
    assert set(texts(store)) == {"a", "c"}


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_failed_fetch_keeps_the_document_there_was_and_is_tried_again() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples."})
    document_id = run(site, store).states[0].document_id
    site.pages["a"] = ItemError("is torn; mend it")
    for tries in (1, 2):
        (state,) = run(site, store).states
        assert (state.outcome, state.reason, state.tries, state.document_id) == (
            "failed",
            "is torn; mend it",
            tries,
            document_id,
        )
    assert texts(store) == {"a": "Apples."}
    site.pages["a"] = "Apples."
    (state,) = run(site, store).states
    assert (state.outcome, state.tries) == ("unchanged", 0)


class Missing(ItemError):
    gone = True


def test_a_page_that_is_gone_is_removed_only_when_it_is_gone_again_on_a_later_day() -> None:
    store = MemoryWarehouse()
    site = Site({"a": "text of a", "b": "text of b"}, versioned=False)
    run(site, store)
    site.pages["a"] = Missing("answers 404 Not Found")
    for hours in (1, 5):
        report = run(site, store, now=NOON + timedelta(hours=hours))
        assert outcomes(report) == {"a": "failed", "b": "unchanged"}
    assert len(store.document_hashes()) == 2
    report = run(site, store, now=NOON + timedelta(days=1))
    assert outcomes(report)["a"] == "removed"
    assert "already on 2026-03-14" in report.states[0].reason
    assert len(store.document_hashes()) == 1


def test_a_page_that_comes_back_after_being_gone_is_kept() -> None:
    store = MemoryWarehouse()
    site = Site({"a": "text of a", "b": "text of b"}, versioned=False)
    run(site, store)
    site.pages["a"] = Missing("answers 404 Not Found")
    run(site, store)
    site.pages["a"] = "text of a"
    assert outcomes(run(site, store, now=NOON + timedelta(days=1)))["a"] == "unchanged"
    site.pages["a"] = Missing("answers 404 Not Found")
    assert outcomes(run(site, store, now=NOON + timedelta(days=2)))["a"] == "failed"
    assert len(store.document_hashes()) == 2


def test_a_skipped_item_is_reported_again_without_a_second_look_until_it_changes() -> None:
    store, site = MemoryWarehouse(), Site({"a": ItemError("is empty", skipped=True)})
    run(site, store)
    (state,) = run(site, store).states
    assert (state.outcome, state.reason) == ("skipped", "is empty")
    assert site.fetched == ["a"]
    site.pages["a"] = "Apples."
    assert outcomes(run(site, store)) == {"a": "added"}


def test_an_item_that_becomes_nothing_loses_its_document() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."})
    run(site, store)
    site.pages["a"] = ItemError("is empty", skipped=True)
    assert outcomes(run(site, store)) == {"a": "skipped", "b": "unchanged"}
    assert set(texts(store)) == {"b"}


def test_states_of_the_listing_are_recorded_like_those_of_a_fetch() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples."})
    run(site, store)
    del site.pages["a"]
    site.listed_states = [ItemState("site", "a", "failed", "cannot be read"), ItemState("site", "b", "skipped", "big")]
    report = run(site, store)
    assert outcomes(report) == {"a": "failed", "b": "skipped"}
    assert report.states[0].tries == 1
    assert set(texts(store)) == {"a"}


# --- sources in trouble ---------------------------------------------------------------------------------------------


def test_a_source_that_breaks_off_keeps_what_it_gave_and_removes_nothing() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."})
    run(site, store)
    site.pages = {"a": "Apples!", "x": SourceError("the connection broke; try later"), "c": "Cakes."}
    report = run(site, store)
    assert report.problem == "the connection broke; try later"
    assert outcomes(report) == {"a": "updated"}
    assert texts(store) == {"a": "Apples!", "b": "Bread."}


def test_a_source_that_is_suddenly_empty_removes_nothing_and_says_so() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."})
    run(site, store)
    site.pages = {}
    report = run(site, store)
    assert report.states == ()
    assert "suddenly lists no documents, although 2 items with 2 documents are known" in (report.problem or "")
    assert set(texts(store)) == {"a", "b"}


def test_a_list_that_was_cut_to_nothing_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"id": "a", "text": "Apples."}\n{"id": "b", "text": "Bread."}\n')
    store = MemoryWarehouse()
    run(FilesSource(path, author="Ann"), store)
    path.write_text("")
    report = run(FilesSource(path, author="Ann"), store)
    assert outcomes(report) == {"posts.jsonl": "skipped"}
    assert "suddenly lists no documents" in (report.problem or "")
    assert sorted(texts(store).values()) == ["Apples.", "Bread."]


def test_a_source_that_was_always_empty_says_so_too() -> None:
    assert "lists nothing to collect" in (run(Site(), MemoryWarehouse()).problem or "")


def test_a_folder_that_disappears_removes_nothing(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    folder = tmp_path / "posts"
    folder.mkdir()
    (folder / "a.md").write_text("Apples.")
    run(FilesSource(folder, author="Ann"), store)
    folder.rename(tmp_path / "away")
    report = run(FilesSource(folder, author="Ann"), store)
    assert "No such file or directory" in (report.problem or "")
    assert set(texts(store)) == {"A"}


class DyingWarehouse(MemoryWarehouse):
    """Dies at the n-th save, as a full disk would."""

    saves_left = 10**9

    def save(self, states) -> None:
        self.saves_left -= 1
        if self.saves_left < 0:
            raise StoreError("the disk is full; make room")
        super().save(states)


def test_a_run_that_dies_keeps_the_batches_before_and_the_next_run_completes() -> None:
    pages = {f"p{number:03}": f"Page {number}." for number in range(3 * BATCH_DOCUMENTS)}
    store, site = DyingWarehouse(), Site(dict(pages))
    store.saves_left = 2
    with pytest.raises(StoreError, match="disk is full"):
        run(site, store)
    assert len(texts(store)) == 2 * BATCH_DOCUMENTS
    store.saves_left = 10**9
    site.fetched.clear()
    report = run(site, store)
    assert report.counts == {"unchanged": 2 * BATCH_DOCUMENTS, "added": BATCH_DOCUMENTS}
    assert len(site.fetched) == BATCH_DOCUMENTS
    assert texts(store) == pages


def test_an_interrupted_run_saves_what_it_had() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": KeyboardInterrupt()})  # type: ignore[dict-item]
    site.fetch = lambda item: Site.fetch(site, item) if item.key == "a" else _interrupt()  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(site, store)
    assert set(texts(store)) == {"a"}


def _interrupt() -> Document:
    raise KeyboardInterrupt


# --- one document, several items ------------------------------------------------------------------------------------


def test_the_second_item_of_one_document_is_skipped_and_names_the_first() -> None:
    url = "https://ann.example/apples"
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Apples!"}, urls={"a": url, "b": url})
    for _ in range(2):
        report = run(site, store)
        assert report.states[1].outcome == "skipped"
        assert report.states[1].reason.startswith("is the same document as a;")
        assert texts(store) == {"a": "Apples."}


def test_a_double_in_another_source_is_skipped_too() -> None:
    url = "https://ann.example/apples"
    store = MemoryWarehouse()
    run(Site({"a": "Apples."}, name="one", urls={"a": url}), store)
    report = run(Site({"b": "Apples!"}, name="two", urls={"b": url}), store)
    assert report.states[0].reason.startswith("is the same document as a of one;")
    assert texts(store) == {"a": "Apples."}


def test_when_the_first_goes_the_second_brings_the_document_in_the_same_run() -> None:
    url = "https://ann.example/apples"
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Apples!"}, urls={"a": url, "b": url})
    run(site, store)
    del site.pages["a"]
    assert outcomes(run(site, store)) == {"b": "updated", "a": "removed"}
    assert texts(store) == {"b": "Apples!"}
    assert outcomes(run(site, store)) == {"b": "unchanged"}


def test_a_renamed_file_with_a_canonical_url_stays_the_same_document(tmp_path: Path) -> None:
    text = "---\ntitle: Apples\ncanonical_url: https://ann.example/apples\n---\nApples.\n"
    (tmp_path / "m.md").write_text(text)
    for new_name in ("z.md", "a.md"):
        store = MemoryWarehouse()
        run(FilesSource(tmp_path, author="Ann"), store)
        (old,) = tmp_path.glob("*.md")
        old.rename(tmp_path / new_name)
        report = run(FilesSource(tmp_path, author="Ann"), store)
        assert outcomes(report) == {old.name: "removed", new_name: "unchanged"}
        assert [state.key for state in store.items()] == [new_name]
        assert set(texts(store)) == {"Apples"}


def test_a_document_that_changes_its_identity_leaves_nothing_behind() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples."})
    run(site, store)
    site.urls["a"] = "https://ann.example/apples"
    assert outcomes(run(site, store)) == {"a": "added"}
    assert len(store.document_hashes()) == 1


def test_two_items_that_swap_their_identities_both_live() -> None:
    urls = {"a": "https://ann.example/1", "b": "https://ann.example/2"}
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."}, urls=urls)
    run(site, store)
    site.urls = {"a": urls["b"], "b": urls["a"]}
    run(site, store)
    run(site, store)
    assert texts(store) == {"a": "Apples.", "b": "Bread."}


# --- redaction ------------------------------------------------------------------------------------------------------


def test_secrets_are_taken_out_before_storing_and_told_by_kind_and_line() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.\nThe word is hunter2.", "b": "Bread."})
    report = run(site, store, redactor=Hush("hunter2"))
    assert report.redactions == {"a": (Redaction("word", 2),)}
    assert report.states[0].reason == "redacted: word in line 2"
    assert "hunter2" not in json.dumps(report.as_dict())
    assert texts(store) == {"a": "Apples.\nThe word is [hushed].", "b": "Bread."}
    assert run(site, store, redactor=Hush("hunter2")).states[0].reason == "redacted: word in line 2"


def test_other_rules_of_redaction_look_at_every_item_again() -> None:
    store, site = MemoryWarehouse(), Site({"a": "The word is hunter2.", "b": "Bread."})
    run(site, store, redactor=Hush("nothing"))
    assert outcomes(run(site, store, redactor=Hush("hunter2"))) == {"a": "updated", "b": "unchanged"}
    assert outcomes(run(site, store, redactor=None)) == {"a": "updated", "b": "unchanged"}


def test_a_secret_that_changes_changes_nothing_that_is_stored() -> None:
    store, site = MemoryWarehouse(), Site({"a": "The word is 1234."})
    run(site, store, redactor=Hush("1234"))
    before = store.document_hashes()
    site.pages["a"] = "The word is 9876."
    assert outcomes(run(site, store, redactor=Hush("9876"))) == {"a": "unchanged"}
    assert store.document_hashes() == before


# --- the report -----------------------------------------------------------------------------------------------------


def test_progress_counts_every_item() -> None:
    counted: list[tuple[str, int]] = []

    class Counting:
        @contextmanager
        def step(self, name: str, total: int | None = None):
            yield lambda number: counted.append((name, number))

    run(Site({"a": "Apples.", "b": ItemError("is torn")}), MemoryWarehouse(), progress=Counting())
    assert counted == [("collect site", 1), ("collect site", 1)]


def test_the_report_is_plain_data() -> None:
    report = run(Site({"a": "Apples."}), MemoryWarehouse())
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["counts"] == {"added": 1}
    assert plain["items"][0]["key"] == "a"
    assert plain["items"][0]["seen_at"] == "2026-03-14T12:00:00+00:00"


# --- files, for long ------------------------------------------------------------------------------------------------


def test_edits_of_one_line_or_file_change_one_document(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_text("".join(f'{{"id": "{n}", "text": "Post {n}."}}\n' for n in range(100)))
    (tmp_path / "a.md").write_text("Apples.\n")
    store = MemoryWarehouse()
    assert run(FilesSource(tmp_path, author="Ann"), store).counts == {"added": 101}
    lines = (tmp_path / "posts.jsonl").read_text().replace("Post 50.", "Post fifty.")
    (tmp_path / "posts.jsonl").write_text(lines)
    (tmp_path / "a.md").write_text("Peaches\n")  # as long as before, and within the clock's resolution
    report = run(FilesSource(tmp_path, author="Ann"), store)
    assert report.counts == {"updated": 2, "unchanged": 99}


def test_a_torn_line_keeps_its_document(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"id": "a", "text": "Apples."}\n{"id": "b", "text": "Bread."}\n')
    store = MemoryWarehouse()
    run(FilesSource(path, author="Ann"), store)
    path.write_text('{"id": "a", "text": "Apples."}\n{"id": "b", "te')
    report = run(FilesSource(path, author="Ann"), store)
    assert outcomes(report) == {"posts.jsonl#a": "unchanged", "posts.jsonl#b": "failed"}
    assert sorted(texts(store).values()) == ["Apples.", "Bread."]


def test_touching_a_file_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Apples.\n")
    store = MemoryWarehouse()
    run(FilesSource(tmp_path, author="Ann"), store)
    os.utime(tmp_path / "a.md", (1_000_000_000, 1_000_000_000))
    assert outcomes(run(FilesSource(tmp_path, author="Ann"), store)) == {"a.md": "unchanged"}


class Years(RuleBasedStateMachine):
    """Whatever happens to a site, a complete run leaves exactly its readable pages in the store."""

    page_keys = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.store, self.site = MemoryWarehouse(), Site({"fixed": "Always here."})

    @rule(key=page_keys, text=st.sampled_from(["One.", "Two.", "Three."]))
    def write(self, key: str, text: str) -> None:
        self.site.pages[key] = text

    @rule(key=page_keys)
    def delete(self, key: str) -> None:
        self.site.pages.pop(key, None)

    @rule(key=page_keys)
    def empty(self, key: str) -> None:
        self.site.pages[key] = ItemError("is empty", skipped=True)

    @rule(key=page_keys, url=st.sampled_from(["https://ann.example/1", "https://ann.example/2", ""]))
    def give_url(self, key: str, url: str) -> None:
        self.site.urls[key] = url

    @rule()
    def run_once(self) -> None:
        run(self.site, self.store)

    @rule(kept=st.integers(0, 2))
    def break_off(self, kept: int) -> None:
        pages = self.site.pages
        self.site.pages = {**dict(list(pages.items())[:kept]), "x": SourceError("broke off")}
        run(self.site, self.store)
        self.site.pages = pages

    @invariant()
    def a_complete_run_tells_the_truth(self) -> None:
        report = run(self.site, self.store)
        assert report.problem is None
        pages = {key: page for key, page in self.site.pages.items() if isinstance(page, str)}
        identities = {self.site.urls.get(key) or key for key in pages}
        stored = list(self.store.documents())
        assert {document.url or document.title for document in stored} == identities
        for document in stored:
            assert pages[document.title] == document.text
        assert {state.document_id for state in self.store.items()} - {None} == {document.id for document in stored}
        assert {state.key for state in self.store.items()} == set(self.site.pages)


TestYears = Years.TestCase
TestYears.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


def test_real_blogs_are_collected_whole_and_cost_nothing_the_second_time(data_dir: Path) -> None:
    store = MemoryWarehouse()
    for folder, author, posts in (
        ("blog-simonw-til", "Simon Willison", 560),
        ("blog-matklad", "Alex Kladov", 191),
        ("blog-jakearchibald", "Jake Archibald", 91),
    ):
        source = FilesSource(data_dir / folder / "posts.jsonl", author=author)
        assert run(source, store).counts == {"added": posts}
        assert run(source, store).counts == {"unchanged": posts}
        originals = [json.loads(line) for line in (data_dir / folder / "posts.jsonl").read_text().splitlines()]
        stored = {document.title: document for document in store.documents() if document.author == author}
        for original in originals[::20]:
            assert stored[original["title"]].text == original["text"].replace("\r\n", "\n").strip("\n")
