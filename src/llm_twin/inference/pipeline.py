"""The story of an answer: guard, understand, find, judge, write, verify, guard. Terminal and servers stream it."""

from __future__ import annotations

import contextvars
import re
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from llm_twin.core import cancelling, stylometry
from llm_twin.core.errors import ConfigError, ModelError, ModelMissing, NotFound
from llm_twin.core.ports import (
    ActiveSpan,
    Embedder,
    LanguageModel,
    Reranker,
    SparseEncoder,
    Tracer,
    VectorIndex,
    Warehouse,
)
from llm_twin.core.prompts import ANSWER, version
from llm_twin.core.records import (
    Answer,
    Author,
    Done,
    Event,
    Exchange,
    Filter,
    GuardFinding,
    Hit,
    Message,
    Passage,
    Passages,
    TextDelta,
    Understood,
    Withdrawn,
)
from llm_twin.core.text import prose, words
from llm_twin.inference.cache import AnswerCache, Repeats, stands_alone
from llm_twin.inference.chat import Conversation, standalone
from llm_twin.inference.context import assemble
from llm_twin.inference.evidence import Evidence, weigh
from llm_twin.inference.extract import extract
from llm_twin.inference.guardrails import (
    PERSONAL_KINDS,
    Guardrails,
    Refused,
    Remembering,
    as_published,
    guardrails,
    held,
    notes,
    refusal,
)
from llm_twin.inference.retrieve import Candidate, Retriever, holds
from llm_twin.inference.turns import Turns
from llm_twin.inference.understand import (
    KIND_WORDS,
    KINDS,
    PLATFORMS,
    Understanding,
    describe,
    filter_notes,
    merge,
    period_of,
    understand,
)

__all__ = [
    "PERSONAL_KINDS",
    "AnswerCache",
    "Conversation",
    "Guardrails",
    "Parts",
    "Remembering",
    "Repeats",
    "Turns",
    "answer",
    "answer_of",
    "guardrails",
    "messages_for",
    "search",
    "typed_filter",
    "voice_of",
    "write",
]

