from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.errors import StoreError
from llm_twin.core.vectors import PackedTokens, _rotation, maxsim, pack_tokens


def unit_rows(rng: np.random.Generator, count: int, dim: int = 384) -> np.ndarray:
    matrix = rng.normal(size=(count, dim)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def exact_maxsim(query: np.ndarray, tokens: np.ndarray) -> float:
    return float((query @ tokens.T).max(axis=1).mean())


def test_384_dimensions_take_48_bytes_per_token():
    packed = pack_tokens(unit_rows(np.random.default_rng(1), 130))
    assert (len(packed.data), packed.count, packed.dim) == (130 * 48, 130, 384)


@pytest.mark.parametrize("dim", [8, 48, 50, 384, 768])
def test_the_rotation_keeps_lengths_and_angles(dim):
    assert np.allclose(_rotation(dim) @ _rotation(dim).T, np.eye(dim), atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), near=st.floats(0.3, 0.95))
def test_maxsim_of_bits_stays_close_to_maxsim_of_floats(seed, near):
    rng = np.random.default_rng(seed)
    tokens = unit_rows(rng, 20)
    query = near * tokens[:8] + np.sqrt(1 - near**2) * unit_rows(rng, 8)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    assert maxsim(query, [pack_tokens(tokens)])[0] == pytest.approx(exact_maxsim(query, tokens), abs=0.08)


def test_a_vector_concentrated_in_one_dimension_survives_packing():
    """What the rotation is for: the bare signs of such a vector are those of its noise."""
    rng = np.random.default_rng(2)
    peak = np.zeros((1, 384), np.float32)
    peak[0, 7] = 1.0
    other = np.zeros((1, 384), np.float32)
    other[0, 8] = 1.0
    noisy = [spike + 0.01 * unit_rows(rng, 1) for spike in (peak, other)]
    found, missed = maxsim(peak, [pack_tokens(spike / np.linalg.norm(spike)) for spike in noisy])
    assert found == pytest.approx(1.0, abs=0.2)
    assert missed == pytest.approx(0.0, abs=0.2)


def test_a_chunk_that_holds_the_query_beats_ninety_nine_that_do_not():
    rng = np.random.default_rng(3)
    query = unit_rows(rng, 6)
    chunks = [unit_rows(rng, 100) for _ in range(100)]
    chunks[71][40:46] = query
    scores = maxsim(query, [pack_tokens(chunk) for chunk in chunks])
    assert int(np.argmax(scores)) == 71


def test_scores_do_not_depend_on_the_company_a_candidate_keeps():
    rng = np.random.default_rng(4)
    query = unit_rows(rng, 5)
    packed = [pack_tokens(unit_rows(rng, count)) for count in rng.integers(1, 60, size=150)]
    together = maxsim(query, packed)
    assert together == pytest.approx([maxsim(query, [one])[0] for one in packed], abs=1e-5)


def test_a_candidate_without_tokens_scores_lowest_wherever_it_stands():
    rng = np.random.default_rng(5)
    empty = pack_tokens(np.empty((0, 384), np.float32))
    full = pack_tokens(unit_rows(rng, 3))
    query = unit_rows(rng, 4)
    alone = maxsim(query, [full])[0]
    assert maxsim(query, [empty, full, empty, empty, full, empty]) == pytest.approx([-1, alone, -1, -1, alone, -1])
    assert maxsim(query, [empty]) == [-1.0]


def test_a_query_without_tokens_tells_nothing_apart():
    packed = pack_tokens(unit_rows(np.random.default_rng(6), 3))
    assert maxsim(np.empty((0, 384), np.float32), [packed, packed]) == [0.0, 0.0]


def test_no_candidates_give_no_scores():
    assert maxsim(unit_rows(np.random.default_rng(7), 2), []) == []


def test_packed_tokens_of_another_size_are_refused_with_what_to_run():
    query = unit_rows(np.random.default_rng(8), 2)
    with pytest.raises(StoreError, match=r"10 bytes for 2 tokens of 384 .* twin sync --rebuild"):
        maxsim(query, [PackedTokens(b"0123456789", 2, 384)])
    with pytest.raises(StoreError, match="768 dimensions cannot be compared with a query of 384"):
        maxsim(query, [PackedTokens(b"", 0, 768)])
