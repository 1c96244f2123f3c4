"""The body of an article as its platform keeps it: all of it is the author's but what the platform put in."""

from __future__ import annotations

import re
from typing import Any

from llm_twin.collect.html import drop, to_markdown

_LIBRARIES = (
    r"(?:Unsplash|Pexels|Pixabay|Getty|Shutterstock|iStock|Freepik|Flickr|Adobe|Wikimedia|Midjourney|DALL|Giphy)"
)
_CREDIT = re.compile(
    rf"^(?:photo(?:graph)?|image|picture|illustration|artwork|gif|foto|bild)s?\s*(?:by|credits?|courtesy|source|from|:)\b"
    rf"|\b(?:on|via|from|by|source:?|©)\s+{_LIBRARIES}|^(?:source|credits?|©)\s*:?\s*{_LIBRARIES}",
    re.IGNORECASE,
)
_CREDIT_LENGTH = 120


def body_markdown(body: Any, *, unwanted: str = "", url: str | None = None) -> str:
    """The Markdown of an element, which is changed: without what the XPath `unwanted` finds and without the credits of
    pictures. Other captions stay, as they are the author's words; pictures go.
    """
    from lxml import html as lxml_html  # type: ignore[import-untyped]

    for element in body.xpath(unwanted) if unwanted else ():
        drop(element)
    for caption in body.xpath(".//figcaption"):
        if is_credit(caption.text_content()):
            drop(caption)
    body.tag = "div"
    body.tail = None
    return to_markdown(lxml_html.tostring(body, encoding="unicode"), url)


def is_credit(caption: str) -> bool:
    """Whether a caption only says who made the picture (`Photo by SOMEBODY on Unsplash`)."""
    words = " ".join(caption.split())
    return len(words) <= _CREDIT_LENGTH and _CREDIT.search(words) is not None


def has_class(name: str) -> str:
    """An XPath condition: the element is of this class."""
    return f"contains(concat(' ', normalize-space(@class), ' '), ' {name} ')"
