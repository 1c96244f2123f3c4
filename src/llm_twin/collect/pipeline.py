"""Collect: what a source lists becomes documents in the warehouse, and every item is accounted for.

    list ─> known and unchanged? ── yes ─> unchanged, not even fetched
              └─ no ─> failed before, and not due? ── yes ─> failed still, not even fetched (see retry.py)
                         └─ no ─> fetch ─> redact ─> same content hash? ─> added · updated · unchanged
    what is not listed any more ─> removed     what cannot be a document ─> skipped or failed, with the reason
    what left a window onto the latest ─> looked at where it stands, now and then ─> unchanged · updated · gone

States and documents are saved together in small batches: a kill loses what is in flight, and the next run goes on
from there.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from llm_twin.collect import retry
from llm_twin.collect.places import Part, part_of, place
from llm_twin.collect.reading import hash_of
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError, PartialListing, SourceError
from llm_twin.core.ports import DocumentStore, Progress, Redactor, Source, Window
from llm_twin.core.records import Document, Item, ItemState, Redaction, fingerprint, to_json

__all__ = [
    "CollectReport",
    "Part",
    "SourceContext",
    "adopt",
    "collect",
    "forget",
    "is_forgotten",
    "is_forgotten_with",
    "part_of",
    "place",
]

GONE = "gone"
"""How the reason of an item begins whose address answers that there is nothing."""
FORGOTTEN = "forgotten on request"
"""How the reason of an item begins that was deleted here; it is not collected again before that is undone."""
LEFT = "left:"
"""How the version of an item begins that left its window: what its page held, or nothing where it cannot be read."""
REVISIT_AFTER = timedelta(days=3)
"""How often an item that left its window is looked at."""
REVISITS = 50
"""Items that left a window looked at in one run: a minute at one request a second, for a source that often has one."""
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
    part: Part | None = None,
    retry_failed: bool = False,
    forgotten_authors: Collection[str] = (),
) -> CollectReport:
    """Bring the store up to what `source` lists, and say how every item ended.

    With `part`, nothing outside of it is touched. `retry_failed` looks at failed items that are not due yet, too.
    Documents of `forgotten_authors` are skipped.

    Errors of the store pass through; what was saved before stays. A source that cannot be listed, completely or at all,
    is no error: it is the report's `problem`, and nothing of it is removed.
    """
    run = _Run(source, store, redactor, now, part, retry_failed, forgotten_authors)
    with progress.step(f"collect {source.name}") if progress else nullcontext(_nothing) as done:
        try:
            run.take_listing(done)
            if run.shows_all:
                run.remove_vanished()
            else:
                run.look_at_what_left(done)
            problem = None
        except SourceError as error:
            problem = str(error)
        finally:
            run.save()
    return CollectReport(source.name, tuple(run.states.values()), run.redactions, problem)


def adopt(source: str, former: Collection[str], *, store: DocumentStore) -> None:
    """Make items that were stored under former names of a source its own, so that none is collected twice.

    Where several names have an item, one that was forgotten decides, then one that brought the document.
    """
    names = {source, *former}
    held: dict[str, list[ItemState]] = {}
    for state in store.items():
        if state.source in names:
            held.setdefault(state.key, []).append(state)
    for states in held.values():
        first = max(states, key=lambda state: (is_forgotten(state), _brought(state), state.source == source))
        if len(states) == 1 and first.source == source:
            continue
        gone = [(replace(state, outcome="removed"), None) for state in states]
        # In one save, after which the document has an item again.
        store.save([*gone, (replace(first, source=source), None)])


def forget(
    items: Sequence[ItemState], *, store: DocumentStore, now: datetime, for_good: bool, author: str | None = None
) -> None:
    """Delete items with their documents. With `for_good` later runs skip them, whatever their source then says.

    `author` is who was forgotten, where it was a person and not a document; undoing that undoes it for the items.
    """
    # What was forgotten for good before stays so, also when its whole source is forgotten now.
    items = [item for item in items if not is_forgotten(item)]
    store.save([(replace(item, outcome="removed"), None) for item in items])
    if for_good:
        kept_out = [
            ItemState(item.source, item.key, "skipped", reason=why, version=item.version, seen_at=now)
            for item in items
            for why in [_forgotten_with(author) if author else _forgotten(item.key)]
        ]
        store.save([(state, None) for state in kept_out])


def is_forgotten(state: ItemState) -> bool:
    """Whether an item is kept out because it was forgotten for good, by itself or with its author."""
    return state.reason.startswith(FORGOTTEN)


def is_forgotten_with(state: ItemState, author: str) -> bool:
    """Whether an item is kept out because everything of that author is."""
    return state.reason.casefold() == _forgotten_with(author).casefold()


def _forgotten(key: str) -> str:
    return f"{FORGOTTEN}; undo that with: twin forget --undo {shlex.quote(key)}"


def _forgotten_with(author: str) -> str:
    return f"{FORGOTTEN}, as all of {author}; undo that with: twin forget --undo {shlex.quote(author)}"


def _brought(state: ItemState) -> bool:
    """Whether an item stands for a document of its own, not for one that it shares with the item that brought it."""
    return state.document_id is not None and state.outcome != "skipped"


def _nothing(_: int) -> None:
    return None


class _Run:
    """One run over one source: what was known before it, what it found, and what is not saved yet."""

    def __init__(
        self,
        source: Source,
        store: DocumentStore,
        redactor: Redactor | None,
        now: Callable[[], datetime],
        part: Part | None,
        retry_failed: bool,
        forgotten_authors: Collection[str],
    ) -> None:
        self.source, self.store, self.redactor, self.now = source, store, redactor, now
        self.part, self.retry_failed = part, retry_failed
        self.forgotten_authors = {author.casefold() for author in forgotten_authors}
        self.states: dict[str, ItemState] = {}
        self.redactions: dict[str, tuple[Redaction, ...]] = {}
        self.hashes = store.document_hashes()
        self.known: dict[str, ItemState] = {}
        self.owners: dict[str, tuple[str, str]] = {}
        for state in store.items():
            if state.source == source.name and self._is_meant(state.key):
                self.known[state.key] = state
            if state.document_id and _brought(state):
                self.owners.setdefault(state.document_id, (state.source, state.key))
        self.shows_all = True
        self._is_alone = True
        self._silent: list[str] = []
        self._twice: list[Item] = []
        self._unsaved: list[tuple[ItemState, Document | None]] = []
        self._documents = 0
        self._saved_at = time.monotonic()

    # --- the story --------------------------------------------------------------------------------------------------

    def take_listing(self, done: Callable[[int], None]) -> None:
        """Work through the listing. Raises `SourceError` where something kept it from being complete."""
        try:
            for listed in self.source.list():
                if not self._is_meant(listed.key):
                    self._is_alone = False
                elif listed.key not in self.states:
                    self._take(listed)
                    done(1)
        except PartialListing:
            self.shows_all = False
        if not self.states and not self.known:
            what = f"{self.part.key!r} in {self.source.name}" if self.part else self.source.name
            raise SourceError(f"{what} lists nothing to collect; check its address, `include` and `exclude`")
        had = sum(state.document_id is not None for state in self.known.values())
        has = any(state.document_id for state in self.states.values())
        # A part may well have lost its last item, when the rest of its source is still there.
        if not self._is_alone or (self.states and (has or not had)):
            return
        raise SourceError(
            f"{self.source.name} suddenly lists no documents, although {len(self.known)} items with {had} documents "
            "are known; what is not listed was not removed: check the source, or forget it if that is meant"
        )

    def _is_meant(self, key: str) -> bool:
        return self.part is None or self.part.holds(key)

    def _take(self, listed: Item | ItemState) -> None:
        known = self.known.get(listed.key)
        if known and is_forgotten(known):
            self.states[known.key] = known
        elif isinstance(listed, ItemState):
            # Every listing looks at it anyway, so it is always due.
            self._end(listed, known, next_try=self.now())
        elif known and self._is_settled(listed, known):
            self._keep(replace(known, outcome="skipped" if known.outcome == "skipped" else "unchanged"))
        elif known and not self._is_due(known, self._version(listed)):
            self.states[known.key] = known
        else:
            self._fetch(listed, known)

    def _is_due(self, known: ItemState, version: str | None) -> bool:
        """Whether it is time for another look at an item that failed; it is when its version says that it changed."""
        if known.outcome != "failed" or known.next_try is None or self.retry_failed:
            return True
        return version not in (None, known.version) or known.next_try <= self.now()

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
            self._end_with(error, state, known)
            self._hear_from(error.host, error.reason)
            return
        self._hear_from("")
        if document.author.casefold() in self.forgotten_authors:
            self._let_go(known)
            self._keep(replace(state, outcome="skipped", reason=_forgotten_with(document.author)))
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

    def _end_with(self, error: ItemError, state: ItemState, known: ItemState | None) -> None:
        """The end of an item that gave an error in the place of a document."""
        if error.gone:
            self._end_gone(replace(state, outcome="failed", reason=f"{GONE}: {error.reason}"), known)
            return
        skipped = error.skipped and not (error.passing and self._own_document(known))
        version = None if error.passing else state.version
        ended = replace(state, outcome="skipped" if skipped else "failed", reason=error.reason, version=version)
        self._end(ended, known, host=error.host)

    def _end(
        self, state: ItemState, known: ItemState | None, *, host: str = "", next_try: datetime | None = None
    ) -> None:
        """A state without a document: a failure keeps the document there was, a decision to skip lets it go."""
        if state.outcome == "failed":
            tries = known.tries + 1 if known else 1
            if known and known.outcome == "skipped":  # it stands for no document, or for one of another item
                self._let_go(known)
            due = next_try or retry.next_try(tries, self.now(), host=host)
            self._keep(replace(state, tries=tries, next_try=due, document_id=self._own_document(known)))
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

    def _hear_from(self, host: str, reason: str = "") -> None:
        """Count failures in a row that are due to one host. Raises `SourceError` when it is best left alone."""
        goes_on = bool(host) and self._silent[-1:] == [host]
        self._silent = [*self._silent, host] if goes_on else [host] * bool(host)
        if len(self._silent) >= retry.SILENT_TIMES:
            raise SourceError(
                f"{self.source.name}: {host} kept {len(self._silent)} items in a row from being read, last: {reason}; "
                "the rest was not asked for and waits for the next sync"
            )

    def remove_vanished(self) -> None:
        """Remove what was known and is not listed, and let doubles inherit the documents of those that went."""
        self.save()
        for key, known in self.known.items():
            # What was forgotten stays so, or a file that is away for a day would bring it back.
            if key not in self.states and not is_forgotten(known):
                self._keep(replace(known, outcome="removed", reason="is not listed any more"))
                self._disown(known)
        self.save()
        heirs, self._twice = self._twice, []
        self.hashes = self.store.document_hashes() if heirs else self.hashes
        for item in heirs:
            document_id = self.states[item.key].document_id
            if document_id not in self.owners:
                self._fetch(item, self.states[item.key])

    # --- what left a window -----------------------------------------------------------------------------------------

    def look_at_what_left(self, done: Callable[[int], None]) -> None:
        """Look at items that a window does not show any more where they stand, those first that wait for longest."""
        self.save()
        left = [known for key, known in self.known.items() if key not in self.states and not is_forgotten(known)]
        for known in left:
            if known.outcome == "failed" and known.document_id is None:
                reason = f"left what {self.source.name} shows before it could be read: {known.reason}"
                self._keep(replace(known, outcome="skipped", reason=reason, version=None, tries=0, next_try=None))
        if not isinstance(self.source, Window):
            return
        waiting = [known for known in left if _brought(known) and self._is_worth_a_look(known)]
        waiting.sort(key=lambda known: known.seen_at.timestamp() if known.seen_at else 0.0)
        for known in waiting[:REVISITS]:
            for document in self.store.documents([str(known.document_id)]):
                if not self._revisit(self.source, known, document):
                    return
                done(1)

    def _is_worth_a_look(self, known: ItemState) -> bool:
        """What just left is looked at once, to know its page; from then on every few days, or when a failure is due."""
        if self.part is not None or known.seen_at is None:
            return True
        if known.outcome == "failed":
            return self._is_due(known, None)
        return not _has_left(known) or known.seen_at <= self.now() - REVISIT_AFTER

    def _revisit(self, window: Window, known: ItemState, document: Document) -> bool:
        """Whether the next one may be looked at; not when a host is in trouble.

        A feed and a page hold one text in two forms, so that a page is compared with what it held before: with the
        document only where it is the same already.
        """
        try:
            shown = window.revisit(document)
        except ItemError as error:
            if error.gone:
                self._end_gone(replace(known, outcome="failed", reason=f"{GONE}: {error.reason}"), known)
            else:
                self._keep(self._looked_at_in_vain(known, error.host))
            return not error.host
        shown = shown if shown is document else self._redact(known.key, shown)
        version = f"{LEFT}{shown.content_hash[:32]}"
        reason = "" if known.outcome == "failed" else known.reason
        state = replace(known, outcome="unchanged", reason=reason, version=version, tries=0, next_try=None)
        is_first_look = not _has_left(known) or known.version == LEFT
        if is_first_look or known.version == version or shown.content_hash == document.content_hash:
            self._keep(state)
            return True
        self.hashes[document.id] = shown.content_hash
        reason = _redacted(self.redactions.get(known.key, ()))
        self._keep(replace(state, outcome="updated", reason=reason), shown)
        return True

    def _looked_at_in_vain(self, known: ItemState, host: str) -> ItemState:
        """An item of which nothing new is known: it is as it was, and has its next turn when others have."""
        if known.outcome != "failed":
            return replace(known, outcome="unchanged", version=known.version if _has_left(known) else LEFT)
        return replace(known, next_try=retry.next_try(known.tries, self.now(), host=host))

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
        return known.document_id if known and _brought(known) else None

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


def _has_left(known: ItemState) -> bool:
    """Whether an item was looked at since it left its window."""
    return (known.version or "").startswith(LEFT)


def _redacted(found: Sequence[Redaction]) -> str:
    return "redacted: " + ", ".join(f"{each.kind} in line {each.line}" for each in found) if found else ""
