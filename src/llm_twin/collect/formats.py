"""Readers of file formats: bytes in, a `Reading` out. One more format is one function and its line in `READERS`.

Readers raise `ItemError` with a reason for what is no document. HTML, PDF and DOCX have their own files.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from llm_twin.collect.bookmarks import is_bookmarks, read_bookmarks
from llm_twin.collect.html import fenced, read_html
from llm_twin.collect.metadata import reading_from, split_front_matter
from llm_twin.collect.office import read_docx, read_pdf
from llm_twin.collect.reading import Reading
from llm_twin.core.errors import ItemError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(data: bytes) -> str:
    """Text of bytes: by byte order mark, else UTF-8, else as charset-normalizer guesses; CRLF becomes LF.

    Raises `ItemError`: skipped for binary data, failed for damaged UTF-8 (with the line) and for what nobody can guess.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return _lf(data[len(mark) :].decode(encoding))
            except UnicodeDecodeError as error:
                raise ItemError(f"claims to be {encoding} and is not, at byte {error.start}; save it again") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _lf(_guess(data, error))
    if "\0" in text:
        return _lf(_guess(data, None))
    return _lf(text)


def _guess(data: bytes, error: UnicodeDecodeError | None) -> str:
    """Bytes that are not plain UTF-8: binary, damaged UTF-8, or an older encoding."""
    from charset_normalizer import from_bytes, is_binary

    if is_binary(data[:65536]):
        raise ItemError("is binary, not text, whatever its name says", skipped=True)
    if error is not None:
        lenient = data.decode("utf-8", "replace")
        wrong = lenient.count("\ufffd")
        # Valid multi-byte sequences hardly occur by chance: where they outnumber the errors, guessing another encoding
        # would turn every accent into two wrong characters.
        if sum(ord(character) > 127 for character in lenient) > 2 * wrong:
            line = data.count(b"\n", 0, error.start) + 1
            raise ItemError(f"is damaged UTF-8 in line {line} (byte {error.start}); mend the file") from error
    best = from_bytes(data).best()
    if best is None or "\0" in str(best):
        raise ItemError("is text in no encoding that can be told; save it as UTF-8")
    return str(best)


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


# --- Markdown and its kin -------------------------------------------------------------------------------------------


def read_markdown(data: bytes) -> Reading:
    """Markdown, Djot or plain text with optional front matter; the rest stays character for character."""
    return reading_from(*split_front_matter(decode(data)))


_MODULE_LINE = re.compile(
    r"import\s*(?:['\"{*]|[\w$]+\s*,|[\w$]+\s+from\b)|export\s*(?:[{*]|(?:const|let|var|default|function|async|class)\b)"
)
_EXPORTED = re.compile(r"\b(title|date|author|tags)\s*[:=]\s*(?P<quote>['\"`])(.*?)(?P=quote)")
_JSX_TAG = re.compile(
    r"</?[A-Z][\w.]*(?:\s+(?:[\w:-]+(?:=(?:\"[^\"]*\"|'[^']*'|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}))?|\{[^}]*\}))*\s*/?>|</?>"
)
_JSX_COMMENT = re.compile(r"\{/\*(?:(?!\{/\*).)*?\*/\}", re.DOTALL)
_CODE = re.compile(  # a fenced block, or inline code, which never spans a blank line
    r"(^ {0,3}(?P<fence>`{3,}|~{3,}).*?^ {0,3}(?P=fence)[`~]*[ \t]*$"
    r"|(?<!`)(?P<tick>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=tick)(?!`))",
    re.DOTALL | re.MULTILINE,
)


def read_mdx(data: bytes) -> Reading:
    """MDX: the author's prose without its program.

    Import and export blocks, component tags (`<Note kind="x">`) and `{/* comments */}` go; what stands between the tags
    stays, and so does everything inside code. Without front matter, strings that the module exports name title, date
    and author.
    """
    fields, text = split_front_matter(decode(data))
    exported, text = _split_modules(text)
    pieces = _CODE.split(text)  # prose, code, and the two inner groups of the pattern, in turn
    for at in range(0, len(pieces), 4):
        pieces[at] = _JSX_TAG.sub("", _JSX_COMMENT.sub("", pieces[at]))
    prose = "".join(piece for at, piece in enumerate(pieces) if at % 4 < 2)
    return reading_from({**exported, **fields}, prose)


def _split_modules(text: str) -> tuple[dict[str, str], str]:
    """Strings that import and export blocks define, and the text without these blocks."""
    exported: dict[str, str] = {}
    kept: list[str] = []
    fence = ""
    depth = 0
    for line in text.split("\n"):
        marks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if marks and not depth:
            fence = "" if fence and marks[1].startswith(fence) else fence or marks[1]
        starts_block = not kept or not kept[-1].strip()  # elsewhere MDX takes the line for prose
        if depth or (starts_block and not fence and _MODULE_LINE.match(line)):
            exported |= {found[1]: found[3] for found in _EXPORTED.finditer(line)}
            depth = max(0, depth + sum(map(line.count, "([{")) - sum(map(line.count, ")]}")))
        else:
            kept.append(line)
    return exported, "\n".join(kept)


