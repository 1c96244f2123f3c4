"""Any server that speaks OpenAI's chat protocol: OpenAI itself, vLLM, llama-server, Ollama, LM Studio, TGI …

The `openai` package sends the request. The stream is read here, because servers differ where its own reader is strict
or silent: no `[DONE]`, a cut that looks like an end, a whole reply instead of a stream, an HTML page.
Importing this module or building a model imports no client and opens nothing.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import logging
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from llm_twin.core import cancelling
from llm_twin.core.errors import ModelError, ModelMissing
from llm_twin.core.records import Delta, Message, Usage

OPENAI_URL = "https://api.openai.com/v1"
LOCAL_SERVERS = {"Ollama": 11434, "llama-server": 8080, "vLLM": 8000, "LM Studio": 1234}

_LONGEST_WAIT_S = 60.0
_NO_KEY = "none"
_log = logging.getLogger(__name__)


class OpenAiModel:
    """One model of one server. Safe to use from several threads.

    An empty `base_url` means $OPENAI_BASE_URL, else OpenAI. `timeout_s` bounds the pause between two pieces of a reply,
    `first_token_timeout_s` the wait for the first. `retries` follow a 429, a 5xx or a lost connection, with back-off or
    as long as the server asks, and only while nothing of the reply has arrived. A server that cannot be reached at all
    or that is too slow is not tried again: the reader should not wait several times for the same bad news.
    `api_key_env` is named in messages; the key itself never is. `refused` lists request fields that this server turned
    down and that are left out since.

    A proxy of the environment is used for remote hosts and never for this machine.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str = "",
        api_key: str | None = None,
        timeout_s: float = 120.0,
        first_token_timeout_s: float = 60.0,
        retries: int = 3,
        api_key_env: str = "OPENAI_API_KEY",
        sleep: Callable[[float], None] = cancelling.sleep,
    ) -> None:
        self.name = model
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
        self.refused: list[str] = []
        self._key = api_key or ""
        self._key_env = api_key_env
        self._timeout_s = timeout_s
        self._first_token_timeout_s = first_token_timeout_s
        self._retries = retries
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"OpenAiModel(model={self.name!r}, base_url={self.base_url!r})"

    def close(self) -> None:
        """End the connections to the server, also those that are in use; the next call would open new ones."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Iterator[Delta]:
        """The reply piece by piece; the last piece carries usage (where the server counts) and the finish reason.

        A server without structured output gets the schema as an instruction instead, so validate what comes back.
        Raises `ModelMissing` when there is no such server or model, `ModelError` for everything else, also in
        mid-stream. Closing the iterator closes the connection, by which servers notice that they may stop. So does
        cancelling the work it is part of (`core/cancelling.py`), from any thread and wherever it waits.
        """
        for attempt in range(self._retries + 1):
            received = 0
            try:
                with closing(self._attempt(messages, max_tokens, temperature, seed, schema)) as deltas:
                    for delta in _in_whole_characters(deltas):
                        received += len(delta.text)
                        yield delta
                return
            except _Broken as broken:
                cancelling.check()
                if received:
                    raise ModelError(
                        f"the reply of {self.name} at {self.base_url} broke off after {received} characters "
                        f"({broken}); ask again, or look into that server's log"
                    ) from broken
                if attempt == self._retries:
                    tried = f" after {attempt + 1} tries" if attempt else ""
                    raise ModelError(
                        f"{self.name} at {self.base_url} gave no reply{tried}: {broken}; {broken.advice}"
                    ) from broken
                wait_s = broken.wait_s if broken.wait_s is not None else min(0.5 * 2**attempt, 8.0)
                _log.info("%s: %s; next try in %.1f s", self.name, broken, wait_s)
            self._sleep(wait_s)

    def prepare(self) -> None:
        """Load the client now, so that the first reply does not wait for it; nothing is sent."""
        _ = self._client

    def models(self) -> list[str]:
        """Names of the models this server offers, sorted. Raises `ModelError` when it does not tell."""
        try:
            with self._translated():
                return sorted(model.id for model in self._client.models.list())
        except _Broken as broken:
            raise ModelError(f"{self.base_url} does not list its models: {broken}; {broken.advice}") from broken

    @staticmethod
    def local_servers(
        servers: Mapping[str, int] = LOCAL_SERVERS, *, timeout_s: float = 0.5
    ) -> list[tuple[str, str, list[str]]]:
        """Model servers that answer on this machine: usual name of that port, base URL, models."""
        import urllib.request

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        found = []
        for name, port in servers.items():
            base_url = f"http://127.0.0.1:{port}/v1"
            # Anything may listen on these ports; what does not answer like a model server is none.
            with (
                suppress(OSError, ValueError, LookupError, TypeError),
                opener.open(f"{base_url}/models", timeout=timeout_s) as reply,
            ):
                models = json.loads(reply.read(1 << 20))["data"]
                found.append((name, base_url, sorted(str(model["id"]) for model in models)))
        return found

    def _attempt(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        seed: int | None,
        schema: Mapping[str, Any] | None,
    ) -> Generator[Delta]:
        asked_at = time.monotonic()
        connection = _Connection()
        with cancelling.current().waking(connection.shut):
            with connection:
                response = self._open(messages, max_tokens, temperature, seed, schema)
            try:
                if "json" in response.headers.get("content-type", ""):
                    yield from _whole_reply(b"".join(self._bytes(response)))
                    return
                # httpx looks the read timeout up again when the body begins; from there it bounds each pause.
                response.request.extensions["timeout"]["read"] = self._timeout_s
                left_s = self._first_token_timeout_s - (time.monotonic() - asked_at)
                with _Alarm(connection, max(left_s, 0.0)) as alarm:
                    try:
                        for delta in _deltas(_events(self._bytes(response))):
                            if delta.text:
                                alarm.cancel()
                            yield delta
                    except _Broken as broken:
                        if alarm.rang:
                            raise self._too_slow() from broken
                        raise
            finally:
                response.close()

    def _open(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        seed: int | None,
        schema: Mapping[str, Any] | None,
    ) -> Any:
        """The response with its body unread, leaving out what the server refuses until it accepts the request."""
        import openai

        while True:
            request = self._request(messages, max_tokens, temperature, seed, schema)
            with self._translated():
                try:
                    return self._client.chat.completions.create(**request, stream=True).response
                except openai.NotFoundError as error:
                    raise self._no_such_model(self._told(error)) from None
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    field = _refused_field(error.message, request)
                    if field is None:
                        raise
                    _log.info("%s at %s refuses %s: %s", self.name, self.base_url, field, self._told(error))
                    self.refused.append(field)

    def _request(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        seed: int | None,
        schema: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream_options": {"include_usage": True},
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if seed is not None:
            request["seed"] = seed
        if schema is not None:
            request |= self._structured(request["messages"], schema)
        if "max_tokens" in self.refused:
            request["max_completion_tokens"] = max_tokens
        return {field: value for field, value in request.items() if field not in self.refused}

    def _structured(self, messages: list[dict[str, str]], schema: Mapping[str, Any]) -> dict[str, Any]:
        if "json_schema" not in self.refused:
            wanted = {"name": "reply", "schema": dict(schema), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": wanted}}
        instruction = f"Reply with one JSON object of this schema and nothing else:\n{json.dumps(schema)}"
        last = messages[-1]
        return {
            "messages": [*messages[:-1], {**last, "content": f"{last['content']}\n\n{instruction}"}],
            "response_format": {"type": "json_object"},
        }

    @cached_property
    def _client(self) -> Any:
        import openai

        http_client = openai.DefaultHttpxClient(
            trust_env=not _is_this_machine(self.base_url),
            event_hooks={"request": [_only_needed_headers, _watched]},
        )
        client = openai.OpenAI(
            base_url=self.base_url,
            # Without a key the package would take $OPENAI_API_KEY and send it to whatever server this is.
            api_key=self._key or _NO_KEY,
            max_retries=0,
            timeout=openai.Timeout(self._first_token_timeout_s, connect=min(10.0, self._first_token_timeout_s)),
            http_client=http_client,
        )
        weakref.finalize(self, client.close)
        return client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the package's errors into ours: `_Broken` where another try may help."""
        import openai

        try:
            yield
        except openai.APITimeoutError as error:
            raise (self._unreachable(error) if _never_connected(error) else self._too_slow()) from error
        except openai.APIConnectionError as error:
            if _never_connected(error):
                raise self._unreachable(error) from error
            raise _Broken(f"the connection was lost ({error.__cause__ or error})") from error
        except openai.APIStatusError as error:
            # An echo of the key in the server's text must not travel along in the chain of exceptions.
            raise self._status_problem(error) from (None if self._key and self._key in str(error) else error)
        except openai.OpenAIError as error:
            raise ModelError(
                f"{self.base_url} sent something that is no reply: {self._hidden(str(error))[:300]}; "
                "check that llm.base_url is the address of an OpenAI-compatible API (it mostly ends in /v1)"
            ) from error

    def _status_problem(self, error: Any) -> Exception:
        status, told = error.status_code, self._told(error)
        if status in {401, 403}:
            state = "is not accepted there" if self._key else "is empty or not set"
            return ModelError(
                f"{self.base_url} refused the request for want of a valid API key ({status}: {told}); the key is read "
                f"from the environment variable {self._key_env}, which {state}: set it to a key of that server"
            )
        if status == 404:
            return ModelMissing(
                f"{self.base_url} has nothing under that address (404: {told}); check llm.base_url (it mostly ends in "
                "/v1)"
            )
        if status == 429 and "insufficient_quota" in str(error.body):
            return ModelError(
                f"the account at {self.base_url} has no quota left ({told}); top it up or change llm.model"
            )
        if status in {408, 409, 429} or status >= 500:
            wait_s = _retry_after_s(error.response.headers)
            if wait_s is not None and wait_s > _LONGEST_WAIT_S:
                return ModelError(f"{self.base_url} asks to wait {wait_s:.0f} s ({status}: {told}); ask again then")
            advice = "wait a little and ask again" if status == 429 else "look into that server's log"
            return _Broken(f"{status}: {told}", wait_s=wait_s, advice=advice)
        return ModelError(
            f"{self.base_url} refused the request for model {self.name!r} ({status}: {told}); correct what it names, "
            "and if the prompt is too long for the model, lower ask.context_tokens"
        )

    def _no_such_model(self, told: str) -> ModelMissing:
        offered: list[str] = []
        with suppress(ModelError):
            offered = self.models()
        if not offered:
            return ModelMissing(
                f"{self.base_url} knows no model {self.name!r} or has no chat API there (404: {told}); check llm.model "
                "and llm.base_url (it mostly ends in /v1)"
            )
        shown = ", ".join(offered[:20]) + (", …" if len(offered) > 20 else "")
        return ModelMissing(f"{self.base_url} has no model {self.name!r}; set llm.model to one it has: {shown}")

    def _unreachable(self, error: Exception) -> ModelMissing:
        return ModelMissing(
            f"cannot connect to {self.base_url} ({error.__cause__ or error}); start the server there (for example "
            "`ollama serve` or `llama-server -m MODEL.gguf`), correct llm.base_url, or unset llm.model to get answers "
            "in the author's own sentences without a model"
        )

    def _too_slow(self) -> ModelError:
        return ModelError(
            f"{self.name} at {self.base_url} sent nothing within {self._first_token_timeout_s:g} s; "
            "raise llm.first_token_timeout_s, lower ask.context_tokens, or use a smaller model"
        )

    def _bytes(self, response: Any) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        # Whatever the HTTP library raises while it reads means that the stream broke; its types differ by version.
        except Exception as error:
            silent = "Timeout" in type(error).__name__
            what = f"nothing came for {self._timeout_s:g} s" if silent else f"the connection was lost: {error}"
            raise _Broken(what, advice="raise llm.timeout_s" if silent else "look into that server's log") from error

    def _told(self, error: Any) -> str:
        """What the server said, short and without the key."""
        body = error.body if isinstance(error.body, dict) else {}
        text = body.get("message") or body.get("detail") or body.get("error") or error.response.text or error.message
        return " ".join(self._hidden(str(text)).split())[:300]

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _Broken(Exception):
    """A reply that failed in a way another try may mend. Never leaves this module."""

    def __init__(
        self, what: str, *, wait_s: float | None = None, advice: str = "look into that server's log and ask again"
    ) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        self.advice = advice


