"""Means and spreads of the results, verdicts on the claims, and the tables of docs/method.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ablation.rows import FROZEN, ROWS, Row
from benchmarks.markdown import format_count, format_table

Values = Mapping[str, Any]
MAP = "mAP@10"
OWN = "self_R@1"
COMMAND = "python -m benchmarks.ablation"
FILE = "ablation.json"
OPEN_FILE, ONE_SEED_FILE = "ablation-open.json", "ablation-one-seed.json"
"""The rows with the backbone of the present bundle; `FILE` has those with an earlier one."""
PICTURE = "![mAP@10 against the number of synthetic triplets](ablation-triplets.png)"

FROZEN_LABELS: Mapping[str, str] = {
    "image": "image alone",
    "text": "text alone",
    "sum": "sum of image and text",
    "sum-best": "sum, at its best weight",
    "oracle": "oracle: the answer's attributes as text",
}
T_QUANTILES: Mapping[int, float] = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015}
"""Degrees of freedom -> Student's t at a one-sided 95 %; above 5, 2.02 is on the safe side."""


def summarise(found: Mapping[Row, Mapping[int, Values]]) -> dict[str, Any]:
    """Return each figure's values, mean and standard deviation, as JSON values.

    Args:
        found: row -> seed -> result.
    """
    rows: dict[str, Any] = {}
    for row, by_seed in found.items():
        seeds = list(by_seed)
        names = FROZEN_LABELS if row == FROZEN else {row.name: row.label}
        for name, label in names.items():
            scores = [by_seed[seed]["scores"][name] for seed in seeds]
            values = {metric: [one[metric] for one in scores] for metric in scores[0]}
            rows[name] = {
                "label": label,
                "changes": row.changes(),
                "seeds": [] if row == FROZEN else seeds,
                "values": values,
                "mean": {metric: statistics.fmean(some) for metric, some in values.items()},
                "spread": {
                    metric: statistics.stdev(some) if len(some) > 1 else 0.0
                    for metric, some in values.items()
                },
                "seconds": [by_seed[seed]["seconds"] for seed in seeds],
                "measured": [by_seed[seed]["measured"] for seed in seeds],
            }
    return {"rows": rows}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as a number that must be positive.

    Attributes:
        text: the claim.
        compared: the comparison that tests it.
        terms: row -> weight; the number is the weighted sum of the rows' ``metric``.
        metric: name of the figure.
        given: claim that must hold for this one to be meaningful.
    """

    text: str
    compared: str
    terms: Mapping[str, float]
    metric: str = MAP
    given: Claim | None = None


BASELINES = (
    *("image", "text", "sum", "sum-best", "pic2word", "searle", "lincir"),
    *("stage1", "stage1-longer"),
)
HALF = 0.5  # share of the full method's gain over Stage I


def claims(rows: Values) -> list[Claim]:
    """Return the paper's claims in the order of method.md; ``rows`` determine the best baseline."""
    vsi, soft = "VSI gives the token more of the image", "soft alignment ties it to real words"
    quality = "works with low- and high-quality triplets"
    measured = [name for name in BASELINES if name in rows]
    best = max(measured, key=lambda name: rows[name]["mean"][MAP], default=BASELINES[0])
    label = rows[best]["label"] if best in rows else best
    return [
        _above(
            vsi,
            '"a photo of $" finds its own image: with VSI above without',
            "stage1",
            "stage1-without-vsi",
            OWN,
        ),
        _above(vsi, "composed: with VSI above without", "composed", "without-vsi"),
        _above(
            soft,
            "Stage I with the modification: with alignment above without",
            "stage1",
            "stage1-without-alignment",
        ),
        _above(soft, "composed: with alignment above without", "composed", "without-alignment"),
        GAIN,
        _keeps_half("little synthetic data is enough", "1 000 triplets", "triplets-1000"),
        _keeps_half(quality, "triplets from captions", "captions"),
        *([MAPPING] if {"stage1-longer", "pic2word"} <= rows.keys() else []),
        *([PHOTOS_ALONE] if "tags" in rows else []),
        _keeps_half(quality, "triplets with noise", "noisy"),
        _keeps_half(quality, "triplets from captions with noise", "captions-noisy"),
        _above("hard negatives help", "mined above in-batch only", "composed", "in-batch"),
        _above(
            "better than mapping alone",
            f"composed above the best of all others, here: {label}",
            "composed",
            best,
        ),
    ]


def _above(text: str, compared: str, row: str, other: str, metric: str = MAP) -> Claim:
    """Return the claim that a row is above another."""
    return Claim(text, compared, {row: 1, other: -1}, metric)


GAIN = _above("composing must be trained", "composed above Stage I alone", "composed", "stage1")


