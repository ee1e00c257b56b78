"""Files to vectors: several batches at once, in order, within the memory of the pipeline."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messy_collection import QuartersEncoder, picture
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk import Retriever
from ztcir_sdk.errors import ImageError
from ztcir_sdk.gallery.encoding import encode_files
from ztcir_sdk.loading import DecodingPipeline
from ztcir_sdk.sources import list_images


class ThreadedEncoder(QuartersEncoder):
    """A `BulkEncoder` whose batches wait until `callers` of them run."""

    callers, batch = 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.open = False
        self._together = threading.Barrier(self.callers)

    @contextmanager
    def bulk_images(self) -> Iterator[ThreadedEncoder]:
        self.open = True
        yield self
        self.open = False

    def prepare(self, data: bytes, name: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((4, 4)))
        except OSError as error:
            raise ImageError(f"{name} is broken.") from error

    def encode(self, prepared: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        assert self.open
        self.sizes.append(len(prepared))
        self._together.wait(timeout=60)
        return self.encode_images([Image.fromarray(one) for one in prepared])


def collection(folder: Path, count: int, broken: Sequence[int] = ()) -> Path:
    folder.mkdir()
    for number in range(count):
        data = b"\xff\xd8 no picture" if number in broken else picture(number)
        (folder / f"{number:03}.png").write_bytes(data)
    return folder


def encoded(folder: Path, encoder: Any) -> list[tuple[str, Any]]:
    files = list_images(folder).files
    with DecodingPipeline(2) as pipeline:
        return [
            (loaded.file.path, result)
            for loaded, result in encode_files(pipeline, pipeline.load(files), encoder)
        ]


def test_batches_run_at_the_same_time_and_results_keep_their_order(tmp_path: Path) -> None:
    folder = collection(tmp_path / "photos", 26, broken=(0, 7, 25))
    encoder = ThreadedEncoder()
    found = encoded(folder, encoder)  # the barrier would time out if batches ran one by one
    assert [path for path, _ in found] == [f"{number:03}.png" for number in range(26)]
    failed = [path for path, result in found if isinstance(result, ImageError)]
    assert failed == ["000.png", "007.png", "025.png"]
    assert sorted(encoder.sizes) == [3, 4, 4, 4, 4, 4]
    assert not encoder.open
    for path, result in found:
        if path not in failed:
            pixels = encoder.prepare((folder / path).read_bytes(), path)
            [own] = encoder.encode_images([Image.fromarray(pixels)])
            np.testing.assert_array_equal(result, own)


def test_an_encoder_with_encode_images_alone_gets_whole_images(tmp_path: Path) -> None:
    folder = collection(tmp_path / "photos", 5, broken=(2,))
    encoder = QuartersEncoder()
    found = encoded(folder, encoder)
    assert encoder.encoded == 4
    assert [isinstance(result, ImageError) for _, result in found] == [0, 0, 1, 0, 0]


def test_a_failing_graph_ends_the_run_with_its_error(tmp_path: Path) -> None:
    class Failing(ThreadedEncoder):
        def encode(self, prepared: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
            raise RuntimeError("the graph fails")

    folder = collection(tmp_path / "photos", 40)
    encoder = Failing()
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="the graph fails"):
        encoded(folder, encoder)
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_vectors_do_not_depend_on_the_threads(tmp_path: Path, threads: int) -> None:
    folder = collection(tmp_path / "photos", 19)
    retriever = Retriever.from_pretrained(device="cpu", precision="fp32", threads=threads)
    found = encoded(folder, retriever)
    right = retriever.encode_images([folder / path for path, _ in found])
    np.testing.assert_allclose(np.stack([vector for _, vector in found]), right, atol=1e-5)
