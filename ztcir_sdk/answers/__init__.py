"""From query vectors to hits: what a search can be asked for."""

from __future__ import annotations

from ztcir_sdk.answers.options import IndexSource, SearchOptions, SearchSettings, check_k

__all__ = ["IndexSource", "SearchOptions", "SearchSettings", "check_k"]
