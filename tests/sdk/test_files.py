"""Files and folders are replaced as a whole, on every system."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import files
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.files import flush_folder, folder_whole, open_whole, write_whole
from ztcir_sdk.index import Index


def test_a_written_file_replaces_the_old_one_and_leaves_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "first")
    write_whole(file, "zweite Fassung ü")
    assert file.read_text(encoding="utf-8") == "zweite Fassung ü"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, b"old")

    def fail() -> None:
        with open_whole(file, "w", encoding="utf-8") as stream:
            stream.write("half of the")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with folder_whole(target) as fresh:
        (fresh / "a").write_text("old")

    def fail() -> None:
        with folder_whole(target) as fresh:
            (fresh / "b").write_text("new")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_only_a_file_system_that_cannot_flush_folders_is_tolerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)):
            flush_folder(tmp_path)
    else:
        flush_folder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="pretends on a POSIX system to be Windows")
def test_bundles_and_indexes_are_written_where_only_files_opened_for_writing_can_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    import fcntl

    def flush(descriptor: int) -> None:
        read_only = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if read_only or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise PermissionError(errno.EACCES, "cannot flush")

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(files, "sys", types.SimpleNamespace(platform="win32"))
    assert Bundle.load(write_tiny_bundle(tmp_path / "bundle").path).name == "tiny"
    index = Index.create(
        tmp_path / "a.ztcir", dim=2, image_tower="ab", precision="fp32", root=tmp_path
    )
    with index.edit() as edit:
        unit = np.array([0, 1], dtype=np.float32)
        edit.put("a.jpg", unit, content_hash="0" * 64, size=1, mtime_ns=1)
    assert len(Index.open(tmp_path / "a.ztcir", image_tower="ab")) == 1


def test_the_sdk_and_the_command_line_load_without_the_modules_that_only_posix_has() -> None:
    code = """
import importlib, pkgutil, sys
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios"):
    sys.modules[name] = None
for package in ("ztcir_sdk", "cli"):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(found.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
