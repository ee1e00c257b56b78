"""The documents show the figures of the result files, and nothing else changes in them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from result_files import TIMING, result_files

from benchmarks import readme

RESULTS = ROOT / "benchmarks" / "results"

MARKS = "".join(f"<!-- {name} -->\n<!-- /{name} -->\nbetween\n" for name in readme.REGIONS)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for document, regions in readme.DOCUMENTS.items():
        marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in regions)
        (tmp_path / document).write_text(marks)
    (tmp_path / "docs" / "figures.md").write_text(f"# Title\n{MARKS}end\n")
    for name, values in result_files().items():
        (tmp_path / name).write_text(json.dumps(values))
    return tmp_path


def run(checkout: Path, *arguments: str) -> int:
    where = ["--root", str(checkout), "--results", str(checkout)]
    return readme.main([*where, *arguments])


class TestReadme:
    def test_it_shows_the_figures_of_the_files(self, checkout: Path) -> None:
        assert run(checkout) == 0
        text = (checkout / "docs/figures.md").read_text()
        assert text.startswith("# Title\n<!-- quality -->\n\n| method | R@1 |")
        assert text.endswith("end\n")
        assert text.count("between\n") == len(readme.REGIONS) == 4
        lines = text.splitlines()
        assert (
            "| ViT-B-32 | image encoder, 1 picture | dynamic, 7 bits | 12.3 | 12.3 "
            "| 2.50 (2.25 to 3.00) | 0.9995 | 88% |" in lines
        )
        assert sum("dynamic, 7 bits" in line for line in lines) == 1
        assert "| `composed` | 0.200 | 0.500 | 0.750 | 0.200 |" in lines
        assert "| `sum`, best weight of the text (0.35) | 0.100 | 0.500 | 0.750 | 0.100 |" in lines
        assert sum(line.startswith("| `") for line in lines) == 8
        assert "1 800 queries over 4 000 pictures, bundle `tiny` (fp32), 2026-11-25" in text
        assert "2.00 times the best of `image`, `text` and `sum`, and 1.60 times `stage1`" in text
        assert "| image encoder, 8 images | 12.3 | 0.12 | 234 |" in lines
        assert "| text encoder, 1 text of 8 tokens | 12.3 | 0.12 | 234 |" in lines
        assert (
            "| ViT-B-32 (random weights) | text encoder | 12.3 | 12.3 | 7.12 (2.25 to 3.00) |"
            in (lines)
        )
        assert "Some CPU, 2 threads, onnxruntime 1.2.3, torch 4.5.6, 2026-11-25." in text

    def test_filling_twice_is_filling_once(self, checkout: Path) -> None:
        assert run(checkout, "--check") == 1
        assert (
            checkout / "docs/figures.md"
        ).read_text() == f"# Title\n{MARKS}end\n"  # only looked at
        assert run(checkout) == 0
        once = (checkout / "docs/figures.md").read_text()
        assert run(checkout, "--check") == 0
        assert run(checkout) == 0
        assert (checkout / "docs/figures.md").read_text() == once

    def test_a_changed_number_in_the_readme_is_detected(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(checkout)
        file = checkout / "docs/figures.md"
        whole = file.read_text()
        for name, old, new in (
            ("quality", "| 0.200 |", "| 0.210 |"),
            ("latency", "12.3", "11.3"),
            ("ratios", "7.12", "8.12"),
            ("precision", "0.9995", "0.9999"),
        ):
            start = whole.index(f"<!-- {name} -->")
            file.write_text(whole[:start] + whole[start:].replace(old, new, 1))
            assert run(checkout, "--check") == 1
            assert f"In figures.md, '{name}' differs from" in capsys.readouterr().err
        file.write_text(whole)
        assert run(checkout, "--check") == 0

    @pytest.mark.parametrize("file", list(result_files()))
    def test_a_changed_number_in_a_file_is_detected(self, checkout: Path, file: str) -> None:
        run(checkout)
        values = copy.deepcopy(result_files()[file])
        if file == "val-triplets.json":
            values["methods"]["stage1"]["overall"]["R@5"] = 0.25
        elif file == "bench.json":
            values["query"]["second_text"] = {**TIMING, "p99_ms": 1}
        elif file == "precision.json":
            values["models"][0]["graphs"]["image_encoder"]["share_of_products"] = {"1 picture": 0.5}
        else:
            values["models"][0]["comparisons"]["first_text"]["ratios"]["sdk"] |= {"p75": 8}
        (checkout / file).write_text(json.dumps(values))
        assert run(checkout, "--check") == 1
        assert run(checkout) == 0
        assert run(checkout, "--check") == 0

    def test_figures_without_a_file_are_refused_but_an_empty_region_is_not(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (checkout / "bench.json").rename(checkout / "aside.json")
        assert run(checkout) == 0
        text = (checkout / "docs/figures.md").read_text()
        marked = f"<!-- latency -->\n{readme.NOT_MEASURED}\n<!-- /latency -->"
        (checkout / "docs/figures.md").write_text(
            text.replace("<!-- latency -->\n<!-- /latency -->", marked)
        )
        assert run(checkout, "--check") == 0
        (checkout / "docs/figures.md").write_text(text)
        assert "<!-- latency -->\n<!-- /latency -->" in (checkout / "docs/figures.md").read_text()
        assert run(checkout, "--check") == 0
        (checkout / "aside.json").rename(checkout / "bench.json")
        assert run(checkout) == 0
        (checkout / "bench.json").unlink()
        before = (checkout / "docs/figures.md").read_text()
        assert run(checkout) == 0
        assert (checkout / "docs/figures.md").read_text() == before
        capsys.readouterr()
        assert run(checkout, "--check") == 1
        assert "write it with `ztcir bench --json`" in capsys.readouterr().err

    @pytest.mark.parametrize("marks", ["", MARKS + MARKS])
    def test_a_region_must_be_there_once(
        self, checkout: Path, marks: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (checkout / "docs/figures.md").write_text(marks)
        assert run(checkout) == 1
        assert "mark it with <!-- quality -->" in capsys.readouterr().err
        assert (checkout / "docs/figures.md").read_text() == marks

    def test_a_file_in_another_format_is_refused(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for content in ("{}", "[1]", "not JSON", json.dumps({"methods": {"composed": {}}})):
            (checkout / "val-triplets.json").write_text(content)
            assert run(checkout) == 1
            assert (
                "val-triplets.json is not a file of `ztcir eval triplets" in capsys.readouterr().err
            )

    @settings(deadline=None)
    @given(st.text(), st.text(), st.text(), st.text())
    def test_the_rest_of_a_readme_stays(self, head: str, old: str, new: str, tail: str) -> None:
        if any("<!--" in text for text in (head, old, tail)):
            return
        filled = readme.fill(f"{head}<!-- a -->{old}<!-- /a -->{tail}", {"a": new})
        assert filled == f"{head}<!-- a -->\n\n{new}\n\n<!-- /a -->{tail}"


def test_the_readme_shows_the_committed_results() -> None:
    if not (ROOT / "docs/figures.md").exists() or not any(RESULTS.glob("*.json")):
        pytest.skip("there are no results, or no README")
    assert readme.main(["--check"]) == 0
