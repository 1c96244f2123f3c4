"""Does the writing say what the text claims? Citations are resolved, claims are checked, doubts are marked.

A citation `[2]` stays when passage 2 supports its sentence; it becomes `[2?]` when passage 2 does not, or when there is
no passage 2; a claim that cites nothing gets `[?]`. Nothing is hidden: the reader sees the doubt where it stands.

A passage supports a sentence when three things hold: some sentence of the passage (or two adjacent ones) says something
like it, by shared words and by meaning; the passage has every number and name of it; and the two do not differ by a
negation. `benchmarks/support.py` measures how often that is right, and the threshold below comes from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from llm_twin.core.ports import Embedder
from llm_twin.core.records import Citation, Passage
from llm_twin.core.stylometry import FUNCTION_WORDS
from llm_twin.core.text import code_spans, plain, sentences, words
from llm_twin.core.vectors import Matrix, Vector
from llm_twin.inference.retrieve import clip

SUPPORTED = 0.60
"""Support from which a passage counts as saying what a sentence says."""
COSINE_WEIGHT = 0.7
"""Weight of likeness in meaning in the support; the rest is the share of the claim's words that the evidence has."""
SAME_SUBJECT = 0.6
"""Share of common words from which a negation in only one of two clauses makes them contradict each other."""
LEAST_WORDS = 2
"""Content words from which a sentence says something that needs support: "Elephants are blue", but not "Yes"."""
LONGEST_QUOTE = 600
"""Characters of two adjacent sentences up to which they may be quoted together."""
LONGEST_RANGE = 20
"""Numbers that a range such as [1-3] may cover; more is a slip of the model, whose ends alone are kept and checked."""
NAME_STEM, NAME_ENDING = 4, 3
"""Letters two names must share, and by how many one may be longer, to count as forms of one name."""

NO_BREAK_SPACE = "\u00a0"
MARKUP = f" {NO_BREAK_SPACE}*_-"
SENTENCE_END = f' {NO_BREAK_SPACE}.!?*_)"”\n'


@dataclass(frozen=True, slots=True)
class Verified:
    """A text whose citations were checked.

    `text` carries the marks. `citations` hold one exact quote per passage and place, ordered by number. `unsupported`
    are claims of the text as the reader sees them, without marks, and sentences that cite only passages that do not
    exist; `unknown_numbers` cite passages that do not exist.
    """

    text: str
    citations: tuple[Citation, ...]
    unsupported: tuple[str, ...]
    unknown_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Support:
    """How well a passage supports a claim: the best evidence, its score (0 to 1), and what speaks against it."""

    score: float
    start: int
    end: int
    objection: str = ""

    @property
    def holds(self) -> bool:
        """Whether the evidence is enough and nothing speaks against it."""
        return not self.objection and self.score >= SUPPORTED


@dataclass(frozen=True, slots=True)
class Marker:
    """A citation in a text, `text[start:end]`, and the passage numbers it names; `doubted` if it is marked already."""

    start: int
    end: int
    numbers: tuple[int, ...]
    doubted: bool = False


def verify(text: str, passages: Sequence[Passage], *, embedder: Embedder) -> Verified:
    """Check every citation and every claim of `text` against the passages it cites. Code is left as it is."""
    found = markers(text)
    claims = _claims(text, found)
    evidence = {passage.number: CitedPassage(passage, embedder) for passage in passages}
    vectors = embedded([claim.text for claim in claims], embedder)
    good: dict[Marker, set[int]] = {}
    citations: dict[tuple[int, int, int], Citation] = {}
    unsupported: list[str] = []
    bare: list[int] = []
    for claim, vector in zip(claims, vectors, strict=True):
        cited = [evidence[number] for number in claim.numbers if number in evidence]
        supports = _supports(claim.text, vector, cited, embedder)
        held = {number: support for number, support in supports.items() if support.holds or not claim.says_something}
        for number, support in held.items():
            citation = evidence[number].passage.cite(support.start, support.end)
            citations.setdefault((number, citation.start, citation.end), citation)
        good |= {marker: set(held) for marker in claim.markers}
        cites_nothing_real = claim.numbers and not cited and re.search(r"\w", claim.text)
        if cites_nothing_real or (claim.says_something and not held):
            unsupported.append(claim.text)
            bare += [] if claim.markers else [claim.end]
    unknown = {n for marker in found if not marker.doubted for n in marker.numbers if n not in evidence}
    return Verified(
        text=_marked(text, found, good, bare, known=evidence.keys()),
        citations=tuple(citations[key] for key in sorted(citations)),
        unsupported=tuple(unsupported),
        unknown_numbers=tuple(sorted(unknown)),
    )


