"""How fast the engines of `twin llm serve` are: first token, one stream, eight at once, the same client for all.

python benchmarks/llm_engines.py [--json] [--engines openvino llama.cpp vllm] [--rounds N]

The model has the shape of SmolLM2-135M and random weights, so that nothing is downloaded: Q8_0 for OpenVINO and
llama.cpp, 16 bits for vLLM. Engines that are not installed are left out and named. llama.cpp, the engine most people
have, is the baseline; without it there are no ratios.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_twin import llm
from llm_twin.core.errors import TwinError
from report import command, show

ENGINES = ("openvino", "llama.cpp", "vllm")
BASELINE = "llama.cpp"
PROMPT_TOKENS = 220
REPLY_TOKENS = 96
AT_ONCE = 8
OPTIONS = {"vllm": ("--max-model-len", "2048"), "llama.cpp": ("--parallel", str(AT_ONCE), "--ctx-size", "8192")}


def main() -> None:
    """Serve the model with each engine in turn and measure it through its HTTP API."""
    parser = command(__doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # gigabytes; it would take most of the memory
    engines: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder), options.engines)
        for engine in options.engines:
            try:
                engines[engine] = _measured(engine, models[engine], options.rounds)
            except TwinError as error:
                missing[engine] = str(error).partition("\n")[0]
    result = {"engines": engines, "missing": missing, "ratios": _ratios(engines), "prompt_tokens": PROMPT_TOKENS}
    show(result, table, as_json=options.json)


def _models(folder: Path, engines: list[str]) -> dict[str, Path]:
    """The same weights as each engine reads them."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    made = importlib.import_module("tiny_llama")
    gguf = made.write_gguf(folder / "smol.gguf", made.SMOL, quantised=True)
    models = dict.fromkeys(ENGINES, gguf)
    if "vllm" in engines:
        models["vllm"] = made.write_folder(folder / "smol", made.SMOL)
    return models


def _measured(engine: str, model: Path, rounds: int) -> dict[str, float]:
    started = time.perf_counter()
    with llm.serve(
        str(model),
        name="smol",
        engine=engine,
        options=OPTIONS.get(engine, ()),
        progress=_Quiet(),
        log=lambda _: None,
    ) as service:
        ready_s = time.perf_counter() - started
        _reply(service.base_url, 0)  # the first reply also pays for what is made once
        alone = [_reply(service.base_url, number) for number in range(1, rounds + 1)]
        many = [_together(service.base_url, 100 * number) for number in range(1, rounds + 1)]
    return {
        "ready_s": round(ready_s, 2),
        "first_token_s": round(statistics.median(first for first, _, _ in alone), 3),
        "tokens_per_s": round(statistics.median((count - 1) / (last - first) for first, last, count in alone), 1),
        "first_token_of_8_s": round(statistics.median(first for first, _ in many), 3),
        "tokens_per_s_of_8": round(statistics.median(rate for _, rate in many), 1),
    }


def _together(base_url: str, number: int) -> tuple[float, float]:
    """Median first token, and tokens per second in all, of several replies at once."""
    replies: list[tuple[float, float, int]] = []

    def ask(place: int) -> None:
        replies.append(_reply(base_url, number + place))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(AT_ONCE)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return statistics.median(first for first, _, _ in replies), sum(count for _, _, count in replies) / seconds


def _reply(base_url: str, number: int) -> tuple[float, float, int]:
    """Seconds to the first and to the last piece of a reply, and its tokens. No two prompts begin alike."""
    body = {
        "model": "smol",
        "messages": [{"role": "user", "content": f"{number:03d}" + "xy" * ((PROMPT_TOKENS - 23) // 2)}],
        "max_tokens": REPLY_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    first = last = count = 0.0
    started = time.perf_counter()
    with urllib.request.urlopen(request) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
            if any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ())):
                last = time.perf_counter() - started
                first = first or last
    return first, last, int(count)


def _ratios(engines: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """How much better than the baseline each engine is, per figure; above 1 is better."""
    if BASELINE not in engines:
        return {}
    base = engines[BASELINE]
    return {
        engine: {
            figure: round(value / base[figure] if figure.startswith("tokens") else base[figure] / value, 2)
            for figure, value in figures.items()
        }
        for engine, figures in engines.items()
    }


class _Quiet:
    """Progress nobody watches."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _: None


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    heads = ("ready s", "first token s", "tokens/s", "first of 8 s", "tokens/s of 8")
    lines = ["".join((f"{'':<12}", *(f"{head:>16}" for head in heads)))]
    for engine, figures in result["engines"].items():
        ratios = result["ratios"].get(engine, {})
        cells = (f"{value:g} ({ratios[name]:g}x)" if ratios else f"{value:g}" for name, value in figures.items())
        lines.append("".join((f"{engine:<12}", *(f"{cell:>16}" for cell in cells))))
    lines += [f"{engine}: {why}" for engine, why in result["missing"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
