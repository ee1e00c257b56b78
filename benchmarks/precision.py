"""Speed of int8 on a CPU, graph by graph, as ratios to float32 in the same run.

    python -m benchmarks.precision --models fashion-lite ViT-B-32

Every quantization that an export tries is timed with random weights, which are as fast as trained
ones. The result also holds each variant's cosine similarity to float32, and the share of float32's
time that matrix products take, which limits what int8 can gain.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.compared.eager import random_model, torch_threads
from benchmarks.comparison import Rounds, add_round_options, compare
from benchmarks.provenance import load_average, provenance
from cli.output import note, table
from export.agreement import calibration_images
from export.graphs import graph_modules
from export.int8 import fuse
from export.parity import cosine_distances
from export.variants import Variants, write_variants
from train.model import ComposedModel, prompt_ids
from ztcir_sdk.bundle import REFERENCE_TENSORS
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries, draw
from ztcir_sdk.environment import now
from ztcir_sdk.names import DEFAULT_BUNDLE, IMAGE_ENCODER, TEXT_ENCODER
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.onnx.preload import CPU
from ztcir_sdk.runtime.onnx.providers import import_onnxruntime

MODELS = (DEFAULT_BUNDLE, "ViT-B-32")
EXACT, FUSED = "fp32", "fp32-fused"
COMPARED_OUTPUTS = {TEXT_ENCODER: "query_embeds", IMAGE_ENCODER: "image_embeds"}
"""Graph that is measured -> its output that is compared."""
IMAGES = 16
TEXTS = 24
PROFILED_RUNS = 20
PRODUCTS = ("MatMul", "Gemm", "Conv", "QLinear", "QGemm")
"""Parts of the names of ONNX Runtime's operators that multiply weights."""

