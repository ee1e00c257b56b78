"""The ablation: what its rows change, its rivals' losses, its verdicts, and that it goes on."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tiny_runs import PARTS, write_backbone
from tiny_training import SHALLOW, unflushed, write_collection, write_validation

from benchmarks import readme
from benchmarks.ablation import plot, report
from benchmarks.ablation.__main__ import collect, main, measure_rows
from benchmarks.ablation.bundled_backbone import bundled_backbone, read_backbone
from benchmarks.ablation.fit_rival import fit_rival
from benchmarks.ablation.report import Claim, claims, judge, summarise
from benchmarks.ablation.rivals import (
    RIVALS,
    cosine_loss,
    likeliest_scale,
    masked_caption,
    masked_ids,
    noisy_text,
    projection_model,
    self_masking_loss,
    token_distillation,
    tokenizer_of,
)
from benchmarks.ablation.rows import FROZEN, FULL, ROWS, Row, Settings, choose_rows
from benchmarks.ablation.store import Store
from benchmarks.ablation.training import Workshop, caption_triplets, repeated
from benchmarks.ablation.validation import Scores, Validation, read_validation
from export.bundle import export_bundle
from export.default import Recipe
from train.data import drawn_images, read_collection, read_sources
from train.model import (
    BackboneConfig,
    ComposedModel,
    ModelConfig,
    create_backbone,
    load_backbone,
    load_model,
    text_ids,
)
from train.settings import ComposeTraining, Compute, MapTraining
from train.stages.fit_map import encode_captions
from ztcir_sdk import Retriever
from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.drawings.drawings import draw, training_drawings
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplet_evaluation import ALL_METHODS, evaluate_triplets
from ztcir_sdk.preprocess import Preprocessing

BY_NAME = {row.name: row for row in ROWS}
SETTINGS = Settings(
    map_steps=2, compose_steps=2, triplets=24, drawings=0, inverted=24, inversion_steps=2
)
RECIPE = Recipe(
    parts=PARTS, mapping=MapTraining(batch_size=16), composing=ComposeTraining(batch_size=16)
)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with unflushed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.triplets.stage_two.DEVELOPMENT_TRIPLETS", 8)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, a training split and a validation split with queries."""
    folder = tmp_path_factory.mktemp("data")
    write_backbone(folder)
    write_collection(folder)
    write_validation(folder)
    return folder


def workshop(data: Path, folder: Path, **changes: Any) -> Workshop:
    images, development = read_collection([str(data / "train-*.tar")])
    own = Workshop(
        str(data / "clip"),
        images,
        development,
        SETTINGS,
        folder,
        data / "features",
        recipe=RECIPE,
        compute=Compute(device="cpu"),
    )
    return replace(own, **changes)


def validation(data: Path, own: Workshop) -> Validation:
    gallery, _ = read_sources([str(data / "val-0000.tar")])
    return read_validation(own.frozen, gallery, data / "val-triplets.jsonl", data)


class TestBackbone:
    def test_the_embedded_bundles_own_is_read_back_to_the_bit_that_counts(
        self, tmp_path: Path
    ) -> None:
        bundle = Bundle.embedded()
        folder = bundled_backbone(bundle, tmp_path / "clip")
        model = ComposedModel(load_backbone(str(folder))[0], ModelConfig(adapter_bottleneck=0))
        pictures = [draw(one) for one in training_drawings(3, seed=5)]
        pixels = Preprocessing.from_open_clip(model.backbone.preprocess_cfg)(pictures)
        texts = ["a red dress", "for women, with <end_of_text>"]
        with torch.no_grad():
            v, _ = model.encode_image(torch.from_numpy(pixels))
        own = encode_captions(model, texts, precision="fp32")
        retriever = Retriever(bundle)
        np.testing.assert_allclose(v.numpy(), retriever.encode_images(pictures), atol=1e-5)
        np.testing.assert_allclose(own.numpy(), retriever.encode_texts(texts), atol=1e-5)

    @pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
    def test_graphs_with_another_answer_are_refused(self, tmp_path: Path, graph: str) -> None:
        """Such as one with a weight that was not read."""
        altered = tmp_path / "bundle"
        shutil.copytree(Bundle.embedded().path, altered)
        model = onnx.load(altered / f"{graph}.onnx")
        for one in model.graph.output:
            if one.name in ("image_embeds", "query_embeds"):
                last = next(node for node in model.graph.node if one.name in node.output)
                last.output[0] = "before"
                model.graph.node.append(onnx.helper.make_node("Neg", ["before"], [one.name]))
        onnx.save(model, altered / f"{graph}.onnx")
        with pytest.raises(ZtcirError, match="differs from its graphs"):
            read_backbone(replace(Bundle.embedded(), path=altered))

    def test_graphs_of_another_model_are_refused(self, tmp_path: Path) -> None:
        altered = tmp_path / "bundle"
        shutil.copytree(Bundle.embedded().path, altered)
        shutil.copy(altered / "token_learner.onnx", altered / "text_encoder.onnx")
        with pytest.raises(ZtcirError, match="cannot be read back as a fashion-lite backbone"):
            read_backbone(replace(Bundle.embedded(), path=altered))


