"""Published formats of triplets, tested with real files where these are available."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train.data import DataError, read_sources
from train.triplets import read_training_triplets, resolve_image_names, write_triplets
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.triplets import Triplet


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, *records: object) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def parts(triplet: Triplet) -> tuple[str, str, tuple[str, ...]]:
    return triplet.reference, triplet.text, triplet.targets


@pytest.mark.parametrize("category", ["dress", "shirt", "toptee"])
def test_the_published_training_files_of_fashioniq(shared_data: Path, category: str) -> None:
    folder = shared_data / "cir-annotations/fashion-iq/captions"
    path = folder / f"cap.{category}.train.json"
    records = json.loads(path.read_bytes())
    made = read_training_triplets(path)
    pairs = {(record["candidate"], record["target"]) for record in records}
    assert {(t.reference, t.targets[0]) for t in made} <= pairs
    assert len({(t.reference, t.targets[0]) for t in made}) > 0.99 * len(pairs)
    assert 2.5 * len(records) < len(made) <= 3 * len(records)  # each caption, and both
    assert all(t.text == " ".join(t.text.split()) and t.text == t.text.lower() for t in made)
    assert len({t.id for t in made}) == len(made)
    with pytest.raises(UsageError, match="has no targets: it is a test split"):
        read_training_triplets(folder / f"cap.{category}.test.json")


def test_fashioniq_captions_are_joined_as_in_its_evaluation(tmp_path: Path) -> None:
    record = {"candidate": "A", "target": "B", "captions": ["Is Red.", " has no sleeves"]}
    same = {"candidate": "A", "target": "C", "captions": ["is red", "Is red"]}
    empty = {"candidate": "A", "target": "D", "captions": [" ", "."]}
    half = [
        {"candidate": "A", "target": target, "captions": captions}
        for target, captions in (("E", ["", "is blue"]), ("F", ["is blue", " "]))
    ]
    nothing = {"candidate": "A", "target": "G", "captions": [None, "is blue"]}
    records = [record, same, empty, *half, nothing]
    made = read_training_triplets(write_json(tmp_path / "cap.json", records))
    assert [parts(t) for t in made] == [
        ("A", "is red", ("B",)),
        ("A", "has no sleeves", ("B",)),
        ("A", "is red and has no sleeves", ("B",)),
        ("A", "is red", ("C",)),
        ("A", "is blue", ("E",)),
        ("A", "is blue", ("F",)),
        ("A", "is blue", ("G",)),
    ]


def test_the_published_files_of_cirr(shared_data: Path) -> None:
    # the training file, which is not available here, has the layout of the validation file
    folder = shared_data / "cir-annotations/cirr/captions"
    path = folder / "cap.rc2.val.json"
    records = json.loads(path.read_bytes())
    made = read_training_triplets(path)
    assert len(made) == len(records)
    for triplet, record in zip(made, records, strict=True):
        assert triplet.reference == record["reference"]
        assert record["target_hard"] == triplet.targets[0]
        soft = record["target_soft"]
        assert all(name == record["target_hard"] or soft[name] == 1.0 for name in triplet.targets)
    splits = shared_data / "cir-annotations/cirr/image_splits/split.rc2.val.json"
    files = [f"images/{Path(p).as_posix()}" for p in json.loads(splits.read_bytes()).values()]
    resolved = resolve_image_names(made, files)
    assert len(resolved) == len(made)
    assert {t.reference for t in resolved} <= set(files)
    with pytest.raises(UsageError, match="test split"):
        read_training_triplets(folder / "cap.rc2.test1.json")


def test_lasco_images_are_named_by_their_paths(tmp_path: Path) -> None:
    record = {
        "qid": 28714000,
        "query-image": [28714, "val2014/COCO_val2014_000000028714.jpg"],
        "query-text": "The person is riding the bike",
        "target-image": [277005, "val2014/COCO_val2014_000000277005.jpg"],
    }
    (made,) = read_training_triplets(write_json(tmp_path / "lasco_train.json", [record]))
    assert parts(made) == (
        "val2014/COCO_val2014_000000028714.jpg",
        "The person is riding the bike",
        ("val2014/COCO_val2014_000000277005.jpg",),
    )
    images = [f"coco/val2014/COCO_val2014_{n:012d}.jpg" for n in (28714, 277005)]
    assert parts(resolve_image_names([made], images)[0])[::2] == (images[0], (images[1],))


def test_jsonl_requires_only_three_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(
        tmp_path / "t.jsonl",
        {"reference": "a.jpg", "text": "in red", "target": "b.jpg"},
        {"reference": 7, "text": "in  red ", "targets": ["b.jpg", 8], "kind": "colour", "id": "x"},
        {"reference": "a.jpg", "text": " ", "target": "b.jpg"},
        {"reference": "a.jpg", "text": "red"},
        {"reference": "a.jpg", "text": "red", "target": "a.jpg"},
        "{broken",
        "[1]",
    )
    made = read_training_triplets(path)
    assert [parts(t) for t in made] == [
        ("a.jpg", "in red", ("b.jpg",)),
        ("7", "in red", ("b.jpg", "8")),
    ]
    assert [(t.id, t.kind) for t in made] == [("t-1", "change"), ("x", "colour")]
    said = capsys.readouterr().err
    assert "Skipped 5 broken samples" in said
    for name in (
        "line 3 (text is ' ', not a text that is not empty)",
        "line 4 (target is missing)",
        "line 5",
        "line 6",
        "line 7",
    ):
        assert name in said


def test_only_a_newline_ends_a_line_of_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    texts = [f"in{separator}red" for separator in "\u2028\u2029\x85"]
    records = [{"reference": "a", "text": text, "target": "b"} for text in texts]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_bytes("\r\n".join([*lines, ""]).encode())
    made = read_training_triplets(path)
    assert [(t.id, t.text) for t in made] == [(f"t-{line}", "in red") for line in (1, 2, 3)]


def test_fields_and_columns_can_be_named(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "t.jsonl", {"from": "a", "wish": "red", "to": "b"})
    with pytest.raises(UsageError, match=r"no 'reference', but from, wish, to; name the"):
        read_training_triplets(lines)
    named = {"reference": "from", "text": "wish", "target": "to"}
    assert parts(read_training_triplets(lines, columns=named)[0]) == ("a", "red", ("b",))
    table = tmp_path / "t.csv"
    table.write_text("from,wish,to\na,red,b\na,,b\n", encoding="utf-8")
    assert parts(read_training_triplets(table, columns=named)[0]) == ("a", "red", ("b",))
    with pytest.raises(UsageError, match="name for the reference; name it as reference=COL"):
        read_training_triplets(table)
    with pytest.raises(UsageError, match="'size' is not a field of a triplet"):
        read_training_triplets(table, columns={"size": "to"})


def test_a_table_with_names_of_images(tmp_path: Path) -> None:
    path = tmp_path / "triplets.parquet"
    rows = {
        "reference_image": ["a.jpg", "c.jpg"],
        "target_image": ["b.jpg", None],
        "instruction": ["make it red", "x"],
    }
    pq.write_table(pa.table(rows), path)
    (made,) = read_training_triplets(path)
    assert parts(made) == ("a.jpg", "make it red", ("b.jpg",))


def test_a_parquet_file_with_images_is_read_as_data_and_as_triplets(tmp_path: Path) -> None:
    def cell(shade: int) -> dict[str, object]:
        encoded = io.BytesIO()
        Image.new("RGB", (16, 16), (shade,) * 3).save(encoded, "PNG")
        return {"bytes": encoded.getvalue(), "path": None}

    path = tmp_path / "synth-0001.parquet"
    rows = {
        "original_image": [cell(10), cell(30)],
        "edit_prompt": ["brighter", "as a photo"],
        "edited_image": [cell(20), cell(40)],
    }
    pq.write_table(pa.table(rows), path)
    triplets = read_training_triplets(path)
    images, _ = read_sources([str(path)])
    shades = {i.item.id: int(np.asarray(i.load()).mean()) for i in images}
    resolved = resolve_image_names(triplets, shades)
    assert [(shades[t.reference], t.text, shades[t.targets[0]]) for t in resolved] == [
        (10, "brighter", 20),
        (30, "as a photo", 40),
    ]


names = st.text(st.sampled_from("abc/é. -"), min_size=1, max_size=8).map(str.strip).filter(bool)
sentences = st.text(st.sampled_from("ab ché"), min_size=1).filter(str.strip)


@given(st.lists(st.builds(Triplet, names, names, names, sentences, st.tuples(names)), min_size=1))
def test_written_triplets_are_read_as_training_triplets(
    tmp_path_factory: pytest.TempPathFactory, made: list[Triplet]
) -> None:
    made = [t for t in made if t.reference not in t.targets]
    if not made:
        return
    path = tmp_path_factory.mktemp("formats") / "t.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # waiting for the disk takes seconds
        write_triplets(path, made)
    read = read_training_triplets(path)
    assert [(t.id, t.kind, t.reference, t.targets) for t in read] == [
        (t.id, t.kind, t.reference, t.targets) for t in made
    ]
    assert [t.text for t in read] == [" ".join(t.text.split()) for t in made]


def one(reference: str, target: str) -> list[Triplet]:
    return [Triplet("1", "change", reference, "red", (target,))]


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("train/1.jpg", ["val/1.jpg"], None),  # another picture
        ("dress/B0.png", ["shirt/B0.jpg"], None),
        ("train/1.jpg", ["val/1.jpg", "train/1.jpg"], "train/1.jpg"),
        ("a/1.jpg", ["img/a/1.jpg", "img/b/1.jpg"], "img/a/1.jpg"),
        ("/data/img/a/1.jpg", ["a/1.jpg", "b/1.jpg"], "a/1.jpg"),
        ("/data/img/a/1.jpg", ["1.jpg", "a/1.jpg"], "a/1.jpg"),
        ("b/1.jpg", ["1.jpg", "a/1.jpg"], "1.jpg"),
        ("1", ["x/1.png"], "x/1.png"),
        ("1.png", ["x/1.png", "x/1.jpg"], "x/1.png"),
        ("a/1.webp", ["x/a/1.png", "x/b/1.webp"], "x/a/1.png"),
        ("1.webp", ["x/1.png", "y/1.jpg"], "ambiguous"),
    ],
)
def test_a_path_names_the_image_with_the_same_folders(
    name: str, known: list[str], meant: str | None
) -> None:
    triplets = one("other", name)
    if meant == "ambiguous":
        with pytest.raises(DataError, match=r"could be x/1\.png or y/1\.jpg"):
            resolve_image_names(triplets, [*known, "other"])
    elif meant is None:
        with pytest.raises(DataError, match="The data does not contain 1 images"):
            resolve_image_names(triplets, [*known, "other"])
    else:
        assert resolve_image_names(triplets, [*known, "other"])[0].targets == (meant,)


def test_images_are_found_by_id_path_or_name(capsys: pytest.CaptureFixture[str]) -> None:
    known = ["x/a.jpg", "y/b.png", "7", "shard/000000012"]
    meanings = {"a": known[0], "./x/a.jpg": known[0], "b.png": known[1], "7": "7"}
    meanings |= {"a.png": known[0]}  # the file was converted
    for name, meant in meanings.items():
        assert resolve_image_names(one(name, "000000012"), known)[0].reference == meant
    with pytest.raises(DataError, match=r"not contain 1 images of the triplets, such as gone\.jpg"):
        resolve_image_names(one("a", "gone.jpg"), known)
    both = one("a", "gone.jpg") + one("a", "b")
    assert len(resolve_image_names(both, known, skip_missing=True)) == 1
    assert "Left out 1 of 2 triplets: 1 images are missing" in capsys.readouterr().err
    with pytest.raises(DataError, match="not contain the images of any triplet"):
        resolve_image_names(one("a", "gone"), known, skip_missing=True)
    with pytest.raises(DataError, match=r"which could be x/a\.jpg or z/a\.jpg"):
        resolve_image_names(one("a", "7"), [*known, "z/a.jpg"])
    assert resolve_image_names(one("z/a.jpg", "7"), [*known, "z/a.jpg"])[0].reference == "z/a.jpg"


def test_missing_targets_can_be_left_out() -> None:
    triplet = Triplet("1", "change", "a", "red", ("b", "gone"))
    assert resolve_image_names([triplet], ["a", "b"], skip_missing=True)[0].targets == ("b",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no JSON object"),
        (b"[{", "is not JSON, or is cut short"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b'{"reference": "a", "text": "", "target": "b"}', "has no usable triplet"),
    ],
)
def test_an_unusable_file_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        read_training_triplets(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="do not exist"):
        read_training_triplets(tmp_path / "none.jsonl")


def test_texts_in_another_script_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"reference": "a", "text": "красное", "target": "b"}
    read_training_triplets(write_lines(tmp_path / "t.jsonl", record))
    assert "1 of 1 texts are in another script than Latin" in capsys.readouterr().err
