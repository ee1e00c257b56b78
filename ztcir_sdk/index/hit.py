"""An image that a search found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ztcir_sdk.index.items import Item
from ztcir_sdk.index.manifest import IndexUnusableError

__all__ = ["Hit"]


@dataclass(frozen=True)
class Hit:
    """An image that a search found."""

    path: str
    """Absolute; ``/.../shard.tar/key.jpg`` for an image in an archive."""
    score: float
    """Cosine similarity to the query, from -1 to 1."""
    rank: int
    """1 for the nearest."""
    metadata: dict[str, Any] | None = None
    """The image's JSON object in the index, if it has one."""
    duplicates: tuple[str, ...] = ()
    """Paths of the copies and near-duplicates that it stands for, in a search with `unique`: all
    that satisfy the filter, the nearest first, at most 1000. A reference of the query is none, and
    what is the same as several hits belongs to the first."""
    asked: str | None = field(default=None, repr=False, compare=False)
    """Modification text that it was found with; `Reference.refine` keeps it. Not in `to_dict`."""
    root: str = field(default="", repr=False, compare=False)
    """The collection's folder; pages show no image outside of it. Not in `to_dict`."""

    content_hash: str = field(default="", repr=False, compare=False)
    """SHA-256 (hex) of the image's bytes; the service calls it `id`."""

    @classmethod
    def from_item(
        cls, item: Item, root: Path, score: float, rank: int, duplicates: tuple[str, ...] = ()
    ) -> Hit:
        """Describe an index's item, whose path is relative to `root`."""
        if not math.isfinite(score):
            raise IndexUnusableError(
                f"The vector of {item.path} in the index is damaged; delete the index and index "
                "the collection again."
            )
        metadata = None if item.metadata is None else dict(item.metadata)
        return cls(
            str(root / item.path),
            score,
            rank,
            metadata,
            duplicates,
            root=str(root),
            content_hash=item.content_hash,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; "duplicates" only where there are some."""
        values = asdict(self)
        del values["asked"], values["root"]
        if self.duplicates:
            return {**values, "duplicates": list(self.duplicates)}
        del values["duplicates"]
        return values
