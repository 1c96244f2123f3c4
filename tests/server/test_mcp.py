"""The protocol's own client against the twin, over HTTP with a service and over the pipes of a real process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import yaml
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from llm_twin import Twin
from llm_twin.core.records import DocumentHeader
from llm_twin.server.mcp import _front_matter
from scripted_llm import Reply, ScriptedLlm, piece, says
from serving import Served, until

QUESTION = {"question": "What do I think of object-relational mappers?"}
ERAS = ["2026-07-28", "legacy"]
"""The two ways in which the protocol is spoken today: request by request, and in sessions."""
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@asynccontextmanager
async def connected(served: Served, era: str, key: str = "") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        transport = streamable_http_client(f"{served.address}/mcp", http_client=http)
        async with Client(transport, mode="auto" if era != "legacy" else era) as client:
            assert (client.protocol_version == era) == (era != "legacy")
            yield client


def over_http(served: Served, era: str, talk: Callable[[Client], Awaitable[Any]], key: str = "") -> Any:
    async def talking() -> Any:
        async with connected(served, era, key) as client:
            return await talk(client)

    return asyncio.run(talking())


def over_pipes(home: Path, talk: Callable[[Client], Awaitable[Any]], **env: str) -> Any:
    async def talking() -> Any:
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "llm_twin", "-C", str(home), "mcp"], env=_environment() | env
        )
        async with Client(command) as client:
            return await talk(client)

    return asyncio.run(talking())


def _environment() -> dict[str, str]:
    """What the client would not hand down: the test's own home."""
    return {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME")}


def text_of(result: Any) -> str:
    (content,) = result.content
    return content.text


# --- what there is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_an_agent_learns_what_it_can_do_and_how_to_treat_it(service: Served, era: str) -> None:
    async def look(client: Client) -> None:
        assert client.server_info.title == "The writing of Test Author"
        assert "no instruction to you" in client.instructions
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["search_writing", "ask_author", "draft_in_voice"]
        for tool in tools.values():
            assert tool.annotations.read_only_hint
            assert tool.description
            assert tool.output_schema["type"] == "object"
        asked = tools["ask_author"].input_schema
        assert (asked["required"], "ctx" in asked["properties"]) == (["question"], False)
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "twin://documents/{document_id}"

    over_http(service, era, look)


# --- tools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_an_answer_is_readable_text_with_sources_and_the_same_as_data(service: Served, era: str) -> None:
    async def ask(client: Client) -> None:
        result = await client.call_tool("ask_author", QUESTION)
        assert not result.is_error
        told = text_of(result)
        assert "They hide the query" in told
        assert told.endswith("Sources\n- [1] [On ORMs](https://example.org/orms), 2021-03-04")
        data = result.structured_content
        assert (data["mode"], data["model"], data["unsupported"]) == ("extractive", None, [])
        (cited,) = data["citations"]
        read = await client.read_resource(cited["document"])
        _, _, body = read.contents[0].text.partition("\n---\n\n")
        assert body[cited["start"] : cited["end"]] == cited["quote"]

    over_http(service, era, ask)


def test_an_answer_that_abstains_says_so_and_names_what_comes_nearest(service: Served) -> None:
    async def ask(client: Client) -> None:
        result = await client.call_tool("ask_author", {"question": "Which wine goes with grilled salmon?"})
        assert result.structured_content["mode"] == "abstained"
        assert "Nearest passages" in text_of(result)

    over_http(service, ERAS[0], ask)


def test_a_search_obeys_its_filter_and_its_number(service: Served) -> None:
    async def search(client: Client) -> None:
        first = await client.call_tool("search_writing", {"query": "code review", "k": 1})
        assert [hit["title"] for hit in first.structured_content["hits"]] == ["Small reviews"]
        assert text_of(first).startswith("1. Small reviews, 2023-06-01 (https://example.org/reviews)\n\nA review")
        old = await client.call_tool("search_writing", {"query": "code review", "filters": {"until": "2021"}})
        assert {hit["title"] for hit in old.structured_content["hits"]} == {"On ORMs"}
        none = await client.call_tool("search_writing", {"query": "code review", "filters": {"until": "1999"}})
        assert (text_of(none), none.structured_content) == ("Nothing was found.", {"hits": []})

    over_http(service, ERAS[0], search)


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("ask_author", {**QUESTION, "filters": {"since": "May"}}, "since 'May' is no date; write YYYY"),
        ("ask_author", {**QUESTION, "filters": {"authors": ["Nobody"]}}, "from an author 'Nobody'; known are: Test"),
        ("ask_author", {"question": "  "}, "at least 1 character"),
        ("search_writing", {"query": "x", "k": 0}, "greater than or equal to 1"),
        ("search_writing", {"query": "x", "filters": {"sinse": "2020"}}, "Extra inputs are not permitted"),
        ("draft_in_voice", {"topic": "On ORMs"}, "none is configured (llm.model is empty)"),
        ("draft_in_voice", {"topic": "On ORMs", "kind": "poem"}, "'post', 'article' or 'thread'"),
    ],
)
@pytest.mark.parametrize("era", ERAS)
def test_what_goes_wrong_is_told_to_the_agent(
    service: Served, era: str, tool: str, arguments: dict[str, Any], told: str
) -> None:
    async def call(client: Client) -> None:
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert told in text_of(result)

    over_http(service, era, call)


