"""Short work that is divided among threads."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ztcir_sdk.runtime import cores
from ztcir_sdk.runtime.cores import in_threads


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread besides the calling one."""
    monkeypatch.setattr(cores, "cores_at_start", lambda: 2)
    cores._threads.cache_clear()


def test_results_are_in_the_order_of_the_parts() -> None:
    assert in_threads(lambda part: part * part, range(20)) == [part * part for part in range(20)]
    assert in_threads(str, [7]) == ["7"]


def test_another_thread_takes_a_part() -> None:
    both = threading.Barrier(2, timeout=30)  # passes when two threads wait
    in_threads(lambda _: both.wait(), range(2))


def test_the_calling_thread_does_what_no_other_has_begun() -> None:
    blocked = threading.Event()
    busy = cores._threads().submit(blocked.wait, 30)
    start = time.monotonic()
    assert in_threads(lambda _: threading.get_ident(), range(3)) == [threading.get_ident()] * 3
    assert time.monotonic() - start < 20
    blocked.set()
    busy.result()


def test_an_error_of_any_part_is_raised() -> None:
    for wrong in range(3):
        with pytest.raises(ZeroDivisionError):
            in_threads((1).__floordiv__, [part - wrong for part in range(3)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    in_threads(str, range(2))
    child = os.fork()
    if child == 0:
        both = threading.Barrier(2, timeout=10)
        try:
            in_threads(lambda _: both.wait(), range(2))
        finally:
            os._exit(int(both.broken))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
