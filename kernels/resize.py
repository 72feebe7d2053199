"""Bilinear resizing as what it is: a separable linear map, U = R_y ⊗ R_x.

Everything downstream uses U only through R_y and R_x: forwards to bring a map to the output
grid, transposed to bring weights from the output grid down to a feature level. Both are sparse, and
are never held otherwise: an output of a picture's longer side depends on two cells of it, whether
it has ten or ten thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .grid import Array, Grid, Size, array_module

BAND = 512
"""Most outputs of a band: a matrix of no more rows is a single product for BLAS, and the zeros held
of a larger one grow with its side, not with the square."""


class Stencil(NamedTuple):
    """A sparse matrix whose rows hold few non-zeros, neighbours all: output i is
    weights[i] · inputs[first[i] : first[i] + width]. NumPy's, so that where the zeros are is known
    without waiting for a GPU."""

    n_in: int
    first: NDArray[np.int64]
    """(n_out,), in [0, n_in)."""
    weights: NDArray[np.float64]
    """(n_out, width); 0 where there is no such input."""

    @property
    def sums(self) -> NDArray[np.float64]:
        """(n_in,) the sum of each column."""
        held = np.nonzero(self.weights)
        sums = np.bincount(self._columns[held], self.weights[held], self.n_in)
        return sums.astype(np.float64)

    def overlap(self, other: Stencil) -> Stencil:
        """MᵀN of two matrices with the same outputs, (n_in, other.n_in)."""
        products = self.weights[:, :, None] * other.weights[:, None, :]
        held = np.nonzero(products)
        rows, columns = self._columns[held[:2]], other._columns[held[0], held[2]]
        first = np.full(self.n_in, other.n_in - 1)
        np.minimum.at(first, rows, columns)
        places = columns - first[rows]
        shape = self.n_in, int(places.max(initial=0)) + 1
        flat = np.bincount(rows * shape[1] + places, products[held], shape[0] * shape[1])
        return Stencil(other.n_in, first, flat.astype(np.float64).reshape(shape))

    def touched(self, outputs: slice) -> slice:
        """The inputs that some consecutive outputs depend on."""
        first = self.first[outputs]
        return slice(int(first.min()), min(self.n_in, int(first.max()) + self.weights.shape[1]))

    def dense(self, outputs: slice, inputs: slice, dtype: str) -> Array:
        """The matrix between some outputs and all the inputs that these depend on."""
        weights, columns = self.weights[outputs], self._columns[outputs] - inputs.start
        held = np.nonzero(weights)
        matrix = np.zeros((len(weights), inputs.stop - inputs.start), dtype)
        matrix[held[0], columns[held]] = weights[held]
        return matrix

    @property
    def _columns(self) -> NDArray[np.int64]:
        """(n_out, width) which input a weight is of."""
        return self.first[:, None] + np.arange(self.weights.shape[1])


def resize_stencil(n_out: int, n_in: int, extent: float = 1.0) -> Stencil:
    """The bilinear matrix (n_out, n_in); rows sum to 1 and hold at most two non-zeros.

    Output centre i lies at x = (i + ½) · extent · n_in / n_out − ½, clamped to [0, n_in − 1]: at
    extent 1 this is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    return stencil_at((np.arange(n_out) + 0.5) * (extent * n_in / n_out) - 0.5, n_in)


def stencil_at(places: NDArray[np.floating[Any]], n_in: int) -> Stencil:
    """What interpolates linearly between inputs 0, 1, …, n_in − 1 at places (n_out,), which are
    clamped to these: rows sum to 1 and hold at most two non-zeros."""
    places = places.clip(0, n_in - 1)
    first = np.minimum(places.astype(np.int64), max(n_in - 2, 0))
    # A hat of half-width 1 around every place: 1 − fraction, fraction, else 0.
    hats = 1 - np.abs(places[:, None] - (first[:, None] + np.arange(2)))
    return Stencil(n_in, first, hats.clip(min=0))


def grid_stencils(grid: Grid, size: Size) -> tuple[Stencil, Stencil]:
    """R_y (H, h) and R_x (W, w), which bring the covered part of `grid` to `size`."""
    rows, columns = (
        resize_stencil(n_out, n_in, share)
        for n_out, n_in, share in zip(size, grid.size, grid.extent, strict=True)
    )
    return rows, columns


class Band(NamedTuple):
    """Consecutive outputs of sparse matrices, and the few inputs they depend on."""

    outputs: slice
    inputs: slice | Array
    """A range of one matrix's inputs; of several side by side, their indices (m,)."""
    matrix: Array
    """(outputs, m), the matrix restricted to both."""


