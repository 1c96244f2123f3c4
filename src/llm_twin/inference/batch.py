"""Batches: many questions answered in one go, several at a time, and finished whatever happens in between.

A batch is kept before its first question is asked, and every answer the moment it is there, under the number of its
question. So a process that is killed loses the questions it was at and no others, whoever goes on asks only what has no
answer yet, and an answer that is written twice is there once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from llm_twin.core.errors import (
    ConfigError,
    MissingExtra,
    ModelMissing,
    NotFound,
    StoreError,
    TwinError,
    WorkspaceBusy,
)
from llm_twin.core.mentions import Mentions
from llm_twin.core.ports import RecordStore
from llm_twin.core.records import Answer, Filter, from_json, to_json

HEADERS = "batches"
CANCELLED = "batches/cancelled"
LONGEST_LINE = 65_536
"""Bytes of a line; of a longer one the rest is read past, and it is reported."""
LONGEST_QUESTION = 8_000
"""Characters of a question, as over HTTP."""
_KEYS = ("id", "question", "filters")
_LISTS = ("authors", "sources", "kinds", "languages")
_DATES = ("since", "until")
_BLOCK = 100
"""Questions kept in one record: one write for many, and far from the most that a record holds."""
_SAVE_S = 1.0
"""Seconds between two writes of how far a batch is: the answers themselves are what a restart goes by."""
_FATAL = (StoreError, ModelMissing, MissingExtra)
"""What would fail every question alike."""

_HALF = re.compile(r"[\ud800-\udfff]")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """How far a batch is. `digest` recognises the same questions; `failed` are those of `done` that got an error.

    While its questions arrive it is `receiving`; until all have an answer or an error it is `running`, also when nobody
    is at work on it.
    """

    id: str
    user: str
    created_at: datetime
    status: Literal["receiving", "running", "done", "cancelled"] = "receiving"
    total: int = 0
    done: int = 0
    failed: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a batch needs to get its answers.

    `ask` answers one question of a user under a filter, which `where` makes of what a person typed. `alone` is held by
    whoever works on the batch of an id, and raises `WorkspaceBusy` for a second one. `known` tells which of some
    documents still exist; `clean` takes secrets out of a text.
    """

    ask: Callable[[str, Filter, str], Answer]
    where: Callable[..., Filter]
    alone: Callable[[str], AbstractContextManager[None]]
    known: Callable[[Collection[str]], Collection[str]]
    clean: Callable[[str], str]


