"""What the embedded index promises beyond the contract: whole generations whoever reads, writes or dies."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from llm_twin.adapters import qdrant_edge
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.errors import StoreError
from llm_twin.core.records import Chunk, DocumentHeader, Filter, IndexEntry, Query, SparseVector, chunk_id

DIM = 16
ENCODERS = {"embedder": "minilm@1", "sparse": "bm25-1", "dim": DIM}
EVERYWHERE = Query("", vector=np.ones(DIM, np.float32), sparse=SparseVector((1,), (1.0,)))


def entry(number, text="text", vector=None, author="Ann"):
    document = DocumentHeader(
        f"{number:016x}", author, "files", "post", "T", published_at=datetime(2020, 1, 1, tzinfo=UTC)
    )
    if vector is None:
        vector = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
    return IndexEntry(
        Chunk(chunk_id(document.id, str(number)), document.id, text, 0, len(text)),
        document,
        vector,
        SparseVector((1, number + 2), (1.0, 2.0)),
        f"{number} {text}",
    )


def publish(index, entries, *, copy=False, delete=()):
    with index.draft(**ENCODERS, copy=copy) as draft:
        draft.upsert(entries)
        draft.delete(delete)
        return draft.publish(digest=entries[0].chunk.text if entries else "")


def texts(index, k=100):
    return {hit.chunk.text for hits in index.search(EVERYWHERE, k=k).values() for hit in hits}


def generations(path):
    return sorted(folder.name for folder in path.iterdir() if folder.is_dir())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "index"


# --- readers beside a writer ----------------------------------------------------------------------------------------

READER = """
    import sys
    from pathlib import Path
    import numpy as np
    from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
    from llm_twin.core.records import Query, SparseVector

    index = QdrantEdgeIndex(Path(sys.argv[1]))
    query = Query("", vector=np.ones(16, np.float32), sparse=SparseVector((1,), (1.0,)))
    seen = []
    while not seen or seen[-1] != int(sys.argv[2]):
        found = index.search(query, k=100)
        generations = {int(hit.chunk.text) for hits in found.values() for hit in hits}
        assert len(generations) == 1, f"one search met the generations {generations}"
        assert [len(hits) for hits in found.values()] == [30, 30]
        assert len(index.digests()) == index.count() == index.info().count == 30
        if seen[-1:] != list(generations):
            seen += generations
            print(*generations, flush=True)
    assert seen == sorted(seen)
