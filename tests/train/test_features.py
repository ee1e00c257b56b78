"""Frozen features: cached where there is room, else computed again; killed runs resume."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import PARTS, TRAINING, drawings, write_backbone

from train.data import TrainingImage
from train.loop import features as module
from train.loop.features import DiskFullError, image_features, text_features
from train.model import Backbone, load_backbone
from train.settings import Compute, StageSettings
from train.stages.fit_map import fit_map

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> Backbone:
    return load_backbone(str(checkpoint))[0]


class Counted:
    """An image that counts how often it is read, and can stop like a killed process."""

    reads = 0
    until = 1_000_000

    def __init__(self, image: TrainingImage) -> None:
        self.image = image

    def __call__(self) -> Image.Image:
        if Counted.reads >= Counted.until:
            raise KeyboardInterrupt
        Counted.reads += 1
        return self.image.load()


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[TrainingImage]:
    monkeypatch.setattr(Counted, "reads", 0)
    monkeypatch.setattr(Counted, "until", 1_000_000)
    monkeypatch.setattr(module, "available_cores", lambda: 1)
    some, _ = drawings(40)
    return [dataclasses.replace(image, load=Counted(image)) for image in some]


def test_live_patches_equal_cached_ones(
    backbone: Backbone, images: list[TrainingImage], tmp_path: Path
) -> None:
    kept = image_features(backbone, images, tmp_path / "a", batch=16, patches=True)
    live = image_features(backbone, images, tmp_path / "b", batch=16, patches=False)
    assert not list((tmp_path / "b").rglob("patches.npy"))
    assert live.source["patches"] == "live"
    rows = np.array([3, 1, 39, 17])
    for wanted, got in zip(kept.rows(rows), live.rows(rows), strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-2, rtol=0)  # bf16, another batch
    np.testing.assert_array_equal(kept.embeds, live.embeds)
    assert kept.rows(rows)[1].std() > 0.1


def test_live_images_are_decoded_in_parallel(
    backbone: Backbone, images: list[TrainingImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a GPU would wait. A single thread breaks the barrier."""
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    barrier = threading.Barrier(2)

    def together(image: TrainingImage) -> Image.Image:
        barrier.wait(timeout=20)
        return image.load()

    some = [
        dataclasses.replace(image, load=functools.partial(together, image)) for image in images[:4]
    ]
    assert len(module.LivePatches(backbone, some)(np.arange(4))) == 4


def test_announced_images_are_decoded_in_advance(
    backbone: Backbone, images: list[TrainingImage]
) -> None:
    """So that a GPU does not wait for the images of the next batch."""
    live, read = module.LivePatches(backbone, images), threading.Event()

    def load(image: TrainingImage) -> Image.Image:
        read.set()
        return image.load()

    images[7] = dataclasses.replace(images[7], load=functools.partial(load, images[7]))
    live.announce(np.array([1, 2]))
    live.announce(np.array([7, 2]))
    assert read.wait(timeout=20)
    wanted = module.LivePatches(backbone, images)(np.array([2, 7, 1, 7, 30]))
    before = Counted.reads
    got = live(np.array([2, 7, 1, 7, 30]))
    np.testing.assert_allclose(got, wanted, atol=2e-2)
    assert Counted.reads == before + 1  # of the one that was not announced


def test_complete_features_are_never_computed_again(
    backbone: Backbone, images: list[TrainingImage], tmp_path: Path
) -> None:
    first = image_features(backbone, images, tmp_path)
    assert Counted.reads == 40
    for patches in (None, True, False):
        again = image_features(backbone, images, tmp_path, patches=patches)
        np.testing.assert_array_equal(again.embeds, first.embeds)
    assert Counted.reads == 40
    image_features(backbone, images[:-1], tmp_path)
    assert Counted.reads == 79  # another collection


