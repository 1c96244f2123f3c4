"""Near-duplicates of documents and of chunks, by MinHash and locality-sensitive hashing.

`signature` sketches a text in 512 bytes that can be stored; `near_duplicates` finds which sketches resemble each other
without comparing all pairs; `documents` and `chunks` decide with the texts themselves which of them stay.

One measure is used throughout, *similarity*: an estimate of the share of words that two texts have in common in the
same order, from 0 to 1. With J the Jaccard resemblance of their sets of k-word shingles it is (2J / (1 + J))^(1/k), the
complement of the Mash distance: a text of which a tenth of the words was changed at random has 0.9. It is resemblance,
not containment: a long quotation does not make two articles duplicates.

Sources: Broder 1997 (resemblance, MinHash); Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", § 3.4 (bands);
Ondov et al. 2016 (Mash distance).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[import-untyped]

from llm_twin.core.records import Document, DocumentFeatures
from llm_twin.core.text import UNSPACED

PERMUTATIONS = 128
SHINGLE = 3
"""Words per shingle."""

VERSION = f"1.{RMinHash.ALGORITHM_VERSION}"
"""Changes when a text would get another signature; signatures of different versions do not compare."""

DOCUMENT_SIMILARITY = 0.8
CHUNK_SIMILARITY = 0.97
"""Chunks are evidence, and one other word can be the point of a passage: only near-verbatim repeats go."""

_SEED = 1997
_RECALL = 0.99  # of pairs right at the threshold, which is the worst case
_WINDOW = 64  # items of a bucket that each item is compared with, besides the first
_BLOCK = 1 << 16  # pairs compared at once: 64 MiB

_FRONT_MATTER = re.compile(r"\A(?:---\n(?s:.*?)\n---|\+\+\+\n(?s:.*?)\n\+\+\+)[ \t]*(?:\n|\Z)")
_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\[\]]*\])")
_DEFINITION = re.compile(r"^[ \t]*\[[^\[\]]+\]:[ \t]+\S+.*$", re.MULTILINE)
_TAG_OR_ADDRESS = re.compile(r"</?[A-Za-z][^<>]*>|\b(?:https?://|www\.)\S+")
_WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")

Signatures = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What stays and what goes.

    For every id that goes, `dropped` names the one that stays in its place and `similarity` says how close they are.
    """

    kept: frozenset[str]
    dropped: Mapping[str, str]
    similarity: Mapping[str, float]


# --- sketches -------------------------------------------------------------------------------------------------------


def signature(text: str) -> bytes:
    """The MinHash of a text's shingles: 128 little-endian unsigned 32-bit integers, for storing.

    Markup, link targets, case, punctuation and typography do not count, so that the same article on two platforms is
    the same. A text without words is itself its only shingle.
    """
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=_SEED)
    sketch.update(sorted(_shingles(text)))
    return np.array(sketch.digest(), dtype="<u4").tobytes()


def similarity(first: bytes, second: bytes) -> float:
    """The similarity of two texts as estimated from their signatures; standard error at most 0.05 of a Jaccard."""
    shared = np.frombuffer(first, "<u4") == np.frombuffer(second, "<u4")
    return _similarity(float(shared.mean()))


def text_similarity(first: str, second: str) -> float:
    """The similarity of two texts, exactly."""
    return _resemblance(_shingles(first), _shingles(second))


def _shingles(text: str) -> frozenset[str]:
    found = words(text)
    if len(found) < SHINGLE:
        return frozenset([" ".join(found) or text])
    return frozenset(map(" ".join, zip(*(found[start:] for start in range(SHINGLE)), strict=False)))


def words(text: str) -> list[str]:
    """The words two versions of a text are compared by; where no spaces are written, every character is one."""
    text = _FRONT_MATTER.sub("", text)
    text = _DEFINITION.sub("", _LINK.sub(r"\1", text))
    text = unicodedata.normalize("NFKC", _TAG_OR_ADDRESS.sub(" ", text)).casefold()
    return _WORD.findall(text)


def _resemblance(first: frozenset[str], second: frozenset[str]) -> float:
    shared = len(first & second)
    return _similarity(shared / (len(first) + len(second) - shared))


def _similarity(jaccard: float) -> float:
    return float((2 * jaccard / (1 + jaccard)) ** (1 / SHINGLE))


def _jaccard(similarity: float) -> float:
    share = similarity**SHINGLE
    return float(share / (2 - share))


# --- finding near-duplicates ----------------------------------------------------------------------------------------


