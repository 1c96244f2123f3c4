"""Cleaning: repair broken encoding, take out a site's interface, keep every character of the author.

Two things are removed or changed, and nothing else:

- *Broken encoding* (`repair`): UTF-8 that was once read as Latin-1 or Windows-1252, BOMs, NULs, lone surrogates.
- *Site boilerplate* (`boilerplate_lines`, `clean`): lines that recur across the pages of one site and speak the
  language of interfaces ("Subscribe", "Copy link", "Privacy ∙ Terms"), and short lines that always stand between such
  lines. Recurrence alone is no evidence: authors repeat "## Conclusion", "Image by author" and their sign-off on most
  pages. So a line is only taken out as part of a stretch that interface language begins and ends, or alone where it
  cannot be mistaken. Code, quotes and tables are never touched.

To teach it another interface phrase, add it to `_PHRASES` (cannot be mistaken) or `_WORDS` (can be), and raise
`VERSION`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from urllib.parse import urlsplit

import ftfy
from ftfy import TextFixerConfig
from ftfy.badness import is_bad

from llm_twin.core.pipeline import Step
from llm_twin.core.records import Document

VERSION = 1
"""Raised when the same document and boilerplate would be cleaned otherwise."""

Boilerplate = Mapping[str, frozenset[str]]
"""Boilerplate lines by site; see `site` for the key."""

MIN_PAGES = 3
"""Fewer pages of one site say nothing about what recurs on it."""

_SEED_SHARE = 0.2  # interface language needs little recurrence: sites change their templates over the years
_BETWEEN_SHARE = 0.5  # a line without interface language has to stand on most pages …
_BETWEEN_INSIDE = 0.9  # … and nearly always between lines with it
_LONGEST_LINE = 200
_LONGEST_BETWEEN = 80
_LONGEST_TITLE_LINES = 4

# Text that reached us as the author's own Markdown, not as a page of a site.
_OWN_TEXT = frozenset({"files", "github"})


def _labels(listing: str) -> frozenset[str]:
    return frozenset(" ".join(label.split()) for label in listing.split("|"))


_PHRASES = _labels(
    """
    subscribe | subscribe now | subscribe for free | sign in | sign up | log in | sign in to continue | sign out |
    create account | share this post | share this article | share this page | share this | share on facebook |
    share on twitter | share on linkedin | share on x | share via email | copy link | link copied | copy url |
    open in app | get the app | start writing | start your substack | already a subscriber | listen to this article |
    add to favorites | save for later | read in app | continue reading | keep reading with a 7-day free trial |
    discussion about this post | discussion about this episode | discussion about this video | join the discussion |
    leave a comment | leave a reply | add a comment | write a comment | write a response | no comments yet |
    expand full comment | comment reply share | no posts | ready for more | recommended for you |
    you might also like | you may also like | related posts | more from this author | see all | view all | load more |
    show more | back to top | scroll to top | skip to content | skip to main content | skip to navigation |
    toggle navigation | toggle menu | toggle dark mode | main menu | table of contents toggle | previous post |
    next post | previous article | next article | older posts | newer posts | all posts | all articles | follow us |
    follow me | contact us | about us | site map | rss feed | privacy policy | cookie policy | cookie settings |
    cookie preferences | terms of service | terms of use | terms and conditions | collection notice |
    do not sell my personal information | legal notice | accept cookies | accept all | reject all | manage cookies |
    join the newsletter | join our newsletter | enter your email | your email address | type your email |
    email address | unblock scripts | turn on javascript | enable javascript | view comments | hide comments |
    report this post | edit this page | abonnieren | jetzt abonnieren | anmelden | beitrag teilen | link kopieren |
    datenschutz | datenschutzerklärung | impressum | s'abonner | se connecter | partager cet article |
    copier le lien | mentions légales | politique de confidentialité | suscribirse | iniciar sesión |
    compartir esta publicación | copiar enlace | política de privacidad | aviso legal | assinar | inscreva-se |
    compartilhar este post | copiar link | iscriviti | accedi | condividi questo post
    """
)

_WORDS = _labels(
    """
    share | email | e-mail | facebook | twitter | x | linkedin | reddit | whatsapp | telegram | mastodon | bluesky |
    instagram | youtube | github | rss | pinterest | print | note | notes | other | more | top | latest | new |
    discussions | comments | comment | reply | replies | restack | restacks | like | likes | save | follow |
    following | listen | search | menu | home | about | archive | blog | contact | tags | categories | newsletter |
    podcast | chat | people | recommendations | publications | previous | next | prev | close | open | login |
    logout | register | account | settings | dashboard | help | status | careers | press | privacy | terms | cookies |
    imprint | legal | sitemap | feed | leaderboard | explore | write | upgrade | continue | loading | feedback |
    support | teilen | suche | menü | startseite | kontakt | kommentare | weiter | zurück | partager | rechercher |
    accueil | commentaires | suivant | précédent | compartir | buscar | inicio | contacto | comentarios | siguiente |
    anterior | compartilhar | condividi | cerca | commenti
    """
)

# After one of these a page holds other people's words until its footer.
_COMMENT_SECTIONS = frozenset(
    {"discussion about this post", "discussion about this episode", "discussion about this video", "leave a reply"}
)

_FOOTER = re.compile(
    r"^(?:©|\(c\)\s|copyright\b).{0,80}$|\ball rights reserved\b|"
    r"\b(?:requires?|enable|turn on|without) javascript\b|"
    r"\b(?:uses? cookies|cookie policy|privacy policy|terms of service)\b|"
    r"^(?:proudly )?(?:powered by|built with|published with|hosted on) \w+$",
    re.IGNORECASE,
)

_FENCE = re.compile(r"^[ \t]*(?:>[ \t]*)*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})")
_INDENTED = ("    ", "\t")
_QUOTE_OR_TABLE = (">", "|")
_MARKER = re.compile(r"^(?:#{1,6}(?:\s+|$)|[-*+]\s+|\d+[.)]\s+)+")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_EMPHASIS = re.compile(r"[*_`\\]+")
_GLUED = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATOR = re.compile(r"\s*[|∙·•/]\s*|\s{2,}")
_COUNT = "0"
_COUNT_LINE = re.compile(r"^[\d.,]+[KkM]?$")
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")

_MOJIBAKE_ONLY = TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_encoding=True,
    restore_byte_a0=True,
    replace_lossy_sequences=False,
    decode_inconsistent_utf8=True,
    fix_c1_controls=True,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
)


# --- encoding -------------------------------------------------------------------------------------------------------


def repair(text: str) -> str:
    """Undo broken encoding; text without any comes back equal.

    Outside code, UTF-8 once read as a one-byte encoding is read rightly (ftfy, Speer 2019). Everywhere, what no store
    can keep goes: NULs, a leading BOM, and lone surrogates, which become U+FFFD. Quotes, ligatures, widths, line
    breaks, entities and trailing spaces stay as they are.
    """
    text = text.removeprefix("\ufeff").replace("\x00", "")
    if text.isascii():
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    lines = text.split("\n")
    fenced = _fenced_lines(lines)
    return "\n".join(line if number in fenced else _repair_line(line) for number, line in enumerate(lines))


def _repair_line(line: str) -> str:
    if line.isascii() or line.startswith(_INDENTED) or not is_bad(line):
        return line
    pieces, at = [], 0
    for span in _CODE_SPAN.finditer(line):
        pieces += [ftfy.fix_text(line[at : span.start()], _MOJIBAKE_ONLY), span.group()]
        at = span.end()
    return "".join([*pieces, ftfy.fix_text(line[at:], _MOJIBAKE_ONLY)])


def _fenced_lines(lines: Sequence[str]) -> set[int]:
    """Numbers of the lines in fenced code, fences included; a fence left open runs to the end.

    Errs on the side of code, which is left alone, and takes a fifth of the time of parsing Markdown.
    """
    fenced: set[int] = set()
    fence = ""
    for number, line in enumerate(lines):
        marker = _FENCE.match(line) if "`" in line or "~" in line else None
        if fence or marker:
            fenced.add(number)
        if marker and not fence:
            fence = marker[1]
        elif marker and marker[1].startswith(fence) and not line[marker.end() :].strip():
            fence = ""
    return fenced


# --- finding boilerplate --------------------------------------------------------------------------------------------


def site(document: Document) -> str | None:
    """The host a page came from, without `www.`; None for text that is the author's own file, whatever its address."""
    if document.source in _OWN_TEXT or document.kind == "repository" or not document.url:
        return None
    return (urlsplit(document.url).hostname or "").removeprefix("www.") or None


