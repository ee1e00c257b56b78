"""What `adapt` is asked for, and the sizes that it chooses itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.settings import Compute
from train.stages.recipes import Recipe, load_recipe, recipe_names

__all__ = ["AdaptSettings", "choose_recipe"]

MIN_PHOTOS = 60
"""Fewer photos are not trained on: what a third of them says of the others is chance."""
HELD_OUT = 0.1  # share of the photos that select and measure
MIN_HELD_OUT, MAX_HELD_OUT = 300, 2000  # photos
MAX_HELD_OUT_SHARE = 0.3  # share of the photos that are held out, where they are few

_FALLBACK = "vit-b-32-openai"


@dataclass(frozen=True)
class AdaptSettings:
    """What a collection is adapted to, and how.

    Attributes:
        sources: folders, shards and tables, as `train.data.read_sources` takes them.
        backbone: the folder or the name of a bundle, a checkpoint of a backbone, or
            "NAME:PRETRAINED" of an open_clip model.
        out: folder of the bundle.
        work: folder of the run; an interrupted run resumes from it.
        words: word banks whose words are added to the built-in ones.
        minutes: time that the whole run may take; ``None``: as long as it needs.
        columns: field -> column of the tables.
        name: name of the bundle; by default that of its folder.
        recipe: name or file of a recipe; ``None``: that of the backbone.
        small: store the bundle's weights in fp16 and int8.
        overwrite: replace an existing bundle.
        sheet: PNG file of twenty held-out queries and their hits; ``None``: none.
        keep: keep the folder of the run when it is done.
        triplets: number of triplets at most.
        map_steps, compose_steps: steps of both stages, unless the time is too short.
        seed: random seed.
        compute: device and precision of the training.
    """

    sources: Sequence[str]
    backbone: str
    out: Path
    work: Path
    words: Sequence[Path] = ()
    minutes: float | None = None
    columns: Mapping[str, str] | None = None
    name: str | None = None
    recipe: str | None = None
    small: bool = False
    overwrite: bool = False
    sheet: Path | None = None
    keep: bool = False
    triplets: int = 20_000
    map_steps: int = 120
    compose_steps: int = 120
    seed: int = 0
    compute: Compute = field(default_factory=Compute)

    def held_out_share(self, count: int) -> float:
        """Return the share of ``count`` photos that select and measure."""
        wanted = min(max(HELD_OUT * count, MIN_HELD_OUT), MAX_HELD_OUT, MAX_HELD_OUT_SHARE * count)
        return wanted / count


def choose_recipe(model: str, name: str | None = None) -> Recipe:
    """Return the recipe of a model; where there is none, that of a ViT-B/32.

    Args:
        model: name of the open_clip model, or of a folder in ``train/configs``.
        name: a recipe to use in any case.
    """
    if name is not None:
        return load_recipe(name)
    if model in recipe_names():
        return load_recipe(model)
    for known in recipe_names():
        recipe = load_recipe(known)
        own = (recipe.backbone or "").partition(":")[0]
        if own and own.removesuffix("-quickgelu") == model.removesuffix("-quickgelu"):
            return recipe
    return load_recipe(_FALLBACK)
