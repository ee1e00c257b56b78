"""Bring an index of the old format up to date: its vectors and its graph stay as they are."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from ztcir_sdk.files import hash_file
from ztcir_sdk.index.item_writer import ItemWriter, new_table
from ztcir_sdk.index.items import ItemTable
from ztcir_sdk.index.manifest import (
    FORMAT_VERSION,
    OLD_FORMAT,
    FileRecord,
    Manifest,
    corrupt,
)

__all__ = ["upgraded"]


def upgraded(folder: Path, state: Manifest) -> Manifest:
    """Return a state in today's format; nothing counts before its manifest is written.

    Raises:
        IndexUnusableError: a file of the index is damaged.
    """
    if state.format_version != OLD_FORMAT:
        return state
    [vectors] = state.vectors
    for record in (vectors, state.table):
        _check(folder, record)
    table = new_table(folder)
    new = replace(
        state,
        vectors=(FileRecord(vectors.file, vectors.bytes),),
        table=table,
        format_version=FORMAT_VERSION,
    )
    old = ItemTable(folder, state)
    try:
        fresh = ItemWriter(folder, new, create=True)
        try:
            fresh.add_dead(old.dead_labels().tolist(), state.generation)
            fresh.add_all(old)
            if state.rows:
                fresh.add_block(0, state.rows, vectors.sha256)
            versions = fresh.commit()
        finally:
            fresh.close()
    finally:
        old.close()
    return replace(new, versions=versions, table=FileRecord.of(folder, table.file))


def _check(folder: Path, record: FileRecord) -> None:
    file = folder / record.file
    if file.stat().st_size != record.bytes or hash_file(file) != record.sha256:
        raise corrupt(folder, record.file, "its checksum differs")
