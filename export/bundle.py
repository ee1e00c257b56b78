"""Checkpoint to bundle: its graphs, checked against PyTorch, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from export.agreement import Judge, calibration_pictures, drawn_probe, folder_probe
from export.graphs import backbone_of, graph_modules
from export.parity import check_frozen_text, check_parity, randomised
from export.precision import Acceptance, accept
from export.storage import round_weights
from export.variants import Variants, export_fp32, write_variants
from train.model import Backbone, ComposedModel, hash_tensors, text_layout, write_tokenizer
from ztcir_sdk.bundle import (
    FORMAT,
    Bundle,
    Dimensions,
    FileRecord,
    GraphVariant,
    Manifest,
    Placeholder,
    Precision,
    check_target,
)
from ztcir_sdk.errors import UsageError
from ztcir_sdk.files import hash_file
from ztcir_sdk.names import METHODS, PLACEHOLDER_ID, PRECISIONS, PROMPTS
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["export_bundle", "image_tower_fingerprint"]

BARE_METHODS = ("image", "text", "sum")
"""What a backbone answers without trained parts."""
TOKENIZER = "tokenizer.json"


def export_bundle(
    model: ComposedModel | Backbone,
    folder: Path,
    *,
    name: str,
    model_card: Mapping[str, Any],
    methods: Sequence[str] | None = None,
    small: bool = False,
    precisions: Sequence[str] = ("fp32",),
    acceptance: Acceptance | None = None,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Export a model and prove it, with gates, adapters and biases at random, then as trained.

    Args:
        model: in evaluation mode; with ``small``, its weights are rounded in place. A backbone
            alone gives a bundle that answers by image, text and sum.
        folder: the bundle to make.
        name: of the bundle.
        model_card: backbone, stages, data and licences, measured quality, limits.
        methods: what the bundle answers; by default all that its graphs can.
        small: store weights in fp16 and int8 where the rounding allows it; the graphs still
            compute in float32, and parity is against the same rounded weights.
        precisions: of `PRECISIONS`; the bundle holds these, and float32 graphs where another
            precision was not good enough.
        acceptance: how fp16 and int8 are measured; by default as trained weights, on drawings.
        overwrite: replace the bundle that is there.
        report: gets a line for each thing that was checked.

    Raises:
        ParityError: a float32 graph differs from PyTorch by more than 1e-4; nothing is left behind.
        PrecisionError: a precision is not good enough in any graph.
        UsageError: ``folder`` is there already, or a precision is unknown or none.
        ZtcirError: a graph cannot be exported, or pictures to measure on cannot be used.
    """
    acceptance = acceptance or Acceptance()
    _check_precisions(precisions)
    check_target(folder, overwrite=overwrite)  # before minutes of work, not after
    torch.manual_seed(0)
    model = model.eval()
    if small:
        model = round_weights(model)
    report(f"text without adapters against encode_text: {check_frozen_text(model):.1e}")
    with tempfile.TemporaryDirectory(prefix="ztcir-export-") as scratch:
        work = Path(scratch)
        if isinstance(model, ComposedModel):
            _check_randomised(model, work / "randomised.onnx", report)
        entries = _entries(model, name, model_card, methods)
        preprocessing = entries["preprocessing"]
        variants = write_variants(
            model,
            work,
            precisions,
            small=small,
            calibration=lambda: calibration_pictures(acceptance.calibration, preprocessing),
            report=report,
        )
        write_tokenizer(backbone_of(model).tower, work / TOKENIZER)
        chosen: dict[str, Precision] = {}
        if set(precisions) - {"fp32"}:
            chosen = _choose(variants, entries, precisions, acceptance, report)
        graphs, files = _kept(variants, chosen)
        return Bundle.write(
            folder,
            **entries,
            files={**files, TOKENIZER: work / TOKENIZER},
            graphs=graphs,
            precisions=_renamed(chosen),
            overwrite=overwrite,
        )


def _check_precisions(precisions: Sequence[str]) -> None:
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UsageError(
                f"There is no precision {precision!r}: choose from {', '.join(PRECISIONS)}."
            )
    if not precisions:
        raise UsageError(f"Name a precision or more: {', '.join(PRECISIONS)}.")


@torch.no_grad()
def _check_randomised(model: ComposedModel, path: Path, report: Callable[[str], None]) -> None:
    with randomised(model):
        for graph in graph_modules(model)[1:]:  # the image encoder has no such parts
            export_fp32(model, graph, path)
            for result in check_parity(model, graph, path):
                report(
                    f"random gates, {graph.name}: {result.output} within "
                    f"{result.difference:.1e} of PyTorch"
                )


