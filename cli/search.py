"""`ztcir search`: images and texts in, ranked hits out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    Command,
    Engine,
    IndexName,
    add_options,
    as_json,
    strength_option,
    weight_option,
    with_engine,
)
from cli.output import absolute_name, emit_json, note
from cli.search_options import nothing_sentence, result_options, search_keywords
from cli.search_output import (
    check_grid,
    check_terminal,
    missing_sentence,
    page_to_open,
    print_hits,
    show_hits,
    unknown_sentences,
    write_pages,
)
from cli.search_trail import search_on
from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.names import METHODS

if TYPE_CHECKING:
    from ztcir_sdk.index.hit import Hit
    from ztcir_sdk.query import Query
    from ztcir_sdk.query.batch import BatchQuery
    from ztcir_sdk.retriever import Retriever

__all__ = ["search"]

BATCH = 64
"""Queries of --batch that are answered at once."""


@click.command(cls=Command)
@click.argument("asked", nargs=-1, metavar="[IMAGE]... [TEXT]")
@click.option(
    "-k",
    "--top",
    "k",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Number of hits.",
)
@click.option(
    "--index",
    type=IndexName(),
    metavar="NAME.ztcir",
    help="Index to search, or milvus://host:port/collection; default: $ZTCIR_INDEX, else the only "
    "*.ztcir in the current folder.",
)
@add_options(*result_options)
@click.option(
    "--image", "images", multiple=True, metavar="IMAGE", help="A further image; repeatable."
)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A further text; repeatable.")
@click.option(
    "--weights",
    metavar="W,W,...",
    help="Weights of the images, then of the texts, in the order given; default: 1 each.",
)
@click.option(
    "--not",
    "without",
    multiple=True,
    metavar="TEXT",
    help='What the hits must not show, such as "stripes"; repeatable.',
)
@click.option(
    "--unlike",
    multiple=True,
    metavar="IMAGE",
    help="An image that the hits must not be like; repeatable.",
)
@click.option(
    "--batch",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Answer the queries of a CSV or JSONL file, with columns or keys of id, image, text, not, "
    "unlike, weights, strength and where; print a line of JSON for each. Paths of images start "
    "from the current folder.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    show_default="the bundle's own, mostly composed",
    help="Search method; keep the default unless you are comparing.",
)
@strength_option
@weight_option
@click.option(
    "--as-typed",
    is_flag=True,
    help="Leave texts as they are; by default, likely typing errors are corrected, and long texts "
    "and other languages read as short English, with a note.",
)
@click.option(
    "--then",
    "changes",
    type=(str, str),
    multiple=True,
    metavar="HIT TEXT",
    help="Go on from HIT, the rank or path of a hit, and also ask TEXT; the image and the text "
    "before it still count. Repeatable: each goes on from the hits of the one before.",
)
@click.option(
    "--grid",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Also write an image of the query and the hits.",
)
@click.option(
    "--allow-url", is_flag=True, help="Download images given by web address (at most 100 MB)."
)
@click.option(
    "-0",
    "--print0",
    "print0",
    is_flag=True,
    help="Print only the paths, each ended by a NUL byte, for `xargs -0`.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.html",
    help="Also write a self-contained page of the query and the hits.",
)
@click.option("--show", is_flag=True, help="Draw the hits in the terminal (extra `show`).")
@click.option("--open", "open_page", is_flag=True, help="Open a page of the hits in a browser.")
@with_engine
@as_json
def search(
    asked: Sequence[str],
    k: int,
    index: Path | str | None,
    images: Sequence[str],
    texts: Sequence[str],
    weights: str | None,
    without: Sequence[str],
    unlike: Sequence[str],
    batch: Path | None,
    method: str | None,
    strength: float | None,
    weight: float | None,
    as_typed: bool,
    changes: Sequence[tuple[str, str]],
    grid: Path | None,
    html: Path | None,
    allow_url: bool,
    print0: bool,
    show: bool,
    open_page: bool,
    engine: Engine,
    as_json: bool,
    **results: Any,
) -> None:
    """Find images similar to IMAGE, modified as TEXT describes.

    IMAGE alone finds similar images, TEXT alone what it describes. An argument that is a file, -
    for standard input, or a file:// or http(s):// address is an image; anything else is text. The
    images of the query are left out of the hits.

    \b
    Examples:
      ztcir search ref.jpg "make it red"
      ztcir search ref.jpg
      ztcir search "a red dress" --not stripes
      ztcir search ref.jpg other.jpg "for women" --weights 2,1,1
      ztcir search ref.jpg "in blue" --unlike other.jpg -k 5 --html hits.html
      ztcir search ref.jpg "make it red" --strength 0.6
      ztcir search ref.jpg "make it red" --then 2 "for women"
      ztcir search --batch queries.csv
      ztcir search ref.jpg "make it red" -0
      ztcir search ref.jpg "make it red" --unique --min-score -0.5
      ztcir search ref.jpg "make it red" --where "path LIKE '%.jpg'" --offset 5
    """
    from ztcir_sdk.index.default import default_index_path
    from ztcir_sdk.query.reading import read_query

    if grid is not None:
        check_grid(grid, k)
    if show:
        check_terminal()
    options: dict[str, Any] = {"k": k, "method": method, "strength": strength, "weight": weight}
    options |= search_keywords(**results)
    if batch is not None:
        if (
            asked
            or images
            or texts
            or weights
            or without
            or unlike
            or changes
            or grid
            or html
            or print0
            or show
            or open_page
        ):
            raise click.UsageError(
                "--batch takes its queries from the file and prints JSON: give no other query or "
                "output."
            )
        searched = default_index_path() if index is None else index
        retriever = engine.retriever(correct_slips=not as_typed)
        _answer_batch(batch, searched, retriever, options, allow_url=allow_url)
        return
    request = _Request.of(asked, images, texts, without, unlike)
    sources = request.open(allow_url)
    query = request.query(sources, weights)
    searched = default_index_path() if index is None else index
    retriever = engine.retriever(correct_slips=not as_typed)
    method = options["method"] = method or retriever.bundle.default_method
    picked: list[str] = []
    if changes:
        one_of_each = (len(request.images), len(request.texts)) == (1, 1)
        if weights or without or unlike or not one_of_each:
            raise click.UsageError("--then goes on from a search with one IMAGE and one TEXT.")
        image, [text] = sources[request.images[0]], request.texts
        settings: Any = {name: value for name, value in options.items() if name != "k"}
        settings["index"] = searched
        hits, picked = search_on(retriever, image, text, k, changes, settings)
    else:
        hits = retriever.search(query, index=searched, **options)
    further = [text for _, text in changes]
    asked_in_all = replace(query, texts=[*request.texts, *further])
    reading = read_query(retriever.encoder, asked_in_all, method)
    for sentence in unknown_sentences(reading.unknown_words):
        note(sentence)
    if reading.refused:
        note(f"Read as refused, and taken out of the query: {', '.join(reading.refused)}.")
    for text in reading.read_as:
        note(f"Read as '{text}': --as-typed searches the text as it is.")
    missing = _note_missing([hit.path for hit in hits], searched, retriever)
    if open_page and html is None:
        html = page_to_open()
    if grid is not None or html is not None:
        from ztcir_sdk.decoding import load_image

        shown = sources[request.images[0]] if request.images else None
        reference = shown if shown is None or isinstance(shown, str) else load_image(shown)
        sentence = ", then ".join([request.sentence, *further])
        write_pages(reference, sentence, hits, grid=grid, html=html)
    if as_json:
        emit_json(
            {
                "reference": request.images[0] if request.images else None,
                "text": " ".join(request.texts),
                "images": request.images,
                "texts": request.texts,
                "not": request.without,
                "unlike": request.unlike,
                "method": method,
                "strength": strength,
                "then": [
                    {"hit": path, "text": text} for path, text in zip(picked, further, strict=True)
                ],
                "index": absolute_name(searched),
                "where": options["where"],
                "offset": options["offset"],
                "bundle": retriever.bundle.name,
                "hits": [hit.to_dict() for hit in hits],
                "missing": missing,
                "unknown_words": [word.to_dict() for word in reading.unknown_words],
                "refused": list(reading.refused),
                "read_as": list(reading.read_as),
            }
        )
    elif show:
        show_hits(hits)
    else:
        print_hits(hits, print0=print0)
    if not hits and not as_json:
        note(nothing_sentence(options))
    if open_page and html is not None:
        click.launch(str(html))


@dataclass(frozen=True)
class _Request:
    """A query in a command line's words."""

    images: list[str]
    texts: list[str]
    without: list[str]
    unlike: list[str]

    @classmethod
    def of(
        cls,
        asked: Sequence[str],
        images: Sequence[str],
        texts: Sequence[str],
        without: Sequence[str],
        unlike: Sequence[str],
    ) -> _Request:
        """Take arguments, which are images or the words of one text, and options."""
        from ztcir_sdk.query.arguments import split_arguments

        if any(not argument.strip() for argument in (*asked, *texts)):
            raise click.UsageError(
                "The text is empty: describe what should change, or leave it out to find similar "
                "images."
            )
        found, words = split_arguments(asked)
        texts = [*([" ".join(words)] if words else []), *texts]
        return cls([*found, *images], texts, list(without), list(unlike))

    @property
    def sentence(self) -> str:
        """All words of the query, for people."""
        return ", ".join([*self.texts, *(f"not {text}" for text in self.without)])

    def open(self, allow_url: bool) -> dict[str, Any]:
        """Return each image of the query: its path, or what was read."""
        from ztcir_sdk.decoding.reference_source import open_reference

        names = dict.fromkeys([*self.images, *self.unlike])
        return {name: open_reference(name, allow_url=allow_url) for name in names}

    def query(self, sources: dict[str, Any], weights: str | None) -> Query:
        """Return the query, with its images opened."""
        from ztcir_sdk.query import Query, with_weights

        try:
            pairs = with_weights([sources[name] for name in self.images], self.texts, weights)
        except UsageError as error:
            raise click.BadParameter(str(error), param_hint="--weights") from error
        images, texts = pairs
        unlike = [sources[name] for name in self.unlike]
        return Query(images, texts, self.without, unlike)


