"""Collections as people have them: every file is indexed, fails with a sentence, or is counted."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import sys
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from messy_collection import (
    NAMES,
    QuartersEncoder,
    picture,
    write,
    write_archive,
    write_messy_collection,
    write_video,
)
from msgspec.structs import replace
from PIL import Image
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk import picture_formats
from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError
from ztcir_sdk.gallery import IndexReport, build_index
from ztcir_sdk.index import Index
from ztcir_sdk.index.manifest import MANIFEST, Manifest
from ztcir_sdk.sources import container_of, list_images, read_image

no_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path / "photos" / "sub" / f"{number}.png", picture(number))
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "an.ztcir"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_tiny_bundle(folder)
    return folder


def items(index: Path) -> dict[str, Any]:
    """Path -> metadata."""
    found = Index.open(index, image_tower=None).items()
    return {item.path: item.metadata for item in found}


def ztcir(*arguments: object, code: int | None = 0) -> tuple[str, str]:
    """Run a command; return what it prints on standard output and on standard error."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert code is None or result.exit_code == code, result.output
    return result.stdout, result.stderr


def printed_bytes(*arguments: object) -> bytes:
    """Run a command; return the bytes that it prints."""
    return CliRunner().invoke(main, list(map(str, arguments))).stdout_bytes


# --- everything at once --------------------------------------------------------------------------


def members(archive: Path) -> Iterator[str]:
    try:
        with tarfile.open(archive) as opened:
            yield from (member.name for member in opened)
    except tarfile.TarError:
        return


def test_every_file_of_a_messy_collection_is_accounted_for(tmp_path: Path, bundle: Path) -> None:
    folder, index = tmp_path / "messy", tmp_path / "messy.ztcir"
    sources = write_messy_collection(folder)
    command = ("index", *sources, "--to", index, "--bundle", bundle, "--video-every", "1")
    printed, noted = ztcir(*command, "--json")
    report = json.loads(printed)
    indexed, failed = set(items(index)), {one["path"] for one in report["failed"]}
    assert all(re.search(r"\.( |$)", one["error"]) for one in report["failed"])

    def is_accounted_for(path: str, left_out: Counter[str]) -> bool:
        shown = path.encode("utf-8", "backslashreplace").decode()
        if path in indexed or shown in failed or f"{path}@0.0s" in indexed:
            return True
        if any(shown.startswith(f"{name}/") for name in report["excluded"]):
            return True
        suffix = Path(path).suffix.lower() or "no suffix"
        left_out["hidden" if Path(path).name.startswith(".") else suffix] += 1
        return False

    left_out: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in [*files, *links]:
            path = Path(parent, name).relative_to(folder).as_posix()
            if Path(parent, name) in sources[1:]:
                for member in members(Path(parent, name)):
                    is_accounted_for(f"{path}/{member}", left_out)
            else:
                is_accounted_for(path, left_out)
    # JSON beside an image is used, and only the other one is counted.
    for suffix in ("", ".gz"):
        for name in ("nan", "surrogate", "deep", "large", "list", "digits"):
            left_out[".json"] -= f"shard.tar{suffix}/{name}.png" in indexed or name == "nan"
    left_out[".json"] -= 2  # of the archive that is cut
    left_out[".json"] -= 6  # beside pictures in the folder texts
    assert report["skipped"] == dict(left_out)
    for name in ("jpg", "jpe", "JFIF", "webp", "jp2", "avif"):
        assert f"good/one.{name}" in indexed
    assert {f"wide/{name}.jpg" for name in ("p3", "adobe", "prophoto")} <= indexed
    assert {"phone/photo.heic", "phone/photo.heif", "camera/photo.dng", "panorama.jpg"} <= indexed
    assert "camera/no preview.dng" in failed
    texts = {path: found for path, found in items(index).items() if path.startswith("texts/")}
    assert texts == {
        "texts/deep.png": None,
        "texts/digits.png": {"a": None},
        "texts/large.png": None,
        "texts/list.png": None,
        "texts/one.png": {"caption": "one", "similarity": None},
        "texts/service.jpg": {"taken": "2024"},
    }
    ignored = {one["path"] for one in report["ignored_metadata"]}
    places = ("shard.tar", "shard.tar.gz", "texts")
    assert ignored == {f"{one}/{name}.png" for one in places for name in ("list", "large", "deep")}
    if sys.platform != "win32":
        assert {f"names/{name}" for name in NAMES} <= indexed
        assert {"offline", "lost.jpg", "circle"} <= failed
    assert {"clip.mp4@0.0s", "clip.mp4@1.0s", "clip.mp4@2.0s", "shard.tar/hard.png"} <= indexed
    assert report["total"] == len(indexed)
    again = json.loads(ztcir(*command, "--json")[0])
    assert (again["added"], again["unchanged"]) == (0, report["total"])
    assert again["ignored_metadata"] == report["ignored_metadata"]  # said each time
    plain = ztcir(*command)[1]
    assert f"skipped {sum(left_out.values())} files: " in plain
    assert "Traceback" not in noted
    for reference in sorted(indexed):
        found = json.loads(
            ztcir(
                *("search", folder / reference, "red", "-k", "99", "--bundle", bundle),
                *("--index", index, "--json"),
            )[0]
        )
        assert found["missing"] == []
        if reference.startswith("c"):  # once is enough, but for the frames
            continue
        break


