"""The two TensorRT packages, which share an API: `tensorrt` and `tensorrt_rtx` (for RTX GPUs)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ztcir_sdk.errors import EXTRAS, MissingDependencyError, check_choice, first_line, install_hint
from ztcir_sdk.names import TENSORRT_PACKAGES

PACKAGES = TENSORRT_PACKAGES
"""If both are installed, the first is preferred."""


class TensorRt:
    """An imported TensorRT package and its log.

    Attributes:
        module: the imported package.
        package: "tensorrt" or "tensorrt_rtx".
        version: version of the package, such as "10.3.0".
        logger: logger that its objects need; it prints nothing.
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
        """Whether it is TensorRT for RTX: no timing cache, kernels compiled on the device."""
        return self.package == "tensorrt_rtx"

    @contextmanager
    def listening(self) -> Iterator[deque[str]]:
        """Yield the error messages that TensorRT logs during the block, oldest first.

        TensorRT logs from its own threads, so messages of another block may be among them.
        """
        messages: deque[str] = deque(maxlen=50)
        self._listeners.append(messages)
        try:
            yield messages
        finally:
            self._listeners[:] = [one for one in self._listeners if one is not messages]

    def architectures(self) -> list[str]:
        """Return the architectures that it compiles for without such a GPU; may be empty."""
        capability = getattr(self.module, "ComputeCapability", None)
        names = [] if capability is None else list(capability.__members__)
        numbers = sorted(int(name[2:]) for name in names if name[2:].isdigit())
        return [f"sm_{number}" for number in numbers]


def installed_packages() -> list[str]:
    """Return the installed ones of `PACKAGES`, without importing them."""
    return [package for package in PACKAGES if importlib.util.find_spec(package) is not None]


@functools.cache
def import_tensorrt(package: str | None = None) -> TensorRt:
    """Import a TensorRT package; by default the first of `PACKAGES` that can be loaded.

    Raises:
        MissingDependencyError: it is not installed, or cannot be loaded.
        UsageError: there is no such package.
    """
    if package is not None:
        check_choice("TensorRT package", package, PACKAGES)
    reasons: list[str] = []
    for name in PACKAGES if package is None else [package]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                reasons.append(f"{name} cannot be loaded: {first_line(error)}")
            continue
        except Exception as error:  # a missing library raises errors of many types
            reasons.append(f"{name} cannot be loaded: {first_line(error)}")
            continue
        if hasattr(module, "__version__"):
            return TensorRt(module, name)
        reasons.append(f"{name} is an empty package")
    product = "TensorRT" if package is None else PACKAGES[package]
    problem = f"cannot be used ({'; '.join(reasons)})" if reasons else "is not installed"
    fix = install_hint("trt" if package is None else EXTRAS[package])
    if package is None:
        fix += f" for an NVIDIA GPU, or {install_hint('trt-rtx')} for GeForce and RTX GPUs"
    raise MissingDependencyError(f"{product} {problem}: {fix}.")


def last_message(messages: Sequence[str]) -> str:
    """Return the last of the messages that TensorRT logged, as one line."""
    return one_line(messages[-1]) if messages else "without a reason"


def one_line(message: str) -> str:
    """Return a message as one line of at most 300 characters, without a full stop."""
    return " ".join(message.split())[:300].rstrip(". ")


def _make_logger(module: Any, listeners: list[deque[str]]) -> Any:
    errors = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        """Passes errors to the listeners; prints nothing."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                for messages in list(listeners):
                    messages.append(message)

    return Logger()
