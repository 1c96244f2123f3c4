"""The warehouse in MongoDB: a replica set, a sharded cluster, a hosted one, or a single server.

**One record, one row.** Features are kept with their chunks in one row, a document with its history, so that MongoDB
replaces each whole or not at all, and a reader never sees half of one. A row that would pass MongoDB's limit of 16 MiB
keeps its long fields in `pieces`: those are written before the row that names them and deleted after it, so that the
row always names whole ones. (GridFS, which does the like for files, takes no part in transactions.)

**Turns.** Calls that read before they write (`save`, `save_features`) take turns by the row `writer` of `turns`. Its
holder changes the row before each write; who finds it unchanged for `lease_s` takes over, by its own clock, so that a
killed writer holds nobody up for long and the clocks of machines need not agree. A holder that was passed over notices
at its next write and stops.

**A replica set or cluster** makes each such call one transaction: all or nothing. It ends by writing the number of its
turn, in which it collides with any transaction of a later turn.

**A single server** has no transactions, so `save` writes in an order in which no moment is wrong, only unfinished:

1. Items whose document is about to be written or removed are marked as failed, without a version. They go on holding
   the document they had, and hold the one they get.
2. New and changed documents are written.
3. Documents that no item holds any more are removed, their features first.
4. What happened is appended to the change log; until then the marked items say what is not logged yet.
5. The items get their new state, or go.

Hence every document is held by an item at any time, and an item that counts as settled has its document. Killed in
between, the call leaves marked items: the next sync looks at them again, as at any failed item, and completes what was
begun; an item that is not listed any more is removed with its document. The changes it finds done are logged then.
`save_features` replaces document by document; those that a killed call did not reach keep their old fingerprint, and
the next sync makes them again. Every write waits for the journal.

Times are ISO 8601 text in UTC with microseconds, which BSON's own times would cut to milliseconds; as text they sort.
Free mappings (settings, reports, measures) are JSON text: their keys may hold dots, and their numbers have any size.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np

from llm_twin.core.errors import ConfigError, MigrationError, MissingExtra, StoreError
from llm_twin.core.records import (
    Change,
    Chunk,
    Document,
    DocumentFeatures,
    Embedding,
    ItemState,
    Outcome,
    Run,
    VoiceProfile,
    changed_by,
    check_fit,
    fingerprint,
    json_text,
    no_such_record,
    record_text,
)
from llm_twin.core.text import as_written, storable
from llm_twin.core.vectors import PackedTokens

try:
    import bson
    import pymongo
    from pymongo import DeleteOne, IndexModel, InsertOne, ReplaceOne, UpdateOne
    from pymongo.client_session import ClientSession
    from pymongo.errors import (
        BulkWriteError,
        ConfigurationError,
        ConnectionFailure,
        DocumentTooLarge,
        DuplicateKeyError,
        OperationFailure,
        PyMongoError,
    )
    from pymongo.read_concern import ReadConcern
    from pymongo.write_concern import WriteConcern
except ImportError as error:
    raise MissingExtra("MongoDB as warehouse", "mongodb", "pymongo") from error

T = TypeVar("T")
Row = dict[str, Any]

# How many ids go into one query, and how many documents are in memory at once while streaming.
_BATCH = 200
# MongoDB takes rows of 16 MiB; what is left covers the fields that stay in a split row.
_ROW_BYTES = 12 * 2**20
_PIECE_BYTES = 8 * 2**20

_LONG = {"text", "document", "chunks", "signatures", "settings", "inputs", "outputs", "report"}
_MOMENTS = {"at", "fetched_at", "published_at", "seen_at", "next_try", "started_at", "finished_at"}
_MAPPINGS = {"settings", "inputs", "outputs", "report", "measures", "function_words"}

# An index over the id and a short field answers from its own pages: texts are not read where hashes are asked for. The
# planner does not see that for a query without a condition, so those queries name their index.
_INDEXES = {
    # Made here so that no transaction has to make the collection.
    "changes": [IndexModel([("document_id", 1)], name="documents")],
    "items": [
        IndexModel([("source", 1), ("key", 1)], name="places"),
        IndexModel([("holds", 1)], name="holds"),
    ],
    "documents": [IndexModel([("_id", 1), ("content_hash", 1)], name="hashes")],
    "features": [IndexModel([("_id", 1), ("fingerprint", 1)], name="fingerprints")],
    "runs": [IndexModel([("started_at", -1), ("_id", -1)], name="newest")],
    "pieces": [IndexModel([("owner", 1)], name="owners")],
    "records": [IndexModel([("collection", 1), ("first_put_at", -1), ("id", -1)], name="newest")],
}

# Every row, by a condition that the index of ids answers alone.
_ANY = {"_id": {"$gte": ""}}

# What is asked of a document before it is written or removed.
_KNOWN = ("content_hash", "source", "history")

_CUT_SHORT = "saving was cut short; the next sync completes it"


# --- values ---------------------------------------------------------------------------------------------------------


def _stored(value: Any) -> Any:
    """A record's value as BSON keeps it: text without what no database takes, times as text, tuples as lists."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise StoreError(f"a time without a time zone: {value.isoformat()}; give it one, as in datetime.now(UTC)")
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, list | tuple):
        return [_stored(item) for item in value]
    return value


