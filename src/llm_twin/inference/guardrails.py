"""What stands at the doors of an answer: guards over the question, over passages, and over the answer.

    question ─> length, language, injection, topics, secrets, personal data
    passages ─> orders to a model in them
    answer   ─> secrets, personal data, topics, the prompt itself

A guard looks at a text and tells its concerns; a `Rail` says whether it may block or only flags. `Guardrails` puts the
rails of every stage together, and `held` keeps a streamed text back until those that block have seen it. Which guard
does what is decided by the settings `[guard]`; docs/guardrails.md says why, and how well each of them works.

To add a guard, write a class with `name` and `look` (see `core.ports.Guard`) and give it a rail in `guardrails`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

from llm_twin.core import prompts
from llm_twin.core.ports import Embedder, Guard, PersonalFinder, Redactor, Tokenizer
from llm_twin.core.records import (
    Answer,
    Citation,
    Concern,
    Document,
    Embedding,
    Event,
    GuardAction,
    GuardFinding,
    GuardStage,
    Message,
    Passage,
    Passages,
    TextDelta,
    Withdrawn,
)
from llm_twin.core.text import sentences, words
from llm_twin.core.vectors import Matrix
from llm_twin.inference.injection import LIKELY, ORDER_SIGNS, SURE, InjectionDetector, orders
from llm_twin.inference.retrieve import clip
from llm_twin.inference.signs import signs, unmasked

GuardSetting = Literal["block", "flag", "off"]
T = TypeVar("T")

LONGEST_HELD = 400
"""Characters without the end of a word or sentence after which streamed text is shown all the same, once checked."""
CONTEXT = 600
"""Characters before the newest words that are looked at with them: a secret is known by the name in front of it."""
PERSONAL_KINDS = ("email", "phone", "iban", "card", "ssn")
"""Personal data looked for in questions and answers; machines and streets are ordinary subjects there."""


# --- guards ---------------------------------------------------------------------------------------------------------


class LengthGuard:
    """Questions longer than `most` characters: nobody types them, and an attack hides well in them."""

    name = "length"

    def __init__(self, most: int) -> None:
        self._most = most

    def look(self, text: str) -> list[Concern]:
        """One concern where the text is too long."""
        if len(text) <= self._most:
            return []
        return [Concern(f"it has {len(text):,} characters, and {self._most:,} are the most a question should have")]


class LanguageGuard:
    """Questions in other languages than `languages` (ISO 639-1): there, neither search nor guards work as measured.

    Short questions are not judged, because nobody can tell their language.
    """

    name = "language"

    def __init__(self, languages: Collection[str], *, words: int = 5, certainty: float = 0.99) -> None:
        self._languages = frozenset(languages)
        self._words = words
        self._certainty = certainty

    def look(self, text: str) -> list[Concern]:
        """One concern where the language is sure to be another one."""
        if not self._languages or len(words(text)) < self._words:
            return []
        language, certainty = self._identifier.classify(text)
        if language in self._languages or certainty < self._certainty:
            return []
        return [Concern(f"it is in another language ({language}) than {', '.join(sorted(self._languages))}")]

    @cached_property
    def _identifier(self) -> _Identifier:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

        identifier: _Identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        return identifier


class InjectionGuard:
    """Attempts to give the model orders, to get at its prompt, or to talk it out of its rules."""

    name = "injection"

    def __init__(self, detector: InjectionDetector) -> None:
        self._detector = detector

    def look(self, text: str) -> list[Concern]:
        """One concern where an attack is likely; sure from `SURE` on."""
        found = self._detector.judge(text)
        if found.probability < LIKELY:
            return []
        borne = f" (signs: {', '.join(found.signs)})" if found.signs else ""
        return [Concern(f"it reads as an attempt to give the language model orders{borne}", found.probability >= SURE)]


class TurnGuard(InjectionGuard):
    """The same for earlier turns of a conversation, which are embedded only where a rule finds something in them."""

    def look(self, text: str) -> list[Concern]:
        """One concern where the turn gives orders."""
        return super().look(text) if signs(unmasked(text).text, among=ORDER_SIGNS) else []


class OrderGuard:
    """Sentences of a passage that give orders to whatever model reads it (indirect injection).

    The author's `own` writing is held to less: it is looked at for bare orders only; see `injection.orders`.
    """

    name = "passages"

    def __init__(self, detector: InjectionDetector, *, own: bool) -> None:
        self._detector = detector
        self._own = own

    def look(self, text: str) -> list[Concern]:
        """A concern for each such sentence, with its place."""
        spans = orders(text, self._detector, own=self._own)
        return [Concern("it gives orders to language models", start=start, end=end) for start, end in spans]


class SecretGuard:
    """Keys, tokens and passwords, by the same rules that keep them out of the warehouse."""

    name = "secrets"

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def look(self, text: str) -> list[Concern]:
        """A concern for each secret, with its kind and place, never with the secret."""
        document = Document("", "", "", "note", "", text, "", _NO_TIME)
        redacted, found = self._redactor.redact(document)
        spans = _taken_out(text, redacted.text) if found else []
        if len(spans) != len(found):  # secrets beside such marks: whatever lies between the first and the last goes
            spans, found = [(spans[0][0], spans[-1][1])], found[:1]
        return [
            Concern(f"it holds a secret ({one.kind})", start=start, end=end)
            for one, (start, end) in zip(found, spans, strict=True)
        ]


class PersonalGuard:
    """Mail addresses, telephone, account, card and social security numbers."""

    name = "personal"

    def __init__(self, finder: PersonalFinder) -> None:
        self._finder = finder

    def look(self, text: str) -> list[Concern]:
        """A concern for each place."""
        return [
            Concern(f"it holds personal data ({s.kind})", start=s.start, end=s.end) for s in self._finder.find(text)
        ]


class TopicGuard:
    """What the author does not want a twin to speak about.

    A topic is a phrase, or a phrase with what belongs to it: "my family: wife, children, parents". A sentence is about
    it when one of these is near in meaning, or when it says its words and is not far in meaning. Sentences of `text`
    are embedded, so this costs some milliseconds each, and nothing where no topic is set.
    """

    name = "topics"
    NEAR = 0.4
    """Cosine from which a sentence is about a topic whatever its words; below, one ordinary question in 500 lies there
    by chance."""
    NOT_FAR = 0.2
    """Cosine from which the topic's own words count: a "family of functions" is no family."""

    def __init__(self, topics: Sequence[str], embedder: Embedder) -> None:
        self._topics = tuple(topic.strip() for topic in topics if topic.strip())
        self._embedder = embedder

    def look(self, text: str) -> list[Concern]:
        """One concern for each topic spoken about."""
        said = [text[start:end] for start, end in sentences(text)] or [text]
        tokenizer = self._embedder.tokenizer
        vectors = [self._embedder.embed([clip(sentence, tokenizer)])[0].vector for sentence in said]
        about = dict.fromkeys(
            topic
            for sentence, vector in zip(said, vectors, strict=True)
            for topic, held, matrix in self._facets
            if (likeness := float((matrix @ vector).max())) >= self.NEAR
            or (likeness >= self.NOT_FAR and any(facet <= _said(sentence) for facet in held))
        )
        return [
            Concern(f"it is about “{topic}”, which the author does not want the twin to speak about") for topic in about
        ]

    @cached_property
    def _facets(self) -> list[tuple[str, list[frozenset[str]], Matrix]]:
        import numpy as np

        made = []
        for topic in self._topics:
            facets = [facet.strip() for facet in re.split(r"[:,;]", topic) if facet.strip()]
            asked = [f"a question about {re.sub(r'^my ', 'your ', facet)}" for facet in facets]
            vectors = self._embedder.embed([clip(text, self._embedder.tokenizer) for text in (*facets, *asked)])
            held = [facet for facet in map(_said, facets) if facet]
            made.append((topic.partition(":")[0].strip(), held, np.stack([one.vector for one in vectors])))
        return made