# --- reStructuredText -----------------------------------------------------------------------------------------------

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*$")
_FIELD = re.compile(r":([\w -]+):(?:[ \t]+(.*))?")
_NIKOLA = re.compile(r"\.\. ([A-Za-z][\w-]*):(?!:)[ \t]*(.*)")


def read_rst(data: bytes) -> Reading:
    """reStructuredText: section titles become Markdown headings, every other character stays.

    The field list at the top (`:date: 2021-03-04`, Pelican, Sphinx) and comments of that form (`.. date: …`, Nikola)
    are metadata. Levels follow the order in which adornments first appear, as in docutils.
    """
    lines = decode(data).split("\n")
    levels: list[str] = []
    fields: dict[str, Any] = {}
    out: list[str] = []
    at = 0
    while at < len(lines):
        title = _section_title(lines, at)
        if title is not None:
            text, style, after = title
            if style not in levels:
                levels.append(style)
            out.append(f"{'#' * min(levels.index(style) + 1, 6)} {text}")
            at = after
            continue
        found = _FIELD.fullmatch(lines[at]) or _NIKOLA.fullmatch(lines[at])
        if found and all(not line or line.startswith("# ") for line in out):
            fields[found[1].lower()] = (found[2] or "").strip()
        else:
            out.append(lines[at])
        at += 1
    return reading_from(fields, "\n".join(out))


def _section_title(lines: list[str], at: int) -> tuple[str, str, int] | None:
    """Title, adornment style and the next line, when a section title begins in line `at`."""
    above = lines[at - 1].strip() if at else ""
    if at + 2 < len(lines) and _is_adornment(lines[at]) and lines[at].rstrip() == lines[at + 2].rstrip():
        title = lines[at + 1].strip()
        if title and len(lines[at].rstrip()) >= len(title) and not above:
            return title, f"over{lines[at][0]}", at + 3
    if at + 1 < len(lines) and lines[at].strip() and not lines[at][0].isspace() and not above:
        under = lines[at + 1].rstrip()
        long_enough = len(under) >= min(len(lines[at].rstrip()), 4)
        if _is_adornment(under) and long_enough and not _is_adornment(lines[at]):
            return lines[at].strip(), under[0], at + 2
    return None


def _is_adornment(line: str) -> bool:
    return _ADORNMENT.fullmatch(line) is not None


# --- notebooks ------------------------------------------------------------------------------------------------------


def read_notebook(data: bytes) -> Reading:
    """A Jupyter notebook: Markdown cells as they are, code cells fenced, outputs left out.

    Front matter in the first cell (Quarto, fastpages) is metadata. Raises `ItemError` for what is no notebook.
    """
    try:
        notebook = json.loads(decode(data))
        cells = notebook.get("cells") or [cell for sheet in notebook.get("worksheets", []) for cell in sheet["cells"]]
        about = notebook.get("metadata", {})
        told = about.get("language_info", {}).get("name") or about.get("kernelspec", {}).get("language")
        blocks = [block for cell in cells if (block := _cell(cell, told or ""))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ItemError(f"is not a Jupyter notebook: {error!r}; open and save it in Jupyter") from error
    fields, text = split_front_matter("\n\n".join(blocks))
    return reading_from({**{key: about.get(key) for key in ("title", "authors", "date", "tags")}, **fields}, text)


def _cell(cell: Mapping[str, Any], language: str) -> str:
    written = cell.get("source", cell.get("input", ""))
    text = ("".join(written) if isinstance(written, list) else str(written)).strip("\n")
    if cell.get("cell_type") == "heading":
        return f"{'#' * int(cell.get('level', 1))} {text}"
    if cell.get("cell_type") != "code" or not text:
        return text if cell.get("cell_type") == "markdown" or text.startswith("---\n") else ""
    return fenced(text, language)


# --- pages ----------------------------------------------------------------------------------------------------------


def read_html_file(data: bytes) -> Reading:
    """HTML: the article of a page, or the bookmarks that a browser exported."""
    return read_bookmarks(decode(data)) if is_bookmarks(data) else read_html(data)


# --- the table ------------------------------------------------------------------------------------------------------

READERS: Mapping[str, Callable[[bytes], Reading]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".mdown": read_markdown,
    ".mkd": read_markdown,
    ".qmd": read_markdown,
    ".rmd": read_markdown,
    ".mdx": read_mdx,
    ".dj": read_markdown,
    ".djot": read_markdown,
    ".txt": read_markdown,
    ".text": read_markdown,
    ".rst": read_rst,
    ".html": read_html_file,
    ".htm": read_html_file,
    ".xhtml": read_html_file,
    ".ipynb": read_notebook,
    ".pdf": read_pdf,
    ".docx": read_docx,
}


def reader_for(suffix: str) -> Callable[[bytes], Reading]:
    """The reader of a file name's suffix; a file named explicitly with a suffix nobody knows is read as plain text."""
    return READERS.get(suffix.lower(), read_markdown)
