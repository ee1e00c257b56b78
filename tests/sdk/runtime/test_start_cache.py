"""What one start leaves for the next: remembered checksums, and optimised graphs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import write_tiny_bundle

from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import BundleError
from ztcir_sdk.files import hash_file
from ztcir_sdk.runtime import GraphSource, OnnxGraph, RuntimeSettings
from ztcir_sdk.runtime.onnx import optimised
from ztcir_sdk.runtime.start_cache import START_CACHE_VARIABLE, start_cache

CPU = RuntimeSettings(device="cpu", threads=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "start"
    monkeypatch.setenv(START_CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that was written an hour ago."""
    path = write_tiny_bundle(tmp_path / "bundle").path
    _age(path)
    return path


def _age(folder: Path) -> None:
    hour_ago = time.time_ns() - 3_600_000_000_000
    for file in folder.iterdir():
        os.utime(file, ns=(hour_ago, hour_ago))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    from ztcir_sdk import files

    names: list[str] = []

    def recorded(file: Path) -> str:
        names.append(file.name)
        return files.hash_file(file)

    monkeypatch.setattr("ztcir_sdk.runtime.start_cache.hash_file", recorded)
    monkeypatch.setattr("ztcir_sdk.runtime.start_cache.SETTLED_SECONDS", -1.0)
    monkeypatch.setattr("ztcir_sdk.runtime.onnx.optimised.hash_file", recorded)
    return names


class TestChecksums:
    def test_a_file_is_read_at_the_first_start_alone(
        self, cache: Path, bundle: Path, hashed: list[str]
    ) -> None:
        files = sorted(Bundle.load(bundle).manifest.files)
        assert sorted(hashed) == files
        hashed.clear()
        Bundle.load(bundle)
        assert hashed == []

    def test_a_changed_file_of_the_same_size_is_found(
        self, cache: Path, bundle: Path, hashed: list[str]
    ) -> None:
        file = bundle / Bundle.load(bundle).manifest.tokenizer
        before = file.stat()
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copying tool may do
        with pytest.raises(BundleError, match=r"tokenizer\.json .* wrong checksum"):
            Bundle.load(bundle)

    def test_a_file_that_was_just_written_is_read_again(
        self, cache: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
    ) -> None:
        monkeypatch.setattr("ztcir_sdk.runtime.start_cache.SETTLED_SECONDS", 60.0)
        Bundle.load(bundle)
        hashed.clear()
        files = sorted(Bundle.load(bundle).manifest.files)
        assert sorted(hashed) == files

    def test_after_a_week_every_file_is_read_again(
        self, cache: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
    ) -> None:
        Bundle.load(bundle)
        hashed.clear()
        later = time.time() + 8 * 86_400
        monkeypatch.setattr("ztcir_sdk.runtime.start_cache.time.time", lambda: later)
        assert sorted(Bundle.load(bundle).manifest.files) == sorted(hashed)

    def test_a_bundle_can_be_checked_anew(
        self, cache: Path, bundle: Path, hashed: list[str]
    ) -> None:
        Bundle.load(bundle)
        [record] = (cache / "checked").iterdir()
        file = bundle / "tokenizer.json"
        known = json.loads(record.read_text())
        file.write_bytes(file.read_bytes()[:-1] + b" ")
        identity = [file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ctime_ns]
        known["files"]["tokenizer.json"][1:4] = identity
        record.write_text(json.dumps(known))
        Bundle.load(bundle)  # what a disk that loses bits by itself looks like
        with pytest.raises(BundleError, match="wrong checksum"):
            Bundle.load(bundle, anew=True)

    @pytest.mark.parametrize("content", ["", "[]", '{"format":1,"bundle":"x","files":3}', "\xff"])
    def test_a_damaged_record_is_ignored(
        self, cache: Path, bundle: Path, hashed: list[str], content: str
    ) -> None:
        Bundle.load(bundle)
        [record] = (cache / "checked").iterdir()
        record.write_text(content, encoding="latin-1")
        hashed.clear()
        assert sorted(Bundle.load(bundle).manifest.files) == sorted(hashed)

    def test_a_folder_that_cannot_be_written_changes_nothing(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(START_CACHE_VARIABLE, str(tmp_path / "file" / "below"))
        assert Bundle.load(bundle).path == bundle

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
    def test_a_folder_that_others_may_write_to_is_not_used(self, cache: Path) -> None:
        cache.mkdir()
        assert start_cache() == cache
        cache.chmod(0o777)
        assert start_cache() is None

    def test_off_keeps_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(START_CACHE_VARIABLE, "off")
        assert start_cache() is None


@pytest.fixture
def graph(tmp_path: Path) -> GraphSource:
    """y = relu(x W) with 1.4 MB of weights in half precision, as bundles store them."""
    weights = np.random.default_rng(0).standard_normal((840, 840)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 840]) for name in ("x", "y")
    ]
    made = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "g.onnx")
    return GraphSource.of_file(tmp_path / "g.onnx")


