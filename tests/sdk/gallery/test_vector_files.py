"""Vectors in Parquet files: encoded in shards, exported, imported, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import TinyModel, write_tiny_bundle

pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
import pyarrow as pa
import pyarrow.parquet as pq

from ztcir_sdk import Index, Retriever
from ztcir_sdk.errors import IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.gallery import (
    Shard,
    embed_images,
    export_vectors,
    import_vectors,
    open_any,
    remove_images,
)
from ztcir_sdk.gallery.vector_files import COLUMNS, VectorFile

COUNT = 12


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return Retriever(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"), threads=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp("other") / "tiny"
    return Retriever(write_tiny_bundle(folder, TinyModel(seed=9)), threads=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rows = ["path,colour,price"]
    for i in range(COUNT):
        name = f"more/{i:02}.png" if i % 4 == 3 else f"{i:02}.png"
        Image.new("RGB", (24, 16), (20 * i, 255 - 20 * i, 90 * (i % 3))).save(folder / name)
        rows.append(f"{name},{'Red' if i % 2 else 'Blue'},{i}")
    (tmp_path / "items.csv").write_text("\n".join(rows))
    return folder


def contents(index: Any) -> dict[str, tuple[Any, ...]]:
    """Everything an index knows of each path, its vector's bits too."""
    items = list(index.items())
    vectors = index.vectors([item.label for item in items])
    return {
        item.path: (
            item.content_hash,
            item.size,
            item.mtime_ns,
            json.dumps(item.metadata, sort_keys=True),
            vector.tobytes(),
        )
        for item, vector in zip(items, vectors, strict=True)
    }


@pytest.fixture
def index(retriever: Retriever, photos: Path, tmp_path: Path) -> Index:
    retriever.index(photos, to=tmp_path / "photos.ztcir", metadata=tmp_path / "items.csv")
    return Index.open(tmp_path / "photos.ztcir", image_tower=retriever.image_tower)


# --- there and back ------------------------------------------------------------------------------