Arrays = Mapping[str, NDArray[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the ratios; return the exit code."""
    options = _parser().parse_args(arguments)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    return run_command(lambda: _measure_and_report(options))


def _measure_and_report(options: argparse.Namespace) -> None:
    result = run(options.models, options.threads, Rounds.from_options(options))
    table(("model", "graph", "variant", "fp32 p50 ms", "p50 ms", "times as fast"), _rows(result))
    write_result(options.out, result)


def run(models: Sequence[str], threads: int, length: Rounds) -> dict[str, Any]:
    """Measure models and return the values of the result file.

    Raises:
        ZtcirError: a model cannot be exported.
    """
    started, before = now(), load_average()
    with torch_threads(threads):
        measured = [_measure(name, threads, length) for name in models]
    return {
        **provenance(started, threads, before),
        "settings": asdict(length),
        "models": measured,
    }


def _measure(name: str, threads: int, length: Rounds) -> dict[str, Any]:
    """Export a model in every quantization and time each graph at each size."""
    note(f"{name}: exporting")
    settings = RuntimeSettings(backend="onnx", device="cpu", threads=threads)
    with random_model(name) as model, tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch:
        preprocessing = Preprocessing.from_open_clip(model.backbone.preprocess_cfg)
        variants = write_variants(
            model,
            Path(scratch),
            ("fp32", "int8"),
            calibration=lambda: calibration_images(None, preprocessing),
            report=note,
        )
        graphs: dict[str, Any] = {}
        for graph in COMPARED_OUTPUTS:
            files = _files(variants, graph)
            sizes = _inputs(model, graph, preprocessing)
            loaded = {key: OnnxGraph(path, settings) for key, path in files.items()}
            note(f"{name}: timing {graph}")
            graphs[graph] = {
                "variants": _agreement(variants, graph, loaded, sizes),
                "comparisons": {
                    size: compare(
                        {key: _call(one, given) for key, one in loaded.items()},
                        baseline=EXACT,
                        length=length,
                    ).to_dict()
                    for size, given in sizes.items()
                },
                "share_of_products": {
                    size: _share_of_products(files[EXACT], given, threads)
                    for size, given in sizes.items()
                },
            }
    return {"name": name, "weights": "random", "graphs": graphs}


def _files(variants: Variants, graph: str) -> dict[str, Path]:
    """Return the graph's files by key, and float32 with nodes fused by ONNX Runtime's optimizer."""
    own = variants.graphs[graph]
    files = {key: variants.folder / variant.file for key, variant in own.items()}
    fused = variants.folder / f"fused-{graph}.onnx"
    if fuse(files[EXACT], fused)["fusions"]:
        files[FUSED] = fused
    return files


@torch.no_grad()
def _inputs(model: ComposedModel, graph: str, preprocessing: Preprocessing) -> dict[str, Arrays]:
    """Return a graph's inputs by size: one image, or one prompt short and padded; and a batch."""
    drawings = demo_gallery()[:IMAGES]
    pixels = preprocessing([draw(drawing) for drawing in drawings])
    if graph == IMAGE_ENCODER:
        return {"1 picture": {"pixel_values": pixels[:1]}, "batch": {"pixel_values": pixels}}
    texts = [query.text for query in demo_queries(demo_gallery(), TEXTS)]
    texts.sort(key=len)
    prompts = prompt_ids(texts, tokens=model.config.tokens, tower=model.backbone.tower).numpy()
    ends = prompts.argmax(axis=1)
    middle = len(texts) // 2
    learned = model.learn_token(*model.encode_image(torch.from_numpy(pixels[:1])))
    names = graph_modules(model)[-1].inputs
    reference = {
        name: array.numpy()
        for name, array in zip(REFERENCE_TENSORS, learned, strict=True)
        if name in names
    }

    def given(ids: NDArray[np.int64]) -> Arrays:
        return {
            "input_ids": np.ascontiguousarray(ids),
            "reference_index": np.zeros(len(ids), dtype=np.int64),
            "adapter_scale": np.ones(len(ids), dtype=np.float32),
            **reference,
        }

    longest = model.backbone.context_length
    padded = np.zeros((1, longest), dtype=np.int64)
    padded[:, : prompts.shape[1]] = prompts[middle]
    cut = prompts[middle : middle + 1, : None if model.backbone.tower.pad_to else ends[middle] + 1]
    return {
        f"{cut.shape[1]} tokens": given(cut),
        f"{longest} tokens": given(padded),
        "batch": given(prompts),
    }


def _call(graph: OnnxGraph, given: Arrays) -> Callable[[], object]:
    return lambda: graph.run(given)


def _agreement(
    variants: Variants, graph: str, loaded: Mapping[str, OnnxGraph], sizes: Mapping[str, Arrays]
) -> dict[str, Any]:
    """Return how each variant was made, its size, and its cosine similarity to float32."""
    outputs = {key: one.run(sizes["batch"])[COMPARED_OUTPUTS[graph]] for key, one in loaded.items()}
    result: dict[str, Any] = {}
    for key, found in outputs.items():
        if key == EXACT:
            continue
        distances = cosine_distances(outputs[EXACT], found)
        variant = variants.graphs[graph].get(key)
        result[key] = {
            **(dict(variant.check or {}) if variant is not None else {}),
            "cosine": {
                "mean": round(1 - float(distances.mean()), 6),
                "least": round(1 - float(distances.max()), 6),
            },
            "megabytes": round(Path(loaded[key].path).stat().st_size / 1e6, 1),
        }
    return result


def _share_of_products(path: Path, given: Arrays, threads: int) -> float:
    """Return the share s of a graph's time in matrix products and convolutions, by profiling.

    With products p times as fast, the graph is 1 / (1 - s + s / p) times as fast (Amdahl's law).
    """
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="ztcir-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.log_severity_level = 3
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=[CPU])
        for _ in range(PROFILED_RUNS):
            session.run(None, dict(given))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    products = total = 0
    for event in events:
        operator = event.get("args", {}).get("op_name")
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        total += event["dur"]
        products += event["dur"] if any(part in operator for part in PRODUCTS) else 0
    return round(products / total, 3)


def _rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            model["name"],
            f"{graph}, {size}",
            key,
            f"{sides['timings'][EXACT]['p50_ms']:.2f}",
            f"{sides['timings'][key]['p50_ms']:.2f}",
            f"{ratio['median']:.2f}",
        )
        for model in result["models"]
        for graph, measured in model["graphs"].items()
        for size, sides in measured["comparisons"].items()
        for key, ratio in sides["ratios"].items()
    ]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("precision", "Measure int8 on a CPU, as ratios to float32.")
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, help="backbones to measure with random weights")
    add("--out", type=Path, default=RESULTS / "precision.json", help="result file")
    add("--threads", type=positive, default=available_cores(), help="threads of one graph")
    add_round_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
