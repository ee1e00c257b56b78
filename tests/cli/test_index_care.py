"""`ztcir index --verify` and `--compact`, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny_bundle import write_tiny_bundle

from cli.main import main

COUNT, REMOVED = 40, 30

Search = Callable[[str], dict[str, float]]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="ztcir")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def index(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of a folder of pictures, each of another colour."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(COUNT):
        colour = (6 * number, 255 - 6 * number, 60 + 90 * (number % 3))
        Image.new("RGB", (24, 16), colour).save(f"photos/{number:02}.png")
    assert run("index", "photos", "--bundle", bundle).exit_code == 0
    return tmp_path / "photos.ztcir"


@pytest.fixture
def search(bundle: Path) -> Search:
    """Return the paths and scores that one picture finds."""

    def ask(name: str) -> dict[str, float]:
        done = run("search", f"photos/{name}", "-k", COUNT, "--json", "--bundle", bundle)
        assert done.exit_code == 0, done.output
        return {hit["path"]: hit["score"] for hit in json.loads(done.stdout)["hits"]}

    return ask


def data_files(index: Path) -> list[Path]:
    """The files that hold what was indexed: all but the manifest and the lock."""
    return sorted(f for f in index.iterdir() if f.suffix in {".f32", ".sqlite"})


def test_verify_says_that_a_whole_index_is_whole(index: Path) -> None:
    done = run("index", index, "--verify")
    assert done.exit_code == 0
    assert f"{COUNT} images, every checksum matches" in done.stdout
    as_json = run("index", index, "--verify", "--json")
    assert json.loads(as_json.stdout) == {"index": str(index), "ok": True, "problems": []}


def test_verify_names_the_file_with_a_damaged_byte(index: Path) -> None:
    [vectors] = [file for file in data_files(index) if file.suffix == ".f32"]
    whole = vectors.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        vectors.write_bytes(damaged)
        done = run("index", index, "--verify")
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.startswith("Error: ")
        assert f"{vectors.name}: rows 0 to {COUNT - 1} are damaged." in done.stderr
        assert "Traceback" not in done.stderr
        as_json = run("index", index, "--verify", "--json")
        assert as_json.exit_code == 1
        found = json.loads(as_json.stdout)
        assert found["ok"] is False
        assert vectors.name in " ".join(found["problems"])
    vectors.write_bytes(whole)
    assert run("index", index, "--verify").exit_code == 0


def test_verify_finds_a_damaged_path_in_the_table(index: Path) -> None:
    [table] = [file for file in data_files(index) if file.suffix == ".sqlite"]
    damaged = bytearray(table.read_bytes())
    damaged[damaged.index(b"17.png")] ^= 1
    table.write_bytes(damaged)
    done = run("index", index, "--verify")
    assert done.exit_code == 1
    assert f"{table.name} is damaged" in done.stderr


def test_compact_frees_what_was_removed_and_keeps_every_answer(index: Path, search: Search) -> None:
    gone = [f"photos/{number:02}.png" for number in range(REMOVED)]
    assert run("index", index, "--remove", "--prune", *gone).exit_code == 0
    before = {file.suffix: file.stat().st_size for file in data_files(index)}
    answers = search("35.png")
    assert len(answers) == COUNT - REMOVED - 1  # without the reference itself

    done = run("index", index, "--compact", "--json")
    assert done.exit_code == 0, done.output
    after = {file.suffix: file.stat().st_size for file in data_files(index)}
    assert after[".f32"] == before[".f32"] * (COUNT - REMOVED) // COUNT
    assert after[".sqlite"] <= before[".sqlite"]
    told = json.loads(done.stdout)
    assert told["bytes"] < told["bytes_before"]

    assert search("35.png") == answers
    assert run("index", index, "--verify").exit_code == 0
    assert "0.0 MB freed" in run("index", index, "--compact").stdout


@pytest.mark.parametrize("option", ["--verify", "--compact"])
def test_what_is_no_index_is_a_sentence(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.ztcir").mkdir()
    for name in ("empty.ztcir", "missing.ztcir"):
        done = run("index", name, option)
        assert done.exit_code == 1
        assert name in done.stderr
        assert "Traceback" not in done.stderr
