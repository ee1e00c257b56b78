"""`ztcir export --trt`: build TensorRT engines of a bundle's graphs. Needs no torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import in_section, pass_as
from cli.output import note, table
from ztcir_sdk.names import MAX_IMAGES, MAX_TEXTS, TENSORRT_PACKAGES

if TYPE_CHECKING:
    from ztcir_sdk.bundle import Bundle
    from ztcir_sdk.bundle.engines import EngineReport


@dataclass(frozen=True)
class TensorRtChoice:
    """The values of the options of `tensorrt_options`."""

    gpu: str | None
    trt_package: str | None
    workspace: int | None
    max_images: int | None
    max_texts: int | None
    max_tokens: int | None
    engines: Path | None
    rebuild: bool


def _tensorrt_choice(trt: bool, **values: Any) -> dict[str, TensorRtChoice | None]:
    if not trt and (given := [name for name, value in values.items() if value]):
        option = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"{option} is an option for engines: add --trt.")
    return {"tensorrt": TensorRtChoice(**values) if trt else None}


_option = in_section("TensorRT options")
_number = functools.partial(_option, type=click.IntRange(min=1))

tensorrt_options = pass_as(
    _tensorrt_choice,
    _option(
        "--trt",
        is_flag=True,
        help="Build TensorRT engines of the bundle's graphs, for this GPU or --gpu.",
    ),
    _option(
        "--gpu",
        metavar="NAME",
        help='GPU to compile for, such as "RTX 3090" or sm_86; default: the one in this '
        "machine. Only tensorrt_rtx compiles for other GPUs.",
    ),
    _option(
        "--trt-package",
        type=click.Choice(tuple(TENSORRT_PACKAGES)),
        help="TensorRT package to build with; default: an installed one that supports the target.",
    ),
    _number(
        "--workspace",
        metavar="MB",
        help="Scratch memory limit of each layer, in MiB; default: the GPU's memory.",
    ),
    _number("--max-images", metavar="N", help=f"Largest batch of images; default: {MAX_IMAGES}."),
    _number("--max-texts", metavar="N", help=f"Largest batch of texts; default: {MAX_TEXTS}."),
    _number("--max-tokens", metavar="N", help="Tokens of the longest text; default: the bundle's."),
    _option(
        "--engines",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
        help="Folder of engines; default: $ZTCIR_ENGINES, else the user's cache.",
    ),
    _option("--rebuild", is_flag=True, help="Build engines even if they exist."),
)
"""Adds --trt and its options; passes them as `tensorrt`, which is None without --trt."""


def engine_precisions(requested: Sequence[str]) -> tuple[str, ...]:
    """Return the requested precisions that TensorRT runs, and note the others.

    Raises:
        UsageError: it runs none of them.
    """
    from ztcir_sdk.bundle.graph_source import CPU_PRECISIONS

    left_out = [name for name in requested if name in CPU_PRECISIONS]
    if not left_out:
        return tuple(requested)
    reason = f"{' and '.join(left_out)} graphs run only on CPUs"
    if len(left_out) == len(requested):
        raise click.UsageError(f"{reason}: add fp32 or fp16, or leave out --trt.")
    note(f"{reason}: no engines are built from them.")
    return tuple(name for name in requested if name not in left_out)


def export_engines(
    bundle: Bundle, choice: TensorRtChoice, *, precisions: Sequence[str] = ()
) -> list[EngineReport]:
    """Build a bundle's engines and note each; default: in all precisions that TensorRT runs."""
    from ztcir_sdk.bundle.engines import build_engines
    from ztcir_sdk.bundle.graph_source import BatchSizes

    largest = {"images": choice.max_images, "texts": choice.max_texts, "tokens": choice.max_tokens}
    sizes = {name: number for name, number in largest.items() if number is not None}
    return build_engines(
        bundle,
        precisions=precisions or None,
        gpu=choice.gpu,
        package=choice.trt_package,
        sizes=BatchSizes(**sizes) if sizes else None,
        workspace_mb=choice.workspace,
        folder=choice.engines,
        rebuild=choice.rebuild,
        progress=lambda report: note(
            f"{report.graph} ({report.precision}) for {report.architecture}: "
            + (f"built in {report.seconds:.1f} s" if report.built else "exists already")
        ),
    )


def show_engines(reports: Sequence[EngineReport]) -> None:
    """Print the engines as a table."""
    table(
        ("graph", "precision", "for", "by", "MB", "file"),
        [
            (
                report.graph,
                report.precision,
                report.architecture,
                f"{report.package} {report.version}",
                f"{report.bytes / 1e6:.1f}",
                str(report.file),
            )
            for report in reports
        ],
    )
