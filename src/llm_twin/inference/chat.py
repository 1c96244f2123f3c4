"""Conversations: what was said before decides what a follow-up question means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from llm_twin.core.errors import ModelError
from llm_twin.core.ports import LanguageModel
from llm_twin.core.prompts import render_rewrite
from llm_twin.core.records import Message
from llm_twin.core.text import sentences
from llm_twin.inference.generate import stream
from llm_twin.inference.understand import in_conversation
from llm_twin.inference.verify import content, markers, uncited

LAST_TURNS = 6
"""Messages of the conversation that a model sees for the rewriting of a question."""
LONGEST_TURN = 600
"""Characters of each of them: what a follow-up refers to was said briefly, or at the beginning."""
LONGEST_QUESTION = 400
"""Characters from which a rewritten question is no question any more."""


def standalone(question: str, history: Sequence[Message], *, model: LanguageModel | None) -> tuple[str, str | None]:
    """A follow-up question in a form that can be searched for alone, and a note on how it was read, if it was changed.

    The model rewrites it; where it fails or rambles, and without one, a question that leans on the one before is joined
    with that one (see `understand.in_conversation`). The first question of a conversation is returned as it is.
    """
    if not any(turn.role == "user" for turn in history):
        return question, None
    rewritten = _rewritten(question, history, model) if model else ""
    read_as = rewritten or in_conversation(question, history)
    return read_as, None if read_as == question else f"Read as: {read_as}"


@dataclass(slots=True)
class Conversation:
    """What was said, oldest first, without citations, whose numbers mean nothing later.

    At most `turns` exchanges and `characters` in all are kept; the oldest exchanges go first, the last one stays whole.
    """

    turns: int = 12
    characters: int = 24_000
    _exchanges: list[tuple[Message, Message]] = field(default_factory=list)

    @classmethod
    def of(cls, history: Sequence[Message]) -> Conversation:
        """A conversation that goes on from what `history` gave."""
        return cls(_exchanges=list(zip(history[::2], history[1::2], strict=True)))

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages in order."""
        return tuple(message for exchange in self._exchanges for message in exchange)

    def add(self, question: str, answer: str) -> None:
        """Remember an exchange and forget what no longer fits."""
        self._exchanges.append((Message("user", question), Message("assistant", uncited(answer))))
        del self._exchanges[: -self.turns]
        while len(self._exchanges) > 1 and self._length() > self.characters:
            del self._exchanges[0]

    def _length(self) -> int:
        return sum(len(message.content) for message in self.history)


def _rewritten(question: str, history: Sequence[Message], model: LanguageModel) -> str:
    """The model's version, or nothing where it is no single, sensible question."""
    turns = [Message(turn.role, uncited(turn.content)[:LONGEST_TURN]) for turn in history[-LAST_TURNS:]]
    text = ""
    with suppress(ModelError):
        text = "".join(stream(model, render_rewrite(question, turns), author="", max_tokens=120, temperature=0.0))
    text = text.strip().strip("\"'“”").strip()
    said = content(" ".join([question, *(turn.content for turn in turns)]))
    if markers(text) or len(sentences(text)) > 1 or (_asks(question) and not _asks(text)):
        return ""
    # A rewriting puts in what was said before; one that brings many words of its own answers, or changes the subject.
    own = content(text) - said
    sensible = 0 < len(text) <= LONGEST_QUESTION and "\n" not in text and len(own) <= len(content(text)) / 2
    return text if sensible else ""


def _asks(text: str) -> bool:
    """Whether it reads as a question; models and people leave out the question mark."""
    return text.rstrip("\"'”’ ").endswith("?") or bool(_QUESTION.match(text))


_QUESTION = re.compile(
    r"(?:and |but |so |or |then |also )*"
    r"(?:who|whose|whom|what|which|where|when|why|how|is|are|was|were|am|do|does|did|has|have|had|can|could|should|would|"
    r"will|may|might)(?:['’]s|n['’]t)?\b",
    re.IGNORECASE,
)
