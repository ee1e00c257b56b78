"""The choice of precisions: only variants that answer as float32 does are kept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from export_cache import Spoil
from exported import initializers
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import numpy_helper
from PIL import Image
from tiny_bundle import PREPROCESSING, TinyModel, tiny_parts, unit

from export import agreement, precision
from export.agreement import (
    Agreement,
    QuerySet,
    VariantRunner,
    calibration_images,
    drawn_queries,
    folder_queries,
)
from export.precision import Acceptance, PrecisionError, choose_variants
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import UsageError, ZtcirError


def shifted(name: str, by: float) -> Spoil:
    """Return a function that adds noise to one of a graph's weights."""

    def spoil(proto: onnx.ModelProto) -> None:
        tensor = initializers(proto)[name]
        values = numpy_helper.to_array(tensor)
        noise = np.random.default_rng(0).standard_normal(values.shape) * by
        tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), name))

    return spoil


def lost(proto: onnx.ModelProto) -> None:
    shifted("image" if "image" in initializers(proto) else "adapter", np.nan)(proto)


def numpy_bundle(folder: Path, spoilt: Mapping[str, Mapping[str, Spoil]]) -> Bundle:
    """Write the NumPy model's bundle, with spoilt copies of its graphs as variants by key."""
    parts = tiny_parts(TinyModel())
    graphs = {graph: dict(own) for graph, own in parts["graphs"].items()}
    for graph, own in spoilt.items():
        for key, spoil in own.items():
            proto = onnx.load_model_from_string(parts["files"][f"{graph}.onnx"])
            spoil(proto)
            variant = graphs[graph]["fp32"]
            graphs[graph][key] = replace(variant, file=f"{key}-{graph}.onnx", precision=key)
            parts["files"][f"{key}-{graph}.onnx"] = proto.SerializeToString()
    return Bundle.write(folder, **{**parts, "graphs": graphs})


def noise_queries(pictures: int = 60, queries: int = 40) -> QuerySet:
    rng = np.random.default_rng(1)
    return QuerySet(
        rng.standard_normal((pictures, 3, 8, 8)).astype(np.float32),
        [number % pictures for number in range(queries)],
        [f"change {number}" for number in range(queries)],
        "noise",
    )


def fine(proto: onnx.ModelProto) -> None:
    shifted("adapter" if "adapter" in initializers(proto) else "image", 1e-6)(proto)


def test_agreement_is_measured_on_the_hits_of_a_search(tmp_path: Path) -> None:
    bundle = numpy_bundle(tmp_path / "b", {"image_encoder": {"int8-a": shifted("image", 1.5)}})
    runner = VariantRunner(bundle, noise_queries())
    full = dict.fromkeys(bundle.manifest.graphs, "fp32")
    exact = runner.encode(full)
    same = runner.compare(exact, runner.encode(full))
    assert set(same.overlap.values()) == {1.0}
    assert max(same.cosine_distance.values()) < 1e-12
    other = runner.encode({**full, "image_encoder": "int8-a"})
    found = runner.compare(exact, other)
    query_set = runner.query_set
    for method in ("image", "composed"):
        shared = []
        for row, own in enumerate(query_set.references):
            tops = []
            for answers in (exact, other):
                scores = answers.gallery @ answers.queries[method][row]
                scores[own] = -np.inf  # the reference is left out
                tops.append(set(np.argsort(-scores)[:10].tolist()))
            shared.append(len(tops[0] & tops[1]) / 10)
        assert found.overlap[method] == pytest.approx(np.mean(shared))
        assert 0.2 < found.overlap[method] < 0.95
    model = TinyModel()
    np.testing.assert_allclose(
        exact.gallery, model.encode_image(query_set.pixel_values)[0], atol=1e-5
    )
    spoilt = model.image + np.random.default_rng(0).standard_normal(model.image.shape) * 1.5
    moved = unit(
        query_set.pixel_values.mean(axis=(2, 3)) @ spoilt.astype(np.float32) + model.image_bias
    )
    distance = (1 - (exact.gallery * moved).sum(axis=1)).max()
    assert found.cosine_distance["gallery"] == pytest.approx(distance, rel=1e-3)


def choose(
    folder: Path,
    spoilt: Mapping[str, Mapping[str, Spoil]],
    *,
    trained: bool = True,
    **options: Any,
) -> tuple[Any, dict[str, dict[str, Any]], list[str]]:
    bundle = numpy_bundle(folder, spoilt)
    lines: list[str] = []
    chosen, checks = choose_variants(
        VariantRunner(bundle, noise_queries()),
        "int8",
        {graph: list(own) for graph, own in spoilt.items()},
        Acceptance(trained=trained),
        report=lines.append,
        **options,
    )
    return chosen, checks, lines


