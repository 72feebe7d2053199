"""‖f(n, m)‖ at every output pixel, without building f.

A pixel's feature is Σ w_i f_i over four neighbouring low-resolution vectors, so its squared norm
is a quadratic form in the bilinear weights with ten inner products: four of a vector with itself,
two with the right neighbour, two with the one below, two along the diagonals. All of them come
from five low-resolution maps, and the weights separate into rows and columns:

    ‖f‖² = Y² (G X²ᵀ + 2 G_right X′ᵀ) + 2 Y′ (G_down X²ᵀ + (G_diagonal + G_antidiagonal) X′ᵀ)

with Y², X² the element-wise squares of the resize matrices and Y′, X′ the products of their
neighbouring columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import cuda
from .grid import Array, Grid, Size, array_module, on_gpu
from .resize import resize_matrices

NORM_FLOOR = 1e-12
"""Norms are never below this, so that a pixel without features divides to a cosine of 0."""


def pixel_norms(features: Sequence[Grid], size: Size) -> Array:
    """‖f‖ of the concatenated, resized features, (H, W) float32, at least `NORM_FLOOR`."""
    if on_gpu(features[0].values):
        return cuda.pixel_norms(features, size, NORM_FLOOR)
    xp = array_module(features[0].values)
    norms = xp.sqrt(xp.maximum(squared_norms(features, size), NORM_FLOOR**2))
    return norms.astype("float32")  # type: ignore[no-any-return]


def squared_norms(features: Sequence[Grid], size: Size) -> Array:
    """‖f‖², (H, W) float64: where neighbours nearly cancel, a square loses twice the digits."""
    total: Array = sum(_level_squared_norms(level, size) for level in features)  # type: ignore[assignment]
    return total


def _level_squared_norms(level: Grid, size: Size) -> Array:
    """‖U_l F_l‖², (H, W) float64."""
    f = level.values.astype("float64")
    own = _inner(f, f)
    right = _inner(f[:, :, :-1], f[:, :, 1:])
    down = _inner(f[:, :-1], f[:, 1:])
    diagonals = _inner(f[:, :-1, :-1], f[:, 1:, 1:]) + _inner(f[:, :-1, 1:], f[:, 1:, :-1])

    rows, columns = resize_matrices(level, size, dtype="float64")
    rows_squared, rows_cross = rows * rows, 2 * rows[:, :-1] * rows[:, 1:]
    columns_squared, columns_cross = columns * columns, 2 * columns[:, :-1] * columns[:, 1:]

    same_row = own @ columns_squared.T + right @ columns_cross.T
    next_row = down @ columns_squared.T + diagonals @ columns_cross.T / 2
    squared: Array = rows_squared @ same_row + rows_cross @ next_row
    return squared


def _inner(left: Array, right: Array) -> Array:
    """⟨left, right⟩ over the channels of two (channels, h, w), (h, w)."""
    inner: Array = array_module(left).einsum("chw,chw->hw", left, right)
    return inner
