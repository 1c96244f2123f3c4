"""The records that flow between stages: plain, frozen, slotted, and ignorant of any store.

`Document` is what an author published, `Chunk` a piece of it, `Hit` a chunk that was found, `Passage` what is shown to
a reader or a model, `Citation` a quote with its place, `Answer` what comes back. Text offsets count Unicode code
points. Times are timezone-aware and in UTC.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llm_twin.core.errors import NotFound, StoreError

if TYPE_CHECKING:
    from llm_twin.core.vectors import PackedTokens, Vector

Kind = Literal["article", "post", "repository", "note"]
Outcome = Literal["added", "updated", "unchanged", "removed", "skipped", "failed"]
Mode = Literal["generated", "extractive", "abstained"]
GuardStage = Literal["question", "passage", "answer"]
GuardAction = Literal["blocked", "removed", "flagged"]


# --- what an author published ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Author:
    """A person whose writing is collected. `aliases` are other spellings found in their documents or in questions."""

    name: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentHeader:
    """What is known of a document besides its text; travels with every chunk into the index."""

    id: str
    author: str
    source: str
    kind: Kind
    title: str
    url: str | None = None
    language: str | None = None
    published_at: datetime | None = None
    tags: tuple[str, ...] = ()
    also_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """Something an author published, whole.

    `text` is Markdown with the author's characters untouched. `source` names the platform (`files`, `medium` …),
    `language` is an ISO 639-1 code or None when nobody could tell. `content_hash` covers everything a reader can see.
    """

    id: str
    author: str
    source: str
    kind: Kind
    title: str
    text: str
    content_hash: str
    fetched_at: datetime
    url: str | None = None
    language: str | None = None
    published_at: datetime | None = None
    tags: tuple[str, ...] = ()
    also_at: tuple[str, ...] = ()

    @property
    def header(self) -> DocumentHeader:
        """The document without its text."""
        return DocumentHeader(**{f.name: getattr(self, f.name) for f in dataclasses.fields(DocumentHeader)})


def document_id(author: str, source: str, locator: str) -> str:
    """A stable id from who wrote it, where it was published and its canonical URL (or path when it has none)."""
    return fingerprint(author, source, locator)[:16]


def content_hash(title: str, text: str, *visible: object) -> str:
    """Changes exactly when something a reader can see changes."""
    return fingerprint(title, text, *visible)


def fingerprint(*parts: object) -> str:
    """SHA-256 over the parts in order, as hex; parts cannot run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        piece = repr(part).encode("utf-8", "surrogatepass")
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


# --- collecting -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """Something a source lists. `key` is a path or URL; `version` differs whenever the content may have changed."""

    key: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ItemState:
    """How an item of a source ended the last time it was looked at: one row of the coverage report.

    `tries` counts failures in a row. A failed item is not looked at again before `next_try`, unless it changed.
    """

    source: str
    key: str
    outcome: Outcome
    reason: str = ""
    version: str | None = None
    document_id: str | None = None
    tries: int = 0
    seen_at: datetime | None = None
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page as a browser shows it after its scripts ran: HTML, where it stands after redirects, and the HTTP status.

    `status` is 0 where the browser does not tell it.
    """

    html: str
    url: str
    status: int


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the change log: what a save did to a document of a platform (`source`), and when.

    `outcome` is `added`, `updated` or `removed`. `sequence` rises from change to change and is never used twice.
    """

    sequence: int
    at: datetime
    outcome: Outcome
    document_id: str
    source: str


def changed_by(
    before: Mapping[str, tuple[str, str]], written: Iterable[Document], gone: Collection[str]
) -> dict[str, tuple[Outcome, str]]:
    """What a save did: outcome and source by document id, in the order of the change log, removals first.

    `before` holds content hash and source of those documents that were there. A document that is written again as it
    was is no change, and neither is one that comes and goes within one save.
    """
    changes: dict[str, tuple[Outcome, str]] = {
        each: ("removed", before[each][1]) for each in sorted(gone & before.keys())
    }
    for document in written:
        known = before.get(document.id)
        if document.id not in gone and (known is None or known[0] != document.content_hash):
            changes[document.id] = ("updated" if known else "added", document.source)
    return changes


