"""Arrays and what they mean.

numpy is the language of arrays here, not a vendor; this is the one core module that uses it.

A `Vector` is float32, shape (dim,), unit length; a `Matrix` is float32, shape (n, dim), its rows unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Token vectors of one text in a compact form: `data` holds `count` rows of `dim` dimensions."""

    data: bytes
    count: int
    dim: int


def pack_tokens(matrix: Matrix) -> PackedTokens:
    """Token vectors (n, dim) as int8, 127 standing for 1."""
    return PackedTokens(np.rint(matrix * 127).astype(np.int8).tobytes(), *matrix.shape)


def maxsim(query: Matrix, candidates: Sequence[PackedTokens]) -> list[float]:
    """Late-interaction relevance of each candidate: the mean over query tokens of the best cosine to any of its tokens.

    Source: Khattab & Zaharia 2020, ColBERT.
    """
    scores = []
    for packed in candidates:
        tokens = np.frombuffer(packed.data, dtype=np.int8).reshape(packed.count, packed.dim).astype(np.float32)
        scores.append(float((query @ tokens.T).max(axis=1).mean()) / 127.0)
    return scores
