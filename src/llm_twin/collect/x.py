"""X (Twitter): the author's posts from the archive that X makes of an account (Settings, Download an archive).

A thread (replies of the author to themselves) is one document. The archive cuts long posts short; their whole text
stands in a file of its own (`note-tweet.js`) and is put back by its beginning.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from llm_twin.collect.export import Export, ExportSource, Shelf, named_like, opening
from llm_twin.collect.reading import Reading, parse_date
from llm_twin.collect.sources import SourceContext

_POSTS = r"(?:data/)?tweets?(?:-part\d+)?\.js"
_NOTES = r"(?:data/)?note-tweet(?:-part\d+)?\.js"
_ACCOUNT = r"(?:data/)?account\.js"
_BEGINNING = 120
"""Characters that tell which long post a shortened one was; the archive keeps more than twice as many."""

_LongPosts = dict[str, tuple[str, dict[str, Any]]]


class XSource(ExportSource):
    """Posts of an account, threads as one document. Posts of others that were passed on are skipped.

    `replies` takes replies to other people too. `handle` is the account's name for addresses, where the archive does
    not say (`account.js`).
    """

    example: ClassVar[str] = "~/Downloads/twitter-2026-03-14-0123456789abcdef.zip"
    platform = "x"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Archives under the name that X gives them."""
        return named_like(address, r"(?:twitter|x)-\d{4}-\d\d-\d\d.*")

    @classmethod
    def open(cls, address: str, context: SourceContext, *, replies: bool = False, handle: str = "") -> XSource:
        """The archive at a path, a zip or a folder; options as in the class."""
        return cls(address, context, replies=replies, handle=handle)

    def __init__(self, address: str, context: SourceContext, *, replies: bool = False, handle: str = "") -> None:
        super().__init__(address, context, replies=replies, handle=handle)
        self.replies, self.handle = replies, handle.removeprefix("@")

    def gather(self, export: Export, shelf: Shelf) -> None:
        """Posts by the id of the post that began their thread; see `ExportSource.gather`."""
        files = export.need(_POSTS, what="data/tweets.js of X")
        user, handle = self._account(export)
        long_posts = _long_posts(export)
        parents: dict[str, str] = {}
        replies: set[str] = set()
        for file, member in files.items():
            for number, (_, entry) in enumerate(export.objects(member, "item"), 1):
                post = entry.get("tweet", entry) if isinstance(entry, dict) else {}
                key = str(post.get("id_str") or post.get("id") or "")
                if not re.fullmatch(r"[0-9]{1,19}", key) or not isinstance(post.get("full_text"), str):
                    shelf.leave_out(f"{file}:{number}", "is no post that can be read; download it again", "failed")
                elif key in parents:
                    shelf.leave_out(f"{key}:{number}", "repeats a post of the archive")
                elif post["full_text"].startswith("RT @"):
                    shelf.leave_out(key, "passes on what somebody else wrote")
                else:
                    parents[key], to = _answered(post)
                    if to and to != user:
                        replies.add(key)
                    shelf.add(key, _record(post, handle, long_posts), place=min(int(key), 2**63 - 1), name=key)
        for text, about in long_posts.values():
            shelf.add(f"note:{about['id']}", {**about, "text": text})
        if not user:  # then only the posts that are there tell to whom the others were written
            replies = {key for key in replies if parents[key] not in parents}
        parents |= dict.fromkeys(replies, "")
        threads = {key: _first(key, parents) for key in parents}
        shelf.move((key, first) for key, first in threads.items() if key != first)
        for key in sorted(replies):
            if not self.replies:
                shelf.drop(key)
                shelf.leave_out(key, "replies to somebody else; set `replies = true` to collect it")

    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:  # noqa: ARG002
        """The posts of a thread, in order; see `ExportSource.read`."""
        texts = [record["text"] for record in records if record["text"]]
        return Reading(
            text="\n\n".join(texts),
            title=opening(texts[0]) if texts else None,
            url=records[0]["url"],
            published_at=parse_date(records[0]["at"]),
            tags=tuple(tag for record in records for tag in record["tags"]),
            kind="post",
        )

    def _account(self, export: Export) -> tuple[str, str]:
        """The account's number and name; empty where the archive does not tell."""
        for member in export.find(_ACCOUNT).values():
            for _, entry in export.objects(member, "item.account"):
                return str(entry.get("accountId", "")), self.handle or str(entry.get("username", ""))
        return "", self.handle


