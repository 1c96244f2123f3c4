"""Taking secrets out of a document before anything stores it.

What a secret looks like is known by two lists: the vendors' patterns of `detect-secrets` (used as a library: patterns
only, its network verification is never called), and below what that library does not know. Entropy alone is no
evidence here: authors write about commit hashes, UUIDs, checksums and base64. So a random-looking string counts only
where a vendor's form or the name it is assigned to says what it is, and obvious placeholders ("YOUR_KEY", "xxxx",
"AKIA…EXAMPLE", "postgres:postgres@localhost") stay, because they are part of what an author explains.

To add a kind, add a line to `_MORE_TOKENS`, and raise `_VERSION`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Any

from llm_twin.core.records import Document, Redaction, fingerprint

_VERSION = 1

# Not asked: public addresses are no secrets; passwords in URLs and private keys have wider rules below.
_NOT_ASKED = frozenset({"IPPublicDetector", "BasicAuthDetector", "PrivateKeyDetector"})
# Asked only where the vendor is named: their patterns are slow, and values of names like `api_key` have rules below.
_NAMED = {
    "CloudantDetector": "cloudant",
    "IbmCloudIamDetector": "ibm",
    "IbmCosHmacDetector": "ibm",
    "SoftlayerDetector": "softlayer",
}
# Patterns that words can fit.
_NEEDS_DIGIT = frozenset({"ArtifactoryDetector", "DiscordBotTokenDetector", "TelegramBotTokenDetector"})

# Forms documented by the vendors that detect-secrets 1.5 does not know.
_MORE_TOKENS: tuple[tuple[str, str], ...] = (
    ("anthropic-key", r"sk-ant-[A-Za-z0-9_-]{20,}"),
    ("openai-token", r"sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{32,}"),
    ("google-api-key", r"AIza[A-Za-z0-9_-]{35}"),
    ("google-oauth-secret", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    ("google-oauth-token", r"ya29\.[A-Za-z0-9_-]{20,}"),
    ("github-token", r"github_pat_[A-Za-z0-9_]{22,}"),
    ("hugging-face-token", r"(?:hf|api_org)_[A-Za-z]{34}"),
    ("stripe-access-key", r"(?:(?:sk|rk)_test|whsec)_[A-Za-z0-9]{24,}"),
    ("slack-token", r"x(?:app|oxe)-\d-[A-Za-z0-9-]{20,}"),
    ("digitalocean-token", r"do[opr]_v1_[a-f0-9]{64}"),
    ("databricks-token", r"dapi[a-f0-9]{32}"),
    ("shopify-token", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    ("npm-token", r"npm_[A-Za-z0-9]{36}"),
    ("groq-key", r"gsk_[A-Za-z0-9]{48,}"),
    ("linear-key", r"lin_api_[A-Za-z0-9]{40}"),
    ("notion-token", r"(?:secret|ntn)_[A-Za-z0-9]{43,}"),
    ("flyio-token", r"fm[12][ar]?_[A-Za-z0-9+/=_-]{40,}"),
    ("age-secret-key", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    ("discord-webhook", r"https://discord(?:app)?\.com/api/webhooks/\d{17,20}/[A-Za-z0-9_-]{60,}"),
)

# Lines of a key block: base64 (perhaps quoted, commented out or with escaped line breaks), headers, blank. Prose
# between two mentions of the markers is none.
_KEY_LINES = r"(?:[ \t>\"'#/*]*(?:[A-Z][A-Za-z-]{2,30}: [^\n]{0,200}|[A-Za-z0-9+/=\\]*)[ \t\r\"',+;]*(?:\n|(?=-)))*?"
_PRIVATE_KEY = re.compile(
    rf"----[- ]BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?[- ]----{_KEY_LINES}"
    r"----[- ]END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?[- ]----"
    r"|-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:(?:\s|\\n)*[A-Za-z0-9+/=]{16,})+"
    rf"|PuTTY-User-Key-File-\d:[^\n]*\n{_KEY_LINES}Private-MAC: \w+"
)
_KEY_MATERIAL = 128  # characters with the markers; a shorter "key" shows the format

_URL_PASSWORD = re.compile(
    r"[a-z][a-z0-9+.-]{1,20}://([^\s:/?#@\[\]\"'<>`(){}]*):([^\s/?#@\"'<>`(){}]{3,200})@(?=[\w\[])", re.I
)
_BEARER = re.compile(r"\b(?:Bearer|Basic|token)[ \t]+([A-Za-z0-9_\-.=+/~]{20,})", re.I)
_OPTION = re.compile(r"--(?:password|passwd|token|api-key|secret)[= ]([^\s\"'`;|&]{6,})")

# The name a value is assigned to: the keyword list of detect-secrets, and tokens. Names of places and measures of a
# secret ("token_count", "credentials_path") are none.
_NAME = (
    r"(?:(?P<chosen>passw(?:or)?d|passwort|passphrase|pwd|contraseña|contrasena|(?<=[_\-])pass)|"
    r"secret|api[_\-]?key|(?:access|auth|service|account|client|private|encryption|signing)[_\-]?key|credential|token)"
    r"(?![A-Za-z0-9_\-]*[_\-]?(?:path|file|name|url|uri|id|type|field|count|size|length|limit|hash|s)\b)[A-Za-z0-9_\-]{0,20}"
)
_QUOTED = re.compile(
    _NAME + r"[\"'`\])]{0,3}[ \t]*(?::=|=>|==|[=:]|[ \t])[ \t]*[rbuf]?([\"'`])(?P<value>[^\"'`\n]{6,200})\2", re.I
)
_UNQUOTED = re.compile(
    r"^[ \t>$*-]*(?:export[ \t]+|set[ \t]+|ENV[ \t]+|-e[ \t]+)?[A-Za-z0-9_.\-]{0,40}?" + _NAME + r"[ \t]*[=:][ \t]*"
    r"(?P<value>[^\s\"'`,;(){}\[\]<>]{8,200})(?=[ \t]*(?:\\|#.*)?\r?$)",
    re.I | re.M,
)

_PLACEHOLDER = re.compile(
    r"example|sample|dummy|fake|placeholder|redacted|change[_-]?me|replace|insert|your|\bmy[_-]|xxx|\*\*\*|\.\.\.|…|___|"
    r"todo|foo|bar\b|test|demo|abcdef|qwerty|12345|0000|password|passwd|secret|token|api[_-]?key|hunter2|undefined|none|null|"
    r"[<>${}]|%\(|process\.env|environ|settings\.|config\.",
    re.I,
)
_SHOWN = re.compile(r"EXAMPLE|(.)\1{4}|x{4}|\*{3}|\.{3}|…", re.I)
_BEFORE_TOKEN = re.compile(r"AccountKey=|[\s=:\"]*")
_TOKEN_END = re.compile(r"[A-Za-z0-9_\-]*")
_JWT_END = re.compile(r"[A-Za-z0-9_\-.=]*")


@dataclass(frozen=True, slots=True)
class _Secret:
    start: int
    end: int
    kind: str


class SecretRedactor:
    """Replaces every secret in a document's title and text by `[redacted:KIND]` and leaves the rest of the line.

    A private key goes as a whole block. Redactions name the line of the text (from 1; 0 is the title), never the
    secret. `content_hash` stays as it was: whoever stores the document hashes what it stores. No network is used.
    """

    fingerprint: str

    def __init__(self) -> None:
        self.fingerprint = fingerprint("secrets", _VERSION, metadata.version("detect-secrets"))

    def redact(self, document: Document) -> tuple[Document, list[Redaction]]:
        """The document without secrets, and what was taken out, in order; the same document when there was nothing."""
        title, in_title = _without(document.title)
        text, in_text = _without(document.text)
        if not in_title and not in_text:
            return document, []
        found = [Redaction(secret.kind, 0) for secret in in_title]
        found += [Redaction(secret.kind, document.text.count("\n", 0, secret.start) + 1) for secret in in_text]
        return replace(document, title=title, text=text), found


def _without(text: str) -> tuple[str, list[_Secret]]:
    secrets = _apart(_secrets(text))
    pieces, at = [], 0
    for secret in secrets:
        pieces += [text[at : secret.start], f"[redacted:{secret.kind}]"]
        at = secret.end
    return ("".join([*pieces, text[at:]]) if secrets else text), secrets


def _apart(secrets: Iterator[_Secret]) -> list[_Secret]:
    """In order and without overlaps: the one that begins first wins, of those the longest."""
    kept: list[_Secret] = []
    for secret in sorted(secrets, key=lambda secret: (secret.start, -secret.end)):
        if not kept or secret.start >= kept[-1].end:
            kept.append(secret)
    return kept


def _secrets(text: str) -> Iterator[_Secret]:
    yield from _private_keys(text)
    yield from _vendor_tokens(text)
    yield from _more_tokens(text)
    yield from _assigned(text)
    for match in _URL_PASSWORD.finditer(text):
        user, password = match.groups()
        if (
            password.casefold() != user.casefold()
            and not _PLACEHOLDER.search(password)
            and _is_chosen(password + "0aA!")
        ):
            yield _Secret(*match.span(2), "password-in-url")
    for match in _BEARER.finditer(text):
        if _is_random(match[1]):
            yield _Secret(*match.span(1), "bearer-token")
    for match in _OPTION.finditer(text):
        if _is_chosen(match[1]):
            yield _Secret(*match.span(1), "password")


def _private_keys(text: str) -> Iterator[_Secret]:
    if "PRIVATE KEY" not in text and "PuTTY-User-Key" not in text:
        return
    for match in _PRIVATE_KEY.finditer(text):
        if len(re.findall(r"[A-Za-z0-9+/=]", match[0])) >= _KEY_MATERIAL:
            yield _Secret(*match.span(), "private-key")


def _vendor_tokens(text: str) -> Iterator[_Secret]:
    """What the patterns of detect-secrets find: the group that holds the secret, to the end of the token."""
    lowered = text.lower()
    for name, kind, pattern, group in _vendor_patterns():
        if _NAMED.get(name, "") not in lowered:
            continue
        for match in pattern.finditer(text):
            start, end = match.span(group)
            if name == "JwtTokenDetector":
                # Its pattern stops in front of the signature.
                end = _end(_JWT_END, text, end)
                if not _is_jwt(text[start:end].rstrip(".")):
                    continue
                end = start + len(text[start:end].rstrip("."))
            elif group == 0:
                # Its patterns know minimal lengths; several vendors have since made their tokens longer.
                start = _end(_BEFORE_TOKEN, text, start)
                end = _end(_TOKEN_END, text, start + len(text[start:end].rstrip(' \t\r\n"')))
            value = text[start:end]
            if _is_inside_a_word(text, start) or _SHOWN.search(value) or len(set(value)) < 8:
                continue
            if name in _NEEDS_DIGIT and not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
                continue
            yield _Secret(start, end, kind)


@cache
def _vendor_patterns() -> tuple[tuple[str, str, re.Pattern[str], int], ...]:
    """Name, kind, pattern and the group that holds the secret, for every pattern detector of detect-secrets."""
    # It imports `requests` for verifying secrets with their vendors, so it is imported where a redactor is used.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    found = []
    detectors: dict[str, Any] = get_mapping_from_secret_type_to_class()
    for kind, detector in sorted(detectors.items()):
        if issubclass(detector, RegexBasedDetector) and detector.__name__ not in _NOT_ASKED:
            for pattern in detector.denylist:
                # In the patterns for GitHub and GitLab the only group is the prefix.
                whole = pattern.groups == 0 or detector.__name__ in ("GitHubTokenDetector", "GitLabTokenDetector")
                found.append((detector.__name__, "-".join(kind.lower().split()), pattern, 0 if whole else 1))
    return tuple(found)


def _more_tokens(text: str) -> Iterator[_Secret]:
    for kind, pattern in _more_patterns():
        for match in pattern.finditer(text):
            value = match[0]
            if not (_is_inside_a_word(text, match.start()) or _SHOWN.search(value) or len(set(value)) < 12):
                yield _Secret(match.start(), _end(_TOKEN_END, text, match.end()), kind)


@cache
def _more_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((kind, re.compile(pattern)) for kind, pattern in _MORE_TOKENS)


def _assigned(text: str) -> Iterator[_Secret]:
    """Values assigned to a name that says what they are: `password = "…"`, `API_KEY=…`, `"token": "…"`."""
    for pattern in (_QUOTED, _UNQUOTED):
        for match in pattern.finditer(text):
            value = match["value"]
            chosen = match["chosen"] is not None
            if _is_random(value) or (chosen and _is_chosen(value)):
                yield _Secret(*match.span("value"), "password" if chosen else "secret")


def _is_random(value: str) -> bool:
    """Whether a value looks like generated key material: one piece of at least 16 characters with high entropy."""
    if len(value) < 16 or not re.fullmatch(r"[A-Za-z0-9_\-+/=.~:]+", value) or _PLACEHOLDER.search(value):
        return False
    if (
        not re.search(r"\d", value)
        or not re.search(r"[A-Za-z]", value)
        or re.search(r"://|^[./~]|/.*/.*\.|\.[a-z]\w{1,4}$", value)
    ):
        return False
    if re.fullmatch(r"[0-9a-fA-F-]+", value):
        return _entropy(value) >= 2.8
    words = [part for part in re.split(r"[_\-./:]", value) if part]
    # "text-embedding-3-small" and "v1.2.0-beta" are names: made of short words, digits apart from letters.
    if len(words) > 1 and all(part.isdigit() or part.isalpha() or len(part) < 6 for part in words):
        return False
    return _entropy(value) >= 3.3


def _is_chosen(value: str) -> bool:
    """Whether a value looks like a password somebody chose, not like an example, a name or an expression."""
    if (
        len(value) < 6
        or " " in value
        or _PLACEHOLDER.search(value)
        or re.search(r"[\w)]\.[a-z_]\w*|/\w|^[./~@#-]", value)
    ):
        return False
    letters = re.search(r"[A-Za-z]", value)
    return bool(letters and (re.search(r"\d", value) or re.search(r"[!@#%^&*+?~|]", value)))


def _entropy(value: str) -> float:
    """Bits per character (Shannon 1948)."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _is_inside_a_word(text: str, start: int) -> bool:
    return start > 0 and text[start].isalnum() and (text[start - 1].isalnum() or text[start - 1] in "+/")


def _is_jwt(token: str) -> bool:
    from detect_secrets.plugins.jwt import JwtTokenDetector

    return bool(JwtTokenDetector.is_formally_valid(token))


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start