def near_duplicates(
    items: Sequence[tuple[str, bytes]],
    *,
    threshold: float,
    verify: Callable[[str, str], float] | None = None,
) -> Deduplication:
    """Of items (id, signature) in order of precedence, keep those that resemble none that is kept before them.

    An item that goes is always similar to the one that stays in its place: similarity does not chain. `verify` gives
    the true similarity of two ids (0 forbids the pair); without it the estimate decides. Of pairs at the threshold 99 %
    are looked at, of closer ones practically all. Raises `ValueError` for a repeated id: two versions of one document
    are an update, which the warehouse has already resolved.
    """
    ids = [name for name, _ in items]
    if len(set(ids)) < len(ids):
        repeated = next(name for name, count in Counter(ids).items() if count > 1)
        raise ValueError(f"the id {repeated!r} stands for two items; pass only the latest version of each document")
    earlier = _earlier_matches(items, threshold, margin=verify is not None)
    kept: set[int] = set()
    dropped: dict[str, str] = {}
    similarities: dict[str, float] = {}
    for number, name in enumerate(ids):
        leaders = [
            (score, -leader)
            for leader, estimate in earlier.get(number, {}).items()
            if leader in kept and (score := verify(ids[leader], name) if verify is not None else estimate) >= threshold
        ]
        if leaders:
            score, leader = max(leaders)
            dropped[name], similarities[name] = ids[-leader], score
        else:
            kept.add(number)
    return Deduplication(frozenset(ids[number] for number in kept), dropped, similarities)


def _earlier_matches(
    items: Sequence[tuple[str, bytes]], threshold: float, *, margin: bool
) -> dict[int, dict[int, float]]:
    """For every item the earlier ones that it resembles, with the estimate; with `margin`, also those just below."""
    if not items:
        return {}
    matrix = np.frombuffer(b"".join(sketch for _, sketch in items), "<u4").reshape(len(items), PERMUTATIONS)
    jaccard = _jaccard(threshold)
    # Three standard errors: an estimate that low is still likely enough to be a true pair.
    least = jaccard - 3 * (jaccard * (1 - jaccard) / PERMUTATIONS) ** 0.5 if margin else jaccard
    # Equal signatures are set aside, or ten thousand copies of one footer were fifty million pairs.
    _, firsts, groups = np.unique(_hashes(matrix), return_index=True, return_inverse=True)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for number, first in enumerate(firsts[groups].tolist()):
        members[first].append(number)
    leaders = np.sort(firsts)
    found: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for first, copies in members.items():
        for copy in copies[1:]:
            found[copy][first] = 1.0
    for one, other, estimate in _similar_pairs(matrix[leaders], jaccard, least):
        first, second = int(leaders[one]), int(leaders[other])
        pairs = [(first, copy) for copy in members[second]] + [(second, copy) for copy in members[first]]
        for a, b in pairs:
            found[max(a, b)][min(a, b)] = _similarity(estimate)
    return found


