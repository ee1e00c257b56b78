"""Files of tensor data that an ONNX graph names beside itself.

The graph is read as Protocol Buffers (https://protobuf.dev/programming-guides/encoding), without
the package onnx: only the messages that lead to tensors, by the field numbers of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ztcir_sdk.errors import BundleError

__all__ = ["check_external_data"]

_LOCATION = b"location"
MAX_FIELDS = 1_000_000
"""Fields of a graph that are read; a graph with 2 000 nodes has about 30 000."""
MAX_LEVELS = 100
"""Messages inside each other, the limit of the protobuf libraries too."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types; groups, 3 and 4, are in no ONNX file."""

_INSIDE: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        **{5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph"},
        **{22: "SparseTensor", 23: "SparseTensor"},
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
"""Message -> the fields that are messages which may have tensors in them."""
_KEY, _VALUE = 1, 2
"""Fields of an entry, of which each external tensor has some: its file is called "location"."""


def check_external_data(graph: Path, listed: Collection[str]) -> None:
    """Refuse a graph whose tensor data lie in a file without a checksum.

    ONNX Runtime itself refuses files outside of the graph's folder.

    Args:
        graph: the ``.onnx`` file.
        listed: names of the files that the manifest lists, relative to the graph's folder.

    Raises:
        BundleError: it names another file, or is not an ONNX file.
    """
    with graph.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(_LOCATION) < 0:  # as for most graphs: nothing can name a file
                return
            try:
                named = set(_locations(data))
            except ValueError as error:
                raise BundleError(
                    f"The graph {graph.name} is not an ONNX file ({error}): export the bundle "
                    "again."
                ) from error
    for name in sorted(named):
        if name.decode("utf-8", "replace") not in listed:
            raise BundleError(
                f"The graph {graph.name} keeps tensor data in {name.decode('utf-8', 'replace')!r}, "
                "which the manifest does not list: export the bundle again."
            )


def _locations(data: mmap.mmap) -> Iterator[bytes]:
    """Yield the location of each external tensor.

    Raises:
        ValueError: it is not an ONNX file, or has too many fields or levels.
    """
    waiting = [("Model", 0, len(data), 0)]  # message, first byte, end, levels above it
    seen = 0
    while waiting:
        message, first, end, level = waiting.pop()
        inside = _INSIDE.get(message, {})
        entry: list[tuple[int, bytes]] = []
        for field, start, stop in _fields(data, first, end):
            seen += 1
            if seen > MAX_FIELDS or level > MAX_LEVELS:
                raise ValueError("it has too many fields or levels")
            if field in inside:
                waiting.append((inside[field], start, stop, level + 1))
            elif message == "Entry" and field in (_KEY, _VALUE):
                entry.append((field, data[start:stop]))
        # A field may be there several times, and which one counts is the reader's choice.
        if (_KEY, _LOCATION) in entry:
            yield from (value for field, value in entry if field == _VALUE)


def _fields(data: mmap.mmap, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of each field of a message; a number has no bytes."""
    at = first
    while at < end:
        tag, at = _varint(data, at, end)
        kind, start = tag & 7, at
        if kind == _BYTES:
            size, start = _varint(data, at, end)
            at = start + size
        elif kind == _VARINT:
            _, start = _varint(data, at, end)
            at = start
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if at > end:
            raise ValueError("a field is longer than its message")
        yield (tag >> 3 if kind == _BYTES else 0), start, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("a number does not end")
