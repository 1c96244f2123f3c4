"""A server program as a child process: started, waited for, its log passed on, ended for sure.

Whatever serves a language model (`adapters/vllm.py`, `adapters/llama_cpp.py`, `adapters/openvino_genai.py`) differs in
its command line only; the rest of its life is here.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from llm_twin.core.errors import ConfigError, ModelError

GRACE_S = 10.0
"""Seconds a program may take to end after it was asked to, before it is killed."""
LAST_LINES = 15
"""Lines of a program's log that an error about it shows."""
_POLL_S = 0.1


class Child:
    """One running program, with everything that it starts in turn. Close it, or use `with`.

    `log` is called with every line it prints, from a thread. On Linux the program also ends when this process is
    killed, provided that it was started from the main thread.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Callable[[str], None]) -> None:
        self.name = Path(command[0]).name
        self._closed = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        try:
            # A session of its own: Ctrl-C in the terminal reaches us alone, and a signal from us all of its processes.
            self._process = subprocess.Popen(  # noqa: S603 - the engine's own command line, no shell
                [*_tied_to_this_process(), *command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise ModelError(f"{command[0]} cannot be started: {error.strerror}; check that it is a program") from error
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout, log), daemon=True)
        self._reader.start()
        atexit.register(self.close)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_ready(self, url: str, *, timeout_s: float) -> None:
        """Return once `url` answers with 200. Raises `ModelError` when the program ends first or takes too long."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise self.ended()
            with suppress(OSError, ValueError), opener.open(url, timeout=2.0) as reply:
                if reply.status == 200 and self._process.poll() is None:
                    return
            time.sleep(_POLL_S)
        raise ModelError(
            f"{self.name} was not ready within {timeout_s:g} s; allow more with --timeout, or take a smaller model"
            f"{self._said()}"
        )

    def wait(self) -> None:
        """Return never; raises `ModelError` when the program ends by itself."""
        while self._process.poll() is None:
            time.sleep(_POLL_S)
        raise self.ended()

    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._process.poll() is None

    def ended(self) -> ModelError:
        """What there is to say about a program that ended by itself."""
        self._reader.join(timeout=2.0)
        code = self._process.poll()
        how = (
            f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
        )
        return ModelError(f"{self.name} {how}; correct what its log names, and start it again{self._said()}")

    def close(self, *, grace_s: float = GRACE_S) -> None:
        """End the program and whatever it started: ask first, then kill. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        finally:
            # The leader may be gone while a process of its group lives on; a second Ctrl-C must not spare it either.
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._reader.join(timeout=2.0)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only zombies are left
            os.killpg(self._process.pid, number)

    def _read(self, output: IO[str], log: Callable[[str], None]) -> None:
        with output:
            for line in output:
                self._last.append(line.rstrip())
                log(line.rstrip("\n"))

    def _said(self) -> str:
        said = "\n".join(line for line in self._last if line)
        return f". It said last:\n{said}" if said else ". It said nothing."


def free_port(host: str, port: int = 0) -> int:
    """The port, checked to be free, or any free one for 0. Raises `ConfigError` where we cannot listen.

    Another program may take it before ours does; then that one fails to start and says so.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {host} port {port}: {error.strerror}; choose another port, or --port 0 for any"
        ) from error


def _tied_to_this_process() -> list[str]:
    """What stands before a command so that the kernel ends it when we are killed and can close nothing any more.

    The kernel goes by the thread that started a program, so from a passing thread it would come too early.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "TERM", "--"]
