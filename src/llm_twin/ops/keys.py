"""API keys of the service: made, listed, revoked and recognised; only hashes are stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llm_twin.core.errors import ConfigError, NotFound
from llm_twin.core.ports import RecordStore

COLLECTION = "keys"
PREFIX = "twin_"

SCOPES: Mapping[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "ask": frozenset({"read", "ask"}),
    "admin": frozenset({"read", "ask", "admin"}),
}
"""What each scope allows; a wider one includes the narrower."""

_ID_CHARACTERS = 8  # hex: tells keys apart in lists and logs, and finds the stored hash
_SECRET_BYTES = 32  # 256 random bits: no dictionary helps, so a plain fast hash is as good at rest as a slow one


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: who it is for, what it allows, until when; never the secret itself."""

    id: str
    name: str
    scope: str
    created_at: datetime
    expires_at: datetime | None = None

    @property
    def scopes(self) -> frozenset[str]:
        """Everything the key allows."""
        return SCOPES[self.scope]

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at


class ApiKeys:
    """The keys of one warehouse; every process that opens it knows them."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store

    def add(self, name: str, *, scope: str, now: datetime, lasts: timedelta | None = None) -> tuple[ApiKey, str]:
        """Make a key and return it with its secret, which is stored nowhere and cannot be shown again.

        Raises `ConfigError` for an unknown scope, a name that is empty or no line of text, or a time that is over.
        """
        if scope not in SCOPES:
            raise ConfigError(f"there is no scope {scope!r}; use one of {', '.join(SCOPES)}")
        if not name.strip():
            raise ConfigError("a key needs a name, so that you know later which one to revoke; got an empty one")
        if not name.isprintable():
            raise ConfigError(f"the name {name!r} has characters that cannot be shown; use a single line of text")
        if lasts is not None and lasts <= timedelta(0):
            raise ConfigError(f"a key that lasts {lasts} could never be used; give it a time above zero")
        key_id = secrets.token_hex(_ID_CHARACTERS // 2)
        secret = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(key_id, name.strip(), scope, now, now + lasts if lasts is not None else None)
        self._store.put(COLLECTION, key_id, {**_to_stored(key), "hash": _hash(secret)})
        return key, secret

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, newest first, expired ones included."""
        return [_from_stored(key_id, data) for key_id, data in self._store.records(COLLECTION)]

    def revoke(self, named: str) -> list[ApiKey]:
        """Delete the key of that id, or all keys of that name. Raises `NotFound`."""
        revoked = [key for key in self.all() if named in (key.id, key.name)]
        if not revoked:
            raise NotFound(f"there is no key {named!r}; `twin keys list` shows their ids and names")
        self._store.drop(COLLECTION, [key.id for key in revoked])
        return revoked

    def recognise(self, secret: str, *, now: datetime) -> ApiKey | None:
        """The key behind a secret, or None when there is none, it was revoked, or it has expired."""
        shape = re.fullmatch(rf"{PREFIX}([0-9a-f]{{{_ID_CHARACTERS}}})_[\w-]+", secret, re.ASCII)
        data = self._store.record(COLLECTION, shape[1]) if shape else None
        # Compared even where there is no such key, so that the time tells nobody which ids exist.
        right = hmac.compare_digest(_hash(secret), data["hash"] if data else _hash(""))
        if not shape or data is None or not right:
            return None
        key = _from_stored(shape[1], data)
        return None if key.expired(now) else key


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _to_stored(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "scope": key.scope,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }


def _from_stored(key_id: str, data: Mapping[str, Any]) -> ApiKey:
    expires_at = data["expires_at"]
    return ApiKey(
        key_id,
        data["name"],
        data["scope"],
        datetime.fromisoformat(data["created_at"]),
        datetime.fromisoformat(expires_at) if expires_at else None,
    )