# --- files that are no images here ---------------------------------------------------------------


def test_formats_without_their_reader_are_counted_and_the_fix_is_said(
    photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write(photos / f"phone{number}.HEIC", picture(number))
    write(photos / "film.mov", b"")
    monkeypatch.setattr("ztcir_sdk.sources.folders.is_readable", lambda one: one.package is None)
    report = build_index(photos, index, QuartersEncoder())
    assert report.skipped == {".heic": 3, ".mov": 1}
    [fix] = report.notes
    assert fix.startswith("To read .heic files, pip install ")
    assert fix.endswith("; then index again.")
    assert report.to_dict()["skipped"] == {".heic": 3, ".mov": 1}

    (photos / "only").mkdir()
    (photos / "phone0.HEIC").rename(photos / "only" / "phone.heic")
    with pytest.raises(ZtcirError, match=r"skipped 1 file: \.heic 1\. To read \.heic files, pip"):
        build_index(photos / "only", photos.parent / "other.ztcir", QuartersEncoder())


def test_an_image_stays_while_its_reader_is_not_installed(
    photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(photos / "a.avif", picture(9, "AVIF"))
    build_index(photos, index, QuartersEncoder())
    monkeypatch.setattr(
        "ztcir_sdk.sources.folders.is_readable", lambda one: one.pillow_feature is None
    )
    assert build_index(photos, index, QuartersEncoder()).removed == 0
    assert "a.avif" in items(index)


def test_every_format_says_what_reads_it() -> None:
    for one in picture_formats.FORMATS:
        assert picture_formats.format_of(f"x{one.suffixes[0].upper()}") is one
        assert "pip install" in picture_formats.how_to_read(one)
    assert picture_formats.format_of("x.psd") is None


# --- videos --------------------------------------------------------------------------------------


def test_frames_of_videos_are_indexed_and_read_again(photos: Path, index: Path) -> None:
    write_video(photos / "clip.mp4")
    encoder = QuartersEncoder()
    report = build_index(photos, index, encoder, video_every=0.5)
    frames = [f"clip.mp4@{time}s" for time in ("0.0", "0.5", "1.0", "1.5", "2.0", "2.5")]
    assert [path for path in items(index) if "@" in path] == frames
    assert report.skipped == {}
    for frame, channel in zip(frames, (0, 0, 1, 1, 2, 2), strict=True):
        image = Image.open(io.BytesIO(read_image(photos, frame)))
        assert int(np.asarray(image).mean(axis=(0, 1)).argmax()) == channel
        item = Index.open(index, image_tower=None).by_path(frame)
        assert item is not None
        assert len(read_image(photos, frame)) == item.size
        assert container_of(photos / frame) == photos / "clip.mp4"

    again = build_index(photos, index, encoder)  # remembered
    assert (again.added, again.unchanged) == (0, 10)
    off = build_index(photos, index, encoder, video_every=0)
    assert (off.removed, off.skipped) == (6, {".mp4": 1})


def test_a_frame_is_a_reference_and_is_left_out_of_its_hits(
    photos: Path, index: Path, bundle: Path, tmp_path: Path
) -> None:
    write_video(photos / "clip.mp4")
    ztcir("index", photos, "--to", index, "--video-every", 1, "--bundle", bundle)
    frame = photos / "clip.mp4@1.0s"
    query = ("search", frame, "x", "--index", index, "--bundle", bundle)
    page = tmp_path / "hits.html"
    found = json.loads(ztcir(*query, "--json", "--html", page)[0])
    hits = [hit["path"] for hit in found["hits"]]
    assert len(hits) == 6
    assert str(frame) not in hits
    assert str(photos / "clip.mp4@2.0s") in hits
    assert "not found" not in page.read_text(encoding="utf-8")


def test_a_video_with_too_many_frames_is_named(
    photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(photos / "clip.mp4")
    monkeypatch.setattr("ztcir_sdk.sources.videos.MAX_FRAMES", 5)
    report = build_index(photos, index, QuartersEncoder(), video_every=0.5)
    assert report.total == 4
    [(path, sentence)] = report.failed
    assert path == "clip.mp4"
    assert "would give 6 frames: give more seconds with --video-every" in sentence


@pytest.mark.parametrize(("time", "code"), [("1.0s", 0), ("2.9s", 0), ("99s", 1), ("4s", 1)])
def test_a_time_after_the_end_of_a_video_is_refused(
    photos: Path, index: Path, bundle: Path, time: str, code: int
) -> None:
    video = write_video(photos / "clip.mp4")
    ztcir("index", photos, "--to", index, "--bundle", bundle)
    query = ("search", f"{video}@{time}", "red", "--index", index, "--bundle", bundle)
    noted = ztcir(*query, code=code)[1]
    assert ("clip.mp4 has only 3.0 seconds, so no frame at" in noted) == bool(code)


def test_a_video_in_place_of_an_image_is_said_to_be_one(
    photos: Path, index: Path, bundle: Path
) -> None:
    video = write_video(photos / "clip.mp4")
    ztcir("index", photos, "--to", index, "--bundle", bundle)
    query = ("search", video, "red", "--index", index, "--bundle", bundle)
    assert "clip.mp4 is a video: name one of its frames, as in" in ztcir(*query, code=1)[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--video-every", "-1"), "--video-every"),
        (("--video-every", "nan"), "--video-every"),
        (("--exclude", "["), "is not a pattern of --exclude or --include: close its brackets"),
        (("--include", "[z-a]"), "is not a pattern of --exclude or --include"),
        (("--exclude", "\\"), "is not a pattern of --exclude or --include"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_their_name(
    photos: Path, index: Path, bundle: Path, options: tuple[str, ...], sentence: str
) -> None:
    noted = ztcir("index", photos, "--to", index, "--bundle", bundle, *options, code=2)[1]
    assert sentence in noted
    assert not index.exists()


def test_a_table_that_does_not_exist_is_named(photos: Path, index: Path, bundle: Path) -> None:
    call = ("index", photos, "--to", index, "--bundle", bundle, "--metadata", "no.csv")
    noted = ztcir(*call, code=1)[1]
    assert "no.csv does not exist: check the path." in noted
    assert "Errno" not in noted


def test_archives_in_a_folder_are_counted_and_the_way_to_read_them_is_said(
    photos: Path, index: Path
) -> None:
    shard = write_archive(photos / "s.tar", [("a.png", picture(9))])
    report = build_index(photos, index, QuartersEncoder())
    assert report.skipped == {".tar": 1}
    assert "name them, too" in report.notes[0]
    report = build_index([photos, shard], index, QuartersEncoder())
    assert (report.total, report.skipped, report.notes) == (5, {}, [])


def test_videos_need_their_reader(
    photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztcir_sdk.sources.collection.is_readable", lambda one: not one.is_video)
    with pytest.raises(MissingDependencyError, match="pip install"):
        build_index(photos, index, QuartersEncoder(), video_every=1)
    with pytest.raises(UsageError, match="video_every"):
        build_index(photos, index, QuartersEncoder(), video_every=-1)


# --- what to leave out ---------------------------------------------------------------------------


def test_default_excludes(photos: Path, index: Path) -> None:
    for name in ("@eaDir", "#recycle", "$Recycle.bin", "sub/node_modules", "sub/.thumbnails"):
        write(photos / name / "x" / "t.png", picture(9))
    write(photos / ".x.png", picture(8))
    report = build_index(photos, index, QuartersEncoder())
    assert report.total == 4
    assert sorted(report.excluded) == [
        *("#recycle", "$Recycle.bin", "@eaDir", "sub/.thumbnails", "sub/node_modules"),
    ]
    assert report.skipped == {"hidden": 1}
    assert build_index(photos, index, QuartersEncoder(), default_excludes=False).total == 10
    assert build_index(photos, index, QuartersEncoder()).total == 10  # remembered
    report = build_index(photos, index, QuartersEncoder(), default_excludes=True)
    assert (report.total, report.removed) == (4, 6)  # they exist: no --prune is needed


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"exclude": ["0.png"]}, {"sub/1.png", "sub/2.png", "sub/3.png", "new/a.jpg", "#a/b.jpg"}),
        ({"exclude": ["*.png"]}, {"new/a.jpg", "#a/b.jpg"}),
        ({"exclude": ["sub"]}, {"new/a.jpg", "#a/b.jpg"}),
        ({"exclude": ["sub/"]}, {"new/a.jpg", "#a/b.jpg"}),
        ({"exclude": ["#a", "/sub/[01].png"]}, {"sub/2.png", "sub/3.png", "new/a.jpg"}),
        ({"include": ["*.jpg"]}, {"new/a.jpg", "#a/b.jpg"}),
        ({"include": ["new"]}, {"new/a.jpg"}),
        ({"include": ["*.jpg"], "exclude": ["new/*"]}, {"#a/b.jpg"}),
        ({"include": ["/**/3.png"]}, {"sub/3.png"}),
    ],
)
def test_patterns_are_remembered_until_others_are_given(
    photos: Path, index: Path, options: Any, left: set[str]
) -> None:
    write(photos / "new" / "a.jpg", picture(7, "JPEG"))
    write(photos / "#a" / "b.jpg", picture(8, "JPEG"))
    build_index(photos, index, QuartersEncoder())
    build_index(photos, index, QuartersEncoder(), **options)
    assert set(items(index)) == left
    write(photos / "0.png", picture(20))
    build_index(photos, index, QuartersEncoder())
    assert set(items(index)) - {"0.png"} == left
    rules = json.loads((index / MANIFEST).read_text())["rules"]
    assert rules["exclude"] == options.get("exclude", [])
    build_index(photos, index, QuartersEncoder(), exclude=[""], include=[""])
    assert len(items(index)) == 7
    rules = json.loads((index / MANIFEST).read_text())["rules"]
    assert rules["exclude"] == rules["include"] == []


def test_patterns_hold_inside_archives(photos: Path, index: Path) -> None:
    shard = write_archive(
        photos / "s.tar",
        [("a/0.png", picture(1)), ("b/0.png", picture(2)), ("@eaDir/0.png", picture(3))],
    )
    report = build_index(shard, index, QuartersEncoder(), exclude=["b"])
    assert set(items(index)) == {"s.tar/a/0.png"}
    assert report.excluded == ["s.tar/@eaDir", "s.tar/b"]


# --- adding and moving ---------------------------------------------------------------------------


def test_a_further_folder_is_added_and_keeps_the_patterns(
    photos: Path, index: Path, tmp_path: Path
) -> None:
    write(tmp_path / "more" / "m.png", picture(9))
    write(tmp_path / "more" / "sub" / "0.png", picture(10))
    encoder = QuartersEncoder()
    build_index(photos, index, encoder, exclude=["/sub/0.png"])
    with pytest.raises(UsageError, match="--add"):
        build_index(tmp_path / "more", index, encoder)
    report = build_index(tmp_path / "more", index, encoder, add=True)
    assert (report.added, report.unchanged, encoder.encoded) == (2, 3, 5)
    assert "more/sub/0.png" in items(index)
    again = build_index(photos, index, encoder)
    assert (again.total, again.unchanged, encoder.encoded) == (5, 5, 5)
    assert set(items(index)) == {
        *("more/m.png", "more/sub/0.png"),
        *(f"photos/sub/{number}.png" for number in (1, 2, 3)),
    }


def test_a_folder_below_a_hidden_one_can_be_added_to(tmp_path: Path, index: Path) -> None:
    write(tmp_path / ".local" / "a.png", picture(1))
    write(tmp_path / "more" / "b.png", picture(2))
    build_index(tmp_path / ".local", index, QuartersEncoder())
    build_index(tmp_path / "more", index, QuartersEncoder(), add=True)
    report = build_index(tmp_path / ".local", index, QuartersEncoder())
    assert (report.unchanged, report.total) == (2, 2)


def test_a_moved_collection_gets_its_new_root_without_encoding(
    photos: Path, index: Path, bundle: Path, tmp_path: Path
) -> None:
    ztcir("index", photos, "--to", index, "--bundle", bundle)
    new = tmp_path / "elsewhere" / "pictures"
    new.parent.mkdir()
    photos.rename(new)
    query = ("search", new / "sub" / "0.png", "x", "--index", index, "--bundle", bundle)
    printed, noted = ztcir(*query)
    assert len(printed.splitlines()) == 3
    assert f"3 of 3 hits are missing, since {photos} does not exist" in noted
    assert json.loads(ztcir(*query, "--json")[0])["missing"]
    checked = json.loads(ztcir("doctor", "--index", index, "--bundle", bundle, "--json")[0])
    [finding] = [one for one in checked["findings"] if one["name"] == "index"]
    assert finding["status"] == "note"
    assert "does not exist" in finding["detail"]
    assert "--root" in finding["cure"]

    (tmp_path / "empty").mkdir()
    _, noted = ztcir("index", "--root", tmp_path / "empty", "--to", index, code=1)
    assert "has 0 of the 4 images" in noted
    answer = json.loads(ztcir("index", "--root", new, "--to", index, "--json")[0])
    assert answer == {"index": str(index), "root": str(new), "found": 4, "total": 4}
    assert ztcir(*query)[1] == ""
    encoder_less = json.loads(ztcir("index", new, "--to", index, "--bundle", bundle, "--json")[0])
    assert (encoder_less["unchanged"], encoder_less["added"]) == (4, 0)


def test_doctor_counts_images_that_are_gone(photos: Path, index: Path, bundle: Path) -> None:
    ztcir("index", photos, "--to", index, "--bundle", bundle)
    (photos / "sub" / "1.png").unlink()
    checked, _ = ztcir("doctor", "--index", index, "--bundle", bundle)
    assert "1 of 4 that were checked do not exist" in checked


def test_an_index_of_an_older_version_says_that_profiles_were_ignored(
    photos: Path, index: Path, bundle: Path
) -> None:
    ztcir("index", photos, "--to", index, "--bundle", bundle)
    assert Manifest.read(index).colour == "srgb"
    assert "colour" not in ztcir("index", photos, "--to", index, "--bundle", bundle)[1]
    replace(Manifest.read(index), colour=None).write(index)
    assert "ignored colour profiles" in ztcir("index", photos, "--to", index, "--bundle", bundle)[1]
    assert "ignored colour profiles" in ztcir("doctor", "--index", index, "--bundle", bundle)[0]


def test_more_than_half_of_an_index_goes_only_with_prune(photos: Path, index: Path) -> None:
    build_index(photos, index, QuartersEncoder())
    kept = (index / MANIFEST).read_bytes()
    write(photos / "new.png", picture(30))
    for number in range(3):
        (photos / "sub" / f"{number}.png").unlink()
    with pytest.raises(ZtcirError, match=r"3 of 4 images .* are missing: .*--prune"):
        build_index(photos, index, QuartersEncoder())
    assert (index / MANIFEST).read_bytes() == kept
    assert len(items(index)) == 4
    report = build_index(photos, index, QuartersEncoder(), prune=True)
    assert (report.removed, report.total) == (3, 2)


def test_an_unmounted_root_stops_even_beside_another_folder(
    photos: Path, index: Path, tmp_path: Path
) -> None:
    build_index(photos, index, QuartersEncoder())
    photos.rename(tmp_path / "unmounted")
    write(tmp_path / "other" / "a.png", picture(30))
    with pytest.raises(ZtcirError, match=r"since .*photos does not exist: connect the disk"):
        build_index(tmp_path / "other", index, QuartersEncoder())
    assert Index.open(index, image_tower=None).root == photos


def test_renaming_everything_is_no_loss(photos: Path, index: Path) -> None:
    build_index(photos, index, QuartersEncoder())
    (photos / "sub").rename(photos / "renamed")
    encoder = QuartersEncoder()
    report = build_index(photos, index, encoder)
    assert (report.renamed, encoder.encoded) == (4, 0)


@no_links
def test_images_behind_a_broken_link_stay(photos: Path, index: Path, tmp_path: Path) -> None:
    write(tmp_path / "disk" / "d.png", picture(9))
    (photos / "disk").symlink_to(tmp_path / "disk")
    build_index(photos, index, QuartersEncoder())
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    report = build_index(photos, index, QuartersEncoder())
    assert report.removed == 0
    assert "disk/d.png" in items(index)
    [(path, sentence)] = report.failed
    assert path == "disk"
    assert "which does not exist: connect that disk, or remove the link." in sentence


# --- metadata ------------------------------------------------------------------------------------


def test_numbers_that_json_does_not_have_become_null(
    photos: Path, index: Path, bundle: Path
) -> None:
    text = b'{"similarity": NaN, "a": [Infinity, -1e999], "s": "\\ud800", "n": 1.5}'
    shard = write_archive(photos / "s.tar", [("a.png", picture(1)), ("a.json", text)])
    ztcir("index", shard, "--to", index, "--bundle", bundle)
    wanted = {"similarity": None, "a": [None, None], "s": "\ufffd", "n": 1.5}
    assert items(index) == {"s.tar/a.png": wanted}
    query = ("search", photos / "sub" / "0.png", "x", "--index", index, "--bundle", bundle)
    [hit] = json.loads(ztcir(*query, "--json")[0])["hits"]
    assert hit["metadata"] == wanted


def test_an_index_that_holds_nan_answers_with_null(photos: Path, index: Path) -> None:
    build_index(photos, index, QuartersEncoder())
    opened = Index.open(index, image_tower=None)
    with opened.edit() as writer:  # as older versions did
        vector = np.eye(12, dtype=np.float32)[0]
        writer.put("x.png", vector, content_hash="0", size=1, mtime_ns=1, metadata={"a": math.nan})
    assert items(index)["x.png"] == {"a": None}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_large_json_beside_an_image_is_never_in_memory(
    photos: Path, index: Path, suffix: str
) -> None:
    large = b'{"a": "' + b"x" * 30_000_000 + b'"}'
    shard = write_archive(
        photos / f"s.{suffix}",
        [
            *(("a.json", large), ("a.png", picture(1))),
            *((f"{n}.json", b'{"a": "' + b"x" * 900_000 + b'"}') for n in range(60)),
            *((f"{n}.png", picture(n)) for n in range(2)),
        ],
    )
    del large
    tracemalloc.start()
    report = build_index(shard, index, QuartersEncoder(), workers=1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 25e6
    [(path, sentence)] = report.ignored_metadata
    assert report.failed == []
    assert path == f"s.{suffix}/a.png"
    assert "its JSON has 30.0 MB, over the limit of 1 MB" in sentence
    assert items(index)[f"s.{suffix}/a.png"] is None


def test_json_is_at_most_a_hundred_levels_deep(photos: Path, index: Path) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    shard = write_archive(
        photos / "s.tar",
        [
            *(("a.png", picture(1)), ("a.json", nested(100))),
            *(("b.png", picture(2)), ("b.json", nested(101))),
            *(("c.png", picture(3)), ("c.json", nested(150_000))),
        ],
    )
    report = build_index(shard, index, QuartersEncoder())
    ignored = report.ignored_metadata
    assert [path for path, _ in ignored] == ["s.tar/b.png", "s.tar/c.png"]
    assert all("more than 100 levels" in sentence for _, sentence in ignored)
    assert [one is None for one in items(index).values()] == [False, True, True]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_links_in_archives_are_followed(photos: Path, index: Path, suffix: str) -> None:
    shard = write_archive(
        photos / f"s.{suffix}",
        [
            ("data.bin", picture(1)),
            ("hard.png", (tarfile.LNKTYPE, "data.bin")),
            ("deep/soft.png", (tarfile.SYMTYPE, "../hard.png")),
            ("a.json", b'{"a": 1}'),
            ("hard.json", (tarfile.LNKTYPE, "a.json")),
            ("circle.png", (tarfile.SYMTYPE, "circle.png")),
            ("lost.png", (tarfile.LNKTYPE, "nothing")),
        ],
    )
    encoder = QuartersEncoder()
    report = build_index(shard, index, encoder)
    assert items(index) == {
        f"s.{suffix}/deep/soft.png": None,
        f"s.{suffix}/hard.png": {"a": 1},
    }
    assert encoder.encoded == 1
    assert sorted(path for path, _ in report.failed) == [
        f"s.{suffix}/circle.png",
        f"s.{suffix}/lost.png",
    ]
    assert read_image(photos, f"s.{suffix}/deep/soft.png") == picture(1)


# --- metadata beside the pictures of a folder ----------------------------------------------------


def test_json_beside_an_image_of_a_folder_is_its_metadata(photos: Path, index: Path) -> None:
    write(photos / "sub" / "0.json", b'{"a": NaN}')
    write(photos / "sub" / "1.png.json", b'{"b": 1}')
    write(photos / "sub" / "lonely.json", b"{}")
    encoder = QuartersEncoder()
    report = build_index(photos, index, encoder)
    assert list(items(index).values()) == [{"a": None}, {"b": 1}, None, None]
    assert (report.skipped, report.failed, report.ignored_metadata) == ({".json": 1}, [], [])


def test_json_that_changes_comes_or_goes_is_noticed_without_encoding(
    photos: Path, index: Path
) -> None:
    text = write(photos / "sub" / "0.json", b'{"a": 1}')
    build_index(photos, index, QuartersEncoder())
    encoder = QuartersEncoder()
    later = text.stat().st_mtime_ns + 10**9
    for number, content in enumerate((b'{"a": 2}', b'{"a": 3}')):
        write(text, content)
        os.utime(text, ns=(later + number, later + number))
        report = build_index(photos, index, encoder)
        assert (report.updated, items(index)["sub/0.png"]) == (1, {"a": number + 2})
    text.unlink()
    assert build_index(photos, index, encoder).updated == 1
    assert items(index)["sub/0.png"] is None
    write(text, b'{"a": 4}')
    os.utime(text, ns=(10**9, 10**9))  # unpacked, older than the image
    assert build_index(photos, index, encoder).updated == 1
    assert items(index)["sub/0.png"] == {"a": 4}
    text.unlink()
    assert build_index(photos, index, encoder).updated == 1
    assert items(index)["sub/0.png"] is None
    assert build_index(photos, index, encoder).unchanged == 4
    assert encoder.encoded == 0


def test_unusable_json_beside_an_image_is_ignored_with_a_sentence(
    photos: Path, index: Path
) -> None:
    write(photos / "sub" / "0.json", b"[" * 200)
    write(photos / "sub" / "1.json", b'{"a": "' + b"x" * 1_000_001 + b'"}')
    write(photos / "sub" / "2.json", b"no JSON")
    (photos / "sub" / "3.json").mkdir()
    for _ in range(2):
        report = build_index(photos, index, QuartersEncoder())
        assert (report.total, report.failed) == (4, [])
        assert [path for path, _ in report.ignored_metadata] == [f"sub/{n}.png" for n in range(3)]
        assert all("of sub/" in sentence for _, sentence in report.ignored_metadata)


def test_patterns_leave_out_json_but_include_is_about_images(photos: Path, index: Path) -> None:
    write(photos / "sub" / "0.json", b'{"a": 1}')
    build_index(photos, index, QuartersEncoder(), include=["*.png"])
    assert items(index)["sub/0.png"] == {"a": 1}
    report = build_index(photos, index, QuartersEncoder(), include=[], exclude=["*.json"])
    assert items(index)["sub/0.png"] is None
    assert report.skipped == {"excluded": 1}


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ";" if "excel" in path.name else ","
        lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("name", ["items.csv", "excel.csv", "items.tsv", "items.parquet"])
@pytest.mark.parametrize(
    ("column", "keys"),
    [
        ("filename", ("0.png", "1.png")),
        ("id", ("0", "1")),
        ("path", ("sub/0.png", "photos/sub/1.png")),
        ("File", ("sub\\0.png", "./sub/1.png")),
    ],
)
def test_metadata_comes_from_a_table(
    photos: Path, index: Path, tmp_path: Path, name: str, column: str, keys: tuple[str, str]
) -> None:
    rows = [{column: key, "colour": colour} for key, colour in zip(keys, "rg", strict=True)]
    table = write_table(tmp_path / name, rows)
    build_index(photos, index, QuartersEncoder())
    encoder = QuartersEncoder()
    report = build_index(photos, index, encoder, metadata=table)
    assert (report.updated, report.unchanged, encoder.encoded) == (2, 2, 0)
    assert report.notes == [f"2 of 4 images have a row in {table}."]
    wanted = [{"colour": "r"}, {"colour": "g"}, None, None]
    assert list(items(index).values()) == wanted
    report = build_index(photos, index, encoder)  # remembered
    assert (report.updated, report.unchanged) == (0, 4)


def test_a_table_that_changes_is_applied_again(photos: Path, index: Path, tmp_path: Path) -> None:
    shard = write_archive(
        photos / "s.tar", [("0.png", picture(0)), ("0.json", b'{"own": 1, "colour": "?"}')]
    )
    table = write_table(tmp_path / "t.csv", [{"id": "0", "colour": "red"}])
    sources = [photos, shard]
    build_index(sources, index, QuartersEncoder(), metadata=table)
    assert items(index)["s.tar/0.png"] == {"own": 1, "colour": "red"}
    write_table(table, [{"id": "0", "colour": "blueish"}, {"id": "new", "colour": "x"}])
    write(photos / "new.png", picture(33))
    encoder = QuartersEncoder()
    report = build_index(sources, index, encoder)
    assert (report.updated, report.added, encoder.encoded) == (2, 1, 1)
    assert items(index)["s.tar/0.png"] == {"own": 1, "colour": "blueish"}
    assert items(index)["sub/0.png"] == {"colour": "blueish"}
    assert items(index)["new.png"] == {"colour": "x"}
    table.unlink()
    with pytest.raises(ZtcirError, match="--metadata ''"):
        build_index(sources, index, encoder)
    build_index(sources, index, encoder, metadata="")
    assert items(index)["sub/0.png"] is None
    assert items(index)["s.tar/0.png"] == {"own": 1, "colour": "?"}
    assert json.loads((index / MANIFEST).read_text())["metadata"] is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n", "No column of .* names the images"),
        ("t.csv", b"id,b\n", "has no rows"),
        ("t.csv", b"\xff\xfe\x00", "cannot be read"),
        ("t.csv", b'id,b\n1,"' + b"x" * 200_000 + b'"\n', "cannot be read"),
        ("t.parquet", b"PAR1", "cannot be read"),
        ("t.txt", b"", "is not a table"),
    ],
)
def test_an_unusable_table_is_named(
    photos: Path, index: Path, name: str, content: bytes, message: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    table = write(photos / name, content)
    with pytest.raises(ZtcirError, match=message):
        build_index(photos, index, QuartersEncoder(), metadata=table)
    assert not index.exists()


# --- file systems --------------------------------------------------------------------------------


def test_a_share_that_cannot_flush_folders_holds_an_index(
    photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync
    refused: list[int] = []

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    report: IndexReport = build_index(photos, index, QuartersEncoder())
    assert report.total == 4
    assert len(items(index)) == 4
    assert refused or sys.platform != "linux"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any name")
def test_a_root_that_is_no_unicode_works_in_every_command(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    photos.rename(root)
    monkeypatch.chdir(tmp_path)
    own = ("--bundle", bundle)
    assert ztcir("index", root.name, *own)[0].startswith("caf\\udce9.ztcir: 4 images; 4 added")
    index = f"{root.name}.ztcir"
    assert json.loads(ztcir("index", root, *own, "--json")[0])["unchanged"] == 4
    query = ("search", root / "sub" / "0.png", "red", *own)
    assert len(ztcir(*query)[0].splitlines()) == 3
    for hit in json.loads(ztcir(*query, "--json")[0])["hits"]:
        assert Path(hit["path"]).is_file()
    assert "4 images of" in ztcir("doctor", *own)[0]
    assert json.loads(ztcir("doctor", *own, "--json")[0])["can_search"]
    root.rename(tmp_path / "moved")
    assert "3 of 3 hits are missing" in ztcir("search", "moved/sub/0.png", "red", *own)[1]
    assert "which does not exist" in ztcir("doctor", *own)[0]
    assert "4 of 4 images" in ztcir("index", "--root", "moved", "--to", index)[1]
    archive = write_archive(root.with_suffix(".tar"), [("a.png", picture(1))])
    assert "is not Unicode: rename" in ztcir("index", archive, *own, code=1)[1]


# --- any names, metadata and bytes ---------------------------------------------------------------

TEXTS = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FILE_NAMES = st.builds(
    "{}{}".format,
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20),
    st.sampled_from([".png", ".JPG", ".heic", ".tif", ".mov", ".json", "", ".jpe"]),
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200)
CONTENTS = st.one_of(
    st.sampled_from([picture(1), picture(2, "JPEG"), picture(3, "TIFF")]),
    st.builds(lambda length: picture(4, "JPEG")[:length], st.integers(0, 300)),
    st.binary(max_size=60),
)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any name")
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    files=st.dictionaries(FILE_NAMES, CONTENTS, max_size=5),
    raw=st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & {*name}),
    metadata=VALUES,
    text=TEXTS,
)
def test_no_name_metadata_or_content_ends_in_a_traceback(
    files: dict[str, bytes],
    raw: bytes,
    metadata: Any,
    text: str,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    here = tmp_path_factory.mktemp("any")
    folder, index = here / "photos", here / "photos.ztcir"
    write(folder / "known.png", picture(0))
    for name, content in files.items():
        write(folder / name, content)
    write(Path(os.fsdecode(os.fsencode(folder) + b"/" + raw + b".png")), picture(5))
    shard = write_archive(
        here / "s.tar", [("a.png", picture(6)), ("a.json", json.dumps(metadata).encode())]
    )
    own = ("--bundle", bundle)
    report = json.loads(ztcir("index", folder, shard, "--to", index, *own, "--json")[0])
    ztcir("index", folder, shard, "--to", index, *own)
    assert len(items(index)) == report["total"]

    def query(*options: object) -> tuple[object, ...]:
        named = ("-k", 99, "--index", index, *own, *options)
        return ("search", *named, "--", folder / "known.png", text)  # a text may start with -

    printed, _ = ztcir(*query("--json"), code=None)
    if printed:
        found = json.loads(printed, parse_constant=pytest.fail)
        assert found["missing"] == []
        for hit in found["hits"]:
            assert read_image(here, os.path.relpath(hit["path"], here))
        paths = [os.fsencode(hit["path"]) for hit in found["hits"]]
        assert printed_bytes(*query("-0")) == b"".join(path + b"\0" for path in paths)
    else:
        assert not text.strip() or not text.isprintable()
    ztcir(*query("--html", here / "hits.html", "--grid", here / "hits.png"), code=None)
    json.loads(ztcir("doctor", "--index", index, *own, "--json", code=None)[0])
    listing = list_images([folder, shard])
    total = len(listing.files) + len(listing.failed) + sum(listing.skipped.values())
    assert total + len(listing.excluded) == sum(1 for one in folder.rglob("*")) + 1


CELLS = st.one_of(VALUES, st.sampled_from(["a.png", "a", "0.png", 10**400, "\ud800", ""]))
LINES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("id", "kind", "reference", "text", "targets", "caption", "articleType", "path"),
                st.one_of(CELLS, st.lists(CELLS, max_size=2)),
            ),
        ).map(lambda value: _dumped(value).encode()),
        st.binary(max_size=30),
        st.just(b'{"id": 1, "kind": "k", "reference": "a", "text": "red", "targets": ["0"]}'),
        st.just(b"id,path,caption,articleType,baseColour,gender"),
        st.just(b"1,a.png,a red shirt,Shirts,Red,Men"),
        st.just(b'{"id": ' + b"9" * 5000 + b"}"),
        st.just(b"[" * 2000),
    ),
    max_size=5,
).map(b"\n".join)


