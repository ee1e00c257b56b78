"""Files made by chance, of every kind: a few in each run of the tests, many with ``-m fuzz``."""

from __future__ import annotations

import sys
import warnings

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.run import KINDS, run_case, run_kind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")


@pytest.mark.parametrize("name", list(KINDS))
def test_a_few_files_do_no_harm(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(1_000_000, 1_000_012):
            assert run_case(KINDS[name], seed)[3] == ""


@pytest.mark.fuzz
@pytest.mark.parametrize("name", list(KINDS))
@settings(max_examples=2000, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**63))
def test_any_file_does_no_harm(name: str, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run_case(KINDS[name], seed)[3] == ""


@pytest.mark.fuzz
@pytest.mark.parametrize("name", list(KINDS))
def test_processes_with_limits_find_nothing(name: str) -> None:
    found = run_kind(name, 3000, lambda done, total: None)
    assert found.findings == []


@pytest.mark.fuzz
def test_atheris_finds_nothing() -> None:
    """Guided by coverage, where atheris is installed."""
    atheris = pytest.importorskip("atheris")
    from ztcir_sdk.decoding import load_image
    from ztcir_sdk.errors import ImageError

    def one(data: bytes) -> None:
        try:
            load_image(data)
        except ImageError:
            return

    atheris.Setup([sys.argv[0], "-atheris_runs=20000"], one)
    with pytest.raises(SystemExit):
        atheris.Fuzz()
