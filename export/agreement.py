"""Compares the answers of a bundle's graphs in two precisions.

The same images and queries run through two selections of graph variants, with the encoder that a
search uses. The comparison is about what a user sees: the first ten hits of each ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from export.parity import cosine_distances, three_digits
from ztcir_sdk.bundle import Bundle, Precision
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries, draw, training_drawings
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.errors import ImageError, ZtcirError
from ztcir_sdk.evaluation.metrics import DEPTH
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.names import IMAGE_ENCODER, TOKEN_LEARNER
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime import RuntimeSettings
from ztcir_sdk.sources import Source, SourceReader, list_images

Array = NDArray[np.float32]

SELECTED = "under test"  # name of the precision that stands for a selection of variants
MIN_IMAGES = 50  # with far fewer, the first ten of two rankings agree by chance
MAX_IMAGES = 400
QUERIES = 200
CALIBRATION_IMAGES = 96
BATCH = 16
DRAWINGS_PER_COMBINATION = 5  # of product, colour and pattern: 200 drawings in all

GENERAL_TEXTS = (
    *("make it red", "in blue instead", "the same but black", "with stripes", "without any print"),
    *("for a child", "a longer one", "at night", "seen from the side", "with two of them"),
)
"""Modification texts for images of unknown content."""


@dataclass(frozen=True)
class QuerySet:
    """Images and queries on which two precisions are compared.

    Attributes:
        pixel_values: the gallery, (P, 3, H, W) float32.
        references: row of the reference image, one per query.
        texts: modification text, one per query.
        description: description of the images, for the manifest.
    """

    pixel_values: Array
    references: Sequence[int]
    texts: Sequence[str]
    description: str


def drawn_queries(preprocessing: Preprocessing) -> QuerySet:
    """Return the demo's drawings and queries, which no training uses."""
    gallery = demo_gallery(DRAWINGS_PER_COMBINATION)
    queries = demo_queries(gallery, QUERIES)
    return QuerySet(
        preprocessing([draw(drawing) for drawing in gallery]),
        [query.reference for query in queries],
        [query.text for query in queries],
        f"{len(gallery)} drawings",
    )


def folder_queries(source: Source, preprocessing: Preprocessing) -> QuerySet:
    """Return images of a folder or archive, with general modification texts.

    Raises:
        ZtcirError: it has fewer than 50 readable images.
    """
    pixels = _read_images(source, preprocessing, MAX_IMAGES)
    if len(pixels) < MIN_IMAGES:
        raise ZtcirError(
            f"The gallery has only {len(pixels)} readable images, too few to compare rankings: "
            f"name a folder of at least {MIN_IMAGES}, or leave it out to use drawings."
        )
    return QuerySet(
        pixels,
        [number % len(pixels) for number in range(QUERIES)],
        [GENERAL_TEXTS[number % len(GENERAL_TEXTS)] for number in range(QUERIES)],
        f"{len(pixels)} pictures",
    )


def calibration_images(source: Source | None, preprocessing: Preprocessing) -> Array:
    """Return the images that activations are measured on, (P, 3, H, W) float32.

    Args:
        source: their folder or archive; default: drawings.
        preprocessing: the model's preprocessing.

    Raises:
        ZtcirError: the source has no readable image.
    """
    if source is None:
        drawings = training_drawings(CALIBRATION_IMAGES, seed=0)
        return preprocessing([draw(drawing) for drawing in drawings])
    pixels = _read_images(source, preprocessing, CALIBRATION_IMAGES)
    if not len(pixels):
        raise ZtcirError(
            "The calibration folder has no readable image: name another folder, or leave it out "
            "to use drawings."
        )
    return pixels