class CitedPassage:
    """A passage as evidence: its sentences, their vectors, and the numbers and words it holds."""

    def __init__(self, passage: Passage, embedder: Embedder) -> None:
        self.passage = passage
        self._embedder = embedder

    def support(self, claim: str, vector: Vector) -> Support:
        """How well this passage supports a claim with that embedding."""
        wanted = content(claim)
        cosines = np.array([window.vector @ vector for window in self._windows], dtype=np.float32)
        shared = np.array([_share(wanted, window.content) for window in self._windows], dtype=np.float32)
        scores = COSINE_WEIGHT * cosines + (1 - COSINE_WEIGHT) * shared
        best = int(scores.argmax())
        window = self._windows[best]
        return Support(float(scores[best]), window.start, window.end, self._objection(claim, window.text))

    def _objection(self, claim: str, window: str) -> str:
        swapped = _swapped_subject(claim, window)
        swapped = "" if _stem(swapped.casefold()) in self._words else swapped
        return self.lacks(claim) or swapped or ("negation" if _contradicts(claim, window) else "")

    def lacks(self, claim: str) -> str:
        """The numbers and names of the claim that stand nowhere in this passage, its title or its date."""
        return ", ".join([*sorted(numbers(claim) - self._numbers), *self._missing_names(claim)])

    def _missing_names(self, claim: str) -> list[str]:
        # German writes every noun with a capital, so that capitals tell nothing about names.
        if self.passage.document.language == "de":
            return []
        return [name for name in names(claim) if not self._has_name(_stem(name.casefold()))]

    def _has_name(self, name: str) -> bool:
        """Whether it stands there, also as Syrian for Syria; but JavaScript is not Java."""
        if len(name) < NAME_STEM:
            return name in self._words
        return any(
            len(word) >= NAME_STEM
            and abs(len(word) - len(name)) <= NAME_ENDING
            and (word.startswith(name) or name.startswith(word))
            for word in self._words
        )

    @cached_property
    def _text(self) -> str:
        """All that this passage may be cited for, as one lower-case text."""
        document = self.passage.document
        date = document.published_at.strftime("%Y %B %-d") if document.published_at else ""
        return " ".join(
            (document.author, document.title, *self.passage.heading_path, date, self.passage.text)
        ).casefold()

    @cached_property
    def _numbers(self) -> set[str]:
        return numbers(self._text)

    @cached_property
    def _words(self) -> set[str]:
        return {_stem(word) for word in re.findall(r"[^\W_]+", self._text)}

    @cached_property
    def _windows(self) -> list[_Window]:
        """Sentences, lines that are no sentences (code, tables), and pairs of neighbours among these.

        A pair's vector is the mean of its two, at unit length: nearly the vector of its text, without embedding it.
        """
        text = self.passage.text
        spans = list(_units(text, self.passage.document.language))
        rows = embedded([text[start:end] for start, end in spans], self._embedder)
        windows = [_Window(start, end, text[start:end], row) for (start, end), row in zip(spans, rows, strict=True)]
        for one, two in pairwise(tuple(windows)):
            if two.end - one.start <= LONGEST_QUOTE:
                mean = one.vector + two.vector
                unit = mean / max(float(np.linalg.norm(mean)), 1e-6)
                windows.append(_Window(one.start, two.end, text[one.start : two.end], unit))
        return windows


def markers(text: str) -> list[Marker]:
    """The citations of a text, in order: `[1]`, `[1, 2]`, `[1-3]`, `【1】`, and the marks `[1?]` and `[?]`.

    Not Markdown links and their definitions, footnotes `[^1]`, task boxes, code, or an index such as `a[1]`.
    """
    shown = _without_code(text)
    found: list[Marker] = []
    index_end = -1
    for match in _MARKER.finditer(shown):
        if match.start() == index_end or _is_index(match, shown):
            index_end = match.end()
        elif not _is_link(match, shown):
            cited = _numbers_in(match["numbers"] or match["wide"] or "")
            found.append(Marker(match.start(), match.end(), cited, bool(match["doubt"])))
    return found


def renumbered(text: str, number_of: Callable[[int], int | None]) -> str:
    """The text with every citation renumbered, in the order in which they stand; one without a new number is marked."""

    def write(marker: Marker) -> str:
        if marker.doubted:
            return text[marker.start : marker.end]
        moved = [(number, number_of(number)) for number in marker.numbers]
        return "".join(f"[{old}?]" if new is None else f"[{new}]" for old, new in moved)

    return _replaced(text, markers(text), write)


