"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# An example's time says nothing of the code where several tests share few cores.
settings.register_profile("ztcir", deadline=None)
settings.load_profile("ztcir")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that is never committed; tests that need it skip where it is absent."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"{data} is absent: the catalogue photos and annotations are not committed")
    return data
