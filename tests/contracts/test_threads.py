"""One store serves many threads: a server answers from all of them while another one syncs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.records import (
    Chunk,
    Document,
    DocumentFeatures,
    DocumentHeader,
    Embedding,
    Filter,
    IndexEntry,
    ItemState,
    Query,
    Span,
    SparseVector,
    chunk_id,
    content_hash,
)

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@dataclass
class Crowd:
    """Threads that do something over and over; the first failure of one is raised when the crowd is sent home."""

    failures: list[BaseException]
    done: threading.Event


@contextmanager
def crowd(work: Callable[[int], None], *, size: int) -> Iterator[Crowd]:
    """`size` threads that call `work` with their number until the block ends, all of them once at least."""
    made = Crowd([], threading.Event())
    all_ready = threading.Barrier(size + 1)

    def over_and_over(number: int) -> None:
        try:
            all_ready.wait()
            work(number)
            while not made.done.wait(0.005):  # a breath, or the writer of a test hardly gets a turn
                work(number)
        except BaseException as failure:  # also a panic of an engine, which is no Exception
            made.failures.append(failure)

    threads = [threading.Thread(target=over_and_over, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    all_ready.wait()
    try:
        yield made
    finally:
        made.done.set()
        for thread in threads:
            thread.join()
    if made.failures:
        raise made.failures[0]


# --- warehouses -----------------------------------------------------------------------------------------------------


def pair(key: str, text: str) -> tuple[ItemState, Document]:
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
    return ItemState("files", key, "added", document_id=document.id), document


def features_of(document: Document) -> DocumentFeatures:
    chunks = tuple(Chunk(f"{document.id}-{n}", document.id, document.text, 0, len(document.text)) for n in range(3))
    return DocumentFeatures(document, document.content_hash, chunks)


def test_twelve_threads_read_and_keep_records_while_another_saves(warehouse):
    keys = [f"{number}" for number in range(6)]
    warehouse.save([pair(key, "0") for key in keys])
    warehouse.save_features([features_of(document) for document in warehouse.documents()])

    def use(number: int) -> None:
        if number % 4 == 0:
            assert len(list(warehouse.documents())) == len(keys)
            assert len(list(warehouse.items("files"))) == len(keys)
        elif number % 4 == 1:
            for made in warehouse.features():
                assert {chunk.text for chunk in made.chunks} == {made.document.text}
                assert len(made.chunks) == 3
        elif number % 4 == 2:
            warehouse.put("feedback", f"{number}", {"by": [number] * 20})
            assert warehouse.record("feedback", f"{number}") == {"by": [number] * 20}
            assert all(data["by"] == [int(name)] * 20 for name, data in warehouse.records("feedback"))
        else:
            warehouse.save_embeddings({f"k{number}": Embedding(np.full(8, number, np.float32))})
            assert warehouse.embeddings([f"k{number}"])[f"k{number}"].vector[0] == number
            sequences = [change.sequence for change in warehouse.changes()]
            assert sequences == list(range(1, len(sequences) + 1))

    with crowd(use, size=12) as readers:
        for generation in range(1, 9):
            if readers.failures:
                break
            warehouse.save([pair(key, f"{generation}") for key in keys])
            warehouse.save_features([features_of(document) for document in warehouse.documents()])
    assert {document.text for document in warehouse.documents()} == {"8"}
    assert len(warehouse.changes()) == 9 * len(keys)
    assert sorted(name for name, _ in warehouse.records("feedback")) == ["10", "2", "6"]
    assert warehouse.embedding_keys() == {"k3", "k7", "k11"}


def test_sixty_four_threads_that_arrive_at_once_are_all_served(warehouse):
    warehouse.save([pair(f"{number}", "text " * 200) for number in range(20)])
    served = []

    def use(number: int) -> None:
        if len(served) < 500:
            warehouse.put("chats", f"{number}", {"messages": [number]})
            served.append(len(list(warehouse.documents())))

    with crowd(use, size=64):
        pass
    assert set(served) == {20}
    assert len(warehouse.records("chats")) == 64


def test_traces_are_kept_and_read_by_many_threads(traces):
    def use(number: int) -> None:
        trace_id = f"{number:032x}"
        root = Span(trace_id, "root", "ask", NOON, 2.0)
        traces.save_spans([root, replace(root, span_id="child", parent_id="root", attributes={"by": number})])
        found = traces.trace(trace_id)
        assert [span.span_id for span in found] == ["root", "child"]
        assert found[1].attributes == {"by": number}
        assert len(traces.traces(limit=100)) <= 12

    with crowd(use, size=12):
        pass
    assert len(traces.traces(limit=100)) == 12


# --- indexes --------------------------------------------------------------------------------------------------------

DIM = 8
ENCODERS = {"embedder": "words@1", "sparse": "bm25-1", "dim": DIM}
ENTRIES = 12


class Serialized:
    """A client whose calls take turns, as on a server: the client's own local mode is not made for threads."""

    def __init__(self, client) -> None:
        self._client = client
        self._lock = threading.Lock()

    def __getattr__(self, name: str):
        method = getattr(self._client, name)

        def call(*arguments, **named):
            with self._lock:
                return method(*arguments, **named)

        return call


