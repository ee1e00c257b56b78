"""Fixtures of the tests of export/ and benchmarks/, a plugin of `tests/conftest.py`.

Imports are inside the fixtures, because the tests of the SDK run without PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from export_cache import ExportCache
    from exported import Exported


@pytest.fixture(scope="session")
def torch() -> Any:
    pytest.importorskip("open_clip", reason="PyTorch's side needs the train extra")
    return pytest.importorskip("torch", reason="PyTorch's side needs the train extra")


@pytest.fixture(scope="session")
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportCache]:
    """Export each graph once for all tests and workers."""
    from export_cache import cached_exports

    with cached_exports(tmp_path_factory) as cache:
        yield cache


@pytest.fixture(scope="session")
def vit(export_cache: ExportCache, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A transformer with random trained parts."""
    from export_cache import made_once
    from exported import Exported, export_to
    from tiny_training import PARTS, VIT, tiny_model

    from export.bundle import BundleSettings

    model = tiny_model(VIT, PARTS)
    settings = BundleSettings("tiny", {"backbone": "tiny"})
    made = made_once(tmp_path_factory, "vit", lambda folder: export_to(folder, model, settings))
    return Exported.load(model, made)


@pytest.fixture(scope="session")
def small_convnet(export_cache: ExportCache, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A convnet, exported from a checkpoint by the command line with --small; not rounded."""
    from export_cache import made_once
    from exported import Exported, shallow_model, write_run, ztcir
    from tiny_training import SHALLOW

    from ztcir_sdk.hub import CARD

    model = shallow_model()

    def export(folder: Path) -> None:
        write_run(folder / "run", model, "compose")
        bundle = folder / "bundle"
        with pytest.MonkeyPatch.context() as patch:
            # All parts are random already, and `vit` is exported with this check.
            patch.setattr("export.bundle._check_randomised", lambda *_: None)
            result = ztcir("export", folder / "run", "-o", bundle, "--small", "--json")
        assert result.exit_code == 0, (result.output, result.exception)
        report = json.loads(result.stdout)
        assert report["bundle"] == str(bundle)
        assert report["name"] == SHALLOW
        beside = {"bundle.json", CARD}  # what describes the files that the manifest lists
        assert report["bytes"] == sum(
            path.stat().st_size for path in bundle.iterdir() if path.name not in beside
        )
        assert all(line in result.stderr for line in report["checks"])
        (folder / "lines.json").write_text(json.dumps(report["checks"]))

    return Exported.load(model, made_once(tmp_path_factory, "convnet", export))


@pytest.fixture(scope="session")
def three_precisions(
    export_cache: ExportCache, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """A transformer without trained parts, at random weights, in all three precisions."""
    from export_cache import made_once
    from exported import Exported, export_to, few_images
    from tiny_training import VIT, tiny_model

    from export.bundle import BundleSettings
    from export.precision import Acceptance

    backbone = tiny_model(VIT).backbone
    settings = BundleSettings(
        "tiny", precisions=("fp16", "fp32", "int8"), acceptance=Acceptance(trained=False)
    )

    def export(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            few_images(patch)
            export_to(folder, backbone, settings)

    return Exported.load(backbone, made_once(tmp_path_factory, "precisions", export))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pictures of several sizes and formats."""
    from ztcir_sdk.drawings.drawings import draw, training_drawings

    folder = tmp_path_factory.mktemp("pictures")
    sizes = ((48, 64), (64, 48), (33, 90))
    paths = [folder / f"{number}.{kind}" for number, kind in enumerate(("png", "jpg", "png"))]
    for drawing, size, path in zip(training_drawings(3, 0), sizes, paths, strict=True):
        draw(drawing, size).save(path)
    return paths


@pytest.fixture(scope="session")
def ablation_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, a training split and a validation split with queries."""
    from tiny_ablation import write_ablation_data

    folder = tmp_path_factory.mktemp("data")
    write_ablation_data(folder)
    return folder
