"""Exported tiny models, and what PyTorch answers in their place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import open_clip
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from tiny_training import PARTS, SHALLOW, tiny_model
from torch import nn

from cli.main import main
from export import agreement
from export.bundle import BundleSettings, export_bundle
from train.model import ComposedModel, describe_model, own_weights, write_checkpoint
from ztcir_sdk.bundle import Bundle

__all__ = [
    "GRAPH_NAMES",
    "Exported",
    "export_to",
    "few_images",
    "files_of",
    "run_graph",
    "shallow_model",
    "torch_embeddings",
    "write_run",
    "ztcir",
]

Array = NDArray[Any]

GRAPH_NAMES = {
    "image_encoder": (["pixel_values"], ["image_embeds", "patch_features"]),
    "token_learner": (
        ["image_embeds", "patch_features"],
        ["pseudo_tokens", "vsi_keys", "vsi_values"],
    ),
    "text_encoder": (
        [
            *("input_ids", "reference_index", "adapter_scale"),
            *("pseudo_tokens", "vsi_keys", "vsi_values"),
        ],
        ["query_embeds"],
    ),
}
"""Graph -> names of its inputs and outputs."""


@dataclass
class Exported:
    """A model, its bundle, and the lines that the export reported."""

    model: Any
    bundle: Bundle
    lines: list[str]

    @classmethod
    def load(cls, model: Any, folder: Path) -> Exported:
        """Load what `export_to` wrote."""
        lines = json.loads((folder / "lines.json").read_text())
        return cls(model, Bundle.load(folder / "bundle"), lines)

    def graph(self, name: str, precision: str | None = None) -> onnx.ModelProto:
        """Load a graph of the bundle."""
        return onnx.load(str(self.bundle.file(self.bundle.variant(name, precision))))


def export_to(folder: Path, model: Any, settings: BundleSettings) -> None:
    """Export a model for `Exported.load`."""
    lines: list[str] = []
    export_bundle(model, folder / "bundle", settings, report=lines.append)
    (folder / "lines.json").write_text(json.dumps(lines))


def ztcir(*args: object) -> Result:
    """Run a command line."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def few_images(patch: pytest.MonkeyPatch, combinations: int = 2) -> None:
    """Measure precisions on 40 drawings per combination of product and colour, and 60 queries."""
    patch.setattr(agreement, "DRAWINGS_PER_COMBINATION", combinations)
    patch.setattr(agreement, "QUERIES", 60)
    patch.setattr(agreement, "CALIBRATION_IMAGES", 16)


def shallow_model() -> ComposedModel:
    """A convnet with one text block; everything is random, norms' running statistics too."""
    model = tiny_model(SHALLOW, dataclasses.replace(PARTS, token_learner_depth=1, vsi_layers=(0,)))
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.1)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    return model


def write_run(folder: Path, model: ComposedModel, kind: str) -> None:
    """Write a training run with its last checkpoint."""
    groups = {"model": model.parts()}
    groups |= {name: module.state_dict() for name, module in own_weights(model).items()}
    write_checkpoint(folder / "last", describe_model(model, kind), groups)


def files_of(bundle: Bundle) -> dict[str, Path]:
    """Return graph -> its file in the default precision."""
    return {graph: bundle.file(bundle.variant(graph)) for graph in bundle.manifest.graphs}


def initializers(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return a graph's constants by name."""
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def run_graph(path: Path | bytes, inputs: dict[str, Array]) -> list[Array]:
    """Run a graph on ONNX Runtime's CPU provider, in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, inputs)
    return found


def _prompt_ids(words: Sequence[str], tokens: int) -> list[int]:
    """Return open_clip's ids of the words before and after the pseudo-words."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    ids: list[int] = []
    for number, text in enumerate(words):
        row = tokenizer([text])[0].tolist()
        ids += [-1] * tokens * number + row[1 : row.index(49407)]
    return [49406, *ids, 49407]


@torch.no_grad()
def torch_embeddings(
    model: ComposedModel, pictures: Sequence[Path], text: str, method: str
) -> Array:
    """Return the query embeddings of a text with each picture, by open_clip's own transforms."""
    cfg = open_clip.transform.PreprocessCfg(**model.backbone.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(cfg, is_train=False)
    v, patches = model.encode_image(torch.stack([transform(Image.open(p)) for p in pictures]))
    if method == "image":
        return v.numpy()
    words = ["a photo of", ""] if method == "mapped" else ["a photo of", f"that {text}"]
    ids, count = torch.tensor([_prompt_ids(words, 1)]), len(pictures)
    scale = torch.full((count,), 1.0 if method == "composed" else 0.0)
    learned = model.learn_token(v, patches)
    return model.encode_query(ids.expand(count, -1), torch.arange(count), scale, *learned).numpy()
