"""Recall and average precision, against plain implementations and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ztcir_sdk.evaluation.metrics import average_precision_at_k, recall_at_k, relevance
from ztcir_sdk.evaluation.ranking import NO_ROW, rank


def plain_ranking(
    query: NDArray[np.float32], gallery: NDArray[np.float32], k: int, excluded: set[int]
) -> list[int]:
    """Sort all rows by falling similarity, then by position: the definition."""
    scored = [
        (-float(np.float32(np.dot(query.astype(np.float64), row.astype(np.float64)))), position)
        for position, row in enumerate(gallery)
        if position not in excluded
    ]
    return [position for _, position in sorted(scored)][:k]


def plain_average_precision(ranking: list[int], targets: set[int], k: int) -> float:
    found, total = 0, 0.0
    for place, row in enumerate(ranking[:k], start=1):
        if row in targets:
            found += 1
            total += found / place
    return total / min(k, len(targets))


@st.composite
def problems(
    draw: st.DrawFn,
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[set[int]], list[set[int]]]:
    """Queries, a gallery with many ties, targets, and excluded rows."""
    # a few unit vectors, so that there are many exact ties
    unit = st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0.6, 0.8, 0)])
    gallery = np.array(draw(st.lists(unit, min_size=1, max_size=15)), dtype=np.float32)
    queries = np.array(draw(st.lists(unit, min_size=1, max_size=4)), dtype=np.float32)
    rows = st.integers(0, len(gallery) - 1)
    targets = draw(
        st.lists(st.sets(rows, min_size=1), min_size=len(queries), max_size=len(queries))
    )
    excluded = draw(st.lists(st.sets(rows), min_size=len(queries), max_size=len(queries)))
    return queries, gallery, targets, excluded


@given(problems(), st.integers(1, 20))
def test_rankings_and_metrics_equal_their_definitions(
    problem: tuple[NDArray[np.float32], NDArray[np.float32], list[set[int]], list[set[int]]],
    k: int,
) -> None:
    queries, gallery, targets, excluded = problem
    ranking = rank(queries, gallery, k, excluded=excluded)
    relevant = relevance(ranking, targets)
    recalls = recall_at_k(relevant, k)
    precisions = average_precision_at_k(relevant, [len(own) for own in targets], k)
    assert ranking.shape == (len(queries), k)
    for place, query in enumerate(queries):
        plain = plain_ranking(query, gallery, k, excluded[place])
        assert ranking[place].tolist() == plain + [NO_ROW] * (k - len(plain))
        assert recalls[place] == float(bool(targets[place] & set(plain)))
        expected = plain_average_precision(plain, targets[place], k)
        assert precisions[place] == pytest.approx(expected, abs=1e-12)


@given(problems(), st.integers(1, 5))
def test_a_ranking_does_not_depend_on_the_batch(
    problem: tuple[NDArray[np.float32], NDArray[np.float32], list[set[int]], list[set[int]]],
    k: int,
) -> None:
    queries, gallery, _, excluded = problem
    together = rank(queries, gallery, k, excluded=excluded)
    for place in range(len(queries)):
        alone = rank(queries[place : place + 1], gallery, k, excluded=excluded[place : place + 1])
        assert alone[0].tolist() == together[place].tolist()


def test_equal_scores_rank_in_the_order_of_the_gallery() -> None:
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(1, 96)).astype(np.float32)
    vector /= np.linalg.norm(vector)
    other = -vector
    # copies far apart, where a blocked matrix product rounds differently
    gallery = np.concatenate([other, *[vector] * 333, other])
    ranking = rank(vector, gallery, 335)
    assert ranking[0].tolist() == [*range(1, 334), 0, 334]


def test_several_targets_worked_by_hand() -> None:
    relevant = relevance(np.array([[7, 3, 9, 1, 4]]), [{3, 1, 8}])
    assert relevant.tolist() == [[False, True, False, True, False]]
    # precision 1/2 at rank 2 and 2/4 at rank 4; the third target is never found
    assert average_precision_at_k(relevant, [3], 5)[0] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert average_precision_at_k(relevant, [3], 2)[0] == pytest.approx((1 / 2) / 2)
    assert [recall_at_k(relevant, k)[0] for k in (1, 2, 5)] == [0, 1, 1]


def test_average_precision_is_1_if_all_of_the_first_k_are_targets() -> None:
    relevant = relevance(np.array([[0, 1]]), [set(range(50))])
    assert average_precision_at_k(relevant, [50], 2)[0] == 1


def test_excluded_rows_are_removed_before_ranking() -> None:
    gallery = np.eye(3, dtype=np.float32)
    query = np.array([[0.8, 0.6, 0.0]], dtype=np.float32)
    assert rank(query, gallery, 2)[0].tolist() == [0, 1]
    assert rank(query, gallery, 2, excluded=[{0}])[0].tolist() == [1, 2]
    relevant = relevance(rank(query, gallery, 2, excluded=[{0}]), [{1}])
    assert average_precision_at_k(relevant, [1], 2)[0] == 1


def test_a_target_outside_of_the_gallery_counts() -> None:
    # row 99 is never found, and still counts as a target
    relevant = relevance(np.array([[0, 1, NO_ROW]]), [{0, 99}])
    assert average_precision_at_k(relevant, [2], 3)[0] == pytest.approx(1 / 2)
    assert relevance(np.array([[NO_ROW, NO_ROW]]), [{99}]).tolist() == [[False, False]]


def test_each_query_has_its_own_targets() -> None:
    ranking = np.array([[0, 1], [0, 1]])
    assert relevance(ranking, [{0}, {1}]).tolist() == [[True, False], [False, True]]


def test_an_empty_gallery_ranks_nothing() -> None:
    nothing = np.empty((0, 4), dtype=np.float32)
    assert rank(np.eye(4, dtype=np.float32), nothing, 2).tolist() == [[NO_ROW, NO_ROW]] * 4


@pytest.mark.parametrize("k", [0, 3])
def test_k_outside_of_the_ranking_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the ranking's length 2"):
        recall_at_k(np.array([[True, False]]), k)


def test_a_query_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="no target"):
        average_precision_at_k(np.array([[False]]), [0], 1)
    with pytest.raises(ValueError, match="1 of 2"):
        relevance(np.array([[0], [1]]), [{0}])
    with pytest.raises(ValueError, match="1 of 2"):
        rank(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1, excluded=[{0}])
