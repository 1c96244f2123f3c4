from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hub_stand_in import REVISION, HubStandIn
from llm_twin.adapters import huggingface
from llm_twin.adapters.huggingface import HuggingFaceHub
from llm_twin.core.errors import ConfigError, ModelError, ModelMissing

WEIGHTS = os.urandom(300_000)
LARGE = b"GGUF" + os.urandom(24_000_000)
FOLDER = {
    "README.md": b"# tiny",
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"\x00\x01",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled code",
    "modeling_tiny.py": b"import os",
    "onnx/model.onnx": b"another format",
    "original/consolidated.safetensors": b"the same again",
    ".gitattributes": b"*.bin",
}
FILES = {"README.md": b"#", "tiny-f16.gguf": b"GGUF" + WEIGHTS, "tiny-q8_0.gguf": b"GGUF" + WEIGHTS[:999]}


class Counted:
    """Progress that remembers each step, its total, and how far it came."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {}

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        seen = self.steps.setdefault(name, [total or 0, 0])

        def advance(count: int) -> None:
            seen[1] += count

        yield advance


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn({"me/tiny": FOLDER, "me/files": FILES, "me/one": {"only.gguf": b"GGUF1"}}) as server:
        yield server


@pytest.fixture
def pull(hub, tmp_path) -> Callable:
    def begin(repository: str, file: str = "", progress: Counted | None = None) -> set[str]:
        HuggingFaceHub(hub.endpoint, sleep=lambda seconds: None).pull(
            repository, REVISION, tmp_path / "model", file=file, progress=progress or Counted()
        )
        found = [path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*") if path.is_file()]
        return {str(path) for path in found}

    return begin


def test_a_folder_brings_weights_tokenizer_and_configuration_and_no_code(pull, tmp_path) -> None:
    progress = Counted()
    wanted = {"config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "model.safetensors"}
    assert pull("me/tiny", progress=progress) == wanted
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == WEIGHTS
    assert progress.steps["model.safetensors"] == [300_000, 300_000]


def test_one_gguf_file_is_chosen_by_name_or_by_being_the_only_one(pull) -> None:
    assert pull("me/files", file="tiny-q8_0.gguf") == {"tiny-q8_0.gguf"}
    assert pull("me/one") == {"tiny-q8_0.gguf", "only.gguf"}


def test_several_gguf_files_are_named_to_choose_from(pull) -> None:
    with pytest.raises(ConfigError, match=r"name one, as in me/files:tiny-f16.gguf \(0\.0 GB\), tiny-q8_0"):
        pull("me/files")
    with pytest.raises(ModelMissing, match=r"me/files has no GGUF file 'big\.gguf'; it has tiny-f16"):
        pull("me/files", file="big.gguf")
    with pytest.raises(ModelMissing, match="it has none at all"):
        pull("me/tiny", file="big.gguf")


def test_a_split_gguf_file_comes_with_all_its_parts(hub, pull) -> None:
    parts = {f"q4/big-0000{n}-of-00002.gguf": b"GGUF%d" % n for n in (1, 2)}
    hub.repositories["me/big"] = {**parts, "other.gguf": b"GGUF"}
    assert pull("me/big", file="q4/big-00001-of-00002.gguf") == set(parts)


def test_a_connection_that_ends_early_is_made_again(hub, pull, tmp_path) -> None:
    hub.cut_after["model.safetensors"] = 120_000
    pull("me/tiny")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_in_the_middle_goes_on_where_it_stopped(hub, pull, tmp_path) -> None:
    hub.repositories["me/large"] = {"large.gguf": LARGE}
    hub.cut_after["large.gguf"] = 22_000_000
    progress = Counted()
    pull("me/large", progress=progress)
    assert (tmp_path / "model" / "large.gguf").read_bytes() == LARGE
    assert hub.downloads()[0] == "large.gguf"
    assert hub.downloads()[1].startswith("large.gguf bytes=")
    assert progress.steps["large.gguf"] == [len(LARGE), len(LARGE)]


def test_a_program_that_was_killed_while_it_downloaded_goes_on_where_it_stopped(hub, pull, tmp_path) -> None:
    hub.repositories["me/large"] = {"large.gguf": LARGE}
    hub.cut_after["large.gguf"] = 22_000_000
    program = (
        "import os; from llm_twin.adapters import huggingface as h\n"
        "leave = lambda seconds: os._exit(9)\n"  # it waits before it tries again: there it is killed
        "from test_huggingface import Counted\n"
        f"folder = h.Path({str(tmp_path / 'model')!r})\n"
        f"h.HuggingFaceHub({hub.endpoint!r}, sleep=leave).pull('me/large', {REVISION!r}, folder, progress=Counted())"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 9
    assert not (tmp_path / "model" / "large.gguf").exists()
    before, progress = hub.sent, Counted()
    pull("me/large", progress=progress)
    assert (tmp_path / "model" / "large.gguf").read_bytes() == LARGE
    assert hub.sent - before < 20_000_000
    assert progress.steps["large.gguf"] == [len(LARGE), len(LARGE)]


def test_what_is_there_already_is_not_downloaded_again(hub, pull) -> None:
    pull("me/tiny")
    before = len(hub.downloads())
    pull("me/tiny")
    assert len(hub.downloads()) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_a_wrong_checksum_is_deleted_and_a_later_pull_mends_it(hub, pull, tmp_path, name) -> None:
    hub.wrong.add(name)
    with pytest.raises(ModelError, match=f"{name} did not arrive as the hub has it"):
        pull("me/tiny")
    assert not (tmp_path / "model" / name).exists()
    hub.wrong.clear()
    pull("me/tiny")
    assert (tmp_path / "model" / name).read_bytes() == FOLDER[name]


def test_a_part_that_became_too_long_is_deleted_and_a_later_pull_mends_it(pull, tmp_path) -> None:
    part = tmp_path / "model" / f"model.safetensors.{hashlib.sha256(WEIGHTS).hexdigest()[:12]}.part"
    part.parent.mkdir()
    part.write_bytes(WEIGHTS + b"more")
    with pytest.raises(ModelError, match=r"model\.safetensors did not arrive"):
        pull("me/tiny")
    pull("me/tiny")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_download_that_does_not_fit_the_disk_is_refused_before_it_begins(hub, pull, monkeypatch) -> None:
    monkeypatch.setattr(huggingface, "SPARE_BYTES", 10**18)
    with pytest.raises(ModelError, match=r"0\.0 GB are to be downloaded and [\d.]+ GB are free at .*; free some space"):
        pull("me/tiny")
    assert hub.downloads() == []


def test_a_repository_that_is_not_there_or_not_a_model_says_so(hub, pull) -> None:
    hub.repositories["me/notes"] = {"README.md": b"# nothing"}
    with pytest.raises(ModelMissing, match=r"has no model 'me/absent' that may be read; check the name, .*HF_TOKEN"):
        pull("me/absent")
    with pytest.raises(ModelMissing, match="me/notes has neither safetensors nor GGUF files nor OpenVINO's"):
        pull("me/notes")
    with pytest.raises(ConfigError, match="is no name of a model"):
        pull("me/../etc")


def test_names_that_leave_the_folder_are_not_downloaded(hub, pull) -> None:
    hub.repositories["me/evil"] = {"../out.gguf": b"GGUF", "in.gguf": b"GGUF"}
    assert pull("me/evil") == {"in.gguf"}


def test_a_hub_that_cannot_be_reached_says_so(tmp_path) -> None:
    with HubStandIn({}) as hub:
        gone = hub.endpoint
    with pytest.raises(ModelError, match=f"me/tiny could not be downloaded from {gone}: .*; run it again"):
        HuggingFaceHub(gone).latest("me/tiny")


def test_the_endpoint_the_token_and_the_offline_switch_come_from_the_environment(hub, tmp_path) -> None:
    hub.token = "hf_secret"
    program = "from llm_twin.adapters.huggingface import HuggingFaceHub; print(HuggingFaceHub().latest('me/tiny'))"

    def run(**environment: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, **environment}
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    assert run(HF_TOKEN="hf_secret").stdout.strip() == REVISION
    assert "has no model 'me/tiny' that may be read" in run().stderr
    assert "HF_HUB_OFFLINE is set; unset it" in run(HF_HUB_OFFLINE="1").stderr


def test_requests_tell_the_hub_nothing_about_this_machine_and_ask_for_nothing_else(hub, pull) -> None:
    pull("me/tiny")
    paths = {path for _, path, _ in hub.requests}
    assert all(path.startswith(("/api/models/me/tiny", "/me/tiny/resolve/")) for path in paths)
    agents = {headers["user-agent"] for _, _, headers in hub.requests}
    assert not any(word in agent for agent in agents for word in ("torch", "agent/", "session"))


def test_a_newer_revision_is_known(hub) -> None:
    assert HuggingFaceHub(hub.endpoint).latest("me/tiny") == REVISION
    hub.revision = "b" * 40
    assert HuggingFaceHub(hub.endpoint).latest("me/tiny") == "b" * 40
