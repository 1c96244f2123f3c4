"""What only MongoDB can show: turns, transactions, crashes between writes, rows too long, and errors to act on.

All of it runs the real driver against the stand-in of `mongo_stand_in`; tests/contracts runs against real servers.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from llm_twin import catalog
from llm_twin.collect.pipeline import collect
from llm_twin.core.errors import ConfigError, MigrationError, MissingExtra, StoreError
from llm_twin.core.records import (
    Chunk,
    Document,
    DocumentFeatures,
    Embedding,
    Item,
    ItemState,
    Run,
    content_hash,
    document_id,
)
from llm_twin.core.vectors import PackedTokens
from llm_twin.twin import Twin

pymongo = pytest.importorskip("pymongo", reason="needs the extra llm-twin[mongodb]")

from llm_twin.adapters.mongodb import VERSION, MongoWarehouse  # noqa: E402
from mongo_stand_in import StandIn  # noqa: E402

NOON = datetime(2026, 3, 14, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def single() -> Iterator[StandIn]:
    with closing(StandIn()) as server:
        yield server


@pytest.fixture(params=["single", "replica_set"])
def server(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    with closing(StandIn(replica_set=request.param == "replica_set")) as server:
        yield server


@pytest.fixture
def warehouse(server: StandIn) -> Iterator[MongoWarehouse]:
    with closing(MongoWarehouse(server.url("twin"))) as made:
        yield made


def make_document(key: str, text: str) -> Document:
    return Document(
        id=document_id("Ann", "site", key),
        author="Ann",
        source="site",
        kind="article",
        title=key,
        text=text,
        content_hash=content_hash(key, text),
        fetched_at=NOON,
    )


def added(key: str, text: str, *, item: str | None = None) -> tuple[ItemState, Document]:
    document = make_document(key, text)
    return ItemState("site", item or key, "added", version="1", document_id=document.id), document


def removed(key: str) -> tuple[ItemState, None]:
    return ItemState("site", key, "removed"), None


def features_of(document: Document, *, pieces: int = 3) -> DocumentFeatures:
    chunks = tuple(
        Chunk(f"{document.id}-{n}", document.id, document.text, 0, len(document.text)) for n in range(pieces)
    )
    return DocumentFeatures(document, document.content_hash, chunks, signatures=(b"sketch",) * (pieces + 1))


def texts(warehouse: MongoWarehouse) -> dict[str, str]:
    return {document.title: document.text for document in warehouse.documents()}


# --- opening --------------------------------------------------------------------------------------------------------


def test_records_outlive_the_connection_that_saved_them(server):
    state, document = added("a", "ORMs leak.")
    with closing(MongoWarehouse(server.url("twin"))) as first:
        first.save([(state, document)])
    with closing(MongoWarehouse(server.url("twin"))) as second:
        assert list(second.documents()) == [document]
        assert list(second.items()) == [state]


def test_several_connections_may_open_an_empty_database_at_once(server):
    opened, failures = [], []

    def open_and_write(number: int) -> None:
        try:
            opened.append(MongoWarehouse(server.url("twin")))
            opened[-1].save([added(f"{number}", "text")])
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=open_and_write, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert set(texts(opened[0])) == {"0", "1", "2", "3", "4", "5"}
    for each in opened:
        each.close()


def test_a_database_of_a_newer_version_is_refused_untouched_and_the_error_says_what_to_do(server):
    with pymongo.MongoClient(server.url("twin")) as client:
        client["twin"]["schema_version"].insert_one({"_id": "warehouse", "version": VERSION + 1})
    said = rf"has version {VERSION + 1}, this program reads up to {VERSION}; upgrade with: pip install"
    with pytest.raises(MigrationError, match=said):
        MongoWarehouse(server.url("twin"))
    assert server.rows("twin", "schema_version") == [{"_id": "warehouse", "version": VERSION + 1}]
    assert server.rows("twin", "turns") == []


def test_a_database_of_the_first_version_is_brought_up_to_this_one_with_its_data(server):
    state, document = added("a", "ORMs leak.")
    with closing(MongoWarehouse(server.url("twin"))) as warehouse:
        warehouse.save([(state, document), added("b", "bye")])
        warehouse.save([removed("b")])
    with pymongo.MongoClient(server.url("twin")) as client:
        rows = client["twin"]
        for row in rows["changes"].find():
            change = {"$set": {"change": row["outcome"]}, "$unset": {"outcome": "", "at": "", "source": ""}}
            rows["changes"].update_one({"_id": row["_id"]}, change)
        (item,) = rows["items"].find()
        rows["items"].update_one(
            {"_id": item["_id"]}, {"$set": {"unfinished": True}, "$unset": {"unlogged": "", "next_try": ""}}
        )
        rows["schema_version"].update_one({"_id": "warehouse"}, {"$set": {"version": 1}})
    for _ in range(2):
        with closing(MongoWarehouse(server.url("twin"))) as warehouse:
            assert list(warehouse.items()) == [state]
            assert [(each.sequence, each.outcome, each.source) for each in warehouse.changes()] == [
                (1, "added", "site"),
                (2, "added", ""),
                (3, "removed", ""),
            ]
    with closing(MongoWarehouse(server.url("twin"))) as warehouse:
        warehouse.save([(state, None)])
        assert [each.document_id for each in warehouse.changes(after=3)] == [document.id]
    assert server.rows("twin", "schema_version") == [{"_id": "warehouse", "version": VERSION}]


def test_collections_of_another_program_are_left_alone(server):
    with pymongo.MongoClient(server.url("shop")) as client:
        client["shop"]["customers"].insert_one({"name": "Bob"})
    with pytest.raises(StoreError, match=r"collections of another program \(customers\); name an empty database"):
        MongoWarehouse(server.url("shop"))
    assert server.rows("shop", "schema_version") == []


def test_an_opening_that_was_cut_short_is_completed_by_the_next(server):
    for writes in range(3):
        server.cut_after(writes)
        with pytest.raises(StoreError, match="cut off"):
            MongoWarehouse(server.url(f"twin{writes}"))
        server.cut_after(None)
        with closing(MongoWarehouse(server.url(f"twin{writes}"))) as warehouse:
            warehouse.save([added("a", "text")])
            assert texts(warehouse) == {"a": "text"}


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_a_workspace_finds_this_warehouse_by_the_scheme_of_its_url(tmp_path, monkeypatch, scheme):
    seen = []
    monkeypatch.setattr("llm_twin.adapters.mongodb.MongoWarehouse", lambda url: seen.append(url) or object())
    Twin.init(tmp_path, author="Ann")
    twin = Twin.open(tmp_path, arguments={"warehouse.url": f"{scheme}://db.example.org/twin"})
    assert twin.warehouse is not None
    assert seen == [f"{scheme}://db.example.org/twin"]


# --- a crash between two writes, on a server without transactions ---------------------------------------------------


@dataclass
class Site:
    """A source on a dictionary; a text before a bar is the page's canonical name, which makes its document."""

    pages: dict[str, str]
    name: str = "site"
    fetched: list[str] = field(default_factory=list)

    def list(self) -> Iterator[Item]:
        return (Item(key, content_hash(key, page)) for key, page in self.pages.items())

    def fetch(self, item: Item) -> Document:
        self.fetched.append(item.key)
        name, _, text = self.pages[item.key].rpartition("|")
        return make_document(name or item.key, text)

    @property
    def texts(self) -> dict[str, str]:
        return {page.rpartition("|")[0] or key: page.rpartition("|")[2] for key, page in self.pages.items()}


