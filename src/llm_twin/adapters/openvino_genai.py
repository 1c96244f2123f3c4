"""OpenVINO GenAI: a language model on this machine's processor, in a process of ours. Needs the extra `openvino-genai`.

`OpenVinoEngine` is how the server is started (`python -m llm_twin.server.llm`), `OpenVinoWriter` the model in it. It
loads GGUF files (tried: F16 and Q8_0; not Q4_K_M) and folders in OpenVINO's own format.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import random
import re
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from llm_twin.core.errors import MissingExtra, ModelBusy, ModelError, ModelMissing, ReplyRefused
from llm_twin.core.records import Delta, Message, ModelFiles, ModelFormat, ReplyRequest, Usage
from llm_twin.core.stopping import StopTexts

PARALLEL = 8
"""Replies written at once. More share the processor: each is slower, all together hardly faster."""
WAITING = 32
"""Replies that may wait for a place beyond those."""
MAX_SCHEMA = 32_768
"""Characters of a JSON schema; a larger one takes long to compile, and holds up everybody."""
_BROKEN_CHARACTER = "\ufffd"
_MOST_HELD = 64
"""Tokens that may wait for the end of a character, far more than one has. What is broken for longer stays so: reading
all of it again with every token would take quadratic time."""
_TEMPLATE_ERROR = re.compile(r"Minja's error: (.*?)(?: at row |$)", re.MULTILINE)
_log = logging.getLogger(__name__)


class OpenVinoEngine:
    """`options` go to our server as they are, such as `("--parallel", "4")`."""

    name = "openvino"
    formats: tuple[ModelFormat, ...] = ("gguf", "openvino")
    health = "/healthz"

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = list(options)

    def missing(self) -> str:
        """What to install; empty when OpenVINO GenAI is there."""
        return "" if importlib.util.find_spec("openvino_genai") else "run: pip install 'llm-twin[openvino-genai]'"

    def command(
        self, model: ModelFiles, *, host: str, port: int, api_key: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        """Our own server, in a process of its own: a crash in native code takes nobody else along."""
        program = [sys.executable, "-m", "llm_twin.server.llm", model.path, "--name", model.name]
        environment = {"LLM_TWIN_SERVER_KEY": api_key} if api_key else {}
        return [*program, "--host", host, "--port", str(port), *self._options], environment


class OpenVinoWriter:
    """A model that writes many replies at once; one thread steps all of them together, a token each.

    Replies join and leave between two steps (continuous batching; Yu et al. 2022, Orca). The chat template is applied
    here, once, and the engine gets tokens, so that it cannot apply it again. Safe to use from several threads.

    Raises `ModelError` when the model cannot be loaded.
    """

    def __init__(
        self, path: str | Path, *, name: str, parallel: int = PARALLEL, waiting: int = WAITING, seed: int | None = None
    ) -> None:
        self.name = name
        self._path = Path(path)
        self._parallel, self._places = parallel, parallel + waiting
        self._random = random.Random(seed)  # noqa: S311 - sampling, no secrets
        self._pipeline = self._load()
        self._tokenizer = self._pipeline.get_tokenizer()
        if not self._tokenizer.chat_template:
            raise ModelError(f"{path} has no chat template; take a model that was tuned for chat ('instruct')")
        self.context = context_of(self._path)
        self._schemas = _SchemaTrial()
        self._tokenizing = threading.Lock()
        self._waking = threading.Condition()
        self._new: list[_Reply] = []
        self._count, self._number, self._mean_s = 0, 0, 1.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="openvino", daemon=True)
        self._thread.start()

    def write(self, request: ReplyRequest, deliver: Callable[[Delta | ModelError], None]) -> Callable[[], None]:
        """Begin a reply; see the port `ReplyWriter`."""
        import openvino_genai  # type: ignore[import-untyped]

        self._check_room()
        tokens = self._tokens(request.messages)
        room = self.context - tokens.shape[1]
        wanted = request.max_tokens or room
        if room <= 0 or wanted > room:
            asked = f" and {request.max_tokens} are asked for" if request.max_tokens else ""
            raise ReplyRefused(
                f"the messages have {tokens.shape[1]} tokens{asked}, and the context of {self.name} is {self.context}; "
                "shorten the messages or lower max_tokens",
                field="messages",
                code="context_length_exceeded",
            )
        config = self._pipeline.get_config()
        config.max_new_tokens = wanted
        config.do_sample = request.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = request.temperature, request.top_p
            config.rng_seed = self._random.getrandbits(32) if request.seed is None else request.seed % 2**64
        if request.schema is not None:
            schema = json.dumps(request.schema)
            self._schemas.check(schema)
            config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=schema)
        reply = _Reply(tokens, config, _Text(self._decode, request.stop), deliver)
        with self._waking:
            self._check_room()
            self._count += 1
            self._new.append(reply)
            self._waking.notify()
        return reply.cancel

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The messages as the model reads them, template applied: for tests and for counting."""
        found: list[int] = self._tokens(messages).data[0].tolist()
        return found

    def alive(self) -> bool:
        """Whether replies can be written still."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Break off every reply and release the model."""
        with self._waking:
            self._closing = True
            self._waking.notify()
        self._thread.join()

    def _load(self) -> Any:
        try:
            import openvino_genai
        except ImportError as error:
            raise MissingExtra("the engine openvino", "openvino-genai", "openvino-genai") from error
        if not self._path.exists():
            raise ModelMissing(f"there is no model at {self._path}; correct the path")
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.max_num_seqs = self._parallel
        scheduling.dynamic_split_fuse = True  # a long prompt is read in pieces, between the tokens of other replies
        scheduling.enable_prefix_caching = True
        try:
            return openvino_genai.ContinuousBatchingPipeline(str(self._path), scheduling, "CPU")
        except Exception as error:  # whatever its parsers raise: RuntimeError, IndexError …
            raise ModelError(
                f"OpenVINO cannot load {self._path}: {_first_line(error)}; take a GGUF file of type F16 or Q8_0, or a "
                "folder in OpenVINO's format"
            ) from error

    def _tokens(self, messages: Sequence[Message]) -> Any:
        history = [{"role": message.role, "content": message.content} for message in messages]
        with self._tokenizing:
            try:
                prompt = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
            except RuntimeError as error:
                said = _TEMPLATE_ERROR.search(str(error))
                raise ReplyRefused(
                    f"the chat template of {self.name} refuses these messages: {said[1] if said else error}; change "
                    "their roles or their order",
                    field="messages",
                ) from error
            # The template has written the special tokens already; a second set would change the prompt.
            return self._tokenizer.encode(prompt, add_special_tokens=False).input_ids

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _check_room(self) -> None:
        if not self.alive() or self._closing:
            raise ModelError(f"{self.name} is not there any more; start the server again")
        if self._count >= self._places:
            after = max(1, min(60, round(self._mean_s * self._count / self._parallel)))
            raise ModelBusy(
                f"{self.name} writes {self._parallel} replies at once and {self._count - self._parallel} wait; ask "
                f"again in {after} s",
                retry_after_s=after,
            )

    # --- in the engine's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        active: list[_Reply] = []
        try:
            while not self._closing:
                active = self._advance(active)
        except ModelError as error:
            _log.error("%s", error)
        finally:
            with self._waking:
                self._closing = True
                left, self._new = [*active, *self._new], []
            for reply in left:
                reply.fail(ModelError(f"{self.name} was stopped before its reply was complete; start it again"))

    def _advance(self, active: list[_Reply]) -> list[_Reply]:
        """Take in what is new, write one token of each reply, and return those that are not complete."""
        with self._waking:
            while not (active or self._new or self._closing):
                self._waking.wait()
            new, self._new = self._new, []
        for reply in new:
            self._number += 1
            reply.begin(self._pipeline, self._number)
        active = [*active, *new]
        try:
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
            for reply in active:
                reply.advance()
        except RuntimeError as error:
            self._begin_anew(error, active)
        ended = [reply for reply in active if reply.ended]
        if ended:
            with self._waking:
                self._count -= len(ended)
                for reply in ended:
                    self._mean_s += 0.1 * (time.monotonic() - reply.began - self._mean_s)
        return [reply for reply in active if not reply.ended]

    def _begin_anew(self, error: RuntimeError, active: Sequence[_Reply]) -> None:
        """A step that failed leaves the pipeline unusable: its replies fail, the next ones get a new pipeline."""
        _log.error("%s failed and is loaded anew: %s", self.name, error)
        for reply in active:
            reply.fail(ModelError(f"{self.name} failed: {_first_line(error)}; ask again"))
        self._pipeline = self._load()