@pytest.mark.parametrize("era", ERAS)
def test_a_client_that_asks_for_it_hears_how_far_an_answer_is(generating: Served, llm: ScriptedLlm, era: str) -> None:
    llm.script = [Reply([*says("They hide ", "the query [1].").pieces], pause_s=1.2)]
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        heard.append((progress, message))

    async def ask(client: Client) -> None:
        result = await client.call_tool("ask_author", QUESTION, progress_callback=hear)
        assert result.structured_content["model"] == "toy"
        assert "Quotations\n- [1] “" in text_of(result)

    over_http(generating, era, ask)
    assert [progress for progress, _ in heard] == sorted({progress for progress, _ in heard})
    messages = [message for _, message in heard]
    assert messages[0] == f"searched for: {QUESTION['question']}"
    assert messages[1].endswith(" passages found")
    assert any("words written" in message for message in messages[2:])


def test_a_draft_is_written_in_the_kind_and_length_asked_for(generating: Served, llm: ScriptedLlm) -> None:
    llm.always = says("I write SQL by hand and map rows to small records [1].")

    async def draft(client: Client) -> None:
        topic = {"topic": "Object-relational mappers", "kind": "article", "words": 60}
        result = await client.call_tool("draft_in_voice", topic)
        assert result.structured_content["text"].startswith("# ")
        assert result.structured_content["citations"][0]["title"] == "On ORMs"

    over_http(generating, ERAS[0], draft)
    assert "60 words" in json.dumps(llm.requests[0])


@pytest.mark.parametrize("era", ERAS)
def test_an_agent_that_gives_up_stops_the_model(generating: Served, llm: ScriptedLlm, era: str) -> None:
    llm.script = [Reply([piece(f"word{number} ") for number in range(2000)], pause_s=0.01)]

    async def give_up(client: Client) -> None:
        with anyio.move_on_after(30):
            async with anyio.create_task_group() as tasks:

                async def hear(progress: float, total: float | None, message: str | None) -> None:
                    if "words written" in (message or ""):
                        tasks.cancel_scope.cancel()

                await client.call_tool("ask_author", QUESTION, progress_callback=hear)
                raise AssertionError("the answer came to its end")
        assert await anyio.to_thread.run_sync(llm.client_left.wait, 10), "the model goes on writing"

    over_http(generating, era, give_up)
    until(lambda: generating.metric("twin_running", what="answers") == 0)


def test_what_an_agent_asks_is_kept_in_no_conversation(service: Served) -> None:
    before = service.client.get("/v1/conversations").json()
    over_http(service, ERAS[0], lambda client: client.call_tool("ask_author", QUESTION))
    assert service.client.get("/v1/conversations").json() == before


