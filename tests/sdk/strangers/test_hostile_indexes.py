"""Indexes of strangers: paths that lead out, views in place of tables, pipes, damaged values."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from messy_collection import QuartersEncoder, picture, write
from msgspec.structs import replace
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.gallery import build_index
from ztcir_sdk.index import Index, IndexUnusableError
from ztcir_sdk.index.manifest import MANIFEST, Manifest
from ztcir_sdk.pages.thumbnails import thumbnail
from ztcir_sdk.sources import list_images


@pytest.fixture
def index(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path / "photos" / f"{number}.png", picture(number))
    build_index(tmp_path / "photos", tmp_path / "an.ztcir", QuartersEncoder())
    return tmp_path / "an.ztcir"


def execute(index: Path, *statements: str) -> None:
    table = index / Manifest.read(index).table.file
    with contextlib.closing(sqlite3.connect(table)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def use(index: Path) -> None:
    """Read every item, as searches and updates do."""
    opened = Index.open(index, image_tower=None)
    list(opened.items())
    with opened.edit() as writer:
        writer.times()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE versions SET path = '../../private.jpg' WHERE id = 1",
        "UPDATE versions SET path = '/etc/passwd' WHERE id = 1",
        "UPDATE versions SET path = 'a/../../b.jpg' WHERE id = 1",
        "UPDATE versions SET path = x'00ff' WHERE id = 1",
        "UPDATE versions SET metadata = '[1]' WHERE id = 1",
        "UPDATE versions SET metadata = '{' WHERE id = 1",
        "UPDATE versions SET metadata = x'00' WHERE id = 1",
        "UPDATE versions SET size = 'x' WHERE id = 1",
        "DROP TABLE blocks",
        "ALTER TABLE versions DROP COLUMN metadata",
        "CREATE TRIGGER t AFTER INSERT ON versions BEGIN DELETE FROM versions; END",
        "CREATE VIEW other AS SELECT 1",
    ],
)
def test_a_foreign_table_is_a_sentence(index: Path, statement: str) -> None:
    execute(index, statement)
    with pytest.raises(IndexUnusableError, match="delete the index"):
        use(index)


def test_a_view_in_place_of_the_table_is_not_run(index: Path) -> None:
    execute(
        index,
        "ALTER TABLE versions RENAME TO others",
        "CREATE VIEW versions AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
        "SELECT x AS id, x AS label, 'p' AS path, 'h' AS hash, 1 AS size, 1 AS mtime_ns, "
        "NULL AS metadata, 0 AS checksum, NULL AS died, 0 AS amended FROM n",
    )
    with pytest.raises(IndexUnusableError, match="other tables than versions and blocks"):
        Index.open(index, image_tower=None)


def test_numbers_that_json_does_not_have_become_null(index: Path) -> None:
    text = '{"a": NaN, "b": 1e999, "c": [-Infinity], "d": "\\ud800"}'
    execute(index, f"UPDATE versions SET metadata = '{text}'")
    for item in Index.open(index, image_tower=None).items():
        assert item.metadata == {"a": None, "b": None, "c": [None], "d": "\ufffd"}


@pytest.mark.parametrize("root", ["/", "/etc"])
def test_an_absolute_root_is_refused(index: Path, root: str) -> None:
    replace(Manifest.read(index), root=root).write(index)
    with pytest.raises(IndexUnusableError, match="root is the absolute path"):
        Index.open(index, image_tower=None)


@pytest.mark.skipif(os.name != "posix", reason="drives have roots of their own")
@pytest.mark.parametrize("deeper", [0, 40])
def test_a_root_that_leads_to_the_whole_machine_is_refused(index: Path, deeper: int) -> None:
    root = "/".join([".."] * (len(index.resolve().parts) - 1 + deeper))
    assert Path(os.path.normpath(index.resolve() / root)) == Path("/")
    replace(Manifest.read(index), root=root).write(index)
    with pytest.raises(IndexUnusableError, match="leads to /, which holds every file"):
        Index.open(index, image_tower=None)
    with pytest.raises(UsageError, match="cannot be /"):
        Index.create(index.with_name("y.ztcir"), dim=4, image_tower="", precision="", root="/")
    with pytest.raises(UsageError, match="have only / in common"):
        list_images([index.parent, Path("/dev")])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("part", ["manifest", "table", "vectors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_are_ordinary_ones(index: Path, part: str, kind: str) -> None:
    manifest = Manifest.read(index)
    names = {"manifest": MANIFEST, "table": manifest.table.file}
    names["vectors"] = manifest.vectors[0].file
    file = index / names[part]
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(IndexUnusableError, match="not an ordinary file"):
        Index.open(index, image_tower=None)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="there are no links")
def test_pages_show_no_image_outside_of_the_collection(tmp_path: Path) -> None:
    private = write(tmp_path / "private.png", picture(1))
    folder = tmp_path / "photos"
    own = write(folder / "own.png", picture(2))
    (folder / "out.png").symlink_to(private)
    (folder / "in.png").symlink_to(own)
    assert thumbnail(str(own), inside=str(folder)) is not None
    assert thumbnail(str(folder / "in.png"), inside=str(folder)) is not None
    assert thumbnail(str(folder / "out.png"), inside=str(folder)) is None
    assert thumbnail(str(folder / "../private.png"), inside=str(folder)) is None
    assert thumbnail(str(folder / "out.png")) is not None  # what the user names


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
def test_a_hit_that_is_a_pipe_does_not_block_a_sheet(tmp_path: Path) -> None:
    bundle = tmp_path / "tiny"
    write_tiny_bundle(bundle)
    for number in range(3):
        write(tmp_path / "photos" / f"{number}.png", picture(number))
    own = ["--bundle", str(bundle)]
    to = str(tmp_path / "an.ztcir")
    assert (
        CliRunner().invoke(main, ["index", str(tmp_path / "photos"), "--to", to, *own]).exit_code
        == 0
    )
    (tmp_path / "photos" / "1.png").unlink()
    os.mkfifo(tmp_path / "photos" / "1.png")
    call = ["search", str(tmp_path / "photos" / "0.png"), "red", "--index", to, *own, "--json"]
    pages = ["--grid", str(tmp_path / "o.png"), "--html", str(tmp_path / "o.html")]
    done = CliRunner().invoke(main, [*call, *pages])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["missing"] == [str(tmp_path / "photos" / "1.png")]


def test_every_damage_is_a_sentence(index: Path) -> None:
    table = index / Manifest.read(index).table.file
    whole = table.read_bytes()
    for place in range(0, len(whole), 997):
        table.write_bytes(whole[:place] + b"\xff" * 60 + whole[place + 60 :])
        with contextlib.suppress(ZtcirError, KeyError):
            use(index)
        table.write_bytes(whole)
