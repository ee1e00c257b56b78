"""Queries with options of their own, answered together where these are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ztcir_sdk.query.query import Query

__all__ = ["in_groups"]

T = TypeVar("T")


def in_groups(
    queries: Sequence[Query],
    options: Mapping[str, Any],
    search: Callable[[list[Query], dict[str, Any]], Sequence[T]],
) -> list[T]:
    """Return an answer for each query, in order.

    Args:
        queries: the queries.
        options: the search's own options, for what a query leaves open.
        search: answers queries without options of their own.
    """
    groups: dict[tuple[float | None, str | None], list[int]] = {}
    for number, query in enumerate(queries):
        groups.setdefault((query.strength, query.where), []).append(number)
    answers: dict[int, T] = {}
    for (strength, where), numbers in groups.items():
        own = {"strength": strength, "where": where}
        plain = [replace(queries[number], strength=None, where=None) for number in numbers]
        given = {name: value for name, value in own.items() if value is not None}
        answers |= dict(zip(numbers, search(plain, {**options, **given}), strict=True))
    return [answers[number] for number in range(len(queries))]
