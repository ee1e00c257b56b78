"""Copies of a bundle with some entries changed."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from ztcir_sdk.bundle import Bundle

__all__ = ["copy_bundle"]


def copy_bundle(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    *,
    files: Mapping[str, bytes | Path] | None = None,
    without: Collection[str] = (),
    overwrite: bool = False,
    **changes: Any,
) -> Bundle:
    """Write a copy of a bundle; what is not named stays as it is.

    Args:
        bundle: the bundle to copy.
        folder: folder of the copy; it may be that of `bundle`, with `overwrite`.
        files: further files, or new contents: name -> content, or the path to copy it from.
        without: names of files to leave out.
        overwrite: replace an existing bundle.
        **changes: entries of `Manifest`, with their new values.

    Raises:
        UsageError: `folder` exists.
        BundleError: an entry is wrong, or the bundle cannot be read or written.
    """
    entries = asdict(bundle.manifest)
    for name in ("format", "ztcir", "files"):
        del entries[name]
    kept = {file: bundle.path / file for file in bundle.manifest.files if file not in without}
    return Bundle.write(
        folder, files={**kept, **(files or {})}, overwrite=overwrite, **{**entries, **changes}
    )
