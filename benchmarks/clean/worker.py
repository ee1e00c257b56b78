"""Reads files and prints how long that takes; it runs with the SDK of any commit.

    python worker.py ztcir|pillow FOLDER

Each line of standard input is a JSON pair of a file and how often to read it; each answer is one
line, the seconds of the processor for one reading.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps


def _pillow(file: Path) -> None:
    with Image.open(file) as image:
        ImageOps.exif_transpose(image).convert("RGB")


def _readers(kind: str) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    """Return what reads a picture, and what reads all files of an archive."""
    if kind == "pillow":
        return _pillow, _pillow
    from ztcir_sdk.decoding import load_image
    from ztcir_sdk.loading import DecodingPipeline
    from ztcir_sdk.sources import list_images

    pipeline = DecodingPipeline(1)

    def read_all(file: Path) -> None:
        loaded = list(pipeline.load(list_images(file).files))
        assert all(one.data for one in loaded)

    return load_image, read_all


def main() -> None:
    """Answer lines until there are no more."""
    picture, archive = _readers(sys.argv[1])
    for line in sys.stdin:
        name, repeat = json.loads(line)
        work = archive if name.endswith(".tar") else picture
        file = Path(sys.argv[2]) / name
        begun = time.process_time()
        for _ in range(repeat):
            work(file)
        print(json.dumps((time.process_time() - begun) / repeat), flush=True)


if __name__ == "__main__":
    main()