def _answered(post: Mapping[str, Any]) -> tuple[str, str]:
    """The numbers of the post that a post answers and of the account that wrote it; empty for none."""
    return (
        str(post.get("in_reply_to_status_id_str") or post.get("in_reply_to_status_id") or ""),
        str(post.get("in_reply_to_user_id_str") or post.get("in_reply_to_user_id") or ""),
    )


def _first(key: str, parents: dict[str, str]) -> str:
    """The post that began the thread: the chain of answers up to what is no post of the author in the archive."""
    chain: list[str] = []
    while parents.get(key) in parents and key not in chain:
        chain.append(key)
        key = parents[key]
    for each in chain:
        parents[each] = key if each != key else ""
    return key


def _record(post: Mapping[str, Any], handle: str, long_posts: _LongPosts) -> dict[str, Any]:
    entities = post.get("entities") or {}
    media = (post.get("extended_entities") or {}).get("media") or entities.get("media") or []
    text = html.unescape(post["full_text"])
    whole = long_posts.pop(_beginning(text), None)
    key = str(post.get("id_str") or post.get("id"))
    text = whole[0] if whole else expanded(text, entities.get("urls") or [], media)
    captions = [str(each.get("ext_alt_text") or "").strip() for each in media]
    return {
        "text": "\n\n".join(filter(None, (text.strip(), *dict.fromkeys(captions)))),
        "at": _moment(post.get("created_at")),
        "url": f"https://x.com/{handle or 'i/web'}/status/{key}",
        "tags": [str(each["text"]) for each in entities.get("hashtags") or [] if each.get("text")],
    }


def expanded(text: str, urls: Sequence[Mapping[str, Any]], media: Sequence[Mapping[str, Any]] = ()) -> str:
    """The text with the addresses its author gave in the place of t.co links; links to its own media go."""
    for each in urls:
        short, whole = each.get("url") or each.get("shortUrl"), each.get("expanded_url") or each.get("expandedUrl")
        if short and whole:
            text = re.sub(rf"{re.escape(short)}(?!\w)", str(whole).replace("\\", r"\\"), text)
    for each in media:
        if each.get("url"):
            text = re.sub(rf"[ \t]*{re.escape(each['url'])}(?!\w)", "", text)
    return text


def _long_posts(export: Export) -> _LongPosts:
    """Whole texts of the posts that the archive cuts short, with what is known of them, by their beginning."""
    found: _LongPosts = {}
    for member in export.find(_NOTES).values():
        for _, note in export.objects(member, "item.noteTweet"):
            core = note.get("core") or {}
            text = html.unescape(str(core.get("text") or ""))
            about = {
                "id": str(note.get("noteTweetId", "")),
                "at": _moment(note.get("createdAt")),
                "url": None,
                "tags": [str(each["text"]) for each in core.get("hashtags") or [] if each.get("text")],
            }
            found[_beginning(text)] = (expanded(text, core.get("urls") or []).strip(), about)
    return found


def _beginning(text: str) -> str:
    """What a shortened post and the whole one share: their first words, without mentions and links before them."""
    return re.sub(r"\s+", " ", re.sub(r"^(?:@\w+\s+)+", "", text)).strip()[:_BEGINNING]


def _moment(value: Any) -> str | None:
    """A date of the archive (`Wed Oct 10 20:19:24 +0000 2018` or ISO 8601) in ISO 8601."""
    try:
        return datetime.strptime(str(value), "%a %b %d %H:%M:%S %z %Y").astimezone(UTC).isoformat()
    except ValueError:
        found = parse_date(value)
        return found.isoformat() if found else None