def _row(record: Any, *without: str, **more: Any) -> Row:
    """The fields of a record as a row."""
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.name not in without}
    return {
        name: storable(json_text(value)) if name in _MAPPINGS else _stored(value) for name, value in values.items()
    } | more


def _value(name: str, stored: Any) -> Any:
    if stored is None:
        return None
    if name in _MOMENTS:
        return datetime.fromisoformat(stored)
    if name in _MAPPINGS:
        return json.loads(as_written(stored))
    return _as_kept(stored)


def _as_kept(stored: Any) -> Any:
    if isinstance(stored, str):
        return as_written(stored)
    return tuple(_as_kept(item) for item in stored) if isinstance(stored, list) else stored


def _record(kind: type[T], row: Row) -> T:
    """A record from its row; a field that an earlier version did not know has its default."""
    known = [field.name for field in fields(kind) if field.name in row]  # type: ignore[arg-type]
    return kind(**{name: _value(name, row[name]) for name in known})


def _pair_id(first: str, second: str) -> str:
    """One id for what two texts identify together: source and key of an item, collection and id of a record."""
    return fingerprint(first, second)[:32]


# --- connections ----------------------------------------------------------------------------------------------------

_URL_FORM = "write mongodb://user@host/database or mongodb+srv://user@host/database"
_UNREACHABLE = "check that the server runs and can be reached, and that its URL is right"
_ELECTING = "the server is starting, stopping or choosing a primary: try again in a moment"
_TOO_LARGE = "a row holds 16 MiB at most: leave that item out of the source with `exclude`"

_REMEDIES = {
    13: "give the user the role readWrite on this database",
    18: "check the user, the password and authSource in the URL",
    8000: "check the user, the password and authSource in the URL",
    91: _ELECTING,
    189: _ELECTING,
    10107: _ELECTING,
    10334: _TOO_LARGE,
    11600: _ELECTING,
    11602: _ELECTING,
    13435: _ELECTING,
    14031: "free some disk space on the server and try again",
}


def _shown(url: str) -> str:
    """The URL as messages show it: options may hold secrets as well as the password, so they go too."""
    found = re.fullmatch(r"(mongodb(?:\+srv)?)://(?:([^:@/?]*)(?::[^@/?]*)?@)?([^@/?]*)(/[^@?]*)?(?:\?.*)?", url)
    if not found:
        return re.sub(r"//.*@", "//***@", url.partition("?")[0])
    scheme, user, hosts, path = found.groups()
    return f"{scheme}://{f'{user}@' if user else ''}{hosts}{path or ''}"


def _told(error: PyMongoError) -> str:
    """What the server or the driver said, without the rows it said it about and without the state of the cluster."""
    if isinstance(error, BulkWriteError):
        problems = [*error.details.get("writeErrors", ()), *error.details.get("writeConcernErrors", ())]
        return str(problems[0].get("errmsg")) if problems else "a write failed"
    if isinstance(error, OperationFailure) and error.details:
        return str(error.details.get("errmsg") or error)
    return re.split(r", full error:| \(configured timeouts:|, Timeout: |\n", str(error))[0] or type(error).__name__


def _remedy(error: PyMongoError) -> str:
    details = getattr(error, "details", None)
    problems = details.get("writeErrors") or [details] if isinstance(details, Mapping) else [{}]
    if isinstance(error, DocumentTooLarge):
        return _TOO_LARGE
    unreachable = isinstance(error, ConnectionFailure | ConfigurationError)  # the latter for names DNS does not know
    return _REMEDIES.get(
        problems[0].get("code"), _UNREACHABLE if unreachable else "look into the server's log, then try again"
    )


def _to_version_2(database: pymongo.database.Database[Row]) -> None:
    """Changes have a time and a source, and items name the documents of a call that was killed before it logged."""
    sources = {row["_id"]: row["source"] for row in database["documents"].find({}, ["source"])}
    now = _stored(datetime.now(UTC))
    for row in database["changes"].find({"change": {"$exists": True}}):
        told = {"outcome": row["change"], "at": now, "source": sources.get(row["document_id"], "")}
        database["changes"].update_one({"_id": row["_id"]}, {"$set": told, "$unset": {"change": ""}})
    for row in database["items"].find({"unfinished": {"$exists": True}}):
        held = row["holds"] if row["unfinished"] else []
        unlogged = [[each, sources.get(each, "")] for each in held]
        database["items"].update_one(
            {"_id": row["_id"]}, {"$set": {"unlogged": unlogged}, "$unset": {"unfinished": ""}}
        )


