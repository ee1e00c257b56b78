"""Filters, pages, near-duplicates and thresholds of a search, against their definitions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Hit, Index, Retriever
from ztcir_sdk.answers import SearchSettings, find_hits
from ztcir_sdk.answers.hits import MAX_DUPLICATES
from ztcir_sdk.answers.threshold import least_scores
from ztcir_sdk.errors import UsageError
from ztcir_sdk.filters import FilterError
from ztcir_sdk.names import NEAR_DUPLICATE, STORAGES

DIM = 6
COUNT = 200
COLOURS = ("Red", "Blue", "Green")
FILTERS = (
    "colour = 'Red'",
    "price < 3",
    "price < 3 OR colour IN ('Blue', 'Green')",
    "NOT colour = 'Red' AND path LIKE '%7.jpg'",
    "price > 1000",
    "price IS NULL",
)


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def metadata_of(i: int) -> dict[str, Any] | None:
    if i % 10 == 9:
        return None
    return {"colour": COLOURS[i % 3], "price": i % 7 if i % 2 else str(i % 7)}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Images in groups: of five neighbours, the last two are near the first."""
    folder = tmp_path_factory.mktemp("answers")
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((COUNT, DIM))
    for i in range(0, COUNT, 5):
        vectors[i + 3] = vectors[i]  # a copy
        vectors[i + 4] = vectors[i] + 0.02 * rng.standard_normal(DIM)
    rows = unit(vectors)
    index = Index.create(
        folder / "all.ztcir", dim=DIM, image_tower="ab", precision="fp32", root=folder
    )
    with index.edit() as writer:
        for i in range(COUNT):
            writer.put(
                f"{i:03}.jpg",
                rows[i],
                content_hash=hashlib.sha256(str(i).encode()).hexdigest(),
                size=1,
                mtime_ns=1,
                metadata=metadata_of(i),
            )
    return index


def search(index: Index, query: NDArray[np.float32], k: int, **options: Any) -> list[Hit]:
    [hits] = find_hits(
        index.view,
        query[None],
        k,
        SearchSettings(**options),
        exclude_labels=[()],
        exclude_hashes=[()],
    )
    return hits


def by_hand(index: Index, query: NDArray[np.float32], **options: Any) -> list[tuple[str, float]]:
    """All hits, by the definition of each option."""
    asked = SearchSettings(**options)
    kept: list[tuple[str, float, NDArray[np.float32]]] = []
    ranked = sorted(
        zip(index.items(), index.vectors(), strict=True),
        key=lambda one: (-round(float(one[1] @ unit(query)), 6), one[0].path),
    )
    for item, vector in ranked:
        score = float(vector.astype(np.float64) @ unit(query))
        if asked.filter is not None and not asked.filter.matches(item.path, item.metadata):
            continue
        if asked.min_score is not None and score < asked.min_score:
            continue
        if any(float(vector @ other) >= asked.same_from for _, _, other in kept):
            continue
        kept.append((item.path, score, vector))
    return [(path, score) for path, score, _ in kept]


queries = st.integers(0, 1 << 30).map(
    lambda seed: unit(np.random.default_rng(seed).standard_normal(DIM))
)


@settings(max_examples=20)
@given(
    queries,
    st.integers(1, 30),
    st.integers(0, 40),
    st.sampled_from((None, *FILTERS)),
    st.sampled_from((None, -0.5, 0.2, 0.9)),
    st.sampled_from((False, True, 0.9)),
)
def test_hits_are_those_of_the_definition(
    index: Index,
    query: NDArray[np.float32],
    k: int,
    offset: int,
    where: str | None,
    min_score: float | None,
    unique: bool | float,
) -> None:
    options = {"where": where, "min_score": min_score, "unique": unique}
    hits = search(index, query, k, offset=offset, **options)
    expected = by_hand(index, query, **options)[offset : offset + k]
    assert [Path(hit.path).name for hit in hits] == [path for path, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [s for _, s in expected], atol=1e-6)
    assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 1 + len(hits)))


def test_pages_together_are_the_whole(index: Index) -> None:
    query = unit(np.arange(1, DIM + 1))
    whole = search(index, query, 50, unique=True)
    pages = [search(index, query, 7, offset=start, unique=True) for start in range(0, 50, 7)]
    paths = [hit.path for page in pages for hit in page][:50]
    assert paths == [hit.path for hit in whole]


def test_near_duplicates_stand_behind_the_first(index: Index) -> None:
    [vector] = index.vectors([next(i.label for i in index.items() if i.path == "010.jpg")])
    hits = search(index, vector, 3, unique=True)
    names = [Path(path).name for path in (hits[0].path, *hits[0].duplicates)]
    assert sorted(names) == ["010.jpg", "013.jpg", "014.jpg"]
    assert hits[0].to_dict()["duplicates"] == list(hits[0].duplicates)
    assert "duplicates" not in search(index, vector, 1)[0].to_dict()
    of_numpy: list[Any] = [np.bool_(True), np.float32(0.5)]
    assert [SearchSettings(unique=one).same_from for one in (True, *of_numpy)] == [
        *(NEAR_DUPLICATE, NEAR_DUPLICATE, 0.5)
    ]
    assert len(search(index, vector, COUNT, unique=True)) <= 3 * COUNT / 5
    assert search(index, vector, 1, unique=True) == hits[:1]


