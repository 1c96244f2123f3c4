"""Taking other people's personal data out of a document before anything stores it: by choice, kind by kind.

    Redactors(SecretRedactor(), PersonalRedactor(PatternFinder(kinds), keep))

A finder tells where personal data stands; `PatternFinder` is ours, `adapters/presidio.py` another. The redactor leaves
what the author wants kept, and puts `[redacted:KIND]` in the place of the rest.

A pattern alone is weak evidence in technical writing, where versions, dates, ids and hashes look like numbers of
people. So a number counts when a checksum or a form that nothing else has says what it is, or when the words before it
do; and what is nobody's (addresses reserved for documentation, published test cards, private networks) stays.

To add a kind, write its function, add it to `_FINDERS`, and raise `_VERSION`.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib import metadata

from llm_twin.core.errors import ConfigError
from llm_twin.core.ports import PersonalFinder, Redactor
from llm_twin.core.records import Document, PersonalSpan, Redaction, fingerprint

_VERSION = 1

_Spans = Iterator[tuple[int, int]]

_NEAR = 40  # characters before a number in which a word may say what it is
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>\[\]()\"'`]{0,2000}\Z")


class PatternFinder:
    """Personal data by its form, its checksum and the words before it; finds no names.

    All kinds are looked for, whatever is chosen: the digits of an IBAN are no phone number in a document whose IBANs
    stay. Raises `ConfigError` for a kind it does not know. No network is used.
    """

    fingerprint: str

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = _checked(kinds)
        self.fingerprint = fingerprint(
            "patterns", _VERSION, sorted(self.kinds), metadata.version("python-stdnum"), metadata.version("tld")
        )

    def find(self, text: str) -> list[PersonalSpan]:
        """Where personal data of the chosen kinds stands, in order, without overlaps."""
        found = (PersonalSpan(kind, *span) for kind, find in _FINDERS.items() for span in find(text))
        return [each for each in _apart(found) if each.kind in self.kinds]


class PersonalRedactor:
    """Replaces what a finder finds in a document's title and text by `[redacted:KIND]`, and nothing else.

    `keep` are addresses and numbers that stay, in any spelling: `me@example.org`, `@example.org` for everybody of that
    domain, `+41 44 123 45 67` (also where it is written `044 123 45 67`). Redactions name the line of the text (from 1;
    0 is the title). `content_hash` stays as it was: whoever stores the document hashes what it stores.
    """

    fingerprint: str

    def __init__(self, finder: PersonalFinder, *, keep: Iterable[str] = ()) -> None:
        self.finder = finder
        self.keep = frozenset(_canonical(each) for each in keep)
        self.fingerprint = fingerprint("personal", _VERSION, finder.fingerprint, sorted(self.keep))

    def redact(self, document: Document) -> tuple[Document, list[Redaction]]:
        """The document without personal data, and what was taken out, in order; the same document without any."""
        title, in_title = self._without(document.title)
        text, in_text = self._without(document.text)
        if not in_title and not in_text:
            return document, []
        found = [Redaction(span.kind, 0) for span in in_title]
        found += [Redaction(span.kind, document.text.count("\n", 0, span.start) + 1) for span in in_text]
        return replace(document, title=title, text=text), found

    def _without(self, text: str) -> tuple[str, list[PersonalSpan]]:
        spans = [span for span in _apart(self.finder.find(text)) if not self._is_kept(text[span.start : span.end])]
        pieces, at = [], 0
        for span in spans:
            pieces += [text[at : span.start], f"[redacted:{span.kind}]"]
            at = span.end
        return "".join([*pieces, text[at:]]), spans

    def _is_kept(self, value: str) -> bool:
        value = _canonical(value)
        return value in self.keep or any(_is_same(value, kept) for kept in self.keep)


class Redactors:
    """Several redactors as one: each works on what the one before it left."""

    fingerprint: str

    def __init__(self, *redactors: Redactor) -> None:
        self.redactors = redactors
        self.fingerprint = fingerprint("redactors", [each.fingerprint for each in redactors])

    def redact(self, document: Document) -> tuple[Document, list[Redaction]]:
        """The document without what any of them takes out; redactions by the lines of the document given."""
        left, found = document, []
        for redactor in self.redactors:
            after, taken = redactor.redact(left)
            if taken:
                line = _lines(document.text, left.text)
                found += [Redaction(each.kind, line(each.line)) for each in taken]
            left = after
        return left, sorted(found, key=lambda each: each.line)


def _lines(before: str, after: str) -> Callable[[int], int]:
    """From a line of `after` to the line of `before` it comes from; they differ below a block that was taken out."""
    if before.count("\n") == after.count("\n"):
        return lambda line: line
    blocks = difflib.SequenceMatcher(None, after.split("\n"), before.split("\n"), autojunk=False).get_matching_blocks()
    starts = [0, *(block.a + 1 for block in blocks)]
    moved = [0, *(block.b - block.a for block in blocks)]
    return lambda line: line + moved[bisect_right(starts, line) - 1] if line else 0


def _checked(kinds: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(kinds)
    if unknown := sorted(chosen - set(KINDS)):
        near = difflib.get_close_matches(unknown[0], KINDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no kind of personal data named {unknown[0]!r}; {hint}Known: {', '.join(KINDS)}")
    return chosen


def _apart(spans: Iterable[PersonalSpan]) -> list[PersonalSpan]:
    """In order and without overlaps: the kind named first in `KINDS` wins, of one kind the longer."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    kept: list[PersonalSpan] = []
    for span in sorted(spans, key=lambda span: (order.get(span.kind, len(order)), span.start - span.end)):
        place = bisect_right(kept, span.start, key=lambda each: each.start)
        if (place == 0 or kept[place - 1].end <= span.start) and (place == len(kept) or span.end <= kept[place].start):
            kept.insert(place, span)
    return kept


