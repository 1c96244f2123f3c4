"""PDF and Word files: hostile until proven harmless, so sizes are checked before a parser sees them."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

from llm_twin.collect.html import people_in, to_markdown
from llm_twin.collect.metadata import tags_from
from llm_twin.collect.reading import Reading, parse_date
from llm_twin.core.errors import ItemError

MAX_UNPACKED_BYTES = 100_000_000
"""A DOCX that unpacks to more is refused before it is parsed; a 500-page book with pictures needs a tenth."""
MAX_XML_BYTES = 30_000_000
"""The same for its XML parts, which the parser holds in memory as a tree."""

_DOCX_STYLES = r"""
p[style-name='Title'] => h1:fresh
p[style-name='Quote'] => blockquote > p:fresh
p[style-name='Intense Quote'] => blockquote > p:fresh
p[style-name='Code'] => pre:separator('\n')
p[style-name='Source Code'] => pre:separator('\n')
p[style-name='HTML Preformatted'] => pre:separator('\n')
r[style-name='Verbatim Char'] => code
r[style-name='HTML Code'] => code
"""


def read_pdf(data: bytes) -> Reading:
    """The text of a PDF, page after page, with the line breaks of its layout; title and date from its properties.

    Raises `ItemError`: skipped when no page has text, failed when it is broken or needs a password.
    """
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError, PyPdfError

    try:
        pdf = PdfReader(io.BytesIO(data))
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise ItemError("is a PDF that needs a password; save it without one")
        pages = [page.extract_text().strip() for page in pdf.pages]
        about: Any = pdf.metadata or {}
    except FileNotDecryptedError as error:
        raise ItemError("is a PDF that needs a password; save it without one") from error
    except PyPdfError as error:
        raise ItemError(f"is a broken PDF: {error}; export it again") from error
    if not any(pages):
        raise ItemError(f"is a PDF without text ({len(pages)} pages of pictures); run OCR over it first", skipped=True)
    return Reading(
        text="\n\n".join(page for page in pages if page),
        title=_given_title(about.get("/Title")),
        authors=people_in(_plain(about.get("/Author"))),
        published_at=_pdf_date(about),
        tags=tags_from(re.sub(";", ",", _plain(about.get("/Keywords")))),
    )


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _given_title(value: Any) -> str | None:
    """A title a person gave; programs write the name of their own file there."""
    title = re.sub(r"^Microsoft (?:Word|PowerPoint) - ", "", _plain(value)).strip()
    machine_made = re.fullmatch(r"(?i)untitled.*|\(anonymous\)|.*\.(?:docx?|tex|dvi|pdf|odt|rtf|txt|md|html?)", title)
    return None if machine_made else title or None


def _pdf_date(about: Any) -> Any:
    try:
        return parse_date(about.creation_date if about else None)
    except (ValueError, AttributeError):
        return None


def read_docx(data: bytes) -> Reading:
    """A Word document as Markdown: headings, lists, tables, links, emphasis and code styles; pictures are left out.

    Raises `ItemError` when it is no DOCX, is broken, or unpacks to more than `MAX_UNPACKED_BYTES`.
    """
    import mammoth  # type: ignore[import-untyped]

    about = _checked_properties(data)
    html = mammoth.convert_to_html(
        io.BytesIO(data), style_map=_DOCX_STYLES, convert_image=mammoth.images.img_element(lambda _: {})
    ).value
    return Reading(
        text=to_markdown(html),
        title=_given_title(about.get("title")),
        authors=people_in(about.get("creator")),
        published_at=parse_date(about.get("created")),
        tags=tags_from(about.get("keywords", "").replace(";", ",")),
    )


def _checked_properties(data: bytes) -> dict[str, str]:
    """Refuse a zip bomb, then read the document's own properties (title, creator, created, keywords)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            parts = package.infolist()
            _check_sizes([(part.filename, part.file_size) for part in parts], "declares")
            _check_sizes([(part.filename, _unpacked_size(package, part)) for part in parts], "unpacks to")
            if "word/document.xml" not in package.namelist():
                raise ItemError("is not a Word document: it has no word/document.xml; save it as DOCX")
            properties = package.read("docProps/core.xml") if "docProps/core.xml" in package.namelist() else b""
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise ItemError(f"is a broken DOCX: {error}; save it again") from error
    return _core_properties(properties)


def _unpacked_size(package: zipfile.ZipFile, part: zipfile.ZipInfo) -> int:
    """Bytes that really come out of a part, counted up to the limit."""
    size = 0
    with package.open(part) as stream:
        while size <= MAX_UNPACKED_BYTES and (piece := stream.read(1 << 20)):
            size += len(piece)
    return size


def _check_sizes(parts: list[tuple[str, int]], verb: str) -> None:
    xml = sum(size for name, size in parts if name.endswith((".xml", ".rels")))
    total = sum(size for _, size in parts)
    if total > MAX_UNPACKED_BYTES or xml > MAX_XML_BYTES:
        raise ItemError(
            f"is a DOCX that {verb} {total:,} bytes ({xml:,} of XML), more than {MAX_UNPACKED_BYTES:,} "
            f"({MAX_XML_BYTES:,}): a zip bomb, or to be split",
        )


def _core_properties(xml: bytes) -> dict[str, str]:
    """Dublin Core properties by local name (ECMA-376 part 2, section 11)."""
    from lxml import etree  # type: ignore[import-untyped]

    if not xml:
        return {}
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
    root = etree.fromstring(xml, parser)
    nodes = [] if root is None else root.iter(etree.Element)
    return {etree.QName(node).localname: (node.text or "").strip() for node in nodes}
