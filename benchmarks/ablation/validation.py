"""The validation queries: frozen features once, then any model's scores, in PyTorch and float32.

They select nothing. The figures equal those of `ztcir eval triplets` with a bundle of the model
alone, as a test checks. Slips are not corrected and nothing refused is taken out, since the rows
compare models and not what a search does around them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ablation.rivals import tokenizer_of
from train.data.image import TrainingImage
from train.loop.sizes import Sizes
from train.model import Backbone, ComposedModel, encode_by_length, hash_tensors
from train.stages.frozen_captions import encode_captions
from ztcir_sdk.evaluation.attribute_caption import attribute_caption
from ztcir_sdk.evaluation.metrics import DEPTH, average_precision_at_k, recall_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.evaluation.triplet_evaluation import RECALLS, SUM_WEIGHTS
from ztcir_sdk.evaluation.triplets import read_triplets
from ztcir_sdk.files import open_whole, write_whole
from ztcir_sdk.names import COMPOSED_PROMPT, MAPPED_PROMPT
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["Scores", "Validation", "read_validation"]

Scores = dict[str, float]
TIDY = "tidy"
"""Kind of a triplet of attributes, in whatever kinds its own file divides them."""


@dataclass(frozen=True)
class Validation:
    """Queries over a gallery with frozen features.

    Attributes:
        gallery: ``v`` (N, D) float32, L2-normalised.
        patches: ``P`` (R, N_p, d_v) float32 of the distinct reference images.
        reference_rows: (R,), their rows in the gallery.
        reference_of: (Q,), each query's row in `patches`.
        texts: (Q) modification texts.
        captions: (Q) attributes of the first targets as text.
        kinds: (Q) kind of open request, or `TIDY` for the triplets of attributes.
        targets: (Q) rows of the targets in the gallery.
        fingerprint: fingerprint of all of it.
    """

    gallery: NDArray[np.float32]
    patches: NDArray[np.float32]
    reference_rows: NDArray[np.int64]
    reference_of: NDArray[np.int64]
    texts: Sequence[str]
    captions: Sequence[str]
    kinds: Sequence[str]
    targets: Sequence[Sequence[int]]
    fingerprint: str

    def score(self, queries: NDArray[np.float32]) -> Scores:
        """Return the scores of query embeddings (Q, D), without references in rankings.

        Recalls and mAP@10 are those of the tidy triplets; "open mAP@10" is that of all open
        requests, and "not mAP@10", say, that of one kind of them.
        """
        excluded = [[row] for row in self.reference_rows[self.reference_of].tolist()]
        relevant = relevance(rank(queries, self.gallery, DEPTH, excluded=excluded), self.targets)
        counts = [len(own) for own in self.targets]
        kinds = np.array(self.kinds)
        tidy = kinds == TIDY
        scores = {f"R@{k}": float(recall_at_k(relevant, k)[tidy].mean()) for k in RECALLS}
        precision = average_precision_at_k(relevant, counts, DEPTH)
        scores[f"mAP@{DEPTH}"] = float(precision[tidy].mean())
        if not tidy.all():
            scores[f"open mAP@{DEPTH}"] = float(precision[~tidy].mean())
        for kind in dict.fromkeys(kinds[~tidy].tolist()):
            scores[f"{kind} mAP@{DEPTH}"] = float(precision[kinds == kind].mean())
        return scores

    def composed(
        self, model: ComposedModel, *, prompt: str = COMPOSED_PROMPT, scale: float = 1.0
    ) -> Scores:
        """Return the scores of a prompt with the adapters at ``scale``; 0 is "stage1"."""
        return self.score(self._encode(model, prompt, self.reference_of, self.texts, scale))

    def own_image(self, model: ComposedModel) -> Scores:
        """Return how often "a photo of $", adapters off, finds its own image (`mapped`).

        The images are the references of the tidy triplets.
        """
        references = np.unique(self.reference_of[np.array(self.kinds) == TIDY])
        queries = self._encode(model, MAPPED_PROMPT, references, None, 0.0)
        ranking = rank(queries, self.gallery, DEPTH)
        found = relevance(ranking, [[row] for row in self.reference_rows[references].tolist()])
        return {f"self_R@{k}": float(recall_at_k(found, k).mean()) for k in (1, DEPTH)}

    def frozen(self, model: ComposedModel) -> dict[str, Scores]:
        """Return the scores of untrained methods: image, text, sum, sum-best and oracle.

        The best weight of the sum is chosen on these queries, which favours the sum.
        """
        image = self.gallery[self.reference_rows[self.reference_of]]
        text, captions = (
            encode_captions(model, some, precision="fp32").numpy()
            for some in (self.texts, self.captions)
        )
        sums = {weight: self.score(_mix(image, text, weight)) for weight in SUM_WEIGHTS}
        best = max(sums, key=lambda weight: sums[weight][f"mAP@{DEPTH}"])
        return {
            "image": self.score(image),
            "text": self.score(text),
            "sum": sums[0.5],
            "sum-best": {**sums[best], "weight": best},
            "oracle": self.score(captions),
        }

    @torch.inference_mode()
    def _encode(
        self,
        model: ComposedModel,
        prompt: str,
        references: NDArray[np.int64],
        texts: Sequence[str] | None,
        scale: float,
    ) -> NDArray[np.float32]:
        """Return query embeddings (B, D), in the order of ``references``."""
        tokenizer, tokens = tokenizer_of(model), model.config.tokens
        filled: Sequence[str | None] = [None] * len(references) if texts is None else texts
        ids = [tokenizer.encode_prompt(prompt, text, n_tokens=tokens) for text in filled]
        model.eval()

        def encode(rows: NDArray[np.int64]) -> Tensor:
            own = references[rows]
            v = torch.from_numpy(self.gallery[self.reference_rows[own]])
            patches = model.backbone.pooled(torch.from_numpy(self.patches[own]))
            learned = model.learn_token(v, patches)
            found: Tensor = model.encode_query(
                torch.from_numpy(tokenizer.pad([ids[row] for row in rows])),
                torch.arange(len(rows)),
                torch.full((len(rows),), scale),
                *learned,
            )
            return found

        return encode_by_length([len(one) for one in ids], encode).numpy()


def _mix(
    image: NDArray[np.float32], text: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    mixed = (1 - weight) * image.astype(np.float64) + weight * text
    unit: NDArray[np.float32] = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(
        np.float32
    )
    return unit


def read_validation(
    backbone: Backbone,
    images: Sequence[TrainingImage],
    triplets: Path,
    cache: Path,
    open_requests: Path | None = None,
) -> Validation:
    """Encode the gallery, or read its cached features.

    Args:
        backbone: frozen backbone.
        images: the whole gallery.
        triplets: file of the queries, in the format of `read_triplets`.
        cache: folder of cached features.
        open_requests: file of open requests, in the same format, measured beside them by kind.

    Raises:
        ZtcirError: a file cannot be read, or names an image that is not in the gallery.
    """
    place = {image.item.id: row for row, image in enumerate(images)}
    files = [triplets] if open_requests is None else [triplets, open_requests]
    tidy, *wild = (read_triplets(file, gallery=place.keys()) for file in files)
    kinds = [TIDY] * len(tidy) + [query.kind for some in wild for query in some]
    queries = [*tidy, *(query for some in wild for query in some)]
    rows, reference_of = np.unique(
        [place[query.reference] for query in queries], return_inverse=True
    )
    firsts = [images[place[query.targets[0]]].item for query in queries]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    hash_tensors(digest, backbone.clip.visual.state_dict().items())
    digest.update(json.dumps([backbone.preprocess_cfg, list(place)], sort_keys=True).encode())
    fingerprint = digest.hexdigest()[:16]
    gallery, patches = _cached(
        cache / f"validation-{fingerprint}", lambda: _encode_images(backbone, images, rows)
    )
    return Validation(
        gallery,
        patches,
        rows,
        reference_of.reshape(-1),
        [query.text for query in queries],
        [attribute_caption(item.colour, item.type, item.gender) for item in firsts],
        kinds,
        [[place[name] for name in query.targets] for query in queries],
        fingerprint,
    )


Features = tuple[NDArray[np.float32], NDArray[np.float32]]


def _cached(folder: Path, encode: Callable[[], Features]) -> Features:
    """Return arrays from a folder, or encode and store them there."""
    names = ("gallery.npy", "patches.npy")
    if not (folder / "complete.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        found = encode()
        for name, array in zip(names, found, strict=True):
            with open_whole(folder / name) as stream:
                np.save(stream, array)
        write_whole(folder / "complete.json", json.dumps({"images": len(found[0])}))
    gallery, patches = (np.load(folder / name) for name in names)
    return gallery, patches


@torch.inference_mode()
def _encode_images(
    backbone: Backbone, images: Sequence[TrainingImage], references: NDArray[np.int64]
) -> Features:
    """Return ``v`` of all images and ``P`` of the references, in float32 as in the graph."""
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    embeds, patches, wanted = [], [], np.zeros(len(images), dtype=np.bool_)
    wanted[references] = True
    for rows in np.array_split(np.arange(len(images)), -(-len(images) // Sizes.images)):
        pixels = preprocess([images[row].load() for row in rows])
        v, p = backbone.encode_image(torch.from_numpy(pixels).to(backbone.device))
        embeds.append(v.cpu().numpy())
        patches.append(p.cpu().numpy()[wanted[rows]])
    return np.concatenate(embeds), np.concatenate(patches)
