"""CIRCO: several targets, semantic aspects, a prompt with the concept, and a submission."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import read_records
from ztcir_sdk.evaluation.benchmarks.circo import BENCHMARK as CIRCO
from ztcir_sdk.evaluation.benchmarks.circo import (
    SUBMISSION,
    _precisions_and_recalls,
    _Query,
    _query,
    _Record,
    _split_concept,
    _with_concept,
)
from ztcir_sdk.evaluation.benchmarks.embedding_run import Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage, UnusableImagesError
from ztcir_sdk.evaluation.benchmarks.queries import Part

KS = (5, 10, 25, 50)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


def write_gallery(root: Path, ids: Sequence[int]) -> None:
    """Write COCO's list of images and the images."""
    above = root / "COCO2017_unlabeled"
    write_json(
        above / "annotations" / "image_info_unlabeled2017.json",
        {"info": {}, "images": [{"id": one, "file_name": f"{one:012d}.jpg"} for one in ids]},
    )
    write_images(above / "unlabeled2017", [f"{one:012d}" for one in ids], ".jpg")


def write_root(root: Path, queries: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> Path:
    write_gallery(root, ids)
    write_json(root / "annotations" / "val.json", list(queries))
    hidden = ("target_img_id", "gt_img_ids", "semantic_aspects")
    test = [{k: v for k, v in one.items() if k not in hidden} for one in queries]
    write_json(root / "annotations" / "test.json", test)
    return root


def query(
    number: int, reference: int, targets: list[int], *aspects: str, caption: str = "x"
) -> dict[str, Any]:
    return {
        "reference_img_id": reference,
        "target_img_id": targets[0],
        "relative_caption": caption,
        "shared_concept": "a thing",
        "gt_img_ids": targets,
        "id": number,
        "semantic_aspects": list(aspects),
    }


def name(one: int) -> str:
    return f"{one:012d}"


def test_scores_worked_by_hand(tmp_path: Path) -> None:
    # Image n is n degrees from the query: the ranking is 1, 2, 3, ..., including the reference.
    ids = list(range(1, 61))
    records = [
        query(0, 60, [30, 1, 3, 9], "negation", "addition"),
        query(1, 1, [2], "negation"),  # the reference stays and is the nearest
        query(2, 60, [59, 58, 57], "addition"),
    ]
    root = write_root(tmp_path / "root", records, ids)
    run = planned_run(tmp_path / "cache", {name(one): at(one) for one in ids}, {"x": at(0)})
    report = CIRCO.evaluate(run, root, [COMPOSED])
    assert (report.queries, report.gallery) == (3, 60)
    scores = report.scores["composed"]
    # Found at 1, 3, 9 and 30: precisions 1/1, 2/3, 3/9, 4/30, of four.
    first = {5: (1 + 2 / 3) / 4, 10: (1 + 2 / 3 + 3 / 9) / 4, 50: (1 + 2 / 3 + 3 / 9 + 4 / 30) / 4}
    first[25] = first[10]
    for k in KS:
        expected = (first[k] + 1 / 2 + 0) / 3
        assert scores["all",][f"mAP@{k}"] == pytest.approx(expected), k
        # Recall counts only the image for which the caption was written: 30, 2, and 59.
        assert scores["all",][f"R@{k}"] == pytest.approx((int(k == 50) + 1) / 3), k
        assert scores["aspect", "negation"][f"mAP@{k}"] == pytest.approx((first[k] + 1 / 2) / 2)
        assert scores["aspect", "addition"][f"mAP@{k}"] == pytest.approx((first[k] + 0) / 2)
    assert set(scores) == {("all",), ("aspect", "addition"), ("aspect", "negation")}


def test_average_precision_divides_by_k_if_there_are_more_targets(tmp_path: Path) -> None:
    ids = list(range(1, 61))
    root = write_root(tmp_path / "root", [query(0, 60, list(range(1, 9)), "negation")], ids)
    run = planned_run(tmp_path / "cache", {name(one): at(one) for one in ids}, {"x": at(0)})
    scores = CIRCO.evaluate(run, root, [COMPOSED]).scores["composed"]["all",]
    assert scores["mAP@5"] == 1


def test_ties_rank_in_the_order_of_coco(tmp_path: Path) -> None:
    ids = [9, 7, 8, 5, 6, 4, 3]  # in the order of the list, not of the numbers
    root = write_root(tmp_path / "root", [query(0, 3, [6], "negation")], ids)
    same = dict.fromkeys([name(one) for one in ids], at(10))
    run = planned_run(tmp_path / "cache", same, {"x": at(0)})
    report = CIRCO.evaluate(run, root, [COMPOSED], answers=1)
    assert [hit.image.name for hit in report.answers[0].hits] == [str(one) for one in ids]
    assert report.scores["composed"]["all",]["mAP@5"] == pytest.approx(1 / 5)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    ids = rng.choice(600_000, 130, replace=False).tolist()
    records = []
    for number in range(25):
        chosen = [int(one) for one in rng.choice(ids, 1 + rng.integers(1, 15), replace=False)]
        aspects = rng.choice(["negation", "addition", "viewpoint"], 2, replace=False)
        caption = f"has {number} cats"
        records.append(query(number, chosen[0], chosen[1:], *map(str, aspects), caption=caption))
    return write_root(tmp_path_factory.mktemp("circo") / "root", records, ids)


def plain_rankings(
    root: Path, retriever: Retriever, method: str
) -> list[tuple[dict[str, Any], list[int]]]:
    above = root / "COCO2017_unlabeled"
    ids = [
        one["id"]
        for one in json.loads(
            (above / "annotations" / "image_info_unlabeled2017.json").read_text()
        )["images"]
    ]
    records = json.loads((root / "annotations" / "val.json").read_text())
    files = above / "unlabeled2017"
    gallery = retriever.encode_images([files / f"{name(one)}.jpg" for one in ids])
    references = retriever.references(
        [files / f"{name(one['reference_img_id'])}.jpg" for one in records]
    )
    queries = retriever.encode_queries(
        references, [one["relative_caption"] for one in records], range(len(records)), method
    )
    scores = (queries.astype(float) @ gallery.T.astype(float)).astype(np.float32)
    orders = np.argsort(-scores, axis=1, kind="stable")
    return [
        (one, [ids[place] for place in order]) for one, order in zip(records, orders, strict=True)
    ]


def plain_average_precision(ranking: list[int], targets: list[int], k: int) -> float:
    """Return the sum of the precision at each hit, divided by min(targets, k)."""
    labels = np.isin(ranking[:k], targets)
    precisions = np.cumsum(labels) * labels / np.arange(1, k + 1)
    return float(precisions.sum() / min(len(targets), k))


@pytest.mark.parametrize("method", ["composed", "image", "text", "sum"])
def test_scores_equal_a_plain_implementation(
    drawn: Path, bundle: Path, tmp_path: Path, method: str
) -> None:
    result = run_cli("circo", drawn, bundle, tmp_path, "--method", method, "--json")
    scores = json.loads(result.stdout)["methods"][method]
    rankings = plain_rankings(drawn, Retriever(bundle, threads=1), method)
    for k in KS:
        each = [plain_average_precision(found, one["gt_img_ids"], k) for one, found in rankings]
        assert scores["all"][f"mAP@{k}"] == pytest.approx(np.mean(each)), k
        hits = [one["target_img_id"] in found[:k] for one, found in rankings]
        assert scores["all"][f"R@{k}"] == pytest.approx(np.mean(hits)), k
        for aspect in ("negation", "addition", "viewpoint"):
            own = [
                value
                for value, (one, _) in zip(each, rankings, strict=True)
                if aspect in one["semantic_aspects"]
            ]
            assert scores["aspect"][aspect][f"mAP@{k}"] == pytest.approx(np.mean(own))


def assert_valid_submission(content: Any, ids: set[str], count: int) -> None:
    """Check the format that the server requires."""
    assert set(content) == ids
    for found in content.values():
        assert len(found) == len(set(found)) == count
        assert all(type(one) is int for one in found)


def test_the_published_example_passes_the_same_check(shared_data: Path) -> None:
    folder = shared_data / "cir-annotations" / "circo"
    ids = {str(one["id"]) for one in json.loads((folder / "annotations/test.json").read_text())}
    example = json.loads((folder / "submission_examples/submission_test.json").read_text())
    assert_valid_submission(example, ids, 50)


def test_the_published_predictions_score_as_with_the_published_code(shared_data: Path) -> None:
    """A plain version of CIRCO's ``evaluation.py``, on its example for the validation split."""
    folder = shared_data / "cir-annotations" / "circo"
    example = json.loads((folder / "submission_examples/submission_val.json").read_text())
    records = json.loads((folder / "annotations/val.json").read_text())
    ids = {one for found in example.values() for one in found}
    ids |= {target for one in records for target in [one["reference_img_id"], *one["gt_img_ids"]]}
    images = {one: BenchmarkImage(str(one), Path()) for one in sorted(ids)}
    structs = read_records(folder / "annotations/val.json", _Record, "circo")
    part = Part([_query(one, images) for one in structs], list(images.values()))
    rows = np.array(
        [[part.rows[images[one]] for one in example[query.id]] for query in part.queries]
    )
    scores = _precisions_and_recalls(part, (rows, np.zeros(rows.shape, np.float32)))
    for k in KS:
        each = [
            plain_average_precision(example[str(one["id"])], one["gt_img_ids"], k)
            for one in records
        ]
        assert scores["all",][f"mAP@{k}"] == pytest.approx(np.mean(each))
        hits = [one["target_img_id"] in example[str(one["id"])][:k] for one in records]
        assert scores["all",][f"R@{k}"] == pytest.approx(np.mean(hits))
        for aspect in {aspect for one in records for aspect in one["semantic_aspects"]}:
            own = [value for value, one in zip(each, records, strict=True)
                   if aspect in one["semantic_aspects"]]  # fmt: skip
            assert scores["aspect", aspect][f"mAP@{k}"] == pytest.approx(np.mean(own))


def test_a_submission_contains_the_rankings(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    run_cli("circo", drawn, bundle, tmp_path, "--split", "test", "--out", tmp_path)
    content = json.loads((tmp_path / SUBMISSION).read_text())
    rankings = plain_rankings(drawn, Retriever(bundle, threads=1), "composed")
    assert_valid_submission(content, {str(one["id"]) for one, _ in rankings}, 50)
    for one, found in rankings:
        assert content[str(one["id"])] == found[:50]


# the shared concept


def test_the_concept_is_used_only_if_the_prompt_has_its_slot(
    drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    plain = json.loads(run_cli("circo", drawn, bundle, tmp_path, "--json").stdout)
    prompt = "a photo of $ , {concept} , that {text}"
    result = run_cli("circo", drawn, bundle, tmp_path, "--json", "--prompt", prompt)
    with_concept = json.loads(result.stdout)
    assert with_concept["prompt"] == prompt
    assert with_concept["methods"] != plain["methods"]
    # The same as with captions that contain the concept.
    root = tmp_path / "root"
    shutil.copytree(drawn, root)
    records = json.loads((root / "annotations" / "val.json").read_text())
    for one in records:
        one["relative_caption"] = f"{one['shared_concept']} , that {one['relative_caption']}"
    write_json(root / "annotations" / "val.json", records)
    result = run_cli("circo", root, bundle, tmp_path, "--json", "--prompt", "a photo of $ , {text}")
    assert json.loads(result.stdout)["methods"] == with_concept["methods"]


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_slots_in_annotations_stay_text(concept: str, caption: str) -> None:
    prompt, pattern = _split_concept("a photo of $ , {concept} , that {text}")
    assert prompt == "a photo of $ , {text}"
    query = _Query(BenchmarkImage("1", Path()), caption, concept=concept)
    assert _with_concept(pattern, query).text == f"{concept} , that {caption}"


@pytest.mark.parametrize(
    "prompt", ["{concept} $ that {text}", "a photo of $ {concept}", "$ {concept} {concept}"]
)
def test_a_prompt_must_separate_the_concept_from_the_reference(
    prompt: str, drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    result = run_cli("circo", drawn, bundle, tmp_path, "--prompt", prompt, exit_code=2)
    assert "both after its $" in result.stderr


# wrong data sets and calls


VAL = "annotations/val.json"
INFO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
WRONG: dict[str, tuple[Callable[[Path], object], type[ZtcirError], str]] = {
    "no annotations": (
        lambda root: (root / VAL).unlink(),
        ZtcirError,
        r"val.json do not exist: .*ztcir eval circo --download-help",
    ),
    "annotations of before the aspects": (
        edit_json(VAL, without("semantic_aspects")),
        ZtcirError,
        r"missing required field `semantic_aspects`\), so the file is damaged or of another",
    ),
    "no list of the gallery": (
        lambda root: (root / INFO).unlink(),
        ZtcirError,
        r"image_info_unlabeled2017.json do not exist",
    ),
    "a list of something else": (
        edit_json(INFO, lambda _: {"images": [1]}),
        ZtcirError,
        r"is not a list of COCO",
    ),
    "a list of other images": (
        edit_json(INFO, lambda info: {"images": info["images"][:30]}),
        ZtcirError,
        r"images of val.json are not in image_info_unlabeled2017.json .*different versions",
    ),
    "a target that is not right": (
        edit_json(VAL, lambda records: [{**one, "target_img_id": -1} for one in records]),
        ZtcirError,
        r"its target is not among its correct images",
    ),
    "a folder with fewer images": (
        lambda root: delete(*sorted((root / "COCO2017_unlabeled" / "unlabeled2017").iterdir())[:7]),
        UnusableImagesError,
        r"7 of 130 images are missing from ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_data_set_is_refused_before_anything_is_encoded(
    case: str, drawn: Path, tmp_path: Path
) -> None:
    change, kind, message = WRONG[case]
    root = changed(drawn, tmp_path / "root", change)
    assert_refused_before_encoding(CIRCO, root, tmp_path / "cache", kind, message)


def test_a_wrong_split_and_several_methods_for_a_submission_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    run = planned_run(tmp_path / "cache", {}, {})
    with pytest.raises(UsageError, match="no split 'train'"):
        CIRCO.evaluate(run, drawn, [COMPOSED], split="train")
    with pytest.raises(UsageError, match="for one method"):
        CIRCO.evaluate(run, drawn, [COMPOSED, Method("image", "")], split="test")


def test_the_categories_of_an_answer_are_its_aspects(tmp_path: Path) -> None:
    ids = list(range(1, 13))
    root = write_root(tmp_path / "root", [query(0, 1, [2, 3], "negation", "addition")], ids)
    run = planned_run(tmp_path / "cache", {name(one): at(one) for one in ids}, {"x": at(0)})
    [answer] = CIRCO.evaluate(run, root, [COMPOSED], answers=5).answers
    assert answer.categories == ("negation", "addition")
    assert len(answer.hits) == 10
    assert [hit.verdict for hit in answer.hits[:4]] == ["reference", "right", "right", "wrong"]


# the real annotations


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ztcir_sdk.tokenizer.TextTruncatedWarning")
def test_the_real_annotations_with_drawn_images(
    shared_data: Path, bundle: Path, tmp_path: Path
) -> None:
    """Every id that the annotations name, and distractors, measured three times."""
    annotations = shared_data / "cir-annotations" / "circo" / "annotations"
    root = tmp_path / "root"
    link(annotations, root / "annotations")
    records = {split: json.loads((annotations / f"{split}.json").read_text())
             for split in ("val", "test")}  # fmt: skip
    named = {one["reference_img_id"] for split in records.values() for one in split}
    named |= {target for one in records["val"] for target in one["gt_img_ids"]}
    distractors = {600_000 + number for number in range(1500)}
    write_gallery(root, sorted(named) + sorted(distractors))
    first = measure_twice("circo", root, bundle, tmp_path)
    assert (first["queries"], first["gallery"]) == (220, 1903 + 1500)
    assert len(first["methods"]["composed"]["aspect"]) == 9
    run_cli("circo", root, bundle, tmp_path / "one", "--split", "test", "--out", tmp_path)
    content = json.loads((tmp_path / SUBMISSION).read_text())
    assert_valid_submission(content, {str(one["id"]) for one in records["test"]}, 50)
    rankings = plain_rankings(root, Retriever(bundle, threads=1), "composed")
    average = np.mean(
        [plain_average_precision(found, one["gt_img_ids"], 10) for one, found in rankings]
    )
    assert first["methods"]["composed"]["all"]["mAP@10"] == pytest.approx(average)
