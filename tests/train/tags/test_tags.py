"""Tags of pictures by a word bank, and the triplets that they give, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from train.data import DataError
from train.tags import (
    Tags,
    TagTriplets,
    WordGroup,
    default_groups,
    read_groups,
    tag_captions,
    tag_pictures,
)
from train.tags.bank import with_groups, words_that_do_not_fit
from train.tags.tagging import TagGroup
from ztcir_sdk.evaluation.triplets import Triplet

THINGS = WordGroup("objects", ("shirt", "shoes", "watch"))
COLOURS = WordGroup("colours", ("red", "blue"))
WIDTH = 32


def _axes(count: int, first: int) -> NDArray[np.float32]:
    return np.eye(WIDTH, dtype=np.float32)[first : first + count]


def _prompts(
    words: NDArray[np.float32], rng: np.random.Generator, *, noise: float = 0.02
) -> NDArray[np.float32]:
    """Return five prompts of each word (K, D): its own direction and what the prompt adds."""
    shift = rng.normal(0, 0.3, (1, 5, WIDTH))
    found = words[:, None] + shift + rng.normal(0, noise, (len(words), 5, WIDTH))
    unit: NDArray[np.float32] = (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(
        np.float32
    )
    return unit


def _collection(
    rng: np.random.Generator, count: int = 240
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return pictures (M, D) that show a thing in a colour, with the places of both words."""
    things, colours = rng.integers(3, size=count), rng.integers(2, size=count)
    own = _axes(3, 0)[things] + 0.7 * _axes(2, 3)[colours]
    own = own + rng.normal(0, 0.08, own.shape)
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    return unit.astype(np.float32), things, colours


@pytest.fixture
def tagged() -> tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    embeds, things, colours = _collection(rng)
    prompts = [_prompts(_axes(3, 0), rng), _prompts(_axes(2, 3), rng)]
    return embeds, tag_pictures(embeds, [THINGS, COLOURS], prompts), things, colours


class TestBank:
    def test_the_built_in_words_are_distinct_and_of_all_kinds(self) -> None:
        groups = {group.kind: group.words for group in default_groups()}
        assert list(groups) == [
            *("objects", "people", "colours", "patterns", "materials", "scenes", "times")
        ]
        for words in groups.values():
            assert len(set(words)) == len(words) > 1

    def test_a_file_names_kinds_of_words_in_any_script(self, tmp_path: Path) -> None:
        file = tmp_path / "words.txt"
        file.write_text("# mine\nteapot, cup\n[colours]\n赤い、青い\nred\n", encoding="utf-8")
        general, colours = read_groups(file)
        assert general == WordGroup("words", ("teapot", "cup"))
        assert colours == WordGroup("colours", ("赤い", "青い", "red"))

    @pytest.mark.parametrize("text", ["", "# nothing", "[colours]\nred", "one"])
    def test_a_kind_with_one_word_is_refused(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "words.txt"
        file.write_text(text)
        with pytest.raises(DataError, match="fewer than 2 words"):
            read_groups(file)

    def test_a_file_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="needs a text file in UTF-8"):
            read_groups(tmp_path / "words.txt")

    def test_words_of_a_known_kind_are_added_to_it(self) -> None:
        more = [WordGroup("colours", ("blue", "mauve")), WordGroup("moods", ("sad", "gay"))]
        assert with_groups([COLOURS], more) == (
            WordGroup("colours", ("red", "blue", "mauve")),
            more[1],
        )

    def test_words_that_a_tokenizer_cannot_hold_are_named(self) -> None:
        kept, lost = words_that_do_not_fit([THINGS, COLOURS], lambda word: word[0] != "s")
        assert lost == ("shirt", "shoes")
        assert kept == (COLOURS,)


