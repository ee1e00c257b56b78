"""One way to two packages of one API: `tensorrt`, and `tensorrt_rtx` (TensorRT for RTX)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ztcir_sdk.errors import MissingDependencyError, UsageError, first_line

__all__ = ["PACKAGES", "TensorRt", "import_tensorrt", "installed_packages"]

PACKAGES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Package -> what it is called. Where both are installed, the first is preferred."""
_EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
_HINT = (
    "pip install 'ztcir[trt]' for an NVIDIA GPU, or 'ztcir[trt-rtx]' for GeForce and RTX "
    "GPUs, where it is a smaller package that also compiles without a GPU"
)


class TensorRt:
    """An imported package, with the messages that it logs.

    Attributes:
        module: the package.
        package: "tensorrt" or "tensorrt_rtx".
        version: of the package, such as "10.3.0".
        logger: what its objects are made with; it prints nothing.
    """

    def __init__(self, module: Any, package: str) -> None:
        self.module = module
        self.package = package
        self.version: str = module.__version__
        self._listeners: list[deque[str]] = []
        self.logger = _make_logger(module, self._listeners)

    def __str__(self) -> str:
        return f"{PACKAGES[self.package]} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX: no timing cache, kernels finished on the device."""
        return self.package == "tensorrt_rtx"

    @contextmanager
    def listening(self) -> Iterator[deque[str]]:
        """Yield the error messages that are logged in the block, oldest first.

        TensorRT logs from threads of its own, so those of another block may be among them.
        """
        messages: deque[str] = deque(maxlen=50)
        self._listeners.append(messages)
        try:
            yield messages
        finally:
            self._listeners[:] = [one for one in self._listeners if one is not messages]

    def architectures(self) -> list[str]:
        """Return what it compiles for on a machine without such a GPU; empty for what it is on."""
        capability = getattr(self.module, "ComputeCapability", None)
        names = [] if capability is None else list(capability.__members__)
        numbers = sorted(int(name[2:]) for name in names if name[2:].isdigit())
        return [f"sm_{number}" for number in numbers]


def installed_packages() -> list[str]:
    """Return which of `PACKAGES` are there, without importing them."""
    return [package for package in PACKAGES if importlib.util.find_spec(package) is not None]


@functools.cache
def import_tensorrt(package: str | None = None) -> TensorRt:
    """Import a package; by default the first of `PACKAGES` that loads.

    Raises:
        MissingDependencyError: it is not installed, or does not load.
        UsageError: there is no such package.
    """
    if package is not None and package not in PACKAGES:
        raise UsageError(f"There is no TensorRT package {package!r}: {', '.join(PACKAGES)}.")
    reasons: list[str] = []
    for name in PACKAGES if package is None else [package]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                reasons.append(f"{name} does not load: {first_line(error)}")
            continue
        except Exception as error:  # without its libraries it raises whatever comes first
            reasons.append(f"{name} does not load: {first_line(error)}")
            continue
        if hasattr(module, "__version__"):
            return TensorRt(module, name)
        reasons.append(f"{name} is there, but empty")
    what = "TensorRT is not installed" if package is None else f"{PACKAGES[package]} is missing"
    hint = _HINT if package is None else f"pip install 'ztcir[{_EXTRAS[package]}]'"
    why = f"TensorRT cannot be used ({'; '.join(reasons)})" if reasons else what
    raise MissingDependencyError(f"{why}: {hint}.")


def _make_logger(module: Any, listeners: list[deque[str]]) -> Any:
    errors = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps errors for the sentence that is told; prints nothing."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                for messages in list(listeners):
                    messages.append(message)

    return Logger()
