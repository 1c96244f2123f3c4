"""What a question asks for besides its subject: whose writing, where it was published, of what kind, and when.

Rules without a model, and shy ones: a filter that is wrong hides the answer, a filter that is missed only leaves more
to rank. So a name, a platform or a year counts only where the words around it say that it speaks of the writing.
To teach it a platform, add its spelling to `PLATFORMS`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import get_args

from llm_twin.core.records import Author, Filter, Kind, Message

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Understanding:
    """A question taken apart.

    `text` is what to search for: the question without the words that became a filter. `phrases` were put in quotation
    marks and are wanted verbatim. `notes` say in plain words what was understood, one per filter.
    """

    text: str
    where: Filter = field(default_factory=Filter)
    phrases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def understand(
    question: str,
    *,
    authors: Sequence[Author] = (),
    sources: Collection[str] = (),
    kinds: Collection[str] = KINDS,
    now: datetime,
) -> Understanding:
    """Take a question apart; never raises, and finds only filters that these authors, sources and kinds could satisfy.

    `now` decides what "last year" means. Dates are read as UTC.
    """
    quotes = list(_QUOTED.finditer(question))
    # Inside quotation marks nothing is an instruction to us.
    readable = _blank(question, (quote.span() for quote in quotes), with_='"')
    dates = list(_find_dates(readable, now.astimezone(UTC) if now.tzinfo else now.replace(tzinfo=UTC)))
    # "… on GitHub in 2021?" ends with the platform once the date is gone.
    undated = _blank(readable, ((date.start, date.end) for date in dates), with_=" ")
    found = [
        *_find_authors(undated, authors),
        *_find_sources(undated, sources),
        *_find_kinds(undated, kinds),
        *dates,
    ]
    where = _combined(found)
    return Understanding(
        text=_without(question, [clue for clue in found if clue.holds_in(where)]),
        where=where,
        phrases=tuple(dict.fromkeys(" ".join(quote[1].split()) for quote in quotes)),
        notes=filter_notes(where),
    )


def merge(inferred: Filter, explicit: Filter) -> Filter:
    """Both filters together; where both speak of the same thing (the dates count as one) the explicit one holds."""
    dates = explicit if explicit.since or explicit.until else inferred
    return Filter(
        authors=explicit.authors or inferred.authors,
        sources=explicit.sources or inferred.sources,
        kinds=explicit.kinds or inferred.kinds,
        languages=explicit.languages or inferred.languages,
        document_ids=explicit.document_ids or inferred.document_ids,
        since=dates.since,
        until=dates.until,
    )


def describe(where: Filter) -> str:
    """A filter in plain words, such as "by Simon, on GitHub, in 2021"; "" for none."""
    parts = []
    if where.authors:
        parts.append("by " + " or ".join(where.authors))
    if where.sources:
        parts.append("on " + " or ".join(PLATFORMS.get(source, source) for source in where.sources))
    if where.kinds:
        parts.append("among " + " and ".join(_PLURALS.get(kind, kind) for kind in where.kinds))
    if where.languages:
        parts.append("in the languages " + ", ".join(where.languages))
    if where.document_ids:
        parts.append(f"in {len(where.document_ids)} chosen document{'s' * (len(where.document_ids) > 1)}")
    if where.since or where.until:
        parts.append(_period(where.since, where.until))
    return ", ".join(parts)


def filter_notes(where: Filter) -> tuple[str, ...]:
    """What a filter left to search, in plain words, one note for each thing it speaks of."""
    only = (
        Filter(authors=where.authors),
        Filter(sources=where.sources),
        Filter(kinds=where.kinds),
        Filter(since=where.since, until=where.until),
    )
    return tuple(f"Searched only what was published {describe(part)}." for part in only if part)


def in_conversation(question: str, history: Sequence[Message]) -> str:
    """The question as it can be searched for alone: one that leans on the question before it is joined with that one.

    "And in production?" or "Why does he prefer it?" say nothing to an index. A model would rewrite them; without one,
    the earlier question is put in front, which keeps its subject words in the search.
    """
    earlier = [message.content for message in history if message.role == "user"]
    words = re.findall(r"[\w'’-]+", question.lower())
    opens = _OPENERS.match(question) and len(words) <= 8
    points = not _POINTERS.isdisjoint(words) and sum(word not in _SMALL_WORDS for word in words) <= 2
    return f"{earlier[-1].strip()} {question}" if earlier and (opens or points) else question


# --- clues ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Clue:
    """A stretch of the question, the restriction it stands for, and what remains in its place."""

    start: int
    end: int
    where: Filter
    leaves: str = ""

    def holds_in(self, where: Filter) -> bool:
        """Whether the restriction became part of the filter (dates that contradict each other do not)."""
        return not (self.where.since or self.where.until) or bool(where.since or where.until)


def _combined(clues: Iterable[_Clue]) -> Filter:
    where = Filter()
    for clue in clues:
        new = clue.where
        where = Filter(
            authors=_joined(where.authors, new.authors),
            sources=_joined(where.sources, new.sources),
            kinds=_joined(where.kinds, new.kinds),
            since=max((day for day in (where.since, new.since) if day), default=None),
            until=min((day for day in (where.until, new.until) if day), default=None),
        )
    if where.since and where.until and where.since >= where.until:
        return replace(where, since=None, until=None)
    return where


def _joined(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _period(since: datetime | None, until: datetime | None) -> str:
    """The time from `since` until just before `until` as people write it: "in 2021", "in March 2021"."""
    last = until - timedelta(microseconds=1) if until else None
    if since is None or until is None or last is None:
        return f"from {since:%Y-%m-%d}" if since else f"up to {last:%Y-%m-%d}"
    if _begins_year(since) and _begins_year(until):
        return f"in {since.year}" if since.year == last.year else f"from {since.year} to {last.year}"
    if since.day == 1 and until == _back(since, -1, "month"):
        return f"in {since:%B %Y}"
    return f"from {since:%Y-%m-%d} up to {last:%Y-%m-%d}"


def _begins_year(moment: datetime) -> bool:
    return moment == moment.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)


def _blank(text: str, spans: Iterable[tuple[int, int]], *, with_: str) -> str:
    for start, end in spans:
        text = text[:start] + with_ * (end - start) + text[end:]
    return text


def _without(question: str, clues: Sequence[_Clue]) -> str:
    text, before = "", 0
    for clue in sorted(clues, key=lambda clue: (clue.start, -clue.end)):
        if clue.start >= before:
            text += question[before : clue.start] + clue.leaves
            before = clue.end
    text = re.sub(r"\s+([?.!,;:])", r"\1", " ".join((text + question[before:]).split()))
    text = re.sub(r"^[,;:.\s]+|(?<=[,;:])[,;:]+", "", text)
    return text if re.search(r"\w", text) else question


_QUOTED = re.compile(r"[\"“”„«]([^\"“”„«»\n]*\w[^\"“”„«»\n]*)[\"”“»]")
_OPENERS = re.compile(
    r"\s*(?:and|but|or|so|also|then|why|how so|really|(?:what|how) about|for example|such as|tell me|more|go on)\b",
    re.IGNORECASE,
)
_POINTERS = frozenset(("it", "its", "this", "that", "these", "those", "them", "they", "there", "such", "same"))
_SMALL = (
    "a about all an and any are as at be been but by can could did do does else ever for from had has have he her him "
    "his how i if in into is me more most much my no not of on one or our really she should so some still than the "
    "their then to too use very was we were what when where which who why will with would you your"
)
_SMALL_WORDS = _POINTERS.union(_SMALL.split())


# --- whose ----------------------------------------------------------------------------------------------------------

# Given and family names that are words as well: alone they say nothing ("Will it scale?", "in May").
_NAMES = (
    "will mark may grace hope rose bill art drew chase jay sue pat frank jack max ray guy dean grant miles young king "
    "brown white black green long day page rice wood stone field june april august summer joy faith rob bob pierce "
    "rich case baker cook carpenter smith hunter fisher price love best power little small short sharp swift rust ruby "
    "julia ada amber crystal dart scala go io sky iris lane ford banks bush church hill lake parks rivers west"
)
_WORDS_TOO = frozenset(_NAMES.split())


def _find_authors(text: str, authors: Sequence[Author]) -> Iterator[_Clue]:
    """Names of authors; a filter only when there is more than one to choose from."""
    spellings = _spellings(authors)
    if not spellings:
        return
    names = "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))
    for match in re.finditer(rf"(?P<by>\b[Bb]y\s+)?(?<!\w)(?P<name>{names})(?P<owns>['’]s?)?(?!\w)", text):
        author = spellings[match["name"]]
        # The author's own pages rarely name the author: left in the search, the name only draws mentions by others.
        leaves = "" if match["by"] else "their" if match["owns"] else "they"
        yield _Clue(*match.span(), Filter(authors=(author,)) if len(authors) > 1 else Filter(), leaves)


def _spellings(authors: Sequence[Author]) -> dict[str, str]:
    """Every spelling that means exactly one author, to that author's name."""
    owners: dict[str, set[str]] = {}
    for author in authors:
        full = {author.name, *author.aliases}
        words = {word for name in full for word in name.split() if len(word) > 2 and word[0].isupper()}
        for spelling in full | {word for word in words if word.lower() not in _WORDS_TOO}:
            if len(spelling) > 1 and spelling.lower() not in _WORDS_TOO:
                owners.setdefault(spelling, set()).add(author.name)
    return {spelling: names.pop() for spelling, names in owners.items() if len(names) == 1}


