"""Images and preprocessing for tests: noise, and a scene without symmetry."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ztcir_sdk.preprocess import Preprocessing

SQUARE = Preprocessing(image_size=(32, 32))
VARIANTS = [
    SQUARE,
    Preprocessing(image_size=(48, 48), interpolation="bilinear"),
    Preprocessing(image_size=(24, 40)),
    Preprocessing(image_size=(40, 24), interpolation="bilinear"),
    Preprocessing(image_size=(32, 32), resize_mode="longest", fill_color=128),
    Preprocessing(image_size=(40, 24), resize_mode="longest", interpolation="bilinear"),
    Preprocessing(
        image_size=(32, 32), resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
    Preprocessing(image_size=(24, 40), resize_mode="squash", interpolation="bilinear"),
]


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def scene(width: int = 90, height: int = 70) -> Image.Image:
    """An image without symmetry: smooth colours, and a shape in one corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [255 * columns / width, 255 * rows / height, 255 - 255 * columns / width]
    image = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((5, 5, 30, 15), fill=(250, 40, 10))
    return image


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()
