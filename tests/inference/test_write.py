"""Drafts: planned, written section by section from what was found, numbered as one list, and checked."""

import json
import zlib
from itertools import islice

import numpy as np
import pytest

from llm_twin.adapters.openai import OpenAiModel
from llm_twin.core.errors import ConfigError, ModelError
from llm_twin.core.prompts import OUTLINE, SECTION, version
from llm_twin.core.records import DocumentHeader, Embedding, Passage, Passages, TextDelta, Usage
from llm_twin.inference.verify import content
from llm_twin.inference.write import write
from scripted_llm import Reply, ScriptedLlm, event, piece, refuses, says
from small_parts import WordTokenizer

ORMS = "I never use ORMs, because they hide the SQL that runs."
SPEED = "In 2019 I moved 40 services to plain SQL and tests got faster."
RUST = "Rust made our parser ten times faster."


class WordEmbedder:
    name, dim = "words/1", 256

    tokenizer = WordTokenizer()

    def embed(self, texts, *, tokens=False):
        return [Embedding(self._vector(text)) for text in texts]

    def _vector(self, text):
        vector = np.full(self.dim, 1e-3, dtype=np.float32)
        for word in content(text):
            vector[zlib.crc32(word.encode()) % self.dim] += 1
        return vector / np.linalg.norm(vector)


def passage(number, text, document, heading=()):
    header = DocumentHeader(document, "Ada", "files", "article", document.title())
    return Passage(number, header, text, 0, len(text), 1.0, heading_path=heading)


FOUND = {
    "SQL": [passage(1, ORMS, "orms", ("Orms", "Why not")), passage(2, SPEED, "speed", ("Speed",))],
    "services": [passage(1, SPEED, "speed"), passage(2, RUST, "rust")],
    "mappers": [passage(1, RUST, "rust"), passage(2, ORMS, "orms")],
}


def found(query):
    return FOUND.get(query, [])


def plan(*sections, title="Plain SQL"):
    fields = [{"heading": heading, "points": ["p"], "query": query} for heading, query in sections]
    return json.dumps({"title": title, "sections": fields})


PLAN = plan(("Services", "services"), ("Mappers", "mappers"))


def written(script, **options):
    """The server, the events and the answer."""
    options = {"topic": "SQL", "retrieve": found} | options
    events = []
    with ScriptedLlm(script) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy", retries=0)
        writing = write(options.pop("topic"), model=model, author="Ada", embedder=WordEmbedder(), **options)
        while True:
            try:
                events.append(next(writing))
            except StopIteration as end:
                return server, events, end.value


def test_a_post_has_a_title_sections_and_one_list_of_sources_in_the_order_of_citation():
    first = says("In 2019 I moved 40 services to plain SQL [1]. ", "Rust made our parser ten times faster [2].")
    second = says("I never use ORMs, because they hide the SQL [2].\n", "Rust made our parser ten times faster [1].")
    _, events, answer = written([says(PLAN), first, second])
    assert answer.text == (
        "# Plain SQL\n\n"
        "## Services\n\n"
        "In 2019 I moved 40 services to plain SQL [1]. Rust made our parser ten times faster [2].\n\n"
        "## Mappers\n\n"
        "I never use ORMs, because they hide the SQL [3].\nRust made our parser ten times faster [2]."
    )
    assert [(p.number, p.document.id) for p in answer.passages] == [(1, "speed"), (2, "rust"), (3, "orms")]
    assert [(c.number, c.quote) for c in answer.citations] == [(1, SPEED), (2, RUST), (3, ORMS)]
    assert (answer.mode, answer.model, answer.prompt) == ("generated", "toy", version(OUTLINE, SECTION))
    assert (answer.unsupported, answer.notes) == ((), ())
    assert answer.usage == Usage(33, 5)
    assert events[0] == Passages(tuple(FOUND["SQL"]))
    assert "".join(event.text for event in events[1:]).strip() == answer.text


def test_the_text_streams_line_by_line_before_the_section_has_ended():
    def slow():
        yield piece("Rust made our parser ten times faster [2].\nAnd ")
        yield from (piece("more ") for _ in range(10**6))

    with ScriptedLlm([says(plan(("Only", "services"))), Reply(slow(), pause_s=0.001)]) as server:
        model = OpenAiModel(base_url=server.base_url, model="toy")
        writing = write("SQL", model=model, author="Ada", embedder=WordEmbedder(), retrieve=found)
        texts = [event.text for event in islice(writing, 3) if isinstance(event, TextDelta)]
        assert texts == ["# Plain SQL\n\n", "Rust made our parser ten times faster [1].\n"]
        writing.close()
        assert server.client_left.wait(5)


