"""Collections, and single folders of them, that were moved: found again without encoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from messy_collection import QuartersEncoder, picture, write, write_archive
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.gallery import build_index, missing_folder, move_folder, parse_move
from ztcir_sdk.index import Index


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with photos, scans and another folder."""
    for number in range(3):
        write(tmp_path / "home" / "photos" / f"{number}.png", picture(number))
        write(tmp_path / "home" / "scans" / "sub" / f"{number}.png", picture(10 + number))
    write(tmp_path / "home" / "private" / "x.png", picture(99))
    return tmp_path / "home"


@pytest.fixture
def index(home: Path) -> Path:
    """The index of photos, to which scans were added."""
    place = home.parent / "all.ztcir"
    build_index(home / "photos", place, QuartersEncoder(), exclude=["/drafts/*"])
    build_index(home / "scans", place, QuartersEncoder(), add=True)
    return place


def paths(index: Path) -> list[Path]:
    opened = Index.open(index, image_tower=None)
    return sorted(opened.root / item.path for item in opened.items())


def test_one_of_several_folders_is_moved(home: Path, index: Path, tmp_path: Path) -> None:
    new = tmp_path / "disk" / "scans"
    new.parent.mkdir()
    (home / "scans").rename(new)
    assert move_folder(index, home / "scans", new) == (3, 3)
    assert paths(index) == sorted([*home.glob("photos/*"), *new.glob("sub/*")])
    assert Index.open(index, image_tower=None).manifest.rules.exclude == ("/home/photos/drafts/*",)
    encoder = QuartersEncoder()
    assert build_index(new, index, encoder).unchanged == 6
    assert build_index(home / "photos", index, encoder).unchanged == 6
    assert encoder.encoded == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scans", "scans/deeper"),
        ("scans/sub", "scans"),
        ("scans/sub", "moved"),
        ("photos", "scans/photos"),
        ("photos", "p"),
    ],
)
def test_folders_move_within_the_root(home: Path, index: Path, old: str, new: str) -> None:
    (home / old).rename(home / "aside")
    (home / new).parent.mkdir(exist_ok=True)
    if new == "scans":
        (home / "scans").rmdir()
    (home / "aside").rename(home / new)
    found, total = move_folder(index, old, home / new)
    assert found == total == 3
    assert all(path.is_file() for path in paths(index))
    assert len(paths(index)) == 6


def test_the_patterns_of_a_moved_folder_move_with_it(home: Path, index: Path) -> None:
    (home / "photos").rename(home / "pictures")
    move_folder(index, "photos", home / "pictures")
    rules = Index.open(index, image_tower=None).manifest.rules
    assert rules.exclude == ("/pictures/drafts/*",)


def test_an_archive_is_moved(home: Path, tmp_path: Path) -> None:
    shard = write_archive(home / "s.tar", [("a.png", picture(1))])
    index = tmp_path / "s.ztcir"
    build_index([home / "photos", shard], index, QuartersEncoder())
    shard.rename(home / "renamed.tar")
    assert move_folder(index, shard, home / "renamed.tar") == (1, 1)
    assert home / "renamed.tar" / "a.png" in paths(index)


def test_wrong_moves_are_refused(home: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no images of"):
        move_folder(index, home / "private", tmp_path)
    with pytest.raises(ZtcirError, match="does not exist"):
        move_folder(index, home / "scans", tmp_path / "nowhere")
    with pytest.raises(ZtcirError, match="has 0 of the 3 images"):
        move_folder(index, home / "scans", home / "private")
    assert move_folder(index, home / "scans", home / "private", prune=True) == (0, 3)


def test_old_and_new_are_told_from_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b", "c", "x=y"):
        (tmp_path / name).mkdir()
    assert parse_move("c") == (None, "c")
    assert parse_move("a=b") == (None, "a=b")
    assert parse_move("old=c") == ("old", "c")
    assert parse_move("old=x=y") == ("old", "x=y")
    assert parse_move("p=q=c") == ("p=q", "c")
    for text in ("=c", "old="):
        with pytest.raises(UsageError, match="is not OLD=NEW"):
            parse_move(text)


def test_the_highest_folder_that_is_missing_is_named(home: Path) -> None:
    assert missing_folder(home, ["photos/7.png"]) is None
    assert missing_folder(home, ["gone/deep/1.png", "gone/2.png"]) == home / "gone"
    assert missing_folder(home, ["scans/gone/1.png"]) == home / "scans" / "gone"
    assert missing_folder(home / "no", ["a/1.png"]) == home / "no"


def test_doctor_and_search_say_how_to_name_the_new_place(home: Path, tmp_path: Path) -> None:
    bundle, index = tmp_path / "tiny", tmp_path / "all.ztcir"
    write_tiny_bundle(bundle)

    def ztcir(*arguments: object) -> tuple[str, str]:
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        return done.stdout, done.stderr

    own = ("--bundle", bundle)
    ztcir("index", home / "photos", "--to", index, *own)
    ztcir("index", home / "scans", "--add", "--to", index, *own)

    def fix() -> str:
        checked = json.loads(ztcir("doctor", "--index", index, *own, "--json")[0])
        [finding] = [one for one in checked["findings"] if one["name"] == "index"]
        return str(finding.get("cure", ""))

    assert fix() == ""
    (home / "photos" / "1.png").unlink()
    # Never the whole root, which holds other folders too.
    assert fix() == f"update the index: `ztcir index {home / 'photos'} --to {index}`"
    ztcir("index", home / "photos", "--to", index, *own)
    (home / "scans").rename(tmp_path / "moved")
    assert f"`ztcir index --root {home / 'scans'}=FOLDER --to {index}`" in fix()
    query = ("search", home / "photos" / "0.png", "x", "--index", index, *own)
    assert f"--root {home / 'scans'}=FOLDER" in ztcir(*query, "-k", "99")[1]
    answer = json.loads(
        ztcir("index", "--root", f"{home / 'scans'}={tmp_path / 'moved'}", "--to", index, "--json")[
            0
        ]
    )
    assert (answer["moved"], answer["found"], answer["total"]) == (str(home / "scans"), 3, 3)
    assert fix() == ""
    assert ztcir(*query)[1] == ""
