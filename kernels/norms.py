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

from collections.abc import Iterator, Sequence

from . import cuda
from .grid import Array, Grid, Size, array_module, on_gpu
from .resize import Banded, Stencil, bands, grid_stencils

NORM_FLOOR = 1e-12
"""Norms are never below this, so that a pixel without features divides to a cosine of 0."""

BAND_PIXELS = 1 << 17
"""Pixels whose squares are held at a time (1 MiB of float64)."""
BAND_FEATURES = 1 << 20
"""Values of a level that are held in float64 at a time (8 MiB)."""


def pixel_norms(features: Sequence[Grid], size: Size) -> Array:
    """‖f‖ of the concatenated, resized features, (H, W) float32, at least `NORM_FLOOR`."""
    if on_gpu(features[0].values):
        return cuda.pixel_norms(features, size, NORM_FLOOR)
    xp = array_module(features[0].values)
    norms = xp.empty(size, dtype="float32")
    for rows, squared in _squared_bands(features, size):
        norms[rows] = xp.sqrt(xp.maximum(squared, NORM_FLOOR**2))
    return norms  # type: ignore[no-any-return]


def squared_norms(features: Sequence[Grid], size: Size) -> Array:
    """‖f‖², (H, W) float64: where neighbours nearly cancel, a square loses twice the digits."""
    squared = [band for _, band in _squared_bands(features, size)]
    if len(squared) == 1:
        return squared[0]
    return array_module(squared[0]).concatenate(squared)  # type: ignore[no-any-return]


def _squared_bands(features: Sequence[Grid], size: Size) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, ‖f‖² there (rows, W) float64), from the top down."""
    xp = array_module(features[0].values)
    wide: list[Array] = []
    heights: list[Stencil] = []
    for level in features:
        rows, columns = grid_stencils(level, size)
        across, between = (Banded(stencil, xp, "float64") for stencil in _squares(columns))
        own, right, down, diagonals = _products(level.values)
        wide += [
            across.across(own) + between.across(right),
            across.across(down) + between.across(diagonals) / 2,
        ]
        heights += _squares(rows)
    stacked = xp.concatenate(wide)  # (Σ 2 h_l − 1, W)
    for band in bands(heights, max(1, BAND_PIXELS // size[1]), xp, "float64"):
        yield band.outputs, band.matrix @ stacked[band.inputs]


def _squares(stencil: Stencil) -> tuple[Stencil, Stencil]:
    """Y² and 2 Y′ of a resize matrix Y: (n_out, n_in) and (n_out, n_in − 1)."""
    weights = stencil.weights
    crosses = 2 * weights[:, :1] * weights[:, 1:]
    return stencil._replace(weights=weights * weights), Stencil(
        stencil.n_in - 1, stencil.first, crosses
    )


def _products(values: Array) -> tuple[Array, Array, Array, Array]:
    """Inner products of neighbours in (channels, h, w): own (h, w), right (h, w − 1), down
    (h − 1, w) and the sum of the diagonals (h − 1, w − 1), float64."""
    xp = array_module(values)
    channels, h, w = values.shape
    step = max(1, BAND_FEATURES // (channels * w))
    parts: list[list[Array]] = [[], [], [], []]
    for start in range(0, h, step):
        f = values[:, start : start + step + 1].astype("float64")
        upper, lower = f[:, :step], f[:, 1:]
        above = upper[:, : lower.shape[1]]
        for part, product in zip(
            parts,
            (
                _inner(upper, upper),
                _inner(upper[:, :, :-1], upper[:, :, 1:]),
                _inner(above, lower),
                _inner(above[:, :, :-1], lower[:, :, 1:])
                + _inner(above[:, :, 1:], lower[:, :, :-1]),
            ),
            strict=True,
        ):
            part.append(product)
    own, right, down, diagonals = map(xp.concatenate, parts)
    return own, right, down, diagonals


def _inner(left: Array, right: Array) -> Array:
    """⟨left, right⟩ over the channels of two (channels, h, w), (h, w)."""
    inner: Array = array_module(left).einsum("chw,chw->hw", left, right)
    return inner
