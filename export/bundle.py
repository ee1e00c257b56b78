"""Exports a model as a bundle: its graphs, checked against PyTorch, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from export.agreement import VariantRunner, calibration_images, drawn_queries, folder_queries
from export.graphs import backbone_of, graph_modules
from export.parity import check_frozen_text, check_parity, randomised
from export.precision import Acceptance, choose_variants
from export.speed import is_faster, measure_speed
from export.storage import round_weights
from export.variants import Report, Variants, export_fp32, precision_of, write_variants
from export.vocabulary import VOCABULARY
from train.model import Backbone, ComposedModel, hash_tensors, text_layout, write_tokenizer
from ztcir_sdk.bundle import (
    DEFAULT_ON_CPU,
    FORMAT,
    Bundle,
    DefaultAnswer,
    Dimensions,
    FileRecord,
    GraphVariant,
    Manifest,
    Placeholder,
    Precision,
    check_target,
)
from ztcir_sdk.bundle.manifest import TOKENIZER
from ztcir_sdk.errors import UsageError, check_choice
from ztcir_sdk.files import hash_file, write_whole
from ztcir_sdk.hub import CARD, hub_card
from ztcir_sdk.modification import Vocabulary
from ztcir_sdk.names import METHODS, PLACEHOLDER_ID, PRECISIONS, PROMPTS, TOKEN_LEARNER
from ztcir_sdk.preprocess import Preprocessing

BARE_METHODS = tuple(name for name, graphs in METHODS.items() if TOKEN_LEARNER not in graphs)
"""Methods of a backbone without trained parts."""


@dataclass(frozen=True)
class BundleSettings:
    """What a bundle is called and contains.

    Attributes:
        name: name of the bundle.
        model_card: backbone, stages, data and licences, measured quality, limits.
        methods: methods that the bundle answers; default: all that its graphs can.
        small: store weights in fp16 and int8 where the rounding allows it. The graphs still compute
            in float32, and are compared with the same rounded weights.
        precisions: some of `ztcir_sdk.names.PRECISIONS`. A graph that is not accurate enough in
            one of them stays in float32.
        acceptance: what fp16 and int8 are measured on; default: drawings, as trained weights.
        pad_ratio: ratio of edges above which images are padded first; see `pad_to_ratio`.
        vocabulary: words in lower case that the model was trained on, which a search compares
            texts with; None records none.
        rules: entries of `Manifest` that say what is done with texts, as `neutral_text` and
            `attribute_words`, for a model that they were measured on.
        default: how searches answer that name no method; None for "composed".

    Raises:
        UsageError: a precision is unknown, or there is none.
    """

    name: str
    model_card: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] | None = None
    small: bool = False
    precisions: Sequence[str] = ("fp32",)
    acceptance: Acceptance = field(default_factory=Acceptance)
    vocabulary: Sequence[str] | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    pad_ratio: float | None = None
    default: DefaultAnswer | None = None

    def __post_init__(self) -> None:
        for precision in self.precisions:
            check_choice("precision", precision, PRECISIONS)
        if not self.precisions:
            known = ", ".join(PRECISIONS)
            raise UsageError(f"There is no precision to export: choose from {known}.")


def export_bundle(
    model: ComposedModel | Backbone,
    folder: Path,
    settings: BundleSettings,
    *,
    overwrite: bool = False,
    report: Report = lambda line: None,
) -> Bundle:
    """Export a model and check it: with random gates, adapters and biases, then as trained.

    Args:
        model: the model, in evaluation mode; `small` rounds its weights in place. A backbone alone
            gives a bundle that answers by image, text and sum.
        folder: folder of the bundle.
        settings: name and contents of the bundle.
        overwrite: replace an existing bundle.
        report: receives one line for each check.

    Raises:
        ParityError: a float32 graph differs from PyTorch by more than 1e-4; nothing is written.
        PrecisionError: no graph is accurate enough in a precision.
        UsageError: ``folder`` exists, or a word cannot be in a vocabulary.
        ZtcirError: a graph cannot be exported, or the images to measure on cannot be used.
    """
    check_target(folder, overwrite=overwrite)  # before minutes of work
    words: dict[str, bytes] = {}
    if settings.vocabulary is not None:
        words[VOCABULARY] = Vocabulary(settings.vocabulary).to_bytes()
    torch.manual_seed(0)
    model = model.eval()
    if settings.small:
        model = round_weights(model)
    report(f"text without adapters against encode_text: {check_frozen_text(model):.1e}")
    with tempfile.TemporaryDirectory(prefix="ztcir-export-") as scratch:
        work = Path(scratch)
        if isinstance(model, ComposedModel):
            _check_randomised(model, work / "randomised.onnx", report)
        entries = manifest_entries(model, settings)
        calibration = settings.acceptance.calibration
        variants = write_variants(
            model,
            work,
            settings.precisions,
            small=settings.small,
            calibration=lambda: calibration_images(calibration, entries["preprocessing"]),
            report=report,
        )
        write_tokenizer(backbone_of(model).tower, work / TOKENIZER)
        chosen: dict[str, Precision] = {}
        if set(settings.precisions) - {"fp32"}:
            chosen = choose_precisions(
                variants, entries, settings.precisions, settings.acceptance, report
            )
        graphs, files = final_names(variants, chosen)
        bundle = Bundle.write(
            folder,
            **entries,
            files={**files, TOKENIZER: work / TOKENIZER, **words},
            vocabulary=VOCABULARY if words else None,
            **settings.rules,
            graphs=graphs,
            precisions=final_precisions(chosen),
            overwrite=overwrite,
        )
    write_whole(bundle.path / CARD, hub_card(bundle.manifest).encode())
    return bundle


@torch.no_grad()
def _check_randomised(model: ComposedModel, path: Path, report: Report) -> None:
    with randomised(model):
        for graph in graph_modules(model)[1:]:  # the image encoder has no trained parts
            export_fp32(model, graph, path)
            for result in check_parity(model, graph, path):
                report(
                    f"random gates, {graph.name}: {result.output} within "
                    f"{result.difference:.1e} of PyTorch"
                )


def manifest_entries(model: ComposedModel | Backbone, settings: BundleSettings) -> dict[str, Any]:
    """Return the manifest's entries that do not depend on the precision."""
    backbone = backbone_of(model)
    vsi = None if isinstance(model, Backbone) else model.vsi
    methods = settings.methods or (BARE_METHODS if isinstance(model, Backbone) else METHODS)
    return {
        "name": settings.name,
        "model_card": settings.model_card,
        "methods": tuple(methods),
        "prompts": {method: PROMPTS[method] for method in methods if method in PROMPTS},
        "text": text_layout(backbone.tower),
        "preprocessing": preprocessing(backbone, settings.pad_ratio),
        "dimensions": Dimensions(
            embed=backbone.embed_dim,
            patch=backbone.patch_dim,
            patches=backbone.num_patches,
            text=backbone.text_width,
            vsi_layers=len(vsi.layers) if vsi is not None else 0,
            vsi=vsi.width if vsi is not None else 0,
        ),
        "image_tower": image_tower_fingerprint(model, settings.pad_ratio),
        "placeholder": Placeholder(
            id=PLACEHOLDER_ID, tokens=1 if isinstance(model, Backbone) else model.config.tokens
        ),
        "tokenizer": TOKENIZER,
        "default": settings.default,
    }


