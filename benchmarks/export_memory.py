"""Peak memory and seconds of reading a large export: an X archive of a gigabyte, most of it pictures, as real ones are.

python benchmarks/export_memory.py [--json] [--megabytes 1000] [--posts 50000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROGRAM = """
import json, resource, sys, time
from datetime import UTC, datetime
from pathlib import Path
from llm_twin.adapters.sql import SqlWarehouse
from llm_twin.collect.pipeline import SourceContext, collect
from llm_twin.collect.x import XSource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
now = lambda: datetime.now(UTC)
folder = Path(sys.argv[1])
context = SourceContext(author="A", root=folder, fetcher=lambda: None, now=now)
started = time.perf_counter()
store = SqlWarehouse(f"sqlite:///{folder}/w.db")
report = collect(XSource.open("export.zip", context), store=store, redactor=None, now=now)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = round(time.perf_counter() - started, 1)
memory = {"mb_before": before // 1024, "mb_peak": peak // 1024}
print(json.dumps({"documents": report.counts["added"], "problem": report.problem, "seconds": seconds, **memory}))
"""


def main() -> None:
    """Write the archive, read it in a process of its own, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--posts", type=int, default=50_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = write_export(Path(folder) / "export.zip", megabytes=options.megabytes, posts=options.posts)
        done = subprocess.run([sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, check=True)
    result = {"mb_zip": size // 1_000_000, "posts": options.posts, **json.loads(done.stdout)}
    print(json.dumps(result) if options.json else "  ".join(f"{name} {value}" for name, value in result.items()))


def write_export(path: Path, *, megabytes: int, posts: int) -> int:
    """An archive with one list of posts and pictures up to the size wanted; returns its bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        account = [{"account": {"username": "author", "accountId": "1"}}]
        archive.writestr("data/account.js", "window.YTD.account.part0 = " + json.dumps(account))
        with archive.open("data/tweets.js", "w", force_zip64=True) as out:
            out.write(b"window.YTD.tweets.part0 = [")
            for number in range(posts):
                text = f"Post number {number} about subject {number % 977}, long enough to be worth keeping. " * 3
                post = {
                    "id_str": str(10_000 + number),
                    "full_text": text,
                    "created_at": "Wed Mar 04 12:00:00 +0000 2020",
                    "entities": {"urls": []},
                }
                out.write((b"," if number else b"") + json.dumps({"tweet": post}).encode())
            out.write(b"]")
        picture = bytes(range(256)) * 4096
        count = 0
        while path.stat().st_size < megabytes * 1_000_000:
            archive.writestr(f"data/tweets_media/{count}.jpg", picture)
            count += 1
    return path.stat().st_size


if __name__ == "__main__":
    main()
