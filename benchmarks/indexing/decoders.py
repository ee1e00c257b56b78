"""Decoders of JPEG files, and how close their scaled pictures are to the exact transform."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.comparison import Rounds, compare
from benchmarks.indexing.photos import enlarged
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.names import IMAGE_ENCODER
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["measure_decoders", "measure_tolerance"]

SCALES = (1, 2, 4, 8)
TOLERANCE_WIDTHS = (900, 1200, 1800, 3000)
"""Widths, in pixels, of the photos that the tolerance is measured on; 4 : 3 upright."""


def measure_decoders(
    photos: Sequence[Image.Image], size: tuple[int, int], files: int, length: Rounds
) -> dict[str, Any]:
    """Time every installed decoder at every scale on the same files; one run decodes all of them.

    Ratios are Pillow's time at full size divided by a decoder's.
    """
    data = [enlarged(photos[i % len(photos)], size, seed=i) for i in range(files)]
    operations: dict[str, Callable[[], object]] = {}
    for name, decoder in _decoders(size).items():
        operations[name] = _all_of(decoder, data)
    result = compare(operations, baseline="Pillow, 1/1", length=length).to_dict()
    for timing in result["timings"].values():
        timing["ms_a_picture"] = round(timing["p50_ms"] / files, 2)
    return {"files": files, "bytes": sum(map(len, data)) // files, **result}


def _all_of(decoder: Callable[[bytes], object], data: Sequence[bytes]) -> Callable[[], object]:
    return lambda: [decoder(one) for one in data]


def _decoders(size: tuple[int, int]) -> dict[str, Callable[[bytes], object]]:
    """Return name -> decoder to RGB; those whose package is not installed are left out."""
    found: dict[str, Callable[[bytes], object]] = {}
    for scale in SCALES:
        found[f"Pillow, 1/{scale}"] = _pillow(size, scale)
    if importlib.util.find_spec("simplejpeg") is not None:
        for scale in SCALES:
            found[f"simplejpeg, 1/{scale}"] = _simplejpeg(size, scale)
    if importlib.util.find_spec("pyvips") is not None:
        for scale in SCALES:
            found[f"pyvips, 1/{scale}"] = _pyvips(scale)
    if importlib.util.find_spec("av") is not None:
        found["PyAV, 1/1"] = _pyav
    return found


def _pillow(size: tuple[int, int], scale: int) -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (size[0] // scale, size[1] // scale))
        image.load()
        return image

    return decode


def _simplejpeg(size: tuple[int, int], scale: int) -> Callable[[bytes], object]:
    simplejpeg: Any = importlib.import_module("simplejpeg")

    least = {"min_width": size[0] // scale, "min_height": size[1] // scale}
    return lambda data: simplejpeg.decode_jpeg(data, **least)


def _pyvips(scale: int) -> Callable[[bytes], object]:
    pyvips: Any = importlib.import_module("pyvips")

    pyvips.cache_set_max(0)

    def decode(data: bytes) -> object:
        return pyvips.Image.jpegload_buffer(data, shrink=scale).write_to_memory()

    return decode


def _pyav(data: bytes) -> object:
    av: Any = importlib.import_module("av")

    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def measure_tolerance(encoder: Encoder, photos: Sequence[Image.Image]) -> dict[str, Any]:
    """Return the cosines of vectors of scaled photos to those of the exact transform, by size.

    Every scale is measured; `chosen` is what an index takes.
    """
    transform = encoder.bundle.manifest.preprocessing
    figures = []
    for width in TOLERANCE_WIDTHS:
        size = (width, width * 4 // 3)
        files = [enlarged(photo, size, seed=number) for number, photo in enumerate(photos)]
        exact = _vectors(encoder, [transform.one(file) for file in files])
        chosen = transform.reduction(*size)
        for scale in SCALES[1:]:
            if min(size) / scale < max(transform.image_size):
                continue
            pixels = [_scaled(transform, file, scale) for file in files]
            cosine = (_vectors(encoder, pixels) * exact).sum(axis=1)
            figures.append(
                {
                    "width": width,
                    "scale": scale,
                    "chosen": scale == chosen,
                    "mean": round(float(cosine.mean()), 5),
                    "least": round(float(cosine.min()), 5),
                }
            )
    return {"photos": len(photos), "bundle": encoder.bundle.name, "cosines": figures}


def _scaled(transform: Preprocessing, file: bytes, scale: int) -> NDArray[np.float32]:
    levels = transform.levels(file, name="photo", reduction=lambda width, height: scale)
    pixel_values: NDArray[np.float32] = transform.normalised(levels[None])[0]
    return pixel_values


def _vectors(encoder: Encoder, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    graph = encoder.graph(IMAGE_ENCODER)
    rows = [
        encoder.run_image_encoder(graph, np.stack(pixels[start : start + 8]))
        for start in range(0, len(pixels), 8)
    ]
    return np.concatenate(rows)
