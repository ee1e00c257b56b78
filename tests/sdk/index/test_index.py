"""The index: searches against brute force, changes against a dict, killed writers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray
from old_index import OldItem, write_old_index
from places import ROOT

from ztcir_sdk.errors import IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.index import GalleryIndex, Index, IndexWriter, Item, graph, nearest, writer
from ztcir_sdk.index.graph import can_use_graphs
from ztcir_sdk.index.graph_check import check_graph
from ztcir_sdk.names import STORAGES

needs_graphs = pytest.mark.skipif(not can_use_graphs(), reason="needs the extra hnsw")

TOWER = "ab" * 32
DIM = 8


def units(count: int, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def unit(seed: int, dim: int = DIM) -> NDArray[np.float32]:
    [vector] = units(1, dim, seed)
    return np.asarray(vector)


def content(seed: int) -> str:
    return hashlib.sha256(str(seed).encode()).hexdigest()


def put(to: IndexWriter, path: str, seed: int, dim: int = DIM) -> Item:
    return to.put(path, unit(seed, dim), content_hash=content(seed), size=seed, mtime_ns=seed)


def create(
    folder: Path, *, dim: int = DIM, root: Path | None = None, storage: str = "f32"
) -> Index:
    root = folder.parent if root is None else root
    return Index.create(
        folder, dim=dim, image_tower=TOWER, precision="fp32", root=root, storage=storage
    )


def filled(
    folder: Path,
    rows: NDArray[np.float32],
    *,
    build_graph: bool | None = None,
    storage: str = "f32",
) -> Index:
    index = create(folder, dim=rows.shape[1], storage=storage)
    with index.edit() as edit:
        for i, row in enumerate(rows):
            edit.put(f"{i:06}.jpg", row, content_hash=content(i), size=i, mtime_ns=i)
        edit.commit(build_graph=build_graph)
    return index


def graph_rows(index: Index) -> int:
    graph = index.manifest.graph
    return 0 if graph is None else graph.rows


def contents(index: Index) -> dict[str, str]:
    return {item.path: item.content_hash for item in index.items()}


def assert_sound(folder: Path) -> Index:
    """Open from disk; check that every item has its content's vector and is found by it."""
    index = Index.open(folder, image_tower=TOWER)
    items = list(index.items())
    assert len(items) == len(index)
    for item in items:
        [vector] = index.vectors([item.label])
        np.testing.assert_array_equal(vector, unit(item.size))
        assert item.content_hash == content(item.size)
    return index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "photos.ztcir"


# --- searching -----------------------------------------------------------------------------------