def _read_images(source: Source, preprocessing: Preprocessing, most: int) -> Array:
    """Return up to `most` images, evenly spread over a source, without unreadable ones."""
    files = list_images(source).files
    rows = np.unique(np.linspace(0, len(files) - 1, most).astype(int)).tolist() if files else []
    reader = SourceReader()
    images: list[Array] = []
    for row in rows:
        try:
            images.append(preprocessing.one(reader.read(files[row]), name=files[row].path))
        except (ImageError, OSError):  # one unreadable file must not stop an export
            continue
    reader.close()
    return np.stack(images) if images else np.empty((0, 3, *preprocessing.image_size), np.float32)


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a query set: the gallery's (P, D), and by method the queries' (Q, D)."""

    gallery: Array
    queries: Mapping[str, Array]


@dataclass(frozen=True)
class Agreement:
    """How close two selections of variants are.

    Attributes:
        cosine_distance: largest cosine distance of the gallery ("gallery") and of each method's
            queries.
        overlap: method -> mean fraction of the first ten hits that both find.
    """

    cosine_distance: Mapping[str, float]
    overlap: Mapping[str, float]

    def to_dict(self, *, rankings: bool) -> dict[str, Any]:
        """Return JSON values, with `overlap` if rankings are meaningful."""
        distances = {name: three_digits(value) for name, value in self.cosine_distance.items()}
        values: dict[str, Any] = {"cosine_distance": distances}
        if rankings:
            values["top10_overlap"] = {name: round(v, 4) for name, v in self.overlap.items()}
        return values


class VariantRunner:
    """Encodes a query set with any selection of a bundle's variants.

    Each variant of the image encoder sees the images once.

    Args:
        bundle: a bundle that holds all variants.
        query_set: the images and queries.

    Attributes:
        methods: the methods that are compared: image only, text only, and the most complete one.
    """

    def __init__(self, bundle: Bundle, query_set: QuerySet) -> None:
        self.bundle = bundle
        self.query_set = query_set
        self._encoded: dict[str, tuple[Array, dict[int, Array]]] = {}
        main = next(method for method in ("composed", "stage1", "sum") if method in bundle.methods)
        texts = ("text",) if "text" in bundle.methods else ()
        self.methods = ("image", *texts, main)

    def select(self, selection: Mapping[str, str]) -> Bundle:
        """Return the bundle with one precision, `SELECTED`, that runs the given variants."""
        precisions = {SELECTED: Precision(dict(selection))}
        return Bundle(self.bundle.path, replace(self.bundle.manifest, precisions=precisions))

    def encode(self, selection: Mapping[str, str]) -> Embeddings:
        """Encode the query set with a selection: graph -> key of its variant.

        Raises:
            ZtcirError: a graph cannot run, or returns numbers that are not finite.
        """
        settings = RuntimeSettings(backend="onnx", device="cpu")
        encoder = Encoder(self.select(selection), precision=SELECTED, settings=settings)
        gallery, patches = self._encode_images(selection[IMAGE_ENCODER], encoder)
        rows = sorted(set(self.query_set.references))
        references = [EncodedImage(gallery[row], patches.get(row)) for row in rows]
        index = np.searchsorted(rows, self.query_set.references)
        queries = {
            method: encoder.encode_queries(
                encoder.questions(method, self.query_set.texts), references, index
            )
            for method in self.methods
        }
        return Embeddings(gallery, queries)

    def compare(self, one: Embeddings, other: Embeddings) -> Agreement:
        """Compare two encodings of the query set; references are excluded from the rankings."""
        excluded = [{row} for row in self.query_set.references]
        vectors = {"gallery": (one.gallery, other.gallery)}
        vectors |= {method: (one.queries[method], other.queries[method]) for method in self.methods}
        distances = {name: float(cosine_distances(*both).max()) for name, both in vectors.items()}
        overlaps: dict[str, float] = {}
        for method in self.methods:
            first, second = (
                rank(each.queries[method], each.gallery, DEPTH, excluded=excluded)
                for each in (one, other)
            )
            shared = [len(set(a) & set(b)) for a, b in zip(first, second, strict=True)]
            overlaps[method] = float(np.mean(shared)) / DEPTH
        return Agreement(distances, overlaps)

    def _encode_images(self, variant: str, encoder: Encoder) -> tuple[Array, dict[int, Array]]:
        """Return the gallery's embeddings, and the patch features of the reference images."""
        if variant in self._encoded:
            return self._encoded[variant]
        graph = encoder.graph(IMAGE_ENCODER)
        outputs = ["image_embeds"]
        outputs += ["patch_features"] if TOKEN_LEARNER in self.bundle.manifest.graphs else []
        references = set(self.query_set.references)
        patches: dict[int, Array] = {}
        rows: list[Array] = []
        pixels = self.query_set.pixel_values
        for start in range(0, len(pixels), BATCH):
            found = graph.run({"pixel_values": pixels[start : start + BATCH]}, outputs)
            rows.append(found["image_embeds"])
            for row, features in enumerate(found.get("patch_features", ()), start=start):
                if row in references:
                    patches[row] = features
        vectors = np.concatenate(rows)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise ZtcirError("the image_encoder returns vectors that are zero or not finite")
        self._encoded[variant] = ((vectors / norms).astype(np.float32), patches)
        return self._encoded[variant]
