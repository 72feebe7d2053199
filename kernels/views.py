"""Features of one picture, seen at several sizes or mirrored, on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .grid import Array, Grid, array_module
from .resize import resize


def blended(views: Sequence[Grid]) -> Grid:
    """Views (D, h, w) of one picture as one, on the cells of the first that the picture covers:
    at each the mean of their directions, made as long as they are on average.

    The mean of what changes from view to view fades: a vision transformer's traces of where a
    cell lies, and edges that fall within a cell.
    """
    first = views[0]
    rows, columns = (
        max(1, round(cells * share)) for cells, share in zip(first.size, first.extent, strict=True)
    )
    xp = array_module(first.values)
    total: Array = xp.zeros((len(first.values), rows, columns), dtype="float32")
    length: Array = xp.zeros((1, rows, columns), dtype="float32")
    for view in views:
        own = _lengths(view.values)
        total += resize(Grid(view.values / own, view.extent), (rows, columns))
        length += resize(Grid(own, view.extent), (rows, columns))
    total *= length / len(views) / _lengths(total)
    return Grid(total)


def _lengths(values: Array) -> Array:
    """(1, h, w) float32 of vectors (D, h, w), none of them 0."""
    xp = array_module(values)
    lengths = xp.sqrt(xp.square(values, dtype="float32").sum(axis=0, keepdims=True))
    return xp.maximum(lengths, np.finfo("float32").tiny)  # type: ignore[no-any-return]
