"""Indexing collections: folders, archives and lists, updates, and unusable files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from numpy.typing import NDArray
from PIL import Image
from places import ROOT, SUPPORT

from ztcir_sdk import loading
from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import ImageError, IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.gallery import IndexReport, build_index, encoding
from ztcir_sdk.index import Index
from ztcir_sdk.loading import iter_images
from ztcir_sdk.sources import Source, SourceFile, SourceReader, list_images, read_image

DIM = 12


class Encoder:
    """Encodes an image as the means of its quarters, and records its batches."""

    dim = DIM

    def __init__(self, image_tower: str = "ab" * 32, precision: str = "fp32") -> None:
        self.image_tower = image_tower
        self.precision = precision
        self.batches: list[int] = []

    @property
    def encoded(self) -> int:
        return sum(self.batches)

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        return np.stack([vector_of(image) for image in images])


def vector_of(image: Image.Image) -> NDArray[np.float32]:
    assert image.mode == "RGB"
    quarters = np.asarray(image.resize((2, 2)), dtype=np.float64).ravel() + 1
    return np.asarray(quarters / np.linalg.norm(quarters)).astype(np.float32)


def picture(seed: int, format: str = "PNG", size: tuple[int, int] = (6, 5)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tick(path: Path) -> None:
    """Give a file a new modification time."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_007))


def archive(path: Path, members: Sequence[tuple[str, bytes | dict[str, Any]]]) -> Path:
    mode = "w" if path.name.endswith(".tar") else "w:gz"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, value in members:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def counts(report: IndexReport) -> dict[str, int]:
    """Return the counts that are not zero."""
    names = ("added", "updated", "renamed", "removed", "unchanged")
    found = {name: int(getattr(report, name)) for name in names}
    if report.failed:
        found["failed"] = len(report.failed)
    return {name: count for name, count in found.items() if count}


def opened(path: Path) -> Index:
    return Index.open(path, image_tower=Encoder().image_tower)


def paths(index: Path) -> list[str]:
    return [item.path for item in opened(index).items()]


