"""The warehouse and the traces in a SQL database: SQLite in a file, PostgreSQL by URL; one model for both.

Every write is one transaction that holds the database's writer lock (`BEGIN IMMEDIATE` on SQLite, an advisory lock on
PostgreSQL), so processes take turns and a killed one leaves all of a call or nothing. Reads never wait for writers and
see one snapshot per batch. Tables are created on first opening and brought up to date by `Schema.migrations` after.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Column, Connection, Engine, ForeignKey, Index, Integer, LargeBinary, MetaData, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from llm_twin.core.errors import ConfigError, MigrationError, MissingExtra, NotFound, StoreError, TwinError
from llm_twin.core.records import (
    Change,
    Chunk,
    Document,
    DocumentFeatures,
    Embedding,
    ItemState,
    Outcome,
    Run,
    Span,
    VoiceProfile,
    changed_by,
    check_fit,
    no_such_record,
    record_text,
    to_json,
)
from llm_twin.core.text import as_written, storable
from llm_twin.core.vectors import PackedTokens

T = TypeVar("T")

# How many ids go into one IN list, and how many documents are in memory at once while streaming.
_BATCH = 200

# One advisory lock for all writers of a PostgreSQL database; the number spells "twin".
_WRITER_LOCK = 0x7477696E


# --- column types ---------------------------------------------------------------------------------------------------


def _each_text(change: Callable[[str], str], value: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each_text(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(change, item) for item in value]
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise StoreError(f"{value!r} cannot be kept as JSON; keep text, finite numbers, lists and objects only")


class _Text(sa.TypeDecorator[str]):
    """Any Python string, ordered by code point on both databases."""

    impl = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """To the database."""
        return None if value is None else storable(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """From the database."""
        return None if value is None else as_written(value)


class _Json(sa.TypeDecorator[Any]):
    """Plain data: what `to_json` makes of a record or mapping."""

    impl = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """To the database."""
        return _each_text(storable, to_json(value))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """From the database."""
        return _each_text(as_written, value)


class _Texts(_Json):
    """A tuple of strings."""

    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> tuple[str, ...]:
        """From the database."""
        return tuple(super().process_result_value(value, dialect))


class _Moment(sa.TypeDecorator[datetime]):
    """A timezone-aware time, kept and given back in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """To the database."""
        if value is not None and value.tzinfo is None:
            raise StoreError(f"a time without a time zone: {value.isoformat()}; give it one, as in datetime.now(UTC)")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Frames(sa.TypeDecorator[tuple[bytes, ...]]):
    """A tuple of byte strings in one blob, each after its length."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: tuple[bytes, ...] | None, dialect: sa.Dialect) -> bytes:  # noqa: ARG002
        """To the database."""
        return b"".join(struct.pack(">I", len(frame)) + frame for frame in value or ())

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> tuple[bytes, ...]:  # noqa: ARG002
        """From the database."""
        frames, at = [], 0
        while at < len(value):
            (size,) = struct.unpack_from(">I", value, at)
            frames.append(value[at + 4 : at + 4 + size])
            at += 4 + size
        return tuple(frames)


# --- tables ---------------------------------------------------------------------------------------------------------


def _text(name: str, *, optional: bool = False, key: bool = False) -> Column[Any]:
    return Column(name, _Text, nullable=optional, primary_key=key)


def _document_columns() -> list[Column[Any]]:
    return [
        _text("author"),
        _text("source"),
        _text("kind"),
        _text("title"),
        _text("content_hash"),
        Column("fetched_at", _Moment, nullable=False),
        _text("url", optional=True),
        _text("language", optional=True),
        Column("published_at", _Moment),
        Column("tags", _Texts, nullable=False),
        Column("also_at", _Texts, nullable=False),
    ]


# Long columns stand last in each table: SQLite reads a row's pages in order and stops at the last column asked for, so
# hashes come without the texts and token vectors without the sentence vectors.
_WAREHOUSE = MetaData()
_DOCUMENTS = Table("documents", _WAREHOUSE, _text("id", key=True), *_document_columns(), _text("text"))
_VERSIONS = Table(
    "document_versions",
    _WAREHOUSE,
    Column("document_id", _Text, ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True),
    _text("content_hash", key=True),
    Column("fetched_at", _Moment, nullable=False),
)
_ITEMS = Table(
    "items",
    _WAREHOUSE,
    _text("source", key=True),
    _text("key", key=True),
    _text("outcome"),
    _text("reason"),
    _text("version", optional=True),
    Column("document_id", _Text, index=True),
    Column("tries", Integer, nullable=False),
    Column("seen_at", _Moment),
    Column("next_try", _Moment),
)
_CHANGES = Table(
    "changes",
    _WAREHOUSE,
    # Numbered by the writer, who holds the writer's lock until all can see the number: a sequence of the database would
    # count up in another order than transactions end in.
    Column("sequence", sa.BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", _Moment, nullable=False),
    _text("outcome"),
    _text("document_id"),
    _text("source"),
)
_FEATURES = Table(
    "features",
    _WAREHOUSE,
    Column("id", _Text, ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True),
    _text("fingerprint"),
    _text("dropped", optional=True),
    *_document_columns(),
    _text("text"),
    Column("signatures", _Frames, nullable=False),
)
_CHUNKS = Table(
    "chunks",
    _WAREHOUSE,
    Column("document_id", _Text, ForeignKey("features.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    _text("id"),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("heading_path", _Texts, nullable=False),
    Column("token_count", Integer, nullable=False),
    _text("text"),
)
_EMBEDDINGS = Table(
    "embeddings",
    _WAREHOUSE,
    _text("key", key=True),
    Column("token_count", Integer),
    Column("token_dim", Integer),
    Column("tokens", LargeBinary),
    Column("vector", LargeBinary, nullable=False),
)
_RUNS = Table(
    "runs",
    _WAREHOUSE,
    _text("id", key=True),
    _text("pipeline"),
    Column("started_at", _Moment, nullable=False, index=True),
    Column("finished_at", _Moment),
    _text("status"),
    _text("code_version"),
    *(Column(name, _Json, nullable=False) for name in ("settings", "inputs", "outputs", "report")),
)
_PROFILES = Table(
    "voice_profiles",
    _WAREHOUSE,
    _text("author", key=True),
    Column("documents", Integer, nullable=False),
    Column("words", Integer, nullable=False),
    Column("measures", _Json, nullable=False),
    Column("function_words", _Json, nullable=False),
    Column("openers", _Texts, nullable=False),
    Column("phrases", _Texts, nullable=False),
)
_RECORDS = Table(
    "records",
    _WAREHOUSE,
    _text("collection", key=True),
    _text("id", key=True),
    # Rises with each first insertion into the collection, and stays.
    Column("position", sa.BigInteger, nullable=False),
    # JSON as text: JSONB would sort the keys.
    _text("data"),
    Index("ix_records_newest", "collection", "position", unique=True),
)

_TRACES = MetaData()
_SPANS = Table(
    "spans",
    _TRACES,
    _text("trace_id", key=True),
    _text("span_id", key=True),
    _text("parent_id", optional=True),
    _text("name"),
    Column("started_at", _Moment, nullable=False),
    # Spans of one microsecond keep the order they were saved in.
    Column("position", Integer, nullable=False),
    Column("duration_ms", sa.Double, nullable=False),
    Column("attributes", _Json, nullable=False),
    _text("error", optional=True),
)
Index(
    "ix_spans_roots",
    _SPANS.c.started_at,
    sqlite_where=_SPANS.c.parent_id.is_(None),
    postgresql_where=_SPANS.c.parent_id.is_(None),
)


# --- schema versions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one store, and the way to them from older versions.

    `tables` is the newest version: an empty database gets it at once. `migrations[0]` leads from version 1 to 2, and so
    on; each is a function of an open connection that only executes statements. To change a table: change it above and
    append the migration that does the same to a database with data in it.
    """

    name: str
    tables: MetaData
    migrations: tuple[Callable[[Connection], None], ...] = ()

    @property
    def version(self) -> int:
        """The version this code reads and writes."""
        return 1 + len(self.migrations)


