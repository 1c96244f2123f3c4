"""Forgetting: a document, a source or an author is deleted wherever something of it is kept, and that is proved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from llm_twin.core.errors import NotFound, StoreError
from llm_twin.core.mentions import Mentions
from llm_twin.core.records import (
    Document,
    DocumentHeader,
    Filter,
    ItemState,
    embedding_key,
    embedding_text,
)
from llm_twin.runs import recorded

if TYPE_CHECKING:
    from llm_twin.parts import Parts
    from llm_twin.sources import Sources

FORGOTTEN_AUTHORS = "forgotten_authors"
"""The collection of records of authors that were forgotten, by their names in lower case."""

ALL_RUNS = 1_000_000
"""More runs than any workspace has: one a minute for two years."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted, and how much of it each store still holds: zero everywhere.

    `copies` are documents that say the same under other addresses, and were not named; `returns` says that a source
    stands in the settings, so that the next sync collects it anew.
    """

    document_ids: tuple[str, ...]
    items: tuple[str, ...]
    left: Mapping[str, int]
    copies: tuple[DocumentHeader, ...]
    returns: bool


@dataclass(frozen=True, slots=True)
class KeptOut:
    """What later syncs skip because it was forgotten for good: an author with all they write, or one item.

    `target` is the name that undoes it; `source` is empty for an author.
    """

    target: str
    source: str
    since: datetime | None


class Quoting(Protocol):
    """What keeps answers, which quote documents."""

    def forget(self, mentions: Mentions) -> None:
        """Delete what quotes or cites them."""
        ...

    def mentioning(self, mentions: Mentions) -> int:
        """How much still does."""
        ...


class Forgetting:
    """Deletes for good, everywhere.

    `rebuild` makes the index anew from what is stored; `quoting` are the keepers of answers by what they keep; `copies`
    finds what says the same as some documents.
    """

    def __init__(
        self,
        parts: Parts,
        sources: Sources,
        *,
        rebuild: Callable[[], object],
        quoting: Callable[[], Mapping[str, Quoting]],
        copies: Callable[[Collection[str]], Sequence[DocumentHeader]],
    ) -> None:
        self._parts = parts
        self._sources = sources
        self._rebuild = rebuild
        self._quoting = quoting
        self._copies = copies

    def forget(self, target: str, *, wait_s: float = 0.0) -> Forgotten:
        """Delete everything about a document (by id or URL), a source or an author, and check that nothing is left.

        A document or an author stays forgotten: later syncs skip those items, and whatever else the author publishes,
        until `undo_forget`. A source comes back with the next sync while it stands in the settings. Raises `NotFound`
        when nothing of that name was collected.
        """
        from llm_twin.collect import pipeline as collect

        with (
            self._parts.workspace.writing(wait_s=wait_s),
            self._parts.tracer.span("forget") as span,
            recorded(self._parts, "forget") as run,
        ):
            documents = {document.id: document for document in self._parts.warehouse.documents()}
            items, gone = self._meant(target, documents)
            authors = {each.author for each in gone.values()}.difference(
                each.author for name, each in documents.items() if name not in gone
            )
            embedded = self._embedding_keys(gone)
            copies = tuple(self._copies(gone.keys()))
            mentions = Mentions((*gone.values(), *(made.document for made in self._parts.warehouse.features(gone))))
            # Before the documents, so that a command that was killed finds them by the documents when it is run again;
            # and after, for answers that quoted them while this went on.
            self._forget_mentions(mentions)
            now = datetime.now(UTC)
            by_source = self._sources.stored_names(target) >= {item.source for item in items}
            author = target if not by_source and any(each.author == target for each in documents.values()) else None
            if author:  # first, so that a kill from here on cannot let them back in
                self._parts.warehouse.put(
                    FORGOTTEN_AUTHORS, author.casefold(), {"author": author, "since": now.isoformat()}
                )
            collect.forget(items, store=self._parts.warehouse, now=now, for_good=not by_source, author=author)
            # Anew, not edited: an engine may keep the bytes of deleted entries in its files.
            self._rebuild()
            self._forget_elsewhere(gone)
            self._forget_mentions(mentions)
            self._parts.warehouse.scrub()
            left = {
                "documents": len(self._parts.warehouse.document_hashes().keys() & gone.keys()),
                "features": len(self._parts.warehouse.feature_fingerprints().keys() & gone.keys()),
                "index": self._parts.index.count(Filter(document_ids=tuple(gone))) if gone else 0,
                "embeddings": len(self._parts.warehouse.embedding_keys() & embedded),
                "profiles": len(self._parts.warehouse.profiles().keys() & authors),
                **{name: part.mentioning(mentions) for name, part in self._quoting().items()},
            }
            if any(left.values()):
                raise StoreError(f"forgetting {target!r} left something behind: {left}; run the command again")
            span.set(documents=len(gone), items=len(items))
            run["outputs"] = {"documents": len(gone), "items": len(items)}
        returns = by_source and self._sources.is_configured(target)
        return Forgotten(tuple(sorted(gone)), tuple(item.key for item in items), left, copies, returns)

    def forgotten(self) -> list[KeptOut]:
        """What is kept out because it was forgotten for good: authors, then single items by source and name."""
        from llm_twin.collect import pipeline as collect

        authors = [data for _, data in self._parts.warehouse.records(FORGOTTEN_AUTHORS)]
        items = [item for item in self._parts.warehouse.items() if collect.is_forgotten(item)]
        return [
            *(KeptOut(each["author"], "", datetime.fromisoformat(each["since"])) for each in authors),
            *(
                KeptOut(item.key, item.source, item.seen_at)
                for item in items
                if not any(collect.is_forgotten_with(item, each["author"]) for each in authors)
            ),
        ]

    def undo(self, target: str, *, wait_s: float = 0.0) -> tuple[str, ...]:
        """Let in again what was forgotten: an author, an item by its name, or all of a source; the items' names.

        What was deleted comes back with the next sync that finds it. Raises `NotFound` when nothing of that name is
        kept out.
        """
        from llm_twin.collect import pipeline as collect

        with self._parts.workspace.writing(wait_s=wait_s), self._parts.tracer.span("undo forget") as span:
            is_author = target.casefold() in {author.casefold() for author in self.authors()}
            sources = self._sources.stored_names(target)
            items = [
                item
                for item in self._parts.warehouse.items()
                if collect.is_forgotten(item)
                and (target == item.key or item.source in sources or collect.is_forgotten_with(item, target))
            ]
            if not items and not is_author:
                raise NotFound(f"nothing is forgotten under {target!r}; `twin forget --list` shows what is")
            self._parts.warehouse.save([(replace(item, outcome="removed"), None) for item in items])
            self._parts.warehouse.drop(FORGOTTEN_AUTHORS, [target.casefold()])
            span.set(items=len(items))
        return tuple(item.key for item in items)

    def authors(self) -> list[str]:
        """Authors of whom nothing is collected any more."""
        return [data["author"] for _, data in self._parts.warehouse.records(FORGOTTEN_AUTHORS)]

    def meant_by(self, target: str) -> list[DocumentHeader]:
        """The documents that `forget` would delete. Raises `NotFound` when nothing of that name was collected."""
        documents = {document.id: document for document in self._parts.warehouse.documents()}
        return [document.header for document in self._meant(target, documents)[1].values()]

    def _meant(self, target: str, documents: Mapping[str, Document]) -> tuple[list[ItemState], dict[str, Document]]:
        """Items that a person names, and those of their documents that no other item brings as well."""
        items: list[ItemState] = []
        others: list[ItemState] = []
        sources = self._sources.stored_names(target)
        for item in self._parts.warehouse.items():
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
        for made in self._parts.warehouse.features():
            keys = {embedding_key(self._parts.embedder.name, embedding_text(chunk)) for chunk in made.chunks}
            (own if made.document.id in documents else others).update(keys)
        return own - others

    def _forget_mentions(self, mentions: Mentions) -> None:
        for part in self._quoting().values():
            part.forget(mentions)

    def _forget_elsewhere(self, documents: Mapping[str, Document]) -> None:
        """Take documents out of what other runs reported, and their pages out of the cache of fetched ones."""
        for run in self._parts.warehouse.runs(limit=ALL_RUNS):
            outputs = _without(run.outputs, "left_out", documents)
            report = _without(run.report, "dropped", documents)
            if (outputs, report) != (run.outputs, run.report):
                self._parts.warehouse.save_run(replace(run, outputs=outputs, report=report))
        for document in documents.values():
            for url in (document.url, *document.also_at):
                if url and url.startswith("http"):
                    self._parts.fetcher.forget(url)


def _is_meant(item: ItemState, documents: Mapping[str, Document], target: str) -> bool:
    """Whether an item is what a person names: by its key, or its document's id, title, address or author."""
    document = documents.get(item.document_id or "")
    named = (document.id, document.title, document.url, document.author, *document.also_at) if document else ()
    return target in (item.key, *named)


def _without(told: Mapping[str, Any], key: str, documents: Mapping[str, Document]) -> dict[str, Any]:
    """What a run told, less those entries of its list `key` that name one of these documents."""
    kept = [drop for drop in told.get(key, ()) if not _names_any(drop, documents)]
    return {**told, key: kept} if key in told else dict(told)


def _names_any(drop: Mapping[str, str], documents: Mapping[str, Document]) -> bool:
    return any(name == drop["item"] or name in drop["reason"] for name in documents)
