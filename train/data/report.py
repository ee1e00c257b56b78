"""Report of what could not be read from a collection: everything is counted, nothing is silent."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

NAMED_SAMPLES = 10
"""A report names this many broken samples and counts the others."""


@dataclass
class ReadReport:
    """What happened while a collection was read."""

    read: int = 0
    """Number of usable samples."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Unusable samples: name and reason."""
    notes: list[str] = field(default_factory=list)
    """Sentences about whole files, such as a shard that is cut short."""

    def skip(self, name: str, reason: object) -> None:
        """Record an unusable sample."""
        missing_field = isinstance(reason, KeyError) and reason.args
        text = f"no {reason.args[0]!r}" if missing_field else str(reason)  # type: ignore[attr-defined]
        self.skipped.append((name, text or type(reason).__name__))

    def add(self, other: ReadReport) -> None:
        """Add what happened while a part of the collection was read; ``read`` stays unchanged."""
        self.skipped += other.skipped
        self.notes += other.notes

    def sentences(self) -> list[str]:
        """Return the report as sentences for a person."""
        sentences = list(self.notes)
        if self.skipped:
            named = ", ".join(f"{name} ({why})" for name, why in self.skipped[:NAMED_SAMPLES])
            more = ", ..." if len(self.skipped) > NAMED_SAMPLES else ""
            sentences.append(f"Skipped {len(self.skipped)} broken samples: {named}{more}")
        return sentences


def print_notes(sentences: Iterable[str], prefix: str = "") -> None:
    """Print sentences on standard error, one per line, each after a prefix."""
    for sentence in sentences:
        print(f"{prefix}{sentence}", file=sys.stderr, flush=True)


def caption_notes(captions: Iterable[str]) -> list[str]:
    """Return sentences about captions that an English text encoder cannot learn from.

    These are empty captions, and captions in another script than Latin.
    """
    count, kinds = 0, Counter[str]()
    for caption in captions:
        count += 1
        kinds["empty" if not caption.strip() else main_script(caption)] += 1
    notes = []
    if empty := kinds.pop("empty", 0):
        which = "All captions are" if empty == count else f"{empty} of {count} captions are"
        notes.append(f"{which} empty; those images train without a caption.")
    kinds.pop("LATIN", None)
    if kinds:
        names = ", ".join(f"{name.title()} {number}" for name, number in sorted(kinds.items()))
        notes.append(
            f"{kinds.total()} of {count} captions are in another script than Latin ({names}), "
            "which most CLIP text encoders hardly know; translate them, or use a multilingual "
            "backbone."
        )
    return notes


def main_script(caption: str) -> str:
    """Return the script of most letters, as in Unicode names ("LATIN"); Latin without letters."""
    if caption.isascii():
        return "LATIN"
    scripts = Counter(
        unicodedata.name(letter, "UNKNOWN").split(" ")[0] for letter in caption if letter.isalpha()
    )
    return max(scripts, key=lambda name: (scripts[name], name)) if scripts else "LATIN"
