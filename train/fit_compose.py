"""`ztcir train compose`, Stage II: the adapters learn to compose the pseudo-word with words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Batches, DataError, TrainingImage
from train.engine import Compute, Engine
from train.features import ImageFeatures, image_features
from train.hard_negatives import Answers, candidate_pool, mine
from train.losses import multi_positive_nce
from train.model import ComposedModel, describe_model, load_model, own_weights
from train.precision import autocast
from train.prompts import encode_alike, prompt_ids
from train.record import data_fingerprint, triplets_fingerprint
from train.run import Run, Schedule, parameter_groups
from train.triplets import Triplet
from ztcir_sdk.evaluation.metrics import average_precision_at_k, rank, relevance

__all__ = [
    "ComposeTraining",
    "TripletRows",
    "evaluate_composed",
    "fit_compose",
]


@dataclass(frozen=True)
class ComposeTraining:
    """Configuration of Stage II.

    Attributes:
        mined: hard negatives a query, the nearest wrong images under the current model; 0 leaves
            in-batch targets and references alone.
        targets: right images of each query that it is drawn to in one step, at most.
        near_duplicate: cosine similarity to the target from which an image is no negative.
        temperature: of the contrastive loss.
    """

    epochs: int = 3
    batch_size: int = 256
    lr: float = 6e-3
    weight_decay: float = 0.05
    mined: int = 32
    targets: int = 4
    near_duplicate: float = 0.98
    temperature: float = 0.05
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

    def answers(
        self, batch: NDArray[np.int64], first: NDArray[np.int64], gallery: Tensor, threshold: float
    ) -> Answers:
        """What answers some triplets.

        Args:
            batch: (B,) which triplets. first: (B,) gallery rows, one target of each.
            gallery: (M, D) embeddings; threshold: cosine similarity of near-duplicates.
        """
        device, targets = gallery.device, [self.targets[row] for row in batch]
        counts = [len(some) for some in targets]
        return Answers(
            torch.from_numpy(np.repeat(np.arange(len(batch)), counts)).to(device),
            torch.from_numpy(np.concatenate(targets)).to(device),
            gallery[torch.from_numpy(first).to(device)],
            torch.from_numpy(self.references[batch]).to(device),
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
        development, development_triplets: select ``best`` by mAP@10.
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

    def encode(some: NDArray[np.int64]) -> Tensor:
        return encode_composed(model, features, rows, some, scale=1.0, precision=precision)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if number + 1 < total:
            features.announce(rows.references[engine.workers.share(order[number + 1])])
        batch = order[number]
        queries = engine.encode(encode, batch)
        some = [
            rng.choice(rows.targets[row], min(config.targets, len(rows.targets[row])), False)
            for row in batch
        ]
        wanted = torch.from_numpy(np.concatenate(some)).to(device)
        first = np.array([chosen[0] for chosen in some])
        answers = rows.answers(batch, first, gallery, config.near_duplicate)
        mined = mine(queries, gallery, answers, config.mined) if config.mined else None
        pool = candidate_pool(wanted, answers.references, mined)
        embeds = gallery[pool]
        logits = queries @ embeds.T / config.temperature
        loss = multi_positive_nce(logits, answers.right(pool), answers.spared(embeds, pool))
        return loss, {"pool": float(len(pool))}

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
        engine=engine,
        data={
            "training": {**data_fingerprint(images), "features": features.source},
            "development": data_fingerprint(development),
            "triplets": triplets_fingerprint(triplets),
            "development_triplets": triplets_fingerprint(development_triplets),
        },
        tensorboard=tensorboard,
    )

    def evaluate() -> dict[str, float]:
        figures = {}
        for name, some in checked.items():
            figures[f"{name}_mAP@10"] = evaluate_composed(
                model, held_out, some, precision=precision
            )
        return figures

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