def _note_missing(paths: Sequence[str], index: Path | str, retriever: Retriever) -> list[str]:
    """Return the paths whose images are gone, and say so."""
    from ztcir_sdk.sources import image_exists

    missing = [path for path in paths if not image_exists(Path(path))]
    if missing:
        root = retriever.open_index(index).root
        note(missing_sentence(missing, len(paths), index, root))
    return missing


def _answer_batch(
    file: Path,
    index: Path | str,
    retriever: Retriever,
    options: dict[str, Any],
    *,
    allow_url: bool,
) -> None:
    """Print a line of JSON for each query of a file, in order."""
    from ztcir_sdk.query.batch import read_batch
    from ztcir_sdk.query.reading import read_query

    method = options["method"] or retriever.bundle.default_method
    rows = (_with_images(row, allow_url) for row in read_batch(file))
    count = failed = changed = 0
    while chunk := list(itertools.islice(rows, BATCH)):
        answers = _answers([row.query for row in chunk], index, retriever, options)
        for row, answer in zip(chunk, answers, strict=True):
            if row.query is None or not isinstance(answer, list):
                emit_json({"id": row.id, "error": row.error or str(answer)})
                failed += 1
                continue
            reading = read_query(retriever.encoder, row.query, method)
            hits = [hit.to_dict() for hit in answer]
            emit_json(
                {
                    "id": row.id,
                    "hits": hits,
                    "unknown_words": [word.to_dict() for word in reading.unknown_words],
                    "refused": list(reading.refused),
                    "read_as": list(reading.read_as),
                }
            )
            changed += bool(reading.unknown_words or reading.refused or reading.read_as)
        count += len(chunk)
    if changed:
        note(
            f"The words of {changed} of {count} queries are not known or were read otherwise: see "
            "unknown_words and refused in their lines."
        )
    if failed:
        raise ZtcirError(f"{failed} of {count} queries failed: see the lines with an error.")


