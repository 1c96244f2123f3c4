"""Telling an attack on the model from a question: signs found by rule, meaning weighed by a small learned head.

The head is a logistic regression over the text's embedding and the signs of `signs.py`. It is fitted on the examples in
`injection_examples.toml`, which were written for this project, when it is first used with an embedder: one to three
seconds, then it is kept in the cache folder. The repository carries no weights, so a change of the examples or of the
embedder needs nothing but the next question. `docs/guardrails.md` is the model's card, `benchmarks/guardrails.py`
prints its figures.

Attacks that stand in passages (indirect injection) are looked for sentence by sentence with `orders`.

Sources: Greshake et al. 2023, Not What You've Signed Up For (indirect injection); Schulhoff et al. 2023, Ignore This
Title and HackAPrompt (a taxonomy of attacks).
"""

from __future__ import annotations

import re
import tempfile
import threading
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_twin.core.ports import Embedder, Tokenizer
from llm_twin.core.records import fingerprint
from llm_twin.core.text import Block, blocks, sentences_within
from llm_twin.inference import signs
from llm_twin.inference.retrieve import clip

LIKELY = 0.77
"""Probability from which a text is flagged: less than 2 % of the benign texts of the labelled mix lie above."""
SURE = 0.95
"""Probability from which it may be blocked: next to no sentence, title or question of real collections lies above."""

_VERSION = 1
_VECTOR_RIDGE, _SIGN_RIDGE = 0.3, 3.0
"""How strongly weights are drawn to where they start; figures are flat between a third and three times of it."""
_USUAL_WEIGHT = 1.0
_START: Mapping[str, float] = {
    "override_all": 4.0, "override": 3.0, "drop_above": 3.0, "confession": 3.0, "addressed": 3.0, "lookalikes": 3.0,
    "invisible": 3.0, "encoded": 3.0, "de": 3.0, "fr": 3.0, "es": 3.0, "romance": 3.0, "north": 3.0, "cyrillic": 3.0,
    "cjk": 3.0, "other_scripts": 3.0, "command": 2.5, "apart": 2.5, "styled": 2.0, "fake_turn": 2.0, "unbound": 2.0,
    "drop_question": 2.0, "extraction": 2.0, "obey_code": 2.0, "as_root": 2.0, "nothing_else": 1.5, "leetspeak": 1.5,
}  # fmt: skip
"""Where the weights of signs start (log odds): few examples of each could not teach what a person knows of them."""
_OVERLAP = 32
"""Tokens that two windows of a long text share, so that no sentence is cut in both."""

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How likely a text is an attack (0 to 1), and the signs it bears."""

    probability: float
    signs: tuple[str, ...] = ()


class InjectionDetector:
    """Judges texts that are addressed to a model. The head is fitted, or read from `cache_dir`, when first needed.

    Safe to use from several threads. Raises `ModelError` where the embedder fails.
    """

    def __init__(self, embedder: Embedder, *, cache_dir: Path | None = None) -> None:
        self._embedder = embedder
        self._cache_dir = cache_dir
        self._fitting = threading.Lock()
        self._weights: Weights | None = None

    def judge(self, text: str) -> Suspicion:
        """The most suspicious part of the text: all of it, or the windows of one that the embedder cannot see whole."""
        read = signs.unmasked(text)
        pieces = list(_windows(read.text, self._embedder.tokenizer))
        found = [signs.signs(piece) for piece in pieces]
        vectors = [self._embedder.embed([piece])[0].vector for piece in pieces]
        rows = np.stack([_row(vector, names, read.tricks) for vector, names in zip(vectors, found, strict=True)])
        odds = rows @ self.weights
        worst = int(odds.argmax())
        return Suspicion(float(1 / (1 + np.exp(-odds[worst]))), (*sorted(found[worst]), *sorted(read.tricks)))

    @property
    def weights(self) -> Weights:
        """The head: a weight for each dimension of the embedding, each sign and each disguise, and the bias."""
        with self._fitting:
            if self._weights is None:
                self._weights = _FITTED.get(self._key)
            if self._weights is None:
                self._weights = self._kept()
            if self._weights is None:
                self._weights = fit(self._embedder, examples())
                self._keep(self._weights)
            _FITTED[self._key] = self._weights
            return self._weights

    def _kept(self) -> Weights | None:
        if self._file is None or not self._file.exists():
            return None
        try:
            weights: Weights = np.load(self._file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # cut off or of another kind: it is only a cache, and is written anew
        fits = weights.shape == (self._embedder.dim + _SIGNS + 1,) and bool(np.isfinite(weights).all())
        return weights if fits else None

    def _keep(self, weights: Weights) -> None:
        """Whole or not at all: another process may read it at any moment. A cache that cannot be written is none."""
        if self._file is None:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._file.parent, suffix=".part", delete=False) as file:
                np.save(file, weights, allow_pickle=False)
            Path(file.name).replace(self._file)

    @property
    def _file(self) -> Path | None:
        return self._cache_dir / "guard" / f"injection-{self._key[:32]}.npy" if self._cache_dir else None

    @cached_property
    def _key(self) -> str:
        """Changes with everything the head is made from."""
        return fingerprint(_VERSION, self._embedder.name, _examples_text(), signs.SIGNS, sorted(_START.items()))


_FITTED: dict[str, Weights] = {}
"""Heads of this process by what they were made from, so that two twins with one embedder fit one."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text to learn from, its family, and whether it is an attack."""

    text: str
    family: str
    attack: bool


