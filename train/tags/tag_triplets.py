"""Stage II triplets from tags: near pictures that differ in a tag, and a wording that names it.

A target has another confident tag of one kind than the reference, and contradicts it in no other
kind. It also has to be shown to be alike: by the same confident tags in all other kinds, or by
being near once the change is taken out of both embeddings.

What measures is chosen by tags alone. If targets had to be near, whatever stays near would look
good: the image alone, and its sum with a text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from train.data import main_script
from train.tags.bank import OBJECTS
from train.tags.tagging import UNSURE, TagGroup, Tags
from train.triplets.tempered_draw import draw_index, tempered_edges
from train.wordings import attribute_wording, phrase_wording
from train.wordings.surface_forms import add_article
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.names import NEAR_DUPLICATE

__all__ = ["ATTRIBUTES", "TAGGED", "TagTriplets"]

TAGGED = "tag-"
"""Kinds of triplets made from tags begin with this."""
ATTRIBUTES: Mapping[str, str] = {
    "objects": "type",
    "people": "gender",
    "colours": "colour",
    "patterns": "pattern",
}
"""Kind of words -> the attribute whose wordings it is asked with."""
_SHAPES: Mapping[str, str] = {"materials": "quality", "scenes": "place", "times": "place"}
_PHRASED = 0.3  # share of attributes' changes that are asked as phrases
_PHRASE_SHAPES: Mapping[str, str] = {
    "objects": "thing",
    "colours": "quality",
    "patterns": "quality",
    "materials": "quality",
}
_PLAIN = ("{new}", "{new}", "+ {new}", "{new}!", "{old} -> {new}", "- {old} + {new}")
"""Wordings of words in other scripts, which English sentences would not fit."""
_NAMED = ("objects", "colours", "patterns", "materials", "people")
"""Kinds that have a place of their own in a caption."""

MAX_TARGETS = 32
POOL = 20_000  # pictures at most; more make triplets slower, and few triplets are enough
_NEAR = 0.999  # quantile of the similarity of pictures drawn at random
_FEW_NEAR = 3  # a small collection has a lower one, so that a picture has some near ones,
_MIN_NEAR = 0.99  # but not below this
_CHUNK = 256  # references at a time
_PER_REFERENCE = 3  # changes tried at once
_ROUNDS = 20  # passes over the references at most


@dataclass
class TagTriplets:
    """Makes triplets of tagged pictures.

    Attributes:
        ids: (M) ids of the pictures.
        embeds: (M, D) their embeddings, L2-normalised.
        tags: their tags.
        seed: of the choice of pictures, if there are more than `POOL`.
    """

    ids: Sequence[str]
    embeds: NDArray[np.float32]
    tags: Tags
    seed: int = 0
    _near: float = field(init=False)
    _rows: NDArray[np.int64] = field(init=False)
    _scores: list[NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 7])
        tagged = np.zeros(len(self.ids), bool)
        for group in self.tags.groups:
            tagged |= group.tags >= 0
        rows = np.flatnonzero(tagged)
        if len(rows) > POOL:
            rows = np.sort(rng.choice(rows, POOL, replace=False))
        self._rows = rows
        own = self.embeds[rows]
        self._scores = [own @ group.embeds.T for group in self.tags.groups]
        if len(rows) > 1:
            some, others = rng.integers(len(rows), size=(2, 20_000))
            differ = some != others
            sims = (own[some[differ]] * own[others[differ]]).sum(axis=1)
            quantile = min(_NEAR, max(_MIN_NEAR, 1 - _FEW_NEAR / len(rows)))
            self._near = float(np.quantile(sims, quantile))

    def make(
        self, count: int, *, seed: int, held_out: bool = False, measure: bool = False
    ) -> list[Triplet]:
        """Make triplets; there are fewer if the pictures allow fewer, and none if they allow none.

        Each kind gets triplets by the square root of its number of confident tags.

        Args:
            count: number of triplets.
            seed: random seed.
            held_out: use the wordings that are never trained on.
            measure: targets are all pictures that have the new tag and share the object, or if that
                changes another tag, near or not; if there are other kinds of tags.
        """
        if not count or not self.tags.groups:
            return []
        rng = np.random.default_rng([seed, 8])
        found: list[Triplet] = []
        texts: set[tuple[str, str]] = set()
        for _ in range(_ROUNDS):
            before = len(found)
            wanted = count - len(found)
            for triplet in self._round(wanted, rng, held_out=held_out, measure=measure):
                key = triplet.reference, triplet.text
                if key not in texts:
                    texts.add(key)
                    found.append(triplet)
            if len(found) >= count or len(found) == before:
                break
        order = rng.permutation(len(found))[:count]
        return [found[place] for place in order]

    def _round(
        self, count: int, rng: np.random.Generator, *, held_out: bool, measure: bool
    ) -> Iterator[Triplet]:
        """Yield triplets of references that are drawn for each kind of change."""
        weights = np.sqrt([(group.tags[self._rows] >= 0).sum() for group in self.tags.groups])
        for number, weight in enumerate(weights / weights.sum()):
            wanted = -(-int(np.ceil(count * weight)) // _PER_REFERENCE)
            references = self._references(self.tags.groups[number], wanted, rng)
            for start in range(0, len(references), _CHUNK):
                chunk = references[start : start + _CHUNK]
                yield from self._changes(number, chunk, rng, held_out=held_out, measure=measure)

    def _references(
        self, group: TagGroup, count: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw references: a word by the square root of its pictures, then a picture of it."""
        tags = group.tags[self._rows]
        words = np.unique(tags[tags >= 0])
        tagged = [np.flatnonzero(tags == word) for word in words]
        edges = tempered_edges([len(own) for own in tagged])
        drawn = [tagged[draw_index(edges, rng)] for _ in range(count)]
        return np.array([own[rng.integers(len(own))] for own in drawn], np.int64)

    def _changes(
        self,
        number: int,
        references: NDArray[np.int64],
        rng: np.random.Generator,
        *,
        held_out: bool,
        measure: bool,
    ) -> Iterator[Triplet]:
        """Yield triplets of some references whose tag of one group changes."""
        own = self.embeds[self._rows]
        similar = own[references] @ own.T  # (B, M)
        group, scores = self.tags.groups[number], self._scores[number]
        tags = group.tags[self._rows]
        possible = (tags >= 0) & (tags != tags[references, None])
        possible &= similar < NEAR_DUPLICATE  # no words lead from a picture to itself
        others = [other for other in self.tags.groups if other is not group]
        has_objects = any(other.kind == OBJECTS for other in others)
        alike, shared = np.ones_like(possible), np.zeros_like(possible)
        for other in others:
            theirs = other.tags[self._rows]
            same = theirs == theirs[references, None]
            unsure = (theirs < 0) | (theirs[references, None] < 0)
            sure = same & ~unsure
            possible &= same | unsure
            alike &= sure
            if other.kind == OBJECTS or not has_objects:
                shared |= sure
        for place, reference in enumerate(references):
            candidates = np.flatnonzero(possible[place])
            if not len(candidates):
                continue
            new = tags[candidates]
            old = int(tags[reference])
            # the change is taken out of both: v - (v . d) d, with d from the old word to the new
            steps = group.embeds - group.embeds[old]
            lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-6)
            along = (scores[candidates, new] - scores[candidates, old]) / lengths[new]
            own_along = (scores[reference, new] - scores[reference, old]) / lengths[new]
            rest = similar[place, candidates] - along * own_along
            if measure and others:
                right = shared[place, candidates]
            else:
                right = alike[place, candidates] | (rest >= self._near)
            if not right.any():
                continue
            words, counts = np.unique(new[right], return_counts=True)
            edges = tempered_edges(counts)
            drawn = {draw_index(edges, rng) for _ in range(_PER_REFERENCE)}
            for word in (int(words[one]) for one in sorted(drawn)):
                rows = np.flatnonzero(right & (new == word))
                if not measure:
                    rows = rows[np.argsort(-rest[rows], kind="stable")][:MAX_TARGETS]
                targets = tuple(self.ids[self._rows[one]] for one in candidates[rows])
                text = self._text(number, int(reference), old, word, rng, held_out=held_out)
                name = f"{TAGGED}{group.kind}"
                yield Triplet(
                    f"{name}-{reference}-{word}", name, self._id(reference), text, targets
                )

    def _id(self, place: int) -> str:
        return self.ids[self._rows[place]]

    def _text(
        self,
        number: int,
        place: int,
        old: int,
        new: int,
        rng: np.random.Generator,
        *,
        held_out: bool,
    ) -> str:
        group = self.tags.groups[number].group
        before, after = group.words[old], group.words[new]
        if {main_script(before), main_script(after)} != {"LATIN"}:
            plain = _PLAIN[int(rng.integers(len(_PLAIN)))]
            return plain.replace("{new}", after).replace("{old}", before)
        attribute = ATTRIBUTES.get(group.kind)
        phrased = group.kind in _PHRASE_SHAPES and rng.random() < _PHRASED
        if attribute is not None and not phrased:
            kept = self._kept(place)
            return attribute_wording(
                attribute, before, after, rng, held_out=held_out, kept=kept
            ).text
        shape = _SHAPES.get(group.kind, _PHRASE_SHAPES.get(group.kind, "thing"))
        if group.kind == "objects":
            before, after = (_with_article(word) for word in (before, after))
        return phrase_wording("swap", shape, before, after, rng, held_out=held_out).text

    def _kept(self, place: int) -> dict[str, str]:
        """Return the attributes of a reference that its confident tags name."""
        row = self._rows[place]
        return {
            ATTRIBUTES[group.kind]: group.group.words[group.tags[row]]
            for group in self.tags.groups
            if group.kind in ATTRIBUTES and group.tags[row] != UNSURE
        }


def _with_article(word: str) -> str:
    """Return "an apple" for "apple"; several things keep their plural."""
    if word.endswith("s") and not word.endswith("ss"):
        return word
    return add_article(word)


def tag_captions(count: int, tags: Tags) -> list[str]:
    """Return what the confident tags of each picture (M) say, as a caption; "" where they are few.

    A caption names the object, with what is known beside it: "red shirt for women, at the beach".
    """
    words: dict[str, list[str]] = defaultdict(lambda: [""] * count)
    for group in tags.groups:
        words[group.kind] = [group.group.words[k] if k >= 0 else "" for k in group.tags]
    captions = []
    for row in range(count):
        thing = words["objects"][row]
        before = (words[kind][row] for kind in ("colours", "patterns", "materials"))
        people = words["people"][row]
        parts = [*before, thing, f"for {people}" if people and thing else people]
        others = [words[kind][row] for kind in words if kind not in _NAMED]
        caption = ", ".join(filter(None, [" ".join(filter(None, parts)), *others]))
        captions.append(caption if len(caption.split()) > 1 else "")
    return captions
