"""Slack: the author's own messages from a workspace's export: a folder per channel, a JSON file per day.

How messages become documents stands in `messages.py`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from llm_twin.collect.export import Export, ExportSource, Shelf, named_like
from llm_twin.collect.html import fenced
from llm_twin.collect.messages import PRIVATE_CHANNEL, left_out, marked, message_record, place_of, read_messages
from llm_twin.collect.reading import Reading
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import SourceError
from llm_twin.core.records import Kind

_DAYS = r"[^/]+/\d{4}-\d\d-\d\d\.json"
_WRITTEN = {None, "me_message", "thread_broadcast", "file_share"}
"""Subtypes of messages that a person wrote."""

_CODE = re.compile(r"```(.*?)```|(`[^`\n]+`)", re.DOTALL)
_REFERENCE = re.compile(r"<([^<>\s|][^<>|]*)(?:\|([^<>]*))?>")
_EMPHASIS = re.compile(r"(?<![\w*~])([*~])(?=\S)([^*~\n]*?\S)\1(?![\w*~])")


class SlackSource(ExportSource):
    """The author's own messages in public channels, by `me`: an id, a name or a mail address (default: the author).

    `private` takes private channels and direct messages too, where the export has them. `workspace` is the name in the
    workspace's address (`acme` of acme.slack.com), which gives documents a link.
    """

    example: ClassVar[str] = "~/Downloads/Acme Slack export Jan 1 2025 - Mar 14 2026.zip"
    platform = "slack"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Exports under the name that Slack gives them."""
        return named_like(address, r".*\bslack export\b.*")

    @classmethod
    def open(
        cls, address: str, context: SourceContext, *, me: str = "", workspace: str = "", private: bool = False
    ) -> SlackSource:
        """The export at a path, a zip or a folder; options as in the class."""
        return cls(address, context, me=me, workspace=workspace, private=private)

    def __init__(
        self, address: str, context: SourceContext, *, me: str = "", workspace: str = "", private: bool = False
    ) -> None:
        super().__init__(address, context, me=me, workspace=workspace, private=private)
        self.me, self.workspace, self.private = me, workspace, private

    def gather(self, export: Export, shelf: Shelf) -> None:
        """Messages by channel and thread, number or day; see `ExportSource.gather`."""
        days = export.need(_DAYS, what="messages of Slack (channel/2026-03-14.json)")
        names, me = self._people(export)
        channels = {str(each.get("name")): str(each.get("id")) for each in _listed(export, r"channels\.json")}
        passed_over: Counter[tuple[str, str]] = Counter()
        for day, member in days.items():
            channel = day.split("/", 1)[0]
            for _, message in export.objects(member, "item"):
                why = _why_not(message, me)
                if channels and channel not in channels and not self.private:
                    why = PRIVATE_CHANNEL
                text = "" if why else markdown(message.get("text") or "", names).strip()
                if why or not text:
                    passed_over[channel, why or "without text"] += 1
                    continue
                self._shelve(message, text, channel, channels.get(channel, ""), shelf)
        for (channel, why), count in sorted(passed_over.items()):
            shelf.leave_out(f"{channel}: {why}", left_out(count, f"in {channel}", why))

    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:  # noqa: ARG002
        """The messages of a document; see `ExportSource.read`."""
        return read_messages(records)

    def _shelve(self, message: Mapping[str, Any], text: str, channel: str, channel_id: str, shelf: Shelf) -> None:
        number, thread = str(message["ts"]), str(message.get("thread_ts") or "")
        at = datetime.fromtimestamp(float(number), UTC)
        kind: Kind
        key, kind = (f"{channel}/{thread}", "post") if thread else place_of(channel, number, at, text)
        url = None
        if self.workspace and channel_id and kind == "post":
            url = f"https://{self.workspace}.slack.com/archives/{channel_id}/p{(thread or number).replace('.', '')}"
        shelf.add(key, message_record(text, at, kind, url=url), place=int(float(number) * 1_000_000))

    def _people(self, export: Export) -> tuple[dict[str, str], str]:
        """Everybody's name by id, and the author's id. Raises `SourceError` when it is nobody's or several people's."""
        wanted = (self.me or self.author).casefold()
        names: dict[str, str] = {}
        found: list[str] = []
        for user in _listed(export, r"(?:org_)?users\.json"):
            profile = user.get("profile") or {}
            shown = [
                profile.get("display_name"), profile.get("real_name"), user.get("real_name"), user.get("name"),
            ]  # fmt: skip
            key = str(user.get("id"))
            names[key] = str(next(filter(None, shown), key))
            if wanted in (str(each).casefold() for each in (key, profile.get("email"), *shown) if each):
                found.append(key)
        if not names and self.me:  # an export without its list of people
            return names, self.me
        if len(found) != 1:
            who = "several people" if found else "nobody"
            raise SourceError(
                f"{self.name} knows {who} called {self.me or self.author!r}; set `me` to the id or mail address that "
                "users.json has for the author"
            )
        return names, found[0]


def _listed(export: Export, pattern: str) -> Iterator[Mapping[str, Any]]:
    for member in export.find(pattern).values():
        for _, each in export.objects(member, "item"):
            yield each


def _why_not(message: Mapping[str, Any], me: str) -> str:
    if message.get("type") != "message" or message.get("subtype") not in _WRITTEN:
        return "notices of the workspace"
    if not re.fullmatch(r"\d{1,12}\.\d+", str(message.get("ts"))):
        return "without a time"
    return "" if message.get("user") == me else "of other people"


def markdown(text: str, names: Mapping[str, str]) -> str:
    """Slack's mrkdwn as Markdown: emphasis, links, names of people and channels; code stays as it is."""
    pieces = _CODE.split(text)  # text, block, inline code, text, …
    out = [_prose(pieces[0], names)]
    for block, inline, prose in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        if inline:
            out.append(html.unescape(_REFERENCE.sub(lambda found: found[2] or found[1], inline)))
        elif block.strip():
            code = html.unescape(_REFERENCE.sub(lambda found: found[2] or found[1], block)).strip("\n")
            out.append(f"\n{fenced(code)}\n")
        out.append(_prose(prose, names))
    return re.sub(r"\n{3,}(?=```)|(?<=```)\n{3,}", "\n\n", "".join(out))


def _prose(text: str, names: Mapping[str, str]) -> str:
    pieces = re.split(r"(<[^<>]+>)", text)
    for at, piece in enumerate(pieces):
        if at % 2:
            found = _REFERENCE.fullmatch(piece)
            pieces[at] = _reference(found[1], found[2] or "", names) if found else piece
        else:
            pieces[at] = re.sub(r"(?m)^•[ \t]*", "- ", piece)
    text = "".join(pieces)
    text = _EMPHASIS.sub(lambda found: marked(found[2], "**" if found[1] == "*" else "~~"), text)
    return html.unescape(text)


def _reference(target: str, label: str, names: Mapping[str, str]) -> str:
    kind, rest = target[0], target[1:]
    if kind == "@":
        return f"@{names.get(rest) or label or rest}"
    if kind == "#":
        return f"#{label or rest}"
    if kind == "!":
        return label if rest.startswith("date") else f"@{label.removeprefix('@') or rest.split('^')[0]}"
    return f"[{label}]({target})" if label and label != target else target
