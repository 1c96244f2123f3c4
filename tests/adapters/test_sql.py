"""What only a database can show: versions, several processes, sudden death, and errors a person can act on."""

from __future__ import annotations

import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from llm_twin.adapters import sql
from llm_twin.adapters.sql import TRACES, WAREHOUSE, Schema, SqlTraces, SqlWarehouse
from llm_twin.core.errors import ConfigError, MigrationError, MissingExtra, StoreError
from llm_twin.core.records import (
    Chunk,
    Document,
    DocumentFeatures,
    Embedding,
    ItemState,
    Run,
    Span,
    VoiceProfile,
    content_hash,
)
from llm_twin.core.vectors import PackedTokens

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_database")
    return f"sqlite:///{tmp_path}/twin.db"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/twin.db"


def make_pair(key: str, text: str) -> tuple[ItemState, Document]:
    document = Document(
        id=f"doc-{key}",
        author="Ann",
        source="files",
        kind="article",
        title=key,
        text=text,
        content_hash=content_hash(key, text),
        fetched_at=NOON,
    )
    return ItemState("files", key, "added", document_id=document.id, seen_at=NOON), document


def make_features(document: Document) -> DocumentFeatures:
    chunk = Chunk("c1", document.id, document.text, 0, len(document.text), ("Title",), 2)
    return DocumentFeatures(document, "f1", (chunk,), None, (b"sketch",))


# --- opening --------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_sqlite_file_is_created(tmp_path):
    SqlWarehouse(f"sqlite:///{tmp_path}/a/b/twin.db").close()
    assert (tmp_path / "a" / "b" / "twin.db").is_file()


def test_records_outlive_the_process_that_saved_them(url):
    state, document = make_pair("a.md", "ORMs leak.")
    first = SqlWarehouse(url)
    first.save([(state, document)])
    first.save_embeddings({"k": Embedding(np.ones(4, np.float32))})
    first.close()
    second = SqlWarehouse(url)
    assert list(second.documents()) == [document]
    assert list(second.items()) == [state]
    assert second.embedding_keys() == {"k"}
    second.close()


def test_warehouse_and_traces_may_share_one_database(url):
    warehouse, traces = SqlWarehouse(url), SqlTraces(url)
    warehouse.save([make_pair("a.md", "text")])
    traces.save_spans([Span("t1", "s1", "ask", NOON, 1.0)])
    for store in (warehouse, traces):
        store.close()
    warehouse, traces = SqlWarehouse(url), SqlTraces(url)
    assert len(warehouse.document_hashes()) == len(traces.trace("t1")) == 1
    for store in (warehouse, traces):
        store.close()


def test_sqlite_runs_with_write_ahead_log_foreign_keys_and_patience(sqlite_url):
    warehouse = SqlWarehouse(sqlite_url)
    with warehouse._database.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    warehouse.close()
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 60_000, "synchronous": 1}


def test_a_document_keeps_the_history_of_its_content(url):
    warehouse = SqlWarehouse(url)
    versions = [make_pair("a.md", text) for text in ("one", "two", "one")]
    for days, (state, document) in enumerate(versions):
        warehouse.save([(state, replace(document, fetched_at=NOON + timedelta(days=days)))])
    one, two = versions[0][1], versions[1][1]
    assert warehouse.history(one.id) == [(one.content_hash, NOON), (two.content_hash, NOON + timedelta(days=1))]
    warehouse.save([(ItemState("files", "a.md", "removed"), None)])
    assert warehouse.history(one.id) == []
    warehouse.close()


def test_removing_a_document_leaves_no_row_of_it(url):
    warehouse = SqlWarehouse(url)
    state, document = make_pair("a.md", "ORMs leak.")
    warehouse.save([(state, document)])
    warehouse.save_features([make_features(document)])
    warehouse.save([(ItemState("files", "a.md", "removed"), None)])
    with warehouse._database.read() as connection:
        tables = ("items", "documents", "document_versions", "features", "chunks")
        counts = {name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar() for name in tables}
    warehouse.close()
    assert counts == dict.fromkeys(tables, 0)


