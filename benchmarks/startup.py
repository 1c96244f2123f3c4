"""How long `twin --help` and `import llm_twin` take, beside a Python that does nothing.

python benchmarks/startup.py [--json] [--runs N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import llm_twin": ["-c", "import llm_twin"],
    "twin --help": ["-m", "llm_twin", "--help"],
}


def main() -> None:
    """Time each command in turn, again and again, so that a drift of the machine meets all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs + 1):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append((time.perf_counter() - started) * 1000)
    # The first run of each fills the disk cache and is not counted.
    result = {name: round(statistics.median(values[1:]), 1) for name, values in times.items()}
    if options.json:
        print(json.dumps({"median_ms": result, "runs": options.runs}))
        return
    for name, median in result.items():
        print(f"{name:<18}{median:>8.1f} ms")


if __name__ == "__main__":
    main()
