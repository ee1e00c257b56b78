"""Find samples of a FiftyOne data set by an image and a text, and keep the answer as a view.

FiftyOne stores its data sets in MongoDB, which it installs where it can; elsewhere start one, and
set FIFTYONE_DATABASE_URI=mongodb://localhost to it.

pip install fiftyone
python examples/fiftyone_recipe.py [FOLDER]
"""

from __future__ import annotations

import sys

import fiftyone

from ztcir_sdk import Retriever


def main(folder: str = "ztcir-demo/photos") -> None:
    """Make a data set of a folder, write vectors into it, and select what a search finds."""
    photos = fiftyone.Dataset.from_images_dir(folder)
    retriever = Retriever.from_pretrained()

    paths = photos.values("filepath")
    photos.set_values("ztcir", list(retriever.encode_images(paths)))  # for fiftyone.brain too
    retriever.index(paths, to="fiftyone.ztcir")

    hits = retriever.search(paths[0], "make it brown", k=5)
    samples = {sample.filepath: sample.id for sample in photos}
    view = photos.select([samples[hit.path] for hit in hits], ordered=True)
    view.set_values("similarity", [hit.score for hit in hits])
    for sample in view:
        print(f"{sample.similarity:.3f} {sample.filename}")
    # fiftyone.launch_app(view=view) shows them
    photos.delete()


if __name__ == "__main__":
    main(*sys.argv[1:])
