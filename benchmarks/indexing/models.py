"""Bundles of known backbones with random weights, which are as fast as trained ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from benchmarks.compared.eager import random_model
from cli.output import note
from export.bundle import BundleSettings, final_names, final_precisions, manifest_entries
from export.graphs import graph_modules
from export.int8 import quantize_dynamic_int8
from export.variants import Variants, export_fp32, save_graph, variant_of
from train.model import write_tokenizer
from ztcir_sdk.bundle import Bundle, Precision

__all__ = ["random_bundle"]

FP32, INT8 = "fp32", "int8-dynamic-7"
"""Keys of the variants: for a vision transformer, the int8 that an export prefers."""


def random_bundle(name: str, folder: Path) -> Bundle:
    """Return a bundle of a backbone with random weights; write it if the folder has none.

    Nothing is compared with PyTorch here, and int8 passes no gate: only its speed counts.

    Args:
        name: an open_clip model.
        folder: folder of all such bundles.

    Raises:
        UnsupportedBackboneError: there is no such model, or it is not supported.
    """
    target = folder / name
    if (target / "bundle.json").exists():
        return Bundle.load(target, verify=False)
    note(f"{name}: exporting random weights to {target}")
    with random_model(name) as model, tempfile.TemporaryDirectory(prefix="ztcir-") as scratch:
        variants = Variants(Path(scratch))
        for graph in graph_modules(model):
            exact = variants.folder / f"{graph.name}.onnx"
            save_graph(export_fp32(model, graph, exact), exact)
            small = variants.folder / f"{INT8}-{graph.name}.onnx"
            check = quantize_dynamic_int8(exact, small, bits=7)
            save_graph(onnx.load(str(small)), small)
            variants.graphs[graph.name] = {
                FP32: variant_of(exact, FP32, {}),
                INT8: variant_of(small, INT8, check),
            }
        tokenizer = variants.folder / "tokenizer.json"
        write_tokenizer(model.backbone.tower, tokenizer)
        chosen = {
            "fp32": Precision(dict.fromkeys(variants.graphs, FP32)),
            "int8": Precision(dict.fromkeys(variants.graphs, INT8)),
        }
        graphs, files = final_names(variants, chosen)
        card = {"backbone": {"model": name}, "limits": ["weights are random: to measure speed"]}
        entries = manifest_entries(model, BundleSettings(name, card))
        return Bundle.write(
            target,
            **entries,
            files={**files, tokenizer.name: tokenizer},
            graphs=graphs,
            precisions=final_precisions(chosen),
        )