def _entries(
    model: ComposedModel | Backbone,
    name: str,
    model_card: Mapping[str, Any],
    methods: Sequence[str] | None,
) -> dict[str, Any]:
    """What the manifest says of the model, whatever the precision."""
    backbone = backbone_of(model)
    vsi = None if isinstance(model, Backbone) else model.vsi
    if methods is None:
        methods = BARE_METHODS if isinstance(model, Backbone) else tuple(METHODS)
    return {
        "name": name,
        "model_card": model_card,
        "methods": tuple(methods),
        "prompts": {method: PROMPTS[method] for method in methods if method in PROMPTS},
        "text": text_layout(backbone.tower),
        "preprocessing": Preprocessing.from_open_clip(backbone.preprocess_cfg),
        "dimensions": Dimensions(
            embed=backbone.embed_dim,
            patch=backbone.patch_dim,
            patches=backbone.num_patches,
            text=backbone.text_width,
            vsi_layers=len(vsi.layers) if vsi is not None else 0,
            vsi=vsi.width if vsi is not None else 0,
        ),
        "image_tower": image_tower_fingerprint(model),
        "placeholder": Placeholder(
            id=PLACEHOLDER_ID, tokens=1 if isinstance(model, Backbone) else model.config.tokens
        ),
        "tokenizer": TOKENIZER,
    }


def _choose(
    variants: Variants,
    entries: Mapping[str, Any],
    precisions: Sequence[str],
    acceptance: Acceptance,
    report: Callable[[str], None],
) -> dict[str, Precision]:
    """Measure the variants as a bundle runs them; their checks are noted in `variants`."""
    files = [variant.file for own in variants.graphs.values() for variant in own.values()]
    draft = Bundle(
        variants.folder,
        Manifest(
            **entries,
            format=FORMAT,
            ztcir="draft",
            created="2000-01-01T00:00:00+00:00",
            graphs=variants.graphs,
            files={file: _record(variants.folder / file) for file in (*files, TOKENIZER)},
        ),
    )
    preprocessing = entries["preprocessing"]
    if acceptance.gallery is None:
        probe = drawn_probe(preprocessing)
    else:
        probe = folder_probe(acceptance.gallery, preprocessing)
    judge = Judge(draft, probe)
    chosen: dict[str, Precision] = {}
    for precision in precisions:
        if precision == "fp32":
            chosen[precision] = Precision(dict.fromkeys(variants.graphs, "fp32"))
            continue
        chosen[precision], checks = accept(
            judge,
            precision,
            variants.candidates(precision),
            acceptance,
            refused=variants.refused.get(precision),
            report=report,
        )
        for graph, measured in checks.items():
            key = chosen[precision].graphs[graph]
            variant = variants.graphs[graph][key]
            check = {**(variant.check or {}), **measured}
            variants.graphs[graph][key] = replace(variant, check=check)
    return chosen


def _kept(
    variants: Variants, chosen: Mapping[str, Precision]
) -> tuple[dict[str, dict[str, GraphVariant]], dict[str, Path]]:
    """The variants that a bundle holds, under their final names, and their files."""
    wanted = chosen.values() or [Precision(dict.fromkeys(variants.graphs, "fp32"))]
    graphs: dict[str, dict[str, GraphVariant]] = {graph: {} for graph in variants.graphs}
    files: dict[str, Path] = {}
    for precision in wanted:
        for graph, key in precision.graphs.items():
            variant, kind = variants.graphs[graph][key], _precision(key)
            file = f"{graph}.onnx" if kind == "fp32" else f"{kind}/{graph}.onnx"
            graphs[graph][kind] = replace(variant, file=file, precision=kind)
            files[file] = variants.folder / variant.file
    return graphs, files


def _renamed(chosen: Mapping[str, Precision]) -> dict[str, Precision]:
    return {
        name: replace(
            precision, graphs={graph: _precision(key) for graph, key in precision.graphs.items()}
        )
        for name, precision in chosen.items()
    }


def _precision(key: str) -> str:
    """ "int8" of the variant "int8-static-7"."""
    return key.split("-")[0]


def _record(path: Path) -> FileRecord:
    return FileRecord(hash_file(path), path.stat().st_size)


def image_tower_fingerprint(model: ComposedModel | Backbone) -> str:
    """What makes a gallery's vectors: image-tower weights and preprocessing, as 32 hex digits."""
    backbone = backbone_of(model)
    digest = hashlib.sha256()
    hash_tensors(digest, sorted(backbone.clip.visual.state_dict().items()))
    numbers = Preprocessing.from_open_clip(backbone.preprocess_cfg).to_dict()
    digest.update(json.dumps(numbers, sort_keys=True).encode())
    return digest.hexdigest()[:32]
