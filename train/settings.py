"""Settings of training, as frozen dataclasses. Imports no PyTorch, so that `--help` stays fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import AUTOMATIC, DEFAULT_BUNDLE, TRAINING_PRECISIONS

__all__ = [
    "CONFIGS",
    "PATCH_STORAGES",
    "BackboneTraining",
    "ComposeTraining",
    "Compute",
    "MadeTriplets",
    "MapTraining",
    "ModelConfig",
    "RunSettings",
    "StageSettings",
    "described",
    "evaluation_interval",
    "model_config",
    "parse_patches",
]

CONFIGS = Path(__file__).parent / "configs"
"""Configurations of backbones that open_clip does not have, and recipes of training."""

PATCH_STORAGES = ("fp16", "int8")
"""Types of the patch features in the cache; the first is the default."""

ADDED_LATER = {"added_later": True}
"""Metadata of a field that runs made before it existed lack in their configuration."""


def described(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as the configuration of a run records them.

    A field that was `ADDED_LATER` is left out at its default, so that older runs can be resumed.
    """
    defaults = {one.name: one.default for one in fields(settings) if "added_later" in one.metadata}
    values = asdict(settings)
    return {
        name: value
        for name, value in values.items()
        if name not in defaults or getattr(settings, name) != defaults[name]
    }


@dataclass(frozen=True)
class ModelConfig:
    """Which trained parts a model has, and their sizes.

    Attributes:
        tokens: n, pseudo-words per image.
        token_learner_depth: number of blocks; 0: a projection of the pooled embedding.
        vsi_layers: text blocks before which VSI injects; ``None``: every second block from the
            second on; empty: no VSI.
        vsi_width: width of VSI's keys and values.
        adapter_bottleneck: inner width of the composing adapters; 0: no adapters.
        combiner_width: inner width of the combiner after the text tower; 0: no combiner.
        combiner_captions: number of captions that the combiner keeps, the commonest of the training
            images; 0: none.
        patch_grid: rows and columns that the patches are pooled to, in training and in the exported
            image encoder; ``None``: all patches are used.
    """

    tokens: int = 1
    token_learner_width: int = 256
    token_learner_depth: int = 1
    token_learner_heads: int = 4
    vsi_layers: tuple[int, ...] | None = None
    vsi_width: int = 128
    vsi_heads: int = 4
    adapter_bottleneck: int = 256
    combiner_width: int = field(default=0, metadata=ADDED_LATER)
    combiner_captions: int = field(default=0, metadata=ADDED_LATER)
    patch_grid: tuple[int, int] | None = field(default=None, metadata=ADDED_LATER)


def model_config(fields: Mapping[str, Any]) -> ModelConfig:
    """Return the `ModelConfig` that a checkpoint's JSON describes, where tuples are lists."""
    tuples = {
        name: None if fields.get(name) is None else tuple(fields[name])
        for name in ("vsi_layers", "patch_grid")
    }
    return ModelConfig(**{**fields, **tuples})


@dataclass(frozen=True)
class BackboneTraining:
    """Hyperparameters of a backbone run.

    Attributes:
        backbone: a folder of ``train/configs`` whose image tower is a timm EfficientNet-Lite.
        image_lr: peak learning rate of the image trunk; ``text_lr`` is that of all other weights.
        first_stage: stages of the trunk before this one stay frozen; their output is cached.
        views: cached views of each photo: the photo, its mirror image, then random crops.
        descriptions: attribute descriptions drawn for each image.
        caption_share: share of texts that are the product's own caption.
        word_vectors: "minilm" initialises token rows from a sentence encoder, "none" at random.
        instances: weight of InfoNCE between two views of a photo (SLIP, Mu et al. 2022, sec. 3.1).
        attributes: weight of classifying colour, type, gender and pattern from the embedding and
            from the mean patch; it is not needed afterwards. A photo is read better by it.
        label_smoothing: of that classification, for the catalogue's attributes have errors.
        foreign: share of the descriptions that are in German, Spanish or French.
        misspelt: share of the descriptions with a typing error.
        start: checkpoint of a backbone to continue from, in place of ImageNet's weights.
        train_tokens: train the token rows of ``start`` too; else they stay unchanged.
    """

    backbone: str = DEFAULT_BUNDLE
    epochs: int = 10
    batch_size: int = 512
    image_lr: float = 6e-4
    text_lr: float = 1e-3
    weight_decay: float = 0.05
    first_stage: int = 4
    views: int = 3
    descriptions: int = 8
    caption_share: float = 0.4
    word_vectors: str = "minilm"
    instances: float = 0.0
    instance_temperature: float = 0.1
    attributes: float = 0.0
    label_smoothing: float = 0.1
    foreign: float = 0.0
    misspelt: float = 0.0
    start: str | None = None
    train_tokens: bool = False
    seed: int = 0


