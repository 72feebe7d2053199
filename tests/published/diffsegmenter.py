"""DiffSegmenter, naively (Wang et al., arXiv 2309.02773; repository VCG-team/DiffSegmenter).

Follows `open_vocabulary/voc12/ptp_stable_best.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear
from .scaling import minmax_each
from .selfattention import mean_map

Floats = NDArray[np.float64]

WEIGHTS = (0.3, 0.5, 0.1, 0.1)  # of cross-attention at 8, 16, 32, 64 (the published script)


def refined(
    cross: Mapping[int, list[Floats]], self64: list[Floats], weights: Sequence[float] = WEIGHTS
) -> Floats:
    """Class maps m = S c: (K, N) at the largest side L, N = L².

    `cross` holds for each side r its layers (heads, r·r, K); `weights` belong to the sides from the
    coarsest on; `self64` are the self-attention layers (heads, N, N) of the largest side. Each
    side's mean is resized bilinearly to L and min–maxed per class before it is weighted.
    """
    sides = sorted(cross)
    largest = sides[-1]
    classes = cross[largest][0].shape[2]
    c = np.zeros((classes, largest, largest))
    for side, weight in zip(sides, weights, strict=True):
        maps = mean_map(cross[side]).T.reshape(classes, side, side)
        c += weight * minmax_each(bilinear(maps, (largest, largest)))
    s = mean_map(self64)
    flat = c.reshape(classes, largest * largest)
    m = np.zeros_like(flat)
    for k in range(classes):
        m[k] = s @ flat[k]
    return m
