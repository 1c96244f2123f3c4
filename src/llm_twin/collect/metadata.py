"""What a document says about itself: front matter (YAML `---`, TOML `+++`) and the keys people use in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from llm_twin.collect.reading import Reading, kind_named, language_named, parse_date
from llm_twin.core.errors import ItemError

_TITLE = ("title",)
_AUTHOR = ("authors", "author", "byline")
_DATE = ("date", "published_at", "published", "publishdate", "publish_date", "pubdate", "created_at", "created")
_URL = ("canonical_url", "canonicalurl", "canonical", "url", "link", "permalink")
_TAGS = ("tags", "keywords", "categories")
_LANGUAGE = ("language", "lang", "locale")
_KIND = ("kind", "type")

_FRONT = re.compile(r"\A(-{3}|\+{3})[ \t]*\n(.*?)^(?:\1|\.{3})[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_KEY_LINE = re.compile(r"([A-Za-z][\w .-]{0,60}?)[ \t]{0,9}[:=][ \t]*(.*)")


def split_front_matter(text: str) -> tuple[Mapping[str, Any], str]:
    """The front matter of a document and the text after it.

    A `---` that opens no mapping is a thematic break and stays text. YAML that trips over a bare colon in a value
    (`title: Twins: a story`) is read line by line, as its author meant it. Raises `ItemError` for a block nobody can
    read, with the line, because its date and title would be lost in silence.
    """
    found = _FRONT.match(text)
    if not found:
        return {}, text
    block, rest = found[2], text[found.end() :]
    if not block.strip():
        return {}, rest
    fields = _toml(block) if found[1] == "+++" else _yaml(block)
    return ({}, text) if fields is None else (fields, rest)


def _toml(block: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(block)
    except tomllib.TOMLDecodeError as error:
        raise ItemError(f"front matter is not valid TOML: {error}; mend the block between the +++ lines") from error


def _yaml(block: str) -> Mapping[str, Any] | None:
    """The mapping of a YAML block; None when the block is no front matter but prose between thematic breaks."""
    import yaml

    try:
        fields = yaml.load(block, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date such as 2021-02-31
        if not _KEY_LINE.match(block.lstrip("\n")):
            return None
        simple = _line_by_line(block)
        if simple is not None:
            return simple
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark else ""
        what = getattr(error, "problem", None) or error
        raise ItemError(f"front matter is not valid YAML{where}: {what}; mend or remove the block") from error
    return fields if isinstance(fields, dict) else None


def _line_by_line(block: str) -> Mapping[str, Any] | None:
    """`key: value` lines and `- item` lists, for YAML broken by an unquoted colon; None when a line is neither."""
    fields: dict[str, Any] = {}
    key = ""
    for line in block.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _KEY_LINE.fullmatch(line)
        if found:
            key, value = found[1], found[2].strip()
            if value[:1] in ("[", "{", "|", ">", "&", "*") or (value[:1] in ("'", '"') and value[-1:] != value[:1]):
                return None
            fields[key] = value[1:-1] if value[:1] in ("'", '"') and len(value) > 1 else value
        elif key and line.lstrip().startswith("- "):
            fields[key] = [*(fields[key] or []), line.lstrip()[2:].strip()]
        else:
            return None
    return fields


def reading_from(fields: Mapping[str, Any], text: str) -> Reading:
    """Text and what its fields say, whatever the site generator calls them.

    Raises `ItemError` (skipped) for a draft: it is not published.
    """
    # Zola keeps tags in a `taxonomies` table and both Hugo and Zola keep private keys in `extra` or `params`.
    inner = [value for name in ("taxonomies", "extra", "params") if isinstance(value := fields.get(name), Mapping)]
    known = {str(key).strip().lower(): value for table in (*inner, fields) for key, value in table.items()}
    if _says(known.get("draft"), "true") or _says(known.get("published"), "false"):
        raise ItemError("is marked as a draft in its front matter, so it is not published", skipped=True)
    return Reading(
        text=text,
        title=_text(_first(known, _TITLE)),
        authors=_names(_first(known, _AUTHOR)),
        url=_web_address(known),
        published_at=next((date for key in _DATE if (date := parse_date(known.get(key)))), None),
        tags=tags_from(_first(known, _TAGS)),
        language=language_named(_first(known, _LANGUAGE)),
        kind=next((kind for key in _KIND if (kind := kind_named(known.get(key)))), None),
    )


def _says(value: Any, word: str) -> bool:
    # Of a value with parts nothing is made a string: a few aliases in YAML can stand for gigabytes.
    return not isinstance(value, list | Mapping) and str(value).strip().lower() == word


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name)), None)


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, list | Mapping) else str(value)


def _names(value: Any) -> tuple[str, ...]:
    """`NAME`, `[NAME, NAME]`, `{name: NAME}` and `[{name: NAME}]` all name authors."""
    people = value if isinstance(value, list) else [value]
    named = (person.get("name") if isinstance(person, Mapping) else person for person in people)
    return tuple(str(name) for name in named if name and not isinstance(name, list | Mapping))


def tags_from(value: Any) -> tuple[str, ...]:
    """A list of tags, or a line of them with commas."""
    found = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(tag for each in found if not isinstance(each, list | Mapping) and (tag := str(each).strip()))


def _web_address(fields: Mapping[str, Any]) -> str | None:
    """The canonical URL; a path such as `/posts/x/` identifies nothing outside its site and is left alone."""
    named = (fields.get(name) for name in _URL)
    return next((url.strip() for url in named if isinstance(url, str) and re.match(r"\s*https?://\S+\s*$", url)), None)
