"""The vector index on a Qdrant server or cluster: a generation is a collection, the live one stands behind an alias.

Needs Qdrant 1.16 or newer, which keeps a collection's metadata: a generation's manifest is stored there.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar, cast

from llm_twin.core.errors import IndexMismatch, MissingExtra, StoreError
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

try:
    from qdrant_client import QdrantClient, models
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
except ImportError as error:
    raise MissingExtra("a Qdrant server as index", "qdrant", "qdrant-client") from error

_T = TypeVar("_T")

_BATCH = 256
_ABANDONED_AFTER = timedelta(days=1)

_FILTERED = {
    "document.author": models.PayloadSchemaType.KEYWORD,
    "document.source": models.PayloadSchemaType.KEYWORD,
    "document.kind": models.PayloadSchemaType.KEYWORD,
    "document.language": models.PayloadSchemaType.KEYWORD,
    "document.id": models.PayloadSchemaType.KEYWORD,
    "document.published_at": models.PayloadSchemaType.DATETIME,
}


class QdrantIndex:
    """`VectorIndex` on the server at `url`; `collection` is the alias of the live generation.

    Generations are the collections `<collection>-<generation>`. With `exact` nearest neighbours are scanned for instead
    of looked up in the server's HNSW graph. `client` replaces the connection, for a client with options of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        collection: str = "llm-twin",
        client: QdrantClient | None = None,
        exact: bool = False,
    ) -> None:
        self._keeps_client = client is not None
        self._client = client or QdrantClient(url=url, api_key=api_key, check_compatibility=False)
        self._server = _Server(url, self._client)
        self._alias = collection
        self._method: Literal["exact", "hnsw"] = "exact" if exact else "hnsw"

    def info(self) -> IndexInfo | None:
        """The live generation, or None when nothing was ever published."""
        return self._read(self._info_of, None)

    def search(self, query: Query, *, k: int) -> dict[str, list[Hit]]:
        """The best `k` chunks per method, best first; equal scores in the order of chunk ids.

        Raises `IndexMismatch` when the query's vector has another dimension than the index.
        """
        encoded: dict[str, Any] = {}
        if query.vector is not None:
            encoded["dense"] = query.vector.tolist()
        if query.sparse is not None:
            encoded["bm25"] = _server_sparse(query.sparse)
        nothing: dict[str, list[Hit]] = {method: [] for method in encoded}
        if query.sparse is not None and not query.sparse.indices:  # a question of stop words alone has no terms
            del encoded["bm25"]
        if not encoded or k < 1:
            return nothing
        try:
            # One call is enough as long as all is well; what is wrong is looked up afterwards.
            return nothing | self._best(self._alias, encoded, query.where, k)
        except StoreError:
            return nothing | self._read(lambda live: self._search(live, query, encoded, k), nothing)

    def _search(self, live: str, query: Query, encoded: Mapping[str, Any], k: int) -> dict[str, list[Hit]]:
        if query.vector is not None:
            check_dim(len(query.vector), self._info_of(live), "the question's vector")
        return self._best(live, encoded, query.where, k)

    def _best(self, collection: str, encoded: Mapping[str, Any], where: Filter, k: int) -> dict[str, list[Hit]]:
        """The best `k` per method, equal scores by id; all out of one answer, thus out of one generation.

        The server cuts between equal scores anywhere, so look past such a cut.
        """
        limit, passing = k + 1, _server_filter(where)
        while True:
            requests = [self._request(asked, method, passing, limit) for method, asked in encoded.items()]
            found = [response.points for response in self._server.query(collection, requests)]
            if not any(len(points) == limit and points[k - 1].score == points[-1].score for points in found):
                break
            limit *= 4
        return {
            method: [_hit(point, method) for point in sorted(points, key=lambda each: (-each.score, str(each.id)))[:k]]
            for method, points in zip(encoded, found, strict=True)
        }

    def digests(self) -> dict[str, str]:
        """Digest of every entry of the live generation, by chunk id."""
        return self._read(self._digests_of, {})

    def count(self, where: Filter | None = None) -> int:
        """How many chunks of the live generation pass the filter."""
        return self._read(lambda live: self._server.count(live, where), 0)

    def close(self) -> None:
        """Close the connection, unless a `client` was handed in; using the index afterwards is a mistake."""
        if not self._keeps_client:
            self._client.close()

    @contextmanager
    def draft(self, *, embedder: str, sparse: str, dim: int, copy: bool) -> Iterator[_Draft]:
        """Begin a generation, as a copy of the live one or empty. Leaving the context unpublished discards it.

        Raises `IndexMismatch` when a copy is asked for and the live generation has other encoders or dimensions.
        """
        self._clear_abandoned_drafts()
        base = self._server.collection_behind(self._alias)
        started_at = datetime.now(UTC)
        about = IndexInfo(
            f"{started_at:%Y%m%dT%H%M%S.%f}", embedder, sparse, dim, 0, "", started_at, search=self._method
        )
        if copy and base is not None:
            check_same_encoders(self._info_of(base), about)
        draft = _Draft(self._server, self._alias, about, base)
        try:
            draft.create(copied_from=base if copy else None)
            yield draft
        finally:
            if not draft.published:
                self._server.drop(draft.collection)
        if draft.published:
            self._clear_generations(live=draft.collection)

    def _read(self, use: Callable[[str], _T], nothing: _T) -> _T:
        """Use the live generation by name; again if it was cleared in the meantime."""
        while True:
            live = self._server.collection_behind(self._alias)
            if live is None:
                return nothing
            try:
                return use(live)
            except StoreError as error:
                if isinstance(error, IndexMismatch) or self._server.collection_behind(self._alias) == live:
                    raise

    def _digests_of(self, collection: str) -> dict[str, str]:
        records = self._server.scroll(collection, payload=["chunk.id", "digest"], vectors=False)
        return {_payload(record)["chunk"]["id"]: _payload(record)["digest"] for record in records}

    def _info_of(self, collection: str) -> IndexInfo:
        info = _info_from(self._server.metadata(collection), collection)
        return replace(info, search=self._method)

    def _request(self, query: Any, using: str, where: models.Filter | None, limit: int) -> models.QueryRequest:
        params = models.SearchParams(exact=self._method == "exact")
        return models.QueryRequest(
            query=query, using=using, filter=where, params=params, limit=limit, with_payload=["chunk", "document"]
        )

    def _generations(self) -> list[str]:
        named = re.compile(re.escape(self._alias) + r"-\d{8}T\d{6}\.\d{6}")
        collections = self._server.call(lambda client: client.get_collections()).collections
        return [collection.name for collection in collections if named.fullmatch(collection.name)]

    def _clear_generations(self, *, live: str) -> None:
        """All but the live one, so that what an author deleted is gone from the server."""
        for collection in self._generations():
            if collection != live and "draft" not in self._server.metadata(collection):
                self._server.drop(collection)

    def _clear_abandoned_drafts(self) -> None:
        """Drafts of dead processes of this host, and those of other hosts that are older than a day."""
        for collection in self._generations():
            writer = self._server.metadata(collection).get("draft")
            if writer and _abandoned(writer):
                self._server.drop(collection)