@given(
    rows=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    queries=st.lists(st.integers(0, 9), max_size=5),
    k=st.integers(1, 40),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_search_equals_brute_force_with_ties_by_path(
    rows: list[int], queries: list[int], k: int, data: st.DataObject
) -> None:
    """With few different vectors, for many ties, and paths in another order than rows."""
    names = data.draw(st.permutations([f"{i:02}" for i in range(len(rows))]))
    out_labels = [data.draw(st.sets(st.integers(-1, len(rows)))) for _ in queries]
    out_seeds = [data.draw(st.sets(st.integers(0, 9), max_size=2)) for _ in queries]
    with tempfile.TemporaryDirectory() as temporary:
        index = create(Path(temporary) / "x.ztcir")
        with index.edit() as edit:
            for name, seed in zip(names, rows, strict=True):
                put(edit, name, seed)
            edit.commit(build_graph=True)
        questions = np.array([unit(q) for q in queries], dtype=np.float32).reshape(-1, DIM)
        for exact in (None, False):
            found = index.search(
                questions,
                k,
                exclude_labels=out_labels,
                exclude_hashes=[{content(s) for s in seeds} for seeds in out_seeds],
                exact=exact,
            )
            assert len(found) == len(queries)
            for i, (labels, scores) in enumerate(found):
                left = [
                    item
                    for item in index.items()
                    if item.label not in out_labels[i] and item.size not in out_seeds[i]
                ]
                true = {
                    item.label: np.float32(unit(item.size).astype(float) @ questions[i])
                    for item in left
                }
                by_score = sorted(
                    left, key=lambda item: (-round(float(true[item.label]), 5), item.path)
                )
                assert [index.item(int(label)).path for label in labels] == [
                    item.path for item in by_score[:k]
                ]
                np.testing.assert_allclose(scores, [true[int(x)] for x in labels], atol=1e-6)
                assert labels.dtype == np.int64
                assert scores.dtype == np.float32


def test_a_result_does_not_depend_on_the_batch_or_the_threads(folder: Path) -> None:
    rows = units(3000, 48)
    rows[1000:2000] = rows[:1000]  # every other result is a tie
    index = filled(folder, rows, build_graph=True)
    questions = units(64, 48, seed=1)
    for exact in (True, False):
        together = index.search(questions, 20, exact=exact)
        with ThreadPoolExecutor(8) as pool:
            alone = list(
                pool.map(
                    lambda i, exact=exact: index.search(questions[i : i + 1], 20, exact=exact)[0],
                    range(len(questions)),
                )
            )
        for (labels, scores), (labels_alone, scores_alone) in zip(together, alone, strict=True):
            np.testing.assert_array_equal(labels, labels_alone)
            np.testing.assert_array_equal(scores, scores_alone)


def test_k_beyond_the_gallery_returns_all_of_it(folder: Path) -> None:
    index = filled(folder, units(7))
    for exact in (None, True, False):
        [(labels, scores)] = index.search(units(1, seed=5), 100, exact=exact)
        assert sorted(labels) == sorted(item.label for item in index.items())
        assert (np.diff(scores) <= 0).all()


def test_scores_are_cosines_whatever_the_length_of_a_query(folder: Path) -> None:
    index = filled(folder, units(5))
    [(labels, scores)] = index.search(index.vectors() * np.float32(7), 1)[:1]
    assert index.item(int(labels[0])).path == "000000.jpg"
    assert scores[0] == pytest.approx(1, abs=1e-6)


def test_a_new_index_finds_nothing(folder: Path) -> None:
    [(labels, scores)] = create(folder).search(units(1), 3)
    assert labels.shape == scores.shape == (0,)
    assert create(folder.with_name("other.ztcir")).vectors().shape == (0, DIM)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(folder: Path, k: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        create(folder).search(units(1), k)


@pytest.mark.parametrize(
    "queries",
    [np.zeros((1, DIM)), np.full((1, DIM), np.nan), np.ones((1, DIM + 1)), np.ones(DIM)],
)
def test_queries_without_a_cosine_are_refused(folder: Path, queries: Any) -> None:
    with pytest.raises(ValueError, match="quer"):
        filled(folder, units(2)).search(queries.astype(np.float32), 1)


def test_exclusions_must_match_the_queries(folder: Path) -> None:
    with pytest.raises(ValueError, match="given for 2 queries, not 1"):
        filled(folder, units(2)).search(units(1), 1, exclude_labels=[[], []])


def test_the_index_is_a_gallery_index(folder: Path) -> None:
    index: GalleryIndex = create(folder)
    view: GalleryIndex = create(folder.with_name("other.ztcir")).view
    assert (index.dim, view.image_tower) == (DIM, TOWER)


# --- the graph -----------------------------------------------------------------------------------


def recall(index: Index, queries: NDArray[np.float32], k: int = 10) -> float:
    true = index.search(queries, k, exact=True)
    near = index.search(queries, k, exact=False)
    return float(
        np.mean([len({*a[0]} & {*b[0]}) / len(a[0]) for a, b in zip(true, near, strict=True)])
    )


@needs_graphs
def test_the_graph_has_high_recall_after_every_change(folder: Path) -> None:
    """With random unit vectors, then dead rows in the graph, then rows newer than the graph."""
    rows, queries = units(4000, 64), units(100, 64, seed=1)
    index = filled(folder, rows, build_graph=True)
    assert graph_rows(index) == 4000
    assert recall(index, queries) >= 0.95

    with index.edit() as edit:
        for i in range(0, 4000, 5):
            edit.remove(f"{i:06}.jpg")
        for i, row in enumerate(units(500, 64, seed=2)):
            edit.put(f"new{i}.jpg", row, content_hash=content(i), size=i, mtime_ns=i)
    index = Index.open(folder, image_tower=TOWER)
    assert (graph_rows(index), index.manifest.rows, len(index)) == (4000, 4500, 3700)
    assert recall(index, queries) >= 0.95

    with index.edit() as edit:
        edit.commit(build_graph=True)  # extends it
    index = Index.open(folder, image_tower=TOWER)
    assert graph_rows(index) == 4500
    assert recall(index, queries) >= 0.95
    assert all(len(labels) == 2000 for labels, _ in index.search(queries[:2], 2000, exact=False))


def test_search_is_exact_where_the_graph_finds_too_few(folder: Path) -> None:
    """Almost all rows near the query are dead or excluded: the graph finds none of the others."""
    index = filled(folder, units(600), build_graph=True)
    with index.edit() as edit:
        for i in range(590):
            edit.remove(f"{i:06}.jpg")
    out = [[item.label for item in index.items()][:4]]
    true = index.search(unit(0)[None], 8, exclude_labels=out, exact=True)
    near = index.search(unit(0)[None], 8, exclude_labels=out, exact=False)
    assert len(true[0][0]) == 6
    np.testing.assert_array_equal(true[0][0], near[0][0])


@needs_graphs
def test_a_large_collection_gets_a_graph_automatically(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "GRAPH_FROM", 50)
    monkeypatch.setattr(writer, "NEWER_THAN_GRAPH", 20)
    index = filled(folder, units(50))
    assert index.manifest.graph is None
    with index.edit() as edit:
        put(edit, "a", 1)
        edit.commit(build_graph=False)
        assert index.manifest.graph is None
    assert graph_rows(index) == 51
    with index.edit() as edit:
        put(edit, "b", 2)
    assert graph_rows(index) == 51
    walked: list[int] = []
    walk = nearest.graph_search
    monkeypatch.setattr(nearest, "graph_search", lambda *a: (walked.append(1), walk(*a))[1])  # type: ignore[func-returns-value]
    index.search(units(1), 3)
    assert walked == []  # loading the graph takes longer than comparing with every vector
    monkeypatch.setattr(graph, "LOAD_BYTES_PER_SECOND", 1e15)
    index.search(units(1), 3)
    index.search(units(1), 3, exact=True)
    assert walked == [1]


# --- changing ------------------------------------------------------------------------------------

PATHS = st.sampled_from(["a.jpg", "b/a.jpg", "b/é.jpg", "c.tar/1.jpg", "漢字 .png"])
SEEDS = st.integers(0, 12)


class IndexAgainstDict(RuleBasedStateMachine):
    """Any sequence of changes, commits, discards and openings has the same result as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "x.ztcir"
        self.index = create(self.folder)
        self.committed: dict[str, tuple[int, Any]] = {}
        self.pending: dict[str, tuple[int, Any]] = {}
        self.block: Any = None
        self.labels: dict[int, tuple[str, int]] = {}

    def edit(self) -> IndexWriter:
        if self.block is None:
            self.block = self.index.edit()
            self.writer = self.block.__enter__()
        writer: IndexWriter = self.writer
        return writer

    @rule(path=PATHS, seed=SEEDS, metadata=st.none() | st.dictionaries(st.text(), st.integers()))
    def put(self, path: str, seed: int, metadata: Any) -> None:
        self.edit().put(
            path,
            unit(seed),
            content_hash=content(seed),
            size=seed,
            mtime_ns=seed,
            metadata=metadata,
        )
        self.pending[path] = (seed, metadata)

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        if path in self.pending:
            self.edit().remove(path)
            del self.pending[path]
        else:
            with pytest.raises(KeyError):
                self.edit().remove(path)

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        item = self.edit().get(old)
        assert (item is None) == (old not in self.pending)
        if item is not None:
            self.edit().amend(replace(item, path=new))
            self.pending[new] = self.pending.pop(old)

    @rule(seed=SEEDS)
    def vector_of_known_content(self, seed: int) -> None:
        vector = self.edit().vector_of(content(seed))
        if vector is not None or seed in {seed for seed, _ in self.pending.values()}:
            np.testing.assert_array_equal(vector, unit(seed))

    @rule(build_graph=st.sampled_from([None, True, False]))
    def commit(self, build_graph: bool | None) -> None:
        self.edit().commit(build_graph=build_graph)
        self.committed = dict(self.pending)

    @precondition(lambda self: self.block is not None)
    @rule()
    def finish(self) -> None:
        self.block.__exit__(None, None, None)
        self.block = None
        self.committed = dict(self.pending)

    @precondition(lambda self: self.block is not None)
    @rule()
    def fail(self) -> None:
        error = RuntimeError("the caller's own")
        assert not self.block.__exit__(RuntimeError, error, None)
        self.block = None
        self.pending = dict(self.committed)

    @rule()
    def reopen(self) -> None:
        if self.block is None:
            self.index = Index.open(self.folder, image_tower=TOWER)

    @invariant()
    def the_committed_state_is_the_dict(self) -> None:
        found = {item.path: (item.size, item.metadata) for item in self.index.items()}
        assert found == self.committed
        assert len(self.index) == len(self.committed)
        assert [item.path for item in self.index.items()] == sorted(found)
        for row, item in zip(self.index.vectors(), self.index.items(), strict=True):
            np.testing.assert_array_equal(row, unit(item.size))
            # No other item ever gets a label, even after replacements and compactions.
            assert self.labels.setdefault(item.label, (item.content_hash, item.size)) == (
                item.content_hash,
                item.size,
            )
            assert item in self.index.by_hash(content(item.size))
            assert self.index.by_path(item.path) == item == self.index.item(item.label)
        if self.committed:
            [(labels, _)] = self.index.search(unit(99)[None], 9)
            assert {self.index.item(int(label)).path for label in labels} == set(found)

    def teardown(self) -> None:
        if self.block is not None:
            self.finish()
        assert_sound(self.folder)
        assert_clean(self.folder)
        self.temporary.cleanup()


def assert_clean(folder: Path) -> None:
    index = Index.open(folder, image_tower=None)
    names = {entry.name for entry in folder.iterdir()} - {"lock"}
    assert names == {"index.json", *index.manifest.files}
    with index.edit():  # removes files of older states
        pass
    for record in index.manifest.vectors:
        assert (folder / record.file).stat().st_size == record.bytes
    assert index.verify() == []


@pytest.fixture(scope="module", autouse=True)
def _compact_early() -> Iterator[None]:
    """Compact already for a few dead rows, as it otherwise happens for thousands."""
    patch = pytest.MonkeyPatch()
    patch.setattr(writer, "COMPACT_FROM", 4)
    yield
    patch.undo()


test_any_changes = IndexAgainstDict.TestCase
test_any_changes.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize(
    "vector", [np.zeros(DIM), np.ones(DIM), np.full(DIM, np.nan), unit(0, DIM + 1)]
)
def test_a_vector_that_is_not_of_unit_length_is_refused(folder: Path, vector: Any) -> None:
    index = create(folder)
    with pytest.raises(ValueError, match=r"a\.jpg"), index.edit() as edit:
        edit.put("a.jpg", vector, content_hash=content(0), size=0, mtime_ns=0)
    assert len(index) == 0


def test_an_old_label_raises_an_error_and_returns_no_other_item(folder: Path) -> None:
    index = create(folder)
    with index.edit() as edit:
        old = put(edit, "a.jpg", 1)
        put(edit, "b.jpg", 2)
    with index.edit() as edit:
        for seed in range(20):
            put(edit, "a.jpg", seed)
    assert index.manifest.rows == 2  # compacted
    for read in (index.item, lambda label: index.vectors([label])):
        with pytest.raises(KeyError):
            read(old.label)


@needs_graphs
def test_a_reader_searches_without_a_graph_that_a_writer_replaced(folder: Path) -> None:
    index = filled(folder, units(60), build_graph=True)
    reader = Index.open(folder, image_tower=TOWER)
    with index.edit() as edit:
        put(edit, "a", 1)
        edit.commit(build_graph=True)
    assert reader.manifest.graph is not None
    assert not (folder / reader.manifest.graph.file).exists()
    [(labels, _)] = reader.search(unit(0)[None], 3, exact=False)
    np.testing.assert_array_equal(labels, reader.search(unit(0)[None], 3, exact=True)[0][0])


def test_precisions_and_a_new_root_are_recorded(folder: Path, tmp_path: Path) -> None:
    index = create(folder)
    with index.edit() as edit:
        edit.set_origin(precision="fp32")
        edit.set_origin(root=tmp_path / "elsewhere", precision="int8")
    index = Index.open(folder, image_tower=TOWER)
    assert (index.precision, index.root) == ("fp32+int8", tmp_path / "elsewhere")


def test_index_and_photos_move_together(tmp_path: Path) -> None:
    (tmp_path / "here" / "photos").mkdir(parents=True)
    create(tmp_path / "here" / "x.ztcir", root=tmp_path / "here" / "photos")
    (tmp_path / "here").rename(tmp_path / "there")
    index = Index.open(tmp_path / "there" / "x.ztcir", image_tower=TOWER)
    assert index.root == tmp_path / "there" / "photos"
    assert not Path(index.manifest.root).is_absolute()


# --- concurrency ---------------------------------------------------------------------------------


def test_a_reader_keeps_its_state_until_it_refreshes(folder: Path) -> None:
    index = filled(folder, np.stack([unit(0), unit(1)]))
    reader = Index.open(folder, image_tower=TOWER)
    with index.edit() as edit:
        for seed in range(30):
            put(edit, "000000.jpg", seed)
        edit.remove("000001.jpg")
    before = {"000000.jpg": content(0), "000001.jpg": content(1)}
    assert contents(reader) == before
    assert len(reader.search(unit(0)[None], 9)[0][0]) == 2
    assert reader.refresh()
    assert contents(reader) == {"000000.jpg": content(29)}
    assert not reader.refresh()


def test_concurrent_searches_see_only_committed_states(folder: Path) -> None:
    """In each state, items "0" and "1" have the same content; the changes include compactions."""
    index = create(folder)
    with index.edit() as edit:
        put(edit, "0", 0)
        put(edit, "1", 0)
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        mine = Index.open(folder, image_tower=TOWER)
        while not stop.is_set():
            mine.refresh()
            for view in (index.view, mine.view):
                [(labels, scores)] = view.search(unit(0)[None], 5)
                found = [view.item(int(label)) for label in labels]
                if [i.path for i in found] != ["0", "1"] or len({i.size for i in found}) != 1:
                    failures.append(str(found))
                if scores[0] != scores[1]:
                    failures.append(str(scores))

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for seed in range(1, 30):
                with index.edit() as edit:
                    put(edit, "0", seed)
                    put(edit, "1", seed)
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert failures == []
    assert index.manifest.first_label > 0


def test_a_second_writer_is_refused(folder: Path) -> None:
    index = create(folder)
    other = Index.open(folder, image_tower=TOWER)
    with index.edit() as edit:
        put(edit, "a", 1)
        with pytest.raises(ZtcirError, match="Another process is writing"), other.edit():
            pass
    with other.edit() as edit:  # it starts from the state of the first writer
        assert edit.get("a") is not None
        put(edit, "b", 2)
    assert contents(other).keys() == {"a", "b"}


def test_the_lock_of_a_killed_writer_is_released(folder: Path) -> None:
    create(folder)
    program = (
        "import sys\nfrom ztcir_sdk.index import Index\n"
        "with Index.open(sys.argv[1], image_tower=None).edit():\n"
        "    print('writing', flush=True)\n    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"writing"
    index = Index.open(folder, image_tower=TOWER)
    with pytest.raises(ZtcirError, match="Another process"), index.edit():
        pass
    child.kill()
    child.communicate()
    with index.edit() as edit:
        put(edit, "a", 1)
    assert len(index) == 1


# --- faults --------------------------------------------------------------------------------------


def change(index: Index) -> None:
    """Add, replace, remove, rename; compact and build a graph."""
    with index.edit() as edit:
        for seed in range(10, 22):
            put(edit, "new.jpg", seed)
        put(edit, "000001.jpg", 9)
        edit.remove("000002.jpg")
        item = edit.get("000003.jpg")
        assert item is not None
        edit.amend(replace(item, path="renamed.jpg"))
        edit.commit(build_graph=True)


def start(folder: Path) -> dict[str, str]:
    return contents(filled(folder, np.stack([unit(i) for i in range(6)]), build_graph=True))


def after(folder: Path) -> dict[str, str]:
    start(folder)
    index = Index.open(folder, image_tower=TOWER)
    change(index)
    assert index.manifest.first_label > 0
    assert graph_rows(index) == 6
    return contents(index)


def killed_at(step: int, folder: Path, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed before its `step`-th access to the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks beside pytest's threads
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.waitstatus_to_exitcode(status) == 0
        return killed
    steps = 0

    def touched(event: str, args: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in ("os.fsync", "os.rename", "os.remove", "os.truncate", "sqlite3.connect") or (
            event in ("open", "shutil.copyfile") and str(folder) in str(args[0])
        ):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        fsync = os.fsync
        os.fsync = lambda fd: (touched("os.fsync", ()), fsync(fd))[1]  # type: ignore[func-returns-value]  # not audited
        sys.addaudithook(touched)
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("small", [True, False])
@needs_graphs
def test_a_kill_leaves_the_old_index_or_the_new_one(tmp_path: Path, small: bool) -> None:
    def work(index: Index) -> None:
        if not small:
            return change(index)
        with index.edit() as edit:
            put(edit, "new.jpg", 21)
        return None

    old = start(tmp_path / "old.ztcir")
    new = {**old, "new.jpg": content(21)} if small else after(tmp_path / "new.ztcir")
    seen: set[bool] = set()
    for step in range(1, 500):
        folder = tmp_path / f"{step}.ztcir"
        shutil.copytree(tmp_path / "old.ztcir", folder)
        killed = killed_at(
            step,
            folder,
            lambda at=folder: work(Index.open(at, image_tower=TOWER)),  # type: ignore[misc]
        )
        index = assert_sound(folder)
        assert contents(index) in (old, new)
        seen.add(contents(index) == new)
        if killed:  # the next writer works as usual
            if contents(index) == old:
                work(index)
            with index.edit():
                pass
        assert contents(assert_sound(folder)) == new
        assert_clean(folder)
        shutil.rmtree(folder)
        if not killed:
            break
    assert not killed
    assert step > 10
    assert seen == {True, False}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_creation_can_be_repeated(tmp_path: Path) -> None:
    for step in range(1, 100):
        folder = tmp_path / f"{step}.ztcir"
        killed = killed_at(step, folder, lambda at=folder: create(at))  # type: ignore[misc]
        if not (folder / "index.json").exists():
            with pytest.raises(ZtcirError, match="ztcir index FOLDER"):
                Index.open(folder, image_tower=TOWER)
            create(folder)
        with Index.open(folder, image_tower=TOWER).edit() as edit:
            put(edit, "a", 1)
        assert len(assert_sound(folder)) == 1
        assert_clean(folder)
        if not killed:
            break
    assert step > 5


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace")])
@needs_graphs
def test_a_failing_disk_loses_only_the_uncommitted_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    new = after(tmp_path / "new.ztcir")
    true: Callable[..., Any] = getattr(owner, function)
    for step in range(1, 100):
        folder = tmp_path / f"{step}.ztcir"
        old = start(folder)
        index = Index.open(folder, image_tower=TOWER)
        calls = 0

        def failing(*args: Any, step: int = step) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise OSError(28, "No space left on device")
            return true(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, function, failing)
            try:
                change(index)
            except ZtcirError as error:
                failure = str(error)
            else:
                failure = ""
        assert contents(index) in (old, new)
        assert contents(assert_sound(folder)) in (old, new)
        if not failure:
            break
        assert "No space left on device" in failure
        index.refresh()
        if contents(index) == old:
            change(index)
        assert contents(assert_sound(folder)) == new
        assert_clean(folder)
    assert step > 1


def test_uncommitted_files_are_ignored_and_removed(folder: Path) -> None:
    old = start(folder)
    manifest = Index.open(folder, image_tower=TOWER).manifest
    with (folder / manifest.vectors[0].file).open("ab") as stream:
        stream.write(b"torn")
    for name in (
        "index.json.new",
        ".index.json.0af3.new",
        "items-99.sqlite",
        "vectors-98.f32",
        "graph-97.hnsw",
    ):
        (folder / name).write_bytes(b"torn")
    (folder / "notes.txt").write_text("a person's own")
    index = assert_sound(folder)
    assert contents(index) == old
    with index.edit() as edit:
        put(edit, "a", 1)
    assert contents(assert_sound(folder)) == {**old, "a": content(1)}
    assert {entry.name for entry in folder.iterdir()} == {
        "index.json",
        "lock",
        "notes.txt",
        *index.manifest.files,
    }


def record_of(index: Index, which: str) -> Any:
    manifest = index.manifest
    return {"vectors": manifest.vectors[0], "table": manifest.table, "graph": manifest.graph}[which]


@pytest.mark.parametrize("damage", ["cut", "remove", "empty"])
@pytest.mark.parametrize("which", ["vectors", "table", "graph"])
@needs_graphs
def test_an_incomplete_file_is_refused_when_the_index_is_opened(
    folder: Path, which: str, damage: str
) -> None:
    start(folder)
    file = folder / record_of(Index.open(folder, image_tower=TOWER), which).file
    data = file.read_bytes()
    file.unlink()
    if damage != "remove":
        file.write_bytes({"cut": data[:-1], "empty": b""}[damage])
    with pytest.raises(ZtcirError, match=file.name) as caught:
        Index.open(folder, image_tower=TOWER)
    assert "index the collection again" in str(caught.value)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("which", ["vectors", "table", "graph"])
@needs_graphs
def test_verify_finds_every_altered_byte(tmp_path: Path, which: str, storage: str) -> None:
    folder = tmp_path / "x.ztcir"
    index = filled(folder, units(40), build_graph=True, storage=storage)
    assert index.verify() == []
    file = folder / record_of(index, which).file
    data = bytearray(file.read_bytes())
    inside = data.index(b"000017.jpg") if which == "table" else len(data) // 2
    data[inside] ^= 1
    file.write_bytes(data)
    [sentence] = Index.open(folder, image_tower=TOWER).verify()
    assert file.name in sentence
    assert "damaged" in sentence


@pytest.mark.skipif(not can_use_graphs(), reason="needs the extra hnsw")
def test_hnswlib_reads_no_graph_that_leads_out_of_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each word of the file becomes huge: the graph is refused, or the word is a coordinate."""
    index = filled(folder, units(150), build_graph=True)
    record = index.manifest.graph
    assert record is not None
    file = folder / record.file
    whole = file.read_bytes()
    check_graph(file, DIM, record)
    node = 4 + 4 * 2 * record.m + 4 * DIM + 8
    header = len(whole) % 4  # at the start of the nodes, words are aligned to it
    rng = np.random.default_rng(0)
    level_0 = range(96, 96 + 150 * node)
    accepted: list[int] = []
    for at in [*range(0, 96, 4), *rng.integers(96, len(whole) - 4, 250).tolist()]:
        data = bytearray(whole)
        at -= (at - header) % 4
        data[at : at + 4] = b"\xff\xff\xff\x7f"
        file.write_bytes(data)
        try:
            check_graph(file, DIM, record)
        except ValueError:
            continue
        accepted.append(at)
    for at in accepted:
        place = (at - 96) % node
        in_vector = at in level_0 and 4 + 8 * record.m - 4 < place < node - 8
        count = int.from_bytes(whole[at - place : at - place + 2], "little")
        beyond = at in level_0 and place >= 4 + 4 * count - 3
        above = at not in level_0  # a link beyond the count of its level
        scale = 76 <= at < 88
        assert in_vector or beyond or above or scale, at


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


PLACES = ["", "dim", "items", "rows", "first_label", "versions", "generation", "metric", "root"]
PLACES += ["storage", "vectors", "table", "graph", "vectors.0.file", "vectors.0.bytes"]
PLACES += ["table.file", "table.bytes", "unknown"]


@pytest.fixture(scope="module")
def any_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any") / "x.ztcir"
    with create(folder).edit() as edit:
        put(edit, "a", 1)
    return folder


@given(
    where=st.sampled_from(PLACES),
    value=JSON | st.sampled_from(["../../x", "/etc/passwd", "items-1.sqlite", "graph-2.hnsw"]),
    with_checksum=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_manifest_opens_or_is_refused_with_one_sentence(
    any_index: Path, where: str, value: Any, with_checksum: bool
) -> None:
    text = (any_index / "index.json").read_text()
    manifest = at = json.loads(text)
    *outer, last = where.split(".")
    for name in outer:
        at = at[int(name) if name.isdecimal() else name]
    at[last] = value
    if with_checksum:
        del manifest["checksum"]
        data = json.dumps(manifest, sort_keys=True).encode()
        manifest["checksum"] = hashlib.sha256(data).hexdigest()
    try:
        (any_index / "index.json").write_text(json.dumps(manifest if where else value))
        with contextlib.suppress(ZtcirError):
            Index.open(any_index, image_tower=None).search(units(1, seed=1), 3)
    finally:
        (any_index / "index.json").write_text(text)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_not_json_is_refused(folder: Path, text: bytes) -> None:
    create(folder)
    (folder / "index.json").write_bytes(text)
    with pytest.raises(ZtcirError, match="index the collection again"):
        Index.open(folder, image_tower=TOWER)


def test_a_newer_format_is_refused(folder: Path) -> None:
    create(folder)
    manifest = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**manifest, "format_version": 3}))
    with pytest.raises(ZtcirError, match=r"index format 3, which ztcir .* update ztcir"):
        Index.open(folder, image_tower=TOWER)


