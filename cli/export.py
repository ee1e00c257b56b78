"""`ztcir export`: a checkpoint, or any CLIP, becomes a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.export_precision import TRIED_ON, PrecisionChoice, precision_options
from cli.export_trt import (
    TensorRtChoice,
    engine_precisions,
    export_engines,
    show_engines,
    tensorrt_options,
)
from cli.options import Command, load_bundle, output_option
from cli.output import emit_json
from ztcir_sdk.names import METHODS

if TYPE_CHECKING:
    from train.model import Backbone, ComposedModel
    from ztcir_sdk.bundle.bundle import Bundle

__all__ = ["export"]


@click.command(cls=Command)
@click.argument(
    "checkpoint",
    metavar="[CHECKPOINT|BUNDLE]",
    required=False,
    type=click.Path(path_type=Path, exists=True),
)
@click.option(
    "--backbone",
    metavar="MODEL",
    help="In place of a checkpoint: an open_clip model, such as ViT-B-32, as it is. The bundle "
    "answers by picture, by words, and by their sum.",
)
@click.option(
    "--pretrained",
    metavar="WEIGHTS",
    help="Weights of --backbone: a tag of open_clip, such as openai; a file or folder of "
    "open_clip, Transformers, Lightning or a training script; or a LoRA adapter, also as "
    "WEIGHTS+ADAPTER; default: random ones.",
)
@output_option(
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
@precision_options
@tensorrt_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def export(
    checkpoint: Path | None,
    backbone: str | None,
    pretrained: str | None,
    folder: Path | None,
    name: str | None,
    small: bool,
    overwrite: bool,
    precisions: PrecisionChoice,
    tensorrt: TensorRtChoice | None,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, a folder that `ztcir train` wrote, as a bundle of three ONNX graphs.

    Each graph is compared with PyTorch at several sizes, with gates and adapters at random and as
    trained; where they differ by more than 1e-4, nothing is left behind. fp16 and int8 graphs are
    kept where they rank as fp32 does; what was measured is in the manifest. Needs the extra
    `train`.

    With --backbone in place of CHECKPOINT, export any CLIP without trained parts.

    With --trt, build TensorRT engines: of that bundle, or of BUNDLE, by default the one inside the
    package, which needs only the extra `trt` or `trt-rtx`; of int8 graphs none, they are for
    processors.
    """
    _check_call(checkpoint, backbone, pretrained)
    in_engines = () if tensorrt is None else engine_precisions(precisions.precision)
    if backbone is None and (checkpoint is None or (checkpoint / "bundle.json").is_file()):
        if tensorrt is None:
            raise click.UsageError(
                "Name a checkpoint or --backbone to export, or add --trt to build a bundle's "
                "engines."
            )
        others = {"to": folder, "name": name, "small": small, "overwrite": overwrite}
        others |= {option: getattr(precisions, option) for option in TRIED_ON}
        for option, value in others.items():
            if value:
                raise click.UsageError(
                    f"--{option} is about exporting a checkpoint or --backbone: leave it out to "
                    "build a bundle's engines."
                )
        bundle = load_bundle(checkpoint)
        _export_engines(bundle, tensorrt, in_engines, as_json=as_json)
        return
    from export.bundle import export_bundle

    subject = _load(checkpoint, backbone, pretrained)
    name = name or subject.card["backbone"]["model"]
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        click.echo(line, err=True)

    bundle = export_bundle(
        subject.model,
        folder or Path(name),
        name=name,
        model_card=subject.card,
        methods=subject.methods,
        small=small,
        precisions=precisions.precision or ("fp32",),
        acceptance=precisions.acceptance(trained=subject.trained),
        overwrite=overwrite,
        report=report,
    )
    engines = [] if tensorrt is None else export_engines(bundle, tensorrt, precisions=in_engines)
    size = sum(record.bytes for record in bundle.manifest.files.values())
    if as_json:
        result: dict[str, Any] = {
            "bundle": str(bundle.path),
            "name": bundle.name,
            "bytes": size,
            "image_tower": bundle.manifest.image_tower,
            "methods": list(bundle.methods),
            "precisions": {
                name: {
                    graph: bundle.variant(graph, name).precision for graph in bundle.manifest.graphs
                }
                for name in bundle.precisions
            },
            "checks": lines,
            "engines": [report.to_dict() for report in engines],
        }
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"{bundle.path}: {size / 1e6:.1f} MB, {', '.join(bundle.precisions)}, every fp32 graph "
            f"within 1e-4 of PyTorch, answers by {', '.join(bundle.methods)}"
        )
        if engines:
            show_engines(engines)


def _check_call(checkpoint: Path | None, backbone: str | None, pretrained: str | None) -> None:
    if backbone is not None and checkpoint is not None:
        raise click.UsageError(f"Export {checkpoint} or --backbone {backbone}, not both.")
    if pretrained is not None and backbone is None:
        raise click.UsageError("--pretrained names the weights of --backbone: add it.")


@dataclass(frozen=True)
class _Subject:
    """What is exported."""

    model: ComposedModel | Backbone
    card: dict[str, Any]
    trained: bool
    """Whether its weights are more than random."""
    methods: tuple[str, ...] | None
    """What its bundle answers; None for all that its graphs can."""


def _load(checkpoint: Path | None, backbone: str | None, pretrained: str | None) -> _Subject:
    if backbone is not None:
        from export.pretrained import bare_card
        from train.model import BackboneConfig, create_backbone

        bare = create_backbone(BackboneConfig(backbone, pretrained))
        return _Subject(bare, bare_card(bare), pretrained is not None, None)
    assert checkpoint is not None
    from export.card import model_card
    from train.model import load_model

    model, config = load_model(checkpoint)
    card = model_card(config)
    if config["kind"] == "backbone":  # the other parts are not there yet
        return _Subject(model.backbone, card, True, None)
    untrained = ("composed",) if config["kind"] == "map" else ()
    return _Subject(model, card, True, tuple(one for one in METHODS if one not in untrained))


def _export_engines(
    bundle: Bundle, choice: TensorRtChoice, precisions: Sequence[str], *, as_json: bool
) -> None:
    reports = export_engines(bundle, choice, precisions=precisions)
    if as_json:
        engines = [report.to_dict() for report in reports]
        emit_json({"bundle": str(bundle.path), "name": bundle.name, "engines": engines})
    else:
        show_engines(reports)
