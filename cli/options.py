"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ztcir_sdk.names import BACKENDS

if TYPE_CHECKING:
    from ztcir_sdk.bundle.bundle import Bundle
    from ztcir_sdk.retriever import Retriever

__all__ = [
    "Engine",
    "as_json",
    "bundle_option",
    "load_bundle",
    "with_engine",
]

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="A bundle's folder; default: the bundle inside the package.",
)


@dataclass(frozen=True)
class Engine:
    """What answers, and on what: the values of the options of `with_engine`."""

    bundle: Path | None
    backend: str
    device: str
    precision: str | None
    threads: int | None
    gpu_memory: int | None
    low_memory: bool

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments of `Retriever` but for the bundle."""
        return {
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "gpu_memory_mb": self.gpu_memory,
            "low_memory": self.low_memory,
        }

    def load_bundle(self) -> Bundle:
        """Load the bundle of --bundle."""
        return load_bundle(self.bundle)

    def retriever(self) -> Retriever:
        """Return what the options ask for."""
        from ztcir_sdk.retriever import Retriever

        return Retriever(self.load_bundle(), **self.settings)


def with_engine(command: Command) -> Callable[..., Any]:
    """Add the options that say what answers and where, and hand them over as `engine`."""

    @functools.wraps(command)
    def called(
        *args: Any,
        bundle: Path | None,
        backend: str,
        device: str,
        precision: str | None,
        threads: int | None,
        gpu_memory: int | None,
        low_memory: bool,
        **others: Any,
    ) -> Any:
        engine = Engine(bundle, backend, device, precision, threads, gpu_memory, low_memory)
        return command(*args, engine=engine, **others)

    decorated: Callable[..., Any] = called
    for option in (
        click.option(
            "--low-memory",
            is_flag=True,
            help="Give memory back after every run, for small devices; slower.",
        ),
        click.option(
            "--gpu-memory",
            type=click.IntRange(min=1),
            metavar="MB",
            help="Most GPU memory of one graph, in MiB; default: all that is free.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads; default: one per core that may be used.",
        ),
        click.option("--precision", help="fp32, fp16 or int8, as the bundle has it."),
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
        ),
        click.option(
            "--backend",
            type=click.Choice(BACKENDS),
            default="auto",
            show_default=True,
            help="What runs the graphs: ONNX Runtime, its TensorRT, or TensorRT itself; auto is, "
            "on a GPU, tensorrt where `export --trt` has built engines for it, else onnx.",
        ),
        bundle_option,
    ):
        decorated = option(decorated)
    return decorated


def load_bundle(path: Path | None) -> Bundle:
    """Load the bundle of --bundle."""
    from ztcir_sdk.bundle.bundle import Bundle

    return Bundle.embedded() if path is None else Bundle.load(path)
