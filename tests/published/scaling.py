"""The two normalisations that all published heads share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def minmax(values: Floats) -> Floats:
    """`values` of any shape, moved and scaled to [0, 1]; a flat map becomes zeros.

    The published codes divide by zero on a flat map and hand on NaN.
    """
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros_like(values)
    scaled: Floats = (values - low) / (high - low)
    return scaled


def minmax_each(maps: Floats) -> Floats:
    """`minmax` of every map of `maps` (K, ...) on its own."""
    scaled = np.zeros_like(maps)
    for k in range(len(maps)):
        scaled[k] = minmax(maps[k])
    return scaled


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis of `scores`."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
