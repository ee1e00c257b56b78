"""Requests made to hurt: each is refused with a sentence, soon, and the service goes on."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.serve.app import create_app

API = "/api/v1"
FORM = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
END = b"--x--\r\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    place = tmp_path_factory.mktemp("hostile")
    (place / "photos").mkdir()
    Image.new("RGB", (20, 20), (80, 0, 90)).save(place / "photos" / "0.png")
    (place / "items.csv").write_text(f"path,note\n0.png,{'a' * 500}\n")
    retriever = Retriever(write_tiny_bundle(place / "tiny"), threads=1)
    retriever.index(place / "photos", to=place / "x.ztcir", metadata=place / "items.csv")
    app = create_app(retriever, place / "x.ztcir")
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def part(name: bytes, value: bytes = b"1", *, file: bool = False) -> bytes:
    """Return one field of a form."""
    also = b'; filename="a"' if file else b""
    head = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"' + also
    return head + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        pytest.param(b"a&" * 9_000_000, FORM, 413, id="9 million fields"),
        pytest.param(b"a&" * 400_000, FORM, 413, id="400 000 fields"),
        pytest.param(b"text=" + b"a" * 900_000, FORM, 422, id="a text of 900 kB"),
        pytest.param(part(b"text") * 900 + END, MULTIPART, 422, id="900 texts"),
        pytest.param(part(b"text") * 200_000 + END, MULTIPART, 413, id="200 000 texts"),
        pytest.param(part(b"reference", b"0" * 64) * 900 + END, MULTIPART, 422, id="900 images"),
        pytest.param(part(b"image", file=True) * 900 + END, MULTIPART, 422, id="900 files"),
        pytest.param(part(b"image", file=True) * 9000 + END, MULTIPART, 413, id="9000 files"),
        pytest.param(part(b"text", b"a" * 3_000_000) + END, MULTIPART, 413, id="a text of 3 MB"),
        pytest.param(
            b"--x\r\nX: " + b"a" * 9_000_000 + b"\r\n\r\n1\r\n" + END, MULTIPART, 400, id="a header"
        ),
        pytest.param(
            b"--x\r\n" + b"X: a\r\n" * 900_000 + b"\r\n1\r\n" + END, MULTIPART, 400, id="headers"
        ),
        pytest.param(
            b"text=red&where=" + b"(" * 900 + b"note='a'" + b")" * 900, FORM, 422, id="brackets"
        ),
        pytest.param(b"text=red&k=" + b"9" * 5000, FORM, 422, id="a number of 5000 digits"),
        pytest.param(b"{}", {"content-type": "multipart/form-data"}, 400, id="no boundary"),
    ],
)
def test_a_form_made_to_hurt_is_refused_soon(
    client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    since = time.process_time()
    answer = client.post(f"{API}/search", content=content, headers=headers)
    spent = time.process_time() - since
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"kind", "message"}
    assert len(answer.text) < 500
    assert spent < 5
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        pytest.param("a.csv", b"text\n" + b"a\n" * 700_000, "1000 queries", id="700 000 rows"),
        pytest.param("a.csv", b"text\n" + b"\n" * 15_000_000, "", id="15 million blank rows"),
        pytest.param("a.jsonl", b"\n" * 15_000_000, "", id="15 million blank lines"),
        pytest.param("a.csv", b"text" + b"," * 15_000_000, "100 kB", id="15 million columns"),
        pytest.param(
            "a.jsonl", b'{"text": [' + b"[]," * 5_000_000 + b"1]}", "100 kB", id="5 million lists"
        ),
    ],
)
def test_a_file_of_queries_made_to_hurt_holds_nobody_up(
    client: TestClient, name: str, data: bytes, sentence: str
) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(client.post(f"{API}/batch", files={"queries": (name, data)}))

    since = time.process_time()
    asking = threading.Thread(target=ask)
    asking.start()
    longest = 0.0
    while asking.is_alive():
        start = time.perf_counter()
        assert client.get("/healthz").status_code == 200
        longest = max(longest, time.perf_counter() - start)
    assert time.process_time() - since < 15
    assert longest < 3
    assert sentence in answers[0].text
    assert answers[0].status_code == (422 if sentence else 200)


def test_a_pattern_made_to_hurt_is_matched_soon(client: TestClient) -> None:
    since = time.process_time()
    for pattern in ("%a" * 400 + "%b", "%_a" * 300 + "%b"):
        data = {"text": "red", "where": f"note LIKE '{pattern}'"}
        assert client.post(f"{API}/search", data=data).json()["hits"] == []
    assert time.process_time() - since < 5


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, side: int = 8) -> bytes:
    """Return a PNG with further chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (8 * 25)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


BOMB = zlib.compress(b"a" * 200_000_000, 9)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(chunk(b"zTXt", b"a\0\0" + BOMB)), id="a text of 200 MB"),
        pytest.param(png(chunk(b"iCCP", b"a\0\0" + BOMB)), id="a profile of 200 MB"),
        pytest.param(png(side=0x7FFFFFFF), id="2 147 483 647 pixels wide"),
    ],
)
@pytest.mark.parametrize("name", ["x.png", "../../../etc/passwd", "a" * 5000, "C:\\x\0.png"])
def test_an_image_that_is_larger_than_it_looks_is_refused(
    client: TestClient, data: bytes, name: str
) -> None:
    answer = client.post(f"{API}/references", files={"image": (name, data)})
    assert answer.status_code in (400, 413, 422), answer.text
    assert "etc" not in answer.text
    assert client.get("/healthz").status_code == 200
