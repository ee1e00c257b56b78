"""The load of the service: what is said of its memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.command import RESULTS
from benchmarks.serve import FILE, describe_load, resident_mb


@pytest.mark.parametrize(
    ("status", "expected"),
    [("Name:\tz\nVmRSS:\t    2000 kB\n", 2.0), ("Name:\tz\nState:\tZ (zombie)\n", None)],
)
def test_memory_that_the_system_does_not_say_is_no_figure(
    tmp_path: Path, status: str, expected: float | None
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text(status)
    assert resident_mb(7, tmp_path) == expected
    assert resident_mb(8, tmp_path) is None


def test_the_report_says_nothing_of_memory_that_is_not_known() -> None:
    values = json.loads((RESULTS / FILE).read_text(encoding="utf-8"))
    assert "the service's memory went from" in describe_load(values)
    del values["memory"]["resident_mb"]
    assert "memory" not in describe_load(values)
