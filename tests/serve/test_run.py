"""The running command: it starts, answers, and finishes what runs when it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner
from PIL import Image
from places import ROOT
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk import Retriever

SLOW = """
import time
from cli.main import main
from ztcir_sdk import Retriever
real = Retriever.search_many
def slow(self, *args, **options):
    print("searching", flush=True)
    time.sleep(1)
    return real(self, *args, **options)
Retriever.search_many = slow
from cli.main import main
main(prog_name="ztcir")
"""


@contextlib.contextmanager
def running(
    folder: Path, *command: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str], str]]:
    """Run a command that serves; give its process, standard output, log, and address."""
    with subprocess.Popen(
        [sys.executable, *command, "--bundle", "tiny"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        address = None
        try:
            while address is None:
                line = process.stderr.readline()
                assert line, lines
                lines.append(line)
                address = re.search(r"at (http://localhost:\d+/)", line)
            yield process, process.stdout, process.stderr, address[1]
        finally:
            process.kill()


def search(address: str) -> dict[str, Any]:
    url = f"{address}api/v1/search".replace("localhost", "127.0.0.1")
    with urllib.request.urlopen(url, data=b"text=red", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_stopped_service_finishes_its_requests(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 0, 90)).save(tmp_path / "photos" / f"{number}.png")
    Retriever(bundle, threads=1).index(tmp_path / "photos", to=tmp_path / "photos.ztcir")
    command = ("-c", SLOW, "serve", "photos.ztcir", "--port", "0")
    answers: list[dict[str, Any]] = []
    with running(tmp_path, *command) as (process, output, log, address):
        thread = threading.Thread(target=lambda: answers.append(search(address)))
        thread.start()
        assert output.readline() == "searching\n"
        process.send_signal(signal.SIGTERM)
        thread.join()
        rest = log.read()
        process.wait()
    [answer] = answers
    assert len(answer["hits"]) == 3
    assert "Traceback" not in rest
    events = [json.loads(line)["event"] for line in rest.splitlines() if line.startswith("{")]
    assert "stopped" in events


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a process")
def test_the_demo_serves_its_page_until_it_is_interrupted(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    command = ("-m", "cli", "demo", "--serve", "--json")
    # the command that would open the page prints its address
    with running(tmp_path, *command, BROWSER="echo %s") as (process, output, log, address):
        page = address.replace("localhost", "127.0.0.1")
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert b"<html" in answer.read()
        assert search(address)["hits"]
        process.send_signal(signal.SIGINT)
        rest = log.read()
        printed, opened = output.read().splitlines()
        process.wait()
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert json.loads(printed)["contact_sheet"] == str(tmp_path / "contact-sheet.png")
    assert opened == address


def test_an_index_in_milvus_is_refused_with_a_sentence(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    address = "milvus://localhost:1/photos"
    for named, env in (([address], {}), ([], {"ZTCIR_INDEX": address})):
        arguments = ["serve", *named, "--bundle", str(tmp_path / "tiny")]
        done = CliRunner().invoke(main, arguments, env=env)
        assert done.exit_code == 2, done.output
        assert "needs an index in a folder, not in Milvus" in done.stderr
