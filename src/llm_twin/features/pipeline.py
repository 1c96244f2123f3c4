"""Documents → features → a published index generation.

    refresh    clean, judge and cut the documents that changed, or whose steps changed
    select     leave out near-duplicates of documents and of chunks
    embed      embed what was never embedded by this embedder
    profile    measure each author's voice
    publish    bring a copy of the live generation to the selected state, then flip

Every stage of it compares what should be with what is, and does the difference. So an unchanged workspace costs one
comparison, a killed run is completed by the next one, and nothing is ever done to what readers are reading: an answer
takes the words of a chunk from the generation that found it. The features of a document may be ahead of that generation
until the next one is published; the answer then says that it quotes an earlier version.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from llm_twin.core.errors import StoreError
from llm_twin.core.pipeline import Dropped, RunReport, Step
from llm_twin.core.ports import (
    Chunker,
    Embedder,
    Progress,
    Runner,
    SparseEncoder,
    Tracer,
    VectorIndex,
    Warehouse,
)
from llm_twin.core.records import (
    Chunk,
    Document,
    DocumentFeatures,
    DocumentHeader,
    IndexEntry,
    IndexInfo,
    embedding_key,
    embedding_text,
    fingerprint,
    to_json,
)
from llm_twin.features import clean, dedupe, quality
from llm_twin.features.chunk import chunk_document
from llm_twin.features.embed import embed_missing
from llm_twin.features.voice import voice_profile

BATCH = 64
"""Documents saved at once: what a kill may cost."""

INDEX_BATCH = 512
"""Entries handed to the index at once: bounds the memory of a large first sync."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of this stage."""

    warehouse: Warehouse
    index: VectorIndex
    embedder: Embedder
    sparse: SparseEncoder
    chunker: Chunker
    runner: Runner
    tracer: Tracer
    progress: Progress
    duplicate_similarity: float


@dataclass(slots=True)
class FeaturesReport:
    """What a run did. `left_out` names documents that are not in the index and why; None when nothing was looked at."""

    index: IndexInfo
    processed: int = 0
    embedded: int = 0
    left_out: list[Dropped] | None = None
    account: RunReport = field(default_factory=RunReport)


@dataclass(frozen=True, slots=True)
class _Selected:
    """A chunk that belongs in the index."""

    chunk: Chunk
    document: DocumentHeader
    key: str

    def digest(self, sparse: str) -> str:
        return fingerprint(self.key, sparse, to_json(self.chunk), to_json(self.document))[:32]


def build(parts: Parts, *, rebuild: bool = False) -> FeaturesReport:
    """Bring features and index up to the warehouse. `rebuild` makes a new generation from nothing but the store."""
    live = None if rebuild else parts.index.info()
    if live is not None and live.digest == _state(parts):
        return FeaturesReport(index=live)
    account = RunReport()
    with parts.tracer.span("features.refresh") as span:
        processed = _refresh(parts, account)
        span.set(documents=processed)
    with parts.tracer.span("features.select") as span:
        selected, left_out = _select(parts, account)
        span.set(chunks=len(selected), documents_left_out=len(left_out))
    with parts.tracer.span("features.embed", embedder=parts.embedder.name) as span:
        texts = {entry.key: embedding_text(entry.chunk) for entry in selected}
        with parts.progress.step("embed", len(texts.keys() - parts.warehouse.embedding_keys())) as done:
            embedded = embed_missing(texts, store=parts.warehouse, embedder=parts.embedder, done=done)
        span.set(chunks=embedded)
    with parts.tracer.span("features.profile"):
        _profile(parts)
    with parts.tracer.span("features.publish") as span:
        info = _publish(parts, selected, live=live, state=_state(parts))
        span.set(chunks=info.count, generation=info.generation)
    parts.warehouse.forget_embeddings(parts.warehouse.embedding_keys() - texts.keys())
    return FeaturesReport(info, processed, embedded, left_out, account)


def _state(parts: Parts) -> str:
    """Covers everything the index is made from: equal states make equal generations.

    The features are part of it: those of a run that was killed may be of documents that have changed back since.
    """
    return fingerprint(
        sorted(parts.warehouse.document_hashes().items()),
        sorted(parts.warehouse.feature_fingerprints().items()),
        [step.fingerprint for step in _steps({})],
        parts.chunker.fingerprint,
        dedupe.VERSION,
        parts.duplicate_similarity,
        parts.embedder.name,
        parts.sparse.name,
    )[:32]


def _steps(boilerplate: Mapping[str, frozenset[str]]) -> list[Step]:
    return [clean.cleaning(boilerplate), quality.gate()]


def _refresh(parts: Parts, account: RunReport) -> int:
    """Process every document whose features are missing or were made by other steps; returns how many."""
    warehouse = parts.warehouse
    boilerplate = clean.boilerplate_lines(warehouse.documents())
    steps = _steps(boilerplate)
    known = warehouse.feature_fingerprints()
    prints = {
        document.id: fingerprint(
            document.content_hash,
            sorted(clean.relevant(document, boilerplate)),
            [step.fingerprint for step in _steps({})],
            parts.chunker.fingerprint,
            dedupe.VERSION,
        )
        for document in warehouse.documents()
    }
    stale = sorted(document for document, mark in prints.items() if known.get(document) != mark)
    if not stale:
        return 0
    with parts.progress.step("chunk", len(stale)) as done:
        for start in range(0, len(stale), BATCH):
            documents = list(warehouse.documents(stale[start : start + BATCH]))
            warehouse.save_features(list(_process(parts, steps, documents, prints, account)))
            done(len(documents))
    return len(stale)


