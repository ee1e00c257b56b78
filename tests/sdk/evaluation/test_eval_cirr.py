"""CIRR: the reference is removed, groups are ranked alone, and submissions are valid."""

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
    assert_refused_before_encoding,
    at,
    changed,
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
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.cirr import BENCHMARK as CIRR
from ztcir_sdk.evaluation.benchmarks.cirr import SUBMISSIONS
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


def test_scores_worked_by_hand(tmp_path: Path) -> None:
    root = write_root(
        tmp_path / "root", [("r", "far", "t", GROUP), ("r", "near", "t", GROUP)], list(ANGLES)
    )
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"far": at(0), "near": at(19)})
    report = CIRR.evaluate(run, root, [COMPOSED])
    assert (report.queries, report.gallery) == (2, 7)
    # "far" ranks other, a, b, c, t, d. The target is fifth, and would be sixth if the reference,
    # the nearest of all, stayed; in its group it is fourth. "near" ranks the target first.
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


def test_a_group_member_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    group = ["r", "a", "a", "t", "b", "c", "d"]
    root = write_root(tmp_path / "root", [("r", "x", "t", group)], list(ANGLES))
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"x": at(13)})  # ranks c, b, t, a
    scores = CIRR.evaluate(run, root, [COMPOSED]).scores["composed"]["val",]
    assert [scores[f"R_subset@{k}"] for k in (1, 2, 3)] == [0, 0, 1]


@pytest.mark.parametrize(("before", "found"), [(4, 1), (5, 0)])
def test_ties_rank_in_the_order_of_the_split(tmp_path: Path, before: int, found: int) -> None:
    """`before` images that are equal to the target come before it."""
    names = ["r", *(f"same{n}" for n in range(before)), "t", *"wxyz"]
    images = dict.fromkeys(names, at(10)) | {"r": at(0)}
    root = write_root(tmp_path / "root", [("r", "x", "t", ["r", "t", *"wxyz"])], names)
    run = planned_run(tmp_path / "cache", images, {"x": at(0)})
    scores = CIRR.evaluate(run, root, [COMPOSED]).scores["composed"]["val",]
    assert (scores["R@1"], scores["R@5"]) == (0, found)
    assert scores["R_subset@1"] == 1  # the target comes before w, x, y and z


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
    """Both splits of a random data set."""
    root = tmp_path_factory.mktemp("cirr") / "root"
    draw_root(root, "val")
    return draw_root(root, "test1")


def plain_rankings(
    root: Path, retriever: Retriever, split: str, method: str
) -> list[tuple[dict[str, Any], list[str], list[str]]]:
    """Return each query with its ranking of the gallery and of its group."""
    folder = root / FOLDERS[split]
    records = json.loads((root / "cirr" / "captions" / f"cap.rc2.{split}.json").read_text())
    names = list(
        json.loads((root / "cirr" / "image_splits" / f"split.rc2.{split}.json").read_text())
    )
    gallery: Mapping[str, Array] = dict(
        zip(names, retriever.encode_images([folder / f"{n}.png" for n in names]), strict=True)
    )
    references = retriever.references([folder / f"{one['reference']}.png" for one in records])
    queries = retriever.encode_queries(
        references, [one["caption"] for one in records], range(len(records)), method
    )
    found = []
    for one, query in zip(records, queries, strict=True):
        scores = {n: float(np.float32(query.astype(float) @ v)) for n, v in gallery.items()}
        others = [n for n in names if n != one["reference"]]
        whole = sorted(others, key=lambda name: -scores[name])  # stable: ties as in the split
        group = [name for name in whole if name in one["img_set"]["members"]]
        found.append((one, whole, group))
    return found


