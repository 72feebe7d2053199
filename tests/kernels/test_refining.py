"""Self-attention as an operator beside maps held in full, written down from the papers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from published import diffsegmenter, faseg, iseg, resizing, selfattention

from mdrt import kernels

Floats = NDArray[np.float32]
SIDES = (2, 4, 8, 16)


def layer(side: int, heads: int = 4, d: int = 5, seed: int = 0) -> tuple[Floats, Floats]:
    """Q/√d and K, of which some pixels attend to few and some to all."""
    random = np.random.default_rng([seed, side, heads])
    queries, keys = random.standard_normal((2, heads, side * side, d), dtype=np.float32)
    return queries * random.uniform(0.2, 2, (heads, side * side, 1)).astype("f"), keys


def held(layers: Sequence[tuple[Floats, Floats]]) -> list[NDArray[np.float64]]:
    """Their maps in full; the naive code divides by √d itself."""
    return [
        selfattention.head_maps(q.astype(float) * q.shape[2] ** 0.5, k.astype(float))
        for q, k in layers
    ]


def tokens(side: int, count: int = 6, heads: int = 3, seed: int = 0) -> Floats:
    found = np.random.default_rng([seed, side]).random((heads, count, side, side), dtype=np.float32)
    return found**3


def by_pixel(maps: Floats) -> NDArray[np.float64]:
    """(heads, pixels, tokens) of (heads, tokens, h, w), as the naive code has them."""
    return maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1).astype(float)


def test_a_map_is_the_mean_of_all_heads_and_its_rows_sum_to_one() -> None:
    layers = [layer(8), layer(8, heads=2, seed=1)]
    found = kernels.mean_map(layers)
    np.testing.assert_allclose(found, selfattention.mean_map(held(layers)), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    maps = np.random.default_rng(0).random((3, 64), dtype=np.float32)
    np.testing.assert_allclose(kernels.attend(layers, maps), maps @ found.T, rtol=1e-5)


def test_layers_of_two_resolutions_have_no_mean() -> None:
    with pytest.raises(ValueError, match="16 and 64 pixels"):
        kernels.mean_map([layer(4), layer(8)])


def test_twice_is_the_square() -> None:
    """A(A c) and (A²) c."""
    own = [layer(8)]
    operator = kernels.mean_map(own)
    maps = np.random.default_rng(3).random((2, 8, 8), dtype=np.float32)
    squared = (maps.reshape(2, -1) @ (operator @ operator).T).reshape(maps.shape)
    np.testing.assert_allclose(kernels.spread_below(own, maps, 2), squared, rtol=1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_the_operand_is_resized_instead_of_the_map(side: int) -> None:
    own, maps = [layer(side)], tokens(16)[0]
    operator = kernels.mean_map(own).astype(float)
    whole = resizing.resized_attention(operator, 16, "bicubic")
    wanted = maps.reshape(len(maps), -1).astype(float)
    for times in (1, 2):
        wanted = wanted @ whole.T
        found = kernels.spread_below(own, maps, times).reshape(len(maps), -1)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_diffsegmenter_as_written_down_naively() -> None:
    cross = {side: [tokens(side), tokens(side, heads=2, seed=1)] for side in SIDES}
    own = [layer(16, heads=2), layer(16, heads=2, seed=1)]
    flat = {side: [by_pixel(m) for m in maps] for side, maps in cross.items()}
    wanted = diffsegmenter.refined(flat, held(own))
    prior = sum(
        weight * kernels.minmax(kernels.at_side(kernels.head_mean(cross[side]), 16))
        for side, weight in zip(SIDES, diffsegmenter.WEIGHTS, strict=True)
    )
    found = kernels.attend(own, prior.reshape(6, -1))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() > 0.999


def test_faseg_as_written_down_naively() -> None:
    cross = {side: [tokens(side)] for side in SIDES}
    own = {side: [layer(side)] for side in SIDES}
    flat = {
        s: [m.reshape(3, 6, -1).transpose(0, 2, 1).astype(float) for m in maps]
        for s, maps in cross.items()
    }
    wanted = faseg.refined(flat, {side: held(layers) for side, layers in own.items()})
    prior = sum(
        weight * kernels.at_side(kernels.head_mean(cross[side]), 16, "nearest")
        for side, weight in zip(SIDES, faseg.CROSS_WEIGHTS, strict=True)
    )
    found = sum(
        weight * kernels.minmax(kernels.spread_below(own[side], prior, 2))
        for side, weight in zip(SIDES, faseg.OUT_WEIGHTS, strict=True)
    ).reshape(6, -1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() > 0.999


@pytest.mark.parametrize("entropy", [0.0, 0.015, 0.2])
def test_iseg_as_written_down_naively(entropy: float) -> None:
    queries, keys = layer(16, heads=5)
    d = queries.shape[2]
    wanted_map = iseg.transition(
        queries.astype(float) * d**0.5, keys.astype(float), (1, 2), entropy
    )
    operator = kernels.less_entropy(kernels.mean_map([(queries[1:3], keys[1:3])]), entropy)
    np.testing.assert_allclose(operator, wanted_map, atol=1e-6)
    rows = operator.sum(axis=1)
    np.testing.assert_allclose(rows[rows > 0], 1, atol=1e-5)

    coarse, fine = tokens(4), tokens(8)
    wanted = iseg.cross_prior(by_pixel(coarse), by_pixel(fine), side=16)
    prior = sum(
        weight * kernels.at_side(kernels.sum_to_one(kernels.head_mean([maps])), 16)
        for weight, maps in zip(iseg.PRIOR_WEIGHTS, (coarse, fine), strict=True)
    )
    np.testing.assert_allclose(prior.reshape(6, -1), wanted, rtol=1e-4)
    smooth = kernels.smooth_by_clusters(prior).reshape(6, -1)
    np.testing.assert_allclose(smooth, iseg.cluster_smoothing(wanted, 16), rtol=1e-3)

    found = kernels.iterate(operator, smooth, 8)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    refined = iseg.refine(wanted_map, smooth.T.astype(float), 8).T
    np.testing.assert_allclose(found, refined, rtol=1e-2, atol=1e-6)
    assert (found.argmax(axis=0) == refined.argmax(axis=0)).mean() > 0.99


def test_without_entropy_once_is_a_plain_product() -> None:
    operator = kernels.less_entropy(kernels.mean_map([layer(4)]), 0.0)
    maps = np.random.default_rng(0).random((3, 16), dtype=np.float32)
    start = maps - maps.min(axis=1, keepdims=True)
    once = start / start.sum(axis=1, keepdims=True) @ operator.T
    once -= once.min(axis=1, keepdims=True)
    once /= once.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(kernels.iterate(operator, maps, 1), once, atol=1e-6)


def test_flat_maps_are_no_nan() -> None:
    flat = np.ones((2, 4, 4), np.float32)
    assert (kernels.minmax(flat) == 0).all()
    assert np.isfinite(kernels.smooth_by_clusters(np.zeros((2, 4, 4), np.float32))).all()
    operator = kernels.less_entropy(kernels.mean_map([layer(4)]), 0.2)
    assert np.isfinite(kernels.iterate(operator, np.zeros((2, 16), np.float32), 3)).all()
