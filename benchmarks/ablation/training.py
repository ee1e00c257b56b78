"""Trains the rows' models, each once: rows with the same Stage I share its run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from benchmarks.ablation.fit_rival import fit_rival
from benchmarks.ablation.rivals import RIVALS
from benchmarks.ablation.rows import Row, Settings
from benchmarks.ablation.validation import Scores, Validation
from export.adapt.pictures import Pictures, see, word_bank, words_checksum
from export.default import Recipe
from train.data.image import TrainingImage
from train.data.item import Item
from train.loop.record import data_fingerprint
from train.model import (
    Backbone,
    ComposedModel,
    ModelConfig,
    hash_tensors,
    load_backbone,
    load_model,
)
from train.settings import ComposeTraining, Compute, MapTraining, StageSettings, described
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.tags import default_groups
from train.triplets.from_attributes import write_triplets
from train.triplets.from_captions import mine_captions
from train.triplets.stage_two import DEVELOPMENT_TRIPLETS, StageTwoData, stage_two_data
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets


@dataclass
class Workshop:
    """Data, backbone and folders of an ablation.

    Attributes:
        backbone: backbone, as `load_backbone` takes it.
        images: training images of all rows.
        development: images that select Stage II's checkpoint.
        settings: settings of all rows.
        folder: folder of runs.
        features: cache of image features.
        recipe: configurations that rows change.
        compute: device and precision.
        keep: whether to keep Stage II's checkpoints after measuring them.
    """

    backbone: str
    images: Sequence[TrainingImage]
    development: Sequence[TrainingImage]
    settings: Settings
    folder: Path
    features: Path
    recipe: Recipe = field(default_factory=Recipe)
    compute: Compute = field(default_factory=Compute)
    keep: bool = False

    @cached_property
    def frozen(self) -> Backbone:
        """Return the backbone, for measuring."""
        return load_backbone(self.backbone)[0]

    @cached_property
    def _stage_two_data(self) -> Callable[..., StageTwoData]:
        """Return `stage_two_data` for the images; rows share its results."""
        return cache(partial(stage_two_data, self.images, self.development))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Return what every result depends on beside its row and the settings."""
        digest = hashlib.sha256()
        hash_tensors(digest, self.frozen.clip.state_dict().items())
        return {
            "backbone": digest.hexdigest()[:16],
            "training": data_fingerprint(self.images)["sha256"][:16],
            "development": data_fingerprint(self.development)["sha256"][:16],
        }

    @cached_property
    def _hidden(self) -> Pictures:
        """Return the photos with hidden captions and attributes, tagged as `ztcir adapt` does."""
        parts = [
            [_without_texts(image) for image in some if not image.is_drawing]
            for some in (self.images, self.development)
        ]
        return see(self.frozen, parts, default_groups(), self.features)

    def _images(self, row: Row) -> tuple[Sequence[TrainingImage], Sequence[TrainingImage]]:
        """Return the images that a row trains on, and those that select."""
        if row.source == "tags":
            return self._hidden.training.images, self._hidden.held_out.images
        return self.images, self.development

    def parts(self, row: Row) -> ModelConfig:
        """Return a row's model parts."""
        changes: dict[str, Any] = {} if row.vsi else {"vsi_layers": ()}
        return replace(self.recipe.parts, **changes, **dict(row.part_changes))

    def mapping(self, row: Row, seed: int) -> MapTraining:
        """Return a row's configuration of Stage I, or of a rival."""
        changes: dict[str, Any] = {} if row.alignment else {"alignment": 0.0}
        return replace(self.recipe.mapping, seed=seed, **changes, **dict(row.map_changes))

    def composing(self, row: Row, seed: int) -> ComposeTraining:
        """Return a row's configuration of Stage II."""
        changes: dict[str, Any] = {} if row.mined else {"mined": 0}
        return replace(self.recipe.composing, seed=seed, **changes, **dict(row.compose_changes))

    def identity(self, row: Row, seed: int) -> dict[str, Any]:
        """Return all that a row's result depends on, except the queries, as JSON values."""
        values: dict[str, Any] = {"stage": row.stage, **self.fingerprints}
        if row.stage == "frozen":
            return {**values, "drawings": None}
        settings = asdict(self.settings)
        inversion = {name: settings.pop(name) for name in ("inverted", "inversion_steps")}
        values |= {
            "mapping": described(self.mapping(row, seed)),
            "map_steps": self._map_steps(row),
        }
        if row.stage == "rival":
            steps = {"rival": row.rival, "compose_steps": settings["compose_steps"]}
            return {**values, **steps, **(inversion if row.rival == "searle" else {})}
        if row.source == "tags":
            values["words"] = words_checksum(default_groups())
        values["parts"] = described(self.parts(row))
        if row.storage != StageSettings.patch_storage:
            values["storage"] = row.storage
        if row.stage == "map":
            return values
        noise = settings["noise"] if row.noisy else 0.0
        data = {"source": row.source, "triplets": self._count(row), "noise": noise}
        if row.requests:
            data["requests"] = row.requests
        steps = {"compose_steps": settings["compose_steps"]}
        return {**values, "composing": described(self.composing(row, seed)), **steps, **data}

    def _map_steps(self, row: Row) -> int:
        """Return the steps of a row's Stage I."""
        settings = self.settings
        return settings.map_steps + (settings.compose_steps if row.longer else 0)

    def measure(self, row: Row, seed: int, validation: Validation) -> dict[str, Scores]:
        """Train a row with a seed, or resume its training; return scores by row of the table."""
        if row.stage == "frozen":
            model = ComposedModel(self.frozen, ModelConfig(vsi_layers=(), adapter_bottleneck=0))
            return validation.frozen(model.eval())
        if row.stage == "rival":
            folder = self._folder("rival", row, seed)
            model = self._fit_rival(row, seed, folder)
            prompt = RIVALS[row.rival].prompt
            scores = validation.composed(model, prompt=prompt, scale=0.0)
            scores |= validation.own_image(model)
        elif row.stage == "map":
            model, _ = load_model(self._fit_map(row, seed), need="map")
            scores = validation.composed(model, scale=0.0) | validation.own_image(model)
            return {row.name: scores}
        else:
            folder = self._folder("compose", row, seed)
            count = self._fit_compose(row, seed, folder)
            model, _ = load_model(folder, need="compose")
            scores = {**validation.composed(model), "triplets": float(count)}
        if not self.keep:
            shutil.rmtree(folder)
        return {row.name: scores}

    def _folder(self, stage: str, row: Row, seed: int) -> Path:
        """Return the folder of a row's run of a stage; rows with equal runs share it."""
        identity = self.identity(replace(row, stage=stage), seed)
        text = json.dumps(identity, sort_keys=True)
        return self.folder / stage / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _fit_map(self, row: Row, seed: int) -> Path:
        folder = self._folder("map", row, seed)
        fit_map(
            self.backbone,
            *self._images(row),
            self.mapping(row, seed),
            self.parts(row),
            self._stage_settings(folder, self._map_steps(row), row.storage),
            word_bank=word_bank(default_groups()) if row.source == "tags" else None,
        )
        return folder

    def _stage_settings(
        self, folder: Path, steps: int | None = None, storage: str = StageSettings.patch_storage
    ) -> StageSettings:
        return StageSettings(
            folder, self.features, compute=self.compute, steps=steps, patch_storage=storage
        )

    def _fit_compose(self, row: Row, seed: int, folder: Path) -> int:
        mapped = self._fit_map(row, seed)
        data = self.triplets(row, seed)
        config = self.composing(row, seed)
        fit_compose(
            mapped,
            self._images(row)[0],
            replace(data, triplets=repeated(data.triplets, config.batch_size), unseen_wordings=[]),
            config,
            self._stage_settings(folder, self.settings.compose_steps, row.storage),
        )
        return len(data.triplets)

    def _fit_rival(self, row: Row, seed: int, folder: Path) -> ComposedModel:
        stage, texts = self._stage_settings(folder), self.folder / "texts"
        config = self.mapping(row, seed)
        return fit_rival(row.rival, self.backbone, self.images, config, self.settings, stage, texts)

    def _count(self, row: Row) -> int:
        everything = self.settings.triplets
        return everything if row.triplets is None else min(row.triplets, everything)

    def triplets(self, row: Row, seed: int) -> StageTwoData:
        """Return a row's data for Stage II; all rows have the same development triplets."""
        noise = self.settings.noise if row.noisy else 0.0
        count = self._count(row)
        if row.source == "tags":
            return self._tag_triplets(count, seed)
        made = 2 if row.source == "captions" else count
        data = self._stage_two_data(count=made, seed=seed, noise=noise, requests=row.requests)
        if row.source == "attributes":
            return data
        name = f"captions-{self.fingerprints['training']}-{count}-{noise:g}-{seed}.jsonl"
        path = self.folder / "triplets" / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            mined = caption_triplets(self.images, count=count, seed=seed, noise=noise)
            write_triplets(path, mined)
        return replace(data, triplets=read_triplets(path))

    def _tag_triplets(self, count: int, seed: int) -> StageTwoData:
        """Return triplets from tags, to train on and to select by."""
        held_out = self._hidden.held_out
        return StageTwoData(
            self._hidden.training.triplets(count, seed=seed),
            held_out.images,
            held_out.triplets(DEVELOPMENT_TRIPLETS, seed=1),
            [],
        )


def _without_texts(image: TrainingImage) -> TrainingImage:
    item = Item(image.item.id, gender="", type="", colour="", pattern=None, caption="")
    return replace(image, item=item)


def caption_triplets(
    images: Sequence[TrainingImage], *, count: int, seed: int, noise: float
) -> list[Triplet]:
    """Return triplets from captions; photos and drawings are never in the same triplet.

    Near-duplicates are detected among photos only: drawings would have to be drawn for it.
    """
    triplets: list[Triplet] = []
    for drawn in (False, True):
        some = [image for image in images if image.is_drawing == drawn]
        share = round(count * len(some) / len(images))
        if share:
            pictures = {} if drawn else {image.item.id: image.load for image in some}
            items = [image.item for image in some]
            found, _ = mine_captions(items, seed=seed, limit=share, noise=noise, pictures=pictures)
            triplets += found
    return triplets


def repeated(triplets: Sequence[Triplet], batch: int) -> list[Triplet]:
    """Repeat a set smaller than a batch until it fills one, so that all rows have equal batches."""
    return list(triplets) * max(1, -(-batch // len(triplets)))
