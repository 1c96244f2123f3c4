"""What a server may do to a reply, against a real HTTP server on the loopback interface."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import repeat

import pytest

from llm_twin.adapters.openai import OpenAiModel
from llm_twin.core.cancelling import Cancellation, Cancelled
from llm_twin.core.errors import ModelError, ModelMissing
from llm_twin.core.records import Delta, Message, Usage
from scripted_llm import DONE, Reply, ScriptedLlm, busy, event, finish, piece, refuses, says, usage

KEY = "sk-secret-1234567890"
ASK = [Message("system", "Be brief."), Message("user", "Hello?")]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


class Naps(list):
    """Stands in for time.sleep and remembers how long each nap would have been."""

    def __call__(self, seconds):
        self.append(seconds)


def model_at(server, **options):
    options.setdefault("sleep", Naps())
    return OpenAiModel(base_url=server.base_url, model="toy", api_key=KEY, **options)


def read(model, **options):
    return "".join(delta.text for delta in model.stream(ASK, max_tokens=50, **options))


def test_a_reply_streams_piece_by_piece_and_ends_with_usage_and_finish_reason():
    with ScriptedLlm([says("Hel", "lo", ".")]) as server:
        deltas = list(model_at(server).stream(ASK, max_tokens=50, temperature=0.3, seed=7))
    assert deltas == [Delta("Hel"), Delta("lo"), Delta("."), Delta(usage=Usage(11, 3), finish_reason="stop")]
    assert server.requests == [
        {
            "model": "toy",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.3,
            "max_tokens": 50,
            "seed": 7,
        }
    ]


def test_the_first_piece_arrives_before_the_server_has_written_the_last():
    with ScriptedLlm([says("now", "later", pause_s=0.3)]) as server:
        stream = model_at(server).stream(ASK, max_tokens=50)
        started = time.monotonic()
        assert next(stream).text == "now"
        assert time.monotonic() - started < 5
        assert not server.client_left.is_set()
        assert "".join(delta.text for delta in stream) == "later"


def test_a_server_that_tells_no_usage_and_no_done_still_gives_a_whole_reply():
    with ScriptedLlm([Reply([piece("Hi"), finish("length")])]) as server:
        assert list(model_at(server).stream(ASK, max_tokens=5)) == [Delta("Hi"), Delta(finish_reason="length")]


def test_texts_with_unicode_line_separators_and_split_bytes_stay_whole():
    text = "a\u2028b\x85c\r\nd é 漢字"
    whole = piece(text) + finish() + DONE
    with ScriptedLlm([Reply([whole[i : i + 1] for i in range(len(whole))])]) as server:
        assert read(model_at(server)) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ([rb"a \ud83d", rb"\ude00 b"], "a \N{GRINNING FACE} b"),
        ([rb"\ud83d\ude00", rb"\ud83d"], "\N{GRINNING FACE}\ufffd"),
        ([rb"\ude00 a", rb"\ud83d b"], "\ufffd a\ufffd b"),
    ],
)
def test_a_character_that_is_cut_in_two_is_joined_again_and_a_lone_half_is_replaced(written, text):
    pieces = [piece("HERE").replace(b"HERE", each) for each in written]
    with ScriptedLlm([Reply([*pieces, finish()])]) as server:
        assert read(model_at(server)) == text


def test_comments_and_empty_choices_are_no_text():
    with ScriptedLlm([Reply([b": ping\n\n", event({"choices": []}), piece("x"), finish(), DONE])]) as server:
        assert read(model_at(server)) == "x"


def test_a_server_that_does_not_stream_is_understood():
    whole = {
        "choices": [{"message": {"role": "assistant", "content": "All at once"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }
    with ScriptedLlm([Reply([json.dumps(whole).encode()], content_type="application/json")]) as server:
        deltas = list(model_at(server).stream(ASK, max_tokens=5))
    assert deltas == [Delta("All at once"), Delta(usage=Usage(3, 4), finish_reason="stop")]


def test_after_429_it_waits_as_long_as_the_server_asks():
    naps = Naps()
    with ScriptedLlm([busy(retry_after=2), says("ok")]) as server:
        assert read(model_at(server, sleep=naps)) == "ok"
    assert naps == [2.0]


def test_retry_after_may_be_a_date():
    naps = Naps()
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=30)
    with ScriptedLlm([busy(retry_after=format_datetime(moment, usegmt=True)), says("ok")]) as server:
        assert read(model_at(server, sleep=naps)) == "ok"
    assert len(naps) == 1
    assert 20 <= naps[0] <= 30


def test_a_wait_of_hours_is_reported_and_not_waited_for():
    naps = Naps()
    with ScriptedLlm([busy(retry_after=7200)]) as server, pytest.raises(ModelError, match="asks to wait 7200 s"):
        read(model_at(server, sleep=naps))
    assert naps == []


def test_two_500s_then_a_reply_is_a_reply_after_growing_waits():
    naps = Naps()
    with ScriptedLlm([refuses(500, "boom"), refuses(503, "loading"), says("ok")]) as server:
        assert read(model_at(server, sleep=naps)) == "ok"
    assert naps == [0.5, 1.0]


def test_500_for_ever_is_an_error_that_counts_the_tries():
    with ScriptedLlm(always=refuses(500, "out of memory")) as server, pytest.raises(ModelError) as caught:
        read(model_at(server, retries=2))
    assert "after 3 tries: 500: out of memory" in str(caught.value)
    assert server.base_url in str(caught.value)
    assert len(server.requests) == 3


def test_without_retries_one_failure_is_final():
    with ScriptedLlm([refuses(500, "boom"), says("never read")]) as server:
        with pytest.raises(ModelError, match="gave no reply: 500: boom"):
            read(model_at(server, retries=0))
        assert len(server.script) == 1


def test_spent_quota_is_not_tried_again():
    reply = Reply(
        [b'{"error": {"message": "pay", "code": "insufficient_quota"}}'], 429, content_type="application/json"
    )
    with ScriptedLlm([reply, says("never read")]) as server:
        with pytest.raises(ModelError, match="no quota left"):
            read(model_at(server))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "broken",
    [
        Reply(cut=True),
        Reply(cut=True, headers_first=True),
        Reply([b": waiting\n\n"], cut=True),
        Reply([b"data: {not json\n\n"]),
        Reply([event({"error": {"message": "overloaded"}})]),
        Reply([event({"choices": []})]),
        Reply([]),
    ],
    ids=["no-response", "headers-only", "comment-only", "bad-json", "error-event", "no-end", "empty-body"],
)
def test_a_stream_that_breaks_before_the_first_token_is_tried_again(broken):
    with ScriptedLlm([broken, says("ok")]) as server:
        assert read(model_at(server)) == "ok"
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Reply([piece("Half a ")], cut=True), "the connection was lost"),
        (Reply([piece("Half a ")]), "the stream ended before the reply did"),
        (Reply([piece("Half a "), b"data: {not json\n\n"]), "broken JSON"),
        (Reply([piece("Half a "), event({"error": "CUDA error"})]), "CUDA error"),
        (Reply([piece("Half a "), b"data: 17\n\n"]), "sent '17'"),
    ],
    ids=["reset", "no-end", "bad-json", "error-event", "number"],
)
def test_a_stream_cut_after_the_first_token_is_an_error_that_tells_how_much_arrived(broken, reason):
    with ScriptedLlm([broken, says("never read")]) as server:
        texts = []
        with pytest.raises(ModelError, match="broke off after 7 characters") as caught:
            texts.extend(delta.text for delta in model_at(server).stream(ASK, max_tokens=50))
        assert texts == ["Half a "]
        assert reason in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize("headers_first", [False, True])
def test_a_slow_first_token_is_a_timeout_and_not_tried_again(headers_first):
    slow = says("late", wait_s=5, headers_first=headers_first)
    with ScriptedLlm([slow, says("never read")]) as server:
        started = time.monotonic()
        with pytest.raises(ModelError, match=r"sent nothing within 0\.2 s; raise llm\.first_token_timeout_s"):
            read(model_at(server, first_token_timeout_s=0.2))
        assert time.monotonic() - started < 4
        assert len(server.requests) == 1


def test_comments_do_not_keep_a_reply_waiting_for_ever():
    with ScriptedLlm([Reply(repeat(b": ping\n\n"), pause_s=0.02)]) as server:
        with pytest.raises(ModelError, match="sent nothing within"):
            read(model_at(server, first_token_timeout_s=0.3))
        assert server.client_left.wait(5)


def test_a_long_pause_after_the_first_token_is_an_error():
    silence = r"broke off after 3 characters \(nothing came for 0\.2 s\)"
    with ScriptedLlm([says("one", "two", pause_s=3)]) as server, pytest.raises(ModelError, match=silence):
        read(model_at(server, timeout_s=0.2))


def test_pauses_may_be_longer_than_the_first_token_may_take():
    with ScriptedLlm([says("one", "two", pause_s=0.6, headers_first=True)]) as server:
        assert read(model_at(server, first_token_timeout_s=0.4, timeout_s=10)) == "onetwo"


def test_closing_the_iterator_hangs_up_and_the_server_notices():
    endless = Reply((piece("more ") for _ in repeat(None)), pause_s=0.01)
    with ScriptedLlm([endless]) as server:
        stream = model_at(server).stream(ASK, max_tokens=50)
        assert next(stream).text == "more "
        assert not server.client_left.is_set()
        stream.close()
        assert server.client_left.wait(5)


def test_an_empty_reply_is_no_text_and_a_finish_reason():
    with ScriptedLlm([Reply([finish("length"), usage(9, 50), DONE])]) as server:
        assert list(model_at(server).stream(ASK, max_tokens=50)) == [Delta(usage=Usage(9, 50), finish_reason="length")]


def test_a_web_page_instead_of_a_stream_points_to_the_base_url():
    page = Reply([b"<html>Welcome</html>"], content_type="text/html")
    with ScriptedLlm(always=page) as server, pytest.raises(ModelError, match=r"no event stream.*ends in /v1"):
        read(model_at(server, retries=0))


def test_401_names_the_environment_variable_and_never_the_key():
    echo = refuses(401, f"Incorrect API key provided: {KEY}")
    with ScriptedLlm([echo]) as server, pytest.raises(ModelError) as caught:
        read(model_at(server, api_key_env="MY_KEY"))
    assert "environment variable MY_KEY, which is not accepted there" in str(caught.value)
    error = caught.value
    while error is not None:
        assert KEY not in str(error)
        error = error.__cause__
    assert len(server.requests) == 1


def test_401_without_a_key_says_that_the_variable_is_empty():
    with (
        ScriptedLlm([refuses(401, "Missing bearer")]) as server,
        pytest.raises(ModelError, match="is empty or not set"),
    ):
        read(OpenAiModel(base_url=server.base_url, model="toy"))


def test_an_unknown_model_is_answered_with_the_models_there_are():
    missing = refuses(404, "model 'toy' not found")
    offer = r"no model 'toy'; set llm\.model to one it has: llama3\.2, qwen3$"
    with ScriptedLlm([missing], models=["qwen3", "llama3.2"]) as server, pytest.raises(ModelMissing, match=offer):
        read(model_at(server))


def test_a_base_url_without_v1_is_told_apart_from_an_unknown_model():
    with ScriptedLlm() as server:
        model = OpenAiModel(base_url=server.base_url.removesuffix("/v1"), model="toy", sleep=Naps())
        with pytest.raises(ModelMissing, match="mostly ends in /v1"):
            read(model)


def test_nobody_listening_is_reported_at_once_with_ways_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        naps = Naps()
        model = OpenAiModel(base_url=f"http://127.0.0.1:{port}/v1/", model="toy", sleep=naps)
        with pytest.raises(ModelMissing, match=rf"cannot connect to http://127\.0\.0\.1:{port}/v1 .*start the server"):
            read(model)
    assert naps == []


def test_a_server_without_stream_options_is_asked_without_and_remembered():
    refusal = refuses(400, "Unknown field: stream_options")
    with ScriptedLlm([refusal, says("ok"), says("again")]) as server:
        model = model_at(server)
        assert read(model) == "ok"
        assert read(model) == "again"
    assert ["stream_options" in request for request in server.requests] == [True, False, False]
    assert model.refused == ["stream_options"]


def test_a_server_that_wants_max_completion_tokens_gets_it():
    message = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    with ScriptedLlm([refuses(400, message, param="max_tokens"), says("ok")]) as server:
        assert read(model_at(server)) == "ok"
    assert "max_tokens" not in server.requests[1]
    assert server.requests[1]["max_completion_tokens"] == 50


def test_a_model_with_a_fixed_temperature_is_asked_without_one():
    message = "Unsupported value: 'temperature' does not support 0.3 with this model."
    with ScriptedLlm([refuses(400, message, param="temperature"), says("ok")]) as server:
        assert read(model_at(server), temperature=0.3) == "ok"
    assert "temperature" not in server.requests[1]


def test_a_schema_is_asked_for_as_structured_output():
    with ScriptedLlm([says('{"a": 1}')]) as server:
        assert read(model_at(server), schema=SCHEMA) == '{"a": 1}'
    assert server.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
    }


def test_a_server_without_json_schema_gets_the_schema_as_an_instruction():
    refusal = refuses(400, "response_format.type must be one of text, json_object")
    with ScriptedLlm([refusal, refusal, says('{"a": 1}')]) as server:
        model = model_at(server)
        assert read(model, schema=SCHEMA) == '{"a": 1}'
    assert [request.get("response_format", {}).get("type") for request in server.requests] == [
        "json_schema",
        "json_object",
        None,
    ]
    assert model.refused == ["json_schema", "response_format"]
    last = server.requests[2]["messages"][-1]["content"]
    assert last.startswith("Hello?")
    assert json.dumps(SCHEMA) in last


def test_a_refusal_about_anything_else_is_an_error_with_the_servers_words():
    with ScriptedLlm([refuses(400, "maximum context length is 4096 tokens")]) as server:
        with pytest.raises(ModelError, match=r"maximum context length is 4096 tokens.*lower ask\.context_tokens"):
            read(model_at(server))
        assert len(server.requests) == 1


def test_the_key_is_sent_to_the_server_and_shown_nowhere(caplog, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    caplog.set_level(logging.DEBUG)
    refusal = refuses(400, f"seed is unknown, dear {KEY}")
    with ScriptedLlm([refusal, busy(), says("ok")]) as server:
        model = model_at(server)
        assert read(model, seed=1) == "ok"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "openai-organization" not in server.headers[0]
    assert not [name for name in server.headers[0] if name.startswith("x-stainless")]
    assert KEY not in repr(model)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("llm_twin")]
    assert any("refuses seed" in message for message in ours)
    assert not any(KEY in message for message in ours)


def test_without_a_key_the_one_of_the_environment_is_not_sent_elsewhere(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    with ScriptedLlm([says("ok")]) as server:
        assert read(OpenAiModel(base_url=server.base_url, model="toy")) == "ok"
    assert "authorization" not in server.headers[0]


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ScriptedLlm([says("ok")]) as server:
        assert read(model_at(server)) == "ok"


def test_an_empty_base_url_means_the_environments_or_openai(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert OpenAiModel(model="m").base_url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1/")
    assert OpenAiModel(model="m").base_url == "http://gpu:8000/v1"


def test_models_lists_what_the_server_offers():
    with ScriptedLlm(models=["b", "a"]) as server:
        assert model_at(server).models() == ["a", "b"]


def test_probing_finds_model_servers_and_nothing_else():
    with ScriptedLlm(models=["qwen3"]) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"Ollama": server.port, "vLLM": silent.getsockname()[1], "LM Studio": 9}
        assert OpenAiModel.local_servers(ports, timeout_s=0.2) == [("Ollama", server.base_url, ["qwen3"])]


def test_importing_and_building_a_model_imports_no_client():
    program = (
        "import sys; from llm_twin.adapters.openai import OpenAiModel; OpenAiModel(model='m', api_key='k'); "
        "print('openai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _cancelled_after(model: OpenAiModel, wait_until) -> float:
    """Seconds from cancelling a reply, once `wait_until` holds, to the end of the work that reads it."""
    cancellation = Cancellation()
    ended = []

    def work() -> None:
        try:
            cancellation.run(lambda: list(model.stream([Message("user", "Hi")], max_tokens=9)))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until()
    started = time.monotonic()
    cancellation.cancel()
    thread.join(30)
    assert [type(error) for error in ended] == [Cancelled]
    return time.monotonic() - started


@pytest.mark.parametrize("headers_first", [False, True])
def test_a_reply_is_cancelled_from_another_thread_while_the_server_has_not_said_a_word(headers_first):
    with ScriptedLlm([says("late", wait_s=20, headers_first=headers_first)]) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy")

        def until_asked():
            while not server.requests:
                time.sleep(0.01)
            time.sleep(0.2)  # and the reader is blocked

        assert _cancelled_after(model, until_asked) < 10
        assert len(server.requests) == 1, "what was cancelled is not tried again"


def test_a_reply_is_cancelled_between_two_tries():
    with ScriptedLlm([busy(retry_after=50), says("never")]) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy")

        def until_refused():
            while not server.requests:
                time.sleep(0.01)
            time.sleep(0.2)

        assert _cancelled_after(model, until_refused) < 10
        assert len(server.requests) == 1


def test_the_server_sees_a_cancelled_reader_leave():
    words = [f"word{number} " for number in range(1000)]
    with ScriptedLlm([says(*words, pause_s=0.01)]) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy")

        def until_speaking():
            while not server.requests:
                time.sleep(0.01)
            time.sleep(0.3)

        _cancelled_after(model, until_speaking)
        assert server.client_left.wait(10)
