"""The ablation: what its rows change, its trainings, and that it resumes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported import shallow_model
from tiny_ablation import SETTINGS, tiny_validation, tiny_workshop
from tiny_training import unflushed, write_validation

from benchmarks.ablation.__main__ import collect, main, measure_rows
from benchmarks.ablation.earlier import read_results, take_results
from benchmarks.ablation.report import FROZEN_LABELS, summarise
from benchmarks.ablation.rows import FROZEN, FULL, ROWS, Row, Settings, choose_rows
from benchmarks.ablation.store import Store
from benchmarks.ablation.training import Workshop, caption_triplets, repeated
from benchmarks.ablation.validation import Scores, read_validation
from benchmarks.provenance import provenance
from export.bundle import BundleSettings, export_bundle
from export.bundled_backbone import bundled_backbone, read_backbone
from export.storage import round_weights
from train.data import drawn_images, read_sources
from train.model import ComposedModel, ModelConfig, load_backbone
from train.stages.frozen_captions import encode_captions
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import draw, training_drawings
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplet_evaluation import (
    ALL_METHODS,
    TripletEvaluation,
    evaluate_triplets,
)
from ztcir_sdk.preprocess import Preprocessing

BY_NAME = {row.name: row for row in ROWS}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with unflushed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.triplets.stage_two.DEVELOPMENT_TRIPLETS", 8)
        yield


class TestBackbone:
    def test_the_embedded_bundles_backbone_is_read_back(self, tmp_path: Path) -> None:
        bundle = Bundle.embedded()
        folder = bundled_backbone(bundle, tmp_path / "clip")
        model = ComposedModel(load_backbone(str(folder))[0], ModelConfig(adapter_bottleneck=0))
        pictures = [draw(one) for one in training_drawings(3, seed=5)]
        pixels = Preprocessing.from_open_clip(model.backbone.preprocess_cfg)(pictures)
        texts = ["a red dress", "for women, with <end_of_text>"]
        with torch.no_grad():
            v, _ = model.encode_image(torch.from_numpy(pixels))
        own = encode_captions(model, texts, precision="fp32")
        retriever = Retriever(bundle, precision="fp32")
        np.testing.assert_allclose(v.numpy(), retriever.encode_images(pictures), atol=1e-5)
        np.testing.assert_allclose(own.numpy(), retriever.encode_texts(texts), atol=1e-5)

    @pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
    def test_graphs_with_other_results_are_refused(self, tmp_path: Path, graph: str) -> None:
        """For example, because a weight was not read."""
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
            ("stage1-longer", {"stage": "map", "longer": True}),
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
            ("tags", {"source": "tags", "triplets": 20000, "mined": False}),
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
    def test_only_the_named_configuration_differs(
        self, ablation_data: Path, tmp_path: Path, name: str, differing: dict[str, set[str]]
    ) -> None:
        own = tiny_workshop(ablation_data, tmp_path, settings=Settings())
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

    def test_rows_share_stage_one_if_it_is_equal(self, ablation_data: Path, tmp_path: Path) -> None:
        own = tiny_workshop(ablation_data, tmp_path)
        rows = choose_rows(None)
        folders = {row.name: own._folder("map", row, 0) for row in rows if row.stage == "compose"}
        folders |= {row.name: own._folder("map", row, 0) for row in rows if row.stage == "map"}
        assert len(set(folders.values())) == 5
        assert list(folders.values()).count(folders["stage1-longer"]) == 1
        both = own.settings.map_steps + own.settings.compose_steps
        assert own._map_steps(BY_NAME["stage1-longer"]) == both
        assert folders["stage1"] == folders["composed"] == folders["captions"]
        assert folders["stage1-without-vsi"] == folders["without-vsi"]
        assert folders["stage1-without-alignment"] == folders["without-alignment"]
        assert own._folder("map", FULL, 1) != folders["composed"]
        assert list(folders.values()).count(folders["tags"]) == 1

    def test_photos_alone_are_trained_on_without_their_texts(
        self, ablation_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("train.tags.tagging.AGREEMENT", 0.0)  # the weights are random
        own = tiny_workshop(ablation_data, tmp_path)
        images, development = own._images(BY_NAME["tags"])
        assert [one.item.id for one in images] == [one.item.id for one in own.images]
        texts = {one.item.caption for one in (*images, *development)}
        assert not any("Acme" in text for text in texts)
        assert {one.item.colour for one in (*images, *development)} == {""}
        data = own.triplets(BY_NAME["tags"], 0)
        assert data.triplets
        assert all(one.kind.startswith("tag-") for one in data.triplets)

    def test_rows_are_chosen_by_name(self) -> None:
        assert choose_rows(None) == tuple(row for row in ROWS if not row.option)
        assert [row.name for row in choose_rows(["ema", "composed"])] == ["composed", "ema"]
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


class TestRuns:
    def test_rows_are_trained_measured_and_kept(
        self, ablation_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = tiny_workshop(ablation_data, tmp_path)
        queries = tiny_validation(ablation_data, own)
        store = Store(tmp_path / "results", queries.fingerprint)
        rows = choose_rows(["frozen", "stage1", "composed", "without-vsi", "in-batch"])
        measure_rows(own, store, rows, (0, 1), queries)
        mapped = list((tmp_path / "map").iterdir())
        assert len(mapped) == 4  # of two seeds, with VSI and without
        logs = [(folder / "log.jsonl").read_text().splitlines() for folder in mapped]
        assert {len(lines) for lines in logs} == {SETTINGS.map_steps}
        assert all("dev_self_R@1" in json.loads(lines[-1]) for lines in logs)
        assert not list((tmp_path / "compose").iterdir())
        assert "1 left, end expected about" in capsys.readouterr().err
        values = summarise(collect(own, store, (0, 1)))["rows"]
        assert {"image", "oracle", "stage1", "composed", "without-vsi", "in-batch"} < values.keys()
        assert values["image"]["seeds"] == []
        assert values["composed"]["seeds"] == [0, 1]
        assert values["composed"]["mean"]["triplets"] == 24
        assert 0 <= values["stage1"]["mean"]["self_R@1"] <= 1
        measure_rows(own, store, rows, (0, 1), queries)
        assert "9 results are requested; 9 are done already." in capsys.readouterr().err

    def test_an_interrupted_ablation_resumes_with_the_next_row(
        self, ablation_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = tiny_workshop(ablation_data, tmp_path)
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
        # a result whose settings differ is measured again
        other = replace(own, settings=replace(SETTINGS, compose_steps=3))
        assert collect(other, store, (0, 1)).keys() == {BY_NAME["stage1"]}
        assert not collect(own, Store(store.folder, "other queries"), (0, 1))

    def test_earlier_results_are_taken_from_their_file(
        self, ablation_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured: list[tuple[str, int]] = []

        def measure(self: Workshop, row: Row, seed: int, _: object) -> dict[str, Scores]:
            measured.append((row.name, seed))
            names = FROZEN_LABELS if row == FROZEN else [row.name]
            return {name: {"mAP@10": 0.25 + seed, "R@1": 0.5} for name in names}

        monkeypatch.setattr(Workshop, "measure", measure)
        own = tiny_workshop(ablation_data, tmp_path)
        rows = choose_rows(["frozen", "stage1", "tokens-3"])
        first = Store(tmp_path / "first", "queries")
        measure_rows(own, first, rows, (0,), None)
        described = {"settings": asdict(own.settings), "data": {"images": 24}}
        values = {
            **provenance("2026-01-02T03:04:05+00:00", 2, None),
            "settings": {**described["settings"], "seeds": [0]},
            "data": {"images": 24, "sources": 1},
            **summarise(collect(own, first, (0,))),
        }
        path = tmp_path / "first.json"
        path.write_text(json.dumps(values))
        second = Store(tmp_path / "second", "queries")
        take_results(path, described, own, second)
        measure_rows(own, second, rows, (0, 1), None)
        assert measured[3:] == [("stage1", 1), ("tokens-3", 1)]
        found = summarise(collect(own, second, (0, 1)))["rows"]
        assert found["stage1"]["values"]["mAP@10"] == [0.25, 1.25]
        for name in ("image", "oracle"):
            assert found[name] == values["rows"][name]
        assert found["stage1"]["measured"][0] == values["rows"]["stage1"]["measured"][0]
        # what a file had no origins for was measured when and where the file was
        for row in values["rows"].values():
            del row["measured"]
        values["rows"]["tokens-3"]["changes"] = {"vsi": False}  # the name stood for something else
        taken = {row.name: result for row, _, result in read_results(values)}
        assert taken.keys() == {"frozen", "stage1"}
        assert taken["stage1"]["measured"]["date"] == "2026-01-02T03:04:05+00:00"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "is no result file of the ablation"),
            ('{"rows": {}}', "is no result file of the ablation"),
            (None, "is no result file of the ablation.*No such file"),
            ('{"map_steps": 3, "images": 24}', r"other settings or data: \['map_steps'\]"),
            ('{"map_steps": 2, "images": 25}', r"other settings or data: \['images'\]"),
        ],
    )
    def test_results_of_something_else_are_refused(
        self, ablation_data: Path, tmp_path: Path, content: str | None, message: str
    ) -> None:
        own = tiny_workshop(ablation_data, tmp_path)
        path = tmp_path / "other.json"
        if content is not None and "images" in content:
            both = json.loads(content)
            values = {"settings": both, "data": both, "rows": {}, **provenance("2026", 2, None)}
            content = json.dumps(values)
        if content is not None:
            path.write_text(content)
        described = {"settings": {"map_steps": 2}, "data": {"images": 24}}
        with pytest.raises(UsageError, match=message):
            take_results(path, described, own, Store(tmp_path / "results", "queries"))

    @pytest.mark.usefixtures("export_cache")
    def test_scores_equal_those_of_ztcir_eval_triplets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # the tests of the export have this check, which would take half of this test's time
        monkeypatch.setattr("export.bundle._check_randomised", lambda *_: None)
        model = round_weights(shallow_model())  # which other tests export too
        write_validation(tmp_path)
        gallery, _ = read_sources([str(tmp_path / "val-0000.tar")])
        queries = read_validation(
            model.backbone, gallery, tmp_path / "val-triplets.jsonl", tmp_path
        )
        bundle = export_bundle(model, tmp_path / "bundle", BundleSettings("tiny"))
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
        self._compare_open_requests(model, tmp_path, command, ours)

    def _compare_open_requests(
        self,
        model: ComposedModel,
        folder: Path,
        command: TripletEvaluation,
        ours: dict[str, Scores],
    ) -> None:
        """The same queries once more, as open requests of two kinds, beside the tidy ones."""
        lines = (folder / "val-triplets.jsonl").read_text().splitlines()
        kinds = ["long" if number % 2 else "not" for number in range(len(lines))]
        wild = folder / "val-open-triplets.jsonl"
        wild.write_text(
            "".join(
                json.dumps({**json.loads(line), "id": f"open-{kind}-{number}", "kind": kind}) + "\n"
                for number, (line, kind) in enumerate(zip(lines, kinds, strict=True))
            )
        )
        gallery, _ = read_sources([str(folder / "val-0000.tar")])
        both = read_validation(
            model.backbone, gallery, folder / "val-triplets.jsonl", folder, wild
        ).composed(model)
        alone = command.methods["composed"].overall["mAP@10"]
        tidy = ours["composed"]
        assert {name: both[name] for name in tidy} == pytest.approx(tidy)
        assert both["open mAP@10"] == pytest.approx(alone)
        shares = [kinds.count(kind) / len(kinds) for kind in ("long", "not")]
        parts = both["long mAP@10"] * shares[0] + both["not mAP@10"] * shares[1]
        assert parts == pytest.approx(alone)


def test_a_missing_catalogue_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--catalogue", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert issubclass(UsageError, ZtcirError)
    assert FROZEN in ROWS


def test_a_full_disk_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/ablation/log.jsonl")

    monkeypatch.setattr("benchmarks.ablation.__main__.run", full)
    assert main([]) == 1
    message = capsys.readouterr().err
    assert "Error: There is no room left to write runs/ablation/log.jsonl" in message
    assert "Free some space" in message