def check_fit(state: ItemState, document: Document | None) -> None:
    """Refuse a state and a document that contradict each other: deleted text could come back by such a pair."""
    if document is None:
        return
    if state.outcome == "removed":
        raise StoreError(
            f"item {state.key!r} of {state.source!r} is removed but carries a document; save it without one"
        )
    if state.document_id not in (None, document.id):
        raise StoreError(
            f"item {state.key!r} of {state.source!r} names document {state.document_id!r} but carries {document.id!r}; "
            "make them the same"
        )


@dataclass(frozen=True, slots=True)
class Redaction:
    """Something taken out of a document before it was stored: what kind, and where it stood; never what it was."""

    kind: str
    line: int


@dataclass(frozen=True, slots=True)
class PersonalSpan:
    """Where personal data of a kind (`email`, `phone`, …) stands: `text[start:end]`."""

    kind: str
    start: int
    end: int


# --- features -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document that fits the embedder's window.

    `text == document.text[start:end]` of the cleaned document. `heading_path` leads from the document's title to the
    innermost heading; it is embedded with the text and not stored in it.
    """

    id: str
    document_id: str
    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    token_count: int = 0


def chunk_id(document_id: str, text: str, occurrence: int = 0) -> str:
    """A stable id (128 bits, hex) from document and content; `occurrence` tells repeats in one document apart."""
    return fingerprint(document_id, text, occurrence)[:32]


def embedding_text(chunk: Chunk) -> str:
    """What is embedded for a chunk: its heading path on one line, then its text."""
    return f"{' > '.join(chunk.heading_path)}\n\n{chunk.text}" if chunk.heading_path else chunk.text


def embedding_key(embedder_name: str, text: str) -> str:
    """Where the embedding of a text is kept (128 bits, hex): equal texts under equal embedders share one."""
    return fingerprint(embedder_name, text)[:32]


@dataclass(frozen=True, slots=True)
class DocumentFeatures:
    """What the features pipeline made of one document; offsets of chunks stand in `document.text`, the cleaned text.

    `dropped` is the reason for which the quality gate refused it (then there are no chunks). `fingerprint` covers the
    content and every step that led here, `signatures` are MinHash sketches: the document's first, then its chunks'.
    """

    document: Document
    fingerprint: str
    chunks: tuple[Chunk, ...] = ()
    dropped: str | None = None
    signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as one unit vector, and as packed token vectors where late interaction is used."""

    vector: Vector
    tokens: PackedTokens | None = None


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Term ids and weights of a text for lexical search; `indices` are distinct unsigned 32-bit integers."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One chunk as the vector index stores it. `digest` changes when anything a reader could see of it changes."""

    chunk: Chunk
    document: DocumentHeader
    vector: Vector
    sparse: SparseVector
    digest: str


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index generation was made from and how it searches.

    `embedder` and `sparse` name the encoders (model, revision, precision); `digest` covers all entries, so that two
    generations with the same digest answer alike. `search` says whether nearest neighbours are exact.
    """

    generation: str
    embedder: str
    sparse: str
    dim: int
    count: int
    digest: str
    built_at: datetime
    languages: tuple[str, ...] = ()
    search: Literal["exact", "hnsw"] = "exact"


# --- finding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents may be found. An empty tuple or None does not restrict; `until` is exclusive."""

    authors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    document_ids: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return self != Filter()

    def matches(self, document: DocumentHeader) -> bool:
        """Whether a document passes; one without a date never passes a date bound."""
        dated = self.since is not None or self.until is not None
        return (
            (not self.authors or document.author in self.authors)
            and (not self.sources or document.source in self.sources)
            and (not self.kinds or document.kind in self.kinds)
            and (not self.languages or document.language in self.languages)
            and (not self.document_ids or document.id in self.document_ids)
            and (not dated or (document.published_at is not None and self._in_range(document.published_at)))
        )

    def _in_range(self, moment: datetime) -> bool:
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