def test_the_outline_is_asked_for_as_json_and_each_section_gets_its_own_passages():
    server, _, _ = written([says(PLAN), says("Yes [1]."), says("No [2].")], kind="article", length=600)
    outline, first, second = server.requests
    assert outline["response_format"]["json_schema"]["schema"]["required"] == ["title", "sections"]
    assert "about 600 words" in outline["messages"][0]["content"]
    assert SPEED in first["messages"][1]["content"]
    assert ORMS not in first["messages"][1]["content"]
    assert "About 300 words" in first["messages"][0]["content"]
    assert "Already written: # Plain SQL  ## Services  Yes [1]." in " ".join(
        second["messages"][1]["content"].split("\n")
    )


def test_an_outline_that_is_no_json_is_asked_for_once_more_with_the_reason():
    server, _, answer = written([says("Sure! First,"), says(f"```json\n{PLAN}\n```"), says("Yes."), says("No.")])
    complaint = server.requests[1]["messages"][-1]
    assert complaint["role"] == "user"
    assert "not the JSON asked for" in complaint["content"]
    assert "## Services" in answer.text
    assert answer.notes == ()


def test_after_two_bad_outlines_the_sections_follow_what_was_found_and_the_answer_says_so():
    bad = says('{"title": "x", "sections": []}')
    server, _, answer = written([bad, bad, says("Yes."), says("No.")])
    assert answer.text == "# SQL\n\n## Why not\n\nYes.\n\n## Speed\n\nNo."
    assert answer.notes == ("toy gave no usable outline in two tries, so the sections follow the passages found.",)
    assert ORMS in server.requests[2]["messages"][1]["content"]  # its own search found nothing, the topic's stands in


def test_an_outline_whose_stream_ends_in_an_error_counts_as_a_bad_one():
    cut_off = event({"error": {"message": "The model produced output that does not match the expected format"}})
    broken = Reply([piece('{"title": "x"'), cut_off])
    server, _, answer = written([broken, broken, says("Yes."), says("No.")])
    assert answer.text == "# SQL\n\n## Why not\n\nYes.\n\n## Speed\n\nNo."
    assert answer.notes == ("toy gave no usable outline in two tries, so the sections follow the passages found.",)
    assert len(server.requests) == 4


def test_an_outline_of_too_many_sections_is_cut_to_what_the_kind_allows():
    many = plan(*[(f"Part {n}", "services") for n in range(20)])
    server, _, answer = written([says(many), *[says("Yes.")] * 6], length=60)
    assert answer.text.count("## Part") == 6
    assert len(server.requests) == 7
    assert "About 20 words" in server.requests[1]["messages"][0]["content"]


def test_a_thread_is_numbered_posts_without_headings():
    _, _, answer = written(
        [says(PLAN), says("Rust made our parser ten times faster [2]."), says("Yes.")], kind="thread"
    )
    assert answer.text == "1/ Rust made our parser ten times faster [1].\n\n2/ Yes."


def test_doubts_are_marked_in_the_answer():
    section = says("Cats make wonderful pets for everyone [1]. Rust made our parser ten times faster [9].")
    _, events, answer = written([says(plan(("Only", "services"))), section])
    assert "Cats make wonderful pets for everyone [1?]. Rust made our parser ten times faster [9?]." in answer.text
    assert answer.unsupported == ("Cats make wonderful pets for everyone.", "Rust made our parser ten times faster.")
    assert answer.citations == ()
    assert "pets for everyone [1]." in "".join(event.text for event in events[1:])


def test_code_in_a_section_keeps_its_brackets():
    code = "I never use ORMs, because they hide the SQL [2]:\n\n```python\nrows [2]\n```\n"
    _, _, answer = written([says(plan(("Only", "mappers"))), says(*code.splitlines(keepends=True))])
    assert "SQL [1]:\n\n```python\nrows [2]\n```" in answer.text


def test_a_section_cut_by_its_limit_is_noted():
    _, _, answer = written([says(plan(("Only", "services"))), says("Rust made", reason="length")], length=100)
    assert answer.notes == ("“Only”: The text was cut at 300 tokens, the limit set for it.",)


def test_nothing_found_is_said_and_no_model_is_asked():
    server, events, answer = written([], topic="Cooking")
    assert answer.mode == "abstained"
    assert answer.text == "I find nothing in what Ada has published to write about this from."
    assert events == [Passages(()), TextDelta(answer.text)]
    assert server.requests == []


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"no kind of draft 'poem'; use one of post, article, thread"):
        written([], kind="poem")


def test_a_model_that_fails_in_mid_draft_is_an_error():
    with pytest.raises(ModelError, match="boom"):
        written([says(PLAN), says("Yes."), refuses(500, "boom")])
