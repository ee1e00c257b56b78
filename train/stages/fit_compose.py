"""`ztcir train compose`, Stage II: the adapters learn to compose the pseudo-word with words."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data.batches import Batches
from train.data.image import TrainingImage
from train.data.item import DataError
from train.loop.engine import Compute, Engine
from train.loop.features import ImageFeatures, image_features
from train.loop.precision import autocast
from train.loop.record import data_fingerprint, triplets_fingerprint
from train.loop.run import Run, Schedule, parameter_groups
from train.model.composed_model import ComposedModel, describe_model, load_model, own_weights
from train.model.prompts import encode_alike, prompt_ids
from train.stages.hard_negatives import Answers, candidate_pool, mine
from train.stages.losses import multi_positive_nce
from ztcir_sdk.evaluation.metrics import average_precision_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = [
    "ComposeTraining",
    "TripletRows",
    "evaluate_composed",
    "fit_compose",
]

FEW_STEPS = 80  # as many as each row of the ablation has


@dataclass(frozen=True)
class ComposeTraining:
    """Configuration of Stage II.

    Attributes:
        mined: hard negatives a query, the nearest wrong images under the current model; 0 leaves
            in-batch targets and references alone.
        targets: right images of each query that it is drawn to in one step, at most.
        near_duplicate: cosine similarity to the target from which an image is no negative.
        temperature: of the contrastive loss.
        as_given: epochs in which triplets are asked as they are. In later ones, which would rather
            be learnt by heart, a share of each step is asked about one of its own targets in place
            of the reference: what is already as it is wished for shall stay so. A triplet takes
            part if it has another target.
        target_references: that share.
        strengths: how strong the adapters may be, falling. At each evaluation a weaker one is taken
            as long as that is better, and is worked into the weights that are kept as ``best``: a
            point between Stage I and what was learnt (WiSE-FT, Wortsman et al., CVPR 2022, sec. 3),
            which few or wrong triplets call for.
    """

    epochs: int = 3
    batch_size: int = 256
    lr: float = 6e-3
    weight_decay: float = 0.05
    mined: int = 32
    targets: int = 4
    near_duplicate: float = 0.98
    temperature: float = 0.05
    as_given: int = 3
    target_references: float = 0.5
    strengths: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    seed: int = 0


class TripletRows:
    """Triplets as rows of a collection's features."""

    def __init__(self, triplets: Sequence[Triplet], ids: Sequence[str]) -> None:
        position = {name: row for row, name in enumerate(ids)}
        named = {name for t in triplets for name in (t.reference, *t.targets)}
        missing = sorted(named - position.keys())
        if missing:
            raise DataError(
                f"The triplets name {len(missing)} images that the data does not hold, such as "
                f"{missing[0]}; name the shards they are in with --data."
            )
        if not triplets:
            raise DataError("There are no triplets to train on.")
        self.references = np.array([position[t.reference] for t in triplets])
        self.texts = [t.text for t in triplets]
        self.targets = [np.array([position[name] for name in t.targets]) for t in triplets]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, some: NDArray[np.int64]) -> TripletRows:
        """Some of the triplets, (B,)."""
        taken = copy.copy(self)
        taken.references = self.references[some]
        taken.texts = [self.texts[row] for row in some]
        taken.targets = [self.targets[row] for row in some]
        return taken

    def about_targets(self, share: float, rng: np.random.Generator) -> TripletRows:
        """The triplets, a share of them about one of their targets, which is then none of them."""
        asked = copy.copy(self)
        asked.references, asked.targets = self.references.copy(), list(self.targets)
        for row in np.flatnonzero(rng.random(len(self)) < share):
            if len(own := self.targets[row]) > 1:
                place = rng.integers(len(own))
                asked.references[row] = own[place]
                asked.targets[row] = np.delete(own, place)
        return asked

    def answers(self, first: NDArray[np.int64], gallery: Tensor, threshold: float) -> Answers:
        """What answers the triplets.

        Args:
            first: (B,) gallery rows, one target of each.
            gallery: (M, D) embeddings; threshold: cosine similarity of near-duplicates.
        """
        device, counts = gallery.device, [len(own) for own in self.targets]
        return Answers(
            torch.from_numpy(np.repeat(np.arange(len(self)), counts)).to(device),
            torch.from_numpy(np.concatenate(self.targets)).to(device),
            gallery[torch.from_numpy(first).to(device)],
            torch.from_numpy(self.references).to(device),
            threshold,
        )


