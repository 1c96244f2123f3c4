"""HTML pages: the article without the site around it, as Markdown, by trafilatura."""

from __future__ import annotations

import re
from typing import Any

from llm_twin.collect.metadata import tags_from
from llm_twin.collect.reading import Reading, language_named, parse_date
from llm_twin.core.errors import ItemError

# trafilatura drops blank lines of code, its language and the marks of quotations (version 2.3), and removes unusual
# characters. Plain words in their place pass through it, and become what they stand for afterwards.
_BLANK = "twin0blank0line"
_LANGUAGE = "twin0code0language0"
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
        raise ItemError("is not HTML, whatever its name says", skipped=True)
    about = trafilatura.extract_metadata(tree, default_url=url)
    language = language_named(tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang"))
    _mark(tree)
    text = trafilatura.extract(
        tree, url=url, output_format="markdown", include_formatting=True, include_links=True, include_comments=False
    )
    if not text or not text.strip():
        raise ItemError("holds no article text; a page built by scripts needs a browser source", skipped=True)
    return Reading(
        text=_restore(text),
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


def _mark(tree: Any) -> None:
    """Write into the page, as words, what trafilatura would lose."""
    for pre in tree.iter("pre"):
        names = " ".join(
            each.get("class", "") for each in (pre, pre.getparent(), *pre.iter("code")) if each is not None
        )
        found = _LANGUAGE_CLASS.search(names)
        code = pre.text_content().replace("\r\n", "\n").strip("\n").split("\n")
        for child in list(pre):
            pre.remove(child)
        pre.text = "\n".join(
            [_LANGUAGE + (found[1] if found else ""), *(line if line.strip() else _BLANK for line in code)]
        )
    for quotation in tree.iter("blockquote"):
        paragraphs = list(quotation.iter("p", "li")) or [quotation]
        for paragraph in paragraphs:
            paragraph.text = f"{_QUOTE} {(paragraph.text or '').lstrip()}"


def _restore(text: str) -> str:
    text = re.sub(rf"(?m)^(`{{3,}}|~{{3,}})\n\s*{_LANGUAGE}([\w+#-]*)\n", r"\1\2\n", text)
    text = re.sub(rf"`?{_LANGUAGE}[\w+#-]*\s?", "", text)
    text = re.sub(rf"(?m)^[ \t]*{_BLANK}[ \t]*$", "", text)
    text = re.sub(rf"(?m)^([ \t]*(?:[-*] )?){_QUOTE} ?", r"> \1", text)
    return text.replace(_BLANK, "").replace(f"{_QUOTE} ", "").replace(_QUOTE, "")