def _add_records(connection: Connection) -> None:
    _RECORDS.create(connection)


def _add_next_try(connection: Connection) -> None:
    column = CreateColumn(_ITEMS.c.next_try).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE items ADD COLUMN {column}")


def _add_changes(connection: Connection) -> None:
    """Whoever reads the log from its beginning learns of the documents that were there before it."""
    _CHANGES.create(connection)
    documents = list(connection.execute(sa.select(_DOCUMENTS.c.id, _DOCUMENTS.c.source).order_by(_DOCUMENTS.c.id)))
    _log(connection, {row.id: ("added", row.source) for row in documents})


WAREHOUSE = Schema("warehouse", _WAREHOUSE, (_add_records, _add_next_try, _add_changes))
TRACES = Schema("traces", _TRACES)

_SCHEMA_VERSION = Table(
    "schema_version", MetaData(), _text("store", key=True), Column("version", Integer, nullable=False)
)


def _stored_version(connection: Connection, schema: Schema, name: str) -> int | None:
    """The version of this store in the database, None when it may be created there."""
    found = sa.inspect(connection)
    tables = set(found.get_table_names())
    if not tables:
        return None
    ours = _SCHEMA_VERSION.name in tables and {"store", "version"} == {
        column["name"] for column in found.get_columns(_SCHEMA_VERSION.name)
    }
    if not ours:
        raise StoreError(
            f"{name} holds tables of another program ({', '.join(sorted(tables)[:3])}); "
            "name a new file or an empty database"
        )
    return connection.scalar(sa.select(_SCHEMA_VERSION.c.version).where(_SCHEMA_VERSION.c.store == schema.name))