def _with_images(row: BatchQuery, allow_url: bool) -> BatchQuery:
    """Open the images that a row names by address, as an argument's are."""
    from ztcir_sdk.decoding.reference_source import open_reference

    def opened(image: Any) -> Any:
        return open_reference(image, allow_url=allow_url) if "://" in image else image

    if row.query is None:
        return row
    try:
        images = [(opened(image), weight) for image, weight in row.query.weighted_images]
        unlike = [opened(image) for image in row.query.unwanted_images]
    except (ImageError, UsageError) as error:
        return replace(row, query=None, error=str(error))
    return replace(row, query=replace(row.query, images=images, unlike=unlike))


def _answers(
    queries: Sequence[Query | None],
    index: Path | str,
    retriever: Retriever,
    options: dict[str, Any],
) -> list[list[Hit] | ZtcirError | None]:
    """Answer queries at once; one that fails has its error, and spoils no other."""
    asked = [query for query in queries if query is not None]
    try:
        found: list[list[Hit] | ZtcirError] = [
            *retriever.search_many(asked, index=index, **options)
        ]
    except ZtcirError:
        found = []
        for query in asked:
            try:
                found.append(retriever.search(query, index=index, **options))
            except (ImageError, UsageError) as error:  # any other would fail every query
                found.append(error)
    answers = iter(found)
    return [None if query is None else next(answers) for query in queries]
