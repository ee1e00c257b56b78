"""A service on a small collection, without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tiny_bundle import TinyModel, write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.serve.app import create_app
from ztcir_sdk.serve.settings import ServeSettings

COUNT = 12


def png(seed: int) -> bytes:
    """Return an image of four quarters, each of another colour."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).resize((24, 16), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, their metadata and their index."""
    place = tmp_path_factory.mktemp("secret-place")
    (place / "photos" / "more").mkdir(parents=True)
    lines = ["path,colour,price"]
    for seed in range(COUNT):
        name = f"more/{seed:02}.png" if seed % 3 == 0 else f"{seed:02}.png"
        (place / "photos" / name).write_bytes(png(seed))
        lines.append(f"{name},{('red', 'blue')[seed % 2]},{seed}")
    (place / "items.csv").write_text("\n".join(lines))
    retriever = Retriever(write_tiny_bundle(place / "tiny", TinyModel()), threads=1)
    retriever.index(place / "photos", to=place / "photos.ztcir", metadata=place / "items.csv")
    return place


@pytest.fixture(scope="session")
def retriever(place: Path) -> Retriever:
    return Retriever(place / "tiny", threads=1)


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(place: Path, retriever: Retriever) -> Iterator[Serve]:
    """Start a service with the given settings; return its client."""
    clients: list[TestClient] = []

    def start(index: Path | None = None, **settings: object) -> TestClient:
        made = ServeSettings(**settings)  # type: ignore[arg-type]
        app = create_app(retriever, index or place / "photos.ztcir", made)
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(place: Path, retriever: Retriever) -> Iterator[TestClient]:
    """A service with the settings that it has by default."""
    app = create_app(retriever, place / "photos.ztcir")
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def error_of(answer: object) -> tuple[int, str, str]:
    """Return status, kind and sentence of an error, which has one of its own shape."""
    body = json.loads(answer.text)  # type: ignore[attr-defined]
    assert set(body) == {"error"}
    assert set(body["error"]) == {"kind", "message"}
    assert "\n" not in body["error"]["message"]
    return answer.status_code, body["error"]["kind"], body["error"]["message"]  # type: ignore[attr-defined]
