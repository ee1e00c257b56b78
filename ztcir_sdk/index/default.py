"""The index that is searched where none is named."""

from __future__ import annotations

import os
from pathlib import Path

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.names import INDEX_SUFFIX, is_milvus_address

__all__ = ["default_index_path"]

INDEX_VARIABLE = "ZTCIR_INDEX"


def default_index_path(folder: str | os.PathLike[str] | None = None) -> Path | str:
    """Return ``$ZTCIR_INDEX``, else the only ``*.ztcir`` in `folder`, by default the current one.

    It is a path, or an address of Milvus. An index in a parent or in the home folder is never used.

    Raises:
        ZtcirError: there is no index.
        UsageError: there are several.
    """
    if named := os.environ.get(INDEX_VARIABLE):
        return named if is_milvus_address(named) else Path(named)
    here = Path.cwd() if folder is None else Path(folder)
    found = sorted(path for path in here.glob(f"*{INDEX_SUFFIX}") if path.is_dir())
    if not found:
        raise ZtcirError(
            f"There is no index in {here}: build one with `ztcir index FOLDER`, or name one with "
            f"--index or ${INDEX_VARIABLE}."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(
            f"There are several indexes in {here} ({names}): name one with --index or "
            f"${INDEX_VARIABLE}."
        )
    return found[0]
