"""Bundles of strangers: numbers without bound, hostile tokenizers, graphs of another kind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import MANIFEST, Bundle
from ztcir_sdk.bundle.external_data import check_external_data
from ztcir_sdk.errors import BundleError, UsageError, ZtcirError
from ztcir_sdk.files import hash_file
from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings, TensorSpec
from ztcir_sdk.runtime.protocol import check_declared, check_outputs
from ztcir_sdk.tokenizer import Tokenizer


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def change(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads((bundle / MANIFEST).read_text())
    edit(values)
    (bundle / MANIFEST).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("preprocessing", "image_size"), [10**9, 10**9]),
        (("preprocessing", "mean"), [10**400, 0, 0]),
        (("preprocessing", "std"), [1e300, 1, 1]),
        (("dimensions", "embed"), 10**12),
        (("dimensions", "patches"), 10**400),
        (("text", "context_length"), 10**9),
        (("placeholder", "tokens"), 10**9),
        (("model_card", "note"), float("nan")),
        (("model_card", "note"), "\ud800"),
        (("name",), "\ud800"),
        (("tokenizer",), "\ud800.json"),
    ],
)
def test_numbers_and_texts_have_bounds(bundle: Path, place: tuple[str, ...], value: Any) -> None:
    def edit(values: dict[str, Any]) -> None:
        for name in place[:-1]:
            values = values[name]
        values[place[-1]] = value

    change(bundle, edit)
    with pytest.raises(BundleError, match="export the bundle again"):
        Bundle.load(bundle, verify=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("file", [MANIFEST, "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_are_ordinary_ones(bundle: Path, file: str, kind: str) -> None:
    (bundle / file).unlink()
    if kind == "pipe":
        os.mkfifo(bundle / file)
    else:
        (bundle / file).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="not an ordinary file"):
        Bundle.load(bundle)


def test_control_characters_of_a_name_are_escaped(bundle: Path) -> None:
    change(bundle, lambda values: values.update(name="evil\x1b[2Jname"))
    done = CliRunner().invoke(main, ["doctor", "--bundle", str(bundle)])
    assert "\x1b" not in done.output
    assert "evil\\x1b[2Jname" in done.output
    done = CliRunner().invoke(main, ["search", "no\x1b[2J.jpg", "x", "--bundle", str(bundle)])
    assert "\x1b" not in done.output
    done = CliRunner().invoke(main, ["bench", "--bundle", str(bundle), "--repeat", "1"])
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "evil\\x1b[2Jname" in done.output


# --- tokenizers ----------------------------------------------------------------------------------

HOSTILE_PARTS: list[dict[str, Any]] = [
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
    {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 50}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"normalizer": {"type": "Nmt"}},
    {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Removed",
            "invert": False,
        }
    },
    {"model": {"type": ["BPE"]}},
    {"model": {"type": "WordPiece", "vocab": {}}},
    {"added_tokens": 5},
]


@pytest.mark.parametrize("part", HOSTILE_PARTS)
def test_steps_that_no_export_writes_are_refused(bundle: Path, part: dict[str, Any]) -> None:
    file = bundle / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **part}))
    with pytest.raises(BundleError, match="is not a tokenizer"):
        Tokenizer.from_file(file)


def test_padding_has_no_effect(bundle: Path) -> None:
    file = bundle / "tokenizer.json"
    before = Tokenizer.from_file(file).encode("make it red")
    padding: dict[str, Any] = {
        "strategy": {"Fixed": 10**9},
        "direction": "Right",
        "pad_to_multiple_of": None,
    }
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding": padding}))
    assert Tokenizer.from_file(file).encode("make it red") == before


# --- graphs --------------------------------------------------------------------------------------


def save_graph(
    path: Path, outputs: list[Any], nodes: list[Any], inputs: list[Any], more: Any = ()
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(more))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def replace_encoder(bundle: Path, file: Path) -> None:
    """Put another image encoder into a bundle, with its checksum."""

    def edit(values: dict[str, Any]) -> None:
        name = values["graphs"]["image_encoder"]["fp32"]["file"]
        (bundle / name).write_bytes(file.read_bytes())
        size = (bundle / name).stat().st_size
        values["files"][name] = {"sha256": hash_file(bundle / name), "bytes": size}

    change(bundle, edit)


def test_a_graph_that_is_not_the_declared_one_is_refused(bundle: Path, tmp_path: Path) -> None:
    text = helper.make_tensor_value_info("image_embeds", TensorProto.STRING, ["R"])
    x = helper.make_tensor_value_info("pixel_values", TensorProto.STRING, ["R"])
    node = helper.make_node("Identity", ["pixel_values"], ["image_embeds"])
    replace_encoder(bundle, save_graph(tmp_path / "strings.onnx", [text], [node], [x]))
    with pytest.raises(BundleError, match="and the manifest says"):
        Retriever(bundle).encode_images([Image.new("RGB", (32, 32))])


class _Declared:
    name = "declared"
    provider = ""
    limits: Mapping[str, int] = {}

    def __init__(self, specs: list[TensorSpec]) -> None:
        self.inputs, self.outputs = tuple(specs[:1]), tuple(specs[1:])

    def run(self, inputs: Any, outputs: Any = None) -> dict[str, Any]:
        raise NotImplementedError


def test_an_output_of_another_batch_is_refused(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    graph = OnnxGraph(save_graph(tmp_path / "mean.onnx", [y], [node], [x], [axes]))
    declared = [TensorSpec(name, "float32", ("B", 3)) for name in ("x", "y")]
    with pytest.raises(BundleError, match=r"is float32 \(1, 3\), and the manifest says float32"):
        check_declared(graph, declared[:1], declared[1:])
    two, one = {"x": np.ones((2, 3), np.float32)}, {"y": np.ones((1, 3), np.float32)}
    with pytest.raises(BundleError, match=r"returned y as float32 \(1, 3\), not as"):
        check_outputs(_Declared(declared), two, one)


def endless_graph(path: Path) -> Path:
    """A loop of very many rounds."""
    number = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    going = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [1])
    more = helper.make_tensor_value_info("more", TensorProto.BOOL, [])
    next_value = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["more"]),
            helper.make_node("Add", ["v", "v"], ["w"]),
        ],
        "body",
        [number, going, value],
        [more, next_value],
    )
    rounds = helper.make_tensor("rounds", TensorProto.INT64, [], [10**12])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Loop", ["rounds", "true", "x"], ["y"], body=body)
    return save_graph(path, [y], [node], [x], [rounds, true])


def test_a_graph_that_never_ends_is_ended(tmp_path: Path) -> None:
    file = endless_graph(tmp_path / "endless.onnx")
    graph = OnnxGraph(file, RuntimeSettings(device="cpu", run_timeout=0.3, threads=1))
    started = time.monotonic()
    with pytest.raises(ZtcirError, match=r"did not end within 0\.3 seconds"):
        graph.run({"x": np.ones(1, np.float32)})
    assert time.monotonic() - started < 30
    with pytest.raises(UsageError, match="run_timeout"):
        RuntimeSettings(run_timeout=0)


def test_a_time_limit_changes_no_result(bundle: Path) -> None:
    image = Image.effect_noise((40, 30), 60).convert("RGB")
    plain = Retriever(bundle).encode_images([image])
    limited = Retriever(bundle, run_timeout=60.0).encode_images([image])
    np.testing.assert_array_equal(plain, limited)


def test_tensor_data_of_an_unlisted_file_are_refused(tmp_path: Path) -> None:
    weights = np.ones((64, 64), np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    tensor = onnx.numpy_helper.from_array(weights, "w")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [tensor]))
    file = tmp_path / "g.onnx"
    onnx.save(model, file, save_as_external_data=True, location="own.data", size_threshold=0)
    check_external_data(file, ["own.data", "tokenizer.json"])
    with pytest.raises(BundleError, match=r"keeps tensor data in 'own\.data'"):
        check_external_data(file, ["tokenizer.json"])


def external(name: str, location: str) -> onnx.TensorProto:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], b"\0" * 4, raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def body(*tensors: onnx.TensorProto, nodes: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(tensors))


def test_tensors_with_external_data_are_found_wherever_they_are(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external("c", "node.data"))
    constants = helper.make_node("Many", [], ["m"])
    constants.attribute.append(
        onnx.AttributeProto(
            name="all", type=onnx.AttributeProto.TENSORS, tensors=[external("d", "tensors.data")]
        )
    )
    deep = body(external("e", "deep.data"), nodes=[constant])
    branches = helper.make_node("If", ["x"], ["y"], then_branch=deep, else_branch=body())
    graph = body(external("a", "top.data"), external("b", "é" * 200), nodes=[branches, constants])
    sparse = onnx.SparseTensorProto(values=external("s", "sparse.data"), dims=[1])
    sparse.indices.CopyFrom(external("i", "indices.data"))
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    function = helper.make_node("Constant", [], ["c"], value=external("f", "function.data"))
    model.functions.append(helper.make_function("d", "F", [], ["c"], [function], []))
    model.training_info.add().initialization.CopyFrom(body(external("t", "training.data")))
    file = tmp_path / "g.onnx"
    file.write_bytes(model.SerializeToString())
    names = ["node", "tensors", "deep", "top", "sparse", "indices", "function", "training"]
    everything = [f"{name}.data" for name in names] + ["é" * 200]
    check_external_data(file, everything)
    for name in everything:
        with pytest.raises(BundleError, match=f"keeps tensor data in '{name}'"):
            check_external_data(file, [other for other in everything if other != name])


def test_a_word_in_a_name_is_no_external_data(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["location"], ["y"], name="\x0a\x08location\x12\x01x")
    file = tmp_path / "g.onnx"
    file.write_bytes(helper.make_model(body(nodes=[node])).SerializeToString())
    check_external_data(file, [])


@pytest.mark.parametrize(
    "data",
    [
        b"location\xff",  # a number that does not end
        b"\x3a\x7flocation",  # longer than the file
        b"\x3b\x3clocation",  # a group
        b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01location",
        b"\x08\x01" * 1_000_001 + b"\x0a\x08location",  # too many fields
    ],
)
def test_a_graph_that_is_no_onnx_file_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "g.onnx"
    file.write_bytes(data)
    started = time.process_time()
    with pytest.raises(BundleError, match=r"g\.onnx is not an ONNX file"):
        check_external_data(file, [])
    assert time.process_time() - started < 5


def wrapped(field: int, data: bytes) -> bytes:
    size, left = b"", len(data)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return bytes([field << 3 | 2]) + size + bytes([left]) + data


def test_graphs_inside_each_other_are_bounded(tmp_path: Path) -> None:
    data = b"\x12\x08location"
    for _ in range(100):
        data = wrapped(1, wrapped(5, wrapped(6, data)))  # a node, its attribute, and its graph
    (tmp_path / "g.onnx").write_bytes(wrapped(7, data))
    with pytest.raises(BundleError, match="too many fields or levels"):
        check_external_data(tmp_path / "g.onnx", [])