@pytest.fixture(params=["qdrant_edge", "qdrant_local"])
def index(request, tmp_path):
    if request.param == "qdrant_edge":
        yield QdrantEdgeIndex(tmp_path / "index")
        return
    qdrant_client = pytest.importorskip("qdrant_client", reason="needs the extra llm-twin[qdrant]")
    from llm_twin.adapters.qdrant import QdrantIndex

    client = qdrant_client.QdrantClient(":memory:")
    yield QdrantIndex("memory", collection="books", client=Serialized(client))
    client.close()


def entry(number: int, generation: int) -> IndexEntry:
    document = DocumentHeader(id=f"{number:016x}", author="Ann", source="files", kind="post", title=f"{generation}")
    vector = np.zeros(DIM, np.float32)
    vector[number % DIM] = 1  # equal scores, so that a search looks past the cut
    text = f"generation {generation}"
    chunk = Chunk(chunk_id(document.id, "text", number), document.id, text, 0, len(text))
    return IndexEntry(chunk, document, vector, SparseVector((1, 2 + number), (1.0, 1.0)), f"{generation}")


def publish(index, generation: int, *, copy: bool) -> None:
    with index.draft(**ENCODERS, copy=copy) as draft:
        draft.upsert([entry(number, generation) for number in range(ENTRIES)])
        draft.publish(digest=f"{generation}")


def test_twelve_threads_search_whole_generations_while_others_are_published(index):
    publish(index, 0, copy=False)
    question = Query("text", vector=np.full(DIM, DIM**-0.5, np.float32), sparse=SparseVector((1,), (1.0,)))
    newest: dict[int, int] = {}

    def use(number: int) -> None:
        if number % 4 == 3:
            assert index.count() == index.count(Filter(authors=("Ann",))) == ENTRIES
            assert len(set(index.digests().values())) == 1
            seen = int(index.info().digest)
        else:
            found = index.search(question, k=4 + number % 4 * 4)
            assert {len(hits) for hits in found.values()} == {4 + number % 4 * 4}
            (text,) = {hit.chunk.text for hits in found.values() for hit in hits}
            seen = int(text.removeprefix("generation "))
        assert seen >= newest.get(number, 0)  # nobody goes back to an older one
        newest[number] = seen

    with crowd(use, size=12) as readers:
        for generation in range(1, 5):
            if readers.failures:
                break
            publish(index, generation, copy=bool(generation % 2))
    assert index.info().digest == "4"
    found = index.search(question, k=ENTRIES)
    assert {hit.chunk.text for hits in found.values() for hit in hits} == {"generation 4"}


# --- encoders -------------------------------------------------------------------------------------------------------


def test_a_lexical_encoder_gives_each_thread_what_it_would_get_alone():
    texts = {"en": "The queries are hidden by mappers", "de": "Die Häuser der Gärtner", "ja": "私は猫が好きです"}
    alone = Bm25Encoder()
    expected = {code: alone.encode(text, language=code) for code, text in texts.items()}
    asked = {code: alone.encode_query(text, languages=tuple(texts)) for code, text in texts.items()}
    shared = Bm25Encoder()

    def use(number: int) -> None:
        for code in (list(texts) * 2)[number % 3 : number % 3 + 3]:
            assert shared.encode(texts[code], language=code) == expected[code]
            assert shared.encode_query(texts[code], languages=tuple(texts)) == asked[code]

    with crowd(use, size=16):
        pass
