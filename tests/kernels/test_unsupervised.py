"""Affinity, eigenvectors, k-means and segments against dense matrices and plain Lloyd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.benchmarks import naive
from mdrt.kernels import (
    Affinity,
    Grid,
    SpectralError,
    assign,
    cluster,
    cluster_weights,
    found,
    gram_kmeans,
    kmeans,
    prototypes,
    score_maps,
    spectral_embedding,
)
from mdrt.kernels.affinity import CELLS_SIDE, CellAffinity, cosines
from mdrt.kernels.found import CELLS, UNIFORM, leak
from mdrt.kernels.kmeans import lloyd, starts

from .strategies import SEEDS, SIZES, Levels, levels, relative_error


def picture(seed: int = 0, regions: int = 3) -> Levels:
    """Features of vertical bands, each with a direction of its own, plus noise."""
    random = np.random.default_rng(seed)
    grids = []
    for channels, side in [(96, 8), (48, 16), (24, 20)]:
        directions = random.standard_normal((regions, channels)) + 0.8
        band = np.arange(side) * regions // side
        values = np.broadcast_to(directions[band].T[:, None, :], (channels, side, side))
        noisy = values + 0.2 * random.standard_normal(values.shape)
        grids.append(Grid(noisy.astype(np.float32)))
    return Levels(grids)


@given(levels(), SIZES)
@settings(max_examples=40)
def test_operator_is_the_cosine_matrix(features: Levels, size):
    affinity = Affinity(features.grids, size)
    dense = naive.affinity(features.tensors, size, features.extents)
    norms = naive.pixel_norms(features.tensors, size, features.extents)
    tolerance = 1e-5 * float(norms.max() / norms.min())
    assert relative_error(affinity.matvec(np.eye(affinity.n)), dense) < tolerance
    single = affinity.matvec(np.ones(affinity.n))
    np.testing.assert_allclose(single, affinity.matvec(np.ones((1, affinity.n)))[0], atol=1e-9)
    assert affinity.degrees.min() > 0


@given(levels(offset=1.0), SIZES, st.integers(1, 6))
@settings(max_examples=25)
def test_eigenpairs(features: Levels, size, k):
    affinity = Affinity(features.grids, size)
    k = min(k, affinity.n)
    values, vectors = spectral_embedding(affinity, k)
    assert (np.diff(values) >= -1e-12).all()
    _check_eigenpairs(features, size, values, vectors)


def _check_eigenpairs(features: Levels, size, values, vectors):
    """By residual against the dense matrix, by eigenvalue against a dense solver."""
    dense = naive.affinity(features.tensors, size, features.extents)
    expected, _ = naive.laplacian_eigs(dense, len(values))
    normalised = naive.normalised_affinity(dense).numpy()
    residual = normalised @ vectors - vectors * (1 - values)
    assert np.linalg.norm(residual, axis=0).max() < 1e-4
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-6)
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-4)


def test_krylov_eigenpairs():
    features = picture()
    values, vectors = spectral_embedding(Affinity(features.grids, (40, 35)), 9)
    _check_eigenpairs(features, (40, 35), values, vectors)
    again, _ = spectral_embedding(Affinity(features.grids, (40, 35)), 9)
    np.testing.assert_array_equal(values, again)


def test_equal_eigenvalues_do_not_hide_one_another():
    """Six regions orthogonal to each other, equal in size: eigenvalue 0 six times."""
    values = np.repeat(np.repeat(np.eye(6, dtype=np.float32).reshape(6, 2, 3), 10, 1), 10, 2)
    affinity = Affinity([Grid(values)], (20, 30))
    eigenvalues, _ = spectral_embedding(affinity, 8)
    np.testing.assert_allclose(eigenvalues, [0] * 6 + [1] * 2, atol=1e-6)
    labels, k = cluster([Grid(values)], size=(20, 30))
    assert k == 6
    np.testing.assert_array_equal(labels, np.kron(np.arange(6).reshape(2, 3), np.ones((10, 10))))


@given(levels(), st.floats(0.5, 9))
@settings(max_examples=25)
def test_a_sharpened_affinity_is_a_power_of_the_cosines(features: Levels, sharpness):
    affinity = CellAffinity(*cosines(features.grids), sharpness)
    finest = max(features.grids, key=lambda grid: grid.size)
    assert affinity.n == affinity.size[0] * affinity.size[1]
    assert all(0 < n <= most for n, most in zip(affinity.size, finest.size, strict=True))
    dense = naive.affinity(features.tensors, affinity.size, features.extents)
    norms = naive.pixel_norms(features.tensors, affinity.size, features.extents)
    tolerance = 1e-5 * float(norms.max() / norms.min())
    expected = dense.clamp(min=0) ** sharpness
    actual = affinity.matvec(np.eye(affinity.n))
    # a root is steep at 0: compared by what it is a root of
    np.testing.assert_allclose(
        actual ** (1 / sharpness), expected.numpy() ** (1 / sharpness), atol=tolerance
    )
    assert affinity.degrees.min() > 0


def test_a_sharpened_affinity_has_no_more_cells_than_fit():
    features = [Grid(np.ones((1, 3, 200), np.float32)), Grid(np.ones((1, 2, 4), np.float32))]
    assert CellAffinity(*cosines(features), 2.0).size == (3, CELLS_SIDE)


def test_a_power_parts_what_has_much_in_common():
    """Five bands whose cosines are 0.3 each: hardly a cut in them, five parts in a power."""
    features = _bands(5, 0.3)
    plain, _ = spectral_embedding(Affinity([features], (20, 20)), 7)
    assert plain[4] > 0.5
    sharp, _ = spectral_embedding(CellAffinity(*cosines([features]), 8.0), 7)
    assert sharp[4] < 0.001
    for power in (2.0, 4.0, 8.0):
        labels, k = cluster([features], "auto", size=None, power=power)
        assert k == 5
        np.testing.assert_array_equal(labels, np.repeat(np.arange(5), 4)[None].repeat(20, 0))
        # however much all of them have in common
        assert cluster([_bands(5, 0.8)], "auto", size=None, power=power)[1] == 5


def _bands(count: int, likeness: float) -> Grid:
    """Bands of four columns, each of one direction, every two of them with the same cosine."""
    gram = np.full((count, count), likeness) + (1 - likeness) * np.eye(count)
    directions = np.linalg.cholesky(gram)  # rows of length 1
    values = np.repeat(directions, 4, axis=0).T[:, None, :].repeat(4 * count, axis=1)
    return Grid(values.astype(np.float32))


@pytest.mark.parametrize("k", [3, 17, 60, 150])
def test_eigenpairs_of_a_sharpened_affinity(k):
    """576 cells, as the embedded model's: by Krylov for few, densely for many."""
    random = np.random.default_rng(7)
    values = random.normal(0.4, 1, (40, 24, 24)).astype(np.float32)
    affinity = CellAffinity(*cosines([Grid(values)]), 4.0)
    eigenvalues, vectors = spectral_embedding(affinity, k)
    matrix = affinity.normalised_matvec(np.eye(affinity.n))
    expected = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:k]
    np.testing.assert_allclose(1 - eigenvalues, expected, atol=1e-6)
    residual = matrix @ vectors - vectors * (1 - eigenvalues)
    assert np.linalg.norm(residual, axis=0).max() < 1e-4