# --- the format of ztcir 0.1 ---------------------------------------------------------------------


def old_index(folder: Path, *, graph: bool = True) -> None:
    """Items of seeds 0 to 5, of which the row of 2 is dead; labels start at 10."""
    items: list[OldItem] = [
        (10 + i, f"{i}.jpg", content(i), i, i, '{"n": NaN}' if i == 4 else None)
        for i in range(6)
        if i != 2
    ]
    write_old_index(
        folder,
        np.stack([unit(i) for i in range(6)]),
        items,
        image_tower=TOWER,
        graph=graph and can_use_graphs(),
    )


def test_an_index_of_the_old_format_is_read_and_not_changed(folder: Path) -> None:
    old_index(folder)
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    index = assert_sound(folder)
    assert contents(index) == {f"{i}.jpg": content(i) for i in (0, 1, 3, 4, 5)}
    for exact in (None, True, False):
        [(labels, _)] = index.search(unit(3)[None], 9, exact=exact)
        assert index.item(int(labels[0])).path == "3.jpg"
        assert len(labels) == 5
    item = index.by_path("4.jpg")
    assert item is not None
    assert item.metadata == {"n": None}
    assert [item.path for item in index.by_hash(content(5))] == ["5.jpg"]
    assert index.sql("SELECT count(*) FROM items WHERE metadata IS NULL") == [(4,)]
    assert index.verify() == []
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