class _Connection:
    """The connection that requests inside its block are sent on; another thread may shut it at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: Any = None
        self._shut = False

    def __enter__(self) -> _Connection:
        self._token = _opening.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _opening.reset(self._token)

    def opened(self, stream: Any) -> None:
        """Remember what the HTTP library just opened: the bare connection, then the same one inside TLS."""
        with self._lock:
            self._stream = stream
            if self._shut:
                self._shutdown()

    def shut(self) -> None:
        """Wake whoever reads from the connection, or is about to: the connection ends."""
        with self._lock:
            self._shut = True
            if self._stream is not None:
                self._shutdown()

    def _shutdown(self) -> None:
        with suppress(OSError):
            self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


_opening: ContextVar[_Connection | None] = ContextVar("llm_twin_openai_connection", default=None)


def _watched(request: Any) -> None:
    """Tell the `_Connection` at work which connection the HTTP library opens for a request.

    No connection is used twice, since only one that was opened for a request is known to be the one to shut.
    Source: the `trace` extension, https://www.encode.io/httpcore/extensions/#trace
    """
    request.headers["connection"] = "close"
    connection = _opening.get()
    if connection is None:
        return

    def trace(event: str, info: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            connection.opened(info["return_value"])

    request.extensions = {**request.extensions, "trace": trace}


class _Alarm:
    """Breaks the connection of a response after `seconds`, unless cancelled. Wakes a reader blocked in it."""

    def __init__(self, connection: _Connection, seconds: float) -> None:
        self.rang = False
        self._connection = connection
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> _Alarm:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        self._connection.shut()


def _events(pieces: Iterator[bytes]) -> Iterator[str]:
    """The data lines of a server-sent event stream.

    Lines are cut at newlines only: U+2028 and its kin, at which `str.splitlines` cuts, stand unescaped in JSON texts.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from _data(lines)
    yield from _data([rest])


