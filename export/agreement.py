"""How far a bundle's answers move when its graphs run in another precision.

The same pictures and the same questions go through two choices of variants, by the very encoder
that a search uses. What counts is what a user sees: the first ten of each ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ztcir_sdk.bundle import Bundle, Precision
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries, draw, training_drawings
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.errors import ImageError, ZtcirError
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime import RuntimeSettings
from ztcir_sdk.sources import Source, SourceReader, list_images

__all__ = ["Agreement", "Judge", "Probe", "calibration_pictures", "drawn_probe", "folder_probe"]

CHOICE = "under test"  # name of the precision that a choice of variants gets while it is measured
DEPTH = 10
FEWEST = 50  # pictures of a gallery; the first ten of far fewer would agree by themselves
MOST = 400
QUERIES = 200
CALIBRATED_BY = 96  # pictures
AT_ONCE = 16
EACH_COMBINATION = 5  # drawings of each kind of product in the drawn gallery: 200 in all

WISHES = (
    *("make it red", "in blue instead", "the same but black", "with stripes", "without any print"),
    *("for a child", "a longer one", "at night", "seen from the side", "with two of them"),
)
"""Asked of a gallery whose pictures nothing is known of."""


@dataclass(frozen=True)
class Probe:
    """Pictures and questions that two precisions are compared on.

    Attributes:
        pixel_values: the gallery, (P, 3, H, W) float32.
        references: the picture of each question.
        texts: what is asked of it.
        description: of the pictures, for the manifest.
    """

    pixel_values: NDArray[np.float32]
    references: Sequence[int]
    texts: Sequence[str]
    description: str


def drawn_probe(preprocessing: Preprocessing) -> Probe:
    """The demo's drawings and wishes, which no training has seen."""
    gallery = demo_gallery(EACH_COMBINATION)
    queries = demo_queries(gallery, QUERIES)
    return Probe(
        preprocessing([draw(drawing) for drawing in gallery]),
        [query.reference for query in queries],
        [query.text for query in queries],
        f"{len(gallery)} drawings",
    )


def folder_probe(source: Source, preprocessing: Preprocessing) -> Probe:
    """Pictures of a folder or archive, asked for changes in general words.

    Raises:
        ZtcirError: fewer than 50 of its pictures can be used.
    """
    pixels = _pictures(source, preprocessing, MOST)
    if len(pixels) < FEWEST:
        raise ZtcirError(
            f"The gallery holds {len(pixels)} pictures that can be used, too few to compare "
            f"rankings: name a folder of at least {FEWEST}, or leave it out for drawings."
        )
    return Probe(
        pixels,
        [number % len(pixels) for number in range(QUERIES)],
        [WISHES[number % len(WISHES)] for number in range(QUERIES)],
        f"{len(pixels)} pictures",
    )


