"""The quality gate: which documents are no writing at all, and why.

A twin of one author has no pages to spare, so this gate is not the filter of a web crawl. From the published rules it
takes those that tell broken from whole and leaves out those that judge style. Rules and where they come from:

- `empty`: nothing but white space and marks of Markdown.
- `no_words`: no letter of any script, and no code. (Gopher wants 80 % of words to have letters: tables do not.)
- `too_short`: fewer than three words in title and text together, and no code. (Gopher wants 50 words, C4 five
  sentences: posts and notes have neither. A Chinese, Japanese, Thai … character counts as a word.)
- `placeholder`: a short page that begins as error, robot and maintenance pages do, or any page that begins with lorem
  ipsum. (C4 drops pages that mention lorem ipsum or JavaScript anywhere: authors write about both.)
- `repeated_lines`: of the characters in lines of four words and more, outside code, three in four repeat another.
  (Gopher: 30 % of lines, 20 % of characters; FineWeb: 10 % of characters. Markup and lists of one author reach those.)
- `symbols`: in at least 200 characters outside code, under a tenth are letters or digits. (Gopher: one `#` or `…` per
  ten words, which Markdown headings reach.)

Left out: stop words (not only English is written), mean word length (Chinese, German), bullet and ellipsis shares
(link lists), end punctuation (posts), bad words (not ours to judge).

Sources: Rae et al. 2021, "Scaling Language Models" (Gopher), app. A.1; Raffel et al. 2020 (C4), § 2.2; Penedo et al.
2024 (FineWeb), § 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llm_twin.core.pipeline import Dropped, Step
from llm_twin.core.records import Document
from llm_twin.core.text import UNSPACED

VERSION = 1
"""Raised when a document would be judged otherwise."""

_FEWEST_WORDS = 3
_FEWEST_LINES = 10
_SHORTEST_LINE = 4  # words; shorter lines repeat in tables, lists and markup
_MOST_REPEATED = 0.75  # of 842 real posts the one with most repetition, full of inline markup, has 0.5
_SHORTEST_FOR_SYMBOLS = 200
_FEWEST_ALPHANUMERIC = 0.1
_LONGEST_PLACEHOLDER = 60  # words; a text that is longer writes about error pages

_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_MARKUP = re.compile(r"[\s#>*_\-=|`~\[\]()!]+")
_LETTER_RUN = re.compile(r"[^\W\d_]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_LOREM = re.compile(r"lorem ipsum dolor sit amet\b", re.IGNORECASE)
_MISSING = (
    r"(?:(?:could|can)(?:not| ?n[o’']t) be found|does(?: not|n[’']t) exist|"
    r"is (?:no longer|not|un) ?available|was not found)"
)
# What the first line of an error, robot or maintenance page says, to its end where a post might go on from there.
_PLACEHOLDER = re.compile(
    "|".join(
        [
            r"(?:error:? )?404(?:\W+(?:error|(?:page )?not found).*)?$",
            r"(?:page|file|post|article|site) not found\b|not found$",
            r"(?:sorry, )?(?:this|the|that) (?:page|post|article|site|content|account|story) (?:you.{0,30} )?"
            + _MISSING,
            r"(?:403 )?forbidden$|access (?:to this page has been )?denied\W*$",
            r"(?:50[0234] )?(?:bad gateway|service unavailable|internal server error|gateway time-?out)\b",
            r"just a moment\W*$|attention required!|are you a robot\?$",
            r"checking (?:if the site connection is secure|your browser)",
            r"(?:please )?verif(?:y|ying) (?:that )?you are (?:a )?(?:human|not a robot)",
            r"(?:please )?(?:enable|turn on) (?:javascript|cookies) (?:and|to|in)\b",
            r"(?:this (?:site|page|app) requires|you need to enable) javascript",
            r"(?:coming soon|under construction|untitled|placeholder|test post)\W*$",
            r"welcome to wordpress\. this is your first post",
        ]
    ),
    re.IGNORECASE,
)


def assess(document: Document) -> str | None:
    """Why a document is no writing of its author, or None when it may stay. See the table of this module."""
    text = document.text
    if not _MARKUP.sub("", text):
        return "empty"
    prose = _FENCED.sub("", text)
    has_code = len(prose) < len(text)
    if not has_code and not _LETTER_RUN.search(text):
        return "no_words"
    if not has_code and _words(f"{document.title} {text}") < _FEWEST_WORDS:
        return "too_short"
    if not has_code and _is_placeholder(prose):
        return "placeholder"
    if _repeated_share(prose) > _MOST_REPEATED:
        return "repeated_lines"
    if _is_symbols(prose):
        return "symbols"
    return None


def gate() -> Step:
    """The gate as a step over documents; a refused one becomes `Dropped` with the document's id and the reason."""
    return Step("quality", _let_through, VERSION)


def _let_through(documents: Iterable[Document]) -> Iterator[Document | Dropped]:
    for document in documents:
        reason = assess(document)
        yield document if reason is None else Dropped(document.id, reason)


def _words(text: str) -> int:
    """Words in any script; where no spaces are written, characters."""
    return len(_LETTER_RUN.findall(_UNSPACED.sub(" ", text))) + len(_UNSPACED.findall(text))


def _is_placeholder(prose: str) -> bool:
    lines = [stripped for line in prose.splitlines() if (stripped := line.strip(" \t#*_>-"))]
    if any(_LOREM.match(line) for line in lines[:2]):
        return True
    return _words(prose) <= _LONGEST_PLACEHOLDER and any(_PLACEHOLDER.match(line) for line in lines[:1])


def _repeated_share(prose: str) -> float:
    """Share of characters that stand in a line which an earlier line equals, of the lines that could be sentences."""
    lines = [line.strip() for line in prose.splitlines() if _words(line) >= _SHORTEST_LINE]
    if len(lines) < _FEWEST_LINES:
        return 0.0
    return 1 - sum(map(len, set(lines))) / sum(map(len, lines))


def _is_symbols(prose: str) -> bool:
    solid = "".join(prose.split())
    return len(solid) >= _SHORTEST_FOR_SYMBOLS and sum(map(str.isalnum, solid)) < _FEWEST_ALPHANUMERIC * len(solid)
