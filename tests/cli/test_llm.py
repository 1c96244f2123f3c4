from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub_stand_in import HubStandIn
from llm_twin.cli import twin
from llm_twin.core.errors import ConfigError

STAND_IN = Path(__file__).parents[1] / "server_stand_in.py"


@pytest.fixture
def run() -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(twin, ["llm", *arguments])

    return run


@pytest.fixture
def programs(tmp_path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    script = folder / "llama-server"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


@pytest.fixture
def start(programs) -> Iterator[Callable[..., subprocess.Popen]]:
    started: list[subprocess.Popen] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "llm_twin", "llm", "serve", *arguments, "--port", "0"]
        environment = {**os.environ, "PATH": str(programs), **environment}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen, count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_serving_prints_where_it_is_and_the_lines_that_connect_a_workspace(start, gguf) -> None:
    process = start(str(gguf), "--name", "small")
    first, *settings = lines(process, 3)
    base_url = first.split()[2]
    assert first == f"small at {base_url} (llama.cpp)"
    assert settings == [f"export TWIN_LLM_BASE_URL={base_url}", "export TWIN_LLM_MODEL=small"]
    assert json.load(urllib.request.urlopen(f"{base_url}/models"))["data"] == [{"id": "small"}]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == [f"loading {gguf}", "listening", "stopped"]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{base_url}/models")


def test_a_program_that_starts_it_reads_json(start, gguf) -> None:
    process = start(str(gguf), "--json")
    told = json.loads("".join(lines(process, 5)))
    assert (told["model"], told["engine"]) == ("tiny", "llama.cpp")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_a_key_is_named_and_never_shown(start, gguf) -> None:
    process = start(str(gguf), "--api-key-env", "MY_KEY", MY_KEY="s3cret")
    shown = lines(process, 4)
    assert shown[3] == "export TWIN_LLM_API_KEY_ENV=MY_KEY"
    base_url = shown[0].split()[2]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{base_url}/models")
    request = urllib.request.Request(f"{base_url}/models", headers={"Authorization": "Bearer s3cret"})
    assert "s3cret" not in urllib.request.urlopen(request).read().decode()
    process.terminate()
    assert "s3cret" not in "".join([*shown, *process.communicate(timeout=30)])


def test_stopping_it_while_the_engine_loads_ends_the_engine(start, gguf, tmp_path) -> None:
    process = start(str(gguf), STAND_IN_READY_AFTER="600", STAND_IN_CHILD=str(tmp_path / "pid"))
    until = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert _gone(int((tmp_path / "pid").read_text()))


def test_an_engine_that_ends_is_an_error_with_exit_code_seven(start, gguf) -> None:
    process = start(str(gguf), STAND_IN_CRASH="out of memory")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "twin: llama-server ended with code 3; correct what its log names, and start it again. It said last:" in err
    assert err.rstrip().endswith("out of memory")
    process = start(str(gguf), STAND_IN_CRASH_AFTER="0.7")
    assert process.wait(30) == 7


def _gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_mistakes_in_arguments_are_told_before_anything_starts(run, gguf, monkeypatch) -> None:
    result = run("serve", str(gguf), "--api-key-env", "NO_SUCH_KEY")
    assert (result.exit_code, "NO_SUCH_KEY holds no API key" in result.stderr) == (2, True)
    result = run("serve", "--engine", "llama.cpp", "--", "--ctx-size", "99")
    assert (result.exit_code, "--ctx-size stands where the model does" in result.stderr) == (2, True)
    assert isinstance(run("serve", str(gguf), "--host", "0.0.0.0").exception, ConfigError)


def test_models_are_pulled_listed_and_removed_without_a_workspace(run, monkeypatch) -> None:
    files = {"a.gguf": b"GGUF" + bytes(2_000_000), "b.gguf": b"GGUF"}
    with HubStandIn({"me/tiny": files}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        pulled = run("pull", "me/tiny", "--file", "a.gguf")
    assert (pulled.exit_code, pulled.stdout) == (0, "me/tiny:a.gguf  0.00 GB  gguf\n")
    assert "a.gguf: 2,000,004 in" in pulled.stderr
    assert "next: twin llm serve me/tiny:a.gguf" in pulled.stderr
    assert run("list").stdout == "me/tiny:a.gguf  0.00 GB  gguf\n"
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["name"], listed["bytes"], listed["complete"]) == ("me/tiny:a.gguf", 2_000_004, True)
    assert run("rm", "me/tiny:a.gguf").stdout == "deleted me/tiny:a.gguf, 0.00 GB\n"
    empty = run("list")
    assert (empty.stdout, empty.stderr) == ("", "no model was downloaded; run: twin llm pull OWNER/NAME\n")
