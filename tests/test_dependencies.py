"""What `pip install .` brings, by any pip: what is not brought is missed only when somebody's sync needs it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def needed(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What a package asks for when it is installed with these extras."""
    for line in metadata(name).get_all("Requires-Dist") or ():
        asked = Requirement(line)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield asked


def passed_over(name: str, extras: set[str], seen: set[str]) -> Iterator[str]:
    """Packages below this one that stand behind an extra in another spelling than the package's own."""
    if name in seen:
        return
    seen.add(name)
    for asked in needed(name, extras):
        try:
            provided = set(metadata(asked.name).get_all("Provides-Extra") or ())
        except PackageNotFoundError:
            continue
        for extra in asked.extras - provided:
            yield from (canonicalize_name(behind.name) for behind in set(needed(asked.name, {extra})))
        yield from passed_over(canonicalize_name(asked.name), asked.extras, seen)


def test_what_pip_before_23_3_passes_over_is_asked_for_by_name() -> None:
    ours = [Requirement(line) for line in PROJECT["dependencies"]]
    named = {canonicalize_name(each.name) for each in ours}
    lost = {package for each in ours for package in passed_over(each.name, each.extras, set())}
    assert lost <= named
