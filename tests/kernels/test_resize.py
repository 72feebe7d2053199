"""Resize matrices against PyTorch, and what makes them an honest linear map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.benchmarks import naive
from mdrt.kernels import Grid, resize, resize_matrix
from mdrt.kernels.resize import resize_adjoint, resize_matrices

from .strategies import EXTENTS, SHARES, SIZES, Levels, levels, relative_error


@given(st.integers(1, 60), st.integers(1, 60), SHARES)
def test_rows_are_a_partition_of_unity_over_two_neighbours(n_out, n_in, share):
    matrix = resize_matrix(n_out, n_in, share, dtype="float64")
    assert matrix.shape == (n_out, n_in)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    for row in matrix:
        held = np.flatnonzero(row)
        assert held[-1] - held[0] <= 1


@given(st.integers(1, 60), st.integers(1, 60))
def test_matrix_is_interpolate(n_out, n_in):
    eye = torch.eye(n_in, dtype=torch.float64)[None]
    expected = F.interpolate(eye, size=n_out, mode="linear", align_corners=False)[0].T
    actual = resize_matrix(n_out, n_in, dtype="float64")
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-12)


@given(levels(), SIZES)
def test_resize_matches_the_naive_one(features: Levels, size):
    for grid, tensor in zip(features.grids, features.tensors, strict=True):
        assert relative_error(resize(grid, size), naive.resize(tensor, size, grid.extent)) < 1e-5


@given(levels(), SIZES)
def test_adjoint(features: Levels, size):
    """⟨U x, y⟩ = ⟨x, Uᵀ y⟩."""
    x = Grid(features.grids[0].values.astype(np.float64), features.grids[0].extent)
    y = np.random.default_rng(0).standard_normal((len(x.values), *size))
    down = resize_adjoint(y, *resize_matrices(x, size, dtype="float64"))
    assert np.vdot(resize(x, size), y) == pytest.approx(np.vdot(x.values, down), abs=1e-9)


@given(EXTENTS)
@settings(max_examples=20)
def test_an_extent_crops_before_resizing(extent):
    """A canvas whose padding differs gives the same image, away from the padding's border."""
    canvas = np.random.default_rng(1).standard_normal((2, 40, 40)).astype(np.float32)
    padded = canvas.copy()
    rows, columns = (int(np.ceil(40 * share)) + 1 for share in extent)
    padded[:, rows:], padded[:, :, columns:] = 7, 7
    np.testing.assert_array_equal(
        resize(Grid(canvas, extent), (9, 9)), resize(Grid(padded, extent), (9, 9))
    )


@pytest.mark.parametrize("extent", [(0.0, 1.0), (1.0, 1.1), (-0.5, 0.5)])
def test_grid_refuses_an_extent_outside_its_canvas(extent):
    with pytest.raises(ValueError, match="extent"):
        Grid(np.zeros((1, 2, 2), np.float32), extent)


def test_grid_refuses_a_wrong_number_of_axes():
    with pytest.raises(ValueError, match=r"channels, h, w"):
        Grid(np.zeros((2, 2), np.float32))


def test_one_pixel_is_the_centre():
    values = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    assert resize(Grid(values), (1, 1)).item() == 4
