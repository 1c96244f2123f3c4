"""The suite's own walls: no home, no settings and no network from outside."""

from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path

import pytest


def test_home_and_settings_of_the_person_who_runs_the_suite_are_out_of_reach():
    assert Path.home().name.startswith("home")
    assert list(Path.home().iterdir()) == []
    assert [name for name in os.environ if name.startswith("TWIN_")] == []


def test_a_connection_to_another_machine_fails_loudly():
    with socket.socket() as connection, pytest.raises((RuntimeError, UserWarning), match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))


def test_a_name_lookup_fails_loudly():
    with pytest.raises((RuntimeError, UserWarning), match=r"example\.com"):
        urllib.request.urlopen("http://example.com/", timeout=1)


def test_a_server_on_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
        assert socket.getaddrinfo("localhost", 80)
