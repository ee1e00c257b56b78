"""FashionIQ: both protocols and all orders of captions, by hand and on the real annotations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

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
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.fashioniq import BENCHMARK as FASHIONIQ
from ztcir_sdk.evaluation.benchmarks.fashioniq import CATEGORIES, ORDERS, PROTOCOLS, join_captions
from ztcir_sdk.evaluation.benchmarks.images import UnusableImagesError

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


def write_root(
    root: Path,
    queries: Mapping[str, list[tuple[str, str, list[str]]]],
    splits: Mapping[str, list[str]],
) -> Path:
    """Write candidates, targets and captions, and the splits, for each category."""
    for category in CATEGORIES:
        write_json(
            root / "captions" / f"cap.{category}.val.json",
            [
                {"candidate": candidate, "target": target, "captions": captions}
                for candidate, target, captions in queries[category]
            ],
        )
        write_json(root / "image_splits" / f"split.{category}.val.json", splits[category])
        write_images(root / "images", splits[category], ".jpg")
    return root


@pytest.fixture
def planned(tmp_path: Path) -> tuple[EmbeddingRun, Path]:
    """One query in each category: candidate at 0 degrees, target at 30, nine others between."""
    images: dict[str, tuple[float, float]] = {}
    queries, splits = {}, {}
    for category in CATEGORIES:
        names = [f"{category}-c", *(f"{category}-{n}" for n in range(1, 10)), f"{category}-t"]
        images |= {name: at(degrees) for name, degrees in zip(names, [*range(10), 30], strict=True)}
        queries[category] = [(names[0], names[-1], ["is red.", " is blue "])]
        splits[category] = names
    texts = {"is red and is blue": at(0), "is blue and is red": at(62)}
    root = write_root(tmp_path / "root", queries, splits)
    return planned_run(tmp_path / "cache", images, texts), root


def test_scores_worked_by_hand(planned: tuple[EmbeddingRun, Path]) -> None:
    report = FASHIONIQ.evaluate(*planned, [COMPOSED])
    scores = report.scores["composed"]
    assert (report.queries, report.gallery) == (3, 33)
    for category in (*CATEGORIES, "average"):
        # Forward, the candidate and nine others are nearer than the target. If the candidate were
        # removed, as in CIRR, the target would be the tenth.
        assert scores["original", "forward", category] == {"R@10": 0, "R@50": 1}
        # The nine are not candidate or target of any query.
        assert scores["val_union", "forward", category] == {"R@10": 1, "R@50": 1}
        # Reversed, at 62 degrees, and for the mean, at 31, the target is the nearest.
        for order in ("reversed", "both"):
            assert scores["original", order, category] == {"R@10": 1, "R@50": 1}


def test_both_averages_embeddings_not_recalls(tmp_path: Path) -> None:
    # For 0 and 80 degrees, ten others are nearer than the target at 40; for their mean, none is.
    names = ["c", *(f"a{n}" for n in range(10)), *(f"b{n}" for n in range(10)), "t"]
    degrees = [-5, *range(10), *(80 - n for n in range(10)), 40]
    images = {name: at(angle) for name, angle in zip(names, degrees, strict=True)}
    root = write_root(
        tmp_path / "root",
        {category: [("c", "t", ["x", "y"])] for category in CATEGORIES},
        dict.fromkeys(CATEGORIES, names),
    )
    run = planned_run(tmp_path / "cache", images, {"x and y": at(0), "y and x": at(80)})
    scores = FASHIONIQ.evaluate(run, root, [COMPOSED]).scores["composed"]
    found = {order: scores["original", order, "average"]["R@10"] for order in ORDERS}
    assert found == {"forward": 0, "reversed": 0, "both": 1}


def test_ties_rank_in_the_order_of_the_split(tmp_path: Path) -> None:
    """Eleven images are equal: the target is found if at most nine of them come before it."""
    names = [f"{n}" for n in range(12)]
    images = dict.fromkeys(names, at(20)) | {"0": at(180)}
    for place, recall in ((10, 1), (11, 0)):
        root = write_root(
            tmp_path / str(place),
            {category: [("0", str(place), ["x", "y"])] for category in CATEGORIES},
            dict.fromkeys(CATEGORIES, names),
        )
        texts = {"x and y": at(0), "y and x": at(0)}
        run = planned_run(tmp_path / f"cache{place}", images, texts)
        scores = FASHIONIQ.evaluate(run, root, [COMPOSED]).scores["composed"]
        assert scores["original", "both", "average"]["R@10"] == recall


def test_captions_are_joined_as_in_searle_and_lincir() -> None:
    assert join_captions("is red, ", " has long sleeves?.") == "is red and has long sleeves"
    assert join_captions("", "fades to orange") == " and fades to orange"  # as in three queries


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random data set."""
    rng = np.random.default_rng(1)
    queries, splits = {}, {}
    for category in CATEGORIES:
        names = [f"{category}{n}" for n in range(int(rng.integers(55, 80)))]
        pairs = [rng.choice(40, 2, replace=False) for _ in range(15)]
        queries[category] = [
            (names[a], names[b], [f"is {a} times longer", f"has {b} dots."]) for a, b in pairs
        ]
        splits[category] = names
    return write_root(tmp_path_factory.mktemp("fashioniq") / "root", queries, splits)