@dataclass(frozen=True, slots=True)
class Query:
    """One search: the text as asked, its encodings, and the filter it runs under."""

    text: str
    vector: Vector | None = None
    sparse: SparseVector | None = None
    where: Filter = Filter()


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. `found_by` names the methods that found it (`dense`, `bm25`, `maxsim` …)."""

    chunk: Chunk
    document: DocumentHeader
    score: float
    found_by: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The documented shape of a hit in `twin search --json`."""
        return {
            "document_id": self.document.id,
            "title": self.document.title,
            "url": self.document.url,
            "published_at": to_json(self.document.published_at),
            "text": self.chunk.text,
            "start": self.chunk.start,
            "end": self.chunk.end,
            "score": self.score,
            "found_by": list(self.found_by),
        }


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of one document offered as evidence: one hit, or neighbouring hits merged. `number` is cited as [n].

    `outdated`: its words stand in the index and no more in the document, which has changed since it was indexed.
    """

    number: int
    document: DocumentHeader
    text: str
    start: int
    end: int
    score: float
    heading_path: tuple[str, ...] = ()
    chunk_ids: tuple[str, ...] = ()
    outdated: bool = False

    def cite(self, start: int, end: int, *, number: int | None = None) -> Citation:
        """A citation of `text[start:end]`, as `number` or under the passage's own."""
        return Citation(
            number=self.number if number is None else number,
            document_id=self.document.id,
            title=self.document.title,
            quote=self.text[start:end],
            start=self.start + start,
            end=self.start + end,
            url=self.document.url,
            published_at=self.document.published_at,
            heading_path=self.heading_path,
            outdated=self.outdated,
        )


@dataclass(frozen=True, slots=True)
class Citation:
    """A verbatim quote: `quote == document.text[start:end]` of the cleaned document as it was when it was cited.

    Where it is `outdated`, the document had already been replaced by a later version, which does not say this.
    """

    number: int
    document_id: str
    title: str
    quote: str
    start: int
    end: int
    url: str | None = None
    published_at: datetime | None = None
    heading_path: tuple[str, ...] = ()
    outdated: bool = False


# --- talking to a model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens a model read and wrote, as the model's own server counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed reply. The last one carries `usage` and `finish_reason` where the server tells them."""

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What a model in this process is asked to write. `max_tokens` None means as many as the context has room for.

    Temperature 0 takes the likeliest token each time; a `seed` makes sampling repeatable; `stop` are texts that end a
    reply and are no part of it; with `schema` the reply is JSON of that JSON Schema.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None


