"""One typed tree of settings: argument > environment `TWIN_<SECTION>_<KEY>` > `twin.toml` > default.

`load` reads the layers, keeps where each value came from, and turns every mistake into a `ConfigError` that names the
key, the file and line (or the variable), and the nearest valid key. Nothing here is read at import.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llm_twin.core.errors import ConfigError

GuardSetting = Literal["block", "flag", "off"]

PREFIX = "TWIN_"
_NOT_SETTINGS = {"TWIN_DATA", "TWIN_DEBUG", "TWIN_WORKSPACE"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class AuthorSettings(_Section):
    """Whose twin this is."""

    name: str = "the author"
    """Name of the author; documents that name their own author keep that name."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the name, as they occur in documents or questions."""


class SourceSettings(_Section):
    """One place where the author publishes. Keys beside these are options of the source's kind (`twin sources`)."""

    model_config = ConfigDict(extra="allow")

    address: str
    """A file, folder or glob (relative to twin.toml), or the address of a site."""
    kind: str = ""
    """Kind of source by name; empty recognises it from the address."""
    author: str = ""
    """Author of what is found here; empty means `author.name`."""
    render: bool = False
    """Whether pages are read through a browser, for sites that scripts build; the same as `kind = "browser"`."""

    @property
    def options(self) -> dict[str, Any]:
        """What the source's kind is told beside the address."""
        return dict(self.model_extra or {})


class FetchSettings(_Section):
    """How sources on the network are read. Proxies in the environment are not used."""

    contact: str = Field(default="", pattern=r"^[^\s()\x00-\x1f\x7f-\U0010ffff]*$")
    """Your web or mail address, sent with every request so that a site can reach you."""
    requests_per_second: float = Field(default=1.0, gt=0, le=100)
    """Requests per second to one host; a longer crawl-delay of its robots.txt is honoured."""
    concurrency: int = Field(default=2, ge=1, le=16)
    """Connections to one host at once."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds a request may take in all, from the connection to the last byte."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds until a connection stands."""
    download_timeout_s: float = Field(default=600.0, gt=0)
    """Seconds the download of an archive may take in all."""
    retries: int = Field(default=3, ge=0, le=10)
    """Further tries after a 429, a 5xx or a lost connection, with back-off."""
    max_wait_s: float = Field(default=60.0, ge=0)
    """Most seconds to wait because a site asks for it (Retry-After, crawl-delay); for longer, the item fails."""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Most bytes of a page, before and after decompression."""
    max_download_bytes: int = Field(default=2_000_000_000, ge=1)
    """Most bytes of an archive."""
    max_redirects: int = Field(default=5, ge=0, le=20)
    """Redirects followed from one address."""
    cache_max_bytes: int = Field(default=500_000_000, ge=0)
    """Most bytes of pages kept on disk to ask sites only for what changed."""
    respect_robots: bool = True
    """Whether robots.txt decides what is fetched; turn it off for sites of your own only."""
    allow_private: bool = False
    """Whether addresses of your own network and this machine may be fetched."""


class BrowserSettings(_Section):
    """The browser for sources of kind `browser`. It goes where `[fetch]` allows and nowhere else."""

    engine: str = "playwright"
    """Engine by name: `playwright` or `selenium`."""
    executable: str = ""
    """Path of Chromium; empty means the first on the PATH."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds a page may take in all: loading, waiting and scrolling."""


class CollectSettings(_Section):
    """What is taken out of every document before it is stored, beside secrets, which always are."""

    redact_personal: tuple[str, ...] = ()
    """Kinds of personal data to take out: `email`, `phone`, `iban`, `card`, `ssn`, `ip`, `address`; empty for none."""
    keep_personal: tuple[str, ...] = ()
    """Addresses and numbers that stay, such as your own; `@example.org` stands for all of a domain."""
    personal_engine: str = "patterns"
    """How personal data is found: `patterns`, or `presidio` for its patterns."""


class WarehouseSettings(_Section):
    """Where documents, features, embeddings and runs are kept."""

    url: str = Field(default="", repr=False)
    """Database URL, `sqlite:///…`, `postgresql://…` or `mongodb://…`; empty means .twin/warehouse.db."""


class IndexSettings(_Section):
    """The vector index."""

    store: str = "qdrant_edge"
    """Index by name: `qdrant_edge` (in this process) or `qdrant` (a server)."""
    url: str = ""
    """URL of the Qdrant server; only for `store = "qdrant"`."""
    api_key_env: str = "QDRANT_API_KEY"
    """Environment variable that holds the server's key."""
    collection: str = "llm-twin"
    """Alias of the live collection on the server."""


