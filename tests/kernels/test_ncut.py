"""DiffCut's cuts and AutoSC beside the published steps written out (`published.diffcut`)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from published import diffcut

from mdrt.kernels import Grid, SpectralError, ncut
from mdrt.kernels.affinity import CellAffinity, raised, rescaled
from mdrt.kernels.autosc import POWERS, cluster_qr
from mdrt.kernels.fiedler import second_eigenvector
from mdrt.kernels.ncut import THRESHOLDS, recursive_cut, threshold_costs
from mdrt.kernels.segments import MAX_SEGMENTS
from mdrt.kernels.spectral import TOLERANCE, finite_cosines, spectral_embedding

from .blobs import agreement, blobs, grid
from .strategies import SEEDS

SIDES = st.integers(8, 16)
METHODS = ("recursive", "autosc")
QUIRKS = ("none", "published")


def tokens(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(channels, h, w) as the naive steps take them, (h·w, channels)."""
    return values.reshape(len(values), -1).T.astype(np.float64)


@pytest.mark.parametrize("quirks", QUIRKS)
@pytest.mark.parametrize("method", METHODS)
@given(SEEDS, SIDES, st.integers(2, 6))
@settings(max_examples=12)
def test_segments_are_those_of_the_published_steps(method, quirks, seed, side, parts):
    values, _ = blobs(seed, side, parts)
    naive = diffcut.recursive_cut if method == "recursive" else diffcut.autosc
    expected = naive(tokens(values), (side, side), quirks=quirks == "published")
    labels, k = ncut([grid(values)], method=method, quirks=quirks)
    assert k == len(np.unique(expected))
    assert labels[0, 0] == 0
    if quirks == "published":  # what is left out goes with a side that rounding can choose
        kept = diffcut.affinity(tokens(values), 10.0).min(axis=1).reshape(side, side) > 0
        labels, expected = labels[kept], expected[kept]
    assert agreement(labels, expected) >= 0.999


@given(SEEDS, SIDES, st.floats(0.4, 1.2), st.floats(0.1, 0.9), st.floats(1, 15))
@settings(max_examples=25)
def test_so_are_they_where_hardly_any_part_keeps_together(seed, side, noise, tau, alpha):
    """Up to as many segments as cells, all of them equal, of the same affinity in float64."""
    features = tokens(blobs(seed, side, 4, noise=noise)[0])
    weights = diffcut.affinity(features, alpha)
    for published in (False, True):
        expected = diffcut.recursive_cut(features, (side, side), tau, alpha, published)
        labels = recursive_cut(weights, "auto", tau, published)
        assert agreement(labels, expected.ravel()) == 1


