from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm_twin import catalog
from llm_twin.core.errors import ConfigError


def test_an_unknown_part_names_the_nearest_and_all_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'structure'.*fixed, recursive, semantic, structure"):
        catalog.part("chunker", "structur")


def test_naming_parts_imports_none_of_them() -> None:
    program = "import sys; from llm_twin import catalog; catalog.names('embedder'); print('openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_another_package_adds_a_part_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sonnets.py").write_text("class SonnetChunker: pass\n")
    metadata = tmp_path / "sonnets-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sonnets\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[llm_twin.chunker]\nsonnet = sonnets:SonnetChunker\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "sonnet" in catalog.names("chunker")
    assert catalog.part("chunker", "sonnet").__name__ == "SonnetChunker"
