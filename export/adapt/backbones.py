"""The backbone that a collection is adapted to: of a bundle, a checkpoint, or open_clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import open_clip

from export.bundled_backbone import bundled_backbone
from train.model import Backbone, check_backbone, load_backbone
from train.model.checkpoint import is_checkpoint
from ztcir_sdk.bundle import MANIFEST, Bundle, embedded_names
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.hub import HUB_PREFIX, load_model
from ztcir_sdk.names import DEFAULT_BUNDLE

__all__ = ["Source", "find_backbone"]


@dataclass(frozen=True)
class Source:
    """A backbone that is there, but not loaded yet.

    Attributes:
        spec: what `load_backbone` takes, if it is not in the graphs of a bundle.
        bundle: the bundle that has it in its graphs.
    """

    spec: str
    bundle: Bundle | None = None

    def load(self, work: Path) -> tuple[Backbone, str]:
        """Return the backbone, and what `load_backbone` takes; a bundle's is written to a folder.

        Raises:
            ZtcirError: the backbone cannot be loaded, or it differs from the bundle's graphs.
        """
        spec = self.spec
        if self.bundle is not None:
            folder = work / "backbone"
            spec = str(folder if is_checkpoint(folder) else bundled_backbone(self.bundle, folder))
        return load_backbone(spec)[0], spec


def find_backbone(name: str) -> Source:
    """Find a backbone, without loading it.

    A bundle's backbone is read back from its graphs, if it is ``fashion-lite``; else it is the
    open_clip model whose name and tag its model card has.

    Args:
        name: the name of a bundle in the package or on the hub, or its folder; the folder of a
            checkpoint; or "NAME:PRETRAINED" of open_clip.

    Raises:
        ZtcirError: there is no such backbone, or it cannot be read back.
    """
    named = name in embedded_names() or name.startswith(HUB_PREFIX)
    if not named and not (Path(name) / MANIFEST).is_file():
        check_backbone(name)
        return Source(name)
    bundle = load_model(name)
    described = bundle.manifest.model_card.get("backbone")
    card = described if isinstance(described, dict) else {}
    model, tag = str(card.get("model", "")), card.get("pretrained")
    if model == DEFAULT_BUNDLE:
        return Source(name, bundle)
    if isinstance(tag, str) and tag in open_clip.list_pretrained_tags_by_model(model):
        return Source(f"{model}:{tag}")
    raise ZtcirError(
        f"The backbone of the bundle {name} ({model or 'not recorded'}) cannot be read back from "
        "its graphs: name its checkpoint, or NAME:PRETRAINED of open_clip, with --backbone."
    )
