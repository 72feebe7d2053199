"""Any image size on a network of one native size: a canvas, overlapping tiles, no seams.

An image larger than the native size is cut into overlapping tiles whose origins are multiples
of the coarsest stride, so that every tile's cells are cells of one canvas at every stride.
A smaller image is enlarged until its longer side is native. What is missing to a multiple of
the stride is padded on the right and below by mirroring, and never read back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...kernels import Array, array_module

RELEASED_CELL: Final = 16
"""Pixels a cell of the grid that `released` brings class maps to: 32×32 at 512², as the official
code, whichever attention layers they are from."""


@dataclass(frozen=True)
class Canvas:
    """Where an image lies on the network's canvas, and the tiles that cover it; in pixels.

    Attributes:
        image: (height, width) of the picture as it came.
        content: (height, width) it is resized to.
        size: (height, width) of the canvas, multiples of the coarsest stride.
        tile: (height, width) of every tile.
        origins: (y, x) of every tile, row by row.
        alike: whether the noise is the same in every tile, so that what a tile shows depends on its
            pixels alone; else it is the canvas's, as of one large picture.
    """

    image: tuple[int, int]
    content: tuple[int, int]
    size: tuple[int, int]
    tile: tuple[int, int]
    origins: tuple[tuple[int, int], ...]
    alike: bool = False

    @property
    def extent(self) -> tuple[float, float]:
        """The share of the canvas that the picture covers, from the top left."""
        return self.content[0] / self.size[0], self.content[1] / self.size[1]

    def paint(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture on the canvas: (height, width, 3) uint8."""
        height, width = self.content
        if self.content != self.image:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            image = np.asarray(resized)
        missing = (self.size[0] - height, self.size[1] - width)
        if missing == (0, 0):
            return image
        return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")

    def crop(self, canvas: Array, origin: tuple[int, int], stride: int = 1) -> Array:
        """One tile of a (channels, height/stride, width/stride) canvas."""
        y, x = (o // stride for o in origin)
        height, width = (side // stride for side in self.tile)
        return canvas[:, y : y + height, x : x + width]


def to_network(pixels: Array, mean: Sequence[float], deviation: Sequence[float]) -> Array:
    """What a graph sees of (tiles, 3, height, width) uint8: (rgb - mean) / deviation of rgb from 0
    to 1, in float32 on the same device."""
    xp = array_module(pixels)
    values: Array = xp.ascontiguousarray(pixels, dtype="float32")
    spread, shift = (xp.asarray(v, dtype="float32").reshape(3, 1, 1) for v in (deviation, mean))
    values /= 255 * spread
    values -= shift / spread
    return values


def plan(
    image: tuple[int, int],
    native: int,
    multiple: int,
    max_size: int | None = None,
    least: int = 1,
) -> Canvas:
    """Lay a picture of (height, width) pixels on a canvas.

    Args:
        native: side of a tile, the size the model was trained on.
        multiple: tile origins and sides are multiples of it.
        max_size: longer side the picture is reduced to first; None keeps its size.
        least: what the canvas's sides are padded to, at most `native`.
    """
    longest = max(image)
    goal = max(longest if max_size is None else min(longest, max_size), native)
    height, width = (max(1, round(side * goal / longest)) for side in image)
    size = (_up(max(height, least), multiple), _up(max(width, least), multiple))
    tile = (min(native, size[0]), min(native, size[1]))
    rows, columns = (_origins(s, t, multiple) for s, t in zip(size, tile, strict=True))
    return Canvas(image, (height, width), size, tile, tuple((y, x) for y in rows for x in columns))


def squash(image: tuple[int, int], native: int) -> Canvas:
    """The whole picture as one native square, whatever its aspect (`released` attention)."""
    square = (native, native)
    return Canvas(image, square, square, square, ((0, 0),))


def squash_grid(native: int) -> tuple[int, int]:
    """The common grid (rows, columns) of class maps from `squash` (`released` attention)."""
    side = max(1, native // RELEASED_CELL)
    return side, side


def scaled(native: int, multiple: int, scale: float) -> int:
    """The side nearest to `scale` times the native one, a multiple."""
    return max(1, int(scale * native / multiple + 0.5)) * multiple


class Stitcher:
    """Blends tiles into one map of (channels, rows, columns) at one stride.

    In an overlap each tile's weight falls linearly to its edge, so a result passes smoothly
    from one tile to the next.
    """

    def __init__(self, canvas: Canvas, stride: int, channels: int, xp: ModuleType = np) -> None:
        self._stride = stride
        rows, columns = (side // stride for side in canvas.size)
        self._sum = xp.zeros((channels, rows, columns), dtype="float32")
        self._weights = xp.zeros((rows, columns), dtype="float32")
        ramps = [_ramp(side // stride) for side in canvas.tile]
        self._window = xp.asarray(np.outer(*ramps).astype(np.float32))

    def add(self, origin: tuple[int, int], values: Array) -> None:
        """Lay one tile's (channels, rows, columns) down at its origin, in canvas pixels; where
        that happens several times, the mean counts."""
        y, x = (o // self._stride for o in origin)
        rows, columns = self._window.shape
        self._sum[:, y : y + rows, x : x + columns] += values * self._window
        self._weights[y : y + rows, x : x + columns] += self._window

    def result(self) -> Array:
        """The blended map, (channels, rows, columns) float32; made in place, so once."""
        self._sum /= self._weights
        return self._sum  # type: ignore[no-any-return]


def _up(side: int, multiple: int) -> int:
    return math.ceil(side / multiple) * multiple


def _origins(size: int, tile: int, multiple: int) -> list[int]:
    """Evenly spread tile origins with at least a quarter tile of overlap."""
    if size == tile:
        return [0]
    overlap = _up(max(tile // 4, multiple), multiple)
    step = max(tile - overlap, multiple)
    steps = math.ceil((size - tile) / step)
    return [round((size - tile) * i / steps / multiple) * multiple for i in range(steps + 1)]


def _ramp(cells: int) -> NDArray[np.float64]:
    """Weight across a tile: highest in the middle, half a cell's worth at the edge."""
    place = np.arange(cells)
    ramp: NDArray[np.float64] = np.minimum(place + 0.5, cells - place - 0.5)
    return ramp
