"""Whether two questions ask one thing, by their words; shy, because a wrong yes gives a reader somebody else's answer.

Embeddings cannot tell: "How do I increase the timeout?" and "… decrease …" are closer to each other than most
paraphrases. So here every word counts, and its place, except those that change nothing between an author and a reader:
articles, forms of be and do, who is addressed, politeness, endings, and a few turns that mean the same. Only a question
in the passive may order its words otherwise. Negations, numbers, names, dates, prepositions, tenses and every word that
nobody foresaw keep two questions apart. The rules are English; in other languages all words must be the same.
`benchmarks/cache.py` measures what they get wrong.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass


def normalised(question: str) -> str:
    """A question without what no reader sees as part of it: case, white space, typography, marks at its end."""
    text = unicodedata.normalize("NFKC", question).translate(_PLAIN_QUOTES).casefold()
    return " ".join(text.split()).rstrip("?!. ")


def same_question(one: str, other: str) -> bool:
    """Whether both ask the same, as far as words tell."""
    first, second = _form(one), _form(other)
    if first.verbatim != second.verbatim:
        return False
    if first.is_passive == second.is_passive:
        return first.words == second.words
    passive, active = (first, second) if first.is_passive else (second, first)
    return _turns_round(passive.words, active.words)


@dataclass(frozen=True, slots=True)
class _Form:
    """A question as it is compared: its telling words in order, and what must be the same to the letter."""

    words: tuple[str, ...]
    verbatim: tuple[str, ...]
    is_passive: bool


def _form(question: str) -> _Form:
    text = normalised(question)
    verbatim = tuple(sorted(_VERBATIM.findall(text)))
    text = _turned(text, _SPOKEN)
    silent = _SILENT
    # "I" and "you" are one person, the author, unless both are there: what I owe you is not what you owe me.
    if not (_FIRST.search(text) and _SECOND.search(text)):
        text = _turned(text, _ADDRESSED)
        silent |= _OWN
    found = _WORD.findall(text)
    silent |= _ADVISING if found[:1] == ["how"] else frozenset()
    return _Form(tuple(_stem(word) for word in found if word not in silent), verbatim, bool(_PASSIVE.search(text)))


def _turned(text: str, turns: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, wording in turns:
        text = pattern.sub(wording, text).strip()
    return text


def _turns_round(passive: tuple[str, ...], active: tuple[str, ...]) -> bool:
    """Whether one is the other in the passive: "how should code be reviewed", "how do you review code".

    Nobody may be named as the doer, and no word that gives others a direction may stand there. After "what" and "who"
    the question may be about the doer or about what was done.
    """
    doubtful = _PERSON in passive or active.count(_PERSON) != 1 or _DIRECTED.intersection(passive)
    if doubtful or passive[:1] not in _ABOUT_THE_DEED:
        return False
    return sorted((*passive, _PERSON)) == sorted(active)


def _stem(word: str) -> str:
    word = _IRREGULAR.get(word, word)
    if not word.isalpha() or not word.isascii():
        return word
    for ending, leaves in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending) + leaves
            break
    # Without it "size" and "sized" would end differently.
    return word.removesuffix("e") if len(word) > 3 else word


_PLAIN_QUOTES = str.maketrans("’‘“”", "''\"\"")
# Words with what belongs to them: c++, c#, .net, 1.2, http/2, o'neill. Signs that are no punctuation count as words.
_WORD = re.compile(r"\.?\w+(?:[./'_:-]\w+)*(?:\+\+|\#)?|[^\w\s.,?!;:'\"()…–—-]|-(?=[\w\s])(?<!\w-)")
# What stands in quotation marks or in code is meant to the letter.
_VERBATIM = re.compile(r"`[^`]+`|\"[^\"]+\"")

_THINK = "what person think about"
_SPOKEN = [
    (re.compile(pattern), wording)
    for pattern, wording in (
        (r"\b(?:can't|cannot)\b", "can not"),
        (r"\bwon't\b", "will not"),
        (r"n't\b", " not"),
        (r"\b(what|how|where|who|when|why)'s\b", r"\1 is"),
        (r"\bplease\b,?", ""),
        (r"^(?:hi|hey|hello)\b,?", ""),
        (r"^(?:(?:can|could|would|will) you )?(?:tell me|explain|describe)(?: to me)? (?=(?:wh|how\b))", ""),
        (r"^explain(?: to me)?\b", "what is"),
        (r"\bwhich\b", "what"),
        (r"^how to\b", "how one"),
        (r"^what (?:do|does) (.+) mean$", r"what is \1"),
        (r"\bsa(?:y|id) (?:on|about)\b|\bwr(?:ite|ote|itten) about\b", "say about"),
    )
]
_FIRST = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours)\b")
_SECOND = re.compile(r"\b(?:you|your|yours|yourself)\b")
_ADDRESSED = [
    (re.compile(pattern), wording)
    for pattern, wording in (
        (r"\b(?:i|you|we|one|me|us)\b", "person"),
        (r"\bperson'(?:m|re)\b", "person"),
        (r"\b(?:have|has) person\b|\bperson'(?:ve|s)\b", "did person"),
        (r"^what (?:is|are|was) the reasons? (?:why |that |for which )?(?=person\b)", "why did "),
        (r"^what (?:is|are) (?:my|your|our) (?:opinions?|views?|thoughts|takes?|stance) (?:on|of|about)\b", _THINK),
        (r"^what do person think (?:of|about|on)\b", _THINK),
        (r"^how do person feel (?:on|about)\b", _THINK),
    )
]

_PERSON = "person"
# Tenses are not silent: where somebody lives and where they lived are two questions.
_SILENT = frozenset(("a", "an", "the", "is", "are", "be", "been", "am", "do", "does"))
_OWN = frozenset(("my", "your", "our"))
_ADVISING = frozenset(("should", "can", "could", "would"))
_PASSIVE = re.compile(
    r"\b(?:is|are|be|been|was|were)\b.*\b(?:\w{2,}ed|made|written|run|done|built|kept|taught|chosen|given|taken|found)\b"
)
_ABOUT_THE_DEED = (("how",), ("why",), ("when",), ("where",))
# Between two others these decide who does what to whom, and what comes from where.
_DIRECTED = frozenset(
    ("from", "to", "into", "than", "over", "befor", "after", "for", "by", "with", "without", "against", "between", "of",
     "instead", "versus", "vs", "not")
)  # fmt: skip
_IRREGULAR = {
    "wrote": "write", "written": "write", "said": "say", "left": "leave", "gave": "give", "given": "give",
    "got": "get", "made": "make", "built": "build", "thought": "think", "felt": "feel", "chose": "choose",
    "chosen": "choose", "ran": "run", "kept": "keep", "took": "take", "taken": "take", "found": "find",
    "went": "go", "gone": "go", "taught": "teach", "learnt": "learn", "done": "do", "told": "tell",
    "began": "begin", "begun": "begin", "met": "meet", "bought": "buy", "sold": "sell", "held": "hold",
    "were": "was",
}  # fmt: skip
