"""The argmax over a long list of classes, scored only where they can win.

Between neighbouring cells of every level a score is bilinear, so on a small block of pixels it is a
weighted mean of its values at a few places, the *lattice*: where the cells of some level have their
centres, and the block's own corners. A class that some other exceeds at all of a block's places it
exceeds at every pixel of it and need not be scored there. Of 847 classes a handful stay.

Nothing is lost to rounding. A score is the same whichever classes are scored beside it, each step
of it a product or a sum of that class's own values; and one class is dropped for another only by
more than what rounding can take from the two, so that not even a tie is decided otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .grid import Array, Grid, Size
from .resize import Stencil, stencil_at

Tile: TypeAlias = tuple[tuple[slice, slice], NDArray[np.int64], NDArray[np.float32]]
"""(rows, columns); the label of each pixel there; its score."""

TILE_VALUES = 1 << 16
"""Scores of a tile, over its rivals (256 KiB of float32): two of them stay in a core's cache."""
SIDE = 32
"""Pixels of a block's side: smaller ones leave fewer classes, larger ones are fewer."""
MANY = 8
"""More rivals than this are worth another look."""
SLACK = 8 * float(np.finfo(np.float32).eps)
"""Of a class's largest value, four times what the steps of `_won` can round away."""


class Block(NamedTuple):
    """Consecutive pixels of an axis, and the lattice's lines they lie between."""

    pixels: slice
    lines: slice
    near: NDArray[np.int64]
    """(pixels,) the line before a pixel, counted from the first of `lines`."""
    far: NDArray[np.int64]
    """(pixels,) the line after it, likewise."""
    weights: NDArray[np.float32]
    """(pixels, 2) how much of either a pixel takes."""


class Axis(NamedTuple):
    """The lattice along rows or columns."""

    levels: Sequence[Stencil]
    """(lines, cells) a level: how its cells make the lines."""
    blocks: Sequence[Block]


def highest(scores: Sequence[Grid], size: Size) -> Iterator[Tile]:
    """Every pixel in a tile of its own, with its class of the highest score and that score.

    `scores` are grids of (classes, h_l, w_l) float32 of NumPy. The first class wins a tie; where a
    score is not a number, the label is 0 and the highest is none either.
    """
    down, across = (_axis(scores, size, axis) for axis in (0, 1))
    room = np.empty((2, max(TILE_VALUES, SIDE * len(scores[0].values))), np.float32)
    for rows in down.blocks:
        lattice = _lattice(scores, down, across, rows.lines)
        peaks = np.maximum(lattice.max(axis=(0, 1)), -lattice.min(axis=(0, 1)))
        slack = SLACK * peaks + np.finfo(np.float32).tiny
        for columns in across.blocks:
            corners = lattice[:, columns.lines]
            found = _rivals(corners, slack)
            yield from _won(corners[..., found], found, rows, columns, room)


def _axis(scores: Sequence[Grid], size: Size, axis: int) -> Axis:
    n_out = size[axis]
    pixels, edges = np.arange(n_out) + 0.5, np.arange(0, n_out + SIDE, SIDE)
    scales = [level.extent[axis] * level.size[axis] / n_out for level in scores]  # cells a pixel
    cells = (np.arange(level.size[axis]) + 0.5 for level in scores)
    centres = [own / scale for own, scale in zip(cells, scales, strict=True)]
    lines = np.concatenate([edges, *centres]).clip(0, n_out)
    lines = np.unique(lines.round(6))  # what levels have in common is one line
    if len(lines) > n_out:
        lines = pixels
    levels = [
        stencil_at(lines * scale - 0.5, level.size[axis])
        for level, scale in zip(scores, scales, strict=True)
    ]
    between = stencil_at(np.interp(pixels, lines, np.arange(len(lines))), len(lines))
    return Axis(levels, list(_blocks(between)))