def _process(
    parts: Parts, steps: list[Step], documents: list[Document], prints: Mapping[str, str], account: RunReport
) -> Iterator[DocumentFeatures]:
    """Features of every document: chunks for those the gate lets through, the reason for those it does not."""
    before = len(account.dropped)
    kept = parts.runner.run([*steps, Step("chunk", _chunking(parts.chunker, prints))], documents, account)
    yield from kept
    originals = {document.id: document for document in documents}
    for drop in account.dropped[before:]:
        yield DocumentFeatures(originals[drop.item], prints[drop.item], dropped=drop.reason)


def _chunking(
    chunker: Chunker, prints: Mapping[str, str]
) -> Callable[[Iterable[Document]], Iterator[DocumentFeatures | Dropped]]:
    def apply(documents: Iterable[Document]) -> Iterator[DocumentFeatures | Dropped]:
        for document in documents:
            chunks = chunk_document(document, chunker)
            signatures = (dedupe.signature(document.text), *(dedupe.signature(chunk.text) for chunk in chunks))
            yield DocumentFeatures(document, prints[document.id], chunks, signatures=signatures)

    return apply


def _select(parts: Parts, account: RunReport) -> tuple[list[_Selected], list[Dropped]]:
    """Every chunk that belongs in the index, and the documents that do not with their reasons."""
    features = {features.document.id: features for features in parts.warehouse.features()}
    left_out = [Dropped(name, each.dropped) for name, each in features.items() if each.dropped is not None]
    kept = [each for each in features.values() if each.dropped is None]

    documents = dedupe.documents(kept, similarity=parts.duplicate_similarity)
    report = account.step("near_duplicate_documents")
    report.taken, report.given = len(kept), len(documents.kept)
    also_at: dict[str, set[str]] = {}
    for name, leader in documents.dropped.items():
        title = features[leader].document.title
        drop = Dropped(name, f"near_duplicate of {title!r} ({leader})")
        left_out.append(drop)
        account.dropped.append(drop)
        report.dropped["near_duplicate"] += 1
        copy = features[name].document
        also_at.setdefault(leader, set()).update({copy.url or "", *copy.also_at} - {features[leader].document.url, ""})

    kept = [each for each in kept if each.document.id in documents.kept]
    chunks = dedupe.chunks(kept)
    report = account.step("near_duplicate_chunks")
    report.taken, report.given = sum(len(each.chunks) for each in kept), len(chunks.kept)
    if chunks.dropped:
        report.dropped["near_duplicate"] = len(chunks.dropped)

    embedder = parts.embedder.name
    selected = [
        _Selected(chunk, header, embedding_key(embedder, embedding_text(chunk)))
        for each in kept
        for header in [_with_places(each.document.header, also_at.get(each.document.id, set()))]
        for chunk in each.chunks
        if chunk.id in chunks.kept
    ]
    return selected, sorted(left_out, key=lambda drop: drop.item)


def copies(parts: Parts, document_ids: Collection[str]) -> list[DocumentHeader]:
    """The documents that say the same as these and are none of them, under other addresses or from other platforms."""
    judged = [each for each in parts.warehouse.features() if each.dropped is None]
    found = dedupe.documents(judged, similarity=parts.duplicate_similarity)
    meant = {found.dropped.get(name, name) for name in document_ids}
    headers = (each.document.header for each in judged if each.document.id not in document_ids)
    return [header for header in headers if found.dropped.get(header.id, header.id) in meant]


def _with_places(header: DocumentHeader, also_at: set[str]) -> DocumentHeader:
    """The header with every other address at which the same document was published."""
    return replace(header, also_at=tuple(sorted({*header.also_at, *also_at}))) if also_at else header


def _profile(parts: Parts) -> None:
    """Measure the voice of every author from what is kept of their writing; without any left, no profile stays."""
    by_author: dict[str, list[Document]] = {}
    for features in parts.warehouse.features():
        if features.dropped is None:
            by_author.setdefault(features.document.author, []).append(features.document)
    for author, documents in by_author.items():
        parts.warehouse.save_profile(voice_profile(author, documents))
    parts.warehouse.forget_profiles(parts.warehouse.profiles().keys() - by_author.keys())


def _publish(parts: Parts, selected: list[_Selected], *, live: IndexInfo | None, state: str) -> IndexInfo:
    """Make the index hold exactly what was selected, by the smallest edit where the live one can be edited."""
    embedder, sparse = parts.embedder, parts.sparse
    editable = live is not None and (live.embedder, live.sparse) == (embedder.name, sparse.name)
    there = parts.index.digests() if editable else {}
    wanted = {entry.chunk.id: entry.digest(sparse.name) for entry in selected}
    changed = [entry for entry in selected if there.get(entry.chunk.id) != wanted[entry.chunk.id]]
    with (
        parts.index.draft(embedder=embedder.name, sparse=sparse.name, dim=embedder.dim, copy=editable) as draft,
        parts.progress.step("index", len(changed)) as done,
    ):
        draft.delete(there.keys() - wanted.keys())
        for start in range(0, len(changed), INDEX_BATCH):
            batch = changed[start : start + INDEX_BATCH]
            stored = parts.warehouse.embeddings({entry.key for entry in batch})
            draft.upsert(
                [
                    IndexEntry(
                        entry.chunk,
                        entry.document,
                        stored[entry.key].vector,
                        sparse.encode(embedding_text(entry.chunk), language=entry.document.language),
                        wanted[entry.chunk.id],
                    )
                    for entry in batch
                ]
            )
            done(len(batch))
        info = draft.publish(digest=state)
    if info.count != len(wanted):
        raise StoreError(
            f"the index holds {info.count} chunks after publishing, {len(wanted)} were selected; run: "
            f"twin sync --rebuild, and report this if it comes back"
        )
    return info
