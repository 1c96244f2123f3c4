"""Feedback: what readers think of answers, and what the author would have said; kept, and exported for learning.

Each piece carries the whole exchange it is about, so that it outlives the conversation and can be learnt from anywhere.
To add a format of export, write a function from `Feedback` to a row and one line in `FORMATS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from llm_twin.core.errors import ConfigError, ModelError, NotFound
from llm_twin.core.mentions import Mentions
from llm_twin.core.pipeline import Dropped
from llm_twin.core.ports import RecordStore
from llm_twin.core.records import Exchange, Feedback, Message, fingerprint, from_json, to_json

COLLECTION = "feedback"
RATINGS = ("up", "down")
LONGEST_REASON = 4_000
"""Characters of a reason."""
LONGEST_EDIT = 100_000
"""Characters of an edit."""
_PAGE = 100

PromptOf = Callable[[Exchange, Sequence[Message]], Sequence[Message]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where feedback gets its context from: kept exchanges, and what a model was told before one of them.

    `known` tells which of some documents still exist. `prompt` gives the messages that ask for an exchange's answer,
    `clean` a text without secrets.
    """

    exchange: Callable[[str, str | None], Exchange]
    history: Callable[[Exchange], Sequence[Message]]
    known: Callable[[Collection[str]], Collection[str]]
    prompt: PromptOf
    clean: Callable[[str], str]


