"""Files of tensor data that an ONNX graph names beside itself."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection
from pathlib import Path

from ztcir_sdk.errors import BundleError

__all__ = ["check_external_data"]

# A StringStringEntryProto with the key "location": its two fields, in either order.
_KEY = rb"\x0a\x08location"
_LOCATION = re.compile(_KEY + rb"\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")
_REVERSED = re.compile(rb"\x12([\x01-\x7f])([\x20-\x7e]{1,127}?)" + _KEY)


def check_external_data(graph: Path, listed: Collection[str]) -> None:
    """Refuse a graph whose tensor data lie in a file without a checksum.

    ONNX Runtime itself refuses files outside of the graph's folder.

    Args:
        graph: the ``.onnx`` file.
        listed: names of the files that the manifest lists, relative to the graph's folder.

    Raises:
        BundleError: it names another file.
    """
    with graph.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            named = {
                data[found.end() : found.end() + _length(found[1])]
                for found in _LOCATION.finditer(data)
            }
            named |= {
                found[2] for found in _REVERSED.finditer(data) if len(found[2]) == found[1][0]
            }
    for name in sorted(named):
        if name.decode("utf-8", "replace") not in listed:
            raise BundleError(
                f"The graph {graph.name} keeps tensor data in {name.decode('utf-8', 'replace')!r}, "
                "which the manifest does not list: export the bundle again."
            )


def _length(varint: bytes) -> int:
    return varint[0] if len(varint) == 1 else (varint[0] & 0x7F) | varint[1] << 7
