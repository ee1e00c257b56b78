"""Clients that send slowly, over real sockets: none holds a place that others need."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from running_service import running_service

from ztcir_sdk.serve.settings import ServeSettings

SECONDS = 0.4
"""What the headers of a request, or a body, may take here."""
FORM = b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\n"
MULTIPART = FORM + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000\r\n\r\n"
MULTIPART += b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
PLAIN = FORM + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9000\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a service that works on two requests at once."""
    settings = ServeSettings(max_requests=2, read_timeout=SECONDS)
    with running_service(tmp_path_factory.mktemp("slow"), settings) as port:
        yield port


def drip(port: int, start: bytes, *, seconds: float = 20.0) -> tuple[bytes, float]:
    """Send a start, then a byte every tenth of `SECONDS`; return the answer, and when it ended."""
    received, since = b"", time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as client, contextlib.suppress(OSError):
        client.sendall(start)
        client.settimeout(SECONDS / 10)
        while time.perf_counter() - since < seconds:
            try:
                part = client.recv(65536)
            except TimeoutError:
                client.sendall(b"a")
                continue
            received += part
            if not part:
                break
    return received, time.perf_counter() - since


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", id="headers"),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nX-Slow: ",
            id="headers of a second request",
        ),
        pytest.param(
            b"POST /nothing HTTP/1.1\r\nHost: other\r\nContent-Length: 9000\r\n\r\n",
            id="a body after the answer",
        ),
    ],
)
def test_a_connection_without_a_whole_request_is_closed(port: int, start: bytes) -> None:
    answer, spent = drip(port, start)
    assert spent < 5 * SECONDS, answer
    assert answer.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize("start", [MULTIPART, PLAIN], ids=["multipart", "plain"])
def test_a_slow_body_is_answered_with_a_sentence_and_closed(port: int, start: bytes) -> None:
    answer, spent = drip(port, start)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 "), answer
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["kind"] == "slow"
    assert SECONDS * 0.9 < spent < 5 * SECONDS


LARGE = FORM + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 30000000\r\n\r\n"


def test_who_sends_too_much_to_the_end_still_gets_the_sentence(port: int) -> None:
    """As a proxy does, which takes a connection that breaks while it sends for a failure."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(LARGE)
        for _ in range(30):
            client.sendall(b"a" * 1_000_000)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 "), answer
    assert json.loads(body)["error"]["message"].startswith("The request has over 20 MB")


def test_who_sends_too_much_slowly_is_disconnected(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztcir_sdk.serve.guard.LINGER", SECONDS)
    answer, spent = drip(port, LARGE)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert SECONDS * 0.9 < spent < 5 * SECONDS


def test_slow_clients_keep_no_one_out(port: int) -> None:
    threads = [threading.Thread(target=drip, args=(port, MULTIPART)) for _ in range(2)]
    for thread in threads:
        thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": "localhost"}) as client:
        until = time.perf_counter() + 20 * SECONDS
        while (answer := client.post("/api/v1/search", data={"text": "red"})).status_code == 503:
            assert time.perf_counter() < until  # both places were held; they are free again
            time.sleep(SECONDS / 10)
    for thread in threads:
        thread.join()
    assert answer.status_code == 200, answer.text


def test_a_body_that_comes_steadily_may_take_longer(port: int) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nred\r\n'
    filler = b'--x\r\nContent-Disposition: form-data; name="not"\r\n\r\n' + b" " * 40_000 + b"\r\n"
    parts = [part, *[filler] * 10, b"--x--\r\n"]
    start = FORM + b"Connection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(start + f"Content-Length: {sum(map(len, parts))}\r\n\r\n".encode())
        for one in parts:
            client.sendall(one)
            time.sleep(SECONDS / 5)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
