"""Scores to labels: straight from the network's cells (Eq. 6), or by way of a finer grid, where the
class maps join in and boundaries follow the picture's edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..kernels import Array, Assignment, Grid, Guide, Size
from .pictures.images import shrink
from .sessions.device import Device


def label_pixels(
    device: Device,
    image: NDArray[np.uint8],
    features: Sequence[Grid],
    scores: Sequence[Grid],
    *,
    maps: Grid | None = None,
    attention: float = 0.0,
    refine: bool = False,
    absent: Array | None = None,
    norms: Array | None = None,
    keep: bool = False,
) -> tuple[Assignment, Array | None]:
    """Every pixel's class and, if they are to be kept, the scores of all classes.

    Args:
        device: where the arrays are.
        image: (H, W, 3) uint8 on the host.
        features, scores: of `kernels.score_maps`.
        maps, attention: class maps on a grid of their own, and their share in the scores.
        refine: whether boundaries follow the picture's edges.
        absent: (classes,) bool, classes that win nowhere.
        norms: ‖f‖ (H, W), without which the paper's way gives no confidence; else unused.
        keep: whether to keep the scores, (classes, H, W) float32.
    """
    size = (image.shape[0], image.shape[1])
    if attention or refine:
        grid = kernels.edge_grid(features, size)
        fine = kernels.fine_scores(scores, features, grid, maps, attention)
        if refine:
            edges = guide(device, image, grid)
            full = kernels.scores_along_edges(fine, edges) if keep else None
            return kernels.assign_along_edges(fine, edges, absent), full
        scores, norms = [Grid(fine)], device.xp.ones(size, dtype="float32")
    open_to = scores if absent is None else kernels.never(scores, absent)
    full = None
    if keep:
        full = kernels.full_scores(
            scores, size, kernels.pixel_norms(features, size) if norms is None else norms
        )
    return kernels.assign(open_to, size, norms), full


def guide(device: Device, image: NDArray[np.uint8], grid: Size) -> Guide:
    """The picture on the device, as it is and on a small grid."""
    small = shrink(image, grid).transpose(2, 0, 1).astype(np.float32) / 255
    return Guide(device.upload(np.ascontiguousarray(image)), device.upload(small))