def test_reading_tokens_or_hashes_does_not_read_vectors_or_texts(url):
    warehouse = SqlWarehouse(url)
    warehouse.save_embeddings({"k": Embedding(np.ones(4, np.float32), PackedTokens(b"abcd", 2, 2))})
    asked: list[str] = []
    sa.event.listen(warehouse._database.engine, "before_cursor_execute", lambda *args: asked.append(args[2]) or None)
    assert warehouse.tokens(["k"]) == {"k": PackedTokens(b"abcd", 2, 2)}
    warehouse.document_hashes()
    warehouse.feature_fingerprints()
    warehouse.close()
    selects = [statement for statement in asked if statement.startswith("SELECT") and "FROM" in statement]
    assert len(selects) == 3
    assert not [statement for statement in selects if re.search(r"\b(vector|text|signatures)\b", statement)]


# --- versions of the schema -----------------------------------------------------------------------------------------


def add_rating(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE voice_profiles ADD COLUMN rating INTEGER")
    connection.exec_driver_sql("UPDATE voice_profiles SET rating = words / 100")


def columns(url: str, table: str) -> set[str]:
    warehouse_engine = sa.create_engine(sql._parse(url))
    with warehouse_engine.connect() as connection:
        found = {column["name"] for column in sa.inspect(connection).get_columns(table)}
    warehouse_engine.dispose()
    return found


def version(url: str, store: str = "warehouse") -> int:
    engine = sa.create_engine(sql._parse(url))
    with engine.connect() as connection:
        found = connection.scalar(sa.text("SELECT version FROM schema_version WHERE store = :s"), {"s": store})
    engine.dispose()
    return found


def then(schema: Schema, *migrations: Callable[[sa.Connection], None]) -> Schema:
    """The schema of a program that is newer by these migrations."""
    return replace(schema, migrations=(*schema.migrations, *migrations))


def make_old_warehouse(url: str) -> VoiceProfile:
    profile = VoiceProfile("Ann", 3, 1200, {"contractions": 8.4}, {})
    warehouse = SqlWarehouse(url)
    warehouse.save_profile(profile)
    warehouse.close()
    return profile


def test_a_database_of_the_version_before_is_migrated_with_its_data(url):
    profile = make_old_warehouse(url)
    newer = SqlWarehouse(url, schema=then(WAREHOUSE, add_rating))
    with newer._database.read() as connection:
        assert connection.exec_driver_sql("SELECT author, rating FROM voice_profiles").all() == [("Ann", 12)]
    newer.close()
    assert version(url) == WAREHOUSE.version + 1
    again = SqlWarehouse(url, schema=then(WAREHOUSE, add_rating))
    with again._database.read() as connection:
        assert connection.exec_driver_sql("SELECT words FROM voice_profiles").scalar() == profile.words
    again.close()


TO_VERSION_1 = (
    "DROP TABLE records",
    "ALTER TABLE items DROP COLUMN next_try",
    "DROP TABLE changes",
    "UPDATE schema_version SET version = 1 WHERE store = 'warehouse'",
)


def test_a_warehouse_of_the_first_version_is_brought_up_to_this_one_with_its_data(url):
    state, document = make_pair("a.md", "ORMs leak.")
    profile = make_old_warehouse(url)
    with closing(SqlWarehouse(url)) as warehouse:
        newest = {table: columns(url, table) for table in WAREHOUSE.tables.tables}
        warehouse.save([(state, document)])
        with warehouse._database.write() as connection:
            for statement in TO_VERSION_1:
                connection.exec_driver_sql(statement)
    with closing(SqlWarehouse(url)) as warehouse:
        warehouse.put("feedback", "f1", {"rating": 1})
        assert warehouse.records("feedback") == [("f1", {"rating": 1})]
        assert (list(warehouse.items()), list(warehouse.documents())) == ([state], [document])
        assert [(each.sequence, each.outcome, each.document_id) for each in warehouse.changes()] == [
            (1, "added", document.id)
        ]
        assert warehouse.profiles() == {"Ann": profile}
    assert {table: columns(url, table) for table in WAREHOUSE.tables.tables} == newest
    assert version(url) == WAREHOUSE.version


def test_only_the_missing_migrations_run_and_in_order(url):
    make_old_warehouse(url)
    ran: list[str] = []
    first, second, third = ((lambda _, name=name: ran.append(name)) for name in "123")
    SqlWarehouse(url, schema=then(WAREHOUSE, first)).close()
    SqlWarehouse(url, schema=then(WAREHOUSE, first, second, third)).close()
    assert ran == ["1", "2", "3"]
    assert version(url) == WAREHOUSE.version + 3


def test_an_empty_database_gets_the_newest_version_without_migrations(url):
    def never(_: sa.Connection) -> None:
        raise AssertionError("a new database has nothing to migrate")

    SqlWarehouse(url, schema=then(WAREHOUSE, never, never)).close()
    assert version(url) == WAREHOUSE.version + 2


def test_a_migration_that_fails_leaves_the_database_as_it_was(url):
    profile = make_old_warehouse(url)

    def breaks(connection: sa.Connection) -> None:
        add_rating(connection)
        connection.exec_driver_sql("DELETE FROM voice_profiles")
        connection.exec_driver_sql("SELECT * FROM no_such_table")

    with pytest.raises(StoreError, match="no_such_table"):
        SqlWarehouse(url, schema=then(WAREHOUSE, breaks))
    assert "rating" not in columns(url, "voice_profiles")
    assert version(url) == WAREHOUSE.version
    warehouse = SqlWarehouse(url)
    assert warehouse.profiles() == {"Ann": profile}
    warehouse.close()


def test_a_process_killed_in_a_migration_leaves_the_database_as_it_was(url):
    profile = make_old_warehouse(url)
    script = """
    def breaks(connection):
        connection.exec_driver_sql("ALTER TABLE voice_profiles ADD COLUMN rating INTEGER")
        connection.exec_driver_sql("DELETE FROM voice_profiles")
        os.kill(os.getpid(), signal.SIGKILL)

    SqlWarehouse(url, schema=Schema("warehouse", WAREHOUSE.tables, (*WAREHOUSE.migrations, breaks)))
    """
    assert run(script, url).wait(60) == -signal.SIGKILL
    warehouse = SqlWarehouse(url)
    assert warehouse.profiles() == {"Ann": profile}
    warehouse.close()
    assert "rating" not in columns(url, "voice_profiles")


@pytest.mark.parametrize(("store", "schema"), [(SqlWarehouse, WAREHOUSE), (SqlTraces, TRACES)])
def test_a_database_of_a_newer_version_is_refused_untouched_and_the_error_says_what_to_do(url, store, schema):
    store(url, schema=then(schema, lambda _: None)).close()
    newest = schema.version
    said = rf"has version {newest + 1}, this program reads up to {newest}; upgrade with: pip install"
    with pytest.raises(MigrationError, match=said):
        store(url)
    assert version(url, schema.name) == newest + 1


def test_several_processes_may_open_an_empty_database_at_once(url):
    rounds = 15 if url.startswith("sqlite") else 1
    urls = [url.replace("twin.db", f"twin-{number}.db") for number in range(rounds)]
    script = """
    import multiprocessing

    fork = multiprocessing.get_context("fork")

    def open_and_write(url, number, all_ready):
        all_ready.wait()
        warehouse = SqlWarehouse(url)
        warehouse.save_embeddings({str(number): Embedding(np.ones(2, np.float32))})
        warehouse.close()

    for url in sys.argv[1:]:
        all_ready = fork.Barrier(6)
        started = [fork.Process(target=open_and_write, args=(url, number, all_ready)) for number in range(6)]
        for process in started:
            process.start()
        for process in started:
            process.join()
    """
    assert run(script, *urls).wait(240) == 0
    for each in urls:
        with closing(SqlWarehouse(each)) as warehouse:
            assert warehouse.embedding_keys() == {"0", "1", "2", "3", "4", "5"}


# --- databases that are not ours ------------------------------------------------------------------------------------


def test_tables_of_another_program_are_left_alone(url):
    engine = sa.create_engine(sql._parse(url))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customers (id INTEGER)")
    with pytest.raises(StoreError, match=r"tables of another program \(customers\); name a new file or an empty"):
        SqlWarehouse(url)
    with engine.begin() as connection:
        assert sa.inspect(connection).get_table_names() == ["customers"]
        connection.exec_driver_sql("DROP TABLE customers")
        connection.exec_driver_sql("CREATE TABLE schema_version (installed_rank INTEGER)")
    with pytest.raises(StoreError, match="another program"):
        SqlWarehouse(url)
    engine.dispose()


def test_a_file_that_is_no_database_is_refused_untouched(tmp_path):
    file = tmp_path / "notes.md"
    file.write_text("# Notes\n" * 200)
    with pytest.raises(StoreError, match=r"notes\.md: file is not a database; .*name another path"):
        SqlWarehouse(f"sqlite:///{file}")
    assert file.read_text() == "# Notes\n" * 200


def test_a_folder_in_place_of_the_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(StoreError, match="unable to open database file; check that the path"):
        SqlWarehouse(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_made_is_an_error_that_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot create the folder of .*twin\.db: .*; choose a place"):
        SqlWarehouse(f"sqlite:///{tmp_path}/file/twin.db")


@pytest.mark.parametrize(
    "wrong", ["mysql://u@h/d", "postgresql://h:x/d", "not a url", "sqlite://", "sqlite:///:memory:", ""]
)
def test_a_url_it_cannot_use_is_an_error_that_shows_the_right_form(wrong):
    with pytest.raises(ConfigError, match=r"write sqlite:///folder/twin\.db or postgresql://user@host/database"):
        SqlWarehouse(wrong)


def test_a_missing_driver_is_an_error_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"PostgreSQL needs .*'psycopg'.*pip install 'llm-twin\[postgres\]'"):
        SqlWarehouse("postgresql://ann@localhost/twin")


# --- secrets --------------------------------------------------------------------------------------------------------


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    "form", ["postgresql://ann:s3cret@127.0.0.1:{}/t", "postgres://127.0.0.1:{}/t?password=s3cret"]
)
def test_a_server_that_does_not_answer_is_an_error_without_the_password(form):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="check that the database is reachable") as caught:
        SqlWarehouse(form.format(unused_port()))
    assert "127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_malformed_url_is_shown_without_the_password():
    with pytest.raises(ConfigError) as caught:
        SqlWarehouse("postgresql//ann:s3cret@host/twin")
    assert "s3cret" not in str(caught.value)


