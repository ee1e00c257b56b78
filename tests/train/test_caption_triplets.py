"""Triplets from captions: the captions differ in one phrase, and ambiguous pairs are left out."""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cli.main import main
from cli.triplets import triplets as triplets_command
from train.data import Item
from train.triplets import mine_captions
from train.triplets.caption_pairs import CaptionPairs, Tokens, tokens
from train.wordings import CHANGES, SHAPES, phrase_families, phrase_wording
from train.wordings.attribute_wordings import readings, skeleton
from train.wordings.phrase_wordings import HELD_OUT_PHRASE_FAMILIES
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets


def items(*captions: str) -> list[Item]:
    return [Item(f"i{number}", "", "", "", None, said) for number, said in enumerate(captions)]


def scenes() -> list[Item]:
    """Captions of things with colours and places; some captions have no place."""
    return items(
        *(
            f"a {colour} {thing} {place}"
            for colour in ("red", "blue", "green", "orange")
            for thing in ("car", "bus", "boat", "house")
            for place in ("in the snow", "at the beach", "near a forest", "under a bridge")
        ),
        *(f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("car", "boat")),
    )


words = st.sampled_from(["a", "red", "blue", "car", "bus", "in", "snow"])
some_captions = st.lists(
    st.lists(words, min_size=1, max_size=6).map(tuple), max_size=12, unique=True
)


def pairs_by_comparison(captions: list[Tokens]) -> set[tuple[Tokens, Tokens]]:
    """Return the pairs of captions of at least three words that differ in at most three words."""
    found = set()
    for a, b in itertools.permutations([c for c in captions if len(c) >= 3], 2):
        for head in range(min(len(a), len(b)) + 1):
            for tail in range(min(len(a), len(b)) - head + 1):
                same = a[:head] == b[:head] and a[len(a) - tail :] == b[len(b) - tail :]
                longest = max(len(a), len(b)) - head - tail
                if same and head + tail and 0 < longest <= 3:
                    found.add((a, b))
    return found


@given(some_captions, st.integers(0, 100))
def test_drawn_pairs_are_all_that_differ_in_one_phrase(captions: list[Tokens], seed: int) -> None:
    pairs = CaptionPairs(captions)
    expected = pairs_by_comparison(captions)
    assert bool(pairs) >= bool(expected)
    rng = np.random.default_rng(seed)
    drawn = set()
    for _ in range(400 if pairs else 0):
        if (found := pairs.draw(rng)) is not None:
            before, after, edit = found
            assert captions[before] == edit.before != edit.after == captions[after]
            kept = edit.before[edit.start + len(edit.old) :]
            assert edit.before[: edit.start] + edit.new + kept == edit.after
            drawn.add((captions[before], captions[after]))
    assert drawn <= expected
    if len(expected) <= 6:
        assert drawn == expected


def test_tokens_are_lower_case_words_without_punctuation() -> None:
    assert tokens("A woman's  T-shirt, (red) № 5!") == ("a", "woman's", "t-shirt", "red", "5")
    assert tokens(" -- ") == ()


def words_of(item: Item) -> Tokens:
    return tokens(item.caption)


def test_the_text_of_a_triplet_names_the_phrase_that_changes() -> None:
    pool = scenes()
    by_id = {item.id: item for item in pool}
    made, mining = mine_captions(pool, seed=0, limit=400)
    assert len(made) == 400
    assert mining.captions == len(pool)
    assert {t.kind for t in made} == set(CHANGES)
    for triplet in made:
        reference, target = (by_id[name] for name in (triplet.reference, triplet.targets[0]))
        gone = Counter(words_of(reference)) - Counter(words_of(target))
        come = Counter(words_of(target)) - Counter(words_of(reference))
        assert sum(gone.values()) <= 3
        assert sum(come.values()) <= 3
        assert (triplet.kind == "add") == (not gone)
        assert (triplet.kind == "remove") == (not come)
        content = {w for w in come if w not in {"a", "the", "in", "at", "near", "under"}}
        assert all(re.search(rf"\b{w}\b", triplet.text) for w in content), triplet.text
        assert triplet.text == triplet.text.lower() == " ".join(triplet.text.split())
        assert not re.search(r"[{}|]", triplet.text)
        assert "a orange" not in triplet.text
    assert len({(t.reference, t.text) for t in made}) == 400
    assert len({t.text for t in made}) > 250