def assert_true(index: Path, root: Path) -> None:
    """Assert that every item has the hash and the vector of its file."""
    found = opened(index)
    assert found.root == root
    for item, vector in zip(found.items(), found.vectors(), strict=True):
        data = read_image(root, item.path)
        assert hashlib.sha256(data).hexdigest() == item.content_hash
        assert len(data) == item.size
        np.testing.assert_allclose(
            vector, vector_of(Image.open(io.BytesIO(data)).convert("RGB")), atol=1e-6
        )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for i in range(5):
        write(folder / f"{i}.png", picture(i))
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "photos.ztcir"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that are read."""
    found: list[str] = []
    true = SourceReader.read

    def read(self: SourceReader, file: SourceFile) -> bytes:
        found.append(file.path)
        return true(self, file)

    monkeypatch.setattr(SourceReader, "read", read)
    return found


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_is_indexed_at_any_depth_without_hidden_names(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i, name in enumerate(["b.JPG", "a/x.jpeg", "a/é 漢.png", "a/b/c/deep.TIFF", "x.webp"]):
        suffix = Path(name).suffix.lower()
        format = {".jpg": "JPEG", ".jpeg": "JPEG", ".tiff": "TIFF", ".webp": "WEBP"}.get(suffix)
        write(photos / name, picture(i, format or "PNG"))
    for name in (".hidden.png", ".thumbs/x.png", "old.ztcir/x.png", "notes.txt", "png"):
        write(photos / name, picture(9))
    (photos / "folder.png").mkdir()
    encoder = Encoder()
    report = build_index(photos, photos / "photos.ztcir", encoder)
    assert counts(report) == {"added": 5}
    assert (report.total, encoder.encoded) == (5, 5)
    expected = ["a/b/c/deep.TIFF", "a/x.jpeg", "a/é 漢.png", "b.JPG", "x.webp"]
    assert paths(photos / "photos.ztcir") == expected
    assert [file.path for file in list_images(photos).files] == sorted(expected)
    assert_true(photos / "photos.ztcir", photos)
    assert counts(build_index(photos, photos / "photos.ztcir", encoder)) == {"unchanged": 5}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_once(photos: Path, tmp_path: Path, index: Path) -> None:
    write(tmp_path / "elsewhere" / "far.png", picture(7))
    write(photos / "sub" / "near.png", picture(8))
    (photos / "a-link").symlink_to(photos / "sub")  # comes first, but the folder's own name counts
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "self").symlink_to("self")
    (photos / "far").symlink_to(tmp_path / "elsewhere")
    (photos / "file.png").symlink_to(photos / "0.png")
    (photos / "broken.png").symlink_to("nothing")
    os.mkfifo(photos / "pipe.png")
    report = build_index(photos, index, Encoder())
    assert paths(index) == [
        *(f"{i}.png" for i in range(5)),
        "far/far.png",
        "file.png",
        "sub/near.png",
    ]
    assert [path for path, _ in report.failed] == ["broken.png", "pipe.png", "self"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any name")
def test_a_name_that_is_not_unicode_is_reported_and_left_out(photos: Path, index: Path) -> None:
    Path(os.fsdecode(os.fsencode(photos) + b"/bad\xff.png")).write_bytes(picture(8))
    report = build_index(photos, index, Encoder())
    assert counts(report) == {"added": 5, "failed": 1}
    [(path, sentence)] = report.failed
    assert path == "bad\\udcff.png"
    assert "rename the file" in sentence
    json.dumps(report.to_dict(), ensure_ascii=False).encode()


def test_unusable_files_are_reported_and_the_rest_is_indexed(photos: Path, index: Path) -> None:
    write(photos / "empty.jpg", b"")
    write(photos / "text.jpg", b"not a picture")
    write(photos / "cut.jpg", picture(1, "JPEG", (64, 64))[:600])
    write(photos / "cut copy.jpg", picture(1, "JPEG", (64, 64))[:600])
    huge = Image.new("1", (20_000, 6_000))
    huge.save(photos / "huge.png")
    report = build_index(photos, index, Encoder())
    assert counts(report) == {"added": 5, "failed": 5}
    assert [path for path, _ in report.failed] == [
        "cut copy.jpg",
        "cut.jpg",
        "empty.jpg",
        "huge.png",
        "text.jpg",
    ]
    assert all(path in sentence and "\n" not in sentence for path, sentence in report.failed)
    assert_true(index, photos)
    # They are looked at again, as long as they are there.
    write(photos / "text.jpg", picture(6))
    assert counts(build_index(photos, index, Encoder())) == {
        "added": 1,
        "unchanged": 5,
        "failed": 4,
    }


def test_an_image_that_is_damaged_later_is_removed(photos: Path, index: Path) -> None:
    build_index(photos, index, Encoder())
    write(photos / "0.png", b"broken")
    report = build_index(photos, index, Encoder())
    assert counts(report) == {"removed": 1, "unchanged": 4, "failed": 1}
    assert report.total == 4


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path, index: Path) -> None:
    folder = tmp_path / "photos"
    write(folder / "notes.txt", b"")
    with pytest.raises(ZtcirError, match=r"no image.*\.jpeg") as caught:
        build_index(folder, index, Encoder())
    assert caught.value.exit_code == 1
    write(folder / "bad.jpg", b"bad")
    with pytest.raises(ZtcirError, match=r"None of the 1 images.*bad\.jpg"):
        build_index(folder, index, Encoder())
    assert not index.exists()
    archive(folder / "x.tar", [("a.png", picture(1))])
    (folder / "bad.jpg").unlink()
    with pytest.raises(ZtcirError, match="tar archives in it, name them"):
        build_index(folder, index, Encoder())
    with pytest.raises(ZtcirError, match="does not exist"):
        build_index(tmp_path / "missing", index, Encoder())
    with pytest.raises(ZtcirError, match=r"notes\.txt is not a folder"):
        build_index(folder / "notes.txt", index, Encoder())
    with pytest.raises(UsageError):
        build_index([], index, Encoder())


def test_an_emptied_collection_keeps_its_index(photos: Path, index: Path) -> None:
    build_index(photos, index, Encoder())
    for file in photos.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(ZtcirError, match="None of the 5"):
        build_index(photos, index, Encoder())
    for file in photos.iterdir():
        file.unlink()
    with pytest.raises(ZtcirError, match="no image"):
        build_index(photos, index, Encoder())
    assert len(paths(index)) == 5


# --- again, after changes ------------------------------------------------------------------------


def test_an_update_reads_only_changed_files(photos: Path, index: Path, read: list[str]) -> None:
    encoder = Encoder()
    build_index(photos, index, encoder)
    read.clear()

    assert counts(build_index(photos, index, encoder)) == {"unchanged": 5}
    assert (read, encoder.encoded) == ([], 5)

    tick(photos / "0.png")  # touched only
    assert counts(build_index(photos, index, encoder)) == {"unchanged": 5}
    assert (read, encoder.encoded) == (["0.png"], 5)
    assert counts(build_index(photos, index, encoder)) == {"unchanged": 5}
    assert read == ["0.png"]
    read.clear()

    (photos / "1.png").rename(photos / "moved.png")
    write(photos / "2.png", picture(12))
    tick(photos / "2.png")
    (photos / "3.png").unlink()
    write(photos / "sub" / "new.png", picture(13))
    write(photos / "sub" / "copy.png", picture(13))
    write(photos / "known.png", picture(0))
    report = build_index(photos, index, encoder)
    assert counts(report) == {
        "added": 3,
        "updated": 1,
        "renamed": 1,
        "removed": 1,
        "unchanged": 2,
    }
    assert (encoder.encoded, report.total) == (7, 7)
    assert sorted(read) == ["2.png", "known.png", "moved.png", "sub/copy.png", "sub/new.png"]
    assert_true(index, photos)


def test_contents_that_swap_paths_are_not_encoded_again(photos: Path, index: Path) -> None:
    encoder = Encoder()
    build_index(photos, index, encoder)
    for i in range(5):
        write(photos / f"{i}.png", picture((i + 1) % 5))
        tick(photos / f"{i}.png")
    for flush_every in (1000, 1):
        report = build_index(photos, index, encoder, flush_every=flush_every)
        assert encoder.encoded == 5
        assert_true(index, photos)
    assert counts(report) == {"unchanged": 5}


def test_equal_files_are_encoded_once(tmp_path: Path, index: Path) -> None:
    for i in range(100):
        write(tmp_path / "photos" / f"{i}.png", picture(i % 3))
    encoder = Encoder()
    report = build_index(tmp_path / "photos", index, encoder)
    assert (report.added, report.total, encoder.encoded) == (100, 100, 3)
    assert_true(index, tmp_path / "photos")


class FolderAgainstIndex(RuleBasedStateMachine):
    """After any changes in a folder, an updated index equals a new one."""

    NAMES = st.sampled_from(["a.png", "b.png", "s/a.png", "s/t/é.jpg", "z.JPEG"])

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.root = Path(self.temporary.name).resolve() / "photos"
        self.index = self.root.with_name("x.ztcir")
        write(self.root / "always.png", picture(99))
        self.encoder = Encoder()
        self.clock = 10**18

    def at(self, path: Path) -> None:
        self.clock += 10**9
        os.utime(path, ns=(self.clock, self.clock))

    @rule(name=NAMES, seed=st.integers(0, 5))
    def write(self, name: str, seed: int) -> None:
        self.at(write(self.root / name, picture(seed)))

    @rule(name=NAMES)
    def spoil(self, name: str) -> None:
        self.at(write(self.root / name, b"spoiled"))

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        if (self.root / old).exists():
            (self.root / new).parent.mkdir(parents=True, exist_ok=True)
            (self.root / old).replace(self.root / new)

    @rule(flush_every=st.sampled_from([1, 2, 1000]))
    def build(self, flush_every: int) -> None:
        report = build_index(self.root, self.index, self.encoder, flush_every=flush_every)
        files = [file for file in self.root.rglob("*") if file.is_file()]
        good = sorted(f.relative_to(self.root).as_posix() for f in files if f.stat().st_size > 7)
        assert paths(self.index) == good
        assert report.total == len(good)
        assert len(report.failed) == len(files) - len(good)
        found = report.added + report.updated + report.renamed + report.unchanged
        assert found == len(good)
        assert_true(self.index, self.root)

    def teardown(self) -> None:
        self.build(1000)
        assert counts(build_index(self.root, self.index, self.encoder)).get("unchanged") == len(
            paths(self.index)
        )
        self.temporary.cleanup()


test_any_changes_to_a_folder = FolderAgainstIndex.TestCase
test_any_changes_to_a_folder.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_moved_collection_keeps_its_vectors(photos: Path, index: Path, tmp_path: Path) -> None:
    encoder = Encoder()
    build_index(photos, index, encoder)
    photos.rename(tmp_path / "renamed")
    report = build_index(tmp_path / "renamed", index, encoder)
    assert counts(report) == {"unchanged": 5}
    assert_true(index, tmp_path / "renamed")


def test_indexing_a_part_keeps_the_rest_and_indexing_more_adds_to_it(
    photos: Path, index: Path, read: list[str]
) -> None:
    encoder = Encoder()
    for name in ("sub/x.png", "sub/sub/x.png"):
        write(photos / name, picture(len(name)))
    build_index(photos / "sub", index, encoder)
    assert paths(index) == ["sub/x.png", "x.png"]
    read.clear()
    assert counts(build_index(photos, index, encoder)) == {"added": 5, "unchanged": 2}
    assert sorted(read) == [f"{i}.png" for i in range(5)]
    assert_true(index, photos)

    (photos / "sub" / "x.png").unlink()
    (photos / "4.png").unlink()
    report = build_index(photos / "sub", index, encoder)  # what is gone is gone
    assert counts(report) == {"removed": 2, "unchanged": 5}
    assert counts(build_index([photos / "0.png"], index, encoder)) == {"unchanged": 5}
    assert_true(index, photos)


def test_another_collection_does_not_replace_the_first(
    photos: Path, index: Path, tmp_path: Path
) -> None:
    build_index(photos, index, Encoder())
    write(tmp_path / "others" / "x.png", picture(8))
    with pytest.raises(UsageError, match="pass --add to add the folder"):
        build_index(tmp_path / "others", index, Encoder())
    assert len(paths(index)) == 5


def test_another_image_tower_is_refused(photos: Path, index: Path) -> None:
    build_index(photos, index, Encoder())
    with pytest.raises(IndexMismatchError, match="pass another --to, or delete it"):
        build_index(photos, index, Encoder("cd" * 32))
    assert len(paths(index)) == 5


def test_another_precision_is_accepted_and_recorded(photos: Path, index: Path) -> None:
    build_index(photos, index, Encoder())
    build_index(photos, index, Encoder(precision="int8"))
    assert opened(index).precision == "fp32"  # nothing was encoded with it
    write(photos / "new.png", picture(8))
    build_index(photos, index, Encoder(precision="int8"))
    assert opened(index).precision == "fp32+int8"


def test_a_folder_that_is_not_an_index_is_not_touched(photos: Path) -> None:
    with pytest.raises(ZtcirError, match="choose another folder"):
        build_index(photos, photos, Encoder())
    with pytest.raises(ZtcirError, match="choose another folder"):
        build_index(photos, photos / "0.png", Encoder())
    assert len(list(photos.iterdir())) == 5


# --- archives and lists --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_archives_with_metadata(tmp_path: Path, index: Path, suffix: str) -> None:
    first = archive(
        tmp_path / f"s-0{suffix}",
        [
            ("1.json", {"colour": "red"}),
            ("1.jpg", picture(1, "JPEG")),
            ("dir/2.jpg", picture(2, "JPEG")),
            ("dir/2.json", {"colour": "vert é"}),
            ("3.front.png", picture(3)),
            ("3.json", {"colour": "blue"}),
            ("./4.webp", picture(4, "WEBP")),
            ("._4.webp", b"junk"),
            ("notes.txt", b"junk"),
        ],
    )
    second = archive(tmp_path / f"s-1{suffix}", [("1.jpg", picture(1, "JPEG"))])
    encoder = Encoder()
    report = build_index([first, second], index, encoder)
    assert counts(report) == {"added": 5}
    assert encoder.encoded == 4
    found = {item.path: item.metadata for item in opened(index).items()}
    assert found == {
        f"s-0{suffix}/1.jpg": {"colour": "red"},
        f"s-0{suffix}/dir/2.jpg": {"colour": "vert é"},
        f"s-0{suffix}/3.front.png": {"colour": "blue"},
        f"s-0{suffix}/4.webp": None,
        f"s-1{suffix}/1.jpg": None,
    }
    assert_true(index, tmp_path)
    images = list(iter_images([first, second]))
    assert [image.key for image in images] == ["1", "2", "3.front", "4", "1"]
    assert [image.metadata for image in images[:3]] == [
        {"colour": "red"},
        {"colour": "vert é"},
        {"colour": "blue"},
    ]
    assert all(image.image is not None and image.error is None for image in images)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_changed_archives_are_updated(
    tmp_path: Path, index: Path, suffix: str, read: list[str]
) -> None:
    encoder = Encoder()
    members: list[tuple[str, bytes | dict[str, Any]]] = [
        (name, value)
        for i in range(4)
        for name, value in ((f"{i}.png", picture(i)), (f"{i}.json", {"n": i}))
    ]
    shard = archive(tmp_path / f"s{suffix}", members)
    build_index(shard, index, encoder)
    read.clear()
    assert counts(build_index(shard, index, encoder)) == {"unchanged": 4}
    assert read == []

    members[1] = ("0.json", {"n": "other"})  # metadata alone
    members[2] = ("1.png", picture(11))
    members[4] = ("two.png", members[4][1])
    members[5] = ("two.json", members[5][1])
    del members[6:]
    archive(shard, members)
    tick(shard)
    report = build_index(shard, index, encoder)
    assert counts(report) == {"updated": 2, "renamed": 1, "removed": 1}
    assert encoder.encoded == 5
    assert_true(index, tmp_path)
    assert [item.metadata for item in opened(index).items()] == [{"n": "other"}, {"n": 1}, {"n": 2}]

    more = archive(tmp_path / f"t{suffix}", [("x.png", picture(20))])
    assert counts(build_index(more, index, encoder)) == {"added": 1, "unchanged": 3}
    shard.unlink()
    assert counts(build_index(more, index, encoder, prune=True)) == {"removed": 3, "unchanged": 1}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_unusable_archives_and_members_are_reported(
    tmp_path: Path, index: Path, suffix: str
) -> None:
    shard = archive(
        tmp_path / f"s{suffix}",
        [
            ("good.png", picture(1)),
            ("bad.png", b"bad"),
            ("../out.png", picture(2)),
            ("list.png", picture(3)),
            ("list.json", b"[1]"),
            ("torn.png", picture(4)),
            ("torn.json", b"{"),
            ("twice.png", b"the last one counts"),
            ("twice.png", picture(5)),
        ],
    )
    write(tmp_path / "text.tar", b"not an archive" * 100)
    report = build_index([shard, tmp_path / "text.tar"], index, Encoder())
    assert counts(report) == {"added": 4, "failed": 3}
    assert {path for path, _ in report.failed} == {
        f"s{suffix}/bad.png",
        f"s{suffix}/../out.png",
        "text.tar",
    }
    assert [path for path, _ in report.ignored_metadata] == [
        f"s{suffix}/list.png",
        f"s{suffix}/torn.png",
    ]
    assert paths(index) == [f"s{suffix}/{n}.png" for n in ("good", "list", "torn", "twice")]
    errors = {image.key: (image.image is None, image.error) for image in iter_images(shard)}
    assert errors["good"] == (False, None)
    assert errors["bad"][0]
    assert not errors["list"][0]
    assert "JSON" in str(errors["list"][1])


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_truncated_archive_gives_its_readable_images_and_removes_none(
    tmp_path: Path, index: Path, suffix: str
) -> None:
    shard = archive(
        tmp_path / f"s{suffix}", [(f"{i}.png", picture(i, size=(40, 40))) for i in range(9)]
    )
    whole = shard.read_bytes()
    write(shard, whole[: len(whole) // 2])
    encoder = Encoder()
    report = build_index(shard, index, encoder)
    assert 0 < report.added < 9
    assert f"s{suffix}" in [path for path, _ in report.failed]
    write(shard, whole)
    tick(shard)
    assert build_index(shard, index, encoder).total == 9
    write(shard, whole[: len(whole) // 2])
    tick(shard)
    encoded = encoder.encoded
    report = build_index(shard, index, encoder)
    assert report.failed
    assert report.total >= 8  # but for one that begins before the cut and ends after it
    assert encoder.encoded == encoded


def test_a_source_may_mix_files_archives_and_folders(tmp_path: Path, index: Path) -> None:
    single = write(tmp_path / "a" / "1.png", picture(1))
    shard = archive(tmp_path / "a" / "s.tar", [("x.png", picture(2))])
    write(tmp_path / "b" / "sub" / "3.png", picture(3))
    source: Source = [single, shard, tmp_path / "b", str(single)]
    assert counts(build_index(source, index, Encoder())) == {"added": 3}
    assert paths(index) == ["a/1.png", "a/s.tar/x.png", "b/sub/3.png"]
    assert_true(index, tmp_path)


def test_the_validation_shards_of_the_catalogue(shared_data: Path, index: Path) -> None:
    shards = sorted((shared_data / "fashion-products").glob("val-*.tar"))
    encoder = Encoder()
    report = build_index(shards, index, encoder)
    assert (report.total, report.failed) == (4617, [])
    first = next(opened(index).items())
    assert first.metadata is not None
    assert first.path.endswith(f"/{first.metadata['id']}.jpg")
    assert counts(build_index(shards, index, encoder)) == {"unchanged": 4617}
    assert encoder.encoded <= 4617


def test_reading_a_deleted_image_is_an_error(tmp_path: Path) -> None:
    archive(tmp_path / "s.tar", [("x.png", picture(2))])
    assert read_image(tmp_path, "s.tar/x.png") == picture(2)
    for path in ("s.tar/y.png", "z.png", "z.tar/x.png"):
        with pytest.raises(ImageError, match="index the collection again"):
            read_image(tmp_path, path)


# --- the run itself ------------------------------------------------------------------------------


def test_progress_counts_every_image(photos: Path, index: Path) -> None:
    write(photos / "bad.png", b"")
    seen: list[tuple[int, int]] = []
    build_index(photos, index, Encoder(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {6}
    assert seen[-1] == (6, 6)
    build_index(photos, index, Encoder(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)


def test_batches_are_limited_in_images_and_in_pixels(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(70):
        write(tmp_path / "photos" / f"{i:02}.png", picture(i, size=(10, 10)))
    encoder = Encoder()
    build_index(tmp_path / "photos", index, encoder)
    assert encoder.batches == [32, 32, 6]

    monkeypatch.setattr(loading, "PIXELS_AHEAD", 2000)
    monkeypatch.setattr(encoding, "BATCH_PIXELS", 1000)
    lock, held, most = threading.Lock(), 0, 0

    def load(*args: Any, **named: Any) -> Image.Image:
        nonlocal held, most
        image = load_image(*args, **named)
        with lock:
            held += 100
            most = max(most, held)
        return image

    class Slow(Encoder):
        def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
            nonlocal held
            time.sleep(0.002)
            with lock:
                held -= 100 * len(images)
            return super().encode_images(images)

    monkeypatch.setattr(loading, "load_image", load)
    encoder = Slow()
    build_index(tmp_path / "photos", tmp_path / "other.ztcir", encoder, workers=3)
    assert encoder.batches == [10] * 7
    # What is being encoded, and what waits: the bound and a picture a thread.
    assert most <= 2000 + 3 * 100


def test_files_larger_than_the_limits_are_still_indexed(
    photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BYTES_AHEAD", 10)
    monkeypatch.setattr(loading, "PIXELS_AHEAD", 1)
    monkeypatch.setattr(encoding, "BATCH_PIXELS", 1)
    assert build_index(photos, index, Encoder(), workers=2).total == 5


def test_iter_images_keeps_the_order_and_can_be_stopped(tmp_path: Path) -> None:
    for i in range(80):
        write(tmp_path / f"{i:02}.png", picture(i))
    write(tmp_path / "40.png", b"bad")
    images = iter_images(tmp_path, workers=3)
    for i, image in enumerate(images):
        assert image.key == f"{i:02}"
        assert (image.image is None) == (i == 40) == (image.error is not None)
        if image.image is not None:
            image.image.thumbnail((1, 1))
        if i == 60:
            break
    before = threading.active_count()
    images.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before


def test_errors_of_the_encoder_are_raised_and_leave_no_index(photos: Path, index: Path) -> None:
    class Broken(Encoder):
        def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        build_index(photos, index, Broken())
    assert not index.exists()

    class Short(Encoder):
        def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
            return super().encode_images(images)[:-1]

    with pytest.raises(ValueError, match=r"\(4, 12\) for 5 images"):
        build_index(photos, index, Short())


KILLED = """
import os, signal, sys
from test_gallery import Encoder
from ztcir_sdk.gallery import build_index

