"""DiffSeg's steps beside the same steps written out, one map at a time; Seg4Diff's merging beside
its naive version."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from published import seg4diff

from mdrt.kernels.diffseg import aggregate, anchors, divergence, merge, merged_tokens, propose
from mdrt.kernels.resize import resize

Maps = NDArray[np.float32]


def maps(count: int, pixels: int, seed: int = 0) -> Maps:
    """Rows that sum to 1."""
    values = np.random.default_rng(seed).gamma(0.4, 1, (count, pixels)) + 1e-6
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def bilinear(image: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Resized with half-pixel centres, one output at a time."""
    n = len(image)
    out = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            y, x = (min(max((k + 0.5) * n / side - 0.5, 0), n - 1) for k in (i, j))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, n - 1), min(x0 + 1, n - 1)
            a, b = y - y0, x - x0
            out[i, j] = (
                (1 - a) * (1 - b) * image[y0, x0] + (1 - a) * b * image[y0, x1]
                + a * (1 - b) * image[y1, x0] + a * b * image[y1, x1]
            )  # fmt: skip
    return out


def test_aggregation_is_a_weighted_mean_of_resized_maps() -> None:
    layers = [maps(16, 16, 1), maps(64, 64, 2), maps(64, 64, 3)]
    found = aggregate(layers).reshape(8, 8, 8, 8)
    for y in range(8):
        for x in range(8):
            expected = np.zeros((8, 8))
            for layer, side in zip(layers, (4, 8, 8), strict=True):
                times = 8 // side
                keys = layer[(y // times) * side + x // times].reshape(side, side)
                resized = bilinear(keys.astype(np.float64), 8)
                expected += resized / resized.sum() * side / 20
            np.testing.assert_allclose(found[y, x], expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=(2, 3)), 1, atol=1e-5)


def test_divergence_is_half_the_symmetric_one() -> None:
    p, q = maps(5, 30, 1), maps(7, 30, 2)
    found = divergence(p, q)
    for i in range(5):
        for j in range(7):
            a, b = p[i].astype(np.float64), q[j].astype(np.float64)
            expected = ((a * np.log(a / b)).sum() + (b * np.log(b / a)).sum()) / 2
            assert found[i, j] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(np.diag(divergence(p, p)), 0, atol=1e-5)


@pytest.mark.parametrize("side", [1, 4, 16, 24, 64])
def test_anchors_are_evenly_spread(side: int) -> None:
    found = anchors(side)
    assert len(found) == len(set(found)) == min(16, side) ** 2
    rows = sorted({index // side for index in found})
    assert len(set(np.diff(rows))) <= 1
    assert abs(rows[0] - (side - 1 - rows[-1])) <= 1  # in the middle
    if side == 64:  # as in the published code: 63 // 15 = 4 apart, from 1
        assert rows == list(range(1, 62, 4))


def test_proposals_and_merging_one_at_a_time() -> None:
    random = np.random.default_rng(4)
    kinds = maps(4, 64, 5)
    every = kinds[random.integers(0, 4, 64)] * random.uniform(0.8, 1.25, (64, 64))
    every = (every / every.sum(axis=1, keepdims=True)).astype(np.float32)
    near = divergence(every, every)
    picked = anchors(8)
    proposals = propose(every, picked, 0.3)
    for row, anchor in zip(proposals, picked, strict=True):
        np.testing.assert_allclose(row, every[near[anchor] < 0.3].mean(axis=0), rtol=1e-4)
    merged = merge(proposals, 0.3)
    between, left, expected = divergence(proposals, proposals), list(range(64)), []
    while left:
        group = [j for j in range(64) if between[left[0], j] < 0.3]
        expected.append(proposals[group].mean(axis=0))
        left = [j for j in left if j not in group]
    np.testing.assert_allclose(merged, expected, rtol=1e-4)
    assert len(merge(merged, 0.3)) == 4  # the kinds that were put in


@pytest.mark.parametrize("threshold", [0.5, 0.05, 0.035, 0.01])
def test_tokens_are_merged_as_published(threshold: float) -> None:
    blobs = np.random.default_rng(3).random((6, 12 * 9))
    mixed = np.random.default_rng(4).dirichlet(np.full(6, 0.3), 77)
    P = (mixed @ blobs).T / 77
    maps = merged_tokens(P.T.reshape(77, 12, 9).astype(np.float32), threshold)
    labels = resize(maps, (48, 36)).argmax(axis=0)
    expected = seg4diff.segments(P, (12, 9), threshold, (48, 36))
    assert len(np.unique(expected)) > (threshold < 0.5)
    assert (labels == expected).mean() >= 0.999
