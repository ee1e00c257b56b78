"""Prototypes of a bundle: the mean images of what has the same colour, type and gender."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.copies import copy_bundle
from train.data.image import TrainingImage
from train.triplets.stage_two import has_attributes
from ztcir_sdk.bundle import Bundle, Prototypes
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.errors import UsageError

__all__ = ["PROTOTYPES", "attribute_prototypes", "with_prototypes"]

PROTOTYPES = "prototypes.f16"
"""File of a bundle's prototypes."""
_BATCH = 64


def attribute_prototypes(encoder: Encoder, images: Sequence[TrainingImage]) -> NDArray[np.float16]:
    """Return the mean embedding of all images with the same colour, type and gender.

    Photos and drawings have prototypes of their own. Images without any of these attributes count
    in none.

    Args:
        encoder: what encodes the gallery.
        images: the images that the model was trained on.

    Returns:
        (N, D) float16, L2-normalised, in the order in which the attributes first occur.

    Raises:
        UsageError: no image has attributes.
        ImageError: an image cannot be read.
    """
    sums: dict[tuple[object, ...], NDArray[np.float64]] = {}
    known = [image for image in images if has_attributes(image.item)]
    for start in range(0, len(known), _BATCH):
        batch = known[start : start + _BATCH]
        vectors = encoder.encode_images([image.load() for image in batch])
        for image, vector in zip(batch, vectors, strict=True):
            item = image.item
            key = (image.is_drawing, item.colour, item.type, item.gender)
            sums[key] = sums.get(key, 0.0) + vector.astype(np.float64)
    if not sums:
        raise UsageError("Prototypes need images with attributes.")
    means = np.stack(list(sums.values()))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means.astype(np.float16)


def with_prototypes(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    prototypes: NDArray[np.float16],
    *,
    weight: float,
    temperature: float,
    overwrite: bool = False,
) -> Bundle:
    """Write a copy of a bundle with prototypes; graphs and model card stay as they are.

    Args:
        bundle: the bundle to copy.
        folder: folder of the copy; it may be that of `bundle`, with `overwrite`.
        prototypes: (N, D).
        weight: how far queries are pulled.
        temperature: of the softmax over prototypes.
        overwrite: replace an existing bundle.

    Raises:
        UsageError: `folder` exists.
        BundleError: the entries are out of range, or the bundle cannot be read or written.
    """
    return copy_bundle(
        bundle,
        folder,
        files={PROTOTYPES: prototypes.astype("<f2").tobytes()},
        prototypes=Prototypes(PROTOTYPES, weight, temperature),
        overwrite=overwrite,
    )