@pytest.mark.parametrize("build_graph", [None, True])
def test_the_next_write_brings_the_old_format_up_to_date(
    folder: Path, build_graph: bool | None
) -> None:
    old_index(folder)
    reader = Index.open(folder, image_tower=TOWER)
    index = Index.open(folder, image_tower=TOWER)
    with index.edit() as edit:
        assert edit.vector_of(content(2)) is None
        put(edit, "new.jpg", 7)
        edit.remove("0.jpg")
        edit.commit(build_graph=build_graph)
    assert json.loads((folder / "index.json").read_text())["format_version"] == 2
    expected = {f"{i}.jpg": content(i) for i in (1, 3, 4, 5)} | {"new.jpg": content(7)}
    assert contents(assert_sound(folder)) == expected
    assert_clean(folder)
    label = index.search(unit(7)[None], 1, exact=False)[0][0][0]
    assert label == 16  # labels go on
    assert contents(reader) == {f"{i}.jpg": content(i) for i in (0, 1, 3, 4, 5)}


def test_a_damaged_index_of_the_old_format_is_not_brought_up_to_date(folder: Path) -> None:
    old_index(folder)
    data = bytearray((folder / "vectors-3.f32").read_bytes())
    data[7] ^= 1
    (folder / "vectors-3.f32").write_bytes(data)
    index = Index.open(folder, image_tower=TOWER)
    assert index.verify() == ["vectors-3.f32 is damaged: its checksum differs."]
    with pytest.raises(ZtcirError, match=r"vectors-3\.f32 .*corrupt"), index.edit() as edit:
        put(edit, "new.jpg", 7)
    assert json.loads((folder / "index.json").read_text())["format_version"] == 1


def test_another_image_tower_is_refused(folder: Path) -> None:
    create(folder)
    with pytest.raises(IndexMismatchError, match="index the collection again"):
        Index.open(folder, image_tower="cd" * 32)
    assert Index.open(folder, image_tower=None).image_tower == TOWER


def test_the_error_of_a_missing_index_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ZtcirError, match="ztcir index FOLDER"):
            Index.open(path, image_tower=TOWER)


def test_no_index_is_created_in_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(ZtcirError, match=r"photo\.jpg"):
        create(tmp_path)
    with pytest.raises(ZtcirError, match="cannot be created"):
        create(tmp_path / "photo.jpg")
    assert [entry.name for entry in tmp_path.iterdir()] == ["photo.jpg"]
    create(tmp_path / "x.ztcir")
    with pytest.raises(ZtcirError, match="already"):
        create(tmp_path / "x.ztcir")
