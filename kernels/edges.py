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

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from . import cuda
from .assign import Assignment, score_tiles
from .cpu.upsampled import edge_labels, has_upsampled
from .grid import Array, Grid, Size, array_module, label_type, on_gpu
from .resize import Banded, Stencil

Item = TypeVar("Item")

FINENESS = 4
"""Cells a side that the small grid has for one of the network's finest."""
RADIUS = 2 * FINENESS
"""r in cells of the small grid: two cells of the network's. Chosen on the scenes world
(docs/notes/scenes.md), where half of it gains about 70 % as much."""
EPSILON = 1e-4
"""ε, a variance of colours in [0, 1]: what differs by less than 0.01 is no edge."""
CHUNK = 16
"""Most classes whose fits are held at a time."""
CHUNK_CELLS = 1 << 21
"""Cells of the small grid, over these classes; four numbers each (32 MiB of float32)."""
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


class Guide:
    """The picture I that scores follow, and all of the filter that depends on it alone."""

    def __init__(self, image: Array, small: Array, radius: int = RADIUS) -> None:
        """Args:
        image: (H, W, 3) uint8.
        small: (3, gh, gw) float32 in [0, 1], its means over the cells of the small grid.
        radius: r, in cells of the small grid.
        """
        xp = array_module(small)
        self.image, self.small, self.radius = image, small, radius
        self._rows, self._columns = (
            Banded(_box(n, radius), xp, outputs=BAND) for n in small.shape[1:]
        )
        mean = self.mean = self._average(small)
        covariance = xp.empty((3, 3, *small.shape[1:]), dtype="float32")
        pairs = [(i, j) for i in range(3) for j in range(i, 3)]
        for chunk in _chunks(pairs, small.shape[1:]):
            products = xp.stack([small[i] * small[j] for i, j in chunk])
            for (i, j), average in zip(chunk, self._average(products), strict=True):
                covariance[i, j] = covariance[j, i] = average - mean[i] * mean[j]
        for i in range(3):
            covariance[i, i] += EPSILON
        self.inverse = _inverse(covariance)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(a.nbytes for a in (self.image, self.small, self.mean, self.inverse))

    def fit(self, scores: Array) -> Array:
        """ā and b̄ of scores p (classes, gh, gw): (4, classes, gh, gw) float32, b̄ last."""
        xp = array_module(scores)
        small, mean = self.small, self._average(scores)
        together = self._average(small[:, None] * scores) - self.mean[:, None] * mean
        a = sum(self.inverse[:, j, None] * together[j] for j in range(3))
        b = mean - (a * self.mean[:, None]).sum(axis=0)
        return self._average(xp.concatenate([a, b[None]]))

    def _average(self, values: Array) -> Array:
        """The means over the windows, of (…, gh, gw)."""
        return self._columns.across(self._rows.down(values))


def assign_along_edges(scores: Array, guide: Guide, absent: Array | None = None) -> Assignment:
    """The class of the highest filtered score at each pixel; its confidence is that score.

    `scores` (classes, gh, gw) float32 lie on the guide's small grid. Classes of the mask `absent`
    (classes,) bool win nowhere; one at least must be left. The first class wins a tie.
    """
    return assign_some_along_edges([(0, scores)], len(scores), guide, absent)


def assign_some_along_edges(
    parts: Iterable[tuple[int, Array]], classes: int, guide: Guide, absent: Array | None = None
) -> Assignment:
    """As `assign_along_edges` of so many classes, whose scores come in parts, each with the number
    of its first class: all of them together can be larger than the picture."""
    xp = array_module(guide.small)
    size = (guide.image.shape[0], guide.image.shape[1])
    labels = xp.zeros(size, dtype=label_type(classes))
    best = xp.full(size, -xp.inf, dtype="float32")
    for first, scores in parts:
        _win(scores, first, guide, absent, labels, best)
    return Assignment(labels, best)