class _Reply:
    """One reply on its way from tokens to text. Only `cancel` is called from outside the engine's thread."""

    def __init__(self, tokens: Any, config: Any, text: _Text, deliver: Callable[[Delta | ModelError], None]) -> None:
        self.ended = False
        self.began = time.monotonic()
        self._tokens, self._config, self._text, self._deliver = tokens, config, text, deliver
        self._written = 0
        self._cancelled = False
        self._handle: Any = None

    def cancel(self) -> None:
        """Write no more of it; noticed before the next token."""
        self._cancelled = True

    def begin(self, pipeline: Any, number: int) -> None:
        if self._cancelled:
            self.ended = True
            return
        try:
            self._handle = pipeline.add_request(number, self._tokens, self._config)
        except RuntimeError as error:
            self.fail(ReplyRefused(f"OpenVINO refuses the request: {_first_line(error)}; change it", field="request"))

    def advance(self) -> None:
        """Pass on what was written since the last time."""
        if self.ended:
            return
        if self._cancelled:
            self._leave()
            return
        while not self.ended and self._handle.can_read():
            for output in self._handle.read().values():
                self._read(output)
        status = self._handle.get_status().name
        if not self.ended and status in ("IGNORED", "CANCEL", "STOP"):
            self.fail(ModelError("the model's memory has no room for this reply; ask for less, or for fewer at once"))

    def fail(self, error: ModelError) -> None:
        """End with an error."""
        if not self.ended:
            self.ended = True
            self._deliver(error)

    def _read(self, output: Any) -> None:
        self._written += len(output.generated_ids)
        text = self._text.add(output.generated_ids)
        reason = {"STOP": "stop", "LENGTH": "length"}.get(output.finish_reason.name, "")
        if self._text.stopped:
            reason = "stop"
            self._handle.cancel()
        elif reason:
            text += self._text.rest()
        if text:
            self._deliver(Delta(text))
        if reason:
            self.ended = True
            self._deliver(Delta(usage=Usage(self._tokens.shape[1], self._written), finish_reason=reason))

    def _leave(self) -> None:
        self.ended = True
        self._handle.cancel()