def test_the_first_variant_that_passes_is_chosen(tmp_path: Path) -> None:
    chosen, checks, lines = choose(
        tmp_path / "b",
        {
            "image_encoder": {"int8-7": shifted("image", 0.5), "int8-8": fine, "int8-9": fine},
            "text_encoder": {"int8-7": fine},
        },
    )
    assert chosen.graphs == {
        "image_encoder": "int8-8",
        "token_learner": "fp32",
        "text_encoder": "int8-7",
    }
    assert "kept_in_fp32" not in chosen.check
    assert min(chosen.check["top10_overlap"].values()) >= 0.95
    assert chosen.check["weights"] == "trained"
    assert checks["image_encoder"]["top10_overlap"].keys() == {"image", "text", "composed"}
    assert "int8-7 image_encoder: the first ten by" in lines[0]
    assert lines[1].startswith("int8-8 image_encoder: passed")
    assert not any("int8-9" in line for line in lines)


def test_a_graph_that_does_not_pass_stays_in_float32(tmp_path: Path) -> None:
    chosen, checks, _ = choose(
        tmp_path / "b",
        {
            "image_encoder": {"int8-7": shifted("image", 0.5)},
            "text_encoder": {"int8-7": fine},
        },
        refused={"token_learner": "it cannot be"},
    )
    assert chosen.graphs["image_encoder"] == "fp32"
    assert chosen.graphs["text_encoder"] == "int8-7"
    kept = chosen.check["kept_in_fp32"]
    assert kept["token_learner"] == "it cannot be"
    assert "int8-7: the first ten by" in kept["image_encoder"]
    assert "under 0.95" in kept["image_encoder"]
    assert set(checks) == {"text_encoder"}


@pytest.mark.parametrize("trained", [True, False])
def test_a_graph_whose_results_are_not_finite_never_passes(tmp_path: Path, trained: bool) -> None:
    chosen, _, lines = choose(
        tmp_path / "b",
        {"image_encoder": {"int8-7": lost}, "text_encoder": {"int8-7": lost, "int8-8": fine}},
        trained=trained,
    )
    assert chosen.graphs == {
        "image_encoder": "fp32",
        "token_learner": "fp32",
        "text_encoder": "int8-8",
    }
    assert "not finite" in lines[0]


def test_random_weights_are_compared_by_cosine_distance(tmp_path: Path) -> None:
    chosen, checks, _ = choose(
        tmp_path / "b",
        {
            "image_encoder": {"int8-7": shifted("image", 0.02)},
            "text_encoder": {"int8-7": shifted("table", 3.0)},
        },
        trained=False,
    )
    assert chosen.graphs["image_encoder"] == "int8-7"
    assert chosen.graphs["text_encoder"] == "fp32"
    assert "over 2e-02" in chosen.check["kept_in_fp32"]["text_encoder"]
    assert "top10_overlap" not in checks["image_encoder"]


def test_a_precision_in_which_no_graph_passes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        PrecisionError, match=r"in int8 \(image_encoder, .*nothing was exported.*cal"
    ):
        choose(tmp_path / "b", {"image_encoder": {"int8-7": shifted("image", 0.5)}})


class FakeRunner:
    """A runner whose agreement with float32 is given for each selection."""

    methods = ("image",)

    def __init__(
        self, graphs: Sequence[str], overlap: Callable[[Mapping[str, str]], float]
    ) -> None:
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(graphs=dict.fromkeys(graphs)))
        self.query_set = SimpleNamespace(description="none", texts=[])
        self._overlap = overlap

    def encode(self, choice: Mapping[str, str]) -> dict[str, str]:
        return dict(choice)

    def compare(self, exact: object, choice: Mapping[str, str]) -> Agreement:
        return Agreement({"gallery": 0.0}, {"image": self._overlap(choice)})


