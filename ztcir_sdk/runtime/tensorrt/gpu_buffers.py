"""Buffers on the GPU, each paired with pinned host memory of the same size."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.runtime.tensorrt.cuda import Gpu, OutOfGpuMemoryError


class Buffer:
    """`size` bytes on the GPU and as many in pinned host memory."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._gpu = gpu
        self.size = size
        self.device = gpu.allocate(size)
        try:
            self.host = gpu.allocate_pinned(size)
        except BaseException:
            gpu.free(self.device)
            raise

    def view(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the pinned bytes as an array, without a copy."""
        element = np.dtype(dtype)
        size = element.itemsize * int(np.prod(shape, dtype=np.int64))
        raw = memoryview((ctypes.c_byte * size).from_address(self.host)).cast("B")
        array: NDArray[Any] = np.frombuffer(raw, dtype=element)
        return array.reshape(shape)

    def free(self) -> None:
        """Free both."""
        self._gpu.free(self.device)
        self._gpu.free_pinned(self.host)


class Buffers:
    """Tensor name -> buffer. Buffers grow on demand, up to a limit for all together."""

    def __init__(self, gpu: Gpu, limit: int | None = None) -> None:
        self._gpu = gpu
        self._limit = limit
        self._by_name: dict[str, Buffer] = {}

    def __getitem__(self, name: str) -> Buffer:
        return self._by_name[name]

    @property
    def size(self) -> int:
        """Bytes on the GPU, of all buffers."""
        return sum(buffer.size for buffer in self._by_name.values())

    def too_small(self, needed: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Return tensor name -> size to allocate, for buffers that are missing or too small."""
        found = {}
        for name, size in needed:
            buffer = self._by_name.get(name)
            if buffer is None or buffer.size < size:
                found[name] = max(size, 256)
        return found

    def grow(self, sizes: dict[str, int]) -> None:
        """Replace buffers; their old addresses become invalid.

        Raises:
            OutOfGpuMemoryError: there is not enough memory, or the limit is reached; buffers that
                could not be replaced are gone, and the next call allocates them.
        """
        for name in sizes:
            if name in self._by_name:
                self._by_name.pop(name).free()
        for name, size in sizes.items():
            if self._limit is not None and self.size + size > self._limit:
                raise OutOfGpuMemoryError(
                    f"with {name} it needs {_mib(self.size + size)} of GPU memory, but "
                    f"gpu_memory_mb allows {_mib(self._limit)}: increase it, or use smaller "
                    "batches."
                )
            self._by_name[name] = Buffer(self._gpu, size)

    def free(self) -> None:
        """Free all buffers."""
        while self._by_name:
            self._by_name.popitem()[1].free()


def _mib(size: int) -> str:
    return f"{-(-size >> 20)} MiB"
