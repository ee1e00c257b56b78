"""Compare ways of asking a second change: with and without the image and the text before it.

    python -m benchmarks.two_steps --data 'catalogue/train-{0000..0001}.tar'

A user asks for one change of an image, picks the first right hit, and asks for another one. A hit
of the second step is right if it has both changes and the first image's other attributes. "other"
are changes of two attributes, "same" changes one attribute twice. Only training shards are meant to
be used: what was chosen here is not to be judged on the same images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import command_parser, positive, run_command
from train.data.collection import read_collection
from train.wordings import attribute_wording
from ztcir_sdk.decoding import ImageSource
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.metrics import DEPTH, average_precision_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.modification import join_texts
from ztcir_sdk.names import CATALOGUE_COLUMNS, is_known
from ztcir_sdk.retriever import Reference, Retriever
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["TwoSteps", "main", "measure", "two_step_queries"]

ATTRIBUTES = tuple(CATALOGUE_COLUMNS)
PICKED_FROM = 20
"""Hits of the first step among which a user finds a right one."""

Values = tuple[str, ...]
"""The attributes of one image, in the order of `ATTRIBUTES`."""


@dataclass(frozen=True)
class TwoSteps:
    """A query of two steps: rows of the gallery, texts, and what is right after each step."""

    reference: int
    texts: tuple[str, str]
    between: Values
    target: Values


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON object; return the exit code."""
    parser = command_parser("two_steps", "Compare ways of asking a second change.")
    add = parser.add_argument
    add("--data", required=True, help="training shards; brace patterns are allowed")
    add("--images", type=positive, default=4000, help="images of the gallery")
    add("--queries", type=positive, default=300, help="queries of each kind")
    add("--threads", type=positive, default=available_cores(), help="threads of one graph")
    add("--seed", type=int, default=0, help="random seed")
    options = parser.parse_args(arguments)
    return run_command(lambda: print(json.dumps(_measure(options), indent=1)))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    images, development = read_collection([options.data], drawings=0)
    rng = np.random.default_rng(options.seed)
    everything = [*images, *development]
    chosen = rng.permutation(len(everything))[: options.images]
    pictures = [everything[i].load() for i in chosen]
    values = [tuple(str(getattr(everything[i].item, name)) for name in ATTRIBUTES) for i in chosen]
    retriever = Retriever.from_pretrained(threads=options.threads)
    figures = {
        kind: measure(
            retriever,
            pictures,
            list(islice(two_step_queries(values, rng, same=kind == "same"), options.queries)),
            values,
        )
        for kind in ("other", "same")
    }
    return {"bundle": retriever.bundle.name, "images": len(pictures), "kinds": figures}


def two_step_queries(
    values: Sequence[Values], rng: np.random.Generator, *, same: bool
) -> Iterator[TwoSteps]:
    """Yield queries whose two steps both have a right answer, without end.

    Args:
        values: the attributes of each image.
        rng: everything is drawn from it.
        same: change one attribute twice; else two attributes.

    Raises:
        UsageError: there are hardly any such queries.
    """
    existing = set(values)
    tried = 0
    while True:
        tried += 1
        if tried > 100_000:
            raise UsageError("These images hardly allow two changes in a row: use more of them.")
        reference = int(rng.integers(len(values)))
        start, target = values[reference], values[int(rng.integers(len(values)))]
        differ = [place for place in range(len(start)) if start[place] != target[place]]
        if len(differ) != (1 if same else 2) or not all(map(is_known, (*start, *target))):
            continue
        first, second = (differ * 2)[:2] if same else rng.permutation(differ).tolist()
        changed = target[first]
        if same:
            other = [one[first] for one in existing if _replaced(start, first, one[first]) == one]
            changed = str(rng.choice(sorted(set(other))))
        between = _replaced(start, first, changed)
        if between not in existing or between in (start, target) or not is_known(changed):
            continue
        texts = (
            _text(first, start[first], changed, rng),
            _text(second, between[second], target[second], rng),
        )
        tried = 0
        yield TwoSteps(reference, texts, between, target)


def _replaced(values: Values, place: int, value: str) -> Values:
    return (*values[:place], value, *values[place + 1 :])


def _text(place: int, old: str, new: str, rng: np.random.Generator) -> str:
    return attribute_wording(ATTRIBUTES[place], old, new, rng).text


def measure(
    retriever: Retriever,
    pictures: Sequence[ImageSource],
    queries: Sequence[TwoSteps],
    values: Sequence[Values],
) -> dict[str, Any]:
    """Return mAP@10 of the second step by each way of asking.

    Args:
        retriever: it needs no index.
        pictures: the gallery.
        queries: those whose first step finds nothing right are left out.
        values: the attributes of each picture.
    """
    gallery = retriever.encode_images(pictures)
    rows: dict[Values, list[int]] = defaultdict(list)
    for row, own in enumerate(values):
        rows[own].append(row)
    vectors: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    excluded, targets = [], []
    for query in queries:
        reference = retriever.reference(pictures[query.reference])
        first = reference.encode(query.texts[0])
        [ranking] = rank(first[None], gallery, PICKED_FROM, excluded=[[query.reference]])
        picked = next((row for row in ranking.tolist() if values[row] == query.between), None)
        right = set(rows[query.target]) - {picked, query.reference}
        if picked is None or not right:
            continue
        for name, ask in WAYS.items():
            vectors[name].append(ask(reference, pictures[picked], query.texts))
        excluded.append([query.reference, picked])
        targets.append(right)
    if not targets:
        raise UsageError("No query found a right image in its first step: use more images.")
    counts = [len(own) for own in targets]
    figures: Mapping[str, float] = {
        name: float(
            average_precision_at_k(
                relevance(rank(np.stack(own), gallery, DEPTH, excluded=excluded), targets),
                counts,
                DEPTH,
            ).mean()
        )
        for name, own in vectors.items()
    }
    return {"queries": len(targets), "mAP@10": figures}


Way = Callable[[Reference, ImageSource, tuple[str, str]], NDArray[np.float32]]

WAYS: Mapping[str, Way] = {
    "last image alone": lambda reference, hit, texts: reference.refine(hit, texts[1]).encode(),
    "first image, both texts": lambda reference, hit, texts: reference.encode(join_texts(*texts)),
    "refine": lambda reference, hit, texts: reference.refine(
        hit, texts[1], asked=texts[0]
    ).encode(),
}
"""Way of asking the second change -> the query of a reference, a hit of it, and both texts."""


if __name__ == "__main__":
    sys.exit(main())
