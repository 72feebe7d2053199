"""Tables for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

_WIDTH: Final = 160  # columns, as wide as any table is


def print_whole(console: Console, table: Table) -> None:
    """Print a table with its names uncut: a file or a pipe has no width to keep to."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(table)
