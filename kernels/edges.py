"""Coarse scores brought to the picture's edges: the fast guided filter (He and Sun 2015).

The network sees a picture in cells of 16 pixels or more, so a class's scores change over a cell
where the picture has an edge a pixel wide. In every window ω of the radius r the scores p are
fitted by an affine function of the picture I's colours,

    a = (cov(I, I) + ε)⁻¹ cov(I, p),   b = mean(p) − a · mean(I),

and a pixel's score is q = ā · I + b̄, with ā and b̄ the means over the windows that hold it. The
fits are made on a small grid; their means are resized bilinearly and meet the picture at its full
resolution, so that no score is ever stored there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import cuda
from .assign import Assignment, score_tiles
from .grid import Array, Grid, Size, array_module, on_gpu
from .resize import bands

FINENESS = 4
"""Cells a side that the small grid has for one of the network's finest."""
RADIUS = 2 * FINENESS
"""r in cells of the small grid: two cells of the network's. Chosen on the scenes world
(docs/scenes.md), where half of it gains about 70 % as much."""
EPSILON = 1e-4
"""ε, a variance of colours in [0, 1]: what differs by less than 0.01 is no edge."""
CHUNK = 16
"""Classes whose fits are held at a time."""
BAND = 64
"""Rows or columns of the small grid that are averaged together: few enough to skip most zeros."""


def edge_grid(features: Sequence[Grid], size: Size) -> Size:
    """The small grid for a picture of `size`: `FINENESS` times the finest cells that cover it, and
    no finer than its pixels."""
    rows, columns = (
        max(round(FINENESS * level.size[axis] * level.extent[axis]) for level in features)
        for axis in (0, 1)
    )
    return min(max(rows, 1), size[0]), min(max(columns, 1), size[1])


@dataclass(frozen=True)
class Guide:
    """The picture I that scores follow."""

    image: Array
    """(H, W, 3) uint8."""
    small: Array
    """(3, gh, gw) float32 in [0, 1], its means over the cells of the small grid."""


class EdgeFilter:
    """The part of the filter that depends on the guide alone."""

    def __init__(self, guide: Guide, radius: int = RADIUS) -> None:
        xp = array_module(guide.small)
        self.guide = guide
        self._down, self._across = (
            bands([_box(n, radius)], BAND, xp) for n in guide.small.shape[1:]
        )
        small = guide.small
        self._mean = self._average(small)
        covariance = self._average(small[:, None] * small[None]) - self._mean[:, None] * self._mean
        pixels = xp.moveaxis(covariance, (0, 1), (-2, -1)) + EPSILON * xp.eye(3, dtype="float32")
        self._inverse = xp.moveaxis(xp.linalg.inv(pixels), (-2, -1), (0, 1))

    def fit(self, scores: Array) -> Array:
        """ā and b̄ of scores p (classes, gh, gw): (4, classes, gh, gw) float32, b̄ last."""
        xp = array_module(scores)
        small, mean = self.guide.small, self._average(scores)
        together = self._average(small[:, None] * scores) - self._mean[:, None] * mean
        a = xp.einsum("ijhw,jkhw->ikhw", self._inverse, together)
        b = mean - (a * self._mean[:, None]).sum(axis=0)
        return self._average(xp.concatenate([a, b[None]]))

    def _average(self, values: Array) -> Array:
        """The means over the windows, of (…, gh, gw)."""
        xp = array_module(values)
        tall = xp.empty(values.shape, dtype="float32")
        for band in self._down:
            tall[..., band.outputs, :] = band.matrix @ values[..., band.inputs, :]
        means = xp.empty(values.shape, dtype="float32")
        for band in self._across:
            means[..., band.outputs] = tall[..., band.inputs] @ band.matrix.T
        return means  # type: ignore[no-any-return]


def assign_along_edges(
    scores: Array, guide: Guide, absent: Array | None = None, radius: int = RADIUS
) -> Assignment:
    """The class of the highest filtered score at each pixel; its confidence is that score.

    `scores` (classes, gh, gw) float32 lie on the guide's small grid. Classes of the mask `absent`
    (classes,) bool win nowhere; one at least must be left. The first class wins a tie.
    """
    edges = EdgeFilter(guide, radius)
    xp = array_module(scores)
    size = (guide.image.shape[0], guide.image.shape[1])
    labels = xp.zeros(size, dtype="uint8" if len(scores) <= 256 else "uint16")
    best = xp.full(size, -xp.inf, dtype="float32")
    if on_gpu(scores):
        for start in range(0, len(scores), CHUNK):
            fits = edges.fit(scores[start : start + CHUNK])
            cuda.edge_labels(fits, guide.image, start, absent, labels, best)
        return Assignment(labels, best)
    open_to = range(len(scores)) if absent is None else xp.flatnonzero(~absent).tolist()
    for start in range(0, len(open_to), CHUNK):
        chunk = list(open_to[start : start + CHUNK])
        for tile, block in _filtered_tiles(edges, scores[chunk]):
            for label, score in zip(chunk, block, strict=True):
                wins = score > best[tile]
                xp.copyto(best[tile], score, where=wins)
                xp.copyto(labels[tile], labels.dtype.type(label), where=wins)
    return Assignment(labels, best)


def scores_along_edges(scores: Array, guide: Guide, radius: int = RADIUS) -> Array:
    """Every class's filtered score at every pixel, (classes, H, W) float32."""
    edges = EdgeFilter(guide, radius)
    full = array_module(scores).empty((len(scores), *guide.image.shape[:2]), dtype="float32")
    for start in range(0, len(scores), CHUNK):
        chunk = slice(start, start + CHUNK)
        for (rows, columns), block in _filtered_tiles(edges, scores[chunk]):
            full[chunk, rows, columns] = block
    return full  # type: ignore[no-any-return]


def _filtered_tiles(
    edges: EdgeFilter, scores: Array
) -> Iterator[tuple[tuple[slice, slice], Array]]:
    """Yield ((rows, columns), q on that tile (classes, rows, columns))."""
    image = edges.guide.image
    fits = edges.fit(scores)
    maps = Grid(fits.reshape(-1, *fits.shape[2:]))
    for tile, block in score_tiles([maps], (image.shape[0], image.shape[1])):
        *slopes, filtered = block.reshape(4, -1, *block.shape[1:])
        colours = image[tile].astype("float32") / 255
        for channel, slope in enumerate(slopes):
            slope *= colours[:, :, channel]
            filtered += slope
        yield tile, filtered


def _box(n: int, radius: int) -> NDArray[np.float32]:
    """(n, n): row i averages what lies within `radius` of i."""
    places = np.arange(n)
    near = np.abs(places[:, None] - places[None, :]) <= radius
    box: NDArray[np.float32] = (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
    return box
