"""Embeddings are computed once and kept, even if the process is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from benchmark_data import PlannedEncoder, at, colour_of, planned_run, png, write_images
from PIL import Image
from places import ROOT
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks import embedding_run
from ztcir_sdk.evaluation.benchmarks.embedding_cache import EmbeddingCache, default_cache_folder
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import (
    BenchmarkImage,
    UnusableImagesError,
    locate,
    require_intact,
)
from ztcir_sdk.evaluation.benchmarks.queries import Query
from ztcir_sdk.names import METHODS

TOWER = "cd" * 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture(scope="module")
def retriever(bundle: Path) -> Retriever:
    return Retriever(bundle, threads=1)


def open_cache(folder: Path, **changes: Any) -> EmbeddingCache:
    return EmbeddingCache(
        folder, **{"image_tower": TOWER, "precision": "fp32", "dim": 3, **changes}
    )


def run_of(retriever: Retriever, folder: Path, **options: Any) -> EmbeddingRun:
    cache = EmbeddingCache(
        folder,
        image_tower=retriever.image_tower,
        precision=retriever.precision,
        dim=retriever.dim,
    )
    return EmbeddingRun(retriever.encoder, cache, "test", **options)


def images_in(folder: Path, count: int) -> list[BenchmarkImage]:
    names = [f"{number:04}" for number in range(count)]
    write_images(folder, names, ".jpg")
    return list(locate(folder, names).values())


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the size of each batch that is encoded."""
    batches: list[int] = []
    for name in ("encode_images", "encode_references"):
        real = getattr(Encoder, name)

        def counted(self: Encoder, images: list[Any], real: Any = real) -> Any:
            batches.append(len(images))
            return real(self, images)

        monkeypatch.setattr(Encoder, name, counted)
    return batches


# the cache file