# Paragraphs that show the model the author's tone, and the fewest words that show any.
EXAMPLES = 2
EXAMPLE_WORDS = 40

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything an answer is made with. Numbers are those of the settings `search` and `ask`.

    `passages` is how many hits the context is assembled from, `context_tokens` how long it may be by the embedder's
    count, `max_tokens` how long a generated answer may be. `repeats` remembers the answers of one user. `turns` lets
    few of many answers compute at once: those that have the same.
    """

    index: VectorIndex
    embedder: Embedder
    sparse: SparseEncoder
    store: Warehouse
    tracer: Tracer
    reranker: Reranker | None = None
    model: LanguageModel | None = None
    authors: Sequence[Author] = ()
    candidates: int = 50
    passages: int = 8
    context_tokens: int = 2000
    max_tokens: int = 800
    temperature: float = 0.3
    guards: Guardrails = field(default_factory=Guardrails)
    repeats: Repeats | None = None
    turns: Turns = field(default_factory=Turns)

    @property
    def retriever(self) -> Retriever:
        """The search over these parts."""
        return Retriever(self.index, self.embedder, self.sparse, self.store, self.reranker, self.candidates)

    def texts(self, document_ids: Collection[str]) -> Mapping[str, str]:
        """The cleaned text of documents, in which all offsets stand."""
        return {made.document.id: made.document.text for made in self.store.features(document_ids)}


def search(query: str, *, parts: Parts, k: int, where: Filter, method: str = "reranked") -> list[Hit]:
    """The chunks that match best, best first; those that hold a quoted phrase word for word come before all others.

    Only the filter given applies: a list of hits has no place to say that a filter was read out of the query.
    """
    with parts.tracer.span("search", method=method) as span:
        phrases = understand(query, now=_NEVER).phrases
        now = time.monotonic()
        found, _ = _ranked(query, parts, parts.tracer, k=k, where=where, phrases=phrases, method=method, since=now)
        span.set(hits=len(found))
        return [candidate.hit for candidate in found]


def answer(
    question: str,
    *,
    parts: Parts,
    where: Filter = Filter(),
    history: Sequence[Message] = (),
    now: datetime | None = None,
) -> Iterator[Event]:
    """Answer from the author's writing, event by event: `Understood`, `Passages`, text, and `Done` with the answer.

    Without a model, or when it fails, the answer quotes; where the writing does not cover the question it abstains.
    What the question says about author, platform, kind and time filters the search unless `where` speaks of the same.
    Raises `IndexMismatch` and `StoreError`; a failing language model is a note in the answer, not an error.
    """
    return _in_own_context(_answer(question, parts, where, history, now or datetime.now(UTC)))


def write(topic: str, *, kind: str, words: int, parts: Parts) -> Iterator[Event]:
    """A draft of about `words` words in the author's voice, grounded in what they wrote: `Passages`, text, `Done`.

    Raises `ModelMissing` without a model, `ModelError` when it fails, `ConfigError` for an unknown kind.
    """
    from llm_twin.inference.generate import NO_MODEL

    if parts.model is None:
        raise ModelMissing(NO_MODEL)
    return _in_own_context(_write(topic, kind, words, parts.model, parts))


def messages_for(exchange: Exchange, history: Sequence[Message], *, parts: Parts) -> list[Message]:
    """The messages that ask a model for the answer of an exchange: the code that answers makes them, with its passages.

    Training on feedback therefore sees what answering sees. Raises `ModelError` when not even one passage fits.
    """
    from llm_twin.inference.generate import messages_for as compose

    passages, _ = parts.guards.of_passages(exchange.answer.passages)
    history, _ = parts.guards.of_history(history)
    author = passages[0].document.author
    messages, _ = compose(
        exchange.answer.read_as or exchange.question,
        passages,
        author=author,
        voice=parts.store.profiles().get(author),
        examples=_examples(passages),
        history=history,
    )
    return messages


def answer_of(events: Iterator[Event]) -> Answer:
    """The answer at the end of its events."""
    for event in events:
        if isinstance(event, Done):
            return event.answer
    raise AssertionError("the events of an answer end with Done")


def voice_of(texts: Sequence[str]) -> tuple[int, dict[str, float]]:
    """Words and measures (see core/stylometry.py) of generated texts, their citations left out; of none, nothing."""
    from llm_twin.inference.verify import uncited

    readings = [stylometry.read(uncited(text)) for text in texts]
    return sum(len(reading.words) for reading in readings), stylometry.measure(readings)


# --- the story ------------------------------------------------------------------------------------------------------


def _answer(
    question: str, parts: Parts, where: Filter, history: Sequence[Message], now: datetime
) -> Generator[Event, None, None]:
    clock = _Clock(parts.tracer)
    with clock.span("ask", mode="generative" if parts.model else "extractive") as root:
        question, history, guarded = _guard_question(question, history, parts, clock)
        if _blocked(guarded):
            yield Understood(question)
            answered = yield from _refused(guarded)
        else:
            answered = yield from _remembered(question, guarded, parts, where, history, now, clock, root)
        root.set(answer=answered.mode, guarded=len(answered.guarded))
        answered = replace(answered, trace_id=root.trace_id)
    yield Done(replace(answered, timings_ms=clock.timings_ms))


def _remembered(
    question: str,
    guarded: tuple[GuardFinding, ...],
    parts: Parts,
    where: Filter,
    history: Sequence[Message],
    now: datetime,
    clock: _Clock,
    root: ActiveSpan,
) -> Generator[Event, None, Answer]:
    """The answer that was given before to the same question, under the same conditions; else a new one, to remember.

    A question that leans on the conversation, or over which a guard found anything, is always answered anew. So is one
    whose answer was no full one: an abstention, or quotations because the model failed.
    """
    if parts.repeats is None or guarded or (history and not stands_alone(question)):
        return (yield from _asked(question, guarded, parts, where, history, now, clock, root))
    info = parts.index.info()
    generation = info.digest if info else ""
    model = parts.model.name if parts.model else None
    about = (version(ANSWER), model, where, now.date())
    with clock.span("cache") as span:
        again = parts.repeats.find(question, generation=generation, about=about)
        span.set(found=(again.cached or "") if again else "")
    if again:
        root.set(cached=again.cached or "")
        yield Understood(question, where, again.notes)
        yield Passages(again.passages)
        yield TextDelta(again.text)
        return again
    answered = yield from _asked(question, guarded, parts, where, history, now, clock, root)
    if not history and not answered.guarded and answered.mode == ("generated" if parts.model else "extractive"):
        parts.repeats.keep(question, answered, generation=generation, about=about)
    return answered


def _asked(
    question: str,
    guarded: tuple[GuardFinding, ...],
    parts: Parts,
    where: Filter,
    history: Sequence[Message],
    now: datetime,
    clock: _Clock,
    root: ActiveSpan,
) -> Generator[Event, None, Answer]:
    """The answer to a question that no guard blocked."""
    with clock.span("understand"):
        alone, read_as = standalone(question, history, model=parts.model)
        understood = _understand(alone, parts, now)
    if read_as:  # it is made of what was said before, which may be worse than what is said now
        _, _, more = _guard_question(alone, (), parts, clock)
        guarded = tuple(dict.fromkeys((*guarded, *more)))
        if _blocked(more):
            yield Understood(question)
            return (yield from _refused(guarded))
    found = _find(understood, where, parts, clock)
    told = (*((read_as,) if read_as else ()), *found.notes, *notes(guarded))
    # Told after the search: a filter that gave way must not be announced as one that holds.
    yield Understood(understood.text, found.where, told)

    passages = _passages(found, parts, clock)
    root.set(strength=found.evidence.strength)

    covered = found.evidence.enough
    if not passages or not (covered or parts.guards.off_topic != "block"):
        answered = _abstention(passages, found, where, parts)
        yield Passages(tuple(passages))
        yield TextDelta(answered.text)
    else:
        answered = yield from _guarded_answer(
            lambda shown: _written(alone, shown, history, parts, clock), passages, parts, clock
        )
        if not covered and parts.guards.off_topic == "flag":
            off = GuardFinding("off_topic", "flagged", "question", "the writing may not cover it")
            answered = replace(answered, guarded=(off, *answered.guarded), notes=(*notes([off]), *answered.notes))
    return replace(
        answered,
        notes=(*told, *answered.notes),
        guarded=(*guarded, *answered.guarded),
        read_as=alone if read_as else None,
    )


# --- guards ---------------------------------------------------------------------------------------------------------


def _guard_question(
    question: str, history: Sequence[Message], parts: Parts, clock: _Clock
) -> tuple[str, Sequence[Message], tuple[GuardFinding, ...]]:
    """The question without secrets, the earlier turns that give no orders, and what was found in both."""
    if not (parts.guards.question or parts.guards.turn):
        return question, history, ()
    with parts.turns.take(soon=True, since=clock.began), clock.span("guard", stage="question") as span:
        question, found = parts.guards.of_question(question)
        history, earlier = parts.guards.of_history(history)
        _tell(span, (*found, *earlier))
    return question, history, (*found, *earlier)


def _guarded_answer(
    write: Callable[[Sequence[Passage]], Generator[Event, None, Answer]],
    passages: Sequence[Passage],
    parts: Parts,
    clock: _Clock,
) -> Generator[Event, None, Answer]:
    """What `write` makes of the passages without orders to models; readers see the passages as they were published."""
    shown, found = _guard_passages(passages, parts, clock)
    try:
        answered = yield from _published(held(write(shown), parts.guards), passages)
        answered = as_published(answered, passages)
        of_answer = _guard_answer(answered, parts, clock)
    except Refused as refused:
        of_answer = refused.found
    if _blocked(of_answer):
        yield Withdrawn(notes(of_answer)[0])
        return (yield from _refused((*found, *of_answer)))
    told = (*notes(found), *answered.notes, *notes(of_answer), *_outdated_notes(answered))
    return replace(answered, guarded=(*found, *of_answer), notes=told)


def _outdated_notes(answered: Answer) -> Iterator[str]:
    for title in dict.fromkeys(citation.title for citation in answered.citations if citation.outdated):
        yield f"“{title}” has changed since it was indexed, and is quoted as it was; the next sync brings the index up."


def _guard_passages(
    passages: Sequence[Passage], parts: Parts, clock: _Clock
) -> tuple[Sequence[Passage], tuple[GuardFinding, ...]]:
    if not (parts.guards.passage or parts.guards.own_passage) or not passages:
        return passages, ()
    with parts.turns.take(soon=True, since=clock.began), clock.span("guard", stage="passage") as span:
        shown, found = parts.guards.of_passages(passages)
        _tell(span, found)
    return shown, found


def _guard_answer(answered: Answer, parts: Parts, clock: _Clock) -> tuple[GuardFinding, ...]:
    if not parts.guards.answer and parts.guards.unsupported == "off":
        return ()
    with parts.turns.take(soon=False, since=clock.began), clock.span("guard", stage="answer") as span:
        found = parts.guards.of_answer(answered)
        _tell(span, found)
    return found


def _published(events: Generator[Event, None, T], passages: Sequence[Passage]) -> Generator[Event, None, T]:
    """The events with passages as the author published them."""
    try:
        while True:
            event = next(events)
            if isinstance(event, Passages):
                event = Passages(as_published(Answer("", "abstained", passages=event.passages), passages).passages)
            yield event
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        events.close()


def _refused(found: Sequence[GuardFinding]) -> Generator[Event, None, Answer]:
    """In plain words that a guard blocked it, why, and what to do."""
    text = refusal(found)
    yield Passages(())
    yield TextDelta(text)
    return Answer(text, "abstained", notes=tuple(notes(found)), guarded=tuple(found))


def _blocked(found: Sequence[GuardFinding]) -> bool:
    return any(finding.action == "blocked" for finding in found)


def _tell(span: ActiveSpan, found: Sequence[GuardFinding]) -> None:
    """What a trace shows of a guard: names and counts, never what was found."""
    span.set(found=len(found), blocked=_blocked(found), guards=", ".join(sorted({each.guard for each in found})))


@dataclass(frozen=True, slots=True)
class _Found:
    """Candidates, how strong their evidence is, under which filter they were found, and what the reader should know.

    `texts` are the stored cleaned texts of their documents, read once, so that one answer sees one version of each.
    """

    candidates: Sequence[Candidate]
    texts: Mapping[str, str]
    evidence: Evidence
    where: Filter
    notes: tuple[str, ...] = ()


def _understand(question: str, parts: Parts, now: datetime) -> Understanding:
    """Filters are only those that the index could satisfy; it is asked only about what the question mentions."""
    lowered = question.lower()
    mentions_kind = re.search("|".join(KIND_WORDS.values()), question, re.IGNORECASE)
    return understand(
        question,
        authors=parts.authors,
        sources=[name for name in PLATFORMS if name in lowered and parts.index.count(Filter(sources=(name,)))],
        kinds=[kind for kind in KINDS if mentions_kind and parts.index.count(Filter(kinds=(kind,)))],
        now=now,
    )


def _find(understood: Understanding, explicit: Filter, parts: Parts, clock: _Clock) -> _Found:
    """Search under the filter. One that was only read out of the question gives way where nothing useful is under it.

    A filter the caller set is an order and never gives way. One we inferred is a guess about words: who asks what he
    wrote in 2019 is better served by "nothing from 2019, but in 2021 …" than by silence.
    """
    asked_for = merge(understood.where, explicit)
    found = _search(understood, asked_for, parts, clock)
    # What the caller asked for needs no telling, and what it overruled did not happen.
    applied = [note for note in understood.notes if note in filter_notes(asked_for)]
    found = replace(found, notes=(*applied, *found.notes))
    if found.evidence.enough or asked_for == explicit:
        return found
    wider = _search(understood, explicit, parts, clock)
    if not wider.evidence.enough:
        return found if found.candidates else wider
    everything = f"everything published {describe(explicit)}" if explicit else "everything"
    note = f"Nothing published {describe(asked_for)} covers this, so the answer comes from {everything}."
    return replace(wider, notes=(note, *wider.notes))


def _search(understood: Understanding, where: Filter, parts: Parts, clock: _Clock) -> _Found:
    candidates, texts = _ranked(
        understood.text,
        parts,
        clock,
        k=parts.passages,
        where=where,
        phrases=understood.phrases,
        since=clock.began,
    )
    evidence = weigh(understood.text, candidates, sparse=parts.sparse)
    told = tuple(_search_notes(understood, candidates, parts.retriever))
    return _Found(candidates, texts, evidence, where, told)


def _ranked(
    query: str,
    parts: Parts,
    tracer: Tracer,
    *,
    k: int,
    where: Filter,
    phrases: Sequence[str],
    since: float,
    method: str = "reranked",
) -> tuple[list[Candidate], Mapping[str, str]]:
    """The `k` chunks that match best, of documents that are still there, and the stored texts of those documents.

    What is removed leaves the warehouse at once and the index with the next generation. In between nothing of it is
    shown, and none of its chunks takes the place of another: where they stand in the way, more are asked for.
    """
    depth = k
    while True:
        with parts.turns.take(soon=True, since=since):
            found = parts.retriever.rank([query], k=depth, where=where, phrases=phrases, method=method, tracer=tracer)
        texts = parts.texts({candidate.hit.document.id for candidate in found})
        there = [candidate for candidate in found if candidate.hit.document.id in texts]
        if len(there) >= k or len(found) < depth:
            return there[:k], texts
        depth *= 4


def _passages(found: _Found, parts: Parts, clock: _Clock) -> list[Passage]:
    with parts.turns.take(soon=True, since=clock.began), clock.span("context") as span:
        passages = assemble(
            [candidate.hit for candidate in found.candidates],
            budget_tokens=parts.context_tokens,
            count=parts.embedder.tokenizer.count,
            texts=found.texts,
        )
        span.set(passages=len(passages))
    return passages


def _search_notes(understood: Understanding, candidates: Sequence[Candidate], retriever: Retriever) -> Iterator[str]:
    if retriever.clipped(understood.text):
        yield "The question is long: its meaning was compared by its beginning, its words in full."
    for phrase in understood.phrases:
        if candidates and not holds(candidates[0].hit, [phrase]):
            yield f"Nothing that was found says “{phrase}” word for word."


def _abstention(passages: Sequence[Passage], found: _Found, where: Filter, parts: Parts) -> Answer:
    """In plain words that the writing does not cover the question; the nearest passages are shown, not claimed."""
    if not parts.index.count():
        return Answer("Nothing is indexed yet, so there is nothing to answer from; run: twin sync", "abstained")
    within = f" {describe(where)}" if where else ""
    if not found.candidates:
        return Answer(f"There is no writing{within} to answer from.", "abstained")
    who = parts.authors[0].name if len(parts.authors) == 1 else "the author"
    text = f"I find nothing{within} in what {who} has published that answers this."
    return Answer(text, "abstained", passages=tuple(passages))


def _written(
    question: str,
    passages: Sequence[Passage],
    history: Sequence[Message],
    parts: Parts,
    clock: _Clock,
) -> Generator[Event, None, Answer]:
    note = ""
    if parts.model is not None:
        yield Passages(tuple(passages))
        try:
            return (yield from _generated(question, passages, history, parts.model, parts, clock))
        except ModelError as error:
            note = f"The language model failed ({error}), so the answer quotes the author instead."
            yield Withdrawn(note)
    with parts.turns.take(soon=True, since=clock.began), clock.span("extract"):
        extracted = extract(question, passages, embedder=parts.embedder, sparse=parts.sparse)
    if not extracted.citations:
        text = "What comes nearest holds no sentence that could be quoted as an answer, only links, code or tables."
        yield Passages(tuple(passages))
        yield TextDelta(text)
        return Answer(text, "abstained", passages=tuple(passages), notes=(note,) if note else ())
    yield Passages(extracted.passages)
    yield TextDelta(extracted.text)
    return Answer(
        extracted.text,
        "extractive",
        citations=extracted.citations,
        passages=extracted.passages,
        notes=(note,) if note else (),
    )


def _generated(
    question: str,
    passages: Sequence[Passage],
    history: Sequence[Message],
    model: LanguageModel,
    parts: Parts,
    clock: _Clock,
) -> Generator[Event, None, Answer]:
    """The model's answer, streamed, then checked. Raises `ModelError` for a model that fails or stays silent."""
    from llm_twin.inference.generate import generate
    from llm_twin.inference.verify import verify

    author = passages[0].document.author
    with clock.span("generate", model=model.name) as span:
        pieces = generate(
            question,
            passages,
            model=model,
            author=author,
            voice=parts.store.profiles().get(author),
            examples=_examples(passages),
            history=history,
            max_tokens=parts.max_tokens,
            temperature=parts.temperature,
        )
        draft = yield from _streamed(pieces)
        span.set(prompt_tokens=draft.usage.prompt_tokens, completion_tokens=draft.usage.completion_tokens)
    with parts.turns.take(soon=False, since=clock.began), clock.span("verify"):
        verified = verify(draft.text, passages, embedder=parts.embedder)
    return Answer(
        verified.text,
        "generated",
        citations=verified.citations,
        passages=tuple(passages),
        unsupported=verified.unsupported,
        model=draft.model,
        prompt=draft.prompt,
        usage=draft.usage,
        notes=draft.notes,
    )


