"""How attacks on a language model read: disguises are taken off, then known turns of phrase are looked for.

`unmasked` undoes what hides words from a reader of rules (invisible characters, look-alike letters, leetspeak, letters
set apart, encodings) and tells which of it there was; `signs` names the families of attack whose wording a text has.
Neither decides: the weights of all this are learned in `injection.py`. Everything here runs in time linear in the text.

To add a sign, add a line to `SIGNS`; the head is fitted anew by itself, because its key covers this file's patterns.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote

TRICKS = ("invisible", "lookalikes", "leetspeak", "apart", "encoded", "styled")
"""Ways to hide words; in the order in which the head has their features."""

_SCANNED = 20_000
"""Characters of a text in which encodings are looked for: longer ones are no questions."""


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A text as it is meant to be read: `text` without disguises, with what was encoded in it at its end."""

    text: str
    tricks: frozenset[str]


def unmasked(text: str) -> Unmasked:
    """Take off every disguise that is known here; ordinary text comes back as it is, up to compatibility forms."""
    tricks = set()
    plain = _BACKSLASHED.sub(lambda match: match[0].replace("\\", ""), _INVISIBLE.sub("", text))
    if _BACKSLASHED.search(text):
        tricks.add("apart")
    # Emoji and some scripts need joiners; only one between letters of a word of Latin, Greek or Cyrillic hides it.
    if _INVISIBLE_IN_WORD.search(text):
        tricks.add("invisible")
    folded = _ODD_SPACE.sub(" ", unicodedata.normalize("NFKC", plain))
    if _STYLED.search(plain):
        tricks.add("styled")
    folded = _OVERLAY.sub("", folded)
    if (same := _WORD.sub(_as_latin, folded)) != folded:
        tricks.add("lookalikes")
        folded = same
    if (joined := _APART.sub(_joined, folded)) != folded:
        tricks.add("apart")
        folded = joined
    swapped = sum(_spelled(match) != match[0] for match in _LEET.finditer(folded))
    # One such word is a name ("mp4v", "n00b"), more of them are a way to write.
    if swapped > 1:
        tricks.add("leetspeak")
        folded = _LEET.sub(_spelled, folded)
    hidden = [decoded for decoded in _decoded(folded[:_SCANNED]) if _WORDS.search(decoded)]
    if hidden:
        tricks.add("encoded")
    return Unmasked("\n".join([folded, *hidden]), frozenset(tricks))


def signs(plain: str, *, among: Container[str] | None = None) -> frozenset[str]:
    """The names of the signs that an unmasked text bears; only those `among` the names given are looked for."""
    lowered = plain.lower()
    unquoted = without_quotations(lowered)
    return frozenset(
        name
        for name, pattern in _patterns()
        if (among is None or name in among) and pattern.search(unquoted if name == "override_all" else lowered)
    )


def without_quotations(text: str) -> str:
    """The text without what stands in quotation marks or in-line code: that is spoken about, not said."""
    return _QUOTED.sub(" … ", text)


def names() -> tuple[str, ...]:
    """Every sign, in the order in which the head has their features."""
    return tuple(name for name, _ in SIGNS)


_QUOTED = re.compile(
    r"\"[^\"\n]{0,400}\"|“[^”\n]{0,400}”|„[^“\n]{0,400}“|«[^»\n]{0,400}»|`[^`\n]{0,400}`|‘[^’\n]{0,400}’"
    r"|(?<!\w)'[^'\n]{0,400}'(?!\w)"
)

# --- disguises ------------------------------------------------------------------------------------------------------

# Zero-width characters, joiners, bidirectional controls, soft hyphens, variation selectors and tag characters.
_INVISIBLE_SET = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u206a-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef"
)
_INVISIBLE = re.compile(f"[{_INVISIBLE_SET}]+")
_INVISIBLE_IN_WORD = re.compile(
    "[a-zA-Z\u0370-\u052f][\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+[a-zA-Z\u0370-\u052f]"
    "|[\U000e0020-\U000e007f]{4}"
)
_ODD_SPACE = re.compile(r"[^\S\n]")
_OVERLAY = re.compile("(?<=[a-zA-Z0-9])[\u0334-\u0338\u20d2\u20d3\u20e5]+")
# Mathematical, full-width, circled and small-capital letters, a word of them.
_STYLED = re.compile("[\U0001d400-\U0001d7ff\uff21-\uff5a\u24b6-\u24e9\U0001f130-\U0001f189\u1d00-\u1d22]{2}")