# --- where and of what kind -----------------------------------------------------------------------------------------

PLATFORMS = {"github": "GitHub", "linkedin": "LinkedIn", "medium": "Medium", "substack": "Substack"}
_PLURALS = {"article": "articles", "post": "posts", "repository": "repositories", "note": "notes"}
KIND_WORDS = {
    "article": r"blog\s+posts?|blog\s+entries|articles?|essays?",
    "post": r"posts?",
    "repository": r"repositories|repository|repos?|READMEs?",
    "note": r"notes?",
}
_ANY_KIND = "|".join(KIND_WORDS.values())
_WHOSE = r"(?:my|your|his|her|their|our|the\s+author['’]s|they|their)"
_PUBLISH = (
    r"(?:writ(?:e|es|ing|ten)|wrote|sa(?:y|ys|id)|post(?:s|ed|ing)?|publish(?:es|ed|ing)?|mention(?:s|ed)?|"
    r"shar(?:e|es|ed)|blog(?:s|ged)?)"
)


def _find_sources(text: str, sources: Collection[str]) -> Iterator[_Clue]:
    """Platforms as the place of the writing, not as its subject ("hosting on GitHub") or a word ("medium heat")."""
    for source, spelling in PLATFORMS.items():
        if source not in sources:
            continue
        name = f"(?:{spelling}|{source})" if source == "medium" else f"(?i:{spelling})"
        for pattern in (
            rf"^\s*[Oo]n\s+{name}\s*,",
            rf"\b{_PUBLISH}\s+(?P<clue>(?:on|to)\s+{name})(?=\s+(?:about|on|in|that|regarding)\b|\s*[?.!,;]|\s*$)",
            rf"\b{_PUBLISH}\b[^?.!]*\s(?P<clue>on\s+{name})\s*[?.!]*\s*$",
            rf"\b(?P<clue>(?:in|from|on|across)\s+(?:{_WHOSE}\s+|the\s+)?{name}\s+(?:{_ANY_KIND}|page|profile|blog)\b)",
            rf"\b{_WHOSE}\s+(?P<clue>{name})\s+(?:{_ANY_KIND})\b",
            rf"\b(?P<clue>(?:in|from|on)\s+{_WHOSE}\s+{name})(?=\s*[?.!,;]|\s*$)",
            rf"^\s*(?P<clue>{name})\s+(?:{_ANY_KIND})\b",
        ):
            for match in re.finditer(pattern, text):
                group = "clue" if "clue" in match.re.groupindex else 0
                yield _Clue(*match.span(group), Filter(sources=(source,)))


