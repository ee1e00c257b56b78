"""A bundle of three tiny graphs by the method's contract, and the same mathematics in NumPy.

The graphs are built with `onnx.helper`, so tests that use them need no torch, and what a search
must answer can be computed by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Bpe

from ztcir_sdk.bundle import Bundle, Dimensions, GraphVariant, TextLayout
from ztcir_sdk.names import METHODS, PROMPTS
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime import TensorSpec
from ztcir_sdk.tokenizer import END_OF_TEXT, START_OF_TEXT

D, D_T, D_V, D_VSI, N = 4, 4, 3, 4, 4
"""Widths of embeddings, text, patches, VSI; number of patches."""
SIZE = 8
VOCABULARY = 514
END = VOCABULARY - 1
PREPROCESSING = Preprocessing(image_size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)

Array = NDArray[np.float32]
_SHAPES: dict[str, tuple[tuple[int | str, ...], str]] = {
    "pixel_values": (("R", 3, SIZE, SIZE), "float32"),
    "image_embeds": (("R", D), "float32"),
    "patch_features": (("R", N, D_V), "float32"),
    "pseudo_tokens": (("R", 1, D_T), "float32"),
    "vsi_keys": (("R", 1, N, D_VSI), "float32"),
    "vsi_values": (("R", 1, N, D_VSI), "float32"),
    "input_ids": (("B", "T"), "int64"),
    "reference_index": (("B",), "int64"),
    "adapter_scale": (("B",), "float32"),
    "query_embeds": (("B", D), "float32"),
}


def spec(name: str) -> TensorSpec:
    shape, dtype = _SHAPES[name]
    return TensorSpec(name, dtype, shape)


def unit(rows: NDArray[np.floating]) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


class TinyModel:
    """The weights of the graphs, and their computations in NumPy."""

    def __init__(self, *, vsi: bool = True, seed: int = 0) -> None:
        self.vsi = vsi
        rng = np.random.default_rng(seed)

        def weights(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(np.float32)

        self.image = weights(3, D)
        self.image_bias = weights(D) / 4
        self.word, self.patch_word = weights(D, D_T), weights(D_V, D_T)
        self.key, self.value = weights(D_V, D_VSI), weights(D_V, D_VSI)
        self.table = weights(VOCABULARY, D_T)
        self.adapter = weights(D, D)

    def encode_image(self, pixels: Array) -> tuple[Array, Array]:
        embeds = unit(pixels.mean(axis=(2, 3)) @ self.image + self.image_bias)
        half = SIZE // 2
        quarters = pixels.reshape(-1, 3, 2, half, 2, half).mean(axis=(3, 5))  # (R, 3, 2, 2)
        return embeds, quarters.reshape(-1, 3, N).transpose(0, 2, 1)

    def learn_token(self, embeds: Array, patches: Array) -> tuple[Array, Array, Array]:
        word = embeds @ self.word + patches.mean(axis=1) @ self.patch_word
        return word[:, None], (patches @ self.key)[:, None], (patches @ self.value)[:, None]

    def encode_query(
        self,
        ids: NDArray[np.int64],
        index: NDArray[np.int64],
        scale: Array,
        words: Array,
        keys: Array,
        values: Array,
    ) -> Array:
        rows = []
        for row, reference, a in zip(ids, index, scale, strict=True):
            total = np.zeros(D_T, dtype=np.float64)
            for position, token in enumerate(row[: np.argmax(row) + 1]):
                x = self.table[max(token, 0)]
                if token < 0:
                    x = words[reference, 0]
                    if self.vsi:
                        x = x + (keys[reference] * values[reference]).mean(axis=(0, 1))
                total += (1.1 + 0.1 * position) * x
            rows.append(total + a * (total @ self.adapter))
        return unit(np.array(rows, dtype=np.float32))

    def encode_text(self, ids: Sequence[int]) -> Array:
        """Return the embedding (D,) of a text without a placeholder."""
        nothing = np.zeros((1, 1, N, D_VSI), dtype=np.float32)
        [vector] = self.encode_query(
            np.array([ids]),
            np.zeros(1, dtype=np.int64),
            np.zeros(1, dtype=np.float32),
            nothing[:, :, 0],
            nothing,
            nothing,
        )
        return np.asarray(vector)

    def encode_prompt(self, ids: Sequence[int], pixels: Array, scale: float) -> Array:
        """Return the embedding (D,) of a prompt about one image (3, H, W)."""
        learned = self.learn_token(*self.encode_image(pixels[None]))
        index = np.zeros(1, dtype=np.int64)
        scales = np.array([scale], dtype=np.float32)
        [vector] = self.encode_query(np.array([ids]), index, scales, *learned)
        return np.asarray(vector)

    def graphs(self) -> dict[str, onnx.ModelProto]:
        learned = ["pseudo_tokens", *(["vsi_keys", "vsi_values"] if self.vsi else [])]
        return {
            "image_encoder": self._image_encoder(),
            "token_learner": self._token_learner(learned),
            "text_encoder": self._text_encoder(learned),
        }

    def _image_encoder(self) -> onnx.ModelProto:
        half = SIZE // 2
        nodes = [
            helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean4"]),
            helper.make_node("Flatten", ["mean4"], ["mean"]),
            helper.make_node("MatMul", ["mean", "image"], ["projected"]),
            helper.make_node("Add", ["projected", "bias"], ["raw"]),
            helper.make_node("LpNormalization", ["raw"], ["image_embeds"], axis=1, p=2),
            helper.make_node(
                "AveragePool",
                ["pixel_values"],
                ["quarters"],
                kernel_shape=[half, half],
                strides=[half, half],
            ),
            helper.make_node("Reshape", ["quarters", "flat"], ["channels"]),
            helper.make_node("Transpose", ["channels"], ["patch_features"], perm=[0, 2, 1]),
        ]
        return _model(
            nodes,
            ["pixel_values"],
            ["image_embeds", "patch_features"],
            {"image": self.image, "bias": self.image_bias, "flat": np.array([0, 3, N])},
        )

    def _token_learner(self, outputs: list[str]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("MatMul", ["image_embeds", "word"], ["from_image"]),
            helper.make_node("ReduceMean", ["patch_features", "one"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "patch_word"], ["from_patches"]),
            helper.make_node("Add", ["from_image", "from_patches"], ["flat"]),
            helper.make_node("Unsqueeze", ["flat", "one"], ["pseudo_tokens"]),
        ]
        constants: dict[str, NDArray[Any]] = {
            "word": self.word,
            "patch_word": self.patch_word,
            "one": np.array([1]),
        }
        if self.vsi:
            constants |= {"key": self.key, "value": self.value}
            for side in ("key", "value"):
                nodes += [
                    helper.make_node("MatMul", ["patch_features", side], [f"flat_{side}s"]),
                    helper.make_node("Unsqueeze", [f"flat_{side}s", "one"], [f"vsi_{side}s"]),
                ]
        return _model(nodes, ["image_embeds", "patch_features"], outputs, constants)

    def _text_encoder(self, learned: list[str]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Less", ["input_ids", "zero"], ["is_slot"]),
            helper.make_node("Max", ["input_ids", "zero"], ["ids"]),
            helper.make_node("Gather", ["table", "ids"], ["embedded"]),
            helper.make_node("Gather", ["pseudo_tokens", "reference_index"], ["slot"]),
        ]
        slot = "slot"
        if self.vsi:
            slot = "injected_slot"
            nodes += [
                helper.make_node("Mul", ["vsi_keys", "vsi_values"], ["product"]),
                helper.make_node("ReduceMean", ["product", "one_two"], ["seen"], keepdims=0),
                helper.make_node("Gather", ["seen", "reference_index"], ["seen_by_text"]),
                helper.make_node("Unsqueeze", ["seen_by_text", "one"], ["injection"]),
                helper.make_node("Add", ["slot", "injection"], ["injected_slot"]),
            ]
        nodes += [
            helper.make_node("Unsqueeze", ["is_slot", "two"], ["slot_mask"]),
            helper.make_node("Where", ["slot_mask", slot, "embedded"], ["x"]),
            helper.make_node("ArgMax", ["input_ids"], ["end"], axis=1, keepdims=1),
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node(
                "ConstantOfShape",
                ["shape"],
                ["ones"],
                value=helper.make_tensor("", TensorProto.INT64, [1], [1]),
            ),
            helper.make_node("CumSum", ["ones", "axis"], ["position"]),  # from 1
            helper.make_node("Add", ["end", "one"], ["last"]),
            helper.make_node("LessOrEqual", ["position", "last"], ["valid"]),
            helper.make_node("Cast", ["valid"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["position"], ["place"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["place", "tenth"], ["tenths"]),
            helper.make_node("Add", ["tenths", "unity"], ["by_place"]),
            helper.make_node("Mul", ["by_place", "mask"], ["weight"]),
            helper.make_node("Unsqueeze", ["weight", "two"], ["weight3"]),
            helper.make_node("Mul", ["x", "weight3"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "one"], ["pooled"], keepdims=0),
            helper.make_node("MatMul", ["pooled", "adapter"], ["adapted"]),
            helper.make_node("Unsqueeze", ["adapter_scale", "one"], ["scale"]),
            helper.make_node("Mul", ["adapted", "scale"], ["scaled"]),
            helper.make_node("Add", ["pooled", "scaled"], ["raw"]),
            helper.make_node("LpNormalization", ["raw"], ["query_embeds"], axis=1, p=2),
        ]
        constants: dict[str, NDArray[Any]] = {
            "zero": np.array(0),
            "one": np.array([1]),
            "two": np.array([2]),
            "axis": np.array(1),
            "table": self.table,
            "tenth": np.array(0.1, dtype=np.float32),
            "unity": np.array(1, dtype=np.float32),
            "adapter": self.adapter,
        }
        if self.vsi:
            constants["one_two"] = np.array([1, 2])
        return _model(
            nodes,
            ["input_ids", "reference_index", "adapter_scale", *learned],
            ["query_embeds"],
            constants,
        )


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[Any]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_value(name) for name in inputs],
        [_value(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _value(name: str) -> onnx.ValueInfoProto:
    shape, dtype = _SHAPES[name]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))


def tiny_tokenizer() -> bytes:
    """Return a `tokenizer.json` whose tokens are letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), START_OF_TEXT, END_OF_TEXT]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    bpe = Bpe(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\S+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe.to_str().encode()


def tiny_parts(model: TinyModel, *, precisions: Sequence[str] = ("fp32",)) -> dict[str, Any]:
    """Return the arguments of `Bundle.write`, except the folder."""
    protos = model.graphs()
    files: dict[str, bytes] = {"tokenizer.json": tiny_tokenizer()}
    graphs: dict[str, dict[str, GraphVariant]] = {}
    for name, proto in protos.items():
        graphs[name] = {}
        for precision in precisions:
            file = f"{name}.onnx" if precision == "fp32" else f"{precision}/{name}.onnx"
            files[file] = proto.SerializeToString()
            graphs[name][precision] = GraphVariant(
                file,
                precision,
                tuple(spec(value.name) for value in proto.graph.input),
                tuple(spec(value.name) for value in proto.graph.output),
            )
    return {
        "files": files,
        "name": "tiny",
        "model_card": {"backbone": "tiny", "limits": ["knows nothing"]},
        "methods": tuple(METHODS),
        "prompts": dict(PROMPTS),
        "text": TextLayout(context_length=77, causal=True, pool="eot", pad_to=None),
        "preprocessing": PREPROCESSING,
        "dimensions": Dimensions(
            embed=D, patch=D_V, patches=N, text=D_T, vsi_layers=int(model.vsi), vsi=D_VSI
        ),
        "graphs": graphs,
        "image_tower": hashlib.sha256(protos["image_encoder"].SerializeToString()).hexdigest(),
        "created": "2026-11-24T09:00:00+00:00",
    }


def write_tiny_bundle(folder: Path, model: TinyModel | None = None, **changes: Any) -> Bundle:
    """Write the bundle of a model; `changes` replace arguments of `Bundle.write`."""
    return Bundle.write(folder, **{**tiny_parts(model or TinyModel()), **changes})
