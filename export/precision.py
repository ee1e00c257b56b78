"""Which precisions a bundle gets: a variant of a graph is kept only if its answers stay the same.

Each variant is measured alone, in the place of the float32 graph, and then all that passed
together. A graph that does not pass stays in float32 under the name of the precision that was
asked for, with the reason beside it; a precision of which nothing passed is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.agreement import CHOICE, Agreement, Answers, Judge
from ztcir_sdk.bundle import Precision
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplet_evaluation import evaluate_triplets
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.sources import Source

__all__ = ["BOUNDS", "Acceptance", "Bounds", "PrecisionError", "accept"]

MAP_LOSS = 0.005
"""Half a point of mAP@10, that a precision may cost."""


class PrecisionError(ZtcirError):
    """A precision that was asked for is not good enough in any graph; nothing is exported."""


@dataclass(frozen=True)
class Bounds:
    """What a precision must keep: of trained weights rankings, of random ones directions.

    Attributes:
        overlap: mean fraction of the first ten that float32 finds too, at least.
        cosine: largest cosine distance from float32's vectors, at most.
    """

    overlap: float
    cosine: float


BOUNDS: Mapping[str, Bounds] = {
    "fp16": Bounds(overlap=0.99, cosine=1e-3),
    "int8": Bounds(overlap=0.95, cosine=2e-2),
}


@dataclass(frozen=True)
class Acceptance:
    """What precisions are measured on.

    Attributes:
        trained: whether rankings mean something; otherwise only cosines are bounded.
        gallery: pictures to rank; drawings by default.
        triplets: queries with known answers about the gallery, in ``ztcir eval triplets``' format.
        calibration: pictures that static int8 takes its ranges from; drawings by default.

    Raises:
        UsageError: triplets without the gallery that they are about.
    """

    trained: bool = True
    gallery: Source | None = None
    triplets: Path | None = None
    calibration: Source | None = None

    def __post_init__(self) -> None:
        if self.triplets is not None and self.gallery is None:
            raise UsageError(
                "The triplets need the gallery that they are about: name its pictures too."
            )


@dataclass
class _Trial:
    """One precision on its way."""

    judge: Judge
    bounds: Bounds
    acceptance: Acceptance
    exact: Answers
    """Of the float32 graphs."""
    exact_map: float | None
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Graph -> what was measured of the variant that passed."""
    overlaps: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    """Graph -> why it stays in float32."""

    def measure(self, choice: Mapping[str, str]) -> tuple[Agreement | None, str | None]:
        """How near a choice is to float32, and what it falls short of, if of anything."""
        try:
            agreement = self.judge.agreement(self.exact, self.judge.answers(choice))
        except ZtcirError as error:
            return None, str(error).rstrip(".")
        return agreement, shortfall(agreement, self.bounds, trained=self.acceptance.trained)


def accept(
    judge: Judge,
    precision: str,
    candidates: Mapping[str, Sequence[str]],
    acceptance: Acceptance,
    *,
    refused: Mapping[str, str] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Precision, dict[str, dict[str, Any]]]:
    """Choose a precision's variants.

    Args:
        judge: with the bundle that holds all variants, "fp32" among them.
        precision: "fp16" or "int8".
        candidates: graph -> keys of its variants in this precision, the preferred first.
        acceptance: what is measured, and how much it may differ.
        refused: graph -> why its variants are no candidates at all.
        report: gets a line for each thing that was measured.

    Returns:
        The precision for the manifest, its `graphs` by variant key, and for each of its graphs
        that passed what was measured of it alone.

    Raises:
        PrecisionError: nothing passed.
    """
    full = dict.fromkeys(judge.bundle.manifest.graphs, "fp32")
    exact_map = _mean_average_precision(judge, full, acceptance)
    trial = _Trial(judge, BOUNDS[precision], acceptance, judge.answers(full), exact_map)
    trial.kept.update(refused or {})
    choice = dict(full)
    for graph, keys in candidates.items():
        for key in keys:
            agreement, reason = trial.measure({**full, graph: key})
            report(f"{key} {graph}: {reason or 'passed'}{_in_words(agreement, acceptance)}")
            if reason is None and agreement is not None:
                choice[graph] = key
                trial.checks[graph] = agreement.to_dict(rankings=acceptance.trained)
                trial.overlaps[graph] = min(agreement.overlap.values())
                trial.kept.pop(graph, None)
                break
            trial.kept[graph] = f"{key}: {reason}"
    check = _together(trial, precision, choice, full, report)
    return Precision(choice, check=check), trial.checks


