"""GeneCIS: a gallery for each query, missing tasks, and objects cropped from photos."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import (
    COMPOSED,
    assert_refused_before_encoding,
    at,
    changed,
    delete,
    edit_json,
    link,
    measure_twice,
    planned_run,
    run_cli,
    without,
    write_images,
    write_json,
)
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.embedding_run import Method
from ztcir_sdk.evaluation.benchmarks.genecis import BENCHMARK as GENECIS
from ztcir_sdk.evaluation.benchmarks.genecis import TASKS
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage, UnusableImagesError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


def coco(*ids: int) -> list[dict[str, int]]:
    return [{"val_image_id": one} for one in ids]


def task(*queries: tuple[str, int, int, Sequence[int]]) -> list[dict[str, Any]]:
    """Return records of queries: condition, reference, target, distractors."""
    return [
        {
            "condition": condition,
            "reference": coco(reference)[0],
            "target": coco(target)[0],
            "gallery": coco(*gallery),
        }
        for condition, reference, target, gallery in queries
    ]


def name(one: int) -> str:
    return f"{one:012d}"


def write_root(root: Path, tasks: Mapping[str, list[dict[str, Any]]], ids: Sequence[int]) -> Path:
    for which, records in tasks.items():
        write_json(root / "genecis" / f"{which}.json", records)
    write_images(root / "val2017", [name(one) for one in ids], ".jpg")
    return root


def plan(
    tmp_path: Path, root: Path, angles: Mapping[int, float], texts: Mapping[str, float]
) -> Any:
    images = {name(one): at(degrees) for one, degrees in angles.items()}
    run = planned_run(tmp_path / "cache", images, {text: at(a) for text, a in texts.items()})
    return GENECIS.evaluate(run, root, [COMPOSED])


def test_scores_worked_by_hand(tmp_path: Path) -> None:
    angles = {one: float(one) for one in range(1, 30)} | {0: 0.0}
    queries = task(
        ("x", 0, 1, [2, 3, 4, 5]),  # the target is the nearest
        ("x", 0, 9, [8, 10, 11, 12]),  # one is nearer
        ("x", 0, 20, [18, 19, 25, 26]),  # two are
        ("x", 0, 29, [1, 2, 3, 4]),  # all are
    )
    root = write_root(tmp_path / "root", {"focus_object": queries}, list(angles))
    report = plan(tmp_path, root, angles, {"x": 0})
    assert report.scores["composed"] == {("focus_object",): {"R@1": 1 / 4, "R@2": 2 / 4,
                                                             "R@3": 3 / 4}}  # fmt: skip
    # Image 1 is nearer than the others' targets, but in no gallery except two.
    assert report.queries == 4


@pytest.mark.parametrize(("target", "recalls"), [(5, (1, 1, 1)), (7, (0, 0, 1)), (9, (0, 0, 0))])
def test_the_target_has_no_advantage_in_a_tie(
    tmp_path: Path, target: int, recalls: tuple[int, int, int]
) -> None:
    """All vectors are equal: images rank by id, though the target is listed separately."""
    ids = [5, 6, 7, 8, 9]
    gallery = [one for one in ids if one != target]
    records = task(("x", 0, target, gallery))
    root = write_root(tmp_path / "root", {"change_object": records}, [0, *ids])
    report = plan(tmp_path, root, dict.fromkeys([0, *ids], 10.0), {"x": 0})
    scores = report.scores["composed"]["change_object",]
    assert (scores["R@1"], scores["R@2"], scores["R@3"]) == recalls


def test_a_distractor_that_is_the_target_is_left_out(tmp_path: Path) -> None:
    """As in one query of change_object: the target cannot rank behind itself."""
    angles = {0: 0.0, 1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0}
    once = write_root(tmp_path / "a", {"focus_object": task(("x", 0, 1, [2, 3, 4]))}, list(angles))
    twice = write_root(
        tmp_path / "b", {"focus_object": task(("x", 0, 1, [1, 2, 3, 1, 4]))}, list(angles)
    )
    (tmp_path / "one").mkdir()
    first = plan(tmp_path / "one", once, angles, {"x": 0})
    second = plan(tmp_path / "two", twice, angles, {"x": 0})
    assert first.scores == second.scores
    assert first.scores["composed"]["focus_object",]["R@3"] == 1


def test_a_distractor_that_is_listed_twice_takes_two_places(tmp_path: Path) -> None:
    """As in GeneCIS's own code."""
    angles = {0: 0.0, 1: 3.0, 2: 1.0, 3: 5.0}
    twice = task(("x", 0, 1, [2, 3, 2]))
    root = write_root(tmp_path / "root", {"change_object": twice}, list(angles))
    scores = plan(tmp_path, root, angles, {"x": 0}).scores["composed"]["change_object",]
    assert scores == {"R@1": 0, "R@2": 0, "R@3": 1}


