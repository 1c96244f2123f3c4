"""How long `twin --help` and `import llm_twin` take, beside a Python that does nothing.

python benchmarks/startup.py [--json] [--runs N]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from report import command, show

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import llm_twin": ["-c", "import llm_twin"],
    "twin --help": ["-m", "llm_twin", "--help"],
}


def main() -> None:
    """Time each command in turn, again and again, so that a drift of the machine meets all of them."""
    parser = command(__doc__)
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
    show({"median_ms": result, "runs": options.runs}, lambda _: table(result), as_json=options.json)


def table(medians: dict[str, float]) -> str:
    """The result for people."""
    return "\n".join(f"{name:<18}{median:>8.1f} ms" for name, median in medians.items())


if __name__ == "__main__":
    main()