class TestRows:
    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("composed", {}),
            ("stage1", {"stage": "map"}),
            ("stage1-without-vsi", {"stage": "map", "vsi": False}),
            ("stage1-without-alignment", {"stage": "map", "alignment": False}),
            ("without-vsi", {"vsi": False}),
            ("without-alignment", {"alignment": False}),
            ("in-batch", {"mined": False}),
            ("triplets-100", {"triplets": 100}),
            ("triplets-1000", {"triplets": 1000}),
            ("triplets-10000", {"triplets": 10000}),
            ("noisy", {"noisy": True}),
            ("captions", {"source": "captions"}),
            ("captions-noisy", {"source": "captions", "noisy": True}),
            ("pic2word", {"stage": "rival", "rival": "pic2word"}),
            ("searle", {"stage": "rival", "rival": "searle"}),
            ("lincir", {"stage": "rival", "rival": "lincir"}),
        ],
    )
    def test_a_row_changes_what_it_names(self, name: str, changes: dict[str, Any]) -> None:
        assert BY_NAME[name].changes() == changes

    @pytest.mark.parametrize(
        ("name", "differing"),
        [
            ("without-vsi", {"parts": {"vsi_layers"}}),
            ("without-alignment", {"mapping": {"alignment"}}),
            ("in-batch", {"composing": {"mined"}}),
            ("triplets-100", {"triplets": set()}),
            ("noisy", {"noise": set()}),
            ("captions", {"source": set()}),
            ("captions-noisy", {"source": set(), "noise": set()}),
        ],
    )
    def test_its_configuration_differs_in_that_alone(
        self, data: Path, tmp_path: Path, name: str, differing: dict[str, set[str]]
    ) -> None:
        own = workshop(data, tmp_path, settings=Settings())
        full, changed = (own.identity(row, 1) for row in (FULL, BY_NAME[name]))
        assert full.keys() == changed.keys()
        found = {
            key: {
                entry
                for entry in full[key]
                if isinstance(full[key], dict) and full[key][entry] != changed[key][entry]
            }
            for key in full
            if full[key] != changed[key]
            if isinstance(full[key], dict)
        } | {
            key: set()
            for key in full
            if full[key] != changed[key]
            if not isinstance(full[key], dict)
        }
        assert found == differing

    def test_rows_share_a_first_stage_where_it_is_the_same(
        self, data: Path, tmp_path: Path
    ) -> None:
        own = workshop(data, tmp_path)
        folders = {row.name: own._folder("map", row, 0) for row in ROWS if row.stage == "compose"}
        folders |= {row.name: own._folder("map", row, 0) for row in ROWS if row.stage == "map"}
        assert len(set(folders.values())) == 3
        assert folders["stage1"] == folders["composed"] == folders["captions"]
        assert folders["stage1-without-vsi"] == folders["without-vsi"]
        assert folders["stage1-without-alignment"] == folders["without-alignment"]
        assert own._folder("map", FULL, 1) != folders["composed"]

    def test_a_row_is_named(self) -> None:
        assert choose_rows(None) == ROWS
        assert [row.name for row in choose_rows(["captions", "stage1"])] == ["stage1", "captions"]
        with pytest.raises(UsageError, match="no row 'nothing': choose from frozen, stage1"):
            choose_rows(["nothing"])
        assert main(["--rows", "nothing"]) == 2

    def test_a_small_set_fills_a_batch(self) -> None:
        assert len(repeated([1] * 100, 256)) == 300  # type: ignore[list-item]
        assert len(repeated([1] * 300, 256)) == 300  # type: ignore[list-item]

    def test_triplets_from_captions_keep_drawings_apart(self) -> None:
        images = drawn_images(60, seed=0)
        photos = [replace(one, item=replace(one.item, id=f"p{one.item.id}")) for one in images]
        made = caption_triplets([*images, *photos], count=20, seed=0, noise=0.0)
        assert {one.reference.startswith("p") for one in made} == {True, False}
        assert all(
            name.startswith("p") == one.reference.startswith("p")
            for one in made
            for name in one.targets
        )


