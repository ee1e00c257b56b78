"""Trains a rival; an interrupted run resumes, like those of the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.ablation.rivals import (
    INVERSION_DECAY,
    INVERSION_EMA,
    INVERSION_LR,
    INVERSION_PROMPTS,
    LAMBDA_COSINE,
    LAMBDA_DISTILLATION,
    LAMBDA_INVERSION,
    LAMBDA_REGULARISER,
    NEAREST,
    TEMPERATURE,
    concept_phrases,
    cosine_loss,
    likeliest_scale,
    projection_model,
    token_distillation,
    tokenizer_of,
)
from benchmarks.ablation.rows import Settings
from train.data.batches import Batches
from train.data.image import TrainingImage
from train.loop.engine import Engine
from train.loop.features import image_features, text_features
from train.loop.record import data_fingerprint
from train.loop.run import Run, Schedule, parameter_groups
from train.model import ComposedModel, load_backbone, masked_ids
from train.settings import MapTraining, StageSettings
from train.stages.frozen_captions import encode_captions
from train.stages.losses import info_nce, noisy_text, self_masking_loss
from train.stages.map_batches import is_captioned
from train.wordings import masked_caption, product_caption
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import open_whole
from ztcir_sdk.names import MAPPED_PROMPT, is_known

__all__ = ["fit_rival"]

Step = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class _Setup:
    """What the training steps of all rivals need."""

    model: ComposedModel
    engine: Engine
    images: Sequence[TrainingImage]
    embeds: Tensor
    """``v`` of the images, (M, D), on the CPU."""
    config: MapTraining
    settings: Settings
    folder: Path
    cache: Path

    def pseudo_words(self, embeds: Tensor) -> Tensor:
        """Return pseudo-words (B, 1, d_t) of embeddings (B, D)."""
        word: Tensor = self.model.token_learner(embeds, embeds)
        return word

    def encode(self, ids: Sequence[Sequence[int]], words: Tensor) -> Tensor:
        """Return ``f_t`` (B, D) float32 of prompts with their pseudo-words (B, 1, d_t)."""
        device, count = self.engine.device, len(ids)
        nothing = torch.zeros(count, 0, 1, 1, device=device)
        padded = torch.from_numpy(tokenizer_of(self.model).pad(ids)).to(device)
        with self.engine.autocast():
            queries = self.model.encode_query(
                padded,
                torch.arange(count, device=device),
                torch.zeros(count, device=device),
                words,
                nothing,
                nothing,
            )
        return queries.float()

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return frozen embeddings of texts, cached for the other seeds."""
        return text_features(
            self.model.backbone, texts, self.cache, lambda some: encode_captions(self.model, some)
        )


