"""mAP@10 of composed queries without each rule for texts, and the tables of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.markdown import describe_source, format_table
from cli.output import table
from ztcir_sdk.bundle import Bundle, Manifest
from ztcir_sdk.evaluation.triplet_evaluation import evaluate_triplets
from ztcir_sdk.retriever import Retriever

__all__ = ["COMMAND", "FILE", "LABELS", "describe_rules", "measure_rules", "without"]

FILE = "rules.json"
COMMAND = "python -m benchmarks.rules"
RULES: Mapping[str, Mapping[str, Any]] = {
    "neutral": {"neutral_text": None, "neutral_strength": 1.0},
    "details": {"detail_words": (), "detail_weight": None},
    "prototypes": {"prototypes": None},
}
"""Rule -> the entries of a manifest without it."""
LABELS: Mapping[str, str] = {
    "all": "with all rules",
    "neutral": "without reading refusals and parts",
    "typed": "without correcting slips, and shortening messages and other languages",
    "details": "without the vector of the text for details",
    "prototypes": "without the pull to prototypes",
    "none": "the three graphs alone",
}


def without(bundle: Bundle, rules: Sequence[str]) -> Bundle:
    """Return a bundle as it is without some of `RULES`."""
    entries = {entry: value for rule in rules for entry, value in RULES[rule].items()}
    manifest: Manifest = replace(bundle.manifest, **entries)
    return Bundle(bundle.path, manifest)


def measure_rules(
    images: Sequence[str | Path], files: Sequence[Path], threads: int
) -> dict[str, Any]:
    """Return mAP@10 of composed queries with all rules, without each, and without any.

    Args:
        images: gallery, as `evaluate_triplets` takes it.
        files: files of queries.
        threads: threads of one graph.
    """
    bundle = Bundle.embedded()
    left_out = {"all": (), "typed": (), **{rule: (rule,) for rule in RULES}, "none": tuple(RULES)}
    figures: dict[str, dict[str, Any]] = {}
    for name, rules in left_out.items():
        as_typed = name in ("typed", "none")
        retriever = Retriever(
            without(bundle, rules), device="cpu", threads=threads, correct_slips=not as_typed
        )
        figures[name] = {}
        for file in files:
            scores = evaluate_triplets(retriever, images, file).methods["composed"]
            kinds = {kind: own["mAP@10"] for kind, own in scores.per_kind.items()}
            figures[name][file.stem] = {"all": scores.overall["mAP@10"], **kinds}
    sets = [file.stem for file in files]
    rows = [
        (LABELS[name], *(f"{own[one]['all']:.3f}" for one in sets)) for name, own in figures.items()
    ]
    table(("composed, mAP@10", *sets), rows)
    return {
        "bundle": {"name": bundle.name, "fingerprint": bundle.fingerprint},
        "mAP@10": figures,
    }


def describe_rules(values: Mapping[str, Any]) -> str:
    """Tabulate mAP@10 without each rule: of one change, and of open requests by kind."""
    tidy, requests = values["mAP@10"]["all"]
    kinds = list(values["mAP@10"]["all"][requests])
    rows = [
        (
            label,
            f"{own[tidy]['all']:.3f}",
            *(f"{own[requests][kind]:.3f}" for kind in kinds),
        )
        for name, label in LABELS.items()
        for own in (values["mAP@10"][name],)
    ]
    columns = ("`composed`", "one change", "all requests", *kinds[1:])
    source = describe_source(values, "onnxruntime")
    return f"{format_table(columns, rows)}\n\nBundle `{values['bundle']['name']}`, {source}."