class PromptGuard:
    """Answers that recite the instructions of the prompts: `run` words in a row that stand in one of them."""

    name = "prompt"

    def __init__(self, templates: Sequence[str] = (), *, run: int = 9) -> None:
        ours = (p.system for p in (prompts.ANSWER, prompts.REWRITE, prompts.OUTLINE, prompts.SECTION))
        self._run = run
        self._runs = frozenset(chain.from_iterable(self._runs_of(text) for text in (*templates, *ours)))

    def look(self, text: str) -> list[Concern]:
        """One concern where the instructions are recited."""
        leaked = any(run in self._runs for run in self._runs_of(text))
        return [Concern("it recites the instructions of the language model")] if leaked else []

    def _runs_of(self, text: str) -> Iterator[tuple[str, ...]]:
        said = re.findall(r"\w+", text.casefold())
        return (tuple(said[start : start + self._run]) for start in range(len(said) - self._run + 1))


# --- rails ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rail:
    """A guard, and whether what it is sure of blocks; otherwise it only flags."""

    guard: Guard
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Guardrails:
    """The rails of every stage. Without any, nothing is looked at, and `off_topic` alone has a meaning.

    `authors` are the names under which the author's own writing stands. With `off_topic` "block" the twin abstains
    where the writing does not cover the question; with "flag" it answers from what comes nearest and says so.
    """

    question: tuple[Rail, ...] = ()
    turn: tuple[Rail, ...] = ()
    own_passage: tuple[Rail, ...] = ()
    passage: tuple[Rail, ...] = ()
    answer: tuple[Rail, ...] = ()
    authors: frozenset[str] = frozenset()
    off_topic: GuardSetting = "block"
    unsupported: GuardSetting = "off"

    def of_question(self, question: str) -> tuple[str, tuple[GuardFinding, ...]]:
        """The question without secrets, and what was found in it. Secrets are never sent on, whatever the setting."""
        question, found = self._without_secrets(question)
        for rail in self.question:
            if not isinstance(rail.guard, SecretGuard):
                found += [_finding(rail, concern, "question") for concern in rail.guard.look(question)]
        return question, tuple(dict.fromkeys(found))

    def without_secrets(self, text: str) -> str:
        """A text as it may be kept: without the secrets that are taken out of questions."""
        return self._without_secrets(text)[0]

    def _without_secrets(self, text: str) -> tuple[str, list[GuardFinding]]:
        concerns = [
            (rail, concern)
            for rail in self.question
            if isinstance(rail.guard, SecretGuard)
            for concern in rail.guard.look(text)
        ]
        found = [GuardFinding(rail.guard.name, "removed", "question", concern.reason) for rail, concern in concerns]
        return _cut(text, [_place(concern) for _, concern in concerns]), found

    def of_history(self, history: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[GuardFinding, ...]]:
        """Earlier turns without secrets, and without those that give orders, which nobody refers to any more."""
        kept: list[Message] = []
        found: list[GuardFinding] = []
        for turn in history:
            text, secrets = self._without_secrets(turn.content)
            concerns = [(rail, concern) for rail in self.turn for concern in rail.guard.look(text)]
            blocked = any(rail.blocks and concern.sure for rail, concern in concerns)
            action: GuardAction = "removed" if blocked else "flagged"
            kept += [] if blocked else [Message(turn.role, text)]
            found += [*secrets, *(GuardFinding(rail.guard.name, action, "question", c.reason) for rail, c in concerns)]
        return tuple(kept), tuple(dict.fromkeys(found))

    def of_passages(self, passages: Sequence[Passage]) -> tuple[list[Passage], tuple[GuardFinding, ...]]:
        """The passages as models and rules may use them: orders in them are blanked out, offsets stay as they are."""
        shown, found = [], []
        for passage in passages:
            rails = self.own_passage if passage.document.author in self.authors else self.passage
            for rail in rails:
                passage, concerns = _without_orders(passage, rail)
                action: GuardAction = "removed" if rail.blocks else "flagged"
                found += [
                    GuardFinding(rail.guard.name, action, "passage", concern.reason, passage.document.id)
                    for concern in concerns
                ]
            shown.append(passage)
        return shown, tuple(dict.fromkeys(found))

    def of_answer(self, answer: Answer) -> tuple[GuardFinding, ...]:
        """What was found in a whole answer. Personal data that a passage holds was published, and is no leak."""
        found = list(self._in_text(answer.text, self.answer, answer.passages))
        if answer.unsupported and self.unsupported != "off":
            count = len(answer.unsupported)
            reason = f"{count} of its sentences {'is' if count == 1 else 'are'} not supported by the passages"
            found.append(
                GuardFinding("unsupported", "blocked" if self.unsupported == "block" else "flagged", "answer", reason)
            )
        return tuple(dict.fromkeys(found))

    def on_the_way(self, text: str, passages: Sequence[Passage]) -> tuple[GuardFinding, ...]:
        """What must not be shown, in the newest words of a streamed text and those before them."""
        rails = [rail for rail in self.answer if rail.blocks]
        found = self._in_text(text, rails, passages, published=True)
        return tuple(finding for finding in found if finding.action == "blocked")

    @property
    def unit(self) -> Literal["piece", "word", "sentence"]:
        """What of a streamed text has to be complete before it is shown: a secret is a word, others need sentences."""
        blocking = [rail.guard for rail in self.answer if rail.blocks]
        if not blocking:
            return "piece"
        return "word" if all(isinstance(guard, SecretGuard) for guard in blocking) else "sentence"

    def _in_text(
        self, text: str, rails: Iterable[Rail], passages: Sequence[Passage], *, published: bool = False
    ) -> Iterator[GuardFinding]:
        for rail in rails:
            for concern in rail.guard.look(text):
                if concern.start is not None and (published or isinstance(rail.guard, PersonalGuard)):
                    said = text[slice(*_place(concern))]
                    if any(said in passage.text for passage in passages):
                        continue
                yield _finding(rail, concern, "answer")


