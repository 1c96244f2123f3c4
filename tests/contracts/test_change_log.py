"""Every warehouse tells what happened to its documents, in an order in which nobody who follows can miss anything."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.core.errors import StoreError
from llm_twin.core.records import Change, Document, ItemState, content_hash, document_id

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def added(key: str, text: str = "text", *, item: str | None = None, **changes) -> tuple[ItemState, Document]:
    document = Document(
        id=document_id("Ann", "medium", key),
        author="Ann",
        source="medium",
        kind="article",
        title=key,
        text=text,
        content_hash=content_hash(key, text),
        fetched_at=NOON,
    )
    return ItemState("https://medium.com/@ann", item or key, "added", document_id=document.id), replace(
        document, **changes
    )


def removed(key: str) -> tuple[ItemState, None]:
    return ItemState("https://medium.com/@ann", key, "removed"), None


def identity(key: str) -> str:
    return document_id("Ann", "medium", key)


def told(changes: list[Change]) -> list[tuple[int, str, str]]:
    return [(change.sequence, change.outcome, change.document_id) for change in changes]


def test_each_save_appends_what_it_added_updated_and_removed(warehouse):
    a, b = identity("a"), identity("b")
    before = datetime.now(UTC)
    warehouse.save([added("a", "one"), added("b", "two")])
    warehouse.save([added("a", "three"), (ItemState("https://medium.com/@ann", "b", "unchanged"), None)])
    warehouse.save([removed("b"), removed("never")])
    warehouse.save([added("b", "back")])
    changes = warehouse.changes()
    assert told(changes) == [(1, "added", a), (2, "added", b), (3, "updated", a), (4, "removed", b), (5, "added", b)]
    assert {change.source for change in changes} == {"medium"}
    assert all(before <= change.at <= datetime.now(UTC) for change in changes)
    assert changes[0].at.tzinfo is not None


def test_removals_of_a_save_come_before_what_it_wrote(warehouse):
    warehouse.save([added("old", item="post.md")])
    warehouse.save([added("new", item="post.md")])
    assert told(warehouse.changes(after=1)) == [(2, "removed", identity("old")), (3, "added", identity("new"))]


def test_a_reader_goes_on_after_the_last_change_it_saw_and_takes_as_many_as_it_likes(warehouse):
    warehouse.save([added(f"p{number}") for number in range(5)])
    assert [change.sequence for change in warehouse.changes(limit=2)] == [1, 2]
    assert [change.sequence for change in warehouse.changes(after=2, limit=2)] == [3, 4]
    assert [change.sequence for change in warehouse.changes(after=4, limit=2)] == [5]
    assert warehouse.changes(after=5) == warehouse.changes(after=99) == warehouse.changes(limit=0) == []


def test_what_a_reader_of_a_document_cannot_see_is_no_change(warehouse):
    warehouse.save([added("a")])
    warehouse.save([added("a", fetched_at=NOON.replace(hour=18))])
    warehouse.save([(ItemState("https://medium.com/@ann", "a", "failed", reason="timeout", tries=1), None)])
    assert [change.outcome for change in warehouse.changes()] == ["added"]


def test_a_document_that_comes_and_goes_within_one_save_is_no_change(warehouse):
    warehouse.save([added("a"), removed("a")])
    assert warehouse.changes() == []
    assert warehouse.document_hashes() == {}


def test_a_document_is_removed_with_the_last_item_that_refers_to_it(warehouse):
    warehouse.save([added("a", item="m"), added("a", item="s")])
    warehouse.save([removed("m")])
    assert told(warehouse.changes()) == [(1, "added", identity("a"))]
    warehouse.save([removed("s")])
    assert told(warehouse.changes(after=1)) == [(2, "removed", identity("a"))]


def test_a_save_that_is_refused_leaves_no_change(warehouse):
    state, document = added("b")
    with pytest.raises(StoreError):
        warehouse.save([added("a"), (replace(state, document_id="other"), document)])
    assert warehouse.changes() == []


keys = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.lists(
        st.builds(lambda key, text, item: added(key, text, item=item), keys, st.sampled_from(["1", "2"]), keys)
        | st.builds(removed, keys),
        max_size=4,
    ),
    max_size=6,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(saves=steps)
def test_whoever_replays_the_log_knows_the_documents_that_are_there(warehouse, saves):
    model = MemoryWarehouse()
    warehouse.save([removed(key) for key in ("a", "b", "c")])
    start = warehouse.changes(limit=100_000)[-1:]
    last = start[0].sequence if start else 0
    alive: set[str] = set()
    for states in saves:
        warehouse.save(states)
        model.save(states)
        for change in warehouse.changes(after=last):
            last = change.sequence
            assert (change.document_id in alive) == (change.outcome != "added")
            alive = alive - {change.document_id} if change.outcome == "removed" else alive | {change.document_id}
        assert alive == warehouse.document_hashes().keys()
    mine = warehouse.changes(after=start[0].sequence if start else 0)
    assert [change.outcome for change in mine] == [change.outcome for change in model.changes()]


def test_a_follower_misses_nothing_while_several_write(warehouse):
    writers, rounds = 4, 12
    failures: list[BaseException] = []

    def write(worker: int) -> None:
        try:
            for number in range(rounds):
                warehouse.save([added(f"{worker}-{number}-{each}") for each in range(3)])
                warehouse.save([removed(f"{worker}-{number}-0")])
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=write, args=(worker,)) for worker in range(writers)]
    for thread in started:
        thread.start()
    seen: list[Change] = []
    while True:
        finished = not any(thread.is_alive() for thread in started)
        news = warehouse.changes(after=seen[-1].sequence if seen else 0, limit=7)
        seen += news
        if finished and not news:
            break
    assert failures == []
    assert [change.sequence for change in seen] == list(range(1, writers * rounds * 4 + 1))
    assert seen == list(itertools.chain(warehouse.changes(limit=100), warehouse.changes(after=100, limit=10_000)))
    assert len(warehouse.document_hashes()) == writers * rounds * 2
