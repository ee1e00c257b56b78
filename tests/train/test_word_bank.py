"""Images without captions are aligned with the nearest words of a word bank."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import PARTS, TRAINING, drawings, write_backbone

from train.data import DataError, TrainingImage
from train.settings import Compute, StageSettings
from train.stages.fit_map import fit_map
from train.stages.losses import nearest_word_alignment, soft_text_alignment
from train.stages.map_batches import Captions
from train.stages.word_bank import TextAlignment, WordBank, default_words, read_words

TAU = {"temperature": 0.05, "target_temperature": 0.04}


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@given(nearest=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_divergence_is_from_the_nearest_words_alone(nearest: int, seed: int) -> None:
    queries, words, images = unit(3, 8, seed=seed), unit(7, 8, seed=seed + 1), unit(3, 8, seed=2)
    got = float(nearest_word_alignment(queries, words, images, nearest, 0.05, 0.02))
    expected = 0.0
    for q, v in zip(queries.double().numpy(), images.double().numpy(), strict=True):
        predicted = np.exp(words.double().numpy() @ q / 0.05)
        predicted /= predicted.sum()
        near = np.argsort(-(words.double().numpy() @ v))[:nearest]
        target = np.exp(words.double().numpy()[near] @ v / 0.02)
        target /= target.sum()
        expected += float((target * np.log(target / predicted[near])).sum()) / 3
    assert got == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("captioned", [[True] * 4, [False] * 4, [True, False, False, True]])
def test_each_image_is_aligned_with_its_caption_or_with_words(captioned: list[bool]) -> None:
    words = unit(7, 8, seed=5)
    queries, images = unit(4, 8, seed=6), unit(4, 8, seed=7)
    alignment = TextAlignment(words, nearest=2, word_temperature=0.02, **TAU)
    said, texts = torch.tensor(captioned), unit(sum(captioned), 8, seed=4)
    expected = 0.0
    if said.any():
        expected += float(soft_text_alignment(queries[said], texts, texts, *TAU.values())) * int(
            said.sum()
        )
    if not said.all():
        expected += float(
            nearest_word_alignment(queries[~said], words, images[~said], 2, 0.05, 0.02)
        ) * int((~said).sum())
    loss = alignment.loss(queries, images, np.array(captioned), texts)
    assert float(loss) == pytest.approx(expected / 4, rel=1e-5)


def test_captions_are_found_after_images_without_one() -> None:
    embeds = unit(3, 8, seed=4).numpy()
    captions = Captions(embeds, np.array([False, True, False, True, True]))
    captioned, found = captions.rows(np.array([4, 0, 3]))
    assert captioned.tolist() == [True, False, True]
    np.testing.assert_array_equal(found, embeds[[2, 1]])


def test_the_default_words_are_the_datas_own_and_common_ones() -> None:
    images, _ = drawings(30)
    words = default_words(images)
    assert {images[0].item.type.lower(), images[0].item.colour.lower()} <= set(words)
    assert {"striped", "goldfish"} <= set(words)  # common attributes; ImageNet's objects
    assert len(words) == len(set(words)) > 1000


def test_each_word_of_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("red\n  blue   car \n\nred\n", encoding="utf-8")
    assert read_words(path) == ("red", "blue car")
    path.write_text("red\n", encoding="utf-8")
    with pytest.raises(DataError, match="has 1 words, but needs at least 2"):
        read_words(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_words(tmp_path / "none.txt")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    write_backbone(folder)
    return folder


def without_captions(images: list[TrainingImage], every: int) -> list[TrainingImage]:
    return [
        dataclasses.replace(image, item=dataclasses.replace(image.item, caption=""))
        if number % every == 0
        else image
        for number, image in enumerate(images)
    ]


def train(workplace: Path, name: str, every: int, bank: WordBank | None) -> tuple[Any, Any]:
    """Configuration and log of a run in which one of ``every`` images has no caption."""
    images, development = drawings(44)
    out = workplace / name
    fit_map(
        str(workplace / "clip"),
        without_captions(images, every),
        development,
        TRAINING,
        PARTS,
        StageSettings(out, workplace / "cache", compute=Compute(device="cpu")),
        word_bank=bank,
    )
    config = json.loads((out / "last" / "config.json").read_text(encoding="utf-8"))
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return config, [json.loads(line) for line in lines]


@pytest.mark.parametrize("every", [1, 3])
def test_stage_i_trains_without_captions(workplace: Path, every: int) -> None:
    bank = WordBank(("a shirt", "a shoe", "a dress", "red", "blue", "striped"), nearest=3)
    config, log = train(workplace, f"words-{every}", every, bank)
    assert config["word_bank"] == bank.describe()
    assert all(entry["alignment"] > 0 for entry in log)
    other = WordBank(("a bag", "a hat", "a sock", "green", "black", "plain"), nearest=3)
    _, log_of_others = train(workplace, f"others-{every}", every, other)
    assert log[0]["info_nce"] == log_of_others[0]["info_nce"]
    assert log[0]["alignment"] != log_of_others[0]["alignment"]


def test_a_default_bank_is_made_only_if_it_is_needed(workplace: Path) -> None:
    config, _ = train(workplace, "default", 1, None)
    assert config["word_bank"]["words"] > 1000
    config, _ = train(workplace, "captioned", 1000, WordBank(("red", "blue")))
    # image 0 alone has none
    assert config["word_bank"]["words"] == 2
