"""What /openapi.json says, whole: whoever reads only it can use the service."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from llm_twin import Twin
from llm_twin.core.records import Answer, Hit
from llm_twin.server import schemas
from llm_twin.server.app import create_app


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with Twin.init(tmp_path_factory.mktemp("described"), author="Test Author") as twin:
        return create_app(twin).openapi()


def operations(described: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_endpoint_says_what_it_is_for_and_where_it_belongs(described: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in described["tags"]}
    for name, operation in operations(described):
        assert operation.get("description"), f"{name} has no description"
        assert set(operation["tags"]) <= tags, f"{name} has a tag nobody describes: {operation['tags']}"


def test_every_reply_has_a_schema_and_an_example(described: dict[str, Any]) -> None:
    for name, operation in operations(described):
        for status, response in operation["responses"].items():
            if status == "204":
                continue
            assert response.get("content"), f"{name} {status} has no content"
            for media_type, content in response["content"].items():
                assert "example" in content or "examples" in content, f"{name} {status} {media_type} has no example"
                assert content.keys() & {"schema", "itemSchema"}, f"{name} {status} {media_type} has no schema"


def test_every_endpoint_of_the_api_describes_its_errors_as_problems(described: dict[str, Any]) -> None:
    for name, operation in operations(described):
        path = name.partition(" ")[2]
        if not path.startswith("/v1/") or path.startswith(("/v1/chat", "/v1/models")):  # those speak OpenAI's way
            continue
        errors = {status: reply for status, reply in operation["responses"].items() if status >= "400"}
        assert errors.keys() >= {"401", "403", "422", "429", "500"}, f"{name} misses some of {sorted(errors)}"
        for status, reply in errors.items():
            (media_type,) = reply["content"]
            assert media_type == "application/problem+json", f"{name} {status}"
            assert reply["content"][media_type]["example"]["status"] == int(status), f"{name} {status}"


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                assert reference.rpartition("/")[2] in described["components"]["schemas"], reference
            for each in node.values():
                check(each)
        elif isinstance(node, list):
            for each in node:
                check(each)

    check(described["paths"])
    check(described["components"])


def test_examples_of_replies_are_replies(described: dict[str, Any]) -> None:
    from llm_twin.server import examples

    for kind, example in {
        schemas.AnswerReply: examples.ANSWER,
        schemas.DocumentsReply: examples.DOCUMENTS,
        schemas.DocumentReply: examples.DOCUMENT,
        schemas.StatusReply: examples.STATUS,
        schemas.JobReply: examples.JOB,
        schemas.BatchReply: examples.BATCH,
    }.items():
        TypeAdapter(kind).validate_python(example)
        names = set(kind.__dataclass_fields__)
        assert set(example) <= names, f"{kind.__name__} has no {set(example) - names}"
    TypeAdapter(list[schemas.HitReply]).validate_python(examples.HITS)


def test_what_is_described_has_the_fields_of_the_records() -> None:
    assert set(Answer.__dataclass_fields__) < set(schemas.AnswerReply.__dataclass_fields__)
    assert "document" in Hit.__dataclass_fields__, "a hit is flattened on its way out"
    assert set(schemas.HitReply.__dataclass_fields__) >= {"document_id", "text", "start", "end", "score"}
