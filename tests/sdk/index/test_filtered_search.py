"""Searches among the rows that a filter leaves: the same as brute force, at a graph's recall."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ztcir_sdk.filters import FilterError, parse_filter
from ztcir_sdk.index import Index, IndexView, graph, selective
from ztcir_sdk.index.filtered import SAMPLE, RowFilters
from ztcir_sdk.index.graph import can_use_graphs
from ztcir_sdk.names import STORAGES

needs_graphs = pytest.mark.skipif(not can_use_graphs(), reason="needs the extra hnsw")
COLOURS = ("red", "blue", "green")

Metadata = dict[str, Any]
Found = list[tuple[NDArray[np.int64], NDArray[np.float32]]]


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def build(
    folder: Path,
    vectors: NDArray[np.float32],
    metadata: Callable[[int], Metadata | None],
    *,
    storage: str = "f32",
    removed: range = range(0),
    newer: int = 0,
    graph: bool = False,
) -> Index:
    """Index vectors; the last `newer` of them come after the graph, and some are removed then."""
    index = Index.create(
        folder,
        dim=vectors.shape[1],
        image_tower="ab",
        precision="",
        root=folder.parent,
        storage=storage,
    )
    with index.edit(build_graph=False) as writer:
        for i, vector in enumerate(vectors):
            if i == len(vectors) - newer:
                writer.commit(build_graph=graph)
            writer.put(
                f"{i:05}.jpg",
                vector,
                content_hash=hashlib.sha256(str(i).encode()).hexdigest(),
                size=1,
                mtime_ns=1,
                metadata=metadata(i),
            )
        writer.commit(build_graph=graph and not newer)
        for i in removed:
            writer.remove(f"{i:05}.jpg")
    return index


class BruteForce:
    """Every item of a state, compared by the definition of a search and of a filter."""

    def __init__(self, view: IndexView) -> None:
        self._items = list(view.items())
        vectors = view.vectors().astype(np.float64)
        # Those of half precision have about length 1.
        self._vectors = vectors / np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        self._right: dict[str, NDArray[np.bool_]] = {}

    def search(
        self, query: NDArray[np.float32], where: str, out: list[int]
    ) -> list[tuple[float, str, int]]:
        """Return minus the score, path and label of the items, the nearest first."""
        if where not in self._right:
            parsed = parse_filter(where)
            right = [parsed.matches(item.path, item.metadata) for item in self._items]
            self._right[where] = np.asarray(right)
        wide = query.astype(np.float64)
        wide = (wide / np.sqrt((wide * wide).sum())).astype(np.float32).astype(np.float64)
        wide /= np.sqrt((wide * wide).sum())
        # Not a matrix product, whose sums depend on the place of a row.
        scores = (self._vectors * wide).sum(axis=1)
        ranked = [
            (-float(np.float32(scores[i])), self._items[i].path, self._items[i].label)
            for i in np.flatnonzero(self._right[where])
            if self._items[i].label not in out
        ]
        return sorted(ranked)


def assert_nearest(
    found: tuple[NDArray[np.int64], NDArray[np.float32]],
    right: list[tuple[float, str, int]],
    k: int,
    *,
    exact: bool,
) -> None:
    """Compare a search with all items that brute force finds.

    Items whose scores differ by rounding may be swapped. A graph may miss some and have others.
    """
    labels, scores = found
    assert len({*labels.tolist()}) == min(k, len(right)) == len(labels)
    assert (np.diff(scores) <= 0).all()
    if not exact:
        score_of = {label: -score for score, _, label in right}
        np.testing.assert_allclose(scores, [score_of[x] for x in labels.tolist()], atol=2e-6)
        return
    right = right[:k]
    np.testing.assert_allclose(scores, [-score for score, _, _ in right], atol=2e-6)
    places = {label: (-score, path) for score, path, label in right}
    last = min(-score for score, _, _ in right) if right else 0.0
    ordered = []
    for label, score in zip(labels.tolist(), scores.tolist(), strict=True):
        assert label in places or abs(score - last) < 2e-6
        if label in places:
            assert abs(places[label][0] - score) < 2e-6
            ordered.append((-score, places[label][1]))
    assert ordered == sorted(ordered)


def recall(view: IndexView, queries: NDArray[np.float32], where: str, k: int = 10) -> float:
    """Return which part of an exact search with a filter a search by default finds."""
    parsed = parse_filter(where)
    near = view.search(queries, k, where=parsed)
    true = view.search(queries, k, where=parsed, exact=True)
    parts = []
    for (labels, scores), (right, right_scores) in zip(near, true, strict=True):
        assert len(labels) == len(right)
        assert (np.diff(scores) <= 0).all()
        score_of = dict(zip(right.tolist(), right_scores.tolist(), strict=True))
        assert all(
            score == score_of.get(label, score)  # what both find has the exact score
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        )
        parts.append(len({*labels.tolist()} & {*right.tolist()}) / len(right))
    return float(np.mean(parts))


class Asked:
    """The statements that a view runs, and the rows that it returned."""

    def __init__(self, view: IndexView, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        self.rows = 0
        fetch = view._items.sql

        def sql(query: str, values: Any = ()) -> list[Any]:
            rows = fetch(query, values)
            self.statements.append(query)
            self.rows += len(rows)
            return rows

        monkeypatch.setattr(view._items, "sql", sql)


# --- the same as brute force ---------------------------------------------------------------------

COUNT, DIM = 600, 8
FILTERS = (
    "colour = 'red'",
    "n < 3",
    "n < 40",
    "n >= 0",
    "NOT colour = 'red' AND n > 100",
    "near = 1",
    "near = 0",
    "near = 1 OR n < 200",
    "path LIKE '%7.jpg'",
    "n > 599",
)


def metadata_of(i: int) -> Metadata | None:
    if i % 10 == 9:
        return None
    return {"colour": COLOURS[i % 3], "n": i if i % 2 else str(i), "near": int(i % 100 < 30)}


def grouped(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return vectors of which 30 in 100 are near one direction, and some are copies of others."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim))
    vectors[:, 0] += np.where(np.arange(count) % 100 < 30, 6, -1)
    vectors[5::50] = vectors[4::50]
    return unit(vectors)


@pytest.fixture(scope="module", params=[*STORAGES, "graph"])
def views(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Callable[[], IndexView], BruteForce]:
    """Return what opens an index anew, knowing nothing of any filter, and what is right."""
    if request.param == "graph" and not can_use_graphs():
        pytest.skip("needs the extra hnsw")
    folder = tmp_path_factory.mktemp("filtered") / "x.ztcir"
    build(
        folder,
        grouped(COUNT, DIM, 3),
        metadata_of,
        storage="f32" if request.param == "graph" else request.param,
        removed=range(0, 120, 4),
        newer=100,
        graph=request.param == "graph",
    )
    opened = Index.open(folder, image_tower=None).view
    return lambda: Index.open(folder, image_tower=None).view, BruteForce(opened)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    count=st.sampled_from((1, 2, 12)),
    k=st.sampled_from((1, 3, 10, 70, 700)),
    where=st.sampled_from(FILTERS),
    deep=st.sampled_from((1, 1 << 6, 1 << 20)),
    out=st.lists(st.integers(120, COUNT - 1), max_size=3, unique=True),
    asked_before=st.booleans(),
)
def test_a_search_with_a_filter_finds_what_brute_force_finds(
    views: tuple[Callable[[], IndexView], BruteForce],
    seed: int,
    count: int,
    k: int,
    where: str,
    deep: int,
    out: list[int],
    asked_before: bool,
) -> None:
    opened, right = views
    view, rng = opened(), np.random.default_rng(seed)
    queries = rng.standard_normal((count, DIM)).astype(np.float32)
    queries[::2, 0] -= 3  # far from those that are near each other
    parsed = parse_filter(where)
    if asked_before:
        view.labels_where(parsed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selective, "DEEP_KNOWN", deep)
        patch.setattr(selective, "DEEP_UNKNOWN", deep)
        # As if comparing all rows took so long that the graph is asked for however many.
        patch.setattr(selective, "RANDOM_READS", 1e-9)
        options: dict[str, Any] = {"where": parsed, "exclude_labels": [out] * count}
        for exact in (True, None, False):
            found = view.search(queries, k, exact=exact, **options)
            for query, neighbours in zip(queries, found, strict=True):
                nearest = right.search(query, where, out)
                assert_nearest(neighbours, nearest, k, exact=exact is not False)


def test_ties_at_the_end_of_a_page_are_in_the_order_of_paths(tmp_path: Path) -> None:
    """All vectors are equal, so only the paths rank them."""
    vectors = np.repeat(unit(np.ones((1, 8))), 400, axis=0)
    index = build(tmp_path / "x.ztcir", vectors, lambda i: {"even": 1 - i % 2})
    [(labels, _)] = index.search(vectors[:1], 7, where=parse_filter("even = 1"))
    assert labels.tolist() == [0, 2, 4, 6, 8, 10, 12]


# --- the graph -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, NDArray[np.float32]]:
    """12 000 images in 60 clusters, 2 of 3 in a graph, with the cluster in the metadata."""
    pytest.importorskip("hnswlib", reason="the extra hnsw is not installed")
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((60, 24))

    def draw(cluster: NDArray[np.int64]) -> NDArray[np.float32]:
        return unit(centres[cluster] + 0.5 * rng.standard_normal((len(cluster), 24)))

    cluster = rng.integers(0, 60, 12_000)
    values = rng.random(12_000)
    index = build(
        tmp_path_factory.mktemp("clusters") / "x.ztcir",
        draw(cluster),
        lambda i: {"cluster": int(cluster[i]), "x": float(values[i]), "i": i},
        removed=range(0, 8000, 9),
        newer=4000,
        graph=True,
    )
    return index, draw(rng.integers(0, 60, 200))


@needs_graphs
@pytest.mark.parametrize("where", ["x < 0.5", "x < 0.1", "cluster < 30", "cluster = 7", "i < 8000"])
def test_a_graph_finds_with_a_filter_what_it_finds_without_one(
    clusters: tuple[Index, NDArray[np.float32]], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, queries = clusters
    monkeypatch.setattr(graph, "LOAD_BYTES_PER_SECOND", 1e15)
    monkeypatch.setattr(selective, "RANDOM_READS", 0.05)  # as if there were many more rows
    view = Index.open(index.path, image_tower=None).view
    found: list[int] = []
    run = selective._GraphSearch.run

    def counted(*given: Any) -> None:
        run(*given)
        found.append(sum(one is not None for one in given[4]))

    monkeypatch.setattr(selective._GraphSearch, "run", counted)
    assert recall(view, queries, where) >= 0.99
    assert sum(found) >= {"cluster < 30": 80, "cluster = 7": 0}.get(where, 190)
    # Known by now; and one by one.
    view.labels_where(parse_filter(where))
    assert recall(view, queries, where) >= 0.99
    assert np.mean([recall(view, query[None], where, 3) for query in queries[:50]]) >= 0.99


@needs_graphs
@pytest.mark.parametrize(("where", "share"), [("x < 0.5", 0.44), ("x < 0.2", 0.18)])
def test_the_effort_grows_with_what_a_filter_leaves_out(
    clusters: tuple[Index, NDArray[np.float32]],
    where: str,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ninth of the rows in the graph was removed, too."""
    index, queries = clusters
    monkeypatch.setattr(selective, "RANDOM_READS", 0.05)
    asked: list[tuple[int, int]] = []
    search = graph.Graph.nearest

    def counted(self: graph.Graph, few: Any, wanted: int, ef: int | None = None) -> Any:
        assert ef is not None
        asked.append((wanted, ef))
        return search(self, few, wanted, ef)

    monkeypatch.setattr(graph.Graph, "nearest", counted)
    index.search(queries[:1], 10, where=parse_filter(where), exact=False)
    assert index.manifest.graph is not None
    wanted, ef = asked[0]
    assert 10 / share <= wanted <= 20 / share + 20
    assert 0.8 <= ef * share / index.manifest.graph.ef <= 1.3
    assert len(asked) <= 2


