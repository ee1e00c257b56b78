"""What int8 gains on a processor, graph by graph, beside float32 in the same run.

    python -m benchmarks.precision --models fashion-lite ViT-B-32

Every way of quantizing is timed that an export tries, at random weights, which are as fast as
trained ones; how far each moves the vectors is told beside it. Where a graph gains less than
matrix products alone would, the share of its time that they take says why.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.comparison import Rounds, add_round_options, compare, positive
from benchmarks.eager import random_model, torch_threads
from benchmarks.surroundings import ROOT, load_average, surroundings
from cli.output import note, table, write_file
from export.agreement import calibration_pictures
from export.graphs import graph_modules
from export.int8 import fuse
from export.variants import Variants, write_variants
from train.model import ComposedModel, prompt_ids
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries, draw
from ztcir_sdk.environment import now
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.onnx.graph import import_onnxruntime

__all__ = ["main"]

OUT = ROOT / "benchmarks" / "results" / "precision.json"
MODELS = ("fashion-lite", "ViT-B-32")
EXACT, FUSED = "fp32", "fp32-fused"
GRAPHS = {"text_encoder": "query_embeds", "image_encoder": "image_embeds"}
"""Graph -> the output that is compared."""
PICTURES = 16
TEXTS = 24
PROFILED = 20  # runs
PRODUCTS = ("MatMul", "Gemm", "Conv", "QLinear", "QGemm")
"""Parts of the names of ONNX Runtime's operators that multiply weights."""

Arrays = Mapping[str, NDArray[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the JSON file and print the ratios; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    how = Rounds(options.rounds, options.runs, options.seconds)
    try:
        result = run(options.models, options.threads, how)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    except ZtcirError as error:
        note(f"Error: {error}")
        return error.exit_code
    table(("model", "graph", "variant", "fp32 p50 ms", "p50 ms", "times as fast"), _rows(result))
    note(f"{options.out} is written.")
    return 0


def run(models: Sequence[str], threads: int, how: Rounds) -> dict[str, Any]:
    """Measure models; gives the JSON values.

    Raises:
        ZtcirError: a model cannot be exported.
    """
    started, before = now(), load_average()
    with torch_threads(threads):
        measured = [_measure(name, threads, how) for name in models]
    return {
        **surroundings(started, threads, before),
        "settings": {"rounds": how.rounds, "runs": how.runs, "seconds": how.seconds},
        "models": measured,
    }


def _measure(name: str, threads: int, how: Rounds) -> dict[str, Any]:
    """Export a model in every way and time each graph at each size."""
    note(f"{name}: exporting")
    settings = RuntimeSettings(backend="onnx", device="cpu", threads=threads)
    with random_model(name) as model, tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch:
        preprocessing = Preprocessing.from_open_clip(model.backbone.preprocess_cfg)
        variants = write_variants(
            model,
            Path(scratch),
            ("fp32", "int8"),
            calibration=lambda: calibration_pictures(None, preprocessing),
            report=note,
        )
        graphs: dict[str, Any] = {}
        for graph in GRAPHS:
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
                        how=how,
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
    """The graph's files by key; beside them float32 with what ONNX Runtime's optimizer fuses."""
    own = variants.graphs[graph]
    files = {key: variants.folder / variant.file for key, variant in own.items()}
    fused = variants.folder / f"fused-{graph}.onnx"
    if fuse(files[EXACT], fused)["fusions"]:
        files[FUSED] = fused
    return files


@torch.no_grad()
def _inputs(model: ComposedModel, graph: str, preprocessing: Preprocessing) -> dict[str, Arrays]:
    """What a graph is given: one picture, one prompt as short as it is, one of the whole context.

    The last is a batch, by which the vectors are compared, too.
    """
    drawings = demo_gallery()[:PICTURES]
    pixels = preprocessing([draw(drawing) for drawing in drawings])
    if graph == "image_encoder":
        return {"1 picture": {"pixel_values": pixels[:1]}, "batch": {"pixel_values": pixels}}
    texts = [query.text for query in demo_queries(demo_gallery(), TEXTS)]
    texts.sort(key=len)
    prompts = prompt_ids(texts, tokens=model.config.tokens, tower=model.backbone.tower).numpy()
    ends = prompts.argmax(axis=1)
    middle = len(texts) // 2
    seen = model.learn_token(*model.encode_image(torch.from_numpy(pixels[:1])))
    names = graph_modules(model)[-1].inputs
    said = {
        name: array.numpy()
        for name, array in zip(("pseudo_tokens", "vsi_keys", "vsi_values"), seen, strict=True)
        if name in names
    }

    def given(ids: NDArray[np.int64]) -> Arrays:
        return {
            "input_ids": np.ascontiguousarray(ids),
            "reference_index": np.zeros(len(ids), dtype=np.int64),
            "adapter_scale": np.ones(len(ids), dtype=np.float32),
            **said,
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
    """How each variant was made, and its cosine distance from float32 over the batch."""
    output = GRAPHS[graph]
    exact = loaded[EXACT].run(sizes["batch"])[output].astype(np.float64)
    told: dict[str, Any] = {}
    for key, one in loaded.items():
        if key == EXACT:
            continue
        got = one.run(sizes["batch"])[output].astype(np.float64)
        norms = np.linalg.norm(got, axis=1) * np.linalg.norm(exact, axis=1)
        distances = 1 - (got * exact).sum(axis=1) / norms
        variant = variants.graphs[graph].get(key)
        told[key] = {
            **(dict(variant.check or {}) if variant is not None else {}),
            "cosine": {
                "mean": round(1 - float(distances.mean()), 6),
                "least": round(1 - float(distances.max()), 6),
            },
            "megabytes": round(Path(one.path).stat().st_size / 1e6, 1),
        }
    return told


def _share_of_products(path: Path, given: Arrays, threads: int) -> float:
    """Which part of a graph's time its matrix products and convolutions take, by the profiler.

    If they were p times as fast and the rest as it is, the graph would be 1 / (1 - s + s / p)
    times as fast (Amdahl's law).
    """
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="ztcir-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.log_severity_level = 3
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(PROFILED):
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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description="Measure what int8 gains on a processor, beside float32 in the same run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, help="backbones, measured at random weights")
    add("--out", type=Path, default=OUT, help="the file to write")
    add("--threads", type=positive, default=available_cores(), help="of one run of a graph")
    add_round_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