class EmbedderSettings(_Section):
    """The model that turns text into vectors."""

    name: str = "minilm"
    """Embedder by name."""
    weights: str = ""
    """Folder with the weights, or `hub:OWNER/NAME`; empty means the installed weights package."""
    precision: Literal["default", "f32"] = "default"
    """`default` lets OpenVINO choose the fastest for this CPU, `f32` is exact and slower."""
    threads: int = Field(default=0, ge=0)
    """CPU threads for embedding; 0 means all."""


class FeaturesSettings(_Section):
    """From documents to chunks."""

    chunker: str = "structure"
    """Chunker by name: `structure`, `recursive`, `fixed` or `semantic`."""
    duplicate_similarity: float = Field(default=0.8, gt=0, le=1)
    """Similarity of wording from which two documents of one author count as the same (0 to 1)."""


class SearchSettings(_Section):
    """Retrieval."""

    k: int = Field(default=10, ge=1, le=1000)
    """Hits returned."""
    candidates: int = Field(default=50, ge=1, le=1000)
    """Chunks taken from each method before re-ranking."""
    reranker: str = "maxsim"
    """Re-ranker by name: `maxsim`, `cross_encoder` or `none`."""
    reranker_weights: str = ""
    """Folder or `hub:OWNER/NAME` with the weights of the cross-encoder."""


class AskSettings(_Section):
    """Answers and drafts."""

    passages: int = Field(default=8, ge=1, le=100)
    """Hits from which the context is assembled."""
    context_tokens: int = Field(default=2000, ge=100)
    """Most tokens of passages given to the model, counted by the embedder's tokenizer."""
    max_tokens: int = Field(default=800, ge=16)
    """Most tokens of an answer."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    """Sampling temperature of answers and drafts."""
    keep_history: bool = True
    """Whether questions and answers are kept in the workspace: for conversations, and for feedback on them."""


class BatchSettings(_Section):
    """Files of questions: `twin ask --file`, and batches of the service."""

    concurrency: int = Field(default=4, ge=1, le=256)
    """Questions answered at the same time."""


class GuardSettings(_Section):
    """What guards question, passages and answer. Each is `block`, `flag` (a note in the answer) or `off`."""

    injection: GuardSetting = "block"
    """Questions that try to give the model orders: blocked where that is sure, flagged where it is likely."""
    passages: GuardSetting = "block"
    """Orders to a model inside passages: `block` takes the sentence out of what the model sees."""
    secrets: GuardSetting = "block"
    """Keys and passwords in an answer; in a question they are taken out, unless this is `off`."""
    topics: tuple[str, ...] = ()
    """What the twin must not speak about, as in `my family: wife, children` or `legal advice`."""
    on_topics: GuardSetting = "block"
    """Questions and answers about one of `topics`."""
    personal: GuardSetting = "flag"
    """Mail addresses, phone, account and card numbers in a question, and in an answer where no passage holds them."""
    prompt: GuardSetting = "flag"
    """Answers that recite the model's instructions."""
    unsupported: GuardSetting = "flag"
    """Generated answers with sentences that no passage supports; these are marked in the text in any case."""
    off_topic: GuardSetting = "block"
    """Questions the writing does not cover: `block` abstains, the others answer from what comes nearest."""
    length: GuardSetting = "flag"
    """Questions longer than `max_characters`."""
    max_characters: int = Field(default=8000, ge=1)
    """Characters a question should have at most."""
    language: GuardSetting = "off"
    """Questions in a language that is not among `languages`; the first such look takes a second."""
    languages: tuple[str, ...] = ("en",)
    """Languages in which questions are expected, as ISO 639-1 codes."""


class CacheSettings(_Section):
    """Answers to repeated questions, kept in memory while the process runs, each for its user."""

    enabled: bool = False
    """Whether a question that was answered before, under the same conditions, gets the same answer again."""
    similarity: float = Field(default=0.85, ge=0, le=1)
    """Cosine from which a question in other words may be the same one; its words decide. 1 leaves equal texts only."""
    entries: int = Field(default=256, ge=1, le=100_000)
    """Answers kept; the one that was asked for longest ago makes room."""
    max_age_s: float = Field(default=86_400.0, gt=0)
    """Seconds after which an answer is made anew."""


