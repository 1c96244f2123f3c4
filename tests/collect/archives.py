"""What tests of exports share: archives written to disk, sources on them, and runs over a real warehouse in memory."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.pipeline import CollectReport, collect
from llm_twin.collect.sources import SourceContext
from llm_twin.core.records import Document

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def no_network():
    raise AssertionError("an export needs no network")


def context(root: Path, *, author: str = "Ann Roe", fetcher=no_network) -> SourceContext:
    return SourceContext(author=author, root=root, fetcher=fetcher, now=lambda: NOON)


def write_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class Watched:
    """A source, and the keys that were fetched from it."""

    def __init__(self, source) -> None:
        self.source, self.name, self.fetched = source, source.name, []

    def list(self):
        return self.source.list()

    def fetch(self, item):
        self.fetched.append(item.key)
        return self.source.fetch(item)


def run(source, store: MemoryWarehouse) -> CollectReport:
    return collect(source, store=store, redactor=None, now=lambda: NOON)


def documents(source) -> dict[str, Document]:
    """What a first run stores, by the key of the item."""
    store = MemoryWarehouse()
    report = run(source, store)
    assert report.problem is None, report.problem
    stored = {document.id: document for document in store.documents()}
    return {state.key: stored[state.document_id] for state in report.states if state.outcome == "added"}


def endings(source) -> dict[str, tuple[str, str]]:
    """How every item ends in a first run, with its reason."""
    return {state.key: (state.outcome, state.reason) for state in run(source, MemoryWarehouse()).states}


def outcomes(report: CollectReport) -> dict[str, str]:
    return {state.key: state.outcome for state in report.states}
