"""Files made by chance, of every kind: a few in each run of the tests, many with ``-m fuzz``."""

from __future__ import annotations

import sys
import warnings

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import guided
from benchmarks.fuzz.run import KINDS, run_case, run_kind

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not kind.is_available, reason=f"{kind.package} is not installed"),
    )
    for name, kind in KINDS.items()
]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")


@pytest.mark.parametrize("name", NAMES)
def test_a_few_files_do_no_harm(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(1_000_000, 1_000_012):
            assert run_case(KINDS[name], seed)[3] == ""


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=2000, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**63))
def test_any_file_does_no_harm(name: str, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run_case(KINDS[name], seed)[3] == ""


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
def test_processes_with_limits_find_nothing(name: str) -> None:
    found = run_kind(name, 3000, lambda done, total: None)
    assert found.findings == []


@pytest.mark.fuzz
@pytest.mark.parametrize("name", guided.NAMES)
def test_atheris_finds_nothing(name: str) -> None:
    """Guided by coverage, where atheris is installed."""
    pytest.importorskip("atheris")
    found = guided.fuzz_guided(name, 20)
    assert found["findings"] == []
    assert found["cases"] > guided.SEEDS  # it went on from the first files
    assert found["branches"] > 0
