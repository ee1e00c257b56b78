"""Index a folder of images, then search it with an image and a text.

python examples/index_and_search.py [FOLDER [REFERENCE [TEXT]]]
"""

from __future__ import annotations

import sys

from ztcir_sdk import Retriever, ZtcirError


def main(
    folder: str = "ztcir-demo/photos",
    reference: str = "ztcir-demo/photos/red-striped-t-shirt-01.jpg",
    text: str = "make it blue",
) -> None:
    """Print the five nearest images."""
    retriever = Retriever.from_pretrained()
    report = retriever.index(folder, to="example.ztcir")  # again: only changed files are read
    print(f"{report.total} images are indexed, {report.added} of them are new")

    for hit in retriever.search(reference, text, k=5):
        print(hit.rank, f"{hit.score:.3f}", hit.path)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ZtcirError as error:  # an error that the user can correct, as one sentence
        sys.exit(str(error))
