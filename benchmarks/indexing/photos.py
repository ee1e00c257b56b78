"""JPEG files of the sizes that shops and cameras write, made from a catalogue's small photos."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ztcir_sdk.errors import ZtcirError

__all__ = ["SIZES", "catalogue_photos", "write_photos"]

SIZES: dict[str, tuple[int, int]] = {"900x1200": (900, 1200), "12 MP": (3000, 4000)}
"""Name -> (width, height) in pixels."""
QUALITY = 90
GRAIN = 4.0
"""Standard deviation of the grain, in levels of 255: an enlarged photo is too smooth, so that its
file would be small and quickly decoded. With it, 12 megapixels take about as many bytes as a
camera's."""
MIN_WIDTH = 160
"""Pixels; smaller photos of the catalogue are left out."""
_TILE = 512


def catalogue_photos(shards: Sequence[Path], count: int) -> list[Image.Image]:
    """Return the first larger photos of webdataset shards, RGB.

    Raises:
        ZtcirError: there are fewer than `count`.
    """
    photos: list[Image.Image] = []
    for photo in _photos(shards):
        if len(photos) == count:
            break
        if photo.width >= MIN_WIDTH:
            photos.append(photo)
    if len(photos) < count:
        raise ZtcirError(
            f"The shards have {len(photos)} photos of at least {MIN_WIDTH} pixels, not {count}: "
            "name more shards, or ask for fewer pictures."
        )
    return photos


def _photos(shards: Sequence[Path]) -> Iterator[Image.Image]:
    for shard in shards:
        try:
            with tarfile.open(shard) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.name.endswith(".jpg") else None
                    if stream is not None:
                        yield Image.open(io.BytesIO(stream.read())).convert("RGB")
        except (OSError, tarfile.TarError) as error:
            raise ZtcirError(f"{shard} cannot be read ({error}): name a shard.") from error


def enlarged(photo: Image.Image, size: tuple[int, int], seed: int = 0) -> bytes:
    """Return a photo as a JPEG file of `size` (width, height), with grain."""
    generator = np.random.default_rng(seed)
    tile = (GRAIN * generator.standard_normal((_TILE, _TILE))).astype(np.int16)
    levels = photo.point(lambda level: 8 + level * 239 // 255)  # white shows grain, too
    large = np.asarray(levels.resize(size, Image.Resampling.LANCZOS)).astype(np.int16)
    rows, columns = -(-size[1] // _TILE), -(-size[0] // _TILE)
    large += np.tile(tile, (rows, columns))[: size[1], : size[0], None]
    buffer = io.BytesIO()
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_photos(
    photos: Sequence[Image.Image], folder: Path, size: tuple[int, int], count: int
) -> list[Path]:
    """Write `count` different JPEG files of `size` into a folder; keep those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:04}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        if not file.exists():
            file.write_bytes(enlarged(photos[number % len(photos)], size, seed=number))
    return files
