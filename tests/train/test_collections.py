"""Collections: all kinds of sources are read in order, and broken samples are reported."""

from __future__ import annotations

import csv
import io
import itertools
import json
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from train.data import (
    DataError,
    ReadReport,
    ShardStream,
    TrainingImage,
    caption_notes,
    read_collection,
    read_sources,
)
from train.data.image import check_picture
from ztcir_sdk.errors import ImageError, UsageError


def picture(shade: int, kind: str = "JPEG", side: int = 24) -> bytes:
    """Return an encoded image in one shade of grey."""
    encoded = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 3, (side, side, 3), np.uint8)
    Image.fromarray(np.full((side, side, 3), shade, np.uint8) + noise).save(encoded, kind)
    return encoded.getvalue()


def write_shard(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def cc3m_sample(number: int, caption: str | None = None) -> list[tuple[str, bytes]]:
    """Return a sample as img2dataset writes it: jpg, txt, json with url, caption, key, status."""
    key = f"{number:09d}"
    said = f"caption {number}" if caption is None else caption
    meta = {"url": "http://x/y.jpg", "caption": said, "key": key, "status": "success"}
    return [
        (f"{key}.jpg", picture(number % 200)),
        (f"{key}.txt", said.encode()),
        (f"{key}.json", json.dumps(meta, indent=4).encode()),
    ]


def cc3m_shards(folder: Path, shards: int = 3, samples: int = 4) -> list[Path]:
    return [
        write_shard(
            folder / f"{shard:05d}.tar",
            [f for n in range(samples) for f in cc3m_sample(shard * 10_000 + n)],
        )
        for shard in range(shards)
    ]


def shade(image: TrainingImage) -> int:
    return round(float(np.asarray(image.load()).mean()))


def ids(images: Sequence[TrainingImage]) -> list[str]:
    return [image.item.id for image in images]


def test_cc3m_shards_are_read_in_order_by_a_brace_pattern(tmp_path: Path) -> None:
    cc3m_shards(tmp_path)
    images, report = read_sources([str(tmp_path / "{00000..00002}.tar")])
    assert ids(images) == [f"{s * 10_000 + n:09d}" for s in range(3) for n in range(4)]
    assert images[5].item.caption == "caption 10001"
    assert [abs(shade(i) - int(i.item.id) % 200) <= 3 for i in images] == [True] * 12
    assert report.read == 12
    assert not report.sentences()
    assert len(read_sources([str(tmp_path / "*.tar")])[0]) == 12
    with pytest.raises(DataError, match=r"00003\.tar does not exist"):
        read_sources([str(tmp_path / "{00000..00003}.tar")])


def test_images_stay_on_disk_and_can_be_pickled(tmp_path: Path) -> None:
    cc3m_shards(tmp_path, shards=1)
    images, _ = read_sources([str(tmp_path / "00000.tar")])
    sent = pickle.dumps(images[0])
    assert len(sent) < 1000  # its place, not its pixels
    assert shade(pickle.loads(sent)) == shade(images[0])


def test_a_compressed_shard_is_read(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar.gz", [*cc3m_sample(1), *cc3m_sample(2)])
    images, report = read_sources([str(path)])
    assert ids(images) == ["000000001", "000000002"]
    assert abs(shade(images[1]) - 2) <= 3
    assert not report.sentences()


BROKEN: Mapping[str, tuple[list[tuple[str, bytes]], str]] = {
    "cut picture": ([("000000007.jpg", picture(7)[:-200]), ("000000007.txt", b"x")], "cut short"),
    "no picture": ([("000000007.txt", b"x")], "no image"),
    "empty picture": ([("000000007.jpg", b""), ("000000007.txt", b"x")], "not an image"),
    "a page": ([("000000007.jpg", b"<html>gone</html>"), ("000000007.txt", b"x")], "not an image"),
    "broken json": ([("000000007.jpg", picture(7)), ("000000007.json", b"{")], "Expecting"),
    "list json": ([("000000007.jpg", picture(7)), ("000000007.json", b"[]")], "not an object"),
    "text in no utf-8": ([("000000007.jpg", picture(7)), ("000000007.txt", b"\xff")], "utf-8"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_sample_is_skipped_and_reported(tmp_path: Path, what: str) -> None:
    broken, why = BROKEN[what]
    path = write_shard(tmp_path / "a.tar", [*cc3m_sample(1), *broken, *cc3m_sample(2)])
    images, report = read_sources([str(path)])
    assert ids(images) == ["000000001", "000000002"]
    (sentence,) = report.sentences()
    assert sentence.startswith("Skipped 1 broken samples: 000000007")
    assert why in sentence
    streamed = ShardStream([str(path)], buffer=0)
    assert ids(list(streamed)) == ["000000001", "000000002"]
    assert [name for name, _ in streamed.report.skipped] == ["000000007"]


def test_the_complete_samples_of_a_cut_shard_are_kept_and_the_cut_is_reported(
    tmp_path: Path,
) -> None:
    files = [f for n in range(6) for f in cc3m_sample(n)]
    whole = write_shard(tmp_path / "whole.tar", files)
    with tarfile.open(whole) as tar:
        ends = [m.offset_data + -(-m.size // 512) * 512 for m in tar]
    complete = ends[2::3]  # a sample has three files
    for cut in [*range(600, ends[-1], 997), *ends[:-1]]:
        path = tmp_path / "cut.tar"
        path.write_bytes(whole.read_bytes()[:cut])
        if not any(end <= cut for end in complete):
            continue
        images, report = read_sources([str(path)])
        least = sum(end <= cut for end in complete)
        assert len(images) in (least, least + 1)  # padding behind the last file may be missing
        assert ids(images) == [f"{n:09d}" for n in range(len(images))]
        assert all(image.item.caption for image in images)
        assert any("cut.tar is damaged or cut short" in note for note in report.notes)
        assert f"first {len(images)} samples" in report.notes[0] or report.skipped


def test_the_shards_after_a_cut_shard_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = cc3m_shards(tmp_path, shards=2)
    whole = first.read_bytes()
    for cut in (4000, 4500, 3584):  # in a header, in a picture, between two files
        first.write_bytes(whole[:cut])
        images, _ = read_sources([str(first), str(second)])
        assert ids(images) == ["000000000", *(f"{10_000 + n:09d}" for n in range(4))]
        streamed = list(ShardStream([str(first), str(second)], buffer=0))
        assert sorted(ids(streamed)) == ids(images)
        assert f"The shard {first} is damaged or cut short" in capsys.readouterr().err


def test_a_key_that_two_shards_have_gets_the_name_of_the_shard(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.tar", cc3m_sample(1))
    images, _ = read_sources([str(tmp_path / "{a,b}.tar")])
    assert ids(images) == ["000000001", "b/000000001"]


def test_a_catalogue_shard_requires_all_attributes(tmp_path: Path) -> None:
    whole = {"id": 5, "gender": "Men", "articleType": "Ring", "baseColour": "Red", "caption": "r"}
    lacking = {k: v for k, v in whole.items() if k != "gender"}
    files = [
        ("1.jpg", picture(9)), ("1.json", json.dumps(whole).encode()),
        ("2.jpg", picture(9)), ("2.json", json.dumps(lacking).encode()),
        ("3.jpg", picture(9)),
    ]  # fmt: skip
    images, report = read_sources([str(write_shard(tmp_path / "c.tar", files))])
    assert ids(images) == ["5"]
    assert images[0].item.colour == "Red"
    assert [name for name, _ in report.skipped] == ["2", "3"]


def test_a_folder_with_captions_in_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jpg").write_bytes(picture(20))
    (tmp_path / "b.txt").write_text("a  grey\nsquare", encoding="utf-8")
    (tmp_path / "sub" / "a.png").write_bytes(picture(30, "PNG"))
    (tmp_path / "sub" / "a.json").write_text('{"caption": "another"}', encoding="utf-8")
    (tmp_path / "c.jpg").write_bytes(picture(40)[:300])
    (tmp_path / "d.webp").write_bytes(picture(50, "WEBP"))
    images, report = read_sources([str(tmp_path)])
    assert {i.item.id: i.item.caption for i in images} == {
        "b.jpg": "a grey square",
        "d.webp": "",
        "sub/a.png": "another",
    }
    assert [name for name, _ in report.skipped] == ["c.jpg"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_of_paths_and_captions(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(picture(number * 10))
    (folder / "3.jpg").write_bytes(b"no picture")
    rows = [
        {"where": f"pictures/{n}.jpg", "said": f"grey, {n}", "shade": f"g{n}"} for n in range(4)
    ] + [{"where": "pictures/gone.jpg", "said": "gone", "shade": "NA"}]
    path = tmp_path / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    else:
        with path.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, rows[0], delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    with pytest.raises(
        UsageError, match=r"for the path; .* path=COLUMN\. The columns are where, said"
    ):
        read_sources([str(path)])
    columns = {"path": "where", "caption": "said", "colour": "shade"}
    images, report = read_sources([str(path)], columns=columns)
    assert [(i.item.id, i.item.caption, i.item.colour) for i in images] == [
        (f"pictures/{n}.jpg", f"grey, {n}", f"g{n}") for n in range(3)
    ]
    assert abs(shade(images[2]) - 20) <= 3
    assert [name for name, _ in report.skipped] == ["pictures/3.jpg", "pictures/gone.jpg"]
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    assert len(read_sources([str(moved)], columns={**columns, "root": str(tmp_path)})[0]) == 3
    with pytest.raises(UsageError, match="has no column 'colour'"):
        read_sources([str(moved)], columns={**columns, "caption": "colour"})
    with pytest.raises(UsageError, match="'size' is not a field of an image"):
        read_sources([str(moved)], columns={"size": "said"})


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_file_with_embedded_images(tmp_path: Path, nested: bool) -> None:
    cells = [picture(10), picture(20)[:200], None, picture(40)]
    column = [{"bytes": c, "path": "x"} for c in cells] if nested else cells
    path = tmp_path / "p.parquet"
    table = pa.table({"image": column, "text": ["a", "b", "c", "d"]})
    pq.write_table(table, path, row_group_size=3)
    images, report = read_sources([str(path)])
    assert [(i.item.id, i.item.caption) for i in images] == [("p/1", "a"), ("p/4", "d")]
    assert [abs(shade(i) - s) <= 3 for i, s in zip(images, (10, 40), strict=True)] == [True] * 2
    assert [name for name, _ in report.skipped] == ["p/2", "p/3"]


def test_an_image_with_several_captions_is_listed_once(tmp_path: Path) -> None:
    """COCO has one row per caption. Another image with the same id is kept."""
    for name, grey in (("a", 10), ("b", 20), ("c", 30)):
        (tmp_path / f"{name}.jpg").write_bytes(picture(grey))
    rows = [
        ("1", "a.jpg", "a cat"),
        ("1", "a.jpg", "a pet"),
        ("2", "b.jpg", "x"),
        ("2", "c.jpg", "y"),
    ]
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{','.join(row)}\n" for row in [("id", "path", "caption"), *rows]))
    images, report = read_sources([str(path)])
    assert [(one.item.id, one.item.caption) for one in images] == [
        ("1", "a cat"),
        ("2", "x"),
        ("2", "y"),
    ]
    assert report.read == 3
    assert report.sentences()[0].startswith("1 of 4 rows repeat an image of an earlier row")


def test_cells_with_numbers_lists_and_bytes_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    columns = {
        "image": [picture(10), picture(20), picture(30)],
        "id": [7.0, None, 8.0],
        "said": [["A man.", "Two men."], [], None],
        "raw": [b"a man", "caf\u00e9".encode(), None],
        "about": [{"x": 1}, None, {"x": 2}],
    }
    pq.write_table(pa.table(columns), path)

    def captions(column: str) -> list[tuple[str, str]]:
        images, _ = read_sources([str(path)], columns={"caption": column})
        return [(one.item.id, one.item.caption) for one in images]

    assert captions("said") == [("7", "A man."), ("p/2", ""), ("8", "")]
    assert captions("raw") == [("7", "a man"), ("p/2", "caf\u00e9"), ("8", "")]
    with pytest.raises(UsageError, match="'about' has no text for the caption"):
        captions("about")


@pytest.mark.parametrize("pairs", [False, True])
def test_a_cell_without_bytes_is_read_from_its_path(tmp_path: Path, pairs: bool) -> None:
    (tmp_path / "x.jpg").write_bytes(picture(10))
    cells = [
        {"bytes": None, "path": "x.jpg"},
        {"bytes": picture(20), "path": "gone.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": "a\0.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    image = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    rows = {"reference": image, "target": image} if pairs else {"image": image}
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table(rows), path, row_group_size=4)
    images, report = read_sources([str(path)])
    places = ("/reference", "/target") if pairs else ("",)
    assert ids(images) == [f"p/{row}{place}" for row in (1, 2) for place in places]
    read = [shade(pickle.loads(pickle.dumps(i))) for i in images]
    expected = [grey for grey in (10, 20) for _ in places]
    assert [abs(s - grey) <= 3 for s, grey in zip(read, expected, strict=True)] == [True] * len(
        read
    )
    skipped = {name.split("/")[1]: str(why) for name, why in report.skipped}
    assert skipped.keys() == {"3", "4", "5", "6"}
    assert "gone.jpg cannot be read" in skipped["3"]
    assert "null" in skipped["4"]
    assert "is empty" in skipped["5"]


def test_a_path_with_a_nul_is_skipped_and_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(10))
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "a\0.jpg"]}), path)
    images, report = read_sources([str(path)])
    assert ids(images) == ["a.jpg"]
    (sentence,) = report.sentences()
    assert sentence.startswith("Skipped 1 broken samples: a")
    assert "the path is not valid" in sentence


@pytest.mark.parametrize(
    "names",
    [
        ("gender", "type", "colour", "pattern"),
        ("Gender", "Type", "Color", "Pattern"),
        ("gender", "articleType", "baseColour", "pattern"),
    ],
)
def test_attribute_columns_are_found_by_their_usual_names(
    tmp_path: Path, names: Sequence[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(10))
    path = tmp_path / "list.csv"
    path.write_text(f"path,{','.join(names)}\na.jpg,Men,Ring,Red,plain\n", encoding="utf-8")
    (image,), _ = read_sources([str(path)])
    item = image.item
    assert (item.gender, item.type, item.colour, item.pattern) == ("Men", "Ring", "Red", "plain")
    (image,), _ = read_sources([str(path)], columns={"colour": ""})
    assert (image.item.type, image.item.colour) == ("Ring", "")


def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"path": ["a.jpg"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"p\.parquet is not a Parquet file, or is cut short"):
        read_sources([str(path)])
    (tmp_path / "e.csv").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="empty; its first line must name the columns"):
        read_sources([str(tmp_path / "e.csv")])
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read_sources([str(tmp_path / "b.csv")])


def test_an_unusable_source_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; check --data"):
        read_sources([str(tmp_path / "nowhere")])
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match="is not a folder, a shard"):
        read_sources([str(tmp_path / "a.zip")])
    with pytest.raises(DataError, match="Nothing matches"):
        read_sources([str(tmp_path / "*.tar")])


def test_kinds_can_be_mixed_in_one_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cc3m_shards(tmp_path, shards=2)
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.jpg").write_bytes(picture(number))
    training, development = read_collection(
        [str(tmp_path / "{00000..00001}.tar"), str(folder)], development=0.25
    )
    assert len(training) + len(development) == 48
    assert len(development) == 12  # a quarter of the names: 8 captions and 40 nameless images
    assert not {*ids(training)} & {*ids(development)}
    assert (
        "40 of 48 captions are empty; those images train without a caption."
        in capsys.readouterr().err
    )


def test_captions_in_another_script_are_reported() -> None:
    assert caption_notes(["a dress", "une robe d'été", "100 %"]) == []
    (note,) = caption_notes(["a dress", "красное платье", "赤いドレス", "красный"])
    assert note.startswith("3 of 4 captions are in another script than Latin (Cyrillic 2, Katakana")
    assert caption_notes(["", "  "]) == [
        "All captions are empty; those images train without a caption."
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_cut_image_is_detected(kind: str) -> None:
    whole = picture(100, kind, side=64)
    check_picture(whole)
    for share in (0.0, 0.3, 0.9):
        with pytest.raises(ImageError):
            check_picture(whole[: int(len(whole) * share)])


def test_a_stream_gives_each_image_once_per_epoch_in_an_order_set_by_the_seed(
    tmp_path: Path,
) -> None:
    shards = [str(path) for path in cc3m_shards(tmp_path, shards=4, samples=5)]
    everything = sorted(ids(list(ShardStream(shards, buffer=0))))
    assert len(everything) == 20

    def epoch(number: int, **options: Any) -> list[str]:
        stream = ShardStream(shards, buffer=8, **options)
        stream.set_epoch(number)
        return ids(list(stream))

    assert sorted(epoch(0)) == sorted(epoch(1)) == everything
    assert epoch(0) == epoch(0)
    assert len({tuple(epoch(0)), tuple(epoch(1)), tuple(epoch(0, seed=1))}) == 3
    inner = [int(name) % 10_000 for name in epoch(0)]
    assert any(a > b + 1 for a, b in itertools.pairwise(inner))  # not only whole shards are moved
    ranks = [epoch(0, rank=rank, world=3) for rank in range(3)]
    assert sorted(itertools.chain(*ranks)) == everything


def test_the_workers_of_a_loader_share_a_stream(tmp_path: Path) -> None:
    shards = [str(path) for path in cc3m_shards(tmp_path, shards=3, samples=3)]
    loader = DataLoader(
        ShardStream(shards, buffer=4),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
    )
    assert sorted(ids(list(loader))) == sorted(ids(list(ShardStream(shards))))


def test_a_report_names_ten_and_counts_all() -> None:
    report = ReadReport()
    for number in range(12):
        report.skip(f"s{number}", KeyError("jpg") if number == 0 else "why")
    (sentence,) = report.sentences()
    assert sentence.startswith("Skipped 12 broken samples: s0 (no 'jpg'), s1 (why)")
    assert sentence.endswith("s9 (why), ...")
