from __future__ import annotations

import gzip
import time
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.collect.content import decoded, decompressed, sniffed
from llm_twin.core.errors import ItemError

GERMAN = "Die Straße war naß, und Günther äußerte höflich, daß ihm übel sei. " * 4
RUSSIAN = "Всё счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 4


# --- compression ----------------------------------------------------------------------------------------------------


def _bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _decompressed(chunks, coding):
    return decompressed(chunks, coding, name="the page")


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": _bare}


@given(st.sampled_from(sorted(PACKERS)), st.binary(max_size=300), st.integers(1, 2000), st.integers(1, 90))
def test_what_was_compressed_comes_back_however_it_was_cut(coding, data, times, size):
    content = data * times
    packed = PACKERS[coding](content)
    pieces = list(_decompressed((packed[at : at + size] for at in range(0, len(packed), size)), coding))
    assert b"".join(pieces) == content
    assert max(map(len, pieces), default=0) <= 64 * 1024


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_compressed_body_that_ends_too_early_is_noticed(content, data):
    packed = gzip.compress(content)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(EOFError):
        list(_decompressed([packed[:cut]], "gzip"))


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_decompress_or_fail_with_a_reason(data, coding):
    with suppress(ItemError, EOFError):
        assert isinstance(b"".join(_decompressed([data], coding)), bytes)


@pytest.mark.parametrize("size", [65_536 + extra for extra in range(1, 4)])
def test_nothing_is_lost_where_a_piece_ends_with_the_input(size):
    """A bare deflate stream has no trailer: all of it may have been taken while output is still to come."""
    assert b"".join(_decompressed([_bare(bytes(size))], "deflate")) == bytes(size)


def test_bodies_of_several_members_and_padding_are_read_as_browsers_read_them():
    packed = gzip.compress(b"one ") + gzip.compress(b"two")
    assert b"".join(_decompressed([packed], "gzip")) == b"one two"
    assert b"".join(_decompressed([packed, b"\0" * 100, b"\0"], "gzip")) == b"one two"
    assert b"".join(_decompressed([], "gzip")) == b""
    assert b"".join(_decompressed([b"as it is"], "identity")) == b"as it is"


def test_a_bomb_is_never_held_in_memory_at_once():
    bomb = gzip.compress(bytes(200_000_000))
    pieces = _decompressed([bomb], "gzip")
    assert len(next(pieces)) == 64 * 1024


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "header", "kind"),
    [
        (b"<!DOCTYPE html><html>", "text/html; charset=utf-8", "text/html"),
        (b"<!DOCTYPE html><html>", "", "text/html"),
        (b"\xef\xbb\xbf\n <!-- a --><html>", "application/octet-stream", "text/html"),
        (b"<html>", "text/plain", "text/plain"),
        (b"%PDF-1.7", "text/html", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "text/html", "image/png"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/jpeg", "image/webp"),
        (b"PK\x03\x04", "application/octet-stream", "application/zip"),
        (b"PK\x03\x04", "text/html", "application/zip"),
        (b"PK\x03\x04", "application/epub+zip", "application/epub+zip"),
        (b"\x1f\x8b\x08", "application/x-tar", "application/x-tar"),
        (b"<?xml version='1.0'?><rss>", "text/html", "application/rss+xml"),
        (b"<?xml version='1.0'?>\n<!-- <rss> --><feed>", "text/xml", "application/atom+xml"),
        (b"<?xml version='1.0'?><?xml-stylesheet href='a'?><urlset>", "text/html", "application/xml"),
        (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC><html>", "text/html", "text/html"),
        (b"<?xml version='1.0'?><note/>", "", "application/xml"),
        (b' {"version": 1}', "", "application/json"),
        (b"<svg><rss>", "image/svg+xml", "image/svg+xml"),
        (b"\x00\x01\x02", "text/plain", "application/octet-stream"),
        (b"\x00\x01\x02", "", "application/octet-stream"),
        ("\ufeffhello".encode("utf-16-le"), "text/plain", "text/plain"),
        (b"hello", "nonsense", "text/plain"),
        (b"hello", "Text/Markdown ; charset=utf-8", "text/markdown"),
        (b"", "", "text/plain"),
    ],
)
def test_the_type_is_what_the_bytes_prove_before_what_is_claimed(content, header, kind):
    assert sniffed(content, header) == kind


@given(st.binary(max_size=300), st.text(max_size=40))
def test_any_bytes_under_any_header_have_a_type_and_a_text(content, header):
    assert "/" in sniffed(content, header)
    assert isinstance(decoded(content, f"text/html; charset={header}"), str)


def test_hostile_markup_is_sniffed_in_no_time():
    began = time.monotonic()
    for hostile in (b"<!--" * 500_000, b"<?" * 500_000 + b"?>", b"<meta " * 500_000, b"<?xml " * 500_000):
        sniffed(hostile, "text/html")
        decoded(hostile + b"\xff", "text/html; charset=utf-8")
    assert time.monotonic() - began < 5


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (GERMAN.encode("utf-8"), "text/html"),
        (GERMAN.encode("utf-8"), "text/html; charset=iso-8859-1"),
        (GERMAN.encode("utf-8-sig"), "text/html; charset=windows-1252"),
        (GERMAN.encode("utf-16"), "text/html"),
        (GERMAN.encode("utf-16-le"), "text/html; charset=UTF-16LE"),
        (GERMAN.encode("latin-1"), "text/html; charset=ISO-8859-1"),
        (GERMAN.encode("latin-1"), "text/html; charset='latin1'"),
        (GERMAN.encode("latin-1"), "text/html; charset=utf-8"),
        (GERMAN.encode("latin-1"), "text/html; charset=no-such-thing"),
        (GERMAN.encode("latin-1"), "text/html"),
    ],
)
def test_text_is_read_in_the_encoding_it_really_has(content, header):
    assert decoded(content, header) == GERMAN


def test_the_encoding_may_stand_in_the_document():
    page = f"<html><head><meta http-equiv=Content-Type content='text/html; charset=koi8-r'></head>{RUSSIAN}"
    assert decoded(page.encode("koi8-r"), "text/html") == page
    feed = f"<?xml version='1.0' encoding='windows-1251'?><rss>{RUSSIAN}</rss>"
    assert decoded(feed.encode("cp1251"), "application/rss+xml") == feed


def test_labels_mean_what_browsers_take_them_for():
    assert decoded(b"\x93smart\x94 \x80 5", "text/html; charset=iso-8859-1") == "“smart” € 5"
    assert decoded("日本語テキスト①".encode("cp932"), "text/html; charset=Shift_JIS") == "日本語テキスト①"
    assert decoded("日本語".encode("iso2022_jp"), "text/html; charset=iso-2022-jp") == "日本語"


@pytest.mark.parametrize("label", ["punycode", "idna", "unicode_escape", "hex", "utf-7", "rot13", "zip", "undefined"])
def test_codecs_that_are_no_encodings_of_pages_are_not_used(label):
    text = f"C:\\new {GERMAN}"
    assert decoded(text.encode("latin-1"), f"text/html; charset={label}") == text
