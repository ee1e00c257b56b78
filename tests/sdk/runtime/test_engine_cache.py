"""The cache of engines: a stored engine is loaded unchanged, and no other ever is."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ztcir_sdk.files import write_whole
from ztcir_sdk.runtime import GraphSource, ShapeRange, TensorSpec
from ztcir_sdk.runtime.tensorrt import cache as engine_cache
from ztcir_sdk.runtime.tensorrt import open as engines
from ztcir_sdk.runtime.tensorrt.build import BuiltEngine
from ztcir_sdk.runtime.tensorrt.cache import EngineCache, EngineError, EngineKey, StoredEngine
from ztcir_sdk.runtime.tensorrt.open import Target, ensure_engine

KEY = EngineKey(
    graph="text_encoder",
    digest="ab" * 32,
    precision="fp16",
    package="tensorrt",
    version="10.3.0",
    architecture="sm_87",
    gpu="Orin",
)
BUILT = BuiltEngine(
    plan=b"an engine" * 100,
    inputs=(TensorSpec("input_ids", "int64", ("B", "T")),),
    outputs=(TensorSpec("query_embeds", "float32", ("B", 4)),),
    ranges={"B": ShapeRange(1, 1, 64), "T": ShapeRange(1, 16, 77)},
    seconds=1.5,
    timing_cache=b"times",
)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith("builds it here.")
    return text


def test_a_stored_engine_is_loaded_unchanged(cache: EngineCache) -> None:
    stored = cache.store(KEY, BUILT)
    for found in (stored, cache.load(KEY), EngineCache(cache.folder).load(KEY)):
        assert found == StoredEngine(
            KEY, cache.path(KEY), BUILT.plan, BUILT.inputs, BUILT.outputs, BUILT.ranges, 1.5
        )
    assert cache.timing_cache(KEY).read_bytes() == b"times"
    assert cache.folder.stat().st_mode & 0o077 == 0  # engines are executed


OTHERS = {
    "graph": "image_encoder",
    "digest": "cd" * 32,
    "precision": "fp32",
    "package": "tensorrt_rtx",
    "version": "10.4.0",
    "architecture": "sm_86",
    "gpu": "Another",
}


@pytest.mark.parametrize("field", EngineKey.__struct_fields__)
def test_an_engine_of_another_key_is_never_loaded(cache: EngineCache, field: str) -> None:
    cache.store(KEY, BUILT)
    other = replace(KEY, **{field: OTHERS[field]})
    with pytest.raises(EngineError) as caught:
        cache.load(other)
    sentence(caught.value)
    # Nor after files are copied or renamed.
    for suffix in (".engine", ".json"):
        shutil.copy(cache.path(KEY).with_suffix(suffix), cache.path(other).with_suffix(suffix))
    with pytest.raises(EngineError, match="not the one that its name states") as caught:
        cache.load(other)
    sentence(caught.value)
    assert cache.load(KEY).plan == BUILT.plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "10.4.0"},
            "was built by tensorrt 10.3.0 for Orin, not by tensorrt 10.4.0 for Orin",
        ),
        ({"architecture": "sm_86", "gpu": ""}, "10.3.0 for Orin, not by .* for sm_86"),
        ({"digest": "cd" * 32}, r"text_encoder \(fp16\) is of another bundle"),
        ({"graph": "image_encoder"}, "There is no engine of image_encoder"),
        ({"precision": "fp32"}, r"There is no engine of text_encoder \(fp32\)"),
    ],
)
def test_the_error_of_a_missing_engine_names_the_nearest_one(
    cache: EngineCache, changes: dict[str, str], message: str
) -> None:
    cache.store(KEY, BUILT)
    cache.store(replace(KEY, graph="token_learner"), BUILT)
    with pytest.raises(EngineError, match=message) as caught:
        cache.load(replace(KEY, **changes))
    sentence(caught.value)


def test_an_empty_folder_has_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="There is no engine"):
        EngineCache(tmp_path / "none").load(KEY)
    assert not EngineCache(tmp_path / "none").has_engine_of(KEY.digest)


@given(st.sampled_from([".engine", ".json"]), st.floats(0, 1), st.binary(max_size=3))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_an_engine_with_altered_files_is_unchanged_or_refused(
    cache: EngineCache, suffix: str, where: float, inserted: bytes
) -> None:
    stored = cache.store(KEY, BUILT)
    file = cache.path(KEY).with_suffix(suffix)
    whole = file.read_bytes()
    place = int(where * len(whole))
    file.write_bytes(whole[:place] + inserted + whole[place + 2 :])
    try:
        found = cache.load(KEY)
    except EngineError as error:
        sentence(error)
    else:  # a change without effect, such as a space
        assert found == stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "another version of ztcir"),
        ({"sha256": "0" * 64}, "corrupt"),
        ({"ranges": {"B": {"least": 1, "usual": 1, "most": 640}}}, "corrupt"),
        ({"inputs": []}, "corrupt"),
        ({"seal": None}, "corrupt"),
    ],
)
def test_altered_metadata_is_refused(
    cache: EngineCache, change: dict[str, Any], message: str
) -> None:
    cache.store(KEY, BUILT)
    file = cache.path(KEY).with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(EngineError, match=message) as caught:
        cache.load(KEY)
    sentence(caught.value)


@pytest.mark.parametrize("fails_at", [1, 2, 3])
@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_writer_leaves_the_old_engine_or_none(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch, fails_at: int, before: bool
) -> None:
    """Files are replaced one by one: the engine, its metadata, the timing cache."""
    if before:
        cache.store(KEY, replace_fields(BUILT, plan=b"the old one"))
    real, count = write_whole, 0

    def stopped(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == fails_at:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(engine_cache, "write_whole", stopped)
    with pytest.raises(EngineError, match=r"cannot be written \(No space left.*ZTCIR_ENGINES"):
        cache.store(KEY, BUILT)
    try:
        assert cache.load(KEY).plan in (b"the old one", BUILT.plan)
    except EngineError:
        assert fails_at == 2 or not before
    assert not [file for file in cache.folder.iterdir() if file.name.startswith(".")]
    monkeypatch.undo()
    assert cache.store(KEY, BUILT).plan == BUILT.plan


def test_a_failed_write_leaves_the_old_engine(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, BUILT)

    def torn(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", torn)
    with pytest.raises(EngineError):
        cache.store(KEY, replace_fields(BUILT, plan=b"half"))
    monkeypatch.undo()
    assert cache.load(KEY).plan == BUILT.plan
    assert not list(cache.folder.glob(".*"))


class Package:
    """A stand-in for TensorRT with the attributes that a key needs."""

    package, version, is_rtx = "tensorrt_rtx", "1.7.1", True

    def architectures(self) -> list[str]:
        return ["sm_86"]


def test_one_process_builds_and_the_others_wait(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started, builds = threading.Event(), 0

    def build(*args: Any, **options: Any) -> BuiltEngine:
        nonlocal builds
        builds += 1
        started.wait(0.2)
        return BUILT

    monkeypatch.setattr(engines, "build_engine", build)
    source = GraphSource(tmp_path / "text_encoder.onnx", "ab" * 32, ranges=BUILT.ranges)
    trt: Any = Package()

    def ensure(_: int) -> bool:
        return ensure_engine(source, trt, Target("sm_86"), cache=EngineCache(cache.folder))[1]

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ensure, range(4))) == [False, False, False, True]
    assert builds == 1
