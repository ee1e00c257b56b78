"""What training on CC3M takes: steps measured on this machine, and arithmetic for GPUs.

    python -m benchmarks.training_cost

Counts the arithmetic of an image and of a sample of both stages, by running each backbone without
weights, times a few backbones on this machine, and divides by the peak rates that vendors publish,
of which a step is assumed to reach a share. `docs/training.md` shows the result.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.markdown import format_table
from benchmarks.provenance import load_average, provenance
from cli.output import note
from train.model import Backbone, BackboneConfig, ComposedModel
from train.stages.recipes import load_recipe
from ztcir_sdk.environment import now

__all__ = ["FILE", "describe_training_cost"]

FILE = "training-cost.json"
RECIPES = ("vit-b-32-openai", "vit-l-14-openai", "vit-h-14-laion", "vit-bigg-14-laion")
GPUS: Mapping[str, float] = {
    "L4": 121e12,
    "RTX 4090": 165e12,
    "A100": 312e12,
    "H100": 989e12,
}
"""Dense bf16 multiplications and additions per second, from the vendor's data sheets."""
SHARE = 0.35
"""Share of the peak that a step is assumed to reach."""
IMAGES, TRIPLETS = 2_900_000, 500_000
"""CC3M as it can still be downloaded, and triplets from its captions."""
PROMPT, REQUEST = 6, 14
"""Tokens of "a photo of $", and of a composed prompt."""
COUNTED = 4
"""Samples that are counted at a time."""


