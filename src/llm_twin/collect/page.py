"""One web page: its canonical address, and its article or the reason why it holds none.

What an author wrote stands on one page of its own. Lists of posts, sign-in forms, bot checks and pages that scripts
have yet to fill are no articles, however much text they carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from llm_twin.collect.fetch import PAGES, Fetched
from llm_twin.collect.html import WAIT_FOR, parse_html, read_html, structured_data
from llm_twin.collect.reading import Reading, parsing
from llm_twin.core.errors import ItemError
from llm_twin.core.text import word_count

SHORT_PAGE_WORDS = 150
"""A page of fewer words may be a notice in the place of an article."""
FEW_WORDS = 25
"""A page of fewer words is empty, whatever its markup says."""
LINKED_HEADINGS = 3
"""As many headings that lead elsewhere make a list of posts."""
PARAGRAPH_WORDS = 15
"""A paragraph of fewer words tells nothing about where the text of a page stands."""
LINKED_SHARE = 0.6
"""A text of which more stands in links is a list of links."""
LINKED_LINES = 5
"""As many lines that lead to other pages of the site, and little else, make a list of posts."""
LABEL_WORDS = 8
"""A line of no more words between such lines is a date, tags or a reading time."""

_ARTICLES = ("Article", "Posting", "Report")  # and what ends so: `TechArticle`, `BlogPosting`
_LISTS = {"CollectionPage", "SearchResultsPage"}
_LIST_CLASSES = {"archive", "search-results", "tag-template", "author-template"}  # of WordPress and Ghost
_ARTICLE_CLASSES = {"single", "post-template", "page"}
_ARCHIVE_PATH = re.compile(
    r"(?:/(?:tags?|categor(?:y|ies)|authors?|labels?|kategorien?|schlagwort)(?:/[^/]+)?|/archives?|/page/\d+|"
    r"^(?:/(?:blog|posts?|articles|archives?|news))?/(?:19|20)\d\d(?:/\d\d?(?:/\d\d?)?)?)(?:/page/\d+)?/?$"
)
_BOT_CHECK = re.compile(
    r"verify(?:ing)? (?:that )?you are (?:a )?human|checking (?:if the site connection is secure|your browser)|"
    r"attention required! \| cloudflare|^just a moment|are you a robot|unusual traffic|complete the captcha|"
    r"enable javascript and cookies to continue|please stand by, while we are checking",
    re.IGNORECASE | re.MULTILINE,
)
_SIGN_IN = re.compile(
    r"\b(?:log|sign) ?in to (?:continue|read|view|see|access)|\bplease (?:log|sign) ?in\b|\bmembers? only\b|"
    r"\bsubscribe to (?:continue|keep) reading|\balready (?:a (?:subscriber|member)|have an account)\b",
    re.IGNORECASE,
)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\([^)\s]*(?:\s\"[^\"]*\")?\)")


# --- addresses ------------------------------------------------------------------------------------------------------


def canonical(url: str, base: str = "") -> str:
    """An address as it identifies a page: absolute, in normal form, without fragment and without tracking parameters.

    A slash at the end of a path stays as it is, and so does `www.`: servers may answer otherwise without. Raises
    `ItemError` for what is no web address.
    """
    import courlan

    try:
        # Joined with itself as well: that resolves `.` and `..`, which an address without a base may hold.
        address, _ = urldefrag(urljoin(base, url.strip()))
        before_query, mark, query = address.partition("?")
        address = urljoin(before_query, "/" + urlsplit(before_query).path.lstrip("/")) + mark + query
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it needs http:// or https:// and a host")
        if "@" in parts.netloc:
            raise ItemError(
                f"an address at {parts.hostname} carries a user name or password; take it out, as addresses are shown"
            )
        normal = courlan.normalize_url(parts if parts.path else parts._replace(path="/"))
    except ValueError as error:
        raise ItemError(f"{url[:200]!r} is no web address: {error}; correct it") from None
    return str(normal)


def same_site(one: str, other: str) -> bool:
    """Whether two addresses belong to one site: equal hosts, with or without `www.`, and equal ports."""
    return _site(one) == _site(other)


def _site(url: str) -> str:
    return urlsplit(url).netloc.lower().removeprefix("www.")


def is_archive_path(path: str) -> bool:
    """Whether a path is that of a list of posts in the usual blog engines: `/tag/go/`, `/2021/03/`, `/page/2`."""
    return bool(_ARCHIVE_PATH.search(path))


def links_in(tree: Any, base: str) -> Iterator[str]:
    """Canonical addresses a page links to, in order; none of a page that asks programs to follow none."""
    robots = " ".join(tree.xpath("//meta[translate(@name, 'ROBTS', 'robts')='robots']/@content")).lower()
    if "nofollow" in robots or "none" in re.split(r"[\s,]+", robots):
        return
    for root in tree.xpath("//base/@href")[:1]:
        with suppress(ItemError):
            base = canonical(root, base)
    for link in tree.iter("a", "area"):
        if link.get("href") and "nofollow" not in link.get("rel", "").lower():
            try:
                yield canonical(link.get("href"), base)
            except ItemError:
                continue  # `mailto:`, `javascript:` and broken links lead to no page


# --- articles -------------------------------------------------------------------------------------------------------


def read_page(page: Fetched) -> Reading:
    """The article of a page.

    Raises `ItemError`: failed for a bot check, which says nothing about the article behind it, and for a page that no
    parser survives; skipped for a list, a sign-in form, or a page without text.
    """
    with parsing("leave it out with `exclude`"):
        return _article(page)


def _article(page: Fetched) -> Reading:
    if page.content_type not in PAGES:
        raise ItemError(f"is {page.content_type}, no web page; leave it out with `exclude`", skipped=True)
    tree = parse_html(page.text)
    shown = _shown(tree)
    words = word_count(shown)
    if words < SHORT_PAGE_WORDS and _BOT_CHECK.search(shown):
        raise ItemError(
            "answered with a bot check instead of the page; lower fetch.requests_per_second, or use the site's feed or "
            "export"
        )
    if words < SHORT_PAGE_WORDS and _wants_sign_in(tree, shown):
        raise ItemError("wants a sign-in to show its text; use the platform's export instead", skipped=True)
    if words < FEW_WORDS and page.rendered:
        raise ItemError(f"is an empty page of {words} words; {WAIT_FOR}", skipped=True)
    if _awaits_scripts(tree, words):
        raise ItemError(
            'is an empty shell that scripts fill; give it to a source of kind "browser", which renders pages',
            skipped=True,
        )
    reading = read_html(page.text, page.url, rendered=page.rendered)
    if not is_article(tree, reading.text, page.url):
        raise ItemError("is a list of links, not an article; its posts are collected by themselves", skipped=True)
    return replace(reading, url=_own_address(reading.url, page.url))


def is_shell(page: Fetched) -> bool:
    """Whether a page was fetched that scripts have yet to fill; a bot check and a sign-in form are not."""
    if page.rendered or page.content_type not in PAGES:
        return False
    try:
        tree = parse_html(page.text)
    except ItemError:
        return False
    shown = _shown(tree)
    return _awaits_scripts(tree, word_count(shown)) and not _BOT_CHECK.search(shown) and not _wants_sign_in(tree, shown)


def _awaits_scripts(tree: Any, words: int) -> bool:
    return words < FEW_WORDS and bool(tree.xpath("//script"))


def _wants_sign_in(tree: Any, shown: str) -> bool:
    return bool(tree.xpath("//input[@type='password']") or _SIGN_IN.search(shown))


def is_article(tree: Any, text: str, url: str) -> bool:
    """Whether a page is an article (by what it says of itself, else by its look) and not a list of other pages.

    `text` is its extracted text as Markdown.
    """
    if is_archive_path(urlsplit(url).path):
        return False
    kinds = _kinds(tree)
    says_article = any(kind.endswith(_ARTICLES) for kind in kinds)
    classes = set((tree.xpath("string(//body/@class)")).split())
    if kinds & _LISTS and not says_article:
        return False
    if classes & _LIST_CLASSES and not classes & _ARTICLE_CLASSES:
        return False
    if _share_in_links(text) > LINKED_SHARE:
        return False
    return _says_article(tree) or not (_lists_posts(tree) or _lists_links(tree, text, url))


def _says_article(tree: Any) -> bool:
    """Whether a page calls itself an article."""
    dated = tree.xpath("//meta[@property='article:published_time']")
    return bool(dated) or any(kind.endswith(_ARTICLES) for kind in _kinds(tree))


def _kinds(tree: Any) -> set[str]:
    """What a page says of itself that it is, in the words of schema.org."""
    return {str(kind) for about in structured_data(tree) for kind in _types(about)}


def _types(about: Any) -> list[Any]:
    kinds = about.get("@type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _lists_posts(tree: Any) -> bool:
    """Whether headings that lead elsewhere cut the text into many parts of which none is most of it.

    An article may have such headings around it, but not between its paragraphs.
    """
    linked = 0
    parts = [0]
    for element in tree.iter("h1", "h2", "h3", "p"):
        if element.tag != "p" and _is_linked(element):
            linked += 1
            parts.append(0)
        elif element.tag == "p":
            words = word_count("".join(element.itertext()))
            parts[-1] += words if words >= PARAGRAPH_WORDS else 0
    return linked >= LINKED_HEADINGS and max(parts) <= sum(parts) / 2


def _lists_links(tree: Any, text: str, url: str) -> bool:
    """Whether most of the text is lines that lead to other pages of the site, whatever markup they have.

    A list of links to other sites is something to read, and may well be the author's.
    """
    titles = {" ".join("".join(link.itertext()).split()) for link in _links_on(tree, url)} - {""}
    linked = others = 0
    size = 0
    for line in text.splitlines():
        said = " ".join(_LINK.sub(r"\1", line).strip().lstrip("-*+#> ").split())
        in_titles = sum(len(found[1]) for found in _LINK.finditer(line) if " ".join(found[1].split()) in titles)
        if said in titles or 2 * in_titles > len(said):
            linked += 1
            size += len(said)
        elif word_count(said) > LABEL_WORDS:
            others += len(said)
    return linked >= LINKED_LINES and size > LINKED_SHARE * (size + others)


def is_above_others(page: Fetched) -> bool:
    """Whether a page that does not call itself an article links to several pages below its own address."""
    tree = parse_html(page.text)
    if _says_article(tree):
        return False
    below = urlsplit(canonical(page.url)).path.rstrip("/") + "/"
    paths = {urlsplit(canonical(link.get("href"), page.url)).path for link in _links_on(tree, page.url)}
    return sum(path.startswith(below) and path != below for path in paths) >= LINKED_LINES


def _links_on(tree: Any, url: str) -> Iterator[Any]:
    """The links of a page that lead to other pages of its site."""
    here = canonical(url)
    for link in tree.xpath("//a[@href]"):
        with suppress(ItemError):
            there = canonical(link.get("href"), here)
            if there.rstrip("/") != here.rstrip("/") and same_site(there, here):
                yield link


def _is_linked(heading: Any) -> bool:
    words = "".join(heading.itertext()).split()
    inside = " ".join("".join(link.itertext()) for link in heading.iter("a") if link.get("href", "#")[:1] != "#")
    around = heading.getparent() is not None and heading.getparent().tag == "a"
    return bool(words) and (around or len(inside.split()) >= 0.8 * len(words))


def _share_in_links(text: str) -> float:
    linked = sum(len(found[1]) for found in _LINK.finditer(text))
    return linked / max(1, len(_LINK.sub(r"\1", text)))


def _shown(tree: Any) -> str:
    """The words of a page outside scripts and styles, title first."""
    pieces = tree.xpath(
        "//text()[not(ancestor::script or ancestor::style or ancestor::noscript or ancestor::template)]"
    )
    return "\n".join(line for piece in pieces if (line := " ".join(piece.split())))


def _own_address(named: str | None, url: str) -> str:
    """The canonical address a page names, unless it is the front page of a site, which many themes name everywhere."""
    if named:
        try:
            named = canonical(named, url)
        except ItemError:
            return canonical(url)
        if urlsplit(named).path != "/" or urlsplit(url).path in ("", "/"):
            return named
    return canonical(url)
