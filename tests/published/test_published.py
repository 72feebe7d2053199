"""The naive heads on their own: what the papers promise of each, on features made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from . import (
    diffcut,
    diffsegmenter,
    falcon,
    faseg,
    goca,
    iseg,
    pamr,
    resizing,
    scaling,
    seg4diff,
)
from .selfattention import head_maps

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SIDE = 6


def random(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


def positive(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape)


def probabilities(seed: int, *shape: int) -> Floats:
    return scaling.softmax(2 * random(seed, *shape))


def blobs(seed: int, count: int = 2, side: int = SIDE) -> tuple[Floats, Labels]:
    """Features (side², 8) of `count` orthogonal vectors in upright bands, noise 1e-3; bands."""
    bands = np.tile(np.arange(side) * count // side, side)
    return np.eye(8)[bands] + 1e-3 * random(seed, side * side, 8), bands


def same_partition(one: Labels, other: Labels) -> bool:
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


def pyramid(seed: int, classes: int) -> tuple[dict[int, list[Floats]], dict[int, list[Floats]]]:
    """Cross- and self-attention of two layers with two heads at sides 2, 4 and 8."""
    cross, own = {}, {}
    for r in (2, 4, 8):
        cross[r] = [positive(seed + r + i, 2, r * r, classes) for i in range(2)]
        own[r] = [probabilities(seed + 10 * r + i, 2, r * r, r * r) for i in range(2)]
    return cross, own


# ---- resizing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(12, 15), (3, 2), (4, 5), (9, 7), (1, 1)])
def test_resizing_is_torch(size: tuple[int, int]) -> None:
    maps = random(0, 3, 4, 5)
    tensor = torch.from_numpy(maps)[None]
    for mode in ("bilinear", "bicubic"):
        expected = F.interpolate(tensor, size, mode=mode, align_corners=False)[0].numpy()
        np.testing.assert_allclose(getattr(resizing, mode)(maps, size), expected, atol=1e-12)
    np.testing.assert_array_equal(
        resizing.nearest(maps, size), F.interpolate(tensor, size, mode="nearest")[0].numpy()
    )
    np.testing.assert_allclose(
        resizing.bilinear(maps, size, align_corners=True),
        F.interpolate(tensor, size, mode="bilinear", align_corners=True)[0].numpy(),
        atol=1e-12,
    )


@pytest.mark.parametrize("keys", ["bilinear", "bicubic"])
def test_resizing_the_operand_equals_resizing_the_map(keys: str) -> None:
    """A c = repeat(S · (Uᵀ c)), U the upsampling of the keys."""
    s, c = probabilities(1, 16, 16), random(2, 64)
    whole = resizing.resized_attention(s, 8, keys) @ c
    line = {"bilinear": resizing.linear_weights, "bicubic": resizing.cubic_weights}[keys](4, 8)
    small = s @ (line.T @ c.reshape(8, 8) @ line).ravel()
    repeated = resizing.nearest(small.reshape(1, 4, 4), (8, 8)).ravel()
    np.testing.assert_allclose(whole, repeated, rtol=1e-12, atol=1e-13)


def test_attention_of_the_same_side_is_itself() -> None:
    s = probabilities(3, 16, 16)
    np.testing.assert_allclose(resizing.resized_attention(s, 4, "bicubic"), s, atol=1e-15)


# ---- DiffCut ------------------------------------------------------------------------------------


@pytest.mark.parametrize("quirks", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_two_blobs_are_two_segments(seed: int, quirks: bool) -> None:
    features, bands = blobs(seed)
    labels = diffcut.recursive_cut(features, (SIDE, SIDE), tau=0.5, quirks=quirks)
    assert same_partition(labels, bands)


@pytest.mark.parametrize("quirks", [True, False])
def test_three_blobs_are_three_segments(quirks: bool) -> None:
    features, bands = blobs(0, count=3)
    labels = diffcut.recursive_cut(features, (SIDE, SIDE), quirks=quirks)
    without_dropped = diffcut.affinity(features, 10.0).min(axis=1) > 0
    assert same_partition(labels.ravel()[without_dropped], bands[without_dropped])
    if not quirks:
        assert same_partition(labels, bands)


def test_nodes_with_an_exact_zero_are_dropped_below_the_first_level() -> None:
    """Three groups, the first cut {0, 1} | {2}; two nodes of group 1 share the smallest cosine."""
    dropped_somewhere = False
    for seed in range(20):
        features, _ = blobs(seed, count=3)
        zero_rows = diffcut.affinity(features, 10.0).min(axis=1) == 0
        assert zero_rows.sum() >= 2
        quirky = diffcut.recursive_cut(features, (SIDE, SIDE))
        plain = diffcut.recursive_cut(features, (SIDE, SIDE), quirks=False)
        kept = ~zero_rows
        assert same_partition(quirky.ravel()[kept], plain.ravel()[kept])
        dropped_somewhere |= not same_partition(quirky, plain)
    assert dropped_somewhere


@pytest.mark.parametrize("count", [2, 3])
def test_mirrored_features_give_mirrored_segments(count: int) -> None:
    features, _ = blobs(4, count=count)
    mirrored = features.reshape(SIDE, SIDE, -1)[:, ::-1].reshape(SIDE * SIDE, -1)
    for head in (diffcut.recursive_cut, diffcut.autosc):
        labels = head(features, (SIDE, SIDE))
        assert same_partition(labels[:, ::-1], head(mirrored, (SIDE, SIDE)))


def test_quadratic_form_is_the_normalised_cut() -> None:
    """(yᵀ(D−A)y)/(yᵀDy) = cut/assoc(S) + cut/assoc(V∖S)."""
    weights = diffcut.affinity(random(5, 12, 4), 10.0)
    degrees = weights.sum(axis=1)
    side = np.arange(12) % 3 == 0
    cut = weights[np.ix_(side, ~side)].sum()
    cost = diffcut.cut_cost(np.diag(degrees) - weights, degrees, side)
    assert cost == pytest.approx(cut / degrees[side].sum() + cut / degrees[~side].sum())
    assert diffcut.cut_cost(np.diag(degrees) - weights, degrees, side & ~side) is None


def test_assembly_numbers_the_parts_as_published() -> None:
    first = np.array([True, True, True, False])
    second = np.array([True, False, False, False])
    assert diffcut.assembled([], 4).tolist() == [0, 0, 0, 0]
    assert diffcut.assembled([first, second], 4).tolist() == [2, 1, 1, 0]


def test_prototypes_name_each_pixel_by_its_blob() -> None:
    features, bands = blobs(6)
    labels = diffcut.prototype_labels(
        features, (SIDE, SIDE), bands.reshape(SIDE, SIDE), (4 * SIDE, 4 * SIDE)
    )
    expected = np.arange(4 * SIDE) >= 2 * SIDE
    np.testing.assert_array_equal(labels, np.tile(expected, (4 * SIDE, 1)))


@pytest.mark.parametrize("quirks", [True, False])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_autosc_counts_the_blobs(count: int, quirks: bool) -> None:
    features, bands = blobs(7, count=count)
    labels = diffcut.autosc(features, (SIDE, SIDE), quirks)
    assert same_partition(labels, bands)


def test_pivots_are_those_of_lapack() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    for seed in range(5):
        matrix = random(seed, 4, 30)
        expected = linalg.qr(matrix, pivoting=True, mode="r")[1][:4]
        assert diffcut.pivoted_columns(matrix, 4) == expected.tolist()


def test_constant_features_are_one_segment() -> None:
    features = np.ones((SIDE * SIDE, 5))
    assert not diffcut.recursive_cut(features, (SIDE, SIDE)).any()
    assert len(np.unique(diffcut.autosc(features, (SIDE, SIDE)))) == 1


# ---- PAMR ---------------------------------------------------------------------------------------


def test_pamr_keeps_the_sum_and_moves_borders_to_edges() -> None:
    image = np.zeros((12, 12, 3))
    image[:, 6:] = 1.0
    inside = np.zeros((12, 12))
    inside[:, 5:] = 1.0  # a column too wide
    refined = pamr.pamr(image, np.stack([1 - inside, inside]))
    np.testing.assert_allclose(refined.sum(axis=0), 1.0)
    np.testing.assert_array_equal(refined.argmax(axis=0), image[:, :, 0].astype(np.int64))


def test_pamr_on_a_flat_picture_is_an_average_of_neighbours() -> None:
    masks = positive(8, 2, 7, 7)
    refined = pamr.pamr(np.full((7, 7, 3), 0.5), masks, iterations=1, dilations=(1,))
    assert np.isfinite(refined).all()
    window = masks[0, 2:5, 2:5]
    assert refined[0, 3, 3] == pytest.approx((window.sum() - window[1, 1]) / 8)


def test_median_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    labels = np.random.default_rng(9).integers(0, 4, (9, 7))
    np.testing.assert_array_equal(pamr.median3(labels), ndimage.median_filter(labels, size=3))


# ---- Falcon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_falcon_never_lowers_its_objective(seed: int, restart: bool) -> None:
    W = diffcut.affinity(random(seed, 30, 6), 3.0)
    start = np.random.default_rng(seed).integers(0, 4, 30)
    labels, values = falcon.proximal_cut(W, start, 4, restart=restart)
    assert (np.diff(values) >= 0).all()
    assert values[0] == falcon.normalised_association(W, start, 4)
    assert values[-1] == falcon.normalised_association(W, labels, 4)


def test_falcon_repairs_a_few_wrong_labels() -> None:
    features, bands = blobs(10)
    start = bands.copy()
    start[:3] = 1 - start[:3]
    labels, values = falcon.proximal_cut(diffcut.affinity(features, 10.0), start, 2)
    assert same_partition(labels, bands)
    assert len(values) > 1


def test_association_and_cut_add_up_to_the_number_of_clusters() -> None:
    W = diffcut.affinity(random(11, 12, 4), 2.0)
    side = np.arange(12) % 2 == 0
    degrees = W.sum(axis=1)
    cost = diffcut.cut_cost(np.diag(degrees) - W, degrees, side)
    assert cost is not None
    value = falcon.normalised_association(W, side.astype(np.int64), 2)
    assert value == pytest.approx(2 - cost)
    assert falcon.normalised_association(W, side.astype(np.int64), 3) == pytest.approx(value)


def test_gradient_is_that_of_the_relaxed_objective() -> None:
    """M is ∇f with v_k = x_kᵀDx_k, by finite differences about a one-hot X."""
    W = diffcut.affinity(random(12, 9, 4), 2.0)
    labels = np.arange(9) % 3
    x = falcon.one_hot(labels, 3)
    d = np.diag(W.sum(axis=1))

    def f(X: Floats) -> float:
        return float(sum((c @ W @ c) / (c @ d @ c) for c in X.T))

    m = falcon.gradient(W, labels, 3)
    for i in range(9):
        for k in range(3):
            step = np.zeros_like(x)
            step[i, k] = 1e-6
            slope = (f(x + step) - f(x - step)) / 2e-6
            assert m[i, k] == pytest.approx(slope, abs=1e-7)


# ---- attention, DiffSegmenter, FA-Seg -----------------------------------------------------------


def test_rows_of_attention_sum_to_one() -> None:
    maps = head_maps(5 * random(13, 3, 7, 4), random(14, 3, 5, 4))
    assert maps.shape == (3, 7, 5)
    np.testing.assert_allclose(maps.sum(axis=2), 1.0)


def test_twice_the_map_equals_the_squared_matrix() -> None:
    a, c = resizing.resized_attention(probabilities(15, 16, 16), 8, "bicubic"), positive(16, 64)
    np.testing.assert_allclose(a @ (a @ c), (a @ a) @ c, rtol=1e-10)


def test_diffsegmenter_is_one_product() -> None:
    cross, own = pyramid(17, 3)
    m = diffsegmenter.refined(cross, own[8], (0.3, 0.6, 0.1))
    assert m.shape == (3, 64)
    assert m.min() >= 0
    assert m.max() <= 1 + 1e-12  # a mean, by rows that sum to 1, of maps within [0, 1]
    alone = diffsegmenter.refined({8: cross[8]}, [np.eye(64)[None]], (1.0,))
    mean = np.concatenate(cross[8]).mean(axis=0).T
    np.testing.assert_allclose(alone, scaling.minmax_each(mean))


def test_faseg_at_one_side_is_the_squared_matrix() -> None:
    cross, own = pyramid(18, 2)
    out = faseg.refined({8: cross[8]}, {8: own[8]}, (1.0,), (1.0,))
    a = np.concatenate(own[8]).mean(axis=0)
    c = np.concatenate(cross[8]).mean(axis=0)
    np.testing.assert_allclose(out, scaling.minmax_each((a @ (a @ c)).T), rtol=1e-9, atol=1e-12)


def test_faseg_labels_and_background() -> None:
    cross, own = pyramid(19, 2)
    out = faseg.refined(cross, own, (0.2, 0.7, 0.1), (0.1, 0.4, 0.5))
    labels = faseg.labels(out.reshape(2, 8, 8), 0.5)
    np.testing.assert_array_equal(labels.ravel() == 0, out.max(axis=0) < 0.5)
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_faseg_mirror_is_turned_back() -> None:
    maps = random(20, 2, 4, 4)
    both = faseg.with_mirror(maps, maps[:, :, ::-1], (8, 8))
    np.testing.assert_allclose(both, resizing.bicubic(maps, (8, 8)), atol=1e-12)


# ---- iSeg ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ent", [0.0, 0.002, 0.015])
def test_rows_of_the_transition_sum_to_one(ent: float) -> None:
    t = iseg.transition(random(21, 5, 25, 8), random(22, 5, 25, 8), ent=ent)
    np.testing.assert_allclose(t.sum(axis=1), 1.0)
    assert t.min() >= 0


def test_more_entropy_weight_leaves_fewer_links() -> None:
    q, k = 3 * random(23, 5, 25, 8), random(24, 5, 25, 8)
    links = [(iseg.transition(q, k, ent=ent) > 0).sum() for ent in (0.0, 0.015, 0.1)]
    assert links[0] > links[1] > links[2]


def test_maps_sum_to_one_after_each_iteration() -> None:
    t, m = iseg.transition(random(25, 5, 25, 8), random(26, 5, 25, 8)), positive(27, 25, 3)
    for iterations in range(1, 5):
        refined = iseg.refine(t, m, iterations)
        np.testing.assert_allclose(refined.sum(axis=0), 1.0)
        assert refined.min() >= 0


def test_without_entropy_one_iteration_is_the_plain_product() -> None:
    q, k, m = random(28, 5, 25, 8), random(29, 5, 25, 8), positive(30, 25, 3)
    mean = head_maps(q, k)[[1, 2]].mean(axis=0)
    t = mean / mean.max(axis=0)
    t = t / t.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(iseg.transition(q, k, ent=0.0), t, rtol=1e-12)
    product = t @ m
    product = product - product.min(axis=0)
    product = product / product.sum(axis=0)
    np.testing.assert_allclose(iseg.refine(t, m, 1), product, rtol=1e-8, atol=1e-14)


def test_prior_of_one_grid_sums_to_one_per_token() -> None:
    same = positive(31, 3, 64, 5)
    c = iseg.cross_prior(same, same, 8)
    assert c.shape == (5, 64)
    np.testing.assert_allclose(c.sum(axis=1), 1.0)
    of_two = iseg.cross_prior(same, same, 8, coarse_heads=(2, 0), fine_heads=(0, 2))
    expected = same[[0, 2]].mean(axis=0).T
    np.testing.assert_allclose(of_two, expected / expected.sum(axis=1, keepdims=True))


def test_divergence_is_a_symmetric_distance() -> None:
    a, b = positive(32, 9), positive(33, 9)
    assert iseg.divergence(a, a) == 0
    assert iseg.divergence(a, b) == pytest.approx(float(iseg.divergence(b, a)))
    assert iseg.divergence(a, b) > 0


def test_smoothing_makes_clusters_of_equal_pixels() -> None:
    _, bands = blobs(34, side=12)
    levels = np.array([[0.1, 0.9], [0.8, 0.0]])
    c = levels[:, bands] + 1e-3 * positive(35, 2, 144)
    smooth = iseg.cluster_smoothing(c, 12)
    assert smooth.shape == c.shape
    assert len(np.unique(smooth, axis=1).T) <= 36
    np.testing.assert_allclose(smooth, c, atol=1e-2)
    np.testing.assert_allclose(smooth.sum(axis=1), c.sum(axis=1))


def test_iseg_labels() -> None:
    maps = np.array([[[0.9, 0.1, 0.3]], [[0.2, 0.1, 0.5]]])
    assert iseg.labels(maps, 0).tolist() == [[1, 0, 2]]  # backgrounds 0.01, 0.81, 0.25
    assert iseg.labels(maps, 0.4).tolist() == [[1, 0, 2]]
    assert iseg.labels(maps, 0.6).tolist() == [[1, 0, 0]]


# ---- GoCA ---------------------------------------------------------------------------------------


def test_head_weights_sum_to_one() -> None:
    c, w = goca.layer_map(probabilities(36, 4, 9, 6), random(37, 4, 6, 3), random(38, 4, 3, 12))
    np.testing.assert_allclose(w.sum(axis=0), 1.0)
    np.testing.assert_allclose(c.sum(axis=1), 1.0)  # rows of P do, and so do the weights


def test_equal_heads_weigh_the_same() -> None:
    p, v, o = probabilities(39, 1, 9, 6), random(40, 1, 6, 3), random(41, 1, 3, 12)
    same = [np.repeat(array, 4, axis=0) for array in (p, v, o)]
    c, w = goca.layer_map(*same)
    np.testing.assert_allclose(w, 0.25)
    np.testing.assert_allclose(c, p[0])


def test_layers_weigh_by_agreement_with_the_reference() -> None:
    features = 4 * random(42, 16, 6)
    reference = scaling.softmax(features @ features.T / np.sqrt(6))
    uniform = np.full((16, 16), 1 / 16)
    weights = goca.layer_weights(features, [reference[None], uniform[None]])
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] > weights[1]
    finer = probabilities(43, 2, 64, 64)
    assert goca.layer_weights(features, [finer, finer]) == pytest.approx([0.5, 0.5])


def test_rows_of_the_aggregate_sum_to_one() -> None:
    maps = [random(44, 4, 6), random(45, 16, 6) + 0.5]
    c = goca.aggregate(maps, np.array([0.4, 0.6]), 8)
    rows = c.sum(axis=1)
    np.testing.assert_allclose(rows[rows > 0], 1.0)
    assert (rows > 0).any()
    assert c.min() >= 0


def test_blur_is_torchvisions() -> None:
    maps = random(46, 2, 7, 5)
    line = torch.exp(-0.5 * (torch.linspace(-2, 2, 5, dtype=torch.float64) / 1.1) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(torch.from_numpy(maps)[None], (2, 2, 2, 2), mode="reflect")
    expected = F.conv2d(padded, kernel.expand(2, 1, 5, 5), groups=2)[0].numpy()
    np.testing.assert_allclose(goca.blur5(maps), expected, atol=1e-12)
    np.testing.assert_allclose(goca.blur5(np.ones((1, 5, 5))), 1.0)


def test_goca_from_maps_to_labels() -> None:
    c = goca.aggregate([positive(47, 16, 6), positive(48, 64, 6)], np.array([0.5, 0.5]), 8)
    maps = goca.rescale(c, [[1, 2], [3], [4, 5]], [1, 2, 3, 4, 5])
    s = goca.spreading([probabilities(49, 2, 16, 16), probabilities(50, 2, 64, 64)], 8)
    spread = goca.propagate(s, maps)
    np.testing.assert_allclose(spread, scaling.minmax_each(maps @ (s @ s).T), rtol=1e-9, atol=1e-12)
    grid = spread.reshape(3, 8, 8)
    labels = goca.labels(grid[:2], grid[2], -0.2)
    np.testing.assert_array_equal(labels == 0, grid[2] - 0.2 >= grid[:2].max(axis=0))


# ---- edges --------------------------------------------------------------------------------------


def test_constant_maps_give_no_nan() -> None:
    flat = {r: [np.full((2, r * r, 2), 0.3)] for r in (2, 4, 8)}
    own = {r: [np.full((2, r * r, r * r), 1 / (r * r))] for r in (2, 4, 8)}
    constant = np.ones((64, 2))
    t = iseg.transition(np.ones((3, 64, 4)), np.ones((3, 64, 4)))
    c = np.full((2, 64), 1 / 64)
    zero_values = goca.layer_map(
        probabilities(51, 2, 64, 6), np.zeros((2, 6, 3)), np.ones((2, 3, 4))
    )
    results = [
        diffsegmenter.refined(flat, own[8], (0.3, 0.6, 0.1)),
        faseg.refined(flat, own, (0.2, 0.7, 0.1), (0.1, 0.4, 0.5)),
        t,
        iseg.refine(t, constant, 3),
        iseg.cross_prior(flat[4][0], flat[8][0], 8),
        iseg.cross_prior(np.zeros((1, 16, 2)), np.zeros((1, 64, 2)), 8),
        iseg.cluster_smoothing(c, 8),
        iseg.picture_maps(constant, (16, 16), (9, 10)),
        *zero_values,
        goca.layer_weights(np.ones((16, 4)), [own[4][0], own[8][0]]),
        goca.aggregate([np.zeros((16, 3))], np.ones(1), 8),
        goca.rescale(np.zeros((64, 3)), [[1]], [1, 2]),
        goca.propagate(np.full((64, 64), 1 / 64), np.zeros((1, 64))),
        pamr.pamr(np.zeros((8, 8, 3)), np.full((2, 8, 8), 0.5)),
        diffcut.affinity(np.ones((9, 3)), 10.0),
    ]
    for result in results:
        assert np.isfinite(result).all()


def test_no_class_is_all_background() -> None:
    none = np.zeros((0, 5, 4))
    for labels in (
        faseg.labels(none, 0.5),
        iseg.labels(none, 0),
        iseg.labels(none, 0.45),
        goca.labels(none, np.zeros((5, 4)), -0.4),
    ):
        assert labels.shape == (5, 4)
        assert not labels.any()


# ---- Seg4Diff -----------------------------------------------------------------------------------


def test_words_share_their_softmax_with_pixels() -> None:
    Q, K = random(0, 2, 9, 4), random(1, 2, 9, 4)
    P = seg4diff.image_to_text(Q, K, 6)
    assert P.shape == (6, 3)
    assert (P.sum(axis=1) < 1).all()  # the rest went to pixels
    np.testing.assert_allclose(
        P, np.mean([scaling.softmax(q @ k.T / 2)[:6, 6:] for q, k in zip(Q, K, strict=True)], 0)
    )


def test_a_pixel_takes_the_class_of_the_most_attended_tokens() -> None:
    P = np.array([[0.1, 0.5, 0.0], [0.2, 0.0, 0.1]])
    assert seg4diff.labels(P, (1, 2), [[0], [1, 2]], (1, 2)).tolist() == [[1, 0]]


def test_equal_token_maps_are_one_group_and_opposite_ones_two_segments() -> None:
    up = np.array([0.0, 1.0, 2.0, 3.0])
    P = np.stack([up, 5 * up + 1, up[::-1]], axis=1)  # min-max makes the first two equal
    assert seg4diff.segments(P, (2, 2), 0.1, (2, 2)).tolist() == [[1, 1], [0, 0]]
    assert not seg4diff.segments(P[:, :2], (2, 2), 0.1, (2, 2)).any()
    assert not seg4diff.segments(P, (2, 2), 1.0, (2, 2)).any()


def test_groups_along_a_chain_depend_on_the_order_of_tokens() -> None:
    a, b, c = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 0.0], [2.0, 2.0, 0.0]])
    tau = 0.27  # a–b is 0.21, b–c 0.10, a–c 0.32

    def found(*maps: Floats) -> list[int]:
        return seg4diff.segments(np.stack(maps, axis=1), (1, 3), tau, (1, 3))[0].tolist()

    assert found(a, b, c) == [1, 1, 0]  # {a, b} and {c, b}: c alone would lose the middle
    assert found(b, a, c) == [0, 0, 0]  # b reaches both


def test_groups_are_resized_before_the_largest_wins() -> None:
    P = np.array([[2.0, 1.0], [0.0, 0.0], [0.0, 2.0]])
    assert seg4diff.segments(P, (1, 3), 0.1, (1, 3)).tolist() == [[0, 0, 1]]
    assert seg4diff.segments(P, (1, 3), 0.1, (1, 6)).tolist() == [[0, 0, 0, 1, 1, 1]]
