"""What clients send, checked by pydantic, and what they get, for the description at /openapi.json.

Replies are records of `core/records.py` as JSON; where a reply holds more than one record, its shape stands here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from llm_twin.core.records import Answer, DocumentHeader, Filter, IndexInfo, ItemState, Run, VoiceProfile
from llm_twin.twin import Held, RecentVoice

LONGEST_TEXT = 8000
"""Characters of a question, a topic or a query."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT)]
DraftKind = Literal["post", "article", "thread"]
FEWEST_WORDS = 20
Words = Annotated[int, Field(ge=FEWEST_WORDS, le=20_000, description="Words wanted of a draft.")]
Names = Annotated[list[Annotated[str, StringConstraints(max_length=200)]], Field(max_length=100)]
Day = Annotated[str, StringConstraints(max_length=40)]  # what is no date is told by `Twin.filter`


# --- requests -------------------------------------------------------------------------------------------------------


class WholeText(BaseModel):
    """A request without halves of characters, which JSON can write (`"\\ud83d"`) and nothing that follows can read."""

    @model_validator(mode="before")
    @classmethod
    def _has_whole_characters(cls, body: Any) -> Any:
        try:
            json.dumps(body, ensure_ascii=False, default=repr).encode()  # a body that is no JSON comes as bytes
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.end]
            raise ValueError(f"holds half a character, {half!a}; send whole ones") from None
        return body


class _Body(WholeText):
    model_config = ConfigDict(extra="forbid")  # a misspelt field is a mistake, not ignored


class Filters(_Body):
    """Which documents may be found; what is left out does not restrict."""

    authors: Names = []
    sources: Names = []
    kinds: Names = []
    languages: Names = []
    since: Day | None = Field(default=None, description="Published on or after: YYYY, YYYY-MM or YYYY-MM-DD.")
    until: Day | None = Field(default=None, description="Published on or before: YYYY, YYYY-MM or YYYY-MM-DD.")


class AskBody(_Body):
    """A question to the twin."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "What do I think of ORMs?", "filters": {"since": "2021"}}]}
    )

    question: Text
    filters: Filters = Filters()
    conversation_id: str | None = Field(
        default=None, max_length=100, description="The conversation to go on with; without it a new one begins."
    )
    keep: bool = Field(
        default=True, description="Whether the exchange is kept; nothing is where `ask.keep_history` is off."
    )
    stream: bool = Field(default=False, description="Whether the answer comes as server-sent events.")


class WriteBody(_Body):
    """A topic for a draft."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"topic": "Why we left Kubernetes", "words": 300}]})

    topic: Text
    kind: DraftKind = "post"
    words: Words = 400
    keep: bool = Field(default=True, description="As for a question.")
    stream: bool = Field(default=False, description="Whether the draft comes as server-sent events.")


class SearchBody(_Body):
    """A search for passages."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "vector clocks", "k": 5}]})

    query: Text
    k: int | None = Field(default=None, ge=1, le=1000, description="Hits wanted (default: setting `search.k`).")
    filters: Filters = Filters()
    method: Literal["reranked", "hybrid", "dense", "bm25"] = "reranked"


class SyncBody(_Body):
    """What to sync."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"addresses": [], "rebuild": False}]})

    addresses: list[str] = Field(
        default=[], max_length=100, description="Sources of twin.toml; all of them when empty."
    )
    rebuild: bool = Field(default=False, description="Make the index anew from what is stored.")


