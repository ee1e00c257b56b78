"""CIRR: the reference is left out, groups rank among themselves, and what its server takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import (
    COMPOSED,
    assert_refused_before_any_work,
    at,
    changed,
    link,
    measure_anew_and_again,
    planned_run,
    run_cli,
    write_images,
    write_json,
)
from numpy.typing import NDArray
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.cirr import SUBMISSIONS, evaluate_cirr
from ztcir_sdk.evaluation.benchmarks.embedding_run import Method
from ztcir_sdk.evaluation.benchmarks.images import UnusableImagesError

Array = NDArray[np.float32]
FOLDERS = {"val": "dev", "test1": "test1"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


def write_root(
    root: Path,
    queries: Sequence[tuple[str, str, str, Sequence[str]]],
    names: Sequence[str],
    split: str = "val",
) -> Path:
    """Write queries (reference, caption, target, group of six), and all images."""
    folder = FOLDERS[split]
    records = []
    for number, (reference, caption, target, group) in enumerate(queries):
        record: dict[str, Any] = {
            "pairid": 100 + number,
            "reference": reference,
            "caption": caption,
            "img_set": {"id": number, "members": list(group)},
        }
        if split == "val":
            record |= {"target_hard": target, "target_soft": {target: 1.0}}
        records.append(record)
    write_json(root / "cirr" / "captions" / f"cap.rc2.{split}.json", records)
    paths = {name: f"./{folder}/{name}.png" for name in names}
    write_json(root / "cirr" / "image_splits" / f"split.rc2.{split}.json", paths)
    write_images(root / folder, names)
    return root


ANGLES = {"r": 0, "other": 2, "a": 5, "b": 10, "c": 15, "t": 20, "d": 25}
GROUP = ["r", "t", "a", "b", "c", "d"]


def test_by_hand(tmp_path: Path) -> None:
    root = write_root(
        tmp_path / "root", [("r", "far", "t", GROUP), ("r", "near", "t", GROUP)], list(ANGLES)
    )
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"far": at(0), "near": at(19)})
    report = evaluate_cirr(run, root, [COMPOSED])
    assert (report.queries, report.gallery) == (2, 7)
    # "far": other, a, b, c, t, d. The target is fifth, and would be sixth if the reference, which
    # is the nearest of all, stayed; of its group it is fourth. "near": the target is the first.
    assert report.scores["composed"]["val",] == {
        "R@1": 0.5,
        "R@5": 1,
        "R@10": 1,
        "R@50": 1,
        "R_subset@1": 0.5,
        "R_subset@2": 0.5,
        "R_subset@3": 0.5,
        "mean(R@5, R_subset@1)": 0.75,
    }


def test_a_member_that_a_group_names_twice_is_one_image(tmp_path: Path) -> None:
    group = ["r", "a", "a", "t", "b", "c", "d"]
    root = write_root(tmp_path / "root", [("r", "x", "t", group)], list(ANGLES))
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"x": at(13)})  # c, b, t and a, which is nearer
    scores = evaluate_cirr(run, root, [COMPOSED]).scores["composed"]["val",]
    assert [scores[f"R_subset@{k}"] for k in (1, 2, 3)] == [0, 0, 1]


@pytest.mark.parametrize(("before", "found"), [(4, 1), (5, 0)])
def test_ties_rank_in_the_order_of_the_split(tmp_path: Path, before: int, found: int) -> None:
    """So many images that are the same as the target come before it."""
    names = ["r", *(f"same{n}" for n in range(before)), "t", *"wxyz"]
    images = dict.fromkeys(names, at(10)) | {"r": at(0)}
    root = write_root(tmp_path / "root", [("r", "x", "t", ["r", "t", *"wxyz"])], names)
    run = planned_run(tmp_path / "cache", images, {"x": at(0)})
    scores = evaluate_cirr(run, root, [COMPOSED]).scores["composed"]["val",]
    assert (scores["R@1"], scores["R@5"]) == (0, found)
    assert scores["R_subset@1"] == 1  # in the split, the target comes before w, x, y and z


def draw_root(root: Path, split: str) -> Path:
    rng = np.random.default_rng(2)
    names = [f"{FOLDERS[split]}-{n}-img0" for n in range(90)]
    queries = []
    for number in range(30):
        group = [names[row] for row in rng.choice(90, 6, replace=False)]
        queries.append((group[0], f"show {number} dogs", group[3], sorted(group)))
    return write_root(root, queries, names, split)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random data set, both splits of it."""
    root = tmp_path_factory.mktemp("cirr") / "root"
    draw_root(root, "val")
    return draw_root(root, "test1")


