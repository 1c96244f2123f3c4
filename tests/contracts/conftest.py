"""The stores under contract: every implementation, fresh for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from llm_twin.adapters.memory import MemoryTraces, MemoryWarehouse
from llm_twin.adapters.sql import SqlTraces, SqlWarehouse

DATABASES = ["sqlite", "postgres"]
# Read here, because the suite takes every TWIN_ variable out of a test's environment.
MONGODB_SERVERS = {
    "mongodb_server": os.environ.get("TWIN_TEST_MONGODB_URL"),
    "mongodb_single_server": os.environ.get("TWIN_TEST_MONGODB_SINGLE_URL"),
}
MONGODB = [
    "mongodb",
    "mongodb_replica_set",
    *(
        pytest.param(
            name,
            marks=[
                pytest.mark.service,
                pytest.mark.skipif(
                    not url,
                    reason=f"NOT RUN ON A REAL MONGODB: set TWIN_TEST_MONGODB{variable}_URL to the URL of {what}",
                ),
            ],
        )
        for (name, url), variable, what in zip(
            MONGODB_SERVERS.items(), ("", "_SINGLE"), ("a replica set", "a server that is in none"), strict=True
        )
    ),
]


def database_url(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "postgres":
        return request.getfixturevalue("postgres_database")
    return f"sqlite:///{request.getfixturevalue('tmp_path')}/twin.db"


@contextmanager
def mongodb_database(kind: str) -> Iterator[str]:
    """The URL of an empty database: on the server named by the environment, or on a stand-in for one."""
    pytest.importorskip("pymongo", reason="needs the extra llm-twin[mongodb]")
    name = f"twin_test_{uuid.uuid4().hex[:12]}"
    if server := MONGODB_SERVERS.get(kind):
        import pymongo

        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        with pymongo.MongoClient(server) as client:
            client.drop_database(name)
        return
    from mongo_stand_in import StandIn

    stand_in = StandIn(replica_set=kind == "mongodb_replica_set")
    yield stand_in.url(name)
    stand_in.close()


@pytest.fixture(params=["memory", *DATABASES, *MONGODB])
def warehouse(request: pytest.FixtureRequest):
    if request.param.startswith("mongodb"):
        with mongodb_database(request.param) as url:
            from llm_twin.adapters.mongodb import MongoWarehouse

            made = MongoWarehouse(url)
            yield made
            made.close()
        return
    made = MemoryWarehouse() if request.param == "memory" else SqlWarehouse(database_url(request.param, request))
    yield made
    made.close()


@pytest.fixture(params=["memory", *DATABASES])
def traces(request: pytest.FixtureRequest):
    made = MemoryTraces() if request.param == "memory" else SqlTraces(database_url(request.param, request))
    yield made
    made.close()