class _Draft:
    """A generation being written in a collection that no alias names."""

    def __init__(self, server: _Server, alias: str, about: IndexInfo, base: str | None) -> None:
        self.collection = f"{alias}-{about.generation}"
        self.published = False
        self._server = server
        self._alias = alias
        self._about = about
        self._base = base

    def create(self, *, copied_from: str | None) -> None:
        writer = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._about.built_at.isoformat()}
        self._server.call(
            lambda client: client.create_collection(
                self.collection,
                vectors_config={"dense": models.VectorParams(size=self._about.dim, distance=models.Distance.COSINE)},
                sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
                metadata={"draft": writer},
            )
        )
        for field, schema in _FILTERED.items():
            self._server.index_payload(self.collection, field, schema)
        if copied_from is not None:
            self._copy(copied_from)

    def _copy(self, collection: str) -> None:
        batch: list[models.PointStruct] = []
        for record in self._server.scroll(collection, payload=True, vectors=True):
            vector = cast("models.VectorStruct", record.vector)
            batch.append(models.PointStruct(id=record.id, vector=vector, payload=record.payload))
            if len(batch) == _BATCH:
                self._put(batch)
                batch = []
        self._put(batch)

    def upsert(self, entries: Sequence[IndexEntry]) -> None:
        """Insert or replace entries by chunk id. Raises `IndexMismatch` for a vector of another dimension."""
        for entry in entries:
            check_dim(len(entry.vector), self._about, f"the vector of chunk {entry.chunk.id}")
        for start in range(0, len(entries), _BATCH):
            self._put([_point(entry) for entry in entries[start : start + _BATCH]])

    def delete(self, chunk_ids: Collection[str]) -> None:
        """Remove entries; ids that are not there do not matter."""
        if chunk_ids:
            points = models.PointIdsList(points=[str(entry_uuid(chunk_id)) for chunk_id in chunk_ids])
            self._server.call(lambda client: client.delete(self.collection, points, wait=True))

    def publish(self, *, digest: str) -> IndexInfo:
        """Make this generation the live one, atomically; the others are cleared when the draft's context ends.

        Raises `StoreError` when another writer published since this draft began: its work would be lost.
        """
        info = replace(
            self._about,
            count=self._server.count(self.collection, None),
            digest=digest,
            built_at=datetime.now(UTC),
            languages=self._server.values(self.collection, "document.language"),
        )
        live = self._server.collection_behind(self._alias)
        if live != self._base:
            raise StoreError(
                f"another process published {live} on the Qdrant server at {self._server.url} while this generation "
                "was being written from an older one; run the command again"
            )
        # The manifest takes the place of the writer's mark: a null removes a key.
        self._server.call(
            lambda client: client.update_collection(self.collection, metadata={"draft": None, "index": to_json(info)})
        )
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self._alias))
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=self.collection, alias_name=self._alias)
        )
        self._server.call(lambda client: client.update_collection_aliases([delete, create]))
        self.published = True
        return info

    def _put(self, points: list[models.PointStruct]) -> None:
        if points:
            self._server.call(lambda client: client.upsert(self.collection, points, wait=True))