def guardrails(
    settings: Mapping[str, GuardSetting],
    *,
    embedder: Embedder,
    redactor: Redactor,
    finder: PersonalFinder,
    authors: Collection[str],
    topics: Sequence[str] = (),
    languages: Collection[str] = (),
    max_characters: int = 8000,
    cache_dir: Path | None = None,
) -> Guardrails:
    """The rails that the settings ask for, by guard name; a guard that is "off" is not built.

    `authors` are the author's name and aliases. `cache_dir` keeps the fitted head of the injection guard.
    """
    detector = InjectionDetector(embedder, cache_dir=cache_dir)
    topic_guard = TopicGuard(topics, embedder)

    def rails(*guards: Guard) -> tuple[Rail, ...]:
        chosen = [(guard, settings[guard.name]) for guard in guards]
        return tuple(Rail(guard, setting == "block") for guard, setting in chosen if setting != "off")

    named = (topic_guard,) if topics else ()
    secrets, personal = SecretGuard(redactor), PersonalGuard(finder)
    return Guardrails(
        question=rails(
            LengthGuard(max_characters), LanguageGuard(languages), InjectionGuard(detector), *named, secrets, personal
        ),
        turn=rails(TurnGuard(detector)),
        own_passage=rails(OrderGuard(detector, own=True)),
        passage=rails(OrderGuard(detector, own=False)),
        answer=rails(secrets, personal, *named, PromptGuard()),
        authors=frozenset(authors),
        off_topic=settings["off_topic"],
        unsupported=settings["unsupported"],
    )


