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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import PARTS, TRAINING, drawings, write_backbone

from train.data import TrainingImage
from train.loop import feature_store, features
from train.loop import patches as module
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
    for user in (module, features):
        monkeypatch.setattr(user, "available_cores", lambda: 1)
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
    monkeypatch.setattr(feature_store, "SAVE_EVERY", 3)
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

    def encode(texts: Sequence[str]) -> torch.Tensor:
        calls.append(texts)
        return torch.full((len(texts), 32), float(len(calls)))

    for texts, number in ((["a", "b"], 1), (["a", "b"], 1), (["b", "a"], 2)):
        found = text_features(backbone, texts, tmp_path, encode)
        np.testing.assert_array_equal(found, np.full((2, 32), number, np.float32))
    with torch.no_grad():
        backbone.text.positional_embedding += 1
    text_features(backbone, ["a", "b"], tmp_path, encode)
    with torch.no_grad():
        backbone.text.positional_embedding -= 1
    assert calls == [["a", "b"], ["b", "a"], ["a", "b"]]
    assert {path.suffix for path in tmp_path.iterdir()} <= {".npy", ".lock"}


def test_a_disk_that_fills_up_while_texts_are_cached_is_reported(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: IO[bytes], header: Any) -> None:
        stream.write(b"part of it")
        raise OSError("34400 requested and 15328 written")  # as NumPy says it, without a number

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(DiskFullError, match=r"15328 written\); free some space, or choose another"):
        text_features(backbone, ["a"], tmp_path, lambda _: torch.ones(1, 32))
    assert not list(tmp_path.glob("*.npy"))


# --- divided among processes ---------------------------------------------------------------------


def test_processes_that_fill_the_same_shards_divide_them(tmp_path: Path) -> None:
    layout = feature_store.Layout(images=40, batch=4, embed_dim=2)
    feature_store.FeatureStore(tmp_path, layout).reserve()
    seen: list[list[int]] = [[], []]
    both = threading.Barrier(2)

    def work(own: int) -> None:
        def encode(chunks: Iterator[tuple[int, int]]) -> Iterator[Any]:
            for chunk in chunks:
                if not seen[own]:
                    both.wait(timeout=20)
                seen[own].append(chunk[0])
                yield chunk, {"embeds": np.full((4, 2), chunk[0], np.float32)}

        feature_store.FeatureStore(tmp_path, layout).fill(encode, first=own / 2)

    threads = [threading.Thread(target=work, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(seen[0] + seen[1]) == list(range(10))  # each once
    assert all(seen)
    store = feature_store.FeatureStore(tmp_path, layout)
    assert store.is_complete()
    store.join_embeds(tmp_path / "embeds.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "embeds.npy")[::4, 0], np.arange(10))


def test_what_a_killed_process_held_is_filled_by_another(tmp_path: Path) -> None:
    layout = feature_store.Layout(images=12, batch=4, embed_dim=2)
    store = feature_store.FeatureStore(tmp_path, layout)
    store.reserve()

    def encode(chunks: Iterator[tuple[int, int]], last: int = 99) -> Iterator[Any]:
        for chunk in chunks:
            if chunk[0] == last:
                raise KeyboardInterrupt
            yield chunk, {"embeds": np.ones((4, 2), np.float32)}

    with pytest.raises(KeyboardInterrupt):
        store.fill(functools.partial(encode, last=1))
    assert not store.is_complete()
    feature_store.FeatureStore(tmp_path, layout).fill(encode)
    assert store.is_complete()


def test_features_of_an_older_version_still_open(
    backbone: Backbone, images: list[TrainingImage], tmp_path: Path
) -> None:
    kept = image_features(backbone, images, tmp_path / "new", patches=True)
    [folder] = (tmp_path / "new").iterdir()
    older = tmp_path / "old" / folder.name
    older.mkdir(parents=True)
    np.save(older / "embeds.npy", kept.embeds)
    np.save(older / "patches.npy", np.asarray(kept.patches))
    (older / "complete.json").write_text('{"images": 40}')
    before = Counted.reads
    found = image_features(backbone, images, tmp_path / "old")
    assert Counted.reads == before
    rows = np.array([3, 39, 0])
    for wanted, got in zip(kept.rows(rows), found.rows(rows), strict=True):
        assert torch.equal(got, wanted)


def test_kept_patches_are_read_ahead(
    backbone: Backbone, images: list[TrainingImage], tmp_path: Path
) -> None:
    kept = image_features(backbone, images, tmp_path, batch=4, patches=True)
    assert kept.patches is not None
    rows = np.array([8, 2, 31, 8])
    wanted = kept.rows(rows)[1]
    kept.announce(np.array([1]))
    kept.announce(rows)
    kept.announce(np.array([5]))  # the step before has been taken
    read = kept.patches._current
    assert read is not None
    assert len(read.found.result(timeout=20)) == 3  # each row once
    assert torch.equal(kept.rows(rows)[1], wanted)
    assert torch.equal(kept.rows(np.array([7, 5]))[1], kept.rows(np.array([5, 7]))[1][[1, 0]])


def test_int8_patches_take_half_the_space_and_differ_by_rounding(
    backbone: Backbone, images: list[TrainingImage], tmp_path: Path
) -> None:
    exact = image_features(backbone, images, tmp_path, patches=True)
    small = image_features(backbone, images, tmp_path, patches=True, storage="int8")
    assert exact.source["key"] != small.source["key"]
    assert small.source["patch_bytes"] < 0.6 * exact.source["patch_bytes"]
    rows = np.arange(40)
    wanted, got = exact.rows(rows)[1], small.rows(rows)[1]
    step = wanted.abs().amax(-1, keepdim=True) / 127
    assert bool(((got - wanted).abs() <= 0.51 * step + 2e-3).all())
    assert not torch.equal(got, wanted)
