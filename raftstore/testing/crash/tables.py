"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first hold numbers."""
    lines = [_line(head), f"|---|{'---:|' * (len(head) - 1)}", *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def bullets(items: Iterable[str]) -> str:
    """One line an item."""
    return "\n".join(f"- {' '.join(item.split())}" for item in items)


def number(count: int) -> str:
    """For people: 12,345."""
    return f"{count:,}"