@pytest.mark.parametrize("patches", [True, False])
def test_a_killed_computation_resumes_where_it_was(
    backbone: Backbone,
    images: list[TrainingImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patches: bool,
) -> None:
    whole = image_features(backbone, images, tmp_path / "whole", batch=4, patches=patches)
    monkeypatch.setattr(module, "SAVE_EVERY", 3)
    Counted.reads, Counted.until = 0, 30
    with pytest.raises(KeyboardInterrupt):
        image_features(backbone, images, tmp_path / "killed", batch=4, patches=patches)
    assert not list((tmp_path / "killed").rglob("complete.json"))
    Counted.reads, Counted.until = 0, 1_000_000
    found = image_features(backbone, images, tmp_path / "killed", batch=4, patches=patches)
    assert Counted.reads < 40
    np.testing.assert_array_equal(found.embeds, whole.embeds)
    if patches:
        assert found.patches is not None
        np.testing.assert_array_equal(found.patches, whole.patches)


def test_patches_can_be_cached_later(
    backbone: Backbone, images: list[TrainingImage], tmp_path: Path
) -> None:
    without = image_features(backbone, images, tmp_path, patches=False)
    later = image_features(backbone, images, tmp_path, patches=True)
    assert later.patches is not None
    np.testing.assert_array_equal(later.embeds, without.embeds)


def disk(free: int) -> Any:
    return lambda folder: Usage(10**12, 10**12 - free, free)


def test_patches_are_cached_only_if_the_disk_has_room(
    backbone: Backbone,
    images: list[TrainingImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needed = 40 * backbone.num_patches * backbone.patch_dim * 2
    monkeypatch.setattr(shutil, "disk_usage", disk(needed))  # enough, but nothing would be left
    assert image_features(backbone, images, tmp_path / "a").patches is None
    assert "computed again for each batch" in capsys.readouterr().err
    with pytest.raises(DiskFullError, match="--no-patches"):
        image_features(backbone, images, tmp_path / "b", patches=True)
    monkeypatch.setattr(shutil, "disk_usage", disk(2 * needed))
    assert image_features(backbone, images, tmp_path / "c").patches is not None


def test_a_full_disk_is_reported_before_anything_is_computed(
    backbone: Backbone,
    images: list[TrainingImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)  # only Linux has it
    with pytest.raises(DiskFullError, match="No space left on device"):
        image_features(backbone, images, tmp_path)
    assert Counted.reads == 0
    monkeypatch.undo()
    assert image_features(backbone, images, tmp_path).patches is not None


def test_training_is_the_same_with_cached_and_live_patches(
    checkpoint: Path, tmp_path: Path
) -> None:
    some, development = drawings(44)
    losses = []
    for name, patches in (("kept", True), ("live", False)):
        fit_map(
            str(checkpoint),
            some,
            development,
            TRAINING,
            PARTS,
            StageSettings(tmp_path / name, compute=Compute(device="cpu"), patches=patches),
        )
        lines = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        record = json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))
        assert record["data"]["training"]["features"]["patches"] == name
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_texts_are_embedded_once_for_the_same_tower_and_the_same_texts(
    backbone: Backbone, tmp_path: Path
) -> None:
    calls = []

    def encode() -> torch.Tensor:
        calls.append(1)
        return torch.full((2, 3), float(len(calls)))

    for texts, number in ((["a", "b"], 1), (["a", "b"], 1), (["b", "a"], 2)):
        found = text_features(backbone, texts, tmp_path, encode)
        np.testing.assert_array_equal(found, np.full((2, 3), number, np.float32))
    with torch.no_grad():
        backbone.text.positional_embedding += 1
    text_features(backbone, ["a", "b"], tmp_path, encode)
    with torch.no_grad():
        backbone.text.positional_embedding -= 1
    assert len(calls) == 3


def test_a_disk_that_fills_up_while_texts_are_cached_is_reported(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: IO[bytes], array: np.ndarray) -> None:
        stream.write(b"part of it")
        raise OSError("34400 requested and 15328 written")  # as NumPy says it, without a number

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DiskFullError, match=r"15328 written\); free some space, or choose another"):
        text_features(backbone, ["a"], tmp_path, lambda: torch.ones(1, 3))
    assert not list(tmp_path.iterdir())
