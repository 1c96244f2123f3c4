"""The architecture as a test: who may import whom (ARCHITECTURE.md shows the same table)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "llm_twin"
STAGES = {"collect", "features", "training", "inference", "evaluation", "ops"}
WIRING = {"settings", "catalog", "workspace", "llm"}
OF_TWIN = {"parts", "sources", "forgetting", "runs", "doctor"}  # what `twin` is divided into
DOORS = {"cli", "server"}
CORE_FOR_DOORS = {f"llm_twin.core.{name}" for name in ("records", "errors", "cancelling", "stopping")}
DOORS_THAT_START_DOORS = {("llm_twin.cli.serve", "llm_twin.server.run"), ("llm_twin.cli.mcp", "llm_twin.server.mcp")}
VENDORS = {
    "sqlalchemy", "psycopg", "pymongo", "qdrant_client", "qdrant_edge", "openvino", "openvino_genai", "tokenizers",
    "openai", "opentelemetry", "mlflow", "sagemaker", "zenml", "huggingface_hub", "safetensors", "playwright",
    "selenium",
}  # fmt: skip


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module imported anywhere in the file, and whether the import runs when the file is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top_level = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top_level
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                submodule = PACKAGE.parent / (node.module or "").replace(".", "/") / alias.name
                is_module = submodule.is_dir() or submodule.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module or "", id(node) in top_level


def _allowed(importer: str, imported: str) -> bool:
    """Whether a module of ours may import another one of ours."""
    importer_area, imported_area = (name.split(".")[1] if "." in name else "" for name in (importer, imported))
    if imported_area == "":
        return True
    if importer_area == "":  # the package itself names Twin when asked for it
        return imported_area == "twin"
    if importer_area == "__main__":
        return imported_area == "cli"
    if importer_area == "core":
        return imported_area == "core"
    if importer_area in STAGES:
        return imported_area in {"core", importer_area}
    if importer_area == "adapters":
        return imported_area == "core" or imported == importer
    if importer_area in {"twin", *OF_TWIN}:
        ours = {"core", *WIRING, *OF_TWIN}
        return imported_area in ours or (imported_area in STAGES and imported.count(".") == 2)
    if importer_area in WIRING:
        return imported_area in {"core", *WIRING}
    if (importer, imported) in DOORS_THAT_START_DOORS:
        return True
    if importer_area in DOORS:
        return imported in CORE_FOR_DOORS or imported_area in {importer_area, "twin", "settings", "llm"}
    return False


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_modules_import_only_what_their_place_allows(path: Path) -> None:
    importer = _name(path)
    refused = [name for name, _ in _imports(path) if name.split(".")[0] == "llm_twin" and not _allowed(importer, name)]
    assert not refused, f"{importer} must not import {refused}; see the table in ARCHITECTURE.md"


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_vendors_stay_in_adapters(path: Path) -> None:
    if "adapters" in path.parts:
        return
    vendors = [name for name, _ in _imports(path) if name.split(".")[0] in VENDORS]
    assert not vendors, f"{_name(path)} imports {vendors}: other people's systems live in adapters/"


def test_core_needs_the_standard_library_only_except_numpy_for_vectors() -> None:
    for path in sorted((PACKAGE / "core").glob("*.py")):
        for name, at_import in _imports(path):
            root = name.split(".")[0]
            known = root in sys.stdlib_module_names or root == "llm_twin"
            excused = (path.stem == "vectors" and root == "numpy") or not at_import
            assert known or excused, f"{_name(path)} imports {name} when it is imported"


def test_importing_the_package_does_nothing() -> None:
    program = (
        "import sys, socket; socket.socket.connect = None; import llm_twin; "
        "ours = [m for m in sys.modules if m.startswith('llm_twin')]; print(ours)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['llm_twin']"


def test_every_part_of_the_catalog_exists() -> None:
    from llm_twin import catalog

    for kind, parts in catalog.PARTS.items():
        for name in parts:
            if (kind, name) != ("vector_index", "qdrant"):  # its client is an extra
                assert callable(catalog.part(kind, name)), (kind, name)