"""


def test_a_reader_in_another_process_sees_only_whole_generations_while_20_are_published(path):
    index = QdrantEdgeIndex(path)
    publish(index, [entry(number, "0") for number in range(30)])
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(READER), str(path), "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout.readline() == "0\n"
        for generation in range(1, 21):
            publish(index, [entry(number, str(generation)) for number in range(30)], copy=bool(generation % 2))
        _, errors = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert errors == ""
    assert reader.returncode == 0


def test_threads_search_undisturbed_while_generations_change_under_them(path):
    index = QdrantEdgeIndex(path)
    publish(index, [entry(number, "0") for number in range(30)])
    failures, done = [], threading.Event()

    def search():
        try:
            while not done.is_set():
                assert len(texts(index)) == 1
        except BaseException as failure:  # also a panic of the engine, which is no Exception
            failures.append(failure)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for generation in range(1, 5):
        publish(index, [entry(number, str(generation)) for number in range(30)], copy=True)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert texts(index) == {"4"}


def test_publishing_clears_older_generations_so_that_deleted_text_is_gone_from_the_disk(path):
    index = QdrantEdgeIndex(path)
    publish(index, [entry(1, "a secret to forget"), entry(2)])
    assert index.search(EVERYWHERE, k=1)["dense"]
    kept = publish(index, [entry(2, "kept")])
    assert generations(path) == [kept.generation]
    assert (path / "current").read_text().strip() == kept.generation
    assert not [file for file in path.rglob("*") if file.is_file() and b"secret" in file.read_bytes()]


@pytest.mark.parametrize("hnsw_above", [1000, 10_000])
def test_a_search_ends_on_its_generation_even_when_that_is_cleared_meanwhile(path, many, hnsw_above):
    index = QdrantEdgeIndex(path, hnsw_above=hnsw_above)
    first = publish_many(index, many)
    reading = index._live(first.generation)  # as a search of another thread holds it
    before = reading.search(Query("", vector=many[0].vector, sparse=many[0].sparse), 5)
    for _ in range(3):
        publish(QdrantEdgeIndex(path), [entry(1, "new")])
    assert not (path / first.generation).exists()
    assert reading.search(Query("", vector=many[0].vector, sparse=many[0].sparse), 5) == before
    where = Filter(authors=("author 1",), since=datetime(2019, 1, 1, tzinfo=UTC))
    rare = reading.search(Query("", vector=many[2000].vector, sparse=many[2000].sparse, where=where), 50)
    assert [len(hits) for hits in rare.values()] == [50, 50]
    assert texts(index) == {"new"}


def test_a_published_generation_is_never_edited(path):
    index = QdrantEdgeIndex(path)
    first = publish(index, [entry(number) for number in range(50)])

    def contents():
        return {file: file.read_bytes() for file in (path / first.generation).rglob("*") if file.is_file()}

    before = contents()
    with index.draft(**ENCODERS, copy=True) as draft:
        draft.upsert([entry(100)])
        draft.delete([entry(1).chunk.id])
    assert len(before) > 10
    assert contents() == before


def test_a_copy_takes_no_more_room_on_disk_than_its_original(path):
    index = QdrantEdgeIndex(path)

    def room(generation):
        files = [file.stat() for file in (path / generation).rglob("*") if file.is_file()]
        return sum(file.st_blocks * 512 for file in files), sum(file.st_size for file in files)

    original, length = room(publish(index, [entry(number) for number in range(50)]).generation)
    if original > length / 2:
        pytest.skip("this file system keeps no holes")
    copy, _ = room(publish(index, [entry(50)], copy=True).generation)
    assert copy < original * 1.5


# --- writers that die -----------------------------------------------------------------------------------------------

WRITER = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from test_qdrant_edge import ENCODERS, QdrantEdgeIndex, entry, publish

    index = QdrantEdgeIndex(Path(sys.argv[1]))
    generation = 1
    while True:
        publish(index, [entry(number, str(generation)) for number in range(30)], copy=bool(generation % 2))
        print(generation, flush=True)
        generation += 1
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_index_and_its_leavings_are_cleared(path):
    index = QdrantEdgeIndex(path)
    publish(index, [entry(number, "0") for number in range(30)])
    for attempt in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        writer.stdout.readline()
        time.sleep(attempt * 0.05)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert len(texts(QdrantEdgeIndex(path))) == 1
        assert index.count() == len(index.digests()) == 30
    last = publish(index, [entry(1, "alive")], copy=True)
    assert last.count == 30
    assert generations(path) == [last.generation]
    assert not list(path.glob("draft-*"))


def test_a_draft_of_a_living_process_is_left_alone(path):
    index = QdrantEdgeIndex(path)
    publish(index, [entry(1)])
    with index.draft(**ENCODERS, copy=True) as slow:
        slow.upsert([entry(2)])
        with QdrantEdgeIndex(path).draft(**ENCODERS, copy=True):
            pass
        assert slow.publish(digest="d").count == 2


# --- damage ---------------------------------------------------------------------------------------------------------


def break_pointer(path, generation):
    (path / "current").write_bytes(b"\xff../../etc")


def break_pointer_to_nowhere(path, generation):
    (path / "current").write_text("20200101T000000.000000\n")


def break_manifest(path, generation):
    file = path / generation / "manifest.json"
    file.write_text(file.read_text()[:40])


def break_manifest_layout(path, generation):
    file = path / generation / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"layout": 999}))


def break_shard(path, generation):
    next((path / generation / "shard" / "segments").glob("*/segment.json")).write_text("{")


def break_segments(path, generation):
    shutil.rmtree(path / generation / "shard" / "segments")


DAMAGES = [
    break_pointer,
    break_pointer_to_nowhere,
    break_manifest,
    break_manifest_layout,
    break_shard,
    break_segments,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_says_to_rebuild_and_rebuilding_repairs_it(path, damage):
    generation = publish(QdrantEdgeIndex(path), [entry(1)]).generation
    damage(path, generation)
    index = QdrantEdgeIndex(path)
    with pytest.raises(StoreError, match="twin sync --rebuild"):
        index.search(EVERYWHERE, k=1)
    with pytest.raises(StoreError, match="twin sync --rebuild"), index.draft(**ENCODERS, copy=True):
        pytest.fail("the draft was given out")
    publish(index, [entry(2, "new")])
    assert texts(index) == {"new"}


def test_a_place_that_cannot_be_written_is_a_store_error_that_names_it(tmp_path):
    (tmp_path / "index").write_text("a file stands here")
    with (
        pytest.raises(StoreError, match=r"index.* cannot be written"),
        QdrantEdgeIndex(tmp_path / "index").draft(**ENCODERS, copy=False),
    ):
        pytest.fail("the draft was given out")


def test_text_the_engine_cannot_take_is_a_store_error_and_the_live_generation_stays(path):
    index = QdrantEdgeIndex(path)
    publish(index, [entry(1, "whole")])
    with pytest.raises(StoreError):
        publish(index, [entry(2, "half a surrogate \ud800")], copy=True)
    assert texts(index) == {"whole"}


# --- exact or by graph ----------------------------------------------------------------------------------------------


def clustered(count, seed):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(20, DIM))
    vectors = centres[rng.integers(20, size=count)] + 0.5 * rng.normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def many():
    """More than the ten thousand kilobytes of vectors above which a graph is built at all."""
    vectors = np.pad(clustered(2600, 1), ((0, 0), (0, 1024 - DIM)))
    return [entry(number, str(number), vector, author=f"author {number % 3}") for number, vector in enumerate(vectors)]


def publish_many(index, many):
    with index.draft(**(ENCODERS | {"dim": 1024}), copy=False) as draft:
        draft.upsert(many)
        return draft.publish(digest="many")


def recall_at_10(index, many, where=Filter()):
    rows = [row for row, each in enumerate(many) if where.matches(each.document)]
    vectors = np.array([many[row].vector for row in rows])
    found = 0
    questions = np.pad(clustered(50, 2), ((0, 0), (0, 1024 - DIM)))
    for question in questions:
        best = {many[rows[place]].chunk.id for place in np.argsort(-(vectors @ question))[:10]}
        found += len(
            best & {hit.chunk.id for hit in index.search(Query("", vector=question, where=where), k=10)["dense"]}
        )
    return found / (10 * len(questions))


def test_above_the_threshold_a_graph_is_built_that_finds_the_true_neighbours(path, many):
    index = QdrantEdgeIndex(path, hnsw_above=1000)
    assert publish_many(index, many).search == index.info().search == "hnsw"
    assert json.loads((path / index.info().generation / "manifest.json").read_text())["hnsw_ef"] >= 64
    assert recall_at_10(index, many) >= 0.98
    assert recall_at_10(index, many, Filter(authors=("author 1",))) >= 0.98
    with index.draft(**(ENCODERS | {"dim": 1024}), copy=True) as draft:
        draft.delete([each.chunk.id for each in many[:5]])
        draft.publish(digest="fewer")
    assert (index.info().search, index.count()) == ("hnsw", 2595)
    assert recall_at_10(index, many[5:]) >= 0.98


def test_a_graph_that_misses_neighbours_is_not_used_and_the_index_says_so(path, many, monkeypatch):
    monkeypatch.setattr(qdrant_edge, "_RECALL", 1.1)  # no graph finds more than all
    index = QdrantEdgeIndex(path, hnsw_above=1000)
    assert publish_many(index, many).search == index.info().search == "exact"
    assert recall_at_10(index, many) == 1.0


def test_up_to_the_threshold_search_is_exact(path, many):
    index = QdrantEdgeIndex(path, hnsw_above=2600)
    assert publish_many(index, many).search == "exact"
    assert recall_at_10(index, many) == 1.0
