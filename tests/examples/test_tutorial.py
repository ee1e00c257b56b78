"""The tutorial is executed word for word, and what executes it notices a wrong word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("bash") or not shutil.which("curl"),
    reason="the commands are for a POSIX shell, with curl",
)


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with `ztcir` and `python` of this checkout, as an installation has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, arguments in (("ztcir", " -m cli"), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        script.chmod(0o755)
    return folder


def execute(document: Path, commands: Path, *arguments: str) -> tuple[int, str]:
    folder = commands.parent / "work"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "tutorial.py", document, folder, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_tutorial_does_what_it_says(commands: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    status, printed = execute(ROOT / "docs" / "tutorial.md", commands, "--skip", "Install")
    assert status == 0, printed
    assert int(printed.split()[0]) >= 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$ echo one 0.51\none 0.50", ""),
        ("$ printf 'a\\nb\\nc\\n'\n...\nc", ""),
        ("$ echo 1 photos/x-07.jpg\n1 photos/x-....jpg", ""),
        ("$ echo one\ntwo", "prints:\none\nand not:\ntwo"),
        ("$ echo one 0.51\none 0.60", "and not"),
        ("$ echo one", "and not"),
        ("$ true\nmore", "and not"),
        ("$ false", "ended with 1"),
        ("$ exit 3", "the shell ended"),
    ],
)
def test_a_word_that_is_wrong_is_noticed(text: str, expected: str, commands: Path) -> None:
    document = commands.parent / "page.md"
    document.write_text(f"## Start\n\n```console\n{text}\n```\n")
    status, printed = execute(document, commands)
    assert status == bool(expected), printed
    assert expected in printed


def test_a_file_that_is_shown_is_written_and_its_shell_remembers(commands: Path) -> None:
    document = commands.parent / "page.md"
    document.write_text(
        '```text title="a.txt"\nit\'s $HOME\n```\n\n'
        "```console\n$ mkdir there; mv a.txt there\n$ cd there\n$ cat a.txt\nit's $HOME\n```\n"
    )
    status, printed = execute(document, commands)
    assert status == 0, printed
