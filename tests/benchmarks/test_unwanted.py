"""What is not wanted leaves the first hits: the result file, and the measurement itself."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import write_tiny_bundle

from benchmarks import unwanted
from benchmarks.command import RESULTS
from ztcir_sdk import Retriever
from ztcir_sdk.modification.unwanted import OF_IMAGES, OF_TEXTS


def test_at_most_a_third_of_what_is_unwanted_is_left() -> None:
    result = json.loads((RESULTS / "unwanted.json").read_text(encoding="utf-8"))
    assert result["strength"] == {"texts": [*OF_TEXTS], "images": [*OF_IMAGES]}  # measured so
    assert all(name.startswith("train-") for name in result["shards"])
    assert len(result["kinds"]) == 5
    for kind in result["kinds"].values():
        assert kind["queries"] >= 30
        assert kind["left"] <= 1 / 3
        assert kind["kept_subtracted"] >= 0.75 * kind["kept_ignored"]


def test_the_command_measures_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard:04}.tar", "w") as archive:
            for number in range(60):
                kind = ("Shirts", "Dresses")[number % 2]
                colour = ("Red", "Blue")[number // 2 % 2]
                gender = ("Men", "Women")[number // 4 % 2]
                metadata = {"articleType": kind, "baseColour": colour, "gender": gender}
                stream = io.BytesIO()
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(stream, "PNG")
                for name, data in (
                    (f"{number}.png", stream.getvalue()),
                    (f"{number}.json", json.dumps(metadata).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    bundle = write_tiny_bundle(tmp_path / "tiny")
    monkeypatch.setattr(
        Retriever, "from_pretrained", classmethod(lambda cls, **_: Retriever(bundle, threads=1))
    )
    out = tmp_path / "unwanted.json"
    options = ["--photos", "60", "--queries", "10", "--threads", "1", "--out", str(out)]
    assert unwanted.main(["--catalogue", str(tmp_path), *options]) == 0
    result = json.loads(out.read_text())
    assert result["shards"] == ["train-0000.tar", "train-0001.tar"]
    assert set(result["kinds"]) == {
        "image, not a colour",
        "text, not a colour",
        "image and text, not a colour",
        "text that refuses a colour",
        "text, unlike an image",
    }
    for kind in result["kinds"].values():
        assert kind["queries"] > 0
        assert 0 < kind["ignored"] <= 1
        assert kind["left"] == pytest.approx(kind["subtracted"] / kind["ignored"], abs=1e-3)
    assert unwanted.main(["--catalogue", str(tmp_path / "none")]) == 2
