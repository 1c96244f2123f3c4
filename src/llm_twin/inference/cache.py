"""Answers to repeated questions, from memory. Off unless the settings turn it on.

A question is a repetition when the same user asked the same, under everything that decides the answer: the index
generation, the prompt, the model, the settings, the filter and the day. "The same" is the same text but for case and
layout, or a question that is near in meaning and says the same by its words (`paraphrase.py`). What is kept is lost
with the process, and with the next generation.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from llm_twin.core.mentions import Mentions
from llm_twin.core.ports import Embedder
from llm_twin.core.records import Answer, Usage, fingerprint
from llm_twin.core.vectors import Vector
from llm_twin.inference.paraphrase import normalised, same_question

SIMILARITY = 0.85
"""Cosine from which two questions may mean the same. Words decide after it: see `benchmarks/cache.py`."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A question and its answer; `scope` is everything else that decides the answer."""

    scope: str
    question: str
    vector: Vector | None
    answer: Answer
    at: datetime


class AnswerCache:
    """The latest answers, at most `entries` of them and none older than `max_age_s`; safe for threads.

    `counts` has how often a question was found (`exact`, `meaning`) and how often not (`miss`).
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        similarity: float = SIMILARITY,
        entries: int = 256,
        max_age_s: float = 86_400.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._embedder = embedder
        self._similarity = similarity
        self._entries = entries
        self._max_age = timedelta(seconds=max_age_s)
        self._now = now
        self._lock = threading.Lock()
        self._generation = ""
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def find(self, question: str, *, generation: str, scope: str) -> Answer | None:
        """The answer to the same question under the same scope, with a note that says so; None when there is none."""
        vector = self._vector(question)
        with self._lock:
            self._enter(generation)
            key = (scope, normalised(question))
            how: Literal["exact", "meaning"] = "exact" if key in self._kept else "meaning"
            found = self._kept.get(key) or self._nearest(question, vector, scope)
            self.counts[how if found else "miss"] += 1
            if found is None:
                return None
            self._kept.move_to_end((scope, normalised(found.question)))
        return _again(found, how)

    def keep(self, question: str, answer: Answer, *, generation: str, scope: str) -> None:
        """Keep an answer. The one that was asked for longest ago makes room."""
        entry = _Kept(scope, question, self._vector(question), answer, self._now())
        with self._lock:
            self._enter(generation)
            self._kept[scope, normalised(question)] = entry
            self._kept.move_to_end((scope, normalised(question)))
            while len(self._kept) > self._entries:
                self._kept.popitem(last=False)

    def forget(self, mentions: Mentions) -> None:
        """Drop what mentions these documents."""
        with self._lock:
            for key in [key for key, entry in self._kept.items() if mentions.in_answer(entry.answer)]:
                del self._kept[key]

    def mentioning(self, mentions: Mentions) -> int:
        """How many answers mention these documents."""
        with self._lock:
            return sum(mentions.in_answer(entry.answer) for entry in self._kept.values())

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def _enter(self, generation: str) -> None:
        """Drop what another generation answered, and what is too old."""
        if generation != self._generation:
            self._kept.clear()
            self._generation = generation
        oldest = self._now() - self._max_age
        for key in [key for key, entry in self._kept.items() if entry.at < oldest]:
            del self._kept[key]

    def _nearest(self, question: str, vector: Vector | None, scope: str) -> _Kept | None:
        if vector is None:
            return None
        near = [
            (float(vector @ entry.vector), entry)
            for entry in self._kept.values()
            if entry.scope == scope and entry.vector is not None
        ]
        for cosine, entry in sorted(near, key=lambda each: -each[0]):
            if cosine < self._similarity:
                return None
            if same_question(question, entry.question):
                return entry
        return None

    def _vector(self, question: str) -> Vector | None:
        """None for a question that the embedder would cut: its end could say anything."""
        tokenizer = self._embedder.tokenizer
        if len(tokenizer.offsets(question)) > tokenizer.window:
            return None
        return self._embedder.embed([question])[0].vector


@dataclass(frozen=True, slots=True)
class Repeats:
    """The cache for one user under one set of settings."""

    cache: AnswerCache
    user: str
    settings: str

    def find(self, question: str, *, generation: str, about: tuple[object, ...]) -> Answer | None:
        """The earlier answer of this user, if there is one; `about` is what else decides it."""
        return self.cache.find(question, generation=generation, scope=self._scope(about))

    def keep(self, question: str, answer: Answer, *, generation: str, about: tuple[object, ...]) -> None:
        """Keep an answer for this user."""
        self.cache.keep(question, answer, generation=generation, scope=self._scope(about))

    def _scope(self, about: tuple[object, ...]) -> str:
        return fingerprint(self.user, self.settings, *about)


def stands_alone(question: str) -> bool:
    """Whether a question means the same in every conversation: no word of it points at what was said before."""
    return not _LEANS.search(question)


def _again(found: _Kept, how: Literal["exact", "meaning"]) -> Answer:
    asked = f" to “{found.question}”" if how == "meaning" else ""
    note = f"Answered from memory: this is the answer{asked} of {found.at:%H:%M} UTC."
    return replace(found.answer, notes=(*found.answer.notes, note), usage=Usage(), cached=how)


_LEANS = re.compile(
    r"^\s*(?:and|but|or|so|also|then|why|why not|how so|really|what else|(?:what|how) about|for example|such as|more|"
    r"go on)\b\W*(?:\w+\W*){0,2}$"
    r"|^\s*(?:and|but|or|so|also|then|what about|how about)\b"
    r"|\b(?:it|its|this|that|these|those|them|they|their|there|then|such|same|he|him|his|she|her|hers|one|ones|other|"
    r"others|another|else|more|again|too|instead|former|latter|above|before that|both|neither)\b",
    re.IGNORECASE,
)