@pytest.mark.parametrize("method", ["composed", "image", "text", "sum"])
def test_scores_equal_a_plain_implementation(
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
    """Check the format that the server requires."""
    assert (content["version"], content["metric"]) == ("rc2", metric)
    ids = {str(one["pairid"]) for one in queries}
    assert set(content) - {"version", "metric"} == ids
    for one in queries:
        found = content[str(one["pairid"])]
        assert len(found) == len(set(found)) == (50 if metric == "recall" else 3)
        assert set(found) <= names - {one["reference"]}
        if metric == "recall_subset":
            assert set(found) <= set(one["img_set"]["members"])


def test_the_published_examples_pass_the_same_check(shared_data: Path) -> None:
    """A submission that passes has the format that the server is known to take."""
    folder = shared_data / "cir-annotations" / "cirr"
    queries = json.loads((folder / "captions" / "cap.rc2.test1.json").read_text())
    names = set(json.loads((folder / "image_splits" / "split.rc2.test1.json").read_text()))
    for metric in SUBMISSIONS.values():
        example = folder / "submission_examples" / f"test1_pred_ranks_{metric}.json"
        assert_valid_submission(json.loads(example.read_text()), metric, queries, names)


def test_submissions_contain_the_rankings(drawn: Path, bundle: Path, tmp_path: Path) -> None:
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


def test_a_submission_is_for_one_method(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    result = run_cli(
        "cirr", drawn, bundle, tmp_path, "--split", "test", "--method", "all", exit_code=2
    )
    assert "A submission is for one method" in result.stderr
    with pytest.raises(UsageError, match="no split 'train'"):
        CIRR.evaluate(planned_run(tmp_path, {}, {}), drawn, [COMPOSED], split="train")


def test_images_may_be_where_the_annotations_readme_puts_them(
    drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(drawn, root)
    (root / "cirr" / "img_raw").mkdir()
    (root / "dev").rename(root / "cirr" / "img_raw" / "dev")
    moved = json.loads(run_cli("cirr", root, bundle, tmp_path / "cache", "--json").stdout)
    usual = json.loads(run_cli("cirr", drawn, bundle, tmp_path / "cache", "--json").stdout)
    assert moved["methods"] == usual["methods"]


def each(change: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda records: [{**one, **change} for one in records]


CAPTIONS, SPLIT = "cirr/captions/cap.rc2.val.json", "cirr/image_splits/split.rc2.val.json"
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
        edit_json(SPLIT, lambda paths: {**paths, "dev-x": "./dev/dev-x.png"}),
        UnusableImagesError,
        r"1 of 91 images are missing from .*dev-x.png",
    ),
    "another version": (
        edit_json(SPLIT, lambda paths: dict(list(paths.items())[:40])),
        ZtcirError,
        r"images of cap.rc2.val.json are not in split.rc2.val.json .*different versions",
    ),
    "a target outside of its group": (
        edit_json(CAPTIONS, each({"target_hard": "dev-89-img0"})),
        ZtcirError,
        r"its target is outside of its own group",
    ),
    "a reference outside of its group": (
        edit_json(CAPTIONS, each({"reference": "dev-89-img0"})),
        ZtcirError,
        r"its reference is outside of its own group",
    ),
    "a reference that is the target": (
        edit_json(CAPTIONS, lambda records: [{**one, "target_hard": one["reference"]}
                                             for one in records]),
        ZtcirError,
        r"its reference is its target",
    ),
    "no group": (
        edit_json(CAPTIONS, each({"img_set": {}})),
        ZtcirError,
        r"Object missing required field `members` in 'img_set'",
    ),
    "a split that is no object": (edit_json(SPLIT, lambda _: []), ZtcirError, r"is not a list"),
    "the test split's captions": (
        edit_json(CAPTIONS, without("target_hard")),
        ZtcirError,
        r"Query 0 of .* is unusable \(Object missing required field `target_hard`\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_data_set_is_refused_before_anything_is_encoded(
    case: str, drawn: Path, tmp_path: Path
) -> None:
    change, kind, message = WRONG[case]
    root = changed(drawn, tmp_path / "root", change)
    assert_refused_before_encoding(CIRR, root, tmp_path / "cache", kind, message)


def test_mapped_searches_for_the_reference(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", [("r", "far", "t", GROUP)], list(ANGLES))
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"far": at(0)})
    composed = CIRR.evaluate(run, root, [COMPOSED], answers=1).answers[0]
    assert [hit.image.name for hit in composed.hits] == ["other", "a", "b", "c", "t", "d"]
    assert [hit.verdict for hit in composed.hits] == [*["wrong"] * 4, "right", "wrong"]
    mapped = CIRR.evaluate(run, root, [Method("mapped", "")], answers=1).answers[0]
    assert (mapped.hits[0].image.name, mapped.hits[0].verdict) == ("r", "right")
    assert [hit.verdict for hit in mapped.hits[1:]] == ["wrong"] * 6


def test_verdicts_of_the_test_split_are_unknown(drawn: Path, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", [("r", "far", "", GROUP)], list(ANGLES), "test1")
    images = {name: at(degrees) for name, degrees in ANGLES.items()}
    run = planned_run(tmp_path / "cache", images, {"far": at(0)})
    report = CIRR.evaluate(run, root, [COMPOSED], split="test", answers=1)
    assert {hit.verdict for hit in report.answers[0].hits} == {"unknown"}
    assert report.scores == {}
    assert report.submissions["cirr-test1-recall_subset.json"]["100"] == ["a", "b", "c"]


@pytest.mark.slow
def test_the_real_annotations_with_drawn_images(
    shared_data: Path, bundle: Path, tmp_path: Path
) -> None:
    """Every name of both splits, measured three times, and the submissions."""
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
    first = measure_twice("cirr", root, bundle, tmp_path)
    assert (first["queries"], first["gallery"]) == (4181, 2297)
    scores = first["methods"]["composed"]["val"]
    assert scores["R@50"] < 0.1 < scores["R_subset@1"] < 0.35  # chance: 0.02 and 0.2

    out = tmp_path / "submit"
    run_cli("cirr", root, bundle, tmp_path / "one", "--split", "test", "--out", out)
    for file, metric in SUBMISSIONS.items():
        assert (out / file).stat().st_size < 5_000_000  # the server's limit
        content = json.loads((out / file).read_text())
        assert_valid_submission(content, metric, queries["test1"], names["test1"])
