"""One small workspace for all tests of the service; those that change it get a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_twin import Twin
from scripted_llm import ScriptedLlm
from serving import Served, make_home


@pytest.fixture(scope="session")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    with own_home(folder):
        return make_home(folder)


@contextmanager
def own_home(folder: Path) -> Iterator[None]:
    """What every test has, for what is made before any of them: nothing of the home of who runs it is touched."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(folder))
        environment.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
        yield


@pytest.fixture
def home(synced: Path, tmp_path: Path) -> Path:
    """A workspace of the test's own, with the same posts."""
    shutil.copytree(synced.parent, tmp_path / "copy")
    return tmp_path / "copy" / "twin"


@pytest.fixture(scope="module")
def service(synced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service without a language model, which the tests of a module share; they leave its documents as they are."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(synced.parent, folder / "copy")
    with own_home(folder), Twin.open(folder / "copy" / "twin") as twin, Served(twin) as served:
        yield served


@pytest.fixture
def llm() -> Iterator[ScriptedLlm]:
    with ScriptedLlm() as server:
        yield server


@pytest.fixture
def generating(home: Path, llm: ScriptedLlm) -> Iterator[Served]:
    """A service whose language model is `llm`."""
    with Twin.open(home, arguments=model_at(llm)) as twin, Served(twin) as served:
        yield served


def model_at(llm: ScriptedLlm) -> dict[str, object]:
    return {"llm.base_url": llm.base_url, "llm.model": "toy", "llm.retries": 0}