def fit_compose(
    mapping: Path,
    images: Sequence[TrainingImage],
    triplets: Sequence[Triplet],
    development: Sequence[TrainingImage],
    development_triplets: Sequence[Triplet],
    config: ComposeTraining,
    out: Path,
    *,
    unseen_wordings: Sequence[Triplet] = (),
    cache: Path | None = None,
    compute: Compute | None = None,
    patches: bool | None = None,
    tensorboard: bool | None = False,
    steps: int | None = None,
    stop_after: int | None = None,
) -> ComposedModel:
    """Train the adapters alone: ``f_t("a photo of $ that {text}")`` is pulled to the targets.

    Args:
        mapping: checkpoint of Stage I.
        images: the gallery of the triplets; its embeddings never change.
        triplets: what is trained on.
        development, development_triplets: select ``best`` by mAP@10, and the adapters' strength
            in it.
        config: the stage's numbers.
        out: the run's folder; a killed run goes on.
        unseen_wordings: development triplets in wordings that no training triplet has; measured
            beside, never selected by.
        cache: folder of image features, shared between runs; ``out/cache`` by default.
        compute: device, precision, micro-batches; several processes where they were started.
        patches: whether patch features are kept in the cache; ``None``: where the disk has room.
        tensorboard: whether TensorBoard's events are written; ``None``: where it is installed.
        steps: length of the run in place of ``config.epochs``, evaluated after each quarter.
        stop_after: stop at this step (for tests).
    """
    torch.manual_seed(config.seed)
    model, origin = load_model(mapping, need="map")
    if not len(model.adapters):
        raise DataError(
            f"The model of {mapping} has no adapters; train it with an --adapter width."
        )
    model.requires_grad_(False)
    model.adapters.requires_grad_(True)
    engine = Engine(compute)
    engine.prepare(model)
    device, precision = engine.device, engine.compute.precision
    cache = cache or out / "cache"
    features, held_out = engine.workers.main_first(
        lambda: [
            image_features(model.backbone, some, cache, patches=patches)
            for some in (images, development)
        ]
    )
    rows = TripletRows(triplets, features.ids)
    checks = {"dev": development_triplets, "dev_unseen_wordings": unseen_wordings}
    checked = {name: TripletRows(some, held_out.ids) for name, some in checks.items() if some}
    gallery = torch.from_numpy(features.embeds).to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups([model.adapters], config.lr, config.weight_decay), betas=(0.9, 0.98)
    )
    order = Batches(len(rows), config.batch_size, config.seed)
    total = config.epochs * order.per_epoch if steps is None else steps
    if steps is None and total < FEW_STEPS and engine.workers.is_main:
        print(
            f"{len(rows)} triplets in {config.epochs} epochs are {total} steps, which teach "
            f"little; with --steps {FEW_STEPS} they are asked more often.",
            file=sys.stderr,
        )

    @lru_cache(maxsize=2)  # each step also announces the next one's
    def asked(number: int) -> TripletRows:
        """A step's triplets, as they are asked in it."""
        drawn = rows.take(order[number])
        if number < config.as_given * order.per_epoch:
            return drawn
        rng = np.random.default_rng([config.seed, number, 1])
        return drawn.about_targets(config.target_references, rng)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if number + 1 < total:
            features.announce(engine.workers.share(asked(number + 1).references))
        batch = asked(number)
        queries = engine.encode(
            lambda some: encode_composed(
                model, features, batch, some, scale=1.0, precision=precision
            ),
            np.arange(len(batch)),
        )
        some = [rng.choice(own, min(config.targets, len(own)), False) for own in batch.targets]
        wanted = torch.from_numpy(np.concatenate(some)).to(device)
        first = np.array([drawn[0] for drawn in some])
        answers = batch.answers(first, gallery, config.near_duplicate)
        mined = mine(queries, gallery, answers, config.mined) if config.mined else None
        pool = candidate_pool(wanted, answers.references, mined)
        embeds = gallery[pool]
        logits = queries @ embeds.T / config.temperature
        loss = multi_positive_nce(logits, answers.right(pool), answers.spared(embeds, pool))
        return loss, {"pool": float(len(pool))}

    chosen = config.strengths[0]
    run = Run(
        out,
        {
            **describe_model(model, "compose"),
            "training": {**asdict(config), "triplets": len(triplets), "images": len(images)},
            **({} if steps is None else {"steps": steps}),
            "map_training": origin.get("training"),
            "backbone_training": origin.get("backbone_training"),
            "seed": config.seed,
        },
        {"model": model},
        optimizer,
        Schedule(total, warmup=min(50, total // 10 + 1)),
        fixed=own_weights(model),
        selected={"model": lambda: model.parts(strength=chosen)},
        engine=engine,
        data={
            "training": {**data_fingerprint(images), "features": features.source},
            "development": data_fingerprint(development),
            "triplets": triplets_fingerprint(triplets),
            "development_triplets": triplets_fingerprint(development_triplets),
        },
        tensorboard=tensorboard,
    )

    def measure(name: str, strength: float) -> float:
        return evaluate_composed(
            model, held_out, checked[name], scale=strength, precision=precision
        )

    def evaluate() -> dict[str, float]:
        nonlocal chosen
        chosen, best = config.strengths[0], measure("dev", config.strengths[0])
        for strength in config.strengths[1:]:
            weaker = measure("dev", strength)
            if weaker <= best:
                break
            chosen, best = strength, weaker
        others = {f"{name}_mAP@10": measure(name, chosen) for name in checked if name != "dev"}
        return {"dev_mAP@10": best, **others, "adapter_strength": chosen}

    run.train(
        step,
        evaluate=evaluate,
        select_by="dev_mAP@10",
        evaluate_every=max(1, order.per_epoch // 2) if steps is None else -(-steps // 4),
        from_start=True,  # where triplets are few or wrong, Stage I alone is better
        samples=order.size,
        stop_after=stop_after,
    )
    return model


def encode_composed(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    batch: NDArray[np.int64],
    *,
    scale: float,
    precision: str = "bf16",
) -> Tensor:
    """Composed queries (B, D) float32 of some triplets, adapters at ``scale``."""
    return encode_alike(
        [len(rows.texts[row]) for row in batch],
        lambda places: _encode_padded(model, features, rows, batch[places], scale, precision),
    )


def _encode_padded(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    batch: NDArray[np.int64],
    scale: float,
    precision: str,
) -> Tensor:
    v, patches = features.rows(rows.references[batch])
    texts = [rows.texts[row] for row in batch]
    ids = prompt_ids(texts, tokens=model.config.tokens, tower=model.backbone.tower)
    count, device = len(batch), model.backbone.device
    with autocast(device, precision):
        with torch.no_grad():
            said = model.learn_token(v.to(device), patches.to(device))
        queries = model.encode_query(
            ids.to(device),
            torch.arange(count, device=device),
            torch.full((count,), scale, device=device),
            *said,
        )
    return queries.float()


@torch.inference_mode()
def evaluate_composed(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    *,
    scale: float = 1.0,
    precision: str = "bf16",
) -> float:
    """mAP@10 of triplets over a collection, the reference left out of each ranking."""
    queries = [
        encode_composed(model, features, rows, batch, scale=scale, precision=precision)
        .cpu()
        .numpy()
        for batch in np.array_split(np.arange(len(rows)), -(-len(rows) // 256))
    ]
    ranking = rank(
        np.concatenate(queries), features.embeds, 10, excluded=[[row] for row in rows.references]
    )
    counts = [len(targets) for targets in rows.targets]
    right = relevance(ranking, [targets.tolist() for targets in rows.targets])
    return float(average_precision_at_k(right, counts, 10).mean())
