"""Stores that live in this process and end with it: for tests, and for programs that use a stage without a workspace.

They keep every promise of the ports (tests/contracts holds them to the suite of the real stores) except durability.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from llm_twin.core.errors import NotFound, StoreError
from llm_twin.core.records import (
    Change,
    Document,
    DocumentFeatures,
    Embedding,
    ItemState,
    Run,
    Span,
    VoiceProfile,
    changed_by,
    check_fit,
    json_text,
    no_such_record,
    record_text,
)

if TYPE_CHECKING:
    from llm_twin.core.vectors import PackedTokens

T = TypeVar("T")


class MemoryWarehouse:
    """The `Warehouse` port on dictionaries; safe for threads, gone with the process.

    A document lives as long as an item refers to it: an item whose new state names another document lets go of the one
    before, and a state without a document id (a failed fetch) keeps it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: dict[tuple[str, str], ItemState] = {}
        self._documents: dict[str, Document] = {}
        self._changes: list[Change] = []
        self._features: dict[str, DocumentFeatures] = {}
        self._embeddings: dict[str, Embedding] = {}
        self._runs: dict[str, Run] = {}
        self._profiles: dict[str, VoiceProfile] = {}
        self._records: dict[str, dict[str, str]] = {}

    def save(self, states: Sequence[tuple[ItemState, Document | None]]) -> None:
        """See `DocumentStore.save`. Raises `StoreError` when a state and its document contradict each other."""
        for state, document in states:
            check_fit(state, document)
        with self._lock:
            before = {each.id: (each.content_hash, each.source) for each in self._documents.values()}
            let_go: set[str | None] = set()
            for state, document in states:
                let_go |= self._save_one(state, document)
            gone = {str(each) for each in let_go - {item.document_id for item in self._items.values()} - {None}}
            for document_id in gone:
                self._documents.pop(document_id, None)
                self._features.pop(document_id, None)
            written = {document.id: document for _, document in states if document is not None}
            for document_id, (outcome, source) in changed_by(before, written.values(), gone).items():
                number = len(self._changes) + 1
                self._changes.append(Change(number, datetime.now(UTC), outcome, document_id, source))

    def _save_one(self, state: ItemState, document: Document | None) -> set[str | None]:
        """Apply one state and return the documents its item does not refer to any more."""
        before = self._items.pop((state.source, state.key), None)
        known = before.document_id if before else None
        if state.outcome == "removed":
            return {known, state.document_id}
        named = state.document_id or (document.id if document else known)
        self._items[state.source, state.key] = replace(state, document_id=named)
        if document is not None:
            self._documents[document.id] = document
        return {known} - {named}

    def items(self, source: str | None = None) -> Iterator[ItemState]:
        """See `DocumentStore.items`."""
        with self._lock:
            found = sorted((key, item) for key, item in self._items.items() if source in (None, key[0]))
        yield from (item for _, item in found)

    def documents(self, ids: Collection[str] | None = None) -> Iterator[Document]:
        """See `DocumentStore.documents`."""
        yield from self._in_order(self._documents, ids)

    def document_hashes(self) -> dict[str, str]:
        """See `DocumentStore.document_hashes`."""
        with self._lock:
            return {document.id: document.content_hash for document in self._documents.values()}

    def changes(self, *, after: int = 0, limit: int = 1000) -> list[Change]:
        """See `ChangeLog.changes`."""
        with self._lock:
            return self._changes[max(0, after) :][: max(0, limit)]

    def save_features(self, features: Sequence[DocumentFeatures]) -> None:
        """See `FeatureStore.save_features`. Raises `StoreError` for a document that is not there."""
        with self._lock:
            missing = sorted({made.document.id for made in features} - self._documents.keys())
            if missing:
                raise StoreError(
                    f"features of a document that is not in the warehouse: {missing[0]!r}; save the document first"
                )
            self._features.update((made.document.id, made) for made in features)

    def features(self, ids: Collection[str] | None = None) -> Iterator[DocumentFeatures]:
        """See `FeatureStore.features`."""
        yield from self._in_order(self._features, ids)

    def feature_fingerprints(self) -> dict[str, str]:
        """See `FeatureStore.feature_fingerprints`."""
        with self._lock:
            return {document_id: made.fingerprint for document_id, made in self._features.items()}

    def save_embeddings(self, embeddings: Mapping[str, Embedding]) -> None:
        """See `EmbeddingStore.save_embeddings`."""
        with self._lock:
            self._embeddings.update(embeddings)

    def embeddings(self, keys: Collection[str]) -> dict[str, Embedding]:
        """See `EmbeddingStore.embeddings`."""
        with self._lock:
            return {key: self._embeddings[key] for key in keys if key in self._embeddings}

    def tokens(self, keys: Collection[str]) -> dict[str, PackedTokens]:
        """See `EmbeddingStore.tokens`."""
        return {key: found.tokens for key, found in self.embeddings(keys).items() if found.tokens is not None}

    def embedding_keys(self) -> set[str]:
        """See `EmbeddingStore.embedding_keys`."""
        with self._lock:
            return set(self._embeddings)

    def forget_embeddings(self, keys: Collection[str]) -> None:
        """See `EmbeddingStore.forget_embeddings`."""
        with self._lock:
            for key in keys:
                self._embeddings.pop(key, None)

    def save_run(self, run: Run) -> None:
        """See `RunLog.save_run`. What is not JSON in its mappings becomes JSON, as in a database."""
        parts = {name: _plain(getattr(run, name)) for name in ("settings", "inputs", "outputs", "report")}
        with self._lock:
            self._runs[run.id] = replace(run, **parts)

    def runs(self, *, limit: int = 20) -> list[Run]:
        """See `RunLog.runs`."""
        with self._lock:
            return sorted(self._runs.values(), key=lambda run: (run.started_at, run.id), reverse=True)[:limit]

    def save_profile(self, profile: VoiceProfile) -> None:
        """See `ProfileStore.save_profile`."""
        kept = replace(profile, measures=dict(profile.measures), function_words=dict(profile.function_words))
        with self._lock:
            self._profiles[profile.author] = kept

    def profiles(self) -> dict[str, VoiceProfile]:
        """See `ProfileStore.profiles`."""
        with self._lock:
            return dict(self._profiles)

    def forget_profiles(self, authors: Collection[str]) -> None:
        """See `ProfileStore.forget_profiles`."""
        with self._lock:
            for author in authors:
                self._profiles.pop(author, None)

    def put(self, collection: str, record_id: str, data: Mapping[str, Any]) -> None:
        """See `RecordStore.put`."""
        text = record_text(collection, record_id, data)
        with self._lock:
            self._records.setdefault(collection, {})[record_id] = text

    def record(self, collection: str, record_id: str) -> dict[str, Any] | None:
        """See `RecordStore.record`."""
        with self._lock:
            text = self._records.get(collection, {}).get(record_id)
        return None if text is None else json.loads(text)

    def records(
        self, collection: str, *, limit: int | None = None, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """See `RecordStore.records`."""
        with self._lock:
            newest = list(reversed(self._records.get(collection, {}).items()))
        if before is not None:
            ids = [record_id for record_id, _ in newest]
            if before not in ids:
                raise no_such_record(collection, before)
            newest = newest[ids.index(before) + 1 :]
        chosen = newest if limit is None else newest[: max(0, limit)]
        return [(record_id, json.loads(text)) for record_id, text in chosen]

    def drop(self, collection: str, record_ids: Collection[str]) -> None:
        """See `RecordStore.drop`."""
        with self._lock:
            for record_id in record_ids:
                self._records.get(collection, {}).pop(record_id, None)

    def scrub(self) -> None:
        """Nothing to overwrite: it was never written anywhere."""

    def close(self) -> None:
        """Nothing to release."""

    def _in_order(self, table: Mapping[str, T], ids: Collection[str] | None) -> Iterator[T]:
        with self._lock:
            wanted = table.keys() if ids is None else table.keys() & set(ids)
            found = [table[key] for key in sorted(wanted)]
        yield from found


class MemoryTraces:
    """The `TraceStore` port on a dictionary; safe for threads, gone with the process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._spans: dict[tuple[str, str], Span] = {}

    def save_spans(self, spans: Sequence[Span]) -> None:
        """See `TraceStore.save_spans`."""
        with self._lock:
            for span in spans:
                self._spans[span.trace_id, span.span_id] = replace(span, attributes=_plain(span.attributes))

    def trace(self, trace_id: str) -> list[Span]:
        """See `TraceStore.trace`. Raises `NotFound` when the prefix fits several traces."""
        with self._lock:
            spans = sorted(self._spans.values(), key=lambda span: span.started_at)
        fitting = {span.trace_id for span in spans if span.trace_id.startswith(trace_id)}
        if trace_id not in fitting and len(fitting) > 1:
            raise NotFound(f"several traces begin with {trace_id!r}; give more characters of the id")
        wanted = trace_id if trace_id in fitting else next(iter(fitting), None)
        return [span for span in spans if span.trace_id == wanted]

    def traces(self, *, limit: int = 20) -> list[Span]:
        """See `TraceStore.traces`."""
        with self._lock:
            roots = [span for span in self._spans.values() if span.parent_id is None]
        return sorted(roots, key=lambda span: (span.started_at, span.trace_id), reverse=True)[:limit]

    def close(self) -> None:
        """Nothing to release."""


def _plain(value: Any) -> Any:
    return json.loads(json_text(value))