class LlmSettings(_Section):
    """The language model. Without `model` the twin answers extractively and nothing leaves this machine."""

    model: str = ""
    """Name of the model as its server knows it; empty means no model."""
    base_url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Base URL of an OpenAI-compatible server; empty means $OPENAI_BASE_URL, else https://api.openai.com/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds a reply may pause between two pieces."""
    first_token_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds until the first piece of a reply."""
    retries: int = Field(default=3, ge=0, le=10)
    """Further tries after a 429, a 5xx or a lost connection, with back-off."""


class ServerSettings(_Section):
    """The service that `twin serve` runs."""

    host: str = "127.0.0.1"
    """Address it listens on; the default is reachable from this machine only."""
    port: int = Field(default=8765, ge=0, le=65535)
    """Port it listens on; 0 takes a free one."""
    streams: int = Field(default=64, ge=1, le=1000)
    """Answers made at the same time."""
    searches: int = Field(default=4, ge=1, le=1000)
    """Searches made at the same time; more than there are cores only get in each other's way."""
    waiting: int = Field(default=64, ge=0, le=10_000)
    """Further answers, and searches, that may wait for their turn; who comes after them is asked to try later (429)."""
    search_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds a search may take."""
    retrieval_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds of an answer until its passages are found."""
    answer_timeout_s: float = Field(default=600.0, gt=0)
    """Seconds a whole answer or draft may take."""
    shutdown_s: float = Field(default=30.0, ge=0)
    """Seconds that answers under way may go on when the service is stopped."""
    hosts: tuple[str, ...] = ()
    """Names beside localhost under which a service without keys may be called, such as that of this machine."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may call the service from a browser, as in `https://notes.example.org`; none by default."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For is believed."""
    asks_per_minute: int = Field(default=60, ge=1)
    """Answers, drafts and feedback that one key may ask for in a minute."""
    reads_per_minute: int = Field(default=600, ge=1)
    """Other requests that one key may send in a minute."""
    sources_in_text: bool = True
    """Whether texts for clients of OpenAI's protocol end with their sources and notes, where a request says nothing."""
    max_body_bytes: int = Field(default=10_000_000, ge=1000)
    """Most bytes of a request, such as a batch of questions."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds a request may take to arrive."""
    log_questions: bool = False
    """Whether the access log tells what stands after the `?` of an address."""

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses_only(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        """Names are not looked up, and `*` would let everybody choose the address that they come from."""
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(
                    f"{proxy!r} is no address of a proxy; name yours, as in 127.0.0.1 or 10.0.0.0/8"
                ) from None
        return proxies


class TracesSettings(_Section):
    """What the twin records about its own work, inside the workspace."""

    enabled: bool = True
    """Whether spans of sync and ask are stored."""


class Settings(_Section):
    """The whole tree."""

    author: AuthorSettings = AuthorSettings()
    sources: tuple[SourceSettings, ...] = ()
    """Where the author publishes; in twin.toml one [[sources]] table each."""
    fetch: FetchSettings = FetchSettings()
    browser: BrowserSettings = BrowserSettings()
    collect: CollectSettings = CollectSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    index: IndexSettings = IndexSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    features: FeaturesSettings = FeaturesSettings()
    search: SearchSettings = SearchSettings()
    ask: AskSettings = AskSettings()
    batch: BatchSettings = BatchSettings()
    guard: GuardSettings = GuardSettings()
    cache: CacheSettings = CacheSettings()
    llm: LlmSettings = LlmSettings()
    server: ServerSettings = ServerSettings()
    traces: TracesSettings = TracesSettings()

    @field_validator("sources", mode="before")
    @classmethod
    def _addresses(cls, sources: Any) -> Any:
        """A bare string is a source with nothing but an address."""
        if not isinstance(sources, list | tuple):
            return sources
        return [{"address": source} if isinstance(source, str) else source for source in sources]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as `twin config show` prints it."""

    key: str
    value: Any
    origin: str
    meaning: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with the origin of every value that is not a default, by dotted key."""

    values: Settings
    origins: Mapping[str, str]

    def explain(self) -> Iterator[Setting]:
        """Every setting in order: value (passwords hidden), where it came from, what it means."""
        for section_name, section_field in Settings.model_fields.items():
            section = getattr(self.values, section_name)
            if not isinstance(section, BaseModel):
                shown = hide_password([entry.model_dump(exclude_defaults=True) for entry in section])
                yield Setting(section_name, shown, self._origin(section_name), section_field.description or "")
                continue
            for name, field in type(section).model_fields.items():
                key = f"{section_name}.{name}"
                yield Setting(key, hide_password(getattr(section, name)), self._origin(key), field.description or "")

    def _origin(self, key: str) -> str:
        return self.origins.get(key, "default")


def load(
    path: Path | None, *, environment: Mapping[str, str] | None = None, arguments: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """Read the layers and check them. `arguments` are dotted keys (`"llm.model"`); None values do not count.

    Raises `ConfigError` for an unreadable file, an unknown key or an ill-typed value.
    """
    text = _read(path) if path is not None else ""
    origins: dict[str, str] = {}
    tree: dict[str, Any] = {}
    for layer in (
        _from_toml(text, path),
        _from_environment(os.environ if environment is None else environment),
        (((key, value), "argument") for key, value in (arguments or {}).items() if value is not None),
    ):
        for (key, value), origin in layer:
            _put(tree, key, value)
            origins[key] = origin
    try:
        return LoadedSettings(Settings.model_validate(tree), origins)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, text, path)) from None