# From each version to the next. Killed in between, the next opening does it again, so each must bear that.
_UPGRADES: tuple[Callable[[pymongo.database.Database[Row]], None], ...] = (_to_version_2,)

VERSION = 1 + len(_UPGRADES)
"""Version of the stored form that this code reads and writes."""


class _Database:
    """A client of one database that hands out turns and transactions and speaks our errors."""

    def __init__(self, url: str, *, connect_timeout_s: float, busy_timeout_s: float, lease_s: float) -> None:
        self.name = _shown(url)
        self.client, self._database = _client(url, self.name, connect_timeout_s)
        self._turn = _Turn(self.name, busy_timeout_s, lease_s)
        try:
            with self.translated():
                self._open()
        except BaseException:
            self.client.close()
            raise

    def _open(self) -> None:
        hello = self.client.admin.command("hello")
        self.has_transactions = "setName" in hello or hello.get("msg") == "isdbgrid"
        # What a majority of a replica set has is never rolled back; a single server has its journal.
        durable = WriteConcern("majority") if self.has_transactions else WriteConcern(1, j=True)
        # And what is read from it neither: else a change could be read that another takes the number of.
        lasting = ReadConcern("majority") if self.has_transactions else None
        self._database = self._database.with_options(
            write_concern=durable, read_concern=lasting, read_preference=pymongo.ReadPreference.PRIMARY
        )
        self._check_version()
        for name, indexes in _INDEXES.items():
            self._database[name].create_indexes(indexes)
        # Turns need not outlive a crash of the server, so they do not wait for its journal.
        quick = None if self.has_transactions else WriteConcern(1)
        self._turn.open(self._database.get_collection("turns", write_concern=quick))

    def _check_version(self) -> None:
        """Mark an empty database as ours, before anything else is made in it; leave everybody else's alone."""
        versions = self._database["schema_version"]
        # In this order: what another process makes in this moment has its version before it has anything else.
        others = sorted(each for each in self._database.list_collection_names() if not each.startswith("system."))
        row = versions.find_one({"_id": "warehouse"})
        stored = row.get("version") if row else None
        if stored is None:
            if others:
                raise StoreError(
                    f"{self.name} holds collections of another program ({', '.join(others[:3])}); "
                    "name an empty database"
                )
            with suppress(DuplicateKeyError):  # another process made it in this moment
                versions.update_one({"_id": "warehouse"}, {"$setOnInsert": {"version": VERSION}}, upsert=True)
        elif stored > VERSION:
            raise MigrationError(
                f"the warehouse in {self.name} has version {stored}, this program reads up to {VERSION}; "
                "upgrade with: pip install -U llm-twin"
            )
        else:
            for upgrade in _UPGRADES[stored - 1 :]:
                upgrade(self._database)
            versions.update_one({"_id": "warehouse"}, {"$set": {"version": VERSION}})

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of the driver become ours."""
        try:
            yield
        except PyMongoError as error:
            # A failed bulk write carries its rows, the author's texts: they must not reach a traceback.
            cause = None if isinstance(error, BulkWriteError) else error
            raise StoreError(f"{self.name}: {_told(error)}; {_remedy(error)}") from cause

    def call(self) -> _Call:
        """Reads and writes on their own, each atomic by itself."""
        return _Call(self._database)

    def write(self, work: Callable[[_Call], None]) -> None:
        """Do `work` while no other writer does; as one transaction where there are any, and then perhaps repeatedly."""
        with self.translated(), self._turn.taken():
            if not self.has_transactions:
                work(_Call(self._database, turn=self._turn))
                return

            def transaction(session: ClientSession) -> None:
                work(_Call(self._database, session, self._turn))
                self._turn.close(session)

            with self.client.start_session() as session:
                session.with_transaction(transaction, write_concern=WriteConcern("majority"))


def _client(
    url: str, name: str, connect_timeout_s: float
) -> tuple[pymongo.MongoClient[Row], pymongo.database.Database[Row]]:
    if not re.match(r"mongodb(\+srv)?://", url):
        raise ConfigError(f"not a MongoDB URL: {name!r}; {_URL_FORM}")
    options: dict[str, Any] = {"appname": "llm-twin"}
    if "serverselectiontimeoutms=" not in url.lower():
        options["serverSelectionTimeoutMS"] = int(connect_timeout_s * 1000)
    try:
        client: pymongo.MongoClient[Row] = pymongo.MongoClient(url, connect=False, **options)
    except (ConfigurationError, ValueError):
        # The driver's message may quote a part of the password that looks like a host or a database to it.
        raise ConfigError(
            f"not a MongoDB URL: {name!r}; {_URL_FORM}, with special characters of user and password percent-encoded"
        ) from None
    try:
        return client, client.get_default_database()
    except ConfigurationError:
        client.close()
        raise ConfigError(f"{name!r} names no database; {_URL_FORM}") from None


# --- turns ----------------------------------------------------------------------------------------------------------


class _Turn:
    """The right to write: held by one thread of one process at a time, and passed on when its holder dies."""

    def __init__(self, name: str, busy_timeout_s: float, lease_s: float) -> None:
        self._name, self._busy_timeout_s, self._lease_s = name, busy_timeout_s, lease_s
        self._threads = threading.Lock()  # threads take turns here, which asks no server
        self._me = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"

    def open(self, rows: pymongo.collection.Collection[Row]) -> None:
        """Make the rows that say whose turn it is and which turn wrote last, unless they are there."""
        self._rows = rows
        for row in ({"_id": "writer", "holder": None, "beat": 0}, {"_id": "last", "turn": 0}):
            with suppress(DuplicateKeyError):  # another process made it in this moment
                rows.update_one({"_id": row["_id"]}, {"$setOnInsert": row}, upsert=True)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the turn, and have it inside the context."""
        with self._threads:
            self._take()
            try:
                yield
            finally:
                # What was to be written is written or has failed already; a turn not given back expires.
                with suppress(PyMongoError):
                    self._rows.update_one({"_id": "writer", "holder": self._me}, {"$set": {"holder": None}})

    def keep(self) -> None:
        """Show others that the holder lives. Raises `StoreError` when one of them took over."""
        mine = {"_id": "writer", "holder": self._me}
        if not self._rows.update_one(mine, {"$inc": {"beat": 1}}).matched_count:
            raise self._passed_over()

    def close(self, session: ClientSession) -> None:
        """End a transaction's work by a write that collides with those of later turns."""
        earlier = {"_id": "last", "turn": {"$lte": self._number}}
        if not self._rows.update_one(earlier, {"$set": {"turn": self._number}}, session=session).matched_count:
            raise self._passed_over()

    def _passed_over(self) -> StoreError:
        return StoreError(
            f"{self._name}: this process stood still for more than {self._lease_s:g} seconds while writing, and "
            "another took over; run the command again"
        )

    def _take(self) -> None:
        started = time.monotonic()
        seen, seen_at = None, started
        while True:
            found = self._rows.find_one({"_id": "writer"}) or {"holder": None, "beat": 0}
            now = time.monotonic()
            if found != seen:
                seen, seen_at = found, now
            free = found["holder"] in (None, self._me) or now - seen_at > self._lease_s
            if free and self._pass(found):
                self._number = found["beat"] + 1
                return
            if now - started > self._busy_timeout_s:
                raise StoreError(
                    f"{self._name}: it is the turn of {found['holder']}; another process has been writing for long: "
                    "wait for it or stop it, then try again"
                )
            time.sleep(0.02)

    def _pass(self, found: Row) -> bool:
        """Take the turn from whom it was found with, unless anything has changed since."""
        change = {"$set": {"holder": self._me}, "$inc": {"beat": 1}}
        seen = {"_id": "writer", "holder": found["holder"], "beat": found["beat"]}
        return self._rows.update_one(seen, change).matched_count == 1


