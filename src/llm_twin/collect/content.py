"""What the bytes of an answer are: decompressed in bounded pieces, their media type, their text."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from email.message import Message
from fnmatch import fnmatchcase
from typing import Any

from llm_twin.core.errors import ItemError

CODINGS = ("gzip", "deflate")
"""The content codings that `decompressed` knows: those that zlib undoes in bounded pieces."""
SNIFFED = 4096
"""Bytes at the beginning that decide on the media type."""

MEDIA = ("image/*", "audio/*", "video/*", "font/*")
"""What is no text whatever is in it."""

_PIECE = 64 * 1024

_MAGIC = (
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
)
_ROOTS = {
    "rss": "application/rss+xml", "feed": "application/atom+xml", "rdf:rdf": "application/rdf+xml",
    "urlset": "application/xml", "sitemapindex": "application/xml",
}  # fmt: skip
_HTML_ROOTS = {"html", "head", "body", "title", "meta", "script", "style", "div", "p", "h1", "table", "article", "main"}
_HTML = ("text/html", "application/xhtml+xml")
_TEXTUAL = ("text/*", "*/xml", "*+xml", "*/json", "*+json", "application/javascript")
_UNKNOWN = ("", "application/octet-stream", "binary/octet-stream", "application/unknown", "application/x-unknown")
_META_CHARSET = re.compile(rb"<meta\b[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"\A\s*<\?xml\b[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})[\"']")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What browsers read for these labels (WHATWG Encoding): the larger set that pages labelled so really use.
_LARGER = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030",
    "shift_jis": "cp932", "euc_kr": "cp949", "utf-16": "utf-16-le",
}  # fmt: skip
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf_7", "undefined", "mbcs", "oem"}


def decompressed(chunks: Iterable[bytes], header: str, *, name: str) -> Iterator[bytes]:
    """The content of a body with that `Content-Encoding`, in pieces of at most 64 KiB however far they expand.

    `name` is what errors call it. Raises `ItemError` for broken data, and for a coding that is none of `CODINGS` or
    more than one; `EOFError` when the end is missing. Source: RFC 9110, 8.4.1.
    """
    codings = [coding for part in header.lower().split(",") if (coding := part.strip()) not in ("", "identity")]
    if not codings:
        return iter(chunks)
    if len(codings) > 1 or codings[0].removeprefix("x-") not in CODINGS:
        raise ItemError(
            f"{name} is compressed as {', '.join(codings)[:100]!r}, which was not asked for; its server is set up "
            "wrongly, so use the site's feed or export"
        )
    return _inflated(chunks, name, gzip=codings[0] != "deflate")


def _inflated(chunks: Iterable[bytes], name: str, *, gzip: bool) -> Iterator[bytes]:
    inflate: Any = None
    ended = False
    try:
        for chunk in chunks if gzip else _from_two_bytes(chunks):
            data, more = chunk, bool(chunk)
            while more:
                if inflate is None:
                    if ended and not (gzip and data.startswith(b"\x1f")):
                        return  # padding after the end, which every browser overlooks
                    inflate = zlib.decompressobj(_window_bits(data, gzip=gzip))
                piece = inflate.decompress(data, _PIECE)
                if piece:
                    yield piece
                # A full piece may leave output behind although all input was taken.
                data, more = inflate.unconsumed_tail, len(piece) == _PIECE
                if inflate.eof:
                    data, more, inflate, ended = inflate.unused_data, False, None, True
                more = more or bool(data)
    except zlib.error as error:
        raise ItemError(f"{name} is not compressed as it says ({error}); try again later") from error
    if inflate is not None:
        raise EOFError("its compressed body ends too early")


def _from_two_bytes(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, the first chunk being long enough for `_window_bits`."""
    rest = iter(chunks)
    start = b""
    for chunk in rest:
        start += chunk
        if len(start) > 1:
            break
    yield start
    yield from rest


def _window_bits(data: bytes, *, gzip: bool) -> int:
    if gzip:
        return zlib.MAX_WBITS | 16
    # "deflate" means zlib, yet some servers send it bare, which a zlib header tells apart.
    headed = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.MAX_WBITS if headed else -zlib.MAX_WBITS


