"""Options of `ztcir train` for its runs, grouped into the objects that its commands work with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Decorator, in_section, output_option, pass_as
from train.settings import (
    BackboneTraining,
    ComposeTraining,
    Compute,
    MapTraining,
    ModelConfig,
    RunSettings,
    StageSettings,
    parse_patches,
)
from ztcir_sdk.names import TRAINING_PRECISIONS

if TYPE_CHECKING:
    from train.stages.recipes import Recipe

OPTION_NAMES = {
    "token_learner_depth": "depth",
    "adapter_bottleneck": "adapter",
    "combiner_width": "combiner",
}
"""Field of a recipe -> the option that sets it, if it has another name."""

COUNT = click.IntRange(min=1)
NATURAL = click.IntRange(min=0)
SHARE = click.FloatRange(0, 1)
WEIGHT = click.FloatRange(min=0)
DECAY = click.FloatRange(0, 1, max_open=True)
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


_training = in_section("Training options", show_default=True)
_model = in_section("Model options", show_default=True)
_compute = in_section("Compute options", show_default=True)
_record = in_section("Cache and log options", show_default=True)


def _number(
    settings: type[Any],
    field: str,
    kind: click.IntRange | click.FloatRange,
    text: str,
    option: Callable[..., Decorator] = _training,
) -> Decorator:
    """Return the option of a field, with the field's default."""
    return option(
        f"--{OPTION_NAMES.get(field, field).replace('_', '-')}",
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


backbone_training = pass_as(
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
    _number(BackboneTraining, "attributes", WEIGHT, "Weight of the attribute classification."),
    _number(BackboneTraining, "foreign", SHARE, "Share of descriptions in other languages."),
    _number(BackboneTraining, "misspelt", SHARE, "Share of descriptions with a typing error."),
    _training("--train-tokens", is_flag=True, help="Train the token rows of --start too."),
    _training(
        "--word-vectors",
        type=click.Choice(["minilm", "none"]),
        default=BackboneTraining.word_vectors,
        help="Initial token embeddings: from a packaged sentence encoder, or random.",
    ),
)


def _optimisation(training: type[Any]) -> list[Decorator]:
    """Return the options of averaging and clipping, which both stages have."""
    return [
        _number(
            training,
            "ema",
            DECAY,
            "Decay of a moving average of the weights, such as 0.999, that is kept; 0: none.",
        ),
        _number(training, "clip", WEIGHT, "Norm that gradients are clipped to; 0: none."),
    ]


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
        metavar="NAME|FILE",
        help="Recipe with the defaults of these options: a name in train/configs, such as "
        "vit-b-32-openai, or a JSON file.",
    )


def _map_arguments(
    recipe: Recipe,
    tokens: int,
    depth: int,
    vsi: bool,
    adapter: int,
    combiner: int,
    combiner_captions: int,
    **values: Any,
) -> dict[str, Any]:
    parts = recipe.parts(
        tokens=tokens,
        token_learner_depth=depth,
        vsi_layers=recipe.model.get("vsi_layers") if vsi else (),
        adapter_bottleneck=adapter,
        combiner_width=combiner,
        combiner_captions=combiner_captions,
    )
    return {"config": recipe.mapping(**values), "parts": parts}


map_training = pass_as(
    _map_arguments,
    _recipe_option("map"),
    *_schedule(MapTraining, "images"),
    _number(MapTraining, "lr", POSITIVE, "Peak learning rate."),
    _number(MapTraining, "alignment", WEIGHT, "Weight of the soft text alignment loss; 0: none."),
    _number(
        MapTraining,
        "self_masking",
        WEIGHT,
        "Weight of self-masking projection of captions (LinCIR); 0: none.",
    ),
    _number(
        MapTraining,
        "anchored",
        WEIGHT,
        "Weight of text-anchored triplets, made of edited captions; 0: none.",
    ),
    _number(
        MapTraining,
        "diversity",
        WEIGHT,
        "Weight that keeps several pseudo-words of an image apart; needs --tokens 2 or more.",
    ),
    *_optimisation(MapTraining),
    _number(ModelConfig, "tokens", COUNT, "Number of pseudo-words per image.", _model),
    _number(
        ModelConfig,
        "token_learner_depth",
        NATURAL,
        "Number of token learner blocks; 0: a projection of the embedding.",
        _model,
    ),
    _model(
        "--vsi/--no-vsi", default=ModelConfig.vsi_layers != (), help="Visual semantic injection."
    ),
    _number(
        ModelConfig,
        "adapter_bottleneck",
        NATURAL,
        "Inner width of the adapters that Stage II trains; 0: no adapters.",
        _model,
    ),
    _number(
        ModelConfig,
        "combiner_width",
        NATURAL,
        "Inner width of the combiner that Stage II trains; 0: no combiner.",
        _model,
    ),
    _number(
        ModelConfig,
        "combiner_captions",
        NATURAL,
        "Number of captions that the combiner keeps; 0: none.",
        _model,
    ),
)

compose_training = pass_as(
    lambda recipe, **values: {
        "config": recipe.composing(**values),
        "recipe_backbone": recipe.backbone,
    },
    _recipe_option("compose"),
    *_schedule(ComposeTraining, "triplets"),
    _number(ComposeTraining, "lr", POSITIVE, "Peak learning rate."),
    _number(ComposeTraining, "mined", NATURAL, "Number of hard negatives per query; 0: none."),
    _number(
        ComposeTraining,
        "positive_aware",
        SHARE,
        "Share of the target's score above which an image is not mined as a negative; 0: none.",
    ),
    _number(
        ComposeTraining,
        "mine_every",
        COUNT,
        "Steps between two searches of all images for hard negatives, if they are many.",
    ),
    *_optimisation(ComposeTraining),
    _number(ComposeTraining, "captions", WEIGHT, "Weight of the loss on the targets' captions."),
    _number(
        ComposeTraining,
        "combiner_lr",
        POSITIVE,
        "Peak learning rate of the combiner, if Stage I was given one.",
    ),
    _number(
        ComposeTraining,
        "mapping_lr",
        WEIGHT,
        "Peak learning rate of the token learner and VSI; 0: they stay as they are.",
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
    return pass_as(
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
    patches: str | None,
    no_patches: bool,
    **values: Any,
) -> dict[str, Any]:
    compute = Compute(precision, micro_batches, checkpointing, compile_model, device)
    if patches is not None and no_patches:
        raise click.UsageError("--patches and --no-patches exclude each other.")
    grid, storage = parse_patches(patches) if patches else (None, StageSettings.patch_storage)
    kept = False if no_patches else None if patches is None else True
    return {
        "settings": StageSettings(
            compute=compute, patches=kept, patch_grid=grid, patch_storage=storage, **values
        )
    }


def stage_settings(out: str) -> Decorator:
    """Add the options for a run of Stage I or II; pass them as `settings`, a `StageSettings`."""
    return pass_as(
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
            "--patches",
            is_flag=False,
            flag_value="",
            metavar="[HxW][:int8]",
            help="Cache patch features; 8x8 pools them, in the model too, and int8 stores them in "
            "half the space; default: cache all if the disk has room.",
        ),
        _record("--no-patches", is_flag=True, help="Compute patch features for each batch."),
        _record(
            "--tensorboard/--no-tensorboard",
            default=None,
            help="Write TensorBoard events; default: if TensorBoard is installed.",
        ),
    )
