"""Lexical encoding: a text as BM25 term weights whose inverse document frequency the index supplies.

Stop words, stemming, hashing and weighting are the engine's own BM25, so that term ids agree between the embedded
index and a Qdrant server. What is ours is the cutting of text into terms (`terms`): code and CJK need more than words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

import qdrant_edge as qe

from llm_twin.core.records import SparseVector

# Scripts written without spaces: Thai to Burmese, Khmer, kana, Han, Hangul.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
# Marks that belong to the letter before them: `\w` knows letters and digits alone and would cut Hindi words apart.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0963\u0966-\u0dff"
_WORD = rf"(?:[^\W{_UNSPACED}]|[{_MARKS}])+"

# A compound is what a reader of code would call one name: snake_case, std::vector, foo.bar, 3.12.1, C++.
_COMPOUND = re.compile(rf"[{_UNSPACED}]+|{_WORD}(?:(?:::|\.){_WORD})*(?:\+\+|\#(?!\w))?")
_PART = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_STARTS_UNSPACED = re.compile(rf"[{_UNSPACED}]")

_SAME_AS = {"nb": "no", "nn": "no"}


def terms(text: str) -> Iterator[str]:
    """The terms of a text in order, case kept: every word, and for a compound the whole and then its parts.

    A run of a script without spaces becomes overlapping pairs of characters, as in Lucene's CJKAnalyzer.
    """
    for match in _COMPOUND.finditer(unicodedata.normalize("NFKC", text)):
        whole = match[0]
        if _STARTS_UNSPACED.match(whole):
            yield from (whole[i : i + 2] for i in range(max(1, len(whole) - 1)))
            continue
        parts = [piece for part in _PART.findall(whole) for piece in _CAMEL.split(part)]
        if parts != [whole]:
            yield whole
        yield from parts


class Bm25Encoder:
    """BM25 (Robertson & Zaragoza 2009) with stop words and Snowball stemming of the document's own language.

    `name` covers analysis and weighting: an index built under another name has other terms. `default_language` is an
    ISO 639-1 code, used where a document's language is unknown; a language without a stemmer is only lower-cased.

    `average_length` is a constant, in terms, where the textbook takes the corpus mean: a mean would change the weights
    of every chunk with each chunk added. A chunk fills the embedder's window of 256 tokens at most, which leaves about
    100 terms after stop words.
    """

    def __init__(
        self, *, k1: float = 1.2, b: float = 0.75, average_length: float = 100.0, default_language: str = "en"
    ) -> None:
        self._config = partial(qe.Bm25Config, k=k1, b=b, avg_len=average_length, tokenizer=qe.TokenizerType.Whitespace)
        self._default = default_language
        self.name = f"bm25-1:k1={k1:g},b={b:g},len={average_length:g},{default_language}"
        self._analyser = lru_cache(maxsize=None)(self._build_analyser)

    def encode(self, text: str, *, language: str | None = None) -> SparseVector:
        """A document's terms with saturated, length-normalised frequencies."""
        return _sparse(self._analyser(language or self._default).embed_document(" ".join(terms(text))))

    def encode_query(self, text: str, *, languages: Sequence[str] = ()) -> SparseVector:
        """A question's terms under every language given, each weighing 1 however many languages yield it.

        The default language always takes part, because documents of unknown language were analysed in it.
        """
        joined = " ".join(terms(text))
        analysers = [self._analyser(language) for language in {self._default, *languages}]
        indices = sorted({index for analyser in analysers for index in analyser.embed_query(joined).indices})
        return SparseVector(tuple(indices), (1.0,) * len(indices))

    def _build_analyser(self, language: str) -> qe.Bm25:
        code = language.lower().partition("-")[0]
        code = _SAME_AS.get(code, code)
        try:
            return qe.Bm25(self._config(language=code))
        except ValueError:  # the engine has neither stop words nor a stemmer for this language
            return qe.Bm25(self._config(stopwords=qe.StopwordsSet(), stemmer=qe.DisabledStemmer()))


def _sparse(vector: qe.SparseVector) -> SparseVector:
    return SparseVector(tuple(vector.indices), tuple(vector.values))