@dataclass(frozen=True)
class Works:
    """The three kinds of work, each on some samples."""

    encode: Callable[[int], None]
    map: Callable[[int], None]
    compose: Callable[[int], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, measure and write the result file; return the exit code."""
    parser = command_parser("training_cost", "What training on CC3M takes.")
    names = ", ".join(RECIPES)
    parser.add_argument(
        "--measure", nargs="*", default=[RECIPES[0]], help=f"recipes to time here, of {names}"
    )
    parser.add_argument("--images", type=positive, default=32, help="images of a timed pass")
    parser.add_argument("--batch", type=positive, default=32, help="samples of a timed step")
    parser.add_argument("--repeats", type=positive, default=2, help="timed passes and steps")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    counted = {}
    for recipe in RECIPES:
        note(f"counting {recipe}")
        counted[recipe] = count_work(recipe)
    measured = {}
    for recipe in options.measure:
        note(f"timing {recipe}")
        measured[recipe] = time_work(recipe, options.images, options.batch, options.repeats)
    write_result(
        options.output,
        {
            **provenance(date, torch.get_num_threads(), load),
            "settings": {
                "images": IMAGES,
                "triplets": TRIPLETS,
                "share_of_peak": SHARE,
                "timed_images": options.images,
                "batch": options.batch,
                "repeats": options.repeats,
            },
            "gpus": dict(GPUS),
            "counted": counted,
            "measured": measured,
        },
    )


def _works(recipe: str, device: str) -> tuple[ComposedModel, Works]:
    """Return a recipe's model with random weights, and its three kinds of work."""
    given = load_recipe(recipe)
    name = str(given.backbone).partition(":")[0]
    config = open_clip.get_model_config(name)
    with torch.device(device):
        clip = open_clip.model.CLIP(**config)
        backbone = Backbone(clip.eval(), BackboneConfig(name), config["text_cfg"])
        model = ComposedModel(backbone, given.parts()).eval()
    model.adapters.requires_grad_(False)

    def encode(count: int) -> None:
        with torch.device(device), torch.no_grad(), _bf16(device):
            backbone.encode_image(torch.rand(count, 3, *backbone.image_size))

    def step(count: int, length: int, scale: float, *, mapping: bool) -> None:
        for part in (model.token_learner, model.vsi):
            if part is not None:
                part.requires_grad_(mapping)
        model.adapters.requires_grad_(not mapping)
        with torch.device(device), _bf16(device):
            v = torch.rand(count, backbone.embed_dim)
            patches = torch.rand(count, backbone.num_patches, backbone.patch_dim)
            ids = torch.ones(count, length, dtype=torch.int64)
            ids[:, 4] = -1
            with torch.set_grad_enabled(mapping):
                reference = model.learn_token(v, patches)
            queries = model.encode_query(ids, None, torch.full((count,), scale), *reference)
            queries.float().square().sum().backward()

    return model, Works(
        encode,
        lambda count: step(count, PROMPT, 0.0, mapping=True),
        lambda count: step(count, REQUEST, 1.0, mapping=False),
    )


@contextmanager
def _bf16(device: str) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
        yield


def count_work(recipe: str) -> dict[str, Any]:
    """Return the arithmetic of one sample, and what is stored of it, as JSON values."""
    model, works = _works(recipe, "meta")
    backbone = model.backbone
    figures: dict[str, Any] = {
        "backbone": backbone.config.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "embed_dim": backbone.embed_dim,
        "patch_bytes": backbone.num_patches * backbone.patch_dim * 2,
        "pooled_bytes": 8 * 8 * (backbone.patch_dim + 2),
        "map_epochs": load_recipe(recipe).mapping().epochs,
        "compose_epochs": load_recipe(recipe).composing().epochs,
    }
    for name in ("encode", "map", "compose"):
        with FlopCounterMode(display=False) as counter:
            getattr(works, name)(COUNTED)
        figures[f"{name}_flop"] = counter.get_total_flops() / COUNTED
        if name != "encode":
            figures[f"{name}_bytes"] = _saved_bytes(model, getattr(works, name)) / COUNTED
    return figures


def _saved_bytes(model: ComposedModel, work: Callable[[int], None]) -> int:
    """Return the bytes in float32 that a step keeps for its backward pass, weights left out."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage is freed and its number used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work(COUNTED)
    return sum(kept.values())


def time_work(recipe: str, images: int, batch: int, repeats: int) -> dict[str, float]:
    """Return images or samples per second of each kind of work on this machine."""
    _, works = _works(recipe, "cpu")
    found = {}
    for name in ("encode", "map", "compose"):
        work, size = getattr(works, name), images if name == "encode" else batch
        work(min(size, 2))
        begun = time.perf_counter()
        for _ in range(repeats):
            work(size)
        found[f"{name}_per_second"] = size * repeats / (time.perf_counter() - begun)
    return found


def describe_training_cost(values: Mapping[str, Any]) -> str:
    """Return the text of docs/training.md: a table of the arithmetic, one of what was measured."""
    settings, share = values["settings"], values["settings"]["share_of_peak"]
    rows = []
    for counted in values["counted"].values():
        for gpu, peak in values["gpus"].items():
            rate = share * peak
            encode, mapped, composed = (
                rate / work for work in _flop_per_sample(counted, settings["images"])
            )
            hours = step_hours(counted, settings, rate)
            total = sum(hours)
            rows.append(
                (
                    counted["backbone"],
                    gpu,
                    *(f"{_rounded(one):,}".replace(",", " ") for one in (encode, mapped, composed)),
                    *(f"{one:.1f}" if one >= 1 else f"{one:.2f}" for one in (*hours, total)),
                    f"{total / 8:.1f}" if total >= 8 else f"{total / 8:.2f}",
                )
            )
    columns = (
        "backbone",
        "GPU",
        "images/s encoded",
        "samples/s, Stage I",
        "samples/s, Stage II",
        "hours to encode, 1 GPU",
        "Stage I",
        "Stage II",
        "all, 1 GPU",
        "all, 8 GPUs",
    )
    sizes = [
        (
            counted["backbone"],
            f"{counted['patch_bytes'] / 1000:.0f} kB",
            f"{settings['images'] * counted['patch_bytes'] / 1e12:.2f} TB",
            f"{settings['images'] * counted['pooled_bytes'] / 1e9:.0f} GB",
            f"{settings['images'] * counted['embed_dim'] * 4 / 1e9:.1f} GB",
            f"{counted['parameters'] * 4 / 1e9:.1f} GB",
            f"{128 * max(counted['map_bytes'], counted['compose_bytes']) / 1e9:.0f} GB",
        )
        for counted in values["counted"].values()
    ]
    size_columns = (
        "backbone",
        "patches of an image",
        "of CC3M",
        "pooled, `8x8:int8`",
        "embeddings",
        "weights",
        "128 samples, at most",
    )
    return "\n\n".join(
        [
            f"Arithmetic, not measured: {share:.0%} of each GPU's published dense bf16 rate, for "
            f"{settings['images'] / 1e6:.1f} million images and "
            f"{settings['triplets'] // 1000} 000 triplets, in the recipes' epochs. Mining all "
            "images in each step is in it; reading and decoding images are not.",
            format_table(columns, rows, text_columns=2),
            "Arithmetic too: disk, and a GPU's memory (weights, and what a step of 128 samples "
            "keeps for its backward pass), in float32.",
            format_table(size_columns, sizes),
            _measured(values),
        ]
    )


def _measured(values: Mapping[str, Any]) -> str:
    counted, settings = values["counted"], values["settings"]
    rows = []
    for recipe, found in values["measured"].items():
        own = counted[recipe]
        works = dict(zip(("encode", "map", "compose"), _flop_per_sample(own, 0), strict=True))
        rates = [found[f"{name}_per_second"] for name in works]
        achieved = [rate * works[name] / 1e9 for name, rate in zip(works, rates, strict=True)]
        rows.append(
            (
                own["backbone"],
                *(f"{rate:.1f}" for rate in rates),
                " / ".join(f"{one:.0f}" for one in achieved),
            )
        )
    columns = (
        "backbone",
        "images/s encoded",
        "samples/s, Stage I",
        "samples/s, Stage II",
        "GFLOP/s of the three",
    )
    return (
        f"Measured on {values['machine']['cpu']}, {values['threads']} threads, in passes of "
        f"{settings['timed_images']} images and steps of {settings['batch']} samples in bf16, "
        f"torch {values['versions']['torch']}, "
        f"{values['date'][:10]}:\n\n{format_table(columns, rows)}"
    )


def _flop_per_sample(counted: Mapping[str, Any], gallery: int) -> tuple[float, float, float]:
    """Return the arithmetic of an image, and of a sample of either stage, mining in it."""
    mining = 2.0 * gallery * counted["embed_dim"]
    return counted["encode_flop"], counted["map_flop"], counted["compose_flop"] + mining


def step_hours(
    counted: Mapping[str, Any], settings: Mapping[str, Any], rate: float
) -> tuple[float, float, float]:
    """Return the hours to encode all images, and of both stages, at `rate` FLOP per second."""
    encode, mapped, composed = _flop_per_sample(counted, settings["images"])
    images, triplets = settings["images"], settings["triplets"]
    return (
        images * encode / rate / 3600,
        images * counted["map_epochs"] * mapped / rate / 3600,
        triplets * counted["compose_epochs"] * composed / rate / 3600,
    )


def _rounded(value: float) -> int:
    """Return a number with two significant digits."""
    digits = max(0, len(str(int(value))) - 2)
    return int(round(value, -digits))


if __name__ == "__main__":
    sys.exit(main())
