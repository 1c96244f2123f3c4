"""Pages in Chromium through Selenium (https://www.selenium.dev), with chromedriver from the PATH.

Selenium's manager, which would download a driver, is never asked. What a page has under way is read from the driver's
performance log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm_twin.core import browsing
from llm_twin.core.errors import ConfigError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


class SeleniumBrowser(browsing.ChromiumBrowser):
    """A `Browser` on Selenium. Raises `ConfigError` without chromedriver, too."""

    package = "selenium"
    extra = "selenium"
    _driver: Chrome | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._chromedriver = _find_chromedriver()

    def _errors(self) -> tuple[type[Exception], ...]:
        return _errors()

    def _is_running(self) -> bool:
        return self._driver is not None

    def _new_tab(self) -> _Tab:
        assert self._driver is not None  # noqa: S101 - it was started
        return _Tab(self._driver)

    def _start(self) -> None:
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service

        options = ChromeOptions()
        options.binary_location = self._executable
        for argument in ("--headless=new", *browsing.arguments(proxy=self._proxy)):
            options.add_argument(argument)
        if self._profile:
            options.add_argument(f"--user-data-dir={self._profile}")
            options.add_argument("--app=data:,")  # a profile would begin with its New Tab page, which asks Google
        options.add_experimental_option("excludeSwitches", ["disable-popup-blocking"])
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        options.page_load_strategy = "eager"
        options.unhandled_prompt_behavior = "dismiss"
        with warnings.catch_warnings():
            # Deprecated (4.51) in favour of an argument that `Chrome` does not take. The driver is on this machine.
            warnings.simplefilter("ignore", DeprecationWarning)
            options.ignore_local_proxy_environment_variables()
        self._driver = Chrome(options=options, service=Service(self._chromedriver))
        self._driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "deny"})

    def _end(self, *, hung: bool = False) -> None:
        driver, self._driver = self._driver, None
        if driver is None:
            return
        _allow(driver, browsing.CLOSE_S)
        if hung:
            folder = Path(driver.capabilities["chrome"]["userDataDir"])
            with suppress(OSError, ValueError):
                # The lock on a profile is a link to "host-pid". Asked to terminate, Chromium saves its cookies.
                os.kill(int((folder / "SingletonLock").readlink().name.rpartition("-")[2]), signal.SIGTERM)
        with suppress(*_errors()):
            driver.quit()


class _Tab:
    """A `Tab` of the driver's."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self._began: dict[str, float] = {}
        self._url = ""
        _allow(driver, browsing.START_S)
        self._first = driver.window_handles[0]
        driver.switch_to.window(self._first)
        driver.switch_to.new_window("tab")
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": list(browsing.BLOCKED)})
        self._events()

    def open(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        _allow(self._driver, timeout_s + 1)
        try:
            self._driver.set_page_load_timeout(timeout_s)
            self._driver.get(url)
        except _errors() as error:
            raise browsing.not_opened(url, _message(error), timeout_s, late=_is_late(error)) from error

    def run(self, function: str, *arguments: Any, timeout_s: float) -> Any:
        # The driver's own limit for scripts does not hold for a page that never returns; that of the connection does.
        _allow(self._driver, timeout_s)
        try:
            return self._driver.execute_script(f"return ({function})(...arguments)", *arguments)
        except _errors() as error:
            raise browsing.broke_off(self._url, _message(error), timeout_s, late=_is_late(error)) from error

    def last_request(self) -> float | None:
        for event in self._events():
            request = event["params"].get("requestId")
            if event["method"] == "Network.requestWillBeSent":
                self._began[request] = time.monotonic()
            elif event["method"] in ("Network.loadingFinished", "Network.loadingFailed"):
                self._began.pop(request, None)
        return max(self._began.values(), default=None)

    def _events(self) -> list[dict[str, Any]]:
        """What the browser did since this was asked last; nothing of a browser that is gone."""
        try:
            entries = cast("Any", self._driver).get_log("performance")
        except _errors():
            return []
        return [json.loads(entry["message"])["message"] for entry in entries]

    def close(self) -> bool:
        """See `Tab.close`."""
        _allow(self._driver, browsing.CLOSE_S)
        try:
            for handle in self._driver.window_handles:
                if handle != self._first:
                    self._driver.switch_to.window(handle)
                    self._driver.close()
        except _errors():
            return False
        return True


def _find_chromedriver() -> str:
    found = shutil.which("chromedriver")
    if not found:
        raise ConfigError("no chromedriver is on the PATH; run: apt-get install chromium-driver")
    return found


def _allow(driver: Chrome, seconds: float) -> None:
    """Give the next commands so many seconds each."""
    cast("Any", driver.command_executor).client_config.timeout = seconds


def _errors() -> tuple[type[Exception], ...]:
    from selenium.common.exceptions import WebDriverException
    from urllib3.exceptions import HTTPError

    return (WebDriverException, HTTPError, OSError)


def _is_late(error: BaseException) -> bool:
    from selenium.common.exceptions import TimeoutException
    from urllib3.exceptions import TimeoutError as ConnectionTimeout

    return isinstance(error, TimeoutException | ConnectionTimeout | TimeoutError)


def _message(error: BaseException) -> str:
    """What happened, without the driver's stack."""
    return str(getattr(error, "msg", None) or error)
