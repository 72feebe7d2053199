"""FA-Seg, naively (arXiv 2506.23323, Neurocomputing 2026; repository chequanghuy/FA-Seg).

Follows `FASeg.py` and `ptp_utils.py` from the stored attention on, every matrix held and squared
in full as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bicubic, nearest, resized_attention
from .scaling import minmax_each
from .selfattention import mean_map

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Size = tuple[int, int]

CROSS_WEIGHTS = (0.15, 0.7, 0.15, 0.0)  # at 8, 16, 32, 64 (the published script)
OUT_WEIGHTS = (0.1, 0.1, 0.5, 0.3)


def refined(
    cross: Mapping[int, list[Floats]],
    self_maps: Mapping[int, list[Floats]],
    cross_weights: Sequence[float] = CROSS_WEIGHTS,
    out_weights: Sequence[float] = OUT_WEIGHTS,
) -> Floats:
    """Class maps (K, N) at the largest side L, N = L².

    `cross` holds for each side r its layers (heads, r·r, K), already the mean over a class's
    tokens; `self_maps` its layers (heads, r·r, r·r). Both rows of weights begin at the coarsest
    side.
    """
    largest = max(self_maps)
    c = cross_maps(cross, largest, cross_weights)
    out = np.zeros_like(c)
    for side, weight in zip(sorted(self_maps), out_weights, strict=True):
        a = resized_attention(mean_map(self_maps[side]), largest, "bicubic")
        b = a @ a
        out += weight * minmax_each(np.stack([b @ one for one in c]) if len(c) else c)
    return out


def cross_maps(cross: Mapping[int, list[Floats]], side: int, weights: Sequence[float]) -> Floats:
    """Weighted sum of the cross-attention of all sides, resized by nearest: (K, side²)."""
    classes = next(iter(cross.values()))[0].shape[2]
    c = np.zeros((classes, side * side))
    for r, weight in zip(sorted(cross), weights, strict=True):
        maps = mean_map(cross[r]).T.reshape(classes, r, r)
        c += weight * nearest(maps, (side, side)).reshape(classes, side * side)
    return c


def with_mirror(maps: Floats, of_mirror: Floats, size: Size) -> Floats:
    """Mean (K, H, W) of `maps` and of the mirrored picture's, both (K, h, w), bicubic to `size`."""
    mean: Floats = (bicubic(maps, size) + bicubic(of_mirror, size)[:, :, ::-1]) / 2
    return mean


def labels(maps: Floats, threshold: float) -> Labels:
    """Labels (H, W) of `maps` (K, H, W): 1 + argmax, 0 where the largest is under `threshold`."""
    if len(maps) == 0:
        return np.zeros(maps.shape[1:], dtype=np.int64)
    winners = maps.argmax(axis=0) + 1
    return np.where(maps.max(axis=0) < threshold, 0, winners).astype(np.int64)
