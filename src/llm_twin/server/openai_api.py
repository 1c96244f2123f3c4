"""The twin behind OpenAI's protocol: `POST /v1/chat/completions` and `GET /v1/models`.

Any client that lets one change its base URL talks to the twin: the SDK, a chat page, an editor. There are two models:
`twin` answers the last message from the author's writing, in the light of the messages before it; `twin-write` drafts a
text on the topic that the last message is.

A text cannot be taken back here, so what a stream has to correct it adds: a visible break where a text is withdrawn,
and after the text the sentences that the check of its sources did not confirm.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from llm_twin.core.records import (
    Answer,
    Citation,
    Done,
    Event,
    Passage,
    Passages,
    TextDelta,
    Withdrawn,
    to_json,
)
from llm_twin.core.stopping import StopTexts
from llm_twin.server.asking import desk_of, filter_of, twin_of, user_of
from llm_twin.server.citing import heading, marks, numbered, on_the_web, one_line, sources
from llm_twin.server.openai_schemas import (
    ASK,
    CARD,
    COMPLETION,
    ERRORS,
    STREAM,
    WRITE,
    ChatBody,
    Completion,
    ModelCard,
    ModelList,
)
from llm_twin.server.problems import Problem, Refused
from llm_twin.server.reading import Name
from llm_twin.server.schemas import FEWEST_WORDS, LONGEST_TEXT, reply
from llm_twin.server.streaming import EventStream, begun, unless_left, whole, written
from llm_twin.twin import Sampling, Twin

router = APIRouter(prefix="/v1", tags=["OpenAI's protocol"])

TOKENS_PER_WORD = 2
"""Tokens of a limit that count as one word of a draft."""


# --- routes ---------------------------------------------------------------------------------------------------------


@router.get("/models", responses={200: reply(ModelList, {"object": "list", "data": [CARD]}), **ERRORS})
def models(request: Request) -> JSONResponse:
    """The models that can be asked: `twin`, and with a language model `twin-write`."""
    twin = twin_of(request)
    return JSONResponse({"object": "list", "data": [_card(name, twin) for name in _names(twin)]})


@router.get("/models/{model_id}", responses={200: reply(ModelCard, CARD), **ERRORS})
def model(request: Request, model_id: Name) -> JSONResponse:
    """One of the models."""
    _check_model(model_id, twin_of(request))
    return JSONResponse(_card(model_id, twin_of(request)))


@router.post(
    "/chat/completions",
    responses={
        200: reply(Completion, COMPLETION, description="The reply, or with `stream` its chunks.", events=STREAM),
        **ERRORS,
    },
)
async def complete(body: ChatBody, request: Request) -> Response:
    """Answer the last message from the author's writing, or draft a text on it, in OpenAI's protocol."""
    twin = twin_of(request)
    _check_model(body.model, twin)
    if len(body.question) > LONGEST_TEXT:
        raise Refused(
            400, "ContextLengthExceeded", "Too long",
            f"the last message has {len(body.question):,} characters, and a question may have {LONGEST_TEXT:,}; "
            "send less",
        )  # fmt: skip
    desk = desk_of(request)
    events = until_stop(desk.events(lambda: _begin(body, request)), body.stop, generates=desk.with_model)
    telling = Telling(body, twin=twin, base=str(request.base_url))
    if body.stream:
        return _Chunks(await unless_left(request, begun(telling.chunks(events))))
    return JSONResponse(telling.whole(await unless_left(request, whole(events))))


def _names(twin: Twin) -> list[str]:
    """Drafts need a language model; a model that can only fail is not offered."""
    return [ASK, WRITE] if twin.settings.llm.model else [ASK]


def _card(name: str, twin: Twin) -> dict[str, Any]:
    since = int(twin.workspace.settings_file.stat().st_mtime)
    return {"id": name, "object": "model", "created": since, "owned_by": "llm-twin"}


def _check_model(name: str, twin: Twin) -> None:
    if name in _names(twin):
        return
    needs = f"{WRITE!r} needs a language model, which llm.model names; " if name == WRITE else ""
    raise Refused(
        404, "ModelNotFound", "Not found",
        f"there is no model {name[:100]!r} here; {needs}use one of these: {', '.join(_names(twin))}",
    )  # fmt: skip


def _begin(body: ChatBody, request: Request) -> Iterator[Event]:
    twin, options = twin_of(request), body.twin
    # These clients send what was said themselves, so nothing is kept unless it is asked for.
    keep = bool(body.store or options.conversation_id)
    chat = twin.chat(options.conversation_id, user=user_of(request), keep=None if keep else False)
    sampling = Sampling(body.most_tokens, body.temperature)
    if body.model == WRITE:
        words = min(options.words, (body.most_tokens or options.words * TOKENS_PER_WORD) // TOKENS_PER_WORD)
        return chat.write(body.question, kind=options.kind, words=max(FEWEST_WORDS, words), sampling=sampling)
    if options.conversation_id is None:
        for question, answer in body.earlier:
            chat.conversation.add(question, without_additions(answer))
    return chat.ask(body.question, where=filter_of(twin, options.filters), sampling=sampling)


# --- stop texts -----------------------------------------------------------------------------------------------------

CUT = "The text ends at a stop text of the request, so it was neither checked against its sources nor kept."


async def until_stop(
    events: AsyncGenerator[Event, None], stop: Sequence[str], *, generates: bool
) -> AsyncGenerator[Event, None]:
    """The events of an answer, whose text ends before the first stop text; there the answer is cancelled.

    Then `Done` comes with what was said so far, unchecked. `generates` tells whether a language model writes.
    """
    stops, text = StopTexts(stop), ""
    passages: Sequence[Passage] = ()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Passages):
                passages = event.passages
            elif isinstance(event, Withdrawn):
                stops, text, generates = StopTexts(stop), "", False
            elif isinstance(event, Done) and (rest := stops.rest()):
                yield TextDelta(rest)
            if not isinstance(event, TextDelta):
                yield event
                continue
            ready = stops.before(event.text)
            text += ready
            if ready:
                yield TextDelta(ready)
            if stops.found:
                yield Done(_cut(text, passages, generates=generates))
                return


def _cut(text: str, passages: Sequence[Passage], *, generates: bool) -> Answer:
    cited = {number for _, _, number in marks(text)}
    citations = tuple(each.cite(0, len(each.text)) for each in passages if each.number in cited)
    notes = (CUT,) if generates else ()
    return Answer(text, "generated" if generates else "extractive", citations, tuple(passages), notes=notes)


# --- telling it -----------------------------------------------------------------------------------------------------


class Telling:
    """One reply, in the shapes of the protocol. `base` is the address of this service."""

    def __init__(self, body: ChatBody, *, twin: Twin, base: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
        asked_for = body.twin.sources
        self._with_sources = twin.settings.server.sources_in_text if asked_for is None else asked_for
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        most = twin.settings.ask.max_tokens
        self._most_tokens = min(most, body.most_tokens or most) if body.model == ASK else None
        self._base = base

    def whole(self, done: Done) -> dict[str, Any]:
        """The reply in one piece, its text as it was checked."""
        answer = done.answer
        message = {
            "role": "assistant",
            "content": answer.text + self._footer(answer),
            "refusal": None,
            "annotations": self._annotations(answer.text, answer.citations),
        }
        choice = {"index": 0, "message": message, "finish_reason": self._reason(answer), "logprobs": None}
        body = {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)}
        return {**body, "twin": _about(done)}

    async def chunks(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[dict[str, Any], None]:
        """The reply as it is made: the role, the text, what must be added to it, the citations, how it ended."""
        text, sent, begun_ = "", 0, False
        async with aclosing(events):
            async for event in events:
                if not begun_:
                    begun_ = True
                    yield self._chunk({"role": "assistant", "content": ""})
                if isinstance(event, TextDelta):
                    text += event.text
                    yield self._chunk({"content": event.text})
                elif isinstance(event, Withdrawn) and text:
                    broken = f"{RULE}**Withdrawn.** What stands above does not hold. {one_line(event.reason)}\n\n"
                    sent, text = sent + len(text) + len(broken), ""
                    yield self._chunk({"content": broken})
                elif isinstance(event, Done):
                    for chunk in self._ending(event, text, sent):
                        yield chunk

    def _ending(self, done: Done, text: str, sent: int) -> Iterator[dict[str, Any]]:
        answer = done.answer
        if added := _correction(text, answer) + self._footer(answer):
            yield self._chunk({"content": added})
        if found := self._annotations(text, answer.citations, after=sent):
            yield self._chunk({"annotations": found})
        yield {**self._chunk({}, self._reason(answer)), "twin": _about(done)}
        if self._with_usage and (counted := _usage(answer)):
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": counted}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        body = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**body, "usage": None} if self._with_usage else body

    def _reason(self, answer: Answer) -> str:
        if answer.refused:
            return "content_filter"
        cut = self._most_tokens is not None and answer.usage.completion_tokens >= self._most_tokens
        return "length" if cut else "stop"

    def _footer(self, answer: Answer) -> str:
        """Sources and notes, as they end a text."""
        if not self._with_sources:
            return ""
        return _block(heading(answer), sources(answer, self._address)) + _block("Notes", map(one_line, answer.notes))

    def _annotations(self, text: str, citations: Sequence[Citation], *, after: int = 0) -> list[dict[str, Any]]:
        cited = numbered(citations)
        return [
            {
                "type": "url_citation",
                "url_citation": {
                    "start_index": after + start,
                    "end_index": after + end,
                    "title": cited[number].title,
                    "url": self._address(cited[number]),
                },
            }
            for start, end, number in marks(text)
            if number in cited
        ]

    def _address(self, citation: Citation) -> str:
        """Where it was published, else the place on our own page where the quote is marked."""
        here = f"{self._base}#/documents/{citation.document_id}?start={citation.start}&end={citation.end}"
        return on_the_web(citation.url) or here


RULE = "\n\n---\n\n"
_ADDED = re.compile(r"\n\n---\n\n\*\*(?:Sources|Nearest passages|Notes|Not supported by the sources)\*\*.*", re.DOTALL)
_REPLACED = re.compile(r".*\n\n---\n\n\*\*(?:Withdrawn\.|Checked text)\*\*[^\n]*\n\n", re.DOTALL)


def without_additions(text: str) -> str:
    """The text of an answer that stands, from one that a client sends back with what was added to it here."""
    return _ADDED.sub("", _REPLACED.sub("", text))


def _block(title: str, lines: Sequence[str] | Iterator[str]) -> str:
    listed = [f"- {line}" for line in lines]
    return "\n".join([f"{RULE}**{title}**\n", *listed]) if listed else ""


def _correction(shown: str, answer: Answer) -> str:
    """What a reader of the unchecked text must know: which sentences were not confirmed, or how the text reads now."""
    if _words(shown) != _words(answer.text):
        return f"{RULE}**Checked text**\n\n{answer.text}"
    return _block("Not supported by the sources", [f"“{one_line(each)}”" for each in answer.unsupported])


def _words(text: str) -> str:
    """A text without citations and white space: what a check of its sources leaves as it was."""
    return re.sub(r"\s|\[[\d,;\s?–-]*\]|【[^】]*】", "", text)


def _usage(answer: Answer) -> dict[str, int] | None:
    """Tokens; None where a language model wrote and its server did not count, or had not yet."""
    read, written = answer.usage.prompt_tokens, answer.usage.completion_tokens
    if answer.mode == "generated" and not written:
        return None
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _about(done: Done) -> dict[str, Any]:
    told = done.as_json()
    names = ("mode", "model", "citations", "unsupported", "notes", "guarded", "trace_id", "exchange_id")
    return {name: told[name] for name in (*names, "conversation_id")}


class _Chunks(EventStream):
    """The chunks of a reply; an error becomes the last of them."""

    last = b"data: [DONE]\n\n"

    def event(self, told: Any) -> bytes:
        return written(to_json(told))

    def failure(self, problem: Problem) -> bytes:
        return written(problem.as_openai())
