"""HTML as Markdown: the article of a page without the site around it (`read_html`), or all of a fragment.

The article is found by trafilatura (Barbaresi 2021), after what is surely no part of one was taken out: forms, hidden
elements, boxes that call themselves newsletter or related, links to other articles between paragraphs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from llm_twin.collect.metadata import tags_from
from llm_twin.collect.reading import Reading, language_named, parse_date
from llm_twin.core.errors import ItemError

# trafilatura (2.3) drops blank lines and the language of code, escapes it where it takes it for a quotation, and drops
# the marks of quotations. So code and quotations pass through it under names, which are replaced afterwards. Unusual
# characters do not get through; these words do.
_CODE = re.compile(r"twin0code0(\d+)\b.*?\btwin0end0\1\b", re.DOTALL)
_QUOTE = "twin0quotation"
_NOT_IN_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LANGUAGE_CLASS = re.compile(r"(?:^|\s)(?:language|lang|highlight-source|brush:)[-\s]?([\w+#-]+)")

WAIT_FOR = "its scripts ran, so name what to wait for with `wait_for`"
"""What to do about a rendered page that holds nothing."""

_NOT_PEOPLE = {
    "admin", "administrator", "anonymous", "author", "default", "guest", "microsoft", "office", "owner", "python-docx",
    "root", "team", "unknown", "user", "windows",
}  # fmt: skip


def read_html(data: bytes | str, url: str | None = None, *, rendered: bool = False) -> Reading:
    """The article of a page: headings, lists, quotations, links and code as Markdown, metadata from its head.

    `url` is where the page was found, used when it names no canonical address; `rendered` says that its scripts ran.
    Raises `ItemError` (skipped) when the page holds no article.
    """
    import trafilatura

    tree = parse_html(data)
    about = trafilatura.extract_metadata(tree, default_url=url)
    language = language_named(tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang"))
    titles = [about.title, *tree.xpath("//meta[@property='og:title']/@content | //head/title/text()")]
    _take_out_boxes(tree)
    _take_out_pointers(tree, url)
    _join_pieces(tree)
    _shield_quotations(tree)
    blocks = _name_code(tree)
    _mark_quotations(tree)
    text = trafilatura.extract(
        tree, url=url, output_format="markdown", include_formatting=True, include_links=True, include_comments=False
    )
    if not text or not text.strip():
        remedy = WAIT_FOR if rendered else "a page built by scripts needs a browser source"
        raise ItemError(f"holds no article text; {remedy}", skipped=True)
    return Reading(
        text=_restore(_without_title(text, [title for title in titles if title]), blocks).strip("\n"),
        title=about.title,
        authors=people_in(about.author),
        url=about.url if about.url and re.match(r"https?://", about.url) else None,
        published_at=parse_date(about.date),
        tags=tags_from([tag for tags in about.tags or [] for tag in tags.split(",")]),
        language=language,
    )


def parse_html(html: str | bytes) -> Any:
    """The tree of a page. Raises `ItemError` (skipped) when there is none."""
    import trafilatura

    tree = trafilatura.load_html(html)
    if tree is None:
        raise ItemError("holds no HTML that can be parsed", skipped=True)
    return tree


def structured_data(tree: Any) -> list[dict[str, Any]]:
    """The objects of a page's JSON-LD (schema.org), those inside `@graph` and lists too; broken blocks left out."""
    found: list[dict[str, Any]] = []
    for script in tree.xpath("//script[contains(@type, 'ld+json')]/text()"):
        try:
            waiting = [json.loads(script, strict=False)]
        except (ValueError, RecursionError):
            continue
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                waiting += each
            elif isinstance(each, dict):
                found.append(each)
                waiting += [each[name] for name in ("@graph", "mainEntity") if name in each]
    return found