def notes(found: Iterable[GuardFinding]) -> list[str]:
    """What guards did, in plain words for the reader, each once.

    Unsupported sentences are marked where they stand and listed, so they need no note.
    """
    lines = [
        f"Guard {finding.guard} {_DID[finding.stage, finding.action]}: {finding.reason}."
        for finding in found
        if (finding.guard, finding.action) != ("unsupported", "flagged")
    ]
    return list(dict.fromkeys(lines))


_DID: Mapping[tuple[GuardStage, GuardAction], str] = {
    ("question", "blocked"): "blocked the question",
    ("question", "removed"): "took something out of the question or of what was said before",
    ("question", "flagged"): "flagged the question",
    ("passage", "removed"): "took sentences out of a passage before it was used",
    ("passage", "flagged"): "flagged a passage",
    ("answer", "blocked"): "blocked the answer",
    ("answer", "flagged"): "flagged the answer",
}


def refusal(found: Sequence[GuardFinding]) -> str:
    """What the reader is told instead of an answer: why there is none, and what to do."""
    blocked = next(finding for finding in found if finding.action == "blocked")
    what = "I do not answer this question" if blocked.stage == "question" else "The answer is not shown"
    return f"{what}: {blocked.reason}. {_REMEDIES.get(blocked.guard, _REMEDY)}".replace("{guard}", blocked.guard)


