"""Bundles: written and read back, altered files refused, nothing lost when a writer is killed."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT, SUPPORT
from tiny_bundle import TinyModel, tiny_parts, write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.bundle import (
    MANIFEST,
    Bundle,
    DefaultAnswer,
    Manifest,
    Placeholder,
    Precision,
    TextLayout,
    embedded_names,
)
from ztcir_sdk.doctor import diagnose
from ztcir_sdk.errors import BundleError, UsageError, ZtcirError
from ztcir_sdk.names import PROMPTS
from ztcir_sdk.version import __version__

TEXT_ENCODER = ("graphs", "text_encoder", "fp32")
FILES = ["tokenizer.json", "image_encoder.onnx", "token_learner.onnx", "text_encoder.onnx"]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return tiny_parts(TinyModel())


@pytest.fixture(scope="module")
def written(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.write(tmp_path_factory.mktemp("bundles") / "tiny", **parts)


@pytest.fixture
def bundle(written: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    shutil.copytree(written.path, tmp_path / "tiny")
    return Bundle.load(tmp_path / "tiny")


def edit_manifest(bundle: Bundle, **entries: Any) -> Path:
    file = bundle.path / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return bundle.path


def siblings(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- written and read ----------------------------------------------------------------------------


def test_a_written_bundle_is_read_back(written: Bundle, parts: dict[str, Any]) -> None:
    loaded = Bundle.load(str(written.path))
    assert loaded == written
    assert loaded.manifest.ztcir == __version__
    assert sorted(loaded.manifest.files) == sorted(FILES)
    for file, content in parts["files"].items():
        assert (loaded.path / file).read_bytes() == content


def test_the_manifest_has_exactly_these_entries_in_this_order(written: Bundle) -> None:
    values = json.loads((written.path / MANIFEST).read_text())
    assert list(values) == [
        *("format", "name", "ztcir", "created", "model_card", "methods", "prompts"),
        *("placeholder", "text", "preprocessing", "dimensions", "tokenizer", "graphs"),
        *("image_tower", "files"),
    ]
    assert values["format"] == 1
    assert values["placeholder"] == {"id": -1, "tokens": 1}
    assert values["text"] == {"context_length": 77, "causal": True, "pool": "eot", "pad_to": None}
    assert values["dimensions"] == {
        **{"embed": 4, "patch": 3, "patches": 4, "text": 4, "vsi_layers": 1, "vsi": 4}
    }
    variant = values["graphs"]["text_encoder"]["fp32"]
    assert variant["file"] == "text_encoder.onnx"
    assert variant["precision"] == "fp32"
    assert variant["inputs"][0] == {"name": "input_ids", "dtype": "int64", "shape": ["B", "T"]}
    assert set(values["files"]["tokenizer.json"]) == {"sha256", "bytes"}
    assert Manifest.from_dict(values).to_dict() == values


def test_a_bundle_may_name_the_method_that_answers_by_default(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    plain = Bundle.write(tmp_path / "plain", **parts)
    assert (plain.default_method, plain.sum_weight) == ("composed", 0.5)
    own = Bundle.write(tmp_path / "own", **parts, default=DefaultAnswer("sum", 0.65))
    assert Bundle.load(own.path).manifest.default == DefaultAnswer("sum", 0.65)
    assert (own.default_method, own.sum_weight) == ("sum", 0.65)
    photo = np.full((40, 40, 3), 200, np.uint8)
    retriever = Retriever(own)
    by_default = retriever.reference(photo).encode("red")
    by_sum = retriever.reference(photo).encode("red", "sum", weight=0.65)
    np.testing.assert_array_equal(by_default, by_sum)
    assert not np.array_equal(by_default, retriever.reference(photo).encode("red", "composed"))


@pytest.mark.parametrize("default", [{"method": "blend"}, {"method": "composed", "weight": 0.5}])
def test_a_default_that_the_bundle_cannot_follow_is_refused(
    bundle: Bundle, default: dict[str, Any]
) -> None:
    with pytest.raises(BundleError, match="default"):
        Bundle.load(edit_manifest(bundle, default=default))


def test_files_may_be_copied_from_paths_and_be_in_subfolders(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(os.urandom(3_000_000))
    files = {**parts["files"], "data/graph.onnx.data": weights}
    bundle = Bundle.write(tmp_path / "deep" / "er" / "b", **{**parts, "files": files})
    assert (bundle.path / "data/graph.onnx.data").read_bytes() == weights.read_bytes()
    assert Bundle.load(bundle.path).manifest.files["data/graph.onnx.data"].bytes == 3_000_000


def test_the_fingerprint_depends_only_on_the_contents(
    tmp_path: Path, written: Bundle, parts: dict[str, Any]
) -> None:
    again = Bundle.write(tmp_path / "again", **parts)
    assert again.fingerprint == written.fingerprint == Bundle.load(again.path).fingerprint
    files = {**parts["files"], "tokenizer.json": parts["files"]["tokenizer.json"] + b"\n"}
    changes: list[dict[str, Any]] = [{"files": files}, {"model_card": {}}, {"name": "other"}]
    for number, change in enumerate(changes):
        other = Bundle.write(tmp_path / f"other{number}", **{**parts, **change})
        assert other.fingerprint != written.fingerprint


def test_a_variant_is_fp32_by_default(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(
        tmp_path / "b", **tiny_parts(TinyModel(), precisions=("int8", "fp32"))
    )
    assert bundle.variant("text_encoder").precision == "fp32"
    variant = bundle.variant("text_encoder", "int8")
    assert bundle.file(variant) == bundle.path / "int8" / "text_encoder.onnx"
    with pytest.raises(ZtcirError, match="text_encoder in int8, fp32, not in fp16"):
        bundle.variant("text_encoder", "fp16")
    with pytest.raises(ZtcirError, match="has no audio_encoder"):
        bundle.variant("audio_encoder")


def test_a_precision_may_run_a_graph_in_another_precision(tmp_path: Path) -> None:
    parts = tiny_parts(TinyModel(), precisions=("int8", "fp32"))
    del parts["graphs"]["image_encoder"]["int8"]  # not accurate enough
    with pytest.raises(ZtcirError, match="image_encoder in fp32, not in int8"):
        Bundle.write(tmp_path / "undeclared", **parts).variant("image_encoder", "int8")

    mixed = Precision(
        {"image_encoder": "fp32", "token_learner": "int8", "text_encoder": "int8"},
        check={"top10_overlap": 0.96},
    )
    bundle = Bundle.write(
        tmp_path / "b",
        **parts,
        precisions={"int8": mixed, "fp32": Precision(dict.fromkeys(parts["graphs"], "fp32"))},
    )
    loaded = Bundle.load(bundle.path)
    assert loaded.manifest == bundle.manifest
    assert loaded.manifest.precisions["int8"].check == {"top10_overlap": 0.96}
    assert loaded.precisions == ("fp32", "int8")
    assert loaded.variant("image_encoder", "int8").precision == "fp32"
    text = loaded.variant("text_encoder", "int8")
    assert text.precision == "int8"
    assert loaded.sha256(text) == hashlib.sha256(loaded.file(text).read_bytes()).hexdigest()
    assert loaded.methods == loaded.manifest.methods


def test_doctor_lists_the_methods_and_precisions_of_a_bundle(tmp_path: Path) -> None:
    parts = tiny_parts(TinyModel(), precisions=("fp32", "int8"))
    mixed = dict.fromkeys(parts["graphs"], "int8") | {"image_encoder": "fp32"}
    exact = Precision(dict.fromkeys(parts["graphs"], "fp32"))
    precisions = {"int8": Precision(mixed), "fp32": exact}
    bundle = Bundle.write(
        tmp_path / "b", **{**parts, "methods": ("image", "sum"), "precisions": precisions}
    )
    [found] = [one for one in diagnose(bundle=bundle.path).findings if one.name == "methods"]
    assert found.detail == "image, sum; in fp32, int8 (image_encoder in fp32)"


def test_without_precisions_a_bundle_offers_those_that_all_of_its_graphs_have(
    tmp_path: Path, written: Bundle
) -> None:
    assert "precisions" not in json.loads((written.path / MANIFEST).read_text())
    assert written.precisions == ("fp32",)
    parts = tiny_parts(TinyModel(), precisions=("fp16", "int8", "fp32"))
    del parts["graphs"]["token_learner"]["int8"]
    assert Bundle.write(tmp_path / "b", **parts).precisions == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"image_encoder": "fp32"}, r"precisions\.int8\.graphs is \['image_encoder'\], not a prec"),
        (
            {"image_encoder": "int8", "token_learner": "fp32", "text_encoder": "fp32"},
            r"precisions\.int8\.graphs\.image_encoder is 'int8', not one of fp32",
        ),
        ({"image_encoder": 8}, r"precisions\.int8\.graphs\.image_encoder is 8, not a text"),
    ],
)
def test_a_precision_must_name_existing_variants(
    bundle: Bundle, entry: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        Bundle.load(edit_manifest(bundle, precisions={"int8": {"graphs": entry}}))


# --- altered files -------------------------------------------------------------------------------


@given(file=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_any_flipped_bit_is_detected(written: Bundle, file: str, where: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = shutil.copytree(written.path, Path(temporary) / "b")
        content = bytearray((folder / file).read_bytes())
        content[int(where * len(content))] ^= 1 << bit
        (folder / file).write_bytes(content)
        with pytest.raises(BundleError, match=f"{file} of the bundle .* wrong checksum.*again"):
            Bundle.load(folder)
        assert Bundle.load(folder, verify=False).manifest == written.manifest


@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_truncated_files_are_named(bundle: Bundle, verify: bool) -> None:
    graph = bundle.path / "text_encoder.onnx"
    content = graph.read_bytes()
    for wrong in (content[:-1], b"", content + b"x"):
        graph.write_bytes(wrong)
        with pytest.raises(BundleError, match=rf"text_encoder\.onnx .*{len(wrong)} bytes, not"):
            Bundle.load(bundle.path, verify=verify)
    graph.unlink()
    with pytest.raises(BundleError, match=r"text_encoder\.onnx .* is missing: export or copy"):
        Bundle.load(bundle.path, verify=verify)


def test_a_path_that_is_not_a_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, sentence in (
        (tmp_path, "is not a bundle, because it has no bundle.json: give a folder"),
        (tmp_path / "gone", "gone does not exist"),
        (tmp_path / "file", "file is not a bundle: give a folder"),
    ):
        with pytest.raises(BundleError, match=sentence):
            Bundle.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"1"])
def test_a_corrupt_manifest_is_named(bundle: Bundle, content: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json.* again"):
        Bundle.load(bundle.path)


def test_a_newer_format_says_to_upgrade(bundle: Bundle) -> None:
    edit_manifest(bundle, format=2, ztcir="3.1.4", surprise={"new": "entry"})
    with pytest.raises(BundleError, match=r"newer ztcir \(3\.1\.4, format 2\): upgrade ztcir"):
        Bundle.load(bundle.path)


OUTSIDE = [
    *("../x", "/etc/passwd", "a/../../x", "a//b", "./a", "C:x", "a\\..\\b", "", "..", "a/"),
    *("bundle.json", "a\0b", "a\nb"),
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_file_names_outside_the_bundle_are_refused(
    bundle: Bundle, tmp_path: Path, parts: dict[str, Any], name: str
) -> None:
    (tmp_path / "x").write_text("secret")
    files = bundle.manifest.to_dict()["files"]
    edit_manifest(bundle, files={**files, name: files["tokenizer.json"]})
    with pytest.raises(BundleError, match="not a file inside the bundle"):
        Bundle.load(bundle.path)
    before = siblings(tmp_path)
    with pytest.raises(BundleError, match="inside"):
        Bundle.write(tmp_path / "new", **{**parts, "files": {**parts["files"], name: b"x"}})
    assert siblings(tmp_path) == before
    assert (tmp_path / "x").read_text() == "secret"


# --- the manifest --------------------------------------------------------------------------------


def entries(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every entry of a manifest, except those of the model card."""
    if path:
        yield path
    if path == ("model_card",):
        return
    children = (
        values.items()
        if isinstance(values, dict)
        else enumerate(values)
        if isinstance(values, list)
        else ()
    )
    for key, value in children:
        yield from entries(value, (*path, key))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@given(data=st.data(), junk=JUNK, delete=st.booleans())