BEFORE = Site({"kept": "same", "edited": "old", "gone": "bye", "moved": "first|here"})
AFTER = Site({"kept": "same", "edited": "new", "moved": "second|there", "new": "hello"})
OTHER = Site({"kept": "same", "gone": "bye, really", "moved": "first|here"})


def sync(warehouse: MongoWarehouse, site: Site) -> None:
    collect(site, store=warehouse, redactor=None, now=lambda: NOON)
    fresh = {each.document.id: each.fingerprint for each in warehouse.features()}
    stale = [document for document in warehouse.documents() if fresh.get(document.id) != document.content_hash]
    warehouse.save_features([features_of(document) for document in stale])


def survives(work: Callable[[], None]) -> bool:
    """Whether work comes to its end; it may only be cut off."""
    try:
        work()
    except StoreError as error:
        if "cut off" not in str(error):
            raise
        return False
    return True


def check_no_moment_is_wrong(warehouse: MongoWarehouse, server: StandIn, name: str) -> None:
    documents = {row["_id"] for row in server.rows(name, "documents")}
    items = server.rows(name, "items")
    assert documents <= {held for item in items for held in item["holds"]}
    assert {item["document_id"] for item in items if item["outcome"] != "failed"} <= documents
    assert warehouse.feature_fingerprints().keys() <= documents
    for made in warehouse.features():
        assert made == features_of(made.document)


