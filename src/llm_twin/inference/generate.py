"""From passages to a draft in the author's voice, piece by piece as the model writes it."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from llm_twin.core.errors import ModelError
from llm_twin.core.ports import LanguageModel
from llm_twin.core.prompts import ANSWER, render_answer, version
from llm_twin.core.records import Delta, Message, Passage, Usage, VoiceProfile
from llm_twin.core.stylometry import describe
from llm_twin.inference.verify import uncited

NO_MODEL = (
    "writing needs a language model and none is configured (llm.model is empty); choose one of these:\n"
    "  · run Ollama: `ollama pull qwen3:4b`; set llm.model to qwen3:4b and llm.base_url to http://127.0.0.1:11434/v1\n"
    "  · run llama.cpp: `llama-server -m MODEL.gguf`; set llm.model and llm.base_url to http://127.0.0.1:8080/v1\n"
    "  · use any OpenAI-compatible endpoint: set llm.base_url, llm.model, and the key in the variable llm.api_key_env\n"
    "`twin ask` and `twin search` work without one"
)
"""What `ModelMissing` says where a draft is asked for and no model is configured."""

PROMPT_TOKENS = 6000
"""Tokens a prompt may have by default, as `estimate_tokens` counts them."""
VOICE_OPENERS = 5
VOICE_PHRASES = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """What a model wrote, without its artefacts, and with what it was asked.

    `prompt` is the content hash of the prompt. `notes` say in plain words what was left out or cut.
    """

    text: str
    usage: Usage
    model: str
    prompt: str
    notes: tuple[str, ...] = ()


def generate(
    question: str,
    passages: Sequence[Passage],
    *,
    model: LanguageModel,
    author: str,
    voice: VoiceProfile | None = None,
    examples: Sequence[str] = (),
    history: Sequence[Message] = (),
    max_tokens: int = 800,
    prompt_tokens: int = PROMPT_TOKENS,
    temperature: float = 0.3,
) -> Generator[str, None, Draft]:
    """Answer `question` from `passages`; yields the text as it comes and returns the `Draft`.

    The prompt keeps within `prompt_tokens` as `estimate_tokens` counts them: earlier turns go first, oldest first, then
    examples, then the last passages. Closing the generator cancels the model.
    Raises `ModelError` when the model fails, says nothing, or when not even one passage fits.
    """
    messages, notes = messages_for(
        question, passages, author=author, voice=voice, examples=examples, history=history, prompt_tokens=prompt_tokens
    )
    reply = yield from stream(model, messages, author=author, max_tokens=max_tokens, temperature=temperature)
    return Draft(reply.text, reply.usage, model.name, version(ANSWER), (*notes, *reply.notes))


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's whole reply without artefacts; `notes` say when it was cut."""

    text: str
    usage: Usage
    notes: tuple[str, ...] = ()


def stream(
    model: LanguageModel,
    messages: Sequence[Message],
    *,
    author: str,
    max_tokens: int,
    temperature: float,
) -> Generator[str, None, Reply]:
    """The model's reply to `messages`, artefacts stripped. Raises `ModelError` when it fails or says nothing."""
    last = Delta()
    pieces = []

    def texts(deltas: Iterable[Delta]) -> Iterator[str]:
        nonlocal last
        for delta in deltas:
            last = delta
            yield delta.text

    deltas = model.stream(messages, max_tokens=max_tokens, temperature=temperature)
    with ExitStack() as stack:
        stack.callback(getattr(deltas, "close", lambda: None))
        for piece in without_artefacts(texts(deltas), author=author):
            pieces.append(piece)
            yield piece
    text = _after_thought("".join(pieces))
    if not text:
        why = f"it stopped at the limit of {max_tokens} tokens" if last.finish_reason == "length" else "it just stopped"
        raise ModelError(f"{model.name} replied with nothing ({why}); raise ask.max_tokens or try another model")
    return Reply(text, last.usage or Usage(), tuple(_reply_notes(last.finish_reason, max_tokens)))


def without_artefacts(pieces: Iterable[str], *, author: str = "") -> Iterator[str]:
    """A streamed reply without what models add around it, wherever the pieces are cut.

    That is: `<think>…</think>` before the reply, a role label such as "Assistant:" or the author's name at its
    beginning, stop tokens and white space at its end. Inside the reply nothing is touched: it may speak of such things.
    """
    held, begun = "", False
    for piece in pieces:
        held += piece
        if not begun:
            rest = _beginning(held, author)
            if rest is None:
                continue
            held, begun = rest, True
        tail = _TAIL.search(held)
        cut = tail.start() if tail else len(held)
        if cut:
            yield held[:cut]
            held = held[cut:]
    if not begun:
        held = _beginning(held, author, ended=True) or ""
    if rest := _STOP_TOKENS.sub("", held).rstrip():
        yield rest


