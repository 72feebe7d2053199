"""Where tiles lie on a raster: on a lattice of the ground, not of the file.

Every tile sees the same noise, so what it shows depends on its pixels alone, and tiles start at
multiples of half their side, counted from the origin of the coordinate system. A crop of a raster,
its neighbour, or the same ground in another file is then seen through the same tiles.

Tiles are worked on in blocks. What a block shows is what all tiles that touch it show, so that
nothing depends on where blocks end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..look.tiles import Canvas

TILES: Final = 6
"""Tiles along a block's side. The tiles that straddle two blocks run for both: a sixth more."""


@dataclass(frozen=True)
class Window:
    """A part of the lattice, in its pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def cells(self, stride: int) -> Window:
        """The same in cells of a stride that divides it."""
        return Window(*(side // stride for side in (self.top, self.left, self.bottom, self.right)))

    def slices(self, within: Window) -> tuple[slice, slice]:
        """Rows and columns of an array that holds `within`."""
        return (
            slice(self.top - within.top, self.bottom - within.top),
            slice(self.left - within.left, self.right - within.left),
        )

    def common(self, other: Window) -> Window:
        """What is in both."""
        return Window(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )


@dataclass(frozen=True)
class Lattice:
    """The tiles and blocks of a raster.

    Attributes:
        size: (height, width) of the raster, in pixels.
        tile: a tile's side.
        multiple: pixels of the network's coarsest cell.
        lead: (rows, columns) of the lattice before the raster's first pixel, less than `step`.
    """

    size: tuple[int, int]
    tile: int
    multiple: int
    lead: tuple[int, int] = (0, 0)

    @property
    def step(self) -> int:
        """From one tile to the next: half a tile, so that a pixel near the edge of one is in the
        middle of another."""
        return math.ceil(self.tile / 2 / self.multiple) * self.multiple

    @property
    def whole(self) -> Window:
        """The lattice's cells that hold the raster."""
        sides = (lead + side for lead, side in zip(self.lead, self.size, strict=True))
        return Window(0, 0, *(math.ceil(side / self.step) * self.step for side in sides))

    @property
    def raster(self) -> Window:
        """The raster's own pixels."""
        (top, left), (height, width) = self.lead, self.size
        return Window(top, left, top + height, left + width)

    def blocks(self) -> list[Window]:
        """They cover the lattice, row by row."""
        side, end = TILES * self.tile, self.whole
        return [
            Window(top, left, top + side, left + side).common(end)
            for top in range(0, end.bottom, side)
            for left in range(0, end.right, side)
        ]

    def around(self, block: Window, margin: int) -> Window:
        """A block and what is near, as far as the lattice goes."""
        sides = (block.top - margin, block.left - margin)
        ends = (block.bottom + margin, block.right + margin)
        return Window(*sides, *ends).common(self.whole)

    def seen(self, block: Window) -> Window:
        """What the tiles that touch a block cover; it may reach beyond the lattice."""
        out = self.tile - self.step
        return Window(block.top - out, block.left - out, block.bottom + out, block.right + out)

    def canvas(self, block: Window) -> Canvas:
        """Those tiles."""
        size, tile = self.seen(block).size, (self.tile, self.tile)
        rows, columns = (range(0, side - self.tile + 1, self.step) for side in size)
        origins = tuple((y, x) for y in rows for x in columns)
        return Canvas(size, size, size, tile, origins, alike=True)


def mirrored(first: int, last: int, side: int) -> NDArray[np.int64]:
    """Which of `side` pixels lie at first, …, last − 1 if a picture goes on as its mirror image,
    edge pixels twice."""
    places = np.arange(first, last) % (2 * side)
    return np.where(places < side, places, 2 * side - 1 - places)


def lead_of(corner: Sequence[float], step: int) -> tuple[int, int]:
    """How far into a lattice of `step` pixels a raster's corner lies.

    Args:
        corner: (row, column) of its first pixel, counted from the origin of its coordinates.
    """
    return round(corner[0]) % step, round(corner[1]) % step