def _blocks(between: Stencil) -> Iterator[Block]:
    for start in range(0, len(between.first), SIDE):
        pixels = slice(start, min(start + SIDE, len(between.first)))
        lines = between.touched(pixels)
        near = between.first[pixels] - lines.start
        far = np.minimum(near + 1, lines.stop - lines.start - 1)
        yield Block(pixels, lines, near, far, between.weights[pixels].astype(np.float32))


def _lattice(scores: Sequence[Grid], down: Axis, across: Axis, lines: slice) -> Array:
    """Σ_l U_l S_l on some lines of the lattice, (lines, columns, classes) float32."""
    shape = len(across.levels[0].first), len(scores[0].values)
    lattice = np.zeros((lines.stop - lines.start, *shape), np.float32)
    near, far = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for level, rows, columns in zip(scores, down.levels, across.levels, strict=True):
        cells = rows.touched(lines)
        values = np.ascontiguousarray(level.values[:, cells].transpose(1, 2, 0))
        below = np.minimum(columns.first + 1, columns.n_in - 1)
        left, right = columns.weights.astype(np.float32).T[:, :, None]
        for line, first, (upper, lower) in zip(
            lattice, rows.first[lines] - cells.start, rows.weights[lines].tolist(), strict=True
        ):
            row = values[first] * np.float32(upper)
            if lower:
                row += values[first + 1] * np.float32(lower)
            # a line at a time, in the same memory: it stays in a core's cache
            np.multiply(np.take(row, columns.first, 0, near, "clip"), left, near)
            np.multiply(np.take(row, below, 0, far, "clip"), right, far)
            near += far
            line += near
    return lattice


def _rivals(corners: Array, slack: Array) -> Array:
    """Indices, rising, of the classes that may win on a block.

    `corners` (lines, lines, classes) and `slack` (classes,) float32. Each is put beside the best on
    the average; where some are left, those beside the best at the block's own corners.
    """
    places = corners.reshape(-1, corners.shape[2])
    found = np.flatnonzero(_reaches(places, slack, places.sum(axis=0).argmax()))
    if MANY < len(found) < corners.shape[2] // 2:
        places, slack = places[:, found], slack[found]
        bottom, right = (side - 1 for side in corners.shape[:2])
        outer = corners[[0, 0, bottom, bottom], [0, right, 0, right]][:, found]
        best = np.unique(outer.argmax(axis=1))
        found = found[np.logical_and.reduce([_reaches(places, slack, one) for one in best])]
    return found


def _reaches(places: Array, slack: Array, champion: np.intp) -> Array:
    """(classes,) bool: which are not below one of them at every place (places, classes)."""
    ahead = (places - places[:, champion, None]).max(axis=0)
    below: Array = ahead + slack <= -slack[champion]
    return ~below  # so turned round, what is not a number reaches


def _won(corners: Array, found: Array, rows: Block, columns: Block, room: Array) -> Iterator[Tile]:
    """A block's tiles, of its classes `found` with values (lines, lines, rivals) on the lattice.

    What is of a tile's size is computed in `room` (2, values): to ask for so much memory again and
    again takes longer than to fill it.
    """
    step = max(1, TILE_VALUES // (len(columns.near) * len(found)))
    left, right = columns.weights.T[:, :, None]
    for start in range(0, len(rows.near), step):
        part = slice(start, start + step)
        upper, lower = rows.weights[part].T[:, :, None, None]
        tall = corners[rows.near[part]] * upper
        tall += corners[rows.far[part]] * lower
        shape = len(tall), len(columns.near), len(found)
        near, far = room[:, : math.prod(shape)].reshape(2, *shape)
        np.multiply(np.take(tall, columns.near, 1, near, "clip"), left, near)
        np.multiply(np.take(tall, columns.far, 1, far, "clip"), right, far)
        near += far
        winner = near.argmax(axis=2)
        best = np.take_along_axis(near, winner[..., None], 2)[..., 0]
        top = rows.pixels.start + start
        tile = slice(top, top + len(best)), columns.pixels
        yield tile, np.where(np.isnan(best), 0, found[winner]), best
