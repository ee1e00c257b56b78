"""Lists of queries, some of them given as a pair of an image and a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ztcir_sdk.errors import UsageError
from ztcir_sdk.query.plan import as_query
from ztcir_sdk.query.query import Picture, Query

__all__ = ["as_queries"]


def as_queries(queries: Iterable[Query | tuple[Picture, str]], method: str | None) -> list[Query]:
    """Return queries, each of which may be a pair of an image and a text.

    Raises:
        UsageError: it is no list, or one of them is something else.
    """
    if isinstance(queries, (str, bytes, Query)) or not isinstance(queries, Iterable):
        raise UsageError("queries must be a list, even for a single query.")
    return [one if isinstance(one, Query) else as_query(*_pair(one), method) for one in queries]


def _pair(query: Any) -> tuple[Picture, str]:
    if isinstance(query, (tuple, list)) and len(query) == 2:
        image, text = query
        return image, text
    raise UsageError(
        "Each of queries must be a Query or a pair of an image and a text, not "
        f"{type(query).__name__}: for an image alone give the text ''."
    )
