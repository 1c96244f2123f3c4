"""One `Twin` serves many threads: its parts are built once, answers go on during a sync, and closing closes all."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_twin import Twin, catalog
from llm_twin.core.errors import StoreError

PARTS = ["reranker", "warehouse", "index", "embedder", "chunker", "sparse", "trace_store", "tracer", "redactor", "keys"]


POSTS = {
    "orms.md": "# On ORMs\n\nObject-relational mappers hide the query, and the query is the program.\n",
    "reviews.md": "# Reviews\n\nSmall changes are reviewed the day they arrive, in edition{0} as ever.\n",
    "gardens.md": "# Tomatoes\n\nThey want sun and deep water twice a week, and edition{0} wants a stake.\n",
}


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    (tmp_path / "posts").mkdir()
    write(tmp_path / "posts", 0)
    return tmp_path / "posts"


def write(posts: Path, generation: int) -> None:
    for name, text in POSTS.items():
        (posts / name).write_text(text.format(generation), encoding="utf-8")


@pytest.fixture
def twin(tmp_path: Path, posts: Path) -> Iterator[Twin]:
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        yield twin


def test_a_part_that_many_threads_ask_for_first_is_built_once(twin, monkeypatch):
    built = []
    find = catalog.part

    def slow(kind: str, name: str):
        made = find(kind, name)

        def build(*arguments, **named):
            built.append(f"{kind} {name}")
            time.sleep(0.02)  # long enough for all the others to ask as well
            return made(*arguments, **named)

        return build

    monkeypatch.setattr(catalog, "part", slow)
    all_ready = threading.Barrier(16)

    def ask(number: int) -> dict[str, int]:
        all_ready.wait()
        return {name: id(getattr(twin, name)) for name in random.Random(number).sample(PARTS, len(PARTS))}

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16), timeout=60))
    assert all(each == found[0] for each in found)
    assert len(built) == len(set(built)) >= 8


def test_a_part_that_could_not_be_built_is_built_when_it_is_asked_for_again(twin, monkeypatch):
    find = catalog.part

    def broken(kind: str, name: str):
        raise StoreError("the disk is gone")

    monkeypatch.setattr(catalog, "part", broken)
    with pytest.raises(StoreError, match="the disk is gone"):
        _ = twin.sparse
    monkeypatch.setattr(catalog, "part", find)
    assert twin.sparse is twin.sparse


def test_eight_threads_get_answers_while_another_syncs(twin, posts):
    twin.sync()
    done, failures, answered = threading.Event(), [], [0] * 8

    def use(number: int) -> None:
        try:
            while not done.is_set() or not answered[number]:
                if number % 3 == 0:
                    answer = twin.ask("What do I think of object-relational mappers?")
                    assert "hide the query" in answer.text
                    assert [citation.title for citation in answer.citations] == ["On ORMs"]
                    assert twin.trace(answer.trace_id)
                elif number % 3 == 1:
                    hits = twin.search("tomatoes, changes and mappers")
                    editions = {found[0] for hit in hits if (found := re.findall(r"edition\d", hit.chunk.text))}
                    assert (len(hits), len(editions)) == (3, 1)
                else:
                    assert twin.status().documents == 3
                    assert len(twin.documents()) == 3
                answered[number] += 1
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for generation in range(1, 3):
        write(posts, generation)
        assert twin.sync().documents["updated"] == 2
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(answered)
    assert "edition2" in twin.ask("What do tomatoes want?").text
    assert {trace.error for trace in twin.traces(limit=1000)} == {None}


def test_closing_closes_every_part_that_was_built_and_a_new_one_is_built_after(tmp_path):
    Twin.init(tmp_path, author="Ann")
    chosen = {"llm.model": "toy", "llm.base_url": "http://127.0.0.1:9", "index.store": "qdrant"}
    twin = Twin.open(tmp_path, arguments=chosen | {"index.url": "http://127.0.0.1:9"})
    pytest.importorskip("qdrant_client", reason="needs the extra llm-twin[qdrant]")
    model, index, warehouse, reranker = twin.model, twin.index, twin.warehouse, twin.reranker
    model.prepare()
    client = model._client
    twin.close()
    assert client.is_closed()
    with pytest.raises(StoreError, match="closed"):
        index.info()
    assert twin.warehouse is not warehouse
    assert twin.reranker is not reranker  # it would read the warehouse that is closed
    assert twin.warehouse.document_hashes() == {}
    twin.close()


def test_what_fails_to_close_does_not_keep_the_rest_open(twin):
    store, warehouse = twin.trace_store, twin.warehouse
    closed = []

    def fail() -> None:
        closed.append("warehouse")
        raise StoreError("the disk is gone")

    close, warehouse.close = store.close, fail
    store.close = lambda: closed.append("trace_store") or close()
    with pytest.raises(StoreError, match="the disk is gone"):
        twin.close()
    assert closed == ["warehouse", "trace_store"]
