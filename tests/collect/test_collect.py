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
from llm_twin.collect.pipeline import BATCH_DOCUMENTS, REVISITS, CollectReport, Part, adopt, collect, forget
from llm_twin.collect.reading import Reading, document_from, hash_of
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


def run(source, store: MemoryWarehouse, *, redactor=None, now: datetime = NOON, **options) -> CollectReport:
    return collect(source, store=store, redactor=redactor, now=lambda: now, **options)


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


# --- failed items and when they are tried again ---------------------------------------------------------------------


def test_a_failed_item_is_tried_at_the_next_run_and_then_left_alone_for_longer_each_time() -> None:
    store, site, now = MemoryWarehouse(), Site({"a": ItemError("is torn; mend it")}, versioned=False), NOON
    waits = []
    for tries in range(1, 9):
        (state,) = run(site, store, now=now).states
        assert (state.tries, state.reason, len(site.fetched)) == (tries, "is torn; mend it", tries)
        waits.append(state.next_try - now)
        just_before = state.next_try - timedelta(seconds=1)
        if waits[-1]:
            (waiting,) = run(site, store, now=just_before).states
            assert (waiting, len(site.fetched)) == (state, tries), "it is reported as it was, and not fetched"
        now = state.next_try
    assert waits == [timedelta(minutes=minutes) for minutes in (0, 5, 30, 120, 480, 1440, 1440, 1440)]
    site.pages["a"] = "Apples."
    (state,) = run(site, store, now=now).states
    assert (state.outcome, state.tries, state.next_try) == ("added", 0, None)


def failed_twice(site: Site, store: MemoryWarehouse) -> None:
    for _ in range(2):
        run(site, store)
    site.fetched.clear()


def test_a_failed_item_that_changed_is_tried_at_once() -> None:
    store, site = MemoryWarehouse(), Site({"a": ItemError("is torn; mend it"), "b": "Bread."})
    failed_twice(site, store)
    assert outcomes(run(site, store)) == {"a": "failed", "b": "unchanged"}
    assert site.fetched == []
    site.pages["a"] = "Apples."
    assert outcomes(run(site, store)) == {"a": "added", "b": "unchanged"}


def test_a_failed_item_is_tried_at_once_on_demand() -> None:
    store, site = MemoryWarehouse(), Site({"a": ItemError("is torn; mend it")}, versioned=False)
    failed_twice(site, store)
    assert run(site, store, retry_failed=True).states[0].tries == 3
    assert site.fetched == ["a"]


def test_an_item_that_waits_keeps_its_document_and_is_removed_when_its_source_drops_it() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."}, versioned=False)
    run(site, store)
    site.pages["a"] = ItemError("is torn; mend it")
    failed_twice(site, store)
    run(site, store)
    assert set(texts(store)) == {"a", "b"}
    del site.pages["a"]
    assert outcomes(run(site, store)) == {"b": "unchanged", "a": "removed"}


def silent(host: str) -> ItemError:
    error = ItemError(f"{host} does not answer; try again later")
    error.host = host
    return error


def test_a_host_that_does_not_answer_is_a_problem_of_the_source_and_holds_back_no_item_for_long() -> None:
    store = MemoryWarehouse()
    site = Site({f"p{number}": silent("ann.example") for number in range(9)}, versioned=False)
    report = run(site, store)
    assert site.fetched == ["p0", "p1", "p2"], "the others are not asked for"
    assert "ann.example kept 3 items in a row from being read" in (report.problem or "")
    assert outcomes(report) == {"p0": "failed", "p1": "failed", "p2": "failed"}
    now = NOON
    for _ in range(40):
        now += timedelta(minutes=15)
        run(site, store, now=now)
    assert len(site.fetched) < 9 * 14, "in ten hours each page is asked for once an hour, after a few times at first"
    assert max(state.next_try for state in store.items()) <= now + timedelta(hours=1)
    site.pages = dict.fromkeys(site.pages, "Pages.")
    assert run(site, store, now=now + timedelta(hours=1)).counts == {"added": 9}


def test_a_host_that_is_in_trouble_removes_nothing() -> None:
    store, site = MemoryWarehouse(), Site({key: f"Text {key}." for key in "abcd"}, versioned=False)
    run(site, store)
    site.pages = {key: silent("ann.example") for key in "abc"}
    assert run(site, store).problem
    assert len(store.document_hashes()) == 4


def test_single_pages_of_dead_hosts_are_failures_of_their_own() -> None:
    pages = {"a": silent("one.example"), "b": silent("two.example"), "c": silent("one.example"), "d": "Dates."}
    report = run(Site(pages), MemoryWarehouse())
    assert (report.problem, report.counts) == (None, {"failed": 3, "added": 1})


# --- what left a window ---------------------------------------------------------------------------------------------


