"""Chooses a bundle's precisions: a graph's variant is kept only if its answers stay the same.

Each variant is measured alone, in place of the float32 graph; then all that passed are measured
together. Under the name of the requested precision, a graph that does not pass stays in float32,
with the reason recorded. It is an error if no graph passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.agreement import SELECTED, Agreement, Embeddings, VariantRunner
from export.variants import Report
from ztcir_sdk.bundle import Precision
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplet_evaluation import evaluate_triplets
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.sources import Source

MAP_LOSS = 0.005
"""Largest accepted loss of mAP@10: half a point."""


class PrecisionError(ZtcirError):
    """No graph is accurate enough in a requested precision; nothing is exported."""


@dataclass(frozen=True)
class Bounds:
    """What a precision must preserve: rankings of trained weights, directions of random ones.

    Attributes:
        overlap: least mean fraction of float32's first ten hits.
        cosine: largest cosine distance from float32's vectors.
    """

    overlap: float
    cosine: float


BOUNDS: Mapping[str, Bounds] = {
    "fp16": Bounds(overlap=0.99, cosine=1e-3),
    "int8": Bounds(overlap=0.95, cosine=2e-2),
}


@dataclass(frozen=True)
class Acceptance:
    """What fp16 and int8 are measured on.

    Attributes:
        trained: whether rankings are meaningful; otherwise only cosine distances are bounded.
        gallery: images to rank; default: drawings.
        triplets: queries with known targets in the gallery, as for ``ztcir eval triplets``.
        calibration: images that static int8 measures its ranges on; default: drawings.

    Raises:
        UsageError: there are triplets but no gallery.
    """

    trained: bool = True
    gallery: Source | None = None
    triplets: Path | None = None
    calibration: Source | None = None

    def __post_init__(self) -> None:
        if self.triplets is not None and self.gallery is None:
            raise UsageError("The triplets need the gallery that holds their images: name it too.")


@dataclass
class _Choice:
    """The choice of one precision's variants, in progress."""

    runner: VariantRunner
    precision: str
    acceptance: Acceptance
    report: Report
    exact: Embeddings
    """Embeddings of the float32 graphs."""
    exact_map: float | None
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Graph -> figures of the variant that passed."""
    overlaps: dict[str, float] = field(default_factory=dict)
    kept_in_fp32: dict[str, str] = field(default_factory=dict)
    """Graph -> reason."""

    def measure(self, selection: Mapping[str, str]) -> tuple[Agreement | None, str | None]:
        """Return a selection's agreement with float32, and the bound that it misses, if any."""
        try:
            agreement = self.runner.compare(self.exact, self.runner.encode(selection))
        except ZtcirError as error:
            return None, str(error).rstrip(".")
        bounds = BOUNDS[self.precision]
        return agreement, missed_bound(agreement, bounds, trained=self.acceptance.trained)

    def report_result(self, name: str, agreement: Agreement | None, reason: str | None) -> None:
        figures = ""
        if agreement is not None and self.acceptance.trained:
            overlaps = [f"{method} {value:.3f}" for method, value in agreement.overlap.items()]
            figures = f" (first ten: {', '.join(overlaps)})"
        elif agreement is not None:
            items = agreement.cosine_distance.items()
            distances = [f"{method} {value:.1e}" for method, value in items]
            figures = f" (cosine distance: {', '.join(distances)})"
        self.report(f"{name}: {reason or 'passed'}{figures}")


def choose_variants(
    runner: VariantRunner,
    precision: str,
    candidates: Mapping[str, Sequence[str]],
    acceptance: Acceptance,
    *,
    refused: Mapping[str, str] | None = None,
    report: Report = lambda line: None,
) -> tuple[Precision, dict[str, dict[str, Any]]]:
    """Choose the variants of one precision.

    Args:
        runner: runner of a bundle that holds all variants, including "fp32".
        precision: "fp16" or "int8".
        candidates: graph -> keys of its variants in this precision, the preferred first.
        acceptance: what is measured.
        refused: graph -> why it has no candidates.
        report: receives one line for each measurement.

    Returns:
        The precision for the manifest, with variant keys in `graphs`; and graph -> figures of its
        variant measured alone, for each graph that passed.

    Raises:
        PrecisionError: no graph passed.
    """
    fp32 = dict.fromkeys(runner.bundle.manifest.graphs, "fp32")
    exact_map = _mean_average_precision(runner, fp32, acceptance)
    choice = _Choice(runner, precision, acceptance, report, runner.encode(fp32), exact_map)
    choice.kept_in_fp32.update(refused or {})
    selection = dict(fp32)
    for graph, keys in candidates.items():
        for key in keys:
            agreement, reason = choice.measure({**fp32, graph: key})
            choice.report_result(f"{key} {graph}", agreement, reason)
            if reason is None and agreement is not None:
                selection[graph] = key
                choice.checks[graph] = agreement.to_dict(rankings=acceptance.trained)
                choice.overlaps[graph] = min(agreement.overlap.values())
                choice.kept_in_fp32.pop(graph, None)
                break
            choice.kept_in_fp32[graph] = f"{key}: {reason}"
    check = _check_together(choice, selection, fp32)
    return Precision(selection, check=check), choice.checks