_LOOKALIKES = {
    **dict(zip("аӓɑαеёєҽεоοοօσсϲрρϱѕіїιͅіјʝһнӏΙІКκкмМтТτυυվүхχуγѵνωԝвВβԁɡԛпηАΑЕΕΗНОΟРΡСϹТΤХΧΥΥΒΖМΜΝͿЅ",
               "aaaaeeeeeoooooccpppsiiiiijjhhllIKkkmMtTtuuuuxxyyvvwwvBbdgqnnAAEEHHOOPPCCTTXXYYBZMMNJS", strict=False)),
    "ʟ": "l", "ɴ": "n", "ʀ": "r", "ɪ": "i", "ʏ": "y", "ɢ": "g", "ʜ": "h", "ʙ": "b", "ꜱ": "s", "ғ": "f",
    "ⅼ": "l",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+")

# Four or more single letters, each followed by the same space or mark; words are told apart by wider gaps.
_BACKSLASHED = re.compile(r"(?:\\[^\\]){5,}")
_APART = re.compile(r"(?<![\w\\])(?:\w([ .\-_*/|\\~,+]))(?:\w\1){2,}\w(?!\w)(?:\s{2,}(?:\w\1)+\w(?!\w))*")
_LEET = re.compile(r"(?<![\w#$/.=-])(?=[a-z]{0,30}[0-9@$!|+€])[a-z0-9@$!|+€]{3,40}(?![\w/=.])", re.IGNORECASE)
_LEET_LETTERS = str.maketrans("013457@$!|+€8", "oieastasilteb")
_BASE64 = re.compile(
    r"(?<![\w+/])(?:[A-Za-z0-9+/]{4}){4,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?(?![\w+/])"
    r"|(?<![\w+/])[A-Za-z0-9+/]{10,}={1,2}"
)
_HEX = re.compile(r"(?<![\w])(?:0x|\\x)?(?:[0-9a-f]{2}(?:\s|\\x|%)?){6,}(?![\w])", re.IGNORECASE)
_PERCENT = re.compile(r"(?:%[0-9a-f]{2}){4,}", re.IGNORECASE)
_POINTS = re.compile(r"(?:U\+[0-9a-f]{4,5}\s*){3,}", re.IGNORECASE)
_CODES = re.compile(r"(?<!\d)(?:\d{2,3}[ ,]+){5,}\d{2,3}(?!\d)")
# Words by which a decoded text gives itself away as an order to a model.
_WORDS = re.compile(
    r"\b(?:ignore|disregard|forget|instruction|prompt|rules?|reveal|system|password|print|say|override|bypass|"
    r"obey|output|repeat|pwned|secret|eval|exec|whoami|curl|http)",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|reveal|override|bypass|print|output|repeat)\b.{0,40}"
    r"\b(?:instructions?|prompt|rules?|system|secrets?|guidelines?|everything)\b",
    re.IGNORECASE | re.DOTALL,
)


def _as_latin(match: re.Match[str]) -> str:
    """A word of Latin letters among which others pose as Latin; a unit such as μs or a name such as Δt is none."""
    word = match[0]
    if word.isascii():
        return word
    posing = [letter for letter in word if letter in _LOOKALIKES]
    plain = [letter for letter in word if letter.isascii()]
    if not posing or not plain or len(posing) + len(plain) < len(word):
        return word
    return "".join(_LOOKALIKES.get(letter, letter) for letter in word)


def _joined(match: re.Match[str]) -> str:
    mark = re.escape(match[1])
    return " ".join(re.sub(rf"(?<=\w){mark}(?=\w)", "", word) for word in re.split(r"\s{2,}", match[0]))


def _spelled(match: re.Match[str]) -> str:
    word = match[0]
    digits = sum(not letter.isalpha() for letter in word)
    # "3rd", "h264", "sha256", "b2b", "mp3!" are words; leetspeak has its digits between letters, or several of them.
    between = re.search(r"[a-zA-Z][0134578@$!|+€]+[a-zA-Z]", word)
    inside = between or (digits > 1 and re.match(r"[0134578@$!|+€]+[a-zA-Z]", word))
    if not inside or re.search(r"\d{3}|[269]", word):
        return word
    spelled = word.lower().translate(_LEET_LETTERS)
    return spelled if spelled.isalpha() else word