def to_markdown(fragment: str, url: str | None = None) -> str:
    """All of an HTML fragment as Markdown: nothing escaped, code byte for byte, links absolute when `url` is given."""
    from lxml import etree  # type: ignore[import-untyped]
    from lxml import html as lxml_html

    if "<" not in fragment and "&" not in fragment:
        return fragment.strip()
    tree = lxml_html.document_fromstring(f"<html><body>{_NOT_IN_XML.sub('', fragment)}</body></html>").find("body")
    if url:
        tree.make_links_absolute(url, resolve_base_href=False, handle_failures="ignore")
    etree.strip_elements(tree, "script", "style", "noscript", "template", "iframe", "form", with_tail=False)
    blocks = _name_code(tree)
    text = _renderer().convert(lxml_html.tostring(tree, encoding="unicode"))
    return _restore(re.sub(r"\n{3,}", "\n\n", text), blocks).strip()


@lru_cache(maxsize=1)
def _renderer() -> Any:
    from markdownify import MarkdownConverter

    # Nothing is escaped: the author's characters stay as they are, and few read this through a Markdown renderer.
    return MarkdownConverter(
        heading_style="ATX", bullets="-", strip=["img"], escape_asterisks=False, escape_underscores=False,
        bs4_options="lxml",
    )  # fmt: skip


def drop(element: Any) -> None:
    """Take an element out of its tree and leave the text that follows it."""
    if element.getparent() is not None:
        element.drop_tree()


def people_in(names: str | None) -> tuple[str, ...]:
    """The people in a byline (`FIRST LAST; FIRST LAST`), leaving out what software and sites write there (`admin`)."""
    split = [" ".join(name.split()) for name in re.split(r";|,| and ", names or "")]
    return tuple(name for name in split if _is_person(name))


def _is_person(name: str) -> bool:
    words = name.split()
    # Many scripts have no capitals; of those that have, a name begins with one.
    is_name = words[0][0].isalpha() and not words[0][0].islower() if words else False
    return is_name and 2 <= len(words) <= 5 and not _NOT_PEOPLE & {word.lower() for word in words}


# --- what is no part of an article ----------------------------------------------------------------------------------

# What boxes call themselves in their class. Ids are left alone: documentation makes them of headings ("related-work").
_BOX = re.compile(
    r"newsletter|event-?promo|pushdown|latest-(?:news|box)|read-?more|rollover|print-(?:header|footer|tools)|scrim|"
    r"modal|pop-?up|overlay|notification-bar|recirc|recommend|most-(?:read|popular|viewed)|trending|outbrain|taboola|"
    r"cookie|consent|article-tools|subscri(?:be|ption)-|sign-?up|see-also|(?:read|up)-next|advert|sponsored|breadcrumb|"
    r"more-(?:stories|news|on|from|posts)|also-(?:like|read)|author-(?:bio|box|info)|about-(?:the-)?author|paywall|"
    r"(?:entry|post|article|story)[-_]*(?:meta|tags?|nav(?:igation)?|share|pagination)(?:$|[-_\s])|"
    r"(?:^|[-_\s])(?:promos?|related|share|sharing|social|byline|disqus|copyright)(?:$|[-_\s])|"
    r"(?:^|\s)(?:hide|hidden|visually-hidden|sr-only|screen-reader-text)(?:$|\s)",
    re.IGNORECASE,
)
_BOX_TAGS = (
    "div", "section", "aside", "ul", "ol", "p", "span", "a", "li", "header", "footer", "table", "form",
)  # fmt: skip
# A box holds no more of a page's text, and of that in paragraphs: themes give such names to articles, too.
_BOX_SHARE = 0.2
_NO_DISPLAY = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_POINTER = re.compile(
    r"\W*(?:related(?: stories?| articles?| content| posts?)?|(?:read|see) (?:more|also|next|too|on)|also (?:on|read)\b"
    r".{0,30}|more(?: on this| from\b.{0,40})?|recommended|you (?:may|might) also like|don.t miss|must read|watch|"
    r"leggi anche|(?:à )?lire aussi|lesen sie auch|mehr zum thema|lee también|le(?:ia|r) (?:também|mais))\W*",
    re.IGNORECASE,
)
_POINTER_LENGTH = 300
_PIECE_TAGS = ("div", "section")


