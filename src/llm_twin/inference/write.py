"""A draft in the author's voice, grounded in what they wrote: outline, then section by section, then verified."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_twin.core.errors import ConfigError, ModelError, ModelMissing
from llm_twin.core.ports import Embedder, LanguageModel
from llm_twin.core.prompts import OUTLINE, SECTION, SHAPES, render_outline, render_section, version
from llm_twin.core.records import Answer, Message, Passage, Passages, TextDelta, Usage, VoiceProfile
from llm_twin.inference.generate import Reply, stream, voice_notes
from llm_twin.inference.verify import renumbered, verify

WORDS_PER_SECTION: Mapping[str, int] = {"post": 150, "article": 220, "thread": 35}
SECTIONS: Mapping[str, tuple[int, int]] = {"post": (2, 6), "article": (3, 10), "thread": (3, 20)}
TOKENS_PER_WORD = 2
"""Tokens allowed per word asked for: English needs 1.4 with citations, other languages more."""
WRITTEN_SHOWN = 1500
"""Characters of the draft so far that the model sees, so that it goes on and does not repeat."""


class Section(BaseModel):
    """One section of an outline: what it says, and what to search for to write it."""

    model_config = ConfigDict(extra="forbid")

    heading: str = Field(min_length=1, max_length=200)
    points: list[str] = Field(max_length=8)
    query: str = Field(min_length=1, max_length=300)


class Outline(BaseModel):
    """A plan for a draft."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, max_length=200)
    sections: list[Section] = Field(min_length=1, max_length=24)