class Batches:
    """The batches of one warehouse, each its user's own. Where `user` is None the caller may see everybody's."""

    def __init__(
        self,
        store: RecordStore,
        asking: Asking,
        *,
        concurrency: int = 4,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._asking = asking
        self._concurrency = concurrency
        self._now = now

    # --- taking in and asking ---------------------------------------------------------------------------------------

    def start(self, lines: Iterable[bytes | str], *, user: str) -> Batch:
        """Take the questions in, one JSON object a line: `{"question": …, "id"?: …, "filters"?: {…}}`.

        A line that is none becomes an error in the results, an empty one is left out. Nothing is asked yet: see `run`.
        """
        batch = Batch(secrets.token_hex(6), user, self._now())
        digest, total = hashlib.sha256(), 0
        with self._asking.alone(batch.id):
            self._save(batch)
            entries = map(self._cleaned, _entries(_digested(lines, digest)))
            while block := list(islice(entries, _BLOCK)):
                self._store.put(_questions(batch.id), _key(total), {"entries": block})
                total += len(block)
            # Written last, so that a batch that runs has all its questions.
            return self._save(replace(batch, status="running", total=total, digest=digest.hexdigest()))

    def _cleaned(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "question": self._asking.clean(entry["question"])} if "question" in entry else entry

    def of_file(self, path: Path, *, user: str) -> Batch:
        """The batch of a file: the one that was begun with the same lines and not deleted since, or a new one.

        Raises `ConfigError` for a file that cannot be read.
        """
        try:
            with path.open("rb") as file:
                digest = hashlib.sha256()
                for _ in _digested(read_lines(file), digest):
                    pass
                for batch in self.all(user=user):
                    if batch.digest == digest.hexdigest() and batch.status in ("running", "done"):
                        return batch
                file.seek(0)
                return self.start(read_lines(file), user=user)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}; name a file of questions") from error

    def run(
        self,
        batch_id: str,
        *,
        concurrency: int | None = None,
        stop: threading.Event | None = None,
        told: Callable[[Batch], None] = lambda _: None,
    ) -> Batch:
        """Ask what has no answer yet, until all have one, the batch is cancelled or `stop` is set; `told` sees it grow.

        A question that cannot be answered gets an error in its place. Raises `WorkspaceBusy` while somebody is at work
        on it, and what would fail every question alike (a store, weights that are missing): it can be run again then.
        """
        most = concurrency or self._concurrency
        stop = stop or threading.Event()
        self._get(batch_id)
        with self._asking.alone(batch_id), ThreadPoolExecutor(most) as pool:
            batch = self._get(batch_id)
            progress = _Progress(batch, self._save, told)
            pending: set[Future[dict[str, Any]]] = set()
            try:
                for number, entry in self._entries_of(batch):
                    if found := self._store.record(_answers(batch_id), _key(number)):
                        progress.count(found)
                        continue
                    while len(pending) >= most:
                        pending = progress.collect(pending)
                    if stop.is_set() or self._is_cancelled(batch_id):
                        break
                    pending.add(pool.submit(copy_context().run, self._answer, batch, number, entry))
                while pending:
                    pending = progress.collect(pending)
            finally:
                progress.save()
        return self._get(batch_id)

    def _answer(self, batch: Batch, number: int, entry: dict[str, Any]) -> dict[str, Any]:
        """Answer one question and keep the result, which is returned."""
        result = {"id": entry.get("id"), "line": entry["line"], "question": entry.get("question")}
        documents: tuple[str, ...] = ()
        try:
            if "error" in entry:
                raise ConfigError(entry["error"])
            where = self._asking.where(**(entry.get("filters") or {}))
            answer = self._asking.ask(entry["question"], where, batch.user)
            documents, result["answer"] = answer.document_ids, to_json(answer)
        except _FATAL:
            raise
        except TwinError as error:
            result["error"] = {"type": type(error).__name__, "detail": str(error)}
        except Exception as error:
            _log.exception("question %d of batch %s failed", number + 1, batch.id)
            result["error"] = {"type": "InternalError", "detail": f"a mistake of ours, {type(error).__name__}: {error}"}
        self._store.put(_answers(batch.id), _key(number), result)
        # Looked at after the write: whoever forgets looks for answers after its own deletion, so one of us sees it.
        if len(self._asking.known(documents)) < len(documents):
            result = _without_answer(result)
            self._store.put(_answers(batch.id), _key(number), result)
        return result

    # --- looking at them --------------------------------------------------------------------------------------------

    def all(self, *, user: str | None) -> list[Batch]:
        """Batches of the user, the latest first."""
        cancelled = {batch_id for batch_id, _ in self._store.records(CANCELLED)}
        batches = [from_json(Batch, data) for _, data in self._store.records(HEADERS)]
        return [_seen(batch, batch.id in cancelled) for batch in batches if user in (None, batch.user)]

    def unfinished(self) -> list[Batch]:
        """Batches that somebody should run, the oldest first; those that never arrived completely are cleared away."""
        batches = list(reversed(self.all(user=None)))
        for batch in batches:
            if batch.status == "receiving":
                self._clear_if_abandoned(batch.id)
        return [batch for batch in batches if batch.status == "running"]

    def get(self, batch_id: str, *, user: str | None) -> Batch:
        """How far a batch is. Raises `NotFound`."""
        batch = self._get(batch_id)
        if user not in (None, batch.user):
            raise _no_batch(batch_id)
        return batch

    def results(self, batch_id: str, *, user: str | None) -> Iterator[dict[str, Any]]:
        """What is there of the results, in the order of the questions. Raises `NotFound`."""
        return (result for _, result in self._numbered_results(self.get(batch_id, user=user)))

    def cancel(self, batch_id: str, *, user: str | None) -> Batch:
        """Ask no more of it, whichever process is at work on it; its results stay. Raises `NotFound`."""
        if self.get(batch_id, user=user).status in ("receiving", "running"):
            self._store.put(CANCELLED, batch_id, {})
        return self.get(batch_id, user=user)

    def delete(self, batch_id: str, *, user: str | None) -> None:
        """Delete a batch with its results. Raises `NotFound`, and `WorkspaceBusy` while somebody is at work on it."""
        self.get(batch_id, user=user)
        with self._asking.alone(batch_id):
            self._drop(batch_id)

    # --- forgetting -------------------------------------------------------------------------------------------------

    def forget(self, mentions: Mentions) -> None:
        """Put an error in the place of every answer that quotes these documents, and take them out of the others."""
        for batch in self.all(user=None):
            for number, result in self._numbered_results(batch):
                if _mentioned(result, mentions):
                    rest = mentions.out_of(from_json(Answer, result["answer"]))
                    kept = _without_answer(result) if rest is None else {**result, "answer": to_json(rest)}
                    self._store.put(_answers(batch.id), _key(number), kept)

    def mentioning(self, mentions: Mentions) -> int:
        """How many answers mention these documents."""
        return sum(
            _mentioned(result, mentions) for batch in self.all(user=None) for _, result in self._numbered_results(batch)
        )

    # --- the records ------------------------------------------------------------------------------------------------

    def _entries_of(self, batch: Batch) -> Iterator[tuple[int, dict[str, Any]]]:
        for start in range(0, batch.total, _BLOCK):
            block = self._store.record(_questions(batch.id), _key(start))
            if block is None:
                raise _no_batch(batch.id)
            yield from enumerate(block["entries"], start=start)

    def _numbered_results(self, batch: Batch) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(batch.total):
            if result := self._store.record(_answers(batch.id), _key(number)):
                yield number, result

    def _get(self, batch_id: str) -> Batch:
        data = self._store.record(HEADERS, batch_id)
        if data is None:
            raise _no_batch(batch_id)
        return _seen(from_json(Batch, data), self._is_cancelled(batch_id))

    def _save(self, batch: Batch) -> Batch:
        self._store.put(HEADERS, batch.id, to_json(batch))
        return batch

    def _is_cancelled(self, batch_id: str) -> bool:
        return self._store.record(CANCELLED, batch_id) is not None

    def _clear_if_abandoned(self, batch_id: str) -> None:
        """Clear away what a process that is gone was receiving; not what is being received now."""
        try:
            with self._asking.alone(batch_id):
                if self._get(batch_id).status == "receiving":
                    self._drop(batch_id)
        except WorkspaceBusy:
            _log.info("batch %s is still being received", batch_id)

    def _drop(self, batch_id: str) -> None:
        for collection in (_questions(batch_id), _answers(batch_id)):
            while page := self._store.records(collection, limit=_BLOCK):
                self._store.drop(collection, [record_id for record_id, _ in page])
        self._store.drop(CANCELLED, [batch_id])
        self._store.drop(HEADERS, [batch_id])