def copies_by_hand(index: Index, query: NDArray[np.float32], **options: Any) -> dict[str, set[str]]:
    """Each hit without a bound -> the images that count as the same, and as no earlier hit."""
    asked = SearchSettings(**options)
    rows = dict(zip((item.path for item in index.items()), index.vectors(), strict=True))
    hits = [path for path, _ in by_hand(index, query, **options)]
    found: dict[str, set[str]] = {path: set() for path in hits}
    for item in index.items():
        if asked.filter is None or asked.filter.matches(item.path, item.metadata):
            same = [hit for hit in hits if rows[item.path] @ rows[hit] >= asked.same_from - 1e-6]
            if item.path not in hits and same:
                found[same[0]].add(item.path)
    return found


@settings(max_examples=20)
@given(
    queries,
    st.integers(1, 12),
    st.integers(0, 12),
    st.sampled_from((None, *FILTERS)),
    st.sampled_from((True, 0.8)),
)
def test_a_hit_has_all_its_duplicates_on_any_page(
    index: Index,
    query: NDArray[np.float32],
    k: int,
    offset: int,
    where: str | None,
    unique: bool | float,
) -> None:
    expected = copies_by_hand(index, query, where=where, unique=unique)
    for hit in search(index, query, k, offset=offset, where=where, unique=unique):
        names = [Path(path).name for path in hit.duplicates]
        assert set(names) == expected[Path(hit.path).name]
        assert len(set(names)) == len(names)


def test_duplicates_are_complete_up_to_a_bound_and_nearest_first(tmp_path: Path) -> None:
    index = Index.create(
        tmp_path / "x.ztcir", dim=DIM, image_tower="ab", precision="", root=tmp_path
    )
    one, other = unit(np.ones(DIM)), unit(np.arange(DIM) + 1.0)
    with index.edit() as writer:
        for i in range(MAX_DUPLICATES + 20):
            near = one if i != 7 else unit(one + 0.01 * np.eye(DIM)[0])
            writer.put(f"{i:04}.jpg", near, content_hash=str(i), size=1, mtime_ns=1)
        writer.put("other.jpg", other, content_hash="other", size=1, mtime_ns=1)
    for k in (1, 2):
        hit = search(index, one, k, unique=True)[0]
        assert Path(hit.path).name == "0000.jpg"
        assert len(hit.duplicates) == MAX_DUPLICATES
        assert Path(hit.duplicates[0]).name == "0001.jpg"
    [[hit]] = find_hits(
        index.view,
        one[None],
        1,
        SearchSettings(unique=True, where="path LIKE '000%'"),
        exclude_labels=[[2]],
        exclude_hashes=[["3"]],
    )
    names = [Path(path).name for path in hit.duplicates]
    assert names == ["0001.jpg", *(f"000{i}.jpg" for i in (4, 5, 6, 8, 9)), "0007.jpg"]


@pytest.mark.parametrize("storage", STORAGES)
def test_duplicates_are_found_in_vectors_that_are_stored_rounded(
    tmp_path: Path, storage: str
) -> None:
    index = Index.create(
        tmp_path / "x.ztcir", dim=64, image_tower="ab", precision="", root=tmp_path, storage=storage
    )
    rng = np.random.default_rng(3)
    things = rng.standard_normal((20, 64))
    with index.edit() as writer:
        for i, thing in enumerate(np.repeat(things, 9, axis=0)):
            near = unit(thing + 0.01 * rng.standard_normal(64))
            writer.put(f"{i // 9:02}-{i % 9}.jpg", near, content_hash=str(i), size=1, mtime_ns=1)
    for k in (1, 5, 20):
        for hit in search(index, unit(things[0]), k, unique=True):
            paths = [Path(path).name for path in (hit.path, *hit.duplicates)]
            assert len(paths) == 9
            assert len({path[:2] for path in paths}) == 1


