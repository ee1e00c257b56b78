"""Check every byte of an index."""

from __future__ import annotations

from pathlib import Path

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import hash_file
from ztcir_sdk.index.items import COLUMNS, version_checksum
from ztcir_sdk.index.manifest import OLD_FORMAT, FileRecord, GraphRecord, Manifest
from ztcir_sdk.index.row_writer import block_hashes
from ztcir_sdk.index.view import IndexView

__all__ = ["damage"]


def damage(folder: Path, view: IndexView) -> list[str]:
    """Return a sentence for each damaged part of a state; none if it is whole."""
    state = view.manifest
    if state.format_version == OLD_FORMAT:
        return _damage_of_old(folder, state)
    problems: list[str] = []
    try:
        problems += _damage_of_items(view)
        problems += _damage_of_rows(folder, view)
    except (ZtcirError, OSError) as error:
        problems.append(str(error))
    graph = state.graph
    if graph is not None and not _matches(folder / graph.file, graph.sha256):
        problems.append(
            f"The graph {graph.file} is damaged; `ztcir index --compact` builds it again."
        )
    return problems


def _damage_of_old(folder: Path, state: Manifest) -> list[str]:
    records: list[FileRecord | GraphRecord] = [*state.vectors, state.table]
    if state.graph is not None:
        records.append(state.graph)
    return [
        f"{record.file} is damaged: its checksum differs."
        for record in records
        if not _matches(folder / record.file, record.sha256)
    ]


def _damage_of_items(view: IndexView) -> list[str]:
    state = view.manifest
    found = [line for (line,) in view.sql("PRAGMA integrity_check(5)") if line != "ok"]
    if found:
        return [f"{state.table.file} is damaged: {found[0]}."]
    problems = []
    last = bad = 0
    while page := view.sql(
        f"SELECT id, checksum, {COLUMNS} FROM versions WHERE id > ? AND id <= ? "
        "ORDER BY id LIMIT 10000",
        (last, state.versions),
    ):
        bad += sum(version_checksum(values) != checksum for _, checksum, *values in page)
        last = page[-1][0]
    if bad:
        problems.append(f"{state.table.file} is damaged: the checksums of {bad} items differ.")
    [(count, different)] = view.sql("SELECT count(*), count(DISTINCT path) FROM items")
    if count != len(view) or different != count or view.search_state_is_broken():
        problems.append(f"{state.table.file} is damaged: it does not match the manifest.")
    return problems


def _damage_of_rows(folder: Path, view: IndexView) -> list[str]:
    state = view.manifest
    blocks = view.blocks()
    end = 0
    for first, count, _ in blocks:
        if first != end:
            break
        end += count
    names = " and ".join(record.file for record in state.vectors)
    if end != state.rows:
        return [f"{state.table.file} is damaged: checksums of rows of {names} are missing."]
    return [
        f"{names}: rows {first} to {first + count - 1} are damaged."
        for first, count, whole in block_hashes(folder, state, blocks)
        if not whole
    ]


def _matches(file: Path, sha256: str) -> bool:
    try:
        return hash_file(file) == sha256
    except OSError:
        return False
