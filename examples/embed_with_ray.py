"""Encode one collection on many machines with Ray Data, a shard each, then make one index.

Ray must be installed (`pip install 'ray[data]'`), and every machine must see the images and the
folder of the results.

python examples/embed_with_ray.py [FOLDER [SHARDS]]
"""

from __future__ import annotations

import sys
from pathlib import Path

from ztcir_sdk import Retriever, Shard, embed_images


class Encode:
    """Encodes shards in one worker, which loads the model once."""

    def __init__(self, folder: str, to: str, shards: int) -> None:
        """Load the model."""
        self.folder, self.to, self.shards = folder, to, shards
        self.retriever = Retriever.from_pretrained(threads=1)

    def __call__(self, batch):  # type: ignore[no-untyped-def]
        """Encode the shards of a batch, and return how many images each has."""
        images = []
        for number in batch["id"]:
            shard = Shard(int(number) + 1, self.shards)
            report = embed_images(self.folder, self.to, self.retriever, shard=shard)
            images.append(report.total)
        return {"shard": batch["id"] + 1, "images": images}


def main(folder: str = "ztcir-demo/photos", shards: str = "4") -> None:
    """Encode the shards, and index them all."""
    import ray

    to = Path("embeddings").absolute()
    count = int(shards)
    # Items, and not a range: reading one is a task, which would wait for a core of the workers.
    work = ray.data.from_items([{"id": number} for number in range(count)]).map_batches(
        Encode,
        fn_constructor_args=(str(Path(folder).absolute()), str(to), count),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),  # workers, on all machines
    )
    for row in sorted(work.take_all(), key=lambda row: int(row["shard"])):
        print(f"shard {row['shard']}: {row['images']} images")
    report = Retriever.from_pretrained().index(to, to="all.ztcir")  # nothing is encoded here
    print(f"{report.total} images are indexed")


if __name__ == "__main__":
    main(*sys.argv[1:])
