"""`ztcir export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.export_trt import TensorRtChoice, export_engines, show_engines, tensorrt_options
from cli.options import load_bundle
from cli.output import emit_json

if TYPE_CHECKING:
    from ztcir_sdk.bundle import Bundle

__all__ = ["export"]


@click.command()
@click.argument(
    "checkpoint",
    metavar="[CHECKPOINT|BUNDLE]",
    required=False,
    type=click.Path(path_type=Path, exists=True),
)
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The bundle to make; NAME in the current folder by default.",
)
@click.option("--name", default=None, help="Its name; the backbone's by default.")
@click.option(
    "--small/--full",
    default=False,
    show_default=True,
    help="Store weights in fp16 and int8, rounded before the check against PyTorch.",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle that is there.")
@tensorrt_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def export(
    checkpoint: Path | None,
    folder: Path | None,
    name: str | None,
    small: bool,
    overwrite: bool,
    tensorrt: TensorRtChoice | None,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, a folder that `ztcir train` wrote, as a bundle of three ONNX graphs.

    Each graph is compared with PyTorch at several sizes, with gates and adapters at random and as
    trained; where they differ by more than 1e-4, nothing is left behind. Needs the extra `train`.

    With --trt, build TensorRT engines: of that bundle, or of BUNDLE, by default the one inside the
    package, which needs only the extra `trt` or `trt-rtx`.
    """
    if checkpoint is None or (checkpoint / "bundle.json").is_file():
        if tensorrt is None:
            raise click.UsageError(
                "Name a checkpoint to export, or add --trt to build a bundle's engines."
            )
        _export_engines(load_bundle(checkpoint), tensorrt, as_json=as_json)
        return
    from export.bundle import export_bundle
    from export.card import model_card
    from train.model import load_model

    model, config = load_model(checkpoint)
    name = name or model.backbone.config.model
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        click.echo(line, err=True)

    bundle = export_bundle(
        model,
        folder or Path(name),
        name=name,
        model_card=model_card(config),
        small=small,
        overwrite=overwrite,
        report=report,
    )
    engines = [] if tensorrt is None else export_engines(bundle, tensorrt)
    size = sum(record.bytes for record in bundle.manifest.files.values())
    if as_json:
        result: dict[str, Any] = {
            "bundle": str(bundle.path),
            "name": bundle.name,
            "bytes": size,
            "image_tower": bundle.manifest.image_tower,
            "checks": lines,
            "engines": [report.to_dict() for report in engines],
        }
        click.echo(json.dumps(result))
    else:
        click.echo(f"{bundle.path}: {size / 1e6:.1f} MB, every graph within 1e-4 of PyTorch")
        if engines:
            show_engines(engines)


def _export_engines(bundle: Bundle, choice: TensorRtChoice, *, as_json: bool) -> None:
    reports = export_engines(bundle, choice)
    if as_json:
        engines = [report.to_dict() for report in reports]
        emit_json({"bundle": str(bundle.path), "name": bundle.name, "engines": engines})
    else:
        show_engines(reports)
