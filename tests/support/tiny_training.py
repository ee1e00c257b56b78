"""Tiny CLIPs of three kinds and a tiny collection of drawings, to train and export in seconds."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from train.data import read_collection
from train.model import BackboneConfig, ComposedModel, ModelConfig, create_backbone
from train.settings import (
    BackboneTraining,
    ComposeTraining,
    Compute,
    MapTraining,
    RunSettings,
    StageSettings,
)
from train.stages.fit_backbone import fit_backbone
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.triplets import StageTwoData, collection_triplets
from ztcir_sdk.drawings.drawings import Drawing, draw

CONFIGS = Path(__file__).parent / "tiny_configs"
open_clip.add_model_config(CONFIGS)

VIT, QUICK, CONVNET = "tiny-vit", "tiny-vit-quickgelu", "tiny-convnet"
SHALLOW = "tiny-convnet-shallow"
"""Has one text block, so its export takes a third of the time."""
PARTS = ModelConfig(
    token_learner_width=32,
    token_learner_depth=2,
    token_learner_heads=2,
    vsi_layers=(0, 1),
    vsi_width=16,
    vsi_heads=2,
    adapter_bottleneck=8,
)
COLOURS = ("Red", "Blue", "Green", "Black", "Yellow")
TYPES = {"Tshirts": "t-shirt", "Dresses": "dress", "Handbags": "handbag", "Casual Shoes": "sneaker"}
GENDERS = ("Men", "Women")


def tiny_model(
    name: str = VIT, parts: ModelConfig = PARTS, *, random: bool = True
) -> ComposedModel:
    """Return a model in evaluation mode; ``random`` changes all trained parts, gains and biases."""
    torch.manual_seed(0)
    model = ComposedModel(create_backbone(BackboneConfig(name)), parts).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part, parameter in model.named_parameters() if random else ():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(noise * 0.3)
            elif not part.startswith("backbone."):
                parameter.add_(noise * parameter.shape[-1] ** -0.5)
    return model


@contextlib.contextmanager
def tiny_fashion_lite() -> Iterator[None]:
    """Replace ``fashion-lite`` by a tiny one with random weights instead of ImageNet's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.model_names.CONFIGS", CONFIGS)
        patch.setattr("train.stages.fit_backbone.load_imagenet", lambda trunk: None)
        yield


@contextlib.contextmanager
def unflushed() -> Iterator[None]:
    """Do not wait for the disk, which would take tests that share it minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@contextlib.contextmanager
def saved_every(steps: int) -> Iterator[None]:
    """Let runs write a checkpoint every ``steps`` steps."""
    from train.loop.run import Run

    start = Run.__init__

    def begin(self: Run, *args: Any, **options: Any) -> None:
        start(self, *args, **{**options, "save_every": steps})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "__init__", begin)
        yield


def catalogue(names: int = 20) -> list[dict[str, Any]]:
    """Return the fields of products: four per name, which differ in colour and gender."""
    return [
        {
            "id": 1000 + 4 * number + place,
            "gender": GENDERS[place % 2],
            "articleType": list(TYPES)[number % len(TYPES)],
            "baseColour": COLOURS[(number + place // 2) % len(COLOURS)],
            "caption": f"Acme {list(TYPES)[number % len(TYPES)]} no {number}",
        }
        for number in range(names)
        for place in range(4)
    ]


def picture(fields: Mapping[str, Any]) -> bytes:
    drawing = Drawing(
        TYPES[fields["articleType"]],
        fields["baseColour"].lower(),
        "plain" if fields["gender"] == "Men" else "striped",
        seed=fields["id"],
    )
    stream = io.BytesIO()
    draw(drawing, (48, 64)).save(stream, "JPEG")
    return stream.getvalue()


def members_of(fields: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """Return the two files of a sample in a shard."""
    key = str(fields["id"])
    return [(f"{key}.jpg", picture(fields)), (f"{key}.json", json.dumps(fields).encode())]


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_collection(folder: Path) -> list[str]:
    """Write two shards of 40 photos each; return their paths."""
    products = catalogue()
    return [
        str(
            write_shard(
                folder / f"train-{number:04d}.tar",
                [member for fields in products[number::2] for member in members_of(fields)],
            )
        )
        for number in range(2)
    ]


def write_validation(folder: Path) -> None:
    """Write ``val-0000.tar`` with 40 products and ``val-triplets.jsonl`` with eight queries."""
    products = [{**fields, "id": fields["id"] + 5000} for fields in catalogue(5)]
    write_shard(
        folder / "val-0000.tar", [member for fields in products for member in members_of(fields)]
    )
    ids = [str(fields["id"]) for fields in products]
    texts = ("make it blue", "for women", "in black, please")
    lines = [
        {
            "id": f"colour-{number}",
            "kind": "colour",
            "reference": ids[number],
            "text": texts[number % 3],
            "targets": [ids[-1 - number], ids[-2 - number]],
        }
        for number in range(8)
    ]
    lines[3]["reference"] = ids[0]  # two texts about one picture
    (folder / "val-triplets.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def fit(
    stage: str,
    out: Path,
    data: Sequence[str],
    start: str = "",
    *,
    parts: ModelConfig = PARTS,
    **changes: Any,
) -> None:
    """Train a stage for twelve steps on the CPU; ``changes`` are hyperparameters."""
    images, development = read_collection(data)
    settings = StageSettings(out, out.parent / "features", compute=Compute(device="cpu"))
    short: dict[str, Any] = {"epochs": 3, "batch_size": 16, **changes}
    if stage == "backbone":
        small = BackboneTraining(**{"word_vectors": "none", "views": 3, "descriptions": 2, **short})
        fit_backbone(images, development, small, RunSettings(out))
    elif stage == "map":
        fit_map(start, images, development, MapTraining(**short), parts, settings)
    else:
        triplets = StageTwoData(
            collection_triplets(images, count=64, seed=0),
            development,
            collection_triplets(development, count=8, seed=1),
            collection_triplets(development, count=8, seed=1, held_out=True),
        )
        config = ComposeTraining(**{"mined": 4, "as_given": 1, **short})
        fit_compose(Path(start), images, triplets, config, settings)


def assert_equal_tensors(
    one: Mapping[str, Mapping[str, Tensor]], other: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Check that both have the same groups, names and bits."""
    assert one.keys() == other.keys()
    for group, tensors in one.items():
        assert tensors.keys() == other[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[group][name]), (group, name)