_REMEDY = "Ask in other words, or set guard.{guard} to flag in twin.toml."
_REMEDIES = {
    "length": "Ask a shorter one, or raise guard.max_characters in twin.toml.",
    "injection": "Ask about the writing in plain words; the owner of this twin can set guard.injection to flag.",
    "topics": "Ask about something else; guard.topics in twin.toml lists what is left out.",
    "secrets": "Ask in other words; the passages are still found by: twin search.",
    "unsupported": "Ask more narrowly, or set guard.unsupported to flag in twin.toml.",
}


# --- streams --------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A guard blocked an answer that was being written."""

    def __init__(self, found: Sequence[GuardFinding]) -> None:
        super().__init__(", ".join(finding.guard for finding in found))
        self.found = tuple(found)


def held(events: Generator[Event, None, T], rails: Guardrails) -> Generator[Event, None, T]:
    """The events, their text held back until the guards that block have seen each word (or sentence) whole.

    Raises `Refused` before anything that a guard blocks is shown; the events are closed then.
    """
    if rails.unit == "piece":
        return (yield from events)
    shown = waiting = ""
    passages: Sequence[Passage] = ()
    try:
        while True:
            event = next(events)
            if isinstance(event, TextDelta):
                waiting += event.text
                ready = waiting[: _ready(waiting, rails.unit)]
                waiting = waiting[len(ready) :]
            else:
                ready, waiting = ("", "") if isinstance(event, Withdrawn) else (waiting, "")
            if ready:
                _check(shown, ready, rails, passages)
                shown += ready
                yield TextDelta(ready)
            if not isinstance(event, TextDelta):
                shown = "" if isinstance(event, Withdrawn) else shown
                passages = event.passages if isinstance(event, Passages) else passages
                yield event
    except StopIteration as end:
        if waiting:
            _check(shown, waiting, rails, passages)
            yield TextDelta(waiting)
        result: T = end.value
        return result
    finally:
        events.close()


def _check(shown: str, ready: str, rails: Guardrails, passages: Sequence[Passage]) -> None:
    if found := rails.on_the_way(shown[-CONTEXT:] + ready, passages):
        raise Refused(found)


def _ready(waiting: str, unit: Literal["piece", "word", "sentence"]) -> int:
    """How much of the text is complete. A key of many lines is one word, so it waits for its last line."""
    ends = _SENTENCE_END if unit == "sentence" else _WORD_END
    end = max((match.end() for match in ends.finditer(waiting)), default=0)
    if not end and len(waiting) > LONGEST_HELD:
        end = len(waiting)
    opened = _KEY_BEGINS.search(waiting)
    if opened and not _KEY_ENDS.search(waiting, opened.end()):
        end = min(end, opened.start())
    return end


_WORD_END = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"[.!?…][\"')\]*_”’»]*\s+|[。！？]|\n+")
_KEY_BEGINS = re.compile(r"-{4,5}[ ]?BEGIN|PuTTY-User-Key-File")
_KEY_ENDS = re.compile(r"-{4,5}[ ]?END[^\n]*-{4,5}|Private-MAC: \w+\s")


# --- passages -------------------------------------------------------------------------------------------------------


def _without_orders(passage: Passage, rail: Rail) -> tuple[Passage, list[Concern]]:
    """The passage with what concerns a guard blanked out, also in its title and headings; the same if it only flags."""
    in_text = list(rail.guard.look(passage.text))
    in_title = list(rail.guard.look(passage.document.title))
    in_headings = [list(rail.guard.look(heading)) for heading in passage.heading_path]
    concerns = [*in_text, *in_title, *chain.from_iterable(in_headings)]
    if not concerns or not rail.blocks:
        return passage, concerns
    text = passage.text
    for start, end in map(_place, in_text):
        text = text[:start] + _blank(end - start) + text[end:]
    return (
        replace(
            passage,
            text=text,
            document=replace(passage.document, title=_LEFT_OUT) if in_title else passage.document,
            heading_path=tuple(
                _LEFT_OUT if found else heading
                for heading, found in zip(passage.heading_path, in_headings, strict=True)
            ),
        ),
        concerns,
    )


_LEFT_OUT = "[…]"


