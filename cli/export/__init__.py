"""`ztcir export`: export a checkpoint, or any CLIP, as a bundle, or build a bundle's engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.export.precision import IMAGE_OPTIONS, PrecisionChoice, precision_options
from cli.export.tensorrt import (
    TensorRtChoice,
    engine_precisions,
    export_engines,
    show_engines,
    tensorrt_options,
)
from cli.options import Command, as_json, load_bundle, output_option, small_option
from cli.output import emit_json, note, printable
from ztcir_sdk.names import METHODS

if TYPE_CHECKING:
    from export.bundle import BundleSettings
    from train.model import Backbone, ComposedModel
    from ztcir_sdk.bundle.engines import EngineReport


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
    help="Export an open_clip model, such as ViT-B-32, instead of a checkpoint. The bundle "
    "answers by image, by text, and by their sum.",
)
@click.option(
    "--pretrained",
    metavar="WEIGHTS",
    help="Weights of --backbone: an open_clip tag, such as openai; a file or folder of open_clip, "
    "Transformers, Lightning or a training script; or a LoRA adapter, also as WEIGHTS+ADAPTER; "
    "default: random weights.",
)
@output_option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Bundle to write; default: NAME in the current folder.",
)
@click.option("--name", help="Name of the bundle; default: the backbone's name.")
@small_option
@click.option(
    "--targetpad",
    is_flag=True,
    help="Pad images of unequal edges before they are cropped, as SEARLE does; an index of the "
    "bundle without it does not fit.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@precision_options
@tensorrt_options
@as_json
def export(
    checkpoint: Path | None,
    backbone: str | None,
    pretrained: str | None,
    output: Path | None,
    name: str | None,
    small: bool,
    targetpad: bool,
    overwrite: bool,
    precisions: PrecisionChoice,
    tensorrt: TensorRtChoice | None,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, a folder that `ztcir train` wrote, as a bundle of three ONNX graphs.

    Each graph is compared with PyTorch at several sizes, with random and with trained weights. If
    they differ by more than 1e-4, nothing is written. fp16 and int8 graphs are kept if they rank
    as fp32 does; the manifest records the figures. If the checkpoint records the words that it was
    trained on, the bundle has them too. Needs the extra `train`.

    With --trt, build TensorRT engines of the new bundle, or of BUNDLE; without either, of the
    bundle inside the package. For BUNDLE this needs only the extra `trt` or `trt-rtx`. int8 graphs
    are for CPUs and get no engines.

    \b
    Examples:
      ztcir export runs/compose -o my-bundle
      ztcir export runs/compose -o my-bundle --precision fp32,fp16,int8
      ztcir export --backbone ViT-B-32 --pretrained openai -o clip
      ztcir export my-bundle --trt
      ztcir export --trt --gpu "RTX 3090" --engines engines/
    """
    source = _Source(checkpoint, backbone, pretrained)
    in_engines = () if tensorrt is None else engine_precisions(precisions.precision)
    if not source.is_model:
        if tensorrt is None:
            raise click.UsageError(
                "There is nothing to export: name a checkpoint or --backbone, or add --trt to "
                "build a bundle's engines."
            )
        others = {"output": output, "name": name, "small": small, "overwrite": overwrite}
        others["targetpad"] = targetpad
        others |= {option: getattr(precisions, option) for option in IMAGE_OPTIONS}
        for option, value in others.items():
            if value:
                raise click.UsageError(
                    f"--{option} needs a checkpoint or --backbone to export: leave it out to "
                    "build a bundle's engines."
                )
        bundle = load_bundle(checkpoint)
        engines = export_engines(bundle, tensorrt, precisions=in_engines)
        _report({"bundle": str(bundle.path), "name": bundle.name}, engines, as_json=as_json)
        return
    from export.bundle import export_bundle
    from ztcir_sdk.preprocess import TARGET_RATIO

    model, settings = source.load(name, precisions, small=small)
    if targetpad:
        settings = replace(settings, pad_ratio=TARGET_RATIO)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        note(line)

    folder = output or Path(settings.name)
    bundle = export_bundle(model, folder, settings, overwrite=overwrite, report=report)
    engines = [] if tensorrt is None else export_engines(bundle, tensorrt, precisions=in_engines)
    size = sum(record.bytes for record in bundle.manifest.files.values())
    if not as_json:
        click.echo(
            f"{printable(str(bundle.path))}: {size / 1e6:.1f} MB, "
            f"{', '.join(bundle.precisions)}, every fp32 graph within 1e-4 of PyTorch, "
            f"answers by {', '.join(bundle.methods)}"
        )
    values: dict[str, Any] = {
        "bundle": str(bundle.path),
        "name": bundle.name,
        "bytes": size,
        "image_tower": bundle.manifest.image_tower,
        "methods": list(bundle.methods),
        "precisions": {
            name: {graph: bundle.variant(graph, name).precision for graph in bundle.manifest.graphs}
            for name in bundle.precisions
        },
        "checks": lines,
    }
    _report(values, engines, as_json=as_json)


def _report(values: Mapping[str, Any], engines: Sequence[EngineReport], *, as_json: bool) -> None:
    if as_json:
        emit_json({**values, "engines": [engine.to_dict() for engine in engines]})
    elif engines:
        show_engines(engines)


@dataclass(frozen=True)
class _Source:
    """What the command line names: a checkpoint or bundle, or a backbone and its weights.

    Raises:
        UsageError: it names both, or weights without a backbone.
    """

    folder: Path | None
    backbone: str | None
    pretrained: str | None

    def __post_init__(self) -> None:
        if self.backbone is not None and self.folder is not None:
            raise click.UsageError(
                f"Name either {self.folder} or --backbone {self.backbone} to export, not both."
            )
        if self.pretrained is not None and self.backbone is None:
            raise click.UsageError("--pretrained names the weights of --backbone: add --backbone.")

    @property
    def is_model(self) -> bool:
        """Whether it is a model to export, not a bundle to build engines of."""
        from ztcir_sdk.bundle.manifest import MANIFEST

        is_checkpoint = self.folder is not None and not (self.folder / MANIFEST).is_file()
        return self.backbone is not None or is_checkpoint

    def load(
        self, name: str | None, precisions: PrecisionChoice, *, small: bool
    ) -> tuple[ComposedModel | Backbone, BundleSettings]:
        """Load the model; return it with the settings of its bundle."""
        from export.bundle import BundleSettings
        from export.card import bare_card, model_card
        from export.vocabulary import checkpoint_vocabulary
        from train.model import BackboneConfig, create_backbone, load_model

        model: ComposedModel | Backbone
        vocabulary: list[str] | None = None
        methods: list[str] | None = None  # all that the graphs can answer
        if self.backbone is not None:
            model = create_backbone(BackboneConfig(self.backbone, self.pretrained))
            card, trained = bare_card(model), self.pretrained is not None
        else:
            assert self.folder is not None
            model, config = load_model(self.folder)
            card, trained = model_card(config), True
            vocabulary = checkpoint_vocabulary(config)
            if config["kind"] == "backbone":  # the other parts are not trained yet
                model = model.backbone
            elif config["kind"] == "map":
                methods = [method for method in METHODS if method != "composed"]
        settings = BundleSettings(
            name or card["backbone"]["model"],
            card,
            methods=methods,
            small=small,
            precisions=precisions.precision or ("fp32",),
            acceptance=precisions.acceptance(trained=trained),
            vocabulary=vocabulary,
        )
        return model, settings
