"""vLLM: many replies at once on a GPU. It serves itself; here is only how it is started.

It is so large, and so particular about its torch, that it lives in an environment of its own: the command `vllm` on the
PATH is enough.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence

from llm_twin.core.records import ModelFiles, ModelFormat


class VllmEngine:
    """`options` go to vLLM as they are, such as `("--max-model-len", "4096")`."""

    name = "vllm"
    formats: tuple[ModelFormat, ...] = ("huggingface",)
    health = "/health"

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = list(options)

    def missing(self) -> str:
        """What to install; empty when vLLM is on the PATH or in this environment."""
        if shutil.which("vllm") or importlib.util.find_spec("vllm"):
            return ""
        return "install vLLM in an environment of its own (pip install vllm) and put its command `vllm` on the PATH"

    def command(
        self, model: ModelFiles, *, host: str, port: int, api_key: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        """`vllm serve` with the model's name, reporting nothing to anybody."""
        found = shutil.which("vllm")
        program = [found, "serve"] if found else [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
        address = ["--host", host, "--port", str(port), "--served-model-name", model.name]
        environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        if api_key:
            environment["VLLM_API_KEY"] = api_key
        return [*program, model.path, *address, *self._options], environment