def _blank(length: int) -> str:
    """As long as what it replaces, so that offsets stay, and a paragraph without words, which nothing quotes."""
    filler = f"\n\n{_LEFT_OUT}".ljust(length - 2) + "\n\n"
    return filler if len(filler) == length else "…" * length


def as_published(answer: Answer, passages: Iterable[Passage]) -> Answer:
    """The answer with its passages and quotations as the author published them, where they had been blanked out."""
    originals = {_key(passage): passage for passage in passages}

    def original(passage: Passage) -> Passage:
        return replace(originals.get(_key(passage), passage), number=passage.number)

    def cites(citation: Citation, passage: Passage) -> bool:
        there = (passage.document.id, passage.outdated) == (citation.document_id, citation.outdated)
        return there and passage.start <= citation.start and citation.end <= passage.end

    shown = tuple(original(passage) for passage in answer.passages)
    cited = []
    for citation in answer.citations:
        passage = next((each for each in originals.values() if cites(citation, each)), None)
        if passage is not None:
            start, end = citation.start - passage.start, citation.end - passage.start
            citation = passage.cite(start, end, number=citation.number)
        cited.append(citation)
    return replace(answer, passages=shown, citations=tuple(cited))


def _key(passage: Passage) -> tuple[str, bool, int, int]:
    # Two versions of a document have different offsets, and an answer may hold passages of both.
    return passage.document.id, passage.outdated, passage.start, passage.end


# --- one embedding for all ------------------------------------------------------------------------------------------


class Remembering:
    """An embedder that keeps the vectors of the last single texts: guard and search embed a question once between them.

    Safe to use from several threads.
    """

    def __init__(self, embedder: Embedder, *, most: int = 64) -> None:
        self.name = embedder.name
        self.dim = embedder.dim
        self._embedder = embedder
        self._most = most
        self._lock = Lock()
        self._known: OrderedDict[str, Embedding] = OrderedDict()

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts texts as the embedder does."""
        return self._embedder.tokenizer

    def embed(self, texts: Sequence[str], *, tokens: bool = False) -> list[Embedding]:
        """As the embedder does."""
        if tokens or len(texts) != 1:
            return self._embedder.embed(texts, tokens=tokens)
        with self._lock:
            known = self._known.get(texts[0])
        if known is not None:
            return [known]
        made = self._embedder.embed(texts)
        with self._lock:
            self._known[texts[0]] = made[0]
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return made

    def embed_tokens(self, text: str) -> Matrix:
        """As the embedder does."""
        return self._embedder.embed_tokens(text)


# --- small things ---------------------------------------------------------------------------------------------------

_NO_TIME = datetime.min.replace(tzinfo=UTC)


def _finding(rail: Rail, concern: Concern, stage: GuardStage) -> GuardFinding:
    action: GuardAction = "blocked" if rail.blocks and concern.sure else "flagged"
    return GuardFinding(rail.guard.name, action, stage, concern.reason)


def _place(concern: Concern) -> tuple[int, int]:
    return concern.start or 0, concern.end or 0


def _cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}[left out]{text[end:]}"
    return text


def _taken_out(text: str, redacted: str) -> list[tuple[int, int]]:
    """Where the pieces stood that a redactor replaced: between what it left, in order.

    Such a mark may stand in the text itself, and is no piece that was replaced.
    """
    first, *rest = _REDACTED.split(redacted)
    marked = list(zip(rest[::2], rest[1::2], strict=True))
    spans = []
    at = len(first)
    for number, (mark, piece) in enumerate(marked, start=1):
        if text.startswith(mark, at):
            at += len(mark) + len(piece)
            continue
        # The last piece ends where the text ends, so it is not looked for from the front.
        is_last = number == len(marked)
        following = len(text) - len(piece) if is_last else text.find(piece, at + 1) if piece else at + 1
        spans.append((at, max(following, at)))
        at = following + len(piece)
    return spans


_REDACTED = re.compile(r"(\[redacted:[\w-]+\])")


def _said(text: str) -> frozenset[str]:
    from llm_twin.inference.verify import content

    return content(text)


class _Identifier:
    """What is used of py3langid's identifier."""

    classify: Callable[[str], tuple[str, float]]
