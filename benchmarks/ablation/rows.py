"""The rows of the ablation: each is the full method with one named change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from train.settings import MadeTriplets, StageSettings
from ztcir_sdk.errors import check_choice

_UNCHANGING = {"name", "label", "option"}


@dataclass(frozen=True)
class Row:
    """What is trained, and how it is queried.

    Attributes:
        name: name in the result file.
        label: name in the tables.
        stage: "compose" (both stages), "map" (Stage I alone), "rival" (another method), or
            "frozen" (nothing is trained).
        vsi: whether the model has VSI.
        alignment: whether Stage I has the soft text alignment loss.
        source: source of Stage II's triplets, "attributes", "captions" or "tags". With "tags", both
            stages see photos alone, as `ztcir adapt` trains on them: all captions and attributes
            are hidden, and there are no drawings.
        triplets: largest number of triplets; None for all.
        noisy: whether a share of the triplets (`Settings.noise`) has one wrong target.
        requests: share of the triplets that are open requests, as the default bundle is trained.
        mined: whether hard negatives are mined beside the batch's own targets and references.
        rival: name in `benchmarks.ablation.rivals.RIVALS`.
        map_changes, compose_changes, part_changes: fields of `MapTraining`, `ComposeTraining` and
            `ModelConfig` that differ, with their values.
        storage: type of the cached patch features, "fp16" or "int8".
        longer: whether Stage I alone has as many steps as both stages, as a rival has.
        option: whether it is a switch that is off by default; it is measured if it is named.
    """

    name: str
    label: str
    stage: str = "compose"
    vsi: bool = True
    alignment: bool = True
    source: str = "attributes"
    triplets: int | None = None
    noisy: bool = False
    requests: float = 0.0
    mined: bool = True
    rival: str = ""
    map_changes: tuple[tuple[str, Any], ...] = ()
    compose_changes: tuple[tuple[str, Any], ...] = ()
    part_changes: tuple[tuple[str, Any], ...] = ()
    storage: str = StageSettings.patch_storage
    longer: bool = False
    option: bool = False

    def changes(self) -> dict[str, Any]:
        """Return the attributes that differ from the full method."""
        full = asdict(FULL)
        own = {key: value for key, value in asdict(self).items() if key not in _UNCHANGING}
        return {key: value for key, value in own.items() if value != full[key]}


FULL = Row("composed", "full method")
FROZEN = Row("frozen", "frozen backbone", stage="frozen")
"""Yields the rows image, text, sum, sum-best and oracle, which do not depend on the seed."""

ROWS: tuple[Row, ...] = (
    FROZEN,
    Row("stage1", "Stage I alone, the same prompt", stage="map"),
    Row("stage1-without-vsi", "Stage I alone, without VSI", stage="map", vsi=False),
    Row(
        "stage1-without-alignment",
        "Stage I alone, without soft alignment",
        stage="map",
        alignment=False,
    ),
    Row("stage1-longer", "Stage I alone, as long as the rivals", stage="map", longer=True),
    FULL,
    Row("without-vsi", "without VSI", vsi=False),
    Row("without-alignment", "without soft alignment", alignment=False),
    Row("in-batch", "in-batch negatives only", mined=False),
    Row("triplets-100", "100 triplets", triplets=100),
    Row("triplets-1000", "1 000 triplets", triplets=1000),
    Row("triplets-10000", "10 000 triplets", triplets=10000),
    Row("noisy", "triplets with noise", noisy=True),
    Row("captions", "triplets from captions", source="captions"),
    Row("captions-noisy", "triplets from captions with noise", source="captions", noisy=True),
    Row("tags", "photos alone", source="tags", triplets=20000, mined=False),
    Row("pic2word", "Pic2Word-like", stage="rival", rival="pic2word"),
    Row("searle", "SEARLE-like", stage="rival", rival="searle"),
    Row("lincir", "LinCIR-like", stage="rival", rival="lincir"),
    Row(
        "requests",
        f"{MadeTriplets.requests:.0%} of the triplets open requests",
        requests=MadeTriplets.requests,
        option=True,
    ),
    Row(
        "patches-2x2",
        "patches pooled to 2x2 of 5x4",
        part_changes=(("patch_grid", (2, 2)),),
        option=True,
    ),
    Row("patches-int8", "patches stored as int8", storage="int8", option=True),
    Row(
        "ema",
        "moving average of the weights",
        map_changes=(("ema", 0.98),),  # the stages have 120 and 80 steps
        compose_changes=(("ema", 0.98),),
        option=True,
    ),
    Row(
        "unclipped",
        "gradients not clipped",
        map_changes=(("clip", 0.0),),
        compose_changes=(("clip", 0.0),),
        option=True,
    ),
    Row(
        "self-masking",
        "self-masking projection (SMP) in Stage I",
        map_changes=(("self_masking", 1.0),),
        option=True,
    ),
    Row(
        "anchored",
        "text-anchored triplets in Stage I",
        map_changes=(("anchored", 0.5),),
        option=True,
    ),
    Row("tokens-3", "three pseudo-words", part_changes=(("tokens", 3),), option=True),
    Row(
        "tokens-3-diverse",
        "three pseudo-words, kept apart",
        map_changes=(("diversity", 0.5),),
        part_changes=(("tokens", 3),),
        option=True,
    ),
    Row(
        "mine-every-8",
        "all images mined every 8 steps",
        compose_changes=(("mine_every", 8),),
        option=True,
    ),
)


def choose_rows(names: Sequence[str] | None) -> tuple[Row, ...]:
    """Return the named rows in the order of `ROWS`; for None, all but the options.

    Raises:
        UsageError: there is no row with one of the names.
    """
    known = [row.name for row in ROWS]
    for name in names or ():
        check_choice("row", name, known)
    return tuple(row for row in ROWS if (not row.option if names is None else row.name in names))


@dataclass(frozen=True)
class Settings:
    """Settings of all rows, recorded with the results.

    Attributes:
        map_steps: optimizer steps of Stage I.
        compose_steps: optimizer steps of Stage II. A rival has as many as both stages.
        triplets: number of all triplets.
        noise: share of triplets with a wrong target in the noisy rows.
        drawings: number of drawings among the training images.
        inverted: number of images whose pseudo-words SEARLE's rival optimises one by one.
        inversion_steps: steps for each of them.
    """

    map_steps: int = 120
    compose_steps: int = 80
    triplets: int = 40000
    noise: float = 0.3
    drawings: int = 6000
    inverted: int = 1024
    inversion_steps: int = 60