@given(SEEDS, st.integers(2, 120), st.floats(0, 1))
@settings(max_examples=30)
def test_second_eigenvector(seed, n, likeness):
    """By residual and by eigenvalue, never by entries: eigenvalues can be equal."""
    random = np.random.default_rng(seed)
    points = np.sqrt(likeness) + random.standard_normal((n, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    weights = rescaled(points @ points.T, 4.0)
    degrees = weights.sum(axis=1)
    v = second_eigenvector(weights, degrees)
    vector = v * np.sqrt(degrees)
    normalised = weights / np.sqrt(degrees[:, None] * degrees)
    value = np.linalg.eigvalsh(normalised)[-2]
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert np.linalg.norm(normalised @ vector - value * vector) < 1e-5
    assert abs(vector @ np.sqrt(degrees)) < 1e-8 * degrees.sum()
    assert v[abs(v).argmax()] > 0
    np.testing.assert_array_equal(v, second_eigenvector(weights, degrees))


@pytest.mark.parametrize("power", POWERS)
@given(SEEDS, st.floats(0.2, 1))
@settings(max_examples=3, deadline=None)
def test_autosc_sees_a_dense_solvers_eigenvectors_after_few_products(power, seed, noise):
    """At a photograph's size, however closely the eigenvalues lie together."""
    cosines, _ = finite_cosines([grid(blobs(seed, 29, 5, noise)[0])])
    affinity, k = CellAffinity(rescaled(cosines), (29, 29), power), MAX_SEGMENTS + 1
    matrix = affinity.normalised_matvec(np.eye(affinity.n))
    products = 0

    def counted(rows):
        nonlocal products
        products += 1
        return rows @ matrix

    affinity.normalised_matvec = counted
    values, vectors = spectral_embedding(affinity, k)
    every, dense = np.linalg.eigh(np.eye(affinity.n) - (matrix + matrix.T) / 2)
    np.testing.assert_allclose(values, every[:k], atol=TOLERANCE)
    assert np.linalg.norm(matrix @ vectors - vectors * (1 - values), axis=0).max() < 2 * TOLERANCE
    # What separate eigenvalues' vectors are turned by is the residual over the gap behind them.
    last = int(np.diff(every[: k + 1]).argmax()) + 1
    outside = vectors[:, :last] - dense[:, :last] @ (dense[:, :last].T @ vectors[:, :last])
    assert abs(outside).max() < 2 * TOLERANCE / (every[last] - every[last - 1])
    assert products <= 16


@given(SEEDS, st.integers(2, 40))
@settings(max_examples=20)
def test_every_thresholds_cost_is_the_quadratic_form(seed, n):
    weights = diffcut.affinity(np.random.default_rng(seed).standard_normal((n, 4)), 3.0)
    passed = np.random.default_rng(seed).integers(0, THRESHOLDS + 1, n)
    degrees = weights.sum(axis=1)
    costs = threshold_costs(weights, passed)
    for j, cost in enumerate(costs):
        expected = diffcut.cut_cost(np.diag(degrees) - weights, degrees, passed > j)
        assert cost == (np.inf if expected is None else pytest.approx(expected, abs=1e-9))


@pytest.mark.parametrize("quirks", QUIRKS)
@pytest.mark.parametrize("method", METHODS)
def test_two_blobs_are_two_segments(method, quirks):
    truth = np.arange(12)[None].repeat(10, axis=0) // 5 % 2
    random = np.random.default_rng(0)
    values = np.eye(2, 8)[truth] + 1e-3 * random.standard_normal((*truth.shape, 8))
    labels, k = ncut([grid(values.transpose(2, 0, 1))], method=method, quirks=quirks)
    assert k == 2
    np.testing.assert_array_equal(labels, truth)


@pytest.mark.parametrize("method", METHODS)
@given(SEEDS, st.integers(2, 5), st.floats(0.05, 0.4))
@settings(max_examples=12)
def test_a_mirrored_picture_has_mirrored_segments(method, seed, parts, noise):
    values, _ = blobs(seed, 12, parts, noise=noise)
    labels, k = ncut([grid(values)], method=method)
    for turned, back in (
        (values[:, :, ::-1], labels[:, ::-1]),
        (values[:, ::-1], labels[::-1]),
        (values.transpose(0, 2, 1), labels.T),
    ):
        found, count = ncut([grid(turned)], method=method)
        assert count == k
        assert agreement(found, back) == 1


@given(SEEDS, st.integers(2, 5))
@settings(max_examples=12)
def test_more_segments_divide_those_of_fewer(seed, parts):
    """The cheapest cut is made next: k segments, and what was apart stays apart."""
    values, truth = blobs(seed, 14, parts)
    rows = [ncut([grid(values)], k) for k in range(1, 9)]
    assert [k for _, k in rows] == list(range(1, 9))
    assert not rows[0][0].any()
    assert agreement(rows[truth.max()][0], truth) == 1
    for (fewer, _), (more, k) in pairwise(rows):
        assert all(len(np.unique(fewer[more == label])) == 1 for label in range(k))


def test_a_higher_tau_finds_more():
    values, _ = blobs(3, 16, 4, noise=0.6)
    counts = [ncut([grid(values)], tau=tau)[1] for tau in (0.1, 0.3, 0.5, 0.8, 2.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 256  # every cut costs less than 2


@pytest.mark.parametrize("quirks", QUIRKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_constant_map_is_one_segment(method, quirks):
    values = np.full((5, 6, 7), 3, np.float32)
    for segments in ("auto", 1, 4):
        labels, k = ncut([grid(values)], segments, method=method, quirks=quirks)
        assert k == 1
        assert labels.shape == (6, 7)
        assert not labels.any()
    assert ncut([grid(np.zeros((5, 3, 3)))], method=method, quirks=quirks)[1] == 1
    assert ncut([grid(values[:, :1, :1])], 3, method=method, quirks=quirks)[1] == 1


def test_noise_of_one_colour_is_cut_by_the_published_code_alone():
    values = 7 + 1e-3 * np.random.default_rng(0).standard_normal((100, 12, 12))
    assert ncut([grid(values)])[1] == ncut([grid(values)], method="autosc")[1] == 1
    assert ncut([grid(values)], quirks="published")[1] > 1


@pytest.mark.parametrize("method", METHODS)
def test_no_more_segments_than_kinds(method):
    values = np.eye(3)[np.arange(9)[None].repeat(4, axis=0) // 3].transpose(2, 0, 1)
    labels, k = ncut([grid(values)], 7, method=method)
    assert k == 3
    np.testing.assert_array_equal(labels[0], np.arange(9) // 3)


def test_a_cell_without_features_is_a_segment_like_others():
    values, truth = blobs(0, 9, 2)
    values[:, 4, 4] = 0
    labels, k = ncut([grid(values)])
    assert k >= 2
    rest = np.arange(81).reshape(9, 9) != 40
    assert agreement(labels[rest], truth[rest]) > 0.9


def test_wrong_choices_are_named():
    values = [grid(np.ones((2, 3, 3)))]
    with pytest.raises(ValueError, match="at least 1"):
        ncut(values, 0)
    with pytest.raises(ValueError, match="method 'ward'"):
        ncut(values, method="ward")
    with pytest.raises(ValueError, match="quirks 'some'"):
        ncut(values, quirks="some")
    with pytest.raises(SpectralError, match="NaN"):
        ncut([grid(np.full((2, 3, 3), np.nan))], 2)


@given(SEEDS, st.integers(1, 6), st.integers(6, 30))
@settings(max_examples=20)
def test_clusters_are_those_of_the_naive_pivots(seed, k, n):
    vectors = np.random.default_rng(seed).standard_normal((n, k))
    np.testing.assert_array_equal(cluster_qr(vectors), diffcut.cluster_qr(vectors))


@given(st.one_of(st.integers(1, 17), st.floats(0.1, 17)))
@settings(max_examples=40)
def test_powers_by_products(power):
    values = np.linspace(0, 1.3, 50).reshape(5, 10)
    np.testing.assert_allclose(raised(values.copy(), float(power)), values**power, rtol=1e-12)


def test_grids_of_several_levels():
    """As they are: the finest level's cells, at most 64 a side, without the padding."""
    values, truth = blobs(1, 16, 3)
    coarse = Grid(np.ascontiguousarray(values[:, 1::2, 1::2]))
    padded = Grid(np.concatenate([values, 50 + 0 * values], axis=2), (1.0, 0.5))
    assert agreement(ncut([coarse, grid(values)], 3)[0], truth) > 0.9
    np.testing.assert_array_equal(ncut([padded], 3)[0], ncut([grid(values)], 3)[0])
