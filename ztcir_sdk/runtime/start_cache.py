"""What one start leaves for the next in the user's cache, so that it need not be done again.

`RememberedChecks` remembers which files had which checksum, and `ztcir_sdk.runtime.onnx.optimised`
keeps graphs as ONNX Runtime optimised them. Neither is needed: where the folder cannot be written,
or belongs to somebody else, every start does all of its work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ztcir_sdk.files import hash_file, read_bounded, write_whole

__all__ = [
    "START_CACHE_VARIABLE",
    "Identity",
    "RememberedChecks",
    "identity",
    "is_settled",
    "start_cache",
]

START_CACHE_VARIABLE = "ZTCIR_START_CACHE"
"""Environment variable: another folder than the one in the user's cache; "off" keeps nothing."""
FORMAT = 1
RECORD_BYTES = 1_000_000
RECHECK_SECONDS = 7 * 86_400.0
"""A file is hashed again after a week: no time stamp shows what a disk has lost."""
SETTLED_SECONDS = 2.0
"""A file that was changed later than this ago may change again within the same time stamp."""

Identity = list[int]
"""Size, time of the last change of content and of the entry (ns), inode and device of a file."""


def start_cache() -> Path | None:
    """Return the folder, which may not exist yet; None if it must not be used.

    On POSIX it must belong to this user, and nobody else may write to it.
    """
    named = os.environ.get(START_CACHE_VARIABLE, "")
    if named.lower() == "off":
        return None
    if named:
        folder = Path(named).absolute()
    else:
        from platformdirs import user_cache_path

        folder = Path(user_cache_path("ztcir")) / "start"
    try:
        status = folder.stat()
    except FileNotFoundError:
        return folder
    except OSError:
        return None
    return folder if stat.S_ISDIR(status.st_mode) and is_own(status) else None


def is_own(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user alone, as far as the system says."""
    if sys.platform == "win32":  # the user's profile has its own access list
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def identity(path: Path) -> Identity:
    """Return what changes with a file's content.

    Raises:
        OSError: the file is missing.
    """
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def is_settled(one: Identity) -> bool:
    """Return whether a file was changed long enough ago for its time stamps to show a change."""
    return max(one[1], one[2]) < time.time_ns() - int(SETTLED_SECONDS * 1e9)


class RememberedChecks:
    """The checksums of the files of a bundle, each computed once and then remembered.

    A checksum is believed for a file with the same size, times, inode and device, for a week. So a
    file that is cut short, overwritten, copied or replaced is hashed again. What only a new
    checksum shows is a disk that loses bits by itself: within a week, or by ``ztcir doctor``.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Read what is known of the bundle in a folder whose manifest has a fingerprint (hex)."""
        cache = start_cache()
        self._record: Path | None = None
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        self._fingerprint = fingerprint
        if cache is None:
            return
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        self._record = cache / "checked" / f"{name}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            if not is_own(self._record.stat()):
                return
            values = json.loads(read_bounded(self._record, RECORD_BYTES))
            if values.get("format") == FORMAT and values.get("bundle") == fingerprint:
                self._known = dict(values["files"])

    def has_checksum(self, path: Path, name: str, sha256: str) -> bool:
        """Return whether a file has a checksum (hex); it is read if that is not known.

        Raises:
            OSError: it cannot be read.
        """
        before = identity(path)
        if self.is_known(name, before, sha256):
            return True
        if hash_file(path) != sha256:
            self._known.pop(name, None)
            return False
        if identity(path) == before and is_settled(before):
            self._known[name] = [sha256, *before, time.time()]
            self._changed = True
        return True

    def is_known(self, name: str, now: Identity, sha256: str) -> bool:
        """Return whether a file with this identity had this checksum within the last week."""
        known = self._known.get(name)
        if not isinstance(known, list) or len(known) != 2 + len(now):
            return False
        checked = known[-1]
        fresh = isinstance(checked, float) and 0 <= time.time() - checked < RECHECK_SECONDS
        return fresh and known[:-1] == [sha256, *now]

    def save(self) -> None:
        """Write what is new; a folder that cannot be written is none of the user's business."""
        if self._record is None or not self._changed:
            return
        values: Mapping[str, Any] = {
            "format": FORMAT,
            "bundle": self._fingerprint,
            "files": self._known,
        }
        with contextlib.suppress(OSError):
            self._record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._record, json.dumps(values))
            self._record.chmod(0o600)
