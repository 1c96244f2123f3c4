"""Every swappable part: kind → name → "module:Class". A module is imported when its part is asked for.

To add a part, write its file and one line here; `llm_twin.core.ports` says what shape it needs. A part that lives in
another package needs no line: that package declares an entry point in the group `llm_twin.<kind>`, for example

    [project.entry-points."llm_twin.chunker"]
    verse = "my_package.verse:VerseChunker"
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from llm_twin.core.errors import ConfigError

PARTS: Mapping[str, Mapping[str, str]] = {
    "source": {
        "github": "llm_twin.collect.github:GitHubSource",
        "substack": "llm_twin.collect.substack:SubstackSource",
        "medium": "llm_twin.collect.medium:MediumSource",
        "linkedin": "llm_twin.collect.linkedin:LinkedInSource",
        "x": "llm_twin.collect.x:XSource",
        "telegram": "llm_twin.collect.telegram:TelegramSource",
        "slack": "llm_twin.collect.slack:SlackSource",
        "feed": "llm_twin.collect.feed:FeedSource",
        "web": "llm_twin.collect.web:WebSource",
        "browser": "llm_twin.collect.browser:BrowserSource",
        "files": "llm_twin.collect.files:FilesSource",
    },
    "fetcher": {
        "http": "llm_twin.collect.fetch:Fetcher",
    },
    "browser": {
        "playwright": "llm_twin.adapters.playwright:PlaywrightBrowser",
        "selenium": "llm_twin.adapters.selenium:SeleniumBrowser",
    },
    "warehouse": {
        "mongodb": "llm_twin.adapters.mongodb:MongoWarehouse",
        "sql": "llm_twin.adapters.sql:SqlWarehouse",
    },
    "trace_store": {
        "sql": "llm_twin.adapters.sql:SqlTraces",
    },
    "tracer": {
        "otel": "llm_twin.adapters.otel:OtelTracer",
        "silent": "llm_twin.adapters.otel:SilentTracer",
    },
    "embedder": {
        "minilm": "llm_twin.adapters.minilm:MiniLmEmbedder",
    },
    "sparse_encoder": {
        "bm25": "llm_twin.adapters.bm25:Bm25Encoder",
    },
    "vector_index": {
        "qdrant_edge": "llm_twin.adapters.qdrant_edge:QdrantEdgeIndex",
        "qdrant": "llm_twin.adapters.qdrant:QdrantIndex",
    },
    "chunker": {
        "structure": "llm_twin.features.chunk:StructureChunker",
        "recursive": "llm_twin.features.chunk:RecursiveChunker",
        "fixed": "llm_twin.features.chunk:FixedChunker",
        "semantic": "llm_twin.features.chunk:SemanticChunker",
    },
    "redactor": {
        "secrets": "llm_twin.features.redact:SecretRedactor",
        "personal": "llm_twin.features.personal:PersonalRedactor",
        "in_turn": "llm_twin.features.personal:Redactors",
    },
    "personal_finder": {
        "patterns": "llm_twin.features.personal:PatternFinder",
        "presidio": "llm_twin.adapters.presidio:PresidioFinder",
    },
    "reranker": {
        "maxsim": "llm_twin.inference.rerank:MaxSimReranker",
        "cross_encoder": "llm_twin.adapters.minilm:CrossEncoderReranker",
    },
    "language_model": {
        "openai": "llm_twin.adapters.openai:OpenAiModel",
    },
    "llm_engine": {
        "vllm": "llm_twin.adapters.vllm:VllmEngine",
        "llama.cpp": "llm_twin.adapters.llama_cpp:LlamaCppEngine",
        "openvino": "llm_twin.adapters.openvino_genai:OpenVinoEngine",
    },
    "reply_writer": {
        "openvino": "llm_twin.adapters.openvino_genai:OpenVinoWriter",
    },
    "model_hub": {
        "huggingface": "llm_twin.adapters.huggingface:HuggingFaceHub",
    },
}


def names(kind: str) -> list[str]:
    """Every part of a kind, ours and those of installed packages, without importing any."""
    return sorted({*PARTS[kind], *_entry_points(kind)})


def ordered(kind: str) -> list[str]:
    """The same in order of precedence: parts of other packages first, then ours as the table has them."""
    return [*sorted(_entry_points(kind).keys() - PARTS[kind].keys()), *PARTS[kind]]


def part(kind: str, name: str) -> Any:
    """The class (or factory) of that name. Raises `ConfigError` with the nearest names when there is none."""
    target = PARTS[kind].get(name)
    if target is None:
        entry_points = _entry_points(kind)
        if name not in entry_points:
            near = difflib.get_close_matches(name, names(kind), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            what = "kind of source" if kind == "source" else kind.replace("_", " ")
            raise ConfigError(f"there is no {what} named {name!r}; {hint}Known: {', '.join(names(kind))}")
        return entry_points[name].load()
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _entry_points(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=f"llm_twin.{kind}")}
