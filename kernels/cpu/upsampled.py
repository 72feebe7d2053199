"""What meets full resolution on the host, 16 classes at a time (upsampled.h)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid, Size
from ..threads import each_block
from . import called, loaded

CLASSES = 16
"""At a time."""
BAND_CELLS = 1 << 18
"""Cells of the small grid whose fits are held at a time, in 64 MiB; making them takes as much."""
BAND_ROWS = 128
"""And at least so many rows: around a band twice the radius is fitted in vain."""

Floats = NDArray[np.float32]


class Axis(ctypes.Structure):
    """work.h's."""

    _fields_ = (
        ("inputs", ctypes.c_size_t),
        ("outputs", ctypes.c_size_t),
        ("step", ctypes.c_double),
    )


class EdgeFits(ctypes.Structure):
    """work.h's."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "small", "mean", "inverse", "fits")),
        *((name, ctypes.c_size_t) for name in ("classes", "height", "width", "radius")),
    )


class EdgeLabels(ctypes.Structure):
    """work.h's."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("fits", "image", "numbers", "labels", "best")),
        *((name, ctypes.c_size_t) for name in ("classes", "wide", "first", "last")),
        *((name, Axis) for name in ("rows", "columns")),
    )


class Overlap(ctypes.Structure):
    """work.h's."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("maps", "norms", "totals")),
        ("classes", ctypes.c_size_t),
        *((name, Axis) for name in ("rows", "columns", "level_rows", "level_columns")),
    )


@cache
def has_upsampled() -> bool:
    """Whether these functions can be called here."""
    library = loaded()
    return library is not None and bool(library.mdrt_has_upsampled())


def edge_fits(scores: Floats, small: Floats, mean: Floats, inverse: Floats, radius: int) -> Floats:
    """ā and b̄ (edges.py) of the scores p (up to 16 classes, gh, gw): (gh, gw, 4, 16), zeros for
    classes that there are not. The rest as `edges.Guide` has it."""
    library = loaded()
    assert library is not None
    classes, height, width = scores.shape
    fits = np.empty((height, width, 4, CLASSES), np.float32)
    given = [np.ascontiguousarray(a, np.float32) for a in (scores, small, mean, inverse)]
    arrays = [array.ctypes.data for array in (*given, fits)]
    asked = EdgeFits(*arrays, classes, height, width, radius)
    called(library.mdrt_edge_fits(ctypes.byref(asked)))
    return fits


def edge_labels(
    scores: Floats,
    guide: tuple[Floats, Floats, Floats],
    radius: int,
    image: NDArray[np.uint8],
    numbers: list[int],
    labels: NDArray[Any],
    best: Floats,
) -> None:
    """Let up to 16 classes win pixels, in place.

    Args:
        scores: theirs on the small grid, (classes, gh, gw).
        guide: `small`, `mean` and `inverse` as `edges.Guide` has them.
        numbers: the classes' labels, ascending.
        radius, image, labels, best: as `cuda.edge_labels` has them.
    """
    library = loaded()
    assert library is not None
    height, width = scores.shape[1:]
    image = np.ascontiguousarray(image)
    named = np.array(numbers, np.int32)
    size: Size = labels.shape[0], labels.shape[1]
    axes = _axes((height, width), (1.0, 1.0), size)
    places = (np.arange(size[0]) + 0.5) * axes[0].step - 0.5  # of rows of pixels on the small grid

    def band(start: int, stop: int) -> None:
        """Rows of pixels that lie between these of the small grid."""
        # one more on either side, lest a place is rounded otherwise in C++
        first, last = max(start - 1, 0), min(stop + 2, height)
        above, below = max(first - 2 * radius, 0), min(last + 2 * radius, height)
        some = slice(above, below)
        small, mean, inverse = (part[..., some, :] for part in guide)
        fits = edge_fits(scores[:, some], small, mean, inverse, radius)
        origin = fits.ctypes.data - above * fits.strides[0]  # where row 0 would be
        arrays = [origin, *(array.ctypes.data for array in (image, named, labels, best))]
        top = int(np.searchsorted(places, start)) if start else 0
        bottom = int(np.searchsorted(places, stop)) if stop < height else size[0]

        def win(rows: slice) -> None:
            own = top + rows.start, top + rows.stop
            asked = EdgeLabels(*arrays, len(named), labels.dtype == np.uint16, *own, *axes)
            called(library.mdrt_edge_labels(ctypes.byref(asked)))

        each_block(labels, bottom - top, 4 * size[1], win)  # a small one is done without threads

    step = max(BAND_ROWS, BAND_CELLS // width)
    for start in range(0, height, step):
        band(start, min(start + step, height))


def overlap(maps: Grid, level: Grid, norms: Floats) -> Floats:
    """Uᵀ (V A / ‖f‖) of class maps A (classes, gh, gw), V their resize to the size of the norms
    (H, W) and U that of a level: (classes, h, w)."""
    library = loaded()
    assert library is not None
    values = np.ascontiguousarray(maps.values, np.float32)
    norms = np.ascontiguousarray(norms, np.float32)
    totals = np.empty((len(values), *level.size), np.float32)
    size: Size = norms.shape[0], norms.shape[1]
    axes = (*_axes(maps.size, maps.extent, size), *_axes(level.size, level.extent, size))
    groups = -(-len(values) // CLASSES)

    def sum_up(some: slice) -> None:
        for group in range(some.start, some.stop):
            own = slice(CLASSES * group, CLASSES * (group + 1))
            part, total = values[own], totals[own]
            arrays = part.ctypes.data, norms.ctypes.data, total.ctypes.data
            asked = Overlap(*arrays, len(part), *axes)
            called(library.mdrt_overlap(ctypes.byref(asked)))

    each_block(values, groups, CLASSES * norms.size, sum_up)
    return totals


def _axes(inputs: tuple[int, ...], extent: tuple[float, float], size: Size) -> list[Axis]:
    """Rows and columns, as `resize_stencil` has them."""
    every = zip(inputs, size, extent, strict=True)
    return [Axis(n_in, n_out, share * n_in / n_out) for n_in, n_out, share in every]