class _Text:
    """Tokens as text, as soon as it is certain: no half characters, and nothing that may begin a text to stop at."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = StopTexts(stops)
        self._tokens: list[int] = []
        # What a token looks like depends on the one before it, so each is decoded behind tokens already passed on.
        self._from, self._passed = 0, 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text was found."""
        return self._stops.found

    def add(self, tokens: Sequence[int]) -> str:
        """The text that these tokens make certain; `stopped` once a stop text is found, which is not passed on."""
        self._tokens += tokens
        before = self._decode(self._tokens[self._from : self._passed])
        now = self._decode(self._tokens[self._from :])
        if now.endswith(_BROKEN_CHARACTER) and len(self._tokens) - self._passed < _MOST_HELD:
            return ""
        self._from, self._passed = self._passed, len(self._tokens)
        return self._stops.before(now[len(before) :])

    def rest(self) -> str:
        """What was held back, at the end of a reply."""
        before = self._decode(self._tokens[self._from : self._passed])
        text = self._stops.before(self._decode(self._tokens[self._from :])[len(before) :])
        return text + self._stops.rest()


class _SchemaTrial:
    """Tries a schema on a model of a few kilobytes before the real one meets it.

    The grammar compiler raises inside a step of the pipeline, which breaks it with every reply it is writing
    (seen in OpenVINO GenAI 2026.4); nothing else tells beforehand what that compiler takes.
    """

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._known: set[str] = set()
        self._one = threading.Lock()

    def check(self, schema: str) -> None:
        """Raise `ReplyRefused` for a schema that cannot be obeyed."""
        import openvino_genai

        if len(schema) > MAX_SCHEMA:
            raise ReplyRefused(
                f"the schema has {len(schema):,} characters, and {MAX_SCHEMA:,} are the most; make it smaller",
                field="response_format",
            )
        with self._one:
            if schema in self._known:
                return
            if self._pipeline is None:
                self._pipeline = _least_pipeline()
            config = self._pipeline.get_config()
            config.max_new_tokens = 1
            config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=schema)
            try:
                handle = self._pipeline.add_request(len(self._known), "a", config)
                while handle.get_status().name == "RUNNING":  # a handle that is let go cancels its request
                    self._pipeline.step()
            except RuntimeError as error:
                self._pipeline = None
                raise ReplyRefused(
                    f"the schema of response_format cannot be obeyed: {_first_line(error)}; correct it",
                    field="response_format",
                ) from error
            self._known = {*self._known, schema} if len(self._known) < 1000 else {schema}


