"""`ztcir adapt` on a tiny collection and a tiny CLIP: to a bundle, after a kill, with bad input."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import save_backbone
from tiny_training import SHALLOW, catalogue, picture, unflushed

from export.adapt import Adaptation, AdaptSettings, adapt
from export.adapt.clock import Progress
from export.adapt.measure import clustered_error
from export.adapt.sheet import different
from export.bundle import BundleSettings
from train.loop.features import text_features
from train.model import BackboneConfig, create_backbone
from train.settings import Compute
from train.tags import WordGroup
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.hub.card import hub_card

RECIPE = {
    "model": {
        "token_learner_width": 32,
        "token_learner_heads": 2,
        "vsi_layers": [0],
        "vsi_width": 16,
        "vsi_heads": 2,
        "adapter_bottleneck": 8,
    },
    "map": {"batch_size": 16},
    "compose": {"batch_size": 16},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take every tag of the tiny CLIP, whose weights are random, and few steps for enough."""
    monkeypatch.setattr("train.tags.tagging.AGREEMENT", 0.0)
    monkeypatch.setattr("train.tags.tagging.MIN_PICTURES", 2)
    monkeypatch.setattr("train.tags.tag_triplets._NEAR", 0.5)
    monkeypatch.setattr("train.tags.bank.CARRIERS", 1)
    monkeypatch.setattr("export.adapt.run.MIN_TRIPLETS", 8)
    monkeypatch.setattr("export.adapt.run.MIN_HELD_OUT_TRIPLETS", 4)
    monkeypatch.setattr("export.adapt.run.MIN_REFERENCES", 4)
    monkeypatch.setattr("export.adapt.run.MIN_HELD_OUT_REFERENCES", 2)
    monkeypatch.setattr("export.adapt.plan.MIN_STEPS", 1)
    monkeypatch.setattr("export.adapt.pictures.default_groups", _few_words)
    with unflushed():
        yield


