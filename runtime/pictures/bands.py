"""Work in pieces: what is large is gone through a band of rows, or a batch, at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

BAND_PIXELS: Final = 1 << 18
"""Pixels of a band: 3 MiB of RGB in float32, whatever the size of the picture."""


def batches(count: int, size: int) -> Iterator[range]:
    """Ranges of at most `size` that together count to `count`."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def bands(size: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a picture of (height, width), about `BAND_PIXELS` at a time."""
    for rows in batches(size[0], max(1, BAND_PIXELS // size[1])):
        yield slice(rows.start, rows.stop)