def boilerplate_lines(documents: Iterable[Document]) -> dict[str, frozenset[str]]:
    """The boilerplate lines of every site with at least `MIN_PAGES` pages among `documents`.

    A line counts when it recurs and is interface language, or when it recurs on most pages, is short, is no sentence
    and nearly always stands between lines that are (or between one and the edge of the page).
    """
    pages: defaultdict[str, list[_Page]] = defaultdict(list)
    for document in documents:
        name = site(document)
        if name is not None:
            pages[name].append(_page(repair(document.text)))
    found = {name: _recurring_interface(group) for name, group in pages.items() if len(group) >= MIN_PAGES}
    return {name: keys for name, keys in found.items() if keys}


def relevant(document: Document, boilerplate: Boilerplate) -> frozenset[str]:
    """The boilerplate lines of its site that occur in the document: all that its cleaning depends on."""
    known = _known(document, boilerplate)
    return known and known & {line.key for line in _page(repair(document.text)).lines}


def _known(document: Document, boilerplate: Boilerplate) -> frozenset[str]:
    name = site(document)
    return boilerplate.get(name, frozenset()) if name is not None else frozenset()


def _recurring_interface(pages: Sequence[_Page]) -> frozenset[str]:
    on_pages = Counter(key for page in pages for key in {line.key for line in page.lines})
    often = max(MIN_PAGES, _SEED_SHARE * len(pages))
    mostly = max(MIN_PAGES, _BETWEEN_SHARE * len(pages))
    seeds = {key for key, count in on_pages.items() if count >= often and _speaks_interface(key)}
    candidates = {key for key, count in on_pages.items() if count >= mostly and _may_stand_between(key)} - seeds
    inside: Counter[str] = Counter()
    overall: Counter[str] = Counter()
    counted = 0
    for page in pages:
        overall.update(line.key for line in page.lines if line.key in candidates)
        inside.update(_keys_between(page, seeds, candidates))
        counted += any(line.key == _COUNT and after.key in seeds for line, after in pairwise(page.lines))
    between = {key for key in candidates if key != _COUNT and inside[key] >= _BETWEEN_INSIDE * overall[key]}
    return frozenset(seeds | between | ({_COUNT} if counted >= mostly else set()))


