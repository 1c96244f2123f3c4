"""From addresses to sources: the [[sources]] tables of the settings, and what a person names beside them."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from llm_twin import catalog
from llm_twin.core.errors import ConfigError
from llm_twin.settings import SourceSettings

if TYPE_CHECKING:
    from llm_twin.collect import pipeline as collect
    from llm_twin.core import ports
    from llm_twin.parts import Parts


@dataclass(frozen=True, slots=True)
class KindOfSource:
    """One line of `twin sources`."""

    name: str
    example: str
    meaning: str
    options: tuple[str, ...]


def kinds() -> list[KindOfSource]:
    """Every kind of source in the order in which they are asked whether an address is theirs."""
    kinds = [(name, catalog.part("source", name)) for name in catalog.ordered("source")]
    return [
        KindOfSource(
            name, kind.example, (inspect.getdoc(kind) or "").partition("\n")[0], tuple(_declared_options(kind))
        )
        for name, kind in kinds
    ]


class Sources:
    """The sources of a workspace."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def chosen(self, addresses: Sequence[str]) -> list[tuple[ports.Source, collect.Part | None]]:
        """The sources to sync, or parts of them: those of the settings, or only what the addresses name."""
        configured = self.configured()
        if not addresses and not configured:
            raise ConfigError(
                f"{self._parts.workspace.settings_file} names no sources; add [[sources]] with an address, "
                f"or name them here: twin sync ./posts"
            )
        if not addresses:
            return [(self.open(chosen), None) for chosen in configured.values()]
        return [self._named(address, configured) for address in addresses]

    def configured(self) -> dict[str, SourceSettings]:
        """The sources of the settings by the place each names, whatever its spelling."""
        found: dict[str, SourceSettings] = {}
        for chosen in self._parts.settings.sources:
            first = found.setdefault(self._place(chosen.address), chosen)
            if first.model_copy(update={"address": chosen.address}) != chosen:
                raise ConfigError(
                    f"{first.address!r} and {chosen.address!r} name the same source with different options; make one "
                    f"[[sources]] table of the two in {self._parts.workspace.settings_file}"
                )
        return found

    def is_configured(self, address: str) -> bool:
        """Whether a source of the settings is at the place that an address names."""
        return self._place(address) in self.configured()

    def _named(
        self, address: str, configured: Mapping[str, SourceSettings]
    ) -> tuple[ports.Source, collect.Part | None]:
        """What an address means: a source of the settings, a part of one, or a source of its own."""
        from llm_twin.collect import pipeline as collect

        same = configured.get(self._place(address))
        if same:
            return self.open(same), None
        if "://" in address:
            by_name = {chosen.address: chosen for chosen in configured.values()}
            for item in self._parts.warehouse.items():
                if item.key == address and item.source in by_name:
                    return self.open(by_name[item.source]), collect.Part(address, below=False)
            return self.open(SourceSettings(address=address)), None
        if self._recognise(address) == "files":
            opened = [self.open(chosen) for chosen in configured.values() if "://" not in chosen.address]
            parts = [(source, collect.part_of(source, address, self._parts.workspace.root)) for source in opened]
            inside = [(source, part) for source, part in parts if part]
            if inside:  # where sources stand in one another, the innermost
                return min(inside, key=lambda pair: len(pair[1].key))
        known = sorted(self.stored_names(address))
        name = known[0] if known else os.path.normpath(address)
        return self.open(SourceSettings(address=name)), None

    def _place(self, address: str) -> str:
        from llm_twin.collect import pipeline as collect

        return collect.place(address, self._parts.workspace.root)

    def stored_names(self, address: str) -> set[str]:
        """The names under which items of a source are stored, which were other spellings of its address once."""
        place = self._place(address)
        return {name for name in {item.source for item in self._parts.warehouse.items()} if self._place(name) == place}

    def open(self, chosen: SourceSettings) -> ports.Source:
        """The source of a [[sources]] table, its options checked against what its kind takes."""
        from llm_twin.collect import pipeline as collect

        name = chosen.kind or ("browser" if chosen.render else self._recognise(chosen.address))
        kind = catalog.part("source", name)
        context = collect.SourceContext(
            author=chosen.author or self._parts.settings.author.name,
            root=self._parts.workspace.root,
            fetcher=lambda: self._parts.fetcher,
            now=lambda: datetime.now(UTC),
            browser=self._parts.browser,
        )
        return cast("ports.Source", kind.open(chosen.address, context, **self._options(kind, chosen)))

    def _options(self, kind: Any, chosen: SourceSettings) -> dict[str, Any]:
        """The options of a [[sources]] table as the kind's `open` declares them."""
        declared = _declared_options(kind)
        options = {}
        for name, value in chosen.options.items():
            if name not in declared:
                known = ["address", "kind", "author", *declared]
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ConfigError(
                    f"the source {chosen.address!r} takes no option {name!r}; {hint}it takes {', '.join(known)}"
                )
            try:
                options[name] = TypeAdapter(declared[name].annotation).validate_python(value)
            except ValidationError as error:
                raise ConfigError(
                    f"option {name!r} of the source {chosen.address!r} is wrong: {error.errors()[0]['msg'].lower()}, "
                    f"got {value!r}; correct it in {self._parts.workspace.settings_file}"
                ) from None
        return options

    def _recognise(self, address: str) -> str:
        """The first kind that takes an address, in the order of the catalog."""
        try:
            urlsplit(address)
        except ValueError as error:
            raise ConfigError(
                f"the source {address!r} has no address that can be read: {error}; correct it, and percent-encode "
                "brackets"
            ) from None
        for name in catalog.ordered("source"):
            if catalog.part("source", name).recognises(address):
                return name
        raise ConfigError(f"no kind of source takes {address!r}; `twin sources` lists the kinds with an example each")


def _declared_options(kind: Any) -> dict[str, inspect.Parameter]:
    """What the `open` of a kind of sources takes beside address and context."""
    parameters = inspect.signature(kind.open, eval_str=True).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in ("address", "context")}