ModelFormat = Literal["gguf", "huggingface", "openvino"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A language model on this machine: `path` is a GGUF file, or a folder as Hugging Face or OpenVINO lay it out."""

    name: str
    path: str
    format: ModelFormat
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Concern:
    """What a guard sees in a text: why in plain words, never the text itself, and where, if one can point at it.

    `sure` is enough to block; anything else is only flagged.
    """

    reason: str
    sure: bool = True
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class GuardFinding:
    """What a guard found at a stage of an answer, and what was done about it; `document_id` is that of a passage.

    `blocked`: the question was not answered, or the answer not shown. `removed`: the model never saw that part.
    """

    guard: str
    action: GuardAction
    stage: GuardStage
    reason: str
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back for a question or a topic.

    `citations` are numbered as in `text`; `unsupported` lists sentences of `text` that no cited passage supports.
    `notes` tell the reader in plain words what was degraded and why. `prompt` is the content hash of the prompts used.
    `read_as` is a follow-up question in the form that stands alone, where it differs from what was typed. `cached` says
    how a repeated question was recognised whose earlier answer this is. `guarded` tells what guards found and did.
    """

    text: str
    mode: Mode
    citations: tuple[Citation, ...] = ()
    passages: tuple[Passage, ...] = ()
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str | None = None
    prompt: str | None = None
    usage: Usage = Usage()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    trace_id: str = ""
    read_as: str | None = None
    cached: Literal["exact", "meaning"] | None = None
    guarded: tuple[GuardFinding, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether a guard blocked the question or the answer."""
        return any(finding.action == "blocked" for finding in self.guarded)

    @property
    def document_ids(self) -> tuple[str, ...]:
        """The documents it quotes, cites or was shown, in that order and each once."""
        cited = (citation.document_id for citation in self.citations)
        return tuple(dict.fromkeys((*cited, *(passage.document.id for passage in self.passages))))


# --- what was said about it -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question (or the topic of a draft) and what came back, as it is kept in a conversation of one user.

    `generation` is the digest of the index that answered, "" where nothing was indexed yet.
    """

    id: str
    conversation_id: str
    question: str
    answer: Answer
    created_at: datetime
    where: Filter = Filter()
    user: str = "local"
    generation: str = ""
    kind: Literal["ask", "write"] = "ask"


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a reader thinks of an answer, with everything that led to it, so that it outlives the conversation.

    `edit` is what the author would have said instead. `history` is what the model had been told of the conversation.
    """

    id: str
    exchange: Exchange
    created_at: datetime
    rating: Literal["up", "down"] | None = None
    reason: str = ""
    edit: str = ""
    history: tuple[Message, ...] = ()
    user: str = "local"


# --- an answer as it happens ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Understood:
    """The question was taken apart: what is searched for, under which filter, and in plain words why."""

    text: str
    where: Filter = Filter()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passages:
    """The evidence was found; `passages` are numbered as the text will cite them."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Everything streamed so far is void, for the reason given; another text follows."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The whole answer. It comes last, exactly once, and holds even where it differs from the pieces.

    `exchange` is how it was kept in a conversation, None where nothing is kept.
    """

    answer: Answer
    exchange: Exchange | None = None

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `twin ask --json`."""
        kept = self.exchange
        return {
            **to_json(self.answer),
            "exchange_id": kept.id if kept else None,
            "conversation_id": kept.conversation_id if kept else None,
        }


Event = Understood | Passages | TextDelta | Withdrawn | Done


# --- the author's style ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VoiceProfile:
    """An author's measured style. `measures` are named rates (see core/stylometry.py), `function_words` are per 1,000
    words, `openers` the words sentences most often start with, `phrases` turns the author repeats across documents."""

    author: str
    documents: int
    words: int
    measures: Mapping[str, float]
    function_words: Mapping[str, float]
    openers: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


# --- what happened --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """One timed step of a trace."""

    trace_id: str
    span_id: str
    name: str
    started_at: datetime
    duration_ms: float
    parent_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a pipeline and its lineage: which inputs, code and settings made which outputs."""

    id: str
    pipeline: str
    started_at: datetime
    finished_at: datetime | None = None
    status: Literal["running", "done", "failed", "interrupted"] = "running"
    code_version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


# --- records as JSON ------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """A record as plain JSON data: dataclasses become objects, tuples lists, times ISO 8601 strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value


def json_text(value: Any) -> str:
    """What `to_json` makes of a value, as the text of a JSON document; `json.loads` is the inverse.

    Raises `StoreError` for what JSON has no form for: other objects, infinite numbers, nesting without end.
    """
    try:
        return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            f"a value cannot be kept as JSON: {error}; use text, finite numbers, lists and objects"
        ) from error


RECORD_BYTES = 8 * 2**20
"""The most JSON that a record of a `RecordStore` holds, so that every database takes it in one piece."""


def record_text(collection: str, record_id: str, data: Mapping[str, Any]) -> str:
    """The data of a record as every `RecordStore` keeps it. Raises `StoreError` for what it would refuse."""
    text = json_text(data)
    if (size := len(text.encode("utf-8", "surrogatepass"))) > RECORD_BYTES:
        raise StoreError(
            f"record {record_id!r} of {collection!r} has {size:,} bytes of JSON, {RECORD_BYTES:,} are the most; keep "
            "less in one record"
        )
    return text


def no_such_record(collection: str, record_id: str) -> NotFound:
    """Why a list of records cannot be continued."""
    return NotFound(f"no record {record_id!r} in {collection!r} to continue after; list again from the newest")


R = TypeVar("R")


def from_json(kind: type[R], data: Mapping[str, Any]) -> R:
    """The inverse of `to_json` for a record; fields it does not know are left out, missing ones take their defaults.

    So what another version wrote can be read. Raises `StoreError` for data that is no such record.
    """
    try:
        record: R = _decoded(kind, data)
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"stored data is no {kind.__name__}: {error}; it was written by something else") from error
    return record


def _decoded(kind: Any, value: Any) -> Any:
    """A value of an annotated type from its JSON."""
    if value is None:
        return None
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _decoded(next(each for each in inner if each is not NoneType), value)
    if origin is tuple:
        return tuple(_decoded(inner[0], item) for item in value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        known = _annotations(kind)
        return kind(**{name: _decoded(known[name], item) for name, item in value.items() if name in known})
    return datetime.fromisoformat(value) if kind is datetime else value


@cache
def _annotations(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def header_from_json(data: Mapping[str, Any]) -> DocumentHeader:
    """The inverse of `to_json` for a document's header."""
    published_at = data.get("published_at")
    return DocumentHeader(
        **{
            **data,
            "published_at": datetime.fromisoformat(published_at) if published_at else None,
            "tags": tuple(data.get("tags") or ()),
            "also_at": tuple(data.get("also_at") or ()),
        }
    )


def chunk_from_json(data: Mapping[str, Any]) -> Chunk:
    """The inverse of `to_json` for a chunk."""
    return Chunk(**{**data, "heading_path": tuple(data.get("heading_path") or ())})