def plain_rankings(
    root: Path, retriever: Retriever, split: str, method: str
) -> list[tuple[dict[str, Any], list[str], list[str]]]:
    """Each query with its whole ranking and its group's, one image at a time."""
    folder = root / FOLDERS[split]
    asked = json.loads((root / "cirr" / "captions" / f"cap.rc2.{split}.json").read_text())
    names = list(
        json.loads((root / "cirr" / "image_splits" / f"split.rc2.{split}.json").read_text())
    )
    gallery: Mapping[str, Array] = dict(
        zip(names, retriever.encode_images([folder / f"{n}.png" for n in names]), strict=True)
    )
    references = retriever.references([folder / f"{one['reference']}.png" for one in asked])
    queries = retriever.encode_queries(
        references, [one["caption"] for one in asked], range(len(asked)), method
    )
    found = []
    for one, query in zip(asked, queries, strict=True):
        scores = {n: float(np.float32(query.astype(float) @ v)) for n, v in gallery.items()}
        others = [n for n in names if n != one["reference"]]
        whole = sorted(others, key=lambda name: -scores[name])  # stable: ties as in the split
        group = [name for name in whole if name in one["img_set"]["members"]]
        found.append((one, whole, group))
    return found


@pytest.mark.parametrize("method", ["composed", "image", "text", "sum"])
def test_the_numbers_are_a_plain_counts(
    drawn: Path, bundle: Path, tmp_path: Path, method: str
) -> None:
    result = run_cli("cirr", drawn, bundle, tmp_path, "--method", method, "--json")
    scores = json.loads(result.stdout)["methods"][method]["val"]
    rankings = plain_rankings(drawn, Retriever(bundle, threads=1), "val", method)
    for k in (1, 5, 10, 50):
        found = [one["target_hard"] in whole[:k] for one, whole, _ in rankings]
        assert scores[f"R@{k}"] == pytest.approx(np.mean(found)), k
    for k in (1, 2, 3):
        found = [one["target_hard"] in group[:k] for one, _, group in rankings]
        assert scores[f"R_subset@{k}"] == pytest.approx(np.mean(found)), k


def assert_valid_submission(
    content: Mapping[str, Any], metric: str, queries: Sequence[Mapping[str, Any]], names: set[str]
) -> None:
    """What the server asks for, as its published examples have it."""
    assert (content["version"], content["metric"]) == ("rc2", metric)
    ids = {str(one["pairid"]) for one in queries}
    assert set(content) - {"version", "metric"} == ids
    for one in queries:
        found = content[str(one["pairid"])]
        assert len(found) == len(set(found)) == (50 if metric == "recall" else 3)
        assert set(found) <= names - {one["reference"]}
        if metric == "recall_subset":
            assert set(found) <= set(one["img_set"]["members"])


def test_the_published_examples_are_valid_by_the_same_measure(shared_data: Path) -> None:
    """So a submission that this measure passes is like what the server is known to take."""
    folder = shared_data / "cir-annotations" / "cirr"
    queries = json.loads((folder / "captions" / "cap.rc2.test1.json").read_text())
    names = set(json.loads((folder / "image_splits" / "split.rc2.test1.json").read_text()))
    for metric in SUBMISSIONS.values():
        example = folder / "submission_examples" / f"test1_pred_ranks_{metric}.json"
        assert_valid_submission(json.loads(example.read_text()), metric, queries, names)


