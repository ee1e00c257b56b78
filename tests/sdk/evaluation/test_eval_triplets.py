"""`ztcir eval triplets`: scores against a plain implementation, and wrong files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk import Retriever
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation import image_batches
from ztcir_sdk.evaluation.attribute_caption import attribute_caption
from ztcir_sdk.evaluation.triplet_evaluation import SUM_WEIGHTS, evaluate_triplets
from ztcir_sdk.index import Index
from ztcir_sdk.names import METHODS

COUNT = 40
KINDS = ("colour", "type")


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return Retriever(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"), threads=1)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(stream, "PNG")
    return stream.getvalue()


def attributes(number: int) -> dict[str, Any]:
    return {
        "id": number,  # a number in the catalogue, a name in the archive
        "articleType": ("Shirts", "Heels")[number % 2],
        "baseColour": ("Red", "Navy Blue", "Green")[number % 3],
        "gender": ("Men", "Women")[number // 20],
    }


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two archives of images with attributes; three images have equal pixels."""
    folder = tmp_path_factory.mktemp("shards")
    colours = np.random.default_rng(0).integers(0, 256, (COUNT, 3)).tolist()
    colours[7] = colours[30] = colours[3]  # ties
    members = [
        member
        for number in range(COUNT)
        for member in (
            (f"{number}.png", png(tuple(colours[number]))),
            (f"{number}.json", json.dumps(attributes(number)).encode()),
        )
    ]
    return [
        write_tar(folder / "val-0000.tar", members[:50]),
        write_tar(folder / "val-0001.tar", members[50:]),
    ]


def triplet(number: int, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    chosen = rng.choice(COUNT, 1 + int(rng.integers(1, 14)), replace=False)
    return {
        "id": f"q{number}",
        "kind": KINDS[number % 2],
        "reference": str(chosen[0]),
        "text": ("in red", "as a shoe", "for men", "blue, but not so dark")[number % 4],
        "targets": [int(row) for row in chosen[1:]],
        **changes,
    }


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*lines: dict[str, Any] | str) -> Path:
        path = tmp_path / "queries.jsonl"
        as_text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(as_text) + "\n")
        return path

    return write


def plain_scores(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], triplets: list[dict[str, Any]]
) -> dict[str, float]:
    """Score by the definitions, one query at a time."""
    each = []
    for query, one in zip(queries, triplets, strict=True):
        targets = {int(target) for target in one["targets"]}
        scores = gallery.astype(np.float64) @ query.astype(np.float64)
        order = sorted(
            (row for row in range(len(gallery)) if row != int(one["reference"])),
            key=lambda row: (-np.float32(scores[row]), row),
        )[:10]
        found, precision = 0, 0.0
        for place, row in enumerate(order, start=1):
            if row in targets:
                found += 1
                precision += found / place
        recalls = [float(bool(targets & set(order[:k]))) for k in (1, 5, 10)]
        each.append([*recalls, precision / min(10, len(targets))])
    return dict(zip(("R@1", "R@5", "R@10", "mAP@10"), np.mean(each, axis=0), strict=True))


def expected_queries(
    retriever: Retriever, archives: list[Path], triplets: list[dict[str, Any]], method: str
) -> NDArray[np.float32]:
    """Encode each query alone, as a user would."""
    if method == "oracle":
        captions = []
        for one in triplets:
            target = attributes(int(one["targets"][0]))
            captions.append(
                attribute_caption(target["baseColour"], target["articleType"], target["gender"])
            )
        return retriever.encode_texts(captions)
    return np.array(
        [
            retriever.reference(path_of(archives, int(one["reference"]))).encode(
                one["text"], method
            )
            for one in triplets
        ]
    )