def plain_recall(queries: Array, gallery: Mapping[str, Array], targets: list[str], k: int) -> float:
    """Return the fraction of queries with their target among the first k."""
    found = 0
    for query, target in zip(queries, targets, strict=True):
        names = list(gallery)
        scores = [float(np.float32(query.astype(float) @ gallery[n].astype(float))) for n in names]
        order = sorted(range(len(names)), key=lambda place: (-scores[place], place))
        found += target in [names[place] for place in order[:k]]
    return found / len(targets)


def test_scores_equal_a_plain_implementation(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    result = run_cli("fashioniq", drawn, bundle, tmp_path / "cache", "--method", "all", "--json")
    methods = json.loads(result.stdout)["methods"]
    retriever = Retriever(bundle, threads=1)
    assert list(methods) == list(retriever.bundle.manifest.methods)
    for category in CATEGORIES:
        records = json.loads((drawn / "captions" / f"cap.{category}.val.json").read_text())
        split = json.loads((drawn / "image_splits" / f"split.{category}.val.json").read_text())
        vectors = retriever.encode_images([drawn / "images" / f"{name}.jpg" for name in split])
        gallery = dict(zip(split, vectors, strict=True))
        named = {one[role] for one in records for role in ("candidate", "target")}
        galleries = {
            "original": gallery,
            "val_union": {name: vector for name, vector in gallery.items() if name in named},
        }
        references = retriever.references(
            [drawn / "images" / f"{one['candidate']}.jpg" for one in records]
        )
        for method in methods:
            by_order = {}
            for order in ORDERS[:2]:
                texts = [join_captions(*one["captions"][:: 1 if order == "forward" else -1])
                         for one in records]  # fmt: skip
                by_order[order] = retriever.encode_queries(
                    references, texts, range(len(records)), method
                )
            mean = by_order["forward"] + by_order["reversed"]
            by_order["both"] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            targets = [one["target"] for one in records]
            for protocol in PROTOCOLS:
                for order in ORDERS:
                    for k in (10, 50):
                        expected = plain_recall(by_order[order], galleries[protocol], targets, k)
                        found = methods[method][protocol][order][category][f"R@{k}"]
                        assert found == pytest.approx(expected), (method, protocol, order, k)
    composed = methods["composed"]["original"]["both"]
    assert composed["average"]["R@10"] == pytest.approx(
        np.mean([composed[category]["R@10"] for category in CATEGORIES])
    )


def test_prompt_option_replaces_the_default_prompt(
    drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    default = run_cli("fashioniq", drawn, bundle, tmp_path, "--json")
    written = json.loads(default.stdout)
    assert written["prompt"] == "a photo of $ that {text}"
    same = run_cli(
        "fashioniq", drawn, bundle, tmp_path, "--json", "--prompt", "a photo of $ that {text}"
    )
    other = run_cli("fashioniq", drawn, bundle, tmp_path, "--json", "--prompt", "{text} and $")
    assert json.loads(same.stdout)["methods"] == written["methods"]
    assert json.loads(other.stdout)["methods"] != written["methods"]
    assert json.loads(other.stdout)["prompt"] == "{text} and $"
    named = run_cli("fashioniq", drawn, bundle, tmp_path, "--json", "--prompt", "pic2word")
    assert json.loads(named.stdout)["prompt"] == "a photo of $ , {text}"


def test_padded_images_have_a_cache_of_their_own(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    for options in ((), ("--targetpad",), ("--targetpad",)):
        run_cli("fashioniq", drawn, bundle, tmp_path, "--json", *options)
    assert len(list(tmp_path.rglob("*.sqlite"))) == 2


def test_the_table_is_in_percent(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    values = json.loads(run_cli("fashioniq", drawn, bundle, tmp_path, "--json").stdout)["methods"]
    recall = values["composed"]["val_union"]["reversed"]["dress"]["R@50"]
    printed = run_cli("fashioniq", drawn, bundle, tmp_path).stdout
    [line] = [one for one in printed.splitlines() if "val_union reversed dress" in one]
    assert line.split("\t")[-1] == f"{100 * recall:.2f}"


# wrong data sets


CAPTIONS, SPLIT = "captions/cap.shirt.val.json", "image_splits/split.shirt.val.json"
WRONG: dict[str, tuple[Callable[[Path], object], type[ZtcirError], str]] = {
    "no annotations": (
        lambda root: shutil.rmtree(root / "captions"),
        ZtcirError,
        r"cap.dress.val.json do not exist: .*--download-help",
    ),
    "no images": (
        lambda root: shutil.rmtree(root / "images"),
        ZtcirError,
        r"has no folder images: `ztcir eval fashioniq --download-help`",
    ),
    "one image less": (
        lambda root: (root / "images" / "shirt7.jpg").unlink(),
        UnusableImagesError,
        r"1 of \d+ images are missing from .*shirt7.jpg",
    ),
    "a split naming an unknown image": (
        edit_json(SPLIT, lambda names: [*names, "B000UNKNOWN"]),
        UnusableImagesError,
        r"1 of \d+ images are missing from .*B000UNKNOWN",
    ),
    "another version of the split": (
        edit_json(SPLIT, lambda names: [f"{name}-v2" for name in names]),
        ZtcirError,
        r"images of cap.shirt.val.json are not in split.shirt.val.json .*different versions",
    ),
    "a test file in place of val": (
        edit_json(CAPTIONS, without("target")),
        ZtcirError,
        r"Query 0 of .* is unusable \(Object missing required field `target`\).*another version",
    ),
    "one caption": (
        edit_json(CAPTIONS, lambda records: [{**one, "captions": ["x"]} for one in records]),
        ZtcirError,
        r"Query 0 of .* is unusable \(Expected `array` of length 2 in 'captions'\)",
    ),
    "no JSON": (
        lambda root: (root / CAPTIONS).write_text("<html>"),
        ZtcirError,
        r"cap.shirt.val.json is not JSON",
    ),
    "an empty list": (
        edit_json(CAPTIONS, lambda _: []),
        ZtcirError,
        r"contains no list of queries",
    ),
    "a split that is no list": (
        edit_json(SPLIT, lambda _: {}),
        ZtcirError,
        r"is not a list of image names",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_data_set_is_refused_before_anything_is_encoded(
    case: str, drawn: Path, tmp_path: Path
) -> None:
    change, kind, message = WRONG[case]
    root = changed(drawn, tmp_path / "root", change)
    assert_refused_before_encoding(FASHIONIQ, root, tmp_path / "cache", kind, message)


def test_the_test_split_is_refused(drawn: Path, tmp_path: Path, bundle: Path) -> None:
    run = planned_run(tmp_path / "cache", {}, {})
    with pytest.raises(UsageError, match="not published"):
        FASHIONIQ.evaluate(run, drawn, [COMPOSED], split="test")
    result = run_cli("fashioniq", drawn, bundle, tmp_path, "--split", "test", exit_code=2)
    assert "not published" in result.stderr


def test_answers_follow_the_ranking(planned: tuple[EmbeddingRun, Path]) -> None:
    report = FASHIONIQ.evaluate(*planned, [COMPOSED], answers=3)
    assert [answer.categories for answer in report.answers] == [(one,) for one in CATEGORIES]
    answer = report.answers[0]
    assert (answer.text, answer.reference.name) == ("is red and is blue", "dress-c")
    assert [hit.image.name for hit in answer.hits[:2]] == ["dress-t", "dress-9"]
    assert [hit.verdict for hit in answer.hits[:2]] == ["right", "wrong"]
    assert answer.hits[0].score == pytest.approx(np.cos(np.radians(1)))
    mapped = FASHIONIQ.evaluate(*planned, [Method("mapped", "")], answers=3)
    assert mapped.answers[0].text == "a photo of $"
    assert mapped.answers[0].hits[0].image.name == "dress-c"
    assert mapped.answers[0].hits[0].verdict == "right"  # "mapped" searches for the reference


# the real annotations


@pytest.mark.slow
def test_the_real_annotations_with_drawn_images(
    shared_data: Path, bundle: Path, tmp_path: Path
) -> None:
    """Every name of the validation splits, measured three times."""
    annotations = shared_data / "cir-annotations" / "fashion-iq"
    root = tmp_path / "root"
    names: dict[str, None] = {}
    for part in ("captions", "image_splits"):
        link(annotations / part, root / part)
    for category in CATEGORIES:
        split = (annotations / "image_splits" / f"split.{category}.val.json").read_text()
        names |= dict.fromkeys(json.loads(split))
    write_images(root / "images", names, ".jpg")
    first = measure_twice("fashioniq", root, bundle, tmp_path)
    assert (first["queries"], first["gallery"]) == (2017 + 2038 + 1961, len(names))
    for protocol in PROTOCOLS:  # random colours reach chance level
        average = first["methods"]["composed"][protocol]["both"]["average"]
        assert average["R@10"] < 0.02 < 1 > average["R@50"] > 0
