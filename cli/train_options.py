"""Options of `ztcir train`, grouped into the objects that its commands work with."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Decorator, SectionOption, add_options, output_option
from cli.triplets import parse_columns
from train.settings import (
    BackboneTraining,
    ComposeTraining,
    Compute,
    MapTraining,
    ModelConfig,
    RunSettings,
    StageSettings,
)
from ztcir_sdk.names import TRAINING_PRECISIONS

if TYPE_CHECKING:
    from train.data import ShardStream, TrainingImage
    from train.stages.recipes import Recipe
    from train.triplets import StageTwoData

__all__ = [
    "Collection",
    "FolderPath",
    "TripletOptions",
    "backbone_training",
    "collection_options",
    "compose_training",
    "map_training",
    "run_settings",
    "stage_settings",
    "triplet_options",
]

HELD_OUT = 1000
"""Images of a stream that select the best checkpoint."""

OPTION_NAMES = {"token_learner_depth": "depth", "adapter_bottleneck": "adapter"}
"""Field of a recipe -> the option that sets it, if it has another name."""

COUNT = click.IntRange(min=1)
NATURAL = click.IntRange(min=0)
SHARE = click.FloatRange(0, 1)
WEIGHT = click.FloatRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)


class FolderPath(click.Path):
    """A folder that exists or can be created: no part of its path is a file."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path; click itself checks only its last part."""
        path = Path(value)
        for parent in path.parents:
            if parent.is_file():
                self.fail(
                    f"{path} cannot be created, because {parent} is a file; choose another.",
                    param,
                    ctx,
                )
        return super().convert(value, param, ctx)


FOLDER = FolderPath(file_okay=False, path_type=Path)


def _pass_as(build: Callable[..., Mapping[str, Any]], *options: Decorator) -> Decorator:
    """Return a decorator that adds options, and passes objects made of their values instead.

    Args:
        build: takes the options' values by name; returns the command's arguments.
        options: decorators of the options, in the order of `--help`.
    """
    listed = click.command("options")(add_options(*options)(lambda: None))
    names = [str(option.name) for option in listed.params]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(*args: Any, **values: Any) -> Any:
            own = {name: values.pop(name) for name in names}
            return command(*args, **build(**own), **values)

        return add_options(*options)(called)

    return decorate


def _in_section(section: str) -> Callable[..., Decorator]:
    return functools.partial(
        click.option, cls=SectionOption, section=f"{section} options", show_default=True
    )


_training = _in_section("Training")
_model = _in_section("Model")
_triplets = _in_section("Triplet")
_compute = _in_section("Compute")
_record = _in_section("Cache and log")


@dataclass(frozen=True)
class Collection:
    """The training data that is named on the command line."""

    data: tuple[str, ...]
    columns: dict[str, str] | None
    drawings: int
    stream: bool = False

    def read(self, *, streamed: bool = False) -> tuple[list[TrainingImage], list[TrainingImage]]:
        """List training and development images; ``streamed`` holds out those of `read_stream`."""
        from train.data import read_collection

        return read_collection(
            self.data, drawings=self.drawings, columns=self.columns, streamed=streamed
        )

    def read_stream(self, seed: int) -> tuple[ShardStream, list[TrainingImage]]:
        """Return the training images as a stream, and a list of development images."""
        from train.data import ShardStream, read_held_out, stream_shards

        if self.drawings or self.columns:
            raise click.UsageError("--drawings and --columns cannot be used with --stream.")
        shards = stream_shards(self.data)
        return ShardStream(shards, seed=seed), read_held_out(shards, HELD_OUT)


_COLLECTION = (
    click.option(
        "--data",
        required=True,
        multiple=True,
        metavar="SOURCE",
        help="Training images: webdataset shards, a folder, or a CSV, TSV or Parquet file of paths "
        "and captions; also as a pattern, such as cc3m/{00000..00331}.tar or *.tar. Repeatable.",
    ),
    click.option(
        "--columns",
        callback=parse_columns,
        metavar="FIELD=COLUMN,...",
        help="Columns of a table's fields, if they have unusual names, such as "
        "path=file,caption=text,colour=shade,root=photos/.",
    ),
    click.option(
        "--drawings",
        type=NATURAL,
        default=0,
        show_default=True,
        metavar="N",
        help="Number of code-drawn images to add.",
    ),
)
_STREAM = click.option(
    "--stream",
    is_flag=True,
    help="Read the shards as a shuffled stream, without listing images or caching features: for "
    "more images than a list can hold, and for shards behind https:// or pipe:. Needs --steps.",
)