def _find_kinds(text: str, kinds: Collection[str]) -> Iterator[_Clue]:
    """Kinds of writing, where there is more than one kind to choose from."""
    if len(set(kinds)) < 2:
        return
    platform = rf"(?:(?:{'|'.join(PLATFORMS.values())})\s+)?"
    plural = r"(?=(?:blog\s+)?\w+s\b)"
    asks = rf"(?:^\s*|\b(?:[Ww]hich|[Ww]hat|[Ff]ind|[Ll]ist|[Ss]how(?:\s+me)?|[Oo]nly)\s+(?:{_WHOSE}\s+|the\s+)?)"
    goes_on = r"(?=\s+(?:about|on|by|from|mention|discuss|say|cover|that)\b|\s*[?.!]*\s*$)"
    for kind, words in KIND_WORDS.items():
        if kind not in kinds:
            continue
        # A blog post is an article; a post alone is what social platforms call so.
        named = rf"(?<!blog )(?<!-)\b(?i:{words})\b(?!-)" if kind == "post" else rf"\b(?i:{words})\b(?!-)"
        for pattern in (
            rf"\b(?:in|from|across|among)\s+{_WHOSE}\s+{platform}{named}",
            rf"\b(?:in|from|across|among)\s+(?:the\s+)?{platform}{plural}{named}(?!\s+of\b)",
            rf"{asks}{platform}{plural}{named}{goes_on}",
        ):
            for match in re.finditer(pattern, text):
                yield _Clue(*match.span(), Filter(kinds=(kind,)))