def _together(
    trial: _Trial,
    precision: str,
    choice: dict[str, str],
    full: Mapping[str, str],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure what passed alone together; bring graphs back to float32 until that passes too."""
    while choice != full:
        agreement, reason = trial.measure(choice)
        reached = None
        if reason is None:
            reached = _mean_average_precision(trial.judge, choice, trial.acceptance)
            reason = _lost(trial.exact_map, reached)
        report(f"{precision}: {reason or 'passed'}{_in_words(agreement, trial.acceptance)}")
        if reason is None and agreement is not None:
            return _record(trial, agreement, precision, reached)
        narrow = [graph for graph in choice if choice[graph] != full[graph]]
        worst = min(narrow, key=lambda graph: trial.overlaps[graph])
        choice[worst] = full[worst]
        trial.kept[worst] = f"with the other graphs: {reason}"
        trial.checks.pop(worst)
    reasons = "; ".join(f"{graph}, {reason}" for graph, reason in trial.kept.items())
    raise PrecisionError(
        f"No graph is good enough in {precision} ({reasons}), so nothing was exported: leave "
        f"{precision} out" + (", or calibrate on other pictures." if precision == "int8" else ".")
    )


def shortfall(agreement: Agreement, bounds: Bounds, *, trained: bool) -> str | None:
    """What an agreement falls short of, in words; None where of nothing. NaN falls short."""
    if trained:
        for method, overlap in agreement.overlap.items():
            if not overlap >= bounds.overlap:
                return f"the first ten by {method} agree to {overlap:.3f}, under {bounds.overlap}"
        return None
    for what, distance in agreement.cosine_distance.items():
        if not distance <= bounds.cosine:
            return f"the cosine distance of {what} is {distance:.1e}, over {bounds.cosine:.0e}"
    return None


def _lost(exact: float | None, reached: float | None) -> str | None:
    if exact is None or reached is None or reached >= exact - MAP_LOSS:
        return None
    return f"mAP@10 falls from {exact:.4f} to {reached:.4f}, by more than {MAP_LOSS}"


def _mean_average_precision(
    judge: Judge, choice: Mapping[str, str], acceptance: Acceptance
) -> float | None:
    """mAP@10 of the triplets by the judge's main method, if there are triplets."""
    if acceptance.triplets is None or acceptance.gallery is None:
        return None
    method = judge.methods[-1]
    retriever = Retriever(judge.chosen(choice), precision=CHOICE, device="cpu", backend="onnx")
    result = evaluate_triplets(
        retriever, acceptance.gallery, acceptance.triplets, methods=(method,)
    )
    return result.methods[method].overall["mAP@10"]


def _record(
    trial: _Trial, agreement: Agreement, precision: str, reached: float | None
) -> dict[str, Any]:
    probe = trial.judge.probe
    check: dict[str, Any] = {
        "compared_with": "fp32",
        "weights": "trained" if trial.acceptance.trained else "random",
        "gallery": probe.description,
        "queries": len(probe.texts),
        **agreement.to_dict(rankings=trial.acceptance.trained),
    }
    if reached is not None and trial.exact_map is not None:
        check["mAP@10"] = {"fp32": round(trial.exact_map, 4), precision: round(reached, 4)}
    if trial.kept:
        check["kept_in_fp32"] = dict(trial.kept)
    return check


def _in_words(agreement: Agreement | None, acceptance: Acceptance) -> str:
    if agreement is None:
        return ""
    if acceptance.trained:
        found = ", ".join(f"{name} {value:.3f}" for name, value in agreement.overlap.items())
        return f" (first ten: {found})"
    distances = agreement.cosine_distance.items()
    return f" (cosine distance: {', '.join(f'{name} {value:.1e}' for name, value in distances)})"
