"""Telegram: the author's own messages from the JSON that Telegram Desktop exports, of one chat or of all of them.

How messages become documents stands in `messages.py`; a post in a channel of the author's is a document by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from llm_twin.collect.export import Export, ExportSource, Shelf, named_like
from llm_twin.collect.html import fenced
from llm_twin.collect.messages import (
    OTHER_CHANNEL,
    PRIVATE_CHAT,
    left_out,
    marked,
    message_record,
    place_of,
    read_messages,
)
from llm_twin.collect.reading import Reading, parse_date
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import SourceError
from llm_twin.core.records import Kind

_ONE = ("name", "type", "id", "messages.item")
_ALL = ("personal_information.user_id", *(f"chats.list.item.{name}" for name in _ONE))
_MARKS = {"bold": "**", "italic": "_", "strikethrough": "~~", "code": "`"}


@dataclass(slots=True)
class _Chat:
    """The chat whose messages are being read: what the export told of it, and what was left out of it.

    `alone` says that it was exported by itself.
    """

    alone: bool
    told: set[str] = field(default_factory=set)
    id: str = ""
    name: str = ""
    type: str = ""
    documents: dict[str, tuple[str, Kind]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


class TelegramSource(ExportSource):
    """The author's own messages in an export as JSON, told by `me`: a name or number as the export has it.

    Without `me`, the owner of the export counts, and where it names none, the author's name.

    In an export of all chats, channels are collected when `channels` names them, and private chats and groups only with
    `private`. A chat that was exported by itself is collected whatever it is; the posts of a channel are its owner's.
    """

    example: ClassVar[str] = "~/Downloads/Telegram Desktop/ChatExport_2026-03-14/result.json"
    platform = "telegram"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Exports under the names that Telegram Desktop gives them."""
        folder, _, file = address.rpartition("/")
        return named_like(folder if file == "result.json" else address, r"(?:Chat|Data)Export_\d{4}-\d\d-\d\d.*")

    @classmethod
    def open(
        cls,
        address: str,
        context: SourceContext,
        *,
        me: str = "",
        channels: tuple[str, ...] = (),
        private: bool = False,
    ) -> TelegramSource:
        """The export at a path: its folder, a zip of it, or its `result.json`; options as in the class."""
        return cls(address, context, me=me, channels=channels, private=private)

    def __init__(
        self,
        address: str,
        context: SourceContext,
        *,
        me: str = "",
        channels: tuple[str, ...] = (),
        private: bool = False,
    ) -> None:
        super().__init__(address, context, me=me, channels=channels, private=private)
        self.me, self.private = me, private
        self._channels = {channel.casefold() for channel in channels}
        self._owner = ""
        self._others: Counter[str] = Counter()

    def gather(self, export: Export, shelf: Shelf) -> None:
        """Messages by chat and number or day; see `ExportSource.gather`."""
        self._owner = ""
        self._others.clear()
        collected = 0
        for member in export.need(
            r"result\.json", what="result.json of Telegram (choose JSON as the format when you export)"
        ).values():
            chat = _Chat(alone=True)
            for place, value in export.objects(member, *_ONE, *_ALL):
                name = place.rpartition(".")[2]
                # A name begins a chat, except Saved Messages, which have none: then it is what was told before.
                if place.startswith("chats.") and (chat.alone or name == "name" or name in chat.told):
                    _leave_out(chat, shelf)
                    chat = _Chat(alone=False)
                if name == "user_id":
                    self._owner = str(value)
                elif name == "item":
                    collected += self._message(chat, value, shelf)
                else:
                    chat.told.add(name)
                    setattr(chat, name, str(value if value is not None else ""))
            _leave_out(chat, shelf)
        if not collected and self._others:
            seen = ", ".join(f"{sender!r}" for sender, _ in self._others.most_common(5))
            raise SourceError(
                f"{self.name} has no message by {self.me or self._owner or self.author!r}; set `me` to one of {seen}"
            )

    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:  # noqa: ARG002
        """The messages of a document; see `ExportSource.read`."""
        return read_messages(records)

    def _message(self, chat: _Chat, message: Mapping[str, Any], shelf: Shelf) -> bool:
        """Put a message on the shelf; whether it is one of the author's."""
        if message.get("type") != "message":
            return False
        why = self._why_not(chat, message)
        text = "" if why else markdown(message.get("text_entities") or message.get("text") or "").strip()
        at = _moment(message)
        if why or not text or at is None:
            chat.left_out[why or "without text"] += 1
            return not why
        number = str(message.get("id"))
        kind: Kind
        if chat.type.endswith("channel"):
            key, kind = f"{chat.id}/{number}", "post"
        else:
            answered = chat.documents.get(str(message.get("reply_to_message_id")))
            key, kind = answered or place_of(chat.id, number, at, text)
        chat.documents[number] = key, kind
        shelf.add(key, message_record(text, at, kind), place=int(at.timestamp()))
        return True

    def _why_not(self, chat: _Chat, message: Mapping[str, Any]) -> str:
        sender, name = str(message.get("from_id") or ""), str(message.get("from") or "")
        is_channel = chat.type.endswith("channel")
        if is_channel and not chat.alone and not {chat.id.casefold(), chat.name.casefold()} & self._channels:
            return OTHER_CHANNEL
        if not is_channel and not chat.alone and not self.private and not chat.type.startswith("public_"):
            return PRIVATE_CHAT
        if not self._is_mine(sender, name) and not (is_channel and sender.removeprefix("channel") == chat.id):
            self._others[name or sender] += 1
            return "of other people"
        if message.get("forwarded_from") or message.get("forwarded_from_id"):
            return "forwarded from others"
        return "sent by a bot" if message.get("via_bot") else ""

    def _is_mine(self, sender: str, name: str) -> bool:
        known = {sender.casefold(), sender.removeprefix("user"), name.casefold()} - {""}
        return (self.me or self._owner or self.author).casefold() in known


def _leave_out(chat: _Chat, shelf: Shelf) -> None:
    for why, count in sorted(chat.left_out.items()):
        shelf.leave_out(f"{chat.id}: {why}", left_out(count, f"of {chat.name or chat.id}", why))


def markdown(text: str | Sequence[str | Mapping[str, Any]]) -> str:
    """The text of a message, which is a string or a list of strings and entities, as Markdown."""
    pieces = [text] if isinstance(text, str) else text
    return "".join(piece if isinstance(piece, str) else _entity(piece) for piece in pieces)


def _entity(entity: Mapping[str, Any]) -> str:
    kind, text = entity.get("type"), str(entity.get("text", ""))
    if kind in _MARKS:
        return marked(text, _MARKS[kind])
    if kind == "pre":
        return f"\n{fenced(text.strip(chr(10)), str(entity.get('language') or ''))}\n"
    if kind == "text_link" and entity.get("href"):
        return f"[{text}]({entity['href']})"
    if kind == "blockquote":
        return "\n" + "\n".join(f"> {line}" for line in text.strip("\n").split("\n")) + "\n\n"
    return text


def _moment(message: Mapping[str, Any]) -> datetime | None:
    """When a message was sent: exactly where the export says so, else by the clock of the machine that exported."""
    seconds = str(message.get("date_unixtime") or "")
    try:
        return datetime.fromtimestamp(int(seconds), UTC) if seconds else parse_date(message.get("date"))
    except (ValueError, OverflowError, OSError):
        return None