# --- reading and writing rows ---------------------------------------------------------------------------------------


class _Call:
    """Reads and writes of rows, all in one session where there is one."""

    def __init__(
        self,
        database: pymongo.database.Database[Row],
        session: ClientSession | None = None,
        turn: _Turn | None = None,
    ) -> None:
        self._database = database
        self.session = session
        self._turn = turn

    def find(
        self,
        name: str,
        where: Row,
        *names: str,
        index: str | None = None,
        order: Sequence[tuple[str, int]] = (),
        limit: int = 0,
    ) -> list[Row]:
        """Rows with only the fields of these names, or with all of them, split ones put together again."""
        found = self._database[name].find(where, names or None, session=self.session, limit=limit)
        if order:
            found = found.sort(order)
        if index:
            found = found.hint(index)
        return [whole for row in found for whole in self._whole(name, row)]

    def by_id(self, name: str, ids: Iterable[str], *names: str) -> Iterator[Row]:
        """The rows of these ids in the order of ids, read in batches."""
        for batch in _batches(storable(each) for each in ids):
            yield from self.find(name, {"_id": {"$in": batch}}, *names, order=[("_id", 1)])

    def put(self, name: str, rows: Sequence[Row]) -> None:
        """Insert or replace rows by id; a row too long for MongoDB is split."""
        split = [_split(name, row) for row in rows]
        pieces = [piece for _, made in split for piece in made]
        self.write("pieces", [InsertOne(piece) for piece in pieces])
        self.write(name, [ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row, _ in split])
        self._drop_pieces(name, [row["_id"] for row in rows], keep={piece["of"] for piece in pieces})

    def remove(self, name: str, ids: Iterable[str]) -> None:
        """Delete rows by id, and their pieces."""
        for batch in _batches(storable(each) for each in ids):
            self.write(name, [DeleteOne({"_id": each}) for each in batch])
            self._drop_pieces(name, batch)

    def write(self, name: str, operations: Sequence[Any]) -> None:
        """Write in order, as long as the turn is ours."""
        if operations:
            if self._turn:
                self._turn.keep()
            self._database[name].bulk_write(operations, ordered=True, session=self.session)

    def _drop_pieces(self, name: str, ids: Sequence[str], *, keep: Collection[str] = ()) -> None:
        for batch in _batches(f"{name}/{each}" for each in ids):
            self._database["pieces"].delete_many(
                {"owner": {"$in": batch}, "of": {"$nin": sorted(keep)}}, session=self.session
            )

    def _whole(self, name: str, row: Row) -> Iterator[Row]:
        """The row with its pieces; nothing when it was removed since it was read."""
        split = row.pop("pieces", None)
        if split is None:
            yield row
            return
        pieces = self._database["pieces"].find({"_id": {"$in": _piece_ids(split)}}, session=self.session).sort("_id")
        data = b"".join(piece["data"] for piece in pieces)
        if len(data) == split["bytes"]:
            yield row | bson.decode(data)
            return
        now = self._database[name].find_one({"_id": row["_id"]}, session=self.session)
        if now is None:
            return
        if now.get("pieces") == split:
            raise StoreError(
                f"row {row['_id']!r} of {name} lacks some of its pieces; restore the database from a backup, or empty "
                "it and run: twin sync"
            )
        yield from self._whole(name, now)


