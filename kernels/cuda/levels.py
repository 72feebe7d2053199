"""Several levels packed into one buffer, so that one launch reads them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..grid import Array, Grid, Size, array_module

LEVEL: Final = np.dtype(
    [
        ("offset", np.int64),
        ("row_step", np.float64),
        ("column_step", np.float64),
        ("h", np.int32),
        ("w", np.int32),
    ]
)
"""`struct Level` of bilinear.cuh."""

TILE: Final = (32, 8)
"""Threads (columns, rows) of a block over the output grid: a warp writes neighbours of one row."""


def level_table(grids: Sequence[Grid], size: Size, maps: int) -> tuple[Array, int]:
    """Where each level lies if `maps` values a cell are packed level by level.

    Returns the table as bytes (levels · 32,) uint8 on the grids' device, and the values in all.
    """
    ends = np.cumsum([maps * grid.size[0] * grid.size[1] for grid in grids])
    rows = [
        (
            end,
            *(e * n / m for e, n, m in zip(grid.extent, grid.size, size, strict=True)),
            *grid.size,
        )
        for end, grid in zip([0, *ends[:-1]], grids, strict=True)
    ]
    table = np.array(rows, dtype=LEVEL)
    xp = array_module(grids[0].values)
    return xp.asarray(table.view(np.uint8)), int(ends[-1])
