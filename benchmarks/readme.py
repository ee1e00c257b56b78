"""Write the documents' figures from result files.

    python -m benchmarks.readme            write them
    python -m benchmarks.readme --check    exit 1 if a document differs

A region is between two marks, ``<!-- quality -->`` and ``<!-- /quality -->``. Plots in docs/
are drawn too, if they show other figures.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation import plot
from benchmarks.ablation.report import FILE as ABLATION
from benchmarks.ablation.report import REGIONS as METHOD_REGIONS
from benchmarks.adapt.report import FILE as ADAPT
from benchmarks.adapt.report import describe_adaptation
from benchmarks.answers import FILE as ANSWERS
from benchmarks.answers import describe_answers
from benchmarks.cold import describe_cold
from benchmarks.command import RESULTS, command_parser, run_command
from benchmarks.index import plot as index_plot
from benchmarks.index.report import FILES as INDEX_FILES
from benchmarks.index.report import describe_index
from benchmarks.indexing import plot as indexing_plot
from benchmarks.indexing.report import DECODING, describe_decoding, describe_indexing
from benchmarks.markdown import describe_source, format_count, format_table
from benchmarks.page import FILE as PAGE
from benchmarks.page import describe_keys
from benchmarks.profile.report import FILE as PROFILE
from benchmarks.profile.report import OPENVINO_FILE, describe_devices, describe_profile
from benchmarks.provenance import ROOT
from benchmarks.rules.held_out import COMMAND as HELD_OUT_COMMAND
from benchmarks.rules.held_out import FILE as HELD_OUT
from benchmarks.rules.held_out import describe_held_out
from benchmarks.rules.measure import COMMAND as RULES_COMMAND
from benchmarks.rules.measure import FILE as RULES
from benchmarks.rules.measure import describe_rules
from benchmarks.scale import FILE as SCALE
from benchmarks.scale import describe_scale
from benchmarks.serve import FILE as SERVE
from benchmarks.serve import describe_load
from benchmarks.training_cost import FILE as TRAINING_COST
from benchmarks.training_cost import describe_training_cost
from benchmarks.unwanted import describe_unwanted
from benchmarks.warm.report import CONCURRENCY, describe_concurrency, describe_warm
from benchmarks.warm.report import FILE as WARM
from cli.output import note, write_file
from ztcir_sdk.benchmark.changes import describe_precision
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import IMAGE_ENCODER, METHODS, METRICS, ORACLE, TEXT_ENCODER, TOKEN_LEARNER

NOT_MEASURED = "Not measured yet."
"""Text that a region may have while its file is missing."""

Values = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents, or check them; return the exit code."""
    parser = command_parser("readme", "Write the figures of the documents.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 if they differ")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the documents")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(arguments)
    return run_command(lambda: _update_all(options))


def _update_all(options: argparse.Namespace) -> None:
    for name, regions in DOCUMENTS.items():
        _update(options.root / name, regions, options.results, check=options.check)
    for name, (files, drawn) in PLOTS.items():
        results = [options.results / file for file in files]
        _draw(options.root / name, results, drawn, check=options.check)


def _update(document: Path, regions: Mapping[str, Region], results: Path, *, check: bool) -> None:
    """Write a document's regions, or check them."""
    before = _read(document)
    texts = region_texts(results, regions)
    after = fill(before, texts, document.name)
    if check:
        _check(document.name, before, after, results, regions, texts)
    elif after != before:
        write_file(document, after.encode())
    for name in regions.keys() - texts.keys():
        note(f"Region {name} is unchanged: {results / regions[name][0]} is missing.")


def _draw(document: Path, results: Sequence[Path], drawn: Any, *, check: bool) -> None:
    """Draw a plot of result files with the module `drawn`, or check which figures it shows."""
    if missing := [file for file in results if not file.is_file()]:
        if check and document.is_file():
            raise ZtcirError(f"There is a plot {document} but no {missing[0]}: measure again.")
        return
    values = [json.loads(_read(file)) for file in results]
    shown = values if len(values) > 1 else values[0]
    if drawn.is_current(document, shown):
        return
    if check:
        raise ZtcirError(
            f"The plot {document} does not show the figures of {results[0]}: run "
            "`python -m benchmarks.readme`."
        )
    drawn.draw_plot(document, shown)


def region_texts(results: Path, regions: Mapping[str, Region]) -> dict[str, str]:
    """Return the text of each region whose file exists.

    Raises:
        ZtcirError: a file has not the format that its command writes.
    """
    texts: dict[str, str] = {}
    for name, (file, command, describe) in regions.items():
        if (path := results / file).is_file():
            try:
                texts[name] = describe(json.loads(_read(path)))
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise ZtcirError(
                    f"{path} is not a file of `{command}` ({error!r}): run that command again."
                ) from error
    return texts


