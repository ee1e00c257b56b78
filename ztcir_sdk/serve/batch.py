"""Files of queries: each row is answered; one that cannot be has its error, and spoils no other."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.query import Query
from ztcir_sdk.query.batch import BatchQuery, parse_batch
from ztcir_sdk.serve.failures import as_service_error, error_body
from ztcir_sdk.serve.models import HitModel
from ztcir_sdk.serve.searching import Searches
from ztcir_sdk.serve.settings import MAX_WHERE

__all__ = ["MAX_QUERIES", "answer_batch"]

MAX_QUERIES = 1000
"""Queries of one file."""
MAX_LINE = 100_000
"""Bytes of one line of a file: more than the texts that a search may have can take."""


async def answer_batch(
    data: bytes,
    name: str,
    searches: Searches,
    check: Callable[[Query], None],
    described: Callable[[Hit], HitModel],
    **options: Any,
) -> str:
    """Return a line of JSON for each query of a file, in order.

    Args:
        data: the file: CSV, or JSON lines.
        name: its name; its suffix says which.
        searches: what answers; images of the queries are its identifiers.
        check: raises a ZtcirError for a query that is too large.
        described: describes a hit.
        options: options of every search.

    Raises:
        UsageError: the file is not UTF-8, has no columns of a query, too many queries, or a line
            that is too long.
    """
    left = threading.Event()
    try:
        rows = await searches.read(lambda: _rows(data, Path(name).name or "The file", left))
    finally:
        left.set()  # a thread that still reads for a client that has gone stops

    async def line(row: BatchQuery) -> str:
        try:
            if row.query is None:
                raise UsageError(str(row.error))
            check(row.query)
            query = await _encoded(row.query, searches)
            answer = await searches.search(query, **options)
        except ZtcirError as error:
            found: dict[str, Any] = error_body(as_service_error(error))
        else:
            found = {"hits": [described(hit).model_dump() for hit in answer.hits]}
        return json.dumps({"id": row.id, **found}) + "\n"

    return "".join(await asyncio.gather(*map(line, rows)))


def _rows(data: bytes, name: str, left: threading.Event) -> list[BatchQuery]:
    """Return the rows of a file; stop at the first one too many, or when nobody waits any more."""
    start = 0
    while len(data) - start > MAX_LINE:
        end = data.rfind(b"\n", start, start + MAX_LINE + 1)
        if end < 0:
            raise UsageError(f"A line of the file has over {MAX_LINE // 1000} kB: shorten it.")
        start = end + 1
    rows: list[BatchQuery] = []
    for row in parse_batch(data, Path(name), max_where=MAX_WHERE):
        if left.is_set():
            break
        if len(rows) == MAX_QUERIES:
            raise UsageError(
                f"A file may have {MAX_QUERIES} queries, and this has more: divide it."
            )
        rows.append(row)
    return rows


async def _encoded(query: Query, searches: Searches) -> Query:
    """Return a query whose identifiers are replaced by what they stand for."""
    named = [(str(image), weight) for image, weight in query.weighted_images]
    images = [(await searches.reference(name), weight) for name, weight in named]
    unlike = [await searches.reference(str(image)) for image in query.unwanted_images]
    return replace(query, images=images, unlike=unlike)
