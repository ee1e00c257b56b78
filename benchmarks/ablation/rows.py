"""The rows of the ablation: each is the full method with one named change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ztcir_sdk.errors import check_choice


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
        source: source of Stage II's triplets, "attributes" or "captions".
        triplets: largest number of triplets; None for all.
        noisy: whether a share of the triplets (`Settings.noise`) has one wrong target.
        mined: whether hard negatives are mined beside the batch's own targets and references.
        rival: name in `benchmarks.ablation.rivals.RIVALS`.
    """

    name: str
    label: str
    stage: str = "compose"
    vsi: bool = True
    alignment: bool = True
    source: str = "attributes"
    triplets: int | None = None
    noisy: bool = False
    mined: bool = True
    rival: str = ""

    def changes(self) -> dict[str, Any]:
        """Return the attributes that differ from the full method."""
        full = asdict(FULL)
        own = {key: value for key, value in asdict(self).items() if key not in {"name", "label"}}
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
    Row("pic2word", "Pic2Word-like", stage="rival", rival="pic2word"),
    Row("searle", "SEARLE-like", stage="rival", rival="searle"),
    Row("lincir", "LinCIR-like", stage="rival", rival="lincir"),
)


def choose_rows(names: Sequence[str] | None) -> tuple[Row, ...]:
    """Return the named rows in the order of `ROWS`; all rows for None.

    Raises:
        UsageError: there is no row with one of the names.
    """
    known = [row.name for row in ROWS]
    for name in names or ():
        check_choice("row", name, known)
    return ROWS if names is None else tuple(row for row in ROWS if row.name in names)


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