class TestRivals:
    def test_distillation_is_the_papers(self) -> None:
        rng = np.random.default_rng(0)
        inverted, predicted = rng.standard_normal((2, 3, 4))
        both = np.concatenate([inverted, predicted])
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        similar = np.exp(both @ both.T / 0.25)
        expected = 0.0
        for one in range(6):
            partner = (one + 3) % 6
            others = sum(similar[one, other] for other in range(6) if other != one)
            expected -= math.log(similar[one, partner] / others) / 6
        found = token_distillation(torch.tensor(inverted), torch.tensor(predicted), 0.25)
        assert found.item() == pytest.approx(expected, rel=1e-6)

    def test_distillation_by_hand(self) -> None:
        words = torch.eye(2)  # partners equal, all others at right angles
        found = token_distillation(words, 5 * words, 1.0)  # of any length
        assert found.item() == pytest.approx(math.log(1 + 2 / math.e), rel=1e-6)

    def test_the_scale_is_the_one_that_drew_the_pairs(self) -> None:
        """Captions that were drawn with the probabilities that a scale gives."""
        generator = torch.Generator().manual_seed(0)
        images = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator), dim=1)
        for scale in (4.0, 12.0):
            some = torch.nn.functional.normalize(torch.randn(20000, 8, generator=generator), dim=1)
            own = (scale * some @ images.T).softmax(1).multinomial(1, generator=generator)[:, 0]
            # one caption of each image, so that a batch holds it once
            rows = torch.tensor([int((own == image).nonzero()[0]) for image in range(64)])
            found = likeliest_scale(some[rows], images, 64)
            assert found == pytest.approx(scale, rel=0.35)

    def test_cosine_and_squared_error_by_hand(self) -> None:
        one, other = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
        assert cosine_loss(one, other).item() == pytest.approx(0.5)
        assert self_masking_loss(one, other).item() == pytest.approx((1 + 1) / 4)

    def test_noise_is_uniform_times_normal_over_the_projections_scale(self) -> None:
        embeds = torch.zeros(4000, 16)
        noise = noisy_text(embeds, np.random.default_rng(0)).numpy() * 4
        assert noise.std() == pytest.approx(math.sqrt(1 / 3), rel=0.02)  # E[u^2] = 1/3
        lengths = np.sqrt((noise**2).mean(axis=1))
        assert lengths.mean() == pytest.approx(0.5, abs=0.02)  # one u a text
        same = noisy_text(embeds, np.random.default_rng(0)).numpy() * 4
        np.testing.assert_array_equal(noise, same)

    @pytest.mark.parametrize(
        ("caption", "pieces"),
        [
            ("Red dress for women", [None, "for", None]),
            ("a photo of the navy-blue T-shirt", ["a", None, "of the", None]),
            ("Puma Men Black T-shirt", [None]),
            ("for the", ["a photo of", None]),
            ("", ["a photo of", None]),
            ("costs $ 20", [None]),
        ],
    )
    def test_keywords_give_way(self, caption: str, pieces: list[str | None]) -> None:
        assert masked_caption(caption) == pieces

    def test_masked_captions_are_encoded_around_placeholders(self, data: Path) -> None:
        tokenizer = tokenizer_of(load_model(data / "clip")[0])
        plain = text_ids(["for the"])[0].tolist()
        found = masked_ids(tokenizer, [None, "for the", None])
        assert found == [plain[0], -1, *plain[1:-1], -1, plain[-1]]
        long = masked_ids(tokenizer, ["dress " * 40, None, "dress " * 40])
        assert (len(long), long[-1], long[41]) == (tokenizer.context_length, tokenizer.eot, -1)

    def test_several_placeholders_hold_the_same_word(self, data: Path) -> None:
        backbone, _ = load_model(data / "clip")
        model = projection_model(backbone.backbone, "lincir")
        tokenizer = tokenizer_of(model)
        ids = torch.tensor([masked_ids(tokenizer, [None, "for", None])])
        word = torch.randn(1, 1, model.backbone.text_width)
        nothing = torch.zeros(1, 0, 1, 1)
        zero = torch.zeros(1)
        once = model.encode_query(ids, zero.long(), zero, word, nothing, nothing)
        twice = model.encode_query(ids, zero.long(), zero, word.expand(-1, 2, -1), nothing, nothing)
        torch.testing.assert_close(once, twice)

    def test_a_rival_sees_the_embedding_alone_at_length_sqrt_d(self, data: Path) -> None:
        backbone, _ = load_model(data / "clip")
        v = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
        for name in RIVALS:
            model = projection_model(backbone.backbone, name)
            word, keys, values = model.learn_token(v, torch.randn(2, 4, 32))
            network = model.token_learner.network
            torch.testing.assert_close(word[:, 0], network(v * 32**0.5))  # type: ignore[operator]
            assert keys.numel() == values.numel() == 0
            assert not len(model.adapters)

    @pytest.mark.parametrize("rival", list(RIVALS))
    def test_a_killed_rival_goes_on(self, data: Path, tmp_path: Path, rival: str) -> None:
        images, _ = read_collection([str(data / "train-*.tar")])

        def fit(folder: str, stop_after: int | None = None) -> ComposedModel:
            return fit_rival(
                rival,
                str(data / "clip"),
                images,
                RECIPE.mapping,
                SETTINGS,
                tmp_path / folder,
                features=data / "features",
                cache=tmp_path / "texts",
                compute=Compute(device="cpu"),
                stop_after=stop_after,
            )

        whole = fit("whole").token_learner.state_dict()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.loop.run.FIRST_ESTIMATE", 1)
            _save_every_step(patch)
            fit("killed", stop_after=2)
        after = fit("killed").token_learner.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in whole.items())
        fresh = projection_model(load_model(data / "clip")[0].backbone, rival)
        assert any(
            not torch.equal(tensor, after[name])
            for name, tensor in fresh.token_learner.state_dict().items()
        )


