"""The demo: its files and its hits; it never touches other files."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_bundle import TinyModel, write_tiny_bundle

from cli.main import main
from ztcir_sdk import Retriever, demo
from ztcir_sdk.bundle import DEFAULT_BUNDLE, embedded_names
from ztcir_sdk.demo import Demo, file_names, run_demo
from ztcir_sdk.drawings.drawings import demo_gallery, drawn_jpeg
from ztcir_sdk.errors import UsageError, ZtcirError

needs_the_bundle = pytest.mark.skipif(
    DEFAULT_BUNDLE not in embedded_names(), reason="the package holds no default bundle"
)


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """Draw each image of the gallery once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "drawn_jpeg", functools.cache(drawn_jpeg))
        yield


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return Retriever(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"), threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, retriever: Retriever) -> Demo:
    return run_demo(retriever, tmp_path_factory.mktemp("demo") / "out")


def test_file_names_describe_the_drawings() -> None:
    gallery = demo_gallery()
    names = file_names(gallery)
    assert len(set(names)) == len(gallery)
    for drawing, name in zip(gallery, names, strict=True):
        assert name.startswith(drawing.caption.replace(" ", "-") + "-")
        assert name.endswith(".jpg")
    assert "red-striped-t-shirt-10.jpg" in names


def test_the_report_names_every_file_that_was_written(made: Demo) -> None:
    out = made.contact_sheet.parent
    files = {path.relative_to(out).parts[0] for path in out.rglob("*")}
    assert files == {"contact-sheet.png", "ztcir-demo"}
    assert len(list(made.gallery.iterdir())) == made.pictures == len(demo_gallery())
    assert (made.index / "index.json").is_file()
    with Image.open(made.contact_sheet) as sheet:
        assert sheet.width > 1000
    assert made.queries == 120
    assert {answer.kind for answer in made.answers} == {"colour", "pattern", "type"}


def test_a_hit_is_right_if_its_file_name_has_the_target_attributes(made: Demo) -> None:
    """The file names contain the attributes, independently of the demo's own check."""
    target = {
        "colour": "blue-striped-t-shirt",
        "pattern": "brown-checked-jacket",
        "type": "yellow-dotted-backpack",
    }
    for answer in made.answers:
        assert len(answer.hits) == 10
        assert answer.reference not in {hit.path for hit in answer.hits}
        for hit in answer.hits:
            stem = Path(hit.path).stem.rpartition("-")[0]
            assert hit.right == (stem == target[answer.kind])
            assert hit.caption.replace(" ", "-") == stem
        assert answer.precision == sum(hit.right for hit in answer.hits) / 10


def test_precision_is_the_mean_over_all_checked_queries(made: Demo) -> None:
    # 120 queries, 40 of each kind, so the mean of the means is the mean
    assert len(made.per_kind) == 3
    assert made.precision_at_10 == pytest.approx(sum(made.per_kind.values()) / 3)


def test_a_second_demo_writes_no_image_and_no_index(made: Demo, retriever: Retriever) -> None:
    times = {path: path.stat().st_mtime_ns for path in made.gallery.iterdir()}
    index = (made.index / "index.json").read_bytes()
    again = run_demo(retriever, made.contact_sheet.parent)
    assert again == made
    assert {path: path.stat().st_mtime_ns for path in made.gallery.iterdir()} == times
    assert (made.index / "index.json").read_bytes() == index


def test_a_demo_with_another_bundle_replaces_the_index(
    made: Demo, retriever: Retriever, tmp_path: Path
) -> None:
    other = Retriever(write_tiny_bundle(tmp_path / "other", TinyModel(seed=1)), threads=1)
    assert run_demo(other, made.contact_sheet.parent).pictures == made.pictures
    run_demo(retriever, made.contact_sheet.parent)


def test_other_files_are_neither_overwritten_nor_indexed(
    retriever: Retriever, tmp_path: Path
) -> None:
    mine = tmp_path / "contact-sheet.png"
    Image.new("RGB", (5, 5)).save(mine)
    before = mine.read_bytes()
    with pytest.raises(UsageError, match=r"contact-sheet\.png.*--out"):
        run_demo(retriever, tmp_path)
    mine.write_text("not even a picture")
    with pytest.raises(UsageError, match=r"contact-sheet\.png.*--out"):
        run_demo(retriever, tmp_path)
    mine.write_bytes(before)
    mine.rename(tmp_path / "elsewhere.png")
    photos = tmp_path / "ztcir-demo" / "photos"
    photos.mkdir(parents=True)
    (photos / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holiday\.jpg.*--out"):
        run_demo(retriever, tmp_path)
    assert sorted(path.name for path in photos.iterdir()) == ["holiday.jpg"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_sentence(
    retriever: Retriever, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ZtcirError, match="cannot be written"):
        run_demo(retriever, tmp_path)
    tmp_path.chmod(0o700)


def test_a_file_where_the_folder_goes_is_a_sentence(retriever: Retriever, tmp_path: Path) -> None:
    (tmp_path / "ztcir-demo").write_text("mine")
    with pytest.raises(ZtcirError, match="ztcir-demo"):
        run_demo(retriever, tmp_path)


def test_the_command_prints_json_or_text(retriever: Retriever, made: Demo) -> None:
    out = made.contact_sheet.parent
    command = ["demo", "--out", str(out), "--bundle", str(retriever.bundle.path)]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads(json.dumps(made.to_dict()))
    assert found["check"] == {
        "queries": 120,
        "precision_at_10": made.precision_at_10,
        "per_kind": made.per_kind,
    }
    assert len(found["queries"]) == 3
    assert Path(found["contact_sheet"]).is_file()
    words = CliRunner().invoke(main, command)
    assert words.exit_code == 0
    assert "120 queries checked" in words.stdout
    assert 'red-striped-t-shirt-01.jpg + "the same one in blue"' in words.stdout


@needs_the_bundle
def test_the_default_bundle_finds_most_targets(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["check"]["queries"] > 100
    assert found["check"]["precision_at_10"] >= 0.8
    with Image.open(found["contact_sheet"]) as sheet:
        assert sheet.format == "PNG"
    kinds = Counter(query["kind"] for query in found["queries"])
    assert kinds == {"colour": 1, "pattern": 1, "type": 1}
    for query in found["queries"]:
        assert sum(hit["right"] for hit in query["hits"]) >= 7, query["text"]