def replayed(warehouse: MongoWarehouse) -> set[str]:
    """The documents a reader of the change log believes in."""
    alive: set[str] = set()
    for change in warehouse.changes():
        alive = alive - {change.document_id} if change.outcome == "removed" else alive | {change.document_id}
    return alive


@pytest.mark.parametrize("then", [AFTER, BEFORE, OTHER], ids=["same", "reverted", "changed again"])
def test_a_sync_killed_after_any_write_is_completed_by_the_next(single, then):
    for writes in range(200):
        name = f"twin{writes}"
        with closing(MongoWarehouse(single.url(name))) as warehouse:
            sync(warehouse, BEFORE)
            known = {document.id: document.content_hash for document in warehouse.documents()}
            last = warehouse.changes()[-1].sequence
            single.cut_after(writes)
            finished = survives(lambda: sync(warehouse, AFTER))
            check_no_moment_is_wrong(warehouse, single, name)
        single.cut_after(None)
        with closing(MongoWarehouse(single.url(name), lease_s=0)) as warehouse:
            sync(warehouse, then)
            check_no_moment_is_wrong(warehouse, single, name)
            assert texts(warehouse) == then.texts
            assert {item.key: item.outcome for item in warehouse.items()}.keys() == then.pages.keys()
            assert "failed" not in {item.outcome for item in warehouse.items()}
            assert {made.document.title: made.document.text for made in warehouse.features()} == then.texts
            assert replayed(warehouse) == set(warehouse.document_hashes())
            told = {change.document_id for change in warehouse.changes(after=last)}
            assert {change.source for change in warehouse.changes()} == {"site"}
            assert {each for each, mark in warehouse.document_hashes().items() if known.get(each) != mark} <= told
        if finished:
            break
    assert writes > 20


def test_one_call_killed_after_any_write_is_completed_by_repeating_it(single):
    before = [added("a", "old"), added("b", "bye"), added("first", "here", item="moved"), added("c", "shared")]
    again = [added("a", "new"), removed("b"), added("second", "there", item="moved"), removed("c")]
    again.append((ItemState("site", "heir", "added", version="1", document_id=make_document("c", "").id), None))
    for writes in range(100):
        name = f"twin{writes}"
        with closing(MongoWarehouse(single.url(name))) as warehouse:
            warehouse.save(before)
            single.cut_after(writes)
            finished = survives(lambda: warehouse.save(again))
            check_no_moment_is_wrong(warehouse, single, name)
            assert {"c": "shared"}.items() <= texts(warehouse).items()
        single.cut_after(None)
        with closing(MongoWarehouse(single.url(name), lease_s=0)) as warehouse:
            warehouse.save(again)
            assert texts(warehouse) == {"a": "new", "second": "there", "c": "shared"}
            assert {item.key for item in warehouse.items()} == {"a", "moved", "heir"}
            assert replayed(warehouse) == set(warehouse.document_hashes())
        if finished:
            break
    assert writes > 10


def test_an_item_whose_saving_was_cut_short_says_so(single):
    with closing(MongoWarehouse(single.url("twin"))) as warehouse:
        single.cut_after(3)  # taking the turn, showing life, and the mark
        with pytest.raises(StoreError):
            warehouse.save([added("a", "text")])
        single.cut_after(None)
        (item,) = warehouse.items()
    assert (item.outcome, item.reason, item.version) == (
        "failed",
        "saving was cut short; the next sync completes it",
        None,
    )


# --- transactions ---------------------------------------------------------------------------------------------------