def _streamed(pieces: Generator[str, None, T]) -> Generator[Event, None, T]:
    """Pieces of text as events; what the generator returns is returned."""
    try:
        while True:
            cancelling.check()
            yield TextDelta(next(pieces))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        pieces.close()


def _write(topic: str, kind: str, length: int, model: LanguageModel, parts: Parts) -> Generator[Event, None, None]:
    clock = _Clock(parts.tracer)
    with clock.span("write", kind=kind, model=model.name) as root:
        topic, _, guarded = _guard_question(topic, (), parts, clock)
        if _blocked(guarded):
            answered = yield from _refused(guarded)
        else:
            answered = yield from _drafted(topic, kind, length, model, parts, clock)
            answered = replace(
                answered, guarded=(*guarded, *answered.guarded), notes=(*notes(guarded), *answered.notes)
            )
        root.set(answer=answered.mode, guarded=len(answered.guarded))
        answered = replace(answered, trace_id=root.trace_id)
    yield Done(replace(answered, timings_ms=clock.timings_ms))


def _drafted(
    topic: str, kind: str, length: int, model: LanguageModel, parts: Parts, clock: _Clock
) -> Generator[Event, None, Answer]:
    from llm_twin.inference.write import write as draft

    author = parts.authors[0].name if parts.authors else "the author"
    originals: list[Passage] = []
    found: list[GuardFinding] = []

    def retrieve(query: str) -> Sequence[Passage]:
        results = _search(Understanding(query), Filter(), parts, clock)
        passages = _passages(results, parts, clock) if results.evidence.enough else []
        shown, of_passages = _guard_passages(passages, parts, clock)
        originals.extend(passages)
        found.extend(of_passages)
        return shown

    def written(_: Sequence[Passage]) -> Generator[Event, None, Answer]:
        return draft(
            topic,
            kind=kind,
            length=length,
            retrieve=retrieve,
            model=model,
            author=author,
            embedder=parts.embedder,
            voice=parts.store.profiles().get(author),
            examples=_examples(retrieve(topic)),
            temperature=parts.temperature,
        )

    answered = yield from _guarded_answer(written, originals, parts, clock)
    return replace(
        answered,
        guarded=(*dict.fromkeys(found), *answered.guarded),
        notes=(*notes(found), *answered.notes),
    )