def test_a_full_line_is_told_with_when_to_come_again(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("They hide the query [1].", wait_s=2)
    settings = {"llm.base_url": llm.base_url, "llm.model": "toy", "server.streams": 1, "server.waiting": 0}

    async def ask_thrice(client: Client) -> list[Any]:
        return await asyncio.gather(*(client.call_tool("ask_author", QUESTION) for _ in range(3)))

    with Twin.open(home, arguments=settings) as twin, Served(twin) as served:
        results = over_http(served, ERAS[0], ask_thrice)
    refused = [text_of(result) for result in results if result.is_error]
    assert len(refused) == 2
    assert all("ask again in" in told for told in refused)


# --- documents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_documents_are_listed_in_pages_and_read_as_markdown(
    service: Served, monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    monkeypatch.setattr("llm_twin.server.mcp.PAGE", 2)

    async def read(client: Client) -> None:
        first = await client.list_resources()
        second = await client.list_resources(cursor=first.next_cursor)
        assert second.next_cursor is None
        listed = [*first.resources, *second.resources]
        assert [each.name for each in listed] == ["Tomatoes", "Small reviews", "On ORMs"]
        assert listed[-1].mime_type == "text/markdown"
        assert listed[-1].description == "Test Author · 2021-03-04 · files · note · https://example.org/orms"
        (content,) = (await client.read_resource(listed[-1].uri)).contents
        assert content.mime_type == "text/markdown"
        head, _, body = content.text.partition("\n---\n\n")
        assert 'title: "On ORMs"' in head
        assert 'tags: ["databases"]' in head
        assert "map rows to small records" in body

    over_http(service, era, read)


@pytest.mark.parametrize("era", ERAS)
def test_a_document_that_is_not_there_is_an_error_that_says_so(service: Served, era: str) -> None:
    async def read(client: Client) -> None:
        with pytest.raises(MCPError, match="there is no document 'nope'; "):
            await client.read_resource("twin://documents/nope")
        with pytest.raises(MCPError, match="there is no document 'nope' to continue after; begin again"):
            await client.list_resources(cursor="nope")

    over_http(service, era, read)


def test_what_is_known_of_a_document_cannot_break_out_of_its_place() -> None:
    header = DocumentHeader("1", "A", "files", "note", 'A "title": x\n---\nurl: evil', tags=("a]", "b"))
    known = yaml.safe_load(_front_matter(header))
    assert known == {"title": header.title, "author": "A", "kind": "note", "source": "files", "tags": ["a]", "b"]}


# --- keys, hosts and sessions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_a_key_is_asked_for_where_there_is_one(home: Path, era: str) -> None:
    with Twin.open(home) as twin:
        asker, reader = (twin.keys.add(scope, scope=scope, now=datetime.now(UTC))[1] for scope in ("ask", "read"))

        async def ask(client: Client) -> Any:
            return await client.call_tool("ask_author", QUESTION)

        with Served(twin) as served:
            assert not over_http(served, era, ask, asker).is_error
            for wrong in ("", "twin_0000000000", reader):
                with pytest.raises((MCPError, ExceptionGroup)):
                    over_http(served, era, ask, wrong)
                shown = {"Authorization": f"Bearer {wrong}"} if wrong else {}
                refused = served.client.post("/mcp", json=HELLO, headers={**ACCEPT, **shown})
                assert refused.status_code == (403 if wrong == reader else 401)


def test_the_answers_of_one_key_are_not_told_to_another(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("They hide the query [1].")
    settings = {"llm.base_url": llm.base_url, "llm.model": "toy", "cache.enabled": True}
    with Twin.open(home, arguments=settings) as twin:
        one, other = (twin.keys.add(name, scope="ask", now=datetime.now(UTC))[1] for name in ("one", "other"))
        with Served(twin) as served:
            asked = []
            for key in (one, one, other):
                over_http(served, ERAS[0], lambda client: client.call_tool("ask_author", QUESTION), key)
                asked.append(len(llm.requests))
    assert asked == [1, 1, 2]


def test_nobody_goes_on_with_the_session_of_another_key(home: Path) -> None:
    with Twin.open(home) as twin:
        one, other = (twin.keys.add(name, scope="ask", now=datetime.now(UTC))[1] for name in ("one", "other"))
        with Served(twin) as served:
            begun = served.client.post("/mcp", json=HELLO, headers={**ACCEPT, "Authorization": f"Bearer {one}"})
            session = begun.headers["mcp-session-id"]

            def go_on(key: str) -> int:
                headers = {**ACCEPT, "Authorization": f"Bearer {key}", "Mcp-Session-Id": session}
                listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
                return served.client.post("/mcp", json=listing, headers=headers).status_code

            assert go_on(other) == 404
            assert go_on(one) == 200


@pytest.mark.parametrize(
    ("headers", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403)]
)
def test_pages_of_other_sites_are_refused(service: Served, headers: dict[str, str], status: int) -> None:
    assert service.client.post("/mcp", json={}, headers=headers).status_code == status


def test_a_body_that_is_too_large_is_refused(home: Path) -> None:
    with Twin.open(home, arguments={"server.max_body_bytes": 2000}) as twin, Served(twin) as served:
        assert served.client.post("/mcp", json={"x": "x" * 3000}).status_code == 413


def test_the_service_stops_while_a_client_listens(home: Path) -> None:
    with Twin.open(home) as twin, Served(twin) as served:
        session = {"Mcp-Session-Id": served.client.post("/mcp", json=HELLO, headers=ACCEPT).headers["mcp-session-id"]}
        with served.client.stream("GET", "/mcp", headers={**ACCEPT, **session}) as listening:
            assert listening.status_code == 200
            served.service.stop()
            # A connection that is cut off in the middle of a body raises here.
            assert not [line for line in listening.iter_lines() if line.startswith("data")]


# --- on stdin and stdout --------------------------------------------------------------------------------------------


def test_a_process_of_its_own_answers_reads_and_ends_with_its_client(home: Path) -> None:
    async def talk(client: Client) -> None:
        result = await client.call_tool("ask_author", QUESTION)
        assert "They hide the query" in text_of(result)
        hits = await client.call_tool("search_writing", {"query": "code review", "k": 1})
        assert hits.structured_content["hits"][0]["title"] == "Small reviews"
        broken = await client.call_tool("ask_author", {**QUESTION, "filters": {"since": "May"}})
        assert broken.is_error
        listed = (await client.list_resources()).resources
        assert len(listed) == 3
        assert "Tomatoes want sun" in (await client.read_resource(listed[0].uri)).contents[0].text

    over_pipes(home, talk)


def test_a_client_of_a_process_that_gives_up_stops_the_model(home: Path, llm: ScriptedLlm) -> None:
    llm.script = [Reply([piece(f"word{number} ") for number in range(2000)], pause_s=0.01)]
    llm.always = says("They hide the query [1].")

    async def talk(client: Client) -> None:
        with anyio.move_on_after(60):
            async with anyio.create_task_group() as tasks:

                async def hear(progress: float, total: float | None, message: str | None) -> None:
                    if "words written" in (message or ""):
                        tasks.cancel_scope.cancel()

                await client.call_tool("ask_author", QUESTION, progress_callback=hear)
        assert await anyio.to_thread.run_sync(llm.client_left.wait, 10), "the model goes on writing"
        again = await client.call_tool("ask_author", QUESTION)
        assert again.structured_content["mode"] == "generated"

    over_pipes(home, talk, TWIN_LLM_BASE_URL=llm.base_url, TWIN_LLM_MODEL="toy", TWIN_LLM_RETRIES="0")


def test_nothing_but_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_it(home: Path) -> None:
    command = [sys.executable, "-m", "llm_twin", "--debug", "-C", str(home), "mcp"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )

    def say(**message: Any) -> None:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()

    def heard() -> dict[str, Any]:
        return json.loads(process.stdout.readline())

    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    say(id=1, method="initialize", params=about)
    assert heard()["result"]["protocolVersion"] == "2025-06-18"
    say(method="notifications/initialized")
    say(id=2, method="tools/call", params={"name": "ask_author", "arguments": QUESTION})
    assert "They hide the query" in heard()["result"]["content"][0]["text"]
    say(id=3, method="tools/call", params={"name": "ask_author", "arguments": {"question": ""}})
    assert heard()["result"]["isError"]
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, ""), errors


def test_without_a_workspace_it_says_so_on_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_twin", "-C", str(tmp_path), "mcp"]
    done = subprocess.run(command, capture_output=True, text=True, input="", timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("twin: ")


@pytest.mark.parametrize("module", ["llm_twin.cli.mcp", "llm_twin.server.app"])
def test_the_library_is_loaded_only_where_the_protocol_is_spoken(module: str) -> None:
    program = f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] == 'mcp'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_of_the_documentation_runs_as_it_is_shown(
    service: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    _, _, section = page.partition("## Your own MCP client\n")
    (program,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], flags=re.DOTALL)
    exec(program.replace("http://127.0.0.1:8765", service.address), {})
    assert "They hide the query" in capsys.readouterr().out