def test_a_password_with_an_at_sign_is_refused_before_half_of_it_passes_for_a_host():
    with pytest.raises(ConfigError, match=r"postgresql://\*\*\*@host/twin.*write %40 for an @") as caught:
        SqlWarehouse("postgresql://ann:first@second@host/twin")
    assert "first" not in str(caught.value)
    assert "second" not in str(caught.value)


def test_the_representation_names_the_database_and_hides_the_password(postgres_database):
    with_password = sa.make_url(postgres_database).set(password="s3cret").render_as_string(hide_password=False)
    for store in (SqlWarehouse(with_password), SqlTraces(with_password)):
        assert postgres_database.rpartition("/")[2].partition("?")[0] in repr(store)
        assert "s3cret" not in repr(store)
        assert repr(store).startswith(type(store).__name__)
        store.close()


def test_texts_of_the_author_do_not_appear_in_database_errors(sqlite_url):
    warehouse = SqlWarehouse(sqlite_url)
    with warehouse._database.write() as connection:
        connection.exec_driver_sql("DROP TABLE documents")
    with pytest.raises(StoreError) as caught:
        warehouse.save([make_pair("a.md", "a private sentence")])
    warehouse.close()
    assert "a private sentence" not in str(caught.value) + str(caught.value.__cause__)


