"""`twin doctor`: looks at everything a twin depends on, and says what mends what is broken."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llm_twin import catalog
from llm_twin.core.errors import TwinError

if TYPE_CHECKING:
    from llm_twin.parts import Parts

ENOUGH_BYTES = 1_000_000_000
"""Free disk below which `doctor` warns: a generation is copied before it is edited."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `twin doctor`; `remedy` is the exact line that mends it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


class Doctor:
    """Checks of the parts of one workspace."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def checks(self) -> Iterator[Check]:
        """Look at everything the twin depends on, one check at a time; a broken part never hides the next."""
        return self._each(
            ("python", self._check_python),
            ("workspace", self._check_workspace),
            ("disk", self._check_disk),
            ("warehouse", self._check_warehouse),
            ("embedder", self._check_embedder),
            ("index", self._check_index),
            ("language model", self._check_model),
        )

    def ready(self) -> list[Check]:
        """What no answer can do without, looked at in milliseconds. A language model is not among it."""
        return list(
            self._each(
                ("warehouse", self._check_warehouse), ("embedder", self._check_embedder), ("index", self._check_index)
            )
        )

    def _each(self, *checks: tuple[str, Callable[[str], Check]]) -> Iterator[Check]:
        for name, check in checks:
            try:
                yield check(name)
            except TwinError as error:
                message, _, remedy = str(error).rpartition("; ")
                yield Check(name, False, message or str(error), remedy if message else "")

    def _check_python(self, name: str) -> Check:
        version = platform.python_version()
        return Check(name, True, f"{version}, llm-twin {importlib.metadata.version('llm-twin')}")

    def _check_workspace(self, name: str) -> Check:
        sources = len(self._parts.settings.sources)
        if not sources:
            return Check(name, False, f"{self._parts.workspace.settings_file} names no sources", "twin sync ./posts")
        return Check(name, True, f"{self._parts.workspace.root}, {sources} source{'s' if sources > 1 else ''}")

    def _check_disk(self, name: str) -> Check:
        free = self._parts.workspace.free_bytes()
        enough = free >= ENOUGH_BYTES
        return Check(
            name, enough, f"{free / 1e9:.1f} GB free", "" if enough else f"free space on {self._parts.workspace.root}"
        )

    def _check_warehouse(self, name: str) -> Check:
        return Check(
            name, True, f"{len(self._parts.warehouse.document_hashes()):,} documents in {self._parts.warehouse!r}"
        )

    def _check_embedder(self, name: str) -> Check:
        started = time.perf_counter()
        self._parts.embedder.embed(["Is the embedder there?"])
        return Check(
            name, True, f"{self._parts.embedder.name}, first text in {(time.perf_counter() - started) * 1000:.0f} ms"
        )

    def _check_index(self, name: str) -> Check:
        info = self._parts.index.info()
        if info is None:
            return Check(name, False, "nothing is indexed yet", "twin sync")
        if info.embedder != self._parts.embedder.name:
            return Check(
                name,
                False,
                f"built by {info.embedder}, the embedder is {self._parts.embedder.name}",
                "twin sync --rebuild",
            )
        return Check(name, True, f"{info.count:,} chunks, {info.search} search, generation {info.generation}")

    def _check_model(self, name: str) -> Check:
        model = self._parts.model
        if model is not None:
            # Part of the adapter, not of the port: only this check asks a server what it serves.
            served = cast("Any", model).models()
            wanted = self._parts.settings.llm.model
            if wanted in served or not served:
                return Check(name, True, f"{wanted} at {cast('Any', model).base_url}")
            return Check(
                name, False, f"{wanted} is not served; there is: {', '.join(served)}", f"TWIN_LLM_MODEL={served[0]}"
            )
        found = catalog.part("language_model", "openai").local_servers()
        if not found:
            return Check(name, True, "none: answers quote the author, and nothing leaves this machine")
        server, base_url, models = found[0]
        remedy = f"export TWIN_LLM_BASE_URL={base_url} TWIN_LLM_MODEL={models[0] if models else '…'}"
        return Check(name, True, f"none in the settings; {server} answers at {base_url}", remedy)
