"""Archives of strangers: sizes that lead nowhere, headers without end, bombs."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from messy_collection import QuartersEncoder, picture, write

from ztcir_sdk.errors import ImageError
from ztcir_sdk.gallery import build_index
from ztcir_sdk.sources import list_images, read_image, tar_reader

GOOD = ("good.png", picture(1))


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header and its data."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def with_size(header: bytes, size: int) -> bytes:
    """Return a header that claims another size, in base 256."""
    changed = bytearray(header)
    changed[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    changed[124] = 0xFF if size < 0 else 0x80
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", b"".join(records), kind)


HOSTILE = {
    "a negative size": with_size(member("a.png"), -512),
    "a huge size": with_size(member("a.json"), 10**12),
    "a negative pax size": pax(b"13 size=-512\n") + member("a.png"),
    "a long name of 3 GB": with_size(member("x", kind=tarfile.GNUTYPE_LONGNAME), 3 << 30),
    "a pax header of 3 GB": with_size(member("x", kind=tarfile.XHDTYPE), 3 << 30),
    "3000 long names": member("x", b"n" * 200, tarfile.GNUTYPE_LONGNAME) * 3000,
    "quadratic records": pax(b"0" * 60_000 + b"1 a=b\n") + member("a.png"),
    "quadratic digits": pax(b"60011 a=" + b"1" * 60_000 + b"\n\n") + member("a.png"),
    "a sparse map that is cut": pax(
        *(b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n", b"26 GNU.sparse.name=a.png\n")
    )
    + member("a.png", b"999999999\n1\n"),
    "a damaged sparse map": pax(b"29 GNU.sparse.map=1,2,x,y,zzz\n") + member("a.png"),
}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_header_ends_only_its_own_archive(tmp_path: Path, name: str, suffix: str) -> None:
    content = member(*GOOD) + HOSTILE[name] + member("later.png", picture(2)) + bytes(1024)
    if suffix == "tar.gz":
        content = gzip.compress(content, 1)
    bad = write(tmp_path / f"bad.{suffix}", content)
    write(tmp_path / "photos" / "own.png", picture(3))
    index = tmp_path / "an.ztcir"
    report = build_index([tmp_path / "photos", bad], index, QuartersEncoder())
    assert report.total >= 2  # the folder's, and the archive's before its damage
    [sentence] = [why for name, why in report.failed if name == bad.name]
    assert "cannot be read to its end (" in sentence
    assert read_image(tmp_path, f"{bad.name}/good.png") == GOOD[1]
    with pytest.raises(ImageError, match=r"cannot be read to its end|does not exist"):
        read_image(tmp_path, f"{bad.name}/nothing.png")


def test_an_archive_expands_only_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_reader, "EXPANDED_BYTES", 100_000)
    monkeypatch.setattr(tar_reader, "EXPANSION", 10)
    content = member(*GOOD) + member("zeros.bin", bytes(3_000_000)) + member("late.png", b"x")
    bomb = write(tmp_path / "bomb.tgz", gzip.compress(content))
    listing = list_images(bomb)
    assert [file.path for file in listing.files] == ["bomb.tgz/good.png"]
    assert "reaches beyond the end" in listing.failed[0][1]


def test_long_names_and_attributes_of_ordinary_archives_are_read(tmp_path: Path) -> None:
    name = "deep/" * 40 + "ü" * 60 + ".png"
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            info = tarfile.TarInfo(name)
            info.pax_headers = {"comment": "x" * 50_000, "mtime": "1.5"}
            info.size = len(GOOD[1])
            archive.addfile(info, io.BytesIO(GOOD[1]))
        shard = write(tmp_path / f"s{number}.tar", stream.getvalue())
        assert [file.path for file in list_images(shard).files] == [f"s{number}.tar/{name}"]
        assert read_image(tmp_path, f"s{number}.tar/{name}") == GOOD[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
def test_a_pipe_in_place_of_an_archive_or_an_image_does_not_block(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "a.png", picture(1))
    for name in ("b.png", "b.json", "s.tar"):
        os.mkfifo(tmp_path / "photos" / name)
    index = tmp_path / "an.ztcir"
    sources = [tmp_path / "photos", tmp_path / "photos" / "s.tar"]
    report = build_index(sources, index, QuartersEncoder())
    assert report.total == 1
    assert {path for path, _ in report.failed} == {"b.png", "s.tar"}
    with pytest.raises(ImageError, match=r"not an ordinary file|does not exist"):
        read_image(tmp_path / "photos", "b.png")


def test_an_archive_is_walked_once_however_many_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[Path] = []
    open_tar = tar_reader.open_tar

    def counted(path: Path) -> AbstractContextManager[tarfile.TarFile]:
        walks.append(path)
        return open_tar(path)

    monkeypatch.setattr("ztcir_sdk.sources.archives.open_tar", counted)
    names = [f"{number}.png" for number in range(5)]
    shard = write(tmp_path / "s.tar", b"".join(member(name, picture(1)) for name in names))
    for name in names:
        assert read_image(tmp_path, f"s.tar/{name}") == picture(1)
    assert walks == [shard]
    write(shard, member(*GOOD))  # another archive at the same place is read anew
    assert read_image(tmp_path, "s.tar/good.png") == GOOD[1]
    assert walks == [shard, shard]