# --- a database that refuses ----------------------------------------------------------------------------------------


def test_a_lock_held_too_long_is_an_error_that_says_so(url):
    patient, impatient = SqlWarehouse(url), SqlWarehouse(url, busy_timeout_s=0.2)
    with (
        patient._database.write(),
        pytest.raises(StoreError, match=r"lock.*another process has been writing for long"),
    ):
        impatient.save([make_pair("a.md", "text")])
    impatient.save([make_pair("a.md", "text")])
    assert len(impatient.document_hashes()) == 1
    for warehouse in (patient, impatient):
        warehouse.close()


def test_readers_do_not_wait_for_a_writer(url):
    writer, reader = SqlWarehouse(url), SqlWarehouse(url, busy_timeout_s=0.2)
    _, document = make_pair("a.md", "before")
    writer.save([make_pair("a.md", "before")])
    with writer._database.write() as connection:
        connection.execute(sa.update(sql._DOCUMENTS).values(text="after"))
        assert list(reader.documents()) == [document]
    for warehouse in (writer, reader):
        warehouse.close()


def test_a_full_disk_is_an_error_and_nothing_of_the_call_is_saved(sqlite_url):
    warehouse = SqlWarehouse(sqlite_url)
    state, document = make_pair("small.md", "fits")
    warehouse.save([(state, document)])
    warehouse._database.engine.dispose()

    def shrink(connection, _) -> None:
        connection.execute("PRAGMA max_page_count = 60")

    sa.event.listen(warehouse._database.engine, "connect", shrink)
    with pytest.raises(StoreError, match=r"disk is full; nothing was changed; free some disk space"):
        warehouse.save([make_pair(f"{number}.md", "x" * 10_000) for number in range(100)])
    assert list(warehouse.documents()) == [document]
    assert list(warehouse.items()) == [state]
    warehouse.close()


