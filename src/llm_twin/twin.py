"""START HERE. `Twin` turns settings into parts and calls the pipelines; command line, servers and programs call it.

Parts are named in the settings, found in `catalog.py`, built when first needed, and handed to the stages as arguments.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import os
import platform
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from llm_twin import catalog, settings
from llm_twin.core.errors import ConfigError, NotFound, StoreError, TwinError
from llm_twin.core.mentions import Mentions
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
    embedding_key,
    embedding_text,
    fingerprint,
    to_json,
)
from llm_twin.workspace import Workspace

if TYPE_CHECKING:
    from llm_twin.collect import pipeline as collect
    from llm_twin.core import ports
    from llm_twin.core.records import Event
    from llm_twin.inference.batch import Batches
    from llm_twin.inference.cache import AnswerCache
    from llm_twin.inference.conversations import Conversations
    from llm_twin.inference.guardrails import Guardrails
    from llm_twin.ops.feedback import FeedbackLog
    from llm_twin.ops.jobs import Jobs
    from llm_twin.ops.keys import ApiKeys

T = TypeVar("T")

OUTCOMES = ("added", "updated", "unchanged", "removed", "skipped", "failed")

WATCH_WAIT_S = 60.0
"""Seconds a watching sync waits for another writer, mostly a sync by hand, before it reports a failure."""

FORGOTTEN_AUTHORS = "forgotten_authors"
"""The collection of records of authors that were forgotten, by their names in lower case."""


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
class Forgotten:
    """What was deleted, and how much of it each store still holds: zero everywhere."""

    document_ids: tuple[str, ...]
    items: tuple[str, ...]
    left: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class KeptOut:
    """What later syncs skip because it was forgotten for good: an author with all they write, or one item.

    `target` is the name that undoes it; `source` is empty for an author.
    """

    target: str
    source: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `twin doctor`; `remedy` is the exact line that mends it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class KindOfSource:
    """One line of `twin sources`."""

    name: str
    example: str
    meaning: str
    options: tuple[str, ...]


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


class _part(Generic[T]):  # noqa: N801 – used as a decorator, like `property`
    """A part of a twin: built when it is first asked for, and once, however many threads ask.

    Not `functools.cached_property`, which has no lock since Python 3.12, and before it one per part, so that two parts
    that need each other's parts could wait for each other.
    """

    def __init__(self, build: Callable[[Twin], T]) -> None:
        self.__doc__ = build.__doc__
        self._build = build

    @overload
    def __get__(self, twin: None, owner: type[Twin]) -> _part[T]: ...
    @overload
    def __get__(self, twin: Twin, owner: type[Twin]) -> T: ...
    def __get__(self, twin: Twin | None, owner: type[Twin]) -> _part[T] | T:
        if twin is None:
            return self
        name = self._build.__name__
        with twin._building:
            if name not in twin.__dict__:
                twin.__dict__[name] = self._build(twin)
            # From now on the twin's own attribute is found first, and nobody comes here.
            return cast("T", twin.__dict__[name])


class Twin:
    """A workspace at work. Cheap to make: every part is built when it is first needed. Close it, or use `with`."""

    def __init__(self, workspace: Workspace, loaded: settings.LoadedSettings) -> None:
        self.workspace = workspace
        self.loaded = loaded
        self.settings = loaded.values
        self._browsers: dict[str, ports.Browser] = {}
        self._building = threading.RLock()  # held while a part is built, which may ask for others

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

    def close(self) -> None:
        """Release what was opened, all of it even where one part fails to close."""
        with ExitStack() as stack:
            # A stack closes the last one first: what was built later may need what was built before it.
            for name in [name for name in self.__dict__ if isinstance(getattr(Twin, name, None), _part)]:
                stack.callback(self._close_part, name)
            stack.callback(self._close_browsers)

    def _close_part(self, name: str) -> None:
        close = getattr(self.__dict__.pop(name, None), "close", None)
        if close is not None:
            close()

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
        with self.workspace.writing(wait_s=wait_s), self.tracer.span("sync") as span, self._run("sync") as run:
            collected = []
            # Whoever names an address wants to hear of it, new or not.
            known = () if addresses else self.warehouse.items()
            before = {(item.source, item.key): (item.outcome, item.reason) for item in known}
            forgotten_authors = self._forgotten_authors()
            for source, part in self._sources(addresses):
                with self.tracer.span("collect", source=source.name) as collecting:
                    former = set() if "://" in source.name else self._stored_names(source.name) - {source.name}
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
                left_out=self._left_out() if built.left_out is None else tuple(built.left_out),
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
        for chosen in self._configured().values():
            if "://" in chosen.address:
                continue
            with suppress(TwinError):
                listed = [(item.key, item.version) for item in self._source(chosen).list()]
                listings[chosen.address] = fingerprint(listed)
        return listings

    def forget(self, target: str, *, wait_s: float = 0.0) -> Forgotten:
        """Delete everything about a document (by id or URL), a source or an author, and check that nothing is left.

        A document or an author stays forgotten: later syncs skip those items, and whatever else the author publishes,
        until `undo_forget`. A source comes back with the next sync while it stands in the settings. Raises `NotFound`
        when nothing of that name was collected.
        """
        from llm_twin.collect import pipeline as collect
        from llm_twin.features import pipeline as features

        with self.workspace.writing(wait_s=wait_s), self.tracer.span("forget") as span, self._run("forget") as run:
            documents = {document.id: document for document in self.warehouse.documents()}
            items, gone = self._meant(target, documents)
            authors = {each.author for each in gone.values()}.difference(
                each.author for name, each in documents.items() if name not in gone
            )
            embedded = self._embedding_keys(gone)
            mentions = Mentions((*gone.values(), *(made.document for made in self.warehouse.features(gone))))
            # Before the documents, so that a command that was killed finds them by the documents when it is run again;
            # and after, for answers that quoted them while this went on.
            self._forget_mentions(mentions)
            now = datetime.now(UTC)
            by_source = self._stored_names(target) >= {item.source for item in items}
            author = target if not by_source and any(each.author == target for each in documents.values()) else None
            if author:  # first, so that a kill from here on cannot let them back in
                self.warehouse.put(FORGOTTEN_AUTHORS, author.casefold(), {"author": author, "since": now.isoformat()})
            collect.forget(items, store=self.warehouse, now=now, for_good=not by_source, author=author)
            # Anew, not edited: an engine may keep the bytes of deleted entries in its files.
            features.build(self._features(_Quiet()), rebuild=True)
            self._forget_elsewhere(gone)
            self._forget_mentions(mentions)
            self.warehouse.scrub()
            left = {
                "documents": len(self.warehouse.document_hashes().keys() & gone.keys()),
                "features": len(self.warehouse.feature_fingerprints().keys() & gone.keys()),
                "index": self.index.count(Filter(document_ids=tuple(gone))) if gone else 0,
                "embeddings": len(self.warehouse.embedding_keys() & embedded),
                "profiles": len(self.warehouse.profiles().keys() & authors),
                **{name: part.mentioning(mentions) for name, part in self._quoting().items()},
            }
            if any(left.values()):
                raise StoreError(f"forgetting {target!r} left something behind: {left}; run the command again")
            span.set(documents=len(gone), items=len(items))
            run["outputs"] = {"documents": len(gone), "items": len(items)}
        return Forgotten(tuple(sorted(gone)), tuple(item.key for item in items), left)

    def forgotten(self) -> list[KeptOut]:
        """What is kept out because it was forgotten for good: authors, then single items by source and name."""
        from llm_twin.collect import pipeline as collect

        authors = [data for _, data in self.warehouse.records(FORGOTTEN_AUTHORS)]
        items = [item for item in self.warehouse.items() if collect.is_forgotten(item)]
        return [
            *(KeptOut(each["author"], "", datetime.fromisoformat(each["since"])) for each in authors),
            *(
                KeptOut(item.key, item.source, item.seen_at)
                for item in items
                if not any(collect.is_forgotten_with(item, each["author"]) for each in authors)
            ),
        ]

    def undo_forget(self, target: str, *, wait_s: float = 0.0) -> tuple[str, ...]:
        """Let in again what was forgotten: an author, an item by its name, or all of a source; the items' names.

        What was deleted comes back with the next sync that finds it. Raises `NotFound` when nothing of that name is
        kept out.
        """
        from llm_twin.collect import pipeline as collect

        with self.workspace.writing(wait_s=wait_s), self.tracer.span("undo forget") as span:
            is_author = target.casefold() in {author.casefold() for author in self._forgotten_authors()}
            sources = self._stored_names(target)
            items = [
                item
                for item in self.warehouse.items()
                if collect.is_forgotten(item)
                and (target == item.key or item.source in sources or collect.is_forgotten_with(item, target))
            ]
            if not items and not is_author:
                raise NotFound(f"nothing is forgotten under {target!r}; `twin forget --list` shows what is")
            self.warehouse.save([(replace(item, outcome="removed"), None) for item in items])
            self.warehouse.drop(FORGOTTEN_AUTHORS, [target.casefold()])
            span.set(items=len(items))
        return tuple(item.key for item in items)

    def _forgotten_authors(self) -> list[str]:
        return [data["author"] for _, data in self.warehouse.records(FORGOTTEN_AUTHORS)]

    def meant_by(self, target: str) -> list[DocumentHeader]:
        """The documents that `forget` would delete. Raises `NotFound` when nothing of that name was collected."""
        documents = {document.id: document for document in self.warehouse.documents()}
        return [document.header for document in self._meant(target, documents)[1].values()]

    def _meant(self, target: str, documents: Mapping[str, Document]) -> tuple[list[ItemState], dict[str, Document]]:
        """Items that a person names, and those of their documents that no other item brings as well."""
        items: list[ItemState] = []
        others: list[ItemState] = []
        sources = self._stored_names(target)
        for item in self.warehouse.items():
            is_meant = item.source in sources or _is_meant(item, documents, target)
            (items if is_meant else others).append(item)
        if not items:
            raise NotFound(
                f"nothing was collected of {target!r}; name a document's id, title or URL, a source or an author as "
                f"`twin documents` and `twin status` show them"
            )
        ids = {item.document_id for item in items} - {item.document_id for item in others}
        return items, {name: document for name, document in documents.items() if name in ids}

    def _embedding_keys(self, documents: Mapping[str, Document]) -> set[str]:
        """Keys of embeddings that only chunks of these documents use."""
        own: set[str] = set()
        others: set[str] = set()
        for made in self.warehouse.features():
            keys = {embedding_key(self.embedder.name, embedding_text(chunk)) for chunk in made.chunks}
            (own if made.document.id in documents else others).update(keys)
        return own - others

    def _quoting(self) -> dict[str, Conversations | FeedbackLog | Batches | AnswerCache]:
        """What keeps answers, which quote documents, by what it counts."""
        return {
            "exchanges": self.conversations,
            "feedback": self.feedback,
            "batches": self.batches,
            "cache": self.cache,
        }

    def _forget_mentions(self, mentions: Mentions) -> None:
        for part in self._quoting().values():
            part.forget(mentions)

    def _forget_elsewhere(self, documents: Mapping[str, Document]) -> None:
        """Take documents out of what other runs reported, and their pages out of the cache of fetched ones."""
        for run in self.warehouse.runs(limit=ALL_RUNS):
            outputs = _without(run.outputs, "left_out", documents)
            report = _without(run.report, "dropped", documents)
            if (outputs, report) != (run.outputs, run.report):
                self.warehouse.save_run(replace(run, outputs=outputs, report=report))
        for document in documents.values():
            for url in (document.url, *document.also_at):
                if url and url.startswith("http"):
                    self.fetcher.forget(url)

    @staticmethod
    def source_kinds() -> list[KindOfSource]:
        """Every kind of source in the order in which they are asked whether an address is theirs."""
        kinds = [(name, catalog.part("source", name)) for name in catalog.ordered("source")]
        return [
            KindOfSource(
                name, kind.example, (inspect.getdoc(kind) or "").partition("\n")[0], tuple(_declared_options(kind))
            )
            for name, kind in kinds
        ]

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
            left_out=self._left_out(),
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

    @_part
    def conversations(self) -> Conversations:
        """What was asked and answered, kept; `chat` adds to it."""
        from llm_twin.inference import conversations

        return conversations.Conversations(self.warehouse, known=self._known_documents, generation=self._generation)

    @_part
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

    @_part
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

    @_part
    def jobs(self) -> Jobs:
        """Syncs that somebody asked the service for."""
        from llm_twin.ops import jobs

        def run(addresses: Sequence[str], *, rebuild: bool, progress: ports.Progress) -> Mapping[str, Any]:
            return self.sync(addresses, rebuild=rebuild, progress=progress, wait_s=WATCH_WAIT_S).as_json()

        return jobs.Jobs(self.warehouse, run, busy=self.workspace.is_being_written)

    @_part
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
        return self._checks(
            ("python", self._check_python),
            ("workspace", self._check_workspace),
            ("disk", self._check_disk),
            ("warehouse", self._check_warehouse),
            ("embedder", self._check_embedder),
            ("index", self._check_index),
            ("language model", self._check_model),
        )

    def ready(self) -> list[Check]:
        """What no answer can do without, looked at in milliseconds. A language model is not among it."""
        return list(
            self._checks(
                ("warehouse", self._check_warehouse), ("embedder", self._check_embedder), ("index", self._check_index)
            )
        )

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

    def _checks(self, *checks: tuple[str, Callable[[str], Check]]) -> Iterator[Check]:
        for name, check in checks:
            try:
                yield check(name)
            except TwinError as error:
                message, _, remedy = str(error).rpartition("; ")
                yield Check(name, False, message or str(error), remedy if message else "")

    # --- the parts --------------------------------------------------------------------------------------------------

    @_part
    def warehouse(self) -> ports.Warehouse:
        """Documents, features, embeddings, runs."""
        url = self.settings.warehouse.url or f"sqlite:///{self.workspace.state / 'warehouse.db'}"
        # A warehouse is named as the scheme of its URLs is (`mongodb+srv` too); SQL databases have many schemes.
        scheme = url.partition(":")[0].partition("+")[0]
        name = scheme if scheme in catalog.names("warehouse") else "sql"
        return cast("ports.Warehouse", catalog.part("warehouse", name)(url))

    @_part
    def trace_store(self) -> ports.TraceStore:
        """Spans of this workspace; always beside it, whatever the warehouse is."""
        return cast(
            "ports.TraceStore", catalog.part("trace_store", "sql")(f"sqlite:///{self.workspace.state / 'traces.db'}")
        )

    @_part
    def tracer(self) -> ports.Tracer:
        """Times every step into the trace store."""
        if not self.settings.traces.enabled:
            return cast("ports.Tracer", catalog.part("tracer", "silent")())
        return cast("ports.Tracer", catalog.part("tracer", "otel")(self.trace_store))

    @_part
    def fetcher(self) -> Any:
        """The one way to the network for every source; what it fetched is kept to ask only for what changed."""
        build = catalog.part("fetcher", "http").open
        return build(self.workspace.state / "fetched", **self.settings.fetch.model_dump())

    def browser(self, profile: str = "") -> ports.Browser:
        """The browser that uses a profile folder, by default none; each is opened once, and closed after a sync."""
        if profile not in self._browsers:
            chosen = self.settings.browser
            self._browsers[profile] = catalog.part("browser", chosen.engine)(
                proxy=self.fetcher.gate.address,
                executable=chosen.executable,
                profile=self.workspace.root / Path(profile).expanduser() if profile else None,
                timeout_s=chosen.timeout_s,
                max_bytes=self.settings.fetch.max_bytes,
            )
        return self._browsers[profile]

    def _close_browsers(self) -> None:
        while self._browsers:
            self._browsers.popitem()[1].close()

    @_part
    def embedder(self) -> ports.Embedder:
        """Text to vectors."""
        chosen = self.settings.embedder
        return cast(
            "ports.Embedder",
            catalog.part("embedder", chosen.name)(
                weights=chosen.weights or None,
                precision=chosen.precision,
                threads=chosen.threads or None,
                cache_dir=_cache_dir(),
            ),
        )

    @_part
    def sparse(self) -> ports.SparseEncoder:
        """Text to weighted terms."""
        return cast("ports.SparseEncoder", catalog.part("sparse_encoder", "bm25")())

    @_part
    def index(self) -> ports.VectorIndex:
        """The published index."""
        chosen = self.settings.index
        build = catalog.part("vector_index", chosen.store)
        if chosen.store == "qdrant_edge":
            return cast("ports.VectorIndex", build(self.workspace.state / "index"))
        key = os.environ.get(chosen.api_key_env)
        return cast("ports.VectorIndex", build(chosen.url, api_key=key, collection=chosen.collection))

    @_part
    def chunker(self) -> ports.Chunker:
        """Documents to chunks."""
        name = self.settings.features.chunker
        build = catalog.part("chunker", name)
        if name == "semantic":
            return cast("ports.Chunker", build(self.embedder.tokenizer, self.embedder))
        return cast("ports.Chunker", build(self.embedder.tokenizer))

    @_part
    def redactor(self) -> ports.Redactor:
        """Takes secrets, and personal data by choice, out before anything is stored."""
        secrets = cast("ports.Redactor", catalog.part("redactor", "secrets")())
        chosen = self.settings.collect
        if not chosen.redact_personal:
            return secrets
        finder = catalog.part("personal_finder", chosen.personal_engine)(chosen.redact_personal)
        personal = catalog.part("redactor", "personal")(finder, keep=chosen.keep_personal)
        return cast("ports.Redactor", catalog.part("redactor", "in_turn")(secrets, personal))

    @_part
    def reranker(self) -> ports.Reranker | None:
        """The closer look at candidates."""
        chosen = self.settings.search
        if chosen.reranker == "none":
            return None
        build = catalog.part("reranker", chosen.reranker)
        if chosen.reranker == "maxsim":
            return cast("ports.Reranker", build(self.embedder, self.warehouse))
        return cast("ports.Reranker", build(weights=chosen.reranker_weights))

    @_part
    def model(self) -> ports.LanguageModel | None:
        """The language model, or None: then answers are extractive and nothing leaves this machine."""
        chosen = self.settings.llm
        if not chosen.model:
            return None
        return cast(
            "ports.LanguageModel",
            catalog.part("language_model", "openai")(
                base_url=chosen.base_url,
                model=chosen.model,
                api_key=os.environ.get(chosen.api_key_env),
                api_key_env=chosen.api_key_env,
                timeout_s=chosen.timeout_s,
                first_token_timeout_s=chosen.first_token_timeout_s,
                retries=chosen.retries,
            ),
        )

    @_part
    def guards(self) -> Guardrails:
        """What guards questions, passages and answers."""
        from llm_twin.inference import pipeline as inference

        chosen = self.settings.guard
        author = self.settings.author
        actions = {name: value for name, value in chosen if value in ("block", "flag", "off")}
        return inference.guardrails(
            {**actions, "topics": chosen.on_topics},
            embedder=self._remembering,
            redactor=catalog.part("redactor", "secrets")(),
            finder=catalog.part("personal_finder", "patterns")(inference.PERSONAL_KINDS),
            authors=(author.name, *author.aliases),
            topics=chosen.topics,
            languages=chosen.languages,
            max_characters=chosen.max_characters,
            cache_dir=_cache_dir(),
        )

    @_part
    def _remembering(self) -> ports.Embedder:
        """The embedder as answers use it: guard and search embed a question once between them."""
        from llm_twin.inference import pipeline as inference

        return inference.Remembering(self.embedder)

    @_part
    def cache(self) -> AnswerCache:
        """Answers to repeated questions; asked only where the setting `cache.enabled` says so."""
        from llm_twin.inference import pipeline as inference

        chosen = self.settings.cache
        return inference.AnswerCache(
            self._remembering, similarity=chosen.similarity, entries=chosen.entries, max_age_s=chosen.max_age_s
        )

    @_part
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

    def _sources(self, addresses: Sequence[str]) -> list[tuple[ports.Source, collect.Part | None]]:
        """The sources to sync, or parts of them: those of the settings, or only what the addresses name."""
        configured = self._configured()
        if not addresses and not configured:
            raise ConfigError(
                f"{self.workspace.settings_file} names no sources; add [[sources]] with an address, "
                f"or name them here: twin sync ./posts"
            )
        if not addresses:
            return [(self._source(chosen), None) for chosen in configured.values()]
        return [self._named(address, configured) for address in addresses]

    def _configured(self) -> dict[str, settings.SourceSettings]:
        """The sources of the settings by the place each names, whatever its spelling."""
        found: dict[str, settings.SourceSettings] = {}
        for chosen in self.settings.sources:
            first = found.setdefault(self._place(chosen.address), chosen)
            if first.model_copy(update={"address": chosen.address}) != chosen:
                raise ConfigError(
                    f"{first.address!r} and {chosen.address!r} name the same source with different options; make one "
                    f"[[sources]] table of the two in {self.workspace.settings_file}"
                )
        return found

    def _named(
        self, address: str, configured: Mapping[str, settings.SourceSettings]
    ) -> tuple[ports.Source, collect.Part | None]:
        """What an address means: a source of the settings, a part of one, or a source of its own."""
        from llm_twin.collect import pipeline as collect

        same = configured.get(self._place(address))
        if same:
            return self._source(same), None
        if "://" in address:
            by_name = {chosen.address: chosen for chosen in configured.values()}
            for item in self.warehouse.items():
                if item.key == address and item.source in by_name:
                    return self._source(by_name[item.source]), collect.Part(address, below=False)
            return self._source(settings.SourceSettings(address=address)), None
        if self._recognise(address) == "files":
            opened = [self._source(chosen) for chosen in configured.values() if "://" not in chosen.address]
            parts = [(source, collect.part_of(source, address, self.workspace.root)) for source in opened]
            inside = [(source, part) for source, part in parts if part]
            if inside:  # where sources stand in one another, the innermost
                return min(inside, key=lambda pair: len(pair[1].key))
        known = sorted(self._stored_names(address))
        name = known[0] if known else os.path.normpath(address)
        return self._source(settings.SourceSettings(address=name)), None

    def _place(self, address: str) -> str:
        from llm_twin.collect import pipeline as collect

        return collect.place(address, self.workspace.root)

    def _stored_names(self, address: str) -> set[str]:
        """The names under which items of a source are stored, which were other spellings of its address once."""
        place = self._place(address)
        return {name for name in {item.source for item in self.warehouse.items()} if self._place(name) == place}

    def _source(self, chosen: settings.SourceSettings) -> ports.Source:
        """The source of a [[sources]] table, its options checked against what its kind takes."""
        from llm_twin.collect import pipeline as collect

        name = chosen.kind or ("browser" if chosen.render else self._recognise(chosen.address))
        kind = catalog.part("source", name)
        context = collect.SourceContext(
            author=chosen.author or self.settings.author.name,
            root=self.workspace.root,
            fetcher=lambda: self.fetcher,
            now=lambda: datetime.now(UTC),
            browser=self.browser,
        )
        return cast("ports.Source", kind.open(chosen.address, context, **self._options(kind, chosen)))

    def _options(self, kind: Any, chosen: settings.SourceSettings) -> dict[str, Any]:
        """The options of a [[sources]] table as the kind's `open` declares them."""
        declared = _declared_options(kind)
        options = {}
        for name, value in chosen.options.items():
            if name not in declared:
                known = ["address", "kind", "author", *declared]
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ConfigError(
                    f"the source {chosen.address!r} takes no option {name!r}; {hint}it takes {', '.join(known)}"
                )
            try:
                options[name] = TypeAdapter(declared[name].annotation).validate_python(value)
            except ValidationError as error:
                raise ConfigError(
                    f"option {name!r} of the source {chosen.address!r} is wrong: {error.errors()[0]['msg'].lower()}, "
                    f"got {value!r}; correct it in {self.workspace.settings_file}"
                ) from None
        return options

    def _recognise(self, address: str) -> str:
        """The first kind that takes an address, in the order of the catalog."""
        try:
            urlsplit(address)
        except ValueError as error:
            raise ConfigError(
                f"the source {address!r} has no address that can be read: {error}; correct it, and percent-encode "
                "brackets"
            ) from None
        for name in catalog.ordered("source"):
            if catalog.part("source", name).recognises(address):
                return name
        raise ConfigError(f"no kind of source takes {address!r}; `twin sources` lists the kinds with an example each")

    def _authors(self) -> tuple[Author, ...]:
        """The author of the settings with aliases, then everybody else whose writing was collected."""
        own = Author(self.settings.author.name, self.settings.author.aliases)
        return (own, *(Author(name) for name in sorted(self.warehouse.profiles()) if name != own.name))

    # --- runs and checks --------------------------------------------------------------------------------------------

    @contextmanager
    def _run(self, pipeline: str) -> Iterator[dict[str, Any]]:
        """Record a run: begun, finished or failed, with what the block puts into the result."""
        for earlier in self.warehouse.runs(limit=20):
            if earlier.status == "running":  # we hold the writer's lock, so whoever began it is gone
                self.warehouse.save_run(replace(earlier, status="interrupted"))
        run = Run(
            id=uuid.uuid4().hex,
            pipeline=pipeline,
            started_at=datetime.now(UTC),
            code_version=importlib.metadata.version("llm-twin"),
            settings={setting.key: to_json(setting.value) for setting in self.loaded.explain()},
        )
        self.warehouse.save_run(run)
        result: dict[str, Any] = {"id": run.id}
        try:
            yield result
        except BaseException as error:
            report = {"error": str(error) or type(error).__name__}
            ended = replace(run, finished_at=datetime.now(UTC), report=report)
            stopped = not isinstance(error, Exception)  # Ctrl-C, not a failure
            self.warehouse.save_run(replace(ended, status="interrupted" if stopped else "failed"))
            raise
        del result["id"]
        self.warehouse.save_run(replace(run, status="done", finished_at=datetime.now(UTC), **result))

    def _left_out(self) -> tuple[Dropped, ...]:
        """Documents that the last finished sync left out of the index."""
        for run in self.warehouse.runs(limit=50):
            if run.pipeline == "sync" and run.status == "done":
                return tuple(Dropped(**drop) for drop in run.outputs.get("left_out", ()))
        return ()

    def _check_python(self, name: str) -> Check:
        version = platform.python_version()
        return Check(name, True, f"{version}, llm-twin {importlib.metadata.version('llm-twin')}")

    def _check_workspace(self, name: str) -> Check:
        sources = len(self.settings.sources)
        if not sources:
            return Check(name, False, f"{self.workspace.settings_file} names no sources", "twin sync ./posts")
        return Check(name, True, f"{self.workspace.root}, {sources} source{'s' if sources > 1 else ''}")

    def _check_disk(self, name: str) -> Check:
        free = self.workspace.free_bytes()
        enough = free >= ENOUGH_BYTES
        return Check(
            name, enough, f"{free / 1e9:.1f} GB free", "" if enough else f"free space on {self.workspace.root}"
        )

    def _check_warehouse(self, name: str) -> Check:
        return Check(name, True, f"{len(self.warehouse.document_hashes()):,} documents in {self.warehouse!r}")

    def _check_embedder(self, name: str) -> Check:
        started = time.perf_counter()
        self.embedder.embed(["Is the embedder there?"])
        return Check(name, True, f"{self.embedder.name}, first text in {(time.perf_counter() - started) * 1000:.0f} ms")

    def _check_index(self, name: str) -> Check:
        info = self.index.info()
        if info is None:
            return Check(name, False, "nothing is indexed yet", "twin sync")
        if info.embedder != self.embedder.name:
            return Check(
                name, False, f"built by {info.embedder}, the embedder is {self.embedder.name}", "twin sync --rebuild"
            )
        return Check(name, True, f"{info.count:,} chunks, {info.search} search, generation {info.generation}")

    def _check_model(self, name: str) -> Check:
        model = self.model
        if model is not None:
            # Part of the adapter, not of the port: only this check asks a server what it serves.
            served = cast("Any", model).models()
            wanted = self.settings.llm.model
            if wanted in served or not served:
                return Check(name, True, f"{wanted} at {cast('Any', model).base_url}")
            return Check(
                name, False, f"{wanted} is not served; there is: {', '.join(served)}", f"TWIN_LLM_MODEL={served[0]}"
            )
        found = catalog.part("language_model", "openai").local_servers()
        if not found:
            return Check(name, True, "none: answers quote the author, and nothing leaves this machine")
        server, base_url, models = found[0]
        remedy = f"export TWIN_LLM_BASE_URL={base_url} TWIN_LLM_MODEL={models[0] if models else '…'}"
        return Check(name, True, f"none in the settings; {server} answers at {base_url}", remedy)