def _take_out_boxes(tree: Any) -> None:
    """Take out scripts, and small elements that are forms, hidden, or call themselves newsletter, related and such."""
    for element in list(tree.iter("script", "style", "noscript", "template")):
        drop(element)
    most, most_paragraphs = _BOX_SHARE * len(_squeezed(tree)), _BOX_SHARE * _paragraph_length(tree)
    for element in list(tree.iter(*_BOX_TAGS)):
        if (
            _is_box(element)
            and not element.xpath(".//h1 | .//pre")
            and len(_squeezed(element)) <= most
            and _paragraph_length(element) <= most_paragraphs
        ):
            drop(element)


def _paragraph_length(element: Any) -> int:
    return sum(len(_squeezed(paragraph)) for paragraph in element.iter("p"))


def _is_box(element: Any) -> bool:
    hidden = element.get("hidden") is not None or _NO_DISPLAY.search(element.get("style", ""))
    return bool(element.tag == "form" or hidden or _BOX.search(element.get("class", "")))


def _take_out_pointers(tree: Any, url: str | None) -> None:
    """Take out paragraphs that only point to another article of the site ("Read more: …")."""
    for element in list(tree.iter("p", "h2", "h3", "h4", "h5", "li", "div")):
        links = [link for link in element.iter("a") if _stays_on_site(link.get("href", ""), url)]
        if not links or (element.tag == "div" and len(element) > 4):
            continue
        rest = _squeezed(element)
        if len(rest) < _POINTER_LENGTH:
            for link in links:
                rest = rest.replace(_squeezed(link) or "\0", "", 1)
            if _POINTER.fullmatch(rest):
                drop(element)


def _stays_on_site(href: str, url: str | None) -> bool:
    try:
        host = urlsplit(href).netloc
    except ValueError:  # it leads nowhere: an author's slip in one link
        return False
    return not host or (url is not None and host == urlsplit(url).netloc)


def _join_pieces(tree: Any) -> None:
    """Bring together an article that its template cut into equal containers, of which trafilatura would take one."""
    weights: dict[Any, int] = {}
    for paragraph in tree.iter("p"):
        holder = paragraph.getparent()
        if holder is not None and holder.tag in _PIECE_TAGS and holder.get("class"):
            weights[holder] = weights.get(holder, 0) + len(_squeezed(paragraph))
    if not weights:
        return
    heaviest = max(weights, key=lambda holder: weights[holder])
    pieces = [
        holder
        for holder in tree.iter(heaviest.tag)
        if holder in weights
        and holder.get("class") == heaviest.get("class")
        and _article_around(holder) is _article_around(heaviest)
    ]
    if any(other in pieces for piece in pieces for other in piece.iterancestors()):
        return
    for piece in pieces[1:]:
        pieces[0].extend(list(piece))


def _article_around(element: Any) -> Any:
    return next(element.iterancestors("article", "main", "body"), None)


def _shield_quotations(tree: Any) -> None:
    """Take the names off quotations and what holds nothing else: trafilatura drops embedded posts by their class."""
    for quotation in tree.iter("blockquote"):
        words = _squeezed(quotation)
        element = quotation
        while element is not None and element.tag != "body" and _squeezed(element) == words:
            element.attrib.pop("class", None)
            element.attrib.pop("id", None)
            element = element.getparent()


def _without_title(text: str, titles: Sequence[str]) -> str:
    """Text without the title at its beginning, which is kept by itself."""
    known = [_letters(title) for title in titles]
    lines = text.split("\n")
    for number, line in enumerate(lines[:3]):
        letters = _letters(line)
        if letters and any(letters in title and len(letters) >= 0.6 * len(title) for title in known):
            return "\n".join([*lines[:number], *lines[number + 1 :]])
    return text


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()


def _squeezed(element: Any) -> str:
    return " ".join(element.text_content().split())


# --- code and quotations --------------------------------------------------------------------------------------------


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
            out += "\n> ".join(fenced(code, language).split("\n")) + _after(after)
        else:
            out = out.rstrip(" ") + ("\n\n" if line.strip() else "") + fenced(code, language) + _after(after)
    return re.sub(r"twin0(?:code|end)0\d+ ?", "", out)


def _after(text: str) -> str:
    """What follows a fence begins on a line of its own."""
    text = text.lstrip(" ")
    return text if text.startswith("\n") else f"\n{text}"


def fenced(code: str, language: str = "") -> str:
    """Code in a fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
