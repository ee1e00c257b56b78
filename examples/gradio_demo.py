"""A page in Gradio: an image, what should change, and the images found.

pip install gradio
python examples/gradio_demo.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gradio

from ztcir_sdk import Query, Retriever


def build(folder: str = "ztcir-demo/photos") -> gradio.Blocks:
    """Index a folder and return a page that searches it."""
    retriever = Retriever.from_pretrained()
    retriever.index(folder, to=f"{Path(folder).resolve().name}.ztcir")

    def search(image: Any, text: str, unwanted: str, strength: float) -> list[tuple[str, str]]:
        if image is None and not text.strip():
            return []
        query = Query(
            images=[] if image is None else image,
            texts=text if text.strip() else [],
            without=unwanted if unwanted.strip() else [],
        )
        both = image is not None and text.strip()
        hits = retriever.search(query, k=12, strength=strength if both else None)
        return [(hit.path, f"{hit.score:.2f}") for hit in hits]

    with gradio.Blocks(title="ztcir") as page:
        with gradio.Row():
            image = gradio.Image(type="pil", label="Reference", height=240)
            with gradio.Column():
                text = gradio.Textbox(label="What should change", placeholder="make it blue")
                unwanted = gradio.Textbox(label="Not this", placeholder="stripes")
                strength = gradio.Slider(0, 2, 1, step=0.1, label="How much the text counts")
        found = gradio.Gallery(label="Found", columns=6)
        parts = [image, text, unwanted, strength]
        gradio.on([part.change for part in parts], search, parts, found, api_name="search")
    return page


def main(folder: str = "ztcir-demo/photos") -> None:
    """Serve the page on this machine."""
    build(folder).launch(allowed_paths=[str(Path(folder).resolve())])


if __name__ == "__main__":
    main(*sys.argv[1:])
