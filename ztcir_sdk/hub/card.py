"""The model card of a bundle, as the hub shows it: Markdown with its metadata on top."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ztcir_sdk.bundle import Manifest
from ztcir_sdk.names import METRICS

__all__ = ["CARD", "HUB_LICENCES", "OWN_NAME", "hub_card"]

CARD = "README.md"
"""The card's file in a bundle's folder; the manifest does not list it."""
OWN_NAME = "hf://ORG/REPO"
"""What the card of a bundle says where its name on the hub goes."""
HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC0-1.0": "cc0-1.0",
    "MIT": "mit",
    "OpenRAIL": "openrail",
}
"""A licence by its SPDX name -> its name on the hub."""


def hub_card(manifest: Manifest, name: str = OWN_NAME) -> str:
    """Return the ``README.md`` of a bundle: what it is, how to use it, and its own model card.

    Args:
        manifest: the bundle's manifest.
        name: the bundle's name on the hub.
    """
    head = [
        "---",
        "library_name: ztcir",
        "pipeline_tag: image-feature-extraction",
        "tags: [composed-image-retrieval, image-search, zero-shot, onnx, clip]",
        *_licence(manifest.model_card),
        "---",
        "",
        f"# {manifest.name}",
        "",
        "A bundle for composed image retrieval: it finds images similar to an image, modified as a",
        "text describes.",
        "",
        "```python",
        "from ztcir_sdk import Retriever",
        "",
        f'retriever = Retriever.from_pretrained("{name}")',
        'retriever.index("photos/", to="photos.ztcir")',
        'retriever.search("ref.jpg", "make it red")',
        "```",
        "",
        f"Methods: {', '.join(manifest.methods)}. Made with ztcir {manifest.ztcir}.",
        *_adapted_from(manifest.model_card),
    ]
    return "\n".join([*head, *_sections(manifest.model_card), *_checks(manifest)]) + "\n"


def _licence(card: Mapping[str, Any]) -> list[str]:
    """Return the lines of the licence: the hub's own name of it, if there is one."""
    found = sorted({str(one["licence"]) for one in _sources(card) if "licence" in one})
    if not found:
        return ["license: unknown"]
    if len(found) == 1 and found[0] in HUB_LICENCES:
        return [f"license: {HUB_LICENCES[found[0]]}"]
    return ["license: other", f"license_name: {json.dumps('-and-'.join(found).lower())}"]


def _adapted_from(card: Mapping[str, Any]) -> list[str]:
    """Return the line that names the bundle whose backbone was adapted, if there is one."""
    origin = card.get("adapted_from")
    if not isinstance(origin, Mapping) or "bundle" not in origin:
        return []
    return [f"Adapted by `ztcir adapt` from the backbone of the bundle `{origin['bundle']}`."]


def _sources(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = [*card.get("data", ()), *card.get("weights", ())]
    return [one for one in found if isinstance(one, Mapping)]


def _sections(card: Mapping[str, Any]) -> Iterator[str]:
    for name in ("data", "weights"):
        rows = [one for one in card.get(name, ()) if isinstance(one, Mapping)]
        if rows:
            yield from ("", f"## {name.title()}", "")
            for row in rows:
                licence = f" ({row['licence']})" if "licence" in row else ""
                yield f"- **{row.get('name', '')}**{licence}: {row.get('used', '')}"
    if limits := card.get("limits"):
        yield from ("", "## Limits", "")
        yield from (f"- {limit}" for limit in ([limits] if isinstance(limits, str) else limits))
    yield from _quality(card.get("quality"))
    rest = {key: card[key] for key in ("stages", "backbone") if card.get(key)}
    for name, values in rest.items():
        yield from ("", f"## {name.title()}", "", "```json")
        yield json.dumps(values, indent=1)
        yield "```"


def _checks(manifest: Manifest) -> Iterator[str]:
    """Describe what the export measured of each precision beside fp32."""
    for name, precision in manifest.precisions.items():
        if not (check := precision.check):
            continue
        yield from ("", f"## Precision {name}", "")
        try:
            table = list(_check_table(check))
        except (AttributeError, KeyError, TypeError, ValueError):
            yield from ("```json", json.dumps(check, indent=1), "```")
            continue
        yield from table
        for graph, reason in check.get("kept_in_fp32", {}).items():
            yield from ("", f"`{graph}` stays in fp32 ({reason}).")


def _check_table(check: Mapping[str, Any]) -> Iterator[str]:
    measured_on = (
        f" on {check['gallery']}, {check['queries']} queries" if "gallery" in check else ""
    )
    yield from (f"Compared with {check['compared_with']}{measured_on}:", "")
    yield from ("| figure | of | value |", "| --- | --- | ---: |")
    figures = {
        key: check[key] for key in ("cosine_distance", "top10_overlap", "mAP@10") if key in check
    }
    graphs = check.get("speed", {}).get("graphs", {})
    figures["times_as_fast"] = {name: own["times_as_fast"] for name, own in graphs.items()}
    for figure, values in figures.items():
        for name, value in values.items():
            yield f"| {figure.replace('_', ' ')} | {name} | {float(value):.3g} |"


def _quality(quality: Any) -> Iterator[str]:
    """Describe scores by method as a table; anything else as JSON."""
    if not quality:
        return
    yield from ("", "## Quality", "")
    try:
        table = list(_table(quality["methods"]))
        measured = list(_measured(quality))
    except (AttributeError, KeyError, TypeError, ValueError):
        yield from ("```json", json.dumps(quality, indent=1), "```")
        return
    yield from measured
    yield from table


def _table(methods: Mapping[str, Any]) -> Iterator[str]:
    """Return a row of scores for each method; scores may be by kind of change, and overall."""
    scores = {name: own.get("overall", own) for name, own in methods.items()}
    metrics = [one for one in METRICS if all(one in own for own in scores.values())]
    if not scores or not metrics:
        raise ValueError("There are no scores that all methods have.")
    yield f"| method | {' | '.join(metrics)} |"
    yield f"| --- |{' ---: |' * len(metrics)}"
    for name, own in scores.items():
        figures = " | ".join(f"{float(own[metric]):.3f}" for metric in metrics)
        yield f"| `{name}` | {figures} |"


def _measured(quality: Mapping[str, Any]) -> Iterator[str]:
    """Say what the scores were measured on, and what `ztcir adapt` records beside them."""
    if quality.get("validation"):
        yield from (f"Measured on {quality['validation']}.", "")
    if "queries" in quality and "gallery" in quality:
        what = f" ({quality['what']})" if quality.get("what") else ""
        yield f"Measured with {quality['queries']} queries on {quality['gallery']} images{what}."
        yield ""
    sentences = []
    if "sum_weight" in quality:
        sentences.append(
            f"`sum` has the weight of the text that is best here: {quality['sum_weight']:g}."
        )
    if "composed" in quality["methods"] and "best_plain" in quality:
        sentences.append(
            f"mAP@10 of `composed` is {quality['gain']:+.3f} ± {quality['standard_error']:.3f} "
            f"(standard error) beside `{quality['best_plain']}`, the best of the other methods."
        )
    if sentences:
        yield from (*sentences, "")
