"""The stores under contract: every implementation, fresh for each test."""

from __future__ import annotations

import pytest

from llm_twin.adapters.memory import MemoryTraces, MemoryWarehouse
from llm_twin.adapters.sql import SqlTraces, SqlWarehouse

DATABASES = ["sqlite", "postgres"]


def database_url(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "postgres":
        return request.getfixturevalue("postgres_database")
    return f"sqlite:///{request.getfixturevalue('tmp_path')}/twin.db"


@pytest.fixture(params=["memory", *DATABASES])
def warehouse(request: pytest.FixtureRequest):
    made = MemoryWarehouse() if request.param == "memory" else SqlWarehouse(database_url(request.param, request))
    yield made
    made.close()


@pytest.fixture(params=["memory", *DATABASES])
def traces(request: pytest.FixtureRequest):
    made = MemoryTraces() if request.param == "memory" else SqlTraces(database_url(request.param, request))
    yield made
    made.close()