def choose_precisions(
    variants: Variants,
    entries: Mapping[str, Any],
    precisions: Sequence[str],
    acceptance: Acceptance,
    report: Report,
) -> dict[str, Precision]:
    """Measure the variants in a draft bundle; record their figures in `variants`.

    Args:
        variants: the files, beside the tokenizer's.
        entries: the manifest's entries that do not depend on the precision.
        precisions: what is wanted.
        acceptance: what they are measured on.
        report: receives one line for each measurement.

    Raises:
        PrecisionError: no graph is accurate enough in a precision.
    """
    files = [variant.file for own in variants.graphs.values() for variant in own.values()]
    paths = {file: variants.folder / file for file in (*files, TOKENIZER)}
    draft = Bundle(
        variants.folder,
        Manifest(
            **entries,
            format=FORMAT,
            ztcir="draft",
            created="2000-01-01T00:00:00+00:00",
            graphs=variants.graphs,
            files={
                file: FileRecord(hash_file(path), path.stat().st_size)
                for file, path in paths.items()
            },
        ),
    )
    preprocessing = entries["preprocessing"]
    if acceptance.gallery is None:
        query_set = drawn_queries(preprocessing)
    else:
        query_set = folder_queries(acceptance.gallery, preprocessing)
    runner = VariantRunner(draft, query_set)
    chosen: dict[str, Precision] = {}
    for precision in precisions:
        if precision == "fp32":
            chosen[precision] = Precision(dict.fromkeys(variants.graphs, "fp32"))
            continue
        chosen[precision], checks = choose_variants(
            runner,
            precision,
            variants.candidates(precision),
            acceptance,
            refused=variants.refused.get(precision),
            report=report,
        )
        if precision == "int8":  # for processors, such as this one
            chosen[precision] = _timed(chosen[precision], variants, acceptance, report)
        for graph, figures in checks.items():
            key = chosen[precision].graphs[graph]
            variant = variants.graphs[graph][key]
            check = {**(variant.check or {}), **figures}
            variants.graphs[graph][key] = replace(variant, check=check)
    return chosen


