"""Files that must survive a crash, and their checksums."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

__all__ = ["flush_file", "flush_folder", "hash_file"]

BLOCK = 1 << 20


def hash_file(file: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    hasher = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def flush_file(file: Path) -> None:
    """Bring a file's bytes to the disk itself."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Bring a folder's names to the disk itself, where the system can."""
    if sys.platform == "win32":  # there a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
