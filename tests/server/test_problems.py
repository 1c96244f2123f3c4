"""What a person with curl is told who forgot something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_twin import Twin
from serving import Served

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def service(synced: Path) -> Iterator[Served]:
    with Twin.open(synced) as twin, Served(twin) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        ('{"question": "x"}', {}, "body is not valid: it was not sent as JSON; add the header `Content-Type: applicat"),
        ("{question}", JSON, "body is not valid: it is no JSON: Expecting property name enclosed in double quotes, at"),
        ('{"question": "x", "filters": {"sinc": "2021"}}', JSON, "body.filters.sinc is not valid: there is no such fi"),
    ],
)
def test_a_request_that_is_not_valid_hears_what_to_change(
    service: Served, body: str, headers: dict[str, str], told: str
) -> None:
    reply = service.client.post("/v1/ask", content=body, headers=headers)
    assert reply.status_code == 422
    assert told in reply.json()["detail"]
    assert reply.json()["errors"][0]["at"] in told


def test_words_that_are_no_date_hear_how_dates_are_written(service: Served) -> None:
    reply = service.client.post("/v1/ask", json={"question": "x", "filters": {"since": "the day before yesterday"}})
    assert reply.status_code == 400
    assert "'the day before yesterday' is no date; write YYYY, YYYY-MM or YYYY-MM-DD" in reply.json()["detail"]


def test_an_address_or_a_method_that_does_not_exist_is_named(service: Served) -> None:
    nothing = service.client.get("/v1/nothing").json()["detail"]
    assert nothing == "there is nothing at /v1/nothing; /openapi.json lists what there is"
    assert service.client.get("/v1/ask").json()["detail"] == "/v1/ask takes no GET; use POST"
