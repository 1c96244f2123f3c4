"""Arrays and what they mean.

numpy is the language of arrays here, not a vendor; this is the one core module that uses it.

A `Vector` is float32, shape (dim,), unit length; a `Matrix` is float32, shape (n, dim), its rows unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llm_twin.core.errors import StoreError

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

# Candidates unpacked at a time: 64 chunks of 128 tokens and 384 dimensions are 13 MB of float32.
_BLOCK = 64
# Row b holds the eight bits of b, first bit first, as +1 and -1.
_SIGNS: Matrix = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Token vectors of one text in a compact form: `data` holds `count` rows of `dim` dimensions."""

    data: bytes
    count: int
    dim: int


def pack_tokens(matrix: Matrix) -> PackedTokens:
    """Unit token vectors (n, dim) as one bit per dimension: 48 bytes for 384 dimensions, a 32nd of float32.

    The bits are the signs after a fixed rotation, which spreads every vector evenly over its dimensions, so that the
    cosine can be estimated from them. On two collections re-ranking by these bits loses less than 0.003 nDCG@10 against
    the floats (`benchmarks/token_packing.py`).

    Source: Charikar 2002, Similarity Estimation Techniques from Rounding Algorithms; Gao & Long 2024, RaBitQ.
    """
    count, dim = matrix.shape
    return PackedTokens(np.packbits(matrix @ _rotation(dim) > 0, axis=1).tobytes(), count, dim)


def maxsim(query: Matrix, candidates: Sequence[PackedTokens]) -> list[float]:
    """Late-interaction relevance of each candidate: the mean over query tokens of the best cosine to any of its tokens.

    The query keeps its floats; a cosine to packed bits is an estimate with a standard error of 0.75 / √dim (0.04 for
    384 dimensions), so scores order candidates and are not exact. A candidate without tokens scores -1, the least there
    is; a query without tokens tells nothing apart and scores 0 throughout.

    Raises `StoreError` for packed tokens that do not fit their own count and dimensions, or the query's dimensions.
    Source: Khattab & Zaharia 2020, ColBERT.
    """
    if not len(query):
        return [0.0] * len(candidates)
    dim = query.shape[1]
    # A unit vector and the corners of the cube nearest to it meet at a cosine of √(2/π) on average.
    estimator = (query @ _rotation(dim)).T * np.float32(np.sqrt(np.pi / 2 / dim))
    scores: list[float] = []
    for start in range(0, len(candidates), _BLOCK):
        scores += _block_scores(estimator, candidates[start : start + _BLOCK])
    return scores


def _block_scores(estimator: Matrix, candidates: Sequence[PackedTokens]) -> list[float]:
    dim = len(estimator)
    width = -(-dim // 8)
    for packed in candidates:
        if packed.dim != dim or len(packed.data) != packed.count * width:
            raise StoreError(
                f"packed vectors of {len(packed.data)} bytes for {packed.count} tokens of {packed.dim} dimensions "
                f"cannot be compared with a query of {dim}; run: twin sync --rebuild"
            )
    scores = np.full(len(candidates), -1.0)
    filled = [place for place, packed in enumerate(candidates) if packed.count]
    if filled:
        rows = np.frombuffer(b"".join(candidates[place].data for place in filled), dtype=np.uint8)
        tokens = _SIGNS[rows].reshape(-1, width * 8)[:, :dim]
        starts = np.cumsum([0, *(candidates[place].count for place in filled[:-1])])
        scores[filled] = np.maximum.reduceat(tokens @ estimator, starts, axis=0).mean(axis=1)
    return [float(score) for score in scores]


@lru_cache(maxsize=4)
def _rotation(dim: int) -> Matrix:
    """A fixed orthogonal matrix that mixes all dimensions: random signs, then the discrete cosine transform."""
    place = np.arange(dim)
    cosines = np.cos(np.pi / dim * (place[:, None] + 0.5) * place) * np.sqrt(2 / dim)
    cosines[:, 0] /= np.sqrt(2)
    signs = np.random.RandomState(0).choice([-1.0, 1.0], dim)  # this generator's stream is frozen for good
    rotation: Matrix = (signs[:, None] * cosines).astype(np.float32)
    rotation.flags.writeable = False
    return rotation
