"""Arrays' places on the GPU, each with its twin in pinned host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.runtime.tensorrt.cuda import Gpu, OutOfGpuMemoryError

__all__ = ["Buffer", "Buffers"]


class Buffer:
    """`size` bytes on the GPU and as many pinned ones on the host."""

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
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        raw = memoryview((ctypes.c_byte * size).from_address(self.host)).cast("B")
        array: NDArray[Any] = np.frombuffer(raw, dtype=kind)
        return array.reshape(shape)

    def free(self) -> None:
        """Give both back."""
        self._gpu.free(self.device)
        self._gpu.free_pinned(self.host)


class Buffers:
    """Buffers by tensor, which grow when more is asked for, up to a limit in all."""

    def __init__(self, gpu: Gpu, limit: int | None = None) -> None:
        self._gpu = gpu
        self._limit = limit
        self._by_name: dict[str, Buffer] = {}

    def __getitem__(self, name: str) -> Buffer:
        return self._by_name[name]

    @property
    def size(self) -> int:
        """Bytes on the GPU."""
        return sum(buffer.size for buffer in self._by_name.values())

    def too_small(self, wanted: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Return the tensors whose buffers are missing or too small, with the bytes to have."""
        found = {}
        for name, size in wanted:
            have = self._by_name.get(name)
            if have is None or have.size < size:
                found[name] = max(size, 256)
        return found

    def grow(self, wanted: dict[str, int]) -> None:
        """Replace buffers; what was at their addresses must not be used any more.

        Raises:
            OutOfGpuMemoryError: there is not enough memory, or the limit is reached; the buffers
                that could not be replaced are gone, and are made again by the next call.
        """
        for name in wanted:
            if name in self._by_name:
                self._by_name.pop(name).free()
        for name, size in wanted.items():
            if self._limit is not None and self.size + size > self._limit:
                raise OutOfGpuMemoryError(
                    f"with {name} it needs {_mib(self.size + size)} of GPU memory, and "
                    f"gpu_memory_mb allows {_mib(self._limit)}: allow more, or ask for less at "
                    "once."
                )
            self._by_name[name] = Buffer(self._gpu, size)

    def free(self) -> None:
        """Give all back."""
        while self._by_name:
            self._by_name.popitem()[1].free()


def _mib(size: int) -> str:
    return f"{-(-size >> 20)} MiB"
