"""HTML pages: the article without the site around it, as Markdown, by trafilatura."""

from __future__ import annotations

import re
from typing import Any

from llm_twin.collect.metadata import tags_from
from llm_twin.collect.reading import Reading, language_named, parse_date
from llm_twin.core.errors import ItemError

# trafilatura (2.3) drops blank lines and the language of code, escapes it where it takes it for a quotation, and drops
# the marks of quotations. So code and quotations pass through it under names, which are replaced afterwards. Unusual
# characters do not get through; these words do.
_CODE = re.compile(r"twin0code0(\d+)\b.*?\btwin0end0\1\b", re.DOTALL)
_QUOTE = "twin0quotation"
_LANGUAGE_CLASS = re.compile(r"(?:^|\s)(?:language|lang|highlight-source|brush:)[-\s]?([\w+#-]+)")

_NOT_PEOPLE = {
    "admin", "administrator", "anonymous", "author", "default", "guest", "microsoft", "office", "owner", "python-docx",
    "root", "team", "unknown", "user", "windows",
}  # fmt: skip


def read_html(data: bytes | str, url: str | None = None) -> Reading:
    """The article of a page: headings, lists, quotations, links and code as Markdown, metadata from its head.

    `url` is where the page was found, used when it names no canonical address. Raises `ItemError` (skipped) when the
    page holds no article.
    """
    import trafilatura

    tree = trafilatura.load_html(data)
    if tree is None:
        raise ItemError("holds no HTML that can be parsed", skipped=True)
    about = trafilatura.extract_metadata(tree, default_url=url)
    language = language_named(tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang"))
    blocks = _name_code(tree)
    _mark_quotations(tree)
    text = trafilatura.extract(
        tree, url=url, output_format="markdown", include_formatting=True, include_links=True, include_comments=False
    )
    if not text or not text.strip():
        raise ItemError("holds no article text; a page built by scripts needs a browser source", skipped=True)
    return Reading(
        text=_restore(text, blocks),
        title=about.title,
        authors=people_in(about.author),
        url=about.url if about.url and re.match(r"https?://", about.url) else None,
        published_at=parse_date(about.date),
        tags=tags_from([tag for tags in about.tags or [] for tag in tags.split(",")]),
        language=language,
    )


def people_in(names: str | None) -> tuple[str, ...]:
    """The people in a byline (`Jane Roe; Joe Doe`), leaving out what software and sites write there (`admin`)."""
    split = [" ".join(name.split()) for name in re.split(r";|,| and ", names or "")]
    return tuple(name for name in split if _is_person(name))


def _is_person(name: str) -> bool:
    words = name.split()
    return 2 <= len(words) <= 5 and words[0][:1].isupper() and not _NOT_PEOPLE & {word.lower() for word in words}


def _name_code(tree: Any) -> list[tuple[str, str]]:
    """Put a named paragraph in the place of each code block; returns language and code, by number.

    The paragraph repeats the beginning of the code, so that a page of code still looks like one with much to say.
    """
    blocks: list[tuple[str, str]] = []
    for pre in list(tree.iter("pre")):
        near = [pre, pre.getparent(), *pre.iter("code")]
        found = _LANGUAGE_CLASS.search(" ".join(each.get("class", "") for each in near if each is not None))
        for line_break in pre.iter("br"):
            line_break.tail = "\n" + (line_break.tail or "")
        code = pre.text_content().replace("\r\n", "\n").strip("\n")
        for child in list(pre):
            pre.remove(child)
        number = len(blocks)
        pre.tag = "p"
        pre.text = f"twin0code0{number} {' '.join(code.split())[:1000]} twin0end0{number}" if code.strip() else ""
        blocks.append((found[1] if found else "", code))
    return blocks


def _mark_quotations(tree: Any) -> None:
    for quotation in tree.iter("blockquote"):
        for paragraph in list(quotation.iter("p", "li")) or [quotation]:
            paragraph.text = f"{_QUOTE} {(paragraph.text or '').lstrip()}"
            for line_break in paragraph.iter("br"):
                line_break.tail = f"{_QUOTE} {(line_break.tail or '').lstrip()}"


def _restore(text: str, blocks: list[tuple[str, str]]) -> str:
    """Quotations get their marks and code blocks stand where their names stood, byte for byte."""
    text = re.sub(rf"(?m)^([ \t]*(?:[-*] )?){_QUOTE} ?", r"> \1", text).replace(f"{_QUOTE} ", "").replace(_QUOTE, "")
    pieces = _CODE.split(text)  # text, number, text, number, …, text
    out = pieces[0]
    for number, after in zip(pieces[1::2], pieces[2::2], strict=True):
        language, code = blocks[int(number)]
        line = out.rsplit("\n", 1)[-1]
        if line.startswith("|"):  # a table has no room for blocks
            out += f"`{' '.join(code.split())}`" + after
        elif line.startswith("> "):
            out += "\n> ".join(fenced(code, language).split("\n")) + "\n" + after.lstrip(" ")
        else:
            out = out.rstrip(" ") + ("\n\n" if line.strip() else "") + fenced(code, language) + "\n" + after.lstrip(" ")
    return re.sub(r"twin0(?:code|end)0\d+ ?", "", out)


def fenced(code: str, language: str = "") -> str:
    """Code in a fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
