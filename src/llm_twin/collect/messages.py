"""Messages of chats become documents: what is said in passing is gathered, what is written out stands alone.

- A thread of the author's own messages is one document.
- A message of `LONG_WORDS` words or more is a post of its own.
- The remaining messages of one chat on one day (UTC) are one note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llm_twin.collect.export import opening
from llm_twin.collect.reading import NOTE_WORDS, Reading
from llm_twin.core.records import Kind
from llm_twin.core.text import word_count

LONG_WORDS = NOTE_WORDS
"""A message of so many words was written to be read by itself."""
PRIVATE_CHAT = "in a private chat"
PRIVATE_CHANNEL = "in a private channel or chat"
OTHER_CHANNEL = "in a channel that `channels` does not name"
_REMEDIES = {
    PRIVATE_CHAT: "set `private = true` to collect what you wrote there",
    PRIVATE_CHANNEL: "set `private = true` to collect what you wrote there",
    OTHER_CHANNEL: "name it in `channels` if it is yours",
}


def place_of(chat: str, number: str, at: datetime, text: str) -> tuple[str, Kind]:
    """The key and kind of the document that a message outside threads belongs to."""
    if word_count(text) >= LONG_WORDS:
        return f"{chat}/{number}", "post"
    return f"{chat}/{at.astimezone(UTC):%Y-%m-%d}", "note"


def left_out(count: int, where: str, why: str) -> str:
    """The reason of messages that are counted and not collected; their key tells where they are, and `why`."""
    told = f"1 message {where} is left out" if count == 1 else f"{count:,} messages {where} are left out"
    return f"{told}; {_REMEDIES[why]}" if why in _REMEDIES else told


def message_record(text: str, at: datetime, kind: Kind, *, url: str | None = None) -> dict[str, Any]:
    """A message as it waits on the shelf."""
    return {"text": text, "at": at.isoformat(), "kind": kind, "url": url}


def read_messages(records: Sequence[Mapping[str, Any]]) -> Reading:
    """The messages of one document in order, dated by the first."""
    first = records[0]
    return Reading(
        text="\n\n".join(record["text"] for record in records),
        title=opening(re.sub(r"[*_`>#]+", "", first["text"])),
        url=first["url"],
        published_at=datetime.fromisoformat(first["at"]),
        kind=first["kind"],
    )


def marked(text: str, mark: str) -> str:
    """Every line of the text between marks of emphasis, which must touch a word to count."""
    lines = []
    for line in text.split("\n"):
        words = line.strip()
        lines.append(line.replace(words, f"{mark}{words}{mark}", 1) if words else line)
    return "\n".join(lines)
