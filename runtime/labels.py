"""A reading to labels: the one place that touches full resolution.

Straight from the network's cells (Eq. 6), or by way of a finer grid, where class maps join in and
boundaries follow the picture's edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Final

from .. import kernels
from ..kernels import Array, Assignment, Grid, Size, void
from .heads.base import Reading
from .heads.options import Refine
from .look.taps import Taps

FINE_VALUES: Final = 1 << 25
"""Scores of classes on the fine grid that are held at a time (128 MiB of float32)."""


def label_pixels(
    taps: Taps, reading: Reading, refine: Refine, threshold: float = 0.0, keep: bool = False
) -> tuple[Assignment, Array | None]:
    """Every pixel's class and, if they are to be kept, the scores of all classes.

    Args:
        taps: of the picture.
        reading: what a head made of it.
        refine: what makes boundaries follow the picture's edges.
        threshold: the score under which a pixel is of no class; 0 for none.
        keep: whether to keep the scores, (classes, H, W) float32.
    """
    assigned, full = _assign(taps, reading, refine, keep)
    if threshold:
        assert assigned.confidence is not None
        assigned.labels[assigned.confidence < threshold] = void(assigned.labels)
    return assigned, full


def _assign(
    taps: Taps, reading: Reading, refine: Refine, keep: bool
) -> tuple[Assignment, Array | None]:
    """The class of the highest score at every pixel, whatever that is."""
    size, features = taps.size, reading.features
    scores, absent = reading.scores, reading.absent
    if refine != "none" or reading.attention:
        grid = kernels.edge_grid(features or scores, size)
        if refine == "guided":
            guide, classes = taps.guide(grid), len(scores[0].values)
            full = kernels.scores_along_edges(_fine(reading, grid), guide) if keep else None
            parts = _fine_parts(reading, grid)
            return kernels.assign_some_along_edges(parts, classes, guide, absent), full
        fine = _fine(reading, grid)
        if refine == "pamr":
            fine = kernels.pamr(fine, taps.small(grid))
        scores, features = [Grid(fine)], ()
    xp = taps.network.device.xp
    norms = taps.norms(features) if features else xp.ones(size, dtype="float32")
    full = kernels.full_scores(scores, size, norms) if keep else None
    open_to = scores if absent is None else kernels.never(scores, absent)
    return kernels.assign(open_to, size, norms), full


def _fine_parts(reading: Reading, grid: Size) -> Iterator[tuple[int, Array]]:
    """`_fine` of some classes at a time, each with the number of the first."""
    step = max(1, FINE_VALUES // math.prod(grid))
    for first in range(0, len(reading.scores[0].values), step):
        own = slice(first, first + step)
        scores, maps = [_some(level, own) for level in reading.scores], reading.maps
        part = replace(reading, scores=scores, maps=None if maps is None else _some(maps, own))
        yield first, _fine(part, grid)


def _some(grid: Grid, classes: slice) -> Grid:
    """A grid of some classes."""
    return replace(grid, values=grid.values[classes])


def _fine(reading: Reading, grid: Size) -> Array:
    """Every class's score on a finer grid than the network's, class maps joined in."""
    scores, features = reading.scores, reading.features
    if features:
        return kernels.fine_scores(scores, features, grid, reading.maps, reading.attention)
    return reduce(add, (kernels.resize(level, grid) for level in scores))
