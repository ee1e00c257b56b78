"""Keep the vectors in Qdrant, and ask it with composed queries and filters.

pip install qdrant-client
python examples/qdrant_database.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from qdrant_client import QdrantClient, models

from ztcir_sdk import Retriever


def main(folder: str = "ztcir-demo/photos") -> None:
    """Store the images of a folder, then search them with an image, a text and a filter."""
    retriever = Retriever.from_pretrained()
    database = QdrantClient(":memory:")  # QdrantClient("http://localhost:6333") for a server

    images = sorted(Path(folder).glob("*.jpg"))
    database.create_collection(
        "photos",
        vectors_config=models.VectorParams(size=retriever.dim, distance=models.Distance.COSINE),
    )
    vectors = retriever.encode_images(images)
    points = [
        models.PointStruct(
            id=number,
            vector=vector.tolist(),
            payload={"name": image.name, "colour": image.name.partition("-")[0]},
        )
        for number, (image, vector) in enumerate(zip(images, vectors, strict=True))
    ]
    database.upsert("photos", points)

    query = retriever.reference(images[0]).encode("make it blue")
    blue = models.FieldCondition(key="colour", match=models.MatchValue(value="blue"))
    found = database.query_points(
        "photos", query=query.tolist(), query_filter=models.Filter(must=[blue]), limit=3
    )
    for point in found.points:
        print(f"{point.score:.3f} {(point.payload or {})['name']}")
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
