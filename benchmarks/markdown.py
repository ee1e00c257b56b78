"""Tables and numbers as the documents show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1
) -> str:
    """Return a Markdown table whose columns are right-aligned after the first `text_columns`."""
    marks = ["---" if place < text_columns else "---:" for place in range(len(columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, marks, *rows))


def format_count(number: int) -> str:
    """Return a number with spaces between thousands: "10 000"."""
    return f"{number:,}".replace(",", " ")
