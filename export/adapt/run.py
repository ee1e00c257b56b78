"""From photos and a backbone to a bundle that composes them with words, or says that it cannot."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.adapt.backbones import Source, find_backbone
from export.adapt.bundle import write_composed, write_sum
from export.adapt.clock import Progress, Say, duration
from export.adapt.measure import Gains, measure
from export.adapt.pictures import Pictures, hold_out, read_bank, see, word_bank, words_checksum
from export.adapt.plan import MIN_STEPS, Plan, export_seconds, make_plan, photos_in_time
from export.adapt.settings import MIN_PHOTOS, AdaptSettings, choose_recipe
from export.adapt.sheet import draw_sheet
from train.data import DataError, TrainingImage, print_notes, read_sources
from train.loop.engine import Engine
from train.loop.record import data_fingerprint
from train.model import Backbone, load_model
from train.settings import StageSettings
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.tags import WordGroup
from train.triplets import StageTwoData, write_triplets
from ztcir_sdk.bundle import Bundle, check_target
from ztcir_sdk.errors import UsageError, disk_full_as_error
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets
from ztcir_sdk.names import DEFAULT_WEIGHT

__all__ = ["Adaptation", "adapt"]

PHASES = 6
MIN_TRIPLETS = 50
"""Fewer triplets are not trained on."""
MIN_HELD_OUT_TRIPLETS = 30
"""Fewer held-out triplets neither select nor measure."""
MIN_REFERENCES = 20
"""Triplets of fewer photos are not trained on: they are few pairs in many wordings."""
MIN_HELD_OUT_REFERENCES = 8
"""Triplets of fewer photos neither select nor measure."""
_HELD_OUT_TRIPLETS = 1000  # in each kind of wordings


@dataclass(frozen=True)
class Adaptation:
    """The outcome of `adapt`.

    Attributes:
        bundle: the bundle.
        answers: the method that it answers with, "composed" or "sum".
        why: a sentence on why it does.
        gains: scores on held-out triplets; ``None`` if nothing could be measured.
        photos: number of photos used.
        triplets: kind -> number of triplets that were trained on.
        seconds: time of all processes.
        sheet: the sheet of held-out queries; ``None`` if none was drawn.
    """

    bundle: Bundle
    answers: str
    why: str
    gains: Gains | None
    photos: int
    triplets: dict[str, int]
    seconds: float
    sheet: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "bundle": str(self.bundle.path),
            "name": self.bundle.name,
            "answers": self.answers,
            "why": self.why,
            "gains": None if self.gains is None else self.gains.to_dict(),
            "photos": self.photos,
            "triplets": self.triplets,
            "seconds": round(self.seconds, 1),
            "sheet": None if self.sheet is None else str(self.sheet),
        }


@dataclass(frozen=True)
class _Triplets:
    training: list[Triplet]
    selecting: list[Triplet]
    measuring: list[Triplet]

    def problem(self, pictures: Pictures) -> str:
        """Return why these triplets do not suffice; empty if they do."""
        parts = (self.training, self.selecting, self.measuring)
        photos, selecting, measuring = (_references(part) for part in parts)
        held_out = min(len(self.selecting), len(self.measuring))
        enough = len(self.training) >= MIN_TRIPLETS and held_out >= MIN_HELD_OUT_TRIPLETS
        if (
            enough
            and photos >= MIN_REFERENCES
            and min(selecting, measuring) >= MIN_HELD_OUT_REFERENCES
        ):
            return ""
        if pictures.training.described.all():
            return "The captions and attributes of these photos differ in no usable way"
        if not pictures.tags.groups:
            reasons = "; ".join(f"{kind}: {why}" for kind, why in pictures.tags.silent.items())
            return f"No tag tells these photos apart ({reasons})"
        return (
            f"Only {photos} photos to train on and {selecting + measuring} held-out ones have a "
            f"near photo that differs in a tag, and {MIN_REFERENCES} and "
            f"{2 * MIN_HELD_OUT_REFERENCES} are needed; more photos or captions help"
        )


def adapt(settings: AdaptSettings, say: Say) -> Adaptation:
    """Adapt a backbone to a collection; the bundle answers composed queries if that is better.

    It encodes the photos once, tags them, makes triplets, trains both stages, measures on held-out
    triplets and exports. A killed run resumes when it is repeated.

    Args:
        settings: what is adapted to what.
        say: receives sentences about the progress.

    Raises:
        UsageError: the target exists, or several processes were started.
        DataError: there is no usable photo, or a word bank cannot be read.
        ZtcirError: the backbone cannot be used, the folder of the run holds another adaptation, or
            the disk is full.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "ztcir adapt runs in one process: start it without torchrun or accelerate; it resumes "
            "what earlier processes did."
        )
    check_target(settings.out, overwrite=settings.overwrite)
    with disk_full_as_error():
        source = find_backbone(settings.backbone)
        choose_recipe("", settings.recipe)  # a wrong name, before minutes of work
        return _Run(settings, Progress(settings.work, settings.minutes, say), source).run()