def bands(
    matrices: Sequence[Stencil], outputs: int, xp: ModuleType, dtype: str = "float32"
) -> list[Band]:
    """Cut matrices (n_out, n_l) side by side into bands of `outputs` rows, `BAND` at most: dense
    arrays of `xp`.

    Products with a band skip the zeros, which are nearly all of a large matrix.
    """
    n_out, outputs = len(matrices[0].first), min(outputs, BAND)
    starts = np.cumsum([0, *(matrix.n_in for matrix in matrices)])
    cut = []
    for start in range(0, n_out, outputs):
        band = slice(start, min(start + outputs, n_out))
        ranges = [matrix.touched(band) for matrix in matrices]
        parts = [m.dense(band, own, dtype) for m, own in zip(matrices, ranges, strict=True)]
        inputs: slice | Array = ranges[0]
        if len(matrices) > 1:
            every = zip(starts[:-1], ranges, strict=True)
            inputs = xp.asarray(np.concatenate([s + np.arange(r.start, r.stop) for s, r in every]))
        cut.append(Band(band, inputs, xp.asarray(np.concatenate(parts, axis=1))))
    return cut


class Banded:
    """A sparse matrix M (n_out, n_in) that multiplies along rows or columns, forwards and back."""

    def __init__(
        self, matrix: Stencil, xp: ModuleType, dtype: str = "float32", outputs: int = BAND
    ) -> None:
        self.shape = len(matrix.first), matrix.n_in
        self._xp = xp
        if self.shape[0] <= outputs:  # as a whole, so that nothing has to be put together
            rows, columns = map(slice, (0, 0), self.shape)
            self._bands = [Band(rows, columns, xp.asarray(matrix.dense(rows, columns, dtype)))]
        else:
            self._bands = bands([matrix], outputs, xp, dtype)

    def down(self, values: Array) -> Array:
        """M v for v (…, n_in, w): (…, n_out, w)."""
        if len(self._bands) == 1:
            return self._bands[0].matrix @ values
        shape = (*values.shape[:-2], self.shape[0], values.shape[-1])
        result = self._xp.empty(shape, values.dtype)
        for band in self._bands:
            result[..., band.outputs, :] = band.matrix @ values[..., band.inputs, :]
        return result  # type: ignore[no-any-return]

    def across(self, values: Array) -> Array:
        """v Mᵀ for v (…, h, n_in): (…, h, n_out)."""
        if len(self._bands) == 1:
            return values @ self._bands[0].matrix.T
        result = self._xp.empty((*values.shape[:-1], self.shape[0]), values.dtype)
        for band in self._bands:
            result[..., band.outputs] = values[..., band.inputs] @ band.matrix.T
        return result  # type: ignore[no-any-return]

    def down_back(self, values: Array) -> Array:
        """Mᵀ v for v (…, n_out, w): (…, n_in, w)."""
        if len(self._bands) == 1:
            return self._bands[0].matrix.T @ values
        shape = (*values.shape[:-2], self.shape[1], values.shape[-1])
        result = self._xp.zeros(shape, values.dtype)
        for band in self._bands:
            result[..., band.inputs, :] += band.matrix.T @ values[..., band.outputs, :]
        return result  # type: ignore[no-any-return]

    def across_back(self, values: Array) -> Array:
        """v M for v (…, h, n_out): (…, h, n_in)."""
        if len(self._bands) == 1:
            return values @ self._bands[0].matrix
        result = self._xp.zeros((*values.shape[:-1], self.shape[1]), values.dtype)
        for band in self._bands:
            result[..., band.inputs] += values[..., band.outputs] @ band.matrix
        return result  # type: ignore[no-any-return]


class Resize:
    """U = R_y ⊗ R_x of a grid's covered part to an output grid."""

    def __init__(self, grid: Grid, size: Size, dtype: str = "float32") -> None:
        xp = array_module(grid.values)
        self._rows, self._columns = (
            Banded(stencil, xp, dtype) for stencil in grid_stencils(grid, size)
        )

    def up(self, values: Array) -> Array:
        """U f: (channels, h, w) on the output grid, (channels, H, W)."""
        return self._rows.down(self._columns.across(values))

    def back(self, values: Array) -> Array:
        """Uᵀ a: weights (channels, H, W) on the output grid brought down to (channels, h, w)."""
        return self._rows.down_back(self._columns.across_back(values))


def resize(grid: Grid, size: Size) -> Array:
    """U f: the covered part of the grid on the output grid, (channels, H, W), same dtype."""
    return Resize(grid, size, grid.values.dtype.name).up(grid.values)
