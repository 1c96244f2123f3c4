"""Drafts against a real streaming server: what the reader sees, what is stripped, and what fits into the prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.adapters.openai import OpenAiModel
from llm_twin.core.errors import ModelError
from llm_twin.core.prompts import ANSWER, version
from llm_twin.core.records import DocumentHeader, Message, Passage, Usage, VoiceProfile
from llm_twin.inference.generate import NO_MODEL, estimate_tokens, generate, voice_notes, without_artefacts
from scripted_llm import Reply, ScriptedLlm, finish, piece, says

HEADER = DocumentHeader("d1", "Ada", "files", "article", "On SQL")
PASSAGES = [
    Passage(number, HEADER, f"Passage {number}. " + "I prefer plain SQL. " * 10, 0, 200, 1.0) for number in (1, 2, 3)
]


def drafted(server, **options):
    """The pieces as they came, and the draft."""
    model = OpenAiModel(base_url=server.base_url, model="toy", sleep=lambda _: None)
    pieces = []
    options = {"author": "Ada", "passages": PASSAGES} | options
    writing = generate("Why SQL?", options.pop("passages"), model=model, **options)
    while True:
        try:
            pieces.append(next(writing))
        except StopIteration as end:
            return pieces, end.value


def test_a_draft_comes_piece_by_piece_and_says_what_made_it():
    with ScriptedLlm([says("I prefer ", "plain SQL", " [1].")]) as server:
        pieces, draft = drafted(server, max_tokens=99, temperature=0.5)
    assert "".join(pieces) == draft.text == "I prefer plain SQL [1]."
    assert len(pieces) >= 2
    assert (draft.model, draft.prompt, draft.usage) == ("toy", version(ANSWER), Usage(11, 3))
    assert draft.notes == ()
    request = server.requests[0]
    assert (request["max_tokens"], request["temperature"]) == (99, 0.5)


def test_the_prompt_carries_voice_examples_history_without_citations_and_every_passage():
    voice = VoiceProfile("Ada", 3, 900, {"exclamations": 0.0}, {}, openers=("So",), phrases=("plain old SQL",))
    history = [Message("user", "ORMs?"), Message("assistant", "I avoid them [1][2?].")]
    with ScriptedLlm([says("ok")]) as server:
        drafted(server, voice=voice, examples=["It just works."], history=history)
    system, *turns, user = (message["content"] for message in server.requests[0]["messages"])
    assert turns == ["ORMs?", "I avoid them."]
    assert "Hardly ever uses exclamation marks." in system
    assert "Often begins sentences with: So" in system
    assert "Likes to say: plain old SQL" in system
    assert "<example>\nIt just works.\n</example>" in system
    assert [f'<passage number="{number}"' in user for number in (1, 2, 3, 4)] == [True, True, True, False]


def test_when_room_is_short_history_goes_first_then_examples_then_the_last_passages():
    history = [Message("user", "old " * 100), Message("assistant", "older " * 100)]
    with ScriptedLlm(always=says("ok")) as server:

        def sent(budget):
            _, draft = drafted(server, history=history, examples=["Tone. " * 60], prompt_tokens=budget)
            messages = server.requests[-1]["messages"]
            assert sum(estimate_tokens(message["content"]) for message in messages) <= budget
            text = messages[0]["content"] + messages[-1]["content"]
            return len(messages) - 2, "Tone." in text, text.count("<passage number="), draft.notes

        everything = sum(estimate_tokens(message["content"]) for message in _messages(server, history))
        assert sent(everything) == (2, True, 3, ())
        assert sent(everything - 10) == (1, True, 3, ())
        assert sent(everything - 330) == (0, True, 3, ())
        assert sent(everything - 400) == (0, False, 3, ())
        assert sent(everything - 530) == (0, False, 2, ("1 of 3 passages did not fit into the prompt.",))


def _messages(server, history):
    drafted(server, history=history, examples=["Tone. " * 60], prompt_tokens=10**6)
    return [Message(message["role"], message["content"]) and message for message in server.requests[-1]["messages"]]


def test_a_prompt_that_cannot_fit_is_an_error_with_both_numbers():
    with ScriptedLlm() as server, pytest.raises(ModelError, match=r"needs about \d+ tokens .* may have 100"):
        drafted(server, prompt_tokens=100)


def test_a_thought_and_a_role_label_never_reach_the_reader():
    reply = "<think>The user wants\n\nSQL.</think>\n\nAssistant: I prefer SQL [1].<|im_end|>\n"
    with ScriptedLlm([says(*reply)]) as server:
        pieces, draft = drafted(server)
    assert "".join(pieces) == draft.text == "I prefer SQL [1]."


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Ada: I do.", "I do."),
        ("**Answer:** I do.", "I do."),
        ("\n\n  I do.  \n", "I do."),
        ("<thinking>a</thinking><think>b</think> I do.</s>", "I do."),
        ("<THINK>a</THINK>I do.<|eot_id|><|endoftext|>", "I do."),
        ("Answers vary: I do.", "Answers vary: I do."),
        ("Adamant: I do.", "Adamant: I do."),
        ("I write `<think>` tags.", "I write `<think>` tags."),
        ("<thin ice>", "<thin ice>"),
        ("`a <b` and <|im_end|> in the middle", "`a <b` and <|im_end|> in the middle"),
        ("```html\n<s>old</s>\n```", "```html\n<s>old</s>\n```"),
        ("Assistant:", ""),
        ("<think>never ends", ""),
        ("a <", "a <"),
        ("", ""),
    ],
)
def test_artefacts_go_and_everything_else_stays_wherever_the_stream_is_cut(raw, clean):
    for size in (1, 2, 3, 7, 1000):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert "".join(without_artefacts(pieces, author="Ada")) == clean, size


@given(st.text(alphabet="ab <>/|sthinkAd:_\n`", max_size=60), st.integers(1, 9))
def test_the_reader_sees_the_same_whatever_the_size_of_the_pieces(raw, size):
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    whole = "".join(without_artefacts([raw], author="Ada"))
    assert "".join(without_artefacts(pieces, author="Ada")) == whole
    assert not whole.startswith((" ", "\n"))
    assert not whole.endswith((" ", "\n"))


def test_text_is_passed_on_before_the_reply_has_ended():
    def pieces():
        yield "Hello there, "
        assert seen == ["Hello there,"]
        yield "reader"

    seen = []
    for text in without_artefacts(pieces(), author="Ada"):
        seen.append(text)  # noqa: PERF402 the generator looks at what was seen so far
    assert seen == ["Hello there,", " reader"]


def test_a_thought_opened_by_the_chat_template_is_cut_from_the_draft():
    with ScriptedLlm([says("Hm, SQL.\n", "</think>\n", "I prefer SQL.")]) as server:
        assert drafted(server)[1].text == "I prefer SQL."


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_empty_reply_is_an_error_that_says_why(reason):
    expected = {"stop": "it just stopped", "length": "limit of 40 tokens"}[reason]
    with ScriptedLlm([says("<think>hm", reason=reason)]) as server, pytest.raises(ModelError, match=expected):
        drafted(server, max_tokens=40)


def test_a_text_cut_by_its_limit_says_so():
    with ScriptedLlm([says("I prefer", reason="length")]) as server:
        assert drafted(server, max_tokens=2)[1].notes == ("The text was cut at 2 tokens, the limit set for it.",)


def test_a_cut_connection_after_the_first_piece_is_an_error():
    with ScriptedLlm([Reply([piece("I prefer ")], cut=True)]) as server, pytest.raises(ModelError, match="broke off"):
        drafted(server)


def test_closing_the_draft_cancels_the_model():
    def endless():
        while True:
            yield piece("more ")

    with ScriptedLlm([Reply(endless(), pause_s=0.01)]) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy")
        writing = generate("Why?", PASSAGES, model=model, author="Ada")
        next(writing)
        writing.close()
        assert server.client_left.wait(5)


def test_without_a_profile_there_are_no_notes():
    assert voice_notes(None) == ""


def test_the_estimate_of_tokens_is_on_the_safe_side():
    # 44 characters and 10 tokens in GPT-2's vocabulary; Japanese needs about a token per character.
    assert estimate_tokens("The quick brown fox jumps over the lazy dog.") == 15
    assert estimate_tokens("日本語") == 3
    assert estimate_tokens("") == 0


def test_the_advice_for_getting_a_model_names_three_ways_and_every_setting():
    for expected in ("ollama pull", "llama-server", "OpenAI-compatible endpoint", "llm.base_url", "llm.api_key_env"):
        assert expected in NO_MODEL


def test_a_reply_of_one_piece_is_whole():
    with ScriptedLlm([Reply([piece("Yes."), finish()])]) as server:
        assert drafted(server)[1].text == "Yes."
