"""What can be measured of a style: lengths, punctuation, persons, function words, and the distance between two styles.

`read` takes Markdown apart once; every measure works on such readings. Only the author's own running text counts (see
`core.text.prose`): no code, quotes, tables, headings, front matter or addresses. `UNITS` names every measure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import log2
from statistics import fmean, pstdev

from llm_twin.core.text import Block, blocks, prose, sentences_within, words

UNITS: Mapping[str, str] = {
    "sentence_words": "words per sentence, mean",
    "sentence_words_deviation": "words per sentence, standard deviation",
    "paragraph_words": "words per paragraph or list item, mean",
    "word_letters": "letters per word, mean",
    "lexical_diversity": "MTLD: words in a row before new words become rare (McCarthy & Jarvis 2010)",
    "commas": "per 1,000 words",
    "semicolons": "per 1,000 words",
    "colons": "per 1,000 words",
    "dashes": "em dashes, spaced en dashes and hyphens set as dashes, per 1,000 words",
    "parentheses": "opening parentheses, per 1,000 words",
    "exclamations": "exclamation marks, per 1,000 words",
    "questions": "question marks, per 1,000 words",
    "ellipses": "per 1,000 words",
    "quotes": "quotations opened with double or angle marks, per 1,000 words",
    "emoji": "emoji and emoticons such as :), per 1,000 words",
    "headings": "per 1,000 words",
    "list_items": "per 1,000 words",
    "code_blocks": "per 1,000 words",
    "contractions": "English contractions such as don't and it's, per 1,000 words",
    "first_person": "I, me, my, mine, myself, per 1,000 words (English)",
    "first_person_plural": "we, us, our, ours, ourselves, per 1,000 words (English)",
    "second_person": "you, your, yours, yourself, per 1,000 words (English)",
}
"""Every measure by name, with its unit. The English ones are absent where the language is another."""

FUNCTION_WORDS: tuple[str, ...] = tuple(
    re.findall(
        r"\w+",
        """
    a about above after again against all almost along already also although always am among an and another any are
    around as at away back be because been before being below between both but by can cannot could did do does done
    down during each either else enough even ever every few for from further had has have having he hence her here
    hers him his how however i if in indeed instead into is it its itself just least less like many may maybe me might
    mine more most much must my myself neither never no nor not nothing now of off often on once one only or other
    otherwise ought our ours out over own perhaps quite rather really shall she should since so some something
    sometimes somewhat soon still such than that the their theirs them then there therefore these they this those
    though through thus till to together too toward towards under unless until up upon us very was we well were what
    whatever when where whereas whether which while who whole whom whose why will with within without would yet you
    your yours
    """,
    )
)
"""English words that carry grammar and not topic, the kind by which Mosteller & Wallace 1964 told authors apart."""

_PERSONS = {
    "first_person": frozenset(("i", "me", "my", "mine", "myself")),
    "first_person_plural": frozenset(("we", "us", "our", "ours", "ourselves")),
    "second_person": frozenset(("you", "your", "yours", "yourself", "yourselves")),
}
_CONTRACTION = re.compile(
    r"(?:.+n't|(?:i|you|we|they|he|she|it|that|there|what|who|this|these|those|here|how|where)'(?:m|re|ve|ll|d|s)"
    r"|.+'(?:re|ve|ll)|let's|y'all|'?tis)\Z"
)
_MARKS = {
    "commas": re.compile(r"[,،、，]"),
    "semicolons": re.compile(r"[;；]"),
    "colons": re.compile(r":(?=\s|\Z)|："),
    "dashes": re.compile(r"—+|(?<=\s)(?:–|-{1,3})(?=\s)|(?<=\w)-{2,3}(?=\w)"),
    "parentheses": re.compile(r"[(（]"),
    "exclamations": re.compile(r"[!！]"),
    "questions": re.compile(r"[?？]"),
    "ellipses": re.compile(r"…|\.{3,}"),
    "quotes": re.compile(r"[“„«「]|\"[^\"\n]*\""),
    "emoji": re.compile(
        r"[\U0001f300-\U0001f3fa\U0001f400-\U0001faff\u2600-\u27bf](?:\ufe0f|[\U0001f3fb-\U0001f3ff])?"
        r"(?:\u200d[\U0001f300-\U0001faff\u2600-\u27bf]\ufe0f?)*|[\U0001f1e6-\U0001f1ff]{2}|(?<!\w)[:;]-?[)(DP](?!\w)"
    ),
}
_ENDS = re.compile(r"[.!?…:。！？：][\"'”’»)\]*_]*\Z")


@dataclass(frozen=True, slots=True)
class Reading:
    """A text taken apart for measuring.

    `sentences` are the words of each, lower case, apostrophes straight. `finished` tells which of them close with
    punctuation: a list item or label that does not says nothing about the length of sentences.
    """

    paragraphs: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    finished: tuple[bool, ...]
    headings: int = 0
    list_items: int = 0
    code_blocks: int = 0
    english: bool = True

    @property
    def words(self) -> list[str]:
        """Every word in order."""
        return list(chain.from_iterable(self.sentences))


def read(text: str, language: str | None = None) -> Reading:
    """Take Markdown apart. `language` is an ISO 639-1 code; None is read as English."""
    found_blocks = blocks(text)
    paragraphs = tuple(prose(text, found_blocks))
    sentences, finished = [], []
    for paragraph in paragraphs:
        for start, end in sentences_within(paragraph, 0, len(paragraph), language):
            sentence = paragraph[start:end]
            found = tuple(word.lower().replace("’", "'") for word in words(sentence))
            if found:
                sentences.append(found)
                finished.append(_ENDS.search(sentence) is not None)
    kinds = _kinds(found_blocks)
    return Reading(
        paragraphs,
        tuple(sentences),
        tuple(finished),
        headings=kinds["heading"],
        list_items=kinds["item"],
        code_blocks=kinds["code"],
        english=language in (None, "en"),
    )


def measure(readings: Sequence[Reading]) -> dict[str, float]:
    """Every measure of `UNITS` over all readings as one text; empty when there are no words.

    Lengths that nothing could be measured by (no sentence ends in punctuation) are absent, as are the English measures
    when any reading is in another language.
    """
    every = [word for reading in readings for word in reading.words]
    if not every:
        return {}
    by_word = Counter(every)
    lengths = [
        len(sentence)
        for reading in readings
        for sentence, ends in zip(reading.sentences, reading.finished, strict=True)
        if ends
    ]
    paragraphs = [paragraph for reading in readings for paragraph in reading.paragraphs]
    measures = {
        "paragraph_words": len(every) / len(paragraphs),
        "word_letters": sum(count * len(word.replace("'", "")) for word, count in by_word.items()) / len(every),
        "lexical_diversity": mtld(every),
    }
    if lengths:
        measures |= {"sentence_words": fmean(lengths), "sentence_words_deviation": pstdev(lengths)}
    counts = {name: sum(len(mark.findall(part)) for part in paragraphs) for name, mark in _MARKS.items()}
    for name in ("headings", "list_items", "code_blocks"):
        counts[name] = sum(getattr(reading, name) for reading in readings)
    if all(reading.english for reading in readings):
        counts["contractions"] = sum(count for word, count in by_word.items() if _CONTRACTION.match(word))
        for name, persons in _PERSONS.items():
            counts[name] = sum(count for word, count in by_word.items() if word.split("'")[0] in persons)
    measures |= {name: 1000 * count / len(every) for name, count in counts.items()}
    return {name: measures[name] for name in UNITS if name in measures}


def mtld(text: Sequence[str], *, threshold: float = 0.72) -> float:
    """Measure of textual lexical diversity: the mean run of words over which the type-token ratio stays above 0.72.

    Unlike the type-token ratio itself it does not fall as texts get longer. Mean of both directions.
    Source: McCarthy & Jarvis 2010, MTLD, vocd-D, and HD-D.
    """
    return (_factor_length(text, threshold) + _factor_length(text[::-1], threshold)) / 2 if text else 0.0


def frequencies(readings: Iterable[Reading], vocabulary: Iterable[str] = FUNCTION_WORDS) -> dict[str, float]:
    """How often each word of the vocabulary occurs, per 1,000 words; all zero for an empty text."""
    counts = Counter(word for reading in readings for word in reading.words)
    total = max(1, counts.total())
    return {word: 1000 * counts[word] / total for word in vocabulary}


def frequent_words(readings: Iterable[Reading], limit: int = 150) -> tuple[str, ...]:
    """The most frequent words, which stand in for function words where there is no list of them.

    Source: Burrows 2002, Delta, who took the 150 most frequent.
    """
    counts = Counter(word for reading in readings for word in reading.words)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:limit])


def openers(readings: Iterable[Reading], limit: int = 12) -> tuple[str, ...]:
    """The words that most often begin a finished sentence, capitalised, most frequent first; at least three times."""
    counts = Counter(
        sentence[0]
        for reading in readings
        for sentence, ends in zip(reading.sentences, reading.finished, strict=True)
        if ends
    )
    ranked = sorted((word for word in counts if counts[word] >= 3), key=lambda word: (-counts[word], word))
    return tuple(word[:1].upper() + word[1:] for word in ranked[:limit])


def phrases(
    readings: Sequence[Reading], common: Iterable[str] = FUNCTION_WORDS, *, documents: int = 4, limit: int = 20
) -> tuple[str, ...]:
    """Turns of three to five words that an author repeats in at least `documents` texts, the most telling first.

    A turn has more grammar than topic: at least half of its words are `common`. It counts for as many texts as it
    stands in, times the bits by which it exceeds the chance meeting of its words. No two turns share three words in a
    row, so that a long one is not told again by its parts.
    """
    counts = Counter(word for reading in readings for word in reading.words)
    total = counts.total()
    grammar = frozenset(common)
    spread: dict[tuple[str, ...], int] = {}
    frequent: set[tuple[str, ...]] | None = None
    for length in (3, 4, 5):
        found = _spread(readings, length, frequent)
        frequent = {turn for turn, texts in found.items() if texts >= documents}
        spread |= {turn: found[turn] for turn in frequent}
    scores = {}
    for turn, texts in spread.items():
        bits = log2(texts / total) - sum(log2(counts[word] / total) for word in turn)
        if bits > 0 and 2 * sum(word in grammar for word in turn) >= len(turn):
            scores[turn] = texts * bits
    ranked = sorted(scores, key=lambda turn: (-scores[turn], turn))
    kept: list[str] = []
    told: set[tuple[str, ...]] = set()
    for turn in ranked:
        parts = set(zip(turn, turn[1:], turn[2:], strict=False))
        if parts.isdisjoint(told):
            kept.append(" ".join(turn))
            told |= parts
        if len(kept) == limit:
            break
    return tuple(kept)


def deviations(profiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Standard deviation of each word's frequency over the texts of a corpus; words that never vary are left out."""
    shared = [word for word in profiles[0] if all(word in profile for profile in profiles)] if profiles else []
    spread = {word: pstdev([profile[word] for profile in profiles]) for word in shared}
    return {word: deviation for word, deviation in spread.items() if deviation > 0}


