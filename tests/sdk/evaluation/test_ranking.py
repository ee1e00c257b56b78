"""Rankings of a gallery, in blocks and for each query, against the definition."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ztcir_sdk.evaluation.ranking import BLOCK, NO_ROW, rank, rank_blocks, rank_own

Array = NDArray[np.float32]

# A few directions in a plane, so that there are many exact ties.
UNITS = st.sampled_from([(1, 0), (0, 1), (-1, 0), (0.6, 0.8), (0.8, 0.6)])


def plain_ranking(
    query: Array, gallery: Array, k: int, left_out: set[int]
) -> tuple[list[int], list[float]]:
    """Sort all rows by cosine similarity, then by position: the definition."""

    def cosine(row: Array) -> float:
        a, b = query.astype(np.float64), row.astype(np.float64)
        return float(np.float32(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))

    scored = sorted(
        (-cosine(row), place) for place, row in enumerate(gallery) if place not in left_out
    )
    return [place for _, place in scored][:k], [-score for score, _ in scored][:k]


def vectors(draw: st.DrawFn, least: int, most: int) -> Array:
    drawn = draw(st.lists(UNITS, min_size=least, max_size=most))
    return np.array(drawn, dtype=np.float32).reshape(-1, 2)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array, list[set[int]], list[Array]]:
    """Queries, a gallery, rows excluded for each query, and the gallery cut into blocks."""
    gallery, queries = vectors(draw, 0, 14), vectors(draw, 1, 4)
    rows = st.sets(st.integers(0, max(len(gallery) - 1, 0)))
    excluded = [draw(rows) for _ in queries]
    cuts = sorted(draw(st.lists(st.integers(0, len(gallery)), max_size=4)))
    return queries, gallery, excluded, np.split(gallery, cuts)


@settings(deadline=None)
@given(problems(), st.integers(1, 16))
def test_blocks_rank_like_the_whole_gallery(
    problem: tuple[Array, Array, list[set[int]], list[Array]], k: int
) -> None:
    queries, gallery, excluded, blocks = problem
    rows, scores = rank_blocks(queries, blocks, k, excluded=excluded)
    assert rows.shape == scores.shape == (len(queries), k)
    for number, query in enumerate(queries):
        found, similarities = plain_ranking(query, gallery, k, excluded[number])
        missing = k - len(found)
        assert rows[number].tolist() == found + [NO_ROW] * missing
        assert scores[number].tolist() == pytest.approx(similarities + [-np.inf] * missing)


@settings(deadline=None)
@given(problems(), st.integers(1, 6), st.data())
def test_each_querys_own_gallery_is_ranked_alone(
    problem: tuple[Array, Array, list[set[int]], list[Array]], k: int, data: st.DataObject
) -> None:
    queries, gallery, _, _ = problem
    if not len(gallery):
        return
    members = st.lists(st.integers(0, len(gallery) - 1), min_size=1, max_size=8)
    galleries = [data.draw(members) for _ in queries]  # in any order, and with repetitions
    rows, _ = rank_own(queries, gallery, galleries, k)
    for number, query in enumerate(queries):
        own = sorted(galleries[number])
        found, _ = plain_ranking(query, gallery[own], k, set())
        assert rows[number].tolist() == [own[one] for one in found] + [NO_ROW] * (k - len(found))


def test_random_vectors_in_blocks_rank_like_one_block() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((500, 32)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    gallery[400:420] = gallery[3]  # ties across blocks
    queries = gallery[:40]
    excluded = [{number} for number in range(40)]
    whole = rank(queries, gallery, 50, excluded=excluded)
    rows, scores = rank_blocks(queries, np.split(gallery, [1, 77, 300, 410]), 50, excluded=excluded)
    np.testing.assert_array_equal(rows, whole)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_memory_does_not_grow_with_the_gallery() -> None:
    """CIRCO's gallery has 15 blocks; only one is in memory at a time."""
    dim, queries = 64, np.eye(64, dtype=np.float32)[:20]

    def blocks(count: int) -> Iterator[Array]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            block = rng.random((BLOCK, dim), dtype=np.float32)
            yield block / np.linalg.norm(block, axis=1, keepdims=True)

    def peak(count: int) -> int:
        tracemalloc.start()
        rank_blocks(queries, blocks(count), 50)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    block_bytes = BLOCK * dim * 4
    one, many = peak(2), peak(16)
    assert many < one + block_bytes  # 14 more blocks need less than one block of memory
    assert many < 8 * block_bytes


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_1_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        rank_blocks(np.eye(2, dtype=np.float32), [np.eye(2, dtype=np.float32)], k)
