"""What a twin is made of: every part the settings name, found in `catalog.py` and built when it is first asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from llm_twin import catalog, settings
from llm_twin.workspace import Workspace

if TYPE_CHECKING:
    from llm_twin.core import ports
    from llm_twin.inference.cache import AnswerCache
    from llm_twin.inference.guardrails import Guardrails
    from llm_twin.inference.turns import Turns

T = TypeVar("T")


class part(Generic[T]):  # noqa: N801 – used as a decorator, like `property`
    """A part: built when it is first asked for, and once, however many threads ask.

    Not `functools.cached_property`, which has no lock since Python 3.12, and before it one per part, so that two parts
    that need each other's parts could wait for each other.
    """

    def __init__(self, build: Callable[[Any], T]) -> None:
        self.__doc__ = build.__doc__
        self._build = build

    @overload
    def __get__(self, parts: None, owner: type[Parts]) -> part[T]: ...
    @overload
    def __get__(self, parts: Parts, owner: type[Parts]) -> T: ...
    def __get__(self, parts: Parts | None, owner: type[Parts]) -> part[T] | T:
        if parts is None:
            return self
        name = self._build.__name__
        with parts._building:
            if name not in parts.__dict__:
                parts.__dict__[name] = self._build(parts)
            # From now on the object's own attribute is found first, and nobody comes here.
            return cast("T", parts.__dict__[name])


class Parts:
    """The parts of one workspace. Cheap to make; `close` releases what was built."""

    def __init__(self, workspace: Workspace, loaded: settings.LoadedSettings) -> None:
        self.workspace = workspace
        self.loaded = loaded
        self.settings = loaded.values
        self._browsers: dict[str, ports.Browser] = {}
        self._building = threading.RLock()  # held while a part is built, which may ask for others

    def close(self) -> None:
        """Release what was opened, all of it even where one part fails to close."""
        with ExitStack() as stack:
            # A stack closes the last one first: what was built later may need what was built before it.
            for name in [name for name in self.__dict__ if isinstance(getattr(type(self), name, None), part)]:
                stack.callback(self._close_part, name)
            stack.callback(self._close_browsers)

    def _close_part(self, name: str) -> None:
        close = getattr(self.__dict__.pop(name, None), "close", None)
        if close is not None:
            close()

    @part
    def warehouse(self) -> ports.Warehouse:
        """Documents, features, embeddings, runs."""
        url = self.settings.warehouse.url or f"sqlite:///{self.workspace.state / 'warehouse.db'}"
        # A warehouse is named as the scheme of its URLs is (`mongodb+srv` too); SQL databases have many schemes.
        scheme = url.partition(":")[0].partition("+")[0]
        name = scheme if scheme in catalog.names("warehouse") else "sql"
        return cast("ports.Warehouse", catalog.part("warehouse", name)(url))

    @part
    def trace_store(self) -> ports.TraceStore:
        """Spans of this workspace; always beside it, whatever the warehouse is."""
        return cast(
            "ports.TraceStore", catalog.part("trace_store", "sql")(f"sqlite:///{self.workspace.state / 'traces.db'}")
        )

    @part
    def tracer(self) -> ports.Tracer:
        """Times every step into the trace store."""
        if not self.settings.traces.enabled:
            return cast("ports.Tracer", catalog.part("tracer", "silent")())
        return cast("ports.Tracer", catalog.part("tracer", "otel")(self.trace_store))

    @part
    def fetcher(self) -> Any:
        """The one way to the network for every source; what it fetched is kept to ask only for what changed."""
        build = catalog.part("fetcher", "http").open
        return build(self.workspace.state / "fetched", **self.settings.fetch.model_dump())

    def browser(self, profile: str = "") -> ports.Browser:
        """The browser that uses a profile folder, by default none; each is opened once, and closed after a sync."""
        if profile not in self._browsers:
            chosen = self.settings.browser
            self._browsers[profile] = catalog.part("browser", chosen.engine)(
                proxy=self.fetcher.gate.address,
                executable=chosen.executable,
                profile=self.workspace.root / Path(profile).expanduser() if profile else None,
                timeout_s=chosen.timeout_s,
                max_bytes=self.settings.fetch.max_bytes,
            )
        return self._browsers[profile]

    def _close_browsers(self) -> None:
        while self._browsers:
            self._browsers.popitem()[1].close()

    @part
    def embedder(self) -> ports.Embedder:
        """Text to vectors."""
        chosen = self.settings.embedder
        return cast(
            "ports.Embedder",
            catalog.part("embedder", chosen.name)(
                weights=chosen.weights or None,
                precision=chosen.precision,
                threads=chosen.threads or None,
                cache_dir=_cache_dir(),
            ),
        )

    @part
    def sparse(self) -> ports.SparseEncoder:
        """Text to weighted terms."""
        return cast("ports.SparseEncoder", catalog.part("sparse_encoder", "bm25")())

    @part
    def index(self) -> ports.VectorIndex:
        """The published index."""
        chosen = self.settings.index
        build = catalog.part("vector_index", chosen.store)
        if chosen.store == "qdrant_edge":
            return cast("ports.VectorIndex", build(self.workspace.state / "index"))
        key = os.environ.get(chosen.api_key_env)
        return cast("ports.VectorIndex", build(chosen.url, api_key=key, collection=chosen.collection))

    @part
    def chunker(self) -> ports.Chunker:
        """Documents to chunks."""
        name = self.settings.features.chunker
        build = catalog.part("chunker", name)
        if name == "semantic":
            return cast("ports.Chunker", build(self.embedder.tokenizer, self.embedder))
        return cast("ports.Chunker", build(self.embedder.tokenizer))

    @part
    def redactor(self) -> ports.Redactor:
        """Takes secrets, and personal data by choice, out before anything is stored."""
        secrets = cast("ports.Redactor", catalog.part("redactor", "secrets")())
        chosen = self.settings.collect
        if not chosen.redact_personal:
            return secrets
        finder = catalog.part("personal_finder", chosen.personal_engine)(chosen.redact_personal)
        personal = catalog.part("redactor", "personal")(finder, keep=chosen.keep_personal)
        return cast("ports.Redactor", catalog.part("redactor", "in_turn")(secrets, personal))

    @part
    def reranker(self) -> ports.Reranker | None:
        """The closer look at candidates."""
        chosen = self.settings.search
        if chosen.reranker == "none":
            return None
        build = catalog.part("reranker", chosen.reranker)
        if chosen.reranker == "maxsim":
            return cast("ports.Reranker", build(self.embedder, self.warehouse))
        return cast("ports.Reranker", build(weights=chosen.reranker_weights))

    @part
    def model(self) -> ports.LanguageModel | None:
        """The language model, or None: then answers are extractive and nothing leaves this machine."""
        chosen = self.settings.llm
        if not chosen.model:
            return None
        return cast(
            "ports.LanguageModel",
            catalog.part("language_model", "openai")(
                base_url=chosen.base_url,
                model=chosen.model,
                api_key=os.environ.get(chosen.api_key_env),
                api_key_env=chosen.api_key_env,
                timeout_s=chosen.timeout_s,
                first_token_timeout_s=chosen.first_token_timeout_s,
                retries=chosen.retries,
            ),
        )

    @part
    def guards(self) -> Guardrails:
        """What guards questions, passages and answers."""
        from llm_twin.inference import pipeline as inference

        chosen = self.settings.guard
        author = self.settings.author
        actions = {name: value for name, value in chosen if value in ("block", "flag", "off")}
        return inference.guardrails(
            {**actions, "topics": chosen.on_topics},
            embedder=self._remembering,
            redactor=catalog.part("redactor", "secrets")(),
            finder=catalog.part("personal_finder", "patterns")(inference.PERSONAL_KINDS),
            authors=(author.name, *author.aliases),
            topics=chosen.topics,
            languages=chosen.languages,
            max_characters=chosen.max_characters,
            cache_dir=_cache_dir(),
        )

    @part
    def _remembering(self) -> ports.Embedder:
        """The embedder as answers use it: guard and search embed a question once between them."""
        from llm_twin.inference import pipeline as inference

        return inference.Remembering(self.embedder)

    @part
    def _turns(self) -> Turns:
        """Who of many answers may compute now."""
        from llm_twin.inference import pipeline as inference

        return inference.Turns()

    @part
    def cache(self) -> AnswerCache:
        """Answers to repeated questions; asked only where the setting `cache.enabled` says so."""
        from llm_twin.inference import pipeline as inference

        chosen = self.settings.cache
        return inference.AnswerCache(
            self._remembering, similarity=chosen.similarity, entries=chosen.entries, max_age_s=chosen.max_age_s
        )


def _cache_dir() -> Path:
    """Where built model graphs are kept: derived data that workspaces share, safe to delete."""
    import platformdirs

    return platformdirs.user_cache_path("llm-twin", appauthor=False)