def _win(
    scores: Array, first: int, guide: Guide, absent: Array | None, labels: Array, best: Array
) -> None:
    """Let the classes from `first` on win pixels, in place."""
    xp = array_module(scores)
    if on_gpu(scores):
        for group in _chunks(range(len(scores)), scores.shape[1:]):
            fits = guide.fit(scores[group[0] : group[-1] + 1])
            cuda.edge_labels(fits, guide.image, first + group[0], absent, labels, best)
        return
    out = None if absent is None else absent[first : first + len(scores)]
    open_to = range(len(scores)) if out is None else xp.flatnonzero(~out).tolist()
    for chunk in _chunks(open_to, scores.shape[1:]):
        numbers = [first + number for number in chunk]
        if has_upsampled():
            parts = guide.small, guide.mean, guide.inverse
            own = scores[list(chunk)], parts, guide.radius
            edge_labels(*own, guide.image, numbers, labels, best)
            continue
        for tile, block in _filtered_tiles(guide, scores[list(chunk)]):
            for label, score in zip(numbers, block, strict=True):
                wins = score > best[tile]
                xp.copyto(best[tile], score, where=wins)
                xp.copyto(labels[tile], labels.dtype.type(label), where=wins)


def scores_along_edges(scores: Array, guide: Guide) -> Array:
    """Every class's filtered score at every pixel, (classes, H, W) float32."""
    full = array_module(scores).empty((len(scores), *guide.image.shape[:2]), dtype="float32")
    for group in _chunks(range(len(scores)), scores.shape[1:]):
        chunk = slice(group[0], group[-1] + 1)
        for (rows, columns), block in _filtered_tiles(guide, scores[chunk]):
            full[chunk, rows, columns] = block
    return full  # type: ignore[no-any-return]


def _chunks(maps: Sequence[Item], grid: tuple[int, ...]) -> Iterator[Sequence[Item]]:
    """As many maps of (gh, gw) at a time as may be held."""
    step = max(1, min(CHUNK, CHUNK_CELLS // math.prod(grid)))
    for start in range(0, len(maps), step):
        yield maps[start : start + step]


def _filtered_tiles(guide: Guide, scores: Array) -> Iterator[tuple[tuple[slice, slice], Array]]:
    """Yield ((rows, columns), q on that tile (classes, rows, columns))."""
    image = guide.image
    fits = guide.fit(scores)
    maps = Grid(fits.reshape(-1, *fits.shape[2:]))
    for tile, block in score_tiles([maps], (image.shape[0], image.shape[1])):
        *slopes, filtered = block.reshape(4, -1, *block.shape[1:])
        colours = image[tile].astype("float32") / 255
        for channel, slope in enumerate(slopes):
            slope *= colours[:, :, channel]
            filtered += slope
        yield tile, filtered


def _inverse(matrices: Array) -> Array:
    """Of symmetric, positive definite matrices (3, 3, gh, gw) float32, by cofactors: numpy.linalg
    takes one after another. In float64, in which they do not cancel, a few rows at a time."""
    inverse = array_module(matrices).empty_like(matrices)
    step = max(1, CHUNK_CELLS // (CHUNK * matrices.shape[3]))
    for start in range(0, matrices.shape[2], step):
        m = matrices[:, :, start : start + step].astype("float64")
        cofactors = array_module(m).empty_like(m)
        for i, (j, k) in enumerate([(1, 2), (2, 0), (0, 1)]):
            for n, (p, q) in enumerate([(1, 2), (2, 0), (0, 1)]):
                cofactors[n, i] = m[j, p] * m[k, q] - m[j, q] * m[k, p]
        cofactors /= (m[0] * cofactors[:, 0]).sum(axis=0)
        inverse[:, :, start : start + step] = cofactors
    return inverse  # type: ignore[no-any-return]


def _box(n: int, radius: int) -> Stencil:
    """(n, n): row i averages what lies within `radius` of i."""
    places = np.arange(n)
    first, last = np.maximum(places - radius, 0), np.minimum(places + radius, n - 1)
    near = first[:, None] + np.arange(min(2 * radius + 1, n)) <= last[:, None]
    return Stencil(n, first, near / near.sum(axis=1, keepdims=True))