def _keys_between(page: _Page, seeds: Set[str], candidates: Set[str]) -> Iterator[str]:
    """Keys of the candidates that stand in a stretch which seeds, or a seed and the page's edge, begin and end."""
    for first, last in _stretches(page, seeds | candidates):
        numbers = [number for number in range(first, last) if page.lines[number].key in seeds]
        if numbers:
            begin = first if first == 0 else numbers[0]
            end = last if last == len(page.lines) else numbers[-1] + 1
            yield from (line.key for line in page.lines[begin:end] if line.key in candidates)


@lru_cache(maxsize=65536)
def _speaks_interface(key: str) -> bool:
    return _unmistakable(key) or (not key.startswith("#") and all(part in _WORDS for part in _parts(key)))


@lru_cache(maxsize=65536)
def _unmistakable(key: str) -> bool:
    """Whether an author would hardly write that: an interface phrase, several interface words, a legal footer."""
    if key in ("", _COUNT):
        return False
    if _FOOTER.search(_plain(key)):
        return not key.startswith("#")
    parts = _parts(key)
    if any(part in _PHRASES for part in parts):
        return all(part in _PHRASES or part in _WORDS for part in parts)
    return len(parts) > 1 and not key.startswith("#") and all(part in _WORDS for part in parts)


def _may_stand_between(key: str) -> bool:
    return (
        bool(key)
        and len(key) <= _LONGEST_BETWEEN
        and not key.rstrip("*_ ").endswith((".", "!", "?", "…", ",", ":", ";"))
    )


def _plain(key: str) -> str:
    return _EMPHASIS.sub("", _LINK.sub(r"\1", _MARKER.sub("", key))).strip()


def _parts(key: str) -> tuple[str, ...]:
    """The labels on a line: split at separators and where two were glued together ("SubscribeSign in")."""
    spread = _GLUED.sub(" | ", _plain(key))
    return tuple(
        part.strip(" ?!:…→←»«↓↑").casefold().replace("’", "'") for part in _SEPARATOR.split(spread) if part
    ) or ("",)


# --- taking it out --------------------------------------------------------------------------------------------------


def clean(document: Document, boilerplate: Boilerplate) -> Document:
    """The document with repaired title and text and without its site's boilerplate; everything else unchanged.

    `content_hash` stays that of the document as collected: it says which version was cleaned.
    """
    text = _without(repair(document.text), _known(document, boilerplate))
    title = repair(document.title)
    return document if (title, text) == (document.title, document.text) else replace(document, title=title, text=text)


