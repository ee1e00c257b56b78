"""Checkpoint to bundle: three graphs, checked against PyTorch, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from export.graphs import GraphModule, export_graph, graph_modules, sample_inputs
from export.parity import ParityResult, check_frozen_text, check_parity, randomised
from export.storage import compress, round_weights
from train.model import ComposedModel
from train.prompts import COMPOSED_PROMPT, MAPPED_PROMPT
from train.tokenizer import write_clip_tokenizer
from ztcir_sdk.bundle import Bundle, Dimensions, GraphVariant, Placeholder, TensorSpec, TextLayout
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["export_bundle", "image_tower_fingerprint"]

METHODS = ("composed", "mapped", "stage1", "image", "text", "sum")
TRACED = {"references": 3, "texts": 4, "length": 9}  # no dimension 1: it would be a constant


def export_bundle(
    model: ComposedModel,
    folder: Path,
    *,
    name: str,
    model_card: Mapping[str, Any],
    small: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Export a model and prove it, with gates, adapters and biases at random, then as trained.

    Args:
        model: in evaluation mode; with ``small``, its weights are rounded in place.
        folder: the bundle to make.
        name: of the bundle.
        model_card: backbone, stages, data and licences, measured quality, limits.
        small: store weights in fp16 and int8 where the rounding allows it; the graphs still
            compute in float32, and parity is against the same rounded weights.
        overwrite: replace the bundle that is there.
        report: gets a line for each thing that was checked.

    Raises:
        ParityError: a graph differs from PyTorch by more than 1e-4; nothing is left behind.
        UsageError: ``folder`` is there already.
    """
    torch.manual_seed(0)
    model = model.eval()
    if small:
        model = round_weights(model)
    report(f"text without adapters against encode_text: {check_frozen_text(model):.1e}")
    with tempfile.TemporaryDirectory(prefix="ztcir-export-") as scratch:
        work = Path(scratch)
        with randomised(model):
            for graph in graph_modules(model)[1:]:  # the image encoder has no such parts
                path = work / "randomised.onnx"
                export_graph(graph, sample_inputs(model, graph.name, **TRACED, seed=0), path)
                _report(report, "random gates, ", check_parity(model, graph, path))
        variants: dict[str, dict[str, GraphVariant]] = {}
        files: dict[str, Path] = {}
        for graph in graph_modules(model):
            path = work / f"{graph.name}.onnx"
            proto = export_graph(graph, sample_inputs(model, graph.name, **TRACED, seed=0), path)
            if small:
                proto = compress(proto)
            _strip(proto)
            onnx.checker.check_model(proto)
            onnx.save(proto, str(path))
            results = check_parity(model, graph, path)
            _report(report, "", results)
            files[path.name] = path
            check = {
                "largest_difference": {r.output: float(f"{r.difference:.2e}") for r in results}
            }
            variants[graph.name] = {"fp32": _variant(graph, proto, path.name, check)}
        files["tokenizer.json"] = write_clip_tokenizer(work / "tokenizer.json")
        backbone = model.backbone
        return Bundle.write(
            folder,
            files=files,
            name=name,
            model_card=model_card,
            methods=METHODS,
            prompts={
                "composed": COMPOSED_PROMPT,
                "stage1": COMPOSED_PROMPT,
                "mapped": MAPPED_PROMPT,
            },
            text=TextLayout(context_length=backbone.context_length),
            preprocessing=Preprocessing.from_open_clip(backbone.preprocess_cfg),
            dimensions=Dimensions(
                embed=backbone.embed_dim,
                patch=backbone.patch_dim,
                patches=backbone.num_patches,
                text=backbone.text_width,
                vsi_layers=len(model.vsi.layers) if model.vsi is not None else 0,
                vsi=model.vsi.width if model.vsi is not None else 0,
            ),
            graphs=variants,
            image_tower=image_tower_fingerprint(model),
            placeholder=Placeholder(tokens=model.config.tokens),
            overwrite=overwrite,
        )


def image_tower_fingerprint(model: ComposedModel) -> str:
    """What makes a gallery's vectors: image-tower weights and preprocessing, as 32 hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.backbone.clip.visual.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    numbers = Preprocessing.from_open_clip(model.backbone.preprocess_cfg).to_dict()
    digest.update(json.dumps(numbers, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _variant(
    graph: GraphModule, proto: onnx.ModelProto, file: str, check: Mapping[str, Any]
) -> GraphVariant:
    return GraphVariant(
        file=file,
        precision="fp32",
        inputs=tuple(_spec(value) for value in proto.graph.input),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        check=check,
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    assert tensor.elem_type in (TensorProto.FLOAT, TensorProto.INT64)
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, np.dtype(dtype).name, shape)


def _strip(proto: onnx.ModelProto) -> None:
    """Drop what the exporter noted of itself: stack traces name paths of this machine."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    del proto.functions[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]


def _report(report: Callable[[str], None], note: str, results: list[ParityResult]) -> None:
    for result in results:
        report(f"{note}{result.graph}: {result.output} within {result.difference:.1e} of PyTorch")
