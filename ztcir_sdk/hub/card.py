"""The model card of a bundle, as the hub shows it: Markdown with its metadata on top."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ztcir_sdk.bundle import Manifest

__all__ = ["hub_card"]


def hub_card(manifest: Manifest) -> str:
    """Return the ``README.md`` of a bundle: what it is, how to use it, and its own model card."""
    card = manifest.model_card
    licences = sorted({str(one["licence"]) for one in _sources(card) if "licence" in one})
    head = [
        "---",
        "library_name: ztcir",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [composed-image-retrieval, image-search, onnx]",
        "license: other",
        f"license_name: {json.dumps(', '.join(licences) or 'see below')}",
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
        'retriever = Retriever.from_pretrained("hf://ORG/REPO")',
        'retriever.index("photos/", to="photos.ztcir")',
        'retriever.search("ref.jpg", "make it red")',
        "```",
        "",
        f"Methods: {', '.join(manifest.methods)}. Made with ztcir {manifest.ztcir}.",
    ]
    return "\n".join([*head, *_sections(card)]) + "\n"


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
    rest = {key: card[key] for key in ("quality", "stages", "backbone") if card.get(key)}
    for name, values in rest.items():
        yield from ("", f"## {name.title()}", "", "```json")
        yield json.dumps(values, indent=1)
        yield "```"