# --- what stays -----------------------------------------------------------------------------------------------------


def _canonical(value: str) -> str:
    """One spelling for all spellings of an address or number."""
    value = value.strip().casefold()
    return value if "@" in value or _IPV4.fullmatch(value) else re.sub(r"\(0\)|[^\w:]", "", value)


def _is_same(value: str, kept: str) -> bool:
    """Whether a kept value covers another: an address of its domain, a number in national or international form."""
    if "@" in value:
        return kept.startswith("@") and value.endswith(kept)
    a, b = sorted((value.lstrip("0"), kept.lstrip("0")), key=len)
    return len(a) >= 7 and a.isdigit() and b.isdigit() and len(b) - len(a) <= 3 and b.endswith(a)


# --- kinds ----------------------------------------------------------------------------------------------------------

_EMAIL = re.compile(
    r"(?<![\w.+%@-])(?P<user>\w[\w+%-]{0,63}(?:[.'][\w+%-]{1,63}){0,8})@"
    r"(?P<host>(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24})(?![\w@-]|\.\w|:[\w/~.])"
)
# RFC 2606 and RFC 6761 reserve these names: an address below them is nobody's. GitHub's reach nobody either.
_NOBODYS_HOST = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost|local|noreply\.github\.com)\Z", re.I
)
_NOBODY = re.compile(r"git|no-?reply|donotreply|your[\w.+-]*|username|someone|firstname\.lastname", re.I)
# What stands before a login on a machine: `ssh://user@host`, `ssh -p 22 user@host`.
_LOGIN = re.compile(r"://[^\s/?#]{0,300}\Z|\b(?:ssh|scp|sftp|rsync)\b(?: [^\s@]{1,40}){0,8} \Z")


def _emails(text: str) -> _Spans:
    """Addresses as people write them (RFC 5321 allows more), below a top-level domain that exists."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        if (
            not _NOBODY.fullmatch(match["user"])
            and not _NOBODYS_HOST.search(match["host"])
            and not _LOGIN.search(text, max(0, match.start() - 300), match.start())
            and _is_top_level(match["host"].rpartition(".")[2].lower())
        ):
            yield match.span()


@cache
def _is_top_level(name: str) -> bool:
    from tld import is_tld

    return bool(is_tld(name))


_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?![A-Za-z0-9])", re.I
)


def _ibans(text: str) -> _Spans:
    """ISO 13616: the country's structure and the checksum, which one text in 97 passes by chance."""
    from stdnum import iban

    for match in _IBAN.finditer(text):
        # Words may follow in the same rhythm: the longest beginning that is valid is the number.
        ends = [match.end(), *(match.start() + gap.start() for gap in reversed(list(re.finditer("[ -]", match[0]))))]
        for end in ends:
            if iban.is_valid(text[match.start() : end], check_country=False):
                yield match.start(), end
                break


