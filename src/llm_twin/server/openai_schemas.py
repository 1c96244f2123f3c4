"""OpenAI's protocol as the twin speaks it: what `openai_api.py` takes and gives, for checking and for /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from llm_twin.core.records import Message
from llm_twin.server.problems import Problem
from llm_twin.server.schemas import DraftKind, Filters, WholeText, Words

ASK, WRITE = "twin", "twin-write"
"""The models."""

LONGEST_TURN = 24_000
"""Characters of an earlier message that are read."""
MOST_TURNS = 50
"""Earlier exchanges that are read, the last ones."""


# --- requests -------------------------------------------------------------------------------------------------------


class Part(BaseModel):
    """A piece of a message. Text is read; anything else, such as an image, is refused."""

    type: str = Field(json_schema_extra={"enum": ["text", "refusal"]})
    text: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> Part:
        if self.type not in ("text", "refusal"):
            raise ValueError(f"is of type {self.type[:40]!r}, and the twin reads text only")
        if self.type == "text" and self.text is None:
            raise ValueError("is of type 'text' and has no text")
        return self


def _as_parts(content: Any) -> Any:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(stop: Any) -> Any:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


class Turn(BaseModel):
    """A message. Those of the roles system and developer, and those about tools, are not read."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part] | None)] = []

    @property
    def text(self) -> str:
        """The message as one text."""
        return "\n".join(part.text for part in self.content if part.text)


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    """What the reply is: text."""

    type: Literal["text"]


class TwinOptions(BaseModel):
    """What only a twin can be asked for; no part of OpenAI's protocol."""

    model_config = ConfigDict(extra="forbid")

    filters: Filters = Field(default=Filters(), description="Which documents may be used; not for drafts.")
    sources: bool | None = Field(
        default=None,
        description="Whether the text ends with its sources and notes (default: setting `server.sources_in_text`).",
    )
    conversation_id: str | None = Field(
        default=None,
        max_length=100,
        description="The kept conversation to go on with; its messages then count, not the earlier ones of this body.",
    )
    kind: DraftKind = Field(default="post", description="Of a draft.")
    words: Words = 400


StopText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Zero = Annotated[float, Field(ge=0, le=0)] | None
One = Annotated[float, Field(ge=1, le=1)] | None


class ChatBody(WholeText):
    """A chat completion as OpenAI's API asks for it.

    What would change the reply and is not built is refused. Fields that change nothing, and such as the API does not
    know, are passed over: clients send many.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": ASK, "messages": [{"role": "user", "content": "What do I think of ORMs?"}]}]
        }
    )

    model: str = Field(max_length=200, description="`twin` or `twin-write`.")
    messages: list[Turn] = Field(min_length=1, max_length=2000, description="The last one is the user's.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, description="As `max_completion_tokens`, which comes first.")
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="Most tokens that the language model writes; never more than the settings say."
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop: Annotated[
        list[StopText], BeforeValidator(_as_list, json_schema_input_type=StopText | list[StopText] | None)
    ] = Field(default=[], max_length=16)
    n: Literal[1] | None = None
    user: str | None = Field(default=None, description="Not used: the key says who asks.")
    store: bool | None = Field(default=None, description="Whether the exchange is kept, in a conversation of its own.")
    twin: TwinOptions = TwinOptions()

    response_format: ResponseFormat | None = None
    tool_choice: Literal["none", "auto"] | None = Field(default=None, description="The twin calls no tools.")
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    logprobs: Literal[False] | None = None
    top_p: One = None
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: dict[str, Zero] | None = None

    @field_validator("messages")
    @classmethod
    def _asks_something(cls, messages: list[Turn]) -> list[Turn]:
        if not (said := _spoken(messages)) or said[-1].role != "user":
            raise ValueError("do not end with a text of the role 'user', so nothing is asked")
        return messages

    @model_validator(mode="after")
    def _filters_a_question(self) -> ChatBody:
        if self.model == WRITE and self.twin.filters != Filters():
            raise ValueError(f"the model {WRITE!r} takes no filters")
        return self

    @property
    def question(self) -> str:
        """What is asked: the messages of the user after the last one of the assistant."""
        return _spoken(self.messages)[-1].content.strip()

    @property
    def earlier(self) -> list[tuple[str, str]]:
        """What was said before, as questions and answers, oldest first."""
        said = _spoken(self.messages)[:-1]
        said = said[1:] if said and said[0].role == "assistant" else said  # a greeting
        pairs = list(zip(said[::2], said[1::2], strict=True))[-MOST_TURNS:]
        return [(user.content[:LONGEST_TURN], assistant.content[:LONGEST_TURN]) for user, assistant in pairs]

    @property
    def most_tokens(self) -> int | None:
        """The limit that counts."""
        return self.max_completion_tokens or self.max_tokens


def _spoken(messages: Sequence[Turn]) -> list[Message]:
    """What user and assistant said in turn; several messages of one of them in a row are one."""
    said = [turn for turn in messages if turn.role in ("user", "assistant") and turn.text.strip()]
    return [
        Message("user" if role == "user" else "assistant", "\n\n".join(turn.text for turn in turns))
        for role, turns in groupby(said, key=lambda turn: turn.role)
    ]


# --- replies --------------------------------------------------------------------------------------------------------


class UrlCitation(BaseModel):
    """A source, and where it is cited: `content[start_index:end_index]`, in characters."""

    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(BaseModel):
    """One citation of one source."""

    type: Literal["url_citation"]
    url_citation: UrlCitation


class ReplyMessage(BaseModel):
    """The answer or draft."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Annotation]


class Choice(BaseModel):
    """The one reply there is."""

    index: int
    message: ReplyMessage
    finish_reason: Literal["stop", "length", "content_filter"]
    logprobs: None


class TokenUsage(BaseModel):
    """Tokens as the language model's server counts them; none where the author is quoted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A chat completion. `usage` is null where nobody counted; `twin` is what the protocol has no place for."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage | None
    twin: dict[str, Any]


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that can be asked."""

    object: Literal["list"]
    data: list[ModelCard]


_HEAD = {"id": "chatcmpl-6f1d2a", "created": 1795356000, "model": ASK}
_TEXT = "They hide the query, and the query is the program. [1]"
COMPLETION = {
    **_HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": f"{_TEXT}\n\n---\n\n**Sources**\n\n- [1] [On ORMs](https://example.org/orms), 2021-03-04",
                "refusal": None,
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {
                            "start_index": 51,
                            "end_index": 54,
                            "title": "On ORMs",
                            "url": "https://example.org/orms",
                        },
                    }
                ],
            },
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 812, "completion_tokens": 14, "total_tokens": 826},
    "twin": {"mode": "generated", "model": "qwen3:4b", "notes": [], "unsupported": [], "citations": []},
}
STREAM = (
    'data: {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "They"}, …}], …}\n\ndata: [DONE]\n\n'
)
CARD = {"id": ASK, "object": "model", "created": 1795356000, "owned_by": "llm-twin"}


_ERROR = {
    "description": "An error as OpenAI's API words it",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"]},
            "example": Problem(
                "ValidationError", "", 422, "", ({"at": "body.n", "message": "Input should be 1"},)
            ).as_openai(),
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": _ERROR, "5XX": _ERROR}
"""What a route may answer with when all is not well, for its description."""
