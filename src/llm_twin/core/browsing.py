"""How a page is opened, waited for, scrolled and read in Chromium, the same under every engine.

An engine (`adapters/playwright.py`, `adapters/selenium.py`) is a `ChromiumBrowser` that says how Chromium starts, opens
a `Tab` and ends. The rest is the same for all:

    open ─> wait for what was named ─> wait until quiet ─> scroll, until nothing new comes ─> read without overlays

A page is quiet when for a moment nothing in it grew and no request was under way. Every wait is bounded by the time
the page was given; a page that never comes to rest is read as it stands then.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from llm_twin.core.errors import ConfigError, ItemError, MissingExtra, SourceError
from llm_twin.core.records import Rendered

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""What Chromium is called on a PATH, best first."""
START_S = 60.0
"""Seconds within which Chromium must have started."""
CLOSE_S = 10.0
"""Seconds a page or the browser may take to close."""
QUIET_S = 0.5
"""So long nothing may happen before a page counts as built."""
SCROLL_QUIET_S = 1.0
"""The same after scrolling, where many pages wait a little before they ask for more."""
LONG_REQUEST_S = 5.0
"""A request that takes longer is a stream or a long poll, and no longer waited for."""
MAX_ROUNDS = 50
"""Times a page is scrolled to its end: some pages have none."""
READ_S = 10.0
"""Seconds that reading a finished page may take, beyond the time the page was given."""
_LOOK_S = 0.1
_ARRIVE_S = 2.0
_WEB = ("http://", "https://")

_MEDIA = ("mp4", "m4v", "webm", "mov", "mp3", "m4a", "ogg", "oga", "ogv", "wav", "flac", "m3u8", "mpd", "ts", "m4s")
BLOCKED = tuple(f"*.{kind}{end}" for kind in _MEDIA for end in ("", "?*"))
"""Addresses of media, as patterns for `Network.setBlockedURLs`; pictures and fonts are switched off by `arguments`."""

# Of a page that did not open, what Chromium shows instead.
_WHERE = "() => [location.href, location.protocol === 'chrome-error:' ? document.body.innerText : '']"
_HAS = "selector => document.querySelector(selector) !== null"
_SIZE = """() => {
  const root = document.documentElement;
  return root ? [document.getElementsByTagName('*').length, root.textContent.length, root.scrollHeight] : [0, 0, 0];
}"""
# Some pages scroll in a box instead of the window: the largest one that can be scrolled.
_SCROLL = """() => {
  window.scrollTo(0, document.documentElement.scrollHeight);
  let box = null;
  for (const each of document.querySelectorAll('body *'))
    if (each.scrollHeight > each.clientHeight + 1 && /auto|scroll/.test(getComputedStyle(each).overflowY) &&
        (!box || each.clientHeight * each.clientWidth > box.clientHeight * box.clientWidth)) box = each;
  if (box) box.scrollTop = box.scrollHeight;
}"""
# What lies over a page (banners for cookies, newsletters, sign-in) is fixed to the screen or calls itself a dialog, and
# is the smaller part of the text; an application that lives in one fixed box is the larger part, and stays.
_READ = """maxBytes => {
  const entry = performance.getEntriesByType('navigation')[0];
  const status = entry ? entry.responseStatus : 0;
  const size = element => element.textContent.trim().length;
  if (document.body) {
    const over = 'dialog, [role=dialog], [role=alertdialog], [aria-modal=true]';
    const whole = size(document.body);
    const found = [...document.body.querySelectorAll('*')].filter(
      each => each.matches(over) || getComputedStyle(each).position === 'fixed');
    found.filter(each => 2 * size(each) < whole).forEach(each => each.remove());
  }
  document.querySelectorAll('script:not([type*="ld+json"]), noscript').forEach(each => each.remove());
  const html = document.documentElement ? document.documentElement.outerHTML : '';
  return {status, url: location.href, html: new Blob([html]).size > maxBytes ? null : html};
}"""


class Tab(Protocol):
    """One page in a browser. Opening and running raise `ItemError` when page or browser fail or take too long."""

    def open(self, url: str, *, timeout_s: float) -> None:
        """Go to an address and wait until its document is parsed."""
        ...

    def run(self, function: str, *arguments: Any, timeout_s: float) -> Any:
        """Call a JavaScript function in the page; its result as plain data."""
        ...

    def last_request(self) -> float | None:
        """When the latest of the requests under way began (`time.monotonic`); None when nothing is loading."""
        ...

    def close(self) -> bool:
        """Close the page and those it opened; whether the browser could."""
        ...