def collection_options(*, stream: bool = False) -> Decorator:
    """Add the options for the training data; pass them as `collection`."""
    options = (*_COLLECTION, _STREAM) if stream else _COLLECTION
    return _pass_as(lambda **values: {"collection": Collection(**values)}, *options)


def _number(
    settings: type[Any],
    field: str,
    kind: click.IntRange | click.FloatRange,
    text: str,
    option: Callable[..., Decorator] = _training,
) -> Decorator:
    """Return the option of a field, with the field's default."""
    return option(
        f"--{field.replace('_', '-')}",
        type=kind,
        default=getattr(settings, field),
        metavar="N" if isinstance(kind, click.IntRange) else "X",
        help=text,
    )


def _schedule(training: type[Any], samples: str) -> list[Decorator]:
    """Return the options that all stages have."""
    return [
        _number(training, "epochs", COUNT, f"Passes over the {samples}."),
        _number(training, "batch_size", COUNT, f"Number of {samples} per step."),
        _number(training, "seed", NATURAL, "Random seed."),
    ]


backbone_training = _pass_as(
    lambda **values: {"config": BackboneTraining(**values)},
    click.option(
        "--start",
        metavar="CHECKPOINT",
        help="Backbone to continue from, such as runs/backbone/clip; default: ImageNet's weights.",
    ),
    *_schedule(BackboneTraining, "images"),
    _number(BackboneTraining, "image_lr", POSITIVE, "Peak learning rate of the image tower."),
    _number(BackboneTraining, "text_lr", POSITIVE, "Peak learning rate of all other weights."),
    _number(
        BackboneTraining,
        "caption_share",
        SHARE,
        "Share of texts that are captions; the others describe attributes.",
    ),
    _number(BackboneTraining, "instances", WEIGHT, "Weight of the instance-discrimination loss."),
    _number(BackboneTraining, "instance_temperature", POSITIVE, "Temperature of that loss."),
    _training(
        "--word-vectors",
        type=click.Choice(["minilm", "none"]),
        default=BackboneTraining.word_vectors,
        help="Initial token embeddings: from a packaged sentence encoder, or random.",
    ),
)


def _recipe_option(stage: str) -> Decorator:
    """Return --config, whose recipe for a stage replaces the defaults of the other options."""

    def read(ctx: click.Context, parameter: click.Parameter, name: str | None) -> Recipe:
        from train.stages.recipes import Recipe, load_recipe

        if name is None:
            return Recipe()
        recipe = load_recipe(name)
        values = {**recipe.model, **getattr(recipe, stage)}
        if stage == "map" and recipe.backbone is not None:
            values["backbone"] = recipe.backbone
        if values.get("vsi_layers") == []:
            values["vsi"] = False
        defaults = {OPTION_NAMES.get(key, key): value for key, value in values.items()}
        ctx.default_map = {**(ctx.default_map or {}), **defaults}
        return recipe

    return click.option(
        "--config",
        "recipe",
        is_eager=True,
        callback=read,
        metavar="NAME",
        help="Recipe with the defaults of these options: a name in train/configs, such as "
        "vit-b-32-openai, or a JSON file.",
    )


def _map_arguments(
    recipe: Recipe, tokens: int, depth: int, vsi: bool, adapter: int, **values: Any
) -> dict[str, Any]:
    parts = recipe.parts(
        tokens=tokens,
        token_learner_depth=depth,
        vsi_layers=recipe.model.get("vsi_layers") if vsi else (),
        adapter_bottleneck=adapter,
    )
    return {"config": recipe.mapping(**values), "parts": parts}


map_training = _pass_as(
    _map_arguments,
    _recipe_option("map"),
    *_schedule(MapTraining, "images"),
    _number(MapTraining, "lr", POSITIVE, "Peak learning rate."),
    _number(MapTraining, "alignment", WEIGHT, "Weight of the soft text alignment loss; 0: none."),
    _number(ModelConfig, "tokens", COUNT, "Number of pseudo-words per image.", _model),
    _model(
        "--depth",
        type=NATURAL,
        default=1,
        metavar="N",
        help="Number of token learner blocks; 0: a projection of the embedding.",
    ),
    _model("--vsi/--no-vsi", default=True, help="Visual semantic injection."),
    _model(
        "--adapter",
        type=NATURAL,
        default=ModelConfig.adapter_bottleneck,
        metavar="N",
        help="Inner width of the adapters that Stage II trains; 0: no adapters.",
    ),
)

compose_training = _pass_as(
    lambda recipe, **values: {
        "config": recipe.composing(**values),
        "recipe_backbone": recipe.backbone,
    },
    _recipe_option("compose"),
    *_schedule(ComposeTraining, "triplets"),
    _number(ComposeTraining, "lr", POSITIVE, "Peak learning rate."),
    _number(ComposeTraining, "mined", NATURAL, "Number of hard negatives per query; 0: none."),
)