@dataclass(frozen=True)
class MapTraining:
    """Hyperparameters of Stage I.

    Attributes:
        alignment: weight of the soft text alignment loss; 0 turns it off.
        temperature: tau, of InfoNCE and of the queries' distribution over texts.
        target_temperature: tau_t, of the soft target. At 0.1 a target covers some 17 captions of
            the catalogue; at 0.02 it would be one or two.
        self_masking: weight of self-masking projection: a caption's own noisy embedding, in the
            place of an image's, stands for its keywords (LinCIR, Gu et al. 2024, sec. 3.2); 0: off.
        anchored: weight of text-anchored triplets: an image and a text that edits its caption are
            pulled to the edited caption; 0: off.
        diversity: weight of the mean squared cosine between the pseudo-words of an image, which
            needs ``tokens`` of 2 or more; 0: off.
        ema: decay of an exponential moving average of the trained weights, which is evaluated and
            saved as ``best/``; 0: the weights themselves.
        clip: norm that a gradient is scaled down to; 0: it is never scaled.
    """

    epochs: int = 4
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    alignment: float = 0.5
    temperature: float = 0.05
    target_temperature: float = 0.1
    self_masking: float = field(default=0.0, metadata=ADDED_LATER)
    anchored: float = field(default=0.0, metadata=ADDED_LATER)
    diversity: float = field(default=0.0, metadata=ADDED_LATER)
    ema: float = field(default=0.0, metadata=ADDED_LATER)
    clip: float = field(default=1.0, metadata=ADDED_LATER)
    seed: int = 0


@dataclass(frozen=True)
class MadeTriplets:
    """Triplets that Stage II makes from attributes, where the user gives none.

    Attributes:
        count: number of triplets.
        noise: share of triplets with a wrong target.
        requests: share of triplets that are open requests, as people type them.
    """

    count: int = 80000
    noise: float = 0.0
    requests: float = 0.5


@dataclass(frozen=True)
class ComposeTraining:
    """Hyperparameters of Stage II.

    Attributes:
        mined: hard negatives per query, the nearest wrong images under the current model; 0 leaves
            the targets and references of the batch as the only negatives.
        targets: most positives per query in one step.
        near_duplicate: cosine similarity to the target above which an image is not a negative.
        positive_aware: an image is not mined as a negative if it scores above this share of the
            target's own score, for it is likely to be right too (NV-Retriever, Moreira et al. 2024,
            sec. 3.2); 0: mine any.
        mine_every: steps between two searches of the whole gallery for hard negatives; in between,
            what the last search found is searched.
        captions: weight of the loss that pulls queries to the captions of their targets, among
            those of all images in a step; 0: images alone.
        combiner_lr: peak learning rate of the combiner, if the model has one.
        mapping_lr: peak learning rate of the token learner and VSI; 0: they stay as Stage I left
            them.
        as_given: epochs in which every triplet keeps its reference. In later epochs, which would
            memorise the triplets, some references are replaced by one of their own targets; this
            also teaches the model to keep an image that already matches the text.
        target_references: share of references that are replaced then; a triplet with one target
            keeps its reference.
        strengths: adapter strengths to try at each evaluation, in falling order; a weaker one is
            taken as long as it is better, and multiplied into the weights that are saved as
            ``best/``. This interpolates between Stage I and the trained adapters (WiSE-FT,
            Wortsman et al., CVPR 2022, sec. 3), which helps where triplets are few or noisy.
        ema, clip: see `MapTraining`.
    """

    epochs: int = 3
    batch_size: int = 256
    lr: float = 6e-3
    weight_decay: float = 0.05
    mined: int = 32
    targets: int = 4
    near_duplicate: float = 0.98
    positive_aware: float = 0.0
    mine_every: int = field(default=1, metadata=ADDED_LATER)
    captions: float = 0.0
    combiner_lr: float = field(default=3e-3, metadata=ADDED_LATER)
    mapping_lr: float = 0.0
    temperature: float = 0.05
    as_given: int = 3
    target_references: float = 0.5
    strengths: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    ema: float = field(default=0.0, metadata=ADDED_LATER)
    clip: float = field(default=1.0, metadata=ADDED_LATER)
    seed: int = 0