class ChromiumBrowser(ABC):
    """The port `Browser` on Chromium, one page at a time, for engines that drive it.

    `proxy` is the only way to the network it gets. `profile` is the folder of a Chromium profile, whose cookies are
    then sent; without one every start is a stranger's. A page may take `timeout_s` seconds and have `max_bytes` bytes.
    Raises `MissingExtra` without the engine's package, `ConfigError` without Chromium.
    """

    package: ClassVar[str]
    """What the engine is called, and its package."""
    extra: ClassVar[str]
    """The extra of ours that installs the package."""

    def __init__(
        self,
        *,
        proxy: str,
        executable: str = "",
        profile: Path | None = None,
        timeout_s: float = 60.0,
        max_bytes: int = 20_000_000,
    ) -> None:
        try:
            import_module(self.package)
        except ImportError as error:
            raise MissingExtra(f"the browser engine {self.package}", self.extra, self.package) from error
        self._executable = find_chromium(executable)
        self._proxy, self._profile = proxy, profile
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._lock = threading.Lock()

    def render(
        self, url: str, *, scroll: bool = False, wait_for: str | None = None, timeout_s: float | None = None
    ) -> Rendered:
        """The page after its scripts ran; see `Browser.render`."""
        with self._lock:
            tab = self._tab()
            try:
                return _render(
                    tab,
                    url,
                    scroll=scroll,
                    wait_for=wait_for,
                    timeout_s=timeout_s or self._timeout_s,
                    max_bytes=self._max_bytes,
                )
            finally:
                if not tab.close():
                    self._end(hung=True)

    def close(self) -> None:
        """End the browser; see `Browser.close`."""
        with self._lock:
            self._end()

    def _tab(self) -> Tab:
        """A new tab, of a new browser where there is none or it died."""
        if self._is_running():
            with suppress(*self._errors()):
                return self._new_tab()
            self._end(hung=True)
        try:
            self._start()
            return self._new_tab()
        except self._errors() as error:
            self._end()
            raise _not_started(self._executable, str(error), self._profile) from error

    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the engine raises when the browser fails or takes too long."""

    @abstractmethod
    def _is_running(self) -> bool:
        """Whether Chromium was started and not ended."""

    @abstractmethod
    def _start(self) -> None:
        """Start Chromium with `arguments`."""

    @abstractmethod
    def _new_tab(self) -> Tab:
        """Open a tab in the browser that was started; it asks for none of `BLOCKED`."""

    @abstractmethod
    def _end(self, *, hung: bool = False) -> None:
        """End Chromium, if it was started: one that `hung` may answer nobody."""


def _render(tab: Tab, url: str, *, scroll: bool, wait_for: str | None, timeout_s: float, max_bytes: int) -> Rendered:
    if not url.startswith(_WEB):
        raise ItemError(
            f"{url[:200]!r} is not opened in a browser: only http and https are; leave it out", skipped=True
        )
    visit = _Visit(tab, url, timeout_s)
    tab.open(url, timeout_s=timeout_s)
    visit.arrive()
    if wait_for:
        visit.wait_for(wait_for)
    visit.wait_until_quiet(QUIET_S)
    if scroll:
        visit.scroll()
    found = tab.run(_READ, max_bytes, timeout_s=READ_S)
    html, status, at = found["html"], found["status"], str(found["url"])
    if not at.startswith(_WEB):
        raise _no_page(url)
    # The page's own scripts could answer for the browser's functions, so nothing of it is taken for granted.
    if not isinstance(html, str) or len(html.encode("utf-8", "surrogatepass")) > max_bytes:
        raise ItemError(
            f"{url} is larger than {max_bytes:,} bytes in a browser; leave it out, turn `scroll` off, or raise "
            "fetch.max_bytes",
            skipped=True,
        )
    return Rendered(f"<!DOCTYPE html>\n{html}", at, status if isinstance(status, int) else 0)


class _Visit:
    """One page on its way to being read, and the time it has left."""

    def __init__(self, tab: Tab, url: str, timeout_s: float) -> None:
        self.tab, self.url, self.timeout_s = tab, url, timeout_s
        self.until = time.monotonic() + timeout_s

    def left(self) -> float:
        return self.until - time.monotonic()

    def run(self, function: str, *arguments: Any) -> Any:
        # A page that was quick until now may hang from here on: it gets a moment at least.
        return self.tab.run(function, *arguments, timeout_s=max(1.0, self.left()))

    def arrive(self) -> None:
        """Make sure that there is a page: neither Chromium's own about an error, nor none because of a download."""
        until = time.monotonic() + _ARRIVE_S
        while True:
            at, error = self.run(_WHERE)
            if error:
                raise not_opened(self.url, error, self.timeout_s, late=False)
            if at.startswith(_WEB):
                return
            if time.monotonic() > until:
                raise _no_page(self.url)
            time.sleep(_LOOK_S)

    def wait_for(self, selector: str) -> None:
        while not self.run(_HAS, selector):
            if self.left() <= 0:
                raise ItemError(
                    f"{self.url} showed nothing that matches {selector!r} within {self.timeout_s:g} s; correct "
                    "`wait_for`, or allow more with `timeout_s`"
                )
            time.sleep(_LOOK_S)

    def wait_until_quiet(self, seconds: float) -> Any:
        """Wait until nothing has happened for so long, or the time is up; returns the page's size."""
        size, since = None, time.monotonic()
        while self.left() > 0:
            seen, now = self.run(_SIZE), time.monotonic()
            if seen != size or self._is_loading(now):
                size, since = seen, now
            elif now - since >= seconds:
                break
            time.sleep(_LOOK_S)
        return size

    def scroll(self) -> None:
        """Go to the end of the page again and again, until it does not grow any more."""
        size = self.run(_SIZE)
        for _ in range(MAX_ROUNDS):
            if self.left() <= 0:
                return
            before = size
            self.run(_SCROLL)
            size = self.wait_until_quiet(SCROLL_QUIET_S)
            if size == before:
                return

    def _is_loading(self, now: float) -> bool:
        began = self.tab.last_request()
        return began is not None and now - began < LONG_REQUEST_S


