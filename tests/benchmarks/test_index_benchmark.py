"""The benchmark of the index: a small run, resumed, and what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.index import __main__ as command
from benchmarks.index.data import TUNING, allowed_rows, clip_like
from benchmarks.index.plot import draw_plot, is_current


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "result.json"
    base = ["--rows", "1000", "--dim", "16", "--rounds", "2", "--folder", str(folder / "runs")]
    assert command.main([*base, "--out", str(out), *arguments]) == 0
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def test_a_small_run_has_every_figure_and_keeps_what_it_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--parts", "engines", "--engines", "ztcir, exact, i8", "numpy")
    values = run(tmp_path, *arguments)
    assert values["not_measured"] == {}
    for engine in values["engines"].values():
        assert engine["recall"] >= 0.999
        assert engine["search"]["p50_ms"] > 0
        assert engine["search"]["ratio_to_numpy"]["median"] > 0
        assert engine["filtered_0.05"]["recall"] >= 0.999
        assert engine["build"]["bytes"] > 0
    assert values["machine"]["cpu"]
    assert values["versions"]["numpy"] == np.__version__
    draw_plot(tmp_path / "result.png", values)
    assert is_current(tmp_path / "result.png", values)
    values["engines"]["numpy"]["search"]["p50_ms"] += 1
    assert not is_current(tmp_path / "result.png", values)
    values["engines"]["numpy"]["search"]["p50_ms"] -= 1
    assert "building" in capsys.readouterr().err
    assert (
        run(tmp_path, *arguments)["engines"]["numpy"]["build"]
        == (values["engines"]["numpy"]["build"])
    )
    assert "building" not in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PACKAGES", {"faiss, flat": "no_such_package"})
    values = run(tmp_path, "--parts", "engines", "--engines", "faiss, flat", "numpy")
    assert list(values["engines"]) == ["numpy"]
    assert "requirements/no_such_package.txt" in values["not_measured"]["faiss, flat"]


def test_data_and_filters_come_from_a_seed(tmp_path: Path) -> None:
    first, second = clip_like(tmp_path / "a", 1000, 16), clip_like(tmp_path / "b", 1000, 16)
    np.testing.assert_array_equal(first.vectors(), second.vectors())
    np.testing.assert_allclose(np.linalg.norm(first.vectors(), axis=1), 1, atol=1e-5)
    assert abs(float(np.mean(allowed_rows(100_000, 0.05))) - 0.05) < 0.001
    exact = np.sort(first.queries[:TUNING] @ first.vectors().T, axis=1)[:, -10:]
    np.testing.assert_allclose(first.answers()[:TUNING], exact, atol=1e-6)