def test_on_a_replica_set_a_call_that_is_cut_off_leaves_nothing():
    with closing(StandIn(replica_set=True)) as server:
        for writes in range(1, 60):
            with closing(MongoWarehouse(server.url(f"twin{writes}"))) as warehouse:
                warehouse.save([added("a", "old"), added("b", "bye")])
                held = [server.rows(f"twin{writes}", name) for name in ("items", "documents", "changes")]
                server.cut_after(writes)
                finished = survives(lambda: warehouse.save([added("a", "new"), removed("b"), added("c", "hello")]))
                server.cut_after(None)
                if finished:
                    break
                assert [server.rows(f"twin{writes}", name) for name in ("items", "documents", "changes")] == held
        assert writes > 8
        assert texts_of(server, f"twin{writes}") == {"a": "new", "c": "hello"}


def texts_of(server: StandIn, name: str) -> dict[str, str]:
    with closing(MongoWarehouse(server.url(name))) as warehouse:
        return texts(warehouse)


def test_a_transaction_that_collided_is_done_again():
    with closing(StandIn(replica_set=True)) as server, closing(MongoWarehouse(server.url("twin"))) as warehouse:
        server.fail("commitTransaction", 112, "WriteConflict", "TransientTransactionError")
        warehouse.save([added("a", "text")])
        assert texts(warehouse) == {"a": "text"}
        assert [change.sequence for change in warehouse.changes()] == [1]
        assert len([command for command in server.commands if "abortTransaction" in command]) <= 1


def test_only_servers_with_transactions_are_asked_for_them(server, warehouse):
    warehouse.save([added("a", "text")])
    began = [command for command in server.commands if command.get("startTransaction")]
    assert len(began) == server.replica_set
    concern = {"w": "majority"} if server.replica_set else {"w": 1, "j": True}
    saved = [command for command in server.commands if command.get("update") == "documents"]
    assert [command.get("writeConcern", {"w": "majority"}) for command in saved] == [concern]


# --- turns ----------------------------------------------------------------------------------------------------------


def test_a_turn_held_too_long_is_an_error_that_names_its_holder(server, warehouse):
    with (
        closing(MongoWarehouse(server.url("twin"), busy_timeout_s=0.1)) as impatient,
        warehouse._database._turn.taken(),
    ):
        with pytest.raises(StoreError, match=r"the turn of process \d+ on .*another process has been writing for long"):
            impatient.save([added("a", "text")])
        assert list(impatient.documents()) == []  # readers do not wait
        impatient.save_embeddings({"k": Embedding(np.ones(2, np.float32))})
    warehouse.save([added("a", "text")])
    assert texts(warehouse) == {"a": "text"}


def test_the_turn_of_a_dead_writer_is_taken_over(server, warehouse):
    warehouse._database._turn._take()  # and never given back
    with closing(MongoWarehouse(server.url("twin"), lease_s=0.1)) as heir:
        heir.save([added("a", "text")])
        assert texts(heir) == {"a": "text"}


def test_a_writer_that_shows_life_keeps_its_turn(server, warehouse):
    turn = warehouse._database._turn
    with closing(MongoWarehouse(server.url("twin"), lease_s=0.3, busy_timeout_s=1.0)) as other, turn.taken():
        stop = threading.Event()

        def live() -> None:
            while not stop.wait(0.05):
                turn.keep()

        alive = threading.Thread(target=live)
        alive.start()
        with pytest.raises(StoreError, match="another process has been writing for long"):
            other.save([added("a", "text")])
        stop.set()
        alive.join()


def test_a_writer_that_was_passed_over_stops_and_changes_nothing_more(server, warehouse):
    with closing(MongoWarehouse(server.url("twin"), lease_s=0)) as heir:

        def slow(call) -> None:
            heir.save([added("a", "by the heir")])
            call.write("items", [pymongo.DeleteOne({})])

        with pytest.raises(StoreError, match="another took over; run the command again"):
            warehouse._database.write(slow)
        assert texts(heir) == {"a": "by the heir"}
        assert len(list(heir.items())) == 1


# --- what is stored -------------------------------------------------------------------------------------------------


def test_a_document_keeps_the_history_of_its_content(warehouse):
    for days, text in enumerate(["one", "two", "one"]):
        state, document = added("a", text)
        warehouse.save([(state, replace(document, fetched_at=NOON + timedelta(days=days)))])
    one, two = make_document("a", "one"), make_document("a", "two")
    assert warehouse.history(one.id) == [(one.content_hash, NOON), (two.content_hash, NOON + timedelta(days=1))]
    warehouse.save([removed("a")])
    assert warehouse.history(one.id) == []


