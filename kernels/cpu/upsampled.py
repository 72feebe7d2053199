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
    fits: Floats, image: NDArray[np.uint8], numbers: list[int], labels: NDArray[Any], best: Floats
) -> None:
    """Let classes win pixels, in place; `fits` are those of `edge_fits`, `numbers` the classes'
    labels, ascending. The rest as `cuda.edge_labels` has it."""
    library = loaded()
    assert library is not None
    image = np.ascontiguousarray(image)
    named = np.array(numbers, np.int32)
    arrays = [array.ctypes.data for array in (fits, image, named, labels, best)]
    size: Size = labels.shape[0], labels.shape[1]
    axes = _axes(fits.shape[:2], (1.0, 1.0), size)

    def win(rows: slice) -> None:
        asked = EdgeLabels(
            *arrays, len(named), labels.dtype == np.uint16, rows.start, rows.stop, *axes
        )
        called(library.mdrt_edge_labels(ctypes.byref(asked)))

    each_block(labels, size[0], 4 * size[1], win)  # a small picture is done before a thread starts


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
