"""GoCA's weights of heads and layers beside every head's contribution held in full."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from published import goca, resizing, scaling, selfattention

from mdrt import kernels

Floats = NDArray[np.float32]
TOKENS, WIDTH = 7, 10


def cross(side: int, heads: int = 3, d: int = 4, seed: int = 0) -> tuple[Floats, ...]:
    """Q/√d (heads, pixels, d), K (heads, tokens, d), V (heads, tokens, d) and W (heads, d, D)."""
    random = np.random.default_rng([seed, side, heads])
    shapes = (side * side, d), (TOKENS, d), (TOKENS, d), (d, WIDTH)
    return tuple(random.standard_normal((heads, *shape), dtype=np.float32) for shape in shapes)


def own(side: int, heads: int = 2, seed: int = 0) -> kernels.Layer:
    random = np.random.default_rng([seed, side, heads, 1])
    queries, keys = random.standard_normal((2, heads, side * side, 5), dtype=np.float32)
    return queries, keys


def held(layer: kernels.Layer) -> NDArray[np.float64]:
    """Its maps in full; the naive code divides by √d itself."""
    queries, keys = layer
    return selfattention.head_maps(queries.astype(float) * queries.shape[2] ** 0.5, keys)


def joined(layer: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """P and V W, of one prompt."""
    queries, keys, values, projection = layer
    shared = np.zeros((1, TOKENS), bool)
    return kernels.joined(queries[None], keys[None], (values @ projection)[None], shared)


def naive(layer: tuple[Floats, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    queries, keys, values, projection = (part.astype(float) for part in layer)
    maps = scaling.softmax(queries @ keys.transpose(0, 2, 1))
    return goca.layer_map(maps, values, projection)


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_heads_weigh_by_their_share(heads: int) -> None:
    layer = cross(6, heads)
    wanted_map, wanted = naive(layer)
    probabilities, values = joined(layer)
    weights = kernels.head_weights(probabilities, values)
    np.testing.assert_allclose(weights, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    found = kernels.layer_map(probabilities, weights)
    np.testing.assert_allclose(found.T, wanted_map, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)  # whatever the heads weigh


def test_equal_heads_weigh_the_same() -> None:
    layer = tuple(np.repeat(part[:1], 4, axis=0) for part in cross(5))
    np.testing.assert_allclose(kernels.head_weights(*joined(layer)), 1 / 4, atol=1e-6)


def test_heads_that_give_nothing_weigh_the_same() -> None:
    probabilities, values = joined(cross(5))
    np.testing.assert_array_equal(
        kernels.head_weights(probabilities, values * 0), np.float32(1 / 3)
    )


def test_prompts_are_read_as_one() -> None:
    """Rows sum to 1, and a prompt asked twice weighs heads as it does alone."""
    queries, keys, values, projection = cross(5)
    shared = np.zeros((2, TOKENS), bool)
    shared[:, [0, -1]] = True
    twice = [np.stack([part] * 2) for part in (queries, keys, values @ projection)]
    probabilities, both = kernels.joined(*twice, shared)
    np.testing.assert_allclose(probabilities.sum(axis=2), 1, atol=1e-5)
    assert both.shape == (3, 2 * TOKENS, WIDTH)
    all_shared = kernels.joined(*twice, np.ones_like(shared))
    alone = kernels.head_weights(*joined((queries, keys, values, projection)))
    np.testing.assert_allclose(kernels.head_weights(*all_shared), alone, rtol=1e-3, atol=1e-4)


SIDES = (4, 8, 16)


def test_layers_weigh_by_their_agreement() -> None:
    """Coarser, equal and finer than the reference."""
    queries = cross(8)[0]
    d = queries.shape[2]
    features = queries.transpose(1, 0, 2).reshape(64, -1).astype(float) * d**0.5
    layers = [own(side) for side in SIDES]
    wanted = goca.layer_weights(features, [held(layer) for layer in layers])
    found = kernels.layer_weights(queries, layers)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_a_layer_without_self_attention_weighs_as_the_mean() -> None:
    queries = cross(8)[0]
    found = kernels.layer_weights(queries, [own(4), None, own(16)])
    assert found[1] == pytest.approx((found[0] + found[2]) / 2, rel=1e-5)
    np.testing.assert_allclose(kernels.layer_weights(queries, [None, None]), 0.5)


def test_goca_as_written_down_naively() -> None:
    """All of it, from three resolutions to labels."""
    side, groups = 16, [[1], [2, 3], [4]]
    layers, selves = [cross(s) for s in SIDES], [own(s) for s in SIDES]
    features = layers[1][0].transpose(1, 0, 2).reshape(64, -1).astype(float) * 2
    weights = goca.layer_weights(features, [held(layer) for layer in selves])
    whole = goca.aggregate([naive(layer)[0] for layer in layers], weights, side)
    maps = goca.rescale(whole, groups, [1, 2, 3, 4])
    wanted = goca.propagate(goca.spreading([held(selves[-1])], side), maps)

    weighed = kernels.layer_weights(layers[1][0], selves)
    content = [1, 2, 3, 4]
    tokens = sum(
        weight * kernels.at_side(of_class_tokens(layer, content), side)
        for layer, weight in zip(layers, weighed, strict=True)
    )
    membership = np.array([[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]], np.float32)
    before = kernels.minmax(kernels.rescaled(tokens, membership))
    np.testing.assert_allclose(before.reshape(3, -1), maps, atol=1e-3)
    found = kernels.minmax(kernels.spread([selves[-1]], before, 2)).reshape(3, -1)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() > 0.999
    picture = goca.labels(wanted.reshape(3, side, side), np.zeros((side, side)), 0.3)
    best = found.argmax(axis=0) + 1
    ours = np.where(found.max(axis=0) < 0.3, 0, best).reshape(side, side)  # the head's `threshold`
    assert (ours == picture).mean() > 0.999


def of_class_tokens(layer: tuple[Floats, ...], content: list[int]) -> Floats:
    probabilities, values = joined(layer)
    weights = kernels.head_weights(probabilities, values)
    maps = kernels.layer_map(probabilities[:, :, content], weights)
    side = int(maps.shape[1] ** 0.5)
    return maps.reshape(-1, side, side)


def test_a_blur_is_that_of_the_naive_code() -> None:
    """One token of two over their sum is a map as it is."""
    share = np.random.default_rng(0).random((9, 9), dtype=np.float32)
    found = kernels.rescaled(np.stack([share, 1 - share]), np.eye(2, dtype=np.float32))
    wanted = goca.blur5(np.stack([share, 1 - share]).astype(float))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert resizing.square_side(found[0].size) == 9


def test_flat_and_empty_maps_are_no_nan() -> None:
    eye = np.eye(2, dtype=np.float32)
    for value in (0, -1, 1):
        maps = kernels.rescaled(np.full((2, 5, 5), value, np.float32), eye)
        assert np.isfinite(kernels.minmax(maps)).all()
        assert np.isfinite(kernels.minmax(kernels.spread([own(5)], maps, 2))).all()
