"""A bundle in three precisions: its files, the recorded figures, and what a retriever runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exported import Exported, few_images
from PIL import Image
from tiny_training import VIT, tiny_model

from export import variants
from export.bundle import BundleSettings, export_bundle
from export.precision import BOUNDS, Acceptance, PrecisionError
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, draw
from ztcir_sdk.errors import UsageError, ZtcirError

pytestmark = pytest.mark.usefixtures("export_cache")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    few_images(monkeypatch)


def drawings(count: int) -> list[Image.Image]:
    return [draw(drawing, (60, 80)) for drawing in demo_gallery(1)[:count]]


def test_a_bundle_holds_several_precisions(three_precisions: Exported) -> None:
    bundle = three_precisions.bundle
    loaded = Bundle.load(bundle.path)  # every checksum is right
    assert loaded.precisions == ("fp32", "fp16", "int8")
    assert loaded.methods == ("image", "text", "sum")
    for graph in ("image_encoder", "text_encoder"):
        files = {name: loaded.variant(graph, name).file for name in loaded.precisions}
        assert files == {
            "fp32": f"{graph}.onnx",
            "fp16": f"fp16/{graph}.onnx",
            "int8": f"int8/{graph}.onnx",
        }
        sizes = {name: loaded.manifest.files[file].bytes for name, file in files.items()}
        assert sizes["fp16"] < 0.7 * sizes["fp32"]
    assert sizes["int8"] < 0.4 * sizes["fp32"]  # the text encoder is mostly its token rows
    stored = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*.*")}
    assert stored == {*loaded.manifest.files, "bundle.json", "README.md"}


def test_the_figures_of_the_check_are_in_the_manifest(three_precisions: Exported) -> None:
    bundle, lines = three_precisions.bundle, three_precisions.lines
    for name in ("fp16", "int8"):
        check = bundle.manifest.precisions[name].check
        assert check is not None
        assert check["compared_with"] == "fp32"
        assert check["weights"] == "random"
        assert check["gallery"] == "80 drawings"
        assert check["queries"] == 60
        assert check["cosine_distance"].keys() == {"gallery", "image", "text", "sum"}
        assert all(0 <= v <= BOUNDS[name].cosine for v in check["cosine_distance"].values())
        assert "top10_overlap" not in check  # rankings of random weights mean nothing
        assert "kept_in_fp32" not in check
        assert any(line.startswith(f"{name}: passed") for line in lines)
        # int8 was measured, not float32
        assert name != "int8" or check["cosine_distance"]["gallery"] > 1e-9
    half = bundle.variant("text_encoder", "fp16").check
    assert half is not None
    assert 0 < half["cosine_distance_from_pytorch"]["query_embeds"] <= 1e-3
    eight = bundle.variant("text_encoder", "int8").check
    assert eight is not None
    assert eight["quantization"] == "dynamic"
    nodes = eight["nodes"]
    assert nodes["exported"] > nodes["fused"] > 0
    assert nodes["fusions"]
    assert any(f"{nodes['exported']} nodes exported, {nodes['fused']} fused" in s for s in lines)
    image = bundle.variant("image_encoder", "int8").check
    assert image is not None
    assert image["quantization"] == "dynamic"  # it is a transformer


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_retriever_runs_the_requested_precision(three_precisions: Exported, name: str) -> None:
    bundle = three_precisions.bundle
    exact, other = (Retriever(bundle, precision=p, device="cpu", threads=1) for p in (None, name))
    assert exact.encoder.precisions == {"image_encoder": "fp32", "text_encoder": "fp32"}
    assert other.encoder.precisions == {"image_encoder": name, "text_encoder": name}
    texts = ["make it red", "in blue", "a much longer text, with many words in it"]
    pictures = drawings(6)
    for a, b in (
        (exact.encode_images(pictures), other.encode_images(pictures)),
        (exact.encode_texts(texts), other.encode_texts(texts)),
    ):
        assert a.dtype == b.dtype == np.float32
        distance = float((1 - (a.astype(np.float64) * b).sum(axis=1)).max())
        assert 1e-10 < distance < BOUNDS[name].cosine
    with pytest.raises(ZtcirError, match=r"in (fp32|fp16), .*, not in int4"):
        Retriever(bundle, precision="int4")


def test_a_bundle_holds_only_the_requested_precisions(tmp_path: Path) -> None:
    backbone = tiny_model(VIT).backbone
    settings = BundleSettings("tiny", precisions=("fp16",), acceptance=Acceptance(trained=False))
    made = export_bundle(backbone, tmp_path / "b", settings)
    assert made.precisions == ("fp16",)
    assert sorted(made.manifest.files) == [
        *("fp16/image_encoder.onnx", "fp16/text_encoder.onnx", "tokenizer.json")
    ]
    assert Retriever(made, device="cpu").encoder.precisions["text_encoder"] == "fp16"


@pytest.mark.parametrize("wrong", [(), ("fp64",)])
def test_an_unknown_precision_is_an_error(wrong: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="fp32, fp16, int8"):
        BundleSettings("tiny", precisions=wrong)


def test_an_fp16_graph_that_differs_too_much_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(variants, "HALF_TOLERANCE", 5e-8)
    backbone, settings = tiny_model(VIT).backbone, BundleSettings("t", precisions=("fp16",))
    with pytest.raises(PrecisionError, match=r"in fp16 \(image_encoder, image_embeds is .* from"):
        export_bundle(backbone, tmp_path / "b", settings)
    assert list(tmp_path.iterdir()) == []