# --- starting Chromium ----------------------------------------------------------------------------------------------


def find_chromium(executable: str = "") -> str:
    """The path of Chromium: the one named, else the first on the PATH. Raises `ConfigError` without one."""
    if executable:
        found = shutil.which(str(Path(executable).expanduser()))
        if not found:
            raise ConfigError(f"browser.executable is {executable!r}, which is no program; correct the path")
        return found
    for name in CHROMIUM_NAMES:
        if found := shutil.which(name):
            return found
    raise ConfigError(
        f"no Chromium is on the PATH (looked for {', '.join(CHROMIUM_NAMES)}); run: apt-get install chromium, or name "
        "its path in browser.executable"
    )


# Only the last such list counts, so it holds what Playwright switches off for itself as well; seen to call out
# otherwise (Chromium 150): NetworkTimeServiceQuerying, OptimizationHints, PreconnectToSearch.
_FEATURES_OFF = (
    "AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay", "MediaRouter",
    "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch",
    "ThirdPartyStoragePartitioning", "Translate",
)  # fmt: skip


def arguments(*, proxy: str) -> list[str]:
    """What Chromium is started with, whoever starts it.

    All its connections go through `proxy` (`http://127.0.0.1:4567`), those to this machine too; it looks up no name
    itself. It tells its makers nothing, asks for no updates, and shows no pictures.
    """
    return [
        f"--proxy-server={proxy}",
        "--proxy-bypass-list=<-loopback>",  # without it, loopback addresses bypass every proxy
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        "--disable-quic",
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
        "--disable-background-networking",
        f"--disable-features={','.join(_FEATURES_OFF)}",
        # Where Chromium would ask Google about accounts and messages: a port that it never connects to.
        "--gaia-url=http://127.0.0.1:9",
        "--gcm-checkin-url=http://127.0.0.1:9",
        "--gcm-registration-url=http://127.0.0.1:9",
        "--gcm-mcs-endpoint=127.0.0.1:9",
        "--disable-breakpad",
        "--disable-client-side-phishing-detection",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-domain-reliability",
        "--disable-extensions",
        "--disable-sync",
        "--metrics-recording-only",
        "--no-default-browser-check",
        "--no-first-run",
        "--no-pings",
        "--mute-audio",
        "--disable-remote-fonts",
        "--blink-settings=imagesEnabled=false",
        # Cookies of a profile are encrypted by this choice: it must be the same when the user signs in.
        "--password-store=basic",
        "--use-mock-keychain",
        "--window-size=1280,1600",
        *(["--no-sandbox"] if is_root() else []),
    ]


def is_root() -> bool:
    """Whether this process is the superuser's, for whom Chromium's sandbox does not work."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


# --- what may go wrong ----------------------------------------------------------------------------------------------

_NET_ERROR = re.compile(r"ERR_[A-Z_]+")
_IN_USE = re.compile(r"SingletonLock|ProcessSingleton|already in use|existing browser session", re.IGNORECASE)


def _not_started(executable: str, message: str, profile: Path | None) -> SourceError:
    """Why Chromium did not start, from what the engine says."""
    if profile and (_IN_USE.search(message) or os.path.lexists(profile / "SingletonLock")):
        return SourceError(f"the browser profile {profile} is in use; close the browser that has it open and try again")
    if "No usable sandbox" in message:
        return SourceError(f"{executable} found no sandbox that works here; run: apt-get install chromium-sandbox")
    return SourceError(
        f"{executable} could not be started: {_first_line(message)}; try it by hand: {executable} --version"
    )


def not_opened(url: str, message: str, timeout_s: float, *, late: bool) -> ItemError:
    """Why a page did not open, from what the engine says."""
    if late:
        return ItemError(f"{url} took longer than {timeout_s:g} s in a browser; allow more with `timeout_s`")
    found = _NET_ERROR.search(message)
    if "Download is starting" in message or (found and found[0] == "ERR_ABORTED"):
        return _no_page(url)
    why = found[0] if found else _first_line(message)
    return ItemError(f"{url} does not open in a browser: {why}; check the address, or try again later")


def _no_page(url: str) -> ItemError:
    return ItemError(f"{url} shows no page in a browser, but a download or nothing; leave it out", skipped=True)


def broke_off(url: str, message: str, timeout_s: float, *, late: bool) -> ItemError:
    """Why a page cannot be read any more, from what the engine says."""
    if late:
        return ItemError(f"{url} hangs: its scripts did not let go within {timeout_s:.0f} s; leave it out")
    return ItemError(f"{url} broke off in the browser: {_first_line(message)}; try again later, or leave it out")


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0][:200] or "it said nothing"
