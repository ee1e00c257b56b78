"""The index that is served: its newest state, its items by identifier, and their pictures."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import threading
import time
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ztcir_sdk.decoding import load_small
from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.files import is_inside
from ztcir_sdk.filters import parse_filter
from ztcir_sdk.filters.sql import check_fields, where_clause
from ztcir_sdk.index import Index, IndexView
from ztcir_sdk.index.items import Item
from ztcir_sdk.names import is_milvus_address, is_tar
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.serve.failures import ServiceError
from ztcir_sdk.serve.fields import offered_fields
from ztcir_sdk.serve.logs import log
from ztcir_sdk.sources import container_of, read_image

__all__ = ["ORDERS", "ServedIndex", "picture_of"]

ORDERS = {"path": "path", "mixed": "hash"}
"""Order of a list of items -> SQL; by hash, neighbours in a folder are not neighbours here."""
REFRESH_SECONDS = 1.0
"""How old the served state may be while another process updates the index."""
FIELD_ITEMS = 5000
"""Items whose metadata is looked at for the fields that can be filtered by."""
THUMBNAILS = 2000
"""Small pictures that are kept in memory, each of about 15 kB."""


class ServedIndex:
    """An index that other processes may update while it is served. Threads may share one."""

    def __init__(self, retriever: Retriever, path: str | os.PathLike[str]) -> None:
        """Open the index.

        Raises:
            UsageError: it is in Milvus.
            IndexMismatchError: it was made by another image tower.
            ZtcirError: there is no index, or it is corrupt.
        """
        if is_milvus_address(path):
            raise UsageError("The service needs an index in a folder, not in Milvus.")
        self.path = Path(path)
        self._retriever = retriever
        self._lock = threading.Lock()
        self._view = self._newest()
        self._checked = time.monotonic()
        self._fields: tuple[IndexView, list[dict[str, Any]]] | None = None

    def _newest(self) -> IndexView:
        index = self._retriever.open_index(self.path)
        assert isinstance(index, Index)  # of a folder
        return index.view

    @property
    def view(self) -> IndexView:
        """The newest state that can be used; checked about once a second."""
        with self._lock:
            if time.monotonic() - self._checked >= REFRESH_SECONDS:
                self._checked = time.monotonic()
                try:
                    newest = self._newest()
                except ZtcirError as error:  # deleted or corrupt: the open state still answers
                    log("index not refreshed", level=logging.WARNING, reason=str(error))
                else:
                    if newest is not self._view:
                        log("index refreshed", items=len(newest))
                    self._view = newest
            return self._view

    def copies(self, identifier: str) -> list[Item]:
        """Return the items whose file has an identifier, its SHA-256 (hex), ordered by path.

        Raises:
            ServiceError: there is none.
        """
        found = self.view.by_hash(identifier)
        if not found:
            raise ServiceError(
                404, "not-found", f"There is no item {identifier[:12]!r}: search or list again."
            )
        return found

    def listed(
        self, offset: int, limit: int, order: str, where: str | None = None
    ) -> tuple[list[Item], int]:
        """Return some items, in an order of `ORDERS`, and how many there are in all.

        Raises:
            FilterError: the filter `where` is wrong.
        """
        view = self.view
        clause = "1"
        values: list[Any] = []
        if where:
            condition = parse_filter(where)
            check_fields(view.sql, condition)
            clause, values = where_clause(condition)
        rows = view.sql(
            f"SELECT label FROM items WHERE {clause} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        total = len(view)
        if where:
            [(total,)] = view.sql(f"SELECT count(*) FROM items WHERE {clause}", values)
        return view.items_at([label for (label,) in rows]), total

    def read(self, identifier: str) -> bytes:
        """Return the bytes that an identifier names, from the first of its copies that has them.

        Raises:
            ServiceError: there is no such item, or each of its files is gone, leads out of the
                collection, or was replaced since it was indexed.
        """
        replaced = False
        for item in self.copies(identifier):
            try:
                return self._read(item)
            except _ReplacedError:
                replaced = True
            except ImageError as error:
                log("item not readable", level=logging.WARNING, reason=str(error))
        raise ServiceError(
            404,
            "not-found",
            "The picture of this item was replaced since it was indexed: update the index."
            if replaced
            else "The picture of this item cannot be read: update the index.",
        )

    def _read(self, item: Item) -> bytes:
        root = self.view.root
        path = PurePosixPath(item.path)
        inside = not path.is_absolute() and ".." not in path.parts and "\\" not in item.path
        if not inside or not is_inside(root / path, root):
            raise ImageError(f"{item.path} leads out of the collection.")
        data = read_image(root, item.path)
        if hashlib.sha256(data).hexdigest() == item.content_hash:
            return data
        container = container_of(root / path)
        # another version of the video library may decode a frame to other bytes
        if container is not None and not is_tar(container.name):
            with contextlib.suppress(OSError):
                if container.stat().st_mtime_ns == item.mtime_ns:
                    return data
        raise _ReplacedError(item.path)

    def fields(self) -> list[dict[str, Any]]:
        """Return the fields of the first items' metadata; see `offered_fields`."""
        view = self.view
        if self._fields is None or self._fields[0] is not view:
            items = islice(view.items(), FIELD_ITEMS)
            self._fields = (view, offered_fields(item.metadata for item in items))
        return self._fields[1]


class _ReplacedError(Exception):
    """A file that has another content than was indexed."""


@lru_cache(maxsize=THUMBNAILS)
def _small(identifier: str, side: int, index: _AnyIndex) -> bytes:
    return _encoded(index.index.read(identifier), side)


class _AnyIndex:
    """An index that equals every other, so that a cache ignores it: an identifier names bytes."""

    def __init__(self, index: ServedIndex) -> None:
        self.index = index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _AnyIndex)

    def __hash__(self) -> int:
        return 0


def picture_of(index: ServedIndex, identifier: str, side: int) -> bytes:
    """Return an item's picture as a JPEG whose longest side has at most `side` pixels.

    It is made anew from the pixels: neither the file nor what it hides leaves the machine.

    Raises:
        ServiceError: there is no such item, or its picture is gone, replaced or damaged.
    """
    index.copies(identifier)  # what was removed from the index is shown no more, though remembered
    if side <= 512:
        return _small(identifier, side, _AnyIndex(index))
    return _encoded(index.read(identifier), side)


def _encoded(data: bytes, side: int) -> bytes:
    try:
        image = load_small(data, side, name="The picture")
    except ImageError as error:
        raise ServiceError(404, "not-found", str(error)) from error
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=84, optimize=True)
    return stream.getvalue()
