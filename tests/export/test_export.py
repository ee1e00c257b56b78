"""Exports: graphs give what PyTorch gives, the whole line too, and a wrong one leaves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from places import ROOT
from tiny_training import PARTS, SHALLOW, VIT, tiny_model
from torch import Tensor, nn

from cli.main import main
from export.bundle import export_bundle, image_tower_fingerprint
from export.graphs import export_graph, graph_modules, sample_inputs
from export.parity import ParityError, check_parity, randomised
from export.storage import compress, fold_norms, round_weights
from export.variants import export_fp32
from train.model import ComposedModel, describe_model, own_weights, write_checkpoint
from ztcir_sdk import Retriever
from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.drawings.drawings import draw, training_drawings
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.names import METHODS

Array = NDArray[Any]
Spoil = Callable[[onnx.ModelProto], None]

TEXTS = ("make it red", "is blue, but for WOMEN!!", "costs $ 20", "naïve café, n° 5 — “so”")
NAMES = {
    "image_encoder": (["pixel_values"], ["image_embeds", "patch_features"]),
    "token_learner": (
        ["image_embeds", "patch_features"],
        ["pseudo_tokens", "vsi_keys", "vsi_values"],
    ),
    "text_encoder": (
        [
            "input_ids",
            "reference_index",
            "adapter_scale",
            "pseudo_tokens",
            "vsi_keys",
            "vsi_values",
        ],
        ["query_embeds"],
    ),
}


class Recording:
    """What torch exported, in order, to be given back without exporting it again."""

    def __init__(self) -> None:
        self.made: list[tuple[list[str], bytes]] = []

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        really = torch.onnx.export

        def export(*args: Any, **options: Any) -> Any:
            program = really(*args, **options)
            assert program is not None
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "graph.onnx"
                program.save(str(path), external_data=False)
                self.made.append((options["output_names"], path.read_bytes()))
            return program

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.onnx, "export", export)
            yield

    @contextlib.contextmanager
    def replay(self, wrong: int = -1, spoil: Spoil = lambda proto: None) -> Iterator[None]:
        """Give the exports back; the one with number ``wrong`` is spoilt."""
        number = -1

        @dataclass
        class Replayed:
            content: bytes

            def save(self, path: str, **_: Any) -> None:
                Path(path).write_bytes(self.content)

        def export(*_: Any, output_names: list[str], **__: Any) -> Replayed:
            nonlocal number
            number += 1
            names, content = self.made[number]
            assert names == output_names
            if number == wrong:
                proto = onnx.load_model_from_string(content)
                spoil(proto)
                content = proto.SerializeToString()
            return Replayed(content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.onnx, "export", export)
            yield


@dataclass
class Exported:
    """A model, and the bundle that was made of it."""

    model: ComposedModel
    bundle: Bundle
    recording: Recording
    said: list[str]


def shaken(name: str, **parts: Any) -> ComposedModel:
    """A model with everything at random, running statistics of norms included."""
    parts = {"token_learner_depth": 1, **parts}
    if name == SHALLOW:
        parts["vsi_layers"] = (0,)
    model = tiny_model(name, dataclasses.replace(PARTS, **parts))
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, recording, said = shaken(VIT), Recording(), []
    with recording.record():
        bundle = export_bundle(
            model,
            tmp_path_factory.mktemp("vit") / "bundle",
            name="tiny",
            model_card={"backbone": "tiny"},
            report=said.append,
        )
    return Exported(model, bundle, recording, said)


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """From a checkpoint, by the command line, in few bytes; the model is not rounded."""
    folder = tmp_path_factory.mktemp("convnet")
    recording = Recording()
    model = shaken(SHALLOW)
    groups = {"model": model.parts()}
    groups |= {name: module.state_dict() for name, module in own_weights(model).items()}
    write_checkpoint(folder / "run" / "last", describe_model(model, "compose"), groups)
    with recording.record():
        result = ztcir("export", folder / "run", "--to", folder / "b", "--small", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    said = json.loads(result.stdout)
    assert said["bundle"] == str(folder / "b")
    assert said["name"] == SHALLOW
    assert said["bytes"] == sum(
        path.stat().st_size for path in (folder / "b").iterdir() if path.name != "bundle.json"
    )
    assert all(line in result.stderr for line in said["checks"])
    return Exported(model, Bundle.load(folder / "b"), recording, said["checks"])


def ztcir(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def run(path: Path, inputs: dict[str, Tensor]) -> list[Array]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    return found


def files_of(bundle: Bundle) -> dict[str, Path]:
    return {graph: bundle.file(bundle.variant(graph)) for graph in bundle.manifest.graphs}


# --- each graph ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "texts", "length"), [(1, 1, 77), (4, 6, 12), (1, 9, 4), (6, 1, 33), (3, 3, 3)]
)
def test_graphs_give_what_pytorch_gives_at_any_size(
    vit: Exported, references: int, texts: int, length: int
) -> None:
    model, files = vit.model, files_of(vit.bundle)
    generator = torch.Generator().manual_seed(references)
    pixels = torch.randn(references, 3, 32, 32, generator=generator)
    ids = torch.randint(1, 49000, (texts, length), generator=generator)
    ids[:, 0], ids[:, 1], ids[:, -1] = 49406, -1, 49407
    index = torch.randint(references, (texts,), generator=generator)
    scale = torch.rand(texts, generator=generator) * 2
    with torch.no_grad():
        seen = model.encode_image(pixels)
        said = model.learn_token(*seen)
        queries = model.encode_query(ids, index, scale, *said)
    found = run(files["image_encoder"], {"pixel_values": pixels})
    found += run(files["token_learner"], dict(zip(NAMES["token_learner"][0], seen, strict=True)))
    asked = dict(zip(NAMES["text_encoder"][0], (ids, index, scale, *said), strict=True))
    found += run(files["text_encoder"], asked)
    for got, expected in zip(found, (*seen, *said, queries), strict=True):
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("which", ["vit", "convnet"])
def test_graphs_keep_the_contract(which: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(which)
    assert exported.bundle.manifest.graphs.keys() == NAMES.keys()
    for graph, path in files_of(exported.bundle).items():
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto, full_check=True)
        standard = {own.domain: own.version for own in proto.opset_import}
        assert standard.pop("") <= 18
        assert not standard  # TensorRT knows no other domains
        inputs, outputs = (
            [v.name for v in side] for side in (proto.graph.input, proto.graph.output)
        )
        assert (inputs, outputs) == NAMES[graph]
        variant = exported.bundle.variant(graph)
        assert variant.precision == "fp32"
        for spec in (*variant.inputs, *variant.outputs):
            free = [axis for axis in spec.shape if isinstance(axis, str)]
            if spec.name == "input_ids":
                assert len(set(free)) == 2
            else:
                assert len(free) == 1
                assert isinstance(spec.shape[0], str)
            whole = spec.name in ("input_ids", "reference_index")
            assert spec.dtype == ("int64" if whole else "float32")
        root = str(ROOT).encode()
        assert root not in path.read_bytes()  # nothing of the machine that made it


def test_the_manifest_says_what_the_graphs_are(vit: Exported) -> None:
    manifest, model = vit.bundle.manifest, vit.model
    sizes = manifest.dimensions
    assert (sizes.embed, sizes.patch, sizes.patches, sizes.text) == (24, 32, 16, 32)
    assert (sizes.vsi_layers, sizes.vsi) == (2, 16)
    assert manifest.placeholder.tokens == 1
    assert manifest.text.context_length == 77
    assert set(vit.bundle.manifest.methods) == set(METHODS)
    assert manifest.prompts["composed"] == "a photo of $ that {text}"
    assert manifest.prompts["mapped"] == "a photo of $"
    assert manifest.image_tower == image_tower_fingerprint(model)
    assert manifest.preprocessing.image_size == (32, 32)
    for graph in NAMES:
        check = vit.bundle.variant(graph).check
        assert check is not None
        differences = check["largest_difference"]
        assert differences.keys() == set(NAMES[graph][1])
        assert all(0 <= value <= 1e-4 for value in differences.values())


def test_every_check_is_told(vit: Exported) -> None:
    said = "\n".join(vit.said)
    assert "encode_text" in said
    for graph, (_, outputs) in NAMES.items():
        for output in outputs:
            assert f"{graph}: {output} within" in said
            assert (f"random gates, {graph}: {output} within" in said) == (graph != "image_encoder")


def test_other_parts_have_other_graphs(tmp_path: Path) -> None:
    """Three pseudo-words, no injection, no adapters."""
    model = shaken(VIT, tokens=3, vsi_layers=(), adapter_bottleneck=0)
    _, token_learner, text_encoder = graph_modules(model)
    assert token_learner.outputs == ("pseudo_tokens",)
    assert text_encoder.inputs == (*NAMES["text_encoder"][0][:3], "pseudo_tokens")
    for graph in (token_learner, text_encoder):
        path = tmp_path / f"{graph.name}.onnx"
        inputs = sample_inputs(model, graph.name, references=3, texts=4, length=9, seed=0)
        export_graph(graph, inputs, path)
        results = check_parity(model, graph, path)
        assert {result.output for result in results} == set(graph.outputs)
    ids = torch.tensor([[49406, -1, -1, -1, 320, 49407]])
    words = torch.randn(2, 3, 32)
    asked = {"input_ids": ids, "reference_index": torch.tensor([1]), "adapter_scale": torch.ones(1)}
    one, other = (
        run(path, {**asked, "pseudo_tokens": some})[0] for some in (words, words[:, [2, 1, 0]])
    )
    assert np.abs(one - other).max() > 1e-5


# --- the whole line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    sizes = ((48, 64), (64, 48), (33, 90))
    paths = [folder / f"{number}.{kind}" for number, kind in enumerate(("png", "jpg", "png"))]
    for drawing, size, path in zip(training_drawings(3, 0), sizes, paths, strict=True):
        draw(drawing, size).save(path)
    return paths


def plain_ids(words: Sequence[str], tokens: int) -> list[int]:
    """open_clip's ids of what stands before and after the pseudo-words."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    ids: list[int] = []
    for number, text in enumerate(words):
        row = tokenizer([text])[0].tolist()
        ids += [-1] * tokens * number + row[1 : row.index(49407)]
    return [49406, *ids, 49407]


