"""Tables and numbers as the documents show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def format_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1
) -> str:
    """Return a Markdown table whose columns are right-aligned after the first `text_columns`."""
    marks = ["---" if place < text_columns else "---:" for place in range(len(columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, marks, *rows))


def format_count(number: int) -> str:
    """Return a number with spaces between thousands: "10 000"."""
    return f"{number:,}".replace(",", " ")


def describe_source(values: Mapping[str, Any], *packages: str) -> str:
    """Return, for example, "AMD EPYC, 2 threads, onnxruntime 1.32.0, 2026-11-25"."""
    threads = values["threads"]
    return ", ".join(
        (
            str(values["machine"]["cpu"]),
            f"{threads} thread{'' if threads == 1 else 's'}",
            *(f"{name} {values['versions'][name]}" for name in packages),
            values["date"][:10],
        )
    )