def _check_together(
    choice: _Choice, selection: dict[str, str], fp32: Mapping[str, str]
) -> dict[str, Any]:
    """Measure the passed variants together; return graphs to float32 until they pass.

    Args:
        choice: the choice.
        selection: graph -> key of its variant; changed in place.
        fp32: graph -> "fp32".
    """
    precision = choice.precision
    while selection != fp32:
        agreement, reason = choice.measure(selection)
        reached = None
        if reason is None:
            reached = _mean_average_precision(choice.runner, selection, choice.acceptance)
            reason = _map_loss(choice.exact_map, reached)
        choice.report_result(precision, agreement, reason)
        if reason is None and agreement is not None:
            return _manifest_entry(choice, agreement, reached)
        narrow = [graph for graph in selection if selection[graph] != fp32[graph]]
        worst = min(narrow, key=lambda graph: choice.overlaps[graph])
        selection[worst] = fp32[worst]
        choice.kept_in_fp32[worst] = f"with the other graphs: {reason}"
        choice.checks.pop(worst)
    reasons = "; ".join(f"{graph}, {reason}" for graph, reason in choice.kept_in_fp32.items())
    raise PrecisionError(
        f"No graph is accurate enough in {precision} ({reasons}), so nothing was exported: leave "
        f"{precision} out" + (", or calibrate on other images." if precision == "int8" else ".")
    )


def missed_bound(agreement: Agreement, bounds: Bounds, *, trained: bool) -> str | None:
    """Describe the first bound that an agreement misses, if any. NaN misses every bound."""
    if trained:
        for method, overlap in agreement.overlap.items():
            if not overlap >= bounds.overlap:
                return f"the first ten by {method} agree to {overlap:.3f}, under {bounds.overlap}"
        return None
    for name, distance in agreement.cosine_distance.items():
        if not distance <= bounds.cosine:
            return f"the cosine distance of {name} is {distance:.1e}, over {bounds.cosine:.0e}"
    return None


def _map_loss(exact: float | None, reached: float | None) -> str | None:
    if exact is None or reached is None or reached >= exact - MAP_LOSS:
        return None
    return f"mAP@10 falls from {exact:.4f} to {reached:.4f}, by more than {MAP_LOSS}"


def _mean_average_precision(
    runner: VariantRunner, selection: Mapping[str, str], acceptance: Acceptance
) -> float | None:
    """Return mAP@10 of the triplets with the most complete method; None without triplets."""
    if acceptance.triplets is None or acceptance.gallery is None:
        return None
    method = runner.methods[-1]
    retriever = Retriever(
        runner.select(selection), precision=SELECTED, device="cpu", backend="onnx"
    )
    result = evaluate_triplets(
        retriever, acceptance.gallery, acceptance.triplets, methods=(method,)
    )
    return result.methods[method].overall["mAP@10"]


def _manifest_entry(choice: _Choice, agreement: Agreement, reached: float | None) -> dict[str, Any]:
    query_set, trained = choice.runner.query_set, choice.acceptance.trained
    check: dict[str, Any] = {
        "compared_with": "fp32",
        "weights": "trained" if trained else "random",
        "gallery": query_set.description,
        "queries": len(query_set.texts),
        **agreement.to_dict(rankings=trained),
    }
    if reached is not None and choice.exact_map is not None:
        check["mAP@10"] = {"fp32": round(choice.exact_map, 4), choice.precision: round(reached, 4)}
    if choice.kept_in_fp32:
        check["kept_in_fp32"] = dict(choice.kept_in_fp32)
    return check