def _split(name: str, row: Row) -> tuple[Row, list[Row]]:
    """A row that MongoDB takes, and the pieces that the rest of it is in."""
    if len(bson.encode(row)) <= _ROW_BYTES:
        return row, []
    data = bson.encode({field: value for field, value in row.items() if field in _LONG})
    split = {"of": uuid.uuid4().hex, "bytes": len(data)}
    pieces = [
        {
            "_id": piece_id,
            "of": split["of"],
            "owner": f"{name}/{row['_id']}",
            "data": data[number * _PIECE_BYTES : (number + 1) * _PIECE_BYTES],
        }
        for number, piece_id in enumerate(_piece_ids(split))
    ]
    return {field: value for field, value in row.items() if field not in _LONG} | {"pieces": split}, pieces


def _piece_ids(split: Row) -> list[str]:
    return [f"{split['of']}/{number:06}" for number in range(-(-split["bytes"] // _PIECE_BYTES))]


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    """The distinct values in order, in lists short enough for one query."""
    distinct = sorted(set(values))
    return (distinct[at : at + _BATCH] for at in range(0, len(distinct), _BATCH))


# --- the warehouse --------------------------------------------------------------------------------------------------


class MongoWarehouse:
    """The `Warehouse` port in MongoDB 4.4 or newer, by a URL that names the database: `mongodb://user@host/twin`.

    A document lives as long as an item refers to it: an item whose new state names another document lets go of the one
    before, and a state without a document id (a failed fetch) keeps it. A server that does not answer is given up
    after `connect_timeout_s` (unless the URL sets serverSelectionTimeoutMS), a writer that does not finish after
    `busy_timeout_s`, and one that shows no life for `lease_s` is passed over. The module's docstring says what a crash
    leaves behind. Raises `ConfigError` for a URL it cannot use, `MigrationError` for a database of a newer version and
    `StoreError` for anything the server refuses.
    """

    def __init__(
        self, url: str, *, connect_timeout_s: float = 5.0, busy_timeout_s: float = 60.0, lease_s: float = 20.0
    ) -> None:
        self._database = _Database(
            url, connect_timeout_s=connect_timeout_s, busy_timeout_s=busy_timeout_s, lease_s=lease_s
        )

    def __repr__(self) -> str:
        return f"MongoWarehouse({self._database.name!r})"

    def save(self, states: Sequence[tuple[ItemState, Document | None]]) -> None:
        """See `DocumentStore.save`. Raises `StoreError` when a state and its document contradict each other."""
        for state, document in states:
            check_fit(state, document)
        if states:
            self._database.write(lambda call: _save(call, states))

    def history(self, document_id: str) -> list[tuple[str, datetime]]:
        """Every content hash the document had, with the time it was first fetched so, oldest first."""
        with self._database.translated():
            rows = list(self._database.call().by_id("documents", [document_id], "history"))
        found = sorted((fetched_at, as_written(hashed)) for row in rows for hashed, fetched_at in row["history"])
        return [(hashed, datetime.fromisoformat(fetched_at)) for fetched_at, hashed in found]

    def changes(self, *, after: int = 0, limit: int = 1000) -> list[Change]:
        """See `ChangeLog.changes`. Where a process was killed on a single server, a change may come twice."""
        if limit < 1:
            return []
        with self._database.translated():
            rows = self._database.call().find("changes", {"_id": {"$gt": after}}, order=[("_id", 1)], limit=limit)
        return [_record(Change, row | {"sequence": row["_id"]}) for row in rows]

    def items(self, source: str | None = None) -> Iterator[ItemState]:
        """See `DocumentStore.items`."""
        where = {} if source is None else {"source": storable(source)}
        with self._database.translated():
            rows = self._database.call().find("items", where, order=[("source", 1), ("key", 1)])
        for row in rows:
            yield _record(ItemState, row)

    def documents(self, ids: Collection[str] | None = None) -> Iterator[Document]:
        """See `DocumentStore.documents`. Reads in batches, so no cursor stays open between documents."""
        for row in self._rows("documents", ids):
            yield _record(Document, row | {"id": row["_id"]})

    def document_hashes(self) -> dict[str, str]:
        """See `DocumentStore.document_hashes`."""
        return self._pairs("documents", "content_hash", index="hashes")

    def save_features(self, features: Sequence[DocumentFeatures]) -> None:
        """See `FeatureStore.save_features`. Raises `StoreError` for a document that is not there."""
        latest = {made.document.id: made for made in features}
        rows = [
            _row(made, "document", "chunks", _id=storable(document_id))
            | {"document": _row(made.document), "chunks": [_row(chunk) for chunk in made.chunks]}
            for document_id, made in latest.items()
        ]

        def save(call: _Call) -> None:
            _check_known(call, latest.keys())
            call.put("features", rows)

        if rows:
            self._database.write(save)

    def features(self, ids: Collection[str] | None = None) -> Iterator[DocumentFeatures]:
        """See `FeatureStore.features`. Reads in batches, so no cursor stays open between documents."""
        for row in self._rows("features", ids):
            yield DocumentFeatures(
                document=_record(Document, row["document"]),
                fingerprint=_as_kept(row["fingerprint"]),
                chunks=tuple(_record(Chunk, chunk) for chunk in row["chunks"]),
                dropped=_as_kept(row["dropped"]),
                signatures=tuple(row["signatures"]),
            )

    def feature_fingerprints(self) -> dict[str, str]:
        """See `FeatureStore.feature_fingerprints`."""
        return self._pairs("features", "fingerprint", index="fingerprints")

    def save_embeddings(self, embeddings: Mapping[str, Embedding]) -> None:
        """See `EmbeddingStore.save_embeddings`. Raises `StoreError` for one of more than 16 MiB."""
        rows = [_embedding_row(key, embedding) for key, embedding in embeddings.items()]
        with self._database.translated():
            self._database.call().write(
                "embeddings", [ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in rows]
            )

    def embeddings(self, keys: Collection[str]) -> dict[str, Embedding]:
        """See `EmbeddingStore.embeddings`. The vectors are read-only views of what was read."""
        with self._database.translated():
            return {
                as_written(row["_id"]): Embedding(np.frombuffer(row["vector"], dtype="<f4"), _tokens(row))
                for row in self._database.call().by_id("embeddings", keys)
            }

    def tokens(self, keys: Collection[str]) -> dict[str, PackedTokens]:
        """See `EmbeddingStore.tokens`."""
        with self._database.translated():
            rows = self._database.call().by_id("embeddings", keys, "tokens", "token_count", "token_dim")
            found = {as_written(row["_id"]): _tokens(row) for row in rows}
        return {key: tokens for key, tokens in found.items() if tokens is not None}

    def embedding_keys(self) -> set[str]:
        """See `EmbeddingStore.embedding_keys`."""
        return set(self._ids("embeddings"))

    def forget_embeddings(self, keys: Collection[str]) -> None:
        """See `EmbeddingStore.forget_embeddings`."""
        with self._database.translated():
            for batch in _batches(storable(key) for key in keys):
                self._database.call().write("embeddings", [DeleteOne({"_id": key}) for key in batch])

    def save_run(self, run: Run) -> None:
        """See `RunLog.save_run`."""
        with self._database.translated():
            self._database.call().put("runs", [_row(run, _id=storable(run.id))])

    def runs(self, *, limit: int = 20) -> list[Run]:
        """See `RunLog.runs`."""
        if limit < 1:
            return []
        with self._database.translated():
            rows = self._database.call().find("runs", {}, order=[("started_at", -1), ("_id", -1)], limit=limit)
        return [_record(Run, row) for row in rows]

    def save_profile(self, profile: VoiceProfile) -> None:
        """See `ProfileStore.save_profile`."""
        with self._database.translated():
            self._database.call().put("voice_profiles", [_row(profile, _id=storable(profile.author))])

    def profiles(self) -> dict[str, VoiceProfile]:
        """See `ProfileStore.profiles`."""
        with self._database.translated():
            rows = self._database.call().find("voice_profiles", {})
        found = [_record(VoiceProfile, row) for row in rows]
        return {profile.author: profile for profile in found}

    def forget_profiles(self, authors: Collection[str]) -> None:
        """See `ProfileStore.forget_profiles`."""
        with self._database.translated():
            self._database.call().remove("voice_profiles", authors)

    def put(self, collection: str, record_id: str, data: Mapping[str, Any]) -> None:
        """See `RecordStore.put`. One write of one row, so that writers need no turns."""
        text = storable(record_text(collection, record_id, data))
        first = {
            "collection": storable(collection),
            "id": storable(record_id),
            "first_put_at": _stored(datetime.now(UTC)),
        }
        where = {"_id": _pair_id(collection, record_id)}
        with self._database.translated():
            self._database.call().write(
                "records", [UpdateOne(where, {"$set": {"data": text}, "$setOnInsert": first}, upsert=True)]
            )

    def record(self, collection: str, record_id: str) -> dict[str, Any] | None:
        """See `RecordStore.record`."""
        with self._database.translated():
            rows = self._database.call().find("records", {"_id": _pair_id(collection, record_id)}, "data")
        return json.loads(as_written(rows[0]["data"])) if rows else None

    def records(
        self, collection: str, *, limit: int | None = None, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """See `RecordStore.records`. Records that were first put in the same microsecond are ordered by id."""
        if limit is not None and limit < 1:
            return []
        where: Row = {"collection": storable(collection)}
        with self._database.translated():
            if before is not None:
                found = self._database.call().find("records", {"_id": _pair_id(collection, before)}, "first_put_at")
                if not found:
                    raise no_such_record(collection, before)
                at = found[0]["first_put_at"]
                earlier = {"first_put_at": {"$lt": at}}
                where["$or"] = [earlier, {"first_put_at": at, "id": {"$lt": storable(before)}}]
            newest = [("first_put_at", -1), ("id", -1)]
            rows = self._database.call().find("records", where, order=newest, limit=limit or 0)
        return [(as_written(row["id"]), json.loads(as_written(row["data"]))) for row in rows]

    def drop(self, collection: str, record_ids: Collection[str]) -> None:
        """See `RecordStore.drop`."""
        with self._database.translated():
            for batch in _batches(_pair_id(collection, each) for each in record_ids):
                self._database.call().write("records", [DeleteOne({"_id": each}) for each in batch])

    def scrub(self) -> None:
        """See `Warehouse.scrub`. The server frees space in its own time; there is nothing to do from here."""

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._database.client.close()

    def _rows(self, name: str, ids: Collection[str] | None) -> Iterator[Row]:
        for batch in _batches(self._ids(name) if ids is None else ids):
            with self._database.translated():
                rows = list(self._database.call().by_id(name, batch))
            yield from rows

    def _ids(self, name: str) -> list[str]:
        with self._database.translated():
            return [as_written(row["_id"]) for row in self._database.call().find(name, _ANY, "_id")]

    def _pairs(self, name: str, field: str, *, index: str) -> dict[str, str]:
        with self._database.translated():
            rows = self._database.call().find(name, {}, field, index=index)
        return {as_written(row["_id"]): as_written(row[field]) for row in rows}


# --- saving ---------------------------------------------------------------------------------------------------------


def _save(call: _Call, states: Sequence[tuple[ItemState, Document | None]]) -> None:
    """The five steps of the module's docstring; in a transaction the first is not needed."""
    ids = {_pair_id(state.source, state.key) for state, _ in states}
    before = {row["_id"]: row for row in call.by_id("items", ids)}
    after, let_go = _settle(states, before)
    gone = _unheld(call, let_go - {item.document_id for item in after.values()}, without=ids)
    written = {document.id: document for _, document in states if document is not None and document.id not in gone}
    rows = {as_written(row["_id"]): row for row in call.by_id("documents", {*written, *gone}, *_KNOWN)}
    there = {each: (as_written(row["content_hash"]), as_written(row["source"])) for each, row in rows.items()}
    histories = {each: row["history"] for each, row in rows.items()}
    changes = changed_by(there, written.values(), gone)
    unlogged = {each: source for row in before.values() for each, source in _as_kept(row["unlogged"])}

    if call.session is None:
        touched = {each: there[each][1] for each in there.keys() & gone} | {
            each.id: each.source for each in written.values()
        }
        call.write("items", _marks(before, after, touched))
    call.put("documents", [_document_row(each, histories.get(each.id, []), states) for each in written.values()])
    call.remove("features", gone)
    call.remove("documents", gone)
    _log(call, {**_unlogged(call, unlogged), **changes})
    call.write("items", _final(before, after))


def _settle(
    states: Sequence[tuple[ItemState, Document | None]], before: Mapping[str, Row]
) -> tuple[dict[str, ItemState], set[str]]:
    """The items left after applying the states in order, and the documents that an item let go of."""
    known = {at: set(_as_kept(row["holds"])) for at, row in before.items()}
    named_before = {at: _as_kept(row["document_id"]) for at, row in before.items()}
    after: dict[str, ItemState] = {}
    let_go: set[str] = set()
    for state, document in states:
        at = _pair_id(state.source, state.key)
        held, previous = known.pop(at, set()), named_before.pop(at, None)
        if state.outcome == "removed":
            after.pop(at, None)
            let_go |= held | ({state.document_id} if state.document_id else set())
            continue
        named = state.document_id or (document.id if document else previous)
        known[at], named_before[at] = {named} if named else set(), named
        after[at] = replace(state, document_id=named)
        let_go |= held - {named}
    return after, let_go


def _unheld(call: _Call, ids: set[str], *, without: set[str]) -> set[str]:
    """Those of these documents that no item holds, apart from the items left out of account."""
    held: set[str] = set()
    for batch in _batches(storable(each) for each in ids):
        for row in call.find("items", {"holds": {"$in": batch}}, "holds"):
            held |= set() if row["_id"] in without else set(_as_kept(row["holds"]))
    return ids - held


def _marks(
    before: Mapping[str, Row], after: Mapping[str, ItemState], touched: Mapping[str, str]
) -> list[ReplaceOne[Row]]:
    """Items whose documents this call will touch, as they must be found if it does not come to its end."""
    marks = []
    for at in before.keys() | after.keys():
        old = before.get(at) or {"holds": [], "unlogged": [], "document_id": None, "tries": 0}
        new = after.get(at)
        named = new.document_id if new else None
        holds = {*_as_kept(old["holds"]), *([named] if named else [])}
        if not holds & touched.keys():
            continue
        unlogged = dict(_as_kept(old["unlogged"])) | {each: touched[each] for each in holds & touched.keys()}
        row = (_row(new) if new else dict(old)) | {
            "_id": at,
            "outcome": "failed",
            "reason": _CUT_SHORT,
            "version": None,
            "document_id": _stored(named) or old["document_id"],
            "holds": _stored(sorted(holds)),
            "unlogged": _stored(sorted(unlogged.items())),
        }
        marks.append(ReplaceOne({"_id": at}, row, upsert=True))
    return marks


def _final(before: Mapping[str, Row], after: Mapping[str, ItemState]) -> list[ReplaceOne[Row] | DeleteOne]:
    rows = {
        at: _row(item, _id=at, holds=_stored([item.document_id] if item.document_id else []), unlogged=[])
        for at, item in after.items()
    }
    replaced = [ReplaceOne({"_id": at}, row, upsert=True) for at, row in rows.items()]
    return [*replaced, *(DeleteOne({"_id": at}) for at in sorted(before.keys() - after.keys()))]


def _document_row(
    document: Document, history: Sequence[Sequence[str]], states: Sequence[tuple[ItemState, Document | None]]
) -> Row:
    """A document with every content hash it had, each with the time it was first seen."""
    known = {entry[0]: entry[1] for entry in history}
    for _, each in states:
        if each is not None and each.id == document.id:
            known.setdefault(storable(each.content_hash), _stored(each.fetched_at))
    return _row(document, "id", _id=storable(document.id), history=[list(pair) for pair in known.items()])


def _unlogged(call: _Call, documents: Mapping[str, str]) -> dict[str, tuple[Outcome, str]]:
    """Documents of calls that were cut short, by their sources: they count as changed to what they are now."""
    there = {as_written(row["_id"]) for row in call.by_id("documents", documents, "_id")}
    return {each: ("updated" if each in there else "removed", source) for each, source in documents.items()}


def _log(call: _Call, changes: Mapping[str, tuple[Outcome, str]]) -> None:
    """Append to the change log."""
    if not changes:
        return
    last, at = call.find("changes", {}, "_id", order=[("_id", -1)], limit=1), datetime.now(UTC)
    number = last[0]["_id"] if last else 0
    rows = [
        _row(Change(number + place, at, outcome, document_id, source), "sequence", _id=number + place)
        for place, (document_id, (outcome, source)) in enumerate(changes.items(), start=1)
    ]
    call.write("changes", [InsertOne(row) for row in rows])


def _check_known(call: _Call, ids: Collection[str]) -> None:
    there = {as_written(row["_id"]) for row in call.by_id("documents", ids, "_id")}
    missing = sorted(set(ids) - there)
    if missing:
        raise StoreError(
            f"features of a document that is not in the warehouse: {missing[0]!r}; save the document first"
        )


def _embedding_row(key: str, embedding: Embedding) -> Row:
    tokens = embedding.tokens
    return {
        "_id": storable(key),
        "vector": np.asarray(embedding.vector, dtype="<f4").tobytes(),
        "tokens": tokens.data if tokens else None,
        "token_count": tokens.count if tokens else None,
        "token_dim": tokens.dim if tokens else None,
    }


def _tokens(row: Row) -> PackedTokens | None:
    return None if row["token_count"] is None else PackedTokens(row["tokens"], row["token_count"], row["token_dim"])
