from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.core.errors import ConfigError, NotFound
from llm_twin.ops.keys import ApiKeys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def keys() -> ApiKeys:
    return ApiKeys(MemoryWarehouse())


def test_a_secret_is_recognised_as_the_key_it_was_made_for(keys: ApiKeys) -> None:
    laptop, secret = keys.add("laptop", scope="ask", now=NOW)
    keys.add("phone", scope="read", now=NOW)
    assert keys.recognise(secret, now=NOW) == laptop
    assert laptop.scopes == {"read", "ask"}


def test_what_is_stored_does_not_hold_the_secret() -> None:
    store = MemoryWarehouse()
    key, secret = ApiKeys(store).add("laptop", scope="admin", now=NOW)
    stored = store.record("keys", key.id)
    assert stored is not None
    assert secret not in str(stored)
    assert secret.split("_", 2)[2] not in str(stored)


def test_a_key_works_until_it_expires_and_not_a_moment_longer(keys: ApiKeys) -> None:
    key, secret = keys.add("guest", scope="read", now=NOW, lasts=timedelta(hours=12))
    assert keys.recognise(secret, now=NOW + timedelta(hours=12, microseconds=-1)) == key
    assert keys.recognise(secret, now=NOW + timedelta(hours=12)) is None
    assert keys.all() == [key]


def test_a_revoked_key_is_no_longer_recognised(keys: ApiKeys) -> None:
    key, secret = keys.add("laptop", scope="ask", now=NOW)
    _, other = keys.add("phone", scope="ask", now=NOW)
    assert keys.revoke(key.id) == [key]
    assert keys.recognise(secret, now=NOW) is None
    assert keys.recognise(other, now=NOW) is not None


def test_revoking_a_name_revokes_all_its_keys(keys: ApiKeys) -> None:
    made = [keys.add("laptop", scope="ask", now=NOW)[0] for _ in range(2)]
    assert {key.id for key in keys.revoke("laptop")} == {key.id for key in made}
    with pytest.raises(NotFound, match=r"no key 'laptop'; `twin keys list`"):
        keys.revoke("laptop")


@given(st.text(max_size=80))
def test_no_text_but_the_secret_is_recognised(text: str) -> None:
    keys = ApiKeys(MemoryWarehouse())
    key, secret = keys.add("laptop", scope="ask", now=NOW)
    for guess in (text, f"twin_{key.id}_{text}", secret + text if text else "", secret[:-1], secret.upper()):
        assert keys.recognise(guess, now=NOW) is None


@pytest.mark.parametrize(
    ("name", "scope", "lasts", "told"),
    [
        ("laptop", "root", None, "there is no scope 'root'; use one of read, ask, admin"),
        ("  ", "ask", None, "needs a name"),
        ("laptop", "ask", timedelta(0), "could never be used"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    keys: ApiKeys, name: str, scope: str, lasts: timedelta | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        keys.add(name, scope=scope, now=NOW, lasts=lasts)
    assert keys.all() == []