class TestTags:
    def test_pictures_get_the_words_of_what_they_show(
        self, tagged: tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]
    ) -> None:
        _, tags, things, colours = tagged
        assert [group.kind for group in tags.groups] == ["objects", "colours"]
        for group, truth in zip(tags.groups, (things, colours), strict=True):
            sure = group.tags >= 0
            assert sure.mean() > 0.8
            assert (group.tags[sure] == truth[sure]).all()

    def test_words_whose_prompts_disagree_are_not_used(self) -> None:
        """A backbone that does not know a word places it by the rest of the prompt."""
        rng = np.random.default_rng(0)
        embeds, *_ = _collection(rng)
        unknown = rng.normal(0, 1, (2, 5, WIDTH)).astype(np.float32)
        unknown /= np.linalg.norm(unknown, axis=2, keepdims=True)
        tags = tag_pictures(embeds, [COLOURS], [unknown])
        assert tags.groups == ()
        assert "confident tag" in tags.silent["colours"]

    def test_photos_of_one_thing_only_give_no_tags(self) -> None:
        rng = np.random.default_rng(0)
        embeds, things, _ = _collection(rng)
        tags = tag_pictures(embeds[things == 0], [THINGS], [_prompts(_axes(3, 0), rng)])
        assert tags.silent == {"objects": "all pictures have the tag 'shirt'"}

    def test_captions_say_what_is_sure(
        self, tagged: tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]
    ) -> None:
        embeds, tags, things, colours = tagged
        captions = tag_captions(len(embeds), tags)
        both = (tags.groups[0].tags >= 0) & (tags.groups[1].tags >= 0)
        row = int(np.flatnonzero(both)[0])
        assert captions[row] == f"{COLOURS.words[colours[row]]} {THINGS.words[things[row]]}"


class TestTriplets:
    def make(
        self, tagged: Sequence[object], count: int = 60, **options: bool
    ) -> tuple[list[str], list[Triplet]]:
        embeds, tags = tagged[0], tagged[1]
        assert isinstance(embeds, np.ndarray)
        assert isinstance(tags, Tags)
        ids = [f"{number}.jpg" for number in range(len(embeds))]
        return ids, list(TagTriplets(ids, embeds, tags).make(count, seed=3, **options))

    def test_one_tag_changes_and_the_others_stay(
        self, tagged: tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]
    ) -> None:
        _, _, things, colours = tagged
        ids, triplets = self.make(tagged)
        assert len(triplets) == 60
        place = {name: number for number, name in enumerate(ids)}
        for triplet in triplets:
            changed, kept = (
                (things, colours) if triplet.kind == "tag-objects" else (colours, things)
            )
            reference = place[triplet.reference]
            new = {int(changed[place[name]]) for name in triplet.targets}
            assert len(new) == 1
            assert int(changed[reference]) not in new
            assert {int(kept[place[name]]) for name in triplet.targets} == {int(kept[reference])}

    def test_what_measures_is_chosen_by_tags_and_not_by_nearness(
        self, tagged: tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]
    ) -> None:
        _, tags, *_ = tagged
        ids, triplets = self.make(tagged, measure=True)
        assert len(triplets) == 60
        place = {name: number for number, name in enumerate(ids)}
        known = {group.kind: group.tags for group in tags.groups}
        for triplet in triplets:
            changed = triplet.kind.removeprefix("tag-")
            kept = "colours" if changed == "objects" else "objects"
            reference, target = place[triplet.reference], place[triplet.targets[0]]
            right = (known[changed] == known[changed][target]) & (
                known[kept] == known[kept][reference]
            )
            assert {place[name] for name in triplet.targets} == set(np.flatnonzero(right))

    def test_the_wording_names_the_new_word(
        self, tagged: tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]
    ) -> None:
        _, triplets = self.make(tagged)
        texts = [one.text for one in triplets if one.kind == "tag-objects"]
        named = [any(word[:4] in text for word in THINGS.words) for text in texts]
        assert np.mean(named) > 0.8  # others use a synonym

    def test_the_same_seed_gives_the_same_triplets(
        self, tagged: tuple[NDArray[np.float32], Tags, NDArray[np.int64], NDArray[np.int64]]
    ) -> None:
        assert self.make(tagged) == self.make(tagged)
        assert self.make(tagged) != self.make(tagged, held_out=True)

    def test_a_picture_is_not_led_to_its_copy(self) -> None:
        """Copies with another tag are errors of the tags."""
        embeds = np.tile(_axes(1, 0), (20, 1))
        tags = Tags((TagGroup(COLOURS, _axes(2, 3), np.arange(20) % 2),), {})
        assert TagTriplets([str(n) for n in range(20)], embeds, tags).make(9, seed=0) == []

    def test_words_in_another_script_get_no_english_sentence(self) -> None:
        rng = np.random.default_rng(0)
        embeds, *_ = _collection(rng)
        group = WordGroup("colours", ("赤い", "青い"))
        tags = tag_pictures(embeds, [group], [_prompts(_axes(2, 3), rng)])
        triplets = TagTriplets([str(n) for n in range(len(embeds))], embeds, tags).make(40, seed=0)
        assert triplets
        for triplet in triplets:
            left = triplet.text.replace("赤い", "").replace("青い", "")
            assert not any(character.isalpha() for character in left), triplet.text
