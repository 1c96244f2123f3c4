"""An answer without a model: the few sentences of the author that answer best, word for word, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm_twin.core.ports import Embedder, SparseEncoder
from llm_twin.core.records import Citation, Passage
from llm_twin.core.text import blocks, own_paragraphs, plain, sentences_within, words
from llm_twin.core.vectors import Matrix, maxsim
from llm_twin.inference.retrieve import clip

MAX_SENTENCES = 4
MAX_CHARACTERS = 700
# Longer sentences are lists or tables in disguise, shorter ones say nothing alone.
SENTENCE_CHARACTERS = (25, 450)
FEWEST_WORDS = 5
# Share of the relevance in the trade against novelty. Source: Carbonell & Goldstein 1998, The Use of MMR.
RELEVANCE = 0.7
# Cosine from which two sentences say the same.
SAME = 0.9
# A further sentence is worth reading only where it is nearly as relevant as the best one.
WORTH = 0.75


@dataclass(frozen=True, slots=True)
class Extract:
    """Quotes with their markers as `text`. `passages` are renumbered in the order in which they are quoted."""

    text: str
    citations: tuple[Citation, ...]
    passages: tuple[Passage, ...]


def extract(question: str, passages: Sequence[Passage], *, embedder: Embedder, sparse: SparseEncoder) -> Extract:
    """Up to four sentences of `passages` that answer the question best, in readable order.

    Sentences are scored by the likeness of their meaning (cosine and late interaction) and by the question's words
    they hold, and chosen for relevance and novelty. What the author quotes from others is not taken, code only where
    the question asks for it. The text is empty where the passages hold no sentence.
    """
    candidates = [sentence for passage in passages for sentence in _sentences(passage)]
    if not candidates:
        return Extract("", (), tuple(passages))
    chosen = _choose(question, candidates, embedder, sparse)
    if _ASKS_FOR_CODE.search(question):
        chosen += _code_after(chosen, passages)
    quotes = _runs(chosen, passages)
    order = list(dict.fromkeys(passage.number for passage, _, _ in quotes))
    numbers = {old: new for new, old in enumerate(order, start=1)}
    rest = [passage for passage in passages if passage.number not in numbers]
    by_number = {passage.number: passage for passage in passages}
    return Extract(
        text=_written(quotes, numbers),
        citations=tuple(passage.cite(start, end, number=numbers[passage.number]) for passage, start, end in quotes),
        passages=tuple(
            replace(passage, number=number)
            for number, passage in enumerate([*(by_number[old] for old in order), *rest], start=1)
        ),
    )


# --- sentences ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of a passage by its offsets there.

    `leans_on` is the sentence before, where this one cannot stand alone, `goes_on` the one after it in its paragraph.
    """

    passage: Passage
    start: int
    end: int
    leans_on: tuple[int, int] | None = None
    goes_on: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        return self.passage.text[self.start : self.end]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """What is quoted of it, in order."""
        return [span for span in (self.leans_on, (self.start, self.end), self.goes_on) if span]

    @property
    def length(self) -> int:
        """Characters of all that is quoted."""
        return sum(end - start for start, end in self.spans)


