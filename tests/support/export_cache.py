"""Exports each graph and bundle of the tests once: all tests and workers share its file.

A graph is known by its weights, modules, names and sizes. Every test still compares what it gets
with PyTorch, so a wrong file could not pass.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

__all__ = ["ExportCache", "Spoil", "cached_exports", "made_once"]

Spoil = Callable[[onnx.ModelProto], None]
MAX_WEIGHTS = 10_000_000
"""Larger models are exported each time, so that their graphs do not fill the disk."""


@dataclass
class _Program:
    """Takes the place of `torch.onnx.ONNXProgram`."""

    content: bytes

    def save(self, path: str, **_: Any) -> None:
        Path(path).write_bytes(self.content)


class ExportCache:
    """Takes the place of `torch.onnx.export`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exported: list[str] = []
        """First output of each graph that this worker asked for, in order."""
        self._really = torch.onnx.export
        self._spoil: dict[int, Spoil] = {}

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor], **options: Any) -> Any:
        self.exported.append(options["output_names"][0])
        if sum(weight.numel() for weight in module.parameters()) > MAX_WEIGHTS:
            return self._really(module, inputs, **options)  # type: ignore[arg-type]
        path = self.folder / f"{_key(module, inputs, options)}.onnx"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                gc.disable()  # tracing makes millions of objects, which are all in use
                try:
                    program = self._really(module, inputs, **options)  # type: ignore[arg-type]
                finally:
                    gc.enable()
                assert program is not None
                program.save(str(path), external_data=False)
        content = path.read_bytes()
        if spoil := self._spoil.get(len(self.exported) - 1):
            proto = onnx.load_model_from_string(content)
            spoil(proto)
            content = proto.SerializeToString()
        return _Program(content)

    @contextlib.contextmanager
    def spoil(self, number: int, spoil: Spoil) -> Iterator[None]:
        """Change the graph that is exported next but `number`."""
        self._spoil[len(self.exported) + number] = spoil
        yield
        self._spoil.clear()


def _key(module: nn.Module, inputs: Sequence[Tensor], options: Mapping[str, Any]) -> str:
    sizes = [(tuple(one.shape), one.dtype) for one in inputs]
    digest = hashlib.sha256(repr((type(module), module, sizes, sorted(options.items()))).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """Return a folder that the first worker makes for all; `make` gets an empty folder's path."""
    folder = _shared_folder(tmp_path_factory) / name
    with FileLock(folder.with_suffix(".lock")):
        done = folder / "done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a test that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-gw") else base) / "exports"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def cached_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportCache]:
    """Replace torch's exporter by one that exports each graph once for all tests and workers."""
    if isinstance(torch.onnx.export, ExportCache):  # by the fixture of another file
        yield torch.onnx.export
        return
    cache = ExportCache(_shared_folder(tmp_path_factory))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", cache)
        yield cache