def test_no_template_dominates_the_texts() -> None:
    made, _ = mine_captions(scenes(), seed=1, limit=400)
    names = "red|blue|green|orange|car|bus|boat|house|snow|beach|forest|bridge"
    skeletons = Counter(re.sub(rf"\b({names})\b", "X", t.text) for t in made)
    assert len(skeletons) > 120
    assert max(skeletons.values()) < 0.15 * len(made)


def test_an_equal_seed_gives_equal_triplets_and_a_smaller_limit_the_first_ones() -> None:
    pool = scenes()
    made, _ = mine_captions(pool, seed=3, limit=60)
    assert mine_captions(pool, seed=3, limit=60)[0] == made
    assert mine_captions(pool, seed=3, limit=20)[0] == made[:20]
    assert mine_captions(pool, seed=4, limit=60)[0] != made


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("a red car in the snow", "the red car in the snow", "the phrase has only small words"),
        ("a red car in 1999 there", "a red car in 2005 there", "number or a code"),
        ("nike air max ii shoe", "nike air max iii shoe", "number or a code"),
        ("a grey dress for women", "a gray dress for women", "near-duplicate"),
        ("long summer dress for women", "long summer dresses for women", "near-duplicate"),
        ("a beautiful red dress", "a beautifull red dress", "near-duplicate"),
        ("a car", "a large old wooden boat", "no two differ"),
        ("red car red boat", "blue car red boat", "occurs twice"),
        (
            "a red car parked outside",
            "a red car in rain outside",
            "only one of the phrases",
        ),
        ("a red car there", "a big old red car there", None),
    ],
)
def test_a_bad_pair_is_rejected_with_a_reason(first: str, second: str, why: str | None) -> None:
    good = ("a wooden chair in a garden", "a wooden table in a garden")
    made, mining = mine_captions(items(first, second, *good), seed=0, limit=40)
    ids = {name for t in made for name in (t.reference, *t.targets)}
    if why is None:
        assert {"i0", "i1"} & ids
    else:
        assert ids == {"i2", "i3"}
        reasons = " ".join(mining.rejected)
        assert why in reasons or why == "no two differ"


def test_captions_with_the_same_words_count_as_one() -> None:
    pool = items("red car in snow", "car red in snow", "blue car in snow")
    made, mining = mine_captions(pool, seed=0, limit=6)
    assert mining.captions == 2
    both = [t for t in made if t.reference == "i2"]
    assert both
    assert all(set(t.targets) == {"i0", "i1"} for t in both)


def test_all_images_with_the_target_caption_are_targets_unless_they_are_too_many() -> None:
    pool = items(*["a red car in snow"] * 3, *["a blue car in snow"] * 21, "a tan car in snow")
    made, mining = mine_captions(pool, seed=0, limit=6)
    assert mining.left_out == {"a caption of too many images": 21}
    assert {t.targets for t in made if t.reference == "i24"} == {("i0", "i1", "i2")}


def test_images_without_a_usable_caption_are_left_out() -> None:
    pool = items("", "a red car here", "a blue car here", "красная машина в снегу", "!")
    made, mining = mine_captions(pool, seed=0, limit=2)
    assert {name for t in made for name in (t.reference, *t.targets)} == {"i1", "i2"}
    assert mining.left_out == {"no caption": 2, "another script": 1}
    with pytest.raises(ZtcirError, match="differ in one usable phrase"):
        mine_captions(pool[:2], seed=0, limit=2)
    foreign = items("красная машина на снегу", "синяя машина на снегу", "")
    with pytest.raises(ZtcirError, match=r"left out: 2 \(another script\), 1 \(no caption\)\)"):
        mine_captions(foreign, seed=0, limit=2)
    with pytest.raises(UsageError, match="from 0 to 1"):
        mine_captions(pool, seed=0, limit=2, noise=2)
    with pytest.raises(UsageError, match="must not be negative"):
        mine_captions(pool, seed=0, limit=-1)