def test_an_index_goes_to_a_file_and_back_without_encoding(
    index: Index, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vectors.parquet"
    assert export_vectors(index, file) == COUNT
    table = pq.read_table(file)
    assert tuple(table.column_names) == COLUMNS
    assert len(set(table.column("id").to_pylist())) == COUNT
    assert json.loads(table.column("metadata")[0].as_py())["colour"] == "Blue"

    monkeypatch.setattr(retriever.encoder, "run_image_encoder", pytest.fail)
    report = retriever.index(file, to=tmp_path / "again.ztcir")
    assert (report.added, report.total) == (COUNT, COUNT)
    again = Index.open(tmp_path / "again.ztcir", image_tower=retriever.image_tower)
    assert contents(again) == contents(index)
    assert again.root == index.root
    assert retriever.index(file, to=tmp_path / "again.ztcir").unchanged == COUNT


def test_shards_together_are_the_index(
    index: Index, retriever: Retriever, photos: Path, tmp_path: Path
) -> None:
    to, table = tmp_path / "embeddings", tmp_path / "items.csv"
    reports = [
        embed_images(photos, to, retriever, shard=Shard(n, 3), metadata=table) for n in (1, 2, 3)
    ]
    assert sum(report.encoded for report in reports) == COUNT
    assert all(0 < report.encoded < COUNT for report in reports)
    assert all(report.encoded + report.others == COUNT for report in reports)
    report = retriever.index(to, to=tmp_path / "joined.ztcir")
    assert report.added == COUNT
    joined = open_any(tmp_path / "joined.ztcir", image_tower=retriever.image_tower)
    found, expected = contents(joined), contents(index)
    assert found.keys() == expected.keys()
    for path, values in found.items():
        assert values[:4] == expected[path][:4]
        np.testing.assert_allclose(
            np.frombuffer(values[4], np.float32),
            np.frombuffer(expected[path][4], np.float32),
            atol=1e-6,  # encoded in other batches
        )
    # A later run over the photos themselves has nothing to do.
    assert retriever.index(photos, to=tmp_path / "joined.ztcir", metadata=table).added == 0


def test_an_interrupted_shard_goes_on(retriever: Retriever, photos: Path, tmp_path: Path) -> None:
    to = tmp_path / "embeddings"

    def interrupt(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_images(photos, to, retriever, part_rows=4, progress=interrupt)
    assert sorted(path.name for path in to.iterdir()) == [
        "00001-of-00001-00000.parquet",
        "00001-of-00001-00001.parquet",
    ]
    (photos / "00.png").write_bytes(b"no picture any more")
    (photos / "new.png").write_bytes((photos / "01.png").read_bytes())
    report = embed_images(photos, to, retriever, part_rows=4)
    assert (report.kept, report.encoded, len(report.failed)) == (7, 5, 1)
    again = embed_images(photos, to, retriever, part_rows=4)
    assert (again.kept, again.encoded, again.files) == (12, 0, [])


def test_of_two_rows_about_one_path_the_last_counts(
    retriever: Retriever, photos: Path, tmp_path: Path
) -> None:
    to = tmp_path / "embeddings"
    embed_images(photos, to, retriever)
    Image.new("RGB", (24, 16), "teal").save(photos / "00.png")
    embed_images(photos, to, retriever)
    report = retriever.index(to, to=tmp_path / "x.ztcir")
    assert (report.added, report.updated, report.total) == (COUNT, 1, COUNT)
    built = retriever.index(photos, to=tmp_path / "x.ztcir")
    assert (built.unchanged, built.updated) == (COUNT, 0)


def test_vectors_of_another_machine_take_its_folder_here(
    index: Index, retriever: Retriever, tmp_path: Path
) -> None:
    file = tmp_path / "vectors.parquet"
    export_vectors(index, file)
    (tmp_path / "here").mkdir()
    retriever.index(file, to=tmp_path / "x.ztcir", root=tmp_path / "here")
    assert Index.open(tmp_path / "x.ztcir", image_tower=None).root == tmp_path / "here"
    with pytest.raises(UsageError, match="belongs to the collection"):
        retriever.index(file, to=tmp_path / "x.ztcir")


# --- what cannot be used -------------------------------------------------------------------------


def test_vectors_of_another_image_tower_are_refused(
    index: Index, other: Retriever, photos: Path, tmp_path: Path
) -> None:
    file, to = tmp_path / "vectors.parquet", tmp_path / "embeddings"
    export_vectors(index, file)
    with pytest.raises(IndexMismatchError, match="another image tower"):
        other.index(file, to=tmp_path / "x.ztcir")
    assert not (tmp_path / "x.ztcir").exists()
    embed_images(photos, to, other)
    with pytest.raises(IndexMismatchError, match="index them apart"):
        import_vectors([file, *to.iterdir()], tmp_path / "x.ztcir")
    with pytest.raises(ZtcirError, match="another image tower"):
        embed_images(photos, to, index_encoder(index))


def index_encoder(index: Index) -> Any:
    class Encoder:
        dim, image_tower, precision = index.dim, index.image_tower, "fp32"
        encode_images = staticmethod(pytest.fail)

    return Encoder()


def damaged(file: Path, kind: str) -> None:
    """Damage a file of vectors in a way."""
    data = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(data[: len(data) // 2])
        return
    if kind == "empty":
        file.write_bytes(b"")
        return
    if kind == "flipped":
        middle = len(data) // 3
        file.write_bytes(data[:middle] + bytes(255 - b for b in data[middle : middle + 40])
                         + data[middle + 40 :])  # fmt: skip
        return
    table = pq.read_table(file)
    meta = dict(table.schema.metadata)
    if kind == "no record":
        table = table.replace_schema_metadata(None)
    elif kind == "later version":
        values = {**json.loads(meta[b"ztcir"]), "format_version": 99}
        table = table.replace_schema_metadata({b"ztcir": json.dumps(values).encode()})
    elif kind == "broken record":
        table = table.replace_schema_metadata({b"ztcir": b'{"dim": -4}'})
    elif kind == "other width":
        values = {**json.loads(meta[b"ztcir"]), "dim": 7}
        table = table.replace_schema_metadata({b"ztcir": json.dumps(values).encode()})
    elif kind == "no vectors":
        table = table.drop_columns(["vector"])
    else:
        place = table.column_names.index("vector" if kind == "zero vector" else "metadata")
        column = {
            "zero vector": pa.array([[0.0] * 4] * len(table), pa.list_(pa.float32(), 4)),
            "metadata is a list": pa.array(["[1]"] * len(table)),
            "metadata is no JSON": pa.array(["{"] * len(table)),
        }[kind]
        table = table.set_column(place, table.schema.field(place).with_type(column.type), column)
    pq.write_table(table, file)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated", "empty", "flipped", "no record", "later version", "broken record",
        "other width", "no vectors", "zero vector", "metadata is a list", "metadata is no JSON",
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_is_one_sentence_and_leaves_no_index(
    index: Index, retriever: Retriever, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "vectors.parquet"
    export_vectors(index, file)
    damaged(file, kind)
    with pytest.raises(ZtcirError, match=r"vectors\.parquet") as caught:
        retriever.index(file, to=tmp_path / "x.ztcir")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.ztcir").exists()


def test_calls_that_are_wrong_are_one_sentence(
    index: Index, retriever: Retriever, photos: Path, tmp_path: Path
) -> None:
    to = tmp_path / "embeddings"
    embed_images(photos, to, retriever, shard=Shard(1, 2))
    with pytest.raises(ZtcirError, match="files of 2 shards, not 3"):
        embed_images(photos, to, retriever, shard=Shard(1, 3))
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(ZtcirError, match="use another folder"):
        embed_images(tmp_path / "elsewhere", to, retriever, shard=Shard(1, 2))
    with pytest.raises(ZtcirError, match="in two calls"):
        retriever.index([photos, to], to=tmp_path / "x.ztcir")
    with pytest.raises(ZtcirError, match="does not exist"):
        retriever.index(tmp_path / "no.parquet", to=tmp_path / "x.ztcir")
    with pytest.raises(ZtcirError, match="choose another place"):
        export_vectors(index, tmp_path / "no" / "v.parquet")
    for text in ("3", "3/2", "0/4", "a/b", "1/0", "-1/4", "1/100000"):
        with pytest.raises(UsageError, match=r"3/16"):
            Shard.parse(text)
    assert Shard.parse("3/16") == Shard(3, 16)
    assert VectorFile(next(to.iterdir())).info.root == str(photos)


def test_every_image_belongs_to_one_shard() -> None:
    for count in (1, 2, 7, 16):
        shards = [Shard(n, count) for n in range(1, count + 1)]
        owners = [sum(shard.has(f"{i}.jpg") for shard in shards) for i in range(200)]
        assert owners == [1] * 200
    sizes = [sum(Shard(n, 16).has(f"{i}.jpg") for i in range(4000)) for n in range(1, 17)]
    assert 190 < min(sizes) <= max(sizes) < 310


# --- removing ------------------------------------------------------------------------------------


def test_images_are_removed_by_path_folder_and_filter(
    index: Index, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paths() -> set[str]:
        return {item.path for item in index.items()}

    before = paths()
    assert remove_images(index, ["00.png"]) == 1
    assert remove_images(index, [photos / "01.png"]) == 1
    assert remove_images(index, ["more"]) == 3
    monkeypatch.chdir(photos)
    assert remove_images(index, ["./02.png"]) == 1
    assert paths() == {p for p in before if p[:2] not in ("00", "01", "02", "mo")}
    assert remove_images(index, where="colour = 'Red' AND price > 8") == 1
    assert "09.png" not in paths()
    assert remove_images(index, ["."], where="price = 4") == 1
    assert (photos / "04.png").exists()
    assert Index.open(index.path, image_tower=None).verify() == []


def test_removing_too_much_or_nothing_is_refused(index: Index) -> None:
    with pytest.raises(ZtcirError, match="--prune"):
        remove_images(index, where="price >= 0")
    with pytest.raises(ZtcirError, match=r"gone\.png is not in the index"):
        remove_images(index, ["00.png", "gone.png"])
    with pytest.raises(UsageError, match="Name what to remove"):
        remove_images(index)
    with pytest.raises(UsageError, match="There is no field prise"):
        remove_images(index, where="prise < 5 OR weight = 2")
    assert len(index) == COUNT
    assert remove_images(index, where="price < 0") == 0
    assert remove_images(index, where="price >= 0", prune=True) == COUNT