def cleaning(boilerplate: Boilerplate) -> Step:
    """Cleaning as a step over documents.

    Its fingerprint does not cover `boilerplate`; combine it with `relevant` per document, so that a new page does not
    make every other page of its site be cleaned again.
    """
    return Step("clean", lambda documents: (clean(document, boilerplate) for document in documents), VERSION)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank: its place in the text, and its key, which is empty where it may not be touched."""

    start: int
    end: int
    key: str


@dataclass(frozen=True, slots=True)
class _Page:
    """The lines of a text that are not blank, and the repeated titles among them (first line → line after)."""

    lines: Sequence[_Line]
    titles: Mapping[int, int]


def _page(text: str) -> _Page:
    lines = []
    at = 0
    raw = text.split("\n")
    fenced = _fenced_lines(raw)
    for number, line in enumerate(raw):
        if bare := line.strip():
            lines.append(_Line(at, at + len(line), _key(line, bare, fenced=number in fenced)))
        at += len(line) + 1
    return _Page(lines, _repeated_titles(lines, text))


def _key(line: str, bare: str, *, fenced: bool) -> str:
    if fenced or len(bare) > _LONGEST_LINE or bare.startswith(_QUOTE_OR_TABLE):
        return ""
    if line.startswith(_INDENTED) and not _MARKER.match(bare):
        return ""
    return _COUNT if _COUNT_LINE.match(bare) else bare


def _repeated_titles(lines: Sequence[_Line], text: str) -> dict[int, int]:
    """Headings (first line → line after) whose words also stand in a higher heading: share widgets repeat the title.

    A heading may be wrapped over several lines, as text extracted from HTML often is.
    """
    blocks: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for number, line in enumerate(lines):
        level = len(line.key) - len(line.key.lstrip("#"))
        if level:
            after = number + 1
            longest = min(len(lines), number + _LONGEST_TITLE_LINES)
            while after < longest and lines[after].start == lines[after - 1].end + 1:
                after += 1
            words = re.sub(r"\W+", "", text[line.start : lines[after - 1].end]).casefold()
            blocks[words].append((level, number, after))
    return {
        number: after
        for words, found in blocks.items()
        if words
        for level, number, after in found
        if level > min(found)[0]
    }


def _without(text: str, known: Set[str]) -> str:
    page = _page(text) if known else _Page((), {})
    cuts = _boilerplate_stretches(page, known)
    if not cuts:
        return text
    kept, at = [], 0
    for first, last in cuts:
        kept.append(text[at : page.lines[first].start])
        at = page.lines[last].start if last < len(page.lines) else len(text)
    kept.append(text[at:])
    if cuts[-1][1] < len(page.lines):
        return "".join(kept)
    return "".join(kept).rstrip() + "\n" if len(cuts) < len(page.lines) else ""


def _boilerplate_stretches(page: _Page, known: Set[str]) -> list[tuple[int, int]]:
    """Ranges of lines to take out, in order and apart from each other."""
    taken = [
        (first, last)
        for first, last in _stretches(page, known)
        if _is_boilerplate(page.lines[first:last], known, at_edge=first == 0 or last == len(page.lines))
    ]
    return _with_comments(page.lines, taken)


def _stretches(page: _Page, known: Set[str]) -> Iterator[tuple[int, int]]:
    """Maximal ranges of neighbouring known lines, across blank lines and across repeated titles between two of them."""
    lines, number = page.lines, 0
    while number < len(lines):
        first = number
        while number < len(lines):
            after = page.titles.get(number, number)
            if lines[number].key in known:
                number += 1
            elif first < number < after < len(lines) and lines[after].key in known:
                number = after
            else:
                break
        if first < number:
            yield first, number
        else:
            number += 1


def _is_boilerplate(stretch: Sequence[_Line], known: Set[str], *, at_edge: bool) -> bool:
    keys = [line.key for line in stretch if line.key in known]
    sure = sum(_unmistakable(key) for key in keys)
    if len(keys) == 1:
        return sure == 1 and (at_edge or not _MARKER.match(keys[0]))
    return sure > 0 and (at_edge or len(keys) >= 3 or sure == len(keys))


def _with_comments(lines: Sequence[_Line], taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extend the stretch that opens the comment section to the footer: between them stand other people's words."""
    if not taken or taken[-1][1] != len(lines):
        return taken
    for number, (first, last) in enumerate(taken):
        if any(not _COMMENT_SECTIONS.isdisjoint(_parts(line.key)) for line in lines[first:last]):
            return [*taken[:number], (first, len(lines))]
    return taken
