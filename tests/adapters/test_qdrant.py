"""What the server index does when there is no server, and with what killed writers leave on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

qdrant_client = pytest.importorskip("qdrant_client", reason="needs the extra llm-twin[qdrant]")

from llm_twin.adapters.qdrant import QdrantIndex  # noqa: E402 – only with the extra
from llm_twin.core.errors import StoreError  # noqa: E402
from llm_twin.core.records import Chunk, DocumentHeader, IndexEntry, Query, SparseVector  # noqa: E402

ENCODERS = {"embedder": "minilm@1", "sparse": "bm25-1", "dim": 4}


def test_a_server_that_is_not_there_is_named_with_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        index = QdrantIndex(url)
        with pytest.raises(StoreError, match=rf"{url} cannot be reached.*start it, or correct index.url"):
            index.info()
        with pytest.raises(StoreError, match="cannot be reached"), index.draft(**ENCODERS, copy=False):
            pytest.fail("the draft was given out")


@pytest.mark.parametrize(("status", "message"), [(401, "refuses the API key"), (500, "failed.*twin sync --rebuild")])
def test_a_server_that_refuses_says_why(status, message):
    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(StoreError, match=message):
            QdrantIndex(f"http://127.0.0.1:{server.server_port}").info()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_without_its_package_the_error_names_the_extra():
    program = """
import sys
sys.modules["qdrant_client"] = None
from llm_twin.core.errors import MissingExtra
try:
    import llm_twin.adapters.qdrant
except MissingExtra as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'llm-twin[qdrant]'" in ran.stdout


@pytest.fixture
def client():
    client = qdrant_client.QdrantClient(":memory:")
    yield client
    client.close()


def leave_a_draft(client, number, *, host, pid, age):
    name = f"books-20200101T000000.{number:06}"
    since = (datetime.now(UTC) - age).isoformat()
    client.create_collection(name, vectors_config={}, metadata={"draft": {"host": host, "pid": pid, "since": since}})
    return name


def test_drafts_of_dead_writers_are_cleared_and_those_of_living_ones_left_alone(client):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, young, old = socket.gethostname(), timedelta(hours=1), timedelta(days=2)
    cleared = [
        leave_a_draft(client, 1, host=here, pid=dead.pid, age=young),
        leave_a_draft(client, 2, host="elsewhere", pid=1, age=old),
    ]
    left = [
        leave_a_draft(client, 3, host=here, pid=os.getpid(), age=old),
        leave_a_draft(client, 4, host="elsewhere", pid=1, age=young),
    ]
    client.create_collection("books-of-another-program", vectors_config={})
    index = QdrantIndex("memory", collection="books", client=client)
    with index.draft(**ENCODERS, copy=False) as draft:
        info = draft.publish(digest="d")
    names = {collection.name for collection in client.get_collections().collections}
    assert names == {*left, "books-of-another-program", f"books-{info.generation}"}
    assert not names & set(cleared)


def test_only_the_live_generation_stays_on_the_server(client):
    index = QdrantIndex("memory", collection="books", client=client)
    for number in range(3):
        with index.draft(**ENCODERS, copy=bool(number)) as draft:
            info = draft.publish(digest=str(number))
    assert [collection.name for collection in client.get_collections().collections] == [f"books-{info.generation}"]
    assert index.info().digest == "2"


def test_a_collection_without_a_manifest_says_what_is_missing(client):
    client.create_collection("books-20200101T000000.000001", vectors_config={})
    create = qdrant_client.models.CreateAlias(collection_name="books-20200101T000000.000001", alias_name="books")
    client.update_collection_aliases([qdrant_client.models.CreateAliasOperation(create_alias=create)])
    with pytest.raises(StoreError, match=r"Qdrant 1\.16 or newer.*twin sync --rebuild"):
        QdrantIndex("memory", collection="books", client=client).info()


def test_a_closed_index_has_let_go_of_its_connections_and_left_a_client_of_others_alone(client):
    index = QdrantIndex("http://127.0.0.1:9")
    index.close()
    with pytest.raises(StoreError, match="closed"):
        index.info()
    QdrantIndex("memory", client=client).close()
    assert QdrantIndex("memory", client=client).info() is None


class Flipping:
    """A client under which another writer publishes, and clears what was live, while a search is on its way."""

    def __init__(self, client, publish) -> None:
        self._client = client
        self._publish = publish

    def query_batch_points(self, *arguments, **named):
        if self._publish:
            publish, self._publish = self._publish, None
            publish()
            raise ValueError("Collection was dropped")
        return self._client.query_batch_points(*arguments, **named)

    def __getattr__(self, name):
        return getattr(self._client, name)


def test_a_search_whose_generation_is_cleared_meanwhile_finds_the_next_one(client):
    writer = QdrantIndex("memory", collection="books", client=client)

    def publish(title):
        document = DocumentHeader("d1", "Ann", "files", "post", title)
        chunk = Chunk("c1", "d1", title, 0, len(title))
        vector = np.array([1, 0, 0, 0], np.float32)
        with writer.draft(**ENCODERS, copy=False) as draft:
            draft.upsert([IndexEntry(chunk, document, vector, SparseVector((1,), (1.0,)), title)])
            draft.publish(digest=title)

    publish("before")
    reader = QdrantIndex("memory", collection="books", client=Flipping(client, lambda: publish("after")))
    found = reader.search(Query("q", sparse=SparseVector((1,), (1.0,))), k=3)
    assert [hit.chunk.text for hit in found["bm25"]] == ["after"]
