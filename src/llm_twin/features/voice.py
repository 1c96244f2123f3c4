"""Measure how an author writes, from everything of theirs that was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from llm_twin.core import stylometry
from llm_twin.core.records import Document, VoiceProfile


def voice_profile(author: str, documents: Iterable[Document]) -> VoiceProfile:
    """The author's measured style over cleaned documents: what is quoted, code or markup does not count.

    Function words are English for an author who mostly writes English (or an unknown language); for any other, the
    author's own most frequent words take their place, and documents in further languages are left out of the measures.
    An author without a single word has an empty profile.
    """
    everything = sorted(documents, key=lambda document: document.id)
    language = _main_language(everything)
    readings = [
        stylometry.read(document.text, language) for document in everything if document.language in (None, language)
    ]
    common = stylometry.FUNCTION_WORDS if language in (None, "en") else stylometry.frequent_words(readings)
    return VoiceProfile(
        author=author,
        documents=len(readings),
        words=sum(len(reading.words) for reading in readings),
        measures=stylometry.measure(readings),
        function_words=stylometry.frequencies(readings, common),
        openers=stylometry.openers(readings),
        phrases=stylometry.phrases(readings, common),
    )


def _main_language(documents: Iterable[Document]) -> str | None:
    """The language most of the characters are in; None when no document tells."""
    sizes: Counter[str] = Counter()
    for document in documents:
        if document.language:
            sizes[document.language] += len(document.text)
    return max(sorted(sizes), key=lambda language: sizes[language], default=None)