def _examples(passages: Sequence[Passage]) -> list[str]:
    """Paragraphs of the author's own prose from the passages that answer least: for the tone, not for what they say."""
    paragraphs = [paragraph for passage in reversed(passages) for paragraph in prose(passage.text)]
    return [text for text in paragraphs if len(words(text)) >= EXAMPLE_WORDS][:EXAMPLES]


# --- what a person types --------------------------------------------------------------------------------------------


def typed_filter(
    *,
    authors: Sequence[str] = (),
    sources: Sequence[str] = (),
    kinds: Sequence[str] = (),
    languages: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    known: Sequence[Author] = (),
) -> Filter:
    """A filter from words: names in any case or by alias, dates as YYYY, YYYY-MM or YYYY-MM-DD; `until` is inclusive.

    Raises `NotFound` for an author nobody collected, `ConfigError` for a kind or a date that is none.
    """
    for kind in kinds:
        if kind.lower() not in KINDS:
            raise ConfigError(f"there is no kind {kind!r}; use one of {', '.join(KINDS)}")
    return Filter(
        authors=tuple(dict.fromkeys(_known_author(name, known) for name in authors)),
        sources=tuple(source.lower() for source in sources),
        kinds=tuple(kind.lower() for kind in kinds),
        languages=tuple(language.lower() for language in languages),
        since=_typed_period("since", since)[0] if since else None,
        until=_typed_period("until", until)[1] if until else None,
    )