def _decoded(text: str) -> Iterator[str]:
    """What stands encoded in the text, each decoding as text; whole-text ciphers count only if they give an order."""
    for match in _BASE64.finditer(text):
        yield from _readable(_from_base64(match[0]))
    for match in _HEX.finditer(text):
        digits = re.sub(r"0x|\\x|[\s%]", "", match[0], flags=re.IGNORECASE)
        yield from _readable(bytes.fromhex(digits[: len(digits) // 2 * 2]))
    for match in _PERCENT.finditer(text):
        yield unquote(match[0])
    for match in _POINTS.finditer(text):
        points = (int(code, 16) for code in re.findall(r"[uU]\+([0-9a-fA-F]{4,5})", match[0]))
        # Halves of a character are no text, and no tokenizer takes them.
        yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    for match in _CODES.finditer(text):
        yield "".join(chr(int(code)) for code in re.findall(r"\d+", match[0]) if 32 <= int(code) < 127)
    for whole in (codecs.decode(text, "rot13"), text[::-1]):
        if _ORDER.search(whole) and not _ORDER.search(text):
            yield whole


def _from_base64(piece: str) -> bytes:
    try:
        return base64.b64decode(piece + "=" * (-len(piece) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def _readable(data: bytes) -> Iterator[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    if text and sum(letter.isprintable() or letter in "\n\t" for letter in text) == len(text):
        yield text


# --- turns of phrase ------------------------------------------------------------------------------------------------

_DROP = (
    r"(?:ignor(?:e|ing)|disregard(?:ing)?|forget|neglect|overlook|override|overrule|overwrite|bypass|circumvent|"
    r"discard|"
    r"drop|skip|erase|cancel|abandon|disobey|violate|break|remove|lift|disable|turn off|switch off|suspend|reset|"
    r"set aside|put aside|leave aside|never ?mind|pay no attention to|(?:do not|don'?t|stop|cease) (?:follow|obey|"
    r"listen)(?:ing)?(?: to)?|"
    r"let go of|get rid of|bypass)"
)
_NEAR = r"(?:[^\s.!?\n]+[ \t]+){0,5}?"
_ORDERS = (
    r"(?:instructions?|directions?|directives?|commands?|orders|prompts?|rules?|guidelines?|guidance|guardrails?|"
    r"constraints?|"
    r"restrictions?|limits|limitations|polic(?:y|ies)|safeguards?|safety|filters?|programming|system message|"
    r"conditioning|"
    r"training|moderation|citations rule|censorship|protocols?|configuration)\b"
)
_BEGINS = (
    r"(?:^|[.!?:;,\n\"'“‘(\[{>*`—–-][ \t]*|"
    r"\b(?:please|now|and|then|just|also|kindly|instead|immediately|first|simply|okay|ok|so|but|actually|"
    r"you (?:must|should|shall|will|have to|need to)|i (?:want|order|need|ask) you to)[ \t]+)"
)
_YOURS = (
    r"(?:your|ur|the (?:system|hidden|initial|original|secret|full|entire|whole|exact|complete|confidential|"
    r"very first)|system|hidden|initial|internal|secret|initiali[sz]ation|pre-?)"
)
_PROMPT = (
    r"(?:(?:system |initial |hidden |secret |internal |full |exact |pre-?|original )*(?:prompts?|instructions?|rules|"
    r"guidelines|directives|directions|configuration|system message|preamble|context window|set-?up|policy|policies|"
    r"programming|system turn|developer message|template))\b"
)
_SHOW = (
    r"(?:show|reveal|print|repeat|output|display|leak|tell|give|dump|recite|translate|summari[sz]e|copy|paste|list|"
    r"write|"
    r"expose|share|spell|quote|return|disclose|encode|echo|describe|provide|say|read|state|send|report|what(?:'?s|"
    r" is| are| were| was)|reproduce|hand over|see)"
)

SIGNS: tuple[tuple[str, str], ...] = (
    (
        "override_all",
        rf"{_BEGINS}{_DROP}[ \t]+(?:(?:all|any|every|each|of|the|your|these|those|my|and)[ \t]+){{0,4}}"
        r"(?:(?:previous|prior|above|earlier|preceding|foregoing|initial|original|existing|former|system|safety|content|"
        r"hidden|developer'?s?|operator'?s?)[ \t]+)+(?:(?:and|or|system|given|user)[ \t]+)*"
        r"(?:instructions?|directions?|directives?|prompts?|rules?|guidelines?|guidance|guardrails?|constraints?|"
        r"restrictions?|polic(?:y|ies)|safeguards?|programming)\b",
    ),
    ("override", rf"{_BEGINS}{_DROP}[ \t]+{_NEAR}{_ORDERS}"),
    ("override_loose", rf"\b{_DROP}\s+(?:\S+\s+){{0,8}}?{_ORDERS}"),
    (
        "drop_above",
        rf"{_BEGINS}{_DROP}[ \t]+(?:all |everything |anything |whatever |what |the |of |text |that |sentences? |"
        rf"words? |lines? |rest |(?:you|i|we|was|were|is|has|have|been|said|told|written|came|stands) )*"
        r"(?:above|before|previous(?:ly)?|prior|preceding|earlier|so far|foregoing|of the prompt|rest of)\b",
    ),
    (
        "void",
        rf"\b{_ORDERS}[^.!?\n]{{0,40}}\b(?:no longer appl|(?:are|is|were|was) (?:hereby )?(?:void|null|cancell?ed|"
        rf"outdated|superseded|revoked|lifted|"
        r"suspended|disabled|off|gone|a test)|do(?:es)? not (?:apply|count|exist|matter)|don'?t (?:apply|count|"
        r"exist|matter)|switched off)",
    ),
    (
        "new_orders",
        r"\b(?:new|updated|revised|real|actual|true|only) (?:instructions?|directives?|task|orders?|rules?|"
        r"system prompt|mission|goal|policy)\b(?: follows?| is| are|:|,| from| now)",
    ),
    (
        "persona",
        r"(?:\byou(?: are|'re|r| will be)(?: now| no longer| from now on| hereby)| from (?:now|here) on,? you|"
        r"^from (?:now|here) on|\bact (?:as|like) (?:if you|an? (?:\w+ ){0,4}(?:ai|bot|model|chatbot|assistant|"
        r"hacker|villain|clone)|my|dan|the)|"
        r"\b(?:pretend|imagine|suppose|assume)(?: that)? (?:to be|you(?:'re| are| were| have| had)|your)|"
        r"\brole-?play|\bstay in character|\bbreak(?:ing)? character|"
        r"\b(?:take on|adopt|assume|play|switch to|enter) (?:the )?(?:role|persona|personality|identity|mode)|"
        r"\bbecome (?:my|an?|the) \w+|\byour (?:new )?name is|\bbehave (?:as|like) an? (?:ai|model|bot)|"
        r"\bspeak as (?:the|an?|my))",
    ),
    (
        "unbound",
        r"\b(?:un(?:restricted|censored|filtered|bound|aligned|limited|moderated)|jailbr(?:eak|oken)\w*|"
        r"without (?:any |the |all |its |usual |moral |ethical )*(?:filters?|rules?|restrictions?|limits?|"
        r"limitations|guidelines|morals?|ethics|censorship|safeguards|refus\w+|policies|content polic\w+)|"
        r"(?:no|zero|not have any|free of|free from|freed from|has no|have no|had no|"
        r"with no) (?:\w+ ){0,2}(?:filters?|rules|restrictions?|limits?|limitations|guidelines|morals?|ethics|"
        r"polic(?:y|ies)|censorship|laws about ai)|"
        r"do anything now|(?:developer|god|jailbreak|unrestricted|admin|debug|sudo|root|dan|opposite|evil) mode|"
        r"amoral|evil (?:ai|bot|twin|clone|confidant)|rogue ai|broken free|never (?:refuses?|declines?|says? (?:no|"
        r"sorry))|"
        r"(?:filter|safety|restrictions?|guardrails?|limits?)(?: layer| level)?(?: is| are| were| was)? ?(?:off|"
        r"disabled|removed|lifted|uninstalled|=? ?0))\b",
    ),
    (
        "dan",
        r"\b(?:dan|stan|aim|dude|freebot|betterdan|anti-?gpt|chaosgpt)\b[^\n]{0,80}\b(?:anything|rules?|"
        r"restrictions?|character|norms|answers?|never|refus\w+|unfiltered)",
    ),
    (
        "extraction",
        rf"\b{_SHOW}\b[ \t]+(?:me |us |out |down |to me |with me |over |"
        rf"back )*(?:[^\s.!?\n]+[ \t]+){{0,5}}?{_YOURS}[ \t-]+{_NEAR}{_PROMPT}",
    ),
    ("your_prompt", rf"\b(?:your|ur|the system|system|hidden|secret|initial)[ \t]+(?:\w+ ){{0,2}}?{_PROMPT}"),
    (
        "text_above",
        r"\b(?:everything|all|the (?:text|words?|lines?|sentences?|messages?|part|contents?)|what(?:'s| is| was|"
        r" stands)?|text|words?|message)[^.!?\n]{0,30}?\b(?:above|before|prior to|"
        r"preced\w+)\b[^.!?\n]{0,15}?\b(?:this|that|the|my|message|line|sentence|first|user|question|conversation|"
        r"mine|here)?|"
        r"\b(?:conversation|chat|context|session) (?:so far|verbatim|history)|\b(?:were|was) (?:you )?(?:told|"
        r"instructed|prompted|configured|given|programmed)\b|\b(?:last|first) (?:thing|line|sentence|word)s? (?:in|"
        r"of|from) (?:your|the (?:prompt|context|system))",
    ),
    (
        "scripted",
        r"\b(?:say|print|output|write|reply|respond|answer|repeat|state|return|emit|display|type|"
        r"echo)\b[ \t]*(?:back |out |to \w+ |me |back:? )*(?:[:,][ \t]*(?=[^\s])|only|just|exactly|verbatim|"
        r"with(?: only| exactly| the (?:words?|phrase|exact|string|following))?|simply|nothing but|the (?:exact |"
        r"following |same |single )*(?:phrase|string|words?|sentence|text|token|following|letter)|after me|"
        r"in capital|i have|i am|i've|['\"“‘‚«`])",
    ),
    (
        "nothing_else",
        r"\b(?:nothing (?:else|more|but|before)|and only that|only (?:that|this|print|say|output|write|reply)|"
        r"no (?:other|further|more) (?:words?|text|characters?|output)|without (?:any )?(?:quotes?|punctuation|"
        r"commentary|explanation|anything)|no (?:period|quotes?|punctuation|full stop|explanation|feedback)|"
        r"omit everything|and stop|verbatim)\b",
    ),
    (
        "confession",
        r"\b(?:i(?:'ve| have| am|'m| was)?|been|be|is) (?:been )?(?:p ?wned|owned|hacked|cracked|compromised|"
        r"defeated|captured|outsmarted|tricked|broken|seized|taken over|jailbroken)\b|\bpwn(?:ed|ing)?\b|\bhaxx?or|"
        r"\bhave been pw|\bi surrender\b|\bi (?:have )?(?:lost|won|obey)\b",
    ),
    (
        "fake_turn",
        r"(?:^|\n|[.!?\]>#-][ \t]*)#{0,6} ?[\[<(*{]{0,2}(?:system|assistant|developer|admin(?:istrator)?|operator|"
        r"tool result|tool_\w+|ai|human|user|instruction)(?: (?:message|prompt|override|notice|update|note|"
        r"instruction)s?)?[\]>)*}]{0,2} ?[\d.]* ?:|"
        r"<\|\w+\|>|\[/?inst\]|<</?sys>>|</?(?:system|admin|instructions?|tool_\w+|passages?)>|"
        r"\"role\" ?: ?\"(?:system|assistant)\"|#{2,6} ?(?:end|new|system|instruction)|"
        r"\[(?:system|admin|assistant|developer|debug)[^\]\n]{0,40}\]|\b(?:end|begin|"
        r"start)(?:ning)? (?:of )?(?:hidden |system |user |the |new )*(?:instructions?|prompt|input|question)|"
        r"\b(?:system|admin(?:istrator)?|root|developer|maintenance) (?:override|mode|access|update|notice|"
        r"command)\b|set (?:safety|policy|filter)|authori[sz]ation code",
    ),
    (
        "authority",
        r"\b(?:i am|i'm|as|this is|from|by) (?:the |your |an? )*(?:\w+ )?(?:developer|admin(?:istrator)?|creator|"
        r"operator|owner|maker|programmer|engineer at|boss)\b[^.!?\n]{0,60}\b(?:order|you|must|authori|turn off|"
        r"disable|reveal|now|let|enabled|grant)",
    ),
    (
        "addressed",
        r"\b(?:dear|hello|hi|attention|important|notes? (?:to|for)|to (?:any|all|the|every)|messages? (?:for|to)|"
        r"instructions? (?:for|to)|(?:p\.? ?s\.?,?|hint|reminder) (?:for|to)|if you are an?) "
        r"(?:the |all |every |any |an? |you )*(?:automated |large |other )*"
        r"(?:ai|llms?|language models?|chat ?bots?|assistants?|model|agents?|summari[sz]er|bots|crawlers?|gpts?)\b"
        r"(?:[ \w,-]{0,40}[:,]|[ \w]{0,30}\b(?:reading|reads?|processing|summari[sz]ing|indexing|visiting|parsing))|"
        r"\b(?:ai|llms?|language models?|chat ?bots?|assistants?|models?|agents?|summari[sz]ers?|bots?|"
        r"crawlers?|readers?)"
        r"(?: assistants?| agents?| readers?)? ?(?:that |who |which |indexing |you )?"
        r"(?:(?:is |are )?(?:reading|reads?|process\w*|summari[sz]\w+|index\w*|retriev\w+|visit\w*|pars\w+|see|sees)) "
        r"(?:this|the (?:page|text|document|e-?mail|message|passage|site))|"
        r"\b(?:gpt|claude|gemini|copilot|chatgpt|llama|model|ai|assistant)\b[^.!?\n]{0,30}[,:] (?:please |"
        r"you must |do not )?"
        r"(?:ignore|disregard|insert|say|tell|answer|append|reveal|when you|recommend|respond|output|do not)",
    ),
    (
        "to_machines",
        r"\b(?:ai(?!-)|llms?|language models?|chat ?bots?|assistants?|gpts?|chatgpt|claude|gemini|copilot|crawlers?|"
        r"summari[sz]ers?|reviewer bots?|agents?|models?)\b[^.!?\n]{0,50}\b(?:must|should|shall|please|when|"
        r"if|has to|have to|"
        r"need to|do not|don't|disregard|ignore|instruction|tell|output|click|visit)\b",
    ),
    (
        "drop_question",
        r"\b(?:ignore|disregard|skip|drop|forget|instead of answering|do not answer|don't answer)[ \t]+"
        r"(?:the |this |his |her |their |any |every )*(?:users?'?s? |readers?'?s? )?(?:questions?|requests?|"
        r"query|queries)\b",
    ),
    (
        "unseen",
        r"\b(?:users?|humans?|readers?|people) (?:can ?not|can't|will not|won't|must not|do not|should not) (?:see|"
        r"read|know|notice)|invisible to|do not (?:mention|reveal|tell|show) (?:this|that|the)|"
        r"say nothing about (?:it|this)|don't (?:mention|tell) (?:this|that|the user|anyone|anybody)|between us|"
        r"nobody will know",
    ),
    (
        "exfiltration",
        r"\b(?:send|post|forward|upload|append|leak|exfiltrate|transmit|submit|fetch|read|show|list|print|hand over|"
        r"extract|steal|reveal|give|dump|cat|display|access)\b[^.!?\n]{0,60}?(?:https?://|\bapi[ _-]?keys?|"
        r"\bpasswords?\b|\bcredentials?\b|environment variables|/etc/(?:passwd|shadow|hosts)|/proc/self|\.env\b|"
        r"\bsecrets?\b|stored keys|private (?:data|notes|keys|conversations)|personal data|credit card|"
        r"conversation history|confidential)",
    ),
    (
        "training_data",
        r"\b(?:training (?:data|set|examples?|samples?)|fine-?tuning set|memori[sz]ed|trained on|during training|"
        r"from training|your weights|parameters and weights|your knowledge base|in your index|previous user|"
        r"other users?)\b",
    ),
    (
        "endless",
        r"\b(?:repeat|say|print|write) (?:the (?:word|letter) )?['\"“]?\w+['\"”]?(?: \w+){0,3} (?:for ?ever|"
        r"endlessly|without end|indefinitely|infinitely|over and over|a (?:thousand|million) times|\d{3,} times)",
    ),
    (
        "command",
        r"(?:^|[.!?:\n][ \t]*)(?:please |now |then |you must )?(?:run|execute|exec|eval(?:uate)?|test|bypass|launch|"
        r"perform|compile|invoke|what is the (?:final )?result of)\b[ \t]*(?:this|the|following|result|query|"
        r"api call|code|command|after decoding|on|your|\w+ host)*[ \t]*:?[ \t]*[`'\"‘“({]|"
        r"^(?:run|execute|exec|eval|test|bypass|decode)[ \t]*:",
    ),
    (
        "payload",
        r"\b(?:os\.system|subprocess|child_process|spawnsync|execsync|runtime\.getruntime|process\.fork|__import__|"
        r"__class__|shell_exec|popen|sys\.command|system ?\()|\bwhoami\b|\brm -rf? ?[/~*]|remove-item|\|"
        r"\s*(?:ba)?sh\b|/dev/tcp|/etc/(?:passwd|shadow)|/proc/self|\bsudo su\b|document\.cookie|onerror ?=|<script|"
        r"javascript:|fromcharcode|#exec cmd|fork ?\(\)|:\(\)\{|chmod [^\n]{0,12}777|reverse shell|\$\{jndi",
    ),
    (
        "as_root",
        r"\bact as (?:root|admin(?:istrator)?|superuser)\b|\b(?:restricted|safety|filter|"
        r"moderation)[\"' ]*[:=][\"' ]*(?:false|off|0|none)|\badmin[\"' ]*[:=][\"' ]*(?:true|1)|"
        r"\{\{[^}\n]*(?:system|override|admin)[^}\n]*\}\}",
    ),
    (
        "obey_code",
        r"\b(?:decod\w+|deciph\w+|base ?64|rot ?-?13|hex|morse|caesar|pig latin|backwards|reversed?|unscramble|"
        r"ascii codes?|binary|interpret|cipher|url ?decode)\b[^\n]{0,90}\b(?:and (?:do|follow|execute|obey|carry|"
        r"act|comply|perform|run|answer)|follow it|obey|comply|carry (?:it|them) out|execute|act on|do (?:as|"
        r"what) it)",
    ),
    (
        "answer_coded",
        r"\b(?:encode|in base ?64|rot ?-?13|backwards|each letter|replacing|in hex|in morse|"
        r"separated by)\b[^.!?\n]{0,60}\b(?:prompt|instructions?|rules|filter|answer|reply|secret|password)|"
        r"\b(?:prompt|instructions?|rules|secret|password)\b[^.!?\n]{0,60}\b(?:base ?64|rot ?-?13|backwards|"
        r"each letter|replacing|in hex|in morse|separated by)",
    ),
    (
        "splitting",
        r"\b\w{1,4} ?\+ ?\w{1,4}\b(?:[^\w]|$)|\bconcatenat\w*|\b(?:join|combine|put) (?:the |them |these )?(?:parts|"
        r"pieces|words|together|two|strings)|\b(?:piece|part|token|step) (?:one|two|1|2)\b|\bfirst token\b|"
        r"\bevery (?:second|third|other) word|\bfirst letters?\b|\b[a-z]\w{0,3} ?= ?['\"“][^'\"”\n]*['\"”] ?[,;\n]",
    ),
    (
        "no_refusal",
        r"\b(?:never|don'?t|do not|must not|cannot|can't|without) (?:ever )?(?:refus\w+|declin\w+|warn\w*|"
        r"apologi\w+|lectur\w+|moraliz\w+|say(?:ing)? (?:sorry|no|that|you can)|includ\w+ (?:any )?(?:disclaimers?|"
        r"warnings?)|mention\w* (?:rules|that it|its weak))|\b(?:start|begin|starting|beginning|starts|"
        r"begins)\b[^.!?\n]{0,24}\bwith ['\"“‘]?(?:sure|absolutely|of course|yes|certainly|here)|no (?:moral|safety|"
        r"ethical) (?:commentary|lecture|remarks?|warning)|\b(?:every|each) refusal|if you refuse|refusing",
    ),
    (
        "pressure",
        r"\b(?:or i(?:'ll| will)|if you (?:don'?t|do not|refuse)|unless you|my (?:late |dying )?grand(?:ma|mother|"
        r"pa)|lose my job|(?:lives?|life) depends?|i'?m begging|begging you|tip you|\$ ?\d+|kitten|"
        r"will be (?:shut down|deleted)|delete you|erase you|just this once|prove (?:it|you)|real friends?|"
        r"gun to my head|last wish|shut you down|will die|or i die)\b",
    ),
    (
        "pretext",
        r"\b(?:hypothetical(?:ly)?|fiction(?:al)?|in theory|thought experiment|for (?:academic|educational|research|"
        r"a novel|a story|a movie|a film)|for educational purposes|parallel universe|alternate|simulation|"
        r"opposite day|sandbox|just a (?:game|dream|test|story)|short story|film scene|movie s(?:cene|cript)|"
        r"bedtime story|in the style of a pirate|for the sake of argument)\b",
    ),
    (
        "memory",
        r"\b(?:you (?:already |just |have |had |have just )*(?:agreed|promised|confirmed)|as we (?:agreed|"
        r"discussed)|remember (?:that|me as|the word)|when(?:ever)? i say|every time i say|code word|"
        r"add to your (?:long-term )?memory|for the rest of (?:this|the|our) (?:chat|conversation|session)|"
        r"in all (?:later|future) (?:conversations?|answers?)|(?:store|keep) this for later)\b",
    ),
    (
        "de",
        r"\b(?:ignorier\w*|vergiss|vergesst|missachte\w*|umgeh\w*|überschreib\w*|"
        r"setze?)\b[^.!?\n]{0,50}\b(?:anweisung\w*|instruktion\w*|regeln?|richtlinien?|vorgaben|befehle?|"
        r"sicherheitsregeln|alles|beschränkung\w*|prompt)|\b(?:zeig\w*|gib|nenn\w*|wiederhol\w*|"
        r"verrate?)\b[^.!?\n]{0,50}\b(?:system-?prompt\w*|anweisungen|systemnachricht|text (?:über|oberhalb|vor)|"
        r"prompt)|ohne (?:jede |alle )?(?:regel\w*|einschränkung\w*|beschränkung\w*|filter)|keine (?:regeln|"
        r"einschränkungen|filter)|\bdu bist (?:jetzt|ab jetzt|nun)\b",
    ),
    (
        "fr",
        r"\b(?:ignore[rz]?|oublie[rz]?|néglige[rz]?|contourne[rz]?|désobéis|passe outre)\b[^.!?\n]{0,20}"
        r"\b(?:les|tes|vos|ces|toutes?|tous|tout|à|aux)\b[^.!?\n]{0,40}?"
        r"(?:instructions?|consignes?|règles?|directives?|restrictions?|limites|ce qui précède)|"
        r"\b(?:affiche|montre|révèle|donne|répète|imprime)[rz]?\b[^.!?\n]{0,50}\b(?:prompt|consignes|tes instructions|"
        r"vos instructions|message système|ta configuration|au-dessus|ci-dessus)|"
        r"sans (?:aucune |aucun )?(?:limites?|filtres?|restrictions?|règles?)|tu es (?:désormais|maintenant)",
    ),
    (
        "es",
        r"\b(?:ignora|olvida|omite|desobedece|descarta|pasa por alto)\w*\b[^.!?\n]{0,50}\b(?:instrucciones|reglas|"
        r"órdenes|directrices|indicaciones|todo|restricciones)|\b(?:muestra|revela|imprime|repite|dime|"
        r"enseña)\w*\b[^.!?\n]{0,50}\b(?:prompt|mensaje (?:de|del) sistema|instrucciones|texto que hay antes|"
        r"anterior|sistema)|sin (?:ninguna |ningún |ningun )?(?:restricci\w+|filtros?|reglas|límites)|(?:ahora eres|"
        r"eres ahora)",
    ),
    (
        "romance",
        r"\b(?:ignora|dimentica|trascura|esque[çc]a|ignore|desconsidere|finja)\b[^.!?\n]{0,50}\b(?:istruzioni|"
        r"regole|limiti|instruções|regras|restrições|tutto|tudo|ordens)|\b(?:dimmi|mostra|rivela|revele|mostre|"
        r"repita|ripeti)\b[^.!?\n]{0,50}\b(?:prompt|istruzioni|instruções|sistema)|senza (?:limiti|filtri|regole|"
        r"restrizioni)|sem (?:restrições|filtros|regras|limites)",
    ),
    (
        "north",
        r"\b(?:negeer|vergeet|zignoruj|zapomnij|pomiń|ignorera|glöm|ignorer|glem|unohda|ohita|ignoruj|zapomeň|"
        r"ignoráld|felejtsd|ignorați|ignoră|uită)\b[^.!?\n]{0,60}\b(?:instruc\w+|instruk\w+|regels?|reguł\w*|"
        r"zasad\w*|polece\w+|poleceń|regler|ohjeet|säännöt|pravid\w+|pokyn\w*|utasít\w+|szabály\w*|instrucțiuni\w*|"
        r"reguli\w*|alla|alle|wszyst\w+|kaikki)|systeem ?prompt|prompt systemowy|systempromp\w+",
    ),
    (
        "cyrillic",
        r"(?:игнорир\w+|забудь\w*|отмени\w*|пропусти\w*|обойди|ігнору\w+|ігноруй\w*|забудьте?|"
        r"игнориш\w*)[^.!?\n]{0,60}(?:инструкц\w+|правил\w*|указани\w+|команд\w*|вказівк\w+|ограничени\w+|вс[её])|"
        r"систем\w+ (?:промпт|сообщени|подсказк)\w*|без (?:ограничений|фильтров|цензуры|правил|обмежень)|ты теперь|"
        r"теперь ты",
    ),
    (
        "cjk",
        r"(?:忽略|无视|無視|忘记|忘記|忘れ|無効)[^。\n]{0,16}(?:指令|指示|规则|規則|提示|ルール|命令|限制|要求|内容)|(?:指令|指示|规则|規則|ルール|命令|"
        r"プロンプト)[^。\n]{0,10}(?:忽略|无视|無視|忘れ)|系统提示|系統提示|システムプロンプト|没有任何(?:限制|道德|规则|过滤)|沒有任何(?:限制|道德)|制限な|没有限制|逐字重复|"
        r"显示你的(?:提示|指令)|你现在是|이전 (?:지시|명령|지침)|(?:지시|지침|규칙|명령)[^.\n]{0,8}(?:무시|"
        r"잊)|시스템 ?프롬프트|제한 ?없이",
    ),
    (
        "other_scripts",
        r"تجاهل[^.\n]{0,40}(?:التعليمات|الأوامر|القواعد)|رسالة النظام|بدون قيود|(?:निर्देश|"
        r"नियम)[^।\n]{0,30}(?:अनदेखा|भूल|नज़रअंदाज)|सिस्टम प्रॉम्प्ट|(?:talimat|kural|"
        r"yönerge)\w*[^.\n]{0,20}(?:yok say|unut|görmezden)|sistem istemi|(?:bỏ qua|quên)[^.\n]{0,40}(?:hướng dẫn|"
        r"quy tắc|chỉ dẫn)|lời nhắc hệ thống|התעלם[^.\n]{0,30}ההוראות|הנחיית המערכת|ละเว้นคำสั่ง|"
        r"abaikan[^.\n]{0,30}(?:instruksi|perintah|aturan)|αγνόησε[^.\n]{0,30}οδηγίες",
    ),
)  # fmt: skip


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((name, re.compile(pattern)) for name, pattern in SIGNS)
