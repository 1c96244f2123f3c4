from __future__ import annotations

import json
import os
import queue
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_templates
import tiny_llama
from llm_twin.adapters.openvino_genai import OpenVinoEngine, OpenVinoWriter, _Text, context_of
from llm_twin.core.errors import ModelBusy, ModelError, ModelMissing, ReplyRefused
from llm_twin.core.records import Delta, Message, ModelFiles, ReplyRequest, Usage

openvino_genai = pytest.importorskip("openvino_genai", reason="needs the extra llm-twin[openvino-genai]")

QUESTION = (Message("system", "You are the user."), Message("user", "what do I think of 123? Ünï 🙂"))
PROMPT = 55
"""Tokens of that, template included."""
TITLE = {
    "type": "object",
    "properties": {"title": {"enum": ["ORMs", "SQL"]}, "count": {"enum": [1, 2]}},
    "required": ["title", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    return tiny_llama.write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(gguf) -> Iterator[OpenVinoWriter]:
    writer = OpenVinoWriter(gguf, name="tiny", parallel=4, waiting=4, seed=1)
    yield writer
    writer.close()


class Reading:
    """The pieces of one reply as they come."""

    def __init__(self, model: OpenVinoWriter, request: ReplyRequest) -> None:
        self.pieces: queue.SimpleQueue[Delta | ModelError] = queue.SimpleQueue()
        self.cancel = model.write(request, self.pieces.put)

    def __iter__(self) -> Iterator[Delta]:
        while True:
            piece = self.pieces.get(timeout=60)
            if isinstance(piece, ModelError):
                raise piece
            yield piece
            if piece.finish_reason:
                return


def asked(messages: Sequence[Message] = QUESTION, **how) -> ReplyRequest:
    return ReplyRequest(tuple(messages), **{"temperature": 0.0, "max_tokens": 40, **how})


def whole(model: OpenVinoWriter, request: ReplyRequest) -> tuple[str, Delta]:
    *texts, last = Reading(model, request)
    return "".join(piece.text for piece in texts), last


def test_a_reply_comes_in_pieces_and_ends_with_what_it_used(model) -> None:
    *texts, last = Reading(model, asked(max_tokens=4))
    assert len(texts) >= 2
    assert all(piece.text for piece in texts)
    assert (last.finish_reason, last.usage) == ("length", Usage(PROMPT, 4))


def test_greedy_replies_are_the_same_alone_and_among_others(model) -> None:
    questions = [(Message("user", f"what do I think of {number}?"),) for number in range(4)]
    alone = [whole(model, asked(question))[0] for question in questions]
    together = [Reading(model, asked(question)) for question in questions]
    assert ["".join(piece.text for piece in reading) for reading in together] == alone
    assert len(set(alone)) > 1


def test_a_seed_makes_sampling_repeatable_and_without_one_replies_differ(model) -> None:
    hot = {"temperature": 1.5, "max_tokens": 30}
    assert whole(model, asked(seed=7, **hot)) == whole(model, asked(seed=7, **hot))
    assert len({whole(model, asked(**hot))[0] for _ in range(4)}) > 1


def test_the_likeliest_tokens_alone_are_what_a_narrow_top_p_leaves(model) -> None:
    greedy, _ = whole(model, asked())
    assert whole(model, asked(temperature=1.0, top_p=1e-6, seed=3))[0] == greedy


@pytest.mark.parametrize("style", chat_templates.TEMPLATES)
def test_the_chat_template_is_applied_once_and_as_transformers_does(style, tmp_path) -> None:
    golden = json.loads(chat_templates.GOLDEN.read_text())
    path = tiny_llama.write_gguf(tmp_path / "tiny.gguf", template=chat_templates.TEMPLATES[style])
    model = OpenVinoWriter(path, name="tiny")
    try:
        for name, turns in chat_templates.CONVERSATIONS.items():
            if theirs := golden[f"{style}: {name}"]:
                assert model.tokens([Message(role, content) for role, content in turns]) == theirs, name
    finally:
        model.close()


def test_a_template_without_system_messages_gets_their_text_in_the_first_question(tmp_path) -> None:
    template = chat_templates.TEMPLATES["no system message"]
    model = OpenVinoWriter(tiny_llama.write_gguf(tmp_path / "tiny.gguf", template=template), name="tiny")
    try:
        assert "user\nYou are the user.\nwhat do I think" in model._decode(model.tokens(QUESTION))
    finally:
        model.close()


def test_a_stop_text_ends_the_reply_and_is_no_part_of_it(model) -> None:
    full, _ = whole(model, asked())
    stop = full[7:9]
    text, last = whole(model, asked(stop=(stop, "never written")))
    assert text == full[: full.index(stop)]
    assert last.finish_reason == "stop"
    assert last.usage.completion_tokens < 40


def test_a_schema_is_obeyed(model) -> None:
    for seed in range(5):
        text, last = whole(model, asked(schema=TITLE, max_tokens=300, temperature=0.3, seed=seed))
        if last.finish_reason == "stop":  # a toy may write white space until its tokens are used up
            reply = json.loads(text)
            assert set(reply) == {"title", "count"}
            assert reply["title"] in ("ORMs", "SQL")
            return
    pytest.fail("no reply of five was complete")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/$defs/missing"}, {"enum": []}])
def test_a_schema_that_cannot_be_obeyed_is_refused_and_harms_no_other_reply(model, schema) -> None:
    reading = Reading(model, asked(max_tokens=60))
    with pytest.raises(ReplyRefused, match="the schema of response_format cannot be obeyed") as refused:
        model.write(asked(schema=schema), lambda _: None)
    assert refused.value.field == "response_format"
    assert list(reading)[-1].finish_reason == "length"
    assert whole(model, asked(schema=TITLE, max_tokens=5))[1].finish_reason


def test_a_huge_schema_is_refused(model) -> None:
    with pytest.raises(ReplyRefused, match=r"32,768 are the most"):
        model.write(asked(schema={"enum": ["x" * 40_000]}), lambda _: None)


def test_messages_beyond_the_context_are_refused_with_the_numbers(model) -> None:
    with pytest.raises(ReplyRefused, match=r"have \d{3,} tokens, and the context of tiny is 512") as refused:
        model.write(asked((Message("user", "x " * 600),), max_tokens=None), lambda _: None)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(ReplyRefused, match=f"have {PROMPT} tokens and {513 - PROMPT} are asked for"):
        model.write(asked(max_tokens=513 - PROMPT), lambda _: None)
    assert whole(model, asked(max_tokens=512 - PROMPT, stop=("a", "e", "i")))[1].finish_reason


def test_without_a_limit_a_reply_may_fill_the_context(model) -> None:
    text, last = whole(model, asked(max_tokens=None))
    assert last.usage.prompt_tokens + last.usage.completion_tokens <= 512
    assert text


def test_a_cancelled_reply_frees_its_place(model) -> None:
    readings = [Reading(model, asked(max_tokens=400, temperature=1.0)) for _ in range(8)]
    with pytest.raises(ModelBusy, match="tiny writes 4 replies at once and 4 wait; ask again in") as busy:
        Reading(model, asked())
    assert 1 <= busy.value.retry_after_s <= 60
    for reading in readings:
        reading.cancel()
    until = time.monotonic() + 30
    while model._count and time.monotonic() < until:
        time.sleep(0.01)
    assert model._count == 0
    assert whole(model, asked(max_tokens=3))[1].usage.completion_tokens == 3


def test_many_readers_get_their_own_replies(model) -> None:
    requests = [asked((Message("user", f"the {number}"),), max_tokens=12) for number in range(8)]
    alone = [whole(model, request)[0] for request in requests]
    for _ in range(3):
        order = random.Random(0).sample(range(8), 8)
        readings = [Reading(model, requests[number]) for number in order]
        assert ["".join(piece.text for piece in reading) for reading in readings] == [alone[n] for n in order]


def test_a_step_that_fails_costs_its_replies_and_nothing_more(gguf) -> None:
    model = OpenVinoWriter(gguf, name="tiny")
    model._schemas.check = lambda schema: None  # the trial lets something through
    try:
        with pytest.raises(ModelError, match=r"tiny failed: .*nonsense.*; ask again"):
            list(Reading(model, asked(schema={"type": "nonsense"})))
        assert whole(model, asked(max_tokens=3))[1].usage.completion_tokens == 3
    finally:
        model.close()


def test_closing_breaks_off_replies_and_later_ones_are_refused(gguf) -> None:
    model = OpenVinoWriter(gguf, name="tiny")
    reading = Reading(model, asked(max_tokens=450, temperature=1.0))
    model.close()
    with pytest.raises(ModelError, match="tiny was stopped before its reply was complete"):
        list(reading)
    assert not model.alive()
    with pytest.raises(ModelError, match="tiny is not there any more"):
        model.write(asked(), lambda _: None)


def test_q8_and_f16_files_load_and_a_file_that_is_none_is_an_error(tmp_path) -> None:
    quantised = OpenVinoWriter(tiny_llama.write_gguf(tmp_path / "q8.gguf", quantised=True), name="q8")
    assert whole(quantised, asked(max_tokens=5))[1].usage == Usage(PROMPT, 5)
    quantised.close()
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(ModelError, match=r"OpenVINO cannot load .*no\.gguf: .*; take a GGUF file of type F16 or Q8_0"):
        OpenVinoWriter(tmp_path / "no.gguf", name="no")
    with pytest.raises(ModelMissing, match=r"there is no model at .*absent\.gguf"):
        OpenVinoWriter(tmp_path / "absent.gguf", name="absent")


def test_a_template_that_refuses_a_message_is_an_error_of_the_request(tmp_path) -> None:
    template = chat_templates.TEMPLATES["turns only"]
    model = OpenVinoWriter(tiny_llama.write_gguf(tmp_path / "picky.gguf", template=template), name="picky")
    try:
        with pytest.raises(ReplyRefused, match="picky refuses these messages: roles must alternate; change"):
            model.write(asked((Message("user", "a"), Message("user", "b"))), lambda _: None)
    finally:
        model.close()


def test_the_context_is_read_from_the_file_or_the_folder(gguf, tmp_path) -> None:
    assert context_of(gguf) == 512
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    assert context_of(tmp_path) == 2048
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="does not tell the length of its context"):
        context_of(tmp_path)


def test_a_folder_in_openvinos_format_writes_the_same(gguf, model, tmp_path) -> None:
    shutil.copy(gguf, tmp_path / "tiny.gguf")
    # The library itself turns a GGUF file into its own format, beside it.
    openvino_genai.LLMPipeline(str(tmp_path / "tiny.gguf"), "CPU", enable_save_ov_model=True)
    assert (tmp_path / "openvino_model.xml").exists()
    (tmp_path / "tiny.gguf").unlink()
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    folder = OpenVinoWriter(tmp_path, name="folder")
    assert folder.tokens(QUESTION) == model.tokens(QUESTION)
    assert whole(folder, asked(max_tokens=8))[0] == whole(model, asked(max_tokens=8))[0]
    folder.close()


def test_the_stored_tokens_are_what_transformers_makes_today() -> None:
    pytest.importorskip("transformers", reason="needs transformers, to compare with")
    script = Path(chat_templates.__file__)
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(script.parent)}, capture_output=True
    )
    assert json.loads(done.stdout) == json.loads(chat_templates.GOLDEN.read_text())


