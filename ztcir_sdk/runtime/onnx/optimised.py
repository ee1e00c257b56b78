"""Graphs as ONNX Runtime optimised them, kept for the next start.

Optimising a graph and packing its weights takes several times as long as reading the result, whose
weights are mapped from the file instead of copied. An entry fits one graph, version of ONNX
Runtime, provider and set of CPU features; these make up its key. It is opened only if its files are
those that were written: by size, times and inode, and by checksum after a week or where one of
these differs. What cannot be used is deleted and made again without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ztcir_sdk.files import flush_file, hash_file, read_bounded, write_whole
from ztcir_sdk.runtime.onnx.preload import CPU
from ztcir_sdk.runtime.source import GraphSource
from ztcir_sdk.runtime.start_cache import RECHECK_SECONDS, identity, is_own, start_cache

__all__ = ["LIMIT_VARIABLE", "open_optimised"]

LIMIT_VARIABLE = "ZTCIR_START_CACHE_MB"
"""Environment variable: the most megabytes of optimised graphs; 0 keeps none."""
LIMIT_MB = 2_000
SHARE = 8
"""A graph is kept if its file takes at most one part of so many of the limit."""
MIN_BYTES = 1_000_000
"""A smaller graph is loaded as fast as a copy is checked."""
FORMAT = 1
GRAPH, WEIGHTS, RECORD = "graph.onnx", "weights.bin", "record.json"
USED_SECONDS = 3_600.0
"""An entry is marked as used at most this often."""

Opened = Callable[[Path, Any], Any]
"""Function that opens a session from a file with session options."""


def open_optimised(
    ort: Any, source: GraphSource, new_options: Callable[[], Any], opened: Opened
) -> Any | None:
    """Open a graph's optimised copy, made now if there is none; None if none can be kept.

    Args:
        ort: the module ``onnxruntime``.
        source: the graph, which runs on the CPU.
        new_options: returns the session options that the graph is optimised with.
        opened: opens a session.
    """
    cache, limit = start_cache(), _limit()
    try:
        size = source.path.stat().st_size
    except OSError:
        return None
    if cache is None or not MIN_BYTES <= size <= limit // SHARE:
        return None
    key = [FORMAT, source.digest, ort.__version__, CPU, "all", *cpu_features()]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    folder = cache / "graphs" / name
    try:
        if not _is_whole(folder, key):
            shutil.rmtree(folder, ignore_errors=True)
            _write(folder, key, source.path, new_options(), opened)
            _prune(folder.parent, limit, keep=name)
        return opened(folder / GRAPH, _as_it_is(ort, new_options()))
    except Exception:  # ONNX Runtime has no common base class; or the disk is full
        shutil.rmtree(folder, ignore_errors=True)
        return None


def cpu_features() -> tuple[str, ...]:
    """Return what decides how ONNX Runtime lays out weights: architecture and CPU features."""
    flags = ""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open("rb") as stream:
        block = stream.read(1 << 13).decode(errors="replace")  # the first CPU is enough
        lines = [line for line in block.split("\n") if line.startswith(("flags", "Features"))]
        flags = lines[0] if lines else ""
    return (platform.machine(), flags or platform.processor())


def _limit() -> int:
    try:
        return int(os.environ.get(LIMIT_VARIABLE, LIMIT_MB)) * 1_000_000
    except ValueError:
        return LIMIT_MB * 1_000_000


def _as_it_is(ort: Any, options: Any) -> Any:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _is_whole(folder: Path, key: list[Any]) -> bool:
    """Return whether an entry has the key, and its files are those that were written."""
    record = folder / RECORD
    try:
        status = record.stat()
        if not (is_own(status) and is_own(folder.stat())):
            return False
        values = json.loads(read_bounded(record, 100_000))
        if values["key"] != key or set(values["files"]) != {GRAPH, WEIGHTS}:
            return False
        found = {name: identity(folder / name) for name in values["files"]}
        same = all(values["files"][name][1:] == one for name, one in found.items())
        if not (same and 0 <= time.time() - values["checked"] < RECHECK_SECONDS):
            if any(hash_file(folder / name) != values["files"][name][0] for name in found):
                return False
            files = {name: [values["files"][name][0], *one] for name, one in found.items()}
            _write_record(record, {**values, "files": files, "checked": time.time()})
        elif time.time() - status.st_mtime > USED_SECONDS:
            os.utime(record)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return False
    return True


def _write(folder: Path, key: list[Any], graph: Path, options: Any, opened: Opened) -> None:
    """Optimise a graph into a folder of its own, which takes its name once it is whole.

    `folder_whole` does not do: it is for one writer at a time, and here two processes may start.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
    fresh.mkdir(mode=0o700)
    try:
        options.optimized_model_filepath = os.fspath(fresh / GRAPH)
        for entry, value in (
            ("session.optimized_model_external_initializers_file_name", WEIGHTS),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
            ("session.save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(entry, value)
        opened(graph, options)
        files = {}
        for name in (GRAPH, WEIGHTS):
            flush_file(fresh / name)
            files[name] = [hash_file(fresh / name), *identity(fresh / name)]
        _write_record(fresh / RECORD, {"key": key, "files": files, "checked": time.time()})
        with contextlib.suppress(OSError):  # another process was as fast
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_record(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, json.dumps(values))
    path.chmod(0o600)


def _prune(folder: Path, limit: int, *, keep: str) -> None:
    """Delete the entries that were not used for longest, until the others are within the limit."""
    entries = []
    for one in folder.iterdir():
        with contextlib.suppress(OSError):
            if one.name.startswith("."):  # left by a killed process, if it is old
                if time.time() - one.stat().st_mtime > USED_SECONDS:
                    shutil.rmtree(one, ignore_errors=True)
                continue
            size = sum(file.stat().st_size for file in one.iterdir())
            entries.append((one.name == keep, (one / RECORD).stat().st_mtime, size, one))
    total = 0
    for _, _, size, one in sorted(entries, reverse=True):
        total += size
        if total > limit and one.name != keep:
            shutil.rmtree(one, ignore_errors=True)