class WindowSite(Site):
    """Shows what `pages` holds, and where posts stand what `standing` holds: text, or an error."""

    def __init__(self, **pages: str) -> None:
        super().__init__({**pages, "end": PartialListing("shows its latest items only")})
        self.standing: dict[str, str | Exception] = {}
        self.looked_at: list[str] = []

    def revisit(self, document: Document) -> Document:
        self.looked_at.append(document.title)
        shown = self.standing[document.title]
        if isinstance(shown, Exception):
            raise shown
        revised = replace(document, text=shown, content_hash="")
        return replace(revised, content_hash=hash_of(revised))


@pytest.fixture
def left() -> tuple[WindowSite, MemoryWarehouse]:
    """A window that showed two posts, of which one has left it."""
    store, site = MemoryWarehouse(), WindowSite(a="Apples.", b="Bread.")
    run(site, store)
    del site.pages["a"]
    return site, store


def test_what_is_gone_from_where_it_stood_is_removed_when_it_is_gone_again_on_a_later_day(left) -> None:
    site, store = left
    site.standing["a"] = Missing("answers 404 Not Found")
    assert outcomes(run(site, store)) == {"b": "unchanged", "a": "failed"}
    assert outcomes(run(site, store, now=NOON + timedelta(hours=2)))["a"] == "failed"
    assert len(store.document_hashes()) == 2
    report = run(site, store, now=NOON + timedelta(days=1))
    assert outcomes(report) == {"b": "unchanged", "a": "removed"}
    assert set(texts(store)) == {"b"}


@pytest.mark.parametrize("error", [ItemError("answers 403"), ItemError("is a list", skipped=True), silent("h")])
def test_anything_else_than_gone_changes_nothing(left, error: ItemError) -> None:
    site, store = left
    before = {document.id: document for document in store.documents()}
    site.standing["a"] = error
    for days in range(20):
        assert outcomes(run(site, store, now=NOON + timedelta(days=days))).get("a", "unchanged") == "unchanged"
    assert {document.id: document for document in store.documents()} == before
    assert len(site.looked_at) == 7, "once at first, then every three days"


def test_gone_then_forbidden_then_back_is_kept(left) -> None:
    site, store = left
    for days, answer, outcome in (
        (0, Missing("answers 404"), "failed"),
        (1, ItemError("answers 403"), "failed"),
        (2, "Apples.", "unchanged"),
        (5, Missing("answers 404"), "failed"),
    ):
        site.standing["a"] = answer
        assert outcomes(run(site, store, now=NOON + timedelta(days=days)))["a"] == outcome
    assert set(texts(store)) == {"a", "b"}


def test_an_edit_comes_in_and_another_form_of_the_same_text_is_none(left) -> None:
    site, store = left
    site.standing["a"] = "Apples. (as its page has it)"
    for days in (0, 3, 6):
        assert outcomes(run(site, store, now=NOON + timedelta(days=days)))["a"] == "unchanged"
    assert texts(store)["a"] == "Apples."
    site.standing["a"] = "Apples and pears."
    assert outcomes(run(site, store, now=NOON + timedelta(days=9)))["a"] == "updated"
    assert texts(store)["a"] == "Apples and pears."
    assert outcomes(run(site, store, now=NOON + timedelta(days=12)))["a"] == "unchanged"


def test_a_post_that_comes_back_into_the_window_is_read_from_it_again(left) -> None:
    site, store = left
    site.standing["a"] = "Apples. (as its page has it)"
    run(site, store)
    site.pages = {"a": "Apples!", **site.pages}
    assert outcomes(run(site, store)) == {"a": "updated", "b": "unchanged"}


def test_secrets_on_a_page_never_reach_the_store(left) -> None:
    site, store = left
    for days, text in ((0, "Apples."), (3, "Apples, sesame.")):
        site.standing["a"] = text
        run(site, store, redactor=Hush("sesame"), now=NOON + timedelta(days=days))
    assert texts(store)["a"] == "Apples, [hushed]."


def test_a_few_items_are_looked_at_in_each_run_and_every_one_within_days() -> None:
    pages = {f"p{number:03}": f"Page {number}." for number in range(2 * REVISITS + 20)}
    store, site = MemoryWarehouse(), WindowSite(**pages)
    run(site, store)
    site.standing, site.pages = dict(pages), {"new": "News.", "end": site.pages["end"]}
    seen = []
    for days in range(1, 4):
        site.looked_at.clear()
        run(site, store, now=NOON + timedelta(days=days))
        seen.append(len(site.looked_at))
    assert seen == [REVISITS, REVISITS, 20]
    run(site, store, now=NOON + timedelta(days=4))
    assert site.looked_at[20:] == sorted(pages)[:REVISITS], "the first ones are the first again"


def test_a_host_in_trouble_is_asked_once(left) -> None:
    site, store = left
    site.standing["a"] = silent("ann.example")
    del site.pages["b"]
    site.pages = {"c": "Cakes.", **site.pages}
    site.standing["b"] = silent("ann.example")
    run(site, store)
    assert len(site.looked_at) == 1


