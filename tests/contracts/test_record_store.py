"""Every warehouse keeps the service's small records by these promises."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_twin.core.errors import NotFound, StoreError
from llm_twin.core.records import RECORD_BYTES


def test_a_collection_nobody_wrote_to_is_empty(warehouse):
    assert warehouse.records("feedback") == []
    assert warehouse.record("feedback", "f1") is None
    warehouse.drop("feedback", ["f1"])
    warehouse.drop("feedback", [])


def test_a_record_comes_back_equal_and_is_replaced_whole(warehouse):
    warehouse.put("feedback", "f1", {"rating": 1, "note": "quotes “me” well 🧵", "tags": []})
    warehouse.put("feedback", "f1", {"rating": -1})
    assert warehouse.record("feedback", "f1") == {"rating": -1}
    assert warehouse.records("feedback") == [("f1", {"rating": -1})]


def test_equal_ids_of_two_collections_are_two_records(warehouse):
    warehouse.put("a", "b/c", {"in": "a"})
    warehouse.put("a/b", "c", {"in": "a/b"})
    warehouse.put("a", "c", {"in": "a too"})
    warehouse.drop("a", ["c"])
    assert warehouse.records("a") == [("b/c", {"in": "a"})]
    assert warehouse.record("a/b", "c") == {"in": "a/b"}


def test_records_come_newest_first_by_their_first_insertion(warehouse):
    for name in ("m", "z", "a"):
        warehouse.put("keys", name, {"name": name})
    warehouse.put("keys", "m", {"name": "changed"})
    assert warehouse.records("keys") == [("a", {"name": "a"}), ("z", {"name": "z"}), ("m", {"name": "changed"})]


def test_pages_of_records_meet_without_a_gap_while_newer_ones_arrive(warehouse):
    for number in range(7):
        warehouse.put("chats", f"c{number}", {"number": number})
    first = warehouse.records("chats", limit=3)
    warehouse.put("chats", "c7", {"number": 7})
    warehouse.put("chats", "c5", {"number": "changed"})
    second = warehouse.records("chats", limit=3, before=first[-1][0])
    third = warehouse.records("chats", limit=3, before=second[-1][0])
    assert [data["number"] for _, data in (*first, *second, *third)] == [6, 5, 4, 3, 2, 1, 0]
    assert warehouse.records("chats", before="c0") == []
    assert warehouse.records("chats", limit=0) == []


def test_a_list_cannot_be_continued_after_a_record_that_is_gone(warehouse):
    warehouse.put("chats", "c1", {})
    warehouse.put("other", "c2", {})
    with pytest.raises(NotFound, match="no record 'c2' in 'chats' to continue after; list again from the newest"):
        warehouse.records("chats", before="c2")


def test_dropped_records_are_gone_and_come_back_as_the_newest(warehouse):
    for name in ("a", "b", "c"):
        warehouse.put("keys", name, {})
    warehouse.drop("keys", {"a", "c", "never"})
    assert warehouse.records("keys") == [("b", {})]
    warehouse.put("keys", "a", {"again": True})
    assert warehouse.records("keys") == [("a", {"again": True}), ("b", {})]


def test_thousands_of_records_can_be_kept_listed_and_dropped(warehouse):
    for number in range(1200):
        warehouse.put("feedback", f"f{number:04}", {"number": number})
    assert len(warehouse.records("feedback")) == 1200
    warehouse.drop("feedback", [f"f{number:04}" for number in range(1, 1200)])
    assert warehouse.records("feedback") == [("f0000", {"number": 0})]


def test_the_keys_of_an_object_keep_their_order(warehouse):
    data = {"z": 1, "a": {"b": 2, "a": 3}, "": 4, "a.b": 5, "$set": 6}
    warehouse.put("batches", "b1", data)
    assert json.dumps(warehouse.record("batches", "b1")) == json.dumps(data)


def test_a_megabyte_and_a_hundred_levels_come_back_equal(warehouse):
    deep: dict = {"end": "ü" * 500_000}
    for _ in range(100):
        deep = {"in": [deep]}
    warehouse.put("batches", "b1", deep)
    assert warehouse.record("batches", "b1") == deep


def test_a_record_too_large_for_a_database_is_refused_by_each_alike(warehouse):
    warehouse.put("batches", "b1", {"text": "x" * (RECORD_BYTES - 20)})
    with pytest.raises(StoreError, match=r"record 'b1' of 'batches' has 8,388,621 bytes of JSON, 8,388,608 are the"):
        warehouse.put("batches", "b1", {"text": "x" * (RECORD_BYTES + 1)})
    assert len(warehouse.record("batches", "b1")["text"]) == RECORD_BYTES - 20


def test_what_is_no_plain_data_is_refused(warehouse):
    endless: list = []
    endless.append(endless)
    for wrong in (object(), float("nan"), float("inf"), b"bytes", endless):
        with pytest.raises(StoreError, match=r"cannot be kept as JSON: .*; use text, finite numbers"):
            warehouse.put("feedback", "f1", {"value": wrong})
    assert warehouse.record("feedback", "f1") is None


def test_changing_data_after_it_was_put_or_read_changes_no_record(warehouse):
    data = {"messages": ["hello"]}
    warehouse.put("chats", "c1", data)
    data["messages"].append("put")
    warehouse.record("chats", "c1")["messages"].append("read")
    warehouse.records("chats")[0][1]["messages"].append("listed")
    assert warehouse.record("chats", "c1") == {"messages": ["hello"]}


any_text = st.text(st.characters(exclude_categories=()), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(collection=any_text, record_id=any_text, data=st.dictionaries(any_text, json_values, max_size=4))
def test_any_plain_data_comes_back_equal_under_any_name(warehouse, collection, record_id, data):
    warehouse.put(collection, record_id, data)
    assert warehouse.record(collection, record_id) == data
    assert (record_id, data) in warehouse.records(collection)


def test_writers_at_once_lose_nothing_double_nothing_and_keep_their_own_order(warehouse):
    failures = []

    def write(worker: int) -> None:
        try:
            for number in range(15):
                warehouse.put("feedback", f"{worker}-{number:02}", {"number": number})
                warehouse.put("feedback", "shared", {"by": worker, "and": [worker] * 50})
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    found = warehouse.records("feedback")
    assert len(found) == len(dict(found)) == 8 * 15 + 1
    for worker in range(8):
        own = [record_id for record_id, _ in found if record_id.startswith(f"{worker}-")]
        assert own == [f"{worker}-{number:02}" for number in reversed(range(15))]
    shared = warehouse.record("feedback", "shared")
    assert shared["and"] == [shared["by"]] * 50
