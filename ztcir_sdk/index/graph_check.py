"""Check a file of hnswlib before hnswlib reads it.

hnswlib checks only the file's length. Every number in it that says how much memory is taken, or
where in it something is, is checked here: the header, the number of links of every node, the nodes
that they lead to, and the label of every node. Vectors need no check: a wrong one is found at a
wrong distance.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.manifest import GraphRecord

__all__ = ["check_graph"]

# `HierarchicalNSW::saveIndex` of hnswlib 0.6 to 0.8, on machines with 64 bits.
_HEADER = np.dtype(
    [
        ("offset", "<u8"),
        ("most", "<u8"),
        ("count", "<u8"),
        ("node_bytes", "<u8"),
        ("label_offset", "<u8"),
        ("vector_offset", "<u8"),
        ("top", "<i4"),
        ("entry", "<u4"),
        ("links_above", "<u8"),
        ("links_below", "<u8"),
        ("m", "<u8"),
        ("scale", "<f8"),
        ("ef_construction", "<u8"),
    ]
)
_MAX_LEVEL = 64
"""Levels of a graph; 16 links a node make 1 / 16 of the nodes of a level reach the next."""
_NODES_AT_ONCE = 1 << 16


def check_graph(file: Path, dim: int, record: GraphRecord) -> None:
    """Check the graph of a record, of vectors with `dim` values.

    Raises:
        ValueError: it does not match, in a sentence without a subject.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    if size != record.bytes or size < _HEADER.itemsize:
        raise ValueError(f"it has {size} bytes, not {record.bytes}")
    header = np.fromfile(file, dtype=_HEADER, count=1)[0]
    node = _check_header(header, dim, record)
    level_0 = _HEADER.itemsize + record.rows * node.itemsize
    if size < level_0 + 4 * record.rows:
        raise ValueError("it ends too early")
    if record.rows == 0:
        return
    nodes = np.memmap(file, dtype=node, mode="r", offset=_HEADER.itemsize, shape=(record.rows,))
    _check_nodes(nodes, record.rows)
    rest = np.fromfile(file, dtype="<u4", offset=level_0)
    if (size - level_0) % 4:
        raise ValueError("its last part is not a whole number of words")
    _check_levels(rest, header, record)


def _check_header(header: Any, dim: int, record: GraphRecord) -> np.dtype[Any]:
    """Check the header; return the type of a node on the lowest level."""
    m, rows = record.m, record.rows
    node = np.dtype(
        [
            ("count", "<u2"),
            ("flags", "<u2"),
            ("links", "<u4", (2 * m,)),
            ("vector", "<f4", (dim,)),
            ("label", "<u8"),
        ]
    )
    expected = {
        "offset": 0,
        "count": rows,
        "node_bytes": node.itemsize,
        "label_offset": node.itemsize - 8,
        "vector_offset": 4 + 8 * m,
        "links_above": m,
        "links_below": 2 * m,
        "m": m,
    }
    for name, value in expected.items():
        if int(header[name]) != value:
            raise ValueError(f"its {name} is {int(header[name])}, not {value}")
    if not (rows <= int(header["most"]) <= max(4 * rows, 1 << 20)):
        raise ValueError(f"its room is {int(header['most'])} nodes for {rows}")
    if not (1 <= int(header["ef_construction"]) <= 1 << 20 and 0 <= header["scale"] <= 100):
        raise ValueError("its settings are not ones that ztcir uses")
    if rows and not (0 <= int(header["top"]) < _MAX_LEVEL and int(header["entry"]) < rows):
        raise ValueError("its entry point is not one of its nodes")
    return node


def _check_nodes(nodes: NDArray[Any], rows: int) -> None:
    """Check the links on the lowest level, and that the labels are 0 to `rows` - 1."""
    seen = np.zeros(rows, dtype=np.bool_)
    most = nodes.dtype["links"].shape[0]
    for start in range(0, rows, _NODES_AT_ONCE):
        part = nodes[start : start + _NODES_AT_ONCE]
        _check_links(part["count"], part["links"], most, rows)
        labels = part["label"]
        if int(labels.max()) >= rows:
            raise ValueError("a label is not one of its rows")
        seen[labels.astype(np.int64)] = True
    if not seen.all():
        raise ValueError("rows are missing in it")


def _check_links(counts: Any, links: Any, most: int, rows: int) -> None:
    if int(counts.max(initial=0)) > most:
        raise ValueError("a node has more links than there is room for")
    used = np.arange(most) < counts[:, None]
    if int(np.where(used, links, 0).max(initial=0)) >= rows:
        raise ValueError("a link leads to no node")


def _check_levels(words: NDArray[np.uint32], header: Any, record: GraphRecord) -> None:
    """Check the links above the lowest level.

    `words` holds for each node the bytes of its links, 0 for most, and then these.
    """
    width = 1 + record.m  # words of a node's links on one level
    starts: list[int] = []  # offset of the first word of each list of links
    levels = np.zeros(record.rows, dtype=np.int64)
    filled = np.flatnonzero(words).tolist()
    at = node = 0
    while (number := bisect_left(filled, at)) < len(filled):
        node += filled[number] - at  # nodes without links
        at = filled[number]
        size = int(words[at])
        level, rest = divmod(size, 4 * width)
        if rest or not 0 < level <= int(header["top"]) or node >= record.rows:
            raise ValueError("a node has links of no possible size")
        if at + 1 + size // 4 > len(words):
            raise ValueError("it ends too early")
        levels[node] = level
        starts.extend(range(at + 1, at + 1 + level * width, width))
        node += 1
        at += 1 + level * width
    if node + len(words) - at != record.rows:
        raise ValueError("it has links of too few or too many nodes")
    if int(levels[int(header["entry"])]) != int(header["top"]):
        raise ValueError("its entry point is not on the highest level")
    if starts:
        lists = words[np.asarray(starts)[:, None] + np.arange(width)]
        _check_links(lists[:, 0] & 0xFFFF, lists[:, 1:], record.m, record.rows)
        _check_heights(np.asarray(starts), lists, levels, width, words)


def _check_heights(
    starts: NDArray[np.int64],
    lists: NDArray[np.uint32],
    levels: NDArray[np.int64],
    width: int,
    words: NDArray[np.uint32],
) -> None:
    """Check that links of a level lead to nodes that reach this level."""
    owners = levels[levels > 0]
    of_list = np.concatenate([np.arange(1, count + 1) for count in owners.tolist()])
    used = np.arange(width - 1) < (lists[:, 0] & 0xFFFF)[:, None]
    reached = levels[np.where(used, lists[:, 1:], 0)]
    if (used & (reached < of_list[:, None])).any():
        raise ValueError("a link leads to a node that is not on its level")