def media_type(header: str) -> str:
    """`text/html` of `Text/HTML; charset=utf-8`; empty when the header names no type."""
    kind = header.split(",")[0].split(";")[0].strip().lower()
    return kind if "/" in kind else ""


def sniffed(content: bytes, header: str) -> str:
    """The media type of a body: what its first bytes prove, else what the `Content-Type` header says, else a guess.

    A container (zip, XML) is taken for the more special thing that the header calls it.
    """
    named = media_type(header)
    magic = next((kind for start, kind in _MAGIC if content.startswith(start)), "")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        magic = "image/webp"
    if magic:
        contains = magic in ("application/zip", "application/gzip", "application/x-ole-storage")
        refined = contains and named not in _UNKNOWN and not matches(named, (*_TEXTUAL, *MEDIA))
        return named if refined else magic
    root = _root(content[:SNIFFED]) if named in (*_UNKNOWN, *_HTML, "text/plain") or _is_xml(named) else ""
    if root in _ROOTS:
        return _ROOTS[root]
    binary = b"\0" in content[:SNIFFED] and not content.startswith(_UTF16) and "utf-16" not in header.lower()
    if named not in _UNKNOWN:
        return "application/octet-stream" if binary and matches(named, _TEXTUAL) else named
    if root in _HTML_ROOTS:
        return "text/html"
    if content.lstrip()[:5].lower() == b"<?xml":
        return "application/xml"
    if content.lstrip()[:1] in (b"{", b"["):
        return "application/json"
    return "application/octet-stream" if binary else "text/plain"


def decoded(content: bytes, header: str) -> str:
    """Text of a body. The encoding is that of its byte order mark, else UTF-8 where it is valid, else the one that
    the `Content-Type` header or the document itself names, else what charset-normalizer takes it for.

    UTF-8 comes before what is declared because other text is hardly ever valid UTF-8 by chance, and declarations are
    often wrong. What cannot be decoded becomes U+FFFD.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    declared = _declared(content, header)
    if b"\x1b" not in content or declared is None:  # ISO-2022 escapes are ASCII too
        with suppress(UnicodeDecodeError):
            if not (declared or "").startswith("utf-16") or b"\0" not in content:
                return content.decode("utf-8")
    if declared:
        with suppress(UnicodeDecodeError):
            return content.decode(declared)
    from charset_normalizer import from_bytes

    best = from_bytes(content[:_PIECE]).best()
    return content.decode(best.encoding if best else declared or "utf-8", "replace")


def _declared(content: bytes, header: str) -> str | None:
    """The first encoding declared that Python knows: by the header, the XML declaration, or a meta element."""
    message = Message()
    message["content-type"] = header
    labels = [str(message.get_param("charset", ""))]
    for pattern in (_XML_CHARSET, _META_CHARSET):
        found = pattern.search(content[:SNIFFED])
        labels.append(found[1].decode("ascii") if found else "")
    for label in labels:
        with suppress(LookupError, ValueError):
            name = codecs.lookup(label.strip("'\" ")).name
            name = _LARGER.get(name, name)
            "".encode(name)
            if name.replace("-", "_") not in _NO_CHARSETS:
                return name
    return None


def _root(content: bytes) -> str:
    """The name of the first element of markup; empty when it does not begin like markup."""
    text = content.decode("latin-1").removeprefix("ï»¿").lstrip().lower()
    while text.startswith(("<?", "<!")):
        end = "-->" if text.startswith("<!--") else ">"
        if text.startswith("<!doctype html"):
            return "html"
        text = text.partition(end)[2].lstrip()
    found = re.match(r"<([a-z][a-z0-9:]*)", text)
    return found[1] if found else ""


def _is_xml(kind: str) -> bool:
    return kind in ("application/xml", "text/xml")


def matches(kind: str, patterns: Iterable[str]) -> bool:
    """Whether a media type is one of the patterns (`text/*`)."""
    return any(fnmatchcase(kind, pattern.lower()) for pattern in patterns)
