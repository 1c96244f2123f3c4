"""Kills a sync at random moments and counts what was lost or doubled in the end.

python benchmarks/kill.py [--json] [--kills 50] [--documents 120]
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm_twin import Twin
from report import command, corpora, show

PROGRAM = "import sys; from llm_twin import Twin; Twin.open(sys.argv[1]).sync()"


def main() -> None:
    """Compare a workspace whose syncs were killed with one whose sync was not."""
    parser = command(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--documents", type=int, default=120)
    options = parser.parse_args()
    (posts,) = corpora("blog-simonw-til/posts.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), posts, kills=options.kills, documents=options.documents)
    show(result, table, as_json=options.json)


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    return "\n".join(f"{name:<24}{value}" for name, value in result.items())


def measure(folder: Path, posts: Path, *, kills: int, documents: int) -> dict[str, Any]:
    """Kill syncs at moments spread evenly at random over a whole run, adding documents as they go on."""
    lines = posts.read_text(encoding="utf-8").splitlines()[:documents]
    source = folder / "posts.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    calm, stormy = folder / "calm", folder / "stormy"
    for workspace in (calm, stormy):
        Twin.init(workspace, addresses=["../posts.jsonl"]).close()
    subprocess.run([sys.executable, "-c", PROGRAM, str(calm)], check=True)

    rng = random.Random(3)
    killed = runs = 0
    longest_s = 8.0
    while killed < kills:
        # Only a growing part of the source is there, so that every run has work to be killed in.
        shown = max(1, documents * (killed + 1) // kills)
        source.write_text("\n".join(lines[:shown]), encoding="utf-8")
        started = time.monotonic()
        runs += 1
        if _killed(stormy, rng.uniform(0.1, longest_s)):
            killed += 1
        else:
            longest_s = time.monotonic() - started
    source.write_text("\n".join(lines), encoding="utf-8")
    with Twin.open(stormy) as twin, Twin.open(calm) as reference:
        last = twin.sync()
        there, wanted = twin.index.digests(), reference.index.digests()
        return {
            "runs": runs,
            "killed in mid-run": killed,
            "chunks wanted": len(wanted),
            "chunks lost": len(wanted.keys() - there.keys()),
            "chunks doubled or stale": len(there.keys() - wanted.keys()),
            "chunks that differ": sum(there[chunk] != wanted[chunk] for chunk in wanted.keys() & there.keys()),
            "documents equal": twin.warehouse.document_hashes() == reference.warehouse.document_hashes(),
            "index count": last.chunks,
        }


def _killed(workspace: Path, after_s: float) -> bool:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(workspace)])
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


if __name__ == "__main__":
    main()
