"""Queries: what is looked for, where it comes from, and the vectors that stand for it."""

from __future__ import annotations

from ztcir_sdk.query.groups import in_groups
from ztcir_sdk.query.pairs import as_queries
from ztcir_sdk.query.plan import IMAGE_METHODS, QueryPlan, as_query, graphs_for
from ztcir_sdk.query.query import EncodedReference, Picture, Query, with_weights

__all__ = [
    "IMAGE_METHODS",
    "EncodedReference",
    "Picture",
    "Query",
    "QueryPlan",
    "as_queries",
    "as_query",
    "graphs_for",
    "in_groups",
    "with_weights",
]
