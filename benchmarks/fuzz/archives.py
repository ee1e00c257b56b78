"""Tar archives: headers, long names, pax records, links and sparse maps, changed by chance."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import tarfile
from functools import cache
from pathlib import Path

from benchmarks.fuzz.mutations import EDGES, mutated_bytes
from benchmarks.fuzz.pictures import make_picture
from ztcir_sdk.errors import ImageError, ZtcirError
from ztcir_sdk.loading import iter_images
from ztcir_sdk.sources import list_images, read_image

__all__ = ["make_archive", "read_archive"]

NAMES = ("a.jpg", "a.json", "b.png", "sub/c.webp", "../d.jpg", "/e.png", "ü.png", "x" * 300)


def make_archive(rng: random.Random) -> bytes:
    """Return an archive, with the name's suffix decided by its first bytes."""
    data = bytearray(rng.choice(_samples()))
    for _ in range(rng.randint(1, 4)):
        _change_header(rng, data)
    if rng.random() < 0.4:
        data = bytearray(mutated_bytes(rng, bytes(data), _samples()))
    if rng.random() < 0.05:
        data[512:512] = _chain(rng)
    content = bytes(data)
    return gzip.compress(content, 1) if rng.random() < 0.4 else content


def read_archive(file: Path, rng: random.Random) -> str:
    """List an archive, decode its images and read one by its path; return the outcome."""
    suffix = ".tar.gz" if file.read_bytes()[:2] == b"\x1f\x8b" else ".tar"
    file = file.rename(file.with_suffix(suffix))
    try:
        listing = list_images(file)
    except ZtcirError:
        return "refused"
    images = [image for image in iter_images(file, workers=1) if image.image is not None]
    if images:
        name = rng.choice(images).path
        with contextlib.suppress(ImageError):
            read_image(file.parent, name)
    return "refused" if listing.failed else "read"


@cache
def _samples() -> tuple[bytes, ...]:
    rng = random.Random(0)
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for name in NAMES:
                if form == tarfile.USTAR_FORMAT and len(name) > 90:
                    continue
                member = tarfile.TarInfo(name)
                if form == tarfile.PAX_FORMAT:
                    member.pax_headers = {"comment": "c" * 40, "size": "77"}
                text = b'{"caption": "red"}' if name.endswith("json") else make_picture(rng)[:5000]
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
            archive.addfile(link)
            sparse = tarfile.TarInfo("sparse.jpg")
            sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
            archive.addfile(sparse)
        found.append(stream.getvalue())
    return tuple(found)


def _change_header(rng: random.Random, data: bytearray) -> None:
    """Change a field of a header, and mostly mend its checksum."""
    start = 512 * rng.randrange(max(1, len(data) // 512))
    header = data[start : start + 512]
    if len(header) < 512:
        return
    what = rng.randrange(5)
    if what == 0:  # in base 256, of any sign
        value = rng.choice((-512, -1, -513, *EDGES, 10**12, 2**62))
        header[124:136] = (value % (1 << 96)).to_bytes(12, "big")
        header[124] = 0x80 | header[124] if value >= 0 else 0xFF
    elif what == 1:
        header[124:136] = b"%011o\0" % rng.choice((0, 1, 511, 513, 8**10, 8**11 - 1))
    elif what == 2:
        header[156] = rng.choice(b"0123456 7LKSxgXVNMD\0")
    elif what == 3:
        place = rng.randrange(512)
        header[place : place + 8] = rng.randbytes(8)[: 512 - place]
    else:
        header[482:495] = rng.randbytes(13)
    if rng.random() < 0.9:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % (sum(header) & 0o777777)
    data[start : start + 512] = header


def _chain(rng: random.Random) -> bytes:
    """Return many long names after one another, or pax records that refer to themselves."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for _ in range(rng.choice((5, 100, 3000))):
            member = tarfile.TarInfo("././@LongLink")
            member.type = rng.choice((tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE))
            text = rng.choice((b"n" * 200, b"0" * 3000 + b"1 a=b\n", b"9" * 5000, b"11 size=-9\n"))
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return stream.getvalue()[:-1024]
