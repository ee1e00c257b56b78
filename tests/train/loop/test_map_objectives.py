"""Stage I's further losses and the average of weights: switches that are off by default."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import PARTS, TRAINING, drawings, write_backbone
from tiny_training import VIT, saved_every, tiny_model

from train.data import DataError, ShardStream
from train.loop.averaging import Average
from train.model import ComposedModel, load_model
from train.settings import Compute, MapTraining, StageSettings
from train.stages.fit_map import fit_map
from train.stages.losses import token_similarity
from train.stages.map_objectives import map_objectives
from train.triplets.from_captions import caption_edits
from ztcir_sdk.errors import UsageError

BEFORE = [3.41145, 3.30340, 3.00802, 3.41793]
"""Losses of a tiny run in fp32 before these losses existed."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    write_backbone(folder)
    return folder


def run(
    workplace: Path, name: str, config: MapTraining, *, tokens: int = 1, **compute: Any
) -> list[dict[str, Any]]:
    """Train a tiny Stage I; return its log."""
    images, development = drawings(44)
    fit_map(
        str(workplace / "clip"),
        images,
        development,
        config,
        dataclasses.replace(PARTS, tokens=tokens),
        StageSettings(
            workplace / name,
            workplace / "cache",
            compute=Compute(precision="fp32", device="cpu", **compute),
        ),
    )
    return log(workplace / name)


def log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def column(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines]


def test_without_a_switch_a_run_is_what_it_was(workplace: Path) -> None:
    lines = run(workplace, "plain", TRAINING)
    assert column(lines, "loss") == pytest.approx(BEFORE, abs=0.01)
    config = json.loads((workplace / "plain" / "last" / "config.json").read_text("utf-8"))
    added = {"self_masking", "anchored", "diversity", "ema", "clip"}
    assert not added & config["training"].keys()
    assert not (workplace / "plain" / "last" / "average.safetensors").exists()


def test_each_loss_is_logged_and_changes_the_run_and_micro_batches_do_not(workplace: Path) -> None:
    on = dataclasses.replace(TRAINING, self_masking=0.5, anchored=0.5)
    whole = run(workplace, "on", on)
    assert column(whole, "loss") != pytest.approx(BEFORE, abs=0.05)
    for name in ("self_masking", "anchored"):
        assert min(column(whole, name)) > 0
    pieces = run(workplace, "on-pieces", on, micro_batches=3)
    assert column(pieces, "loss") == pytest.approx(column(whole, "loss"), abs=2e-5)


def test_several_words_are_kept_apart(workplace: Path) -> None:
    found = [
        column(run(workplace, f"apart-{weight}", config, tokens=3), "diversity")
        for weight in (0.001, 30.0)
        for config in [dataclasses.replace(TRAINING, epochs=4, diversity=weight)]
    ]
    assert found[1][-1] < found[0][-1]


def test_similarity_of_words_by_hand() -> None:
    same = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    apart = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    half = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # cosine 0.71, squared 0.5
    found = token_similarity(torch.stack([same, apart, half]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5]))


@pytest.fixture(scope="module")
def model() -> ComposedModel:
    return tiny_model(VIT)


def test_self_masking_needs_no_image(model: ComposedModel) -> None:
    images, _ = drawings(8)
    width = model.backbone.embed_dim
    seen: list[str] = []

    def embed(texts: Any) -> np.ndarray:
        seen.extend(texts)
        return np.eye(width, dtype=np.float32)[np.arange(len(texts)) % width]

    [objective] = map_objectives(model, images, MapTraining(self_masking=1.0), embed)
    assert set(seen) == {image.item.caption for image in images}
    rows = np.array([1, 4, 6])
    v, patches = torch.randn(2, 3, width), torch.randn(2, 3, 4, model.backbone.patch_dim)
    references = [model.learn_token(v[one], patches[one]) for one in (0, 1)]
    objective.begin(5, rows)
    first, second = (objective.encode(rows, reference) for reference in references)
    assert torch.equal(first, second)
    objective.begin(6, rows)
    assert not torch.equal(objective.encode(rows, references[0]), first)  # other noise
    loss = objective.loss(first, rows)
    assert loss is not None
    targets = torch.from_numpy(embed([image.item.caption for image in images]))
    exact = objective.loss(targets[: len(rows)], rows)
    assert exact is not None
    assert loss.item() > 0


