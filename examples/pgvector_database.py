"""Keep the vectors in PostgreSQL with pgvector, and ask with SQL.

PostgreSQL needs pgvector; its administrator makes the database once:
    createdb photos && psql photos --command "CREATE EXTENSION vector"

pip install 'psycopg[binary]' pgvector
DATABASE_URL=postgresql://localhost/photos python examples/pgvector_database.py [FOLDER]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg
from pgvector.psycopg import register_vector

from ztcir_sdk import Retriever


def main(folder: str = "ztcir-demo/photos") -> None:
    """Store the images of a folder in a table, then search it with an image, a text and SQL."""
    retriever = Retriever.from_pretrained()
    images = sorted(Path(folder).glob("*.jpg"))
    vectors = retriever.encode_images(images)
    query = retriever.reference(images[0]).encode("make it blue")

    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(database)
        database.execute("DROP TABLE IF EXISTS photos")
        database.execute(
            f"CREATE TABLE photos (name text, colour text, vector vector({retriever.dim}))"
        )
        with database.cursor().copy("COPY photos FROM STDIN WITH (FORMAT BINARY)") as rows:
            rows.set_types(["text", "text", "vector"])
            for image, vector in zip(images, vectors, strict=True):
                rows.write_row((image.name, image.name.partition("-")[0], vector))
        # the vectors have length 1, so the inner product (<#> is its negative) is the cosine
        database.execute("CREATE INDEX ON photos USING hnsw (vector vector_ip_ops)")
        found = database.execute(
            "SELECT name, -(vector <#> %s) FROM photos WHERE colour = 'blue' "
            "ORDER BY vector <#> %s LIMIT 3",
            (query, query),
        )
        for name, score in found:
            print(f"{score:.3f} {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
