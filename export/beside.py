"""Put int8 graphs beside the fp32 graphs of a bundle, without its checkpoint.

    python -m export.beside BUNDLE --to NEW --gallery 'val-{0000..0001}.tar' \
        --triplets val-triplets.jsonl --calibration 'train-{0000..0001}.tar'

The int8 graphs are made from the bundle's own, pass the checks of an export, and are timed beside
fp32 on this processor. The model card says what came out, under "int8".
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import onnx
from msgspec.structs import asdict, replace

from export.agreement import calibration_images
from export.bundle import choose_precisions, final_names, final_precisions
from export.copies import copy_bundle
from export.precision import Acceptance
from export.storage import borrow_tensors, decompress
from export.variants import Report, Variants, add_int8
from ztcir_sdk.bundle import Bundle, check_target
from ztcir_sdk.errors import UsageError, ZtcirError, disk_full_as_error
from ztcir_sdk.names import TEXT_ENCODER
from ztcir_sdk.path_patterns import expand_paths

__all__ = ["add_int8_beside"]

INT8 = "int8"


_NOT_OF_A_DRAFT = (
    *("format", "ztcir", "created", "files", "graphs", "precisions"),
    *("vocabulary", "prototypes"),  # it has no files but graphs and a tokenizer
)
"""Entries of a manifest without which its graphs are measured."""


def add_int8_beside(
    bundle: Bundle,
    folder: Path,
    acceptance: Acceptance,
    *,
    overwrite: bool = False,
    report: Report = lambda line: None,
) -> Bundle:
    """Write a copy of a bundle that also has int8 graphs.

    The text encoder's token table is stored once: the int8 graph reads it from the file of the fp32
    graph.

    Args:
        bundle: a bundle with fp32 graphs.
        folder: folder of the new bundle.
        acceptance: what the int8 graphs are measured on.
        overwrite: replace an existing bundle.
        report: receives one line for each check.

    Raises:
        PrecisionError: no graph is accurate enough in int8; nothing is written.
        UsageError: the bundle lacks fp32 graphs or has int8 ones, or `folder` exists.
    """
    check_target(folder, overwrite=overwrite)
    manifest = bundle.manifest
    for graph, own in manifest.graphs.items():
        if set(own) != {"fp32"}:
            raise UsageError(
                f"The {graph} of the bundle {bundle.name} is in {', '.join(own)}: int8 can be put "
                "only beside graphs in fp32."
            )
    with tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch:
        variants = _write_int8(bundle, Path(scratch), acceptance, report)
        draft = asdict(manifest)
        for name in _NOT_OF_A_DRAFT:
            del draft[name]
        chosen = choose_precisions(variants, draft, ("fp32", INT8), acceptance, report)
        graphs, files = final_names(variants, chosen)
        _share_table(graphs, files)
        card = {**manifest.model_card, INT8: chosen[INT8].check}
        return copy_bundle(
            bundle,
            folder,
            files=files,
            without={own["fp32"].file for own in manifest.graphs.values()},
            model_card=card,
            created=None,
            graphs=graphs,
            precisions=final_precisions(chosen),
            overwrite=overwrite,
        )


def _write_int8(bundle: Bundle, work: Path, acceptance: Acceptance, report: Report) -> Variants:
    """Write the fp32 graphs, their int8 variants and the tokenizer into a folder."""
    variants = Variants(work)
    shutil.copyfile(bundle.tokenizer_path, work / bundle.manifest.tokenizer)
    for graph, own in bundle.manifest.graphs.items():
        path = work / f"{graph}.onnx"
        shutil.copyfile(bundle.file(own["fp32"]), path)
        variants.graphs[graph] = {"fp32": replace(own["fp32"], file=path.name)}
        raw = work / "raw.onnx"
        onnx.save(decompress(onnx.load(str(path))), str(raw))
        add_int8(
            graph,
            raw,
            variants,
            lambda: calibration_images(acceptance.calibration, bundle.manifest.preprocessing),
            report,
        )
        raw.unlink()
    return variants


def _share_table(graphs: dict[str, Any], files: dict[str, Path]) -> None:
    """Let the int8 text encoder read its token table from the file of the fp32 one."""
    variant = graphs.get(TEXT_ENCODER, {}).get(INT8)
    if variant is None:
        return
    source = files[variant.file]
    proto = onnx.load(str(source))
    if borrow_tensors(proto, files[f"{TEXT_ENCODER}.onnx"]) == 0:
        return
    source.write_bytes(proto.SerializeToString())
    name = f"{TEXT_ENCODER}.{INT8}.onnx"  # beside the other: a graph reads from its own folder
    files[name] = files.pop(variant.file)
    graphs[TEXT_ENCODER][INT8] = replace(variant, file=name)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--gallery", multiple=True, help="Images to rank, also as a pattern. Repeatable.")
@click.option("--triplets", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--calibration", multiple=True, help="Images to measure ranges on. Repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def main(
    bundle: Path,
    to: Path,
    gallery: Sequence[str],
    triplets: Path | None,
    calibration: Sequence[str],
    overwrite: bool,
) -> None:
    """Write a copy of BUNDLE with int8 graphs beside its fp32 ones; minutes on two cores."""
    logging.getLogger().setLevel(logging.ERROR)
    acceptance = Acceptance(
        gallery=expand_paths(gallery) if gallery else None,
        triplets=triplets,
        calibration=expand_paths(calibration) if calibration else None,
    )
    try:
        with disk_full_as_error():
            done = add_int8_beside(
                Bundle.load(bundle),
                to,
                acceptance,
                overwrite=overwrite,
                report=lambda line: click.echo(line, err=True),
            )
    except ZtcirError as error:
        raise click.ClickException(str(error)) from error
    size = sum(record.bytes for record in done.manifest.files.values())
    click.echo(f"{done.path}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