def path_of(archives: list[Path], number: int) -> str:
    return str(archives[number // 25] / f"{number}.png")


def encoded_gallery(retriever: Retriever, archives: list[Path]) -> NDArray[np.float32]:
    return np.array(
        [retriever.reference(path_of(archives, number)).embedding for number in range(COUNT)]
    )


def assert_close(found: Any, expected: dict[str, float]) -> None:
    assert dict(found) == pytest.approx(expected, abs=1e-12)


def test_every_method_scores_as_a_plain_implementation(
    retriever: Retriever, archives: list[Path], write: Write
) -> None:
    triplets = [triplet(number) for number in range(30)]
    triplets[4] = {**triplets[5], "id": "again", "text": "another text"}  # with the same reference
    methods = (*METHODS, "oracle")
    result = evaluate_triplets(
        retriever, archives, write(*triplets), methods=methods, best_sum=True
    )
    gallery = encoded_gallery(retriever, archives)
    assert (result.queries, result.gallery, list(result.failed)) == (30, COUNT, [])
    for method in methods:
        queries = expected_queries(retriever, archives, triplets, method)
        scores = result.methods[method]
        assert_close(scores.overall, plain_scores(queries, gallery, triplets))
        assert list(scores.per_kind) == list(KINDS)
        for place, kind in enumerate(KINDS):
            own = [number for number, one in enumerate(triplets) if one["kind"] == kind]
            some = [triplets[number] for number in own]
            assert some, place
            assert_close(scores.per_kind[kind], plain_scores(queries[own], gallery, some))
    assert len({scores.overall["mAP@10"] for scores in result.methods.values()}) > 4


def test_the_sum_is_weighted_as_in_a_search(
    retriever: Retriever, archives: list[Path], write: Write
) -> None:
    triplets = [triplet(number) for number in range(20)]
    file = write(*triplets)
    by_weight = {
        weight: evaluate_triplets(retriever, archives, file, methods=["sum"], weight=weight)
        for weight in SUM_WEIGHTS
    }
    gallery = encoded_gallery(retriever, archives)
    for weight in (0.0, 0.35, 1.0):
        queries = np.array(
            [
                retriever.reference(path_of(archives, int(one["reference"]))).encode(
                    one["text"], "sum", weight=weight
                )
                for one in triplets
            ]
        )
        scores = by_weight[weight].methods["sum"]
        assert scores.weight == weight
        assert_close(scores.overall, plain_scores(queries, gallery, triplets))
    best = evaluate_triplets(retriever, archives, file, methods=["image"], best_sum=True).sum_best
    assert best is not None
    tops = [one.methods["sum"].overall["mAP@10"] for one in by_weight.values()]
    assert best.overall["mAP@10"] == max(tops)
    assert best.weight == SUM_WEIGHTS[tops.index(max(tops))]
    ends = (
        evaluate_triplets(retriever, archives, file, methods=[method]).methods[method].overall
        for method in ("image", "text")
    )
    assert [by_weight[w].methods["sum"].overall for w in (0.0, 1.0)] == list(ends)


def test_scores_do_not_depend_on_the_batch_size(
    retriever: Retriever, archives: list[Path], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(*(triplet(number) for number in range(10)))
    whole = evaluate_triplets(retriever, archives, file)
    for name, value in (("BATCH", 3), ("PIXELS", 500)):
        monkeypatch.setattr(image_batches, name, value)
        assert evaluate_triplets(retriever, archives, file) == whole


def test_vectors_of_an_index_are_not_encoded_again(
    retriever: Retriever,
    archives: list[Path],
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(*(triplet(number) for number in range(6)))
    plain = evaluate_triplets(retriever, archives, file)
    retriever.index(archives, to=tmp_path / "x.ztcir")
    index = Index.open(tmp_path / "x.ztcir", image_tower=retriever.image_tower)

    def refuse(images: Any) -> Any:
        raise AssertionError("encoded although it is in the index")

    monkeypatch.setattr(retriever, "encode_images", refuse)
    assert evaluate_triplets(retriever, archives, file, index=index) == plain


def test_ids_are_file_names_or_ids_in_the_json(
    retriever: Retriever, tmp_path: Path, write: Write
) -> None:
    members = [
        ("a.png", png((250, 10, 10))),
        ("a.json", json.dumps({"id": "sku-1"}).encode()),
        ("b.png", png((10, 250, 10))),
        ("b.json", b'{"id": 17}'),
        ("c.png", png((10, 10, 250))),
    ]
    shard = write_tar(tmp_path / "s.tar", members)
    folder = tmp_path / "loose"
    folder.mkdir()
    (folder / "d.png").write_bytes(png((99, 99, 99)))
    file = write(
        triplet(0, reference="sku-1", targets=[17, "c"]),
        triplet(1, reference="d", targets=["a", "b"]),
    )
    result = evaluate_triplets(retriever, [shard, folder], file)
    assert (result.queries, result.gallery) == (2, 4)
    assert result.methods["composed"].overall["R@5"] == 1  # three others: all are found


def run(retriever: Retriever, archives: Sequence[Path], file: Path, *more: object) -> Result:
    images = [part for path in archives for part in ("--images", path)]
    command = ["eval", "triplets", *images, "--triplets", file, *more]
    bundle = ["--bundle", retriever.bundle.path]
    return CliRunner().invoke(main, [str(part) for part in (*command, *bundle)])


def test_json_output_has_all_fields(
    retriever: Retriever, archives: list[Path], write: Write
) -> None:
    file = write(*(triplet(number) for number in range(8)))
    result = run(retriever, archives, file, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    names = {"R@1", "R@5", "R@10", "mAP@10"}
    assert found["overall"].keys() == names
    assert found["per_kind"].keys() == set(KINDS)
    assert all(scores.keys() == names for scores in found["per_kind"].values())
    assert (found["method"], found["queries"], found["gallery"]) == ("composed", 8, COUNT)
    assert found["bundle"]["fingerprint"] == retriever.bundle.fingerprint
    assert {"date", "machine", "versions"} <= found.keys()

    found = json.loads(run(retriever, archives, file, "--method", "all", "--json").stdout)
    assert found["methods"].keys() == {*METHODS, "oracle", "sum_best"}
    assert found["methods"]["sum_best"]["weight"] in SUM_WEIGHTS
    assert all(scores["overall"].keys() == names for scores in found["methods"].values())

    weighted = run(retriever, archives, file, "--method", "sum", "--weight", 0.2, "--json")
    assert json.loads(weighted.stdout)["weight"] == 0.2


def test_all_methods_are_those_that_the_bundle_has(
    archives: list[Path], write: Write, tmp_path: Path
) -> None:
    plain = write_tiny_bundle(tmp_path / "plain", methods=("sum", "image", "text"))
    retriever = Retriever(plain, threads=1)
    result = run(retriever, archives, write(triplet(0)), "--method", "all", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["methods"]
    assert found.keys() == {"sum", "image", "text", "oracle", "sum_best"}


def test_archives_are_given_as_patterns_globs_or_lists(
    retriever: Retriever, archives: list[Path], write: Write
) -> None:
    file = write(triplet(0))
    folder = archives[0].parent
    ways: list[tuple[object, ...]] = [
        ("--images", folder / "val-{0000..0001}.tar"),
        ("--images", folder / "val-*.tar"),
        ("--images", archives[0], "--images", archives[1]),
        ("--images", archives[0], archives[1]),  # as a shell expands val-*.tar
    ]
    for way in ways:
        command = ["eval", "triplets", *way, "--triplets", file, "--json"]
        command += ["--bundle", retriever.bundle.path]
        result = CliRunner().invoke(main, [str(part) for part in command])
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["gallery"] == COUNT


def test_unusable_images_are_named_and_left_out(
    retriever: Retriever, archives: list[Path], write: Write, tmp_path: Path
) -> None:
    bad = tmp_path / "more"
    bad.mkdir()
    (bad / "broken.png").write_bytes(b"nothing")
    result = run(retriever, [*archives, bad], write(triplet(0)), "--json")
    assert result.exit_code == 0
    assert "broken.png" in result.stderr
    found = json.loads(result.stdout)
    assert (found["gallery"], found["failed"]) == (COUNT, 1)

    needed = run(retriever, [*archives, bad], write(triplet(0, targets=["broken"])), "--json")
    assert (needed.exit_code, needed.stdout) == (1, "")
    assert "broken.png" in needed.stderr


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{", ("line 2", "not JSON")),
        ("[1, 2]", ("line 2", "not a JSON object")),
        ('{"id": 1}', ("line 2", "'kind'")),
        (triplet(1, targets=[]), ("line 2", "'targets'")),
        (triplet(1, targets="3"), ("line 2", "'targets'")),
        (triplet(1, text="  "), ("line 2", "'text'")),
        (triplet(1, reference="nobody"), ("line 2", "'nobody'", "gallery")),
        (triplet(1, targets=["3", "nowhere"]), ("line 2", "'nowhere'", "gallery")),
        (triplet(1, reference="3", targets=["3", "4"]), ("q1", "reference among its targets")),
    ],
)
def test_a_wrong_line_is_named(
    retriever: Retriever,
    archives: list[Path],
    write: Write,
    line: dict[str, Any] | str,
    parts: tuple[str, ...],
) -> None:
    result = run(retriever, archives, write(triplet(0), line), "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_an_id_of_two_images_is_refused(
    retriever: Retriever, archives: list[Path], write: Write, tmp_path: Path
) -> None:
    second = tmp_path / "5.png"
    second.write_bytes(png((1, 2, 3)))
    file = write(triplet(0, reference="5", targets=["6"]))
    with pytest.raises(ZtcirError, match=r"'5'.*two images"):
        evaluate_triplets(retriever, [*archives, second], file)
    evaluate_triplets(
        retriever, [*archives, second], write(triplet(0, reference="4", targets=["6"]))
    )


def test_oracle_needs_attributes(retriever: Retriever, tmp_path: Path, write: Write) -> None:
    shard = write_tar(tmp_path / "s.tar", [("a.png", png((9, 9, 9))), ("b.png", png((200, 9, 9)))])
    file = write(triplet(0, reference="a", targets=["b"]))
    with pytest.raises(ZtcirError, match=r"oracle.*articleType.*b\.png"):
        evaluate_triplets(retriever, shard, file, methods=["oracle"])


def test_wrong_calls_are_refused(retriever: Retriever, archives: list[Path], write: Write) -> None:
    file = write(triplet(0))
    with pytest.raises(UsageError, match="no method 'magic'"):
        evaluate_triplets(retriever, archives, file, methods=["magic"])
    for more in (("--weight", 0.5), ("--method", "sum", "--weight", 1.5), ("--method", "x")):
        result = run(retriever, archives, file, *more)
        assert result.exit_code == 2, more
        assert "Error: " in result.stderr
    assert run(retriever, [Path("nowhere.tar")], file).exit_code == 1
    assert run(retriever, archives, Path("none.jsonl")).exit_code == 1
    folder_of_tars = run(retriever, [archives[0].parent], file)
    assert folder_of_tars.exit_code == 1
    assert "tar archives themselves" in folder_of_tars.stderr


def test_oracle_is_left_out_with_a_note_where_it_is_optional(
    retriever: Retriever, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write_tar(tmp_path / "s.tar", [("a.png", png((9, 9, 9))), ("b.png", png((200, 9, 9)))])
    file = write(triplet(0, reference="a", targets=["b"]))
    both = ["image", "oracle"]
    result = evaluate_triplets(retriever, shard, file, methods=both, optional_oracle=True)
    assert list(result.methods) == ["image"]
    assert "oracle is left out" in result.notes[0]
    encoded: list[object] = []
    monkeypatch.setattr(retriever, "references", encoded.append)
    with pytest.raises(ZtcirError, match="oracle"):
        evaluate_triplets(retriever, shard, file, methods=both)
    assert not encoded  # it is said before anything is encoded


@pytest.mark.parametrize("place", ["in", "beside"])
def test_attributes_come_from_a_table_at_the_folder(
    retriever: Retriever, tmp_path: Path, write: Write, place: str
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("a", (9, 9, 9)), ("b", (200, 9, 9))):
        (photos / f"{name}.png").write_bytes(png(colour))
    table = (photos if place == "in" else tmp_path) / "metadata.csv"
    table.write_text("id,gender,articleType,baseColour\na,Men,Shirts,Red\nb,Women,Heels,Green\n")
    file = write(triplet(0, reference="a", targets=["b"]))
    result = evaluate_triplets(retriever, photos, file, methods=["oracle"], optional_oracle=True)
    assert list(result.methods) == ["oracle"]
    assert result.notes == []


@pytest.mark.parametrize(
    ("reference", "target"), [("a", "b"), ("a.png", "sub/b.png"), ("sub/a.png", "b.png")]
)
def test_ids_may_be_names_with_suffix_or_paths(
    retriever: Retriever, tmp_path: Path, write: Write, reference: str, target: str
) -> None:
    photos = tmp_path / "photos" / "sub"
    photos.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (photos / f"{name}.png").write_bytes(png((90, 20 * ord(name) % 256, 30)))
    file = write(triplet(0, reference=reference, targets=[target]))
    found = evaluate_triplets(retriever, tmp_path / "photos", file, methods=["image"])
    assert (found.queries, found.gallery) == (1, 3)


def test_triplets_of_a_folder_are_measured_on_it(retriever: Retriever, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for number, caption in enumerate(("a red shirt", "a blue shirt", "a red hat", "a blue hat")):
        (photos / "sub" / f"{number}.png").write_bytes(png((60 * number, 10, 200)))
        (photos / "sub" / f"{number}.json").write_text(json.dumps({"caption": caption}))
    file = tmp_path / "made.jsonl"
    call = ["triplets", "--from", "captions", "--data", str(photos), "-o", str(file)]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert evaluate_triplets(retriever, photos, file, methods=["text"]).gallery == 4


def test_oracle_takes_other_columns(retriever: Retriever, tmp_path: Path, write: Write) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        (photos / f"{name}.png").write_bytes(png((90, 20 * ord(name) % 256, 30)))
        (photos / f"{name}.json").write_text('{"shade": "Red", "kind": "Shirt"}')
    file = write(triplet(0, reference="a", targets=["b"]))
    call = ["eval", "triplets", "--images", photos, "--triplets", file, "--method", "oracle"]
    call += ["--bundle", retriever.bundle.path]
    done = CliRunner().invoke(main, [*map(str, call), "--columns", "colour=shade,type=kind"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, [*map(str, call), "--columns", "size=shade"])
    assert done.exit_code == 2
    assert "'size' is not an attribute: --columns names gender, type, colour." in done.stderr
    done = CliRunner().invoke(main, list(map(str, call)))
    assert "Name other columns with --columns." in done.stderr
