"""START HERE. `Twin` turns settings into parts and calls the pipelines; command line, servers and programs call it.

Parts are named in the settings, found in `catalog.py`, built when first needed, and handed to the stages as arguments.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm_twin import catalog, settings
from llm_twin.core.errors import ConfigError, NotFound, StoreError, TwinError
from llm_twin.core.pipeline import Dropped, LocalRunner
from llm_twin.core.records import (
    Answer,
    Author,
    Document,
    DocumentHeader,
    Done,
    Exchange,
    Filter,
    Hit,
    IndexInfo,
    ItemState,
    Message,
    Run,
    Span,
    VoiceProfile,
    fingerprint,
    to_json,
)
from llm_twin.doctor import Check, Doctor
from llm_twin.forgetting import Forgetting, Forgotten, KeptOut
from llm_twin.parts import Parts, part
from llm_twin.runs import left_out, recorded
from llm_twin.sources import KindOfSource, Sources, kinds
from llm_twin.workspace import Workspace

if TYPE_CHECKING:
    from llm_twin.core import ports
    from llm_twin.core.records import Event
    from llm_twin.inference.batch import Batches
    from llm_twin.inference.conversations import Conversations
    from llm_twin.ops.feedback import FeedbackLog
    from llm_twin.ops.jobs import Jobs
    from llm_twin.ops.keys import ApiKeys

__all__ = [
    "OUTCOMES", "WATCH_WAIT_S", "Chat", "Check", "Forgotten", "Held", "KeptOut", "KindOfSource", "RecentVoice",
    "Sampling", "Status", "SyncReport", "Twin",
]  # fmt: skip

OUTCOMES = ("added", "updated", "unchanged", "removed", "skipped", "failed")

WATCH_WAIT_S = 60.0
"""Seconds a watching sync waits for another writer, mostly a sync by hand, before it reports a failure."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """The account of a sync: how every item ended, and what the index holds now.

    `news` are the items that failed, or ended with another reason than in the sync before, or all that have a reason
    where addresses were named; `problems` are sources that could not be listed completely (nothing of theirs was
    removed); `left_out` are documents that are in the warehouse and not in the index, with the reason. `unlisted` are
    sources that were named by hand and stand in no settings.
    """

    items: tuple[ItemState, ...]
    news: tuple[ItemState, ...]
    problems: tuple[str, ...]
    unlisted: tuple[str, ...]
    left_out: tuple[Dropped, ...]
    chunks: int
    embedded: int
    seconds: float
    generation: str
    run_id: str
    trace_id: str

    @property
    def documents(self) -> dict[str, int]:
        """Items by outcome, every outcome named."""
        counts = Counter[str](item.outcome for item in self.items)
        return {outcome: counts[outcome] for outcome in OUTCOMES}

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `twin sync --json`."""
        return {
            "documents": self.documents,
            "items": [
                {
                    "source": item.source,
                    "item": item.key,
                    "outcome": item.outcome,
                    "reason": item.reason,
                    "tries": item.tries,
                    "next_try": to_json(item.next_try),
                }
                for item in self.items
            ],
            "left_out": [{"document_id": drop.item, "reason": drop.reason} for drop in self.left_out],
            "problems": list(self.problems),
            "chunks": self.chunks,
            "embedded": self.embedded,
            "seconds": round(self.seconds, 3),
            "generation": self.generation,
            "run_id": self.run_id,
            "trace_id": self.trace_id,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """What the workspace holds. `items` are the latest states of every item of every source.

    `model` is the language model of the settings; None where answers quote.
    """

    workspace: str
    author: str
    documents: int
    index: IndexInfo | None
    items: tuple[ItemState, ...]
    left_out: tuple[Dropped, ...]
    profiles: Mapping[str, VoiceProfile]
    last_sync: Run | None
    model: str | None

    def coverage(self) -> dict[str, dict[str, int]]:
        """Items by source and outcome."""
        table: dict[str, Counter[str]] = {}
        for item in self.items:
            table.setdefault(item.source, Counter())[item.outcome] += 1
        return {source: dict(counts) for source, counts in table.items()}

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `twin status --json`."""
        return {**to_json(self), "coverage": self.coverage()}


@dataclass(frozen=True, slots=True)
class Held:
    """How many documents there are of a source, a kind and a year; the year is None for undated ones."""

    source: str
    kind: str
    year: int | None
    documents: int


@dataclass(frozen=True, slots=True)
class RecentVoice:
    """The measures of what a language model wrote in the latest `answers`, `words` of it all together."""

    answers: int
    words: int
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a language model is to write one answer, where that differs from the settings `ask`.

    `max_tokens` can only lower what the setting allows, and bounds no draft: that has its length in words.
    """

    max_tokens: int | None = None
    temperature: float | None = None


class Chat:
    """A conversation: remembers what was said, so that a follow-up question can be understood, and keeps it.

    `keep` decides whether its exchanges are kept in the workspace, where they can be read again and given feedback on;
    by default the setting `ask.keep_history` does. `conversation_id` goes on with a kept one.
    """

    def __init__(self, twin: Twin, conversation_id: str | None, *, user: str, keep: bool | None) -> None:
        from llm_twin.inference import pipeline as inference

        self.twin = twin
        self.user = user
        self.keep = twin.settings.ask.keep_history if keep is None else keep
        self.conversation_id = conversation_id
        history = twin.conversations.history(conversation_id, user=user) if conversation_id else ()
        self.conversation = inference.Conversation.of(history)

    def ask(self, question: str, *, where: Filter = Filter(), sampling: Sampling = Sampling()) -> Iterator[Event]:
        """Answer a question in the light of what was said before; `Done` tells how the exchange was kept."""
        history = self.conversation.history
        events = self.twin.ask_events(question, where=where, history=history, user=self.user, sampling=sampling)
        return self._remembering(events, question, where=where)

    def write(
        self, topic: str, *, kind: str = "post", words: int = 400, sampling: Sampling = Sampling()
    ) -> Iterator[Event]:
        """A draft, kept as an exchange like any other. Raises `ModelMissing` without a model."""
        events = self.twin.write_events(topic, kind=kind, words=words, sampling=sampling)
        return self._remembering(events, topic, kind="write")

    def _remembering(self, events: Iterator[Event], question: str, **about: Any) -> Iterator[Event]:
        with closing(cast("Any", events)):  # who leaves early stops the model, too
            for event in events:
                if isinstance(event, Done):
                    if not event.answer.refused:  # a follow-up must not mean what was blocked
                        self.conversation.add(question, event.answer.text)
                    event = self._kept(question, event.answer, **about) if self.keep else event
                yield event

    def _kept(self, question: str, answer: Answer, **about: Any) -> Done:
        question = self.twin.guards.without_secrets(question)
        try:
            exchange = self.twin.conversations.record(
                question, answer, conversation_id=self.conversation_id, user=self.user, **about
            )
        except StoreError as error:  # the answer is there and must not be lost with its record
            return Done(replace(answer, notes=(*answer.notes, f"The exchange could not be kept: {error}")))
        self.conversation_id = exchange.conversation_id if exchange else self.conversation_id
        return Done(answer, exchange)


class Twin(Parts):
    """A workspace at work. Cheap to make: every part is built when it is first needed. Close it, or use `with`."""

    @classmethod
    def init(cls, folder: str | Path = ".", *, author: str = "", addresses: Sequence[str] = ()) -> Twin:
        """Make a new workspace in `folder`. Raises `WorkspaceError` when there is one already."""
        return cls.open(Workspace.create(Path(folder), author=author, addresses=addresses).root)

    @classmethod
    def open(cls, workspace: str | Path | None = None, *, arguments: Mapping[str, Any] | None = None) -> Twin:
        """Open a workspace: the folder given, or the nearest at or above the current one.

        `arguments` override settings by dotted key, as in `{"search.k": 5}`. Raises `WorkspaceError`, `ConfigError`.
        """
        found = Workspace.find(Path(workspace) if workspace is not None else None)
        return cls(found, settings.load(found.settings_file, arguments=arguments))

    def __enter__(self) -> Twin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- collect and features ---------------------------------------------------------------------------------------

    def sync(
        self,
        addresses: Sequence[str] = (),
        *,
        rebuild: bool = False,
        retry: bool | None = None,
        wait_s: float = 0.0,
        progress: ports.Progress | None = None,
    ) -> SyncReport:
        """Collect what changed in every source (or only in `addresses`) and bring the index up to it.

        An address may also be a path inside a source of the settings, or the address of one of its items; nothing else
        of the source is then looked at. Failed items are left alone until they are due; with `retry` (by default where
        addresses are named) they are tried now.

        Readers keep answering from the old index until the new one is whole. `rebuild` makes the index anew from what
        is stored. Raises `WorkspaceBusy` when another process writes for longer than `wait_s` seconds.
        """
        from llm_twin.collect import pipeline as collect
        from llm_twin.features import pipeline as features

        progress = progress or _Quiet()
        started = time.monotonic()
        with self.workspace.writing(wait_s=wait_s), self.tracer.span("sync") as span, recorded(self, "sync") as run:
            collected = []
            # Whoever names an address wants to hear of it, new or not.
            known = () if addresses else self.warehouse.items()
            before = {(item.source, item.key): (item.outcome, item.reason) for item in known}
            forgotten_authors = self._forgetting.authors()
            for source, part in self.sources.chosen(addresses):
                with self.tracer.span("collect", source=source.name) as collecting:
                    former = set() if "://" in source.name else self.sources.stored_names(source.name) - {source.name}
                    if former:
                        collect.adopt(source.name, former, store=self.warehouse)
                    collected.append(
                        collect.collect(
                            source,
                            store=self.warehouse,
                            redactor=self.redactor,
                            now=lambda: datetime.now(UTC),
                            progress=progress,
                            part=part,
                            retry_failed=bool(addresses) if retry is None else retry,
                            forgotten_authors=forgotten_authors,
                        )
                    )
                    collecting.set(items=len(collected[-1].states))
            self._close_browsers()
            built = features.build(self._features(progress), rebuild=rebuild)
            items = tuple(state for each in collected for state in each.states)
            listed = {chosen.address for chosen in self.settings.sources}
            report = SyncReport(
                items=items,
                news=tuple(each for each in items if _is_news(each, before.get((each.source, each.key)))),
                problems=tuple(_of_source(each.problem, each.source) for each in collected if each.problem),
                unlisted=tuple(each.source for each in collected if each.states and each.source not in listed),
                left_out=left_out(self.warehouse) if built.left_out is None else tuple(built.left_out),
                chunks=built.index.count,
                embedded=built.embedded,
                seconds=time.monotonic() - started,
                generation=built.index.generation,
                run_id=run["id"],
                trace_id=span.trace_id,
            )
            span.set(chunks=report.chunks, embedded=report.embedded)
            run["inputs"] = {"sources": [each.source for each in collected]}
            run["outputs"] = {"index": to_json(built.index), "left_out": to_json(report.left_out)}
            run["report"] = {
                "documents": report.documents,
                "problems": report.problems,
                "chunks": report.chunks,
                "embedded": report.embedded,
                "seconds": report.seconds,
                **built.account.as_dict(),
            }
        return report

    def watch(
        self,
        *,
        every_s: float = 900.0,
        poll_s: float = 2.0,
        wait_s: float = WATCH_WAIT_S,
        progress: ports.Progress | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[SyncReport | TwinError]:
        """Sync again and again, for ever: every source each `every_s` seconds, a local one within `poll_s` of a change.

        Yields the report of each sync, or the error it ended in; the next one is tried all the same. A local change
        that turns out to be none is not reported. Each sync waits up to `wait_s` seconds for another writer. Settings
        are read once, so a `ConfigError` would come back for ever and is raised.
        """
        while True:
            # Listed before each sync, never after: what changes while one runs is seen at the next poll.
            seen = self._local_listings()
            yield self._attempt((), progress, wait_s)
            due = time.monotonic() + every_s
            while time.monotonic() < due:
                sleep(min(poll_s, max(0.0, due - time.monotonic())))
                now = self._local_listings()
                changed = [address for address, listing in now.items() if listing != seen.get(address)]
                if changed:
                    result = self._attempt(changed, progress, wait_s)
                    seen |= now
                    # The version of a file just written changes once more as it ages, and then nothing else did.
                    if isinstance(result, TwinError) or result.problems or _did_something(result):
                        yield result

    def _attempt(
        self, addresses: Sequence[str], progress: ports.Progress | None, wait_s: float
    ) -> SyncReport | TwinError:
        try:
            return self.sync(addresses, retry=False, progress=progress, wait_s=wait_s)
        except ConfigError:
            raise
        except TwinError as error:
            return error

    def _local_listings(self) -> dict[str, str]:
        """What every source on this machine lists now, as one fingerprint each; unreadable ones are left out."""
        listings = {}
        for chosen in self.sources.configured().values():
            if "://" in chosen.address:
                continue
            with suppress(TwinError):
                listed = [(item.key, item.version) for item in self.sources.open(chosen).list()]
                listings[chosen.address] = fingerprint(listed)
        return listings

    def forget(self, target: str, *, wait_s: float = 0.0) -> Forgotten:
        """Delete everything about a document (by id or URL), a source or an author, and check that nothing is left.

        A document or an author stays forgotten: later syncs skip those items, and whatever else the author publishes,
        until `undo_forget`. A source comes back with the next sync while it stands in the settings. Raises `NotFound`
        when nothing of that name was collected.
        """
        return self._forgetting.forget(target, wait_s=wait_s)

    def meant_by(self, target: str) -> list[DocumentHeader]:
        """The documents that `forget` would delete. Raises `NotFound` when nothing of that name was collected."""
        return self._forgetting.meant_by(target)

    def forgotten(self) -> list[KeptOut]:
        """What is kept out because it was forgotten for good: authors, then single items by source and name."""
        return self._forgetting.forgotten()

    def undo_forget(self, target: str, *, wait_s: float = 0.0) -> tuple[str, ...]:
        """Let in again what was forgotten: an author, an item by its name, or all of a source; the items' names.

        What was deleted comes back with the next sync that finds it. Raises `NotFound` when nothing of that name is
        kept out.
        """
        return self._forgetting.undo(target, wait_s=wait_s)

    @part
    def _forgetting(self) -> Forgetting:
        from llm_twin.features import pipeline as features

        return Forgetting(
            self,
            self.sources,
            rebuild=lambda: features.build(self._features(_Quiet()), rebuild=True),
            copies=lambda document_ids: features.copies(self._features(_Quiet()), document_ids),
            quoting=lambda: {
                "exchanges": self.conversations,
                "feedback": self.feedback,
                "batches": self.batches,
                "cache": self.cache,
            },
        )

    @part
    def sources(self) -> Sources:
        """The sources of the settings, and what other addresses mean."""
        return Sources(self)

    @staticmethod
    def source_kinds() -> list[KindOfSource]:
        """Every kind of source in the order in which they are asked whether an address is theirs."""
        return kinds()

    def status(self) -> Status:
        """What is here: items of every source with how they ended, and the live index."""
        runs = [run for run in self.warehouse.runs(limit=50) if run.pipeline == "sync"]
        last = runs[0] if runs else None
        if last and last.status == "running" and not self.workspace.is_being_written():
            last = replace(last, status="interrupted")  # killed, so that it could not say so itself
        return Status(
            workspace=str(self.workspace.root),
            author=self.settings.author.name,
            documents=len(self.warehouse.document_hashes()),
            index=self.index.info(),
            items=tuple(self.warehouse.items()),
            left_out=left_out(self.warehouse),
            profiles=self.warehouse.profiles(),
            last_sync=last,
            model=self.settings.llm.model or None,
        )

    def holdings(self) -> list[Held]:
        """How many documents there are by source, kind and year, the latest year first."""
        counts = Counter(
            (header.source, header.kind, header.published_at.year if header.published_at else None)
            for header in self.documents()
        )
        held = [Held(*group, documents) for group, documents in counts.items()]
        return sorted(held, key=lambda each: (-(each.year or 0), each.source, each.kind))

    def recent_voice(self, *, limit: int = 50) -> RecentVoice:
        """How the language model wrote in the latest `limit` answers that are kept, to be held against the author.

        Quotes are left out: they are the author's own words.
        """
        from llm_twin.inference import pipeline as inference

        said = (
            exchange
            for header in self.conversations.all(user=None, limit=4 * limit)
            for exchange in reversed(self.conversations.exchanges(header.id, user=None))
        )
        texts = [each.answer.text for each in islice((one for one in said if one.answer.mode == "generated"), limit)]
        words, measures = inference.voice_of(texts)
        return RecentVoice(len(texts), words, measures)

    def documents(
        self,
        *,
        source: str | None = None,
        kind: str | None = None,
        year: int | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> list[DocumentHeader]:
        """What was collected, newest first, undated documents last; `after` continues after the document of that id.

        Raises `NotFound` when there is no document `after` among them.
        """
        undated = datetime.min.replace(tzinfo=UTC)
        headers = [
            header
            for header in (features.document.header for features in self.warehouse.features())
            if (source is None or header.source == source)
            and (kind is None or header.kind == kind)
            and (year is None or (header.published_at is not None and header.published_at.year == year))
        ]
        headers.sort(key=lambda header: (header.published_at or undated, header.title, header.id), reverse=True)
        if after is not None:
            ids = [header.id for header in headers]
            if after not in ids:
                raise NotFound(f"there is no document {after!r} to continue after; begin again without `after`")
            headers = headers[ids.index(after) + 1 :]
        return headers if limit is None else headers[:limit]

    def document(self, document_id: str) -> Document:
        """A document as cleaned, in which all offsets stand. Raises `NotFound`."""
        for features in self.warehouse.features([document_id]):
            return features.document
        raise NotFound(f"there is no document {document_id!r}; `twin search --json` shows the ids of documents")

    # --- inference --------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        *,
        k: int | None = None,
        where: Filter = Filter(),
        method: str = "reranked",
    ) -> list[Hit]:
        """The chunks that match best, best first. `method` is `bm25`, `dense`, `hybrid` or `reranked`."""
        from llm_twin.inference import pipeline as inference

        return inference.search(
            query, parts=self._inference(), k=k or self.settings.search.k, where=where, method=method
        )

    def ask(
        self, question: str, *, where: Filter = Filter(), history: Sequence[Message] = (), user: str = "local"
    ) -> Answer:
        """Answer from the author's writing, with citations; abstain where the writing does not cover the question.

        `user` is whose question it is: answers that the cache remembers are told to nobody else.
        """
        from llm_twin.inference import pipeline as inference

        return inference.answer_of(self.ask_events(question, where=where, history=history, user=user))

    def ask_events(
        self,
        question: str,
        *,
        where: Filter = Filter(),
        history: Sequence[Message] = (),
        user: str = "local",
        sampling: Sampling = Sampling(),
    ) -> Iterator[Event]:
        """The same as it happens: what was understood, the passages, the text piece by piece, the whole answer."""
        from llm_twin.inference import pipeline as inference

        return inference.answer(question, parts=self._inference(user, sampling), where=where, history=history)

    def write(self, topic: str, *, kind: str = "post", words: int = 400) -> Answer:
        """A draft in the author's voice, grounded in what they wrote. Raises `ModelMissing` without a model."""
        from llm_twin.inference import pipeline as inference

        return inference.answer_of(self.write_events(topic, kind=kind, words=words))

    def write_events(
        self, topic: str, *, kind: str = "post", words: int = 400, sampling: Sampling = Sampling()
    ) -> Iterator[Event]:
        """The same as it happens."""
        from llm_twin.inference import pipeline as inference

        return inference.write(topic, kind=kind, words=words, parts=self._inference(sampling=sampling))

    def chat(self, conversation_id: str | None = None, *, user: str = "local", keep: bool | None = None) -> Chat:
        """A conversation in which follow-up questions are understood: a new one, or the kept one of that id.

        Raises `NotFound` for a conversation that is not there or another user's, `ConfigError` for one that is full.
        """
        return Chat(self, conversation_id, user=user, keep=keep)

    def filter(
        self,
        *,
        authors: Sequence[str] = (),
        sources: Sequence[str] = (),
        kinds: Sequence[str] = (),
        languages: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
    ) -> Filter:
        """A filter from what a person types: names in any case or by alias, dates as YYYY, YYYY-MM or YYYY-MM-DD.

        Raises `NotFound` for an author nobody collected, `ConfigError` for a date that is none.
        """
        from llm_twin.inference import pipeline as inference

        return inference.typed_filter(
            authors=authors,
            sources=sources,
            kinds=kinds,
            languages=languages,
            since=since,
            until=until,
            known=self._authors(),
        )

    # --- the service ------------------------------------------------------------------------------------------------

    @part
    def conversations(self) -> Conversations:
        """What was asked and answered, kept; `chat` adds to it."""
        from llm_twin.inference import conversations

        return conversations.Conversations(self.warehouse, known=self._known_documents, generation=self._generation)

    @part
    def feedback(self) -> FeedbackLog:
        """What readers think of the answers, and what the author would have said."""
        from llm_twin.ops import feedback

        origin = feedback.Origin(
            exchange=lambda exchange_id, user: self.conversations.exchange(exchange_id, user=user),
            history=self.conversations.history_before,
            known=self._known_documents,
            prompt=self._messages_for,
            clean=self._without_secrets,
        )
        return feedback.FeedbackLog(self.warehouse, origin)

    @part
    def batches(self) -> Batches:
        """Many questions at once, finished whatever happens in between."""
        from llm_twin.inference import batch

        asking = batch.Asking(
            ask=lambda question, where, user: self.ask(question, where=where, user=user),
            where=self.filter,
            alone=lambda batch_id: self.workspace.alone(f"batch-{batch_id}"),
            known=self._known_documents,
            clean=self._without_secrets,
        )
        return batch.Batches(self.warehouse, asking, concurrency=self.settings.batch.concurrency)

    def _without_secrets(self, text: str) -> str:
        return self.guards.without_secrets(text)

    def _messages_for(self, exchange: Exchange, history: Sequence[Message]) -> list[Message]:
        from llm_twin.inference import pipeline as inference

        return inference.messages_for(exchange, history, parts=self._inference())

    def _known_documents(self, document_ids: Collection[str]) -> list[str]:
        return [document.id for document in self.warehouse.documents(document_ids)]

    def _generation(self) -> str:
        """Digest of the live index, "" before the first sync."""
        info = self.index.info()
        return info.digest if info else ""

    @part
    def jobs(self) -> Jobs:
        """Syncs that somebody asked the service for."""
        from llm_twin.ops import jobs

        def run(addresses: Sequence[str], *, rebuild: bool, progress: ports.Progress) -> Mapping[str, Any]:
            return self.sync(addresses, rebuild=rebuild, progress=progress, wait_s=WATCH_WAIT_S).as_json()

        return jobs.Jobs(self.warehouse, run, busy=self.workspace.is_being_written)

    @part
    def keys(self) -> ApiKeys:
        """The API keys of the service."""
        from llm_twin.ops import keys

        return keys.ApiKeys(self.warehouse)

    # --- looking back -----------------------------------------------------------------------------------------------

    def traces(self, *, limit: int = 20) -> list[Span]:
        """Root spans of the latest traces, newest first."""
        return self.trace_store.traces(limit=limit)

    def trace(self, trace_id: str) -> list[Span]:
        """All spans of a trace by its id or the beginning of it. Raises `NotFound`."""
        spans = self.trace_store.trace(trace_id)
        if not spans:
            raise NotFound(f"there is no trace {trace_id!r}; `twin traces` lists the latest")
        return spans

    def runs(self, *, limit: int = 20) -> list[Run]:
        """The latest runs with their reports and lineage, newest first."""
        return self.warehouse.runs(limit=limit)

    def doctor(self) -> Iterator[Check]:
        """Look at everything the twin depends on, one check at a time; a broken part never hides the next."""
        return Doctor(self).checks()

    def ready(self) -> list[Check]:
        """What no answer can do without, looked at in milliseconds. A language model is not among it."""
        return Doctor(self).ready()

    def warm_up(self) -> None:
        """Load every part of an answer and use it once, so that the first question does not pay for that.

        Leaves no trace. What is broken is told by the first question, and by `ready`, not here.
        """
        from llm_twin.inference import generate, verify  # noqa: F401
        from llm_twin.inference import pipeline as inference

        with suppress(TwinError):
            parts = replace(self._inference(), tracer=catalog.part("tracer", "silent")(), model=None, repeats=None)
            inference.answer_of(inference.answer("What do I write about?", parts=parts))
            getattr(self.model, "prepare", lambda: None)()  # what only some adapters can do ahead

    # --- the parts --------------------------------------------------------------------------------------------------

    @part
    def _settings_of_answers(self) -> str:
        """Changes with every setting; more than decide an answer, so that none is overlooked."""
        return fingerprint(repr(self.settings))

    def _inference(self, user: str = "local", sampling: Sampling = Sampling()) -> Any:
        from llm_twin.inference import pipeline as inference

        chosen = self.settings.ask
        conditions = fingerprint(self._settings_of_answers, sampling)
        repeats = inference.Repeats(self.cache, user, conditions) if self.settings.cache.enabled else None
        return inference.Parts(
            index=self.index,
            embedder=self._remembering,
            sparse=self.sparse,
            reranker=self.reranker,
            model=self.model,
            store=self.warehouse,
            tracer=self.tracer,
            authors=self._authors(),
            candidates=self.settings.search.candidates,
            passages=chosen.passages,
            context_tokens=chosen.context_tokens,
            max_tokens=min(chosen.max_tokens, sampling.max_tokens or chosen.max_tokens),
            temperature=chosen.temperature if sampling.temperature is None else sampling.temperature,
            guards=self.guards,
            repeats=repeats,
            turns=self._turns,
        )

    def _features(self, progress: ports.Progress) -> Any:
        from llm_twin.features import pipeline as features

        return features.Parts(
            warehouse=self.warehouse,
            index=self.index,
            embedder=self.embedder,
            sparse=self.sparse,
            chunker=self.chunker,
            runner=LocalRunner(),
            tracer=self.tracer,
            progress=progress,
            duplicate_similarity=self.settings.features.duplicate_similarity,
        )

    def _authors(self) -> tuple[Author, ...]:
        """The author of the settings with aliases, then everybody else whose writing was collected."""
        own = Author(self.settings.author.name, self.settings.author.aliases)
        return (own, *(Author(name) for name in sorted(self.warehouse.profiles()) if name != own.name))


def _is_news(item: ItemState, before: tuple[str, str] | None) -> bool:
    """Whether there is something to tell of an item that was not told by the sync before."""
    if not item.reason or item.outcome == "unchanged":
        return False
    return item.outcome == "failed" or before != (item.outcome, item.reason)


def _of_source(problem: str, source: str) -> str:
    """The problem with the source it is one of: the host that cannot be reached may have several."""
    return problem if source.rstrip("/") in problem else f"{source}: {problem}"


def _did_something(report: SyncReport) -> bool:
    return any(item.outcome not in ("unchanged", "skipped") for item in report.items)


class _Quiet:
    """Progress nobody watches."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _: None