@dataclass(frozen=True)
class TripletOptions:
    """The triplets of Stage II that are named on the command line, or how to make some."""

    triplets: tuple[Path, ...]
    triplet_columns: dict[str, str] | None
    skip_missing: bool
    count: int
    noise: float

    def read(
        self, images: list[TrainingImage], development: list[TrainingImage], *, seed: int
    ) -> StageTwoData:
        """Read or make the triplets of a collection."""
        from train.triplets import read_training_triplets, stage_two_data

        given = [
            triplet
            for path in self.triplets
            for triplet in read_training_triplets(path, columns=self.triplet_columns)
        ]
        return stage_two_data(
            images,
            development,
            given if self.triplets else None,
            count=self.count,
            seed=seed,
            noise=self.noise,
            skip_missing=self.skip_missing,
        )


triplet_options = _pass_as(
    lambda **values: {"triplets": TripletOptions(**values)},
    _triplets(
        "--triplets",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Triplets to train on: JSONL of `ztcir triplets` or of reference, text and target; "
        "the training file of FashionIQ, CIRR or LaSCo; or a CSV or Parquet file. Repeatable. "
        "Default: triplets made from the images' attributes.",
    ),
    _triplets(
        "--triplet-columns",
        callback=parse_columns,
        metavar="FIELD=COLUMN,...",
        help="Fields or columns of a triplet, if they have unusual names, such as "
        "reference=query,text=caption,target=answer.",
    ),
    _triplets("--skip-missing", is_flag=True, help="Leave out triplets with missing images."),
    _triplets(
        "--count", type=COUNT, default=80000, metavar="N", help="Number of triplets to make."
    ),
    _triplets(
        "--noise",
        type=SHARE,
        default=0.0,
        metavar="SHARE",
        help="Share of the made triplets with a wrong target.",
    ),
)


def _out_option(out: str) -> Decorator:
    return output_option(
        "--out",
        "out",
        type=FOLDER,
        default=out,
        show_default=True,
        metavar="FOLDER",
        help="Folder of the run; if it holds an interrupted run, that run resumes.",
    )


def _cache_option(what: str) -> Decorator:
    return _record(
        "--cache",
        type=FOLDER,
        metavar="FOLDER",
        help=f"Folder of {what}, which runs can share; default: `cache` in the run's folder.",
    )


def run_settings(out: str) -> Decorator:
    """Add the options for a run's folders; pass them as `settings`, a `RunSettings`."""
    return _pass_as(
        lambda **values: {"settings": RunSettings(**values)},
        _out_option(out),
        _cache_option("the frozen layers' output"),
    )


def _stage_settings(
    precision: str,
    micro_batches: int,
    checkpointing: bool,
    compile_model: bool,
    device: str,
    **values: Any,
) -> dict[str, Any]:
    compute = Compute(precision, micro_batches, checkpointing, compile_model, device)
    return {"settings": StageSettings(compute=compute, **values)}


def stage_settings(out: str) -> Decorator:
    """Add the options for a run of Stage I or II; pass them as `settings`, a `StageSettings`."""
    return _pass_as(
        _stage_settings,
        _out_option(out),
        _training(
            "--steps",
            type=COUNT,
            metavar="N",
            help="Length of the run in steps, instead of --epochs; evaluates up to four times.",
        ),
        _compute(
            "--device", default=Compute.device, metavar="NAME", help="auto, cpu, cuda or cuda:N."
        ),
        _compute(
            "--precision",
            type=click.Choice(TRAINING_PRECISIONS),
            default=Compute.precision,
            help="Mixed-precision type; weights stay fp32.",
        ),
        _number(
            Compute,
            "micro_batches",
            COUNT,
            "Pieces in which a batch is encoded, to save memory; the loss is the whole batch's.",
            _compute,
        ),
        _compute(
            "--checkpointing/--no-checkpointing",
            default=Compute.checkpointing,
            help="Recompute text layers in the backward pass, to save memory.",
        ),
        _compute(
            "--compile/--no-compile",
            "compile_model",
            default=Compute.compile,
            help="Compile the text encoder with torch.compile.",
        ),
        _cache_option("frozen features"),
        _record(
            "--patches/--no-patches",
            default=None,
            help="Cache patch features, or compute them for each batch; default: cache them if the "
            "disk has room.",
        ),
        _record(
            "--tensorboard/--no-tensorboard",
            default=None,
            help="Write TensorBoard events; default: if TensorBoard is installed.",
        ),
    )