def write(
    topic: str,
    *,
    kind: str = "post",
    length: int = 400,
    retrieve: Callable[[str], Sequence[Passage]],
    model: LanguageModel,
    author: str,
    embedder: Embedder,
    voice: VoiceProfile | None = None,
    examples: Sequence[str] = (),
    temperature: float = 0.3,
) -> Generator[Passages | TextDelta, None, Answer]:
    """Draft a `post`, an `article` or a `thread` of about `length` words on `topic`.

    Yields the passages of the outline, then the text line by line with its final citation numbers; returns the answer,
    whose text carries the marks of verification and whose passages are those it cites, numbered as in the text.
    Where nothing was written about the topic the answer abstains. Closing the generator cancels the model.
    Raises `ModelError` when the model fails, `ConfigError` for an unknown kind.
    """
    if kind not in SHAPES:
        raise ConfigError(f"there is no kind of draft {kind!r}; use one of {', '.join(SHAPES)}")
    found = list(retrieve(topic))
    yield Passages(tuple(found))
    if not found:
        text = f"I find nothing in what {author} has published to write about this from."
        yield TextDelta(text)
        return Answer(text, "abstained", model=model.name)
    draft = _Draft(model, author, voice_notes(voice), tuple(examples), kind, temperature)
    outline = draft.outline(topic, found, length)
    yield from draft.opening(outline.title)
    words = max(length // len(outline.sections), 20)
    for number, section in enumerate(outline.sections, start=1):
        # A search for the section alone may leave the topic, so what the topic found stands in where it finds nothing.
        yield from draft.section(number, section, outline, list(retrieve(section.query)) or found, words)
    return draft.answer(embedder)


@dataclass(slots=True)
class _Draft:
    """A draft as it grows: its lines, what it cites in the order of first citation, and what it cost."""

    model: LanguageModel
    author: str
    voice: str
    examples: tuple[str, ...]
    kind: str
    temperature: float
    lines: list[str] = field(default_factory=list)
    cited: dict[tuple[str, int, int], Passage] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    notes: list[str] = field(default_factory=list)

    def outline(self, topic: str, passages: Sequence[Passage], length: int) -> Outline:
        """The model's outline; after two replies that are none, one made by rule, which the notes tell."""
        least, most = SECTIONS[self.kind]
        sections = min(max(round(length / WORDS_PER_SECTION[self.kind]), least), most)
        messages = render_outline(topic, passages, author=self.author, kind=self.kind, length=length, sections=sections)
        for _ in range(2):
            try:
                reply = self._structured(messages)
                outline = Outline.model_validate_json(_json_in(reply))
            except ModelMissing:
                raise
            except ModelError:
                # llama-server reports an error, not a short reply, where the tokens end before the JSON does.
                continue
            except ValidationError as error:
                wrong = error.errors()[0]
                place = ".".join(str(part) for part in wrong["loc"]) or "the whole reply"
                complaint = (
                    f"That was not the JSON asked for ({place}: {wrong['msg']}). Reply with the JSON object alone."
                )
                messages = [*messages, Message("assistant", reply[:2000] or "-"), Message("user", complaint)]
            else:
                return outline.model_copy(update={"sections": outline.sections[:most]})
        self.notes.append(
            f"{self.model.name} gave no usable outline in two tries, so the sections follow the passages found."
        )
        return _outline_by_rule(topic, passages, sections)

    def _structured(self, messages: Sequence[Message]) -> str:
        """The reply to a request for an outline; its tokens are bounded, for small models may never close a brace."""
        pieces = []
        for delta in self.model.stream(messages, max_tokens=1500, schema=Outline.model_json_schema()):
            pieces.append(delta.text)
            self.usage += delta.usage or Usage()
        return "".join(pieces)

    def opening(self, title: str) -> Iterator[TextDelta]:
        """The title; a thread has none."""
        if self.kind != "thread":
            yield self._line(f"# {title}\n\n")

    def section(
        self, number: int, section: Section, outline: Outline, passages: Sequence[Passage], words: int
    ) -> Iterator[TextDelta]:
        """One section, line by line, its citations renumbered to those of the whole draft."""
        if self.kind == "thread":
            yield self._line(f"{number}/ ")
        elif len(outline.sections) > 1:
            yield self._line(f"## {section.heading}\n\n")
        messages = render_section(
            section.heading,
            section.points,
            passages,
            title=outline.title,
            written="".join(self.lines)[-WRITTEN_SHOWN:],
            author=self.author,
            kind=self.kind,
            length=words,
            voice=self.voice,
            examples=self.examples,
        )
        reply = stream(
            self.model,
            messages,
            author=self.author,
            max_tokens=words * TOKENS_PER_WORD + 100,
            temperature=self.temperature,
        )
        by_number = {passage.number: passage for passage in passages}
        told = _Told(reply)
        for line in _lines(told):
            yield self._line(renumbered(line, lambda old: self._number(by_number.get(old))))
        self.usage += told.reply.usage
        self.notes += [f"“{section.heading}”: {note}" for note in told.reply.notes]
        yield self._line("\n\n")

    def _number(self, passage: Passage | None) -> int | None:
        """The number of a passage in the whole draft; None for one that the section did not have."""
        if passage is None:
            return None
        place = (passage.document.id, passage.start, passage.end)
        self.cited.setdefault(place, replace(passage, number=len(self.cited) + 1))
        return self.cited[place].number

    def _line(self, text: str) -> TextDelta:
        self.lines.append(text)
        return TextDelta(text)

    def answer(self, embedder: Embedder) -> Answer:
        """The finished draft, verified."""
        verified = verify("".join(self.lines).strip(), tuple(self.cited.values()), embedder=embedder)
        return Answer(
            verified.text,
            "generated",
            citations=verified.citations,
            passages=tuple(self.cited.values()),
            unsupported=verified.unsupported,
            notes=tuple(self.notes),
            model=self.model.name,
            prompt=version(OUTLINE, SECTION),
            usage=self.usage,
        )


class _Told:
    """The pieces of a reply, and the whole of it once they have been read."""

    def __init__(self, pieces: Generator[str, None, Reply]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.reply = yield from self._pieces


def _outline_by_rule(topic: str, passages: Sequence[Passage], sections: int) -> Outline:
    """A section for each heading under which something was found, best first."""
    headings = dict.fromkeys((passage.heading_path or (passage.document.title,))[-1] for passage in passages)
    chosen = [heading[:200] for heading in headings if heading.strip()][:sections] or [topic[:200]]
    return Outline(
        title=topic[:200],
        sections=[Section(heading=heading, points=[], query=f"{topic} {heading}"[:300]) for heading in chosen],
    )


def _json_in(reply: str) -> str:
    """The JSON object in a reply that may have put it into a code block or between words."""
    start, end = reply.find("{"), reply.rfind("}")
    return reply[start : end + 1] if 0 <= start < end else reply


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Whole lines, and code blocks as one, because a line alone does not show that it is code."""
    held = ""
    for piece in pieces:
        held += piece
        ready = held[: held.rfind("\n") + 1]
        if ready and ready.count("```") % 2 == 0:
            yield ready
            held = held[len(ready) :]
    if held:
        yield held