def fill(document: str, regions: Mapping[str, str], file: str = "figures.md") -> str:
    """Return a document with new texts in the given regions.

    Args:
        document: text of the document.
        regions: region -> its text.
        file: name of the document, for messages.

    Raises:
        ZtcirError: a region is missing from the document, or is there twice.
    """
    for name, text in regions.items():
        found = list(_pattern(name).finditer(document))
        if len(found) != 1:
            raise ZtcirError(
                f"{file} has {len(found)} regions {name!r}, not one: mark it with "
                f"<!-- {name} --> and <!-- /{name} -->."
            )
        start, end = found[0].span()
        whole = f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->"
        document = f"{document[:start]}{whole}{document[end:]}"
    return document


def _check(
    document: str,
    before: str,
    after: str,
    results: Path,
    regions: Mapping[str, Region],
    texts: Mapping[str, str],
) -> None:
    """Refuse figures that differ from their file, or that have no file."""
    for name, (file, command, _) in regions.items():
        inside = [found.strip() for found in _pattern(name).findall(before)]
        if name not in texts and set(inside) - {"", NOT_MEASURED}:
            raise ZtcirError(
                f"{document} has figures in {name!r} but there is no {results / file}: write it "
                f"with `{command}`."
            )
        if name in texts and inside != [texts[name]]:
            raise ZtcirError(
                f"In {document}, {name!r} differs from {results / file}: run "
                "`python -m benchmarks.readme`."
            )
    if before != after:
        raise ZtcirError(
            f"The regions of {document} are not formatted: run `python -m benchmarks.readme`."
        )


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {name} -->(.*?)<!-- /{name} -->", re.DOTALL)


def _quality(values: Values) -> str:
    """Describe scores by method, from `ztcir eval triplets`, and the gain of composing."""
    methods = values["methods"]
    overall = {name: methods[name]["overall"] for name in (*METHODS, "sum_best", ORACLE)}
    labels = {name: f"`{name}`" for name in overall}
    labels["sum_best"] = f"`sum`, best weight of the text ({methods['sum_best']['weight']:g})"
    rows = [
        (labels[name], *(f"{scores[score]:.3f}" for score in METRICS))
        for name, scores in overall.items()
    ]
    gains = {
        name: overall["composed"]["mAP@10"] / overall[name]["mAP@10"]
        for name in ("sum_best", "stage1")
    }
    # The tried weights include 0 and 1, so the best is never below `image` or `text`.
    return "\n\n".join(
        (
            format_table(("method", *METRICS), rows),
            f"{format_count(values['queries'])} queries over "
            f"{format_count(values['gallery'])} pictures, "
            f"bundle `{values['bundle']['name']}` ({describe_precision(values['bundle'])}), "
            f"{values['date'][:10]}. By mAP@10, `composed` reaches {gains['sum_best']:.2f} times "
            f"the best of `image`, `text` and `sum`, and {gains['stage1']:.2f} times `stage1`.",
        )
    )


def _requests(values: Values) -> str:
    """Describe mAP@10 by kind of open request, from `ztcir eval triplets`."""
    methods = values["methods"]
    kinds = list(methods["composed"]["per_kind"])
    rows = [
        (
            f"`{name}`",
            f"{scores['overall']['mAP@10']:.3f}",
            *(f"{scores['per_kind'][kind]['mAP@10']:.3f}" for kind in kinds),
        )
        for name, scores in ((name, methods[name]) for name in (*METHODS, ORACLE))
    ]
    return "\n\n".join(
        (
            format_table(("mAP@10", "all", *kinds), rows),
            f"{format_count(values['queries'])} requests over {format_count(values['gallery'])} "
            f"pictures, bundle `{values['bundle']['name']}` "
            f"({describe_precision(values['bundle'])}), {values['date'][:10]}.",
        )
    )


def _latency(values: Values) -> str:
    """Describe times of graphs and whole queries, from `ztcir bench`."""
    rows = [
        (f"{graph.replace('_', ' ')}, {_sizes(timing)}", *_times(timing))
        for graph, timings in values["graphs"].items()
        for timing in timings
    ]
    query = values["query"]
    gallery = f"{format_count(query['index'])} pictures"
    rows.append((f"JPEG and text in, hits of {gallery} out", *_times(query["first_text"])))
    rows.append(
        (f"another text on that JPEG, hits of {gallery} out", *_times(query["second_text"]))
    )
    speed = values["indexing"]["pictures_per_second"]
    return "\n\n".join(
        (
            format_table(("milliseconds", "p50", "p90", "p99"), rows),
            f"Indexing: {speed:.0f} pictures a second. Bundle `{values['bundle']['name']}` "
            f"({describe_precision(values)}), {describe_source(values, 'onnxruntime')}.",
        )
    )


