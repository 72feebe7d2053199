"""Work in pieces: what is large is gone through a band of rows, or a batch, at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BAND_PIXELS: Final = 1 << 18
"""Pixels of a band: 3 MiB of RGB in float32, whatever the size of the picture."""


def batches(count: int, size: int) -> Iterator[range]:
    """Ranges of at most `size` that together count to `count`."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def totals(
    labels: NDArray[Any], classes: int, values: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """(classes,) sum of `values` (H, W) over the pixels of each label; of None, their number."""
    most = np.iinfo(labels.dtype).max + 1
    sums = np.zeros(most)
    for rows in bands(labels.shape):  # bincount widens what it gets to 64 bits
        weights = None if values is None else values[rows].ravel()
        sums += np.bincount(labels[rows].ravel(), weights, most)
    return sums[:classes]


def bands(size: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a picture of (height, width), about `BAND_PIXELS` at a time."""
    for rows in batches(size[0], max(1, BAND_PIXELS // size[1])):
        yield slice(rows.start, rows.stop)
