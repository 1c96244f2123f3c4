from __future__ import annotations

import ast
import dataclasses
import json
import os
import socket
import stat
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import tiny_llama
from hub_stand_in import HubStandIn
from llm_twin import Twin, llm
from llm_twin.adapters.openai import OpenAiModel
from llm_twin.core.errors import ConfigError, ModelError, ModelMissing, NotFound
from llm_twin.core.records import Message, ModelFiles

STAND_IN = Path(__file__).parent / "server_stand_in.py"
GGUF = b"GGUF" + bytes(1000)


class Quiet:
    """Progress that counts what was downloaded."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            self.bytes += count

        yield advance


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()


@pytest.fixture
def hub(monkeypatch) -> Iterator[HubStandIn]:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    with HubStandIn({"me/folder": files, "me/file": {"q8.gguf": GGUF, "f16.gguf": GGUF * 2}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(programs: Path, name: str) -> None:
    """Put a program of that name on the PATH that behaves as a model server does."""
    script = programs / name
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(GGUF)
    return path


# --- models ---------------------------------------------------------------------------------------------------------


def test_a_pulled_model_is_listed_found_by_name_and_removed(hub, quiet) -> None:
    files = llm.pull("me/file", file="q8.gguf", progress=quiet)
    assert (files.name, files.format, files.bytes) == ("me/file:q8.gguf", "gguf", 1004)
    llm.pull("me/folder", progress=quiet)
    listed = {each.name: (each.format, each.bytes, each.complete) for each in llm.models()}
    assert listed == {"me/file:q8.gguf": ("gguf", 1004, True), "me/folder": ("huggingface", 9, True)}
    hub.repositories.clear()  # found here, nothing is asked
    assert llm.find("me/file:q8.gguf", progress=quiet) == files
    assert llm.find("me/file", file="q8.gguf", progress=quiet) == files
    assert llm.remove("me/file:q8.gguf").bytes == 1004
    assert [each.name for each in llm.models()] == ["me/folder"]
    with pytest.raises(NotFound, match=r"no model named 'me/file:q8\.gguf' was downloaded; there is me/folder"):
        llm.remove("me/file:q8.gguf")


def test_a_model_that_is_not_here_is_downloaded_when_it_is_named(hub, quiet) -> None:
    assert llm.find("me/folder", progress=quiet).format == "huggingface"
    assert quiet.bytes == 9


def test_a_download_that_broke_off_is_listed_as_incomplete_and_goes_on(hub, quiet, monkeypatch) -> None:
    hub.wrong.add("model.safetensors")
    with pytest.raises(ModelError, match="did not arrive as the hub has it"):
        llm.pull("me/folder", progress=quiet)
    (stored,) = llm.models()
    assert (stored.name, stored.complete, stored.format) == ("me/folder", False, None)
    with pytest.raises(ModelMissing, match="no model is named and 0 are here"):
        llm.find(progress=quiet)
    hub.wrong.clear()
    assert llm.find("me/folder", progress=quiet).format == "huggingface"
    assert hub.downloads().count("config.json") == 1


def test_pulling_again_asks_for_the_newest_revision_and_keeps_the_old_one_when_the_hub_is_away(hub, quiet) -> None:
    llm.pull("me/folder", progress=quiet)
    asked = len(hub.downloads())
    llm.pull("me/folder", progress=quiet)
    assert len(hub.downloads()) == asked
    hub.revision = "b" * 40
    hub.repositories["me/folder"]["config.json"] = b'{"new": 1}'
    path = Path(llm.pull("me/folder", progress=quiet).path)
    assert (path / "config.json").read_bytes() == b'{"new": 1}'
    del hub.repositories["me/folder"]
    with pytest.raises(ModelMissing):
        llm.pull("me/folder", progress=quiet)
    assert llm.models()[0].complete


def test_a_model_whose_files_were_deleted_by_hand_is_incomplete(hub, quiet) -> None:
    path = Path(llm.pull("me/folder", progress=quiet).path)
    (path / "config.json").unlink()
    assert not llm.models()[0].complete
    llm.remove("me/folder")
    assert llm.models() == []


def test_without_a_name_the_only_model_is_meant(hub, quiet) -> None:
    with pytest.raises(ModelMissing, match="no model is named and 0 are here; name a folder, a GGUF file, or download"):
        llm.find(progress=quiet)
    llm.pull("me/folder", progress=quiet)
    assert llm.find(progress=quiet).name == "me/folder"
    llm.pull("me/file", file="q8.gguf", progress=quiet)
    with pytest.raises(ModelMissing, match=r"2 are here; there is me/file:q8\.gguf, me/folder"):
        llm.find(progress=quiet)


def test_names_that_are_none_are_refused(hub, quiet) -> None:
    with pytest.raises(ConfigError, match="'tiny' is no model of the hub; write OWNER/NAME"):
        llm.pull("tiny", progress=quiet)
    with pytest.raises(ModelMissing, match="there is no model 'tiny': no such file or folder"):
        llm.find("tiny", progress=quiet)
    with pytest.raises(ConfigError, match="several GGUF files; name one, as in me/file:q8"):
        llm.find("me/file", progress=quiet)


def test_what_a_path_holds_is_seen_from_its_files(gguf, tmp_path, quiet) -> None:
    assert llm.find(str(gguf), progress=quiet) == ModelFiles("tiny", str(gguf), "gguf", 1004)
    hugging = tiny_llama.write_folder(tmp_path / "hugging")
    assert llm.describe(hugging).format == "huggingface"
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "openvino_model.xml").write_text("<net/>")
    assert llm.describe(tmp_path / "ir") == ModelFiles("ir", str(tmp_path / "ir"), "openvino", 6)
    (tmp_path / "split").mkdir()
    for part in (1, 2, 3):
        (tmp_path / "split" / f"big-0000{part}-of-00003.gguf").write_bytes(GGUF)
    first = tmp_path / "split" / "big-00001-of-00003.gguf"
    assert llm.describe(tmp_path / "split") == ModelFiles("big-00001-of-00003", str(first), "gguf", 3012)


def test_what_is_no_model_says_so(tmp_path, gguf) -> None:
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        (tmp_path / "two" / f"{name}.gguf").write_bytes(GGUF)
    with pytest.raises(ConfigError, match=r"two holds 2 GGUF files; name one of them, such as .*a\.gguf"):
        llm.describe(tmp_path / "two")
    (tmp_path / "notes.txt").write_text("GGU")
    with pytest.raises(ConfigError, match=r"notes\.txt is no GGUF file; name one"):
        llm.describe(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty holds no model"):
        llm.describe(tmp_path / "empty")


# --- engines --------------------------------------------------------------------------------------------------------


def files(kind: str) -> ModelFiles:
    return ModelFiles("tiny", f"/models/tiny.{kind}", kind)  # type: ignore[arg-type]


def test_the_best_engine_that_is_here_is_chosen(programs, monkeypatch) -> None:
    install(programs, "llama-server")
    install(programs, "vllm")
    assert llm.choose(files("gguf")).name == "llama.cpp"
    assert llm.choose(files("huggingface")).name == "vllm"
    assert [each.name for each in llm._engines()] == ["llama.cpp", "openvino", "vllm"]
    monkeypatch.setattr(llm, "_has_gpu", lambda: True)
    assert [each.name for each in llm._engines()] == ["vllm", "llama.cpp", "openvino"]


def test_an_engine_that_is_not_here_says_what_to_install(programs) -> None:
    with pytest.raises(
        ModelMissing, match=r"\(huggingface\) needs vllm, which is not here; install vLLM .*pip install"
    ):
        llm.choose(files("huggingface"))
    with pytest.raises(ModelMissing, match=r"needs llama\.cpp, which is not here; install llama.cpp"):
        llm.choose(files("gguf"), engine="llama.cpp")


def test_an_engine_is_not_given_what_it_cannot_read(programs) -> None:
    install(programs, "llama-server")
    with pytest.raises(ConfigError, match=r"is of the format huggingface; .* files for llama\.cpp \(gguf\)"):
        llm.choose(files("huggingface"), engine="llama.cpp")
    with pytest.raises(ConfigError, match=r"there is no llm engine named 'ollama'"):
        llm.choose(files("gguf"), engine="ollama")


def test_options_of_an_engine_need_its_name(programs) -> None:
    install(programs, "llama-server")
    with pytest.raises(ConfigError, match="the options --ctx-size 8192 belong to one engine; name it with --engine"):
        llm.choose(files("gguf"), options=("--ctx-size", "8192"))


# --- the service ----------------------------------------------------------------------------------------------------


def told(service: llm.Service, key: str = "") -> dict:
    request = urllib.request.Request(f"{service.base_url}/models", headers={"Authorization": f"Bearer {key}"})
    return json.load(urllib.request.urlopen(request))


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def serve(programs, quiet, log) -> Callable[..., llm.Service]:
    def begin(model: str | Path, **how) -> llm.Service:
        return llm.serve(str(model), progress=quiet, log=log.append, **how)

    return begin


def test_llama_server_serves_a_gguf_file_once_it_is_ready(serve, programs, gguf, log, monkeypatch) -> None:
    install(programs, "llama-server")
    monkeypatch.setenv("STAND_IN_READY_AFTER", "0.5")
    with serve(gguf, name="small", engine="llama.cpp", options=("--ctx-size", "99")) as service:
        assert service.settings == {"llm.base_url": service.base_url, "llm.model": "small"}
        assert service.engine == "llama.cpp"
        argv = told(service)["argv"]
        assert argv[:2] == ["-m", str(gguf)]
        assert argv[-2:] == ["--ctx-size", "99"]
        assert "--offline" in argv
        assert service.running()
    assert not service.running()
    assert log == [f"loading {gguf}", "listening"]


def test_vllm_serves_a_folder_with_the_key_in_its_environment(serve, programs, tmp_path) -> None:
    install(programs, "vllm")
    folder = tiny_llama.write_folder(tmp_path / "hugging")
    with serve(folder, api_key="s3cret", host="0.0.0.0") as service:
        assert service.base_url.startswith("http://127.0.0.1:")
        assert told(service, "s3cret")["argv"][:2] == ["serve", str(folder)]
        assert "s3cret" not in str(told(service, "s3cret")["argv"])
        with pytest.raises(urllib.error.HTTPError, match="401"):
            told(service)


def test_an_engine_that_ends_at_start_or_later_is_an_error_with_its_last_words(
    serve, programs, gguf, monkeypatch
) -> None:
    install(programs, "llama-server")
    with monkeypatch.context() as environment:
        environment.setenv("STAND_IN_CRASH", "unknown model architecture: 'tiny'")
        with pytest.raises(
            ModelError, match=r"llama-server ended with code 3; .*\n.*\nunknown model architecture: 'tiny'"
        ):
            serve(gguf)
    monkeypatch.setenv("STAND_IN_CRASH_AFTER", "0.6")
    with serve(gguf) as service, pytest.raises(ModelError, match="llama-server ended with code 4"):
        service.wait()


def test_an_engine_that_is_never_ready_is_ended_again(serve, programs, gguf, monkeypatch) -> None:
    install(programs, "llama-server")
    monkeypatch.setenv("STAND_IN_READY_AFTER", "60")
    port = llm.free_port("127.0.0.1")
    with pytest.raises(ModelError, match="llama-server was not ready within 1 s"):
        serve(gguf, timeout_s=1, port=port)
    assert llm.free_port("127.0.0.1", port) == port


def test_a_port_that_is_taken_is_refused_before_the_engine_starts(serve, programs, gguf, log) -> None:
    install(programs, "llama-server")
    taken = socket.create_server(("127.0.0.1", 0))
    with closing(taken), pytest.raises(ConfigError, match="choose another port, or --port 0 for any"):
        serve(gguf, port=taken.getsockname()[1])
    assert log == []


def test_nobody_else_reaches_a_server_without_a_key(serve, programs, gguf) -> None:
    install(programs, "llama-server")
    with pytest.raises(
        ConfigError, match=r"0\.0\.0\.0 can be reached from outside, and there is no API key; .*--api-key-env"
    ):
        serve(gguf, host="0.0.0.0")


def test_without_any_engine_nothing_is_downloaded(serve, hub, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelMissing, match=r"there is no engine .*llama-server.*openvino-genai.*vLLM"):
        serve("me/file:q8.gguf")
    assert hub.requests == []


def test_a_model_of_the_hub_is_served_under_the_name_it_was_asked_for(serve, programs, hub) -> None:
    install(programs, "llama-server")
    with serve("me/file", file="q8.gguf") as service:
        assert service.model == "me/file:q8.gguf"
        assert told(service)["data"] == [{"id": "me/file:q8.gguf"}]


def test_openvino_serves_a_real_model_and_the_twins_own_client_reads_it(quiet, tmp_path, log) -> None:
    pytest.importorskip("openvino_genai", reason="needs the extra llm-twin[openvino-genai]")
    path = tiny_llama.write_gguf(tmp_path / "tiny.gguf")
    with llm.serve(str(path), engine="openvino", api_key="s3cret", progress=quiet, log=log.append) as service:
        model = OpenAiModel(model=service.model, base_url=service.base_url, api_key="s3cret")
        replies = [
            list(model.stream([Message("user", "what do I think?")], max_tokens=6, temperature=0.0)) for _ in range(2)
        ]
        assert replies[0] == replies[1]
        assert replies[0][-1].finish_reason == "length"
        assert replies[0][-1].usage.completion_tokens == 6
        assert model.models() == ["tiny"]
        with pytest.raises(ModelError, match="API key"):
            list(OpenAiModel(model="tiny", base_url=service.base_url).stream([Message("user", "x")], max_tokens=1))
    assert not service.running()


def test_a_draft_is_made_with_a_real_model_whatever_it_makes_of_the_schema(quiet, tmp_path, log) -> None:
    pytest.importorskip("openvino_genai", reason="needs the extra llm-twin[openvino-genai]")
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "orms.md").write_text("# On ORMs\n\nThey hide the query, and the query is the program.\n")
    shape = dataclasses.replace(tiny_llama.TINY, context=16384)  # every byte of a prompt is a token of this model
    path = tiny_llama.write_gguf(tmp_path / "tiny.gguf", shape)
    with llm.serve(str(path), engine="openvino", progress=quiet, log=log.append) as service:
        Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]).close()
        with Twin.open(tmp_path / "twin", arguments=service.settings) as twin:
            twin.sync()
            answer = twin.write("ORMs", kind="thread", words=40)
    # Random weights mostly fill their tokens before the last brace; then a rule makes the outline, and a note says so.
    assert (answer.mode, answer.text[:3]) == ("generated", "1/ ")
    assert answer.usage.completion_tokens > 0
    assert log == []


def test_json_is_asked_of_a_model_only_where_the_reply_is_checked_and_asked_for_again() -> None:
    asking = set()
    for path in (Path(llm.__file__).parent / "inference").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and any(keyword.arg == "schema" for keyword in call.keywords):
                asking.add(path.name)
    # Two tries, pydantic, then a rule; tests/inference/test_write.py has every way in which they end. A new place
    # belongs here once it does the same.
    assert asking == {"write.py"}


def test_openvino_that_cannot_load_a_file_says_why(quiet, tmp_path, log) -> None:
    pytest.importorskip("openvino_genai", reason="needs the extra llm-twin[openvino-genai]")
    (tmp_path / "broken.gguf").write_bytes(GGUF)
    with pytest.raises(ModelError, match=r"ended with code 1; (.|\n)*OpenVINO cannot load .*broken\.gguf"):
        llm.serve(str(tmp_path / "broken.gguf"), engine="openvino", progress=quiet, log=log.append)


def test_how_this_machine_reaches_a_host() -> None:
    hosts = ["127.0.0.1", "0.0.0.0", "::", "::1", "192.0.2.7", "localhost"]
    assert [llm._url_host(host) for host in hosts] == [
        *("127.0.0.1", "127.0.0.1", "[::1]", "[::1]", "192.0.2.7", "localhost")
    ]
    assert os.environ["HOME"] in str(llm._home())