def test_stored_vectors_are_kept_when_the_cache_is_closed(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    with open_cache(tmp_path) as cache:
        cache.put(["a", "b"], vectors)
    with open_cache(tmp_path) as cache:
        assert cache.known(["b", "c", "a"]).tolist() == [True, False, True]
        np.testing.assert_array_equal(cache.read(["b", "a"]), vectors[::-1])
        with pytest.raises(KeyError):
            cache.read(["a", "c"])


def test_uncommitted_vectors_are_dropped_after_an_error(tmp_path: Path) -> None:
    vector = np.ones((1, 3), dtype=np.float32)
    cache = open_cache(tmp_path)
    cache.put(["kept"], vector)
    cache.commit()
    cache.put(["lost"], vector)
    cache.__exit__(RuntimeError, RuntimeError("stop"), None)
    with open_cache(tmp_path) as cache:
        assert cache.known(["kept", "lost"]).tolist() == [True, False]


def test_image_towers_and_precisions_have_separate_caches(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        cache.put(["a"], np.ones((1, 3), dtype=np.float32))
    for changes in ({"precision": "int8"}, {"image_tower": "ef" * 32}):
        with open_cache(tmp_path, **changes) as other:
            assert not other.known(["a"]).any()


@pytest.mark.parametrize("changes", [{"image_tower": "cd" * 31 + "ee"}, {"dim": 4}])
def test_a_cache_of_another_tower_or_width_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    open_cache(tmp_path).__exit__(None, None, None)
    with pytest.raises(
        ZtcirError, match="another image tower or another version of ztcir: delete it"
    ):
        open_cache(tmp_path, **changes)


def test_a_corrupt_cache_is_refused(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        cache.put(["a"], np.ones((1, 3), dtype=np.float32))
        file = cache.file
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE vectors SET vector = x'00'")
    with open_cache(tmp_path) as cache, pytest.raises(ZtcirError, match=r"is corrupt .* delete it"):
        cache.read(["a"])
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(ZtcirError, match=r"is corrupt .* delete it"):
        open_cache(tmp_path)


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZtcirError, match=r"cannot be created .* --cache"):
        open_cache(tmp_path / "file" / "below")


def test_two_processes_may_share_a_cache(tmp_path: Path) -> None:
    vector = np.ones((1, 3), dtype=np.float32)
    with open_cache(tmp_path) as one, open_cache(tmp_path) as other:
        one.put(["a"], vector)
        one.commit()
        other.put(["a", "b"], np.repeat(vector, 2, axis=0))
        other.commit()
        assert one.known(["a", "b"]).all()


def test_the_default_folder_is_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder().parts[-2:] == ("ztcir", "embeddings")


# images


def test_embeddings_equal_those_of_the_retriever(retriever: Retriever, tmp_path: Path) -> None:
    images = images_in(tmp_path / "images", 40)
    run = run_of(retriever, tmp_path / "cache")
    run.embed(images)
    alone = retriever.encode_images([image.path for image in images])
    np.testing.assert_allclose(run.vectors(images), alone, atol=1e-6)
    blocks = np.concatenate(list(run.blocks(images)))
    np.testing.assert_array_equal(blocks, run.vectors(images))


def test_a_second_run_encodes_nothing(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_in(tmp_path / "images", 40)
    queries = [Query(image, f"text {place}") for place, image in enumerate(images)]
    methods = [Method(name, "a photo of $ that {text}") for name in METHODS]
    first = run_of(retriever, tmp_path / "cache")
    first.embed(images)
    expected = [first.encode(queries, method) for method in methods]

    monkeypatch.setattr(Encoder, "graph", lambda self, name: pytest.fail(f"{name} runs"))
    again = run_of(retriever, tmp_path / "cache")
    again.embed(images)
    for method, vectors in zip(methods, expected, strict=True):
        np.testing.assert_array_equal(again.encode(queries, method), vectors)


def test_only_a_changed_image_is_encoded_again(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    run = run_of(retriever, tmp_path / "cache")
    run.embed(images_in(folder, 5))
    Image.new("RGB", (3, 3), (1, 2, 3)).save(folder / "0002.jpg")
    batches = count_encoded(monkeypatch)
    anew = list(locate(folder, [f"{number:04}" for number in range(5)]).values())
    run.embed(anew)
    assert batches == [1]
    changed = retriever.encode_images([anew[2].path])[0]
    np.testing.assert_allclose(run.vectors(anew)[2], changed, atol=1e-6)


def test_every_input_of_a_query_is_in_its_key(retriever: Retriever, tmp_path: Path) -> None:
    """After a change of any input, the cache must not return the old vector."""
    one, other = images_in(tmp_path / "images", 2)
    run = run_of(retriever, tmp_path / "cache")
    run.embed([one, other])
    template = "a photo of $ that {text}"

    def encode(image: BenchmarkImage, text: str, method: Method) -> None:
        expected = retriever.encoder.encode_queries(
            retriever.encoder.questions(
                method.name,
                [text],
                weight=method.weight if method.name == "sum" else None,
                prompt=method.prompt if method.name in ("composed", "stage1") else None,
            ),
            retriever.encoder.encode_references([image.path]),
            [0],
        )
        [vector] = run.encode([Query(image, text)], method)
        np.testing.assert_allclose(vector, expected[0], atol=1e-6)

    for name in METHODS:
        encode(one, "red", Method(name, template))
        encode(one, "blue", Method(name, template))
        encode(other, "red", Method(name, template))
    encode(one, "red", Method("composed", "$ with {text}"))
    encode(one, "red", Method("sum", template, 0.9))
    encode(one, "red", Method("sum", template, 0.1))


def test_a_text_without_a_word_gives_the_prompt_without_text(
    retriever: Retriever, tmp_path: Path
) -> None:
    """CIRR's test split has a caption of one space, and its server requires an answer to it."""
    [image] = images_in(tmp_path / "images", 1)
    run = run_of(retriever, tmp_path / "cache")
    run.embed([image])
    silent = Query(image, " ")
    prompt = retriever.bundle.manifest.prompts["mapped"]
    [composed] = run.encode([silent], Method("stage1", f"{prompt} {{text}}"))
    [mapped] = run.encode([silent], Method("mapped", ""))
    np.testing.assert_allclose(composed, mapped, atol=1e-6)
    [text] = run.encode([silent], Method("text", ""))
    assert np.linalg.norm(text) == pytest.approx(1)


def test_objects_of_one_image_have_their_own_vectors(retriever: Retriever, tmp_path: Path) -> None:
    whole = Image.new("RGB", (40, 20), (255, 0, 0))
    whole.paste((0, 0, 255), (20, 0, 40, 20))
    path = tmp_path / "7.png"
    whole.save(path)
    left = BenchmarkImage("7", path, (0, 0, 8, 10))
    right = BenchmarkImage("7", path, (30, 0, 8, 10))
    run = run_of(retriever, tmp_path / "cache")
    run.embed([left, right])
    expected = retriever.encode_images([left.load(), right.load()])
    np.testing.assert_allclose(run.vectors([left, right]), expected, atol=1e-6)
    assert not np.allclose(expected[0], expected[1])


# killed runs

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/support", sys.argv[1] + "/tests/sdk/evaluation"]
from test_eval_cache import run_of
from ztcir_sdk import Retriever
from ztcir_sdk.evaluation.benchmarks import embedding_run
from ztcir_sdk.evaluation.benchmarks.images import locate

embedding_run.COMMIT_IMAGES = 64
retriever = Retriever(sys.argv[2], threads=1)
run = run_of(retriever, Path(sys.argv[4]))
left = int(sys.argv[5])
put = run.cache.put

def dying(keys, vectors):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    put(keys, vectors)

run.cache.put = dying
names = [f"{number:04}" for number in range(400)]
run.embed(list(locate(Path(sys.argv[3]), names).values()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_run_resumes_after_its_last_commit(
    bundle: Path, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    images = images_in(folder, 400)
    whole = run_of(retriever, tmp_path / "whole")
    whole.embed(images)

    cache = tmp_path / "cache"
    for batches, kept in ((5, 128), (7, 320)):  # all but the uncommitted batches
        done = subprocess.run(
            [sys.executable, "-c", KILLED, ROOT, bundle, folder, cache, str(batches)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        resumed = run_of(retriever, cache)
        assert int(resumed.cache.known([image.key for image in images]).sum()) == kept
    encoded = count_encoded(monkeypatch)
    resumed.embed(images)
    assert sum(encoded) == 400 - 320
    # equal to the last bit, since the batches are the same as without a kill
    np.testing.assert_array_equal(resumed.vectors(images), whole.vectors(images))


def test_slow_runs_commit_by_time(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_run, "COMMIT_SECONDS", 0.0)
    images = images_in(tmp_path / "images", 100)
    run = run_of(retriever, tmp_path / "cache")
    commit = Mock(wraps=run.cache.commit)
    monkeypatch.setattr(run.cache, "commit", commit)
    run.embed(images)
    assert commit.call_count == 4 + 1  # every batch, and the end


def test_progress_includes_images_from_the_cache(retriever: Retriever, tmp_path: Path) -> None:
    images = images_in(tmp_path / "images", 70)
    run_of(retriever, tmp_path / "cache").embed(images[:32])
    steps: list[tuple[str, int, int]] = []
    run = run_of(retriever, tmp_path / "cache", progress=lambda *step: steps.append(step))
    run.cache.commit()
    run.embed(images)
    encoding = [step[1:] for step in steps if step[0] == "Encoding images"]
    assert encoding[0] == (64, 70)
    assert encoding[-1] == (70, 70)
    run.encode([Query(images[0], "red")], Method("composed", "$ that {text}"))
    assert steps[-1] == ("Encoding queries: composed", 1, 1)


# unusable images and wrong methods


def test_missing_images_are_named_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retriever: Retriever
) -> None:
    folder = tmp_path / "images"
    images_in(folder, 20)
    images = list(locate(folder, [f"{number:04}" for number in range(27)]).values())
    batches = count_encoded(monkeypatch)
    with pytest.raises(
        UnusableImagesError, match=r"7 of 27 images are missing .*0020.jpg"
    ) as caught:
        run_of(retriever, tmp_path / "cache").embed(images)
    assert len(caught.value.problems) == 7
    assert caught.value.problems[-1] == f"missing: {folder / '0026.jpg'}"
    assert batches == []


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", png((1, 2, 3))[:45], b"\xff\xd8\xff\xe0 and then nothing"],
    ids=["empty", "HTML", "truncated PNG", "only a JPEG start"],
)
def test_a_broken_image_is_found_before_anything_is_encoded(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, retriever: Retriever
) -> None:
    folder = tmp_path / "images"
    images = images_in(folder, 50)
    (folder / "0031.jpg").write_bytes(content)
    batches = count_encoded(monkeypatch)
    with pytest.raises(UnusableImagesError, match=r"^1 of 50 images are broken.* \S+0031\.jpg "):
        run_of(retriever, tmp_path / "cache").embed(images)
    assert batches == []
    (folder / "0040.jpg").write_bytes(content)
    with pytest.raises(UnusableImagesError, match="2 of 50 images are broken") as caught:
        run_of(retriever, tmp_path / "cache").embed(images)
    assert len(caught.value.problems) == 2


def test_an_image_with_extra_bytes_at_its_end_is_intact(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    Image.new("RGB", (8, 8), (9, 9, 9)).save(path, "JPEG")
    path.write_bytes(path.read_bytes() + b"\0\0 bytes that a camera adds")
    require_intact([BenchmarkImage("1", path)])


def test_damage_found_by_decoding_does_not_lose_other_images(
    tmp_path: Path, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    images = images_in(folder, 40)
    sound = png(colour_of("0003"))
    damaged = bytearray(sound)
    damaged[44:48] = b"\xff\xff\xff\xff"  # in the compressed rows, so both ends stay intact
    (folder / "0003.jpg").write_bytes(damaged)
    run = run_of(retriever, tmp_path / "cache")
    broken = pytest.raises(UnusableImagesError, match=r"0003\.jpg is damaged")
    with pytest.warns(UserWarning, match=r"0003\.jpg"), broken:  # immediately, and at the end
        run.embed(images)

    (folder / "0003.jpg").write_bytes(sound)
    batches = count_encoded(monkeypatch)
    run.embed(list(locate(folder, [image.name for image in images]).values()))
    assert batches == [1]


def test_a_box_outside_of_its_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(ImageError, match=r"lies outside .* different versions"):
        BenchmarkImage("1", path, (50, 3, 4, 4)).load()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method("guess", ""), "no method 'guess'"),
        (Method("composed", "a photo of {text}"), r"needs a \$"),
        (Method("composed", "$ $ {text}"), "more than one"),
        (Method("sum", "", 1.5), "from 0 to 1"),
    ],
)
def test_a_wrong_method_is_refused(
    retriever: Retriever, tmp_path: Path, method: Method, message: str
) -> None:
    run = run_of(retriever, tmp_path)
    with pytest.raises(UsageError, match=message):
        run.check([method], "red")
    with pytest.raises(UsageError, match="one or more methods"):
        run.check([], "red")


def test_the_planned_encoder_returns_the_planned_vectors(tmp_path: Path) -> None:
    """The replacement that other tests use."""
    write_images(tmp_path / "images", ["a", "b"])
    run = planned_run(tmp_path / "cache", {"a": at(0), "b": at(90)}, {"turn": at(45)})
    a, b = locate(tmp_path / "images", ["a", "b"]).values()
    run.embed([a, b])
    np.testing.assert_allclose(run.vectors([a, b]), np.eye(2), atol=1e-6)
    composed = run.encode([Query(a, "turn")], Method("composed", "$ {text}"))
    np.testing.assert_allclose(composed, [at(45)], atol=1e-6)
    image = run.encode([Query(b, "turn")], Method("image", ""))
    np.testing.assert_allclose(image, [at(90)], atol=1e-6)
    assert isinstance(run.encoder, PlannedEncoder)