def test_wide_grids_use_the_channels_instead_of_the_gram_matrix():
    random = np.random.default_rng(0)
    features = Levels([Grid((random.standard_normal((5, 21, 20)) + 1).astype(np.float32))])
    values, vectors = spectral_embedding(Affinity(features.grids, (30, 30)), 4)
    _check_eigenpairs(features, (30, 30), values, vectors)


def test_features_that_are_not_finite_are_refused():
    values = np.ones((2, 3, 3), np.float32)
    values[0, 0, 0] = np.nan
    with pytest.raises(SpectralError, match="NaN"):
        spectral_embedding(Affinity([Grid(values)], (4, 4)), 2)


def _blobs(random, truth, likeness=0.5, noise=0.0):
    """Features of cells by the part each lies in, every two parts with the cosine `likeness`."""
    parts = int(truth.max()) + 1
    own = np.sqrt(1 - likeness) * np.eye(parts, 40)
    directions = own + np.sqrt(likeness) * np.eye(1, 40, 39)
    values = directions[truth] + noise * random.standard_normal((*truth.shape, 40))
    return values.transpose(2, 0, 1).astype(np.float32)


def _discs(parts):
    """Cells (24, 24) of a ground and as many discs as make it `parts`."""
    rows, columns = np.mgrid[:24, :24]
    truth = np.zeros((24, 24), int)
    for part, (y, x) in enumerate([(6, 6), (6, 17), (17, 6), (17, 17)][: parts - 1], 1):
        truth[(rows - y) ** 2 + (columns - x) ** 2 < 20] = part
    return truth