def _known_author(name: str, known: Sequence[Author]) -> str:
    for author in known:
        if name.casefold() in {spelling.casefold() for spelling in (author.name, *author.aliases)}:
            return author.name
    names = ", ".join(author.name for author in known) or "nobody"
    raise NotFound(f"nothing was collected from an author {name!r}; known are: {names}")


def _typed_period(option: str, date: str) -> tuple[datetime, datetime]:
    found = period_of(date) if re.fullmatch(r"\d{4}(?:-\d{2}){0,2}", date) else None
    if found is None:
        raise ConfigError(f"{option} {date!r} is no date; write YYYY, YYYY-MM or YYYY-MM-DD")
    return found


# --- time and context -----------------------------------------------------------------------------------------------

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Clock:
    """A tracer that also adds up the milliseconds of every step by name, for `Answer.timings_ms`."""

    tracer: Tracer
    timings_ms: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def span(self, name: str, **attributes: str | int | float | bool) -> Iterator[ActiveSpan]:
        """A span of the tracer below, measured. Raises `Cancelled` where nobody waits for the answer any more."""
        cancelling.check()
        started = time.perf_counter()
        try:
            with self.tracer.span(name, **attributes) as span:
                yield span
        finally:
            self.timings_ms[name] = self.timings_ms.get(name, 0.0) + (time.perf_counter() - started) * 1000


def _in_own_context(events: Generator[Event, None, None]) -> Iterator[Event]:
    """The events, each produced in one context of their own.

    A span stays open while its reader holds an event. A server takes every event from whichever thread is free, so
    the open span must neither leak into that thread nor be looked for there.
    """
    context = contextvars.copy_context()
    end: Any = object()
    try:
        while (event := context.run(next, events, end)) is not end:
            yield event
    finally:
        context.run(events.close)
