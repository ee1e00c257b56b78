"""A machine with a pretended GPU: `fake_nvidia` in place of CUDA and TensorRT."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from fake_nvidia import FakeCuda, FakeTensorRt

from ztcir_sdk.runtime import GraphSource, RuntimeSettings, open_graph
from ztcir_sdk.runtime.tensorrt import package as tensorrt_package
from ztcir_sdk.runtime.tensorrt.cache import CACHE_VARIABLE
from ztcir_sdk.runtime.tensorrt.graph import TensorRtGraph

__all__ = ["TENSORRT", "Machine"]

TENSORRT = RuntimeSettings(backend="tensorrt", device="cuda:0", threads=1)


class Machine:
    """A machine with a GPU, CUDA and TensorRT."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = patch
        self.folder = folder
        patch.setenv(CACHE_VARIABLE, str(folder))
        self.install(FakeCuda())

    def install(self, cuda: FakeCuda, *packages: tuple[str, str]) -> None:
        """Replace the GPU and the installed packages of TensorRT."""
        self.cuda = cuda
        bindings = types.ModuleType("cuda.bindings")
        bindings.runtime = cuda  # type: ignore[attr-defined]
        for name, module in (
            ("cuda", types.ModuleType("cuda")),
            ("cuda.bindings", bindings),
            ("cuda.bindings.runtime", cuda),
        ):
            self._patch.setitem(sys.modules, name, module)
        tensorrt_package.import_tensorrt.cache_clear()
        self.packages = {
            package: FakeTensorRt(cuda, package, version)
            for package, version in packages or (("tensorrt", "10.3.0"),)
        }
        for package in tensorrt_package.PACKAGES:
            self._patch.setitem(sys.modules, package, self.packages.get(package))
        for place in (
            "doctor.libraries",
            "doctor.runtime",
            "runtime.tensorrt.open",
            "runtime.tensorrt.package",
        ):
            target = f"ztcir_sdk.{place}.installed_packages"
            self._patch.setattr(target, lambda: list(self.packages))

    @property
    def trt(self) -> FakeTensorRt:
        return next(iter(self.packages.values()))

    def open(self, source: GraphSource, **changes: Any) -> TensorRtGraph:
        """Load an engine, built if there is none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # building an engine warns
            graph = open_graph(source, RuntimeSettings(**{**vars(TENSORRT), **changes}))
        assert isinstance(graph, TensorRtGraph)
        return graph