def test_removing_a_document_leaves_no_row_of_it(server, warehouse):
    state, document = added("a", "ORMs leak.")
    warehouse.save([(state, document)])
    warehouse.save_features([features_of(document)])
    warehouse.save([removed("a")])
    assert [server.rows("twin", name) for name in ("items", "documents", "features", "pieces")] == [[], [], [], []]


def test_times_are_kept_to_the_microsecond_as_text_that_sorts(server, warehouse):
    runs = [Run(f"r{n}", "sync", NOON + timedelta(microseconds=n)) for n in range(3)]
    runs.append(Run("r3", "sync", NOON.replace(microsecond=0)))
    for run in runs:
        warehouse.save_run(run)
    assert [run.id for run in warehouse.runs()] == ["r2", "r1", "r0", "r3"]
    assert warehouse.runs()[0].started_at == NOON + timedelta(microseconds=2)
    assert server.rows("twin", "runs")[3]["started_at"] == "2026-03-14T12:00:00.000000+00:00"


def test_a_time_without_a_zone_is_refused(warehouse):
    with pytest.raises(StoreError, match=r"a time without a time zone: 2026-03-14T12:00:00"):
        warehouse.save_run(Run("r1", "sync", datetime(2026, 3, 14, 12)))
    assert warehouse.runs() == []


def test_settings_with_keys_and_numbers_that_bson_cannot_keep_come_back_equal(warehouse):
    settings = {"search.k": 5, "$set": {"a.b": None}, "": 2**80, "nul\x00": "half \ud83e", "\ud83e\uddf5": [1e-300]}
    warehouse.save_run(Run("r1", "sync", NOON, settings=settings))
    assert warehouse.runs()[0].settings == settings


def test_reading_tokens_or_hashes_does_not_read_vectors_or_texts(server, warehouse):
    warehouse.save_embeddings({"k": Embedding(np.ones(4, np.float32), PackedTokens(b"abcd", 2, 2))})
    server.commands.clear()
    assert warehouse.tokens(["k"]) == {"k": PackedTokens(b"abcd", 2, 2)}
    warehouse.document_hashes()
    warehouse.feature_fingerprints()
    warehouse.embedding_keys()
    asked = [
        (set(command["projection"]) - {"_id"} or {"_id"}, command.get("hint"))
        for command in server.commands
        if "find" in command
    ]
    assert asked == [
        ({"tokens", "token_count", "token_dim"}, None),
        ({"content_hash"}, "hashes"),
        ({"fingerprint"}, "fingerprints"),
        ({"_id"}, None),
    ]


# --- rows too long for MongoDB --------------------------------------------------------------------------------------


def test_texts_longer_than_a_row_come_back_equal_and_leave_nothing_behind(server, warehouse):
    state, document = added("long", "\x00" + "ü" * 9_000_000)
    assert len(document.text.encode()) > 16 * 2**20
    made = features_of(document, pieces=1)
    warehouse.save([(state, document), added("short", "brief")])
    warehouse.save_features([made])
    assert texts(warehouse) == {"long": document.text, "short": "brief"}
    assert list(warehouse.features()) == [made]
    assert warehouse.document_hashes()[document.id] == document.content_hash
    assert warehouse.history(document.id) == [(document.content_hash, NOON)]
    assert len(server.rows("twin", "pieces")) > 4
    warehouse.save([added("long", "short now")])
    warehouse.save_features([features_of(make_document("long", "short now"))])
    assert server.rows("twin", "pieces") == []
    warehouse.save([(state, document)])
    warehouse.save([removed("long")])
    assert server.rows("twin", "pieces") == []
    assert texts(warehouse) == {"short": "brief"}


def test_a_reader_of_a_long_row_that_is_replaced_meanwhile_gets_the_new_one_whole(warehouse):
    state, document = added("long", "a" * 13_000_000)
    warehouse.save([(state, document)])
    (stale,) = warehouse._database._database["documents"].find()
    longer = replace(document, text="b" * 13_000_000)
    warehouse.save([(state, longer)])
    (found,) = warehouse._database.call()._whole("documents", dict(stale))
    assert found["text"] == longer.text
    warehouse.save([removed("long")])
    assert list(warehouse._database.call()._whole("documents", dict(stale))) == []