class _Progress:
    """Counts results and tells how far a batch is, its owner at once and the store now and then."""

    def __init__(self, batch: Batch, save: Callable[[Batch], Batch], told: Callable[[Batch], None]) -> None:
        self._batch = replace(batch, done=0, failed=0)
        self._save = save
        self._told = told
        self._saved_at = time.monotonic()

    def count(self, result: dict[str, Any]) -> None:
        """One more question has its answer or its error."""
        batch = self._batch
        self._batch = replace(batch, done=batch.done + 1, failed=batch.failed + ("error" in result))
        self._told(self._batch)
        if time.monotonic() - self._saved_at > _SAVE_S:
            self.save()

    def collect(self, pending: set[Future[dict[str, Any]]]) -> set[Future[dict[str, Any]]]:
        """Wait for the next of these, count it, and return the others. Raises what a question raised."""
        finished, others = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            self.count(future.result())
        return others

    def save(self) -> None:
        """Write it down."""
        if self._batch.done == self._batch.total and self._batch.status == "running":
            self._batch = replace(self._batch, status="done")
        self._save(self._batch)
        self._saved_at = time.monotonic()


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream, none of them longer than `LONGEST_LINE` and a little: memory stays bounded."""
    while line := stream.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE + 1)
        yield line


def _digested(lines: Iterable[bytes | str], digest: Any) -> Iterator[bytes]:
    for line in lines:
        raw = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        digest.update(raw.rstrip(b"\r\n") + b"\n")
        yield raw


def _entries(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The questions of the lines, or what is wrong with a line."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found: dict[str, Any] = {"line": number}
            try:
                entry = _object(line)
                if isinstance(name := entry.get("id"), str | int) and not _HALF.search(str(name)):
                    found["id"] = name  # so that whoever sent it knows which of the lines is wrong
                yield {**found, **_checked(entry)}
            except ConfigError as error:
                yield {**found, "error": f"line {number} {error}"}


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ConfigError(f"is longer than {LONGEST_LINE:,} bytes; shorten it")
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'is no JSON: {error}; write one object like {{"question": "…"}}') from None
    if not isinstance(entry, dict):
        raise ConfigError('is no JSON object; write one like {"question": "…"}')
    return entry


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(entry.keys() - set(_KEYS)):
        raise ConfigError(f"has a key {unknown[0]!r}; use {', '.join(_KEYS)}")
    question = entry.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"has the question {question!r}; write a text that is not empty")
    if _HALF.search(question):
        raise ConfigError(f"has half a character in the question {question!r}; write it in UTF-8")
    if len(question) > LONGEST_QUESTION:
        raise ConfigError(
            f"has a question of {len(question):,} characters, {LONGEST_QUESTION:,} are the most; shorten it"
        )
    if not isinstance(entry.get("id"), str | int | None):
        raise ConfigError(f"has the id {entry['id']!r}; use a text or a number")
    if _HALF.search(str(entry.get("id"))):
        raise ConfigError(f"has half a character in the id {entry['id']!r}; write it in UTF-8")
    _check_filters(entry.get("filters"))
    return entry


def _check_filters(filters: Any) -> None:
    if filters is None:
        return
    known = (*_LISTS, *_DATES)
    if not isinstance(filters, dict) or not filters.keys() <= set(known):
        raise ConfigError(f"has the filters {filters!r}; use an object with {', '.join(known)}")
    for name, value in filters.items():
        texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not (texts if name in _LISTS else isinstance(value, str | None)):
            raise ConfigError(f"has the filter {name} {value!r}; use a {'list of texts' if name in _LISTS else 'text'}")


def _questions(batch_id: str) -> str:
    return f"batches/{batch_id}/questions"


def _answers(batch_id: str) -> str:
    return f"batches/{batch_id}/answers"


def _key(number: int) -> str:
    return f"{number:09d}"


def _seen(batch: Batch, cancelled: bool) -> Batch:
    """The batch as it is: who works on it does not hear at once that it was cancelled."""
    return replace(batch, status="cancelled") if cancelled and batch.status != "done" else batch


def _mentioned(result: dict[str, Any], mentions: Mentions) -> bool:
    return "answer" in result and mentions.in_answer(from_json(Answer, result["answer"]))


def _without_answer(result: dict[str, Any]) -> dict[str, Any]:
    detail = "the answer quoted a document that was forgotten since; ask it again"
    kept = {name: value for name, value in result.items() if name != "answer"}
    return {**kept, "error": {"type": "NotFound", "detail": detail}}


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"there is no batch {batch_id!r}; list them to see their ids")