# --- when -----------------------------------------------------------------------------------------------------------

_YEAR_ROUND = "january february march april may june july august september october november december"
_MONTHS = _YEAR_ROUND.split()
_MONTH = "(?:" + "|".join(rf"{name}|{name[:3]}\.?" for name in _MONTHS) + r"|sept\.?)"
_YEAR = r"(?:19[89]\d|20\d\d)"
_TH = r"(?:st|nd|rd|th)?"
_DATE = (
    rf"(?:{_YEAR}-\d{{2}}-\d{{2}}|{_YEAR}-\d{{2}}|\d{{1,2}}{_TH}\s+{_MONTH},?\s+{_YEAR}|"
    rf"{_MONTH}\s+\d{{1,2}}{_TH},?\s+{_YEAR}|{_MONTH},?\s+{_YEAR}|{_YEAR})"
)
# What may follow a year that is a date. Anything else makes it part of a title, a name or an amount:
# "2001: A Space Odyssey", "before 2000 requests", "in 2020-style code".
_AFTER = (
    r"(?=\s*(?:[?.!,;)]+(?:\s|$)|$)|\s*[-–—]\s|['’]s?\s|\s+(?:and|or|about|on|what|which|who|how|why|when|where|did|do|does|"
    r"was|were|is|are|has|have|had|he|she|they|i|we|the|my|his|her|their|your|our|to|in|with|for|that|but|as|only|by|"
    r"until|till|concerning|regarding|articles|posts|repositories|notes|essays)\b(?!:))"
)
_UNIT = r"(?P<unit>day|week|month|year)"
_ONE_TO_TWELVE = "one two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {word: number for number, word in enumerate(_ONE_TO_TWELVE.split(), start=1)}
_COUNT = r"(?P<count>\d{1,3}|" + "|".join(_NUMBERS) + r"|few|couple(?:\s+of)?)"
_RANGE = re.compile(
    rf"\b(?:between|from|in|during)\s+(?P<first>{_DATE})\s*(?:and|to|until|till|through|[-–—])\s*(?P<last>{_DATE}){_AFTER}",
    re.IGNORECASE,
)
_SINGLE = re.compile(
    rf"\b(?P<how>in|during|from|throughout|before|prior\s+to|until|till|up\s+to|after|since|later\s+than|earlier\s+than|"
    rf"as\s+of|on)\s+(?:the\s+year\s+)?(?P<date>{_DATE})(?P<onwards>\s+on(?:wards?)?\b)?{_AFTER}",
    re.IGNORECASE,
)
_OF_YEAR = re.compile(
    rf"\b(?:{_WHOSE}|the|all|any)\s+(?P<clue>(?P<date>{_YEAR}))\s+(?:blog\s+)?(?:{_ANY_KIND}|writing)\b", re.IGNORECASE
)
_ROLLING = re.compile(
    rf"\b(?:in|over|during|within|from)\s+the\s+(?:last|past|previous)\s+(?:{_COUNT}\s+)?{_UNIT}s?\b(?!['’]|\s+of\b)",
    re.IGNORECASE,
)
_CALENDAR = re.compile(
    rf"(?<!the )(?<!my )(?<!his )(?<!her )(?<!their )\b(?:(?:in|from|during|earlier|since)\s+)?(?P<which>last|this)\s+"
    rf"(?P<unit>week|month|year)\b(?!\s+of\b|\s+in\s+(?!{_WHOSE}\b))(?:['’]s)?",
    re.IGNORECASE,
)