@given(
    losses=st.lists(
        st.dictionaries(st.sampled_from(["int8-7", "int8-8"]), st.floats(0, 0.1), max_size=2),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=200, deadline=None)
def test_chosen_variants_pass_alone_and_together(losses: list[dict[str, float]]) -> None:
    graphs = [f"graph {number}" for number in range(len(losses))]
    by_graph = dict(zip(graphs, losses, strict=True))

    def overlap(choice: Mapping[str, str]) -> float:
        return 1 - sum(by_graph[graph].get(key, 0) for graph, key in choice.items())

    candidates = {graph: sorted(own) for graph, own in by_graph.items()}
    runner: Any = FakeRunner(graphs, overlap)
    possible = any(1 - loss >= 0.95 for own in losses for loss in own.values())
    try:
        chosen, checks = choose_variants(runner, "int8", candidates, Acceptance())
    except PrecisionError:
        assert not possible
        return
    narrow = {graph: key for graph, key in chosen.graphs.items() if key != "fp32"}
    assert possible
    assert narrow
    assert overlap(chosen.graphs) >= 0.95
    assert narrow.keys() == checks.keys()
    kept = (chosen.check or {}).get("kept_in_fp32", {})
    for graph, own in by_graph.items():
        passing = [key for key in candidates[graph] if 1 - own[key] >= 0.95]
        assert chosen.graphs[graph] in ("fp32", *passing[:1])
        assert (graph in kept) == (graph not in narrow and bool(own))


def test_map_may_fall_by_half_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precision.BOUNDS, "int8", precision.Bounds(0.0, 2.0))
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            photos / f"{number:02}.png"
        )
    spoilt: dict[str, dict[str, Spoil]] = {
        "image_encoder": {"int8-7": fine},
        "text_encoder": {"int8-7": shifted("adapter", 9.0)},
    }
    bundle = numpy_bundle(tmp_path / "b", spoilt)
    retriever = Retriever(bundle, device="cpu", threads=1)
    paths = sorted(photos.iterdir())
    gallery = retriever.encode_images(paths)
    lines = []
    for number in range(20):
        query = retriever.reference(paths[number]).encode("make it red")
        scores = gallery @ query
        scores[number] = -2
        target = paths[int(scores.argmax())].stem  # float32 is always right
        entry = {"id": str(number), "kind": "colour", "reference": paths[number].stem}
        lines.append(json.dumps({**entry, "text": "make it red", "targets": [target]}))
    triplets = tmp_path / "triplets.jsonl"
    triplets.write_text("\n".join(lines))
    chosen, _ = choose_variants(
        VariantRunner(bundle, folder_queries(photos, PREPROCESSING)),
        "int8",
        {graph: list(own) for graph, own in spoilt.items()},
        Acceptance(gallery=photos, triplets=triplets),
    )
    assert chosen.graphs["image_encoder"] == "int8-7"
    assert chosen.graphs["text_encoder"] == "fp32"
    assert chosen.check is not None
    assert chosen.check["mAP@10"] == {"fp32": 1.0, "int8": 1.0}
    assert "mAP@10 falls from 1.0000 to" in chosen.check["kept_in_fp32"]["text_encoder"]
    assert chosen.check["gallery"] == "60 pictures"


def test_triplets_need_their_gallery() -> None:
    with pytest.raises(UsageError, match="need the gallery"):
        Acceptance(triplets=Path("triplets.jsonl"))


def test_images_are_spread_over_the_folder_without_unreadable_ones(tmp_path: Path) -> None:
    for number in range(120):
        grey = Image.new("RGB", (9, 9), (number * 2,) * 3)
        stream = io.BytesIO()
        grey.save(stream, "PNG")
        damaged = number % 30 == 0
        (tmp_path / f"{number:03}.png").write_bytes(stream.getvalue()[: 40 if damaged else None])
    query_set = folder_queries(tmp_path, PREPROCESSING)
    assert query_set.description == "116 pictures"
    assert query_set.pixel_values.shape == (116, 3, 8, 8)
    assert max(query_set.references) < 116
    pixels = calibration_images(tmp_path, PREPROCESSING)
    levels = (pixels[:, 0, 0, 0] * 0.25 + 0.5) * 255 / 2
    assert 85 <= len(levels) <= 96
    assert levels.min() < 5
    assert levels.max() > 115


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(ZtcirError, match=r"has only 1 readable images.* at least 50"):
        folder_queries(tmp_path, PREPROCESSING)
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(ZtcirError, match="has no readable image"):
        calibration_images(tmp_path, PREPROCESSING)


def test_calibration_and_comparison_use_different_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "DRAWINGS_PER_COMBINATION", 1)
    monkeypatch.setattr(agreement, "QUERIES", 60)
    monkeypatch.setattr(agreement, "CALIBRATION_IMAGES", 40)
    calibrated = calibration_images(None, PREPROCESSING)
    checked = drawn_queries(PREPROCESSING)
    assert calibrated.shape == (40, 3, 8, 8)
    assert checked.pixel_values.shape == (40, 3, 8, 8)
    seen = {row.tobytes() for row in calibrated}
    assert not any(row.tobytes() in seen for row in checked.pixel_values)
