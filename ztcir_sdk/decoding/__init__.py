"""Image files to upright 8-bit sRGB, from every format that `ztcir_sdk.picture_formats` lists."""

from __future__ import annotations

from ztcir_sdk.decoding.decode import (
    MAX_PIXELS,
    SIDEWAYS,
    ImageSource,
    NamedBytes,
    ScaledImage,
    file_being_decoded,
    load_image,
    load_scaled,
    load_small,
)

__all__ = [
    "MAX_PIXELS",
    "SIDEWAYS",
    "ImageSource",
    "NamedBytes",
    "ScaledImage",
    "file_being_decoded",
    "load_image",
    "load_scaled",
    "load_small",
]