def test_near_duplicates_are_not_a_pair() -> None:
    pool = items("a red car here", "a blue car here", "a green car here")
    shades = {"i0": (200, 0, 0), "i1": (200, 1, 0), "i2": (0, 200, 0)}
    pictures = {
        name: (lambda shade=shade: Image.new("RGB", (20, 20), shade))
        for name, shade in shades.items()
    }
    made, mining = mine_captions(pool, seed=0, limit=12, pictures=pictures)
    drawn = {frozenset((t.reference, *t.targets)) for t in made}
    assert drawn == {frozenset(("i0", "i2")), frozenset(("i1", "i2"))}
    assert mining.rejected["the images are near-duplicates"] > 0


def test_noise_gives_wrong_targets() -> None:
    pool = scenes()
    clean, _ = mine_captions(pool, seed=5, limit=40)
    noisy, _ = mine_captions(pool, seed=5, limit=40, noise=0.5)
    spoilt = [(c, n) for c, n in zip(clean, noisy, strict=True) if c != n]
    assert len(spoilt) == 20
    assert not any({*n.targets} & {*c.targets, c.reference} for c, n in spoilt)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_training_texts_never_have_held_out_wordings(change: str, shape: str) -> None:
    def keys(held_out: bool) -> set[str]:
        return {
            skeleton(reading)
            for family in phrase_families(change, shape, held_out=held_out)
            for template in family.templates
            for reading in readings(template)
        }

    assert len(keys(False)) >= 12
    assert keys(True)
    assert not keys(True) & keys(False)
    rng = np.random.default_rng(0)
    old, new = ("", "wide") if change == "add" else ("narrow", "" if change == "remove" else "wide")
    for held_out in (False, True):
        for _ in range(60):
            wording = phrase_wording(change, shape, old, new, rng, held_out=held_out)
            assert (wording.family in HELD_OUT_PHRASE_FAMILIES) == held_out
            assert (new or old) in wording.text


def test_rare_words_are_not_swapped_in_a_large_set() -> None:
    letters = "abcdefghij"
    named = [
        f"{colour} shirt {''.join(letters[int(digit)] for digit in str(number))}son for men"
        for number, colour in enumerate(["red", "blue", "black"] * 1400)
    ]
    plain = [
        f"a {c} cotton {t} in a box" for c in ("red", "tan") for t in ("shirt", "dress", "hat")
    ]
    made, mining = mine_captions(items(*named, *plain), seed=0, limit=30)
    assert mining.captions > 4000
    assert mining.rejected["the phrase has a rare word, such as a name"] > 0
    assert not any("son" in triplet.text for triplet in made)
    few, _ = mine_captions(items(*named[:30]), seed=0, limit=30)
    assert any("son" in triplet.text for triplet in few)  # in a small set every word is rare


def shade(number: int) -> tuple[int, int, int]:
    red, green, blue = np.random.default_rng(number).integers(0, 255, 3).tolist()
    return red, green, blue


def large_areas(image: Image.Image) -> set[object]:
    """Colours of more than 1000 pixels."""
    colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    return {colour for count, colour in colours if count > 1000}


def write_collection(folder: Path) -> list[Item]:
    pool = scenes()
    for number, item in enumerate(pool):
        Image.new("RGB", (24, 32), shade(number)).save(folder / f"{item.id}.png")
        (folder / f"{item.id}.txt").write_text(item.caption, encoding="utf-8")
    return pool


