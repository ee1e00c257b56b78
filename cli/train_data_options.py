"""Options of `ztcir train` for its data: the collection of images, and the triplets of Stage II."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Decorator, in_section, parse_columns, pass_as
from train.settings import MadeTriplets

if TYPE_CHECKING:
    from train.data import ShardStream, TrainingImage
    from train.triplets import StageTwoData

HELD_OUT = 1000
"""Images of a stream that select the best checkpoint."""

_triplets = in_section("Triplet options", show_default=True)


@dataclass(frozen=True)
class Collection:
    """The training data that is named on the command line."""

    data: tuple[str, ...]
    columns: dict[str, str] | None
    drawings: int
    stream: bool = False

    def read(
        self, *, streamed: bool = False, cache: Path | None = None
    ) -> tuple[list[TrainingImage], list[TrainingImage]]:
        """List training and development images; ``streamed`` holds out those of `read_stream`.

        ``cache`` keeps the lists of shards for other processes and runs.
        """
        from train.data import read_collection

        return read_collection(
            self.data,
            drawings=self.drawings,
            columns=self.columns,
            streamed=streamed,
            cache=cache,
        )

    def read_stream(self, seed: int) -> tuple[ShardStream, list[TrainingImage]]:
        """Return the training images as a stream, and a list of development images."""
        from train.data import ShardStream, read_held_out, stream_shards

        if self.drawings or self.columns:
            raise click.UsageError("--drawings and --columns cannot be used with --stream.")
        shards = stream_shards(self.data)
        return ShardStream(shards, seed=seed), read_held_out(shards, HELD_OUT)


_COLLECTION = (
    click.option(
        "--data",
        required=True,
        multiple=True,
        metavar="SOURCE",
        help="Training images: webdataset shards, a folder, or a CSV, TSV or Parquet file of paths "
        "and captions; also as a pattern, such as cc3m/{00000..00331}.tar or *.tar. Repeatable.",
    ),
    click.option(
        "--columns",
        callback=parse_columns,
        metavar="FIELD=COLUMN,...",
        help="Columns of a table's fields, if they have unusual names, such as "
        "path=file,caption=text,colour=shade,root=photos/.",
    ),
    click.option(
        "--drawings",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Number of code-drawn images to add.",
    ),
)
_STREAM = click.option(
    "--stream",
    is_flag=True,
    help="Read the shards as a shuffled stream, without listing images or caching features: for "
    "more images than a list can hold, and for shards behind https:// or pipe:. Needs --steps.",
)


def collection_options(*, stream: bool = False) -> Decorator:
    """Add the options for the training data; pass them as `collection`."""
    options = (*_COLLECTION, _STREAM) if stream else _COLLECTION
    return pass_as(lambda **values: {"collection": Collection(**values)}, *options)


@dataclass(frozen=True, kw_only=True)
class TripletOptions(MadeTriplets):
    """The triplets of Stage II that are named on the command line, or how to make some."""

    triplets: tuple[Path, ...]
    triplet_columns: dict[str, str] | None
    skip_missing: bool

    def read(
        self, images: list[TrainingImage], development: list[TrainingImage], *, seed: int
    ) -> StageTwoData:
        """Read or make the triplets of a collection."""
        from train.triplets import read_training_triplets, stage_two_data

        given = [
            triplet
            for path in self.triplets
            for triplet in read_training_triplets(path, columns=self.triplet_columns)
        ]
        return stage_two_data(
            images,
            development,
            given if self.triplets else None,
            count=self.count,
            seed=seed,
            noise=self.noise,
            requests=self.requests,
            skip_missing=self.skip_missing,
        )


triplet_options = pass_as(
    lambda **values: {"triplets": TripletOptions(**values)},
    _triplets(
        "--triplets",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Triplets to train on: JSONL of `ztcir triplets` or of reference, text and target; "
        "the training file of FashionIQ, CIRR or LaSCo; or a CSV or Parquet file. Repeatable. "
        "Default: triplets made from the images' attributes.",
    ),
    _triplets(
        "--triplet-columns",
        callback=parse_columns,
        metavar="FIELD=COLUMN,...",
        help="Fields or columns of a triplet, if they have unusual names, such as "
        "reference=query,text=caption,target=answer.",
    ),
    _triplets("--skip-missing", is_flag=True, help="Leave out triplets with missing images."),
    _triplets(
        "--count",
        type=click.IntRange(min=1),
        default=MadeTriplets.count,
        metavar="N",
        help="Number of triplets to make.",
    ),
    _triplets(
        "--noise",
        type=click.FloatRange(0, 1),
        default=MadeTriplets.noise,
        metavar="SHARE",
        help="Share of the made triplets with a wrong target.",
    ),
    _triplets(
        "--requests",
        type=click.FloatRange(0, 1),
        default=MadeTriplets.requests,
        metavar="SHARE",
        help="Share of the made triplets that are open requests, as people type them.",
    ),
)
