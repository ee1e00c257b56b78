"""An index in Milvus Lite: the same hits as in a folder, updates, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from places import ROOT
from tiny_bundle import TinyModel, write_tiny_bundle

pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed")

from cli.main import main
from ztcir_sdk import Index, Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.filters import FilterError, parse_filter
from ztcir_sdk.filters.expression import Filter
from ztcir_sdk.index import IndexUnusableError
from ztcir_sdk.milvus import Address, MilvusIndex
from ztcir_sdk.milvus import index as milvus_index
from ztcir_sdk.names import is_milvus_address

# pymilvus reads settings at import, and closes connections late.
pytestmark = pytest.mark.filterwarnings("default")

DIM = 6
COUNT = 120
COLOURS = ("Red", "Blue", "Green", 'odd "quoted" \\ name', "größe")


def units(count: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def metadata_of(i: int) -> dict[str, Any] | None:
    if i % 10 == 9:
        return None
    values: dict[str, Any] = {"colour": COLOURS[i % 5], "price": i % 7 if i % 2 else str(i % 7)}
    if i % 3 == 0:
        values |= {"sale": i % 2 == 0, "seller": {"city": "Graz" if i % 4 else "Linz"}}
    if i % 4 == 0:
        values |= {"note": None, "sizes": ["S", "M"], "a.b": "x", "price": "on request"}
    return values


def fill(index: Index | MilvusIndex, vectors: NDArray[np.float32]) -> None:
    with index.edit() as writer:
        for i, vector in enumerate(vectors):
            writer.put(
                f"{'a' if i % 2 else 'b'}/{i:03}.jpg",
                vector,
                content_hash=hashlib.sha256(str(i // 2).encode()).hexdigest(),  # pairs
                size=i,
                mtime_ns=i,
                metadata=metadata_of(i),
            )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, MilvusIndex]:
    """The same items in a folder and in Milvus."""
    folder = tmp_path_factory.mktemp("milvus")
    vectors = units(COUNT, 0)
    vectors[7] = vectors[3]  # equal scores, ordered by path
    options: dict[str, Any] = {"dim": DIM, "image_tower": "ab", "precision": "fp32"}
    here = Index.create(folder / "all.ztcir", root=folder, **options)
    there = MilvusIndex.create(f"milvus://{folder}/lite.db/photos", root=folder, **options)
    fill(here, vectors)
    fill(there, vectors)
    return here, there


def paths(index: Index | MilvusIndex, found: list[Any]) -> list[list[tuple[str, float]]]:
    return [
        [
            (index.item(int(label)).path, float(score))
            for label, score in zip(labels, scores, strict=True)
        ]
        for labels, scores in found
    ]


WHERE = (
    None,
    "colour = 'Red'",
    "colour = 'odd \"quoted\" \\ name'",
    "colour IN ('größe', 'Blue') AND price < 4",
    "NOT colour IN ('größe', 'Blue')",
    "colour != 'Red' OR path LIKE 'a/%5.jpg'",
    "colour LIKE '%e%' AND NOT colour LIKE 'G%'",
    "price >= 3",
    "NOT price >= 3",
    "price IN (1, 2.0) OR price = 'on request'",
    "price NOT IN (1, 2)",
    "price BETWEEN 2 AND 4",
    "sale = TRUE",
    "sale IS NULL",
    "sale IS NOT NULL AND NOT sale = TRUE",
    "note IS NULL",
    "sizes IS NOT NULL",
    "seller.city = 'Linz'",
    "\"a.b\" = 'x' AND colour > 'C'",
    "path < 'b' AND path IS NOT NULL",
)


@pytest.mark.parametrize("where", WHERE)
def test_hits_are_those_of_an_index_in_a_folder(
    both: tuple[Index, MilvusIndex], where: str | None
) -> None:
    here, there = both
    queries = units(3, 1)
    options: dict[str, Any] = {"where": where and parse_filter(where), "exact": True}
    if where is not None:  # the filter means the same in all three
        parsed: Filter = parse_filter(where)
        expected = sorted(i.path for i in here.items() if parsed.matches(i.path, i.metadata))
        assert sorted(there.item(int(x)).path for x in there.labels_where(parsed)) == expected
        assert sorted(here.item(int(x)).path for x in here.labels_where(parsed)) == expected
        assert expected
        assert len(expected) < COUNT or "path" in where or "NULL" in where
    hits = paths(here, here.search(queries, 8, **options))
    assert paths(there, there.search(queries, 8, **options)) == hits


def test_exclusions_and_items_are_those_of_an_index_in_a_folder(
    both: tuple[Index, MilvusIndex],
) -> None:
    here, there = both
    query = units(1, 2)
    content = next(here.items()).content_hash
    [mine] = [index.by_hash(content) for index in (here,)]
    out_here = [[item.label for item in here.items() if item.path < "a/050.jpg"]]
    out_there = [[item.label for item in there.items() if item.path < "a/050.jpg"]]
    one = here.search(query, 5, exclude_labels=out_here, exclude_hashes=[[content]])
    other = there.search(query, 5, exclude_labels=out_there, exclude_hashes=[[content]])
    assert paths(here, one) == paths(there, other)
    assert mine
    by_path = {item.path: item for item in there.items()}
    assert len(by_path) == len(there) == COUNT
    for item in here.items():
        same = by_path[item.path]
        assert (same.content_hash, same.size, same.mtime_ns) == (
            item.content_hash, item.size, item.mtime_ns,
        )  # fmt: skip
        assert same.metadata == item.metadata
        np.testing.assert_array_equal(there.vectors([same.label]), here.vectors([item.label]))
    found = there.by_path("a/001.jpg")
    assert found is not None
    assert found.metadata == metadata_of(1)
    assert there.by_path("a/999.jpg") is None
    with pytest.raises(KeyError):
        there.item(12345)
    assert there.sample(10).shape == (10, DIM)
    assert there.search(query, 500)[0][0].shape == (COUNT,)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("colur = 'Red'", "did you mean colour?"),
        ("colour < 5", "holds texts, such as"),
        ("sale = 'yes'", "holds numbers"),
        ("sizes = 'M'", "holds lists"),
        ("colour LIKE 'a\\b%'", "backslash"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused(
    both: tuple[Index, MilvusIndex], where: str, sentence: str
) -> None:
    with pytest.raises(FilterError) as caught:
        both[1].search(units(1, 3), 3, where=parse_filter(where))
    assert sentence in str(caught.value)


def test_wrong_searches_are_refused(
    both: tuple[Index, MilvusIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = both
    with pytest.raises(UsageError, match="at least 1"):
        there.search(units(1, 0), 0)
    with pytest.raises(ValueError, match="shape"):
        there.search(np.ones((1, DIM + 1), dtype=np.float32), 1)
    with pytest.raises(ValueError, match="zero or not finite"):
        there.search(np.zeros((1, DIM), dtype=np.float32), 1)
    with pytest.raises(UsageError, match="at most"):
        there.search(units(1, 0), milvus_index.MAX_HITS + 1)
    assert there.search(units(0, 0), 1) == []


def test_changes_are_seen_and_survive(tmp_path: Path) -> None:
    address = f"milvus://{tmp_path}/lite.db/photos"
    index = MilvusIndex.create(address, dim=DIM, image_tower="ab", precision="fp32", root="/old")
    vectors = units(5, 4)
    with index.edit() as writer:
        for i in range(4):
            writer.put(f"{i}.jpg", vectors[i], content_hash=f"h{i}", size=i, mtime_ns=i)
        writer.remove("3.jpg")
        assert [item.path for item in writer.by_hash("h2")] == ["2.jpg"]
        assert len(writer) == 3
    with index.edit() as writer:
        renamed = writer.get("0.jpg")
        assert renamed is not None
        writer.amend(type(renamed)(**{**vars(renamed), "path": "new.jpg", "metadata": {"a": 1}}))
        writer.put("1.jpg", vectors[4], content_hash="h4", size=9, mtime_ns=9)
        writer.remove("2.jpg")
        vector = writer.vector_of("h0")
        assert vector is not None
        np.testing.assert_array_equal(vector, vectors[0])
        with pytest.raises(KeyError):
            writer.remove("2.jpg")
        writer.set_origin(root="/new")
    index.close()
    again = MilvusIndex.open(address, image_tower="ab")
    assert {item.path: item.content_hash for item in again.items()} == {
        "new.jpg": "h0", "1.jpg": "h4",
    }  # fmt: skip
    [(labels, scores)] = again.search(vectors[:1], 1)
    assert again.item(int(labels[0])).path == "new.jpg"
    assert again.item(int(labels[0])).metadata == {"a": 1}
    assert float(scores[0]) == 1.0
    assert str(again.root) == "/new"
    elsewhere = MilvusIndex.open(f"{address}?root=/mnt/here", image_tower=None)
    assert str(elsewhere.root) == "/mnt/here"


# --- the whole way -------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["path,colour,price"]
    for i in range(12):
        Image.new("RGB", (24, 16), (20 * i, 255 - 20 * i, 90 * (i % 3))).save(
            folder / f"{i:02}.png"
        )
        rows.append(f"{i:02}.png,{COLOURS[i % 3]},{i}.50")
    (tmp_path / "items.csv").write_text("\n".join(rows))
    return folder


def test_a_collection_is_indexed_updated_and_searched(photos: Path, tmp_path: Path) -> None:
    retriever = Retriever(write_tiny_bundle(tmp_path / "tiny"), threads=1)
    address, folder = f"milvus://{tmp_path}/lite.db/photos", tmp_path / "photos.ztcir"
    table = tmp_path / "items.csv"
    report = retriever.index(photos, to=address, metadata=table)
    assert (report.added, report.total, report.failed) == (12, 12, [])
    retriever.index(photos, to=folder, metadata=table)

    def same(**options: Any) -> list[str]:
        hits = [
            retriever.search(photos / "00.png", "red", 20, index=to, **options)
            for to in (address, folder)
        ]
        assert hits[0] == hits[1]
        return [Path(hit.path).name for hit in hits[0]]

    assert len(same()) == 11  # without the reference
    assert same(where="colour = 'Red' AND price < 7") == [
        name for name in same() if name in ("03.png", "06.png")
    ]
    assert len(same(unique=True, offset=1, min_score=-0.9)) <= 10

    again = retriever.index(photos, to=address)  # it remembers the table
    assert (again.unchanged, again.added, again.updated) == (12, 0, 0)
    (photos / "11.png").unlink()
    (photos / "10.png").rename(photos / "moved.png")
    (photos / "bad.png").write_bytes(b"no picture")
    for to in (address, folder):
        changed = retriever.index(photos, to=to)
        assert (changed.renamed, changed.removed, len(changed.failed)) == (1, 1, 1)
    assert "moved.png" in same(method="mapped")


def test_a_killed_run_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Retriever(write_tiny_bundle(tmp_path / "tiny"), threads=1)
    address = f"milvus://{tmp_path}/lite.db/photos"
    monkeypatch.setattr("ztcir_sdk.milvus.writer.ROWS_AT_ONCE", 5)
    monkeypatch.setattr("ztcir_sdk.encoder.bulk.BATCH", 5)
    encode, calls = retriever.encoder.run_image_encoder, []

    def interrupted(graph: Any, pixel_values: Any) -> Any:
        calls.append(len(pixel_values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(graph, pixel_values)

    monkeypatch.setattr(retriever.encoder, "run_image_encoder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retriever.index(photos, to=address)
    report = retriever.index(photos, to=address)
    assert report.total == 12
    assert report.added < 12
    assert sum(calls) < 2 * 12


def test_another_image_tower_is_refused(photos: Path, tmp_path: Path) -> None:
    first = Retriever(write_tiny_bundle(tmp_path / "one"), threads=1)
    other = Retriever(write_tiny_bundle(tmp_path / "two", TinyModel(seed=5)), threads=1)
    address = f"milvus://{tmp_path}/lite.db/photos"
    first.index(photos, to=address)
    with pytest.raises(IndexMismatchError, match="another image tower"):
        other.index(photos, to=address)
    with pytest.raises(IndexMismatchError, match="another image tower"):
        other.search(photos / "00.png", "red", index=address)
    assert len(MilvusIndex.open(address, image_tower=None)) == 12


def test_a_foreign_or_missing_collection_is_one_sentence(tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    file = tmp_path / "lite.db"
    client = MilvusClient(str(file))
    client.create_collection("theirs", dimension=4)
    with pytest.raises(IndexUnusableError, match="not made by ztcir"):
        MilvusIndex.open(f"milvus://{file}/theirs", image_tower=None)
    with pytest.raises(IndexUnusableError, match="no collection nothing"):
        MilvusIndex.open(f"milvus://{file}/nothing", image_tower=None)


def test_a_collection_of_another_dimension_is_one_sentence(photos: Path, tmp_path: Path) -> None:
    from pymilvus import DataType, MilvusClient

    retriever = Retriever(write_tiny_bundle(tmp_path / "tiny"), threads=1)
    address = f"milvus://{tmp_path}/lite.db/photos"
    retriever.index(photos, to=address)
    client = MilvusClient(str(tmp_path / "lite.db"))
    properties = client.describe_collection("photos")["properties"]
    client.drop_collection("photos")
    schema = client.create_schema()
    schema.add_field("label", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=retriever.dim + 2)
    client.create_collection("photos", schema=schema, properties=properties)
    client.close()
    sentence = f"have {retriever.dim + 2} numbers, not {retriever.dim} as its state says: delete"
    for use in (
        lambda: MilvusIndex.open(address, image_tower=None),
        lambda: retriever.index(photos, to=address),
        lambda: retriever.search(photos / "00.png", "red", index=address),
    ):
        with pytest.raises(IndexUnusableError, match=sentence):
            use()


def test_doctor_checks_a_collection_of_milvus(photos: Path, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    address = f"milvus://{tmp_path}/lite.db/photos"

    def doctor() -> tuple[int, dict[str, str]]:
        done = CliRunner().invoke(
            main, ["doctor", "--bundle", str(bundle.path), "--index", address, "--json"]
        )
        [found] = [one for one in json.loads(done.stdout)["findings"] if one["name"] == "index"]
        return done.exit_code, found

    code, found = doctor()
    assert (code, found["status"]) == (1, "problem")
    assert "There is no collection photos in Milvus" in found["cure"]
    Retriever(bundle, threads=1).index(photos, to=address)
    code, found = doctor()
    assert (code, found["status"]) == (0, "ok")
    assert found["detail"] == f"{address}, 12 images of {photos}"


def test_a_milvus_that_is_down_is_one_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setattr("ztcir_sdk.milvus.connection.SECONDS", 0.5)
    bundle = write_tiny_bundle(tmp_path / "tiny")
    monkeypatch.setattr(Bundle, "embedded", lambda name="": bundle)
    done = CliRunner().invoke(
        main, ["index", str(photos), "--to", f"milvus://127.0.0.1:{port}/photos"]
    )
    assert done.exit_code == 1
    assert f"http://127.0.0.1:{port}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "check that it runs" in done.stderr


def test_metadata_too_long_for_milvus_is_named(tmp_path: Path) -> None:
    address = f"milvus://{tmp_path}/lite.db/photos"
    index = MilvusIndex.create(address, dim=DIM, image_tower="ab", precision="fp32", root="/x")
    [vector] = units(1, 0)
    with pytest.raises(ZtcirError, match=r"metadata of a\.jpg is too long"), index.edit() as writer:
        writer.put(
            "a.jpg", vector, content_hash="a", size=1, mtime_ns=1, metadata={"t": "x" * 70_000}
        )
    assert len(index) == 0


def test_without_pymilvus_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['pymilvus'] = None\n"
        "from ztcir_sdk.milvus import MilvusIndex\n"
        "try: MilvusIndex.open('milvus://localhost/photos', image_tower=None)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("MissingDependencyError Milvus needs the package pymilvus")
    assert "ztcir[milvus]" in done.stdout


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "uri", "database", "collection"),
    [
        ("milvus://localhost/photos", "http://localhost:19530", "", "photos"),
        ("milvus://10.0.0.1:1234/db/photos", "http://10.0.0.1:1234", "db", "photos"),
        ("milvus://h/photos?secure=true&type=diskann", "https://h:19530", "", "photos"),
        ("milvus://[::1]:5/photos", "http://[::1]:5", "", "photos"),
        ("milvus:///data/x.db/photos", "/data/x.db", "", "photos"),
    ],
)
def test_an_address_is_parsed(text: str, uri: str, database: str, collection: str) -> None:
    found = Address.parse(text)
    assert (found.uri, found.database, found.collection) == (uri, database, collection)
    assert str(found) == text
    assert is_milvus_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "milvus://", "milvus://host", "milvus://host/", "milvus://host/no-dash", "milvus://h:x/c",
        "milvus:///file/photos", "milvus://h/c?typ=FLAT", "milvus://h/c?type=BEST",
        "milvus://h/a/b/c", "milvus://h/c?secure=yes", "http://h/c", "milvus://[/c",
    ],
)  # fmt: skip
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write one such as milvus://"):
        Address.parse(text)


def test_a_password_in_an_address_is_refused() -> None:
    with pytest.raises(UsageError, match="ZTCIR_MILVUS_TOKEN") as caught:
        Address.parse("milvus://me:secret@host/photos")
    assert "secret" not in str(caught.value)
