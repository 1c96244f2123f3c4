"""How a configured address becomes a source.

A kind of source is one file in this folder and one line in `catalog.py`. Its class has, beside the port `Source`:

    example         an address of this kind, for `twin sources`
    recognises      whether an address is of this kind; the first kind that says so takes it
    open            the source at an address; its keyword arguments are the options of a [[sources]] table

Opening reads nothing and connects to nothing: a source begins to work when it is listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from llm_twin.core.errors import ConfigError
from llm_twin.core.ports import Browser, Source

if TYPE_CHECKING:
    from llm_twin.collect.fetch import Fetcher


class OpenBrowser(Protocol):
    """Opens the browser of a run, or gives the one that is open."""

    def __call__(self, profile: str = "") -> Browser:
        """The browser that uses a profile folder (relative to the context's root), by default none."""
        ...


def no_browser(profile: str = "") -> Browser:
    """For contexts in which no page is rendered."""
    raise ConfigError(f"no browser is set up here (profile {profile!r}); read the source through a Twin")


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What every source is given: whose writing it collects, where relative paths begin, how to fetch, the time.

    `fetcher` opens on its first call and is shared by the sources of a run, so that limits per host hold across them;
    so does `browser`, one for each profile.
    """

    author: str
    root: Path
    fetcher: Callable[[], Fetcher]
    now: Callable[[], datetime]
    browser: OpenBrowser = no_browser


class SourceKind(Protocol):
    """What `twin.py` asks of a class of sources."""

    example: ClassVar[str]

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Whether this kind takes the address when the settings name no kind."""
        ...

    @classmethod
    def open(cls, address: str, context: SourceContext, **options: Any) -> Source:
        """The source at this address. Raises `ConfigError` for an address it cannot make sense of."""
        ...
