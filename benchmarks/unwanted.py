"""Measure how many unwanted hits are left of those that ignoring what is not wanted would give.

    python -m benchmarks.unwanted --catalogue catalogue

Queries are made of photos and their attributes, in five kinds: an image or a text or both without a
colour, a text that refuses the colour itself, and a text without an image. The unwanted value is
the one that leads the first ten hits of the same query when nothing is unwanted. Shards of training
data alone are used: the strength was chosen with the first four shards and another bundle, and is
measured here with the last two.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.markdown import describe_source, format_table
from benchmarks.provenance import load_average, provenance
from cli.output import note
from ztcir_sdk.environment import now
from ztcir_sdk.errors import UsageError
from ztcir_sdk.gallery import AnyIndex
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.modification.unwanted import OF_IMAGES, OF_TEXTS
from ztcir_sdk.query import Query
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["describe_unwanted", "main", "measure"]

DEPTH = 10
MIN_SHARE = 0.2
"""A query counts if at least this part of its hits is unwanted while nothing is subtracted."""
COMMON = 20
"""Values that fewer photos have are not asked for."""

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A query, with and without what is not wanted, and which hits are which."""

    plain: Query
    full: Query
    unwanted: Callable[[Metadata], bool]
    kept: Callable[[Metadata], bool]
    """Whether a hit is what the query asks for, apart from what is not wanted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the result file; return the exit code."""
    parser = command_parser("unwanted", "Measure how well unwanted things leave the first hits.")
    add = parser.add_argument
    add("--catalogue", type=Path, required=True, help="folder of train-0000.tar and so on")
    add("--photos", type=positive, default=600, help="photos of each shard")
    add("--queries", type=positive, default=200, help="queries of each kind")
    add("--threads", type=positive, default=available_cores(), help="threads of one graph")
    add("--out", type=Path, default=RESULTS / "unwanted.json", help="result file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure_to_file(options))


def _measure_to_file(options: argparse.Namespace) -> None:
    start, load = now(), load_average()
    shards = sorted(options.catalogue.glob("train-*.tar"))[-2:]
    if not shards:
        raise UsageError(f"{options.catalogue} has no shards train-*.tar: name their folder.")
    retriever = Retriever.from_pretrained(threads=options.threads)
    with tempfile.TemporaryDirectory(prefix="ztcir-unwanted-") as folder:
        photos = Path(folder) / "photos.tar"
        _copy_photos(shards, photos, options.photos)
        place = Path(folder) / "photos.ztcir"
        retriever.index(photos, to=place)
        kinds = measure(retriever, retriever.open_index(place), options.queries)
    result = {
        **provenance(start, options.threads, load),
        "bundle": retriever.bundle.name,
        "shards": [shard.name for shard in shards],
        "photos_of_each": options.photos,
        "strength": {"texts": OF_TEXTS, "images": OF_IMAGES},
        "kinds": kinds,
    }
    write_result(options.out, result)
    for name, kind in kinds.items():
        note(
            f"{name}: {kind['ignored']:.3f} unwanted when ignored, {kind['subtracted']:.3f} when "
            f"subtracted ({kind['left']:.2f} of them left); as asked for {kind['kept_ignored']:.3f}"
            f" and {kind['kept_subtracted']:.3f}"
        )


def _copy_photos(shards: Sequence[Path], target: Path, count: int) -> None:
    """Write the first photos of each shard, with their metadata, into one archive."""
    with tarfile.open(target, "w") as copy:
        for shard in shards:
            with tarfile.open(shard) as archive:
                for member in itertools.islice(archive, 2 * count):  # a photo and its JSON
                    content = archive.extractfile(member)
                    member.name = f"{shard.stem}-{member.name}"
                    copy.addfile(member, content)


def measure(retriever: Retriever, gallery: AnyIndex, count: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each kind of query.

    Args:
        retriever: the retriever, whose current index is searched.
        gallery: that index; its items have articleType, baseColour and gender.
        count: number of queries of each kind.
    """
    items = [
        (str(gallery.root / item.path), dict(item.metadata))
        for item in gallery.items()
        if item.metadata is not None
    ]
    makers = {
        "image, not a colour": _image_not_colour,
        "text, not a colour": _text_not_colour,
        "image and text, not a colour": _both_not_colour,
        "text that refuses a colour": _refusing_text,
        "text, unlike an image": _text_unlike_image,
    }
    figures = {}
    for name, maker in makers.items():
        asked = list(itertools.islice(maker(retriever, items), count))
        figures[name] = _figures(retriever, asked)
    return figures


def _figures(retriever: Retriever, asked: Sequence[Asked]) -> dict[str, Any]:
    plain = retriever.search_many([one.plain for one in asked], DEPTH)
    full = retriever.search_many([one.full for one in asked], DEPTH)

    def mean(answers: Sequence[Sequence[Hit]], part: str) -> float:
        shares = [
            np.mean([getattr(one, part)(hit.metadata) for hit in hits])
            for one, hits in zip(asked, answers, strict=True)
        ]
        return round(float(np.mean(shares)), 4)

    ignored, subtracted = mean(plain, "unwanted"), mean(full, "unwanted")
    return {
        "queries": len(asked),
        "ignored": ignored,
        "subtracted": subtracted,
        "left": round(subtracted / ignored, 4),
        "kept_ignored": mean(plain, "kept"),
        "kept_subtracted": mean(full, "kept"),
    }


Items = Sequence[tuple[str, Metadata]]


def _common(items: Items, field: str) -> set[str]:
    counts = Counter(metadata[field] for _, metadata in items)
    return {value for value, n in counts.items() if n >= COMMON and value not in ("NA", "Multi")}


def _leading(retriever: Retriever, query: Query, field: str, known: set[str]) -> str | None:
    """Return the most frequent value of a field among the first hits, if it is frequent."""
    hits = retriever.search(query, k=DEPTH)
    values = Counter(str((hit.metadata or {})[field]) for hit in hits)
    [(value, count)] = values.most_common(1)
    return value if count >= MIN_SHARE * DEPTH and value in known else None


def _shuffled(items: Items) -> Iterator[tuple[str, Metadata]]:
    for place in np.random.default_rng(0).permutation(len(items)):
        yield items[int(place)]


def _is(field: str, value: str) -> Callable[[Metadata], bool]:
    return lambda metadata: metadata[field] == value


def _without_colour(
    retriever: Retriever, plain: Query, colours: set[str], kept: Callable[[Metadata], bool]
) -> Iterator[Asked]:
    colour = _leading(retriever, plain, "baseColour", colours)
    if colour is not None:
        full = Query(plain.positive_images, plain.positive_texts, without=colour.lower())
        yield Asked(plain, full, _is("baseColour", colour), kept)


def _image_not_colour(retriever: Retriever, items: Items) -> Iterator[Asked]:
    colours = _common(items, "baseColour")
    for path, metadata in _shuffled(items):
        kept = _is("articleType", metadata["articleType"])
        yield from _without_colour(retriever, Query(path), colours, kept)


def _text_not_colour(retriever: Retriever, items: Items) -> Iterator[Asked]:
    colours = _common(items, "baseColour")
    for kind in sorted(_common(items, "articleType")):
        for gender in ("men", "women"):
            query = Query(texts=f"{kind.lower()} for {gender}")
            yield from _without_colour(retriever, query, colours, _is("articleType", kind))


def _refusing_text(retriever: Retriever, items: Items) -> Iterator[Asked]:
    """The same texts, which name the colour themselves, in one wording after the other."""
    wordings = itertools.cycle(("{}, not {}", "{} in anything but {}", "no {1} please, {0}"))
    for asked, wording in zip(_text_not_colour(retriever, items), wordings, strict=False):
        [text], [colour] = asked.full.positive_texts, asked.full.unwanted_texts
        full = Query(texts=wording.format(text, colour))
        yield Asked(asked.plain, full, asked.unwanted, asked.kept)


def _both_not_colour(retriever: Retriever, items: Items) -> Iterator[Asked]:
    colours = _common(items, "baseColour")
    for path, metadata in _shuffled(items):
        other = {"Men": "women", "Women": "men"}.get(metadata["gender"])
        if other is not None:
            kept = _is("gender", other.title())
            yield from _without_colour(retriever, Query(path, f"for {other}"), colours, kept)


def _text_unlike_image(retriever: Retriever, items: Items) -> Iterator[Asked]:
    """The image shows the colour that leads the hits, on another kind of product."""
    colours = _common(items, "baseColour")
    for kind in sorted(_common(items, "articleType")):
        query = Query(texts=kind.lower())
        colour = _leading(retriever, query, "baseColour", colours)
        same = _is("articleType", kind)
        for hit in retriever.search(query, k=3) if colour else []:
            unwanted = dict(hit.metadata or {})

            def like(metadata: Metadata, one: Metadata = unwanted) -> bool:
                fields = ("articleType", "baseColour", "gender")
                return all(metadata[field] == one[field] for field in fields)

            yield Asked(query, Query(texts=kind.lower(), unlike=hit.path), like, same)


def describe_unwanted(values: Mapping[str, Any]) -> str:
    """Describe what is left of what is not wanted, from `benchmarks.unwanted`."""
    rows = [
        (
            name,
            f"{kind['ignored']:.2f}",
            f"{kind['subtracted']:.2f}",
            f"{kind['left']:.0%}",
            f"{kind['kept_ignored']:.2f}",
            f"{kind['kept_subtracted']:.2f}",
        )
        for name, kind in values["kinds"].items()
    ]
    columns = ("query", "unwanted, ignored", "unwanted, subtracted", "left")
    return "\n\n".join(
        (
            format_table((*columns, "as asked, ignored", "as asked, subtracted"), rows),
            "As asked: the share of hits that are what the query asks for otherwise. Bundle "
            f"`{values['bundle']}`, {values['photos_of_each']} photos of each of "
            f"{len(values['shards'])} shards, {describe_source(values, 'onnxruntime')}.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
