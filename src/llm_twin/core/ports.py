"""Every seam of the system on one page: what a stage may ask of a part it did not write.

Any object of the right shape fits. Parts are chosen by name in `catalog.py`, built in `twin.py`, and handed to the
stages as arguments. Vendors' exceptions never cross a port: adapters raise errors of `core/errors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llm_twin.core.pipeline import RunReport, Step
from llm_twin.core.records import (
    Change,
    Chunk,
    Concern,
    Delta,
    Document,
    DocumentFeatures,
    Embedding,
    Filter,
    Hit,
    IndexEntry,
    IndexInfo,
    Item,
    ItemState,
    Message,
    ModelFiles,
    ModelFormat,
    PersonalSpan,
    Query,
    Redaction,
    Rendered,
    ReplyRequest,
    Run,
    Span,
    SparseVector,
    VoiceProfile,
)

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.core.errors import ModelError
    from llm_twin.core.vectors import Matrix, PackedTokens


# --- collect --------------------------------------------------------------------------------------------------------


class Source(Protocol):
    """A place where an author publishes. `name` is its address as configured and identifies it between runs."""

    name: str

    def list(self) -> Iterator[Item | ItemState]:
        """What exists now: an `Item` to fetch, or an `ItemState` for what is skipped or failed already here.

        Raises `SourceError` when the listing is impossible or stays incomplete: then nothing counts as removed. A
        source that is a window onto the latest (a feed) raises `PartialListing` at its end, which is no problem.
        """
        ...

    def fetch(self, item: Item) -> Document:
        """The document behind an item. Raises `ItemError` with a reason when there is none."""
        ...


@runtime_checkable
class Window(Protocol):
    """A source that shows its latest items only, and can look at one that it does not list any more."""

    def revisit(self, document: Document) -> Document:
        """The document (with its id) as its own page shows it now; the same one where that cannot be told.

        Raises `ItemError`: with `gone` when the page answers that there is nothing; any other says nothing.
        """
        ...


class Browser(Protocol):
    """A real browser, for pages that scripts build. It starts with the first page and is kept for those that follow."""

    def render(
        self, url: str, *, scroll: bool = False, wait_for: str | None = None, timeout_s: float | None = None
    ) -> Rendered:
        """The page at an address after its scripts ran, without scripts and without what lies over it.

        `wait_for` is a CSS selector that must match before the page is read; with `scroll` the page is scrolled until
        nothing new comes. `timeout_s` bounds all of that (default: as configured).

        Raises `ItemError` when there is no page, `SourceError` when the browser does not start.
        """
        ...

    def close(self) -> None:
        """End the browser; the next page would start it again."""
        ...


# --- stores ---------------------------------------------------------------------------------------------------------


class DocumentStore(Protocol):
    """The document warehouse: what was collected, and how every item of every source ended."""

    def save(self, states: Sequence[tuple[ItemState, Document | None]]) -> None:
        """Record item states and, with them, new or changed documents; all or nothing.

        A state with outcome `removed` removes the item, and its document (with features) once no item refers to it.
        """
        ...

    def items(self, source: str | None = None) -> Iterator[ItemState]:
        """The latest state of every item still present, ordered by source and key."""
        ...

    def documents(self, ids: Collection[str] | None = None) -> Iterator[Document]:
        """Documents as collected, ordered by id; all of them without `ids`."""
        ...

    def document_hashes(self) -> dict[str, str]:
        """Content hash of every document, by document id."""
        ...


class ChangeLog(Protocol):
    """What happened to documents, in order: each save appends what it added, updated or removed, as part of itself.

    The log only grows. It names documents by their ids and holds no word of them; a removal is how those who follow
    the log learn that a copy of theirs must go, so it stays when a document is forgotten.
    """

    def changes(self, *, after: int = 0, limit: int = 1000) -> list[Change]:
        """Up to `limit` changes with a greater number than `after`, in order.

        Nobody who goes on after the last one seen can miss any: a change becomes visible after all with lower numbers.
        """
        ...


class FeatureStore(Protocol):
    """What the features pipeline made of each document."""

    def save_features(self, features: Sequence[DocumentFeatures]) -> None:
        """Replace the features of these documents; all or nothing."""
        ...

    def features(self, ids: Collection[str] | None = None) -> Iterator[DocumentFeatures]:
        """Features ordered by document id; all of them without `ids`."""
        ...

    def feature_fingerprints(self) -> dict[str, str]:
        """Fingerprint of the features of every document, by document id."""
        ...


class EmbeddingStore(Protocol):
    """Computed embeddings by key, so that no text is ever embedded twice. A key covers the embedder and the text."""

    def save_embeddings(self, embeddings: Mapping[str, Embedding]) -> None:
        """Keep embeddings durably, replacing equal keys."""
        ...

    def embeddings(self, keys: Collection[str]) -> dict[str, Embedding]:
        """Those that are there; a missing key is simply absent."""
        ...

    def tokens(self, keys: Collection[str]) -> dict[str, PackedTokens]:
        """Packed token vectors alone, for re-ranking; a missing key is simply absent."""
        ...

    def embedding_keys(self) -> set[str]:
        """Every key that is kept."""
        ...

    def forget_embeddings(self, keys: Collection[str]) -> None:
        """Delete these keys."""
        ...


class RunLog(Protocol):
    """Runs with their reports and lineage, newest first."""

    def save_run(self, run: Run) -> None:
        """Insert or replace the run of that id."""
        ...

    def runs(self, *, limit: int = 20) -> list[Run]:
        """The latest runs."""
        ...


class ProfileStore(Protocol):
    """Measured voice profiles by author."""

    def save_profile(self, profile: VoiceProfile) -> None:
        """Replace the profile of that author."""
        ...

    def profiles(self) -> dict[str, VoiceProfile]:
        """Every profile, by author."""
        ...

    def forget_profiles(self, authors: Collection[str]) -> None:
        """Delete the profiles of these authors; names that are not there do not matter."""
        ...


class RecordStore(Protocol):
    """Small records of the service by collection and id: feedback, conversations, batches, keys. Data is plain JSON."""

    def put(self, collection: str, record_id: str, data: Mapping[str, Any]) -> None:
        """Insert or replace a record, durably.

        Raises `StoreError` for what is no plain JSON, or more than 8 MiB of it.
        """
        ...

    def record(self, collection: str, record_id: str) -> dict[str, Any] | None:
        """The data of a record, None when it is not there."""
        ...

    def records(
        self, collection: str, *, limit: int | None = None, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """Ids and data, newest first by the time of first insertion; `before` continues after the record of that id.

        Raises `NotFound` when there is no record `before` any more.
        """
        ...

    def drop(self, collection: str, record_ids: Collection[str]) -> None:
        """Delete records; ids that are not there do not matter."""
        ...


class Warehouse(DocumentStore, ChangeLog, FeatureStore, EmbeddingStore, RunLog, ProfileStore, RecordStore, Protocol):
    """All durable records of a workspace in one database. Safe for several processes at once."""

    def scrub(self) -> None:
        """Overwrite what was deleted before wherever this process can: in files of the workspace, not on a server.

        Raises `StoreError` when another process keeps it from that.
        """
        ...

    def close(self) -> None:
        """Release connections; using the warehouse afterwards is a mistake."""
        ...


class TraceStore(Protocol):
    """Finished spans."""

    def save_spans(self, spans: Sequence[Span]) -> None:
        """Keep finished spans."""
        ...

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace in the order they started; empty when there is none. A unique prefix is enough."""
        ...

    def traces(self, *, limit: int = 20) -> list[Span]:
        """The root spans of the latest traces, newest first."""
        ...

    def close(self) -> None:
        """Release connections; using the store afterwards is a mistake."""
        ...


