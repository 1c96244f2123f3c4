"""GitHub's REST API, read politely: conditional requests, pages, and limits that are waited for or named.

Every answer is cached by the `Fetcher` under the address and the headers sent, so that what one token may see is never
shown to another. The token goes to the API's own origin and into no log, error or file.
Source: https://docs.github.com/en/rest/using-the-rest-api (best practices, rate limits, pagination).
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from llm_twin.collect.fetch import Fetched, Fetcher, Gone, HttpError
from llm_twin.core.errors import ConfigError, ItemError, SourceError

GITHUB = "github.com"
MAX_WAIT_S = 900.0
"""Seconds that one run waits for GitHub's limits, all in all."""
MAX_PAGES = 1000
"""Pages of one list; at a hundred entries each, more than any account has repositories."""
MAX_ANSWER_BYTES = 100_000_000
"""Size of one answer: the list of 100,000 files of a repository, where GitHub cuts it, has some 30 MB."""
UNNAMED_WAIT_S = 60.0
"""How long to wait when GitHub wants fewer requests and does not say until when (as its documentation asks)."""

_NEXT = re.compile(r"<([^<>]+)>\s*;[^,]*\brel=\"?next\b")
_TOKENS = {True: ("GITHUB_TOKEN", "GH_TOKEN"), False: ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")}

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


def token_for(host: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token for a host: of GITHUB_TOKEN, GH_TOKEN for github.com, of GH_ENTERPRISE_TOKEN for another server.

    Raises `ConfigError`, without showing it, for one that is no token.
    """
    for name in _TOKENS[host == GITHUB]:
        token = environment.get(name, "").strip()
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise ConfigError(f"{name} holds no token: it has characters no token has; set it again, or unset it")
        if token:
            return token
    return None


class GitHubApi:
    """Asks the API of one server with one token, or none. Waits for its limits up to `max_wait_s` seconds in all."""

    def __init__(
        self,
        fetcher: Callable[[], Fetcher],
        *,
        host: str = GITHUB,
        token: str | None = None,
        now: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self.host = host
        self.url = "https://api.github.com" if host == GITHUB else f"https://{host}/api/v3"
        self._fetcher, self._token = fetcher, token
        self._now, self._sleep = now, sleep
        self._left_s = max_wait_s

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises `Gone` when there is nothing, `SourceError` when limits or the token forbid."""
        return self._json(self._fetch(self.url + path))

    def pages(self, path: str) -> Iterator[Any]:
        """The entries of a list, page after page. Raises as `get`, and `SourceError` for a list without end."""
        url: str | None = self.url + path
        for _ in range(MAX_PAGES):
            answer = self._fetch(url)
            entries = self._json(answer)
            if not isinstance(entries, list):
                raise SourceError(f"{self.host} answered {path} with no list; try again later")
            yield from entries
            url = self._next(answer)
            if url is None:
                return
        raise SourceError(f"{self.host} lists more than {MAX_PAGES} pages at {path}; name single repositories instead")

    def raw(self, path: str, *, max_bytes: int) -> bytes:
        """The bytes at a path, such as those of a blob."""
        return self._fetch(self.url + path, kind="application/vnd.github.raw+json", max_bytes=max_bytes).content

    def elsewhere(self, url: str, *, max_bytes: int) -> bytes:
        """The bytes at an address the API named, asked for without the token."""
        return self._fetcher().fetch(url, check_robots=False, max_bytes=max_bytes).content

    def download(self, path: str, to: Path, *, max_bytes: int) -> None:
        """The archive at a path into a file. Raises `ItemError`, skipped, when it is larger."""
        self._patiently(
            lambda: self._fetcher().download(
                self.url + path,
                to,
                headers=self._headers("application/vnd.github+json"),
                accept=("application/zip", "application/x-zip*"),
                check_robots=False,
                max_bytes=max_bytes,
            )
        )

    # --- asking -----------------------------------------------------------------------------------------------------

    def _fetch(
        self, url: str | None, *, kind: str = "application/vnd.github+json", max_bytes: int = MAX_ANSWER_BYTES
    ) -> Fetched:
        # robots.txt speaks of crawlers; the API has its own rules, which are kept here.
        return self._patiently(
            lambda: self._fetcher().fetch(
                str(url), headers=self._headers(kind), check_robots=False, max_bytes=max_bytes
            )
        )

    def _headers(self, kind: str) -> dict[str, str]:
        headers = {"accept": kind, "x-github-api-version": "2022-11-28"}
        return {**headers, "authorization": f"Bearer {self._token}"} if self._token else headers

    def _json(self, answer: Fetched) -> Any:
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.host} answered something else than JSON ({error}); try again later") from error

    def _next(self, answer: Fetched) -> str | None:
        found = _NEXT.search(answer.headers.get("link", ""))
        if found is None:
            return None
        if not found[1].startswith(f"{self.url}/"):  # the token goes nowhere else
            raise SourceError(f"{self.host} continues a list at another server ({found[1][:100]}); try again later")
        return found[1]

    # --- limits -----------------------------------------------------------------------------------------------------

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Ask; when GitHub wants no more requests for now, wait until it does, as long as there is time."""
        while True:
            try:
                return ask()
            except Gone:
                raise
            except HttpError as error:
                until = self._limited_until(error)
                if until is None:
                    raise self._refusal(error) from error
                self._wait(until, error)

    def _limited_until(self, error: HttpError) -> datetime | None:
        """When the next request is welcome; None when the error is not about limits."""
        if error.status not in (403, 429):
            return None
        after = error.headers.get("retry-after", "").strip()
        if after.isdecimal():
            return self._now() + timedelta(seconds=min(int(after[:9]), 10**7))
        reset = error.headers.get("x-ratelimit-reset", "")
        if error.headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
            return datetime.fromtimestamp(min(int(reset[:11]), 10**10), UTC)
        return self._now() + timedelta(seconds=UNNAMED_WAIT_S) if error.status == 429 else None

    def _wait(self, until: datetime, error: HttpError) -> None:
        # A second more, because the reset is given in whole seconds and clocks differ.
        wait = max(1.0, (until - self._now()).total_seconds() + 1)
        when = f"{until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        if wait > self._left_s:
            hint = "" if self._token else ", or set GITHUB_TOKEN, which allows 5,000 requests an hour instead of 60"
            raise SourceError(
                f"{self.host} allows no more requests until {when}, which is {wait:,.0f} s away; run again then{hint}"
            ) from error
        logger.warning("%s allows no more requests until %s; waiting %.0f s", self.host, when, wait)
        self._left_s -= wait
        self._sleep(wait)

    def _refusal(self, error: HttpError) -> ItemError | SourceError:
        if error.status == 401:
            name = " or ".join(_TOKENS[self.host == GITHUB])
            if self._token is None:
                return SourceError(f"{self.host} answers nobody without a token; set {name}")
            return SourceError(f"{self.host} does not accept the token in {name}; renew it, or unset it")
        return error