def _dumped(value: Any) -> str:
    text = json.dumps({**value, "large": 0})
    return text.replace('"large": 0', '"large": 1' + "0" * 400)


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking would take minutes
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(lines=LINES, text=LINES, suffix=st.sampled_from([".csv", ".tsv", ".parquet", ".jsonl"]))
def test_no_file_that_a_command_reads_ends_in_a_traceback(
    lines: bytes, text: bytes, suffix: str, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("any")
    photos = here / "photos"
    for number, name in enumerate(("a.png", "0.png", "b.png")):
        write(photos / name, picture(number))
    write(photos / "a.json", lines)
    write(photos / "b.txt", text)
    shard = write_archive(
        here / "s.tar", [("a.png", picture(6)), ("a.json", lines), ("b.png", picture(7))]
    )
    table, out = write(here / f"table{suffix}", text + b"\n" + lines), here / "out.jsonl"
    own = ("--bundle", bundle)
    index = here / "an.ztcir"
    ztcir("index", photos, "--to", index, *own)
    ztcir("index", photos, shard, "--to", index, "--add", *own, "--metadata", table, code=None)
    for source in ("captions", "attributes", "requests"):
        for named in (("--data", photos), ("--data", shard), ("--data", table), ("--csv", table)):
            ztcir("triplets", "--from", source, *named, "-o", out, "--json", code=None)
    made = write(here / "made.jsonl", lines)
    for images in (photos, shard):
        call = ("eval", "triplets", "--images", images, "--triplets", made, *own)
        ztcir(*call, "--method", "all", "--json", code=None)
    write(here / "bundle" / "bundle.json", lines)
    write(here / "other.ztcir" / "index.json", lines)
    other = ("--index", here / "other.ztcir")
    ztcir("search", photos / "a.png", "red", "--index", index, "--bundle", here / "bundle", code=1)
    ztcir("search", photos / "a.png", "red", *other, *own, code=1)
    ztcir("export", here / "bundle", "--trt", "-o", here / "made", code=None)
    ztcir("index", "--root", photos, "--to", here / "other.ztcir", code=1)