@needs_graphs
def test_a_cluster_far_from_the_query_is_compared_alone(
    clusters: tuple[Index, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the first neighbours satisfies the filter."""
    index, _ = clusters
    monkeypatch.setattr(graph, "LOAD_BYTES_PER_SECOND", 1e15)
    monkeypatch.setattr(selective, "RANDOM_READS", 0.2)
    centre = index.vectors(index.labels_where(parse_filter("cluster = 7"))).mean(axis=0)
    for where in ("cluster = 7", "cluster = 7 OR cluster = 8 OR x < 0.0001"):
        found = index.search(-centre[None], 30, where=parse_filter(where))
        expected = index.search(-centre[None], 30, where=parse_filter(where), exact=True)
        assert found[0][0].tolist() == expected[0][0].tolist()


# --- what is asked of the items ------------------------------------------------------------------


def test_a_filter_that_many_satisfy_is_evaluated_for_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(tmp_path / "x.ztcir", grouped(8000, 8, 1), lambda i: {"half": i % 2})
    where, asked = parse_filter("half = 1"), Asked(index.view, monkeypatch)
    [(first, _)] = index.search(unit(np.ones((1, 8))), 10, where=where)
    assert asked.rows <= SAMPLE + 50
    count = len(asked.statements)
    [(again, _)] = index.search(unit(np.ones((1, 8))), 10, where=where)
    assert again.tolist() == first.tolist()
    assert len(asked.statements) == count  # it knows these rows by now
    assert (first % 2 == 1).all()


def test_a_filter_that_few_satisfy_is_evaluated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(tmp_path / "x.ztcir", grouped(8000, 8, 1), lambda i: {"n": i})
    where, asked = parse_filter("n < 20"), Asked(index.view, monkeypatch)
    for seed in range(5):
        query = unit(np.random.default_rng(seed).standard_normal((1, 8)))
        [(labels, _)] = index.search(query, 30, where=where)
        assert sorted(labels.tolist()) == list(range(20))
    assert sum(" ORDER BY label" in statement for statement in asked.statements) == 1
    labels = index.labels_where(where)
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 1


def test_many_rows_are_not_looked_up_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(tmp_path / "x.ztcir", grouped(900, 8, 1), lambda i: {"n": i})
    rows = RowFilters(index.view.sql, 0, 900).rows(parse_filter("n < 400"))
    assert rows.mask(np.arange(300)[::-1]).all()
    assert not rows.is_known
    asked = Asked(index.view, monkeypatch)
    assert rows.mask(np.arange(900).reshape(3, 300)).sum() == 400
    assert rows.is_known
    assert asked.statements
    assert not any("json_each" in statement for statement in asked.statements)


def test_a_filter_that_fits_no_item_is_refused_at_once(tmp_path: Path) -> None:
    index = build(tmp_path / "x.ztcir", grouped(100, 8, 1), lambda i: {"n": i})
    with pytest.raises(FilterError, match="did you mean n"):
        index.search(unit(np.ones((1, 8))), 3, where=parse_filter("N < 3"))


def test_a_state_forgets_the_filters_that_were_asked_for_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(tmp_path / "x.ztcir", grouped(100, 8, 1), lambda i: {"n": i})
    monkeypatch.setattr("ztcir_sdk.index.filtered.KEPT_BYTES", 250)
    filters = RowFilters(index.view.sql, 0, 100)
    first = filters.rows(parse_filter("n < 1"))
    assert filters.rows(parse_filter("n < 1")) is first
    for n in range(2, 4):
        filters.rows(parse_filter(f"n < {n}"))
    assert filters.rows(parse_filter("n < 1")) is not first


def test_an_index_without_items_finds_nothing_with_a_filter(tmp_path: Path) -> None:
    index = build(tmp_path / "x.ztcir", grouped(4, 8, 1), lambda i: {"n": i}, removed=range(4))
    assert len(index.search(unit(np.ones((1, 8))), 3, where=parse_filter("n < 3"))[0][0]) == 0
