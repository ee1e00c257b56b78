"""The running command: it starts, answers, and finishes what runs when it is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_stopped_service_finishes_its_requests(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 0, 90)).save(tmp_path / "photos" / f"{number}.png")
    Retriever(bundle, threads=1).index(tmp_path / "photos", to=tmp_path / "photos.ztcir")
    command = [sys.executable, "-c", SLOW, "serve", "photos.ztcir", "--port", "0"]
    with subprocess.Popen(
        [*command, "--bundle", "tiny"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        lines: list[str] = []
        address = None
        while address is None:
            line = process.stderr.readline()
            assert line, lines
            lines.append(line)
            address = re.search(r"at http://localhost:(\d+)/", line)
        answers: list[dict[str, object]] = []

        def ask() -> None:
            url = f"http://127.0.0.1:{address[1]}/api/v1/search"
            with urllib.request.urlopen(url, data=b"text=red", timeout=60) as answer:
                answers.append(json.load(answer))

        thread = threading.Thread(target=ask)
        thread.start()
        assert process.stdout.readline() == "searching\n"
        process.send_signal(signal.SIGTERM)
        thread.join()
        rest = process.stderr.read()
        process.wait()
    [answer] = answers
    assert len(answer["hits"]) == 3  # type: ignore[arg-type]
    assert "Traceback" not in rest
    events = [json.loads(line)["event"] for line in rest.splitlines() if line.startswith("{")]
    assert "stopped" in events


def test_an_index_in_milvus_is_refused_with_a_sentence(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    address = "milvus://localhost:1/photos"
    for named, env in (([address], {}), ([], {"ZTCIR_INDEX": address})):
        arguments = ["serve", *named, "--bundle", str(tmp_path / "tiny")]
        done = CliRunner().invoke(main, arguments, env=env)
        assert done.exit_code == 2, done.output
        assert "needs an index in a folder, not in Milvus" in done.stderr
