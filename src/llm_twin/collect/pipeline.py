"""Collect: what a source lists becomes documents in the warehouse, and every item is accounted for.

    list ─> known and unchanged? ── yes ─> unchanged, not even fetched
              └─ no ─> fetch ─> redact ─> same content hash? ─> added · updated · unchanged
    what is not listed any more ─> removed     what cannot be a document ─> skipped or failed, with the reason

States and documents are saved together in small batches: a kill loses what is in flight, and the next run goes on
from there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from llm_twin.collect.reading import hash_of
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError, PartialListing, SourceError
from llm_twin.core.ports import DocumentStore, Progress, Redactor, Source
from llm_twin.core.records import Document, Item, ItemState, Redaction, fingerprint, to_json

__all__ = ["CollectReport", "SourceContext", "collect", "forget"]

GONE = "gone"
"""How the reason of an item begins whose address answers that there is nothing."""
FORGOTTEN = "forgotten on request"
"""The reason of an item that its author had deleted here; it is not collected again."""
BATCH_DOCUMENTS = 32
"""Documents saved at once: what a kill may cost."""
BATCH_STATES = 1000
"""States without a document saved at once."""
BATCH_S = 2.0
"""Seconds after which fetched documents are saved even if there are few: slow sources lose no more."""


@dataclass(frozen=True, slots=True)
class CollectReport:
    """How every item of one source ended in this run.

    `problem` says why the listing was incomplete or empty; then nothing was removed. `redactions` tells by item what
    was taken out before storing: kind and line, never the secret.
    """

    source: str
    states: tuple[ItemState, ...] = ()
    redactions: Mapping[str, tuple[Redaction, ...]] = field(default_factory=dict)
    problem: str | None = None

    @property
    def counts(self) -> Counter[str]:
        """Items by outcome."""
        return Counter(state.outcome for state in self.states)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json` and for the run's record."""
        return {
            "source": self.source,
            "counts": dict(self.counts),
            "items": [to_json(state) for state in self.states],
            "redactions": {key: to_json(found) for key, found in self.redactions.items()},
            "problem": self.problem,
        }


def collect(
    source: Source,
    *,
    store: DocumentStore,
    redactor: Redactor | None,
    now: Callable[[], datetime],
    progress: Progress | None = None,
) -> CollectReport:
    """Bring the store up to what `source` lists, and say how every item ended.

    Errors of the store pass through; what was saved before stays. A source that cannot be listed, completely or at all,
    is no error: it is the report's `problem`, and nothing of it is removed.
    """
    run = _Run(source, store, redactor, now)
    with progress.step(f"collect {source.name}") if progress else nullcontext(_nothing) as done:
        try:
            problem = run.take_listing(done)
            if problem is None and run.shows_all:
                run.remove_vanished()
        finally:
            run.save()
    return CollectReport(source.name, tuple(run.states.values()), run.redactions, problem)


def forget(items: Sequence[ItemState], *, store: DocumentStore, now: datetime, for_good: bool) -> None:
    """Delete items with their documents. With `for_good` later runs skip them, whatever their source then says."""
    # What was forgotten for good before stays so, also when its whole source is forgotten now.
    items = [item for item in items if item.reason != FORGOTTEN]
    store.save([(replace(item, outcome="removed"), None) for item in items])
    if for_good:
        kept_out = [
            ItemState(item.source, item.key, "skipped", reason=FORGOTTEN, version=item.version, seen_at=now)
            for item in items
        ]
        store.save([(state, None) for state in kept_out])


def _nothing(_: int) -> None:
    return None


