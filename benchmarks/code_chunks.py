"""Code in chunks: definitions found by layout beside plain lines, blank lines, and the language's own parser.

    python benchmarks/code_chunks.py [--json] [--every N]

The corpus is this project's own source (every Nth file) without its docstrings. Python's parser stands for tree-sitter:
on Python both know the same definitions.

*whole*     of the functions that fit a chunk, those that stand in one chunk whole
*MRR, R@5*  a function's own docstring is the question, the chunk that holds most of the function the right answer, by
            cosine of the default embedder; the interval is of the difference to plain lines, over 1,000 resamplings
"""

from __future__ import annotations

import ast
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from llm_twin.adapters.minilm import MiniLmEmbedder
from llm_twin.collect.html import fenced
from llm_twin.collect.repository import PIECE_CHARS, _cut, _packed, pieces
from llm_twin.core.ports import Chunker, Embedder, Tokenizer
from llm_twin.core.records import Chunk, Document, chunk_id, embedding_text
from llm_twin.features.chunk import TARGET_TOKENS, StructureChunker, chunk_document
from report import command, show

SOURCE = Path(__file__).parents[1] / "src"
RESAMPLINGS = 1000


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a file: its lines without the docstring, and the docstring's first paragraph (or nothing)."""

    lines: tuple[str, ...]
    question: str

    @property
    def text(self) -> str:
        """Its code."""
        return "\n".join(self.lines)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file without docstrings."""

    name: str
    code: str
    functions: tuple[Function, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """How code becomes a document, and a document chunks."""

    name: str
    markdown: Callable[[str], str]
    chunker: Chunker


class LineChunker:
    """Lines, as many as fit `TARGET_TOKENS`."""

    fingerprint = "lines"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks of whole lines, with the title as heading path."""
        spans, begin, at = [], 0, 0
        for line in document.text.splitlines(keepends=True):
            if at > begin and self._tokenizer.count(document.text[begin : at + len(line)]) > TARGET_TOKENS:
                spans.append((begin, at))
                begin = at
            at += len(line)
        found = []
        for start, end in [*spans, (begin, at)]:
            text = document.text[start:end]
            if text.strip():
                name = chunk_id(document.id, text, start)
                found.append(Chunk(name, document.id, text, start, end, (document.title,)))
        return found


def main() -> None:
    """Measure and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--every", type=int, default=4, metavar="N", help="take every Nth file")
    arguments = parser.parse_args()
    files = [read(path) for path in sorted(SOURCE.rglob("*.py"))[:: arguments.every]]
    with tempfile.TemporaryDirectory() as cache:
        embedder = MiniLmEmbedder(cache_dir=Path(cache))
        rows = [measure(way, files, embedder) for way in ways(embedder.tokenizer)]
    ranks = [row.pop("ranks") for row in rows]
    for row, own in zip(rows, ranks, strict=True):
        row["MRR against lines"] = interval(own, ranks[0])
    show(rows, table, as_json=arguments.json)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The result for people."""
    return "\n".join([" | ".join(rows[0]), *(" | ".join(map(str, row.values())) for row in rows)])


def ways(tokenizer: Tokenizer) -> list[Way]:
    """What is compared; the first is the baseline."""
    structure = StructureChunker(tokenizer)
    one_fence = lambda code: fenced(code.removesuffix("\n"), "python")  # noqa: E731
    return [
        Way("plain lines", one_fence, LineChunker(tokenizer)),
        Way("one fence, cut at blank lines", one_fence, structure),
        Way("layout (ours)", lambda code: _fences(pieces(code)), structure),
        Way("parser", lambda code: _fences(parsed_pieces(code)), structure),
    ]


def _fences(found: Sequence[str]) -> str:
    return "\n\n".join(fenced(piece.removesuffix("\n"), "python") for piece in found)


def parsed_pieces(code: str) -> list[str]:
    """As `pieces`, with the definitions that Python's parser finds, their decorators and the comments above them."""
    lines = code.splitlines(keepends=True)
    starts = set()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            continue
        begin = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        while begin and lines[begin - 1].lstrip().startswith("#"):
            begin -= 1
        after = node.end_lineno or node.lineno
        while after < len(lines) and not lines[after].strip():
            after += 1
        starts |= {begin, after} - {0, len(lines)}
    found = [(number, len(lines[number]) - len(lines[number].lstrip())) for number in sorted(starts)]
    return list(_packed(_cut(lines, 0, len(lines), found, PIECE_CHARS), PIECE_CHARS))


def read(path: Path) -> SourceFile:
    """A file of Python without docstrings, and its functions."""
    code = path.read_text(encoding="utf-8")
    lines = code.split("\n")
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    told = [node for node in nodes if ast.get_docstring(node) and len(node.body) > 1]
    gone = {line for node in told for line in range(node.body[0].lineno - 1, node.body[0].end_lineno or 0)}
    functions = []
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            begin = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            kept = tuple(lines[at] for at in range(begin, node.end_lineno or begin) if at not in gone)
            question = (ast.get_docstring(node) or "").split("\n\n")[0] if node in told else ""
            functions.append(Function(kept, question if len(question.split()) > 5 else ""))
    kept_code = "\n".join(line for number, line in enumerate(lines) if number not in gone)
    return SourceFile(str(path.relative_to(SOURCE)), kept_code, tuple(functions))


def measure(way: Way, files: Sequence[SourceFile], embedder: Embedder) -> dict[str, Any]:
    """One row of the table; `ranks` are the reciprocal ranks of the questions, in order."""
    chunks: list[Chunk] = []
    asked: list[tuple[str, int]] = []
    whole = []
    for file in files:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        text = way.markdown(file.code)
        document = Document(file.name, "", "github", "repository", file.name, text, "", now)
        own = chunk_document(document, way.chunker)
        for function in file.functions:
            if embedder.tokenizer.count(function.text) <= TARGET_TOKENS:
                whole.append(any(function.text in chunk.text for chunk in own))
            if function.question and own:
                held = [sum(line in chunk.text for line in function.lines if line.strip()) for chunk in own]
                asked.append((function.question, len(chunks) + held.index(max(held))))
        chunks += own
    vectors = np.stack([each.vector for each in embedder.embed([embedding_text(chunk) for chunk in chunks])])
    questions = np.stack([each.vector for each in embedder.embed([question for question, _ in asked])])
    scores = questions @ vectors.T
    ranks = [int((row > row[right]).sum()) + 1 for row, (_, right) in zip(scores, asked, strict=True)]
    return {
        "way": way.name,
        "chunks": len(chunks),
        "mean tokens": round(fmean(embedder.tokenizer.count(embedding_text(chunk)) for chunk in chunks)),
        "whole": round(fmean(whole), 3),
        "of functions": len(whole),
        "questions": len(asked),
        "MRR": round(fmean(1 / rank for rank in ranks), 3),
        "R@5": round(fmean(rank <= 5 for rank in ranks), 3),
        "ranks": [1 / rank for rank in ranks],
    }


def interval(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The middle 95 % of the mean difference over resamplings of the questions."""
    rng = random.Random(7)
    gains = [one - other for one, other in zip(ours, theirs, strict=True)]
    means = sorted(fmean(rng.choices(gains, k=len(gains))) for _ in range(RESAMPLINGS))
    return f"{fmean(gains):+.3f} ({means[RESAMPLINGS // 40]:+.3f} to {means[-RESAMPLINGS // 40]:+.3f})"


if __name__ == "__main__":
    main()