ALL_RUNS = 1_000_000
"""More runs than any workspace has: one a minute for two years."""

ENOUGH_BYTES = 1_000_000_000
"""Free disk below which `doctor` warns: a generation is copied before it is edited."""


def _is_meant(item: ItemState, documents: Mapping[str, Document], target: str) -> bool:
    """Whether an item is what a person names: by its key, or its document's id, title, address or author."""
    document = documents.get(item.document_id or "")
    named = (document.id, document.title, document.url, document.author, *document.also_at) if document else ()
    return target in (item.key, *named)


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


def _without(told: Mapping[str, Any], key: str, documents: Mapping[str, Document]) -> dict[str, Any]:
    """What a run told, less those entries of its list `key` that name one of these documents."""
    kept = [drop for drop in told.get(key, ()) if not _names_any(drop, documents)]
    return {**told, key: kept} if key in told else dict(told)


def _names_any(drop: Mapping[str, str], documents: Mapping[str, Document]) -> bool:
    return any(name == drop["item"] or name in drop["reason"] for name in documents)


def _declared_options(kind: Any) -> dict[str, inspect.Parameter]:
    """What the `open` of a kind of sources takes beside address and context."""
    parameters = inspect.signature(kind.open, eval_str=True).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in ("address", "context")}


class _Quiet:
    """Progress nobody watches."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _: None


def _cache_dir() -> Path:
    """Where built model graphs are kept: derived data that workspaces share, safe to delete."""
    import platformdirs

    return platformdirs.user_cache_path("llm-twin", appauthor=False)
