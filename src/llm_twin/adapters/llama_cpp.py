"""llama.cpp: GGUF files on almost any machine. Its `llama-server` serves; here is only how it is started."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from llm_twin.core.records import ModelFiles, ModelFormat


class LlamaCppEngine:
    """`options` go to llama-server as they are, such as `("--ctx-size", "8192")`."""

    name = "llama.cpp"
    formats: tuple[ModelFormat, ...] = ("gguf",)
    health = "/health"

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = list(options)

    def missing(self) -> str:
        """What to install; empty when llama-server is on the PATH."""
        if shutil.which("llama-server"):
            return ""
        return "install llama.cpp (brew install llama.cpp, or a release of its project) with `llama-server` on the PATH"

    def command(
        self, model: ModelFiles, *, host: str, port: int, api_key: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        """`llama-server` with the model's name, without its web page, and without the network."""
        program = shutil.which("llama-server") or "llama-server"
        address = ["--host", host, "--port", str(port), "--alias", model.name, "--no-webui", "--offline"]
        return [program, "-m", model.path, *address, *self._options], {"LLAMA_API_KEY": api_key} if api_key else {}