class _Run:
    """One run over one source: what was known before it, what it found, and what is not saved yet."""

    def __init__(
        self, source: Source, store: DocumentStore, redactor: Redactor | None, now: Callable[[], datetime]
    ) -> None:
        self.source, self.store, self.redactor, self.now = source, store, redactor, now
        self.states: dict[str, ItemState] = {}
        self.redactions: dict[str, tuple[Redaction, ...]] = {}
        self.hashes = store.document_hashes()
        self.known: dict[str, ItemState] = {}
        self.owners: dict[str, tuple[str, str]] = {}
        for state in store.items():
            if state.source == source.name:
                self.known[state.key] = state
            if state.document_id and state.outcome != "skipped":
                self.owners.setdefault(state.document_id, (state.source, state.key))
        self.shows_all = True
        self._twice: list[Item] = []
        self._unsaved: list[tuple[ItemState, Document | None]] = []
        self._documents = 0
        self._saved_at = time.monotonic()

    # --- the story --------------------------------------------------------------------------------------------------

    def take_listing(self, done: Callable[[int], None]) -> str | None:
        """Work through the listing. Returns what kept it from being complete, None when it is."""
        try:
            for listed in self.source.list():
                if listed.key not in self.states:
                    self._take(listed)
                    done(1)
        except PartialListing:
            self.shows_all = False
        except SourceError as error:
            return str(error)
        if not self.states and not self.known:
            return f"{self.source.name} lists nothing to collect; check its address, `include` and `exclude`"
        had = sum(state.document_id is not None for state in self.known.values())
        has = any(state.document_id for state in self.states.values())
        if self.states and (has or not had):
            return None
        return (
            f"{self.source.name} suddenly lists no documents, although {len(self.known)} items with {had} documents "
            "are known; what is not listed was not removed: check the source, or forget it if that is meant"
        )

    def _take(self, listed: Item | ItemState) -> None:
        known = self.known.get(listed.key)
        if known and known.reason == FORGOTTEN:
            self._keep(known)
        elif isinstance(listed, ItemState):
            self._end(listed, known)
        elif known and self._is_settled(listed, known):
            self._keep(replace(known, outcome="skipped" if known.outcome == "skipped" else "unchanged"))
        else:
            self._fetch(listed, known)

    def _is_settled(self, item: Item, known: ItemState) -> bool:
        """Whether an item needs no second look: same version, and it did not fail or wait for another's document."""
        if self._version(item) is None or known.version != self._version(item) or known.outcome == "failed":
            return False
        return known.outcome != "skipped" or known.document_id is None

    def _fetch(self, item: Item, known: ItemState | None) -> None:
        state = ItemState(self.source.name, item.key, "added", version=self._version(item))
        try:
            document = self._redact(item.key, self.source.fetch(item))
        except ItemError as error:
            if error.gone:
                self._end_gone(replace(state, outcome="failed", reason=f"{GONE}: {error.reason}"), known)
                return
            skipped = error.skipped and not (error.passing and self._own_document(known))
            version = None if error.passing else state.version
            outcome = replace(state, outcome="skipped" if skipped else "failed", reason=error.reason, version=version)
            self._end(outcome, known)
            return
        owner = self.owners.setdefault(document.id, (self.source.name, item.key))
        if owner != (self.source.name, item.key):
            self._twice.append(item)
            where = owner[1] if owner[0] == self.source.name else f"{owner[1]} of {owner[0]}"
            reason = f"is the same document as {where}; give it another canonical URL if it is not"
            self._let_go(known, unless=document.id)
            self._keep(replace(state, outcome="skipped", reason=reason, document_id=document.id))
            return
        self._let_go(known, unless=document.id)
        before = self.hashes.get(document.id)
        state = replace(state, document_id=document.id, reason=_redacted(self.redactions.get(item.key, ())))
        if before == document.content_hash:
            self._keep(replace(state, outcome="unchanged"))
            return
        self.hashes[document.id] = document.content_hash
        self._keep(replace(state, outcome="updated" if before else "added"), document)

    def _end(self, state: ItemState, known: ItemState | None) -> None:
        """A state without a document: a failure keeps the document there was, a decision to skip lets it go."""
        if state.outcome == "failed":
            tries = known.tries + 1 if known else 1
            if known and known.outcome == "skipped":  # it stands for no document, or for one of another item
                self._let_go(known)
            self._keep(replace(state, tries=tries, document_id=self._own_document(known)))
            return
        self._let_go(known)
        self._keep(state)

    def _end_gone(self, state: ItemState, known: ItemState | None) -> None:
        """What answers 404 or 410 may be back in an hour; it is removed when it does so again on a later day."""
        since = known.seen_at if known and known.reason.startswith(GONE) else None
        if known is None or since is None or since.date() >= self.now().date():
            self._end(state, known)
            return
        self.save()
        self._keep(replace(known, outcome="removed", reason=f"{state.reason}; it was already on {since:%Y-%m-%d}"))
        self.save()
        self._disown(known)

    def remove_vanished(self) -> None:
        """Remove what was known and is not listed, and let doubles inherit the documents of those that went."""
        self.save()
        for key, known in self.known.items():
            if key not in self.states:
                self._keep(replace(known, outcome="removed", reason="is not listed any more"))
                self._disown(known)
        self.save()
        heirs, self._twice = self._twice, []
        self.hashes = self.store.document_hashes() if heirs else self.hashes
        for item in heirs:
            document_id = self.states[item.key].document_id
            if document_id not in self.owners:
                self._fetch(item, self.states[item.key])

    # --- details ----------------------------------------------------------------------------------------------------

    def _version(self, item: Item) -> str | None:
        """The item's version under this redactor: other rules make another document of the same text."""
        if item.version is None or self.redactor is None:
            return item.version
        return fingerprint(item.version, self.redactor.fingerprint)[:32]

    def _redact(self, key: str, document: Document) -> Document:
        if self.redactor is None:
            return document
        redacted, found = self.redactor.redact(document)
        if not found:
            return document
        self.redactions[key] = tuple(found)
        # Hashed over what is left: only what will be stored decides whether anything changed.
        return replace(redacted, content_hash=hash_of(redacted))

    def _let_go(self, known: ItemState | None, *, unless: str | None = None) -> None:
        """Release the document an item stood for, in a save of its own: a state that names none keeps it."""
        if known and known.document_id and known.document_id != unless:
            self.save()
            self._unsaved.append((replace(known, outcome="removed"), None))
            self.save()
            self._disown(known)

    def _own_document(self, known: ItemState | None) -> str | None:
        """The document an item brought, not one it only shares with the item that brought it."""
        return known.document_id if known and known.outcome != "skipped" else None

    def _disown(self, known: ItemState) -> None:
        if known.document_id and self.owners.get(known.document_id) == (known.source, known.key):
            del self.owners[known.document_id]
            self.hashes.pop(known.document_id, None)

    def _keep(self, state: ItemState, document: Document | None = None) -> None:
        state = replace(state, seen_at=self.now())
        self.states[state.key] = state
        self._unsaved.append((state, document))
        self._documents += document is not None
        late = time.monotonic() - self._saved_at > BATCH_S
        if self._documents >= BATCH_DOCUMENTS or len(self._unsaved) >= BATCH_STATES or late:
            self.save()

    def save(self) -> None:
        """Write what is not written yet."""
        unsaved, self._unsaved, self._documents = self._unsaved, [], 0
        self._saved_at = time.monotonic()
        if unsaved:
            self.store.save(unsaved)


def _redacted(found: Sequence[Redaction]) -> str:
    return "redacted: " + ", ".join(f"{each.kind} in line {each.line}" for each in found) if found else ""