def uncited(text: str) -> str:
    """The text without its citations, for a context in which their numbers mean nothing."""
    found = [Marker(len(text[: m.start].rstrip(" ")), m.end, m.numbers) for m in markers(text)]
    return _replaced(text, found, lambda _: "")


def numbers(text: str) -> set[str]:
    """The numbers of a text in one spelling: 1,000 and 1k as 1000, two to twelve as digits."""
    found = set()
    for match in _NUMBER.finditer(text):
        value = match["digits"].rstrip(".,")
        value = value.replace(",", "") if _THOUSANDS.fullmatch(value) else value.replace(",", ".")
        found.add(f"{value}000" if match["kilo"] and "." not in value else value)
    return found | {_COUNTS[word] for word in words(text.casefold()) if word in _COUNTS}


def names(text: str) -> list[str]:
    """Words that look like names: capitals inside a sentence, or more than one capital anywhere."""
    found = []
    for match in _NAME.finditer(text):
        name = match[0]
        several = sum(letter.isupper() for letter in name) > 1
        begins = _BEGINS.search(text[: match.start()])
        if name not in _NO_NAMES and (several or (name[0].isupper() and not begins)):
            found.append(name)
    return list(dict.fromkeys(found))


def content(text: str) -> frozenset[str]:
    """The words that carry a text's meaning, roughly stemmed."""
    tokens = re.findall(r"[^\W_]+", re.sub(r"(?<=\w)['’](?:s|t|re|ve|ll|d|m)\b", "", text.casefold()))
    return frozenset(_stem(token) for token in tokens if token not in _STOP)


@dataclass(frozen=True, slots=True)
class _Claim:
    """A sentence of the text: its plain words, where it ends, and what it cites."""

    text: str
    end: int
    markers: tuple[Marker, ...]

    @property
    def numbers(self) -> list[int]:
        return list(dict.fromkeys(n for marker in self.markers if not marker.doubted for n in marker.numbers))

    @property
    def says_something(self) -> bool:
        """Questions, lead-ins, courtesies and the admission that nothing was written need no support."""
        admits = not self.markers and (_ADMITS.search(self.text) or _COURTESY.fullmatch(self.text))
        return not (self.text.endswith(("?", ":")) or admits) and len(content(self.text)) >= LEAST_WORDS


@dataclass(frozen=True)
class _Window:
    """A stretch of a passage that could be quoted."""

    start: int
    end: int
    text: str
    vector: Vector

    @cached_property
    def content(self) -> frozenset[str]:
        return content(self.text)


def _claims(text: str, found: Sequence[Marker]) -> list[_Claim]:
    """Every sentence with the markers that belong to it: those in it, after it, or before it on its own line.

    A list of sources that a model added at the end claims nothing.
    """
    bare = _blanked(text, found)
    end = min((match.start() for match in _SOURCES.finditer(bare)), default=len(bare))
    spans = [span for span in _whole_links(bare, sentences(bare)) if span[0] < end]
    owners: dict[tuple[int, int], list[Marker]] = {span: [] for span in spans}
    for marker in found:
        if marker.start < end:
            owners.setdefault(_owner(marker, bare, spans), []).append(marker)
    return [
        _Claim(_readable(bare[start:end]), len(bare[:end].rstrip()), tuple(owned))
        for (start, end), owned in sorted(owners.items())
        if bare[start:end].strip()
    ]