@pytest.mark.parametrize("noise", [0, 1e-6, 1e-3])
@pytest.mark.parametrize("channels", [1, 3, 400])
def test_a_uniform_picture_is_one_segment(noise, channels):
    random = np.random.default_rng(0)
    values = 7 + noise * random.standard_normal((channels, 20, 30))
    grid = Grid(values.astype(np.float32))
    assert found([grid], 16) == 1
    for method in ("spectral", "kmeans"):
        labels, k = cluster([grid], "auto", method, size=(20, 30))
        assert k == 1
        assert (labels == 0).all()


@pytest.mark.parametrize("noise", [0.5, 5])
def test_noise_is_no_segment(noise):
    """Its features vary as much as a picture's, but no part of them keeps together."""
    random = np.random.default_rng(0)
    values = 1 + noise * random.standard_normal((100, 24, 24))
    assert found([Grid(values.astype(np.float32))], 16) == 1


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("likeness", [0, 0.5, 0.9])
def test_parts_that_differ_are_found(parts, likeness):
    random = np.random.default_rng(parts)
    values = _blobs(random, _discs(parts), likeness, noise=0.02)
    assert found([Grid(values)], 16) == parts
    assert found([Grid(values)], 4) == min(parts, 4)
    assert found([Grid(values[:, :, ::-1].copy())], 16) == parts


