"""What clients send, checked by pydantic, with an example each. Replies have the shapes of `core/records.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]


class _Body(BaseModel):
    """A request body: unknown fields are mistakes, not ignored."""

    model_config = ConfigDict(extra="forbid")


class Filters(_Body):
    """Which documents may be found; what is left out does not restrict."""

    authors: list[str] = []
    sources: list[str] = []
    kinds: list[str] = []
    languages: list[str] = []
    since: str | None = Field(default=None, description="Published on or after: YYYY, YYYY-MM or YYYY-MM-DD.")
    until: str | None = Field(default=None, description="Published on or before: YYYY, YYYY-MM or YYYY-MM-DD.")


class AskBody(_Body):
    """A question to the twin."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": "What do I think of ORMs?", "stream": False}]}
    )

    question: Text
    filters: Filters = Filters()
    conversation_id: str | None = None
    keep: bool = True
    stream: bool = False


class WriteBody(_Body):
    """A topic for a draft."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"topic": "Why we left Kubernetes", "words": 300}]}
    )

    topic: Text
    kind: str = "post"
    words: int = Field(default=400, ge=20, le=20_000)
    keep: bool = True
    stream: bool = False


class SearchBody(_Body):
    """A search for passages."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"query": "vector clocks", "k": 5}]})

    query: Text
    k: int | None = Field(default=None, ge=1, le=1000)
    filters: Filters = Filters()
    method: Literal["reranked", "hybrid", "dense", "bm25"] = "reranked"