def test_mapped_searches_for_the_target_since_no_gallery_has_the_reference(tmp_path: Path) -> None:
    angles = {0: 0.0, 1: 3.0, 2: 1.0, 3: 5.0}
    root = write_root(tmp_path / "root", {"focus_object": task(("x", 0, 1, [2, 3]))}, list(angles))
    run = planned_run(tmp_path / "cache", {name(one): at(a) for one, a in angles.items()}, {})
    [answer] = GENECIS.evaluate(run, root, [Method("mapped", "")], answers=1).answers
    assert [hit.image.name for hit in answer.hits] == ["2", "1", "3"]
    assert [hit.verdict for hit in answer.hits] == ["wrong", "right", "wrong"]


def draw_tasks(rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    tasks: dict[str, list[dict[str, Any]]] = {}
    for which in TASKS:
        records = []
        for number in range(12):
            rows = [int(row) for row in rng.choice(50, 11, replace=False)]
            if "object" in which:
                images: list[dict[str, Any]] = [{"val_image_id": 100 + row} for row in rows]
            else:
                images = [
                    {
                        "image_id": 1 + row,
                        "instance_bbox": [float(x) for x in rng.integers(0, 12, 2)]
                        + [float(x) for x in rng.integers(3, 9, 2)],
                    }
                    for row in rows
                ]
            records.append(
                {
                    "condition": f"colour {number}",
                    "reference": images[0],
                    "target": images[1],
                    "gallery": images[2:],
                }
            )
        tasks[which] = records
    return tasks


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random records for all four tasks."""
    rng = np.random.default_rng(4)
    root = tmp_path_factory.mktemp("genecis") / "root"
    write_root(root, draw_tasks(rng), range(100, 150))
    (root / "VG_100K_all").mkdir()
    for one in range(1, 51):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "VG_100K_all" / f"{one}.jpg", "PNG")
    return root


def plain_cut(root: Path, record: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Crop an image as GeneCIS's own code does."""
    if "val_image_id" in record:
        path = root / "val2017" / f"{name(record['val_image_id'])}.jpg"
        return np.asarray(Image.open(path).convert("RGB"))
    whole = np.asarray(Image.open(root / "VG_100K_all" / f"{record['image_id']}.jpg"))
    x, y, w, h = record["instance_bbox"]
    left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
    right = min(whole.shape[1], left + 1.7 * w)
    bottom = min(whole.shape[0], top + 1.7 * h)
    crop = whole[round(top) : round(bottom), round(left) : round(right)]
    height, width = crop.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    above, before = (side - height) // 2, (side - width) // 2
    square[above : above + height, before : before + width] = crop
    return square


@pytest.mark.parametrize("method", ["composed", "image", "text", "sum"])
def test_scores_equal_a_plain_implementation(
    drawn: Path, bundle: Path, tmp_path: Path, method: str
) -> None:
    result = run_cli("genecis", drawn, bundle, tmp_path, "--method", method, "--json")
    scores = json.loads(result.stdout)["methods"][method]
    retriever = Retriever(bundle, threads=1)
    for which in TASKS:
        ranks = []
        for record in json.loads((drawn / "genecis" / f"{which}.json").read_text()):
            images = [plain_cut(drawn, one) for one in [record["target"], *record["gallery"]]]
            gallery = retriever.encode_images(images)
            reference = retriever.reference(plain_cut(drawn, record["reference"]))
            query = reference.encode(record["condition"], method)
            similarities = gallery.astype(float) @ query.astype(float)
            ranks.append(1 + int((similarities[1:] > similarities[0] + 1e-9).sum()))
        for k in (1, 2, 3):
            expected = np.mean([rank <= k for rank in ranks])
            assert scores[which][f"R@{k}"] == pytest.approx(expected), (which, k)
    for k in (1, 2, 3):
        average = np.mean([scores[which][f"R@{k}"] for which in TASKS])
        assert scores["average"][f"R@{k}"] == pytest.approx(average)


def test_a_box_is_enlarged_and_padded_to_a_square(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    Image.new("RGB", (100, 50), (255, 255, 255)).save(path)
    cut = BenchmarkImage("1", path, (20, 10, 20, 10)).load()
    # From 20 - 14 to 40, and from 10 - 7 to 20: 34 x 17 pixels, in a square of 34.
    assert cut.size == (34, 34)
    column = np.asarray(cut)[:, 17, 0]
    assert column.tolist() == [0] * 8 + [255] * 17 + [0] * 9
    at_the_corner = BenchmarkImage("1", path, (90, 45, 20, 10)).load()
    assert at_the_corner.size == (24, 24)  # 100 - 76 wide


def test_missing_tasks_are_left_out_with_a_note(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    whole = json.loads(run_cli("genecis", drawn, bundle, tmp_path / "cache", "--json").stdout)
    root = tmp_path / "root"
    shutil.copytree(drawn, root)
    for which in TASKS[:2]:
        (root / "genecis" / f"{which}.json").unlink()
    shutil.rmtree(root / "VG_100K_all")  # images that no task needs may be missing
    result = run_cli("genecis", root, bundle, tmp_path / "cache", "--json")
    assert "focus_attribute, change_attribute are missing" in result.stderr
    values = json.loads(result.stdout)
    assert set(values["methods"]["composed"]) == {"focus_object", "change_object"}  # no average
    assert values["notes"]
    for which in TASKS[2:]:
        assert values["methods"]["composed"][which] == whole["methods"]["composed"][which]


def test_images_of_visual_genome_may_stay_in_their_two_folders(
    drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(drawn, root)
    (root / "VG_100K_all").rename(root / "VG_100K")
    (root / "VG_100K_2").mkdir()
    for one in range(1, 51, 2):
        (root / "VG_100K" / f"{one}.jpg").rename(root / "VG_100K_2" / f"{one}.jpg")
    parts = json.loads(run_cli("genecis", root, bundle, tmp_path / "cache", "--json").stdout)
    whole = json.loads(run_cli("genecis", drawn, bundle, tmp_path / "cache", "--json").stdout)
    assert parts["methods"] == whole["methods"]


def edit_all(task: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return edit_json(f"genecis/{task}.json", lambda records: [change(one) for one in records])


WRONG: dict[str, tuple[Callable[[Path], object], type[ZtcirError], str]] = {
    "no annotations": (
        lambda root: shutil.rmtree(root / "genecis"),
        ZtcirError,
        r"no annotations of GeneCIS in .*ztcir eval genecis --download-help",
    ),
    "an object without its box": (
        edit_all("focus_attribute", lambda one: {**one, "reference": {"image_id": 1}}),
        ZtcirError,
        r"Query 0 of .*_attribute.json is unusable \(an image has no id, or no box in 'reference'",
    ),
    "an image without an id": (
        edit_all("focus_object", lambda one: {**one, "gallery": [{}]}),
        ZtcirError,
        r"Query 0 of .*focus_object.json is unusable \(an image has no id.* in 'gallery\[0\]'",
    ),
    "no condition": (
        edit_json("genecis/focus_object.json", without("condition")),
        ZtcirError,
        r"missing required field `condition`",
    ),
    "one image less": (
        lambda root: (root / "val2017" / f"{name(107)}.jpg").unlink(),
        UnusableImagesError,
        r"1 of \d+ images are missing from .*val2017 \(000000000107.jpg\)",
    ),
    "no images of Visual Genome": (
        lambda root: shutil.rmtree(root / "VG_100K_all"),
        UnusableImagesError,
        r"\d+ of \d+ images are missing from .*VG_100K_all",
    ),
    "some of each": (
        lambda root: delete(root / f"val2017/{name(107)}.jpg", root / "VG_100K_all/7.jpg"),
        UnusableImagesError,
        r"2 of \d+ images are missing from (\S+/VG_100K_all, \S+/val2017|"
        r"\S+/val2017, \S+/VG_100K_all) \(",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_data_set_is_refused_before_anything_is_encoded(
    case: str, drawn: Path, tmp_path: Path
) -> None:
    change, kind, message = WRONG[case]
    root = changed(drawn, tmp_path / "root", change)
    assert_refused_before_encoding(GENECIS, root, tmp_path / "cache", kind, message)


def test_another_split_is_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one set of queries"):
        GENECIS.evaluate(planned_run(tmp_path, {}, {}), drawn, [COMPOSED], split="test")


@pytest.mark.slow
def test_the_real_annotations_with_drawn_images(
    shared_data: Path, bundle: Path, tmp_path: Path
) -> None:
    """The two object tasks, whose files are available, measured three times."""
    annotations = shared_data / "cir-annotations" / "genecis"
    root = tmp_path / "root"
    link(annotations, root / "genecis")
    ids: dict[int, None] = {}
    for which in TASKS[2:]:
        for record in json.loads((annotations / f"{which}.json").read_text()):
            images = [record["reference"], record["target"], *record["gallery"]]
            ids |= dict.fromkeys(image["val_image_id"] for image in images)
    write_images(root / "val2017", map(name, ids), ".jpg")
    first = measure_twice("genecis", root, bundle, tmp_path)
    assert first["queries"] == 2 * 1960
    for which in TASKS[2:]:  # chance is one in fifteen
        assert first["methods"]["composed"][which]["R@1"] == pytest.approx(1 / 15, abs=0.025)


def test_boxes_refer_to_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    """As in GeneCIS's own code, which does not turn an image as its EXIF says."""
    stored = Image.new("RGB", (40, 20), "white")
    stored.paste((255, 0, 0), (20, 5, 30, 15))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = tmp_path / "VG_100K_all" / "7.jpg"
    path.parent.mkdir()
    stored.save(path, "JPEG", exif=exif, quality=100, subsampling=0)
    record = {"image_id": 7, "instance_bbox": [20, 5, 10, 10]}
    records = [{"condition": "x", "reference": record, "target": record, "gallery": [record]}]
    write_json(tmp_path / "genecis" / "focus_attribute.json", records)
    annotations = GENECIS.read(tmp_path, "val")
    [image] = {query.reference for query in annotations.parts["focus_attribute"].queries}
    red = np.asarray(image.load())[6, 10]
    assert red[0] > 200
    assert red[1] < 60
    upright = dataclasses.replace(image, upright=True)
    assert upright.key != image.key
    assert not np.array_equal(np.asarray(upright.load()), np.asarray(image.load()))