def test_a_damaged_file_is_an_error_that_says_so(tmp_path, sqlite_url):
    warehouse = SqlWarehouse(sqlite_url)
    warehouse.save([make_pair(f"{number}.md", "x" * 5_000) for number in range(50)])
    warehouse.close()
    file = tmp_path / "twin.db"
    content = bytearray(file.read_bytes())
    content[8192:] = random.Random(0).randbytes(len(content) - 8192)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="restore a backup"):
        read_all(sqlite_url)


def read_all(url: str) -> list[Document]:
    with closing(SqlWarehouse(url)) as warehouse:
        return list(warehouse.documents())


def test_a_time_without_a_zone_is_refused(url):
    warehouse = SqlWarehouse(url)
    naive = datetime(2026, 3, 14, 12)
    with pytest.raises(StoreError, match=r"a time without a time zone: 2026-03-14T12:00:00"):
        warehouse.save_run(Run("r1", "sync", naive))
    assert warehouse.runs() == []
    warehouse.close()


# --- several processes ----------------------------------------------------------------------------------------------

PRELUDE = """
import os, signal, sys
import numpy as np
import sqlalchemy as sa
from datetime import UTC, datetime
from llm_twin.adapters.sql import WAREHOUSE, Schema, SqlWarehouse
from llm_twin.core.records import *

url = sys.argv[1]

def pair(key, text):
    document = Document(f"doc-{key}", "Ann", "files", "article", key, text, content_hash(key, text), datetime.now(UTC))
    return ItemState("files", key, "added", document_id=document.id, seen_at=document.fetched_at), document
"""


def run(script: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *arguments]
    return subprocess.Popen(command, stdout=stdout, text=True)


def test_four_processes_writing_at_once_lose_nothing_and_double_nothing(url):
    SqlWarehouse(url).close()
    script = """
    worker, rounds = sys.argv[2], int(sys.argv[3])
    warehouse = SqlWarehouse(url)
    for number in range(rounds):
        own, shared = pair(f"{worker}-{number}", f"text {number}"), pair(f"shared-{number}", f"by {worker}")
        warehouse.save([own, shared])
        text = own[1].text
        chunks = tuple(Chunk(f"{worker}{number}{at}", own[1].id, text, 0, len(text)) for at in range(3))
        warehouse.save_features([DocumentFeatures(own[1], "f", chunks)])
        warehouse.save_embeddings({f"{worker}-{number}": Embedding(np.ones(4, np.float32))})
        warehouse.save_run(Run(f"{worker}-{number}", "sync", datetime.now(UTC)))
    warehouse.close()
    """
    started = [run(script, url, worker, "25") for worker in "abcd"]
    assert [process.wait(240) for process in started] == [0] * 4
    warehouse = SqlWarehouse(url)
    own = {f"{worker}-{number}" for worker in "abcd" for number in range(25)}
    shared = {f"shared-{number}" for number in range(25)}
    assert sorted(item.key for item in warehouse.items()) == sorted(own | shared)
    assert sorted(document.title for document in warehouse.documents()) == sorted(own | shared)
    assert {made.document.title: len(made.chunks) for made in warehouse.features()} == dict.fromkeys(own, 3)
    assert warehouse.embedding_keys() == own
    assert {found.id for found in warehouse.runs(limit=1000)} == own
    warehouse.close()


def test_a_follower_of_the_change_log_misses_nothing_while_processes_write(url):
    script = """
    worker = sys.argv[2]
    warehouse = SqlWarehouse(url)
    for number in range(25):
        warehouse.save([pair(f"{worker}-{number}-{each}", "text") for each in range(2)])
    """
    warehouse = SqlWarehouse(url)
    started = [run(script, url, worker) for worker in "abc"]
    seen: list[int] = []
    while True:
        finished = all(process.poll() is not None for process in started)
        news = [change.sequence for change in warehouse.changes(after=seen[-1] if seen else 0, limit=9)]
        seen += news
        if finished and not news:
            break
    assert [process.returncode for process in started] == [0, 0, 0]
    assert seen == list(range(1, 3 * 25 * 2 + 1))
    warehouse.close()


