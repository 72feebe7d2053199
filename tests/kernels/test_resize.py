"""Resize matrices against PyTorch, and what makes them an honest linear map."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt.benchmarks import naive
from mdrt.kernels import Grid, resize
from mdrt.kernels.resize import BAND, Banded, Resize, Stencil, bands, resize_stencil

from .strategies import EXTENTS, SHARES, SIZES, Levels, levels, relative_error

TAPS = st.builds(resize_stencil, st.integers(1, 60), st.integers(1, 60), SHARES)


def dense(stencil: Stencil) -> NDArray[np.float64]:
    """The matrix, zeros and all."""
    matrix = np.zeros((len(stencil.first), stencil.n_in))
    for row, first, weights in zip(matrix, stencil.first, stencil.weights, strict=True):
        for place, weight in enumerate(weights, first):
            if weight:
                row[place] += weight
    return matrix


@given(st.integers(1, 60), st.integers(1, 60), SHARES)
def test_rows_are_a_partition_of_unity_over_two_neighbours(n_out, n_in, share):
    matrix = dense(resize_stencil(n_out, n_in, share))
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
    np.testing.assert_allclose(dense(resize_stencil(n_out, n_in)), expected.numpy(), atol=1e-12)


@given(TAPS, st.integers(1, 70))
def test_bands_hold_the_whole_matrix(stencil: Stencil, outputs: int):
    matrix = dense(stencil)
    put_together = np.zeros_like(matrix)
    for band in bands([stencil], outputs, np, "float64"):
        put_together[band.outputs, band.inputs] = band.matrix
    np.testing.assert_array_equal(put_together, matrix)


@given(TAPS, st.integers(1, 70), st.integers(0, 9))
def test_bands_multiply_as_the_matrix_does(stencil: Stencil, outputs: int, seed: int):
    random, matrix = np.random.default_rng(seed), dense(stencil)
    banded = Banded(stencil, np, "float64", outputs)
    n_out, n_in = banded.shape
    v, w = random.standard_normal((2, n_in, 3)), random.standard_normal((2, n_out, 3))
    turned = v.swapaxes(1, 2), w.swapaxes(1, 2)
    np.testing.assert_allclose(banded.down(v), matrix @ v, atol=1e-12)
    np.testing.assert_allclose(banded.across(turned[0]), turned[0] @ matrix.T, atol=1e-12)
    np.testing.assert_allclose(banded.down_back(w), matrix.T @ w, atol=1e-12)
    np.testing.assert_allclose(banded.across_back(turned[1]), turned[1] @ matrix, atol=1e-12)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), SHARES, SHARES)
def test_sums_and_overlaps_are_the_matrices(n_out, n_in, other_in, share, other_share):
    stencil, other = (
        resize_stencil(n_out, n_in, share),
        resize_stencil(n_out, other_in, other_share),
    )
    np.testing.assert_allclose(stencil.sums, dense(stencil).sum(axis=0), atol=1e-12)
    product = dense(stencil).T @ dense(other)
    np.testing.assert_allclose(dense(stencil.overlap(other)), product, atol=1e-12)


@pytest.mark.parametrize(("n_out", "n_in"), [(80_000, 20_000), (20_000, 5_000), (1, 80_000)])
def test_memory_grows_with_a_side_and_not_with_its_square(n_out: int, n_in: int):
    """The zeros that bands hold are `BAND` a cell at most; the whole matrix would be 6.4 GB."""
    tracemalloc.start()
    Banded(resize_stencil(n_out, n_in), np).down(np.ones((1, n_in, 1), np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2 * BAND * n_in + 200 * n_out + 1_000_000


@given(levels(), SIZES)
def test_resize_matches_the_naive_one(features: Levels, size):
    for grid, tensor in zip(features.grids, features.tensors, strict=True):
        assert relative_error(resize(grid, size), naive.resize(tensor, size, grid.extent)) < 1e-5


@given(levels(), SIZES)
def test_adjoint(features: Levels, size):
    """⟨U x, y⟩ = ⟨x, Uᵀ y⟩."""
    x = Grid(features.grids[0].values.astype(np.float64), features.grids[0].extent)
    y = np.random.default_rng(0).standard_normal((len(x.values), *size))
    down = Resize(x, size, "float64").back(y)
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