# What follows the colon is a port where digits alone stand before the path.
_PASSWORD = re.compile(r"(://[^:/@\s]*):(?!\d+(?:[/?#]|$))\S*@")


def hide_password(value: Any) -> Any:
    """The value with the passwords of URLs replaced by stars, also inside lists and tables.

    A password ends at the last @, since who forgets to encode an @ or / of it must not read half of it in a log.
    """
    if isinstance(value, str):
        return _PASSWORD.sub(r"\1:***@", value)
    if isinstance(value, Mapping):
        return {key: hide_password(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide_password(item) for item in value]
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}; save it in that encoding and try again") from None


def _from_toml(text: str, path: Path | None) -> Iterator[tuple[tuple[str, Any], str]]:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; correct that place and try again") from None
    for section, values in tree.items():
        if not isinstance(values, dict):
            yield (section, values), f"{path}:{_line(text, section)}"
            continue
        for name, value in values.items():
            key = f"{section}.{name}"
            yield (key, value), f"{path}:{_line(text, key)}"


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, Any], str]]:
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        section, _, name = variable.removeprefix(PREFIX).lower().partition("_")
        key = f"{section}.{name}" if name else section
        if key not in _keys():
            raise ConfigError(f"the environment variable {variable} names no setting{_nearest(key, variable=True)}")
        value: Any = environment[variable]
        if _is_list(key):
            value = [part.strip() for part in value.split(",") if part.strip()]
        yield (key, value), f"${variable}"


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    if not name:
        tree[section] = value
        return
    if not isinstance(tree.setdefault(section, {}), dict):
        tree[section] = {}
    tree[section][name] = value


def _keys() -> list[str]:
    keys: list[str] = []
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys.extend(f"{section}.{name}" for name in kind.model_fields)
        else:
            keys.append(section)
    return keys


def _is_list(key: str) -> bool:
    section, _, name = key.partition(".")
    kind = Settings.model_fields[section].annotation
    if name and isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = kind.model_fields[name].annotation
    return "tuple" in str(kind)


def _nearest(key: str, *, variable: bool = False) -> str:
    known = [*_keys(), *(f"sources.{name}" for name in SourceSettings.model_fields)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:
        return "; run `twin config show` for all of them"
    name = PREFIX + near[0].replace(".", "_").upper() if variable else near[0]
    return f"; did you mean {name}? `twin config show` lists all of them"


def _line(text: str, key: str) -> int:
    """The line of a dotted key in TOML text, or of its section, counted from 1."""
    section, _, name = key.rpartition(".")
    current, found = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line):
            current = header.group(1)
            found = number if current == key else found
        elif current == section and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=", line):
            return number
    return found


def _explain(error: ValidationError, origins: Mapping[str, str], text: str, path: Path | None) -> str:
    """One line for the first mistake: key, place, value, and what would be right."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    key = ".".join(part for part in parts if not part.isdigit())
    origin = origins.get(key) or origins.get(parts[0])
    if origin is None or (len(parts) > 1 and parts[1].isdigit()):
        origin = f"{path}:{_line(text, key)}" if path is not None else "the arguments"
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r} in {origin}{_nearest(key)}"
    if first["type"] == "missing":
        return _no_address(first["input"], int(parts[1]), text, path)
    value = f", got {hide_password(first['input'])!r}"
    return f"setting {key!r} in {origin} is wrong: {first['msg'].lower()}{value}; correct it there"


def _no_address(table: Mapping[str, Any], number: int, text: str, path: Path | None) -> str:
    """What to say of the [[sources]] table of that number, counted from 0: only its address must be there."""
    headers = [line for line, said in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*sources\s*\]\]", said)]
    where = f"{path}:{headers[number]}" if number < len(headers) else str(path or "the arguments")
    near = difflib.get_close_matches("address", map(str, table), n=1)
    hint = f"did you mean that by {near[0]!r}? " if near else ""
    return f'the [[sources]] table in {where} has no address; {hint}give it one, as in address = "posts"'