class FeedbackLog:
    """The feedback of one warehouse. Where `user` is None the caller may see everybody's."""

    def __init__(
        self, store: RecordStore, origin: Origin, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._origin = origin
        self._now = now

    def give(
        self,
        exchange_id: str,
        *,
        by: str,
        user: str | None,
        rating: str | None = None,
        reason: str | None = None,
        edit: str | None = None,
    ) -> Feedback:
        """Keep what `by` thinks of an exchange that `user` may see. What was given before and is not given now stays.

        Raises `NotFound` for an exchange that is not there, `ConfigError` for a rating that is none, an edit that
        changes nothing, a text that is too long, or nothing at all.
        """
        exchange = self._origin.exchange(exchange_id, user)
        reason, edit = (self._origin.clean((text or "").strip()) for text in (reason, edit))
        _check(exchange, rating, reason, edit)
        feedback_id = fingerprint(exchange.id, by)[:12]
        data = self._store.record(COLLECTION, feedback_id)
        before = from_json(Feedback, data) if data else Feedback(feedback_id, exchange, self._now(), user=by)
        feedback = replace(
            before,
            exchange=exchange,
            rating="up" if rating == "up" else "down" if rating == "down" else before.rating,
            reason=reason or before.reason,
            edit=edit or before.edit,
            history=tuple(self._origin.history(exchange)),
        )
        self._store.put(COLLECTION, feedback_id, to_json(feedback))
        # Looked at after the write: whoever forgets looks for records after its own deletion, so one of us sees it.
        documents = exchange.answer.document_ids
        if len(self._origin.known(documents)) < len(documents):
            self._store.drop(COLLECTION, [feedback_id])
            raise NotFound(
                f"a document that {exchange_id!r} quotes is not there any more; ask again and rate the answer"
            )
        return feedback

    def all(self, *, user: str | None, limit: int | None = None) -> list[Feedback]:
        """Feedback by its user, the latest first."""
        found = (feedback for feedback in self._each() if user in (None, feedback.user))
        return list(islice(found, limit))

    def get(self, feedback_id: str, *, user: str | None) -> Feedback:
        """One piece of feedback by its id. Raises `NotFound`."""
        data = self._store.record(COLLECTION, feedback_id)
        feedback = None if data is None else from_json(Feedback, data)
        if feedback is None or user not in (None, feedback.user):
            raise NotFound(f"there is no feedback {feedback_id!r}; `twin feedback list` shows the ids")
        return feedback

    def of(self, exchanges: Sequence[Exchange]) -> dict[str, Feedback]:
        """What the users of these exchanges think of them, by the exchange's id."""
        found = {}
        for exchange in exchanges:
            if data := self._store.record(COLLECTION, fingerprint(exchange.id, exchange.user)[:12]):
                found[exchange.id] = from_json(Feedback, data)
        return found

    def remove(self, feedback_id: str, *, user: str | None) -> None:
        """Delete one piece of feedback. Raises `NotFound`."""
        self.get(feedback_id, user=user)
        self._store.drop(COLLECTION, [feedback_id])

    def export(self, name: str, *, user: str | None = None) -> Iterator[dict[str, Any] | Dropped]:
        """Rows of a format, the latest feedback first; feedback that has no place in it is `Dropped` with the reason.

        Raises `ConfigError` for a format that is none.
        """
        if name not in FORMATS:
            raise ConfigError(f"there is no format {name!r}; use one of {', '.join(FORMATS)}")
        for feedback in self._each():
            if user not in (None, feedback.user):
                continue
            try:
                yield FORMATS[name](feedback, self._origin.prompt)
            except _NoPlace as why:
                yield Dropped(feedback.id, str(why))

    def forget(self, mentions: Mentions) -> None:
        """Delete all feedback that quotes these documents; passages that were only shown are taken out of it."""
        found = [feedback for feedback in self._each() if _mentioned(feedback, mentions)]
        for feedback in found:
            rest = mentions.out_of(feedback.exchange.answer)
            if rest is None or _repeated(feedback, mentions):
                self._store.drop(COLLECTION, [feedback.id])
            else:
                kept = replace(feedback, exchange=replace(feedback.exchange, answer=rest))
                self._store.put(COLLECTION, feedback.id, to_json(kept))

    def mentioning(self, mentions: Mentions) -> int:
        """How many pieces of feedback mention these documents."""
        return sum(_mentioned(feedback, mentions) for feedback in self._each())

    def _each(self) -> Iterator[Feedback]:
        before = None
        while page := self._store.records(COLLECTION, limit=_PAGE, before=before):
            yield from (from_json(Feedback, data) for _, data in page)
            before = page[-1][0]


def _check(exchange: Exchange, rating: str | None, reason: str, edit: str) -> None:
    if rating not in (None, *RATINGS):
        raise ConfigError(f"there is no rating {rating!r}; use one of {', '.join(RATINGS)}")
    if not (rating or reason or edit):
        raise ConfigError(f"feedback on {exchange.id!r} says nothing; give a rating, a reason or an edit")
    for what, text, longest in (("reason", reason, LONGEST_REASON), ("edit", edit, LONGEST_EDIT)):
        if len(text) > longest:
            raise ConfigError(f"the {what} has {len(text):,} characters, {longest:,} are the most; shorten it")
    if edit == exchange.answer.text.strip():
        raise ConfigError(f"the edit of {exchange.id!r} is the answer itself; rate it up instead, or change it")


def _mentioned(feedback: Feedback, mentions: Mentions) -> bool:
    return mentions.in_answer(feedback.exchange.answer) or _repeated(feedback, mentions)


def _repeated(feedback: Feedback, mentions: Mentions) -> bool:
    texts = (feedback.edit, feedback.reason, *(turn.content for turn in feedback.history))
    return any(mentions.in_text(text) for text in texts)


# --- formats --------------------------------------------------------------------------------------------------------


class _NoPlace(Exception):
    """Why feedback has no row in a format."""


def _preference(feedback: Feedback, prompt_of: PromptOf) -> dict[str, Any]:
    """A preference pair as trainers read it: the prompt as messages, the edit chosen, the answer rejected."""
    exchange, answer = feedback.exchange, feedback.exchange.answer
    if not feedback.edit:
        raise _NoPlace("no edit")
    if exchange.kind != "ask":
        raise _NoPlace("a draft is written from several prompts")
    if answer.mode == "abstained" or not answer.passages:
        raise _NoPlace("an answer without evidence; an edit of it would teach to invent")
    try:
        prompt = prompt_of(exchange, feedback.history)
    except ModelError as error:
        raise _NoPlace(str(error)) from error
    return {
        "id": feedback.id,
        "prompt": to_json(prompt),
        "chosen": [{"role": "assistant", "content": _unmarked(feedback.edit)}],
        "rejected": [{"role": "assistant", "content": _unmarked(answer.text)}],
        "document_ids": list(answer.document_ids),
        "chunk_ids": [chunk for passage in answer.passages for chunk in passage.chunk_ids],
        "model": answer.model,
        "prompt_version": answer.prompt,
        "created_at": to_json(feedback.created_at),
    }


def _question(feedback: Feedback, _: PromptOf) -> dict[str, Any]:
    """A regression question with what is expected of it, or, without that, a question that somebody should look at."""
    exchange, answer = feedback.exchange, feedback.exchange.answer
    if exchange.kind != "ask":
        raise _NoPlace("a draft answers no question")
    approved = feedback.rating == "up"
    expected = feedback.edit or (answer.text if approved else None)
    return {
        "id": feedback.id,
        "question": answer.read_as or exchange.question,
        "filters": to_json(exchange.where),
        "expected": _unmarked(expected) if expected else None,
        "expected_from": "edit" if feedback.edit else "approved" if approved else None,
        "mode": answer.mode,
        "document_ids": list(dict.fromkeys(citation.document_id for citation in answer.citations)),
        "rating": feedback.rating,
        "reason": feedback.reason,
        "created_at": to_json(feedback.created_at),
    }


def _whole(feedback: Feedback, _: PromptOf) -> dict[str, Any]:
    """Everything that is kept of it."""
    row: dict[str, Any] = to_json(feedback)
    return row


FORMATS: Mapping[str, Callable[[Feedback, PromptOf], dict[str, Any]]] = {
    "preferences": _preference,
    "questions": _question,
    "all": _whole,
}


def _unmarked(text: str) -> str:
    """A text without the marks of doubt that checking put in: no model wrote them, and none should learn them."""
    return re.sub(r"\[(\d{1,3})\?\]", r"[\1]", re.sub(r"[ \u00a0]?\[\?\]", "", text))