def _ratios(values: Values) -> str:
    """Describe the SDK beside PyTorch eager, from `benchmarks.latency`."""
    rows = []
    for model in values["models"]:
        for what, label, side in _COMPARED:
            sides = model["comparisons"][what]
            ratio, timings = sides["ratios"][side], sides["timings"]
            rows.append(
                (
                    f"{model['name']} ({model['weights']} weights)",
                    label,
                    _milliseconds(timings[side]["p50_ms"]),
                    _milliseconds(timings["pytorch"]["p50_ms"]),
                    f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})",
                )
            )
    columns = ("model", "what", "SDK, p50 ms", "PyTorch, p50 ms", "times as fast")
    tokens = values["models"][0]["tokens"]
    return "\n\n".join(
        (
            format_table(columns, rows, text_columns=2),
            f"PyTorch runs the same modules eagerly, prompts padded to {tokens['padded']} tokens; "
            f"the SDK cuts them after their end, here to {tokens['cut']}. Times as fast: the "
            "median of the ratios of interleaved rounds, and their middle half. "
            f"{describe_source(values, 'onnxruntime', 'torch')}.",
        )
    )


def _precision(values: Values) -> str:
    """Describe each quantization beside float32, from `benchmarks.precision`."""
    rows = [
        (
            model["name"],
            f"{graph.replace('_', ' ')}, {size}",
            "{}, {} bits".format(*key.split("-")[1:]),
            _milliseconds(sides["timings"][key]["p50_ms"]),
            _milliseconds(sides["timings"]["fp32"]["p50_ms"]),
            f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})",
            f"{measured['variants'][key]['cosine']['mean']:.4f}",
            f"{measured['share_of_products'][size]:.0%}",
        )
        for model in values["models"]
        for graph, measured in model["graphs"].items()
        for size, sides in measured["comparisons"].items()
        for key, ratio in sides["ratios"].items()
        if key.startswith("int8-") and size != "batch"
    ]
    columns = ("model", "graph", "int8", "int8, p50 ms", "fp32, p50 ms", "times as fast")
    return "\n\n".join(
        (
            format_table((*columns, "cosine", "products"), rows, text_columns=3),
            "Cosine: of int8's vectors with fp32's, on average. Products: their share, and that of "
            "convolutions, of fp32's time; the rest gains nothing. "
            f"{describe_source(values, 'onnxruntime')}.",
        )
    )


_COMPARED = (
    (IMAGE_ENCODER, "image encoder", "sdk"),
    (TOKEN_LEARNER, "token learner", "sdk"),
    (TEXT_ENCODER, "text encoder", "sdk"),
    (TEXT_ENCODER, "text encoder, both padded", "sdk_padded"),
    ("first_text", "JPEG and text in, hits out", "sdk"),
    ("second_text", "another text on that JPEG, hits out", "sdk"),
)
"""Comparison, its label in the README, and the side that is compared with PyTorch."""

Region = tuple[str, str, Callable[[Values], str]]
REGIONS: Mapping[str, Region] = {
    "quality": ("val-triplets.json", "ztcir eval triplets --method all --json", _quality),
    "latency": ("bench.json", "ztcir bench --json", _latency),
    "ratios": ("latency.json", "python -m benchmarks.latency", _ratios),
    "precision": ("precision.json", "python -m benchmarks.precision", _precision),
}
"""Region -> its file, the command that writes the file, and the function that describes it."""


def _limits(values: Values) -> str:
    """Return how well the default bundle answers each kind of request, the worst first."""
    kinds = values["methods"]["composed"]["per_kind"]
    oracle = values["methods"][ORACLE]["per_kind"]
    listed = [
        f"{kind} {scores['mAP@10']:.2f} ({oracle[kind]['mAP@10']:.2f})"
        for kind, scores in sorted(kinds.items(), key=lambda one: one[1]["mAP@10"])
    ]
    return (
        "mAP@10 of requests as people type them, and in brackets of a text that names the answer's "
        f"colour, type and gender: {', '.join(listed)}."
    )


_KINDS = {
    "detail": "a material or a cut, which only captions name",
    "not": "a colour that is not wanted, inside the text",
    "keep": "what no photo can answer, such as a price",
    "typo": "a mistyped colour",
    "long": "a request inside a long message",
    "language": "German, Spanish or French",
    "instead": "the old value named before the new one",
    "two": "two changes at once",
}


