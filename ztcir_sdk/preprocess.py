"""Images to ``pixel_values``, equal to the evaluation transform that open_clip gives a backbone.

The transform starts from what `ztcir_sdk.decoding.load_image` returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.decoding import SIDEWAYS, ImageSource, ScaledImage, load_image, load_scaled
from ztcir_sdk.errors import BundleError, UsageError

__all__ = ["TARGET_RATIO", "Preprocessing", "pad_to_ratio"]

ResizeMode: TypeAlias = Literal["shortest", "longest", "squash"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]

TARGET_RATIO = 1.25
"""``pad_ratio`` of "targetpad", the preprocessing of SEARLE's published numbers."""

_MAX_RESIZED_PIXELS = 64_000_000
"""Above this, only the cropped part of the resized image is computed."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_SMALL_INPUT = 200
"""Shorter edge, in pixels, under which an input is small: each of its pixels counts more."""
_MARGINS = {2: 2.0, 4: 2.0, 8: 2.0}
_SMALL_MARGINS = {2: 3.75, 4: 5.0, 8: 5.0}
"""Reduction of a JPEG -> how many times the edges of the resized image it must leave, so that the
cosine to the exact transform is .999 on average: `python -m benchmarks.indexing --parts tolerance`.
"""

# open_clip's defaults (`PreprocessCfg`)
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The parameters of a backbone's evaluation transform; call it to apply the transform.

    Attributes:
        image_size: (height, width) of ``pixel_values``, in pixels.
        mean: value subtracted from each RGB channel, on a scale where white is 1.
        std: value that each RGB channel is then divided by.
        resize_mode: "shortest" fits the shorter edge and crops the centre, "longest" fits the
            longer edge and pads with `fill_color`, "squash" ignores the aspect ratio.
        interpolation: "bicubic" or "bilinear".
        fill_color: grey level of the padding, 0 to 255.
        pad_ratio: ratio of edges above which images are first padded; see `pad_to_ratio`. ``None``:
            none is.

    Raises:
        UsageError: a value is out of its range.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float] = _OPENAI_MEAN
    std: tuple[float, float, float] = _OPENAI_STD
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    fill_color: int = 0
    pad_ratio: float | None = None

    def __post_init__(self) -> None:
        checks = {
            "image_size": len(self.image_size) == 2
            and all(isinstance(edge, int) and edge > 0 for edge in self.image_size),
            "mean": _three_numbers(self.mean),
            "std": _three_numbers(self.std) and all(value > 0 for value in self.std),
            "resize_mode": self.resize_mode in get_args(ResizeMode),
            "interpolation": self.interpolation in get_args(Interpolation),
            "fill_color": isinstance(self.fill_color, int) and 0 <= self.fill_color <= 255,
            "pad_ratio": self.pad_ratio is None
            or (isinstance(self.pad_ratio, (int, float)) and 1 <= self.pad_ratio <= 1000),
        }
        for name, valid in checks.items():
            if not valid:
                raise UsageError(f"Preprocessing cannot use {name}={getattr(self, name)!r}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Create from the values of `to_dict`.

        Raises:
            BundleError: a key is unknown or missing, or a value is invalid.
        """
        known = {field.name for field in fields(cls)} - {"pad_ratio"}  # which few bundles have
        if set(values) - {"pad_ratio"} != known:
            raise BundleError(
                "The bundle's preprocessing must have exactly the keys "
                f"{', '.join(sorted(known))}, not {', '.join(sorted(values))}."
            )
        if values.get("pad_ratio", 1) is None:
            raise BundleError("The bundle's pad_ratio must be a number, or be left out.")
        try:
            return cls(
                image_size=tuple(values["image_size"]),
                mean=tuple(values["mean"]),
                std=tuple(values["std"]),
                resize_mode=values["resize_mode"],
                interpolation=values["interpolation"],
                fill_color=values["fill_color"],
                pad_ratio=values.get("pad_ratio"),
            )
        except (TypeError, UsageError) as error:
            raise BundleError(f"The bundle's preprocessing is invalid: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters as JSON values, in a fixed order; without `pad_ratio` if None."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_open_clip(cls, preprocess_cfg: Mapping[str, Any]) -> Preprocessing:
        """Create from open_clip's ``preprocess_cfg``; missing keys and None take its defaults.

        Raises:
            UsageError: a value is invalid, or the mode is not RGB.
        """
        given = {key: value for key, value in preprocess_cfg.items() if value is not None}
        if given.get("mode", "RGB") != "RGB":
            raise UsageError(f"Preprocessing cannot use mode={given['mode']!r}, only RGB.")
        interpolation = given.get("interpolation", "bicubic")
        return cls(
            image_size=cast("tuple[int, int]", _repeated(given.get("size", 224), 2)),
            mean=cast("tuple[float, float, float]", _repeated(given.get("mean", _OPENAI_MEAN), 3)),
            std=cast("tuple[float, float, float]", _repeated(given.get("std", _OPENAI_STD), 3)),
            resize_mode=given.get("resize_mode", "shortest"),
            # "random" is for training; in evaluation open_clip takes it as bicubic
            interpolation="bicubic" if interpolation == "random" else interpolation,
            fill_color=given.get("fill_color", 0),
        )

    def __call__(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Prepare R images: ``pixel_values``, (R, 3, H, W) float32.

        Raises:
            ImageError: an image cannot be used; see `load_image`.
            UsageError: `images` is a single image, or one of them is not an image.
        """
        single = isinstance(images, (str, bytes, bytearray, os.PathLike, Image.Image))
        if single or (isinstance(images, np.ndarray) and images.ndim == 3):
            raise UsageError("images must be a list: call `one` for a single image.")
        height, width = self.image_size
        pixel_values = [self.one(image) for image in images]
        if not pixel_values:
            return np.empty((0, 3, height, width), dtype=np.float32)
        return np.stack(pixel_values)

    def one(self, image: ImageSource, *, name: str | None = None) -> NDArray[np.float32]:
        """Prepare one image: (3, H, W) float32. For `name` and errors see `load_image`."""
        levels = np.asarray(self.fit(load_image(image, name=name)))
        pixel_values: NDArray[np.float32] = self.normalised(levels[None])[0]
        return pixel_values

    def levels(
        self, data: bytes, *, name: str, reduction: Callable[[int, int], int] | None = None
    ) -> NDArray[np.uint8]:
        """Decode an image of a collection and fit it to `image_size`: RGB levels, (H, W, 3).

        A large JPEG is decoded at a smaller scale, so that the vector of a photo is only close to
        that of `one`, to a cosine of .999 on average. Nothing else is approximate.

        Args:
            data: the file's content.
            name: the image's name in error messages.
            reduction: (width, height) -> by how much a JPEG is reduced; by default `reduction`.

        Raises:
            ImageError: the image cannot be used; see `load_image`.
        """
        return np.asarray(
            self.fit_scaled(load_scaled(data, reduction or self.reduction, name=name))
        )

    def normalised(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB levels of R fitted images, (R, H, W, 3), into ``pixel_values``, (R, 3, H, W)."""
        # channels first before the arithmetic, so that the result is contiguous
        channels: NDArray[np.float32] = levels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        channels /= np.float32(255)
        channels -= np.array(self.mean, dtype=np.float32)[:, None, None]
        channels /= np.array(self.std, dtype=np.float32)[:, None, None]
        return channels

    def _resized(self, width: int, height: int) -> tuple[tuple[int, int], Image.Resampling]:
        """Return the (width, height) to resize an image to before the crop, and the filter."""
        target_height, target_width = self.image_size
        resample = _FILTERS[self.interpolation]
        if self.resize_mode == "squash":
            return (target_width, target_height), resample
        if self.resize_mode == "shortest" and target_height == target_width:
            # torchvision's own resize: the longer edge is rounded down
            shorter, longer = sorted((width, height))
            longer = int(target_height * longer / shorter)
            upright = width <= height
            return ((target_height, longer) if upright else (longer, target_height)), resample
        # open_clip's `ResizeKeepRatio`: rounded to nearest. Where a thin image would lose its
        # shorter edge, open_clip fails; here the edge keeps one pixel.
        ratios = height / target_height, width / target_width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        if self.resize_mode == "shortest":
            resample = Image.Resampling.BICUBIC  # as in open_clip, whatever `interpolation` is
        return (max(1, round(width / ratio)), max(1, round(height / ratio))), resample

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize, crop and pad an RGB image to `image_size`, with the rounding of torchvision."""
        if self.pad_ratio is not None:
            image = pad_to_ratio(image, self.pad_ratio)
        height, width = self.image_size
        resized, resample = self._resized(*image.size)
        if self.resize_mode == "shortest" and resized[0] * resized[1] > _MAX_RESIZED_PIXELS:
            return _resize_centre(image, image.size, resized, (width, height), resample)
        return _crop_or_pad(image.resize(resized, resample), (width, height), self.fill_color)

    def reduction(self, width: int, height: int) -> int:
        """Return by how much a JPEG of this size may be reduced before the resize: 1, 2, 4 or 8."""
        (new_width, new_height), _ = self._resized(width, height)
        ratio = min(width / new_width, height / new_height)
        margins = _SMALL_MARGINS if min(self.image_size) < _SMALL_INPUT else _MARGINS
        fits = (scale for scale in (8, 4, 2) if ratio / scale >= margins[scale])
        return next(fits, 1)

    def fit_scaled(self, loaded: ScaledImage) -> Image.Image:
        """Fit a reduced image as `fit` would fit the whole one, and turn it upright."""
        if loaded.reduction == 1 or self.pad_ratio is not None:
            return self.fit(loaded.upright())
        height, width = self.image_size
        resized, resample = self._resized(*loaded.size)
        if self.resize_mode == "shortest" and loaded.turn is None:
            # only what is not cropped: the work is that of the visible part
            return _resize_centre(loaded.image, loaded.extent, resized, (width, height), resample)
        if loaded.turn in SIDEWAYS:
            resized = resized[1], resized[0]
        image = loaded.image.resize(resized, resample, box=(0, 0, *loaded.extent))
        upright = image if loaded.turn is None else image.transpose(loaded.turn)
        return _crop_or_pad(upright, (width, height), self.fill_color)


def pad_to_ratio(image: Image.Image, ratio: float) -> Image.Image:
    """Pad an image with black whose longer edge is over ``ratio`` times the shorter, to that ratio.

    So less is cropped away afterwards ("targetpad": Baldrati et al., CVPRW 2022, sec. 3.3; the
    rounding is that of SEARLE's ``data_utils.py``).
    """
    longer, shorter = max(image.size), min(image.size)
    if longer / shorter < ratio:
        return image
    left, top = (max(int((longer / ratio - edge) / 2), 0) for edge in image.size)
    canvas = Image.new("RGB", (image.width + 2 * left, image.height + 2 * top))
    canvas.paste(image, (left, top))
    return canvas


def _crop_or_pad(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """Crop or pad around the centre to (width, height), with the rounding of torchvision."""
    padded = max(image.width, size[0]), max(image.height, size[1])
    if padded != image.size:
        canvas = Image.new("RGB", padded, (fill, fill, fill))
        canvas.paste(image, ((padded[0] - image.width) // 2, (padded[1] - image.height) // 2))
        image = canvas
    left, top = round((padded[0] - size[0]) / 2), round((padded[1] - size[1]) / 2)
    return image.crop((left, top, left + size[0], top + size[1]))


def _resize_centre(
    image: Image.Image,
    extent: tuple[float, float],
    resized: tuple[int, int],
    size: tuple[int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """Resize `extent` to `resized` and crop the centre to `size`, without computing the rest.

    Otherwise, 1 x 1 000 000 pixels would be enlarged to gigabytes. The sampling points are the
    same, but Pillow may round rows and columns in another order, so that values at hard edges may
    differ by some levels of 255.
    """
    box: list[float] = [0, 0, 0, 0]
    for axis in (0, 1):
        start = round((resized[axis] - size[axis]) / 2)
        scale = extent[axis] / resized[axis]
        box[axis] = start * scale
        box[axis + 2] = min((start + size[axis]) * scale, extent[axis])
    return image.resize(size, resample, box=(box[0], box[1], box[2], box[3]))


def _three_numbers(values: Sequence[Any]) -> bool:
    """Return whether values, perhaps from a file, are three numbers in the range of float32."""
    most = float(np.finfo(np.float32).max)
    return len(values) == 3 and all(
        isinstance(value, Real) and -most <= value <= most  # type: ignore[operator]
        for value in values
    )


def _repeated(value: Any, length: int) -> tuple[Any, ...]:
    """Return a number, or a sequence of one, `length` times; longer sequences unchanged."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * length if len(values) == 1 else values
