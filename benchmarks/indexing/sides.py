"""The ways to encode a folder of JPEG files that are compared: PyTorch's and the SDK's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ztcir_sdk.bundle import Bundle
from ztcir_sdk.encoder import bulk_images
from ztcir_sdk.retriever import Retriever

__all__ = ["PyTorchSides", "encoder_alone", "index_files", "torch_encoder"]

BATCH = 32
"""Images of a batch in PyTorch."""
WORKERS = 2
"""Processes of the DataLoader."""


class _Files(Dataset[Tensor]):
    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(self._files[row]) as image:
            return self._transform(image)


class PyTorchSides:
    """open_clip with its own transform: images decoded in a loop, or by a DataLoader.

    Args:
        name: an open_clip model, with random weights.
    """

    def __init__(self, name: str) -> None:
        import open_clip

        torch.manual_seed(0)
        self._model, _, self._transform = open_clip.create_model_and_transforms(name)
        self._model.eval()

    @torch.inference_mode()
    def loop(self, files: Sequence[Path]) -> None:
        """Decode and encode in one thread of Python, in batches of 32."""
        for start in range(0, len(files), BATCH):
            images = []
            for file in files[start : start + BATCH]:
                with Image.open(file) as image:
                    images.append(self._transform(image))
            self._model.encode_image(torch.stack(images), normalize=True)

    @torch.inference_mode()
    def loader(self, files: Sequence[Path]) -> None:
        """Decode in two processes while the model runs."""
        batches = DataLoader(_Files(files, self._transform), BATCH, num_workers=WORKERS)
        for pixel_values in batches:
            self._model.encode_image(pixel_values, normalize=True)

    @torch.inference_mode()
    def encode(self, pixel_values: Tensor) -> None:
        """Encode a batch (N, 3, H, W) that is ready."""
        self._model.encode_image(pixel_values, normalize=True)


def torch_encoder(
    side: PyTorchSides, size: tuple[int, int], count: int, batch: int
) -> Callable[[], None]:
    """Return what encodes `count` images that are ready, `batch` at a time, in PyTorch."""
    pixel_values = torch.from_numpy(np.random.default_rng(0).random((batch, 3, *size), np.float32))

    def run() -> None:
        for _ in range(count // batch):
            side.encode(pixel_values)

    return run


def index_files(retriever: Retriever, folder: Path, scratch: Path) -> Callable[[], None]:
    """Return what indexes a folder from nothing, as `ztcir index` does."""
    target = scratch / f"{retriever.bundle.name}-{retriever.precision}.ztcir"

    def run() -> None:
        shutil.rmtree(target, ignore_errors=True)
        report = retriever.index(folder, target)
        if report.failed:
            raise RuntimeError(f"{len(report.failed)} files failed: {report.failed[0]}")

    return run


@contextlib.contextmanager
def encoder_alone(
    bundle: Bundle, precision: str, threads: int, count: int
) -> Iterator[Callable[[], None]]:
    """Yield what encodes `count` images that are decoded and resized, as an index does."""
    retriever = Retriever(bundle, precision=precision, threads=threads, device="cpu")
    height, width = bundle.manifest.preprocessing.image_size
    rng = np.random.default_rng(0)
    with bulk_images(retriever.encoder) as bulk, ThreadPoolExecutor(bulk.callers) as pool:
        levels = rng.integers(0, 256, (bulk.batch, height, width, 3), dtype=np.uint8)
        batch: Any = list(levels)

        def run() -> None:
            jobs = [pool.submit(bulk.encode, batch) for _ in range(count // bulk.batch)]
            for job in jobs:
                job.result()

        yield run