@torch.no_grad()
def pytorch_says(model: ComposedModel, pictures: Sequence[Path], text: str, method: str) -> Array:
    """The query embeddings of a text about each picture, by open_clip's own transforms."""
    cfg = open_clip.transform.PreprocessCfg(**model.backbone.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(cfg, is_train=False)
    v, patches = model.encode_image(torch.stack([transform(Image.open(p)) for p in pictures]))
    if method == "image":
        return v.numpy()
    ids = torch.tensor([plain_ids(["a photo of", f"that {text}"], 1)])
    if method == "mapped":
        ids = torch.tensor([plain_ids(["a photo of", ""], 1)])
    count = len(pictures)
    scale = torch.full((count,), 1.0 if method == "composed" else 0.0)
    said = model.learn_token(v, patches)
    return model.encode_query(ids.expand(count, -1), torch.arange(count), scale, *said).numpy()


@pytest.mark.parametrize("which", ["vit", "convnet"])
def test_the_sdk_says_what_pytorch_says(
    which: str, request: pytest.FixtureRequest, pictures: list[Path]
) -> None:
    exported: Exported = request.getfixturevalue(which)
    retriever = Retriever(exported.bundle.path, threads=1)
    model = exported.model if which == "vit" else round_weights(shaken(SHALLOW))
    references = retriever.references(pictures)
    images = retriever.encode_images(pictures)
    np.testing.assert_allclose(images, pytorch_says(model, pictures, "", "image"), atol=1e-4)
    answers = []
    for method in ("composed", "stage1", "mapped"):
        for text in TEXTS:
            expected = pytorch_says(model, pictures, text, method)
            one_by_one = [reference.encode(text, method) for reference in references]
            np.testing.assert_allclose(one_by_one, expected, atol=1e-4)
            answers.append(expected)
    together = retriever.encode_queries(references, TEXTS, [2, 0, 2, 1])
    expected = [answers[row][at] for row, at in enumerate((2, 0, 2, 1))]
    np.testing.assert_allclose(together, expected, atol=1e-4)
    composed, stage1 = answers[0], answers[4]
    assert np.abs(composed - stage1).max() > 1e-2  # the adapters do something
    assert np.abs(answers[0] - answers[1]).max() > 1e-2  # and so does the text
    assert np.abs(composed[0] - composed[1]).max() > 1e-3  # and the picture


def test_bare_texts_are_open_clips(vit: Exported) -> None:
    texts = [*TEXTS, "a photo of a very long and very red dress " * 3]
    found = Retriever(vit.bundle.path, threads=1).encode_texts(texts)
    ids = open_clip.get_tokenizer("ViT-B-32")(texts)
    with torch.no_grad():
        expected = vit.model.backbone.clip.encode_text(ids, normalize=True).numpy()
    assert np.abs(found - expected).max() <= 1e-5


# --- what is wrong leaves nothing ---------------------------------------------------------------


def floats(proto: onnx.ModelProto) -> onnx.TensorProto:
    """The largest weight."""
    own = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    return max(own, key=lambda tensor: math.prod(tensor.dims))


def nudged(proto: onnx.ModelProto) -> None:
    tensor = floats(proto)
    values = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).standard_normal(values.shape)  # no norm takes it out again
    values = (values + 0.05 * noise).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def poisoned(proto: onnx.ModelProto) -> None:
    tensor = floats(proto)
    values = np.full_like(numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def without(name: str) -> Spoil:
    """The graph takes an input, and goes on as if it were zero."""

    def spoil(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            for place, used in enumerate(node.input):
                if used == name:
                    node.input[place] = "nothing"
        proto.graph.node.insert(0, helper.make_node("Sub", [name, name], ["nothing"]))

    return spoil


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Temporary files lie here, and all are gone in the end."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "spoil", "graph"),
    [
        (0, nudged, "token_learner"),
        (1, nudged, "text_encoder"),
        (1, without("adapter_scale"), "text_encoder"),
        (1, without("vsi_values"), "text_encoder"),
        (1, without("pseudo_tokens"), "text_encoder"),
        (2, nudged, "image_encoder"),
        (3, nudged, "token_learner"),
        (4, nudged, "text_encoder"),
        (4, poisoned, "text_encoder"),
    ],
)
def test_a_graph_that_differs_is_not_exported(
    vit: Exported, wrong: int, spoil: Spoil, graph: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "bundle"
    with (
        scratch(tmp_path / "scratch"),
        vit.recording.replay(wrong, spoil),
        pytest.raises(
            ParityError, match=rf"of the {graph} graph differs from PyTorch by .* nothing"
        ),
    ):
        export_bundle(vit.model, folder, name="tiny", model_card={})
    assert not folder.parent.exists() or list(folder.parent.iterdir()) == []


def test_an_operator_that_has_no_graph_is_named(vit: Exported, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return torch.special.bessel_j0(pixel_values)

    graph = dataclasses.replace(graph_modules(vit.model)[0], module=Odd(), outputs=("y",))
    with pytest.raises(ZtcirError, match=r"image_encoder graph cannot .*bessel.*another") as caught:
        export_fp32(vit.model, graph, tmp_path / "odd.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "odd.onnx").exists()


def test_a_graph_that_is_too_large_for_one_file_is_named(
    vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.variants.MOST_BYTES", 1000)
    with vit.recording.replay(), pytest.raises(ZtcirError, match=r"image_encoder has .* smaller"):
        export_bundle(vit.model, tmp_path / "b", name="tiny", model_card={})
    assert not (tmp_path / "b").exists()


def test_a_failed_export_leaves_the_bundle_that_was_there(vit: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    with vit.recording.replay():
        before = export_bundle(vit.model, folder, name="before", model_card={})
    with vit.recording.replay(4, nudged), pytest.raises(ParityError):
        export_bundle(vit.model, folder, name="after", model_card={}, overwrite=True)
    assert Bundle.load(folder).fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_text_encoder_that_is_not_open_clips_is_not_exported(
    vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = vit.model.backbone.clip
    really = clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *args, **more: really(*args, **more) + 1e-4)
    with pytest.raises(ParityError, match=r"encode_text by 1\.0e-04, more than 1e-05; nothing was"):
        export_bundle(vit.model, tmp_path / "bundle", name="tiny", model_card={})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_told_before_any_work(
    vit: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> float:
        raise AssertionError("work was begun")

    monkeypatch.setattr("export.bundle.check_frozen_text", work)
    with pytest.raises(UsageError, match="is already a bundle"):
        export_bundle(vit.model, vit.bundle.path, name="tiny", model_card={})


def test_a_bundle_is_only_replaced_when_asked(convnet: Exported, tmp_path: Path) -> None:
    run_folder, folder = convnet.bundle.path.parent / "run", tmp_path / "bundle"
    shutil.copytree(convnet.bundle.path, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with convnet.recording.replay():
        result = ztcir("export", run_folder, "--to", folder, "--small")
        assert result.exit_code == 2
        assert "is already a bundle" in result.stderr
        assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with convnet.recording.replay():
        result = ztcir(
            "export", run_folder, "--to", folder, "--small", "--overwrite", "--name", "b"
        )
        assert result.exit_code == 0, (result.output, result.exception)
    assert Bundle.load(folder).name == "b"
    for name, content in before.items():
        if name != "bundle.json":
            assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("content", [None, "{}"])
def test_no_checkpoint_is_no_export(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / "empty" / "config.json").write_text(content)
    result = ztcir("export", tmp_path / "empty", "--to", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "checkpoint" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bundle").exists()


# --- the randomised check -----------------------------------------------------------------------


def test_parts_are_randomised_for_the_check_and_put_back() -> None:
    model = tiny_model(VIT, random=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not before["adapters.0.up.weight"].any()
    with randomised(model) as other:
        assert other is model
        for name, value in model.parts().items():
            moved = not value.equal(before[name])
            if name.endswith("bias") or ".up." in name or name == "vsi.gates":
                assert moved, name
                assert value.abs().max() > 0.01
    for name, value in model.state_dict().items():
        assert value.equal(before[name]), name


def test_parts_are_put_back_after_a_failure_too() -> None:
    model = tiny_model(VIT, random=False)
    before = model.adapters[0].up.weight.clone()
    with pytest.raises(ParityError), randomised(model):
        raise ParityError
    assert model.adapters[0].up.weight.equal(before)


# --- fingerprints -------------------------------------------------------------------------------


def test_the_image_tower_alone_makes_the_fingerprint() -> None:
    model = tiny_model(VIT)
    known = image_tower_fingerprint(model)
    assert image_tower_fingerprint(tiny_model(VIT)) == known
    with torch.no_grad():
        for parameter in (*model.token_learner.parameters(), *model.adapters.parameters()):
            parameter += 1
        model.backbone.text.token_embedding.weight += 1
        assert image_tower_fingerprint(model) == known
        model.backbone.clip.visual.proj[0, 0] += 1e-3
    moved = image_tower_fingerprint(model)
    assert moved != known
    model.backbone.clip.visual.preprocess_cfg["mean"] = (0.1, 0.2, 0.3)
    assert image_tower_fingerprint(model) not in (known, moved)


# --- storage ------------------------------------------------------------------------------------


def stored(path: Path) -> dict[int, int]:
    """Bytes of weights by data type."""
    sizes: dict[int, int] = {}
    for tensor in onnx.load(str(path)).graph.initializer:
        values = numpy_helper.to_array(tensor)
        assert tensor.data_type != TensorProto.FLOAT or values.size < 4096, tensor.name
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + values.nbytes
    return sizes


def test_a_small_bundle_stores_few_bytes_of_the_rounded_weights(convnet: Exported) -> None:
    model = convnet.model
    sizes = {graph: stored(path) for graph, path in files_of(convnet.bundle).items()}
    table = model.backbone.vocab_size * model.backbone.text_width
    assert sizes["text_encoder"][TensorProto.INT8] >= table
    assert sizes["image_encoder"][TensorProto.FLOAT16] > 1e5
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert sum(sum(by_type.values()) for by_type in sizes.values()) < 0.5 * weights


def test_a_small_bundle_is_measured_as_it_is_stored(
    convnet: Exported, pictures: list[Path]
) -> None:
    """Its answers are the rounded model's (above), and not those of the model before."""
    found = Retriever(convnet.bundle.path, threads=1).encode_images(pictures)
    unrounded = pytorch_says(convnet.model, pictures, "", "image")
    difference = np.abs(found - unrounded).max()
    assert 1e-5 < difference < 2e-2
    assert convnet.bundle.manifest.image_tower != image_tower_fingerprint(convnet.model)


def test_rounding_keeps_each_weight_near() -> None:
    before, after = shaken(SHALLOW), round_weights(shaken(SHALLOW))
    table = before.backbone.text.token_embedding.weight
    ids = torch.arange(0, len(table), 97)
    rounded = after.backbone.text.token_embedding(ids)
    step = table[ids].abs().amax(1, keepdim=True) / 127
    assert ((rounded - table[ids]).abs() <= 0.51 * step + 1e-9).all()
    assert not rounded.equal(table[ids])
    own = dict(before.named_parameters())
    seen = 0
    for name, parameter in after.named_parameters():
        if "visual" in name or "token_embedding" in name or parameter.numel() < 4096:
            continue  # folded with their norms, or above, or left as they are
        seen += 1
        largest = own[name].abs().max()
        assert 0 < (parameter - own[name]).abs().max() <= 0.006 * largest, name
    assert seen > 3


@torch.no_grad()
def test_folding_norms_changes_no_answer() -> None:
    model = shaken(SHALLOW)
    pixels = torch.randn(2, 3, 96, 64)
    expected = model.encode_image(pixels)
    fold_norms(model.backbone.clip.visual)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for got, before in zip(model.encode_image(pixels), expected, strict=True):
        unit = before.abs().max()
        assert (got - before).abs().max() <= 1e-4 * unit


def product_of(weight: Array) -> onnx.ModelProto:
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@settings(max_examples=25)
@given(
    st.sampled_from(["rows", "columns", "half", "full", "zeros", "few"]),
    st.sampled_from([(64, 64), (32, 200), (130, 40)]),
    st.integers(0, 1000),
    st.sampled_from([1e-4, 0.02, 3.0]),
)
def test_compression_changes_no_number(
    kind: str, shape: tuple[int, int], seed: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    if kind == "few":
        shape = (8, 8)
    weight = (rng.standard_normal(shape) * spread).astype(np.float32)
    if kind in ("rows", "columns"):
        axis = 1 if kind == "rows" else 0
        largest = np.abs(weight).max(axis=axis, keepdims=True)
        scales = np.nextafter((largest / 127).astype(np.float16), np.float16(np.inf))
        scales = scales.astype(np.float32)
        weight = np.rint(weight / scales).astype(np.float32) * scales
        # the largest entry is 127 steps, as where a row was rounded to its own largest
        edge = (np.arange(shape[0]), 0) if axis == 1 else (0, np.arange(shape[1]))
        weight[edge] = 127 * scales.reshape(-1)
    elif kind == "half":
        weight = weight.astype(np.float16).astype(np.float32)
    elif kind == "zeros":
        weight[:] = 0
    x = rng.standard_normal((3, shape[0])).astype(np.float32)
    plain = product_of(weight)
    small = compress(product_of(weight))
    onnx.checker.check_model(small)
    answers = []
    for proto in (plain, small):
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        answers.append(session.run(None, {"x": x})[0])
    assert np.array_equal(answers[0], answers[1])
    types = {tensor.data_type for tensor in small.graph.initializer}
    expected = {
        "rows": TensorProto.INT8,
        "columns": TensorProto.INT8,
        "half": TensorProto.FLOAT16,
        "zeros": TensorProto.FLOAT16,
        "full": TensorProto.FLOAT,
        "few": TensorProto.FLOAT,
    }[kind]
    assert expected in types