def _timed(
    precision: Precision, variants: Variants, acceptance: Acceptance, report: Report
) -> Precision:
    """Add to a precision's check how fast it is, and whether it is the default on processors."""
    speed = measure_speed(variants, precision.graphs)
    for graph, figures in speed["graphs"].items():
        report(f"int8 {graph}: {figures['times_as_fast']} times as fast as fp32")
    default = acceptance.trained and is_faster(speed)
    check = {**(precision.check or {}), "speed": speed, DEFAULT_ON_CPU: default}
    return replace(precision, check=check)


def final_precisions(chosen: Mapping[str, Precision]) -> dict[str, Precision]:
    """Return precisions with names in place of the keys of variants."""
    return {
        name: replace(
            precision,
            graphs={graph: precision_of(key) for graph, key in precision.graphs.items()},
        )
        for name, precision in chosen.items()
    }


def final_names(
    variants: Variants, chosen: Mapping[str, Precision]
) -> tuple[dict[str, dict[str, GraphVariant]], dict[str, Path]]:
    """Return the chosen variants under their names in the bundle, and their files."""
    wanted = chosen.values() or [Precision(dict.fromkeys(variants.graphs, "fp32"))]
    graphs: dict[str, dict[str, GraphVariant]] = {graph: {} for graph in variants.graphs}
    files: dict[str, Path] = {}
    for precision in wanted:
        for graph, key in precision.graphs.items():
            variant, name = variants.graphs[graph][key], precision_of(key)
            file = f"{graph}.onnx" if name == "fp32" else f"{name}/{graph}.onnx"
            graphs[graph][name] = replace(variant, file=file, precision=name)
            files[file] = variants.folder / variant.file
    return graphs, files


def preprocessing(backbone: Backbone, pad_ratio: float | None = None) -> Preprocessing:
    """Return a backbone's evaluation transform, which may pad images first."""
    return changed(Preprocessing.from_open_clip(backbone.preprocess_cfg), pad_ratio=pad_ratio)


def image_tower_fingerprint(model: ComposedModel | Backbone, pad_ratio: float | None = None) -> str:
    """Return the fingerprint of a gallery's vectors: image-tower weights and preprocessing.

    Returns:
        32 hexadecimal digits.
    """
    backbone = backbone_of(model)
    digest = hashlib.sha256()
    hash_tensors(digest, sorted(backbone.clip.visual.state_dict().items()))
    numbers = preprocessing(backbone, pad_ratio).to_dict()
    digest.update(json.dumps(numbers, sort_keys=True).encode())
    return digest.hexdigest()[:32]
