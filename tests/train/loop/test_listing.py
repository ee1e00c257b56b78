"""Lists of shards: written once by whoever comes first, and used as long as a shard is the same."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data import ReadReport, TrainingImage, read_sources
from train.data.listing import list_shards, read_listing

Listing = tuple[list[TrainingImage], ReadReport]


def write_shard(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def cc3m_sample(number: int) -> list[tuple[str, bytes]]:
    """Return a sample as img2dataset writes it."""
    key, encoded = f"{number:09d}", io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(encoded, "JPEG")
    caption = f"caption {number}"
    meta = {"caption": caption, "key": key}
    return [
        (f"{key}.jpg", encoded.getvalue()),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps(meta).encode()),
    ]


def cc3m_shards(folder: Path, shards: int = 3, samples: int = 4) -> list[Path]:
    return [
        write_shard(
            folder / f"{shard:05d}.tar",
            [f for n in range(samples) for f in cc3m_sample(shard * 10_000 + n)],
        )
        for shard in range(shards)
    ]


def ids(images: Sequence[TrainingImage]) -> list[str]:
    return [image.item.id for image in images]


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every decoding fail the test."""
    monkeypatch.setattr("train.data.image.check_picture", lambda _: pytest.fail("decoded again"))


def test_a_listed_shard_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = cc3m_shards(tmp_path)
    write_shard(tmp_path / "00001.tar", [*cc3m_sample(7), ("8.jpg", b"broken"), ("8.txt", b"x")])
    sources = [str(tmp_path / "*.tar")]
    plain, report = read_sources(sources)
    first, listed = read_sources(sources, cache=tmp_path / "cache")
    refuse(monkeypatch)
    again, once_more = read_sources(sources, cache=tmp_path / "cache")
    assert plain == first == again
    assert report.sentences() == listed.sentences() == once_more.sentences()
    assert "Skipped 1 broken samples: 8 (" in once_more.sentences()[0]
    pixels = [np.asarray(one.load()) for one in (plain[5], again[5])]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert len(list((tmp_path / "cache" / "lists").glob("*.jsonl"))) == len(shards)


def test_a_shard_that_has_changed_is_listed_anew(tmp_path: Path) -> None:
    [shard] = cc3m_shards(tmp_path, shards=1)
    read_sources([str(shard)], cache=tmp_path)
    write_shard(shard, cc3m_sample(77))
    os.utime(shard, (1, 1))
    assert ids(read_sources([str(shard)], cache=tmp_path)[0]) == ["000000077"]


def test_a_damaged_list_is_not_used(tmp_path: Path) -> None:
    [shard] = cc3m_shards(tmp_path, shards=1)
    read_sources([str(shard)], cache=tmp_path)
    [file] = (tmp_path / "lists").glob("*.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for damaged in ("".join(lines[:-1]), "", lines[0] + "[1]\n"):
        file.write_text(damaged, encoding="utf-8")
        assert read_listing(shard, tmp_path) is None
        assert len(read_sources([str(shard)], cache=tmp_path)[0]) == 4


def test_compressed_shards_are_read_as_before(tmp_path: Path) -> None:
    packed = write_shard(tmp_path / "a.tar.gz", cc3m_sample(1))
    images, _ = read_sources([str(packed)], cache=tmp_path)
    assert ids(images) == ["000000001"]
    assert images[0].load().size == (24, 24)


def test_processes_that_list_the_same_shards_divide_them(tmp_path: Path) -> None:
    shards = cc3m_shards(tmp_path, shards=6, samples=1)
    seen: list[list[Path]] = [[], []]
    both = threading.Barrier(2)

    def work(own: int) -> None:
        def read(path: Path) -> Listing:
            if not seen[own]:
                both.wait(timeout=20)
            seen[own].append(path)
            return [], ReadReport()

        list_shards(shards[own * 3 :] + shards[: own * 3], tmp_path, read)

    threads = [threading.Thread(target=work, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(seen[0] + seen[1]) == shards
    assert all(seen)
