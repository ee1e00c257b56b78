"""A service of one photo, on a real socket of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.serve.app import create_app
from ztcir_sdk.serve.run import configuration
from ztcir_sdk.serve.settings import ServeSettings


@contextlib.contextmanager
def running_service(folder: Path, settings: ServeSettings) -> Iterator[int]:
    """Run a service of one photo, made in a folder; give its port."""
    (folder / "photos").mkdir()
    Image.new("RGB", (20, 20), (80, 0, 90)).save(folder / "photos" / "0.png")
    retriever = Retriever(write_tiny_bundle(folder / "tiny"), threads=1)
    index = folder / "photos.ztcir"
    retriever.index(folder / "photos", to=index)
    server = uvicorn.Server(configuration(create_app(retriever, index, settings), settings))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()