def test_edited_captions_differ_by_the_phrase_that_the_text_names() -> None:
    colours, things = ("red", "blue", "green"), ("dress", "shirt", "car")
    captions = [f"A {c} {t} on a table" for c, t in itertools.product(colours, things)]
    given = [*captions, "", "nothing like it at all"]
    edits = caption_edits(given, seed=0)
    assert edits[-2:] == [None, None]
    for caption, edit in zip(captions, edits, strict=False):
        assert edit is not None
        text, edited = edit
        before, after = caption.lower().split(), edited.split()
        [new] = {*after} - {*before}
        assert new in {*colours, *things}
        assert new in text.lower() or len(text.split()) > 1  # a typing error may be in it
    assert caption_edits(given, seed=0) == edits


@pytest.mark.parametrize(
    ("changes", "tokens", "error", "sentence"),
    [
        ({"diversity": 1.0}, 1, UsageError, "add --tokens 2"),
        ({"self_masking": 1.0}, 2, UsageError, "add --tokens 1"),
    ],
)
def test_a_loss_that_does_not_fit_the_model_is_refused(
    workplace: Path,
    changes: dict[str, Any],
    tokens: int,
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        run(workplace, "refused", dataclasses.replace(TRAINING, **changes), tokens=tokens)


def test_losses_on_captions_are_refused_without_captions_and_of_a_stream(workplace: Path) -> None:
    config = dataclasses.replace(TRAINING, anchored=1.0)
    images, development = drawings(20)
    bare = [
        dataclasses.replace(image, item=dataclasses.replace(image.item, caption=""))
        for image in images
    ]
    settings = StageSettings(workplace / "refused", steps=2, compute=Compute(device="cpu"))
    for some, sentence in ((bare, "no image has one"), (ShardStream(["x.tar"]), "leave out")):
        with pytest.raises((UsageError, DataError), match=sentence):
            fit_map("nowhere", some, development, config, PARTS, settings)


# --- the average of weights ----------------------------------------------------------------------


def test_the_average_by_hand_and_in_place_of_the_weights() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = Average({"m": module}, 0.5)
    module.weight.data.fill_(11.0)
    average.update(0)  # the first step keeps a tenth
    assert average.tensors["m.weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    module.weight.data.fill_(0.0)
    average.update(99)
    assert average.tensors["m.weight"].item() == pytest.approx(5.0)
    with average.applied():
        assert module.weight.item() == pytest.approx(5.0)
    assert module.weight.item() == 0.0


def test_best_holds_the_average_last_the_weights_and_a_killed_run_resumes(workplace: Path) -> None:
    config = dataclasses.replace(TRAINING, ema=0.9, clip=0.0)
    whole = run(workplace, "averaged", config)
    assert column(whole, "loss")[0] == pytest.approx(BEFORE[0], abs=0.01)
    assert column(whole, "loss")[2:] != pytest.approx(BEFORE[2:], abs=1e-4)  # not clipped
    last, _ = load_model(workplace / "averaged" / "last")
    best, _ = load_model(workplace / "averaged" / "best")
    assert any(
        not torch.equal(a, b) for a, b in zip(last.parameters(), best.parameters(), strict=True)
    )
    images, development = drawings(44)
    with saved_every(2):
        for stop in (2, None):
            fit_map(
                str(workplace / "clip"),
                images,
                development,
                config,
                PARTS,
                StageSettings(
                    workplace / "killed",
                    workplace / "cache",
                    compute=Compute(precision="fp32", device="cpu"),
                    stop_after=stop,
                ),
            )
    assert column(log(workplace / "killed"), "loss") == column(whole, "loss")
    again, _ = load_model(workplace / "killed" / "best")
    for one, other in zip(again.parameters(), best.parameters(), strict=True):
        assert torch.equal(one, other)
