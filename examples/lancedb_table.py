"""Keep the vectors in LanceDB beside what is known of each image, and ask with a filter.

pip install lancedb
python examples/lancedb_table.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lancedb

from ztcir_sdk import Retriever


def main(folder: str = "ztcir-demo/photos") -> None:
    """Store the images of a folder in a table, then search it with an image and a text."""
    retriever = Retriever.from_pretrained()
    images = sorted(Path(folder).glob("*.jpg"))
    rows = [
        {"name": image.name, "colour": image.name.partition("-")[0], "vector": vector}
        for image, vector in zip(images, retriever.encode_images(images), strict=True)
    ]
    with tempfile.TemporaryDirectory() as place:  # any folder, or an object store
        table = lancedb.connect(place).create_table("photos", rows)
        query = retriever.reference(images[0]).encode("make it blue")
        found = table.search(query).where("colour = 'blue'").limit(3)
        for row in found.to_list():
            cosine = 1 - row["_distance"] / 2  # the vectors have length 1
            print(f"{cosine:.3f} {row['name']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