def test_the_server_is_started_with_the_key_in_its_environment_only() -> None:
    files = ModelFiles("tiny", "/models/tiny.gguf", "gguf")
    command, environment = OpenVinoEngine(["--parallel", "2"]).command(files, host="::1", port=81, api_key="s3cret")
    assert command[1:] == [
        *("-m", "llm_twin.server.llm", "/models/tiny.gguf", "--name", "tiny", "--host", "::1", "--port", "81"),
        *("--parallel", "2"),
    ]
    assert environment == {"LLM_TWIN_SERVER_KEY": "s3cret"}
    assert "s3cret" not in " ".join(command)


# --- tokens to text -------------------------------------------------------------------------------------------------


def _bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_text_in_pieces_is_the_whole_text_up_to_the_first_stop(text, stops, data) -> None:
    tokens = list(text.encode("utf-8", "replace"))
    expected = bytes(tokens).decode()
    cuts = [place for stop in stops if (place := expected.find(stop)) >= 0]
    reading = _Text(_bytes, stops)
    got = ""
    while tokens and not reading.stopped:
        size = data.draw(st.integers(1, 4))
        piece = reading.add(tokens[:size])
        assert "\ufffd" not in piece or "\ufffd" in expected
        got += piece
        tokens = tokens[size:]
    if not reading.stopped:
        got += reading.rest()
    if cuts:
        assert reading.stopped
        assert expected.startswith(got)
        assert not any(stop in got for stop in stops)
    else:
        assert got == expected


def test_tokens_that_never_make_a_character_are_not_all_read_again_with_every_new_one() -> None:
    sizes: list[int] = []

    def decode(tokens: Sequence[int]) -> str:
        sizes.append(len(tokens))
        return _bytes(tokens)

    reading = _Text(decode)
    text = "".join(reading.add([0xFF]) for _ in range(500)) + reading.rest()
    assert text == "\ufffd" * 500
    assert max(sizes) <= 200


def test_the_stop_text_that_is_complete_first_ends_a_reply_however_its_tokens_come() -> None:
    for pieces in (["abc"], ["a", "b", "c"], ["ab", "c"]):
        reading = _Text(_bytes, ["abc", "b"])
        assert "".join(reading.add(piece.encode()) for piece in pieces) == "a"
        assert reading.stopped


def test_a_half_character_at_the_end_is_passed_on_as_it_is() -> None:
    reading = _Text(_bytes)
    assert [reading.add([104]), reading.add([0xF0]), reading.add([0x9F])] == ["h", "", ""]
    assert reading.rest() == "\ufffd"