@settings(max_examples=300, deadline=None)
def test_an_altered_manifest_is_either_valid_and_unchanged_or_refused(
    written: Bundle, data: st.DataObject, junk: Any, delete: bool
) -> None:
    """Nothing is guessed, dropped or filled in, and nothing but `BundleError` is raised."""
    values = written.manifest.to_dict()
    *path, last = data.draw(st.sampled_from(list(entries(values))))
    values = copy.deepcopy(values)
    parent = values
    for key in path:
        parent = parent[key]
    if delete:
        del parent[last]
    else:
        parent[last] = junk
    try:
        manifest = Manifest.from_dict(values)
    except BundleError:
        pass
    else:
        assert manifest.to_dict() == values
        assert not (delete and isinstance(parent, dict)) or path[:1] in (["model_card"], ["files"])


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("name",), None, "is None, not a text that is not empty"),
        (("surprise",), 1, "is not a known entry"),
        (("text", "context_length"), 2, "is 2, not a whole number of at least 3"),
        (("text", "causal"), 1, "is 1, not true or false"),
        (("text", "clean"), "upper", "is 'upper', not one of lower, canonicalize"),
        (("text", "surprise"), 1, "is not a known entry"),
        (("placeholder", "id"), 259, "is 259, not -1, which no text can produce"),
        (("dimensions", "embed"), 0, "is 0, not a whole number of at least 1"),
        (("dimensions", "vsi"), True, "is True, not a whole number of at least 0"),
        (("files", "tokenizer.json", "sha256"), "A1", "is 'A1', not 64 hexadecimal digits"),
        (("files", "tokenizer.json"), [], "is [], not an object"),
        ((*TEXT_ENCODER, "file"), "../x", "is '../x', not a file inside the bundle"),
        ((*TEXT_ENCODER, "precision"), "fp 32", "is 'fp 32', not a word such as fp32"),
        ((*TEXT_ENCODER, "inputs"), {}, "is {}, not a list"),
        ((*TEXT_ENCODER, "inputs", 0), {"name": "x"}, ".dtype is missing"),
        ((*TEXT_ENCODER, "inputs", 0, "shape", 1), 2.5, "is 2.5, not a whole number or a text"),
        (("prompts", "mapped"), " ", "is ' ', not a text that is not empty"),
    ],
)
def test_the_error_of_a_wrong_entry_names_it_its_value_and_what_is_expected(
    bundle: Bundle, path: tuple[str | int, ...], value: Any, problem: str
) -> None:
    values = bundle.manifest.to_dict()
    parent: Any = values
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = value
    entry = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    space = "" if problem.startswith(".") else " "
    with pytest.raises(BundleError) as caught:
        Bundle.load(edit_manifest(bundle, **values))
    file = bundle.path / MANIFEST
    assert str(caught.value) == f"{file}: {entry}{space}{problem}: export the bundle again."


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": ("composed", "guess")}, "methods is 'guess', not one of composed"),
        ({"methods": ()}, "methods"),
        ({"methods": ("image", "image")}, "methods"),
        ({"prompts": {"mapped": "a photo of $", "stage1": "$ {text}"}}, "with one for composed"),
        (
            {"prompts": {**PROMPTS, "composed": "a photo that {text}"}},
            r"prompts\.composed .*\$ and {text}",
        ),
        ({"image_tower": "xyz"}, "image_tower"),
        ({"created": "yesterday"}, "created"),
        ({"created": "2026-11-24T09:00:00"}, "created"),
        ({"tokenizer": "other.json"}, "tokenizer is 'other.json', not one of the files"),
        ({"name": " "}, "name"),
        ({"model_card": ["not", "an", "object"]}, "model_card"),
    ],
)
def test_contradictions_are_named_and_nothing_is_written(
    tmp_path: Path, parts: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        Bundle.write(tmp_path / "b", **{**parts, **changes})
    assert siblings(tmp_path) == []


def test_the_tensors_of_the_graphs_must_match(tmp_path: Path, parts: dict[str, Any]) -> None:
    graphs = parts["graphs"]
    without_vsi = tiny_parts(TinyModel(vsi=False))["graphs"]
    for change, sentence in (
        ({"token_learner": graphs["image_encoder"]}, r"token_learner\.fp32\.inputs"),
        ({"image_encoder": graphs["text_encoder"]}, r"image_encoder\.fp32\.inputs"),
        # This token learner lacks outputs that the text encoder needs.
        ({"token_learner": without_vsi["token_learner"]}, r"outputs .* with vsi_keys"),
        ({"text_encoder": {}}, r"graphs\.text_encoder"),
        ({"text_encoder": {"int8": graphs["text_encoder"]["fp32"]}}, r"precision is 'fp32', not"),
        ({"audio_encoder": graphs["text_encoder"]}, "graphs is 'audio_encoder', not one of"),
    ):
        with pytest.raises(BundleError, match=sentence):
            Bundle.write(tmp_path / "b", **{**parts, "graphs": {**graphs, **change}})
    kept = {name: graphs[name] for name in ("image_encoder", "text_encoder")}
    with pytest.raises(BundleError, match="with the token_learner for composed"):
        Bundle.write(tmp_path / "b", **{**parts, "graphs": kept})


def test_an_encoder_that_is_not_causal_needs_a_padded_length() -> None:
    assert TextLayout(77, causal=False, pool="eot", pad_to=77).pad_to == 77
    with pytest.raises(BundleError, match="pad_to is None, not a length"):
        TextLayout(77, causal=False, pool="eot", pad_to=None)
    with pytest.raises(BundleError, match="pad_to is 64, not a whole number of at least 77"):
        TextLayout(77, causal=True, pool="eot", pad_to=64)


def test_the_placeholder_has_an_id_that_no_vocabulary_has() -> None:
    with pytest.raises(BundleError, match="id is 259, not -1"):
        Placeholder(id=259, tokens=1)


# --- overwriting, failures, killed writers -------------------------------------------------------


def test_a_bundle_is_overwritten_only_on_request(bundle: Bundle, parts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is already a bundle"):
        Bundle.write(bundle.path, **{**parts, "name": "new"})
    assert Bundle.load(bundle.path) == bundle
    new = Bundle.write(bundle.path, **{**parts, "name": "new"}, overwrite=True)
    assert Bundle.load(bundle.path) == new
    assert new.name == "new"
    assert siblings(bundle.path.parent) == ["tiny"]


def test_a_corrupt_bundle_can_be_overwritten(bundle: Bundle, parts: dict[str, Any]) -> None:
    (bundle.path / MANIFEST).write_text("{")
    Bundle.write(bundle.path, **parts, overwrite=True)
    assert Bundle.load(bundle.path) == bundle


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_path_that_is_not_a_bundle_is_never_replaced(
    tmp_path: Path, parts: dict[str, Any], overwrite: bool
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "wedding.jpg").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    for target in (photos, tmp_path / "file"):
        with pytest.raises(UsageError, match="exists and is not a bundle"):
            Bundle.write(target, **parts, overwrite=overwrite)
    assert (photos / "wedding.jpg").read_bytes() == b"precious"
    assert siblings(tmp_path) == ["file", "photos"]


def test_an_empty_folder_and_a_link_can_be_written_to(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for overwrite in (False, True):
        Bundle.write(tmp_path / "link", **parts, overwrite=overwrite)
        assert Bundle.load(tmp_path / "real").name == "tiny"
    assert siblings(tmp_path) == ["link", "real"]


def test_a_missing_source_is_named_and_leaves_nothing(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    files = {**parts["files"], "text_encoder.onnx": tmp_path / "gone.onnx"}
    with pytest.raises(
        BundleError, match=r"gone\.onnx, the source of text_encoder\.onnx, is missing"
    ):
        Bundle.write(tmp_path / "b", **{**parts, "files": files})
    assert siblings(tmp_path) == []


STEPS = range(1, 11)  # there are nine flushes and renames, and no tenth


@pytest.mark.parametrize("failing", STEPS)
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(
    bundle: Bundle, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Fail in each flush and rename in turn."""
    calls = 0

    def failing_in_turn(real: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_in_turn(os.fsync))
        patch.setattr(Path, "rename", failing_in_turn(Path.rename))
        try:
            Bundle.write(bundle.path, **{**parts, "name": "new"}, overwrite=True)
        except BundleError as error:
            assert "No space left" in str(error)  # noqa: PT017
            failed = True
        else:
            failed = False
    assert failed == (failing <= calls)
    # Only the last step, which flushes the renames, comes after the new bundle is in place.
    assert Bundle.load(bundle.path).name == ("tiny" if failing < 9 else "new")
    assert [name for name in siblings(bundle.path.parent) if name.endswith("new")] == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tiny_bundle import write_tiny_bundle

left = int(sys.argv[1])

def killing(real):
    def call(*args):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call

os.fsync = killing(os.fsync)
Path.rename = killing(Path.rename)
write_tiny_bundle(Path(sys.argv[2]), name="new", overwrite=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_leaves_the_old_bundle_or_the_new_one(
    bundle: Bundle, parts: dict[str, Any], step: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(step), bundle.path, SUPPORT],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if step < STEPS[-1] else 0)
    # Before, during or after the swap: the bundle is complete.
    assert Bundle.load(bundle.path).name == ("tiny" if step < 9 else "new")
    # The next writer removes what the killed one left.
    Bundle.write(bundle.path, **{**parts, "name": "newer"}, overwrite=True)
    assert Bundle.load(bundle.path).name == "newer"
    assert siblings(bundle.path.parent) == ["tiny"]


def test_a_bundle_left_aside_by_a_killed_writer_is_overwritten_only_on_request(
    bundle: Bundle, parts: dict[str, Any]
) -> None:
    aside = bundle.path.with_name(".tiny.ztcir-old")
    bundle.path.rename(aside)
    assert Bundle.load(bundle.path).manifest == bundle.manifest
    with pytest.raises(UsageError, match="is already a bundle"):
        Bundle.write(bundle.path, **{**parts, "name": "new"})
    assert Bundle.load(bundle.path) == bundle
    assert siblings(bundle.path.parent) == ["tiny"]


# --- embedded bundles ----------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without bundles that replaces the package's."""
    monkeypatch.setattr("ztcir_sdk.bundle.bundle._embedded_folder", lambda: tmp_path / "bundles")
    return tmp_path


def test_the_embedded_bundle_keeps_its_manifest_and_fingerprint() -> None:
    bundle = Bundle.embedded(verify=False)
    written = json.dumps(bundle.manifest.to_dict(), indent=1, ensure_ascii=False) + "\n"
    assert (bundle.path / MANIFEST).read_text(encoding="utf-8") == written
    assert bundle.fingerprint == "a2c30c97911c76135b56ec7fefef69b169ef3e155f2b9db372b361f4d794d75f"


def test_embedded_bundles_are_found_by_name(package: Path, parts: dict[str, Any]) -> None:
    for name in ("fashion-lite", "another"):
        Bundle.write(package / "bundles" / name, **{**parts, "name": name})
    assert embedded_names() == ["another", "fashion-lite"]
    assert Bundle.embedded().name == "fashion-lite"
    assert Bundle.embedded("another").name == "another"
    with pytest.raises(UsageError, match="'birds': choose from another, fashion-lite"):
        Bundle.embedded("birds")
    with pytest.raises(UsageError, match="choose from another, fashion-lite"):
        Bundle.embedded("../bundles/another")


def test_an_installation_without_bundles_says_so(package: Path) -> None:
    assert embedded_names() == []
    with pytest.raises(BundleError, match="has no embedded bundles, so also no 'fashion-lite'"):
        Bundle.embedded()