_CARD = re.compile(r"(?<![\w./=#@+-])(?<!\d[,:])\d(?:[ -]?\d){11,18}(?![\w]|[-./]\d)")
_GROUPED_CARD = re.compile(r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5}")
# ISO/IEC 7812: the issuers' prefixes with the lengths they use.
_ISSUER = re.compile(
    r"4(?:\d{15})|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)\d+(?<=^\d{16})|3[47]\d{13}|"
    r"(?:30[0-5]|3[689])\d+(?<=^\d{14})|(?:6011|64[4-9]|65)\d+(?<=^\d{16})|35(?:2[89]|[3-8])\d+(?<=^\d{16})"
)
# Rarer lengths and ranges, which other numbers have too: they need a word that says so, or groups.
_RARE_ISSUER = re.compile(r"[2-6]\d{11,18}|1800\d{11}")
_CARD_WORD = re.compile(
    r"\b(?:cards?|cc|credit|debit|visa|master ?card|amex|maestro|karte|carte|tarjeta|carta)\b", re.I
)
# Numbers that payment companies publish for testing.
_TEST_CARDS = frozenset({
    "4242424242424242", "4111111111111111", "4012888888881881", "4000056655665556", "4000000000000002", "4222222222222",
    "5555555555554444", "5105105105105100", "5200828282828210", "2223003122003222", "6011111111111117",
    "6011000990139424", "378282246310005", "371449635398431", "30569309025904", "3056930009020004", "38520000023237",
    "36227206271667", "3566002020360505", "3530111333300000", "6200000000000005",
})  # fmt: skip


