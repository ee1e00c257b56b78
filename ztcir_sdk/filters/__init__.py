"""Filters on the items of an index: ``where="articleType = 'Shirts' AND price < 50"``.

`parse_filter` reads them; `sql` and `milvus` translate them for the two kinds of index.
"""

from __future__ import annotations

from ztcir_sdk.filters.expression import Filter
from ztcir_sdk.filters.fields import FieldSummary, summarise_fields
from ztcir_sdk.filters.parsing import FilterError, parse_filter

__all__ = ["FieldSummary", "Filter", "FilterError", "parse_filter", "summarise_fields"]
