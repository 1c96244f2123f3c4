"""Conversations that are kept: every question with its answer, whoever asked, until they or the author delete it.

A conversation is a small header in the collection `conversations`; its exchanges are records of a collection of their
own, so that two of them written at once cannot overwrite each other. The id of an exchange begins with the id of its
conversation, so that it is found without a search.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from llm_twin.core.errors import ConfigError, NotFound
from llm_twin.core.mentions import Mentions
from llm_twin.core.ports import RecordStore
from llm_twin.core.records import Answer, Exchange, Filter, Message, from_json, to_json
from llm_twin.inference.chat import Conversation

HEADERS = "conversations"
LAST = "last"
"""Stands for the exchange that was kept last, so that nobody in a terminal types an id."""
MOST_EXCHANGES = 100
"""Exchanges of one conversation. What a model is told of it is far less, so a longer one only hides the rest."""
LONGEST_TITLE = 80
"""Characters of the first question that name a conversation in a list."""


@dataclass(frozen=True, slots=True)
class ConversationHeader:
    """What a list shows of a conversation. `title` is its first question, shortened."""

    id: str
    user: str
    title: str
    created_at: datetime
    updated_at: datetime
    exchanges: int = 0


class Conversations:
    """The conversations of one warehouse, each of them its user's own.

    Where `user` is None the caller may see everybody's. What is not the user's is `NotFound`, as if it were not there.
    `known` tells which of some documents still exist, `generation` the digest of the live index.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        known: Callable[[Collection[str]], Collection[str]],
        generation: Callable[[], str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: secrets.token_hex(6),
    ) -> None:
        self._store = store
        self._known = known
        self._generation = generation
        self._now = now
        self._new_id = new_id
        self._counting = threading.Lock()

    def begin(self, *, user: str) -> ConversationHeader:
        """A conversation in which nothing was said yet; its first question becomes its title."""
        now = self._now()
        header = ConversationHeader(self._new_id(), user, "", now, now)
        self._store.put(HEADERS, header.id, to_json(header))
        return header

    def record(
        self,
        question: str,
        answer: Answer,
        *,
        user: str,
        conversation_id: str | None = None,
        where: Filter = Filter(),
        kind: Literal["ask", "write"] = "ask",
    ) -> Exchange | None:
        """Keep a question and its answer, in a new conversation where none is named.

        None when nothing may be kept: the conversation was deleted, or a document of the answer forgotten, while the
        answer was on its way.
        """
        header = self._header(conversation_id) if conversation_id else self.begin(user=user)
        if header is None or header.user != user:
            return None
        exchange = Exchange(
            id=f"{header.id}-{self._new_id()}",
            conversation_id=header.id,
            question=question,
            answer=answer,
            created_at=self._now(),
            where=where,
            user=user,
            generation=self._generation(),
            kind=kind,
        )
        self._store.put(_exchanges(header.id), exchange.id, to_json(exchange))
        # Looked at after the write: whoever deletes looks for records after its own deletion, so one of us sees it.
        documents = answer.document_ids
        gone = len(self._known(documents)) < len(documents)
        if gone or self._header(header.id) is None:
            self._store.drop(_exchanges(header.id), [exchange.id])
            if conversation_id is None:
                self._store.drop(HEADERS, [header.id])
            return None
        self._recount(header.id)
        return exchange

    def all(self, *, user: str | None, limit: int | None = None) -> list[ConversationHeader]:
        """The user's conversations, the one that was talked in last first."""
        headers = [from_json(ConversationHeader, data) for _, data in self._store.records(HEADERS)]
        own = [header for header in headers if user in (None, header.user)]
        return sorted(own, key=lambda header: (header.updated_at, header.id), reverse=True)[:limit]

    def header(self, conversation_id: str, *, user: str | None) -> ConversationHeader:
        """What a list shows of one conversation. Raises `NotFound`."""
        header = self._header(conversation_id)
        if header is None or user not in (None, header.user):
            raise NotFound(
                f"there is no conversation {conversation_id!r}; list them, or leave the id out to begin a new one"
            )
        return header

    def exchanges(self, conversation_id: str, *, user: str | None) -> list[Exchange]:
        """What was said in it, oldest first. Raises `NotFound`."""
        self.header(conversation_id, user=user)
        return self._said(conversation_id)

    def exchange(self, exchange_id: str, *, user: str | None) -> Exchange:
        """One exchange by its id, or the latest one by the word `last`. Raises `NotFound`."""
        if exchange_id == LAST:
            return self._latest(user)
        data = self._store.record(_exchanges(exchange_id.rpartition("-")[0]), exchange_id)
        exchange = None if data is None else from_json(Exchange, data)
        if exchange is None or user not in (None, exchange.user):
            raise NotFound(f"there is no exchange {exchange_id!r}; an answer shows its id, `last` is the latest one")
        return exchange

    def history(self, conversation_id: str, *, user: str | None) -> tuple[Message, ...]:
        """What a follow-up question can refer to. Raises `NotFound`, and `ConfigError` for a conversation that is full.

        To be called before a question of the conversation is answered.
        """
        header = self.header(conversation_id, user=user)
        if header.exchanges >= MOST_EXCHANGES:
            raise ConfigError(
                f"conversation {conversation_id!r} has {header.exchanges} exchanges, the most there may be; begin a "
                "new one"
            )
        return self._history(conversation_id)

    def history_before(self, exchange: Exchange) -> tuple[Message, ...]:
        """The same as it was when an exchange began."""
        return self._history(exchange.conversation_id, before=exchange.id)

    def delete(self, conversation_id: str, *, user: str | None) -> None:
        """Delete a conversation with all its exchanges; feedback on them stays. Raises `NotFound`."""
        self.header(conversation_id, user=user)
        self._drop(conversation_id)

    def forget(self, mentions: Mentions) -> None:
        """Delete every exchange that quotes these documents, and conversations of which nothing is left.

        Passages of them that were only shown beside a quotation of others are taken out of the exchange, which stays.
        """
        for header in self.all(user=None):
            said = self._said(header.id)
            gone = [exchange.id for exchange in said if not self._without(exchange, mentions)]
            self._store.drop(_exchanges(header.id), gone)
            if said and len(gone) == len(said):
                self._drop(header.id)
            elif gone:
                self._recount(header.id)

    def _without(self, exchange: Exchange, mentions: Mentions) -> bool:
        """Take the documents out of an exchange; whether that is possible."""
        rest = mentions.out_of(exchange.answer)
        if rest is not None and rest != exchange.answer:
            kept = replace(exchange, answer=rest)
            self._store.put(_exchanges(exchange.conversation_id), exchange.id, to_json(kept))
        return rest is not None

    def mentioning(self, mentions: Mentions) -> int:
        """How many exchanges mention these documents."""
        return sum(
            mentions.in_answer(exchange.answer) for header in self.all(user=None) for exchange in self._said(header.id)
        )

    def _latest(self, user: str | None) -> Exchange:
        for header in self.all(user=user):
            for _, data in self._store.records(_exchanges(header.id), limit=1):
                return from_json(Exchange, data)
        raise NotFound("nothing was asked yet, or ask.keep_history is off; ask something first: twin ask QUESTION")

    def _recount(self, conversation_id: str) -> None:
        """Bring a header up to its exchanges; from the exchanges themselves, so that a race mends itself."""
        with self._counting:
            header, said = self._header(conversation_id), self._said(conversation_id)
            if header is None or not said:
                return
            self._store.put(
                HEADERS,
                conversation_id,
                to_json(
                    replace(
                        header,
                        title=_title(said[0].question),
                        updated_at=max(exchange.created_at for exchange in said),
                        exchanges=len(said),
                    )
                ),
            )

    def _header(self, conversation_id: str) -> ConversationHeader | None:
        data = self._store.record(HEADERS, conversation_id)
        return None if data is None else from_json(ConversationHeader, data)

    def _said(self, conversation_id: str) -> list[Exchange]:
        newest_first = self._store.records(_exchanges(conversation_id))
        return [from_json(Exchange, data) for _, data in reversed(newest_first)]

    def _history(self, conversation_id: str, *, before: str | None = None) -> tuple[Message, ...]:
        memory = Conversation()
        newest_first = self._store.records(_exchanges(conversation_id), limit=memory.turns, before=before)
        for _, data in reversed(newest_first):
            exchange = from_json(Exchange, data)
            if not exchange.answer.refused:
                memory.add(exchange.question, exchange.answer.text)
        return memory.history

    def _drop(self, conversation_id: str) -> None:
        # The exchanges first: without its header nobody would find them. Then those that came meanwhile.
        self._drop_exchanges(conversation_id)
        with self._counting:
            self._store.drop(HEADERS, [conversation_id])
        self._drop_exchanges(conversation_id)

    def _drop_exchanges(self, conversation_id: str) -> None:
        said = self._store.records(_exchanges(conversation_id))
        self._store.drop(_exchanges(conversation_id), [exchange_id for exchange_id, _ in said])


def _exchanges(conversation_id: str) -> str:
    """The collection that holds what was said in a conversation."""
    return f"exchanges/{conversation_id}"


def _title(question: str) -> str:
    line = " ".join(question.split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1].rstrip() + "…"