def test_a_change_is_seen_after_all_earlier_ones_although_another_process_holds_them_back(url):
    slow, quick = SqlWarehouse(url), SqlWarehouse(url)
    waiting = threading.Thread(target=quick.save, args=([make_pair("second", "text")],))
    with slow._database.write() as connection:
        sql._log(connection, {"first": ("added", "files")})
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert quick.changes() == []
    waiting.join(60)
    assert [(each.sequence, each.document_id) for each in quick.changes()] == [(1, "first"), (2, "doc-second")]
    for warehouse in (slow, quick):
        warehouse.close()


def test_a_process_killed_between_the_statements_of_a_save_leaves_nothing_of_it(url):
    warehouse = SqlWarehouse(url)
    state, document = make_pair("a.md", "before")
    warehouse.save([(state, document)])
    script = """
    warehouse = SqlWarehouse(url)

    def die(connection, cursor, statement, *rest):
        if statement.startswith("INSERT INTO document_versions"):
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(warehouse._database.engine, "before_cursor_execute", die)
    warehouse.save([pair("a.md", "after"), pair("b.md", "new")])
    """
    assert run(script, url).wait(60) == -signal.SIGKILL
    assert list(warehouse.documents()) == [document]
    assert list(warehouse.items()) == [state]
    warehouse.save([make_pair("a.md", "after")])
    assert [found.text for found in warehouse.documents()] == ["after"]
    warehouse.close()


def test_a_process_killed_at_any_moment_leaves_all_of_a_save_or_nothing(url):
    warehouse = SqlWarehouse(url)
    script = """
    warehouse = SqlWarehouse(url)
    print("ready", flush=True)
    for generation in range(10**6):
        warehouse.save([pair(f"{number}", f"{os.getpid()} {generation} " * 50) for number in range(200)])
    """
    warehouse.save([make_pair(f"{number}", "before") for number in range(200)])
    moments = random.Random(7)
    for _ in range(6):
        process = run(script, url, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.1, 0.5))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        process.stdout.close()
        texts = [document.text for document in warehouse.documents()]
        assert (len(texts), len(set(texts))) == (200, 1)
        assert len(list(warehouse.items())) == 200
    warehouse.close()
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(sql._parse(url).database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_many_threads_of_a_server_may_keep_traces_at_once(url):
    store = SqlTraces(url)

    def keep(worker: int) -> None:
        for number in range(10):
            store.save_spans([Span(f"{worker:02}-{number}", "s", "ask", NOON, 1.0)])

    workers = [threading.Thread(target=keep, args=(worker,)) for worker in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(store.traces(limit=1000)) == 160
    store.close()


def test_scrubbing_leaves_no_deleted_text_in_any_file_while_the_database_is_open(tmp_path):
    # So many, of so different sizes, that pages are split and joined, which leaves copies behind that no row owns.
    rng = random.Random(1)
    pairs = [
        make_pair(f"{rng.random()}.md", f"Secret number {number} of the deleted. {'x' * rng.randint(0, 900)}")
        for number in range(3000)
    ]
    deleted = set(rng.sample(range(3000), 1500))

    def found() -> set[int]:
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        return {int(number) for number in re.findall(rb"Secret number (\d+) of", stored)}

    with closing(SqlWarehouse(f"sqlite:///{tmp_path}/twin.db")) as warehouse:
        for start in range(0, len(pairs), 50):
            warehouse.save(pairs[start : start + 50])
        going = [(replace(pairs[number][0], outcome="removed"), None) for number in rng.sample(sorted(deleted), 1500)]
        for start in range(0, len(going), 50):
            warehouse.save(going[start : start + 50])
        assert found() & deleted, "the log keeps what was deleted, or this proves nothing"
        with warehouse._database.engine.execution_options(bare=True).connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        assert found() & deleted, "and so do the pages themselves"
        warehouse.scrub()
        assert found() == set(range(3000)) - deleted


def test_scrubbing_under_the_eyes_of_a_reader_says_that_it_could_not(sqlite_url):
    with closing(SqlWarehouse(sqlite_url, busy_timeout_s=0.1)) as warehouse, closing(SqlWarehouse(sqlite_url)) as other:
        warehouse.save([make_pair("a.md", "ORMs leak.")])
        with other._database.read() as connection:
            connection.exec_driver_sql("SELECT * FROM items").all()
            with pytest.raises(StoreError, match="being read by another process"):
                warehouse.scrub()
        warehouse.scrub()