def _kinds(values: Values) -> str:
    """Tabulate how well each kind of request is answered, the worst first."""
    kinds = values["methods"]["composed"]["per_kind"]
    oracle = values["methods"][ORACLE]["per_kind"]
    rows = [
        (
            _KINDS.get(kind, kind),
            f"{1 - scores['R@10']:.0%}",
            f"{scores['mAP@10']:.2f}",
            f"{oracle[kind]['mAP@10']:.2f}",
        )
        for kind, scores in sorted(kinds.items(), key=lambda one: one[1]["mAP@10"])
    ]
    columns = ("the text has", "no right photo in the first ten", "mAP@10", "of the answer named")
    return "\n\n".join(
        (
            format_table(columns, rows),
            f"{format_count(values['queries'])} requests over {format_count(values['gallery'])} "
            f"photos, bundle `{values['bundle']['name']}`, {values['date'][:10]}.",
        )
    )


DOCUMENTS: Mapping[str, Mapping[str, Region]] = {
    "README.md": {
        "limits": (
            "val-open-triplets.json",
            "ztcir eval triplets --method all --json",
            _limits,
        )
    },
    "docs/figures.md": REGIONS,
    "docs/limits.md": {
        "kinds": ("val-open-triplets.json", "ztcir eval triplets --method all --json", _kinds),
        "unwanted": ("unwanted.json", "python -m benchmarks.unwanted", describe_unwanted),
        "answers": (ANSWERS, "python -m benchmarks.answers", describe_answers),
    },
    "docs/serving.md": {
        "load": (SERVE, "python -m benchmarks.serve", describe_load),
        "keys": (PAGE, "python -m benchmarks.page", describe_keys),
    },
    "docs/performance.md": {
        "cold": ("cold.json", "python -m benchmarks.cold", describe_cold),
        "warm": (WARM, "python -m benchmarks.warm", describe_warm),
        "concurrency": (
            CONCURRENCY,
            "python -m benchmarks.warm.concurrency",
            describe_concurrency,
        ),
        "indexing": ("indexing-900x1200.json", "python -m benchmarks.indexing", describe_indexing),
        "indexing-12MP": ("indexing-12MP.json", "python -m benchmarks.indexing", describe_indexing),
        "decoding": (DECODING, "python -m benchmarks.indexing --parts decoders", describe_decoding),
        "profile": (PROFILE, "python -m benchmarks.profile", describe_profile),
        "openvino": (
            OPENVINO_FILE,
            "python -m benchmarks.profile --devices cpu openvino",
            describe_devices,
        ),
    },
    "docs/searching.md": {
        "unwanted": ("unwanted.json", "python -m benchmarks.unwanted", describe_unwanted)
    },
    "docs/method.md": {
        **METHOD_REGIONS,
        "requests": (
            "val-open-triplets.json",
            "ztcir eval triplets --method all --json",
            _requests,
        ),
        "rules": (RULES, RULES_COMMAND, describe_rules),
        "held-out": (HELD_OUT, HELD_OUT_COMMAND, describe_held_out),
    },
    "docs/collections.md": {"answers": (ANSWERS, "python -m benchmarks.answers", describe_answers)},
    "docs/training.md": {
        "adapt": (ADAPT, "python -m benchmarks.adapt", describe_adaptation),
        "training-cost": (
            TRAINING_COST,
            "python -m benchmarks.training_cost",
            describe_training_cost,
        ),
    },
    "docs/scale.md": {
        "scale": (SCALE, "python -m benchmarks.scale", describe_scale),
        **{
            region: (file, "python -m benchmarks.index", describe_index)
            for region, file in INDEX_FILES.items()
        },
    },
}
PLOTS: Mapping[str, tuple[Sequence[str], Any]] = {
    "docs/ablation-triplets.png": ((ABLATION,), plot),
    "docs/indexing.png": (indexing_plot.FILES, indexing_plot),
    **{
        f"docs/{region}.png": ((INDEX_FILES[region],), index_plot)
        for region in ("index-100000", "index-1000000", "index-catalogue")
    },
}
"""Plot -> the result files that it shows, and the module that draws it."""


def _times(timing: Values) -> list[str]:
    return [_milliseconds(timing[name]) for name in ("p50_ms", "p90_ms", "p99_ms")]


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _sizes(timing: Values) -> str:
    names = {"images": "image", "references": "reference", "texts": "text", "tokens": "token"}
    return " of ".join(
        f"{timing[many]} {one if timing[many] == 1 else many}"
        for many, one in names.items()
        if many in timing
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ZtcirError(
            f"{path} cannot be read ({error.strerror}): run this command in a checkout."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