class FeedbackBody(_Body):
    """What a reader thinks of an answer."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"exchange_id": "last", "rating": "down", "edit": "I never said that."}]}
    )

    exchange_id: str = Field(max_length=100, description="The exchange it is about; `last` is the caller's latest one.")
    rating: Literal["up", "down"] | None = None
    reason: str | None = Field(default=None, max_length=4_000, description="Why, in the reader's words.")
    edit: str | None = Field(default=None, max_length=100_000, description="What the author would have said.")


# --- replies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerReply(Answer):
    """An answer, and under which ids it was kept; null where nothing is kept."""

    exchange_id: str | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class ConversationLine:
    """A conversation in a list; `title` is its first question, shortened."""

    id: str
    title: str
    updated_at: datetime
    exchanges: int


@dataclass(frozen=True, slots=True)
class GivenFeedback:
    """What was thought of an exchange; an empty text was not given."""

    id: str
    rating: Literal["up", "down"] | None
    reason: str
    edit: str


@dataclass(frozen=True, slots=True)
class ExchangeReply:
    """A question, or the topic of a draft, and its answer; `filters` are those it was asked under."""

    id: str
    kind: Literal["ask", "write"]
    question: str
    filters: Filter
    answer: Answer
    created_at: datetime
    feedback: GivenFeedback | None


@dataclass(frozen=True, slots=True)
class ConversationReply:
    """What was said in a conversation, oldest first."""

    id: str
    title: str
    exchanges: tuple[ExchangeReply, ...]


@dataclass(frozen=True, slots=True)
class HitReply:
    """A passage that was found: `text` is the document's text from `start` to `end`."""

    document_id: str
    title: str
    url: str | None
    published_at: datetime | None
    text: str
    start: int
    end: int
    score: float
    found_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocumentsReply:
    """A page of documents; `next` is the `after` of the next page, null on the last."""

    documents: tuple[DocumentHeader, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class DocumentReply(DocumentHeader):
    """A document with its text, in which the offsets of all citations stand."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class StatusReply:
    """What the workspace holds; `index` is null before the first sync, `coverage` counts items by outcome."""

    workspace: str
    author: str
    documents: int
    index: IndexInfo | None
    items: tuple[ItemState, ...]
    left_out: tuple[dict[str, str], ...]
    profiles: dict[str, VoiceProfile]
    last_sync: Run | None
    model: str | None
    coverage: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class CoverageReply:
    """How many documents there are by source, kind and year."""

    counts: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class VoiceReply:
    """The measured style of every author, and the same measures of what a language model wrote lately."""

    profiles: dict[str, VoiceProfile]
    recent: RecentVoice


@dataclass(frozen=True, slots=True)
class JobReply:
    """One sync that was asked for."""

    id: str
    started_at: datetime
    status: Literal["running", "done", "failed", "interrupted"]
    addresses: tuple[str, ...]
    rebuild: bool
    finished_at: datetime | None
    progress: tuple[dict[str, Any], ...]
    report: dict[str, Any] | None
    problem: str
    detail: str


@dataclass(frozen=True, slots=True)
class BatchReply:
    """How far a batch of questions is; `failed` are those of `done` that got an error."""

    id: str
    user: str
    created_at: datetime
    status: Literal["receiving", "running", "done", "cancelled"]
    total: int
    done: int
    failed: int
    digest: str


@dataclass(frozen=True, slots=True)
class Alive:
    """The process lives."""

    alive: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing without which no answer can be given; `remedy` is the line that mends it."""

    name: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether questions are answered at full speed, and what stands in the way."""

    ready: bool
    missing: tuple[Missing, ...] = ()


class Problem(BaseModel):
    """An error as RFC 9457 describes it; `detail` says what was wrong, the value, and what to do next."""

    type: str = Field(description="`urn:llm-twin:` and the name of the error")
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = Field(default=[], description="What was not valid, where it was the request.")


_EXAMPLES = {
    400: ("ConfigError", "Bad request", "since 'May' is no date; write YYYY, YYYY-MM or YYYY-MM-DD"),
    401: ("Unauthorized", "Unauthorized", "this service needs a key; send it as Authorization: Bearer twin_…"),
    403: ("Forbidden", "Forbidden", "this key may read and not ask; make one with: twin keys add NAME --scope ask"),
    404: ("NotFound", "Not found", "there is no document '12'; `twin search --json` shows the ids of documents"),
    409: ("WorkspaceBusy", "Workspace busy", "job 3f2a has been syncing since 12:04:11 UTC; watch it, or wait"),
    413: ("TooLarge", "Content Too Large", "the body has 3,000,000 bytes, 1,048,576 are allowed; send less"),
    422: ("ValidationError", "The request is not valid", "body.question is not valid: Field required"),
    429: ("TooBusy", "Too many at once", "64 requests of this kind are being answered and 64 wait; ask again in 2 s"),
    500: ("InternalError", "A mistake of ours", "the service failed in a way it should not have"),
    501: ("MissingExtra", "Not installed", "… needs the package …; run: pip install 'llm-twin[…]'"),
    502: ("ModelError", "The model failed", "toy at http://127.0.0.1:8080/v1 gave no reply after 4 tries"),
    503: ("ShuttingDown", "Shutting down", "the service is being stopped; ask again in a moment"),
    504: ("TimeLimit", "Time limit", "an answer took longer than this service allows; ask something narrower"),
}
_TITLES = {
    400: "A setting, a filter or a date is wrong",
    401: "A key is needed",
    403: "The key does not allow this",
    404: "There is no such thing",
    409: "Something must be done first, or end first",
    413: "The body is too large",
    422: "The request is not valid",
    429: "Too many at once; `Retry-After` says when to try again",
    500: "A mistake of ours",
    501: "An optional part is not installed",
    502: "The language model failed",
    503: "A store failed, or the service is starting or stopping",
    504: "It took longer than the service allows",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer with, for its description."""
    return {status: _described(status) for status in sorted({*statuses, 401, 403, 413, 422, 429, 500})}


def _described(status: int) -> dict[str, Any]:
    name, title, detail = _EXAMPLES[status]
    example = {"type": f"urn:llm-twin:{name}", "title": title, "status": status, "detail": detail}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": _TITLES[status],
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    }


# One event of a stream, as OpenAPI 3.2 describes it and FastAPI writes it under 3.1 already.
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


def reply(model: Any, example: Any, *, description: str = "Done", events: str = "") -> dict[str, Any]:
    """What a route answers with when all is well, for its description; `events` is what its stream looks like."""
    content: dict[str, Any] = {"application/json": {"example": example}}
    if events:
        content["text/event-stream"] = {"itemSchema": _EVENT, "example": events}
    return {"model": model, "description": description, "content": content}


def describe(app: FastAPI) -> None:
    """Have /openapi.json describe the errors that routes give, and none that FastAPI adds by itself."""
    written = app.openapi

    def openapi() -> dict[str, Any]:
        schema = written()
        known = schema["components"]["schemas"]
        known.setdefault("Problem", Problem.model_json_schema())
        if known.pop("HTTPValidationError", None):  # FastAPI's own error, which none of our routes gives
            known.pop("ValidationError", None)
            for methods in schema["paths"].values():
                for operation in methods.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
