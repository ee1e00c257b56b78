"""Embedded colour profiles to sRGB.

Images without a profile, or with an sRGB one, stay as they are, as open_clip takes all images.
"""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageCms

__all__ = ["to_srgb"]

_INPUT_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> mode of the images that it describes."""

_SAME = 3
"""Largest difference, in levels of 255, between colours that are taken to be the same."""

_local = threading.local()  # a transform of LittleCMS is used by one thread at a time


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image from its embedded profile to sRGB.

    Args:
        image: of any mode.

    Returns:
        An "RGB" or "RGBA" image in sRGB. Without a profile, the very same object; with an sRGB
        profile, or one that is damaged or of another colour space, the same colours.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return image
    alpha = image.has_transparency_data
    if image.mode in ("P", "PA", "RGBX", "RGBa"):
        image = image.convert("RGBA" if alpha else "RGB")
    elif image.mode == "LA":
        image = image.convert("RGBA")
    elif image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    space = _colour_space(profile)
    opaque = image.convert("RGB") if image.mode == "RGBA" else image
    if space == "GRAY" and image.mode == "RGBA":
        opaque = image.convert("L")
    if space is None or _INPUT_MODES.get(space) != opaque.mode:
        return image
    transform = _transform(profile, opaque.mode)
    if transform is None:
        return image
    converted = cast("Image.Image", ImageCms.applyTransform(opaque, transform))
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    converted.info.pop("icc_profile", None)
    return converted


@lru_cache(maxsize=64)
def _colour_space(profile: bytes) -> str | None:
    """Return the colour space of a profile, such as "RGB"; None if it cannot be read."""
    try:
        return str(ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space).strip()
    except (OSError, ImageCms.PyCMSError, ValueError):
        return None


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return this thread's transform to sRGB; None where it would change nothing or fails."""
    known = _local.__dict__.setdefault("transforms", {})
    key = (profile, mode)
    if key not in known:
        if len(known) >= 16:
            known.clear()
        known[key] = _make_transform(profile, mode)
    return cast("ImageCms.ImageCmsTransform | None", known[key])


def _make_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "RGB":
            levels = np.linspace(0, 255, 6).astype(np.uint8)
            colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
            seen = ImageCms.applyTransform(Image.fromarray(colours), transform)
            if np.abs(np.asarray(seen).astype(int) - colours.astype(int)).max() <= _SAME:
                return None
    except (OSError, ImageCms.PyCMSError, ValueError):
        return None
    return transform