def _check_not_newer(stored: int | None, schema: Schema, name: str) -> None:
    if stored is not None and stored > schema.version:
        raise MigrationError(
            f"the {schema.name} in {name} has version {stored}, this program reads up to {schema.version}; "
            "upgrade with: pip install -U llm-twin"
        )


def _bring_up_to_date(connection: Connection, schema: Schema, name: str) -> None:
    stored = _stored_version(connection, schema, name)
    _check_not_newer(stored, schema, name)
    if stored is None:
        _SCHEMA_VERSION.create(connection, checkfirst=True)
        schema.tables.create_all(connection, checkfirst=False)
        connection.execute(sa.insert(_SCHEMA_VERSION).values(store=schema.name, version=schema.version))
        return
    for migrate in schema.migrations[stored - 1 :]:
        migrate(connection)
    row = _SCHEMA_VERSION.c.store == schema.name
    connection.execute(sa.update(_SCHEMA_VERSION).where(row).values(version=schema.version))


# --- connections ----------------------------------------------------------------------------------------------------


class _Database:
    """An engine that opens one store, hands out transactions and speaks our errors."""

    def __init__(self, url: str, schema: Schema, busy_timeout_s: float) -> None:
        parsed = _parse(url)
        self.name = parsed.difference_update_query(["password"]).render_as_string(hide_password=True)
        if parsed.get_backend_name() == "sqlite":
            self._make_folder(Path(str(parsed.database)).parent)
        self.engine = _engine(parsed, busy_timeout_s)
        self._writing = self.engine.execution_options(writes=True)
        # Threads take turns here: SQLite itself waits by polling, with sleeps of up to 100 ms.
        self._turn = threading.Lock()
        self._reading = self.engine
        if parsed.get_backend_name() == "postgresql":
            self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ")
        try:
            self._open(schema)
        except BaseException:
            self.engine.dispose()
            raise

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot create the folder of {self.name}: {error.strerror}; choose a place you may write to"
            ) from error

    def _open(self, schema: Schema) -> None:
        with self.read() as connection:
            stored = _stored_version(connection, schema, self.name)
        _check_not_newer(stored, schema, self.name)
        if stored != schema.version:
            with self.write() as connection:
                _bring_up_to_date(connection, schema, self.name)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one snapshot."""
        with self._translated(), self._reading.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the writer's lock."""
        with self._translated(), self._turn, self._writing.begin() as connection:
            yield connection

    def scrub(self) -> None:
        """Leave no deleted byte in the files of a SQLite database: see `SqlWarehouse.scrub`."""
        if self.engine.dialect.name != "sqlite":
            return
        bare = self.engine.execution_options(bare=True)
        with self._translated(), self._turn, bare.connect() as connection:
            # `secure_delete` overwrites deleted cells, and not the copies of them that stay behind in a page when the
            # tree around them is balanced anew (measured: of 1,500 deleted texts 4 to 7 were still there); and the
            # write-ahead log holds older images of whole pages.
            connection.exec_driver_sql("VACUUM")
            is_blocked, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        if is_blocked:
            raise StoreError(
                f"{self.name} is being read by another process, so that deleted text still stands in its log; it goes "
                "when the last process that has the workspace open ends: stop `twin serve` and others, then run: "
                "twin status"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            if isinstance(cause, TwinError):
                raise cause from None
            raise StoreError(f"{self.name}: {_first_line(cause)}; {_remedy(cause)}") from error


def _parse(url: str) -> sa.URL:
    shown = re.sub(r"//.*@", "//***@", url)
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise ConfigError(f"not a database URL: {shown!r}; {_URL_FORMS}") from None
    if "@" in (parsed.host or ""):  # or half of the password would be shown as the host
        raise ConfigError(f"not a database URL: {shown!r}; write %40 for an @ in the user or password")
    backend = "postgresql" if parsed.drivername == "postgres" else parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError(f"no support for the database {backend!r}; {_URL_FORMS}")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigError(f"{url!r} names no file; {_URL_FORMS}")
    return parsed.set(drivername="sqlite+pysqlite")


_URL_FORMS = "write sqlite:///folder/twin.db or postgresql://user@host/database"


def _engine(url: sa.URL, busy_timeout_s: float) -> Engine:
    dumps = partial(json.dumps, ensure_ascii=False)
    on_sqlite = url.get_backend_name() == "sqlite"
    try:
        engine = sa.create_engine(
            url,
            json_serializer=dumps,
            hide_parameters=True,
            pool_pre_ping=not on_sqlite,
            # Threads of a server take turns at these; a PostgreSQL server has 100 for all its clients by default.
            pool_size=8,
            max_overflow=8,
            pool_timeout=busy_timeout_s,
        )
    except ImportError as error:
        raise MissingExtra("PostgreSQL", "postgres", "psycopg") from error
    prepare, begin = (_prepare_sqlite, _begin_sqlite) if on_sqlite else (_prepare_postgresql, _begin_postgresql)
    sa.event.listen(engine, "connect", partial(prepare, int(busy_timeout_s * 1000)))
    sa.event.listen(engine, "begin", begin)
    return engine


def _prepare_sqlite(busy_timeout_ms: int, connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions on its own: _begin_sqlite does
    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    _use_write_ahead_log(connection, busy_timeout_ms / 1000)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    # What an author deletes is overwritten with zeros, and does not wait in a free page for somebody who looks.
    connection.execute("PRAGMA secure_delete = ON")


def _use_write_ahead_log(connection: Any, busy_timeout_s: float) -> None:
    """Processes that open a new file at once get SQLITE_BUSY here without the busy timeout, so the wait is ours."""
    give_up_at = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("bare", False):  # VACUUM and checkpoints stand outside of transactions
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")


def _prepare_postgresql(busy_timeout_ms: int, connection: Any, _: Any) -> None:
    connection.execute(f"SET lock_timeout = {busy_timeout_ms}")
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


_REMEDIES = {
    "SQLITE_BUSY": "another process has been writing for long: wait for it or stop it, then try again",
    "SQLITE_FULL": "nothing was changed; free some disk space and try again",
    "SQLITE_IOERR": "nothing was changed; check the disk and its free space, then try again",
    "SQLITE_READONLY": "make the file and its folder writable",
    "SQLITE_CANTOPEN": "check that the path names a file in a folder you may write to",
    "SQLITE_NOTADB": "the file is something else: name another path, or move the file away",
    "SQLITE_CORRUPT": "the file is damaged: restore a backup, or move it away and collect again",
    "53100": "nothing was changed; free some disk space on the server and try again",
    "55P03": "another process has been writing for long: wait for it or stop it, then try again",
    "42501": "give the user the right to create tables in this database",
}


def _remedy(cause: BaseException) -> str:
    if isinstance(cause, sa.exc.TimeoutError):
        return "all connections of this process were in use for long: wait for other requests to end, then try again"
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
    for known, remedy in _REMEDIES.items():
        if code.startswith(known):
            return remedy
    return "check that the database is reachable and that its URL is right"


def _first_line(cause: BaseException) -> str:
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


# --- the warehouse --------------------------------------------------------------------------------------------------


class SqlWarehouse:
    """The `Warehouse` port on SQLite (`sqlite:///path`, the folder is created) or PostgreSQL (`postgresql://…`).

    A document lives as long as an item refers to it: an item whose new state names another document lets go of the one
    before, and a state without a document id (a failed fetch) keeps it. A writer waits up to `busy_timeout_s` for
    another. Raises `ConfigError` for a URL it cannot use, `MissingExtra` without a PostgreSQL driver, `MigrationError`
    for a database of a newer version and `StoreError` for anything the database refuses.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 60.0, schema: Schema = WAREHOUSE) -> None:
        self._database = _Database(url, schema, busy_timeout_s)

    def __repr__(self) -> str:
        return f"SqlWarehouse({self._database.name!r})"

    def save(self, states: Sequence[tuple[ItemState, Document | None]]) -> None:
        """See `DocumentStore.save`. Raises `StoreError` when a state and its document contradict each other."""
        for state, document in states:
            check_fit(state, document)
        keys = {(state.source, state.key) for state, _ in states}
        with self._database.write() as connection:
            before = _documents_of(connection, keys)
            after, let_go = _settle(states, before)
            documents = {document.id: document for _, document in states if document is not None}
            there = _there(connection, documents.keys() | let_go)
            versions = {(document.id, document.content_hash): document for _, document in states if document}
            _delete(connection, _ITEMS, before.keys() - after.keys())
            _upsert(connection, _ITEMS, [_values(state) for state in after.values()])
            _upsert(connection, _DOCUMENTS, [_values(document) for document in documents.values()])
            _upsert(connection, _VERSIONS, [_version(document) for document in versions.values()], keep=None)
            gone = _unreferenced(connection, let_go)
            _delete(connection, _DOCUMENTS, {(document_id,) for document_id in gone})
            _log(connection, changed_by(there, documents.values(), gone))

    def history(self, document_id: str) -> list[tuple[str, datetime]]:
        """Every content hash the document had, with the time it was first fetched so, oldest first."""
        found = sa.select(_VERSIONS.c.content_hash, _VERSIONS.c.fetched_at).where(
            _VERSIONS.c.document_id == document_id
        )
        with self._database.read() as connection:
            rows = connection.execute(found.order_by(_VERSIONS.c.fetched_at, _VERSIONS.c.content_hash)).all()
        return [(content_hash, fetched_at) for content_hash, fetched_at in rows]

    def changes(self, *, after: int = 0, limit: int = 1000) -> list[Change]:
        """See `ChangeLog.changes`."""
        number = _CHANGES.c.sequence
        wanted = sa.select(_CHANGES).where(number > after).order_by(number).limit(max(0, limit))
        with self._database.read() as connection:
            return [Change(**row._mapping) for row in connection.execute(wanted)]

    def items(self, source: str | None = None) -> Iterator[ItemState]:
        """See `DocumentStore.items`."""
        wanted = sa.select(_ITEMS).order_by(_ITEMS.c.source, _ITEMS.c.key)
        if source is not None:
            wanted = wanted.where(_ITEMS.c.source == source)
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        for row in rows:
            yield ItemState(**row._mapping)

    def documents(self, ids: Collection[str] | None = None) -> Iterator[Document]:
        """See `DocumentStore.documents`. Reads in batches, so no transaction stays open between documents."""
        for batch in self._id_batches(_DOCUMENTS, ids):
            wanted = sa.select(_DOCUMENTS).where(_DOCUMENTS.c.id.in_(batch)).order_by(_DOCUMENTS.c.id)
            with self._database.read() as connection:
                rows = connection.execute(wanted).all()
            for row in rows:
                yield Document(**row._mapping)

    def document_hashes(self) -> dict[str, str]:
        """See `DocumentStore.document_hashes`."""
        with self._database.read() as connection:
            return _pairs(connection, _DOCUMENTS.c.id, _DOCUMENTS.c.content_hash)

    def save_features(self, features: Sequence[DocumentFeatures]) -> None:
        """See `FeatureStore.save_features`. Raises `StoreError` for a document that is not there."""
        latest = {made.document.id: made for made in features}
        with self._database.write() as connection:
            _check_known(connection, latest.keys())
            _delete(connection, _FEATURES, {(document_id,) for document_id in latest})
            _upsert(connection, _FEATURES, [_features_row(made) for made in latest.values()])
            _upsert(connection, _CHUNKS, [row for made in latest.values() for row in _chunk_rows(made)])

    def features(self, ids: Collection[str] | None = None) -> Iterator[DocumentFeatures]:
        """See `FeatureStore.features`. Reads in batches, so no transaction stays open between documents."""
        for batch in self._id_batches(_FEATURES, ids):
            of_documents = sa.select(_FEATURES).where(_FEATURES.c.id.in_(batch)).order_by(_FEATURES.c.id)
            of_chunks = sa.select(_CHUNKS).where(_CHUNKS.c.document_id.in_(batch))
            with self._database.read() as connection:
                rows = connection.execute(of_documents).all()
                pieces = connection.execute(of_chunks.order_by(_CHUNKS.c.document_id, _CHUNKS.c.position)).all()
            chunks = {
                document_id: tuple(_record(Chunk, row) for row in group)
                for document_id, group in groupby(pieces, key=lambda row: row.document_id)
            }
            for row in rows:
                yield DocumentFeatures(
                    document=_record(Document, row),
                    fingerprint=row.fingerprint,
                    chunks=chunks.get(row.id, ()),
                    dropped=row.dropped,
                    signatures=row.signatures,
                )

    def feature_fingerprints(self) -> dict[str, str]:
        """See `FeatureStore.feature_fingerprints`."""
        with self._database.read() as connection:
            return _pairs(connection, _FEATURES.c.id, _FEATURES.c.fingerprint)

    def save_embeddings(self, embeddings: Mapping[str, Embedding]) -> None:
        """See `EmbeddingStore.save_embeddings`."""
        rows = [_embedding_row(key, embedding) for key, embedding in embeddings.items()]
        with self._database.write() as connection:
            _upsert(connection, _EMBEDDINGS, rows)

    def embeddings(self, keys: Collection[str]) -> dict[str, Embedding]:
        """See `EmbeddingStore.embeddings`. The vectors are read-only views of what was read."""
        rows = self._embedding_rows(keys, sa.select(_EMBEDDINGS))
        return {row.key: Embedding(np.frombuffer(row.vector, dtype="<f4"), _tokens(row)) for row in rows}

    def tokens(self, keys: Collection[str]) -> dict[str, PackedTokens]:
        """See `EmbeddingStore.tokens`."""
        columns = _EMBEDDINGS.c
        wanted = sa.select(columns.key, columns.tokens, columns.token_count, columns.token_dim)
        rows = self._embedding_rows(keys, wanted.where(columns.token_count.is_not(None)))
        return {row.key: PackedTokens(row.tokens, row.token_count, row.token_dim) for row in rows}

    def _embedding_rows(self, keys: Collection[str], wanted: sa.Select[Any]) -> list[sa.Row[Any]]:
        with self._database.read() as connection:
            return [
                row
                for batch in _batches(keys)
                for row in connection.execute(wanted.where(_EMBEDDINGS.c.key.in_(batch)))
            ]

    def embedding_keys(self) -> set[str]:
        """See `EmbeddingStore.embedding_keys`."""
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(_EMBEDDINGS.c.key)))

    def forget_embeddings(self, keys: Collection[str]) -> None:
        """See `EmbeddingStore.forget_embeddings`."""
        with self._database.write() as connection:
            _delete(connection, _EMBEDDINGS, {(key,) for key in keys})

    def save_run(self, run: Run) -> None:
        """See `RunLog.save_run`."""
        with self._database.write() as connection:
            _upsert(connection, _RUNS, [_values(run)])

    def runs(self, *, limit: int = 20) -> list[Run]:
        """See `RunLog.runs`."""
        wanted = sa.select(_RUNS).order_by(_RUNS.c.started_at.desc(), _RUNS.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [Run(**row._mapping) for row in connection.execute(wanted)]

    def save_profile(self, profile: VoiceProfile) -> None:
        """See `ProfileStore.save_profile`."""
        with self._database.write() as connection:
            _upsert(connection, _PROFILES, [_values(profile)])

    def profiles(self) -> dict[str, VoiceProfile]:
        """See `ProfileStore.profiles`."""
        with self._database.read() as connection:
            return {row.author: VoiceProfile(**row._mapping) for row in connection.execute(sa.select(_PROFILES))}

    def forget_profiles(self, authors: Collection[str]) -> None:
        """See `ProfileStore.forget_profiles`."""
        with self._database.write() as connection:
            _delete(connection, _PROFILES, {(author,) for author in authors})

    def put(self, collection: str, record_id: str, data: Mapping[str, Any]) -> None:
        """See `RecordStore.put`."""
        last = sa.select(sa.func.max(_RECORDS.c.position)).where(_RECORDS.c.collection == collection)
        row = {"collection": collection, "id": record_id, "data": record_text(collection, record_id, data)}
        with self._database.write() as connection:
            position = (connection.scalar(last) or 0) + 1
            _upsert(connection, _RECORDS, [row | {"position": position}], keep={"position"})

    def record(self, collection: str, record_id: str) -> dict[str, Any] | None:
        """See `RecordStore.record`."""
        wanted = sa.select(_RECORDS.c.data).where(_RECORDS.c.collection == collection, _RECORDS.c.id == record_id)
        with self._database.read() as connection:
            text = connection.scalar(wanted)
        return None if text is None else json.loads(text)

    def records(
        self, collection: str, *, limit: int | None = None, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """See `RecordStore.records`."""
        columns = _RECORDS.c
        wanted = sa.select(columns.id, columns.data).where(columns.collection == collection)
        with self._database.read() as connection:
            if before is not None:
                at = sa.select(columns.position).where(columns.collection == collection, columns.id == before)
                position = connection.scalar(at)
                if position is None:
                    raise no_such_record(collection, before)
                wanted = wanted.where(columns.position < position)
            newest = wanted.order_by(columns.position.desc())
            rows = connection.execute(newest if limit is None else newest.limit(max(0, limit))).all()
        return [(record_id, json.loads(text)) for record_id, text in rows]

    def drop(self, collection: str, record_ids: Collection[str]) -> None:
        """See `RecordStore.drop`."""
        with self._database.write() as connection:
            _delete(connection, _RECORDS, {(collection, record_id) for record_id in record_ids})

    def scrub(self) -> None:
        """See `Warehouse.scrub`. SQLite's files are rewritten; a PostgreSQL server frees space in its own time."""
        self._database.scrub()

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._database.engine.dispose()

    def _id_batches(self, table: Table, ids: Collection[str] | None) -> Iterator[list[str]]:
        if ids is None:
            with self._database.read() as connection:
                ids = set(connection.scalars(sa.select(table.c.id)))
        return _batches(ids)


def _documents_of(connection: Connection, keys: set[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
    """The document each of these items refers to; items that are not there are absent."""
    found: dict[tuple[str, str], str | None] = {}
    for source, group in groupby(sorted(keys), key=lambda pair: pair[0]):
        for batch in _batches(key for _, key in group):
            wanted = sa.select(_ITEMS.c.key, _ITEMS.c.document_id)
            for key, document_id in connection.execute(
                wanted.where(_ITEMS.c.source == source, _ITEMS.c.key.in_(batch))
            ):
                found[source, key] = document_id
    return found


def _settle(
    states: Sequence[tuple[ItemState, Document | None]], before: Mapping[tuple[str, str], str | None]
) -> tuple[dict[tuple[str, str], ItemState], set[str]]:
    """The items left after applying the states in order, and the documents that an item let go of."""
    known = dict(before)
    after: dict[tuple[str, str], ItemState] = {}
    let_go: set[str | None] = set()
    for state, document in states:
        at = (state.source, state.key)
        previous = known.pop(at, None)
        if state.outcome == "removed":
            after.pop(at, None)
            let_go |= {previous, state.document_id}
            continue
        named = state.document_id or (document.id if document else previous)
        known[at] = named
        after[at] = replace(state, document_id=named)
        let_go |= {previous} - {named}
    return after, {document_id for document_id in let_go if document_id is not None}


def _there(connection: Connection, ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Content hash and source of those of these documents that are there."""
    wanted = sa.select(_DOCUMENTS.c.id, _DOCUMENTS.c.content_hash, _DOCUMENTS.c.source)
    return {
        row.id: (row.content_hash, row.source)
        for batch in _batches(ids)
        for row in connection.execute(wanted.where(_DOCUMENTS.c.id.in_(batch)))
    }


def _log(connection: Connection, changes: Mapping[str, tuple[Outcome, str]]) -> None:
    """Append to the change log."""
    if not changes:
        return
    last, at = connection.scalar(sa.select(sa.func.max(_CHANGES.c.sequence))) or 0, datetime.now(UTC)
    rows = [
        Change(last + place, at, outcome, document_id, source)
        for place, (document_id, (outcome, source)) in enumerate(changes.items(), start=1)
    ]
    connection.execute(sa.insert(_CHANGES), [_values(change) for change in rows])


def _unreferenced(connection: Connection, ids: set[str]) -> set[str]:
    referenced = _ITEMS.c.document_id
    return ids - {
        document_id
        for batch in _batches(ids)
        for document_id in connection.scalars(sa.select(referenced).where(referenced.in_(batch)).distinct())
    }


def _check_known(connection: Connection, ids: Collection[str]) -> None:
    missing = sorted(set(ids) - _there(connection, ids).keys())
    if missing:
        raise StoreError(
            f"features of a document that is not in the warehouse: {missing[0]!r}; save the document first"
        )


def _version(document: Document) -> dict[str, Any]:
    return {
        "document_id": document.id,
        "content_hash": document.content_hash,
        "fetched_at": document.fetched_at,
    }


def _features_row(made: DocumentFeatures) -> dict[str, Any]:
    return _values(made.document) | {
        "fingerprint": made.fingerprint,
        "dropped": made.dropped,
        "signatures": made.signatures,
    }


def _chunk_rows(made: DocumentFeatures) -> list[dict[str, Any]]:
    return [_values(chunk) | {"position": position} for position, chunk in enumerate(made.chunks)]


def _embedding_row(key: str, embedding: Embedding) -> dict[str, Any]:
    tokens = embedding.tokens
    return {
        "key": key,
        "vector": np.asarray(embedding.vector, dtype="<f4").tobytes(),
        "tokens": tokens.data if tokens else None,
        "token_count": tokens.count if tokens else None,
        "token_dim": tokens.dim if tokens else None,
    }


def _tokens(row: sa.Row[Any]) -> PackedTokens | None:
    return None if row.token_count is None else PackedTokens(row.tokens, row.token_count, row.token_dim)


# --- traces ---------------------------------------------------------------------------------------------------------


class SqlTraces:
    """The `TraceStore` port in a SQL database; URLs, waiting and errors as in `SqlWarehouse`.

    It may share a database with a warehouse; in a file of its own it never makes one wait.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 60.0, schema: Schema = TRACES) -> None:
        self._database = _Database(url, schema, busy_timeout_s)

    def __repr__(self) -> str:
        return f"SqlTraces({self._database.name!r})"

    def save_spans(self, spans: Sequence[Span]) -> None:
        """See `TraceStore.save_spans`."""
        rows = [_values(span) | {"position": position} for position, span in enumerate(spans)]
        with self._database.write() as connection:
            _upsert(connection, _SPANS, rows)

    def trace(self, trace_id: str) -> list[Span]:
        """See `TraceStore.trace`. Raises `NotFound` when the prefix fits several traces."""
        with self._database.read() as connection:
            whole = _complete(connection, trace_id)
            wanted = sa.select(_SPANS).where(_SPANS.c.trace_id == whole)
            rows = connection.execute(wanted.order_by(_SPANS.c.started_at, _SPANS.c.position)).all()
        return [_record(Span, row) for row in rows]

    def traces(self, *, limit: int = 20) -> list[Span]:
        """See `TraceStore.traces`."""
        roots = sa.select(_SPANS).where(_SPANS.c.parent_id.is_(None))
        newest = roots.order_by(_SPANS.c.started_at.desc(), _SPANS.c.trace_id.desc()).limit(limit)
        with self._database.read() as connection:
            return [_record(Span, row) for row in connection.execute(newest)]

    def close(self) -> None:
        """See `TraceStore.close`."""
        self._database.engine.dispose()


def _complete(connection: Connection, prefix: str) -> str | None:
    """The one trace id with this prefix, None when there is none. Ids are ASCII, hence the upper bound."""
    ids = _SPANS.c.trace_id
    fitting = sa.select(ids).where(ids >= prefix, ids < f"{prefix}\x7f").distinct().order_by(ids).limit(2)
    found = list(connection.scalars(fitting))
    if len(found) > 1 and prefix not in found:
        raise NotFound(f"several traces begin with {prefix!r}; give more characters of the id")
    return found[0] if found else None


# --- rows -----------------------------------------------------------------------------------------------------------


def _values(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _record(kind: type[T], row: sa.Row[Any]) -> T:
    values = row._mapping
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _pairs(connection: Connection, key: Column[str], value: Column[str]) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(sa.select(key, value))}


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    """The distinct values in order, in lists short enough for one statement."""
    distinct = sorted(set(values))
    return (distinct[at : at + _BATCH] for at in range(0, len(distinct), _BATCH))


_INSERTS: dict[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _upsert(
    connection: Connection, table: Table, rows: list[dict[str, Any]], *, keep: Collection[str] | None = ()
) -> None:
    """Insert rows; of a row with the same primary key the columns in `keep` stay as they are, all of them with None."""
    if not rows:
        return
    insert = _INSERTS[connection.dialect.name](table)
    if keep is None:
        connection.execute(insert.on_conflict_do_nothing(), rows)
        return
    changing = [column.name for column in table.columns if not column.primary_key and column.name not in keep]
    changes = {name: insert.excluded[name] for name in changing}
    connection.execute(insert.on_conflict_do_update(table.primary_key, set_=changes), rows)


def _delete(connection: Connection, table: Table, keys: Collection[tuple[str, ...]]) -> None:
    """Delete rows by primary key; what hangs on them goes too."""
    if not keys:
        return
    columns = list(table.primary_key)
    match = sa.and_(*(column == sa.bindparam(f"of_{column.name}") for column in columns))
    connection.execute(
        sa.delete(table).where(match),
        [{f"of_{column.name}": part for column, part in zip(columns, key, strict=True)} for key in sorted(keys)],
    )
