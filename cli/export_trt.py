"""`ztcir export --trt`: TensorRT engines of a bundle's graphs. Needs no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.output import note, table

if TYPE_CHECKING:
    from ztcir_sdk.bundle.bundle import Bundle
    from ztcir_sdk.bundle.engines import EngineReport

__all__ = [
    "TensorRtChoice",
    "engine_precisions",
    "export_engines",
    "show_engines",
    "tensorrt_options",
]

PACKAGES = ("tensorrt", "tensorrt_rtx")
"""As in `ztcir_sdk.runtime`, which --help does without."""

Command = TypeVar("Command", bound=Callable[..., Any])


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


def tensorrt_options(command: Command) -> Callable[..., Any]:
    """Add --trt and what belongs to it; hand them over as `tensorrt`, which is None without it."""

    @functools.wraps(command)
    def called(*args: Any, trt: bool, **others: Any) -> Any:
        given = {name: others.pop(name) for name in TensorRtChoice.__dataclass_fields__}
        if not trt and (named := [name for name, value in given.items() if value]):
            option = f"--{named[0].replace('_', '-')}"
            raise click.UsageError(f"{option} is about engines: add --trt.")
        return command(*args, tensorrt=TensorRtChoice(**given) if trt else None, **others)

    most = click.IntRange(min=1)
    decorated: Callable[..., Any] = called
    for option in (
        click.option("--rebuild", is_flag=True, help="Build engines also where there are some."),
        click.option(
            "--engines",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            help="Where engines go; default: $ZTCIR_ENGINES, else the user's cache.",
        ),
        click.option(
            "--max-tokens", type=most, help="Most tokens of a text; default: as the bundle has it."
        ),
        click.option("--max-texts", type=most, help="Most texts at once; default: 64."),
        click.option("--max-images", type=most, help="Most pictures at once; default: 32."),
        click.option(
            "--workspace",
            type=most,
            metavar="MB",
            help="Most scratch memory of a layer, in MiB; default: all of the GPU's.",
        ),
        click.option(
            "--trt-package",
            type=click.Choice(PACKAGES),
            help="What builds; default: the one that is installed and can do it.",
        ),
        click.option(
            "--gpu",
            metavar="NAME",
            help='Compile for this GPU, as "RTX 3090" or sm_86, which need not be here '
            "(tensorrt_rtx only); default: the one that is.",
        ),
        click.option(
            "--trt",
            is_flag=True,
            help="Build TensorRT engines of the bundle's graphs, for this GPU or --gpu.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def engine_precisions(asked: Sequence[str]) -> tuple[str, ...]:
    """Return those of the precisions asked for that TensorRT runs, and tell of the others.

    Raises:
        UsageError: it runs none of them.
    """
    from ztcir_sdk.bundle.graph_source import FOR_PROCESSORS

    left_out = [name for name in asked if name in FOR_PROCESSORS]
    if not left_out:
        return tuple(asked)
    said = f"{' and '.join(left_out)} graphs are for processors"
    if len(left_out) == len(asked):
        raise click.UsageError(f"{said}: ask for fp32 or fp16 too, or leave out --trt.")
    note(f"{said}: no engines are built of them.")
    return tuple(name for name in asked if name not in left_out)


def export_engines(
    bundle: Bundle, choice: TensorRtChoice, *, precisions: Sequence[str] = ()
) -> list[EngineReport]:
    """Build a bundle's engines, by default in all precisions that TensorRT runs; tell of each."""
    from ztcir_sdk.bundle.engines import build_engines
    from ztcir_sdk.bundle.graph_source import IMAGES_AT_ONCE, TEXTS_AT_ONCE, BatchSizes

    chosen = (choice.max_images, choice.max_texts, choice.max_tokens)
    sizes = None
    if any(number is not None for number in chosen):
        sizes = BatchSizes(
            images=choice.max_images or IMAGES_AT_ONCE,
            texts=choice.max_texts or TEXTS_AT_ONCE,
            tokens=choice.max_tokens,
        )
    return build_engines(
        bundle,
        precisions=precisions or None,
        gpu=choice.gpu,
        package=choice.trt_package,
        sizes=sizes,
        workspace_mb=choice.workspace,
        folder=choice.engines,
        rebuild=choice.rebuild,
        progress=lambda report: note(
            f"{report.graph} ({report.precision}) for {report.architecture}: "
            + (f"built in {report.seconds:.1f} s" if report.built else "was there already")
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
