"""Indexes: manifests, tables of items and files, changed by chance, with checksums mended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutations import HOSTILE_VALUES, mutated_bytes, mutated_json
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.index.manifest import MANIFEST

__all__ = ["make_index", "read_index"]

DIM = 8
TOWER = "ab" * 32
STATEMENTS = (
    "UPDATE versions SET path = '../../../etc/passwd' WHERE id = 1",
    "UPDATE versions SET path = '/etc/passwd'",
    "UPDATE versions SET path = x'ff00ff' WHERE id = 2",
    "UPDATE versions SET path = ''",
    "UPDATE versions SET label = 99999999",
    "UPDATE versions SET label = -1 WHERE id = 1",
    "UPDATE versions SET label = 'x' WHERE id = 1",
    "UPDATE versions SET metadata = '[1, 2]'",
    'UPDATE versions SET metadata = \'{"a": 1e999, "b": NaN}\'',
    "UPDATE versions SET metadata = x'00'",
    "UPDATE versions SET metadata = replace(hex(zeroblob(200000)), '00', '[')",
    "UPDATE versions SET size = 'x', mtime_ns = 1e300",
    "UPDATE versions SET died = 0",
    "DELETE FROM versions",
    "DROP TABLE blocks",
    "ALTER TABLE versions DROP COLUMN metadata",
    "ALTER TABLE versions ADD COLUMN more TEXT",
    "ALTER TABLE versions RENAME TO others",
    "CREATE TRIGGER t AFTER INSERT ON versions BEGIN DELETE FROM versions; END",
    "CREATE VIEW other AS SELECT 1",
    "PRAGMA user_version = 77",
)
VIEW = (
    "ALTER TABLE versions RENAME TO others",
    "CREATE VIEW versions AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT x AS id, x AS label, 'p' || x AS path, 'h' AS hash, 1 AS size, 1 AS mtime_ns, "
    "NULL AS metadata, 0 AS checksum, NULL AS died, 0 AS amended FROM n",
)


def make_index(rng: random.Random) -> bytes:
    """Return the seed of an index, which `read_index` makes."""
    return str(rng.getrandbits(64)).encode()


def read_index(file: Path, rng: random.Random) -> str:
    """Make an index beside a file, open it and search it; return the outcome."""
    folder = file.parent / "an.ztcir"
    shutil.copytree(_whole(), folder)
    _change(rng, folder)
    query = np.eye(1, DIM, dtype=np.float32)
    outcome = "read"
    root = os.path.realpath(file.parent / "photos")
    try:
        index = Index.open(folder, image_tower=TOWER)
        for exact in (True, False, None):
            for labels, scores in index.search(query, 5, exact=exact):
                for rank, (label, score) in enumerate(zip(labels, scores, strict=True), 1):
                    hit = Hit.from_item(index.item(int(label)), index.root, float(score), rank)
                    json.dumps(hit.to_dict(), allow_nan=False)
                    inside = os.path.normpath(hit.path)
                    assert inside.startswith(str(index.root)), (hit.path, root)
        for item in index.items():
            json.dumps(dict(item.metadata or {}), allow_nan=False)
        index.verify()
        with index.edit() as writer:
            writer.times()
    except (ZtcirError, KeyError) as error:
        if isinstance(error, KeyError) and not isinstance(error.args[0], int):
            raise
        outcome = "refused"
    return outcome


@cache
def _whole() -> Path:
    """Make an index of 40 items, in a folder of its own."""
    place = Path(tempfile.mkdtemp(prefix="ztcir-fuzz-")) / "whole.ztcir"
    index = Index.create(
        place, dim=DIM, image_tower=TOWER, precision="fp32", root=place.parent / "photos"
    )
    vectors = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with index.edit() as writer:
        for number, vector in enumerate(vectors):
            writer.put(
                f"sub/{number}.jpg",
                vector,
                content_hash=hashlib.sha256(bytes([number])).hexdigest(),
                size=number,
                mtime_ns=number,
                metadata={"caption": f"number {number}"} if number % 2 else None,
            )
        writer.commit(build_graph=True)
    return place


def _change(rng: random.Random, folder: Path) -> None:
    what = rng.random()
    files = {file.suffix: file for file in folder.iterdir() if file.name != MANIFEST}
    if what < 0.35:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest.pop("checksum", None)
        changed = mutated_json(rng, manifest)
        if isinstance(changed, dict) and rng.random() < 0.1:
            changed["root"] = rng.choice(("/", "/etc", "..", "../../..", "\0"))
        if isinstance(changed, dict):
            text = json.dumps(changed, sort_keys=True)
            changed["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / MANIFEST).write_text(json.dumps(changed))
    elif what < 0.7:
        statements = VIEW if rng.random() < 0.1 else rng.sample(STATEMENTS, rng.randint(1, 3))
        with contextlib.closing(sqlite3.connect(files[".sqlite"])) as table:
            for statement in statements:
                with contextlib.suppress(sqlite3.Error):
                    table.execute(statement)
            with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeError):
                column = rng.choice(("path", "metadata", "size", "label", "hash", "died"))
                value = rng.choice(HOSTILE_VALUES)
                values = value if isinstance(value, (str, int, float)) else json.dumps(value)
                table.execute(f"UPDATE versions SET {column} = ? WHERE id = 3", (values,))
            table.commit()
    elif what < 0.95:
        file = rng.choice(sorted(files.values()))
        size = file.stat().st_size
        data = mutated_bytes(rng, file.read_bytes(), (b"x" * 50,))
        file.write_bytes(data.ljust(size, b"\0") if rng.random() < 0.8 else data)
        _mend(folder, file)
    else:
        file = rng.choice(sorted(folder.iterdir()))
        file.unlink()
        if rng.random() < 0.5:
            os.mkfifo(file)
        else:
            file.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/etc/passwd", "/nowhere")))


def _mend(folder: Path, file: Path) -> None:
    """Write the checksums of a changed file into the manifest, as an attacker does."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum", None)
    for record in (manifest["graph"] or {}, manifest["table"], *manifest["vectors"]):
        if record.get("file") == file.name and record.get("sha256"):
            record["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    text = json.dumps(manifest, sort_keys=True)
    manifest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
