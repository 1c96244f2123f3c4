"""What the benchmarks share: their command line, where real corpora are, and how a result is printed.

A benchmark measures a baseline and ours in one run, gathers the figures as plain data, and ends with `show`. Run as a
script this module does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

DATA = Path(os.environ.get("TWIN_DATA") or Path(__file__).parents[2] / "shared" / "data")
"""The folder of real corpora: `$TWIN_DATA`, or `shared/data` beside the project."""


def command(about: str | None) -> argparse.ArgumentParser:
    """A command line with `--json`; `about` is the benchmark's docstring, whose first line its help shows."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def corpora(*names: str) -> tuple[Path, ...]:
    """The paths of corpora, by their names below `DATA`; exits and says which are missing."""
    if missing := [name for name in names if not (DATA / name).exists()]:
        raise SystemExit(f"{DATA} has no {', '.join(missing)}; set TWIN_DATA to the folder with the corpora")
    return tuple(DATA / name for name in names)


def show(result: Result, table: Callable[[Result], str], *, as_json: bool) -> None:
    """Print a result as JSON for machines, or as `table` lays it out for people."""
    print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else table(result))