@dataclass(frozen=True)
class Compute:
    """How steps are computed; only the precision changes their results beyond rounding.

    Attributes:
        precision: mixed-precision type of matrix products: "fp32", "bf16" or "fp16"; weights stay
            float32.
        micro_batches: pieces in which each process encodes its share of a batch; more pieces need
            less memory and a second forward pass, and give the same gradients.
        checkpointing: recompute text blocks in the backward pass instead of storing them.
        compile: compile the text encoder with ``torch.compile``.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
    """

    precision: str = "bf16"
    micro_batches: int = 1
    checkpointing: bool = False
    compile: bool = False
    device: str = AUTOMATIC

    def __post_init__(self) -> None:
        if self.precision not in TRAINING_PRECISIONS:
            raise UsageError(
                f"Unknown precision {self.precision!r}; "
                f"choose from {', '.join(TRAINING_PRECISIONS)}."
            )
        if self.micro_batches < 1:
            raise UsageError(f"micro_batches must be at least 1, not {self.micro_batches}.")

    def identity(self) -> dict[str, str]:
        """Return the settings that a run can only be resumed with: those that change its results.

        The default precision is left out, as in the configurations of older runs.
        """
        return {} if self.precision == Compute.precision else {"precision": self.precision}


@dataclass(frozen=True)
class RunSettings:
    """Where a run writes.

    Attributes:
        out: the run's folder; if it holds an interrupted run, that run resumes.
        cache: folder of cached features, which runs can share; ``None``: ``out/cache``.
        stop_after: stop at this step, as a kill would (for tests).
    """

    out: Path
    cache: Path | None = None
    stop_after: int | None = None

    @property
    def cache_folder(self) -> Path:
        """The folder of cached features."""
        return self.cache or self.out / "cache"


@dataclass(frozen=True)
class StageSettings(RunSettings):
    """Where a run of Stage I or II writes, how it is computed, and how long it is.

    Attributes:
        compute: device, precision and memory.
        patches: keep patch features in the cache; ``None``: where the disk has room.
        patch_grid: rows and columns that Stage I pools the patches to; ``None``: the model's own.
        patch_storage: type of the patch features in the cache, one of `PATCH_STORAGES`.
        tensorboard: write TensorBoard events; ``None``: where TensorBoard is installed.
        steps: length of the run, in place of the epochs of the hyperparameters; the run is then
            evaluated after each quarter, but not within 20 steps.
        out_of_time: asked after each step; if it answers true, the run ends there as after its
            last step. For a single process.
    """

    compute: Compute = field(default_factory=Compute)
    patches: bool | None = None
    patch_grid: tuple[int, int] | None = None
    patch_storage: str = PATCH_STORAGES[0]
    tensorboard: bool | None = False
    steps: int | None = None
    out_of_time: Callable[[], bool] | None = None

    @property
    def identity(self) -> dict[str, int]:
        """The settings that a run can only be resumed with."""
        return {} if self.steps is None else {"steps": self.steps}


def parse_patches(text: str) -> tuple[tuple[int, int] | None, str]:
    """Return the grid and the type that ``--patches`` names, such as ``8x8``, ``8x8:int8``, int8.

    Raises:
        UsageError: it names neither.
    """
    grid, storage = None, StageSettings.patch_storage
    for part in text.split(":"):
        numbers = part.lower().split("x")
        if part in PATCH_STORAGES:
            storage = part
        elif len(numbers) == 2 and all(one.isdecimal() and int(one) for one in numbers):
            grid = (int(numbers[0]), int(numbers[1]))
        else:
            raise UsageError(
                "--patches takes rows and columns such as 8x8, a type "
                f"({' or '.join(PATCH_STORAGES)}), or both as in 8x8:int8, not {text!r}."
            )
    return grid, storage


def evaluation_interval(steps: int) -> int:
    """Return after how many steps a run of that length is evaluated: a quarter, but at least 20."""
    return max(-(-steps // 4), min(steps, 20))
