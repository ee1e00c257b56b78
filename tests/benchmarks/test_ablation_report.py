"""The verdicts on the claims, and the tables and the plot of docs/method.md."""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import readme
from benchmarks.ablation import plot, report
from benchmarks.ablation.report import Claim, claims, judge
from benchmarks.ablation.rows import ROWS, Settings

BY_NAME = {row.name: row for row in ROWS}


def canned(**levels: Sequence[float]) -> dict[str, Any]:
    """Return a result file whose rows have these values of every figure, one per seed."""
    default = {
        row.name: [0.2, 0.21, 0.22] for row in ROWS if row.stage in {"compose", "map", "rival"}
    }
    frozen = {"image": [0.01], "text": [0.02], "sum": [0.1], "sum-best": [0.15], "oracle": [0.5]}
    labels = {row.name: row.label for row in ROWS} | dict(report.FROZEN_LABELS)
    rows = {}
    for name, values in {**default, **frozen, **levels}.items():
        figures = {metric: list(values) for metric in ("R@1", "R@5", "R@10", "mAP@10", "self_R@1")}
        if name.startswith(("captions", "tags")):
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

    def test_missing_rows_are_not_judged(self) -> None:
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

    def test_half_of_no_gain_does_not_hold(self) -> None:
        values = canned(composed=(0.10, 0.11, 0.12), stage1=(0.30, 0.31, 0.32))
        found = [judge(one, values["rows"]) for one in claims(values["rows"]) if one.given]
        assert len(found) == 5
        assert all(min(numbers) >= -1e-9 for numbers, _ in found)
        assert {verdict for _, verdict in found} == {"does not hold here"}

    def test_the_method_is_compared_with_the_best_of_the_others(self) -> None:
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
        (tmp_path / "docs").mkdir()
        for document, regions in readme.DOCUMENTS.items():
            marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in regions)
            (tmp_path / document).write_text(f"# Title\n{marks}end\n")
        (tmp_path / "ablation.json").write_text(json.dumps(canned(composed=(0.3, 0.31, 0.32))))
        return tmp_path

    def fill(self, page: Path, *arguments: str) -> int:
        return readme.main(["--root", str(page), "--results", str(page), *arguments])

    def test_it_shows_the_figures_of_the_file(self, page: Path) -> None:
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

    def test_a_changed_figure_is_detected(
        self, page: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.fill(page)
        text = (page / "docs" / "method.md").read_text()
        (page / "docs" / "method.md").write_text(text.replace("0.310", "0.410", 1))
        assert self.fill(page, "--check") == 1
        assert "In method.md, 'ablation-" in capsys.readouterr().err
        (page / "docs" / "method.md").write_text(text)
        (page / "ablation.json").unlink()
        assert self.fill(page, "--check") == 1
        assert "write it with `python -m benchmarks.ablation`" in capsys.readouterr().err

    def test_missing_rows_leave_the_others(self, page: Path) -> None:
        values = canned()
        for name in ("captions", "captions-noisy", "searle", "stage1", "sum-best"):
            del values["rows"][name]
        (page / "ablation.json").write_text(json.dumps(values))
        assert self.fill(page) == 0
        text = (page / "docs" / "method.md").read_text()
        assert "triplets from captions give" not in text

    def test_the_plot_records_which_figures_it_shows(self, page: Path) -> None:
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