def test_hits_know_their_content_and_are_looked_up_at_once(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = unit(index.vectors()[7])
    asked: list[str] = []
    fetch = index.view._items.sql

    def sql(query: str, values: Any) -> list[Any]:
        asked.append(query)
        return fetch(query, values)

    monkeypatch.setattr(index.view._items, "sql", sql)
    hits = search(index, query, 20)
    assert len(hits) == 20
    assert len(asked) == 2  # one orders copies, whose scores are equal
    for hit in hits:
        item = index.by_path(Path(hit.path).name)
        assert item is not None
        assert hit.content_hash == item.content_hash
        assert hit.to_dict()["content_hash"] == item.content_hash


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"offset": -1}, "offset must be a whole number of at least 0, not -1"),
        ({"offset": 1.5}, "offset must be a whole number"),
        ({"min_score": float("nan")}, "min_score must be a cosine"),
        ({"min_score": 7}, "min_score must be a cosine"),
        ({"unique": 0}, "unique must be"),
        ({"unique": 1.2}, "unique must be"),
        ({"min_score": "0.3"}, "min_score must be a cosine from -1 to 1, not '0.3'"),
        ({"min_score": True}, "min_score must be a cosine"),
        ({"unique": "yes"}, "unique must be True, False, or a cosine above 0 and up to 1, not 'ye"),
        ({"unique": None}, "unique must be"),
        ({"weight": "x"}, "weight must be a number from 0 to 1, not 'x'"),
        ({"method": ["composed"]}, "no method ['composed']: choose from"),
        ({"where": ["x"]}, "A filter is a text such as"),
        ({"threshold": "none"}, "min_score for a score of your own"),
        ({"where": "price <"}, "cannot be read"),
        ({"where": "prise < 5"}, "did you mean price?"),
        ({"where": "colour < 5"}, "holds texts"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    index: Index, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        search(index, unit(np.ones(DIM)), 3, **options)
    assert sentence in str(caught.value)


# --- what is no answer ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """500 images of nothing in particular, and ten of one thing."""
    folder = tmp_path_factory.mktemp("threshold")
    rng = np.random.default_rng(1)
    thing = rng.standard_normal(64)
    noise = rng.standard_normal((500, 64))
    vectors = unit(np.vstack([noise, thing + 0.4 * rng.standard_normal((10, 64))]))
    index = Index.create(folder / "x.ztcir", dim=64, image_tower="ab", precision="", root=folder)
    with index.edit() as writer:
        for i, vector in enumerate(vectors):
            writer.put(f"{i:03}.jpg", vector, content_hash=str(i), size=1, mtime_ns=1)
    return index


def test_the_automatic_threshold_keeps_answers_and_nothing_else(clusters: Index) -> None:
    thing = unit(clusters.vectors()[500:].mean(axis=0))
    hits = search(clusters, thing, 50, threshold="auto")
    found_names = {Path(hit.path).stem for hit in hits}
    assert found_names >= {f"{i:03}" for i in range(500, 510)}
    assert len(found_names) <= 10 + 0.01 * 500  # what a normal distribution has up there
    strange = unit(np.random.default_rng(9).standard_normal((40, 64)))
    found = [search(clusters, query, 50, threshold="auto") for query in strange]
    assert sum(map(len, found)) <= 0.01 * 40 * 500
    assert min(map(len, found)) == 0


def test_the_threshold_follows_the_scale_of_scores(clusters: Index) -> None:
    """Scores of texts with images are small and scores of images with images large: both work."""
    rows = clusters.vectors()
    low, high = least_scores(clusters.view, np.stack([rows[0], unit(rows[:500].sum(axis=0))]))
    assert high > low
    assert 0 < low < 1


def test_a_tiny_index_has_no_automatic_threshold(tmp_path: Path) -> None:
    index = Index.create(
        tmp_path / "x.ztcir", dim=DIM, image_tower="ab", precision="", root=tmp_path
    )
    with index.edit() as writer:
        writer.put("a.jpg", unit(np.ones(DIM)), content_hash="a", size=1, mtime_ns=1)
    with pytest.raises(UsageError, match="--min-score"):
        search(index, unit(np.ones(DIM)), 1, threshold="auto")


# --- the user's objects --------------------------------------------------------------------------


def test_the_retriever_and_a_reference_take_every_option(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["path,colour,price"]
    for i in range(40):
        grey = Image.new("RGB", (24, 16), (6 * i, 255 - 5 * i, 90 * (i % 3)))
        grey.save(photos / f"{i:02}.png")
        rows.append(f"{i:02}.png,{COLOURS[i % 3]},{i}.50")
    Image.open(photos / "05.png").save(photos / "copy.png")
    table = tmp_path / "items.csv"
    table.write_text("\n".join(rows))
    retriever = Retriever(write_tiny_bundle(tmp_path / "tiny"), threads=1)
    retriever.index(photos, to=tmp_path / "photos.ztcir", metadata=table)

    where = "colour = 'Red' AND price < 20"  # a CSV file holds texts
    hits = retriever.search(photos / "00.png", method="image", k=50, where=where)
    assert {Path(hit.path).stem for hit in hits} == {f"{i:02}" for i in range(3, 20, 3)}
    reference = retriever.reference(photos / "00.png")
    assert reference.search("red", 50, method="image", where=where) == hits
    assert reference.search_many(["red"], 2, method="image", where=where, offset=1) == [hits[1:3]]
    [many] = retriever.search_many([(photos / "00.png", "")], 50, method="image", where=where)
    assert many == hits
    least = hits[2].score
    assert reference.search("", 50, method="image", where=where, min_score=least) == hits[:3]
    once = reference.search("", 50, method="image", unique=1.0)
    assert sum(Path(hit.path).stem in ("05", "copy") for hit in once) == 1
    auto = reference.search("", 50, method="image", threshold="auto")
    assert len(auto) < 40
    with pytest.raises(FilterError):
        reference.search("", 5, method="image", where="colour = 'Red'; DELETE FROM items")
