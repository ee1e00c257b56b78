"""The comparison of two-step queries: which queries are made, and that every way is measured."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import write_tiny_bundle

from benchmarks.two_steps import WAYS, TwoSteps, measure, two_step_queries
from ztcir_sdk import Retriever, UsageError

VALUES = [
    (gender, kind, colour)
    for gender in ("Men", "Women")
    for kind in ("Shirts", "Jeans")
    for colour in ("Red", "Blue", "Green", "NA")
]


@pytest.mark.parametrize("same", [True, False])
def test_each_step_changes_one_attribute(same: bool) -> None:
    queries = two_step_queries(VALUES, np.random.default_rng(0), same=same)
    for query in itertools.islice(queries, 50):
        start = VALUES[query.reference]
        steps = [(start, query.between), (query.between, query.target)]
        changed = [[place for place in range(3) if old[place] != new[place]] for old, new in steps]
        assert [len(places) for places in changed] == [1, 1]
        assert (changed[0] == changed[1]) == same
        assert {query.between, query.target} <= set(VALUES)
        assert "NA" not in (*start, *query.between, *query.target)
        assert all(query.texts)


def test_images_that_allow_no_two_steps_are_named() -> None:
    with pytest.raises(UsageError, match="use more of them"):
        next(two_step_queries(VALUES[:2], np.random.default_rng(0), same=False))


def test_every_way_is_measured(tmp_path: Path) -> None:
    retriever = Retriever(write_tiny_bundle(tmp_path / "tiny"), threads=1)
    pictures = []
    for seed in range(len(VALUES)):
        colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(colours).resize((24, 16)).save(stream, "PNG")
        pictures.append(stream.getvalue())
    drawn = itertools.islice(two_step_queries(VALUES, np.random.default_rng(0), same=False), 20)
    queries = [dataclasses.replace(one, texts=("in red", "for women")) for one in drawn]
    figures = measure(retriever, pictures, queries, VALUES)
    assert figures["queries"] == 20  # the gallery is no larger than what a user looks through
    assert figures["mAP@10"].keys() == WAYS.keys()
    assert all(0 <= value <= 1 for value in figures["mAP@10"].values())
    nothing = TwoSteps(0, ("red", "blue"), ("no", "such", "thing"), VALUES[1])
    with pytest.raises(UsageError, match="right image"):
        measure(retriever, pictures, [nothing], VALUES)