def fit_rival(
    rival: str,
    backbone: str,
    images: Sequence[TrainingImage],
    config: MapTraining,
    settings: Settings,
    stage: StageSettings,
    texts: Path,
) -> ComposedModel:
    """Train a rival's projection on frozen features.

    Args:
        rival: name in `RIVALS`.
        backbone: backbone, as `load_backbone` takes it.
        images: Stage I's training images.
        config: Stage I's batch size, learning rate, weight decay and seed.
        settings: numbers of steps.
        stage: folders of the run and of image features, and how the run is computed.
        texts: cache of text embeddings.

    Returns:
        The model in evaluation mode, on the CPU.
    """
    torch.manual_seed(config.seed)
    frozen, _ = load_backbone(backbone)
    model = projection_model(frozen, rival)
    engine = Engine(stage.compute)
    engine.prepare(model)
    features = image_features(frozen, images, stage.cache_folder)
    embeds = torch.from_numpy(features.embeds)
    setup = _Setup(model, engine, images, embeds, config, settings, stage.out, texts)
    rival_step = _STEPS[rival](setup)
    optimizer = torch.optim.AdamW(
        parameter_groups([model.token_learner], config.lr, config.weight_decay), betas=(0.9, 0.98)
    )
    steps = settings.map_steps + settings.compose_steps

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(int(rng.integers(2**31)))  # dropout, the same in a resumed run
        model.token_learner.train()
        return rival_step(number, rng)

    run = Run(
        stage.out,
        {
            "kind": "rival",
            "rival": rival,
            "training": {**asdict(config), "images": len(images)},
            "settings": asdict(settings),
            "seed": config.seed,
        },
        {"projection": model.token_learner},
        optimizer,
        Schedule(steps, warmup=min(100, steps // 10 + 1)),
        engine=engine,
        data={"training": data_fingerprint(images)},
    )
    run.train(step, samples=min(config.batch_size, len(images)), stop_after=stage.stop_after)
    return model.to("cpu").eval()


def _pic2word(setup: _Setup) -> Step:
    """Contrast "a photo of $" with its image, both ways (Saito et al. 2023, sec. 3.2)."""
    order = Batches(len(setup.images), setup.config.batch_size, setup.config.seed)
    prompt = tokenizer_of(setup.model).encode_prompt(MAPPED_PROMPT)
    rows = [row for row, image in enumerate(setup.images) if is_captioned(image)]
    captions = setup.embed_texts([setup.images[row].item.caption for row in rows])
    scale = likeliest_scale(
        torch.from_numpy(np.array(captions)), setup.embeds[rows], setup.config.batch_size
    )

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        v = setup.embeds[order[number]].to(setup.engine.device)
        queries = setup.encode([prompt] * len(v), setup.pseudo_words(v))
        return info_nce(queries, v, scale), {}

    return step


def _lincir(setup: _Setup) -> Step:
    """Replace a text's keywords by its own noisy projection (Gu et al. 2024, sec. 3.2)."""
    texts = _texts(setup.images)
    tokenizer, device = tokenizer_of(setup.model), setup.engine.device
    whole = setup.embed_texts(texts)
    masked = [masked_ids(tokenizer, masked_caption(text)) for text in texts]
    order = Batches(len(texts), setup.config.batch_size, setup.config.seed)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(order[number])
        own = torch.from_numpy(np.array(whole[rows])).to(device)
        words = setup.pseudo_words(noisy_text(own, rng))
        return self_masking_loss(setup.encode([masked[row] for row in rows], words), own), {}

    return step


def _texts(images: Sequence[TrainingImage]) -> list[str]:
    """Return each image's caption and a description of its attributes, where it has them."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for image in images:
        item = image.item
        known = {"colour": item.colour, "type": item.type, "gender": item.gender}
        texts += [item.caption] if item.caption.strip() else []
        if any(is_known(value) for value in known.values()):
            texts.append(product_caption(known, rng))
    if not texts:
        raise ZtcirError("Rival lincir needs images with captions or attributes.")
    return texts


def _searle(setup: _Setup) -> Step:
    """Distil pseudo-words, optimised one by one, into phi (Baldrati et al. 2023, sec. 3.2)."""
    regulariser = _Regulariser(setup)
    drawn = np.random.default_rng(setup.config.seed).permutation(len(setup.images))
    chosen = np.sort(drawn[: setup.settings.inverted])
    inverted = _invert(setup, regulariser, chosen)
    order = Batches(len(chosen), setup.config.batch_size, setup.config.seed)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = order[number]
        words = setup.pseudo_words(setup.embeds[chosen[batch]].to(setup.engine.device))
        target = inverted[batch].to(setup.engine.device)
        distilled = token_distillation(target, words[:, 0], TEMPERATURE)
        regular = regulariser.loss(words, chosen[batch], rng)
        loss = LAMBDA_DISTILLATION * distilled + LAMBDA_REGULARISER * regular
        return loss, {"distillation": distilled.item(), "regulariser": regular.item()}

    return step


class _Regulariser:
    """Sentences of a concept near the image, with the pseudo-word in its place (sec. 3.1, eq. 2).

    An image's concepts are those whose "a photo of {concept}" is nearest.
    """

    def __init__(self, setup: _Setup) -> None:
        concepts = _concepts(setup.images)
        whole, frames = concept_phrases(concepts)
        self.setup, self.frames = setup, len(frames)
        self.phrases = torch.from_numpy(np.array(setup.embed_texts(whole)))
        tokenizer = tokenizer_of(setup.model)
        self.ids = [tokenizer.encode_prompt(frame) for frame in frames]
        names = setup.embed_texts([f"a photo of {concept}" for concept in concepts])
        near = min(NEAREST, len(concepts))
        self.nearest = torch.cat(
            [
                (some @ torch.from_numpy(np.array(names)).T).topk(near).indices
                for some in torch.split(setup.embeds, 4096)
            ]
        ).numpy()

    def loss(self, words: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return the loss of pseudo-words (B, 1, d_t) of images (B,), with random sentences."""
        place = rng.integers(self.nearest.shape[1], size=len(rows))
        frames = rng.integers(self.frames, size=len(rows))
        concepts = self.nearest[rows, place]
        found = self.setup.encode([self.ids[frame] for frame in frames], words)
        wanted = self.phrases[concepts * self.frames + frames].to(found)
        return cosine_loss(found, wanted)


def _concepts(images: Sequence[TrainingImage]) -> list[str]:
    """Return the catalogue's types, and its types with their colours."""
    found: dict[str, None] = {}
    for image in images:
        kind, colour = image.item.type.lower(), image.item.colour.lower()
        if is_known(kind):
            found[kind] = None
            if is_known(colour):
                found[f"{colour} {kind}"] = None
    if not found:
        raise ZtcirError("Rival searle needs images with types, for its concepts.")
    return sorted(found)


def _invert(setup: _Setup, regulariser: _Regulariser, chosen: NDArray[np.int64]) -> Tensor:
    """Return pseudo-words (K, d_t) of some images, optimised one by one (sec. 3.1, OTI).

    Each batch is stored when it is done, so that an interrupted run resumes with the next.
    """
    size, steps = setup.config.batch_size, setup.settings.inversion_steps
    tokenizer = tokenizer_of(setup.model)
    prompts = [tokenizer.encode_prompt(prompt) for prompt in INVERSION_PROMPTS]
    identity = f"{chosen.tolist()}, {steps} steps, seed {setup.config.seed}, batches of {size}"
    folder = setup.folder / f"inverted-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for number, start in enumerate(tqdm(range(0, len(chosen), size), desc="inversion")):
        path = folder / f"{number}.npy"
        if not path.is_file():
            rng = np.random.default_rng([setup.config.seed, number, 2])
            words = _invert_batch(setup, regulariser, prompts, chosen[start : start + size], rng)
            with open_whole(path) as stream:
                np.save(stream, words.cpu().numpy())
        done.append(torch.from_numpy(np.load(path)))
    return torch.cat(done)


def _invert_batch(
    setup: _Setup,
    regulariser: _Regulariser,
    prompts: Sequence[Sequence[int]],
    rows: NDArray[np.int64],
    rng: np.random.Generator,
) -> Tensor:
    """Return pseudo-words (B, d_t): the running average over the steps, as in the paper."""
    device, width = setup.engine.device, setup.model.backbone.text_width
    begin = 0.02 * rng.standard_normal((len(rows), 1, width), dtype=np.float32)
    words = torch.from_numpy(begin).to(device).requires_grad_(True)
    average = words.detach().clone()
    optimizer = torch.optim.AdamW([words], lr=INVERSION_LR, weight_decay=INVERSION_DECAY)
    v = setup.embeds[rows].to(device)
    # An average over 350 steps forgets its start; fewer steps need a faster decay.
    decay = min(INVERSION_EMA, 1 - 3.5 / setup.settings.inversion_steps)
    for _ in range(setup.settings.inversion_steps):
        drawn = rng.integers(len(prompts), size=len(rows))
        found = setup.encode([prompts[prompt] for prompt in drawn], words)
        loss = LAMBDA_COSINE * cosine_loss(found, v)
        loss = loss + LAMBDA_INVERSION * regulariser.loss(words, rows, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.lerp_(words.detach(), 1 - max(decay, 0.0))
    return average[:, 0]


_STEPS: Mapping[str, Callable[[_Setup], Step]] = {
    "pic2word": _pic2word,
    "searle": _searle,
    "lincir": _lincir,
}