def _keeps_half(text: str, what: str, row: str) -> Claim:
    """Return the claim that a row keeps more than half of the full method's gain over Stage I."""
    compared = f"{what} give more than half of the gain over Stage I that all clean ones give"
    terms = {row: 1, "stage1": HALF - 1, "composed": -HALF}
    return Claim(text, compared, terms, given=GAIN)  # half of no gain would hold trivially


MAPPING = _above(
    "the token learner maps better than an MLP",
    "Stage I alone above Pic2Word-like, with as many steps",
    "stage1-longer",
    "pic2word",
)
PHOTOS_ALONE = _keeps_half(
    "works with photos alone", "triplets from tags, without captions and attributes,", "tags"
)


def judge(claim: Claim, rows: Values) -> tuple[list[float], str]:
    """Return the claim's number for each seed, and its verdict.

    A claim "holds" if the mean over the seeds exceeds t standard errors of that mean, where t is
    Student's one-sided 95 % quantile: chance alone exceeds it once in twenty times. The claim in
    `given` must hold too. Rows without seeds count with every seed. The verdict is "not measured"
    if a row is missing, and "not judged" with a single seed.
    """
    if any(name not in rows for name in claim.terms):
        return [], "not measured"
    seeded = [set(rows[name]["seeds"]) for name in claim.terms if rows[name]["seeds"]]
    seeds = sorted(set.intersection(*seeded)) if seeded else []
    numbers = [
        sum(weight * _value(rows[name], claim.metric, seed) for name, weight in claim.terms.items())
        for seed in seeds
    ]
    if len(numbers) < 2:
        return numbers, "not judged"
    t = T_QUANTILES.get(len(numbers) - 1, 2.02)
    error = statistics.stdev(numbers) / math.sqrt(len(numbers))
    above = statistics.fmean(numbers) > t * error
    given = claim.given is None or judge(claim.given, rows)[1] == "holds"
    return numbers, "holds" if above and given else "does not hold here"


def _value(row: Values, metric: str, seed: int) -> float:
    values: Sequence[float] = row["values"][metric]
    return values[row["seeds"].index(seed)] if row["seeds"] else values[0]


def _parts(values: Values) -> str:
    """Describe the method with parts switched off."""
    names = (
        *("composed", "without-vsi", "without-alignment", "in-batch"),
        *("stage1", "stage1-without-vsi", "stage1-without-alignment"),
    )
    return _scores(values, names)


def _triplets(values: Values) -> str:
    """Describe numbers of triplets and their quality."""
    names = (
        *("stage1", "triplets-100", "triplets-1000", "triplets-10000", "composed"),
        *("noisy", "captions", "captions-noisy", "tags"),
    )
    rows, settings = values["rows"], values["settings"]
    labels = {
        "stage1": "no triplet: Stage I alone",
        "composed": f"all {format_count(settings['triplets'])}, from attributes",
        "noisy": f"all, {settings['noise']:.0%} of them with a wrong target",
    }
    for name, noise in (("captions", ""), ("captions-noisy", f", {settings['noise']:.0%} wrong")):
        if name in rows:
            made = format_count(round(rows[name]["mean"]["triplets"]))
            labels[name] = f"{made} from captions{noise}"
    if "tags" in rows:
        made = format_count(round(rows["tags"]["mean"]["triplets"]))
        labels["tags"] = f"{made} from photos alone, captions and attributes hidden"
    return f"{PICTURE}\n\n{_scores(values, names, labels)}"


def _rivals(values: Values) -> str:
    """Describe the method beside others on the same features."""
    labels = {"stage1": "Stage I alone (TL, VSI and soft alignment)"}
    weight = values["rows"].get("sum-best", {}).get("mean", {}).get("weight")
    if weight is not None:
        labels["sum-best"] = f"sum, at its best weight of the text ({weight:g})"
    names = (
        "composed",
        "stage1",
        "stage1-longer",
        "pic2word",
        "searle",
        "lincir",
        "sum-best",
        "sum",
    )
    return _scores(values, (*names, "text", "image"), labels)


def _claims(values: Values) -> str:
    """Describe the claims with numbers and verdicts."""
    rows = []
    for claim in claims(values["rows"]):
        numbers, verdict = judge(claim, values["rows"])
        if verdict == "not measured":
            continue
        number = "-" if not numbers else f"{statistics.fmean(numbers):+.3f}"
        spread = f" ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 else ""
        metric = "own image R@1" if claim.metric == OWN else claim.metric
        rows.append((claim.text, claim.compared, metric, f"{number}{spread}", verdict))
    columns = ("claim", "compared here", "by", "difference", "verdict")
    return format_table(columns, rows, text_columns=3)