class _Run:
    """One run of `adapt`."""

    def __init__(self, settings: AdaptSettings, progress: Progress, source: Source) -> None:
        self.settings, self.progress, self.source = settings, progress, source
        self.say = progress.say
        self.spec = ""

    def run(self) -> Adaptation:
        settings, progress = self.settings, self.progress
        self._phase(1, "reading the photos and the backbone")
        photos = self._photos()
        settings.work.mkdir(parents=True, exist_ok=True)
        backbone, self.spec = self.source.load(settings.work)
        backbone.to(Engine(settings.compute).device)
        bank = read_bank(settings, backbone, progress)
        progress.open(self._identity(photos, bank))
        photos = photos_in_time(photos, backbone, settings, progress)
        if len(photos) < MIN_PHOTOS:
            why = f"{len(photos)} photos are too few to train on, at least {MIN_PHOTOS} are needed"
            return self._keep_sum(backbone, why, None, len(photos), [])
        self._phase(2, f"encoding and tagging {len(photos)} photos")
        pictures = see(backbone, hold_out(photos, settings), bank, settings.work / "features")
        self._report_tags(pictures)
        self._phase(3, "making triplets")
        triplets = self._triplets(pictures)
        if problem := triplets.problem(pictures):
            return self._keep_sum(backbone, problem, None, len(photos), [])
        return self._train(backbone, pictures, triplets, bank, len(photos))

    def _train(
        self,
        backbone: Backbone,
        pictures: Pictures,
        triplets: _Triplets,
        bank: Sequence[WordGroup],
        count: int,
    ) -> Adaptation:
        settings, progress = self.settings, self.progress
        recipe = choose_recipe(backbone.config.model, settings.recipe)
        seed = {"seed": settings.seed}
        mapping = recipe.mapping(**seed)
        # many right pictures are unknown here, and mined negatives would be among them
        composing = recipe.composing(**seed, mined=0)
        composing = replace(composing, batch_size=min(composing.batch_size, len(triplets.training)))
        training, held_out = pictures.training, pictures.held_out
        if progress.recall("text_seconds") is None:  # a later process only reads the texts
            progress.note("text_seconds", pictures.text_seconds)
        plan = make_plan(settings, mapping, composing, len(training.images), progress)
        if not plan.is_enough:
            why = (
                f"Within {progress.minutes:g} minutes there is no time for {MIN_STEPS} steps of "
                f"each stage; here it takes --minutes {plan.least_minutes}"
            )
            gains = measure(backbone, None, held_out, triplets.measuring)
            return self._keep_sum(backbone, why, gains, count, triplets.training)
        self._phase(4, f"Stage I, {plan.map_steps} steps", plan.map_seconds + plan.compose_seconds)
        begun = progress.spent
        if not progress.recall("map"):
            fit_map(
                self.spec,
                training.images,
                held_out.images,
                mapping,
                recipe.parts(),
                self._stage("map", plan),
                word_bank=word_bank(bank),
                selecting=triplets.selecting,
            )
            progress.note("map", max(progress.spent - begun, 1.0))
        slower = float(progress.recall("map")) / max(plan.map_seconds, 1e-6)
        self._phase(5, f"Stage II, {plan.compose_steps} steps", slower * plan.compose_seconds)
        if not progress.recall("compose"):
            data = StageTwoData(triplets.training, held_out.images, triplets.selecting, [])
            stage = self._stage("compose", plan)
            fit_compose(settings.work / "map", training.images, data, composing, stage)
            progress.note("compose", True)
        self._phase(6, "measuring and exporting")
        model, config = load_model(settings.work / "compose", need="compose")
        gains = measure(backbone, model.to(backbone.device), held_out, triplets.measuring)
        if settings.sheet is not None:
            draw_sheet(settings.sheet, held_out, triplets.measuring, gains)
        if not gains.is_better:
            why = (
                f"On {gains.queries} held-out triplets, composed queries are not better than "
                f"{gains.best_plain} (mAP@10 {gains.gain:+.3f} ± {gains.error:.3f})"
            )
            return self._keep_sum(backbone, why, gains, count, triplets.training)
        quality = self._quality(gains, triplets.training)
        bundle = write_composed(model, config, settings, self.source.bundle, quality, self.say)
        why = (
            f"On {gains.queries} held-out triplets, composed queries are better than "
            f"{gains.best_plain} (mAP@10 {gains.gain:+.3f} ± {gains.error:.3f})"
        )
        return self._finish(bundle, "composed", why, gains, count, triplets.training)

    def _photos(self) -> list[TrainingImage]:
        settings = self.settings
        photos, report = read_sources(settings.sources, columns=settings.columns)
        print_notes(report.sentences())
        if not photos:
            raise DataError(f"No usable photo in {', '.join(settings.sources)}.")
        return _with_distinct_ids(photos)

    def _identity(
        self, photos: Sequence[TrainingImage], bank: Sequence[WordGroup]
    ) -> dict[str, Any]:
        settings = self.settings
        found, origin = data_fingerprint(photos), self.source.bundle
        return {
            "photos": [found["sha256"], found["pictures"]],
            "backbone": [settings.backbone, None if origin is None else origin.fingerprint],
            "words": words_checksum(bank),
            "recipe": settings.recipe,
            "settings": [
                settings.triplets,
                settings.map_steps,
                settings.compose_steps,
                settings.seed,
            ],
        }

    def _phase(self, number: int, what: str, seconds: float | None = None) -> None:
        rest = ""
        if seconds is not None:
            rest = f"; about {duration(seconds + export_seconds(self.progress))} to the end"
        self.say(f"[{number} of {PHASES}] {what}{rest}")

    def _report_tags(self, pictures: Pictures) -> None:
        for group in pictures.tags.groups:
            words = ", ".join(f"{word} ({n})" for word, n in list(group.counts().items())[:6])
            self.say(f"  {group.kind}: {group.share:.0%} of the photos are tagged: {words}, ...")
        for kind, why in pictures.tags.silent.items():
            self.say(f"  {kind} are not used: {why}.")

    def _triplets(self, pictures: Pictures) -> _Triplets:
        """Make the triplets, or read those of an earlier process."""
        settings = self.settings
        files = [settings.work / f"{name}.jsonl" for name in ("training", "selecting", "measuring")]
        if not self.progress.recall("triplets"):
            seed = settings.seed
            training = pictures.training.triplets(settings.triplets, seed=seed)
            known = pictures.held_out.triplets(_HELD_OUT_TRIPLETS, seed=seed + 1, measure=True)
            unseen = pictures.held_out.triplets(
                _HELD_OUT_TRIPLETS, seed=seed + 2, held_out=True, measure=True
            )
            # no reference both selects and measures
            references = sorted({one.reference for one in (*known, *unseen)})
            order = np.random.default_rng([seed, 10]).permutation(len(references))
            chosen = {references[place] for place in order[::2]}
            selecting = [one for one in known if one.reference in chosen]
            measuring = [one for one in (*known, *unseen) if one.reference not in chosen]
            for file, some in zip(files, (training, selecting, measuring), strict=True):
                write_triplets(file, some)
            self.progress.note("triplets", True)
        found = _Triplets(*(_read(file) for file in files))
        kinds = ", ".join(f"{n} of {kind}" for kind, n in _kinds(found.training).items())
        photos = _references(found.training)
        self.say(f"  {len(found.training)} triplets of {photos} photos ({kinds or 'none'})")
        return found

    def _stage(self, name: str, plan: Plan) -> StageSettings:
        """Return the settings of a stage; both share the time that is left."""
        settings, progress = self.settings, self.progress
        left = progress.left - export_seconds(progress)
        whole = plan.map_seconds + plan.compose_seconds
        share = plan.map_seconds / whole if name == "map" else 1.0
        return StageSettings(
            settings.work / name,
            settings.work / "features",
            compute=settings.compute,
            steps=plan.map_steps if name == "map" else plan.compose_steps,
            out_of_time=progress.until(share * left),
        )

    def _quality(self, gains: Gains, triplets: Sequence[Triplet]) -> dict[str, Any]:
        return {
            "what": "held-out photos of the collection that the bundle was adapted to; where these "
            "have no attributes or captions, the backbone's own tags say what is right",
            **gains.to_dict(),
            "triplets": _kinds(triplets),
        }

    def _keep_sum(
        self,
        backbone: Backbone,
        why: str,
        gains: Gains | None,
        photos: int,
        triplets: Sequence[Triplet],
    ) -> Adaptation:
        """Export the backbone alone, which answers with the sum of image and text."""
        weight = DEFAULT_WEIGHT if gains is None else gains.weight
        quality = None if gains is None else self._quality(gains, triplets)
        bundle = write_sum(backbone, weight, self.settings, self.source.bundle, quality, self.say)
        sentence = f"{why}: the bundle answers with the sum of image and text, weight {weight:g}"
        return self._finish(bundle, "sum", sentence, gains, photos, triplets)

    def _finish(
        self,
        bundle: Bundle,
        answers: str,
        why: str,
        gains: Gains | None,
        photos: int,
        triplets: Sequence[Triplet],
    ) -> Adaptation:
        spent = self.progress.spent
        if not self.settings.keep:
            shutil.rmtree(self.settings.work, ignore_errors=True)
        drawn = self.settings.sheet if gains is not None and len(gains.hits) else None
        return Adaptation(bundle, answers, f"{why}.", gains, photos, _kinds(triplets), spent, drawn)


def _kinds(triplets: Sequence[Triplet]) -> dict[str, int]:
    return dict(Counter(one.kind for one in triplets).most_common())


def _references(triplets: Sequence[Triplet]) -> int:
    """Return the number of photos that these triplets ask about."""
    return len({one.reference for one in triplets})


def _read(file: Path) -> list[Triplet]:
    """Read triplets of a file that may be empty."""
    return list(read_triplets(file)) if file.stat().st_size else []


def _with_distinct_ids(photos: Sequence[TrainingImage]) -> list[TrainingImage]:
    """Number the ids that several sources share, such as the same name in two folders."""
    seen = Counter[str]()
    found = []
    for photo in photos:
        name = photo.item.id
        seen[name] += 1
        if seen[name] > 1:
            photo = replace(photo, item=replace(photo.item, id=f"{name} ({seen[name]})"))
        found.append(photo)
    return found
