"""Every backend and precision that runs on this machine, measured one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ztcir_sdk.benchmark.run import BenchmarkSettings, benchmark
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import AUTOMATIC, GPU_BACKENDS
from ztcir_sdk.runtime import resolve_device
from ztcir_sdk.settings import EngineOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["benchmark_all"]


def benchmark_all(
    bundle: Bundle,
    *,
    settings: BenchmarkSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Unpack[EngineOptions],
) -> dict[str, Any]:
    """Measure a bundle in every precision, and with every backend of the device.

    A backend or a precision that `options` name is the only one of its kind.

    Args:
        bundle: the bundle to measure.
        settings: sizes of the benchmark.
        progress: called with a title, the number of measurements done, and of all.
        **options: how the graphs are run; see `Retriever`.

    Returns:
        The result of the first configuration, as of `benchmark`; under ``others`` those of the
        others; and under ``not_measured`` the reason for each that does not run.

    Raises:
        ZtcirError: no configuration runs; the reason is that of the first.
    """
    asked, precision = options.pop("backend", AUTOMATIC), options.pop("precision", None)
    device = resolve_device(options.get("device", AUTOMATIC), asked)
    backends = (asked,) if asked != AUTOMATIC else _backends(device)
    precisions = (precision,) if precision is not None else bundle.precisions
    results: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    first: ZtcirError | None = None
    for backend in backends:
        for one in precisions:
            name = f"{backend} {one}"
            try:
                own: EngineOptions = {**options, "backend": backend, "precision": one}
                own["device"] = device
                shown = _titled(progress, name)
                results.append(benchmark(bundle, settings=settings, progress=shown, **own))
            except ZtcirError as error:
                first = first or error
                failures[name] = str(error)
    if not results:
        assert first is not None
        raise first
    return {**results[0], "others": results[1:], "not_measured": failures}


def _backends(device: str) -> tuple[str, ...]:
    """Return the backends that can run on a device at all."""
    return ("onnx", *(GPU_BACKENDS if device.startswith("cuda") else ()))


def _titled(
    progress: Callable[[str, int, int], None] | None, name: str
) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{what} {name}", done, total)
