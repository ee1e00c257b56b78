"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from places import DATA, DATA_VARIABLE

pytest_plugins = ["export_fixtures"]

# pytest-xdist runs a process per core: more threads than that would wait for each other, and
# training takes eight times as long. PyTorch reads the variable when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a start leaves for the next would make a test depend on others; its own tests name a folder.
os.environ.setdefault("ZTCIR_START_CACHE", "off")

# An example's time says nothing of the code where several tests share few cores.
settings.register_profile("ztcir", deadline=None)
settings.load_profile("ztcir")

NO_SKIPS = "ZTCIR_TEST_NO_SKIPS"
"""Variable that makes a skipped test fail the run; see CONTRIBUTING.md."""
BUILDING = "seconds of building engines"
FIVE_MINUTES = 300
"""What the engines of a bundle may take to be built for sm_86 and sm_89."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that is never committed; tests that need it skip where it is absent."""
    if DATA is None:
        pytest.skip(f"${DATA_VARIABLE} is not set: catalogue photos and annotations are needed")
    return DATA


@pytest.fixture
def building(
    record_property: Callable[[str, object], None],
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Bounds what stands in its ``with``, the building of engines, and tells the summary of it."""

    @contextlib.contextmanager
    def timed() -> Iterator[None]:
        start, used = time.perf_counter(), time.process_time()
        yield
        record_property(BUILDING, time.perf_counter() - start)
        # a processor's time: it does not depend on what else the machine is doing
        assert time.process_time() - used < FIVE_MINUTES

    return timed


def pytest_sessionfinish(session: Any) -> None:
    """Fail where a test was skipped that this machine must run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get(NO_SKIPS) and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what TensorRT's engines took, over all processes of the run."""
    passed = terminalreporter.stats.get("passed", ())
    spent = [value for one in passed for name, value in one.user_properties if name == BUILDING]
    if spent:
        terminalreporter.write_line(f"TensorRT's engines were built in {sum(spent):.1f} s.")
