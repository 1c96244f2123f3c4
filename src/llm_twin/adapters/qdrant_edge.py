"""The embedded vector index: Qdrant's engine in this process, in generations that readers never see half-written.

A generation is a folder with a shard, its manifest and the digests of its entries. It is built (or copied and edited)
under a private name, flushed, closed and renamed; then the file `current` is replaced by one that names it. A published
generation is never edited, so any number of processes may read while one writes.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import qdrant_edge as qe

from llm_twin.core.errors import IndexMismatch, StoreError
from llm_twin.core.index import REBUILD, allowed_values, check_dim, check_same_encoders, entry_uuid, is_running
from llm_twin.core.records import (
    Filter,
    Hit,
    IndexEntry,
    IndexInfo,
    Query,
    SparseVector,
    chunk_from_json,
    header_from_json,
    to_json,
)

_LAYOUT = 1  # raised when a generation of an older version cannot be read any more
_GENERATION = re.compile(r"\d{8}T\d{6}\.\d{6}")
_DRAFT = re.compile(r"draft-(\d+)-")
_GONE = "gone-"
_BATCH = 1000

_RECALL = 0.98  # of the true ten nearest, that a graph must find to be used
_BEAMS = (64, 128, 256, 512)
_SAMPLE = 64

_FILTERED = {
    "document.author": qe.PayloadSchemaType.Keyword,
    "document.source": qe.PayloadSchemaType.Keyword,
    "document.kind": qe.PayloadSchemaType.Keyword,
    "document.language": qe.PayloadSchemaType.Keyword,
    "document.id": qe.PayloadSchemaType.Keyword,
    "document.published_at": qe.PayloadSchemaType.Datetime,
}

_T = TypeVar("_T")


class QdrantEdgeIndex:
    """`VectorIndex` in the folder `path`, which need not exist yet. Safe for threads; many readers, one writer.

    Nearest neighbours are searched exactly up to `hnsw_above` chunks and through an HNSW graph (Malkov & Yashunin 2018)
    above, unless the graph's recall, measured right after it is built, is too low: `info().search` says which it is.
    Scanning 100,000 vectors of 384 dimensions takes two cores 10 to 25 ms; their graph takes minutes to build.
    """

    def __init__(self, path: Path, *, hnsw_above: int = 100_000) -> None:
        self._path = path
        self._hnsw_above = hnsw_above
        self._lock = threading.Lock()
        self._opened: _Generation | None = None

    def info(self) -> IndexInfo | None:
        """The live generation, or None when nothing was ever published."""
        return self._read(lambda name: _Manifest.read(self._path / name).info, None)

    def search(self, query: Query, *, k: int) -> dict[str, list[Hit]]:
        """The best `k` chunks per method, best first; equal scores in the order of chunk ids.

        Raises `IndexMismatch` when the query's vector has another dimension than the index.
        """
        asked = {"dense": query.vector is not None, "bm25": query.sparse is not None}
        nothing: dict[str, list[Hit]] = {method: [] for method, wanted in asked.items() if wanted}
        return self._read(lambda name: nothing | self._live(name).search(query, k), nothing)

    def digests(self) -> dict[str, str]:
        """Digest of every entry of the live generation, by chunk id."""
        return self._read(lambda name: _read_digests(self._path / name), {})

    def count(self, where: Filter | None = None) -> int:
        """How many chunks of the live generation pass the filter."""
        if not where:
            return self._read(lambda name: _Manifest.read(self._path / name).info.count, 0)
        return self._read(lambda name: self._live(name).count(where), 0)

    @contextmanager
    def draft(self, *, embedder: str, sparse: str, dim: int, copy: bool) -> Iterator[_Draft]:
        """Begin a generation, as a copy of the live one or empty. Leaving the context unpublished discards it.

        Raises `IndexMismatch` when a copy is asked for and the live generation has other encoders or dimensions.
        """
        with _writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            _clear_drafts_of_dead_processes(self._path)
        # Not checked here: a broken pointer must not stand in the way of building anew.
        base = _read_pointer(self._path)
        folder = self._path / f"draft-{os.getpid()}-{secrets.token_hex(4)}"
        about = IndexInfo("", embedder, sparse, dim, 0, "", datetime.min.replace(tzinfo=UTC))
        try:
            if copy and base is not None:
                shard, digests = self._copy_live(folder, about)
            else:
                shard, digests = _create_shard(folder / "shard", dim), {}
            draft = _Draft(self._path, folder, shard, digests, about, base, self._hnsw_above)
            try:
                yield draft
            finally:
                draft.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _copy_live(self, folder: Path, about: IndexInfo) -> tuple[qe.EdgeShard, dict[str, str]]:
        live = self._path / str(self._pointer())
        info = _Manifest.read(live).info
        check_same_encoders(info, about)
        # A reader that opens the generation rewrites two small files of it, through such temporary folders.
        passing = shutil.ignore_patterns(".atomicwrite*")
        with _writing(self._path):
            shutil.copytree(live, folder, ignore=passing, copy_function=_copy_sparse)
        return _open_shard(folder / "shard", info.count, _config(about.dim)), _read_digests(folder)

    def _read(self, use: Callable[[str], _T], nothing: _T) -> _T:
        """Use the live generation by name; again if it was cleared in the meantime, as two publications can do."""
        while True:
            name = self._pointer()
            if name is None:
                return nothing
            try:
                return use(name)
            except StoreError as error:
                if isinstance(error, IndexMismatch) or self._pointer() == name:
                    raise

    def _live(self, name: str) -> _Generation:
        with self._lock:
            if self._opened is None or self._opened.manifest.info.generation != name:
                self._opened = self._load(name)
            return self._opened

    def _load(self, name: str) -> _Generation:
        folder = self._path / name
        manifest = _Manifest.read(folder)
        return _Generation(manifest, _open_shard(folder / "shard", manifest.info.count))

    def _pointer(self) -> str | None:
        name = _read_pointer(self._path)
        if name is not None and not _GENERATION.fullmatch(name):
            raise _broken(self._path, f"its file 'current' names {name[:80]!r}, which is no generation")
        return name


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What a generation says about itself; `hnsw_ef` is the beam width its graph was verified with."""

    info: IndexInfo
    hnsw_ef: int | None = None

    def write(self, folder: Path) -> None:
        data = {"layout": _LAYOUT, "hnsw_ef": self.hnsw_ef, **to_json(self.info)}
        (folder / "manifest.json").write_text(json.dumps(data, indent=2), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> _Manifest:
        try:
            data = json.loads((folder / "manifest.json").read_text("utf-8"))
            layout, hnsw_ef = data.pop("layout"), data.pop("hnsw_ef")
            if layout != _LAYOUT:
                raise ValueError(f"layout {layout}, where this version reads {_LAYOUT}")
            built_at, languages = datetime.fromisoformat(data.pop("built_at")), tuple(data.pop("languages"))
            return cls(IndexInfo(**data, built_at=built_at, languages=languages), hnsw_ef)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _broken(folder, f"its manifest: {error}") from error


class _Generation:
    """A published generation opened for reading.

    The shard is never closed by hand: a search of another thread may still run on it, and the last reference frees it.
    """

    def __init__(self, manifest: _Manifest, shard: qe.EdgeShard) -> None:
        self.manifest = manifest
        self._shard = shard

    def count(self, where: Filter) -> int:
        with _engine():
            return self._shard.count(qe.CountRequest(filter=_engine_filter(where), exact=True))

    def search(self, query: Query, k: int) -> dict[str, list[Hit]]:
        info = self.manifest.info
        searches: dict[str, qe.Query] = {}
        if query.vector is not None:
            check_dim(len(query.vector), info, "the question's vector")
            searches["dense"] = qe.Query.Nearest(query.vector.tolist(), using="dense")
        if query.sparse is not None and query.sparse.indices:
            searches["bm25"] = qe.Query.Nearest(_engine_sparse(query.sparse), using="bm25")
        if not searches or not info.count or k < 1:
            return {}
        where = _engine_filter(query.where)
        with _engine():
            found = self._shard.query_batch(
                qe.QueryBatchRequest([self._request(search, where, k + 1) for search in searches.values()])
            )
            return {
                method: [_hit(point, method) for point in self._best(points, search, where, k)]
                for (method, search), points in zip(searches.items(), found, strict=True)
            }

    def _request(
        self, search: qe.Query, where: qe.Filter | None, limit: int, *, payload: bool = True
    ) -> qe.QueryRequest:
        params = qe.SearchParams(hnsw_ef=self.manifest.hnsw_ef, exact=self.manifest.hnsw_ef is None)
        return qe.QueryRequest(limit=limit, query=search, filter=where, params=params, with_payload=payload)

    def _best(self, points: list[qe.ScoredPoint], search: qe.Query, where: qe.Filter | None, k: int) -> list[_Scored]:
        """The best `k`, equal scores by id. The engine cuts between equal scores anywhere, so look past such a cut."""
        limit, complete = k + 1, points
        while len(points) == limit and points[k - 1].score == points[-1].score:
            limit *= 4
            points = self._shard.query(self._request(search, where, limit, payload=False))
        best = sorted(points, key=lambda point: (-point.score, str(point.id)))[:k]
        if points is complete:
            return [_Scored(point.score, point.payload or {}) for point in best]
        records = self._shard.retrieve([point.id for point in best], with_payload=True, with_vector=False)
        payloads = {record.id: record.payload or {} for record in records}
        return [_Scored(point.score, payloads[point.id]) for point in best]


@dataclass(frozen=True, slots=True)
class _Scored:
    score: float
    payload: Mapping[str, Any]


class _Draft:
    """A generation being written in a private folder."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        shard: qe.EdgeShard,
        digests: dict[str, str],
        about: IndexInfo,
        base: str | None,
        hnsw_above: int,
    ) -> None:
        self._root = root
        self._folder = folder
        self._shard: qe.EdgeShard | None = shard
        self._digests = digests
        self._about = about
        self._base = base
        self._hnsw_above = hnsw_above

    def upsert(self, entries: Sequence[IndexEntry]) -> None:
        """Insert or replace entries by chunk id. Raises `IndexMismatch` for a vector of another dimension."""
        shard = self._writable
        for entry in entries:
            check_dim(len(entry.vector), self._about, f"the vector of chunk {entry.chunk.id}")
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            with _engine():
                shard.update(qe.UpdateOperation.upsert_points([_point(entry) for entry in batch]))
            self._digests.update((entry.chunk.id, entry.digest) for entry in batch)

    def delete(self, chunk_ids: Collection[str]) -> None:
        """Remove entries; ids that are not there do not matter."""
        shard = self._writable
        there = [chunk_id for chunk_id in chunk_ids if chunk_id in self._digests]
        with _engine():
            shard.update(qe.UpdateOperation.delete_points([entry_uuid(chunk_id) for chunk_id in there]))
        for chunk_id in there:
            del self._digests[chunk_id]

    def publish(self, *, digest: str) -> IndexInfo:
        """Make this generation the live one, atomically, and clear all others.

        Raises `StoreError` when another writer published since this draft began: its work would be lost.
        """
        shard = self._writable
        built_at = datetime.now(UTC)
        info = replace(
            self._about,
            generation=f"{built_at:%Y%m%dT%H%M%S.%f}",
            count=len(self._digests),
            digest=digest,
            built_at=built_at,
            languages=_languages(shard),
        )
        hnsw_ef = None
        if info.count > self._hnsw_above:
            self.close()
            hnsw_ef = _build_graph(self._folder / "shard", info.dim, sorted(self._digests))
        else:
            with _engine():
                shard.optimize()  # takes out deleted entries once they are a fifth of the shard
                shard.flush()
            self.close()
        info = replace(info, search="hnsw" if hnsw_ef else "exact")
        with _writing(self._root):
            _Manifest(info, hnsw_ef).write(self._folder)
            (self._folder / "digests.json").write_text(json.dumps(self._digests), "utf-8")
            _sync_tree(self._folder)
            self._flip(info.generation)
        return info

    def close(self) -> None:
        """Let go of the shard; the draft cannot be used afterwards."""
        if self._shard is not None:
            shard, self._shard = self._shard, None
            with _engine():
                shard.close()

    @property
    def _writable(self) -> qe.EdgeShard:
        assert self._shard is not None, "this draft was published or discarded"  # noqa: S101
        return self._shard

    def _flip(self, generation: str) -> None:
        live = _read_pointer(self._root)
        if live != self._base:
            raise StoreError(
                f"another process published generation {live} of the index at {self._root} while this one was being "
                "written from an older one; run the command again"
            )
        self._folder.rename(self._root / generation)
        pointer = self._root / f"draft-{os.getpid()}-current"
        pointer.write_text(generation + "\n", "ascii")
        _sync(pointer)
        pointer.replace(self._root / "current")
        _sync(self._root)
        _clear_generations(self._root, live=generation)


# --- what the engine is told ----------------------------------------------------------------------------------------


def _create_shard(path: Path, dim: int) -> qe.EdgeShard:
    with _writing(path):
        path.mkdir(parents=True)
    with _engine():
        shard = qe.EdgeShard.create(str(path), _config(dim))
        for field, schema in _FILTERED.items():
            shard.update(qe.UpdateOperation.create_field_index(field, schema))
        return shard


def _config(dim: int, *, graph: bool = False) -> qe.EdgeConfig:
    # Without the log any number of processes may open a shard and building is several times faster. What it would
    # protect, unflushed writes to a shard in use, does not exist here. The thresholds are kilobytes of vectors in a
    # segment; 0 means never.
    return qe.EdgeConfig(
        vectors={"dense": qe.EdgeVectorParams(size=dim, distance=qe.Distance.Cosine)},
        sparse_vectors={"bm25": qe.EdgeSparseVectorParams(modifier=qe.Modifier.Idf)},
        hnsw_config=qe.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
        optimizers=qe.EdgeOptimizersConfig(indexing_threshold=10_000 if graph else 0, default_segment_number=1),
        wal_enabled=False,
    )


def _open_shard(path: Path, count: int, config: qe.EdgeConfig | None = None) -> qe.EdgeShard:
    """Raises `StoreError` unless the shard holds `count` entries: with files missing the engine opens what is left."""
    with _engine():
        shard = qe.EdgeShard.load(str(path), config)
        there = shard.info().points_count
    if there != count:
        raise _broken(path, f"{there} entries are there, of {count}")
    return shard


def _point(entry: IndexEntry) -> qe.Point:
    return qe.Point(
        id=entry_uuid(entry.chunk.id),
        vector={"dense": entry.vector.tolist(), "bm25": _engine_sparse(entry.sparse)},
        payload={"chunk": to_json(entry.chunk), "document": to_json(entry.document)},
    )


def _engine_sparse(vector: SparseVector) -> qe.SparseVector:
    return qe.SparseVector(list(vector.indices), list(vector.values))


def _engine_filter(where: Filter) -> qe.Filter | None:
    must: list[Any] = [
        qe.FieldCondition(key=field, match=qe.MatchAny(values)) for field, values in allowed_values(where).items()
    ]
    if where.since is not None or where.until is not None:
        dates = qe.RangeDateTime(gte=_utc(where.since), lt=_utc(where.until))
        must.append(qe.FieldCondition(key="document.published_at", range=dates))
    return qe.Filter(must=must) if must else None


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _hit(point: _Scored, method: str) -> Hit:
    # Rounding in the engine can carry a cosine a hair past 1.
    score = max(-1.0, min(1.0, point.score)) if method == "dense" else point.score
    chunk, document = chunk_from_json(point.payload["chunk"]), header_from_json(point.payload["document"])
    return Hit(chunk, document, score, (method,))


def _languages(shard: qe.EdgeShard) -> tuple[str, ...]:
    with _engine():
        found = shard.facet(qe.FacetRequest(key="document.language", limit=1000, exact=True))
    return tuple(sorted(str(hit.value) for hit in found.hits))


@contextmanager
def _engine() -> Iterator[None]:
    """The engine raises bare `Exception`, or panics over a damaged file, which Python sees as a `BaseException`."""
    try:
        yield
    except StoreError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise StoreError(f"the search engine failed: {error}; {REBUILD}") from error


# --- the graph ------------------------------------------------------------------------------------------------------


def _build_graph(path: Path, dim: int, chunk_ids: Sequence[str]) -> int | None:
    """Index the shard's vectors; the narrowest beam that finds `_RECALL` of the true neighbours, None if none does."""
    shard = _open_shard(path, len(chunk_ids), _config(dim, graph=True))
    with _engine():
        try:
            shard.optimize()
            shard.flush()
            questions = _questions_near(shard, chunk_ids)
            truth = _neighbours(shard, questions, qe.SearchParams(exact=True))
            for ef in _BEAMS:
                found = _neighbours(shard, questions, qe.SearchParams(hnsw_ef=ef))
                if sum(len(a & b) for a, b in zip(truth, found, strict=True)) >= _RECALL * sum(map(len, truth)):
                    return ef
            return None
        finally:
            shard.close()


def _questions_near(shard: qe.EdgeShard, chunk_ids: Sequence[str]) -> list[list[float]]:
    """Vectors about as far from a stored one as a question is from its passage: a stored one would find itself."""
    sample = random.Random(0).sample(chunk_ids, min(len(chunk_ids), _SAMPLE))  # noqa: S311 – not a secret
    records = shard.retrieve([entry_uuid(chunk_id) for chunk_id in sample], with_payload=False, with_vector=["dense"])
    stored = np.array([record.vector["dense"] for record in records if isinstance(record.vector, dict)])
    noise = np.random.default_rng(0).normal(size=stored.shape) / np.sqrt(stored.shape[1])
    questions: list[list[float]] = (stored + noise).tolist()
    return questions


def _neighbours(shard: qe.EdgeShard, questions: list[list[float]], params: qe.SearchParams) -> list[set[qe.PointId]]:
    return [
        {
            point.id
            for point in shard.query(qe.QueryRequest(10, query=qe.Query.Nearest(question, "dense"), params=params))
        }
        for question in questions
    ]


# --- files ------------------------------------------------------------------------------------------------------------


def _broken(path: Path, what: str) -> StoreError:
    return StoreError(f"the index at {path} cannot be read: {what}; {REBUILD}")


def _read_pointer(root: Path) -> str | None:
    try:
        return (root / "current").read_text("utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _broken(root, f"its file 'current': {error}") from error


def _read_digests(folder: Path) -> dict[str, str]:
    try:
        digests: dict[str, str] = json.loads((folder / "digests.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(folder, f"its digests: {error}") from error
    return digests


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"the index at {path} cannot be written: {error}; the one before stays in use") from error


def _copy_sparse(source: str, target: str) -> None:
    """Copy a file with its holes: the engine's files are mostly holes, and filled they take up to 60 times the disk.

    A file that is gone again was a passing one of a reader that opens the generation just now; were it another, opening
    the copy would fail.
    """
    try:
        opened = Path(source).open("rb")  # noqa: SIM115  # closed by the block below
    except FileNotFoundError:
        return
    with opened as old, Path(target).open("wb") as new:
        size, end = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        with suppress(OSError):  # ENXIO: no data after this point
            while end < size:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
                end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
                old.seek(start)
                new.seek(start)
                while (at := old.tell()) < end:
                    new.write(old.read(min(end - at, 1 << 20)))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _clear_generations(root: Path, *, live: str) -> None:
    """All but the live one, so that what an author deleted is gone from the disk.

    A reader that has one open goes on reading: its files live until it lets go of them.
    """
    for folder in root.iterdir():
        if _GENERATION.fullmatch(folder.name) and folder.name != live:
            _remove(folder)


def _clear_drafts_of_dead_processes(root: Path) -> None:
    for path in root.iterdir():
        match = _DRAFT.match(path.name)
        if path.name.startswith(_GONE) or (match and not is_running(int(match[1]))):
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a folder that readers may have open. Its name goes first, so that nobody opens half of it.

    A reader that writes its metadata at this moment can keep the folder alive; the next draft clears what is left.
    """
    with suppress(OSError):
        path = path.rename(path.with_name(f"{_GONE}{secrets.token_hex(4)}"))
    shutil.rmtree(path, ignore_errors=True)