def _few_words() -> tuple[WordGroup, ...]:
    return (
        WordGroup("objects", ("t-shirt", "dress", "handbag", "shoes")),
        WordGroup("colours", ("red", "blue", "green", "black", "yellow")),
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 80 photos without any text."""
    folder = tmp_path_factory.mktemp("photos")
    for fields in catalogue():
        (folder / f"{fields['id']}.jpg").write_bytes(picture(fields))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the checkpoint of a tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("backbone") / "clip"
    torch.manual_seed(0)
    save_backbone(create_backbone(BackboneConfig(SHALLOW)), folder)
    return str(folder)


@pytest.fixture
def settings(photos: Path, backbone: str, tmp_path: Path) -> AdaptSettings:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    return AdaptSettings(
        sources=[str(photos)],
        backbone=backbone,
        out=tmp_path / "bundle",
        work=tmp_path / "run",
        recipe=str(recipe),
        sheet=tmp_path / "sheet.png",
        triplets=48,
        map_steps=3,
        compose_steps=3,
        compute=Compute(device="cpu"),
    )


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[BundleSettings]:
    """Skip the export, which has tests of its own; return what is asked of it."""
    asked: list[BundleSettings] = []

    def export(model: Any, folder: Path, settings: BundleSettings, **_: Any) -> Bundle:
        asked.append(settings)
        return Bundle.embedded(verify=False)

    monkeypatch.setattr("export.adapt.bundle.export_bundle", export)
    return asked


def _run(settings: AdaptSettings) -> tuple[Adaptation, list[str]]:
    said: list[str] = []
    return adapt(settings, said.append), said


def test_photos_without_texts_become_a_composing_bundle(
    settings: AdaptSettings, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.adapt.measure.SURE", -1e9)  # random weights gain nothing
    found, said = _run(settings)
    assert found.answers == "composed"
    assert set(found.triplets) <= {"tag-objects", "tag-colours"}
    assert found.gains is not None
    assert set(found.gains.scores) == {"image", "text", "sum", "composed"}
    assert found.bundle.default_method == "composed"
    assert found.bundle.manifest.model_card["quality"]["queries"] == found.gains.queries
    vector = Retriever(found.bundle).reference(photos / "1000.jpg").encode("make it red")
    assert np.isclose(np.linalg.norm(vector), 1, atol=1e-4)
    assert sum(line.startswith("[") for line in said) == 6
    assert settings.sheet is not None
    with Image.open(settings.sheet) as sheet:
        assert sheet.width > 500
    assert not settings.work.exists()


def test_a_model_that_gains_nothing_is_not_kept(settings: AdaptSettings, photos: Path) -> None:
    found, _ = _run(settings)
    assert found.answers == "sum"
    assert "are not better than" in found.why
    bundle = Bundle.load(settings.out)
    assert bundle.methods == ("sum", "image", "text")
    assert bundle.manifest.default is not None
    weight = bundle.manifest.default.weight
    assert found.gains is not None
    assert weight == found.gains.weight
    assert 0 < weight < 1
    card = bundle.manifest.model_card
    assert card["backbone"]["pretrained"] == "clip"  # the checkpoint's folder
    assert not any("random" in limit for limit in card["limits"])
    assert card["quality"]["what"].startswith("held-out photos")
    assert "| `sum` |" in hub_card(bundle.manifest)
    reference = Retriever(bundle).reference(photos / "1000.jpg")
    by_default = reference.encode("make it red")
    np.testing.assert_array_equal(by_default, reference.encode("make it red", "sum"))
    np.testing.assert_array_equal(by_default, reference.encode("make it red", "sum", weight=weight))


def test_the_text_tower_is_read_twice_for_all_words(
    settings: AdaptSettings, exported: list[BundleSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for the objects, once for all words that are tried with the objects found."""
    calls: list[int] = []

    def counted(backbone: Any, texts: Any, *rest: Any, **more: Any) -> Any:
        calls.append(len(texts))
        return text_features(backbone, texts, *rest, **more)

    more = (*_few_words(), WordGroup("materials", ("wool", "silk")), WordGroup("x", ("y", "z")))
    monkeypatch.setattr("export.adapt.pictures.default_groups", lambda: more)
    monkeypatch.setattr("export.adapt.pictures.text_features", counted)
    monkeypatch.setattr("export.adapt.run.MIN_TRIPLETS", 10**9)
    found, _ = _run(settings)
    assert found.answers == "sum"
    assert len(calls) == 2
    assert len(exported) == 1


class _KilledError(Exception):
    pass


@pytest.mark.parametrize(
    "where",
    [
        "export.adapt.pictures.text_features",
        "export.adapt.run.fit_map",
        "export.adapt.run.fit_compose",
        "export.adapt.run.measure",
        "export.adapt.bundle.export_bundle",
    ],
)
@pytest.mark.usefixtures("exported")
def test_a_killed_run_resumes_where_it_was(
    settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def kill(*_: Any, **__: Any) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(where, kill)
        with pytest.raises(_KilledError):
            _run(settings)
    encoded: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.features.encode_pixels", lambda *_, **__: encoded.append(1))
        found, said = _run(settings)
    assert encoded == []  # the photos are encoded once
    assert any(line.startswith("Resuming in") for line in said)
    assert found.photos == 80


@pytest.mark.usefixtures("exported")
def test_a_run_ends_within_its_minutes(
    settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan expects faster steps than there are; the run then ends where its time is over."""
    monkeypatch.setattr("export.adapt.plan._MIN_EXPORT", 0.0)
    monkeypatch.setattr("export.adapt.pictures.Progress.recall", _instant_texts)
    long = replace(settings, minutes=0.2, map_steps=100_000, compose_steps=100_000, keep=True)
    found, _ = _run(long)
    assert found.seconds < 60 * 0.2 + 90  # evaluations are added, slow on a busy machine
    for stage in ("map", "compose"):
        lines = (settings.work / stage / "log.jsonl").read_text().splitlines()
        assert 0 < json.loads(lines[-1])["step"] < 100_000


def _instant_texts(progress: Progress, name: str) -> Any:
    known = progress._state["known"].get(name)
    return 1e-9 if name == "text_seconds" else known


@pytest.mark.usefixtures("exported")
def test_too_little_time_keeps_the_sum(
    settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.adapt.plan.photos_in_time", lambda photos, *_: list(photos))
    monkeypatch.setattr("export.adapt.run.photos_in_time", lambda photos, *_: list(photos))
    found, _ = _run(replace(settings, minutes=0.01))
    assert found.answers == "sum"
    assert re.search(r"there is no time .* here it takes --minutes [1-9]", found.why)


@pytest.mark.usefixtures("exported")
class TestBadInput:
    def test_ten_photos_keep_the_sum(
        self, settings: AdaptSettings, photos: Path, tmp_path: Path
    ) -> None:
        few = tmp_path / "few"
        few.mkdir()
        for path in sorted(photos.iterdir())[:10]:
            (few / path.name).write_bytes(path.read_bytes())
        found, _ = _run(replace(settings, sources=[str(few)]))
        assert found.answers == "sum"
        assert found.why.startswith("10 photos are too few to train on")

    def test_photos_that_no_tag_tells_apart_keep_the_sum(
        self, settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("train.tags.tagging.AGREEMENT", 2.0)
        found, said = _run(settings)
        assert found.answers == "sum"
        assert found.why.startswith("No tag tells these photos apart (objects: ")
        assert any("colours are not used" in line for line in said)

    @pytest.mark.parametrize("name", ["MIN_REFERENCES", "MIN_HELD_OUT_REFERENCES"])
    def test_many_wordings_of_few_pairs_keep_the_sum(
        self, settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(f"export.adapt.run.{name}", 81)
        found, said = _run(settings)
        assert found.answers == "sum"
        assert re.match(r"Only \d+ photos to train on and \d+ held-out ones have a near", found.why)
        assert any(re.search(r"\d+ triplets of \d+ photos \(", line) for line in said)

    def test_an_existing_target_is_kept(self, settings: AdaptSettings) -> None:
        settings.out.mkdir()
        (settings.out / "mine.txt").write_text("mine")
        with pytest.raises(UsageError, match="so that nothing is lost"):
            _run(settings)
        assert not settings.work.exists()

    def test_a_backbone_without_a_text_tower_is_refused(self, settings: AdaptSettings) -> None:
        with pytest.raises(ZtcirError, match="not supported"):
            _run(replace(settings, backbone="coca_ViT-B-32"))

    def test_several_processes_are_refused(
        self, settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match="runs in one process"):
            _run(settings)

    def test_another_adaptation_in_the_folder_is_refused(
        self, settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("export.adapt.run.see", lambda *_: (_ for _ in ()).throw(_KilledError))
            with pytest.raises(_KilledError):
                _run(settings)
        with pytest.raises(ZtcirError, match="holds an adaptation with other settings"):
            _run(replace(settings, seed=5))

    def test_a_full_disk_is_a_sentence(
        self, settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "adapt.json")

        monkeypatch.setattr("export.adapt.clock.write_whole", full)
        with pytest.raises(ZtcirError, match="no room left to write"):
            _run(settings)

    def test_words_that_the_tokenizer_cannot_hold_are_named(
        self, settings: AdaptSettings, tmp_path: Path
    ) -> None:
        words = tmp_path / "words.txt"
        words.write_text(f"[moods]\n{'ab cd ' * 60}\n{'ef gh ' * 60}\n", encoding="utf-8")
        with pytest.raises(ZtcirError, match="too few: ab cd"):
            _run(replace(settings, words=[words]))


def test_the_error_of_a_mean_does_not_shrink_by_asking_again() -> None:
    values = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    usual = values.std(ddof=1) / np.sqrt(5)
    assert np.isclose(clustered_error(values, np.arange(5)), usual)
    assert np.isclose(clustered_error(np.repeat(values, 7), np.repeat(np.arange(5), 7)), usual)
    assert clustered_error(values, np.zeros(5, np.int64)) == np.inf


def test_the_sheet_shows_different_photos_first() -> None:
    triplets = [
        Triplet(str(number), "tag-colours", reference, "red", ("x",))
        for number, reference in enumerate("aaaaabbbcd")
    ]
    assert different(triplets, 4) == [0, 5, 8, 9]
    assert [triplets[place].reference for place in different(triplets, 6)] == list("aabbcd")
    assert different(triplets, 20) == list(range(10))
    assert len(different(triplets, 2)) == 2
    assert different([], 20) == []
