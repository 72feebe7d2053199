"""A reading to labels: the one place that touches full resolution.

Straight from the network's cells (Eq. 6), or by way of a finer grid, where class maps join in and
boundaries follow the picture's edges.
"""

from __future__ import annotations

from functools import reduce
from operator import add

from .. import kernels
from ..kernels import Array, Assignment, Grid, Size, void
from .heads.base import Reading
from .heads.options import Refine
from .look.taps import Taps


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
        fine = _fine(reading, grid)
        if refine == "guided":
            guide = taps.guide(grid)
            full = kernels.scores_along_edges(fine, guide) if keep else None
            return kernels.assign_along_edges(fine, guide, absent), full
        if refine == "pamr":
            fine = kernels.pamr(fine, taps.small(grid))
        scores, features = [Grid(fine)], ()
    xp = taps.network.device.xp
    norms = taps.norms(features) if features else xp.ones(size, dtype="float32")
    full = kernels.full_scores(scores, size, norms) if keep else None
    open_to = scores if absent is None else kernels.never(scores, absent)
    return kernels.assign(open_to, size, norms), full


def _fine(reading: Reading, grid: Size) -> Array:
    """Every class's score on a finer grid than the network's, class maps joined in."""
    scores, features = reading.scores, reading.features
    if features:
        return kernels.fine_scores(scores, features, grid, reading.maps, reading.attention)
    return reduce(add, (kernels.resize(level, grid) for level in scores))