def test_what_left_before_it_could_be_read_says_so_and_is_read_when_it_is_listed_again() -> None:
    store, site = MemoryWarehouse(), WindowSite(b="Bread.")
    site.pages = {"a": ItemError("answers 500"), **site.pages}
    run(site, store)
    torn = site.pages.pop("a")
    report = run(site, store)
    assert outcomes(report) == {"b": "unchanged", "a": "skipped"}
    assert report.states[1].reason == "left what site shows before it could be read: answers 500"
    site.pages = {"a": torn, **site.pages}
    assert outcomes(run(site, store))["a"] == "failed"


# --- parts, names, and what was forgotten ---------------------------------------------------------------------------


def test_a_part_of_a_source_is_all_that_is_touched() -> None:
    store = MemoryWarehouse()
    site = Site({"2023/a.md": "Apples.", "2023/b.md": "Bread.", "2024/c.md": "Cakes.", "2023b.md": "Beer."})
    run(site, store)
    site.pages = {"2023/a.md": "Apples!", "2024/c.md": "Cakes!", "2024/d.md": "Dates."}
    site.fetched.clear()
    report = run(site, store, part=Part("2023"))
    assert outcomes(report) == {"2023/a.md": "updated", "2023/b.md": "removed"}
    assert site.fetched == ["2023/a.md"]
    assert texts(store) == {"2023/a.md": "Apples!", "2024/c.md": "Cakes.", "2023b.md": "Beer."}


def test_a_part_may_lose_its_last_item_while_the_rest_is_there() -> None:
    store, site = MemoryWarehouse(), Site({"a.md": "Apples.", "b.md": "Bread."})
    run(site, store)
    del site.pages["a.md"]
    assert outcomes(run(site, store, part=Part("a.md"))) == {"a.md": "removed"}
    site.pages.clear()
    report = run(site, store, part=Part("b.md"))
    assert "suddenly lists no documents" in (report.problem or "")
    assert set(texts(store)) == {"b.md"}


def test_a_part_that_holds_nothing_says_so() -> None:
    report = run(Site({"a.md": "Apples."}), MemoryWarehouse(), part=Part("drafts"))
    assert report.problem == "'drafts' in site lists nothing to collect; check its address, `include` and `exclude`"


def test_items_under_another_name_of_their_source_are_taken_over_and_not_fetched() -> None:
    store = MemoryWarehouse()
    before = run(Site({"a": "Apples.", "b": "Bread."}, name="../posts/"), store)
    adopt("../posts", {"../posts/"}, store=store)
    site = Site({"a": "Apples.", "b": "Bread."}, name="../posts")
    assert outcomes(run(site, store)) == {"a": "unchanged", "b": "unchanged"}
    assert site.fetched == []
    assert {state.source for state in store.items()} == {"../posts"}
    assert {state.document_id for state in store.items()} == {state.document_id for state in before.states}


def test_where_two_names_have_an_item_the_one_with_the_document_wins_and_the_forgotten_one_over_all() -> None:
    store = MemoryWarehouse()
    pages = {"a": "Apples.", "b": "Bread."}
    run(Site(dict(pages), name="old"), store)
    run(Site(dict(pages), name="new"), store)
    forget([next(store.items("old"))], store=store, now=NOON, for_good=True)
    run(Site(dict(pages), name="new"), store)
    assert set(texts(store)) == {"a", "b"}, "until now both were sources of their own"
    adopt("new", {"old"}, store=store)
    assert set(texts(store)) == {"b"}
    assert outcomes(run(Site(dict(pages), name="new"), store)) == {"a": "skipped", "b": "unchanged"}
    assert {state.source for state in store.items()} == {"new"}


def test_what_was_forgotten_stays_so_when_its_source_does_not_list_it_for_a_while() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples.", "b": "Bread."})
    run(site, store)
    forget([next(store.items())], store=store, now=NOON, for_good=True)
    del site.pages["a"]
    assert outcomes(run(site, store)) == {"b": "unchanged"}
    site.pages["a"] = "Apples, again."
    (_, state) = run(site, store, now=NOON + timedelta(days=9)).states
    assert (state.outcome, state.seen_at) == ("skipped", NOON)
    assert state.reason == "forgotten on request; undo that with: twin forget --undo a"


def test_documents_of_a_forgotten_author_are_skipped_without_a_second_look() -> None:
    store, site = MemoryWarehouse(), Site({"a": "Apples."})
    for _ in range(2):
        report = run(site, store, forgotten_authors=["ANN"])
        assert outcomes(report) == {"a": "skipped"}
        assert "as all of Ann; undo that with: twin forget --undo Ann" in report.states[0].reason
    assert (site.fetched, texts(store)) == (["a"], {})


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
