from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from llm_twin.core.child import Child, free_port
from llm_twin.core.errors import ConfigError, ModelError

STAND_IN = Path(__file__).parents[1] / "server_stand_in.py"


@pytest.fixture
def port() -> int:
    return free_port("127.0.0.1")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def start(port: int, log: list[str]) -> Iterator:
    started: list[Child] = []

    def begin(**environment: str) -> Child:
        command = [sys.executable, str(STAND_IN), "--port", str(port)]
        started.append(Child(command, environment=environment, log=log.append))
        return started[-1]

    yield begin
    for child in started:
        child.close(grace_s=0.1)


def _alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] if Path("/proc").is_dir() else True
    return False


def _gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not _alive(pid)


def _health(port: int) -> str:
    return f"http://127.0.0.1:{port}/health"


def test_a_program_that_is_slow_to_load_is_waited_for_and_its_log_is_passed_on(start, port, log) -> None:
    started = time.monotonic()
    start(STAND_IN_READY_AFTER="0.6").wait_until_ready(_health(port), timeout_s=30)
    assert time.monotonic() - started >= 0.6
    assert urllib.request.urlopen(_health(port)).status == 200
    assert log[-1] == "listening"


def test_a_program_that_ends_at_start_is_an_error_with_its_last_words(start, port) -> None:
    child = start(STAND_IN_CRASH="tensor 'blk.0.attn_q' is missing")
    with pytest.raises(ModelError, match=r"ended with code 3; .*\n(.*\n)*tensor 'blk.0.attn_q' is missing"):
        child.wait_until_ready(_health(port), timeout_s=30)


def test_a_program_that_is_never_ready_is_an_error_that_names_the_seconds(start, port) -> None:
    with pytest.raises(ModelError, match=r"was not ready within 0\.7 s; allow more with --timeout"):
        start(STAND_IN_READY_AFTER="60").wait_until_ready(_health(port), timeout_s=0.7)


def test_a_program_that_ends_later_is_noticed_by_whoever_waits(start, port) -> None:
    child = start(STAND_IN_CRASH_AFTER="0.5")
    with pytest.raises(ModelError, match="ended with code 4"):
        child.wait()


def test_a_program_killed_from_outside_is_told_by_the_name_of_the_signal(start, port) -> None:
    child = start()
    child.wait_until_ready(_health(port), timeout_s=30)
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="was ended by SIGKILL"):
        child.wait()


def test_closing_ends_a_program_that_ignores_the_request_and_the_processes_it_started(start, port, tmp_path) -> None:
    child = start(STAND_IN_DEAF="1", STAND_IN_CHILD=str(tmp_path / "pid"))
    child.wait_until_ready(_health(port), timeout_s=30)
    grandchild = int((tmp_path / "pid").read_text())
    assert _alive(grandchild)
    child.close(grace_s=0.3)
    child.close()
    assert not child.running()
    assert _gone(grandchild)


def test_a_program_that_obeys_is_closed_at_once(start, port) -> None:
    child = start()
    child.wait_until_ready(_health(port), timeout_s=30)
    started = time.monotonic()
    child.close(grace_s=60)
    assert time.monotonic() - started < 30


def test_a_command_that_is_no_program_says_so() -> None:
    with pytest.raises(ModelError, match="/no/such/server"):
        Child(["/no/such/server"], environment={}, log=print).wait_until_ready("http://127.0.0.1:9", timeout_s=5)


@pytest.mark.skipif(not Path("/usr/bin/setpriv").exists(), reason="needs Linux with setpriv of util-linux")
def test_a_program_ends_with_this_process_even_when_that_is_killed(port, tmp_path) -> None:
    program = (
        "import sys, os, signal; from llm_twin.core.child import Child\n"
        f"child = Child([sys.executable, {str(STAND_IN)!r}, '--port', '{port}'], environment={{}}, log=print)\n"
        f"child.wait_until_ready('{_health(port)}', timeout_s=30)\n"
        "print('pid', child._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert _gone(int(done.stdout.split("pid ")[1]))


def test_a_free_port_is_found_and_a_taken_one_refused() -> None:
    assert 0 < free_port("127.0.0.1") < 65536
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {number}: .*; choose another port"):
            free_port("127.0.0.1", number)
    assert free_port("127.0.0.1", number) == number