def _whole_links(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sentences, one that was cut inside `[1](url)` put together again."""
    whole: list[tuple[int, int]] = []
    for start, end in spans:
        if whole and whole[-1][1] == start and text[start - 1 : start + 1] == "](":
            whole[-1] = (whole[-1][0], end)
        else:
            whole.append((start, end))
    return whole


def _readable(source: str) -> str:
    """A sentence without markup and item number, on one line, and without the gaps that markers left."""
    text = " ".join(plain(source).replace("|", " ").split())
    return re.sub(r"\s+(?=[.,;:!?…])", "", re.sub(r"\A\d{1,3}[/.)]\s+", "", text))


def _owner(marker: Marker, bare: str, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    before = max((span for span in spans if span[0] <= marker.start), default=None)
    after = min((span for span in spans if span[0] >= marker.end), default=None)
    if after and not bare[marker.end : after[0]].strip(MARKUP) and _begins_line(bare, marker.start):
        return after
    if before and (marker.start < before[1] or not bare[before[1] : marker.start].strip(SENTENCE_END)):
        return before
    start = bare.rfind("\n", 0, marker.start) + 1
    end = bare.find("\n", marker.end)
    return start, end if end >= 0 else len(bare)


def _begins_line(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip(MARKUP)


def _supports(claim: str, vector: Vector, cited: Sequence[CitedPassage], embedder: Embedder) -> dict[int, Support]:
    """The support of each cited passage; where none holds alone, of all of them read as one."""
    supports = {one.passage.number: one.support(claim, vector) for one in cited}
    if len(cited) < 2 or any(support.holds for support in supports.values()):
        return supports
    quotes = [(one, supports[one.passage.number]) for one in cited]
    joined = " ".join(one.passage.text[support.start : support.end] for one, support in quotes)
    likeness = float(embedded([joined], embedder)[0] @ vector)
    score = COSINE_WEIGHT * likeness + (1 - COSINE_WEIGHT) * _share(content(claim), content(joined))
    lacking = set.intersection(*(set(filter(None, one.lacks(claim).split(", "))) for one in cited))
    objection = ", ".join(sorted(lacking)) or ("negation" if _contradicts(claim, joined) else "")
    return {number: replace(support, score=score, objection=objection) for number, support in supports.items()}


def _units(text: str, language: str | None) -> Iterator[tuple[int, int]]:
    """Sentences, and the lines that belong to none; the whole text where there is neither."""
    spans = sentences(text, language)
    covered = 0
    found: list[tuple[int, int]] = []
    for start, end in [*spans, (len(text), len(text))]:
        for line in re.finditer(r"\S.*", text[covered:start]):
            begin = covered + line.start()
            found += [(begin, begin + len(line[0].rstrip()))] if re.search(r"[^\W_]", line[0]) else []
        found += [(start, end)] if end > start else []
        covered = max(covered, end)
    yield from found or [(0, len(text))]


def _contradicts(claim: str, evidence: str) -> bool:
    """Whether a clause of each speaks of the same thing and exactly one of the two negates it."""
    theirs = _clauses(evidence)
    for clause in _clauses(claim):
        wanted = content(clause)
        nearest = max(theirs, key=lambda other: (_share(wanted, content(other)), -len(other)))
        # Far from the evidence a negation is just another wording: "I avoid it" and "I do not use it".
        same_subject = len(wanted) > 1 and _share(wanted, content(nearest)) >= SAME_SUBJECT
        if same_subject and _negates(clause) != _negates(nearest):
            return True
    return False


def _clauses(text: str) -> list[str]:
    return [clause for clause in _CLAUSE.split(text) if content(clause)] or [text]


def _swapped_subject(claim: str, evidence: str) -> str:
    """The first word of a claim that goes on as the evidence does: "Go made it faster" where Rust did."""
    ours, theirs = words(claim)[:2], words(evidence)[:2]
    swapped = len(ours) == len(theirs) == 2 and ours[1] == theirs[1] and ours[0].casefold() != theirs[0].casefold()
    return ours[0] if swapped and content(ours[0]) and content(theirs[0]) else ""


def _negates(text: str) -> bool:
    return bool(_NEGATION.search(_NO_NEGATION.sub("", text.casefold())))


def _share(wanted: Iterable[str], there: frozenset[str]) -> float:
    wanted = frozenset(wanted)
    return len(wanted & there) / len(wanted) if wanted else 0.0


def _marked(
    text: str, found: Sequence[Marker], good: Mapping[Marker, set[int]], bare: Sequence[int], *, known: Collection[int]
) -> str:
    """The text with citations in one form, doubts marked in them, and `[?]` after claims that cite nothing."""

    def shown(marker: Marker) -> str:
        if marker.doubted:
            return text[marker.start : marker.end] or " [?]"
        held = good.get(marker, known)
        glued = text[marker.start] == "【" and text[marker.end : marker.end + 1].isalnum()
        written = "".join(f"[{number}]" if number in held else f"[{number}?]" for number in marker.numbers)
        return f"{written} " if glued else written

    doubts = [Marker(place, place, (), doubted=True) for end in bare for place in [_before_full_stop(text, end)]]
    return _replaced(text, sorted([*found, *doubts], key=lambda marker: marker.start), shown)


def _before_full_stop(text: str, end: int) -> int:
    while end and text[end - 1] in ".!…":
        end -= 1
    return end


def _replaced(text: str, found: Iterable[Marker], write: Callable[[Marker], str]) -> str:
    pieces, position = [], 0
    for marker in found:
        pieces += [text[position : marker.start], write(marker)]
        position = marker.end
    return "".join([*pieces, text[position:]])


def _blanked(text: str, found: Iterable[Marker]) -> str:
    # No-break spaces: where a line begins with a citation, four plain spaces would make code of it in Markdown.
    return _replaced(text, found, lambda marker: NO_BREAK_SPACE * (marker.end - marker.start))


def _without_code(text: str) -> str:
    """The text with code blocks and code spans blanked, at the same length."""
    spans = [Marker(start, end, ()) for start, end in code_spans(text)]
    return _INLINE_CODE.sub(lambda match: " " * len(match[0]), _blanked(text, spans))


def _numbers_in(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:\s*[-–]\s*(\d+))?", text):
        whole = last and int(first) < int(last) <= int(first) + LONGEST_RANGE
        found += range(int(first), int(last) + 1) if whole else [int(n) for n in (first, last) if n]
    return tuple(dict.fromkeys(found))


def _is_link(match: re.Match[str], text: str) -> bool:
    """`[1](url)`, `[1]: url`, and the second half of `[text][1]`."""
    if match[0][0] != "[":
        return False
    after = text[match.end() : match.end() + 2]
    if after[:1] == "(" or (after[:1] == ":" and _begins_line(text, match.start())):
        return True
    label = _LABEL.search(text[: match.start()])
    return label is not None and not _MARKER.fullmatch(label[0])


def _is_index(match: re.Match[str], text: str) -> bool:
    """`a[1]`, `rows[2].id`, `f(x)[3]`; but `SQL[1].` is a claim whose citation follows without a space."""
    before = text[: match.start()]
    if match["doubt"] or match["wide"]:
        return False
    if before.endswith(")"):
        opened = before.rfind("(")
        return opened > 0 and before[opened - 1].isalnum()
    word = re.search(r"[\w$]+\Z", before)
    if word is None:
        return False
    ends = re.match(r"(?:\[[\d,;\s–-]+\])*[.,;:!?)\"”*_|]*(?:\s(?!\s*[=+*/<>])|\Z)", text[match.end() :])
    return not (ends and len(word[0]) > 1 and word[0].isalpha())


def embedded(texts: Sequence[str], embedder: Embedder) -> Matrix:
    """One row per text; of a text longer than the embedder's window, its beginning."""
    if not texts:
        return np.zeros((0, embedder.dim), dtype=np.float32)
    fitting = [clip(text, embedder.tokenizer) for text in texts]
    return np.stack([embedding.vector for embedding in embedder.embed(fitting)])


def _stem(word: str) -> str:
    for ending in ("'s", "’s", "ing", "ed", "es", "ly", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


_MARKER = re.compile(
    r"\[(?=[\d?])(?P<numbers>\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)?(?P<doubt>\?)?\]"
    r"|【(?P<wide>\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)(?:†[^】]*)?】"
)
_LABEL = re.compile(r"\[[^\[\]\n]*\]\Z")
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_SOURCES = re.compile(
    r"^[ \t]*(?:#+[ \t]*|\*\*)?(?:sources|references|citations|quellen|fuentes)[ \t]*:?(?:\*\*)?:?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ADMITS = re.compile(
    r"\b(?:(?:have|has)(?:n['’]t| not| never)|never) (?:really |yet )?(?:written|covered|said|published|mentioned)\b"
    r"|\b(?:do|does|did)(?:n['’]t| not) (?:say|cover|mention|address|answer|write)\b"
    r"|\bnicht(?:s)? (?:darüber )?geschrieben\b",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"(?:that['’]s a |what a )?(?:good|great|nice|interesting|fair) (?:question|point)[.!]*"
    r"|good (?:morning|day|evening)[.!]*|(?:i )?hope (?:this|that|it) helps[.!]*|let me (?:know|explain|see)[.!]*",
    re.IGNORECASE,
)

_NUMBER = re.compile(r"(?<![\d.,])(?P<digits>\d[\d.,]*)(?P<kilo>k\b)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_COUNTS = {
    word: str(value)
    for value, word in enumerate(words("two three four five six seven eight nine ten eleven twelve"), start=2)
}

_NAME = re.compile(r"(?<![^\W_])[^\W\d_][^\W_]*")
_BEGINS = re.compile(r"(?:\A|[.!?:…][\"'”’)*_]*\s+|[\"“‘(])[\"“‘'(*_]*\Z")
_NO_NAMES = {"I", "OK"}

# Without "not only" and the like, which negate nothing.
_NO_NEGATION = re.compile(r"\bnot (?:only|just|merely)\b|\bno (?:doubt|matter)\b")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot|hardly|nicht|kein(?:e[mnrs]?)?|nie|ohne)\b"
    r"|n['’]t\b"
)
_CLAUSE = re.compile(r"[,;:—–]\s|\s[—–-]\s|\b(?:but|although|though|whereas|while|because)\b", re.IGNORECASE)

_STOP = frozenset({*FUNCTION_WORDS, "don", "just", "thing", "went", "got", "get"})
