"""LinkedIn: posts, articles and comments of the archive that LinkedIn sends (Settings, Get a copy of your data).

LinkedIn writes CSV in a way of its own: a line break inside a post stands between two quotes, and quotes in it may be
doubled twice; in comments they have backslashes. Since 2026 file names carry a member's number (`Shares_123.csv`).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, ClassVar

from llm_twin.collect.body import body_markdown
from llm_twin.collect.export import Export, ExportSource, Row, Shelf, named_like, opening
from llm_twin.collect.html import parse_html
from llm_twin.collect.reading import Reading, parse_date
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ItemError

VISIBLE = ("MEMBER_NETWORK", "PUBLIC", "ANYONE", "LOGGED_IN", "LOGGED_IN_MEMBERS")
"""How exports of different years say that every member could see a post."""

_SHARE_COLUMNS = ("Date", "ShareLink", "ShareCommentary")
_COMMENT_COLUMNS = ("Date", "Link", "Message")
_HASHTAG = re.compile(r"(?<![\w&/])#(\w*[^\W\d_]\w*)")
_QUOTES = re.compile(r'"+')


class LinkedInSource(ExportSource):
    """What a member published, told apart by the link of the post and the file of the article.

    `visibility` are the audiences collected; posts to others (a group, connections only) are skipped. `comments` takes
    the member's comments on posts of other people too, as notes.
    """

    example: ClassVar[str] = "~/Downloads/Complete_LinkedInDataExport_03-14-2026.zip"
    platform = "linkedin"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Archives under the name that LinkedIn gives them."""
        return named_like(address, r".*LinkedInDataExport.*")

    @classmethod
    def open(
        cls,
        address: str,
        context: SourceContext,
        *,
        visibility: tuple[str, ...] = VISIBLE,
        comments: bool = False,
    ) -> LinkedInSource:
        """The export at a path, a zip or a folder; options as in the class."""
        return cls(address, context, visibility=visibility, comments=comments)

    def __init__(
        self,
        address: str,
        context: SourceContext,
        *,
        visibility: tuple[str, ...] = VISIBLE,
        comments: bool = False,
    ) -> None:
        super().__init__(address, context, visibility=visibility, comments=comments)
        self.visibility, self.comments = visibility, comments

    def gather(self, export: Export, shelf: Shelf) -> None:
        """Posts by link, articles by file, comments by link and date; see `ExportSource.gather`."""
        seen: set[str] = set()
        shares = export.find(r"Shares(?:_\d+)?\.csv")
        articles = export.find(r"Articles/[^/]+\.html")
        comments = export.find(r"Comments(?:_\d+)?\.csv")
        if not (shares or articles or comments):
            export.need(r"Shares\.csv", what="Shares.csv, Articles or Comments.csv of LinkedIn")
        for key, member in shares.items():
            for row in export.rows(member, columns=_SHARE_COLUMNS):
                self._share(key, row, shelf, seen)
        for key, member in articles.items():
            shelf.add(key, {"member": member, "version": export.version(member)})
        for key, member in comments.items() if self.comments else ():
            for row in export.rows(member, columns=_COMMENT_COLUMNS, mend=_without_backslashes):
                self._comment(key, row, shelf, seen)

    def _share(self, file: str, row: Row, shelf: Shelf, seen: set[str]) -> None:
        key = row["ShareLink"] or f"{file}:{row.line}"
        visibility = row["Visibility"]
        if not row.whole or not row["Date"]:
            shelf.leave_out(key, f"{file}: the record that ends in line {row.line} is damaged; mend it", "failed")
        elif key in seen:
            shelf.leave_out(f"{key}#{row.line}", f"repeats the post of an earlier line of {file}")
        elif visibility and visibility not in self.visibility:
            shelf.leave_out(key, f"was shown to {visibility} only; add it to `visibility` to collect it")
        elif not row["ShareCommentary"]:
            shelf.leave_out(key, "shares what somebody else wrote, without words of its own")
        else:
            shelf.add(key, {"post": dict(row.cells)})
        seen.add(key)

    def _comment(self, file: str, row: Row, shelf: Shelf, seen: set[str]) -> None:
        key = f"comment:{row['Link'] or file}#{row['Date'] or row.line}"
        if not row.whole or not row["Date"]:
            shelf.leave_out(key, f"{file}: the record that ends in line {row.line} is damaged; mend it", "failed")
        elif key in seen:
            shelf.leave_out(f"{key}:{row.line}", f"repeats the comment of an earlier line of {file}")
        elif not row["Message"]:
            shelf.leave_out(key, "has no text; nothing to collect")
        else:
            shelf.add(key, {"comment": dict(row.cells)})
        seen.add(key)

    def read(self, records: list[dict[str, Any]], export: Export) -> Reading:
        """A post, an article or a comment; see `ExportSource.read`."""
        record = records[0]
        if "member" in record:
            return read_article(export.read(record["member"]))
        if "comment" in record:
            cells = record["comment"]
            text = cells["Message"].strip()
            return Reading(text, title=opening(text), published_at=moment(cells["Date"]), kind="note")
        return read_share(record["post"])


def read_share(cells: dict[str, str]) -> Reading:
    """A post: its own words, and the address it shares where the words do not name it."""
    text = unquoted(cells["ShareCommentary"]).strip()
    shared = cells.get("SharedUrl", "").strip()
    is_told = not re.match(r"https?://\S+$", shared) or shared in text
    return Reading(
        text=text if is_told else f"{text}\n\n<{shared}>",
        title=opening(text),
        url=cells["ShareLink"].strip() or None,
        published_at=moment(cells["Date"]),
        tags=tuple(_HASHTAG.findall(text)),
        kind="post",
    )


def unquoted(text: str) -> str:
    """A post as it was written, from the text of its CSV cell.

    Each line break may stand between quotes (`first"⏎"second`) and each quote of the author's may be doubled; what does
    not follow the one or the other throughout is the author's own and stays.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > 1 and lines[0].count('"') % 2 and _breaks_are_quoted(lines):
        inner = (line.removeprefix('"').removesuffix('"') for line in lines[1:-1])
        text = "\n".join((lines[0].removesuffix('"'), *inner, lines[-1].removeprefix('"')))
    runs = [len(run) for run in _QUOTES.findall(text)]
    return text.replace('""', '"') if len(runs) > 1 and not any(run % 2 for run in runs) else text


def _breaks_are_quoted(lines: list[str]) -> bool:
    return all(line.endswith('"') for line in lines[:-1]) and all(line.startswith('"') for line in lines[1:])


def _without_backslashes(line: str) -> str:
    return line.replace('\\"', '""')


def moment(date: str) -> datetime | None:
    """A date of an export, which is in UTC whether or not it says so."""
    return parse_date(date.strip().removesuffix(" UTC"))


def read_article(data: bytes) -> Reading:
    """An article: title and address from its heading, date from the line below. Raises `ItemError` for a draft."""
    tree = parse_html(data)
    published = tree.xpath("string(//p[@class='published'])")
    found = re.search(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d(?::\d\d)?)?", published)
    if not found:
        raise ItemError("is a draft: it names no date of publication", skipped=True)
    title = tree.xpath("string(//h1)") or tree.xpath("string(//title)")
    address = tree.xpath("string(//h1//a/@href)")
    body = tree.find("body")
    return Reading(
        text=body_markdown(
            tree if body is None else body,
            unwanted="(//h1)[1] | //p[@class='created'] | //p[@class='published'] | //head",
        ),
        title=" ".join(title.split()),
        url=address if re.match(r"https?://", address) else None,
        published_at=moment(found[0]),
        kind="article",
    )