@given(SEEDS, st.integers(2, 6), st.floats(0.02, 0.3), st.floats(-3, 3))
@settings(max_examples=25)
def test_k_is_that_of_the_mirrored_picture_and_of_any_scale(seed, regions, noise, exponent):
    """On parts of uneven size and place, and noise up to where they dissolve."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 16, (regions, 2))
    cells = np.stack(np.mgrid[:16, :16], axis=-1)
    truth = ((cells[:, :, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1)
    values = _blobs(random, truth, noise=noise)
    k = found([Grid(values)], 16)
    for mirrored in (values[:, :, ::-1], values[:, ::-1], values.transpose(0, 2, 1)):
        assert found([Grid(np.ascontiguousarray(mirrored))], 16) == k
    assert found([Grid((10**exponent * values).astype(np.float32))], 16) == k


def test_k_is_found_on_any_levels_and_grids():
    """Two levels, the finer one of more cells than are looked at, on a canvas with padding."""
    random = np.random.default_rng(0)
    truth = np.kron(_discs(3), np.ones((3, 3), int))
    coarse = Grid(_blobs(random, truth[1::3, 1::3], noise=0.02))
    values = _blobs(random, truth, noise=0.02)
    padded = np.concatenate([values, 50 + 0 * values], axis=2)
    assert len(cosines([Grid(values)], CELLS)[0]) == CELLS**2
    assert found([coarse, Grid(values)], 16) == 3
    assert found([Grid(padded, (1.0, 0.5))], 16) == 3


def test_features_that_are_not_finite_have_no_number_of_segments():
    values = np.ones((2, 3, 3), np.float32)
    values[0, 0, 0] = np.nan
    with pytest.raises(SpectralError, match="NaN"):
        found([Grid(values)], 16)


def test_leak():
    affinity = np.array([[0, 3, 1, 0], [3, 0, 0, 0], [1, 0, 0, 9], [0, 0, 9, 0]], float)
    assert leak(affinity, np.array([0, 0, 1, 1]), 2) == pytest.approx(1 / 7)
    assert leak(affinity, np.array([0, 0, 0, 1]), 2) == 1
    assert leak(np.zeros((2, 2)), np.array([0, 1]), 2) == 1  # there is none to keep


@given(SEEDS, st.integers(2, CELLS // 4), st.floats(0, 1 - 3 * UNIFORM), st.floats(0, 0.01))
@settings(max_examples=25)
def test_regions_that_differ_are_counted(seed, regions, likeness, noise):
    """Blocks of one direction each, every two of them with the cosine `likeness`.

    As wide as what is looked at: a wider grid is resized to that, and a column between two blocks
    that is half of each may count as one of its own.
    """
    random = np.random.default_rng(seed)
    own = np.sqrt(1 - likeness) * np.eye(regions)
    directions = np.hstack([own, np.full((regions, 1), np.sqrt(likeness))])
    truth = np.arange(4 * regions)[None].repeat(12, axis=0) // 4
    values = directions[truth] + noise * random.standard_normal((*truth.shape, regions + 1))
    grid = Grid(values.transpose(2, 0, 1).astype(np.float32))
    labels, k = cluster([grid], size=truth.shape)
    assert k == regions
    np.testing.assert_array_equal(labels, truth)


@given(SEEDS, st.integers(1, 60), st.integers(1, 5), st.integers(1, 8))
@settings(max_examples=40)
def test_lloyd_is_not_above_the_naive_one(seed, n, d, k):
    random = np.random.default_rng(seed)
    points = random.standard_normal((n, d))
    k = min(k, n)
    squares = (points * points).sum(axis=1)

    def gram(rows):
        return rows @ points @ points.T

    chosen = starts(gram, squares, k, random)
    assert len(set(chosen)) == len(chosen) == k
    result = lloyd(gram, squares, chosen)
    assert len(np.unique(result.labels)) == result.k == k
    tensor = torch.from_numpy(points)
    _, _, inertia = naive.lloyd(tensor, tensor[chosen])
    assert result.inertia <= inertia * (1 + 1e-6) + 1e-6 * n
    best = kmeans(points, k, seed)
    centres = np.stack([points[best.labels == c].mean(axis=0) for c in range(k)])
    spread = ((points - centres[best.labels]) ** 2).sum()
    assert best.inertia == pytest.approx(spread, rel=1e-6, abs=1e-5 * n)
    np.testing.assert_array_equal(best.labels, kmeans(points, k, seed).labels)


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=15)
def test_separated_clusters_are_found(seed, k):
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(k), 20)
    points = 100 * np.eye(4)[truth] + random.standard_normal((len(truth), 4))
    labels = kmeans(points, k, seed).labels
    assert len({(int(a), int(b)) for a, b in zip(truth, labels, strict=True)}) == k


def test_fewer_distinct_points_than_clusters():
    points = np.repeat(np.eye(2), 5, axis=0)
    result = kmeans(points, 7)
    assert result.k == 2
    assert result.inertia == 0
    with pytest.raises(ValueError, match=r"\[1, 10\], got 11"):
        kmeans(points, 11)


def test_gram_kmeans_is_kmeans_on_normalised_features():
    features = picture()
    size = (12, 13)
    affinity = Affinity(features.grids, size)
    result = gram_kmeans(affinity.matvec, np.ones(affinity.n), 5, seed=3)
    points = naive.feature_points(features.tensors, size).numpy()
    explicit = kmeans(points, 5, seed=3)
    np.testing.assert_array_equal(result.labels, explicit.labels)
    assert result.inertia == pytest.approx(explicit.inertia, rel=1e-5)


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
@pytest.mark.parametrize("segments", [3, "auto"])
def test_bands_become_segments(method, segments):
    features = picture()
    if segments == "auto":  # where levels' edges do not coincide, the rims are parts as well
        features = Levels(features.grids[-1:])
    labels, k = cluster(features.grids, segments, method, size=(30, 30))
    assert k == 3
    expected = naive.cluster(features.tensors, 3, method, size=(30, 30)).numpy()
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1, return_counts=True)[1]
    assert np.sort(pairs)[::-1][:3].sum() >= 0.999 * labels.size
    assert labels[0, 0] == 0
    again, _ = cluster(features.grids, segments, method, size=(30, 30))
    np.testing.assert_array_equal(labels, again)

    weights = cluster_weights(labels, k)
    np.testing.assert_array_equal(weights.values.sum(axis=0), 1)
    averages = prototypes(features.grids, weights, (30, 30))
    full = assign(score_maps(features.grids, averages), (30, 30)).labels
    assert (full == labels).mean() > 0.9


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_small_and_uniform_inputs(method):
    one = [Grid(np.ones((4, 1, 1), np.float32))]
    for size, segments in [((1, 1), 5), ((1, 1), "auto"), ((25, 25), 4), ((25, 25), "auto")]:
        labels, k = cluster(one, segments, method, size=size)
        assert k == 1
        assert labels.shape == size
        assert (labels == 0).all()
    with pytest.raises(ValueError, match="at least 1"):
        cluster(one, 0, method)
    with pytest.raises(ValueError, match="method 'ward'"):
        cluster(one, 2, "ward")
    if method == "kmeans":
        with pytest.raises(ValueError, match="needs a size"):
            cluster(one, 2, method, size=None, power=2.0)
    else:
        assert cluster(one, 3, method, size=None, power=2.0)[1] == 1


def test_segments_of_a_cropped_canvas_ignore_the_padding():
    random = np.random.default_rng(0)
    values = random.standard_normal((8, 10, 10)).astype(np.float32) + 1
    padded = values.copy()
    padded[:, :, 7:] = 50
    first, second = (cluster([Grid(v, (1.0, 0.5))], 3, size=(20, 20)) for v in (values, padded))
    np.testing.assert_array_equal(first[0], second[0])