class _Server:
    """The connection, with the vendor's errors turned into ours."""

    def __init__(self, url: str, client: QdrantClient) -> None:
        self.url = url
        self._client = client

    def call(self, use: Callable[[QdrantClient], _T]) -> _T:
        try:
            return use(self._client)
        except ResponseHandlingException as error:
            raise StoreError(
                f"the Qdrant server at {self.url} cannot be reached: {error}; start it, or correct index.url"
            ) from error
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise StoreError(
                    f"the Qdrant server at {self.url} refuses the API key (status {error.status_code}); "
                    "put one that may write into the variable named by index.api_key_env"
                ) from error
            raise self._failed(error) from error
        except (ApiException, ValueError, RuntimeError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        said = " ".join(str(error).split())  # the client writes paragraphs
        return StoreError(f"the Qdrant server at {self.url} failed: {said}; see its log, or {REBUILD}")

    def collection_behind(self, alias: str) -> str | None:
        aliases = self.call(lambda client: client.get_aliases()).aliases
        return next((known.collection_name for known in aliases if known.alias_name == alias), None)

    def scroll(self, collection: str, *, payload: bool | list[str], vectors: bool) -> Iterator[models.Record]:
        offset: Any = None
        while True:
            records, offset = self._page(collection, offset, payload=payload, vectors=vectors)
            yield from records
            if offset is None:
                return

    def _page(
        self, collection: str, offset: Any, *, payload: bool | list[str], vectors: bool
    ) -> tuple[list[models.Record], Any]:
        return self.call(
            lambda client: client.scroll(
                collection, limit=_BATCH, offset=offset, with_payload=payload, with_vectors=vectors
            )
        )

    def query(self, collection: str, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        return self.call(lambda client: client.query_batch_points(collection, requests))

    def drop(self, collection: str) -> None:
        self.call(lambda client: client.delete_collection(collection))

    def count(self, collection: str, where: Filter | None) -> int:
        passing = _server_filter(where) if where else None
        return self.call(lambda client: client.count(collection, count_filter=passing, exact=True)).count

    def values(self, collection: str, field: str) -> tuple[str, ...]:
        found = self.call(lambda client: client.facet(collection, field, limit=1000, exact=True))
        return tuple(sorted(str(hit.value) for hit in found.hits))

    def metadata(self, collection: str) -> Mapping[str, Any]:
        return self.call(lambda client: client.get_collection(collection)).config.metadata or {}

    def index_payload(self, collection: str, field: str, schema: models.PayloadSchemaType) -> None:
        with warnings.catch_warnings():  # a client without a server warns that it does not need this
            warnings.simplefilter("ignore", UserWarning)
            self.call(lambda client: client.create_payload_index(collection, field, schema, wait=True))


# --- what the server is told ----------------------------------------------------------------------------------------


def _point(entry: IndexEntry) -> models.PointStruct:
    return models.PointStruct(
        id=str(entry_uuid(entry.chunk.id)),
        vector={"dense": entry.vector.tolist(), "bm25": _server_sparse(entry.sparse)},
        payload={"chunk": to_json(entry.chunk), "document": to_json(entry.document), "digest": entry.digest},
    )


def _server_sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _server_filter(where: Filter) -> models.Filter | None:
    must: list[models.Condition] = [
        models.FieldCondition(key=field, match=models.MatchAny(any=values))
        for field, values in allowed_values(where).items()
    ]
    if where.since is not None or where.until is not None:
        dates = models.DatetimeRange(gte=where.since, lt=where.until)
        must.append(models.FieldCondition(key="document.published_at", range=dates))
    return models.Filter(must=must) if must else None


def _hit(point: models.ScoredPoint, method: str) -> Hit:
    # Rounding in the engine can carry a cosine a hair past 1.
    score = max(-1.0, min(1.0, point.score)) if method == "dense" else point.score
    payload = _payload(point)
    return Hit(chunk_from_json(payload["chunk"]), header_from_json(payload["document"]), score, (method,))


def _payload(point: models.ScoredPoint | models.Record) -> Mapping[str, Any]:
    return point.payload or {}


def _info_from(metadata: Mapping[str, Any], collection: str) -> IndexInfo:
    try:
        data = metadata["index"]
        return IndexInfo(
            **{
                **data,
                "built_at": datetime.fromisoformat(data["built_at"]),
                "languages": tuple(data["languages"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"the collection {collection} does not say how it was made ({error!r}); "
            f"see that the server is Qdrant 1.16 or newer, then {REBUILD}"
        ) from error


# --- drafts that were left --------------------------------------------------------------------------------------------


def _abandoned(writer: Mapping[str, Any]) -> bool:
    if writer["host"] == socket.gethostname():
        return not is_running(int(writer["pid"]))
    return datetime.now(UTC) - datetime.fromisoformat(writer["since"]) > _ABANDONED_AFTER