def _least_pipeline() -> Any:
    """A pipeline over the smallest Llama that loads: one layer, one head, all weights zero."""
    import openvino_genai

    with tempfile.TemporaryDirectory(prefix="llm-twin-") as folder:
        path = Path(folder) / "least.gguf"
        path.write_bytes(_least_gguf())
        return openvino_genai.ContinuousBatchingPipeline(str(path), openvino_genai.SchedulerConfig(), "CPU")


def _least_gguf() -> bytes:
    """That Llama as GGUF (ggml's docs/gguf.md), with a token for every byte and one merge."""
    width = 32
    letters = [chr(byte) if 33 <= byte < 127 else chr(256 + byte) for byte in range(256)]
    tokens = ["<s>", "</s>", *letters, "ab"]
    sizes = {"embedding_length": width, "feed_forward_length": width, "context_length": 64, "vocab_size": len(tokens)}
    heads = {"block_count": 1, "attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": width}
    values: dict[str, Any] = {"general.architecture": "llama", "general.file_type": 1}
    values |= {f"llama.{name}": value for name, value in (sizes | heads).items()}
    values |= {"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4}
    values |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens}
    values |= {
        "tokenizer.ggml.token_type": [3, 3, *[1] * 257],
        "tokenizer.ggml.merges": ["a b"],
    }
    values |= {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.padding_token_id": 1}
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (width, len(tokens)), "output_norm": (width,)}
    shapes |= {f"blk.0.{name}": (width, width) for name in square}
    shapes |= {"blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,)}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(values))
    head += b"".join(_string(name) + _value(value) for name, value in values.items())
    body = b""
    for name, shape in shapes.items():
        half = len(shape) > 1  # F16 for matrices, F32 for the others
        head += _string(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, half, len(body))
        count = width * (shape[1] if half else 1)
        body += bytes(count * (2 if half else 4))
        body += bytes(-len(body) % 32)
    return head + bytes(-len(head) % 32) + body


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    items = [_string(item) if isinstance(item, str) else struct.pack("<i", item) for item in value]
    return struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 5, len(value)) + b"".join(items)


# --- what a model says of itself ------------------------------------------------------------------------------------


def context_of(path: Path) -> int:
    """The window of a model in tokens, from its GGUF file or its config.json. Raises `ModelError` without one."""
    found: Any = None
    if path.is_dir():
        with suppress(OSError, ValueError):
            config: Mapping[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
            found = config.get("max_position_embeddings")
    else:
        with path.open("rb") as file, suppress(struct.error):
            found = next((value for key, value in _gguf_values(file) if key.endswith(".context_length")), None)
    if not isinstance(found, int) or found <= 0:
        raise ModelError(f"{path} does not tell the length of its context; take a model that does")
    return found


# The sizes of GGUF's numbers by their type; 8 is a string, 9 a list.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _gguf_values(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """The metadata of a GGUF file in its order; of a list, None."""

    def number(letter: str) -> Any:
        size = struct.calcsize("<" + letter)
        return struct.unpack("<" + letter, file.read(size))[0]

    def value(kind: int) -> Any:
        if kind in _NUMBERS:
            return number(_NUMBERS[kind])
        if kind == 8:
            return file.read(number("Q")).decode("utf-8", "replace")
        inner, count = number("I"), number("Q")
        for _ in range(count):
            value(inner)
        return None

    file.read(16)
    for _ in range(number("Q")):
        key = file.read(number("Q")).decode("utf-8", "replace")
        yield key, value(number("I"))


def _first_line(error: Exception) -> str:
    """What the library says, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "failed at /" not in line and not line.startswith("Exception from")] or lines
    return (told[0].rpartition(".cc:")[2] or told[0]).lstrip("0123456789: ")[:300] if told else "it says nothing"