def progress(done, total):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

build_index(sys.argv[1], sys.argv[2], Encoder(), progress=progress, flush_every=40)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_resumes(tmp_path: Path, index: Path) -> None:
    photos = tmp_path / "photos"
    for i in range(200):
        write(photos / f"{i}.png", picture(i))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{SUPPORT}{os.pathsep}{ROOT}",
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, photos, index, "150"], env=environment, check=False
    )
    assert killed.returncode < 0
    done = len(paths(index))
    assert done >= 110
    assert_true(index, photos)
    encoder = Encoder()
    report = build_index(photos, index, encoder)
    assert counts(report) == {"added": 200 - done, "unchanged": done}
    assert encoder.encoded == 200 - done
    assert_true(index, photos)


def test_the_report_converts_to_json_values(photos: Path, index: Path) -> None:
    write(photos / "bad.png", b"")
    report = build_index(photos, index, Encoder())
    value = json.loads(json.dumps(report.to_dict()))
    assert value.pop("seconds") > 0
    [failed] = value.pop("failed")
    assert failed["path"] == "bad.png"
    assert "bad.png" in failed["error"]
    assert value == {
        "added": 5,
        "updated": 0,
        "renamed": 0,
        "removed": 0,
        "unchanged": 0,
        "total": 5,
        "skipped": {},
        "ignored_metadata": [],
        "excluded": [],
        "notes": [],
    }