def _find_dates(text: str, now: datetime) -> Iterator[_Clue]:
    taken: list[tuple[int, int]] = []

    def free(match: re.Match[str]) -> bool:
        return not any(start < match.end() and match.start() < end for start, end in taken)

    for match in _RANGE.finditer(text):
        first, last = period_of(match["first"]), period_of(match["last"])
        if first and last and _plausible(first, now) and first[0] < last[1]:
            taken.append(match.span())
            yield _Clue(*match.span(), Filter(since=first[0], until=last[1]))
    for match in filter(free, _SINGLE.finditer(text)):
        period = period_of(match["date"])
        bounds = period and _bounds(match["how"], period, onwards=bool(match["onwards"]))
        if period and bounds and _plausible(period, now):
            taken.append(match.span())
            yield _Clue(*match.span(), bounds)
    for match in filter(free, _OF_YEAR.finditer(text)):
        period = period_of(match["date"])
        if period and _plausible(period, now):
            yield _Clue(*match.span("clue"), Filter(since=period[0], until=period[1]))
    for match in _ROLLING.finditer(text):
        yield _Clue(*match.span(), Filter(since=_back(now, _number(match["count"]), match["unit"].lower())))
    for match in _CALENDAR.finditer(text):
        since, until = _calendar(now, match["unit"].lower(), last=match["which"].lower() == "last")
        open_ended = "since" in match[0].lower()
        yield _Clue(*match.span(), Filter(since=since, until=None if open_ended else until))


def _plausible(period: tuple[datetime, datetime], now: datetime) -> bool:
    """Nobody has published in the future; a year to come is a subject, not a date of publication."""
    return period[0] <= now


def _bounds(how: str, period: tuple[datetime, datetime], *, onwards: bool) -> Filter | None:
    how = " ".join(how.lower().split())
    begin, end = period
    if how in ("before", "prior to", "earlier than"):
        return Filter(until=begin)
    if how in ("until", "till", "up to"):
        return Filter(until=end)
    if how in ("after", "later than"):
        return Filter(since=end)
    if how in ("since", "as of") or onwards:
        return Filter(since=begin)
    if how == "on" and end - begin > timedelta(days=1):
        return None  # "on 2020" speaks about a year; only days are published on
    return Filter(since=begin, until=end)


def period_of(date: str) -> tuple[datetime, datetime] | None:
    """The day, month or year a date names, as [begin, end); None for a date that does not exist."""
    year = int(re.search(_YEAR, date)[0])  # type: ignore[index]  # every form of _DATE holds a year
    rest = re.sub(_YEAR, " ", date, count=1)
    named = re.search(r"[A-Za-z]{3}", rest)
    numbers = [int(number) for number in re.findall(r"\d+", rest)]
    month = [name[:3] for name in _MONTHS].index(named[0].lower()) + 1 if named else numbers.pop(0) if numbers else None
    try:
        if month is None:
            return datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        if not numbers:
            begin = datetime(year, month, 1, tzinfo=UTC)
            return begin, _back(begin, -1, "month")
        begin = datetime(year, month, numbers[0], tzinfo=UTC)
        return begin, begin + timedelta(days=1)
    except ValueError:
        return None


def _number(count: str | None) -> int:
    if count is None:
        return 1
    word = count.lower().split()[0]
    return int(word) if word.isdigit() else {"few": 3, "couple": 2}.get(word) or _NUMBERS[word]


def _back(moment: datetime, count: int, unit: str) -> datetime:
    """`count` units before a moment; a day the month does not have becomes its last one, the year 1 is the earliest."""
    if unit in ("day", "week"):
        return moment - timedelta(days=count * (7 if unit == "week" else 1))
    months = moment.year * 12 + moment.month - 1 - count * (12 if unit == "year" else 1)
    year, month = max(months // 12, 1), months % 12 + 1
    for day in (moment.day, 30, 29, 28):
        try:
            return moment.replace(year=year, month=month, day=day)
        except ValueError:
            continue
    return moment


def _calendar(now: datetime, unit: str, *, last: bool) -> tuple[datetime, datetime]:
    """This or the last calendar week (from Monday), month or year as [begin, end)."""
    begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "week":
        begin -= timedelta(days=begin.weekday())
    elif unit == "month":
        begin = begin.replace(day=1)
    else:
        begin = begin.replace(month=1, day=1)
    return (_back(begin, 1, unit), begin) if last else (begin, _back(begin, -1, unit))
