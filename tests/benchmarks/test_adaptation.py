"""What adapting takes and gains: photos without their texts, and the table."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.adapt.__main__ import write_photos
from benchmarks.adapt.report import describe_adaptation
from ztcir_sdk.errors import ZtcirError


def shard(path: Path, numbers: range) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for suffix, content in ((".jpg", f"photo {number}"), (".json", '{"caption": "red"}')):
                info = tarfile.TarInfo(f"{number}{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
    return path


def test_photos_are_drawn_from_all_shards_and_have_no_texts(tmp_path: Path) -> None:
    shards = [shard(tmp_path / f"train-{n}.tar", range(10 * n, 10 * n + 10)) for n in range(3)]
    for folder in ("one", "two"):
        write_photos(shards, 12, tmp_path / folder)
    found = sorted((tmp_path / "one").iterdir())
    assert len(found) == 12
    assert {file.suffix for file in found} == {".jpg"}
    assert {int(file.stem) // 10 for file in found} == {0, 1, 2}
    assert all(file.read_text() == f"photo {file.stem}" for file in found)
    assert [file.name for file in found] == [f.name for f in sorted((tmp_path / "two").iterdir())]
    with pytest.raises(ZtcirError, match="There are 30 photos, not 31"):
        write_photos(shards, 31, tmp_path / "three")


def test_the_table_leaves_out_what_a_bundle_does_not_answer() -> None:
    scores = {"sum": {"mAP@10": 0.3}, "image": {"mAP@10": 0.1}, "composed": {"mAP@10": 0.4}}
    run: dict[str, Any] = {"photos": 10_000, "seconds": 930.0, "answers": "composed"}
    kept = {"photos": 1000, "seconds": 240.0, "answers": "sum"}
    values = {
        "backbone": "fashion-lite",
        "runs": [
            {
                **run,
                "gains": {"methods": scores},
                "validation": {"composed": 0.29, "sum": 0.14, "sum_best": 0.19},
            },
            {**kept, "gains": None, "validation": {"sum": 0.14, "sum_best": 0.19}},
        ],
        "machine": {"cpu": "a processor"},
        "threads": 2,
        "versions": {"torch": "2.0"},
        "date": "2026-11-30T00:00:00+00:00",
    }
    text = describe_adaptation(values)
    assert "| 10 000 | 15.5 | 0.400 | 0.300 | 0.290 | 0.190 | composed |" in text
    assert "| 1 000 | 4.0 |  |  |  | 0.190 | sum |" in text