def _settings(values: Values) -> str:
    """Describe how the ablation was measured."""
    settings = values["settings"]
    images, queries, gallery = (
        format_count(values["data"][name]) for name in ("images", "queries", "gallery")
    )
    seconds = sum(sum(row["seconds"]) for row in _once(values["rows"]))
    versions = values["versions"]
    count = len(settings["seeds"])
    own = {"cpu": values["machine"]["cpu"], "date": values["date"]}
    measured = [one for row in values["rows"].values() for one in row.get("measured", ())] or [own]
    machines = " and ".join(sorted({one["cpu"] for one in measured}))
    dates = sorted({one["date"][:10] for one in measured})
    date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{count} seed{'' if count == 1 else 's'} of trainings and triplets, "
        f"{settings['map_steps']} steps of Stage I, {settings['compose_steps']} of Stage II, "
        f"{settings['map_steps'] + settings['compose_steps']} of each rival (SEARLE's inversion, "
        f"{settings['inverted']} images in {settings['inversion_steps']} steps each, not counted). "
        f"{images} training images, {queries} queries over {gallery} pictures. "
        f"{machines}, {values['threads']} threads, torch {versions['torch']}, {date}; "
        f"{seconds / 3600:.1f} hours in all."
    )


def _once(rows: Values) -> Iterable[Values]:
    """Yield rows whose time counts: the frozen rows share theirs."""
    return (row for name, row in rows.items() if name not in FROZEN_LABELS or name == "oracle")


def _scores(values: Values, names: Sequence[str], labels: Mapping[str, str] | None = None) -> str:
    """Return a table of the named rows, and the oracle as its last row."""
    rows, labels = values["rows"], labels or {}
    oracle = rows["oracle"]["mean"][MAP]
    requests = [metric for metric in rows["oracle"]["mean"] if metric.endswith(f" {MAP}")]
    lines = []
    for name in (*names, "oracle"):
        if name in rows:
            row = rows[name]
            scores = [_figure(row, metric) for metric in ("R@1", "R@10", MAP, OWN)]
            share = f"{row['mean'][MAP] / oracle:.0%}"
            kinds = [_figure(row, metric) for metric in requests]
            lines.append((labels.get(name, row["label"]), *scores, share, *kinds))
    kinds = [metric.removesuffix(f" {MAP}") for metric in requests]
    columns = ("", "R@1", "R@10", MAP, "own image R@1", "of oracle's mAP@10", *kinds)
    return format_table(columns, lines)


def _figure(row: Values, metric: str) -> str:
    if metric not in row["mean"]:
        return ""
    mean = f"{row['mean'][metric]:.3f}"
    return f"{mean} ± {row['spread'][metric]:.3f}" if len(row["seeds"]) > 1 else mean


def _options(values: Values) -> str:
    """Return a table of the switches that are off by default, with a verdict each."""
    rows = values["rows"]
    full = rows["composed"]
    by_seed = dict(zip(full["seeds"], full["values"][MAP], strict=True))
    lines = [("full method, all off", _figure(full, MAP), "", "", "")]
    for row in (row for row in ROWS if row.option and row.name in rows):
        own = rows[row.name]
        gains = [
            value - by_seed[seed]
            for seed, value in zip(own["seeds"], own["values"][MAP], strict=True)
            if seed in by_seed
        ]
        least, most = min(gains), max(gains)
        verdict = "helps" if least > 0 else "costs" if most < 0 else "no more than seeds differ"
        lines.append(
            (
                own["label"],
                _figure(own, MAP),
                f"{statistics.fmean(gains):+.3f}",
                f"{least:+.3f} to {most:+.3f}",
                verdict if len(gains) > 1 else f"{verdict}, by one seed",
            )
        )
    columns = ("", MAP, "against the full method", "of each seed", "")
    return f"{format_table(columns, lines)}\n\n{_settings(values)}"


def _open(values: Values) -> str:
    """Describe all measured rows with the kinds of open requests, and what they say of claims."""
    names = [name for name in values["rows"] if name != "oracle"]
    return "\n\n".join((_scores(values, names), _claims(values), _settings(values)))


REGIONS: Mapping[str, tuple[str, str, Callable[[Values], str]]] = {
    "ablation-claims": (FILE, COMMAND, _claims),
    "ablation-parts": (FILE, COMMAND, _parts),
    "ablation-triplets": (FILE, COMMAND, _triplets),
    "ablation-rivals": (FILE, COMMAND, _rivals),
    "ablation-settings": (FILE, COMMAND, _settings),
    "ablation-open": (OPEN_FILE, f"{COMMAND} --out benchmarks/results/{OPEN_FILE}", _open),
    "ablation-one-seed": (
        ONE_SEED_FILE,
        f"{COMMAND} --seeds 0 --out benchmarks/results/{ONE_SEED_FILE}",
        _open,
    ),
    "ablation-options": ("ablation-options.json", f"{COMMAND} --options", _options),
}
"""Regions of docs/method.md, for `benchmarks.readme`."""