def voice_notes(voice: VoiceProfile | None) -> str:
    """An author's measured style as lines for a prompt; empty without a profile."""
    if voice is None:
        return ""
    notes = [*describe(voice.measures)]
    if voice.openers:
        notes.append(f"Often begins sentences with: {', '.join(voice.openers[:VOICE_OPENERS])}")
    if voice.phrases:
        notes.append(f"Likes to say: {'; '.join(voice.phrases[:VOICE_PHRASES])}")
    return "\n".join(f"- {note}" for note in notes)


def estimate_tokens(text: str) -> int:
    """Tokens of a text for a model whose tokenizer is not at hand, rather too many than too few.

    English prose has 4 to 4.5 bytes of UTF-8 per token, code about 3; other scripts have 3 bytes or more per character.
    """
    return -(-len(text.encode()) // 3)


def messages_for(
    question: str,
    passages: Sequence[Passage],
    *,
    author: str,
    voice: VoiceProfile | None = None,
    examples: Sequence[str] = (),
    history: Sequence[Message] = (),
    prompt_tokens: int = PROMPT_TOKENS,
) -> tuple[list[Message], list[str]]:
    """The messages that ask for an answer, within the budget, and notes on what did not fit; see `generate`."""
    described = voice_notes(voice)
    turns = [Message(turn.role, uncited(turn.content)) for turn in history]
    examples, shown = list(examples), list(passages)
    while True:
        messages = render_answer(question, shown, author=author, voice=described, examples=examples, history=turns)
        needed = sum(estimate_tokens(message.content) for message in messages)
        if needed <= prompt_tokens:
            break
        if turns:
            turns = turns[1:]
        elif examples:
            examples = examples[:-1]
        elif len(shown) > 1:
            shown = shown[:-1]
        else:
            raise ModelError(
                f"the prompt needs about {needed} tokens with a single passage and may have {prompt_tokens}; "
                "ask a shorter question or lower ask.context_tokens"
            )
    left_out = len(passages) - len(shown)
    return messages, [f"{left_out} of {len(passages)} passages did not fit into the prompt."] if left_out else []


def _reply_notes(finish_reason: str | None, max_tokens: int) -> Iterator[str]:
    if finish_reason == "length":
        yield f"The text was cut at {max_tokens} tokens, the limit set for it."
    if finish_reason == "content_filter":
        yield "The model's server cut the text by its content filter."


def _beginning(held: str, author: str, *, ended: bool = False) -> str | None:
    """The reply from its first word on; None while that cannot be told yet."""
    rest = held.lstrip()
    while opened := _THINK.match(rest):
        closed = re.search(rf"</{opened[1]}>", rest, re.IGNORECASE)
        if closed is None:
            return "" if ended else None
        rest = rest[closed.end() :].lstrip()
    labels = [f"{label}:" for label in ("assistant", "answer", author.casefold()) if label]
    labels += [f"**{label}**" for label in labels] + [f"**{label[:-1]}**:" for label in labels]
    lowered = rest.casefold()
    for label in labels:
        if lowered.startswith(label):
            # What follows the label decides where the text begins, and may not be here yet.
            return rest[len(label) :].lstrip() or ("" if ended else None)
    undecided = any(start.startswith(lowered) for start in (*labels, "<think>", "<thinking>", "<reasoning>"))
    return None if undecided and not ended else rest


def _after_thought(text: str) -> str:
    """The text after a thought whose opening tag stood in the chat template, so that only its end was streamed."""
    return _ORPHAN.split(text)[-1].strip()


_THINK = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
_ORPHAN = re.compile(r"^[ \t]*</(?:think|thinking|reasoning)>[ \t]*$", re.IGNORECASE | re.MULTILINE)
_STOP_TOKENS = re.compile(r"(?:\s|</s>|<[|｜][^<>\s]{1,30}[|｜]>|<end_of_turn>|<eos>)+\Z")
# White space, whole stop tokens and the beginning of one: all that may turn out to be the end of the reply.
_TAIL = re.compile(r"(?:\s|</s>|<[|｜][^<>\s]{1,30}[|｜]>|<end_of_turn>|<eos>)*(?:<[^<>\s]{0,32})?\Z")
