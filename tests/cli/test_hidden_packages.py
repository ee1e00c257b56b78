"""Files of the user that have the name of one of this project's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

SCRIPT = "from ztcir_sdk.command import main; main()"
"""As in the script `ztcir`, whose own folder stands first in `sys.path`."""


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script `ztcir` in a folder that PYTHONPATH names first."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
    )


def assert_names(done: subprocess.CompletedProcess[str], file: Path) -> None:
    """Failed with one sentence that names the file."""
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: {file.resolve()} hides the package {file.stem} of ztcir: ")


def test_a_local_cli_py_is_named(tmp_path: Path) -> None:
    (tmp_path / "cli.py").write_text("raise SystemExit('not the command line')\n")
    assert_names(run("search", "ref.jpg", "make it red", folder=tmp_path), tmp_path / "cli.py")


@pytest.mark.parametrize("command", [["train", "map", "--help"], ["triplets", "--help"]])
def test_a_local_train_py_is_named(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit('not the training')\n")
    assert_names(run(*command, folder=tmp_path), tmp_path / "train.py")


def test_a_local_export_py_is_named(tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text("")
    done = run("export", "--backbone", "ViT-B-32", folder=tmp_path)
    assert_names(done, tmp_path / "export.py")


def test_commands_that_need_no_hidden_package_run(tmp_path: Path) -> None:
    for name in ("train.py", "export.py"):
        (tmp_path / name).write_text("raise SystemExit('not imported')\n")
    (tmp_path / "cli").mkdir()  # a folder without __init__.py hides nothing
    done = run("search", "--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
