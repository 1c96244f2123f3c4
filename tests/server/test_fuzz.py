"""Every endpoint against inputs made from its own description: no 500, and nothing that was not described.

About fifteen inputs an endpoint, the same at every run; `EXPLORE=1` makes it hundreds, and others each time.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llm_twin.server.security import needed
from llm_twin.twin import Twin
from serving import Served

EXAMPLES = 300 if os.environ.get("EXPLORE") else 15


@schemathesis.serializer("application/jsonl")
def _as_it_is(_: schemathesis.SerializationContext, lines: Any) -> bytes:
    return str(lines).encode("utf-8", "surrogatepass")


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


# The service runs in this process, and draws random numbers while Hypothesis watches whether a strategy does.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_no_input_makes_an_endpoint_fail(service: Served) -> None:
    described = schemathesis.openapi.from_dict(service.client.get("/openapi.json").json())
    tried = []
    for found in described.get_all_operations():
        operation = found.ok()
        tried.append(operation.label)

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            case.call_and_validate(base_url=service.address, checks=CHECKS)

        holds()
    assert {"POST /v1/ask", "GET /v1/documents/{document_id}", "POST /v1/sync"} <= set(tried)


def test_every_endpoint_but_the_public_ones_asks_for_the_key_there_is(home: Path) -> None:
    with Twin.open(home) as twin:
        twin.keys.add("somebody", scope="admin", now=datetime.now(UTC))
        with Served(twin) as served:
            for path, methods in served.client.get("/openapi.json").json()["paths"].items():
                for method in methods:
                    expected = {401} if needed(method.upper(), path) != "public" else {200, 503}
                    assert served.client.request(method, path).status_code in expected, (method, path)