def test_submissions_are_the_rankings(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "to" / "submit"
    result = run_cli("cirr", drawn, bundle, tmp_path, "--split", "test", "--out", out)
    assert all(f"to submit: {out / file}" in result.stdout for file in SUBMISSIONS)
    rankings = plain_rankings(drawn, Retriever(bundle, threads=1), "test1", "composed")
    queries = [one for one, _, _ in rankings]
    names = {path.stem for path in (drawn / "test1").iterdir()}
    for file, metric in SUBMISSIONS.items():
        content = json.loads((out / file).read_text())
        assert_valid_submission(content, metric, queries, names)
        for one, whole, group in rankings:
            expected = whole[:50] if metric == "recall" else group[:3]
            assert content[str(one["pairid"])] == expected


def test_a_submission_is_one_methods(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    result = run_cli(
        "cirr", drawn, bundle, tmp_path, "--split", "test", "--method", "all", exit_code=2
    )
    assert "one method's" in result.stderr
    with pytest.raises(UsageError, match="no split 'train'"):
        evaluate_cirr(planned_run(tmp_path, {}, {}), drawn, [COMPOSED], split="train")


def test_images_may_lie_where_the_annotations_readme_has_them(
    drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(drawn, root)
    (root / "cirr" / "img_raw").mkdir()
    (root / "dev").rename(root / "cirr" / "img_raw" / "dev")
    moved = json.loads(run_cli("cirr", root, bundle, tmp_path / "cache", "--json").stdout)
    usual = json.loads(run_cli("cirr", drawn, bundle, tmp_path / "cache", "--json").stdout)
    assert moved["methods"] == usual["methods"]


def edit(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "cirr" / file
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return apply


def each(change: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda records: [{**one, **change} for one in records]


CAPTIONS, SPLIT = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"
WRONG: dict[str, tuple[Callable[[Path], object], type[ZtcirError], str]] = {
    "no annotations": (
        lambda root: shutil.rmtree(root / "cirr"),
        ZtcirError,
        r"has no folder cirr/captions or captions: `ztcir eval cirr --download-help`",
    ),
    "no images": (lambda root: shutil.rmtree(root / "dev"), ZtcirError, r"has no folder dev or"),
    "one image less": (
        lambda root: (root / "dev" / "dev-7-img0.png").unlink(),
        UnusableImagesError,
        r"1 of 90 images are missing from .*dev-7-img0.png",
    ),
    "a split naming an unknown image": (
        edit(SPLIT, lambda paths: {**paths, "dev-x": "./dev/dev-x.png"}),
        UnusableImagesError,
        r"1 of 91 images are missing from .*dev-x.png",
    ),
    "another version": (
        edit(SPLIT, lambda paths: dict(list(paths.items())[:40])),
        ZtcirError,
        r"images of cap.rc2.val.json are not in split.rc2.val.json .*different versions",
    ),
    "a target outside of its group": (
        edit(CAPTIONS, each({"target_hard": "dev-89-img0"})),
        ZtcirError,
        r"reference or target outside of its own group",
    ),
    "no group": (
        edit(CAPTIONS, each({"img_set": {}})),
        ZtcirError,
        r"reference or target outside of its own group",
    ),
    "a split that is none": (edit(SPLIT, lambda _: []), ZtcirError, r"no list of images"),
    "the test split's captions": (
        edit(CAPTIONS, lambda records: [{k: v for k, v in one.items() if "target" not in k}
                                        for one in records]),
        ZtcirError,
        r"Query 0 of .* no usable 'target_hard'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_sentence_before_any_work(
    case: str, drawn: Path, tmp_path: Path
) -> None:
    change, kind, message = WRONG[case]
    root = changed(drawn, tmp_path / "root", change)
    assert_refused_before_any_work(evaluate_cirr, root, tmp_path / "cache", kind, message)


def test_mapped_looks_for_the_reference_itself(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", [("r", "far", "t", GROUP)], list(ANGLES))
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"far": at(0)})
    composed = evaluate_cirr(run, root, [COMPOSED], answers=1).answers[0]
    assert [hit.image.name for hit in composed.hits] == ["other", "a", "b", "c", "t", "d"]
    assert [hit.verdict for hit in composed.hits] == [*["wrong"] * 4, "right", "wrong"]
    mapped = evaluate_cirr(run, root, [Method("mapped", "")], answers=1).answers[0]
    assert (mapped.hits[0].image.name, mapped.hits[0].verdict) == ("r", "right")
    assert [hit.verdict for hit in mapped.hits[1:]] == ["wrong"] * 6


def test_what_is_right_of_the_test_split_is_not_known(drawn: Path, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", [("r", "far", "", GROUP)], list(ANGLES), "test1")
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"far": at(0)})
    report = evaluate_cirr(run, root, [COMPOSED], split="test", answers=1)
    assert {hit.verdict for hit in report.answers[0].hits} == {"unknown"}
    assert report.scores == {}
    assert report.submissions["cirr-test1-recall_subset.json"]["100"] == ["a", "b", "c"]


@pytest.mark.slow
def test_the_real_annotations_with_drawn_images(
    shared_data: Path, bundle: Path, tmp_path: Path
) -> None:
    """Every name of both splits, twice over, to the same numbers; and what the server takes."""
    annotations = shared_data / "cir-annotations" / "cirr"
    root = tmp_path / "root"
    for part in ("captions", "image_splits"):
        link(annotations / part, root / "cirr" / part)
    queries, names = {}, {}
    for split, folder in FOLDERS.items():
        queries[split] = json.loads((annotations / f"captions/cap.rc2.{split}.json").read_text())
        paths = json.loads((annotations / f"image_splits/split.rc2.{split}.json").read_text())
        names[split] = set(paths)
        write_images(root / folder, paths)
    first = measure_anew_and_again("cirr", root, bundle, tmp_path)
    assert (first["queries"], first["gallery"]) == (4181, 2297)
    scores = first["methods"]["composed"]["val"]
    assert scores["R@50"] < 0.1 < scores["R_subset@1"] < 0.35  # chance: 0.02 and 0.2

    out = tmp_path / "submit"
    run_cli("cirr", root, bundle, tmp_path / "one", "--split", "test", "--out", out)
    for file, metric in SUBMISSIONS.items():
        assert (out / file).stat().st_size < 5_000_000  # the server's limit
        content = json.loads((out / file).read_text())
        assert_valid_submission(content, metric, queries["test1"], names["test1"])
