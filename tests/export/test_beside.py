"""int8 beside the fp32 graphs of a bundle, and when a processor uses it by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import Exported, few_images
from msgspec.structs import asdict, replace
from onnx import numpy_helper

from export import storage
from export.beside import add_int8_beside
from export.precision import Acceptance
from export.speed import is_faster
from export.storage import borrow_tensors, compress, decompress
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import DEFAULT_ON_CPU, Bundle
from ztcir_sdk.errors import UsageError


def with_check(bundle: Bundle, folder: Path, **check: object) -> Bundle:
    """Write a copy of a bundle with another check of its int8 graphs."""
    entries = asdict(bundle.manifest)
    for name in ("format", "ztcir", "created", "files"):
        del entries[name]
    own = entries["precisions"]["int8"]
    entries["precisions"] = {**entries["precisions"], "int8": replace(own, check=check)}
    files = {file: bundle.path / file for file in bundle.manifest.files}
    return Bundle.write(folder, files=files, **entries)


def test_int8_is_put_beside_fp32_and_shares_its_tokens(
    small_convnet: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_images(monkeypatch)
    monkeypatch.setattr(storage, "LENT", 1 << 12)  # of a small vocabulary, too
    old = small_convnet.bundle
    made = add_int8_beside(old, tmp_path / "both", Acceptance(trained=False))
    assert made.precisions == ("fp32", "int8")
    assert made.manifest.image_tower == old.manifest.image_tower
    for graph, variants in old.manifest.graphs.items():
        assert made.sha256(made.variant(graph, "fp32")) == old.sha256(variants["fp32"])
    text = made.variant("text_encoder", "int8")
    if text.precision == "int8":
        stored = onnx.load(str(made.file(text)), load_external_data=False).graph.initializer
        assert [one for one in stored if one.data_location == one.EXTERNAL]
    check = made.manifest.precisions["int8"].check
    assert check is not None
    assert made.manifest.model_card["int8"] == check
    assert check[DEFAULT_ON_CPU] is False  # its weights are random
    assert check["speed"]["graphs"]

    exact, small = (
        Retriever(made, precision=name, device="cpu", threads=1) for name in ("fp32", "int8")
    )
    texts = ["make it red", "in blue instead"]
    assert (exact.encode_texts(texts) * small.encode_texts(texts)).sum(axis=1).min() > 0.9
    assert Retriever(made, device="cpu").precision == "fp32"
    with pytest.raises(UsageError, match="int8 can be put only beside graphs in fp32"):
        add_int8_beside(made, tmp_path / "again", Acceptance(trained=False))

    chosen = with_check(made, tmp_path / "chosen", **{DEFAULT_ON_CPU: True})
    default = Retriever(chosen, device="cpu")
    assert default.encoder.precisions == small.encoder.precisions
    assert Retriever(chosen, device="cpu", precision="fp32").precision == "fp32"


def test_decompressing_gives_the_widened_weights(small_convnet: Exported) -> None:
    path = small_convnet.bundle.file(small_convnet.bundle.variant("token_learner"))
    raw = decompress(onnx.load(str(path)))
    assert not [node for node in raw.graph.node if node.name.startswith("widen_")]
    again = compress(decompress(onnx.load(str(path))))
    stored = {
        one.name: numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer
    }
    assert stored.keys() == {one.name for one in again.graph.initializer}
    for one in again.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(one), stored[one.name])


def test_only_equal_bytes_are_borrowed(small_convnet: Exported, tmp_path: Path) -> None:
    path = small_convnet.bundle.file(small_convnet.bundle.variant("text_encoder"))
    other = onnx.load(str(path))
    for tensor in other.graph.initializer:
        if len(tensor.raw_data) >= 1 << 12:
            tensor.raw_data = bytes(byte ^ 1 for byte in tensor.raw_data)
    assert borrow_tensors(other, path) == 0


@pytest.mark.parametrize(
    ("ratios", "faster"), [([2.0], True), ([1.0, 1.0], False), ([1.5, 0.9], True), ([], False)]
)
def test_int8_must_be_faster_to_be_the_default(ratios: list[float], faster: bool) -> None:
    graphs = {str(i): {"times_as_fast": ratio} for i, ratio in enumerate(ratios)}
    assert is_faster({"graphs": graphs}) is faster
