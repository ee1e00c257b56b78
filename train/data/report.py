"""What of a collection could not be used: counted, the first of it named, never lost in silence."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["ReadReport", "caption_notes", "script_of"]

_NAMED = 10  # samples that a sentence names


@dataclass
class ReadReport:
    """What happened while a collection was read."""

    read: int = 0
    """Samples that can be used."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Names of samples that cannot, and why."""
    notes: list[str] = field(default_factory=list)
    """Sentences on whole files: a shard that is cut short, captions that say nothing."""

    def skip(self, name: str, why: object) -> None:
        """Note a sample that cannot be used."""
        said = f"no {why.args[0]!r}" if isinstance(why, KeyError) and why.args else str(why)
        self.skipped.append((name, said or type(why).__name__))

    def sentences(self) -> list[str]:
        """All of it for a person to read, one sentence each."""
        said = list(self.notes)
        if self.skipped:
            some = ", ".join(f"{name} ({why})" for name, why in self.skipped[:_NAMED])
            more = ", ..." if len(self.skipped) > _NAMED else ""
            said.append(f"Skipped {len(self.skipped)} broken samples: {some}{more}")
        return said


def caption_notes(captions: Iterable[str]) -> list[str]:
    """Sentences on captions that teach an English text encoder nothing: empty, another script."""
    count, kinds = 0, Counter[str]()
    for caption in captions:
        count += 1
        kinds["empty" if not caption.strip() else script_of(caption)] += 1
    notes = []
    if kinds["empty"]:
        which = (
            "No caption says anything"
            if kinds["empty"] == count
            else (f"{kinds['empty']} of {count} captions are empty")
        )
        notes.append(f"{which}; those images train without one.")
    foreign = {name: number for name, number in kinds.items() if name not in ("empty", "LATIN")}
    if foreign:
        names = ", ".join(f"{name.title()} {number}" for name, number in sorted(foreign.items()))
        notes.append(
            f"{sum(foreign.values())} of {count} captions are in another script than Latin "
            f"({names}): most CLIP text encoders know little of it; translate them, or use a "
            "multilingual backbone."
        )
    return notes


def script_of(caption: str) -> str:
    """The script of most of a caption's letters, as Unicode names begin; Latin if it has none."""
    if caption.isascii():
        return "LATIN"
    scripts = Counter(
        unicodedata.name(letter, "UNKNOWN").split(" ")[0] for letter in caption if letter.isalpha()
    )
    return max(scripts, key=lambda name: (scripts[name], name)) if scripts else "LATIN"