# --- the vector index -----------------------------------------------------------------------------------------------


class VectorIndex(Protocol):
    """Generations of an index. Readers always see the live one; a draft becomes live all at once or not at all."""

    def info(self) -> IndexInfo | None:
        """The live generation, or None when nothing was ever published."""
        ...

    def search(self, query: Query, *, k: int) -> dict[str, list[Hit]]:
        """The best `k` chunks per method, best first: `dense` by cosine, `bm25` by BM25; both under `query.where`.

        One call to the engine. A method whose encoding is None in the query is absent from the result.
        """
        ...

    def digests(self) -> dict[str, str]:
        """Digest of every entry of the live generation, by chunk id."""
        ...

    def count(self, where: Filter | None = None) -> int:
        """How many chunks of the live generation pass the filter."""
        ...

    def draft(self, *, embedder: str, sparse: str, dim: int, copy: bool) -> AbstractContextManager[IndexDraft]:
        """Begin a generation, as a copy of the live one or empty. Leaving the context unpublished discards it."""
        ...


class IndexDraft(Protocol):
    """A generation being written; nobody reads it before `publish`."""

    def upsert(self, entries: Sequence[IndexEntry]) -> None:
        """Insert or replace entries by chunk id."""
        ...

    def delete(self, chunk_ids: Collection[str]) -> None:
        """Remove entries; ids that are not there do not matter."""
        ...

    def publish(self, *, digest: str) -> IndexInfo:
        """Make this generation the live one, atomically; older ones are cleared once no reader needs them."""
        ...


# --- models ---------------------------------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """Counts text as a model will. `window` is the most tokens a text may have before the model cuts it."""

    window: int

    def count(self, text: str) -> int:
        """Tokens of the text alone, without the special ones."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token, in order."""
        ...


class Embedder(Protocol):
    """Texts to unit vectors. `name` identifies model, revision and precision; vectors of other names do not compare."""

    name: str
    dim: int

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts texts as this model does."""
        ...

    def embed(self, texts: Sequence[str], *, tokens: bool = False) -> list[Embedding]:
        """Embed documents or queries, in order; with packed token vectors when asked."""
        ...

    def embed_tokens(self, text: str) -> Matrix:
        """Token vectors of a query in full precision, shape (tokens, dim), for late interaction."""
        ...


class SparseEncoder(Protocol):
    """Texts to weighted terms for BM25. `name` identifies analysis and weighting."""

    name: str

    def encode(self, text: str, *, language: str | None = None) -> SparseVector:
        """A document's terms with saturated term frequencies; the index supplies the inverse document frequency."""
        ...

    def encode_query(self, text: str, *, languages: Sequence[str] = ()) -> SparseVector:
        """A question's terms, analysed in each of the languages the index holds."""
        ...