def _cards(text: str) -> _Spans:
    """Issuer, length and the checksum of Luhn (ISO/IEC 7812-1), which one number in ten passes by chance."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        grouped = bool(_GROUPED_CARD.fullmatch(match[0]))
        if len(digits) != len(match[0]) and not grouped:
            continue
        rare = bool(_RARE_ISSUER.fullmatch(digits))
        if (
            (_ISSUER.fullmatch(digits) or (rare and (grouped or _said(_CARD_WORD, text, match.start()))))
            and luhn.is_valid(digits)
            and digits not in _TEST_CARDS
            and not _in_url(text, match.start())
        ):
            yield match.span()


_SSN = re.compile(r"(?<![\w./=#@+-])\d{3}-\d{2}-\d{4}(?![\w]|[-./]\d)")
_NOBODYS_SSN = frozenset({"123-45-6789", "111-11-1111", "222-22-2222", "333-33-3333"})


def _ssns(text: str) -> _Spans:
    """United States social security numbers in the ranges that the Social Security Administration gives out."""
    from stdnum.us import ssn

    for match in _SSN.finditer(text):
        if match[0] not in _NOBODYS_SSN and ssn.is_valid(match[0]) and not _in_url(text, match.start()):
            yield match.span()


_IPV4 = re.compile(r"(?<![\w.\-])(?<![^/]/)(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w|/\d)")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}:(?:[0-9a-f]{0,4}:){1,6}[0-9a-f]{0,4}(?![\w:]|/\d)", re.I)
_VERSION_BEFORE = re.compile(r"(?:\b(?:version|release|build|firmware|v)|[=~<>^]=?)[\s:\"'`*]{0,4}\Z", re.I)
# Public resolvers, which every text on networks names.
_RESOLVERS = frozenset({
    "1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "1.2.3.4", "208.67.222.222", "208.67.220.220",
})  # fmt: skip


def _ips(text: str) -> _Spans:
    """Public addresses of machines: not those of private networks or documentation, networks, or public resolvers."""
    for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        public = address.is_global and not address.is_multicast and not match[0].endswith(".0")
        if public and match[0] not in _RESOLVERS and not _said(_VERSION_BEFORE, text, match.start()):
            yield match.span()


_BEGIN = r"(?<![\w+$€£#=/.\\-])(?<!\d[:,])"
_END = r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,5})?(?!\w|[-./:,]\d)"
# Forms that say by themselves that they are phone numbers: ITU-T E.123 with the country, the North American form, and
# national forms with a trunk zero and one separator throughout.
_PHONES = (
    re.compile(r"(?<![\w+$€£#=.\\-])\+[1-9](?:[ .\-()]{0,3}\d){7,14}" + _END),
    re.compile(_BEGIN + r"00[1-9]\d{0,2}(?:[ .-]\d{2,5}){2,5}" + _END),
    re.compile(_BEGIN + r"(?:1[ .-])?(?:\([2-9]\d{2}\)[ ]?|[2-9]\d{2}[.-])[2-9]\d{2}[.-]\d{4}" + _END),
    re.compile(_BEGIN + r"(?:\(0[1-9]\d{0,3}\)|0[1-9]\d{1,3})[ ./-]\d{2,4}([ .-])\d{2,4}(?:\1\d{2,4}){0,3}" + _END),
    re.compile(_BEGIN + r"0[1-9]\d{1,3}[ /-]\d{6,8}" + _END),
    re.compile(_BEGIN + r"(?<![\s.-][\da-f]{2}[ .-])0[1-9]([ .-])\d\d(?:\1\d\d){3}(?![ .-][\da-f]{2}\b)" + _END),
)
# Any other form needs a word that says so.
_WEAK_PHONE = re.compile(
    r"(?<![\w+$€£#=/.])(?<!\d[:,])(?:\(\d{2,4}\)[ -]?|\d{2,5}[ .-]?)\d{2,5}(?:[ .-]?\d{2,5}){0,4}" + _END
)
_PHONE_WORD = re.compile(
    r"\b(?:(?:tele)?phone|tel|mobile|cell(?:phone)?|fax|whatsapp|sms|hotline|(?:call|reach|ring|text|message) "
    r"(?:me|us|him|her|them)|messages? to|answering (?:at|on)|(?:phone|my|her|his|their) number|telefon|handy|natel|"
    r"téléphone|portable|teléfono|móvil|telefono|cellulare|telefone|telefoon)\b[^\n\d]{0,30}\n?[^\n\d]{0,10}\Z",
    re.I,
)
_PHONE_WORD_AFTER = re.compile(r"[ -]{1,2}\(?(?:office|fax|mobile|home|cell|phone)\b", re.I)
# Dates, years, and the form of social security numbers that nobody was given.
_NO_PHONE = re.compile(
    r"(?:19|20)\d\d([ ./-])\d{1,2}\1\d{1,2}|\d{1,2}([ ./-])\d{1,2}\2(?:19|20)\d\d|"
    r"(?:(?:19|20)\d\d[ .-]?)+|\d{3}-\d\d-\d{4}"
)


def _phones(text: str) -> _Spans:
    for pattern in _PHONES:
        for match in pattern.finditer(text):
            if _is_phone(match[0]) and not _in_url(text, match.start()):
                yield match.span()
    for match in _WEAK_PHONE.finditer(text):
        said = _said(_PHONE_WORD, text, match.start()) or _PHONE_WORD_AFTER.match(text, match.end())
        if said and _is_phone(match[0]) and not _in_url(text, match.start()):
            yield match.span()


def _is_phone(number: str) -> bool:
    """Whether the digits could be dialled: E.164 allows 15, no country gives out fewer than 7; a date is none."""
    digits = re.sub(r"\D", "", re.split("x|ext", number)[0])
    return 7 <= len(digits) <= 17 and len(set(digits)) >= 3 and not _NO_PHONE.fullmatch(number)


_CAPITAL = r"[^\W\d_a-zß-öø-ÿ]"
_NAME = rf"{_CAPITAL}[\w'’-]{{0,24}}(?:\.(?= \w))?"
_NO = r"(?!(?:199|20[0-3])\d\b)\d{1,5}(?:[ ]?[a-zA-Z]\b)?(?:[-/]\d{1,4})?"
_BEFORE_NO = r"(?<![\w.:/$€£#-])"
_AFTER_NO = r"(?![\w%.]\d)"
_STREET = (
    r"(?:(?:Street|Avenue|Road|Boulevard|Lane|Drive|Court|Square|Place|Terrace|Parkway|Crescent|Close|Highway|Streets|"
    r"Squares)\b|(?:St|Ave|Rd|Blvd|Ln|Dr|Ct|Sq|Pl|Pkwy|Cres|Hwy)\b(?:\.(?=,| \w))?)"
)
_UNIT = (
    r"(?:,?[ \n]{1,3}(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor)(?:\.?[ ]?#?\d\w{0,4}|\.? [A-Z])\b"
    r"|,?[ ]#\d{1,5}\b)"
)
_ADDRESSES = (
    # 221B Baker Street, 1600 Pennsylvania Avenue NW, 742 Evergreen Terrace, Apt. 5, Springfield, IL 62704
    re.compile(
        rf"{_BEFORE_NO}{_NO} (?:(?:N|S|E|W|North|South|East|West)\.? )?(?:{_NAME} ){{1,3}}{_STREET}"
        rf"(?: (?:NW|NE|SW|SE)\b)?{_UNIT}?(?:,? {_NAME}(?: {_NAME})?,? [A-Z]{{2}} \d{{5}}(?:-\d{{4}})?)?"
    ),
    # Bahnhofstrasse 12a, Søndergade 52, Keizersgracht 174, Kiannonkatu 98
    re.compile(
        rf"(?<![\w/-]){_CAPITAL}[\w-]{{1,30}}(?:stra(?:ss|ß)e|str\.|gasse|gade|gatan|gata|vägen|veien|vegen|straat|gracht|"
        rf"laan|stræde|vegur|braut|katu|kuja|tie|vej|weg|allee|platz|plein) {_NO}{_AFTER_NO}"
    ),
    # Lange Gasse 3, Erzsébet tér 19
    re.compile(rf"(?<![\w/-]){_NAME} (?:Stra(?:ss|ß)e|Gasse|Allee|Platz|Weg|utca|út|tér|u\.) {_NO}{_AFTER_NO}"),
    # 12521 Belgrád rkp. 18. Apt. 417: any name between a house number and a flat
    re.compile(rf"{_BEFORE_NO}{_NO} {_NAME}(?: {_NAME}){{0,2}}(?: {_NO}\.?)?{_UNIT}"),
    # 12 rue de la Paix, 137 Avenue Teboulbi
    re.compile(
        rf"{_BEFORE_NO}{_NO},? (?:bis )?(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Cc]hemin|[Aa]llée|[Ii]mpasse|[Qq]uai)"
        rf"(?: (?:de|du|des|de la|de l['’])?(?: ?{_NAME})){{1,3}}"
    ),
    # "Via" begins English sentences too, "Via HTTP 2"; its numbers have two digits here.
    re.compile(rf"(?<![\w/-])Via(?: (?:del?|della|dei))?(?: {_NAME}){{1,3}},? (?=\d\d){_NO}{_AFTER_NO}"),
    # Calle de Alcalá 42, Rua do Arenque 1634
    re.compile(
        r"(?<![\w/-])(?:Viale|Piazza|Corso|Calle|C/|Avenida|Avda\.?|Plaza|Paseo|Rua|Rúa|Travessa|Largo|ul\.)"
        rf"(?: (?:del?|della|dei|das?|dos?|la|las|los))?(?: {_NAME}){{1,3}},? (?:n[.º°] ?)?{_NO}{_AFTER_NO}"
    ),
    re.compile(r"\b(?:P\. ?O\. ?Box|PO Box|Post Office Box|Postfach|Postbox)[ ]?\d{1,6}\b", re.I),
    re.compile(r"\b(?:PSC|Unit|CMR) \d{1,5},? Box \d{1,6}(?:\s(?:APO|FPO|DPO) A[AEP] \d{5})?"),
)


def _addresses(text: str) -> _Spans:
    """Streets with a house number, and post boxes, in the commonest western shapes."""
    for pattern in _ADDRESSES:
        for match in pattern.finditer(text):
            if not _in_url(text, match.start()):
                yield match.span()


_FINDERS: dict[str, Callable[[str], _Spans]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ssn": _ssns,
    "ip": _ips,
    "phone": _phones,
    "address": _addresses,
}
KINDS = tuple(_FINDERS)
"""The kinds of personal data, surest first: of two readings of the same characters the first wins."""


def _said(words: re.Pattern[str], text: str, start: int) -> bool:
    return bool(words.search(text[max(0, start - _NEAR) : start]))


def _in_url(text: str, at: int) -> bool:
    """Whether a place is inside a web address, whose numbers are ids."""
    before = text[max(0, at - 2000) : at]
    begin = max(before.rfind(end) for end in " \n\t(<\"'") + 1
    return bool(_URL.search(before, begin))
