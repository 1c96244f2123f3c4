"""`twin keys` as a person meets it: a key is shown once, listed without its secret, and revoked by id or name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm_twin import Twin


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Twin.init(tmp_path, author="You").close()
    return tmp_path


def keys(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_twin", "-C", str(home), "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_new_key_stands_alone_on_stdout_and_what_it_is_on_stderr(home: Path) -> None:
    done = keys(home, "add", "laptop", "--scope", "read", "--expires", "90d")
    assert done.returncode == 0
    assert re.fullmatch(r"twin_[0-9a-f]{8}_[\w-]{43}\n", done.stdout)
    assert re.search(
        r"key [0-9a-f]{8} for laptop, scope read, until \d{4}-\d\d-\d\d .* it is not shown again", done.stderr
    )
    with Twin.open(home) as twin:
        (key,) = twin.keys.all()
        assert twin.keys.recognise(done.stdout.strip(), now=datetime.now(UTC)) == key
        assert abs(key.expires_at - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)


def test_keys_are_listed_without_their_secrets_and_revoked_by_name_or_id(home: Path) -> None:
    assert "no keys: the service listens on this machine only" in keys(home, "list").stderr
    made = [json.loads(keys(home, "add", name, "--json").stdout) for name in ("laptop", "laptop", "phone")]
    assert {(each["scope"], each["expires_at"]) for each in made} == {("ask", None)}
    listed = keys(home, "list").stdout
    assert re.findall(r"^([0-9a-f]{8})  ask    (\w+)  for ever$", listed, re.MULTILINE) == [
        (each["id"], each["name"]) for each in reversed(made)
    ]
    shown = listed + keys(home, "list", "--json").stdout
    assert not [each for each in made if each["key"].split("_", 2)[2] in shown]
    assert json.loads(keys(home, "list", "--json").stdout)[0].keys() == {
        "id",
        "name",
        "scope",
        "created_at",
        "expires_at",
    }
    both = keys(home, "revoke", "laptop")
    assert (both.stdout.count("revoked "), both.stderr) == (2, "")
    last = keys(home, "revoke", made[2]["id"])
    assert last.stdout == f"revoked {made[2]['id']}, phone\n"
    assert "no key is left: a service without keys answers its own machine only" in last.stderr
    gone = keys(home, "revoke", "laptop")
    assert (gone.returncode, gone.stdout) == (9, "")
    assert "there is no key 'laptop'; `twin keys list` shows their ids and names" in gone.stderr


def test_an_expired_key_is_marked_in_the_list(home: Path) -> None:
    with Twin.open(home) as twin:
        twin.keys.add("guest", scope="read", now=datetime.now(UTC) - timedelta(days=2), lasts=timedelta(days=1))
    assert re.search(r"guest  until .* UTC, expired$", keys(home, "list").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "laptop", "--expires", "soon"), "'soon' is no time; write hours, days or weeks as in 12h, 90d or 8w"),
        (("add", "laptop", "--expires", "-1d"), "'-1d' is no time"),
        (("add", "laptop", "--expires", "٣d"), "'٣d' is no time"),
        (("add", "laptop", "--expires", "0d"), "could never be used"),
        (("add", "laptop", "--scope", "root"), "'root' is not one of 'read', 'ask', 'admin'"),
        (("add", " "), "a key needs a name"),
        (("add", "a\nb"), "has characters that cannot be shown"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_and_none_is_made(
    home: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = keys(home, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    with Twin.open(home) as twin:
        assert twin.keys.all() == []