class Reranker(Protocol):
    """Orders candidates by a closer look. `name` goes into `Hit.found_by`."""

    name: str

    def scores(self, question: str, hits: Sequence[Hit]) -> list[float]:
        """One relevance score per hit, higher is better, comparable within one call only."""
        ...


class LanguageModel(Protocol):
    """Anything that continues a conversation. `name` is recorded in every answer."""

    name: str

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Iterator[Delta]:
        """The reply piece by piece. With `schema` the server is asked for JSON of that shape (validate it anyway).

        Raises `ModelError` when no complete reply can be had, also in mid-stream. Closing the iterator cancels.
        """
        ...


class LlmEngine(Protocol):
    """A program that serves a language model by OpenAI's protocol; ready when the path `health` answers 200."""

    name: str
    formats: tuple[ModelFormat, ...]
    health: str

    def missing(self) -> str:
        """What to do before it can run here; empty when it can."""
        ...

    def command(
        self, model: ModelFiles, *, host: str, port: int, api_key: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        """The command line, and what it needs in the environment: there the key stands, where `ps` does not show it."""
        ...


class ReplyWriter(Protocol):
    """A language model in this process that writes many replies at once. `context` is its window in tokens."""

    name: str
    context: int

    def write(self, request: ReplyRequest, deliver: Callable[[Delta | ModelError], None]) -> Callable[[], None]:
        """Begin a reply and return what cancels it. `deliver` gets its pieces, from another thread and never blocked.

        The last piece carries `usage` and `finish_reason` (`stop` or `length`); after an error nothing comes. Raises
        `ReplyRefused` for a request that cannot be served, `ModelBusy` when too many wait.
        """
        ...

    def alive(self) -> bool:
        """Whether it can write still."""
        ...

    def close(self) -> None:
        """Break off every reply and release the model."""
        ...


class ModelHub(Protocol):
    """Where models are published."""

    def latest(self, repository: str) -> str:
        """The newest revision. Raises `ModelMissing` when there is no such repository, `ModelError` without a reply."""
        ...

    def pull(self, repository: str, revision: str, folder: Path, *, file: str = "", progress: Progress) -> None:
        """Download what an engine needs of a repository, or one `file` of it, and check it.

        What is there already is not downloaded again, and what broke off goes on where it stopped. Raises
        `ModelMissing` when there is no such thing, `ModelError` when it did not arrive whole.
        """
        ...


class Guard(Protocol):
    """Looks at a question, a passage or an answer. `name` is its setting in `[guard]`, and stands in what it finds."""

    name: str

    def look(self, text: str) -> Sequence[Concern]:
        """What is wrong with the text; nothing in nearly every case. Never raises for any text."""
        ...


# --- watching -------------------------------------------------------------------------------------------------------


@runtime_checkable
class ActiveSpan(Protocol):
    """A span that is still open."""

    trace_id: str

    def set(self, **attributes: str | int | float | bool) -> None:
        """Attach facts about the step: sizes, counts, names. Never secrets."""
        ...


class Tracer(Protocol):
    """Opens spans; a span opened inside another becomes its child."""

    def span(self, name: str, **attributes: str | int | float | bool) -> AbstractContextManager[ActiveSpan]:
        """Time a step. An exception that leaves the block is recorded in the span and passes through."""
        ...


class Progress(Protocol):
    """Tells a person how far a long step is."""

    def step(self, name: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a step; call the result with the number of items just done."""
        ...


class Runner(Protocol):
    """Executes steps over a stream: here, on several cores, or on a cluster."""

    def run(self, steps: Sequence[Step], items: Iterable[Any], report: RunReport) -> Iterator[Any]:
        """Yield what comes out of the last step and keep the account in `report`."""
        ...


# --- features that differ by algorithm ------------------------------------------------------------------------------


class Chunker(Protocol):
    """Cuts a document into chunks that fit an embedder's window, headings included.

    `fingerprint` is equal for two chunkers that cut alike: it covers algorithm, parameters and tokenizer.
    """

    @property
    def fingerprint(self) -> str:
        """Changes when the chunks may."""
        ...

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order, `document.text[c.start:c.end] == c.text` for each."""
        ...


class PersonalFinder(Protocol):
    """Finds personal data of chosen kinds in a text."""

    fingerprint: str

    def find(self, text: str) -> Sequence[PersonalSpan]:
        """Where it stands; spans may overlap."""
        ...


class Redactor(Protocol):
    """Takes secrets (and, by choice, personal data) out of a document before it is stored."""

    fingerprint: str

    def redact(self, document: Document) -> tuple[Document, list[Redaction]]:
        """The document without them, and what was taken out; the same document when there was nothing."""
        ...
