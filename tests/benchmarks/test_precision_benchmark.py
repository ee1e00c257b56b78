"""The command `python -m benchmarks.precision`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from exported import shallow_model
from tiny_training import SHALLOW

from benchmarks import precision, readme
from export.storage import round_weights


@pytest.mark.usefixtures("export_cache")
def test_every_quantization_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = round_weights(shallow_model())  # which other tests export too
    monkeypatch.setattr(precision, "random_model", lambda name: contextlib.nullcontext(model))
    out = tmp_path / "precision.json"
    few = ["--threads=1", "--rounds=2", "--runs=1", f"--out={out}"]
    assert precision.main(["--models", SHALLOW, *few]) == 0
    result = json.loads(out.read_text())
    [measured_model] = result["models"]
    assert (measured_model["name"], result["threads"]) == (SHALLOW, 1)
    for graph, measured in measured_model["graphs"].items():
        ways = {"image_encoder": "static", "text_encoder": "dynamic"}
        wanted = {f"int8-{ways[graph]}-{bits}" for bits in (7, 8)}
        assert wanted <= measured["variants"].keys()
        for sides in measured["comparisons"].values():
            assert wanted <= sides["ratios"].keys()
            assert all(0 < ratio["median"] < 100 for ratio in sides["ratios"].values())
        assert measured["share_of_products"].keys() == measured["comparisons"].keys()
        assert all(0 < share <= 1 for share in measured["share_of_products"].values())
        for key in wanted:
            assert 0.9 < measured["variants"][key]["cosine"]["mean"] <= 1
    assert "int8" in readme.region_texts(tmp_path, readme.REGIONS)["precision"]