def test_a_long_row_that_lost_a_piece_is_an_error_and_no_shorter_text(warehouse):
    warehouse.save([added("long", "a" * 13_000_000)])
    warehouse._database._database["pieces"].delete_one({})
    with pytest.raises(StoreError, match="lacks some of its pieces; restore the database"):
        list(warehouse.documents())


def test_an_embedding_longer_than_a_row_is_refused(warehouse):
    with pytest.raises(StoreError, match=r"size: \d+ .*is invalid.*16 MiB at most"):
        warehouse.save_embeddings({"k": Embedding(np.ones(4, np.float32), PackedTokens(bytes(17 * 2**20), 1, 1))})
    assert warehouse.embedding_keys() == set()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["mysql://u@h/d", "not a url", "mongodb://", "mongodb://h:99999/twin", ""])
def test_a_url_it_cannot_use_is_an_error_that_shows_the_right_form(wrong):
    with pytest.raises(ConfigError, match=r"write mongodb://user@host/database or mongodb\+srv://"):
        MongoWarehouse(wrong)


def test_a_url_without_a_database_is_an_error_that_says_so():
    with pytest.raises(ConfigError, match=r"'mongodb://ann@127\.0\.0\.1' names no database; write mongodb://"):
        MongoWarehouse("mongodb://ann:s3cret@127.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ann:s3cret@h:99999/twin",
        "mongodb://ann:s3c@s3cret@h/twin",
        "mongodb://ann:s3/s3cret@h/twin",
        "mongodb://h:1/?tlsCertificateKeyFilePassword=s3cret",
        "mongodb//ann:s3cret@h/twin",
    ],
)
def test_a_malformed_url_is_shown_without_the_password(url):
    with pytest.raises(ConfigError) as caught:
        MongoWarehouse(url)
    assert "s3cret" not in str(caught.value) + repr(caught.value.__cause__)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_server_that_does_not_answer_is_an_error_without_the_password_and_soon():
    with pytest.raises(StoreError, match="Connection refused; check that the server runs") as caught:
        MongoWarehouse(f"mongodb://ann:s3cret@127.0.0.1:{unused_port()}/twin", connect_timeout_s=0.2)
    assert "127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_timeout_in_the_url_is_obeyed():
    with pytest.raises(StoreError, match="Connection refused"):
        MongoWarehouse(
            f"mongodb://127.0.0.1:{unused_port()}/twin?serverSelectionTimeoutMS=100", connect_timeout_s=10_000
        )


def test_the_representation_names_the_database_and_hides_secrets(single):
    url = f"mongodb://{single.address}/twin?appname=s3cret"
    with closing(MongoWarehouse(url)) as warehouse:
        assert repr(warehouse) == f"MongoWarehouse('mongodb://{single.address}/twin')"


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        (13, "not authorized on twin", "give the user the role readWrite"),
        (18, "Authentication failed.", "check the user, the password and authSource"),
        (14031, "available disk space", "free some disk space on the server"),
        (11600, "interrupted at shutdown", "try again in a moment"),
        (8, "something odd", "look into the server's log"),
    ],
)
def test_what_a_server_refuses_comes_with_a_remedy(single, code, message, remedy):
    with closing(MongoWarehouse(single.url("twin"))) as warehouse:
        single.fail("update", code, message)
        with pytest.raises(StoreError, match=f"{message}.*; .*{remedy}"):
            warehouse.save_run(Run("r1", "sync", NOON))


def test_texts_of_the_author_do_not_appear_in_errors(single):
    with closing(MongoWarehouse(single.url("twin"))) as warehouse:
        with pymongo.MongoClient(single.url("twin")) as client:
            client["twin"]["documents"].create_index("title", unique=True)
        warehouse.save([added("a", "text")])
        state, document = added("b", "a private sentence")
        with pytest.raises(StoreError, match=r"duplicate|E11000|Duplicate") as caught:
            warehouse.save([(state, replace(document, title="a"))])
    assert "a private sentence" not in str(caught.value) + repr(caught.value.__cause__)
    assert caught.value.__suppress_context__


def test_a_missing_driver_is_an_error_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "llm_twin.adapters.mongodb")
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(MissingExtra, match=r"MongoDB as warehouse needs .*'pymongo'.*'llm-twin\[mongodb\]'"):
        catalog.part("warehouse", "mongodb")
