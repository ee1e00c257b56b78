"""The word bank: kinds of words, such as colours, that exclude each other in a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.data import DataError

__all__ = ["GENERAL", "WordGroup", "default_groups", "read_groups", "words_that_do_not_fit"]

BANK = Path(__file__).parent / "words.txt"
GENERAL = "words"
"""Kind of the words of a file that has no line such as ``[colours]``."""

PLAIN_PROMPTS: Mapping[str, tuple[str, ...]] = {
    "objects": ("{}", "a photo of {}", "a picture of {}", "a black {}", "a white {}"),
    "people": ("{}", "for {}", "a photo of {}"),
    "colours": ("{}", "a photo of {}", "a {} thing"),
    "patterns": ("{}", "a photo of {}", "a {} thing"),
    "materials": ("{}", "a photo of {}", "a {} thing"),
    "scenes": ("{}", "a photo taken {}", "a picture {}"),
    "times": ("{}", "a photo taken {}", "a picture {}"),
}
"""Kind -> texts in which a word is tried."""
CARRYING_PROMPTS: Mapping[str, str] = {
    "people": "{object} for {}",
    "colours": "a {} {object}",
    "patterns": "a {} {object}",
    "materials": "a {} {object}",
    "scenes": "a {object} {}",
    "times": "a {object} {}",
}
"""Kind -> a text in which a word is tried with objects that the pictures show."""
UNNAMED_PROMPTS = ("{}", "a photo of {}", "a picture of {}", "{}.", "photo: {}")
CARRIERS = 6  # objects
OBJECTS = "objects"


@dataclass(frozen=True)
class WordGroup:
    """Words of which a picture has at most one.

    Attributes:
        kind: name of the group, such as "colours".
        words: distinct words, at least two.
    """

    kind: str
    words: tuple[str, ...]

    def prompts(self, objects: Sequence[str] = ()) -> list[list[str]]:
        """Return texts with each word; the same number for each.

        Args:
            objects: what the pictures show most often; words are also tried with them.
        """
        forms = list(PLAIN_PROMPTS.get(self.kind, UNNAMED_PROMPTS))
        if (carrying := CARRYING_PROMPTS.get(self.kind)) is not None:
            forms += [carrying.replace("{object}", one) for one in objects[:CARRIERS]]
        return [[form.replace("{}", word) for form in forms] for word in self.words]


def default_groups() -> tuple[WordGroup, ...]:
    """Return the built-in word bank: objects, people, colours, patterns, materials, scenes, times.

    It is written for photos of any kind.
    """
    return read_groups(BANK)


def read_groups(path: Path) -> tuple[WordGroup, ...]:
    """Read a word bank: words, one on a line or separated by commas, below lines such as [colours].

    Words above the first such line are of the kind "words". Lines that begin with # are comments.

    Raises:
        DataError: the file cannot be read, or a group has fewer than two words.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The words {path} cannot be read ({error}); --words needs a text file in UTF-8."
        ) from error
    kind, words = GENERAL, dict[str, list[str]]()
    for line in map(str.strip, lines):
        if line.startswith("[") and line.endswith("]"):
            kind = " ".join(line[1:-1].split()).lower() or GENERAL
        elif not line.startswith("#"):
            found = (" ".join(word.split()) for word in line.replace("\u3001", ",").split(","))
            words.setdefault(kind, []).extend(word for word in found if word)
    groups = tuple(
        WordGroup(kind, tuple(dict.fromkeys(some))) for kind, some in words.items() if some
    )
    few = [group.kind for group in groups if len(group.words) < 2]
    if few or not groups:
        of = f"the group [{few[0]}] of {path}" if few else f"The file {path}"
        raise DataError(
            f"{of[0].upper()}{of[1:]} has fewer than 2 words, but tags are chosen among several: "
            "add words, one on a line."
        )
    return groups


def with_groups(groups: Sequence[WordGroup], more: Sequence[WordGroup]) -> tuple[WordGroup, ...]:
    """Return some groups and more; words of a kind that both have come together."""
    words = {group.kind: group.words for group in groups}
    for group in more:
        words[group.kind] = tuple(dict.fromkeys((*words.get(group.kind, ()), *group.words)))
    return tuple(WordGroup(kind, some) for kind, some in words.items())


def words_that_do_not_fit(
    groups: Sequence[WordGroup], fits: Callable[[str], bool]
) -> tuple[tuple[WordGroup, ...], tuple[str, ...]]:
    """Return the groups without the words that a tokenizer cannot hold, and these words.

    Args:
        groups: the word bank.
        fits: whether a tokenizer holds a text without unknown or cut parts.
    """
    lost = tuple(word for group in groups for word in group.words if not fits(word))
    kept = (
        WordGroup(group.kind, tuple(word for word in group.words if word not in lost))
        for group in groups
    )
    return tuple(group for group in kept if len(group.words) > 1), lost
