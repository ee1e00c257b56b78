"""Options that both stages' trainings share: the recipe, and how it is computed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ztcir_sdk.names import TRAINING_PRECISIONS

if TYPE_CHECKING:
    from train.stages.recipes import Recipe

__all__ = ["FolderPath", "compute_options", "configuration_option"]

_OPTION_NAMES = {"token_learner_depth": "depth", "adapter_bottleneck": "adapter"}
"""Field of a recipe -> option of another name."""


class FolderPath(click.Path):
    """A folder that is there or can be made: no part of its path is a file."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Read the path; click itself looks at its last part alone."""
        path = Path(value)
        for parent in path.parents:
            if parent.is_file():
                self.fail(
                    f"{path} cannot be made, for {parent} is a file; name another.", param, ctx
                )
        return super().convert(value, param, ctx)


def configuration_option(stage: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --config, whose recipe takes the place of the other options' defaults.

    Args:
        stage: "map" or "compose": the section of the recipe.
    """

    def read(ctx: click.Context, parameter: click.Parameter, name: str | None) -> Recipe:
        from train.stages.recipes import Recipe, load_recipe

        if name is None:
            return Recipe()
        configuration = load_recipe(name)
        values = {**configuration.model, **getattr(configuration, stage)}
        if stage == "map" and configuration.backbone is not None:
            values["backbone"] = configuration.backbone
        defaults = {_OPTION_NAMES.get(key, key): value for key, value in values.items()}
        if values.get("vsi_layers") == []:
            defaults["vsi"] = False
        ctx.default_map = {**(ctx.default_map or {}), **defaults}
        return configuration

    return click.option(
        "--config",
        "configuration",
        is_eager=True,
        callback=read,
        metavar="NAME",
        help="A recipe of train/configs, such as vit-b-32-openai, or a JSON file of that form; "
        "options that are given override it.",
    )


def compute_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how a run is computed, which the command gets as ``compute``, and what it keeps."""

    @functools.wraps(command)
    def computed(
        *args: Any,
        precision: str,
        micro_batches: int,
        checkpointing: bool,
        compile_model: bool,
        device: str,
        **others: Any,
    ) -> Any:
        from train.settings import Compute

        compute = Compute(precision, micro_batches, checkpointing, compile_model, device)
        return command(*args, compute=compute, **others)

    options = (
        click.option(
            "--precision",
            type=click.Choice(TRAINING_PRECISIONS),
            default="bf16",
            show_default=True,
            help="Of matrix products; weights stay fp32.",
        ),
        click.option(
            "--micro-batches",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Pieces that a batch is encoded in, for less memory; the loss stays the batch's.",
        ),
        click.option(
            "--checkpointing/--no-checkpointing",
            default=False,
            show_default=True,
            help="Compute text layers again in the backward pass, for less memory.",
        ),
        click.option(
            "--compile/--no-compile",
            "compile_model",
            default=False,
            show_default=True,
            help="Put the text encoder through torch.compile.",
        ),
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
        ),
        click.option(
            "--patches/--no-patches",
            default=None,
            help="Keep patch features on disk, or compute them for each batch; default: keep them "
            "where the disk has room.",
        ),
        click.option(
            "--tensorboard/--no-tensorboard",
            default=None,
            help="Write TensorBoard's events; default: where it is installed.",
        ),
    )
    for option in reversed(options):
        computed = option(computed)
    return computed