def test_the_command_writes_triplets_a_report_and_a_sheet(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pool = write_collection(folder)
    output, sheet = tmp_path / "t.jsonl", tmp_path / "sheet.png"
    call = ["--from", "captions", "--data", str(folder), "-o", str(output), "--count", "50"]
    done = CliRunner().invoke(triplets_command, [*call, "--sheet", str(sheet), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)["files"][str(output)]
    made = read_triplets(output)
    assert report["count"] == len(made) == 50
    assert report["per_kind"] == dict(Counter(t.kind for t in made))
    assert len(report["examples"]) == 20
    assert report["templates"]["swap"] > 100
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
        assert 1000 < drawn.height <= 1600  # a screen
        assert drawn.width < 1920
        left = drawn.crop((0, 0, drawn.width // 2, drawn.height))
        right = drawn.crop((drawn.width // 2, 0, drawn.width, drawn.height))
        halves = [large_areas(half) for half in (left, right)]
    shades = {f"{item.id}.png": shade(number) for number, item in enumerate(pool)}
    # as many evenly spaced triplets as fit, each with its reference and its targets

    def shown(some: Sequence[Triplet]) -> set[object]:
        return {shades[name] for one in some for name in (one.reference, *one.targets[:5])}

    def columns(count: int) -> list[set[object]]:
        chosen = [made[round(place)] for place in np.linspace(0, len(made) - 1, count)]
        half = -(-count // 2)
        return [shown(chosen[:half]), shown(chosen[half:])]

    found = [half & set(shades.values()) for half in halves]
    assert any(found == columns(count) for count in range(8, 13))

    done = CliRunner().invoke(triplets_command, call)
    assert done.exit_code == 0
    assert "pairs rejected: " in done.stdout or "examples:" in done.stdout


def test_the_command_reads_captions_from_a_csv_file(tmp_path: Path) -> None:
    source, output = tmp_path / "c.csv", tmp_path / "t.jsonl"
    rows = ["name,said"] + [f"{item.id},{item.caption}" for item in scenes()]
    source.write_text("\n".join(rows), encoding="utf-8")
    call = ["--from", "captions", "--csv", str(source), "-o", str(output)]
    done = CliRunner().invoke(triplets_command, [*call, "--columns", "id=name,caption=said"])
    assert done.exit_code == 0, done.output
    assert len(read_triplets(output)) == 68
    assert "held out" not in done.stdout
    done = CliRunner().invoke(triplets_command, [*call, "--sheet", str(tmp_path / "s.png")])
    assert done.exit_code == 2
    assert "--sheet shows images: give them with --data" in done.stderr
    done = CliRunner().invoke(triplets_command, ["--from", "captions", "-o", str(output)])
    assert done.exit_code == 2
    assert "give --csv or --data" in done.stderr


def test_the_command_reads_attributes_from_a_table_with_images(tmp_path: Path) -> None:
    rows = ["file,shade,article,who"]
    for number, (colour, kind) in enumerate(itertools.product(("red", "tan"), ("ring", "hat"))):
        Image.new("RGB", (20, 20), (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{colour},{kind},Men")
    (tmp_path / "items.csv").write_text("\n".join(rows), encoding="utf-8")
    output, sheet = tmp_path / "t.jsonl", tmp_path / "s.png"
    call = ["--from", "attributes", "--data", str(tmp_path / "items.csv"), "-o", str(output)]
    named = "path=file,colour=shade,type=article,gender=who"
    done = CliRunner().invoke(
        triplets_command, [*call, "--columns", named, "--sheet", str(sheet), "--count", "12"]
    )
    assert done.exit_code == 0, done.output
    made = read_triplets(output)
    assert {t.kind for t in made} == {"colour", "type"}
    assert {t.reference for t in made} <= {f"{n}.png" for n in range(4)}
    assert sheet.is_file()

    # a ring in tan that is the picture of the one in red, again
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    done = CliRunner().invoke(
        triplets_command, [*call, "--columns", named, "--count", "40", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)["files"][str(output)]
    left = read_triplets(output)
    assert left
    assert len(left) == report["count"] == 40 - report["rejected"]["the images are near-duplicates"]
    assert not any({t.reference, *t.targets} == {"0.png", "2.png"} for t in left)


@pytest.mark.parametrize("source", ["captions", "attributes"])
def test_a_collection_without_usable_images_leaves_the_file_unchanged(
    tmp_path: Path, source: str
) -> None:
    """For example a folder of shards: the user must name the shards."""
    (tmp_path / "cc3m").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "cc3m" / "00000.tar", "w") as shard:
        shard.add(tmp_path / "a.png", "a.png")
    output = tmp_path / "t.jsonl"
    output.write_text("made before")
    call = ["triplets", "--from", source, "--data", str(tmp_path / "cc3m"), "-o", str(output)]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 1
    assert f"name the shards, as '{tmp_path / 'cc3m'}/*.tar'" in done.stderr
    assert "No usable sample in" in done.stderr
    assert output.read_text() == "made before"