def _data(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        if line.startswith(b"data:"):
            yield line[len(b"data:") :].decode("utf-8", "replace").strip()


def _deltas(events: Iterator[str]) -> Iterator[Delta]:
    """The pieces of a reply, then one with usage and finish reason. Raises `_Broken` when it stops before its end."""
    usage, finish_reason, ended, seen = None, None, False, 0
    for event in events:
        seen += 1
        if event == "[DONE]":
            ended = True
            break
        chunk = _json_object(event)
        usage = _usage(chunk) or usage
        for choice in chunk.get("choices") or ():
            said = choice.get("delta") or {}
            finish_reason = choice.get("finish_reason") or finish_reason
            if text := said.get("content") or said.get("refusal"):
                yield Delta(text)
    if not seen:
        raise _Broken(
            "it sent no event stream",
            advice="check that llm.base_url is the address of an OpenAI-compatible API (it mostly ends in /v1)",
        )
    if not ended and finish_reason is None:
        raise _Broken("the stream ended before the reply did")
    yield Delta(usage=usage, finish_reason=finish_reason)


def _whole_reply(body: bytes) -> Iterator[Delta]:
    """The reply of a server that does not stream."""
    reply = _json_object(body.decode("utf-8", "replace"))
    choice = next(iter(reply.get("choices") or ()), None)
    if choice is None:
        raise _Broken(f"it sent JSON without a reply: {json.dumps(reply)[:120]}")
    yield Delta((choice.get("message") or {}).get("content") or "")
    yield Delta(usage=_usage(reply), finish_reason=choice.get("finish_reason"))


def _in_whole_characters(deltas: Iterator[Delta]) -> Iterator[Delta]:
    """The same text, in which no character is cut in two: JSON can write its halves apart, and some servers cut there.

    A half that stays alone becomes U+FFFD: nothing that follows could read it.
    """
    half = ""
    for delta in deltas:
        text = half + delta.text
        half = text[-1:] if delta.text and "\ud800" <= text[-1:] <= "\udbff" else ""
        whole = text[: len(text) - len(half)]
        yield replace(delta, text=whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _json_object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _Broken(f"it sent broken JSON: {text[:120]!r}") from error
    if not isinstance(data, dict):
        raise _Broken(f"it sent {text[:120]!r} where a piece of a reply belongs")
    if problem := data.get("error"):
        told = problem.get("message") if isinstance(problem, dict) else problem
        raise _Broken(f"it reported an error: {str(told)[:300]}")
    return data


def _usage(data: Mapping[str, Any]) -> Usage | None:
    counts = data.get("usage")
    if not isinstance(counts, dict):
        return None
    return Usage(int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))


def _refused_field(message: str, request: Mapping[str, Any]) -> str | None:
    """Which field of the request a refusal is about, when the request also makes sense without it."""
    said = message.casefold()
    format_type = request.get("response_format", {}).get("type")
    if format_type and re.search(r"response_format|json_schema|json_object|guided|grammar|structured", said):
        return "json_schema" if format_type == "json_schema" else "response_format"
    if "max_tokens" in request and "max_completion_tokens" in said:
        return "max_tokens"
    for field in ("stream_options", "temperature", "seed"):
        if field in request and re.search(rf"\b{field}\b", said):
            return field
    return None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: a number or an HTTP date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    with suppress(ValueError):
        return max(float(value), 0.0)
    with suppress(ValueError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _never_connected(error: Exception) -> bool:
    return type(error.__cause__).__name__ in {"ConnectError", "ConnectTimeout", "UnsupportedProtocol"}


def _is_this_machine(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _only_needed_headers(request: Any) -> None:
    """Take out what tells a server about this machine, OpenAI's account headers for anyone else, and the absent key."""
    for name in list(request.headers):
        account = name in {"openai-organization", "openai-project"}
        if name.startswith("x-stainless-") or (account and request.url.host != "api.openai.com"):
            del request.headers[name]
    if request.headers.get("authorization") == f"Bearer {_NO_KEY}":
        del request.headers["authorization"]