def calibration_pictures(
    source: Source | None, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """What activations are measured on: pictures of a source, or drawings; (P, 3, H, W) float32.

    Raises:
        ZtcirError: none of the source's pictures can be used.
    """
    if source is None:
        drawings = training_drawings(CALIBRATED_BY, seed=0)
        return preprocessing([draw(drawing) for drawing in drawings])
    pixels = _pictures(source, preprocessing, CALIBRATED_BY)
    if not len(pixels):
        raise ZtcirError(
            "The calibration folder holds no picture that can be used: name one that does, or "
            "leave it out for drawings."
        )
    return pixels


def _pictures(source: Source, preprocessing: Preprocessing, most: int) -> NDArray[np.float32]:
    """Up to `most` pictures of a source, evenly spread over it; those that are damaged left out."""
    files = list_images(source).files
    places: list[int] = (
        np.unique(np.linspace(0, len(files) - 1, most).astype(int)).tolist() if files else []
    )
    reader = SourceReader()
    rows: list[NDArray[np.float32]] = []
    for place in places:
        try:
            rows.append(preprocessing.one(reader.read(files[place]), name=files[place].path))
        except (ImageError, OSError):  # an export does not stop for one damaged file
            continue
    reader.close()
    return np.stack(rows) if rows else np.empty((0, 3, *preprocessing.image_size), np.float32)


@dataclass(frozen=True)
class Answers:
    """Vectors of a probe: the gallery's (P, D), and the queries' (Q, D) by method."""

    gallery: NDArray[np.float32]
    queries: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Agreement:
    """How near two choices of variants are to each other.

    Attributes:
        cosine_distance: of the gallery's vectors ("gallery"), and of each method's queries: the
            largest, in float64.
        overlap: of each method, the mean fraction of the first ten that both have.
    """

    cosine_distance: Mapping[str, float]
    overlap: Mapping[str, float]

    def to_dict(self, *, rankings: bool) -> dict[str, Any]:
        """JSON values; of rankings only where they mean something."""
        values: dict[str, Any] = {
            "cosine_distance": {
                name: float(f"{value:.2e}") for name, value in self.cosine_distance.items()
            }
        }
        if rankings:
            values["top10_overlap"] = {name: round(v, 4) for name, v in self.overlap.items()}
        return values


class Judge:
    """Answers a probe with any choice of a bundle's variants; pictures are seen once a variant."""

    def __init__(self, bundle: Bundle, probe: Probe) -> None:
        """Take a bundle that holds every variant, and what to ask it."""
        self.bundle = bundle
        self.probe = probe
        self._seen: dict[str, tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]] = {}
        main = next(method for method in ("composed", "stage1", "sum") if method in bundle.methods)
        texts = ("text",) if "text" in bundle.methods else ()
        self.methods = ("image", *texts, main)
        """The picture alone, the text alone, and the most that the bundle can do."""

    def chosen(self, choice: Mapping[str, str]) -> Bundle:
        """The bundle, with a precision `CHOICE` that runs these variants."""
        precisions = {CHOICE: Precision(dict(choice))}
        return Bundle(self.bundle.path, replace(self.bundle.manifest, precisions=precisions))

    def answers(self, choice: Mapping[str, str]) -> Answers:
        """Answer the probe.

        Args:
            choice: graph -> key of its variant.

        Raises:
            ZtcirError: a graph cannot run, or gives numbers that are not finite.
        """
        settings = RuntimeSettings(backend="onnx", device="cpu")
        encoder = Encoder(self.chosen(choice), precision=CHOICE, settings=settings)
        gallery, patches = self._see(choice["image_encoder"], encoder)
        asked = sorted(set(self.probe.references))
        references = [EncodedImage(gallery[place], patches.get(place)) for place in asked]
        index = np.searchsorted(asked, self.probe.references)
        queries = {
            method: encoder.encode_queries(
                encoder.questions(method, self.probe.texts), references, index
            )
            for method in self.methods
        }
        return Answers(gallery, queries)

    def agreement(self, one: Answers, other: Answers) -> Agreement:
        """Compare two answers to the probe."""
        excluded = [{place} for place in self.probe.references]
        distances = {"gallery": _distance(one.gallery, other.gallery)}
        overlaps: dict[str, float] = {}
        for method in self.methods:
            distances[method] = _distance(one.queries[method], other.queries[method])
            first, second = (
                rank(each.queries[method], each.gallery, DEPTH, excluded=excluded)
                for each in (one, other)
            )
            shared = [len(set(a) & set(b)) for a, b in zip(first, second, strict=True)]
            overlaps[method] = float(np.mean(shared)) / DEPTH
        return Agreement(distances, overlaps)

    def _see(
        self, variant: str, encoder: Encoder
    ) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
        """The gallery's vectors, and the patches of the pictures that are asked about."""
        if variant in self._seen:
            return self._seen[variant]
        graph = encoder.graph("image_encoder")
        learns = "token_learner" in self.bundle.manifest.graphs
        asked = set(self.probe.references)
        patches: dict[int, NDArray[np.float32]] = {}
        rows: list[NDArray[np.float32]] = []
        pixels = self.probe.pixel_values
        for start in range(0, len(pixels), AT_ONCE):
            outputs = ["image_embeds", *(["patch_features"] if learns else [])]
            seen = graph.run({"pixel_values": pixels[start : start + AT_ONCE]}, outputs)
            rows.append(seen["image_embeds"])
            for place, features in enumerate(seen.get("patch_features", ()), start=start):
                if place in asked:
                    patches[place] = features
        vectors = np.concatenate(rows)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise ZtcirError("the image_encoder gives vectors that are zero or not finite")
        self._seen[variant] = ((vectors / norms).astype(np.float32), patches)
        return self._seen[variant]


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest 1 - cosine of two arrays' rows, which are of length 1 but for rounding."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((1 - (a * b).sum(axis=1) / norms).max())