def _save_every_step(patch: pytest.MonkeyPatch) -> None:
    from train.loop.run import Run

    start = Run.__init__

    def begin(self: Run, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **{**options, "save_every": 1})

    patch.setattr(Run, "__init__", begin)


class TestRuns:
    def test_rows_are_trained_measured_and_kept(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = workshop(data, tmp_path)
        queries = validation(data, own)
        store = Store(tmp_path / "results", queries.fingerprint)
        rows = choose_rows(["frozen", "stage1", "composed", "without-vsi", "in-batch"])
        measure_rows(own, store, rows, (0, 1), queries)
        mapped = list((tmp_path / "map").iterdir())
        assert len(mapped) == 4  # of two seeds, with VSI and without
        logs = [(folder / "log.jsonl").read_text().splitlines() for folder in mapped]
        assert {len(lines) for lines in logs} == {SETTINGS.map_steps}
        assert "dev_self_R@1" in json.loads(logs[0][0])  # after each quarter: of two steps, each
        assert not list((tmp_path / "compose").iterdir())
        assert "1 left, end expected about" in capsys.readouterr().err
        values = summarise(collect(own, store, (0, 1)))["rows"]
        assert {"image", "oracle", "stage1", "composed", "without-vsi", "in-batch"} < values.keys()
        assert values["image"]["seeds"] == []
        assert values["composed"]["seeds"] == [0, 1]
        assert values["composed"]["mean"]["triplets"] == 24
        assert 0 <= values["stage1"]["mean"]["self_R@1"] <= 1
        measure_rows(own, store, rows, (0, 1), queries)
        assert "9 results are asked for, 9 of them are there." in capsys.readouterr().err

    def test_a_killed_ablation_goes_on_with_the_next_row(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = workshop(data, tmp_path)
        store = Store(tmp_path / "results", "queries")
        asked: list[tuple[str, int]] = []

        def measure(self: Workshop, row: Row, seed: int, _: object) -> dict[str, Scores]:
            asked.append((row.name, seed))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return {row.name: {"mAP@10": 0.25 + seed}}

        monkeypatch.setattr(Workshop, "measure", measure)
        rows = choose_rows(["stage1", "composed"])
        with pytest.raises(KeyboardInterrupt):
            measure_rows(own, store, rows, (0, 1), None)
        assert asked == [("stage1", 0), ("composed", 0), ("stage1", 1)]
        measure_rows(own, store, rows, (0, 1), None)
        assert asked[3:] == [("stage1", 1), ("composed", 1)]
        found = summarise(collect(own, store, (0, 1)))["rows"]
        assert found["composed"]["values"] == {"mAP@10": [0.25, 1.25]}
        # what a result depends on is not the same any more: it is made again
        other = replace(own, settings=replace(SETTINGS, compose_steps=3))
        assert collect(other, store, (0, 1)).keys() == {BY_NAME["stage1"]}
        assert not collect(own, Store(store.folder, "other queries"), (0, 1))

    def test_scores_are_those_of_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # the export's own tests have it; it would take half of this one's time
        monkeypatch.setattr("export.bundle._check_randomised", lambda *_: None)
        torch.manual_seed(0)
        parts = ModelConfig(
            token_learner_width=32,
            token_learner_heads=2,
            token_learner_depth=1,
            vsi_layers=(0,),
            vsi_width=16,
            vsi_heads=2,
            adapter_bottleneck=8,
        )
        model = ComposedModel(create_backbone(BackboneConfig(SHALLOW)), parts).eval()
        with torch.no_grad():
            for part in (model.token_learner, model.vsi, model.adapters):
                for parameter in part.parameters() if part is not None else ():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        write_validation(tmp_path)
        gallery, _ = read_sources([str(tmp_path / "val-0000.tar")])
        queries = read_validation(
            model.backbone, gallery, tmp_path / "val-triplets.jsonl", tmp_path
        )
        bundle = export_bundle(model, tmp_path / "bundle", name="tiny", model_card={})
        command = evaluate_triplets(
            Retriever(bundle, threads=1),
            [tmp_path / "val-0000.tar"],
            tmp_path / "val-triplets.jsonl",
            methods=ALL_METHODS,
            best_sum=True,
        )
        assert command.sum_best is not None
        ours = {
            "composed": queries.composed(model),
            "stage1": queries.composed(model, scale=0.0),
            **queries.frozen(model),
        }
        assert ours.pop("sum-best") == pytest.approx(
            {**command.sum_best.overall, "weight": command.sum_best.weight}
        )
        for name, scores in ours.items():
            assert scores == pytest.approx(dict(command.methods[name].overall)), name


def canned(**levels: Sequence[float]) -> dict[str, Any]:
    """A result file whose rows have these values of every figure, one a seed."""
    default = {
        row.name: [0.2, 0.21, 0.22] for row in ROWS if row.stage in {"compose", "map", "rival"}
    }
    frozen = {"image": [0.01], "text": [0.02], "sum": [0.1], "sum-best": [0.15], "oracle": [0.5]}
    labels = {row.name: row.label for row in ROWS} | dict(report.FROZEN_LABELS)
    rows = {}
    for name, values in {**default, **frozen, **levels}.items():
        figures = {metric: list(values) for metric in ("R@1", "R@5", "R@10", "mAP@10", "self_R@1")}
        if name.startswith("captions"):
            figures["triplets"] = [2400.0] * len(values)
        if name == "sum-best":
            figures["weight"] = [0.6]
        rows[name] = {
            "label": labels[name],
            "changes": {},
            "seeds": list(range(len(values))) if len(values) > 1 else [],
            "values": figures,
            "mean": {metric: statistics.fmean(some) for metric, some in figures.items()},
            "spread": {
                metric: statistics.stdev(some) if len(some) > 1 else 0.0
                for metric, some in figures.items()
            },
            "seconds": [60.0],
        }
    return {
        "date": "2026-11-25T14:17:35+00:00",
        "machine": {"cpu": "Some CPU"},
        "versions": {"torch": "4.5.6"},
        "threads": 2,
        "settings": {**vars(Settings()), "seeds": [0, 1, 2]},
        "data": {"images": 39599, "development": 1840, "queries": 1800, "gallery": 4617},
        "rows": rows,
    }


def row_of(*values: float) -> dict[str, Any]:
    seeds = list(range(len(values))) if len(values) > 1 else []
    return {
        "label": "",
        "seeds": seeds,
        "values": {"mAP@10": list(values)},
        "mean": {"mAP@10": statistics.fmean(values)},
    }


class TestVerdicts:
    @pytest.mark.parametrize(
        ("one", "other", "verdict"),
        [
            ((0.30, 0.31, 0.32), (0.20, 0.21, 0.22), "holds"),
            ((0.20, 0.21, 0.22), (0.30, 0.31, 0.32), "does not hold here"),
            ((0.20, 0.21, 0.22), (0.20, 0.21, 0.22), "does not hold here"),
            # the mean of 0.02 is 1.7 standard errors above zero, and 2.92 are asked for
            ((0.20, 0.22, 0.24), (0.20, 0.20, 0.20), "does not hold here"),
            # 0.03 at a standard error of 0.01 / sqrt(3): 5.2
            ((0.22, 0.23, 0.24), (0.20, 0.20, 0.20), "holds"),
            ((0.22, 0.23, 0.24), (0.20,), "holds"),  # what no seed changes
        ],
    )
    def test_a_difference_must_exceed_its_uncertainty(
        self, one: Sequence[float], other: Sequence[float], verdict: str
    ) -> None:
        rows = {"one": row_of(*one), "other": row_of(*other)}
        numbers, found = judge(Claim("", "", {"one": 1, "other": -1}), rows)
        assert found == verdict
        assert len(numbers) == 3

    def test_seeds_are_paired(self) -> None:
        rows = {"one": row_of(0.1, 0.5, 0.9), "other": row_of(0.09, 0.488, 0.891)}
        assert judge(Claim("", "", {"one": 1, "other": -1}), rows)[1] == "holds"

    def test_what_is_missing_is_not_judged(self) -> None:
        single = {"one": {**row_of(0.1), "seeds": [0]}, "other": {**row_of(0.0), "seeds": [0]}}
        claim = Claim("", "", {"one": 1, "other": -1})
        differences, verdict = judge(claim, single)
        assert differences == pytest.approx([0.1])
        assert verdict == "not judged"
        assert judge(claim, {"one": row_of(0.1, 0.2)}) == ([], "not measured")

    def test_half_of_the_gain(self) -> None:
        full, none = (0.30, 0.31, 0.32), (0.10, 0.11, 0.12)
        for level, verdict in ((0.21, "holds"), (0.19, "does not hold here")):
            values = canned(
                composed=full,
                stage1=none,
                **{"triplets-1000": (level, level + 0.01, level + 0.02)},
            )
            [claim] = [one for one in claims(values["rows"]) if "1 000 triplets" in one.compared]
            numbers, found = judge(claim, values["rows"])
            assert found == verdict
            assert numbers == pytest.approx([level - 0.2] * 3)

    def test_half_of_no_gain_is_no_mark(self) -> None:
        values = canned(composed=(0.10, 0.11, 0.12), stage1=(0.30, 0.31, 0.32))
        found = [judge(one, values["rows"]) for one in claims(values["rows"]) if one.given]
        assert len(found) == 4
        assert all(min(numbers) >= -1e-9 for numbers, _ in found)
        assert {verdict for _, verdict in found} == {"does not hold here"}

    def test_the_method_is_held_against_the_best_of_the_others(self) -> None:
        values = canned(composed=(0.30, 0.31, 0.32), searle=(0.25, 0.26, 0.27))
        claim = claims(values["rows"])[-1]
        assert claim.terms == {"composed": 1, "searle": -1}
        assert "SEARLE-like" in claim.compared
        values = canned(composed=(0.30, 0.31, 0.32), **{"sum-best": (0.31,)})
        claim = claims(values["rows"])[-1]
        assert claim.terms == {"composed": 1, "sum-best": -1}
        assert judge(claim, values["rows"])[1] == "does not hold here"


class TestPage:
    @pytest.fixture
    def page(self, tmp_path: Path) -> Path:
        marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in report.REGIONS)
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "method.md").write_text(f"# Method\n{marks}end\n")
        marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in readme.REGIONS)
        (tmp_path / "README.md").write_text(marks)
        (tmp_path / "ablation.json").write_text(json.dumps(canned(composed=(0.3, 0.31, 0.32))))
        return tmp_path

    def fill(self, page: Path, *arguments: str) -> int:
        return readme.main(["--root", str(page), "--results", str(page), *arguments])

    def test_it_says_what_the_file_says(self, page: Path) -> None:
        assert self.fill(page, "--check") == 1
        assert self.fill(page) == 0
        lines = (page / "docs" / "method.md").read_text().splitlines()
        figures = " | ".join(["0.310 ± 0.010"] * 4)
        assert f"| full method | {figures} | 62% |" in lines
        oracle = (
            "| oracle: the answer's attributes as text | 0.500 | 0.500 | 0.500 | 0.500 | 100% |"
        )
        assert lines.count(oracle) == 3
        assert (
            "| composing must be trained | composed above Stage I alone | mAP@10 "
            "| +0.100 ± 0.000 | holds |" in lines
        )
        assert any(
            line.startswith("| sum, at its best weight of the text (0.6) |") for line in lines
        )
        assert any(line.startswith("| 2 400 from captions, 30% wrong |") for line in lines)
        steps = f"{Settings.map_steps + Settings.compose_steps} of each rival"
        assert any("3 seeds" in line and steps in line for line in lines)
        assert self.fill(page, "--check") == 0

    def test_a_changed_figure_is_seen(self, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.fill(page)
        text = (page / "docs" / "method.md").read_text()
        (page / "docs" / "method.md").write_text(text.replace("0.310", "0.410", 1))
        assert self.fill(page, "--check") == 1
        assert "In method.md, 'ablation-" in capsys.readouterr().err
        (page / "docs" / "method.md").write_text(text)
        (page / "ablation.json").unlink()
        assert self.fill(page, "--check") == 1
        assert "make it with `python -m benchmarks.ablation`" in capsys.readouterr().err

    def test_rows_that_are_missing_leave_the_rest(self, page: Path) -> None:
        values = canned()
        for name in ("captions", "captions-noisy", "searle", "stage1", "sum-best"):
            del values["rows"][name]
        (page / "ablation.json").write_text(json.dumps(values))
        assert self.fill(page) == 0
        text = (page / "docs" / "method.md").read_text()
        assert "| - | not measured |" in text

    def test_the_plot_says_which_figures_it_shows(self, page: Path) -> None:
        self.fill(page)
        path = page / "docs" / "ablation-triplets.png"
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
        values = json.loads((page / "ablation.json").read_text())
        assert [number for number, *_ in plot.points(values)] == [0, 100, 1000, 10000, 40000]
        assert plot.is_current(path, values)
        changed = copy.deepcopy(values)
        changed["rows"]["triplets-100"]["mean"]["mAP@10"] = 0.123
        assert not plot.is_current(path, changed)
        assert not plot.is_current(page / "nowhere.png", values)
        path.unlink()
        assert self.fill(page, "--check") == 1
        assert self.fill(page) == 0
        assert plot.is_current(path, values)


def test_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--catalogue", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert issubclass(UsageError, ZtcirError)
    assert FROZEN in ROWS


def test_a_full_disk_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/ablation/log.jsonl")

    monkeypatch.setattr("benchmarks.ablation.__main__.run", full)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "Error: There is no room left to write runs/ablation/log.jsonl" in said
    assert "Free some space" in said
