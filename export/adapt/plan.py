"""How many photos and steps fit into the given time, and how long the rest will take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from export.adapt.clock import Progress
from export.adapt.settings import AdaptSettings
from train.data import TrainingImage
from train.loop.patches import encode_pixels
from train.model import Backbone
from train.settings import ComposeTraining, MapTraining
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["MIN_STEPS", "Plan", "make_plan", "photos_in_time"]

MIN_STEPS = 20
"""Fewer steps of a stage teach nothing."""
_ENCODING = 0.35  # share of the time in which photos are encoded at most
_MAP = 0.42  # share of the time left for training that is for Stage I
_BACKWARD = 3.0  # a step takes as long as so many forward passes
_LONGER = 2.0  # a composed prompt is about so much longer than a word of the bank
_PROBE = 32  # photos
_EXPORT = 0.15  # share of the time that is kept for measuring and exporting
_MIN_EXPORT = 45.0  # seconds
_CAREFUL = 0.75  # share of the estimated speed that is counted on


@dataclass(frozen=True)
class Plan:
    """The lengths of both stages, and what they are expected to take.

    Attributes:
        map_steps, compose_steps: steps of Stage I and II.
        map_seconds, compose_seconds: time of each, estimated by the time of a text.
        least_minutes: time in which the whole run has the fewest steps; 0 if any time was given.
    """

    map_steps: int
    compose_steps: int
    map_seconds: float
    compose_seconds: float
    least_minutes: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether the stages are long enough to teach anything."""
        return min(self.map_steps, self.compose_steps) >= MIN_STEPS

    def to_dict(self) -> dict[str, float]:
        """Return it as JSON values."""
        return asdict(self)


def export_seconds(progress: Progress) -> float:
    """Return the time to keep for measuring and exporting."""
    whole = 0.0 if progress.minutes is None else 60 * progress.minutes
    return max(_MIN_EXPORT, _EXPORT * whole)


def photos_in_time(
    photos: Sequence[TrainingImage],
    backbone: Backbone,
    settings: AdaptSettings,
    progress: Progress,
) -> list[TrainingImage]:
    """Return the photos that can be encoded in a part of the given time: all, or some by chance."""
    if progress.minutes is None:
        return list(photos)
    count = progress.recall("photos")
    if count is None:
        some = photos[:_PROBE]
        preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
        encode_pixels(backbone, preprocess([some[0].load()]))
        begun = time.monotonic()
        encode_pixels(backbone, preprocess([photo.load() for photo in some]))
        speed = len(some) / max(time.monotonic() - begun, 1e-6)
        count = min(len(photos), int(_ENCODING * max(progress.left, 0) * speed))
        progress.note("photos", count)
    if count < len(photos):
        progress.say(
            f"{count} of {len(photos)} photos, chosen at random, are used: more could not be "
            f"encoded within {progress.minutes:g} minutes. Give more --minutes to use all."
        )
    order = np.random.default_rng([settings.seed, 9]).permutation(len(photos))[:count]
    return [photos[place] for place in np.sort(order)]


def make_plan(
    settings: AdaptSettings,
    mapping: MapTraining,
    composing: ComposeTraining,
    photos: int,
    progress: Progress,
) -> Plan:
    """Return the lengths of both stages.

    Args:
        settings: the steps that are wanted.
        mapping, composing: hyperparameters of the stages.
        photos: number of photos to train on.
        progress: what the plan is stored in, and the time that is left; it knows the time to encode
            a text of the word bank.
    """
    known = progress.recall("plan")
    if known is not None:
        return Plan(**known)
    text_seconds = float(progress.recall("text_seconds"))
    one_map = _BACKWARD * min(mapping.batch_size, photos) * text_seconds
    one_compose = _BACKWARD * _LONGER * composing.batch_size * text_seconds
    steps = settings.map_steps, settings.compose_steps
    least_minutes = 0
    if progress.minutes is not None:
        left = max(0.0, _CAREFUL * (progress.left - export_seconds(progress)))
        steps = (
            min(steps[0], int(_MAP * left / one_map)),
            min(steps[1], int((1 - _MAP) * left / one_compose)),
        )
        longer = max(one_map / _MAP, one_compose / (1 - _MAP)) * MIN_STEPS / _CAREFUL
        # the share that is kept for the export grows with the time that is given
        least_minutes = math.ceil((progress.spent + _MIN_EXPORT + longer) / (60 * (1 - _EXPORT)))
    plan = Plan(*steps, steps[0] * one_map, steps[1] * one_compose, least_minutes)
    progress.note("plan", plan.to_dict())
    return plan