_DANGLING = re.compile(
    r"[*_\"“'(\[]*(?:it|its|this|that|these|those|they|them|their|he|she|his|her|such|so|but|and|or|however|therefore|"
    r"thus|hence|instead|otherwise|also|moreover|besides|still|yet|then|nevertheless|additionally|similarly|likewise|"
    r"consequently|for example|for instance|in particular|as a result|the (?:latter|former|same|other))\b(?!['’]s why)",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\[\d+\]")
_FINISHED = re.compile(r"\w.*[.!…。！][*_\"'”’»)\]]*\Z", re.DOTALL)
_POINTS_AWAY = re.compile(
    r"[*_(\[]*(?:(?:see|read|check out|have a look|more on|here(?: is|['’]s| are))\b"
    r"|(?:(?:further |related )?reading(?: list)?|related(?: posts?)?|links?|references?|sources?|via)[*_]*:)",
    re.IGNORECASE,
)
_IMAGE = r"!\[[^\[\]]*\](?:\([^()\n]*\)|\[[^\[\]\n]*\])"
_LINK = rf"\[(?:{_IMAGE}|[^\[\]])*\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]\n]*\])"
_ADDRESS = r"<[A-Za-z][\w+.-]*:[^<>\s]*>|\b(?:https?://|www\.)[^\s<>]+"
_LINKED = re.compile(rf"{_LINK}|{_IMAGE}|{_ADDRESS}")
# An entry of a reading list: a link, then what stands behind it.
_ENTRY = re.compile(rf"[*_]*(?:{_LINK}|{_ADDRESS})[*_]*(?:\s+(?:-{{1,3}}|[–—])\s|\s*:(?:\s|\Z))")
_ASKS_FOR_CODE = re.compile(
    r"\b(?:show|give|paste|see|print)\b.*\b(?:code|snippet|example|command|script|query|regex|config\w*)\b"
    r"|\b(?:code|snippet|script|command|syntax|regex|query)s?\s+(?:for|to|that|which|of)\b"
    r"|\b(?:what|which)(?:\s+is|['’]s)?\s+(?:the\s+)?(?:exact\s+)?(?:command|syntax|code|snippet|regex)\b"
    r"|\bhow (?:do|can|would) (?:i|you|we) (?:write|call|type|invoke|run)\b",
    re.IGNORECASE,
)


def _sentences(passage: Passage) -> Iterator[_Sentence]:
    """The author's own sentences of a passage that say something by themselves."""
    for block in own_paragraphs(blocks(passage.text)):
        if _ENTRY.match(passage.text, block.start, block.end):
            continue
        spans = sentences_within(passage.text, block.start, block.end, passage.document.language)
        for before, (start, end), after in zip([None, *spans], spans, [*spans[1:], None], strict=False):
            sentence = _Sentence(passage, start, end)
            if _says_something(sentence.text):
                yield replace(
                    sentence,
                    leans_on=before if before and _DANGLING.match(sentence.text) and _fits(passage, before) else None,
                    goes_on=after if after and _fits(passage, after) else None,
                )


def _says_something(text: str) -> bool:
    """Whether a sentence is more than a question, a lead-in to what is not quoted, or a pointer to somewhere else.

    A sentence that is mostly links points away however it is worded, and so does an image.
    One that has numbers in brackets is left out too: beside our own they would read as citations.
    """
    if not SENTENCE_CHARACTERS[0] <= len(text) <= SENTENCE_CHARACTERS[1] or text[-1] in "?:" or _BRACKETED.search(text):
        return False
    shown = plain(text)
    return len(shown) > len(text) / 2 and len(words(shown)) >= FEWEST_WORDS and not _only_points(text)


def _only_points(text: str) -> bool:
    """Whether fewer words of a sentence are the author's here than are names of other places."""
    own = len(words(plain(_LINKED.sub(" ", text))))
    return bool(_POINTS_AWAY.match(text)) or own < sum(len(words(plain(link))) for link in _LINKED.findall(text))


def _fits(passage: Passage, span: tuple[int, int]) -> bool:
    """Whether a sentence can stand beside another: finished, and as fit to be quoted as any."""
    text = passage.text[slice(*span)]
    finished = len(text) <= SENTENCE_CHARACTERS[1] and bool(_FINISHED.search(text))
    return finished and not _BRACKETED.search(text) and not _only_points(text)


def _choose(
    question: str, candidates: Sequence[_Sentence], embedder: Embedder, sparse: SparseEncoder
) -> list[_Sentence]:
    """The best sentence, then those that add most to it, while they are worth their length."""
    vectors, relevance = _relevance(question, candidates, embedder, sparse)
    likeness = vectors @ vectors.T
    best = int(relevance.argmax())
    # The best sentence says what, the one after it mostly why.
    chosen = [candidates[best]]
    picked = [best]
    while len(picked) < min(MAX_SENTENCES - 1, len(candidates)):
        said = likeness[:, picked].max(axis=1)
        gain = np.where(said < SAME, RELEVANCE * relevance - (1 - RELEVANCE) * said, -np.inf)
        following = int(gain.argmax())
        candidate = replace(candidates[following], goes_on=None)
        too_weak = gain[following] == -np.inf or relevance[following] < WORTH * relevance[best]
        if too_weak or sum(sentence.length for sentence in chosen) + candidate.length > MAX_CHARACTERS:
            break
        picked.append(following)
        chosen.append(candidate)
    return chosen


def _relevance(
    question: str, candidates: Sequence[_Sentence], embedder: Embedder, sparse: SparseEncoder
) -> tuple[Matrix, Matrix]:
    """Sentence vectors, and how well each sentence answers: three likenesses in [0, 1], added with equal weight."""
    texts = [clip(plain(candidate.text), embedder.tokenizer) for candidate in candidates]
    question = clip(question, embedder.tokenizer)
    embeddings = embedder.embed(texts, tokens=True)
    vectors = np.stack([embedding.vector for embedding in embeddings])
    packed = [embedding.tokens for embedding in embeddings if embedding.tokens is not None]
    meaning = vectors @ embedder.embed([question])[0].vector
    closeness = np.array(maxsim(embedder.embed_tokens(question), packed), dtype=np.float32)
    asked = set(sparse.encode_query(question).indices)
    held = [len(asked & set(sparse.encode(text).indices)) / max(len(asked), 1) for text in texts]
    prior = np.array([1 / candidate.passage.number for candidate in candidates], dtype=np.float32)
    return vectors, meaning + closeness + 0.5 * np.array(held, dtype=np.float32) + 0.1 * prior


# --- writing it down ------------------------------------------------------------------------------------------------


def _code_after(chosen: Sequence[_Sentence], passages: Sequence[Passage]) -> list[_Sentence]:
    """The first code block that follows the best sentence in its passage, else the first of the best passage."""
    for passage in dict.fromkeys([chosen[0].passage, *passages]):
        code = [block for block in blocks(passage.text) if block.kind == "code"]
        after = [block for block in code if passage is chosen[0].passage and block.start >= chosen[0].end]
        for block in after or code:
            return [_Sentence(passage, block.start, block.end)]
    return []


def _runs(chosen: Sequence[_Sentence], passages: Sequence[Passage]) -> list[tuple[Passage, int, int]]:
    """Quotes in reading order: the passage with the best sentence first; sentences that touch become one quote."""
    first_seen = list(dict.fromkeys(sentence.passage.number for sentence in chosen))
    by_number = {passage.number: passage for passage in passages}
    quotes: list[tuple[Passage, int, int]] = []
    for number in first_seen:
        passage = by_number[number]
        spans = sorted({span for sentence in chosen if sentence.passage.number == number for span in sentence.spans})
        for start, end in spans:
            last = quotes[-1] if quotes else None
            if last and last[0] is passage and "\n\n" not in (gap := passage.text[last[2] : start]) and not gap.strip():
                quotes[-1] = (passage, last[1], max(end, last[2]))
            else:
                quotes.append((passage, start, end))
    return quotes


def _written(quotes: Sequence[tuple[Passage, int, int]], numbers: dict[int, int]) -> str:
    """One paragraph for each quote, its marker at the end; after code the marker stands on a line of its own."""
    pieces = []
    for passage, start, end in quotes:
        quote = passage.text[start:end]
        fenced = quote.startswith(("```", "~~~", "    ")) or quote.endswith(("```", "~~~"))
        pieces.append(f"{quote}{chr(10) if fenced else ' '}[{numbers[passage.number]}]")
    return "\n\n".join(pieces)