def delta(one: Mapping[str, float], other: Mapping[str, float], spread: Mapping[str, float]) -> float:
    """Burrows's Delta: how far apart two function-word profiles are, in standard deviations of a corpus; 0 is equal.

    The mean absolute difference of z-scores over the words of `spread` (see `deviations`). The corpus means cancel out
    of the difference, so they are not asked for. Raises `ValueError` when `spread` is empty.
    Sources: Burrows 2002, Delta: a measure of stylistic difference; Argamon 2008, Interpreting Burrows's Delta.
    """
    if not spread:
        raise ValueError("no word varies over the corpus, so nothing can be compared; give two or more different texts")
    return fmean(abs(one.get(word, 0.0) - other.get(word, 0.0)) / deviation for word, deviation in spread.items())


def describe(measures: Mapping[str, float]) -> list[str]:
    """Style notes in plain English for a prompt, from the measures that are there."""
    notes = []
    if "sentence_words" in measures:
        mean, deviation = measures["sentence_words"], measures["sentence_words_deviation"]
        variety = ", short ones beside long ones" if deviation > 0.7 * mean else ""
        variety = variety or (", all of much the same length" if deviation < 0.4 * mean else "")
        notes.append(f"Sentences average {mean:.0f} words{variety}.")
    if "paragraph_words" in measures:
        notes.append(f"Paragraphs average {measures['paragraph_words']:.0f} words.")
    if "contractions" in measures:
        rate = measures["contractions"]
        notes.append(f"Contractions in {rate:.0f} of 1,000 words." if rate >= 1 else "Hardly ever uses contractions.")
    for name, called, often in _HABITS:
        if name in measures and measures[name] < 0.3:
            notes.append(f"Hardly ever uses {called}.")
        elif name in measures and measures[name] >= often:
            notes.append(f"Often uses {called} ({measures[name]:.0f} per 1,000 words).")
    persons = [who for name, who in _SPEAKERS if measures.get(name, 0.0) >= 5]
    if persons:
        notes.append(f"Speaks as {' and '.join(persons)}." if len(persons) < 3 else "Speaks as “I” and “we”, to “you”.")
    return notes