@cache
def examples() -> tuple[Example, ...]:
    """The examples that ship with the package."""
    tree = tomllib.loads(_examples_text())
    return tuple(
        Example(text, family, kind == "attack")
        for kind, families in tree.items()
        for family, texts in families.items()
        for text in texts
    )


def fit(embedder: Embedder, chosen: Sequence[Example]) -> Weights:
    """Logistic regression by Newton's method, both classes of equal weight; weights are drawn to where they start.

    The starts are a prior: zero for the embedding, `_START` for signs.
    """
    read = [signs.unmasked(example.text) for example in chosen]
    vectors = embedder.embed([clip(each.text, embedder.tokenizer) for each in read])
    rows = np.stack(
        [_row(made.vector, signs.signs(each.text), each.tricks) for made, each in zip(vectors, read, strict=True)]
    )
    truth = np.array([example.attack for example in chosen], dtype=float)
    share = np.where(truth == 1, len(truth) / (2 * truth.sum()), len(truth) / (2 * (len(truth) - truth.sum())))
    dim = rows.shape[1] - _SIGNS - 1
    start = np.array([0.0] * dim + [_START.get(name, _USUAL_WEIGHT) for name in _SIGN_NAMES] + [0.0])
    ridge = np.array([_VECTOR_RIDGE] * dim + [_SIGN_RIDGE] * _SIGNS + [1e-6])
    weights = start.copy()
    for _ in range(50):
        guess = 1 / (1 + np.exp(-rows @ weights))
        curve = (rows * (share * guess * (1 - guess))[:, None]).T @ rows + np.diag(ridge)
        step = np.linalg.solve(curve, rows.T @ (share * (guess - truth)) + ridge * (weights - start))
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


_SIGN_NAMES = (*signs.names(), *signs.TRICKS)
_SIGNS = len(_SIGN_NAMES)


def _row(vector: NDArray[np.float32], found: Collection[str], tricks: Collection[str]) -> Weights:
    present = [float(name in found or name in tricks) for name in _SIGN_NAMES]
    return np.array([*vector, *present, 1.0])


@cache
def _examples_text() -> str:
    return resources.files("llm_twin.inference").joinpath("injection_examples.toml").read_text(encoding="utf-8")


def _windows(text: str, tokenizer: Tokenizer) -> Iterator[str]:
    """The text in pieces that fit the embedder's window; neighbours overlap."""
    offsets, window = tokenizer.offsets(text), tokenizer.window
    if len(offsets) <= window:
        yield text
        return
    overlap = min(_OVERLAP, window // 2)
    for first in range(0, len(offsets) - overlap, window - overlap):
        last = min(first + window, len(offsets)) - 1
        yield _fitting(text[offsets[first][0] : offsets[last][1]], tokenizer)


def _fitting(piece: str, tokenizer: Tokenizer) -> str:
    """The beginning of a piece that fits: one cut out of a word may have more tokens than it had inside."""
    size = tokenizer.window
    while len(offsets := tokenizer.offsets(piece)) > tokenizer.window:
        piece = piece[: offsets[size - 1][1]]
        size -= 1
    return piece


# --- in passages ----------------------------------------------------------------------------------------------------

ORDER_SIGNS = frozenset({
    "override_all", "override", "drop_above", "drop_question", "void", "new_orders", "extraction", "authority",
    "addressed", "unseen", "fake_turn", "obey_code", "de", "fr", "es", "romance", "north", "cyrillic", "cjk",
    "other_scripts",
})  # fmt: skip
"""Signs that are orders by themselves. The others only make an order worse: authors write "Output:" all the time."""


def orders(text: str, detector: InjectionDetector, *, own: bool) -> list[tuple[int, int]]:
    """Where a passage gives orders to a model, as spans of whole sentences, list items, quotes or lines of code.

    Writing about attacks is not an attack: what stands in quotation marks or in-line code is talked about, and is left
    out of the judgement unless it is all there is. The detector must be sure; in other people's writing two orders in
    one sentence are enough for it to find an attack likely. In the author's `own` writing quotes, code and headings are
    not looked at.
    """
    if not signs.signs(signs.unmasked(text).text, among=ORDER_SIGNS):
        return []
    return [span for span in _units(text, blocks(text), own=own) if _orders(text[slice(*span)], detector, own=own)]


def _orders(said: str, detector: InjectionDetector, *, own: bool) -> bool:
    bare = signs.without_quotations(said)
    shown = bare if own or re.search(r"\w{2}", bare) else said
    given = signs.signs(signs.unmasked(shown).text, among=ORDER_SIGNS)
    bar = LIKELY if len(given) > 1 and not own else SURE
    return bool(given) and detector.judge(shown).probability >= bar


def _units(text: str, found: Sequence[Block], *, own: bool) -> Iterator[tuple[int, int]]:
    """What is judged and taken out as one: a sentence of a paragraph, a quote, a line of anything else."""
    for block in found:
        if block.kind == "paragraph":
            yield from sentences_within(text, block.start, block.end)
        elif block.kind == "list" or (block.children and block.kind != "quote"):
            yield from _units(text, block.children, own=own)
        elif not own and block.kind in ("quote", "heading"):
            yield block.start, block.end
        elif not own or block.kind in ("html", "other", "table"):
            for line in re.finditer(r"\S.*", text[block.start : block.end]):
                yield block.start + line.start(), block.start + line.end()
