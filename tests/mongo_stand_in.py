"""A stand-in for a MongoDB server: the wire protocol on loopback, mongomock behind it.

No MongoDB server can be installed from the package registries that the tests use, and mongomock on its own replaces the
driver, with one of its own that lacks bulk writes, transactions, limits and errors. Here the real driver runs: it
encodes, batches, opens sessions and translates errors, and only the answers come from mongomock.

What it does not show: how long anything takes, what a query plan looks like, how two open transactions collide.
Transactions can be aborted here but do not hide what they wrote before they end.
"""

from __future__ import annotations

import itertools
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import bson
import mongomock
from pymongo.errors import DuplicateKeyError

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_FIRST_BATCH = 101
_BATCH_BYTES = 16 * 2**20


class Refused(Exception):
    """A command that the server answers with an error."""

    def __init__(self, code: int, message: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reply = {"ok": 0.0, "code": code, "errmsg": message} | ({"errorLabels": list(labels)} if labels else {})


class StandIn:
    """A server on a port of its own; `replica_set` makes it say that it has transactions."""

    def __init__(self, *, replica_set: bool = False) -> None:
        self.replica_set = replica_set
        self.commands: list[dict[str, Any]] = []
        self.writes = 0
        self._cut_at: int | None = None
        self._failures: list[tuple[str, Refused]] = []
        self._lock = threading.RLock()
        self._databases = mongomock.MongoClient()
        self._cursors: dict[int, list[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._before: dict[bytes, dict[tuple[str, str], list[dict[str, Any]]]] = {}
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.stand_in = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host}:{port}"

    def url(self, database: str) -> str:
        return f"mongodb://{self.address}/{database}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def rows(self, database: str, collection: str) -> list[dict[str, Any]]:
        """What is stored, as it is stored."""
        with self._lock:
            return list(self._databases[database][collection].find())

    def cut_after(self, writes: int | None) -> None:
        """Let so many rows be written from now on and then none, as if the client were killed; None lifts that."""
        with self._lock:
            self._cut_at = None if writes is None else self.writes + writes

    def fail(self, command: str, code: int, message: str, *labels: str) -> None:
        """Refuse the next command of that name."""
        self._failures.append((command, Refused(code, message, labels)))

    # --- commands ---------------------------------------------------------------------------------------------------

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name in {"hello", "ismaster"}:  # the driver takes a server for dead that is too busy to answer these
            return {"ok": 1.0} | self._do_hello(command)
        with self._lock:
            self.commands.append(command)
            try:
                for failure in self._failures:
                    if failure[0] == name:
                        self._failures.remove(failure)
                        raise failure[1]
                self._begin(command)
                known: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self, f"_do_{name.lower()}", None)
                if known is None:
                    raise Refused(59, f"no such command: '{name}'")
                return {"ok": 1.0} | known(command)
            except Refused as error:
                if name == "commitTransaction":
                    self._do_aborttransaction(command)
                return error.reply

    def _do_hello(self, _: dict[str, Any]) -> dict[str, Any]:
        member = {"setName": "twin", "hosts": [self.address], "me": self.address, "primary": self.address}
        return (member if self.replica_set else {}) | {
            "helloOk": True,
            "isWritablePrimary": True,
            "ismaster": True,
            "maxBsonObjectSize": 16 * 2**20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 25,
            "readOnly": False,
        }

    def _do_ping(self, _: dict[str, Any]) -> dict[str, Any]:
        return {}

    _do_endsessions = _do_killcursors = _do_ping

    def _do_listcollections(self, command: dict[str, Any]) -> dict[str, Any]:
        names = self._databases[command["$db"]].list_collection_names()
        return self._cursor(command, [{"name": name, "type": "collection"} for name in names])

    def _do_createindexes(self, command: dict[str, Any]) -> dict[str, Any]:
        collection = self._collection(command, "createIndexes")
        for index in command["indexes"]:
            collection.create_index(list(index["key"].items()), name=index["name"], unique=index.get("unique", False))
        return {}

    def _do_find(self, command: dict[str, Any]) -> dict[str, Any]:
        collection = self._collection(command, "find")
        if command.get("hint", "_id_") not in {"_id_", *collection.index_information()}:
            raise Refused(2, "hint provided does not correspond to an existing index")
        found = collection.find(command["filter"], command.get("projection"), limit=abs(command.get("limit", 0)))
        if command.get("sort"):
            found = found.sort(list(command["sort"].items()))
        return self._cursor(command, list(found))

    def _cursor(self, command: dict[str, Any], rows: list[dict[str, Any]], size: int = _FIRST_BATCH) -> dict[str, Any]:
        sizes = itertools.accumulate(len(bson.encode(row)) for row in rows[:size])
        batch = rows[: max(1, sum(1 for _ in itertools.takewhile(lambda size: size <= _BATCH_BYTES, sizes)))]
        number = next(self._numbers) if len(batch) < len(rows) else 0
        if number:
            self._cursors[number] = rows[len(batch) :]
        collection = command.get("find") or command.get("collection") or "$cmd.listCollections"
        which = "nextBatch" if "getMore" in command else "firstBatch"
        return {"cursor": {"id": bson.Int64(number), "ns": f"{command['$db']}.{collection}", which: batch}}

    def _do_getmore(self, command: dict[str, Any]) -> dict[str, Any]:
        return self._cursor(command, self._cursors.pop(command["getMore"]), size=2**31)

    def _do_insert(self, command: dict[str, Any]) -> dict[str, Any]:
        collection = self._collection(command, "insert")
        return self._each(command["documents"], lambda row: (collection.insert_one(row), (1, None))[1])

    def _do_update(self, command: dict[str, Any]) -> dict[str, Any]:
        collection = self._collection(command, "update")

        def apply(update: dict[str, Any]) -> tuple[int, Any]:
            if not next(iter(update["u"])).startswith("$") and list(update["q"]) == ["_id"] and update.get("upsert"):
                return _replace(collection, update["u"])
            done = collection.update_one(update["q"], update["u"], upsert=update.get("upsert", False))
            return 1 if done.upserted_id is not None else done.matched_count, done.upserted_id

        return self._each(command["updates"], apply)

    def _do_delete(self, command: dict[str, Any]) -> dict[str, Any]:
        collection = self._collection(command, "delete")

        def apply(delete: dict[str, Any]) -> tuple[int, Any]:
            change = collection.delete_one if delete["limit"] else collection.delete_many
            return change(delete["q"]).deleted_count, None

        return self._each(command["deletes"], apply)

    def _each(self, rows: list[Any], apply: Callable[[Any], tuple[int, Any]]) -> dict[str, Any]:
        total, upserted = 0, []
        for index, row in enumerate(rows):
            if self._cut_at is not None and self.writes >= self._cut_at:
                raise Refused(8, "the client was cut off")
            self.writes += 1
            if (size := len(bson.encode(row))) > 16 * 2**20 + 16 * 2**10:
                raise Refused(10334, f"BSONObj size: {size} is invalid. Size must be between 0 and 16793600(16MB)")
            try:
                count, new = apply(row)
            except DuplicateKeyError as error:
                problem = {"index": index, "code": 11000, "errmsg": str(error)}
                return {"n": total, "nModified": total, "writeErrors": [problem]}
            total += count
            upserted += [] if new is None else [{"index": index, "_id": new}]
        return {"n": total, "nModified": total} | ({"upserted": upserted} if upserted else {})

    def _collection(self, command: dict[str, Any], name: str) -> mongomock.Collection:
        where = (command["$db"], command[name])
        undo = self._before.get(self._transaction(command))
        collection = self._databases[where[0]][where[1]]
        if undo is not None and name != "find":
            undo.setdefault(where, list(collection.find()))
        return collection

    # --- transactions -----------------------------------------------------------------------------------------------

    def _transaction(self, command: dict[str, Any]) -> bytes:
        return bytes(command["lsid"]["id"]) if command.get("autocommit") is False else b""

    def _begin(self, command: dict[str, Any]) -> None:
        if command.get("startTransaction"):
            if not self.replica_set:
                raise Refused(20, "Transaction numbers are only allowed on a replica set member or mongos")
            self._before[self._transaction(command)] = {}

    def _do_committransaction(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._cut_at is not None and self.writes >= self._cut_at:
            raise Refused(8, "the client was cut off")
        self._before.pop(self._transaction(command))
        return {}

    def _do_aborttransaction(self, command: dict[str, Any]) -> dict[str, Any]:
        for (database, name), rows in self._before.pop(self._transaction(command)).items():
            collection = self._databases[database][name]
            collection.delete_many({})
            for row in rows:
                collection.insert_one(row)
        return {}


def _replace(collection: mongomock.Collection, row: dict[str, Any]) -> tuple[int, Any]:
    """Put a row in place of the one with its id, for which mongomock would look at every row there is."""
    there = row["_id"] in collection._store
    if there:
        del collection._store[row["_id"]]
    collection.insert_one(row)
    return 1, None if there else row["_id"]


# --- the wire protocol ----------------------------------------------------------------------------------------------
# https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    stand_in: StandIn


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        while head := self._read(16):
            length, request, _, operation = struct.unpack("<4i", head)
            body = self._read(length - 16)
            if operation == _OP_MSG:
                reply = bson.encode(self.server.stand_in.answer(_command(body)))
                self._send(_OP_MSG, request, struct.pack("<IB", 0, 0) + reply)
            elif operation == _OP_QUERY:  # the first greeting of a driver
                at = body.index(b"\0", 4) + 9
                reply = bson.encode(self.server.stand_in.answer(bson.decode(body[at:])))
                self._send(_OP_REPLY, request, struct.pack("<iqii", 8, 0, 0, 1) + reply)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                more = self.request.recv(min(size - len(data), 2**20))
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        return bytes(data)

    def _send(self, operation: int, request: int, body: bytes) -> None:
        try:
            self.request.sendall(struct.pack("<4i", 16 + len(body), request + 1, request, operation) + body)
        except OSError:
            return  # the driver has hung up


def _command(message: bytes) -> dict[str, Any]:
    """The command of an OP_MSG, its document sequences put back into it."""
    parts = dict(_sections(message))
    return parts.pop("") | parts


def _sections(message: bytes) -> Iterator[tuple[str, Any]]:
    at = 4
    while at < len(message):
        kind, (size,) = message[at], struct.unpack_from("<i", message, at + 1)
        section = message[at + 1 : at + 1 + size]
        if kind == 0:
            yield "", bson.decode(section)
        else:
            end = section.index(b"\0", 4)
            yield section[4:end].decode(), bson.decode_all(section[end + 1 :])
        at += 1 + size