def _similar_pairs(matrix: Signatures, jaccard: float, least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows (earlier, later, estimated Jaccard) that share a band and agree in `least` of all places."""
    rows = _rows_per_band(jaccard)
    seen: set[tuple[int, int]] = set()
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        for pairs in _bucket_pairs(matrix[:, start : start + rows]):
            for block in range(0, len(pairs), _BLOCK):
                one, other = pairs[block : block + _BLOCK].T
                estimates = (matrix[one] == matrix[other]).mean(axis=1)
                for place in np.flatnonzero(estimates >= least - 1e-9):
                    pair = (int(one[place]), int(other[place]))
                    if pair not in seen:
                        seen.add(pair)
                        yield *pair, float(estimates[place])


def _rows_per_band(jaccard: float) -> int:
    """The most rows per band (fewest false candidates) with which a pair at the threshold still meets in some band."""
    fitting = [rows for rows in range(1, 17) if 1 - (1 - jaccard**rows) ** (PERMUTATIONS // rows) >= _RECALL]
    return max(fitting, default=1)


def _bucket_pairs(band: Signatures) -> Iterator[NDArray[np.int64]]:
    """Pairs (earlier, later) of items equal in a band: each with the first of its bucket and its neighbours in it."""
    buckets = _hashes(band)
    order = np.argsort(buckets, kind="stable")
    ordered = buckets[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    first = np.repeat(begins, np.diff(np.r_[begins, len(ordered)]))
    places = np.arange(len(ordered))
    far = places - first > _WINDOW
    if far.any():
        yield np.column_stack([order[first[far]], order[places[far]]])
    for distance in range(1, _WINDOW + 1):
        near = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(near):
            return
        yield np.column_stack([order[near], order[near + distance]])


def _hashes(rows: Signatures) -> NDArray[np.uint64]:
    """One number per row; two different rows share it with a chance of about 2^-64."""
    factors = np.random.default_rng(_SEED).integers(1, 2**63, rows.shape[1], dtype=np.uint64) * 2 + 1
    hashes: NDArray[np.uint64] = (rows.astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
    return hashes


# --- documents and chunks -------------------------------------------------------------------------------------------


def precedence(document: Document) -> tuple[datetime, int, str]:
    """Sort key of which document of a group stays: the earliest published, then the longest, then the least id."""
    return (document.published_at or datetime.max.replace(tzinfo=UTC), -len(document.text), document.id)


def documents(features: Sequence[DocumentFeatures], *, similarity: float = DOCUMENT_SIMILARITY) -> Deduplication:
    """Which documents stay when of each author's near-duplicates only the first by `precedence` does.

    Documents that name the same address are one, collected from two platforms; of the others, signatures find
    candidates and texts decide. Documents of different authors are never duplicates of each other.
    """
    ordered = sorted(features, key=lambda each: precedence(each.document))
    first_at: dict[tuple[str, str], str] = {}
    same: dict[str, str] = {}
    for each in ordered:
        document = each.document
        leader = first_at.setdefault((document.author, document.url), document.id) if document.url else document.id
        if leader != document.id:
            same[document.id] = leader
    ordered = [each for each in ordered if each.document.id not in same]
    texts = {each.document.id: each.document.text for each in ordered}
    exact = _Exact(texts)
    found = _merged(
        near_duplicates(
            [(each.document.id, each.signatures[0]) for each in group], threshold=similarity, verify=exact.similarity
        )
        for group in _by_author(ordered)
    )
    # The leader of an address may itself be a near-duplicate; then both follow the one that stays.
    same = {name: found.dropped.get(leader, leader) for name, leader in same.items()}
    return Deduplication(found.kept, {**found.dropped, **same}, {**found.similarity, **dict.fromkeys(same, 1.0)})


def chunks(features: Sequence[DocumentFeatures]) -> Deduplication:
    """Which chunks stay when of each author's repeated passages (a biography, a footer) only the first does.

    Precedence is that of the documents, then the order in the text. Stricter than for documents: from
    `CHUNK_SIMILARITY`, with the same numbers in the same order, and within one document only when identical.
    """
    ordered = sorted(features, key=lambda each: precedence(each.document))
    found = {chunk.id: chunk for each in ordered for chunk in each.chunks}
    exact = _Exact({name: chunk.text for name, chunk in found.items()})

    def verify(first: str, second: str) -> float:
        one, other = found[first], found[second]
        if one.text == other.text:
            return 1.0
        if one.document_id == other.document_id or exact.numbers(first) != exact.numbers(second):
            return 0.0
        return exact.similarity(first, second)

    return _merged(
        near_duplicates(
            [pair for each in group for pair in _signed(each)],
            threshold=CHUNK_SIMILARITY,
            verify=verify,
        )
        for group in _by_author(ordered)
    )


class _Exact:
    """True similarities of texts by id; shingles of a text are computed once."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self._shingles: dict[str, frozenset[str]] = {}

    def similarity(self, first: str, second: str) -> float:
        return _resemblance(self._of(first), self._of(second))

    def numbers(self, name: str) -> list[str]:
        return re.findall(r"\d+", self.texts[name])

    def _of(self, name: str) -> frozenset[str]:
        if name not in self._shingles:
            self._shingles[name] = _shingles(self.texts[name])
        return self._shingles[name]


def _signed(features: DocumentFeatures) -> Iterator[tuple[str, bytes]]:
    return zip((chunk.id for chunk in features.chunks), features.signatures[1:], strict=True)


def _by_author(features: Iterable[DocumentFeatures]) -> Iterable[list[DocumentFeatures]]:
    groups: defaultdict[str, list[DocumentFeatures]] = defaultdict(list)
    for each in features:
        groups[each.document.author].append(each)
    return groups.values()


def _merged(parts: Iterable[Deduplication]) -> Deduplication:
    kept: frozenset[str] = frozenset()
    dropped: dict[str, str] = {}
    similarities: dict[str, float] = {}
    for part in parts:
        kept |= part.kept
        dropped |= part.dropped
        similarities |= part.similarity
    return Deduplication(kept, dropped, similarities)
