"""From query vectors to hits: filters, pages, near-duplicates, and what is no answer."""

from __future__ import annotations

from ztcir_sdk.answers.hits import find_hits
from ztcir_sdk.answers.options import IndexSource, SearchOptions, SearchSettings, check_k

__all__ = ["IndexSource", "SearchOptions", "SearchSettings", "check_k", "find_hits"]
