"""Bilinear resizing as what it is: a separable linear map, U = R_y ⊗ R_x.

Everything downstream uses U only through R_y and R_x: forwards to bring a map to the output
grid, transposed to bring weights from the output grid down to a feature level.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from .grid import Array, Grid, Size, array_module


def resize_matrix(
    n_out: int, n_in: int, extent: float = 1.0, xp: ModuleType = np, dtype: str = "float32"
) -> Array:
    """The bilinear matrix (n_out, n_in); rows sum to 1 and hold at most two non-zeros.

    Output centre i lies at x = (i + ½) · extent · n_in / n_out − ½, clamped to [0, n_in − 1]: at
    extent 1 this is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    centres = (np.arange(n_out) + 0.5) * (extent * n_in / n_out) - 0.5
    centres = centres.clip(0, n_in - 1)
    # A hat of half-width 1 around every output centre: 1 − fraction, fraction, else 0.
    hats = 1 - np.abs(centres[:, None] - np.arange(n_in)[None, :])
    return xp.asarray(hats.clip(min=0).astype(dtype))  # type: ignore[no-any-return]


def resize_matrices(
    grid: Grid, size: Size, dtype: str = "float32", xp: ModuleType | None = None
) -> tuple[Array, Array]:
    """(R_y, R_x), shaped (H, h) and (W, w), that bring the covered part of `grid` to `size`; of
    the grid's own module, or of `xp`."""
    xp = xp or array_module(grid.values)
    rows, columns = (
        resize_matrix(n_out, n_in, share, xp, dtype)
        for n_out, n_in, share in zip(size, grid.size, grid.extent, strict=True)
    )
    return rows, columns


def resize(grid: Grid, size: Size) -> Array:
    """U f: the covered part of the grid on the output grid, (channels, H, W), same dtype."""
    rows, columns = resize_matrices(grid, size, dtype=grid.values.dtype.name)
    result: Array = rows @ (grid.values @ columns.T)
    return result


class Band(NamedTuple):
    """Consecutive outputs of a resize matrix, and the few inputs they depend on."""

    outputs: slice
    inputs: Array
    """Indices (m,) of the inputs."""
    matrix: Array
    """(outputs, m), the matrix restricted to both."""


def bands(matrices: Sequence[Array], outputs: int, xp: ModuleType) -> list[Band]:
    """Cut resize matrices (n_out, n_l) side by side into bands of `outputs` rows, arrays of `xp`.

    Products with a band skip the zeros, which are nearly all of a large matrix. The matrices are
    NumPy's: where the zeros are is known without waiting for a GPU.
    """
    matrix = np.concatenate(matrices, axis=1)
    cut = []
    for start in range(0, len(matrix), outputs):
        band = slice(start, min(start + outputs, len(matrix)))
        touched = np.flatnonzero(matrix[band].any(axis=0))
        cut.append(Band(band, xp.asarray(touched), xp.asarray(matrix[band][:, touched])))
    return cut


def resize_adjoint(values: Array, rows: Array, columns: Array) -> Array:
    """Uᵀ a: weights (channels, H, W) on the output grid brought down to (channels, h, w)."""
    result: Array = rows.T @ (values @ columns)
    return result