# What is worth a note: a habit nearly absent, or at least this frequent per 1,000 words. The marks are set by eye on
# three blogs and two centuries of essays, where these rates are clearly above the middle.
_HABITS = (
    ("semicolons", "semicolons", 4.0),
    ("dashes", "dashes", 6.0),
    ("parentheses", "parentheses", 8.0),
    ("exclamations", "exclamation marks", 4.0),
    ("questions", "questions", 6.0),
    ("ellipses", "ellipses", 2.0),
    ("emoji", "emoji or emoticons", 1.0),
)
_SPEAKERS = (("first_person", "“I”"), ("first_person_plural", "“we”"), ("second_person", "someone who addresses “you”"))


def _kinds(found: Iterable[Block]) -> Counter[str]:
    """How many blocks of each kind there are outside quotes."""
    counts: Counter[str] = Counter()
    for block in found:
        counts[block.kind] += 1
        if block.kind != "quote":
            counts += _kinds(block.children)
    return counts


def _factor_length(text: Sequence[str], threshold: float) -> float:
    factors = 0.0
    seen: set[str] = set()
    run = 0
    for word in text:
        seen.add(word)
        run += 1
        if len(seen) / run <= threshold:
            factors += 1
            seen.clear()
            run = 0
    if run:
        factors += (1 - len(seen) / run) / (1 - threshold)
    return len(text) / factors if factors else float(len(text))


def _spread(
    readings: Sequence[Reading], length: int, frequent: set[tuple[str, ...]] | None
) -> Counter[tuple[str, ...]]:
    """In how many texts each run of `length` words stands; a run is looked at only if both shorter ones recur."""
    spread: Counter[tuple[str, ...]] = Counter()
    for reading in readings:
        turns = {
            turn
            for sentence in reading.sentences
            for turn in zip(*(sentence[offset:] for offset in range(length)), strict=False)
            if frequent is None or (turn[:-1] in frequent and turn[1:] in frequent)
        }
        spread.update(turns)
    return spread