def _run(graph: GraphSource) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((3, 840)).astype(np.float32)
    return OnnxGraph(graph, CPU).run({"x": x})["y"]


class TestOptimisedGraphs:
    def test_the_second_start_gives_the_same_bits_from_the_copy(
        self, cache: Path, graph: GraphSource, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv(START_CACHE_VARIABLE, "off")
            expected = _run(graph)
        first = _run(graph)
        graph.path.rename(graph.path.with_name("away"))
        graph.path.touch()  # only its digest counts
        monkeypatch.setattr(optimised, "MIN_BYTES", 0)
        hashed.clear()
        second = _run(graph)
        assert np.array_equal(first, expected)
        assert np.array_equal(second, expected)
        assert hashed == []

    @pytest.mark.parametrize("file", ["graph.onnx", "weights.bin", "record.json"])
    @pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
    def test_a_damaged_copy_is_made_again(
        self, cache: Path, graph: GraphSource, file: str, damage: str
    ) -> None:
        expected = _run(graph)
        [entry] = (cache / "graphs").iterdir()
        data = bytearray((entry / file).read_bytes())
        if damage == "gone":
            (entry / file).unlink()
        else:
            data[len(data) // 2] ^= 0xFF
            (entry / file).write_bytes(data[: -len(data) // 2] if damage == "cut" else data)
        assert np.array_equal(_run(graph), expected)
        [entry] = (cache / "graphs").iterdir()
        values = json.loads((entry / "record.json").read_text())
        for name, (sha256, *_) in values["files"].items():
            assert hash_file(entry / name) == sha256

    def test_another_runtime_or_processor_has_a_copy_of_its_own(
        self, cache: Path, graph: GraphSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _run(graph)
        monkeypatch.setattr(optimised, "cpu_features", lambda: ("another", "processor"))
        _run(graph)
        assert len(list((cache / "graphs").iterdir())) == 2

    def test_copies_over_the_limit_are_deleted_oldest_first(
        self, cache: Path, graph: GraphSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(optimised.LIMIT_VARIABLE, "15")  # each takes about 6 MB
        for number in range(4):
            monkeypatch.setattr(optimised, "cpu_features", lambda number=number: (str(number),))
            _run(graph)
            [newest] = (
                one
                for one in (cache / "graphs").iterdir()
                if json.loads((one / "record.json").read_text())["key"][-1] == str(number)
            )
            os.utime(newest / "record.json", (number, number))
        keys = {
            json.loads((one / "record.json").read_text())["key"][-1]
            for one in (cache / "graphs").iterdir()
        }
        assert "3" in keys
        assert "0" not in keys

    @pytest.mark.parametrize("limit", ["0", "5"])
    def test_a_graph_too_large_for_the_limit_is_not_kept(
        self, cache: Path, graph: GraphSource, monkeypatch: pytest.MonkeyPatch, limit: str
    ) -> None:
        monkeypatch.setenv(optimised.LIMIT_VARIABLE, limit)
        _run(graph)
        assert not (cache / "graphs").exists()


def test_a_plain_search_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    code = (
        "import sys; from ztcir_sdk.benchmark import draw_photos; from pathlib import Path;"
        "draw_photos(Path('.'), 3); before = set(sys.modules);"
        "from ztcir_sdk import Retriever; r = Retriever.from_pretrained(device='cpu');"
        "r.index('.', to='x.ztcir')"
    )
    search = (
        "import sys, runpy; sys.argv = ['ztcir', 'search', '0000.jpg', 'make it red'];\n"
        "try: runpy.run_module('cli', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "names = ('ftfy', 'tokenizers', 'rich', 'sqlglot', 'urllib.request', 'numpy.ma', 'tarfile',"
        " 'PIL.WebPImagePlugin', 'ztcir_sdk.gallery.build', 'ztcir_sdk.filters.parsing')\n"
        "loaded = [name for name in names if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    for one in (code, search):
        done = subprocess.run(
            [sys.executable, "-c", one], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
